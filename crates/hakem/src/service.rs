//! What all workers share: the configuration in force, the clusters, the tenants with their pools, the keys for cancelling.
//!
//! Owns the maps from names to these, and their change when the configuration is reloaded. Nothing here is touched per message; per
//! transaction, a pool's lock and a topology snapshot are.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use auth::Credential;
use config::{Address, Config, ResolveError};
use hashbrown::{Equivalent, HashMap};
use pool::Pool;
use session::ServerMemory;
use tokio::sync::mpsc;

use crate::cancel::Cancels;
use crate::catalog::Lore;
use crate::census::Census;
use crate::clusters::{Cluster, Clusters, Spot};
use crate::console::settings;
use crate::control::Order;
use crate::crew::Crew;
use crate::debts::Debts;
use crate::gate::Gates;
use crate::ledger::Ledger;
use crate::lobby::Lobby;
use crate::lookup::Place;
use crate::quotas::Quotas;
use crate::replication::Tunnels;
use crate::secrets::Secrets;
pub(crate) use crate::tenant::Tenant;
use crate::tenant::{Common, Kept};
use crate::tls::{Encryption, Files};
use crate::vacancies::Vacancies;

/// What all workers share.
pub(crate) struct Service {
    me: Weak<Service>,
    config: ArcSwap<Config>,
    /// The same without servers that have joined since.
    stated: ArcSwap<Config>,
    /// By cluster: the servers that its managers have announced.
    enlisted: Mutex<BTreeMap<String, Vec<Address>>>,
    /// The file that the configuration is read from again; none when it was not read from one.
    source: Option<PathBuf>,
    /// The text in force: the file's, and what the console has set since.
    text: Mutex<String>,
    /// To the control loop.
    orders: mpsc::UnboundedSender<Order>,
    pub(crate) crew: Crew,
    /// What an administrator has closed.
    pub(crate) gates: Gates,
    /// What the console has done.
    pub(crate) console_ledger: Ledger,
    consoles: AtomicUsize,
    pub(crate) cancels: Arc<Cancels>,
    pub(crate) lobby: Arc<Lobby>,
    pub(crate) tunnels: Tunnels,
    pub(crate) encryption: Encryption,
    pub(crate) workers: usize,
    clusters: ArcSwap<Clusters>,
    /// Clusters that only clients of removed databases still use.
    departing: Mutex<Vec<Arc<Cluster>>>,
    /// Pools, with their clusters, that others have taken the places of and that somebody still holds a server of.
    abandoned: Mutex<Vec<(String, Weak<Pool<ServerMemory>>)>>,
    tenants: Mutex<HashMap<(String, String), Arc<Tenant>>>,
    vacancies: Mutex<Vacancies>,
    reloading: tokio::sync::Mutex<()>,
    secrets: ArcSwap<Secrets>,
    /// What failed logins cost.
    pub(crate) debts: Arc<Debts>,
    /// Where the control plane runs.
    pub(crate) control: tokio::runtime::Handle,
    quotas: Arc<Quotas>,
    pub(crate) census: Arc<Census>,
    next_client: AtomicU64,
    clients: AtomicUsize,
}

/// A tenant's name, database and user, as somebody else owns it.
#[derive(Hash)]
struct Name<'n>(&'n str, &'n str);

impl Equivalent<(String, String)> for Name<'_> {
    fn equivalent(&self, (database, user): &(String, String)) -> bool {
        (self.0, self.1) == (database, user)
    }
}

