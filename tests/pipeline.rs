//! Pipelines: requests that do not wait for each other's answers, on real servers and seen from the wire.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use cluster::Cluster;
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use wire::backend::tag;
use wire::frontend;

use crate::harness::{Proxy, Setup, until};
use crate::raw::{Message, Raw, put_execute, sqlstate, tags, value};

/// What stands between the program and a server: it writes down what the server is sent, and keeps answers back when it is told to, on
/// connections on which the word [`MARK`] has been said.
struct Tap {
    port: u16,
    heard: Arc<Heard>,
}

#[derive(Default)]
struct Heard {
    chunks: Mutex<Vec<Vec<u8>>>,
    closed: AtomicBool,
    opened: Notify,
}

/// The word by which a test's own requests are told from all others.
const MARK: &str = "pipelined";

impl Tap {
    async fn start(server: u16) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let heard = Arc::new(Heard::default());
        let shared = heard.clone();
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(("127.0.0.1", server)).await else { continue };
                near.set_nodelay(true).unwrap();
                far.set_nodelay(true).unwrap();
                let ((near_read, near_write), (far_read, far_write)) = (near.into_split(), far.into_split());
                let marked = Arc::new(AtomicBool::new(false));
                tokio::spawn(forth(near_read, far_write, shared.clone(), marked.clone()));
                tokio::spawn(back(far_read, near_write, shared.clone(), marked));
            }
        });
        Tap { port, heard }
    }

    fn close(&self) {
        self.heard.closed.store(true, Ordering::SeqCst);
    }

    fn open(&self) {
        self.heard.closed.store(false, Ordering::SeqCst);
        self.heard.opened.notify_waiters();
    }

    /// How often a server has been sent this.
    fn count(&self, text: &str) -> usize {
        let all = self.heard.chunks.lock().unwrap().concat();
        all.windows(text.len()).filter(|window| *window == text.as_bytes()).count()
    }
}

