//! A client that is gone, at whatever byte of whatever it was saying, leaves the pool whole.

use wire::backend::tag;
use wire::frontend;
use wire::startup;

use crate::harness::{Setup, Stage, until};
use crate::raw::{Raw, put_execute, sqlstate, tags, value};

/// How a client goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It closes its socket, as the operating system does for a process that dies.
    Fin,
    /// Its machine resets the connection.
    Reset,
}

/// What a client says at a time, and the message that it waits for before it goes on.
struct Line {
    said: Vec<u8>,
    awaited: u8,
}

fn line(awaited: u8, write: impl FnOnce(&mut Vec<u8>)) -> Line {
    let mut said = Vec::new();
    write(&mut said);
    Line { said, awaited }
}

fn query(sql: &str) -> Line {
    line(tag::READY_FOR_QUERY, |out| frontend::put_query(out, sql))
}

/// A bit of everything.
fn conversation() -> Vec<Line> {
    vec![
        line(tag::READY_FOR_QUERY, |out| startup::put_session(out, [("user", "postgres"), ("database", "postgres")])),
        query("select 1"),
        line(tag::READY_FOR_QUERY, |out| {
            frontend::put_parse(out, b"s", b"insert into t values (1)", &[0, 0]);
            frontend::put_sync(out);
        }),
        line(tag::COMMAND_COMPLETE, |out| {
            frontend::put_parse(out, b"", b"table t", &[0, 0]);
            put_execute(out, "");
            out.extend_from_slice(b"H\0\0\0\x04");
        }),
        line(tag::READY_FOR_QUERY, frontend::put_sync),
        query("begin"),
        query("update t set n = n"),
        line(tag::READY_FOR_QUERY, |out| {
            put_execute(out, "s");
            frontend::put_sync(out);
        }),
        line(tag::COPY_IN_RESPONSE, |out| frontend::put_query(out, "copy t from stdin")),
        line(tag::READY_FOR_QUERY, |out| out.extend_from_slice(b"d\0\0\0\x062\nd\0\0\0\x063\nc\0\0\0\x04")),
        query("commit"),
    ]
}

async fn vanish(raw: Raw, end: End) {
    if end == End::Reset {
        // Without this a reset takes unread bytes.
        let _ = raw.stream.set_zero_linger();
    }
    drop(raw);
}

/// Says the first bytes of the conversation and is gone.
async fn say_and_vanish(stage: &Stage, lines: &[Line], length: usize, end: End) {
    let mut raw = Raw::open(&stage.proxy).await;
    let mut left = length;
    for Line { said, awaited } in lines {
        let now = left.min(said.len());
        raw.say(&said[..now]).await;
        left -= now;
        if now < said.len() || left == 0 {
            break;
        }
        while raw.hear().await.unwrap().tag != *awaited {}
    }
    vanish(raw, end).await;
}

/// Both connections of the pool are free, and good.
async fn whole(first: &mut Raw, second: &mut Raw, after: &str) {
    for client in [&mut *first, &mut *second] {
        client.query("begin").await;
        assert_eq!(value(&client.query("select 7").await).as_deref(), Some("7"), "after {after}");
    }
    for client in [first, second] {
        assert_eq!(tags(&client.query("commit").await), "CZ", "after {after}");
    }
}

async fn nothing_left(stage: &Stage, clients: f64) {
    let open = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()
        and (state like 'idle in transaction%' or state = 'active' and query !~ 'pg_stat_activity|pg_is_in_recovery')";
    until("no transaction to be open", async || stage.direct(0, open).await == "0").await.unwrap();
    let leased = async || stage.proxy.metric("hakem_server_connections", &[("state", "leased")]).await;
    until("no server to be lent", async || leased().await == 0.0).await.unwrap();
    assert!(stage.proxy.metric("hakem_server_connections", &[]).await <= 2.0);
    until("no client to be left", async || stage.proxy.metric("hakem_clients", &[]).await == clients).await.unwrap();
}

#[tokio::test]
async fn a_client_that_vanishes_at_any_byte_leaves_the_pool_whole() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "2");
    let stage = setup.start().await.unwrap();
    stage.psql("create table t (n int)").await;
    let mut first = Raw::log_in(&stage.proxy, "postgres").await;
    let mut second = Raw::log_in(&stage.proxy, "postgres").await;
    let lines = conversation();
    let length: usize = lines.iter().map(|line| line.said.len()).sum();
    // Each end of each line, both ways; each byte within, one way after the other.
    let mut ends = vec![0];
    for line in &lines {
        ends.push(ends[ends.len() - 1] + line.said.len());
    }
    for at in 0..=length {
        let both = [End::Fin, End::Reset];
        let ways = if ends.contains(&at) { &both[..] } else { &both[at % 2..at % 2 + 1] };
        for end in ways {
            say_and_vanish(&stage, &lines, at, *end).await;
            whole(&mut first, &mut second, &format!("{at} bytes of {length}, {end:?}")).await;
        }
    }
    nothing_left(&stage, 2.0).await;
    // Only who has said all of it has left anything: whether the commit was still heard is up to the network.
    let rows: usize = stage.direct(0, "select count(*) from t").await.parse().unwrap();
    assert!(rows <= 6 && rows.is_multiple_of(3), "{rows}");
}

