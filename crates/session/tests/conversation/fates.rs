//! What a client is told of a commit whose answer is lost, when it can be found out what became of it.

use session::Policy;

use crate::proxy::{Line, Proxy, policy};

const AGAIN: Line = ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)");

const BEGIN: Line = ("Q begin", "", "C(BEGIN) Z(T)");

/// The transaction's id is asked for behind its first write, by a statement that the server has not got.
const INSERT: Line = (
    "Q insert into t",
    "p.Q(BEGIN) p.Q(insert into t) p.P(#1 trace?) p.B(#1 hakem_trace) p.E p.C p.S",
    "C(INSERT 0 1) Z(T)",
);

fn check(lines: &[Line]) {
    let mut proxy = Proxy::new(0);
    proxy.connect(Policy { commit_resolution: true, ..policy() }, &[]);
    proxy.check(lines);
}

fn text(text: String) -> &'static str {
    text.leak()
}

#[test]
fn a_commit_is_told_what_became_of_it() {
    for (commit, sent, [done, undone, unknown]) in [
        ("Q commit", "p.Q(commit) resolve(700)", ["C(COMMIT) Z(I)", "E(40001) Z(I)", "E(08007) Z(I)"]),
        (
            "P - commit | B - | D p - | E | S",
            "p.P(- commit) p.B(-) p.D p.E p.S resolve(700)",
            ["1 2 n C(COMMIT) Z(I)", "E(40001) Z(I)", "E(08007) Z(I)"],
        ),
    ] {
        for (fate, told) in [("!fate committed", done), ("!fate aborted", undone), ("!fate unknown", unknown)] {
            check(&[(fate, "", ""), BEGIN, INSERT, ("!fault primary die commit", "", ""), (commit, sent, told), AGAIN]);
        }
    }
}

#[test]
fn a_commit_that_nothing_is_known_of_is_uncertain() {
    // It came with what it commits.
    let both = "Q insert into t; commit";
    check(&[
        ("!fate committed", "", ""),
        BEGIN,
        INSERT,
        ("!fault primary die insert", "", ""),
        (both, "p.Q(insert into t; commit)", "E(08007) Z(I)"),
        AGAIN,
    ]);
}

#[test]
fn what_could_not_be_asked_behind_a_write_is_asked_later() {
    check(&[
        ("!fate committed", "", ""),
        BEGIN,
        INSERT,
        ("P - insert into t | B - | E | H", "p.P(- insert into t) p.B(-) p.E p.H", "1 2 C(INSERT 0 1)"),
        ("S", "p.S p.B(#1 hakem_trace) p.E p.C p.S", "Z(T)"),
        ("!fault primary die commit", "", ""),
        ("Q commit", "p.Q(commit) resolve(700)", "C(COMMIT) Z(I)"),
    ]);
}

#[test]
fn an_error_takes_no_trace() {
    check(&[
        BEGIN,
        ("!fault primary error:23505 insert", "", ""),
        (
            "Q insert into t",
            "p.Q(BEGIN) p.Q(insert into t) p.P(#1 trace?) p.B(#1 hakem_trace) p.E p.C p.S",
            "E(23505) Z(E)",
        ),
        ("Q commit", "p.Q(commit)", "C(ROLLBACK) Z(I)"),
        AGAIN,
    ]);
}

/// What a write outside of a transaction is put into; the server has the question, or gets it.
const WRAPPED: &str = "p.Q(BEGIN) p.Q(insert into t) p.B(#1 hakem_trace) p.E p.C p.S p.Q(COMMIT)";
const FIRST: &str = "p.Q(BEGIN) p.Q(insert into t) p.P(#1 trace?) p.B(#1 hakem_trace) p.E p.C p.S p.Q(COMMIT)";

#[test]
fn writes_outside_of_transactions() {
    let insert = "Q insert into t";
    let done = "C(INSERT 0 1) Z(I)";
    let dies: Line = ("!fault primary die COMMIT", "", "");
    let again = text(format!("{WRAPPED} resolve(700) retry.lost {FIRST}"));
    let lost = text(format!("{WRAPPED} resolve(700)"));
    check(&[
        (insert, FIRST, done),
        (
            "P - insert into t returning | B - | E | S",
            "p.Q(BEGIN) p.P(- insert into t returning) p.B(-) p.E p.S p.B(#1 hakem_trace) p.E p.C p.S p.Q(COMMIT)",
            "1 2 D(new) C(INSERT 0 1) Z(I)",
        ),
        ("!fate committed", "", ""),
        dies,
        (insert, lost, done),
        AGAIN,
        (insert, FIRST, done),
        ("!fate aborted", "", ""),
        dies,
        // Nobody has been told anything, and nothing has come of it.
        (insert, again, done),
        ("!fate unknown", "", ""),
        dies,
        (insert, lost, "E(08007) Z(I)"),
        AGAIN,
    ]);
}

#[test]
fn what_is_lost_before_its_commit_is_run_again() {
    let lost = "p.Q(BEGIN) p.Q(insert into t) p.P(#1 trace?) p.B(#1 hakem_trace) p.E p.C p.S retry.lost";
    check(&[
        ("!fault primary die insert", "", ""),
        ("Q insert into t", text(format!("{lost} {FIRST}")), "C(INSERT 0 1) Z(I)"),
        AGAIN,
    ]);
}

#[test]
fn errors_outside_of_transactions() {
    check(&[
        ("!fault primary error:23505 insert", "", ""),
        ("Q insert into t", text(FIRST.replace("COMMIT", "ROLLBACK")), "E(23505) Z(I)"),
        ("!fault primary error:23505 insert", "", ""),
        (
            "P - insert into t | B - | E | S",
            "p.Q(BEGIN) p.P(- insert into t) p.B(-) p.E p.S p.P(#1 trace?) p.B(#1 hakem_trace) p.E p.C p.S p.Q(ROLLBACK)",
            "1 2 E(23505) Z(I)",
        ),
        AGAIN,
    ]);
}

#[test]
fn what_must_not_be_in_a_block_is_not() {
    check(&[
        ("Q create table t (n int)", "p.Q(create table t (n int))", "C(CREATE TABLE) Z(I)"),
        (
            "Q insert into t; insert into t",
            wiped!("p.Q(insert into t; insert into t)"),
            "C(INSERT 0 1) C(INSERT 0 1) Z(I)",
        ),
    ]);
}
