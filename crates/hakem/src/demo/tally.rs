//! What the players have done and met, all of them together.
//!
//! Owns the counting and what counts as a gap. Nothing here measures time or talks to anybody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::latency::Latency;

/// What the players have done and met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) reads: Series,
    /// Those in autocommit.
    pub(crate) writes: Series,
    pub(crate) transactions: Series,
    pub(crate) read_gap: Gap,
    /// Of writes and transactions.
    pub(crate) write_gap: Gap,
    /// By SQLSTATE, or by a word where there is none.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) broken_connections: u64,
    /// Reads that did not show what the reader had written.
    pub(crate) stale_reads: u64,
    /// What each player was promised.
    pub(crate) accounts: Vec<Account>,
    /// The first surprises, in words.
    pub(crate) findings: Vec<String>,
}

/// The same, shared between the players and those who watch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shared(Arc<Mutex<Tally>>);

/// Operations of one kind that succeeded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Series {
    pub(crate) count: u64,
    /// From the first attempt to success.
    pub(crate) latency: Latency,
}

/// The longest time without a success.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gap {
    last: Option<Instant>,
    longest: Duration,
}

/// What one player was promised. A player does one thing after the other and numbers its rows, so that the first so many of its
/// numbers are exactly those that were acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Account {
    /// Game sessions that were begun.
    pub(crate) games: u64,
    /// Game sessions that were ended.
    pub(crate) finished: u64,
    /// Moves.
    pub(crate) moves: u64,
    /// Moves among them that took a trick, in a transaction.
    pub(crate) tricks: u64,
}

/// The kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Read,
    Write,
    Transaction,
}

impl Tally {
    /// Something that was begun then has succeeded now.
    pub(crate) fn succeeded(&mut self, kind: Kind, begun: Instant, now: Instant) {
        let (series, gap) = match kind {
            Kind::Read => (&mut self.reads, &mut self.read_gap),
            Kind::Write => (&mut self.writes, &mut self.write_gap),
            Kind::Transaction => (&mut self.transactions, &mut self.write_gap),
        };
        series.count += 1;
        series.latency.add(now.saturating_duration_since(begun));
        gap.close(now);
    }

    pub(crate) fn failed(&mut self, code: &str) {
        let counted = self.errors.contains_key(code) || self.errors.len() < CODES_MAX;
        *self.errors.entry(if counted { code } else { "other" }.to_owned()).or_default() += 1;
    }

    pub(crate) fn found(&mut self, finding: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        }
    }

    /// The players stop now, however long they have had no success.
    pub(crate) fn close(&mut self, now: Instant) {
        for gap in [&mut self.read_gap, &mut self.write_gap] {
            if gap.last.is_some() {
                gap.close(now);
            }
        }
    }

    pub(crate) fn errors_total(&self) -> u64 {
        self.errors.values().sum()
    }
}

impl Shared {
    pub(crate) fn read(&self) -> MutexGuard<'_, Tally> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gap {
    /// The longest until now, the present one included.
    pub(crate) fn longest(&self, now: Instant) -> Duration {
        self.longest.max(self.last.map_or(Duration::ZERO, |last| now.saturating_duration_since(last)))
    }

    pub(crate) fn longest_closed(&self) -> Duration {
        self.longest
    }

    fn close(&mut self, now: Instant) {
        self.longest = self.longest(now);
        self.last = Some(now);
    }
}

/// Different SQLSTATEs that are counted; there are some 250.
const CODES_MAX: usize = 300;

/// Surprises that are told.
const FINDINGS_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_lies_between_successes() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut tally = Tally::default();
        let mut check = |kind, millis, reads, writes| {
            tally.succeeded(kind, at(millis - 1), at(millis));
            let found = (tally.read_gap.longest_closed(), tally.write_gap.longest_closed());
            assert_eq!(found, (Duration::from_millis(reads), Duration::from_millis(writes)), "at {millis}");
        };
        check(Kind::Read, 100, 0, 0);
        check(Kind::Read, 130, 30, 0);
        check(Kind::Write, 500, 30, 0);
        check(Kind::Transaction, 900, 30, 400);
        check(Kind::Write, 1000, 30, 400);
        assert_eq!(tally.read_gap.longest(at(1000)), Duration::from_millis(870));
        tally.close(at(1100));
        assert_eq!(tally.read_gap.longest_closed(), Duration::from_millis(970));
    }
}
