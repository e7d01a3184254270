//! What all workers share: the configuration, the clusters and their watchers, the pools, the keys for cancelling.
//!
//! Owns the maps from names to these. Nothing here is touched per message; per transaction, a pool's lock and a topology
//! snapshot are.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use auth::Verifier;
use classifier::Classifier;
use config::{Config, ResolveError, Resolved};
use pool::{Keepalive, Parameters, Pool, Target};
use session::{Consistency, Policy, Route, ServerMemory};
use topology::{NodeId, Watcher};

use crate::cancel::Cancels;

/// What all workers share.
pub(crate) struct Service {
    pub(crate) config: Arc<Config>,
    pub(crate) cancels: Cancels,
    pub(crate) workers: usize,
    clusters: HashMap<String, Watcher>,
    tenants: Mutex<HashMap<(String, String), Arc<Tenant>>>,
    verifiers: Mutex<HashMap<String, Verifier>>,
    /// From which the salts of unknown users are made up.
    pub(crate) mock_secret: [u8; auth::MOCK_SECRET_BYTES],
    next_client: AtomicU64,
    clients: AtomicUsize,
}

/// One database as one user sees it.
pub(crate) struct Tenant {
    pub(crate) resolved: Resolved,
    pub(crate) policy: Policy,
    pub(crate) watcher: Watcher,
    pub(crate) classifier: Arc<Classifier>,
    /// By node.
    pools: Box<[OnceLock<Arc<Pool<ServerMemory>>>]>,
    pool_options: pool::Options,
    connect_timeout: Duration,
    keepalive: Option<Keepalive>,
    prepared_max: usize,
    failover_timeout: Duration,
    /// What servers report to a client with these startup settings, and when that was learnt.
    greetings: Mutex<HashMap<String, (Instant, Arc<Parameters>)>>,
    started: Instant,
    /// When the last write of any session was acknowledged, in microseconds since `started`; 0 for never.
    last_write: AtomicU64,
    /// When a read last went to the primary because no replica was fresh enough, likewise.
    last_stale: AtomicU64,
}

impl Service {
    /// Starts watching the clusters, on the current runtime.
    pub(crate) fn new(config: Arc<Config>, workers: usize) -> Arc<Service> {
        let watch = |(name, cluster): (&String, &config::Cluster)| {
            let options = topology::Options {
                servers: cluster.servers.iter().map(|server| (server.host.clone(), server.port)).collect(),
                user: cluster.probe_user.clone(),
                password: cluster.probe_password.as_ref().map(|password| password.expose().to_owned()),
                database: cluster.probe_database.clone(),
                probe_interval: config.topology.probe_interval,
                probe_interval_waiting: config.topology.probe_interval_waiting,
                probe_timeout: config.topology.probe_timeout,
                ..topology::Options::default()
            };
            (name.clone(), Watcher::spawn(options))
        };
        Arc::new(Service {
            clusters: config.clusters.iter().map(watch).collect(),
            config,
            cancels: Cancels::default(),
            workers,
            tenants: Mutex::default(),
            verifiers: Mutex::default(),
            mock_secret: rand::random(),
            next_client: AtomicU64::new(1),
            clients: AtomicUsize::new(0),
        })
    }

    /// The watchers by the names of their clusters.
    pub(crate) fn clusters(&self) -> &HashMap<String, Watcher> {
        &self.clusters
    }

