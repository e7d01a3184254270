//! What a statement writes to, as far as its words say: for rules that name tables and kinds of statements.
//!
//! Nothing that matters for routing depends on it: a table that is written by a trigger or a function is not seen.

use crate::lexer::Kind;
use crate::tokens::Tokens;

/// One thing that a statement writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// How.
    pub verb: Verb,
    /// The table as written, folded, with its schema where that is written; empty where there is none.
    pub table: Box<str>,
}

/// A kind of statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verb {
    /// INSERT
    Insert,
    /// UPDATE
    Update,
    /// DELETE
    Delete,
    /// MERGE
    Merge,
    /// COPY ... FROM
    Copy,
    /// TRUNCATE
    Truncate,
    /// CALL
    Call,
    /// DO
    Do,
}

impl Verb {
    /// Every kind.
    pub const ALL: [Verb; 8] =
        [Verb::Insert, Verb::Update, Verb::Delete, Verb::Merge, Verb::Copy, Verb::Truncate, Verb::Call, Verb::Do];

    /// Its word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Verb::Insert => "insert",
            Verb::Update => "update",
            Verb::Delete => "delete",
            Verb::Merge => "merge",
            Verb::Copy => "copy",
            Verb::Truncate => "truncate",
            Verb::Call => "call",
            Verb::Do => "do",
        }
    }
}

/// What a statement writes, at any depth.
pub(crate) fn targets(statement: Tokens<'_>, found: &mut Vec<Target>) {
    let mut add = |verb, at: Option<usize>| {
        let table = at.and_then(|at| name(statement, at)).unwrap_or_default();
        let target = Target { verb, table };
        // Once is enough; and of a list of literals, in place of tables, the shape keeps but the first.
        if found.last() != Some(&target) {
            found.push(target);
        }
    };
    if statement.is_word(0, "CALL") {
        return add(Verb::Call, None);
    }
    if statement.is_word(0, "DO") {
        return add(Verb::Do, None);
    }
    if statement.is_word(0, "COPY") && !statement.is_mark(1, "(") {
        return add(Verb::Copy, Some(1));
    }
    if statement.is_word(0, "TRUNCATE") {
        let mut at = after(statement, 1, "TABLE");
        loop {
            at = after(statement, at, "ONLY");
            add(Verb::Truncate, Some(at));
            match (at..statement.len()).find(|at| statement.is_mark(*at, ",")) {
                Some(comma) => at = comma + 1,
                None => return,
            }
        }
    }
    for at in 0..statement.len() {
        if statement.kind(at) != Some(Kind::Word) {
            continue;
        }
        if statement.is_word(at, "INSERT") && statement.is_word(at + 1, "INTO") {
            add(Verb::Insert, Some(at + 2));
        } else if statement.is_word(at, "MERGE") && statement.is_word(at + 1, "INTO") {
            add(Verb::Merge, Some(after(statement, at + 2, "ONLY")));
        } else if statement.is_word(at, "DELETE") && statement.is_word(at + 1, "FROM") {
            add(Verb::Delete, Some(after(statement, at + 2, "ONLY")));
        } else if statement.is_word(at, "UPDATE") && begins(statement, at) {
            add(Verb::Update, Some(after(statement, at + 1, "ONLY")));
        }
    }
}

/// Whether an UPDATE is a statement's, not that of FOR UPDATE, FOR NO KEY UPDATE, DO UPDATE or THEN UPDATE.
fn begins(statement: Tokens<'_>, at: usize) -> bool {
    at == 0 || statement.is_mark(at - 1, "(") || statement.is_mark(at - 1, ")") || statement.is_word(0, "EXPLAIN")
}

fn after(statement: Tokens<'_>, at: usize, word: &str) -> usize {
    if statement.is_word(at, word) { at + 1 } else { at }
}

/// A name, with at most a schema.
fn name(statement: Tokens<'_>, mut at: usize) -> Option<Box<str>> {
    let mut name = statement.identifier(at)?.into_owned();
    while statement.is_mark(at + 1, ".") {
        at += 2;
        let schema = name.rsplit('.').next().unwrap_or_default();
        name = format!("{schema}.{}", statement.identifier(at)?);
    }
    Some(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::Lexed;

    fn check(sql: &str, expected: &[&str]) {
        let lexed = Lexed::new(sql);
        let mut found = Vec::new();
        lexed.statements().iter().for_each(|statement| targets(*statement, &mut found));
        let shown: Vec<String> =
            found.iter().map(|target| format!("{} {}", target.verb.as_str(), target.table)).collect();
        assert_eq!(shown, expected, "{sql}");
    }

    #[test]
    fn writes() {
        check("insert into Moves values (1)", &["insert moves"]);
        check("insert into \"Game\".moves (a) select 1", &["insert Game.moves"]);
        check("update only t set a = 1", &["update t"]);
        check("delete from a.b.c where true", &["delete b.c"]);
        check("merge into t using u on t.a = u.a when matched then update set a = 1", &["merge t"]);
        check("insert into t values (1) on conflict do update set a = 2", &["insert t"]);
        check(
            "with x as (delete from a returning *), y as (update b set c = 1) insert into d select * from x",
            &["delete a", "update b", "insert d"],
        );
        check("with x as (select 1) update t set a = 1", &["update t"]);
        check("truncate a, b, b, c", &["truncate a", "truncate b", "truncate c"]);
        // As its shape, `truncate a, 0`.
        check("truncate a, 1, 2.0_x", &["truncate a", "truncate "]);
        check("copy t (a, b) from stdin", &["copy t"]);
        check("truncate table only a, b.c cascade", &["truncate a", "truncate b.c"]);
        check("call f(1)", &["call "]);
        check("do $$ begin insert into t values (1); end $$", &["do "]);
        check("insert into a values (1); delete from b", &["insert a", "delete b"]);
        check("explain analyze update t set a = 1", &["update t"]);
    }

    #[test]
    fn reads() {
        check("select * from t for update", &[]);
        check("select * from t for no key update of t", &[]);
        check("select 'insert into t'", &[]);
        check("create trigger x before update on t execute function f()", &[]);
    }
}
