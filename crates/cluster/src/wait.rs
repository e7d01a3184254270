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
    pause: Duration,
}

impl Wait {
    pub(crate) fn new(what: impl Into<String>, limit: Duration) -> Wait {
        Wait { what: what.into(), limit, end: Instant::now() + limit, pause: PAUSE_MIN }
    }

    /// Lets a little time pass, or says that the limit has been reached.
    pub(crate) async fn turn(&mut self) -> Result<()> {
        if Instant::now() >= self.end {
            bail!("waited {:?} in vain for {}", self.limit, self.what);
        }
        sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        Ok(())
    }
}

/// The first pause is short beside anything that a server does. They double, since a look may cost a run of psql, and on
/// a busy machine that delays what is waited for.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(100);
