//! Owns the cluster: its options, its start, what can be asked of it and set on it, its end.
//! Does not own changes of who is primary (`failover.rs`), nor what one server does (`node.rs`).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::conf;
use crate::home::Home;
use crate::lsn::Lsn;
use crate::node::{Mode, Node};
use crate::programs::{Programs, run};
use crate::wait::Wait;

/// A running cluster. Dropping it kills every server and removes the directory, which blocks for about a tenth of a
/// second; a watchdog process does the same when the owning process dies without dropping, even by SIGKILL.
///
/// Nodes are named by their index in [`Cluster::nodes`]; an index out of range panics.
#[derive(Debug)]
pub struct Cluster {
    // Dropped first, so that the servers are dead before the nodes wait for them.
    pub(crate) home: Home,
    pub(crate) nodes: Vec<Node>,
    pub(crate) primary: usize,
    pub(crate) options: Options,
    pub(crate) programs: Programs,
}

/// What cluster to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// How many replicas, beside the primary. Default: 2.
    pub replicas: usize,
    /// Whether a commit waits until at least one replica has flushed it (`ANY 1` of all nodes). Default: true. Without
    /// replicas it means nothing.
    pub synchronous: bool,
    /// The superuser's name. Default: `postgres`.
    pub user: String,
    /// The superuser's password. Default: `hakem`.
    pub password: String,
    /// A database to create, unless it is `postgres`. Default: `postgres`.
    pub database: String,
    /// What the servers demand of TCP connections.
    pub authentication: Authentication,
    /// More lines for every node's `postgresql.conf`; they win over this crate's own.
    pub settings: Vec<(String, String)>,
    /// Whether it has a system identifier that no other cluster has, also where clusters are made from a template (`HAKEM_CLUSTER_TEMPLATES`, a
    /// directory in which the servers' user may write: what `initdb` has made is kept there, and copied from then on). Default: false.
    pub own_system: bool,
    /// Where the cluster lives. It must not exist, the servers' user (`postgres`, where we are root) must be able to
    /// reach it, and it is removed at the end. Default: a fresh one in `$TMPDIR`.
    pub directory: Option<PathBuf>,
}

/// What `pg_hba.conf` demands of TCP connections, and how passwords are stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authentication {
    /// `scram-sha-256`.
    #[default]
    Scram,
    /// `md5`, with passwords stored as md5.
    Md5,
    /// No password asked for.
    Trust,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            replicas: 2,
            synchronous: true,
            user: "postgres".to_owned(),
            password: "hakem".to_owned(),
            database: "postgres".to_owned(),
            authentication: Authentication::default(),
            settings: Vec::new(),
            own_system: false,
            directory: None,
        }
    }
}

impl Cluster {
    /// Starts the cluster; returns when every node accepts connections and every replica streams.
    pub async fn start(options: Options) -> Result<Cluster> {
        let programs = Programs::find()?;
        let home = Home::create(options.directory.clone(), programs.identity)?;
        ensure!(
            home.path().as_os_str().len() <= DIRECTORY_LENGTH_MAX,
            "{} is too long a path for the servers' Unix sockets; set TMPDIR to a shorter one",
            home.path().display()
        );
        let nodes =
            (0..=options.replicas).map(|i| Node::new(format!("node{i}"), home.path())).collect::<Result<_>>()?;
        let mut cluster = Cluster { home, nodes, primary: 0, options, programs };
        cluster.initialize().await.context("cannot initialize the cluster")?;
        // All at once: a replica asks its primary again until that answers.
        for node in &mut cluster.nodes {
            node.spawn(&cluster.programs).await?;
        }
        for i in 0..cluster.nodes.len() {
            cluster.nodes[i].ready().await?;
            cluster.renew_slots(i).await?;
        }
        for i in 1..cluster.nodes.len() {
            cluster.streams(i, 0).await?;
        }
        Ok(cluster)
    }

    /// All nodes; the first one was the first primary.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The node that was promoted last, dead or alive; before any promotion, the first one.
    pub fn primary(&self) -> usize {
        self.primary
    }

