//! One statement to its [`Verdict`], by its first words. Queries go on to `query`, settings to `settings`.
//!
//! Owns transaction control, cursors, COPY, EXPLAIN, and what pins a session. None of it needs a parser: these statements are told by
//! their first words, and what a function leaves in the session is told by its name, wherever it stands.

use crate::builtin::KEEPING_EXTENSIONS;
use crate::calls::{Call, calls};
use crate::catalog::Catalog;
use crate::class::{Access, Effect, PinReason, Why};
use crate::lexer::{Kind, Lexed};
use crate::prepared;
use crate::query;
use crate::settings;
use crate::tokens::Tokens;
use crate::unseen::runs_unseen;
use crate::verdict::Verdict;
use std::borrow::Cow;

/// What the statement may do.
pub(crate) fn judge(statement: Tokens<'_>, catalog: &Catalog) -> Verdict {
    complete(statement, by_first_words(statement, catalog), catalog)
}

/// The same without a parser: what could be a read is a write, what a statement leaves in its session is seen all the same.
pub(crate) fn judge_unparsed(statement: Tokens<'_>, catalog: &Catalog) -> Verdict {
    let holds =
        (1..statement.len().min(9)).any(|at| statement.is_word(at, "WITH") && statement.is_word(at + 1, "HOLD"));
    if begins_query(statement, 0)
        || statement.is_any_word(0, &["EXPLAIN", "COPY"])
        || (statement.is_word(0, "DECLARE") && !holds)
    {
        return complete(statement, Verdict::write(Why::TooComplex), catalog);
    }
    judge(statement, catalog)
}

/// What does not depend on which statement it is.
fn complete(statement: Tokens<'_>, verdict: Verdict, catalog: &Catalog) -> Verdict {
    let unseen = runs_unseen(statement, &verdict, catalog);
    let verdict = Verdict { defines: defines(statement), unseen, ..verdict };
    // Statements with an effect of their own cannot call functions, but for a lone set_config, which is understood already.
    if verdict.effect.is_some() || verdict.access == Access::Read {
        return verdict;
    }
    let limit = sets_limit(statement, catalog).then(|| SIMILARITY_LIMIT.to_owned());
    let effect = match (left_behind(statement), limit) {
        (None, Some(limit)) => Some(Effect::SetUnseen(vec![limit])),
        (Some(Effect::SetUnseen(names)), limit) => Some(Effect::SetUnseen(names.into_iter().chain(limit).collect())),
        (effect, _) => effect,
    };
    Verdict { effect, ..verdict }
}

/// Whether it calls the function of pg_trgm that is a SET of [`SIMILARITY_LIMIT`].
fn sets_limit(statement: Tokens<'_>, catalog: &Catalog) -> bool {
    catalog.has_set_limit
        && (calls(statement).any(|call| call.name == "set_limit")
            || attributes(statement).any(|name| name == "set_limit"))
}

const SIMILARITY_LIMIT: &str = "pg_trgm.similarity_threshold";

/// Statements that only write: what they write does not matter here.
const UTILITIES: &[&str] = &[
    "ALTER",
    "ANALYSE",
    "ANALYZE",
    "CHECKPOINT",
    "CLUSTER",
    "COMMENT",
    "CREATE",
    "DROP",
    "GRANT",
    "IMPORT",
    "NOTIFY",
    "REASSIGN",
    "REFRESH",
    "REINDEX",
    "REVOKE",
    "SECURITY",
    "TRUNCATE",
    "VACUUM",
];

