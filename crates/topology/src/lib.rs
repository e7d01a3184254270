//! Who is the primary, and how fresh is each replica.
//!
//! The crate's map, in the order of the data's way:
//! - `options`: which servers to watch, as whom, how often.
//! - `probe`: one connection to one server; asks it and returns what it said, or why it did not.
//! - `name`: which address a server's name stands for.
//! - `lsn`, `history`: the arithmetic of freshness, pure.
//! - `sources`: what cluster managers are asked, Patroni and etcd; `dcs`: what their answers say, with `timestamp` for moments, pure.
//! - `combine`: what all servers said → the writer and each node's standing, pure.
//! - `handover`: when writes wait for a handover that is announced or planned, pure.
//! - `board`: the one owner of everything learned; turns reports into snapshots, pure.
//! - `snapshot`: the published, immutable answer.
//! - `pick`: the choice of a node for one statement from a snapshot, pure; `share`: how several that would do share the reads.
//! - `watcher`: the tasks, and the handle that the rest of the program holds.
//!
//! It opens control-plane connections only. It never carries a client's statement, never promotes or demotes a server,
//! and knows nothing of sessions: they bring their own needs as [`Freshness`] values.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod board;
mod combine;
mod dcs;
mod handover;
mod history;
mod lsn;
mod name;
mod options;
mod pick;
mod probe;
mod share;
mod snapshot;
mod sources;
mod timestamp;
mod watcher;

pub use dcs::{Announcement, Member, Planned};
pub use name::Whereabouts;
pub use options::Options;
pub use pick::{Ask, Choice, Freshness, Need, Trail, WhyPrimary};
pub use share::{Load, Plan, SLOW_START_MIN};
pub use snapshot::{Epoch, Fence, Figures, Fork, NoPrimary, Node, NodeId, NodeState, Snapshot, Writer};
pub use sources::{Source, SourceKind, ask_switchover};
pub use watcher::{Handover, Waiting, Watcher};
