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
    check(&["Q select 1; set work_mem to 1; prepare transaction 'x'"], "1");
    check(&[begin, "Q commit; set work_mem to 1; prepare transaction 'x'"], "1");
    check(&[begin, "Q select 1/0", "Q rollback; set work_mem to 1; prepare transaction 'x'"], "1");
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

#[test]
fn modes_are_set_before_the_first_statement() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q set transaction read only", "", "C(SET) Z(T)"),
        ("Q set transaction isolation level repeatable read", "", "C(SET) Z(T)"),
        ("Q select 1", "r.Q(BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY) r.Q(select 1)", "T D(1) C(SELECT 1) Z(T)"),
        ("Q commit", "r.Q(commit)", "C(COMMIT) Z(I)"),
        ("Q begin read only", "", "C(BEGIN) Z(T)"),
        ("Q set transaction_read_only = off", "", "C(SET) Z(T)"),
        ("Q insert into t", "p.Q(BEGIN READ WRITE) p.Q(insert into t)", "C(INSERT 0 1) Z(T)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn transactions_are_what_the_session_says() {
    check(&[
        ("Q set default_transaction_read_only to on", "p.Q(set default_transaction_read_only to on)", "C(SET) Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        (
            "Q select 1",
            "r.Q(SET default_transaction_read_only TO on;) r.Q(BEGIN) r.Q(select 1)",
            "T D(1) C(SELECT 1) Z(T)",
        ),
        ("Q commit", "r.Q(commit)", "C(COMMIT) Z(I)"),
        ("Q begin read write", "", "C(BEGIN) Z(T)"),
        ("Q select 1", "p.Q(BEGIN READ WRITE) p.Q(select 1)", "T D(1) C(SELECT 1) Z(T)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
    check(&[
        (
            "Q set default_transaction_isolation to 'serializable'",
            "p.Q(set default_transaction_isolation to 'serializable')",
            "C(SET) Z(I)",
        ),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("Q begin read only", "", "C(BEGIN) Z(T)"),
        ("Q select 1", "p.Q(BEGIN READ ONLY) p.Q(select 1)", "T D(1) C(SELECT 1) Z(T)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
}

const BEGIN: Line = ("Q begin read only", "", "C(BEGIN) Z(T)");
const READ: Line = ("Q select 1", "r.Q(BEGIN READ ONLY) r.Q(select 1)", "T D(1) C(SELECT 1) Z(T)");

#[test]
fn a_transaction_leaves_its_replica_for_what_only_the_primary_does() {
    check(&[
        BEGIN,
        READ,
        (
            "Q select txid_current()",
            "r.Q(SHOW transaction_isolation;ROLLBACK) p.Q(BEGIN READ ONLY) p.Q(select txid_current())",
            "T D(txid_current()) C(SELECT 1) Z(T)",
        ),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(T)"),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
        // By the extended protocol, with a statement that the other server has not got.
        (
            "P s select 1 | P f select txid_current() | S",
            "p.P(#1 select 1) p.P(#2 select txid_current()) p.S",
            "1 1 Z(I)",
        ),
        BEGIN,
        ("B s | E | S", "r.Q(BEGIN READ ONLY) r.P(#1 select 1) r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(T)"),
        (
            "B f | E | S",
            "r.Q(SHOW transaction_isolation;ROLLBACK) p.Q(BEGIN READ ONLY) p.B(#2) p.E p.S",
            "2 D(txid_current()) C(SELECT 1) Z(T)",
        ),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
    ]);
    // A read-only primary would refuse it, too.
    check(&[
        BEGIN,
        READ,
        ("Q insert into t", "r.Q(insert into t)", "E(25006) Z(E)"),
        ("Q rollback", "r.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn a_transaction_of_one_snapshot_stays_on_its_replica() {
    let begin = ("Q begin isolation level repeatable read read only", "", "C(BEGIN) Z(T)");
    let begun = "r.Q(BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY) r.Q(select 1)";
    let lock = ("Q select pg_advisory_lock(1)", "r.Q(ROLLBACK)", "E(40001) Z(E)");
    check(&[
        begin,
        ("Q select 1", begun, "T D(1) C(SELECT 1) Z(T)"),
        lock,
        ("Q select 1", "", "E(25P02) Z(E)"),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        // The next time it begins where it can go on.
        begin,
        ("Q select 1", "p.Q(BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY) p.Q(select 1)", "T D(1) C(SELECT 1) Z(T)"),
    ]);
    // What a savepoint has to bring back is on the replica.
    check(&[
        BEGIN,
        READ,
        ("Q savepoint a", "r.Q(savepoint a)", "C(SAVEPOINT) Z(T)"),
        ("Q select txid_current()", "r.Q(select txid_current())", "T D(txid_current()) C(SELECT 1) Z(T)"),
        ("Q select pg_advisory_lock(1)", "r.Q(ROLLBACK)", "E(40001) Z(E)"),
        ("Q rollback to a", "", "E(25P02) Z(E)"),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn a_chained_transaction_begins_where_it_may() {
    check(&[
        BEGIN,
        READ,
        ("Q commit and chain", "r.Q(commit and chain) r.Q(ROLLBACK)", "C(COMMIT) Z(T)"),
        ("!released", "", ""),
        READ,
        ("Q rollback and chain", "r.Q(rollback and chain) r.Q(ROLLBACK)", "C(ROLLBACK) Z(T)"),
        ("Q commit and chain", "", "C(COMMIT) Z(T)"),
        (
            "Q select txid_current()",
            "p.Q(BEGIN READ ONLY) p.Q(select txid_current())",
            "T D(txid_current()) C(SELECT 1) Z(T)",
        ),
        ("Q commit and chain", "p.Q(commit and chain)", "C(COMMIT) Z(T)"),
        ("!held", "", ""),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
    ]);
    // What it has set stays its own.
    Proxy::new(2).check(&[
        BEGIN,
        ("Q ", "r.Q(BEGIN READ ONLY) r.Q()", "I Z(T)"),
        ("Q set work_mem to 1", "r.Q(set work_mem to 1)", "C(SET) Z(T)"),
        ("Q commit and chain", "r.Q(commit and chain) r.Q(ROLLBACK)", "C(COMMIT) Z(T)"),
        ("2: Q commit", "p.Q(commit)", "N C(COMMIT) Z(I)"),
        ("2: Q show work_mem", "r.Q(RESET \"work_mem\";) r.Q(show work_mem)", "T D(default) C(SHOW) Z(I)"),
    ]);
}

#[test]
fn a_begin_in_front_of_reads_goes_with_them() {
    check(&[
        (
            "P - begin read only | B - | E | P - select 1 | B - | E | S",
            "r.P(- begin read only) r.B(-) r.E r.P(- select 1) r.B(-) r.E r.S",
            "1 2 C(BEGIN) 1 2 D(1) C(SELECT 1) Z(T)",
        ),
        ("!held", "", ""),
        (
            "Q select txid_current()",
            "r.Q(SHOW transaction_isolation;ROLLBACK) p.Q(BEGIN READ ONLY) p.Q(select txid_current())",
            "T D(txid_current()) C(SELECT 1) Z(T)",
        ),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
        // Alone it says nothing about what comes.
        ("P - begin read only | B - | E | S", "p.P(- begin read only) p.B(-) p.E p.S", "1 2 C(BEGIN) Z(T)"),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
        (
            "P - begin read only | B - | E | P - insert into t | B - | E | S",
            "p.P(- begin read only) p.B(-) p.E p.P(- insert into t) p.B(-) p.E p.S",
            "1 2 C(BEGIN) 1 2 E(25006) Z(E)",
        ),
    ]);
}

#[test]
fn a_wish_is_one_statements() {
    check(&[
        ("!stale", "", ""),
        ("Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(I)"),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        (
            "Q select 1 -- hakem: consistency=eventual",
            "r.Q(select 1 -- hakem: consistency=eventual)",
            "T D(1 -- hakem: consistency=eventual) C(SELECT 1) Z(I)",
        ),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        // What comes behind it in the same request wishes nothing.
        (
            "P - select 1 -- hakem: consistency=bounded | P - select 1 | B - | E | S",
            "p.P(- select 1 -- hakem: consistency=bounded) p.P(- select 1) p.B(-) p.E p.S",
            "1 1 2 D(1) C(SELECT 1) Z(I)",
        ),
        ("Q set hakem.consistency = 'eventual'", "", "C(SET) Z(I)"),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        (
            "Q select 1 -- hakem: consistency=session",
            "p.Q(select 1 -- hakem: consistency=session)",
            "T D(1 -- hakem: consistency=session) C(SELECT 1) Z(I)",
        ),
    ]);
}
