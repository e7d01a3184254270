//! The stage of every integration test: a cluster, the program in front of it, and clients.
//!
//! Owns starting, waiting and ending. Nothing here knows what a test is about. A wait is always for a condition, with a limit that
//! only a failure reaches.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster::{Cluster, Managed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A cluster with the program in front of it. Both end when it is dropped.
pub(crate) struct Stage {
    // Dropped first, so that it does not log the death of every server.
    pub(crate) proxy: Proxy,
    pub(crate) cluster: Cluster,
}

/// What to start: a configuration that serves the cluster, and the changes that a test makes to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Setup {
    /// The cluster.
    pub(crate) cluster: cluster::Options,
    /// What stands in the program's environment besides the test's own.
    pub(crate) environment: Vec<(String, String)>,
    /// What the program finds in place of /etc/hosts.
    pub(crate) hosts: Option<PathBuf>,
    keys: Vec<(String, String, String)>,
    tail: String,
}

/// What the program is put in front of.
pub(crate) struct Servers<'a> {
    ports: Vec<u16>,
    directory: &'a Path,
}

impl<'a> From<&'a Cluster> for Servers<'a> {
    fn from(cluster: &'a Cluster) -> Servers<'a> {
        Servers { ports: cluster.nodes().iter().map(cluster::Node::port).collect(), directory: cluster.directory() }
    }
}

impl<'a> From<&'a Managed> for Servers<'a> {
    fn from(cluster: &'a Managed) -> Servers<'a> {
        Servers { ports: cluster.members().iter().map(cluster::Member::port).collect(), directory: cluster.directory() }
    }
}

/// The program, running. Killed when dropped.
pub(crate) struct Proxy {
    child: Child,
    log: Arc<Mutex<String>>,
    /// What reads the log; it ends with the program.
    reader: Option<std::thread::JoinHandle<()>>,
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// Where pages are served.
    pub(crate) http: SocketAddr,
    user: String,
    password: String,
    pub(crate) database: String,
}

/// A client of tokio-postgres and what the server told it without being asked.
pub(crate) struct Client {
    client: tokio_postgres::Client,
    messages: mpsc::UnboundedReceiver<AsyncMessage>,
    connection: JoinHandle<()>,
}

