//! The choice of a node for one statement, from one snapshot.
//!
//! Pure: the moment, the turn and what to leave out come in as arguments. It knows nothing of pools or load; a caller
//! that found a node full or broken asks again with the node excluded.

use std::time::{Duration, Instant};

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
}

impl Snapshot {
    /// Where a statement of this need goes. `turn` is any counter of the caller's: successive turns go round the
    /// replicas that qualify. Nodes in `exclude` are not taken as replicas (nor is the primary, if it is among them).
    pub fn pick(&self, need: &Need, turn: usize, exclude: &[NodeId]) -> Choice {
        let why = match need {
            Need::Write => WhyPrimary::Write,
            Need::Read(freshness) => match self.pick_replica(freshness, turn, exclude) {
                Some(id) => return Choice::Replica(id),
                None if self.nodes.iter().any(|node| is_replica(node) && !exclude.contains(&node.id)) => {
                    WhyPrimary::Stale
                }
                None => WhyPrimary::NoReplica,
            },
        };
        match &self.writer {
            Writer::Known(epoch) if !exclude.contains(&epoch.primary) => Choice::Primary(epoch.primary, why),
            Writer::Known(epoch) => Choice::Nowhere(NoPrimary::NotFound { last: Some(*epoch) }),
            Writer::None(none) => Choice::Nowhere(none.clone()),
        }
    }

    /// A replica that is fresh enough and not excluded; `None` sends the caller to the primary. Those that qualify
    /// take turns.
    pub fn pick_replica(&self, freshness: &Freshness, turn: usize, exclude: &[NodeId]) -> Option<NodeId> {
        let qualified = || {
            self.nodes.iter().filter(|node| freshness.allows(node) && !exclude.contains(&node.id)).map(|node| node.id)
        };
        // Two passes instead of a list: this runs for every statement and must not allocate.
        let count = qualified().count();
        qualified().nth(turn.checked_rem(count)?)
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

fn is_replica(node: &Node) -> bool {
    matches!(node.state, NodeState::Replica { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Epoch, Fence, Figures};

    /// A node at a glance: `P` primary, `U` unreachable, `?` unknown, `F` fenced, `R` a replica of unproven freshness,
    /// and a number is a replica fresh as of that many ms after the start.
    fn node(index: u16, letter: &str, start: Instant) -> Node {
        let replica = |fresh_as_of| NodeState::Replica {
            timeline: 1,
            system_identifier: 7,
            replay_lsn: 100,
            fresh_as_of,
            streaming: true,
        };
        let state = match letter {
            "P" => NodeState::Primary { timeline: 1, system_identifier: 7, insert_lsn: 100 },
            "U" => NodeState::Unreachable { since: start, reason: "refused".into() },
            "?" => NodeState::Unknown,
            "F" => {
                NodeState::Fenced { claims_primary: false, timeline: 1, system_identifier: 7, cause: Fence::Diverged }
            }
            "R" => replica(None),
            ms => replica(Some(start + Duration::from_millis(ms.parse().unwrap()))),
        };
        Node { id: NodeId(index), host: "host".into(), port: 5432, state, figures: Figures::default() }
    }

    fn snapshot(letters: &str, start: Instant) -> Snapshot {
        let nodes: Box<[Node]> =
            letters.split(' ').zip(0..).map(|(letter, index)| node(index, letter, start)).collect();
        let writer = match letters.split(' ').position(|letter| letter == "P") {
            Some(at) => {
                Writer::Known(Epoch { system_identifier: 7, timeline: 1, primary: NodeId(u16::try_from(at).unwrap()) })
            }
            None => Writer::None(NoPrimary::NotFound { last: None }),
        };
        Snapshot { nodes, writer, version: 1 }
    }

    /// Reads at 1000 ms with this bound and this last write; the choices of turns 0..4 in order.
    fn check(letters: &str, max_lag: Option<u64>, not_before: Option<u64>, exclude: &[u16], expected: &str) {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let need = Need::Read(Freshness {
            now: start + ms(1000),
            max_lag: max_lag.map(ms),
            not_before: not_before.map(|at| start + ms(at)),
        });
        let exclude: Vec<NodeId> = exclude.iter().map(|&index| NodeId(index)).collect();
        let shown: Vec<String> = (0..4)
            .map(|turn| match snapshot(letters, start).pick(&need, turn, &exclude) {
                Choice::Replica(id) => id.to_string(),
                Choice::Primary(id, why) => format!("{id}:{why:?}"),
                Choice::Nowhere(_) => "-".to_owned(),
            })
            .collect();
        assert_eq!(shown.join(" "), expected, "{letters} max_lag {max_lag:?} not_before {not_before:?} {exclude:?}");
    }

    #[test]
    fn turns() {
        check("P 900 950", None, None, &[], "1 2 1 2");
        check("900 P 950 990", None, None, &[], "0 2 3 0");
        check("P 900 U 950 F ?", None, None, &[], "1 3 1 3");
    }

    #[test]
    fn lag_bound() {
        check("P 900 950", Some(100), None, &[], "1 2 1 2");
        check("P 899 950", Some(100), None, &[], "2 2 2 2");
        check("P 899 899", Some(100), None, &[], "0:Stale 0:Stale 0:Stale 0:Stale");
        // A sample taken after the caller read its clock is not behind.
        check("P 1005", Some(0), None, &[], "1 1 1 1");
        check("P 1000", Some(0), None, &[], "1 1 1 1");
        check("P 999", Some(0), None, &[], "0:Stale 0:Stale 0:Stale 0:Stale");
    }

    #[test]
    fn read_your_writes() {
        check("P 900 950", None, Some(950), &[], "2 2 2 2");
        check("P 900 950", None, Some(951), &[], "0:Stale 0:Stale 0:Stale 0:Stale");
        check("P 900 950", Some(75), Some(900), &[], "2 2 2 2");
        check("P 900 950", Some(40), Some(900), &[], "0:Stale 0:Stale 0:Stale 0:Stale");
    }

    #[test]
    fn unproven_is_never_taken() {
        check("P R R", None, None, &[], "0:Stale 0:Stale 0:Stale 0:Stale");
        check("P U ? F", None, None, &[], "0:NoReplica 0:NoReplica 0:NoReplica 0:NoReplica");
        check("P", None, None, &[], "0:NoReplica 0:NoReplica 0:NoReplica 0:NoReplica");
    }

    #[test]
    fn excluded() {
        check("P 900 950", None, None, &[1], "2 2 2 2");
        check("P 900 950", None, None, &[2, 1], "0:NoReplica 0:NoReplica 0:NoReplica 0:NoReplica");
        check("P 900", None, None, &[1, 0], "- - - -");
        check("P 900", None, None, &[0], "1 1 1 1");
    }

    #[test]
    fn without_a_primary() {
        // Replicas go on serving what they provably have; what they cannot serve has to wait.
        check("U 900", None, None, &[], "1 1 1 1");
        check("U 900", None, Some(950), &[], "- - - -");
        let start = Instant::now();
        let choice = snapshot("U 900", start).pick(&Need::Write, 0, &[]);
        assert_eq!(choice, Choice::Nowhere(NoPrimary::NotFound { last: None }));
        assert_eq!(
            snapshot("U 900 P", start).pick(&Need::Write, 5, &[]),
            Choice::Primary(NodeId(2), WhyPrimary::Write)
        );
    }
}
