//! Requests and their answers when nothing goes wrong: who gets what, in which order.

use crate::proxy::{Proxy, check};

#[test]
fn simple_queries() {
    check(&[
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("Q insert into t values (1)", "p.Q(insert into t values (1))", "C(INSERT 0 1) Z(I)"),
        ("Q select 1; select 2", "r.Q(select 1; select 2)", "T D(1) C(SELECT 1) T D(2) C(SELECT 1) Z(I)"),
        ("Q select 1; insert into t", "p.Q(select 1; insert into t)", "T D(1) C(SELECT 1) C(INSERT 0 1) Z(I)"),
        ("Q ", "r.Q()", "I Z(I)"),
        ("!released", "", ""),
        ("F", "p.F", "V Z(I)"),
    ]);
}

#[test]
fn an_extended_request_goes_out_whole() {
    check(&[
        ("P - select 1 | B - | D p - | E", "", ""),
        ("S", "r.P(- select 1) r.B(-) r.D r.E r.S", "1 2 T D(1) C(SELECT 1) Z(I)"),
        ("!released", "", ""),
        ("S", "", "Z(I)"),
    ]);
}

#[test]
fn a_read_is_not_taken_for_the_write_that_was_the_unnamed_statement_before() {
    check(&[
        ("P - insert into t | B - | E | S", "p.P(- insert into t) p.B(-) p.E p.S", "1 2 C(INSERT 0 1) Z(I)"),
        ("P - select 1 | B - | E | S", "r.P(- select 1) r.B(-) r.E r.S", "1 2 D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    check(&[(
        "P s select 1 | S | B s | E | S | Q insert into t | S | B s | E | S",
        "r.P(#1 select 1) r.S r.B(#1) r.E r.S p.Q(insert into t) r.B(#1) r.E r.S",
        "1 Z(I) 2 D(1) C(SELECT 1) Z(I) C(INSERT 0 1) Z(I) Z(I) 2 D(1) C(SELECT 1) Z(I)",
    )]);
}

#[test]
fn a_flush_sends_a_part_and_keeps_the_server() {
    check(&[
        ("P - select 1 | B - | D p - | H", "p.P(- select 1) p.B(-) p.D p.H", "1 2 T"),
        ("!held", "", ""),
        ("E | H", "p.E p.H", "D(1) C(SELECT 1)"),
        ("S", "p.S", "Z(I)"),
        ("!released", "", ""),
    ]);
}

#[test]
fn what_only_prepares_holds_no_server_until_its_sync() {
    check(&[
        ("P s select 1 | D s s | H", "r.P(#1 select 1) r.D(#1) r.S", "1 t T"),
        ("!released", "", ""),
        ("S", "", "Z(I)"),
        ("P - select 2 | D s - | H", "r.P(- select 2) r.D(-) r.S", "1 t T"),
        ("!released", "", ""),
        ("B - | E | S", "r.P(- select 2) r.D(-) r.B(-) r.E r.S", "2 D(2) C(SELECT 1) Z(I)"),
        // What follows at once, too, is dropped when it fails.
        ("P - wrong | H | B - | E | Q insert into t", "p.P(- wrong) p.S", "E(42601)"),
        ("S | B s | E | S", "r.B(#1) r.E r.S", "Z(I) 2 D(1) C(SELECT 1) Z(I)"),
        // In a transaction the server is the transaction's.
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("P s3 select 3 | H", wiped!("p.Q(BEGIN) p.P(#2 select 3) p.H"), "1"),
        ("S", "p.S", "Z(T)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn requests_for_one_server_do_not_wait_for_answers() {
    let mut proxy = Proxy::new(1);
    proxy.check(&[
        (
            "Q insert into t | Q select 1 | P - select 2 | B - | E | S | Q begin | Q insert into t | Q commit",
            "p.Q(insert into t) p.Q(select 1) p.P(- select 2) p.B(-) p.E p.S p.Q(begin) p.Q(insert into t) p.Q(commit)",
            "C(INSERT 0 1) Z(I) T D(1) C(SELECT 1) Z(I) 1 2 D(2) C(SELECT 1) Z(I) C(BEGIN) Z(T) C(INSERT 0 1) Z(T) C(COMMIT) Z(I)",
        ),
        ("!released", "", ""),
    ]);
    assert_eq!(proxy.ahead, 5);
    // Reads follow reads on a replica; a write goes to the primary when they have been answered.
    proxy.check(&[(
        "Q select 1 | Q select 2 | Q insert into t | Q select 3",
        "r.Q(select 1) r.Q(select 2) p.Q(insert into t) p.Q(select 3)",
        "T D(1) C(SELECT 1) Z(I) T D(2) C(SELECT 1) Z(I) C(INSERT 0 1) Z(I) T D(3) C(SELECT 1) Z(I)",
    )]);
    assert_eq!(proxy.ahead, 7);
}

#[test]
fn a_pipeline_is_bounded() {
    let mut proxy = Proxy::new(1);
    let requests = crate::script::requests("Q insert into t");
    let count = session::LEASE_REQUESTS_MAX + 10;
    let answer = proxy.exchange(0, &requests.repeat(count));
    assert_eq!(crate::script::replies(&answer).matches("Z(I)").count(), count);
    // Where the lease ended, and wherever as many were on their way as may be, one waited.
    assert!(proxy.ahead < count - 1 && proxy.ahead > count / 2, "{}", proxy.ahead);
    assert!(proxy.most_ahead <= session::FLIGHT_REQUESTS_MAX, "{}", proxy.most_ahead);
}

#[test]
fn each_request_of_a_pipeline_fails_by_itself() {
    check(&[
        ("Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(I)"),
        (
            "Q insert into t | P - insert into t | B - | E | P - select 1/0 | B - | E | P s select 2 | S | P t select 3 | S | B t | E | S",
            "p.Q(insert into t) p.P(- insert into t) p.B(-) p.E p.P(- select 1/0) p.B(-) p.E p.P(#1 select 2) p.S p.P(#2 select 3) p.S r.P(#2 select 3) r.B(#2) r.E r.S",
            "C(INSERT 0 1) Z(I) 1 2 C(INSERT 0 1) 1 2 D(1/0) E(22012) Z(I) 1 Z(I) 2 D(3) C(SELECT 1) Z(I)",
        ),
        // The name that the failed request would have defined is free.
        ("B s | E | S", "p.B(s) p.E p.S", "E(26000) Z(I)"),
    ]);
}

#[test]
fn a_portal_is_fetched_in_portions() {
    check(&[
        ("P - select 3 rows | B - c | E c 2 | S", "r.P(- select 3 rows) r.B(- c) r.E r.S", "1 2 D(row) D(row) s Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        (
            "P - select 3 rows | B - c | E c 2 | S",
            "p.Q(BEGIN) p.P(- select 3 rows) p.B(- c) p.E p.S",
            "1 2 D(row) D(row) s Z(T)",
        ),
        ("E c 2 | S", "p.E p.S", "D(row) C(SELECT 1) Z(T)"),
        ("C p c | S", "p.C p.S", "3 Z(T)"),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
    ]);
}
