//! A listener on the wire: passes bytes between somebody and a real server, holds cancel requests back, and may change what the server
//! says.
//!
//! Owns no process. What it is for is a test's business: a cancel request that is late, a server that gives no key, one that lies.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use cluster::Cluster;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wire::frame::Frame;

/// What becomes of a message that the server sends: its type and the whole of it.
pub(crate) type Change = fn(u8, &[u8]) -> Vec<u8>;

/// A door in front of a server. Closed when dropped.
pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    to: Mutex<Option<SocketAddr>>,
    held: watch::Sender<bool>,
    cancels: AtomicUsize,
    change: Mutex<Option<Change>>,
    dead: AtomicUsize,
    opened: AtomicUsize,
}

impl Tap {
    /// A door that leads nowhere yet.
    pub(crate) async fn open() -> Tap {
        Tap::open_at("127.0.0.1:0").await
    }

    /// The same at this address.
    pub(crate) async fn open_at(address: &str) -> Tap {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to: Mutex::default(),
            held: watch::Sender::new(false),
            cancels: AtomicUsize::new(0),
            change: Mutex::default(),
            dead: AtomicUsize::new(0),
            opened: AtomicUsize::new(0),
        });
        let state = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass(stream, state.clone()));
            }
        });
        Tap { address, shared, task }
    }

    /// A door to a cluster's primary.
    pub(crate) async fn to(cluster: &Cluster) -> Tap {
        let tap = Tap::open().await;
        let node = &cluster.nodes()[cluster.primary()];
        tap.lead_to(format!("{}:{}", node.host(), node.port()).parse().unwrap());
        tap
    }

    pub(crate) fn lead_to(&self, address: SocketAddr) {
        *self.shared.to.lock().unwrap() = Some(address);
    }

    /// Keeps cancel requests back, or lets them go.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// How many cancel requests have come.
    pub(crate) fn cancels(&self) -> usize {
        self.shared.cancels.load(Ordering::SeqCst)
    }

    /// All connections that there are have died; nobody hears of it before he says something on one.
    pub(crate) fn die_unseen(&self) {
        self.shared.dead.store(self.shared.opened.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// Changes what the server says, on connections that are made from now on.
    pub(crate) fn change(&self, change: Option<Change>) {
        *self.shared.change.lock().unwrap() = change;
    }

    /// The servers of a configuration that leads here.
    pub(crate) fn servers(&self) -> String {
        format!("[\"{}\"]", self.address)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(mut client: TcpStream, shared: Arc<Shared>) {
    let mut first = [0; 8];
    loop {
        if client.read_exact(&mut first).await.is_err() {
            return;
        }
        // Nothing is encrypted here, so that it can be listened to.
        if first[4..] != SSL_REQUEST.to_be_bytes() {
            break;
        }
        if client.write_all(b"N").await.is_err() {
            return;
        }
    }
    if first[4..] == CANCEL_REQUEST.to_be_bytes() {
        shared.cancels.fetch_add(1, Ordering::SeqCst);
        let mut held = shared.held.subscribe();
        let _ = held.wait_for(|held| !held).await;
    }
    let to = *shared.to.lock().unwrap();
    let Some(to) = to else { return };
    let Ok(mut server) = TcpStream::connect(to).await else { return };
    if server.write_all(&first).await.is_err() {
        return;
    }
    let change = *shared.change.lock().unwrap();
    match change {
        None => {
            let number = shared.opened.fetch_add(1, Ordering::SeqCst) + 1;
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::select! {
                () = forward(&mut from_client, &mut to_server, || number > shared.dead.load(Ordering::SeqCst)) => {}
                _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
            }
        }
        Some(change) => {
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            tokio::select! {
                _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                () = rewrite(&mut from_server, &mut to_client, change) => {}
            }
        }
    }
}

async fn forward(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    lives: impl Fn() -> bool,
) {
    let mut received = Vec::new();
    while from.read_buf(&mut received).await.is_ok_and(|length| length > 0) && lives() {
        if to.write_all(&received).await.is_err() {
            return;
        }
        received.clear();
    }
}

async fn rewrite(from: &mut (impl AsyncReadExt + Unpin), to: &mut (impl AsyncWriteExt + Unpin), change: Change) {
    let mut received = Vec::new();
    while from.read_buf(&mut received).await.is_ok_and(|length| length > 0) {
        while let Some(frame) = Frame::take(&received).unwrap() {
            let (length, changed) = (frame.whole.len(), change(frame.tag, frame.whole));
            if to.write_all(&changed).await.is_err() {
                return;
            }
            received.drain(..length);
        }
    }
}

const SSL_REQUEST: u32 = (1234 << 16) | 5679;
const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;