/// What a program wrote and how it ended.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Setup {
    /// The default cluster with this many replicas.
    pub(crate) fn replicas(replicas: usize) -> Setup {
        Setup { cluster: cluster::Options { replicas, ..cluster::Options::default() }, ..Setup::default() }
    }

    /// Sets a key of a section of the configuration; the value is TOML.
    pub(crate) fn with(mut self, section: &str, key: &str, value: &str) -> Setup {
        self.keys.retain(|(known, name, _)| (known.as_str(), name.as_str()) != (section, key));
        self.keys.push((section.to_owned(), key.to_owned(), value.to_owned()));
        self
    }

    /// Adds sections to the end of the configuration.
    pub(crate) fn and(mut self, sections: &str) -> Setup {
        self.tail.push_str(sections);
        self.tail.push('\n');
        self
    }

    /// Adds a line to every server's `postgresql.conf`.
    pub(crate) fn server(mut self, name: &str, value: &str) -> Setup {
        self.cluster.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the cluster and the program; returns when the program is ready and every replica is known.
    pub(crate) async fn start(self) -> Result<Stage> {
        let cluster = Cluster::start(self.cluster.clone()).await?;
        let proxy = self.proxy(&cluster).await?;
        let stage = Stage { proxy, cluster };
        stage.ready().await?;
        Ok(stage)
    }

    /// Starts the program in front of a cluster that exists; returns when it listens.
    pub(crate) async fn proxy(&self, servers: impl Into<Servers<'_>>) -> Result<Proxy> {
        let path = self.write(servers)?;
        let mut command = program("run", &path);
        if let Some(hosts) = &self.hosts {
            command = with_hosts(hosts, &command);
        }
        let mut child = command
            .envs(self.environment.clone())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().context("stderr is a pipe")?;
        let copy = log.clone();
        // A thread, since the pipe must be emptied also while a test's runtime is busy.
        let reader = Some(std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = copy.lock().unwrap();
                if log.len() < LOG_BYTES_MAX {
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        }));
        let cluster::Options { user, password, database, .. } = self.cluster.clone();
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut proxy =
            Proxy { child, log, reader, config: path, address: nowhere, http: nowhere, user, password, database };
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            let log = proxy.log();
            if let (Some(address), Some(http)) =
                (address_of(&log, "accepting connections"), address_of(&log, "serving /metrics"))
            {
                (proxy.address, proxy.http) = (address, http);
                return Ok(proxy);
            }
            if let Some(status) = proxy.child.try_wait()? {
                proxy.read_on();
                bail!("the program ended with {status}:\n{}", proxy.log());
            }
            ensure!(Instant::now() < deadline, "the program does not listen:\n{log}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// Writes the configuration for a cluster beside its data; it is removed with it.
    pub(crate) fn write<'a>(&self, servers: impl Into<Servers<'a>>) -> Result<PathBuf> {
        let servers = servers.into();
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = servers.directory.join(format!("proxy-{number}.toml"));
        std::fs::write(&path, self.text(servers))?;
        Ok(path)
    }

    /// Writes the configuration over the one that the program was started with, and has it reloaded.
    pub(crate) async fn reload(&self, stage: &Stage) -> Result<()> {
        let reloads = || stage.proxy.log().matches("the configuration was reloaded").count();
        let before = reloads();
        // A program that reads it at this moment must not see half of it.
        let path = stage.proxy.config.with_extension("new");
        std::fs::write(&path, self.text(&stage.cluster))?;
        std::fs::rename(&path, &stage.proxy.config)?;
        stage.proxy.signal("HUP");
        until("the configuration to be reloaded", async || reloads() > before).await
    }

    /// The configuration.
    pub(crate) fn text<'a>(&self, servers: impl Into<Servers<'a>>) -> String {
        let servers: Vec<String> = servers.into().ports.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
        let quoted = |text: &str| format!("\"{text}\"");
        let (user, password) = (quoted(&self.cluster.user), quoted(&self.cluster.password));
        let defaults = [
            ("proxy", "listen", "[\"127.0.0.1:0\"]".to_owned()),
            ("proxy", "http_listen", quoted("127.0.0.1:0")),
            ("proxy", "workers", "2".to_owned()),
            ("clusters.local", "servers", format!("[{}]", servers.join(", "))),
            ("clusters.local", "probe_user", user.clone()),
            ("clusters.local", "probe_password", password.clone()),
        ];
        let mut keys: Vec<(&str, &str, &str)> =
            defaults.iter().map(|(section, key, value)| (*section, *key, value.as_str())).collect();
        for (section, key, value) in &self.keys {
            keys.retain(|(known, name, _)| (*known, *name) != (section.as_str(), key.as_str()));
            keys.push((section, key, value));
        }
        // All have clients, so that what goes from one worker to another does so in every test.
        let workers = keys.iter().find_map(|(_, key, value)| (*key == "workers").then_some(*value));
        if !keys.iter().any(|(_, key, _)| *key == "workers_min") {
            keys.extend(workers.map(|workers| ("proxy", "workers_min", workers)));
        }
        keys.sort_by_key(|(section, _, _)| *section);
        let (mut text, mut before) = (String::new(), "");
        for (section, key, value) in keys {
            if section != before {
                let _ = writeln!(text, "[{section}]");
                before = section;
            }
            let _ = writeln!(text, "{key} = {value}");
        }
        let _ =
            writeln!(text, "[[users]]\nname = {user}\npassword = {password}\n[databases.\"*\"]\ncluster = \"local\"");
        text + &self.tail
    }
}

impl Stage {
    /// A client of the default user and database.
    pub(crate) async fn connect(&self) -> Client {
        self.proxy.connect().await
    }

