//! Hakem: pooling, splitting and failover in front of PostgreSQL.
//!
//! The program's map, in the order of a request's way: `listener` deals connections to workers (`worker`); `client` is one
//! client's life, from its `login` to its end; `route` finds a server for a request; `relay` pumps until that server is
//! free again, from and into `buffers`. Beside the way: `service` (what all workers share), `cancel`,
//! `counters`, `ask`. Around it:
//! `run` (start and stop), `http` and `metrics`, `check`, `classify`, `demo`, `logging`.

mod abandon;
mod again;
mod ask;
mod asked;
mod authentication;
mod books;
mod buffers;
mod cancel;
mod catalog;
mod census;
mod check;
mod check_query;
mod classify;
mod client;
mod clusters;
mod console;
mod control;
mod counters;
mod crew;
mod deadline;
mod debts;
mod demo;
mod descriptors;
mod farewell;
mod gate;
mod http;
mod ledger;
mod listen;
mod listener;
mod load;
mod lobby;
mod local;
mod logging;
mod login;
mod lookup;
mod metrics;
mod network;
mod notify;
mod outcome;
mod pins;
mod printable;
mod quotas;
mod relay;
mod replication;
mod reset;
mod resolution;
mod rooms;
mod route;
mod rules;
mod run;
mod secrets;
mod service;
mod shelf;
mod staffing;
mod staleness;
mod standing;
mod tenant;
mod times;
mod tls;
mod vacancies;
mod waiting;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A PostgreSQL proxy: pools connections, sends writes to the primary and reads to replicas that are fresh enough, and makes a
/// failover a pause.
#[derive(Parser)]
#[command(name = "hakem", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the proxy.
    Run {
        /// The configuration file.
        #[arg(default_value = "proxy.toml")]
        config: PathBuf,
    },
    /// Check a configuration file and try each server that it names.
    Check {
        /// The configuration file.
        #[arg(default_value = "proxy.toml")]
        config: PathBuf,
    },
    /// Say what the proxy takes statements for: reads or writes, and why.
    Classify(Box<classify::Arguments>),
    /// Start PostgreSQL servers for a demonstration, with the proxy in front of them; all of it is removed at the end.
    Demo(demo::Arguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run { config: path } => with_config(&path, |config| {
            logging::start(&config.log);
            descriptors::raise(&config);
            control_loop()?.block_on(run::run(path.clone(), config))
        }),
        Command::Check { config } => {
            with_config(&config, |config| control_loop()?.block_on(async { check::check(&config).await }))
        }
        Command::Classify(arguments) => match classify::classify(&arguments) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hakem: {error:#}");
                ExitCode::FAILURE
            }
        },
        Command::Demo(arguments) => {
            let end =
                control_loop().map_err(anyhow::Error::from).and_then(|events| events.block_on(demo::demo(arguments)));
            end.unwrap_or_else(|error| {
                eprintln!("hakem: {error:#}");
                ExitCode::FAILURE
            })
        }
    }
}

fn with_config(path: &std::path::Path, run: impl FnOnce(config::Config) -> anyhow::Result<()>) -> ExitCode {
    match run::load(path).and_then(|(_, config)| run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hakem: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The event loop of everything but clients: probes, pages, signals. Clients have their workers'.
fn control_loop() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
