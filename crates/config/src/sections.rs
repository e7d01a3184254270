//! The sections of `proxy.toml`: each key with its default and its limits, stated once, here.
//!
//! What a key means is told to the user in `proxy.toml` at the root of the repository, which a test compares with this file.
//! How sections refer to each other is checked in `config.rs`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::Address;
use crate::auth::{self, Auth};
use crate::limits::{self, CeilingOverrides, Ceilings, DATABASE_CEILINGS, TimeoutOverrides, Timeouts, USER_CEILINGS};
use crate::manager::Managers;
use crate::reader::Section;
use crate::secret::{self, Secret};
use crate::sharing::{self, Share};
use crate::tls::{ServerTls, Tls};
use crate::value::{FileMode, Keyword, Names, Size};

/// `[proxy]`: the program as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Where clients connect. Never empty. Port 0 lets the kernel choose.
    pub listen: Vec<SocketAddr>,
    /// Where clients of the same machine connect, if anywhere.
    pub unix_socket: Option<UnixSocket>,
    /// Where metrics, health and the status page are served, if anywhere.
    pub http_listen: Option<SocketAddr>,
    /// The number of worker threads; 0 is one per core.
    pub workers: usize,
    /// How many of them have clients even when there is little to do; the others join in as these are busy.
    pub workers_min: usize,
    /// What a worker has to send to many is sent together, where the kernel lets us (Linux, io_uring).
    pub io_uring: bool,
    /// The number of client connections, beyond which new ones are refused.
    pub max_client_conn: usize,
    /// The time a client has from connecting to the end of its login.
    pub client_login_timeout: Duration,
    /// The time that a shutdown waits for clients to finish.
    pub shutdown_timeout: Duration,
    /// The largest request, in bytes, that is retained and so can be retried; a larger one is streamed.
    pub message_retain_max: usize,
    /// A transaction that has sent its server more bytes than this is not run again elsewhere.
    pub transaction_retain_max: usize,
    /// The memory for one client's prepared statements, in bytes.
    pub statements_retain_max: usize,
    /// The number of connections that have not logged in yet, beyond which the oldest are dropped.
    pub logins_max: usize,
    /// The largest startup packet, in bytes.
    pub max_startup_packet_size: usize,
    /// The largest message of a client, in bytes.
    pub max_packet_size: usize,
    /// The number of this proxy among its peers; 0 is none.
    pub peer_id: u16,
    /// The longest that passing a cancel request on may take.
    pub cancel_wait_timeout: Duration,
    /// How dead peers are noticed; `None` leaves sockets without keepalive.
    pub keepalive: Option<Keepalive>,
    /// Where this proxy is; empty when that is not stated.
    pub zone: String,
}

/// The Unix sockets that clients connect to: one for each port of [`Proxy::listen`], named as PostgreSQL's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixSocket {
    /// The directory that they lie in.
    pub directory: PathBuf,
    /// Who may connect.
    pub mode: u32,
    /// The group that owns them, by name or by number; none for the process's own.
    pub group: Option<String>,
}

/// TCP keepalive of client and server connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// The silence before the first probe.
    pub idle: Duration,
    /// The time between probes.
    pub interval: Duration,
    /// The number of unanswered probes after which the peer is dead.
    pub count: u32,
    /// How long what was sent may stay without an acknowledgement before the peer is dead; `None` for the operating system's limit.
    pub user_timeout: Option<Duration>,
}

/// `[console]`: the admin console, which is the databases `hakem` and `pgbouncer`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Console {
    /// Who may do everything there.
    pub admin_users: Vec<String>,
    /// Who may look.
    pub stats_users: Vec<String>,
    /// The period that averages are of.
    pub stats_period: Duration,
}

/// `[log]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// The least severe level that is written.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

