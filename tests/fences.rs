//! Servers that must not be written to: not one row is on a wrong one.
//!
//! What there is is read on each server itself, behind the program's back. Replication is asynchronous, so that a write that went to a
//! wrong server would be there for all to see instead of waiting for a replica.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use cluster::Cluster;
use futures_util::future::join_all;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use crate::harness::{Client, Proxy, Setup, Stage, code, until};
use crate::patroni::{by_etcd, managed, ready, writer};

const CLIENTS: i64 = 6;

fn setup(replicas: usize) -> Setup {
    let mut setup = Setup::replicas(replicas).with("pool", "size", "4");
    setup.cluster.synchronous = false;
    setup
}

async fn start(setup: Setup) -> Stage {
    let stage = setup.start().await.unwrap();
    stage.psql("create table kept (n bigint)").await;
    stage.ready().await.unwrap();
    stage.cluster.caught_up().await.unwrap();
    stage
}

/// The rows that a server itself shows.
async fn rows(cluster: &Cluster, node: usize) -> BTreeSet<i64> {
    let text = cluster.sql(node, "select n from kept").await.unwrap();
    let rows: Vec<i64> = text.lines().map(|line| line.parse().unwrap()).collect();
    let set: BTreeSet<i64> = rows.iter().copied().collect();
    assert_eq!(set.len(), rows.len(), "something was written twice");
    set
}

/// Writes one row for each of the clients, by either protocol; each one's error.
async fn write(clients: &[Client], from: i64) -> Vec<Option<SqlState>> {
    join_all(clients.iter().zip(from..).map(|(client, n)| async move {
        let written = match n % 2 {
            0 => client.batch_execute(&format!("insert into kept values ({n})")).await,
            _ => client.execute("insert into kept values ($1)", &[&n]).await.map(drop),
        };
        written.err().map(|error| code(&error))
    }))
    .await
}

async fn in_state(proxy: &Proxy, cluster: &Cluster, node: usize, state: &str) {
    let name = format!(":{}\"", cluster.nodes()[node].port());
    until(&format!("node {node} to be {state}"), async || {
        let states = proxy.series("hakem_node_state").await;
        let label = format!("state=\"{state}\"");
        states.iter().any(|(labels, value)| *value == 1.0 && labels.contains(&name) && labels.contains(&label))
    })
    .await
    .unwrap();
}

