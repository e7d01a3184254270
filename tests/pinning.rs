//! What ties a session to its server: taken, held, ended, counted, and gone from the server that the next client gets.

use crate::harness::{Setup, Stage, until};
use crate::raw::{Raw, put_execute, sqlstate, value};

async fn stage(size: &str) -> Stage {
    let setup = Setup::replicas(1).with("auth", "method", "\"trust\"").with("pool", "size", size);
    setup.start().await.unwrap()
}

async fn pins(stage: &Stage, reason: &str) -> (f64, f64) {
    let labels = [("reason", reason)];
    (stage.proxy.metric("hakem_pins_total", &labels).await, stage.proxy.metric("hakem_pins", &labels).await)
}

#[tokio::test]
async fn each_pin_has_an_end() {
    type Requests = &'static [&'static str];
    let stage = stage("1").await;
    let mut taken = std::collections::HashMap::<&str, f64>::new();
    // Reason, what takes it, what does not end it, what does. Each line is a request.
    let cases: &[(&str, Requests, Requests, Requests)] = &[
        ("advisory_lock", &["select pg_advisory_lock(1)"], &["select 1"], &["select pg_advisory_unlock(1)"]),
        (
            "advisory_lock",
            &["select pg_advisory_lock(1), pg_advisory_lock(1), pg_advisory_lock_shared(2)"],
            &["select pg_advisory_unlock(1)", "select pg_advisory_unlock_shared(2)"],
            &["select pg_advisory_unlock(1)"],
        ),
        ("advisory_lock", &["select pg_advisory_lock(1)"], &[], &["select pg_advisory_unlock_all()"]),
        (
            "advisory_lock",
            &["begin", "select pg_advisory_lock(1)", "rollback"],
            &["begin", "rollback"],
            &["discard all"],
        ),
        ("advisory_lock", &["select pg_advisory_lock(1)"], &["begin", "select pg_advisory_unlock(1)"], &["commit"]),
        ("temp_table", &["create temp table t (n int)"], &["insert into t values (1)"], &["drop table t"]),
        (
            "temp_table",
            &["create temp table t (n int)", "create temp table u (n int)"],
            &["drop table t"],
            &["discard temp"],
        ),
        ("temp_table", &["create temp table t (n int)"], &["reset all"], &["discard all"]),
        ("temp_table", &["begin", "create temp table t (n int) on commit drop"], &["select * from t"], &["commit"]),
        ("temp_table", &["begin", "create temp table t (n int)"], &[], &["rollback"]),
        (
            "temp_table",
            &["create function pg_temp.f() returns int language sql as 'select 1'"],
            &["select pg_temp.f()"],
            &["drop function pg_temp.f()"],
        ),
        ("temp_table", &["create collation pg_temp.c from \"C\""], &["select 1"], &["drop collation pg_temp.c"]),
        (
            "hold_cursor",
            &["begin", "declare c cursor with hold for select 1 union all select 2", "commit"],
            &["fetch c"],
            &["close c"],
        ),
        ("hold_cursor", &["begin", "declare c cursor with hold for select 1", "commit"], &[], &["close all"]),
        ("hold_cursor", &["begin", "declare c cursor with hold for select 1"], &[], &["rollback"]),
        ("other", &["select setseed(0.5)"], &["select random()"], &["discard all"]),
        (
            "other",
            &["set search_path = pg_temp, public", "create table hidden (n int)"],
            &["insert into hidden values (1)", "reset search_path"],
            &["discard all"],
        ),
        (
            "temp_table",
            &["begin", "select set_config('search_path', 'pg_temp', true)", "create table hidden (n int)", "commit"],
            &["insert into hidden values (1)"],
            &["drop table hidden"],
        ),
    ];
    for extended in [false, true] {
        for (reason, take, keep, end) in cases {
            let mut one = Raw::log_in(&stage.proxy, "postgres").await;
            for sql in *take {
                run(&mut one, sql, extended).await;
            }
            *taken.entry(reason).or_default() += 1.0;
            for sql in *keep {
                run(&mut one, sql, extended).await;
            }
            assert_eq!(pins(&stage, reason).await, (taken[reason], 1.0), "{take:?} {keep:?}");
            for sql in *end {
                run(&mut one, sql, extended).await;
            }
            let what = format!("{take:?} {keep:?} {end:?} to end a pin");
            until(&what, async || pins(&stage, reason).await == (taken[reason], 0.0)).await.unwrap();
            // The only connection is free, and clean.
            let mut two = Raw::log_in(&stage.proxy, "postgres").await;
            let left = "select (select count(*) from pg_locks where locktype = 'advisory') + (select count(*) from pg_class \
                where relpersistence = 't') + (select count(*) from pg_cursors where is_holdable)";
            assert_eq!(value(&two.query(left).await).as_deref(), Some("0"), "{take:?} {keep:?} {end:?}");
            assert_eq!(value(&one.query("select 1").await).as_deref(), Some("1"));
        }
    }
}

