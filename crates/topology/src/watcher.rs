//! The tasks, and the handle that the rest of the program holds.
//!
//! One task per server probes it; one task tells the board and publishes. The handle reads what was published and
//! never waits for a probe unless asked to.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Guard};
use tokio::sync::{Notify, mpsc, watch};
use tracing::{debug, error, info, warn};

use crate::board::{Board, Report};
use crate::combine::LossKind;
use crate::dcs::Announcement;
use crate::name::Whereabouts;
use crate::options::Options;
use crate::probe::Prober;
use crate::snapshot::{NoPrimary, Node, NodeId, NodeState, Snapshot, Writer};
use crate::sources::SourceKind;

/// Watches the servers. Clones share the tasks; these end when the last clone is dropped or on [`Watcher::shutdown`].
#[derive(Clone)]
pub struct Watcher {
    inner: Arc<Inner>,
}

/// While it exists, servers are probed at the waiting pace.
#[must_use = "the faster pace ends when this is dropped"]
pub struct Waiting {
    shared: Arc<Shared>,
}

/// While it exists, nothing is begun on the node that was the primary when it was made.
#[must_use = "writes go on when this is dropped"]
pub struct Handover {
    handovers: Arc<watch::Sender<(usize, u64)>>,
}

/// Kept apart from [`Shared`], which the tasks hold too: dropping this stops them.
struct Inner {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
}

/// What the tasks and the handles have in common.
struct Shared {
    /// The publisher's; a watcher that takes this one's place reads it once.
    board: Mutex<Board>,
    current: ArcSwap<Snapshot>,
    /// Wakes those who wait for a newer version in the order in which they came; a `watch` would shuffle them.
    renewed: Notify,
    /// What the cluster manager has said last.
    announced: watch::Sender<Option<Announcement>>,
    /// How many [`Handover`] exist, and how many there have been.
    handovers: Arc<watch::Sender<(usize, u64)>>,
    /// How many [`Waiting`] exist.
    waiting: watch::Sender<usize>,
    servers: Box<[Server]>,
}

struct Server {
    suspected: Notify,
    whereabouts: Whereabouts,
    /// When the last probe that ended had begun.
    probed: watch::Sender<Option<Instant>>,
}

