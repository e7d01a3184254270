//! What clients are told of commits whose answer is lost, with `commit_resolution` on: the truth, on real servers, or that nobody knows it.

use cluster::Cluster;
use futures_util::SinkExt;
use tokio_postgres::error::SqlState;

use crate::harness::{Client, Proxy, Setup, code, until};
use crate::tap::Tap;

fn setup(replicas: usize) -> Setup {
    let mut setup = Setup::replicas(replicas).with("routing", "commit_resolution", "true");
    setup.cluster.synchronous = false;
    setup
}

/// The primary's word that a commit is done never ends.
fn silent(tag: u8, message: &[u8]) -> Vec<u8> {
    let is_commit = tag == b'C' && message.ends_with(b"COMMIT\0");
    if is_commit { b"C\0\0\x40\0COMMIT".to_vec() } else { message.to_vec() }
}

/// In its place the server says goodbye.
fn leaving(tag: u8, message: &[u8]) -> Vec<u8> {
    if tag == b'C' && message.ends_with(b"COMMIT\0") {
        let body = b"SFATAL\0VFATAL\0C57P01\0Mterminating connection due to administrator command\0\0";
        let length = u32::try_from(body.len() + 4).unwrap().to_be_bytes();
        [&b"E"[..], &length, body].concat()
    } else {
        message.to_vec()
    }
}

async fn fates(proxy: &Proxy) -> [f64; 3] {
    let mut fates = [0.0; 3];
    for (fate, name) in fates.iter_mut().zip(["committed", "aborted", "unknown"]) {
        *fate = proxy.metric("hakem_commit_resolutions_total", &[("fate", name)]).await;
    }
    fates
}

/// A table, and a proxy that reaches the primary by a tap and the replicas, if it is to, by themselves.
async fn stage(replicas: usize, others: &[&Tap]) -> (Cluster, Tap, Proxy) {
    let setup = setup(replicas);
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let tap = Tap::to(&cluster).await;
    let mut servers = vec![format!("{:?}", tap.address.to_string())];
    match others {
        [] => servers.extend(
            cluster.nodes()[1..].iter().map(|node| format!("{:?}", format!("{}:{}", node.host(), node.port()))),
        ),
        taps => servers.extend(taps.iter().map(|tap| format!("{:?}", tap.address.to_string()))),
    }
    let setup = setup.with("clusters.local", "servers", &format!("[{}]", servers.join(", ")));
    let proxy = setup.proxy(&cluster).await.unwrap();
    cluster.sql(0, "create table kept (n int primary key)").await.unwrap();
    (cluster, tap, proxy)
}

async fn count(cluster: &Cluster, node: usize) -> String {
    cluster.sql(node, "select count(*) from kept").await.unwrap()
}

