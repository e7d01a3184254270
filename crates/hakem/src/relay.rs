//! Lease in hand: bytes are pumped both ways until the server is free again.
//!
//! One task drives both sockets. What a message means is the session's to say; this file obeys. Each turn writes before it waits:
//! the request goes out at once, and so does each answer; the event loop is asked only when nothing moves any more.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use pool::Lease;
use session::{Intent, Loss, RetryReason, ServerMemory, Session, Step, Verdict};
use tokio::io::AsyncWrite;
use wire::backend::{Failure, Report, SqlState, tag};
use wire::frame::Header;
use wire::frontend;

use crate::buffers::{INBOX_BYTES, Inbox, Outgoing};
use crate::client::Client;
use crate::counters::Replayed;
use crate::outcome::{Gone, Outcome, Unresolved};
use crate::route::{self, Taken, Wanted};

/// Pumps until the lease ends. The session's request is encoded and sent first. What could not be written to the client at the
/// end is left in `client.unsent`.
pub(crate) async fn relay(
    client: &mut Client,
    session: &mut Session,
    lease: &mut Lease<ServerMemory>,
    place: Place<'_>,
) -> Outcome {
    let spares = &client.worker.clone().spares;
    let mut pump = Pump {
        to_server: spares.outbox(),
        sent: 0,
        from_server: spares.inbox(),
        outgoing: Outgoing::new(spares.outbox()),
        span: Span::None,
        answered: false,
        copy_span: 0,
        free: false,
        finished: None,
        preparing: None,
        client,
        session,
        lease,
        place,
    };
    pump.session.encode(&mut pump.lease.memory, &mut pump.to_server);
    pump.take_output();
    // What has come together goes out together.
    let outcome = match pump.take_client() {
        Ok(Intake::Goodbye) => Outcome::Gone(Gone::Terminated),
        Ok(_) => poll_fn(|context| pump.poll(context)).await,
        Err(violation) => Outcome::Gone(Gone::Violation(violation)),
    };
    let Pump { to_server, mut from_server, outgoing, client, copy_span, session, .. } = pump;
    let outcome = match outcome {
        Outcome::Unresolved(lost) => {
            let released = if session.may_flush() { outgoing.len() } else { outgoing.released() };
            Outcome::Unresolved(Unresolved { released, ..lost })
        }
        outcome => outcome,
    };
    client.skip = copy_span;
    if outgoing.is_empty() {
        spares.give_outbox(outgoing.into_rest(&from_server));
    } else {
        client.unsent = outgoing.into_rest(&from_server);
    }
    spares.give_outbox(to_server);
    spares.give_inbox(&mut from_server);
    outcome
}

/// Where a lease is, and what for.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) wanted: &'a Wanted,
    pub(crate) taken: &'a Taken,
}

struct Pump<'a> {
    client: &'a mut Client,
    session: &'a mut Session,
    lease: &'a mut Lease<ServerMemory>,
    /// What the lease is for.
    place: Place<'a>,
    to_server: Vec<u8>,
    /// How much of `to_server` has been written.
    sent: usize,
    from_server: Inbox,
    outgoing: Outgoing,
    span: Span,
    /// The first request of the lease has been answered.
    answered: bool,
    /// Bytes that are missing of a CopyData message on its way to the server.
    copy_span: usize,
    /// The server is free as soon as it has been sent what was begun.
    free: bool,
    /// How the lease ends once everything has been written.
    finished: Option<Outcome>,
    /// What the client has asked to listen on is being listened on; its request comes then.
    preparing: Option<Preparing>,
}

/// A request that waits for its channels to be listened on. On the heap: few clients ever do.
struct Preparing {
    channels: Pin<Box<dyn Future<Output = Result<(), Failure>>>>,
    step: Step,
}

/// The rest of a server's message that is larger than the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Span {
    None,
    Forward(usize),
    Swallow(usize),
}

