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

use crate::options::{Options, Takeover};

/// A fixed number of server connections, shared by every core.
pub(crate) struct Pool {
    cores: Mutex<Cores>,
    greeting: Vec<u8>,
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
            lists[number % cores].owned += 1;
        }
        Ok(Pool {
            cores: Mutex::new(Cores { cores: lists, tickets: 0, takeover: options.takeover }),
            greeting,
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
        self.lock().give(core, Server::Of(core, socket));
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

/// Unless takeovers are reluctant, no queue holds a waiter while any list holds an idle server.
struct Cores {
    cores: Vec<Core>,
    tickets: u64,
    takeover: Takeover,
}

/// `owned` counts the servers whose home this core is, idle or leased.
#[derive(Default)]
struct Core {
    owned: usize,
    idle: Vec<Server>,
    waiting: VecDeque<(u64, oneshot::Sender<Server>)>,
}

impl Cores {
    fn find_or_wait(&mut self, core: usize) -> Result<Server, oneshot::Receiver<Server>> {
        let count = self.cores.len();
        let reach = if self.wants_a_foreign_one(core, 1) { count } else { 1 };
        // The own list first. The most recently used of its servers comes first, since its caches are warm.
        for home in (0..reach).map(|step| (core + step) % count) {
            if let Some(server) = self.cores[home].idle.pop() {
                self.cores[home].owned -= 1;
                self.cores[core].owned += 1;
                return Ok(server);
            }
        }
        let (sender, receiver) = oneshot::channel();
        self.tickets += 1;
        self.cores[core].waiting.push_back((self.tickets, sender));
        Err(receiver)
    }

    fn give(&mut self, home: usize, mut server: Server) {
        while let Some((core, sender)) = self.next_waiter(home) {
            match sender.send(server) {
                Ok(()) => {
                    self.cores[home].owned -= 1;
                    self.cores[core].owned += 1;
                    return;
                }
                // That client left while it waited.
                Err(returned) => server = returned,
            }
        }
        self.cores[home].idle.push(server);
    }

    fn next_waiter(&mut self, home: usize) -> Option<(usize, oneshot::Sender<Server>)> {
        let (patience, count) = (self.takeover.patience(), self.cores.len());
        let due = |core: &usize| {
            let (ticket, _) = self.cores[*core].waiting.front()?;
            match *core == home {
                true => Some(*ticket),
                false => self.wants_a_foreign_one(*core, 0).then_some(ticket + patience),
            }
        };
        let core = (0..count).filter(|core| due(core).is_some()).min_by_key(due)?;
        self.cores[core].waiting.pop_front().map(|(_, sender)| (core, sender))
    }

    /// Whether a core with so many more waiters than in its queue should be given a server whose home is another core.
    fn wants_a_foreign_one(&self, core: usize, more: usize) -> bool {
        match self.takeover {
            Takeover::Strict | Takeover::Eager => true,
            Takeover::Reluctant => self.cores[core].waiting.len() + more > self.cores[core].owned,
        }
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
