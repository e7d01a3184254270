//! Cancel requests reach the query that they are meant for, or none.

use cluster::Cluster;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use wire::backend::{self, tag};
use wire::frontend;
use wire::startup::{self, CancelKey};

use crate::harness::{Proxy, Setup, Stage, until};
use crate::raw::{Message, Raw, sqlstate, tags};
use crate::tap::Tap;

/// A proxy that reaches its server through a tap. Nobody needs a password.
struct Tapped {
    tap: Tap,
    proxy: Proxy,
    cluster: Cluster,
}

async fn tapped(setup: Setup) -> Tapped {
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let tap = Tap::to(&cluster).await;
    let setup = setup.with("clusters.local", "servers", &tap.servers()).with("auth", "method", "\"trust\"");
    let proxy = setup.proxy(&cluster).await.unwrap();
    Tapped { tap, proxy, cluster }
}

/// The key that a session was given, and its answer to the login.
async fn keyed(proxy: &Proxy) -> (Raw, CancelKey) {
    let mut raw = Raw::open(proxy).await;
    let mut packet = Vec::new();
    startup::put_session(&mut packet, [("user", "postgres"), ("database", "postgres")]);
    raw.say(&packet).await;
    let answer = raw.until_ready().await;
    let key = answer.iter().find(|message| message.tag == tag::BACKEND_KEY_DATA).unwrap();
    let key = backend::backend_key_data(&key.body).unwrap();
    (raw, key)
}

async fn send(proxy: &Proxy, key: &CancelKey) -> Raw {
    let mut raw = Raw::open(proxy).await;
    let mut packet = Vec::new();
    startup::put_cancel(&mut packet, key);
    raw.say(&packet).await;
    raw
}

async fn ask(raw: &mut Raw, sql: &str) {
    let mut out = Vec::new();
    frontend::put_query(&mut out, sql);
    raw.say(&out).await;
}

/// Takes until [`wake`].
const NAP: &str = "do $$ begin while not exists (select from awake) loop perform pg_sleep(0.01); end loop; end $$";

/// Begins a nap, for the first time on this cluster.
async fn nap(raw: &mut Raw, cluster: &Cluster) {
    cluster.sql(0, "create table awake ()").await.unwrap();
    ask(raw, NAP).await;
    until("it to sleep", async || running(cluster, NAP).await == 1).await.unwrap();
}

async fn wake(cluster: &Cluster) {
    cluster.sql(0, "insert into awake default values").await.unwrap();
}

async fn running(cluster: &Cluster, sql: &str) -> usize {
    let count = format!("select count(*) from pg_stat_activity where query = '{sql}' and state = 'active'");
    cluster.sql(0, &count).await.unwrap().parse().unwrap()
}

fn cancelled(answer: &[Message]) -> bool {
    sqlstate(answer).as_deref() == Some("57014")
}

#[tokio::test]
async fn a_late_cancel_does_not_hit_who_comes_next() {
    let Tapped { tap, proxy, cluster } = tapped(Setup::replicas(0).with("pool", "size", "1")).await;
    let ((mut first, key), (mut second, _)) = (keyed(&proxy).await, keyed(&proxy).await);
    nap(&mut first, &cluster).await;
    tap.hold(true);
    let mut request = send(&proxy, &key).await;
    until("the request to be on its way", async || tap.cancels() == 1).await.unwrap();
    // The query ends before the request arrives. Whoever comes next would be hit by it.
    wake(&cluster).await;
    assert!(!cancelled(&first.until_ready().await));
    ask(&mut second, "select pg_backend_pid(), pg_sleep(0.1)").await;
    let waiting = async || proxy.metric("hakem_clients_waiting", &[]).await == 1.0;
    until("the next one to wait for the only server", waiting).await.unwrap();
    tap.hold(false);
    let answer = second.until_ready().await;
    assert_eq!(tags(&answer), "TDCZ", "{answer:?}");
    assert_eq!(request.hear().await, None);
    // The server was kept: its connection is still the only one.
    assert_eq!(proxy.metric("hakem_server_connections", &[]).await, 1.0);
    assert_eq!(tags(&first.query("select 1").await), "TDCZ");
}

#[tokio::test]
async fn a_server_is_not_lent_again_while_a_cancel_may_still_come() {
    let setup = Setup::replicas(0).with("pool", "size", "1").with("proxy", "cancel_wait_timeout", "\"300ms\"");
    let Tapped { tap, proxy, cluster } = tapped(setup).await;
    let ((mut first, key), (mut second, _)) = (keyed(&proxy).await, keyed(&proxy).await);
    let backend = crate::raw::value(&first.query("begin; select pg_backend_pid()").await).unwrap();
    tap.hold(true);
    let _request = send(&proxy, &key).await;
    until("the request to be on its way", async || tap.cancels() == 1).await.unwrap();
    first.query("commit").await;
    // Nobody knows when it will arrive: the connection is closed, and the next client gets another one.
    let other = crate::raw::value(&second.query("select pg_backend_pid()").await).unwrap();
    assert_ne!(backend, other);
    let count = format!("select count(*) from pg_stat_activity where pid = {backend}");
    until("its server process to end", async || cluster.sql(0, &count).await.unwrap() == "0").await.unwrap();
}

