//! LISTEN for clients whose server connections change with every transaction.
//!
//! Owns, for a database and user, one connection to the primary that listens on every channel that a client of theirs wants; it
//! exists while there is such a channel, beside the pool. What it hears goes into the mailboxes of the clients that listen, in order,
//! and each client's own task delivers it between two transactions. When the connection is lost, another is made on whatever
//! is the primary then; what was sent in between is lost, as it is for a client of PostgreSQL's own whose connection ends, and
//! the listeners get a warning.
//!
//! A client hears what is sent from the moment its LISTEN is committed, as PostgreSQL has it. What lies between that and its task's
//! noticing is kept for it; what was sent before, and is still under way, is kept from it by asking the server once more and waiting
//! for the answer (a fence).

pub(crate) mod mailbox;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pool::{Connection, dial};
use session::Names;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use topology::NodeId;
use wire::backend::{self, Failure, Report, tag};
use wire::frame::{Frame, Header};
use wire::frontend;

use self::mailbox::Mailbox;
use crate::ask::ask;
use crate::route;
use crate::tenant::Tenant;

/// The channels of one database and user, and who listens on them.
#[derive(Default)]
pub(crate) struct Hub {
    shared: Mutex<Shared>,
    /// The channels have changed.
    news: Notify,
    delivered: AtomicU64,
}

#[derive(Default)]
struct Shared {
    channels: HashMap<String, Channel>,
    /// How often a connection was asked to listen on something.
    asked: u64,
    /// There is a task that keeps the connection.
    running: bool,
}

#[derive(Default)]
struct Channel {
    members: HashMap<u64, Member>,
    /// The connection listens on it.
    listens: bool,
    waiting: Vec<Waiter>,
}

/// Who waits for a connection to say that it listens, having been asked later than now.
struct Waiter {
    /// How often connections had been asked when it came.
    since: u64,
    answer: oneshot::Sender<Result<(), Failure>>,
}

struct Member {
    mailbox: Arc<Mailbox>,
    /// Its LISTEN has been committed.
    hears: bool,
}

/// One client's ears. Dropping them ends its listening.
pub(crate) struct Ears {
    client: u64,
    tenant: Arc<Tenant>,
    pub(crate) mailbox: Arc<Mailbox>,
    /// The channels that it is a member of.
    joined: BTreeSet<String>,
    /// What the session listened on when that was last looked at.
    settled: Names,
    /// Channels have been joined for a LISTEN that may not have been committed.
    unsettled: bool,
}

impl Hub {
    /// Clients that listen, and notifications delivered so far.
    pub(crate) fn figures(&self) -> (usize, u64) {
        let shared = lock(&self.shared);
        let listeners: HashSet<u64> =
            shared.channels.values().flat_map(|channel| channel.members.keys().copied()).collect();
        (listeners.len(), self.delivered.load(Ordering::Relaxed))
    }

    /// What the connection has to do next: channels to listen on and to leave. `None` when nobody listens any more, and the task
    /// that asks is to end.
    fn changes(&self, listening: &HashSet<String>) -> Option<(Vec<String>, Vec<String>)> {
        let mut shared = lock(&self.shared);
        if shared.channels.is_empty() {
            shared.running = false;
            return None;
        }
        let (channels, asked) = (&shared.channels, shared.asked);
        let wanted = channels.iter().filter(|(name, channel)| !listening.contains(*name) || channel.is_awaited(asked));
        let wanted = wanted.map(|(name, _)| name.clone()).collect();
        let unwanted = listening.iter().filter(|name| !channels.contains_key(*name)).cloned().collect();
        Some((wanted, unwanted))
    }

    /// The connection is asked to listen: whoever comes to wait from now on is not answered by what it says.
    fn note_asked(&self) {
        lock(&self.shared).asked += 1;
    }

    /// The connection listens on these, as it was asked to last.
    fn listens(&self, channels: &[String]) {
        let mut shared = lock(&self.shared);
        let asked = shared.asked;
        for name in channels {
            if let Some(channel) = shared.channels.get_mut(name) {
                channel.listens = true;
                let answered = channel.waiting.extract_if(.., |waiter| waiter.since < asked);
                // Whoever has gone is not interested.
                answered.for_each(|waiter| drop(waiter.answer.send(Ok(()))));
            }
        }
    }

