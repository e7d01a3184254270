//! How reads are shared out among the servers: by weight, zone and load, with a part for the primary, and never back in time.
//!
//! Shares are counted, not timed: over so many reads that chance has no say.

use std::cell::Cell;
use std::time::Instant;

use futures_util::future::join_all;

use crate::harness::{Client, Setup, Stage, until};

/// Requests that each node was chosen for.
async fn requests(stage: &Stage) -> Vec<f64> {
    let mut counts = Vec::new();
    for node in stage.cluster.nodes() {
        let name = format!("{}:{}", node.host(), node.port());
        counts.push(stage.proxy.metric("hakem_node_requests_total", &[("node", &name)]).await);
    }
    counts
}

/// The part of the reads that each node gets of what is done.
async fn shares(stage: &Stage, work: impl AsyncFnOnce()) -> Vec<f64> {
    let before = requests(stage).await;
    work().await;
    let after = requests(stage).await;
    let counts: Vec<f64> = after.iter().zip(before).map(|(after, before)| after - before).collect();
    let sum: f64 = counts.iter().sum();
    counts.iter().map(|count| count / sum).collect()
}

/// The same, of many reads of one client who does not mind which replica answers.
async fn shares_of_reads(stage: &Stage, client: &Client, reads: usize) -> Vec<f64> {
    shares(stage, async || {
        for _ in 0..reads {
            client.batch_execute("select 1").await.unwrap();
        }
    })
    .await
}

/// Waits until they are what they should be: on a machine that is busy with other things, a replica may well be slow for a while.
async fn settles(stage: &Stage, client: &Client, reads: usize, expected: &[f64], tolerance: f64) {
    let mut found = Vec::new();
    let settled = until("the shares to be right", async || {
        found = shares_of_reads(stage, client, reads).await;
        is_close(&found, expected, tolerance)
    });
    assert!(settled.await.is_ok(), "{found:?} instead of {expected:?}");
}

fn is_close(found: &[f64], expected: &[f64], tolerance: f64) -> bool {
    found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() <= tolerance)
}

#[track_caller]
fn check(found: &[f64], expected: &[f64], tolerance: f64) {
    assert!(is_close(found, expected, tolerance), "{found:?} instead of {expected:?}");
}

/// What is said of some of the nodes, as a table.
fn of_nodes(stage: &Stage, values: &[(usize, &str)]) -> String {
    let node = |index: usize| &stage.cluster.nodes()[index];
    let entries: Vec<String> = values
        .iter()
        .map(|(index, value)| format!("\"{}:{}\" = {value}", node(*index).host(), node(*index).port()))
        .collect();
    format!("{{ {} }}", entries.join(", "))
}

/// Nobody waits, and what has come back is as good as the others.
fn bounded(replicas: usize) -> Setup {
    Setup::replicas(replicas).with("routing", "consistency", "\"bounded\"").with("routing", "max_lag", "\"1h\"").with(
        "routing",
        "slow_start",
        "\"0s\"",
    )
}

