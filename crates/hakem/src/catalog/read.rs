//! Reads a database's system catalogues over a connection of the control plane's.
//!
//! Owns the queries, and who is asked. What follows from the answers, `classifier::Facts` knows.

use std::pin::pin;
use std::time::Duration;

use classifier::{Argument, Catalog, Facts, Function, Object, Rules, Volatility};
use deadpool_postgres::{Client, Manager, ManagerConfig, Pool, RecyclingMethod};
use futures_util::TryStreamExt;
use pool::tls::{Tls, TlsOptions, Trust};
use tokio_postgres::config::SslMode;
use tokio_postgres::types::Type;
use tokio_postgres::{NoTls, Row};
use tokio_postgres_rustls::MakeRustlsConnect;

/// Why a database's catalogues were not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("there is no server to ask")]
    NoServer,
    #[error("the server did not answer in time")]
    Timeout,
    #[error("{0}")]
    Failed(String),
}

/// A connection that asks nobody's objects but PostgreSQL's own, and is closed when it is dropped. What it runs is short, or a matter of
/// volume: compiling it takes longer than running it, and it is nobody's business to take several processes for it. Where many objects
/// have just been made, statistics are of before, and nested loops that would do for a few take minutes.
pub(crate) async fn connect(
    mut options: tokio_postgres::Config,
    tls: Option<&Tls>,
    timeout: Duration,
) -> Result<Client, ReadError> {
    options.application_name("hakem catalog").connect_timeout(timeout).options(
        "-c search_path=pg_catalog -c jit=off -c max_parallel_workers_per_gather=0 -c work_mem=16MB -c enable_nestloop=off \
         -c default_transaction_read_only=on -c statement_timeout=60s",
    );
    let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match tls {
        Some(tls) => {
            options.ssl_mode(if tls.optional { SslMode::Prefer } else { SslMode::Require });
            Manager::from_config(options, MakeRustlsConnect::new(tls.config().clone()), recycling)
        }
        None => Manager::from_config(options, NoTls, recycling),
    };
    let pool = Pool::builder(manager).max_size(1).build().map_err(|error| failed(&error))?;
    pool.get().await.map_err(|error| failed(&error))
}

/// The catalogue of a database that is told by its address; blocks. Encrypted as libpq does it without a root certificate.
///
/// # Errors
/// When it cannot be reached, or read.
pub(crate) fn ask(database: tokio_postgres::Config, rules: Rules) -> anyhow::Result<Catalog> {
    let optional = database.get_ssl_mode() == SslMode::Prefer;
    let versions = rustls::ALL_VERSIONS;
    let anybody = TlsOptions { optional, trust: Trust::Anybody, roots: None, identity: None, versions, ciphers: &[] };
    let tls = (database.get_ssl_mode() != SslMode::Disable).then(|| Tls::new(&anybody)).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = connect(database, tls.as_ref(), ASK_TIME_MAX).await?;
        Ok(read(&client, rules).await?.1.conclude())
    })
}

/// What changes when the catalogues change.
pub(crate) async fn fingerprint(client: &Client) -> Result<String, ReadError> {
    let mut rows = pin!(client.query_typed_raw::<i32, _>(FINGERPRINT, []).await.map_err(|error| failed(&error))?);
    let row = rows.try_next().await.map_err(|error| failed(&error))?;
    let row = row.ok_or_else(|| ReadError::Failed("the fingerprint has no row".into()))?;
    row.try_get(0).map_err(|error| failed(&error))
}

/// All that the catalogues say, in one round trip, and their fingerprint at that moment.
pub(crate) async fn read(client: &Client, rules: Rules) -> Result<(String, Facts), ReadError> {
    let mut facts = Facts::new(rules);
    let mut fingerprint = String::new();
    // The types of parameters are stated, of which there are none: so nothing is prepared first.
    let mut rows =
        pin!(client.query_typed_raw::<i32, [(i32, Type); 0]>(LOAD, []).await.map_err(|error| failed(&error))?);
    while let Some(row) = rows.try_next().await.map_err(|error| failed(&error))? {
        match take(&row, &mut facts).map_err(|error| failed(&error))? {
            None => {}
            Some(print) => fingerprint = print,
        }
    }
    Ok((fingerprint, facts))
}

/// Takes one row; returns the fingerprint, if it is that.
fn take(row: &Row, facts: &mut Facts) -> Result<Option<String>, tokio_postgres::Error> {
    let text = |at: usize| row.try_get::<_, Option<&str>>(at).map(Option::unwrap_or_default);
    let object = |kind: usize, oid: usize| -> Result<Object, tokio_postgres::Error> {
        let id = row.try_get::<_, Option<u32>>(oid)?.unwrap_or_default();
        Ok(match text(kind)? {
            "f" => Object::Function(id),
            "r" => Object::Relation(id),
            "t" => Object::Type(id),
            "o" => Object::Operator(id),
            _ => Object::Anything,
        })
    };
    let (what, subject, schema, name, detail) = (text(0)?, object(1, 2)?, text(3)?, text(4)?, text(5)?);
    match (what, subject) {
        ("n", Object::Function(oid)) => {
            let volatility = volatility(detail);
            let argument = match detail.as_bytes().get(1) {
                Some(b'r') => Argument::Row,
                Some(b'v') => Argument::Value,
                _ => Argument::NotOne,
            };
            let extension = detail.get(2..).unwrap_or_default();
            facts.function(oid, Function { schema, name, volatility, extension, argument });
        }
        ("n", Object::Relation(oid)) => facts.relation(oid, schema, name, detail == "p"),
        ("n", Object::Type(oid)) => facts.domain(oid, schema, name),
        ("n", Object::Operator(oid)) => facts.operator(oid, name, detail == "s"),
        ("c", subject) => facts.calls(subject, name, volatility(detail)),
        ("e", subject) => facts.settings(subject, detail),
        ("w", subject) => facts.fires(subject, object(6, 7)?),
        ("l", subject) => facts.locks(subject),
        ("u", subject) => facts.uses(subject, object(6, 7)?),
        ("h", _) => return Ok(Some(detail.to_owned())),
        _ => {}
    }
    Ok(None)
}

fn volatility(letter: &str) -> Volatility {
    match letter.as_bytes().first() {
        Some(b'i') => Volatility::Immutable,
        Some(b's') => Volatility::Stable,
        _ => Volatility::Volatile,
    }
}

/// The causes as well: the outermost says "db error" only.
fn failed(error: &(dyn std::error::Error + 'static)) -> ReadError {
    let causes = std::iter::successors(Some(error), |error| error.source());
    ReadError::Failed(causes.map(ToString::to_string).collect::<Vec<_>>().join(": "))
}

/// How long a connection may take.
const ASK_TIME_MAX: Duration = Duration::from_secs(15);

const FINGERPRINT: &str = include_str!("fingerprint.sql");

const LOAD: &str = concat!(
    include_str!("load.sql"),
    "union all\nselect 'h', '*', 0, null, null, (",
    include_str!("fingerprint.sql"),
    "), null, null",
);
