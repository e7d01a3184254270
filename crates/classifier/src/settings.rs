//! SET, RESET, SHOW and `set_config`: statement to the setting it changes, and to a statement that changes it again.
//!
//! Owns what the session must know to let settings follow a client. A form of SET that no rule knows pins the session, since the effect
//! counts only if the server accepts the statement: a mistake in the SQL costs nothing.

use crate::catalog::is_session_setting;
use crate::class::{Effect, Isolation, PinReason, Scope, TransactionAccess, TransactionMode, Why};
use crate::lexer::Kind;
use crate::tokens::Tokens;
use crate::verdict::Verdict;

/// SET ...
pub(crate) fn set(statement: Tokens<'_>) -> Verdict {
    let (scope, at) = match () {
        () if statement.is_word(1, "LOCAL") => (Scope::Local, 2),
        // In SET SESSION AUTHORIZATION it is no scope; SET SESSION SESSION AUTHORIZATION has both.
        () if statement.is_word(1, "SESSION") && !statement.is_word(2, "AUTHORIZATION") => (Scope::Session, 2),
        () => (Scope::Session, 1),
    };
    let effect = if statement.is_word(at, "TRANSACTION") {
        return match transaction_mode(statement.from(at + 1)) {
            Some(mode) => Verdict::control(Effect::SetTransaction(mode)),
            // SET TRANSACTION SNAPSHOT: only this transaction knows of it.
            None => Verdict::write(Why::TransactionControl),
        };
    } else if statement.is_word(at, "CONSTRAINTS") {
        return Verdict::write(Why::TransactionControl);
    } else if statement.is_word(at, "CHARACTERISTICS") {
        characteristics(statement.from(at + 1))
    } else {
        assignment(statement.from(at), scope)
    };
    Verdict::session(effect.unwrap_or(Effect::Pin(PinReason::Other)))
}

/// RESET name | ALL | TIME ZONE | SESSION AUTHORIZATION | TRANSACTION ISOLATION LEVEL
pub(crate) fn reset(statement: Tokens<'_>) -> Verdict {
    let effect = match setting_name(statement.from(1)) {
        Some((name, length)) if length + 1 == statement.len() => match name.strip_prefix(OURS) {
            Some(ours) => Effect::Hakem { name: ours.to_owned(), value: None, scope: Scope::Session },
            None if name == "all" => Effect::ResetAll,
            None if is_transaction_setting(&name) => return Verdict::write(Why::TransactionControl),
            None => Effect::Reset { name },
        },
        _ => Effect::Pin(PinReason::Other),
    };
    Verdict::session(effect)
}

/// SHOW name | ALL | TIME ZONE | TRANSACTION ISOLATION LEVEL | SESSION AUTHORIZATION
pub(crate) fn show(statement: Tokens<'_>) -> Verdict {
    match setting_name(statement.from(1)) {
        Some((name, length)) if length + 1 == statement.len() => match name.strip_prefix(OURS) {
            Some(ours) => Verdict::session(Effect::HakemShow { name: ours.to_owned() }),
            None if is_session_setting(&name) => Verdict::read(Why::Show),
            None => Verdict::write(Why::NodeDependent),
        },
        _ => Verdict::write(Why::ParseFailure),
    }
}

/// The modes of BEGIN, START TRANSACTION and SET TRANSACTION, separated by commas or nothing; `None` if this is something else.
pub(crate) fn transaction_mode(modes: Tokens<'_>) -> Option<TransactionMode> {
    let mut mode = TransactionMode::default();
    let mut at = 0;
    while at < modes.len() {
        if modes.is_mark(at, ",") && at > 0 && at + 1 < modes.len() {
            at += 1;
        }
        at += if modes.is_word(at, "READ") && modes.is_word(at + 1, "ONLY") {
            mode.access = Some(TransactionAccess::ReadOnly);
            2
        } else if modes.is_word(at, "READ") && modes.is_word(at + 1, "WRITE") {
            mode.access = Some(TransactionAccess::ReadWrite);
            2
        } else if modes.is_word(at, "DEFERRABLE") {
            mode.deferrable = Some(true);
            1
        } else if modes.is_word(at, "NOT") && modes.is_word(at + 1, "DEFERRABLE") {
            mode.deferrable = Some(false);
            2
        } else if modes.is_word(at, "ISOLATION") && modes.is_word(at + 1, "LEVEL") {
            let words = if modes.is_word(at + 2, "SERIALIZABLE") { 1 } else { 2 };
            mode.isolation = Some(isolation(&modes.slice(at + 2, at + 2 + words).join())?);
            2 + words
        } else {
            return None;
        };
    }
    Some(mode)
}