async fn run(raw: &mut Raw, sql: &str, extended: bool) {
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
    assert_eq!(sqlstate(&answer), None, "{sql}");
}

#[tokio::test]
async fn a_lock_that_was_not_to_be_had_pins_nobody() {
    let stage = stage("2").await;
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    assert_eq!(value(&one.query("select pg_try_advisory_lock(1)").await).as_deref(), Some("t"));
    assert_eq!(value(&two.query("select pg_try_advisory_lock(1)").await).as_deref(), Some("f"));
    until("the pin to end", async || pins(&stage, "advisory_lock").await == (2.0, 1.0)).await.unwrap();
}

#[tokio::test]
async fn a_pinned_client_that_dies_leaves_nothing() {
    let stage = stage("1").await;
    for sql in ["select pg_advisory_lock(1)", "create temp table t (n int)", "begin", "set role pg_monitor"] {
        let client = stage.connect().await;
        client.batch_execute(sql).await.unwrap();
        if sql == "begin" {
            client.batch_execute("create table undone (n int)").await.unwrap();
        }
        client.vanish().await;
        let next = stage.connect().await;
        let left = "select (select count(*) from pg_locks where locktype = 'advisory') + (select count(*) from pg_class \
            where relpersistence = 't' or relname = 'undone')";
        assert_eq!(next.value(left).await.unwrap(), "0", "{sql}");
        assert_eq!(next.value("select current_user").await.unwrap(), "postgres", "{sql}");
        for reason in ["advisory_lock", "temp_table"] {
            assert_eq!(pins(&stage, reason).await.1, 0.0, "{sql}");
        }
        next.close().await;
    }
}

#[tokio::test]
async fn discard_all_drops_everything_but_not_in_a_transaction() {
    let stage = stage("1").await;
    let one = stage.connect().await;
    one.batch_execute("begin").await.unwrap();
    one.batch_execute("select 1").await.unwrap();
    assert_eq!(one.failure("discard all").await.unwrap().code(), "25001");
    one.batch_execute("rollback").await.unwrap();
    one.batch_execute("set work_mem = '7MB'").await.unwrap();
    one.batch_execute("set role pg_monitor").await.unwrap();
    one.batch_execute("reset role").await.unwrap();
    one.batch_execute("create temp table t (n int)").await.unwrap();
    one.batch_execute("select pg_advisory_lock(1)").await.unwrap();
    one.batch_execute("set my.own = 'mine'").await.unwrap();
    one.batch_execute("discard all").await.unwrap();
    for (look, expected) in [
        ("show work_mem", "4MB"),
        ("select current_setting('my.own', true) = 'mine'", "f"),
        ("select count(*) from pg_locks where locktype = 'advisory'", "0"),
        ("select to_regclass('t') is null", "t"),
    ] {
        assert_eq!(one.value(look).await.unwrap(), expected, "{look}");
    }
    assert_eq!(stage.proxy.metric("hakem_pins", &[]).await, 0.0);
}

