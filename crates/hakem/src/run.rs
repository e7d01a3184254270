//! `hakem run`: the proxy from its configuration to its end.
//!
//! Owns the order of starting and stopping, and the signals.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use config::Config;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use topology::Writer;

use crate::control::{Order, Shutdown};
use crate::counters::Counters;
use crate::crew;
use crate::http::{self, Pages};
use crate::listener::Door;
use crate::local::LocalSocket;
use crate::metrics::Metrics;
use crate::network::{self, NetworkSocket};
use crate::notify;
use crate::secrets::Secrets;
use crate::service::Service;
use crate::tls::Files;
use crate::worker::Handle;

/// A proxy at work.
pub(crate) struct Proxy {
    /// Where clients connect.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Where pages are served.
    pub(crate) http: Option<SocketAddr>,
    pub(crate) service: Arc<Service>,
    pub(crate) metrics: Arc<Metrics>,
    workers: Vec<Handle>,
    /// What lets clients in.
    dealers: Vec<JoinHandle<()>>,
    draining: Arc<AtomicBool>,
    /// From the console.
    orders: mpsc::UnboundedReceiver<Order>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// All of its problems, a line each.
pub(crate) fn load(path: &Path) -> Result<(String, Config)> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config = parse(&text, &path.display().to_string())?;
    Ok((text, config))
}

/// Checks the text of a configuration; `name` is only quoted.
///
/// # Errors
/// All of its problems, a line each.
pub(crate) fn parse(text: &str, name: &str) -> Result<Config> {
    Config::parse(text, name).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(lines.join("\n"))
    })
}

/// Reads the files with secrets and rules that a configuration names.
///
/// # Errors
/// All of their problems, a line each.
pub(crate) fn load_secrets(config: &Config) -> Result<Secrets> {
    Secrets::load(config).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(lines.join("\n"))
    })
}

/// Runs until a signal or the console ends it. The signals are PgBouncer's: SIGTERM waits for clients to leave, SIGINT for what runs
/// to end, and a second one for nothing; SIGQUIT ends it at once. SIGHUP reloads, SIGUSR1 pauses, SIGUSR2 resumes.
///
/// # Errors
/// When it cannot start.
pub(crate) async fn run(path: PathBuf, config: Config) -> Result<()> {
    let mut signals = Signals::hear()?;
    let mut proxy = Proxy::start(Arc::new(config), Some(path)).await?;
    let service = proxy.service.clone();
    let mut orders = std::mem::replace(&mut proxy.orders, mpsc::unbounded_channel().1);
    let mut told_to_end = async || {
        loop {
            let order = tokio::select! {
                order = signals.next() => order,
                // Its sender lives in the service.
                Some(order) = orders.recv() => order,
            };
            if let Some(shutdown) = obey(&service, order).await {
                return shutdown;
            }
        }
    };
    let shutdown = told_to_end().await;
    let hurry = async {
        told_to_end().await;
    };
    proxy.stop(shutdown, hurry).await;
    Ok(())
}

/// Does what it is told; `Some` when that is to end.
async fn obey(service: &Arc<Service>, order: Order) -> Option<Shutdown> {
    match order {
        Order::Reload(answer) => {
            notify::reloading();
            let done = service.reload().await;
            notify::ready();
            if let Err(error) = &done {
                for line in format!("{error:#}").lines() {
                    tracing::error!("the configuration stays as it was: {line}");
                }
            }
            // Whoever does not wait for the answer reads the log.
            let _ = answer.send(done.map_err(|error| format!("{error:#}")));
        }
        Order::Set { key, value, answer } => {
            let done = service.set(key, &value).await;
            let _ = answer.send(done.map_err(|error| format!("{error:#}")));
        }
        Order::Enlist { cluster, servers } => service.enlist(cluster, servers).await,
        Order::Pause => {
            service.pause("");
            service.each_pool("", |pool| pool.recycle());
        }
        Order::Resume => drop(service.gates.pause(false)),
        Order::Shutdown(shutdown) => return Some(shutdown),
    }
    None
}

/// What an administrator says by signals.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    pause: Signal,
    resume: Signal,
}

impl Signals {
    fn hear() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            pause: signal(SignalKind::user_defined1())?,
            resume: signal(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Order {
        let (name, order) = tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", Order::Shutdown(Shutdown::WaitForClients)),
            _ = self.interrupt.recv() => ("SIGINT", Order::Shutdown(Shutdown::WaitForServers)),
            _ = self.quit.recv() => ("SIGQUIT", Order::Shutdown(Shutdown::Immediate)),
            _ = self.hangup.recv() => ("SIGHUP", Order::Reload(oneshot::channel().0)),
            _ = self.pause.recv() => ("SIGUSR1", Order::Pause),
            _ = self.resume.recv() => ("SIGUSR2", Order::Resume),
        };
        tracing::info!("got {name}");
        order
    }
}

