//! What became of a transaction whose COMMIT was sent and never answered.
//!
//! Owns the proof. While a transaction writes, its server is asked for its id and for the WAL's position, in front of the COMMIT
//! ([`Trace`]); when the answer to that is lost, the next primary is asked about the id ([`Inquiry`]). The id alone proves nothing: WAL that was
//! lost with a server takes the ids in it along, and they are given away anew. The position does: whatever the transaction has written lies in
//! front of it and its commit record behind it, so that a timeline which begins in front of it has no such commit, and on one which begins behind it
//! the id has been seen and belongs to nobody else.

use std::cmp::Ordering;

use crate::pins::columns;

/// What is known of a transaction that writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Its id, with the epoch; `None` when it has got none so far, since it has written nothing.
    pub xid: Option<u64>,
    /// Where the WAL was inserted when that was asked: everything that it has written lies before, its commit record lies behind.
    pub lsn: u64,
    /// What the server had replayed when it last left recovery.
    pub replayed: Option<u64>,
    /// When the server was started, by its own clock, in microseconds.
    pub started: i64,
}

/// What the primary says when it is asked about a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// Its timeline, as compared with that of the trace.
    pub timeline: Ordering,
    /// Whether it is the server that the trace is from.
    pub same_server: bool,
    /// Where its timeline has left that of the trace; `None` when it has not left that one, or nobody has seen where.
    pub fork: Option<u64>,
    /// What it says of the id.
    pub status: Option<XactStatus>,
    /// What it had replayed when it last left recovery.
    pub replayed: Option<u64>,
    /// When it was started, by its own clock, in microseconds.
    pub started: i64,
}

/// What `pg_xact_status()` says; `None` beside it is that the id is too old.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XactStatus {
    /// `in progress`
    InProgress,
    /// `committed`
    Committed,
    /// `aborted`
    Aborted,
    /// It fails: nobody has had this id yet.
    Future,
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is committed.
    Committed,
    /// It is not, and never will be.
    Aborted,
    /// Nobody can tell.
    Unknown,
}

impl Trace {
    /// What follows from the answer; `None` when it has to be asked again.
    #[must_use]
    pub fn fate(&self, inquiry: &Inquiry) -> Option<Fate> {
        let same_run = inquiry.timeline == Ordering::Equal
            && inquiry.same_server
            && inquiry.started == self.started
            && inquiry.replayed == self.replayed;
        // It begins before the commit record.
        let left_before = inquiry.timeline == Ordering::Greater && inquiry.fork.is_some_and(|fork| self.lsn > fork);
        // It begins behind all that the transaction has written: the id is in there, and was given to nobody else.
        let left_behind = inquiry.timeline == Ordering::Greater && inquiry.fork.is_some_and(|fork| self.lsn <= fork);
        Some(match inquiry.status {
            _ if inquiry.timeline == Ordering::Less => Fate::Unknown,
            _ if left_before => Fate::Aborted,
            // Of another run or timeline, the server that had begun it is gone: it is another's.
            Some(XactStatus::InProgress) if same_run => return None,
            Some(XactStatus::Committed) if same_run || left_behind => Fate::Committed,
            // It may have been lost, and its id given to another.
            Some(XactStatus::Committed) | None => Fate::Unknown,
            // Had it been committed there, nobody could have got its id, and this would not be what is said of it.
            Some(XactStatus::Aborted | XactStatus::InProgress | XactStatus::Future) => Fate::Aborted,
        })
    }

    /// Reads the answer to [`QUESTION`]: a row of text.
    pub(crate) fn read(row: &[u8]) -> Option<Trace> {
        let mut columns = columns(row).map(|value| value.map(String::from_utf8_lossy));
        let mut next = || columns.next();
        let (xid, lsn, replayed, started) = (next()?, next()?, next()?, next()?);
        let replayed = match replayed {
            Some(text) => Some(position(&text)?),
            None => None,
        };
        let xid = match xid {
            Some(text) => Some(text.parse().ok()?),
            None => None,
        };
        Some(Trace { xid, lsn: position(&lsn?)?, replayed, started: started?.parse().ok()? })
    }
}

