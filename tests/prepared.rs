//! Prepared statements, of the protocol and of SQL, shared by clients on few servers.

use wire::frontend;

use crate::harness::{Setup, Stage, until};
use crate::raw::{Message, Raw, put_execute, sqlstate, tags, value};

async fn trusting(replicas: usize, size: &str) -> Stage {
    Setup::replicas(replicas).with("auth", "method", "\"trust\"").with("pool", "size", size).start().await.unwrap()
}

/// Parse, Bind, Describe (if so), Execute and Sync of the unnamed statement, without parameters.
async fn extended(raw: &mut Raw, sql: &str) -> Vec<Message> {
    let mut out = Vec::new();
    put_extended(&mut out, "", sql);
    raw.say(&out).await;
    raw.until_ready().await
}

/// Bind, Describe of the portal, Execute and Sync.
async fn described(raw: &mut Raw, name: &str) -> Vec<Message> {
    let mut out = Vec::new();
    frontend::put_bind(&mut out, b"", name.as_bytes(), &[0; 6]);
    out.extend_from_slice(b"D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0");
    frontend::put_sync(&mut out);
    raw.say(&out).await;
    raw.until_ready().await
}

#[tokio::test]
async fn statements_of_sql_without_a_pin() {
    let stage = trusting(1, "1").await;
    stage.psql("create table t (n int primary key); insert into t values (1), (2)").await;
    stage.cluster.caught_up().await.unwrap();
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    let get = "(int) as select n from t where n = $1";
    assert_eq!(tags(&one.query(&format!("prepare get {get}")).await), "CZ");
    assert_eq!(tags(&one.query("prepare put as insert into t values ($1)").await), "CZ");
    assert_eq!(tags(&two.query(&format!("PREPARE \"Get\" {get}")).await), "CZ");
    for round in 0..3 {
        // A replica's for as long as nothing has been written, then the primary's and a replica's again.
        assert_eq!(value(&one.query("execute get(1)").await).as_deref(), Some("1"), "{round}");
        assert_eq!(tags(&one.query(&format!("execute put({})", 10 + round)).await), "CZ");
        assert_eq!(
            value(&one.query(&format!("EXECUTE get ( {} )", 10 + round)).await).as_deref(),
            Some((10 + round).to_string().as_str())
        );
        assert_eq!(value(&two.query("execute \"Get\"(2)").await).as_deref(), Some("2"));
    }
    let pins = one.query("execute get(1)").await;
    assert_eq!(value(&pins).as_deref(), Some("1"));
    free(&stage).await;
    let reads = stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await;
    assert!(reads > 0.0, "no EXECUTE went to the replica");

    // Names are a client's own.
    assert_eq!(sqlstate(&two.query("execute get(1)").await).as_deref(), Some("26000"));
    assert_eq!(sqlstate(&one.query(&format!("prepare get {get}")).await).as_deref(), Some("42P05"));
    assert_eq!(sqlstate(&one.query("prepare bad as select nonsense from nowhere").await).as_deref(), Some("42P01"));
    assert_eq!(sqlstate(&one.query("execute bad").await).as_deref(), Some("26000"));

    // Inside other statements.
    assert!(tags(&one.query("explain execute get(1)").await).starts_with("TD"));
    assert_eq!(tags(&one.query("create table copied as execute get(2)").await), "CZ");
    assert_eq!(value(&one.query("select n from copied").await).as_deref(), Some("2"));

    assert!(tags(&one.query("explain create table copied_too as execute get(2)").await).starts_with("TD"));
    assert!(tags(&one.query("explain analyze create table copied_too as execute get(2)").await).starts_with("TD"));
    assert_eq!(value(&one.query("select n from copied_too").await).as_deref(), Some("2"));

    // In transactions: kept by ROLLBACK, refused after an error.
    for sql in ["begin", "prepare inside as select 42", "rollback"] {
        assert_eq!(tags(&one.query(sql).await), "CZ", "{sql}");
    }
    assert_eq!(value(&one.query("execute inside").await).as_deref(), Some("42"));
    one.query("begin").await;
    assert_eq!(sqlstate(&one.query("execute nothing").await).as_deref(), Some("26000"));
    for sql in ["prepare late as select 1", "execute inside", "deallocate inside", "deallocate all"] {
        assert_eq!(sqlstate(&one.query(sql).await).as_deref(), Some("25P02"), "{sql}");
    }
    one.query("rollback").await;

    assert_eq!(tags(&one.query("deallocate inside").await), "CZ");
    assert_eq!(sqlstate(&one.query("deallocate inside").await).as_deref(), Some("26000"));
    assert_eq!(tags(&one.query("deallocate all").await), "CZ");
    assert_eq!(sqlstate(&one.query("execute get(1)").await).as_deref(), Some("26000"));
    assert_eq!(value(&two.query("execute \"Get\"(2)").await).as_deref(), Some("2"));
}

