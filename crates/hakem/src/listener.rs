//! The doors: sockets that clients connect to, and the dealing of connections to workers.
//!
//! The first worker lets everybody in and deals each connection to the worker with the fewest, itself included. A thread for nothing else would
//! have to be woken for each, and wake a worker. The kernel's own dealing (SO_REUSEPORT per worker) goes by a hash of the address, which gives
//! thirty clients to one of two workers often enough; a connection is dealt once in its life.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use config::Keepalive;
use pool::Detached;
use wire::backend::Failure;

use crate::lobby::Origin;
use crate::lobby::Seat;
use crate::local::LocalSocket;
use crate::network::NetworkSocket;
use crate::worker::Worker;

/// Where clients come in.
pub(crate) enum Door {
    /// From anywhere.
    Tcp(NetworkSocket),
    /// From this machine.
    Local(LocalSocket),
}

/// A connection that nobody has served yet.
pub(crate) struct Arrival {
    pub(crate) stream: Detached,
    /// Where it comes from, where the system has told.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) seat: Seat,
}

impl Door {
    /// The next client, and where it comes from. `keepalive` is asked when there is one.
    async fn accept(
        &mut self,
        keepalive: impl FnOnce() -> Option<Keepalive>,
    ) -> io::Result<(Detached, Option<SocketAddr>)> {
        match self {
            Door::Tcp(socket) => {
                let (stream, address) = socket.accept(keepalive).await?;
                Ok((Detached::Tcp(stream), address))
            }
            Door::Local(socket) => Ok((Detached::Unix(socket.accept().await?), None)),
        }
    }
}

/// Deals connections until it is dropped.
pub(crate) async fn deal(mut door: Door, worker: Rc<Worker>) {
    let service = &worker.service;
    loop {
        service.lobby.calm().await;
        let (stream, address) = match door.accept(|| service.config().proxy.keepalive).await {
            Ok(client) => client,
            Err(error) => {
                // Out of descriptors, or the peer gave up: neither is helped by asking again at once.
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let origin = address.map_or(Origin::HERE, |address| Origin::of(address.ip()));
        let Some(seat) = service.lobby.enter(origin, service.config().proxy.logins_max) else {
            refuse(stream);
            continue;
        };
        let arrival = Arrival { stream, address, seat };
        match service.crew.idlest() {
            Some(id) if id == worker.id => worker.take_on(arrival),
            Some(id) => service.crew.give(id, arrival),
            None => return,
        }
    }
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

const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);
