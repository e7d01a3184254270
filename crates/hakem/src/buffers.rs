//! Buffers of the relay: taken from the worker when a session wakes up, given back when it sleeps.
//!
//! Owns bytes in transit. Knows nothing of messages.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pool::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::shelf::Shelf;

/// A worker's spare buffers.
#[derive(Debug, Default)]
pub(crate) struct Spares {
    inboxes: Shelf<Vec<u8>>,
    outboxes: Shelf<Vec<u8>>,
    /// What had to grow for a long message, the larger of what there was: the next one is then read without growing through all sizes.
    grown: RefCell<Vec<u8>>,
}

impl Spares {
    /// An empty buffer to read into.
    pub(crate) fn inbox(&self) -> Inbox {
        let storage = self.inboxes.take().unwrap_or_else(|| vec![0; INBOX_BYTES]);
        Inbox { storage, start: 0, end: 0 }
    }

    /// An empty buffer to write from.
    pub(crate) fn outbox(&self) -> Vec<u8> {
        self.outboxes.take().unwrap_or_else(|| Vec::with_capacity(OUTBOX_BYTES))
    }

    /// More room for a message that does not fit. It grows as bytes arrive, never on the word of a length field.
    pub(crate) fn grow(&self, inbox: &mut Inbox) {
        let mut larger = self.grown.take();
        if larger.len() <= inbox.storage.len() {
            self.grown.replace(larger);
            inbox.grow();
            return;
        }
        let unread = inbox.unread();
        larger[..unread.len()].copy_from_slice(unread);
        (inbox.start, inbox.end) = (0, unread.len());
        self.put(std::mem::replace(&mut inbox.storage, larger));
    }

    /// Takes a buffer back.
    pub(crate) fn give_inbox(&self, inbox: &mut Inbox) {
        (inbox.start, inbox.end) = (0, 0);
        self.put(std::mem::take(&mut inbox.storage));
    }

    fn put(&self, storage: Vec<u8>) {
        if storage.len() == INBOX_BYTES {
            self.inboxes.put(storage);
        } else if storage.len() <= GROWN_BYTES_MAX {
            let mut grown = self.grown.borrow_mut();
            if storage.len() > grown.len() {
                *grown = storage;
            }
        }
    }

    /// Takes a buffer back. One that has grown is freed.
    pub(crate) fn give_outbox(&self, mut outbox: Vec<u8>) {
        outbox.clear();
        if outbox.capacity() <= 2 * OUTBOX_BYTES {
            self.outboxes.put(outbox);
        }
    }
}

/// Bytes that have been read and not yet used: `storage[start..end]`.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    storage: Vec<u8>,
    start: usize,
    end: usize,
}

impl Inbox {
    /// Holds what was read elsewhere.
    pub(crate) fn of(storage: Vec<u8>) -> Inbox {
        let end = storage.len();
        Inbox { storage, start: 0, end }
    }

    pub(crate) fn unread(&self) -> &[u8] {
        &self.storage[self.start..self.end]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether it has no memory: [`Spares::inbox`] gives it some.
    pub(crate) fn is_bare(&self) -> bool {
        self.storage.is_empty()
    }

    /// The position of the first unread byte, for [`Inbox::slice`].
    pub(crate) fn position(&self) -> usize {
        self.start
    }

    /// Bytes by position, also such as have been consumed, as long as nothing was read since.
    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        &self.storage[range]
    }

    pub(crate) fn capacity(&self) -> usize {
        self.storage.len()
    }

    pub(crate) fn consume(&mut self, length: usize) {
        self.start += length;
        debug_assert!(self.start <= self.end, "only what was read can be consumed");
    }

    /// Whether nothing can be read without growing.
    pub(crate) fn is_full(&self) -> bool {
        self.end - self.start == self.storage.len()
    }

    /// Doubles the room.
    fn grow(&mut self) {
        let length = (self.storage.len() * 2).max(INBOX_BYTES);
        self.storage.resize(length, 0);
    }

