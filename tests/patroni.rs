//! Clusters that Patroni manages, with etcd: its word counts, and it may be away.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use cluster::{Managed, ManagedOptions};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;

use crate::harness::{Proxy, Setup, until};
use crate::raw::{Raw, value};

/// A cluster of so many servers, and the setup that knows where its managers are.
pub(crate) async fn managed(members: usize) -> Managed {
    Managed::start(options(members)).await.unwrap()
}

pub(crate) fn options(members: usize) -> ManagedOptions {
    ManagedOptions {
        members,
        patroni: patroni(),
        pace: [20, 1, 3],
        password: Setup::default().cluster.password,
        settings: Vec::new(),
        strict: None,
    }
}

fn patroni() -> PathBuf {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/patroni-4.1.5/run");
    home.canonicalize().expect("Patroni is missing: run .ci/install test")
}

pub(crate) fn by_etcd(cluster: &Managed) -> Setup {
    Setup::default().with("clusters.local", "etcd", &format!("[{:?}]", cluster.etcd().url())).with(
        "clusters.local",
        "patroni_scope",
        "\"main\"",
    )
}

pub(crate) fn by_patroni(cluster: &Managed) -> Setup {
    let urls: Vec<String> = cluster.members().iter().map(|member| format!("{:?}", member.url())).collect();
    Setup::default().with("clusters.local", "patroni", &format!("[{}]", urls.join(", ")))
}

fn query(sql: &str) -> Vec<u8> {
    let mut out = Vec::new();
    wire::frontend::put_query(&mut out, sql);
    out
}

/// Which of a cluster's servers writes go to.
pub(crate) async fn writer(proxy: &Proxy, cluster: &Managed) -> Option<usize> {
    let states = proxy.series("hakem_node_state").await;
    let is_primary = |port: u16| {
        states.iter().any(|(labels, value)| {
            *value == 1.0 && labels.contains("state=\"primary\"") && labels.contains(&format!(":{port}\""))
        })
    };
    cluster.members().iter().position(|member| is_primary(member.port()))
}

pub(crate) async fn ready(proxy: &Proxy) {
    until("the program to be ready", async || proxy.page("/ready").await.is_ok_and(|(status, _)| status == 200))
        .await
        .unwrap();
}

/// A switchover is followed by whoever is asked about it, and the client stays.
#[tokio::test]
async fn a_switchover_is_followed() {
    let cluster = managed(2).await;
    let mut proxies = Vec::new();
    for setup in [by_etcd(&cluster), by_patroni(&cluster)] {
        proxies.push(setup.proxy(&cluster).await.unwrap());
    }
    let mut clients = Vec::new();
    for proxy in &proxies {
        ready(proxy).await;
        clients.push(proxy.connect().await);
    }
    let leader = cluster.settled().await.unwrap();
    clients[0].batch_execute("create table kept (n int)").await.unwrap();
    for client in &clients {
        client.batch_execute("insert into kept values (1)").await.unwrap();
    }
    cluster.switchover(leader, 1 - leader).await.unwrap();
    for (client, proxy) in clients.iter().zip(&proxies) {
        client.batch_execute("insert into kept values (2)").await.unwrap();
        assert_eq!(client.value("/* hakem: primary */ select count(*) >= 3 from kept").await.unwrap(), "t");
        assert_eq!(writer(proxy, &cluster).await, Some(1 - leader));
    }
    assert_eq!(cluster.sql(1 - leader, "select count(*) from kept").await.unwrap(), "4");
}

