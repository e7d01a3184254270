//! Faults of a real cluster, and what they are to whoever writes and reads through a proxy: three PostgreSQL under Patroni with etcd, and
//! in front of them, at the same time, Hakem, HAProxy with PgBouncer, and both of these tuned. `make chaos` runs it.
//!
//! `work.rs`: the workload; `stacks.rs`: the proxies; `events.rs`: what happens; `report.rs`: the figures. With `--minutes`, random faults
//! go on for so long, replication is synchronous, and whatever is lost, doubled or stale through Hakem is a failure.

mod events;
mod report;
mod stacks;
mod work;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use cluster::{Managed, ManagedOptions};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::sleep;

use crate::events::{Event, Prober};
use crate::report::Figures;
use crate::stacks::{PASSWORD, Room, Stack};
use crate::work::Crew;

#[derive(Debug, Parser)]
#[command(about = "Faults of a Patroni cluster, seen through Hakem and through HAProxy with PgBouncer")]
struct Options {
    /// How often each event happens
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Which events [default: all]
    #[arg(long, value_delimiter = ',')]
    events: Vec<Event>,
    /// Random events through Hakem alone for so long, with synchronous replication
    #[arg(long)]
    minutes: Option<f64>,
    /// The same in hours
    #[arg(long)]
    hours: Option<f64>,
    /// What the random events follow from
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// How long a worker pauses between its statements
    #[arg(long, default_value_t = 50)]
    think_ms: u64,
    /// Hakem's program
    #[arg(long, default_value = "target/release/hakem")]
    hakem: PathBuf,
    /// Patroni's program
    #[arg(long, default_value = "target/patroni-4.1.5/run")]
    patroni: PathBuf,
    /// Where the table is written
    #[arg(long)]
    output: Option<PathBuf>,
}

/// A proxy with its workers.
struct Contender {
    crew: Crew,
    stack: Stack,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    tokio::select! {
        done = run(&options) => done,
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

async fn run(options: &Options) -> Result<()> {
    let limit = options
        .hours
        .map(|hours| hours * 60.0)
        .or(options.minutes)
        .map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let mut cluster = Managed::start(ManagedOptions {
        members: 3,
        patroni: options.patroni.canonicalize().context("Patroni is missing: run .ci/install chaos")?,
        pace: [30, 10, 10],
        password: PASSWORD.to_owned(),
        settings: Vec::new(),
        strict: None,
    })
    .await?;
    if limit.is_some() {
        cluster.configure(r#"{"synchronous_mode": true}"#).await?;
    }
    let leader = cluster.settled().await?;
    let room = Room::new()?;
    let hakem = options.hakem.canonicalize().context("Hakem is missing: cargo build --release -p hakem")?;
    let mut stacks = Vec::new();
    for replays in [false, true] {
        stacks.push(Stack::hakem(&room, &hakem, &cluster, replays)?);
    }
    if limit.is_none() {
        stacks.push(Stack::incumbent(&room, &cluster, false)?);
        stacks.push(Stack::incumbent(&room, &cluster, true)?);
    }
    let mut script = "create table probed (n int);".to_owned();
    for stack in &stacks {
        let table = stack.doors.table;
        let _ = write!(script, "create table {table} (worker int, n bigint); create index on {table} (worker, n);");
    }
    cluster.sql(leader, &script).await?;
    let prober = Prober::start(&cluster);
    let think = Duration::from_millis(options.think_ms);
    let contenders: Vec<Contender> =
        stacks.into_iter().map(|stack| Contender { crew: Crew::start(&stack.doors, WORKERS, think), stack }).collect();
    let everything = Event::value_variants().iter().copied().filter(|event| stacks::is_root() || !event.needs_root());
    let events = if options.events.is_empty() { everything.collect() } else { options.events.clone() };

    let mut violations = 0;
    let mut all = Vec::new();
    match limit {
        None => {
            for event in events {
                for _ in 0..options.runs {
                    all.extend(happening(event, &mut cluster, &contenders, &prober).await?);
                    // After each one, since who is interrupted keeps what there is.
                    if let Some(output) = &options.output {
                        std::fs::write(output, page(options, &all))?;
                    }
                }
            }
            print!("{}", page(options, &all));
        }
        Some(limit) => {
            let mut random = StdRng::seed_from_u64(options.seed);
            let end = Instant::now() + limit;
            while Instant::now() < end {
                let event = events[random.random_range(0..events.len())];
                let figures = happening(event, &mut cluster, &contenders, &prober).await?;
                violations += figures.iter().map(Figures::violations).sum::<usize>();
            }
        }
    }
    for contender in contenders {
        contender.crew.end().await;
    }
    ensure!(violations == 0, "{violations} violations with seed {}", options.seed);
    Ok(())
}

/// One event, from a quiet moment before it to one after it.
async fn happening(
    event: Event,
    cluster: &mut Managed,
    contenders: &[Contender],
    prober: &Prober,
) -> Result<Vec<Figures>> {
    let leader = cluster.settled().await?;
    contenders.iter().for_each(|contender| contender.crew.reset());
    prober.reset();
    sleep(QUIET).await;
    let began = Instant::now();
    let leader = event.happen(cluster, leader).await.with_context(|| format!("{event:?}"))?;
    let settled = Instant::now();
    // Everybody has to have written again: a gap that has not ended is not counted.
    while contenders.iter().any(|contender| contender.crew.last_write() < settled) && settled.elapsed() < RECOVERY_WAIT
    {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(QUIET).await;
    let mut all = Vec::new();
    // One for all of them: reading their tables keeps the prober waiting.
    let direct = prober.gap();
    for Contender { stack, crew } in contenders {
        let tally = crew.tally();
        // Asked for after the acknowledgements were taken, so that all of them have to be there.
        let rows = cluster.sql(leader, &format!("select n from {}", stack.doors.table)).await?;
        let rows: Vec<i64> = rows.lines().filter_map(|row| row.parse().ok()).collect();
        let mut figures = Figures::new(event, stack.name, tally, direct, began, &rows);
        figures.memory_kb = stack.memory_kb();
        println!("{}", figures.line());
        all.push(figures);
    }
    Ok(all)
}

fn page(options: &Options, all: &[Figures]) -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).lines().next().unwrap_or("unknown").to_owned()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let versions = [
        said(&options.hakem.to_string_lossy(), &["--version"]),
        said("psql", &["--version"]),
        said(&options.patroni.to_string_lossy(), &["--version"]).replace("__main__.py", "Patroni"),
        said("etcd", &["--version"]),
        said("/usr/sbin/haproxy", &["-v"]),
        said("/usr/sbin/pgbouncer", &["--version"]),
    ];
    format!(
        "# Failover, measured\n\nWritten by `make chaos`: {}, {cores} cores shared by the servers, the proxies and {WORKERS} workers behind each of \
         these ({} ms between two statements). Patroni 30/10/10, asynchronous. Tuned: `server_login_retry = 1`, `inter 1s fall 2 rise 1`. Times are \
         medians over the runs, counts are sums over them. Lost: acknowledged rows that are not there afterwards, by when they were acknowledged: \
         before the event began is what asynchronous replication loses by itself. Stale: reads without what the same worker had written.\n\n\
         Versions: {}.\n\n{}",
        said("date", &["-u", "+%F"]),
        options.think_ms,
        versions.join("; "),
        report::table(all),
    )
}

const WORKERS: i64 = 20;
const QUIET: Duration = Duration::from_secs(3);
const RECOVERY_WAIT: Duration = Duration::from_secs(60);
