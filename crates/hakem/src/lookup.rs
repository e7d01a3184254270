//! `auth_query`: a user's secret, asked of the primary by a user of the proxy's own.
//!
//! Owns the connections for it, which are the control plane's, and what they were told lately. Nothing of a client reaches these
//! connections but the name of its user, as a parameter (CVE-2025-12819); and an answer is about that user or about nobody, never
//! about the one who asks (CVE-2015-6817).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use auth::Secret;
use config::AuthQuery;
use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, RecyclingMethod};
use pool::Tls;
use tokio::task::{JoinError, JoinHandle};
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;
use topology::{Watcher, Writer};

use crate::secrets::Known;

/// Asks servers for secrets.
pub(crate) struct Lookup {
    query: AuthQuery,
    password: Option<String>,
    timeout: Duration,
    state: Arc<Mutex<State>>,
}

/// Where to ask about a client.
pub(crate) struct Place {
    pub(crate) watcher: Watcher,
    /// The database on the servers that the client asks for.
    pub(crate) dbname: String,
    /// The database that every cluster has.
    pub(crate) probe_database: String,
    /// How servers are connected to; `None` for in the clear.
    pub(crate) tls: Option<Tls>,
    /// Where the connections live: on a client's worker, they would have to wait for its clients.
    pub(crate) control: tokio::runtime::Handle,
}

/// Why there is no answer. What it is in detail is logged, and not for strangers.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("there is no primary to ask: {0}")]
    NoPrimary(String),
    #[error("the primary did not answer in time")]
    Timeout,
    #[error("{0}")]
    Failed(String),
}

#[derive(Default)]
struct State {
    /// By server and database.
    pools: HashMap<(String, u16, String), Pool>,
    answers: HashMap<Question, Answer>,
}

/// The server, the database there and the user that it is about.
type Question = (String, u16, String, String);

/// What was said, and when.
struct Answer {
    since: Instant,
    known: Option<Arc<Known>>,
}

impl Lookup {
    /// Asks nobody yet.
    pub(crate) fn new(query: AuthQuery, password: Option<String>, timeout: Duration) -> Lookup {
        Lookup { query, password, timeout, state: Arc::default() }
    }

    /// The secret of `user`; `None` when there is no such user, none who may log in, or none with a password that is still good.
    ///
    /// # Errors
    /// When nobody could be asked.
    pub(crate) async fn ask(&self, place: &Place, user: &str) -> Result<Option<Arc<Known>>, LookupError> {
        // What would be cut off is another user's name.
        if user.is_empty() || user.len() > NAME_BYTES_MAX {
            return Ok(None);
        }
        let dbname = match (&self.query.dbname, self.query.query == AuthQuery::DEFAULT) {
            (Some(dbname), _) => dbname,
            // Roles are the whole server's, and this database is there, whatever the client asks for.
            (None, true) => &place.probe_database,
            (None, false) => &place.dbname,
        };
        let deadline = Instant::now() + self.timeout;
        let (host, port) = primary(&place.watcher, deadline).await?;
        let key = (host.clone(), port, dbname.clone(), user.to_owned());
        if let Some(known) = self.remembered(&key) {
            return Ok(known);
        }
        let pool = self.pool((host, port, dbname.clone()), place.tls.as_ref())?;
        // Strangers who have gone are not in the queue any more.
        let turn = Turn(place.control.spawn(async move { pool.get().await.map_err(|error| failed(&error)) }));
        let client = until(deadline, turn).await??;
        // Whoever came at the same time may have asked while we waited for the connection.
        if let Some(known) = self.remembered(&key) {
            return Ok(known);
        }
        let (query, name, state) = (self.query.query.clone(), user.to_owned(), self.state.clone());
        // The connection is busy until there is an answer, whether or not anybody is still here to hear it.
        let asked = place.control.spawn(async move {
            let outcome = tokio::time::timeout_at(deadline.into(), question(&client, &query, &name)).await;
            let Ok(outcome) = outcome else {
                // There may never be one.
                drop(Client::take(client));
                return Err(LookupError::Timeout);
            };
            let known = outcome?;
            remember(&state, key, known.clone());
            Ok(known)
        });
        until(deadline, asked).await?
    }

    /// Asks about somebody of whom everything is known: or strangers could tell by the time who is. Whoever is known needs nobody's
    /// answer, and waits no longer for it than a server needs that is well.
    pub(crate) async fn feign(&self, place: &Place, user: &str) {
        let _ignored = tokio::time::timeout(FEIGNED_MAX, self.ask(place, user)).await;
    }

    fn remembered(&self, key: &Question) -> Option<Option<Arc<Known>>> {
        remembered(&self.state, key, self.query.cache)
    }

