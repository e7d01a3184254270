//! The clusters: each with the watcher of its servers, and what is done when a server changes.
//!
//! A cluster is watched anew when its configuration changes; what the topology then is, is `topology`'s to say.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use config::Config;
use pool::{Logins, Tls};
use tokio::task::AbortHandle;
use topology::{Freshness, Member, NodeId, NodeState, Plan, Source, SourceKind, Watcher};

use crate::control::Order;
use crate::load::Loads;
use crate::service::Service;
use crate::staleness::{Staleness, hurry};

/// The clusters by name.
pub(crate) type Clusters = BTreeMap<String, Arc<Cluster>>;

/// A server's host and port.
pub(crate) type Spot = (Arc<str>, u16);

/// What has been seen of a cluster's servers. Whoever watches it anew goes on from there: what is lost meanwhile is lost all the same.
#[derive(Default)]
struct Past {
    known: HashMap<Spot, &'static str>,
    /// Where their names led.
    addresses: HashMap<Spot, IpAddr>,
    primary: Option<Spot>,
}

/// A cluster and its watcher.
pub(crate) struct Cluster {
    pub(crate) name: String,
    pub(crate) watcher: Watcher,
    /// What its servers have to do.
    pub(crate) loads: Loads,
    /// Whose turn it is to log in to each of them.
    logins: Box<[Arc<Logins>]>,
    /// How its servers are connected to; `None` for in the clear.
    pub(crate) tls: Option<Tls>,
    manager_tls: Option<Tls>,
    pub(crate) cluster: config::Cluster,
    /// Those of its servers that its managers have announced.
    enlisted: Vec<config::Address>,
    /// The keys of `[topology]` that the watcher goes by.
    pace: [Duration; 4],
    past: Arc<Mutex<Past>>,
    /// Whether its replicas are fresh enough.
    pub(crate) staleness: Staleness,
    followers: Mutex<Vec<AbortHandle>>,
}

impl Cluster {
    /// Starts watching, on the current runtime; in place of `before`, if it was watched.
    pub(crate) fn watch(
        service: &Arc<Service>,
        name: &str,
        cluster: &config::Cluster,
        config: &Config,
        [tls, manager_tls]: [Option<Tls>; 2],
        before: Option<&Arc<Cluster>>,
    ) -> Arc<Cluster> {
        let options = topology::Options {
            servers: cluster.servers.iter().map(|server| (server.host.clone(), server.port)).collect(),
            sources: sources(cluster, config, manager_tls.as_ref()),
            system_identifier: cluster.system_identifier,
            user: cluster.probe_user.clone(),
            password: cluster.probe_password.as_ref().map(|password| password.expose().to_owned()),
            database: cluster.probe_database.clone(),
            tls: tls.as_ref().map(|tls| tls.config().clone()),
            tls_optional: tls.as_ref().is_some_and(|tls| tls.optional),
            probe_interval: config.topology.probe_interval,
            probe_interval_waiting: config.topology.probe_interval_waiting,
            probe_timeout: config.topology.probe_timeout,
            ..topology::Options::default()
        };
        let watcher = match before {
            Some(before) => before.watcher.succeed(options),
            None => Watcher::spawn(options),
        };
        let watched = Arc::new(Cluster {
            name: name.to_owned(),
            watcher,
            loads: Loads::new(cluster.servers.len(), service.workers, Instant::now()),
            logins: cluster.servers.iter().map(|_| Arc::new(Logins::new(config.pool.server_login_max))).collect(),
            tls,
            manager_tls,
            cluster: cluster.clone(),
            enlisted: service.enlisted_servers(name),
            pace: pace(config),
            past: before.map(|before| before.past.clone()).unwrap_or_default(),
            staleness: Staleness::new(Instant::now()),
            followers: Mutex::default(),
        });
        if let Some(before) = before {
            watched.part(service, before);
        }
        let follower = tokio::spawn(follow(service.clone(), watched.clone())).abort_handle();
        let hurrier = tokio::spawn(hurry(watched.clone())).abort_handle();
        let enlister = tokio::spawn(enlist(service.clone(), watched.clone())).abort_handle();
        *watched.followers.lock().unwrap_or_else(PoisonError::into_inner) = vec![follower, hurrier, enlister];
        watched
    }

