//! Nothing is left behind, however a cluster ends: no process, no directory, no shared memory.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use cluster::{Cluster, Options};
use tokio::time::{sleep, timeout};

/// How long a test waits for what has to happen soon.
const LIMIT: Duration = Duration::from_secs(60);

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LIMIT, wait).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

fn options(directory: &Path) -> Options {
    Options { directory: Some(directory.to_owned()), ..Options::default() }
}

fn place(name: &str) -> PathBuf {
    env::temp_dir().join(format!("hakem-remains-{}-{name}", std::process::id()))
}

/// The processes that work somewhere below a directory.
fn processes(directory: &Path) -> Vec<String> {
    let below =
        |pid: &String| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|place| place.starts_with(directory));
    let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    entries.filter(|name| name.parse::<u32>().is_ok()).filter(below).collect()
}

/// The identifiers of the System V segments that the lock files in a directory name.
fn segments(directory: &Path) -> Vec<String> {
    let locks = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path().join("postmaster.pid"));
    let seventh = |lock| Some(fs::read_to_string(lock).ok()?.lines().nth(6)?.split_whitespace().nth(1)?.to_owned());
    locks.filter_map(seventh).collect()
}

fn exists(segment: &str) -> bool {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap();
    table.lines().any(|line| line.split_whitespace().nth(1) == Some(segment))
}

async fn check_nothing_remains(directory: &Path, segments: &[String]) {
    until("no process", || processes(directory).is_empty()).await;
    until("no directory", || !directory.exists()).await;
    until("no shared memory", || !segments.iter().any(|segment| exists(segment))).await;
}

#[tokio::test]
async fn shut_down_or_dropped() {
    for orderly in [true, false] {
        let directory = place("end");
        let mut cluster = Cluster::start(options(&directory)).await.unwrap();
        assert!(processes(&directory).len() > 10);
        // One node dead, one frozen: they end like the others.
        let segments = segments(&directory);
        assert!(segments.len() == 3 && segments.iter().all(|segment| exists(segment)));
        cluster.kill(1).await.unwrap();
        assert_eq!(segments.iter().filter(|segment| exists(segment)).count(), 2);
        cluster.freeze(2).await.unwrap();
        match orderly {
            true => cluster.shutdown().await.unwrap(),
            false => drop(cluster),
        }
        // Done when it returns, not soon after.
        assert!(!directory.exists() && processes(&directory).is_empty());
        assert!(!segments.iter().any(|segment| exists(segment)));
    }
}

#[tokio::test]
async fn cancelled_while_starting() {
    // In initdb, while the first server starts, and when the last one does.
    for sign in ["node0/PG_VERSION", "node0/postmaster.pid", "node2/postmaster.pid"] {
        let directory = place("cancel");
        tokio::select! {
            _ = Cluster::start(options(&directory)) => panic!("started before {sign} was seen"),
            () = until(sign, || directory.join(sign).exists()) => {}
        }
        assert!(!directory.exists() && processes(&directory).is_empty(), "{sign}");
    }
}

/// Ends, by this signal to its process group, a process that owns a cluster.
async fn check_killed_owner(test: &str, signal: &str, number: i32) {
    let directory = place(signal);
    let mut owner = Command::new(env::current_exe().unwrap())
        .args(["--exact", test])
        .env(OWNER, &directory)
        .process_group(0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the owner's cluster has started", || directory.join("started").exists()).await;
    let segments = segments(&directory);
    assert!(segments.len() == 3 && processes(&directory).len() > 10);
    let kill = Command::new("kill").args([&format!("-{signal}"), "--", &format!("-{}", owner.id())]).status();
    assert!(kill.unwrap().success());
    assert_eq!(owner.wait().unwrap().signal(), Some(number));
    check_nothing_remains(&directory, &segments).await;
}

/// Where the process that owns the cluster is to put it; it is this program again.
const OWNER: &str = "HAKEM_TEST_OWNER";

#[tokio::test]
async fn owner_killed() {
    if let Some(directory) = env::var_os(OWNER) {
        let _cluster = Cluster::start(options(Path::new(&directory))).await.unwrap();
        fs::write(Path::new(&directory).join("started"), "").unwrap();
        return std::future::pending().await;
    }
    check_killed_owner("owner_killed", "KILL", 9).await;
    check_killed_owner("owner_killed", "INT", 2).await;
    check_killed_owner("owner_killed", "HUP", 1).await;
}