/// A `pg_lsn`.
fn position(text: &str) -> Option<u64> {
    let (high, low) = text.split_once('/')?;
    let half = |text| u64::from_str_radix(text, 16).ok().filter(|half| *half <= u64::from(u32::MAX));
    Some(half(high)? << 32 | half(low)?)
}

/// What the server is asked while a transaction writes. Names by their schema, since the session has its own search path; the number by a
/// type that no setting changes the looks of.
pub(crate) const QUESTION: &str = "SELECT pg_catalog.pg_current_xact_id_if_assigned(), pg_catalog.pg_current_wal_insert_lsn(), \
     pg_catalog.pg_last_wal_replay_lsn(), \
     (pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8";

#[cfg(test)]
mod tests {
    use std::cmp::Ordering::{Equal, Greater, Less};

    use super::XactStatus::{Aborted, Committed, Future, InProgress};
    use super::*;

    const TRACE: Trace = Trace { xid: Some(700), lsn: 100, replayed: Some(10), started: 1 };

    fn check(inquiry: Inquiry, fates: [Option<Fate>; 5]) {
        let statuses = [Some(Committed), Some(Aborted), Some(InProgress), Some(Future), None];
        for (status, fate) in statuses.into_iter().zip(fates) {
            assert_eq!(TRACE.fate(&Inquiry { status, ..inquiry }), fate, "{status:?} of {inquiry:?}");
        }
    }

    fn inquiry(timeline: Ordering, fork: Option<u64>) -> Inquiry {
        let same_server = timeline == Equal;
        Inquiry { timeline, same_server, fork, status: None, replayed: Some(10), started: 1 }
    }

    #[test]
    fn fates() {
        let (yes, no, unknown) = (Some(Fate::Committed), Some(Fate::Aborted), Some(Fate::Unknown));
        let same = inquiry(Equal, None);
        // Only the connection is gone.
        check(same, [yes, no, None, no, unknown]);
        // It has been restarted, has recovered from a crash without that, or is another: the id may be another's.
        let restarted = Inquiry { started: 2, ..same };
        let recovered = Inquiry { replayed: Some(90), ..same };
        let cleanly = Inquiry { replayed: None, started: 2, ..same };
        let another = Inquiry { same_server: false, ..same };
        for other in [restarted, recovered, cleanly, another] {
            check(other, [unknown, no, no, no, unknown]);
        }
        // Promoted with all that it had written, and with all but the last byte.
        check(inquiry(Greater, Some(100)), [yes, no, no, no, unknown]);
        check(inquiry(Greater, Some(99)), [no; 5]);
        // Nobody has seen where.
        check(inquiry(Greater, None), [unknown, no, no, no, unknown]);
        // Somebody of the past knows nothing.
        check(inquiry(Less, None), [unknown; 5]);
    }

    #[test]
    fn answers() {
        let row = |values: &[Option<&str>]| {
            let mut row = u16::try_from(values.len()).expect("few").to_be_bytes().to_vec();
            for value in values {
                match value {
                    None => row.extend_from_slice(&(-1i32).to_be_bytes()),
                    Some(text) => {
                        row.extend_from_slice(&u32::try_from(text.len()).expect("short").to_be_bytes());
                        row.extend_from_slice(text.as_bytes());
                    }
                }
            }
            row
        };
        let known = row(&[Some("4294967999"), Some("2/A0"), None, Some("17")]);
        let trace = Trace { xid: Some(4_294_967_999), lsn: (2 << 32) + 160, replayed: None, started: 17 };
        assert_eq!(Trace::read(&known), Some(trace));
        assert_eq!(Trace::read(&row(&[None, Some("2/A0"), Some("1/1"), Some("1")])).map(|trace| trace.xid), Some(None));
        for odd in [row(&[]), row(&[Some("1"), None, None, Some("1")]), row(&[Some("x"), Some("1/1"), None, Some("1")])]
        {
            assert_eq!(Trace::read(&odd), None);
        }
        assert_eq!(position("1/100000000"), None);
    }
}
