//! One prober per server: asks it, and returns what it said or why it did not.
//!
//! It owns the server's one control-plane connection. It decides nothing: what an answer or a loss means for the
//! cluster is `combine`'s and `board`'s to say.

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::{ClientWrapper, Connect, Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::types::PgLsn;
use tokio_postgres::{Client, Config, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tracing::warn;

use crate::board::{Answer, Lost, Report, Role};
use crate::combine::LossKind;
use crate::lsn::WalShape;
use crate::name::{Name, Whereabouts};
use crate::options::Options;
use crate::snapshot::Fork;

/// Asks one server.
pub(crate) struct Prober {
    pool: Pool,
    link: Option<Link>,
    name: Option<Arc<Name>>,
    timeout: Duration,
    hung_up: Arc<Notify>,
}

/// Why a server did not answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("no answer within {0:?}")]
    Silent(Duration),
    #[error(transparent)]
    Connect(#[from] PoolError),
    #[error("the answer makes no sense: {0}")]
    Nonsense(&'static str),
}

/// An open connection and what does not change during its life.
struct Link {
    client: ClientWrapper,
    system_identifier: u64,
    started: u64,
    shape: WalShape,
    /// The newest timeline that this server has shown on this connection. A standby only ever goes to newer ones
    /// without a restart, so this cannot become wrong when its WAL receiver is away.
    timeline: u32,
    /// When the control file was read.
    identified: Instant,
    /// It has been seen in recovery.
    followed: bool,
    /// Where it has left recovery, as a primary that was seen in it on this very connection: since then it has not been restarted.
    fork: Option<Fork>,
    /// The login may not see the WAL receiver, and that has been logged.
    blindfold: bool,
    answers: u64,
}

impl Prober {
    /// A prober of the server at `host` and `port`. It connects when it first probes.
    /// `whereabouts`: where the address is noted that it has connected to.
    pub(crate) fn new(options: &Options, host: &str, port: u16, whereabouts: Whereabouts) -> Prober {
        let name = Name::new(host, port, whereabouts);
        let hung_up = Arc::new(Notify::new());
        let tls = options.tls.clone().map(MakeRustlsConnect::new);
        let dial = Dial { hung_up: Arc::clone(&hung_up), tls, tls_optional: options.tls_optional, name: name.clone() };
        let manager = Manager::from_connect(
            login(options, host, port),
            dial,
            ManagerConfig { recycling_method: RecyclingMethod::Fast },
        );
        let pool = Pool::builder(manager)
            .max_size(CONNECTIONS_PER_SERVER)
            .build()
            .expect("a pool without timeouts needs no runtime, the only thing that build asks for");
        Prober { pool, link: None, name, timeout: options.probe_timeout, hung_up }
    }

    /// Is notified when the connection ends by itself.
    pub(crate) fn hung_up(&self) -> Arc<Notify> {
        Arc::clone(&self.hung_up)
    }

    /// Asks once; never takes much longer than the probe's timeout. While there is a connection, it gets half of the
    /// time; if it fails, a new one gets the rest. So neither a broken connection nor a single lost packet makes a
    /// server lost.
    pub(crate) async fn probe(&mut self) -> Report {
        let asked = Instant::now();
        if self.link.is_some() && self.name.as_ref().is_some_and(Name::has_moved) {
            self.link = None;
        }
        if self.link.is_some()
            && let Ok(answer) = self.attempt(self.timeout / 2).await
        {
            return Report::Answered(answer);
        }
        let rest = self.timeout.saturating_sub(asked.elapsed());
        match self.attempt(rest).await {
            Ok(answer) => Report::Answered(answer),
            Err(failure) => {
                let (kind, reason) = failure.classify();
                Report::Lost(Lost { asked, at: Instant::now(), kind, reason: reason.into() })
            }
        }
    }

    /// Leaves the connection behind only if it is good.
    async fn attempt(&mut self, limit: Duration) -> Result<Answer, Failure> {
        let link = self.link.take();
        let attempt = async {
            let mut link = match link {
                Some(link) => link,
                None => Link::open(&self.pool).await?,
            };
            let answer = link.ask().await?;
            let address = self.name.as_ref().and_then(|name| name.address());
            Ok::<_, Failure>((link, Answer { address, ..answer }))
        };
        let (link, answer) = tokio::time::timeout(limit, attempt).await.map_err(|_| Failure::Silent(limit))??;
        self.link = Some(link);
        Ok(answer)
    }
}

impl Link {
    async fn open(pool: &Pool) -> Result<Link, Failure> {
        // Taken out of the pool at once, so that a connection given up half-way (the future of an attempt is dropped
        // when its time is over) is closed and not handed out again.
        let client = Object::take(pool.get().await?);
        let control = Control::read(&client).await?;
        Ok(Link {
            client,
            system_identifier: control.system_identifier,
            started: control.started,
            shape: control.shape,
            timeline: control.timeline,
            identified: Instant::now(),
            followed: false,
            fork: None,
            blindfold: false,
            answers: 0,
        })
    }

    async fn ask(&mut self) -> Result<Answer, Failure> {
        let statement = self.client.prepare_cached(STATE).await.map_err(PoolError::Backend)?;
        // The moment that freshness is counted from: nothing may be sent before it is noted.
        let asked = Instant::now();
        let row = self.client.query_one(&statement, &[]).await.map_err(PoolError::Backend)?;
        let answered = Instant::now();
        let lsn = |column: &str| -> Result<u64, Failure> {
            let lsn: Option<PgLsn> = row.try_get(column).map_err(PoolError::Backend)?;
            Ok(lsn.map_or(0, u64::from))
        };
        let in_recovery: bool = row.try_get("in_recovery").map_err(PoolError::Backend)?;
        let role = if in_recovery {
            let received: Option<i32> = row.try_get("received_tli").map_err(PoolError::Backend)?;
            let hidden = received.is_none() && row.try_get("has_receiver").map_err(PoolError::Backend)?;
            if hidden && !self.blindfold {
                self.blindfold = true;
                warn!(
                    "the probe's login is not a member of pg_monitor: after a failover replicas stay unused for minutes"
                );
            }
            match received {
                Some(received) => self.timeline = self.timeline.max(received.cast_unsigned()),
                // No receiver, or one that this login may not see. Then the control file is the only proof.
                None if self.identified.elapsed() >= CONTROL_FILE_INTERVAL => {
                    self.timeline = self.timeline.max(Control::read(&self.client).await?.timeline);
                    self.identified = Instant::now();
                }
                None => {}
            }
            self.followed = true;
            let status: Option<String> = row.try_get("status").map_err(PoolError::Backend)?;
            Role::Replica {
                replay_lsn: lsn("lsn")?,
                receive_lsn: lsn("receive_lsn")?,
                streaming: status.as_deref() == Some("streaming"),
            }
        } else {
            let parent = self.timeline;
            let file: Option<String> = row.try_get("walfile").map_err(PoolError::Backend)?;
            self.timeline = file
                .as_deref()
                .and_then(|file| u32::from_str_radix(file.get(..8)?, 16).ok())
                .ok_or(Failure::Nonsense("the WAL file's name does not begin with a timeline"))?;
            // The next number: there is no timeline that it can have followed in between unseen.
            if std::mem::take(&mut self.followed) && self.timeline == parent + 1 {
                self.fork = Some(Fork { parent, lsn: lsn("replayed")? });
            }
            Role::Primary { insert_lsn: lsn("lsn")?, shape: self.shape, fork: self.fork }
        };
        self.answers += 1;
        Ok(Answer {
            asked,
            answered,
            first: self.answers == 1,
            system_identifier: self.system_identifier,
            started: self.started,
            address: None,
            timeline: self.timeline,
            role,
        })
    }
}

/// What the control file says.
struct Control {
    system_identifier: u64,
    started: u64,
    timeline: u32,
    shape: WalShape,
}

impl Control {
    async fn read(client: &ClientWrapper) -> Result<Control, Failure> {
        let statement = client.prepare_cached(CONTROL).await.map_err(PoolError::Backend)?;
        let row = client.query_one(&statement, &[]).await.map_err(PoolError::Backend)?;
        let number = |column: &str| -> Result<u64, Failure> {
            Ok(row.try_get::<_, i64>(column).map_err(PoolError::Backend)?.cast_unsigned())
        };
        Ok(Control {
            // An unsigned number that the function shows as a signed one.
            system_identifier: number("system_identifier")?,
            started: number("started")?,
            timeline: u32::try_from(number("timeline")?)
                .map_err(|_| Failure::Nonsense("the timeline in the control file is out of range"))?,
            shape: WalShape::new(number("page")?, number("segment")?)
                .ok_or(Failure::Nonsense("the WAL's page and segment sizes are none that a server has"))?,
        })
    }
}

/// Opens connections whose end is noticed at once, not at the next probe.
struct Dial {
    hung_up: Arc<Notify>,
    tls: Option<MakeRustlsConnect>,
    tls_optional: bool,
    name: Option<Arc<Name>>,
}

impl Connect for Dial {
    fn connect(
        &self,
        config: &Config,
    ) -> Pin<Box<dyn Future<Output = Result<(Client, JoinHandle<()>), tokio_postgres::Error>> + Send + '_>> {
        let mut config = config.clone();
        Box::pin(async move {
            let Some(name) = &self.name else { return self.secure(&mut config).await };
            // Without an address the attempt fails in the operating system's words.
            let Some(address) = name.choose().await else { return self.secure(&mut config).await };
            let opened = self.secure(config.hostaddr(address)).await;
            name.tried(address, opened.is_ok());
            opened
        })
    }
}

/// Whether another attempt in the clear may do better.
fn may_do_in_the_clear(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        // A handshake that failed comes as rustls's error inside of the operating system's.
        None => {
            let cause = error.source().and_then(|source| source.downcast_ref::<io::Error>());
            cause.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>())
        }
    }
}