    fn pool(&self, key: (String, u16, String), tls: Option<&Tls>) -> Result<Pool, LookupError> {
        let mut state = lock(&self.state);
        if let Some(pool) = state.pools.get(&key) {
            return Ok(pool.clone());
        }
        let mut options = tokio_postgres::Config::new();
        options.host(&key.0).port(key.1).dbname(&key.2).user(&self.query.user).application_name("hakem auth_query");
        options.connect_timeout(self.timeout);
        if let Some(password) = &self.password {
            options.password(password);
        }
        // Nobody's objects can stand in for the catalog's. Who writes a query of his own may rely on a search_path.
        if self.query.query == AuthQuery::DEFAULT {
            options.options("-c search_path=pg_catalog");
        }
        let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
        let manager = match tls {
            Some(tls) => {
                options.ssl_mode(if tls.optional { SslMode::Prefer } else { SslMode::Require });
                Manager::from_config(options, MakeRustlsConnect::new(tls.config().clone()), recycling)
            }
            None => Manager::from_config(options, NoTls, recycling),
        };
        let pool = Pool::builder(manager).max_size(CONNECTIONS_MAX).build();
        let pool = pool.map_err(|error| LookupError::Failed(error.to_string()))?;
        // Strangers may ask for any database; what is forgotten is made again.
        if state.pools.len() >= POOLS_MAX {
            state.pools.clear();
        }
        state.pools.insert(key, pool.clone());
        Ok(pool)
    }
}

/// The address of the primary, once there is one.
async fn primary(watcher: &Watcher, deadline: Instant) -> Result<(String, u16), LookupError> {
    loop {
        let (reason, version) = {
            let snapshot = watcher.snapshot();
            match &snapshot.writer {
                Writer::Known(epoch) => {
                    let node = snapshot.node(epoch.primary).expect("a snapshot's primary is one of its nodes");
                    return Ok((node.host.to_string(), node.port));
                }
                Writer::None(reason) => (reason.to_string(), snapshot.version),
            }
        };
        if tokio::time::timeout_at(deadline.into(), watcher.changed(version)).await.is_err() {
            return Err(LookupError::NoPrimary(reason));
        }
    }
}

async fn question(client: &Client, query: &str, name: &str) -> Result<Option<Arc<Known>>, LookupError> {
    let statement = client.prepare_cached(query).await.map_err(|error| failed(&error))?;
    let rows = client.query(&statement, &[&name]).await.map_err(|error| failed(&error))?;
    read(&rows, name)
}

/// What a task comes to.
async fn until<T>(deadline: Instant, task: impl Future<Output = Result<T, JoinError>>) -> Result<T, LookupError> {
    let outcome = tokio::time::timeout_at(deadline.into(), task).await.map_err(|_| LookupError::Timeout)?;
    outcome.map_err(|error| LookupError::Failed(error.to_string()))
}

/// A task that ends when it is not waited for.
struct Turn<T>(JoinHandle<T>);

impl<T> Future for Turn<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Reads the answer: at most one row of a name and a secret.
fn read(rows: &[tokio_postgres::Row], user: &str) -> Result<Option<Arc<Known>>, LookupError> {
    let Some(row) = rows.first() else { return Ok(None) };
    let text = |at: usize| -> Result<Option<String>, LookupError> {
        row.try_get(at).map_err(|_| LookupError::Failed("auth_query must return a name and a secret, as text".into()))
    };
    let (name, secret) = (text(0)?, text(1)?);
    if name.as_deref() != Some(user) {
        return Err(LookupError::Failed("auth_query has returned another user than it was asked for".into()));
    }
    // NULL is no password: none was ever set, or it has expired (CVE-2025-2291). Nor is an empty one.
    let Some(secret) = secret.filter(|secret| !secret.is_empty()) else { return Ok(None) };
    match Secret::parse(&secret) {
        Ok(secret) => Ok(Some(Arc::new(Known::new(secret)))),
        Err(error) => Err(LookupError::Failed(error.to_string())),
    }
}

fn remembered(state: &Mutex<State>, key: &Question, cache: Duration) -> Option<Option<Arc<Known>>> {
    let state = lock(state);
    let Answer { since, known } = state.answers.get(key)?;
    (since.elapsed() < cache).then(|| known.clone())
}

fn remember(state: &Mutex<State>, key: Question, known: Option<Arc<Known>>) {
    let mut state = lock(state);
    // Strangers choose the names.
    if state.answers.len() >= ANSWERS_MAX {
        state.answers.clear();
    }
    state.answers.insert(key, Answer { since: Instant::now(), known });
}

/// The causes as well: the outermost says "db error" only.
fn failed(error: &(dyn std::error::Error + 'static)) -> LookupError {
    let causes = std::iter::successors(Some(error), |error| error.source());
    LookupError::Failed(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The longest that a question takes whose answer does not matter.
const FEIGNED_MAX: Duration = Duration::from_millis(100);

/// Connections to one server and database.
const CONNECTIONS_MAX: usize = 2;

/// Servers and databases that connections are kept to.
const POOLS_MAX: usize = 64;

/// Answers that are remembered.
const ANSWERS_MAX: usize = 10_000;

/// PostgreSQL's NAMEDATALEN, less the closing zero byte.
const NAME_BYTES_MAX: usize = 63;
