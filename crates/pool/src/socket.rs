//! [`Socket`]: TCP or a Unix socket, registered with an event loop.
//!
//! Owns the difference between the two, the move from one event loop to another, and the order of what it sends: small writes are letters
//! of its thread's [`post`](crate::post), and nothing overtakes them.

use std::fmt;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop;

use crate::post::{self, Fate, Left, Ticket};

/// A socket, registered with the event loop of the thread that made it.
#[derive(Debug)]
pub struct Socket {
    // Before the line: a letter goes before its socket is closed.
    mail: Mail,
    line: Line,
    /// Whose task the event loop tells when there is something to read, since there was nothing: asked by it again, it knows.
    reader: Option<Reader>,
}

/// A task, by where its waker has it. The event loop has a clone of that, so that no other task is taken for it: none is where one still
/// is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Reader(NonZeroUsize);

#[derive(Debug)]
enum Line {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// On its way to another event loop.
    Away,
}

/// What was written, and may not have been sent.
#[derive(Debug, Default)]
struct Mail {
    /// The last letter that was not asked for yet.
    ticket: Option<Ticket>,
    /// What is left of one. Nothing is written before it.
    left: Option<Box<Left>>,
}

/// A socket that no event loop knows.
#[derive(Debug)]
pub enum Detached {
    /// TCP.
    Tcp(std::net::TcpStream),
    /// A Unix socket.
    Unix(StdUnixStream),
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Somebody at this address.
    Tcp(SocketAddr),
    /// A process of this machine.
    Unix {
        /// The user that it ran as when it connected.
        uid: u32,
        /// Its number, where the system tells.
        process: Option<i32>,
    },
    /// The connection has ended, and nobody can tell any more.
    Gone,
}

impl Socket {
    /// One that is nowhere: what was in its place is on its way.
    pub const fn away() -> Socket {
        Socket { mail: Mail { ticket: None, left: None }, line: Line::Away, reader: None }
    }

    /// Whether it is on its way.
    pub(crate) fn is_away(&self) -> bool {
        matches!(self.line, Line::Away)
    }

    /// The socket, where it is TCP's. Not to be read from: this would not know that there is nothing left.
    pub fn tcp(&self) -> Option<&TcpStream> {
        match &self.line {
            Line::Tcp(stream) => Some(stream),
            Line::Unix(_) | Line::Away => None,
        }
    }