impl Service {
    /// Starts watching the clusters, on the current runtime.
    pub(crate) fn new(
        config: Arc<Config>,
        secrets: Secrets,
        source: Option<PathBuf>,
        workers: usize,
        files: Files,
        orders: mpsc::UnboundedSender<Order>,
    ) -> Arc<Service> {
        let encrypted: Vec<_> = config.clusters.keys().map(|name| files.cluster(name)).collect();
        let service = Arc::new_cyclic(|me| Service {
            me: me.clone(),
            config: ArcSwap::new(config.clone()),
            stated: ArcSwap::new(config.clone()),
            enlisted: Mutex::default(),
            source,
            text: Mutex::default(),
            orders,
            crew: Crew::default(),
            gates: Gates::default(),
            console_ledger: Ledger::new(workers, Instant::now()),
            consoles: AtomicUsize::new(0),
            cancels: Arc::default(),
            lobby: Arc::default(),
            tunnels: Tunnels::default(),
            encryption: Encryption::new(files),
            workers,
            clusters: ArcSwap::default(),
            departing: Mutex::default(),
            abandoned: Mutex::default(),
            tenants: Mutex::default(),
            vacancies: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            secrets: ArcSwap::from_pointee(secrets),
            debts: Arc::default(),
            control: tokio::runtime::Handle::current(),
            quotas: Arc::default(),
            census: Arc::default(),
            next_client: AtomicU64::new(1),
            clients: AtomicUsize::new(0),
        });
        service.make_verifiers();
        let watch = |((name, cluster), tls): ((&String, &config::Cluster), _)| {
            (name.clone(), Cluster::watch(&service, name, cluster, &config, tls, None))
        };
        service.clusters.store(Arc::new(config.clusters.iter().zip(encrypted).map(watch).collect()));
        service
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The clusters by name.
    pub(crate) fn clusters(&self) -> Arc<Clusters> {
        self.clusters.load_full()
    }

    /// The database as the user sees it.
    ///
    /// # Errors
    /// When the configuration knows no such database or user.
    pub(crate) fn tenant(&self, database: &str, user: &str) -> Result<Arc<Tenant>, ResolveError> {
        let mut tenants = lock(&self.tenants);
        let known = tenants.get(&Name(database, user));
        if let Some(tenant) = known.filter(|tenant| !tenant.is_removed()) {
            return Ok(tenant.clone());
        }
        let (config, clusters) = (self.config.load(), self.clusters.load());
        let resolved = config.resolve(database, user)?;
        let key = (database.to_owned(), user.to_owned());
        // A session sees all of a database's users' writes: they share what was written last, and what statements are.
        let sibling = tenants.values().find(|tenant| tenant.shares_with(&resolved));
        let me = self.me.upgrade().expect("a service that is asked is there");
        let new = || Arc::new(Common::new(&me, &config, &resolved));
        let common = sibling.map_or_else(new, |sibling| sibling.common.clone());
        let cluster = clusters[&resolved.cluster].clone();
        let gate = self.gates.of(database);
        let ledger = Arc::new(Ledger::new(self.workers, Instant::now()));
        let quotas = self.quotas.clone();
        let tenant = Tenant::new(
            key.clone().into(),
            &config,
            self.workers,
            cluster,
            resolved,
            Kept { common, gate, ledger, quotas },
        );
        let tenant = Arc::new(tenant);
        tenants.insert(key, tenant.clone());
        Ok(tenant)
    }

    /// The same for somebody who wants no database in particular: where the one that is named is not known, any will do, as long as
    /// all are in one cluster.
    ///
    /// # Errors
    /// When there are several clusters, or the configuration does not know the user.
    pub(crate) fn any_tenant(&self, database: &str, user: &str) -> Result<Arc<Tenant>, ResolveError> {
        let named = self.tenant(database, user);
        let config = self.config();
        match (named, config.databases.keys().next()) {
            (Err(ResolveError::UnknownDatabase), Some(first)) if config.clusters.len() == 1 => self.tenant(first, user),
            (named, _) => named,
        }
    }

    /// What a tenant has become since the configuration was reloaded; itself, when its database or user is gone.
    pub(crate) fn successor(&self, tenant: &Arc<Tenant>) -> Arc<Tenant> {
        lock(&self.tenants).get(&*tenant.key).unwrap_or(tenant).clone()
    }

    /// Every tenant that has had a client, and is not forgotten.
    pub(crate) fn tenants(&self) -> Vec<Arc<Tenant>> {
        let mut tenants: Vec<_> = lock(&self.tenants).values().cloned().collect();
        tenants.sort_by(|left, right| left.key.cmp(&right.key));
        tenants
    }

    /// Those of a database, or all where none is named.
    pub(crate) fn tenants_of(&self, database: &str) -> impl Iterator<Item = Arc<Tenant>> {
        self.tenants().into_iter().filter(move |tenant| database.is_empty() || tenant.key.0 == database)
    }

    /// Shows each pool of a database, or of all where none is named.
    pub(crate) fn each_pool(&self, database: &str, act: impl Fn(&Arc<Pool<ServerMemory>>)) {
        for tenant in self.tenants_of(database) {
            tenant.pools().for_each(|(_, pool)| act(pool));
        }
    }

    /// Pauses a database, or everything where none is named. Who waits for a connection waits at the gate from now on.
    pub(crate) fn pause(&self, database: &str) {
        match database {
            "" => self.gates.pause(true),
            database => self.gates.of(database).pause(true),
        };
        self.each_pool(database, |pool| pool.recall());
    }

    /// What is known of each database on the servers that has had a client.
    pub(crate) fn lores(&self) -> Vec<Arc<Lore>> {
        let mut lores: Vec<Arc<Lore>> = self.tenants().iter().map(|tenant| tenant.lore().clone()).collect();
        lores.sort_by_key(|lore| (lore.cluster.clone(), lore.dbname.clone(), Arc::as_ptr(lore) as usize));
        lores.dedup_by(|left, right| Arc::ptr_eq(left, right));
        lores
    }

    /// Reads the configuration again and puts it in force.
    ///
    /// # Errors
    /// What is wrong with the file; the configuration stays as it was.
    pub(crate) async fn reload(self: &Arc<Self>) -> anyhow::Result<()> {
        let Some(source) = &self.source else { anyhow::bail!("the configuration was not read from a file") };
        let (text, config) = crate::run::load(source)?;
        let secrets = crate::run::load_secrets(&config)?;
        let files = Files::read(&config)?;
        self.adopt(Arc::new(config), Some(secrets), files).await;
        *lock(&self.text) = text;
        tracing::info!("the configuration was reloaded");
        Ok(())
    }

    /// Puts one key at another value, until the next reload.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) async fn set(self: &Arc<Self>, key: (&str, &str), value: &str) -> anyhow::Result<()> {
        let text = lock(&self.text).clone();
        let text = match (text.is_empty(), &self.source) {
            (true, Some(source)) => crate::run::load(source)?.0,
            _ => text,
        };
        let text = settings::changed(&text, key, value).map_err(anyhow::Error::msg)?;
        let config = crate::run::parse(&text, "SET")?;
        let secrets = crate::run::load_secrets(&config)?;
        let files = Files::read(&config)?;
        self.adopt(Arc::new(config), Some(secrets), files).await;
        *lock(&self.text) = text;
        tracing::info!("\"{}\" in [{}] is {value} until the configuration is reloaded", key.1, key.0);
        Ok(())
    }