/// The server claims to be the primary, and does not have the leader key: it is written to no more, before anybody else is promoted. And
/// when nobody can be asked about the key, the servers' own words count.
#[tokio::test]
async fn who_has_no_key_gets_no_writes() {
    let mut cluster = managed(2).await;
    let leader = cluster.settled().await.unwrap();
    let proxy = by_etcd(&cluster).with("topology", "failover_timeout", "\"60s\"").proxy(&cluster).await.unwrap();
    ready(&proxy).await;
    let (client, other) = (proxy.connect().await, proxy.connect().await);
    client.batch_execute("create table kept (n int)").await.unwrap();
    other.batch_execute("begin; insert into kept values (1)").await.unwrap();
    // Nobody demotes the server, nor takes the key back.
    (0..2).for_each(|number| cluster.freeze_manager(number, true));
    let holder = cluster.members()[leader].name.clone();
    put_leader(&cluster, &cluster.members()[1 - leader].name);
    until("the old primary to be fenced", async || writer(&proxy, &cluster).await.is_none()).await.unwrap();
    let waiting = client.batch_execute("insert into kept values (2)");
    let meanwhile = async {
        until("one to wait", async || proxy.metric("hakem_node_state", &[("state", "fenced")]).await == 1.0)
            .await
            .unwrap();
        // What was begun there does not end there.
        assert!(other.batch_execute("commit").await.is_err());
        assert_eq!(cluster.sql(leader, "select count(*) from kept").await.unwrap(), "0");
        put_leader(&cluster, &holder);
    };
    let (waited, ()) = tokio::join!(waiting, meanwhile);
    waited.unwrap();
    assert_eq!(cluster.sql(leader, "select n from kept").await.unwrap(), "2");

    // What etcd says of whose servers they are counts, too, and goes on to count when it is silent.
    let system = cluster.sql(leader, "select system_identifier from pg_control_system()").await.unwrap();
    etcdctl(&cluster, &["put", "/service/main/initialize", "7"]);
    until("the servers to be strangers", async || {
        proxy.log().matches("it belongs to another cluster than ours (7)").count() == 2
    })
    .await
    .unwrap();
    assert_eq!(writer(&proxy, &cluster).await, None);
    etcdctl(&cluster, &["put", "/service/main/initialize", &system]);
    until("them to be no strangers", async || writer(&proxy, &cluster).await == Some(leader)).await.unwrap();

    cluster.kill_etcd();
    until("the silence to be noticed", async || proxy.log().contains("the cluster manager does not answer"))
        .await
        .unwrap();
    client.batch_execute("insert into kept values (3)").await.unwrap();
    cluster.start_etcd().await.unwrap();
    (0..2).for_each(|number| cluster.freeze_manager(number, false));
}

pub(crate) fn put_leader(cluster: &Managed, name: &str) {
    etcdctl(cluster, &["put", "/service/main/leader", name]);
}

fn etcdctl(cluster: &Managed, words: &[&str]) {
    assert!(cluster.etcd().control(words).output().unwrap().status.success());
}

/// The whole machine of the primary dies. Its successor is found, and nothing that was acknowledged is lost.
#[tokio::test]
async fn the_primary_dies_with_its_patroni() {
    let mut cluster = managed(3).await;
    let leader = cluster.settled().await.unwrap();
    let proxy = by_etcd(&cluster).with("topology", "failover_timeout", "\"90s\"").proxy(&cluster).await.unwrap();
    ready(&proxy).await;
    let client = proxy.connect().await;
    client.batch_execute("create table kept (n int)").await.unwrap();
    client.batch_execute("insert into kept values (1)").await.unwrap();
    let replicas: Vec<usize> = (0..3).filter(|number| *number != leader).collect();
    for replica in &replicas {
        until("the replicas to have it", async || {
            cluster.sql(*replica, "select count(*) from kept").await.is_ok_and(|count| count == "1")
        })
        .await
        .unwrap();
    }
    cluster.kill(leader).await.unwrap();
    client.batch_execute("insert into kept values (2)").await.unwrap();
    let successor = writer(&proxy, &cluster).await.unwrap();
    assert_ne!(successor, leader);
    assert_eq!(cluster.sql(successor, "select sum(n) from kept").await.unwrap(), "3");
    // Patroni makes a replica of the old one, and it is used again.
    cluster.start_member(leader).unwrap();
    cluster.settled().await.unwrap();
    until("all replicas to be known", async || {
        let states = proxy.series("hakem_node_state").await;
        states.iter().filter(|(labels, value)| *value == 1.0 && labels.contains("state=\"replica\"")).count() == 2
    })
    .await
    .unwrap();
}

