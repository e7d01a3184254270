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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::connection::Connection;
use crate::dial::{DialError, Target, dial};
use crate::roster::{Entry, Roster};

/// A pool's limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The most connections, idle, leased or being made.
    pub size: usize,
    /// Idle connections that are kept however old.
    pub size_min: usize,
    /// The most clients that wait.
    pub queue_max: usize,
    /// The longest that a client waits.
    pub wait_timeout: Duration,
    /// The idle time after which a connection is closed.
    pub idle_timeout: Duration,
    /// The age at which a connection is closed instead of being lent again.
    pub lifetime: Duration,
    /// The time after a failed attempt during which clients are told of it at once.
    pub login_retry: Duration,
    /// How many workers there are.
    pub workers: usize,
}

/// The connections of one server, database and user.
pub struct Pool<M: Send + 'static> {
    target: Target,
    /// Replaced when the configuration is reloaded.
    options: ArcSwap<Options>,
    memory: fn(usize) -> M,
    memory_size: usize,
    /// Connections of an older generation are closed when they come back. Changed under the lock, read without it.
    generation: AtomicU64,
    /// Connections of an older generation than this must not even be used for what comes next in a transaction. Likewise.
    fence: AtomicU64,
    roster: Roster,
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
    /// A connection could not be made.
    #[error("{0}")]
    Dial(#[from] DialError),
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
    /// By worker; used last in, first out, so that surplus ones grow old.
    idle: Vec<Vec<Idle<M>>>,
    /// By worker, first come first.
    waiters: Vec<VecDeque<Waiter<M>>>,
    /// By worker: the connections that it is the home of, idle, leased or being made.
    homed: Vec<usize>,
    /// Their sum.
    open: usize,
    dialing: usize,
    next_ticket: u64,
    failure: Option<(Instant, DialError)>,
    /// Another pool has taken its place: nothing is lent any more, and whatever comes back is closed.
    abandoned: bool,
}

struct Idle<M> {
    connection: Box<Connection<M>>,
    since: Instant,
}

struct Waiter<M: Send + 'static> {
    ticket: u64,
    /// It has waited for [`PATIENCE`]: a connection of any worker will do.
    impatient: bool,
    sender: oneshot::Sender<Answer<M>>,
}

enum Found<M: Send + 'static> {
    Idle(Box<Connection<M>>, u64),
    Wait(u64, oneshot::Receiver<Answer<M>>),
}

type Answer<M> = Result<Lease<M>, CheckoutError>;

