//! Owns a cluster that Patroni manages with etcd: the daemons beside the servers, from spawn to exit.
//! Who is the primary is theirs to decide; this only looks, asks, and hurts.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::conf;
use crate::home::Home;
use crate::process;
use crate::programs::{Programs, run};
use crate::strict::Strict;
use crate::wait::Wait;

/// A member of etcd, on its own. Killed when dropped.
#[derive(Debug)]
pub struct Etcd {
    daemon: Daemon,
    client: Port,
    peer: Port,
    home: PathBuf,
    strict: Option<Strict>,
}

/// PostgreSQL servers under Patroni, with an etcd of one member. Dropping it ends all of them, as with a [`Cluster`](crate::Cluster).
#[derive(Debug)]
pub struct Managed {
    home: Home,
    etcd: Etcd,
    members: Vec<Member>,
    options: ManagedOptions,
    programs: Programs,
}

/// What to start.
#[derive(Clone, Debug)]
pub struct ManagedOptions {
    /// How many servers.
    pub members: usize,
    /// Patroni's program.
    pub patroni: PathBuf,
    /// Patroni's `ttl`, `loop_wait` and `retry_timeout`, in seconds.
    pub pace: [u32; 3],
    /// The superuser's password; the name is `postgres`.
    pub password: String,
    /// More of PostgreSQL's settings.
    pub settings: Vec<(String, String)>,
    /// Whom etcd and Patroni answer; everybody, in the clear, without it.
    pub strict: Option<Strict>,
}

/// A server and its Patroni.
#[derive(Debug)]
pub struct Member {
    /// Its name to Patroni.
    pub name: String,
    postgres: Port,
    rest: Port,
    /// Where etcd listens for it alone.
    etcd: Port,
    data: PathBuf,
    patroni: Daemon,
    strict: Option<Strict>,
}

/// Bound but not listening, for the whole life of the cluster: see [`Node`](crate::Node).
#[derive(Debug)]
struct Port {
    number: u16,
    _reservation: TcpSocket,
}

/// A program that runs in a directory of its own.
#[derive(Debug)]
struct Daemon {
    place: PathBuf,
    child: Option<Child>,
}

impl Etcd {
    fn new(home: &Path, strict: Option<Strict>) -> Result<Etcd> {
        Ok(Etcd {
            daemon: Daemon { place: home.join("etcd"), child: None },
            client: Port::free()?,
            peer: Port::free()?,
            home: home.to_owned(),
            strict,
        })
    }

    /// Where it is asked.
    pub fn url(&self) -> String {
        url(&self.client, self.strict.as_ref())
    }

    /// Its port for everybody but the members.
    pub fn port(&self) -> u16 {
        self.client.number
    }

    /// Its page of figures.
    pub async fn metrics(&self) -> Result<String> {
        Ok(ask(self.client.number, self.strict.as_ref(), "GET", "/metrics", "").await?.1)
    }

    /// A command that tells it what to do, as its root.
    pub fn control(&self, words: &[&str]) -> std::process::Command {
        self.command(true, words)
    }

    fn command(&self, known: bool, words: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &self.url()]);
        if let Some(strict) = &self.strict {
            strict.etcdctl(&mut command, &self.home, known);
        }
        command.args(words);
        command
    }

    /// Makes its users known to it.
    async fn enroll(&self) -> Result<()> {
        for words in self.strict.iter().flat_map(Strict::users) {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            run(self.command(false, &words), "", ASK_WAIT).await?;
        }
        Ok(())
    }

    /// `more`: where it listens besides, each for one member.
    fn start(&mut self, programs: &Programs, more: &[&Port]) -> Result<()> {
        let peer = format!("http://127.0.0.1:{}", self.peer.number);
        let mut command = programs.other("etcd", &self.daemon.place);
        command.args(["--name", "only", "--data-dir", "data", "--log-level", "error", "--unsafe-no-fsync"]);
        let listens: Vec<String> =
            more.iter().map(|port| url(port, self.strict.as_ref())).chain([self.url()]).collect();
        command.args(["--listen-client-urls", &listens.join(","), "--advertise-client-urls", &self.url()]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("only={peer}")]);
        if let Some(strict) = &self.strict {
            strict.etcd(&mut command, &self.home);
        }
        self.daemon.spawn(command)
    }
}

