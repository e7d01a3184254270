//! [`Standing`]: what one client is doing, as the console shows it.
//!
//! Written by the client's own task and read by its worker, on one thread: cells, no locks. It decides nothing.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use classifier::PinReason;
use pool::{Peer, Stream};

use crate::asked::Replication;

/// What one client is doing.
#[derive(Clone)]
pub(crate) struct Standing {
    since: Instant,
    who: RefCell<Option<Who>>,
    replication: Cell<Option<Replication>>,
    doing: Cell<Doing>,
    requested: Cell<Option<Instant>>,
    prepared: Cell<usize>,
    pins: RefCell<Vec<(PinReason, Instant)>>,
}

/// What a client is doing at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// Nothing: it holds no server and wants none.
    Nothing,
    /// It waits for a server.
    Waiting,
    /// It holds this server connection.
    Holding(u64),
    /// It has one for itself, which is of no pool.
    Replicating,
}

/// Who it is, from its login on.
#[derive(Clone)]
struct Who {
    /// The database and the user.
    key: Arc<(String, String)>,
    application_name: Arc<str>,
    peer: Peer,
    local: Option<SocketAddr>,
    encryption: Option<String>,
}

/// A client as it was when somebody asked.
#[derive(Clone)]
pub(crate) struct Sighting {
    pub(crate) id: u64,
    pub(crate) database: String,
    pub(crate) user: String,
    pub(crate) application_name: String,
    pub(crate) peer: Peer,
    pub(crate) local: Option<SocketAddr>,
    /// The version of TLS and the cipher.
    pub(crate) encryption: Option<String>,
    pub(crate) replication: Option<Replication>,
    pub(crate) since: Instant,
    pub(crate) requested: Option<Instant>,
    pub(crate) doing: Doing,
    pub(crate) prepared: usize,
    pub(crate) pins: Vec<(PinReason, Instant)>,
}

impl Standing {
    pub(crate) fn new(since: Instant) -> Standing {
        Standing {
            since,
            who: RefCell::default(),
            replication: Cell::new(None),
            doing: Cell::new(Doing::Nothing),
            requested: Cell::new(None),
            prepared: Cell::new(0),
            pins: RefCell::default(),
        }
    }

    /// It has logged in, to a database as a user.
    pub(crate) fn enter(
        &self,
        key: impl Into<Arc<(String, String)>>,
        application_name: Arc<str>,
        peer: Peer,
        stream: &Stream,
    ) {
        *self.who.borrow_mut() = Some(Who {
            key: key.into(),
            application_name,
            peer,
            local: stream.socket().local(),
            encryption: stream.encryption(),
        });
    }

    /// It has a replication connection to itself.
    pub(crate) fn replicate(&self, kind: Replication) {
        self.replication.set(Some(kind));
        self.doing.set(Doing::Replicating);
    }

    /// It asks for something that needs a server.
    pub(crate) fn request(&self, now: Instant) {
        self.requested.set(Some(now));
        self.doing.set(Doing::Waiting);
    }

    /// What it has prepared.
    pub(crate) fn note_prepared(&self, prepared: usize) {
        self.prepared.set(prepared);
    }

    /// The server has reported a parameter to it.
    pub(crate) fn note_parameter(&self, name: &[u8], value: &[u8]) {
        if name == b"application_name"
            && let Some(who) = &mut *self.who.borrow_mut()
        {
            who.application_name = String::from_utf8_lossy(value).into();
        }
    }

    pub(crate) fn set(&self, doing: Doing) {
        self.doing.set(doing);
    }

    /// What ties it to its server now.
    pub(crate) fn note_pins(&self, pins: &[PinReason], now: Instant) {
        let mut known = self.pins.borrow_mut();
        if pins.is_empty() && known.is_empty() {
            return;
        }
        known.retain(|(reason, _)| pins.contains(reason));
        let fresh: Vec<PinReason> =
            pins.iter().copied().filter(|pin| known.iter().all(|(reason, _)| reason != pin)).collect();
        known.extend(fresh.iter().map(|reason| (*reason, now)));
    }

    /// Whether it holds a server.
    pub(crate) fn holds(&self) -> bool {
        matches!(self.doing.get(), Doing::Holding(_))
    }

    /// How it looks from outside; `None` before its login.
    pub(crate) fn look(&self, id: u64) -> Option<Sighting> {
        let who = self.who.borrow().clone()?;
        Some(Sighting {
            id,
            database: who.key.0.clone(),
            user: who.key.1.clone(),
            application_name: who.application_name.to_string(),
            peer: who.peer,
            local: who.local,
            encryption: who.encryption,
            replication: self.replication.get(),
            since: self.since,
            requested: self.requested.get(),
            doing: self.doing.get(),
            prepared: self.prepared.get(),
            pins: self.pins.borrow().clone(),
        })
    }
}
