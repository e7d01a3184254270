//! One client's life: from its first byte to its last. The file to read first.
//!
//! A client logs in (`login`), and then says what it wants, again and again: its frames are gathered by its session until they
//! make a request, the request is given a server (`route`), and the relay (`relay`) pumps until that server is free again. What
//! cannot be done on one server is done on another, as long as nothing of an answer has been let go. Between two requests a
//! client holds no buffer.

mod hearing;
mod passage;

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use classifier::{Classifier, Options};
use pool::{Lease, Stream};
use session::{Intent, Loss, RetryReason, Role, ServerMemory, Session, Step, Transaction};
use tokio::io::AsyncWrite;
use topology::{NodeId, Trail};
use wire::frontend;

use crate::abandon::abandon;
use crate::again::{Tries, leave};
use crate::books::{Books, timed};
use crate::buffers::Inbox;
use crate::cancel::{self, Flights, Registered};
use crate::console;
use crate::listen::Ears;
use crate::login::{self, Caller, Entrance, Welcome};
use crate::outcome::{Gone, Outcome};
use crate::pins::Pins;
use crate::relay::{Place, relay};
use crate::reset::reset;
use crate::resolution;
use crate::rooms::Rooms;
use crate::route::{self, Missed, Taken, Wanted};
use crate::service::Tenant;
use crate::waiting;
use crate::worker::{Presence, Slot, Worker};

pub(crate) use passage::Passage;

/// A client that has logged in: what its session (which is pure) does not hold.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) stream: Stream,
    /// What it has sent and nobody has taken; without memory while it is idle.
    pub(crate) inbox: Inbox,
    /// The largest message that it may send.
    pub(crate) packet_max: usize,
    /// Bytes still to come of a message that nobody wants any more.
    pub(crate) skip: usize,
    /// What it has to be sent before anything else.
    pub(crate) unsent: Vec<u8>,
    pub(crate) tenant: Arc<Tenant>,
    /// By whom its statements are judged.
    pub(crate) classifier: Arc<Classifier>,
    pub(crate) worker: Rc<Worker>,
    pub(crate) slot: Rc<Slot>,
    pub(crate) books: Books,
    last_write: Option<Instant>,
    /// What it has read.
    pub(crate) trail: Option<Trail>,
    /// What its application has called itself when it logged in.
    application_name: Arc<str>,
    /// The replica that has served it last.
    node: Option<NodeId>,
    /// How often it has changed the catalogue, as far as others have been told.
    definitions: u64,
    /// What it hears on the channels that it listens on; without, it has never listened.
    pub(crate) ears: Option<Box<Ears>>,
    /// The pins that have been counted.
    pub(crate) pins: Pins,
    /// When its transaction began, in its eyes.
    pub(crate) transaction_since: Option<Instant>,
}

/// Serves one connection to its end.
pub(crate) fn serve(stream: Stream, caller: Caller, worker: Rc<Worker>) -> impl Future<Output = ()> {
    // On the heap, as all that is rare: an idle client's task has room for all that it is given and may await in place.
    let arrival = Box::pin(arrive(stream, caller, worker));
    async move {
        let Some(guest) = arrival.await else { return };
        stay(guest).await;
    }
}

/// Serves a client that has logged in, to its end or until it goes over to another worker.
pub(crate) async fn stay(mut guest: Box<Guest>) {
    let gone = loop {
        let intent = match guest.rest().await {
            Ok(intent) => intent,
            Err(Gone::Elsewhere(crossing)) => return guest.go_elsewhere(crossing),
            Err(gone) => break gone,
        };
        let (back, gone) = Rooms::serve(guest, intent).await;
        guest = back;
        if let Some(gone) = gone {
            break gone;
        }
    };
    let client = &mut guest.client;
    tracing::debug!(client = client.id, ?gone, "client left");
    client.pins.note(&[], &client.worker.counters);
    client.worker.spares.give_inbox(&mut client.inbox);
    Box::pin(client.say_goodbye(&gone)).await;
}

/// Lets a connection in. `None` when it is over: it was refused, or no session's.
async fn arrive(stream: Stream, caller: Caller, worker: Rc<Worker>) -> Option<Box<Guest>> {
    let presence = worker.enter();
    match login::log_in(stream, caller, &worker, &presence).await? {
        Entrance::Session(welcome) => return Some(Guest::new(welcome, presence, worker)),
        Entrance::Replication(tunnel, stream, received) => {
            Box::pin(tunnel.run(stream, received, &presence.slot)).await;
        }
        Entrance::Console(visitor) => {
            let visit = Box::pin(console::serve(*visitor, &worker));
            tokio::select! {
                () = presence.slot.killed() => {}
                () = visit => {}
            }
        }
    }
    None
}

