//! The table of what a client sees when its server is lost.

use crate::proxy::{Line, check};

const AGAIN: Line = ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)");

#[test]
fn a_read_without_a_result_is_run_again() {
    for fault in ["!fault replica die select", "!fault replica fatal:57P01 select"] {
        check(&[
            (fault, "", ""),
            ("Q select 1", "r.Q(select 1) retry.lost p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
            (fault, "", ""),
            (
                "P s select 1 | B s | E | S",
                "r.P(#1 select 1) r.B(#1) r.E r.S retry.lost p.P(#1 select 1) p.B(#1) p.E p.S",
                "1 2 D(1) C(SELECT 1) Z(I)",
            ),
        ]);
    }
}

#[test]
fn a_read_with_a_result_is_reported() {
    check(&[
        ("!fault replica late-die select", "", ""),
        ("Q select 1", "r.Q(select 1)", "T D(early) E(57P01) Z(I)"),
        AGAIN,
        ("!fault replica late-die select", "", ""),
        ("P - select 1 | B - | E | S", "r.P(- select 1) r.B(-) r.E r.S", "1 2 D(early) E(57P01) Z(I)"),
        AGAIN,
        ("!fault replica torn-die select", "", ""),
        ("Q select 1", "r.Q(select 1)", "T ..."),
    ]);
}

#[test]
fn a_write_is_uncertain() {
    for (fault, extended) in
        [("!fault primary die insert", "E(08007) Z(I)"), ("!fault primary fatal:57P01 insert", "1 2 E(08007) Z(I)")]
    {
        check(&[
            (fault, "", ""),
            ("Q insert into t", "p.Q(insert into t)", "E(08007) Z(I)"),
            AGAIN,
            (fault, "", ""),
            ("P - insert into t | B - | E | S", "p.P(- insert into t) p.B(-) p.E p.S", extended),
            AGAIN,
        ]);
    }
}

#[test]
fn a_transaction_is_certainly_undone() {
    let begin: Line = ("Q begin", "", "C(BEGIN) Z(T)");
    let insert: Line = ("Q insert into t", "p.Q(BEGIN) p.Q(insert into t)", "C(INSERT 0 1) Z(T)");
    check(&[
        begin,
        insert,
        ("!fault primary die update", "", ""),
        ("Q update t", "p.Q(update t)", "E(40001) Z(E)"),
        ("Q select 1", "", "E(25P02) Z(E)"),
        ("P - select 1 | B - | E | S", "", "E(25P02) Z(E)"),
        ("P - select 1 | H", "", "E(25P02)"),
        ("Q rollback | S", "", "Z(E)"),
        ("Q ", "", "I Z(E)"),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        AGAIN,
    ]);
    // Lost between two statements: it is told at the next.
    check(&[
        begin,
        insert,
        ("!lose", "", ""),
        ("Q select 1", "", "E(40001) Z(E)"),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        AGAIN,
    ]);
    check(&[begin, insert, ("!lose", "", ""), ("Q rollback", "", "C(ROLLBACK) Z(I)"), AGAIN]);
    check(&[
        begin,
        insert,
        ("!lose", "", ""),
        ("P - rollback | B - | D p - | E | S", "", "1 2 n C(ROLLBACK) Z(I)"),
        AGAIN,
    ]);
    // The first statement of a transaction.
    check(&[
        begin,
        ("!fault primary die insert", "", ""),
        ("Q insert into t", "p.Q(BEGIN) p.Q(insert into t)", "E(40001) Z(E)"),
        ("Q commit", "", "C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn a_commit_that_never_reached_a_server_fails() {
    for commit in ["Q commit", "P - commit | B - | E | S"] {
        check(&[
            ("Q begin", "", "C(BEGIN) Z(T)"),
            ("Q insert into t", "p.Q(BEGIN) p.Q(insert into t)", "C(INSERT 0 1) Z(T)"),
            ("!lose", "", ""),
            // Nobody reads command tags: a COMMIT that says ROLLBACK would pass for one.
            (commit, "", "E(40001) Z(I)"),
            AGAIN,
        ]);
    }
}

#[test]
fn a_rollback_of_nothing_is_run_again() {
    // As after a COMMIT that has failed, which many an application rolls back.
    check(&[
        ("!fault primary fatal:57P01 rollback", "", ""),
        ("Q rollback", "p.Q(rollback) retry.lost p.Q(rollback)", "N C(ROLLBACK) Z(I)"),
        AGAIN,
    ]);
}

#[test]
fn a_commit_is_uncertain() {
    for (commit, sent) in [("Q commit", "p.Q(commit)"), ("P - commit | B - | E | S", "p.P(- commit) p.B(-) p.E p.S")] {
        check(&[
            ("Q begin", "", "C(BEGIN) Z(T)"),
            ("Q insert into t", "p.Q(BEGIN) p.Q(insert into t)", "C(INSERT 0 1) Z(T)"),
            ("!fault primary die commit", "", ""),
            (commit, sent, "E(08007) Z(I)"),
            AGAIN,
        ]);
    }
}

#[test]
fn a_rollback_is_certain() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q insert into t", "p.Q(BEGIN) p.Q(insert into t)", "C(INSERT 0 1) Z(T)"),
        ("!fault primary die rollback", "", ""),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        AGAIN,
    ]);
}

#[test]
fn a_lost_transaction_takes_nothing_for_its_end_but_the_end() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q insert into t", "p.Q(BEGIN) p.Q(insert into t)", "C(INSERT 0 1) Z(T)"),
        ("!lose", "", ""),
        ("P - rollback | B - | E | P - insert into t | B - | E | S", "", "E(40001) Z(E)"),
        ("P r rollback | B r | E | S", "", "1 2 C(ROLLBACK) Z(I)"),
        ("B r | E | S", "p.P(#1 rollback) p.B(#1) p.E p.S", "2 N C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn settings_of_a_lost_transaction_are_undone() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q set work_mem to 1", "p.Q(BEGIN) p.Q(set work_mem to 1)", "C(SET) Z(T)"),
        ("!lose", "", ""),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        ("Q show work_mem", "r.Q(show work_mem)", "T D(default) C(SHOW) Z(I)"),
    ]);
}

