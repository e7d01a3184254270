//! Owns one server: its port, its data directory, its postmaster from spawn to exit, and signals to all of its
//! processes. Does not know the cluster: who is primary and who follows whom is said elsewhere.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::net::TcpSocket;

use crate::process::{self, State};
use crate::programs::Programs;
use crate::wait::Wait;

/// One server of the cluster, running or not.
#[derive(Debug)]
pub struct Node {
    name: String,
    port: u16,
    data: PathBuf,
    log: PathBuf,
    /// The process that we started last; it may have exited meanwhile.
    postmaster: Option<Child>,
    /// Bound but not listening, for the whole life of the cluster: a dead node's port answers with a refusal, as it
    /// should, and nobody else is given it, while the postmaster can still bind it, since both set `SO_REUSEADDR`.
    _reservation: TcpSocket,
}

/// How a server is told to stop, in PostgreSQL's own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// SIGTERM: no new connections; wait until the present ones have gone.
    Smart,
    /// SIGINT: end the connections, then shut down in good order.
    Fast,
    /// SIGQUIT: exit at once; the next start goes through crash recovery.
    Immediate,
}

impl Node {
    pub(crate) fn new(name: String, home: &Path) -> Result<Node> {
        let reservation = TcpSocket::new_v4()?;
        reservation.set_reuseaddr(true)?;
        reservation.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("no free port")?;
        Ok(Node {
            port: reservation.local_addr()?.port(),
            data: home.join(&name),
            log: home.join(format!("{name}.log")),
            name,
            postmaster: None,
            _reservation: reservation,
        })
    }

    /// `node0`, `node1`...: also its `cluster_name`, its `application_name` as a replica, and its slot's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Always `127.0.0.1`.
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// The same for the whole life of the cluster.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `PGDATA`.
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// The server's log file.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The postmaster's process id, while it lives.
    pub fn pid(&self) -> Option<u32> {
        self.postmaster.as_ref().map(Child::id).filter(|pid| process::state(*pid) != State::Gone)
    }

    /// Whether the postmaster lives; a frozen one does.
    pub fn is_running(&self) -> bool {
        self.pid().is_some()
    }

    /// Whether the postmaster is stopped by [`Cluster::freeze`](crate::Cluster::freeze).
    pub fn is_frozen(&self) -> bool {
        self.pid().is_some_and(|pid| process::state(pid) == State::Stopped)
    }

    /// All of the node's processes, also those that have lost their postmaster.
    pub fn processes(&self) -> Vec<u32> {
        process::in_directory(&self.data)
    }

    /// Whether it is, or will be when started, a replica; PostgreSQL removes the file at promotion.
    pub(crate) fn is_standby(&self) -> bool {
        self.standby_signal().exists()
    }

    pub(crate) fn standby_signal(&self) -> PathBuf {
        self.data.join("standby.signal")
    }

    /// Starts the postmaster, once nothing of an earlier one is left. [`Node::ready`] waits for it.
    pub(crate) async fn spawn(&mut self, programs: &Programs) -> Result<()> {
        ensure!(!self.is_running(), "{} is running already", self.name);
        self.reap();
        let mut wait = Wait::new(format!("the orphans of {} to exit", self.name), EXIT_WAIT);
        while !self.processes().is_empty() {
            wait.turn().await?;
        }
        let log = File::options().create(true).append(true).open(&self.log).context("cannot open the server's log")?;
        let mut command = programs.command("postgres", &self.data);
        command.arg("-D").arg(&self.data).stdout(log.try_clone()?).stderr(log);
        self.postmaster = Some(command.spawn().context("cannot run postgres")?);
        Ok(())
    }

    /// Waits until the server accepts connections; a replica does when it is consistent.
    pub(crate) async fn ready(&mut self) -> Result<()> {
        let pid = self.pid().map(|pid| pid.to_string());
        let mut wait = Wait::new(format!("{} to accept connections", self.name), START_WAIT);
        loop {
            if !self.is_running() {
                self.reap();
                bail!("{} exited while starting; the end of its log:\n{}", self.name, self.log_tail());
            }
            // pg_ctl looks there too. A file left by a killed postmaster is told by the process id.
            if self.lock_line(LOCK_PID) == pid
                && self.lock_line(LOCK_STATE).is_some_and(|line| line.trim_end() == "ready")
            {
                return Ok(());
            }
            wait.turn().await.with_context(|| format!("the end of its log:\n{}", self.log_tail()))?;
        }
    }

