//! What drivers say that cannot be installed everywhere, in their own words: Postgrex, Sequelize, Npgsql, and asyncpg's look at types.
//!
//! Each by hand, byte for byte as the driver sends it, through one server connection for everybody: so a second client shows what is
//! kept from it, and what is not.

use wire::backend::tag;

use crate::corners::{exchange, script};
use crate::harness::{Setup, Stage};
use crate::raw::{Message, Raw, sqlstate, tags, value};

#[tokio::test]
async fn by_hand() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1").server("jit", "on");
    let stage = setup.start().await.unwrap();
    postgrex(&stage).await;
    sequelize(&stage).await;
    npgsql(&stage).await;
    asyncpg_asks_for_types(&stage).await;
}

/// Says it all at once, and hears this many messages: there is no ReadyForQuery to wait for.
async fn flushed(raw: &mut Raw, lines: &[&str], expected: &str) -> Vec<Message> {
    raw.say(&script(lines)).await;
    let mut heard = Vec::new();
    while heard.len() < expected.len() {
        heard.push(raw.hear().await.unwrap());
        if tags(&heard[heard.len() - 1..]) == "E" && !expected[..heard.len()].ends_with('E') {
            break;
        }
    }
    assert_eq!(tags(&heard), expected, "{lines:?}: {heard:?}");
    heard
}

async fn check(raw: &mut Raw, lines: &[&str], expected: &str) -> Vec<Message> {
    let heard = exchange(raw, lines).await;
    assert_eq!(tags(&heard), expected, "{lines:?}: {heard:?}");
    heard
}

/// What the last ReadyForQuery says of the transaction.
fn status(heard: &[Message]) -> char {
    let last = heard.iter().rfind(|message| message.tag == tag::READY_FOR_QUERY).unwrap();
    char::from(last.body[0])
}

/// Postgrex with `mode: :savepoint`: a savepoint around each statement of a transaction, described by Flush before it is run by Sync.
async fn postgrex(stage: &Stage) {
    stage.psql("drop table if exists t; create table t (n int primary key)").await;
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    assert_eq!(status(&check(&mut one, &["Q begin"], "CZ").await), 'T');
    let savepoint = ["P - SAVEPOINT postgrex_query", "B - -", "E -"];
    let release = ["P - RELEASE SAVEPOINT postgrex_query", "B - -", "E -"];
    for n in 1..=3 {
        let insert = format!("P ecto_{n} insert into t values ({n}) returning n");
        let describe = format!("D S ecto_{n}");
        flushed(&mut one, &[&savepoint[..], &[&insert, &describe, "H"]].concat(), "12C1tT").await;
        let bind = format!("B - ecto_{n}");
        let heard = check(&mut one, &[&[bind.as_str(), "E -"], &release[..], &["S"]].concat(), "2DC12CZ").await;
        assert_eq!(status(&heard), 'T');
    }
    // A statement that fails when it is described: Sync, and back to the savepoint.
    let heard =
        flushed(&mut one, &[&savepoint[..], &["P bad select nothing from nowhere", "D S bad", "H"]].concat(), "12CE")
            .await;
    assert_eq!(sqlstate(&heard).as_deref(), Some("42P01"));
    // Until Sync everything is discarded, simple queries as well.
    one.say(&script(&["Q ROLLBACK TO SAVEPOINT postgrex_query", "S"])).await;
    let heard = one.until_ready().await;
    assert_eq!((tags(&heard).as_str(), status(&heard)), ("Z", 'E'), "{heard:?}");
    let back = "Q ROLLBACK TO SAVEPOINT postgrex_query;RELEASE SAVEPOINT postgrex_query";
    assert_eq!(status(&check(&mut one, &[back], "CCZ").await), 'T');
    // One that fails when it runs, with a simple query behind it that nobody must answer.
    one.say(&script(&[&savepoint[..], &["B - ecto_1", "E -", "Q select 'too early'", "S"]].concat())).await;
    let heard = one.until_ready().await;
    assert_eq!((tags(&heard).as_str(), status(&heard)), ("12C2EZ", 'E'), "{heard:?}");
    assert_eq!(status(&check(&mut one, &[back], "CCZ").await), 'T');
    // In all of this nobody else got the server.
    two.say(&script(&["Q select count(*) from t"])).await;
    assert_eq!(status(&check(&mut one, &["B - ecto_1", "E -", "S"], "2EZ").await), 'E');
    assert_eq!(status(&check(&mut one, &["Q rollback"], "CZ").await), 'I');
    assert_eq!(value(&two.until_ready().await).as_deref(), Some("0"));
    // Prepared for good, by whoever has the server now.
    for n in ["1", "2", "3"] {
        assert_eq!(value(&one.execute(&format!("ecto_{n}")).await).as_deref(), Some(n));
    }
    assert_eq!(value(&two.query("select count(*) from t").await).as_deref(), Some("3"));
}

