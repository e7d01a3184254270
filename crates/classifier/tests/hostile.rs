//! Text from anyone: no panic, no overflow, no unbounded work, and the invariants that the session relies on.

use classifier::{Access, Classifier, Effect, Options, PinReason, TEXT_BYTES_MAX, Why};
use proptest::prelude::*;
use std::fmt::Write;

/// Pieces of which SQL is made, right and wrong: random sequences of them reach further into the rules than random bytes.
const PIECES: &[&str] = &[
    "select",
    "insert",
    "update",
    "delete",
    "from",
    "where",
    "into",
    "for",
    "set",
    "reset",
    "show",
    "begin",
    "commit",
    "rollback",
    "to",
    "local",
    "session",
    "with",
    "as",
    "(",
    ")",
    ",",
    ";",
    ".",
    "::",
    "[",
    "]",
    "'a'",
    "'",
    "\"b\"",
    "\"",
    "$1",
    "$$",
    "$x$",
    "--",
    "\n",
    "/*",
    "*/",
    "1",
    "1.5e3",
    "0x",
    "nextval",
    "lower",
    "set_config",
    "current_setting",
    "hakem.route",
    "=",
    "<>",
    "-",
    "+",
    "\\",
    "e'",
    "u&'",
    "explain",
    "analyze",
    "copy",
    "stdout",
    "declare",
    "cursor",
    "do",
    "all",
    "in",
    "é",
    "\u{0}",
    "null",
    "true",
    "create",
    "function",
    "atomic",
    "case",
    "end",
    "pg_temp",
    "time",
    "zone",
    "default",
    "union",
    "order",
    "by",
    "limit",
    "join",
    "on",
    "lateral",
    "values",
    "table",
    "not",
    "and",
    "between",
    "interval",
];

fn sql() -> impl Strategy<Value = String> {
    prop::collection::vec((prop::sample::select(PIECES), prop::bool::ANY), 0..40).prop_map(|pieces| {
        pieces.into_iter().map(|(piece, space)| format!("{piece}{}", if space { " " } else { "" })).collect()
    })
}

fn check_invariants(sql: &str) {
    let classifier = Classifier::new(Options::default());
    let afresh = classifier.classify_uncached(sql);
    assert!(afresh.effects.is_empty() || afresh.access == Access::Write, "{sql}");
    assert!(afresh.effects.len() <= afresh.statements, "{sql}");
    assert_eq!(*classifier.classify(sql), afresh, "{sql}");
    assert_eq!(*classifier.classify(sql), afresh, "{sql}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text(sql in ".{0,200}") {
        check_invariants(&sql);
    }

    #[test]
    fn any_pieces(sql in sql()) {
        check_invariants(&sql);
    }

    /// One classifier that has seen a statement judges another of its shape as a new one would.
    #[test]
    fn shapes_do_not_collide(sql in sql(), literals in prop::collection::vec("'[a-z_]{0,12}'|[0-9]{1,3}", 2)) {
        let classifier = Classifier::new(Options::default());
        for literal in &literals {
            for template in ["select current_setting(%), %", "do %", "select set_config(%, 'x', false)", "%;%", "select % from t"] {
                let sql = template.replacen('%', literal, 1).replacen('%', &sql, 1);
                prop_assert_eq!(&*classifier.classify(&sql), &classifier.classify_uncached(&sql), "{}", sql);
            }
        }
    }
}

#[test]
fn shapes_keep_what_literals_decide() {
    let classifier = Classifier::new(Options::default());
    for (sql, access) in [
        ("select current_setting('search_path')", Access::Read),
        ("select current_setting('in_hot_standby')", Access::Write),
        ("select current_setting('search_path') /* hakem: primary */", Access::Read),
        ("select * from t where a = 1", Access::Read),
        (r"select * from t where a = '\', 's', mine(''", Access::Write),
        ("select * from t where a = 2", Access::Read),
    ] {
        assert_eq!(classifier.classify(sql).access, access, "{sql}");
    }
    assert!(classifier.classify("do 'begin perform 1; end'").effects.is_empty());
    assert_eq!(*classifier.classify("do 'begin set a.b = 1; end'").effects, [Effect::Pin(PinReason::Other)]);
    assert_eq!(
        classifier.classify("/* hakem: primary */ select 5").hint,
        Some(classifier::Hint::place(classifier::Place::Primary))
    );
    assert_eq!(classifier.classify("select 6").hint, None);
}