#[tokio::test]
async fn statements_of_sql_in_another_encoding_than_utf8() {
    let stage = trusting(0, "2").await;
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    let ask = async |raw: &mut Raw, sql: &[u8], extended: bool| {
        let mut out = Vec::new();
        if extended {
            frontend::put_parse(&mut out, b"", sql, &[0, 0]);
            put_execute(&mut out, "");
            frontend::put_sync(&mut out);
        } else {
            frontend::put_query(&mut out, sql);
        }
        raw.say(&out).await;
        raw.until_ready().await
    };
    raw.query("set client_encoding = latin1").await;
    for extended in [false, true] {
        for (sql, expected) in [
            (&b"prepare q as select '\xe9'"[..], None),
            (b"execute q", Some(&b"\xe9"[..])),
            (b"prepare r (text) as select $1", None),
            (b"execute r('\xe9\xa0')", Some(b"\xe9\xa0")),
            (b"prepare \"\xe9\" as select 1", None),
            (b"execute \"\xe9\"", Some(b"1")),
            (b"deallocate \"\xe9\"", None),
            (b"deallocate all", None),
        ] {
            let answer = ask(&mut raw, sql, extended).await;
            assert_eq!(sqlstate(&answer), None, "{:?} {extended}", sql.escape_ascii().to_string());
            let row = answer.iter().find(|message| message.tag == b'D').map(|row| row.body[6..].to_vec());
            assert_eq!(row.as_deref(), expected, "{:?} {extended}", sql.escape_ascii().to_string());
        }
    }
    assert_eq!(stage.proxy.metric("hakem_pins", &[]).await, 0.0);
}

