//! Replication connections: a tunnel to the primary, through which PostgreSQL's own programs do their work.

use std::path::Path;

use cluster::Cluster;
use wire::backend::{Report, tag};
use wire::frontend;
use wire::startup;

use crate::certificates::{self, Authority};
use crate::harness::{Setup, Stage, driver, python, until};
use crate::raw::{Message, Raw, sqlstate, tags, value};

async fn stage(replicas: usize) -> Stage {
    Setup::replicas(replicas).server("wal_level", "logical").start().await.unwrap()
}

async fn tunnels(stage: &Stage) -> f64 {
    stage.proxy.metric("hakem_replication_connections", &[]).await
}

/// Runs one of PostgreSQL's programs, which must succeed.
async fn run(stage: &Stage, program: &str, arguments: &[&str]) -> String {
    let output = stage.run(program, arguments, "").await;
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output.stdout
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Something that the clients of a stage can write into, removed with the cluster.
fn directory(stage: &Stage, name: &str) -> std::path::PathBuf {
    let path = stage.cluster.directory().join(name);
    std::fs::create_dir(&path).unwrap();
    path
}

#[tokio::test]
async fn a_base_backup_is_the_database() {
    let stage = stage(1).await;
    stage.psql("create table t as select n, repeat('x', 500) as s from generate_series(1, 20000) n").await;
    for (name, method) in [("stream", "stream"), ("fetch", "fetch")] {
        let backup = stage.cluster.directory().join(format!("backup-{name}"));
        let arguments = ["-D", text(&backup), "-X", method, "-c", "fast", "-P", "-w"];
        run(&stage, "pg_basebackup", &arguments).await;
        // Every file by its checksum, and all of the WAL that it needs.
        let verified = run(&stage, "pg_verifybackup", &[text(&backup)]).await;
        assert!(verified.contains("backup successfully verified"), "{verified}");
    }
    until("the tunnels to be closed", async || tunnels(&stage).await == 0.0).await.unwrap();
    assert_eq!(stage.direct(0, "select count(*) from pg_stat_replication where application_name ~ 'base'").await, "0");
}

#[tokio::test]
async fn wal_arrives_as_it_was_written() {
    let stage = stage(0).await;
    let received = directory(&stage, "received");
    run(&stage, "pg_receivewal", &["--create-slot", "-S", "unused", "-w"]).await;
    run(&stage, "pg_receivewal", &["--drop-slot", "-S", "unused", "-w"]).await;
    // One that keeps the WAL from now on, not from when it is first used.
    stage.direct(0, "select pg_create_physical_replication_slot('archive', true)").await;
    let before = ["-D", text(&received), "-S", "archive", "-w", "-n", "--synchronous"];
    let segment = stage.direct(0, "select pg_walfile_name(pg_current_wal_lsn())").await;
    stage.psql("create table t as select generate_series(1, 10000) n").await;
    let end = stage.direct(0, "select pg_switch_wal()").await;
    stage.psql("insert into t values (0)").await;
    run(&stage, "pg_receivewal", &[&before[..], &["-E", &end]].concat()).await;
    let slot = "select active::int from pg_replication_slots where slot_name = 'archive'";
    until("the slot to be free", async || stage.direct(0, slot).await == "0").await.unwrap();
    let data = stage.direct(0, "show data_directory").await;
    let original = std::fs::read(Path::new(&data).join("pg_wal").join(&segment)).unwrap();
    let copies = [segment.clone(), format!("{segment}.partial")].map(|name| received.join(name));
    let listed: Vec<_> = std::fs::read_dir(&received).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let copy =
        copies.iter().find_map(|path| std::fs::read(path).ok()).unwrap_or_else(|| panic!("{segment}: {listed:?}"));
    assert_eq!(copy.len(), original.len());
    let offset = usize::from_str_radix(end.split('/').nth(1).unwrap(), 16).unwrap() % original.len();
    let length = if offset == 0 { original.len() } else { offset };
    assert!(copy[..length] == original[..length], "the WAL differs");
}

#[tokio::test]
async fn changes_are_decoded() {
    let stage = stage(0).await;
    stage.psql("create table t (n int primary key, s text)").await;
    let slot = ["-d", "postgres", "-S", "decoded", "-w"];
    run(&stage, "pg_recvlogical", &[&slot[..], &["--create-slot", "-P", "test_decoding"]].concat()).await;
    stage.psql("insert into t values (1, 'one'); update t set s = 'uno'; delete from t").await;
    let end = stage.direct(0, "select pg_current_wal_lsn()").await;
    let start = [&slot[..], &["--start", "-n", "-E", &end, "-f", "-", "-F", "0", "-o", "include-xids=0"]].concat();
    let changes = run(&stage, "pg_recvlogical", &start).await;
    for expected in ["INSERT: n[integer]:1 s[text]:'one'", "UPDATE: n[integer]:1 s[text]:'uno'", "DELETE: n[integer]:1"]
    {
        assert!(changes.contains(expected), "{expected}: {changes}");
    }
    run(&stage, "pg_recvlogical", &[&slot[..], &["--drop-slot"]].concat()).await;
    until("the tunnels to be closed", async || tunnels(&stage).await == 0.0).await.unwrap();
}

#[tokio::test]
async fn psycopg2_replicates() {
    let stage = stage(0).await;
    let script = driver("psycopg2_replication.py");
    let output = stage.proxy.client_program(&python(), &[script.to_str().unwrap()], "").await;
    assert!(output.status.success(), "{output:?}");
    assert!(output.stdout.ends_with("done\n"), "{output:?}");
}

/// A replication connection of this kind, logged in without a password.
async fn open(stage: &Stage, kind: &str) -> (Raw, Vec<Message>) {
    let mut raw = Raw::open(&stage.proxy).await;
    let mut packet = Vec::new();
    let who =
        [("user", "postgres"), ("database", "postgres"), ("application_name", "tunnelled"), ("replication", kind)];
    startup::put_session(&mut packet, who);
    raw.say(&packet).await;
    let mut answer = Vec::new();
    while let Some(message) = raw.hear().await {
        let last = matches!(message.tag, tag::READY_FOR_QUERY | tag::ERROR_RESPONSE);
        answer.push(message);
        if last {
            break;
        }
    }
    (raw, answer)
}

#[tokio::test]
async fn what_replication_may_be() {
    let stage = Setup::replicas(1).with("auth", "method", "\"trust\"").start().await.unwrap();
    for kind in ["true", "1", "on", "yes", "t", "database"] {
        let (mut raw, answer) = open(&stage, kind).await;
        assert_eq!(answer.last().unwrap().tag, tag::READY_FOR_QUERY, "{kind}: {answer:?}");
        let identity = raw.query("IDENTIFY_SYSTEM").await;
        let system = stage.direct(0, "select system_identifier from pg_control_system()").await;
        assert_eq!(value(&identity), Some(system), "{kind}");
        // It is the primary's, and goes under the client's own name.
        let count = "select count(*) from pg_stat_activity where application_name = 'tunnelled'";
        assert_eq!(stage.direct(0, count).await, "1", "{kind}");
        assert_eq!(tunnels(&stage).await, 1.0);
        let select = raw.query("select 42").await;
        match kind {
            "database" => assert_eq!(value(&select).as_deref(), Some("42")),
            _ => assert_eq!(sqlstate(&select).as_deref(), Some("0A000"), "{select:?}"),
        }
        raw.say(b"X\0\0\0\x04").await;
        assert_eq!(raw.hear().await, None);
        until("it to be gone", async || stage.direct(0, count).await == "0" && tunnels(&stage).await == 0.0)
            .await
            .unwrap();
    }
    // An ordinary session, and nonsense.
    let (mut raw, _) = open(&stage, "off").await;
    assert_eq!(sqlstate(&raw.query("IDENTIFY_SYSTEM").await).as_deref(), Some("42601"));
    let (_, answer) = open(&stage, "perhaps").await;
    assert_eq!(sqlstate(&answer).as_deref(), Some("22023"));
    let text = Report::new(&answer.last().unwrap().body).message();
    assert_eq!(text, "invalid value for parameter \"replication\": \"perhaps\"");
}

#[tokio::test]
async fn a_tunnel_counts_as_a_client_and_ends_with_it() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("proxy", "max_client_conn", "1");
    let stage = setup.start().await.unwrap();
    let (mut raw, answer) = open(&stage, "true").await;
    assert_eq!(answer.last().unwrap().tag, tag::READY_FOR_QUERY);
    let (_, refused) = open(&stage, "true").await;
    assert_eq!(sqlstate(&refused).as_deref(), Some("53300"));
    // In the middle of COPY BOTH, without a farewell.
    stream(&mut raw, &stage).await;
    let senders = async || stage.direct(0, "select count(*) from pg_stat_replication").await;
    assert_eq!(senders().await, "1");
    raw.stream.set_zero_linger().unwrap();
    drop(raw);
    until("the sender to be gone", async || senders().await == "0").await.unwrap();
    until("the place to be free", async || stage.proxy.metric("hakem_clients", &[]).await == 0.0).await.unwrap();
}

