//! How fresh replicas are said to be, against real servers: never fresher than they are, and as fresh as can be.

use std::time::Instant;

use crate::scene::{Scene, fresh_as_of, id, options, start_cluster};
use tokio_postgres::NoTls;
use topology::{Freshness, Watcher};

#[tokio::test]
async fn an_idle_primary_leaves_its_replicas_fresh() {
    let scene = Scene::start(1).await;
    scene.until_fresh(1).await;
    scene.until_fresh(1).await;

    // Right after a switch the insert position lies behind a long header. That it does is asserted, since this is
    // what is tested; something else may have written in between, so another switch gets another chance.
    behind_header(&scene, "SELECT pg_switch_wal()", 16 << 20, 40).await;
    scene.until_fresh(1).await;

    // The same at the start of a page, behind a short header.
    behind_header(&scene, FILL_PAGE, 8192, 24).await;
    scene.until_fresh(1).await;
    assert_eq!(scene.figures(1).replay_lag_bytes, Some(0));
    scene.end().await;
}

#[tokio::test]
async fn paused_replay_stops_freshness_and_resumed_replay_mends_it() {
    let scene = Scene::start(1).await;
    scene.sql(0, "CREATE TABLE t (i int)").await;
    scene.until_fresh(1).await;
    scene.cluster.pause_replay(1).await.expect("it pauses");
    // Nothing has been written since: it still has everything, and that is known.
    scene.until_fresh(1).await;

    scene.sql(0, "INSERT INTO t VALUES (1)").await;
    let written = Instant::now();
    scene.several_probes(&[0, 1]).await;
    let node = scene.node(1);
    assert!(fresh_as_of(&node).is_some_and(|fresh| fresh < written), "{node:?}");
    assert!(node.figures.replay_lag_bytes > Some(0), "{node:?}");
    let strict = Freshness { now: Instant::now(), max_lag: None, not_before: Some(written) };
    assert_eq!(replica(&scene.now(), strict), None);
    let loose = Freshness { not_before: fresh_as_of(&node), ..strict };
    assert_eq!(replica(&scene.now(), loose), Some(id(1)));

    scene.cluster.resume_replay(1).await.expect("it resumes");
    scene.until("it has the row", |snapshot| fresh_as_of(&snapshot.nodes[1]) >= Some(written)).await;
    assert_eq!(scene.sql(1, "SELECT count(*) FROM t").await, "1");
    scene.end().await;
}

/// The promise itself: a replica that is said to be fresh as of a moment shows every write acknowledged before it.
#[tokio::test]
async fn what_is_fresh_shows_what_was_acknowledged() {
    let scene = Scene::start(2).await;
    scene.sql(0, "CREATE TABLE t (i int PRIMARY KEY)").await;
    let mut clients = Vec::new();
    for i in 0..3 {
        let (client, connection) = tokio_postgres::connect(&scene.cluster.url(i), NoTls).await.expect("it connects");
        tokio::spawn(connection);
        clients.push(client);
    }
    let mut served = [0; 3];
    for round in 0..ROUNDS {
        // Without synchronous_commit a write is acknowledged before it is in the kernel's hands.
        let durability = if round % 2 == 0 { "off" } else { "on" };
        let script = format!("SET synchronous_commit = {durability}; INSERT INTO t VALUES ({round})");
        clients[0].batch_execute(&script).await.expect("it writes");
        let written = Instant::now();
        if round % 40 == 39 {
            clients[0].batch_execute("SELECT pg_switch_wal()").await.expect("it switches");
        }
        let _waiting = scene.watcher.wait_guard();
        let freshness = |snapshot: &topology::Snapshot| {
            let need = Freshness { now: Instant::now(), max_lag: None, not_before: Some(written) };
            replica_by(snapshot, need, (round as u64 % 2) << 41)
        };
        let snapshot = scene.until("a replica has the write", |snapshot| freshness(snapshot).is_some()).await;
        let replica = freshness(&snapshot).expect("it had one just now").index();
        let row = clients[replica].query_one("SELECT count(*) FROM t", &[]).await.expect("it reads");
        assert_eq!(row.get::<_, i64>(0), i64::try_from(round + 1).expect("few rounds"), "node {replica}");
        served[replica] += 1;
    }
    assert!(served[1] > 0 && served[2] > 0, "{served:?}");
    scene.end().await;
}

#[tokio::test]
async fn a_login_without_privileges_does_while_nothing_happens() {
    let cluster = start_cluster(1).await;
    cluster.sql(0, "CREATE ROLE plain LOGIN PASSWORD 'plain'").await.expect("it creates the role");
    let watcher = Watcher::spawn(topology::Options {
        user: "plain".to_owned(),
        password: Some("plain".to_owned()),
        ..options(&cluster)
    });
    let scene = Scene { cluster, watcher };
    scene.until_fresh(1).await;
    scene.end().await;
}

/// The replica that a read goes to.
fn replica(snapshot: &topology::Snapshot, need: Freshness) -> Option<topology::NodeId> {
    replica_by(snapshot, need, 0)
}

fn replica_by(snapshot: &topology::Snapshot, need: Freshness, chance: u64) -> Option<topology::NodeId> {
    let ask = topology::Ask { chance, ..topology::Ask::of(topology::Need::Read(need)) };
    match snapshot.pick(&ask, &topology::Plan::default(), |_| topology::Load::default()) {
        topology::Choice::Replica(id) => Some(id),
        _ => None,
    }
}

/// Runs the script on the primary until that leaves the insert position this many bytes into a unit of WAL, with all
/// of it replayed up to the unit's start and no further.
async fn behind_header(scene: &Scene, script: &str, unit: u64, header: u64) {
    for _ in 0..TRIES {
        scene.sql(0, script).await;
        scene.cluster.replayed(1).await.expect("it replays");
        let lsn = |text: String| text.parse::<cluster::Lsn>().expect("an LSN").0;
        let replayed = lsn(scene.sql(1, "SELECT pg_last_wal_replay_lsn()").await);
        let inserted = lsn(scene.sql(0, "SELECT pg_current_wal_insert_lsn()").await);
        if inserted % unit == header && replayed == inserted - header {
            return;
        }
    }
    panic!("in {TRIES} tries nothing ended exactly at the end of a unit of {unit} bytes");
}

/// Writes a WAL record that ends exactly at the end of a page (but not of a segment). The first message measures what
/// a record takes beside its text.
const FILL_PAGE: &str = "
    DO $$
    DECLARE
        before pg_lsn; overhead int; room int;
    BEGIN
        LOOP
            PERFORM pg_logical_emit_message(false, '', repeat('x', 296));
            before := pg_current_wal_insert_lsn();
            PERFORM pg_logical_emit_message(false, '', repeat('x', 296));
            overhead := pg_current_wal_insert_lsn() - before - 296;
            before := pg_current_wal_insert_lsn();
            room := 8192 - mod(before - '0/0'::pg_lsn, 8192);
            CONTINUE WHEN room < overhead + 296 OR overhead > 100;
            PERFORM pg_logical_emit_message(false, '', repeat('x', room - overhead));
            EXIT WHEN mod(pg_current_wal_insert_lsn() - '0/0'::pg_lsn, 8192) = 24;
        END LOOP;
    END $$";

const TRIES: usize = 20;

const ROUNDS: usize = 200;
