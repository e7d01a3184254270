//! How many connections and clients there may be: of a pool, a database, a user; and who gets one at the limit.

use std::time::{Duration, Instant};

use tokio_postgres::error::SqlState;

use crate::harness::{Client, Setup, Stage, until};
use crate::raw::{Raw, sqlstate, value};

/// Users of everybody's database besides the default one.
fn with_users(mut setup: Setup, users: &[(&str, &str)]) -> Setup {
    for (name, keys) in users {
        setup = setup.and(&format!("[[users]]\nname = \"{name}\"\npassword = \"x\"\nserver_user = \"postgres\"\nserver_password = \"hakem\"\n{keys}"));
    }
    setup
}

async fn connections(stage: &Stage, labels: &[(&str, &str)]) -> f64 {
    stage.proxy.metric("hakem_server_connections", labels).await
}

/// Server sessions of clients, as the server counts them; the probes are not among them.
async fn backends(stage: &Stage) -> usize {
    let sql = "select count(*) from pg_stat_activity where backend_type = 'client backend' and query like '%/* held */%' and pid <> pg_backend_pid()";
    stage.direct(0, sql).await.parse().unwrap()
}

async fn hold(stage: &Stage, user: &str) -> Raw {
    let mut raw = Raw::log_in(&stage.proxy, user).await;
    raw.query("begin").await;
    assert_eq!(sqlstate(&raw.query("select 1 /* held */").await), None);
    raw
}

/// The same when who waits, waits in vain: for a reload once all are there who get what they wait for.
fn hasty(setup: Setup) -> Setup {
    setup.with("pool", "query_wait_timeout", "\"500ms\"")
}

#[tokio::test]
async fn clients_of_a_database_and_of_a_user_are_counted() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "max_user_client_connections", "3");
    let setup =
        with_users(setup, &[("one", "max_user_client_connections = 1"), ("many", "max_user_client_connections = 0")]);
    let setup = setup.and("[databases.small]\ndbname = \"postgres\"\nmax_db_client_connections = 2");
    let stage = setup.start().await.unwrap();
    let connect = async |user: &str, database: &str| {
        let outcome = stage.proxy.connect_with(|config| {
            config.user(user).dbname(database);
        });
        outcome.await.map_err(|error| {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone();
            assert_eq!((error.severity(), error.code()), ("FATAL", &SqlState::TOO_MANY_CONNECTIONS));
            error.message().to_owned()
        })
    };
    let refused = |outcome: Result<Client, String>| outcome.err().expect("it was let in");
    let of_user = "client connections exceeded (max_user_client_connections)";
    let of_database = "client connections exceeded (max_db_client_connections)";

    let only = connect("one", "postgres").await.unwrap();
    assert_eq!(refused(connect("one", "postgres").await), of_user);
    assert_eq!(refused(connect("one", "small").await), of_user, "of all databases");
    let mut many = Vec::new();
    for _ in 0..5 {
        many.push(connect("many", "postgres").await.unwrap());
    }
    let first = connect("many", "small").await.unwrap();
    let second = connect("postgres", "small").await.unwrap();
    assert_eq!(refused(connect("many", "small").await), of_database, "of all users");
    // A place is free when its client has gone, with a farewell or without.
    first.close().await;
    until("a place in the database", async || connect("postgres", "small").await.is_ok()).await.unwrap();
    only.vanish().await;
    until("the user's place", async || connect("one", "postgres").await.is_ok()).await.unwrap();
    second.close().await;
}