    /// The database as the user sees it.
    ///
    /// # Errors
    /// When the configuration knows no such database or user.
    pub(crate) fn tenant(&self, database: &str, user: &str) -> Result<Arc<Tenant>, ResolveError> {
        let key = (database.to_owned(), user.to_owned());
        let mut tenants = lock(&self.tenants);
        if let Some(tenant) = tenants.get(&key) {
            return Ok(tenant.clone());
        }
        let resolved = self.config.resolve(database, user)?;
        // A session sees all of a database's users' writes: they share what was written last, and what statements are.
        let sibling = tenants
            .values()
            .find(|tenant| tenant.resolved.cluster == resolved.cluster && tenant.resolved.dbname == resolved.dbname);
        let classifier = sibling.map_or_else(
            || {
                let options = classifier::Options {
                    cache_entries: self.config.routing.classifier_cache,
                    ..classifier::Options::default()
                };
                Arc::new(Classifier::new(options))
            },
            |sibling| sibling.classifier.clone(),
        );
        let tenant = Arc::new(Tenant::new(self, resolved, classifier));
        tenants.insert(key, tenant.clone());
        Ok(tenant)
    }

    /// Every tenant that has had a client.
    pub(crate) fn tenants(&self) -> Vec<((String, String), Arc<Tenant>)> {
        let mut tenants: Vec<_> =
            lock(&self.tenants).iter().map(|(key, tenant)| (key.clone(), tenant.clone())).collect();
        tenants.sort_by(|left, right| left.0.cmp(&right.0));
        tenants
    }

    /// What a user proves himself against. Computing it from a plain password takes milliseconds; it is done once.
    pub(crate) fn verifier(&self, user: &str) -> Option<Verifier> {
        if let Some(known) = lock(&self.verifiers).get(user) {
            return Some(known.clone());
        }
        let password = self.config.users.get(user)?.password.as_ref()?;
        let secret = auth::Secret::parse(password.expose()).ok()?;
        let verifier = secret.verifier(&auth::salt_for(&self.mock_secret, user), auth::DEFAULT_ITERATIONS)?;
        lock(&self.verifiers).insert(user.to_owned(), verifier.clone());
        Some(verifier)
    }

