//! Servers die under load, and nobody who matters notices.
//!
//! A tokio-postgres client never connects again by itself: one that goes on working has kept its connection.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use futures_util::future::join_all;
use tokio_postgres::error::SqlState;

use crate::harness::{Client, Setup, Stage, code, until};

#[tokio::test]
async fn a_replica_dies_under_reads() {
    const READERS: usize = 12;
    const AFTER: usize = 100;
    let mut stage = Setup::replicas(2).with("pool", "size", "4").start().await.unwrap();
    stage.psql("create table t as select g as n, repeat('x', 100) as s from generate_series(1, 2000) g").await;
    stage.ready().await.unwrap();
    let clients: Vec<Client> = join_all((0..READERS).map(|_| stage.connect())).await;
    let (reads, dead, finished) = (Cell::new(0), Cell::new(false), Cell::new(0));
    let Stage { proxy, cluster } = &mut stage;
    let readers = join_all(clients.iter().enumerate().map(|(i, client)| {
        let (reads, dead, finished) = (&reads, &dead, &finished);
        async move {
            let statement = client.prepare("select count(*), max(s) from t where n <> $1").await.unwrap();
            let (mut left, mut errors) = (AFTER, Vec::new());
            while left > 0 {
                let result = match i % 3 {
                    0 => client.query_one(&statement, &[&0]).await.map(|row| row.get::<_, i64>(0).to_string()),
                    1 => client.value("select count(*) from t").await,
                    // Some that take a while, so that the death finds them half-way.
                    _ => client.value("select count(*) from t, pg_sleep(0.05)").await,
                };
                match result {
                    Ok(count) => assert_eq!(count, "2000"),
                    Err(error) => errors.push(error.to_string()),
                }
                reads.set(reads.get() + 1);
                left -= usize::from(dead.get());
            }
            finished.set(finished.get() + 1);
            errors
        }
    }));
    let killer = async {
        until("the load to flow", async || reads.get() > 200).await.unwrap();
        assert!(proxy.metric("hakem_statements_total", &[("to", "replica")]).await > 100.0);
        cluster.kill(1).await.unwrap();
        dead.set(true);
        until("the death to be noticed", async || {
            proxy.metric("hakem_node_state", &[("state", "unreachable")]).await == 1.0
        })
        .await
        .unwrap();
        // It comes back, and serves again.
        cluster.start_node(1).await.unwrap();
        until("the readers to finish", async || finished.get() == READERS).await.unwrap();
    };
    let (errors, ()) = tokio::join!(readers, killer);
    assert_eq!(errors.concat(), Vec::<String>::new());
    stage.ready().await.unwrap();
}

/// What became of a write, as its client was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Committed,
    NotCommitted,
    Unknown,
}

