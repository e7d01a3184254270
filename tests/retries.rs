//! What is run again on another server, for whatever reason, has happened once. Each reason is forced on real servers, in both protocols.
//!
//! Executions are counted where they happen: `effect` writes a row and takes a number from a sequence, which no rollback takes back.

use cluster::{Cluster, Mode};
use futures_util::TryStreamExt;
use tokio_postgres::error::SqlState;
use wire::frontend;

use crate::harness::{Client, Setup, Stage, code, until};
use crate::raw::{Raw, put_execute, sqlstate, value};

/// `effect` pretends to be harmless, so that nothing but a replica's refusal can tell; it has a parameter, else it would be called
/// when it is planned.
const SCHEMA: &str = "
    create table t as select generate_series(1, 1000) as n;
    create table one as select 1 as n;
    create table effects (n int);
    create sequence executions;
    create function happens(n int) returns void volatile language sql as 'insert into effects values (n)';
    create function effect(n int) returns text immutable language plpgsql as $$
        begin
            perform nextval('executions');
            perform happens(n);
            return pg_is_in_recovery()::text;
        end $$;
    create function waits(n int) returns text immutable language plpgsql as $$
        begin
            if pg_is_in_recovery() then perform pg_sleep(600); end if;
            return effect(n);
        end $$;
    create function dies(n int) returns text immutable language plpgsql as $$
        begin perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(600); return ''; end $$;";

const EFFECT: &str = "/* hakem: replica */ select effect(n) from one";

/// Takes for ever on a replica, and on the primary no time; there it is counted.
const WAITS: &str = "/* hakem: replica */ select waits(count(*)::int) from t";

/// The reads of a session do not wait until a replica has its writes.
fn setup(replicas: usize) -> Setup {
    let mut setup =
        Setup::replicas(replicas).with("routing", "max_lag", "\"1h\"").with("routing", "consistency", "\"bounded\"");
    setup.cluster.synchronous = false;
    // What comes back is tried again at once.
    setup.with("routing", "slow_start", "\"0s\"").with("pool", "server_login_retry", "\"10ms\"")
}

async fn start(setup: Setup) -> Stage {
    let stage = setup.start().await.unwrap();
    stage.direct(0, SCHEMA).await;
    stage.cluster.caught_up().await.unwrap();
    // What is taken for a read is none any more when the catalog has been read meanwhile.
    let client = stage.connect().await;
    stage.catalog_read().await;
    client.close().await;
    stage
}

async fn retries(stage: &Stage, reason: &str) -> f64 {
    stage.proxy.metric("hakem_retries_total", &[("reason", reason)]).await
}

/// How often `effect` has run, as rows that are there and as numbers that were taken.
async fn executions(stage: &Stage) -> (String, String) {
    let counted = stage.direct(0, COUNTED).await;
    let (rows, taken) = counted.split_once('|').unwrap();
    (rows.to_owned(), taken.to_owned())
}

const COUNTED: &str =
    "select (select count(*) from effects), case when is_called then last_value else 0 end from executions";

/// A process of the server that serves no client.
const OTHER: &str = "select pid from pg_stat_activity where backend_type = 'checkpointer'";

fn kill(pid: &str) {
    let killed = std::process::Command::new("kill").args(["-KILL", pid.trim()]).status();
    assert!(killed.unwrap().success());
}

/// The same statement by the simple and by the extended protocol.
async fn ask(client: &Client, sql: &str, extended: bool) -> Result<String, tokio_postgres::Error> {
    match extended {
        false => client.value(sql).await,
        true => client.query_one(sql, &[]).await.map(|row| row.get(0)),
    }
}

/// Waits until a replica works on [`WAITS`], and says in which process.
async fn working(cluster: &Cluster, replica: usize) -> String {
    let active =
        "select pid from pg_stat_activity where state = 'active' and query like '/* hakem%' and wait_event = 'PgSleep'";
    let mut pid = String::new();
    until("the replica to work on it", async || {
        // It may be on its way up.
        pid = cluster.sql(replica, active).await.unwrap_or_default();
        !pid.is_empty()
    })
    .await
    .unwrap();
    pid
}

