//! Where statements go, as the counters tell it, and what becomes of one that was sent to the wrong place.

use tokio_postgres::error::SqlState;

use crate::harness::{Client, Setup, Stage, until};

/// Runs a statement and says where it was counted: to the primary, to a replica, on the server held.
async fn went(stage: &Stage, client: &Client, sql: &str) -> [i32; 3] {
    let before = counts(stage).await;
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let after = counts(stage).await;
    std::array::from_fn(|i| after[i] - before[i])
}

async fn counts(stage: &Stage) -> [i32; 3] {
    let series = stage.proxy.series("hakem_statements_total").await;
    ["primary", "replica", "held"].map(|place| {
        let place = format!("to=\"{place}\"");
        series.iter().filter(|(labels, _)| labels.contains(&place)).map(|(_, count)| *count as i32).sum()
    })
}

async fn stage() -> Stage {
    let stage = Setup::replicas(1).start().await.unwrap();
    let schema = "create table t (n int); insert into t select generate_series(101, 1000); create sequence s;
        create function seems_to_read() returns bigint language sql stable as 'select nextval(''s'')';
        create function writes() returns bigint language sql as 'insert into t values (0); select count(*) from t where n = 0'";
    stage.psql(schema).await;
    stage.cluster.caught_up().await.unwrap();
    stage.ready().await.unwrap();
    stage
}

#[tokio::test]
async fn statements_go_where_they_may() {
    let stage = stage().await;
    let client = stage.connect().await;
    // Nothing is written here that a later read would have to wait for.
    client.batch_execute("set hakem.consistency = 'bounded'").await.unwrap();
    let cases = [
        ("select 1", REPLICA),
        ("select count(*) from t", REPLICA),
        ("with a as (select * from t) select * from a limit 1", REPLICA),
        ("select 1; select 2", REPLICA),
        ("explain select * from t", REPLICA),
        ("show work_mem", REPLICA),
        ("select random(), clock_timestamp()", REPLICA),
        ("insert into t values (1)", PRIMARY),
        ("with a as (insert into t values (1) returning n) select * from a", PRIMARY),
        ("with a as (select 1) delete from t where n = -1", PRIMARY),
        ("select 1; insert into t values (1)", PRIMARY),
        ("select * from t where n = 1 for update", PRIMARY),
        ("select * from (select * from t for share) x limit 1", PRIMARY),
        ("select nextval('s')", PRIMARY),
        ("select writes()", PRIMARY),
        ("explain analyze insert into t values (1)", PRIMARY),
        ("select pg_notify('a', 'b')", PRIMARY),
        ("select pg_backend_pid()", PRIMARY),
        ("select pg_is_in_recovery()", PRIMARY),
        ("show transaction_read_only", PRIMARY),
        ("/* hakem: primary */ select 1", PRIMARY),
        ("/* hakem: replica */ select 1", REPLICA),
        ("/* hakem: replica */ insert into t values (1)", PRIMARY),
        ("select '/* hakem: primary */'", REPLICA),
    ];
    for (sql, place) in cases {
        assert_eq!(went(&stage, &client, sql).await, place, "{sql}");
    }
    assert_eq!(client.value("select pg_is_in_recovery()").await.unwrap(), "f", "a client talks to a primary");

    for (route, sql, place) in [
        ("primary", "select 1", PRIMARY),
        ("replica", "select 1", REPLICA),
        ("replica", "insert into t values (1)", PRIMARY),
        ("auto", "select 1", REPLICA),
    ] {
        client.batch_execute(&format!("set hakem.route = '{route}'")).await.unwrap();
        assert_eq!(client.value("show hakem.route").await.unwrap(), route);
        assert_eq!(went(&stage, &client, sql).await, place, "{route}: {sql}");
    }
    // Until it is known what that has changed, reads go to the primary.
    for sql in ["create table if not exists t (n int)", "do $$ begin end $$"] {
        assert_eq!(went(&stage, &client, sql).await, PRIMARY, "{sql}");
    }
    assert_eq!(client.failure("set hakem.route = 'moon'").await, Some(SqlState::INVALID_PARAMETER_VALUE));
    assert_eq!(client.failure("set hakem.moon = 'x'").await, Some(SqlState::UNDEFINED_OBJECT));
    let asked = stage.proxy.connect_with(|config| {
        config.options("-c hakem.route=primary");
    });
    assert_eq!(went(&stage, &asked.await.unwrap(), "select 1").await, PRIMARY);
}

const PRIMARY: [i32; 3] = [1, 0, 0];
const REPLICA: [i32; 3] = [0, 1, 0];

