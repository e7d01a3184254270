//! Columns that change between being told and being sent.

use session::Policy;

use crate::proxy::{Line, Proxy, check, policy};

const TELL: Line = ("P s select shifting | D s s | S", "r.P(#1 select shifting) r.D(#1) r.S", "1 t T Z(I)");

const BOUND: &str = "2 D(shifting) C(SELECT 1) Z(I)";

#[test]
fn a_read_that_nobody_may_see_is_run_again_and_refused() {
    check(&[
        TELL,
        ("B s | E | S", "r.B(#1) r.E r.S", BOUND),
        ("!alter", "", ""),
        ("!stale", "", ""),
        ("Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(I)"),
        (
            "B s | E | S",
            "p.P(#1 select shifting) p.D(#1) p.B(#1) p.E p.S retry.outdated p.C(#1) p.P(#1 select shifting) p.D(#1) p.H p.D(unknown) p.E p.S",
            "E(0A000) Z(I)",
        ),
        (
            "B s | E | S",
            "p.C(#1) p.P(#1 select shifting) p.D(#1) p.B(#1) p.E p.S retry.outdated p.C(#1) p.P(#1 select shifting) p.D(#1) p.H p.D(unknown) p.E p.S",
            "E(0A000) Z(I)",
        ),
        ("C s s | P s select shifting | D s s | S", "p.D(#1) p.S", "3 1 t T Z(I)"),
        ("B s | E | S", "p.B(#1) p.E p.S", BOUND),
    ]);
}

#[test]
fn what_has_been_described_once_costs_nothing() {
    check(&[
        TELL,
        ("!stale", "", ""),
        ("Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(I)"),
        ("B s | E | S", "p.P(#1 select shifting) p.D(#1) p.B(#1) p.E p.S", BOUND),
        ("B s | E | S", "p.B(#1) p.E p.S", BOUND),
        (
            "B s | E | B s | E | S",
            "p.B(#1) p.E p.B(#1) p.E p.S",
            "2 D(shifting) C(SELECT 1) 2 D(shifting) C(SELECT 1) Z(I)",
        ),
    ]);
}

