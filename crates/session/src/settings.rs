//! Tracked settings: what a session has SET, with PostgreSQL's transactional rules.
//!
//! Owns the names and the statements that set them again. SET LOCAL is not kept: it ends with the transaction, which never
//! leaves its server.

use std::collections::BTreeSet;
use std::sync::Arc;

use classifier::Scope;
use litemap::LiteMap;

use crate::durability::{Level, SYNCHRONOUS_COMMIT};
use crate::names::Names;
use crate::policy::Own;

/// Setting → the statement that sets it, e.g. `search_path` → `SET search_path TO a, b`. Shared, since a server connection
/// remembers the map of the session that used it last, and equality is most often sameness. Flat, since a session sets few: a tree
/// has room for eleven from the first on.
pub(crate) type Map = Arc<LiteMap<String, String>>;

/// What a session has set, and the channels that it listens on: all that a transaction can take back.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What the startup packet asked for: what RESET goes back to.
    startup: Map,
    /// The same of the proxy's own settings.
    initial: Arc<Own>,
    /// What holds if the current transaction is rolled back.
    committed: State,
    /// What holds now.
    current: State,
    /// What holds again after ROLLBACK TO, innermost last.
    savepoints: Vec<(String, State)>,
}

/// What holds at one moment.
#[derive(Clone, Debug)]
struct State {
    map: Map,
    /// What is listened on through the proxy's own connection.
    channels: Names,
    own: Arc<Own>,
    /// What SET LOCAL has made of that.
    local: Option<Arc<Own>>,
    /// Settings whose values have to be asked for.
    unread: Names,
    /// The `synchronous_commit` that rules have given to the transaction.
    level: Option<Level>,
    /// The client has set that itself, for the transaction.
    commits_by_itself: bool,
}

/// More than a session's settings can follow it: it has to stay where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMuch;

