//! Who the primary is said to be while servers die, freeze, are promoted and come back.

use std::time::Duration;

use crate::scene::{Scene, fresh_as_of, id, options, start_cluster, writer};
use topology::{Fence, NoPrimary, NodeState, Watcher, Writer};

#[tokio::test]
async fn failover_and_the_return_of_the_old_primary() {
    let mut scene = Scene::start(2).await;
    let first = scene.until_writer(0, 1).await;
    scene.until_fresh(1).await;
    scene.until_fresh(2).await;

    scene.cluster.kill(0).await.expect("it dies");
    scene.watcher.changed(first.version).await;
    let lost = scene.until("nobody is the writer", |snapshot| writer(snapshot).is_none()).await;
    assert!(matches!(lost.writer, Writer::None(NoPrimary::NotFound { last: Some(epoch) }) if epoch.primary == id(0)));
    // Replicas keep what they have proven.
    assert!(fresh_as_of(&lost.nodes[1]).is_some());

    let best = scene.cluster.promote_best().await.expect("one is promoted");
    let other = 3 - best;
    let promoted = scene.until_writer(best, 2).await;
    assert!(promoted.version > lost.version);
    scene.until_fresh(other).await;

    // The old primary comes back as what it was.
    scene.cluster.start_node(0).await.expect("it starts");
    let back = scene.until_state(0, "fenced").await;
    assert_eq!(writer(&back), Some((id(best), 2)));
    let NodeState::Fenced { claims_primary: true, timeline: 1, cause, .. } = back.nodes[0].state else {
        panic!("{:?}", back.nodes[0]);
    };
    assert_eq!(cause, Fence::OlderTimeline { newest: 2 });

    // Also while the new one is away, nobody falls back to it.
    scene.cluster.kill(best).await.expect("it dies");
    scene.until_state(best, "unreachable").await;
    scene.several_probes(&[0, best]).await;
    assert_eq!(writer(&scene.now()), None);
    assert_eq!(scene.node(0).state.name(), "fenced");

    scene.cluster.start_node(best).await.expect("it starts");
    scene.until_writer(best, 2).await;
    scene.cluster.rejoin(0).await.expect("it follows");
    scene.until_fresh(0).await;
    scene.end().await;
}

#[tokio::test]
async fn a_replica_that_is_ahead_of_the_fork_is_never_fresh() {
    let mut scene = Scene::start(2).await;
    scene.sql(0, "CREATE TABLE t (i int)").await;
    scene.until_fresh(1).await;
    scene.until_fresh(2).await;
    scene.cluster.set(1, "primary_conninfo", "").await.expect("it reloads");
    scene
        .until("node 1 receives nothing", |snapshot| {
            matches!(snapshot.nodes[1].state, NodeState::Replica { streaming: false, .. })
        })
        .await;
    // Node 2 gets megabytes that node 1 never will.
    scene.sql(0, "INSERT INTO t SELECT generate_series(1, 100000)").await;
    scene.cluster.replayed(2).await.expect("it replays");
    scene.cluster.kill(0).await.expect("it dies");
    scene.cluster.promote(1).await.expect("it is promoted");
    scene.until_writer(1, 2).await;
    scene.several_probes(&[1, 2]).await;
    let snapshot = scene.now();
    let (NodeState::Primary { insert_lsn, .. }, NodeState::Replica { timeline, replay_lsn, fresh_as_of, .. }) =
        (&snapshot.nodes[1].state, &snapshot.nodes[2].state)
    else {
        panic!("{snapshot:?}");
    };
    assert!(replay_lsn > insert_lsn, "the trap is not set: {snapshot:?}");
    assert_eq!((*timeline, *fresh_as_of), (1, None));

    scene.cluster.rejoin(2).await.expect("it follows");
    scene.until_fresh(2).await;
    scene.end().await;
}

#[tokio::test]
async fn two_primaries_of_one_timeline() {
    let mut scene = Scene::start(2).await;
    scene.until_writer(0, 1).await;
    scene.until_fresh(2).await;
    scene.cluster.kill(0).await.expect("it dies");
    tokio::join!(scene.sql(1, "SELECT pg_promote()"), scene.sql(2, "SELECT pg_promote()"));
    let split =
        scene.until("there are two", |snapshot| matches!(snapshot.writer, Writer::None(NoPrimary::SplitBrain { .. })));
    let Writer::None(NoPrimary::SplitBrain { timeline: 2, claimants }) = &split.await.writer else {
        panic!("{:?}", scene.now().writer);
    };
    assert_eq!(**claimants, [id(1), id(2)]);

    // One that merely is silent may still be writing; one that is dead does not.
    scene.cluster.freeze(2).await.expect("it freezes");
    scene.until_state(2, "unreachable").await;
    assert_eq!(writer(&scene.now()), None);
    scene.cluster.kill(2).await.expect("it dies");
    scene.until_writer(1, 2).await;
    scene.end().await;
}

