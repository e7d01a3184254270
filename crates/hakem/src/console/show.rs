//! What SHOW shows: the columns of each topic, in PgBouncer's names and order, and the rows.
//!
//! One row of SHOW POOLS is one database and user, summed over the servers of its cluster, of which each has a pool of its own; SHOW
//! SERVERS and SHOW TOPOLOGY tell the servers apart. Nothing secret is ever read here.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use config::{Config, PoolMode};
use pool::Figures;

use super::NAME;
use super::catalog;
use super::clock::written;
use super::grammar::Topic;
use super::nodes;
use super::rows::{Column, Kind, Row, Value};
use super::settings;
use crate::asked::Replication;
use crate::counters::PINS;
use crate::ledger::{ENTRIES, Sums, averages};
use crate::service::{Service, Tenant};
use crate::standing::{Doing, Sighting};

use Kind::{Int4, Int8, Numeric, Text};

/// What the rows are made from, at one moment.
pub(crate) struct View<'a> {
    pub(crate) service: &'a Service,
    pub(crate) config: &'a Config,
    /// Every client that has logged in.
    pub(crate) clients: Vec<Sighting>,
    /// How often clients were pinned, by reason.
    pub(crate) pins: [u64; PINS.len()],
    pub(crate) now: Instant,
    pub(crate) wall: SystemTime,
}

/// The columns of a topic; none for one that has no rows.
pub(crate) fn columns(topic: Topic) -> &'static [Column] {
    match topic {
        Topic::Help => &[],
        Topic::Version => &[("version", Text)],
        Topic::State => &[("key", Text), ("value", Text)],
        Topic::Config => &[("key", Text), ("value", Text), ("default", Text), ("changeable", Text)],
        Topic::Databases => &DATABASES,
        Topic::Pools => &POOLS,
        Topic::Peers => &[("peer_id", Int4), ("host", Text), ("port", Int4), ("pool_size", Int4)],
        Topic::PeerPools => &[
            ("peer_id", Int4),
            ("cl_active_cancel_req", Int4),
            ("cl_waiting_cancel_req", Int4),
            ("sv_active_cancel", Int4),
            ("sv_login", Int4),
        ],
        Topic::Users => &USERS,
        Topic::Clients | Topic::Servers => &SOCKETS,
        Topic::Stats => &STATS,
        Topic::StatsTotals => &STATS_TOTALS,
        Topic::StatsAverages => &STATS_AVERAGES,
        Topic::Totals => &[("name", Text), ("value", Numeric)],
        Topic::Lists => &[("list", Text), ("items", Int4)],
        Topic::Mem => &[("name", Text), ("size", Int4), ("used", Int4), ("free", Int4), ("memtotal", Int4)],
        Topic::DnsHosts => &[("hostname", Text), ("ttl", Int8), ("addrs", Text)],
        Topic::DnsZones => &[("zonename", Text), ("serial", Int8), ("count", Int4)],
        Topic::Topology => &nodes::COLUMNS,
        Topic::Catalog => &catalog::COLUMNS,
        Topic::Pins => &[
            ("database", Text),
            ("user", Text),
            ("client_id", Int8),
            ("reason", Text),
            ("since", Text),
            ("held", Int4),
            ("held_us", Int4),
        ],
        Topic::Routes => &super::routes::ROUTES,
        Topic::PinTotals => &[("reason", Text), ("clients", Int4), ("total", Int8)],
    }
}