impl Settings {
    /// The settings that a startup packet asks for: names and values, the values as plain text.
    #[must_use]
    pub fn new<'a>(startup: impl IntoIterator<Item = (&'a str, &'a str)>) -> Settings {
        let statement = |(name, value): (&str, &str)| {
            let name = name.to_ascii_lowercase();
            let statement = assignment(&name, value);
            (name, statement)
        };
        let startup = startup.into_iter();
        // With room for these alone: most sessions never set more.
        let mut map = LiteMap::with_capacity(startup.size_hint().0);
        map.extend(startup.map(statement));
        let startup = Arc::new(map);
        let initial = Arc::default();
        let state = State::new(&startup, &initial);
        Settings { startup, initial, committed: state.clone(), current: state, savepoints: Vec::new() }
    }

    /// The same, of a session that begins with these settings of the proxy's own.
    pub(crate) fn beginning_with(mut self, own: &Arc<Own>) -> Settings {
        for known in [&mut self.initial, &mut self.committed.own, &mut self.current.own] {
            *known = own.clone();
        }
        self
    }

    /// The proxy's own settings, as they hold now.
    pub(crate) fn own(&self) -> &Own {
        self.current.local.as_ref().unwrap_or(&self.current.own)
    }

    /// The `synchronous_commit` that rules have given to the transaction.
    pub(crate) fn level(&self) -> Option<Level> {
        self.current.level
    }

    pub(crate) fn set_level(&mut self, level: Option<Level>) {
        self.current.level = level;
    }

    /// Whether the client says itself how its transactions are committed.
    pub(crate) fn commits_by_itself(&self) -> bool {
        self.current.commits_by_itself || self.current.map.contains_key(SYNCHRONOUS_COMMIT)
    }

    /// It has said so for this transaction.
    pub(crate) fn commit_by_itself(&mut self) {
        self.current.commits_by_itself = true;
    }

    /// What RESET makes of them.
    pub(crate) fn initial(&self) -> Own {
        *self.initial
    }

    /// SET and SET LOCAL of the proxy's own.
    pub(crate) fn set_own(&mut self, scope: Scope, change: impl Fn(&mut Own)) {
        let State { own, local, .. } = &mut self.current;
        match scope {
            Scope::Session => {
                change(Arc::make_mut(own));
                local.iter_mut().for_each(|local| change(Arc::make_mut(local)));
            }
            Scope::Local => change(Arc::make_mut(local.get_or_insert_with(|| own.clone()))),
        }
    }

    /// Changes what they are from the beginning, and what they are now.
    pub(crate) fn begin_with(&mut self, change: impl Fn(&mut Own)) {
        let before = self.initial.clone();
        change(Arc::make_mut(&mut self.initial));
        let savepoints = self.savepoints.iter_mut().map(|(_, state)| state);
        for State { own, local, .. } in savepoints.chain([&mut self.committed, &mut self.current]) {
            for known in [own].into_iter().chain(local) {
                // What is the same remains one.
                match Arc::ptr_eq(known, &before) {
                    true => *known = self.initial.clone(),
                    false => change(Arc::make_mut(known)),
                }
            }
        }
    }

    /// What holds now.
    pub(crate) fn current(&self) -> &Map {
        &self.current.map
    }

    /// The value of a setting, as far as the session has set it to something that stands in the statement.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        let (_, value) = self.current.map.get(name)?.rsplit_once(" TO ")?;
        Some(value.trim().trim_matches('\'').to_owned())
    }

    /// What holds now, without these.
    pub(crate) fn without(&self, names: &[&str]) -> Map {
        let mut map = self.current.map.clone();
        if names.iter().any(|name| map.contains_key(*name)) {
            let map = Arc::make_mut(&mut map);
            names.iter().for_each(|name| drop(map.remove(*name)));
        }
        map
    }

    /// The statements that give these settings what holds now.
    pub(crate) fn statements(&self, names: &BTreeSet<String>) -> String {
        let statements = names.iter().filter_map(|name| self.current.map.get(name));
        statements.flat_map(|statement| [statement.as_str(), ";"]).collect()
    }

    /// The names of the startup packet's settings.
    pub(crate) fn startup(&self) -> impl Iterator<Item = String> {
        self.startup.keys().cloned()
    }

    /// The channels listened on, as far as that is committed.
    pub(crate) fn channels(&self) -> &Names {
        &self.committed.channels
    }

    /// What may change the meaning of a statement's text when it is prepared.
    pub(crate) fn meaningful(&self) -> impl Iterator<Item = &str> {
        let meaningful = self.current.map.iter().filter(|(name, _)| !MEANINGLESS.contains(&name.as_str()));
        meaningful.map(|(_, statement)| statement.as_str())
    }

    /// SET. [`TooMuch`] when there is no room for it, or when a statement does not say by itself what it sets.
    pub(crate) fn set(&mut self, name: &str, statement: &str) -> Result<(), TooMuch> {
        self.forget_role(name);
        let known = self.current.map.get(name);
        if known.is_some_and(|known| known == statement) {
            return Ok(());
        }
        // What a backslash meant when the statement was written nobody knows any more.
        if statement.contains('\\') && self.current.map.contains_key(STANDARD_STRINGS) {
            return Err(TooMuch);
        }
        let statement = match known {
            Some(known) if name == DATE_STYLE => chained(known, statement)?,
            _ => statement.to_owned(),
        };
        let bytes: usize = self.current.map.iter().map(|(name, statement)| name.len() + statement.len()).sum();
        let full = known.is_none() && self.current.map.len() >= SETTINGS_MAX;
        if full || bytes + statement.len() > SETTINGS_BYTES_MAX {
            return Err(TooMuch);
        }
        Arc::make_mut(&mut self.current.map).insert(name.to_owned(), statement);
        Ok(())
    }

    /// RESET: back to the startup packet's value. Says whether there is one, in which case the server, which knows nothing of
    /// startup packets, now has another value than the session should see.
    pub(crate) fn reset(&mut self, name: &str) -> bool {
        self.forget_role(name);
        match self.startup.get(name) {
            Some(statement) => {
                Arc::make_mut(&mut self.current.map).insert(name.to_owned(), statement.clone());
                true
            }
            None => {
                if self.current.map.contains_key(name) {
                    let map = Arc::make_mut(&mut self.current.map);
                    match emptied(name) {
                        Some(statement) => drop(map.insert(name.to_owned(), statement)),
                        None => drop(map.remove(name)),
                    }
                }
                false
            }
        }
    }

    /// RESET ALL: everything but who the session is (`GUC_NO_RESET_ALL`).
    pub(crate) fn reset_all(&mut self) {
        let mut current = self.remains();
        for name in IDENTITY {
            if let Some(statement) = self.current.map.get(name) {
                Arc::make_mut(&mut current).insert(name.to_owned(), statement.clone());
            }
        }
        self.current.map = current;
        (self.current.own, self.current.local) = (self.initial.clone(), None);
    }

    /// DISCARD ALL: everything.
    pub(crate) fn discard_all(&mut self) {
        self.current = State::new(&self.remains(), &self.initial);
    }

    /// What is left when everything is reset: the startup packet's values, and the names of customized settings.
    fn remains(&self) -> Map {
        let mut remains = self.startup.clone();
        for name in self.current.map.keys().filter(|name| !self.startup.contains_key(*name)) {
            if let Some(statement) = emptied(name) {
                Arc::make_mut(&mut remains).insert(name.clone(), statement);
            }
        }
        remains
    }

    /// A setting has got a value that nobody has seen.
    pub(crate) fn set_unseen(&mut self, name: &str) {
        self.current.unread.add(name);
    }

    /// Whether there are such settings.
    pub(crate) fn has_unread(&self) -> bool {
        !self.current.unread.is_empty()
    }

    /// Takes these settings, of which somebody asks, or which are lost.
    pub(crate) fn take_unread(&mut self) -> Names {
        std::mem::take(&mut self.current.unread)
    }

    pub(crate) fn listen(&mut self, channel: &str) {
        self.current.channels.add(channel);
    }

    /// UNLISTEN; `None` for all channels.
    pub(crate) fn unlisten(&mut self, channel: Option<&str>) {
        match channel {
            None => self.current.channels = Names::default(),
            Some(channel) => self.current.channels.remove(channel),
        }
    }

    /// A change of the session's user takes its role back (`SetSessionAuthorization`).
    fn forget_role(&mut self, name: &str) {
        if name == SESSION_AUTHORIZATION && self.current.map.contains_key(ROLE) {
            Arc::make_mut(&mut self.current.map).remove(ROLE);
        }
    }

    /// SAVEPOINT. [`TooMuch`] when there are too many to know what each has to bring back.
    pub(crate) fn savepoint(&mut self, name: &str) -> Result<(), TooMuch> {
        if self.savepoints.len() >= SAVEPOINTS_MAX {
            return Err(TooMuch);
        }
        self.savepoints.push((name.to_owned(), self.current.clone()));
        Ok(())
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
        self.current.local = None;
        (self.current.level, self.current.commits_by_itself) = (None, false);
        if !self.committed.is(&self.current) {
            self.committed = self.current.clone();
        }
    }

    pub(crate) fn rollback(&mut self) {
        self.savepoints.clear();
        if !self.committed.is(&self.current) {
            self.current = self.committed.clone();
        }
    }
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::new([])
    }
}

