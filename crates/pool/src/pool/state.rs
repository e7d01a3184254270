//! What a pool's mutex guards: its idle connections, who waits for one, and whose turn it is.

use std::collections::VecDeque;
use std::time::Instant;

use tokio::sync::oneshot;

use super::{Answer, Options};
use crate::connection::Connection;
use crate::dial::DialError;

pub(super) struct State<M: Send + 'static> {
    /// Replaced when the configuration is reloaded.
    pub(super) options: Options,
    /// By worker; used last in, first out, so that surplus ones grow old.
    pub(super) idle: Vec<Vec<Box<Connection<M>>>>,
    /// By worker, first come first.
    pub(super) waiters: Vec<VecDeque<Waiter<M>>>,
    /// By worker: somebody looks after those who wait ([`Pool::look_after`]).
    pub(super) looked_after: Vec<bool>,
    /// By worker: the connections that it is the home of, idle, leased or being made. The last is nobody's ([`State::nobody`]).
    pub(super) homed: Vec<usize>,
    /// Their sum.
    pub(super) open: usize,
    pub(super) dialing: usize,
    pub(super) next_ticket: u64,
    pub(super) failure: Option<(Instant, DialError)>,
    /// Another pool has taken its place: nothing is lent any more, and whatever comes back is closed.
    pub(super) abandoned: bool,
}

pub(super) struct Waiter<M: Send + 'static> {
    /// When it came to wait for a server, whichever, and its ticket: its place is by them.
    pub(super) place: (Instant, u64),
    /// When it came to wait here.
    pub(super) since: Instant,
    /// It has waited for [`PATIENCE`]: a connection of any worker will do.
    pub(super) impatient: bool,
    /// It has waited for [`LOGIN_PATIENCE`].
    pub(super) doubts: bool,
    /// It has waited for so long that the reserve is there for it.
    pub(super) overdue: bool,
    pub(super) sender: oneshot::Sender<Answer<M>>,
}

impl<M: Send + 'static> State<M> {
    /// The home of connections that were not made on a worker's runtime. Whoever takes one brings it home.
    pub(super) fn nobody(&self) -> usize {
        self.homed.len() - 1
    }

    pub(super) fn take_waiters(&mut self) -> Vec<Waiter<M>> {
        self.waiters.iter_mut().flat_map(std::mem::take).collect()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiters.iter().map(VecDeque::len).sum()
    }

    /// Where in its worker's queue a client waits.
    pub(super) fn place(&self, worker: usize, place: (Instant, u64)) -> Option<usize> {
        self.waiters[worker].binary_search_by_key(&place, |waiter| waiter.place).ok()
    }

    /// Whether a worker has too few connections of its own for those who wait there.
    pub(super) fn is_dry(&self, worker: usize) -> bool {
        self.waiters[worker].len() >= self.homed[worker]
    }

    /// The idle connection used last: the worker's own, or if the worker has run dry, another's.
    pub(super) fn take_idle(&mut self, worker: usize) -> Option<Box<Connection<M>>> {
        let nobody = self.nobody();
        match self.idle[worker].pop().or_else(|| self.idle[nobody].pop()) {
            None if self.is_dry(worker) => self.take_any_idle(),
            own => own,
        }
    }

    pub(super) fn take_any_idle(&mut self) -> Option<Box<Connection<M>>> {
        self.idle.iter_mut().max_by_key(|idle| idle.len())?.pop()
    }

    /// Whose turn it is when a connection of the worker `home` is free.
    pub(super) fn next_waiter(&mut self, home: usize) -> Option<Waiter<M>> {
        let oldest = self.oldest_waiter()?;
        let own = self.waiters[home].front().map(|waiter| waiter.place.1);
        let first = self.waiters[oldest].front()?;
        // The first may have come here after others that it stands in front of.
        let overtaken = own.unwrap_or(self.next_ticket).saturating_sub(first.place.1) > OVERTAKEN_MAX;
        if overtaken || (own.is_none() && (first.impatient || home == self.nobody() || self.is_dry(oldest))) {
            self.waiters[oldest].pop_front()
        } else {
            self.waiters[home].pop_front()
        }
    }

    /// The most connections at the moment: with the reserve, when somebody has waited for it.
    pub(super) fn size(&self) -> usize {
        let overdue = self.waiters.iter().flatten().any(|waiter| waiter.overdue);
        self.options.size + if overdue { self.options.reserve } else { 0 }
    }

    /// The worker of whoever has waited longest.
    pub(super) fn oldest_waiter(&self) -> Option<usize> {
        let fronts = self.waiters.iter().enumerate().filter_map(|(worker, queue)| Some((queue.front()?.place, worker)));
        fronts.min().map(|(_, worker)| worker)
    }
}

/// How many later arrivals may be served before a client of another worker.
const OVERTAKEN_MAX: u64 = 64;