#[tokio::test]
async fn one_name_space() {
    let stage = trusting(1, "1").await;
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    // As PDO and pgx do it.
    for round in 0..3 {
        assert_eq!(tags(&raw.prepare("pdo_stmt_1", &format!("select {round}")).await), "1Z");
        assert_eq!(value(&raw.execute("pdo_stmt_1").await), Some(round.to_string()));
        assert_eq!(value(&raw.query("execute pdo_stmt_1").await), Some(round.to_string()));
        assert_eq!(sqlstate(&raw.query("prepare pdo_stmt_1 as select 1").await).as_deref(), Some("42P05"));
        assert_eq!(tags(&raw.query("DEALLOCATE pdo_stmt_1").await), "CZ");
        assert_eq!(sqlstate(&raw.execute("pdo_stmt_1").await).as_deref(), Some("26000"));
    }
    raw.query("prepare s as select 'by SQL'").await;
    for sql in ["select 1", "begin", "select 1"] {
        raw.query(sql).await;
        assert_eq!(value(&raw.execute("s").await).as_deref(), Some("by SQL"), "{sql}");
    }
    raw.query("rollback").await;
    let taken = raw.prepare("s", "select 1").await;
    assert_eq!(sqlstate(&taken).as_deref(), Some("42P05"));
    let text = String::from_utf8_lossy(&taken[0].body).into_owned();
    assert!(text.contains("prepared statement \"s\" already exists"), "{text}");

    // By the extended protocol.
    assert_eq!(tags(&extended(&mut raw, "deallocate s").await), "12CZ");
    assert_eq!(sqlstate(&extended(&mut raw, "deallocate s").await).as_deref(), Some("26000"));
    assert_eq!(tags(&extended(&mut raw, "prepare s (int) as select $1 + 1").await), "12CZ");
    assert_eq!(value(&extended(&mut raw, "execute s(41)").await).as_deref(), Some("42"));
    assert_eq!(sqlstate(&extended(&mut raw, "prepare s as select 1").await).as_deref(), Some("42P05"));
    assert_eq!(sqlstate(&extended(&mut raw, "prepare w as wrong").await).as_deref(), Some("42601"));
    assert_eq!(sqlstate(&extended(&mut raw, "prepare w as select * from nowhere").await).as_deref(), Some("42P01"));
    assert_eq!(tags(&extended(&mut raw, "deallocate all").await), "12CZ");
    assert_eq!(sqlstate(&extended(&mut raw, "execute s(41)").await).as_deref(), Some("26000"));

    // A Parse in the same batch as DEALLOCATE ALL, or behind it, is not lost.
    let mut out = Vec::new();
    frontend::put_parse(&mut out, b"", b"deallocate all", &[0, 0]);
    put_execute(&mut out, "");
    frontend::put_parse(&mut out, b"kept", b"select 'kept'", &[0, 0]);
    frontend::put_sync(&mut out);
    raw.say(&out).await;
    assert_eq!(tags(&raw.until_ready().await), "12C1Z");
    assert_eq!(value(&raw.execute("kept").await).as_deref(), Some("kept"));
}

#[tokio::test]
async fn a_plan_whose_columns_have_changed() {
    let stage = trusting(0, "1").await;
    stage.psql("create table shape (a int); insert into shape values (1)").await;
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    one.prepare("s", "select * from shape").await;
    two.prepare("t", "select * from shape").await;
    one.query("prepare q as select * from shape").await;
    for raw in [&mut one, &mut two] {
        raw.query("select 1").await;
    }
    assert_eq!(value(&one.execute("s").await).as_deref(), Some("1"));
    assert_eq!(value(&one.query("execute q").await).as_deref(), Some("1"));

    stage.psql("alter table shape add column b int").await;
    // Whoever is told the columns with the result gets the new ones, and nothing else is to be seen of it.
    let answer = described(&mut one, "s").await;
    assert_eq!(tags(&answer), "2TDCZ", "{answer:?}");
    assert_eq!(answer[1].body[..2], [0, 2], "two columns");
    assert_eq!(tags(&one.query("execute q").await), "TDCZ");
    assert_eq!(stage.proxy.metric("hakem_retries_total", &[("reason", "outdated")]).await, 2.0);

    stage.psql("alter table shape add column c int").await;
    // Whoever was told before is told that it has changed, and can prepare again, as pgjdbc and asyncpg do.
    assert_eq!(sqlstate(&two.execute("t").await).as_deref(), Some("0A000"));
    let mut out = Vec::new();
    frontend::put_close_statement(&mut out, b"t");
    frontend::put_parse(&mut out, b"u", b"select * from shape", &[0, 0]);
    put_execute(&mut out, "u");
    frontend::put_sync(&mut out);
    two.say(&out).await;
    assert_eq!(tags(&two.until_ready().await), "312DCZ");

    // What is prepared anew is not described by what was prepared before (as sqlx does it).
    stage.psql("alter table shape add column e int").await;
    let mut out = Vec::new();
    frontend::put_close_statement(&mut out, b"u");
    frontend::put_parse(&mut out, b"u", b"select * from shape", &[0, 0]);
    frontend::put_describe_statement(&mut out, b"u");
    frontend::put_sync(&mut out);
    two.say(&out).await;
    let answer = two.until_ready().await;
    assert_eq!(tags(&answer), "31tTZ", "{answer:?}");
    assert_eq!(answer[3].body[..2], [0, 4], "four columns");

    // In a transaction, too, and nothing is run again there.
    stage.psql("alter table shape add column d int").await;
    two.query("begin").await;
    two.query("select 1").await;
    assert_eq!(sqlstate(&described(&mut two, "u").await).as_deref(), Some("0A000"));
    two.query("rollback").await;
    assert_eq!(tags(&described(&mut two, "u").await), "2TDCZ");
}