/// `SELECT set_config('name', 'value', false)`, alone or beside `current_setting` and constants as asyncpg and pg_dump write it: the
/// SET that does the same. `None` for any other statement.
pub(crate) fn lone_set_config(statement: Tokens<'_>) -> Option<Effect> {
    let mut effect = None;
    let mut at = 1;
    loop {
        let qualified = statement.is_word(at, "pg_catalog") && statement.is_mark(at + 1, ".");
        let name = if qualified { at + 2 } else { at };
        if statement.is_word(name, "set_config") && effect.is_none() {
            effect = Some(constant_set_config(statement, name)?);
            at = name + 8;
        } else if statement.is_word(name, "current_setting") {
            let close = statement.closing(name + 1)?;
            if !(name + 2..close).all(|at| statement.kind(at) == Some(Kind::Text) || statement.is_mark(at, ",")) {
                return None;
            }
            at = close + 1;
        } else if matches!(statement.kind(at), Some(Kind::Text | Kind::Number)) {
            at += 1;
        } else {
            return None;
        }
        if statement.is_word(at, "AS") && statement.is_identifier(at + 1) {
            at += 2;
        } else if statement.is_identifier(at) && !statement.is_any_word(at, CLAUSES) {
            at += 1;
        }
        if at == statement.len() {
            return effect;
        }
        if !statement.is_mark(at, ",") {
            return None;
        }
        at += 1;
    }
}

const OURS: &str = "hakem.";

/// What may follow a select item and is no alias.
const CLAUSES: &[&str] = &[
    "EXCEPT",
    "FETCH",
    "FOR",
    "FROM",
    "GROUP",
    "HAVING",
    "INTERSECT",
    "INTO",
    "LIMIT",
    "OFFSET",
    "ORDER",
    "UNION",
    "WHERE",
    "WINDOW",
];

