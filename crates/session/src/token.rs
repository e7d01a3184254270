//! A session's token: what it has seen, said so that another proxy understands it.
//!
//! `SHOW hakem.token` asks the primary where its WAL ends, behind everything that has been acknowledged to the session. With
//! `SET hakem.token` another session, on another proxy of the same cluster, reads only from replicas that have replayed so much.

use std::time::Instant;

use classifier::{Class, Why};

/// A place in the history of a cluster, which a replica must have got to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The cluster, by `initdb`'s number.
    pub system_identifier: u64,
    /// The timeline of the primary that was asked.
    pub timeline: u32,
    /// What it had written.
    pub lsn: u64,
    /// A moment behind that at which it was set here: whatever has everything up to this moment has all of it, whatever became of the
    /// timeline.
    pub since: Option<Instant>,
}

impl Token {
    /// Reads what `SHOW hakem.token` shows.
    pub(crate) fn read(text: &str) -> Option<Token> {
        let mut parts = text.split('-');
        let (system, timeline, lsn) = (parts.next()?, parts.next()?, parts.next()?);
        let (high, low) = lsn.split_once('/')?;
        let digits = |text: &str, digits_max| {
            (1..=digits_max).contains(&text.len()) && text.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        if parts.next().is_some() || ![timeline, high, low].iter().all(|text| digits(text, 8)) || !digits(system, 20) {
            return None;
        }
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        Some(Token {
            system_identifier: system.parse().ok()?,
            timeline: number(timeline)?,
            lsn: u64::from(number(high)?) << 32 | u64::from(number(low)?),
            since: None,
        })
    }
}

/// What `SHOW hakem.token` is replaced by. The file's name has the timeline that is written; the control file has it only from the
/// first checkpoint on.
pub(crate) const QUESTION: &str = "SELECT pg_catalog.format('%s-%s-%s', system_identifier, \
    pg_catalog.left(pg_catalog.pg_walfile_name(lsn), 8), lsn) AS \"hakem.token\" \
    FROM pg_catalog.pg_control_system(), pg_catalog.pg_current_wal_insert_lsn() AS lsn";

/// What that does.
pub(crate) fn class() -> Class {
    Class { why: Why::NodeDependent, unseen: false, ..crate::foreign::unknown() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        let check = |text: &str, expected: Option<(u64, u32, u64)>| {
            let read = Token::read(text).map(|token| (token.system_identifier, token.timeline, token.lsn));
            assert_eq!(read, expected, "{text:?}");
        };
        check("7301234567890123456-0000000A-1/3000060", Some((7_301_234_567_890_123_456, 10, 0x1_0300_0060)));
        check("1-1-FFFFFFFF/FFFFFFFF", Some((1, 1, u64::MAX)));
        for text in [
            "",
            "-",
            "--",
            "1-1-1",
            "1-1-/",
            "1-1-1/1-",
            "x-1-1/1",
            "1-g-1/1",
            "1-1-100000000/1",
            "1-1-1/1 ",
            "1-+1-1/1",
            "99999999999999999999-1-1/1",
        ] {
            check(text, None);
        }
    }
}