    /// Reads once into the room behind what is unread. `Ok(0)` is the end of the stream. Positions are void afterwards.
    pub(crate) fn poll_fill(&mut self, stream: &mut Stream, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.storage.len() && self.start > 0 {
            self.storage.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut room = ReadBuf::new(&mut self.storage[self.end..]);
        ready!(Pin::new(stream).poll_read(context, &mut room))?;
        let length = room.filled().len();
        self.end += length;
        Poll::Ready(Ok(length))
    }
}

/// Bytes on their way to the client: first what was put together, then a run of bytes that lie in the server's inbox and need
/// no copying.
#[derive(Debug)]
pub(crate) struct Outgoing {
    copied: Vec<u8>,
    written: usize,
    run: Range<usize>,
    /// How many of the bytes that have not been written belong to answers that are final: they are not dropped with what comes behind
    /// them.
    released: usize,
}

impl Outgoing {
    pub(crate) fn new(copied: Vec<u8>) -> Outgoing {
        Outgoing { copied, written: 0, run: 0..0, released: 0 }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.written == self.copied.len() && self.run.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.copied.len() - self.written + self.run.len()
    }

    /// Adds bytes of the inbox by position.
    pub(crate) fn forward(&mut self, inbox: &Inbox, range: Range<usize>) {
        if self.run.end == range.start && !self.run.is_empty() {
            self.run.end = range.end;
        } else {
            self.settle(inbox);
            self.run = range;
        }
    }

    /// Copies the run, so that the inbox may be read into.
    pub(crate) fn settle(&mut self, inbox: &Inbox) {
        if !self.run.is_empty() {
            self.copied.extend_from_slice(inbox.slice(std::mem::take(&mut self.run)));
        }
    }

    /// The buffer to add bytes to that do not come from the inbox.
    pub(crate) fn buffer(&mut self, inbox: &Inbox) -> &mut Vec<u8> {
        self.settle(inbox);
        &mut self.copied
    }

    /// What there is so far is final.
    pub(crate) fn release(&mut self) {
        self.released = self.len();
    }

    /// Whether there is anything final.
    pub(crate) fn has_released(&self) -> bool {
        self.released > 0
    }

    /// How much of it is final.
    pub(crate) fn released(&self) -> usize {
        self.released
    }

    /// Forgets what is not final.
    pub(crate) fn revoke(&mut self) {
        let copied = self.copied.len() - self.written;
        if self.released <= copied {
            self.copied.truncate(self.written + self.released);
            self.run = 0..0;
        } else {
            self.run.end = self.run.start + (self.released - copied);
        }
    }

    /// Writes until nothing is left, or nothing final; `Ready(Ok(true))` when something was written.
    pub(crate) fn poll_write(
        &mut self,
        only_released: bool,
        inbox: &Inbox,
        stream: &mut Stream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        let mut progress = false;
        loop {
            let copied = &self.copied[self.written..];
            let from_copied = !copied.is_empty();
            let mut bytes = if from_copied { copied } else { inbox.slice(self.run.clone()) };
            if bytes.is_empty() {
                self.copied.clear();
                self.written = 0;
                return Poll::Ready(Ok(progress));
            }
            if only_released {
                bytes = &bytes[..bytes.len().min(self.released)];
                if bytes.is_empty() {
                    return Poll::Ready(Ok(progress));
                }
            }
            let length = match Pin::new(&mut *stream).poll_write(context, bytes) {
                Poll::Pending if progress => return Poll::Ready(Ok(true)),
                other => ready!(other)?,
            };
            if length == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            progress = true;
            self.released = self.released.saturating_sub(length);
            if from_copied {
                self.written += length;
            } else {
                self.run.start += length;
            }
        }
    }

