//! Replication connections: a client that wants the primary's WAL gets a server connection of its own, and bytes pass both ways.
//!
//! Owns the tunnel from the end of the login to the end of either side. Knows of messages only where they begin and end, so that it can say
//! something between two of them: in COPY BOTH both sides speak when they like, and neither waits for the other.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pool::{Connection, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use topology::{Choice, NodeId};
use wire::backend::{Failure, tag};
use wire::frame::Header;
use wire::frontend;
use wire::startup::CancelKey;

use crate::asked::Replication;
use crate::cancel::Registered;
use crate::route;
use crate::tenant::Tenant;
use crate::worker::Slot;

/// A server connection that belongs to one client.
pub(crate) struct Tunnel {
    pub(crate) server: Connection<()>,
    /// The client's cancel requests go to this server as long as it lives.
    cancel: Registered,
    tenant: Arc<Tenant>,
    node: NodeId,
    _counted: Counted,
}

/// How many tunnels there are.
#[derive(Default)]
pub(crate) struct Tunnels(Arc<AtomicUsize>);

struct Counted(Arc<AtomicUsize>);

impl Tunnels {
    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self) -> Counted {
        self.0.fetch_add(1, Ordering::Relaxed);
        Counted(self.0.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Tunnel {
    /// Connects to the primary, waiting for one up to `deadline`. The client's own parameters go along.
    ///
    /// # Errors
    /// What the client is told when there is no connection to be had.
    pub(crate) async fn open(
        tenant: Arc<Tenant>,
        tunnels: &Tunnels,
        kind: Replication,
        settings: &[(String, String)],
        cancel: Registered,
        worker: usize,
    ) -> Result<Tunnel, Failure> {
        let parameters = [("replication".to_owned(), kind.value().to_owned())];
        let parameters: Vec<(String, String)> = parameters.into_iter().chain(settings.iter().cloned()).collect();
        let deadline = tenant.failover_deadline(Instant::now());
        let counted = tunnels.add();
        loop {
            let now = Instant::now();
            let (choice, version) = {
                let snapshot = tenant.watcher.snapshot();
                (snapshot.pick_primary(), snapshot.version)
            };
            let node = match choice {
                Choice::Primary(node, _) | Choice::Replica(node) => node,
                Choice::Nowhere(reason) if now >= deadline => {
                    return Err(Failure::fatal("57P03", reason.to_string()).hint("Try again later."));
                }
                Choice::Nowhere(_) => {
                    route::wait_for_news(&tenant, version, deadline).await;
                    continue;
                }
            };
            match pool::dial_with(tenant.pool(node).target(), &parameters, (), worker).await {
                Ok(server) => {
                    cancel.aim(server.cancel.as_ref());
                    return Ok(Tunnel { server, cancel, tenant, node, _counted: counted });
                }
                Err(error) if error.is_transient() && now < deadline => {
                    tenant.watcher.suspect(node);
                    route::wait_for_news(&tenant, version, (now + route::RETRY_PAUSE).min(deadline)).await;
                }
                Err(error) => {
                    return Err(Failure { severity: wire::backend::Severity::Fatal, ..route::refusal(&error) });
                }
            }
        }
    }

    /// The key that the client is given.
    pub(crate) fn key(&self) -> &CancelKey {
        &self.cancel.key
    }

    /// Passes bytes until one side ends, the client is dismissed, or the server is not the primary any more. `received` is what the
    /// client has sent already.
    pub(crate) async fn run(self, client: Stream, received: Vec<u8>, slot: &Slot) {
        let Tunnel { server: Connection { stream, parameters, .. }, tenant, node, cancel: _cancel, _counted } = self;
        parameters.iter().for_each(|(name, value)| slot.standing.note_parameter(name, value));
        let (from_client, mut to_client) = tokio::io::split(client);
        let (from_server, to_server) = tokio::io::split(stream);
        let mut walker = Walker::default();
        let told = {
            let parting = Cell::new(false);
            let up = pin!(pass_up(from_client, to_server, received, &parting));
            let down = pin!(pass_down(from_server, &mut to_client, &mut walker, slot));
            tokio::select! {
                // To a farewell there is no answer.
                told = down => told.filter(|_| !parting.get()),
                () = deposed(&tenant, node) => Some(Failure::fatal("57P01", "the server is not the primary any more")),
                () = slot.killed() => Some(Failure::fatal("57P01", "admin forced disconnect")),
                () = up => None,
            }
        };
        if let Some(failure) = told.filter(|_| walker.is_between()) {
            let mut farewell = Vec::new();
            failure.put(&mut farewell);
            // It is told if it listens; nobody waits for one that does not.
            let _ = tokio::time::timeout(FAREWELL_MAX, to_client.write_all(&farewell)).await;
        }
        let _ = tokio::time::timeout(FAREWELL_MAX, to_client.shutdown()).await;
    }
}

/// Passes on what the client says, until it has said everything; `parting` becomes true when it says goodbye.
async fn pass_up(mut from: ReadHalf<Stream>, mut to: WriteHalf<Stream>, received: Vec<u8>, parting: &Cell<bool>) {
    let mut buffer = received;
    let mut length = buffer.len();
    let mut walker = Walker::default();
    loop {
        walker.walk(&buffer[..length]);
        parting.set(walker.last == frontend::tag::TERMINATE);
        if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
            // The server may have said why: that is for the other direction to find.
            return std::future::pending().await;
        }
        buffer.resize(BUFFER_BYTES, 0);
        length = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
    }
    let _ = to.shutdown().await;
}

/// Passes on what the server says, until it has said everything or the client is to leave; what is left to say to the client then.
async fn pass_down(
    mut from: ReadHalf<Stream>,
    to: &mut WriteHalf<Stream>,
    walker: &mut Walker,
    slot: &Slot,
) -> Option<Failure> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = tokio::select! {
            // A stream has no end of its own; a base backup has one, and is waited for.
            () = slot.dismissed(), if walker.may_stop() => return Some(Failure::fatal("57P01", "server shutting down")),
            read = from.read(&mut buffer) => read,
        };
        let length = match read {
            Ok(length) if length > 0 => length,
            // It has said why, as servers do that are shut down.
            _ if walker.last == tag::ERROR_RESPONSE => return None,
            _ => return Some(Failure::fatal("08006", "server closed the connection unexpectedly")),
        };
        walker.walk(&buffer[..length]);
        walker.writing = true;
        if to.write_all(&buffer[..length]).await.is_err() || to.flush().await.is_err() {
            return None;
        }
        walker.writing = false;
    }
}

