//! The program itself: how it starts, what it refuses, what it writes, how it ends.

use futures_util::future::join_all;
use tokio_postgres::error::SqlState;

use crate::harness::{Output, Setup, Stage, program, run, until};

#[tokio::test]
async fn check_tells_what_is_wrong() {
    let stage = Setup::replicas(1).start().await.unwrap();
    let port = stage.cluster.nodes()[0].port();
    let check = async |setup: Setup| -> Output {
        let path = setup.write(&stage.cluster).unwrap();
        run(program("check", &path).into(), "").await
    };
    let good = check(Setup::replicas(1)).await;
    assert!(good.status.success(), "{good:?}");
    for expected in ["configuration: ok", "primary", "replica", &format!("127.0.0.1:{port}")] {
        assert!(good.stdout.contains(expected), "{expected}: {good:?}");
    }
    let wrong = check(Setup::replicas(1).with("clusters.local", "probe_password", "\"open sesame\"")).await;
    assert!(!wrong.status.success(), "{wrong:?}");
    assert!(wrong.stdout.contains("password authentication failed"), "{wrong:?}");
    assert!(!format!("{wrong:?}").contains("sesame"), "{wrong:?}");
    // Port 1 is nobody's.
    let servers = format!("[\"127.0.0.1:{port}\", \"127.0.0.1:1\"]");
    let unreachable = check(Setup::replicas(1).with("clusters.local", "servers", &servers)).await;
    assert!(!unreachable.status.success(), "{unreachable:?}");
    assert!(unreachable.stdout.contains("127.0.0.1:1: FAILED"), "{unreachable:?}");
    assert!(unreachable.stdout.contains("primary"), "{unreachable:?}");
}

#[tokio::test]
async fn a_wrong_configuration_is_refused_by_line() {
    let stage = Setup::replicas(0).start().await.unwrap();
    let cases = [
        (Setup::default().with("routing", "max_lagg", "\"1s\""), "max_lagg", Some("\"max_lag\"")),
        (Setup::default().with("pool", "size", "0"), "size", None),
        (Setup::default().with("pool", "mode", "\"transactions\""), "mode", Some("\"transaction\"")),
        (Setup::default().with("routing", "max_lag", "\"soon\""), "max_lag", None),
        (Setup::default().with("pools", "size", "1"), "[pools]", Some("pool")),
    ];
    for (setup, key, nearest) in cases {
        let path = setup.write(&stage.cluster).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let line = 1 + text.lines().position(|line| line.starts_with(key)).unwrap();
        for command in ["run", "check"] {
            let output = run(program(command, &path).into(), "").await;
            assert!(!output.status.success(), "{command}: {output:?}");
            let place = format!("{}:{line}: ", path.display());
            assert!(output.stderr.contains(&place), "{command}: {place}: {output:?}");
            assert!(
                nearest.is_none_or(|nearest| output.stderr.contains(nearest)),
                "{command}: {nearest:?}: {output:?}"
            );
        }
    }
    let output = run(program("run", std::path::Path::new("/nowhere/proxy.toml")).into(), "").await;
    assert!(!output.status.success() && output.stderr.contains("/nowhere/proxy.toml"), "{output:?}");
    // An address that somebody has.
    let taken = Setup::default().with("proxy", "listen", &format!("[\"{}\"]", stage.proxy.address));
    let output = run(program("run", &taken.write(&stage.cluster).unwrap()).into(), "").await;
    assert!(!output.status.success() && output.stderr.contains("cannot listen"), "{output:?}");
}

#[tokio::test]
async fn logs_are_json_and_keep_secrets() {
    const SECRETS: [&str; 3] = ["correct horse", "battery staple", "hunter22"];
    for format in ["json", "text"] {
        let users = "[[users]]\nname = \"someone\"\npassword = \"hunter22\"\nserver_user = \"postgres\"\nserver_password = \"correct horse\"";
        let mut setup = Setup::replicas(1).and(users).with("log", "level", "\"trace\"").with(
            "log",
            "format",
            &format!("\"{format}\""),
        );
        setup = setup.with("console", "admin_users", "[\"postgres\"]");
        setup.cluster.password = "correct horse".to_owned();
        let mut stage = setup.start().await.unwrap();
        let someone = stage.proxy.connect_with(|config| {
            config.user("someone").password("hunter22");
        });
        let someone = someone.await.unwrap();
        someone.batch_execute("create role other password 'battery staple'").await.unwrap();
        someone.failure("alter role nobody password 'battery staple'").await.unwrap();
        let wrong = stage.proxy.connect_with(|config| {
            config.user("someone").password("battery staple");
        });
        assert!(wrong.await.is_err());
        let forger = stage.proxy.connect_with(|config| {
            config.user("mallory\nWARN forged").password("wrong");
        });
        assert!(forger.await.is_err());
        // What a server says of a name, and what an administrator says to the console.
        let forger = stage.proxy.connect_with(|config| {
            config.dbname("nowhere\nWARN forged");
        });
        assert!(forger.await.is_err());
        let console = stage.proxy.connect_with(|config| {
            config.dbname("hakem");
        });
        assert!(console.await.unwrap().failure("DISABLE \"nowhere\nWARN forged\"").await.is_none());
        stage.cluster.kill(0).await.unwrap();
        stage.cluster.start_node(0).await.unwrap();
        until("the server to be back", async || someone.failure("create table if not exists t ()").await.is_none())
            .await
            .unwrap();
        stage.proxy.signal("INT");
        assert!(stage.proxy.ended().await.unwrap().success());
        let log = stage.proxy.log();
        for secret in SECRETS {
            assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        }
        assert!(log.contains("authentication failed") && log.contains("user"), "{log}");
        for told in ["authentication failed", "cannot connect to server", "command issued"] {
            assert!(log.lines().any(|line| line.contains(told) && line.contains("\\nWARN forged")), "{told}: {log}");
        }
        assert!(!log.contains("\nWARN forged"), "{log}");
        if format == "json" {
            for line in log.lines() {
                let line: serde_json::Value =
                    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
                assert!(
                    line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(),
                    "{line}"
                );
            }
        }
    }
}

