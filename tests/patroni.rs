//! Clusters that Patroni manages, with etcd: its word counts, and it may be away.

use std::path::{Path, PathBuf};

use cluster::{Managed, ManagedOptions};

use crate::harness::{Proxy, Setup, until};

/// A cluster of so many servers, and the setup that knows where its managers are.
async fn managed(members: usize) -> Managed {
    let options = ManagedOptions {
        members,
        patroni: patroni(),
        pace: [20, 1, 3],
        password: Setup::default().cluster.password,
        settings: Vec::new(),
    };
    Managed::start(options).await.unwrap()
}

fn patroni() -> PathBuf {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/patroni-4.1.5/run");
    home.canonicalize().expect("Patroni is missing: run .ci/install test")
}

fn by_etcd(cluster: &Managed) -> Setup {
    Setup::default().with("clusters.local", "etcd", &format!("[{:?}]", cluster.etcd().url())).with(
        "clusters.local",
        "patroni_scope",
        "\"main\"",
    )
}

fn by_patroni(cluster: &Managed) -> Setup {
    let urls: Vec<String> = cluster.members().iter().map(|member| format!("{:?}", member.url())).collect();
    Setup::default().with("clusters.local", "patroni", &format!("[{}]", urls.join(", ")))
}

/// Which of a cluster's servers writes go to.
async fn writer(proxy: &Proxy, cluster: &Managed) -> Option<usize> {
    let states = proxy.series("hakem_node_state").await;
    let is_primary = |port: u16| {
        states.iter().any(|(labels, value)| {
            *value == 1.0 && labels.contains("state=\"primary\"") && labels.contains(&format!(":{port}\""))
        })
    };
    cluster.members().iter().position(|member| is_primary(member.port()))
}

async fn ready(proxy: &Proxy) {
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

    cluster.kill_etcd();
    until("the silence to be noticed", async || proxy.log().contains("the cluster manager does not answer"))
        .await
        .unwrap();
    client.batch_execute("insert into kept values (3)").await.unwrap();
    cluster.start_etcd().await.unwrap();
    (0..2).for_each(|number| cluster.freeze_manager(number, false));
}

fn put_leader(cluster: &Managed, name: &str) {
    let mut command = std::process::Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", &cluster.etcd().url(), "put", "/service/main/leader", name]);
    assert!(command.output().unwrap().status.success());
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