impl View<'_> {
    /// The rows of a topic.
    pub(crate) fn rows(&self, topic: Topic) -> Vec<Row> {
        match topic {
            Topic::Help | Topic::DnsHosts | Topic::DnsZones => Vec::new(),
            Topic::Version => vec![vec![VERSION.into()]],
            Topic::State => self.state(),
            Topic::Config => settings::shown(self.config),
            Topic::Databases => self.databases(),
            Topic::Pools => self.pools(),
            Topic::Peers => self.peers(),
            Topic::PeerPools => self.peer_pools(),
            Topic::Users => self.users(),
            Topic::Clients => self.clients(),
            Topic::Servers => self.servers(),
            Topic::Stats => self.stats(|sums, averages| [sums, averages].concat()),
            Topic::StatsTotals => self.stats(|sums, _| sums.to_vec()),
            Topic::StatsAverages => self.stats(|_, averages| averages.to_vec()),
            Topic::Totals => self.totals(),
            Topic::Lists => self.lists(),
            Topic::Mem => self.memory(),
            Topic::Topology => self.topology(),
            Topic::Catalog => catalog::rows(self),
            Topic::Pins => self.pins(),
            Topic::Routes => super::routes::routes(self.service),
            Topic::PinTotals => self.pin_totals(),
        }
    }

    fn state(&self) -> Vec<Row> {
        let paused = self.service.gates.is_paused();
        let word = |is: bool| if is { "yes" } else { "no" };
        let rows = [("active", word(!paused)), ("paused", word(paused)), ("suspended", "no")];
        rows.map(|(key, value)| vec![key.into(), value.into()]).to_vec()
    }

    fn databases(&self) -> Vec<Row> {
        let tenants = self.service.tenants();
        let mut names: Vec<&str> =
            self.config.databases.keys().map(String::as_str).filter(|name| *name != "*").collect();
        names.extend(tenants.iter().map(|tenant| tenant.key.0.as_str()));
        names.sort_unstable();
        names.dedup();
        let mut rows: Vec<Row> = names.iter().map(|name| self.database(name, &tenants)).collect();
        let mut console: Row = vec![NAME.into(), Value::Null];
        console.extend([self.port(), NAME.into(), NAME.into()]);
        console.extend([2u32, 0, 0, 0].map(Value::from));
        console.extend(["statement".into(), Value::Null]);
        console.extend([0, 0, 0, self.service.consoles(), 0, 0].map(Value::from));
        rows.push(console);
        rows
    }

    fn database(&self, name: &str, tenants: &[std::sync::Arc<Tenant>]) -> Row {
        let entry = self.config.databases.get(name).or_else(|| self.config.databases.get("*"));
        let own: Vec<_> = tenants.iter().filter(|tenant| tenant.key.0 == name).collect();
        let (mut hosts, mut port) = (String::new(), Value::Null);
        let clusters = self.service.clusters();
        if let Some(cluster) = entry.and_then(|entry| clusters.get(&entry.cluster)) {
            let snapshot = cluster.watcher.snapshot();
            hosts = snapshot.nodes.iter().map(|node| &*node.host).collect::<Vec<_>>().join(",");
            port = snapshot.primary().or(snapshot.nodes.first()).map(|node| node.port).into();
        }
        let overrides = entry.map(|entry| &entry.overrides);
        let pool = &self.config.pool;
        let size = overrides.and_then(|overrides| overrides.pool_size).unwrap_or(pool.size);
        let ceilings = entry.map_or(pool.max_db, |entry| pool.max_db.with(&entry.ceilings));
        let servers: usize = own.iter().map(|tenant| open(tenant_figures(tenant))).sum();
        let clients = self.clients.iter().filter(|client| client.database == name).count();
        let gate = self.service.gates.of(name);
        vec![
            name.to_owned().into(),
            hosts.into(),
            port,
            entry.and_then(|entry| entry.dbname.clone()).unwrap_or_else(|| name.to_owned()).into(),
            Value::Null,
            size.into(),
            overrides.and_then(|overrides| overrides.min_pool_size).unwrap_or(pool.min_size).min(size).into(),
            overrides.and_then(|overrides| overrides.reserve_pool_size).unwrap_or(pool.reserve_size).into(),
            overrides.and_then(|overrides| overrides.server_lifetime).unwrap_or(pool.server_lifetime).as_secs().into(),
            overrides.and_then(|overrides| overrides.pool_mode).map(mode).into(),
            Value::Null,
            // PgBouncer's for any number.
            ceilings.connections.unwrap_or(0).into(),
            servers.into(),
            ceilings.clients.unwrap_or(0).into(),
            clients.into(),
            gate.is_paused().into(),
            gate.is_disabled().into(),
        ]
    }

    fn port(&self) -> Value {
        self.config.proxy.listen.first().map(|address| address.port()).into()
    }

    fn pools(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .service
            .tenants()
            .iter()
            .map(|tenant| {
                let (database, user) = &*tenant.key;
                let own = self.clients.iter().filter(|client| client.database == *database && client.user == *user);
                let (waiting, active): (Vec<_>, Vec<_>) = own.partition(|client| client.doing == Doing::Waiting);
                let longest = waiting.iter().map(|client| self.waits(client)).max().unwrap_or_default();
                let figures = tenant_figures(tenant);
                let mut row: Row = vec![database.clone().into(), user.clone().into()];
                row.extend([active.len(), waiting.len(), 0, 0, figures.leased, 0, 0, figures.idle].map(Value::from));
                row.extend([0, 0, figures.dialing].map(Value::from));
                row.extend([longest.as_secs().into(), longest.subsec_micros().into()]);
                row.extend([mode(tenant.resolved.pool_mode).into(), Value::Null]);
                row
            })
            .collect();
        let mut console: Row = vec![NAME.into(), NAME.into(), self.service.consoles().into()];
        console.extend([0u32; 12].map(Value::from));
        console.extend(["statement".into(), Value::Null]);
        rows.push(console);
        rows
    }

    fn peers(&self) -> Vec<Row> {
        let row = |(id, peer): (&u16, &config::Peer)| {
            let size = peer.pool_size.unwrap_or(self.config.pool.size);
            vec![(*id).into(), peer.host.clone().into(), peer.port.into(), size.into()]
        };
        self.config.peers.iter().map(row).collect()
    }

    /// Who is configured here, and whoever else has been let in, which PgBouncer knows as well.
    fn users(&self) -> Vec<Row> {
        let tenants = self.service.tenants();
        let mut names: Vec<&str> = self.config.users.keys().map(String::as_str).collect();
        names.extend(tenants.iter().map(|tenant| tenant.key.1.as_str()));
        names.sort_unstable();
        names.dedup();
        let row = |name: &str| {
            let user = self.config.users.get(name);
            let own = tenants.iter().filter(|tenant| tenant.key.1 == name);
            let servers: usize = own.map(|tenant| open(tenant_figures(tenant))).sum();
            let clients = self.clients.iter().filter(|client| client.user == name).count();
            let size = |size: Option<usize>| size.map_or_else(String::new, |size| format!("{size:9}"));
            let ceilings =
                user.map_or(self.config.pool.max_user, |user| self.config.pool.max_user.with(&user.ceilings));
            let overrides = user.map(|user| &user.overrides);
            vec![
                name.to_owned().into(),
                size(overrides.and_then(|overrides| overrides.pool_size)).into(),
                size(overrides.and_then(|overrides| overrides.reserve_pool_size)).into(),
                overrides.and_then(|overrides| overrides.pool_mode).map(mode).into(),
                ceilings.connections.unwrap_or(0).into(),
                servers.into(),
                ceilings.clients.unwrap_or(0).into(),
                clients.into(),
            ]
        };
        names.into_iter().map(row).collect()
    }

    fn clients(&self) -> Vec<Row> {
        let row = |client: &Sighting| {
            let (state, link) = match client.doing {
                // It has a server of its own, of no pool.
                Doing::Nothing if client.replication.is_some() => ("active", String::new()),
                Doing::Nothing => ("idle", String::new()),
                Doing::Waiting => ("waiting", String::new()),
                Doing::Holding(server) => ("active", pointer(server)),
                Doing::Replicating => ("active", String::new()),
            };
            let waits = if client.doing == Doing::Waiting { self.waits(client) } else { Duration::ZERO };
            let (address, port, process) = address(&client.peer);
            vec![
                "C".into(),
                client.user.clone().into(),
                client.database.clone().into(),
                client.replication.map_or("none", Replication::as_str).into(),
                state.into(),
                address.into(),
                port.into(),
                client.local.map_or_else(|| "unix".to_owned(), |local| local.ip().to_string()).into(),
                client.local.map_or(0, |local| local.port()).into(),
                self.moment(client.since).into(),
                client.requested.map(|moment| self.moment(moment)).into(),
                waits.as_secs().into(),
                waits.subsec_micros().into(),
                0u32.into(),
                pointer(client.id).into(),
                link.into(),
                process.into(),
                client.encryption.clone().unwrap_or_default().into(),
                client.application_name.clone().into(),
                client.prepared.into(),
                client.id.into(),
            ]
        };
        self.clients.iter().map(row).collect()
    }

    fn servers(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        for tenant in self.service.tenants() {
            let (database, user) = &*tenant.key;
            for (_, pool) in tenant.pools() {
                for entry in pool.roster() {
                    let client = entry.client();
                    let application_name = client
                        .and_then(|id| self.clients.iter().find(|client| client.id == id))
                        .map_or_else(String::new, |client| client.application_name.clone());
                    let (address, port, _) = address(&entry.peer);
                    rows.push(vec![
                        "S".into(),
                        user.clone().into(),
                        database.clone().into(),
                        "none".into(),
                        if client.is_some() { "active" } else { "idle" }.into(),
                        address.into(),
                        port.into(),
                        entry.local.map_or_else(|| "unix".to_owned(), |local| local.ip().to_string()).into(),
                        entry.local.map_or(0, |local| local.port()).into(),
                        self.moment(entry.since).into(),
                        self.moment(entry.lent()).into(),
                        0u32.into(),
                        0u32.into(),
                        entry.is_leaving().into(),
                        pointer(entry.id).into(),
                        client.map_or_else(String::new, pointer).into(),
                        entry.process.unwrap_or(0).into(),
                        entry.encryption.clone().unwrap_or_default().into(),
                        application_name.into(),
                        entry.prepared().into(),
                        entry.id.into(),
                    ]);
                }
            }
        }
        rows
    }

    /// The sums and averages of each database.
    fn by_database(&self) -> BTreeMap<String, (Sums, Sums)> {
        let mut databases: BTreeMap<String, (Sums, Sums)> = BTreeMap::new();
        let tenants = self.service.tenants();
        let ledgers = tenants.iter().map(|tenant| (tenant.key.0.as_str(), &*tenant.ledger));
        for (name, ledger) in ledgers.chain([(NAME, &self.service.console_ledger)]) {
            let known = databases.entry(name.to_owned()).or_insert(([0; ENTRIES], [0; ENTRIES]));
            add_up(&mut known.0, ledger.sums());
            add_up(&mut known.1, averages(ledger.last_period()));
        }
        databases
    }

    fn stats(&self, choose: impl Fn(Sums, Sums) -> Vec<u64>) -> Vec<Row> {
        let row = |(name, (sums, averages)): (String, (Sums, Sums))| {
            let mut row: Row = vec![name.into()];
            row.extend(choose(sums, averages).into_iter().map(Value::from));
            row
        };
        self.by_database().into_iter().map(row).collect()
    }

    fn totals(&self) -> Vec<Row> {
        let (mut sums, mut averages) = ([0; ENTRIES], [0; ENTRIES]);
        for (more, average) in self.by_database().into_values() {
            add_up(&mut sums, more);
            add_up(&mut averages, average);
        }
        let rows = |prefix: &'static str, figures: Sums| {
            TOTALS.iter().zip(figures).map(move |(name, figure)| vec![format!("{prefix}_{name}").into(), figure.into()])
        };
        rows("total", sums).chain(rows("avg", averages)).collect()
    }

    fn lists(&self) -> Vec<Row> {
        let tenants = self.service.tenants();
        let servers: usize = tenants.iter().map(|tenant| open(tenant_figures(tenant))).sum();
        let lists = [
            ("databases", self.databases().len()),
            ("users", self.users().len()),
            ("peers", self.config.peers.len()),
            ("pools", tenants.len() + 1),
            ("peer_pools", self.config.peers.len()),
            ("free_clients", 0),
            ("used_clients", self.clients.len()),
            ("login_clients", self.service.lobby.count()),
            ("free_servers", 0),
            ("used_servers", servers),
            ("dns_names", 0),
            ("dns_zones", 0),
            ("dns_queries", 0),
            ("dns_pending", 0),
        ];
        lists.map(|(list, items)| vec![list.into(), items.into()]).to_vec()
    }

    /// A connection to a peer carries one cancel request and ends.
    fn peer_pools(&self) -> Vec<Row> {
        let row = |number: &u16| {
            let (active, waiting) = self.service.cancels.passing(*number);
            vec![(*number).into(), active.into(), waiting.into(), active.into(), 0u32.into()]
        };
        self.config.peers.keys().map(row).collect()
    }

    /// What a client and a server take while nothing flows; buffers are shared by those for whom something does.
    fn memory(&self) -> Vec<Row> {
        let servers: usize = self.service.tenants().iter().map(|tenant| open(tenant_figures(tenant))).sum();
        let client = size_of::<crate::client::Client>() + size_of::<session::Session>();
        let server = size_of::<pool::Connection<session::ServerMemory>>();
        let row = |(name, size, used): (&'static str, usize, usize)| {
            vec![name.into(), size.into(), used.into(), 0u32.into(), (size * used).into()]
        };
        [("client_cache", client, self.clients.len()), ("server_cache", server, servers)].map(row).to_vec()
    }

    fn pins(&self) -> Vec<Row> {
        let row = |client: &Sighting, (reason, since): &(classifier::PinReason, Instant)| {
            let held = self.now.saturating_duration_since(*since);
            vec![
                client.database.clone().into(),
                client.user.clone().into(),
                client.id.into(),
                reason.as_str().into(),
                self.moment(*since).into(),
                held.as_secs().into(),
                held.subsec_micros().into(),
            ]
        };
        self.clients.iter().flat_map(|client| client.pins.iter().map(move |pin| row(client, pin))).collect()
    }

    fn pin_totals(&self) -> Vec<Row> {
        let row = |(reason, total): (&classifier::PinReason, u64)| {
            let pinned = self.clients.iter().filter(|client| client.pins.iter().any(|(pin, _)| pin == reason)).count();
            vec![reason.as_str().into(), pinned.into(), total.into()]
        };
        PINS.iter().zip(self.pins).map(row).collect()
    }

    fn waits(&self, client: &Sighting) -> Duration {
        client.requested.map_or(Duration::ZERO, |since| self.now.saturating_duration_since(since))
    }

    /// A moment of the monotonic clock as a wall clock would have shown it.
    pub(super) fn moment(&self, moment: Instant) -> String {
        written(self.wall - self.now.saturating_duration_since(moment))
    }
}

