//! [`Staleness`]: when a read of a cluster has last gone to the primary for want of a fresh replica, and what is done about it.
//!
//! Owns that moment. For a while after it the servers are probed more often: the sooner a replica is known to have caught up, the fewer
//! reads go to the primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::clusters::Cluster;

/// Since when a cluster's replicas have been fresh enough for all that wanted to read there.
pub(crate) struct Staleness {
    begun: Instant,
    /// The microseconds from then to the last read that was none for a replica; 0 for none so far.
    last: AtomicU64,
    news: Notify,
}

impl Staleness {
    pub(crate) fn new(now: Instant) -> Staleness {
        Staleness { begun: now, last: AtomicU64::new(0), news: Notify::new() }
    }

    /// A read has gone to the primary because no replica was fresh enough.
    pub(crate) fn note(&self, now: Instant) {
        let now = self.micros(now);
        let before = self.last.swap(now, Ordering::Relaxed);
        // Whoever has heard of the last one looks out for the next for longer than that.
        if before == 0 || now.saturating_sub(before) > LASTS / 2 {
            self.news.notify_one();
        }
    }

    /// Whether that was but a moment ago.
    fn lasts(&self, now: Instant) -> bool {
        let last = self.last.load(Ordering::Relaxed);
        last > 0 && self.micros(now).saturating_sub(last) < LASTS
    }

    fn micros(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.begun).as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

/// Has the servers probed more often while reads go to the primary for want of a fresh replica.
pub(crate) async fn hurry(cluster: Arc<Cluster>) {
    loop {
        cluster.staleness.news.notified().await;
        let _hurrying = cluster.watcher.wait_guard();
        while cluster.staleness.lasts(Instant::now()) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Microseconds that the hurry lasts after the last such read.
const LASTS: u64 = 1_000_000;

const LOOK_AGAIN: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[test]
    fn the_first_of_many_is_news() {
        let begun = Instant::now();
        let staleness = Staleness::new(begun);
        let is_news = |ms| {
            staleness.note(begun + Duration::from_millis(ms));
            pin!(staleness.news.notified()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
        };
        assert!(!staleness.lasts(begun));
        let seen = [0, 1, 400, 900, 1300, 1801, 5000, 5001].map(|ms| (ms, is_news(ms)));
        assert_eq!(seen.map(|(_, news)| news), [true, false, false, false, false, true, true, false], "{seen:?}");
        assert!(staleness.lasts(begun + Duration::from_millis(6000)));
        assert!(!staleness.lasts(begun + Duration::from_millis(6002)));
    }
}
