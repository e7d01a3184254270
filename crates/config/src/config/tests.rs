//! What whole files give: a configuration, their problems, and what one client gets.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::auth::AuthMethod;
use crate::resolve::ResolveError;
use crate::sections::{Consistency, Keepalive, LogFormat, LogLevel, PoolMode, Route};

/// The reference configuration at the root of the repository.
const REFERENCE: &str = include_str!("../../../../proxy.toml");

/// What every file has to state; the tests add to it.
const LEAST: &str =
    "[[users]]\nname = \"app\"\npassword = \"x\"\n[clusters.main]\nservers = [\"db1\"]\n[databases.\"*\"]\n";

fn parse(text: &str) -> Config {
    Config::parse(text, "proxy.toml").unwrap_or_else(|problems| panic!("{problems:#?}\nin {text}"))
}

/// The problems of a text, as they are shown.
fn problems(text: &str) -> Vec<String> {
    let problems = Config::parse(text, "proxy.toml").expect_err(text);
    problems.iter().map(Problem::to_string).collect()
}

/// Checks the one problem of a text that is otherwise complete.
#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(problems(&format!("{text}\n{LEAST}")), [expected], "{text}");
}

/// The reference configuration with its examples made real: the lines that start with `#` and no space.
fn reference_with_examples() -> String {
    let is_example =
        |line: &str| line.starts_with("#[") || (line.starts_with('#') && line[1..].starts_with(char::is_alphabetic));
    REFERENCE.lines().map(|line| if is_example(line) { &line[1..] } else { line }).collect::<Vec<_>>().join("\n")
}

/// `[pool]` of `[pool]`, `[[users]]` of `[[users]] "app"`, `[clusters` of `[clusters.main]`.
fn kind(setting: &Setting) -> &str {
    setting.section.split([' ', '.']).next().unwrap()
}

#[test]
fn reference_states_every_default() {
    let reference = parse(REFERENCE);
    for setting in &reference.settings {
        if setting.default.is_some() {
            assert!(setting.stated, "proxy.toml does not state {} {}", setting.section, setting.key);
            assert_eq!(setting.value, setting.default, "proxy.toml: {} {}", setting.section, setting.key);
        }
    }
}

#[test]
fn reference_states_every_key() {
    let reference = parse(&reference_with_examples());
    let mut stated: BTreeMap<(&str, &str), bool> = BTreeMap::new();
    for setting in &reference.settings {
        *stated.entry((kind(setting), setting.key)).or_default() |= setting.stated;
    }
    let missing: Vec<_> = stated.iter().filter(|(_, stated)| !**stated).map(|(key, _)| key).collect();
    assert!(missing.is_empty(), "proxy.toml does not show {missing:?}");
}

#[test]
fn reference_explains_every_key() {
    let lines: Vec<&str> = REFERENCE.lines().collect();
    for pair in lines.windows(2) {
        let is_key = !pair[1].starts_with("# ") && pair[1].contains(" = ");
        assert!(!is_key || pair[0].starts_with("# "), "no comment above {:?}", pair[1]);
    }
}

/// Leaving a key out is the same as stating its default.
#[test]
fn defaults_are_the_reference() {
    let (reference, least) = (parse(REFERENCE), parse(LEAST));
    assert_eq!(
        (&least.proxy, &least.log, &least.auth, &least.tls, &least.pool, &least.routing, &least.topology),
        (
            &reference.proxy,
            &reference.log,
            &reference.auth,
            &reference.tls,
            &reference.pool,
            &reference.routing,
            &reference.topology
        ),
    );
}

