//! Errors: what is discarded, until when, and what a client that is refused may do next.

use crate::proxy::{Proxy, check, policy};

#[test]
fn an_error_discards_until_sync() {
    check(&[
        (
            "P - select 1/0 | B - | E | P s select 2 | B s | E | S",
            "r.P(- select 1/0) r.B(-) r.E r.P(#1 select 2) r.B(#1) r.E r.S",
            "1 2 D(1/0) E(22012) Z(I)",
        ),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn an_error_is_told_at_once() {
    check(&[
        ("P - wrong | B - | H", "p.P(- wrong) p.B(-) p.H", "E(42601)"),
        ("B - | E | H", "", ""),
        ("S", "p.S", "Z(I)"),
        ("!released", "", ""),
        ("P - wrong | H", wiped!("p.P(- wrong) p.S"), "E(42601)"),
        ("!released", "", ""),
        ("B - | E | H", "", ""),
        ("S", "", "Z(I)"),
        ("!released", "", ""),
    ]);
}

#[test]
fn a_simple_query_is_discarded_too() {
    check(&[
        ("P - wrong | Q insert into t", "p.P(- wrong) p.Q(insert into t)", "E(42601)"),
        ("Q insert into t | F", "", ""),
        ("!held", "", ""),
        ("S", "p.S", "Z(I)"),
        ("!released", "", ""),
        ("P - wrong | H", wiped!("p.P(- wrong) p.S"), "E(42601)"),
        ("Q insert into t", "", ""),
        ("S", "", "Z(I)"),
        ("!released", "", ""),
    ]);
}

#[test]
fn a_simple_query_behind_an_extended_one() {
    check(&[(
        "P - insert into t | B - | E | Q select 1",
        "p.P(- insert into t) p.B(-) p.E p.Q(select 1)",
        "1 2 C(INSERT 0 1) T D(1) C(SELECT 1) Z(I)",
    )]);
}

#[test]
fn refused_for_want_of_a_server() {
    check(&[
        ("!down", "", ""),
        ("Q select 1", "", "E(57P03) Z(I)"),
        ("P - select 1 | B - | E | S", "", "E(57P03) Z(I)"),
        ("P - select 1 | H", "", "E(57P03)"),
        ("Q select 1 | B - | E | S", "", "Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q select 1", "", "E(57P03) Z(E)"),
        ("Q select 1", "", "E(25P02) Z(E)"),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        ("!up", "", ""),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn a_request_too_large_to_keep_goes_out_in_parts() {
    let mut proxy = Proxy::new(0);
    proxy.connect(session::Policy { request_max: 20, ..policy() }, &[]);
    proxy.check(&[
        // Without a Flush the server says nothing yet.
        ("P - select a long enough one", "p.P(- select a long enough one)", ""),
        ("!held", "", ""),
        ("B - | E", "p.B(-) p.E", ""),
        ("S", "p.S", "1 2 D(a long enough one) C(SELECT 1) Z(I)"),
        ("!released", "", ""),
        (
            "P s wrong but long | P t select something else",
            "p.P(#1 wrong but long) p.P(#2 select something else)",
            "E(42601)",
        ),
        ("S", "p.S", "Z(I)"),
        ("B t | S", wiped!("p.B(t) p.S"), "E(26000) Z(I)"),
    ]);
}
