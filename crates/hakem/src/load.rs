//! What each server of a cluster has to do at the moment, and how long it has taken lately: what the choice among replicas goes by.
//!
//! Owns these numbers and nothing else; each worker writes its own, so that no two cores wait for each other. A request is counted from
//! the moment that its server was chosen, so that those who wait for a connection weigh, too, to the moment that its lease ends, however
//! that ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use topology::NodeId;

/// The servers of a cluster.
pub(crate) struct Loads {
    started: Instant,
    /// By node, and by worker. Whoever has a request there holds it: their number is the count of what is outstanding, and changes with one
    /// instruction.
    nodes: Box<[Box<[Arc<Load>]>]>,
}

/// One server, as far as one worker has to do with it. On cache lines of its own.
#[repr(align(128))]
#[derive(Default)]
struct Load {
    /// How many requests it was chosen for.
    requests: AtomicU64,
    /// The average latency in microseconds, as the bits of an `f32`, and below it the moment of the last one, in milliseconds since
    /// the start; 0 for none yet.
    latency: AtomicU64,
}

/// A request that a server was chosen for, until this is dropped.
pub(crate) struct Burden {
    load: Arc<Load>,
    /// When it was sent, or could have been.
    since: Instant,
}

/// A server's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) requests: u64,
    pub(crate) outstanding: u32,
    pub(crate) latency: Option<Duration>,
    /// How long ago the last answer was.
    pub(crate) silent: Option<Duration>,
}

impl Loads {
    pub(crate) fn new(nodes: usize, workers: usize, now: Instant) -> Loads {
        let node = |_| (0..workers).map(|_| Arc::default()).collect();
        Loads { started: now, nodes: (0..nodes).map(node).collect() }
    }

    /// A server was chosen, by this worker.
    pub(crate) fn take(&self, node: NodeId, worker: usize, now: Instant) -> Burden {
        let load = self.nodes[node.index()][worker].clone();
        load.requests.fetch_add(1, Ordering::Relaxed);
        Burden { load, since: now }
    }

    /// It has answered the first request of a lease.
    pub(crate) fn answered(&self, burden: &Burden, now: Instant) {
        let sample = now.saturating_duration_since(burden.since).as_secs_f32() * 1e6;
        let millis = self.millis(now);
        let next = match read(burden.load.latency.load(Ordering::Relaxed)) {
            Some((average, before)) => average + (sample - average) * part(millis.wrapping_sub(before)),
            None => sample,
        };
        burden.load.latency.store(write(next, millis), Ordering::Relaxed);
    }

    /// What the choice goes by. A node that owes answers and has given none for a while is at least as slow as that: one that is stuck
    /// gives no samples.
    pub(crate) fn of(&self, node: NodeId, now: Instant) -> topology::Load {
        let Figures { outstanding, latency, silent, .. } = self.figures(node, now);
        let silent = silent.filter(|_| outstanding > 0);
        topology::Load { outstanding, latency: latency.max(silent) }
    }

    pub(crate) fn figures(&self, node: NodeId, now: Instant) -> Figures {
        let Some(loads) = self.nodes.get(node.index()) else { return Figures::default() };
        let latency = |load: &Arc<Load>| read(load.latency.load(Ordering::Relaxed));
        let age = |(average, at)| (self.millis(now).wrapping_sub(at), average);
        // The newest is what counts: another worker may have had nothing to do there for long.
        let latest = loads.iter().filter_map(latency).map(age).min_by_key(|(age, _)| *age);
        let recent = latest.filter(|(age, _)| *age < LATENCY_AGE_MS_MAX);
        // One is ours.
        let outstanding: usize = loads.iter().map(|load| Arc::strong_count(load) - 1).sum();
        Figures {
            requests: loads.iter().map(|load| load.requests.load(Ordering::Relaxed)).sum(),
            outstanding: u32::try_from(outstanding).unwrap_or(u32::MAX),
            latency: recent.map(|(_, average)| Duration::from_secs_f32(average / 1e6)),
            silent: latest.map(|(age, _)| Duration::from_millis(u64::from(age))),
        }
    }

