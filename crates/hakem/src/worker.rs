//! A worker: one thread, one event loop, and the clients dealt to it.
//!
//! Owns what the clients of one thread share: spare buffers, counters, the list of who is there.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use pool::Stream;
use tokio::runtime::LocalOptions;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::buffers::Spares;
use crate::census::Membership;
use crate::client::Passage;
use crate::counters::{Counters, PINS, Place};
use crate::deadline::{Alarm, Overdue};
use crate::listener::{self, Arrival, Door};
use crate::login::{Caller, RECEIVED_BYTES};
use crate::resolution::RESOLUTIONS_MAX;
use crate::rooms::Rooms;
use crate::service::Service;
use crate::staffing::Transfer;
use crate::standing::{Sighting, Standing};
use crate::times::Times;

/// What the clients of one thread share.
pub(crate) struct Worker {
    pub(crate) id: usize,
    pub(crate) service: Arc<Service>,
    pub(crate) spares: Spares,
    pub(crate) rooms: Rooms,
    pub(crate) counters: Arc<Counters>,
    slots: RefCell<HashMap<u64, Rc<Slot>>>,
    dismissed: Cell<bool>,
    /// Those with an alarm. Somebody looks at it from time to time.
    pub(crate) timed: RefCell<Vec<Rc<Slot>>>,
    /// Who may ask what became of a commit.
    pub(crate) resolutions: Semaphore,
    board: Arc<Board>,
}

/// What a worker and the rest of the program tell each other without a word.
#[derive(Default)]
struct Board {
    /// How many connections it serves.
    load: AtomicUsize,
    /// The order to its clients to go over to another ([`Transfer::to_bits`]).
    transfer: AtomicU64,
}

/// A client's place at its worker: how it can be told to leave.
pub(crate) struct Slot {
    pub(crate) id: u64,
    /// What it is doing, for the console.
    pub(crate) standing: Standing,
    killed: Cell<bool>,
    /// When its time is up.
    pub(crate) alarm: Alarm<Overdue>,
    /// When it is to be told that it waits.
    pub(crate) notice: Alarm<()>,
    /// It is among the worker's that have an alarm.
    pub(crate) timed: Cell<bool>,
    /// Wakes its task, whatever there is.
    waker: RefCell<Option<Waker>>,
    dismissed: Cell<bool>,
}

/// The rest of the program's hold on a worker.
pub(crate) struct Handle {
    staff: Staff,
    thread: thread::JoinHandle<()>,
}

/// The crew's hold on a worker.
#[derive(Clone)]
pub(crate) struct Staff {
    orders: mpsc::UnboundedSender<Order>,
    board: Arc<Board>,
    counters: Arc<Counters>,
    /// Where the system tells.
    times: Option<Arc<Times>>,
}

/// Says of a client whether it has to go.
type Doomed = Arc<dyn Fn(&Sighting) -> bool + Send + Sync>;

/// What a worker is told.
enum Order {
    /// Let clients in here, and say by which task.
    Open(Door, oneshot::Sender<JoinHandle<()>>),
    /// Serve this connection.
    Serve(Arrival),
    /// Go on serving a client that another worker has served so far.
    Receive(Box<Passage>),
    /// Dismiss clients as they become idle.
    Drain,
    /// Say who is there.
    Look(oneshot::Sender<Vec<Sighting>>),
    /// End the sessions of these clients, and say how many they are.
    Kill(Doomed, oneshot::Sender<usize>),
    /// Drop everything.
    Stop,
}

impl Handle {
    /// Starts a worker thread.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(crate) fn spawn(id: usize, service: Arc<Service>, counters: Arc<Counters>) -> io::Result<Handle> {
        let (orders, received) = mpsc::unbounded_channel();
        let board = Arc::<Board>::default();
        let (shared, counted) = (board.clone(), counters.clone());
        let (times, told) = std::sync::mpsc::channel();
        let thread = thread::Builder::new().name(format!("worker-{id}")).spawn(move || {
            let _ = times.send(Times::of_this_thread().ok());
            // Not a LocalSet on an ordinary runtime: that wakes itself through the kernel for each batch of events.
            let mut builder = tokio::runtime::Builder::new_current_thread();
            if service.config().proxy.io_uring {
                match pool::post::open() {
                    Ok(()) => drop(builder.on_thread_park(pool::post::turn_over)),
                    Err(error) => {
                        tracing::info!(%error, worker = id, "no io_uring here: each message is sent by itself")
                    }
                }
            }
            let runtime = match builder.enable_all().build_local(LocalOptions::default()) {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, worker = id, "a worker has no event loop"),
            };
            let worker = Rc::new(Worker {
                id,
                service,
                spares: Spares::default(),
                rooms: Rooms::default(),
                counters: counted,
                slots: RefCell::default(),
                dismissed: Cell::new(false),
                timed: RefCell::default(),
                resolutions: Semaphore::new(RESOLUTIONS_MAX),
                board: shared,
            });
            runtime.block_on(run(worker, received));
        })?;
        let times = told.recv().ok().flatten().map(Arc::new);
        Ok(Handle { staff: Staff { orders, board, counters, times }, thread })
    }

    /// Has it let clients in by this door, and deal them, until the task ends. `None` when it has stopped.
    pub(crate) async fn open(&self, door: Door) -> Option<JoinHandle<()>> {
        let (answer, answered) = oneshot::channel();
        let _ = self.staff.orders.send(Order::Open(door, answer));
        answered.await.ok()
    }

    /// What the crew needs of it.
    pub(crate) fn staff(&self) -> Staff {
        self.staff.clone()
    }

    /// Dismisses clients as they become idle.
    pub(crate) fn drain(&self) {
        let _ = self.staff.orders.send(Order::Drain);
    }

    /// Drops everything, and waits for the thread to end.
    pub(crate) fn stop(self) {
        let _ = self.staff.orders.send(Order::Stop);
        let _ = self.thread.join();
    }
}

