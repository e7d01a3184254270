//! The published answer: an immutable picture of all nodes at one moment.
//!
//! Values only. It does not say how they were found (`combine`, `board`) nor which node to take (`pick`).

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A server's index in the configured order; stable for the watcher's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

/// One reign: as long as the epoch is the same, LSNs of the primary and its replicas can be compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Epoch {
    /// The cluster's identity, given by `initdb`.
    pub system_identifier: u64,
    /// The timeline that the primary writes.
    pub timeline: u32,
    /// Who writes it.
    pub primary: NodeId,
}

/// Where a timeline begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fork {
    /// The timeline that was followed until then.
    pub parent: u32,
    /// The end of what was replayed of it: what lies beyond is not part of the new one.
    pub lsn: u64,
}

/// What is known of all nodes at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Every configured node; the index is its [`NodeId`].
    pub nodes: Box<[Node]>,
    /// Where writes go.
    pub writer: Writer,
    /// Grows when the writer, a node's kind of state, or a node's identity changed; not when only LSNs, freshness
    /// and figures moved, so that waiting for a new version is waiting for news.
    pub version: u64,
}

/// Where writes go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Writer {
    /// To this epoch's primary.
    Known(Epoch),
    /// Nowhere for now.
    None(NoPrimary),
}

/// Why there is no primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPrimary {
    /// No reachable node claims to be a primary that may be believed.
    NotFound {
        /// The last epoch that was known; `None` before the first.
        last: Option<Epoch>,
    },
    /// The primary is about to hand over: what is begun now would be lost.
    Handover {
        /// Who still is the primary.
        from: NodeId,
    },
    /// Two or more nodes claim the same timeline. Nothing is written until an operator has resolved it.
    SplitBrain {
        /// The contested timeline.
        timeline: u32,
        /// Who claims it, in the configured order.
        claimants: Box<[NodeId]>,
    },
    /// Servers of several clusters answer, and which of these is ours cannot be told. Nothing is written until somebody says it.
    Strangers {
        /// The system identifiers of two of them.
        systems: [u64; 2],
    },
}

/// One server.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its place in [`Snapshot::nodes`].
    pub id: NodeId,
    /// As configured.
    pub host: Arc<str>,
    /// As configured.
    pub port: u16,
    /// Where it was when it last answered, if its host is a name.
    pub address: Option<IpAddr>,
    /// What it is.
    pub state: NodeState,
    /// For a replica of proven freshness: since when that has been proven without a gap, which a restart would have left.
    pub serves_since: Option<Instant>,
    /// For metrics and pages; nothing decides by them.
    pub figures: Figures,
}

/// What a server is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Not probed yet.
    Unknown,
    /// The last probe failed.
    Unreachable {
        /// When the first probe of this row of failures ended.
        since: Instant,
        /// The last failure, in words.
        reason: Arc<str>,
        /// It is there all the same, and would not have the probe: it has too many connections, or another password.
        rejects: bool,
    },
    /// It claims to be a primary and nothing says otherwise. Whether it is *the* primary is the [`Writer`]'s to say:
    /// in a split brain there are several nodes in this state.
    Primary {
        /// The timeline that it writes.
        timeline: u32,
        /// Its cluster's identity.
        system_identifier: u64,
        /// `pg_current_wal_insert_lsn()` as reported.
        insert_lsn: u64,
        /// Where its timeline begins; `None` unless it was seen from before its promotion on, without a gap.
        fork: Option<Fork>,
    },
    /// A standby of our cluster.
    Replica {
        /// The newest timeline that it is proven to follow.
        timeline: u32,
        /// Its cluster's identity.
        system_identifier: u64,
        /// `pg_last_wal_replay_lsn()`.
        replay_lsn: u64,
        /// Everything acknowledged before this moment (of this process's clock) is visible there. `None` until it
        /// has been proven in this epoch and on this connection.
        fresh_as_of: Option<Instant>,
        /// Its WAL receiver is streaming.
        streaming: bool,
    },
    /// It answers, and must not be used for anything.
    Fenced {
        /// Whether it claims to be a primary.
        claims_primary: bool,
        /// The timeline that it is on.
        timeline: u32,
        /// Its cluster's identity.
        system_identifier: u64,
        /// Why it must not be used.
        cause: Fence,
    },
}