/// Settings whose value is a list of identifiers: in SET each element is quoted apart (GUC_LIST_QUOTE).
const IDENTIFIER_LISTS: &[&str] = &[
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// The lower-case name of a setting, and how many tokens it takes.
fn setting_name(tokens: Tokens<'_>) -> Option<(String, usize)> {
    for (words, name) in [
        (&["TIME", "ZONE"][..], "timezone"),
        (&["SESSION", "AUTHORIZATION"], "session_authorization"),
        (&["TRANSACTION", "ISOLATION", "LEVEL"], "transaction_isolation"),
    ] {
        if words.iter().enumerate().all(|(at, word)| tokens.is_word(at, word)) {
            return Some((name.to_owned(), words.len()));
        }
    }
    let mut name = tokens.identifier(0)?.to_ascii_lowercase();
    let mut length = 1;
    while tokens.is_mark(length, ".") {
        name.push('.');
        name.push_str(&tokens.identifier(length + 1)?.to_ascii_lowercase());
        length += 2;
    }
    Some((name, length))
}

/// What follows SET [SESSION | LOCAL].
fn assignment(tokens: Tokens<'_>, scope: Scope) -> Option<Effect> {
    // Forms without TO first: each has a setting of its own behind it.
    let (name, value) = if tokens.is_word(0, "NAMES") {
        ("client_encoding".to_owned(), tokens.from(1))
    } else if tokens.is_word(0, "SCHEMA") && tokens.kind(1) == Some(Kind::Text) {
        ("search_path".to_owned(), tokens.from(1))
    } else if tokens.is_word(0, "ROLE") && !is_assigned(tokens, 1) {
        return Some(spelled("role", "ROLE", tokens.from(1), scope));
    } else if tokens.is_word(0, "SESSION") && tokens.is_word(1, "AUTHORIZATION") {
        let value = tokens.from(2);
        if is_default(value) && scope == Scope::Session {
            return Some(Effect::Reset { name: "session_authorization".to_owned() });
        }
        return Some(spelled("session_authorization", "SESSION AUTHORIZATION", value, scope));
    } else if tokens.is_word(0, "TIME") && tokens.is_word(1, "ZONE") {
        let value = tokens.from(2);
        if (is_default(value) || (value.len() == 1 && value.is_word(0, "LOCAL"))) && scope == Scope::Session {
            return Some(Effect::Reset { name: "timezone".to_owned() });
        }
        return Some(spelled("timezone", "TIME ZONE", value, scope));
    } else if tokens.is_word(0, "XML") && tokens.is_word(1, "OPTION") {
        ("xmloption".to_owned(), tokens.from(2))
    } else {
        let (name, length) = setting_name(tokens)?;
        if !is_assigned(tokens, length) {
            return None;
        }
        (name, tokens.from(length + 1))
    };
    if let Some(ours) = name.strip_prefix(OURS) {
        return Some(Effect::Hakem { name: ours.to_owned(), value: value_text(value), scope });
    }
    if let Some(mode) = transaction_setting(&name, value) {
        return Some(Effect::SetTransaction(mode));
    }
    if name == "seed" {
        // Not a value that could be set again: it starts the session's random numbers anew.
        return None;
    }
    if is_default(value) && scope == Scope::Session {
        return Some(Effect::Reset { name });
    }
    (value.len() > 0 && is_plain_name(&name)).then(|| set_effect(name, &settled(value), scope))
}

fn is_assigned(tokens: Tokens<'_>, at: usize) -> bool {
    tokens.is_word(at, "TO") || tokens.is_mark(at, "=")
}

fn is_default(value: Tokens<'_>) -> bool {
    value.len() == 1 && value.is_word(0, "DEFAULT")
}

fn set_effect(name: String, value: &str, scope: Scope) -> Effect {
    let statement = format!("SET {}{name} TO {value}", local(scope));
    Effect::Set { name, statement, scope }
}

/// A SET whose syntax is its own: SET ROLE x, SET TIME ZONE INTERVAL '1' HOUR.
fn spelled(name: &str, words: &str, value: Tokens<'_>, scope: Scope) -> Effect {
    let statement = format!("SET {}{words} {}", local(scope), settled(value));
    Effect::Set { name: name.to_owned(), statement, scope }
}

/// The value as written, but that a backslash in a plain string constant means itself whatever `standard_conforming_strings` says
/// when the statement is run again.
fn settled(value: Tokens<'_>) -> String {
    let plain = |at: usize| value.text(at).starts_with('\'') && value.text(at).contains('\\');
    if !(0..value.len()).any(plain) {
        return value.join();
    }
    let text = |at: usize| match plain(at) {
        true => format!("E{}", value.text(at).replace('\\', "\\\\")),
        false => value.slice(at, at + 1).join(),
    };
    (0..value.len()).map(text).collect::<Vec<_>>().join(" ")
}

fn local(scope: Scope) -> &'static str {
    match scope {
        Scope::Session => "",
        Scope::Local => "LOCAL ",
    }
}

/// Whether SET takes the name without quotes.
fn is_plain_name(name: &str) -> bool {
    !name.is_empty()
        && name.split('.').all(|part| {
            part.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
                && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_$".contains(&byte))
        })
}

/// The value of a setting of ours: one string, or what is written. `None` is DEFAULT.
fn value_text(value: Tokens<'_>) -> Option<String> {
    if is_default(value) {
        return None;
    }
    if value.len() == 1
        && let Some(text) = value.string_value(0)
    {
        return Some(text);
    }
    Some(value.join())
}

fn is_transaction_setting(name: &str) -> bool {
    matches!(name, "transaction_read_only" | "transaction_isolation" | "transaction_deferrable")
}

/// `SET transaction_read_only = off` is SET TRANSACTION READ WRITE by another name. `None` for any other setting.
fn transaction_setting(name: &str, value: Tokens<'_>) -> Option<TransactionMode> {
    if !is_transaction_setting(name) {
        return None;
    }
    let text = value_text(value).unwrap_or_default().to_ascii_lowercase();
    let mut mode = TransactionMode::default();
    match name {
        "transaction_isolation" => mode.isolation = isolation(&text),
        "transaction_deferrable" => mode.deferrable = truth(&text),
        _ => {
            mode.access =
                truth(&text).map(|only| if only { TransactionAccess::ReadOnly } else { TransactionAccess::ReadWrite });
        }
    }
    Some(mode)
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "on" | "true" | "yes" | "1" | "t" | "y" => Some(true),
        "off" | "false" | "no" | "0" | "f" | "n" => Some(false),
        _ => None,
    }
}