impl Watcher {
    /// Starts watching, on the current tokio runtime. The handle may be used from any other.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn(options: Options) -> Watcher {
        let board = Board::new(&options.servers, &managers(&options)).of_system(options.system_identifier);
        Watcher::start(options, board, Arc::new(watch::Sender::new((0, 0))))
    }

    /// Starts watching the same cluster in another way, in this one's place: with what this one has learnt of timelines, so that whoever was
    /// deposed stays so. This one goes on until it is shut down.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn succeed(&self, options: Options) -> Watcher {
        let heir = self.inner.shared.board().heir(&options.servers, &managers(&options));
        let board = heir.of_system(options.system_identifier);
        Watcher::start(options, board, Arc::clone(&self.inner.shared.handovers))
    }

    fn start(options: Options, board: Board, handovers: Arc<watch::Sender<(usize, u64)>>) -> Watcher {
        // Whoever was handing over still is, though another may be the primary before anything else is known.
        let handing_over = (board.hands_over(), handovers.borrow().1);
        let shared = Arc::new(Shared {
            current: ArcSwap::new(board.current()),
            renewed: Notify::new(),
            announced: watch::Sender::new(board.heard().cloned()),
            board: Mutex::new(board),
            handovers,
            waiting: watch::Sender::new(0),
            servers: options
                .servers
                .iter()
                .map(|_| Server {
                    suspected: Notify::new(),
                    whereabouts: Whereabouts::default(),
                    probed: watch::Sender::new(None),
                })
                .collect(),
        });
        let (stop, stopped) = watch::channel(false);
        let (news, inbox) = mpsc::channel(NEWS_MAX);
        for (id, (host, port)) in (0..).map(NodeId).zip(&options.servers) {
            let task = Task {
                id,
                prober: Prober::new(&options, host, *port, shared.servers[id.index()].whereabouts.clone()),
                shared: Arc::clone(&shared),
                news: news.clone(),
                interval: options.probe_interval,
                interval_waiting: options.probe_interval_waiting,
            };
            let stopped = stopped.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = stop_of(stopped) => {}
                    () = task.run() => {}
                }
            });
        }
        for (place, source) in options.sources.into_iter().enumerate() {
            let (stopped, news, waiting) = (stopped.clone(), news.clone(), shared.waiting.subscribe());
            tokio::spawn(async move {
                tokio::select! {
                    () = stop_of(stopped) => {}
                    () = source.run(place, news, waiting) => {}
                }
            });
        }
        // It ends when the probers and the sources have: their ends of the channel are the only ones.
        let publisher = Publisher { handing_over, shared: Arc::clone(&shared) };
        tokio::spawn(publisher.run(inbox));
        Watcher { inner: Arc::new(Inner { shared, stop }) }
    }

    /// The newest snapshot. Cheap; called for every statement.
    pub fn snapshot(&self) -> Guard<Arc<Snapshot>> {
        self.inner.shared.current.load()
    }

    /// Where the name of this node leads, as it changes: whoever connects to it goes to that address, if there is one.
    pub fn whereabouts(&self, node: NodeId) -> Whereabouts {
        self.inner.shared.servers[node.index()].whereabouts.clone()
    }

    /// Asks for a probe of this node at once: a server said 25006 or 57P01, or a connection broke. Never blocks; any
    /// number of calls before the probe begins make one probe.
    pub fn suspect(&self, node: NodeId) {
        if let Some(server) = self.inner.shared.servers.get(node.index()) {
            server.suspected.notify_one();
        }
    }

    /// Like [`Watcher::suspect`], and waits until a probe that began after this call has been taken into the snapshot.
    /// Takes about a round trip for a server that answers, up to the probe's timeout for one that does not.
    pub async fn reprobe(&self, node: NodeId) {
        let Some(server) = self.inner.shared.servers.get(node.index()) else { return };
        let called = Instant::now();
        let mut probed = server.probed.subscribe();
        self.suspect(node);
        // The sender lives in `shared`, which `self` holds.
        let _probed = probed.wait_for(|begun| begun.is_some_and(|begun| begun >= called)).await;
    }

    /// Waits for a snapshot of a newer version than this one. Who came first is woken first. The caller brings its own deadline.
    pub async fn changed(&self, seen_version: u64) {
        let shared = &self.inner.shared;
        loop {
            let renewed = shared.renewed.notified();
            if shared.current.load().version > seen_version {
                return;
            }
            renewed.await;
        }
    }

    /// What the cluster manager has said last, as it changes; `None` while nothing was heard.
    pub fn announced(&self) -> watch::Receiver<Option<Announcement>> {
        self.inner.shared.announced.subscribe()
    }

    /// The primary is about to be changed: nothing is begun there until another is the primary, or the returned guard is dropped. It holds for
    /// whatever watcher takes this one's place, too.
    pub fn hand_over(&self) -> Handover {
        let handovers = Arc::clone(&self.inner.shared.handovers);
        handovers.send_modify(|(count, begun)| (*count, *begun) = (*count + 1, *begun + 1));
        Handover { handovers }
    }

    /// Somebody waits for a primary or for freshness: probe at the waiting pace until the returned guard is dropped.
    pub fn wait_guard(&self) -> Waiting {
        let shared = Arc::clone(&self.inner.shared);
        shared.count_waiting(1);
        Waiting { shared }
    }

    /// Stops the tasks and closes their connections. The last snapshot stays readable.
    pub fn shutdown(&self) {
        self.inner.stop.send_replace(true);
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        self.handovers.send_modify(|(count, _)| *count -= 1);
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shared.count_waiting(-1);
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count_waiting(&self, change: isize) {
        self.waiting.send_if_modified(|count| {
            let before = *count;
            *count = count.saturating_add_signed(change);
            // Only the first and the last wake the probers; there may be thousands in between.
            (before == 0) != (*count == 0)
        });
    }
}

/// One server's prober and what it needs.
struct Task {
    id: NodeId,
    prober: Prober,
    shared: Arc<Shared>,
    news: mpsc::Sender<News>,
    interval: Duration,
    interval_waiting: Duration,
}

impl Task {
    /// Probes until nobody listens any more.
    async fn run(mut self) {
        let hung_up = self.prober.hung_up();
        let mut waiting = self.shared.waiting.subscribe();
        loop {
            let begun = Instant::now();
            let report = {
                let mut probe = pin!(self.prober.probe());
                loop {
                    tokio::select! {
                        biased;
                        // The news that a connection ended must not wait for the attempt that follows it.
                        () = hung_up.notified() => {
                            if self.news.send(News::Probed(self.id, Report::HungUp)).await.is_err() { return }
                        }
                        report = &mut probe => break report,
                    }
                }
            };
            let pause = match &report {
                Report::Lost(lost) if lost.kind == LossKind::Rejected => REJECTED_PAUSE,
                Report::Answered(_) | Report::Lost(_) | Report::HungUp => PAUSE_MIN,
            };
            if self.news.send(News::Probed(self.id, report)).await.is_err() {
                return;
            }
            let earliest = Instant::now() + pause;
            let mut asked_for = false;
            loop {
                let interval = if *waiting.borrow_and_update() > 0 { self.interval_waiting } else { self.interval };
                let due = if asked_for { earliest } else { earliest.max(begun + interval) };
                tokio::select! {
                    biased;
                    () = hung_up.notified() => {
                        if self.news.send(News::Probed(self.id, Report::HungUp)).await.is_err() { return }
                        asked_for = true;
                    }
                    () = self.shared.servers[self.id.index()].suspected.notified(), if !asked_for => asked_for = true,
                    _changed = waiting.changed() => {}
                    () = tokio::time::sleep_until(due.into()) => break,
                }
            }
        }
    }
}

/// What the board is told.
pub(crate) enum News {
    /// By a prober.
    Probed(NodeId, Report),
    /// By a source, by its place among them; nothing when it does not answer.
    Heard(usize, Option<Announcement>),
}