    /// The server refuses one of these: they have to be asked for again.
    fn ask_again(&self, channels: &[String]) {
        let mut shared = lock(&self.shared);
        let asked = shared.asked;
        for name in channels {
            let waiting = shared.channels.get_mut(name).into_iter().flat_map(|channel| &mut channel.waiting);
            waiting.for_each(|waiter| waiter.since = asked);
        }
    }

    /// The server does not listen on this one: whoever waits for it is told why.
    fn refuse(&self, name: &str, failure: &Failure) {
        let channel = lock(&self.shared).channels.remove(name);
        for waiter in channel.into_iter().flat_map(|channel| channel.waiting) {
            let _ = waiter.answer.send(Err(failure.clone()));
        }
    }

    /// There is no connection for the time being; `failure` is why none could be made.
    fn is_deaf(&self, failure: Option<&Failure>) {
        let mut shared = lock(&self.shared);
        for channel in shared.channels.values_mut() {
            channel.listens = false;
            if let Some(failure) = failure {
                for waiter in channel.waiting.drain(..) {
                    let _ = waiter.answer.send(Err(failure.clone()));
                }
            }
        }
    }

    /// Listeners may have missed something.
    fn warn_all(&self) {
        let mut notice = Vec::new();
        backend::put_warning(
            &mut notice,
            "01000",
            "notifications may have been lost: the connection that listens was lost",
        );
        let shared = lock(&self.shared);
        let members = shared.channels.values().flat_map(|channel| &channel.members).filter(|(_, member)| member.hears);
        let mailboxes: HashMap<u64, &Arc<Mailbox>> =
            members.map(|(client, member)| (*client, &member.mailbox)).collect();
        mailboxes.values().for_each(|mailbox| mailbox.put(&notice));
    }

    /// A notification, as it came.
    fn dispatch(&self, frame: Frame<'_>) {
        // The sender's process, the channel, the payload.
        let name = frame.body().get(4..).and_then(|rest| rest.split(|byte| *byte == 0).next()).unwrap_or_default();
        let Ok(name) = std::str::from_utf8(name) else { return };
        let shared = lock(&self.shared);
        let Some(channel) = shared.channels.get(name) else { return };
        for member in channel.members.values() {
            if member.hears {
                member.mailbox.put(frame.whole);
                self.delivered.fetch_add(1, Ordering::Relaxed);
            } else {
                member.mailbox.put_unsettled(name, frame.whole);
            }
        }
    }
}

impl Channel {
    /// Somebody waits for it who came after the connection was asked last.
    fn is_awaited(&self, asked: u64) -> bool {
        self.waiting.iter().any(|waiter| waiter.since >= asked)
    }
}

impl Ears {
    pub(crate) fn new(client: u64, tenant: Arc<Tenant>) -> Ears {
        let (mailbox, joined, settled) = (Arc::default(), BTreeSet::new(), Names::default());
        Ears { client, tenant, mailbox, joined, settled, unsettled: false }
    }

    /// A LISTEN has been answered that may not have been committed: what is sent to the server next may commit it.
    pub(crate) fn are_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Sees to it that these channels, and those prepared for and not settled yet, are listened on; ready when they are. What was sent
    /// before is not heard, what is sent later is, once [`Ears::settle`] finds that the session listens. Without channels it cannot fail:
    /// a LISTEN that has been answered is not taken back.
    pub(crate) fn prepare(
        &mut self,
        channels: &[String],
        runtime: &Handle,
    ) -> impl Future<Output = Result<(), Failure>> + use<> {
        let hub = &self.tenant.hub;
        let mut answers = Vec::new();
        let mut shared = lock(&hub.shared);
        self.joined.extend(channels.iter().cloned());
        self.unsettled = true;
        let since = shared.asked;
        for name in &self.joined {
            let channel = shared.channels.entry(name.clone()).or_default();
            let member = || Member { mailbox: self.mailbox.clone(), hears: false };
            let hears = channel.members.entry(self.client).or_insert_with(member).hears;
            if !(hears && channel.listens) {
                let (answer, receiver) = oneshot::channel();
                channel.waiting.push(Waiter { since, answer });
                answers.push(receiver);
            }
        }
        if !shared.running && !shared.channels.is_empty() {
            shared.running = true;
            runtime.spawn(keep_listening(self.tenant.clone()));
        }
        drop(shared);
        hub.news.notify_one();
        let deadline = self.tenant.failover_deadline(Instant::now());
        let (mailbox, fallible) = (self.mailbox.clone(), !channels.is_empty());
        async move {
            for answer in answers {
                match tokio::time::timeout_at(deadline.into(), answer).await {
                    _ if !fallible => {}
                    Ok(Ok(result)) => result?,
                    Ok(Err(_)) | Err(_) => {
                        return Err(Failure::error("57P03", "cannot listen: there is no connection to the primary")
                            .hint("Try again later."));
                    }
                }
            }
            mailbox.fence();
            Ok(())
        }
    }