fn by_first_words(statement: Tokens<'_>, catalog: &Catalog) -> Verdict {
    if statement.is_mark(0, "(") {
        return query::judge(statement, catalog);
    }
    if statement.kind(0) != Some(Kind::Word) {
        return Verdict::write(Why::ParseFailure);
    }
    let first = statement.text(0).to_ascii_uppercase();
    match first.as_str() {
        "WITH" | "VALUES" | "TABLE" => query::judge(statement, catalog),
        "SELECT" => match settings::lone_set_config(statement) {
            Some(effect) => Verdict { depends_on_literals: true, ..Verdict::session(effect) },
            None if is_lone_unlock(statement) => Verdict::session(Effect::Unpin(PinReason::AdvisoryLock)),
            None => query::judge(statement, catalog),
        },
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" => Verdict::write(Why::WritesRows),
        "BEGIN" => match settings::transaction_mode(statement.from(after_noise(statement, 1))) {
            Some(mode) => Verdict::control(Effect::Begin(mode)),
            None => Verdict::write(Why::ParseFailure),
        },
        "START" if statement.is_word(1, "TRANSACTION") => match settings::transaction_mode(statement.from(2)) {
            Some(mode) => Verdict::control(Effect::Begin(mode)),
            None => Verdict::write(Why::ParseFailure),
        },
        "COMMIT" | "END" | "ROLLBACK" | "ABORT" => end_of_transaction(statement),
        "SAVEPOINT" => named(statement, 1, Effect::Savepoint),
        "RELEASE" => named(
            statement,
            if statement.is_word(1, "SAVEPOINT") && statement.len() > 2 { 2 } else { 1 },
            Effect::Release,
        ),
        "PREPARE" if statement.is_word(1, "TRANSACTION") && statement.kind(2) == Some(Kind::Text) => {
            Verdict::control(Effect::PrepareTransaction)
        }
        "PREPARE" => prepared::prepare(statement).unwrap_or(Verdict::pin(PinReason::SqlPrepare)),
        "EXECUTE" => prepared::execute(statement, 0).unwrap_or(Verdict::write(Why::ParseFailure)),
        "DEALLOCATE" => prepared::deallocate(statement).unwrap_or(Verdict::write(Why::ParseFailure)),
        "CREATE" => prepared::create_table_as_execute(statement, 0).unwrap_or(Verdict::write(Why::Utility)),
        "SET" => settings::set(statement),
        "RESET" => settings::reset(statement),
        "SHOW" => settings::show(statement),
        "DISCARD" if statement.is_word(1, "ALL") => Verdict::session(Effect::DiscardAll),
        "DISCARD" if statement.is_any_word(1, &["TEMP", "TEMPORARY"]) => {
            Verdict::session(Effect::Unpin(PinReason::TempTable))
        }
        // Plans are invisible, and whoever discards its sequence state will not ask for it.
        "DISCARD" => Verdict::write(Why::SessionState),
        "LISTEN" => {
            channel(statement).map_or(Verdict::pin(PinReason::Listen), |name| Verdict::session(Effect::Listen(name)))
        }
        "UNLISTEN" if statement.is_mark(1, "*") => Verdict::session(Effect::UnlistenAll),
        "UNLISTEN" => match channel(statement) {
            Some(name) => Verdict::session(Effect::Unlisten(name)),
            None => Verdict::write(Why::SessionState),
        },
        "LOAD" => Verdict::pin(PinReason::Load),
        "DECLARE" => cursor(statement, catalog),
        // A cursor lives in a transaction, hence on one server already; one WITH HOLD pins.
        "FETCH" | "MOVE" => Verdict::read(Why::Cursor),
        "CLOSE" if statement.is_word(1, "ALL") => Verdict::session(Effect::Unpin(PinReason::HoldCursor)),
        "CLOSE" => Verdict::read(Why::Cursor),
        "EXPLAIN" => explain(statement, catalog),
        "COPY" => copy(statement, catalog),
        "LOCK" => Verdict::write(Why::RowLock),
        "CALL" => Verdict::write(Why::Procedure),
        "DO" => procedure(statement),
        other if UTILITIES.contains(&other) => Verdict::write(Why::Utility),
        _ => Verdict::write(Why::UnknownStatement),
    }
}

/// Whether the statement may change which functions, relations, types and operators there are, or what they are. A temporary table is its
/// session's own affair, and what a plain table is made from does not matter.
fn defines(statement: Tokens<'_>) -> bool {
    let is_temporary = (1..5).any(|at| statement.is_any_word(at, &["TEMP", "TEMPORARY"]));
    match () {
        () if statement.is_word(0, "CREATE") => !is_temporary,
        () if statement.is_any_word(0, &["ALTER", "DROP", "IMPORT", "DO"]) => true,
        // What was prepared may have been anything.
        () if statement.is_word(0, "COMMIT") => statement.is_word(1, "PREPARED"),
        () => (1..statement.len()).any(|at| statement.is_word(at, "UNLOGGED") && statement.is_word(at - 1, "INTO")),
    }
}