    /// A cluster's managers say that it has these servers, beside those that the configuration states.
    pub(crate) async fn enlist(self: &Arc<Self>, cluster: String, servers: Vec<Address>) {
        if lock(&self.enlisted).insert(cluster.clone(), servers.clone()).unwrap_or_default() == servers {
            return;
        }
        let config = self.stated.load_full();
        let files = match Files::read(&config) {
            Ok(files) => files,
            Err(error) => return tracing::error!("the cluster stays as it was: {error:#}"),
        };
        let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
        tracing::info!(cluster, "the cluster's managers announce further servers: [{}]", names.join(", "));
        self.adopt(config, None, files).await;
    }

    /// The configuration with the servers that have been announced.
    fn with_enlisted(&self, stated: &Arc<Config>) -> Arc<Config> {
        let enlisted = lock(&self.enlisted);
        let mut config = stated.clone();
        for (name, servers) in enlisted.iter().filter(|(_, servers)| !servers.is_empty()) {
            if let Some(cluster) = Arc::make_mut(&mut config).clusters.get_mut(name) {
                let known: Vec<Address> = cluster.servers.clone();
                cluster.servers.extend(servers.iter().filter(|server| !known.contains(server)).cloned());
            }
        }
        config
    }

    /// The servers of a cluster that its managers have announced, and the configuration does not state.
    pub(crate) fn enlisted_servers(&self, cluster: &str) -> Vec<Address> {
        lock(&self.enlisted).get(cluster).cloned().unwrap_or_default()
    }