#[test]
fn in_a_transaction_nothing_is_sent_before_the_columns_are_known() {
    check(&[
        TELL,
        ("!alter", "", ""),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("B s | E | S", "p.Q(BEGIN) p.P(#1 select shifting) p.D(#1) p.H p.D(unknown) p.E p.S", "E(0A000) Z(E)"),
        ("B s | E | S", "p.B(#1) p.E p.S", "E(25P02) Z(E)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn a_write_waits_for_the_servers_word() {
    let mut proxy = Proxy::new(2);
    proxy.check(&[
        ("P s insert shifting returning | D s s | S", "p.P(#1 insert shifting returning) p.D(#1) p.S", "1 t T Z(I)"),
        ("B s | E | S", "p.B(#1) p.E p.S", "2 D(new) C(INSERT 0 1) Z(I)"),
        ("2: Q begin", "", "C(BEGIN) Z(T)"),
        ("2: Q insert", "p.Q(BEGIN) p.Q(insert)", "C(INSERT 0 1) Z(T)"),
        ("B s | E | S", "p.P(#1 insert shifting returning) p.D(#1) p.H p.B(#1) p.E p.S", "2 D(new) C(INSERT 0 1) Z(I)"),
        ("!alter", "", ""),
        ("B s | E | S", "p.B(#1) p.E p.S", "E(0A000) Z(I)"),
        ("B s | E | S", "p.C(#1) p.P(#1 insert shifting returning) p.D(#1) p.H p.D(unknown) p.E p.S", "E(0A000) Z(I)"),
        ("2: Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
    // The other one's is not: it was rolled back.
    assert_eq!(proxy.faults.borrow().inserted.len(), 2);
}

#[test]
fn who_was_told_the_newer_columns_gets_them_of_a_server_that_had_the_older_ones() {
    let mut proxy = Proxy::new(0);
    (0..2).for_each(|_| proxy.connect(Policy { split: false, ..policy() }, &[]));
    proxy.check(&[
        ("P s select shifting | D s s | S", "p.P(#1 select shifting) p.D(#1) p.S", "1 t T Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("B s | E | S", "p.Q(BEGIN) p.B(#1) p.E p.S", "2 D(shifting) C(SELECT 1) Z(T)"),
        ("!alter", "", ""),
        ("2: P s select shifting | D s s | S", "p.P(#1 select shifting) p.D(#1) p.S", "1 t T Z(I)"),
        ("2: Q begin", "", "C(BEGIN) Z(T)"),
        ("2: Q select 1", "p.Q(BEGIN) p.Q(select 1)", "T D(1) C(SELECT 1) Z(T)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        ("2: Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        ("2: B s | E | S", "p.C(#1) p.P(#1 select shifting) p.D(#1) p.B(#1) p.E p.S", BOUND),
    ]);
}

#[test]
fn a_replica_that_is_behind_is_left_for_the_primary() {
    let mut proxy = Proxy::new(0);
    proxy.connect(Policy { route: session::Route::Primary, ..policy() }, &[]);
    proxy.check(&[
        ("!alter", "", ""),
        ("!lag", "", ""),
        ("P s select shifting | D s s | S", "p.P(#1 select shifting) p.D(#1) p.S", "1 t T Z(I)"),
        ("Q set hakem.route to auto", "", "C(SET) Z(I)"),
        ("B s | E | S", "r.P(#1 select shifting) r.D(#1) r.B(#1) r.E r.S retry.not_replayed p.B(#1) p.E p.S", BOUND),
        (
            "B s | E | S",
            "r.C(#1) r.P(#1 select shifting) r.D(#1) r.B(#1) r.E r.S retry.not_replayed p.B(#1) p.E p.S",
            BOUND,
        ),
    ]);
}

#[test]
fn the_unnamed_statement_has_a_shape_too() {
    check(&[
        ("P - select shifting | D s - | S", "r.P(- select shifting) r.D(-) r.S", "1 t T Z(I)"),
        ("B - | E | S", "r.P(- select shifting) r.D(-) r.B(-) r.E r.S", BOUND),
        ("!alter", "", ""),
        (
            "B - | E | S",
            "r.P(- select shifting) r.D(-) r.B(-) r.E r.S retry.not_replayed p.P(- select shifting) p.D(-) p.H p.D(unknown) p.E p.S",
            "E(0A000) Z(I)",
        ),
        // Another statement of the same text.
        ("P - select shifting | S", "r.P(- select shifting) r.S", "1 Z(I)"),
        ("B - | E | S", "r.P(- select shifting) r.B(-) r.E r.S", BOUND),
    ]);
}

#[test]
fn a_portals_description_counts() {
    check(&[
        (
            "P s select shifting | B s | D p - | E | S",
            "r.P(#1 select shifting) r.B(#1) r.D r.E r.S",
            "1 2 T D(shifting) C(SELECT 1) Z(I)",
        ),
        ("!alter", "", ""),
        ("!stale", "", ""),
        ("Q insert", "p.Q(insert)", "C(INSERT 0 1) Z(I)"),
        (
            "B s | E | S",
            "p.P(#1 select shifting) p.D(#1) p.B(#1) p.E p.S retry.outdated p.C(#1) p.P(#1 select shifting) p.D(#1) p.H p.D(unknown) p.E p.S",
            "E(0A000) Z(I)",
        ),
        // Whoever is told anew goes on.
        ("B s | D p - | E | S", "p.B(#1) p.D p.E p.S", "2 T D(shifting) C(SELECT 1) Z(I)"),
        ("B s | E | S", "p.B(#1) p.E p.S", BOUND),
    ]);
}

#[test]
fn what_follows_a_wait_comes_in_its_turn() {
    check(&[
        TELL,
        (
            "Q insert | B s | E | S | Q insert",
            "p.Q(insert) p.P(#1 select shifting) p.D(#1) p.H p.B(#1) p.E p.S p.Q(insert)",
            "C(INSERT 0 1) Z(I) 2 D(shifting) C(SELECT 1) Z(I) C(INSERT 0 1) Z(I)",
        ),
        ("!alter", "", ""),
        (
            "Q insert | B s | E | S | Q insert",
            "p.Q(insert) p.B(#1) p.E p.S p.Q(insert)",
            "C(INSERT 0 1) Z(I) E(0A000) Z(I) C(INSERT 0 1) Z(I)",
        ),
    ]);
}

#[test]
fn a_shape_is_asked_for_beside_another_statement_where_one_has_room() {
    let mut proxy = Proxy::new(1).prepared_max(1);
    proxy.check(&[
        ("P s4 update t returning | D s s4 | S", "p.P(#1 update t returning) p.D(#1) p.S", "1 t T Z(I)"),
        ("P s1 select 1 | D s s1 | S", "r.P(#2 select 1) r.D(#2) r.S", "1 t T Z(I)"),
        ("B s1 | B s4 | E | S", "p.P(#2 select 1) p.D(#2) p.H p.B(#2) p.B(#1) p.E p.S", "2 2 C(UPDATE 1) Z(I)"),
        // What was too much goes with the next one.
        ("P s2 insert | B s2 | E | S", "p.C(#2) p.C(#1) p.P(#3 insert) p.B(#3) p.E p.S", "1 2 C(INSERT 0 1) Z(I)"),
    ]);
}
