//! [`Pool`]: the connections of one server, database and user, lent to many clients.
//!
//! Owns the count of connections, the idle ones and the queue of clients that wait. One mutex guards these few lines, taken once
//! per checkout and once per release.
//!
//! Those who wait are served first come, first served, but for two liberties, since a connection that changes its worker costs
//! two system calls and a wake-up across cores (`benches/relay_model`: taking over eagerly cost more than one runtime per core
//! had won). A connection that is given back goes to the first in line *of its own worker*, unless somebody of another
//! worker has been overtaken [`state::OVERTAKEN_MAX`] times. And a worker takes an idle connection of another over only when it has
//! more clients waiting than connections, or when one of them has waited for [`PATIENCE`].

mod growth;
mod lease;
mod state;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

pub use self::lease::Lease;
use self::lease::is_old;
use self::state::{State, Waiter};
use crate::connection::Connection;
use crate::dial::{DialError, Target};
use crate::logins::Logins;
use crate::quota::{Grant, Quota};
use crate::roster::{Entry, Roster};

/// A pool's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The most connections, idle, leased or being made.
    pub size: usize,
    /// Connections that are kept however long they idle, and opened before they are needed while the pool is in use.
    pub size_min: usize,
    /// Connections beyond `size`, for when a client has waited for `reserve_timeout`.
    pub reserve: usize,
    /// How long a client waits for one of the `size` before one of the reserve is opened.
    pub reserve_timeout: Duration,
    /// The limits of the quotas that the pool has a part in.
    pub quota_max: [usize; QUOTAS],
    /// The most clients that wait.
    pub queue_max: usize,
    /// The longest that a client waits.
    pub wait_timeout: Duration,
    /// The idle time after which a connection is closed.
    pub idle_timeout: Duration,
    /// The age at which a connection is closed instead of being lent again; some end up to a tenth earlier, so that not all do at
    /// once. Zero is after its first use.
    pub lifetime: Duration,
    /// The time after a failed attempt during which clients are told of it at once.
    pub login_retry: Duration,
    /// How many workers there are.
    pub workers: usize,
}

/// The connections of one server, database and user.
pub struct Pool<M: Send + 'static> {
    target: Arc<Target>,
    memory: fn(usize) -> M,
    memory_size: usize,
    /// Connections of an older generation are closed when they come back. Changed under the lock, read without it.
    generation: AtomicU64,
    /// Connections of an older generation than this must not even be used for what comes next in a transaction. Likewise.
    fence: AtomicU64,
    roster: Roster,
    /// What it shares with others, and its number there.
    quotas: [(Arc<Quota>, u64); QUOTAS],
    /// Whose turn it is to log in to the server.
    logins: Arc<Logins>,
    /// The node was given up: what is being made is not made.
    severed: Notify,
    state: Mutex<State<M>>,
}

/// Why there is no lease.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CheckoutError {
    /// Nobody gave one back in time.
    #[error("query_wait_timeout")]
    Timeout,
    /// Too many wait already.
    #[error("too many clients are waiting for a server connection")]
    QueueFull,
    /// Another pool has taken this one's place ([`Pool::abandon`]).
    #[error("the pool has been replaced")]
    Abandoned,
    /// The node was given up meanwhile ([`Pool::sever`]).
    #[error("the server has been given up")]
    Severed,
    /// Nobody is to wait at the moment ([`Pool::recall`]).
    #[error("nobody is to wait for a connection now")]
    Recalled,
    /// A connection could not be made.
    #[error("{0}")]
    Dial(#[from] DialError),
    /// The same, a little while ago; it was not tried again.
    #[error("server login has been failing, cached error: {0} (server_login_retry)")]
    Cached(DialError),
}

impl CheckoutError {
    /// Whether another attempt, or another server, may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            CheckoutError::Dial(error) | CheckoutError::Cached(error) => error.is_transient(),
            CheckoutError::Severed => true,
            CheckoutError::Timeout | CheckoutError::QueueFull | CheckoutError::Abandoned | CheckoutError::Recalled => {
                false
            }
        }
    }
}