    /// Waits until the program has a primary, and every live replica of the cluster is one that it knows to be fresh.
    pub(crate) async fn ready(&self) -> Result<()> {
        until("the program to be ready", async || {
            self.proxy.page("/ready").await.is_ok_and(|(status, _)| status == 200)
        })
        .await?;
        let replicas = self.live_replicas();
        until("every replica to be fresh", async || self.fresh_replicas().await == replicas).await
    }

    /// How many replicas the program believes to be fresh enough for anybody.
    pub(crate) async fn fresh_replicas(&self) -> usize {
        let states = self.proxy.series("hakem_node_state").await;
        let is_replica = |name: &str| {
            states
                .iter()
                .any(|(labels, value)| *value == 1.0 && labels.contains("state=\"replica\"") && labels.contains(name))
        };
        let lags = self.proxy.series("hakem_replica_lag_seconds").await;
        let fresh = |labels: &str, lag: f64| lag < FRESH_SECONDS && label(labels, "node").is_some_and(is_replica);
        lags.iter().filter(|(labels, lag)| fresh(labels, *lag)).count()
    }

    /// Runs one of PostgreSQL's client programs against the proxy.
    pub(crate) async fn run(&self, name: &str, arguments: &[&str], input: &str) -> Output {
        self.proxy.client_program(&postgres_program(name), arguments, input).await
    }

    /// Runs a client program with libpq's variables pointing at a database of the primary itself.
    pub(crate) async fn primary_program(&self, database: &str, path: &Path, arguments: &[&str]) -> Output {
        let node = &self.cluster.nodes()[self.cluster.primary()];
        let Proxy { user, password, .. } = &self.proxy;
        let mut command = client_command(path, node.port(), user, password, database);
        command.env("PGHOST", node.host()).args(arguments);
        run(command, "").await
    }

    /// psql without its start-up file, in bare output; fails the test when psql fails.
    pub(crate) async fn psql(&self, sql: &str) -> String {
        let output = self.run("psql", &["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"], sql).await;
        assert!(output.status.success(), "{sql}\n{output:?}");
        // It may have changed what statements are.
        self.catalog_read().await;
        output.stdout.trim_end().to_owned()
    }

    /// Waits until the program knows what statements are in the default database: until then, no read goes to a replica.
    pub(crate) async fn catalog_read(&self) {
        until("the catalog to be read", async || {
            // What replication asks for by name need not be a database.
            let ours = format!("database=\"{}\"", self.proxy.database);
            let states = self.proxy.series("hakem_catalog_current").await;
            states.iter().filter(|(labels, _)| labels.contains(&ours)).all(|(_, current)| *current == 1.0)
        })
        .await
        .unwrap();
    }

    /// One value from a server itself, behind the program's back.
    pub(crate) async fn direct(&self, node: usize, sql: &str) -> String {
        self.cluster.sql(node, sql).await.unwrap()
    }

    fn live_replicas(&self) -> usize {
        let nodes = self.cluster.nodes().iter().enumerate();
        nodes.filter(|(i, node)| *i != self.cluster.primary() && node.is_running()).count()
    }
}

impl Proxy {
    /// A client of the default user and database.
    pub(crate) async fn connect(&self) -> Client {
        self.connect_with(|_| {}).await.unwrap()
    }

    /// A client with changes to the default options.
    pub(crate) async fn connect_with(
        &self,
        change: impl FnOnce(&mut tokio_postgres::Config),
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = tokio_postgres::Config::new();
        config.host(self.address.ip().to_string()).port(self.address.port());
        config.user(&self.user).password(&self.password).dbname(&self.database);
        change(&mut config);
        Client::connect(&config, NoTls).await
    }

