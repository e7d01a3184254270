//! Where a server's name leads: to one address at a time, which is the one that its prober is connected to.
//!
//! A name may lead elsewhere while nothing changes at the servers that it led to (the endpoint of a managed database after a failover), and it may
//! lead to several at once. What a probe has said of one of them holds for no other, so whoever connects goes where the probe has been.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::info;

/// The address that a name stands for; none for what is no name, or has not been reached yet.
pub type Whereabouts = Arc<Mutex<Option<IpAddr>>>;

/// A server's name.
pub(crate) struct Name {
    host: String,
    port: u16,
    chosen: Whereabouts,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Attempts to connect that have failed since one succeeded.
    failures: usize,
    /// When it was looked up last.
    asked: Option<Instant>,
    /// It does not lead to the chosen address any more.
    moved: bool,
}

impl Name {
    /// `None` for an address, or the directory of a Unix socket: such a thing leads where it always did.
    pub(crate) fn new(host: &str, port: u16, chosen: Whereabouts) -> Option<Arc<Name>> {
        let is_name = !host.starts_with('/') && host.parse::<IpAddr>().is_err();
        is_name.then(|| Arc::new(Name { host: host.to_owned(), port, chosen, state: Mutex::default() }))
    }

    /// The address to try. The one that has worked, for as long as the name leads there; else one after the other.
    pub(crate) async fn choose(&self) -> Option<IpAddr> {
        let found = self.look_up().await.ok()?;
        let failures = self.state().failures;
        let chosen = *lock(&self.chosen);
        chosen
            .filter(|chosen| failures == 0 && found.contains(chosen))
            .or_else(|| found.get(failures % found.len()).copied())
    }

    /// The address that it stands for.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        *lock(&self.chosen)
    }

    /// An attempt to connect has ended.
    pub(crate) fn tried(&self, address: IpAddr, succeeded: bool) {
        let mut state = self.state();
        if !succeeded {
            state.failures = state.failures.wrapping_add(1);
            return;
        }
        state.failures = 0;
        let before = lock(&self.chosen).replace(address);
        if let Some(before) = before.filter(|before| *before != address) {
            info!(host = self.host, port = self.port, %before, %address, "the name leads to another address");
        }
    }

    /// Whether it has been found to lead elsewhere. Has it looked up from time to time; never waits for that.
    pub(crate) fn has_moved(self: &Arc<Self>) -> bool {
        let mut state = self.state();
        if std::mem::take(&mut state.moved) {
            return true;
        }
        if state.asked.is_none_or(|asked| asked.elapsed() >= LOOKUP_INTERVAL) {
            state.asked = Some(Instant::now());
            let name = self.clone();
            tokio::spawn(async move {
                // That it cannot be looked up says nothing of the server.
                let found = name.look_up().await.unwrap_or_default();
                let chosen = *lock(&name.chosen);
                name.state().moved = !found.is_empty() && chosen.is_some_and(|chosen| !found.contains(&chosen));
            });
        }
        false
    }

    async fn look_up(&self) -> io::Result<Vec<IpAddr>> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let mut addresses = Vec::new();
        for address in found.map(|address| address.ip()) {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(io::ErrorKind::NotFound.into()) } else { Ok(addresses) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How often a name is looked up whose server answers.
const LOOKUP_INTERVAL: Duration = Duration::from_secs(5);
