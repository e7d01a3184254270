//! Calls and effects behind words that look like something else.

use classifier::{Access, Class, Classifier, Effect, Options, PinReason, Why};

fn classify(sql: &str) -> Class {
    Classifier::new(Options::default()).classify_uncached(sql)
}

/// PostgreSQL's keywords of which `kwlist.h` says that they "can be function or type".
#[test]
fn keywords_that_functions_may_be_called_by() {
    for sql in [
        "select ilike(1)",
        "select is(1)",
        "select 1 from join(1)",
        "select 1 + join(1)",
        "select not ilike(1)",
        "select 1 from t where a and ilike(1)",
        "select a like ilike(1)",
        "select authorization(1), collation(1), natural(1), verbose(1)",
        "select json_object('a' value ilike(1))",
    ] {
        let class = classify(sql);
        assert_eq!((class.access, class.why), (Access::Write, Why::UnknownFunction), "{sql}");
    }
    for sql in [
        "select like('a', 'b'), overlaps(a, b, c, d), notlike('a', 'b') from t",
        "select 1 from t where name ilike ('a') and value not like ('b') and (a, b) overlaps (c, d)",
        "select 1 from t join (u cross join v) on true natural join (w) where not a like ('b')",
        "select 1 from t where lower(a) ilike (select b from u) or a[1] ilike ($1) or 'x' ilike (b)",
    ] {
        assert_eq!(classify(sql).access, Access::Read, "{sql}");
    }
}

#[test]
fn what_a_block_executes() {
    for sql in [
        "do $$ begin execute 'create temp table x ()'; end $$",
        "do $$ begin execute format('set %I to %L', a, b); end $$",
        "do $a$ begin execute $b$ do $c$ begin perform pg_advisory_lock(1); end $c$ $b$; end $a$",
        "do E'begin\\n create temp table x (); end'",
    ] {
        let class = classify(sql);
        assert_eq!((class.why, &*class.effects), (Why::Procedure, &[Effect::Pin(PinReason::Other)][..]), "{sql}");
    }
    assert!(
        classify("do $$ begin execute 'update t set a = ''b'''; raise notice 'done %', 1; end $$").effects.is_empty()
    );
}

/// In SJIS these are single characters: what follows the first byte is no operator.
#[test]
fn second_bytes_that_look_like_operators() {
    assert_eq!(classify("select あ|lower(1)").access, Access::Write);
    assert_eq!(classify("select 1 from あ where あ || 'い|' = 'x' and あ=1").access, Access::Read);
}