/// `[pool]`: server connections. The size, the mode and the overrides of both apply per server, database and user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// When a server connection goes back to the pool.
    pub mode: PoolMode,
    /// The most connections. Never 0.
    pub size: usize,
    /// The connections opened before they are needed, and not closed for being idle. Never more than `size`.
    pub min_size: usize,
    /// The connections beyond `size` for clients that wait long.
    pub reserve_size: usize,
    /// How long that is.
    pub reserve_timeout: Duration,
    /// What all users of a database may have together.
    pub max_db: Ceilings,
    /// What a user may have in all databases together.
    pub max_user: Ceilings,
    /// The most clients that wait for a connection.
    pub queue_max: usize,
    /// How long a client may take.
    pub timeouts: Timeouts,
    /// How long a client waits for a connection before it is told that it does.
    pub query_wait_notify: Option<Duration>,
    /// The longest that connecting and logging in to a server takes.
    pub server_connect_timeout: Duration,
    /// The idle time after which a connection above `min_size` is closed.
    pub server_idle_timeout: Option<Duration>,
    /// The time without clients and connections after which a database that no section names is forgotten; `None` for never.
    pub autodb_idle_timeout: Option<Duration>,
    /// The age at which a connection is closed instead of being reused; zero is after its first use.
    pub server_lifetime: Duration,
    /// The most connections that are being made to one server at a time.
    pub server_login_max: usize,
    /// The pause after a failed connection attempt.
    pub server_login_retry: Duration,
    /// What a connection must answer that has idled for `server_check_delay`, before it is lent; `None` for no check.
    pub server_check_query: Option<String>,
    /// The idle time after which a connection is checked.
    pub server_check_delay: Duration,
    /// What wipes a session off its server; empty for closing the connection instead.
    pub server_reset_query: String,
    /// Whether that is run after each transaction, too.
    pub server_reset_query_always: bool,
    /// The most prepared statements kept on one server connection.
    pub prepared_statements_max: usize,
}

/// `[routing]`: which server a statement goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routing {
    /// Whether reads may go to replicas at all.
    pub split: bool,
    /// How fresh a replica has to be for a session.
    pub consistency: Consistency,
    /// The most that a replica may lag, whatever the consistency but [`Consistency::Eventual`].
    pub max_lag: Duration,
    /// What keeps a session's statements on one node.
    pub affinity: Affinity,
    /// Whether what became of a commit is found out when its answer is lost.
    pub commit_resolution: bool,
    /// Whether a transaction that loses its server before its COMMIT is run again on another.
    pub transaction_replay: bool,
    /// The number of classified statements that are remembered.
    pub classifier_cache: usize,
    /// The part of the reads that the primary takes though a replica would do.
    pub primary_read_share: Share,
    /// The time in which a replica that has come back gets its full share of the reads.
    pub slow_start: Duration,
    /// The time between two looks at a database's catalogue; `None` for no look without a reason.
    pub catalog_refresh: Option<Duration>,
    /// Whether users' functions that are marked STABLE may run on replicas.
    pub trust_stable_functions: bool,
    /// Functions that may run on replicas, whatever they are marked.
    pub safe_functions: Vec<String>,
    /// Functions that must not, whatever they are marked.
    pub unsafe_functions: Vec<String>,
}

/// `[topology]`: how servers are watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    /// The time between probes of a server.
    pub probe_interval: Duration,
    /// The time between probes while sessions wait for a fresher replica or a primary. Never above `probe_interval`.
    pub probe_interval_waiting: Duration,
    /// The time after which a probe has failed.
    pub probe_timeout: Duration,
    /// The time between questions to cluster managers that cannot be watched.
    pub manager_interval: Duration,
    /// How long a planned switchover waits for open transactions.
    pub switchover_grace: Duration,
    /// The longest that a statement waits for a primary.
    pub failover_timeout: Duration,
}

/// `[[users]]`: somebody who may log in. The name is the key in [`crate::Config::users`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    /// The password or SCRAM-SHA-256 verifier; always there when every client is asked for a password, and
    /// the file is the only place where it could be.
    pub password: Option<Secret>,
    /// The user name towards the servers, when it differs.
    pub server_user: Option<String>,
    /// The password towards the servers, when it differs; never a verifier.
    pub server_password: Option<Secret>,
    /// What differs from the database and from the defaults.
    pub overrides: Overrides,
    /// Instead of [`Pool::max_user`].
    pub ceilings: CeilingOverrides,
}