#[tokio::test]
async fn the_primary_dies_under_load() {
    const WRITERS: usize = 10;
    const READERS: usize = 4;
    const AFTER: usize = 30;
    // A machine may be so busy that the death itself takes longer than replicas are believed by default.
    let setup = Setup::replicas(2).with("pool", "size", "5").with("routing", "max_lag", "\"1min\"");
    let mut stage = setup.start().await.unwrap();
    // No key: a duplicate is to be seen, not refused.
    stage.psql("create table log (id bigint)").await;
    stage.ready().await.unwrap();
    let clients: Vec<Client> = join_all((0..WRITERS + READERS).map(|_| stage.connect())).await;
    let (promoted, running) = (Cell::new(false), Cell::new(WRITERS));
    let (acknowledged, reads_between) = (Cell::new(0), Cell::new(0));
    let codes: RefCell<BTreeMap<String, usize>> = RefCell::default();
    let Stage { cluster, proxy } = &mut stage;

    let writers = join_all(clients[..WRITERS].iter().enumerate().map(|(writer, client)| {
        let (promoted, running, acknowledged, codes) = (&promoted, &running, &acknowledged, &codes);
        async move {
            let insert = client.prepare("insert into log values ($1)").await.unwrap();
            let (mut left, mut told) = (AFTER, Vec::new());
            for id in writer as i64 * 1_000_000.. {
                let result = match id % 3 {
                    0 => client.execute(&insert, &[&id]).await.map(drop),
                    1 => client.batch_execute(&format!("insert into log values ({id})")).await,
                    _ => transaction(client, &insert, id).await,
                };
                let outcome = match result {
                    Ok(()) => Told::Committed,
                    Err(error) => {
                        let code = code(&error);
                        *codes.borrow_mut().entry(code.code().to_owned()).or_default() += 1;
                        match code.code() {
                            "40001" => Told::NotCommitted,
                            "08007" => Told::Unknown,
                            _ => panic!("{error:?}"),
                        }
                    }
                };
                told.push((id, outcome));
                acknowledged.set(acknowledged.get() + usize::from(outcome == Told::Committed));
                left -= usize::from(promoted.get() && outcome == Told::Committed);
                if left == 0 {
                    break;
                }
            }
            running.set(running.get() - 1);
            told
        }
    }));
    let readers = join_all(clients[WRITERS..].iter().map(|client| {
        let (promoted, running, reads_between) = (&promoted, &running, &reads_between);
        async move {
            client.batch_execute("set hakem.consistency = 'bounded'").await.unwrap();
            while running.get() > 0 {
                client.value("select count(*) from log").await.unwrap();
                reads_between.set(reads_between.get() + usize::from(!promoted.get()));
            }
        }
    }));
    let killer = async {
        until("the load to flow", async || acknowledged.get() > 200).await.unwrap();
        // A table has been made: until that is known, nothing is read from replicas.
        until("the catalog to be read", async || proxy.metric("hakem_catalog_current", &[]).await == 1.0)
            .await
            .unwrap();
        cluster.kill(0).await.unwrap();
        let before = reads_between.get();
        // The pool of one of the replicas has what it takes until its picture is too old.
        until("reads without a primary", async || reads_between.get() > before + 5).await.unwrap();
        cluster.promote_best().await.unwrap();
        promoted.set(true);
    };
    let (told, _, ()) = tokio::join!(writers, readers, killer);

    let counted = stage.direct(stage.cluster.primary(), "select id, count(*) from log group by id").await;
    let counted: BTreeMap<i64, usize> = counted
        .lines()
        .map(|line| line.split_once('|').unwrap())
        .map(|(id, count)| (id.parse().unwrap(), count.parse().unwrap()))
        .collect();
    let told: BTreeMap<i64, Told> = told.concat().into_iter().collect();
    let wrong: Vec<_> = told
        .iter()
        .map(|(id, told)| (*id, *told, counted.get(id).copied().unwrap_or(0)))
        .filter(|(_, told, count)| match told {
            Told::Committed => *count != 1,
            Told::NotCommitted => *count != 0,
            Told::Unknown => *count > 1,
        })
        .collect();
    assert_eq!(wrong, [], "errors by SQLSTATE: {:?}", codes.borrow());
    assert!(counted.keys().all(|id| told.contains_key(id)));
    // Every writer had at most one statement in flight.
    let errors: usize = codes.borrow().values().sum();
    assert!(errors <= WRITERS, "{:?}", codes.borrow());
    println!("acknowledged {}, errors by SQLSTATE {:?}", acknowledged.get(), codes.borrow());
}

/// A transaction as an application would write it; its first error, after the transaction has been ended.
async fn transaction(
    client: &Client,
    insert: &tokio_postgres::Statement,
    id: i64,
) -> Result<(), tokio_postgres::Error> {
    let result = async {
        client.batch_execute("begin").await?;
        client.execute(insert, &[&id]).await?;
        client.batch_execute("commit").await
    };
    let result = result.await;
    if result.is_err() {
        client.batch_execute("rollback").await.unwrap();
    }
    result
}

#[tokio::test]
async fn idle_sessions_keep_what_they_had() {
    let mut stage = Setup::replicas(2).start().await.unwrap();
    let client = stage.connect().await;
    client
        .batch_execute("create table t (n int); set application_name = 'patient'; set statement_timeout = '1h'")
        .await
        .unwrap();
    let insert = client.prepare("insert into t values ($1)").await.unwrap();
    let count = client.prepare("select count(*) from t").await.unwrap();
    client.execute(&insert, &[&1]).await.unwrap();
    for round in 2..4 {
        let primary = stage.cluster.primary();
        stage.cluster.kill(primary).await.unwrap();
        let Stage { cluster, .. } = &mut stage;
        // The write waits for the promotion.
        let write = async { client.execute(&insert, &[&round]).await };
        let promote = async {
            cluster.promote_best().await.unwrap();
        };
        let (written, ()) = tokio::join!(write, promote);
        assert_eq!(written.unwrap(), 1);
        assert_eq!(client.query_one(&count, &[]).await.unwrap().get::<_, i64>(0), i64::from(round));
        assert_eq!(client.value("show application_name").await.unwrap(), "patient");
        assert_eq!(client.value("show statement_timeout").await.unwrap(), "1h");
        stage.cluster.rejoin(primary).await.unwrap();
    }
}

