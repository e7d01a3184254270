//! `hakem demo`: PostgreSQL servers of its own, the proxy in front of them, and on request a card game played against it.
//!
//! The map: `stage` starts the servers and the proxy; `schema` is what the game is stored in; `director` kills, promotes and
//! brings back; `load` runs a `player` and half a `spectator` for each of those asked for, both of them a `visitor` with a
//! `seat`, who write down in a `tally` what happened to them; `observer` looks at everything once; `plain` and `view` show it;
//! `audit` and `report` say at the end whether it was right. This file owns the order of these, the signals and the clock.

mod audit;
mod director;
mod latency;
mod load;
mod observer;
mod plain;
mod player;
mod report;
mod schema;
mod seat;
mod spectator;
mod stage;
mod tally;
mod view;
mod visitor;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use director::{Director, Order};
use load::Load;
use observer::Observer;
use report::{Report, Scene};
use stage::Stage;
use view::View;

use crate::control::Shutdown;

/// What to show.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// The port for clients; 0 is any free one.
    #[arg(long, default_value_t = 6432)]
    port: u16,
    /// How many replicas there are beside the primary.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(0..=REPLICAS_MAX))]
    replicas: u16,
    /// Let commits not wait for a replica: a failover may then lose what was acknowledged last.
    #[arg(long = "async")]
    asynchronous: bool,
    /// Play games against it, and count what was lost, doubled or stale.
    #[arg(long)]
    load: bool,
    /// How many players there are, each with a connection. To two of them comes one spectator.
    #[arg(long, default_value_t = 20, requires = "load", value_parser = clap::value_parser!(u16).range(1..=PLAYERS_MAX))]
    players: u16,
    /// Show a line each second though standard output is a terminal.
    #[arg(long)]
    plain: bool,
    /// End after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Kill the primary after this many seconds.
    #[arg(long)]
    failover_at: Option<u64>,
    /// Print what was counted as one JSON object; everything else goes to standard error.
    #[arg(long, requires = "load")]
    json: bool,
    /// Log what the proxy notices to standard error.
    #[arg(long)]
    verbose: bool,
}

/// Runs until a signal, the time or the viewer's `q` ends it. Fails when something was lost, doubled or stale.
///
/// # Errors
/// When it cannot start, or cannot find out at the end what the tables hold.
pub(crate) async fn demo(arguments: Arguments) -> Result<ExitCode> {
    ensure!(
        arguments.failover_at.is_none() || arguments.replicas > 0,
        "--failover-at needs a replica to promote: --replicas is 0"
    );
    let (signalled, mut signals) = watch::channel(0_u32);
    listen(signalled)?;
    let stage = tokio::select! {
        stage = Stage::build(&arguments) => stage?,
        () = another(&mut signals) => return Ok(ExitCode::FAILURE),
    };
    let Stage { proxy, cluster, front } = stage;
    let director = Director::start(cluster)?;
    let load = arguments.load.then(|| Load::start(&front, usize::from(arguments.players))).transpose()?;
    let observer = Observer {
        service: proxy.service.clone(),
        metrics: proxy.metrics.clone(),
        chronicle: director.chronicle(),
        tally: load.as_ref().map(Load::tally),
        started: Instant::now(),
    };
    let interactive = arguments.load && !arguments.plain && !arguments.json && std::io::stdout().is_terminal();
    if !interactive {
        arguments.say(&front.introduction(&director.servers(), arguments.load));
    }
    let (quit, quitting) = mpsc::channel(1);
    let view = interactive
        .then(|| View::start(observer.clone(), director.orders(), quit.clone(), front.summary()))
        .transpose()?;

    show(&arguments, &observer, &director, quitting, &mut signals).await;

    if let Some(view) = view {
        view.stop().await;
    }
    let mut verdict = ExitCode::SUCCESS;
    if let Some(load) = load {
        arguments.say("The players finish; then the tables are read through the proxy, from the primary.");
        load.stop(another(&mut signals)).await;
        let played = observer.started.elapsed();
        let tally = load_tally(&observer);
        let found = tokio::select! {
            found = audit::audit(&front, &tally.accounts) => found?,
            () = another(&mut signals) => return Ok(ExitCode::FAILURE),
        };
        let sample = observer.sample(Instant::now());
        let scene = Scene {
            played,
            players: arguments.players,
            replicas: arguments.replicas,
            synchronous: !arguments.asynchronous,
            failovers: sample.failovers.clone(),
        };
        let report = Report { scene, tally, found, statements: sample.statements, retries: sample.retries };
        if arguments.json {
            println!("{}", report.json());
        } else {
            println!("{}", report.text());
        }
        if !report.is_sound() {
            verdict = ExitCode::FAILURE;
        }
    }
    arguments.say("Stopping.");
    proxy.stop(Shutdown::WaitForServers, another(&mut signals)).await;
    director.end().await?;
    Ok(verdict)
}

impl Arguments {
    /// Says something to a person: not on standard output where that is for a program.
    fn say(&self, text: &str) {
        if self.json { eprintln!("{text}") } else { println!("{text}") }
    }
}

/// Shows what happens until something ends it.
async fn show(
    arguments: &Arguments,
    observer: &Observer,
    director: &Director,
    mut quitting: mpsc::Receiver<()>,
    signals: &mut watch::Receiver<u32>,
) {
    let started = observer.started;
    let at = |seconds: Option<u64>| started + seconds.map_or(NEVER, Duration::from_secs);
    let (end, mut failover) = (at(arguments.seconds), at(arguments.failover_at));
    let mut lines = plain::Lines::new(observer.sample(started));
    let shows_lines = arguments.load && (arguments.plain || arguments.json || !std::io::stdout().is_terminal());
    let mut ticks = tokio::time::interval_at((started + plain::INTERVAL).into(), plain::INTERVAL);
    loop {
        tokio::select! {
            () = another(signals) => return,
            _ = quitting.recv() => return,
            () = tokio::time::sleep_until(end.into()) => return,
            () = tokio::time::sleep_until(failover.into()) => {
                director.order(Order::FailOver);
                failover = at(None);
            }
            _ = ticks.tick() => {
                let text = lines.next(observer.sample(Instant::now()), shows_lines);
                // The view shows the same events; a line would destroy its picture.
                if (shows_lines || !arguments.load) && !text.is_empty() {
                    arguments.say(text.trim_end());
                }
            }
        }
    }
}

fn load_tally(observer: &Observer) -> tally::Tally {
    observer.tally.as_ref().map(|tally| tally.read().clone()).unwrap_or_default()
}

/// Counts signals that ask for an end.
fn listen(signalled: watch::Sender<u32>) -> Result<()> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let (mut stream, signalled) = (signal(kind)?, signalled.clone());
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                signalled.send_modify(|count| *count += 1);
            }
        });
    }
    Ok(())
}

/// Waits for one more signal.
async fn another(signals: &mut watch::Receiver<u32>) {
    if signals.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// A replica costs some ten processes.
const REPLICAS_MAX: i64 = 8;

/// As many as the schema makes.
const PLAYERS_MAX: i64 = 300;

/// Longer than anybody watches.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
