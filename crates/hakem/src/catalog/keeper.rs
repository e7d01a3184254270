//! The task that keeps a [`Lore`] up to date.
//!
//! Owns when the catalogues are read, of which server, and what follows when they cannot be.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use classifier::Rules;
use tokio::task::AbortHandle;
use topology::{NodeState, Writer};

use super::read::{ReadError, connect, fingerprint, read};
use super::{Lore, lock, rules};
use crate::clusters::Cluster;
use crate::service::Service;

/// Reads the catalogues, and again as often as it takes, until it is aborted.
pub(crate) fn keep(service: &Arc<Service>, lore: Arc<Lore>) -> AbortHandle {
    service.control.spawn(run(Arc::downgrade(service), lore)).abort_handle()
}

/// What was read last.
struct Known {
    fingerprint: String,
    rules: Rules,
}

async fn run(service: Weak<Service>, lore: Arc<Lore>) {
    let (mut known, mut failures): (Option<Known>, u32) = (None, 0);
    loop {
        let Some(alive) = service.upgrade() else { return };
        let began = Instant::now();
        let changes = lore.changes.load(Ordering::Acquire);
        let outcome = tokio::time::timeout(LOAD_TIME_MAX, refresh(&alive, &lore, &mut known, changes)).await;
        let interval = alive.config().routing.catalog_refresh;
        let pause = match outcome.unwrap_or(Err(ReadError::Timeout)) {
            Ok(()) => {
                failures = 0;
                succeed(&lore);
                interval
            }
            Err(error) => {
                failures += 1;
                fail(&lore, &error, changes, &mut known, rules(&alive.config().routing));
                let pause = RETRY_PAUSE * 2u32.saturating_pow(failures.min(10) - 1);
                Some(pause.min(interval.unwrap_or(RETRY_PAUSE_MAX).max(RETRY_PAUSE)))
            }
        };
        lore.settle(changes);
        drop(alive);
        // Whoever makes many changes in a row is not followed by as many loads.
        let settled = Instant::now() + (began.elapsed() * SETTLE_FACTOR).min(SETTLE_MAX);
        loop {
            tokio::select! {
                () = lore.wake.notified() => {
                    tokio::time::sleep_until(settled.max(Instant::now() + SETTLE_MIN).into()).await;
                    break;
                }
                () = tokio::time::sleep(pause.unwrap_or(FOREVER)) => {
                    let Some(alive) = service.upgrade() else { return };
                    if is_in_use(&alive, &lore) {
                        break;
                    }
                }
            }
        }
    }
}

/// Reads the catalogues if they are not what they were.
async fn refresh(
    service: &Service,
    lore: &Arc<Lore>,
    known: &mut Option<Known>,
    changes: u64,
) -> Result<(), ReadError> {
    let cluster = service.clusters().get(&lore.cluster).cloned().ok_or(ReadError::NoServer)?;
    let rules = rules(&service.config().routing);
    let is_first = known.is_none() && changes == lore.seen.load(Ordering::Acquire);
    let (host, port) = place(&cluster, is_first).await?;
    let options = cluster.login(&host, port, &lore.dbname);
    let client = connect(options, cluster.tls.as_ref(), CONNECT_TIME_MAX).await?;
    if let Some(known) = known
        && known.rules == rules
        && known.fingerprint == fingerprint(&client).await?
    {
        return Ok(());
    }
    let began = Instant::now();
    let (fingerprint, facts) = read(&client, rules.clone()).await?;
    drop(client);
    let (theirs, is_first) = (lore.clone(), known.is_none());
    // A large database's takes a while, and probes are not to wait for it.
    let concluded = tokio::task::spawn_blocking(move || {
        let catalog = facts.conclude();
        if catalog.is_opaque() && is_first {
            tracing::warn!(
                database = theirs.dbname,
                "an implicit cast or an operator of built-in types calls a function that may write: no statement is known to be a read"
            );
        }
        if theirs.classifier().catalog() != &catalog {
            theirs.publish(catalog, Instant::now());
        }
    });
    concluded.await.map_err(|error| ReadError::Failed(error.to_string()))?;
    let mut figures = lock(&lore.figures);
    figures.loads += 1;
    figures.loaded = Some(Instant::now());
    figures.load_time = began.elapsed();
    *known = Some(Known { fingerprint, rules });
    Ok(())
}

fn succeed(lore: &Lore) {
    let mut figures = lock(&lore.figures);
    figures.checked = Some(Instant::now());
    if figures.problem.take().is_some() {
        tracing::info!(cluster = lore.cluster, database = lore.dbname, "the catalog can be read again");
    }
}

/// The catalogues cannot be read. Reads do not wait for that: what the database says of its functions is not believed any more where it
/// may have changed, and what PostgreSQL brings along does not change.
fn fail(lore: &Lore, error: &ReadError, changes: u64, known: &mut Option<Known>, rules: Rules) {
    let is_dirty = changes != lore.seen.load(Ordering::Acquire);
    let mut catalog = lore.classifier().catalog().clone();
    if is_dirty && known.take().is_some() {
        catalog = catalog.outdated();
    }
    catalog.rule(rules);
    if &catalog != lore.classifier().catalog() {
        lore.publish(catalog, Instant::now());
    }
    let mut figures = lock(&lore.figures);
    figures.failures += 1;
    let problem = error.to_string();
    if figures.problem.as_ref() != Some(&problem) {
        tracing::warn!(
            cluster = lore.cluster,
            database = lore.dbname,
            "cannot read the catalog; functions of users go to the primary: {problem}"
        );
        figures.problem = Some(problem);
    }
}

/// The primary; for the first time a replica will do when there is none.
async fn place(cluster: &Cluster, is_first: bool) -> Result<(String, u16), ReadError> {
    let deadline = Instant::now() + PRIMARY_WAIT_MAX;
    loop {
        let (version, replica) = {
            let snapshot = cluster.watcher.snapshot();
            let address = |node: &topology::Node| (node.host.to_string(), node.port);
            if let Writer::Known(epoch) = &snapshot.writer
                && let Some(node) = snapshot.node(epoch.primary)
            {
                return Ok(address(node));
            }
            let mut nodes = snapshot.nodes.iter().filter(|_| is_first);
            (snapshot.version, nodes.find(|node| matches!(node.state, NodeState::Replica { .. })).map(address))
        };
        if tokio::time::timeout_at(deadline.into(), cluster.watcher.changed(version)).await.is_err() {
            return replica.ok_or(ReadError::NoServer);
        }
    }
}

fn is_in_use(service: &Service, lore: &Arc<Lore>) -> bool {
    service.tenants().iter().any(|tenant| Arc::ptr_eq(tenant.lore(), lore) && service.census.has(&tenant.key))
}

/// How long the catalogues of one database may take.
const LOAD_TIME_MAX: Duration = Duration::from_secs(90);

const CONNECT_TIME_MAX: Duration = Duration::from_secs(10);

/// How long a primary is waited for.
const PRIMARY_WAIT_MAX: Duration = Duration::from_secs(5);

/// The pause after the first failure; it doubles up to the interval of refreshes.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Between a change and the load that it causes at least, since another change may follow; between two loads at most. The larger the
/// database, the longer.
const SETTLE_MIN: Duration = Duration::from_millis(5);
const SETTLE_MAX: Duration = Duration::from_secs(5);
const SETTLE_FACTOR: u32 = 2;

const FOREVER: Duration = Duration::from_secs(100 * 365 * 86_400);