    /// The servers of a cluster that the configuration states.
    pub(crate) fn stated_servers(&self, cluster: &str) -> Vec<Address> {
        self.stated.load().clusters.get(cluster).map(|cluster| cluster.servers.clone()).unwrap_or_default()
    }

    /// Tells the control loop something.
    pub(crate) fn order(&self, order: Order) {
        // When nobody hears it any more, the program is ending.
        let _ = self.orders.send(order);
    }

    /// An administrator comes; it is there until the answer is dropped.
    pub(crate) fn console_opens(self: &Arc<Self>) -> impl Drop + use<> {
        self.consoles.fetch_add(1, Ordering::Relaxed);
        ConsoleOpen(self.clone())
    }

    /// How many administrators there are.
    pub(crate) fn consoles(&self) -> usize {
        self.consoles.load(Ordering::Relaxed)
    }

    /// A period of the averages has ended.
    pub(crate) fn turn_pages(&self, now: Instant) {
        self.console_ledger.turn(now);
        self.tenants().iter().for_each(|tenant| tenant.ledger.turn(now));
    }

    /// Puts a configuration in force. Must run where the watchers are to live.
    async fn adopt(self: &Arc<Self>, stated: Arc<Config>, secrets: Option<Secrets>, files: Files) {
        let _one_at_a_time = self.reloading.lock().await;
        let config = self.with_enlisted(&stated);
        for key in needs_restart(&self.config(), &config) {
            tracing::warn!("{key} has changed, which takes a restart to be in force");
        }
        let (known, mut fresh) = (self.clusters(), Vec::new());
        let mut clusters = BTreeMap::new();
        for (name, cluster) in &config.clusters {
            let tls = files.cluster(name);
            let kept = known.get(name).filter(|known| known.is_as(cluster, &config, &tls));
            let watched = kept.cloned().unwrap_or_else(|| {
                let watched = Cluster::watch(self, name, cluster, &config, tls, known.get(name));
                fresh.push(watched.clone());
                watched
            });
            clusters.insert(name.clone(), watched);
        }
        // Nobody is to be sent to a cluster of which nothing is known yet.
        let deadline = Instant::now() + config.topology.probe_timeout;
        for cluster in &fresh {
            cluster.explored(deadline).await;
        }
        let clusters = Arc::new(clusters);
        let mut departing: Vec<_> = known.values().filter(|old| !is_among(old, &clusters)).cloned().collect();
        let mut tenants = lock(&self.tenants);
        self.config.store(config.clone());
        self.clusters.store(clusters.clone());
        self.encryption.replace(files);
        self.stated.store(stated);
        if let Some(mut secrets) = secrets {
            secrets.inherit(&self.secrets.load());
            self.secrets.store(Arc::new(secrets));
            self.make_verifiers();
        }
        let superseded: Vec<_> = tenants.values().cloned().collect();
        for old in superseded {
            match config.resolve(&old.key.0, &old.key.1) {
                Ok(resolved) => {
                    let cluster = clusters[&resolved.cluster].clone();
                    let tenant = Arc::new(old.successor(&config, self.workers, cluster, resolved));
                    // Who is there already does not log in again.
                    if let Some(known) = self.secrets.load().listed(&old.key.1) {
                        tenant.learn(&known.secret.credential());
                    }
                    // What is said of functions by name may be something else now, as may be who is asked.
                    tenant.lore().remind();
                    tenants.insert(old.key.as_ref().clone(), tenant.clone());
                    let abandoned = tenant.supersede(&old);
                    let of_cluster = abandoned.iter().map(|pool| (old.cluster.name.clone(), Arc::downgrade(pool)));
                    lock(&self.abandoned).extend(of_cluster);
                }
                // Its clients finish what they do; nobody else gets in.
                Err(_) => old.remove(),
            }
        }
        drop(tenants);
        // Until now connections could be made to servers that have left.
        for cluster in &fresh {
            if let Some(before) = known.get(&cluster.name) {
                cluster.part(self, before);
            }
        }
        lock(&self.departing).append(&mut departing);
        self.sweep(Instant::now());
    }