fn add_up(sums: &mut Sums, more: Sums) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

/// The sums of a tenant's pools.
pub(crate) fn tenant_figures(tenant: &Tenant) -> Figures {
    let mut sum = Figures::default();
    tenant.pools().for_each(|(_, pool)| add(&mut sum, pool.figures()));
    sum
}

pub(crate) fn add(sum: &mut Figures, more: Figures) {
    sum.idle += more.idle;
    sum.leased += more.leased;
    sum.dialing += more.dialing;
    sum.waiting += more.waiting;
}

/// Connections of any state.
pub(crate) fn open(figures: Figures) -> usize {
    figures.idle + figures.leased + figures.dialing
}

fn mode(mode: PoolMode) -> &'static str {
    match mode {
        PoolMode::Session => "session",
        PoolMode::Transaction => "transaction",
        PoolMode::Statement => "statement",
    }
}

/// PgBouncer shows addresses in memory here, by which `link` leads from one row to another; a number does as well.
fn pointer(id: u64) -> String {
    format!("{id:#x}")
}

/// An address, a port, and a process of this machine.
fn address(peer: &pool::Peer) -> (String, u16, u32) {
    match peer {
        pool::Peer::Tcp(address) => (address.ip().to_string(), address.port(), 0),
        pool::Peer::Unix { process, .. } => ("unix".to_owned(), 0, process.map_or(0, i32::unsigned_abs)),
        pool::Peer::Gone => (String::new(), 0, 0),
    }
}