/// `[clusters.NAME]`: one primary with its replicas, whichever of them is which at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// The servers. Never empty; no server is in two clusters.
    pub servers: Vec<Address>,
    /// How the replicas share the reads. A server that is not named has 1; one with 0 serves none as a replica.
    pub weights: BTreeMap<Address, u32>,
    /// Where the servers are, as far as that is stated.
    pub zones: BTreeMap<Address, String>,
    /// The system identifier of the servers; `None` where a manager or their majority says it.
    pub system_identifier: Option<u64>,
    /// The user of the probes.
    pub probe_user: String,
    /// The password of the probes.
    pub probe_password: Option<Secret>,
    /// The database of the probes.
    pub probe_database: String,
    /// How its servers are connected to.
    pub tls: ServerTls,
    /// Who is asked about its leader.
    pub managers: Managers,
}

/// `[peers.NUMBER]`: another proxy behind the same address, which may get cancel requests that are meant for this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// A host name or an IP address.
    pub host: String,
    /// The TCP port.
    pub port: u16,
    /// The most cancel requests on their way to it at a time, instead of [`Pool::size`].
    pub pool_size: Option<usize>,
}

/// `[databases.NAME]`: a database that clients may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    /// The cluster it lives in; always one of [`crate::Config::clusters`].
    pub cluster: String,
    /// Its name on the servers, when it differs.
    pub dbname: Option<String>,
    /// What differs from the defaults.
    pub overrides: Overrides,
    /// Instead of [`Pool::max_db`].
    pub ceilings: CeilingOverrides,
}

/// The settings that a database or a user may have of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overrides {
    /// Instead of [`Pool::size`].
    pub pool_size: Option<usize>,
    /// Instead of [`Pool::min_size`].
    pub min_pool_size: Option<usize>,
    /// Instead of [`Pool::reserve_size`].
    pub reserve_pool_size: Option<usize>,
    /// Instead of [`Pool::server_lifetime`].
    pub server_lifetime: Option<Duration>,
    /// Instead of [`Pool::mode`].
    pub pool_mode: Option<PoolMode>,
    /// Instead of [`Routing::consistency`].
    pub consistency: Option<Consistency>,
    /// Instead of [`Routing::max_lag`].
    pub max_lag: Option<Duration>,
    /// Instead of what [`Routing::split`] says.
    pub route: Option<Route>,
    /// Instead of [`Routing::primary_read_share`].
    pub primary_read_share: Option<Share>,
    /// Instead of [`Routing::affinity`].
    pub affinity: Option<Affinity>,
    /// Instead of [`Routing::commit_resolution`].
    pub commit_resolution: Option<bool>,
    /// Instead of [`Routing::transaction_replay`].
    pub transaction_replay: Option<bool>,
    /// Instead of [`Pool::timeouts`].
    pub timeouts: TimeoutOverrides,
}

/// When a server connection goes back to the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolMode {
    /// When the client disconnects.
    Session,
    /// At the end of each transaction.
    Transaction,
    /// At the end of each statement; transactions of several statements are refused.
    Statement,
}

/// How fresh a replica must be to answer a session's read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// It shows every write that this session was told is committed, and lags no more than `max_lag`.
    Session,
    /// It lags no more than `max_lag`.
    Bounded,
    /// Any replica that is up.
    Eventual,
    /// It shows every write to the database that any session of this proxy was told is committed.
    Global,
}

/// Where a session's statements go unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Route {
    /// Each statement to where it may be answered.
    Auto,
    /// All to the primary.
    Primary,
    /// Reads to a replica only.
    Replica,
}

/// What keeps a session's statements on one node, without keeping a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Affinity {
    /// Nothing.
    None,
    /// Reads stay on one replica, for as long as it is fresh enough.
    Node,
    /// Everything goes to the primary.
    Primary,
}