impl Staff {
    /// How long its thread has computed since it began, and how long it has waited for a core. `None` where the system does not tell.
    pub(crate) fn times(&self) -> Option<[Duration; 2]> {
        self.times.as_ref()?.read().ok()
    }

    /// How many connections it serves.
    pub(crate) fn load(&self) -> usize {
        self.board.load.load(Ordering::Relaxed)
    }

    /// Gives it a connection.
    pub(crate) fn serve(&self, arrival: Arrival) {
        self.take_on(Order::Serve(arrival));
    }

    /// From now on, and until told otherwise, clients go over to another worker as they come to rest.
    pub(crate) fn transfer(&self, order: Option<Transfer>) {
        self.board.transfer.store(Transfer::to_bits(order), Ordering::Relaxed);
    }

    /// Gives it a client that another worker has served so far.
    pub(crate) fn receive(&self, passage: Box<Passage>) {
        self.take_on(Order::Receive(passage));
    }

    /// One more to serve.
    fn take_on(&self, order: Order) {
        self.board.load.fetch_add(1, Ordering::Relaxed);
        // A worker that has stopped is of a program that is ending.
        let _ = self.orders.send(order);
    }

    /// The worker's clients that have logged in.
    pub(crate) async fn look(&self) -> Vec<Sighting> {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Look(answer));
        // A worker that has stopped has nobody.
        answered.await.unwrap_or_default()
    }

    /// Ends the sessions of these clients; returns how many.
    pub(crate) async fn kill(&self, doomed: Doomed) -> usize {
        let (answer, answered) = oneshot::channel();
        let _ = self.orders.send(Order::Kill(doomed, answer));
        answered.await.unwrap_or_default()
    }

    /// How many statements it has sent somewhere for this reason.
    pub(crate) fn routed(&self, place: Place, why: classifier::Why) -> u64 {
        self.counters.routed_total(place, why)
    }

    /// How often its clients were pinned, by reason.
    pub(crate) fn pins(&self) -> [u64; PINS.len()] {
        self.counters.pins()
    }
}

async fn run(worker: Rc<Worker>, mut orders: mpsc::UnboundedReceiver<Order>) {
    while let Some(order) = orders.recv().await {
        match order {
            Order::Open(door, answer) => {
                let deal = tokio::task::spawn_local(listener::deal(door, worker.clone()));
                // Nobody can close a door again that nobody knows of.
                let _ = answer.send(deal).map_err(|deal| deal.abort());
            }
            Order::Serve(arrival) => worker.serve(arrival),
            Order::Receive(passage) => match passage.arrive(&worker) {
                Ok(guest) => drop(tokio::task::spawn_local(crate::client::stay(guest))),
                Err(error) => worker.could_not_take(&error),
            },
            Order::Drain => worker.dismiss_all(),
            // Whoever has asked and gone does not need to know.
            Order::Look(answer) => drop(answer.send(worker.sightings())),
            Order::Kill(doomed, answer) => drop(answer.send(worker.kill(&doomed))),
            Order::Stop => return,
        }
    }
}

impl Worker {
    /// Somebody comes, and is there until the answer is dropped.
    pub(crate) fn enter(self: &Rc<Worker>) -> Presence {
        let id = self.service.next_client_id();
        self.enter_with(Belongings { id, standing: Standing::new(Instant::now()), counted: None, membership: None })
    }

    /// The same for somebody who has been with another worker.
    pub(crate) fn enter_with(self: &Rc<Worker>, belongings: Belongings) -> Presence {
        let Belongings { id, standing, counted, membership } = belongings;
        let slot = Rc::new(Slot::new(id, standing, self.dismissed.get()));
        self.slots.borrow_mut().insert(id, slot.clone());
        Presence { worker: self.clone(), slot, counted: Cell::new(counted), membership: Cell::new(membership) }
    }

    /// One more to serve, by word of its own.
    pub(crate) fn take_on(self: &Rc<Worker>, arrival: Arrival) {
        self.board.load.fetch_add(1, Ordering::Relaxed);
        self.serve(arrival);
    }

