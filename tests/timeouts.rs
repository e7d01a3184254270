//! What a client has time for, what it is told when that is up, and that nothing of it is left on a server.

use std::time::Duration;

use wire::backend::{Report, tag};
use wire::frontend;

use crate::harness::{Setup, Stage, until};
use crate::raw::{Message, Raw, sqlstate, tags, value};

/// One server connection for everybody, and users who have less time than others.
async fn stage(users: &[(&str, &str)]) -> Stage {
    let mut setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    for (name, keys) in users {
        setup = setup.and(&format!("[[users]]\nname = \"{name}\"\npassword = \"x\"\nserver_user = \"postgres\"\nserver_password = \"hakem\"\n{keys}"));
    }
    setup.start().await.unwrap()
}

/// The rest of what a client hears, which must end in this.
async fn ends(raw: &mut Raw, code: &str, text: &str) {
    let mut heard = Vec::new();
    while let Some(message) = raw.hear().await {
        heard.push(message);
    }
    let Some(Message { tag: tag::ERROR_RESPONSE, body }) = heard.last() else { panic!("no error: {heard:?}") };
    let report = Report::new(body);
    assert_eq!((report.sqlstate().unwrap().as_str(), report.message().as_str()), (code, text));
    assert!(report.is_fatal());
}

fn query(sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::put_query(&mut out, sql);
    out
}

/// Waits until no session on the server does, or has left open, anything.
async fn at_rest(stage: &Stage) {
    let busy = "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()
        and (state like 'idle in transaction%' or query like '%pg_sleep(600)%' and state = 'active')";
    until("the servers to be at rest", async || stage.direct(0, busy).await == "0").await.unwrap();
    let leased = async || stage.proxy.metric("hakem_server_connections", &[("state", "leased")]).await;
    until("every server to be let go", async || leased().await == 0.0).await.unwrap();
}

