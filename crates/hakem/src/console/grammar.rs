//! The console's language: PgBouncer's, and what drivers say to every server that they connect to.
//!
//! Pure: text in, [`Command`] out. "`CMD [arg] [;]`, one to a query; a word is `[0-9a-z_]+` or in double quotes; `SET key =|to value`",
//! all of it without regard to case.

/// What a query asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Command {
    /// Nothing: an empty query, or a comment.
    Empty,
    /// `SHOW topic`, or `SELECT topic`, which is the same.
    Show(Topic),
    /// `SHOW ROUTE FOR 'statement' [IN database]`.
    ShowRoute(String, Option<String>),
    /// A setting of PostgreSQL's that drivers ask for: its name, and what they are told.
    ShowSetting(&'static str, &'static str),
    /// A setting of PostgreSQL's that drivers set: nothing happens.
    SetSetting,
    /// `SET key = value` of the proxy's own.
    Set(String, String),
    /// Something that changes what the proxy does, with its argument, which may be empty.
    Act(Act, String),
    /// BEGIN and START TRANSACTION.
    Begin(&'static str),
    /// COMMIT, END, ROLLBACK and ABORT.
    End(&'static str),
    /// DISCARD, RESET, DEALLOCATE, CLOSE, UNLISTEN: there is nothing of the kind.
    Tidy(&'static str),
    /// `SELECT 1`, as a sign of life.
    One,
}

/// What can be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Topic {
    Catalog,
    Clients,
    Config,
    Databases,
    DnsHosts,
    DnsZones,
    Help,
    Lists,
    Mem,
    Peers,
    PeerPools,
    Pins,
    PinTotals,
    Pools,
    Routes,
    Servers,
    State,
    Stats,
    StatsAverages,
    StatsTotals,
    Topology,
    Totals,
    Users,
    Version,
}

/// What can be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Act {
    Disable,
    Enable,
    Kill,
    KillClient,
    Pause,
    Reconnect,
    Reload,
    Resume,
    Shutdown,
    Suspend,
    Switchover,
    WaitClose,
}

/// Why a text is not a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mistake {
    /// It is not of the language, or names nothing.
    Unknown,
    /// A word is too long.
    TooLong,
}

impl Command {
    /// Reads a query.
    pub(crate) fn read(text: &str) -> Result<Command, Mistake> {
        let text = without_comments(text);
        let text = text.trim_matches(is_blank);
        let text = text.strip_suffix(';').unwrap_or(text).trim_end_matches(is_blank);
        if text.is_empty() {
            return Ok(Command::Empty);
        }
        if let Some(command) = courtesy(text) {
            return Ok(command);
        }
        if let Some(route) = route_for(text) {
            return route;
        }
        let (first, rest) = word(text).ok_or(Mistake::Unknown)?;
        let verb = first.to_ascii_lowercase();
        if verb == "set" {
            return set(rest);
        }
        let rest = if verb == "switchover" { after_to(rest)? } else { rest };
        let argument = match rest {
            "" => String::new(),
            rest => {
                let blank = rest.trim_start_matches(is_blank);
                match word(blank) {
                    Some((argument, "")) if blank.len() < rest.len() => argument,
                    _ => return Err(Mistake::Unknown),
                }
            }
        };
        if verb.len() > VERB_BYTES_MAX || argument.len() > ARGUMENT_BYTES_MAX {
            return Err(Mistake::TooLong);
        }
        if verb == "show" || verb == "select" {
            return show(&argument.to_ascii_lowercase());
        }
        let (_, act) = ACTS.iter().find(|(name, _)| *name == verb).ok_or(Mistake::Unknown)?;
        match act {
            Act::Reload | Act::Suspend if !argument.is_empty() => Err(Mistake::Unknown),
            Act::Shutdown if !["", WAIT_FOR_CLIENTS, WAIT_FOR_SERVERS].contains(&&*argument.to_ascii_uppercase()) => {
                Err(Mistake::Unknown)
            }
            _ => Ok(Command::Act(*act, argument)),
        }
    }

    /// Whether somebody who may only look may say this.
    pub(crate) fn is_harmless(&self) -> bool {
        !matches!(self, Command::Set(..) | Command::Act(..))
    }
}