/// Why a node that answers must not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// It claims to be a primary though a newer timeline exists: it was deposed.
    OlderTimeline {
        /// The newest timeline seen.
        newest: u32,
    },
    /// It belongs to another cluster.
    OtherSystem {
        /// Our cluster's identity.
        ours: u64,
    },
    /// As many servers belong to another cluster, and which of them is ours cannot be told.
    AnySystem,
    /// It claims to be a primary, and the cluster manager says that it is not.
    NotLeader,
    /// A standby that has replayed what the primary never wrote: its history is another one, though the timeline has
    /// the same number.
    Diverged,
}

/// Figures of one node for metrics and pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Probes that ended, well or not.
    pub probes: u64,
    /// Probes that failed.
    pub failures: u64,
    /// How long the last successful probe took.
    pub round_trip: Option<Duration>,
    /// When the last probe that ended, well or not, had begun.
    pub probed_at: Option<Instant>,
    /// WAL bytes inserted on the primary and not yet replayed here, by the last samples of both.
    pub replay_lag_bytes: Option<u64>,
    /// WAL bytes inserted on the primary and not yet received here.
    pub receive_lag_bytes: Option<u64>,
}

impl NodeId {
    /// The index into [`Snapshot::nodes`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl Snapshot {
    /// The node that writes go to.
    pub fn primary(&self) -> Option<&Node> {
        match &self.writer {
            Writer::Known(epoch) => self.node(epoch.primary),
            Writer::None(_) => None,
        }
    }

    /// The node of this id; `None` for an id of another watcher.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(id.index())
    }
}

impl Node {
    /// Whether it is another, or something else, than it was.
    pub(crate) fn is_news(&self, before: &Node) -> bool {
        self.address != before.address || before.state.is_news(&self.state)
    }

    /// How far behind it is at `now`, for metrics: `None` unless it is a replica of proven freshness.
    ///
    /// On a primary where nothing else happens this may grow to 15 s while a transaction that has written stays open:
    /// its WAL is inserted but flushed, and so sent, only by the next commit or the background writer's next record.
    /// Nothing acknowledged is missing from the replica, but that cannot be proven from the outside.
    pub fn lag(&self, now: Instant) -> Option<Duration> {
        match self.state {
            NodeState::Replica { fresh_as_of, .. } => fresh_as_of.map(|fresh| now.saturating_duration_since(fresh)),
            _ => None,
        }
    }
}

impl NodeState {
    /// The state's name, as shown in the console and in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            NodeState::Unknown => "unknown",
            NodeState::Unreachable { .. } => "unreachable",
            NodeState::Primary { .. } => "primary",
            NodeState::Replica { .. } => "replica",
            NodeState::Fenced { .. } => "fenced",
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Display for NoPrimary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPrimary::NotFound { last: None } => f.write_str("no primary has been found yet"),
            NoPrimary::NotFound { last: Some(epoch) } => {
                write!(f, "no primary is reachable; the last was node {} on timeline {}", epoch.primary, epoch.timeline)
            }
            NoPrimary::Handover { from } => write!(f, "node {from} is handing over to another primary"),
            NoPrimary::SplitBrain { timeline, claimants } => {
                write!(f, "split brain: nodes")?;
                for id in claimants {
                    write!(f, " {id}")?;
                }
                write!(f, " all claim to be the primary of timeline {timeline}")
            }
            NoPrimary::Strangers { systems: [one, other] } => {
                write!(
                    f,
                    "servers of two clusters ({one} and {other}) answer: say by system_identifier which is the right one"
                )
            }
        }
    }
}

impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fence::OlderTimeline { newest } => write!(f, "it was deposed: timeline {newest} exists"),
            Fence::OtherSystem { ours } => write!(f, "it belongs to another cluster than ours ({ours})"),
            Fence::AnySystem => f.write_str("which cluster is ours cannot be told: say it by system_identifier"),
            Fence::NotLeader => f.write_str("it claims to be a primary without the cluster manager's leader key"),
            Fence::Diverged => f.write_str("it has replayed WAL that the primary never wrote"),
        }
    }
}
