//! Counters of one worker: written by its thread alone, read by whoever scrapes.
//!
//! Owns numbers. Their names and labels are in `metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use classifier::{PinReason, Why};
use session::{Fate, RetryReason, Role};
use wire::backend::Failure;

use crate::deadline::Overdue;

/// What one worker has done.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counters {
    routed: [[AtomicU64; WHYS]; 3],
    retried: [AtomicU64; RETRIES.len()],
    refused: [AtomicU64; REFUSALS.len()],
    overdue: [AtomicU64; Overdue::ALL.len()],
    lost: AtomicU64,
    fates: [AtomicU64; FATES.len()],
    replays: [AtomicU64; REPLAYED.len()],
    pins: [AtomicU64; PINS.len()],
    unpinned: [AtomicU64; PINS.len()],
    logins: AtomicU64,
    failed_logins: AtomicU64,
    denied: AtomicU64,
}

/// Where a statement went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// To the primary.
    Primary = 0,
    /// To a replica.
    Replica = 1,
    /// To the server that the session held already, in a transaction or for its state.
    Held = 2,
}

impl Place {
    pub(crate) const ALL: [Place; 3] = [Place::Primary, Place::Replica, Place::Held];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Place::Primary => "primary",
            Place::Replica => "replica",
            Place::Held => "held",
        }
    }
}

impl Counters {
    pub(crate) fn routed(&self, role: Role, why: Why) {
        let place = match role {
            Role::Primary => Place::Primary,
            Role::Replica => Place::Replica,
        };
        add(&self.routed[place as usize][why as usize]);
    }

    pub(crate) fn pinned(&self, why: Why) {
        add(&self.routed[Place::Held as usize][why as usize]);
    }

    pub(crate) fn retried(&self, reason: RetryReason) {
        if let Some(at) = RETRIES.iter().position(|known| *known == reason) {
            add(&self.retried[at]);
        }
    }

    pub(crate) fn pin(&self, reason: PinReason) {
        add(&self.pins[reason as usize]);
    }

    pub(crate) fn unpin(&self, reason: PinReason) {
        add(&self.unpinned[reason as usize]);
    }

    /// How often clients were pinned, in the order of [`PINS`].
    pub(crate) fn pins(&self) -> [u64; PINS.len()] {
        self.pins.each_ref().map(|taken| taken.load(Ordering::Relaxed))
    }

    /// The pins that stand, in the same order.
    pub(crate) fn pins_standing(&self) -> [u64; PINS.len()] {
        let (ended, taken) = (self.unpinned.each_ref().map(|ended| ended.load(Ordering::Relaxed)), self.pins());
        std::array::from_fn(|at| taken[at].saturating_sub(ended[at]))
    }

    /// A request was refused for want of a server, with this error.
    pub(crate) fn refused(&self, failure: &Failure) {
        let reason = REFUSALS.iter().position(|(code, _)| *code == failure.code).unwrap_or(REFUSALS.len() - 1);
        add(&self.refused[reason]);
    }

    /// A client's time was up.
    pub(crate) fn overdue(&self, what: Overdue) {
        add(&self.overdue[what as usize]);
    }

    pub(crate) fn refused_total(&self, at: usize) -> u64 {
        self.refused[at].load(Ordering::Relaxed)
    }

