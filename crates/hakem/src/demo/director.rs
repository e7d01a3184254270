//! The director: kills servers on demand, promotes a replica when the primary has died, and brings back what has died.
//!
//! Owns the cluster and a thread of its own, so that nothing that it does (looking through processes, copying files) holds up the
//! proxy. It plays the part of Patroni: the proxy is told nothing, and has to find out.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use cluster::Cluster;
use tokio::sync::{mpsc, watch};

/// The hold on the director's thread.
pub(crate) struct Director {
    orders: mpsc::Sender<Order>,
    chronicle: Chronicle,
    servers: Vec<Server>,
    ended: watch::Sender<bool>,
    thread: JoinHandle<Result<()>>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Kill the primary.
    FailOver,
    /// Kill a replica, or bring back the one that was killed.
    ToggleReplica,
}

/// A server as it was at the start.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) port: u16,
    pub(crate) pid: u32,
    pub(crate) role: &'static str,
}

/// What has happened, for whoever shows it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Chronicle(Arc<Mutex<Pages>>);

/// The chronicle's content.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pages {
    /// The last events, the newest at the end.
    pub(crate) events: VecDeque<(Instant, String)>,
    /// How many there have been.
    pub(crate) total: usize,
    /// The last changes of the primary.
    pub(crate) failovers: VecDeque<Failover>,
}

/// One change of the primary.
#[derive(Clone, Debug)]
pub(crate) struct Failover {
    pub(crate) at: Instant,
    /// From the primary's death, as far as it is known, until another was promoted.
    pub(crate) promoted_after: Duration,
    /// From then until the old one streamed as a replica.
    pub(crate) rejoined_after: Option<Duration>,
}

impl Director {
    /// Takes a cluster over.
    ///
    /// # Errors
    /// When its thread cannot be made.
    pub(crate) fn start(cluster: Cluster) -> Result<Director> {
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        let (ended, end) = watch::channel(false);
        let chronicle = Chronicle::default();
        let server = |(i, node): (usize, &cluster::Node)| Server {
            name: node.name().to_owned(),
            port: node.port(),
            pid: node.pid().unwrap_or_default(),
            role: if i == cluster.primary() { "the primary" } else { "a replica" },
        };
        let servers = cluster.nodes().iter().enumerate().map(server).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let pages = chronicle.clone();
        let thread = std::thread::Builder::new().name("director".to_owned()).spawn(move || {
            let stage = Troupe { cluster, chronicle: pages, held_down: BTreeSet::new(), unfinished: None };
            runtime.block_on(stage.direct(received, end))
        })?;
        Ok(Director { orders, chronicle, servers, ended, thread })
    }

    /// Asks for something. While the director has more to do than it can remember, nothing happens.
    pub(crate) fn order(&self, order: Order) {
        let _ = self.orders.try_send(order);
    }

    pub(crate) fn orders(&self) -> mpsc::Sender<Order> {
        self.orders.clone()
    }

    pub(crate) fn chronicle(&self) -> Chronicle {
        self.chronicle.clone()
    }

    /// The servers as they were at the start, the primary first.
    pub(crate) fn servers(&self) -> Vec<Server> {
        self.servers.clone()
    }

    /// Stops and removes the cluster.
    ///
    /// # Errors
    /// When something could not be removed.
    pub(crate) async fn end(self) -> Result<()> {
        self.ended.send_replace(true);
        tokio::task::spawn_blocking(move || self.thread.join())
            .await?
            .map_err(|_| anyhow!("the director has panicked"))?
    }
}

impl Chronicle {
    pub(crate) fn read(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, event: String) {
        let mut pages = self.read();
        pages.total += 1;
        if pages.events.len() == EVENTS_MAX {
            pages.events.pop_front();
        }
        pages.events.push_back((Instant::now(), event));
    }
}

struct Troupe {
    cluster: Cluster,
    chronicle: Chronicle,
    /// Who is to stay dead until asked for.
    held_down: BTreeSet<usize>,
    /// Who was being brought back when the primary died.
    unfinished: Option<usize>,
}

impl Troupe {
    /// Obeys and supervises until the end; an unfinished deed is given up then.
    async fn direct(mut self, mut orders: mpsc::Receiver<Order>, mut end: watch::Receiver<bool>) -> Result<()> {
        tokio::select! {
            () = self.work(&mut orders) => {}
            _ = end.wait_for(|ended| *ended) => {}
        }
        self.cluster.shutdown().await
    }