/// Starts to receive WAL.
async fn stream(raw: &mut Raw, stage: &Stage) {
    let from = stage.direct(0, "select pg_current_wal_lsn()").await;
    let mut out = Vec::new();
    frontend::put_query(&mut out, &format!("START_REPLICATION {from}"));
    raw.say(&out).await;
    assert_eq!(raw.hear().await.unwrap().tag, tag::COPY_BOTH_RESPONSE);
}

/// Everything up to the end of the connection but the WAL.
async fn rest(raw: &mut Raw) -> Vec<Message> {
    let mut heard = Vec::new();
    while let Some(message) = raw.hear().await {
        if message.tag != tag::COPY_DATA {
            heard.push(message);
        }
    }
    heard
}

#[tokio::test]
async fn a_tunnel_ends_with_its_primary() {
    let mut stage = Setup::replicas(1).with("auth", "method", "\"trust\"").start().await.unwrap();
    let (mut raw, _) = open(&stage, "true").await;
    stream(&mut raw, &stage).await;
    stage.cluster.kill(0).await.unwrap();
    let heard = rest(&mut raw).await;
    assert_eq!((tags(&heard).as_str(), heard.len()), ("E", 1), "{heard:?}");
    assert!(Report::new(&heard[0].body).is_fatal(), "{heard:?}");
    // The next one goes to whoever is the primary then.
    stage.cluster.promote(1).await.unwrap();
    let (mut raw, answer) = open(&stage, "true").await;
    assert_eq!(answer.last().unwrap().tag, tag::READY_FOR_QUERY, "{answer:?}");
    assert_eq!(tags(&raw.query("IDENTIFY_SYSTEM").await), "TDCZ");
    let count = "select count(*) from pg_stat_activity where application_name = 'tunnelled'";
    assert_eq!(stage.direct(1, count).await, "1");
}

