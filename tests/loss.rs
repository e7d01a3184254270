//! What one client is told when its server dies, by what it was doing; its connection lives on.

use cluster::Cluster;
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::error::SqlState;
use wire::backend::tag;
use wire::frontend;

use crate::harness::{Client, Setup, Stage, code, until};
use crate::raw::Raw;
use crate::tap::Tap;

async fn stage() -> Stage {
    let mut setup = Setup::replicas(1).with("routing", "max_lag", "\"1h\"");
    // Writes are to go on when the replica is dead.
    setup.cluster.synchronous = false;
    let stage = setup.start().await.unwrap();
    stage.psql("create table t (n int)").await;
    stage.ready().await.unwrap();
    stage
}

/// Kills the primary and starts it again: the data are the same, the connections are not.
async fn restart(stage: &mut Stage) {
    stage.cluster.kill(0).await.unwrap();
    stage.cluster.start_node(0).await.unwrap();
}

/// How a statement fails that the primary is killed and started again under.
async fn killed_during(cluster: &mut Cluster, client: &Client, sql: &str) -> Option<SqlState> {
    let kill = async {
        let active = format!("select count(*) from pg_stat_activity where state = 'active' and query = '{sql}'");
        until("the statement to run", async || cluster.sql(0, &active).await.unwrap() == "1").await.unwrap();
        cluster.kill(0).await.unwrap();
        cluster.start_node(0).await.unwrap();
    };
    let (failure, ()) = tokio::join!(client.failure(sql), kill);
    failure
}

async fn works(client: &Client) {
    assert_eq!(client.failure("insert into t values (100)").await, None);
    assert_eq!(client.value("select count(*) > 0 from t").await.unwrap(), "t");
}

