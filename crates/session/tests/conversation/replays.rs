//! Transactions whose server is lost, and which are run again on another.

use session::Policy;

use crate::proxy::{Line, Proxy, policy};

const AGAIN: Line = ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)");
const BEGIN: Line = ("Q begin", "", "C(BEGIN) Z(T)");
const INSERT: Line = ("Q insert into t", "p.Q(BEGIN) p.Q(insert into t)", "C(INSERT 0 1) Z(T)");
const COMMIT: Line = ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)");

fn check(lines: &[Line]) {
    check_with(policy(), lines);
}

fn check_with(policy: Policy, lines: &[Line]) {
    let mut proxy = Proxy::new(0);
    proxy.connect(Policy { transaction_replay: true, ..policy }, &[]);
    proxy.check(lines);
}

#[test]
fn a_transaction_goes_on_where_it_was() {
    // Between two statements.
    check(&[
        BEGIN,
        INSERT,
        ("!lose", "replay p.S p.Q(BEGIN) p.Q(insert into t)", ""),
        ("Q update t", "p.Q(update t)", "C(UPDATE 1) Z(T)"),
        COMMIT,
        AGAIN,
    ]);
    // In the middle of one.
    for fault in ["!fault primary die update", "!fault primary fatal:57P01 update"] {
        check(&[
            BEGIN,
            INSERT,
            (fault, "", ""),
            ("Q update t", "p.Q(update t) replay p.S p.Q(BEGIN) p.Q(insert into t) p.Q(update t)", "C(UPDATE 1) Z(T)"),
            COMMIT,
        ]);
    }
    // The first statement of a transaction.
    check(&[
        BEGIN,
        ("!fault primary die insert", "", ""),
        (
            "Q insert into t",
            "p.Q(BEGIN) p.Q(insert into t) replay p.S p.Q(BEGIN) p.Q(insert into t)",
            "C(INSERT 0 1) Z(T)",
        ),
        COMMIT,
    ]);
}

#[test]
fn twice_in_a_row() {
    check(&[
        BEGIN,
        INSERT,
        ("!fault primary die update", "", ""),
        ("!fault primary die insert", "", ""),
        (
            "Q update t",
            "p.Q(update t) replay p.S p.Q(BEGIN) p.Q(insert into t) p.Q(update t) \
             replay p.S p.Q(BEGIN) p.Q(insert into t) p.Q(update t)",
            "C(UPDATE 1) Z(T)",
        ),
        COMMIT,
        AGAIN,
    ]);
}