impl State {
    /// What a session begins with.
    fn new(startup: &Map, initial: &Arc<Own>) -> State {
        State {
            map: startup.clone(),
            channels: Names::default(),
            own: initial.clone(),
            local: None,
            unread: Names::default(),
            level: None,
            commits_by_itself: false,
        }
    }

    fn is(&self, other: &State) -> bool {
        Arc::ptr_eq(&self.map, &other.map)
            && self.channels.is(&other.channels)
            && (&self.own, &self.local, self.level, self.commits_by_itself)
                == (&other.own, &other.local, other.level, other.commits_by_itself)
            && self.unread.is(&other.unread)
    }
}

/// Whether settings say who the session is.
pub(crate) fn says_who(map: &Map) -> bool {
    IDENTITY.iter().any(|name| map.contains_key(*name))
}

/// What a session was before somebody sets or resets this. Whether it may set it, the user that has logged in decides.
pub(crate) fn ended_by(name: &str) -> &'static [&'static str] {
    match name {
        SESSION_AUTHORIZATION => &IDENTITY,
        ROLE => &[ROLE],
        _ => &[],
    }
}

/// DateStyle has two halves, and a SET may name but one: what it means follows from those before it. Of the same statement only
/// the last counts, since each sets its halves to constants.
fn chained(known: &str, statement: &str) -> Result<String, TooMuch> {
    let mut chain: Vec<&str> = known.split(CHAIN).filter(|before| *before != statement).collect();
    chain.push(statement);
    if chain.len() > CHAIN_MAX || statement.contains(CHAIN) { Err(TooMuch) } else { Ok(chain.join(CHAIN)) }
}

