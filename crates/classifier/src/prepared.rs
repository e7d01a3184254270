//! PREPARE, EXECUTE and DEALLOCATE: statements about statements, taken apart so that names can be put in.
//!
//! Owns where the name stands. What a name stands for is the session's to know.

use crate::calls::calls;
use crate::class::{Effect, Execution};
use crate::statement::left_behind;
use crate::tokens::Tokens;
use crate::verdict::Verdict;

/// PREPARE name [(type, ...)] AS statement
pub(crate) fn prepare(statement: Tokens<'_>) -> Option<Verdict> {
    let name = statement.identifier(1)?.into_owned();
    let at = if statement.is_mark(2, "(") { statement.closing(2)? + 1 } else { 2 };
    if !statement.is_word(at, "AS") || statement.len() == at + 1 {
        return None;
    }
    let types = if at > 2 { statement.written(2, at) } else { "" };
    let body = statement.written(at + 1, statement.len());
    Some(Verdict::session(Effect::Prepare { name, types: types.into(), body: body.into() }))
}

/// EXECUTE name [(argument, ...)], which begins at `at`: the statement may be an EXPLAIN or a CREATE TABLE, or one of the other.
pub(crate) fn execute(statement: Tokens<'_>, at: usize) -> Option<Verdict> {
    let name = statement.identifier(at + 1)?.into_owned();
    let arguments = statement.from(at + 2);
    let execution = Execution {
        before: statement.written(0, at + 1).into(),
        name,
        after: statement.written(at + 2, statement.len()).into(),
        // Arguments are evaluated; whatever a function among them does is not the statement's doing.
        plain: statement.is_any_word(0, &["EXECUTE", "EXPLAIN"])
            && !(at > 0 && statement.is_word(at - 1, "AS"))
            && calls(arguments).next().is_none(),
        pin: match left_behind(statement) {
            Some(Effect::Pin(reason)) => Some(reason),
            _ => None,
        },
    };
    Some(Verdict::session(Effect::Execute(Box::new(execution))))
}

/// CREATE [TEMP | UNLOGGED] TABLE [IF NOT EXISTS] name [(column, ...)] ... AS EXECUTE name, from `create` on.
pub(crate) fn create_table_as_execute(statement: Tokens<'_>, create: usize) -> Option<Verdict> {
    let at = (create + 3..statement.len())
        .find(|at| statement.is_word(*at, "EXECUTE") && statement.is_word(at - 1, "AS"))?;
    execute(statement, at)
}

/// DEALLOCATE [PREPARE] {name | ALL}
pub(crate) fn deallocate(statement: Tokens<'_>) -> Option<Verdict> {
    let at = if statement.is_word(1, "PREPARE") && statement.len() > 2 { 2 } else { 1 };
    if statement.len() != at + 1 {
        return None;
    }
    if statement.is_word(at, "ALL") {
        return Some(Verdict::session(Effect::DeallocateAll));
    }
    Some(Verdict::session(Effect::Deallocate(statement.identifier(at)?.into_owned())))
}