/// Sequelize, by node-postgres with `Flush`: everything up to the answer without Sync, which comes when that has been read.
async fn sequelize(stage: &Stage) {
    stage.psql("drop table if exists t; create table t (n int)").await;
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    for n in 1..=3 {
        let insert = format!("P - insert into t values ({n}) returning n");
        flushed(&mut one, &[&insert, "B - -", "D P -", "E -", "H"], "12TDC").await;
        // Nothing of it has happened yet for anybody else, who waits for the server.
        two.say(&script(&["Q select count(*) from t"])).await;
        assert_eq!(stage.direct(0, "select count(*) from t").await, (n - 1).to_string());
        assert_eq!(status(&check(&mut one, &["S"], "Z").await), 'I');
        assert_eq!(value(&two.until_ready().await), Some(n.to_string()));
    }
    // Several flushes, one Sync; and an error behind a flush takes all of it back.
    flushed(&mut one, &["P - insert into t values (4)", "B - -", "D P -", "E -", "H"], "12nC").await;
    flushed(&mut one, &["P - insert into t values (5)", "B - -", "D P -", "E -", "H"], "12nC").await;
    flushed(&mut one, &["P - select 1/0", "B - -", "D P -", "E -", "H"], "1E").await;
    assert_eq!(status(&check(&mut one, &["S"], "Z").await), 'I');
    assert_eq!(value(&two.query("select count(*) from t").await).as_deref(), Some("3"));
    // One that goes away between Flush and Sync has done nothing, and leaves the server to others.
    flushed(&mut one, &["P - insert into t values (6)", "B - -", "D P -", "E -", "H"], "12nC").await;
    drop(one);
    assert_eq!(value(&two.query("select count(*) from t").await).as_deref(), Some("3"));
}