impl Act {
    /// The word, which is also what its completion is called.
    pub(crate) fn name(self) -> &'static str {
        let found = ACTS.iter().find(|(_, act)| *act == self);
        found.expect("every act has its word").0
    }
}

/// What stands behind TO.
fn after_to(rest: &str) -> Result<&str, Mistake> {
    let blank = rest.trim_start_matches(is_blank);
    match word(blank) {
        Some((to, rest)) if to.eq_ignore_ascii_case("to") && !rest.is_empty() => Ok(rest),
        _ => Err(Mistake::Unknown),
    }
}

fn show(topic: &str) -> Result<Command, Mistake> {
    if let Some((name, value)) = SETTINGS.iter().find(|(name, _)| name.eq_ignore_ascii_case(topic)) {
        return Ok(Command::ShowSetting(name, value));
    }
    let found = TOPICS.iter().find(|(name, _)| *name == topic);
    found.map(|(_, topic)| Command::Show(*topic)).ok_or(Mistake::Unknown)
}

/// `SHOW ROUTE FOR`; `None` for anything else.
fn route_for(text: &str) -> Option<Result<Command, Mistake>> {
    let mut rest = text;
    for expected in ["show", "route", "for"] {
        let (found, after) = word(rest)?;
        if !found.eq_ignore_ascii_case(expected) || rest.starts_with('"') {
            return None;
        }
        rest = after.trim_start_matches(is_blank);
    }
    let Some((sql, after)) = quoted(rest, '\'') else { return Some(Err(Mistake::Unknown)) };
    let database = match after.trim_matches(is_blank) {
        "" => None,
        within => {
            let named = word(within).filter(|(word, _)| word.eq_ignore_ascii_case("in"));
            let named = named.and_then(|(_, name)| word(name.trim_start_matches(is_blank)));
            match named {
                Some((name, "")) => Some(name),
                _ => return Some(Err(Mistake::Unknown)),
            }
        }
    };
    Some(Ok(Command::ShowRoute(sql, database)))
}

fn set(rest: &str) -> Result<Command, Mistake> {
    let blank = rest.trim_start_matches(is_blank);
    let (key, rest) = word(blank).filter(|_| blank.len() < rest.len()).ok_or(Mistake::Unknown)?;
    let rest = rest.trim_start_matches(is_blank);
    let value = match rest.strip_prefix('=') {
        Some(value) => value,
        None => {
            let to = rest.get(..2).filter(|to| to.eq_ignore_ascii_case("to"));
            to.map(|_| &rest[2..]).ok_or(Mistake::Unknown)?
        }
    };
    let value = value.trim_start_matches(is_blank);
    // Drivers write numbers with a sign and settings with several words: what is ignored need not be understood.
    if SETTINGS.iter().any(|(name, _)| name.eq_ignore_ascii_case(&key)) {
        return if value.is_empty() { Err(Mistake::Unknown) } else { Ok(Command::SetSetting) };
    }
    let (value, rest) = quoted(value, '\'').or_else(|| word(value)).ok_or(Mistake::Unknown)?;
    if !rest.is_empty() {
        return Err(Mistake::Unknown);
    }
    if key.is_empty() || key.len() > ARGUMENT_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
        return Err(Mistake::TooLong);
    }
    Ok(Command::Set(key, value))
}

/// What drivers and pools say to a server out of habit.
fn courtesy(text: &str) -> Option<Command> {
    let words: Vec<String> =
        text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["select", "1"] => Some(Command::One),
        ["begin", ..] => Some(Command::Begin("BEGIN")),
        ["start", "transaction", ..] => Some(Command::Begin("START TRANSACTION")),
        ["commit" | "end", ..] => Some(Command::End("COMMIT")),
        ["rollback" | "abort", ..] => Some(Command::End("ROLLBACK")),
        ["discard", "all"] => Some(Command::Tidy("DISCARD ALL")),
        ["reset", _] => Some(Command::Tidy("RESET")),
        ["deallocate", "all"] => Some(Command::Tidy("DEALLOCATE ALL")),
        ["close", "all"] => Some(Command::Tidy("CLOSE CURSOR ALL")),
        ["unlisten", "*"] => Some(Command::Tidy("UNLISTEN")),
        ["set", "session", "characteristics", "as", "transaction", _, ..] | ["set", "transaction", _, ..] => {
            Some(Command::SetSetting)
        }
        ["set", "time", "zone", _, ..] | ["set", "names", _] => Some(Command::SetSetting),
        _ => None,
    }
}

