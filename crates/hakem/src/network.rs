//! The TCP sockets that clients connect to, and how one waits for clients at any listening socket.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use config::Keepalive;
use rustix::net::{SocketAddrAny, SocketFlags, acceptfrom_with};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A TCP socket that clients come in by. They inherit its options, so that none has to be set for each of them: Linux copies a
/// listening socket's in the handshake.
pub(crate) struct NetworkSocket {
    listener: Listener<TcpListener>,
    keepalive: Option<Keepalive>,
}

impl NetworkSocket {
    /// Opens one.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub(crate) fn open(address: SocketAddr, keepalive: Option<Keepalive>) -> io::Result<NetworkSocket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        set_keepalive(&socket, keepalive)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(NetworkSocket { listener: Listener::new(socket.into()), keepalive })
    }

    /// The address that it got.
    ///
    /// # Errors
    /// When the system does not say.
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.socket.local_addr()
    }

    /// The next client, and its address. `keepalive` is asked when there is one: what is configured at present.
    ///
    /// # Errors
    /// When there can be none at the moment.
    pub(crate) async fn accept(
        &mut self,
        keepalive: impl FnOnce() -> Option<Keepalive>,
    ) -> io::Result<(TcpStream, Option<SocketAddr>)> {
        let (client, address) = self.listener.accept().await?;
        self.change(keepalive(), &client)?;
        Ok((client.into(), address.and_then(|address| SocketAddr::try_from(address).ok())))
    }

    /// Sees to it that whoever comes, and who has come just now, has what is configured at present.
    fn change(&mut self, wanted: Option<Keepalive>, client: &OwnedFd) -> io::Result<()> {
        if self.keepalive == wanted {
            return Ok(());
        }
        set_keepalive(&self.listener.socket, wanted)?;
        set_keepalive(client, wanted)?;
        self.keepalive = wanted;
        Ok(())
    }
}

/// A listening socket. The event loop of whoever waits there first tells when somebody has come.
pub(crate) struct Listener<L> {
    // Before the socket, which it must not outlive.
    watched: Option<AsyncFd<RawFd>>,
    socket: L,
}

impl<L: AsRawFd + AsFd> Listener<L> {
    pub(crate) fn new(socket: L) -> Listener<L> {
        Listener { watched: None, socket }
    }

    /// The next client, with its address. tokio's own listeners would register the client's socket with the event loop of this thread,
    /// which it may leave at once.
    ///
    /// # Errors
    /// When there can be none at the moment.
    pub(crate) async fn accept(&mut self) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
        let Listener { watched, socket } = self;
        let watched = match watched {
            Some(watched) => watched,
            None => watched.insert(watch(socket.as_raw_fd())?),
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        watched.async_io(Interest::READABLE, |_| Ok(acceptfrom_with(&*socket, flags)?)).await
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe, on behalf of owners whose descriptor changes; the standard library's does not"
)]
fn watch(socket: RawFd) -> io::Result<AsyncFd<RawFd>> {
    AsyncFd::with_interest(socket, Interest::READABLE)
}

fn set_keepalive(socket: &impl AsFd, wanted: Option<Keepalive>) -> io::Result<()> {
    let plain = SockRef::from(socket);
    plain.set_keepalive(false)?;
    plain.set_tcp_user_timeout(None)?;
    wanted.map_or(Ok(()), |configured| keepalive(configured).apply(socket))
}

/// How dead peers are noticed, as configured.
pub(crate) fn keepalive(configured: Keepalive) -> pool::Keepalive {
    let Keepalive { idle, interval, count, user_timeout } = configured;
    pool::Keepalive { idle, interval, count, user_timeout }
}

/// Connections that the kernel keeps while they wait to be accepted.
pub(crate) const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn keepalive(seconds: u64) -> Keepalive {
        let (idle, user_timeout) = (Duration::from_secs(seconds), Some(Duration::from_secs(seconds)));
        Keepalive { idle, interval: Duration::from_secs(7), count: 3, user_timeout }
    }

    /// What a client has that comes while this is configured: its `TCP_KEEPIDLE`, where it is probed, and its `TCP_USER_TIMEOUT`.
    async fn come(socket: &mut NetworkSocket, configured: Option<Keepalive>) -> (Option<Duration>, Option<Duration>) {
        let connected = TcpStream::connect(socket.address().expect("it is bound")).expect("it listens");
        let (client, address) = socket.accept(|| configured).await.expect("somebody comes");
        assert_eq!(address, connected.local_addr().ok());
        let client = SockRef::from(&client);
        assert!(client.tcp_nodelay().expect("it is a TCP socket"));
        let probed = client.keepalive().expect("it is a socket");
        let idle = probed.then(|| client.tcp_keepalive_time().expect("it is a TCP socket"));
        (idle, client.tcp_user_timeout().expect("it is a TCP socket"))
    }

    #[tokio::test]
    async fn clients_have_what_is_configured_when_they_come() {
        let here = "127.0.0.1:0".parse().expect("an address");
        let mut socket = NetworkSocket::open(here, Some(keepalive(50))).expect("a port is free");
        for seconds in [50, 60, 60] {
            let expected = Some(Duration::from_secs(seconds));
            assert_eq!(come(&mut socket, Some(keepalive(seconds))).await, (expected, expected));
        }
        let without = Keepalive { user_timeout: None, ..keepalive(70) };
        for _ in 0..2 {
            assert_eq!(come(&mut socket, Some(without)).await, (Some(without.idle), None));
        }
        for _ in 0..2 {
            assert_eq!(come(&mut socket, None).await, (None, None));
        }
    }
}