async fn forth(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, heard: Arc<Heard>, marked: Arc<AtomicBool>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length) = from.read(&mut buffer).await
        && length > 0
    {
        if buffer[..length].windows(MARK.len()).any(|window| window == MARK.as_bytes()) {
            marked.store(true, Ordering::SeqCst);
        }
        heard.chunks.lock().unwrap().push(buffer[..length].to_vec());
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn back(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, heard: Arc<Heard>, marked: Arc<AtomicBool>) {
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length) = from.read(&mut buffer).await
        && length > 0
    {
        loop {
            let opened = heard.opened.notified();
            if !(heard.closed.load(Ordering::SeqCst) && marked.load(Ordering::SeqCst)) {
                break;
            }
            opened.await;
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

/// A primary with a tap in front of it, the program in front of that, and a client.
async fn tapped() -> (Cluster, Tap, Proxy, Raw) {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let tap = Tap::start(cluster.nodes()[0].port()).await;
    let server = format!("[\"127.0.0.1:{}\"]", tap.port);
    let proxy = setup.with("clusters.local", "servers", &server).proxy(&cluster).await.unwrap();
    until("the program to be ready", async || proxy.page("/ready").await.is_ok_and(|(status, _)| status == 200))
        .await
        .unwrap();
    let raw = Raw::log_in(&proxy, "postgres").await;
    (cluster, tap, proxy, raw)
}

async fn trusting(replicas: usize) -> crate::harness::Stage {
    Setup::replicas(replicas).with("auth", "method", "\"trust\"").with("pool", "size", "1").start().await.unwrap()
}

fn put_query(out: &mut Vec<u8>, sql: &str) {
    frontend::put_query(out, sql);
}

/// Parse of the unnamed statement, Bind, Execute and Sync.
fn put_extended(out: &mut Vec<u8>, sql: &str) {
    frontend::put_parse(out, b"", sql.as_bytes(), &[0, 0]);
    put_execute(out, "");
    frontend::put_sync(out);
}

async fn answers(raw: &mut Raw, count: usize) -> Vec<Vec<Message>> {
    let mut answers = Vec::new();
    for _ in 0..count {
        answers.push(raw.until_ready().await);
    }
    answers
}

#[tokio::test]
async fn a_request_reaches_the_server_before_the_answer_to_the_one_ahead_of_it() {
    let (_cluster, tap, proxy, mut raw) = tapped().await;
    raw.query("select 'pipelined'").await;
    tap.close();
    let mut out = Vec::new();
    put_query(&mut out, "select 'first pipelined'");
    put_extended(&mut out, "select 'second pipelined'");
    put_query(&mut out, "select 'third pipelined'");
    raw.say(&out).await;
    // Nothing has been answered, and will be, before all of them are there.
    for text in ["first pipelined", "second pipelined", "third pipelined"] {
        until("the request to reach the server", async || tap.count(text) == 1).await.unwrap();
    }
    // Said together, sent together.
    let chunks = tap.heard.chunks.lock().unwrap().clone();
    let together = |chunk: &Vec<u8>| {
        let text = String::from_utf8_lossy(chunk);
        text.contains("first pipelined") && text.contains("third pipelined")
    };
    assert!(chunks.iter().any(together));
    // Said later, not later sent.
    let mut out = Vec::new();
    put_query(&mut out, "select 'fourth pipelined'");
    raw.say(&out).await;
    until("the request to reach the server", async || tap.count("fourth pipelined") == 1).await.unwrap();
    tap.open();
    let values: Vec<String> = answers(&mut raw, 4).await.iter().map(|answer| value(answer).unwrap()).collect();
    assert_eq!(values, ["first pipelined", "second pipelined", "third pipelined", "fourth pipelined"]);
    until("the server to be free", async || {
        proxy.metric("hakem_server_connections", &[("state", "leased")]).await == 0.0
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_transaction_spread_over_several_syncs() {
    let stage = trusting(1).await;
    stage.psql("create table t (n int primary key)").await;
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    for round in 0..3 {
        let mut out = Vec::new();
        for sql in ["begin", &format!("insert into t values ({round})"), "select count(*) from t", "commit"] {
            if round == 1 { put_extended(&mut out, sql) } else { put_query(&mut out, sql) }
        }
        put_query(&mut out, "select count(*) from t");
        raw.say(&out).await;
        let all = answers(&mut raw, 5).await;
        let states: Vec<u8> = all.iter().map(|answer| answer.last().unwrap().body[0]).collect();
        assert_eq!(states, b"TTTII", "round {round}");
        let count = (round + 1).to_string();
        assert_eq!((value(&all[2]), value(&all[4])), (Some(count.clone()), Some(count)), "round {round}");
    }
    // A transaction that fails in the middle of the pipeline, and the requests behind it.
    let mut out = Vec::new();
    for sql in ["begin", "insert into t values (0)", "insert into t values (9)", "commit", "insert into t values (10)"]
    {
        put_extended(&mut out, sql);
    }
    raw.say(&out).await;
    let all = answers(&mut raw, 5).await;
    let states: Vec<u8> = all.iter().map(|answer| answer.last().unwrap().body[0]).collect();
    assert_eq!(states, b"TEEII");
    assert_eq!(sqlstate(&all[1]).as_deref(), Some("23505"));
    assert_eq!(sqlstate(&all[2]).as_deref(), Some("25P02"));
    assert_eq!(tags(&all[4]), "12CZ");
    assert_eq!(stage.direct(0, "select count(*), max(n) from t").await, "4|10");
}

#[tokio::test]
async fn a_server_lost_under_a_pipeline() {
    let mut stage = trusting(0).await;
    stage.psql("create table t (n int)").await;
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    let mut out = Vec::new();
    put_query(&mut out, "select pg_sleep(600)");
    put_query(&mut out, "insert into t values (1)");
    put_query(&mut out, "select 'after'");
    raw.say(&out).await;
    let active = "select count(*) from pg_stat_activity where state = 'active' and query = 'select pg_sleep(600)'";
    until("the statement to run", async || stage.direct(0, active).await == "1").await.unwrap();
    stage.cluster.kill(0).await.unwrap();
    stage.cluster.start_node(0).await.unwrap();
    let all = answers(&mut raw, 3).await;
    assert_eq!(sqlstate(&all[0]).as_deref(), Some("57P01"));
    assert_eq!(sqlstate(&all[1]).as_deref(), Some("08007"));
    assert_eq!(value(&all[2]).as_deref(), Some("after"), "a read behind them is run again: {:?}", all[2]);
    assert_eq!(stage.direct(0, "select count(*) from t").await, "0");
    assert_eq!(value(&raw.query("select 'well'").await).as_deref(), Some("well"));
}

#[tokio::test]
async fn what_is_only_prepared_holds_no_server() {
    let stage = trusting(0).await;
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    let mut out = Vec::new();
    frontend::put_parse(&mut out, b"s", b"select $1::int + 1", &[0, 0]);
    frontend::put_describe_statement(&mut out, b"s");
    out.extend_from_slice(b"H\0\0\0\x04");
    one.say(&out).await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(one.hear().await.unwrap());
    }
    assert_eq!(tags(&heard), "1tT");
    // There is one connection, and it is not held.
    assert_eq!(value(&two.query("select 'free'").await).as_deref(), Some("free"));
    let mut sync = Vec::new();
    frontend::put_sync(&mut sync);
    one.say(&sync).await;
    assert_eq!(tags(&one.until_ready().await), "Z");
    let mut out = Vec::new();
    frontend::put_bind(&mut out, b"", b"s", b"\0\0\0\x01\0\0\0\x0241\0\0");
    out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
    frontend::put_sync(&mut out);
    one.say(&out).await;
    assert_eq!(value(&one.until_ready().await).as_deref(), Some("42"));
    // What fails is told at once, and what follows is dropped until Sync.
    let mut out = Vec::new();
    frontend::put_parse(&mut out, b"", b"wrong", &[0, 0]);
    out.extend_from_slice(b"H\0\0\0\x04");
    put_extended(&mut out, "create table made (n int)");
    one.say(&out).await;
    let answer = one.until_ready().await;
    assert_eq!((tags(&answer), sqlstate(&answer)), ("EZ".to_owned(), Some("42601".to_owned())));
    assert_eq!(stage.psql("select to_regclass('made') is null").await, "t");
}

#[tokio::test]
async fn both_directions_at_once() {
    const REQUESTS: usize = 400;
    let stage = trusting(0).await;
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    // 40 MB of requests, and as much of answers: more than all buffers on the way hold.
    let filler = "x".repeat(100_000);
    let mut out = Vec::new();
    for n in 0..REQUESTS {
        put_query(&mut out, &format!("select '{n}', '{filler}'"));
    }
    let (mut reader, mut writer) = raw.stream.split();
    let write = async { writer.write_all(&out).await.unwrap() };
    let read = async {
        let (mut received, mut seen) = (Vec::with_capacity(out.len() * 2), 0);
        let mut at = 0;
        while seen < REQUESTS {
            assert!(reader.read_buf(&mut received).await.unwrap() > 0, "the connection ended");
            while let Some(frame) = wire::frame::Frame::take(&received[at..]).unwrap() {
                assert_ne!(frame.tag, tag::ERROR_RESPONSE);
                seen += usize::from(frame.tag == tag::READY_FOR_QUERY);
                at += frame.whole.len();
            }
        }
        assert_eq!(at, received.len());
    };
    tokio::join!(write, read);
    // No more was kept for retries than may be.
    assert!(stage.proxy.memory_kb("VmHWM") < 200_000, "{} kB", stage.proxy.memory_kb("VmHWM"));
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_being_read() {
    let stage = trusting(0).await;
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    let mut out = Vec::new();
    put_query(&mut out, "select repeat('x', 100000)");
    // It writes for as long as anybody takes anything.
    let mut written = 0;
    let all = out.repeat(2_000_000);
    loop {
        let write = raw.stream.write(&all[written..]);
        match tokio::time::timeout(std::time::Duration::from_millis(500), write).await {
            Ok(length) => written += length.unwrap(),
            Err(_) => break,
        }
        assert!(written < all.len(), "everything was taken");
    }
    assert!(stage.proxy.memory_kb("VmHWM") < 100_000, "{} kB", stage.proxy.memory_kb("VmHWM"));
    // Others are served. All of its requests that were sent whole are answered when it reads at last.
    drop(raw);
    assert_eq!(stage.psql("select 1").await, "1");
}

#[tokio::test]
async fn tokio_postgres_pipelines() {
    let stage =
        Setup::replicas(1).with("pool", "size", "2").with("routing", "max_lag", "\"1h\"").start().await.unwrap();
    stage.psql("create table t (n int)").await;
    let client = stage.connect().await;
    let insert = client.prepare("insert into t values ($1)").await.unwrap();
    let select = client.prepare("select $1::int").await.unwrap();
    let numbers: Vec<i32> = (0..300).collect();
    let answers = join_all(numbers.iter().map(async |n| client.query_one(&select, &[n]).await.unwrap())).await;
    let answers: Vec<i32> = answers.iter().map(|row| row.get(0)).collect();
    assert_eq!(answers, numbers);
    join_all(numbers.iter().map(async |n| client.execute(&insert, &[n]).await.unwrap())).await;
    // Prepared at once, and some of them wrong.
    let texts: Vec<String> =
        (0..50).map(|n| format!("select {n}{}", if n % 7 == 3 { " from nowhere" } else { "" })).collect();
    let prepared = join_all(texts.iter().map(|text| client.prepare(text))).await;
    for (n, statement) in prepared.iter().enumerate() {
        assert_eq!(statement.is_err(), n % 7 == 3, "{n}");
    }
    assert_eq!(stage.direct(0, "select count(*), sum(n) from t").await, "300|44850");

    // Reads and writes at once: each read sees the writes in front of it and none behind it, and what asks for a replica gets one until
    // then. Without a Sync between them they would be one transaction.
    let place = client.prepare("/* hakem: replica */ select pg_is_in_recovery(), count(*) from t").await.unwrap();
    let count = client.prepare("select count(*) from t").await.unwrap();
    for round in 1..=5_i64 {
        stage.cluster.caught_up().await.unwrap();
        until("a replica to have it all", async || client.query_one(&place, &[]).await.unwrap().get(0)).await.unwrap();
        let (before, after) = (299 + round, 300 + round);
        let read = async || client.query_one(&count, &[]).await.unwrap().get::<_, i64>(0);
        let replica = async || {
            let row = client.query_one(&place, &[]).await.unwrap();
            (row.get::<_, bool>(0), row.get::<_, i64>(1))
        };
        let write = client.execute(&insert, &[&7]);
        let (one, two, three, written, four, five) =
            tokio::join!(replica(), read(), replica(), write, read(), replica());
        assert_eq!((one, two, three, written.unwrap()), ((true, before), before, (true, before), 1));
        assert_eq!((four, five.1), (after, after));
    }
}

#[tokio::test]
async fn pgbench_pipelines() {
    let stage = Setup::replicas(1).with("pool", "size", "2").start().await.unwrap();
    stage.psql("create table t (n int, client int)").await;
    let directory = std::env::temp_dir().join(format!("hakem-pipeline-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let script = directory.join("script.sql");
    std::fs::write(
        &script,
        "\\set n random(1, 100)\n\\startpipeline\nselect :n;\ninsert into t values (:n, :client_id);\nselect count(*) from t;\nbegin;\ninsert into t values (:n, :client_id);\ncommit;\nselect :n;\n\\endpipeline\n",
    )
    .unwrap();
    for protocol in ["extended", "prepared"] {
        let path = script.to_str().unwrap();
        let output =
            stage.run("pgbench", &["-n", "-M", protocol, "-c", "6", "-j", "2", "-t", "40", "-f", path], "").await;
        assert!(output.status.success(), "{protocol}: {output:?}");
        assert!(output.stdout.contains("number of failed transactions: 0 (0.000%)"), "{protocol}: {output:?}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(stage.direct(0, "select count(*) from t").await, "960");
}
