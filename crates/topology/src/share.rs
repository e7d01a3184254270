//! How replicas that would all do share the reads: weights, zones, load, latency, and a slow start for one that has come back.
//!
//! Pure. Which of them would do is decided before (`pick`); the numbers about load are measured elsewhere.
//!
//! Of two replicas drawn by their weights, the one with less to do for its weight is taken ("the power of two choices"): two are
//! enough to keep out of the way of a slow one, and as they are drawn by chance, callers do not all run to the same one.

use std::time::{Duration, Instant};

use crate::snapshot::{Node, NodeId};

/// How the reads are to be shared: what is configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// By node. Nodes beyond the end have 1; 0 is for a node that serves no reads as a replica.
    pub weights: Box<[f32]>,
    /// By node: whether it is near. Nodes beyond the end are not.
    pub near: Box<[bool]>,
    /// The time in which a replica that has come back gets its full weight.
    pub slow_start: Duration,
}

/// What a node has to do at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Requests that it has not answered.
    pub outstanding: u32,
    /// How long it has taken to answer lately; `None` when it has not been asked.
    pub latency: Option<Duration>,
}

impl Plan {
    /// The configured weight of a node.
    pub fn weight(&self, node: NodeId) -> f32 {
        self.weights.get(node.index()).copied().unwrap_or(1.0)
    }

    /// The weight of a node at this moment: less while it has just come back.
    pub fn weight_at(&self, node: &Node, now: Instant) -> f32 {
        let weight = self.weight(node.id);
        let Some(since) = node.serves_since.filter(|_| !self.slow_start.is_zero()) else { return weight };
        let age = now.saturating_duration_since(since).as_secs_f32() / self.slow_start.as_secs_f32();
        weight * age.clamp(SLOW_START_MIN, 1.0)
    }

    pub(crate) fn is_near(&self, node: NodeId) -> bool {
        self.near.get(node.index()).copied().unwrap_or_default()
    }
}

/// Replicas that would do, at most [`CANDIDATES_MAX`]: this runs for every statement and must not allocate.
pub(crate) struct Candidates {
    list: [Candidate; CANDIDATES_MAX],
    count: usize,
    near: bool,
}

#[derive(Clone, Copy)]
struct Candidate {
    id: NodeId,
    /// What it should get, before its latency is looked at.
    weight: f32,
    outstanding: u32,
    latency: Option<f32>,
}

impl Candidates {
    pub(crate) fn new() -> Candidates {
        let nobody = Candidate { id: NodeId(0), weight: 0.0, outstanding: 0, latency: None };
        Candidates { list: [nobody; CANDIDATES_MAX], count: 0, near: false }
    }

    /// All nodes, those first that come first by chance, so that with more of them than are looked at each gets its turn.
    pub(crate) fn order(nodes: &[Node], chance: u64) -> impl Iterator<Item = &Node> {
        let first = if nodes.len() > CANDIDATES_MAX { chance as usize % nodes.len() } else { 0 };
        let (before, from) = nodes.split_at(first);
        from.iter().chain(before)
    }

    /// Far ones are forgotten as soon as there is a near one.
    pub(crate) fn add(&mut self, node: &Node, plan: &Plan, load: Load, now: Instant) {
        let near = plan.is_near(node.id);
        if near && !self.near {
            (self.near, self.count) = (true, 0);
        }
        if near == self.near
            && let Some(place) = self.list.get_mut(self.count)
        {
            let weight = plan.weight_at(node, now);
            let latency = load.latency.map(|latency| latency.as_secs_f32());
            *place = Candidate { id: node.id, weight, outstanding: load.outstanding, latency };
            self.count += 1;
        }
    }

    /// The one that takes the read.
    pub(crate) fn choose(&mut self, chance: u64) -> Option<NodeId> {
        let list = &mut self.list[..self.count];
        if let [only] = list {
            return Some(only.id);
        }
        slow_down(list);
        let first = draw(list, None, unit(chance, 1))?;
        let second = draw(list, Some(first), unit(chance, 2))?;
        let (one, other) = (list[first], list[second]);
        // Only when the other has less to do even with this one: else the weights decide, which is what they are for.
        let relieves = one.outstanding as f32 * other.weight >= (other.outstanding + 1) as f32 * one.weight;
        Some(if relieves { other.id } else { one.id })
    }
}

/// A replica that takes longer than the fastest gets less. What statements take differs by their nature, too, so small differences are
/// overlooked, and large ones do not count for more than [`SLOWNESS_MAX`].
fn slow_down(list: &mut [Candidate]) {
    let Some(fastest) = list.iter().filter_map(|candidate| candidate.latency).reduce(f32::min) else { return };
    let tolerated = fastest.max(LATENCY_NEGLIGIBLE_S) * LATENCY_TOLERATED;
    for candidate in list {
        if let Some(latency) = candidate.latency {
            candidate.weight /= (latency / tolerated).clamp(1.0, SLOWNESS_MAX);
        }
    }
}

/// One of the candidates by weight, but for one of them.
fn draw(list: &[Candidate], but: Option<usize>, unit: f32) -> Option<usize> {
    let others = || list.iter().enumerate().filter(|(at, _)| Some(*at) != but);
    let mut rest = unit * others().map(|(_, candidate)| candidate.weight).sum::<f32>();
    let mut last = None;
    for (at, candidate) in others() {
        last = Some(at);
        rest -= candidate.weight;
        if rest < 0.0 {
            break;
        }
    }
    last
}

/// One of three independent numbers from 0 to 1, without 1, out of one of 64 bits.
pub(crate) fn unit(chance: u64, which: u32) -> f32 {
    let bits = (chance >> (which * UNIT_BITS)) & ((1 << UNIT_BITS) - 1);
    bits as f32 / (1u64 << UNIT_BITS) as f32
}

/// Replicas among which one is drawn. Of more, some are passed over each time.
pub(crate) const CANDIDATES_MAX: usize = 16;

/// The part of its weight that a replica gets at once when it has come back.
pub const SLOW_START_MIN: f32 = 0.1;

/// A latency of as many times the least is as good as the least.
const LATENCY_TOLERATED: f32 = 2.0;

/// Below this, in seconds, it is the scheduler's doing rather than the server's.
const LATENCY_NEGLIGIBLE_S: f32 = 0.002;

/// The most that a high latency can take from a weight.
const SLOWNESS_MAX: f32 = 4.0;

const UNIT_BITS: u32 = 21;

#[cfg(test)]
mod tests;