/// What is left of a customized setting that is reset: its name, which SHOW knows from then on, with nothing behind it. A server that
/// has never seen it gets to know it by the same statement.
fn emptied(name: &str) -> Option<String> {
    name.contains('.').then(|| format!("RESET {}", quoted_name(name)))
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
    // A short time limit of the last session's is not for this one, nor its own for the statements that set it up; each statement of
    // a string has the limit that holds when it begins.
    if from.is_none_or(|from| from.contains_key(STATEMENT_TIMEOUT)) {
        sql += "SET statement_timeout TO 0;";
    }
    // Who is somebody else may not be allowed to change the other settings: so identity goes first and comes last.
    if from.is_none_or(|from| IDENTITY.iter().any(|name| from.contains_key(*name))) {
        sql += "RESET ROLE;RESET SESSION AUTHORIZATION;";
    }
    match from {
        None => sql += "RESET ALL;",
        Some(from) => {
            for name in from.keys().filter(|name| !to.contains_key(*name) && !is_identity(name)) {
                sql.extend(["RESET ", &quoted_name(name), ";"]);
            }
        }
    }
    for (name, statement) in to.iter().filter(|(name, _)| !is_identity(name) && *name != STATEMENT_TIMEOUT) {
        if known(name) == Some(statement) {
            continue;
        }
        if name == DATE_STYLE && known(name).is_some() {
            sql += "RESET \"datestyle\";";
        }
        sql.extend([statement, ";"]);
    }
    // A change of the session's user would take the role back.
    for statement in IDENTITY.iter().filter_map(|name| to.get(*name)) {
        sql.extend([statement, ";"]);
    }
    if let Some(statement) = to.get(STATEMENT_TIMEOUT) {
        sql.extend([statement, ";"]);
    }
    Some(sql)
}

/// The statement that gives a setting this value, as SHOW shows it.
pub(crate) fn assignment(name: &str, value: &str) -> String {
    if IDENTIFIER_LISTS.contains(&name) {
        // In SET, one literal is one element of the list, and a list of none cannot be said. A SELECT takes a snapshot, behind which
        // some statements cannot come, so it is for the rest.
        if let Some(elements) = identifiers(value).filter(|elements| listed(elements) == value) {
            let elements: Vec<String> = elements.iter().map(|element| quoted_literal(element)).collect();
            return ["SET ", &quoted_name(name), " TO ", &elements.join(",")].concat();
        }
        format!("SELECT pg_catalog.set_config('{name}', {}, false)", quoted_literal(value))
    } else {
        ["SET ", &quoted_name(name), " TO ", &quoted_literal(value)].concat()
    }
}

/// How SHOW shows a list that was SET element by element (`flatten_set_variable_args`), but that it quotes keywords, too.
fn listed(elements: &[String]) -> String {
    let is_bare = |element: &String| {
        let rest = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        element.starts_with(|first: char| first.is_ascii_lowercase() || first == '_') && element.chars().all(rest)
    };
    let shown = |element: &String| match is_bare(element) {
        true => element.clone(),
        false => format!("\"{}\"", element.replace('"', "\"\"")),
    };
    elements.iter().map(shown).collect::<Vec<_>>().join(", ")
}

/// The elements of a list, as `SplitIdentifierString` reads it; `None` for an empty list and for what is no list.
fn identifiers(value: &str) -> Option<Vec<String>> {
    let (mut elements, mut rest) = (Vec::new(), value.trim());
    loop {
        let after = match rest.strip_prefix('"') {
            Some(mut inner) => {
                let mut element = String::new();
                loop {
                    let (part, after) = inner.split_once('"')?;
                    element += part;
                    match after.strip_prefix('"') {
                        Some(next) => inner = next,
                        None => {
                            elements.push(element);
                            break after;
                        }
                    }
                    element.push('"');
                }
            }
            None => {
                let end = rest.find(|letter: char| letter == ',' || letter.is_ascii_whitespace()).unwrap_or(rest.len());
                elements.push(rest[..end].to_ascii_lowercase());
                &rest[end..]
            }
        };
        if elements.last().is_none_or(String::is_empty) {
            return None;
        }
        match after.trim_start().split_at_checked(1) {
            None => return Some(elements),
            Some((",", next)) => rest = next.trim_start(),
            Some(_) => return None,
        }
    }
}