impl<M: Send + 'static> Pool<M> {
    /// A pool without connections. `memory(memory_size)` is what a fresh connection remembers.
    pub fn new(target: Target, options: Options, memory: fn(usize) -> M, memory_size: usize) -> Arc<Pool<M>> {
        let state = State {
            idle: (0..options.workers).map(|_| Vec::new()).collect(),
            waiters: (0..options.workers).map(|_| VecDeque::new()).collect(),
            homed: vec![0; options.workers],
            open: 0,
            dialing: 0,
            next_ticket: 0,
            failure: None,
            abandoned: false,
        };
        Arc::new(Pool {
            target,
            options: ArcSwap::from_pointee(options),
            memory,
            memory_size,
            generation: AtomicU64::new(0),
            fence: AtomicU64::new(0),
            roster: Roster::default(),
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
                Found::Idle(connection, generation) => {
                    let mut lease = self.lease(connection, generation);
                    if !self.is_old(&lease, now)
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
        let size = options.size;
        self.options.store(Arc::new(options));
        let mut state = self.lock();
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

    /// Closes all idle connections now, and those on loan when they come back.
    pub fn recycle(self: &Arc<Self>) {
        self.renew(self.lock());
    }

    /// The same, and for good: another pool has taken its place, and whoever waits for a connection is sent there.
    pub fn abandon(self: &Arc<Self>) {
        let mut state = self.lock();
        state.abandoned = true;
        let waiters: Vec<Waiter<M>> = state.waiters.iter_mut().flat_map(std::mem::take).collect();
        self.renew(state);
        for waiter in waiters {
            // Whoever has stopped waiting does not need to know.
            let _ = waiter.sender.send(Err(CheckoutError::Abandoned));
        }
    }

    fn renew(self: &Arc<Self>, mut state: MutexGuard<'_, State<M>>) {
        self.generation.fetch_add(1, Ordering::Release);
        self.roster.dismiss();
        state.failure = None;
        let idle: Vec<Idle<M>> = state.idle.iter_mut().flat_map(std::mem::take).collect();
        self.close_all(state, idle);
    }

    /// Forgets that connections could not be made: there is reason to believe that they can be now.
    pub fn forgive(&self) {
        self.lock().failure = None;
    }

    /// Closes what has been idle or alive for too long.
    pub fn sweep(self: &Arc<Self>, now: Instant) {
        let mut closed = Vec::new();
        let options = self.options.load();
        let mut state = self.lock();
        let mut spare = state.idle.iter().map(Vec::len).sum::<usize>().saturating_sub(options.size_min);
        for idle in &mut state.idle {
            // Those that have been idle longest come first.
            closed.extend(idle.extract_if(.., |idle| {
                let stale = spare > 0 && now.saturating_duration_since(idle.since) >= options.idle_timeout;
                let ends = stale || self.is_old(&idle.connection, now);
                spare = spare.saturating_sub(usize::from(ends));
                ends
            }));
        }
        self.close_all(state, closed);
    }

    fn close_all(self: &Arc<Self>, mut state: MutexGuard<'_, State<M>>, idle: Vec<Idle<M>>) {
        for idle in &idle {
            state.subtract(idle.connection.home);
        }
        self.replace(state);
        drop(idle);
    }

    fn is_old(&self, connection: &Connection<M>, now: Instant) -> bool {
        now.saturating_duration_since(connection.since) >= self.options.load().lifetime
    }

    /// What it is doing.
    pub fn figures(&self) -> Figures {
        let state = self.lock();
        let idle = state.idle.iter().map(Vec::len).sum();
        let waiting = state.waiters.iter().map(VecDeque::len).sum();
        Figures { idle, leased: state.open - idle - state.dialing, dialing: state.dialing, waiting }
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
            return Ok(Found::Idle(idle.connection, self.generation()));
        }
        if let Some((until, error)) = &state.failure
            && now < *until
            && state.open == state.dialing
        {
            return Err(error.clone().into());
        }
        let waiting: usize = state.waiters.iter().map(VecDeque::len).sum();
        if waiting >= self.options.load().queue_max {
            return Err(CheckoutError::QueueFull);
        }
        let (sender, receiver) = oneshot::channel();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.waiters[worker].push_back(Waiter { ticket, impatient: false, sender });
        if state.open < self.options.load().size && state.dialing <= waiting && state.idle.iter().all(Vec::is_empty) {
            state.add(worker);
            state.dialing += 1;
            let (pool, generation) = (self.clone(), self.generation());
            tokio::spawn(async move { pool.grow(worker, generation).await });
        }
        Ok(Found::Wait(ticket, receiver))
    }

    /// Waits for a connection to be given; after a while, one that idles elsewhere is taken.
    async fn wait(
        self: &Arc<Self>,
        worker: usize,
        ticket: u64,
        mut receiver: oneshot::Receiver<Answer<M>>,
    ) -> Answer<M> {
        // Whoever stops waiting leaves the queue, also when nobody polls this any more.
        let _place = Place { pool: self, worker, ticket };
        let mut patience = PATIENCE;
        let mut left = self.options.load().wait_timeout;
        loop {
            match tokio::time::timeout(patience.min(left), &mut receiver).await {
                Ok(answer) => return answer.unwrap_or(Err(CheckoutError::Timeout)),
                Err(_) if patience >= left => return Err(CheckoutError::Timeout),
                Err(_) => {}
            }
            let mut state = self.lock();
            // When it is not in the queue any more, the answer is on its way.
            if let Some(at) = state.place(worker, ticket) {
                if let Some(idle) = state.take_any_idle() {
                    state.waiters[worker].remove(at);
                    return Ok(self.lease(idle.connection, self.generation()));
                }
                state.waiters[worker][at].impatient = true;
            }
            left -= patience;
            patience = left;
        }
    }

    /// Makes one connection and gives it to whoever waits.
    async fn grow(self: Arc<Self>, worker: usize, generation: u64) {
        // Accounts for the connection also when the runtime stops and drops this task.
        let mut attempt = Attempt { pool: &self, worker, pending: true };
        let made = dial(&self.target, (self.memory)(self.memory_size), worker).await;
        attempt.pending = false;
        match made {
            Ok(mut connection) => {
                connection.entry = Some(self.roster.enter(&connection));
                let mut state = self.lock();
                state.dialing -= 1;
                state.failure = None;
                drop(state);
                self.lease(Box::new(connection), generation).release(Instant::now());
            }
            Err(error) => self.fail(worker, error),
        }
    }

    /// An attempt has failed: who waits is told, unless connections exist that will come back.
    fn fail(&self, worker: usize, error: DialError) {
        tracing::warn!(server = %format_args!("{}:{}", self.target.host, self.target.port), database = %self.target.database, user = %self.target.user, %error, "cannot connect to server");
        let mut state = self.lock();
        state.subtract(worker);
        state.dialing -= 1;
        state.failure = Some((Instant::now() + self.options.load().login_retry, error.clone()));
        if state.open == state.dialing {
            let waiters: Vec<Waiter<M>> = state.waiters.iter_mut().flat_map(std::mem::take).collect();
            drop(state);
            for waiter in waiters {
                // Whoever has stopped waiting does not need to know.
                let _ = waiter.sender.send(Err(error.clone().into()));
            }
        }
    }

    fn lease(self: &Arc<Self>, connection: Box<Connection<M>>, generation: u64) -> Lease<M> {
        Lease { connection: Some(connection), pool: self.clone(), generation }
    }

    /// A connection was closed.
    fn closed(self: &Arc<Self>, home: usize) {
        let mut state = self.lock();
        state.subtract(home);
        self.replace(state);
    }

    /// Where connections were closed, one may be made for somebody who waits.
    fn replace(self: &Arc<Self>, mut state: MutexGuard<'_, State<M>>) {
        let waiting: usize = state.waiters.iter().map(VecDeque::len).sum();
        // Outside of a runtime the program is ending, and nobody waits.
        if waiting > state.dialing
            && state.open < self.options.load().size
            && let (Some(worker), Ok(runtime)) = (state.oldest_waiter(), tokio::runtime::Handle::try_current())
        {
            state.add(worker);
            state.dialing += 1;
            let (pool, generation) = (self.clone(), self.generation());
            drop(state);
            runtime.spawn(async move { pool.grow(worker, generation).await });
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

impl<M: Send + 'static> State<M> {
    fn add(&mut self, home: usize) {
        self.homed[home] += 1;
        self.open += 1;
    }

    fn subtract(&mut self, home: usize) {
        self.homed[home] -= 1;
        self.open -= 1;
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
    fn take_idle(&mut self, worker: usize) -> Option<Idle<M>> {
        match self.idle[worker].pop() {
            None if self.is_dry(worker) => self.take_any_idle(),
            own => own,
        }
    }

    fn take_any_idle(&mut self) -> Option<Idle<M>> {
        self.idle.iter_mut().max_by_key(|idle| idle.len())?.pop()
    }

    /// Whose turn it is when a connection of the worker `home` is free.
    fn next_waiter(&mut self, home: usize) -> Option<Waiter<M>> {
        let oldest = self.oldest_waiter()?;
        let own = self.waiters[home].front().map(|waiter| waiter.ticket);
        let first = self.waiters[oldest].front()?;
        let overtaken = own.unwrap_or(self.next_ticket) - first.ticket > OVERTAKEN_MAX;
        if overtaken || (own.is_none() && (first.impatient || self.is_dry(oldest))) {
            self.waiters[oldest].pop_front()
        } else {
            self.waiters[home].pop_front()
        }
    }

    /// The worker of whoever has waited longest.
    fn oldest_waiter(&self) -> Option<usize> {
        let fronts =
            self.waiters.iter().enumerate().filter_map(|(worker, queue)| Some((queue.front()?.ticket, worker)));
        fronts.min().map(|(_, worker)| worker)
    }
}

impl<M: Send + 'static> Lease<M> {
    /// Gives the connection back, as good as it was: idle, outside of a transaction, nothing unread. `now` is the present
    /// moment.
    pub fn release(mut self, now: Instant) {
        let Some(mut connection) = self.connection.take() else { return };
        let pool = self.pool.clone();
        let mut state = pool.lock();
        let surplus = state.abandoned || state.open > pool.options.load().size;
        if pool.generation() == self.generation && !surplus && !pool.is_old(&connection, now) {
            loop {
                let Some(waiter) = state.next_waiter(connection.home) else {
                    let home = connection.home;
                    state.idle[home].push(Idle { connection, since: now });
                    return;
                };
                let lease =
                    Lease { connection: Some(connection), pool: self.pool.clone(), generation: self.generation };
                match waiter.sender.send(Ok(lease)) {
                    Ok(()) => return,
                    // That client has gone; the next one gets it.
                    Err(Ok(mut lease)) => match lease.connection.take() {
                        Some(returned) => connection = returned,
                        None => return,
                    },
                    Err(Err(_)) => return,
                }
            }
        }
        drop(state);
        let home = connection.home;
        drop(connection);
        pool.closed(home);
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
            state.subtract(self.worker);
            state.dialing -= 1;
        }
    }
}

/// How many later arrivals may be served before a client of another worker.
const OVERTAKEN_MAX: u64 = 64;

/// How long a client waits for a connection of its own worker while one idles elsewhere.
const PATIENCE: Duration = Duration::from_millis(5);