impl Dial {
    /// Connects, encrypted as demanded.
    async fn secure(&self, config: &mut Config) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error> {
        let Some(tls) = self.tls.clone() else { return self.open(config, NoTls).await };
        if !self.tls_optional {
            return self.open(config.ssl_mode(SslMode::Require), tls).await;
        }
        match self.open(config.ssl_mode(SslMode::Prefer), tls).await {
            // As libpq's "prefer" does after a failed handshake, and when pg_hba.conf has no line for encrypted connections.
            Err(error) if may_do_in_the_clear(&error) => self.open(config.ssl_mode(SslMode::Disable), NoTls).await,
            opened => opened,
        }
    }

    async fn open<T>(&self, config: &Config, tls: T) -> Result<(Client, JoinHandle<()>), tokio_postgres::Error>
    where
        T: MakeTlsConnect<Socket, Stream: Send + 'static, TlsConnect: Send + TlsConnect<Socket, Future: Send>>,
    {
        let (client, connection) = config.connect(tls).await?;
        let hung_up = Arc::clone(&self.hung_up);
        let task = tokio::spawn(async move {
            // How it ended does not matter: the probe that follows finds out what the server has to say.
            let _end = connection.await;
            hung_up.notify_one();
        });
        Ok((client, task))
    }
}