#[test]
fn lost_between_the_parts_of_a_request() {
    check(&[
        ("P s select 1 | D s s | B s | H", "p.P(#1 select 1) p.D(#1) p.B(#1) p.H", "1 t T 2"),
        ("!lose", "", "E(57P01)"),
        ("B s | E | S", "", "Z(I)"),
        // The client has been told that it is prepared.
        ("B s | E | S", "r.P(#1 select 1) r.D(#1) r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn what_a_session_left_on_its_server_is_not_lost_unsaid() {
    let listen: Line = ("Q listen a; update t", "p.Q(listen a; update t)", "C(LISTEN) C(UPDATE 1) Z(I)");
    check(&[listen, ("!held", "", ""), ("!lose", "", ""), ("Q select 1", "", "E(57P01) Z(I)"), AGAIN]);
    check(&[listen, ("!fault primary die select", "", ""), ("Q select 1", "p.Q(select 1)", "E(57P01) Z(I)"), AGAIN]);
}

#[test]
fn a_pipeline_of_reads_is_run_again_from_the_first_that_was_not_answered() {
    check(&[
        ("!fault replica die select 2", "", ""),
        (
            "Q select 1 | Q select 2 | Q select 3",
            "r.Q(select 1) r.Q(select 2) r.Q(select 3) retry.lost p.Q(select 2) p.Q(select 3)",
            "T D(1) C(SELECT 1) Z(I) T D(2) C(SELECT 1) Z(I) T D(3) C(SELECT 1) Z(I)",
        ),
        ("!fault replica error:40001 select 2", "", ""),
        (
            "Q select 1 | Q select 2 | Q select 3",
            "r.Q(select 1) r.Q(select 2) r.Q(select 3) retry.conflict p.Q(select 2) p.Q(select 3)",
            "T D(1) C(SELECT 1) Z(I) T D(2) C(SELECT 1) Z(I) T D(3) C(SELECT 1) Z(I)",
        ),
        // The first has sent a row; those behind it have not.
        ("!fault replica late-die select 1", "", ""),
        (
            "Q select 1 | Q select 2",
            "r.Q(select 1) r.Q(select 2) r.Q(select 2)",
            "T D(early) E(57P01) Z(I) T D(2) C(SELECT 1) Z(I)",
        ),
    ]);
}

#[test]
fn every_write_of_a_lost_pipeline_is_uncertain() {
    check(&[
        ("!fault primary die insert into b", "", ""),
        (
            "Q insert into a | Q insert into b | Q select 1 | Q insert into c | Q select 2",
            "p.Q(insert into a) p.Q(insert into b) p.Q(select 1) p.Q(insert into c) p.Q(select 2) r.Q(select 2)",
            "C(INSERT 0 1) Z(I) E(08007) Z(I) E(57P01) Z(I) E(08007) Z(I) T D(2) C(SELECT 1) Z(I)",
        ),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("!fault primary die insert into b", "", ""),
        // It is certain that nothing was committed.
        (
            "Q insert into a | Q insert into b | Q select 1 | Q rollback",
            "p.Q(BEGIN) p.Q(insert into a) p.Q(insert into b) p.Q(select 1) p.Q(rollback)",
            "C(INSERT 0 1) Z(T) E(40001) Z(E) E(25P02) Z(E) C(ROLLBACK) Z(I)",
        ),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("!fault primary die insert into b", "", ""),
        // The server may have got to the COMMIT.
        (
            "Q insert into a | Q insert into b | Q commit",
            "p.Q(BEGIN) p.Q(insert into a) p.Q(insert into b) p.Q(commit)",
            "C(INSERT 0 1) Z(T) E(08007) Z(I) E(08007) Z(I)",
        ),
        AGAIN,
    ]);
}