/// The severity of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogLevel {
    /// Something failed that an operator must look at.
    Error,
    /// Something is wrong, and was dealt with.
    Warn,
    /// Something happened that an operator wants to know.
    Info,
    /// For finding a fault.
    Debug,
    /// Everything.
    Trace,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Proxy {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Proxy {
        let keepalive = section.value("tcp_keepalive", true);
        let timing = Keepalive {
            // The kernel counts whole seconds.
            idle: section.within("tcp_keepalive_idle", seconds(30), seconds(1)..=seconds(32_767)),
            interval: section.within("tcp_keepalive_interval", seconds(10), seconds(1)..=seconds(32_767)),
            count: section.within("tcp_keepalive_count", 3, 1..=127),
            user_timeout: limits::limit(section.within(
                "tcp_user_timeout",
                Duration::ZERO,
                Duration::ZERO..=DURATION_MAX,
            )),
        };
        let listen = section.value("listen", vec![SocketAddr::from(([127, 0, 0, 1], 6432))]);
        let http_listen = section.value("http_listen", Some(SocketAddr::from(([127, 0, 0, 1], 6433))));
        if let Some(address) = http_listen.filter(|address| address.port() != 0 && listen.contains(address)) {
            let place = section.place_of("http_listen").or_else(|| section.place_of("listen"));
            section.problem(place, format!("\"http_listen\" {address} is in \"listen\" too"));
        }
        let directory = section.value("unix_socket_dir", String::new());
        let mode = section.value("unix_socket_mode", FileMode(0o777)).0;
        let group = section.value("unix_socket_group", String::new());
        if !directory.is_empty() && !directory.starts_with('/') {
            let place = section.place_of("unix_socket_dir");
            section.problem(place, format!("\"unix_socket_dir\" must begin with \"/\", not {directory:?}"));
        }
        let workers = count(section.within("workers", 0, 0..=1024));
        let workers_min = count(section.within("workers_min", 1, 1..=1024));
        if workers > 0 && workers_min > workers {
            let problem = format!("\"workers_min\" {workers_min} is more than \"workers\" {workers}");
            section.problem(section.place_of("workers_min"), problem);
        }
        let unix_socket = UnixSocket { directory: directory.into(), mode, group: (!group.is_empty()).then_some(group) };
        Proxy {
            listen,
            unix_socket: (!unix_socket.directory.as_os_str().is_empty()).then_some(unix_socket),
            http_listen,
            workers,
            workers_min,
            io_uring: section.value("io_uring", true),
            max_client_conn: count(section.within("max_client_conn", 10_000, 1..=1_000_000)),
            client_login_timeout: section.within("client_login_timeout", seconds(15), TIMEOUT_MIN..=DURATION_MAX),
            shutdown_timeout: section.within("shutdown_timeout", seconds(30), Duration::ZERO..=DURATION_MAX),
            message_retain_max: section.within("message_retain_max", Size(1 << 20), Size(1 << 10)..=Size(1 << 30)).0,
            transaction_retain_max: section
                .within("transaction_retain_max", Size(1 << 20), Size(1 << 10)..=Size(1 << 30))
                .0,
            statements_retain_max: section
                .within("statements_retain_max", Size(1 << 30), Size(1 << 16)..=Size(1 << 40))
                .0,
            logins_max: count(section.within("logins_max", 2000, 1..=1_000_000)),
            max_startup_packet_size: section
                .within("max_startup_packet_size", Size(10_000), Size(1 << 10)..=Size(1 << 20))
                .0,
            max_packet_size: section
                .within("max_packet_size", Size(1 << 30), Size(1 << 14)..=Size(i32::MAX as usize))
                .0,
            peer_id: section.within("peer_id", 0, 0..=u32::from(PEER_ID_MAX)) as u16,
            cancel_wait_timeout: section.within("cancel_wait_timeout", seconds(10), TIMEOUT_MIN..=DURATION_MAX),
            keepalive: keepalive.then_some(timing),
            zone: section.value("zone", String::new()),
        }
    }
}