/// The whole machine of the primary stands still while another takes over, and wakes up.
#[tokio::test]
async fn a_primary_that_slept_through_a_failover() {
    // Whoever waits for a connection to the sleeper must not wait for that.
    let mut stage = start(setup(2).with("pool", "server_connect_timeout", "\"10min\"")).await;
    let clients = join_all((0..CLIENTS).map(|_| stage.connect())).await;
    assert!(write(&clients, 0).await.iter().all(Option::is_none));
    stage.cluster.caught_up().await.unwrap();
    let open = stage.connect().await;
    open.batch_execute("begin; insert into kept values (1000)").await.unwrap();

    stage.cluster.freeze(0).await.unwrap();
    let Stage { cluster, proxy } = &mut stage;
    let failover = async {
        in_state(proxy, cluster, 0, "unreachable").await;
        cluster.promote_best().await.unwrap()
    };
    let (in_flight, new) = tokio::join!(write(&clients, 100), failover);
    // Some were sent to the sleeper, and some waited.
    for failure in &in_flight {
        assert!(matches!(failure, None | Some(SqlState::TRANSACTION_RESOLUTION_UNKNOWN)), "{failure:?}");
    }
    assert!(write(&clients, 200).await.iter().all(Option::is_none));
    assert_eq!(open.failure("commit").await, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    open.batch_execute("rollback").await.unwrap();

    cluster.thaw(0);
    let (later, ()) = tokio::join!(write(&clients, 300), in_state(proxy, cluster, 0, "fenced"));
    assert!(later.iter().all(Option::is_none));
    assert!(write(&clients, 400).await.iter().all(Option::is_none));

    let (old, new) = (rows(cluster, 0).await, rows(cluster, new).await);
    let acknowledged = (100..).zip(&in_flight).filter(|(_, failure)| failure.is_none()).map(|(n, _)| n);
    let sure = [0, 200, 300, 400].into_iter().flat_map(|from| from..from + CLIENTS).chain(acknowledged);
    assert_eq!(new, sure.collect(), "the new primary has what was acknowledged, and nothing else");
    // What it had been sent before it fell asleep it may do when it wakes up: their clients know that nobody knows.
    let unknown: BTreeSet<i64> =
        (100..).zip(&in_flight).filter(|(_, failure)| failure.is_some()).map(|(n, _)| n).collect();
    let wrong: Vec<_> = old.iter().filter(|n| **n >= CLIENTS && !unknown.contains(n)).collect();
    assert_eq!(wrong, [] as [&i64; 0], "written on the old primary");
}

/// The configuration is reloaded while the primary stands still: servers are watched anew, and pools replaced, and what is known of the
/// sleeper is known all the same.
#[tokio::test]
async fn a_primary_that_slept_through_a_reload() {
    for (section, key, value) in
        [("topology", "probe_interval", "\"90ms\""), ("pool", "server_connect_timeout", "\"9min\"")]
    {
        let setup = setup(1).with("pool", "server_connect_timeout", "\"10min\"");
        let stage = start(setup.clone()).await;
        let [open, writer] = [stage.connect().await, stage.connect().await];
        open.batch_execute("begin; insert into kept values (1000)").await.unwrap();
        writer.batch_execute("insert into kept values (0)").await.unwrap();
        stage.cluster.caught_up().await.unwrap();

        stage.cluster.freeze(0).await.unwrap();
        let write = async { writer.failure("insert into kept values (1)").await };
        let failover = async {
            in_state(&stage.proxy, &stage.cluster, 0, "unreachable").await;
            setup.clone().with(section, key, value).reload(&stage).await.unwrap();
            in_state(&stage.proxy, &stage.cluster, 0, "unreachable").await;
            assert_eq!(stage.cluster.sql(1, "select pg_promote()").await.unwrap(), "t");
        };
        let (in_flight, ()) = tokio::join!(write, failover);
        assert_eq!(in_flight, Some(SqlState::TRANSACTION_RESOLUTION_UNKNOWN), "{key}");
        assert_eq!(open.failure("commit").await, Some(SqlState::T_R_SERIALIZATION_FAILURE), "{key}");
        assert_eq!(writer.failure("insert into kept values (2)").await, None, "{key}");
        stage.cluster.thaw(0);
        in_state(&stage.proxy, &stage.cluster, 0, "fenced").await;
        assert_eq!(open.failure("insert into kept values (3)").await, None, "{key}");
        assert_eq!(rows(&stage.cluster, 1).await, BTreeSet::from([0, 2, 3]), "{key}");
        // Of what it had been sent before, nobody knows what it does.
        let wrong: Vec<i64> = rows(&stage.cluster, 0).await.into_iter().filter(|n| *n > 1).collect();
        assert_eq!(wrong, [] as [i64; 0], "{key}");
    }
}

/// The new primary is away when the servers are watched anew: the old one is still no primary.
#[tokio::test]
async fn a_reload_does_not_forget_who_was_deposed() {
    let setup = setup(1).with("topology", "failover_timeout", "\"300ms\"");
    let mut stage = start(setup.clone()).await;
    let client = stage.connect().await;
    assert_eq!(client.failure("insert into kept values (0)").await, None);
    stage.cluster.caught_up().await.unwrap();
    stage.cluster.promote(1).await.unwrap();
    in_state(&stage.proxy, &stage.cluster, 0, "fenced").await;
    stage.cluster.kill(1).await.unwrap();
    in_state(&stage.proxy, &stage.cluster, 1, "unreachable").await;

    setup.with("topology", "probe_timeout", "\"900ms\"").reload(&stage).await.unwrap();
    in_state(&stage.proxy, &stage.cluster, 0, "fenced").await;
    assert_eq!(client.failure("insert into kept values (1)").await, Some(SqlState::CANNOT_CONNECT_NOW));
    assert_eq!(rows(&stage.cluster, 0).await, BTreeSet::from([0]));
    stage.cluster.start_node(1).await.unwrap();
    until("writes to go on", async || client.failure("insert into kept values (2)").await.is_none()).await.unwrap();
    assert_eq!(rows(&stage.cluster, 1).await, BTreeSet::from([0, 2]));
}

/// Somebody promotes a replica while the primary lives.
#[tokio::test]
async fn a_promotion_beside_a_living_primary() {
    let mut stage = start(setup(1)).await;
    let clients = join_all((0..CLIENTS).map(|_| stage.connect())).await;
    assert!(write(&clients, 0).await.iter().all(Option::is_none));
    stage.cluster.caught_up().await.unwrap();
    let open = stage.connect().await;
    open.batch_execute("begin; insert into kept values (1000)").await.unwrap();

    stage.cluster.promote(1).await.unwrap();
    in_state(&stage.proxy, &stage.cluster, 0, "fenced").await;
    assert_eq!(open.failure("commit").await, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    open.batch_execute("rollback").await.unwrap();
    for from in [100, 200] {
        assert!(write(&clients, from).await.iter().all(Option::is_none));
    }
    assert_eq!(rows(&stage.cluster, 0).await, (0..CLIENTS).collect());
    assert_eq!(
        rows(&stage.cluster, 1).await,
        [0, 100, 200].into_iter().flat_map(|from| from..from + CLIENTS).collect()
    );
}

/// Two replicas are promoted to the same timeline: whoever wrote to either would be wrong for somebody.
#[tokio::test]
async fn two_primaries_of_one_timeline() {
    let mut stage = start(setup(2).with("topology", "failover_timeout", "\"300ms\"")).await;
    let clients = join_all((0..CLIENTS).map(|_| stage.connect())).await;
    assert!(write(&clients, 0).await.iter().all(Option::is_none));
    stage.cluster.caught_up().await.unwrap();
    // Neither can know of the other's promotion.
    stage.cluster.kill(0).await.unwrap();
    for node in [1, 2] {
        stage.cluster.set(node, "primary_conninfo", "").await.unwrap();
    }
    let promote = async |node| stage.cluster.sql(node, "select pg_promote()").await.unwrap();
    let promoted = tokio::join!(promote(1), promote(2));
    assert_eq!(promoted, ("t".to_owned(), "t".to_owned()));

    until("the split to be noticed", async || stage.proxy.metric("hakem_split_brain", &[]).await == 1.0).await.unwrap();
    for from in [100, 200] {
        let failures = write(&clients, from).await;
        assert!(failures.iter().all(|failure| *failure == Some(SqlState::CANNOT_CONNECT_NOW)), "{failures:?}");
    }
    let error = clients[0].batch_execute("insert into kept values (1000)").await.unwrap_err();
    let message = error.as_db_error().unwrap().message();
    assert!(message.contains("split brain") && message.contains("timeline 2"), "{message}");
    for node in [1, 2] {
        assert_eq!(rows(&stage.cluster, node).await, (0..CLIENTS).collect());
    }

    // An operator decides.
    stage.cluster.kill(2).await.unwrap();
    until("writes to go on", async || clients[0].failure("insert into kept values (300)").await.is_none())
        .await
        .unwrap();
    assert_eq!(stage.proxy.metric("hakem_split_brain", &[]).await, 0.0);
    assert!(rows(&stage.cluster, 1).await.contains(&300));
}

/// At a known address there is a server restored from another cluster's backup, and it says that it is a primary.
#[tokio::test]
async fn a_server_of_another_cluster() {
    let setup =
        setup(2).with("topology", "failover_timeout", "\"300ms\"").with("console", "admin_users", "[\"postgres\"]");
    let mut stage = start(setup).await;
    let clients = join_all((0..CLIENTS).map(|_| stage.connect())).await;
    assert!(write(&clients, 0).await.iter().all(Option::is_none));
    stage.cluster.caught_up().await.unwrap();

    let options = cluster::Options { replicas: 0, own_system: true, ..cluster::Options::default() };
    let mut other = Cluster::start(options).await.unwrap();
    // Whatever is sent to it succeeds.
    other.sql(0, "create table kept (n bigint)").await.unwrap();
    other.stop(0, cluster::Mode::Fast).await.unwrap();
    stage.cluster.kill(2).await.unwrap();
    in_state(&stage.proxy, &stage.cluster, 2, "unreachable").await;
    restore(other.nodes()[0].data_directory(), stage.cluster.nodes()[2].data_directory());
    stage.cluster.start_node(2).await.unwrap();

    in_state(&stage.proxy, &stage.cluster, 2, "fenced").await;
    until("it to be said why", async || stage.proxy.log().contains("it belongs to another cluster than ours"))
        .await
        .unwrap();
    let console = crate::console::console(&stage.proxy).await;
    let topology = console.simple_query("SHOW TOPOLOGY").await.unwrap();
    let port = stage.cluster.nodes()[2].port().to_string();
    let told = topology.iter().any(|message| match message {
        SimpleQueryMessage::Row(row) => {
            let values: Vec<&str> = (0..row.len()).filter_map(|at| row.get(at)).collect();
            values.iter().any(|value| value.contains(&port))
                && values.contains(&"fenced")
                && values.iter().any(|value| value.contains("another cluster"))
        }
        _ => false,
    });
    assert!(told, "{topology:?}");

    assert!(write(&clients, 100).await.iter().all(Option::is_none));
    // It is the only one that says so, and stays what it is.
    stage.cluster.kill(0).await.unwrap();
    let failures = write(&clients, 200).await;
    assert!(failures.iter().all(Option::is_some), "{failures:?}");
    stage.cluster.promote(1).await.unwrap();
    until("writes to go on", async || clients[0].failure("insert into kept values (300)").await.is_none())
        .await
        .unwrap();
    assert_eq!(rows(&stage.cluster, 2).await, BTreeSet::new());
    assert!(rows(&stage.cluster, 1).await.is_superset(&(0..CLIENTS).chain([300]).collect()));

    let system = stage.cluster.sql(1, "select system_identifier from pg_control_system()").await.unwrap();
    whoever_comes_first(&mut stage.cluster, &system).await;
}

/// Only the stranger is there when programs are started: server 2, beside server 1, the primary, and 0, which was it before.
async fn whoever_comes_first(cluster: &mut Cluster, system: &str) {
    let unnamed = setup(2).with("topology", "failover_timeout", "\"300ms\"");
    let named = unnamed.clone().with("clusters.local", "system_identifier", system);
    let mine = rows(cluster, 1).await;
    let refused = async |client: &Client| {
        let error = client.batch_execute("insert into kept values (1000)").await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code(), &SqlState::CANNOT_CONNECT_NOW);
        error.message().to_owned()
    };
    // One that came with it, and one for each server: as many as there are on either side.
    let two = format!("[{}]", [1, 2].map(|node| format!("\"127.0.0.1:{}\"", cluster.nodes()[node].port())).join(", "));
    let tied = unnamed.clone().with("clusters.local", "servers", &two).proxy(&*cluster).await.unwrap();
    until("both to be seen", async || tied.log().contains("servers of two clusters")).await.unwrap();
    let error = tied.connect_with(|_| {}).await.err().unwrap();
    let told = error.as_db_error().unwrap().message();
    assert!(told.contains("servers of two clusters") && told.contains(system), "{told}");

    cluster.kill(1).await.unwrap();
    let (knowing, believing) = (named.proxy(&*cluster).await.unwrap(), unnamed.proxy(&*cluster).await.unwrap());
    in_state(&knowing, cluster, 2, "fenced").await;
    assert_eq!(knowing.connect_with(|_| {}).await.err().map(|error| code(&error)), Some(SqlState::CANNOT_CONNECT_NOW));
    ready(&believing).await;
    let led_on = believing.connect().await;
    // It cannot know better.
    led_on.batch_execute("insert into kept values (400)").await.unwrap();
    // The other way round, it would be led by the one that was the primary before.
    cluster.start_node(1).await.unwrap();
    in_state(&knowing, cluster, 1, "primary").await;
    cluster.start_node(0).await.unwrap();
    ready(&knowing).await;
    knowing.connect().await.batch_execute("insert into kept values (500)").await.unwrap();
    until("the others to be seen", async || believing.log().contains("servers of two clusters")).await.unwrap();
    let told = refused(&led_on).await;
    assert!(told.contains("servers of two clusters") && told.contains(system), "{told}");

    std::fs::write(&believing.config, named.text(&*cluster)).unwrap();
    believing.signal("HUP");
    until("it to be told", async || led_on.failure("insert into kept values (600)").await.is_none()).await.unwrap();
    assert_eq!(rows(cluster, 2).await, BTreeSet::from([400]));
    assert_eq!(rows(cluster, 1).await, mine.into_iter().chain([500, 600]).collect());
}

/// The primary and its Patroni lose sight of etcd, and not of the program: another one gets the leader key while the old one goes on.
#[tokio::test]
async fn a_primary_cut_off_from_its_cluster_manager() {
    let cluster = managed(3).await;
    let leader = cluster.settled().await.unwrap();
    let proxy = by_etcd(&cluster).with("topology", "failover_timeout", "\"90s\"").proxy(&cluster).await.unwrap();
    ready(&proxy).await;
    let clients = join_all((0..CLIENTS).map(|_| proxy.connect())).await;
    clients[0].batch_execute("create table kept (n bigint)").await.unwrap();
    let stop = Cell::new(false);
    let writers = join_all(clients.iter().zip(1..).map(|(client, number)| {
        let stop = &stop;
        async move {
            let (mut kept, mut unknown) = (Vec::new(), Vec::new());
            for n in number * 1_000_000_i64.. {
                if stop.get() {
                    break;
                }
                match client.failure(&format!("insert into kept values ({n})")).await {
                    None => kept.push(n),
                    Some(SqlState::TRANSACTION_RESOLUTION_UNKNOWN) => unknown.push(n),
                    Some(other) => panic!("{other:?}"),
                }
            }
            (kept, unknown)
        }
    }));
    let cut = async {
        cluster.freeze_manager(leader, true);
        until("another one to be written to", async || {
            writer(&proxy, &cluster).await.is_some_and(|writer| writer != leader)
        })
        .await
        .unwrap();
        assert_eq!(cluster.sql(leader, "select pg_is_in_recovery()").await.unwrap(), "f", "the old one lives");
        let new = writer(&proxy, &cluster).await.unwrap();
        let count = async || cluster.sql(new, "select count(*) from kept").await.unwrap().parse::<i64>().unwrap();
        let before = count().await;
        until("writes to go on", async || count().await > before + 100).await.unwrap();
        stop.set(true);
        new
    };
    let (written, new) = tokio::join!(writers, cut);
    let (kept, unknown): (Vec<Vec<i64>>, Vec<Vec<i64>>) = written.into_iter().unzip();
    let (kept, unknown): (BTreeSet<i64>, BTreeSet<i64>) =
        (kept.into_iter().flatten().collect(), unknown.into_iter().flatten().collect());
    let rows = async |node| {
        let text = cluster.sql(node, "select n from kept").await.unwrap();
        let rows: Vec<i64> = text.lines().map(|line| line.parse().unwrap()).collect();
        let set: BTreeSet<i64> = rows.iter().copied().collect();
        assert_eq!(set.len(), rows.len(), "something was written twice");
        set
    };
    let (old, new) = (rows(leader).await, rows(new).await);
    assert!(kept.is_subset(&new), "lost: {:?}", kept.difference(&new));
    assert!(new.iter().all(|n| kept.contains(n) || unknown.contains(n)));
    let wrong: Vec<_> = old.difference(&new).filter(|n| !unknown.contains(n)).collect();
    assert_eq!(wrong, [] as [&i64; 0], "written on the old primary");
    cluster.freeze_manager(leader, false);
}

/// Puts a stopped server's data in another's place, which keeps its address.
fn restore(backup: &Path, place: &Path) {
    let aside = place.with_extension("aside");
    std::fs::rename(place, &aside).unwrap();
    let copy = |from: &Path, to: &Path| {
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    };
    copy(backup, place);
    for own in ["postgresql.conf", "node.conf", "pg_hba.conf"] {
        copy(&aside.join(own), &place.join(own));
    }
    std::fs::remove_dir_all(aside).unwrap();
}