/// The name in LISTEN name and UNLISTEN name.
fn channel(statement: Tokens<'_>) -> Option<String> {
    if statement.len() == 2 { statement.identifier(1).map(|name| name.into_owned()) } else { None }
}

/// Over WORK or TRANSACTION.
fn after_noise(statement: Tokens<'_>, at: usize) -> usize {
    if statement.is_any_word(at, &["WORK", "TRANSACTION"]) { at + 1 } else { at }
}

fn end_of_transaction(statement: Tokens<'_>) -> Verdict {
    let commits = statement.is_any_word(0, &["COMMIT", "END"]);
    let effect = |chain| if commits { Effect::Commit { chain } } else { Effect::Rollback { chain } };
    let at = after_noise(statement, 1);
    let rest = statement.from(at);
    match () {
        () if rest.len() == 0 => Verdict::control(effect(false)),
        () if rest.len() == 2 && rest.is_word(0, "AND") && rest.is_word(1, "CHAIN") => Verdict::control(effect(true)),
        () if rest.len() == 3 && rest.is_word(0, "AND") && rest.is_word(1, "NO") && rest.is_word(2, "CHAIN") => {
            Verdict::control(effect(false))
        }
        () if at == 1 && rest.is_word(0, "PREPARED") => Verdict::write(Why::TransactionControl),
        () if !commits && rest.is_word(0, "TO") => {
            let name = if rest.is_word(1, "SAVEPOINT") && rest.len() > 2 { 2 } else { 1 };
            named(rest, name, Effect::RollbackTo)
        }
        () => Verdict::write(Why::ParseFailure),
    }
}

/// A savepoint statement that ends with a name.
fn named(statement: Tokens<'_>, at: usize, effect: fn(String) -> Effect) -> Verdict {
    match statement.identifier(at) {
        Some(name) if statement.len() == at + 1 => Verdict::control(effect(name.into_owned())),
        _ => Verdict::write(Why::ParseFailure),
    }
}

/// DECLARE name [BINARY] [INSENSITIVE] [[NO] SCROLL] CURSOR [{WITH | WITHOUT} HOLD] FOR query
fn cursor(statement: Tokens<'_>, catalog: &Catalog) -> Verdict {
    let Some(at) = (2..statement.len().min(7)).find(|at| statement.is_word(*at, "CURSOR")) else {
        return Verdict::write(Why::ParseFailure);
    };
    let holds = statement.is_word(at + 1, "WITH") && statement.is_word(at + 2, "HOLD");
    if holds {
        return Verdict::pin(PinReason::HoldCursor);
    }
    let query = if statement.is_word(at + 1, "WITHOUT") { at + 4 } else { at + 2 };
    if !statement.is_word(query - 1, "FOR") {
        return Verdict::write(Why::ParseFailure);
    }
    nested(query::judge(statement.from(query), catalog), Why::Cursor)
}

/// EXPLAIN [ANALYZE] [VERBOSE] statement, EXPLAIN (option, ...) statement.
///
/// It is what it explains, whether it executes that or not: whoever explains a write wants the plan of the server that would run it.
fn explain(statement: Tokens<'_>, catalog: &Catalog) -> Verdict {
    let at = match statement.closing(1) {
        Some(close) if statement.is_mark(1, "(") && !begins_query(statement, 2) => close + 1,
        _ => {
            let at = if statement.is_any_word(1, &["ANALYZE", "ANALYSE"]) { 2 } else { 1 };
            if statement.is_word(at, "VERBOSE") { at + 1 } else { at }
        }
    };
    let explained = statement.from(at);
    let first = explained.text(0).to_ascii_uppercase();
    match first.as_str() {
        "SELECT" | "WITH" | "VALUES" | "TABLE" | "(" => nested(query::judge(explained, catalog), Why::Explain),
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" => Verdict::write(Why::WritesRows),
        "EXECUTE" => prepared::execute(statement, at).unwrap_or(Verdict::write(Why::ParseFailure)),
        "CREATE" => prepared::create_table_as_execute(statement, at).unwrap_or(Verdict::write(Why::Utility)),
        _ => Verdict::write(Why::Utility),
    }
}

