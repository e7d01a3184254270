//! Cancel requests: from the key that a client was given to the server that works for it at the moment.
//!
//! Owns the keys. A server that a cancel request is on its way to is not lent to anybody else.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pool::{Lease, Pool};
use session::ServerMemory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::startup::{self, CancelKey};

/// The keys of all clients.
#[derive(Default)]
pub(crate) struct Cancels {
    slots: Mutex<HashMap<CancelKey, Arc<Mutex<Aim>>>>,
}

/// One client's key.
pub(crate) struct Registered {
    pub(crate) key: CancelKey,
    aim: Arc<Mutex<Aim>>,
}

/// The server that a client's cancel request goes to.
#[derive(Default)]
struct Aim {
    server: Option<Server>,
    /// Cancel requests on their way to it.
    in_flight: usize,
}

#[derive(Clone)]
struct Server {
    pool: Arc<Pool<ServerMemory>>,
    key: Arc<CancelKey>,
}

impl Cancels {
    /// Gives a client a key that nobody has.
    pub(crate) fn register(&self) -> Registered {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // A process id is shown as a positive number by every tool.
            let process = rand::random::<u32>() & 0x7fff_ffff;
            let key = CancelKey { process, secret: rand::random::<[u8; 4]>().into() };
            if let Entry::Vacant(entry) = slots.entry(key.clone()) {
                let aim = Arc::default();
                entry.insert(Arc::clone(&aim));
                return Registered { key, aim };
            }
        }
    }

    pub(crate) fn forget(&self, registered: &Registered) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).remove(&registered.key);
    }

    /// Passes a cancel request on. Unknown keys are ignored without a word, as PostgreSQL does.
    pub(crate) async fn cancel(&self, key: &CancelKey) {
        let aim = self.slots.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
        let Some(aim) = aim else { return };
        let server = {
            let mut aim = lock(&aim);
            let Some(server) = aim.server.clone() else { return };
            aim.in_flight += 1;
            server
        };
        let sent = tokio::time::timeout(CANCEL_MAX, send(&server)).await;
        lock(&aim).in_flight -= 1;
        if !matches!(sent, Ok(Ok(()))) {
            let target = server.pool.target();
            tracing::warn!(host = %target.host, port = target.port, "could not pass a cancel request on");
        }
    }
}

impl Registered {
    /// From now on the client's cancel requests go to the server of this lease.
    pub(crate) fn aim(&self, lease: &Lease<ServerMemory>) {
        lock(&self.aim).server = lease.cancel.clone().map(|key| Server { pool: lease.pool().clone(), key });
    }

    /// From now on they go nowhere. `false` when one is on its way: that server must not be lent again.
    pub(crate) fn lower(&self) -> bool {
        let mut aim = lock(&self.aim);
        aim.server = None;
        aim.in_flight == 0
    }
}

async fn send(server: &Server) -> std::io::Result<()> {
    let target = server.pool.target();
    let mut stream = pool::reach(target).await.map_err(std::io::Error::other)?;
    let mut packet = Vec::new();
    startup::put_cancel(&mut packet, &server.key);
    stream.write_all(&packet).await?;
    // The server closes the connection when it has sent the signal.
    stream.read(&mut [0; 1]).await.map(drop)
}

fn lock(aim: &Mutex<Aim>) -> std::sync::MutexGuard<'_, Aim> {
    aim.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time that passing a cancel request on may take.
const CANCEL_MAX: Duration = Duration::from_secs(5);
