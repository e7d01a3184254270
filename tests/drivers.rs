//! Drivers and what is built on them, each with its own idioms: programs in `drivers/` that fail by their exit code.
//!
//! A program runs against the primary itself first, in a database of its own: what fails there is no fault of the proxy's.
//! `.ci/install test` installs what they need. Only where there is no such package (where it knows no apt) is a program skipped, and the test says so.

use std::path::{Path, PathBuf};

use crate::harness::{Output, Setup, driver, python};

#[tokio::test]
async fn psycopg() {
    check(python_program("psycopg_client.py"), 2).await;
}

#[tokio::test]
async fn psycopg_pools() {
    check(python_program("psycopg_pools.py"), 2).await;
}

#[tokio::test]
async fn psycopg2() {
    check(python_program("psycopg2_client.py"), 2).await;
}

#[tokio::test]
async fn asyncpg() {
    // A connection for each client of a test: `prepare` ends with Flush, not Sync, and keeps its server until the next Sync.
    check(python_program("asyncpg_client.py"), 8).await;
}

#[tokio::test]
async fn sqlalchemy() {
    check(python_program("sqlalchemy_client.py"), 2).await;
}

#[tokio::test]
async fn node_postgres() {
    check(node_program("pg.mjs"), 2).await;
}

#[tokio::test]
async fn postgres_js() {
    check(node_program("postgresjs.mjs"), 2).await;
}

#[tokio::test]
async fn drizzle() {
    check(node_program("drizzle.mjs"), 2).await;
}

#[tokio::test]
async fn prisma() {
    // It wants a newer Node than some distributions have.
    let client = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/node/prisma");
    if node_program("prisma.mjs").is_ok() && !client.exists() {
        eprintln!("SKIPPED: Prisma does not run with this Node: see target/node/prisma.log");
        return;
    }
    check(node_program("prisma.mjs"), 2).await;
}

#[tokio::test]
async fn jdbc() {
    let classes = "/usr/share/java/postgresql.jar";
    let program = found("java").filter(|_| Path::new(classes).exists()).map(|java| {
        // It runs for seconds: what it would win by compiling better it has lost by then.
        Program::new(java, &["-XX:TieredStopAtLevel=1", "-cp", classes], driver("Jdbc.java"))
    });
    check(program.ok_or("there is no java, or no PostgreSQL driver for it in /usr/share/java"), 2).await;
}

#[tokio::test]
async fn django() {
    // Each of its connections that walks by a cursor WITH HOLD keeps a server.
    check(python_program("django_client.py"), 6).await;
}

#[tokio::test]
async fn sqlx() {
    check(rust_program("sqlx"), 2).await;
}

#[tokio::test]
async fn diesel() {
    check(rust_program("diesel"), 2).await;
}

/// A program and what comes in front of its own name.
struct Program {
    runtime: PathBuf,
    arguments: Vec<String>,
    /// None where the program was compiled.
    script: Option<PathBuf>,
}

impl Program {
    fn new(runtime: PathBuf, arguments: &[&str], script: PathBuf) -> Program {
        Program {
            runtime,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            script: Some(script),
        }
    }

    fn name(&self) -> String {
        let file = self.script.as_ref().unwrap_or(&self.runtime);
        file.file_name().unwrap().to_string_lossy().into_owned()
    }

    fn arguments(&self) -> Vec<&str> {
        let script = self.script.iter().map(|script| script.to_str().unwrap());
        self.arguments.iter().map(String::as_str).chain(script).collect()
    }
}

fn python_program(script: &str) -> Result<Program, &'static str> {
    Ok(Program::new(python(), &["-X", "faulthandler"], driver(script)))
}

fn node_program(script: &str) -> Result<Program, &'static str> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/node");
    // Modules are looked for beside the program, which is there by a symbolic link.
    let program = found("node").filter(|_| home.join("node_modules").exists()).map(|node| {
        Program::new(node, &["--preserve-symlinks", "--preserve-symlinks-main"], home.join("programs").join(script))
    });
    program.ok_or("there is no node, or no target/node/node_modules")
}

fn rust_program(name: &str) -> Result<Program, &'static str> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/rust-drivers/debug").join(name);
    // It takes no script: the arguments are its own.
    let program = program.exists().then(|| Program { runtime: program, arguments: vec![], script: None });
    program.ok_or("there is no target/rust-drivers")
}

/// A program on the PATH.
fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

async fn check(program: Result<Program, &str>, pool_size: usize) {
    let program = match program {
        Ok(program) => program,
        Err(reason) => {
            assert!(found("apt-get").is_none(), "{reason}: run .ci/install test");
            eprintln!("SKIPPED: {reason}");
            return;
        }
    };
    let stage = Setup::replicas(1).with("pool", "size", &pool_size.to_string()).start().await.unwrap();
    stage.direct(0, &format!("create database {DIRECT}")).await;
    let directly = stage.primary_program(DIRECT, &program.runtime, &program.arguments()).await;
    passed(&program, "without the proxy", &directly);
    let output = stage.proxy.client_program(&program.runtime, &program.arguments(), "").await;
    passed(&program, "through the proxy", &output);
    let reads = stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await;
    assert!(reads > 0.0, "no read went to the replica");
}

fn passed(program: &Program, how: &str, output: &Output) {
    let Output { status, stdout, stderr } = output;
    // One that ends early must not look like one that passed.
    let passed = status.success() && stdout.ends_with("done\n");
    assert!(passed, "{} {how}: {status}\n{stdout}\n{stderr}", program.name());
}

/// The database that a program has to itself when it runs without the proxy.
const DIRECT: &str = "direct";
