//! [`Lore`]: what is known of one database's functions and relations, the classifier that goes by it, and when it may be out of date.
//!
//! Owns the version that classes belong to, and the task that reads the database again (`keeper`): when a client of ours has changed
//! the catalogues, and from time to time for the changes of others. While a change is known of that has not been read, no read of that
//! database goes to a replica: it may call what the change has made of a function.

mod keeper;
mod read;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use classifier::{Catalog, Classifier, Options, Rules, Size};
use config::{Config, Routing};
use tokio::sync::Notify;

pub(crate) use keeper::keep;
pub(crate) use read::{ReadError, ask, connect};

/// What is known of one database on the servers.
pub(crate) struct Lore {
    pub(crate) cluster: String,
    pub(crate) dbname: String,
    cache_entries: usize,
    started: Instant,
    current: Mutex<Arc<Classifier>>,
    /// The classifier's version, to be compared for each request.
    version: AtomicU64,
    /// How often the catalogues may have been changed, by what is known here.
    changes: AtomicU64,
    /// How many of these changes were made before the catalogues were last read.
    seen: AtomicU64,
    /// When what was read last was better than what was known before, in microseconds since `started`; 0 for never. A replica that is
    /// older may hold what was before: a function that was volatile then, say.
    news: AtomicU64,
    wake: Notify,
    settled: Notify,
    figures: Mutex<Figures>,
}

/// What the keeper has done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figures {
    pub(crate) size: Size,
    /// Names of relations and types that are kept on the primary.
    pub(crate) primary_names: usize,
    /// When the catalogues were read last, and what was read is still what there is, as far as is known.
    pub(crate) checked: Option<Instant>,
    /// When all of them were read last.
    pub(crate) loaded: Option<Instant>,
    pub(crate) load_time: Duration,
    pub(crate) loads: u64,
    pub(crate) failures: u64,
    /// Why they could not be read the last time.
    pub(crate) problem: Option<String>,
}

impl Lore {
    /// PostgreSQL's own functions, until something has been read.
    pub(crate) fn new(cluster: &str, dbname: &str, config: &Config) -> Lore {
        let cache_entries = config.routing.classifier_cache;
        let catalog = Catalog::with_rules(rules(&config.routing));
        Lore {
            cluster: cluster.to_owned(),
            dbname: dbname.to_owned(),
            cache_entries,
            started: Instant::now(),
            current: Mutex::new(Arc::new(Classifier::new(Options { cache_entries, catalog, version: 1 }))),
            version: AtomicU64::new(1),
            changes: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            news: AtomicU64::new(0),
            wake: Notify::new(),
            settled: Notify::new(),
            figures: Mutex::default(),
        }
    }

    /// The classifier in force.
    pub(crate) fn classifier(&self) -> Arc<Classifier> {
        lock(&self.current).clone()
    }

    /// The version of the classifier in force.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether what a classifier of this version calls a read is one, as far as is known.
    pub(crate) fn is_current(&self, version: u64) -> bool {
        // In this order: whoever sees that a change has been read sees the version that came of it.
        let seen = self.seen.load(Ordering::Acquire);
        let changes = self.changes.load(Ordering::Acquire);
        seen == changes && self.version() == version
    }

    /// Whether no change is known of that has not been read, or given up.
    pub(crate) fn is_settled(&self) -> bool {
        self.seen.load(Ordering::Acquire) == self.changes.load(Ordering::Acquire)
    }

    /// Waits for that.
    pub(crate) async fn settled(&self) {
        loop {
            // Before the look, so that nothing is missed between the two.
            let settled = self.settled.notified();
            if self.is_settled() {
                return;
            }
            settled.await;
        }
    }

    /// So many changes are dealt with.
    fn settle(&self, changes: u64) {
        self.seen.store(changes, Ordering::Release);
        self.settled.notify_waiters();
    }

    /// What a replica must have seen to be what the catalogues say.
    pub(crate) fn news(&self) -> Option<Instant> {
        match self.news.load(Ordering::Acquire) {
            0 => None,
            micros => Some(self.started + Duration::from_micros(micros + 1)),
        }
    }

    /// The catalogues may have been changed: they are to be read again, and until then are not believed.
    pub(crate) fn suspect(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.wake.notify_one();
    }

    /// The keeper is to look again; what is known stays good until then.
    pub(crate) fn remind(&self) {
        self.wake.notify_one();
    }

    /// A client comes. While there was none, nobody looked.
    pub(crate) fn greet(&self, now: Instant, refresh: Option<Duration>) {
        let checked = lock(&self.figures).checked;
        if let (Some(checked), Some(refresh)) = (checked, refresh)
            && now.saturating_duration_since(checked) > refresh * 2
        {
            self.suspect();
        }
    }

    /// In a word: `unknown` before anything was read, `changing` while a change is known of that was not.
    pub(crate) fn state(&self, figures: &Figures) -> &'static str {
        match figures {
            _ if !self.is_current(self.version()) => "changing",
            Figures { problem: Some(_), .. } => "failed",
            Figures { loaded: None, .. } => "unknown",
            _ => "loaded",
        }
    }

    /// What the keeper has done.
    pub(crate) fn figures(&self) -> Figures {
        lock(&self.figures).clone()
    }

    /// Puts a catalogue in force. Where it relaxes the one before, replicas that are older than `now` may not be what it says.
    fn publish(&self, catalog: Catalog, now: Instant) {
        let version = self.version() + 1;
        let relaxes = catalog.relaxes(self.classifier().catalog());
        let figures = (catalog.size(), catalog.primary_names());
        let classifier = Classifier::new(Options { cache_entries: self.cache_entries, catalog, version });
        *lock(&self.current) = Arc::new(classifier);
        let micros = now.saturating_duration_since(self.started).as_micros();
        if relaxes {
            self.news.store(u64::try_from(micros).unwrap_or(u64::MAX).max(1), Ordering::Release);
        }
        self.version.store(version, Ordering::Release);
        let mut known = lock(&self.figures);
        (known.size, known.primary_names) = figures;
    }
}

/// What an administrator says of functions.
pub(crate) fn rules(routing: &Routing) -> Rules {
    Rules::new(routing.trust_stable_functions, &routing.safe_functions, &routing.unsafe_functions)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_waits_for_what_has_changed_is_woken() {
        let text = "[clusters.main]\nservers = [\"a:1\"]\nprobe_user = \"p\"\n[databases.\"*\"]\ncluster = \"main\"\n[[users]]\nname = \"u\"\npassword = \"p\"";
        let config = crate::run::parse(text, "test").expect("a configuration");
        let lore = Lore::new("main", "db", &config);
        lore.settled().await;
        assert!(lore.is_current(1) && !lore.is_current(0));
        lore.suspect();
        assert!(!lore.is_current(1) && !lore.is_settled());
        // What came in between is not settled by it.
        lore.suspect();
        lore.settle(1);
        assert!(!lore.is_settled());
        tokio::join!(lore.settled(), async { lore.settle(2) });
        assert!(lore.is_current(1) && lore.news().is_none());
    }
}