#[tokio::test]
async fn a_tunnel_ends_when_its_server_is_deposed() {
    let mut stage = Setup::replicas(1).with("auth", "method", "\"trust\"").start().await.unwrap();
    let (mut raw, _) = open(&stage, "true").await;
    stream(&mut raw, &stage).await;
    // The old primary goes on as if nothing had happened, and nobody must follow it.
    stage.cluster.promote(1).await.unwrap();
    let heard = rest(&mut raw).await;
    assert_eq!(sqlstate(&heard).as_deref(), Some("57P01"), "{heard:?}");
    assert_eq!(stage.direct(0, "select pg_is_in_recovery()").await, "f");
}

#[tokio::test]
async fn encrypted_on_both_sides() {
    let setup = Setup::replicas(0);
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let authority = Authority::new("authority");
    let root = certificates::write(cluster.directory(), "root.crt", &authority.pem);
    let directory = cluster.nodes()[0].data_directory();
    let (cert, key) = authority.issue("server", &["127.0.0.1"]).write(directory, "server");
    let hba = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\nhostssl replication all 127.0.0.1/32 scram-sha-256\n";
    certificates::write(directory, "pg_hba.conf", hba);
    for (name, value) in [("ssl_cert_file", &cert), ("ssl_key_file", &key)] {
        cluster.set(0, name, value.to_str().unwrap()).await.unwrap();
    }
    cluster.set(0, "ssl", "on").await.unwrap();
    let (cert, key) = authority.issue("proxy", &["127.0.0.1"]).write(cluster.directory(), "proxy");
    let quoted = |path: &Path| format!("{:?}", text(path));
    let setup =
        setup.with("tls", "client_tls_sslmode", "\"require\"").with("tls", "server_tls_sslmode", "\"verify-full\"");
    let setup =
        setup.with("tls", "client_tls_cert_file", &quoted(&cert)).with("tls", "client_tls_key_file", &quoted(&key));
    let setup = setup.with("tls", "server_tls_ca_file", &quoted(&root));
    let stage = Stage { proxy: setup.proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();
    stage.psql("create table t as select n, repeat('x', 500) as s from generate_series(1, 20000) n").await;
    let backup = stage.cluster.directory().join("backup");
    let target = format!("sslmode=verify-full sslrootcert={}", root.display());
    let arguments = ["-d", &target, "-D", text(&backup), "-X", "stream", "-c", "fast", "-w"];
    run(&stage, "pg_basebackup", &arguments).await;
    let verified = run(&stage, "pg_verifybackup", &[text(&backup)]).await;
    assert!(verified.contains("backup successfully verified"), "{verified}");
}

#[tokio::test]
async fn the_console_shows_and_ends_it() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("console", "admin_users", "[\"postgres\"]");
    // A full house is seen to by who administers it.
    let stage = setup.with("proxy", "max_client_conn", "2").start().await.unwrap();
    let console = async |sql: &str| {
        let output = stage.run("psql", &["-XAtc", sql, "dbname=pgbouncer"], "").await;
        assert!(output.status.success(), "{sql}: {output:?}");
        output.stdout
    };
    let (mut logical, _) = open(&stage, "database").await;
    let (mut physical, _) = open(&stage, "true").await;
    stream(&mut physical, &stage).await;
    let clients = console("show clients").await;
    let found: Vec<Vec<&str>> = clients.lines().map(|line| line.split('|').collect()).collect();
    let about = |kind: &str| found.iter().find(|row| row[3] == kind).unwrap_or_else(|| panic!("{clients}"));
    for kind in ["logical", "physical"] {
        let row = about(kind);
        assert_eq!([row[1], row[2], row[4], row[18]], ["postgres", "postgres", "active", "tunnelled"], "{clients}");
    }
    console(&format!("kill_client {}", about("physical")[20])).await;
    let heard = rest(&mut physical).await;
    assert_eq!(sqlstate(&heard).as_deref(), Some("57P01"), "{heard:?}");
    assert_eq!(Report::new(&heard[0].body).message(), "admin forced disconnect");
    assert_eq!(tags(&logical.query("IDENTIFY_SYSTEM").await), "TDCZ");
}