#[tokio::test]
async fn a_reserve_is_opened_for_who_waits_long() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let setup = setup.with("pool", "reserve_timeout", "\"100ms\"");
    let setup = with_users(setup, &[("spare", "reserve_pool_size = 1")]);
    let stage = setup.clone().start().await.unwrap();
    let _first = hold(&stage, "spare").await;
    let _second = hold(&stage, "spare").await;
    assert_eq!(backends(&stage).await, 2);
    let mut third = Raw::log_in(&stage.proxy, "spare").await;
    // Who has none has none.
    let _only = hold(&stage, "postgres").await;
    let mut other = Raw::log_in(&stage.proxy, "postgres").await;
    hasty(setup).reload(&stage).await.unwrap();
    let (third, other) = tokio::join!(third.query("select 1"), other.query("select 1"));
    assert_eq!(sqlstate(&third).as_deref(), Some("57014"), "query_wait_timeout");
    assert_eq!(sqlstate(&other).as_deref(), Some("57014"));
}

#[tokio::test]
async fn the_least_size_is_kept_open_while_there_are_clients() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "server_idle_timeout", "\"100ms\"");
    let stage = with_users(setup, &[("warm", "min_pool_size = 3")]).start().await.unwrap();
    let idle = async |user: &str| connections(&stage, &[("state", "idle"), ("user", user)]).await;
    let _client = Raw::log_in(&stage.proxy, "warm").await;
    let _other = Raw::log_in(&stage.proxy, "postgres").await;
    until("three connections", async || idle("warm").await == 3.0).await.unwrap();
    until("the others to be closed", async || idle("postgres").await == 0.0).await.unwrap();
    // Those that die are replaced.
    stage.direct(0, "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'postgres' and pid <> pg_backend_pid() and backend_type = 'client backend'").await;
    until("three connections again", async || idle("warm").await == 3.0).await.unwrap();
}

#[tokio::test]
async fn connections_of_a_database_and_of_a_user_are_limited_on_each_server() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "max_db_connections", "2");
    let setup = with_users(setup, &[("a", ""), ("b", ""), ("one", "max_user_connections = 1")]);
    let setup = setup.and("[databases.other]\ndbname = \"postgres\"\nmax_db_connections = 0");
    let stage = setup.clone().start().await.unwrap();
    let connect = async |database: &str| {
        let client = stage.proxy.connect_with(|config| {
            config.user("one").dbname(database);
        });
        client.await.unwrap()
    };
    // A user's limit counts all databases.
    let (here, there) = (connect("other").await, connect("postgres").await);
    here.batch_execute("begin; select 1").await.unwrap();
    let _first = hold(&stage, "a").await;
    let second = hold(&stage, "b").await;
    let mut third = Raw::log_in(&stage.proxy, "b").await;
    hasty(setup.clone()).reload(&stage).await.unwrap();
    let (third, failed) = tokio::join!(third.query("select 1"), there.failure("select 1"));
    assert_eq!(sqlstate(&third).as_deref(), Some("57014"));
    assert_eq!(failed, Some(SqlState::QUERY_CANCELED));
    assert_eq!(connections(&stage, &[("database", "postgres")]).await, 2.0);
    setup.reload(&stage).await.unwrap();
    // One that idles makes room for another user at once; one that is lent, when it comes back.
    drop(second);
    until("one to be let go", async || connections(&stage, &[("user", "b"), ("state", "leased")]).await == 0.0)
        .await
        .unwrap();
    let mut fourth = Raw::log_in(&stage.proxy, "postgres").await;
    assert_eq!(value(&fourth.query("select 4").await).as_deref(), Some("4"));
    assert!(connections(&stage, &[("database", "postgres")]).await <= 2.0);
    here.batch_execute("commit").await.unwrap();
    assert_eq!(there.value("select 2").await.unwrap(), "2");
    assert_eq!(here.value("select 3").await.unwrap(), "3");
}

