//! What stands in front of a dot and may be no row: `(1::bigint).f` calls `f` as `f(1::bigint)` does, and so does `g.f` where `g` is what a
//! function in FROM returns.
//!
//! It tells by tokens which names and which parentheses those are; what a call means, `catalog` knows.

use crate::lexer::Kind;
use crate::tokens::Tokens;
use std::borrow::Cow;
use std::collections::HashSet;

/// What a query has of values that are no rows, in front of a dot.
#[derive(Debug)]
pub(crate) struct Values<'a> {
    /// The names by which what functions in FROM return may be called.
    pub(crate) named: HashSet<Cow<'a, str>>,
    /// Where the parentheses close that hold a constant: it has no columns, so that what follows it is called.
    pub(crate) constants: HashSet<usize>,
}

impl<'a> Values<'a> {
    pub(crate) fn of(query: Tokens<'a>) -> Values<'a> {
        let mut values = Values { named: HashSet::new(), constants: HashSet::new() };
        let mut opened = Vec::new();
        // Behind a call, or what is called without parentheses, an alias may follow.
        let mut is_function = false;
        for at in 0..query.len() {
            if query.is_mark(at, "(") {
                let is_query =
                    at == 0 || !query.is_identifier(at - 1) || query.is_any_word(at - 1, &["FROM", "JOIN", "LATERAL"]);
                let rows_from = at >= 2 && query.is_word(at - 2, "ROWS");
                opened.push((!is_query || rows_from, holds_constant(query, at + 1)));
            } else if query.is_mark(at, ")") {
                let (called, constant) = opened.pop().unwrap_or((true, false));
                is_function = called;
                if constant {
                    values.constants.insert(at);
                }
                continue;
            } else if let Some(name) = query.identifier(at) {
                if is_function && query.is_word(at, "AS") {
                    continue;
                }
                let called_bare = query.is_any_word(at, CALLED_BARE);
                if is_function || called_bare || query.is_mark(at + 1, "(") {
                    values.named.insert(name);
                }
                is_function = called_bare;
                continue;
            }
            is_function = false;
        }
        values
    }
}

/// `'s'::regclass)`, `1)`, `true)`. Of a list of constants the shape of a text keeps the first.
fn holds_constant(query: Tokens<'_>, at: usize) -> bool {
    let constant = matches!(query.kind(at), Some(Kind::Text | Kind::Number));
    (constant || query.is_any_word(at, &["TRUE", "FALSE", "NULL"]))
        && [")", "::", ","].iter().any(|mark| query.is_mark(at + 1, mark))
}

/// What PostgreSQL lets FROM call without parentheses.
const CALLED_BARE: &[&str] = &[
    "CURRENT_CATALOG",
    "CURRENT_DATE",
    "CURRENT_ROLE",
    "CURRENT_SCHEMA",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "CURRENT_USER",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "SESSION_USER",
    "SYSTEM_USER",
    "USER",
];

#[cfg(test)]
mod tests {
    use crate::{Access, Class, Classifier, Effect, Options, PinReason, Rules, Why};

    fn classify(sql: &str) -> Class {
        Classifier::new(Options::default()).classify_uncached(sql)
    }

    fn check(sql: &str, why: Why) {
        let class = classify(sql);
        let access = if why == Why::Select { Access::Read } else { Access::Write };
        assert_eq!((class.access, class.why), (access, why), "{sql}");
    }

    #[test]
    fn postgresqls_own() {
        for sql in [
            "select (1::bigint).pg_advisory_lock",
            "select ('s'::regclass).nextval",
            "select ('s'). nextval",
            "select g.pg_advisory_lock from generate_series(1, 2) g",
            "select a[1].nextval from t",
            "select ($1).\"nextval\"",
            "select * from t where (a).pg_notify is null",
            "copy (select ('s').nextval) to stdout",
            "declare c cursor for select ('s').nextval",
            "explain select ('s').nextval",
        ] {
            check(sql, Why::VolatileFunction);
        }
        check("select ('transaction_read_only').current_setting", Why::NodeDependent);
        check("select ('t'::regclass).pg_relation_size", Why::NodeDependent);
        check("select ('t'::regclass).pg_stat_get_numscans", Why::NodeDependent);
        check("select (1).mine", Why::UnknownFunction);
        check("select ('a'::text).mine", Why::UnknownFunction);
        check("select ('A'::text).lower, (a).b, a[1].b, t.name, (t).*, s.t.name from t", Why::Select);
        check("select pg_catalog.lower('A'), t.version from t", Why::Select);
    }

    #[test]
    fn what_they_leave_behind() {
        for (sql, expected) in [
            ("select (1::bigint).pg_advisory_lock", Effect::Pin(PinReason::AdvisoryLock)),
            ("insert into t select g.pg_try_advisory_lock from f() g", Effect::Pin(PinReason::AdvisoryLock)),
            ("select ('s'::regclass).currval", Effect::Pin(PinReason::SequenceState)),
            ("select (0.5::float8).setseed", Effect::Pin(PinReason::Other)),
            ("select (1::bigint).pg_advisory_unlock", Effect::Unlocks),
            ("select isn_weak(true)", Effect::Pin(PinReason::Other)),
            ("select (true).isn_weak", Effect::Pin(PinReason::Other)),
        ] {
            assert_eq!(*classify(sql).effects, [expected], "{sql}");
        }
        assert!(classify("select isn_weak()").effects.is_empty());
    }

    #[test]
    fn rules_are_obeyed() {
        let rules = Rules::new(false, &["nextval".to_owned()], &["mine".to_owned()]);
        let catalog = crate::Catalog::with_rules(rules);
        let classifier = Classifier::new(Options { catalog, ..Options::default() });
        assert_eq!(classifier.classify("select ('s'::regclass).nextval").why, Why::Select);
        assert_eq!(classifier.classify("select (a).mine from t").why, Why::UserFunction);
    }

    #[test]
    fn sequences_in_a_list() {
        for sql in [
            "select * from t, t_id_seq",
            "select 1 from t as a join u on true, public.t_id_seq s",
            "select (select 1 from u, lateral (select 1) x, \"t_seq\") from t",
        ] {
            check(sql, Why::NodeDependent);
        }
        for sql in [
            "select a, order_seq from t",
            "select a from t where b in (select order_seq from u) order by a, order_seq",
            "select extract(year from a), order_seq from t",
            "select a is distinct from b, order_seq from t",
            "select 1 from t, f_seq_of u, lower('a') g group by a, order_seq",
        ] {
            check(sql, Why::Select);
        }
    }
}
