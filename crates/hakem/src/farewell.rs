//! A client's end: its last word from us, as far as there can be one.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use wire::backend::Failure;

use crate::client::Client;
use crate::outcome::Gone;

impl Client {
    /// Tells a client why it goes, where anything can be said, and ends its connection.
    pub(crate) async fn say_goodbye(&mut self, gone: &Gone) {
        let failure = match gone {
            Gone::Vanished | Gone::Elsewhere(_) => return,
            Gone::Terminated => {
                // TLS says goodbye, too: an end without it looks like an attack.
                if self.stream.is_encrypted() {
                    let _ = tokio::time::timeout(FAREWELL_MAX, self.stream.shutdown()).await;
                }
                return;
            }
            Gone::Overdue(overdue) => {
                self.worker.counters.overdue(*overdue);
                overdue.failure()
            }
            Gone::Violation(violation) => Failure::fatal("08P01", violation.to_string()),
            Gone::Overflowed => Failure::fatal("53400", "too many notifications that the client has not read"),
            Gone::Broken => Failure::fatal("08006", "the server is out of step, or refused the session's settings"),
            // In the middle of an answer nothing can be said.
            Gone::Killed if self.unsent.is_empty() && !self.slot.standing.holds() => {
                Failure::fatal("57P01", "admin forced disconnect")
            }
            Gone::Killed => return,
            Gone::Cut if self.slot.is_dismissed() => Failure::fatal("57P01", "server shutting down"),
            // In the middle of a message there is nothing that could be said.
            Gone::Cut => return,
        };
        let mut farewell = std::mem::take(&mut self.unsent);
        failure.put(&mut farewell);
        // It is told if it listens; nobody waits for one that does not.
        let _ = tokio::time::timeout(FAREWELL_MAX, self.stream.write_all(&farewell)).await;
        let _ = tokio::time::timeout(FAREWELL_MAX, self.stream.shutdown()).await;
    }
}

/// The time for a last word to a client.
const FAREWELL_MAX: Duration = Duration::from_secs(1);