    pub(crate) fn overdue_total(&self, what: Overdue) -> u64 {
        self.overdue[what as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn lost(&self) {
        add(&self.lost);
    }

    /// It has been found out what became of a commit, or not.
    pub(crate) fn resolved(&self, fate: Fate) {
        add(&self.fates[fate as usize]);
    }

    pub(crate) fn resolved_total(&self, at: usize) -> u64 {
        self.fates[at].load(Ordering::Relaxed)
    }

    /// A transaction whose server was lost was run again, or not.
    pub(crate) fn replayed(&self, outcome: Replayed) {
        add(&self.replays[outcome as usize]);
    }

    pub(crate) fn replayed_total(&self, at: usize) -> u64 {
        self.replays[at].load(Ordering::Relaxed)
    }

    pub(crate) fn login(&self, succeeded: bool) {
        add(if succeeded { &self.logins } else { &self.failed_logins });
    }

    /// Somebody could not prove who he is.
    pub(crate) fn authentication_failed(&self) {
        add(&self.denied);
    }

    pub(crate) fn denied_total(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }

    pub(crate) fn routed_total(&self, place: Place, why: Why) -> u64 {
        self.routed[place as usize][why as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn retried_total(&self, at: usize) -> u64 {
        self.retried[at].load(Ordering::Relaxed)
    }

    /// Servers lost under a client, logins, failed logins.
    pub(crate) fn others(&self) -> [u64; 3] {
        [&self.lost, &self.logins, &self.failed_logins].map(|counter| counter.load(Ordering::Relaxed))
    }
}

/// There is one writer: no locked instruction is needed.
fn add(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
}

/// Why requests are refused, by the SQLSTATE that the client gets; whatever has no reason of its own here is the server's.
pub(crate) const REFUSALS: [(&str, &str); 4] =
    [("57014", "query_wait_timeout"), ("53300", "too_many_connections"), ("57P03", "no_primary"), ("", "server")];

/// The reasons of retries, in the order of their counters.
pub(crate) const RETRIES: [RetryReason; 7] = [
    RetryReason::Misrouted,
    RetryReason::Conflict,
    RetryReason::NotReplayed,
    RetryReason::ServerLost,
    RetryReason::Demoted,
    RetryReason::Outdated,
    RetryReason::Settings,
];

/// What became of commits, in the order of their counters, which is that of their numbers.
/// What comes of running a transaction again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// It goes on where it was.
    Completed,
    /// An answer was another one.
    Diverged,
    /// No server was found in time, or one was lost after the other.
    GivenUp,
}

/// Their names, in their order.
pub(crate) const REPLAYED: [&str; 3] = ["completed", "diverged", "given_up"];

pub(crate) const FATES: [&str; 3] = ["committed", "aborted", "unknown"];

/// The reasons for pins, in the order of their counters, which is that of their numbers.
pub(crate) const PINS: [PinReason; PinReason::ALL.len()] = PinReason::ALL;

/// Every reason of the classifier's.
pub(crate) const WHY_ALL: [Why; WHYS] = [
    Why::Select,
    Why::Show,
    Why::Explain,
    Why::CopyTo,
    Why::Cursor,
    Why::Empty,
    Why::WritesRows,
    Why::SelectInto,
    Why::RowLock,
    Why::VolatileFunction,
    Why::UnknownFunction,
    Why::UserFunction,
    Why::NodeDependent,
    Why::PrimaryRelation,
    Why::ParseFailure,
    Why::TooComplex,
    Why::UnknownStatement,
    Why::Utility,
    Why::Procedure,
    Why::SessionState,
    Why::TransactionControl,
    Why::CopyFrom,
    Why::CopyFile,
    Why::Misrouted,
    Why::MultiStrictest,
];

const WHYS: usize = Why::MultiStrictest as usize + 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_counter() {
        for (at, why) in WHY_ALL.into_iter().enumerate() {
            assert_eq!(why as usize, at, "{why}");
        }
        let counters = Counters::default();
        counters.routed(Role::Replica, Why::Select);
        counters.retried(RetryReason::Conflict);
        assert_eq!(counters.routed_total(Place::Replica, Why::Select), 1);
        assert_eq!(counters.routed_total(Place::Primary, Why::Select), 0);
        assert_eq!(counters.retried_total(1), 1);
        counters.overdue(Overdue::Transaction);
        assert_eq!(Overdue::ALL.map(|what| counters.overdue_total(what)), [0, 0, 0, 1, 0]);
        for code in ["57014", "53300", "3D000"] {
            counters.refused(&Failure::error(code, ""));
        }
        assert_eq!([0, 1, 2, 3].map(|at| counters.refused_total(at)), [1, 1, 0, 1]);
    }
}