impl Managed {
    /// Starts everything; returns when there is a leader and everybody else follows it.
    pub async fn start(options: ManagedOptions) -> Result<Managed> {
        let programs = Programs::find()?;
        let home = Home::create(None, programs.identity)?;
        let strict = options.strict.clone();
        if let Some(strict) = &strict {
            strict.write(&programs, home.path())?;
        }
        let etcd = Etcd::new(home.path(), strict.clone())?;
        let member = |number: usize| {
            let name = format!("node{number}");
            let place = home.path().join(format!("patroni{number}"));
            Ok(Member {
                postgres: Port::free()?,
                rest: Port::free()?,
                etcd: Port::free()?,
                data: home.path().join(&name),
                patroni: Daemon { place, child: None },
                strict: strict.clone(),
                name,
            })
        };
        let members = (0..options.members).map(member).collect::<Result<_>>()?;
        let mut managed = Managed { home, etcd, members, options, programs };
        managed.make_room()?;
        managed.start_etcd().await?;
        managed.etcd.enroll().await?;
        for number in 0..managed.members.len() {
            managed.start_member(number)?;
        }
        managed.settled().await?;
        Ok(managed)
    }

    /// The servers.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The etcd.
    pub fn etcd(&self) -> &Etcd {
        &self.etcd
    }

    /// The directory with everything in it.
    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    /// Waits until one is the leader and all others that run replicate from it.
    pub async fn settled(&self) -> Result<usize> {
        let mut wait = Wait::new("Patroni to have a leader with replicas", SETTLE_WAIT);
        loop {
            if let Some(leader) = self.leader().await {
                let running = self.members.iter().filter(|member| member.patroni.is_alive()).count();
                let query = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name LIKE 'node%'";
                if self.sql(leader, query).await.is_ok_and(|count| count == (running - 1).to_string()) {
                    return Ok(leader);
                }
            }
            wait.turn().await.with_context(|| self.logs())?;
        }
    }

    /// Who says that he holds the leader key and is the primary.
    pub async fn leader(&self) -> Option<usize> {
        for (number, member) in self.members.iter().enumerate() {
            if let Ok((200, _)) = member.ask("GET", "/primary", "").await {
                return Some(number);
            }
        }
        None
    }

