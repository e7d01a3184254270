//! Prepared statements: the client's names, the servers' names, and the unnamed statement.

use crate::proxy::{Proxy, check};

#[test]
fn a_statement_is_prepared_where_it_is_needed() {
    check(&[
        ("P s select 1 | D s s | S", "r.P(#1 select 1) r.D(#1) r.S", "1 t T Z(I)"),
        ("B s | E | S", "r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("B s | E | S", "p.Q(BEGIN) p.P(#1 select 1) p.D(#1) p.H p.B(#1) p.E p.S", "2 D(1) C(SELECT 1) Z(T)"),
        ("B s | E | S", "p.B(#1) p.E p.S", "2 D(1) C(SELECT 1) Z(T)"),
        ("D s s | S", "p.D(#1) p.S", "t T Z(T)"),
    ]);
}

#[test]
fn clients_share_statements_of_the_same_text() {
    Proxy::new(2).check(&[
        ("P a select 1 | S", "r.P(#1 select 1) r.S", "1 Z(I)"),
        ("2: P b select 1 | B b | E | S", "r.B(#1) r.E r.S", "1 2 D(1) C(SELECT 1) Z(I)"),
        ("2: P c select 2 | S", "r.P(#2 select 2) r.S", "1 Z(I)"),
        ("C s a | S", "", "3 Z(I)"),
        ("2: B b | E | S", "r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        ("B a | E | S", "p.B(a) p.E p.S", "E(26000) Z(I)"),
    ]);
}

#[test]
fn literals_are_read_by_the_settings_of_who_prepared() {
    Proxy::new(2).check(&[
        ("Q set timezone to here", "p.Q(set timezone to here)", "C(SET) S(TimeZone=here) Z(I)"),
        (
            "P s select literal | B s | E | S",
            "r.Q(SET timezone TO here;) r.P(#1 select literal) r.B(#1) r.E r.S",
            "1 2 D(here) C(SELECT 1) Z(I)",
        ),
        (
            "2: P s select literal | B s | E | S",
            "r.Q(RESET \"timezone\";) r.P(#2 select literal) r.B(#2) r.E r.S",
            "1 2 D(default) C(SELECT 1) Z(I)",
        ),
    ]);
}

#[test]
fn the_least_recently_used_makes_room() {
    Proxy::new(1).prepared_max(2).check(&[
        ("P a select 1 | P b select 2 | S", "r.P(#1 select 1) r.P(#2 select 2) r.S", "1 1 Z(I)"),
        ("B a | E | S", "r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        ("P c select 3 | S", "r.C(#2) r.P(#3 select 3) r.S", "1 Z(I)"),
        ("B b | E | S", "r.C(#1) r.P(#2 select 2) r.B(#2) r.E r.S", "2 D(2) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn an_eviction_that_an_error_prevents_did_not_happen() {
    Proxy::new(1).prepared_max(2).check(&[
        ("P a select 1 | P b select 2 | S", "r.P(#1 select 1) r.P(#2 select 2) r.S", "1 1 Z(I)"),
        ("E gone | P c select 3 | S", "r.E r.C(#1) r.P(#3 select 3) r.S", "E(34000) Z(I)"),
        ("B b | E | B a | E | S", "r.B(#2) r.E r.B(#1) r.E r.S", "2 D(2) C(SELECT 1) 2 D(1) C(SELECT 1) Z(I)"),
        ("B c | E | S", "p.B(c) p.E p.S", "E(26000) Z(I)"),
    ]);
}

#[test]
fn a_name_is_defined_once() {
    check(&[
        ("P s select 1 | S", "r.P(#1 select 1) r.S", "1 Z(I)"),
        ("P s select 2 | B s | E | S", "r.D(unknown) r.B(#1) r.E r.S", "E(42P05) Z(I)"),
        ("B s | E | S", "r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        ("C s s | P s select 2 | B s | E | S", "r.P(#2 select 2) r.B(#2) r.E r.S", "3 1 2 D(2) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn what_was_discarded_is_undone() {
    check(&[
        ("P s select 1 | S", "r.P(#1 select 1) r.S", "1 Z(I)"),
        ("E gone | C s s | P s select 2 | S", "r.E r.P(#2 select 2) r.S", "E(34000) Z(I)"),
        ("B s | E | S", "r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        ("P t select 2 | E gone | P u select 3 | S", "r.P(#2 select 2) r.E r.P(#3 select 3) r.S", "1 E(34000) Z(I)"),
        ("B t | E | S", "r.B(#2) r.E r.S", "2 D(2) C(SELECT 1) Z(I)"),
        ("B u | S", "p.B(u) p.S", "E(26000) Z(I)"),
        ("P w wrong | S", wiped!("p.P(#4 wrong) p.S"), "E(42601) Z(I)"),
        ("P w select 4 | S", "r.P(#5 select 4) r.S", "1 Z(I)"),
    ]);
}

#[test]
fn what_does_not_exist_is_closed_all_the_same() {
    check(&[
        ("C s nothing | S", "", "3 Z(I)"),
        ("C s nothing | H", "", "3"),
        ("S", "", "Z(I)"),
        ("C p nothing | S", "r.C r.S", "3 Z(I)"),
    ]);
}

#[test]
fn the_unnamed_statement_follows_its_client() {
    Proxy::new(2).check(&[
        ("P - select 1 | S", "r.P(- select 1) r.S", "1 Z(I)"),
        ("2: P - select 2 | S", "r.P(- select 2) r.S", "1 Z(I)"),
        ("B - | E | S", "r.P(- select 1) r.B(-) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        ("D s - | S", "r.P(- select 1) r.D(-) r.S", "t T Z(I)"),
        ("Q select 3", "r.Q(select 3)", "T D(3) C(SELECT 1) Z(I)"),
        ("B - | E | S", "p.B(unknown) p.E p.S", "E(26000) Z(I)"),
    ]);
}

#[test]
fn a_simple_query_ends_the_unnamed_statement_in_its_turn() {
    check(&[
        ("P - select 1 | S", "r.P(- select 1) r.S", "1 Z(I)"),
        (
            "B - | E | Q select 2",
            "r.P(- select 1) r.B(-) r.E r.Q(select 2)",
            "2 D(1) C(SELECT 1) T D(2) C(SELECT 1) Z(I)",
        ),
        (
            "P - select 1 | B - | E | Q select 2",
            "r.P(- select 1) r.B(-) r.E r.Q(select 2)",
            "1 2 D(1) C(SELECT 1) T D(2) C(SELECT 1) Z(I)",
        ),
        ("B - | E | S", "p.B(unknown) p.E p.S", "E(26000) Z(I)"),
    ]);
}

#[test]
fn another_clients_unnamed_statement_is_never_executed() {
    let mut proxy = Proxy::new(1);
    proxy.connect(session::Policy { keeps_server: true, ..crate::proxy::policy() }, &[]);
    proxy.check(&[
        ("Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(I)"),
        ("P - insert into mine | S", "p.P(- insert into mine) p.S", "1 Z(I)"),
        ("2: E gone | P - select 1 | S", "p.E p.P(- select 1) p.S", "E(34000) Z(I)"),
        ("2: P s select 2 | E gone | P - select 1 | S", "p.P(#1 select 2) p.E p.P(- select 1) p.S", "1 E(34000) Z(I)"),
        ("2: P - wrong | S", "p.P(- wrong) p.S", "E(42601) Z(I)"),
        ("2: B - | E | S", "p.B(unknown) p.E p.S", "E(26000) Z(I)"),
    ]);
}

#[test]
fn deallocate_all_and_discard_all_concern_one_client() {
    Proxy::new(2).check(&[
        ("P s insert into t | S", "p.P(#1 insert into t) p.S", "1 Z(I)"),
        ("2: Q deallocate all", "", "C(DEALLOCATE ALL) Z(I)"),
        ("B s | E | S", "p.B(#1) p.E p.S", "2 C(INSERT 0 1) Z(I)"),
        ("2: Q discard all", "p.Q(discard all)", "C(DISCARD ALL) Z(I)"),
        ("B s | E | S", "p.P(#1 insert into t) p.B(#1) p.E p.S", "2 C(INSERT 0 1) Z(I)"),
        ("Q deallocate all", "", "C(DEALLOCATE ALL) Z(I)"),
        ("B s | E | S", "p.B(s) p.E p.S", "E(26000) Z(I)"),
    ]);
}

#[test]
fn statements_of_sql_are_shared_and_follow_their_client() {
    Proxy::new(2).check(&[
        ("Q prepare s (int) as select 1", "r.Q(PREPARE #1 (int) AS select 1)", "C(PREPARE) Z(I)"),
        ("!released", "", ""),
        ("Q execute s", "r.Q(execute #1 )", "T D(1) C(SELECT 1) Z(I)"),
        // Another client's, by another name, is the same.
        ("2: Q prepare t (int) as select 1", "r.S", "C(PREPARE) Z(I)"),
        ("2: Q execute t", "r.Q(execute #1 )", "T D(1) C(SELECT 1) Z(I)"),
        ("2: Q execute s", "p.Q(execute s)", "E(26000) Z(I)"),
        // On a server that does not have it.
        ("Q begin", "", "C(BEGIN) Z(T)"),
        (
            "Q execute s",
            wiped!("p.Q(BEGIN) p.P(- PREPARE #1 (int) AS select 1) p.B(- hakem_prepare) p.E p.C p.S p.Q(execute #1 )"),
            "T D(1) C(SELECT 1) Z(T)",
        ),
        ("Q deallocate s", "", "C(DEALLOCATE) Z(T)"),
        ("Q execute s", "p.Q(execute s)", "E(26000) Z(E)"),
        ("Q deallocate t", "p.Q(deallocate t)", "E(25P02) Z(E)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        ("Q deallocate s", "", "E(26000) Z(I)"),
        ("2: Q execute t", "r.Q(execute #1 )", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn names_of_sql_and_of_the_protocol_are_the_same() {
    check(&[
        ("P s insert into t | S", "p.P(#1 insert into t) p.S", "1 Z(I)"),
        ("Q execute s", "p.Q(execute #1 )", "C(INSERT 0 1) Z(I)"),
        ("Q prepare s as select 1", "r.Q(DEALLOCATE hakem_unknown)", "E(42P05) Z(I)"),
        ("Q deallocate s", "", "C(DEALLOCATE) Z(I)"),
        ("Q prepare s as select 1", "r.Q(PREPARE #2 AS select 1)", "C(PREPARE) Z(I)"),
        ("B s | E | S", "r.B(#2) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        ("P s select 2 | S", "r.D(unknown) r.S", "E(42P05) Z(I)"),
        ("C s s | S", "", "3 Z(I)"),
        ("Q prepare s as wrong", "p.Q(PREPARE #3 AS wrong)", "E(42601) Z(I)"),
        ("Q prepare s as select 1", "r.S", "C(PREPARE) Z(I)"),
    ]);
}

#[test]
fn what_cannot_be_prepared_again_says_why() {
    check(&[
        ("Q prepare s as select 1", "r.Q(PREPARE #1 AS select 1)", "C(PREPARE) Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("!fault primary error:42P01 PREPARE", "", ""),
        (
            "Q execute s",
            "p.Q(BEGIN) p.P(- PREPARE #1 AS select 1) p.B(- hakem_prepare) p.E p.C p.S p.Q(execute #1 )",
            "E(42P01) Z(E)",
        ),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        ("Q execute s", "r.Q(execute #1 )", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn statements_of_sql_in_the_extended_protocol() {
    check(&[
        (
            "P - prepare s as select 1 | D s - | B - | D p - | E | S",
            "p.P(- PREPARE #1 AS select 1) p.B(- hakem_prepare) p.E p.C p.S",
            "1 t n 2 n C(PREPARE) Z(I)",
        ),
        (
            "P - execute s | D s - | B - | E | S",
            "r.P(- PREPARE #1 AS select 1) r.B(- hakem_prepare) r.E r.C r.P(- execute #1 ) r.D(-) r.B(-) r.E r.S",
            "1 t T 2 D(1) C(SELECT 1) Z(I)",
        ),
        ("P - deallocate s | B - | E | S", "p.S", "1 2 C(DEALLOCATE) Z(I)"),
        ("P - deallocate s | B - | E | S", "p.D(unknown) p.S", "1 2 E(26000) Z(I)"),
        (
            "P - deallocate all | B - | E | P s select 3 | B s | E | S",
            "p.P(#2 select 3) p.B(#2) p.E p.S",
            "1 2 C(DEALLOCATE ALL) 1 2 D(3) C(SELECT 1) Z(I)",
        ),
        ("B s | E | S", "r.P(#2 select 3) r.B(#2) r.E r.S", "2 D(3) C(SELECT 1) Z(I)"),
        // What is discarded has not happened.
        ("E gone | P - deallocate all | B - | E | S", "p.E p.S", "E(34000) Z(I)"),
        ("B s | E | S", "r.B(#2) r.E r.S", "2 D(3) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn a_statement_of_sql_in_a_failed_transaction() {
    for prepared_max in [1, 2] {
        Proxy::new(1).prepared_max(prepared_max).check(&[
            ("Q prepare s as select 1", "r.Q(PREPARE #1 AS select 1)", "C(PREPARE) Z(I)"),
            ("Q begin", "", "C(BEGIN) Z(T)"),
            ("Q select 1/0", "p.Q(BEGIN) p.Q(select 1/0)", "T D(1/0) E(22012) Z(E)"),
            (
                "B s | E | S | B s | E | S",
                "p.P(- PREPARE #1 AS select 1) p.B(- hakem_prepare) p.E p.C p.B(#1) p.E p.S p.P(- PREPARE #1 AS select 1) p.B(- hakem_prepare) p.E p.C p.B(#1) p.E p.S",
                "E(25P02) Z(E) E(25P02) Z(E)",
            ),
            ("Q execute s", "p.Q(execute #1 )", "E(25P02) Z(E)"),
            ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        ]);
    }
}

#[test]
fn statements_that_are_never_closed_have_a_limit() {
    let mut proxy = Proxy::new(0);
    proxy.connect(session::Policy { statements_max: 600, ..crate::proxy::policy() }, &[]);
    proxy.check(&[
        ("P a select 1 | P b select 2 | S", "r.P(#1 select 1) r.P(#2 select 2) r.S", "1 1 Z(I)"),
        ("P c select 3 | S", "r.D(unknown) r.S", "E(54000) Z(I)"),
        ("Q prepare c as select 3", "r.Q(DEALLOCATE hakem_unknown)", "E(54000) Z(I)"),
        ("P - prepare c as select 3 | B - | E | S", "p.D(unknown) p.S", "1 2 E(54000) Z(I)"),
        ("P - select 3 | B - | E | S", "r.P(- select 3) r.B(-) r.E r.S", "1 2 D(3) C(SELECT 1) Z(I)"),
        ("B a | E | S", "r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        // One that is closed makes room.
        ("C s a | P c select 3 | S", "r.P(#3 select 3) r.S", "3 1 Z(I)"),
        ("Q deallocate c", "", "C(DEALLOCATE) Z(I)"),
        ("P a select 1 | S", "r.S", "1 Z(I)"),
    ]);
}

#[test]
fn what_is_prepared_behind_discard_all_in_one_request_stays() {
    check(&[
        ("P s select 1 | P t select 2 | S", "r.P(#1 select 1) r.P(#2 select 2) r.S", "1 1 Z(I)"),
        ("B s | E | S", "r.B(#1) r.E r.S", "2 D(1) C(SELECT 1) Z(I)"),
        (
            "P - discard all | B - | E | P u select 2 | P - select 3 | B u | E | S",
            "p.P(- discard all) p.B(-) p.E p.P(#2 select 2) p.P(- select 3) p.B(#2) p.E p.S",
            "1 2 C(DISCARD ALL) 1 1 2 D(2) C(SELECT 1) Z(I)",
        ),
        ("B u | E | S", "r.B(#2) r.E r.S", "2 D(2) C(SELECT 1) Z(I)"),
        ("B s | E | S", "p.B(s) p.E p.S", "E(26000) Z(I)"),
        // One that is discarded itself discards nothing.
        ("P w select 4 | S", "r.P(#3 select 4) r.S", "1 Z(I)"),
        (
            "P - insert into t | B - | E | P v insert into t | S",
            wiped!("p.P(- insert into t) p.B(-) p.E p.P(#4 insert into t) p.S"),
            "1 2 C(INSERT 0 1) 1 Z(I)",
        ),
        (
            "E gone | P - discard all | B - | E | B v | E | S",
            "p.E p.P(- discard all) p.B(-) p.E p.B(v) p.E p.S",
            "E(34000) Z(I)",
        ),
        ("B v | E | S", "p.B(#4) p.E p.S", "2 C(INSERT 0 1) Z(I)"),
    ]);
}

#[test]
fn a_portal_of_the_proxys_own_waits_for_what_is_ahead_of_it() {
    check(&[
        (
            "P - begin | B - | E | P - deallocate all | B - p | S",
            "p.P(- begin) p.B(-) p.E p.S",
            "1 2 C(BEGIN) 1 2 Z(T)",
        ),
        ("Q select 1/0 | E p | S", "p.Q(select 1/0) p.D(unknown) p.S", "T D(1/0) E(22012) Z(E) E(25P02) Z(E)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
}