#[test]
fn values() {
    let config = parse(
        r#"
        [proxy]
        listen = ["0.0.0.0:1", "[::1]:2"]
        http_listen = ""
        workers = 3
        message_retain_max = "64kB"
        tcp_keepalive_idle = "2min"
        client_login_timeout = " 1 h "
        [log]
        level = "trace"
        format = "json"
        [auth]
        method = "trust"
        [pool]
        mode = "statement"
        size = 0x10
        min_size = 1_0
        [routing]
        max_lag = "1500us"
        consistency = "global"
        [topology]
        failover_timeout = "0s"
        [clusters.a]
        servers = ["DB1", "db2:5433", "[::1]:5434"]
        probe_password = "p"
        [clusters."b c"]
        servers = ["db3"]
        [databases]
        one = { cluster = "b c", dbname = "eins" }
        "#,
    );
    assert_eq!(config.proxy.listen, ["0.0.0.0:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert_eq!((config.proxy.http_listen, config.proxy.workers, config.proxy.message_retain_max), (None, 3, 65536));
    let seconds = Duration::from_secs;
    assert_eq!(
        config.proxy.keepalive,
        Some(Keepalive { idle: seconds(120), interval: seconds(10), count: 3, user_timeout: None })
    );
    assert_eq!(config.proxy.client_login_timeout, seconds(3600));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Trace, LogFormat::Json));
    assert_eq!((config.auth.method, config.users.len()), (AuthMethod::Trust, 0));
    assert_eq!((config.pool.mode, config.pool.size, config.pool.min_size), (PoolMode::Statement, 16, 10));
    assert_eq!(
        (config.routing.max_lag, config.routing.consistency),
        (Duration::from_micros(1500), Consistency::Global)
    );
    assert_eq!(config.topology.failover_timeout, Duration::ZERO);
    let servers: Vec<String> = config.clusters["a"].servers.iter().map(ToString::to_string).collect();
    assert_eq!(servers, ["db1:5432", "db2:5433", "[::1]:5434"]);
    assert_eq!(config.clusters["a"].probe_password.as_ref().unwrap().expose(), "p");
    assert_eq!(
        (config.databases["one"].cluster.as_str(), config.databases["one"].dbname.as_deref()),
        ("b c", Some("eins"))
    );
    assert_eq!(parse(&format!("[proxy]\ntcp_keepalive = false\n{LEAST}")).proxy.keepalive, None);
}