#[tokio::test]
async fn each_timeout_ends_its_client_and_what_it_left_behind() {
    // Time enough for what is quick, on a machine with other things to do.
    let stage = stage(&[
        ("query", "query_timeout = \"1s\""),
        ("idle", "idle_transaction_timeout = \"1s\""),
        ("transaction", "transaction_timeout = \"1s\""),
        ("client", "client_idle_timeout = \"3s\""),
    ])
    .await;
    stage.psql("create table t (n int primary key); insert into t values (1)").await;
    let mut patient = Raw::log_in(&stage.proxy, "postgres").await;

    // Everything that was flushed has been answered, and no Sync comes.
    let mut raw = Raw::log_in(&stage.proxy, "idle").await;
    let mut out = Vec::new();
    frontend::put_parse(&mut out, b"", b"update t set n = 1", &[0, 0]);
    crate::raw::put_execute(&mut out, "");
    out.extend_from_slice(b"H\0\0\0\x04");
    raw.say(&out).await;
    for expected in ["1", "2", "C"] {
        assert_eq!(tags(&[raw.hear().await.unwrap()]), expected);
    }
    ends(&mut raw, "25P03", "idle transaction timeout").await;
    at_rest(&stage).await;

    // A statement that takes too long, alone, in a transaction, and by the extended protocol.
    for statements in [&["select pg_sleep(600)"][..], &["begin", "update t set n = 1", "select pg_sleep(600)"]] {
        let mut raw = Raw::log_in(&stage.proxy, "query").await;
        let (last, first) = statements.split_last().unwrap();
        for statement in first {
            assert_eq!(sqlstate(&raw.query(statement).await), None);
        }
        raw.say(&query(last)).await;
        ends(&mut raw, "57014", "query_timeout").await;
        at_rest(&stage).await;
    }
    let mut raw = Raw::log_in(&stage.proxy, "query").await;
    raw.prepare("s", "select pg_sleep(600)").await;
    let mut out = Vec::new();
    crate::raw::put_execute(&mut out, "s");
    frontend::put_sync(&mut out);
    raw.say(&out).await;
    ends(&mut raw, "57014", "query_timeout").await;
    at_rest(&stage).await;
    // One that takes less is not timed by what came before.
    let mut raw = Raw::log_in(&stage.proxy, "query").await;
    for _ in 0..5 {
        assert_eq!(sqlstate(&raw.query("select pg_sleep(0.25)").await), None);
    }

    // Silence in a transaction, whether the server knows of it yet or not.
    for statements in [&["begin"][..], &["begin", "update t set n = 1"], &["begin", "select 1/0"]] {
        let mut raw = Raw::log_in(&stage.proxy, "idle").await;
        for statement in statements {
            raw.query(statement).await;
        }
        ends(&mut raw, "25P03", "idle transaction timeout").await;
        at_rest(&stage).await;
    }
    let mut raw = Raw::log_in(&stage.proxy, "idle").await;
    raw.query("begin").await;
    assert_eq!(tags(&raw.query("select pg_sleep(1.5)").await), "TDCZ", "what works is not idle");
    raw.query("commit").await;

    // A transaction that never ends, though nothing in it takes long.
    let mut raw = Raw::log_in(&stage.proxy, "transaction").await;
    raw.query("begin").await;
    loop {
        raw.say(&query("update t set n = 1")).await;
        let mut heard = Vec::new();
        while let Some(message) = raw.hear().await {
            let ready = message.tag == tag::READY_FOR_QUERY;
            heard.push(message);
            if ready {
                break;
            }
        }
        if let Some(code) = sqlstate(&heard) {
            assert_eq!(code, "25P04", "{heard:?}");
            assert_eq!(Report::new(&heard.last().unwrap().body).message(), "transaction timeout");
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    at_rest(&stage).await;
    let mut raw = Raw::log_in(&stage.proxy, "transaction").await;
    raw.query("begin").await;
    raw.query("select pg_sleep(0)").await;
    ends(&mut raw, "25P04", "transaction timeout").await;
    at_rest(&stage).await;

    // A client without a wish; one in a transaction is not such.
    let mut raw = Raw::log_in(&stage.proxy, "client").await;
    assert_eq!(value(&raw.query("select 1").await).as_deref(), Some("1"));
    raw.query("begin").await;
    // Whichever worker looks at its clients first: the second of two that came later has been looked at after the one in its transaction.
    for _ in 0..2 {
        let mut other = Raw::log_in(&stage.proxy, "client").await;
        ends(&mut other, "57P05", "client_idle_timeout").await;
    }
    assert_eq!(value(&raw.query("select 2").await).as_deref(), Some("2"));
    raw.query("commit").await;
    ends(&mut raw, "57P05", "client_idle_timeout").await;

    for (timeout, ended) in [("query", 3.0), ("idle_transaction", 4.0), ("transaction", 2.0), ("client_idle", 3.0)] {
        let ended_by = [("timeout", &*format!("{timeout}_timeout"))];
        assert_eq!(stage.proxy.metric("hakem_timeouts_total", &ended_by).await, ended, "{timeout}");
    }
    // Who has none is none the worse.
    assert_eq!(value(&patient.query("select n from t").await).as_deref(), Some("1"));
}

#[tokio::test]
async fn who_waits_for_a_server_is_told_and_may_leave() {
    let mut setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    setup = setup.with("pool", "query_wait_notify", "\"100ms\"");
    let stage = setup.start().await.unwrap();
    let mut holder = Raw::log_in(&stage.proxy, "postgres").await;
    holder.query("begin").await;
    holder.query("select 1").await;
    let waiting = async || stage.proxy.metric("hakem_clients_waiting", &[]).await;

    let mut waiter = Raw::log_in(&stage.proxy, "postgres").await;
    waiter.say(&query("select 7")).await;
    let notice = waiter.hear().await.unwrap();
    assert_eq!(notice.tag, tag::NOTICE_RESPONSE);
    assert_eq!(
        Report::new(&notice.body).message(),
        "No server connection available in postgres backend, client being queued"
    );

    // Two that give up, one with a farewell and one without: neither is served later.
    for farewell in [true, false] {
        let mut gone = Raw::log_in(&stage.proxy, "postgres").await;
        gone.say(&query("create table ghost (n int)")).await;
        until("it to wait", async || waiting().await == 2.0).await.unwrap();
        if !farewell {
            gone.stream.set_zero_linger().unwrap();
        }
        drop(gone);
        until("it to have left the queue", async || waiting().await == 1.0).await.unwrap();
    }
    holder.query("commit").await;
    let answer = waiter.until_ready().await;
    assert_eq!((tags(&answer).as_str(), value(&answer).as_deref()), ("TDCZ", Some("7")));
    assert_eq!(stage.direct(0, "select to_regclass('ghost') is null").await, "t");
}