    /// Who may log in, and with what.
    pub(crate) fn secrets(&self) -> Arc<Secrets> {
        self.secrets.load_full()
    }

    /// Where a server is asked for the secrets of a database's users: the cluster that the database is in. A database that does not
    /// exist is in any of them: who asks for it is told so when he has proved who he is.
    pub(crate) fn auth_place(&self, database: &str) -> Option<Place> {
        let (config, clusters) = (self.config.load(), self.clusters.load());
        let home = config.home_of(database);
        let cluster = home.map_or_else(|| clusters.values().next(), |(cluster, _)| clusters.get(cluster))?;
        let probe_database = cluster.cluster.probe_database.clone();
        Some(Place {
            watcher: cluster.watcher.clone(),
            dbname: home.map_or_else(|| probe_database.clone(), |(_, dbname)| dbname.to_owned()),
            probe_database,
            tls: cluster.tls.clone(),
            control: self.control.clone(),
        })
    }

    /// A login has shown what server connections can be made with in this user's name: for all of his databases in the cluster. In
    /// another one, somebody else may have the name, as in another database where each is asked for its own users.
    pub(crate) fn learn(&self, tenant: &Tenant, credential: &Credential) {
        if tenant.learn(credential) {
            let by_database = self.config.load().auth.query.as_ref().is_some_and(config::AuthQuery::asks_each_database)
                && self.secrets.load().listed(&tenant.key.1).is_none();
            let is_same = |other: &&Arc<Tenant>| {
                other.key.1 == tenant.key.1
                    && other.resolved.cluster == tenant.resolved.cluster
                    && (!by_database || other.shares_with(&tenant.resolved))
            };
            let others: Vec<Arc<Tenant>> = lock(&self.tenants).values().filter(is_same).cloned().collect();
            for other in others {
                other.learn(credential);
            }
        }
    }

    /// Makes verifiers beforehand, in a thread of its own.
    fn make_verifiers(&self) {
        let secrets = self.secrets();
        self.control.spawn_blocking(move || secrets.make_verifiers());
    }

