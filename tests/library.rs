//! What a driver that pipelines and prepares relies on, shown with tokio-postgres and with bare messages.

use futures_util::future::join_all;
use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::harness::{Setup, code, until};
use crate::raw::{Raw, put_execute, sqlstate, tags, value};

#[tokio::test]
async fn transactions_copy_and_notices() {
    let stage = Setup::replicas(1).with("pool", "size", "2").start().await.unwrap();
    let mut client = stage.connect().await;
    client.batch_execute("create table t (n int primary key, s text)").await.unwrap();

    let insert = client.prepare("insert into t values ($1, $2)").await.unwrap();
    let mut transaction = client.transaction().await.unwrap();
    transaction.execute(&insert, &[&1, &"one"]).await.unwrap();
    let savepoint = transaction.savepoint("s").await.unwrap();
    let error = savepoint.execute(&insert, &[&1, &"again"]).await.unwrap_err();
    assert_eq!(code(&error), SqlState::UNIQUE_VIOLATION);
    let error = savepoint.query("select 1", &[]).await.unwrap_err();
    assert_eq!(code(&error), SqlState::IN_FAILED_SQL_TRANSACTION);
    savepoint.rollback().await.unwrap();
    transaction.execute(&insert, &[&2, &"two"]).await.unwrap();
    transaction.commit().await.unwrap();
    let transaction = client.transaction().await.unwrap();
    transaction.execute(&insert, &[&3, &"three"]).await.unwrap();
    transaction.rollback().await.unwrap();
    assert_eq!(client.value("select string_agg(s, ',' order by n) from t").await.unwrap(), "one,two");

    let sink = client.copy_in("copy t from stdin").await.unwrap();
    let mut sink = std::pin::pin!(sink);
    for n in 10..1000 {
        sink.send(bytes::Bytes::from(format!("{n}\trow {n}\n"))).await.unwrap();
    }
    assert_eq!(sink.finish().await.unwrap(), 990);
    let out: Vec<_> =
        client.copy_out("copy (select n from t order by n) to stdout").await.unwrap().try_collect().await.unwrap();
    assert_eq!(out.len(), 992);
    assert_eq!(out.last().unwrap().as_ref(), b"999\n");

    client.batch_execute("do $$ begin raise notice 'hear me'; end $$").await.unwrap();
    match client.message().await {
        Some(AsyncMessage::Notice(notice)) => assert_eq!(notice.message(), "hear me"),
        other => panic!("{other:?}"),
    }

    // A row-wise portal within a transaction.
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("select n from t order by n", &[]).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 100).await.unwrap();
        if rows.is_empty() {
            break;
        }
        seen.extend(rows.iter().map(|row| row.get::<_, i32>(0)));
    }
    assert_eq!(seen.len(), 992);
    transaction.commit().await.unwrap();
}

#[tokio::test]
async fn requests_in_a_pipeline_are_answered_in_order() {
    let stage = Setup::replicas(1).with("pool", "size", "1").start().await.unwrap();
    let client = stage.connect().await;
    client.batch_execute("create table t (n int)").await.unwrap();
    let echo = client.prepare("select $1::int + 1").await.unwrap();
    let write = client.prepare("insert into t values ($1) returning n").await.unwrap();
    let wrong = client.prepare("select 1 / ($1::int - 500)").await.unwrap();
    let answers = join_all((0..1000_i32).map(|n| {
        let (client, echo, write, wrong) = (&client, &echo, &write, &wrong);
        async move {
            let statement = [echo, write, wrong][n as usize % 3];
            let row = client.query_one(statement, &[&n]).await;
            (n, row.map(|row| row.get::<_, i32>(0)))
        }
    }))
    .await;
    for (n, answer) in answers {
        match (n % 3, answer) {
            (0, answer) => assert_eq!(answer.unwrap(), n + 1),
            (1, answer) => assert_eq!(answer.unwrap(), n),
            (_, Err(error)) => assert_eq!((n, code(&error)), (500, SqlState::DIVISION_BY_ZERO)),
            (_, Ok(quotient)) => assert_eq!(quotient, 1 / (n - 500)),
        }
    }
    assert_eq!(client.value("select count(*) from t").await.unwrap(), "333");
}

