//! [`Socket`]: TCP or a Unix socket, registered with an event loop.
//!
//! Owns the difference between the two, the move from one event loop to another, and the order of what it sends: small writes are letters
//! of its thread's [`post`](crate::post), and nothing overtakes them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll};

#[cfg(target_os = "linux")]
use tokio::io::Interest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket, registered with the event loop of the thread that made it.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// On its way to another event loop.
    Away,
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
    /// Its number in this process; none while it is on its way.
    pub(crate) fn descriptor(&self) -> Option<RawFd> {
        match self {
            Socket::Tcp(socket) => Some(socket.as_raw_fd()),
            Socket::Unix(socket) => Some(socket.as_raw_fd()),
            Socket::Away => None,
        }
    }

    /// Waits until the other side has closed it, though what it has sent before that has not been read.
    pub(crate) async fn closed(&self) {
        // To be readable is no news where bytes are left. Priority is for what is never sent; but an end makes it ready, too.
        #[cfg(target_os = "linux")]
        let _ended = match self {
            Socket::Tcp(socket) => socket.ready(Interest::PRIORITY | Interest::ERROR).await,
            Socket::Unix(socket) => socket.ready(Interest::PRIORITY | Interest::ERROR).await,
            Socket::Away => std::future::pending().await,
        };
        #[cfg(not(target_os = "linux"))]
        std::future::pending().await
    }

    /// Takes it from its event loop.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn detach(self) -> io::Result<Detached> {
        match self {
            Socket::Tcp(stream) => stream.into_std().map(Detached::Tcp),
            Socket::Unix(stream) => stream.into_std().map(Detached::Unix),
            Socket::Away => Err(away()),
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        match self {
            Socket::Tcp(stream) => stream.peer_addr().map_or(Peer::Gone, Peer::Tcp),
            Socket::Unix(stream) => stream
                .peer_cred()
                .map_or(Peer::Gone, |credentials| Peer::Unix { uid: credentials.uid(), process: credentials.pid() }),
            Socket::Away => Peer::Gone,
        }
    }

    /// The address at this end, of TCP.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Socket::Tcp(stream) => stream.local_addr().ok(),
            Socket::Unix(_) | Socket::Away => None,
        }
    }

    pub(crate) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Socket::Tcp(stream) => stream.poll_read_ready(context),
            Socket::Unix(stream) => stream.poll_read_ready(context),
            Socket::Away => Poll::Ready(Err(away())),
        }
    }
}

impl Detached {
    /// Registers it with the event loop of the current thread.
    ///
    /// # Errors
    /// When the operating system refuses.
    pub fn attach(self) -> io::Result<Socket> {
        match self {
            Detached::Tcp(stream) => TcpStream::from_std(stream).map(Socket::Tcp),
            Detached::Unix(stream) => UnixStream::from_std(stream).map(Socket::Unix),
        }
    }
}

impl AsyncRead for Socket {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Socket::Away => Poll::Ready(Err(away())),
        }
    }
}

impl AsyncWrite for Socket {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Socket::Away => Poll::Ready(Err(away())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Socket::Unix(stream) => Pin::new(stream).poll_flush(context),
            Socket::Away => Poll::Ready(Err(away())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Socket::Away => Poll::Ready(Err(away())),
        }
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
