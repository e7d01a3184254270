//! Transactions whose server is lost, with `transaction_replay` on: they go on at another, and their clients notice nothing.

use futures_util::{SinkExt, TryStreamExt};
use tokio_postgres::error::SqlState;

use crate::harness::{Client, Setup, Stage, code, until};

fn setup(replicas: usize) -> Setup {
    let mut setup = Setup::replicas(replicas).with("routing", "transaction_replay", "true").with(
        "proxy",
        "transaction_retain_max",
        "\"64kB\"",
    );
    setup.cluster.synchronous = false;
    setup
}

async fn start(setup: Setup) -> Stage {
    let stage = setup.start().await.unwrap();
    stage.ready().await.unwrap();
    stage.direct(0, "create table kept (n int primary key, s text)").await;
    stage
}

async fn outcomes(stage: &Stage) -> [f64; 3] {
    let mut outcomes = [0.0; 3];
    for (outcome, name) in outcomes.iter_mut().zip(["completed", "diverged", "given_up"]) {
        *outcome = stage.proxy.metric("hakem_transaction_replays_total", &[("outcome", name)]).await;
    }
    outcomes
}

/// Does this while a COMMIT sleeps in its trigger, and ends its server.
async fn cut_in_commit(stage: &Stage, meanwhile: &str) {
    let asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep' and query ilike 'commit%'";
    until("it to commit", async || stage.direct(0, asleep).await == "1").await.unwrap();
    stage.direct(0, meanwhile).await;
    end_transactions(stage).await;
}

/// Ends the servers that are in a transaction, and waits for that: a COMMIT that overtook the signal would be lost with its server.
async fn end_transactions(stage: &Stage) {
    let ended = "select count(*) filter (where pg_terminate_backend(pid, 60000)) from pg_stat_activity
        where backend_type = 'client backend' and xact_start is not null and pid <> pg_backend_pid()";
    assert_ne!(stage.direct(0, ended).await, "0");
}

/// A transaction of several kinds of statements, and what it has left to do.
struct Halfway {
    client: Client,
    n: i32,
    insert: tokio_postgres::Statement,
}

impl Halfway {
    async fn begin(stage: &Stage, n: i32) -> Halfway {
        let client = stage.connect().await;
        client.batch_execute("set search_path to public, pg_catalog; set work_mem = '7MB'").await.unwrap();
        let insert = client.prepare("insert into kept values ($1, $2) returning s").await.unwrap();
        client.batch_execute("begin isolation level repeatable read").await.unwrap();
        client.execute(&insert, &[&n, &"first"]).await.unwrap();
        client.batch_execute("set local timezone to 'Asia/Tehran'; savepoint a").await.unwrap();
        assert_eq!(client.failure(&format!("insert into kept values ({n})")).await, Some(SqlState::UNIQUE_VIOLATION));
        client
            .batch_execute("rollback to a; declare c cursor for select g from generate_series(1, 5) g")
            .await
            .unwrap();
        assert_eq!(client.value("fetch 2 from c").await.unwrap(), "1");
        client.batch_execute("do $$ begin raise notice 'of no interest'; end $$").await.unwrap();
        // A value that fits no buffer, and more rows than fit any.
        let row = client.query_one("select repeat('x', 300000), s from kept where n = $1", &[&n]).await.unwrap();
        assert_eq!((row.get::<_, &str>(0).len(), row.get::<_, &str>(1)), (300_000, "first"));
        assert_eq!(client.query("select * from generate_series(1, 20000)", &[]).await.unwrap().len(), 20_000);
        Halfway { client, n, insert }
    }

