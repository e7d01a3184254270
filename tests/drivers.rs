//! Drivers and what is built on them, each with its own idioms: programs in `drivers/` that fail by their exit code.
//!
//! A program runs against the primary itself first, in a database of its own: what fails there is no fault of the proxy's.
//! `.ci/install test` installs what they need. Only where there is no such package (where it knows no apt) is a program skipped, and the test says so.

use std::path::{Path, PathBuf};

use cluster::Cluster;

use crate::certificates::{self, Authority};
use crate::harness::{Output, Setup, Stage, driver, python, until};

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
async fn sequelize() {
    check(node_program("sequelize.mjs"), 2).await;
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
    check(java_program(), 2).await;
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

#[tokio::test]
async fn libpq() {
    check(libpq_program(), 2).await;
}

#[tokio::test]
async fn go_lib_pq() {
    check(go_program("pq", "lib/pq"), 2).await;
}

#[tokio::test]
async fn go_pgx() {
    check(go_program("pgx", "jackc/pgx"), 2).await;
}

#[tokio::test]
async fn php() {
    let program = found("php").map(|php| Program::new(php, &[], driver("pdo.php")));
    check(program.ok_or("there is no php"), 2).await;
}

#[tokio::test]
async fn active_record() {
    let program = found("ruby").map(|ruby| Program::new(ruby, &[], driver("active_record.rb")));
    check(program.ok_or("there is no ruby"), 2).await;
}

/// A driver of each library that encrypts, verifying whom it speaks to: OpenSSL under libpq, in Python and in Node, Java's and Go's own.
#[tokio::test]
async fn encrypted() {
    let setup = Setup::replicas(1);
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let authority = Authority::new("authority");
    let root = certificates::write(cluster.directory(), "root.crt", &authority.pem);
    let (cert, key) = authority.issue("proxy", &["127.0.0.1"]).write(cluster.directory(), "proxy");
    let setup = setup
        .with("pool", "size", "8")
        .with("tls", "client_tls_sslmode", "\"require\"")
        .with("tls", "client_tls_cert_file", &format!("{cert:?}"))
        .with("tls", "client_tls_key_file", &format!("{key:?}"));
    let proxy = setup.proxy(&cluster).await.unwrap();
    let stage = Stage { proxy, cluster };
    stage.ready().await.unwrap();
    let programs = [
        libpq_program(),
        python_program("asyncpg_client.py"),
        node_program("pg.mjs"),
        java_program(),
        go_program("pq", "lib/pq"),
    ];
    for (program, database) in programs.into_iter().zip(["a", "b", "c", "d", "e"]) {
        let Some(program) = available(program) else { continue };
        stage.direct(0, &format!("create database {database}")).await;
        let root = root.to_str().unwrap();
        let environment = [
            format!("PGDATABASE={database}"),
            "PGSSLMODE=verify-full".to_owned(),
            format!("PGSSLROOTCERT={root}"),
            format!("NODE_EXTRA_CA_CERTS={root}"),
            program.runtime.to_str().unwrap().to_owned(),
        ];
        let arguments: Vec<&str> = environment.iter().map(String::as_str).chain(program.arguments()).collect();
        // Each time into an empty database.
        stage.direct(0, "drop schema public cascade; create schema public").await;
        let output = stage.proxy.client_program(Path::new("/usr/bin/env"), &arguments, "").await;
        passed(&program, "encrypted", &output);
    }
}

/// The console, by drivers that do not read it as psql does.
#[tokio::test]
async fn console() {
    let setup = Setup::replicas(0);
    let admin = format!("[{:?}]", setup.cluster.user);
    let stage = setup.with("console", "admin_users", &admin).start().await.unwrap();
    for program in [go_program("console", "jackc/pgx"), node_program("console.mjs")] {
        let Some(program) = available(program) else { continue };
        let output = stage.proxy.client_program(&program.runtime, &program.arguments(), "").await;
        passed(&program, "at the console", &output);
    }
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

fn java_program() -> Result<Program, &'static str> {
    let classes = "/usr/share/java/postgresql.jar";
    let program = found("java").filter(|_| Path::new(classes).exists()).map(|java| {
        // It runs for seconds: what it would win by compiling better it has lost by then.
        Program::new(java, &["-XX:TieredStopAtLevel=1", "-cp", classes], driver("Jdbc.java"))
    });
    program.ok_or("there is no java, or no PostgreSQL driver for it in /usr/share/java")
}

fn libpq_program() -> Result<Program, &'static str> {
    let header = Path::new("/usr/include/postgresql/libpq-fe.h");
    let program = header.exists().then(|| {
        let compiler = ["cc", "-I", header.parent().unwrap().to_str().unwrap()];
        compiled(&compiler, &driver("libpq.c"), &["-lpq"], &[], "libpq")
    });
    program.ok_or("there is no libpq to compile with")
}

