//! Cancel requests: from the key that a client was given to the server that works for it at the moment, or to the peer that gave
//! the key.
//!
//! Owns the keys. A server that a cancel request is on its way to is not lent to anybody else before the request has arrived: it would
//! cancel somebody else's query.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use config::{Config, Peer};
use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use pool::{CancelAddress, Lease};
use session::ServerMemory;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Notify, Semaphore};
use wire::backend::Failure;
use wire::startup::{self, CancelKey};
use wire::version::Version;

/// The keys of all clients.
#[derive(Default)]
pub(crate) struct Cancels {
    slots: Mutex<HashMap<CancelKey, Arc<Mutex<Aim>>>>,
    /// By peer and size: the places for cancel requests on their way to it.
    peers: Mutex<HashMap<(u16, usize), Arc<Road>>>,
}

/// The way to a peer.
struct Road {
    places: Semaphore,
    size: usize,
    waiting: AtomicUsize,
}

/// One that waits for a place on it.
struct Waiting<'a>(&'a AtomicUsize);

/// One client's key; it is void when this is dropped.
pub(crate) struct Registered {
    pub(crate) key: CancelKey,
    cancels: Arc<Cancels>,
    aim: Arc<Mutex<Aim>>,
}

/// What a client's cancel request hits.
#[derive(Default)]
enum Aim {
    /// Nothing of it runs.
    #[default]
    Nothing,
    /// It waits for a server.
    Queue { cancelled: bool, waker: Waker },
    /// The server that works for it, with the requests on their way there, if there were any.
    Server { server: Arc<CancelAddress>, flights: Option<Arc<Flights>> },
}

/// The cancel requests on their way to one server connection.
#[derive(Default)]
pub(crate) struct Flights {
    open: AtomicUsize,
    /// The client's work there is done: what has not been sent yet is not sent.
    over: AtomicBool,
    /// Those that were sent, and of which nobody knows yet whether they have arrived.
    doubtful: AtomicUsize,
    landed: Notify,
}

/// One of them.
struct Flight(Arc<Flights>);

impl Cancels {
    /// Gives a client a key that nobody has. `peer` is this proxy's number among its peers, 0 for none.
    pub(crate) fn register(self: &Arc<Cancels>, version: Version, peer: u16) -> Registered {
        let mut slots = lock(&self.slots);
        loop {
            let secret: [u8; 32] = rand::random();
            let key = CancelKey::mint(rand::random(), &secret[..version.cancel_secret_bytes()], peer);
            if let Entry::Vacant(entry) = slots.entry(key.clone()) {
                let aim = Arc::default();
                entry.insert(Arc::clone(&aim));
                return Registered { key, cancels: self.clone(), aim };
            }
        }
    }

    /// Passes a cancel request on. Unknown keys are ignored without a word, as PostgreSQL does.
    pub(crate) async fn cancel(&self, key: CancelKey, config: &Config) {
        let own = config.proxy.peer_id;
        let limit = config.proxy.cancel_wait_timeout;
        match self.find(&key) {
            Some(aim) => cancel_own(&aim, limit).await,
            None if own > 0 && key.peer() != own => self.pass_on(key, config, limit).await,
            None => {}
        }
    }

    /// How many cancel requests are on their way to a peer, and how many wait for that.
    pub(crate) fn passing(&self, number: u16) -> (usize, usize) {
        let peers = lock(&self.peers);
        let roads = peers.iter().filter(|((to, _), _)| *to == number).map(|(_, road)| road);
        roads.fold((0, 0), |(active, waiting), road| {
            let busy = road.size - road.places.available_permits();
            (active + busy, waiting + road.waiting.load(Ordering::SeqCst))
        })
    }

    /// Whether it is a client's of this proxy.
    pub(crate) fn knows(&self, key: &CancelKey) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &CancelKey) -> Option<Arc<Mutex<Aim>>> {
        let slots = lock(&self.slots);
        // A peer may have passed it on to us.
        slots.get(key).or_else(|| slots.get(&key.clone().at_home())).cloned()
    }

    /// Passes a cancel request on to the peer that made the key.
    async fn pass_on(&self, key: CancelKey, config: &Config, limit: Duration) {
        let number = key.peer();
        let Some(peer) = config.peers.get(&number) else {
            return tracing::debug!(peer = number, "a cancel request for a peer that is not known");
        };
        let Some(key) = key.passed_on() else {
            return tracing::warn!(peer = number, "a cancel request has been passed on too often");
        };
        let size = peer.pool_size.unwrap_or(config.pool.size);
        let road = {
            let mut peers = lock(&self.peers);
            let road = || Arc::new(Road { places: Semaphore::new(size), size, waiting: AtomicUsize::new(0) });
            peers.entry((number, size)).or_insert_with(road).clone()
        };
        let passed = tokio::time::timeout(limit, async {
            let waiting = Waiting::on(&road.waiting);
            let _place = road.places.acquire().await.map_err(io::Error::other)?;
            drop(waiting);
            send(connect(peer).await?, &key).await
        });
        if !matches!(passed.await, Ok(Ok(()))) {
            tracing::warn!(peer = number, host = %peer.host, port = peer.port, "could not pass a cancel request on");
        }
    }
}