    /// Servers that have left: nobody watches them any more. One that was in order and that the configuration stated finishes what it does;
    /// from one that was not nobody is to wait for an answer, which would be none when it comes. One that the managers do not know any more may
    /// be cut off from them and about to be deposed: it looks in order until it is, and then nobody would notice.
    pub(crate) fn part(&self, service: &Service, before: &Cluster) {
        let stays =
            |spot: &Spot| self.cluster.servers.iter().any(|server| *server.host == *spot.0 && server.port == spot.1);
        for node in &before.watcher.snapshot().nodes {
            let spot = (node.host.clone(), node.port);
            let is_in_order = matches!(node.state, NodeState::Primary { .. } | NodeState::Replica { .. });
            let was_enlisted = before.enlisted.iter().any(|server| *server.host == *spot.0 && server.port == spot.1);
            if !stays(&spot) && (!is_in_order || was_enlisted) {
                service.sever(&self.name, &spot);
            }
        }
        self.past().known.retain(|spot, _| stays(spot));
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the watcher does what another configuration says.
    pub(crate) fn is_as(&self, cluster: &config::Cluster, config: &Config, tls: &[Option<Tls>; 2]) -> bool {
        // How reads are shared out is the tenants' affair.
        let watched = |cluster: &config::Cluster| config::Cluster {
            weights: BTreeMap::new(),
            zones: BTreeMap::new(),
            ..cluster.clone()
        };
        let encrypted = [&self.tls, &self.manager_tls] == tls.each_ref();
        watched(&self.cluster) == watched(cluster) && self.pace == pace(config) && encrypted
    }

    /// How a database on one of its servers is connected to for the proxy's own questions.
    pub(crate) fn login(&self, host: &str, port: u16, dbname: &str) -> tokio_postgres::Config {
        let mut options = tokio_postgres::Config::new();
        options.host(host).port(port).dbname(dbname).user(&self.cluster.probe_user);
        if let Some(password) = &self.cluster.probe_password {
            options.password(password.expose());
        }
        options
    }

    /// The turns at a node.
    pub(crate) fn logins(&self, node: NodeId) -> Arc<Logins> {
        self.logins[node.index()].clone()
    }

    /// Asks Patroni to make another member the leader; returns when it has.
    ///
    /// # Errors
    /// What it says, or that it cannot be asked.
    pub(crate) async fn ask_switchover(&self, leader: &Member, candidate: &Member) -> Result<(), String> {
        let tls = self.manager_tls.as_ref().map(Tls::config);
        let login = self.cluster.managers.patroni_login.as_ref().map(|(user, password)| (&**user, password.expose()));
        topology::ask_switchover(leader, candidate, login, tls).await
    }

    /// Waits until something is known of every server, at most until `deadline`.
    pub(crate) async fn explored(&self, deadline: Instant) {
        loop {
            let snapshot = self.watcher.snapshot().clone();
            if snapshot.nodes.iter().all(|node| !matches!(node.state, NodeState::Unknown))
                || tokio::time::timeout_at(deadline.into(), self.watcher.changed(snapshot.version)).await.is_err()
            {
                return;
            }
        }
    }

    /// The part of the reads that each node gets at the moment, by weights, zones and slow start.
    pub(crate) fn shares(&self, config: &Config, now: Instant) -> Vec<f32> {
        let plan = plan(config.clusters.get(&self.name).unwrap_or(&self.cluster), config);
        let freshness = Freshness { now, max_lag: Some(config.routing.max_lag), not_before: None };
        self.watcher.snapshot().shares(&freshness, &plan, config.routing.primary_read_share.part())
    }

    /// Ends the watching. What was known last stays known.
    pub(crate) fn stop(&self) {
        self.watcher.shutdown();
        for follower in self.followers.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            follower.abort();
        }
    }
}

/// How the reads of a cluster are shared out.
pub(crate) fn plan(cluster: &config::Cluster, config: &Config) -> Plan {
    let weight = |server| cluster.weights.get(server).map_or(1.0, |weight| *weight as f32);
    let near = |server| !config.proxy.zone.is_empty() && cluster.zones.get(server) == Some(&config.proxy.zone);
    Plan {
        weights: cluster.servers.iter().map(weight).collect(),
        near: cluster.servers.iter().map(near).collect(),
        slow_start: config.routing.slow_start,
    }
}

