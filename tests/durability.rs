//! `synchronous_commit` by what is written, as the server itself has it, and as nobody else finds it there.

use futures_util::future::join_all;

use crate::harness::{Client, Setup, Stage};

const RULES: &str = r#"
[[rules]]
tables = ["moves"]
synchronous_commit = "remote_apply"

[[rules]]
application_names = ["collector*"]
statements = ["insert"]
synchronous_commit = "off"

[[rules]]
tables = ["telemetry"]
synchronous_commit = "local"

[[rules]]
application_names = ["game"]
pin = true

[[rules]]
application_names = ["report"]
consistency = "eventual"
affinity = "node"
"#;

async fn stage() -> Stage {
    let stage = Setup::replicas(1).with("pool", "size", "1").and(RULES).start().await.unwrap();
    stage.psql("create table moves (n int); create table telemetry (n int); create table other (n int)").await;
    stage.cluster.caught_up().await.unwrap();
    stage
}

/// What the server has while a row is inserted.
fn insert(table: &str) -> String {
    format!("insert into {table} values (1) returning current_setting('synchronous_commit')")
}

async fn inserted(client: &Client, table: &str) -> String {
    let simple = client.value(&insert(table)).await.unwrap();
    let extended: String = client.query_one(&insert(table), &[]).await.unwrap().get(0);
    assert_eq!(simple, extended, "{table}");
    simple
}

#[tokio::test]
async fn each_table_has_its_own() {
    let stage = stage().await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    for _ in 0..2 {
        assert_eq!(inserted(&one, "moves").await, "remote_apply");
        assert_eq!(inserted(&two, "other").await, "on", "on the same server connection");
        assert_eq!(inserted(&one, "telemetry").await, "local");
        assert_eq!(one.value("show synchronous_commit").await.unwrap(), "on");
    }
    // In a block the strictest counts, and goes with what a savepoint takes back.
    for client in [&one, &two] {
        client.batch_execute("begin").await.unwrap();
        assert_eq!(client.value(&insert("telemetry")).await.unwrap(), "local");
        client.batch_execute("savepoint a").await.unwrap();
        assert_eq!(client.value(&insert("moves")).await.unwrap(), "remote_apply");
        assert_eq!(client.query_one(&insert("telemetry"), &[]).await.unwrap().get::<_, String>(0), "remote_apply");
        assert_eq!(client.value("show synchronous_commit").await.unwrap(), "remote_apply");
        client.batch_execute("rollback to a").await.unwrap();
        assert_eq!(client.value("show synchronous_commit").await.unwrap(), "local");
        assert_eq!(client.query_one(&insert("other"), &[]).await.unwrap().get::<_, String>(0), "on");
        client.batch_execute("commit").await.unwrap();
        assert_eq!(client.value("show synchronous_commit").await.unwrap(), "on");
    }
    // Whoever sets it knows better, for as long as it is set.
    one.batch_execute("set synchronous_commit = off").await.unwrap();
    assert_eq!(inserted(&one, "moves").await, "off");
    assert_eq!(inserted(&two, "moves").await, "remote_apply");
    one.batch_execute("reset synchronous_commit").await.unwrap();
    one.batch_execute("begin; set local synchronous_commit = off").await.unwrap();
    assert_eq!(one.value(&insert("moves")).await.unwrap(), "off");
    one.batch_execute("commit").await.unwrap();
    assert_eq!(inserted(&one, "moves").await, "remote_apply");
    // One behind the other, without waiting for answers.
    let statements = [insert("moves"), insert("other"), insert("telemetry"), insert("telemetry"), insert("moves")];
    let mut prepared = Vec::new();
    for sql in &statements {
        prepared.push(one.prepare(sql).await.unwrap());
    }
    for _ in 0..20 {
        let rows = join_all(prepared.iter().map(|statement| one.query_one(statement, &[]))).await;
        let levels: Vec<String> = rows.into_iter().map(|row| row.unwrap().get(0)).collect();
        assert_eq!(levels, ["remote_apply", "on", "local", "local", "remote_apply"]);
    }
}

#[tokio::test]
async fn rules_know_applications() {
    let stage = stage().await;
    let named = async |name: &str| {
        let client = stage.proxy.connect_with(|config| {
            config.application_name(name);
        });
        client.await.unwrap()
    };
    let collector = named("collector 7").await;
    assert_eq!(inserted(&collector, "telemetry").await, "off");
    assert_eq!(inserted(&collector, "moves").await, "remote_apply", "the first rule that fits counts");
    drop(collector);
    let report = named("report").await;
    assert_eq!(report.value("show hakem.consistency").await.unwrap(), "eventual");
    assert_eq!(report.value("show hakem.affinity").await.unwrap(), "node");
    assert_eq!(stage.connect().await.value("show hakem.pin").await.unwrap(), "off");
    let game = named("game").await;
    assert_eq!(game.value("show hakem.pin").await.unwrap(), "on");
    game.batch_execute("select 1").await.unwrap();
    assert_eq!(stage.proxy.metric("hakem_pins", &[("reason", "explicit")]).await, 1.0);
}
