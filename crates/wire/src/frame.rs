//! Frames: a type byte, a 4-byte length that counts itself, and a body.
//!
//! Owns the reading of headers and the limits on lengths. Does not know what a message means.

/// The header of a frame, read from its first five bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The message's type byte.
    pub tag: u8,
    /// The length of the whole frame in bytes: type byte, length field and body.
    pub length: usize,
}

impl Header {
    /// Bytes of a header: the type byte and the length field.
    pub const SIZE: usize = 5;

    /// Reads the header at the start of `bytes`; `None` when fewer than [`Header::SIZE`] bytes are at hand.
    ///
    /// # Errors
    /// [`Malformed::Length`] when the length field cannot be right: nothing may be allocated on its word.
    #[inline]
    pub fn peek(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
        let Some(&[tag, a, b, c, d]) = bytes.first_chunk::<5>() else { return Ok(None) };
        let claimed = u32::from_be_bytes([a, b, c, d]);
        if (LENGTH_MIN..=LENGTH_MAX).contains(&claimed) {
            Ok(Some(Header { tag, length: claimed as usize + 1 }))
        } else {
            Err(Malformed::Length { tag, claimed })
        }
    }

    /// What is wrong with a message that is longer than its receiver takes.
    #[must_use]
    pub(crate) fn refuse(self) -> Malformed {
        let claimed = u32::try_from(self.length - 1).expect("a header's length came from 32 bits");
        Malformed::Length { tag: self.tag, claimed }
    }
}

/// One complete frame, borrowed from a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message's type byte.
    pub tag: u8,
    /// The whole frame, header included.
    pub whole: &'a [u8],
}

impl<'a> Frame<'a> {
    /// Takes the first complete frame of `bytes`; `None` when it has not arrived whole.
    ///
    /// # Errors
    /// [`Malformed::Length`], as [`Header::peek`].
    #[inline]
    pub fn take(bytes: &'a [u8]) -> Result<Option<Frame<'a>>, Malformed> {
        Ok(Header::peek(bytes)?
            .and_then(|header| bytes.get(..header.length).map(|whole| Frame { tag: header.tag, whole })))
    }

    /// The body: what follows the header.
    #[inline]
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        &self.whole[Header::SIZE..]
    }
}

/// The complete frames at the start of a buffer, one after another. Stops at the first incomplete or malformed one.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Frames<'a> {
    /// Walks the frames of `bytes`.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Frames<'a> {
        Frames { rest: bytes }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Frame<'a>;

    fn next(&mut self) -> Option<Frame<'a>> {
        let frame = Frame::take(self.rest).ok().flatten()?;
        self.rest = &self.rest[frame.whole.len()..];
        Some(frame)
    }
}

/// Bytes that are not the protocol. The connection they came from is beyond repair.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A length field outside of what PostgreSQL accepts.
    #[error("invalid length {claimed} in a message of type 0x{tag:02x}")]
    Length {
        /// The message's type byte; 0 for a startup packet.
        tag: u8,
        /// What the length field said, in bytes.
        claimed: u32,
    },
    /// A body that does not have the form that its type prescribes.
    #[error("malformed message of type 0x{tag:02x}: {what}")]
    Body {
        /// The message's type byte; 0 for a startup packet.
        tag: u8,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A reader over a message's body; every step answers `None` rather than reading past the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(rest: &'a [u8]) -> Cursor<'a> {
        Cursor { rest }
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    pub(crate) fn int(&mut self) -> Option<i32> {
        let (first, rest) = self.rest.split_first_chunk::<4>()?;
        self.rest = rest;
        Some(i32::from_be_bytes(*first))
    }

    /// The bytes up to the next NUL, which is skipped.
    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        // Names are empty more often than not.
        let end = if self.rest.first() == Some(&0) { 0 } else { memchr::memchr(0, self.rest)? };
        let (text, rest) = self.rest.split_at(end);
        self.rest = &rest[1..];
        Some(text)
    }

    pub(crate) fn rest(self) -> &'a [u8] {
        self.rest
    }

    pub(crate) fn is_empty(self) -> bool {
        self.rest.is_empty()
    }
}

/// Writes a frame: the header, whose length is filled in when `body` has written the rest.
pub(crate) fn put(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[tag, 0, 0, 0, 0]);
    body(out);
    let length = u32::try_from(out.len() - start - 1).expect("a frame that we write is under 4 GB");
    out[start + 1..start + Header::SIZE].copy_from_slice(&length.to_be_bytes());
}

/// The length field counts itself.
const LENGTH_MIN: u32 = 4;

/// PostgreSQL's own limit on a message, `PQ_LARGE_MESSAGE_LIMIT` = `MaxAllocSize - 1`, with some room: a server may send
/// slightly more than it accepts.
const LENGTH_MAX: u32 = 0x7fff_ffff;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Result<Option<Header>, Malformed>) {
        assert_eq!(Header::peek(bytes), expected, "{bytes:?}");
    }

    #[test]
    fn headers() {
        check(b"", Ok(None));
        check(b"Q\0\0\0", Ok(None));
        check(b"S\0\0\0\x04", Ok(Some(Header { tag: b'S', length: 5 })));
        check(b"Q\0\0\x01\0...", Ok(Some(Header { tag: b'Q', length: 257 })));
    }

    #[test]
    fn lengths_that_lie() {
        for claimed in [0, 3, 0x8000_0000, 0xffff_ffff] {
            let mut bytes = vec![b'Q'];
            bytes.extend(u32::to_be_bytes(claimed));
            check(&bytes, Err(Malformed::Length { tag: b'Q', claimed }));
        }
    }

    #[test]
    fn frames_stop_at_the_first_incomplete_one() {
        let bytes = b"1\0\0\0\x042\0\0\0\x04Z\0\0\0\x05";
        let tags: Vec<u8> = Frames::new(bytes).map(|frame| frame.tag).collect();
        assert_eq!(tags, b"12");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_walked_without_panic(bytes: Vec<u8>) {
            let walked: usize = Frames::new(&bytes).map(|frame| frame.whole.len()).sum();
            assert!(walked <= bytes.len());
        }
    }
}