    /// It wraps around after seven weeks, which differences do not mind.
    fn millis(&self, now: Instant) -> u32 {
        now.saturating_duration_since(self.started).as_millis() as u32
    }
}

impl Burden {
    /// The request has waited for its connection until now, which is not the server's doing.
    pub(crate) fn restart(&mut self, now: Instant) {
        self.since = now;
    }
}

fn read(packed: u64) -> Option<(f32, u32)> {
    (packed != 0).then(|| (f32::from_bits((packed >> 32) as u32), packed as u32))
}

fn write(average: f32, millis: u32) -> u64 {
    // A latency of nothing at the first moment is no latency.
    (u64::from(average.max(f32::MIN_POSITIVE).to_bits()) << 32) | u64::from(millis)
}

/// How much a sample counts that comes so long after the one before: an average over time rather than over samples, so that a burst of
/// short statements does not hide what the others take.
fn part(millis: u32) -> f32 {
    1.0 - (-(millis.max(1) as f32) / LATENCY_MEMORY_MS).exp()
}

/// The time in which two thirds of what was are forgotten.
const LATENCY_MEMORY_MS: f32 = 2_000.0;

/// What was longer ago tells nothing any more.
const LATENCY_AGE_MS_MAX: u32 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn what_is_outstanding_is_counted_until_it_ends() {
        let now = Instant::now();
        let loads = Loads::new(2, 2, now);
        let outstanding = || [0, 1].map(|node| loads.figures(NodeId(node), now).outstanding);
        let one = loads.take(NodeId(1), 0, now);
        let two = loads.take(NodeId(1), 1, now);
        assert_eq!(outstanding(), [0, 2]);
        drop(one);
        assert_eq!(outstanding(), [0, 1]);
        drop(two);
        assert_eq!(outstanding(), [0, 0]);
        assert_eq!(loads.figures(NodeId(1), now).requests, 2);
        assert_eq!(loads.figures(NodeId(7), now), Figures::default());
    }

    #[test]
    fn latency_is_an_average_over_time() {
        let start = Instant::now();
        let loads = Loads::new(1, 2, start);
        let latency = |now| loads.of(NodeId(0), now).latency.map(|latency| latency.as_millis());
        let answer = |asked, took| {
            let burden = loads.take(NodeId(0), 0, after(start, asked));
            loads.answered(&burden, after(start, asked + took));
        };
        assert_eq!(latency(start), None);
        answer(0, 100);
        assert_eq!(latency(after(start, 100)), Some(100));
        // One that comes at once changes little, one that comes late is all that is known.
        answer(101, 0);
        assert_eq!(latency(after(start, 101)), Some(99));
        answer(20_000, 10);
        assert_eq!(latency(after(start, 20_010)), Some(10));
        assert_eq!(latency(after(start, 20_010 + u64::from(LATENCY_AGE_MS_MAX))), None);
        // Half a minute of another latency, and the old one is forgotten.
        (0..1000).for_each(|round| answer(30_000 + round * 30, 30));
        assert!(latency(after(start, 60_000)).is_some_and(|found| found.abs_diff(30) <= 1));
        // Who owes an answer is as slow as it takes, and as fast as ever when it has come.
        let burden = loads.take(NodeId(0), 0, after(start, 60_010));
        assert_eq!(latency(after(start, 60_500)), Some(500));
        loads.answered(&burden, after(start, 60_020));
        drop(burden);
        assert!(latency(after(start, 60_500)).is_some_and(|found| found.abs_diff(30) <= 1));
        // Of several workers the one has the say that was answered last.
        loads.answered(&loads.take(NodeId(0), 1, after(start, 61_000)), after(start, 61_070));
        assert_eq!(latency(after(start, 61_100)), Some(70));
    }
}
