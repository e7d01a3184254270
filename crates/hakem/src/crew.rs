//! [`Crew`]: the workers, as the rest of the program sees them.
//!
//! Owns how many of them are open, which is decided in `staffing`, and the rule that nobody changes workers while somebody looks at
//! everybody's clients: a client on its way would be seen twice, or escape.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedRwLockReadGuard, RwLock};

use crate::client::Passage;
use crate::counters::{PINS, Place};
use crate::listener::Arrival;
use crate::service::Service;
use crate::staffing::{Load, Staffing, Transfer};
use crate::standing::Sighting;
use crate::worker::Staff;

/// All workers.
#[derive(Default)]
pub(crate) struct Crew {
    staff: OnceLock<Vec<Staff>>,
    open: AtomicUsize,
    /// Whoever changes workers reads it; whoever looks at all clients writes it.
    crossings: Arc<RwLock<()>>,
    moved: AtomicU64,
}

/// Leave to change workers, until it is dropped.
#[derive(Debug)]
pub(crate) struct Crossing {
    pub(crate) to: usize,
    _guard: OwnedRwLockReadGuard<()>,
}

impl Crew {
    /// They are there, and `least` of them are always open. All are where nobody knows how busy they are.
    pub(crate) fn employ(&self, staff: Vec<Staff>, least: usize) {
        let is_known = staff.iter().all(|staff| staff.times().is_some());
        self.open.store(if is_known { least.min(staff.len()) } else { staff.len() }, Ordering::Relaxed);
        // There is one set of workers.
        let _ = self.staff.set(staff);
    }

    /// How many workers clients are dealt to, from the first.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The worker with the fewest connections, of those that are open.
    pub(crate) fn idlest(&self) -> Option<usize> {
        let open = self.staff().iter().enumerate().take(self.open());
        open.min_by_key(|(_, staff)| staff.load()).map(|(id, _)| id)
    }

    /// Gives a connection to a worker.
    pub(crate) fn give(&self, worker: usize, arrival: Arrival) {
        if let Some(staff) = self.staff().get(worker) {
            staff.serve(arrival);
        }
    }

    /// How many clients have changed workers.
    pub(crate) fn moved(&self) -> u64 {
        self.moved.load(Ordering::Relaxed)
    }

    /// Every client that has logged in, and how often clients were pinned, by reason.
    pub(crate) async fn look(&self) -> (Vec<Sighting>, [u64; PINS.len()]) {
        let _everybody_stays = self.crossings.write().await;
        let (mut clients, mut pins) = (Vec::new(), [0; PINS.len()]);
        for staff in self.staff() {
            clients.extend(staff.look().await);
            for (sum, count) in pins.iter_mut().zip(staff.pins()) {
                *sum += count;
            }
        }
        clients.sort_by_key(|client| client.id);
        (clients, pins)
    }

    /// Ends the sessions of clients that `doomed` says; returns how many.
    pub(crate) async fn kill(&self, doomed: impl Fn(&Sighting) -> bool + Send + Sync + 'static) -> usize {
        let _everybody_stays = self.crossings.write().await;
        let doomed = Arc::new(doomed);
        let mut killed = 0;
        for staff in self.staff() {
            killed += staff.kill(doomed.clone()).await;
        }
        killed
    }

    /// How many statements were sent somewhere for this reason.
    pub(crate) fn routed(&self, place: Place, why: classifier::Why) -> u64 {
        self.staff().iter().map(|staff| staff.routed(place, why)).sum()
    }

    /// Leave to go over to a worker. `None` while everybody has to stay.
    pub(crate) fn cross(&self, to: usize) -> Option<Crossing> {
        let guard = self.crossings.clone().try_read_owned().ok()?;
        Some(Crossing { to, _guard: guard })
    }

    /// Sends a client to the worker that it has leave to go to.
    pub(crate) fn send_over(&self, passage: Box<Passage>) {
        if let Some(staff) = self.staff().get(passage.to()) {
            self.moved.fetch_add(1, Ordering::Relaxed);
            staff.receive(passage);
        }
    }

    /// How long each has computed and waited since it began. `None` where nobody knows.
    fn times(&self) -> Option<Vec<[Duration; 2]>> {
        self.staff().iter().map(Staff::times).collect()
    }

    fn staff(&self) -> &[Staff] {
        self.staff.get().map_or(&[], Vec::as_slice)
    }
}

/// Opens and closes workers by what they have to do, for as long as the program runs.
pub(crate) async fn manage(service: Arc<Service>) {
    let crew = &service.crew;
    let mut staffing = Staffing::new(crew.open());
    let (mut before, mut looked) = (crew.times(), Instant::now());
    for round in 0.. {
        tokio::time::sleep(PLAN_INTERVAL).await;
        let (Some(then), Some(times)) = (before, crew.times()) else { return };
        let now = Instant::now();
        let passed = now.saturating_duration_since(looked).as_secs_f64();
        let load = |([ran, waited], [ran_then, waited_then]): (&[Duration; 2], &[Duration; 2])| Load {
            ran: ran.saturating_sub(*ran_then).as_secs_f64() / passed,
            waited: waited.saturating_sub(*waited_then).as_secs_f64() / passed,
        };
        let loads: Vec<Load> = times.iter().zip(&then).map(load).collect();
        (before, looked) = (Some(times), now);
        let moves = staffing.plan(&loads, service.config().proxy.workers_min);
        let open = staffing.open();
        if crew.open.swap(open, Ordering::Relaxed) != open {
            tracing::debug!(open, workers = loads.len(), "clients are dealt to so many workers");
        }
        for (worker, staff) in crew.staff().iter().enumerate() {
            let order = moves.iter().find(|order| order.from == worker);
            staff.transfer(order.map(|order| Transfer::new(*order, round)));
        }
    }
}

/// How often that is decided.
const PLAN_INTERVAL: Duration = Duration::from_millis(250);
