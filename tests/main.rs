//! Integration tests: the real program in front of real PostgreSQL servers, driven by real clients.
//!
//! One binary, a module for each promise. `harness` owns starting and ending things, `raw` speaks the protocol where a library
//! would be too polite; no other module does either.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod allocations;
mod authentication;
mod bounds;
mod cancel;
mod catalog;
mod certificates;
mod classifying;
mod console;
mod copying;
mod corners;
mod crew;
mod demo;
mod doors;
mod drivers;
mod durability;
mod encryption;
mod failover;
mod fates;
mod fences;
mod freshness;
mod harness;
mod idioms;
mod interloper;
mod isolation;
mod library;
mod limits;
mod listening;
mod local;
mod loss;
mod managers;
mod memory;
mod modes;
mod names;
mod patroni;
mod peers;
mod pinning;
mod pipeline;
mod postgres_programs;
mod prepared;
mod program;
mod promises;
mod raw;
mod reload;
mod replays;
mod replication;
mod reported;
mod retries;
mod routing;
mod secrecy;
mod sequences;
mod shapes;
mod sharing;
mod signals;
mod smoke;
mod startup;
mod strangers;
mod surface;
mod table;
mod tap;
mod timeouts;
mod tokens;
mod transactions;
mod vanishing;
mod vouched;
mod walks;