/// A word at the beginning of a text, and what follows.
fn word(text: &str) -> Option<(String, &str)> {
    if text.starts_with('"') {
        return quoted(text, '"').filter(|(word, _)| !word.is_empty());
    }
    let end = text.find(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).unwrap_or(text.len());
    (end > 0).then(|| (text[..end].to_owned(), &text[end..]))
}

/// A quoted text, in which a quote is written twice.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut rest = text.strip_prefix(quote)?;
    let mut word = String::new();
    loop {
        let end = rest.find(quote)?;
        word.push_str(&rest[..end]);
        rest = &rest[end + quote.len_utf8()..];
        match rest.strip_prefix(quote) {
            Some(more) => {
                word.push(quote);
                rest = more;
            }
            None => return Some((word, rest)),
        }
    }
}

/// Takes comments away where a query begins with them: drivers leave signs of life and traces there.
fn without_comments(mut text: &str) -> &str {
    loop {
        text = text.trim_start_matches(is_blank);
        let end = if text.starts_with("--") {
            text.find('\n').map_or(text.len(), |end| end + 1)
        } else if text.starts_with("/*") {
            text.find("*/").map_or(text.len(), |end| end + 2)
        } else {
            return text;
        };
        text = &text[end..];
    }
}

fn is_blank(letter: char) -> bool {
    matches!(letter, ' ' | '\t' | '\n' | '\r')
}

/// SHOW's topics.
pub(crate) const TOPICS: [(&str, Topic); 24] = [
    ("catalog", Topic::Catalog),
    ("clients", Topic::Clients),
    ("config", Topic::Config),
    ("databases", Topic::Databases),
    ("dns_hosts", Topic::DnsHosts),
    ("dns_zones", Topic::DnsZones),
    ("help", Topic::Help),
    ("lists", Topic::Lists),
    ("mem", Topic::Mem),
    ("peers", Topic::Peers),
    ("peer_pools", Topic::PeerPools),
    ("pins", Topic::Pins),
    ("pin_totals", Topic::PinTotals),
    ("pools", Topic::Pools),
    ("routes", Topic::Routes),
    ("servers", Topic::Servers),
    ("state", Topic::State),
    ("stats", Topic::Stats),
    ("stats_averages", Topic::StatsAverages),
    ("stats_totals", Topic::StatsTotals),
    ("topology", Topic::Topology),
    ("totals", Topic::Totals),
    ("users", Topic::Users),
    ("version", Topic::Version),
];

/// The commands that do something.
pub(crate) const ACTS: [(&str, Act); 12] = [
    ("disable", Act::Disable),
    ("enable", Act::Enable),
    ("kill", Act::Kill),
    ("kill_client", Act::KillClient),
    ("pause", Act::Pause),
    ("reconnect", Act::Reconnect),
    ("reload", Act::Reload),
    ("resume", Act::Resume),
    ("shutdown", Act::Shutdown),
    ("suspend", Act::Suspend),
    ("switchover", Act::Switchover),
    ("wait_close", Act::WaitClose),
];

