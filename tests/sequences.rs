//! `currval` and `lastval` over shared connections: one's own, or an error, and never another's.

use crate::harness::{Setup, Stage};
use crate::raw::{Raw, put_execute, sqlstate, tags, value};

async fn stage(size: &str) -> Stage {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", size);
    let stage = setup.start().await.unwrap();
    stage.psql("create sequence s; create sequence u; create table t (id serial, parent int)").await;
    stage
}

/// A statement in one way or the other; the value or the SQLSTATE.
async fn ask(raw: &mut Raw, sql: &str, extended: bool) -> String {
    let answer = if extended {
        let mut out = Vec::new();
        wire::frontend::put_parse(&mut out, b"", sql.as_bytes(), &[0, 0]);
        put_execute(&mut out, "");
        wire::frontend::put_sync(&mut out);
        raw.say(&out).await;
        raw.until_ready().await
    } else {
        raw.query(sql).await
    };
    sqlstate(&answer).or_else(|| value(&answer)).unwrap_or_else(|| tags(&answer))
}

#[tokio::test]
async fn never_another_sessions_value() {
    for extended in [false, true] {
        let stage = stage("1").await;
        let log_in = async || Raw::log_in(&stage.proxy, "postgres").await;
        for question in
            ["select currval('s')", "select lastval()", "insert into t (parent) values (currval('s')) returning parent"]
        {
            let (mut one, mut two) = (log_in().await, log_in().await);
            ask(&mut one, "select setval('s', 10)", extended).await;
            assert_eq!(ask(&mut one, "select nextval('s')", extended).await, "11");
            assert_eq!(ask(&mut two, question, extended).await, "55000", "{question}");
            assert_eq!(ask(&mut two, "select nextval('s')", extended).await, "12");
            // The other's is in the way of one's own.
            assert_eq!(ask(&mut one, question, extended).await, "55000", "{question}");
            assert_eq!(ask(&mut one, "select nextval('s')", extended).await, "13");
            // Only the one connection, and nobody else has been there.
            assert_eq!(ask(&mut one, question, extended).await, "13", "{question}");
            assert_eq!(ask(&mut one, question, extended).await, "13", "{question}");
            drop(one);
            // Its pin has ended with it, and what it has drawn is gone.
            assert_eq!(ask(&mut two, question, extended).await, "55000", "{question}");
        }
    }
}

#[tokio::test]
async fn ones_own_value_within_a_transaction_or_a_string() {
    let stage = stage("2").await;
    let log_in = async || Raw::log_in(&stage.proxy, "postgres").await;
    let (mut one, mut two) = (log_in().await, log_in().await);
    // Values of one's own on several connections, and of others on all of them.
    for _ in 0..3 {
        two.query("begin").await;
        assert_eq!(tags(&two.query("select nextval('s')").await), "TDCZ");
        one.query("select nextval('u')").await;
        two.query("commit").await;
        one.query("begin").await;
        one.query("select nextval('u')").await;
        two.query("select nextval('s')").await;
        one.query("commit").await;
    }
    for extended in [false, true] {
        one.query("begin").await;
        let drawn = ask(&mut one, "insert into t default values returning id", extended).await;
        assert_eq!(ask(&mut one, "select currval('t_id_seq')", extended).await, drawn);
        assert_eq!(ask(&mut one, "select lastval()", extended).await, drawn);
        one.query("commit").await;
        one.query("discard all").await;
    }
    let both = one.query("insert into t default values; select lastval() = max(id) from t").await;
    assert_eq!(value(&both).as_deref(), Some("t"));
    one.query("discard all").await;
    // A transaction that begins with the question.
    two.query("select nextval('s')").await;
    one.query("begin").await;
    assert_eq!(ask(&mut one, "select lastval()", false).await, "55000");
    one.query("rollback").await;
}
