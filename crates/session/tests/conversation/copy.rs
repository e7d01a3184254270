//! COPY in both protocols, and what comes too late for it.

use crate::proxy::check;

#[test]
fn simple() {
    check(&[
        ("Q copy t from stdin", "p.Q(copy t from stdin)", "G"),
        ("d 1 | d 2 | c", "p.d p.d p.c", "C(COPY 1) Z(I)"),
        ("!released", "", ""),
        ("Q copy t from stdin", "p.Q(copy t from stdin)", "G"),
        ("d 1 | f no", "p.d p.f", "E(57014) Z(I)"),
        ("!released", "", ""),
        ("d late | c", "", ""),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn extended() {
    let begun = "p.P(- copy t from stdin) p.B(-) p.E p.H";
    check(&[
        ("P - copy t from stdin | B - | E | S", begun, "1 2 G"),
        ("d 1", "p.d", ""),
        ("c | S", "p.c p.S", "C(COPY 1) Z(I)"),
        ("!released", "", ""),
        ("P - copy t from stdin | B - | E | S", begun, "1 2 G"),
        ("f no", "p.f", "E(57014)"),
        ("d late | c", "", ""),
        ("S", "p.S", "Z(I)"),
        ("!released", "", ""),
        (
            "P - copy t from stdin | B - | E | S | d 1 | c | S",
            "p.P(- copy t from stdin) p.B(-) p.E p.H p.d p.c p.S",
            "1 2 G C(COPY 1) Z(I)",
        ),
    ]);
}

#[test]
fn the_sync_may_come_after_the_server_is_done() {
    check(&[
        ("P - copy t from stdin | B - | E | H", "p.P(- copy t from stdin) p.B(-) p.E p.H", "1 2 G"),
        ("d 1 | c", "p.d p.c", ""),
        ("S", "p.S", "C(COPY 1) Z(I)"),
        ("!released", "", ""),
    ]);
}

#[test]
fn a_copy_that_never_begins() {
    check(&[
        ("!fault primary error:42P01 copy", "", ""),
        ("P - copy t from stdin | B - | E | S", "p.P(- copy t from stdin) p.B(-) p.E p.H p.S", "1 2 E(42P01) Z(I)"),
        ("!released", "", ""),
    ]);
}

#[test]
fn a_copy_behind_other_statements() {
    check(&[
        (
            "P - select 1 | B - | E | P - copy t from stdin | B - | E | S",
            "p.P(- select 1) p.B(-) p.E p.P(- copy t from stdin) p.B(-) p.E p.H",
            "1 2 D(1) C(SELECT 1) 1 2 G",
        ),
        ("d 1 | c | S", "p.d p.c p.S", "C(COPY 1) Z(I)"),
    ]);
}

#[test]
fn a_lost_server_ends_it() {
    check(&[
        ("Q copy t from stdin", "p.Q(copy t from stdin)", "G"),
        ("d 1", "p.d", ""),
        ("!lose", "", "E(08007) Z(I)"),
        ("d 2 | c", "", ""),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn what_does_not_belong_into_it() {
    check(&[
        ("P - copy t from stdin | B - | E | S", "p.P(- copy t from stdin) p.B(-) p.E p.H", "1 2 G"),
        ("S | H | d 1", "p.d", ""),
        ("c | S", "p.c p.S", "C(COPY 1) Z(I)"),
        ("Q copy t from stdin", "p.Q(copy t from stdin)", "G"),
        ("Q select 1", "p.Q(select 1)", "E(57014) Z(I)"),
        ("!released", "", ""),
    ]);
}

#[test]
fn a_copy_that_cannot_be_executed_sends_no_sync_of_its_own() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("P - copy t from stdin | B - | S", "p.Q(BEGIN) p.P(- copy t from stdin) p.B(-) p.S", "1 2 Z(T)"),
        ("!fault primary error:42501 copy", "", ""),
        ("E | Q select 1", "p.E p.Q(select 1)", "E(42501)"),
        ("S", "p.S", "Z(E)"),
    ]);
}

#[test]
fn data_that_does_not_wait_for_the_answer() {
    check(&[
        (
            "P - copy t from stdin | B - | E | d 1 | c | S | Q select 1",
            "p.P(- copy t from stdin) p.B(-) p.E p.d p.c p.S r.Q(select 1)",
            "1 2 G C(COPY 1) Z(I) T D(1) C(SELECT 1) Z(I)",
        ),
        ("!fault primary error:42P01 copy", "", ""),
        (
            "P - copy t from stdin | B - | E | d 1 | c | S",
            "p.P(- copy t from stdin) p.B(-) p.E p.d p.c p.S",
            "1 2 E(42P01) Z(I)",
        ),
        (
            "P - copy t from stdin | B - | E | d 1 | f no | S",
            "p.P(- copy t from stdin) p.B(-) p.E p.d p.f p.S",
            "1 2 G E(57014) Z(I)",
        ),
    ]);
}

#[test]
fn a_message_that_the_proxy_answers_itself_ends_it_too() {
    check(&[
        (
            "P - copy t from stdin | B - | E | C s s1 | S",
            "p.P(- copy t from stdin) p.B(-) p.E p.H p.C(-) p.S",
            "1 2 G E(57014) Z(I)",
        ),
        ("!released", "", ""),
    ]);
}