#[tokio::test]
async fn names_in_statements_mean_what_they_mean_to_their_client() {
    let stage = trusting(0, "1").await;
    stage.psql("create schema a; create schema b; create table a.t as select 'a' as x; create table b.t as select 'b' as x").await;
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    for (raw, path) in [(&mut one, "a"), (&mut two, "b")] {
        raw.query(&format!("set search_path = {path}")).await;
        raw.prepare("s", "select x from t").await;
        raw.query("prepare q as select x from t").await;
    }
    for _ in 0..2 {
        for (raw, path) in [(&mut one, "a"), (&mut two, "b")] {
            assert_eq!(value(&raw.execute("s").await).as_deref(), Some(path));
            assert_eq!(value(&raw.query("execute q").await).as_deref(), Some(path));
        }
    }
    // PostgreSQL looks names up again when the path has changed.
    one.query("set search_path = b").await;
    assert_eq!(value(&one.execute("s").await).as_deref(), Some("b"));
    assert_eq!(value(&one.query("execute q").await).as_deref(), Some("b"));
    one.query("begin").await;
    one.query("set local search_path = a").await;
    assert_eq!(value(&one.execute("s").await).as_deref(), Some("a"));
    one.query("rollback").await;
    assert_eq!(value(&one.execute("s").await).as_deref(), Some("b"));
}

#[tokio::test]
async fn ever_new_statements_fill_neither_side() {
    ever_new_statements(30_000).await;
}

/// Minutes: run by itself, with `--run-ignored only`.
#[tokio::test]
#[ignore = "takes minutes"]
async fn a_million_statements_fill_neither_side() {
    ever_new_statements(1_000_000).await;
}

/// Runs so many statements that differ in text and in shape, by every way there is, and looks at what is kept.
async fn ever_new_statements(total: usize) {
    const BATCH: usize = 500;
    let rounds = total / BATCH;
    let stage = trusting(0, "1").await;
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    let mut early = 0;
    for round in 0..rounds {
        let (mut out, mut count) = (Vec::new(), 0);
        for n in 0..BATCH {
            let number = round * BATCH + n;
            let sql = format!("select {number} as c{number}, '{}'", "x".repeat(500));
            // Closed, left open for a while, unnamed, by SQL, and not prepared at all.
            count += match n % 5 {
                0 => {
                    put_extended(&mut out, "s", &sql);
                    frontend::put_close_statement(&mut out, b"s");
                    1
                }
                1 => {
                    put_extended(&mut out, &format!("s{number}"), &sql);
                    1
                }
                2 => {
                    put_extended(&mut out, "", &sql);
                    1
                }
                3 => {
                    frontend::put_query(&mut out, &format!("prepare q as {sql}"));
                    frontend::put_query(&mut out, "execute q");
                    frontend::put_query(&mut out, "deallocate q");
                    3
                }
                _ => {
                    frontend::put_query(&mut out, &sql);
                    1
                }
            };
        }
        if round % 5 == 4 {
            frontend::put_query(&mut out, "deallocate all");
            count += 1;
        }
        let Raw { stream, .. } = &mut raw;
        let (mut reader, mut writer) = stream.split();
        let write = async { tokio::io::AsyncWriteExt::write_all(&mut writer, &out).await.unwrap() };
        let read = async {
            let (mut received, mut at, mut seen) = (Vec::new(), 0, 0);
            while seen < count {
                assert!(tokio::io::AsyncReadExt::read_buf(&mut reader, &mut received).await.unwrap() > 0);
                while let Some(frame) = wire::frame::Frame::take(&received[at..]).unwrap() {
                    assert_ne!(frame.tag, b'E', "{:?}", String::from_utf8_lossy(frame.body()));
                    seen += usize::from(frame.tag == b'Z');
                    at += frame.whole.len();
                }
            }
        };
        tokio::join!(write, read);
        // By then the caches of what statements are have filled.
        if round == (rounds / 10).max(30) {
            early = stage.proxy.memory_kb("VmRSS");
        }
        if round % 200 == 0 {
            eprintln!("{} statements, {} kB", round * BATCH, stage.proxy.memory_kb("VmRSS"));
        }
    }
    let late = stage.proxy.memory_kb("VmRSS");
    assert!(late < early + 6_000, "{early} kB became {late} kB");
    let kept: usize = value(&raw.query("select count(*) from pg_prepared_statements").await).unwrap().parse().unwrap();
    assert!(kept <= 200, "{kept} statements on the server");
    free(&stage).await;
}