    /// An encrypted one.
    pub(crate) async fn connect_encrypted(&self, tls: rustls::ClientConfig) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host("localhost").hostaddr(self.address.ip()).port(self.address.port()).ssl_mode(SslMode::Require);
        config.user(&self.user).password(&self.password).dbname(&self.database);
        Client::connect(&config, MakeRustlsConnect::new(tls)).await.unwrap()
    }

    /// A bare connection, for a test that speaks the protocol itself.
    pub(crate) async fn raw(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Runs a client program with libpq's variables pointing at the proxy. Killed at the limit.
    pub(crate) async fn client_program(&self, path: &Path, arguments: &[&str], input: &str) -> Output {
        let mut command = client_command(path, self.address.port(), &self.user, &self.password, &self.database);
        command.env("PGHOST", self.address.ip().to_string()).args(arguments);
        run(command, input).await
    }

    /// The sum of a metric's series that have all these labels.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
        let series = self.series(name).await;
        series
            .iter()
            .filter(|(found, _)| wanted.iter().all(|label| found.contains(label)))
            .map(|(_, value)| value)
            .sum()
    }

    /// A metric's series: the labels as they are written, and the value.
    pub(crate) async fn series(&self, name: &str) -> Vec<(String, f64)> {
        let (_, text) = self.page("/metrics").await.unwrap();
        let line = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = match rest.strip_prefix('{') {
                Some(rest) => rest.split_once("} ")?,
                None => ("", rest.strip_prefix(' ')?),
            };
            Some((labels.to_owned(), value.trim().parse().ok()?))
        };
        text.lines().filter_map(line).collect()
    }

    /// A page of the HTTP port: its status and its text.
    pub(crate) async fn page(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.http).await?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no header")?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        Ok((status, body.to_owned()))
    }

    /// What it has logged.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// A figure of `/proc/PID/status`, in kB: `VmHWM` is the most memory that it has ever had.
    pub(crate) fn memory_kb(&self, name: &str) -> u64 {
        let status = self.process("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// A file of `/proc/PID`.
    pub(crate) fn process(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap()
    }

    /// Sends it a signal by name (`TERM`, `HUP`).
    pub(crate) fn signal(&self, name: &str) {
        let status =
            std::process::Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.unwrap().success());
    }

    /// How it ended; waits for that.
    pub(crate) async fn ended(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.read_on();
                return Ok(status);
            }
            ensure!(Instant::now() < deadline, "the program does not end:\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads the log to its end, once the program has ended.
    fn read_on(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            self.read_on();
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!(
                "---- the program's log, its end:\n{}",
                lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
            );
        }
    }
}

impl Client {
    async fn connect<T>(config: &tokio_postgres::Config, tls: T) -> Result<Client, tokio_postgres::Error>
    where
        T: MakeTlsConnect<Socket, Stream: Send + 'static>,
    {
        let (client, mut connection) = config.connect(tls).await?;
        let (sender, messages) = mpsc::unbounded_channel();
        let connection = tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                // Whoever does not look at messages is not told.
                let _ = sender.send(message);
            }
        });
        Ok(Client { client, messages, connection })
    }

    /// The first column of the only row, by the simple protocol.
    pub(crate) async fn value(&self, sql: &str) -> Result<String, tokio_postgres::Error> {
        let messages = self.client.simple_query(sql).await?;
        let row = messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
            _ => None,
        });
        Ok(row.unwrap_or_else(|| panic!("no row: {sql}")))
    }

    /// The SQLSTATE that a simple query fails with; `None` when it succeeds.
    pub(crate) async fn failure(&self, sql: &str) -> Option<SqlState> {
        match self.client.batch_execute(sql).await {
            Ok(()) => None,
            Err(error) => Some(code(&error)),
        }
    }

    /// The next message that nobody asked for.
    pub(crate) async fn message(&mut self) -> Option<AsyncMessage> {
        tokio::time::timeout(WAIT_MAX, self.messages.recv()).await.unwrap()
    }

    /// Ends the connection as when the client's machine dies, without a farewell.
    pub(crate) async fn vanish(self) {
        self.connection.abort();
        let _ = self.connection.await;
    }

    /// Says goodbye and waits until it has been said.
    pub(crate) async fn close(self) {
        let Client { client, connection, .. } = self;
        drop(client);
        let _ = connection.await;
    }
}