/// Tells the board, and publishes what that says.
struct Publisher {
    /// What the board has been told: whether there is one, and the number of those that began here.
    handing_over: (bool, u64),
    shared: Arc<Shared>,
}

impl Publisher {
    /// Publishes a snapshot for each of the news.
    async fn run(mut self, mut inbox: mpsc::Receiver<News>) {
        let mut handovers = self.shared.handovers.subscribe();
        let mut again: Option<Duration> = None;
        loop {
            let news = tokio::select! {
                news = inbox.recv() => match news {
                    Some(news) => Some(news),
                    None => return,
                },
                // Its sender lives in `shared`.
                _changed = handovers.changed() => None,
                // The moment of a planned handover has come, or passed.
                () = tokio::time::sleep(again.unwrap_or_default()), if again.is_some() => None,
            };
            let old = self.shared.current.load_full();
            let probed = match news {
                None => None,
                Some(News::Probed(id, report)) => {
                    self.shared.board().observe(id, report);
                    Some(id)
                }
                Some(News::Heard(place, said)) => {
                    self.hear(place, said);
                    None
                }
            };
            again = self.hand_over();
            let (new, shared) = (self.shared.board().current(), &self.shared);
            tell(&old, &new);
            // The snapshot first: whoever is woken by the version or the probe must find it.
            shared.current.store(Arc::clone(&new));
            if new.version != old.version {
                shared.renewed.notify_waiters();
            }
            if let Some(node) = probed.and_then(|id| new.node(id)) {
                shared.servers[node.id.index()].probed.send_replace(node.figures.probed_at);
            }
        }
    }

    /// Tells the board of handovers that begin or are over. Returns the time after which it has to be done again, if nothing happens.
    fn hand_over(&mut self) -> Option<Duration> {
        let judged = self.shared.board().judge_handover(Instant::now(), SystemTime::now());
        let (count, begun) = *self.shared.handovers.borrow();
        let now = (judged.holds || count > 0, begun);
        if now != self.handing_over {
            self.handing_over = now;
            self.shared.board().hand_over(now.0);
        }
        judged.again
    }

    fn hear(&self, place: usize, said: Option<Announcement>) {
        let heard = {
            let mut board = self.shared.board();
            board.hear(place, said);
            board.heard().cloned()
        };
        self.shared.announced.send_if_modified(|known| {
            let changed = *known != heard;
            // The last word stays when nobody answers any more: who was a member still is one.
            if changed && heard.is_some() {
                *known = heard;
            }
            changed
        });
    }
}

fn managers(options: &Options) -> Vec<SourceKind> {
    options.sources.iter().map(|source| source.kind.clone()).collect()
}

async fn stop_of(mut stopped: watch::Receiver<bool>) {
    // An error means that the last handle is gone, which is a stop too.
    let _stop = stopped.wait_for(|stop| *stop).await;
}

/// Logs what changed, once per change.
fn tell(old: &Snapshot, new: &Snapshot) {
    for (old, new) in old.nodes.iter().zip(&new.nodes) {
        tell_node(old, new);
    }
    if old.writer == new.writer {
        return;
    }
    match &new.writer {
        Writer::Known(epoch) => {
            info!(node = epoch.primary.0, timeline = epoch.timeline, "writes go to this node");
        }
        Writer::None(none @ (NoPrimary::SplitBrain { .. } | NoPrimary::Strangers { .. })) => {
            error!("no writes: {none}")
        }
        Writer::None(none @ NoPrimary::Handover { .. }) => info!("writes wait: {none}"),
        Writer::None(none @ NoPrimary::NotFound { .. }) => warn!("no writes: {none}"),
    }
}

fn tell_node(old: &Node, new: &Node) {
    let (node, host, port) = (new.id.0, &*new.host, new.port);
    match (&old.state, &new.state) {
        (NodeState::Unreachable { reason: old, .. }, NodeState::Unreachable { reason: new, .. }) if old == new => {}
        (_, NodeState::Unreachable { reason, .. }) => warn!(node, host, port, "unreachable: {reason}"),
        (NodeState::Fenced { cause: old, .. }, NodeState::Fenced { cause: new, .. }) if old == new => {}
        (_, NodeState::Fenced { cause, timeline, .. }) => warn!(node, host, port, timeline, "fenced: {cause}"),
        (old, NodeState::Primary { timeline, .. } | NodeState::Replica { timeline, .. })
            if old.name() != new.state.name() =>
        {
            info!(node, host, port, timeline, "{} -> {}", old.name(), new.state.name());
        }
        (NodeState::Replica { timeline: old, .. }, NodeState::Replica { timeline: new, .. }) if old != new => {
            info!(node, host, port, timeline = new, "follows a newer timeline");
        }
        (_, state) => debug!(node, host, port, state = state.name(), "probed"),
    }
}

/// How many of the news may wait for the board.
const NEWS_MAX: usize = 64;

/// The least pause between two probes of a server, so that a storm of suspicions cannot become a storm of probes.
const PAUSE_MIN: Duration = Duration::from_millis(2);

/// The pause after a server would not let the probe in: each try leaves a line in its log.
const REJECTED_PAUSE: Duration = Duration::from_secs(1);