    async fn work(&mut self, orders: &mut mpsc::Receiver<Order>) {
        loop {
            let order = tokio::time::timeout(WATCH_INTERVAL, orders.recv()).await;
            let outcome = match order {
                Ok(Some(Order::FailOver)) => self.fail_over().await,
                Ok(Some(Order::ToggleReplica)) => self.toggle_replica().await,
                Ok(None) => return std::future::pending().await,
                Err(_) => self.supervise().await,
            };
            if let Err(error) = outcome {
                self.chronicle.tell(format!("failed: {error:#}"));
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
        }
    }

    async fn fail_over(&mut self) -> Result<()> {
        if let Some(dead) = self.held_down.first() {
            // What a dead replica alone has received would be lost, and nobody could promise anything.
            let name = self.name(*dead);
            self.chronicle.tell(format!("no failover while {name} is down: it may have what the others lack"));
            return Ok(());
        }
        let old = self.cluster.primary();
        self.chronicle.tell(format!("kill -9 of the primary {}", self.name(old)));
        self.promote(old).await
    }

    /// Has somebody take over from a primary that is dead or dies now, and brings it back.
    async fn promote(&mut self, old: usize) -> Result<()> {
        let at = Instant::now();
        // Of a postmaster that was killed alone, the orphans go on for a while.
        self.cluster.kill(old).await?;
        let new = match (self.cluster.promote_best().await, self.unfinished.take()) {
            (Ok(new), _) => new,
            (Err(error), None) => return Err(error.context("cannot promote a replica")),
            // A second death in the middle of a return: who is half back may never be able to answer.
            (Err(_), Some(half_back)) => {
                self.chronicle.tell(format!("{} was not back yet, and is left out", self.name(half_back)));
                self.cluster.kill(half_back).await?;
                self.cluster.promote_best().await.context("cannot promote a replica")?
            }
        };
        let promoted_after = at.elapsed();
        self.chronicle.tell(format!("{} is the primary after {} ms", self.name(new), promoted_after.as_millis()));
        {
            let mut pages = self.chronicle.read();
            if pages.failovers.len() == FAILOVERS_MAX {
                pages.failovers.pop_front();
            }
            pages.failovers.push_back(Failover { at, promoted_after, rejoined_after: None });
        }
        tokio::time::sleep(REJOIN_PAUSE).await;
        let began = Instant::now();
        if !self.rejoin(old).await? {
            return Ok(());
        }
        if let Some(last) = self.chronicle.read().failovers.back_mut() {
            last.rejoined_after = Some(began.elapsed());
        }
        self.chronicle.tell(format!(
            "{} is back, as a replica, after {} ms",
            self.name(old),
            began.elapsed().as_millis()
        ));
        Ok(())
    }

    async fn toggle_replica(&mut self) -> Result<()> {
        if let Some(dead) = self.held_down.pop_first() {
            return self.bring_back(dead).await;
        }
        let replica = (0..self.cluster.nodes().len())
            .find(|i| *i != self.cluster.primary() && self.cluster.nodes()[*i].is_running());
        let Some(replica) = replica else {
            self.chronicle.tell("there is no replica to kill".to_owned());
            return Ok(());
        };
        self.held_down.insert(replica);
        self.cluster.kill(replica).await?;
        self.chronicle.tell(format!("kill -9 of the replica {}", self.name(replica)));
        Ok(())
    }

    /// Looks for servers that somebody else has killed.
    async fn supervise(&mut self) -> Result<()> {
        let primary = self.cluster.primary();
        if !self.cluster.nodes()[primary].is_running() {
            if self.cluster.nodes().len() == 1 {
                return self.cluster.start_node(primary).await;
            }
            self.chronicle.tell(format!("the primary {} has died", self.name(primary)));
            return self.promote(primary).await;
        }
        let dead = (0..self.cluster.nodes().len())
            .find(|i| !self.held_down.contains(i) && !self.cluster.nodes()[*i].is_running());
        match dead {
            Some(dead) => {
                self.chronicle.tell(format!("the replica {} has died", self.name(dead)));
                tokio::time::sleep(REJOIN_PAUSE).await;
                self.bring_back(dead).await
            }
            None => Ok(()),
        }
    }

    async fn bring_back(&mut self, replica: usize) -> Result<()> {
        if self.rejoin(replica).await? {
            self.chronicle.tell(format!("{} is back", self.name(replica)));
        }
        Ok(())
    }

    /// Brings a server back; `false` when the primary has died meanwhile, which is more urgent.
    async fn rejoin(&mut self, i: usize) -> Result<bool> {
        let Some(primary) = self.cluster.nodes()[self.cluster.primary()].pid() else { return Ok(false) };
        let outcome = tokio::select! {
            outcome = self.cluster.rejoin(i) => Some(outcome),
            () = death(primary) => None,
        };
        self.unfinished = if matches!(outcome, Some(Ok(()))) { None } else { Some(i) };
        match outcome {
            Some(outcome) => outcome.with_context(|| format!("cannot bring {} back", self.name(i))).map(|()| true),
            None => Ok(false),
        }
    }

    fn name(&self, i: usize) -> String {
        self.cluster.nodes()[i].name().to_owned()
    }
}

/// Waits until a process of ours has died. It may not have been reaped: the cluster, which would do that, is busy.
async fn death(pid: u32) {
    loop {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // "pid (comm) state ...": a comm may hold spaces and brackets.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        if matches!(state, None | Some('Z' | 'X')) {
            return;
        }
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// Orders that wait while another is carried out; keys pressed beyond that are ignored.
const ORDERS_MAX: usize = 2;

/// Events that are remembered.
const EVENTS_MAX: usize = 50;

/// Failovers that are remembered.
const FAILOVERS_MAX: usize = 20;

/// How often the servers are looked at.
const WATCH_INTERVAL: Duration = Duration::from_millis(200);

/// How long a dead server stays dead, so that it can be seen.
const REJOIN_PAUSE: Duration = Duration::from_secs(3);

/// The pause after a failure that would be met again at once.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
