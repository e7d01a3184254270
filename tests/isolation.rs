//! Two clients on one server connection know nothing of each other.

use tokio_postgres::error::SqlState;

use crate::harness::{Client, Setup, Stage, code, until};

/// One server connection for everybody.
async fn one_connection() -> Stage {
    Setup::replicas(0).with("pool", "size", "1").start().await.unwrap()
}

#[tokio::test]
async fn settings_follow_their_session() {
    let stage = one_connection().await;
    stage.psql("create role other; create schema s; create table s.t (n int)").await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    let backend = one.value("select pg_backend_pid()").await.unwrap();
    assert_eq!(two.value("select pg_backend_pid()").await.unwrap(), backend, "they share a server");

    // What the first one does; how it looks; what the first and what the second one sees of it.
    let cases = [
        ("set work_mem = '7MB'", "show work_mem", "7MB", "4MB"),
        ("reset work_mem", "show work_mem", "4MB", "4MB"),
        ("set session work_mem to '8MB'", "select current_setting('work_mem')", "8MB", "4MB"),
        ("set work_mem to default", "show work_mem", "4MB", "4MB"),
        ("begin; set local work_mem = '9MB'; commit", "show work_mem", "4MB", "4MB"),
        ("begin; set work_mem = '9MB'; rollback", "show work_mem", "4MB", "4MB"),
        (
            "begin; set work_mem = '9MB'; savepoint a; set work_mem = '10MB'; rollback to a; commit",
            "show work_mem",
            "9MB",
            "4MB",
        ),
        ("select set_config('work_mem', '11MB', false)", "show work_mem", "11MB", "4MB"),
        ("reset all", "show work_mem", "4MB", "4MB"),
        ("set search_path = s", "select to_regclass('t') is not null", "t", "f"),
        ("reset search_path", "select to_regclass('t') is not null", "f", "f"),
        ("set role other", "select current_user", "other", "postgres"),
        ("reset role", "select current_user", "postgres", "postgres"),
        ("set session authorization other", "select session_user", "other", "postgres"),
        ("reset session authorization", "select session_user", "postgres", "postgres"),
        ("set application_name = 'it''s one'", "show application_name", "it's one", ""),
        ("set time zone 'Asia/Tehran'", "show timezone", "Asia/Tehran", "Etc/UTC"),
        ("set datestyle = 'German, DMY'", "select date '2026-11-21'", "21.11.2026", "2026-11-21"),
        ("set transaction_read_only = on", "show transaction_read_only", "off", "off"),
        ("set my.own = 'mine'", "select coalesce(current_setting('my.own', true), '')", "mine", ""),
        ("discard all", "select current_setting('work_mem') || current_setting('application_name')", "4MB", "4MB"),
    ];
    let timezone = two.value("show timezone").await.unwrap();
    for (sql, look, own, other) in cases {
        for statement in sql.split("; ") {
            one.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        let other = if look == "show timezone" { &timezone } else { other };
        for _ in 0..2 {
            assert_eq!(two.value(look).await.unwrap(), other, "the other one, after: {sql}");
            assert_eq!(one.value(look).await.unwrap(), own, "itself, after: {sql}");
        }
        // By the other protocol, too.
        if look.starts_with("select current_") {
            assert_eq!(
                two.query_one(look, &[]).await.unwrap().get::<_, String>(0),
                *other,
                "the other one, after: {sql}"
            );
        }
    }
    assert_eq!(one.value("select pg_backend_pid()").await.unwrap(), backend, "they still share it");
}

#[tokio::test]
async fn startup_parameters_are_a_sessions_defaults() {
    let stage = one_connection().await;
    let tehran = stage.proxy.connect_with(|config| {
        config
            .application_name("cards")
            .options("-c TimeZone=Asia/Tehran -c work_mem=5MB --statement-timeout=2h -c my.own=two\\ words");
    });
    let (one, two) = (tehran.await.unwrap(), stage.connect().await);
    let looks = [
        ("show timezone", "Asia/Tehran"),
        ("show work_mem", "5MB"),
        ("show statement_timeout", "2h"),
        ("show application_name", "cards"),
        ("show my.own", "two words"),
    ];
    let changes = [
        "select 1",
        "set timezone = 'UTC'; set work_mem = '6MB'; set statement_timeout = 0; set application_name = 'x'; set my.own = 'x'; reset all",
        "set timezone = 'UTC'; reset timezone",
        "discard all",
    ];
    for change in changes {
        for statement in change.split("; ") {
            one.batch_execute(statement).await.unwrap();
        }
        for (look, expected) in looks {
            assert_eq!(one.value(look).await.unwrap(), expected, "{look} after {change}");
            if look != "show my.own" {
                assert_ne!(two.value(look).await.unwrap(), expected, "{look} after {change}");
            }
        }
    }
    let wrong = stage.proxy.connect_with(|config| {
        config.options("-c work_mem=many");
    });
    assert_eq!(wrong.await.err().unwrap().code().unwrap().code(), "22023");
}

#[tokio::test]
async fn what_cannot_be_shared_is_not() {
    let stage = Setup::replicas(0).with("pool", "size", "2").start().await.unwrap();
    stage.psql("create sequence s").await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    // What the first one does; a question that only it may be able to answer so.
    let cases = [
        (
            "create temp table scratch as select 1",
            "select coalesce(to_regclass('scratch')::text, 'none')",
            "scratch",
            "none",
        ),
        ("select pg_advisory_lock(7)", "select pg_try_advisory_lock(7)", "t", "f"),
        (
            "begin; declare held cursor with hold for select 42; commit",
            "select count(*) from pg_cursors where name = 'held'",
            "1",
            "0",
        ),
        // One of several statements is prepared as it is.
        (
            "prepare mine as select 1;select 1",
            "select count(*) from pg_prepared_statements where name = 'mine'",
            "1",
            "0",
        ),
    ];
    for (sql, look, own, other) in cases {
        for statement in sql.split("; ") {
            one.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        for _ in 0..3 {
            assert_eq!(two.value(look).await.unwrap(), other, "the other one, after: {sql}");
            assert_eq!(one.value(look).await.unwrap(), own, "itself, after: {sql}");
        }
    }
    // All of that goes with its session.
    one.close().await;
    let leftovers = "select (select count(*) from pg_locks where locktype = 'advisory') + (select count(*) from pg_class where relpersistence = 't')";
    until("everything to be gone", async || stage.direct(0, leftovers).await == "0").await.unwrap();
    let clients: [Client; 2] = [stage.connect().await, two];
    for client in clients {
        for (sql, look, _, other) in cases {
            // This one asks by taking the lock.
            let other = if look.contains("try_advisory") { "t" } else { other };
            assert_eq!(client.value(look).await.unwrap(), other, "after the end of who did: {sql}");
            client.batch_execute("select pg_advisory_unlock_all()").await.unwrap();
        }
    }
}

#[tokio::test]
async fn session_pooling_keeps_everything_until_the_end() {
    let stage = Setup::replicas(1).with("pool", "mode", "\"session\"").with("pool", "size", "1").start().await.unwrap();
    let one = stage.connect().await;
    one.batch_execute("create temp table scratch (n int)").await.unwrap();
    one.batch_execute("set work_mem = '7MB'").await.unwrap();
    one.batch_execute("select pg_advisory_lock(9)").await.unwrap();
    let backend = one.value("select pg_backend_pid()").await.unwrap();
    assert_eq!(one.value("select pg_backend_pid()").await.unwrap(), backend);
    assert_eq!(one.value("select count(*) from scratch").await.unwrap(), "0");
    one.close().await;
    let two = stage.connect().await;
    assert_eq!(two.value("show work_mem").await.unwrap(), "4MB");
    assert_eq!(two.value("select to_regclass('scratch') is null").await.unwrap(), "t");
    assert_eq!(two.value("select pg_try_advisory_lock(9)").await.unwrap(), "t");
}

#[tokio::test]
async fn what_wipes_a_session_off_its_server_can_be_chosen() {
    // Each query, and what of the first session's settings and statements the next one sees on the same server; the server
    // is another where it could not be wiped.
    for (query, always, same) in [
        ("DISCARD ALL", false, true),
        ("DISCARD ALL", true, true),
        ("RESET ALL", false, true),
        ("select 1/0", false, false),
        ("", false, false),
    ] {
        for mode in ["session", "transaction"] {
            let setup = Setup::replicas(0).with("pool", "mode", &format!("\"{mode}\"")).with("pool", "size", "1");
            let setup = setup.with("pool", "server_reset_query", &format!("\"{query}\""));
            let stage = setup.with("pool", "server_reset_query_always", &always.to_string()).start().await.unwrap();
            let one = stage.connect().await;
            one.batch_execute("set work_mem = '7MB'").await.unwrap();
            // Kept in transaction pooling, too.
            one.batch_execute("create temp table scratch (n int)").await.unwrap();
            one.query_one("select 1 + 1", &[]).await.unwrap();
            let backend = one.value("select pg_backend_pid()").await.unwrap();
            assert_eq!(one.value("show work_mem").await.unwrap(), "7MB", "{query:?} {mode}");
            one.close().await;
            let two = stage.connect().await;
            assert_eq!(two.value("show work_mem").await.unwrap(), "4MB", "{query:?} {mode}");
            assert_eq!(two.query_one("select 1 + 1", &[]).await.unwrap().get::<_, i32>(0), 2, "{query:?} {mode}");
            // RESET ALL leaves temporary tables, and whoever configures it gets what it does.
            let seen = two.value("select to_regclass('scratch') is not null").await.unwrap();
            assert_eq!(seen, if query == "RESET ALL" { "t" } else { "f" }, "{query:?} {mode}");
            let next = two.value("select pg_backend_pid()").await.unwrap();
            assert_eq!(next == backend, same, "{query:?} {mode}");
        }
    }
}

/// What one role may see, another does not get from the same statement on the same server, neither after SET ROLE nor after a
/// REVOKE (CVE-2024-45624): nothing is remembered of results, and a server is whom its session says it is.
#[tokio::test]
async fn rights_are_not_shared() {
    let stage = Setup::replicas(1).with("pool", "size", "1").start().await.unwrap();
    stage
        .psql(
            "create role reader; create role other; create table secrets (owner text, word text);
             insert into secrets values ('reader', 'hers'), ('other', 'his');
             grant select on secrets to reader, other;
             create table guarded (owner text, word text); insert into guarded select * from secrets;
             grant select on guarded to reader, other; alter table guarded enable row level security;
             create policy own on guarded using (owner = current_user);",
        )
        .await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    // To the primary, and to wherever reads go.
    let looks =
        ["select string_agg(word, ',') from guarded", "select string_agg(word, ',') from guarded /* hakem: primary */"];
    one.batch_execute("set role reader").await.unwrap();
    two.batch_execute("set role other").await.unwrap();
    for look in looks {
        let (ones, twos) = (one.prepare(look).await.unwrap(), two.prepare(look).await.unwrap());
        for _ in 0..3 {
            for (client, statement, expected) in [(&one, &ones, "hers"), (&two, &twos, "his")] {
                assert_eq!(client.value(look).await.unwrap(), expected, "{look}");
                let word: String = client.query_one(statement, &[]).await.unwrap().get(0);
                assert_eq!(word, expected, "{look}, prepared");
            }
        }
    }
    // A role that is set for a transaction only, and one that a ROLLBACK takes back.
    let look = "select string_agg(word, ',' order by word) from guarded";
    let bare = stage.connect().await;
    let statement = bare.prepare(look).await.unwrap();
    for (begin, end) in [("begin; set local role other", "commit"), ("begin; set role other", "rollback")] {
        bare.batch_execute(begin).await.unwrap();
        assert_eq!(bare.query_one(&statement, &[]).await.unwrap().get::<_, String>(0), "his", "{begin}");
        bare.batch_execute(end).await.unwrap();
        assert_eq!(bare.query_one(&statement, &[]).await.unwrap().get::<_, String>(0), "hers,his", "after {end}");
        assert_eq!(two.value(looks[0]).await.unwrap(), "his", "another's own role, after {end}");
    }
    // What was just allowed, in the same words and in the same statement, is not any more.
    let look = "select count(*) from secrets";
    for role in ["reader", "other"] {
        let client = stage.connect().await;
        client.batch_execute(&format!("set role {role}")).await.unwrap();
        let statement = client.prepare(look).await.unwrap();
        assert_eq!(client.query_one(&statement, &[]).await.unwrap().get::<_, i64>(0), 2);
        client
            .batch_execute(&format!("reset role; revoke select on secrets from {role}; set role {role}"))
            .await
            .unwrap();
        for _ in 0..3 {
            assert_eq!(client.failure(look).await, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{role}");
            let error = client.query_one(&statement, &[]).await.unwrap_err();
            assert_eq!(code(&error), SqlState::INSUFFICIENT_PRIVILEGE, "{role}, prepared");
            // The superuser's right is nobody else's.
            assert_eq!(bare.value(look).await.unwrap(), "2");
        }
    }
}

#[tokio::test]
async fn statement_pooling_has_no_transactions() {
    let stage =
        Setup::replicas(0).with("pool", "mode", "\"statement\"").with("pool", "size", "1").start().await.unwrap();
    let (one, two) = (stage.connect().await, stage.connect().await);
    one.batch_execute("create table t (n int)").await.unwrap();
    for begin in ["begin", "start transaction read only", "begin; insert into t values (1); commit"] {
        assert_eq!(one.failure(begin).await.unwrap().code(), "0A000", "{begin}");
    }
    let error = one.query("begin", &[]).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "0A000", "by the extended protocol: {error}");
    // Nothing of it has been done, and each statement leaves its server to the others.
    assert_eq!(two.value("select count(*) from t").await.unwrap(), "0");
    one.batch_execute("set work_mem = '9MB'").await.unwrap();
    one.batch_execute("insert into t values (1); insert into t values (2)").await.unwrap();
    assert_eq!(two.value("show work_mem").await.unwrap(), "4MB");
    assert_eq!(one.value("show work_mem").await.unwrap(), "9MB");
    assert_eq!(two.query_one("select count(*) from t", &[]).await.unwrap().get::<_, i64>(0), 2);
}

#[tokio::test]
async fn a_commit_that_fails_undoes_its_settings() {
    let stage = one_connection().await;
    let (one, two) = (stage.connect().await, stage.connect().await);
    one.batch_execute("create table t (n int unique deferrable initially deferred)").await.unwrap();
    for (work, commit) in [
        (&["begin", "set work_mem = '9MB'", "insert into t values (1), (1)"][..], "commit"),
        (&["begin", "insert into t values (1), (1)"], "set work_mem = '9MB'; commit"),
        (&[], "begin; set work_mem = '9MB'; insert into t values (1), (1); commit"),
        (&[], "set work_mem = '9MB'; insert into t values (1), (1)"),
    ] {
        for sql in work {
            one.batch_execute(sql).await.unwrap();
        }
        assert_eq!(one.failure(commit).await.unwrap().code(), "23505", "{commit}");
        // It is over: another gets the server, and both see what was before.
        assert_eq!(two.value("show work_mem").await.unwrap(), "4MB", "{commit}");
        assert_eq!(one.value("show work_mem").await.unwrap(), "4MB", "{commit}");
        assert_eq!(two.value("select count(*) from t").await.unwrap(), "0");
    }
}
