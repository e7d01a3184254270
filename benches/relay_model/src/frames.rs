//! Finds the ends of messages in a server's byte stream, by their five-byte headers. It keeps the last ReadyForQuery's status
//! and looks at nothing else.

/// Where in a stream of messages we are. Messages may be cut anywhere by the reads that feed it.
#[derive(Default)]
pub(crate) struct Frames {
    header: [u8; HEADER],
    header_got: usize,
    body_left: usize,
    ready: Option<u8>,
}

impl Frames {
    /// Walks over the next bytes of the stream.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.header_got < HEADER {
                let take = bytes.len().min(HEADER - self.header_got);
                self.header[self.header_got..self.header_got + take].copy_from_slice(&bytes[..take]);
                self.header_got += take;
                bytes = &bytes[take..];
                self.ready = None;
                if self.header_got < HEADER {
                    return;
                }
                let [_, a, b, c, d] = self.header;
                // The length counts itself and not the type byte.
                self.body_left = (u32::from_be_bytes([a, b, c, d]) as usize).saturating_sub(4);
            }
            let take = bytes.len().min(self.body_left);
            self.body_left -= take;
            if self.body_left == 0 {
                if self.header[0] == b'Z' {
                    self.ready = bytes[..take].last().copied();
                }
                self.header_got = 0;
            }
            bytes = &bytes[take..];
        }
    }

    /// Whether the last message was a ReadyForQuery outside of any transaction: the server can be given to another client.
    pub(crate) fn released(&self) -> bool {
        self.ready == Some(b'I')
    }
}

const HEADER: usize = 5;

#[cfg(test)]
mod tests {
    use super::Frames;

    /// Whatever the cuts, the verdict at the end of the stream is the same.
    fn check(stream: &[u8], released: bool) {
        for piece in 1..=stream.len() {
            let mut frames = Frames::default();
            stream.chunks(piece).for_each(|bytes| frames.feed(bytes));
            assert_eq!(frames.released(), released, "{stream:?} in pieces of {piece}");
        }
    }

    #[test]
    fn only_an_idle_ready_for_query_releases() {
        check(b"Z\0\0\0\x05I", true);
        check(b"Z\0\0\0\x05T", false);
        check(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I", true);
        check(b"n\0\0\0\x04Z\0\0\0\x05I", true);
        check(b"Z\0\0\0\x05IC\0\0\0\x0dSELECT 1\0", false);
        check(b"D\0\0\0\x0aZ\0\0\0\x05I", false);
        check(b"Z\0\0\0\x05", false);
    }
}