#[tokio::test]
async fn what_a_replica_has_refused_is_learnt() {
    let setup = setup(1).with("auth", "method", "\"trust\"").with("routing", "catalog_refresh", "\"0s\"");
    let setup = setup.server("log_statement", "all");
    let stage = start(setup).await;
    let mut expected = 0;
    let (one, two) = (stage.connect().await, stage.connect().await);
    // The first time it is tried on the replica; from then on everybody knows, by whichever protocol, and whatever the literals are.
    for client in [&one, &two, &one] {
        for extended in [false, true, false] {
            assert_eq!(ask(client, EFFECT, extended).await.unwrap(), "false");
            expected += 1;
            assert_eq!(ask(client, &format!("{EFFECT} where n < {}", expected + 1), extended).await.unwrap(), "false");
            expected += 1;
        }
    }
    let prepared = two.prepare(EFFECT).await.unwrap();
    for _ in 0..3 {
        assert_eq!(two.query_one(&prepared, &[]).await.unwrap().get::<_, String>(0), "false");
        expected += 1;
    }
    let counted = expected.to_string();
    assert_eq!(executions(&stage).await, (counted.clone(), counted));
    assert_eq!(retries(&stage, "misrouted").await, 2.0, "one for each of the two statements");
    let known = stage.proxy.metric("hakem_statements_total", &[("to", "primary"), ("why", "misrouted")]).await;
    assert!(known >= f64::from(expected - 2), "{known}");
    let seen = std::fs::read_to_string(stage.cluster.nodes()[1].log()).unwrap().matches("select effect(n)").count();
    assert!((2..=6).contains(&seen), "{seen} statements on the replica");

    // In batches and in pipelines, where the first to fail takes those behind it along.
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    let mut out = Vec::new();
    for (name, sql) in
        [("a", "/* hakem: replica */ select effect(n + 1) from one"), ("b", "/* hakem: replica */ select n from one")]
    {
        frontend::put_parse(&mut out, name.as_bytes(), sql.as_bytes(), &[0, 0]);
    }
    for name in ["a", "b", "a"] {
        put_execute(&mut out, name);
    }
    frontend::put_sync(&mut out);
    raw.say(&out).await;
    let answer = raw.until_ready().await;
    assert_eq!((sqlstate(&answer), value(&answer).as_deref()), (None, Some("false")));
    expected += 2;
    let mut out = Vec::new();
    for n in 0..4 {
        frontend::put_query(&mut out, &format!("/* hakem: replica */ select effect(n + {n}), n from one"));
        frontend::put_query(&mut out, "select n from one");
    }
    raw.say(&out).await;
    for n in 0..8 {
        let answer = raw.until_ready().await;
        assert_eq!(
            (sqlstate(&answer), value(&answer).as_deref()),
            (None, Some(if n % 2 == 0 { "false" } else { "1" }))
        );
    }
    expected += 4;
    let counted = expected.to_string();
    assert_eq!(executions(&stage).await, (counted.clone(), counted));
    assert_eq!(retries(&stage, "misrouted").await, 4.0);
    assert_eq!(stage.proxy.metric("hakem_servers_lost_total", &[]).await, 0.0);
    // What stood beside it is still a read.
    let reads = stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await;
    assert_eq!(raw.query("/* hakem: replica */ select n from one").await.len(), 4);
    assert_eq!(stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await, reads + 1.0);
}