    /// Asks Patroni to hand the leadership over; returns when it says that it has.
    pub async fn switchover(&self, from: usize, to: usize) -> Result<()> {
        let body = format!(r#"{{"leader": "{}", "candidate": "{}"}}"#, self.members[from].name, self.members[to].name);
        let mut wait = Wait::new("Patroni to switch over", SETTLE_WAIT);
        loop {
            match self.members[from].ask("POST", "/switchover", &body).await? {
                (200, _) => return Ok(()),
                // It does not know yet that the candidate has come up.
                (412, answer) => wait.turn().await.context(answer)?,
                (status, answer) => bail!("Patroni will not switch over: {status} {answer}"),
            }
        }
    }

    /// Plans the same for a moment, which is stated as ISO 8601 does; returns when it is planned.
    pub async fn plan_switchover(&self, from: usize, to: usize, at: &str) -> Result<()> {
        let (leader, candidate) = (&self.members[from].name, &self.members[to].name);
        let body = format!(r#"{{"leader": "{leader}", "candidate": "{candidate}", "scheduled_at": "{at}"}}"#);
        let (status, answer) = self.members[from].ask("POST", "/switchover", &body).await?;
        ensure!(status == 202, "Patroni will not plan to switch over: {status} {answer}");
        Ok(())
    }

    /// Changes the configuration that Patroni keeps in etcd; the change is JSON.
    pub async fn configure(&self, change: &str) -> Result<()> {
        let leader = self.settled().await?;
        let (status, answer) = self.members[leader].ask("PATCH", "/config", change).await?;
        ensure!(status == 200, "Patroni will not be configured: {status} {answer}");
        Ok(())
    }

    /// Kills every process of a member, its Patroni included, as when its machine dies.
    pub async fn kill(&mut self, number: usize) -> Result<()> {
        let member = &mut self.members[number];
        // First the one that would start the server again.
        member.patroni.kill();
        let mut wait = Wait::new(format!("the processes of {} to die", member.name), DEATH_WAIT);
        loop {
            let processes = process::in_directory(&member.data);
            if processes.is_empty() {
                return Ok(());
            }
            processes.into_iter().for_each(|pid| process::signal(pid, libc::SIGKILL));
            wait.turn().await?;
        }
    }

    /// Kills only the postmaster; Patroni starts it again, or somebody else takes over.
    pub fn kill_postmaster(&self, number: usize) -> Result<()> {
        let lock = fs::read_to_string(self.members[number].data.join("postmaster.pid"))?;
        let pid = lock.lines().next().and_then(|line| line.parse().ok()).context("no process id in the lock file")?;
        process::signal(pid, libc::SIGKILL);
        Ok(())
    }

    /// Stops every process of a member, its Patroni included, or lets them go on.
    pub fn freeze(&self, number: usize, frozen: bool) {
        let signal = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
        let member = &self.members[number];
        // Twice, since a process may have been forked meanwhile.
        for _ in 0..2 {
            for pid in process::in_directory(&member.data).into_iter().chain(member.patroni.pid()) {
                process::signal(pid, signal);
            }
        }
    }

    /// Stops a member's Patroni alone, or lets it go on; its server notices nothing.
    pub fn freeze_manager(&self, number: usize, frozen: bool) {
        let signal = if frozen { libc::SIGSTOP } else { libc::SIGCONT };
        self.members[number].patroni.pid().into_iter().for_each(|pid| process::signal(pid, signal));
    }

    /// Starts a member that was killed; [`Managed::settled`] waits until it is back.
    pub fn start_member(&mut self, number: usize) -> Result<()> {
        let member = &mut self.members[number];
        let mut command = self.programs.other(&self.options.patroni, &member.patroni.place);
        command.arg("patroni.yml");
        member.patroni.spawn(command)
    }

    /// Kills etcd.
    pub fn kill_etcd(&mut self) {
        self.etcd.daemon.kill();
    }

    /// Starts it again, with what it knew.
    pub async fn start_etcd(&mut self) -> Result<()> {
        let more: Vec<&Port> = self.members.iter().map(|member| &member.etcd).collect();
        self.etcd.start(&self.programs, &more)?;
        let mut wait = Wait::new("etcd to answer", SETTLE_WAIT);
        let Etcd { client, strict, .. } = &self.etcd;
        while !matches!(ask(client.number, strict.as_ref(), "GET", "/health", "").await, Ok((200, _))) {
            ensure!(self.etcd.daemon.is_alive(), "etcd has ended: {}", self.etcd.daemon.log());
            wait.turn().await?;
        }
        Ok(())
    }

    /// Runs an SQL script as superuser, on this very server.
    pub async fn sql(&self, number: usize, script: &str) -> Result<String> {
        let conninfo = conf::conninfo(&[
            ("host", "127.0.0.1"),
            ("port", &self.members[number].port().to_string()),
            ("user", "postgres"),
            ("password", &self.options.password),
            ("dbname", "postgres"),
        ]);
        let mut command = self.programs.command("psql", self.home.path());
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d"]).arg(conninfo);
        Ok(run(command, script, SQL_WAIT).await?.trim_end_matches('\n').to_owned())
    }

    fn make_room(&self) -> Result<()> {
        for member in &self.members {
            self.make_directory(&member.patroni.place)?;
            self.programs.write(&member.patroni.place.join("patroni.yml"), self.configuration(member))?;
        }
        self.make_directory(&self.etcd.daemon.place)
    }

    fn make_directory(&self, place: &Path) -> Result<()> {
        fs::create_dir(place)?;
        if let Some(identity) = self.programs.identity {
            std::os::unix::fs::chown(place, Some(identity.user), Some(identity.group))?;
        }
        Ok(())
    }

    /// What one member's Patroni reads. JSON is YAML.
    fn configuration(&self, member: &Member) -> String {
        let [ttl, loop_wait, retry_timeout] = self.options.pace;
        let (home, password) = (self.home.path().display(), &self.options.password);
        let more: String =
            self.options.settings.iter().map(|(name, value)| format!("        {name}: {value:?}\n")).collect();
        let strict = self.options.strict.as_ref().map(|strict| strict.patroni(self.home.path()));
        let [rest_more, etcd_more, section] = strict.unwrap_or_default();
        format!(
            r#"scope: main
name: {name}
restapi:
  listen: 127.0.0.1:{rest}
  connect_address: 127.0.0.1:{rest}
{rest_more}etcd3:
  hosts: ["127.0.0.1:{etcd}"]
  use_proxies: true
{etcd_more}{section}log:
  level: INFO
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    maximum_lag_on_failover: 1048576
    postgresql:
      use_pg_rewind: true
      parameters:
        wal_log_hints: "on"
        wal_keep_size: 64MB
        max_connections: 200
{more}  initdb: [{{encoding: UTF8}}, {{locale: C}}, no-sync]
postgresql:
  listen: 127.0.0.1:{port}
  connect_address: 127.0.0.1:{port}
  data_dir: {data}
  bin_dir: {programs}
  use_unix_socket: true
  pgpass: {place}/pgpass
  authentication:
    superuser: {{username: postgres, password: {password}}}
    replication: {{username: replicator, password: {password}}}
    rewind: {{username: postgres, password: {password}}}
  pg_hba:
    - local all all trust
    - host all all 127.0.0.1/32 scram-sha-256
    - host replication all 127.0.0.1/32 scram-sha-256
  parameters:
    unix_socket_directories: {home}
    shared_buffers: 32MB
    fsync: "off"
    dynamic_shared_memory_type: mmap
    jit: "off"
    password_encryption: scram-sha-256
"#,
            name = member.name,
            rest = member.rest.number,
            etcd = member.etcd.number,
            port = member.port(),
            data = member.data.display(),
            programs = self.programs.directory().display(),
            place = member.patroni.place.display(),
        )
    }

    fn logs(&self) -> String {
        let log = |member: &Member| format!("---- {}\n{}", member.name, member.patroni.log());
        self.members.iter().map(log).collect::<Vec<_>>().join("\n")
    }
}

impl Member {
    /// The server's port, on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.postgres.number
    }

    /// Where its Patroni is asked.
    pub fn url(&self) -> String {
        url(&self.rest, self.strict.as_ref())
    }

    /// The ports by which the rest of the world reaches it, and by which it reaches etcd.
    pub fn ports(&self) -> [u16; 3] {
        [&self.postgres, &self.rest, &self.etcd].map(|port| port.number)
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
        ask(self.rest.number, self.strict.as_ref(), method, path, body).await
    }
}

impl Port {
    fn free() -> Result<Port> {
        let reservation = TcpSocket::new_v4()?;
        reservation.set_reuseaddr(true)?;
        reservation.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).context("no free port")?;
        Ok(Port { number: reservation.local_addr()?.port(), _reservation: reservation })
    }
}

