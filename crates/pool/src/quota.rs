//! [`Quota`]: a limit on connections that several pools share, such as those of one database or of one user on a server.
//!
//! Owns the count and the turn: at the limit, the pools that want more get what others can spare, the one with the fewest connections
//! first. Nothing here is touched while connections are lent and given back, but for one counter that is read; only when they are
//! opened and closed.
//!
//! Locks are taken in one order, a pool's before a quota's; no pool is called under a quota's lock.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A limit that several pools share.
#[derive(Default)]
pub struct Quota {
    state: Mutex<State>,
    /// How many pools want more than they get. Changed under the lock, read without it.
    starving: AtomicUsize,
}

/// A pool, as far as quotas are concerned.
pub(crate) trait Shares: Send + Sync {
    /// Whether a client waits for a connection that could be made, but for the quota.
    fn wants(&self) -> bool;
    /// Closes an idle connection, if there is one, for the sake of another pool.
    fn shed(&self) -> bool;
    /// Makes a connection, if one is wanted and the quota allows.
    fn claim(self: Arc<Self>);
}

/// Whether a pool gets a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grant {
    /// It has it.
    Taken,
    /// It does not. `news`: others should be asked for what they can spare.
    Refused { news: bool },
}

struct State {
    max: usize,
    open: usize,
    next_member: u64,
    members: Vec<Member>,
}

struct Member {
    id: u64,
    pool: Weak<dyn Shares>,
    open: usize,
    /// Since when it has wanted more than it gets.
    starving: Option<Instant>,
}

impl Default for State {
    fn default() -> State {
        State { max: usize::MAX, open: 0, next_member: 0, members: Vec::new() }
    }
}

impl Quota {
    /// Changes the limit; [`usize::MAX`] is none.
    pub(crate) fn adjust(&self, max: usize) {
        self.lock().max = max;
    }

    /// The connections that there are.
    pub fn open(&self) -> usize {
        self.lock().open
    }

    pub(crate) fn join(&self, pool: Weak<dyn Shares>) -> u64 {
        let mut state = self.lock();
        let id = state.next_member;
        state.next_member += 1;
        state.members.push(Member { id, pool, open: 0, starving: None });
        id
    }

    /// A pool is gone, and all that it had.
    pub(crate) fn leave(&self, id: u64) {
        let mut state = self.lock();
        if let Some(at) = state.members.iter().position(|member| member.id == id) {
            let member = state.members.swap_remove(at);
            state.open -= member.open;
        }
        self.count(&state);
    }

    /// Takes a place for a connection, unless there is none, or others have waited for it who have less. Then the pool is remembered as
    /// one that wants more, if it does.
    pub(crate) fn take(&self, id: u64, wanted: bool, now: Instant) -> Grant {
        let mut state = self.lock();
        let free = state.max.saturating_sub(state.open);
        let Some(own) = state.members.iter().find(|member| member.id == id) else { return Grant::Taken };
        let rank = (own.open, own.starving.unwrap_or(now));
        let ahead =
            |member: &&Member| member.id != id && member.starving.is_some_and(|since| (member.open, since) < rank);
        let granted = free > state.members.iter().filter(ahead).count();
        state.open += usize::from(granted);
        let mut news = free > 0;
        if let Some(own) = state.members.iter_mut().find(|member| member.id == id) {
            own.open += usize::from(granted);
            news |= own.starving.is_none();
            own.starving = own.starving.or(wanted.then_some(now)).filter(|_| !granted);
        }
        self.count(&state);
        if granted { Grant::Taken } else { Grant::Refused { news } }
    }

    pub(crate) fn give_back(&self, id: u64) {
        let mut state = self.lock();
        if let Some(own) = state.members.iter_mut().find(|member| member.id == id) {
            own.open -= 1;
            state.open -= 1;
        }
    }

    /// A pool does not want more any longer.
    pub(crate) fn sate(&self, id: u64) {
        let mut state = self.lock();
        if let Some(own) = state.members.iter_mut().find(|member| member.id == id) {
            own.starving = None;
        }
        self.count(&state);
    }

    /// Whether some pool wants more than it gets; costs nothing.
    pub(crate) fn is_short(&self) -> bool {
        self.starving.load(Ordering::Relaxed) > 0
    }

    /// Lets those who want more have what is free, whoever has the fewest first.
    pub(crate) fn settle(&self) {
        if !self.is_short() {
            return;
        }
        for pool in self.starving_members() {
            pool.claim();
        }
    }

    /// Has another pool close an idle connection for the sake of this one, whoever has the most first.
    pub(crate) fn press(&self, id: u64) {
        let mut others: Vec<(usize, Arc<dyn Shares>)> = {
            let state = self.lock();
            if state.open < state.max {
                return;
            }
            let other = |member: &Member| Some((member.open, member.pool.upgrade()?));
            state.members.iter().filter(|member| member.id != id && member.open > 0).filter_map(other).collect()
        };
        others.sort_by_key(|(open, _)| std::cmp::Reverse(*open));
        for (_, pool) in others {
            if pool.shed() {
                return;
            }
        }
    }

    /// Whether a pool has to give up a connection that has come back, for another that has less. `needed`: somebody waits for it in
    /// the pool itself.
    pub(crate) fn must_yield(&self, id: u64, needed: bool, now: Instant) -> bool {
        let claims: Vec<(u64, Arc<dyn Shares>)> = {
            let state = self.lock();
            let own = state.members.iter().find(|member| member.id == id).map_or(0, |member| member.open);
            // An even share for everybody; and where it cannot be even, turns.
            let claims = |member: &&Member| {
                let Some(since) = member.starving.filter(|_| member.id != id) else { return false };
                let turn = now.saturating_duration_since(since) >= TURN;
                !needed || own > member.open + 1 || (own > member.open && turn)
            };
            let pool = |member: &Member| Some((member.id, member.pool.upgrade()?));
            state.members.iter().filter(claims).filter_map(pool).collect()
        };
        for (other, pool) in claims {
            if pool.wants() {
                // And to the end of the line, or it would have it back at once.
                if let Some(own) = self.lock().members.iter_mut().find(|member| member.id == id) {
                    own.starving = own.starving.map(|_| now);
                }
                return true;
            }
            self.sate(other);
        }
        false
    }

    /// The pools that want more, whoever has the fewest first, and then whoever has wanted longest.
    fn starving_members(&self) -> Vec<Arc<dyn Shares>> {
        let starving = |member: &Member| Some(((member.open, member.starving?), member.pool.upgrade()?));
        let mut members: Vec<_> = self.lock().members.iter().filter_map(starving).collect();
        members.sort_by_key(|(rank, _)| *rank);
        members.into_iter().map(|(_, pool)| pool).collect()
    }

    fn count(&self, state: &State) {
        let starving = state.members.iter().filter(|member| member.starving.is_some()).count();
        self.starving.store(starving, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a pool keeps a connection that cannot be shared evenly while another that has less waits for it. Each turn costs a login.
const TURN: Duration = Duration::from_millis(100);