/// Whose surface this is, in the very words: there are tools that take them apart from either end.
pub(crate) const VERSION: &str = "PgBouncer 1.25.2";

const DATABASES: [Column; 17] = [
    ("name", Text),
    ("host", Text),
    ("port", Int4),
    ("database", Text),
    ("force_user", Text),
    ("pool_size", Int4),
    ("min_pool_size", Int4),
    ("reserve_pool_size", Int4),
    ("server_lifetime", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
    ("max_connections", Int4),
    ("current_connections", Int4),
    ("max_client_connections", Int4),
    ("current_client_connections", Int4),
    ("paused", Int4),
    ("disabled", Int4),
];

const POOLS: [Column; 17] = [
    ("database", Text),
    ("user", Text),
    ("cl_active", Int4),
    ("cl_waiting", Int4),
    ("cl_active_cancel_req", Int4),
    ("cl_waiting_cancel_req", Int4),
    ("sv_active", Int4),
    ("sv_active_cancel", Int4),
    ("sv_being_canceled", Int4),
    ("sv_idle", Int4),
    ("sv_used", Int4),
    ("sv_tested", Int4),
    ("sv_login", Int4),
    ("maxwait", Int4),
    ("maxwait_us", Int4),
    ("pool_mode", Text),
    ("load_balance_hosts", Text),
];

const USERS: [Column; 8] = [
    ("name", Text),
    ("pool_size", Text),
    ("reserve_pool_size", Text),
    ("pool_mode", Text),
    ("max_user_connections", Int4),
    ("current_connections", Int4),
    ("max_user_client_connections", Int4),
    ("current_client_connections", Int4),
];

const SOCKETS: [Column; 21] = [
    ("type", Text),
    ("user", Text),
    ("database", Text),
    ("replication", Text),
    ("state", Text),
    ("addr", Text),
    ("port", Int4),
    ("local_addr", Text),
    ("local_port", Int4),
    ("connect_time", Text),
    ("request_time", Text),
    ("wait", Int4),
    ("wait_us", Int4),
    ("close_needed", Int4),
    ("ptr", Text),
    ("link", Text),
    ("remote_pid", Int4),
    ("tls", Text),
    ("application_name", Text),
    ("prepared_statements", Int4),
    ("id", Int4),
];

const STATS: [Column; 23] = [
    ("database", Text),
    ("total_server_assignment_count", Numeric),
    ("total_xact_count", Numeric),
    ("total_query_count", Numeric),
    ("total_received", Numeric),
    ("total_sent", Numeric),
    ("total_xact_time", Numeric),
    ("total_query_time", Numeric),
    ("total_wait_time", Numeric),
    ("total_client_parse_count", Numeric),
    ("total_server_parse_count", Numeric),
    ("total_bind_count", Numeric),
    ("avg_server_assignment_count", Numeric),
    ("avg_xact_count", Numeric),
    ("avg_query_count", Numeric),
    ("avg_recv", Numeric),
    ("avg_sent", Numeric),
    ("avg_xact_time", Numeric),
    ("avg_query_time", Numeric),
    ("avg_wait_time", Numeric),
    ("avg_client_parse_count", Numeric),
    ("avg_server_parse_count", Numeric),
    ("avg_bind_count", Numeric),
];

const STATS_TOTALS: [Column; 12] = [
    ("database", Text),
    ("server_assignment_count", Numeric),
    ("xact_count", Numeric),
    ("query_count", Numeric),
    ("bytes_received", Numeric),
    ("bytes_sent", Numeric),
    ("xact_time", Numeric),
    ("query_time", Numeric),
    ("wait_time", Numeric),
    ("client_parse_count", Numeric),
    ("server_parse_count", Numeric),
    ("bind_count", Numeric),
];

const STATS_AVERAGES: [Column; 12] = [
    ("database", Text),
    ("server_assignment_count", Numeric),
    ("xact_count", Numeric),
    ("query_count", Numeric),
    ("bytes_received", Numeric),
    ("bytes_sent", Numeric),
    ("xact_time", Numeric),
    ("query_time", Numeric),
    ("wait_time", Numeric),
    ("avg_client_parse_count", Numeric),
    ("avg_server_parse_count", Numeric),
    ("avg_bind_count", Numeric),
];

/// In the order of the ledger's entries.
const TOTALS: [&str; ENTRIES] = [
    "server_assignment_count",
    "xact_count",
    "query_count",
    "client_bytes",
    "server_bytes",
    "xact_time",
    "query_time",
    "wait_time",
    "ps_client_parse_count",
    "ps_server_parse_count",
    "ps_bind_count",
];