    /// Its number in this process; none while it is on its way.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        match &self.line {
            Line::Tcp(stream) => Some(stream.as_raw_fd()),
            Line::Unix(stream) => Some(stream.as_raw_fd()),
            Line::Away => None,
        }
    }

    /// Waits until the other side has closed it, though what it has sent before that has not been read.
    pub(crate) async fn closed(&self) {
        // To be readable is no news where bytes are left. Priority is for what is never sent; but an end makes it ready, too.
        #[cfg(target_os = "linux")]
        let _ended = match &self.line {
            Line::Tcp(stream) => stream.ready(Interest::PRIORITY | Interest::ERROR).await,
            Line::Unix(stream) => stream.ready(Interest::PRIORITY | Interest::ERROR).await,
            Line::Away => std::future::pending().await,
        };
        #[cfg(not(target_os = "linux"))]
        std::future::pending().await
    }

    /// Takes it from its event loop.
    ///
    /// # Errors
    /// When the operating system refuses, or what was written has not been sent.
    pub fn detach(mut self) -> io::Result<Detached> {
        self.settle();
        if self.has_left() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        match std::mem::replace(&mut self.line, Line::Away) {
            Line::Tcp(stream) => stream.into_std().map(Detached::Tcp),
            Line::Unix(stream) => stream.into_std().map(Detached::Unix),
            Line::Away => Err(away()),
        }
    }

    /// Sends at once what waits to be sent. Its thread, and no other, knows of it.
    pub(crate) fn settle(&mut self) {
        self.mail.settle();
    }

    /// Whether something was written that the socket has not taken.
    pub(crate) fn has_left(&self) -> bool {
        self.mail.left.is_some()
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        match &self.line {
            Line::Tcp(stream) => stream.peer_addr().map_or(Peer::Gone, Peer::Tcp),
            Line::Unix(stream) => stream
                .peer_cred()
                .map_or(Peer::Gone, |credentials| Peer::Unix { uid: credentials.uid(), process: credentials.pid() }),
            Line::Away => Peer::Gone,
        }
    }

    /// The address at this end, of TCP.
    pub fn local(&self) -> Option<SocketAddr> {
        self.tcp().and_then(|stream| stream.local_addr().ok())
    }

    /// Whether the event loop has heard nothing of bytes to read, or of the end. Costs no system call.
    pub(crate) fn is_silent(&self) -> bool {
        self.line.is_silent()
    }

    pub(crate) fn poll_read_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.send_left(context);
        self.poll_line(context, |line, context| line.poll_read_ready(context))
    }

    /// Asks the line, unless it is to tell this task anyway.
    #[inline]
    fn poll_line<T>(
        &mut self,
        context: &mut Context<'_>,
        ask: impl FnOnce(&mut Line, &mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let reader = Reader::of(context);
        if reader.is_some() && self.reader == reader && self.line.is_silent() {
            return Poll::Pending;
        }
        let answer = ask(&mut self.line, context);
        // A task that has had its share of a turn is put off, and woken, without anybody having looked at the line.
        self.reader = reader.filter(|_| answer.is_pending() && coop::has_budget_remaining());
        answer
    }

    /// Sends what the socket has not taken before. One task owns both directions, so whoever waits for an answer also waits for the
    /// question to leave. A failure is not told here: what the peer had to say comes first.
    #[inline]
    fn send_left(&mut self, context: &mut Context<'_>) {
        if !self.mail.is_empty() {
            let _ = self.poll_left(context);
        }
    }

    /// Sends what the socket has not taken before.
    fn poll_left(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.mail.collect();
        while let Some(left) = &mut self.mail.left {
            if let Some(errno) = left.errno {
                return Poll::Ready(Err(io::Error::from_raw_os_error(errno)));
            }
            match ready!(self.line.poll_write(context, &left.bytes)) {
                Ok(length) if length < left.bytes.len() => drop(left.bytes.drain(..length)),
                Ok(_) => self.mail.left = None,
                Err(error) => {
                    left.errno = error.raw_os_error().or(left.errno);
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Reader {
    /// `None` for a waker that is nowhere, which may be anybody's.
    #[inline]
    fn of(context: &Context<'_>) -> Option<Reader> {
        NonZeroUsize::new(context.waker().data().addr()).map(Reader)
    }
}

impl Line {
    #[inline]
    fn is_silent(&self) -> bool {
        match self {
            Line::Tcp(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_err(),
            Line::Unix(stream) => stream.try_io(Interest::READABLE, || Ok(())).is_err(),
            Line::Away => false,
        }
    }

    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Line::Tcp(stream) => stream.poll_read_ready(context),
            Line::Unix(stream) => stream.poll_read_ready(context),
            Line::Away => Poll::Ready(Err(away())),
        }
    }

    #[inline]
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Line::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Line::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Line::Away => Poll::Ready(Err(away())),
        }
    }

    fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Line::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Line::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Line::Away => Poll::Ready(Err(away())),
        }
    }

    #[inline]
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Line::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Line::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Line::Away => Poll::Ready(Err(away())),
        }
    }
}

impl Mail {
    #[inline]
    fn is_empty(&self) -> bool {
        self.ticket.is_none() && self.left.is_none()
    }

    /// Has the letter sent, and looks what has become of it.
    fn settle(&mut self) {
        if let Some(ticket) = self.ticket {
            post::hurry(ticket);
            self.collect();
        }
    }

    /// Looks what has become of the letter.
    fn collect(&mut self) {
        match self.ticket.map(post::ask) {
            None | Some(Fate::Waiting) => {}
            Some(Fate::Sent) => self.ticket = None,
            Some(Fate::Left(left)) => *self = Mail { ticket: None, left: Some(left) },
        }
    }
}

impl Drop for Mail {
    fn drop(&mut self) {
        self.settle();
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Socket {
        Socket { mail: Mail::default(), line: Line::Tcp(stream), reader: None }
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Socket {
        Socket { mail: Mail::default(), line: Line::Unix(stream), reader: None }
    }
}

impl Detached {
    /// What has come by now, as far as there is room for it. Nothing at the end and after an error: whoever reads next meets these, too.
    pub fn read_now<'r>(&self, room: &'r mut [u8]) -> &'r [u8] {
        let read = match self {
            Detached::Tcp(stream) => (&*stream).read(room),
            Detached::Unix(stream) => (&*stream).read(room),
        };
        &room[..read.unwrap_or(0)]
    }

