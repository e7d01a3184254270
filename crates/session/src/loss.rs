//! What a client is told when its server is gone.
//!
//! Owns the table of the design's section 4: what was provably not done is run again or reported as such, what may have been
//! done is reported as unknown, and the client's connection lives on wherever the protocol lets it.

use std::time::Instant;

use classifier::{Access, Effect, PinReason, Why};
use wire::backend::{Failure, SqlState};

use crate::fate::Trace;
use crate::flight::Sent;
use crate::session::{Lease, Session};
use crate::terms::{Role, Transaction};
use crate::trace::Wrap;

/// What follows from a lost server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The request is run again elsewhere: nothing of an answer has reached the client, and it had no effect.
    Retry,
    /// The client has been, or will be, told; its connection goes on. What to say now is in the session's output.
    Told,
    /// The client has got a part of a message: its connection cannot go on.
    Close,
    /// The transaction is run again elsewhere, and goes on there: see [`Session::reattach`]. What has been answered is the client's.
    Replay,
    /// A commit was sent and not answered. What became of it can be found out by this, and is then told to [`Session::resolve`].
    Resolve(Trace),
}

impl Session {
    /// The server of the lease is gone. `inside_message`: the client has got the beginning of a message whose rest is lost.
    /// `code`: what the server said before it went, if anything. `now`: a moment after the loss.
    pub fn on_lost(&mut self, inside_message: bool, code: Option<SqlState>, now: Instant) -> Loss {
        if inside_message {
            self.lease = Lease::default();
            return Loss::Close;
        }
        match self.resolvable() {
            Some(trace) => Loss::Resolve(trace),
            None if self.may_replay(code, false) => Loss::Replay,
            None => self.mourn(code, false, now),
        }
    }

    /// The same when nothing more can be found out. `aborted`: the commit that was sent has not taken effect.
    pub(crate) fn mourn(&mut self, code: Option<SqlState>, aborted: bool, now: Instant) -> Loss {
        let on_replica = self.lease.role == Some(Role::Replica);
        self.lease = Lease::default();
        self.end_tape();
        self.portals.clear();
        let in_transaction = matches!(self.transaction, Transaction::Open { .. } | Transaction::Deferred(_));
        if self.flight.is_empty() {
            // What the proxy has asked for itself is no longer of interest.
            self.owed.clear();
            self.lose_idle(in_transaction);
            return Loss::Told;
        }
        // A transaction of the proxy's own has done nothing before its COMMIT is sent.
        let undone = match self.progress.wrap {
            Wrap::None => aborted,
            Wrap::Running => true,
            Wrap::Ending => aborted || self.progress.failed,
        };
        let wrapped = self.progress.wrap != Wrap::None;
        let reported = wrapped && self.progress.failed;
        // What functions do beside the transaction is not undone with it.
        let repeatable = self.flight.front().is_some_and(|sent| sent.request.why == Why::WritesRows);
        let told = self.flight.len() - self.rerunnable(on_replica || (wrapped && undone && repeatable));
        self.forget_trace();
        if told == 0 {
            return Loss::Retry;
        }
        // What is owed is answered by errors; what the client was not told of has not happened to its statements.
        self.undo(self.unacknowledged()..self.changes.end());
        self.changes.forget(self.changes.end());
        let rolls_back = self.rolls_back();
        let mut left_behind = self.lose_pins();
        self.restart();
        // Each request is answered as if it had been gathered just now; what is being gathered comes behind all of them.
        let gathered = (std::mem::take(&mut self.request), std::mem::take(&mut self.parsed));
        for at in 0..told {
            let commits = self.flight.iter().take(told - at).any(|sent| sent.request.commits);
            let Some(sent) = self.flight.pop_front() else { break };
            (self.request, self.parsed) = (sent.request, sent.parsed);
            self.tell_lost(Told { first: at == 0, commits, rolls_back, undone, reported, code, now }, &mut left_behind);
        }
        if !self.skips_until_sync {
            (self.request, self.parsed) = gathered;
        }
        self.flight_bytes = self.flight.iter().map(|sent| sent.request.frames.len()).sum();
        Loss::Told
    }

    /// How many of the last requests in flight can be run again: nothing of their answers has reached the client, and they had no
    /// effect.
    fn rerunnable(&self, on_replica: bool) -> usize {
        let nothing_to_roll_back = self.transaction == Transaction::None && self.rolls_back();
        let can = |at: usize| {
            let Sent { request, holds, .. } = &self.flight[at];
            // What a user has sent to a replica against its class has written nothing there, nor has what was only prepared.
            let unsent = at >= self.sent;
            let harmless = request.access == Access::Read || on_replica || !request.executes || unsent;
            let harmless = harmless || (at == 0 && nothing_to_roll_back);
            if at == 0 { self.progress.holding && request.is_whole() && harmless } else { *holds }
        };
        let quiet = self.transaction == Transaction::None && self.pins.is_empty();
        (0..self.flight.len()).rev().take_while(|at| can(*at) && (*at == 0 || quiet)).count()
    }