#[tokio::test]
async fn cancels_that_race_hit_only_their_own() {
    let stage = Setup::replicas(0).with("pool", "size", "2").start().await.unwrap();
    let (hunted, bystander) = (stage.connect().await, stage.connect().await);
    let token = hunted.cancel_token();
    let mut hits = 0;
    for round in 0..150_u32 {
        let nap = format!("select pg_sleep({})", f64::from(round % 5) * 0.001);
        let cancel = async {
            tokio::time::sleep(std::time::Duration::from_micros(u64::from(round % 7) * 700)).await;
            token.cancel_query(NoTls).await.unwrap();
        };
        let bystanding = async {
            for _ in 0..3 {
                assert_eq!(bystander.failure("select pg_sleep(0.001)").await, None, "round {round}");
            }
        };
        let (failure, (), ()) = tokio::join!(hunted.failure(&nap), cancel, bystanding);
        match failure {
            None => {}
            Some(code) => {
                assert_eq!(code, SqlState::QUERY_CANCELED);
                hits += 1;
            }
        }
    }
    assert!(hits > 0, "none was ever in time");
}

#[tokio::test]
async fn who_waits_in_the_queue_is_called_back() {
    let setup = Setup::replicas(0).with("pool", "size", "1").with("auth", "method", "\"trust\"");
    let stage: Stage = setup.start().await.unwrap();
    let ((mut holder, _), (mut waiter, key)) = (keyed(&stage.proxy).await, keyed(&stage.proxy).await);
    holder.query("begin; select 1").await;
    ask(&mut waiter, "select 2").await;
    let waiting = async |count: f64| stage.proxy.metric("hakem_clients_waiting", &[]).await == count;
    until("it to wait", async || waiting(1.0).await).await.unwrap();
    assert_eq!(send(&stage.proxy, &key).await.hear().await, None);
    let answer = waiter.until_ready().await;
    assert_eq!((sqlstate(&answer).as_deref(), tags(&answer).as_str()), (Some("57014"), "EZ"), "{answer:?}");
    until("its place to be free", async || waiting(0.0).await).await.unwrap();
    holder.query("commit").await;
    assert_eq!(tags(&waiter.query("select 3").await), "TDCZ");
}

#[tokio::test]
async fn who_was_refused_in_the_queue_has_nothing_to_cancel() {
    let setup = Setup::replicas(0).with("pool", "size", "1").with("auth", "method", "\"trust\"");
    let stage: Stage = setup.clone().start().await.unwrap();
    let ((mut holder, _), (mut waiter, key)) = (keyed(&stage.proxy).await, keyed(&stage.proxy).await);
    holder.query("begin; select 1").await;
    setup.clone().with("pool", "query_wait_timeout", "\"200ms\"").reload(&stage).await.unwrap();
    assert_eq!(tags(&waiter.query("select 2").await), "EZ");
    send(&stage.proxy, &key).await.hear().await;
    // It waits again, and is not cancelled this time.
    setup.reload(&stage).await.unwrap();
    ask(&mut waiter, "select 3").await;
    until("it to wait", async || stage.proxy.metric("hakem_clients_waiting", &[]).await == 1.0).await.unwrap();
    holder.query("commit").await;
    let answer = waiter.until_ready().await;
    assert_eq!(tags(&answer), "TDCZ", "{answer:?}");
}

#[tokio::test]
async fn idle_sessions_and_transactions() {
    let stage: Stage = Setup::replicas(0).with("auth", "method", "\"trust\"").start().await.unwrap();
    let (mut raw, key) = keyed(&stage.proxy).await;
    // Idle outside of a transaction, and inside: nothing happens, now or later.
    send(&stage.proxy, &key).await.hear().await;
    assert_eq!(tags(&raw.query("begin").await), "CZ");
    raw.query("select 1").await;
    send(&stage.proxy, &key).await.hear().await;
    assert_eq!(tags(&raw.query("select 1").await), "TDCZ");
    // At work inside of one: the statement fails, the transaction with it, the connection lives.
    let nap = "select pg_sleep(600)";
    ask(&mut raw, nap).await;
    until("it to sleep", async || running(&stage.cluster, nap).await == 1).await.unwrap();
    send(&stage.proxy, &key).await.hear().await;
    let answer = raw.until_ready().await;
    assert!(cancelled(&answer), "{answer:?}");
    assert_eq!(answer.last().unwrap().body, b"E");
    assert_eq!(tags(&raw.query("rollback").await), "CZ");
    assert_eq!(tags(&raw.query("select 1").await), "TDCZ");
}

