//! The doors: sockets that clients connect to, and the dealing of connections to workers.
//!
//! One acceptor deals each connection to the worker with the fewest. The kernel's own dealing (SO_REUSEPORT per worker) goes by
//! a hash of the address, which gives thirty clients to one of two workers often enough; a connection is dealt once in its
//! life.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use config::Keepalive;
use pool::Detached;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use wire::backend::Failure;

use crate::lobby::Origin;
use crate::local::LocalSocket;
use crate::service::Service;
use crate::worker::Handle;

/// Where clients come in.
pub(crate) enum Door {
    /// From anywhere.
    Tcp(TcpListener),
    /// From this machine.
    Local(LocalSocket),
}

impl Door {
    /// The next client; `None` when it has gone already.
    async fn accept(&self, keepalive: impl FnOnce() -> Option<Keepalive>) -> io::Result<Option<Detached>> {
        let detached = match self {
            Door::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                prepare(&stream, keepalive()).and_then(|()| stream.into_std()).map(Detached::Tcp)
            }
            Door::Local(socket) => socket.accept().await?.into_std().map(Detached::Unix),
        };
        Ok(detached.ok())
    }
}

/// Opens a door.
///
/// # Errors
/// When the address cannot be had.
pub(crate) fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Deals connections until it is dropped.
pub(crate) async fn deal(door: Door, service: Arc<Service>, workers: Arc<Vec<Handle>>) {
    loop {
        service.lobby.calm().await;
        let stream = match door.accept(|| service.config().proxy.keepalive).await {
            Ok(Some(stream)) => stream,
            Ok(None) => continue,
            Err(error) => {
                // Out of descriptors, or the peer gave up: neither is helped by asking again at once.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Some(seat) = service.lobby.enter(origin(&stream), service.config().proxy.logins_max) else {
            refuse(stream);
            continue;
        };
        if let Some(worker) = workers.iter().take(service.crew.open()).min_by_key(|worker| worker.load()) {
            worker.serve(stream, seat);
        }
    }
}

fn origin(stream: &Detached) -> Origin {
    match stream {
        Detached::Tcp(stream) => stream.peer_addr().map_or(Origin::HERE, |address| Origin::of(address.ip())),
        Detached::Unix(_) => Origin::HERE,
    }
}

fn prepare(stream: &tokio::net::TcpStream, keepalive: Option<Keepalive>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    keepalive.map_or(Ok(()), |configured| self::keepalive(configured).apply(stream))
}

/// How dead peers are noticed, as configured.
pub(crate) fn keepalive(configured: Keepalive) -> pool::Keepalive {
    let Keepalive { idle, interval, count, user_timeout } = configured;
    pool::Keepalive { idle, interval, count, user_timeout }
}

/// Tells a client that too many are logging in; one write into an empty socket buffer, without waiting.
fn refuse(stream: Detached) {
    use std::io::Write;
    let mut out = Vec::new();
    Failure::fatal("53300", "too many connections are logging in (logins_max)").put(&mut out);
    let _ = match stream {
        Detached::Tcp(mut stream) => stream.write_all(&out),
        Detached::Unix(mut stream) => stream.write_all(&out),
    };
}

/// Connections that the kernel keeps while they wait to be accepted.
pub(crate) const BACKLOG: i32 = 4096;

const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
