//! Owns the log sequence number as a value: reading, ordering, and the correction for page headers. Asks no server.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result};

/// A position in the write-ahead log, as PostgreSQL writes it: `0/3000060`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position without the page header that it may lie just behind. On an idle primary the insert position has
    /// already stepped over the header of a page that holds no record yet, so that no replica ever reports it.
    pub(crate) fn without_header(self) -> Lsn {
        let header = if self.0 % SEGMENT < PAGE { LONG_HEADER } else { SHORT_HEADER };
        if self.0 % PAGE == header { Lsn(self.0 - header) } else { self }
    }
}

impl FromStr for Lsn {
    type Err = Error;

    fn from_str(text: &str) -> Result<Lsn> {
        let (high, low) = text.split_once('/').with_context(|| format!("`{text}` is not an LSN"))?;
        let half = |digits| u32::from_str_radix(digits, 16).with_context(|| format!("`{text}` is not an LSN"));
        Ok(Lsn(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

/// `XLOG_BLCKSZ` and `wal_segment_size` as initdb sets them unless told otherwise, and the two headers' sizes.
const PAGE: u64 = 8192;
const SEGMENT: u64 = 16 * 1024 * 1024;
const SHORT_HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for text in ["0/0", "0/3000060", "16/B374D848", "FFFFFFFF/FFFFFFFF"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for text in ["", "0", "0/", "/0", "0/100000000", "g/0"] {
            assert!(text.parse::<Lsn>().is_err(), "{text}");
        }
        assert!("1/0".parse::<Lsn>().unwrap() > "0/FFFFFFFF".parse::<Lsn>().unwrap());
    }

    #[test]
    fn headers() {
        let check = |from: &str, to: &str| {
            assert_eq!(from.parse::<Lsn>().unwrap().without_header().to_string(), to, "{from}");
        };
        check("0/D000028", "0/D000000"); // a segment begins with the long header
        check("0/D002018", "0/D002000"); // any other page with the short one
        check("0/D000018", "0/D000018"); // where the other size means nothing
        check("0/D002028", "0/D002028");
        check("0/D000060", "0/D000060");
        check("0/D000000", "0/D000000");
    }
}