    pub(crate) async fn stop(&mut self, mode: Mode) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} is not running", self.name))?;
        let signal = match mode {
            Mode::Smart => libc::SIGTERM,
            Mode::Fast => libc::SIGINT,
            Mode::Immediate => libc::SIGQUIT,
        };
        process::signal(pid, signal);
        let mut wait = Wait::new(format!("{} to stop ({mode:?})", self.name), STOP_WAIT);
        while self.is_running() {
            wait.turn().await?;
        }
        self.reap();
        Ok(())
    }

    pub(crate) fn kill_postmaster(&mut self) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} is not running", self.name))?;
        process::signal(pid, libc::SIGKILL);
        self.reap();
        Ok(())
    }

    /// Kills every process; that none is left to kill is no failure.
    pub(crate) async fn kill(&mut self) -> Result<()> {
        // Stopped first, the postmaster neither forks nor notices that its children die, so that none of them gets to
        // say goodbye to its client.
        if let Some(pid) = self.pid() {
            process::signal(pid, libc::SIGSTOP);
        }
        let mut wait = Wait::new(format!("the processes of {} to die", self.name), EXIT_WAIT);
        loop {
            let processes = self.processes();
            processes.iter().for_each(|pid| process::signal(*pid, libc::SIGKILL));
            self.reap_exited();
            if processes.is_empty() && !self.is_running() {
                break;
            }
            wait.turn().await?;
        }
        // A machine that dies takes its shared memory along. Left here, it would stay for good once the lock file,
        // which alone names it, makes room for a base backup.
        if let Some(segment) = self.lock_line(LOCK_SEGMENT).as_deref().and_then(|line| line.split_whitespace().nth(1)) {
            segment.parse().into_iter().for_each(process::remove_segment);
        }
        Ok(())
    }

    pub(crate) async fn freeze(&self) -> Result<()> {
        ensure!(self.is_running(), "{} is not running", self.name);
        let mut wait = Wait::new(format!("the processes of {} to stop", self.name), EXIT_WAIT);
        // The postmaster may fork until the signal reaches it, hence more than one look.
        loop {
            let awake: Vec<_> =
                self.processes().into_iter().filter(|pid| process::state(*pid) == State::Alive).collect();
            if awake.is_empty() {
                return Ok(());
            }
            awake.iter().for_each(|pid| process::signal(*pid, libc::SIGSTOP));
            wait.turn().await?;
        }
    }

    pub(crate) fn thaw(&self) {
        self.processes().iter().for_each(|pid| process::signal(*pid, libc::SIGCONT));
    }

    /// Has the server read its configuration files again; nothing, where it does not run.
    pub(crate) fn reload(&self) {
        if let Some(pid) = self.pid() {
            process::signal(pid, libc::SIGHUP);
        }
    }

    /// How long the log is now, for [`Node::log_since`].
    pub(crate) fn log_length(&self) -> usize {
        fs::metadata(&self.log).map_or(0, |metadata| usize::try_from(metadata.len()).unwrap_or(usize::MAX))
    }

    pub(crate) fn log_since(&self, position: usize) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(log.get(position..).unwrap_or_default()).into_owned()
    }

    /// A line of the lock file, counted from zero.
    fn lock_line(&self, number: usize) -> Option<String> {
        let lock = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        lock.lines().nth(number).map(str::to_owned)
    }

    fn log_tail(&self) -> String {
        let log = self.log_since(0);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }

    /// Takes the exit status of a postmaster that is dead or about to be: as a zombie it would keep its process id,
    /// and the next postmaster would take its lock file for a live one's.
    fn reap(&mut self) {
        if let Some(mut child) = self.postmaster.take() {
            let _ = child.wait();
        }
    }

    fn reap_exited(&mut self) {
        self.postmaster.take_if(|child| !matches!(child.try_wait(), Ok(None)));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // The directory's watchdog has killed it by now; this makes sure that waiting ends.
        if let Some(child) = &mut self.postmaster {
            let _ = child.kill();
        }
        self.reap();
    }
}

/// How long a start may take, crash recovery included.
const START_WAIT: Duration = Duration::from_secs(60);

/// How long a stop may take; a smart one waits for clients.
const STOP_WAIT: Duration = Duration::from_secs(60);

/// How long killed or orphaned processes may take to go.
const EXIT_WAIT: Duration = Duration::from_secs(20);

/// The lines of `postmaster.pid`: the postmaster's process id; its shared memory's key and identifier; its state.
const LOCK_PID: usize = 0;
const LOCK_SEGMENT: usize = 6;
const LOCK_STATE: usize = 7;

/// How much of a log is worth a place in an error message.
const LOG_TAIL_LINES: usize = 20;