    /// What the cluster was started with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The directory with everything in it, also the servers' Unix sockets.
    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    /// A connection URL for the superuser.
    pub fn url(&self, i: usize) -> String {
        let Options { user, password, database, .. } = &self.options;
        conf::url(user, password, self.nodes[i].host(), self.nodes[i].port(), database)
    }

    /// Kills every process of a node with SIGKILL, as when a machine dies, except that the kernel lives on and closes
    /// its connections; [`Cluster::freeze`] shows the silence of a machine that does not even do that. That the node is
    /// dead already is no failure.
    pub async fn kill(&mut self, i: usize) -> Result<()> {
        self.nodes[i].kill().await
    }

    /// Kills only the postmaster with SIGKILL; its orphans notice that and exit by themselves, sooner or later.
    pub async fn kill_postmaster(&mut self, i: usize) -> Result<()> {
        self.nodes[i].kill_postmaster()
    }

    /// Stops a node and waits until it has stopped, at most a minute.
    pub async fn stop(&mut self, i: usize, mode: Mode) -> Result<()> {
        self.nodes[i].stop(mode).await
    }

    /// Starts a node as what it was: a replica follows the present primary; a former primary comes up as a second one
    /// on its old timeline, which is what [`Cluster::rejoin`] avoids. Returns when it accepts connections.
    pub async fn start_node(&mut self, i: usize) -> Result<()> {
        self.nodes[i].spawn(&self.programs).await?;
        self.nodes[i].ready().await
    }

    /// Stops all of a node's processes with SIGSTOP: it keeps its connections, accepts (by its kernel) new ones, and
    /// answers nothing.
    pub async fn freeze(&self, i: usize) -> Result<()> {
        self.nodes[i].freeze().await
    }

    /// Lets a frozen node go on.
    pub fn thaw(&self, i: usize) {
        self.nodes[i].thaw();
    }

    /// Runs an SQL script with `psql -XAtq` as superuser through the Unix socket, each statement on its own, up to the
    /// first error. Returns what it wrote, without the last line's end. `\c database` works in it, as every command of psql.
    pub async fn sql(&self, i: usize, script: &str) -> Result<String> {
        self.sql_within(i, script, SQL_WAIT).await
    }

    /// The same with a limit of its own; at the limit psql is killed.
    pub async fn sql_within(&self, i: usize, script: &str, limit: Duration) -> Result<String> {
        let mut command = self.programs.command("psql", self.home.path());
        command
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-", "-d"])
            .arg(self.socket_conninfo(i, &self.options.database));
        let output = run(command, script, limit).await.with_context(|| format!("on {}", self.nodes[i].name()))?;
        Ok(output.trim_end_matches('\n').to_owned())
    }

    /// `ALTER SYSTEM SET`, and a reload; returns when new connections see it. A setting that only a restart changes
    /// waits for one. For a list (`synchronous_standby_names`), the value is its whole text. The node must not be frozen.
    pub async fn set(&self, i: usize, name: &str, value: &str) -> Result<()> {
        self.alter_system(i, &format!("SET {name} = {}", conf::literal(value))).await
    }

    /// Takes back what [`Cluster::set`] did.
    pub async fn reset(&self, i: usize, name: &str) -> Result<()> {
        self.alter_system(i, &format!("RESET {name}")).await
    }

    /// Has a replica receive but not replay, until [`Cluster::resume_replay`]; returns when it has come to a halt.
    pub async fn pause_replay(&self, i: usize) -> Result<()> {
        self.sql(i, "SELECT pg_wal_replay_pause()").await?;
        let mut wait = Wait::new(format!("{} to pause its replay", self.nodes[i].name()), REPLAY_WAIT);
        while self.sql(i, "SELECT pg_get_wal_replay_pause_state()").await? != "paused" {
            wait.turn().await?;
        }
        Ok(())
    }

    /// Has a replica replay again.
    pub async fn resume_replay(&self, i: usize) -> Result<()> {
        self.sql(i, "SELECT pg_wal_replay_resume()").await.map(drop)
    }

    /// Waits until a replica has replayed everything that the primary has written until now.
    pub async fn replayed(&self, i: usize) -> Result<()> {
        let target: Lsn = self.sql(self.primary, "SELECT pg_current_wal_insert_lsn()").await?.parse()?;
        let target = target.without_header();
        let mut wait = Wait::new(format!("{} to replay {target}", self.nodes[i].name()), REPLAY_WAIT);
        while self.sql(i, "SELECT pg_last_wal_replay_lsn()").await?.parse::<Lsn>()? < target {
            wait.turn().await?;
        }
        Ok(())
    }

