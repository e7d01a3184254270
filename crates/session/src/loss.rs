//! What a client is told when its server is gone.
//!
//! Owns the table of the design's section 4: what was provably not done is run again or reported as such, what may have been
//! done is reported as unknown, and the client's connection lives on wherever the protocol lets it.

use std::time::Instant;

use classifier::{Access, Effect, PinReason};
use wire::backend::{Failure, SqlState};

use crate::request::End;
use crate::session::{Lease, Role, Session, Transaction};

/// What follows from a lost server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The request is run again elsewhere: nothing of an answer has reached the client, and it had no effect.
    Retry,
    /// The client has been, or will be, told; its connection goes on. What to say now is in the session's output.
    Told,
    /// The client has got a part of a message: its connection cannot go on.
    Close,
}

impl Session {
    /// The server of the lease is gone. `inside_message`: the client has got the beginning of a message whose rest is lost.
    /// `code`: what the server said before it went, if anything. `now`: a moment after the loss.
    pub fn on_lost(&mut self, inside_message: bool, code: Option<SqlState>, now: Instant) -> Loss {
        let on_replica = self.lease.role == Some(Role::Replica);
        self.lease = Lease::default();
        self.portals.clear();
        let in_flight = !self.owed.is_empty() || self.progress.part;
        let in_transaction = matches!(self.transaction, Transaction::Open { .. } | Transaction::Deferred(_));
        if inside_message {
            return Loss::Close;
        }
        if !in_flight {
            self.lose_idle(in_transaction);
            return Loss::Told;
        }
        let untouched = self.progress.holding && self.request.end == End::Ready;
        // What a user has sent to a replica against its class has written nothing there, nor has what was only prepared.
        let harmless = self.request.access == Access::Read || on_replica || !self.request.executes;
        if untouched && harmless {
            return Loss::Retry;
        }
        // What is owed is answered by one error; what the client was not told of has not happened to its statements.
        self.undo_to(self.unacknowledged());
        self.undo.clear();
        let commits = self.request.commits;
        let writes = self.request.writes;
        let rolls_back = self.rolls_back();
        self.restart();
        let left_behind = self.lose_pins();
        if in_transaction && rolls_back {
            // That is what has happened.
            self.transaction = Transaction::Lost { told: true };
            self.refusal = left_behind;
            self.answer_lost();
            return Loss::Told;
        }
        let failure = if in_transaction && !commits {
            self.transaction = Transaction::Lost { told: true };
            self.refusal = left_behind;
            lost_in_transaction()
        } else if commits || writes {
            self.end_uncertain(now);
            self.refusal = left_behind;
            Failure::error("08007", "the server was lost before it confirmed the commit; the outcome is unknown")
                .hint("Check whether it took effect before running it again.")
        } else {
            self.end_uncertain(now);
            let said = code.map_or(String::new(), |code| format!(" (it said {})", code.as_str()));
            left_behind.unwrap_or_else(|| {
                Failure::error("57P01", format!("the server was lost while it sent the result{said}"))
                    .hint("Run the statement again.")
            })
        };
        failure.put(&mut self.output);
        self.conclude_refusal();
        Loss::Told
    }

    fn lose_idle(&mut self, in_transaction: bool) {
        self.progress = crate::session::Progress::default();
        self.refusal = self.lose_pins();
        if in_transaction {
            self.transaction = Transaction::Lost { told: false };
        }
    }

    /// What a session has left on its server is gone with it, which the client has to be told.
    fn lose_pins(&mut self) -> Option<Failure> {
        let pins = std::mem::take(&mut self.pins);
        if pins.is_empty() {
            return None;
        }
        let names: Vec<&str> = pins.iter().copied().map(PinReason::as_str).collect();
        let message = format!("the server was lost, and with it the session's state: {}", names.join(", "));
        Some(Failure::error("57P01", message).hint("Set it up again."))
    }

    /// Whether the request is a ROLLBACK that has not been answered.
    fn rolls_back(&self) -> bool {
        let class = self.request.simple.as_ref().filter(|class| class.statements == 1 && self.progress.effects == 0);
        class.is_some_and(|class| matches!(&*class.effects, [Effect::Rollback { chain: false }]))
    }

    fn end_uncertain(&mut self, now: Instant) {
        self.settings.rollback();
        self.transaction = Transaction::None;
        // It may have been written, and if it was, reads that follow must see it.
        self.wrote = false;
        self.last_write = Some(now);
    }
}

/// 40001 tells every framework that running the transaction again is right.
pub(crate) fn lost_in_transaction() -> Failure {
    Failure::error("40001", "the server was lost during the transaction, of which nothing was committed")
        .hint("Run the transaction again.")
}
