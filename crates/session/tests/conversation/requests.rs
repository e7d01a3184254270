//! Requests and their answers when nothing goes wrong: who gets what, in which order.

use crate::proxy::check;

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
