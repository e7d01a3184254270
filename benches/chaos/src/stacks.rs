//! Owns the proxies in front of the cluster: Hakem, and HAProxy with PgBouncer, as they come and tuned. Killed when dropped.

use std::fs;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use cluster::{Managed, Member};
use tokio_postgres::Config;

use crate::work::Doors;

/// A proxy, or two that belong together.
pub(crate) struct Stack {
    pub(crate) name: &'static str,
    pub(crate) doors: Doors,
    children: Vec<Child>,
}

/// Where the proxies' files are. Removed when dropped.
pub(crate) struct Room(PathBuf);

impl Room {
    pub(crate) fn new() -> Result<Room> {
        let path = std::env::temp_dir().join(format!("hakem-chaos-{}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Room(path))
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Stack {
    /// `replays`: with `commit_resolution` and `transaction_replay`.
    pub(crate) fn hakem(room: &Room, program: &Path, cluster: &Managed, replays: bool) -> Result<Stack> {
        let (name, table, file) = match replays {
            false => ("Hakem", "through_hakem", "proxy"),
            true => ("Hakem, resolving and replaying", "through_replaying", "replaying"),
        };
        let (port, http) = (free_port()?, free_port()?);
        let list = |each: &dyn Fn(&Member) -> String| {
            cluster.members().iter().map(|member| format!("{:?}", each(member))).collect::<Vec<_>>().join(", ")
        };
        let config = format!(
            "[proxy]\nlisten = [\"127.0.0.1:{port}\"]\nhttp_listen = \"127.0.0.1:{http}\"\nworkers = 2\n\
             [topology]\nfailover_timeout = \"120s\"\n\
             [routing]\ncommit_resolution = {replays}\ntransaction_replay = {replays}\n\
             [clusters.local]\nservers = [{}]\nprobe_user = \"postgres\"\nprobe_password = \"{PASSWORD}\"\n\
             patroni = [{}]\netcd = [{:?}]\npatroni_scope = \"main\"\n\
             [[users]]\nname = \"postgres\"\npassword = \"{PASSWORD}\"\n[databases.\"*\"]\ncluster = \"local\"\n",
            list(&|member| format!("127.0.0.1:{}", member.port())),
            list(&Member::url),
            cluster.etcd().url(),
        );
        let config = room.write(&format!("{file}.toml"), &config)?;
        let child = start(room, "hakem", Command::new(program).arg("run").arg(config))?;
        let doors = Doors { table, writes: client(port, "postgres"), reads: None };
        Ok(Stack { name, doors, children: vec![child] })
    }

    /// `tuned`: with the shortest pauses that both are told to be used with.
    pub(crate) fn incumbent(room: &Room, cluster: &Managed, tuned: bool) -> Result<Stack> {
        let (name, table, file) = match tuned {
            false => ("HAProxy + PgBouncer", "through_defaults", "defaults"),
            true => ("the same tuned", "through_tuned", "tuned"),
        };
        let (port, primary, replicas) = (free_port()?, free_port()?, free_port()?);
        let checks = if tuned { "inter 1s fall 2 rise 1" } else { "inter 3s fall 3 rise 2" };
        let mut haproxy =
            "global\n  maxconn 1000\ndefaults\n  mode tcp\n  retries 2\n  timeout client 30m\n  timeout connect 4s\n  \
                           timeout server 30m\n  timeout check 5s\n"
                .to_owned();
        for (listen, page) in [(primary, "primary"), (replicas, "replica")] {
            haproxy += &format!(
                "listen {page}\n  bind 127.0.0.1:{listen}\n  option httpchk OPTIONS /{page}\n  http-check expect status 200\n  \
                 default-server {checks} on-marked-down shutdown-sessions\n"
            );
            for member in cluster.members() {
                let check = member.url().rsplit(':').next().unwrap_or_default().to_owned();
                haproxy += &format!("  server {} 127.0.0.1:{} check port {check}\n", member.name, member.port());
            }
        }
        let database = |name: &str, port: u16| {
            format!("{name} = host=127.0.0.1 port={port} dbname=postgres user=postgres password={PASSWORD}\n")
        };
        let pgbouncer = format!(
            "[databases]\n{}{}[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = 20\nmax_client_conn = 200\n{}",
            database("primary", primary),
            database("replicas", replicas),
            if tuned { "server_login_retry = 1\n" } else { "" },
        );
        let haproxy = room.write(&format!("haproxy-{file}.cfg"), &haproxy)?;
        let pgbouncer = room.write(&format!("pgbouncer-{file}.ini"), &pgbouncer)?;
        let children = vec![
            start(room, "haproxy", Command::new("/usr/sbin/haproxy").args(["-db", "-f"]).arg(haproxy))?,
            start(room, "pgbouncer", Command::new("/usr/sbin/pgbouncer").arg(pgbouncer))?,
        ];
        let doors = Doors { table, writes: client(port, "primary"), reads: Some(client(port, "replicas")) };
        Ok(Stack { name, doors, children })
    }

    /// What the first of its programs holds of memory, in kB.
    pub(crate) fn memory_kb(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.children.first()?.id())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        for child in &mut self.children {
            // That it is dead already is no failure.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs it as nobody, where we are root: PgBouncer wants that, and its packets can be told from the cluster's.
fn start(room: &Room, name: &str, command: &mut Command) -> Result<Child> {
    // Several of one name share a log.
    let log = fs::File::options().create(true).append(true).open(room.0.join(format!("{name}.log")))?;
    command.current_dir("/").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command.spawn().with_context(|| format!("cannot run {name}: is it installed?"))
}

/// Whether processes can be given to others, and packets be dropped.
pub(crate) fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t0")))
}

pub(crate) fn client(port: u16, database: &str) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(port).user("postgres").password(PASSWORD).dbname(database);
    config
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The superuser's.
pub(crate) const PASSWORD: &str = "chaos";

/// As whom the proxies run.
pub(crate) const NOBODY: u32 = 65534;
