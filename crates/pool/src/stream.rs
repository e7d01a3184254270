//! [`Stream`]: the connection to a client or a server, whatever it runs over.
//!
//! Owns the difference between plain and encrypted; the one between TCP and Unix sockets is `socket`'s. Makes no connection and shakes no hands.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use rustls::ProtocolVersion;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::socket::{Peer, Socket};

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

    /// Whether there is certainly nothing to be read. Costs no system call.
    #[inline]
    pub(crate) fn is_silent(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.is_silent(),
            Stream::Tls(_) => false,
        }
    }

    /// Whether something was written that has not been sent.
    pub fn needs_flush(&self) -> bool {
        match self {
            Stream::Plain(socket) => socket.has_left(),
            Stream::Tls(stream) => stream.0.get_ref().1.wants_write() || stream.0.get_ref().0.has_left(),
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
        let Stream::Plain(socket) = self else { return Ok(None) };
        let Some(stream) = socket.tcp() else { return Ok(None) };
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
        let socket = self.socket_mut();
        *socket = std::mem::replace(socket, Socket::away()).detach()?.attach()?;
        Ok(self)
    }

    /// Sends at once what waits to be sent together with others': whoever has the connection next may be another thread.
    pub fn settle(&mut self) {
        self.socket_mut().settle();
    }

    fn socket_mut(&mut self) -> &mut Socket {
        match self {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => stream.0.get_mut().0,
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
        if !self.0.get_ref().0.is_away() {
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
        Stream::Plain(Socket::from(stream))
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
