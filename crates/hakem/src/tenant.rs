//! [`Tenant`]: one database as one user sees it, with a pool for each server.
//!
//! Owns what depends on the database and the user. A tenant never changes: a reload puts another in its place, which takes over the
//! pools that are still right, and clients go over to it between two requests.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use auth::Credential;
use config::{Config, Resolved, Rule};
use hashbrown::HashMap;
use pool::{Keepalive, Pool, Target, Wallet, Whereabouts};
use session::{Charter, Policy, Reported, ServerMemory};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use topology::{NodeId, Plan, Watcher};
use wire::backend::SqlState;

use crate::catalog::{self, Lore};
use crate::clusters::{self, Cluster};
use crate::gate::Gate;
use crate::ledger::Ledger;
use crate::listen::Hub;
use crate::network;
use crate::quotas::Quotas;
use crate::rules;
use crate::service::Service;

/// One database as one user sees it.
pub(crate) struct Tenant {
    /// The database and the user, as clients name them.
    pub(crate) key: Arc<(String, String)>,
    pub(crate) resolved: Resolved,
    pub(crate) policy: Arc<Charter>,
    /// The rules for its sessions.
    rules: Vec<Rule>,
    pub(crate) cluster: Arc<Cluster>,
    pub(crate) watcher: Watcher,
    /// How its reads are shared out.
    pub(crate) plan: Plan,
    pub(crate) common: Arc<Common>,
    /// Whether an administrator lets its requests pass.
    pub(crate) gate: Arc<Gate>,
    /// What was done for it.
    pub(crate) ledger: Arc<Ledger>,
    /// Where its clients listen.
    pub(crate) hub: Hub,
    /// What its pools log in with.
    wallet: Wallet,
    /// By node.
    pools: Box<[OnceLock<Arc<Pool<ServerMemory>>>]>,
    pool_options: pool::Options,
    quotas: Arc<Quotas>,
    pub(crate) connect_timeout: Duration,
    keepalive: Option<Keepalive>,
    prepared_max: usize,
    /// What a connection that has idled for so long must answer before it is lent.
    pub(crate) check: Option<(String, Duration)>,
    /// What wipes a session off its server; nothing when a server is to be closed instead.
    pub(crate) reset_query: String,
    /// After each transaction.
    pub(crate) resets_always: bool,
    failover_timeout: Duration,
    /// What servers report to a client with these startup settings, and when that was learnt.
    greetings: Mutex<HashMap<String, (Instant, Arc<Reported>)>>,
    /// Another has taken its place. Read for every request; the other wakes those who wait, in the order in which they came.
    superseded: AtomicBool,
    news: Notify,
    /// Its database or user is not in the configuration any more.
    removed: AtomicBool,
}

/// What a tenant leaves to the one that takes its place.
pub(crate) struct Kept {
    pub(crate) common: Arc<Common>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) quotas: Arc<Quotas>,
}

/// What the users of one database on the servers have in common.
pub(crate) struct Common {
    /// What its functions and relations are.
    lore: Arc<Lore>,
    keeper: AbortHandle,
    service: Weak<Service>,
    started: Instant,
    /// When the last write of any session was acknowledged, in microseconds since `started`; 0 for never.
    last_write: AtomicU64,
}

impl Common {
    /// Must be told by whom: the database is looked at from now on.
    pub(crate) fn new(service: &Arc<Service>, config: &Config, resolved: &Resolved) -> Common {
        let lore = Arc::new(Lore::new(&resolved.cluster, &resolved.dbname, config));
        Common {
            keeper: catalog::keep(service, lore.clone()),
            lore,
            service: Arc::downgrade(service),
            started: Instant::now(),
            last_write: AtomicU64::new(0),
        }
    }

    /// The same for another database.
    fn instead(&self, config: &Config, resolved: &Resolved) -> Option<Common> {
        Some(Common::new(&self.service.upgrade()?, config, resolved))
    }

    fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.started).as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