#[tokio::test]
async fn in_session_pooling_too() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let stage = setup.with("pool", "mode", "\"session\"").start().await.unwrap();
    stage.psql("create table t (n int)").await;
    let lines = conversation();
    let mut at = 0;
    for line in &lines {
        for more in [line.said.len() / 2, line.said.len()] {
            for end in [End::Fin, End::Reset] {
                say_and_vanish(&stage, &lines, at + more, end).await;
                let mut next = Raw::log_in(&stage.proxy, "postgres").await;
                let answer = next.query("set work_mem = '7MB'").await;
                assert_eq!(sqlstate(&answer), None, "after {at} and {more} bytes, {end:?}");
                let mut after = Raw::log_in(&stage.proxy, "postgres").await;
                drop(next);
                assert_eq!(value(&after.query("show work_mem").await).as_deref(), Some("4MB"));
            }
        }
        at += line.said.len();
    }
    nothing_left(&stage, 0.0).await;
}

#[tokio::test]
async fn a_client_that_vanishes_while_there_is_no_primary_is_gone() {
    let setup =
        Setup::replicas(0).with("auth", "method", "\"trust\"").with("topology", "failover_timeout", "\"10min\"");
    // Nothing is said to it meanwhile that could not be delivered.
    let mut stage = setup.with("pool", "query_wait_notify", "\"0s\"").start().await.unwrap();
    let mut stays = Raw::log_in(&stage.proxy, "postgres").await;
    stage.cluster.stop(0, cluster::Mode::Immediate).await.unwrap();
    let mut out = Vec::new();
    frontend::put_query(&mut out, "select 5");
    // As much as there is room for, and more.
    let (one, many) = (out.clone(), out.repeat(40_000 / out.len()));
    for (said, end) in [(&one, End::Fin), (&one, End::Reset), (&many, End::Fin), (&many, End::Reset)] {
        let mut goes = Raw::open(&stage.proxy).await;
        let mut packet = Vec::new();
        startup::put_session(&mut packet, [("user", "postgres"), ("database", "postgres")]);
        // What is to be told of the server is remembered for a while; the request is not, and waits.
        goes.say(&packet).await;
        goes.say(said).await;
        until("it to be there", async || stage.proxy.metric("hakem_clients", &[]).await == 2.0).await.unwrap();
        vanish(goes, end).await;
        until("it to be gone", async || stage.proxy.metric("hakem_clients", &[]).await == 1.0).await.unwrap();
    }
    stays.say(&out).await;
    stage.cluster.start_node(0).await.unwrap();
    assert_eq!(value(&stays.until_ready().await).as_deref(), Some("5"));
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_no_server_longer_than_it_must() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let user = "[[users]]\nname = \"timed\"\npassword = \"x\"\nserver_user = \"postgres\"\nserver_password = \"hakem\"\nquery_timeout = \"500ms\"";
    let stage = setup.and(user).start().await.unwrap();
    let leased = async || stage.proxy.metric("hakem_server_connections", &[("state", "leased")]).await;
    let mut reader = Raw::log_in(&stage.proxy, "postgres").await;
    let before = stage.proxy.memory_kb("VmHWM");

    // An answer that fits into buffers: the server is free before anybody has read it.
    let mut lazy = Raw::log_in(&stage.proxy, "postgres").await;
    let mut out = Vec::new();
    frontend::put_query(&mut out, "select repeat('x', 100000)");
    lazy.say(&out).await;
    assert_eq!(value(&reader.query("select 1").await).as_deref(), Some("1"));
    until("the server to be free", async || leased().await == 0.0).await.unwrap();
    assert_eq!(tags(&lazy.until_ready().await), "TDCZ");

    // One that does not: its server waits for it, and the proxy keeps no more of it than its buffers hold.
    let mut out = Vec::new();
    frontend::put_query(&mut out, "select repeat('x', 1000) from generate_series(1, 200000)");
    lazy.say(&out).await;
    let blocked = "select count(*) from pg_stat_activity where wait_event = 'ClientWrite'";
    until("the server to wait", async || stage.direct(0, blocked).await == "1").await.unwrap();
    assert_eq!(leased().await, 1.0);
    let after = stage.proxy.memory_kb("VmHWM");
    assert!(after < before + 32 * 1024, "{before} kB before, {after} kB now");
    // Read at last, it is all there.
    let answer = lazy.until_ready().await;
    assert_eq!(answer.len(), 200_003);
    until("the server to be free", async || leased().await == 0.0).await.unwrap();

    // And there is an end to it where one is set.
    let mut timed = Raw::log_in(&stage.proxy, "timed").await;
    timed.say(&out).await;
    let ended = [("timeout", "query_timeout")];
    let ended = async || stage.proxy.metric("hakem_timeouts_total", &ended).await;
    until("its time to be up", async || ended().await == 1.0).await.unwrap();
    nothing_left(&stage, 2.0).await;
}