/// Sends a cancel request to where one of our clients is served.
async fn cancel_own(aim: &Mutex<Aim>, limit: Duration) {
    let (server, flight) = match &mut *lock(aim) {
        Aim::Nothing => return,
        Aim::Queue { cancelled, waker } => {
            *cancelled = true;
            return waker.wake_by_ref();
        }
        Aim::Server { server, flights } => {
            let flights = flights.get_or_insert_default();
            if flights.open.load(Ordering::SeqCst) >= FLIGHTS_MAX {
                return;
            }
            flights.open.fetch_add(1, Ordering::SeqCst);
            (server.clone(), Flight(flights.clone()))
        }
    };
    if !matches!(tokio::time::timeout(limit, cancel_at(&server, &flight.0)).await, Ok(Ok(()))) {
        tracing::warn!(host = %server.target.host, port = server.target.port, "could not pass a cancel request on");
    }
}

impl Registered {
    /// From now on the client's cancel requests go to this connection.
    pub(crate) fn aim(&self, server: Option<&Arc<CancelAddress>>) {
        // A server that has given no key cannot be told to cancel.
        *lock(&self.aim) = match server {
            Some(server) => Aim::Server { server: server.clone(), flights: None },
            None => Aim::Nothing,
        };
    }

    /// From now on they go nowhere. The server must not be lent again before those have landed that are on their way to it.
    pub(crate) fn lower(&self) -> Option<Arc<Flights>> {
        match std::mem::take(&mut *lock(&self.aim)) {
            Aim::Server { flights, .. } => flights.filter(|flights| {
                flights.over.store(true, Ordering::SeqCst);
                flights.open.load(Ordering::SeqCst) > 0 || flights.doubtful.load(Ordering::SeqCst) > 0
            }),
            Aim::Nothing | Aim::Queue { .. } => None,
        }
    }

    /// Waits in a queue, from which a cancel request calls the client back.
    ///
    /// # Errors
    /// What the client is told when it has cancelled.
    pub(crate) async fn unless_cancelled<T>(&self, turn: impl Future<Output = T>) -> Result<T, Failure> {
        let mut turn = pin!(turn);
        let mut queued = false;
        poll_fn(|context| {
            if queued && self.is_cancelled() {
                return Poll::Ready(Err(Failure::error("57014", "canceling statement due to user request")));
            }
            if let Poll::Ready(turn) = turn.as_mut().poll(context) {
                // It has not waited, or has waited long enough.
                return Poll::Ready(Ok(turn));
            }
            self.queue(context);
            queued = true;
            Poll::Pending
        })
        .await
    }

    fn queue(&self, context: &Context<'_>) {
        let mut aim = lock(&self.aim);
        match &mut *aim {
            Aim::Queue { waker, .. } => waker.clone_from(context.waker()),
            Aim::Nothing | Aim::Server { .. } => {
                *aim = Aim::Queue { cancelled: false, waker: context.waker().clone() };
            }
        }
    }

    fn is_cancelled(&self) -> bool {
        let mut aim = lock(&self.aim);
        let cancelled = matches!(*aim, Aim::Queue { cancelled: true, .. });
        if cancelled {
            *aim = Aim::Nothing;
        }
        cancelled
    }
}

impl Waiting<'_> {
    fn on(count: &AtomicUsize) -> Waiting<'_> {
        count.fetch_add(1, Ordering::SeqCst);
        Waiting(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.cancels.slots).remove(&self.key);
    }
}

impl Flights {
    /// Waits until none is on its way any more; `false` when one may still arrive.
    async fn landed(&self) -> bool {
        loop {
            let landed = self.landed.notified();
            if self.open.load(Ordering::SeqCst) == 0 {
                return self.doubtful.load(Ordering::SeqCst) == 0;
            }
            landed.await;
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
        self.0.landed.notify_waiters();
    }
}

/// Gives a lease back as soon as no cancel request can hit it any more.
pub(crate) fn release_after(flights: Arc<Flights>, lease: Lease<ServerMemory>) {
    tokio::task::spawn_local(async move {
        if flights.landed().await {
            lease.release(Instant::now());
        }
    });
}

/// Has a server stop what it does for the client of this lease, if it can be told, and in time.
pub(crate) async fn interrupt(lease: &Lease<ServerMemory>, limit: Duration) {
    let Some(server) = &lease.cancel else { return };
    if !matches!(tokio::time::timeout(limit, cancel_at(server, &Flights::default())).await, Ok(Ok(()))) {
        tracing::warn!(host = %server.target.host, port = server.target.port, "could not cancel what a client had left behind");
    }
}

async fn cancel_at(server: &CancelAddress, flights: &Flights) -> io::Result<()> {
    let stream = pool::reach(&server.target).await.map_err(io::Error::other)?;
    // What was to be cancelled may have ended meanwhile.
    if flights.over.load(Ordering::SeqCst) {
        return Ok(());
    }
    // Set before anything is sent, since this may never be polled again.
    flights.doubtful.fetch_add(1, Ordering::SeqCst);
    send(stream, &server.key).await?;
    flights.doubtful.fetch_sub(1, Ordering::SeqCst);
    Ok(())
}

async fn connect(peer: &Peer) -> io::Result<TcpStream> {
    TcpStream::connect((peer.host.as_str(), peer.port)).await
}

/// Sends a cancel request, and waits until it has been dealt with: the other side closes the connection when it has sent the signal.
async fn send(mut stream: impl AsyncRead + AsyncWrite + Unpin, key: &CancelKey) -> io::Result<()> {
    let mut packet = Vec::new();
    startup::put_cancel(&mut packet, key);
    stream.write_all(&packet).await?;
    stream.flush().await?;
    match stream.read(&mut [0; 1]).await {
        // PostgreSQL takes no leave of an encrypted connection.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Cancel requests on their way to one server connection. A second one may be meant for a later query than the first; of any more,
/// one will do.
const FLIGHTS_MAX: usize = 2;
