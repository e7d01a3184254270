//! The proxy's own settings: by either protocol, with PostgreSQL's rules for transactions, and what they tie a session to.

use crate::proxy::{Line, Proxy, check};

const ROUTE: Line = ("Q show hakem.route", "", "T D(auto) C(SHOW) Z(I)");

#[test]
fn they_are_set_by_the_extended_protocol() {
    check(&[
        ("P - set hakem.route = 'primary' | B - | D P - | E | S", "p.S", "1 2 n C(SET) Z(I)"),
        ("P s show hakem.route | D S s | S", "p.S", "1 t T Z(I)"),
        ("B s | E | S", "p.S", "2 D(primary) C(SHOW) Z(I)"),
        ("P - set hakem.route = 'moon' | B - | E | S", "p.D(unknown) p.S", "1 2 E(22023) Z(I)"),
        (
            "P - reset hakem.route | B - | E | P - show hakem.route | B - | E | S",
            "p.S",
            "1 2 C(RESET) 1 2 D(auto) C(SHOW) Z(I)",
        ),
        ("!released", "", ""),
        // Its transaction is undone with it.
        (
            "P - set hakem.route = 'primary' | B - | E | P - select 1/0 | B - | E | S",
            "p.P(- select 1/0) p.B(-) p.E p.S",
            "1 2 C(SET) 1 2 D(1/0) E(22012) Z(I)",
        ),
        ROUTE,
    ]);
}

#[test]
fn they_follow_the_rules_of_transactions() {
    let check = |script: &[&'static str], value: &str| {
        let mut proxy = Proxy::new(1);
        for line in script {
            proxy.exchange(0, &crate::script::requests(line));
        }
        let shown = crate::script::replies(&proxy.exchange(0, &crate::script::requests("Q show hakem.route")));
        assert!(shown.starts_with(&format!("T D({value}) C(SHOW)")), "{script:?}: {shown}");
    };
    let (begin, set, local) = ("Q begin", "Q set hakem.route = 'primary'", "Q set local hakem.route = 'primary'");
    check(&[set], "primary");
    check(&[set, "Q reset all"], "auto");
    check(&[set, "Q discard all"], "auto");
    check(&[begin, set, "Q commit"], "primary");
    check(&[begin, set, "Q rollback"], "auto");
    check(&[begin, set, "Q select 1", "Q rollback"], "auto");
    check(&[begin, "Q select 1", set, "Q rollback"], "auto");
    check(&[begin, "Q select 1", "Q savepoint a", set, "Q rollback to a"], "auto");
    check(
        &[begin, "Q select 1", set, "Q savepoint a", "Q reset hakem.route", "Q rollback to a", "Q commit"],
        "primary",
    );
    check(&[begin, local], "primary");
    check(&[begin, local, "Q select 1"], "primary");
    check(&[begin, local, "Q select 1", "Q commit"], "auto");
    check(&[begin, local, "Q set hakem.route = 'replica'", "Q commit"], "replica");
    check(&[begin, "Q set hakem.route = 'replica'", local, "Q select 1", "Q commit"], "replica");
    check(&[local], "auto");
}

#[test]
fn a_transaction_that_has_failed_takes_none() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q select 1/0", "p.Q(BEGIN) p.Q(select 1/0)", "T D(1/0) E(22012) Z(E)"),
        ("Q set hakem.route = 'primary'", "", "E(25P02) Z(E)"),
        ("Q show hakem.route", "", "E(25P02) Z(E)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        ("Q set local hakem.route = 'primary'", "", "N C(SET) Z(I)"),
        ROUTE,
    ]);
}

#[test]
fn what_a_server_was_told_of_them_nobody_else_finds_there() {
    check(&[
        (
            "Q set hakem.route to 'primary'; select 1",
            "p.Q(set hakem.route to 'primary'; select 1)",
            "C(SET) T D(1) C(SELECT 1) Z(I)",
        ),
        ("Q show hakem.route", "", "T D(primary) C(SHOW) Z(I)"),
        (
            "Q select 2",
            "p.Q(SET statement_timeout TO 0;RESET ROLE;RESET SESSION AUTHORIZATION;RESET ALL;) p.Q(select 2)",
            "T D(2) C(SELECT 1) Z(I)",
        ),
    ]);
}

#[test]
fn a_session_may_keep_its_server() {
    check(&[
        ("Q set hakem.pin = on", "", "C(SET) Z(I)"),
        ("!released", "", ""),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("!held", "", ""),
        ("Q show hakem.pin", "", "T D(on) C(SHOW) Z(I)"),
        ("Q select 2", "p.Q(select 2)", "T D(2) C(SELECT 1) Z(I)"),
        ("!held", "", ""),
        ("Q set hakem.pin = off", "", "C(SET) Z(I)"),
        ("!released", "", ""),
        ("Q select 3", "r.Q(select 3)", "T D(3) C(SELECT 1) Z(I)"),
        // By the extended protocol, and for as long as a transaction.
        ("P - set hakem.pin = on | B - | E | S", "p.S", "1 2 C(SET) Z(I)"),
        ("!held", "", ""),
        ("P - reset hakem.pin | B - | E | S", "p.S", "1 2 C(RESET) Z(I)"),
        ("!released", "", ""),
        ("Q set hakem.pin = on", "", "C(SET) Z(I)"),
        ("Q select 4", "p.Q(select 4)", "T D(4) C(SELECT 1) Z(I)"),
        ("Q discard all", "p.Q(discard all)", "C(DISCARD ALL) Z(I)"),
        ("!released", "", ""),
    ]);
    // What is lost with its server is told, and the wish stays.
    check(&[
        ("Q set hakem.pin = on", "", "C(SET) Z(I)"),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("!lose", "", ""),
        ("Q select 1", "", "E(57P01) Z(I)"),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("!held", "", ""),
    ]);
}

#[test]
fn affinity() {
    check(&[
        ("Q set hakem.affinity = 'primary'", "", "C(SET) Z(I)"),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("!released", "", ""),
        ("Q set hakem.affinity = 'node'", "", "C(SET) Z(I)"),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("!released", "", ""),
        ("Q show hakem.last_route", "", "T D(replica: select) C(SHOW) Z(I)"),
        ("Q set hakem.last_route = 'x'", "", "E(55P02) Z(I)"),
    ]);
}

#[test]
fn a_token_is_asked_from_the_primary() {
    let asked = "SELECT pg_catalog.format('%s-%s-%s', system_identifier, \
        pg_catalog.left(pg_catalog.pg_walfile_name(lsn), 8), lsn) AS \"hakem.token\" \
        FROM pg_catalog.pg_control_system(), pg_catalog.pg_current_wal_insert_lsn() AS lsn";
    let mut proxy = Proxy::new(1);
    let mut ask = |line: &str| proxy.exchange(0, &crate::script::requests(line));
    for line in ["Q show hakem.token", "P - show hakem.token | B - | E | S", "P s show hakem.token | B s | E | S"] {
        let answer = crate::script::replies(&ask(line));
        let row = format!("D({})", asked.strip_prefix("SELECT ").unwrap());
        assert!(answer.contains(&row), "{line}: {answer}");
    }
    check(&[
        ("Q set hakem.token = '7-1-0/3000060'", "", "C(SET) Z(I)"),
        ("Q set hakem.token = 'moon'", "", "E(22023) Z(I)"),
        ("Q reset hakem.token", "", "C(RESET) Z(I)"),
        ("Q set hakem.token = ''", "", "C(SET) Z(I)"),
    ]);
}
