//! A real cluster with a watcher, and ways to wait for what the watcher should say.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::Cluster;
use topology::{Figures, Node, NodeId, NodeState, Options, Snapshot, Watcher, Writer};

/// A cluster and who watches it.
pub(crate) struct Scene {
    pub(crate) cluster: Cluster,
    pub(crate) watcher: Watcher,
}

impl Scene {
    /// Asynchronous replication, so that a replica may lag and a lone primary may write.
    pub(crate) async fn start(replicas: usize) -> Scene {
        let cluster = start_cluster(replicas).await;
        let watcher = Watcher::spawn(options(&cluster));
        Scene { cluster, watcher }
    }

    pub(crate) fn now(&self) -> Arc<Snapshot> {
        Arc::clone(&self.watcher.snapshot())
    }

    pub(crate) fn node(&self, i: usize) -> Node {
        self.now().nodes[i].clone()
    }

    pub(crate) fn figures(&self, i: usize) -> Figures {
        self.now().nodes[i].figures
    }

    /// Waits for a snapshot of which this holds.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let end = Instant::now() + PATIENCE;
        loop {
            let snapshot = self.now();
            if holds(&snapshot) {
                return snapshot;
            }
            assert!(
                Instant::now() < end,
                "waited {PATIENCE:?} in vain until {what}: {snapshot:#?}\n{}",
                self.logs().join("\n")
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until this node is a replica that provably has everything of before this call.
    pub(crate) async fn until_fresh(&self, i: usize) {
        let called = Instant::now();
        self.until(&format!("node {i} is fresh"), |snapshot| fresh_as_of(&snapshot.nodes[i]) >= Some(called)).await;
    }

    pub(crate) async fn until_writer(&self, i: usize, timeline: u32) -> Arc<Snapshot> {
        let what = format!("node {i} is the writer on timeline {timeline}");
        self.until(&what, |snapshot| writer(snapshot) == Some((id(i), timeline))).await
    }

    pub(crate) async fn until_state(&self, i: usize, name: &str) -> Arc<Snapshot> {
        self.until(&format!("node {i} is {name}"), |snapshot| snapshot.nodes[i].state.name() == name).await
    }

    /// Waits until both the writer and this node have been probed some more times: enough for a wrong conclusion to
    /// have been drawn.
    pub(crate) async fn several_probes(&self, nodes: &[usize]) {
        let before = self.now();
        self.until("there were several probes", |snapshot| {
            nodes.iter().all(|&i| snapshot.nodes[i].figures.probes >= before.nodes[i].figures.probes + SEVERAL)
        })
        .await;
    }

    /// The ends of the servers' logs, for whoever has to find out why a test failed.
    fn logs(&self) -> Vec<String> {
        let end_of = |text: String| text.lines().rev().take(LOG_LINES).map(str::to_owned).collect::<Vec<_>>();
        let nodes = self.cluster.nodes().iter();
        let logs = nodes.map(|node| (node.name(), end_of(std::fs::read_to_string(node.log()).unwrap_or_default())));
        logs.flat_map(|(name, lines)| lines.into_iter().rev().map(move |line| format!("{name}: {line}"))).collect()
    }

    pub(crate) async fn sql(&self, i: usize, script: &str) -> String {
        self.cluster.sql(i, script).await.expect("the server runs the script")
    }

    pub(crate) async fn end(self) {
        self.watcher.shutdown();
        self.cluster.shutdown().await.expect("the cluster ends");
    }
}

pub(crate) async fn start_cluster(replicas: usize) -> Cluster {
    // The WAL writer flushes what was committed asynchronously; at its own pace the tests would mostly wait for it.
    let settings = vec![("wal_writer_delay".to_owned(), "10ms".to_owned())];
    let options = cluster::Options { replicas, synchronous: false, settings, ..cluster::Options::default() };
    Cluster::start(options).await.expect("the cluster starts")
}

pub(crate) fn options(cluster: &Cluster) -> Options {
    Options {
        servers: cluster.nodes().iter().map(|node| (node.host().to_owned(), node.port())).collect(),
        user: cluster.options().user.clone(),
        password: Some(cluster.options().password.clone()),
        database: cluster.options().database.clone(),
        // A busy test machine may keep a healthy server waiting.
        probe_timeout: Duration::from_secs(3),
        ..Options::default()
    }
}

pub(crate) fn id(i: usize) -> NodeId {
    NodeId(u16::try_from(i).expect("tests have few nodes"))
}

pub(crate) fn writer(snapshot: &Snapshot) -> Option<(NodeId, u32)> {
    match &snapshot.writer {
        Writer::Known(epoch) => Some((epoch.primary, epoch.timeline)),
        Writer::None(_) => None,
    }
}

pub(crate) fn fresh_as_of(node: &Node) -> Option<Instant> {
    match node.state {
        NodeState::Replica { fresh_as_of, .. } => fresh_as_of,
        _ => None,
    }
}

/// Longer than any server takes on a busy machine; reached only by a failing test.
const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(5);

/// How much of a server's log a failed test shows.
const LOG_LINES: usize = 30;

/// How many probes are several.
const SEVERAL: u64 = 8;