/// Npgsql: batches with one Sync or one for each statement, many of them on the way at once, and connections that are given back with
/// DISCARD ALL, or with its parts where statements are to stay prepared; both are said in front of what comes next.
async fn npgsql(stage: &Stage) {
    const PARTS: &str = "Q SET SESSION AUTHORIZATION DEFAULT;RESET ALL;CLOSE ALL;UNLISTEN *;\
        SELECT pg_advisory_unlock_all();DISCARD SEQUENCES;DISCARD TEMP";
    stage.psql("drop table if exists t; create table t (n int primary key); create role other").await;
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    // It asks for types in one query of several statements.
    let heard = one.query("select version();select ns.nspname, t.oid from pg_type t join pg_namespace ns on ns.oid = t.typnamespace where t.typname = 'int4'").await;
    assert_eq!(tags(&heard), "TDCTDCZ");
    // A batch: one transaction, in which the first error is the last answer.
    let batch = |n: i32| {
        [
            format!("P - insert into t values ({n}) returning n"),
            "B - -".to_owned(),
            "D P -".to_owned(),
            "E -".to_owned(),
        ]
    };
    let say = |batches: &[Vec<String>]| -> Vec<u8> {
        batches.iter().flat_map(|lines| script(&lines.iter().map(String::as_str).collect::<Vec<_>>())).collect()
    };
    let sync = || vec!["S".to_owned()];
    one.say(&say(&[batch(1).to_vec(), batch(1).to_vec(), batch(2).to_vec(), sync()])).await;
    let heard = one.until_ready().await;
    assert_eq!((tags(&heard).as_str(), sqlstate(&heard).as_deref()), ("12TDC12TEZ", Some("23505")));
    // With error barriers each is its own.
    one.say(&say(&[batch(1).to_vec(), sync(), batch(1).to_vec(), sync(), batch(2).to_vec(), sync()])).await;
    for expected in ["12TDCZ", "12TEZ", "12TDCZ"] {
        assert_eq!(tags(&one.until_ready().await), expected);
    }
    // Multiplexed: commands of many on one connection, said before any is answered, while others want the server as well.
    let many: Vec<Vec<String>> = (10..60).flat_map(|n| [batch(n).to_vec(), sync()]).collect();
    one.say(&say(&many)).await;
    two.say(&script(&["Q select 1"; 5])).await;
    for n in 10..60 {
        let heard = one.until_ready().await;
        assert_eq!(value(&heard), Some(n.to_string()));
    }
    for _ in 0..5 {
        assert_eq!(value(&two.until_ready().await).as_deref(), Some("1"));
    }

    // Given back, and out again: what one has left behind is nobody's; by either way of tidying up.
    for (reset, tidied, kept) in [("Q DISCARD ALL", "CZ", false), (PARTS, "CCCCTDCCCZ", true)] {
        assert_eq!(tags(&one.prepare("kept", "select 'kept'").await), "1Z");
        for left in [
            "set work_mem = '7MB'",
            "set role other",
            "select pg_advisory_lock(7)",
            "create temp table scratch ()",
            "listen ears",
        ] {
            let heard = one.query(left).await;
            assert!(sqlstate(&heard).is_none_or(|state| state == "42501"), "{left}: {heard:?}");
        }
        one.say(&script(&[
            reset,
            "P - select current_user || current_setting('work_mem')",
            "B - -",
            "D P -",
            "E -",
            "S",
        ]))
        .await;
        // That it is a superuser again is reported, as a server does.
        let heard = tags(&one.until_ready().await);
        assert_eq!(heard.replace('S', ""), tidied, "{reset}");
        assert_eq!(value(&one.until_ready().await).as_deref(), Some("postgres4MB"), "{reset}");
        // Nothing of it keeps the server from others.
        let left = "select count(*) from pg_locks where locktype = 'advisory'";
        assert_eq!(value(&two.query(left).await).as_deref(), Some("0"), "{reset}");
        let heard = one.execute("kept").await;
        assert_eq!(sqlstate(&heard).as_deref(), if kept { None } else { Some("26000") }, "{reset}: {heard:?}");
        if kept {
            assert_eq!(value(&heard).as_deref(), Some("kept"));
            assert_eq!(tags(&exchange(&mut one, &["C S kept", "S"]).await), "3Z");
        }
    }
}

/// asyncpg switches `jit` off while it asks the catalog for a type, and puts it back as it was: nobody else's statements run without.
async fn asyncpg_asks_for_types(stage: &Stage) {
    let (mut one, mut two) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    let off = "select current_setting('jit') as cur, set_config('jit', 'off', false) as new";
    for _ in 0..3 {
        let by_name = ["P __asyncpg_1 ", off].concat();
        let lines = [by_name.as_str(), "D S __asyncpg_1", "H"];
        flushed(&mut one, &lines, "1tT").await;
        assert_eq!(value(&check(&mut one, &["B - __asyncpg_1", "E -", "S"], "2DCZ").await).as_deref(), Some("on"));
        assert_eq!(value(&two.query("show jit").await).as_deref(), Some("on"), "another client's");
        assert_eq!(value(&one.query("show jit").await).as_deref(), Some("off"));
        assert_eq!(value(&two.query("select current_setting('jit')").await).as_deref(), Some("on"));
        one.query("select set_config('jit', 'on', false)").await;
        assert_eq!(value(&one.query("show jit").await).as_deref(), Some("on"));
        assert_eq!(tags(&exchange(&mut one, &["C S __asyncpg_1", "S"]).await), "3Z");
    }
    // One that goes away in the middle leaves nothing either.
    one.query(off).await;
    drop(one);
    assert_eq!(value(&two.query("show jit").await).as_deref(), Some("on"));
}
