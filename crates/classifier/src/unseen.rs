//! Whether a statement runs code that nobody here has seen: a function or a procedure that may set what it likes, in its session.
//!
//! Such code stands in the text, behind a relation (a trigger, a rule, a view, a default), or nobody can tell. What it costs to be
//! wrong: one RESET ALL where it was not needed, or a setting that meets another client.

use crate::calls::{Call, calls, names_columns};
use crate::catalog::{Calling, Catalog};
use crate::class::{Access, Effect, PinReason, Why};
use crate::tokens::Tokens;
use crate::verdict::Verdict;

/// Whether the statement, of this verdict, may.
pub(crate) fn runs_unseen(statement: Tokens<'_>, verdict: &Verdict, catalog: &Catalog) -> bool {
    match (verdict.why, &verdict.effect) {
        _ if verdict.access == Access::Read => false,
        // The prepared statement has a class of its own.
        (_, Some(Effect::Execute(execution))) => !execution.plain,
        (_, Some(Effect::Prepare { .. })) => false,
        (_, Some(Effect::Pin(PinReason::Load))) => true,
        (Why::Empty | Why::TransactionControl, _) => false,
        (
            Why::Procedure
            | Why::UnknownFunction
            | Why::UserFunction
            | Why::ParseFailure
            | Why::TooComplex
            | Why::UnknownStatement
            | Why::Misrouted
            | Why::MultiStrictest,
            _,
        ) => true,
        // Event triggers; TRUNCATE's; CREATE TABLE AS; the expressions of ALTER TABLE.
        (Why::Utility, _) => !statement.is_any_word(0, INERT_UTILITIES),
        (Why::SessionState | Why::Select | Why::Show | Why::Explain | Why::CopyTo | Why::Cursor, _) => {
            calls_unseen(statement, catalog)
        }
        (
            Why::WritesRows
            | Why::CopyFrom
            | Why::SelectInto
            | Why::RowLock
            | Why::VolatileFunction
            | Why::NodeDependent
            | Why::PrimaryRelation
            | Why::CopyFile,
            _,
        ) => {
            let may_fire = matches!(verdict.why, Why::WritesRows | Why::CopyFrom | Why::CopyFile);
            catalog.is_opaque()
                || (may_fire && !catalog.knows_unseen())
                || (0..statement.len()).any(|at| names_unseen(statement, at, catalog))
                || calls_unseen(statement, catalog)
        }
    }
}

/// Whether the identifier, or the operator, stands for what runs such code when it is read, written or used.
fn names_unseen(statement: Tokens<'_>, at: usize, catalog: &Catalog) -> bool {
    if catalog.is_primary_operator(statement.text(at)) {
        return true;
    }
    let Some(name) = statement.identifier(at) else { return false };
    // A column that is named like a user's function is taken for that: what is wiped in vain costs little.
    let calls = |name| matches!(catalog.attribute_of_value(name), Some(Calling::UserVolatile));
    catalog.is_unseen(&name) || (at > 0 && statement.is_mark(at - 1, ".") && calls(&name))
}

fn calls_unseen(statement: Tokens<'_>, catalog: &Catalog) -> bool {
    let is_short = statement.len() <= TOKENS_MAX;
    calls(statement).any(|call| match catalog.calling(call.schema.as_deref(), &call.name) {
        _ if names_target(statement, &call) => false,
        _ if call.overqualified => true,
        Calling::UserVolatile => true,
        Calling::Unknown => !(call.groups || (is_short && names_columns(statement, &call))),
        Calling::Volatile => runs_text(&call.name),
        Calling::Harmless | Calling::ReadsSetting | Calling::NodeDependent => false,
    })
}

/// Whether what looks like a call is a relation with its columns, `INSERT INTO t (a, b)`, or a clause of INSERT, UPDATE or MERGE.
fn names_target(statement: Tokens<'_>, call: &Call<'_>) -> bool {
    let name = call.open - 1;
    let first = match (call.overqualified, &call.schema) {
        (true, _) => call.open.saturating_sub(5),
        (false, Some(_)) => call.open - 3,
        (false, None) => name,
    };
    let Some(before) = first.checked_sub(1) else { return false };
    let follows = |word: &str, leader: &str| {
        call.schema.is_none() && statement.is_word(name, word) && statement.is_word(before, leader)
    };
    statement.is_any_word(before, &["INTO", "COPY"])
        || follows("CONFLICT", "ON")
        || follows("SET", "UPDATE")
        || follows("INSERT", "THEN")
        || (call.schema.is_none() && statement.is_word(name, "RETURNING"))
}

/// Whether one of PostgreSQL's own functions runs a query that it is given, or that it makes of a name.
fn runs_text(name: &str) -> bool {
    name.contains("_to_xml") || matches!(name, "ts_stat" | "ts_rewrite")
}

