//! [`Pool`]: the connections of one server, database and user, lent to many clients.
//!
//! Owns the count of connections, the idle ones and the queue of clients that wait. One mutex guards these few lines, taken once
//! per checkout and once per release.
//!
//! Those who wait are served first come, first served, but for two liberties, since a connection that changes its worker costs
//! two system calls and a wake-up across cores (`benches/relay_model`: taking over eagerly cost more than one runtime per core
//! had won). A connection that is given back goes to the first in line *of its own worker*, unless somebody of another
//! worker has been overtaken [`OVERTAKEN_MAX`] times. And a worker takes an idle connection of another over only when it has
//! more clients waiting than connections, or when one of them has waited for [`PATIENCE`].

use std::collections::VecDeque;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use crate::connection::Connection;
use crate::dial::{DialError, Target, dial};
use crate::logins::Logins;
use crate::quota::{Grant, Quota, Shares};
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
    target: Target,
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

/// A connection lent to a client. Giving it back is explicit ([`Lease::release`]); dropping closes it.
pub struct Lease<M: Send + 'static> {
    /// `None` only after release.
    connection: Option<Box<Connection<M>>>,
    pool: Arc<Pool<M>>,
    generation: u64,
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
            CheckoutError::Timeout | CheckoutError::QueueFull | CheckoutError::Abandoned => false,
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

struct State<M: Send + 'static> {
    /// Replaced when the configuration is reloaded.
    options: Options,
    /// By worker; used last in, first out, so that surplus ones grow old.
    idle: Vec<Vec<Box<Connection<M>>>>,
    /// By worker, first come first.
    waiters: Vec<VecDeque<Waiter<M>>>,
    /// By worker: somebody looks after those who wait ([`Pool::look_after`]).
    looked_after: Vec<bool>,
    /// By worker: the connections that it is the home of, idle, leased or being made. The last is nobody's ([`State::nobody`]).
    homed: Vec<usize>,
    /// Their sum.
    open: usize,
    dialing: usize,
    next_ticket: u64,
    failure: Option<(Instant, DialError)>,
    /// Another pool has taken its place: nothing is lent any more, and whatever comes back is closed.
    abandoned: bool,
}

struct Waiter<M: Send + 'static> {
    ticket: u64,
    since: Instant,
    /// It has waited for [`PATIENCE`]: a connection of any worker will do.
    impatient: bool,
    /// It has waited for [`LOGIN_PATIENCE`].
    doubts: bool,
    /// It has waited for so long that the reserve is there for it.
    overdue: bool,
    sender: oneshot::Sender<Answer<M>>,
}

enum Found<M: Send + 'static> {
    Idle { connection: Box<Connection<M>>, generation: u64, is_old: bool },
    Wait(u64, oneshot::Receiver<Answer<M>>),
}

type Answer<M> = Result<Lease<M>, CheckoutError>;

