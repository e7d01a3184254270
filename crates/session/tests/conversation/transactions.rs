//! Transactions: the deferred BEGIN, their servers, their ends, and the settings that live and die with them.

use crate::proxy::{Line, Proxy, check};

#[test]
fn begin_goes_out_with_the_first_statement() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("!released", "", ""),
        ("Q select 1", "p.Q(BEGIN) p.Q(select 1)", "T D(1) C(SELECT 1) Z(T)"),
        ("!held", "", ""),
        ("Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(T)"),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
        ("!released", "", ""),
    ]);
}

#[test]
fn a_transaction_without_statements_needs_no_server() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("S", "", "Z(T)"),
        ("Q commit", "", "C(COMMIT) Z(I)"),
        ("Q start transaction isolation level serializable", "", "C(START TRANSACTION) Z(T)"),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q begin", "p.Q(BEGIN) p.Q(begin)", "N C(BEGIN) Z(T)"),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
        ("Q commit", "p.Q(commit)", "N C(COMMIT) Z(I)"),
    ]);
}

#[test]
fn the_modes_go_along() {
    let cases: &[(&str, &str)] = &[
        ("Q begin read write", "p.Q(BEGIN READ WRITE) p.Q(select 1)"),
        ("Q begin read only", "r.Q(BEGIN READ ONLY) r.Q(select 1)"),
        ("Q begin read only deferrable", "r.Q(BEGIN READ ONLY DEFERRABLE) r.Q(select 1)"),
        (
            "Q begin isolation level repeatable read, read only",
            "r.Q(BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY) r.Q(select 1)",
        ),
        // "cannot use serializable mode in a hot standby"
        (
            "Q begin isolation level serializable read only",
            "p.Q(BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY) p.Q(select 1)",
        ),
    ];
    for (begin, sent) in cases {
        check(&[(begin, "", "C(BEGIN) Z(T)"), ("Q select 1", sent, "T D(1) C(SELECT 1) Z(T)")]);
    }
}

#[test]
fn a_deferred_begin_goes_before_an_extended_request() {
    check(&[
        ("P s select 1 | S", "r.P(#1 select 1) r.S", "1 Z(I)"),
        ("C s s | S", "", "3 Z(I)"),
        ("Q begin read only", "", "C(BEGIN) Z(T)"),
        ("P s select 1 | B s | E | S", "r.Q(BEGIN READ ONLY) r.B(#1) r.E r.S", "1 2 D(1) C(SELECT 1) Z(T)"),
    ]);
}

#[test]
fn extended_transaction_control() {
    check(&[
        (
            "P - begin | B - | E | P - select 1 | B - | E | S",
            "p.P(- begin) p.B(-) p.E p.P(- select 1) p.B(-) p.E p.S",
            "1 2 C(BEGIN) 1 2 D(1) C(SELECT 1) Z(T)",
        ),
        ("!held", "", ""),
        ("P - commit | B - | E | S", "p.P(- commit) p.B(-) p.E p.S", "1 2 C(COMMIT) Z(I)"),
        ("!released", "", ""),
    ]);
}

#[test]
fn a_failed_transaction_waits_for_its_end() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q select 1/0", "p.Q(BEGIN) p.Q(select 1/0)", "T D(1/0) E(22012) Z(E)"),
        ("Q select 1", "p.Q(select 1)", "E(25P02) Z(E)"),
        ("Q ", "p.Q()", "I Z(E)"),
        ("P - select 1 | B - | E | S", "p.P(- select 1) p.B(-) p.E p.S", "E(25P02) Z(E)"),
        ("!held", "", ""),
        ("Q commit", "p.Q(commit)", "C(ROLLBACK) Z(I)"),
        ("!released", "", ""),
    ]);
}

#[test]
fn chains_and_savepoints_keep_the_server() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q insert into t", "p.Q(BEGIN) p.Q(insert into t)", "C(INSERT 0 1) Z(T)"),
        ("Q commit and chain", "p.Q(commit and chain)", "C(COMMIT) Z(T)"),
        ("!held", "", ""),
        ("Q savepoint a", "p.Q(savepoint a)", "C(SAVEPOINT) Z(T)"),
        ("Q select 1/0", "p.Q(select 1/0)", "T D(1/0) E(22012) Z(E)"),
        ("Q rollback to a", "p.Q(rollback to a)", "C(ROLLBACK) Z(T)"),
        ("Q release a", "p.Q(release a)", "C(RELEASE) Z(T)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        ("!released", "", ""),
    ]);
}

/// After this, the session has the first value or the second on whatever server it gets.
fn check_value(script: &[&'static str], value: &str) {
    let mut proxy = Proxy::new(1);
    for line in script {
        proxy.exchange(0, &crate::script::requests(line));
    }
    let shown = crate::script::replies(&proxy.exchange(0, &crate::script::requests("Q show work_mem")));
    assert_eq!(shown, format!("T D({value}) C(SHOW) Z(I)"), "{script:?}");
}

#[test]
fn settings_follow_the_rules_of_transactions() {
    let begin = "Q begin";
    let set = "Q set work_mem to 1";
    let check = check_value;
    check(&[set], "1");
    check(&[begin, set, "Q commit"], "1");
    check(&[begin, set, "Q rollback"], "default");
    check(&[set, begin, "Q reset work_mem", "Q rollback"], "1");
    check(&[begin, set, "Q select 1/0", "Q commit"], "default");
    check(&[begin, set, "Q select 1/0", "Q prepare transaction 'x'"], "default");
    check(&[begin, "Q savepoint a", set, "Q rollback to a", "Q commit"], "default");
    check(&[begin, set, "Q savepoint a", "Q set work_mem to 2", "Q select 1/0", "Q rollback to a", "Q commit"], "1");
    check(&[begin, "Q savepoint a", set, "Q release a", "Q commit"], "1");
    check(&[begin, set, "Q commit and chain", "Q set work_mem to 2", "Q rollback"], "1");
    check(&["Q set work_mem to 1; select 1/0"], "default");
    check(&["Q begin; set work_mem to 1; commit; select 1/0"], "1");
    check(&["P - set work_mem to 1 | B - | E | P - select 1/0 | B - | E | S"], "default");
    check(&["P - set work_mem to 1 | B - | E | H", "P - select 1/0 | B - | E | H", "S"], "default");
    check(&["P - set work_mem to 1 | B - | E | S", "P - reset work_mem | B - | E | S"], "default");
    check(&[set, "Q reset all"], "default");
    check(&[set, "Q discard all"], "default");
}

#[test]
fn a_write_is_seen_by_the_reads_that_follow() {
    let read: Line = ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)");
    check(&[
        ("!stale", "", ""),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(I)"),
        read,
        ("Q set hakem.consistency = 'bounded'", "", "C(SET) Z(I)"),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}