#[tokio::test]
async fn settings_that_do_not_stand_in_the_text_are_read_back() {
    let stage = stage("1").await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    one.query("select set_config('app.user', $1, false)", &[&"it's \\ \"me\""]).await.unwrap();
    one.batch_execute("select set_config(n, v, true), set_config('search_path', v, false) from (values ('app.x', 'a, \"B b\"')) as x (n, v)").await.unwrap();
    one.batch_execute("set session characteristics as transaction isolation level serializable, deferrable")
        .await
        .unwrap();
    for _ in 0..2 {
        assert_eq!(two.value("select coalesce(current_setting('app.user', true), '')").await.unwrap(), "");
        assert_eq!(two.value("show search_path").await.unwrap(), "\"$user\", public");
        assert_eq!(two.value("show default_transaction_isolation").await.unwrap(), "read committed");
        assert_eq!(one.value("select current_setting('app.user')").await.unwrap(), "it's \\ \"me\"");
        assert_eq!(one.value("show search_path").await.unwrap(), "a, \"B b\"");
        assert_eq!(one.value("show default_transaction_isolation").await.unwrap(), "serializable");
        assert_eq!(one.value("show default_transaction_deferrable").await.unwrap(), "on");
    }
    assert_eq!(stage.proxy.metric("hakem_pins_total", &[]).await, 0.0);
}

#[tokio::test]
async fn what_a_function_sets_meets_nobody_else() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let stage = setup.start().await.unwrap();
    stage.direct(0, "create procedure p() language plpgsql as $$ begin set work_mem = '9MB'; end $$").await;
    stage
        .direct(0, "create function f() returns text language sql as $$ select set_config('my.own', 'mine', false) $$")
        .await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    let loads = async || stage.proxy.metric("hakem_catalog_loads_total", &[]).await;
    stage.direct(0, "create table t (s text); create table fires (s text); create table parent (s text unique)").await;
    stage.direct(0, "create table child (s text references parent (s) on delete cascade)").await;
    stage
        .direct(
            0,
            "create function g() returns trigger language plpgsql as $$ begin set work_mem = '8MB'; return null; end $$;
             create trigger a after insert on fires for each row execute function g();
             create trigger a after delete on child for each row execute function g();
             insert into parent values ('x'); insert into child values ('x')",
        )
        .await;
    until("the catalog to be read", async || loads().await >= 1.0).await.unwrap();
    let known = loads().await;
    one.batch_execute("create table noticed (n int)").await.unwrap();
    until("the catalog to be read again", async || loads().await > known).await.unwrap();
    let unset = "select current_setting('work_mem') || coalesce(current_setting('my.own', true), '')";
    for sql in [
        "call p()",
        "select f()",
        "select 1; call p()",
        "select 1; select f()",
        "begin; call p(); commit",
        "insert into t select f()",
        "update t set s = f()",
        "delete from t where s = f()",
        "select 1 from t where s = f() for update",
        "create table u as select f()",
        "prepare q as select f()",
        "execute q",
        "insert into fires values ('a')",
        "with x as (insert into fires values ('b') returning s) select * from x",
        "delete from parent",
    ] {
        one.batch_execute(sql).await.unwrap();
        assert_eq!(two.value(unset).await.unwrap(), "4MB", "{sql}");
    }
    one.query("insert into t select f() where $1", &[&true]).await.unwrap();
    assert_eq!(two.value(unset).await.unwrap(), "4MB");
}