#[test]
fn deep_or_long_is_a_write() {
    let classifier = Classifier::new(Options::default());
    let nested =
        |open: &str, close: &str, depth: usize| format!("select {}1{}", open.repeat(depth), close.repeat(depth));
    for sql in [
        nested("(", ")", 100_000),
        nested("(", "", 100_000),
        nested("lower(", ")", 50_000),
        nested("(select ", ")", 20_000),
        nested("case when ", " then 1 end", 20_000),
        nested("array[", "]", 20_000),
        nested("not ", "", 20_000),
        nested("- ", "", 40_000),
        nested("1 + ", "", 20_000),
        nested("", "::int", 20_000),
        nested("", " union select 1", 20_000),
        nested("", "[1]", 30_000),
        format!("select {}1{}", "(".repeat(10_000), ") a()".repeat(10_000)),
        format!("select 1 from t{}", " join t using (a)".repeat(20_000)),
        format!("select 1 from {}t{}", "(".repeat(40_000), ")".repeat(40_000)),
        format!("select a{} from t", ", a".repeat(200_000)),
        format!("with {} select 1", "a as (select 1),".repeat(20_000)),
        format!("explain {} select 1", "explain ".repeat(20_000)),
        format!("select {}", "/*".repeat(100_000)),
        format!("select 1 {}", ", rollup(".repeat(200_000)),
        format!("select {}", "set_config('a', ".repeat(100_000)) + &", true)".repeat(100_000),
        format!("select {}", "current_setting(".repeat(200_000)),
        format!("select 1 {}", ") v(a) as (".repeat(100_000)),
        "begin ".repeat(200_000),
        "create function begin ".repeat(100_000),
        "'".repeat(100_001),
    ] {
        let class = classifier.classify(&sql);
        assert_eq!(class.access, Access::Write, "{}", &sql[..sql.len().min(60)]);
    }
    let class = classifier.classify(&format!("{} select pg_advisory_lock(1)", "select 1;".repeat(10_000)));
    assert_eq!((class.statements, class.access), (10_001, Access::Write));
    assert_eq!(*class.effects, [Effect::Pin(PinReason::AdvisoryLock)]);
    let long = format!("select '{}'", "x".repeat(TEXT_BYTES_MAX));
    let class = classifier.classify(&long);
    assert_eq!((class.why, &*class.effects), (Why::TooComplex, &[Effect::Pin(PinReason::Other)][..]));
}

#[test]
fn large_but_plain_is_a_read() {
    let classifier = Classifier::new(Options::default());
    let list = (0..100_000).fold(String::new(), |mut list, n| {
        write!(list, "{}{n}", if n == 0 { "" } else { ", " }).expect("a String takes it");
        list
    });
    for sql in [
        format!("select * from t where a in ({list})"),
        format!("select '{}'", "x".repeat(1_000_000)),
        format!("select 1{}", " + 1".repeat(1_500)),
        format!("select * from t where a = 1{}", " or a = 1".repeat(600)),
        format!("select * from t{}", " join u using (a)".repeat(30)),
        format!("select {}1{}", "(".repeat(20), ")".repeat(20)),
        format!("select 1 from {}t join u using (a){}", "(".repeat(8), ")".repeat(8)),
        format!("select {}1{}", "(select ".repeat(12), ")".repeat(12)),
    ] {
        let class = classifier.classify(&sql);
        assert_eq!(class.access, Access::Read, "{}: {}", class.why, &sql[..sql.len().min(60)]);
    }
}