#[tokio::test]
async fn sigint_lets_transactions_finish() {
    let mut stage: Stage = Setup::replicas(0).start().await.unwrap();
    let mut idle = stage.connect().await;
    let busy = stage.connect().await;
    busy.batch_execute("create table t (n int)").await.unwrap();
    busy.batch_execute("begin; insert into t values (1)").await.unwrap();
    stage.proxy.signal("INT");
    // The idle one is told, and gone.
    assert!(idle.message().await.is_none());
    let error = idle.batch_execute("select 1").await.unwrap_err();
    assert!(error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN), "{error:?}");
    assert_eq!(stage.proxy.page("/ready").await.unwrap().0, 503);
    // Nobody new gets in.
    assert!(stage.proxy.connect_with(|_| {}).await.is_err());
    busy.batch_execute("insert into t values (2)").await.unwrap();
    busy.batch_execute("commit").await.unwrap();
    assert!(stage.proxy.ended().await.unwrap().success());
    assert_eq!(stage.direct(0, "select count(*) from t").await, "2");
    assert!(busy.batch_execute("select 1").await.is_err());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let mut stage = Setup::replicas(0).start().await.unwrap();
    let busy = stage.connect().await;
    busy.batch_execute("create table t (n int)").await.unwrap();
    busy.batch_execute("begin; insert into t values (1)").await.unwrap();
    stage.proxy.signal("TERM");
    until("it to have heard", async || stage.proxy.log().contains("shutting down")).await.unwrap();
    stage.proxy.signal("INT");
    assert!(stage.proxy.ended().await.unwrap().success());
    until("its transaction to be gone", async || {
        stage.direct(0, "select count(*) from pg_stat_activity where state like 'idle in transaction%'").await == "0"
    })
    .await
    .unwrap();
    assert_eq!(stage.direct(0, "select count(*) from t").await, "0");
}

#[tokio::test]
async fn pages() {
    let mut stage = Setup::replicas(1).start().await.unwrap();
    assert_eq!(stage.proxy.page("/health").await.unwrap().0, 200);
    assert_eq!(stage.proxy.page("/ready").await.unwrap().0, 200);
    assert_eq!(stage.proxy.page("/nowhere").await.unwrap().0, 404);
    let client = stage.connect().await;
    client.batch_execute("select 1").await.unwrap();
    assert_eq!(stage.proxy.metric("hakem_clients", &[]).await, 1.0);
    assert_eq!(stage.proxy.metric("hakem_node_state", &[("state", "primary")]).await, 1.0);
    assert_eq!(stage.proxy.metric("hakem_node_state", &[("state", "replica")]).await, 1.0);
    assert_eq!(stage.proxy.metric("hakem_split_brain", &[]).await, 0.0);
    let (_, metrics) = stage.proxy.page("/metrics").await.unwrap();
    for name in
        metrics.lines().filter_map(|line| line.split(['{', ' ']).next()).filter(|name| name.starts_with("hakem_"))
    {
        assert!(metrics.contains(&format!("# HELP {name} ")), "{name} is not explained");
    }
    stage.cluster.kill(0).await.unwrap();
    until("the loss to be seen", async || stage.proxy.metric("hakem_primary_known", &[]).await == 0.0).await.unwrap();
    assert_eq!(stage.proxy.page("/health").await.unwrap().0, 200, "the program itself is well");
}

#[tokio::test]
async fn what_is_sent_goes_out_together_where_the_kernel_lets_it_unless_told_otherwise() {
    let is_known = std::thread::spawn(|| pool::post::open().is_ok()).join().unwrap();
    let stage = Setup::replicas(0).start().await.unwrap();
    let alone = Setup::replicas(0).with("proxy", "io_uring", "false").proxy(&stage.cluster).await.unwrap();
    for (proxy, has_ring) in [(&stage.proxy, is_known), (&alone, false)] {
        // Some of the clients at a time, so that there is something to be sent together.
        let clients = join_all((0..8).map(|_| proxy.connect())).await;
        let counts =
            join_all(clients.iter().map(|client| client.value("select count(*) from generate_series(1, 100000)")))
                .await;
        assert!(counts.into_iter().all(|count| count.unwrap() == "100000"));
        assert_eq!(proxy.process("maps").contains("[io_uring]"), has_ring);
        assert_eq!(proxy.log().contains("no io_uring here"), !has_ring && proxy.address == stage.proxy.address);
    }
}