/// Servers that are announced join, though the configuration names one of them only; and leave when they are announced no more.
#[tokio::test]
async fn servers_join_and_leave() {
    let mut cluster = managed(3).await;
    let leader = cluster.settled().await.unwrap();
    let one = format!("[\"127.0.0.1:{}\"]", cluster.members()[leader].port());
    let proxy = by_etcd(&cluster).with("clusters.local", "servers", &one).proxy(&cluster).await.unwrap();
    ready(&proxy).await;
    let client = proxy.connect().await;
    client.batch_execute("create table kept (n int); insert into kept values (1)").await.unwrap();
    let replicas = async || {
        let states = proxy.series("hakem_node_state").await;
        states.iter().filter(|(labels, value)| *value == 1.0 && labels.contains("state=\"replica\"")).count()
    };
    until("all servers to be known", async || replicas().await == 2).await.unwrap();
    until("a read on one of them", async || {
        client.value("select n from kept").await.unwrap();
        proxy.metric("hakem_statements_total", &[("to", "replica")]).await > 0.0
    })
    .await
    .unwrap();
    // One that is announced no more is left at once, though it looks in order: nobody would notice what becomes of it.
    let lost = (leader + 2) % 3;
    let mut reader = proxy.connect().await;
    until("a transaction on it", async || {
        // A session keeps to where it has read.
        reader = proxy.connect().await;
        reader.batch_execute("begin read only").await.unwrap();
        reader.batch_execute("select 1").await.unwrap();
        let held = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
        cluster.sql(lost, held).await.unwrap() == "1"
    })
    .await
    .unwrap();
    cluster.freeze_manager(lost, true);
    etcdctl(&cluster, &["del", &format!("/service/main/members/{}", cluster.members()[lost].name)]);
    until("its connections to be cut", async || reader.value("select 1").await.is_err()).await.unwrap();
    cluster.freeze_manager(lost, false);
    until("it to be announced again", async || replicas().await == 2).await.unwrap();
    let gone = (leader + 1) % 3;
    let name = format!("127.0.0.1:{}", cluster.members()[gone].port());
    cluster.kill(gone).await.unwrap();
    until("the dead one to be forgotten", async || {
        !proxy.series("hakem_node_state").await.iter().any(|(labels, _)| labels.contains(&name))
    })
    .await
    .unwrap();
    client.batch_execute("insert into kept values (2)").await.unwrap();
    assert_eq!(client.value("select sum(n) from kept").await.unwrap(), "3");
    // It comes back, and is made use of again.
    cluster.start_member(gone).unwrap();
    until("it to be back", async || replicas().await == 2).await.unwrap();
}

/// Players who write as fast as they can until they are told to stop; what each of them was told is committed, and the errors.
struct Players {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(Vec<i64>, Vec<String>)>>,
}

