//! What the cluster promises about failover, tried with real servers: nothing acknowledged is lost, commits go on, and
//! every node can come back.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::time::Duration;

use cluster::{Cluster, Mode, Options};
use tokio::sync::mpsc;

async fn start(synchronous: bool) -> Cluster {
    let cluster = Cluster::start(Options { synchronous, ..Options::default() }).await.unwrap();
    cluster.sql(0, "CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    cluster
}

async fn insert(cluster: &Cluster, from: i32, to: i32) {
    cluster.sql(cluster.primary(), &format!("INSERT INTO t SELECT generate_series({from}, {to})")).await.unwrap();
}

/// Each of these nodes has exactly these rows once it has replayed what the primary has.
async fn check(cluster: &Cluster, nodes: &[usize], from: i32, to: i32) {
    for &i in nodes {
        if i != cluster.primary() {
            cluster.replayed(i).await.unwrap();
        }
        let rows = cluster.sql(i, "SELECT count(*), min(id), max(id) FROM t").await.unwrap();
        assert_eq!(rows, format!("{}|{from}|{to}", to - from + 1), "node{i}");
        let recovering = cluster.sql(i, "SELECT pg_is_in_recovery()").await.unwrap();
        assert_eq!(recovering == "t", i != cluster.primary(), "node{i}");
    }
}

/// Who streams from the primary, and whether commits wait for them.
async fn followers(cluster: &Cluster) -> String {
    let query = "SELECT string_agg(application_name || ' ' || sync_state, ', ' ORDER BY application_name) \
                 FROM pg_stat_replication WHERE state = 'streaming'";
    cluster.sql(cluster.primary(), query).await.unwrap()
}

/// Inserts rows over TCP one by one until the server is gone, and tells each one that was acknowledged.
fn write_until_it_dies(url: String, acknowledged: mpsc::UnboundedSender<i32>) {
    tokio::spawn(async move {
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        for id in 1.. {
            match client.execute("INSERT INTO t VALUES ($1)", &[&id]).await {
                Ok(_) => acknowledged.send(id).unwrap(),
                Err(_) => break,
            }
        }
    });
}

/// Brings a node back, and tells whether its files were kept; a fresh base backup makes a new directory.
async fn rejoin(cluster: &mut Cluster, i: usize) -> Files {
    let born = |cluster: &Cluster| fs::metadata(cluster.nodes()[i].data_directory()).unwrap().created().unwrap();
    let before = born(cluster);
    cluster.rejoin(i).await.unwrap();
    if born(cluster) == before { Files::Kept } else { Files::Fresh }
}

#[derive(Debug, PartialEq)]
enum Files {
    Kept,
    Fresh,
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_and_the_dead_come_back() {
    const ROWS_BEFORE_THE_KILL: i32 = 200;
    let mut cluster = start(true).await;
    assert_eq!(followers(&cluster).await, "node1 quorum, node2 quorum");

    let (sender, mut acknowledged) = mpsc::unbounded_channel();
    write_until_it_dies(cluster.url(0), sender);
    while acknowledged.recv().await.unwrap() < ROWS_BEFORE_THE_KILL {}
    cluster.kill(0).await.unwrap();
    assert!(!cluster.nodes()[0].is_running() && cluster.nodes()[0].processes().is_empty());
    let mut last = ROWS_BEFORE_THE_KILL;
    while let Some(id) = acknowledged.recv().await {
        last = id;
    }

    let best = cluster.promote_best().await.unwrap();
    assert_eq!(best, cluster.primary());
    // The row in flight at the kill may be there or not.
    let rows: i32 = cluster.sql(best, "SELECT count(*) FROM t").await.unwrap().parse().unwrap();
    assert!(rows == last || rows == last + 1, "{rows} rows, {last} acknowledged");

    // Commits work, and wait for the other replica.
    insert(&cluster, rows + 1, rows + 10).await;
    let other = 3 - best;
    assert_eq!(followers(&cluster).await, format!("node{other} quorum"));
    check(&cluster, &[best, other], 1, rows + 10).await;

    assert_eq!(rejoin(&mut cluster, 0).await, Files::Kept);
    insert(&cluster, rows + 11, rows + 20).await;
    assert_eq!(followers(&cluster).await, format!("node0 quorum, node{other} quorum"));
    check(&cluster, &[0, 1, 2], 1, rows + 20).await;

    // And once more, back to the first one.
    cluster.kill(best).await.unwrap();
    cluster.promote(0).await.unwrap();
    insert(&cluster, rows + 21, rows + 30).await;
    assert_eq!(rejoin(&mut cluster, best).await, Files::Kept);
    check(&cluster, &[0, 1, 2], 1, rows + 30).await;
    cluster.shutdown().await.unwrap();
}

#[tokio::test]
async fn the_replica_that_received_most_is_promoted() {
    let mut cluster = start(true).await;
    cluster.stop(1, Mode::Fast).await.unwrap();
    insert(&cluster, 1, 100).await;
    assert!(cluster.rejoin(0).await.unwrap_err().to_string().contains("is the primary"));
    assert!(cluster.promote_best().await.unwrap_err().to_string().contains("is alive"));
    cluster.kill(0).await.unwrap();
    assert!(cluster.rejoin(1).await.unwrap_err().to_string().contains("is dead"));
    cluster.start_node(1).await.unwrap();
    // What was received counts, not what was replayed.
    cluster.pause_replay(2).await.unwrap();
    assert_eq!(cluster.promote_best().await.unwrap(), 2);
    insert(&cluster, 101, 200).await;
    check(&cluster, &[1, 2], 1, 200).await;
}

#[tokio::test]
async fn a_replica_that_is_ahead_of_the_promoted_one_rejoins() {
    let mut cluster = start(false).await;
    cluster.caught_up().await.unwrap();
    cluster.stop(2, Mode::Fast).await.unwrap();
    insert(&cluster, 1, 100).await;
    cluster.replayed(1).await.unwrap();
    cluster.set(1, "work_mem", "3MB").await.unwrap();
    cluster.kill(0).await.unwrap();
    cluster.start_node(2).await.unwrap();
    cluster.promote(2).await.unwrap();
    insert(&cluster, 1001, 1100).await;
    assert_eq!(rejoin(&mut cluster, 1).await, Files::Fresh);
    assert_eq!(rejoin(&mut cluster, 0).await, Files::Kept);
    check(&cluster, &[0, 1, 2], 1001, 1100).await;
    // The files came from another node; the settings are its own.
    assert_eq!(cluster.sql(1, "SHOW work_mem").await.unwrap(), "3MB");
    assert_eq!(cluster.sql(0, "SHOW work_mem").await.unwrap(), "4MB");
}

#[tokio::test]
async fn a_frozen_primary_is_superseded_and_rejoins() {
    let mut cluster = start(true).await;
    insert(&cluster, 1, 100).await;
    cluster.freeze(0).await.unwrap();
    assert!(cluster.nodes()[0].is_frozen() && cluster.nodes()[0].is_running());
    assert!(cluster.sql_within(0, "SELECT 1", Duration::from_millis(1)).await.is_err());

    cluster.freeze(2).await.unwrap();
    assert!(cluster.promote_best().await.unwrap_err().to_string().contains("node2 is frozen"));
    cluster.thaw(2);
    let best = cluster.promote_best().await.unwrap();
    insert(&cluster, 101, 200).await;

    // Thawed, it takes itself for the primary still, on the old timeline.
    cluster.thaw(0);
    assert_eq!(cluster.sql(0, "SELECT pg_is_in_recovery(), count(*) FROM t").await.unwrap(), "f|100");
    assert_eq!(cluster.primary(), best);
    assert_eq!(rejoin(&mut cluster, 0).await, Files::Kept);
    // A replica that has merely died rejoins too, as does one that lacks nothing.
    cluster.kill(0).await.unwrap();
    assert_eq!(rejoin(&mut cluster, 0).await, Files::Kept);
    assert_eq!(rejoin(&mut cluster, 0).await, Files::Kept);
    check(&cluster, &[0, 1, 2], 1, 200).await;
}

#[tokio::test]
async fn a_primary_without_replicas_waits_until_it_is_told_not_to() {
    let mut cluster = start(true).await;
    cluster.kill(0).await.unwrap();
    cluster.kill(1).await.unwrap();
    assert_eq!(cluster.promote_best().await.unwrap(), 2);
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    tokio::join!(insert(&cluster, 1, 10), async {
        while cluster.sql(2, waiting).await.unwrap() != "1" {}
        cluster.set(2, "synchronous_standby_names", "").await.unwrap();
    });
    // The dead replica was re-pointed, so that it needs no more than a start.
    cluster.start_node(1).await.unwrap();
    check(&cluster, &[1, 2], 1, 10).await;
}

#[tokio::test]
async fn a_node_without_its_postmaster_starts_again() {
    let mut cluster = start(true).await;
    for i in [0, 1] {
        cluster.kill_postmaster(i).await.unwrap();
        assert!(!cluster.nodes()[i].is_running());
        assert!(cluster.kill_postmaster(i).await.is_err());
        cluster.start_node(i).await.unwrap();
        assert!(cluster.start_node(i).await.is_err());
    }
    for mode in [Mode::Smart, Mode::Fast, Mode::Immediate] {
        cluster.stop(0, mode).await.unwrap();
        cluster.start_node(0).await.unwrap();
    }
    insert(&cluster, 1, 10).await;
    check(&cluster, &[0, 1, 2], 1, 10).await;
}