#[tokio::test]
async fn in_a_transaction() {
    let mut stage = stage().await;
    let client = stage.connect().await;
    let insert = client.prepare("insert into t values ($1)").await.unwrap();

    // Told by the next statement, whichever protocol; then as after any error until ROLLBACK.
    client.batch_execute("begin; insert into t values (1)").await.unwrap();
    restart(&mut stage).await;
    assert_eq!(client.failure("insert into t values (2)").await, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    assert_eq!(client.failure("select 1").await, Some(SqlState::IN_FAILED_SQL_TRANSACTION));
    let error = client.execute(&insert, &[&1]).await.unwrap_err();
    assert_eq!(code(&error), SqlState::IN_FAILED_SQL_TRANSACTION);
    client.batch_execute("rollback").await.unwrap();
    works(&client).await;

    client.batch_execute("begin").await.unwrap();
    client.execute(&insert, &[&3]).await.unwrap();
    restart(&mut stage).await;
    let error = client.execute(&insert, &[&4]).await.unwrap_err();
    assert_eq!(code(&error), SqlState::T_R_SERIALIZATION_FAILURE);
    client.batch_execute("rollback").await.unwrap();
    works(&client).await;

    // A COMMIT that comes too late must not look like one that succeeded.
    client.batch_execute("begin; insert into t values (5)").await.unwrap();
    restart(&mut stage).await;
    assert_eq!(client.failure("commit").await, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    client.batch_execute("rollback").await.unwrap();
    works(&client).await;

    let commit = client.prepare("commit").await.unwrap();
    client.batch_execute("begin; insert into t values (6)").await.unwrap();
    restart(&mut stage).await;
    let error = client.execute(&commit, &[]).await.unwrap_err();
    assert_eq!(code(&error), SqlState::T_R_SERIALIZATION_FAILURE);
    client.batch_execute("rollback").await.unwrap();
    works(&client).await;

    // A ROLLBACK gets what it wants.
    client.batch_execute("begin; insert into t values (7)").await.unwrap();
    restart(&mut stage).await;
    client.batch_execute("rollback").await.unwrap();
    works(&client).await;

    // In the middle of a statement.
    client.batch_execute("begin; insert into t values (8)").await.unwrap();
    let failure = killed_during(&mut stage.cluster, &client, "select pg_sleep(600)").await;
    assert_eq!(failure, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    assert_eq!(client.failure("select 1").await, Some(SqlState::IN_FAILED_SQL_TRANSACTION));
    client.batch_execute("rollback").await.unwrap();
    works(&client).await;

    // Nothing of all these transactions is there.
    assert_eq!(stage.direct(0, "select count(*) from t where n < 100").await, "0");
}

#[tokio::test]
async fn in_an_autocommit_write() {
    let mut stage = stage().await;
    let client = stage.connect().await;
    let failure = killed_during(&mut stage.cluster, &client, "insert into t select 1 from pg_sleep(600)").await;
    assert_eq!(failure, Some(SqlState::TRANSACTION_RESOLUTION_UNKNOWN));
    works(&client).await;
    // It was not run again by the proxy.
    assert_eq!(stage.direct(0, "select count(*) from t where n = 1").await, "0");
}

#[tokio::test]
async fn in_the_middle_of_a_result() {
    let mut stage = stage().await;
    let client = stage.connect().await;
    let rows =
        client.query_raw("select generate_series(1, 1000000000), repeat('x', 1000)", [] as [&i32; 0]).await.unwrap();
    let mut rows = std::pin::pin!(rows);
    for _ in 0..1000 {
        rows.try_next().await.unwrap().unwrap();
    }
    stage.cluster.kill(1).await.unwrap();
    let error = loop {
        match rows.try_next().await {
            Ok(row) => assert!(row.is_some(), "the result ended as if it were complete"),
            Err(error) => break error,
        }
    };
    assert_eq!(code(&error), SqlState::ADMIN_SHUTDOWN);
    works(&client).await;
}

/// A message that is larger than what is kept is passed on while it comes. Its rest is lost with the server, and nothing could be said in its
/// middle that the client would not take for a part of it: only the end of its connection tells the truth. Nobody else is concerned.
#[tokio::test]
async fn in_the_middle_of_a_message() {
    let mut setup = Setup::replicas(1).with("auth", "method", "\"trust\"").with("routing", "max_lag", "\"1h\"");
    setup.cluster.synchronous = false;
    let mut stage = setup.clone().start().await.unwrap();
    let mut raw = Raw::log_in(&stage.proxy, &setup.cluster.user).await;
    let mut query = Vec::new();
    frontend::put_query(&mut query, "/* hakem: replica */ select repeat('x', 100000000)");
    raw.say(&query).await;
    assert_eq!(raw.hear().await.map(|message| message.tag), Some(tag::ROW_DESCRIPTION));
    raw.begins().await;
    stage.cluster.kill(1).await.unwrap();
    assert!(raw.hear_any().await.is_none(), "something came where the rest of the row was to come");
    let rest = raw.unread();
    assert_eq!(rest.first(), Some(&tag::DATA_ROW));
    assert!(rest[7 + 4..].iter().all(|byte| *byte == b'x'), "it ends with something else");
    assert_eq!(stage.connect().await.value("select 1").await.unwrap(), "1");
}

#[tokio::test]
async fn in_a_read_that_has_sent_nothing() {
    let mut stage = stage().await;
    let client = stage.connect().await;
    let waits =
        "/* hakem: replica */ select pg_is_in_recovery(), pg_sleep(case when pg_is_in_recovery() then 600 else 0 end)";
    let Stage { cluster, proxy } = &mut stage;
    let kill = async {
        let active = "select count(*) from pg_stat_activity where state = 'active' and query like '/* hakem%'";
        until("the read to run", async || cluster.sql(1, active).await.unwrap() == "1").await.unwrap();
        cluster.kill(1).await.unwrap();
    };
    let (read, ()) = tokio::join!(client.value(waits), kill);
    assert_eq!(read.unwrap(), "f", "it was run again on the primary");
    assert_eq!(proxy.metric("hakem_retries_total", &[("reason", "server_lost")]).await, 1.0);
    works(&client).await;
}

#[tokio::test]
async fn in_preparing_a_write() {
    let mut stage = stage().await;
    let client = stage.connect().await;
    client.batch_execute("insert into t values (100)").await.unwrap();
    // A frozen server answers nothing, so that its death finds the request in flight.
    stage.cluster.freeze(0).await.unwrap();
    let Stage { cluster, proxy } = &mut stage;
    let kill = async {
        until("the request to have a server", async || {
            proxy.metric("hakem_server_connections", &[("state", "leased")]).await == 1.0
        })
        .await
        .unwrap();
        cluster.kill(0).await.unwrap();
        cluster.start_node(0).await.unwrap();
    };
    let (prepared, ()) = tokio::join!(client.prepare("insert into t values ($1)"), kill);
    assert_eq!(client.execute(&prepared.unwrap(), &[&1]).await.unwrap(), 1);
    assert_eq!(proxy.metric("hakem_retries_total", &[("reason", "server_lost")]).await, 1.0);
    works(&client).await;
}

#[tokio::test]
async fn with_state_that_only_the_server_had() {
    let mut stage = stage().await;
    let client = stage.connect().await;
    client.batch_execute("create temp table scratch (n int)").await.unwrap();
    restart(&mut stage).await;
    assert_eq!(client.failure("insert into scratch values (1)").await, Some(SqlState::ADMIN_SHUTDOWN));
    assert_eq!(client.failure("insert into scratch values (1)").await, Some(SqlState::UNDEFINED_TABLE));
    works(&client).await;
}

#[tokio::test]
async fn in_a_copy() {
    let mut stage = stage().await;
    let client = stage.connect().await;
    {
        let sink = client.copy_in("copy t from stdin").await.unwrap();
        let mut sink = std::pin::pin!(sink);
        sink.send(bytes::Bytes::from_static(b"1\n2\n")).await.unwrap();
        sink.flush().await.unwrap();
        restart(&mut stage).await;
        let error = sink.finish().await.unwrap_err();
        assert_eq!(code(&error), SqlState::TRANSACTION_RESOLUTION_UNKNOWN);
    }
    works(&client).await;
    assert_eq!(stage.direct(0, "select count(*) from t where n < 100").await, "0");
}

/// However many connections died unseen with a server, a read is run again on one that lives.
#[tokio::test]
async fn connections_that_died_unseen_fail_no_read() {
    let setup = Setup::replicas(0);
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let tap = Tap::to(&cluster).await;
    let setup = setup.with("clusters.local", "servers", &tap.servers()).with("proxy", "workers", "1");
    let proxy = setup.proxy(&cluster).await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..6 {
        clients.push(proxy.connect().await);
    }
    for client in &clients {
        client.batch_execute("begin; create temporary table own (n int) on commit drop").await.unwrap();
    }
    for client in &clients {
        client.batch_execute("commit").await.unwrap();
    }
    tap.die_unseen();
    assert_eq!(clients[0].value("select 1").await.unwrap(), "1");
    assert!(proxy.metric("hakem_retries_total", &[("reason", "server_lost")]).await >= 1.0, "nothing had died");
}