impl Players {
    /// `transactions`: whether half of them use transactions of three statements.
    async fn start(proxy: &Proxy, transactions: bool) -> Players {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for player in 0..16_i64 {
            let (client, stop) = (proxy.connect().await, stop.clone());
            let in_blocks = transactions && player % 2 == 0;
            tasks.push(tokio::spawn(async move {
                let (mut kept, mut errors) = (Vec::new(), Vec::new());
                let mut number = player * 1_000_000;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let sql = format!("insert into kept values ({number})");
                    let written = match in_blocks {
                        false => client.batch_execute(&sql).await,
                        true => {
                            async {
                                client.batch_execute("begin").await?;
                                client.batch_execute(&sql).await?;
                                client.batch_execute("select count(*) from kept where n < 0").await?;
                                client.batch_execute("commit").await
                            }
                            .await
                        }
                    };
                    match written {
                        Ok(()) => kept.push(number),
                        Err(error) => {
                            errors.push(error.to_string());
                            let _ = client.batch_execute("rollback").await;
                        }
                    }
                }
                (kept, errors)
            }));
        }
        Players { stop, tasks }
    }

    /// Stops them, and compares what they were told with what there is.
    async fn check(self, cluster: &Managed, primary: usize) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut kept, mut errors) = (Vec::new(), Vec::new());
        for task in self.tasks {
            let (of_one, failed) = task.await.unwrap();
            kept.extend(of_one);
            errors.extend(failed);
        }
        assert!(errors.is_empty(), "{errors:?}");
        kept.sort_unstable();
        let there = cluster.sql(primary, "select n from kept order by n").await.unwrap();
        let there: Vec<i64> = there.lines().map(|line| line.parse().unwrap()).collect();
        assert_eq!(kept.len(), there.len());
        assert!(kept == there, "what is there is not what was acknowledged");
        assert!(kept.len() > 16, "nobody has done anything");
    }
}

/// A switchover that is asked for at the console costs nobody anything but time.
#[tokio::test]
async fn a_switchover_by_the_console_fails_nothing() {
    let mut cluster = managed(2).await;
    let setup = by_etcd(&cluster);
    let admin = format!("[{:?}]", setup.cluster.user);
    let proxy = setup.with("console", "admin_users", &admin).proxy(&cluster).await.unwrap();
    ready(&proxy).await;
    let leader = cluster.settled().await.unwrap();
    proxy.connect().await.batch_execute("create table kept (n bigint)").await.unwrap();
    let console = crate::console::console(&proxy).await;
    for (from, to) in [(leader, 1 - leader), (1 - leader, leader)] {
        let players = Players::start(&proxy, true).await;
        let target = format!("127.0.0.1:{}", cluster.members()[to].port());
        console.batch_execute(&format!("SWITCHOVER TO \"{target}\"")).await.unwrap();
        players.check(&cluster, to).await;
        assert_eq!(writer(&proxy, &cluster).await, Some(to));
        cluster.settled().await.unwrap();
        let _ = from;
        proxy.connect().await.batch_execute("truncate kept").await.unwrap();
    }
    for (command, code) in [("SWITCHOVER TO nobody", "42704"), ("SWITCHOVER leader", "42601")] {
        let error = console.batch_execute(command).await.unwrap_err();
        assert_eq!(error.code().map(SqlState::code), Some(code), "{command}");
    }
    // The other one cannot take over.
    let players = Players::start(&proxy, true).await;
    cluster.kill(1 - leader).await.unwrap();
    let target = format!("127.0.0.1:{}", cluster.members()[1 - leader].port());
    let error = console.batch_execute(&format!("SWITCHOVER TO \"{target}\"")).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "55000", "{error}");
    assert!(error.message().starts_with("Patroni will not switch over: 412"), "{error}");
    players.check(&cluster, leader).await;
    assert_eq!(writer(&proxy, &cluster).await, Some(leader));
}

