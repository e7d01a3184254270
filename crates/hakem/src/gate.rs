//! [`Gate`]: whether a database may be used at the moment. PAUSE and DISABLE close it, RESUME and ENABLE open it.
//!
//! Owns the administrator's word, by the name that clients know the database by. It outlives a reload. For a request the gate is two
//! relaxed loads; whoever finds it closed waits for news. Whoever closes it recalls those who wait for a connection
//! ([`Service::pause`](crate::service::Service::pause)).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hashbrown::HashMap;
use tokio::sync::Notify;

/// The gates of all databases.
pub(crate) struct Gates {
    everything: Arc<AtomicBool>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
}

/// The gate of one database.
pub(crate) struct Gate {
    /// All databases are paused.
    everything: Arc<AtomicBool>,
    paused: AtomicBool,
    /// By a KILL of all databases.
    killed: AtomicBool,
    disabled: AtomicBool,
    /// Wakes those who wait in the order in which they came; a `watch` would shuffle them.
    news: Notify,
}

impl Default for Gates {
    fn default() -> Gates {
        Gates { everything: Arc::new(AtomicBool::new(false)), gates: Mutex::default() }
    }
}

impl Gates {
    /// The gate of a database.
    pub(crate) fn of(&self, database: &str) -> Arc<Gate> {
        let mut gates = self.lock();
        if let Some(gate) = gates.get(database) {
            return gate.clone();
        }
        let gate = Arc::new(Gate {
            everything: self.everything.clone(),
            paused: AtomicBool::new(false),
            killed: AtomicBool::new(false),
            disabled: AtomicBool::new(false),
            news: Notify::new(),
        });
        gates.insert(database.to_owned(), gate.clone());
        gate
    }

    /// Pauses or resumes everything at once; what is paused by name stays so. Returns what held before.
    pub(crate) fn pause(&self, paused: bool) -> bool {
        let before = self.everything.swap(paused, Ordering::SeqCst);
        self.lock().values().for_each(|gate| gate.tell());
        before
    }

    /// Pauses a database since all that are used are killed.
    pub(crate) fn kill(&self, database: &str) {
        let gate = self.of(database);
        if !gate.paused.swap(true, Ordering::SeqCst) {
            gate.killed.store(true, Ordering::SeqCst);
        }
        gate.tell();
    }

    /// Resumes what was paused that way, and not resumed by name since. Returns whether anything was.
    pub(crate) fn revive(&self) -> bool {
        let gates = self.lock();
        let killed: Vec<_> = gates.values().filter(|gate| gate.killed.load(Ordering::SeqCst)).collect();
        for gate in &killed {
            gate.pause(false);
        }
        !killed.is_empty()
    }

    /// Whether everything is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.everything.load(Ordering::Relaxed)
    }

    /// Forgets the gates of databases that nobody uses and nobody has said anything about.
    pub(crate) fn sweep(&self) {
        self.lock().retain(|_, gate| Arc::strong_count(gate) > 1 || gate.is_paused() || gate.is_disabled());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gate {
    /// Whether requests have to wait.
    pub(crate) fn is_closed(&self) -> bool {
        self.everything.load(Ordering::Relaxed) || self.paused.load(Ordering::Relaxed)
    }

    /// Waits until requests may go on. Who came first is woken first.
    pub(crate) async fn opened(&self) {
        loop {
            // Made first, so that nothing goes unnoticed.
            let news = self.news.notified();
            if !self.is_closed() {
                return;
            }
            news.await;
        }
    }

    /// Whether the database itself is paused.
    pub(crate) fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// Pauses or resumes the database. Returns what held before.
    pub(crate) fn pause(&self, paused: bool) -> bool {
        let before = self.paused.swap(paused, Ordering::SeqCst);
        self.killed.store(false, Ordering::SeqCst);
        self.tell();
        before
    }

    /// Whether new clients are refused.
    pub(crate) fn is_disabled(&self) -> bool {
        self.disabled.load(Ordering::Relaxed)
    }

    pub(crate) fn disable(&self, disabled: bool) {
        self.disabled.store(disabled, Ordering::Relaxed);
    }

    fn tell(&self) {
        self.news.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_and_one_are_paused_apart() {
        let gates = Gates::default();
        let (a, b) = (gates.of("a"), gates.of("b"));
        assert!(!a.pause(true) && a.is_closed() && !b.is_closed());
        assert!(!gates.pause(true) && b.is_closed());
        assert!(gates.pause(false) && a.is_closed() && !b.is_closed(), "a is still paused by name");
        gates.sweep();
        drop((a, b));
        gates.sweep();
        assert!(gates.of("a").is_closed(), "what was said of it is not forgotten");
        assert!(gates.of("a").pause(false) && !gates.of("a").is_closed());
    }

    #[test]
    fn what_was_killed_with_all_is_revived_with_all() {
        let gates = Gates::default();
        assert!(!gates.revive());
        gates.of("paused").pause(true);
        ["paused", "a", "b", "b", "c"].into_iter().for_each(|name| gates.kill(name));
        assert!(gates.of("a").is_closed() && !gates.is_paused());
        assert!(gates.of("b").pause(false));
        gates.of("c").pause(true);
        assert!(gates.revive() && !gates.revive());
        let closed = |name: &str| gates.of(name).is_closed();
        assert!(closed("paused") && !closed("a") && !closed("b") && closed("c"), "what was paused by name stays so");
    }

    #[tokio::test]
    async fn who_came_first_goes_on_first() {
        const HERD: usize = 30;
        let gates = Gates::default();
        let gate = gates.of("a");
        gate.pause(true);
        let (served, order) = std::sync::mpsc::channel();
        let mut herd = tokio::task::JoinSet::new();
        for number in 0..HERD {
            let (gate, served) = (gate.clone(), served.clone());
            herd.spawn(async move {
                gate.opened().await;
                served.send(number)
            });
            tokio::task::yield_now().await;
        }
        // What changes nothing for them leaves them where they are.
        gates.pause(true);
        tokio::task::yield_now().await;
        gate.pause(false);
        tokio::task::yield_now().await;
        assert!(order.try_recv().is_err());
        gates.pause(false);
        assert!(herd.join_all().await.iter().all(Result::is_ok));
        assert_eq!(order.try_iter().collect::<Vec<_>>(), (0..HERD).collect::<Vec<_>>());
    }
}