#[tokio::test]
async fn users_share_a_database_evenly() {
    // PgBouncer's issue 131: three users of fifteen clients each, and fewer connections than one of them would take.
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "max_db_connections", "6");
    let users = ["a", "b", "c"];
    let stage = with_users(setup, &users.map(|user| (user, ""))).start().await.unwrap();
    let mut idle = Vec::new();
    for user in users {
        for _ in 0..15 {
            idle.push((user, Raw::log_in(&stage.proxy, user).await));
        }
    }
    let end = Instant::now() + Duration::from_secs(4);
    let mut clients = Vec::new();
    for (user, mut client) in idle {
        clients.push(tokio::spawn(async move {
            let mut waits = Vec::new();
            while Instant::now() < end {
                let start = Instant::now();
                assert_eq!(sqlstate(&client.query("select pg_sleep(0.005)").await), None);
                waits.push(start.elapsed());
            }
            (user, waits)
        }));
    }
    let mut waits: std::collections::HashMap<&str, Vec<Duration>> = std::collections::HashMap::new();
    for client in clients {
        let (user, mut own) = client.await.unwrap();
        // The first ones wait until the connections have been shared out.
        waits.entry(user).or_default().extend(own.drain(own.len().min(2)..));
    }
    let mut slow = Vec::new();
    for user in users {
        let waits = waits.get_mut(user).unwrap();
        waits.sort();
        assert!(waits.len() >= 30, "{user}: {waits:?}");
        slow.push(waits[waits.len() * 95 / 100]);
    }
    let (least, most) = (slow.iter().min().unwrap(), slow.iter().max().unwrap());
    assert!(*most < 2 * *least, "the slow ones: {slow:?}");
    assert!(connections(&stage, &[]).await <= 6.0);
}

#[tokio::test]
async fn a_database_that_is_not_there_is_said_to_be_so_at_once() {
    let setup = Setup::replicas(0).with("pool", "server_login_retry", "\"1min\"");
    let stage = setup.and("[databases.gone]\ndbname = \"not there\"").start().await.unwrap();
    for text in [
        "database \"not there\" does not exist",
        "server login has been failing, cached error: database \"not there\" does not exist (server_login_retry)",
    ] {
        let outcome = stage.proxy.connect_with(|config| {
            config.dbname("gone");
        });
        let error = outcome.await.err().unwrap().as_db_error().unwrap().clone();
        assert_eq!((error.code(), error.message()), (&SqlState::UNDEFINED_DATABASE, text));
    }
    stage.connect().await;
}

/// Clients choose the names of databases and, where they are trusted, of users: nothing of what they make up is kept.
#[tokio::test]
async fn names_that_are_made_up_are_forgotten() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "server_idle_timeout", "\"100ms\"");
    let stage =
        setup.with("pool", "autodb_idle_timeout", "\"100ms\"").and("[databases.postgres]").start().await.unwrap();
    let connect = async |database: &str, user: &str| {
        let outcome = stage.proxy.connect_with(|config| {
            config.dbname(database).user(user);
        });
        outcome.await.map_err(|error| error.code().cloned())
    };
    let knows = async |text: &str| stage.proxy.page("/metrics").await.unwrap().1.contains(text);
    let stated = connect("postgres", "postgres").await.unwrap();
    let used = connect("template1", "postgres").await.unwrap();
    for number in 0..20 {
        let failure = connect(&format!("made_up_{number}"), "postgres").await.err().flatten();
        assert_eq!(failure, Some(SqlState::INVALID_CATALOG_NAME));
    }
    // When its client is told, it is gone.
    assert!(!knows("made_up").await, "{}", stage.proxy.page("/metrics").await.unwrap().1);
    assert!(connect("postgres", "nobody_at_all").await.is_err());
    until("the user to be forgotten", async || !knows("nobody_at_all").await).await.unwrap();

    // What is there is known for as long as somebody uses it, and for a while.
    assert_eq!(used.value("select current_database()").await.unwrap(), "template1");
    assert!(knows("database=\"template1\"").await);
    drop(used);
    until("the database to be forgotten", async || !knows("database=\"template1\"").await).await.unwrap();
    assert_eq!(connect("template1", "postgres").await.unwrap().value("select 1").await.unwrap(), "1");
    assert_eq!(stated.value("select 2").await.unwrap(), "2");
    drop(stated);
    until("the last to be gone", async || stage.proxy.metric("hakem_clients", &[]).await == 0.0).await.unwrap();
    assert!(knows("database=\"postgres\"").await);
}