#[tokio::test]
async fn recovery_conflicts() {
    let setup = setup(1)
        .server("max_standby_streaming_delay", "0")
        .server("hot_standby_feedback", "off")
        .server("autovacuum", "off");
    let stage = start(setup).await;
    let client = stage.connect().await;
    let mut conflicts = 0.0;
    // A snapshot that VACUUM does not wait for; a lock that is taken away. The answer is the primary's.
    for (number, cause) in [
        "delete from t; vacuum t",
        "truncate t",
        "alter table t add column extra int",
        "begin; drop table t; create table t (n int); commit",
    ]
    .into_iter()
    .enumerate()
    {
        for extended in [false, true] {
            stage.direct(0, "insert into t select generate_series(1, 100)").await;
            stage.cluster.caught_up().await.unwrap();
            let conflict = async {
                working(&stage.cluster, 1).await;
                stage.direct(0, &cause.replace("extra", &format!("extra_{number}_{extended}"))).await;
            };
            let (answer, ()) = tokio::join!(ask(&client, WAITS, extended), conflict);
            conflicts += 1.0;
            assert_eq!(answer.unwrap(), "false");
            assert_eq!(retries(&stage, "conflict").await, conflicts);
            assert_eq!(executions(&stage).await, (conflicts.to_string(), conflicts.to_string()), "{cause}");
        }
    }

    // Within a transaction it is the client's to run it again, as with PostgreSQL.
    stage.direct(0, "insert into t select generate_series(1, 100)").await;
    stage.cluster.caught_up().await.unwrap();
    client.batch_execute("begin isolation level repeatable read read only; ").await.unwrap();
    assert_eq!(client.value("select count(*) from t").await.unwrap(), "100");
    let cause = async {
        working(&stage.cluster, 1).await;
        stage.direct(0, "delete from t; vacuum t").await;
    };
    let (failure, ()) = tokio::join!(client.failure(WAITS), cause);
    assert_eq!(failure, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    assert_eq!(client.failure("select 1").await, Some(SqlState::IN_FAILED_SQL_TRANSACTION));
    client.batch_execute("rollback").await.unwrap();
    // The same between two statements: the server says goodbye.
    stage.direct(0, "insert into t select generate_series(1, 100)").await;
    stage.cluster.caught_up().await.unwrap();
    client.batch_execute("begin isolation level repeatable read read only").await.unwrap();
    assert_eq!(client.value("select count(*) from t").await.unwrap(), "100");
    let sessions = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    assert_eq!(stage.direct(1, sessions).await, "1");
    stage.direct(0, "delete from t; vacuum t").await;
    until("the session to be ended", async || stage.direct(1, sessions).await == "0").await.unwrap();
    assert_eq!(client.failure("select count(*) from t").await, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(client.value("select count(*) from t").await.unwrap(), "0");

    // Rows have been sent: the client is told what the server says, and goes on.
    stage.direct(0, "insert into t select generate_series(1, 1000)").await;
    stage.cluster.caught_up().await.unwrap();
    let long = "/* hakem: replica */ select n, repeat('x', 2000), case when n = 900 then pg_sleep(600) end from t where pg_is_in_recovery()";
    let rows = client.query_raw(long, [] as [&i32; 0]).await.unwrap();
    let mut rows = std::pin::pin!(rows);
    for _ in 0..500 {
        rows.try_next().await.unwrap().unwrap();
    }
    working(&stage.cluster, 1).await;
    stage.direct(0, "truncate t").await;
    let error = loop {
        match rows.try_next().await {
            Ok(row) => assert!(row.is_some(), "the result ended as if it were complete"),
            Err(error) => break error,
        }
    };
    assert_eq!(code(&error), SqlState::T_R_SERIALIZATION_FAILURE);
    assert_eq!(retries(&stage, "conflict").await, conflicts);
    assert_eq!(client.value("select count(*) from t").await.unwrap(), "0");
}

#[tokio::test]
async fn a_database_that_is_dropped_under_a_read() {
    let mut stage = start(setup(1).server("max_standby_streaming_delay", "0")).await;
    stage.direct(0, "create database doomed").await;
    stage.cluster.caught_up().await.unwrap();
    let client = stage.proxy.connect_with(|config| {
        config.dbname("doomed");
    });
    let client = client.await.unwrap();
    let Stage { cluster, proxy } = &mut stage;
    let drop = async {
        working(cluster, 1).await;
        cluster.sql(0, "drop database doomed with (force)").await.unwrap();
    };
    let waits = "/* hakem: replica */ select pg_is_in_recovery()::text, pg_sleep(case when pg_is_in_recovery() then 600 else 0 end)";
    let (failure, ()) = tokio::join!(client.failure(waits), drop);
    assert_eq!(failure, Some(SqlState::INVALID_CATALOG_NAME), "as the primary says");
    assert_eq!(proxy.metric("hakem_retries_total", &[("reason", "conflict")]).await, 1.0);
    assert_eq!(client.failure("select 1").await, Some(SqlState::INVALID_CATALOG_NAME), "the connection lives");
}

#[tokio::test]
async fn a_replica_that_goes_in_the_middle() {
    let mut stage = start(setup(1)).await;
    let client = stage.connect().await;
    let mut lost = 0.0;
    for way in ["terminate", "kill", "crash", "immediate", "fast", "freeze"] {
        for extended in [false, true] {
            let Stage { cluster, proxy } = &mut stage;
            let log = cluster.nodes()[1].log().to_owned();
            let starts = || std::fs::read_to_string(&log).unwrap().matches("ready to accept").count();
            let before = starts();
            let end = async {
                let pid = working(cluster, 1).await;
                match way {
                    "terminate" => drop(cluster.sql(1, &format!("select pg_terminate_backend({pid})")).await.unwrap()),
                    // The postmaster ends all the others, too, and starts again.
                    "kill" => kill(&pid),
                    // To it, this is a crash of somebody else's: 57P02.
                    "crash" => kill(&cluster.sql(1, OTHER).await.unwrap()),
                    "immediate" => cluster.stop(1, Mode::Immediate).await.unwrap(),
                    "fast" => cluster.stop(1, Mode::Fast).await.unwrap(),
                    // Nothing ends; but nothing answers any more, either.
                    _ => cluster.freeze(1).await.unwrap(),
                }
            };
            let (answer, ()) = tokio::join!(ask(&client, WAITS, extended), end);
            assert_eq!(answer.unwrap(), "false", "{way}");
            lost += 1.0;
            assert_eq!(proxy.metric("hakem_retries_total", &[("reason", "server_lost")]).await, lost, "{way}");
            let counted = cluster.sql(0, COUNTED).await.unwrap();
            assert_eq!(counted, format!("{lost}|{lost}"), "{way}: it has happened once each");
            match way {
                "immediate" | "fast" => cluster.start_node(1).await.unwrap(),
                "freeze" => cluster.thaw(1),
                "kill" | "crash" => until("it to start again", async || starts() > before).await.unwrap(),
                _ => {}
            }
            stage.ready().await.unwrap();
            // The replica is used again.
            let read = async || {
                ask(&client, "/* hakem: replica */ select pg_is_in_recovery()::text", extended).await.unwrap() == "true"
            };
            until("the replica to serve", read).await.unwrap();
        }
    }
    assert_eq!(stage.proxy.metric("hakem_servers_lost_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_frozen_primary_is_given_up_when_another_is_there() {
    let mut stage = start(setup(1)).await;
    let client = stage.connect().await;
    client.batch_execute("insert into effects values (1)").await.unwrap();
    stage.cluster.caught_up().await.unwrap();
    stage.cluster.freeze(0).await.unwrap();
    let Stage { cluster, proxy } = &mut stage;
    let failover = async {
        until("it to be out of reach", async || {
            proxy.metric("hakem_node_state", &[("state", "unreachable")]).await == 1.0
        })
        .await
        .unwrap();
        cluster.promote(1).await.unwrap();
    };
    // Nobody knows whether it was done; but its client is told so, and need not wait for a server that says nothing.
    let (failure, ()) = tokio::join!(client.failure("insert into effects values (2)"), failover);
    assert_eq!(failure, Some(SqlState::TRANSACTION_RESOLUTION_UNKNOWN));
    assert_eq!(client.failure("insert into effects values (3)").await, None);
    assert_eq!(stage.direct(1, "select count(*) from effects where n = 3").await, "1");
    stage.cluster.thaw(0);
}

#[tokio::test]
async fn what_has_not_been_replayed() {
    let stage = start(setup(1)).await;
    stage
        .direct(
            0,
            "create type mood as enum ('calm'); create role plain; create table secret as select 'told'::text as s",
        )
        .await;
    stage.cluster.caught_up().await.unwrap();
    stage.cluster.pause_replay(1).await.unwrap();
    stage
        .direct(
            0,
            "alter table t add column late int default 7;
            create table young as select 42 as n;
            create schema fresh; create table fresh.t as select 43 as n;
            create type kind as enum ('good');
            alter type mood add value 'gay';
            create function fresh.f(n int) returns int immutable language sql as 'select n + 1';
            grant select on secret to plain",
        )
        .await;
    let client = stage.connect().await;
    let mut count = 0.0;
    for (sql, expected) in [
        ("select n::text from young", "42"),
        ("select late::text from t limit 1", "7"),
        ("select n::text from fresh.t", "43"),
        ("select 'good'::kind::text", "good"),
        ("select 'gay'::mood::text", "gay"),
        ("/* hakem: replica */ select fresh.f(n)::text from one", "2"),
        ("select s from secret", "told"),
    ] {
        for extended in [false, true] {
            if sql.contains("secret") {
                client.batch_execute("set role plain").await.unwrap();
            }
            assert_eq!(ask(&client, sql, extended).await.unwrap(), expected, "{sql}");
            count += 1.0;
            assert!(retries(&stage, "not_replayed").await >= count, "{sql} {extended}");
        }
    }
    client.batch_execute("reset role").await.unwrap();
    // Once it is replayed it is the replica's; and what is wrong everywhere is the client's own error.
    stage.cluster.resume_replay(1).await.unwrap();
    stage.cluster.caught_up().await.unwrap();
    // What has only just caught up is not yet known to have.
    stage.ready().await.unwrap();
    let count = retries(&stage, "not_replayed").await;
    assert_eq!(client.value("select n from young").await.unwrap(), "42");
    assert_eq!(client.failure("selec 1").await, Some(SqlState::SYNTAX_ERROR));
    assert_eq!(client.failure("select 'x'::int").await, Some(SqlState::INVALID_TEXT_REPRESENTATION));
    assert_eq!(retries(&stage, "not_replayed").await, count);
    for (sql, code) in [
        ("select * from nowhere", SqlState::UNDEFINED_TABLE),
        ("select 'x'::mood", SqlState::INVALID_TEXT_REPRESENTATION),
    ] {
        // Of whom a read is asked is the program's choice; what the primary is asked first needs no second answer.
        let count = retries(&stage, "not_replayed").await;
        until("a replica to be asked first", async || {
            assert_eq!(client.failure(sql).await, Some(code.clone()));
            retries(&stage, "not_replayed").await == count + 1.0
        })
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn a_primary_that_refuses_to_write_is_asked_once_more() {
    let stage = start(setup(1)).await;
    let client = stage.connect().await;
    stage.cluster.set(0, "default_transaction_read_only", "on").await.unwrap();
    until("the primary to refuse", async || {
        client.failure("select effect(n) from one").await == Some(SqlState::READ_ONLY_SQL_TRANSACTION)
    })
    .await
    .unwrap();
    let before = retries(&stage, "demoted").await;
    let (_, taken) = executions(&stage).await;
    for extended in [false, true] {
        let failure = match extended {
            false => client.failure("insert into effects values (1)").await,
            true => client.execute("insert into effects values (1)", &[]).await.err().map(|error| code(&error)),
        };
        assert_eq!(failure, Some(SqlState::READ_ONLY_SQL_TRANSACTION), "a server that says it twice means it");
    }
    assert_eq!(retries(&stage, "demoted").await, before + 2.0);
    stage.cluster.reset(0, "default_transaction_read_only").await.unwrap();
    until("the primary to write", async || client.failure("insert into effects values (2)").await.is_none())
        .await
        .unwrap();
    assert_eq!(executions(&stage).await, ("1".to_owned(), taken));
}

#[tokio::test]
async fn what_kills_its_servers_is_not_tried_on_all_of_them() {
    let stage = start(setup(3)).await;
    let client = stage.connect().await;
    for extended in [false, true] {
        let before = retries(&stage, "server_lost").await;
        let sql = "/* hakem: replica */ select dies(n) from one";
        let failure = ask(&client, sql, extended).await.unwrap_err();
        let expected = [SqlState::CONNECTION_FAILURE, SqlState::TRANSACTION_RESOLUTION_UNKNOWN];
        assert!(expected.contains(&code(&failure)), "{failure:?}");
        let tried = retries(&stage, "server_lost").await - before;
        assert!((1.0..=3.0).contains(&tried), "{tried}");
        assert_eq!(client.value("select 'alive'").await.unwrap(), "alive");
    }
}
