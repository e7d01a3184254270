//! The way to a server: a socket, and encryption on it, up to where a startup packet is due.
//!
//! Owns SSLRequest and its answer. Does not log in.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use wire::startup;

use crate::dial::{DialError, Target};
use crate::socket::Socket;
use crate::stream::Stream;
use crate::tls::Tls;

/// Connects, encrypted where the target says so; for what is no login, such as a cancel request. Takes as long as it takes.
///
/// # Errors
/// When the server cannot be reached, or not as safely as demanded.
pub async fn reach(target: &Target) -> Result<Stream, DialError> {
    match reach_as(target, true).await {
        Err(DialError::Tls(_)) if is_optional(target) => reach_as(target, false).await,
        reached => reached,
    }
}

/// Connects. Without `encrypted` in the clear, though the target says otherwise.
pub(crate) async fn reach_as(target: &Target, encrypted: bool) -> Result<Stream, DialError> {
    let socket = open(target).await?;
    match &target.tls {
        // "...unencrypted over a Unix-domain socket" (libpq-ssl): nobody can listen there who could not anyhow.
        Some(tls) if encrypted && socket.tcp().is_some() => encrypt(socket, tls, &target.host).await,
        _ => Ok(Stream::Plain(socket)),
    }
}

/// Whether a connection in the clear will do when an encrypted one cannot be had.
pub(crate) fn is_optional(target: &Target) -> bool {
    target.tls.as_ref().is_some_and(|tls| tls.optional)
}

async fn open(target: &Target) -> Result<Socket, DialError> {
    if target.host.starts_with('/') {
        let path = Path::new(&target.host).join(format!(".s.PGSQL.{}", target.port));
        return Ok(UnixStream::connect(path).await?.into());
    }
    let stream = match target.whereabouts.address() {
        Some(address) => TcpStream::connect((address, target.port)).await?,
        None => TcpStream::connect((target.host.as_str(), target.port)).await?,
    };
    stream.set_nodelay(true)?;
    if let Some(keepalive) = target.keepalive {
        keepalive.apply(&stream)?;
    }
    Ok(stream.into())
}

async fn encrypt(mut socket: Socket, tls: &Tls, host: &str) -> Result<Stream, DialError> {
    let mut request = Vec::new();
    startup::put_ssl_request(&mut request);
    socket.write_all(&request).await?;
    // One byte and no more: whatever follows is the handshake's.
    let mut answer = [0];
    socket.read_exact(&mut answer).await?;
    match answer[0] {
        b'S' if has_more(&mut socket).await => {
            // It would be taken for part of the encrypted connection (CVE-2021-23222).
            Err(DialError::Protocol("unencrypted bytes after the answer to SSLRequest"))
        }
        b'S' => {
            let stream = tls.connect(host, socket).await.map_err(|error| {
                // A server that dies in the middle of it is away, and may be back soon.
                let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
                if is_tls { DialError::Tls(Arc::new(error)) } else { error.into() }
            })?;
            Ok(stream.into())
        }
        b'N' if tls.optional => Ok(Stream::Plain(socket)),
        b'N' => Err(DialError::Unencrypted),
        // Also an ErrorResponse: nothing vouches for who wrote its text (CVE-2024-10977).
        _ => Err(DialError::Protocol("an answer to SSLRequest that is neither S nor N")),
    }
}

/// Whether there is anything to read already.
async fn has_more(socket: &mut Socket) -> bool {
    let mut byte = [0];
    poll_fn(|context| {
        let mut room = ReadBuf::new(&mut byte);
        let read = Pin::new(&mut *socket).poll_read(context, &mut room);
        Poll::Ready(matches!(read, Poll::Ready(Ok(()))) && !room.filled().is_empty())
    })
    .await
}

/// The failure of a connection that was encrypted, as far as another attempt in the clear may do better: libpq's "prefer" makes
/// one after a failed handshake, and when the server has no pg_hba.conf line for encrypted connections.
pub(crate) fn may_do_in_the_clear(error: &DialError, encrypted: bool) -> bool {
    match error {
        DialError::Tls(_) => true,
        DialError::Refused { code: Some(code), .. } => encrypted && &code.0 == b"28000",
        DialError::Refused { code: None, .. }
        | DialError::Io(_)
        | DialError::Timeout
        | DialError::Unencrypted
        | DialError::Auth(_)
        | DialError::Protocol(_) => false,
    }
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> DialError {
        DialError::Io(Arc::new(error))
    }
}