    async fn end(self) {
        let Halfway { client, n, insert } = self;
        assert_eq!(client.value("fetch 1 from c").await.unwrap(), "3");
        let told = client.query_one(&insert, &[&(n + 1), &"second"]).await.unwrap();
        assert_eq!(told.get::<_, &str>(0), "second");
        for (setting, value) in [("timezone", "Asia/Tehran"), ("work_mem", "7MB")] {
            assert_eq!(client.value(&format!("show {setting}")).await.unwrap(), value);
        }
        client.batch_execute("commit").await.unwrap();
        assert_eq!(client.value("show timezone").await.unwrap(), "GMT");
        let written = client.query_one("select count(*) from kept where n in ($1, $2)", &[&n, &(n + 1)]).await.unwrap();
        assert_eq!(written.get::<_, i64>(0), 2);
        client.execute(&insert, &[&(n + 2), &"third"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_failover_in_a_transaction_goes_unnoticed() {
    let mut stage = start(setup(1)).await;
    let (one, other) = (Halfway::begin(&stage, 10).await, Halfway::begin(&stage, 20).await);
    // What is not committed is not sent to the replica before something is.
    stage.direct(0, "create table flushed ()").await;
    stage.cluster.caught_up().await.unwrap();
    stage.cluster.kill(0).await.unwrap();
    let new = stage.cluster.promote_best().await.unwrap();
    tokio::join!(one.end(), other.end());
    let written = "select string_agg(n::text, ' ' order by n) from kept";
    assert_eq!(stage.direct(new, written).await, "10 11 12 20 21 22");
    assert_eq!(outcomes(&stage).await, [2.0, 0.0, 0.0]);
}

#[tokio::test]
async fn a_transaction_is_run_again_on_the_same_primary() {
    let stage = start(setup(0)).await;
    // Between two statements, and again.
    let transaction = Halfway::begin(&stage, 10).await;
    for count in [1.0, 2.0] {
        end_transactions(&stage).await;
        until("it to be run again", async || outcomes(&stage).await[0] == count).await.unwrap();
    }
    transaction.end().await;

    // In the middle of one.
    let client = stage.connect().await;
    client
        .batch_execute(
            "create table gate (n int);
            create function wait() returns int language plpgsql as $$ begin
                if not exists (select from gate) then perform pg_sleep(600); end if; return 1; end $$",
        )
        .await
        .unwrap();
    let open = async || {
        let asleep = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'";
        until("it to wait", async || stage.direct(0, asleep).await == "1").await.unwrap();
        stage.direct(0, "insert into gate values (1)").await;
        end_transactions(&stage).await;
    };
    for extended in [false, true] {
        client.batch_execute("delete from gate").await.unwrap();
        client.batch_execute("begin; insert into kept values (40)").await.unwrap();
        let waits = async {
            if extended {
                client.query_one("select wait()", &[]).await.unwrap().get::<_, i32>(0).to_string()
            } else {
                client.value("select wait()").await.unwrap()
            }
        };
        assert_eq!(tokio::join!(waits, open()).0, "1");
        client.batch_execute("rollback").await.unwrap();
    }
    assert_eq!(outcomes(&stage).await, [4.0, 0.0, 0.0]);

    // With others behind it, of which nobody has waited for an answer.
    client.batch_execute("delete from gate").await.unwrap();
    client.batch_execute("begin; insert into kept values (41)").await.unwrap();
    let statements = ["insert into kept values (42)", "select wait()", "insert into kept values (43)"];
    let [first, second, third] = statements.map(|sql| client.query(sql, &[]));
    let (first, second, third, ()) = tokio::join!(first, second, third, open());
    assert!(first.is_ok() && second.is_ok() && third.is_ok());
    client.batch_execute("commit").await.unwrap();
    assert_eq!(client.value("select count(*) from kept where n > 40").await.unwrap(), "3");
}

#[tokio::test]
async fn what_cannot_be_run_again_is_told() {
    let stage = start(setup(0)).await;
    let client = stage.connect().await;
    let lost = async |client: &Client, outcome: [f64; 3]| {
        end_transactions(&stage).await;
        assert_eq!(client.failure("select 1").await, Some(SqlState::T_R_SERIALIZATION_FAILURE));
        assert_eq!(client.failure("select 1").await, Some(SqlState::IN_FAILED_SQL_TRANSACTION));
        client.batch_execute("rollback").await.unwrap();
        assert_eq!(client.value("select 1").await.unwrap(), "1");
        assert_eq!(outcomes(&stage).await, outcome);
    };
    // It has read what is otherwise now.
    client.batch_execute("begin; insert into kept values (1)").await.unwrap();
    client.value("select count(*) from kept").await.unwrap();
    stage.direct(0, "insert into kept values (2)").await;
    lost(&client, [0.0, 1.0, 0.0]).await;
    // What it writes is there by now.
    client.batch_execute("begin; insert into kept values (3)").await.unwrap();
    // Another waits for it.
    let other = stage.connect().await;
    let (written, ()) = tokio::join!(other.batch_execute("insert into kept values (3)"), async {
        let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
        until("the other to wait", async || stage.direct(0, waits).await == "1").await.unwrap();
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where state = 'idle in transaction'";
        assert_eq!(stage.direct(0, ended).await, "1");
    });
    written.unwrap();
    assert_eq!(client.failure("select 1").await, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(outcomes(&stage).await, [0.0, 2.0, 0.0]);
    // What came by COPY is gone; and what is larger than allowed was not kept.
    client.batch_execute("begin").await.unwrap();
    let mut sink = std::pin::pin!(client.copy_in("copy kept (n) from stdin").await.unwrap());
    sink.send(bytes::Bytes::from_static(b"4\n")).await.unwrap();
    assert_eq!(sink.finish().await.unwrap(), 1);
    lost(&client, [0.0, 2.0, 0.0]).await;
    client.batch_execute("begin").await.unwrap();
    client.query_one("select length($1)", &[&"x".repeat(70_000)]).await.unwrap();
    lost(&client, [0.0, 2.0, 0.0]).await;
    // What a COPY to the client has told can be compared.
    client.batch_execute("begin; insert into kept values (5)").await.unwrap();
    let rows = client.copy_out("copy kept (n) to stdout").await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(rows.concat(), b"2\n3\n5\n");
    end_transactions(&stage).await;
    client.batch_execute("commit").await.unwrap();
    assert_eq!(outcomes(&stage).await, [1.0, 2.0, 0.0]);
    // Whoever does not want it is not given it, and the other way round.
    client.batch_execute("set hakem.transaction_replay = off").await.unwrap();
    client.batch_execute("begin; insert into kept values (6)").await.unwrap();
    lost(&client, [1.0, 2.0, 0.0]).await;
    assert_eq!(client.value("show hakem.transaction_replay").await.unwrap(), "off");
    // A transaction that sat idle for too long is meant to end.
    client.batch_execute("reset hakem.transaction_replay").await.unwrap();
    client
        .batch_execute("begin; set local idle_in_transaction_session_timeout = '10ms'; insert into kept values (7)")
        .await
        .unwrap();
    let idle = "select count(*) from pg_stat_activity where state = 'idle in transaction'";
    until("it to be ended", async || stage.direct(0, idle).await == "0").await.unwrap();
    assert_eq!(client.failure("select 1").await, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    client.batch_execute("rollback").await.unwrap();
    assert_eq!(outcomes(&stage).await, [1.0, 2.0, 0.0]);
}

/// With `commit_resolution`, too, no COMMIT fails for a server that is lost: what has not taken effect is run again.
#[tokio::test]
async fn a_commit_that_was_cut_off_is_done() {
    let stage = start(setup(0).with("routing", "commit_resolution", "true")).await;
    let client = stage.connect().await;
    client
        .batch_execute(
            "create table gate (n int);
            create function wait() returns trigger language plpgsql as $$ begin
                if not exists (select from gate) then perform pg_sleep(600); end if; return null; end $$;
            create constraint trigger waits after insert on kept deferrable initially deferred
                for each row execute function wait();",
        )
        .await
        .unwrap();
    client.batch_execute("begin").await.unwrap();
    client.execute("insert into kept values ($1)", &[&1]).await.unwrap();
    let (told, ()) = tokio::join!(client.batch_execute("commit"), cut_in_commit(&stage, "insert into gate values (1)"));
    told.map_err(|error| code(&error)).unwrap();
    assert_eq!(client.value("select count(*) from kept").await.unwrap(), "1");
    assert_eq!(outcomes(&stage).await, [1.0, 0.0, 0.0]);
    // The COMMIT is not sent before all that was read has been read again.
    client.batch_execute("delete from gate").await.unwrap();
    client.batch_execute("begin; insert into kept values (3)").await.unwrap();
    client.value("select count(*) from kept").await.unwrap();
    let (told, ()) = tokio::join!(
        client.failure("commit"),
        cut_in_commit(&stage, "insert into gate values (1); insert into kept values (4)")
    );
    assert_eq!(told, Some(SqlState::T_R_SERIALIZATION_FAILURE));
    assert_eq!(client.value("select count(*) from kept where n = 3").await.unwrap(), "0");
    assert_eq!(outcomes(&stage).await, [1.0, 1.0, 0.0]);
    client.batch_execute("delete from kept where n = 4").await.unwrap();
    // What is asked of a transaction that was run again is asked of the new one.
    client.batch_execute("begin; insert into kept values (2)").await.unwrap();
    end_transactions(&stage).await;
    client.batch_execute("commit").await.unwrap();
    assert_eq!(client.value("select count(*) from kept").await.unwrap(), "2");
}