impl Console {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Console {
        let users = |section: &mut Section<'_, '_>, key| {
            let Names(names) = section.value(key, Names(Vec::new()));
            names.iter().for_each(|name| check_name(section, key, name));
            names
        };
        Console {
            admin_users: users(section, "admin_users"),
            stats_users: users(section, "stats_users"),
            stats_period: section.within("stats_period", seconds(60), seconds(1)..=seconds(86_400)),
        }
    }
}

impl Log {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Log {
        Log { level: section.value("level", LogLevel::Info), format: section.value("format", LogFormat::Text) }
    }
}

impl Pool {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Pool {
        let pool = Pool {
            mode: section.value("mode", PoolMode::Transaction),
            size: count(section.within("size", 20, 1..=POOL_SIZE_MAX)),
            min_size: count(section.within("min_size", 0, 0..=POOL_SIZE_MAX)),
            reserve_size: count(section.within("reserve_size", 0, 0..=POOL_SIZE_MAX)),
            reserve_timeout: section.within("reserve_timeout", seconds(5), Duration::ZERO..=DURATION_MAX),
            max_db: Ceilings::read(section, DATABASE_CEILINGS),
            max_user: Ceilings::read(section, USER_CEILINGS),
            queue_max: count(section.within("queue_max", 10_000, 1..=1_000_000)),
            timeouts: Timeouts::read(section),
            query_wait_notify: limits::limit(section.within(
                "query_wait_notify",
                seconds(5),
                Duration::ZERO..=DURATION_MAX,
            )),
            server_connect_timeout: section.within("server_connect_timeout", seconds(15), TIMEOUT_MIN..=DURATION_MAX),
            server_idle_timeout: limits::limit(section.within(
                "server_idle_timeout",
                seconds(600),
                Duration::ZERO..=DURATION_MAX,
            )),
            autodb_idle_timeout: limits::limit(section.within(
                "autodb_idle_timeout",
                seconds(3600),
                Duration::ZERO..=DURATION_MAX,
            )),
            server_lifetime: section.within("server_lifetime", seconds(3600), Duration::ZERO..=DURATION_MAX),
            server_login_max: count(section.within("server_login_max", 16, 1..=10_000)),
            server_login_retry: section.within("server_login_retry", seconds(1), TIMEOUT_MIN..=DURATION_MAX),
            server_check_query: match section.value("server_check_query", String::new()).as_str() {
                "" => None,
                query => Some(query.to_owned()),
            },
            server_check_delay: section.within("server_check_delay", seconds(30), Duration::ZERO..=DURATION_MAX),
            server_reset_query: section.value("server_reset_query", "DISCARD ALL".to_owned()),
            server_reset_query_always: section.value("server_reset_query_always", false),
            prepared_statements_max: count(section.within("prepared_statements_max", 200, 1..=65_536)),
        };
        if pool.min_size > pool.size {
            let place = section.place_of("min_size").or_else(|| section.place_of("size"));
            section.problem(place, format!("\"min_size\" {} is more than \"size\" {}", pool.min_size, pool.size));
        }
        pool
    }
}

impl Routing {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Routing {
        Routing {
            split: section.value("split", true),
            consistency: section.value("consistency", Consistency::Session),
            max_lag: section.within("max_lag", seconds(1), TIMEOUT_MIN..=DURATION_MAX),
            affinity: section.value("affinity", Affinity::None),
            commit_resolution: section.value("commit_resolution", false),
            transaction_replay: section.value("transaction_replay", false),
            classifier_cache: count(section.within("classifier_cache", 10_000, 1..=10_000_000)),
            primary_read_share: section.within("primary_read_share", Share::NONE, Share::NONE..=Share::ALL),
            slow_start: section.within("slow_start", seconds(10), Duration::ZERO..=seconds(3600)),
            catalog_refresh: limits::limit(section.within(
                "catalog_refresh",
                seconds(60),
                Duration::ZERO..=DURATION_MAX,
            )),
            trust_stable_functions: section.value("trust_stable_functions", false),
            safe_functions: section.value("safe_functions", Names(Vec::new())).0,
            unsafe_functions: section.value("unsafe_functions", Names(Vec::new())).0,
        }
    }
}

