//! No session sees less than it may: its own writes always, other people's within the bound.

use futures_util::future::join_all;

use crate::harness::{Setup, Stage, until};

/// Replicas that apply everything half a second late, and are believed for ten.
fn delayed() -> Setup {
    let mut setup =
        Setup::replicas(2).with("routing", "max_lag", "\"10s\"").server("recovery_min_apply_delay", "500ms");
    setup.cluster.synchronous = false;
    setup
}

#[tokio::test]
async fn ten_thousand_reads_of_own_writes() {
    const SESSIONS: i32 = 20;
    const ROUNDS: i32 = 500;
    let stage = delayed().with("pool", "size", "10").start().await.unwrap();
    stage.psql("create table counters (id int primary key, n int); insert into counters select g, 0 from generate_series(0, 99) g").await;
    stage.cluster.caught_up().await.unwrap();

    let sessions = (0..SESSIONS).map(|id| {
        let stage = &stage;
        async move {
            let client = stage.connect().await;
            let write = client.prepare("update counters set n = n + 1 where id = $1").await.unwrap();
            let read = client.prepare("select n from counters where id = $1").await.unwrap();
            let mut stale = 0;
            for round in 1..=ROUNDS {
                client.execute(&write, &[&id]).await.unwrap();
                // Now by one protocol, now by the other.
                let seen: i32 = if round % 2 == 0 {
                    client.query_one(&read, &[&id]).await.unwrap().get(0)
                } else {
                    client.value(&format!("select n from counters where id = {id}")).await.unwrap().parse().unwrap()
                };
                stale += i32::from(seen != round);
            }
            // And once the replicas have them.
            let replica = served_by_replicas(stage).await;
            until("a read on a replica", async || {
                stale += i32::from(
                    client.value(&format!("select n from counters where id = {id}")).await.unwrap()
                        != ROUNDS.to_string(),
                );
                served_by_replicas(stage).await > replica
            })
            .await
            .unwrap();
            stale
        }
    });
    let stale: i32 = join_all(sessions).await.into_iter().sum();
    assert_eq!(stale, 0);

    // The same without the promise: that staleness is there to be seen shows that the loop above would have seen it.
    let client = stage.connect().await;
    client.batch_execute("set hakem.consistency = 'bounded'").await.unwrap();
    let mut expected = 0;
    until("a stale read", async || {
        expected += 1;
        client.batch_execute("update counters set n = n + 1 where id = 99").await.unwrap();
        client.value("select n from counters where id = 99").await.unwrap() != expected.to_string()
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn global_consistency_shows_everybodys_writes() {
    let stage = delayed().with("routing", "consistency", "\"global\"").start().await.unwrap();
    stage.psql("create table counter (n int); insert into counter values (0)").await;
    let (writer, reader) = (stage.connect().await, stage.connect().await);
    for n in 1..=300 {
        writer.batch_execute("update counter set n = n + 1").await.unwrap();
        assert_eq!(reader.value("select n from counter").await.unwrap(), n.to_string());
    }
    let replica = served_by_replicas(&stage).await;
    until("a read on a replica", async || {
        assert_eq!(reader.value("select n from counter").await.unwrap(), "300");
        served_by_replicas(&stage).await > replica
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn replicas_that_lag_too_far_serve_nobody() {
    let mut setup = Setup::replicas(2).with("routing", "max_lag", "\"500ms\"");
    setup.cluster.synchronous = false;
    let stage = setup.start().await.unwrap();
    stage.psql("create table t (n int); insert into t values (1)").await;
    stage.cluster.caught_up().await.unwrap();
    for replica in [1, 2] {
        stage.cluster.pause_replay(replica).await.unwrap();
    }
    stage.direct(0, "update t set n = 2").await;
    until("every replica to lag", async || {
        let lags = stage.proxy.series("hakem_replica_lag_seconds").await;
        lags.iter().all(|(_, lag)| *lag > 0.5)
    })
    .await
    .unwrap();

    let before = served_by_replicas(&stage).await;
    for _ in 0..20 {
        // A session of its own each time: it has written nothing, so only the bound keeps it from the replicas.
        let client = stage.connect().await;
        assert_eq!(client.value("select n from t").await.unwrap(), "2");
    }
    assert_eq!(served_by_replicas(&stage).await, before);
    // Whoever asks for nothing gets a replica all the same, and what it has.
    let client = stage.connect().await;
    client.batch_execute("set hakem.consistency = 'eventual'").await.unwrap();
    assert_eq!(client.value("select n from t").await.unwrap(), "1");

    for replica in [1, 2] {
        stage.cluster.resume_replay(replica).await.unwrap();
    }
    let before = served_by_replicas(&stage).await;
    let client = stage.connect().await;
    until("reads to go to replicas again", async || {
        assert_eq!(client.value("select n from t").await.unwrap(), "2");
        served_by_replicas(&stage).await > before
    })
    .await
    .unwrap();
}

async fn served_by_replicas(stage: &Stage) -> f64 {
    stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await
}
