//! The configuration of the proxy: the text of `proxy.toml` becomes one validated [`Config`], or every problem that it has.
//!
//! This crate owns the names of sections and keys, their defaults, units and limits, and how the settings of a user, of a
//! database and of everybody combine into one answer. It reads no file, opens no socket, resolves no host name and checks no
//! password: the caller brings the text, and the crate that uses a value decides what to do with it.
//!
//! Reading order: [`Config`] (`config.rs`), the sections (`sections.rs`), what one client gets (`resolve.rs`), then how a
//! key is read (`reader.rs`) and what a value may be (`value.rs`).
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod address;
mod auth;
mod config;
mod limits;
mod manager;
mod problem;
mod reader;
mod resolve;
mod rules;
mod secret;
mod sections;
mod sharing;
mod tls;
mod value;

pub use address::Address;
pub use auth::{Auth, AuthMethod, AuthQuery};
pub use config::Config;
pub use limits::{CeilingOverrides, Ceilings, TimeoutOverrides, Timeouts};
pub use manager::{Managers, Url};
pub use problem::{Position, Problem};
pub use reader::Setting;
pub use resolve::{ResolveError, Resolved};
pub use rules::{Rule, SynchronousCommit};
pub use secret::Secret;
pub use sections::{
    Affinity, Cluster, Consistency, Console, Database, Keepalive, Log, LogFormat, LogLevel, Overrides, Peer, Pool,
    PoolMode, Proxy, Route, Routing, Topology, UnixSocket, User,
};
pub use sharing::Share;
pub use tls::{Ciphers, ClientTls, Protocols, ServerTls, SslMode, Tls};
