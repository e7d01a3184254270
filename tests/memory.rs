//! Results and loads of any size pass through constant memory.

use futures_util::{SinkExt, TryStreamExt};
use tokio::io::AsyncReadExt;

use crate::harness::{Setup, Stage, until};
use crate::raw::Raw;

/// What the program may use at most, in kB.
const MEMORY_KB_MAX: u64 = 64 * 1024;

#[tokio::test]
async fn a_gigabyte_out() {
    const ROWS: u64 = 65_536;
    const ROW_BYTES: u64 = 16_384;
    let stage = Setup::replicas(0).start().await.unwrap();
    let client = stage.connect().await;
    let sql = format!("copy (select repeat('x', {ROW_BYTES} - 1) from generate_series(1, {ROWS})) to stdout");
    let stream = client.copy_out(&sql).await.unwrap();
    let mut stream = std::pin::pin!(stream);
    let mut bytes = 0;
    while let Some(chunk) = stream.try_next().await.unwrap() {
        bytes += chunk.len() as u64;
    }
    assert_eq!(bytes, ROWS * ROW_BYTES);
    assert_eq!(bytes, 1 << 30);
    in_bounds(&stage);

    // A few messages that are larger than that themselves.
    let rows =
        client.query_raw("select repeat('y', 100000000) from generate_series(1, 2)", [] as [&i32; 0]).await.unwrap();
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await.unwrap() {
        assert_eq!(row.get::<_, &str>(0).len(), 100_000_000);
    }
    in_bounds(&stage);
}

#[tokio::test]
async fn a_client_that_does_not_read() {
    const CLIENTS: usize = 8;
    const BYTES: usize = 64 << 20;
    let stage = Setup::replicas(0).with("auth", "method", "\"trust\"").start().await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
        let mut query = Vec::new();
        wire::frontend::put_query(
            &mut query,
            &format!("select repeat('x', 1024) from generate_series(1, {})", BYTES >> 10),
        );
        raw.say(&query).await;
        clients.push(raw);
    }
    // Every server has come to a halt, since nobody takes what it sends.
    let stuck = format!(
        "select count(*) = {CLIENTS} from pg_stat_activity where wait_event = 'ClientWrite' and query like 'select repeat%'"
    );
    until("the servers to wait", async || stage.direct(0, &stuck).await == "t").await.unwrap();
    in_bounds(&stage);
    // Others are served meanwhile.
    assert_eq!(stage.connect().await.value("select 1").await.unwrap(), "1");
    for client in &mut clients {
        let (mut total, mut buffer) = (0, vec![0; 1 << 20]);
        while total < BYTES {
            let length = client.stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "ended after {total} bytes");
            total += length;
        }
    }
    in_bounds(&stage);
}

#[tokio::test]
async fn two_hundred_megabytes_in() {
    const CHUNKS: usize = 200;
    let stage = Setup::replicas(0).server("max_wal_size", "4GB").start().await.unwrap();
    let client = stage.connect().await;
    client.batch_execute("create unlogged table t (s text)").await.unwrap();
    // A megabyte of lines in each CopyData.
    let chunk = bytes::Bytes::from(format!("{}\n", "x".repeat(1023)).repeat(1024));
    let sink = client.copy_in("copy t from stdin").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    for _ in 0..CHUNKS {
        sink.send(chunk.clone()).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), (CHUNKS * 1024) as u64);
    in_bounds(&stage);

    // A statement that is larger than what is kept for a retry.
    let large = "y".repeat(20 << 20);
    client.execute("insert into t values ($1)", &[&large]).await.unwrap();
    client.batch_execute(&format!("insert into t values ('{large}')")).await.unwrap();
    assert_eq!(client.value("select count(*) from t where length(s) = 20 << 20").await.unwrap(), "2");
}

fn in_bounds(stage: &Stage) {
    let peak = stage.proxy.memory_kb("VmHWM");
    assert!(peak < MEMORY_KB_MAX, "{peak} kB");
}