    /// What has not been written, as one buffer.
    pub(crate) fn into_rest(mut self, inbox: &Inbox) -> Vec<u8> {
        self.settle(inbox);
        self.copied.drain(..self.written);
        self.copied
    }
}

/// Bytes of a buffer that is read into. A server's message that is larger is passed on in pieces.
pub(crate) const INBOX_BYTES: usize = 32 * 1024;

/// Bytes of a grown buffer that a worker keeps: enough for a message of 1 MB.
const GROWN_BYTES_MAX: usize = 2 << 20;

/// Bytes of a fresh buffer that is written from.
const OUTBOX_BYTES: usize = 4 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn inbox(bytes: &[u8]) -> Inbox {
        Inbox::of(bytes.to_vec())
    }

    #[test]
    fn neighbouring_runs_are_one() {
        let (inbox, mut outgoing) = (inbox(b"abcdef"), Outgoing::new(Vec::new()));
        outgoing.forward(&inbox, 0..2);
        outgoing.forward(&inbox, 2..4);
        assert!(outgoing.copied.is_empty(), "nothing is copied");
        assert_eq!(outgoing.into_rest(&inbox), b"abcd");
    }

    #[test]
    fn the_order_is_kept() {
        let (inbox, mut outgoing) = (inbox(b"abcdef"), Outgoing::new(Vec::new()));
        outgoing.forward(&inbox, 0..1);
        outgoing.forward(&inbox, 2..3);
        outgoing.buffer(&inbox).extend_from_slice(b"-");
        outgoing.forward(&inbox, 3..5);
        assert_eq!(outgoing.len(), 5);
        assert_eq!(outgoing.into_rest(&inbox), b"ac-de");
    }

    #[test]
    fn what_is_final_stays() {
        for settles in [false, true] {
            for copied in [&b""[..], b"-"] {
                let (inbox, mut outgoing) = (inbox(b"abcdef"), Outgoing::new(copied.to_vec()));
                outgoing.forward(&inbox, 0..2);
                outgoing.release();
                outgoing.forward(&inbox, 2..4);
                if settles {
                    outgoing.settle(&inbox);
                    outgoing.forward(&inbox, 5..6);
                }
                outgoing.revoke();
                assert_eq!(outgoing.into_rest(&inbox), [copied, b"ab"].concat());
            }
        }
    }

    #[test]
    fn one_grown_buffer_is_kept() {
        let spares = Spares::default();
        let mut first = spares.inbox();
        first.end = INBOX_BYTES;
        first.storage[INBOX_BYTES - 1] = b'x';
        first.consume(INBOX_BYTES - 1);
        spares.grow(&mut first);
        spares.grow(&mut first);
        assert_eq!((first.capacity(), first.unread()), (4 * INBOX_BYTES, &b"x"[..]));
        let mut second = spares.inbox();
        spares.grow(&mut second);
        spares.give_inbox(&mut first);
        spares.give_inbox(&mut second);
        assert!(first.is_bare() && spares.inboxes.is_empty(), "neither is of the usual size");

        let mut third = inbox(b"yz");
        third.consume(1);
        spares.grow(&mut third);
        assert_eq!((third.capacity(), third.unread()), (4 * INBOX_BYTES, &b"z"[..]), "the larger one was kept");
        spares.grow(&mut third);
        assert_eq!(third.capacity(), 8 * INBOX_BYTES);
    }

    #[test]
    fn what_has_grown_too_large_is_freed() {
        let (spares, mut inbox) = (Spares::default(), Inbox::default());
        while inbox.capacity() <= GROWN_BYTES_MAX {
            spares.grow(&mut inbox);
        }
        spares.give_inbox(&mut inbox);
        assert!(spares.grown.take().is_empty());
    }

    #[test]
    fn usual_buffers_are_kept() {
        let spares = Spares::default();
        let mut inbox = spares.inbox();
        spares.give_inbox(&mut inbox);
        assert_eq!(spares.inboxes.len(), 1);
    }
}