    fn serve(self: &Rc<Worker>, Arrival { stream, address, seat }: Arrival) {
        let mut said = Vec::with_capacity(RECEIVED_BYTES);
        // It may have said already what it wants. A handshake reads for itself.
        if !self.service.encryption.is_offered() {
            said.extend_from_slice(stream.read_now(&mut [0; RECEIVED_BYTES]));
        }
        let caller = Caller { seat, address, said };
        match stream.attach() {
            Ok(socket) => {
                drop(tokio::task::spawn_local(crate::client::serve(Stream::Plain(socket), caller, self.clone())));
            }
            Err(error) => self.could_not_take(&error),
        }
    }

    fn could_not_take(&self, error: &io::Error) {
        self.board.load.fetch_sub(1, Ordering::Relaxed);
        tracing::warn!(%error, worker = self.id, "could not take a connection over");
    }

    /// The worker that a client is to go to, if it is to leave this one.
    pub(crate) fn sends_away(&self, client: &Slot) -> Option<usize> {
        let order = Transfer::from_bits(self.board.transfer.load(Ordering::Relaxed))?;
        // Who is the only one at work takes its worker's load along, and would be sent back for it.
        let leaves = order.is_for_everybody() || self.rooms.occupied() > 0;
        order.concerns(client.id).filter(|_| leaves && !client.is_killed() && !client.is_dismissed())
    }

    fn sightings(&self) -> Vec<Sighting> {
        self.slots.borrow().values().filter_map(|slot| slot.standing.look(slot.id)).collect()
    }

    fn kill(&self, doomed: &Doomed) -> usize {
        let slots = self.slots.borrow();
        let doomed = slots.values().filter(|slot| slot.standing.look(slot.id).is_some_and(|client| doomed(&client)));
        doomed.map(|slot| slot.kill()).count()
    }

    fn dismiss_all(&self) {
        self.dismissed.set(true);
        for slot in self.slots.borrow().values() {
            slot.dismissed.set(true);
            slot.wake();
        }
    }
}

/// A client is there: counted and listed, however its task ends.
pub(crate) struct Presence {
    worker: Rc<Worker>,
    pub(crate) slot: Rc<Slot>,
    counted: Cell<Option<Counted>>,
    membership: Cell<Option<Membership>>,
}

/// What a client takes along of its place at a worker.
pub(crate) struct Belongings {
    id: u64,
    standing: Standing,
    counted: Option<Counted>,
    membership: Option<Membership>,
}

/// It counts as a client until this is dropped.
struct Counted(Arc<Service>);

impl Presence {
    /// Counts it as a client, which it is when it has said who it is; `false` when there are too many.
    pub(crate) fn count(&self) -> bool {
        let is_let_in = self.worker.service.client_comes();
        self.counted.set(is_let_in.then(|| Counted(self.worker.service.clone())));
        is_let_in
    }

    /// It is a client of a database and a user, for as long as it is there.
    pub(crate) fn keep(&self, membership: Membership) {
        self.membership.set(Some(membership));
    }

    /// It is one no more.
    pub(crate) fn leave(&self) {
        self.membership.set(None);
    }

    /// It goes over to another worker.
    pub(crate) fn depart(self) -> Belongings {
        Belongings {
            id: self.slot.id,
            standing: self.slot.standing.clone(),
            counted: self.counted.take(),
            membership: self.membership.take(),
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.worker.slots.borrow_mut().remove(&self.slot.id);
        self.worker.board.load.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.client_left();
    }
}

impl Slot {
    pub(crate) fn new(id: u64, standing: Standing, is_dismissed: bool) -> Slot {
        Slot {
            id,
            standing,
            killed: Cell::new(false),
            alarm: Alarm::default(),
            notice: Alarm::default(),
            timed: Cell::new(false),
            waker: RefCell::default(),
            dismissed: Cell::new(is_dismissed),
        }
    }

    fn kill(&self) {
        self.killed.set(true);
        self.wake();
    }

    /// Whether an administrator has ended the session. The client's task is woken when that happens.
    pub(crate) fn is_killed(&self) -> bool {
        self.killed.get()
    }

    /// Waits until an administrator ends the session.
    pub(crate) fn killed(&self) -> impl Future<Output = ()> {
        self.until(&self.killed)
    }

    /// Waits until the client is to leave.
    pub(crate) fn dismissed(&self) -> impl Future<Output = ()> {
        self.until(&self.dismissed)
    }

    fn until(&self, told: &Cell<bool>) -> impl Future<Output = ()> {
        poll_fn(|context| {
            if told.get() {
                return Poll::Ready(());
            }
            self.attend(context);
            Poll::Pending
        })
    }

    /// What the work of a session comes to; `None` when an administrator ends the session while that holds no server.
    pub(crate) fn unless_killed<F: Future>(&self, mut work: Pin<&mut F>) -> impl Future<Output = Option<F::Output>> {
        poll_fn(move |context| match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            Poll::Pending if self.killed.get() && !self.standing.holds() => Poll::Ready(None),
            Poll::Pending => {
                self.attend(context);
                Poll::Pending
            }
        })
    }

    /// This task is woken from now on, whatever there is.
    pub(crate) fn attend(&self, context: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// Whether the client is to leave. Its task is woken when it is.
    pub(crate) fn is_dismissed(&self) -> bool {
        self.dismissed.get()
    }
}
