//! How durable a transaction is, by what it writes: rules that name tables and kinds of statements, and the `synchronous_commit` that
//! they get.
//!
//! PostgreSQL goes by the value that holds when the transaction commits. In a block it is said by SET LOCAL, in front of the statement and in
//! the same write, where ROLLBACK and savepoints take it back with the statement. Outside of one it is a setting of the server
//! connection for as long as the statement lasts, of which the connection's memory knows, so that whoever has it next gets his own.
//! A client that sets `synchronous_commit` itself knows better.

use std::sync::Arc;

use classifier::{Access, Class, Verb};
use wire::frontend;

use crate::owed::Owed;
use crate::request::Request;
use crate::session::Session;
use crate::settings::Map;
use crate::terms::Transaction;

/// A rule: statements that write to one of these tables, in one of these ways, get this. Nothing named is anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DurabilityRule {
    /// Tables, `name` in whatever schema, or `schema.name` where that is written.
    pub tables: Box<[String]>,
    /// Kinds of statements.
    pub verbs: Box<[Verb]>,
    /// What they get.
    pub level: Level,
}

/// The values of `synchronous_commit`, the strictest last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// `off`
    Off,
    /// `local`
    Local,
    /// `remote_write`
    RemoteWrite,
    /// Whatever the server has: what is written by no rule.
    Default,
    /// `on`
    On,
    /// `remote_apply`
    RemoteApply,
}

impl Level {
    fn as_str(self) -> &'static str {
        match self {
            Level::Off => "off",
            Level::Local => "local",
            Level::RemoteWrite => "remote_write",
            Level::Default => "DEFAULT",
            Level::On => "on",
            Level::RemoteApply => "remote_apply",
        }
    }
}

impl DurabilityRule {
    fn covers(&self, verb: Verb, table: &str) -> bool {
        let name = table.rsplit('.').next().unwrap_or_default();
        let known = |known: &String| known == table || known == name;
        (self.verbs.is_empty() || self.verbs.contains(&verb))
            && (self.tables.is_empty() || self.tables.iter().any(known))
    }
}

impl Session {
    /// Adds a statement to the request that is gathered.
    pub(crate) fn add(&mut self, class: &Class) {
        self.request.add(class);
        if !self.policy.durability.is_empty() {
            self.request.level = self.request.level.max(level(&self.policy.durability, class));
        }
    }

    /// A Query of this class by itself, without its frame.
    pub(crate) fn request_of(&self, class: &Class) -> Request {
        let mut request = Request::of(class);
        if !self.policy.durability.is_empty() {
            request.level = level(&self.policy.durability, class);
        }
        request
    }

    /// What the server connection is to have for a request outside of a block.
    fn level_outside(&self, request: &Request) -> Option<Level> {
        let level = request.level.filter(|level| *level != Level::Default && request.executes)?;
        (!self.settings.commits_by_itself()).then_some(level)
    }

    /// Whether a request can be sent behind others, as far as this is concerned.
    pub(crate) fn suits_level(&self, request: &Request) -> bool {
        match self.transaction {
            _ if self.policy.durability.is_empty() || request.level.is_none() => true,
            Transaction::None => self.level_outside(request) == self.lease.level,
            _ => self.settings.level() >= request.level,
        }
    }

    /// What the server has of the session's settings, with what is not the session's own doing.
    pub(crate) fn settings_there(&self) -> Map {
        let mut map = self.settings.current().clone();
        if let Some(level) = self.lease.level {
            self.overlay(&mut map, level);
        }
        map
    }

    fn overlay(&self, map: &mut Map, level: Level) {
        let statement = format!("SET {SYNCHRONOUS_COMMIT} TO {}", level.as_str());
        Arc::make_mut(map).insert(SYNCHRONOUS_COMMIT.to_owned(), statement);
    }

    /// Takes note of what the first of the requests is to have; `true` when the server connection has something else.
    pub(crate) fn prepare_level(&mut self) -> bool {
        if self.policy.durability.is_empty() && self.lease.level.is_none() {
            return false;
        }
        let outside = match (self.transaction, self.flight.front()) {
            (Transaction::None, Some(sent)) => self.level_outside(&sent.request),
            _ => return false,
        };
        // It may begin a block, in which what comes later may be stricter.
        self.settings.set_level(outside);
        std::mem::replace(&mut self.lease.level, outside) != outside
    }

    /// Says in a block what the first of the requests is to have. `begins`: it has begun just now.
    pub(crate) fn encode_level(&mut self, begins: bool, out: &mut Vec<u8>) {
        let Some(request) = self.flight.front().map(|sent| &sent.request) else { return };
        if self.policy.durability.is_empty() {
            return;
        }
        let known = if begins { None } else { self.settings.level() };
        let wanted = known.max(request.level.filter(|_| request.executes));
        let says = wanted != known && !(known.is_none() && wanted == Some(Level::Default));
        self.settings.set_level(wanted);
        if let Some(level) = wanted
            && says
            && !self.settings.commits_by_itself()
        {
            frontend::put_query(out, &format!("SET LOCAL {SYNCHRONOUS_COMMIT} TO {}", level.as_str()));
            self.lease.unnamed = false;
            self.owed.push_back(Owed::Hidden);
        }
    }
}

/// What a string is to have, by the first rule for each thing that it writes; the strictest counts.
fn level(rules: &[DurabilityRule], class: &Class) -> Option<Level> {
    if class.access == Access::Read || crate::request::writes_nothing(class) {
        return None;
    }
    let by_rule = |verb, table: &str| rules.iter().find(|rule| rule.covers(verb, table)).map(|rule| rule.level);
    let levels = class.targets.iter().map(|target| by_rule(target.verb, &target.table).unwrap_or(Level::Default));
    let anything = || rules.iter().find(|rule| rule.verbs.is_empty() && rule.tables.is_empty()).map(|rule| rule.level);
    levels.max().or_else(|| Some(anything().unwrap_or(Level::Default)))
}

pub(crate) const SYNCHRONOUS_COMMIT: &str = "synchronous_commit";
