//! Integration tests: the real program in front of real PostgreSQL servers, driven by real clients.
//!
//! One binary, a module for each promise. `harness` owns starting and ending things; no other module does.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod harness;
mod smoke;