/// A pool's state, for metrics and the console.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Connections that are idle.
    pub idle: usize,
    /// Connections that are lent.
    pub leased: usize,
    /// Connections that are being made.
    pub dialing: usize,
    /// Clients that wait.
    pub waiting: usize,
}

enum Found<M: Send + 'static> {
    Idle { connection: Box<Connection<M>>, generation: u64, is_old: bool },
    Wait((Instant, u64), oneshot::Receiver<Answer<M>>),
}

type Answer<M> = Result<Lease<M>, CheckoutError>;

impl<M: Send + 'static> Pool<M> {
    /// A pool without connections. `memory(memory_size)` is what a fresh connection remembers.
    pub fn new(
        target: impl Into<Arc<Target>>,
        options: Options,
        quotas: [Arc<Quota>; QUOTAS],
        logins: Arc<Logins>,
        memory: fn(usize) -> M,
        memory_size: usize,
    ) -> Arc<Pool<M>> {
        let homes = options.workers + 1;
        let state = State {
            idle: (0..homes).map(|_| Vec::new()).collect(),
            waiters: (0..homes).map(|_| VecDeque::new()).collect(),
            looked_after: vec![false; homes],
            homed: vec![0; homes],
            open: 0,
            dialing: 0,
            next_ticket: 0,
            failure: None,
            abandoned: false,
            options,
        };
        for (quota, max) in quotas.iter().zip(state.options.quota_max) {
            quota.adjust(max);
        }
        Arc::new_cyclic(|pool: &Weak<Pool<M>>| Pool {
            target: target.into(),
            memory,
            memory_size,
            generation: AtomicU64::new(0),
            fence: AtomicU64::new(0),
            roster: Roster::default(),
            quotas: quotas.map(|quota| {
                let member = quota.join(pool.clone());
                (quota, member)
            }),
            logins,
            severed: Notify::new(),
            state: Mutex::new(state),
        })
    }

    /// Whom its connections go to.
    pub fn target(&self) -> &Arc<Target> {
        &self.target
    }

    /// Borrows a connection for a client of `worker`, on whose runtime this must be called. `now` is the present moment.
    ///
    /// # Errors
    /// [`CheckoutError`]: at once when the queue is full or the server has just refused, else within the wait timeout.
    pub async fn checkout(self: &Arc<Self>, worker: usize, now: Instant) -> Result<Lease<M>, CheckoutError> {
        self.checkout_after(worker, now, now, || true).await
    }

    /// The same for a client that has waited since `came` for a server to be there: its place is in front of those who came later.
    /// `may_wait` is asked before it waits; whoever makes it say no calls [`Pool::recall`] afterwards, so that nobody goes on waiting.
    ///
    /// # Errors
    /// As with [`Pool::checkout`].
    pub async fn checkout_after(
        self: &Arc<Self>,
        worker: usize,
        came: Instant,
        now: Instant,
        may_wait: impl Fn() -> bool,
    ) -> Result<Lease<M>, CheckoutError> {
        loop {
            match self.find(worker, came, now, &may_wait)? {
                Found::Idle { connection, generation, is_old } => {
                    let mut lease = self.lease(connection, generation);
                    if !is_old
                        && lease.is_alive()
                        && let Some(lease) = lease.at_home_of(worker)
                    {
                        return Ok(lease);
                    }
                    // Dropped and closed; the next one may do.
                }
                Found::Wait(place, receiver) => {
                    let mut lease = self.wait(worker, place, receiver).await?;
                    if lease.is_alive()
                        && let Some(lease) = lease.at_home_of(worker)
                    {
                        return Ok(lease);
                    }
                }
            }
        }
    }

    /// Whether what it lends is what a pool of this target would lend, its limits aside.
    pub fn serves(&self, target: &Target, memory_size: usize) -> bool {
        *self.target == *target && self.memory_size == memory_size
    }

    /// Puts other limits in force. Idle connections above a smaller size are closed now, others when they come back.
    pub fn adjust(self: &Arc<Self>, options: Options) {
        let size = options.size + options.reserve;
        for ((quota, _), max) in self.quotas.iter().zip(options.quota_max) {
            quota.adjust(max);
        }
        let mut state = self.lock();
        state.options = options;
        let mut closed = Vec::new();
        while state.open - closed.len() > size
            && let Some(idle) = state.take_any_idle()
        {
            closed.push(idle);
        }
        self.close_all(state, closed);
    }

    /// The node is not what it was: closes all idle connections now, and those on loan before anything else is sent to them.
    pub fn retire(self: &Arc<Self>) {
        let state = self.lock();
        self.fence.store(self.generation() + 1, Ordering::Release);
        self.renew(state);
    }

    /// The node is out of reach, or must not be used any more: ends all connections now, those on loan too. Whoever waits for an answer
    /// there finds it lost; whoever waits for a connection looks elsewhere, since one that is being made may never be.
    pub fn sever(self: &Arc<Self>) {
        let entries = self.roster.list();
        let waiters = self.lock().take_waiters();
        self.retire();
        dismiss(waiters, CheckoutError::Severed);
        self.severed.notify_waiters();
        entries.iter().for_each(|entry| entry.sever());
    }

    /// Closes all idle connections now, and those on loan when they come back.
    pub fn recycle(self: &Arc<Self>) {
        self.renew(self.lock());
    }

    /// The same, and for good: another pool has taken its place, and whoever waits for a connection is sent there.
    pub fn abandon(self: &Arc<Self>) {
        let mut state = self.lock();
        state.abandoned = true;
        let waiters = state.take_waiters();
        self.renew(state);
        dismiss(waiters, CheckoutError::Abandoned);
    }

    /// Sends away whoever waits for a connection.
    pub fn recall(&self) {
        let waiters = self.lock().take_waiters();
        dismiss(waiters, CheckoutError::Recalled);
    }

    fn renew(self: &Arc<Self>, mut state: MutexGuard<'_, State<M>>) {
        self.generation.fetch_add(1, Ordering::Release);
        self.roster.dismiss();
        state.failure = None;
        let idle: Vec<Box<Connection<M>>> = state.idle.iter_mut().flat_map(std::mem::take).collect();
        self.close_all(state, idle);
    }

    /// Forgets that connections could not be made: there is reason to believe that they can be now.
    pub fn forgive(&self) {
        self.lock().failure = None;
    }

    /// Closes what has been idle or alive for too long; and while the pool is in use, opens what is missing of the least size, on the
    /// current runtime.
    pub fn sweep(self: &Arc<Self>, now: Instant, in_use: bool) {
        let mut closed = Vec::new();
        let mut guard = self.lock();
        let State { idle: connections, options, .. } = &mut *guard;
        let mut spare = connections.iter().map(Vec::len).sum::<usize>().saturating_sub(options.size_min);
        for idle in connections {
            // Those that have been idle longest come first.
            closed.extend(idle.extract_if(.., |idle| {
                let idled = now.saturating_duration_since(idle.given_back.unwrap_or(idle.since));
                let stale = spare > 0 && idled >= options.idle_timeout;
                let ends = stale || is_old(idle, options.lifetime, now);
                spare = spare.saturating_sub(usize::from(ends));
                ends
            }));
        }
        self.close_all(guard, closed);
        if in_use {
            self.warm_up(now);
        }
        self.quotas.iter().for_each(|(quota, _)| quota.settle());
    }

    fn warm_up(self: &Arc<Self>, now: Instant) {
        let mut state = self.lock();
        let failing = state.failure.as_ref().is_some_and(|(until, _)| now < *until);
        while !state.abandoned
            && !failing
            && state.open < state.options.size_min.min(state.options.size)
            && self.take_places(false, now) == Grant::Taken
        {
            self.spawn_grow(&mut state, None);
        }
    }

    fn close_all(self: &Arc<Self>, mut state: MutexGuard<'_, State<M>>, idle: Vec<Box<Connection<M>>>) {
        for idle in &idle {
            self.subtract(&mut state, idle.home);
        }
        drop(state);
        drop(idle);
        self.replace();
    }

    /// What it is doing.
    pub fn figures(&self) -> Figures {
        let state = self.lock();
        let idle = state.idle.iter().map(Vec::len).sum();
        let waiting = state.waiters.iter().map(VecDeque::len).sum();
        Figures { idle, leased: state.open - idle - state.dialing, dialing: state.dialing, waiting }
    }

    /// Why the last attempt to connect failed, and until when that is not tried again; none when it has succeeded, or is forgotten.
    pub fn failure(&self) -> Option<(Instant, DialError)> {
        self.lock().failure.clone()
    }

    /// Its connections, but for those that are being made.
    pub fn roster(&self) -> Vec<Arc<Entry>> {
        self.roster.list()
    }

    fn find(
        self: &Arc<Self>,
        worker: usize,
        came: Instant,
        now: Instant,
        may_wait: impl Fn() -> bool,
    ) -> Result<Found<M>, CheckoutError> {
        let mut state = self.lock();
        if state.abandoned {
            return Err(CheckoutError::Abandoned);
        }
        if let Some(idle) = state.take_idle(worker) {
            let is_old = is_old(&idle, state.options.lifetime, now);
            return Ok(Found::Idle { connection: idle, generation: self.generation(), is_old });
        }
        if let Some((until, error)) = &state.failure
            && now < *until
            && state.open == state.dialing
        {
            return Err(CheckoutError::Cached(error.clone()));
        }
        let waiting = state.waiting();
        if waiting >= state.options.queue_max {
            return Err(CheckoutError::QueueFull);
        }
        // Under the lock: whoever recalls after this finds the client in the queue.
        if !may_wait() {
            return Err(CheckoutError::Recalled);
        }
        let (sender, receiver) = oneshot::channel();
        let place = (came, state.next_ticket);
        state.next_ticket += 1;
        let waiter = Waiter { place, since: now, impatient: false, doubts: false, overdue: false, sender };
        let behind = state.waiters[worker].iter().rev().take_while(|other| other.place > place).count();
        let at = state.waiters[worker].len() - behind;
        state.waiters[worker].insert(at, waiter);
        if !std::mem::replace(&mut state.looked_after[worker], true) {
            tokio::spawn(Pool::look_after(Arc::downgrade(self), worker));
        }
        if state.open < state.options.size && state.dialing <= waiting && state.idle.iter().all(Vec::is_empty) {
            match self.take_places(true, now) {
                Grant::Taken => self.spawn_grow(&mut state, Some(worker)),
                Grant::Refused { news: false } => {}
                Grant::Refused { news: true } => {
                    drop(state);
                    for (quota, member) in &self.quotas {
                        quota.press(*member);
                        quota.settle();
                    }
                }
            }
        }
        Ok(Found::Wait(place, receiver))
    }

    /// Waits for a connection to be given, or for word that none will be ([`Pool::look`]).
    async fn wait(&self, worker: usize, place: (Instant, u64), receiver: oneshot::Receiver<Answer<M>>) -> Answer<M> {
        // Whoever stops waiting leaves the queue, also when nobody polls this any more.
        let place = Place { pool: self, worker, place };
        let answer = receiver.await;
        // Who has been answered is in the queue no more.
        std::mem::forget(place);
        answer.unwrap_or(Err(CheckoutError::Timeout))
    }

    /// Looks after those who wait at a worker, for as long as anybody does. No client registers a timer: one that is due before all others
    /// wakes the event loop through the kernel, and of those who wait, each would be.
    async fn look_after(pool: Weak<Self>, worker: usize) {
        loop {
            tokio::time::sleep(PATIENCE).await;
            if !pool.upgrade().is_some_and(|pool| pool.look(worker, Instant::now())) {
                return;
            }
        }
    }

    /// Does what is due for those who wait at a worker; `false` when nobody does.
    fn look(self: &Arc<Self>, worker: usize, now: Instant) -> bool {
        let mut answers = Vec::new();
        let mut state = self.lock();
        let waits = !state.waiters[worker].is_empty();
        state.looked_after[worker] = waits;
        let wait_timeout = state.options.wait_timeout;
        let waited = |waiter: &Waiter<M>| now.saturating_duration_since(waiter.since);
        // Who came first to wait for a server may have come here last.
        let mut at = 0;
        while at < state.waiters[worker].len() {
            match waited(&state.waiters[worker][at]) >= wait_timeout {
                true => {
                    let overdue = state.waiters[worker].remove(at);
                    answers.extend(overdue.map(|waiter| (waiter, Err(CheckoutError::Timeout))));
                }
                false => at += 1,
            }
        }
        // In the order in which they came.
        while state.waiters[worker].front().is_some_and(|first| waited(first) >= PATIENCE)
            && let Some(idle) = state.take_any_idle()
        {
            let lease = self.lease(idle, self.generation());
            answers.extend(state.waiters[worker].pop_front().map(|waiter| (waiter, Ok(lease))));
        }
        for at in 0..state.waiters[worker].len() {
            self.insist(&mut state, worker, at, now);
        }
        drop(state);
        for (waiter, answer) in answers {
            if let Err(Ok(lease)) = waiter.sender.send(answer) {
                lease.enter(now);
            }
        }
        waits
    }

    /// Once a client has waited for so long, a connection of any worker will do, or one more attempt to make one.
    fn insist(self: &Arc<Self>, state: &mut State<M>, worker: usize, at: usize, now: Instant) {
        let State { waiters, options, .. } = &mut *state;
        let waiter = &mut waiters[worker][at];
        let waited = now.saturating_duration_since(waiter.since);
        waiter.impatient |= waited >= PATIENCE;
        let overdue = options.reserve > 0 && waited >= options.reserve_timeout;
        let hangs = waited >= LOGIN_PATIENCE;
        let news = overdue && !std::mem::replace(&mut waiter.overdue, overdue);
        // Whatever was begun for it hangs, maybe, while others would be let in.
        let another = hangs && !std::mem::replace(&mut waiter.doubts, hangs) && state.dialing > 0;
        if (news || another) && state.open < state.size() && self.take_places(true, now) == Grant::Taken {
            self.spawn_grow(state, Some(worker));
        }
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // The few lines under the lock do not panic half-way; the state is whole even when something else did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Send + 'static> Drop for Pool<M> {
    fn drop(&mut self) {
        self.quotas.iter().for_each(|(quota, member)| quota.leave(*member));
    }
}

/// Tells those who have waited that there is nothing to wait for.
fn dismiss<M: Send + 'static>(waiters: Vec<Waiter<M>>, error: CheckoutError) {
    for waiter in waiters {
        // Whoever has stopped waiting does not need to know.
        let _ = waiter.sender.send(Err(error.clone()));
    }
}

/// A client's place in the queue, for as long as it waits.
struct Place<'a, M: Send + 'static> {
    pool: &'a Pool<M>,
    worker: usize,
    place: (Instant, u64),
}

impl<M: Send + 'static> Drop for Place<'_, M> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        if let Some(at) = state.place(self.worker, self.place) {
            state.waiters[self.worker].remove(at);
        }
    }
}

/// How many quotas a pool has a part in: its database's and its user's.
pub(crate) const QUOTAS: usize = 2;

/// How long a client waits for a login that was begun before another is: one that hangs does not keep it out.
const LOGIN_PATIENCE: Duration = Duration::from_secs(1);

/// How long a client waits for a connection of its own worker while one idles elsewhere.
const PATIENCE: Duration = Duration::from_millis(5);
