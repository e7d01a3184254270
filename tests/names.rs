//! Servers that are known by names, which lead elsewhere in time, and to several at once.

use std::path::PathBuf;

use cluster::{Cluster, Mode};
use tokio_postgres::error::SqlState;

use crate::harness::{Proxy, Setup, until};
use crate::tap::Tap;

/// A cluster whose servers are behind a port of the same number at an address of each, and what names they have.
struct Place {
    cluster: Cluster,
    taps: Vec<Tap>,
    hosts: PathBuf,
    setup: Setup,
}

impl Place {
    async fn new() -> Place {
        let mut setup = Setup::replicas(1);
        setup.cluster.synchronous = false;
        let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
        let mut taps = vec![Tap::open_at("127.0.0.2:0").await];
        taps.push(Tap::open_at(&format!("127.0.0.3:{}", taps[0].address.port())).await);
        for (tap, node) in taps.iter().zip(cluster.nodes()) {
            tap.lead_to(format!("{}:{}", node.host(), node.port()).parse().unwrap());
        }
        let hosts = cluster.directory().join("hosts");
        setup.hosts = Some(hosts.clone());
        Place { cluster, taps, hosts, setup }
    }

    /// What each name leads to.
    fn lead(&self, names: &[(&str, &[u8])]) {
        let line = |name: &str, last: &u8| format!("127.0.0.{last} {name}\n");
        let lines = names.iter().flat_map(|(name, to)| to.iter().map(|last| line(name, last)));
        std::fs::write(&self.hosts, lines.collect::<String>()).unwrap();
    }

    async fn proxy(&self, names: &[&str]) -> Proxy {
        let port = self.taps[0].address.port();
        let servers: Vec<String> = names.iter().map(|name| format!("\"{name}:{port}\"")).collect();
        let setup = self.setup.clone().with("clusters.local", "servers", &format!("[{}]", servers.join(", ")));
        setup.proxy(&self.cluster).await.unwrap()
    }
}

async fn until_written(proxy: &Proxy, sql: &str) {
    until("a write to succeed", async || {
        let client = proxy.connect().await;
        client.batch_execute(sql).await.is_ok()
    })
    .await
    .unwrap();
}

/// The endpoint of a managed database after a failover: what it led to lives on, and would still take writes.
#[tokio::test]
async fn a_name_is_followed() {
    let place = Place::new().await;
    place.lead(&[("db.test", &[2])]);
    let proxy = place.proxy(&["db.test"]).await;
    until_written(&proxy, "create table kept (n int)").await;
    let client = proxy.connect().await;
    client.batch_execute("insert into kept values (1)").await.unwrap();
    place.cluster.caught_up().await.unwrap();
    place.cluster.sql(1, "select pg_promote()").await.unwrap();
    place.lead(&[("db.test", &[3])]);
    until("writes to arrive there", async || {
        // One that is under way when the connection is ended may have been done.
        if let Some(failure) = client.failure("insert into kept values (2)").await {
            assert_eq!(failure, SqlState::TRANSACTION_RESOLUTION_UNKNOWN);
        }
        place.cluster.sql(1, "select count(*) > 0 from kept where n = 2").await.unwrap() == "t"
    })
    .await
    .unwrap();
    // None more arrives at the old one.
    let before = place.cluster.sql(0, "select count(*) from kept").await.unwrap();
    for _ in 0..20 {
        client.batch_execute("insert into kept values (3)").await.unwrap();
    }
    assert_eq!(place.cluster.sql(1, "select count(*) from kept where n = 3").await.unwrap(), "20");
    assert_eq!(place.cluster.sql(0, "select count(*) from kept").await.unwrap(), before);
    // And where a name has been taken away, what is known of it stands.
    place.lead(&[]);
    client.batch_execute("insert into kept values (4)").await.unwrap();
}

/// One name for whoever is the primary and one for all of them, as an operator of Kubernetes makes them.
#[tokio::test]
async fn several_names_of_one_server_are_no_split_brain() {
    let mut place = Place::new().await;
    place.lead(&[("rw.test", &[2]), ("r.test", &[2, 3])]);
    let proxy = place.proxy(&["rw.test", "r.test"]).await;
    until_written(&proxy, "create table kept (n int)").await;
    let client = proxy.connect().await;
    for n in 0..20 {
        client.batch_execute(&format!("insert into kept values ({n})")).await.unwrap();
        assert_eq!(client.value("select max(n) from kept").await.unwrap(), n.to_string());
    }
    // Another has become the primary, and the names are made to follow it.
    place.cluster.caught_up().await.unwrap();
    place.cluster.stop(0, Mode::Fast).await.unwrap();
    place.cluster.promote_best().await.unwrap();
    place.lead(&[("rw.test", &[3]), ("r.test", &[3])]);
    client.batch_execute("insert into kept values (20)").await.unwrap();
    assert_eq!(client.value("select count(*) from kept").await.unwrap(), "21");
}