impl Tenant {
    pub(crate) fn new(
        key: Arc<(String, String)>,
        config: &Config,
        workers: usize,
        cluster: Arc<Cluster>,
        resolved: Resolved,
        kept: Kept,
    ) -> Tenant {
        let Kept { common, gate, ledger, quotas } = kept;
        let watcher = cluster.watcher.clone();
        let nodes = watcher.snapshot().nodes.len();
        let plan = clusters::plan(&config.clusters[&resolved.cluster], config);
        let policy = Policy {
            split: true,
            route: rules::route(resolved.route),
            consistency: rules::consistency(resolved.consistency),
            max_lag: Some(resolved.max_lag),
            affinity: rules::affinity(resolved.affinity),
            commit_resolution: resolved.commit_resolution,
            transaction_replay: resolved.transaction_replay,
            pin: false,
            durability: Arc::new([]),
            keeps_server: resolved.pool_mode == config::PoolMode::Session,
            refuses_blocks: resolved.pool_mode == config::PoolMode::Statement,
            request_max: config.proxy.message_retain_max,
            transaction_max: config.proxy.transaction_retain_max,
            statements_max: config.proxy.statements_retain_max,
        };
        let pool_options = pool::Options {
            size: resolved.pool_size,
            size_min: resolved.pool_min_size,
            reserve: resolved.reserve_pool_size,
            reserve_timeout: config.pool.reserve_timeout,
            quota_max: [resolved.max_db, resolved.max_user].map(|max| max.connections.unwrap_or(usize::MAX)),
            queue_max: config.pool.queue_max,
            wait_timeout: resolved.timeouts.query_wait.unwrap_or(FOREVER),
            idle_timeout: config.pool.server_idle_timeout.unwrap_or(FOREVER),
            lifetime: resolved.server_lifetime,
            login_retry: config.pool.server_login_retry,
            workers,
        };
        let password = resolved.server_password.as_ref().map(|password| password.expose().to_owned());
        Tenant {
            wallet: Wallet::new(password.map_or(Credential::None, Credential::Password)),
            rules: config.rules.iter().filter(|rule| rule.fits(&key.0, &key.1)).cloned().collect(),
            key,
            policy: policy.into(),
            cluster,
            watcher,
            plan,
            common,
            gate,
            ledger,
            hub: Hub::default(),
            pools: (0..nodes).map(|_| OnceLock::new()).collect(),
            pool_options,
            quotas,
            connect_timeout: config.pool.server_connect_timeout,
            keepalive: config.proxy.keepalive.map(network::keepalive),
            prepared_max: config.pool.prepared_statements_max,
            check: config.pool.server_check_query.clone().map(|query| (query, config.pool.server_check_delay)),
            reset_query: config.pool.server_reset_query.clone(),
            resets_always: config.pool.server_reset_query_always,
            failover_timeout: config.topology.failover_timeout,
            greetings: Mutex::default(),
            superseded: AtomicBool::new(false),
            news: Notify::new(),
            removed: AtomicBool::new(false),
            resolved,
        }
    }

    /// The tenant that takes this one's place under another configuration: with its pools, as far as they still are what is wanted.
    pub(crate) fn successor(
        &self,
        config: &Config,
        workers: usize,
        cluster: Arc<Cluster>,
        resolved: Resolved,
    ) -> Tenant {
        // Without a service there is nobody who would notice.
        let other = if self.shares_with(&resolved) { None } else { self.common.instead(config, &resolved) };
        let common = other.map_or_else(|| self.common.clone(), Arc::new);
        let (gate, ledger, quotas) = (self.gate.clone(), self.ledger.clone(), self.quotas.clone());
        let kept = Kept { common, gate, ledger, quotas };
        let mut next = Tenant::new(self.key.clone(), config, workers, cluster, resolved, kept);
        // What was learnt stays known.
        if (&self.resolved.server_password, &next.resolved.server_password) == (&None, &None) {
            next.wallet = self.wallet.clone();
        }
        let nodes = next.watcher.snapshot().nodes.len();
        for (_, pool) in self.pools() {
            let heir = (0..).map(NodeId).take(nodes).find(|node| pool.serves(&next.target(*node), next.prepared_max));
            if let Some(node) = heir
                && next.pools[node.index()].set(pool.clone()).is_ok()
            {
                pool.adjust(next.pool_options.clone());
            }
        }
        next
    }

    /// Whether a tenant resolved like this is of the same database on the servers.
    pub(crate) fn shares_with(&self, resolved: &Resolved) -> bool {
        self.resolved.cluster == resolved.cluster && self.resolved.dbname == resolved.dbname
    }

    /// This one has taken another's place, which can be found from now on.
    pub(crate) fn supersede(&self, old: &Tenant) -> Vec<Arc<Pool<ServerMemory>>> {
        old.superseded.store(true, Ordering::Release);
        old.news.notify_waiters();
        let goes = |pool: &&Arc<Pool<ServerMemory>>| !self.pools().any(|(_, kept)| Arc::ptr_eq(kept, pool));
        let abandoned: Vec<_> = old.pools().map(|(_, pool)| pool).filter(goes).cloned().collect();
        abandoned.iter().for_each(Pool::abandon);
        abandoned
    }

    /// Whether clients are to go over to its successor.
    pub(crate) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    /// Waits until another has taken its place.
    pub(crate) async fn until_superseded(&self) {
        // Made first, so that nothing goes unnoticed. It happens once.
        let news = self.news.notified();
        if !self.is_superseded() {
            news.await;
        }
    }

    /// Its database or user is gone: its clients finish, and nobody else gets in.
    pub(crate) fn remove(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }

    /// The policy of a session of this application.
    pub(crate) fn policy_of(&self, application_name: &str) -> Arc<Charter> {
        rules::applied(&self.policy, &self.rules, application_name)
    }