impl Daemon {
    fn spawn(&mut self, mut command: std::process::Command) -> Result<()> {
        self.kill();
        let log = File::options().create(true).append(true).open(self.place.join("log"))?;
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdout(log.try_clone()?).stderr(log).spawn();
        self.child = Some(child.with_context(|| format!("cannot run {name}"))?);
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    fn is_alive(&self) -> bool {
        self.pid().is_some_and(|pid| process::state(pid) != process::State::Gone)
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // That it is dead already is no failure.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn log(&self) -> String {
        let log = fs::read_to_string(self.place.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
    }
}

fn url(port: &Port, strict: Option<&Strict>) -> String {
    let scheme = if strict.is_some() { "https" } else { "http" };
    format!("{scheme}://127.0.0.1:{}", port.number)
}

/// One question, and its answer's status and body: both ends are on this machine.
async fn ask(port: u16, strict: Option<&Strict>, method: &str, path: &str, body: &str) -> Result<(u16, String)> {
    let exchange = async {
        match strict {
            Some(strict) => exchange(strict.connect(port).await?, method, path, body).await,
            None => exchange(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?, method, path, body).await,
        }
    };
    timeout(ASK_WAIT, exchange).await.context("no answer in time")?
}

/// The same over HTTP/1.0, on a connection that is closed after it.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    body: &str,
) -> Result<(u16, String)> {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    let mut answer = Vec::new();
    // Not everybody says goodbye over TLS before he closes.
    let read = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let Some(status) = status else { bail!("the answer is no HTTP: {read:?} {answer:?}") };
    Ok((status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default()))
}

/// How long Patroni may take to find a leader, and for the others to follow.
const SETTLE_WAIT: Duration = Duration::from_secs(120);

/// A switchover's answer comes when it is done.
const ASK_WAIT: Duration = Duration::from_secs(60);

const SQL_WAIT: Duration = Duration::from_secs(30);
const DEATH_WAIT: Duration = Duration::from_secs(20);
const LOG_TAIL_LINES: usize = 25;
