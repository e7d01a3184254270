//! Read-only transactions, on a replica and on a primary: whatever a script does, both say the same.

use tokio_postgres::SimpleQueryMessage;

use crate::harness::{Client, Setup, Stage, code};

async fn stage(replicas: usize) -> Stage {
    let stage = Setup::replicas(replicas).start().await.unwrap();
    let schema = "create table t (n int); insert into t values (1), (2); create sequence s; select nextval('s');
        create function doubles(n int) returns int language sql volatile as 'select 2 * n';
        create procedure nothing() language sql as 'select 1'";
    stage.psql(schema).await;
    stage.cluster.caught_up().await.unwrap();
    stage.ready().await.unwrap();
    stage
}

/// What a client is told: rows and commands, or the SQLSTATE.
async fn told(client: &Client, sql: &str) -> String {
    match client.simple_query(sql).await {
        Err(error) => code(&error).code().to_owned(),
        Ok(messages) => {
            let shown = messages.iter().filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
                SimpleQueryMessage::CommandComplete(_) => Some("done".to_owned()),
                _ => None,
            });
            shown.collect::<Vec<_>>().join(" ")
        }
    }
}

async fn to(stage: &Stage, place: &str) -> f64 {
    stage.proxy.metric("hakem_statements_total", &[("to", place)]).await
}

/// Scripts whose first read may go to a replica.
const SCRIPTS: &[&[&str]] = &[
    &["begin read only", "select count(*) from t", "select n from t order by n", "commit"],
    &["begin read only", "select count(*) from t", "insert into t values (3)", "select 1", "rollback"],
    &["begin read only", "select count(*) from t", "select nextval('s')", "rollback"],
    &["begin read only", "select count(*) from t", "select doubles(21)", "select count(*) from t", "commit"],
    &[
        "begin read only",
        "select count(*) from t",
        "select pg_is_in_recovery()",
        "show transaction_read_only",
        "commit",
    ],
    &["begin read only", "select count(*) from t", "select pg_notify('a', 'b')", "commit"],
    &["begin read only", "select count(*) from t", "notify a", "commit"],
    &[
        "begin read only",
        "select count(*) from t",
        "select pg_try_advisory_lock(7)",
        "commit",
        "select pg_advisory_unlock(7)",
    ],
    &["begin read only", "select count(*) from t", "select pg_try_advisory_xact_lock(7)", "commit"],
    &["begin read only", "select count(*) from t", "select txid_current() > 0", "commit"],
    &["begin read only", "select count(*) from t", "select pg_export_snapshot() is null", "commit"],
    &["begin read only", "select count(*) from t", "lock table t in share mode", "commit"],
    &["begin read only", "select count(*) from t", "call nothing()", "commit"],
    &["begin read only", "select count(*) from t", "create table u (n int)", "rollback"],
    &["begin read only", "select count(*) from t", "select * from t for update", "rollback"],
    &["begin read only", "savepoint a", "select 1/0", "rollback to a", "select count(*) from t", "release a", "commit"],
    &[
        "begin read only",
        "select 1",
        "savepoint a",
        "select nowhere",
        "rollback to a",
        "select count(*) from t",
        "commit",
    ],
    &["begin read only", "declare c cursor for select n from t order by n", "fetch c", "fetch c", "close c", "commit"],
    &[
        "begin read only",
        "set local work_mem to 64",
        "show work_mem",
        "select count(*) from t",
        "commit",
        "show work_mem",
    ],
    &["begin read only", "show work_mem", "set transaction read write", "insert into t values (9)", "rollback"],
    &["begin", "set transaction read only", "select count(*) from t", "insert into t values (3)", "rollback"],
    &["begin", "set transaction isolation level repeatable read, read only", "show transaction_isolation", "commit"],
    &["begin read only", "set local transaction_read_only = off", "insert into t values (9)", "rollback"],
    &["begin read only", "set transaction read write", "insert into t values (9)", "rollback"],
    &["begin isolation level serializable, read only, deferrable", "select count(*) from t", "commit"],
    &["begin read only", "set transaction isolation level serializable", "select count(*) from t", "commit"],
    &["begin isolation level repeatable read read only", "select count(*) from t", "select doubles(4)", "commit"],
    &["begin isolation level repeatable read read only", "select count(*) from t", "select nextval('s')", "rollback"],
    &["begin read only", "select 1", "commit and chain", "show transaction_read_only", "select doubles(5)", "commit"],
    &[
        "begin read only",
        "select 1",
        "rollback and chain",
        "insert into t values (5)",
        "commit and chain",
        "select 1",
        "rollback",
    ],
    &[
        "begin isolation level repeatable read, read only",
        "commit and chain",
        "select count(*) from t",
        "show transaction_isolation",
        "commit",
    ],
    &[
        "set default_transaction_read_only = on",
        "begin",
        "select count(*) from t",
        "insert into t values (1)",
        "rollback",
        "insert into t values (1)",
        "select 1",
        "reset default_transaction_read_only",
    ],
    &[
        "set session characteristics as transaction read only",
        "begin",
        "select doubles(3)",
        "commit",
        "begin read write",
        "insert into t values (9)",
        "rollback",
        "reset default_transaction_read_only",
    ],
    &[
        "set default_transaction_isolation = 'serializable'",
        "select count(*) from t",
        "begin read only",
        "select count(*) from t",
        "show transaction_isolation",
        "commit",
        "reset all",
    ],
];

