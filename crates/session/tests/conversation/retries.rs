//! What is run again elsewhere, and what is not.

use crate::proxy::check;

#[test]
fn a_replica_that_refuses_is_replaced() {
    for (code, reason) in [
        ("40001", "conflict"),
        ("40P01", "conflict"),
        ("42P01", "not_replayed"),
        ("42703", "not_replayed"),
        ("42883", "not_replayed"),
        ("42501", "not_replayed"),
        ("42804", "not_replayed"),
        ("3F000", "not_replayed"),
        ("57P03", "server_lost"),
    ] {
        let fault: &'static str = format!("!fault replica error:{code} select").leak();
        let simple: &'static str = format!("r.Q(select 1) retry.{reason} p.Q(select 1)").leak();
        let extended: &'static str =
            format!("r.P(#1 select 1) r.B(#1) r.D r.E r.S retry.{reason} p.P(#1 select 1) p.B(#1) p.D p.E p.S").leak();
        let transaction: &'static str =
            format!("r.Q(BEGIN READ ONLY) r.Q(select 1) retry.{reason} p.Q(BEGIN READ ONLY) p.Q(select 1)").leak();
        check(&[
            (fault, "", ""),
            ("Q select 1", simple, "T D(1) C(SELECT 1) Z(I)"),
            (fault, "", ""),
            ("P s select 1 | B s | D p - | E | S", extended, "1 2 T D(1) C(SELECT 1) Z(I)"),
            ("B s | E | S", "r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
            ("Q begin read only", "", "C(BEGIN) Z(T)"),
            (fault, "", ""),
            ("Q select 1", transaction, "T D(1) C(SELECT 1) Z(T)"),
        ]);
    }
}

#[test]
fn what_a_replica_has_refused_is_learnt() {
    for code in ["25006", "55000", "0A000"] {
        let fault: &'static str = format!("!fault replica error:{code} select").leak();
        check(&[
            (fault, "", ""),
            ("Q select 1", "r.Q(select 1) retry.misrouted p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
            ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
            // Of the same shape, and prepared.
            ("Q select 2", "p.Q(select 2)", "T D(2) C(SELECT 1) Z(I)"),
            ("P s select 1 | B s | E | S", "p.P(#1 select 1) p.B(#1) p.E p.S", "1 2 D(1) C(SELECT 1) Z(I)"),
            ("Q show work_mem", "r.Q(show work_mem)", "T D(default) C(SHOW) Z(I)"),
        ]);
        check(&[
            (fault, "", ""),
            (
                "P s select 1 | B s | D p - | E | S",
                "r.P(#1 select 1) r.B(#1) r.D r.E r.S retry.misrouted p.P(#1 select 1) p.B(#1) p.D p.E p.S",
                "1 2 T D(1) C(SELECT 1) Z(I)",
            ),
            ("B s | E | S", "p.B(#1) p.E p.S", "2 D(1) C(SELECT 1) Z(I)"),
            ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ]);
        let primary: &'static str = format!("!fault primary error:{code} select").leak();
        let failed: &'static str = format!("T E({code}) Z(I)").leak();
        // The primary would not have it, either: nothing is known.
        check(&[
            (fault, "", ""),
            (primary, "", ""),
            ("Q select 1", "r.Q(select 1) retry.misrouted p.Q(select 1)", failed),
            ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ]);
    }
}

#[test]
fn other_errors_are_the_clients() {
    check(&[
        ("!fault replica error:42601 select", "", ""),
        ("Q select 1", "r.Q(select 1)", "T E(42601) Z(I)"),
        ("!fault replica error:22P02 select", "", ""),
        ("Q select 1", "r.Q(select 1)", "T E(22P02) Z(I)"),
        ("!fault replica error:22012 select", "", ""),
        ("Q select 1", "r.Q(select 1)", "T E(22012) Z(I)"),
        ("!fault primary error:40001 insert", "", ""),
        ("Q insert into t", "p.Q(insert into t)", "E(40001) Z(I)"),
        ("!fault primary error:42P01 select", "", ""),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q select 1", "p.Q(BEGIN) p.Q(select 1)", "T E(42P01) Z(E)"),
    ]);
}

#[test]
fn not_after_the_first_row() {
    check(&[
        ("!fault replica late-error:40001 select", "", ""),
        ("Q select 1", "r.Q(select 1)", "T D(early) E(40001) Z(I)"),
        ("!fault replica error:40001 select 2", "", ""),
        ("Q select 1; select 2", "r.Q(select 1; select 2)", "T D(1) C(SELECT 1) T E(40001) Z(I)"),
        ("Q begin read only", "", "C(BEGIN) Z(T)"),
        ("Q select 1", "r.Q(BEGIN READ ONLY) r.Q(select 1)", "T D(1) C(SELECT 1) Z(T)"),
        ("!fault replica error:40001 select", "", ""),
        ("Q select 1", "r.Q(select 1)", "T E(40001) Z(E)"),
    ]);
}

#[test]
fn a_primary_that_is_none_any_more() {
    check(&[
        ("!fault primary error:25006 insert", "", ""),
        ("Q insert into t", "p.Q(insert into t) retry.demoted p.Q(insert into t)", "C(INSERT 0 1) Z(I)"),
        ("!fault primary error:25006 insert", "", ""),
        ("!fault primary error:25006 insert", "", ""),
        ("Q insert into t", "p.Q(insert into t) retry.demoted p.Q(insert into t)", "E(25006) Z(I)"),
        ("!fault primary error:25006 BEGIN", "", ""),
        ("Q begin read write", "", "C(BEGIN) Z(T)"),
        (
            "Q insert into t",
            "p.Q(BEGIN READ WRITE) p.Q(insert into t) retry.demoted p.Q(BEGIN READ WRITE) p.Q(insert into t)",
            "C(INSERT 0 1) Z(T)",
        ),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        // Asked for by the client.
        ("Q begin read only", "", "C(BEGIN) Z(T)"),
        ("!fault primary error:25006 insert", "", ""),
        ("Q insert into t", "p.Q(BEGIN READ ONLY) p.Q(insert into t)", "E(25006) Z(E)"),
    ]);
}

#[test]
fn a_statement_in_parts_is_not_run_again() {
    check(&[
        ("!fault primary error:40001 select", "", ""),
        ("P - select 1 | B - | E | H", "p.P(- select 1) p.B(-) p.E p.H", "1 2 E(40001)"),
        ("S", "p.S", "Z(I)"),
    ]);
}