#[test]
fn another_answer_ends_it() {
    check(&[
        BEGIN,
        INSERT,
        ("P - select * from shifting | D s - | S", "p.P(- select * from shifting) p.D(-) p.S", "1 t T Z(T)"),
        ("!alter", "", ""),
        ("!lose", "replay p.S p.Q(BEGIN) p.Q(insert into t) p.P(- select * from shifting) p.D(-) p.S diverged", ""),
        ("Q select 1", "", "E(40001) Z(E)"),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        AGAIN,
    ]);
    // In the middle of an answer.
    check(&[
        BEGIN,
        INSERT,
        ("!fault primary late-die update", "", ""),
        (
            "P - update t | B - | E | S",
            "p.P(- update t) p.B(-) p.E p.S replay p.S p.Q(BEGIN) p.Q(insert into t) p.P(- update t) p.B(-) p.E p.S diverged",
            "1 2 D(early) E(40001) Z(E)",
        ),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
    ]);
    // Fewer messages than were heard: nobody waits for the rest.
    check(&[
        BEGIN,
        INSERT,
        ("!fault primary error:40P01 insert", "", ""),
        ("!fault primary die update", "", ""),
        (
            "Q update t",
            "p.Q(update t) replay p.S p.Q(BEGIN) p.Q(insert into t) p.Q(update t) diverged",
            "E(40001) Z(E)",
        ),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn what_it_needs_comes_first() {
    check(&[
        ("Q set work_mem = '1MB'", "p.Q(set work_mem = '1MB')", "C(SET) Z(I)"),
        ("P s select 1 | S", "r.Q(SET work_mem TO '1MB';) r.P(#1 select 1) r.S", "1 Z(I)"),
        ("P i insert into t | B i | E | S", "p.P(#2 insert into t) p.B(#2) p.E p.S", "1 2 C(INSERT 0 1) Z(I)"),
        BEGIN,
        ("B i | E | S", "p.Q(BEGIN) p.B(#2) p.E p.S", "2 C(INSERT 0 1) Z(T)"),
        ("B s | E | S", "p.P(#1 select 1) p.B(#1) p.E p.S", "2 D(1) C(SELECT 1) Z(T)"),
        (
            "!lose",
            "replay p.Q(SET work_mem TO '1MB';) p.P(#2 insert into t) p.S p.Q(BEGIN) p.B(#2) p.E p.S \
             p.P(#1 select 1) p.B(#1) p.E p.S",
            "",
        ),
        ("B s | E | S", "p.B(#1) p.E p.S", "2 D(1) C(SELECT 1) Z(T)"),
        COMMIT,
        ("!released", "", ""),
    ]);
}

#[test]
fn a_commit_that_was_sent_is_not_repeated() {
    check(&[BEGIN, INSERT, ("!fault primary die commit", "", ""), ("Q commit", "p.Q(commit)", "E(08007) Z(I)"), AGAIN]);
    // Unless it is certain that it has not taken effect.
    let traced = "p.P(#1 trace?) p.B(#1 hakem_trace) p.E p.C p.S";
    let insert: &str = format!("p.Q(BEGIN) p.Q(insert into t) {traced}").leak();
    let again: &str = format!("p.Q(commit) resolve(700) replay p.S {insert} p.Q(commit)").leak();
    // It is not sent before all else has been answered as before.
    let diverged: &str = format!("p.Q(commit) resolve(700) replay p.S {insert} diverged").leak();
    check_with(
        Policy { commit_resolution: true, ..policy() },
        &[
            ("!fate aborted", "", ""),
            BEGIN,
            ("Q insert into t", insert, "C(INSERT 0 1) Z(T)"),
            ("!fault primary die commit", "", ""),
            ("!fault primary error:40P01 insert", "", ""),
            ("Q commit", diverged, "E(40001) Z(I)"),
            AGAIN,
        ],
    );
    for (fate, sent, told) in [
        ("!fate aborted", again, "C(COMMIT) Z(I)"),
        ("!fate committed", "p.Q(commit) resolve(700)", "C(COMMIT) Z(I)"),
        ("!fate unknown", "p.Q(commit) resolve(700)", "E(08007) Z(I)"),
    ] {
        check_with(
            Policy { commit_resolution: true, ..policy() },
            &[
                (fate, "", ""),
                BEGIN,
                ("Q insert into t", insert, "C(INSERT 0 1) Z(T)"),
                ("!fault primary die commit", "", ""),
                ("Q commit", sent, told),
                AGAIN,
            ],
        );
    }
}

#[test]
fn what_is_not_kept() {
    // Too much of it.
    check_with(
        Policy { transaction_max: 30, ..policy() },
        &[
            BEGIN,
            INSERT,
            ("Q update t", "p.Q(update t)", "C(UPDATE 1) Z(T)"),
            ("!lose", "", ""),
            ("Q select 1", "", "E(40001) Z(E)"),
            ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        ],
    );
    // A ROLLBACK is what has happened.
    check(&[
        BEGIN,
        INSERT,
        ("!fault primary die rollback", "", ""),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        AGAIN,
    ]);
    // Said by the server for another reason than that it goes.
    check(&[
        BEGIN,
        INSERT,
        ("!fault primary fatal:25P03 update", "", ""),
        ("Q update t", "p.Q(update t)", "E(40001) Z(E)"),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
    ]);
    // Outside of a transaction.
    check(&[("!fault primary die insert", "", ""), ("Q insert into t", "p.Q(insert into t)", "E(08007) Z(I)")]);
}

#[test]
fn parts_and_pipelines() {
    check(&[
        BEGIN,
        INSERT,
        ("P - update t | D s - | H", "p.P(- update t) p.D(-) p.H", "1 t n"),
        ("!fault primary die update", "", ""),
        (
            "B - | E | S",
            "p.B(-) p.E p.S replay p.S p.Q(BEGIN) p.Q(insert into t) p.P(- update t) p.D(-) p.H p.B(-) p.E p.S",
            "2 C(UPDATE 1) Z(T)",
        ),
        COMMIT,
    ]);
    check(&[
        BEGIN,
        INSERT,
        ("!fault primary die update", "", ""),
        (
            "P - select 1 | B - | E | S | P - update t | B - | E | S",
            "p.P(- select 1) p.B(-) p.E p.S p.P(- update t) p.B(-) p.E p.S \
             replay p.S p.Q(BEGIN) p.Q(insert into t) p.P(- select 1) p.B(-) p.E p.S p.P(- update t) p.B(-) p.E p.S",
            "1 2 D(1) C(SELECT 1) Z(T) 1 2 C(UPDATE 1) Z(T)",
        ),
        COMMIT,
    ]);
}