impl Topology {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Topology {
        let millis = Duration::from_millis;
        let topology = Topology {
            probe_interval: section.within("probe_interval", millis(100), TIMEOUT_MIN..=seconds(3600)),
            probe_interval_waiting: section.within("probe_interval_waiting", millis(10), TIMEOUT_MIN..=seconds(3600)),
            probe_timeout: section.within("probe_timeout", seconds(1), TIMEOUT_MIN..=seconds(3600)),
            switchover_grace: section.within("switchover_grace", seconds(5), Duration::ZERO..=seconds(3600)),
            manager_interval: section.within("manager_interval", seconds(1), TIMEOUT_MIN..=seconds(3600)),
            failover_timeout: section.within("failover_timeout", seconds(30), Duration::ZERO..=DURATION_MAX),
        };
        if topology.probe_interval_waiting > topology.probe_interval {
            let place = section.place_of("probe_interval_waiting").or_else(|| section.place_of("probe_interval"));
            section.problem(place, "\"probe_interval_waiting\" is longer than \"probe_interval\"");
        }
        topology
    }
}

impl User {
    pub(crate) fn read(section: &mut Section<'_, '_>, auth: &Auth, pool: &Pool) -> User {
        let password: Option<Secret> = section.optional("password");
        let flaw = password.as_ref().and_then(|password| auth::password_flaw(password, auth.method));
        if password.is_none() && section.place_of("password").is_none() && !auth.admits_unlisted() {
            let place = section.place();
            section.problem(place, "a user needs a \"password\" unless [auth] method is \"trust\"");
        }
        if let Some(flaw) = flaw {
            let place = section.place_of("password");
            section.problem(place, format!("\"password\" {flaw}"));
        }
        let server_password = plain_password(section, "server_password");
        let server_user = optional_name(section, "server_user");
        let ceilings = CeilingOverrides::read(section, USER_CEILINGS);
        User { password, server_user, server_password, overrides: Overrides::read(section, pool), ceilings }
    }
}

impl Cluster {
    pub(crate) fn read(section: &mut Section<'_, '_>, tls: &Tls) -> Cluster {
        let servers: Vec<Address> = section.required("servers").unwrap_or_default();
        let weights = sharing::weights(section, &servers);
        Cluster {
            weights,
            zones: sharing::of_servers(section, "zones", &servers),
            servers,
            system_identifier: section.optional("system_identifier"),
            probe_user: name(section, "probe_user", "postgres"),
            probe_password: plain_password(section, "probe_password"),
            probe_database: name(section, "probe_database", "postgres"),
            tls: ServerTls::read(section, &tls.server),
            managers: Managers::read(section),
        }
    }
}

impl Peer {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Peer {
        let host = section.required::<String>("host").unwrap_or_default();
        if host.is_empty() && section.place_of("host").is_some() {
            let place = section.place_of("host");
            section.problem(place, "\"host\" must not be empty");
        }
        Peer {
            host,
            port: section.within("port", 6432_u32, 1..=65_535) as u16,
            pool_size: section.optional_within("pool_size", 1..=POOL_SIZE_MAX).map(count),
        }
    }
}

