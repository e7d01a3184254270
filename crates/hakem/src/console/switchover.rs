//! SWITCHOVER TO: a planned change of the primary, which clients feel as a pause.
//!
//! Writes wait, open transactions get their time, and then Patroni is asked: it stops the old primary in good order and promotes the
//! other. What has waited goes there. Whatever goes wrong, writes go on where the primary is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use topology::{Announcement, Member};
use wire::backend::Failure;

use crate::clusters::Cluster;
use crate::service::Service;

/// Does it; returns when writes go to the server that is named, by its name to Patroni or as `host:port`.
///
/// # Errors
/// What the administrator is told: there is no such server, nobody who could be asked, or Patroni would not.
pub(crate) async fn switch_over(service: &Arc<Service>, target: &str) -> Result<(), Failure> {
    let (cluster, told) = cluster_of(service, target)?;
    let candidate = member(&told, target).ok_or_else(|| unknown(target))?;
    let leader = told.leader.map(|at| &told.members[at]);
    let Some(leader) = leader else {
        return Err(Failure::error("55000", "the cluster has no leader that could hand over"));
    };
    if leader == candidate {
        return Err(Failure::error("55000", format!("{target} is the primary already")));
    }
    let config = service.config();
    let pause = cluster.watcher.hand_over();
    finish_transactions(service, &cluster, Instant::now() + config.topology.switchover_grace).await;
    cluster.ask_switchover(leader, candidate).await.map_err(|reason| Failure::error("55000", reason))?;
    let deadline = Instant::now() + config.topology.failover_timeout.max(Duration::from_secs(1));
    let arrived = async {
        loop {
            // Somebody else may watch its servers by now.
            let cluster = current(service, &cluster);
            let snapshot = cluster.watcher.snapshot().clone();
            if snapshot.primary().is_some_and(|node| *node.host == *candidate.host && node.port == candidate.port) {
                return;
            }
            let _hurry = cluster.watcher.wait_guard();
            let _news = tokio::time::timeout(LOOK_AGAIN, cluster.watcher.changed(snapshot.version)).await;
        }
    };
    let arrived = tokio::time::timeout_at(deadline.into(), arrived).await;
    drop(pause);
    arrived.map_err(|_| {
        Failure::error("57P03", format!("Patroni says that it has switched over, but {target} is not the primary"))
    })
}

/// Waits until nobody holds a connection to the primary, or the time is up: then those who do lose their transactions.
async fn finish_transactions(service: &Service, cluster: &Arc<Cluster>, deadline: Instant) {
    loop {
        let snapshot = current(service, cluster).watcher.snapshot().clone();
        let primaries = snapshot.nodes.iter().filter(|node| node.state.name() == "primary");
        let held: usize = primaries.map(|node| service.leased(&cluster.name, &(node.host.clone(), node.port))).sum();
        if held == 0 || Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn cluster_of(service: &Service, target: &str) -> Result<(Arc<Cluster>, Announcement), Failure> {
    let clusters = service.clusters();
    let told = clusters.values().filter_map(|cluster| {
        let told = cluster.watcher.announced().borrow().clone()?;
        Some((cluster.clone(), told))
    });
    let told: Vec<_> = told.collect();
    if told.is_empty() {
        return Err(Failure::error("55000", "no cluster has a manager that could be asked")
            .hint("Name Patroni or its etcd in the configuration."));
    }
    told.into_iter().find(|(_, told)| member(told, target).is_some()).ok_or_else(|| unknown(target))
}

fn member<'a>(told: &'a Announcement, target: &str) -> Option<&'a Member> {
    let named = |member: &&Member| member.name == target || format!("{}:{}", member.host, member.port) == target;
    told.members.iter().find(named)
}

/// The cluster as it is watched now.
fn current(service: &Service, cluster: &Arc<Cluster>) -> Arc<Cluster> {
    service.clusters().get(&cluster.name).unwrap_or(cluster).clone()
}

fn unknown(target: &str) -> Failure {
    Failure::error("42704", format!("no such server: {target}")).hint("SHOW TOPOLOGY names them.")
}

/// How often the connections to the primary are looked at, and who watches it.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
