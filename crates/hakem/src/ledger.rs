//! [`Ledger`]: what has been done for one database and user, for SHOW STATS.
//!
//! Each worker writes a page of its own, without locks; whoever asks adds them up. Once per period the sums are noted, and the
//! averages that the console shows are of the last full period, as PgBouncer's are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What is counted. Times are in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A server was given to a client.
    Assignment,
    /// A transaction has ended; a statement outside of one is one.
    Transaction,
    /// A query has been answered: a ReadyForQuery.
    Query,
    /// Bytes from clients.
    Received,
    /// Bytes from servers.
    Sent,
    /// From a transaction's first request to its end.
    TransactionTime,
    /// From a query to its answer's end.
    QueryTime,
    /// Waiting for a server.
    WaitTime,
    /// A client has prepared a statement.
    ClientParse,
    /// A statement was prepared on a server.
    ServerParse,
    /// A client has bound parameters.
    Bind,
}

/// One figure for each [`Entry`].
pub(crate) type Sums = [u64; ENTRIES];

/// What has been done for one database and user.
pub(crate) struct Ledger {
    pages: Box<[Page]>,
    periods: Mutex<Periods>,
}

/// One worker's part. Written by its thread alone.
#[derive(Default)]
#[repr(align(128))]
pub(crate) struct Page {
    cells: [AtomicU64; ENTRIES],
}

/// The sums at the last two ends of a period.
struct Periods {
    older: (Instant, Sums),
    newer: (Instant, Sums),
}

impl Ledger {
    pub(crate) fn new(workers: usize, now: Instant) -> Ledger {
        let nothing = (now, [0; ENTRIES]);
        Ledger {
            pages: (0..workers).map(|_| Page::default()).collect(),
            periods: Mutex::new(Periods { older: nothing, newer: nothing }),
        }
    }

    /// The page of a worker.
    pub(crate) fn page(&self, worker: usize) -> &Page {
        &self.pages[worker]
    }

    /// Everything so far.
    pub(crate) fn sums(&self) -> Sums {
        let mut sums = [0; ENTRIES];
        for page in &self.pages {
            for (sum, cell) in sums.iter_mut().zip(&page.cells) {
                *sum += cell.load(Ordering::Relaxed);
            }
        }
        sums
    }

    /// A period has ended.
    pub(crate) fn turn(&self, now: Instant) {
        let sums = self.sums();
        let mut periods = self.periods.lock().unwrap_or_else(PoisonError::into_inner);
        periods.older = std::mem::replace(&mut periods.newer, (now, sums));
    }

    /// What was done in the last full period, and how many microseconds that was.
    pub(crate) fn last_period(&self) -> (Sums, u64) {
        let periods = self.periods.lock().unwrap_or_else(PoisonError::into_inner);
        let ((from, older), (to, newer)) = (periods.older, periods.newer);
        let mut difference = newer;
        difference.iter_mut().zip(older).for_each(|(sum, before)| *sum -= before);
        (difference, u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX))
    }
}

impl Page {
    /// There is one writer: no locked instruction is needed.
    pub(crate) fn add(&self, entry: Entry, amount: u64) {
        let cell = &self.cells[entry as usize];
        cell.store(cell.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }
}

/// PgBouncer's averages: times per transaction or query, everything else per second.
pub(crate) fn averages((sums, micros): (Sums, u64)) -> Sums {
    let of = |entry: Entry| sums[entry as usize];
    let ratio = |sum: u64, count: u64| sum.checked_div(count).unwrap_or(0);
    let mut averages = sums;
    for (at, average) in averages.iter_mut().enumerate() {
        *average = if at == Entry::TransactionTime as usize {
            ratio(of(Entry::TransactionTime), of(Entry::Transaction))
        } else if at == Entry::QueryTime as usize {
            ratio(of(Entry::QueryTime), of(Entry::Query))
        } else {
            u64::try_from(u128::from(*average) * 1_000_000 / u128::from(micros.max(1))).unwrap_or(u64::MAX)
        };
    }
    averages
}

/// How many entries there are.
pub(crate) const ENTRIES: usize = Entry::Bind as usize + 1;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn averages_are_of_the_last_full_period() {
        let start = Instant::now();
        let ledger = Ledger::new(2, start);
        let at = |entry: Entry| averages(ledger.last_period())[entry as usize];
        ledger.page(0).add(Entry::Query, 10);
        ledger.page(1).add(Entry::Query, 20);
        ledger.page(1).add(Entry::QueryTime, 600);
        ledger.page(1).add(Entry::Sent, 5000);
        assert_eq!((ledger.sums()[Entry::Query as usize], at(Entry::Query)), (30, 0));
        ledger.turn(start + Duration::from_secs(10));
        assert_eq!((at(Entry::Query), at(Entry::QueryTime), at(Entry::Sent)), (3, 20, 500));
        ledger.turn(start + Duration::from_secs(20));
        assert_eq!((at(Entry::Query), at(Entry::QueryTime), at(Entry::Sent)), (0, 0, 0));
        assert_eq!(ledger.sums()[Entry::Query as usize], 30);
    }
}