/// Only the connection is lost: the primary is asked, and nothing is done twice.
#[tokio::test]
async fn the_same_primary_knows() {
    let (cluster, tap, proxy) = stage(0, &[]).await;
    tap.change(Some(leaving));
    let client = proxy.connect().await;
    client.batch_execute("begin; insert into kept values (1)").await.unwrap();
    client.batch_execute("commit").await.unwrap();
    client.batch_execute("insert into kept values (2)").await.unwrap();
    client.execute("insert into kept values ($1)", &[&3]).await.unwrap();
    client.batch_execute("begin").await.unwrap();
    client.execute("insert into kept values ($1)", &[&4]).await.unwrap();
    client.execute("commit", &[]).await.unwrap();
    assert_eq!(count(&cluster, 0).await, "4");
    assert_eq!(fates(&proxy).await, [4.0, 0.0, 0.0]);
    // One behind the other without a pause, and by COPY.
    let pipelined = tokio::join!(
        client.execute("insert into kept values ($1)", &[&6]),
        client.execute("insert into kept values ($1)", &[&7]),
        client.batch_execute("insert into kept values (8)"),
    );
    assert!(pipelined.0.is_ok() && pipelined.1.is_ok() && pipelined.2.is_ok());
    let mut sink = std::pin::pin!(client.copy_in("copy kept from stdin").await.unwrap());
    sink.send(bytes::Bytes::from_static(b"9\n10\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 2);
    assert_eq!(count(&cluster, 0).await, "9");
    assert_eq!(fates(&proxy).await, [8.0, 0.0, 0.0]);
    // Rows that came with it are kept back until it is known.
    assert_eq!(client.value("insert into kept values (5) returning n").await.unwrap(), "5");
    tap.change(None);
    assert_eq!(client.failure("insert into kept values (5)").await, Some(SqlState::UNIQUE_VIOLATION));
    assert_eq!(client.value("select count(*) from kept").await.unwrap(), "10");
}

/// The server ends while it commits: a transaction is told that it is not, and a write by itself is done again.
#[tokio::test]
async fn a_commit_that_was_cut_off_is_not_one() {
    let (cluster, _tap, proxy) = stage(0, &[]).await;
    let client = proxy.connect().await;
    client
        .batch_execute(
            "create table slow (n int);
            create table once (n int);
            create function wait() returns trigger language plpgsql as $$ begin
                if not exists (select from once) then perform pg_sleep(600); end if; return null; end $$;
            create constraint trigger waits after insert on slow deferrable initially deferred
                for each row execute function wait();",
        )
        .await
        .unwrap();
    let cut = async |query: &str| {
        let active = format!(
            "select count(*) from pg_stat_activity where state = 'active' and query ilike '{query}%' and wait_event = 'PgSleep'"
        );
        until("it to commit", async || cluster.sql(0, &active).await.unwrap() == "1").await.unwrap();
        cluster.sql(0, "insert into once values (1)").await.unwrap();
        cluster
            .sql(0, "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'")
            .await
            .unwrap();
    };
    client.batch_execute("begin; insert into slow values (1)").await.unwrap();
    let (told, ()) = tokio::join!(client.failure("commit"), cut("commit"));
    assert_eq!(told, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    cluster.sql(0, "delete from once").await.unwrap();
    let (told, ()) = tokio::join!(client.failure("insert into slow values (2)"), cut("commit"));
    assert_eq!(told, None);
    assert_eq!(cluster.sql(0, "select n from slow").await.unwrap(), "2");
    assert_eq!(fates(&proxy).await, [0.0, 2.0, 0.0]);

    // What came by COPY is gone, and cannot be done again; nor has the client been told that it is done.
    cluster.sql(0, "delete from once").await.unwrap();
    let mut sink = std::pin::pin!(client.copy_in("copy slow from stdin").await.unwrap());
    sink.send(bytes::Bytes::from_static(b"3\n")).await.unwrap();
    let (copied, ()) = tokio::join!(sink.finish(), cut("commit"));
    assert_eq!(code(&copied.unwrap_err()), SqlState::T_R_SERIALIZATION_FAILURE);
    assert_eq!(cluster.sql(0, "select n from slow").await.unwrap(), "2");
    client.batch_execute("insert into kept values (1)").await.unwrap();
}

/// The replica becomes a primary with what it has.
async fn promote(cluster: &Cluster) -> usize {
    assert_eq!(cluster.sql(1, "select pg_promote()").await.unwrap(), "t");
    1
}

/// Each of these: a transaction, and a write by itself, whose commits are done and whose answers never come.
async fn commit_unheard(proxy: &Proxy) -> [Client; 2] {
    let clients = [proxy.connect().await, proxy.connect().await];
    clients[0].batch_execute("begin; insert into kept values (1)").await.unwrap();
    clients
}

/// The replica gets no more WAL.
async fn deaf(cluster: &Cluster) {
    cluster.caught_up().await.unwrap();
    cluster.set(1, "primary_conninfo", "").await.unwrap();
    until("it to receive nothing", async || {
        cluster.sql(1, "select count(*) from pg_stat_wal_receiver").await.unwrap() == "0"
    })
    .await
    .unwrap();
}

/// Another takes over that has all of it: committed is committed.
#[tokio::test]
async fn the_next_primary_knows() {
    let (mut cluster, tap, proxy) = stage(1, &[]).await;
    tap.change(Some(silent));
    let [one, other] = commit_unheard(&proxy).await;
    let failover = async {
        until("both to be committed", async || count(&cluster, 0).await == "2").await.unwrap();
        cluster.caught_up().await.unwrap();
        cluster.kill(0).await.unwrap();
        cluster.promote_best().await.unwrap()
    };
    let (committed, written, new) =
        tokio::join!(one.failure("commit"), other.failure("insert into kept values (2)"), failover);
    assert_eq!([committed, written], [None, None]);
    assert_eq!(count(&cluster, new).await, "2");
    assert_eq!(fates(&proxy).await, [2.0, 0.0, 0.0]);
}

/// Another takes over that has none of it, and gives the ids away anew: what is lost is said to be lost, and done again where that is the
/// proxy's to do.
#[tokio::test]
async fn what_the_next_primary_has_lost_is_not_committed() {
    let (mut cluster, tap, proxy) = stage(1, &[]).await;
    tap.change(Some(silent));
    deaf(&cluster).await;
    let [one, other] = commit_unheard(&proxy).await;
    let failover = async {
        until("both to be committed", async || count(&cluster, 0).await == "2").await.unwrap();
        cluster.kill(0).await.unwrap();
        promote(&cluster).await
    };
    let (committed, written, new) =
        tokio::join!(one.failure("commit"), other.failure("insert into kept values (2)"), failover);
    assert_eq!(committed, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    assert_eq!(written, None);
    assert_eq!(cluster.sql(new, "select n from kept").await.unwrap(), "2");
    assert_eq!(fates(&proxy).await, [0.0, 2.0, 0.0]);
}

/// The same when nobody has seen where the new timeline begins, and others have got the lost ids and committed by them: nobody knows.
#[tokio::test]
async fn an_id_that_is_anothers_proves_nothing() {
    let door = Tap::open().await;
    let (mut cluster, tap, proxy) = stage(1, &[&door]).await;
    tap.change(Some(silent));
    deaf(&cluster).await;
    let [one, other] = commit_unheard(&proxy).await;
    let failover = async {
        until("both to be committed", async || count(&cluster, 0).await == "2").await.unwrap();
        let last = cluster.sql(0, "select max(xmin::text::bigint) from kept").await.unwrap();
        cluster.kill(0).await.unwrap();
        let new = promote(&cluster).await;
        until("the ids to be anothers", async || {
            cluster.sql(new, "insert into kept values (3) on conflict (n) do update set n = 3").await.unwrap();
            let reached = format!("select pg_current_xact_id()::text::bigint > {last}");
            cluster.sql(new, &reached).await.unwrap() == "t"
        })
        .await
        .unwrap();
        let node = &cluster.nodes()[new];
        door.lead_to(format!("{}:{}", node.host(), node.port()).parse().unwrap());
        new
    };
    let (committed, written, new) =
        tokio::join!(one.failure("commit"), other.failure("insert into kept values (2)"), failover);
    let unknown = Some(SqlState::TRANSACTION_RESOLUTION_UNKNOWN);
    assert_eq!([committed, written], [unknown.clone(), unknown]);
    assert_eq!(cluster.sql(new, "select n from kept").await.unwrap(), "3");
    assert_eq!(fates(&proxy).await, [0.0, 0.0, 2.0]);
}
