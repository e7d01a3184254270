//! Owns waiting for a condition: poll, and give up at a limit with a message that says what was waited for.
//! What the condition is, the caller's loop says.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::{Instant, sleep};

/// One bounded wait; the caller's loop looks at its condition and calls [`Wait::turn`] while it does not hold.
pub(crate) struct Wait {
    what: String,
    limit: Duration,
    end: Instant,
}

impl Wait {
    pub(crate) fn new(what: impl Into<String>, limit: Duration) -> Wait {
        Wait { what: what.into(), limit, end: Instant::now() + limit }
    }

    /// Lets a little time pass, or says that the limit has been reached.
    pub(crate) async fn turn(&self) -> Result<()> {
        if Instant::now() >= self.end {
            bail!("waited {:?} in vain for {}", self.limit, self.what);
        }
        sleep(POLL).await;
        Ok(())
    }
}

/// Short beside the start of a server, long beside the cost of one look.
const POLL: Duration = Duration::from_millis(10);
