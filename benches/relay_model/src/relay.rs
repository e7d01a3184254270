//! Raw bytes both ways between one client and one server, both driven by the client's task.
//!
//! It owns the two buffers. It parses nothing, and half-closes nothing: when one side ends, so does the other.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Relays until either side closes.
pub(crate) async fn serve(mut client: TcpStream, server: SocketAddr) -> io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    let (mut up, mut down) = (Way::new(), Way::new());
    std::future::poll_fn(|cx| {
        if up.poll(cx, &mut client, &mut server, |_| ())?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        down.poll(cx, &mut server, &mut client, |_| ())
    })
    .await
}

/// One direction: bytes read and not yet written.
pub(crate) struct Way {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Way {
    pub(crate) fn new() -> Way {
        Way { buffer: vec![0; BUFFER].into(), start: 0, end: 0 }
    }

    /// Moves what can be moved; ready when `from` has ended.
    ///
    /// What was read is written at once, not after a wait for writability. `poll_read` and not `try_read`: only the former
    /// takes a read that left room in the buffer as the sign that the socket is empty, which saves a read that would fail.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
        mut seen: impl FnMut(&[u8]),
    ) -> Poll<io::Result<()>> {
        loop {
            while self.start < self.end {
                let pending = &self.buffer[self.start..self.end];
                self.start += ready!(Pin::new(&mut *to).poll_write(cx, pending))?;
            }
            let mut read = ReadBuf::new(&mut self.buffer);
            ready!(Pin::new(&mut *from).poll_read(cx, &mut read))?;
            let read = read.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            seen(read);
            (self.start, self.end) = (0, read.len());
        }
    }

    /// Puts bytes that came by another way in front.
    pub(crate) fn fill(&mut self, bytes: &[u8]) {
        debug_assert!(self.is_empty());
        self.buffer[..bytes.len()].copy_from_slice(bytes);
        (self.start, self.end) = (0, bytes.len());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.start == self.end
    }
}

/// Bytes in flight one way; the size of PostgreSQL's own socket buffer.
pub(crate) const BUFFER: usize = 8192;