#[tokio::test]
async fn without_a_primary_writes_wait_and_then_fail() {
    let stage = Setup::replicas(1).with("topology", "failover_timeout", "\"300ms\"").start().await;
    let mut stage = stage.unwrap();
    let client = stage.connect().await;
    client.batch_execute("create table t (n int)").await.unwrap();
    stage.ready().await.unwrap();
    stage.cluster.kill(0).await.unwrap();
    assert_eq!(client.failure("insert into t values (1)").await, Some(SqlState::CANNOT_CONNECT_NOW));
    assert_eq!(client.failure("insert into t values (1)").await, Some(SqlState::CANNOT_CONNECT_NOW));
    stage.cluster.start_node(0).await.unwrap();
    until("the primary to be back", async || client.failure("insert into t values (2)").await.is_none()).await.unwrap();
    assert_eq!(client.value("select count(*) from t").await.unwrap(), "1");
}

/// More clients than connections wait, for an administrator or for a primary: they are served in the order in which they came.
#[tokio::test]
async fn a_herd_is_served_in_its_order() {
    // Of several connections, one may be slow, and overtaken in the servers.
    let setup = Setup::replicas(1).with("pool", "size", "1").with("console", "admin_users", "[\"postgres\"]");
    // A worker serves its own clients for a while before another's: that is `pool`'s to test.
    let mut setup = setup.with("proxy", "workers", "1");
    setup.cluster.synchronous = false;
    let mut stage = setup.clone().start().await.unwrap();
    stage.psql("create table served (place bigserial, n bigint)").await;
    let console = crate::console::console(&stage.proxy).await;
    let clients = join_all((0..HERD).map(|_| stage.connect())).await;
    console.batch_execute("pause").await.unwrap();
    herd(&console, &clients, async || {
        // They have to look for their new pool meanwhile.
        setup.with("pool", "server_connect_timeout", "\"9min\"").reload(&stage).await.unwrap();
        console.batch_execute("resume").await.unwrap();
    })
    .await;
    assert_eq!(order(&stage, 0).await, (0..HERD).collect::<Vec<_>>(), "after PAUSE");

    let Stage { cluster, proxy } = &mut stage;
    cluster.caught_up().await.unwrap();
    cluster.kill(0).await.unwrap();
    until("the death to be noticed", async || {
        proxy.metric("hakem_node_state", &[("state", "unreachable")]).await == 1.0
    })
    .await
    .unwrap();
    herd(&console, &clients, async || cluster.promote(1).await.unwrap()).await;
    assert_eq!(order(&stage, 1).await, (0..HERD).collect::<Vec<_>>(), "after a failover");
}

/// How many there are of it.
const HERD: i64 = 30;

/// Has the clients come to wait, one after the other, and then what they wait for.
async fn herd(console: &Client, clients: &[Client], comes: impl AsyncFnOnce()) {
    let waiting = async || {
        let rows = crate::console::rows(console, "SHOW CLIENTS").await;
        rows.iter().filter(|row| row.get("state") == Some("waiting")).count() as i64
    };
    let begun = Cell::new(-1);
    let herd = join_all(clients.iter().zip(0..).map(|(client, n)| {
        let begun = &begun;
        async move {
            until("its turn to begin", async || begun.get() == n).await.unwrap();
            client.batch_execute(&format!("insert into served (n) values ({n})")).await.unwrap();
        }
    }));
    let arrival = async {
        for n in 0..HERD {
            begun.set(n);
            until("it to wait", async || waiting().await == n + 1).await.unwrap();
        }
        comes().await;
    };
    tokio::join!(herd, arrival);
}

/// The order in which they were served; it is forgotten.
async fn order(stage: &Stage, primary: usize) -> Vec<i64> {
    let order = stage.direct(primary, "select n from served order by place").await;
    stage.direct(primary, "truncate served").await;
    order.lines().map(|line| line.parse().unwrap()).collect()
}