    /// Waits until every running replica that is not frozen has replayed everything that the primary has written until now.
    pub async fn caught_up(&self) -> Result<()> {
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            if i != self.primary && node.is_running() && node.is_standby() && !node.is_frozen() {
                self.replayed(i).await?;
            }
        }
        Ok(())
    }

    /// Ends the cluster as dropping it does, but without blocking the runtime, and says whether that went well.
    pub async fn shutdown(self) -> Result<()> {
        let directory = self.directory().to_owned();
        tokio::task::spawn_blocking(move || drop(self)).await?;
        ensure!(!directory.exists(), "cannot remove {}", directory.display());
        Ok(())
    }

    /// Waits until the primary counts this node among those that stream from it, or until the node's log, from this
    /// position on, says that it never will.
    pub(crate) async fn streams(&self, i: usize, log: usize) -> Result<()> {
        let node = &self.nodes[i];
        let query = format!(
            "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND application_name = {}",
            conf::literal(node.name())
        );
        let timeline = "SELECT left(pg_walfile_name(pg_current_wal_insert_lsn()), 8)";
        let timeline = u32::from_str_radix(&self.sql(self.primary, timeline).await?, 16).context("not a timeline")?;
        // A replica whose history has parted from the primary's streams too, for a moment: up to the point of parting,
        // on the old timeline.
        let received = format!(
            "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming' AND received_tli = {timeline}"
        );
        let mut wait = Wait::new(format!("{} to stream", node.name()), STREAM_WAIT);
        while self.sql(i, &received).await? == "0" || self.sql(self.primary, &query).await? == "0" {
            let said = node.log_since(log);
            if let Some(reason) = said.lines().find(|line| CANNOT_STREAM.iter().any(|sign| line.contains(sign))) {
                bail!("{} cannot follow: {reason}", node.name());
            }
            wait.turn().await?;
        }
        Ok(())
    }

    /// Writes a node's three configuration files, with the present primary as the one to follow.
    pub(crate) fn configure(&self, i: usize) -> Result<()> {
        let names: Vec<_> = self.nodes.iter().map(|node| node.name().to_owned()).collect();
        let data = self.nodes[i].data_directory();
        self.programs
            .write(&data.join("postgresql.conf"), conf::postgresql(&self.options, &names, self.home.path()))?;
        self.programs.write(&data.join("pg_hba.conf"), conf::hba(self.options.authentication))?;
        self.point(i)
    }

    /// Has a node follow the present primary, from its next reload or start on. A primary does not look at it.
    pub(crate) fn point(&self, i: usize) -> Result<()> {
        let primary = &self.nodes[self.primary];
        let upstream = conf::conninfo(&[
            ("host", primary.host()),
            ("port", &primary.port().to_string()),
            ("user", &self.options.user),
            ("password", &self.options.password),
            ("application_name", self.nodes[i].name()),
        ]);
        let node = &self.nodes[i];
        self.programs.write(&node.data_directory().join("node.conf"), conf::node(node.name(), node.port(), &upstream))
    }

    /// Gives a node fresh slots, one for every other node: an old one would hold back WAL for a replica that has long
    /// followed somebody else. Slots in use stay.
    pub(crate) async fn renew_slots(&self, i: usize) -> Result<()> {
        let others = self.nodes.iter().map(Node::name).filter(|name| *name != self.nodes[i].name()).map(conf::literal);
        let others = others.collect::<Vec<_>>().join(", ");
        let script = format!(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                WHERE slot_name LIKE 'node%' AND slot_type = 'physical' AND NOT active;
            SELECT pg_create_physical_replication_slot(name) FROM unnest(ARRAY[{others}]::text[]) name
                WHERE name NOT IN (SELECT slot_name FROM pg_replication_slots);"
        );
        self.sql(i, &script).await.map(drop)
    }

    /// The way in for our own tools, which needs no password.
    pub(crate) fn socket_conninfo(&self, i: usize, database: &str) -> String {
        conf::conninfo(&[
            ("host", &self.home.path().to_string_lossy()),
            ("port", &self.nodes[i].port().to_string()),
            ("user", &self.options.user),
            ("dbname", database),
        ])
    }

    /// Makes every node's data directory.
    async fn initialize(&self) -> Result<()> {
        let Options { user, password, database, .. } = &self.options;
        let (home, first) = (self.home.path(), self.nodes[0].data_directory());
        let template =
            std::env::var_os("HAKEM_CLUSTER_TEMPLATES").filter(|_| !self.options.own_system && user == "postgres");
        let template = template.map(|directory| PathBuf::from(directory).join(user));
        match template {
            Some(template) if template.join("PG_VERSION").exists() => self.copy(&template, first).await?,
            template => {
                let mut initdb = self.programs.command("initdb", home);
                initdb.arg("-D").arg(first).args(["-U", user, "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync"]);
                run(initdb, "", TOOL_WAIT).await?;
                if let Some(template) = template {
                    self.keep(first, &template).await?;
                }
            }
        }
        self.configure(0)?;

        // Single-user mode takes one statement a line, and no server has to be started and stopped for it.
        let mut single = self.programs.command("postgres", home);
        single
            .args(["--single", "-c", "exit_on_error=on", "-c", "synchronous_commit=local", "-D"])
            .arg(first)
            .arg("postgres");
        let mut script = format!("ALTER USER {} PASSWORD {}\n", conf::identifier(user), conf::literal(password));
        if database != "postgres" {
            script += &format!("CREATE DATABASE {}\n", conf::identifier(database));
        }
        run(single, &script, TOOL_WAIT).await?;

        // The files of a server that was shut down in good order are a base backup, and copying them takes a tenth of
        // the time of pg_basebackup.
        for i in 1..self.nodes.len() {
            self.copy(first, self.nodes[i].data_directory()).await?;
            self.configure(i)?;
            self.programs.write(&self.nodes[i].standby_signal(), "")?;
        }
        Ok(())
    }

    async fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let mut copy = self.programs.other("cp", self.home.path());
        copy.arg("-Rp").arg(from).arg(to);
        run(copy, "", TOOL_WAIT).await.map(drop)
    }

    /// Makes a template of a data directory, unless somebody else just has.
    async fn keep(&self, directory: &Path, template: &Path) -> Result<()> {
        let draft = template.with_extension(std::process::id().to_string());
        self.copy(directory, &draft).await?;
        // Whoever comes second finds a directory that is not empty.
        if std::fs::rename(&draft, template).is_err() {
            std::fs::remove_dir_all(&draft)?;
        }
        Ok(())
    }

    async fn alter_system(&self, i: usize, change: &str) -> Result<()> {
        let loaded = "SELECT pg_conf_load_time()";
        let before = self.sql(i, loaded).await?;
        self.sql(i, &format!("ALTER SYSTEM {change};\nSELECT pg_reload_conf();")).await?;
        let mut wait = Wait::new(format!("{} to read its configuration again", self.nodes[i].name()), RELOAD_WAIT);
        while self.sql(i, loaded).await? == before {
            wait.turn().await?;
        }
        Ok(())
    }
}

/// A Unix socket's path has room for 107 bytes, and `/.s.PGSQL.65535` takes 15 of them.
const DIRECTORY_LENGTH_MAX: usize = 107 - 15;

/// How long a script of the caller's may take.
const SQL_WAIT: Duration = Duration::from_secs(60);

/// How long one of PostgreSQL's tools may take, on a machine that is busy with other tests.
pub(crate) const TOOL_WAIT: Duration = Duration::from_secs(120);

/// How long a replica may take until it streams, or has replayed what it has.
const STREAM_WAIT: Duration = Duration::from_secs(60);
const REPLAY_WAIT: Duration = Duration::from_secs(60);

/// How long a reload may take.
const RELOAD_WAIT: Duration = Duration::from_secs(20);

/// What a replica writes into its log when no patience will help: its history has parted from the primary's, or the
/// WAL that it needs is gone.
const CANNOT_STREAM: [&str; 4] = [
    "forked off current database system timeline",
    "is not in this server's history",
    "is behind recovery timeline",
    "has already been removed",
];