    pub(crate) fn next_client_id(&self) -> u64 {
        self.next_client.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts a client in; `false` when there are too many.
    pub(crate) fn client_comes(&self) -> bool {
        if self.clients.fetch_add(1, Ordering::Relaxed) < self.config.load().proxy.max_client_conn {
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

    /// Closes what has been idle for too long, in every pool, and forgets what is gone.
    pub(crate) fn sweep(&self, now: Instant) {
        self.forget_vacant(now);
        self.gates.sweep();
        lock(&self.abandoned).retain(|(_, pool)| pool.strong_count() > 0);
        let tenants = self.tenants();
        for tenant in &tenants {
            let in_use = self.census.has(&tenant.key);
            for (_, pool) in tenant.pools() {
                pool.sweep(now, in_use && !tenant.gate.is_closed());
            }
        }
        let unused = |cluster: &mut Arc<Cluster>| !tenants.iter().any(|tenant| Arc::ptr_eq(&tenant.cluster, cluster));
        for cluster in lock(&self.departing).extract_if(.., unused) {
            cluster.stop();
        }
    }

    /// Forgets the tenants that nobody uses and nobody is to be told of any more.
    fn forget_vacant(&self, now: Instant) {
        let config = self.config();
        let mut databases = std::collections::HashMap::new();
        let tenants = self.tenants();
        for tenant in tenants.iter().filter(|tenant| !config.databases.contains_key(&tenant.key.0)) {
            *databases.entry(&*tenant.key.0).or_default() |=
                self.census.has_any(&tenant.key.0) || tenant.has_connections();
        }
        let over = lock(&self.vacancies).over(&databases, config.pool.autodb_idle_timeout, now);
        drop(tenants);
        self.forget(|tenant| {
            let lacks_database = || !config.databases.contains_key(&tenant.key.0) && tenant.lacks_database();
            tenant.is_removed() || over.contains(&tenant.key.0) || tenant.is_nothing(now) || lacks_database()
        });
    }

    /// The servers have said that there is no such database: unless it is stated, or somebody uses it, it is forgotten.
    pub(crate) fn forget_missing(&self, database: &str) {
        if !self.config.load().databases.contains_key(database) {
            self.forget(|tenant| tenant.key.0 == database);
        }
    }

    fn forget(&self, is_unwanted: impl Fn(&Tenant) -> bool) {
        // The map's own hold is the only one left when the last client has gone.
        let is_unused = |tenant: &Arc<Tenant>| Arc::strong_count(tenant) == 1 && !self.census.has(&tenant.key);
        let forgotten: Vec<_> =
            lock(&self.tenants).extract_if(|_, tenant| is_unused(tenant) && is_unwanted(tenant)).collect();
        // What still is being made for one is not kept.
        forgotten.iter().flat_map(|(_, tenant)| tenant.pools()).for_each(|(_, pool)| pool.abandon());
    }

    /// The cluster has another primary, whose catalogues may be others.
    pub(crate) fn suspect_catalogs(&self, cluster: &Arc<Cluster>) {
        let tenants = self.tenants();
        tenants
            .iter()
            .filter(|tenant| Arc::ptr_eq(&tenant.cluster, cluster))
            .for_each(|tenant| tenant.lore().suspect());
    }

    /// Ends the connections to a server of a cluster, at once: it is not what it was, or cannot be reached.
    pub(crate) fn sever(&self, cluster: &str, spot: &Spot) {
        self.pools_at(cluster, spot).iter().for_each(|pool| pool.sever());
    }

    /// How many connections to a server of a cluster are in use.
    pub(crate) fn leased(&self, cluster: &str, spot: &Spot) -> usize {
        self.pools_at(cluster, spot).iter().map(|pool| pool.figures().leased).sum()
    }

    /// The pools of a server of a cluster, those too that others have taken the places of.
    fn pools_at(&self, cluster: &str, (host, port): &Spot) -> Vec<Arc<Pool<ServerMemory>>> {
        let abandoned = lock(&self.abandoned).clone();
        let mut pools: Vec<_> =
            abandoned.iter().filter(|(of, _)| of == cluster).filter_map(|(_, pool)| pool.upgrade()).collect();
        for tenant in self.tenants().iter().filter(|tenant| tenant.cluster.name == cluster) {
            pools.extend(tenant.pools().map(|(_, pool)| pool.clone()));
        }
        pools.retain(|pool| *pool.target().host == **host && pool.target().port == *port);
        pools
    }
}

/// An administrator is there.
struct ConsoleOpen(Arc<Service>);

impl Drop for ConsoleOpen {
    fn drop(&mut self) {
        self.0.consoles.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The keys whose change a running program cannot follow.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = [
        ("\"listen\" in [proxy]", old.proxy.listen != new.proxy.listen),
        ("\"http_listen\" in [proxy]", old.proxy.http_listen != new.proxy.http_listen),
        ("\"unix_socket_*\" in [proxy]", old.proxy.unix_socket != new.proxy.unix_socket),
        ("\"workers\" in [proxy]", old.proxy.workers != new.proxy.workers),
        ("\"server_login_max\" in [pool]", old.pool.server_login_max != new.pool.server_login_max),
        ("\"classifier_cache\" in [routing]", old.routing.classifier_cache != new.routing.classifier_cache),
        ("[log]", old.log != new.log),
    ];
    changed.into_iter().filter(|(_, changed)| *changed).map(|(key, _)| key).collect()
}

fn is_among(cluster: &Arc<Cluster>, clusters: &Clusters) -> bool {
    clusters.values().any(|other| Arc::ptr_eq(other, cluster))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