/// Settings of PostgreSQL's that "silly clients start actively messing with", and what they are told. The first six are PgBouncer's.
const SETTINGS: [(&str, &str); 24] = [
    ("client_encoding", "UTF-8"),
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
    ("datestyle", "ISO"),
    ("timezone", "GMT"),
    ("extra_float_digits", "2"),
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_min_messages", "notice"),
    ("default_transaction_read_only", "off"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("jit", "off"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("search_path", ""),
    ("server_encoding", "UTF8"),
    ("statement_timeout", "0"),
    ("synchronous_commit", "on"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "off"),
];

/// SHUTDOWN's two ways of waiting.
pub(crate) const WAIT_FOR_CLIENTS: &str = "WAIT_FOR_CLIENTS";
pub(crate) const WAIT_FOR_SERVERS: &str = "WAIT_FOR_SERVERS";

/// PgBouncer's buffers, less the closing zero byte.
const VERB_BYTES_MAX: usize = 15;
const ARGUMENT_BYTES_MAX: usize = 63;
const VALUE_BYTES_MAX: usize = 255;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let check = |text: &str, expected| assert_eq!(Command::read(text), Ok(expected), "{text:?}");
        check("switchover to node1", Command::Act(Act::Switchover, "node1".to_owned()));
        check("SWITCHOVER TO \"10.0.0.2:5432\";", Command::Act(Act::Switchover, "10.0.0.2:5432".to_owned()));
        for text in ["switchover", "switchover to", "switchover node1", "switchover to a b"] {
            assert_eq!(Command::read(text), Err(Mistake::Unknown), "{text}");
        }
        for text in ["show pools", "SHOW POOLS;", " Select\tPOOLS ; ", "show \"pools\"", "/* trace */ show pools"] {
            check(text, Command::Show(Topic::Pools));
        }
        for text in ["", " ", ";", "-- ping", "/**/;"] {
            check(text, Command::Empty);
        }
        check("pause", Command::Act(Act::Pause, String::new()));
        check("PAUSE App;", Command::Act(Act::Pause, "App".to_owned()));
        check("kill \"a \"\"b\"\"\"", Command::Act(Act::Kill, "a \"b\"".to_owned()));
        check("kill_client 17", Command::Act(Act::KillClient, "17".to_owned()));
        check("shutdown wait_for_clients", Command::Act(Act::Shutdown, "wait_for_clients".to_owned()));
        check("SET max_client_conn = 5;", Command::Set("max_client_conn".to_owned(), "5".to_owned()));
        check("set max_client_conn to '5'", Command::Set("max_client_conn".to_owned(), "5".to_owned()));
        check("set \"pool.size\"='it''s'", Command::Set("pool.size".to_owned(), "it's".to_owned()));
        check("SET extra_float_digits = 3", Command::SetSetting);
        check("set DateStyle TO 'ISO, MDY'", Command::SetSetting);
        check("show TimeZone", Command::ShowSetting("timezone", "GMT"));
        check("begin isolation level serializable", Command::Begin("BEGIN"));
        let route = |sql: &str, database: Option<&str>| Command::ShowRoute(sql.to_owned(), database.map(str::to_owned));
        check("show route for 'select ''a'';'", route("select 'a';", None));
        check("SHOW ROUTE  FOR 'select 1' IN App;", route("select 1", Some("App")));
        check("show route for '' in \"my db\"", route("", Some("my db")));
        check("SELECT 1", Command::One);
    }

    #[test]
    fn mistakes() {
        let check = |text: &str, expected| assert_eq!(Command::read(text), Err(expected), "{text:?}");
        for text in [
            "show",
            "show nothing",
            "show pools clients",
            "show pools; show stats",
            "drop table t",
            "reload now",
            "suspend now",
            "shutdown now",
            "set",
            "set a",
            "set a = ",
            "set a = b c",
            "pause a-b",
            "show route",
            "show route for",
            "show route for select 1",
            "show route for 'select 1' app",
            "show route for 'select 1' in",
            "show route for 'select 1' in a b",
            "kill \"\"",
            "kill \"open",
            "select 2",
            "é",
        ] {
            check(text, Mistake::Unknown);
        }
        check(&format!("pause {}", "a".repeat(64)), Mistake::TooLong);
        check(&format!("{} a", "a".repeat(16)), Mistake::TooLong);
        check(&format!("set a = '{}'", "a".repeat(256)), Mistake::TooLong);
    }

    #[test]
    fn only_looking_is_harmless() {
        for (name, _) in ACTS {
            let text = if name == "switchover" { "switchover to a" } else { name };
            assert!(!Command::read(text).unwrap().is_harmless(), "{name}");
        }
        for (name, _) in TOPICS {
            assert!(Command::read(&format!("show {name}")).unwrap().is_harmless(), "{name}");
        }
        assert!(!Command::read("set a = b").unwrap().is_harmless());
        // One command to a query: nothing that acts hides behind what does not.
        for text in
            ["show state; shutdown", "show state shutdown", "select 1; kill", "begin; shutdown", "discard all; pause"]
        {
            let read = Command::read(text);
            assert!(read.as_ref().map_or(true, Command::is_harmless), "{text}: {read:?}");
        }
    }
}