#[tokio::test]
async fn transactions_stay_together() {
    let stage = stage().await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    one.batch_execute("begin").await.unwrap();
    let backend = one.value("select pg_backend_pid()").await.unwrap();
    for _ in 0..5 {
        one.batch_execute("insert into t values (7)").await.unwrap();
        two.batch_execute("select 1").await.unwrap();
        assert_eq!(one.value("select pg_backend_pid()").await.unwrap(), backend);
        assert_eq!(went(&stage, &one, "select count(*) from t").await, [0, 0, 1]);
    }
    one.batch_execute("commit").await.unwrap();

    // BEGIN alone costs nothing; a read-only transaction goes to a replica as a whole, any other to the primary.
    for (begin, place) in [
        ("begin read only", REPLICA),
        ("begin transaction isolation level repeatable read, read only", REPLICA),
        ("start transaction read only", REPLICA),
        ("begin", PRIMARY),
        ("begin read write", PRIMARY),
        ("begin isolation level serializable read only", PRIMARY),
        ("begin isolation level serializable read only deferrable", PRIMARY),
    ] {
        stage.cluster.caught_up().await.unwrap();
        let client = stage.connect().await;
        assert_eq!(went(&stage, &client, begin).await, [0, 0, 0], "{begin}");
        assert_eq!(went(&stage, &client, "select count(*) from t").await, place, "{begin}");
        assert_eq!(client.value("select count(*) from t where n = 7").await.unwrap(), "5", "{begin}");
        client.batch_execute("commit").await.unwrap();
    }
    let client = stage.connect().await;
    client.batch_execute("begin read only").await.unwrap();
    assert_eq!(client.failure("insert into t values (8)").await, Some(SqlState::READ_ONLY_SQL_TRANSACTION));
    assert_eq!(client.failure("select 1").await, Some(SqlState::IN_FAILED_SQL_TRANSACTION));
    client.batch_execute("rollback").await.unwrap();
    // An empty one, and one that fails at its first statement.
    client.batch_execute("begin").await.unwrap();
    client.batch_execute("commit").await.unwrap();
    client.batch_execute("begin").await.unwrap();
    assert_eq!(client.failure("select 1/0").await, Some(SqlState::DIVISION_BY_ZERO));
    assert_eq!(client.failure("select 1").await, Some(SqlState::IN_FAILED_SQL_TRANSACTION));
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(client.value("select 'fine'").await.unwrap(), "fine");
}

#[tokio::test]
async fn a_misrouted_write_is_run_once_on_the_primary() {
    let stage = stage().await;
    let client = stage.connect().await;
    // Else it would wait on the primary until the replica has its writes.
    client.batch_execute("set hakem.consistency = 'bounded'").await.unwrap();
    for n in 1..=3 {
        assert_eq!(client.value("/* hakem: replica */ select seems_to_read()").await.unwrap(), n.to_string());
        // It is learnt.
        assert_eq!(stage.proxy.metric("hakem_retries_total", &[("reason", "misrouted")]).await, 1.0);
    }
    let prepared = client.prepare("/* hakem: replica */ select seems_to_read()").await.unwrap();
    for n in 4..=6 {
        assert_eq!(client.query_one(&prepared, &[]).await.unwrap().get::<_, i64>(0), n);
    }
    assert_eq!(stage.direct(0, "select last_value from s").await, "6");
    assert_eq!(stage.proxy.metric("hakem_servers_lost_total", &[]).await, 0.0);
}

#[tokio::test]
async fn what_a_replica_does_not_know_yet_is_asked_of_the_primary() {
    let mut setup = Setup::replicas(1).with("routing", "max_lag", "\"1h\"");
    setup.cluster.synchronous = false;
    let stage = setup.start().await.unwrap();
    let client = stage.connect().await;
    stage.cluster.pause_replay(1).await.unwrap();
    stage.direct(0, "create table young as select 42 as n").await;
    assert_eq!(client.value("select n from young").await.unwrap(), "42");
    assert_eq!(client.query_one("select n + 1 from young", &[]).await.unwrap().get::<_, i32>(0), 43);
    assert!(stage.proxy.metric("hakem_retries_total", &[("reason", "not_replayed")]).await >= 2.0);
    // What is nowhere is an error all the same.
    assert_eq!(client.failure("select * from nowhere").await, Some(SqlState::UNDEFINED_TABLE));
    stage.cluster.resume_replay(1).await.unwrap();
}

#[tokio::test]
async fn a_read_that_recovery_cancels_is_run_again() {
    let mut setup = Setup::replicas(1).server("max_standby_streaming_delay", "0").server("hot_standby_feedback", "off");
    // VACUUM must have something to remove when the test says so, not before.
    setup = setup.server("autovacuum", "off").with("routing", "max_lag", "\"1h\"");
    let stage = setup.start().await.unwrap();
    stage.psql("create table t as select generate_series(1, 1000) as n").await;
    stage.cluster.caught_up().await.unwrap();
    let client = stage.connect().await;
    let waits = "/* hakem: replica */ select pg_is_in_recovery(), count(*), pg_sleep(case when pg_is_in_recovery() then 600 else 0 end) from t";
    let conflict = async {
        let active = "select count(*) from pg_stat_activity where state = 'active' and query like '/* hakem%' and wait_event = 'PgSleep'";
        until("the replica to work on it", async || stage.direct(1, active).await == "1").await.unwrap();
        stage.direct(0, "delete from t; vacuum t").await;
    };
    let (read, ()) = tokio::join!(client.value(waits), conflict);
    assert_eq!(read.unwrap(), "f", "the answer is the primary's");
    assert_eq!(stage.proxy.metric("hakem_retries_total", &[("reason", "conflict")]).await, 1.0);
}