    /// The pool of a node.
    pub(crate) fn pool(&self, node: NodeId) -> &Arc<Pool<ServerMemory>> {
        self.pools[node.index()].get_or_init(|| {
            let target = self.target(node);
            let quotas = self.quotas.of(&target, &self.key);
            let logins = self.cluster.logins(node);
            Pool::new(target, self.pool_options.clone(), quotas, logins, ServerMemory::new, self.prepared_max)
        })
    }

    /// Whom the connections to a node are made to, and how.
    fn target(&self, node: NodeId) -> Target {
        let snapshot = self.watcher.snapshot();
        let address = snapshot.node(node).expect("a node id comes from the watcher's own snapshots");
        Target {
            host: address.host.to_string(),
            whereabouts: Whereabouts(self.watcher.whereabouts(node)),
            port: address.port,
            user: self.resolved.server_user.clone(),
            wallet: self.wallet.clone(),
            database: self.resolved.dbname.clone(),
            timeout: self.connect_timeout,
            keepalive: self.keepalive,
            tls: self.cluster.tls.clone(),
        }
    }

    /// The pools in use, with their nodes.
    pub(crate) fn pools(&self) -> impl Iterator<Item = (NodeId, &Arc<Pool<ServerMemory>>)> {
        (0..).map(NodeId).zip(&self.pools).filter_map(|(node, pool)| Some((node, pool.get()?)))
    }

    /// Whether it has any connection.
    pub(crate) fn has_connections(&self) -> bool {
        self.pools().any(|(_, pool)| pool.figures() != pool::Figures::default())
    }

    /// Whether there is nothing of it: no server has ever let it in, and it is not about to be tried again. Somebody has made a name up.
    pub(crate) fn is_nothing(&self, now: Instant) -> bool {
        let has_failed = |pool: &Pool<ServerMemory>| pool.failure().is_some_and(|(until, _)| until <= now);
        self.ledger.sums().iter().all(|sum| *sum == 0) && self.pools().any(|(_, pool)| has_failed(pool))
    }

    /// Whether a server has said that it has no such database.
    pub(crate) fn lacks_database(&self) -> bool {
        let sqlstate = |pool: &Pool<ServerMemory>| pool.failure().and_then(|(_, error)| error.sqlstate());
        self.pools().any(|(_, pool)| sqlstate(pool) == Some(UNKNOWN_DATABASE))
    }

    /// The longest that a client waits for a connection.
    pub(crate) fn wait_timeout(&self) -> Duration {
        self.pool_options.wait_timeout
    }

    /// A login has shown what the user's server connections can be made with; `true` when that is news.
    pub(crate) fn learn(&self, credential: &Credential) -> bool {
        let is_ours = match credential {
            Credential::None => false,
            // The hash is of the name, too.
            Credential::Md5(_) => self.resolved.server_user == self.key.1,
            Credential::Password(_) | Credential::Keys(_) => true,
        };
        // What the configuration states is not to be learnt.
        let is_news = is_ours && self.resolved.server_password.is_none() && self.wallet.put(credential.clone());
        if is_news {
            self.pools().for_each(|(_, pool)| pool.forgive());
        }
        is_news
    }

    /// Until when a request that comes now waits for a primary.
    pub(crate) fn failover_deadline(&self, now: Instant) -> Instant {
        now + self.failover_timeout
    }

    pub(crate) fn note_write(&self, moment: Instant) {
        self.common.last_write.fetch_max(self.common.micros(moment), Ordering::Relaxed);
    }

    /// What the database's functions and relations are.
    pub(crate) fn lore(&self) -> &Arc<Lore> {
        &self.common.lore
    }

    /// When the last write of any session was acknowledged; rounded up.
    pub(crate) fn last_write(&self) -> Option<Instant> {
        match self.common.last_write.load(Ordering::Relaxed) {
            0 => None,
            micros => Some(self.common.started + Duration::from_micros(micros + 1)),
        }
    }

    /// What servers report to a client with these startup settings, if that has been learnt lately.
    pub(crate) fn greeting(&self, settings: &str, now: Instant) -> Option<Arc<Reported>> {
        let greetings = lock(&self.greetings);
        let (learnt, reported) = greetings.get(settings)?;
        (now.saturating_duration_since(*learnt) < GREETING_AGE_MAX).then(|| reported.clone())
    }

    pub(crate) fn learn_greeting(&self, settings: String, reported: Arc<Reported>, now: Instant) {
        let mut greetings = lock(&self.greetings);
        if greetings.len() >= GREETINGS_MAX {
            greetings.clear();
        }
        greetings.insert(settings, (now, reported));
    }
}

impl Drop for Common {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Longer than anybody waits, and still a moment that can be computed.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);

const UNKNOWN_DATABASE: SqlState = SqlState(*b"3D000");

/// Different sets of startup settings that are remembered; most applications have one.
const GREETINGS_MAX: usize = 1000;

/// How long a server's parameters are believed: an administrator may change a default.
const GREETING_AGE_MAX: Duration = Duration::from_secs(10);
