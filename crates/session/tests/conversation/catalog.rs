//! What the catalogue says: prepared statements follow it, and transactions that may have changed it count.

use crate::proxy::check;

#[test]
fn prepared_statements_are_judged_anew() {
    check(&[
        ("P s select f(1) | S", "p.P(#1 select f(1)) p.S", "1 Z(I)"),
        ("P t select 1 | S", "r.P(#2 select 1) r.S", "1 Z(I)"),
        ("B s | E | S", wiped!("p.B(#1) p.E p.S"), "2 D(f(1)) C(SELECT 1) Z(I)"),
        ("!immutable f", "", ""),
        ("B s | E | S", "r.P(#1 select f(1)) r.B(#1) r.E r.S", "2 D(f(1)) C(SELECT 1) Z(I)"),
        ("B t | E | S", "r.B(#2) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        ("!volatile f", "", ""),
        ("B s | E | S", wiped!("p.B(#1) p.E p.S"), "2 D(f(1)) C(SELECT 1) Z(I)"),
        ("B t | E | S", "r.B(#2) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn the_unnamed_statement_and_those_of_sql_too() {
    check(&[
        ("Q prepare s as select f(1)", "p.Q(PREPARE #1 AS select f(1))", "C(PREPARE) Z(I)"),
        ("P - select f(1) | S", wiped!("p.P(- select f(1)) p.S"), "1 Z(I)"),
        ("!immutable f", "", ""),
        ("B - | E | S", "r.P(- select f(1)) r.B(-) r.E r.S", "2 D(f(1)) C(SELECT 1) Z(I)"),
        (
            "Q execute s",
            "r.P(- PREPARE #1 AS select f(1)) r.B(- hakem_prepare) r.E r.C r.S r.Q(execute #1 )",
            "T D(f(1)) C(SELECT 1) Z(I)",
        ),
    ]);
}

#[test]
fn what_may_have_changed_it_counts_when_it_is_committed() {
    check(&[
        ("Q create view v", "p.Q(create view v)", "C(CREATE TABLE) Z(I)"),
        ("!definitions 1", "", ""),
        ("P - create view w | B - | E | S", wiped!("p.P(- create view w) p.B(-) p.E p.S"), "1 2 C(CREATE TABLE) Z(I)"),
        ("!definitions 2", "", ""),
        ("Q insert into t", wiped!("p.Q(insert into t)"), "C(INSERT 0 1) Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q create view v", "p.Q(BEGIN) p.Q(create view v)", "C(CREATE TABLE) Z(T)"),
        ("Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(T)"),
        ("!definitions 2", "", ""),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
        ("!definitions 3", "", ""),
    ]);
}

#[test]
fn what_was_undone_does_not_count() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q create view v", "p.Q(BEGIN) p.Q(create view v)", "C(CREATE TABLE) Z(T)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        ("!definitions 0", "", ""),
        ("!fault primary error:42P07 create view v", "", ""),
        ("Q create view v", wiped!("p.Q(create view v)"), "E(42P07) Z(I)"),
        ("!definitions 0", "", ""),
        // One may have been committed before the other failed.
        ("!fault primary error:42P07 create view w", "", ""),
        (
            "Q begin; create view v; commit; create view w",
            wiped!("p.Q(begin; create view v; commit; create view w)"),
            "C(BEGIN) C(CREATE TABLE) C(COMMIT) E(42P07) Z(I)",
        ),
        ("!definitions 1", "", ""),
    ]);
}

#[test]
fn what_is_in_doubt_counts() {
    check(&[
        ("!fault primary die create view v", "", ""),
        ("Q create view v", "p.Q(create view v)", "E(08007) Z(I)"),
        ("!definitions 1", "", ""),
        // Not so what can have changed no catalogue: reads are to go on while there is no primary.
        ("!fault primary die insert into t", "", ""),
        ("Q insert into t", "p.Q(insert into t)", "E(08007) Z(I)"),
        ("!definitions 1", "", ""),
    ]);
}