/// A client, its session, and the key by which what it runs is cancelled.
pub(crate) struct Guest {
    client: Client,
    session: Box<Session>,
    cancel: Registered,
    /// Until all else is gone.
    presence: Presence,
}

impl Guest {
    /// Who has just logged in. Not in the task: that keeps room for all that it has ever held.
    fn new(welcome: Welcome, presence: Presence, worker: Rc<Worker>) -> Box<Guest> {
        let slot = presence.slot.clone();
        let Welcome { stream, peer, inbox, tenant, session, cancel, application_name } = welcome;
        slot.standing.enter(tenant.key.clone(), application_name.clone(), peer, &stream);
        tenant.lore().greet(Instant::now(), worker.service.config().routing.catalog_refresh);
        let client = Client { inbox, ..Client::new(stream, tenant, application_name, worker, slot) };
        tracing::debug!(client = client.id, "client logged in");
        Box::new(Guest { client, session, cancel, presence })
    }

    /// Waits for the next request, unless the client is killed.
    async fn rest(&mut self) -> Result<Intent, Gone> {
        let Guest { client, session, .. } = self;
        let slot = client.slot.clone();
        slot.unless_killed(pin!(client.converse(session))).await.unwrap_or(Err(Gone::Killed))
    }

    /// Serves a request, likewise: who holds a server is told by its request, which sees to what runs there. `Some` when the client is
    /// gone.
    pub(crate) async fn request(&mut self, intent: &Intent) -> Option<Gone> {
        let Guest { client, session, cancel, .. } = self;
        let slot = client.slot.clone();
        slot.unless_killed(pin!(client.request(session, intent, cancel))).await.unwrap_or(Some(Gone::Killed))
    }

    /// Where its requests are served.
    pub(crate) fn rooms(&self) -> &Rooms {
        &self.client.worker.rooms
    }
}

impl Client {
    fn new(
        stream: Stream,
        tenant: Arc<Tenant>,
        application_name: Arc<str>,
        worker: Rc<Worker>,
        slot: Rc<Slot>,
    ) -> Client {
        Client {
            id: slot.id,
            stream,
            inbox: Inbox::default(),
            packet_max: worker.service.config().proxy.max_packet_size,
            skip: 0,
            unsent: Vec::new(),
            classifier: tenant.lore().classifier(),
            tenant,
            worker,
            slot,
            books: Books::new(Instant::now()),
            last_write: None,
            trail: None,
            application_name,
            node: None,
            definitions: 0,
            ears: None,
            pins: Pins::default(),
            transaction_since: None,
        }
    }

    /// Takes what the client says until it makes a request. Waits without a buffer; what was not sent yet is sent first.
    async fn converse(&mut self, session: &mut Session) -> Result<Intent, Gone> {
        loop {
            session.take_output(&mut self.unsent);
            if let Some(intent) = session.backlog() {
                return Ok(intent);
            }
            // In a block of its own: what the step holds is not kept while something is waited for.
            let listens = {
                let Some(step) = self.take_step(session)? else {
                    self.time_rest(session);
                    self.flush().await?;
                    self.worker.rooms.take_back(session);
                    if let Some(crossing) = self.sent_away(session) {
                        return Err(Gone::Elsewhere(crossing));
                    }
                    poll_fn(|context| self.poll_fill(session.hears(), context)).await?;
                    continue;
                };
                match step {
                    Step::Request(intent) => return Ok(intent),
                    Step::Terminate => return Err(Gone::Terminated),
                    Step::Listen => true,
                    Step::Answered => false,
                    Step::Gathering | Step::Copy | Step::Later => continue,
                }
            };
            if listens {
                match Box::pin(self.prepare_to_listen(session.channels_wanted())).await {
                    Ok(()) => drop(session.listened()),
                    Err(failure) => session.refuse(&failure),
                }
            } else if self.may_begin_to_listen(session) {
                drop(Box::pin(self.prepare_to_listen(&[])).await);
            }
            self.settle(session);
        }
    }