#[test]
fn unknown_words() {
    check(
        "[routing]\n\nmax_lagg = \"1s\"",
        r#"proxy.toml:3: unknown key "max_lagg" in [routing]; did you mean "max_lag"?"#,
    );
    check("[routing]\nfoo = 1", r#"proxy.toml:2: unknown key "foo" in [routing]"#);
    check("[routng]\nsplit = true", r#"proxy.toml:1: unknown section "routng"; did you mean "routing"?"#);
    check("[[pools]]", r#"proxy.toml:1: unknown section "pools"; did you mean "pool"?"#);
    check("[pool.size]", r#"proxy.toml:1: "size" must be a whole number, not a section"#);
    check("[pool.extra]", r#"proxy.toml:1: unknown section "extra" in [pool]"#);
    check("split = true", r#"proxy.toml:1: key "split" stands outside of any section"#);
    check("pool = 1", r#"proxy.toml:1: "pool" must be a section: write [pool]"#);
    check("[[pool]]", r#"proxy.toml:1: "pool" must be a section: write [pool]"#);
    check(
        "[pool]\nmode = \"transation\"",
        r#"proxy.toml:2: "mode" must be one of "transaction", "session", "statement", not "transation"; did you mean "transaction"?"#,
    );
    check(
        "[log]\nlevel = \"loud\"",
        r#"proxy.toml:2: "level" must be one of "error", "warn", "info", "debug", "trace", not "loud""#,
    );
}

#[test]
fn impossible_numbers() {
    check("[pool]\nsize = 0", r#"proxy.toml:2: "size" must be from 1 to 10000, not 0"#);
    check("[pool]\nsize = -1", r#"proxy.toml:2: "size" must be from 0 to 4294967295, not -1"#);
    check("[pool]\nsize = 10001", r#"proxy.toml:2: "size" must be from 1 to 10000, not 10001"#);
    check("[pool]\nsize = 9223372036854775808", r#"proxy.toml:2: "size" is out of range: 9223372036854775808"#);
    check("[pool]\nsize = 1.5", r#"proxy.toml:2: "size" must be a whole number, not a fraction"#);
    check("[pool]\nsize = \"20\"", r#"proxy.toml:2: "size" must be a whole number, not a text"#);
    check("[pool]\nsize = 5\nmin_size = 6", r#"proxy.toml:3: "min_size" 6 is more than "size" 5"#);
    check("[pool]\nmin_size = 21", r#"proxy.toml:2: "min_size" 21 is more than "size" 20"#);
    check("[pool]\nqueue_max = 0", r#"proxy.toml:2: "queue_max" must be from 1 to 1000000, not 0"#);
    check("[proxy]\nmax_client_conn = 0", r#"proxy.toml:2: "max_client_conn" must be from 1 to 1000000, not 0"#);
    check("[routing]\nsplit = 1", r#"proxy.toml:2: "split" must be true or false, not a whole number"#);
}

#[test]
fn impossible_durations() {
    let check = |value: &str, expected: &str| {
        check(&format!("[routing]\nmax_lag = {value}"), &format!("proxy.toml:2: \"max_lag\" {expected}"))
    };
    check("1", r#"needs a unit, such as "500ms", "2s", "5min" or "1h""#);
    check("0.5", r#"needs a unit, such as "500ms", "2s", "5min" or "1h""#);
    check("\"500\"", r#"needs a unit, as in "500ms", "2s", "5min" or "1h", not "500""#);
    check("\"0s\"", r#"must be from "1ms" to "365d", not "0s""#);
    check("\"999us\"", r#"must be from "1ms" to "365d", not "999us""#);
    check("\"366d\"", r#"must be from "1ms" to "365d", not "366d""#);
    check("\"-1s\"", r#"must not be negative: "-1s""#);
    check("\"1.5s\"", r#"must be a whole number with a unit, not "1.5s": a smaller unit says it without a fraction"#);
    check("\"1 sec\"", r#"has the unknown unit "sec": the units are us, ms, s, min, h and d"#);
    check("\"1S\"", r#"has the unknown unit "S": the units are us, ms, s, min, h and d"#);
    check("\"soon\"", r#"must start with a number, as in "500ms", "2s", "5min" or "1h", not "soon""#);
    check("\"\"", r#"must start with a number, as in "500ms", "2s", "5min" or "1h", not """#);
    check("\"18446744073709551615d\"", r#"is too long: "18446744073709551615d""#);
    check("\"18446744073709551616s\"", r#"is too large: "18446744073709551616s""#);
    check("true", r#"must be a duration such as "500ms", not true or false"#);
}

#[test]
fn impossible_sizes() {
    let check = |value: &str, expected: &str| {
        check(
            &format!("[proxy]\nmessage_retain_max = {value}"),
            &format!("proxy.toml:2: \"message_retain_max\" {expected}"),
        );
    };
    check("1023", r#"must be from "1kB" to "1GB", not "1023B""#);
    check("\"2GB\"", r#"must be from "1kB" to "1GB", not "2GB""#);
    check("-1", "must not be negative: -1");
    check("\"1 mb\"", r#"has the unknown unit "mb": the units are B, kB, MB, GB and TB"#);
    check("\"18446744073709551615TB\"", "is too large: 18446744073709551615TB");
    check("false", r#"must be a number of bytes or a size such as "1MB", not true or false"#);
}

#[test]
fn impossible_addresses() {
    let check = |value: &str, expected: &str| check(&format!("[proxy]\n{value}"), &format!("proxy.toml:2: {expected}"));
    check("listen = [\"*:6432\"]", r#""listen" "*:6432" is written "0.0.0.0:6432" for IPv4, "[::]:6432" for IPv6"#);
    check(
        "listen = [\"localhost:6432\"]",
        r#""listen" "localhost:6432" is not an IP address with a port, such as "127.0.0.1:6432""#,
    );
    check(
        "listen = [\"127.0.0.1\"]",
        r#""listen" "127.0.0.1" is not an IP address with a port, such as "127.0.0.1:6432""#,
    );
    check("listen = []", r#""listen" must not be empty"#);
    check("listen = \"127.0.0.1:6432\"", r#""listen" must be a list in brackets, not a text"#);
    check("listen = [\"0.0.0.0:1\", \"0.0.0.0:1\"]", r#""listen" states "0.0.0.0:1" twice"#);
    check(
        "http_listen = \"6433\"",
        r#""http_listen" "6433" is not an IP address with a port, such as "127.0.0.1:6432""#,
    );
    check("http_listen = 6433", r#""http_listen" must be an address such as "127.0.0.1:6432", not a whole number"#);
    // One port cannot serve two protocols.
    check("http_listen = \"127.0.0.1:6432\"", r#""http_listen" 127.0.0.1:6432 is in "listen" too"#);
}

#[test]
fn keys_that_disagree() {
    check(
        "[topology]\nprobe_interval = \"5ms\"",
        r#"proxy.toml:2: "probe_interval_waiting" is longer than "probe_interval""#,
    );
    check(
        "[databases.a]\ncluster = \"mian\"",
        r#"proxy.toml:2: "cluster" names "mian", which is not in [clusters]; did you mean "main"?"#,
    );
    check("[databases.a]\ndbname = \"\"", r#"proxy.toml:2: "dbname" must not be empty"#);
    check("[databases.pgbouncer]", r#"proxy.toml:1: the database name "pgbouncer" is the admin console's"#);
    check("[databases]\na = 1", r#"proxy.toml:2: unknown key "a" in [databases]: write [databases.NAME] first"#);
    // A host has one address however it is written; and with two clusters, a database has to choose.
    assert_eq!(
        problems(&format!("[clusters.b]\nservers = [\"DB1:5432\"]\n{LEAST}")),
        [
            r#"proxy.toml:7: server "db1:5432" belongs to [clusters.b] already"#,
            r#"proxy.toml:8: [databases."*"] must state "cluster", since there are several: "b", "main""#,
        ]
    );
    let any = LEAST.replace("[databases.\"*\"]", "[databases.\"*\"]\ndbname = \"x\"");
    assert_eq!(
        problems(&any),
        [r#"proxy.toml:7: "dbname" is not for [databases."*"], whose databases keep their own names"#]
    );
}

#[test]
fn impossible_clusters() {
    let check = |servers: &str, expected: &str| {
        assert_eq!(problems(&LEAST.replace("servers = [\"db1\"]", servers)), [expected]);
    };
    check("", r#"proxy.toml:4: [clusters.main] must state "servers""#);
    check("servers = []", r#"proxy.toml:5: "servers" must not be empty"#);
    check("servers = [1]", r#"proxy.toml:5: "servers" must be an address such as "10.0.0.1:5432", not a whole number"#);
    check("servers = [\n\"db1\",\n\"DB1:5432\",\n]", r#"proxy.toml:7: "servers" states "db1:5432" twice"#);
    check(
        "servers = [\n\"db1\",\n\"db2:x\",\n]",
        r#"proxy.toml:7: "servers" is wrong: "x" is not a port: write a number from 1 to 65535"#,
    );
    check("servers = [\"db1\"]\nprobe_user = \"\"", r#"proxy.toml:6: "probe_user" must not be empty"#);
    check(
        "servers = [\"db1\"]\nprobe_password = \"md58bbf3f45673bf67d02e4214911f3417f\"",
        r#"proxy.toml:6: "probe_password" must be plain text: nobody can log in with a verifier"#,
    );
}

#[test]
fn shares() {
    let servers = "servers = [\"db1\", \"db2:5433\"]";
    let cluster = |more: &str| LEAST.replace("servers = [\"db1\"]", &format!("{servers}\n{more}"));
    let stated = parse(&cluster("weights = { \"DB2:5433\" = 3 }\nzones = { db1 = \"a\", \"db2:5433\" = \"b\" }"));
    let found = &stated.clusters["main"];
    let weights: Vec<_> = found.weights.iter().map(|(server, weight)| (server.to_string(), *weight)).collect();
    assert_eq!(weights, [("db2:5433".to_owned(), 3)]);
    assert_eq!(found.zones.values().map(String::as_str).collect::<Vec<_>>(), ["a", "b"]);
    let shown = stated.settings.iter().find(|setting| setting.key == "zones").unwrap();
    assert_eq!(shown.value.as_deref(), Some(r#"{ "db1:5432" = "a", "db2:5433" = "b" }"#));
    let wrong = |more: &str, expected: &str| assert_eq!(problems(&cluster(more)), [expected], "{more}");
    wrong(
        "weights = 1",
        r#"proxy.toml:6: "weights" must be a table such as { "10.0.0.1:5432" = ... }, not a whole number"#,
    );
    wrong("weights = { db1 = 1001 }", r#"proxy.toml:6: "weights" of "db1:5432" must be from 0 to 1000, not 1001"#);
    wrong("weights = { db1 = -1 }", r#"proxy.toml:6: "weights" of "db1:5432" must be from 0 to 4294967295, not -1"#);
    wrong("weights = { db1 = 1, \"DB1:5432\" = 2 }", r#"proxy.toml:6: "weights" states "db1:5432" twice"#);
    wrong("zones = { db1 = 1 }", r#"proxy.toml:6: "zones" of "db1:5432" must be a text in quotes, not a whole number"#);
    wrong(
        "zones = { \"db2:5434\" = \"a\" }",
        r#"proxy.toml:6: "zones" names "db2:5434", which is not in "servers"; did you mean "db2:5433"?"#,
    );
    let part =
        |value: &str| parse(&format!("[routing]\nprimary_read_share = {value}\n{LEAST}")).routing.primary_read_share;
    assert_eq!([part("0.3").part(), part("0").part(), part("1").part(), part("1.0").part()], [0.3, 0.0, 1.0, 1.0]);
    let share = |value: &str, expected: &str| {
        check(
            &format!("[routing]\nprimary_read_share = {value}"),
            &format!("proxy.toml:2: \"primary_read_share\" {expected}"),
        );
    };
    share("1.1", "must be from 0.0 to 1.0, not 1.1");
    share("-0.1", "must be from 0.0 to 1.0, not -0.1");
    share("nan", "must be from 0.0 to 1.0, not NaN");
    share("\"30%\"", "must be a fraction from 0.0 to 1.0, not a text");
    check("[routing]\nslow_start = \"2h\"", r#"proxy.toml:2: "slow_start" must be from "0s" to "1h", not "2h""#);
    // The user's own, else the database's, else everybody's.
    let resolved = |more: &str| {
        let text = format!("[routing]\nprimary_read_share = 0.1\n{LEAST}{more}");
        parse(&text).resolve("shop", "app").unwrap().primary_read_share.part()
    };
    assert_eq!(resolved(""), 0.1);
    assert_eq!(resolved("primary_read_share = 0.2"), 0.2);
    let user = LEAST.replace("\"x\"", "\"x\"\nprimary_read_share = 0.4") + "primary_read_share = 0.2";
    assert_eq!(parse(&user).resolve("shop", "app").unwrap().primary_read_share.part(), 0.4);
}

#[test]
fn impossible_users() {
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(problems(&format!("[[users]]\n{text}\n{LEAST}")), expected, "{text}")
    };
    let ends = |text: &str, expected: &str| {
        let found = problems(&format!("[[users]]\nname = \"a\"\n{text}\n{LEAST}"));
        assert!(
            matches!(&found[..], [problem] if problem.starts_with("proxy.toml:3: ") && problem.contains(expected)),
            "{text}: {found:?}"
        );
        // Whatever is wrong with a password, it is not told.
        assert!(!found[0].contains("hunter2"), "{found:?}");
    };
    check("password = \"x\"", &[r#"proxy.toml:1: [[users]] "" must state "name""#]);
    check("name = \"\"\npassword = \"x\"", &[r#"proxy.toml:2: "name" must not be empty"#]);
    check("name = 1\npassword = \"x\"", &[r#"proxy.toml:2: "name" must be a text in quotes, not a whole number"#]);
    check("name = \"a\"", &[r#"proxy.toml:1: a user needs a "password" unless [auth] method is "trust""#]);
    check("name = \"a\\u0000\"\npassword = \"x\"", &[r#"proxy.toml:2: "name" must not contain control characters"#]);
    check(
        &format!("name = \"{}\"\npassword = \"x\"", "é".repeat(32)),
        &[r#"proxy.toml:2: "name" has more than 63 bytes"#],
    );
    // The second of two is the one to remove.
    check("name = \"app\"\npassword = \"x\"", &[r#"proxy.toml:4: user "app" is stated twice"#]);
    ends("password = \"\"", "must not be empty");
    ends("password = \"hunter2\\u0000\"", "zero byte");
    ends(&format!("password = \"{}\"", "hunter2".repeat(200)), "more than 1024 bytes");
    ends("password = [\"hunter2\"]", "must be a text in quotes, not a list");
    ends("password = \"SCRAM-SHA-256$hunter2\"", "broken verifier");
    ends("password = \"md58bbf3f45673bf67d02e4214911f3417f\"", "md5 hash");
    let own = |text: &str, expected: &str| check(&format!("name = \"a\"\npassword = \"x\"\n{text}"), &[expected]);
    own("server_user = \"\"", r#"proxy.toml:4: "server_user" must not be empty"#);
    own(
        "server_password = \"SCRAM-SHA-256$x\"",
        r#"proxy.toml:4: "server_password" must be plain text: nobody can log in with a verifier"#,
    );
    own("pool_size = 0", r#"proxy.toml:4: "pool_size" must be from 1 to 10000, not 0"#);
    own("max_lag = \"0s\"", r#"proxy.toml:4: "max_lag" must be from "1ms" to "365d", not "0s""#);
    own(
        "pool_mod = \"session\"",
        r#"proxy.toml:4: unknown key "pool_mod" in [[users]] "a"; did you mean "pool_mode"?"#,
    );
    assert_eq!(
        problems(&format!("[pool]\nmin_size = 5\n[databases.a]\npool_size = 4\n{LEAST}")),
        [r#"proxy.toml:4: "pool_size" 4 is less than "min_size" 5 in [pool]"#]
    );
}

/// What is missing has no line; and nothing hides what else is wrong.
#[test]
fn everything_at_once() {
    assert_eq!(
        problems(""),
        [
            "proxy.toml: no cluster is stated: add [clusters.NAME] with its \"servers\"",
            "proxy.toml: nobody could log in: add [[users]] with a \"name\" and a \"password\"",
            "proxy.toml: no database is stated: add [databases.NAME], or [databases.\"*\"] for all of the cluster's",
        ]
    );
    let text = "[log]\nlevel = 1\nformt = \"text\"\n[routing]\nmax_lag = \"0s\"\n[pool]\nsize = 0\nqueue_max = 0\n";
    let lines: Vec<_> = Config::parse(&format!("{text}{LEAST}"), "f")
        .unwrap_err()
        .into_iter()
        .map(|problem| problem.position.map(|position| (position.line, position.column)))
        .collect();
    assert_eq!(lines, [Some((2, 1)), Some((3, 1)), Some((5, 1)), Some((7, 1)), Some((8, 1))]);
}

/// Text that is not TOML gives the errors of its syntax only.
#[test]
fn syntax() {
    let check = |text: &str, expected: &[&str]| {
        let found = problems(text);
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for (problem, expected) in found.iter().zip(expected) {
            assert!(problem.starts_with(expected), "{problem}");
        }
    };
    check("[pool\nsize = 1", &["proxy.toml:1: "]);
    check("[pool]\nsize = \n[log]\nlevel = info\n", &["proxy.toml:2: ", "proxy.toml:4: "]);
    check("[pool]\nsize = 1\nsize = 2\n", &["proxy.toml:3: duplicate key"]);
    check("[pool]\n[pool]\n", &["proxy.toml:2: duplicate key"]);
    check("password = \"hunter2", &["proxy.toml:1: invalid basic string"]);
}

#[test]
fn resolution() {
    let config = parse(
        r#"
        [auth]
        method = "scram-sha-256"
        [pool]
        size = 7
        min_size = 2
        [routing]
        max_lag = "3s"
        [[users]]
        name = "plain"
        password = "p"
        [[users]]
        name = "own"
        password = "p"
        server_user = "app"
        server_password = "q"
        pool_size = 9
        pool_mode = "session"
        consistency = "eventual"
        max_lag = "1s"
        route = "replica"
        [[users]]
        name = "verified"
        password = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        [clusters.a]
        servers = ["db1"]
        [clusters.b]
        servers = ["db2"]
        [databases."*"]
        cluster = "a"
        [databases.special]
        cluster = "b"
        dbname = "real"
        pool_size = 8
        pool_mode = "statement"
        consistency = "global"
        max_lag = "2s"
        route = "primary"
        "#,
    );
    let check = |database: &str, user: &str, expected: &str| {
        let found = config.resolve(database, user).map_or_else(
            |error| error.to_string(),
            |found| {
                let password = found.server_password.as_ref().map_or("none", |password| password.expose());
                format!(
                    "{}/{} as {}:{password} {:?} {}..{} {:?} {:?} {:?}",
                    found.cluster,
                    found.dbname,
                    found.server_user,
                    found.pool_mode,
                    found.pool_min_size,
                    found.pool_size,
                    found.consistency,
                    found.max_lag,
                    found.route
                )
            },
        );
        assert_eq!(found, expected, "{database} {user}");
    };
    check("shop", "plain", "a/shop as plain:p Transaction 2..7 Session 3s Auto");
    check("special", "plain", "b/real as plain:p Statement 2..8 Global 2s Primary");
    check("shop", "own", "a/shop as app:q Session 2..9 Eventual 1s Replica");
    check("special", "own", "b/real as app:q Session 2..9 Eventual 1s Replica");
    check("shop", "verified", "a/shop as verified:none Transaction 2..7 Session 3s Auto");
    check("shop", "nobody", "there is no such user");
    check("shop", "", "there is no such user");
    check("", "plain", "there is no such database");
    // The server would cut the name off and open another database.
    check(&"x".repeat(64), "plain", "there is no such database");
    check("pgbouncer", "plain", "there is no such database");
    check("hakem", "plain", "there is no such database");
}

#[test]
fn resolution_of_strangers() {
    let text = LEAST.replace("\"*\"", "one");
    assert_eq!(parse(&text).resolve("two", "app"), Err(ResolveError::UnknownDatabase));
    assert_eq!(parse(&text).resolve("one", "stranger"), Err(ResolveError::UnknownUser));
    let trusting = parse(&format!("[auth]\nmethod = \"trust\"\n[routing]\nsplit = false\n{text}"));
    let stranger = trusting.resolve("one", "stranger").unwrap();
    assert_eq!(
        (stranger.server_user.as_str(), stranger.server_password, stranger.route),
        ("stranger", None, Route::Primary)
    );
    assert_eq!(trusting.resolve("one", &"x".repeat(64)), Err(ResolveError::UnknownUser));
}

/// No way of printing a configuration shows a password.
#[test]
fn secrets() {
    let text = LEAST
        .replace("\"x\"", "\"hunter2\"\nserver_password = \"hunter2\"")
        .replace("servers =", "probe_password = \"hunter2\"\nservers =");
    let config = parse(&text);
    let resolved = config.resolve("shop", "app").unwrap();
    assert!(!format!("{config:?} {resolved:?}").contains("hunter2"));
    let shown: Vec<_> = config.settings.iter().filter(|setting| setting.value.as_deref() == Some("\"***\"")).collect();
    assert_eq!(shown.len(), 3, "{shown:?}");
}

proptest! {
    /// Whatever is done to the text, the answer is a configuration or at least one problem within the text.
    #[test]
    fn damaged(at in any::<prop::sample::Index>(), length in 0_usize..20, with in "([a-z0-9.\"\\[\\]=#_ \n-]|.){0,8}") {
        let text = reference_with_examples();
        let start = at.index(text.len());
        let end = (start + length).min(text.len());
        prop_assume!(text.is_char_boundary(start) && text.is_char_boundary(end));
        let damaged = [&text[..start], &with, &text[end..]].concat();
        if let Err(problems) = Config::parse(&damaged, "proxy.toml") {
            prop_assert!(!problems.is_empty());
            let lines = damaged.split('\n').count();
            prop_assert!(problems.iter().filter_map(|problem| problem.position).all(|at| (1..=lines).contains(&at.line)));
        }
    }
}

#[test]
fn peers() {
    let peers =
        parse(&format!("[peers.2]\nhost = \"b\"\n[peers.16383]\nhost = \"::1\"\nport = 7\npool_size = 3\n{LEAST}"))
            .peers;
    assert_eq!(peers.keys().copied().collect::<Vec<_>>(), [2, 16_383]);
    assert_eq!((peers[&2].host.as_str(), peers[&2].port, peers[&2].pool_size), ("b", 6432, None));
    assert_eq!((peers[&16_383].host.as_str(), peers[&16_383].port, peers[&16_383].pool_size), ("::1", 7, Some(3)));
    for wrong in ["0", "16384", "01", "a"] {
        let text = format!("proxy.toml:1: \"{wrong}\" in [peers] is not a peer's \"peer_id\", from 1 to 16383");
        check(&format!("[peers.{wrong}]\nhost = \"b\""), &text);
    }
    check("[peers.1]\nport = 7", "proxy.toml:1: [peers.1] must state \"host\"");
    check("[peers.1]\nhost = \"\"", "proxy.toml:2: \"host\" must not be empty");
}

#[test]
fn rules() {
    let text = format!(
        "[[rules]]\ntables = [\"moves\"]\nsynchronous_commit = \"remote_apply\"\n\
         [[rules]]\nusers = [\"app\"]\napplication_names = [\"game*\", \"x\"]\npin = true\n{LEAST}"
    );
    let rules = parse(&text).rules;
    assert_eq!((rules[0].tables.as_slice(), rules[0].pin), (["moves".to_owned()].as_slice(), None));
    assert!(rules[0].fits("any", "body") && rules[0].fits_application(""));
    assert!(rules[1].fits("any", "app") && !rules[1].fits("any", "body"));
    for (name, fits) in [("game", true), ("game 7", true), ("x", true), ("xy", false), ("", false)] {
        assert_eq!(rules[1].fits_application(name), fits, "{name}");
    }
    let silent = "proxy.toml:1: a rule must say something: \"synchronous_commit\", \"pin\", \"route\", \"consistency\", \"max_lag\", \"affinity\", \"commit_resolution\" or \"transaction_replay\"";
    check("[[rules]]\nusers = [\"app\"]", silent);
    let mixed = "proxy.toml:1: \"tables\" and \"statements\" are for \"synchronous_commit\" alone: what else a rule says holds for a session";
    check("[[rules]]\ntables = [\"t\"]\npin = true", mixed);
    let unknown = "proxy.toml:2: \"statements\" has \"select\", which is none of insert, update, delete, merge, copy, truncate, call, do";
    check("[[rules]]\nstatements = [\"select\"]\nsynchronous_commit = \"off\"", unknown);
}
