//! Tracked settings: what a session has SET, with PostgreSQL's transactional rules.
//!
//! Owns the names and the statements that set them again. SET LOCAL is not kept: it ends with the transaction, which never
//! leaves its server.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

/// Setting → the statement that sets it, e.g. `search_path` → `SET search_path TO a, b`. Shared, since a server connection
/// remembers the map of the session that used it last, and equality is most often sameness.
pub(crate) type Map = Arc<BTreeMap<String, String>>;

/// The settings of one session.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// What the startup packet asked for: what RESET goes back to.
    startup: Map,
    /// What holds if the current transaction is rolled back.
    committed: Map,
    /// What holds now.
    current: Map,
    /// What holds again after ROLLBACK TO, innermost last.
    savepoints: Vec<(String, Map)>,
}

impl Settings {
    /// The settings that a startup packet asks for: names and values, the values as plain text.
    #[must_use]
    pub fn new<'a>(startup: impl IntoIterator<Item = (&'a str, &'a str)>) -> Settings {
        let statement = |(name, value): (&str, &str)| {
            let name = name.to_ascii_lowercase();
            // In SET, one literal would be one element of the list.
            let statement = if IDENTIFIER_LISTS.contains(&name.as_str()) {
                format!("SELECT pg_catalog.set_config('{name}', {}, false)", quoted_literal(value))
            } else {
                format!("SET {} TO {}", quoted_name(&name), quoted_literal(value))
            };
            (name, statement)
        };
        let startup: Map = Arc::new(startup.into_iter().map(statement).collect());
        Settings { startup: startup.clone(), committed: startup.clone(), current: startup, savepoints: Vec::new() }
    }

    /// What holds now.
    pub(crate) fn current(&self) -> &Map {
        &self.current
    }

    /// What may change the meaning of a statement's text when it is prepared.
    pub(crate) fn meaningful(&self) -> impl Iterator<Item = &str> {
        let meaningful = self.current.iter().filter(|(name, _)| !MEANINGLESS.contains(&name.as_str()));
        meaningful.map(|(_, statement)| statement.as_str())
    }

    pub(crate) fn set(&mut self, name: &str, statement: &str) {
        self.forget_role(name);
        if self.current.get(name).is_none_or(|known| known != statement) {
            Arc::make_mut(&mut self.current).insert(name.to_owned(), statement.to_owned());
        }
    }

    /// RESET: back to the startup packet's value. Says whether there is one, in which case the server, which knows nothing of
    /// startup packets, now has another value than the session should see.
    pub(crate) fn reset(&mut self, name: &str) -> bool {
        self.forget_role(name);
        match self.startup.get(name) {
            Some(statement) => {
                Arc::make_mut(&mut self.current).insert(name.to_owned(), statement.clone());
                true
            }
            None => {
                if self.current.contains_key(name) {
                    Arc::make_mut(&mut self.current).remove(name);
                }
                false
            }
        }
    }

    /// RESET ALL: everything but who the session is (`GUC_NO_RESET_ALL`). Says whether there are values of the startup packet's,
    /// as [`Settings::reset`] does.
    pub(crate) fn reset_all(&mut self) -> bool {
        let mut current = self.startup.clone();
        for name in IDENTITY {
            if let Some(statement) = self.current.get(name) {
                Arc::make_mut(&mut current).insert(name.to_owned(), statement.clone());
            }
        }
        self.current = current;
        !self.startup.is_empty()
    }

    /// DISCARD ALL: everything. Says the same.
    pub(crate) fn discard_all(&mut self) -> bool {
        self.current = self.startup.clone();
        !self.startup.is_empty()
    }

    /// A change of the session's user takes its role back (`SetSessionAuthorization`).
    fn forget_role(&mut self, name: &str) {
        if name == SESSION_AUTHORIZATION && self.current.contains_key(ROLE) {
            Arc::make_mut(&mut self.current).remove(ROLE);
        }
    }

    pub(crate) fn savepoint(&mut self, name: &str) {
        self.savepoints.push((name.to_owned(), self.current.clone()));
    }

    /// RELEASE: forgets the savepoint of that name and all after it; what was set since stays.
    pub(crate) fn release(&mut self, name: &str) {
        if let Some(at) = self.savepoints.iter().rposition(|(known, _)| known == name) {
            self.savepoints.truncate(at);
        }
    }

    /// ROLLBACK TO: what was set since is undone; the savepoint itself stays.
    pub(crate) fn rollback_to(&mut self, name: &str) {
        if let Some(at) = self.savepoints.iter().rposition(|(known, _)| known == name) {
            self.savepoints.truncate(at + 1);
            self.current = self.savepoints[at].1.clone();
        }
    }

    pub(crate) fn commit(&mut self) {
        self.savepoints.clear();
        if !Arc::ptr_eq(&self.committed, &self.current) {
            self.committed = self.current.clone();
        }
    }

    pub(crate) fn rollback(&mut self) {
        self.savepoints.clear();
        if !Arc::ptr_eq(&self.committed, &self.current) {
            self.current = self.committed.clone();
        }
    }
}