fn begins_query(statement: Tokens<'_>, at: usize) -> bool {
    statement.is_any_word(at, &["SELECT", "WITH", "VALUES", "TABLE"]) || statement.is_mark(at, "(")
}

/// COPY table TO STDOUT and COPY (query) TO STDOUT read; anything else writes, here or to the server's files.
fn copy(statement: Tokens<'_>, catalog: &Catalog) -> Verdict {
    let (source, at) = if statement.is_mark(1, "(") {
        let Some(close) = statement.closing(1) else { return Verdict::write(Why::ParseFailure) };
        (judge_copied(statement.slice(2, close), catalog), close + 1)
    } else {
        let mut at = 2;
        while statement.is_mark(at, ".") {
            at += 2;
        }
        let verdict = query::judge_relations(statement.slice(1, at), catalog);
        (verdict, if statement.is_mark(at, "(") { statement.closing(at).map_or(at, |close| close + 1) } else { at })
    };
    match () {
        () if statement.is_word(at, "FROM") => Verdict::write(Why::CopyFrom),
        () if !statement.is_word(at, "TO") => Verdict::write(Why::ParseFailure),
        () if !statement.is_word(at + 1, "STDOUT") => Verdict::write(Why::CopyFile),
        () => nested(source, Why::CopyTo),
    }
}

fn judge_copied(source: Tokens<'_>, catalog: &Catalog) -> Verdict {
    if source.is_any_word(0, &["INSERT", "UPDATE", "DELETE", "MERGE"]) {
        return Verdict::write(Why::WritesRows);
    }
    query::judge(source, catalog)
}

/// The verdict on what is inside, under the outer statement's name if it is a read.
fn nested(inside: Verdict, why: Why) -> Verdict {
    match inside.access {
        Access::Read => Verdict { why, ..inside },
        Access::Write => inside,
    }
}

/// DO: its body is a string in some language. What sets, listens or creates something temporary in there, as far as words tell,
/// pins; a function that it calls may do the same unseen.
fn procedure(statement: Tokens<'_>) -> Verdict {
    let leaves_something = leaves_behind_in_strings(statement, EXECUTED_DEPTH_MAX);
    let effect = leaves_something.then_some(Effect::Pin(PinReason::Other));
    Verdict { effect, depends_on_literals: true, ..Verdict::write(Why::Procedure) }
}

/// The strings in which a body's EXECUTE may have what it executes, or parts of it: some in others. One that cannot be read here may
/// hold anything.
fn leaves_behind_in_strings(outer: Tokens<'_>, depth: usize) -> bool {
    (1..outer.len()).filter(|at| outer.kind(*at) == Some(Kind::Text)).any(|at| {
        let Some(body) = outer.string_value(at) else { return true };
        let lexed = Lexed::new(&body);
        lexed
            .statements()
            .iter()
            .any(|inner| leaves_behind_in_body(*inner) || (depth > 0 && leaves_behind_in_strings(*inner, depth - 1)))
    })
}

/// How deep strings in the body of a DO are looked into.
const EXECUTED_DEPTH_MAX: usize = 3;

fn leaves_behind_in_body(inner: Tokens<'_>) -> bool {
    let begins = |at: usize| at == 0 || inner.is_any_word(at - 1, &["BEGIN", "THEN", "ELSE", "LOOP"]);
    (0..inner.len()).any(|at| {
        inner.is_any_word(at, &["TEMP", "TEMPORARY"])
            || (begins(at)
                && inner.is_any_word(at, &["SET", "RESET", "LISTEN", "LOAD", "PREPARE", "DISCARD"])
                && !inner.is_word(at + 1, "LOCAL"))
    }) || left_behind(inner).is_some()
}

