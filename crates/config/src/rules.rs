//! `[[rules]]`: what holds for some users, databases, applications, tables or kinds of statements.
//!
//! Owns the sections and which of them fit a session. What comes of them is the session's.

use std::time::Duration;

use crate::reader::Section;
use crate::sections::{Affinity, Consistency, DURATION_MAX, Route, TIMEOUT_MIN};
use crate::value::{Keyword, Names};

/// One rule. An empty list is any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Databases, as clients name them.
    pub databases: Vec<String>,
    /// Users, as clients name them.
    pub users: Vec<String>,
    /// What applications call themselves when they log in; a `*` at the end stands for anything.
    pub application_names: Vec<String>,
    /// Tables that are written to.
    pub tables: Vec<String>,
    /// Kinds of statements, in lower case.
    pub statements: Vec<String>,
    /// The `synchronous_commit` of what is written.
    pub synchronous_commit: Option<SynchronousCommit>,
    /// Whether the session keeps its server connection.
    pub pin: Option<bool>,
    /// Where its statements go.
    pub route: Option<Route>,
    /// How fresh a replica has to be for it.
    pub consistency: Option<Consistency>,
    /// The most that a replica may lag.
    pub max_lag: Option<Duration>,
    /// What keeps its statements on one node.
    pub affinity: Option<Affinity>,
    /// Whether what became of a commit is found out when its answer is lost.
    pub commit_resolution: Option<bool>,
    /// Whether its transactions are run again when they lose their server before their COMMIT.
    pub transaction_replay: Option<bool>,
}

/// The values of PostgreSQL's `synchronous_commit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SynchronousCommit {
    /// Nothing is waited for.
    Off,
    /// The primary has flushed it.
    Local,
    /// The synchronous standbys have got it.
    RemoteWrite,
    /// They have flushed it.
    On,
    /// They show it.
    RemoteApply,
}

impl Rule {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Rule {
        let mut names = |key| {
            let Names(names) = section.value(key, Names(Vec::new()));
            names
        };
        let (databases, users, application_names) = (names("databases"), names("users"), names("application_names"));
        let (tables, statements) = (names("tables"), names("statements"));
        for unknown in statements.iter().filter(|kind| !STATEMENTS.contains(&kind.as_str())) {
            let place = section.place_of("statements");
            let text = format!("\"statements\" has {unknown:?}, which is none of {}", STATEMENTS.join(", "));
            section.problem(place, text);
        }
        let rule = Rule {
            databases,
            users,
            application_names,
            tables,
            statements,
            synchronous_commit: section.optional("synchronous_commit"),
            pin: section.optional("pin"),
            route: section.optional("route"),
            consistency: section.optional("consistency"),
            max_lag: section.optional_within("max_lag", TIMEOUT_MIN..=DURATION_MAX),
            affinity: section.optional("affinity"),
            commit_resolution: section.optional("commit_resolution"),
            transaction_replay: section.optional("transaction_replay"),
        };
        let of_statements = !rule.tables.is_empty() || !rule.statements.is_empty();
        let place = section.place();
        if of_statements && rule.is_of_sessions() {
            let text = "\"tables\" and \"statements\" are for \"synchronous_commit\" alone: what else a rule says holds for a session";
            section.problem(place, text);
        } else if rule.synchronous_commit.is_none() && !rule.is_of_sessions() {
            section.problem(place, "a rule must say something: \"synchronous_commit\", \"pin\", \"route\", \"consistency\", \"max_lag\", \"affinity\", \"commit_resolution\" or \"transaction_replay\"");
        }
        rule
    }

    /// Whether it concerns sessions of this database and user.
    #[must_use]
    pub fn fits(&self, database: &str, user: &str) -> bool {
        let among = |names: &[String], name: &str| names.is_empty() || names.iter().any(|known| known == name);
        among(&self.databases, database) && among(&self.users, user)
    }

    /// Whether it concerns sessions of this application.
    #[must_use]
    pub fn fits_application(&self, application_name: &str) -> bool {
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => application_name.starts_with(start),
            None => pattern == application_name,
        };
        self.application_names.is_empty() || self.application_names.iter().any(matches)
    }

    fn is_of_sessions(&self) -> bool {
        self.pin.is_some()
            || self.route.is_some()
            || self.consistency.is_some()
            || self.max_lag.is_some()
            || self.affinity.is_some()
            || self.commit_resolution.is_some()
            || self.transaction_replay.is_some()
    }
}

impl Keyword for SynchronousCommit {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("off", Self::Off),
        ("local", Self::Local),
        ("remote_write", Self::RemoteWrite),
        ("on", Self::On),
        ("remote_apply", Self::RemoteApply),
    ];
}

/// The kinds of statements that a rule can name.
const STATEMENTS: [&str; 8] = ["insert", "update", "delete", "merge", "copy", "truncate", "call", "do"];
