//! Protocol versions: which a client may ask for, and which it is given.
//!
//! Owns the rules of PostgreSQL 18. Does not know what a version changes: of those that exist, 3.2 only lengthens the keys of
//! cancel requests.

use std::fmt;

/// A protocol version, as a startup packet carries it: the major number in the upper 16 bits, the minor one in the lower.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u32);

impl Version {
    /// The version that every server and every client speaks.
    pub const V3_0: Version = Version::new(3, 0);
    /// The version with cancel keys of any length, since PostgreSQL 18; the newest that there is.
    pub const V3_2: Version = Version::new(3, 2);

    /// The version with these numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16) -> Version {
        Version((major as u32) << 16 | minor as u32)
    }

    /// The number before the point.
    #[must_use]
    pub const fn major(self) -> u32 {
        self.0 >> 16
    }

    /// The number behind the point.
    #[must_use]
    pub const fn minor(self) -> u32 {
        self.0 & 0xffff
    }

    /// The version that a client is spoken to with that asks for this one; `None` when there is none.
    ///
    /// As `ProcessStartupPacket` of PostgreSQL 18: a newer minor version, which "grease" asks for on purpose, becomes the newest
    /// that is spoken. 3.1 was never used, but nothing distinguishes it from 3.0, so it is granted as it is.
    #[must_use]
    pub fn granted(self) -> Option<Version> {
        (self.major() == Version::V3_2.major()).then(|| self.min(Version::V3_2))
    }

    /// The message with which PostgreSQL refuses a version that is not [granted](Version::granted).
    #[must_use]
    pub fn refusal(self) -> String {
        format!("unsupported frontend protocol {self}: server supports {} to {}", Version::V3_0, Version::V3_2)
    }

    /// Bytes of the secret of a cancel key: 4 in 3.0, where the length is fixed; as many as PostgreSQL's own in 3.2.
    #[must_use]
    pub fn cancel_secret_bytes(self) -> usize {
        if self < Version::V3_2 { 4 } else { 32 }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}", self.major(), self.minor())
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(asked: (u16, u16), granted: Option<(u16, u16)>, secret_bytes: usize) {
        let found = Version::new(asked.0, asked.1).granted();
        assert_eq!(found, granted.map(|(major, minor)| Version::new(major, minor)), "{asked:?}");
        assert_eq!(found.map_or(0, Version::cancel_secret_bytes), secret_bytes, "{asked:?}");
    }

    #[test]
    fn grants() {
        check((3, 0), Some((3, 0)), 4);
        check((3, 1), Some((3, 1)), 4);
        check((3, 2), Some((3, 2)), 32);
        check((3, 3), Some((3, 2)), 32);
        check((3, 9999), Some((3, 2)), 32);
        check((3, 0xffff), Some((3, 2)), 32);
        for asked in [(0, 0), (1, 0), (2, 0), (2, 2), (4, 0), (0xffff, 0xffff)] {
            check(asked, None, 0);
        }
    }

    #[test]
    fn refusals() {
        let text = "unsupported frontend protocol 2.0: server supports 3.0 to 3.2";
        assert_eq!(Version::new(2, 0).refusal(), text);
    }
}