/// The configuration is reloaded before a switchover and in the middle of it: who began before may finish, and nobody else begins on the old
/// primary, nor sends it anything more ahead of the answers that it owes.
#[tokio::test]
async fn a_switchover_across_reloads() {
    let cluster = managed(2).await;
    let admin = format!("[{:?}]", Setup::default().cluster.user);
    let setup =
        by_etcd(&cluster).with("console", "admin_users", &admin).with("topology", "switchover_grace", "\"60s\"");
    let setup = setup.with("auth", "method", "\"trust\"");
    let proxy = setup.proxy(&cluster).await.unwrap();
    ready(&proxy).await;
    let leader = cluster.settled().await.unwrap();
    let (client, waiting) = (proxy.connect().await, proxy.connect().await);
    let console = crate::console::console(&proxy).await;
    let mut ahead = Raw::log_in(&proxy, &setup.cluster.user).await;
    let reload = async |probe_interval: &str| {
        let reloads = || proxy.log().matches("the configuration was reloaded").count();
        let (before, text) =
            (reloads(), setup.clone().with("topology", "probe_interval", probe_interval).text(&cluster));
        std::fs::write(&proxy.config, text).unwrap();
        proxy.signal("HUP");
        until("the configuration to be reloaded", async || reloads() > before).await.unwrap();
    };
    client.batch_execute("create table kept (n bigint)").await.unwrap();
    client.batch_execute("begin; insert into kept values (1)").await.unwrap();
    // Pools are replaced, and then who watches the servers.
    console.batch_execute("SET server_connect_timeout = '9s'").await.unwrap();
    reload("\"90ms\"").await;
    let target = format!("127.0.0.1:{}", cluster.members()[1 - leader].port());
    let asked = format!("SWITCHOVER TO \"{target}\"");
    ahead.query("/* hakem: primary */ select 1").await;
    ahead.say(&query("/* hakem: primary */ select pg_sleep(4)")).await;
    let sleeps = "select count(*) from pg_stat_activity where query like '%pg_sleep(4)' and state = 'active'";
    until("a statement to run", async || cluster.sql(leader, sleeps).await.unwrap() == "1").await.unwrap();
    let finish = async {
        until("the handover to begin", async || proxy.log().contains("writes wait")).await.unwrap();
        ahead.say(&query("/* hakem: primary */ select setting from pg_settings where name = 'port'")).await;
        reload("\"110ms\"").await;
        // Longer than a server takes that is stopped.
        client.batch_execute("select pg_sleep(5)").await.unwrap();
        client.batch_execute("insert into kept values (2)").await.unwrap();
        assert_eq!(cluster.sql(leader, "select count(*) from kept").await.unwrap(), "0", "somebody has not waited");
        client.batch_execute("commit").await.unwrap();
    };
    let written = async {
        until("the handover to begin", async || proxy.log().contains("writes wait")).await.unwrap();
        waiting.batch_execute("insert into kept values (3)").await.unwrap();
    };
    let (switched, (), ()) = tokio::join!(console.batch_execute(&asked), finish, written);
    switched.unwrap();
    assert_eq!(writer(&proxy, &cluster).await, Some(1 - leader));
    assert_eq!(cluster.sql(1 - leader, "select n from kept order by n").await.unwrap(), "1\n2\n3");
    ahead.until_ready().await;
    assert_eq!(value(&ahead.until_ready().await), Some(cluster.members()[1 - leader].port().to_string()));
}

/// One that is asked for elsewhere is announced in etcd: statements wait for it.
#[tokio::test]
async fn a_switchover_by_patroni_fails_no_statement() {
    let cluster = managed(2).await;
    let proxy = by_etcd(&cluster).proxy(&cluster).await.unwrap();
    ready(&proxy).await;
    let leader = cluster.settled().await.unwrap();
    proxy.connect().await.batch_execute("create table kept (n bigint)").await.unwrap();
    let players = Players::start(&proxy, false).await;
    cluster.switchover(leader, 1 - leader).await.unwrap();
    players.check(&cluster, 1 - leader).await;
    // Back again, at a moment that is known beforehand.
    cluster.settled().await.unwrap();
    proxy.connect().await.batch_execute("truncate kept").await.unwrap();
    let pauses = || proxy.log().matches("is handing over").count();
    let (players, before) = (Players::start(&proxy, false).await, pauses());
    let moment = "select to_char(now() at time zone 'utc' + interval '4 s', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')";
    let moment = cluster.sql(1 - leader, moment).await.unwrap();
    cluster.plan_switchover(1 - leader, leader, moment.trim()).await.unwrap();
    until("the moment to come", async || pauses() > before).await.unwrap();
    until("the leader to be another", async || writer(&proxy, &cluster).await == Some(leader)).await.unwrap();
    players.check(&cluster, leader).await;
}
