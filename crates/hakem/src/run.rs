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
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use topology::Writer;

use crate::counters::Counters;
use crate::http::{self, Pages};
use crate::listener::{self, Door};
use crate::local::LocalSocket;
use crate::metrics::Metrics;
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
    workers: Arc<Vec<Handle>>,
    doors: Vec<JoinHandle<()>>,
    draining: Arc<AtomicBool>,
}

/// Reads and checks a configuration file.
///
/// # Errors
/// All of its problems, a line each.
pub(crate) fn load(path: &Path) -> Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Config::parse(&text, &path.display().to_string()).map_err(|problems| {
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        anyhow::anyhow!(lines.join("\n"))
    })
}

/// Runs until a signal ends it. SIGTERM and SIGINT let clients finish, the second one does not.
///
/// # Errors
/// When it cannot start.
pub(crate) async fn run(path: PathBuf, config: Config) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let proxy = Proxy::start(Arc::new(config), Some(path)).await?;
    let service = proxy.service.clone();
    let mut told_to_end = async || {
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                _ = hangup.recv() => {
                    if let Err(error) = service.reload().await {
                        tracing::error!("the configuration stays as it was: {error:#}");
                    }
                }
            }
        }
    };
    told_to_end().await;
    tracing::info!("shutting down: waiting for clients to finish");
    proxy.stop(told_to_end()).await;
    Ok(())
}

impl Proxy {
    /// Starts everything.
    ///
    /// # Errors
    /// When an address cannot be had or a thread cannot be made.
    pub(crate) async fn start(config: Arc<Config>, source: Option<PathBuf>) -> Result<Proxy> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = if config.proxy.workers == 0 { cores } else { config.proxy.workers };
        let mut listeners = Vec::new();
        for address in &config.proxy.listen {
            listeners.push(listener::open(*address).with_context(|| format!("cannot listen on {address}"))?);
        }
        let addresses =
            listeners.iter().map(tokio::net::TcpListener::local_addr).collect::<std::io::Result<Vec<_>>>()?;
        let mut doors: Vec<Door> = listeners.into_iter().map(Door::Tcp).collect();
        if let Some(unix_socket) = &config.proxy.unix_socket {
            let ports: BTreeSet<u16> = addresses.iter().map(SocketAddr::port).collect();
            for port in ports {
                let socket = LocalSocket::open(unix_socket, port, listener::BACKLOG)
                    .with_context(|| format!("cannot listen in {}", unix_socket.directory.display()))?;
                tracing::info!(path = %socket.path().display(), "accepting local connections");
                doors.push(Door::Local(socket));
            }
        }
        let http_listen = config.proxy.http_listen;
        let files = Files::read(&config)?;
        let service = Service::new(config, source, workers, files);
        let counters: Vec<Arc<Counters>> = (0..workers).map(|_| Arc::default()).collect();
        let metrics = Arc::new(Metrics::new(counters.clone()));
        let mut handles = Vec::new();
        for (id, counters) in counters.into_iter().enumerate() {
            handles.push(Handle::spawn(id, service.clone(), counters).context("cannot start a worker")?);
        }
        let workers = Arc::new(handles);
        let draining = Arc::new(AtomicBool::new(false));
        let http = match http_listen {
            Some(address) => {
                let pages = Pages { service: service.clone(), metrics: metrics.clone(), draining: draining.clone() };
                Some(http::serve(address, pages).await.with_context(|| format!("cannot listen on {address}"))?)
            }
            None => None,
        };
        tokio::spawn(sweep(service.clone()));
        let deal = |door| tokio::spawn(listener::deal(door, service.clone(), workers.clone()));
        let doors = doors.into_iter().map(deal).collect();
        for address in &addresses {
            tracing::info!(%address, workers = workers.len(), "accepting connections");
        }
        if let Some(address) = http {
            tracing::info!(%address, "serving /metrics, /health and /ready");
        }
        Ok(Proxy { addresses, http, service, metrics, workers, doors, draining })
    }

    /// Lets clients finish what they are doing, up to the shutdown timeout or until `hurry` is ready.
    pub(crate) async fn stop(self, hurry: impl Future<Output = ()>) {
        self.draining.store(true, Ordering::Relaxed);
        for door in &self.doors {
            door.abort();
        }
        for worker in self.workers.iter() {
            worker.drain();
        }
        let service = self.service.clone();
        let empty = async move {
            while service.clients() > 0 {
                tokio::time::sleep(DRAIN_POLL).await;
            }
        };
        let timeout = self.service.config().proxy.shutdown_timeout;
        tokio::select! {
            result = tokio::time::timeout(timeout, empty) => {
                if result.is_err() {
                    tracing::warn!(clients = self.service.clients(), "clients did not finish in time");
                }
            }
            () = hurry => {}
        }
        // While their event loops still run: an encrypted connection has a last word to say.
        for tenant in self.service.tenants() {
            tenant.pools().for_each(|(_, pool)| pool.retire());
        }
        for cluster in self.service.clusters().values() {
            cluster.stop();
        }
        for door in self.doors {
            // An aborted door has let go of the workers when it has ended.
            let _ = door.await;
        }
        if let Ok(workers) = Arc::try_unwrap(self.workers) {
            workers.into_iter().for_each(Handle::stop);
        }
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

const DRAIN_POLL: Duration = Duration::from_millis(20);
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