    pub(crate) fn next_client_id(&self) -> u64 {
        self.next_client.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a client in; `false` when there are too many.
    pub(crate) fn client_comes(&self) -> bool {
        if self.clients.fetch_add(1, Ordering::Relaxed) < self.config.proxy.max_client_conn {
            return true;
        }
        self.clients.fetch_sub(1, Ordering::Relaxed);
        false
    }

    pub(crate) fn client_left(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Closes what has been idle for too long, in every pool.
    pub(crate) fn sweep(&self, now: Instant) {
        for (_, tenant) in self.tenants() {
            for (_, pool) in tenant.pools() {
                pool.sweep(now);
            }
        }
    }

    /// Closes the connections to a node of a cluster: it is not what it was.
    pub(crate) fn retire(&self, cluster: &str, node: NodeId) {
        for (_, tenant) in self.tenants() {
            if tenant.resolved.cluster == cluster
                && let Some(pool) = tenant.pools[node.index()].get()
            {
                pool.retire();
            }
        }
    }
}

impl Tenant {
    fn new(service: &Service, resolved: Resolved, classifier: Arc<Classifier>) -> Tenant {
        let config = &service.config;
        let watcher = service.clusters[&resolved.cluster].clone();
        let nodes = watcher.snapshot().nodes.len();
        let policy = Policy {
            split: true,
            route: match resolved.route {
                config::Route::Auto => Route::Auto,
                config::Route::Primary => Route::Primary,
                config::Route::Replica => Route::Replica,
            },
            consistency: match resolved.consistency {
                config::Consistency::Eventual => Consistency::Eventual,
                config::Consistency::Bounded => Consistency::Bounded,
                config::Consistency::Session => Consistency::Session,
                config::Consistency::Global => Consistency::Global,
            },
            max_lag: Some(resolved.max_lag),
            keeps_server: resolved.pool_mode == config::PoolMode::Session,
            refuses_blocks: resolved.pool_mode == config::PoolMode::Statement,
            request_max: config.proxy.message_retain_max,
        };
        let pool_options = pool::Options {
            size: resolved.pool_size,
            size_min: resolved.pool_min_size,
            queue_max: config.pool.queue_max,
            wait_timeout: config.pool.query_wait_timeout,
            idle_timeout: config.pool.server_idle_timeout,
            lifetime: config.pool.server_lifetime,
            login_retry: config.pool.server_login_retry,
            workers: service.workers,
        };
        Tenant {
            policy,
            watcher,
            classifier,
            pools: (0..nodes).map(|_| OnceLock::new()).collect(),
            pool_options,
            connect_timeout: config.pool.server_connect_timeout,
            keepalive: config.proxy.keepalive.map(|keepalive| Keepalive {
                idle: keepalive.idle,
                interval: keepalive.interval,
                count: keepalive.count,
            }),
            prepared_max: config.pool.prepared_statements_max,
            failover_timeout: config.topology.failover_timeout,
            greetings: Mutex::default(),
            started: Instant::now(),
            last_write: AtomicU64::new(0),
            last_stale: AtomicU64::new(0),
            resolved,
        }
    }

    /// The pool of a node.
    pub(crate) fn pool(&self, node: NodeId) -> &Arc<Pool<ServerMemory>> {
        self.pools[node.index()].get_or_init(|| {
            let snapshot = self.watcher.snapshot();
            let address = snapshot.node(node).expect("a node id comes from the watcher's own snapshots");
            let target = Target {
                host: address.host.to_string(),
                port: address.port,
                user: self.resolved.server_user.clone(),
                password: self.resolved.server_password.as_ref().map(|password| password.expose().to_owned()),
                database: self.resolved.dbname.clone(),
                timeout: self.connect_timeout,
                keepalive: self.keepalive,
            };
            Pool::new(target, self.pool_options.clone(), ServerMemory::new, self.prepared_max)
        })
    }

    /// The pools in use, with their nodes.
    pub(crate) fn pools(&self) -> impl Iterator<Item = (NodeId, &Arc<Pool<ServerMemory>>)> {
        (0..).map(NodeId).zip(&self.pools).filter_map(|(node, pool)| Some((node, pool.get()?)))
    }

    /// Until when a request that comes now waits for a primary.
    pub(crate) fn failover_deadline(&self, now: Instant) -> Instant {
        now + self.failover_timeout
    }

    pub(crate) fn note_write(&self, moment: Instant) {
        self.last_write.fetch_max(self.micros(moment), Ordering::Relaxed);
    }

    /// A read has gone to the primary because no replica was fresh enough.
    pub(crate) fn note_stale(&self, now: Instant) {
        self.last_stale.store(self.micros(now), Ordering::Relaxed);
    }

    /// Whether that has happened within `age`.
    pub(crate) fn was_stale(&self, now: Instant, age: Duration) -> bool {
        let last = self.last_stale.load(Ordering::Relaxed);
        last > 0 && self.micros(now).saturating_sub(last) < u64::try_from(age.as_micros()).unwrap_or(u64::MAX)
    }

    fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// When the last write of any session was acknowledged; rounded up.
    pub(crate) fn last_write(&self) -> Option<Instant> {
        match self.last_write.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(self.started + Duration::from_micros(micros + 1)),
        }
    }

    /// What servers report to a client with these startup settings, if that has been learnt lately.
    pub(crate) fn greeting(&self, settings: &str, now: Instant) -> Option<Arc<Parameters>> {
        let greetings = lock(&self.greetings);
        let (learnt, parameters) = greetings.get(settings)?;
        (now.saturating_duration_since(*learnt) < GREETING_AGE_MAX).then(|| parameters.clone())
    }

    pub(crate) fn learn_greeting(&self, settings: String, parameters: Arc<Parameters>, now: Instant) {
        let mut greetings = lock(&self.greetings);
        if greetings.len() >= GREETINGS_MAX {
            greetings.clear();
        }
        greetings.insert(settings, (now, parameters));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Different sets of startup settings that are remembered; most applications have one.
const GREETINGS_MAX: usize = 1000;

/// How long a server's parameters are believed: an administrator may change a default.
const GREETING_AGE_MAX: Duration = Duration::from_secs(10);