#[tokio::test]
async fn by_weight_and_by_zone_and_a_part_for_the_primary() {
    let setup = bounded(2);
    let mut stage = setup.clone().start().await.unwrap();
    let client = stage.connect().await;
    settles(&stage, &client, 600, &[0.0, 0.5, 0.5], 0.1).await;

    let weights = of_nodes(&stage, &[(1, "3"), (2, "1")]);
    let weighted = setup.clone().with("clusters.local", "weights", &weights);
    weighted.reload(&stage).await.unwrap();
    settles(&stage, &client, 800, &[0.0, 0.75, 0.25], 0.1).await;
    let admin = weighted.clone().with("console", "admin_users", "[\"postgres\"]");
    admin.reload(&stage).await.unwrap();
    let console = stage.proxy.connect_with(|config| {
        config.dbname("hakem");
    });
    let shown = console.await.unwrap().simple_query("show topology").await.unwrap();
    let shown: Vec<&str> = shown
        .iter()
        .filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get("share"),
            _ => None,
        })
        .collect();
    assert_eq!(shown, ["0", "75", "25"]);

    // With a weight of nothing it serves nobody; the connections are the same.
    let weights = of_nodes(&stage, &[(1, "0")]);
    let narrow = setup.clone().with("pool", "size", "1");
    narrow.clone().with("clusters.local", "weights", &weights).reload(&stage).await.unwrap();
    settles(&stage, &client, 100, &[0.0, 0.0, 1.0], 0.0).await;
    let (holder, waiter) = (stage.connect().await, stage.connect().await);
    holder.batch_execute("begin read only").await.unwrap();
    holder.batch_execute("select 1").await.unwrap();
    let weights = of_nodes(&stage, &[(1, "0"), (2, "0")]);
    let nowhere = async {
        let waiting = async || stage.proxy.metric("hakem_clients_waiting", &[]).await == 1.0;
        until("one to wait for the only connection", waiting).await.unwrap();
        narrow.clone().with("clusters.local", "weights", &weights).reload(&stage).await.unwrap();
        holder.batch_execute("commit").await.unwrap();
    };
    let (recovering, ()) = tokio::join!(waiter.value("/* hakem: replica */ select pg_is_in_recovery()"), nowhere);
    assert_eq!(recovering.unwrap(), "f", "who has waited goes where the new configuration says");
    setup.clone().with("clusters.local", "weights", &weights).reload(&stage).await.unwrap();
    settles(&stage, &client, 100, &[1.0, 0.0, 0.0], 0.0).await;

    // Some for the primary: of each session's reads, and of the sessions that keep to where they have read.
    let shared = setup.clone().with("routing", "primary_read_share", "0.3");
    shared.reload(&stage).await.unwrap();
    settles(&stage, &client, 1000, &[0.3, 0.35, 0.35], 0.07).await;
    client.batch_execute("set hakem.route = 'replica'").await.unwrap();
    settles(&stage, &client, 300, &[0.0, 0.5, 0.5], 0.13).await;
    client.batch_execute("set hakem.route = 'auto'").await.unwrap();
    shared.with("routing", "consistency", "\"session\"").reload(&stage).await.unwrap();
    let clients = join_all((0..120).map(|_| stage.connect())).await;
    let of_sessions = shares(&stage, async || {
        for client in &clients {
            for _ in 0..3 {
                client.batch_execute("select 1").await.unwrap();
            }
        }
    });
    check(&of_sessions.await, &[0.3, 0.35, 0.35], 0.17);
    drop(clients);

    // Those of one's own zone first, whatever they weigh; others when there is none.
    let zones = of_nodes(&stage, &[(0, "\"a\""), (1, "\"a\""), (2, "\"b\"")]);
    let zoned = setup.with("proxy", "zone", "\"b\"").with("clusters.local", "zones", &zones);
    zoned.reload(&stage).await.unwrap();
    settles(&stage, &client, 100, &[0.0, 0.0, 1.0], 0.0).await;
    stage.cluster.kill(2).await.unwrap();
    until("the death to be noticed", async || {
        stage.proxy.metric("hakem_node_state", &[("state", "unreachable")]).await == 1.0
    })
    .await
    .unwrap();
    settles(&stage, &client, 100, &[0.0, 1.0, 0.0], 0.0).await;
    stage.cluster.start_node(2).await.unwrap();
    stage.ready().await.unwrap();
    settles(&stage, &client, 100, &[0.0, 0.0, 1.0], 0.0).await;
}

#[tokio::test]
async fn a_slow_replica_gets_less() {
    const CLIENTS: usize = 16;
    let stage = bounded(2).server("test.seconds", "0.004").start().await.unwrap();
    // The same statement takes much longer on the second replica, whatever else the machine has to do.
    stage.cluster.set(2, "test.seconds", "0.1").await.unwrap();
    let statement = "select pg_sleep(current_setting('test.seconds')::float8)";
    let clients = join_all((0..CLIENTS).map(|_| stage.connect())).await;
    let found = shares(&stage, async || {
        let work = clients.iter().map(async |client| {
            for _ in 0..40 {
                client.batch_execute(statement).await.unwrap();
            }
        });
        join_all(work).await;
    });
    let found = found.await;
    assert!(found[0] == 0.0 && (0.01..0.3).contains(&found[2]), "{found:?}");
    // Whatever has been counted has ended, also for a client that went in the middle.
    let gone = stage.connect().await;
    let begun = gone.batch_execute("select pg_sleep(600)");
    let outstanding = async || stage.proxy.metric("hakem_node_outstanding", &[]).await;
    let vanish = async { until("the statement to run", async || outstanding().await == 1.0).await.unwrap() };
    tokio::select! {
        _ = begun => panic!("it sleeps"),
        () = vanish => {}
    }
    gone.vanish().await;
    until("nothing to be outstanding", async || outstanding().await == 0.0).await.unwrap();
}

#[tokio::test]
async fn a_frozen_replica_holds_about_half_of_them_at_most() {
    const CLIENTS: usize = 10;
    // Nobody is to find out that it is frozen but by having to wait.
    let setup = bounded(2).with("topology", "probe_timeout", "\"1h\"");
    let stage = setup.start().await.unwrap();
    let clients = join_all((0..CLIENTS).map(|_| stage.connect())).await;
    for client in &clients {
        client.batch_execute("select 1; select 2").await.unwrap();
    }
    let name = format!("{}:{}", stage.cluster.nodes()[2].host(), stage.cluster.nodes()[2].port());
    stage.cluster.freeze(2).await.unwrap();
    let finished = Cell::new(0);
    let work = join_all(clients.iter().map(async |client| {
        for _ in 0..50 {
            client.batch_execute("select 1").await.unwrap();
        }
        finished.set(finished.get() + 1);
    }));
    let watch = async {
        let stuck = async || stage.proxy.metric("hakem_node_outstanding", &[("node", &name)]).await as usize;
        until("all but those that are stuck to finish", async || finished.get() + stuck().await == CLIENTS)
            .await
            .unwrap();
        // Each time that one had to be chosen, as many were waiting at the other one.
        let stuck = stuck().await;
        stage.cluster.thaw(2);
        stuck
    };
    let (_, stuck) = tokio::join!(work, watch);
    // One more for each worker: two may choose at the same moment.
    assert!((1..=CLIENTS / 2 + 2).contains(&stuck), "{stuck}");
}