#[tokio::test]
async fn a_read_only_transaction_is_the_same_on_a_replica() {
    let (split, alone) = (stage(1).await, stage(0).await);
    let served = to(&split, "replica").await;
    let (through, direct) = (split.connect().await, alone.connect().await);
    // None of it writes anything that a later read would have to wait for.
    through.batch_execute("set hakem.consistency = 'bounded'").await.unwrap();
    for script in SCRIPTS {
        for sql in *script {
            let answers = (told(&through, sql).await, told(&direct, sql).await);
            assert_eq!(answers.0, answers.1, "{sql} in {script:?}");
        }
    }
    assert!(to(&split, "replica").await - served > SCRIPTS.len() as f64 / 2.0, "they go to a replica at all");
    // By the extended protocol, with statements that stay prepared.
    let statements = ["select count(*) from t", "select doubles(8)", "select pg_try_advisory_xact_lock(8)"];
    let mut prepared = Vec::new();
    for sql in statements {
        prepared.push((through.prepare(sql).await.unwrap(), direct.prepare(sql).await.unwrap()));
    }
    for (first, second) in [(0, 1), (0, 2), (1, 0)] {
        for client in [&through, &direct] {
            client.batch_execute("begin read only").await.unwrap();
        }
        for at in [first, second, first] {
            let rows =
                (through.query(&prepared[at].0, &[]).await.unwrap(), direct.query(&prepared[at].1, &[]).await.unwrap());
            assert_eq!(rows.0.len(), rows.1.len());
        }
        for client in [&through, &direct] {
            client.batch_execute("commit").await.unwrap();
        }
    }
}

#[tokio::test]
async fn one_snapshot_cannot_move() {
    // Whoever does not say which level it is may have one of PostgreSQL's own defaults.
    let setup = Setup::replicas(1).server("default_transaction_isolation", "repeatable read");
    let stage = setup.start().await.unwrap();
    for begin in ["begin read only", "begin isolation level repeatable read read only"] {
        let client = stage.connect().await;
        let served = to(&stage, "replica").await;
        assert_eq!(told(&client, begin).await, "done");
        assert_eq!(told(&client, "select 1").await, "1 done");
        assert_eq!(to(&stage, "replica").await, served + 1.0);
        assert_eq!(told(&client, "select pg_advisory_lock(1)").await, "40001", "a replica's lock locks nobody out");
        assert_eq!(told(&client, "select 1").await, "25P02");
        assert_eq!(told(&client, "rollback").await, "done");
        // As it is told to, it tries again.
        assert_eq!(told(&client, begin).await, "done");
        assert_eq!(told(&client, "select 1").await, "1 done");
        assert_eq!(told(&client, "select pg_advisory_lock(1)").await, " done");
        assert_eq!(told(&client, "select pg_advisory_unlock(1)").await, "t done");
        assert_eq!(told(&client, "commit").await, "done");
    }
}