#[tokio::test]
async fn what_runs_on_a_replica_is_cancelled_there() {
    let setup = Setup::replicas(1).with("auth", "method", "\"trust\"").with("routing", "max_lag", "\"1h\"");
    let stage: Stage = setup.start().await.unwrap();
    let (mut raw, key) = keyed(&stage.proxy).await;
    let long = "select count(*) from generate_series(1, 100000000000)";
    ask(&mut raw, long).await;
    let count = format!("select count(*) from pg_stat_activity where query = '{long}' and state = 'active'");
    until("it to run", async || stage.direct(1, &count).await == "1").await.unwrap();
    send(&stage.proxy, &key).await.hear().await;
    let answer = raw.until_ready().await;
    assert!(cancelled(&answer), "{answer:?}");
    assert_eq!(stage.direct(1, &count).await, "0");
    assert_eq!(tags(&raw.query("select 1").await), "TDCZ");
}

#[tokio::test]
async fn a_storm_of_cancels_is_bounded() {
    let Tapped { tap, proxy, cluster } = tapped(Setup::replicas(0)).await;
    let (mut raw, key) = keyed(&proxy).await;
    let nap = "select pg_sleep(600) as storm";
    ask(&mut raw, nap).await;
    until("it to sleep", async || running(&cluster, nap).await == 1).await.unwrap();
    tap.hold(true);
    let mut requests = Vec::new();
    for _ in 0..200 {
        requests.push(send(&proxy, &key).await);
    }
    // All but two are answered, which is by closing.
    until("the others to be answered", async || {
        let mut open = Vec::new();
        for mut request in requests.drain(..) {
            match tokio::time::timeout(std::time::Duration::from_millis(20), request.hear()).await {
                Ok(heard) => assert_eq!(heard, None),
                Err(_) => open.push(request),
            }
        }
        requests = open;
        requests.len() <= 2
    })
    .await
    .unwrap();
    until("two to be sent on", async || tap.cancels() >= 2).await.unwrap();
    assert_eq!((requests.len(), tap.cancels()), (2, 2));
    tap.hold(false);
    assert!(cancelled(&raw.until_ready().await));
    assert_eq!(tags(&raw.query("select 1").await), "TDCZ");
}

#[tokio::test]
async fn a_server_without_keys_can_be_used_and_not_cancelled() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"");
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let tap = Tap::to(&cluster).await;
    tap.change(Some(|tag, whole| if tag == tag::BACKEND_KEY_DATA { Vec::new() } else { whole.to_vec() }));
    let proxy = setup.with("clusters.local", "servers", &tap.servers()).proxy(&cluster).await.unwrap();
    let (mut raw, key) = keyed(&proxy).await;
    nap(&mut raw, &cluster).await;
    assert_eq!(send(&proxy, &key).await.hear().await, None);
    wake(&cluster).await;
    assert_eq!(tags(&raw.until_ready().await), "CZ");
    assert_eq!(tap.cancels(), 0);
}

#[tokio::test]
async fn what_a_vanished_client_left_running_is_cancelled() {
    let stage: Stage = Setup::replicas(0).with("auth", "method", "\"trust\"").start().await.unwrap();
    for extended in [false, true] {
        let (mut raw, _) = keyed(&stage.proxy).await;
        let nap = format!("select pg_sleep(600) as gone_{extended}");
        if extended {
            let mut out = Vec::new();
            frontend::put_parse(&mut out, b"", nap.as_bytes(), &[0, 0]);
            crate::raw::put_execute(&mut out, "");
            frontend::put_sync(&mut out);
            raw.say(&out).await;
        } else {
            ask(&mut raw, &nap).await;
        }
        until("it to sleep", async || running(&stage.cluster, &nap).await == 1).await.unwrap();
        drop(raw);
        until("it to be woken", async || running(&stage.cluster, &nap).await == 0).await.unwrap();
        let leased = async || stage.proxy.metric("hakem_server_connections", &[("state", "leased")]).await;
        until("its server to be let go", async || leased().await == 0.0).await.unwrap();
    }
}

#[tokio::test]
async fn secrets_are_not_logged() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("log", "level", "\"trace\"");
    let stage: Stage = setup.start().await.unwrap();
    let (mut raw, key) = keyed(&stage.proxy).await;
    let nap = "select pg_sleep(600)";
    ask(&mut raw, nap).await;
    until("it to sleep", async || running(&stage.cluster, nap).await == 1).await.unwrap();
    send(&stage.proxy, &key).await.hear().await;
    assert!(cancelled(&raw.until_ready().await));
    is_not_in(&stage.proxy.log(), &key.secret);
}

/// No part of a key's secret is in the log, whatever it may have been written as.
pub(crate) fn is_not_in(log: &str, secret: &[u8]) {
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "everything is logged");
    let (parts, rest) = secret.as_chunks::<4>();
    assert!(!parts.is_empty() && rest.is_empty(), "the secret of a key");
    for part in parts {
        let (number, list) = (u32::from_be_bytes(*part), format!("{part:?}"));
        let forms =
            [format!("{number}"), format!("{}", number.cast_signed()), format!("{number:x}"), format!("{number:X}")];
        for form in forms.iter().map(String::as_str).chain([list.trim_matches(['[', ']'])]) {
            assert!(!log.contains(form), "{form} is in the log");
        }
        if !part.is_ascii() {
            let escaped = part.escape_ascii().to_string();
            assert!(!log.contains(&escaped), "{escaped} is in the log");
        }
    }
}