impl Proxy {
    /// Starts everything.
    ///
    /// # Errors
    /// When an address cannot be had or a thread cannot be made.
    pub(crate) async fn start(config: Arc<Config>, source: Option<PathBuf>) -> Result<Proxy> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if config.proxy.workers == 0 { cores } else { config.proxy.workers };
        let secrets = load_secrets(&config)?;
        let mut sockets = Vec::new();
        for address in &config.proxy.listen {
            let socket = NetworkSocket::open(*address, config.proxy.keepalive);
            sockets.push(socket.with_context(|| format!("cannot listen on {address}"))?);
        }
        let addresses = sockets.iter().map(NetworkSocket::address).collect::<std::io::Result<Vec<_>>>()?;
        let mut doors: Vec<Door> = sockets.into_iter().map(Door::Tcp).collect();
        if let Some(unix_socket) = &config.proxy.unix_socket {
            let ports: BTreeSet<u16> = addresses.iter().map(SocketAddr::port).collect();
            for port in ports {
                let socket = LocalSocket::open(unix_socket, port, network::BACKLOG)
                    .with_context(|| format!("cannot listen in {}", unix_socket.directory.display()))?;
                tracing::info!(path = %socket.path().display(), "accepting local connections");
                doors.push(Door::Local(socket));
            }
        }
        let http_listen = config.proxy.http_listen;
        let files = Files::read(&config)?;
        let (sender, orders) = mpsc::unbounded_channel();
        let service = Service::new(config, secrets, source, workers, files, sender);
        let counters: Vec<Arc<Counters>> = (0..workers).map(|_| Arc::default()).collect();
        let metrics = Arc::new(Metrics::new(counters.clone()));
        let mut workers = Vec::new();
        for (id, counters) in counters.into_iter().enumerate() {
            workers.push(Handle::spawn(id, service.clone(), counters).context("cannot start a worker")?);
        }
        let least = service.config().proxy.workers_min;
        service.crew.employ(workers.iter().map(Handle::staff).collect(), least);
        let draining = Arc::new(AtomicBool::new(false));
        let http = match http_listen {
            Some(address) => {
                let pages = Pages { service: service.clone(), metrics: metrics.clone(), draining: draining.clone() };
                Some(http::serve(address, pages).await.with_context(|| format!("cannot listen on {address}"))?)
            }
            None => None,
        };
        tokio::spawn(sweep(service.clone()));
        tokio::spawn(turn_pages(service.clone()));
        tokio::spawn(crew::manage(service.clone()));
        let mut dealers = Vec::new();
        for door in doors {
            dealers.push(workers[0].open(door).await.context("the first worker has stopped")?);
        }
        for address in &addresses {
            tracing::info!(%address, workers = workers.len(), "accepting connections");
        }
        if let Some(address) = http {
            tracing::info!(%address, "serving /metrics, /health and /ready");
        }
        notify::ready();
        Ok(Proxy { addresses, http, service, metrics, workers, dealers, draining, orders })
    }

    /// Ends, after waiting for what `shutdown` says, up to the shutdown timeout or until `hurry` is ready.
    pub(crate) async fn stop(self, shutdown: Shutdown, hurry: impl Future<Output = ()>) {
        self.draining.store(true, Ordering::Relaxed);
        notify::stopping();
        for dealer in &self.dealers {
            dealer.abort();
        }
        let dismiss = || self.workers.iter().for_each(Handle::drain);
        match shutdown {
            Shutdown::WaitForClients => tracing::info!("shutting down: waiting for clients to leave"),
            Shutdown::WaitForServers => {
                tracing::info!("shutting down: waiting for clients to finish");
                dismiss();
            }
            Shutdown::Immediate => tracing::info!("shutting down"),
        }
        let empty = async || {
            while self.service.clients() > self.service.consoles() {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        let timeout = self.service.config().proxy.shutdown_timeout;
        let timely = tokio::select! {
            biased;
            () = std::future::ready(()), if shutdown == Shutdown::Immediate => true,
            result = tokio::time::timeout(timeout, empty()) => result.is_ok(),
            () = hurry => true,
        };
        if !timely {
            tracing::warn!(clients = self.service.clients(), "clients did not finish in time");
            // Those who are idle are told, if they listen.
            dismiss();
            let _ = tokio::time::timeout(DISMISSAL_MAX, empty()).await;
        }
        // While their event loops still run: an encrypted connection has a last word to say.
        self.service.each_pool("", |pool| pool.retire());
        for cluster in self.service.clusters().values() {
            cluster.stop();
        }
        self.workers.into_iter().for_each(Handle::stop);
        tracing::info!("stopped");
    }
}

async fn sweep(service: Arc<Service>) {
    let mut ticks = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        ticks.tick().await;
        service.sweep(Instant::now());
    }
}

/// Ends the periods of the console's averages.
async fn turn_pages(service: Arc<Service>) {
    loop {
        tokio::time::sleep(service.config().console.stats_period).await;
        service.turn_pages(Instant::now());
    }
}

/// Waits until every cluster has a primary.
///
/// # Errors
/// When it takes longer than `limit`.
pub(crate) async fn until_ready(service: &Service, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    for (name, cluster) in service.clusters().iter() {
        let watcher = &cluster.watcher;
        loop {
            let snapshot = watcher.snapshot().clone();
            match &snapshot.writer {
                Writer::Known(_) => break,
                Writer::None(reason) if Instant::now() >= deadline => bail!("cluster {name}: {reason}"),
                Writer::None(_) => {
                    let _ = tokio::time::timeout_at(deadline.into(), watcher.changed(snapshot.version)).await;
                }
            }
        }
    }
    Ok(())
}

/// How long clients are given to hear that their time is up.
const DISMISSAL_MAX: Duration = Duration::from_millis(100);
const DRAIN_POLL: Duration = Duration::from_millis(20);
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
