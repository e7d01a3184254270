//! Clients go over from one worker to another: nothing of theirs is lost, and nobody is seen twice or missed on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::console::{self, console, rows};
use crate::encryption;
use crate::harness::{Client, Proxy, Setup, Stage, code, until};

/// Two workers, of which at least so many have clients.
fn least(setup: &Setup, workers: usize) -> Setup {
    setup.clone().with("proxy", "workers_min", &workers.to_string())
}

async fn transfers(proxy: &Proxy) -> f64 {
    proxy.metric("hakem_client_transfers_total", &[]).await
}

async fn are_open(proxy: &Proxy, workers: f64) {
    until("workers to be opened or closed", async || proxy.metric("hakem_workers_open", &[]).await == workers)
        .await
        .unwrap();
}

/// Of clients that are dealt to both workers in turn, somebody goes over as they ask for something, or has gone: a busy machine may have
/// made their worker hand them on before it was closed.
async fn somebody_goes_over(proxy: &Proxy, clients: &[Client]) {
    until("a client to go over", async || {
        for client in clients {
            client.batch_execute("select 1").await.unwrap();
        }
        transfers(proxy).await > 0.0
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn who_goes_over_keeps_everything() {
    let setup = console::setup(1).with("console", "stats_users", "[]");
    let stage = least(&setup, 2).start().await.unwrap();
    let (proxy, admin) = (&stage.proxy, console(&stage.proxy).await);
    are_open(proxy, 2.0).await;
    stage.psql("create table t (n int)").await;
    // Dealt to both workers in turn: of each kind there is one on the worker that is closed.
    let (mut ordinary, mut listening, mut busy, mut waiting) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for number in 0..2 {
        let name = |config: &mut tokio_postgres::Config| {
            config.application_name(format!("ordinary{number}"));
        };
        let client = proxy.connect_with(name).await.unwrap();
        client.batch_execute(&format!("set work_mem = '{}MB'", number + 7)).await.unwrap();
        let prepared = client.prepare("select $1::int + 1").await.unwrap();
        ordinary.push((client, prepared));
    }
    for _ in 0..2 {
        let client = stage.connect().await;
        client.batch_execute("listen news").await.unwrap();
        listening.push(client);
    }
    for number in 0..2 {
        let client = stage.connect().await;
        client.batch_execute(&format!("begin; insert into t values ({number})")).await.unwrap();
        busy.push(client);
    }
    for _ in 0..2 {
        waiting.push(stage.connect().await);
    }
    let seen = async || -> BTreeMap<String, Vec<String>> {
        let columns = ["id", "connect_time", "application_name", "addr", "port", "user", "database"];
        let shown = rows(&admin, "show clients").await;
        let of = |row: &tokio_postgres::SimpleQueryRow| columns.map(|column| row.get(column).unwrap().to_owned());
        shown.iter().map(of).map(|row| (row[0].clone(), row[1..].to_vec())).collect()
    };
    let before = seen().await;
    assert_eq!(before.len(), 9, "and the console: {before:?}");

    least(&setup, 1).reload(&stage).await.unwrap();
    are_open(proxy, 1.0).await;
    // Who asks for something goes, unless something of it is its worker's.
    for (client, prepared) in &ordinary {
        let sum: i32 = client.query_one(prepared, &[&41]).await.unwrap().get(0);
        assert_eq!(sum, 42);
    }
    somebody_goes_over(proxy, &waiting).await;
    for client in &listening {
        client.batch_execute("select 1").await.unwrap();
    }
    for client in &busy {
        client.batch_execute("insert into t values (7)").await.unwrap();
    }
    assert_eq!(seen().await, before, "the same clients");

    // All that they had they have still.
    for (number, (client, prepared)) in ordinary.iter().enumerate() {
        assert_eq!(client.value("show work_mem").await.unwrap(), format!("{}MB", number + 7));
        assert_eq!(client.value("show application_name").await.unwrap(), format!("ordinary{number}"));
        let sum: i32 = client.query_one(prepared, &[&1]).await.unwrap().get(0);
        assert_eq!(sum, 2);
        // It sees what it has written, and is cancelled by the key that it was given.
        client.batch_execute(&format!("insert into t values ({})", 100 + number)).await.unwrap();
        let written = format!("select count(*) from t where n = {}", 100 + number);
        assert_eq!(client.value(&written).await.unwrap(), "1");
        let token = client.cancel_token();
        let (slept, ()) = tokio::join!(client.batch_execute("/* hakem: primary */ select pg_sleep(600)"), async {
            until("it to sleep", async || {
                stage.direct(0, "select count(*) from pg_stat_activity where wait_event = 'PgSleep'").await == "1"
            })
            .await
            .unwrap();
            token.cancel_query(NoTls).await.unwrap();
        });
        assert_eq!(code(&slept.unwrap_err()), SqlState::QUERY_CANCELED);
    }
    stage.psql("notify news, 'war'").await;
    for client in &mut listening {
        let AsyncMessage::Notification(notification) = client.message().await.unwrap() else { panic!("no news") };
        assert_eq!(notification.payload(), "war");
    }
    for client in &busy {
        client.batch_execute("commit").await.unwrap();
    }
    assert_eq!(stage.psql("select count(*) from t where n in (0, 1, 7)").await, "4");
    for client in &busy {
        client.batch_execute("select 1").await.unwrap();
    }

    // The console finds them wherever they are.
    for (number, (client, _)) in ordinary.iter().enumerate() {
        let found = seen().await.into_iter().find(|(_, row)| row[1] == format!("ordinary{number}"));
        admin.batch_execute(&format!("kill_client {}", found.unwrap().0)).await.unwrap();
        assert!(client.batch_execute("select 1").await.is_err());
    }
    drop((ordinary, listening, busy, waiting));
    until("all to be gone", async || seen().await.len() == 1).await.unwrap();
    assert_eq!(proxy.metric("hakem_clients", &[]).await, 1.0, "the console");
}

#[tokio::test]
async fn encrypted_ones_go_over_as_well() {
    let setup = Setup::replicas(0);
    let cluster = cluster::Cluster::start(setup.cluster.clone()).await.unwrap();
    let files = encryption::Files::new(&cluster);
    let setup = files.offered(&setup, "allow");
    let stage = Stage { proxy: least(&setup, 2).proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();
    let tls = encryption::connector(&files, &[]).config().as_ref().clone();
    let (one, other) = (stage.proxy.connect_encrypted(tls.clone()).await, stage.proxy.connect_encrypted(tls).await);
    least(&setup, 1).reload(&stage).await.unwrap();
    are_open(&stage.proxy, 1.0).await;
    let large = "select length(repeat('x', 300000)), repeat('y', 300000)";
    let clients = [one, other];
    somebody_goes_over(&stage.proxy, &clients).await;
    for client in &clients {
        assert_eq!(client.query_one(large, &[]).await.unwrap().get::<_, i32>(0), 300_000);
    }
}

/// What clients are to do.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Rest,
    Ask,
    Leave,
}

#[tokio::test]
async fn nobody_is_lost_on_the_way() {
    const CLIENTS: usize = 10;
    let setup = console::setup(0).with("pool", "size", "4");
    let stage = least(&setup, 2).start().await.unwrap();
    let admin = console(&stage.proxy).await;
    let (tell, told) = watch::channel(Told::Rest);
    let mut clients = Vec::new();
    for _ in 0..3 {
        least(&setup, 2).reload(&stage).await.unwrap();
        are_open(&stage.proxy, 2.0).await;
        // Most of them are dealt to the worker that has none.
        for number in 0..CLIENTS {
            let (client, mut told) = (stage.connect().await, told.clone());
            clients.push(tokio::spawn(async move {
                let echo = client.prepare("select $1::text").await.unwrap();
                let mut round = 0;
                while *told.wait_for(|told| *told != Told::Rest).await.unwrap() == Told::Ask {
                    let said = format!("{number}.{round}");
                    let heard: String = client.query_one(&echo, &[&said]).await.unwrap().get(0);
                    assert_eq!(heard, said);
                    round += 1;
                }
            }));
        }
        // A worker is closed while there is little to do.
        least(&setup, 1).reload(&stage).await.unwrap();
        are_open(&stage.proxy, 1.0).await;
        let before = transfers(&stage.proxy).await;
        tell.send(Told::Ask).unwrap();
        until("clients to go over, and to be counted meanwhile", async || {
            assert_eq!(rows(&admin, "show clients").await.len(), clients.len() + 1, "each once");
            transfers(&stage.proxy).await > before
        })
        .await
        .unwrap();
        tell.send(Told::Rest).unwrap();
    }
    tell.send(Told::Leave).unwrap();
    for client in clients {
        client.await.unwrap();
    }
}

#[tokio::test]
async fn who_has_much_to_do_hands_a_part_of_it_on() {
    const CLIENTS: usize = 8;
    let stage = least(&Setup::replicas(0), 1).start().await.unwrap();
    are_open(&stage.proxy, 1.0).await;
    let over = Arc::new(AtomicBool::new(false));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (client, over) = (stage.connect().await, over.clone());
        clients.push(tokio::spawn(async move {
            // Texts that nobody has seen take the worker longer than the server.
            for round in 0.. {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let text = format!("select {number} as n{round} {}", "/* as long as it takes */ ".repeat(4000));
                assert_eq!(client.value(&text).await.unwrap(), number.to_string());
            }
        }));
    }
    are_open(&stage.proxy, 2.0).await;
    until("clients to go over", async || transfers(&stage.proxy).await >= 1.0).await.unwrap();
    over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    // There is nothing to do for two any more.
    are_open(&stage.proxy, 1.0).await;
}

/// Whoever is alone at work would take its worker's load along, and be sent back for it.
#[tokio::test]
async fn who_is_alone_at_work_stays() {
    const TICKS: u64 = 200;
    let stage = Setup::replicas(0).start().await.unwrap();
    let client = stage.connect().await;
    let computed = || -> u64 {
        let stat = stage.proxy.process("stat");
        // User and system time, in hundredths of a second: fields 14 and 15 of proc(5).
        let fields = stat.rsplit(')').next().unwrap().split_ascii_whitespace().skip(11).take(2);
        fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    };
    let begun = computed();
    let mut round = 0;
    while computed() < begun + TICKS {
        round += 1;
        let text = format!("select {round} {}", "/* as long as it takes */ ".repeat(4000));
        client.batch_execute(&text).await.unwrap();
    }
    assert_eq!(transfers(&stage.proxy).await, 0.0);
}
