//! The configuration is read again while clients are served: nobody is dropped, nothing fails, and what it says holds.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_postgres::error::SqlState;

use crate::harness::{Setup, until};

#[tokio::test]
async fn nothing_fails_while_it_is_reloaded_again_and_again() {
    const RELOADS: usize = 12;
    const CLIENTS: usize = 6;
    let setup = Setup::replicas(1).with("pool", "size", "3");
    let stage = setup.clone().start().await.unwrap();
    stage.psql("create table t (client int, n int)").await;
    stage.cluster.caught_up().await.unwrap();
    let (over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (mut client, over, rounds) = (stage.connect().await, over.clone(), rounds.clone());
        clients.push(tokio::spawn(async move {
            let number = i32::try_from(number).unwrap();
            let insert = client.prepare("insert into t values ($1, $2)").await.unwrap();
            let count = client.prepare("select count(*) from t where client = $1").await.unwrap();
            let mut n = 0;
            while !over.load(Ordering::Relaxed) {
                n += 1;
                let transaction = client.transaction().await.unwrap();
                transaction.execute(&insert, &[&number, &n]).await.unwrap();
                transaction.commit().await.unwrap();
                let seen: i64 = client.query_one(&count, &[&number]).await.unwrap().get(0);
                assert_eq!(seen, i64::from(n));
                rounds.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for number in 0..RELOADS {
        // Pools that grow and shrink, pools that are replaced, servers that are watched anew, and nothing at all.
        let changed = match number % 4 {
            0 => setup.clone().with("pool", "size", "1"),
            1 => setup.clone().with("pool", "server_connect_timeout", "\"9s\""),
            2 => setup.clone().with("topology", "probe_interval", "\"50ms\""),
            _ => setup.clone(),
        };
        changed.reload(&stage).await.unwrap();
        let before = rounds.load(Ordering::Relaxed);
        until("everybody to go on", async || {
            rounds.load(Ordering::Relaxed) > before + CLIENTS || clients.iter().any(|client| client.is_finished())
        })
        .await
        .unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn a_bad_file_changes_nothing() {
    let setup = Setup::replicas(0);
    let stage = setup.clone().start().await.unwrap();
    let client = stage.connect().await;
    std::fs::write(&stage.proxy.config, setup.with("pool", "size", "0").text(&stage.cluster)).unwrap();
    stage.proxy.signal("HUP");
    for told in ["the configuration stays as it was", "\"size\""] {
        until("the error to be logged", async || stage.proxy.log().contains(told)).await.unwrap();
    }
    assert_eq!(client.value("select 1").await.unwrap(), "1");
    assert_eq!(stage.connect().await.value("select 2").await.unwrap(), "2");
    std::fs::remove_file(&stage.proxy.config).unwrap();
    stage.proxy.signal("HUP");
    until("that to be logged", async || stage.proxy.log().contains("cannot read")).await.unwrap();
    assert_eq!(client.value("select 3").await.unwrap(), "3");
}

#[tokio::test]
async fn what_is_removed_serves_those_who_are_there() {
    let other = "[[users]]\nname = \"other\"\npassword = \"secret\"\nserver_user = \"postgres\"\nserver_password = \"PASSWORD\"";
    let setup = Setup::replicas(0);
    let with_other = setup.clone().and(&other.replace("PASSWORD", &setup.cluster.password));
    let stage = with_other.clone().start().await.unwrap();
    let log_in = async |password: &str| {
        let password = password.to_owned();
        stage
            .proxy
            .connect_with(move |config| {
                config.user("other").password(password);
            })
            .await
    };
    let there = log_in("secret").await.unwrap();
    there.batch_execute("begin").await.unwrap();
    there.batch_execute("create table t ()").await.unwrap();
    setup.reload(&stage).await.unwrap();
    let Err(refused) = log_in("secret").await else { panic!("a removed user gets in") };
    assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD));
    there.batch_execute("commit").await.unwrap();
    assert_eq!(there.value("select count(*) from t").await.unwrap(), "0");
    // It comes back, with another password.
    let changed = other.replace("PASSWORD", &setup.cluster.password).replace("\"secret\"", "\"changed\"");
    setup.clone().and(&changed).reload(&stage).await.unwrap();
    assert!(log_in("secret").await.is_err());
    log_in("changed").await.unwrap();
    assert_eq!(there.value("select count(*) from t").await.unwrap(), "0");
}

#[tokio::test]
async fn what_is_changed_holds_from_the_next_transaction() {
    let user = |server_user: &str| {
        format!("[[users]]\nname = \"app\"\npassword = \"p\"\nserver_user = \"{server_user}\"\nserver_password = \"p\"")
    };
    let setup = Setup::replicas(1).with("routing", "consistency", "\"eventual\"");
    let stage = setup.clone().and(&user("one")).start().await;
    let stage = stage.unwrap();
    stage.psql("create role one login password 'p'; create role two login password 'p'").await;
    let app = stage.proxy.connect_with(|config| {
        config.user("app").password("p");
    });
    let app = app.await.unwrap();
    app.batch_execute("set hakem.route = 'primary'").await.unwrap();
    app.batch_execute("begin").await.unwrap();
    assert_eq!(app.value("select current_user").await.unwrap(), "one");
    setup.clone().and(&user("two")).reload(&stage).await.unwrap();
    assert_eq!(app.value("select current_user").await.unwrap(), "one", "a transaction stays where it is");
    app.batch_execute("commit").await.unwrap();
    assert_eq!(app.value("select current_user").await.unwrap(), "two");
    until("the old connections to be closed", async || {
        stage.direct(0, "select count(*) from pg_stat_activity where usename = 'one'").await == "0"
    })
    .await
    .unwrap();
    // What the session has said itself holds; what it has not follows the configuration.
    assert_eq!(app.value("show hakem.route").await.unwrap(), "primary");
    assert_eq!(app.value("show hakem.consistency").await.unwrap(), "eventual");
    setup.clone().with("routing", "consistency", "\"global\"").and(&user("two")).reload(&stage).await.unwrap();
    assert_eq!(app.value("select 1").await.unwrap(), "1");
    assert_eq!(app.value("show hakem.consistency").await.unwrap(), "global");
    assert_eq!(app.value("show hakem.route").await.unwrap(), "primary");
}

#[tokio::test]
async fn servers_come_and_go() {
    let setup = Setup::replicas(1);
    let stage = setup.clone().start().await.unwrap();
    let client = stage.connect().await;
    client.batch_execute("create table t ()").await.unwrap();
    let primary = stage.cluster.nodes()[0].port();
    let alone = setup.clone().with("clusters.local", "servers", &format!("[\"127.0.0.1:{primary}\"]"));
    // Nobody may wait for a primary: the new watcher has found it before anybody is sent there.
    let alone = alone.with("topology", "failover_timeout", "\"0s\"");
    for _ in 0..3 {
        alone.reload(&stage).await.unwrap();
        assert_eq!(client.value("select count(*) from t").await.unwrap(), "0");
        assert_eq!(stage.proxy.series("hakem_node_state").await.iter().filter(|(_, is)| *is == 1.0).count(), 1);
        setup.clone().with("topology", "failover_timeout", "\"0s\"").reload(&stage).await.unwrap();
        assert_eq!(client.value("select count(*) from t").await.unwrap(), "0");
        assert_eq!(stage.proxy.series("hakem_node_state").await.iter().filter(|(_, is)| *is == 1.0).count(), 2);
    }
    // What cannot be followed is said.
    setup.with("proxy", "workers", "3").reload(&stage).await.unwrap();
    until("it to be logged", async || stage.proxy.log().contains("takes a restart")).await.unwrap();
}