    /// Listens on what the session listens on, and on nothing else.
    pub(crate) fn settle(&mut self, channels: &Names) {
        if !self.unsettled && self.settled.is(channels) {
            return;
        }
        let listened: BTreeSet<String> = channels.iter().cloned().collect();
        let mut shared = lock(&self.tenant.hub.shared);
        for name in self.joined.difference(&listened) {
            leave(&mut shared, name, self.client);
        }
        for name in &listened {
            let channel = shared.channels.entry(name.clone()).or_default();
            let member = || Member { mailbox: self.mailbox.clone(), hears: true };
            channel.members.entry(self.client).or_insert_with(member).hears = true;
        }
        let heard = self.mailbox.settle(&listened);
        self.tenant.hub.delivered.fetch_add(heard, Ordering::Relaxed);
        drop(shared);
        self.tenant.hub.news.notify_one();
        self.joined = listened;
        self.settled = channels.clone();
        self.unsettled = false;
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        let mut shared = lock(&self.tenant.hub.shared);
        for name in &self.joined {
            leave(&mut shared, name, self.client);
        }
        drop(shared);
        self.tenant.hub.news.notify_one();
    }
}

fn leave(shared: &mut Shared, name: &str, client: u64) {
    if let Some(channel) = shared.channels.get_mut(name) {
        channel.members.remove(&client);
        if channel.members.is_empty() {
            shared.channels.remove(name);
        }
    }
}

/// A connection that listens.
struct Link {
    connection: Connection<()>,
    node: NodeId,
    received: Vec<u8>,
    listening: HashSet<String>,
    /// What it has been asked for, until it says that it does it.
    asked: Option<Asked>,
    /// It has refused several channels at once: each is asked for by itself, to know which.
    one_by_one: bool,
}

/// Channels to listen on and to leave, in one transaction.
struct Asked {
    wanted: Vec<String>,
    unwanted: Vec<String>,
    /// Why nothing came of it.
    failure: Option<Failure>,
}

/// Why a link ends.
enum Lost {
    /// Its connection has ended, or broke the protocol.
    Gone,
    /// It is not on the primary.
    Deposed,
}