/// The statements that turn `from` into `to`, in one query string; `None` when nothing differs. `from` of `None` means that
/// nobody knows what the server has.
pub(crate) fn difference(from: Option<&Map>, to: &Map) -> Option<String> {
    if from.is_some_and(|from| Arc::ptr_eq(from, to) || from == to) {
        return None;
    }
    let is_identity = |name: &str| IDENTITY.contains(&name);
    let known = |name: &str| from.and_then(|from| from.get(name));
    let mut sql = String::new();
    // Who is somebody else may not be allowed to change the other settings: so identity goes first and comes last.
    if from.is_none_or(|from| IDENTITY.iter().any(|name| from.contains_key(*name))) {
        sql += "RESET ROLE;RESET SESSION AUTHORIZATION;";
    }
    match from {
        None => sql += "RESET ALL;",
        Some(from) => {
            for name in from.keys().filter(|name| !to.contains_key(*name) && !is_identity(name)) {
                let _ = write!(sql, "RESET {};", quoted_name(name));
            }
        }
    }
    for (_, statement) in to.iter().filter(|(name, statement)| !is_identity(name) && known(name) != Some(statement)) {
        let _ = write!(sql, "{statement};");
    }
    // A change of the session's user would take the role back.
    for statement in IDENTITY.iter().filter_map(|name| to.get(*name)) {
        let _ = write!(sql, "{statement};");
    }
    Some(sql)
}

/// A setting's name as it stands in SET: an extension's name has a dot between two identifiers, and `TIME ZONE` is its own syntax
/// that the classifier has already turned into `timezone`.
fn quoted_name(name: &str) -> String {
    let parts: Vec<String> = name.split('.').map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    parts.join(".")
}

/// A literal that means the same whatever `standard_conforming_strings` is.
fn quoted_literal(value: &str) -> String {
    if value.contains('\\') {
        format!(" E'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
    } else {
        format!("'{}'", value.replace('\'', "''"))
    }
}

const SESSION_AUTHORIZATION: &str = "session_authorization";
const ROLE: &str = "role";

/// The settings that say who the session is, in the order in which they are set.
const IDENTITY: [&str; 2] = [SESSION_AUTHORIZATION, ROLE];

/// Settings whose value is a list of identifiers, each quoted apart in SET (`GUC_LIST_QUOTE`), as far as a session can set them.
const IDENTIFIER_LISTS: [&str; 4] =
    ["local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"];

/// Settings that do not matter when a statement is prepared, of those that differ between sessions. Any other may.
const MEANINGLESS: [&str; 10] = [
    "application_name",
    "client_min_messages",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "lock_timeout",
    "statement_timeout",
    "synchronous_commit",
    "work_mem",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn check(settings: &Settings, expected: &[&str]) {
        assert_eq!(settings.current.values().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_rollback_undoes() {
        let mut settings = Settings::default();
        settings.set("a", "SET a TO 1");
        settings.commit();
        settings.set("a", "SET a TO 2");
        settings.savepoint("s");
        settings.set("a", "SET a TO 3");
        settings.rollback_to("s");
        check(&settings, &["SET a TO 2"]);
        settings.rollback_to("s");
        check(&settings, &["SET a TO 2"]);
        settings.rollback();
        check(&settings, &["SET a TO 1"]);
    }

    #[test]
    fn a_release_keeps() {
        let mut settings = Settings::default();
        settings.savepoint("s");
        settings.set("a", "SET a TO 1");
        settings.savepoint("t");
        settings.release("s");
        settings.rollback_to("t");
        settings.commit();
        check(&settings, &["SET a TO 1"]);
    }

    #[test]
    fn reset_goes_back_to_the_startup_packet() {
        let mut settings = Settings::new([("TimeZone", "UTC")]);
        check(&settings, &["SET \"timezone\" TO 'UTC'"]);
        settings.set("timezone", "SET timezone TO 'Asia/Tehran'");
        settings.set("a", "SET a TO 1");
        assert!(settings.reset("timezone"));
        assert!(!settings.reset("a"));
        check(&settings, &["SET \"timezone\" TO 'UTC'"]);
    }

    #[test]
    fn differences() {
        let map = |pairs: &[(&str, &str)]| -> Map {
            Arc::new(pairs.iter().map(|(name, sql)| ((*name).to_owned(), (*sql).to_owned())).collect())
        };
        let (empty, a1, a2b) =
            (map(&[]), map(&[("a", "SET a TO 1")]), map(&[("a", "SET a TO 2"), ("x.b", "SET x.b TO 1")]));
        let check = |from: Option<&Map>, to: &Map, expected: Option<&str>| {
            assert_eq!(difference(from, to).as_deref(), expected)
        };
        check(Some(&empty), &map(&[]), None);
        check(Some(&empty), &a1, Some("SET a TO 1;"));
        check(Some(&a1), &a2b, Some("SET a TO 2;SET x.b TO 1;"));
        check(Some(&a2b), &a1, Some("RESET \"x\".\"b\";SET a TO 1;"));
        check(None, &a1, Some("RESET ROLE;RESET SESSION AUTHORIZATION;RESET ALL;SET a TO 1;"));
    }

    #[test]
    fn quoting() {
        for (value, expected) in [("a'b", "'a''b'"), ("", "''"), (r"a\'", r" E'a\\'''"), ("\"C d\"", "'\"C d\"'")] {
            assert_eq!(quoted_literal(value), expected);
        }
    }
}
