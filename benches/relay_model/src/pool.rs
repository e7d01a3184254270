//! Server connections, and who has them: idle lists and queues per core, in one lock.
//!
//! A pool of one core is the shared pool of the work-stealing runtime. With more cores a server belongs to the core whose
//! epoll instance knows its socket; another core that needs it takes it over, at the cost of two `epoll_ctl` calls. The pool
//! opens its servers once, and does not replace lost ones.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::options::Options;

/// A fixed number of server connections, shared by every core.
pub(crate) struct Pool {
    cores: Mutex<Cores>,
    greeting: Vec<u8>,
    patience: u64,
    leases: AtomicU64,
    waits: AtomicU64,
    takeovers: AtomicU64,
}

impl Pool {
    /// Logs in `options.pool` times and deals the connections to `cores` idle lists.
    pub(crate) fn open(options: &Options, cores: usize) -> io::Result<Pool> {
        let mut greeting = Vec::new();
        let mut lists: Vec<Core> = (0..cores).map(|_| Core::default()).collect();
        for number in 0..options.pool {
            let (socket, greeted) = log_in(options.server, &options.user, &options.database)?;
            greeting = greeted;
            lists[number % cores].idle.push(Server::Unregistered(socket));
        }
        Ok(Pool {
            cores: Mutex::new(Cores { cores: lists, tickets: 0 }),
            greeting,
            patience: options.patience,
            leases: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            takeovers: AtomicU64::new(0),
        })
    }

    /// What to answer to a client's startup packet.
    pub(crate) fn greeting(&self) -> &[u8] {
        &self.greeting
    }

    /// An idle server of this core, else of another, else the next that becomes free.
    pub(crate) async fn checkout(&self, core: usize) -> io::Result<TcpStream> {
        self.leases.fetch_add(1, Ordering::Relaxed);
        let found = self.lock().find_or_wait(core);
        let server = match found {
            Ok(server) => server,
            Err(receiver) => {
                self.waits.fetch_add(1, Ordering::Relaxed);
                receiver.await.expect("a waiter leaves the queue only by being sent a server")
            }
        };
        match server {
            Server::Of(home, socket) if home == core => Ok(socket),
            Server::Of(_, socket) => {
                self.takeovers.fetch_add(1, Ordering::Relaxed);
                TcpStream::from_std(socket.into_std()?)
            }
            Server::Unregistered(socket) => TcpStream::from_std(socket),
        }
    }

    /// Gives a server of this core to the client that is next, or puts it back on the idle list.
    pub(crate) fn release(&self, core: usize, socket: TcpStream) {
        self.lock().give(core, Server::Of(core, socket), self.patience);
    }

    /// How the leases went, in one line.
    pub(crate) fn summary(&self) -> String {
        let [leases, waits, takeovers] =
            [&self.leases, &self.waits, &self.takeovers].map(|counter| counter.load(Ordering::Relaxed));
        format!("leases {leases} waits {waits} takeovers {takeovers}")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cores> {
        self.cores.lock().expect("nothing panics while it holds the lock")
    }
}

/// A connection, and the core (if any) whose epoll instance knows it.
enum Server {
    Unregistered(StdTcpStream),
    Of(usize, TcpStream),
}

/// While any list holds an idle server, no queue holds a waiter.
struct Cores {
    cores: Vec<Core>,
    tickets: u64,
}

#[derive(Default)]
struct Core {
    idle: Vec<Server>,
    waiting: VecDeque<(u64, oneshot::Sender<Server>)>,
}

impl Cores {
    fn find_or_wait(&mut self, core: usize) -> Result<Server, oneshot::Receiver<Server>> {
        let count = self.cores.len();
        // The own list first. The most recently used of its servers comes first, since its caches are warm.
        if let Some(server) = (0..count).find_map(|step| self.cores[(core + step) % count].idle.pop()) {
            return Ok(server);
        }
        let (sender, receiver) = oneshot::channel();
        self.tickets += 1;
        self.cores[core].waiting.push_back((self.tickets, sender));
        Err(receiver)
    }

    fn give(&mut self, core: usize, mut server: Server, patience: u64) {
        while let Some((_, sender)) = self.next_waiter(core, patience) {
            match sender.send(server) {
                Ok(()) => return,
                // That client left while it waited.
                Err(returned) => server = returned,
            }
        }
        self.cores[core].idle.push(server);
    }

    /// The oldest waiter of this core, unless one of another core is older by more than `patience` places: a takeover costs
    /// more than a lease on the same core, but nobody may starve because its core has no server.
    fn next_waiter(&mut self, core: usize, patience: u64) -> Option<(u64, oneshot::Sender<Server>)> {
        let oldest = |at: usize| self.cores[at].waiting.front().map(|(ticket, _)| *ticket);
        let due = |at: &usize| oldest(*at).map(|ticket| if *at == core { ticket } else { ticket + patience });
        let from = (0..self.cores.len()).filter(|at| due(at).is_some()).min_by_key(due)?;
        self.cores[from].waiting.pop_front()
    }
}

/// Opens one connection to a server that trusts the user. Returns all that it sent up to its first ReadyForQuery.
fn log_in(server: SocketAddr, user: &str, database: &str) -> io::Result<(StdTcpStream, Vec<u8>)> {
    let mut socket = StdTcpStream::connect(server)?;
    socket.set_nodelay(true)?;
    let parameters = format!("user\0{user}\0database\0{database}\0\0");
    let length = u32::try_from(8 + parameters.len()).map_err(io::Error::other)?;
    let mut packet = length.to_be_bytes().to_vec();
    packet.extend(PROTOCOL_3_0.to_be_bytes());
    packet.extend(parameters.as_bytes());
    socket.write_all(&packet)?;
    let mut greeting = Vec::new();
    loop {
        let start = greeting.len();
        greeting.resize(start + 5, 0);
        socket.read_exact(&mut greeting[start..])?;
        let [kind, a, b, c, d] = greeting[start..] else { unreachable!("five bytes were read") };
        let length = (u32::from_be_bytes([a, b, c, d]) as usize).clamp(4, MESSAGE_MAX);
        greeting.resize(start + 1 + length, 0);
        socket.read_exact(&mut greeting[start + 5..])?;
        match kind {
            b'E' => return Err(io::Error::other(String::from_utf8_lossy(&greeting[start + 5..]).into_owned())),
            b'R' if greeting[start + 5..] != [0; 4] => return Err(io::Error::other("the server must trust the user")),
            b'Z' => {
                socket.set_nonblocking(true)?;
                return Ok((socket, greeting));
            }
            _ => {}
        }
    }
}

const PROTOCOL_3_0: u32 = 3 << 16;

/// No message of a login is longer.
const MESSAGE_MAX: usize = 64 * 1024;