/// What any statement, most of all a query, leaves in its session through the functions that it calls and the names that it uses.
pub(crate) fn left_behind(statement: Tokens<'_>) -> Option<Effect> {
    let sets = |call: &Call<'_>| call.name == "set_config" && !is_local(statement, call.open);
    let opens: Vec<usize> = calls(statement).filter(sets).map(|call| call.open).collect();
    let unseen = if opens.is_empty() { None } else { settings::unseen(statement, &opens) };
    let by_function = calls(statement).find_map(|call| match call.name.as_ref() {
        "set_config" if unseen.is_none() && !is_local(statement, call.open) => Some(PinReason::SetConfig),
        // Without an argument it asks.
        "isn_weak" if statement.is_mark(call.open + 1, ")") => None,
        name => kept_by(name),
    });
    let by_function = by_function.or_else(|| attributes(statement).find_map(|name| kept_by(&name)));
    let pin = by_function.or_else(|| makes_temporary(statement).then_some(PinReason::TempTable)).map(Effect::Pin);
    let unlocks =
        |name: &str| matches!(name, "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all");
    let unlocked =
        || calls(statement).any(|call| unlocks(&call.name)) || attributes(statement).any(|name| unlocks(&name));
    pin.or(unseen).or_else(|| unlocked().then_some(Effect::Unlocks))
}

/// What a function leaves in the session that calls it.
fn kept_by(function: &str) -> Option<PinReason> {
    match function {
        "pg_advisory_lock" | "pg_advisory_lock_shared" | "pg_try_advisory_lock" | "pg_try_advisory_lock_shared" => {
            Some(PinReason::AdvisoryLock)
        }
        "currval" | "lastval" => Some(PinReason::SequenceState),
        "setseed"
        | "pg_replication_origin_session_setup"
        | "pg_backup_start"
        | "pg_create_physical_replication_slot"
        | "pg_create_logical_replication_slot" => Some(PinReason::Other),
        name => KEEPING_EXTENSIONS.contains(&name).then_some(PinReason::Other),
    }
}

/// The names behind dots, each of which may be a call: `(1::bigint).pg_advisory_lock`.
fn attributes<'a>(statement: Tokens<'a>) -> impl Iterator<Item = Cow<'a, str>> {
    let is_attribute = move |at: &usize| statement.is_mark(at - 1, ".") && !statement.is_mark(at + 1, "(");
    (1..statement.len()).filter(is_attribute).filter_map(move |at| statement.identifier(at))
}

/// `set_config(name, value, true)` ends with its transaction, which is on this server anyway: whatever it sets, it leaves nothing.
/// Arguments with parentheses of their own are not looked into.
fn is_local(statement: Tokens<'_>, open: usize) -> bool {
    let inside = (open + 1..statement.len()).find(|at| statement.is_mark(*at, "(") || statement.is_mark(*at, ")"));
    inside.is_some_and(|end| {
        statement.is_mark(end, ")") && statement.is_word(end - 1, "TRUE") && statement.is_mark(end - 2, ",")
    })
}

/// CREATE [OR REPLACE] [LOCAL | GLOBAL] TEMP, INTO [LOCAL | GLOBAL] TEMP, or anything in `pg_temp`.
fn makes_temporary(statement: Tokens<'_>) -> bool {
    (0..statement.len()).any(|at| {
        let declares = statement.is_any_word(at, &["TEMP", "TEMPORARY"])
            && at > 0
            && statement.is_any_word(at - 1, &["CREATE", "REPLACE", "INTO", "LOCAL", "GLOBAL"]);
        declares
            || (statement.is_mark(at + 1, ".")
                && statement.identifier(at).is_some_and(|name| name.starts_with("pg_temp")))
    })
}

/// `SELECT pg_advisory_unlock_all()`
fn is_lone_unlock(statement: Tokens<'_>) -> bool {
    let at = if statement.is_word(1, "pg_catalog") && statement.is_mark(2, ".") { 3 } else { 1 };
    statement.is_word(at, "pg_advisory_unlock_all")
        && statement.len() == at + 3
        && statement.closing(at + 1) == Some(at + 2)
}
