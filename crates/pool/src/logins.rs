//! [`Logins`]: how many connections are made to one server at a time, whatever pools they are for.
//!
//! A login costs a server a process, and with SCRAM a few milliseconds of CPU time: a server that has just been promoted is to
//! spend them on the statements that have waited. Those who may not begin yet stand in line, first come, first served.

use tokio::sync::{Semaphore, SemaphorePermit};

/// The turns at one server.
pub struct Logins(Semaphore);

impl Logins {
    /// So many at a time.
    #[must_use]
    pub fn new(max: usize) -> Logins {
        Logins(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))
    }

    /// Waits for a turn, which ends when the answer is dropped.
    pub(crate) async fn turn(&self) -> SemaphorePermit<'_> {
        self.0.acquire().await.expect("nobody closes the semaphore")
    }
}

impl Default for Logins {
    /// As many as like to.
    fn default() -> Logins {
        Logins::new(usize::MAX)
    }
}