    /// Answers a request that was lost with its server, and cannot be run again.
    fn tell_lost(&mut self, told: Told, left_behind: &mut Option<Box<Failure>>) {
        if matches!(self.transaction, Transaction::Lost { .. }) {
            self.answer_lost();
            return;
        }
        let in_transaction = matches!(self.transaction, Transaction::Open { .. } | Transaction::Deferred(_));
        if told.first && told.undone {
            return self.tell_undone(told, in_transaction, left_behind);
        }
        if in_transaction && told.first && told.rolls_back {
            // That is what has happened.
            self.transaction = Transaction::Lost { told: true };
            self.refusal = left_behind.take();
            self.answer_lost();
            return;
        }
        let failure = if in_transaction && !told.commits {
            self.transaction = Transaction::Lost { told: true };
            self.refusal = left_behind.take();
            lost_in_transaction()
        } else if self.request.commits || self.request.writes || in_transaction {
            self.end_uncertain(told.now);
            self.refusal = left_behind.take();
            Failure::error("08007", "the server was lost before it confirmed the commit; the outcome is unknown")
                .hint("Check whether it took effect before running it again.")
        } else {
            self.end_uncertain(told.now);
            let said = told.code.map_or(String::new(), |code| format!(" (it said {})", code.as_str()));
            let lost = || {
                Failure::error("57P01", format!("the server was lost while it sent the result{said}"))
                    .hint("Run the statement again.")
            };
            left_behind.take().map_or_else(lost, |failure| *failure)
        };
        failure.put(&mut self.output);
        self.conclude_refusal();
    }

    /// Answers a commit that has not taken effect, and a write outside of a transaction that has not either.
    fn tell_undone(&mut self, told: Told, in_transaction: bool, left_behind: &mut Option<Box<Failure>>) {
        if in_transaction {
            self.transaction = Transaction::Lost { told: false };
            self.answer_lost();
            self.refusal = left_behind.take();
            return;
        }
        self.settings.rollback();
        self.wrote = false;
        self.refusal = left_behind.take();
        if !told.reported {
            lost_in_transaction().put(&mut self.output);
        }
        self.conclude_refusal();
    }

    fn lose_idle(&mut self, in_transaction: bool) {
        self.progress = crate::session::Progress::default();
        self.refusal = self.lose_pins();
        if in_transaction {
            self.transaction = Transaction::Lost { told: false };
        }
    }

    /// What a session has left on its server is gone with it, which the client has to be told.
    pub(crate) fn lose_pins(&mut self) -> Option<Box<Failure>> {
        self.rechecks = false;
        self.restores.clear();
        self.settings.take_unread();
        let pins = std::mem::take(&mut self.pins);
        if pins.is_empty() {
            return None;
        }
        let names: Vec<&str> = pins.iter().copied().map(PinReason::as_str).collect();
        let message = format!("the server was lost, and with it the session's state: {}", names.join(", "));
        Some(Box::new(Failure::error("57P01", message).hint("Set it up again.")))
    }

    /// Whether the request is a ROLLBACK that has not been answered.
    pub(crate) fn rolls_back(&self) -> bool {
        let simple = self.flight.front().and_then(|sent| sent.request.simple.as_ref());
        let class = simple.filter(|class| class.statements == 1 && self.progress.effects == 0);
        class.is_some_and(|class| matches!(&*class.effects, [Effect::Rollback { chain: false }]))
    }

    fn end_uncertain(&mut self, now: Instant) {
        self.settings.rollback();
        self.transaction = Transaction::None;
        // It may have been written, and if it was, reads that follow must see it.
        self.wrote = false;
        self.last_write = Some(now);
        self.definitions += u64::from(std::mem::take(&mut self.defined) || self.request.defines);
    }
}

/// What is known about a request that is lost with its server.
#[derive(Clone, Copy)]
struct Told {
    /// It is the first, of which something may have been answered.
    first: bool,
    /// It, or one behind it that the server may have got to, ends a transaction.
    commits: bool,
    /// The first is a ROLLBACK that has not been answered.
    rolls_back: bool,
    /// What the first was to commit is not committed.
    undone: bool,
    /// The client has got an error of the first one's.
    reported: bool,
    /// What the server said before it went.
    code: Option<SqlState>,
    now: Instant,
}

/// 40001 tells every framework that running the transaction again is right.
pub(crate) fn lost_in_transaction() -> Failure {
    Failure::error("40001", "the server was lost during the transaction, of which nothing was committed")
        .hint("Run the transaction again.")
}
