//! One look at everything that the demo shows: the players, the proxy's counters, the servers as the proxy sees them, the events.
//!
//! Owns the gathering, and the rates between two looks. It formats nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use topology::{NodeState, Writer};

use super::director::{Chronicle, Failover};
use super::latency::Latency;
use super::tally::{Shared, Tally};
use crate::counters::Place;
use crate::metrics::Metrics;
use crate::service::Service;

/// Where to look.
#[derive(Clone)]
pub(crate) struct Observer {
    pub(crate) service: Arc<Service>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) chronicle: Chronicle,
    /// Nothing, when nobody plays.
    pub(crate) tally: Option<Shared>,
    pub(crate) started: Instant,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// Since the start.
    pub(crate) elapsed: Duration,
    pub(crate) tally: Tally,
    pub(crate) read_gap: Duration,
    pub(crate) write_gap: Duration,
    /// In the order of [`Place::ALL`].
    pub(crate) statements: [u64; 3],
    pub(crate) retries: u64,
    pub(crate) nodes: Vec<NodeSeen>,
    /// Why writes go nowhere, when they do.
    pub(crate) writes_halted: Option<String>,
    /// The last events, with when they happened after the start.
    pub(crate) events: VecDeque<(Duration, String)>,
    pub(crate) events_total: usize,
    pub(crate) failovers: VecDeque<(Duration, Failover)>,
}

/// A server as the proxy sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeSeen {
    pub(crate) name: String,
    pub(crate) state: &'static str,
    pub(crate) timeline: Option<u32>,
    /// Of a replica whose freshness is proven.
    pub(crate) lag: Option<Duration>,
}

/// What went on between two looks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pace {
    pub(crate) reads_per_second: f64,
    pub(crate) writes_per_second: f64,
    pub(crate) statements_per_second: [f64; 3],
    pub(crate) read_latency: Latency,
    pub(crate) write_latency: Latency,
    pub(crate) transaction_latency: Latency,
}

impl Observer {
    /// Looks.
    pub(crate) fn sample(&self, now: Instant) -> Sample {
        let tally = self.tally.as_ref().map(|tally| tally.read().clone()).unwrap_or_default();
        let pages = self.chronicle.read().clone();
        let after = |at: Instant| at.saturating_duration_since(self.started);
        let mut sample = Sample {
            elapsed: after(now),
            read_gap: tally.read_gap.longest(now),
            write_gap: tally.write_gap.longest(now),
            statements: Place::ALL.map(|place| self.metrics.routed(place)),
            retries: self.metrics.retries(),
            events: pages.events.into_iter().map(|(at, event)| (after(at), event)).collect(),
            events_total: pages.total,
            failovers: pages.failovers.into_iter().map(|failover| (after(failover.at), failover)).collect(),
            tally,
            ..Sample::default()
        };
        // The demo has one cluster.
        for cluster in self.service.clusters().values() {
            let snapshot = cluster.watcher.snapshot();
            if let Writer::None(reason) = &snapshot.writer {
                sample.writes_halted = Some(reason.to_string());
            }
            sample.nodes = snapshot.nodes.iter().map(|node| seen(node, now)).collect();
        }
        sample
    }
}

impl Sample {
    /// What has gone on since an earlier look.
    pub(crate) fn since(&self, earlier: &Sample) -> Pace {
        let seconds = self.elapsed.saturating_sub(earlier.elapsed).as_secs_f64();
        let rate =
            |now: u64, before: u64| if seconds > 0.0 { now.saturating_sub(before) as f64 / seconds } else { 0.0 };
        let (now, before) = (&self.tally, &earlier.tally);
        let written = |tally: &Tally| tally.writes.count + tally.transactions.count;
        Pace {
            reads_per_second: rate(now.reads.count, before.reads.count),
            writes_per_second: rate(written(now), written(before)),
            statements_per_second: std::array::from_fn(|at| rate(self.statements[at], earlier.statements[at])),
            read_latency: now.reads.latency.since(&before.reads.latency),
            write_latency: now.writes.latency.since(&before.writes.latency),
            transaction_latency: now.transactions.latency.since(&before.transactions.latency),
        }
    }
}

fn seen(node: &topology::Node, now: Instant) -> NodeSeen {
    let timeline = match node.state {
        NodeState::Primary { timeline, .. }
        | NodeState::Replica { timeline, .. }
        | NodeState::Fenced { timeline, .. } => Some(timeline),
        NodeState::Unknown | NodeState::Unreachable { .. } => None,
    };
    // The cluster names its nodes by their places, which are the places in the configuration.
    NodeSeen { name: format!("node{}", node.id), state: node.state.name(), timeline, lag: node.lag(now) }
}