#[tokio::test]
async fn statements_of_one_name_are_each_clients_own() {
    let trust = Setup::replicas(1).with("auth", "method", "\"trust\"");
    let stage = trust.with("pool", "size", "1").with("pool", "prepared_statements_max", "2").start().await.unwrap();
    let mut one = Raw::log_in(&stage.proxy, "postgres").await;
    let mut two = Raw::log_in(&stage.proxy, "postgres").await;
    assert_eq!(tags(&one.prepare("s", "select 'one'").await), "1Z");
    assert_eq!(tags(&two.prepare("s", "select 'two'").await), "1Z");
    for _ in 0..3 {
        assert_eq!(value(&one.execute("s").await).as_deref(), Some("one"));
        assert_eq!(value(&two.execute("s").await).as_deref(), Some("two"));
    }

    // More of them than a server keeps.
    for n in 0..6 {
        assert_eq!(tags(&one.prepare(&format!("many{n}"), &format!("select 'many {n}'")).await), "1Z");
    }
    for n in (0..6).chain([3, 0, 5]) {
        assert_eq!(value(&one.execute(&format!("many{n}")).await), Some(format!("many {n}")));
    }
    assert_eq!(value(&two.execute("s").await).as_deref(), Some("two"));

    // A name is taken until it is closed; another client's is not there.
    assert_eq!(sqlstate(&one.prepare("s", "select 'other'").await).as_deref(), Some("42P05"));
    assert_eq!(value(&one.execute("s").await).as_deref(), Some("one"));
    assert_eq!(sqlstate(&two.execute("many1").await).as_deref(), Some("26000"));
    let mut close = Vec::new();
    wire::frontend::put_close_statement(&mut close, b"s");
    wire::frontend::put_sync(&mut close);
    one.say(&close).await;
    assert_eq!(tags(&one.until_ready().await), "3Z");
    assert_eq!(tags(&one.prepare("s", "select 'new'").await), "1Z");
    assert_eq!(value(&one.execute("s").await).as_deref(), Some("new"));
    assert_eq!(value(&two.execute("s").await).as_deref(), Some("two"));

    // One that fails to be prepared does not exist, neither here nor there.
    assert_eq!(sqlstate(&one.prepare("bad", "select nothing_like_it").await).as_deref(), Some("42703"));
    assert_eq!(sqlstate(&one.execute("bad").await).as_deref(), Some("26000"));
    assert_eq!(tags(&one.prepare("bad", "select 'good'").await), "1Z");

    // What follows an error up to Sync is skipped, also what would have been prepared.
    let mut out = Vec::new();
    wire::frontend::put_parse(&mut out, b"", b"select 1/0", &[0, 0]);
    put_execute(&mut out, "");
    wire::frontend::put_parse(&mut out, b"late", b"select 'late'", &[0, 0]);
    wire::frontend::put_sync(&mut out);
    one.say(&out).await;
    let answer = one.until_ready().await;
    assert_eq!(sqlstate(&answer).as_deref(), Some("22012"), "{}", tags(&answer));
    assert_eq!(sqlstate(&one.execute("late").await).as_deref(), Some("26000"));

    assert_eq!(tags(&two.query("deallocate all").await), "CZ");
    assert_eq!(sqlstate(&two.execute("s").await).as_deref(), Some("26000"));
    assert_eq!(value(&one.execute("s").await).as_deref(), Some("new"));
}

#[tokio::test]
async fn a_cancel_hits_what_it_was_meant_for() {
    let stage = Setup::replicas(0).with("pool", "size", "1").start().await.unwrap();
    let (sleeper, other) = (stage.connect().await, stage.connect().await);
    let token = sleeper.cancel_token();
    let sleeping = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
    for round in 0..3 {
        let cancel = async {
            until("the server to sleep", async || stage.direct(0, sleeping).await == "1").await.unwrap();
            token.cancel_query(NoTls).await.unwrap();
        };
        let (failure, ()) = tokio::join!(sleeper.failure("select pg_sleep(600)"), cancel);
        assert_eq!(failure, Some(SqlState::QUERY_CANCELED), "round {round}");
    }
    // The sleeper is idle, and the one server works for somebody else: a cancel has nothing to hit.
    let cancels = async {
        for _ in 0..50 {
            token.cancel_query(NoTls).await.unwrap();
        }
    };
    let queries = async {
        for _ in 0..300 {
            assert_eq!(other.failure("select count(*) from generate_series(1, 1000)").await, None);
        }
    };
    tokio::join!(cancels, queries);
    // Cancels that come late, between short statements of both.
    let cancels = async {
        for _ in 0..100 {
            token.cancel_query(NoTls).await.unwrap();
        }
    };
    let own = async {
        for _ in 0..100 {
            let failure = sleeper.failure("select count(*) from generate_series(1, 20000)").await;
            assert!(matches!(failure, None | Some(SqlState::QUERY_CANCELED)), "{failure:?}");
        }
    };
    let others = async {
        for _ in 0..100 {
            assert_eq!(other.failure("select count(*) from generate_series(1, 20000)").await, None);
        }
    };
    tokio::join!(cancels, own, others);
}