impl Overrides {
    pub(crate) fn read(section: &mut Section<'_, '_>, pool: &Pool) -> Overrides {
        let pool_size = section.optional_within("pool_size", 1..=POOL_SIZE_MAX).map(count);
        if let Some(size) = pool_size.filter(|size| *size < pool.min_size) {
            let place = section.place_of("pool_size");
            section
                .problem(place, format!("\"pool_size\" {size} is less than \"min_size\" {} in [pool]", pool.min_size));
        }
        Overrides {
            pool_size,
            min_pool_size: section.optional_within("min_pool_size", 0..=POOL_SIZE_MAX).map(count),
            reserve_pool_size: section.optional_within("reserve_pool_size", 0..=POOL_SIZE_MAX).map(count),
            server_lifetime: section.optional_within("server_lifetime", Duration::ZERO..=DURATION_MAX),
            pool_mode: section.optional("pool_mode"),
            consistency: section.optional("consistency"),
            max_lag: section.optional_within("max_lag", TIMEOUT_MIN..=DURATION_MAX),
            route: section.optional("route"),
            primary_read_share: section.optional_within("primary_read_share", Share::NONE..=Share::ALL),
            affinity: section.optional("affinity"),
            commit_resolution: section.optional("commit_resolution"),
            transaction_replay: section.optional("transaction_replay"),
            timeouts: TimeoutOverrides::read(section),
        }
    }
}

impl Keyword for PoolMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("transaction", Self::Transaction), ("session", Self::Session), ("statement", Self::Statement)];
}

impl Keyword for Consistency {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("session", Self::Session),
        ("bounded", Self::Bounded),
        ("eventual", Self::Eventual),
        ("global", Self::Global),
    ];
}

impl Keyword for Route {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("primary", Self::Primary), ("replica", Self::Replica)];
}

impl Keyword for Affinity {
    const WORDS: &'static [(&'static str, Self)] =
        &[("none", Self::None), ("node", Self::Node), ("primary", Self::Primary)];
}

impl Keyword for LogLevel {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];
}

impl Keyword for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("text", Self::Text), ("json", Self::Json)];
}

/// A key that holds the name of a database or a user on the servers.
pub(crate) fn optional_name(section: &mut Section<'_, '_>, key: &'static str) -> Option<String> {
    let name: Option<String> = section.optional(key);
    if let Some(name) = &name {
        check_name(section, key, name);
    }
    name
}

fn name(section: &mut Section<'_, '_>, key: &'static str, default: &str) -> String {
    let name = section.value(key, default.to_owned());
    check_name(section, key, &name);
    name
}

/// Notes a problem when the value of a key cannot be the name of a user, a database or a cluster.
pub(crate) fn check_name(section: &mut Section<'_, '_>, key: &'static str, name: &str) {
    if let Some(flaw) = name_flaw(name) {
        let place = section.place_of(key);
        section.problem(place, format!("{key:?} {flaw}"));
    }
}

/// A key that holds a password to log in with.
pub(crate) fn plain_password(section: &mut Section<'_, '_>, key: &'static str) -> Option<Secret> {
    let password: Option<Secret> = section.optional(key);
    if password.as_ref().is_some_and(|password| secret::is_hash(password.expose())) {
        let place = section.place_of(key);
        section.problem(place, format!("{key:?} must be plain text: nobody can log in with a verifier"));
    }
    password
}

/// Why a text cannot be the name of a user, a database or a cluster.
pub(crate) fn name_flaw(name: &str) -> Option<String> {
    match name {
        "" => Some("must not be empty".into()),
        // PostgreSQL would cut it off silently, so that two names became one.
        _ if name.len() > NAME_BYTES_MAX => Some(format!("has more than {NAME_BYTES_MAX} bytes")),
        _ if name.chars().any(char::is_control) => Some("must not contain control characters".into()),
        _ => None,
    }
}

pub(crate) const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Counts are read as `u32`, which fits everywhere that this program runs.
fn count(number: u32) -> usize {
    number as usize
}

/// PostgreSQL's NAMEDATALEN, less the closing zero byte.
pub(crate) const NAME_BYTES_MAX: usize = 63;
/// PgBouncer's limit, so that the two can be peers.
pub(crate) const PEER_ID_MAX: u16 = 16_383;
const POOL_SIZE_MAX: u32 = 10_000;
/// A timeout of nothing would fail everything, an interval of nothing would never rest.
pub(crate) const TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// Longer is a slip of the pen; and a moment this far ahead can still be computed.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(365 * 86_400);