impl<M: Send + 'static> Pool<M> {
    /// A pool without connections. `memory(memory_size)` is what a fresh connection remembers.
    pub fn new(
        target: Target,
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
            target,
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
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Borrows a connection for a client of `worker`, on whose runtime this must be called. `now` is the present moment.
    ///
    /// # Errors
    /// [`CheckoutError`]: at once when the queue is full or the server has just refused, else within the wait timeout.
    pub async fn checkout(self: &Arc<Self>, worker: usize, now: Instant) -> Result<Lease<M>, CheckoutError> {
        loop {
            match self.find(worker, now)? {
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
                Found::Wait(ticket, receiver) => {
                    let mut lease = self.wait(worker, ticket, receiver).await?;
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
        self.target == *target && self.memory_size == memory_size
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

    fn find(self: &Arc<Self>, worker: usize, now: Instant) -> Result<Found<M>, CheckoutError> {
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
        let (sender, receiver) = oneshot::channel();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        let waiter = Waiter { ticket, since: now, impatient: false, doubts: false, overdue: false, sender };
        state.waiters[worker].push_back(waiter);
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
        Ok(Found::Wait(ticket, receiver))
    }

    /// Waits for a connection to be given, or for word that none will be ([`Pool::look`]).
    async fn wait(&self, worker: usize, ticket: u64, receiver: oneshot::Receiver<Answer<M>>) -> Answer<M> {
        // Whoever stops waiting leaves the queue, also when nobody polls this any more.
        let _place = Place { pool: self, worker, ticket };
        receiver.await.unwrap_or(Err(CheckoutError::Timeout))
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
        // In the order in which they came.
        while let Some(first) = state.waiters[worker].front() {
            let waited = now.saturating_duration_since(first.since);
            let answer = if waited >= state.options.wait_timeout {
                Err(CheckoutError::Timeout)
            } else if waited >= PATIENCE
                && let Some(idle) = state.take_any_idle()
            {
                Ok(self.lease(idle, self.generation()))
            } else {
                break;
            };
            answers.extend(state.waiters[worker].pop_front().map(|waiter| (waiter, answer)));
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

    /// Takes a place of each quota, or none. `wanted`: where there is none, the pool has to be given one.
    fn take_places(&self, wanted: bool, now: Instant) -> Grant {
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
    fn spawn_grow(self: &Arc<Self>, state: &mut State<M>, worker: Option<usize>) {
        let home = worker.unwrap_or(state.nobody());
        state.homed[home] += 1;
        state.open += 1;
        state.dialing += 1;
        let (pool, generation) = (self.clone(), self.generation());
        tokio::spawn(async move { pool.grow(home, generation).await });
    }

    fn subtract(&self, state: &mut State<M>, home: usize) {
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

    fn lease(self: &Arc<Self>, connection: Box<Connection<M>>, generation: u64) -> Lease<M> {
        Lease { connection: Some(connection), pool: self.clone(), generation }
    }

    /// A connection was closed.
    fn closed(self: &Arc<Self>, home: usize) {
        self.subtract(&mut self.lock(), home);
        self.replace();
    }

    /// Where connections were closed, some may be made: in another pool that has waited for its part, or for somebody who waits here.
    fn replace(self: &Arc<Self>) {
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

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn lock(&self) -> MutexGuard<'_, State<M>> {
        // The few lines under the lock do not panic half-way; the state is whole even when something else did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

impl<M: Send + 'static> State<M> {
    /// The home of connections that were not made on a worker's runtime. Whoever takes one brings it home.
    fn nobody(&self) -> usize {
        self.homed.len() - 1
    }

    fn take_waiters(&mut self) -> Vec<Waiter<M>> {
        self.waiters.iter_mut().flat_map(std::mem::take).collect()
    }

    fn waiting(&self) -> usize {
        self.waiters.iter().map(VecDeque::len).sum()
    }

    /// Where in its worker's queue a client waits. Tickets are given out under the lock, so each queue is in their order.
    fn place(&self, worker: usize, ticket: u64) -> Option<usize> {
        self.waiters[worker].binary_search_by_key(&ticket, |waiter| waiter.ticket).ok()
    }

    /// Whether a worker has too few connections of its own for those who wait there.
    fn is_dry(&self, worker: usize) -> bool {
        self.waiters[worker].len() >= self.homed[worker]
    }

    /// The idle connection used last: the worker's own, or if the worker has run dry, another's.
    fn take_idle(&mut self, worker: usize) -> Option<Box<Connection<M>>> {
        let nobody = self.nobody();
        match self.idle[worker].pop().or_else(|| self.idle[nobody].pop()) {
            None if self.is_dry(worker) => self.take_any_idle(),
            own => own,
        }
    }

    fn take_any_idle(&mut self) -> Option<Box<Connection<M>>> {
        self.idle.iter_mut().max_by_key(|idle| idle.len())?.pop()
    }

    /// Whose turn it is when a connection of the worker `home` is free.
    fn next_waiter(&mut self, home: usize) -> Option<Waiter<M>> {
        let oldest = self.oldest_waiter()?;
        let own = self.waiters[home].front().map(|waiter| waiter.ticket);
        let first = self.waiters[oldest].front()?;
        let overtaken = own.unwrap_or(self.next_ticket) - first.ticket > OVERTAKEN_MAX;
        if overtaken || (own.is_none() && (first.impatient || home == self.nobody() || self.is_dry(oldest))) {
            self.waiters[oldest].pop_front()
        } else {
            self.waiters[home].pop_front()
        }
    }

    /// The most connections at the moment: with the reserve, when somebody has waited for it.
    fn size(&self) -> usize {
        let overdue = self.waiters.iter().flatten().any(|waiter| waiter.overdue);
        self.options.size + if overdue { self.options.reserve } else { 0 }
    }

    /// The worker of whoever has waited longest.
    fn oldest_waiter(&self) -> Option<usize> {
        let fronts =
            self.waiters.iter().enumerate().filter_map(|(worker, queue)| Some((queue.front()?.ticket, worker)));
        fronts.min().map(|(_, worker)| worker)
    }
}

/// Whether a connection has lived for too long to be lent again.
fn is_old<M>(connection: &Connection<M>, lifetime: Duration, now: Instant) -> bool {
    let age = now.saturating_duration_since(connection.since);
    // A tenth of it is spread by the connection's own luck.
    age >= lifetime / 10 * 9 && {
        let luck = lifetime / 10 * u32::from(connection.luck) / (u32::from(u8::MAX) + 1);
        !lifetime.is_zero() && age >= lifetime - luck
    }
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
    fn enter(self, now: Instant) {
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

    fn put_back(mut self, unwanted: bool, now: Instant) {
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
    fn at_home_of(mut self, worker: usize) -> Option<Lease<M>> {
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

/// A client's place in the queue, for as long as it waits.
struct Place<'a, M: Send + 'static> {
    pool: &'a Pool<M>,
    worker: usize,
    ticket: u64,
}

impl<M: Send + 'static> Drop for Place<'_, M> {
    fn drop(&mut self) {
        let mut state = self.pool.lock();
        if let Some(at) = state.place(self.worker, self.ticket) {
            state.waiters[self.worker].remove(at);
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

/// How many later arrivals may be served before a client of another worker.
const OVERTAKEN_MAX: u64 = 64;

/// How many quotas a pool has a part in: its database's and its user's.
pub(crate) const QUOTAS: usize = 2;

/// How long a client waits for a login that was begun before another is: one that hangs does not keep it out.
const LOGIN_PATIENCE: Duration = Duration::from_secs(1);

/// How long a client waits for a connection of its own worker while one idles elsewhere.
const PATIENCE: Duration = Duration::from_millis(5);