impl Deref for Client {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &tokio_postgres::Client {
        &self.client
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut tokio_postgres::Client {
        &mut self.client
    }
}

/// The SQLSTATE of an error; one that ended the connection fails the test, with what it was.
pub(crate) fn code(error: &tokio_postgres::Error) -> SqlState {
    error.code().cloned().unwrap_or_else(|| panic!("no SQLSTATE: {error:?}"))
}

/// Waits for a condition.
///
/// # Errors
/// When it does not come true.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + WAIT_MAX;
    while !condition().await {
        ensure!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// The program with one of its commands and a configuration.
pub(crate) fn program(command: &str, config: &Path) -> std::process::Command {
    let mut program = std::process::Command::new(executable());
    program.arg(command).arg(config);
    program
}

/// Where the program lies: the one that was built with the tests, or another, whose whole path is `HAKEM_PROGRAM`.
pub(crate) fn executable() -> PathBuf {
    std::env::var_os("HAKEM_PROGRAM").map_or_else(|| env!("CARGO_BIN_EXE_hakem").into(), PathBuf::from)
}

/// The same command where this file is /etc/hosts.
fn with_hosts(hosts: &Path, command: &std::process::Command) -> std::process::Command {
    let mut unshare = std::process::Command::new("unshare");
    if !std::fs::read_to_string("/proc/self/status").is_ok_and(|status| status.contains("\nUid:\t0\t0")) {
        unshare.arg("--map-root-user");
    }
    unshare.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
    unshare.arg(hosts).arg(command.get_program()).args(command.get_args());
    unshare
}

/// A command with libpq's variables, and none of those that we were started with.
fn client_command(path: &Path, port: u16, user: &str, password: &str, database: &str) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(path);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.env("PGPORT", port.to_string()).env("PGUSER", user).env("PGPASSWORD", password).env("PGDATABASE", database);
    command
}

/// Runs a command to its end, with this input.
pub(crate) async fn run(mut command: tokio::process::Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // A program that does not read its input must not stop us from reading its output.
    let feed = tokio::spawn(async move { stdin.write_all(input.as_bytes()).await });
    let output = tokio::time::timeout(PROGRAM_MAX, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{command:?} takes more than {PROGRAM_MAX:?}")).unwrap();
    let _ = feed.await;
    Output {
        status: output.status,
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The Python of the environment that `.ci/install test` makes.
pub(crate) fn python() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/venv/bin/python");
    assert!(path.exists(), "{} is missing: run .ci/install test", path.display());
    path
}

/// A Python script of `tests/drivers`.
pub(crate) fn driver(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/drivers").join(name)
}

/// One of PostgreSQL's programs, from the installation that the cluster is started from.
pub(crate) fn postgres_program(name: &str) -> PathBuf {
    let directory = std::env::var_os("HAKEM_PG_BIN").map(PathBuf::from).unwrap_or_else(|| {
        let output =
            std::process::Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.ci/postgres")).output();
        PathBuf::from(String::from_utf8(output.unwrap().stdout).unwrap().trim())
    });
    directory.join(name)
}

/// The address in a log line with these words, in either format.
fn address_of(log: &str, words: &str) -> Option<SocketAddr> {
    let line = log.lines().find(|line| line.contains(words))?;
    let rest = &line[line.find("address")? + "address".len()..];
    let start = rest.find(|letter: char| letter.is_ascii_digit())?;
    let end = rest[start..].find(|letter: char| !(letter.is_ascii_digit() || letter == '.' || letter == ':'));
    rest[start..end.map_or(rest.len(), |end| start + end)].parse().ok()
}

/// The value of a label.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let rest = labels.split_once(&format!("{name}=\""))?.1;
    Some(rest.split_once('"')?.0)
}

/// The longest that any condition is waited for.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(60);

/// The longest that a program may run.
const PROGRAM_MAX: Duration = Duration::from_secs(120);

/// The pause between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);

/// A replica with less lag is fresh: as much as `max_lag` is by default.
const FRESH_SECONDS: f64 = 1.0;

/// How much of a log is kept, and shown when a test fails.
const LOG_BYTES_MAX: usize = 64 << 20;
const LOG_LINES_SHOWN: usize = 40;