fn rust_program(name: &str) -> Result<Program, &'static str> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/rust-drivers/debug").join(name);
    // It takes no script: the arguments are its own.
    let program = program.exists().then(|| Program { runtime: program, arguments: vec![], script: None });
    program.ok_or("there is no target/rust-drivers")
}

fn go_program(name: &str, library: &str) -> Result<Program, &'static str> {
    let home = "/usr/share/gocode";
    let there = Path::new(home).join("src/github.com").join(library).exists() && found("go").is_some();
    let program = there.then(|| {
        let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/go-cache");
        std::fs::create_dir_all(&cache).unwrap();
        let cache = cache.canonicalize().unwrap();
        let environment = [("GO111MODULE", "off"), ("GOPATH", home), ("GOCACHE", cache.to_str().unwrap())];
        let source = driver("go").join(name).join("main.go");
        compiled(&["go", "build"], &source, &[], &environment, name)
    });
    program.ok_or("there is no go, or no such library in /usr/share/gocode")
}

/// What a compiler makes of a source.
fn compiled(compiler: &[&str], source: &Path, more: &[&str], environment: &[(&str, &str)], name: &str) -> Program {
    // By the test's name too, since another may compile the same at the same time.
    let test = std::thread::current().name().unwrap_or("main").replace("::", "-");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-for-{test}"));
    let mut command = std::process::Command::new(compiler[0]);
    command.args(&compiler[1..]).arg("-o").arg(&program).arg(source).args(more).envs(environment.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}\n{}", String::from_utf8_lossy(&output.stderr));
    Program { runtime: program, arguments: vec![], script: None }
}

/// A program on the PATH.
fn found(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|file| file.is_file())
}

/// The program, unless it cannot be had here.
fn available(program: Result<Program, &str>) -> Option<Program> {
    match program {
        Ok(program) => Some(program),
        Err(reason) => {
            assert!(found("apt-get").is_none(), "{reason}: run .ci/install test");
            eprintln!("SKIPPED: {reason}");
            None
        }
    }
}

async fn check(program: Result<Program, &str>, pool_size: usize) {
    let Some(program) = available(program) else { return };
    let mut stage = Setup::replicas(1).with("pool", "size", &pool_size.to_string()).start().await.unwrap();
    stage.direct(0, &format!("create database {DIRECT}")).await;
    let directly = stage.primary_program(DIRECT, &program.runtime, &program.arguments()).await;
    passed(&program, "without the proxy", &directly);
    // A script that writes all the time finds no replica that is known to have all of it, if it is quick. It begins anew then, where
    // nothing is left of it.
    let mut passes = 0;
    until("a read to go to the replica", async || {
        if passes > 0 {
            stage.proxy.database = format!("again_{passes}");
            stage.direct(0, &format!("create database {}", stage.proxy.database)).await;
        }
        passes += 1;
        let output = stage.proxy.client_program(&program.runtime, &program.arguments(), "").await;
        passed(&program, "through the proxy", &output);
        stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await > 0.0
    })
    .await
    .unwrap();
}

fn passed(program: &Program, how: &str, output: &Output) {
    let Output { status, stdout, stderr } = output;
    // One that ends early must not look like one that passed.
    let passed = status.success() && stdout.ends_with("done\n");
    assert!(passed, "{} {how}: {status}\n{stdout}\n{stderr}", program.name());
}

/// The database that a program has to itself when it runs without the proxy.
const DIRECT: &str = "direct";
