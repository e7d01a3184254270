//! Clients for the benchmarks that pgbench cannot play: thousands at a time, idle or busy, and those that say or hear a lot.
//!
//! Each prints one line of JSON. What it means, and what is measured about the servers meanwhile, is the business of `benches/suite`.

mod client;
mod crowd;
mod large;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::client::Door;

#[derive(Parser)]
#[command(about = "Clients for the benchmarks")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a certificate for localhost and its key: server.crt and server.key
    Certificate {
        /// Where to
        directory: PathBuf,
    },
    /// Log in so many clients as each line of the standard input says, and keep them until it ends
    Idle {
        #[command(flatten)]
        door: Door,
    },
    /// Have some of many clients read a row of pgbench_accounts each, again and again
    Crowd {
        #[command(flatten)]
        door: Door,
        #[arg(long)]
        clients: usize,
        /// Those that ask; the others have logged in and wait
        #[arg(long)]
        active: usize,
        #[arg(long)]
        seconds: f64,
        /// The rows there are
        #[arg(long, default_value_t = 1_000_000)]
        rows: u32,
    },
    /// Say or hear a lot
    Large {
        #[command(flatten)]
        door: Door,
        #[arg(long)]
        what: large::What,
    },
}

fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match Arguments::parse().command {
            Command::Certificate { directory } => certificate(&directory),
            Command::Idle { door } => crowd::idle(&door).await,
            Command::Crowd { door, clients, active, seconds, rows } => {
                crowd::crowd(&door, clients, active, seconds, rows).await
            }
            Command::Large { door, what } => large::large(&door, what).await,
        }
    })
}

fn certificate(directory: &std::path::Path) -> Result<()> {
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    std::fs::write(directory.join("server.crt"), pair.cert.pem())?;
    std::fs::write(directory.join("server.key"), pair.signing_key.serialize_pem())?;
    Ok(())
}
