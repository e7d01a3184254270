//! Owns what is done to the cluster, and the direct prober that notes when its servers accept writes.

use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::ValueEnum;
use cluster::Managed;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_postgres::{Config, NoTls};

use crate::stacks::{self, NOBODY};
use crate::work::Gap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Event {
    /// Patroni hands the leadership over.
    Switchover,
    /// kill -9 of the primary's postmaster.
    Postmaster,
    /// kill -9 of the primary and its Patroni.
    Node,
    /// SIGSTOP of the primary and its Patroni for 75 s.
    Freeze,
    /// kill -9 of a replica and its Patroni.
    Replica,
    /// SIGSTOP of a replica and its Patroni for 20 s.
    ReplicaFreeze,
    /// kill -9 of etcd for 25 s: Patroni demotes the primary until it is back.
    Dcs,
    /// The proxies' packets to the primary are dropped for 20 s.
    CutPrimary,
    /// The proxies' packets to a replica are dropped for 20 s.
    CutReplica,
    /// The proxies' packets to etcd and Patroni are dropped for 20 s.
    CutDcs,
    /// The primary and its Patroni are cut off from everybody for 60 s: another takes over.
    IsolatePrimary,
    /// A replica and its Patroni are cut off from everybody for 20 s.
    IsolateReplica,
    /// etcd is cut off from everybody for 25 s: Patroni demotes the primary until it is back.
    IsolateDcs,
}

impl Event {
    /// What the table calls it.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Event::Switchover => "Patroni switchover",
            Event::Postmaster => "kill -9 of the primary's postmaster",
            Event::Node => "kill -9 of the primary's node",
            Event::Freeze => "freeze of the primary's node, 75 s",
            Event::Replica => "kill -9 of a replica's node",
            Event::ReplicaFreeze => "freeze of a replica's node, 20 s",
            Event::Dcs => "etcd dead, 25 s",
            Event::CutPrimary => "proxies cut off from the primary, 20 s",
            Event::CutReplica => "proxies cut off from a replica, 20 s",
            Event::CutDcs => "proxies cut off from etcd and Patroni, 20 s",
            Event::IsolatePrimary => "primary's node cut off from everybody, 60 s",
            Event::IsolateReplica => "replica's node cut off from everybody, 20 s",
            Event::IsolateDcs => "etcd cut off from everybody, 25 s",
        }
    }

    /// Whether packets have to be dropped for it.
    pub(crate) fn needs_root(self) -> bool {
        match self {
            Event::CutPrimary | Event::CutReplica | Event::CutDcs => true,
            Event::IsolatePrimary | Event::IsolateReplica | Event::IsolateDcs => true,
            Event::Switchover | Event::Postmaster | Event::Node | Event::Freeze => false,
            Event::Replica | Event::ReplicaFreeze | Event::Dcs => false,
        }
    }

    /// Does it, and undoes it; returns when the cluster is whole again, with its leader.
    pub(crate) async fn happen(self, cluster: &mut Managed, leader: usize) -> Result<usize> {
        let replica = (leader + 1) % cluster.members().len();
        match self {
            Event::Switchover => {
                // Where replication is synchronous, nobody else may take over.
                let query = "select application_name from pg_stat_replication where sync_state = 'sync'";
                let name = cluster.sql(leader, query).await?;
                let candidate = cluster.members().iter().position(|member| member.name == name);
                cluster.switchover(leader, candidate.unwrap_or(replica)).await?;
            }
            Event::Postmaster => cluster.kill_postmaster(leader)?,
            Event::Node => {
                cluster.kill(leader).await?;
                let deadline = Instant::now() + SUCCESSOR_WAIT;
                while cluster.leader().await.is_none() {
                    ensure!(Instant::now() < deadline, "nobody has taken over");
                    sleep(Duration::from_millis(200)).await;
                }
                sleep(PAUSE).await;
                cluster.start_member(leader)?;
            }
            Event::Freeze => {
                cluster.freeze(leader, true);
                sleep(Duration::from_secs(75)).await;
                cluster.freeze(leader, false);
                // What it says at once is what it believed before.
                sleep(PAUSE).await;
            }
            Event::Replica => {
                cluster.kill(replica).await?;
                sleep(Duration::from_secs(10)).await;
                cluster.start_member(replica)?;
            }
            Event::ReplicaFreeze => {
                cluster.freeze(replica, true);
                sleep(Duration::from_secs(20)).await;
                cluster.freeze(replica, false);
            }
            Event::Dcs => {
                cluster.kill_etcd();
                sleep(Duration::from_secs(25)).await;
                cluster.start_etcd().await?;
            }
            Event::CutPrimary => cut(&[cluster.members()[leader].port()], Whose::Proxies, CUT).await?,
            Event::CutReplica => cut(&[cluster.members()[replica].port()], Whose::Proxies, CUT).await?,
            Event::CutDcs => {
                let urls = cluster.members().iter().map(cluster::Member::url).chain([cluster.etcd().url()]);
                let ports: Vec<u16> = urls.filter_map(|url| url.rsplit(':').next()?.parse().ok()).collect();
                cut(&ports, Whose::Proxies, CUT).await?;
            }
            // Its replicas come to it.
            Event::IsolatePrimary => cut(&cluster.members()[leader].ports(), Whose::Everybody, DEMOTION).await?,
            Event::IsolateReplica => {
                let member = &cluster.members()[replica];
                let query =
                    format!("select client_port from pg_stat_replication where application_name = '{}'", member.name);
                let receiver = cluster.sql(leader, &query).await?;
                let ports: Vec<u16> = member.ports().into_iter().chain(receiver.parse().ok()).collect();
                cut(&ports, Whose::Everybody, CUT).await?;
            }
            Event::IsolateDcs => {
                let members = cluster.members().iter().map(|member| member.ports()[2]);
                let ports: Vec<u16> = members.chain([cluster.etcd().port()]).collect();
                cut(&ports, Whose::Everybody, Duration::from_secs(25)).await?;
            }
        }
        cluster.settled().await
    }
}

