//! The watcher against real servers: one binary, so that what the scenes share is compiled once.

mod changes;
mod freshness;
mod scene;