/// Parse, Bind, Execute and Sync.
fn put_extended(out: &mut Vec<u8>, name: &str, sql: &str) {
    frontend::put_parse(out, name.as_bytes(), sql.as_bytes(), &[0, 0]);
    put_execute(out, name);
    frontend::put_sync(out);
}

/// Waits until nobody holds a server: nothing is pinned.
async fn free(stage: &Stage) {
    until("the server to be free", async || {
        stage.proxy.metric("hakem_server_connections", &[("state", "leased")]).await == 0.0
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn errors_in_the_clients_own_words() {
    let stage = trusting(0, "1").await;
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    let field = |answer: &[Message], code: u8| {
        let error = answer.iter().find(|message| message.tag == b'E').unwrap_or_else(|| panic!("{answer:?}"));
        wire::backend::Report::new(&error.body).field(code).map(|value| String::from_utf8_lossy(value).into_owned())
    };
    raw.query("prepare \"give ü\" (text, float) as select $1, $2").await;
    // As PostgreSQL says it, for the text that the client has sent.
    let place = |sql: &str, word: &str| Some(sql[..sql.find(word).unwrap()].chars().count() + 1);
    for (sql, word) in [
        ("execute \"give ü\"('a', 'ö', 1)", ""),
        ("execute \"give ü\"('a', false)", "false"),
        (" /* ü */ explain  execute \"give ü\" ('a',  'x')", "'x'"),
        ("prepare q(nonsense) as select $1", "nonsense"),
        ("prepare q as select $1a", "$1a"),
        ("prepare q(int) as select 'ü', nonsense ", "nonsense"),
    ] {
        let answer = raw.query(sql).await;
        let direct = stage.cluster.sql(0, &format!("prepare \"give ü\" (text, float) as select $1, $2; {sql}")).await;
        let message = field(&answer, b'M').unwrap();
        assert!(direct.unwrap_err().root_cause().to_string().contains(&message), "{sql}: {message}");
        let expected = if word.is_empty() { None } else { place(sql, word) };
        assert_eq!(field(&answer, b'P').and_then(|place| place.parse().ok()), expected, "{sql}");
    }
    raw.prepare("mine", "select 1").await;
    let mut out = Vec::new();
    frontend::put_bind(&mut out, b"", b"mine", b"\0\0\0\x01\0\0\0\x01x\0\0");
    frontend::put_sync(&mut out);
    raw.say(&out).await;
    let refused = raw.until_ready().await;
    let expected = "bind message supplies 1 parameters, but prepared statement \"mine\" requires 0";
    assert_eq!(field(&refused, b'M').as_deref(), Some(expected));
}

#[tokio::test]
async fn statements_of_sql_where_they_are_looked_for() {
    let stage = trusting(1, "2").await;
    stage.psql("create table t (n int)").await;
    stage
        .psql("create function f(text) returns int language plpgsql as 'declare x int; begin execute $1 into x; return x; end'")
        .await;
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    let list = "select string_agg(name || ': ' || statement, ', ' order by name) from pg_prepared_statements";
    // Whatever others have prepared on the same server.
    one.query("prepare q as select 1").await;
    assert_eq!(value(&one.query("execute q").await).as_deref(), Some("1"));
    assert_eq!(value(&two.query("select count(*) from pg_prepared_statements").await).as_deref(), Some("0"));
    assert_eq!(value(&one.query("select f('execute q') + 1").await).as_deref(), Some("2"));
    one.query(" Prepare \"R\" (int) as  select $1;").await;
    assert_eq!(
        value(&one.query(list).await).as_deref(),
        Some(" Prepare \"R\" (int) as  select $1;").map(|r| format!("R: {r}, q: prepare q as select 1")).as_deref()
    );
    assert_eq!(value(&one.query("execute \"R\"(3)").await).as_deref(), Some("3"));
    assert_eq!(sqlstate(&one.query("prepare q as select 2").await).as_deref(), Some("42P05"));
    one.prepare("p", "select 4").await;
    assert_eq!(value(&one.execute("p").await).as_deref(), Some("4"));
    assert_eq!(value(&one.execute("q").await).as_deref(), Some("1"));
    assert_eq!(value(&one.query("execute p").await).as_deref(), Some("4"));
    assert_eq!(tags(&one.query("deallocate p").await), "CZ");
    assert_eq!(tags(&one.query("deallocate q").await), "CZ");
    assert_eq!(sqlstate(&one.query("execute q").await).as_deref(), Some("26000"));
    assert_eq!(sqlstate(&one.execute("q").await).as_deref(), Some("26000"));
    assert_eq!(stage.proxy.metric("hakem_pins", &[("reason", "sql_prepare")]).await, 1.0);
    // With the last one the session is free again.
    assert_eq!(tags(&one.query("deallocate \"R\"").await), "CZ");
    free(&stage).await;
    for client in [&mut one, &mut two] {
        assert_eq!(tags(&client.query("prepare q as select 5").await), "CZ");
        assert_eq!(value(&client.query("execute q").await).as_deref(), Some("5"));
    }
    free(&stage).await;

    // Among others in one string.
    for block in [false, true] {
        if block {
            one.query("begin").await;
        }
        assert_eq!(value(&one.query("select 'a' where false; execute q").await).as_deref(), Some("5"));
        assert_eq!(sqlstate(&one.query("select 'b'; prepare q as select 6").await).as_deref(), Some("42P05"));
        if block {
            one.query("rollback").await;
        }
        let again = one.query("deallocate q; prepare q as select 6; execute q").await;
        assert_eq!(value(&again).as_deref(), Some("6"));
        assert_eq!(tags(&one.query("deallocate all").await), "CZ");
        free(&stage).await;
        assert_eq!(tags(&one.query("prepare q as select 5").await), "CZ");
    }

    // A statement whose table is gone is not in the way of the others.
    assert_eq!(tags(&one.query("prepare gone as select * from t").await), "CZ");
    stage.psql("drop table t").await;
    assert_eq!(value(&one.query("do $$ begin execute 'execute q'; end $$; select 6").await).as_deref(), Some("6"));
    assert_eq!(value(&one.query("select count(*) from pg_prepared_statements").await).as_deref(), Some("1"));
    assert_eq!(tags(&one.query("deallocate all").await), "CZ");
    free(&stage).await;
    assert_eq!(sqlstate(&one.query("execute q").await).as_deref(), Some("26000"));
    assert_eq!(value(&two.query("execute q").await).as_deref(), Some("5"));
}