/// A setting's name as it stands in SET: an extension's name has a dot between two identifiers, and `TIME ZONE` is its own syntax
/// that the classifier has already turned into `timezone`.
fn quoted_name(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('"');
    for letter in name.chars() {
        match letter {
            '"' => quoted += "\"\"",
            '.' => quoted += "\".\"",
            _ => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}

/// A literal that means the same whatever `standard_conforming_strings` is.
#[must_use]
pub fn quoted_literal(value: &str) -> String {
    let mut quoted = String::with_capacity(value.len() + 2);
    quoted += if value.contains('\\') { " E'" } else { "'" };
    for letter in value.chars() {
        if matches!(letter, '\'' | '\\') {
            quoted.push(letter);
        }
        quoted.push(letter);
    }
    quoted.push('\'');
    quoted
}

const DATE_STYLE: &str = "datestyle";
const STANDARD_STRINGS: &str = "standard_conforming_strings";
const STATEMENT_TIMEOUT: &str = "statement_timeout";

/// Between the statements that together set one setting.
const CHAIN: &str = ";";

/// Statements that together may set one setting.
const CHAIN_MAX: usize = 16;

/// Settings that follow a session, and the bytes that they may take.
const SETTINGS_MAX: usize = 1000;
const SETTINGS_BYTES_MAX: usize = 256 * 1024;

/// Savepoints of one transaction.
const SAVEPOINTS_MAX: usize = 10_000;

pub(crate) const SESSION_AUTHORIZATION: &str = "session_authorization";
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
        assert_eq!(settings.current().values().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_rollback_undoes() {
        let mut settings = Settings::default();
        settings.set("a", "SET a TO 1").expect("there is room");
        settings.commit();
        settings.set("a", "SET a TO 2").expect("there is room");
        settings.savepoint("s").expect("there is room");
        settings.set("a", "SET a TO 3").expect("there is room");
        settings.rollback_to("s");
        check(&settings, &["SET a TO 2"]);
        settings.rollback_to("s");
        check(&settings, &["SET a TO 2"]);
        settings.rollback();
        check(&settings, &["SET a TO 1"]);
    }

    #[test]
    fn channels_are_transactional() {
        let mut settings = Settings::default();
        settings.listen("a");
        assert!(settings.channels().is_empty(), "not committed");
        settings.commit();
        settings.savepoint("s").expect("there is room");
        settings.listen("b");
        settings.unlisten(Some("a"));
        settings.rollback_to("s");
        settings.commit();
        assert_eq!(settings.channels().iter().collect::<Vec<_>>(), ["a"]);
        settings.unlisten(None);
        settings.rollback();
        assert_eq!(settings.channels().iter().collect::<Vec<_>>(), ["a"]);
        settings.discard_all();
        settings.commit();
        assert!(settings.channels().is_empty());
    }

    #[test]
    fn a_release_keeps() {
        let mut settings = Settings::default();
        settings.savepoint("s").expect("there is room");
        settings.set("a", "SET a TO 1").expect("there is room");
        settings.savepoint("t").expect("there is room");
        settings.release("s");
        settings.rollback_to("t");
        settings.commit();
        check(&settings, &["SET a TO 1"]);
    }

    #[test]
    fn reset_goes_back_to_the_startup_packet() {
        let mut settings = Settings::new([("TimeZone", "UTC")]);
        check(&settings, &["SET \"timezone\" TO 'UTC'"]);
        settings.set("timezone", "SET timezone TO 'Asia/Tehran'").expect("there is room");
        settings.set("a", "SET a TO 1").expect("there is room");
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
        check(
            None,
            &a1,
            Some("SET statement_timeout TO 0;RESET ROLE;RESET SESSION AUTHORIZATION;RESET ALL;SET a TO 1;"),
        );
    }

    #[test]
    fn a_customized_setting_that_is_reset_is_known_all_the_same() {
        let each = |settings: &mut Settings| {
            settings.reset("x.b");
            settings.reset("work_mem");
        };
        for reset in [each, Settings::reset_all, Settings::discard_all] {
            let mut settings = Settings::default();
            settings.set("x.b", "SET x.b TO 1").expect("there is room");
            settings.set("work_mem", "SET work_mem TO 1").expect("there is room");
            let before = settings.current().clone();
            reset(&mut settings);
            let expected = |text: &str| Some(text.to_owned());
            assert_eq!(difference(Some(&Map::default()), settings.current()), expected("RESET \"x\".\"b\";"));
            assert_eq!(
                difference(Some(&before), settings.current()),
                expected("RESET \"work_mem\";RESET \"x\".\"b\";")
            );
        }
    }

    #[test]
    fn half_a_date_style_keeps_the_other_half() {
        let mut settings = Settings::default();
        for value in ["'SQL, DMY'", "ISO", "'SQL, DMY'", "ISO", "MDY"] {
            settings.set("datestyle", &format!("SET datestyle TO {value}")).expect("there is room");
        }
        check(&settings, &["SET datestyle TO 'SQL, DMY';SET datestyle TO ISO;SET datestyle TO MDY"]);
        let (from, to) = (Settings::new([("datestyle", "ISO")]), Settings::new([("DateStyle", "German")]));
        let expected = "RESET \"datestyle\";SET \"datestyle\" TO 'German';";
        assert_eq!(difference(Some(from.current()), to.current()).as_deref(), Some(expected));
    }

    #[test]
    fn a_short_time_limit_holds_for_nobody_else() {
        let (slow, fast) =
            (Settings::new([("work_mem", "1")]), Settings::new([("statement_timeout", "1"), ("xmloption", "content")]));
        let check = |from: &Settings, to: &Settings, expected: &str| {
            assert_eq!(difference(Some(from.current()), to.current()).as_deref(), Some(expected))
        };
        check(
            &fast,
            &slow,
            "SET statement_timeout TO 0;RESET \"statement_timeout\";RESET \"xmloption\";SET \"work_mem\" TO '1';",
        );
        check(&slow, &fast, "RESET \"work_mem\";SET \"xmloption\" TO 'content';SET \"statement_timeout\" TO '1';");
    }

    #[test]
    fn bounds() {
        let mut settings = Settings::default();
        for number in 0..SETTINGS_MAX {
            settings.set(&format!("my.n{number}"), "SET x TO 1").expect("there is room");
        }
        assert_eq!(settings.set("my.own", "SET my.own TO 1"), Err(TooMuch));
        assert_eq!(settings.set("my.n0", "SET my.n0 TO 2"), Ok(()), "a known one may change");
        assert_eq!(settings.set("my.n1", &"x".repeat(SETTINGS_BYTES_MAX)), Err(TooMuch));
        let mut settings = Settings::default();
        for number in 0..CHAIN_MAX {
            settings.set("datestyle", &format!("SET datestyle TO {number}")).expect("there is room");
        }
        assert_eq!(settings.set("datestyle", "SET datestyle TO iso"), Err(TooMuch));
        for _ in 0..SAVEPOINTS_MAX {
            settings.savepoint("s").expect("there is room");
        }
        assert_eq!(settings.savepoint("s"), Err(TooMuch));
    }

    #[test]
    fn lists() {
        for (value, expected) in [
            ("a, \"C d\"", "SET \"search_path\" TO 'a','C d'"),
            ("\"$user\", public", "SET \"search_path\" TO '$user','public'"),
            ("\"a\"\"b\"", "SET \"search_path\" TO 'a\"b'"),
            ("", "SELECT pg_catalog.set_config('search_path', '', false)"),
            ("a,", "SELECT pg_catalog.set_config('search_path', 'a,', false)"),
            ("\"\"", "SELECT pg_catalog.set_config('search_path', '\"\"', false)"),
            // SHOW tells how it was written.
            ("Public", "SELECT pg_catalog.set_config('search_path', 'Public', false)"),
            ("\\", "SELECT pg_catalog.set_config('search_path',  E'\\\\', false)"),
            ("a b", "SELECT pg_catalog.set_config('search_path', 'a b', false)"),
        ] {
            assert_eq!(assignment("search_path", value), expected);
        }
    }

    #[test]
    fn quoting() {
        for (value, expected) in [("a'b", "'a''b'"), ("", "''"), (r"a\'", r" E'a\\'''"), ("\"C d\"", "'\"C d\"'")] {
            assert_eq!(quoted_literal(value), expected);
        }
    }
}