fn isolation(words: &str) -> Option<Isolation> {
    match words.to_ascii_lowercase().as_str() {
        "read uncommitted" => Some(Isolation::ReadUncommitted),
        "read committed" => Some(Isolation::ReadCommitted),
        "repeatable read" => Some(Isolation::RepeatableRead),
        "serializable" => Some(Isolation::Serializable),
        _ => None,
    }
}

/// SET SESSION CHARACTERISTICS AS TRANSACTION modes: it sets `default_transaction_` settings, so it follows the session as any other.
fn characteristics(tokens: Tokens<'_>) -> Option<Effect> {
    if !(tokens.is_word(0, "AS") && tokens.is_word(1, "TRANSACTION")) {
        return None;
    }
    let mode = transaction_mode(tokens.from(2))?;
    let settings: Vec<(&str, &str)> = [
        mode.access.map(|access| {
            ("default_transaction_read_only", if access == TransactionAccess::ReadOnly { "on" } else { "off" })
        }),
        mode.isolation.map(|isolation| {
            let level = match isolation {
                Isolation::ReadUncommitted => "'read uncommitted'",
                Isolation::ReadCommitted => "'read committed'",
                Isolation::RepeatableRead => "'repeatable read'",
                Isolation::Serializable => "'serializable'",
            };
            ("default_transaction_isolation", level)
        }),
        mode.deferrable.map(|deferrable| ("default_transaction_deferrable", if deferrable { "on" } else { "off" })),
    ]
    .into_iter()
    .flatten()
    .collect();
    match &*settings {
        [] => None,
        [(name, value)] => Some(set_effect((*name).to_owned(), value, Scope::Session)),
        several => Some(Effect::SetUnseen(several.iter().map(|(name, _)| (*name).to_owned()).collect())),
    }
}

/// The settings that the statement's calls of `set_config` name, at these places; `None` if a name does not stand in the text.
pub(crate) fn unseen(statement: Tokens<'_>, opens: &[usize]) -> Option<Effect> {
    let name = |open: &usize| {
        let name = statement.string_value(open + 1).filter(|_| statement.is_mark(open + 2, ","))?.to_ascii_lowercase();
        (is_plain_name(&name) && name != "seed" && !is_transaction_setting(&name)).then_some(name)
    };
    opens.iter().map(name).collect::<Option<Vec<_>>>().map(Effect::SetUnseen)
}

/// `set_config ( 'name' , 'value' , boolean )`, the name at `at`.
fn constant_set_config(statement: Tokens<'_>, at: usize) -> Option<Effect> {
    let shaped = statement.is_mark(at + 1, "(")
        && statement.is_mark(at + 3, ",")
        && statement.is_mark(at + 5, ",")
        && statement.is_mark(at + 7, ")");
    if !shaped {
        return None;
    }
    let name = statement.string_value(at + 2)?.to_ascii_lowercase();
    let scope = match () {
        () if statement.is_word(at + 6, "TRUE") => Scope::Local,
        () if statement.is_word(at + 6, "FALSE") => Scope::Session,
        () => match truth(&statement.string_value(at + 6)?.to_ascii_lowercase())? {
            true => Scope::Local,
            false => Scope::Session,
        },
    };
    if !is_plain_name(&name) || name == "seed" || is_transaction_setting(&name) {
        return None;
    }
    if statement.is_word(at + 4, "NULL") {
        return match scope {
            Scope::Session => Some(Effect::Reset { name }),
            Scope::Local => Some(set_effect(name, "DEFAULT", scope)),
        };
    }
    let value = statement.string_value(at + 4)?;
    if IDENTIFIER_LISTS.contains(&name.as_str()) {
        // In SET each element would have to be quoted apart, and the empty list cannot be said at all.
        let local = if scope == Scope::Local { "true" } else { "false" };
        let statement = format!("SELECT pg_catalog.set_config('{name}', {}, {local})", quote(&value));
        return Some(Effect::Set { name, statement, scope });
    }
    Some(set_effect(name, &quote(&value), scope))
}

/// A string constant that reads the same whatever `standard_conforming_strings` says.
fn quote(value: &str) -> String {
    let doubled = value.replace('\'', "''");
    if doubled.contains('\\') { format!("E'{}'", doubled.replace('\\', "\\\\")) } else { format!("'{doubled}'") }
}
