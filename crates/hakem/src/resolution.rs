//! What became of a commit whose answer was lost with its server: asked of the primary that there is, or of the next one.
//!
//! Owns the waiting and the asking. What the answer proves is the session's (`fate`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use session::{Fate, Inquiry, Trace, XactStatus};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::PgLsn;
use topology::{Epoch, NodeState, Snapshot, Writer};

use crate::catalog::{ReadError, connect};
use crate::clusters::Cluster;
use crate::route::{RETRY_PAUSE, wait_for_news};
use crate::tenant::Tenant;
use crate::worker::Worker;

/// Who the primary is to a snapshot; `None` when there is none.
pub(crate) fn reign(snapshot: &Snapshot) -> Option<Epoch> {
    match snapshot.writer {
        Writer::Known(epoch) => Some(epoch),
        Writer::None(_) => None,
    }
}

/// Finds out what became of a transaction, until the deadline. `origin`: under whom it ran.
pub(crate) async fn find(
    worker: &Worker,
    mut tenant: Arc<Tenant>,
    trace: Trace,
    origin: Epoch,
    deadline: Instant,
) -> Fate {
    // A herd of them is not to take the new primary's connections.
    let Ok(_turn) = worker.resolutions.acquire().await else { return Fate::Unknown };
    while Instant::now() < deadline {
        if tenant.is_superseded() {
            tenant = worker.service.successor(&tenant);
        }
        let snapshot = Arc::clone(&tenant.watcher.snapshot());
        let version = snapshot.version;
        let Some(epoch) = reign(&snapshot) else {
            wait_for_news(&tenant, version, deadline).await;
            continue;
        };
        if epoch.system_identifier != origin.system_identifier {
            return Fate::Unknown;
        }
        let asked = worker.service.control.spawn(ask(tenant.cluster.clone(), snapshot, epoch, origin, trace));
        match tokio::time::timeout_at(deadline.into(), asked).await {
            Ok(Ok(Ok(inquiry))) => {
                if let Some(fate) = trace.fate(&inquiry) {
                    tracing::info!(?fate, ?trace, ?inquiry, "found out what became of a commit");
                    return fate;
                }
            }
            Ok(Ok(Err(error))) => {
                tracing::debug!(%error, "could not ask what became of a commit");
                tenant.watcher.suspect(epoch.primary);
            }
            // The program ends, or the time is up.
            Ok(Err(_)) | Err(_) => return Fate::Unknown,
        }
        wait_for_news(&tenant, version, (Instant::now() + RETRY_PAUSE).min(deadline)).await;
    }
    Fate::Unknown
}

/// Asks the primary of a snapshot.
async fn ask(
    cluster: Arc<Cluster>,
    snapshot: Arc<Snapshot>,
    epoch: Epoch,
    origin: Epoch,
    trace: Trace,
) -> Result<Inquiry, ReadError> {
    let node = snapshot.node(epoch.primary).ok_or(ReadError::NoServer)?;
    let options = cluster.login(&node.host, node.port, &cluster.cluster.probe_database);
    let asking = async {
        let client = connect(options, cluster.tls.as_ref(), ASK_TIME_MAX).await?;
        let failed = |error: tokio_postgres::Error| ReadError::Failed(error.to_string());
        let row = client.query_one(STATE, &[]).await.map_err(failed)?;
        let timeline: String = row.try_get(0).map_err(failed)?;
        if u32::from_str_radix(&timeline, 16) != Ok(epoch.timeline) {
            return Err(ReadError::Failed(format!("it is on timeline {timeline}, and not on {}", epoch.timeline)));
        }
        let replayed: Option<PgLsn> = row.try_get(1).map_err(failed)?;
        let started: i64 = row.try_get(2).map_err(failed)?;
        let xid = trace.xid.unwrap_or_default().to_string();
        let status = match client.query_one(STATUS, &[&xid]).await {
            Ok(row) => read_status(row.try_get(0).map_err(failed)?)?,
            // "transaction ID %s is in the future" (TransactionIdInRecentPast).
            Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => Some(XactStatus::Future),
            Err(error) => return Err(failed(error)),
        };
        let fork = match node.state {
            NodeState::Primary { fork: Some(fork), .. } if fork.parent == origin.timeline => Some(fork.lsn),
            _ => None,
        };
        Ok(Inquiry {
            timeline: epoch.timeline.cmp(&origin.timeline),
            same_server: epoch.primary == origin.primary,
            fork,
            status,
            replayed: replayed.map(u64::from),
            started,
        })
    };
    tokio::time::timeout(ASK_TIME_MAX, asking).await.map_err(|_| ReadError::Timeout)?
}

fn read_status(status: Option<&str>) -> Result<Option<XactStatus>, ReadError> {
    Ok(match status {
        None => None,
        Some("committed") => Some(XactStatus::Committed),
        Some("aborted") => Some(XactStatus::Aborted),
        Some("in progress") => Some(XactStatus::InProgress),
        Some(other) => return Err(ReadError::Failed(format!("no status of a transaction: {other}"))),
    })
}

/// As the session asks (`session::Trace`); a primary's timeline is that of the WAL file it writes.
const STATE: &str = "
    SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
           pg_last_wal_replay_lsn(),
           (date_part('epoch', pg_postmaster_start_time()) * 1000000)::int8";

const STATUS: &str = "SELECT pg_xact_status($1::text::xid8)";

/// How long one server may take; another attempt follows.
const ASK_TIME_MAX: Duration = Duration::from_secs(2);

/// How many outcomes a worker asks for at once.
pub(crate) const RESOLUTIONS_MAX: usize = 4;
