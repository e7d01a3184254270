//! The choice of a node for one statement, from one snapshot.
//!
//! Pure: the moment, the chance, the load and what to leave out come in as arguments. What of a snapshot may serve a statement at all
//! is decided here; which of several takes it, in `share`. A caller that found a node full or broken asks again with the node excluded.

use std::time::{Duration, Instant};

use crate::share::{Candidates, Load, Plan, unit};
use crate::snapshot::{NoPrimary, Node, NodeId, NodeState, Snapshot, Writer};

/// What a statement needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The primary.
    Write,
    /// A replica that is fresh enough, else the primary.
    Read(Freshness),
}

/// How fresh a replica has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Freshness {
    /// The moment of the choice.
    pub now: Instant,
    /// It may be this far behind at most; `None` for any distance.
    pub max_lag: Option<Duration>,
    /// It has everything acknowledged before this moment: the session's last write, or anyone's.
    pub not_before: Option<Instant>,
}

/// What a session has read so far, for one whose reads must not go back in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trail {
    /// Where it has read last.
    pub node: NodeId,
    /// When that answer was complete: the node may have shown whatever was written before.
    pub until: Instant,
}

/// One statement's question.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// What it needs.
    pub need: Need,
    /// Replicas that are not to be taken. The primary is never left out: there is no other.
    pub exclude: &'a [NodeId],
    /// What its session has read; `None` when its reads may go anywhere.
    pub trail: Option<Trail>,
    /// The part of the reads that the primary takes though replicas would do, from 0 to 1.
    pub primary_share: f32,
    /// A number by chance.
    pub chance: u64,
}

/// Where a statement goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// To this replica.
    Replica(NodeId),
    /// To the primary, for this reason.
    Primary(NodeId, WhyPrimary),
    /// Nowhere yet: wait for a newer version of the snapshot.
    Nowhere(NoPrimary),
}

/// Why the primary was chosen, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhyPrimary {
    /// The statement writes.
    Write,
    /// No replica is there, or all were excluded.
    NoReplica,
    /// There are replicas, but none is fresh enough.
    Stale,
    /// It takes its share of the reads.
    Share,
}

impl Snapshot {
    /// Where a statement goes. `load` tells what a node has to do at the moment.
    pub fn pick(&self, ask: &Ask<'_>, plan: &Plan, load: impl Fn(NodeId) -> Load) -> Choice {
        match &ask.need {
            Need::Write => self.primary_for(WhyPrimary::Write),
            Need::Read(freshness) => self.pick_for_read(freshness, ask, plan, load),
        }
    }

    /// Where a write goes.
    pub fn pick_primary(&self) -> Choice {
        self.primary_for(WhyPrimary::Write)
    }

    fn pick_for_read(
        &self,
        freshness: &Freshness,
        ask: &Ask<'_>,
        plan: &Plan,
        load: impl Fn(NodeId) -> Load,
    ) -> Choice {
        let mut candidates = Candidates::new();
        let mut why = WhyPrimary::NoReplica;
        // Whether the session may go wherever it likes, and come back: it has paused since it read last.
        let mut free = ask.trail.is_none();
        for node in Candidates::order(&self.nodes, ask.chance) {
            if !is_replica(node) || plan.weight(node.id) == 0.0 || ask.exclude.contains(&node.id) {
                continue;
            }
            why = WhyPrimary::Stale;
            if !freshness.allows(node) || !ask.trail.is_none_or(|trail| trail.allows(node)) {
                continue;
            }
            free |= ask.trail.is_some_and(|trail| trail.is_behind(node));
            candidates.add(node, plan, load(node.id), freshness.now);
        }
        if ask.primary_share > 0.0
            && let Some(primary) = self.primary().map(|node| node.id)
        {
            let stays = ask.trail.is_some_and(|trail| trail.node == primary);
            let takes = if free { unit(ask.chance, 0) < ask.primary_share } else { stays };
            if takes {
                return Choice::Primary(primary, WhyPrimary::Share);
            }
        }
        match candidates.choose(ask.chance) {
            Some(id) => Choice::Replica(id),
            None => self.primary_for(why),
        }
    }

    /// The part of the reads that each node gets, by weights, zones and slow start, while none has more to do than another.
    pub fn shares(&self, freshness: &Freshness, plan: &Plan, primary_share: f32) -> Vec<f32> {
        let near =
            self.nodes.iter().any(|node| plan.is_near(node.id) && freshness.allows(node) && plan.weight(node.id) > 0.0);
        let weight = |node: &Node| match freshness.allows(node) && plan.is_near(node.id) == near {
            true => plan.weight_at(node, freshness.now),
            false => 0.0,
        };
        let sum: f32 = self.nodes.iter().map(weight).sum();
        let primary = self.primary().map(|node| node.id);
        let of_primary = match (primary, sum > 0.0) {
            (None, _) => 0.0,
            (Some(_), true) => primary_share,
            (Some(_), false) => 1.0,
        };
        let share = |node: &Node| match Some(node.id) == primary {
            true => of_primary,
            false if sum > 0.0 => weight(node) / sum * (1.0 - of_primary),
            false => 0.0,
        };
        self.nodes.iter().map(share).collect()
    }

    fn primary_for(&self, why: WhyPrimary) -> Choice {
        match &self.writer {
            Writer::Known(epoch) => Choice::Primary(epoch.primary, why),
            Writer::None(none) => Choice::Nowhere(none.clone()),
        }
    }
}

impl Ask<'_> {
    /// A question of somebody who has no history, and to whom chance is all the same.
    pub fn of(need: Need) -> Ask<'static> {
        Ask { need, exclude: &[], trail: None, primary_share: 0.0, chance: 0 }
    }
}

impl Freshness {
    /// Whether this node may serve the read.
    pub fn allows(&self, node: &Node) -> bool {
        let NodeState::Replica { fresh_as_of: Some(fresh), .. } = node.state else { return false };
        // A sample may be younger than the caller's `now`: then it lags by nothing.
        self.max_lag.is_none_or(|bound| self.now.saturating_duration_since(fresh) <= bound)
            && self.not_before.is_none_or(|moment| fresh >= moment)
    }
}

impl Trail {
    /// Whether this node shows everything that the session may have seen: it is where the session has read last, and has not been
    /// away since; or it is provably past that.
    pub fn allows(&self, node: &Node) -> bool {
        let stays = node.id == self.node && node.serves_since.is_some_and(|since| since <= self.until);
        stays || self.is_behind(node)
    }

    /// Whether the node has everything that any node could have shown when the session read last.
    fn is_behind(&self, node: &Node) -> bool {
        matches!(node.state, NodeState::Replica { fresh_as_of: Some(fresh), .. } if fresh >= self.until)
    }
}

fn is_replica(node: &Node) -> bool {
    matches!(node.state, NodeState::Replica { .. })
}

#[cfg(test)]
pub(crate) mod tests;