/// Those that run nothing of a user's, or see to it that nothing is left of what that sets (`NewGUCNestLevel`).
const INERT_UTILITIES: &[&str] = &["ANALYSE", "ANALYZE", "CHECKPOINT", "CLUSTER", "NOTIFY", "VACUUM"];

/// In a longer statement every name in front of a parenthesis is taken for a function's.
const TOKENS_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use crate::{Argument, Catalog, Classifier, Facts, Function, Object, Options, Rules, Volatility};

    fn catalog() -> Catalog {
        let mut facts = Facts::new(Rules::default());
        for (oid, name, volatility) in
            [(1, "mine", Volatility::Volatile), (2, "pure", Volatility::Immutable), (3, "fire", Volatility::Volatile)]
        {
            facts.function(
                oid,
                Function { schema: "public", name, volatility, extension: "", argument: Argument::NotOne },
            );
        }
        for (oid, name) in
            [(10, "plain"), (11, "triggered"), (12, "parent"), (13, "seen"), (14, "over"), (15, "serial")]
        {
            facts.relation(oid, "public", name, oid == 15);
        }
        facts.fires(Object::Relation(11), Object::Function(3));
        facts.fires(Object::Relation(12), Object::Relation(11));
        facts.uses(Object::Relation(13), Object::Function(1));
        facts.uses(Object::Relation(14), Object::Relation(11));
        facts.calls(Object::Relation(15), "nextval", Volatility::Volatile);
        facts.conclude()
    }

    fn check(catalog: Catalog, expected: bool, texts: &[&str]) {
        let classifier = Classifier::new(Options { catalog, ..Options::default() });
        for sql in texts {
            let class = classifier.classify(sql);
            assert_eq!(class.unseen, expected, "{sql}: {}", class.why);
        }
    }

    #[test]
    fn what_can_be_told() {
        let unseen = [
            "call p()",
            "do $$ begin end $$",
            "select mine()",
            "select unknown()",
            "select 1; call p()",
            "select 1; select mine()",
            "insert into plain select mine()",
            "insert into plain (a, b) values (1, mine())",
            "insert into plain values (1) on conflict (a) do update set (a, b) = (1, public.mine())",
            "update plain set a = mine()",
            "delete from plain where a = unknown(b)",
            "merge into plain using x on true when matched then update set a = mine()",
            "with x as (insert into plain values (mine()) returning *) select * from x",
            "select * from plain where mine(a) for update",
            "select mine() into u",
            "create table u as select mine()",
            "create temp table u as select mine()",
            "copy plain from stdin where mine(a)",
            "copy (insert into plain select mine() returning a) to stdout",
            "declare c cursor with hold for select mine()",
            "explain analyze insert into plain select mine()",
            "select * from a.b.mine()",
            "insert into triggered values (1)",
            "update public.triggered set a = 1",
            "delete from parent",
            "insert into over values (1)",
            "copy triggered from stdin",
            "truncate triggered",
            "select * from seen",
            "select nextval('s'), query_to_xml('select mine()', true, true, '')",
            "alter table plain add column c int default mine()",
            "execute q(lower('A'))",
            "load 'x'",
            "frobnicate",
        ];
        check(catalog(), true, &unseen);
    }

    #[test]
    fn what_is_known() {
        let seen = [
            "select 1",
            "table triggered",
            "insert into plain values (1)",
            "insert into plain (a, b) values (1, lower('A')), (pure(1), nextval('s'))",
            "insert into public.plain (a) select a from x where b in (1) on conflict (a) do nothing",
            "insert into plain as p (a) values (1) on conflict (a) do update set (a, b) = (1, 2) returning (a)",
            "update plain set (a, b) = (select 1, 2) where a = any ($1)",
            "update plain p set (a) = row (1) from x y (b) where exists (select 1)",
            "merge into plain using x on (a = b) when not matched then insert (a, b) values (1, 2)",
            "with x (a) as (select 1) insert into plain select count(*) from x",
            "select * from plain for update",
            "select nextval('serial')",
            "select * from serial",
            "copy plain (a, b) from stdin with (format csv)",
            "begin; insert into plain values (1); commit",
            "set work_mem = '1MB'",
            "prepare q (int) as select mine()",
            "execute q(1)",
            "select pg_advisory_lock(1)",
            "select set_config('a.b', $1, false)",
            "vacuum plain",
            "notify c",
            "listen c",
        ];
        check(catalog(), false, &seen);
    }

    #[test]
    fn a_catalogue_that_nobody_has_read_knows_no_triggers() {
        let writes = ["insert into plain values (1)", "copy plain from stdin", "begin; delete from plain; commit"];
        check(Catalog::new(), true, &writes);
        check(catalog().outdated(), true, &writes);
        check(Catalog::new(), false, &["select nextval('s')", "begin", "set a.b = 1", "select * from plain for share"]);
    }
}