impl Pump<'_> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Outcome> {
        let overdue = self.client.slot.overdue(context).map(Gone::Overdue);
        if let Some(gone) = overdue.or(self.client.slot.is_killed().then_some(Gone::Killed)) {
            // In the middle of a message nothing can be said.
            let cut = matches!(self.span, Span::Forward(_));
            return Poll::Ready(Outcome::Gone(if cut { Gone::Cut } else { gone }));
        }
        loop {
            let mut progress = false;
            // That something was sent is no reason for another turn: nothing of this one has waited for it.
            if self.poll_send(context).is_err() {
                return Poll::Ready(self.after_failed_send(context));
            }
            if self.finished.is_none() && self.has_room() {
                match self.from_server.poll_fill(&mut self.lease.stream, context) {
                    Poll::Ready(Ok(length)) if length > 0 => {
                        self.client.books.sent += length;
                        progress = true;
                        self.take_answers(Instant::now());
                    }
                    Poll::Ready(_) => self.lose(None),
                    Poll::Pending => {}
                }
            }
            // Whoever has lost a server looks at what there is to be told before it is.
            if let Some(Outcome::Lost | Outcome::Unresolved(_) | Outcome::Replay | Outcome::Diverged) = self.finished {
                return Poll::Ready(self.finished.take().unwrap_or(Outcome::Lost));
            }
            match self.poll_answer(context) {
                Poll::Ready(Ok(written)) => progress |= written,
                Poll::Ready(Err(_)) => return Poll::Ready(Outcome::Gone(Gone::Vanished)),
                // The server is free though the client is slow: the rest is written after the release.
                Poll::Pending => {}
            }
            if let Some(outcome) = self.finished.take() {
                return Poll::Ready(outcome);
            }
            if self.free && self.to_server.is_empty() && self.copy_span == 0 && self.from_server.is_empty() {
                return Poll::Ready(Outcome::Free);
            }
            progress |= self.poll_preparing(context);
            progress |= self.poll_mail(context);
            match self.poll_client(context) {
                Poll::Ready(Ok(taken)) => progress |= taken,
                Poll::Ready(Err(gone)) => return Poll::Ready(Outcome::Gone(gone)),
                Poll::Pending => {}
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    /// Writes to the server what it takes.
    fn poll_send(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while self.sent < self.to_server.len() {
            match Pin::new(&mut self.lease.stream).poll_write(context, &self.to_server[self.sent..]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(length)) => self.sent += length,
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => return Ok(()),
            }
        }
        self.to_server.clear();
        self.sent = 0;
        if self.lease.stream.needs_flush()
            && let Poll::Ready(flushed) = Pin::new(&mut self.lease.stream).poll_flush(context)
        {
            flushed?;
        }
        Ok(())
    }

    /// The server does not take what we send; it may have said why.
    fn after_failed_send(&mut self, context: &mut Context<'_>) -> Outcome {
        while self.finished.is_none() {
            self.outgoing.settle(&self.from_server);
            match self.from_server.poll_fill(&mut self.lease.stream, context) {
                Poll::Ready(Ok(length)) if length > 0 => self.take_answers(Instant::now()),
                _ => self.lose(None),
            }
        }
        self.finished.take().unwrap_or(Outcome::Lost)
    }

    /// Whether the server may be read: what it said before has been written, or is being held back on purpose.
    fn has_room(&mut self) -> bool {
        if self.outgoing.is_empty() {
            return true;
        }
        if self.session.may_flush() {
            return false;
        }
        if self.outgoing.len() > HELD_MAX {
            self.session.give_up_retry();
            return false;
        }
        self.outgoing.settle(&self.from_server);
        true
    }

    fn poll_answer(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.client.stream.needs_flush() {
            // Whatever becomes of it, the event loop knows that there is something to send.
            let _ = Pin::new(&mut self.client.stream).poll_flush(context)?;
        }
        let only_released = !self.session.may_flush() && self.finished.is_none();
        if self.outgoing.is_empty() || (only_released && !self.outgoing.has_released()) {
            return Poll::Ready(Ok(false));
        }
        self.outgoing.poll_write(only_released, &self.from_server, &mut self.client.stream, context)
    }

    /// Takes what the client has sent; `true` when something was done with it.
    fn poll_client(&mut self, context: &mut Context<'_>) -> Poll<Result<bool, Gone>> {
        let taken = self.take_client().map_err(Gone::Violation);
        if !matches!(taken, Ok(Intake::Nothing)) {
            return Poll::Ready(match taken {
                Ok(Intake::Goodbye) => Err(Gone::Terminated),
                Ok(_) => Ok(true),
                Err(gone) => Err(gone),
            });
        }
        if self.client.inbox.is_bare() {
            self.client.inbox = self.client.worker.spares.inbox();
        }
        if self.client.inbox.is_full() {
            // Back-pressure, unless the message that we wait for does not fit.
            let waited_for = self.session.is_quiet() || self.session.copies_in() || self.copy_span > 0;
            if !self.to_server.is_empty() || !waited_for {
                return Poll::Pending;
            }
            self.client.worker.spares.grow(&mut self.client.inbox);
        }
        match self.client.inbox.poll_fill(&mut self.client.stream, context) {
            Poll::Ready(Ok(length)) if length > 0 => {
                self.client.books.received += length;
                Poll::Ready(Ok(true))
            }
            Poll::Ready(_) => Poll::Ready(Err(Gone::Vanished)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Encodes a request that follows another on the same server.
    fn send_next(&mut self, intent: Intent) {
        let counters = &self.client.worker.counters;
        if self.session.is_quiet() {
            // The answers to what came before are not to be dropped with this one's.
            self.outgoing.release();
            if !self.session.moves() {
                counters.pinned(intent.why);
            }
        } else {
            counters.routed(self.place.taken.role, intent.why);
        }
        self.client.note_next_request();
        self.client.time_next_request();
        self.session.encode(&mut self.lease.memory, &mut self.to_server);
    }

    /// Goes on with a request that has waited for its channels.
    fn poll_preparing(&mut self, context: &mut Context<'_>) -> bool {
        let Some(preparing) = &mut self.preparing else { return false };
        let Poll::Ready(result) = preparing.channels.as_mut().poll(context) else { return false };
        let step = self.preparing.take().map(|preparing| preparing.step);
        match (result, step) {
            (Err(failure), _) => self.session.refuse(&failure),
            (Ok(()), Some(Step::Request(intent))) => self.send_next(intent),
            (Ok(()), _) => drop(self.session.listened()),
        }
        self.client.settle(self.session);
        self.take_output();
        true
    }

    /// A client that keeps its server between transactions hears notifications there, too.
    fn poll_mail(&mut self, context: &mut Context<'_>) -> bool {
        let Some(ears) = &self.client.ears else { return false };
        if self.free
            || !self.outgoing.is_empty()
            || !self.session.hears()
            || ears.mailbox.poll_mail(context).is_pending()
        {
            return false;
        }
        if ears.mailbox.take(self.outgoing.buffer(&self.from_server)).is_err() {
            self.finished = Some(Outcome::Gone(Gone::Overflowed));
        }
        true
    }

    fn take_client(&mut self) -> Result<Intake, session::Violation> {
        if self.to_server.len() >= INBOX_BYTES || self.preparing.is_some() {
            return Ok(Intake::Nothing);
        }
        let mut taken = Intake::Nothing;
        // Of a message that has been begun the server gets the rest, though COPY may have failed: it drops it.
        if self.copy_span > 0 && self.pass_copy_data()? {
            taken = Intake::Something;
        }
        if self.copy_span > 0 || self.free || self.finished.is_some() || !self.session.takes_more() {
            return Ok(taken);
        }
        if !self.session.is_quiet() && !self.session.copies_in() && !self.may_go_ahead() {
            return Ok(taken);
        }
        if self.session.is_quiet() && !self.client.inbox.is_empty() && self.lease.is_retired() {
            // The node is not what it was when the transaction began: whatever comes next must not reach it.
            self.lose(None);
            return Ok(Intake::Something);
        }
        loop {
            if self.session.copies_in() && self.pass_copy_data()? {
                taken = Intake::Something;
            }
            let frame = frontend::take(self.client.inbox.unread(), self.client.packet_max)?;
            let Some(frame) = frame else { return Ok(taken) };
            let (length, tag) = (frame.whole.len(), frame.tag);
            let step = self.session.on_client(frame, &self.client.classifier)?;
            if step == Step::Later {
                return Ok(taken);
            }
            self.client.note_frame(tag);
            taken = Intake::Something;
            match step {
                Step::Copy => {
                    self.to_server.extend_from_slice(frame.whole);
                    if tag != frontend::tag::COPY_DATA {
                        self.session.end_copy_in();
                    }
                }
                Step::Request(_) | Step::Listen if self.client.may_begin_to_listen(self.session) => {
                    let channels = Box::pin(self.client.prepare_to_listen(self.session.channels_wanted()));
                    self.preparing = Some(Preparing { channels, step });
                    self.client.inbox.consume(length);
                    return Ok(Intake::Something);
                }
                Step::Request(intent) => {
                    self.send_next(intent);
                    self.client.inbox.consume(length);
                    self.take_output();
                    // Others may follow it, in the same write.
                    if self.to_server.len() >= INBOX_BYTES || !self.session.takes_more() || self.session.is_quiet() {
                        return Ok(Intake::Something);
                    }
                    continue;
                }
                Step::Answered | Step::Listen => {
                    self.client.settle(self.session);
                    // It may have said that it need not keep its server any more.
                    self.free = self.session.rests();
                    if self.free {
                        self.client.inbox.consume(length);
                        self.take_output();
                        return Ok(Intake::Something);
                    }
                }
                Step::Gathering | Step::Later => {}
                Step::Terminate => return Ok(Intake::Goodbye),
            }
            self.client.inbox.consume(length);
            self.take_output();
        }
    }

    /// Whether a request may be sent ahead of the answers that are owed: the server is still what it was taken for. A primary that has been
    /// superseded, or is about to hand over, gets nothing more, though its connections may not have been ended yet.
    fn may_go_ahead(&self) -> bool {
        if self.client.inbox.is_empty() || self.lease.is_retired() {
            return false;
        }
        self.session.keeps_server() || route::still_serves(&self.client.tenant, self.place.wanted, self.place.taken)
    }

    /// Passes CopyData on without waiting for whole messages: it may be larger than any buffer. `false` when there is none.
    fn pass_copy_data(&mut self) -> Result<bool, session::Violation> {
        let mut passed = false;
        while self.to_server.len() < INBOX_BYTES {
            let unread = self.client.inbox.unread();
            if self.copy_span == 0 {
                match frontend::peek(unread, self.client.packet_max)? {
                    Some(header) if header.tag == frontend::tag::COPY_DATA => self.copy_span = header.length,
                    _ => return Ok(passed),
                }
            }
            let length = self.copy_span.min(unread.len());
            if length == 0 {
                return Ok(passed);
            }
            self.to_server.extend_from_slice(&unread[..length]);
            self.copy_span -= length;
            self.client.inbox.consume(length);
            passed = true;
        }
        Ok(passed)
    }

    /// Takes what the server has sent. When all is answered that was flushed, and no Sync has come, it is the client's turn.
    fn take_answers(&mut self, now: Instant) {
        let was_quiet = self.session.is_quiet();
        self.digest(now);
        let is_turn = !was_quiet && self.session.is_quiet() && !self.session.is_synced();
        if is_turn && !self.session.copies_in() && self.finished.is_none() {
            self.client.time_transaction(now);
        }
    }

    /// Walks what the server has sent.
    fn digest(&mut self, now: Instant) {
        while self.finished.is_none() {
            let unread = self.from_server.unread();
            match self.span {
                Span::None => {}
                _ if unread.is_empty() => return,
                Span::Forward(rest) => {
                    let length = rest.min(unread.len());
                    let verdict = self.session.on_rest(&unread[..length]);
                    self.forward(length);
                    self.span = if length == rest { Span::None } else { Span::Forward(rest - length) };
                    debug_assert_eq!(verdict, None, "what is compared is not forwarded");
                    continue;
                }
                Span::Swallow(rest) => {
                    let length = rest.min(unread.len());
                    let verdict = self.session.on_rest(&unread[..length]);
                    self.from_server.consume(length);
                    self.span = if length == rest { Span::None } else { Span::Swallow(rest - length) };
                    if verdict.is_some() {
                        self.diverge(now);
                    }
                    continue;
                }
            }
            let header = match Header::peek(unread) {
                Ok(Some(header)) => header,
                Ok(None) => return,
                Err(_) => return self.lose(None),
            };
            // A message that fits is waited for. One that does not is judged by its beginning, and passed on in pieces.
            if unread.len() < header.length
                && (header.length <= self.from_server.capacity() || unread.len() < JUDGED_MIN)
            {
                return;
            }
            let at_hand = header.length.min(unread.len());
            let body = &unread[Header::SIZE..at_hand];
            let rest = header.length - at_hand;
            if rest > 0 {
                self.session.expect_rest(rest);
            }
            let replays = self.session.is_replaying();
            let verdict = self.session.on_server(header.tag, body, &mut self.lease.memory, now);
            if matches!(verdict, Verdict::Ready { .. }) && self.session.has_news(&self.lease.memory) {
                let standing = &self.client.slot.standing;
                let out = self.outgoing.buffer(&self.from_server);
                self.session.tell_news(&self.lease.memory, out, |name, value| standing.note_parameter(name, value));
            }
            let farewell = (verdict == Verdict::Leaving).then(|| Report::new(body).sqlstate());
            match verdict {
                Verdict::Forward | Verdict::Ready { .. } => {
                    self.forward(at_hand);
                    if rest > 0 {
                        self.span = Span::Forward(rest);
                    }
                }
                Verdict::Swallow | Verdict::HiddenReady { .. } => {
                    self.from_server.consume(at_hand);
                    if rest > 0 {
                        self.span = Span::Swallow(rest);
                    }
                }
                Verdict::Retry { reason, clean } => {
                    self.outgoing.revoke();
                    self.finished = Some(Outcome::Retry { reason, clean });
                }
                Verdict::Leaving => self.lose(farewell.flatten()),
                Verdict::Diverged => self.diverge(now),
                Verdict::Broken => self.finished = Some(Outcome::Gone(Gone::Broken)),
            }
            if matches!(verdict, Verdict::Ready { .. } | Verdict::HiddenReady { .. }) {
                // What the next request is answered with may have to be dropped; this is final.
                self.outgoing.release();
            }
            if replays && !self.session.is_replaying() && verdict == Verdict::Swallow {
                self.client.worker.counters.replayed(Replayed::Completed);
            }
            if self.session.has_output() {
                self.take_output();
            }
            if matches!(
                header.tag,
                tag::READY_FOR_QUERY
                    | tag::ERROR_RESPONSE
                    | tag::COMMAND_COMPLETE
                    | tag::COPY_IN_RESPONSE
                    | tag::ROW_DESCRIPTION
                    | tag::NO_DATA
            ) {
                self.session.take_to_server(&mut self.to_server);
            }
            if let Verdict::Ready { free } | Verdict::HiddenReady { free } = verdict {
                if !std::mem::replace(&mut self.answered, true) {
                    self.client.tenant.cluster.loads.answered(&self.place.taken.burden, now);
                }
                self.client.note_read(self.place.taken, now);
                self.client.note_write(self.session);
                self.client.note_answer(self.session, matches!(verdict, Verdict::Ready { .. }), now);
                self.client.settle(self.session);
                self.client.time_answered(self.session, now);
                self.free = free;
            }
        }
    }

    fn forward(&mut self, length: usize) {
        let start = self.from_server.position();
        self.outgoing.forward(&self.from_server, start..start + length);
        self.from_server.consume(length);
    }

    /// The server is gone.
    fn lose(&mut self, code: Option<SqlState>) {
        let inside_message = matches!(self.span, Span::Forward(_));
        let withheld = self.session.withholds();
        if self.preparing.is_some() {
            // The session has taken it for sent.
            self.session.end_tape();
        }
        self.finished = Some(match self.session.on_lost(inside_message, code, Instant::now()) {
            Loss::Retry => {
                self.outgoing.revoke();
                Outcome::Retry { reason: RetryReason::of_farewell(code), clean: false }
            }
            Loss::Told => {
                if withheld {
                    self.outgoing.revoke();
                }
                self.take_output();
                Outcome::Lost
            }
            Loss::Replay => Outcome::Replay,
            Loss::Resolve(trace) => Outcome::Unresolved(Unresolved { trace, code, released: 0 }),
            Loss::Close => Outcome::Gone(Gone::Cut),
        });
    }

    /// The server does not answer as the one before it did.
    fn diverge(&mut self, now: Instant) {
        self.client.worker.counters.replayed(Replayed::Diverged);
        self.session.give_up_replay(now);
        self.take_output();
        self.finished = Some(Outcome::Diverged);
    }

    fn take_output(&mut self) {
        if self.session.has_output() {
            self.session.take_output(self.outgoing.buffer(&self.from_server));
        }
    }
}

/// What became of the bytes that the client has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intake {
    Nothing,
    Something,
    Goodbye,
}

/// Bytes of an answer that are held back for the sake of a retry.
const HELD_MAX: usize = 256 * 1024;

/// Bytes of a large message by which it is judged: an error's SQLSTATE stands at its beginning.
const JUDGED_MIN: usize = 1024;
