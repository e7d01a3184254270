//! The demonstration: what it promises, with a failover in the middle, and that it leaves nothing behind however it ends.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio_postgres::NoTls;

use crate::harness::{executable, run, until};

#[tokio::test]
async fn a_failover_is_survived() {
    let place = Place::new("failover");
    let mut command = place.command(&["--load", "--seconds", "8", "--failover-at", "3", "--json"]);
    command.stderr(Stdio::piped());
    let output = run(command.into(), "").await;
    assert!(output.status.success(), "{output:?}");
    let counted: Value = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    let zero = ["acknowledged_writes_lost", "duplicates", "torn_transactions", "stale_reads", "broken_connections"];
    for figure in zero {
        assert_eq!(counted[figure], 0, "{figure}: {output:?}");
    }
    for figure in ["/operations/reads", "/operations/writes", "/operations/transactions", "/acknowledged_writes"] {
        assert!(counted.pointer(figure).and_then(Value::as_u64).unwrap() > 0, "{figure}: {output:?}");
    }
    for place in ["primary", "replica", "held"] {
        assert!(counted["statements"][place].as_u64().unwrap() > 0, "{place}: {output:?}");
    }
    assert_eq!(counted["failovers"].as_array().unwrap().len(), 1, "{output:?}");
    assert_eq!(counted["synchronous"], true, "{output:?}");
    // What a failover may make an application see: a write of unknown outcome, a transaction to be repeated. Nothing else.
    for code in counted["errors"].as_object().unwrap().keys() {
        assert!(["08007", "40001"].contains(&code.as_str()), "{output:?}");
    }
    place.is_left_clean().await;
}

#[tokio::test]
async fn a_primary_killed_by_hand_is_replaced() {
    let place = Place::new("by-hand");
    let demo = Demo::start(place.command(&[])).await;
    let (client, connection) = demo.client().connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    client.batch_execute("INSERT INTO players (name) VALUES ('one')").await.unwrap();
    let primary = demo.word_after("process ");
    assert!(Command::new("kill").args(["-KILL", &primary]).status().unwrap().success());
    until("a replica to be promoted", async || demo.said().contains("is the primary after")).await.unwrap();
    // The same connection: the client has noticed nothing.
    client.batch_execute("INSERT INTO players (name) VALUES ('two')").await.unwrap();
    let rows = client.query("SELECT name FROM players WHERE name IN ('one', 'two')", &[]).await.unwrap();
    assert_eq!(rows.len(), 2, "{}", demo.said());
    until("the old primary to be back", async || demo.said().contains("is back, as a replica")).await.unwrap();
    drop(client);
    connection.await.unwrap().unwrap();
    demo.end("TERM").await;
    place.is_left_clean().await;
}

#[tokio::test]
async fn it_ends_on_signals() {
    // A client that is connected is dismissed.
    let place = Place::new("signals");
    let demo = Demo::start(place.command(&["--replicas", "1"])).await;
    let (client, connection) = demo.client().connect(NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    demo.end("HUP").await;
    let _ = connection.await.unwrap();
    assert!(client.is_closed());
    place.is_left_clean().await;
    // Before it is ready, too.
    let mut early = place.command(&["--replicas", "1"]).spawn().unwrap();
    until("the cluster to be made", async || !place.processes().is_empty()).await.unwrap();
    signal(&early, "INT");
    until("an early end", async || early.try_wait().unwrap().is_some()).await.unwrap();
    place.is_left_clean().await;
}

/// A directory for the demo's temporary files, by which what it leaves behind is known.
struct Place(PathBuf);

/// The demo while it runs; killed when dropped.
struct Demo {
    child: Child,
    said: Arc<Mutex<String>>,
}

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("hakem-demo-{}-{name}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        // The servers may run as somebody else, who has to be able to pass.
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Place(path.canonicalize().unwrap())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(executable());
        command.args(["demo", "--port", "0"]).args(arguments).env("TMPDIR", &self.0);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        command
    }

    /// The processes that work somewhere below.
    fn processes(&self) -> Vec<String> {
        let below = |pid: &String| {
            std::fs::read_link(Path::new("/proc").join(pid).join("cwd")).is_ok_and(|cwd| cwd.starts_with(&self.0))
        };
        let entries =
            std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        entries.filter(|name| name.parse::<u32>().is_ok()).filter(below).collect()
    }

    async fn is_left_clean(&self) {
        until("no process to be left", async || self.processes().is_empty()).await.unwrap();
        until("no file to be left", async || std::fs::read_dir(&self.0).unwrap().next().is_none()).await.unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Demo {
    /// Starts it; returns when it says that it is ready.
    async fn start(mut command: Command) -> Demo {
        let mut child = command.spawn().unwrap();
        let said = Arc::new(Mutex::new(String::new()));
        listen(child.stdout.take().unwrap(), said.clone());
        let demo = Demo { child, said };
        until("the demo to be ready", async || demo.said().contains("Ctrl-C ends it")).await.unwrap();
        demo
    }

    fn said(&self) -> String {
        self.said.lock().unwrap().clone()
    }

    /// The word that follows a text for the first time.
    fn word_after(&self, text: &str) -> String {
        let said = self.said();
        let (_, rest) = said.split_once(text).unwrap_or_else(|| panic!("{text} is not in {said}"));
        rest.split(|c: char| c.is_whitespace() || c == ',').next().unwrap().to_owned()
    }

    /// Connects as the line for psql says.
    fn client(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(self.word_after("psql -h ")).port(self.word_after(" -p ").parse().unwrap());
        config.user(self.word_after(" -U ")).password(self.word_after("PGPASSWORD=")).dbname("hokm");
        config
    }

    async fn end(mut self, name: &str) {
        signal(&self.child, name);
        until("the demo to end", async || self.child.try_wait().unwrap().is_some()).await.unwrap();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said());
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies what it says; on a thread, so that it never waits for a reader.
fn listen(stdout: ChildStdout, said: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let mut said = said.lock().unwrap();
            said.push_str(&line);
            said.push('\n');
        }
    });
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap();
    assert!(status.success(), "{name}: {status}");
}