#[tokio::test]
async fn frozen_servers() {
    let scene = Scene::start(1).await;
    scene.until_writer(0, 1).await;
    scene.until_fresh(1).await;

    scene.cluster.freeze(1).await.expect("it freezes");
    let frozen = scene.until_state(1, "unreachable").await;
    assert_eq!(writer(&frozen), Some((id(0), 1)));
    // Several rounds of attempts that hang must leave nothing that gets in the way of the one that works.
    scene.several_probes(&[1]).await;
    scene.cluster.thaw(1);
    scene.until_fresh(1).await;

    scene.cluster.freeze(0).await.expect("it freezes");
    let frozen = scene.until_state(0, "unreachable").await;
    assert_eq!(writer(&frozen), None);
    scene.cluster.thaw(0);
    scene.until_writer(0, 1).await;
    scene.until_fresh(1).await;
    // What the given-up attempts left behind on the server: nothing, but for the one connection in use.
    scene
        .sql(0, "DO $$ BEGIN WHILE (SELECT count(*) > 1 FROM pg_stat_activity WHERE application_name = 'hakem probe') LOOP PERFORM pg_sleep(0.01), pg_stat_clear_snapshot(); END LOOP; END $$")
        .await;
    scene.end().await;
}

#[tokio::test]
async fn a_lost_probe_connection_is_no_lost_server() {
    let scene = Scene::start(1).await;
    scene.until_writer(0, 1).await;
    scene.until_fresh(1).await;
    let before = scene.now().version;
    for _ in 0..5 {
        let terminate = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                         WHERE application_name = 'hakem probe'";
        assert_eq!(scene.sql(0, terminate).await, "1");
        assert_eq!(scene.sql(1, terminate).await, "1");
        scene.several_probes(&[0, 1]).await;
    }
    assert_eq!(scene.now().version, before, "{:#?}", scene.now());
    assert_eq!(scene.figures(0).failures + scene.figures(1).failures, 0);
    scene.until_fresh(1).await;
    scene.end().await;
}

#[tokio::test]
async fn a_full_primary_keeps_its_writes() {
    let scene = Scene::start(1).await;
    scene.until_writer(0, 1).await;
    scene.sql(0, "CREATE ROLE probe LOGIN PASSWORD 'probe' IN ROLE pg_monitor").await;
    scene.cluster.replayed(1).await.expect("it replays");
    scene.watcher.shutdown();
    let watcher = Watcher::spawn(topology::Options {
        user: "probe".to_owned(),
        password: Some("probe".to_owned()),
        ..options(&scene.cluster)
    });
    let scene = Scene { watcher, ..scene };
    scene.until_writer(0, 1).await;
    // 53300, as with max_connections.
    scene
        .sql(0, "ALTER ROLE probe CONNECTION LIMIT 0; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'probe'")
        .await;
    scene.until("a probe has failed", |snapshot| snapshot.nodes[0].figures.failures > 0).await;
    assert_eq!(writer(&scene.now()), Some((id(0), 1)));
    assert_eq!(scene.node(0).state.name(), "primary");
    scene.sql(0, "ALTER ROLE probe CONNECTION LIMIT -1").await;
    scene.until_fresh(1).await;
    scene.end().await;
}

#[tokio::test]
async fn probes_on_demand_only() {
    let cluster = start_cluster(1).await;
    let never = Duration::from_secs(24 * 60 * 60);
    let watcher = Watcher::spawn(topology::Options { probe_interval: never, ..options(&cluster) });
    let mut scene = Scene { cluster, watcher };
    scene.until_writer(0, 1).await;

    // Waiters may live on other runtimes.
    let (waiter, seen) = (scene.watcher.clone(), scene.now().version);
    let waiter = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(waiter.changed(seen));
        waiter.snapshot().version
    });
    scene.sql(1, "SELECT pg_promote()").await;
    assert_eq!(writer(&scene.now()), Some((id(0), 1)));
    scene.watcher.reprobe(id(1)).await;
    assert_eq!(writer(&scene.now()), Some((id(1), 2)));
    assert!(waiter.join().expect("it does not panic") > seen);

    // A node that nobody has is nobody's fault.
    scene.watcher.suspect(id(9));
    scene.watcher.reprobe(id(9)).await;

    let (first, second) = (scene.watcher.wait_guard(), scene.watcher.wait_guard());
    scene.several_probes(&[0, 1]).await;
    drop(first);
    scene.several_probes(&[0, 1]).await;
    drop(second);

    // A server that dies is noticed by the end of the probe's connection.
    scene.cluster.kill(1).await.expect("it dies");
    let lost = scene.until_state(1, "unreachable").await;
    assert_eq!(writer(&lost), None);
    scene.end().await;
}

#[tokio::test]
async fn a_wrong_password_is_said_so() {
    let cluster = start_cluster(0).await;
    let watcher = Watcher::spawn(topology::Options { password: Some("wrong".to_owned()), ..options(&cluster) });
    let scene = Scene { cluster, watcher };
    let snapshot = scene.until_state(0, "unreachable").await;
    let NodeState::Unreachable { reason, .. } = &snapshot.nodes[0].state else { panic!("{snapshot:?}") };
    assert!(reason.contains("password authentication failed") && reason.contains("28P01"), "{reason}");
    assert_eq!(writer(&snapshot), None);
    scene.end().await;
}