    /// Registers it with the event loop of the current thread.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn attach(self) -> io::Result<Socket> {
        match self {
            Detached::Tcp(stream) => TcpStream::from_std(stream).map(Socket::from),
            Detached::Unix(stream) => UnixStream::from_std(stream).map(Socket::from),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        socket.send_left(context);
        let before = buffer.filled().len();
        let read = socket.poll_line(context, |line, context| line.poll_read(context, buffer));
        if buffer.filled().len() - before > post::LETTER_MAX {
            // Whoever moves much may keep the thread busy for long; others' letters do not wait for that.
            post::deliver();
        }
        read
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();
        if !socket.mail.is_empty() {
            // Two letters of one socket could not both be in the post: the second may fit where the first did not.
            socket.settle();
            ready!(socket.poll_left(context))?;
        }
        let ticket = socket.descriptor().and_then(|number| post::take(number, bytes, context.waker()));
        if ticket.is_some() {
            socket.mail.ticket = ticket;
            return Poll::Ready(Ok(bytes.len()));
        }
        // As when it is read.
        post::deliver();
        socket.line.poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What waits in the post is as good as sent.
        self.get_mut().poll_left(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        socket.settle();
        ready!(socket.poll_left(context))?;
        socket.line.poll_shutdown(context)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(address) => write!(formatter, "{address}"),
            Peer::Unix { .. } => formatter.write_str("unix"),
            Peer::Gone => formatter.write_str("unknown"),
        }
    }
}

fn away() -> io::Error {
    io::ErrorKind::NotConnected.into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use tokio::io::AsyncWriteExt;

    use super::*;

    #[derive(Default)]
    struct Told(AtomicBool);

    impl Wake for Told {
        fn wake(self: Arc<Told>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }

    fn ask(socket: &mut Socket, told: &Arc<Told>) -> Poll<Vec<u8>> {
        let waker = told.clone().into();
        let mut room = [0; 8];
        let mut room = ReadBuf::new(&mut room);
        let read = Pin::new(socket).poll_read(&mut Context::from_waker(&waker), &mut room);
        read.map(|read| read.map(|()| room.filled().to_vec()).unwrap())
    }

    #[tokio::test]
    async fn who_has_asked_last_is_told() {
        let (local, mut peer) = UnixStream::pair().unwrap();
        let mut socket = Socket::from(local);
        let [one, other] = [Arc::<Told>::default(), Arc::default()];
        // It may ask as often as it likes, and another may come and go in between.
        for asking in
            [&[&one][..], &[&one, &one], &[&one, &other], &[&one, &other, &one], &[&other, &other, &one, &one]]
        {
            assert!(asking.iter().all(|told| ask(&mut socket, told).is_pending()));
            peer.write_all(b"hello").await.unwrap();
            let last = asking[asking.len() - 1];
            while !last.0.swap(false, Ordering::SeqCst) {
                tokio::task::yield_now().await;
            }
            assert_eq!(ask(&mut socket, last), Poll::Ready(b"hello".to_vec()));
        }
        assert!(ask(&mut socket, &one).is_pending() && socket.is_silent());
        drop(peer);
        while !one.0.swap(false, Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        assert!(!socket.is_silent());
        assert_eq!(ask(&mut socket, &one), Poll::Ready(Vec::new()));
    }

    #[tokio::test]
    async fn who_was_put_off_is_told_all_the_same() {
        let (local, mut peer) = UnixStream::pair().unwrap();
        let (mut socket, told) = (Socket::from(local), Arc::default());
        while coop::has_budget_remaining() {
            coop::consume_budget().await;
        }
        assert!(ask(&mut socket, &told).is_pending());
        tokio::task::yield_now().await;
        told.0.store(false, Ordering::SeqCst);
        assert!(ask(&mut socket, &told).is_pending());
        peer.write_all(b"hello").await.unwrap();
        while socket.is_silent() {
            tokio::task::yield_now().await;
        }
        assert!(told.0.load(Ordering::SeqCst));
    }
}