    /// The next thing that the client wants, as far as it has said so.
    fn take_step(&mut self, session: &mut Session) -> Result<Option<Step>, Gone> {
        if session.hears() {
            self.hear()?;
        }
        let skipped = self.skip.min(self.inbox.unread().len());
        self.inbox.consume(skipped);
        self.skip -= skipped;
        loop {
            let taken = frontend::take(self.inbox.unread(), self.packet_max);
            let Some(frame) = taken.map_err(|error| Gone::Violation(error.into()))? else { return Ok(None) };
            let length = frame.whole.len();
            self.note_frame(frame.tag);
            if session.is_between() && self.classifier.version() != self.tenant.lore().version() {
                self.classifier = self.tenant.lore().classifier();
                session.reclassify(&self.classifier);
            }
            self.worker.rooms.lend(session);
            let step = session.on_client(frame, &self.classifier).map_err(Gone::Violation)?;
            self.inbox.consume(length);
            if step != Step::Gathering {
                return Ok(Some(step));
            }
        }
    }

    /// Sends what has not been sent yet.
    pub(crate) fn flush(&mut self) -> impl Future<Output = Result<(), Gone>> {
        poll_fn(|context| self.poll_flush(context))
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.unsent) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Gone::Vanished)),
                Poll::Ready(Ok(length)) if length < self.unsent.len() => drop(self.unsent.drain(..length)),
                Poll::Ready(Ok(_)) => self.unsent = Vec::new(),
                // A client that does not read is told more and more all the same.
                Poll::Pending => {
                    return match (self.slot.overdue(context), &mut self.ears) {
                        (Some(overdue), _) => Poll::Ready(Err(Gone::Overdue(overdue))),
                        (None, Some(ears)) => ears.mailbox.poll_overflow(context).map(|()| Err(Gone::Overflowed)),
                        (None, None) => Poll::Pending,
                    };
                }
            }
        }
        if !self.stream.needs_flush() {
            return Poll::Ready(Ok(()));
        }
        match self.slot.overdue(context) {
            Some(overdue) => Poll::Ready(Err(Gone::Overdue(overdue))),
            None => Pin::new(&mut self.stream).poll_flush(context).map_err(|_| Gone::Vanished),
        }
    }

    /// Waits for bytes from the client, or for something that it is to be told, if it `hears`.
    fn poll_fill(&mut self, hears: bool, context: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        let Client { stream, inbox, worker, slot, ears, .. } = self;
        if slot.is_dismissed() {
            // Not in the middle of an answer that it is slow to take.
            stream.settle();
            return Pin::new(stream).poll_flush(context).map(|_| Err(Gone::Cut));
        }
        if hears && ears.as_ref().is_some_and(|ears| ears.mailbox.poll_mail(context).is_ready()) {
            return Poll::Ready(Ok(()));
        }
        if let Some(overdue) = slot.overdue(context) {
            return Poll::Ready(Err(Gone::Overdue(overdue)));
        }
        if inbox.is_bare() {
            *inbox = worker.spares.inbox();
        } else if inbox.is_full() {
            worker.spares.grow(inbox);
        }
        match inbox.poll_fill(stream, context) {
            Poll::Ready(Ok(length)) if length > 0 => {
                self.books.received += length;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(_) => Poll::Ready(Err(Gone::Vanished)),
            Poll::Pending => {
                if inbox.is_empty() {
                    worker.spares.give_inbox(inbox);
                }
                Poll::Pending
            }
        }
    }

    /// Between two transactions: what the session listens on holds from now on, and its pins are counted.
    pub(crate) fn settle(&mut self, session: &Session) {
        self.pins.note(session.pins(), &self.worker.counters);
        if let Some(ears) = &mut self.ears
            && session.transaction() == Transaction::None
        {
            ears.settle(session.channels());
        }
    }

    /// Runs a request, and whatever the client sends until the server is free again. `Some` when the client is gone.
    async fn request(&mut self, session: &mut Session, intent: &Intent, cancel: &Registered) -> Option<Gone> {
        // Earlier answers first; and a client that does not read them gets no server.
        if let Err(gone) = self.flush().await {
            return Some(gone);
        }
        self.keep_up(session);
        if self.may_begin_to_listen(session)
            && let Err(failure) = self.prepare_to_listen(session.channels_wanted()).await
        {
            session.refuse(&failure);
            self.settle(session);
            return None;
        }
        let mut tries = Tries::default();
        let now = Instant::now();
        self.note_request(now);
        self.time_request(now);
        session.date(now);
        let near = self.node.filter(|_| session.keeps_node());
        let mut wanted =
            Wanted::new(intent.need, self.classifier.version(), now, self.tenant.failover_deadline(now)).near(near);
        let mut begun = Some(now);
        // What the server had of the session that was lost in its transaction.
        let mut lost: Option<Box<ServerMemory>> = None;
        loop {
            let since = begun.take().unwrap_or_else(Instant::now);
            let (acquired, waited) = {
                // Pinned here: what is handed on is not copied.
                let search = pin!(route::acquire(self, &wanted, since));
                timed(since, cancel.unless_cancelled(search)).await
            };
            let served = waited.map(|since| self.note_wait(since));
            let acquired = match acquired {
                Ok(Err(gone)) => return Some(gone),
                Ok(Ok(acquired)) => acquired,
                Err(failure) => Err(Missed::Refused(failure)),
            };
            let (mut lease, mut taken) = match acquired {
                Ok(found) => found,
                Err(Missed::Superseded) => {
                    self.keep_up(session);
                    wanted.forget_nodes(self.classifier.version());
                    continue;
                }
                Err(Missed::Refused(failure)) => {
                    // A cancel request that comes now is too late, and not for the next wait.
                    drop(cancel.lower());
                    self.worker.counters.refused(&failure);
                    self.note_rest();
                    match lost {
                        None => session.refuse(&failure),
                        Some(_) => self.give_up_replay(session),
                    }
                    return None;
                }
            };
            self.worker.counters.routed(taken.role, intent.why);
            if let Some(now) = served {
                taken.burden.restart(now);
            }
            match &lost {
                None => session.attach(taken.role),
                Some(memory) => session.reattach(taken.role, memory, &mut lease.memory),
            }
            if taken.role == Role::Replica {
                self.node = Some(taken.node);
            }
            self.note_lease(&lease);
            cancel.aim(lease.cancel.as_ref());
            let reign =
                session.resolves_commits().then(|| resolution::reign(&self.tenant.watcher.snapshot())).flatten();
            let outcome = relay(self, session, &mut lease, Place { wanted: &wanted, taken: &taken }).await;
            let flights = cancel.lower();
            self.note_return(&lease);
            match outcome {
                Outcome::Free => {
                    if self.tenant.resets_always {
                        session.detach(&mut lease.memory);
                        if Box::pin(reset(&mut lease, &self.tenant.reset_query)).await.is_none() {
                            abandon(lease, false, self.worker.service.config().proxy.cancel_wait_timeout);
                            return None;
                        }
                    }
                    let now = self.books.answered;
                    self.give_back(session, lease, flights, now);
                    return None;
                }
                Outcome::Retry { reason, clean } => {
                    tracing::debug!(client = self.id, reason = reason.as_str(), node = %taken.node, "running a request again");
                    session.restart();
                    if clean {
                        self.give_back(session, lease, flights, Instant::now());
                    }
                    if !self.runs_again(session, &mut tries, reason, taken.node) {
                        return None;
                    }
                    self.reconsider(&mut wanted, reason, taken.node).await;
                    // Answers to requests ahead of the one that is run again.
                    if let Err(gone) = self.flush().await {
                        return Some(gone);
                    }
                }
                Outcome::Unresolved(commit) => {
                    let memory = leave(lease);
                    self.worker.counters.lost();
                    self.tenant.watcher.suspect(taken.node);
                    let goes_on = match Box::pin(self.resolve(session, commit, reign)).await {
                        Err(gone) => return Some(gone),
                        Ok(Loss::Retry) => self.runs_again(session, &mut tries, RetryReason::ServerLost, taken.node),
                        Ok(Loss::Replay) => {
                            lost = Some(Box::new(memory));
                            self.replays(session, &mut tries, taken.node)
                        }
                        Ok(Loss::Told | Loss::Close | Loss::Resolve(_)) => false,
                    };
                    if !goes_on {
                        return None;
                    }
                    wanted.wait_until(self.tenant.failover_deadline(Instant::now()));
                    self.reconsider(&mut wanted, RetryReason::ServerLost, taken.node).await;
                }
                Outcome::Replay => {
                    lost = Some(Box::new(leave(lease)));
                    self.worker.counters.lost();
                    if !self.replays(session, &mut tries, taken.node) {
                        return None;
                    }
                    wanted.wait_until(self.tenant.failover_deadline(Instant::now()));
                    self.reconsider(&mut wanted, RetryReason::ServerLost, taken.node).await;
                    if let Err(gone) = self.flush().await {
                        return Some(gone);
                    }
                }
                Outcome::Diverged => {
                    tracing::info!(client = self.id, node = %taken.node, "a transaction that was run again was answered otherwise");
                    abandon(lease, true, self.worker.service.config().proxy.cancel_wait_timeout);
                    self.note_write(session);
                    self.settle(session);
                    return None;
                }
                Outcome::Lost => {
                    self.note_read(&taken, Instant::now());
                    self.worker.counters.lost();
                    tracing::info!(client = self.id, node = %taken.node, "lost a server in the middle of a request or transaction");
                    self.tenant.watcher.suspect(taken.node);
                    self.note_write(session);
                    self.settle(session);
                    return None;
                }
                Outcome::Gone(gone) => {
                    // A session at rest can be wiped off its server; any other takes the server with it.
                    if matches!(gone, Gone::Terminated | Gone::Vanished)
                        && session.is_quiet()
                        && session.transaction() == Transaction::None
                        && flights.is_none()
                        && session.is_synced()
                        && Box::pin(reset(&mut lease, &self.tenant.reset_query)).await.is_some()
                    {
                        lease.release(Instant::now());
                    } else {
                        let busy = !session.is_quiet() && !matches!(gone, Gone::Broken);
                        abandon(lease, busy, self.worker.service.config().proxy.cancel_wait_timeout);
                    }
                    // In the middle of an answer nothing can be said.
                    let is_told = !matches!(gone, Gone::Killed) || session.is_quiet();
                    return Some(if is_told { gone } else { Gone::Cut });
                }
            }
        }
    }

    /// Goes over to the configuration in force. The session keeps what it has set itself.
    fn keep_up(&mut self, session: &mut Session) {
        if self.tenant.is_superseded() {
            let next = self.worker.service.successor(&self.tenant);
            session.adopt(next.policy_of(&self.application_name));
            if !Arc::ptr_eq(&self.tenant.cluster, &next.cluster) {
                // The nodes have other numbers.
                self.trail = self.trail.map(|trail| Trail { node: NOWHERE, ..trail });
            }
            if !Arc::ptr_eq(self.tenant.lore(), next.lore()) {
                // Another database: what was judged by the old one's version is not to be taken for the new one's.
                self.classifier = Arc::new(Classifier::new(Options { version: 0, ..Options::default() }));
            }
            self.tenant = next;
            // Its number may be another's.
            self.node = None;
            if self.ears.take().is_some() {
                // They are the old tenant's.
                let channels: Vec<String> = session.channels().iter().cloned().collect();
                drop(self.prepare_to_listen(&channels));
                self.settle(session);
            }
        }
    }

    fn give_back(
        &self,
        session: &mut Session,
        mut lease: Lease<ServerMemory>,
        flights: Option<Arc<Flights>>,
        now: Instant,
    ) {
        session.detach(&mut lease.memory);
        match flights {
            None => lease.release(now),
            // A cancel request on its way would hit whoever has the server next.
            Some(flights) => cancel::release_after(flights, lease),
        }
    }

    /// What waits for a server, and what is looked at meanwhile.
    pub(crate) fn split(&mut self) -> (&Tenant, waiting::Presence<'_>) {
        let Client { tenant, stream, inbox, slot, worker, .. } = self;
        (tenant, waiting::Presence { stream, inbox, slot, worker })
    }

    /// The session has read something, until now.
    pub(crate) fn note_read(&mut self, taken: &Taken, now: Instant) {
        if taken.leaves_trail {
            self.trail = Some(Trail { node: taken.node, until: now });
        }
    }

    /// A write may have been acknowledged: others who want to see everybody's writes need to know when. One that changes what statements
    /// are concerns everybody.
    pub(crate) fn note_write(&mut self, session: &Session) {
        let last_write = session.last_write();
        if self.last_write != last_write {
            self.last_write = last_write;
            if let Some(moment) = last_write {
                self.tenant.note_write(moment);
            }
        }
        if self.definitions != session.definitions() {
            self.definitions = session.definitions();
            self.tenant.lore().suspect();
        }
    }
}

/// No node.
const NOWHERE: NodeId = NodeId(u16::MAX);

#[cfg(test)]
mod tests {
    use super::*;

    fn task_bytes<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_client_has_a_small_task() {
        // What tokio adds makes 256 of it; one more, and it is 384, for each of ten thousand.
        assert!(task_bytes(|(stream, caller, worker)| serve(stream, caller, worker)) <= 152);
        assert!(task_bytes(stay) <= 152);
    }
}