fn pace(config: &Config) -> [Duration; 4] {
    let topology = &config.topology;
    [topology.probe_interval, topology.probe_interval_waiting, topology.probe_timeout, topology.manager_interval]
}

/// Whom to ask about the leader: etcd knows it, Patroni's members have heard of it.
pub(crate) fn sources(cluster: &config::Cluster, config: &Config, tls: Option<&Tls>) -> Vec<Source> {
    let managers = &cluster.managers;
    let uris = |urls: &[config::Url]| {
        let uri = |url: &config::Url| url.to_string().parse().expect("the configuration has checked the address");
        urls.iter().map(uri).collect::<Vec<_>>()
    };
    let login = managers.login.as_ref().map(|(user, password)| (user.clone(), password.expose().to_owned()));
    let etcd = SourceKind::Etcd { urls: uris(&managers.etcd), prefix: managers.prefix.clone(), login };
    let patroni = SourceKind::Patroni { urls: uris(&managers.patroni) };
    [(etcd, !managers.etcd.is_empty()), (patroni, !managers.patroni.is_empty())]
        .into_iter()
        .filter(|(_, stated)| *stated)
        .map(|(kind, _)| Source {
            kind,
            tls: tls.map(|tls| tls.config().clone()),
            timeout: config.topology.probe_timeout,
            interval: config.topology.manager_interval,
        })
        .collect()
}

/// Ends the connections to a node that is not what it was. A primary that could not be reached for a while and is what it was before
/// keeps them: what was sent there may have been done, and it may yet say so. A replica does not: what was asked of it, another
/// answers.
async fn follow(service: Arc<Service>, cluster: Arc<Cluster>) {
    loop {
        let snapshot = cluster.watcher.snapshot().clone();
        for node in &snapshot.nodes {
            let spot = (node.host.clone(), node.port);
            if let Some(address) = node.address {
                // What the name stood for may live on, and be somebody else's by now.
                let before = cluster.past().addresses.insert(spot.clone(), address);
                if before.is_some_and(|before| before != address) {
                    service.sever(&cluster.name, &spot);
                }
            }
            let known = cluster.past().known.get(&spot).copied();
            let state = match node.state {
                NodeState::Unreachable { rejects: false, .. } if known == Some("replica") => {
                    service.sever(&cluster.name, &spot);
                    cluster.past().known.remove(&spot);
                    continue;
                }
                NodeState::Unknown | NodeState::Unreachable { .. } => continue,
                _ => node.state.name(),
            };
            // A replica that has become the primary keeps its connections; they notice nothing.
            if known.is_some_and(|known| known != state && (known, state) != ("replica", "primary")) {
                service.sever(&cluster.name, &spot);
            }
            cluster.past().known.insert(spot, state);
        }
        if let Some(node) = snapshot.primary() {
            let spot = (node.host.clone(), node.port);
            let before = cluster.past().primary.replace(spot.clone());
            if let Some(deposed) = before.filter(|before| *before != spot) {
                service.sever(&cluster.name, &deposed);
                service.suspect_catalogs(&cluster);
            }
        }
        cluster.watcher.changed(snapshot.version).await;
    }
}

/// Tells of servers that the cluster's managers announce and the configuration does not state: they join, and leave when they are
/// announced no more.
async fn enlist(service: Arc<Service>, cluster: Arc<Cluster>) {
    let mut announced = cluster.watcher.announced();
    loop {
        let members = announced.borrow_and_update().clone().map(|announcement| announcement.members);
        if let Some(members) = members {
            let stated = service.stated_servers(&cluster.name);
            let addresses = members.into_iter().filter_map(|member| address(&member));
            let servers = addresses.filter(|address| !stated.contains(address)).collect();
            service.order(Order::Enlist { cluster: cluster.name.clone(), servers });
        }
        if announced.changed().await.is_err() {
            return;
        }
    }
}

fn address(member: &Member) -> Option<config::Address> {
    let host = if member.host.contains(':') { format!("[{}]", member.host) } else { member.host.clone() };
    format!("{host}:{}", member.port).parse().ok()
}