/// Keeps a connection that listens, for as long as anybody wants it to.
async fn keep_listening(tenant: Arc<Tenant>) {
    let mut link: Option<Link> = None;
    let mut has_lost = false;
    loop {
        let listening = link.as_ref().map(|link| &link.listening);
        let Some((wanted, unwanted)) = tenant.hub.changes(listening.unwrap_or(&HashSet::new())) else { return };
        let Some(open) = &mut link else {
            match connect(&tenant).await {
                Ok(made) => link = Some(made),
                Err(failure) => {
                    tracing::warn!(database = %tenant.key.0, user = %tenant.key.1, message = %failure.message, "cannot listen");
                    // Somebody who waits for a primary goes on waiting, up to the failover timeout.
                    tenant.hub.is_deaf(Some(&failure).filter(|failure| failure.code != "57P03"));
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
            continue;
        };
        match open.turn(&tenant, wanted, unwanted).await {
            Ok(confirmed) => {
                if confirmed && std::mem::take(&mut has_lost) {
                    tenant.hub.warn_all();
                }
            }
            Err(lost) => {
                if matches!(lost, Lost::Gone) {
                    tenant.watcher.suspect(open.node);
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                link = None;
                has_lost = true;
                tenant.hub.is_deaf(None);
            }
        }
    }
}

async fn connect(tenant: &Tenant) -> Result<Link, Failure> {
    let node = tenant.watcher.snapshot().primary().map(|node| node.id);
    let node = node.ok_or_else(|| Failure::error("57P03", "cannot listen: there is no primary"))?;
    let target = tenant.pool(node).target().clone();
    let mut connection = dial(&target, (), 0).await.map_err(|error| route::refusal(&error))?;
    // It is idle by profession.
    let gone = |_| Failure::error("57P03", "cannot listen: the server was lost");
    tokio::time::timeout(target.timeout, ask(&mut connection.stream, PATIENCE, PATIENCE_ANSWER_MAX))
        .await
        .map_err(|_| Failure::error("57P03", "cannot listen: the server does not answer"))?
        .map_err(gone)?;
    Ok(Link { connection, node, received: Vec::new(), listening: HashSet::new(), asked: None, one_by_one: false })
}

impl Link {
    /// Asks for what has changed, and takes what comes. `true` when the server has confirmed what it was asked for.
    async fn turn(&mut self, tenant: &Tenant, mut wanted: Vec<String>, unwanted: Vec<String>) -> Result<bool, Lost> {
        if self.one_by_one {
            wanted.truncate(1);
            self.one_by_one = !wanted.is_empty();
        }
        if self.asked.is_none() && (!wanted.is_empty() || !unwanted.is_empty()) {
            let mut sql = String::new();
            for (word, channels) in [("UNLISTEN", &unwanted), ("LISTEN", &wanted)] {
                for channel in channels {
                    sql += &format!("{word} \"{}\";", channel.replace('"', "\"\""));
                }
            }
            let mut query = Vec::new();
            frontend::put_query(&mut query, &sql);
            tenant.hub.note_asked();
            self.connection.stream.write_all(&query).await.map_err(|_| Lost::Gone)?;
            self.asked = Some(Asked { wanted, unwanted, failure: None });
        }
        let (version, primary) = {
            let snapshot = tenant.watcher.snapshot();
            (snapshot.version, snapshot.primary().map(|node| node.id))
        };
        if primary.is_some_and(|primary| primary != self.node) {
            return Err(Lost::Deposed);
        }
        tokio::select! {
            read = self.connection.stream.read_buf(&mut self.received) => match read {
                Ok(length) if length > 0 => self.digest(&tenant.hub),
                _ => Err(Lost::Gone),
            },
            () = tenant.hub.news.notified() => Ok(false),
            _ = tenant.watcher.changed(version) => Ok(false),
        }
    }

    fn digest(&mut self, hub: &Hub) -> Result<bool, Lost> {
        let (mut taken, mut confirmed) = (0, false);
        loop {
            let rest = &self.received[taken..];
            match Header::peek(rest) {
                Ok(Some(header)) if header.length > MESSAGE_MAX => return Err(Lost::Gone),
                Err(_) => return Err(Lost::Gone),
                Ok(_) => {}
            }
            let Ok(Some(frame)) = Frame::take(rest) else { break };
            match frame.tag {
                tag::NOTIFICATION_RESPONSE => hub.dispatch(frame),
                tag::ERROR_RESPONSE => {
                    let report = Report::new(frame.body());
                    match &mut self.asked {
                        // A name that the database's encoding does not have, say.
                        Some(asked) if !report.is_fatal() => {
                            let code = report.sqlstate().map(|code| code.as_str().to_owned());
                            let code = REFUSALS.into_iter().find(|known| code.as_deref() == Some(*known));
                            asked.failure = Some(Failure::error(code.unwrap_or("57P03"), report.message()));
                        }
                        _ => return Err(Lost::Gone),
                    }
                }
                tag::READY_FOR_QUERY => match self.asked.take() {
                    Some(Asked { wanted, failure: Some(failure), .. }) => match &*wanted {
                        [name] => hub.refuse(name, &failure),
                        _ if self.one_by_one || wanted.is_empty() => return Err(Lost::Gone),
                        _ => {
                            hub.ask_again(&wanted);
                            self.one_by_one = true;
                        }
                    },
                    Some(Asked { wanted, unwanted, failure: None }) => {
                        self.listening.retain(|channel| !unwanted.contains(channel));
                        hub.listens(&wanted);
                        self.listening.extend(wanted);
                        confirmed = true;
                    }
                    None => {}
                },
                _ => {}
            }
            taken += frame.whole.len();
        }
        self.received.drain(..taken);
        Ok(confirmed)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Bytes of any message to a listener: a payload has less than 8,000.
const MESSAGE_MAX: usize = 64 * 1024;

/// Codes that an error of LISTEN is told with: a name that cannot be converted, memory, a full disk, and what an administrator forbids.
const REFUSALS: [&str; 6] = ["22P05", "22021", "53200", "53100", "42501", "54000"];

/// The pause before another connection is tried.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Takes away the time limit for idle sessions, where there is one (PostgreSQL 14).
const PATIENCE: &str = "SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings \
                        WHERE name OPERATOR(pg_catalog.=) 'idle_session_timeout'";
const PATIENCE_ANSWER_MAX: usize = 64 * 1024;