/// Waits until another server is the primary.
async fn deposed(tenant: &Tenant, node: NodeId) {
    loop {
        let (primary, version) = {
            let snapshot = tenant.watcher.snapshot();
            (snapshot.primary().map(|primary| primary.id), snapshot.version)
        };
        // While there is none, nobody knows better than the server itself.
        if primary.is_some_and(|primary| primary != node) {
            return;
        }
        tenant.watcher.changed(version).await;
    }
}

/// Knows where messages begin and end, however they are cut up.
#[derive(Debug, Default)]
struct Walker {
    header: [u8; Header::SIZE],
    /// Bytes of the header that have come.
    have: usize,
    /// Bytes of the body that have not.
    rest: usize,
    /// The message before the next one.
    last: u8,
    streaming: bool,
    /// What is said is not the protocol.
    lost: bool,
    /// Not all of what was walked has been passed on.
    writing: bool,
}

impl Walker {
    fn walk(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            if self.rest > 0 {
                let length = self.rest.min(bytes.len());
                (self.rest, bytes) = (self.rest - length, &bytes[length..]);
                continue;
            }
            let length = (Header::SIZE - self.have).min(bytes.len());
            self.header[self.have..self.have + length].copy_from_slice(&bytes[..length]);
            (self.have, bytes) = (self.have + length, &bytes[length..]);
            match Header::peek(&self.header[..self.have]) {
                Ok(None) => {}
                Ok(Some(header)) => {
                    (self.have, self.rest, self.last) = (0, header.length - Header::SIZE, header.tag);
                    self.streaming = match header.tag {
                        tag::COPY_BOTH_RESPONSE => true,
                        tag::COPY_DATA => self.streaming,
                        _ => false,
                    };
                }
                Err(_) => self.lost = true,
            }
        }
    }

    /// Whether something may be said now.
    fn is_between(&self) -> bool {
        self.have == 0 && self.rest == 0 && !self.lost && !self.writing
    }

    /// Whether nothing is lost when the connection ends now.
    fn may_stop(&self) -> bool {
        self.is_between() && (self.streaming || matches!(self.last, 0 | tag::READY_FOR_QUERY))
    }
}

/// Bytes that are read at a time, in each direction.
const BUFFER_BYTES: usize = 64 * 1024;

/// The time for a last word to a client.
const FAREWELL_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    /// However the bytes are cut up, the same is known in the end, and something may be said exactly between messages.
    #[test]
    fn messages_are_walked_in_pieces() {
        let stream = b"W\0\0\0\x07\0\0\0d\0\0\0\x08abcdd\0\0\0\x04c\0\0\0\x04Z\0\0\0\x05I";
        let ends = [8, 17, 22, 27, 33];
        for cut in 0..=stream.len() {
            let mut walker = Walker::default();
            walker.walk(&stream[..cut]);
            assert_eq!(walker.is_between(), cut == 0 || ends.contains(&cut), "{cut}");
            assert_eq!(walker.may_stop(), [0, 8, 17, 22, 33].contains(&cut), "{cut}");
            walker.walk(&stream[cut..]);
            assert!(walker.may_stop() && !walker.lost, "{cut}");
        }
        let mut lies = Walker::default();
        lies.walk(b"d\0\0\0\x03d\0\0\0\x04");
        assert!(lies.lost && !lies.is_between());
    }
}