#[tokio::test]
async fn what_a_function_called_by_number_leaves() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let stage = setup.start().await.unwrap();
    let mut one = Raw::log_in(&stage.proxy, "postgres").await;
    let mut two = Raw::log_in(&stage.proxy, "postgres").await;
    let call = |function: u32, formats: &[u8], arguments: &[&[u8]]| {
        let mut body = function.to_be_bytes().to_vec();
        body.extend_from_slice(formats);
        body.extend_from_slice(&(arguments.len() as u16).to_be_bytes());
        for argument in arguments {
            body.extend_from_slice(&(argument.len() as u32).to_be_bytes());
            body.extend_from_slice(argument);
        }
        body.extend_from_slice(b"\0\0");
        [&b"F"[..], &(body.len() as u32 + 4).to_be_bytes(), &body].concat()
    };
    one.say(&call(2078, b"\0\0", &[b"work_mem", b"9MB", b"f"])).await;
    assert_eq!(crate::raw::tags(&one.until_ready().await), "VZ");
    assert_eq!(value(&two.query("show work_mem").await).as_deref(), Some("4MB"));
    let locks = "select count(*) from pg_locks where locktype = 'advisory'";
    one.say(&call(2880, b"\0\x01\0\x01", &[&7_u64.to_be_bytes()])).await;
    assert_eq!(crate::raw::tags(&one.until_ready().await), "VZ");
    assert_eq!(pins(&stage, "advisory_lock").await, (1.0, 1.0));
    assert_eq!(stage.direct(0, locks).await, "1");
    one.say(&call(2884, b"\0\x01\0\x01", &[&7_u64.to_be_bytes()])).await;
    assert_eq!(crate::raw::tags(&one.until_ready().await), "VZ");
    assert_eq!(value(&two.query(locks).await).as_deref(), Some("0"));
    assert_eq!(pins(&stage, "advisory_lock").await, (1.0, 0.0));
}

#[tokio::test]
async fn a_role_that_is_gone_runs_nothing() {
    let stage = stage("1").await;
    stage.direct(0, "create role shortlived").await;
    stage.direct(0, "create table t (n int)").await;
    stage.direct(0, "grant insert on t to shortlived").await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    one.batch_execute("set role shortlived").await.unwrap();
    one.batch_execute("insert into t values (1)").await.unwrap();
    two.batch_execute("insert into t values (2)").await.unwrap();
    stage.direct(0, "drop owned by shortlived").await;
    stage.direct(0, "drop role shortlived").await;
    // It would run as somebody else otherwise. The connection lives, and finds its way back.
    for sql in ["insert into t values (3)", "select count(*) from t"] {
        assert_eq!(one.failure(sql).await.unwrap().code(), "22023", "{sql}");
    }
    assert_eq!(two.value("select count(*) from t").await.unwrap(), "2");
    one.batch_execute("begin").await.unwrap();
    assert_eq!(one.failure("insert into t values (3)").await.unwrap().code(), "22023");
    assert_eq!(one.failure("insert into t values (3)").await.unwrap().code(), "25P02");
    one.batch_execute("rollback").await.unwrap();
    one.batch_execute("reset role").await.unwrap();
    assert_eq!(one.value("select current_user").await.unwrap(), "postgres");
    assert_eq!(two.value("select current_user").await.unwrap(), "postgres");
}

#[tokio::test]
async fn a_client_may_ask_for_a_pin() {
    let stage = stage("2").await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    let backend = async |client: &crate::harness::Client| client.value("select pg_backend_pid()").await.unwrap();
    one.batch_execute("set hakem.pin = on").await.unwrap();
    let own = backend(&one).await;
    assert_eq!(pins(&stage, "explicit").await, (1.0, 1.0));
    for _ in 0..5 {
        assert_ne!(backend(&two).await, own, "nobody else gets it");
        assert_eq!(backend(&one).await, own);
        assert_eq!(one.query_one("select pg_backend_pid()::text", &[]).await.unwrap().get::<_, String>(0), own);
    }
    one.batch_execute("set hakem.pin = off").await.unwrap();
    let one_by_one = async || {
        // Two servers, and two of them in use at once: one of them is the one that was kept.
        two.batch_execute("begin").await.unwrap();
        let (first, second) = (backend(&two).await, backend(&one).await);
        two.batch_execute("commit").await.unwrap();
        first == own || second == own
    };
    assert!(one_by_one().await, "it is lent again");
    assert_eq!(pins(&stage, "explicit").await, (1.0, 0.0));
    // At startup, and with everything else that a session leaves behind.
    let three = stage.proxy.connect_with(|config| {
        config.options("-c hakem.pin=on");
    });
    let three = three.await.unwrap();
    backend(&three).await;
    assert_eq!(pins(&stage, "explicit").await, (2.0, 1.0));
    three.close().await;
    until("the pin to end with its session", async || pins(&stage, "explicit").await == (2.0, 0.0)).await.unwrap();
}
