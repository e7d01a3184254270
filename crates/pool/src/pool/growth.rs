//! How a pool gets its connections, and accounts for those that go: within its own limits and those of the quotas that it has a part in.

use std::sync::Arc;
use std::time::Instant;

use super::state::State;
use super::{Lease, Pool, dismiss};
use crate::connection::Connection;
use crate::dial::{DialError, dial};
use crate::quota::{Grant, Shares};

impl<M: Send + 'static> Pool<M> {
    /// Takes a place of each quota, or none. `wanted`: where there is none, the pool has to be given one.
    pub(super) fn take_places(&self, wanted: bool, now: Instant) -> Grant {
        for (at, (quota, member)) in self.quotas.iter().enumerate() {
            let grant = quota.take(*member, wanted, now);
            if grant != Grant::Taken {
                self.quotas[..at].iter().for_each(|(quota, member)| quota.give_back(*member));
                return grant;
            }
        }
        Grant::Taken
    }

    /// Begins to make a connection, for which the places have been taken: at home with the worker whose runtime this is, or with nobody.
    pub(super) fn spawn_grow(self: &Arc<Self>, state: &mut State<M>, worker: Option<usize>) {
        let home = worker.unwrap_or(state.nobody());
        state.homed[home] += 1;
        state.open += 1;
        state.dialing += 1;
        let (pool, generation) = (self.clone(), self.generation());
        tokio::spawn(async move { pool.grow(home, generation).await });
    }

    pub(super) fn subtract(&self, state: &mut State<M>, home: usize) {
        state.homed[home] -= 1;
        state.open -= 1;
        self.quotas.iter().for_each(|(quota, member)| quota.give_back(*member));
    }

    /// Makes one connection and gives it to whoever waits.
    async fn grow(self: Arc<Self>, worker: usize, generation: u64) {
        // Accounts for the connection also when the runtime stops and drops this task.
        let mut attempt = Attempt { pool: &self, worker, pending: true };
        let severed = self.severed.notified();
        let dial = async {
            let _turn = self.logins.turn().await;
            dial(&self.target, (self.memory)(self.memory_size), worker).await
        };
        let made = tokio::select! {
            made = dial => made,
            () = severed => {
                drop(attempt);
                return self.replace();
            }
        };
        attempt.pending = false;
        match made {
            Ok(mut connection) => {
                connection.entry = Some(self.roster.enter(&connection));
                let mut state = self.lock();
                state.dialing -= 1;
                state.failure = None;
                drop(state);
                self.lease(Box::new(connection), generation).enter(Instant::now());
            }
            Err(error) => self.fail(worker, error),
        }
    }

    /// An attempt has failed: who waits is told, unless connections exist that will come back.
    fn fail(&self, worker: usize, error: DialError) {
        tracing::warn!(server = %format_args!("{}:{}", self.target.host, self.target.port), database = %self.target.database, user = %self.target.user, %error, "cannot connect to server");
        let mut state = self.lock();
        self.subtract(&mut state, worker);
        state.dialing -= 1;
        state.failure = Some((Instant::now() + state.options.login_retry, error.clone()));
        if state.open == state.dialing {
            let waiters = state.take_waiters();
            drop(state);
            dismiss(waiters, error.into());
        } else {
            drop(state);
        }
        self.quotas.iter().for_each(|(quota, _)| quota.settle());
    }

    pub(super) fn lease(self: &Arc<Self>, connection: Box<Connection<M>>, generation: u64) -> Lease<M> {
        Lease { connection: Some(connection), pool: self.clone(), generation }
    }

    /// A connection was closed.
    pub(super) fn closed(self: &Arc<Self>, home: usize) {
        self.subtract(&mut self.lock(), home);
        self.replace();
    }

    /// Where connections were closed, some may be made: in another pool that has waited for its part, or for somebody who waits here.
    pub(super) fn replace(self: &Arc<Self>) {
        // Outside of a runtime the program is ending, and nobody waits.
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        self.quotas.iter().for_each(|(quota, _)| quota.settle());
        let mut state = self.lock();
        // Nobody knows which worker's runtime this is.
        if self.lacks(&state) && self.take_places(true, Instant::now()) == Grant::Taken {
            self.spawn_grow(&mut state, None);
        }
    }

    /// Whether somebody waits for whom a connection could be made, but for the quotas.
    fn lacks(&self, state: &State<M>) -> bool {
        state.waiting() > state.dialing && state.open < state.size()
    }
}

impl<M: Send + 'static> Shares for Pool<M> {
    fn wants(&self) -> bool {
        self.lacks(&self.lock())
    }

    fn shed(&self) -> bool {
        let mut state = self.lock();
        // The worker with the most; of its, the one that has idled longest.
        let Some(idle) = state.idle.iter_mut().max_by_key(|idle| idle.len()).filter(|idle| !idle.is_empty()) else {
            return false;
        };
        let closed = idle.remove(0);
        self.subtract(&mut state, closed.home);
        true
    }

    fn claim(self: Arc<Self>) {
        let mut state = self.lock();
        if !self.lacks(&state) {
            self.quotas.iter().for_each(|(quota, member)| quota.sate(*member));
        } else if tokio::runtime::Handle::try_current().is_ok()
            && self.take_places(true, Instant::now()) == Grant::Taken
        {
            self.spawn_grow(&mut state, None);
        }
    }
}

/// An attempt to make a connection.
struct Attempt<'a, M: Send + 'static> {
    pool: &'a Pool<M>,
    worker: usize,
    pending: bool,
}

impl<M: Send + 'static> Drop for Attempt<'_, M> {
    fn drop(&mut self) {
        if self.pending {
            let mut state = self.pool.lock();
            self.pool.subtract(&mut state, self.worker);
            state.dialing -= 1;
        }
    }
}