#[tokio::test]
async fn no_session_reads_back_in_time() {
    let mut setup = Setup::replicas(2).with("routing", "max_lag", "\"1h\"");
    setup.cluster.synchronous = false;
    let stage = setup.start().await.unwrap();
    stage.psql("create table counter (n int); insert into counter values (0)").await;
    stage.cluster.caught_up().await.unwrap();
    // One of them shows everything later than the other.
    stage.cluster.set(2, "recovery_min_apply_delay", "400ms").await.unwrap();
    let (writer, reader, loose) = (stage.connect().await, stage.connect().await, stage.connect().await);
    loose.batch_execute("set hakem.consistency = 'bounded'").await.unwrap();
    let value = async |client: &Client| client.value("select n from counter").await.unwrap().parse::<i32>().unwrap();
    let (mut seen, mut seen_loosely, mut back) = (0, 0, 0);
    let before = requests(&stage).await;
    until("somebody else to read back in time, and the reader to have been everywhere", async || {
        for round in 0..30 {
            writer.batch_execute("update counter set n = n + 1").await.unwrap();
            let now = value(&reader).await;
            assert!(now >= seen, "it has seen {seen}, and now {now}");
            seen = now;
            let now = value(&loose).await;
            back += i32::from(now < seen_loosely);
            seen_loosely = now;
            // Now and then it pauses, and may go elsewhere.
            if round == 29 {
                let replica = stage.direct(0, "select n from counter").await;
                until("the replicas to have it", async || stage.direct(2, "select n from counter").await == replica)
                    .await
                    .unwrap();
            }
        }
        let after = requests(&stage).await;
        back > 5 && after[1] > before[1] && after[2] > before[2] + 40.0
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_session_may_keep_to_a_node() {
    let stage = bounded(2).with("pool", "size", "1").start().await.unwrap();
    let (client, other) = (stage.connect().await, stage.connect().await);
    let reads = |client| shares_of_reads(&stage, client, 60);
    let found = reads(&client).await;
    assert!(found[0] == 0.0 && found[1] > 0.0 && found[2] > 0.0, "{found:?}");
    for client in [&client, &other] {
        client.batch_execute("set hakem.affinity = 'node'").await.unwrap();
    }
    let near = async |client| {
        let found = reads(client).await;
        let near = found.iter().position(|share| *share == 1.0);
        near.filter(|near| *near > 0).unwrap_or_else(|| panic!("not one replica: {found:?}"))
    };
    // No connection is held: there is one for both.
    let (kept, _) = (near(&client).await, near(&other).await);
    client.batch_execute("begin; create table written (n int); commit").await.unwrap();
    until("what is known of the database to be known again", async || {
        stage.proxy.metric("hakem_catalog_current", &[]).await == 1.0 && near(&client).await == kept
    })
    .await
    .unwrap();
    client.batch_execute("set hakem.affinity = 'primary'").await.unwrap();
    assert_eq!(reads(&client).await, [1.0, 0.0, 0.0]);
    assert_eq!(reads(&other).await[0], 0.0);
    client.batch_execute("reset hakem.affinity").await.unwrap();
    let found = reads(&client).await;
    assert!(found[0] == 0.0 && found[1] > 0.0 && found[2] > 0.0, "{found:?}");
}

#[tokio::test]
async fn one_that_comes_back_gets_little_at_first() {
    let setup = bounded(2);
    let mut stage = setup.clone().start().await.unwrap();
    let started = Instant::now();
    let client = stage.connect().await;
    settles(&stage, &client, 300, &[0.0, 0.5, 0.5], 0.15).await;
    stage.cluster.kill(2).await.unwrap();
    settles(&stage, &client, 50, &[0.0, 1.0, 0.0], 0.0).await;
    let back = Instant::now();
    stage.cluster.start_node(2).await.unwrap();
    stage.ready().await.unwrap();
    // The other one has been there for so long, and is not new.
    let slow_start = started.elapsed();
    let setup = setup.with("routing", "slow_start", &format!("\"{}ms\"", slow_start.as_millis()));
    setup.reload(&stage).await.unwrap();
    let name = format!("{}:{}", stage.cluster.nodes()[2].host(), stage.cluster.nodes()[2].port());
    let share = async || stage.proxy.metric("hakem_node_read_share", &[("node", &name)]).await;
    let (planned, counted) = (share().await, shares_of_reads(&stage, &client, 300).await[2]);
    // A tenth of its weight, or what it has earned since.
    let weight = (back.elapsed().as_secs_f64() / slow_start.as_secs_f64()).clamp(0.1, 1.0);
    let most = weight / (1.0 + weight);
    assert!(planned > 0.0 && planned <= most + 0.01 && counted <= most + 0.1, "{planned}, {counted} of {most}");
    until("it to be like the other one", async || share().await == 0.5).await.unwrap();
    settles(&stage, &client, 300, &[0.0, 0.5, 0.5], 0.15).await;
}
