//! What one client's requests add to its database's ledger and to its own standing.
//!
//! Called from the client's and the relay's turns. Nothing here is decided, and nothing but stores to this thread's cells is done; of
//! the clock, one reading for a request that goes to a server which is held already, and one for a wait.

use std::future::poll_fn;
use std::pin::pin;
use std::time::Instant;

use pool::Lease;
use session::{ServerMemory, Session, Transaction};
use wire::frontend::tag;

use crate::client::Client;
use crate::ledger::Entry;
use crate::standing::Doing;

/// What is not in the ledger yet.
pub(crate) struct Books {
    /// When the request in flight was made.
    asked: Instant,
    /// When a server last said ReadyForQuery.
    pub(crate) answered: Instant,
    /// When the transaction began.
    transaction: Option<Instant>,
    /// Bytes from the client.
    pub(crate) received: usize,
    /// Bytes from servers.
    pub(crate) sent: usize,
    /// What the server had prepared when the client got it.
    prepared: u64,
}

impl Books {
    pub(crate) fn new(now: Instant) -> Books {
        Books { asked: now, answered: now, transaction: None, received: 0, sent: 0, prepared: 0 }
    }
}

impl Client {
    /// A request needs a server.
    pub(crate) fn note_request(&mut self, now: Instant) {
        self.books.asked = now;
        self.books.transaction.get_or_insert(now);
        self.slot.standing.request(now);
    }

    /// A request has waited for a server, and does no more: now, which is returned.
    pub(crate) fn note_wait(&self, since: Instant) -> Instant {
        let now = Instant::now();
        self.enter(Entry::WaitTime, micros(since, now));
        now
    }

    /// A request goes to the server that the client holds.
    pub(crate) fn note_next_request(&mut self) {
        self.books.asked = Instant::now();
        self.books.transaction.get_or_insert(self.books.asked);
    }

    /// A message has come that is counted by itself.
    pub(crate) fn note_frame(&self, tag: u8) {
        match tag {
            tag::PARSE => self.enter(Entry::ClientParse, 1),
            tag::BIND => self.enter(Entry::Bind, 1),
            _ => {}
        }
    }

    /// A server was found.
    pub(crate) fn note_lease(&mut self, lease: &Lease<ServerMemory>) {
        self.enter(Entry::Assignment, 1);
        self.books.prepared = lease.memory.prepares();
        if let Some(entry) = lease.entry() {
            entry.lend(self.id, self.books.asked);
            self.slot.standing.set(Doing::Holding(entry.id));
        }
    }

    /// ReadyForQuery has come from the server: the answer to a query of the client's, or of the proxy's own.
    pub(crate) fn note_answer(&mut self, session: &Session, to_client: bool, now: Instant) {
        self.books.answered = now;
        if to_client {
            self.enter(Entry::Query, 1);
            self.enter(Entry::QueryTime, micros(self.books.asked, now));
            // What comes next without having been asked for anew was pipelined: its time begins here.
            self.books.asked = now;
        }
        if session.transaction() == Transaction::None
            && let Some(since) = self.books.transaction.take()
        {
            self.enter(Entry::Transaction, 1);
            self.enter(Entry::TransactionTime, micros(since, now));
        }
        self.enter_bytes();
        self.slot.standing.note_pins(session.pins(), now);
        self.slot.standing.note_prepared(session.statements());
    }

    /// The server goes back, or is gone.
    pub(crate) fn note_return(&mut self, lease: &Lease<ServerMemory>) {
        self.enter(Entry::ServerParse, lease.memory.prepares().saturating_sub(self.books.prepared));
        if let Some(entry) = lease.entry() {
            entry.give_back(lease.memory.prepared());
        }
        self.note_rest();
    }

    /// It holds no server and wants none.
    pub(crate) fn note_rest(&mut self) {
        self.enter_bytes();
        self.slot.standing.set(Doing::Nothing);
    }

    fn enter_bytes(&mut self) {
        let (received, sent) = (std::mem::take(&mut self.books.received), std::mem::take(&mut self.books.sent));
        self.enter(Entry::Received, received as u64);
        self.enter(Entry::Sent, sent as u64);
    }

    /// Enters something into the ledger.
    pub(crate) fn enter(&self, entry: Entry, amount: u64) {
        self.tenant.ledger.page(self.worker.id).add(entry, amount);
    }
}

fn micros(since: Instant, until: Instant) -> u64 {
    u64::try_from(until.saturating_duration_since(since).as_micros()).unwrap_or(u64::MAX)
}

/// Waits, and says since when, if it was not ready at once. `now` is the present moment.
pub(crate) async fn timed<T>(now: Instant, work: impl Future<Output = T>) -> (T, Option<Instant>) {
    let mut work = pin!(work);
    let mut since = None;
    let done = poll_fn(|context| {
        let polled = work.as_mut().poll(context);
        if polled.is_pending() {
            since = Some(now);
        }
        polled
    })
    .await;
    (done, since)
}
