//! [`Roster`]: the connections of a pool as the console shows them, whoever holds them at the moment.
//!
//! Owns no connection: an entry lives as long as its connection does. What changes with each loan is a few relaxed stores.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::sys::socket::{Shutdown, shutdown};

use crate::connection::Connection;
use crate::socket::Peer;

/// A pool's connections.
#[derive(Default)]
pub(crate) struct Roster {
    entries: Mutex<Vec<Weak<Entry>>>,
}

/// One connection, seen from outside.
#[derive(Debug)]
pub struct Entry {
    /// Its number among all server connections of this process.
    pub id: u64,
    /// When it was made.
    pub since: Instant,
    /// The server's address.
    pub peer: Peer,
    /// Our end's address, of TCP.
    pub local: Option<SocketAddr>,
    /// The server process, where the server told.
    pub process: Option<u32>,
    /// The version of TLS and the cipher; `None` in the clear.
    pub encryption: Option<String>,
    /// It is closed when it comes back.
    leaving: AtomicBool,
    /// The client that it is lent to; 0 for none.
    client: AtomicU64,
    /// When it was last lent, in microseconds since it was made.
    lent: AtomicU64,
    prepared: AtomicU32,
    /// Its socket, for as long as that is open.
    socket: Mutex<Option<RawFd>>,
}

/// A connection's own hold on its entry. Dropped before the socket is, so that nobody reaches for a socket that is another's by then.
#[derive(Debug)]
pub(crate) struct Listed(pub(crate) Arc<Entry>);

impl Drop for Listed {
    fn drop(&mut self) {
        *self.0.socket.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Roster {
    pub(crate) fn enter<M>(&self, connection: &Connection<M>) -> Listed {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let entry = Arc::new(Entry {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            since: connection.since,
            peer: connection.stream.peer(),
            local: connection.stream.socket().local(),
            process: connection.cancel.as_ref().map(|cancel| cancel.key.process),
            encryption: connection.stream.encryption(),
            leaving: AtomicBool::new(false),
            client: AtomicU64::new(0),
            lent: AtomicU64::new(0),
            prepared: AtomicU32::new(0),
            socket: Mutex::new(connection.stream.socket().descriptor()),
        });
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.retain(|entry| entry.strong_count() > 0);
        entries.push(Arc::downgrade(&entry));
        Listed(entry)
    }

    pub(crate) fn list(&self) -> Vec<Arc<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect()
    }

    /// All that are there now are closed when they come back.
    pub(crate) fn dismiss(&self) {
        for entry in self.list() {
            entry.leaving.store(true, Ordering::Relaxed);
        }
    }
}

impl Entry {
    /// Ends the connection, whoever holds it: its holder finds it lost, and is woken to find out.
    pub(crate) fn sever(&self) {
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(socket) = *socket {
            // One that has ended already needs no end.
            let _ = shutdown(socket, Shutdown::Both);
        }
    }

    /// Notes that it is lent to a client from `now` on.
    pub fn lend(&self, client: u64, now: Instant) {
        let micros = now.saturating_duration_since(self.since).as_micros();
        self.lent.store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.client.store(client, Ordering::Relaxed);
    }

    /// Notes that it is back, with this many prepared statements.
    pub fn give_back(&self, prepared: usize) {
        self.prepared.store(u32::try_from(prepared).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.client.store(0, Ordering::Relaxed);
    }

    /// The client that it is lent to.
    #[must_use]
    pub fn client(&self) -> Option<u64> {
        Some(self.client.load(Ordering::Relaxed)).filter(|client| *client > 0)
    }

    /// When it was last lent.
    #[must_use]
    pub fn lent(&self) -> Instant {
        self.since + Duration::from_micros(self.lent.load(Ordering::Relaxed))
    }

    /// The prepared statements that it had when it was last given back.
    #[must_use]
    pub fn prepared(&self) -> u32 {
        self.prepared.load(Ordering::Relaxed)
    }

    /// Whether it is closed when it comes back.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }
}
