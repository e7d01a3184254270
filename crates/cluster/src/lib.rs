//! A throw-away local PostgreSQL primary with streaming replicas, for `hakem demo` and for the integration tests.
//!
//! The servers are real: started from the installed PostgreSQL (13 or newer), killed, frozen, promoted and rejoined as
//! the caller says. Nothing is left behind, however the owning process ends. Linux only, since a node's processes are
//! found through `/proc`. This crate does not decide when to fail over, and it protects no data that anybody needs.
//!
//! - [`Cluster`] (`cluster.rs`): start, look, ask, set, stop; `failover.rs`: promote and rejoin.
//! - [`Managed`] (`managed.rs`): the same under Patroni, with etcd; `strict.rs`: the same where the managers trust nobody.
//! - `node.rs`: one server, from spawn to exit; `home.rs` and `watchdog.sh`: the directory, and its certain removal.
//! - `programs.rs`: where PostgreSQL's programs are and as whom they run; `process.rs`: signals and `/proc`.
//! - `conf.rs`, `lsn.rs`: pure texts and numbers; `wait.rs`: the one way to wait for a condition.

#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod cluster;
mod conf;
mod failover;
mod home;
mod lsn;
mod managed;
mod node;
mod process;
mod programs;
mod strict;
mod wait;

pub use cluster::{Authentication, Cluster, Options};
pub use lsn::Lsn;
pub use managed::{Etcd, Managed, ManagedOptions, Member};
pub use node::{Mode, Node};
pub use strict::Strict;
