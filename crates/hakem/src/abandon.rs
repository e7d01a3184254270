//! A server connection whose client is gone in the middle of something: what runs is cancelled, and the connection closed.
//!
//! It counts as one of its pool's until the server has closed it too, so that clients that come and go in a hurry do not leave more
//! sessions behind on a server than the pool may have. Closing alone would not do: PostgreSQL does not look at its socket while it
//! works.

use std::time::Duration;

use pool::Lease;
use session::ServerMemory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cancel;

/// Ends a connection in the background, on the current worker, within the limit. `busy`: something runs there.
pub(crate) fn abandon(mut lease: Lease<ServerMemory>, busy: bool, limit: Duration) {
    drop(tokio::task::spawn_local(async move {
        let ended = tokio::time::timeout(limit, end(&mut lease, busy, limit)).await.is_ok();
        if !ended {
            let target = lease.pool().target();
            tracing::warn!(host = %target.host, port = target.port, "a server does not let go of a session whose client is gone");
        }
    }));
}

async fn end(lease: &mut Lease<ServerMemory>, busy: bool, limit: Duration) {
    // The end of our side is the end of the session, whatever was begun and not completed. A server that stands still may not take it.
    let _ = lease.stream.shutdown().await;
    // A server that is gone has nothing to be told.
    let mut patience = Duration::ZERO;
    while tokio::time::timeout(patience, drain(lease)).await.is_err() {
        if busy {
            cancel::interrupt(lease, limit).await;
        }
        // A request that was on its way when the signal came runs all the same: once more, then.
        patience = PAUSE;
    }
}

/// Reads until the server has nothing more to say.
async fn drain(lease: &mut Lease<ServerMemory>) {
    let mut ignored = vec![0; DRAIN_BYTES];
    while matches!(lease.stream.read(&mut ignored).await, Ok(1..)) {}
}

/// The time that a server has to stop before it is asked again.
const PAUSE: Duration = Duration::from_secs(1);

const DRAIN_BYTES: usize = 8 * 1024;
