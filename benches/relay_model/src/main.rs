//! A bare relay between PostgreSQL clients and one server, in several execution models, so that Hakem's can be chosen by
//! measuring.
//!
//! Owns the command line and the threads: which runtime runs, and which of its workers gets a new client. What is done with
//! a client is in `relay` (raw bytes) and `pooled` (a lease per transaction). There is no routing, no TLS, no recovery: a
//! lost connection ends its client, since a benchmark that hides errors measures nothing.

mod frames;
mod options;
mod pool;
mod pooled;
mod relay;

use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use options::{Model, Options};
use pool::Pool;

fn main() -> io::Result<()> {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("{message}\n{}", options::USAGE);
            std::process::exit(2);
        }
    };
    let work = match options.model {
        Model::Stealing | Model::PerCore | Model::PerCoreHandoff => Work::Raw(options.server),
        Model::StealingPooled => Work::Pooled(Arc::new(Pool::open(&options, 1)?)),
        Model::PerCorePooled => Work::Pooled(Arc::new(Pool::open(&options, options.workers)?)),
    };
    match options.model {
        Model::Stealing | Model::StealingPooled => steal(&options, &work)?,
        Model::PerCore => share_the_port(&options, &work)?,
        Model::PerCoreHandoff | Model::PerCorePooled => hand_off(&options, &work)?,
    }
    if let Work::Pooled(pool) = work {
        eprintln!("{}", pool.summary());
    }
    Ok(())
}

/// What is done with a client, whichever thread it lives on.
#[derive(Clone)]
enum Work {
    Raw(SocketAddr),
    Pooled(Arc<Pool>),
}

impl Work {
    async fn serve(self, client: TcpStream, core: usize) {
        let result = match self {
            Work::Raw(server) => relay::serve(client, server).await,
            Work::Pooled(pool) => pooled::serve(client, &pool, core).await,
        };
        if let Err(error) = result {
            eprintln!("client lost: {error}");
        }
    }
}

/// One work-stealing runtime: any worker may run any client, and all share one epoll instance.
fn steal(options: &Options, work: &Work) -> io::Result<()> {
    let runtime = Builder::new_multi_thread().worker_threads(options.workers).enable_all().build()?;
    let listener = listen(options.listen, Port::Sole)?;
    runtime.spawn(accept(listener, work.clone(), 0));
    wait_for_sigterm(&runtime)
}

/// One single-threaded runtime per core, each with its own listener on the one port: the kernel deals the clients by a hash.
fn share_the_port(options: &Options, work: &Work) -> io::Result<()> {
    for core in 0..options.workers {
        let listener = listen(options.listen, Port::Shared)?;
        let work = work.clone();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::spawn(move || runtime.block_on(accept(listener, work, core)));
    }
    wait_for_sigterm(&Builder::new_current_thread().enable_all().build()?)
}

/// One single-threaded runtime per core, and one acceptor that deals each client to the core with the fewest.
fn hand_off(options: &Options, work: &Work) -> io::Result<()> {
    let mut cores = Vec::new();
    for core in 0..options.workers {
        let (sender, receiver) = mpsc::channel(HANDED_MAX);
        let clients = Arc::new(AtomicUsize::new(0));
        let runtime = Builder::new_current_thread().enable_all().build()?;
        thread::spawn({
            let (work, clients) = (work.clone(), clients.clone());
            move || runtime.block_on(adopt(receiver, work, core, clients))
        });
        cores.push((sender, clients));
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = listen(options.listen, Port::Sole)?;
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (client, _) = listener.accept().await?;
            let (sender, clients) = cores
                .iter()
                .min_by_key(|(_, clients)| clients.load(Ordering::Relaxed))
                .expect("the options require at least one worker");
            clients.fetch_add(1, Ordering::Relaxed);
            if sender.send(client.into_std()?).await.is_err() {
                return Err::<(), _>(io::Error::other("a worker ended"));
            }
        }
    });
    wait_for_sigterm(&runtime)
}

async fn accept(listener: std::net::TcpListener, work: Work, core: usize) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        client.set_nodelay(true)?;
        tokio::spawn(work.clone().serve(client, core));
    }
}

async fn adopt(
    mut handed: mpsc::Receiver<StdTcpStream>,
    work: Work,
    core: usize,
    clients: Arc<AtomicUsize>,
) -> io::Result<()> {
    while let Some(client) = handed.recv().await {
        let client = TcpStream::from_std(client)?;
        client.set_nodelay(true)?;
        let (work, clients) = (work.clone(), clients.clone());
        tokio::spawn(async move {
            work.serve(client, core).await;
            clients.fetch_sub(1, Ordering::Relaxed);
        });
    }
    Ok(())
}

fn wait_for_sigterm(runtime: &Runtime) -> io::Result<()> {
    runtime.block_on(async {
        signal(SignalKind::terminate())?.recv().await;
        Ok(())
    })
}

enum Port {
    Sole,
    Shared,
}

fn listen(address: SocketAddr, port: Port) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(matches!(port, Port::Shared))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

const BACKLOG: i32 = 1024;

/// Accepted clients on their way to one core; the acceptor waits when a core is this far behind.
const HANDED_MAX: usize = 64;
