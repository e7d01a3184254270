//! [`Stream`]: the connection to a client or a server, whatever it runs over.
//!
//! Owns the difference between TCP and Unix sockets, and between plain and encrypted. Makes no connection and shakes no hands.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
#[cfg(target_os = "linux")]
use tokio::io::Interest;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// Bytes as they are.
    Plain(Socket),
    /// Encrypted. What was written may wait in memory; whoever reads next sends it, and so does a flush.
    Tls(Box<Encrypted>),
}

/// An encrypted connection. When it is dropped the other side is told that this is the end, as far as that goes without waiting:
/// an end without a word looks like an attack, and PostgreSQL complains of it in its log.
#[derive(Debug)]
pub struct Encrypted(TlsStream<Socket>);

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

impl Stream {
    /// Whether bytes can be read, or the end. Decrypted ones that were left over count.
    pub fn poll_read_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Plain(socket) => socket.poll_read_ready(context),
            Stream::Tls(stream) => {
                stream.send_rest(context);
                let (socket, left) = match &mut stream.0 {
                    TlsStream::Client(stream) => {
                        let (socket, session) = stream.get_mut();
                        (socket, session.process_new_packets())
                    }
                    TlsStream::Server(stream) => {
                        let (socket, session) = stream.get_mut();
                        (socket, session.process_new_packets())
                    }
                };
                let left = left.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
                if left.plaintext_bytes_to_read() > 0 || left.peer_has_closed() {
                    return Poll::Ready(Ok(()));
                }
                socket.poll_read_ready(context)
            }
        }
    }

    /// Whether something was written that has not been sent.
    pub fn needs_flush(&self) -> bool {
        match self {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => stream.0.get_ref().1.wants_write(),
        }
    }

    /// Whether nobody on the way can read or change what is said.
    pub fn is_encrypted(&self) -> bool {
        matches!(self, Stream::Tls(_))
    }

    /// The first byte of what is to be read, without taking it; `None` at the end, and where there cannot be a handshake.
    ///
    /// # Errors
    /// When the connection is lost.
    pub async fn first_byte(&self) -> io::Result<Option<u8>> {
        let Stream::Plain(Socket::Tcp(stream)) = self else { return Ok(None) };
        let mut byte = [0];
        Ok((stream.peek(&mut byte).await? > 0).then_some(byte[0]))
    }

    /// Waits until the other side has closed the connection, though what it has sent before that has not been read.
    pub async fn closed(&self) {
        self.socket().closed().await;
    }

    /// The version of TLS and the cipher, as PgBouncer shows them (`TLSv1.3/TLS_AES_256_GCM_SHA384/ECDH=X25519`); `None` in the
    /// clear.
    pub fn encryption(&self) -> Option<String> {
        let Stream::Tls(stream) = self else { return None };
        let session = stream.0.get_ref().1;
        let version = match session.protocol_version()? {
            ProtocolVersion::TLSv1_3 => "TLSv1.3",
            ProtocolVersion::TLSv1_2 => "TLSv1.2",
            _ => "TLS",
        };
        let cipher = session.negotiated_cipher_suite()?.suite().as_str()?.replacen("TLS13_", "TLS_", 1);
        let group = session.negotiated_key_exchange_group().map(|group| format!("/ECDH={:?}", group.name()));
        Some(format!("{version}/{cipher}{}", group.unwrap_or_default()))
    }

    /// The certificate that the other side has shown.
    pub fn certificate(&self) -> Option<&CertificateDer<'static>> {
        let Stream::Tls(stream) = self else { return None };
        stream.0.get_ref().1.peer_certificates()?.first()
    }

    /// The socket underneath.
    pub fn socket(&self) -> &Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.0.get_ref().0,
        }
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Peer {
        self.socket().peer()
    }

    /// Moves the connection to the event loop of the current thread.
    ///
    /// # Errors
    /// When the operating system refuses; the connection is closed then.
    pub fn move_here(mut self) -> io::Result<Stream> {
        let socket = match &mut self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.0.get_mut().0,
        };
        *socket = std::mem::replace(socket, Socket::Away).detach()?.attach()?;
        Ok(self)
    }
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
    async fn closed(&self) {
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

    fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
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

impl Encrypted {
    /// Sends what a full socket has not taken when it was written. One task owns both directions, so whoever waits for an answer
    /// also waits for the question to leave. A failure is not told here: what the peer had to say comes first.
    fn send_rest(&mut self, context: &mut Context<'_>) {
        if self.0.get_ref().1.wants_write() {
            let _ = Pin::new(&mut self.0).poll_flush(context);
        }
    }
}

impl Drop for Encrypted {
    fn drop(&mut self) {
        if !matches!(self.0.get_ref().0, Socket::Away) {
            let _ = Pin::new(&mut self.0).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl From<TlsStream<Socket>> for Stream {
    fn from(stream: TlsStream<Socket>) -> Stream {
        Stream::Tls(Box::new(Encrypted(stream)))
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Stream {
        Stream::Plain(Socket::Tcp(stream))
    }
}

impl AsyncRead for Stream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_read(context, buffer),
            Stream::Tls(stream) => {
                stream.send_rest(context);
                Pin::new(&mut stream.0).poll_read(context, buffer)
            }
        }
    }
}

impl AsyncWrite for Stream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(&mut stream.0).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_flush(context),
            Stream::Tls(stream) => Pin::new(&mut stream.0).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(socket) => Pin::new(socket).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(&mut stream.0).poll_shutdown(context),
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
