//! Settings that follow the client, what pins it to a server, and the proxy's own settings.

use crate::proxy::{Proxy, check, policy};

/// A request, behind which what it may have set is wiped off before it is over; the session's own settings.
macro_rules! wiping {
    ($sent:literal, $settings:literal) => {
        concat!(
            $sent,
            " p.Q(SET statement_timeout TO 0;RESET ROLE;RESET SESSION AUTHORIZATION;RESET ALL;",
            $settings,
            ")"
        )
    };
}

#[test]
fn settings_follow_the_client() {
    Proxy::new(2).check(&[
        ("Q set work_mem to 1", "p.Q(set work_mem to 1)", "C(SET) Z(I)"),
        ("Q show work_mem", "r.Q(SET work_mem TO 1;) r.Q(show work_mem)", "T D(1) C(SHOW) Z(I)"),
        ("Q show work_mem", "r.Q(show work_mem)", "T D(1) C(SHOW) Z(I)"),
        ("2: Q show work_mem", "r.Q(RESET \"work_mem\";) r.Q(show work_mem)", "T D(default) C(SHOW) Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q show work_mem", "p.Q(BEGIN) p.Q(show work_mem)", "T D(1) C(SHOW) Z(T)"),
    ]);
}

#[test]
fn replayed_settings_are_not_told_again() {
    Proxy::new(2).check(&[
        ("Q set timezone to here", "p.Q(set timezone to here)", "C(SET) S(TimeZone=here) Z(I)"),
        ("Q select 1", "r.Q(SET timezone TO here;) r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("2: Q select 1", "r.Q(RESET \"timezone\";) r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("Q reset timezone", "p.Q(reset timezone)", "C(RESET) S(TimeZone=default) Z(I)"),
    ]);
}

#[test]
fn what_unseen_code_has_set_is_not_what_a_client_is_told() {
    Proxy::new(2).check(&[
        (
            "Q select meddle('timezone', 'there')",
            wiping!("p.Q(select meddle('timezone', 'there'))", ""),
            "T C(SELECT 1) Z(I)",
        ),
        // What it has set itself goes on.
        (
            "Q set timezone to here; select meddle('timezone', 'there')",
            wiping!("p.Q(set timezone to here; select meddle('timezone', 'there'))", "SET timezone TO here;"),
            "C(SET) T C(SELECT 1) S(TimeZone=here) Z(I)",
        ),
        // In a transaction it holds, up to the end.
        ("Q begin", "", "C(BEGIN) Z(T)"),
        (
            "Q select meddle('timezone', 'there')",
            "p.Q(BEGIN) p.Q(select meddle('timezone', 'there'))",
            "T C(SELECT 1) S(TimeZone=there) Z(T)",
        ),
        ("Q commit", wiping!("p.Q(commit)", "SET timezone TO here;"), "C(COMMIT) S(TimeZone=here) Z(I)"),
        // The extended protocol.
        (
            "P - select meddle('timezone', 'there') | B - | E | S",
            wiping!("p.P(- select meddle('timezone', 'there')) p.B(-) p.E p.S", "SET timezone TO here;"),
            "1 2 C(SELECT 1) Z(I)",
        ),
        // Nobody was told of it: the next session sees to it.
        ("Q select meddle('work_mem', '1')", "p.Q(select meddle('work_mem', '1'))", "T C(SELECT 1) Z(I)"),
        ("2: Q insert into t", wiped!("p.Q(insert into t)"), "C(INSERT 0 1) Z(I)"),
    ]);
}

#[test]
fn what_was_told_of_a_lost_server_is_put_right() {
    check(&[
        ("Q begin", "", "C(BEGIN) Z(T)"),
        (
            "Q select meddle('timezone', 'there')",
            "p.Q(BEGIN) p.Q(select meddle('timezone', 'there'))",
            "T C(SELECT 1) S(TimeZone=there) Z(T)",
        ),
        ("!lose", "", ""),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) S(TimeZone=default) Z(I)"),
    ]);
}

#[test]
fn a_default_that_changes_is_told_to_whom_it_concerns() {
    Proxy::new(3).check(&[
        ("3: Q set timezone to here", "p.Q(set timezone to here)", "C(SET) S(TimeZone=here) Z(I)"),
        ("!default elsewhere", "", ""),
        ("3: Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(I)"),
        // It is reported when nobody is told what is reported.
        ("Q insert into t", "p.Q(RESET \"timezone\";) p.Q(insert into t)", "C(INSERT 0 1) S(TimeZone=elsewhere) Z(I)"),
        ("Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) Z(I)"),
        // It has been reported to somebody else.
        ("2: Q insert into t", "p.Q(insert into t)", "C(INSERT 0 1) S(TimeZone=elsewhere) Z(I)"),
        ("2: Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        (
            "3: Q reset timezone",
            "p.Q(SET timezone TO here;) p.Q(reset timezone)",
            "C(RESET) S(TimeZone=elsewhere) Z(I)",
        ),
    ]);
}

#[test]
fn startup_settings_are_what_reset_goes_back_to() {
    let mut proxy = Proxy::new(0);
    proxy.connect(policy(), &[("work_mem", "7"), ("search_path", "a, b")]);
    let startup = "SET \"work_mem\" TO '7'";
    let path = "SET \"search_path\" TO 'a','b'";
    let opening: &'static str = format!("r.Q({path};{startup};) r.Q(show work_mem)").leak();
    let restored: &'static str = format!("p.Q(reset work_mem) p.Q({startup};)").leak();
    let all_restored: &'static str = format!("p.Q(reset all) p.Q({path};{startup};)").leak();
    let begun: &'static str = format!("p.Q({path};{startup};) p.Q(BEGIN) p.Q(set work_mem to 1)").leak();
    proxy.check(&[
        ("Q show work_mem", opening, "T D(7) C(SHOW) Z(I)"),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("Q set work_mem to 1", begun, "C(SET) Z(T)"),
        // The server knows nothing of startup packets.
        ("Q reset work_mem", restored, "C(RESET) Z(T)"),
        ("Q show work_mem", "p.Q(show work_mem)", "T D(7) C(SHOW) Z(T)"),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
        ("Q show work_mem", "r.Q(show work_mem)", "T D(7) C(SHOW) Z(I)"),
        ("Q reset all", all_restored, "C(RESET) Z(I)"),
        ("Q show work_mem", "r.Q(show work_mem)", "T D(7) C(SHOW) Z(I)"),
    ]);
}

#[test]
fn a_role_does_not_stay_behind() {
    for change in ["Q set role boss", "Q set session authorization boss"] {
        for end in ["Q reset all", "Q discard all", "S"] {
            let mut proxy = Proxy::new(0);
            proxy.connect(policy(), &[("work_mem", "7")]);
            proxy.connect(policy(), &[]);
            for line in [change, end] {
                proxy.exchange(0, &crate::script::requests(line));
            }
            for name in ["role", "session_authorization"] {
                let show = format!("Q insert into t; show {name}");
                let shown = crate::script::replies(&proxy.exchange(1, &crate::script::requests(&show)));
                assert_eq!(shown, "C(INSERT 0 1) T D(default) C(SHOW) Z(I)", "{change}, {end}, {name}");
            }
        }
    }
}

#[test]
fn what_was_not_seen_is_asked_for_unless_it_was_undone() {
    check(&[
        (
            "Q select 1; select set_config('work_mem', lower('A'), false)",
            "p.Q(select 1; select set_config('work_mem', lower('A'), false)) \
             p.Q(SELECT pg_catalog.current_setting('work_mem', true))",
            "T D(1) C(SELECT 1) T C(SELECT 1) Z(I)",
        ),
        ("!fault primary error:22023 select set_config", "", ""),
        (
            "Q select 1; select set_config('work_mem', lower('A'), false)",
            "p.Q(select 1; select set_config('work_mem', lower('A'), false))",
            "T D(1) C(SELECT 1) T E(22023) Z(I)",
        ),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        (
            "Q select set_config('work_mem', lower('A'), false)",
            "p.Q(BEGIN) p.Q(select set_config('work_mem', lower('A'), false))",
            "T C(SELECT 1) Z(T)",
        ),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn a_role_survives_reset_all() {
    check(&[
        ("Q set role boss", "p.Q(set role boss)", "C(SET) Z(I)"),
        ("Q reset all", "p.Q(reset all)", "C(RESET) Z(I)"),
        ("Q insert into t; show role", "p.Q(insert into t; show role)", "C(INSERT 0 1) T D(boss) C(SHOW) Z(I)"),
        ("Q select 1", "r.Q(SET ROLE boss;) r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn identity_comes_last_and_goes_first() {
    Proxy::new(2).check(&[
        ("Q set work_mem to 1", "p.Q(set work_mem to 1)", "C(SET) Z(I)"),
        ("Q set session authorization a", "p.Q(set session authorization a)", "C(SET) Z(I)"),
        ("Q set role b", "p.Q(set role b)", "C(SET) Z(I)"),
        (
            "Q select 1",
            "r.Q(SET work_mem TO 1;SET SESSION AUTHORIZATION a;SET ROLE b;) r.Q(select 1)",
            "T D(1) C(SELECT 1) Z(I)",
        ),
        (
            "2: Q select 1",
            "r.Q(RESET ROLE;RESET SESSION AUTHORIZATION;RESET \"work_mem\";) r.Q(select 1)",
            "T D(1) C(SELECT 1) Z(I)",
        ),
        // "SET SESSION AUTHORIZATION" takes the role back.
        ("Q set session authorization c", "p.Q(set session authorization c)", "C(SET) Z(I)"),
        ("Q select 1", "r.Q(SET work_mem TO 1;SET SESSION AUTHORIZATION c;) r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn who_somebody_is_is_known_before_anything_runs() {
    let refused = "E(22023) Z(I)";
    Proxy::new(2).check(&[
        ("Q set role boss", "p.Q(set role boss)", "C(SET) Z(I)"),
        ("2: Q update t", "p.Q(RESET ROLE;RESET SESSION AUTHORIZATION;) p.Q(update t)", "C(UPDATE 1) Z(I)"),
        // The request is sent when the settings have been taken.
        ("Q update t", "p.Q(SET ROLE boss;) p.Q(update t)", "C(UPDATE 1) Z(I)"),
        ("2: Q update t", "p.Q(RESET ROLE;RESET SESSION AUTHORIZATION;) p.Q(update t)", "C(UPDATE 1) Z(I)"),
        ("!fault primary error:22023 SET ROLE", "", ""),
        ("Q update t", "p.Q(SET ROLE boss;)", refused),
        ("!released", "", ""),
        ("!fault primary error:22023 SET ROLE", "", ""),
        (
            "P - update t | B - | E | S",
            "p.Q(SET statement_timeout TO 0;RESET ROLE;RESET SESSION AUTHORIZATION;RESET ALL;SET ROLE boss;)",
            refused,
        ),
        ("Q begin", "", "C(BEGIN) Z(T)"),
        ("!fault primary error:22023 SET ROLE", "", ""),
        (
            "Q update t",
            "p.Q(SET statement_timeout TO 0;RESET ROLE;RESET SESSION AUTHORIZATION;RESET ALL;SET ROLE boss;)",
            "E(22023) Z(E)",
        ),
        ("Q rollback", "", "C(ROLLBACK) Z(I)"),
        ("!fault replica error:22023 SET ROLE", "", ""),
        ("Q select 1", "r.Q(SET ROLE boss;)", refused),
        // The way back.
        (
            "Q reset role",
            "p.Q(SET statement_timeout TO 0;RESET ROLE;RESET SESSION AUTHORIZATION;RESET ALL;) p.Q(reset role)",
            "C(RESET) Z(I)",
        ),
    ]);
}

#[test]
fn a_read_that_ran_without_its_settings_is_run_again() {
    check(&[
        ("Q set work_mem to 1", "p.Q(set work_mem to 1)", "C(SET) Z(I)"),
        ("!fault replica error:57014 SET work_mem", "", ""),
        ("Q select 1", "r.Q(SET work_mem TO 1;) r.Q(select 1) retry.settings p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
    ]);
}

#[test]
fn pins() {
    for (pin, unpin) in [
        ("Q listen a; update t", "Q unlisten *"),
        ("Q create temp table t (a int)", "Q discard all"),
        ("Q select pg_advisory_lock(1)", "Q discard all"),
        // A lock that a failed statement took is held all the same.
        ("Q select pg_advisory_lock(1)/0", "Q discard all"),
        ("P - select pg_advisory_lock(1)/0 | B - | E | S", "Q discard all"),
    ] {
        let mut proxy = Proxy::new(1);
        proxy.exchange(0, &crate::script::requests(pin));
        assert_eq!(proxy.clients[0].session.pins().len(), 1, "{pin}");
        proxy.check(&[
            ("!held", "", ""),
            ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
            ("!held", "", ""),
        ]);
        proxy.exchange(0, &crate::script::requests(unpin));
        proxy.check(&[("!released", "", "")]);
    }
}

#[test]
fn what_may_have_been_set_unseen_meets_nobody_else() {
    for code in [
        "Q call p()",
        "Q select f()",
        "Q select 1; call p()",
        "Q select 1; select f()",
        "Q insert into t select f()",
        "Q insert into t; update t set s = f()",
        "Q select 1 for update of f()",
        "Q create table t as select f()",
        "Q do x",
        "Q begin; insert into t; select f(); commit",
        "P - insert into t select f() | B - | E | S",
        "P s select 1 | S | P - insert into t values (f()) | B - | E | S",
        "F",
        "F 2078",
    ] {
        let mut proxy = Proxy::new(2);
        proxy.exchange(0, &crate::script::requests(code));
        let lines = [("2: Q insert into t; show work_mem", wiped!("p.Q(insert into t; show work_mem)"), SHOWN)];
        proxy.check(&lines);
    }
    let mut proxy = Proxy::new(2);
    proxy.exchange(0, &crate::script::requests("Q insert into t (a, b) values (1, lower('A'))"));
    proxy.check(&[("2: Q insert into t; show work_mem", "p.Q(insert into t; show work_mem)", SHOWN)]);
}

const SHOWN: &str = "C(INSERT 0 1) T D(default) C(SHOW) Z(I)";

#[test]
fn functions_called_by_number_take_locks() {
    for number in [2880, 2881, 2882, 2883, 2886, 2887, 2888, 2889, 2892] {
        let mut proxy = Proxy::new(1);
        let asked = "p.Q(SELECT EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid \
                     OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()))";
        let lock: &'static str = format!("F {number}").leak();
        let sent: &'static str = if number == 2892 { "p.F" } else { format!("p.F {asked}").leak() };
        proxy.check(&[(lock, sent, "V Z(I)")]);
    }
}

const LOCKED: &str = "p.P(- select pg_advisory_lock(1) from 3 rows) p.B(-) p.E p.S p.Q(SELECT EXISTS (SELECT FROM \
    pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) \
    pg_catalog.pg_backend_pid()))";

#[test]
fn a_suspended_portal_has_left_what_it_leaves() {
    check(&[
        ("P - select pg_advisory_lock(1) from 3 rows | B - | E - 1 | S", LOCKED, "1 2 D(row) s Z(I)"),
        ("!held", "", ""),
    ]);
}

#[test]
fn settings_of_the_proxy() {
    check(&[
        ("Q set hakem.route = 'primary'", "", "C(SET) Z(I)"),
        ("Q show hakem.route", "", "T D(primary) C(SHOW) Z(I)"),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("Q reset hakem.route", "", "C(RESET) Z(I)"),
        ("Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("Q set hakem.route = 'nowhere'", "", "E(22023) Z(I)"),
        ("Q set hakem.nothing = 1", "", "E(42704) Z(I)"),
        ("Q show hakem.nothing", "", "E(42704) Z(I)"),
        ("Q set hakem.max_lag = '5 min'", "", "C(SET) Z(I)"),
        ("Q show hakem.max_lag", "", "T D(300000ms) C(SHOW) Z(I)"),
        ("Q /* hakem: primary */ select 1", "p.Q(/* hakem: primary */ select 1)", "E(42601) Z(I)"),
        ("Q set hakem.route = 'primary'", "", "C(SET) Z(I)"),
        ("Q discard all", "p.Q(discard all)", "C(DISCARD ALL) Z(I)"),
        ("Q show hakem.route", "", "T D(auto) C(SHOW) Z(I)"),
    ]);
}

#[test]
fn a_setting_of_the_proxy_goes_back_to_its_default() {
    let mut proxy = Proxy::new(0);
    proxy.connect(session::Policy { consistency: session::Consistency::Eventual, ..policy() }, &[]);
    proxy.clients[0].session.configure("route", "primary").unwrap();
    proxy.check(&[
        ("Q set hakem.consistency = 'global'", "", "C(SET) Z(I)"),
        ("Q reset hakem.consistency", "", "C(RESET) Z(I)"),
        ("Q show hakem.consistency", "", "T D(eventual) C(SHOW) Z(I)"),
        ("Q set hakem.route = 'replica'", "", "C(SET) Z(I)"),
        ("Q reset hakem.route", "", "C(RESET) Z(I)"),
        ("Q show hakem.route", "", "T D(primary) C(SHOW) Z(I)"),
    ]);
}