/// Rules of netfilter that drop packets, until it is dropped itself.
struct Cut(Vec<Vec<String>>);

/// Whose packets are dropped.
#[derive(Clone, Copy)]
enum Whose {
    /// What the proxies send.
    Proxies,
    /// All, to and from.
    Everybody,
}

async fn cut(ports: &[u16], whose: Whose, time: Duration) -> Result<()> {
    ensure!(stacks::is_root(), "cutting the network takes root");
    let rules = |port: &u16| match whose {
        Whose::Proxies => vec![format!("--dport {port} -m owner --uid-owner {NOBODY}")],
        Whose::Everybody => vec![format!("--dport {port}"), format!("--sport {port}")],
    };
    let words = |rule: String| format!("OUTPUT -o lo -p tcp {rule} -j DROP").split(' ').map(str::to_owned).collect();
    let cut = Cut(ports.iter().flat_map(rules).map(words).collect());
    for rule in &cut.0 {
        if !Command::new("iptables").arg("-A").args(rule).status()?.success() {
            bail!("iptables will not drop packets");
        }
    }
    sleep(time).await;
    Ok(())
}

impl Drop for Cut {
    fn drop(&mut self) {
        for rule in &self.0 {
            // One that was never made is not there.
            let _ = Command::new("iptables").arg("-D").args(rule).output();
        }
    }
}

/// Writes to every server directly, again and again.
pub(crate) struct Prober {
    accepted: Arc<Mutex<Gap>>,
    tasks: Vec<JoinHandle<()>>,
}

impl Prober {
    pub(crate) fn start(cluster: &Managed) -> Prober {
        let accepted = Arc::new(Mutex::new(Gap::new(Instant::now())));
        let one =
            |member: &cluster::Member| tokio::spawn(probe(stacks::client(member.port(), "postgres"), accepted.clone()));
        Prober { tasks: cluster.members().iter().map(one).collect(), accepted }
    }

    pub(crate) fn reset(&self) {
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner) = Gap::new(Instant::now());
    }

    /// The longest time in which no server accepted a write, and its end.
    pub(crate) fn gap(&self) -> Gap {
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn probe(config: Config, accepted: Arc<Mutex<Gap>>) {
    loop {
        if let Ok(Ok((client, connection))) = timeout(PROBE_WAIT, config.connect(NoTls)).await {
            let connection = tokio::spawn(connection);
            loop {
                match timeout(PROBE_WAIT, client.simple_query("insert into probed values (1)")).await {
                    Ok(Ok(_)) => {
                        accepted.lock().unwrap_or_else(PoisonError::into_inner).success(Instant::now());
                    }
                    Ok(Err(error))
                        if !error.is_closed() && error.as_db_error().is_some_and(|e| e.severity() == "ERROR") => {}
                    _ => break,
                }
                sleep(PROBE_PAUSE).await;
            }
            connection.abort();
        }
        sleep(PROBE_PAUSE).await;
    }
}

const PROBE_PAUSE: Duration = Duration::from_millis(10);
const PROBE_WAIT: Duration = Duration::from_secs(1);
const SUCCESSOR_WAIT: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_secs(5);
const CUT: Duration = Duration::from_secs(20);

/// Until the leader key has expired, and another has taken over.
const DEMOTION: Duration = Duration::from_secs(60);
