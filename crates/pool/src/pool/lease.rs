//! [`Lease`]: a connection while it is lent, and how it comes back.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Pool;
use super::state::Waiter;
use crate::connection::Connection;

/// A connection lent to a client. Giving it back is explicit ([`Lease::release`]); dropping closes it.
pub struct Lease<M: Send + 'static> {
    /// `None` only after release.
    pub(super) connection: Option<Box<Connection<M>>>,
    pub(super) pool: Arc<Pool<M>>,
    pub(super) generation: u64,
}

impl<M: Send + 'static> Lease<M> {
    /// Gives the connection back, as good as it was: idle, outside of a transaction, nothing unread. `now` is the present
    /// moment.
    pub fn release(mut self, now: Instant) {
        self.given_back = Some(now);
        let unwanted = self.must_yield(now);
        self.put_back(unwanted, now);
    }

    /// The same of a connection that has just been made.
    pub(super) fn enter(self, now: Instant) {
        self.put_back(false, now);
    }

    /// Whether another pool has a better claim to the connection, or to one in its place.
    fn must_yield(&self, now: Instant) -> bool {
        if !self.pool.quotas.iter().any(|(quota, _)| quota.is_short()) {
            return false;
        }
        let needed = self.pool.lock().waiting() > 0;
        self.pool.quotas.iter().any(|(quota, member)| quota.must_yield(*member, needed, now))
    }

    pub(super) fn put_back(mut self, unwanted: bool, now: Instant) {
        if let Some(connection) = &mut self.connection {
            connection.stream.settle();
        }
        // Who does not take it has gone; the next one gets it.
        while let Some(waiter) = self.find_heir(unwanted, now) {
            match waiter.sender.send(Ok(self)) {
                Err(Ok(lease)) => self = lease,
                Ok(()) | Err(Err(_)) => return,
            }
        }
    }

    /// Whose turn it is. Where nobody waits, the connection goes to the idle ones; one that is not to be lent again is left, to be closed.
    fn find_heir(&mut self, unwanted: bool, now: Instant) -> Option<Waiter<M>> {
        let home = self.connection.as_ref()?.home;
        let mut state = self.pool.lock();
        let options = &state.options;
        let used_up = options.lifetime.is_zero() && self.given_back.is_some();
        let surplus = unwanted || used_up || state.abandoned || state.open > options.size + options.reserve;
        if surplus || self.pool.generation() != self.generation || is_old(self, options.lifetime, now) {
            return None;
        }
        let heir = state.next_waiter(home);
        if heir.is_none() {
            state.idle[home].extend(self.connection.take());
        }
        heir
    }

    /// Moves the connection to the worker's event loop; `None` (and closed) when that fails.
    pub(super) fn at_home_of(mut self, worker: usize) -> Option<Lease<M>> {
        let connection = self.connection.take()?;
        let home = connection.home;
        if home == worker {
            self.connection = Some(connection);
            return Some(self);
        }
        match connection.move_to(worker) {
            Ok(connection) => {
                let mut state = self.pool.lock();
                state.homed[home] -= 1;
                state.homed[worker] += 1;
                drop(state);
                self.connection = Some(Box::new(connection));
                Some(self)
            }
            Err(_) => {
                self.pool.closed(home);
                None
            }
        }
    }

    /// The pool that it is of.
    pub fn pool(&self) -> &Arc<Pool<M>> {
        &self.pool
    }

    /// Whether its pool has been retired since: the connection must not be used for whatever comes next.
    pub fn is_retired(&self) -> bool {
        self.generation < self.pool.fence.load(Ordering::Acquire)
    }
}

impl<M: Send + 'static> Deref for Lease<M> {
    type Target = Connection<M>;

    fn deref(&self) -> &Connection<M> {
        self.connection.as_ref().expect("a lease has its connection until it is released")
    }
}

impl<M: Send + 'static> DerefMut for Lease<M> {
    fn deref_mut(&mut self) -> &mut Connection<M> {
        self.connection.as_mut().expect("a lease has its connection until it is released")
    }
}

impl<M: Send + 'static> Drop for Lease<M> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let home = connection.home;
            drop(connection);
            self.pool.closed(home);
        }
    }
}

impl<M: Send + 'static> fmt::Debug for Lease<M> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Lease")
            .field("host", &self.pool.target.host)
            .field("port", &self.pool.target.port)
            .finish_non_exhaustive()
    }
}

/// Whether a connection has lived for too long to be lent again.
pub(super) fn is_old<M>(connection: &Connection<M>, lifetime: Duration, now: Instant) -> bool {
    let age = now.saturating_duration_since(connection.since);
    // A tenth of it is spread by the connection's own luck.
    age >= lifetime / 10 * 9 && {
        let luck = lifetime / 10 * u32::from(connection.luck) / (u32::from(u8::MAX) + 1);
        !lifetime.is_zero() && age >= lifetime - luck
    }
}