impl Failure {
    /// How strong the evidence is, and the story in words.
    fn classify(&self) -> (LossKind, String) {
        let error = match self {
            Failure::Silent(_) => return (LossKind::Silent, self.to_string()),
            Failure::Nonsense(_) => return (LossKind::Rejected, self.to_string()),
            Failure::Connect(PoolError::Backend(error)) => error,
            Failure::Connect(_) => return (LossKind::Silent, self.to_string()),
        };
        if let Some(answer) = error.as_db_error() {
            let reason = format!("{} (SQLSTATE {})", answer.message(), answer.code().code());
            // Class 57 at login: starting up, shutting down, crashed. 57014 is our own statement_timeout.
            let kind = match answer.code().code() {
                "57014" => LossKind::Silent,
                code if code.starts_with("57") => LossKind::Refused,
                _ => LossKind::Rejected,
            };
            return (kind, reason);
        }
        let reason = match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let kind = match error.source().and_then(|source| source.downcast_ref::<io::Error>()).map(io::Error::kind) {
            // Nobody listens on the port, or the socket file is gone.
            Some(io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => LossKind::Refused,
            Some(_) => LossKind::Silent,
            None if error.is_closed() => LossKind::Silent,
            None => LossKind::Rejected,
        };
        (kind, reason)
    }
}

/// The pool only opens connections, one at a time: the prober keeps the one it has.
const CONNECTIONS_PER_SERVER: usize = 1;

/// How often the control file is read where it is the only proof of a standby's timeline.
const CONTROL_FILE_INTERVAL: Duration = Duration::from_secs(1);

/// Read once per connection. A standby's timeline in it is that of its last restartpoint or of what it has flushed:
/// old perhaps, never too new.
const CONTROL: &str = "
    SELECT s.system_identifier,
           greatest(c.timeline_id, r.min_recovery_end_timeline)::int8 AS timeline,
           i.wal_block_size::int8 AS page,
           i.bytes_per_wal_segment::int8 AS segment,
           (date_part('epoch', pg_postmaster_start_time()) * 1000000)::int8 AS started
      FROM pg_control_system() s, pg_control_checkpoint() c, pg_control_recovery() r, pg_control_init() i";

/// Asked each time; reads shared memory only.
///
/// Why `received_tli` proves that a standby's replay LSN belongs to that timeline: the startup process asks its WAL
/// receiver for a timeline only when that timeline's history contains the position it has replayed up to
/// (`rescanLatestTimeLine`). A standby that is ahead of the fork never asks for the new timeline.
///
/// "If recovery has completed, then this will remain static at the location of the last WAL record replayed during that recovery"
/// (`pg_last_wal_replay_lsn`): on a server that was promoted that is where its timeline begins.
///
/// A primary's timeline is the one in its current WAL file's name. The control file of a server just promoted still
/// shows the old one, until the checkpoint that follows is done.
const STATE: &str = "
    SELECT r.in_recovery,
           CASE WHEN r.in_recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END AS lsn,
           pg_last_wal_receive_lsn() AS receive_lsn, pg_last_wal_replay_lsn() AS replayed,
           CASE WHEN NOT r.in_recovery THEN pg_walfile_name(pg_current_wal_insert_lsn()) END AS walfile,
           w.pid IS NOT NULL AS has_receiver, w.received_tli, w.status
      FROM (SELECT pg_is_in_recovery() AS in_recovery OFFSET 0) r
      LEFT JOIN pg_stat_wal_receiver w ON true";

fn login(options: &Options, host: &str, port: u16) -> Config {
    let mut config = Config::new();
    config
        .host(host)
        .port(port)
        .user(&options.user)
        .dbname(&options.database)
        .application_name(&options.application_name)
        // Belt and braces for the server's side: a probe that we gave up must not stay behind in it.
        .options(format!(
            "-c statement_timeout={limit} -c lock_timeout={limit} -c search_path=pg_catalog \
             -c default_transaction_read_only=on",
            limit = options.probe_timeout.as_millis().max(1)
        ));
    if let Some(password) = &options.password {
        config.password(password);
    }
    config
}
