//! What a request takes from the heap once its connection is warm: nothing, unless it says so here, with the reason.
//!
//! The program is the one that all tests run; `allocations.c` is put in front of its C library and counts what the workers' threads
//! ask for. Linux with glibc only.

#![cfg(all(target_os = "linux", target_env = "gnu"))]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cluster::Cluster;
use wire::backend::tag;
use wire::frontend;

use crate::harness::{Setup, Stage, executable, until};
use crate::raw::{Raw, put_execute};

/// Requests that are counted, after as many that are not.
const REQUESTS: u64 = 200;

/// What a workload may take on the workers' threads for other reasons than its requests.
const STRAY_MAX: u64 = REQUESTS / 100;

/// The program with its allocations counted.
struct Counted {
    stage: Stage,
    /// Two numbers: the count, and whether each is to be told.
    shared: File,
}

impl Counted {
    async fn start(setup: Setup) -> Counted {
        let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
        let (library, numbers) = (build(cluster.directory()), cluster.directory().join("allocations"));
        std::fs::write(&numbers, [0; 16]).unwrap();
        let mut setup = setup;
        for (name, path) in [("LD_PRELOAD", &library), ("ALLOCATIONS_FILE", &numbers)] {
            setup.environment.push((name.to_owned(), path.to_str().unwrap().to_owned()));
        }
        let proxy = setup.proxy(&cluster).await.unwrap();
        let stage = Stage { proxy, cluster };
        stage.ready().await.unwrap();
        let counted = Counted { stage, shared: File::options().read(true).write(true).open(numbers).unwrap() };
        Raw::log_in(&counted.stage.proxy, "postgres").await;
        assert!(counted.count() > 0, "nobody counts: a login takes a lot");
        counted
    }

    fn count(&self) -> u64 {
        let mut number = [0; 8];
        self.shared.read_exact_at(&mut number, 0).unwrap();
        u64::from_ne_bytes(number)
    }

    /// Says the requests again and again, and fails if they take more allocations than so many from their first byte to the last of
    /// their answers; where they were made is told.
    async fn check(&self, what: &str, each: u64, client: &mut Raw, requests: &[Vec<u8>]) {
        // Until all caches are full, which learn a text at its second or third sight.
        for _ in 0..REQUESTS {
            turns(client, requests).await;
        }
        let before = self.count();
        for _ in 0..REQUESTS {
            turns(client, requests).await;
        }
        let count = self.count() - before;
        if count > each * REQUESTS + STRAY_MAX {
            self.shared.write_all_at(&1_u64.to_ne_bytes(), 8).unwrap();
            turns(client, requests).await;
            self.shared.write_all_at(&0_u64.to_ne_bytes(), 8).unwrap();
            until("the ways to be told", async || self.stage.proxy.log().contains("----\n")).await.unwrap();
            let ways = ways(&self.stage.proxy.log());
            panic!(
                "{what}: {count} allocations in {REQUESTS} requests, which is more than {each} in each; one made these:\n{ways}"
            );
        }
    }
}

#[tokio::test]
async fn a_warm_connection_takes_nothing() {
    let setup = Setup::replicas(1).with("auth", "method", "\"trust\"");
    let counted = Counted::start(setup).await;
    counted.stage.psql("create table t (n int, s text); insert into t values (1, 'x')").await;
    let mut client = Raw::log_in(&counted.stage.proxy, "postgres").await;
    let query = |sql: &str| {
        let mut out = Vec::new();
        frontend::put_query(&mut out, sql);
        out
    };

    counted.check("a simple read", 0, &mut client, &[query("select 1")]).await;
    counted.check("a simple write", 0, &mut client, &[query("update t set s = 'y' where n = 1")]).await;
    let rows = query("select n, 'some text' from generate_series(1, 1000) as n");
    counted.check("1000 rows", 0, &mut client, &[rows]).await;

    client.prepare("p", "select n from t").await;
    let mut prepared = Vec::new();
    put_execute(&mut prepared, "p");
    frontend::put_sync(&mut prepared);
    counted.check("a prepared read", 0, &mut client, &[prepared]).await;

    let mut pipeline = Vec::new();
    for _ in 0..8 {
        put_execute(&mut pipeline, "p");
        frontend::put_sync(&mut pipeline);
    }
    // A buffer for each request but the first, and two for the list of buffers to be used again: a session without a server holds none.
    counted.check("a pipeline", 9, &mut client, &[pipeline]).await;

    let mut extended = Vec::new();
    frontend::put_parse(&mut extended, b"", b"select n from t", &[0, 0]);
    put_execute(&mut extended, "");
    frontend::put_sync(&mut extended);
    counted.check("Parse, Bind and Execute", 0, &mut client, &[extended]).await;

    let transaction = [query("begin"), query("update t set s = 'z' where n = 1"), query("commit")];
    // The proxy's own answer to BEGIN: nobody who is idle holds a buffer for what is to be sent.
    counted.check("a transaction", 1, &mut client, &transaction).await;
}

async fn turns(client: &mut Raw, requests: &[Vec<u8>]) {
    for request in requests {
        turn(client, request).await;
    }
}

/// A request of one or more ReadyForQuery, and its answer.
async fn turn(client: &mut Raw, request: &[u8]) {
    let frames = wire::frame::Frames::new(request);
    let owed = frames.filter(|frame| matches!(frame.tag, b'Q' | b'S')).count();
    client.say(request).await;
    for _ in 0..owed {
        let answer = client.until_ready().await;
        assert!(answer.iter().all(|message| message.tag != tag::ERROR_RESPONSE), "{answer:?}");
    }
}

/// The last ways to an allocation that the program has told of, by lines of our own sources.
fn ways(log: &str) -> String {
    let mut ways = String::new();
    for way in log.split("----\n").filter(|way| way.contains("(+0x")) {
        let places = way.lines().filter_map(|line| line.split_once("(+")?.1.split_once(')')).map(|(place, _)| place);
        let output = std::process::Command::new("addr2line")
            .args(["-Cfpi", "-e"])
            .arg(executable())
            .args(places)
            .output()
            .unwrap();
        for line in String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.contains("/crates/")) {
            ways.push_str(line);
            ways.push('\n');
        }
        ways.push_str("----\n");
    }
    ways
}

/// Compiles the library that counts; where it is.
fn build(directory: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/allocations.c");
    let library = directory.join("allocations.so");
    let status = std::process::Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .status();
    assert!(status.unwrap().success());
    library
}