#[tokio::test]
async fn a_shutdown_ends_a_stream() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("proxy", "shutdown_timeout", "\"1h\"");
    let mut stage = setup.start().await.unwrap();
    let (mut raw, _) = open(&stage, "true").await;
    stream(&mut raw, &stage).await;
    stage.proxy.signal("INT");
    let heard = rest(&mut raw).await;
    assert_eq!(sqlstate(&heard).as_deref(), Some("57P01"), "{heard:?}");
    assert!(stage.proxy.ended().await.unwrap().success());
}

#[tokio::test]
async fn a_walsender_can_be_cancelled() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"");
    let stage = setup.start().await.unwrap();
    let (mut raw, answer) = open(&stage, "database").await;
    let key = answer.iter().find(|message| message.tag == tag::BACKEND_KEY_DATA).unwrap();
    let key = wire::backend::backend_key_data(&key.body).unwrap();
    let mut out = Vec::new();
    frontend::put_query(&mut out, "select pg_sleep(600)");
    raw.say(&out).await;
    let asleep = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
    until("it to sleep", async || stage.direct(0, asleep).await == "1").await.unwrap();
    let mut request = Raw::open(&stage.proxy).await;
    let mut packet = Vec::new();
    startup::put_cancel(&mut packet, &key);
    request.say(&packet).await;
    assert_eq!(request.hear().await, None);
    assert_eq!(sqlstate(&raw.until_ready().await).as_deref(), Some("57014"));
}

#[tokio::test]
async fn who_wants_no_database_needs_none() {
    // What the harness adds is every database; this one names the only one there is.
    let setup =
        Setup::replicas(0).with("auth", "method", "\"trust\"").with("databases.postgres", "cluster", "\"local\"");
    let stage = setup.start().await.unwrap();
    let mut raw = Raw::open(&stage.proxy).await;
    let mut packet = Vec::new();
    startup::put_session(&mut packet, [("user", "postgres"), ("replication", "true")]);
    raw.say(&packet).await;
    raw.until_ready().await;
    assert_eq!(tags(&raw.query("IDENTIFY_SYSTEM").await), "TDCZ");
}
