//! What applications do with sqlx, through the proxy that libpq's environment variables point at.

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolCopyExt, PgPoolOptions};
use sqlx::{Acquire, Connection, Executor, PgConnection, PgPool, Row};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result {
    let pool = PgPoolOptions::new().max_connections(8).connect_with(PgConnectOptions::new()).await?;
    pool.execute("create table items (id serial primary key, name text, n int)").await?;
    basics(&pool).await?;
    println!("ok basics");
    prepared().await?;
    println!("ok prepared");
    transactions(&pool).await?;
    println!("ok transactions");
    streams(&pool).await?;
    println!("ok streams");
    copies(&pool).await?;
    println!("ok copies");
    listen(&pool).await?;
    println!("ok listen");
    at_once(&pool).await?;
    println!("ok at_once");
    abandoned(&pool).await?;
    println!("ok abandoned");
    settings().await?;
    println!("ok settings");
    pool.close().await;
    println!("done");
    Ok(())
}

async fn basics(pool: &PgPool) -> Result {
    let (sum, text): (i32, String) = sqlx::query_as("select $1 + 1, $2").bind(41).bind("سلام 🂡").fetch_one(pool).await?;
    assert_eq!((sum, text.as_str()), (42, "سلام 🂡"));
    let names = ["a", "b", "c"];
    let numbers = [1, 2, 3];
    let done = sqlx::query("insert into items (name, n) select * from unnest($1::text[], $2::int[])")
        .bind(&names[..])
        .bind(&numbers[..])
        .execute(pool)
        .await?;
    assert_eq!(done.rows_affected(), 3);
    // A string without arguments goes by the simple protocol, and may hold several statements.
    let results: Vec<_> = sqlx::raw_sql("select 1 as n; insert into items (n) values (4); select 5 as n")
        .fetch_many(pool)
        .try_collect()
        .await?;
    assert_eq!(results.iter().filter(|result| result.is_right()).count(), 2);
    assert_eq!(failure(sqlx::query("select 1/$1").bind(0).execute(pool).await), "22012");
    assert_eq!(failure(sqlx::query("select * from no_such_table").execute(pool).await), "42P01");
    assert_eq!(failure(sqlx::query("insert into items (id) values (1)").execute(pool).await), "23505");
    // What is described and never run.
    let described = pool.describe("select id, name from items where n = $1").await?;
    assert_eq!(described.columns.len(), 2);
    assert_eq!(described.nullable, [Some(false), Some(true)]);
    let large: Vec<String> =
        sqlx::query_scalar("select repeat('x', 1000) from generate_series(1, 20000)").fetch_all(pool).await?;
    assert!(large.len() == 20000 && large.iter().all(|text| text.len() == 1000));
    let huge = "y".repeat(5_000_000);
    assert_eq!(sqlx::query_scalar::<_, String>("select $1::text").bind(&huge).fetch_one(pool).await?, huge);
    Ok(())
}

/// Every connection calls its statements sqlx_s_1, sqlx_s_2, ...; what its cache drops it closes.
async fn prepared() -> Result {
    let mut connections = Vec::new();
    for _ in 0..5 {
        connections.push(PgConnection::connect_with(&PgConnectOptions::new().statement_cache_capacity(3)).await?);
    }
    for turn in 0..10 {
        for (i, connection) in connections.iter_mut().enumerate() {
            let sql = format!("select 'client {i} {}' || $1", turn % 5);
            let found: String = sqlx::query_scalar(&sql).bind("!").fetch_one(&mut *connection).await?;
            assert_eq!(found, format!("client {i} {}!", turn % 5));
        }
    }
    let connection = &mut connections[0];
    for n in 0..5 {
        let found: i32 = sqlx::query_scalar("select $1").persistent(false).bind(n).fetch_one(&mut *connection).await?;
        assert_eq!(found, n);
    }
    connection.clear_cached_statements().await?;
    connection.ping().await?;
    for connection in connections {
        connection.close().await?;
    }
    Ok(())
}

async fn transactions(pool: &PgPool) -> Result {
    let mut outer = pool.begin().await?;
    sqlx::query("insert into items (name, n) values ('t', 1000)").execute(&mut *outer).await?;
    let mut inner = outer.begin().await?;
    assert_eq!(failure(sqlx::query("select 1/0").execute(&mut *inner).await), "22012");
    inner.rollback().await?;
    let mut inner = outer.begin().await?;
    sqlx::query("insert into items (name, n) values ('t', 1001)").execute(&mut *inner).await?;
    inner.commit().await?;
    outer.commit().await?;
    // One that is dropped is rolled back when its connection is used next.
    let mut dropped = pool.begin().await?;
    sqlx::query("insert into items (name, n) values ('t', 2000)").execute(&mut *dropped).await?;
    drop(dropped);
    let count: i64 =
        sqlx::query_scalar("/* hakem: primary */ select count(*) from items where n >= 1000").fetch_one(pool).await?;
    assert_eq!(count, 2);
    let mut serializable = pool.begin_with("begin isolation level serializable read only").await?;
    let level: String = sqlx::query_scalar("show transaction_isolation").fetch_one(&mut *serializable).await?;
    assert_eq!(level, "serializable");
    assert_eq!(failure(sqlx::query("insert into items (n) values (1)").execute(&mut *serializable).await), "25006");
    serializable.rollback().await?;
    Ok(())
}

async fn streams(pool: &PgPool) -> Result {
    let mut sum = 0;
    let mut rows = sqlx::query("select n from generate_series(1, $1) n").bind(1000).fetch(pool);
    while let Some(row) = rows.try_next().await? {
        sum += row.get::<i32, _>(0);
    }
    drop(rows);
    assert_eq!(sum, 500_500);
    // Left early: the connection reads the rest when it is used next.
    for _ in 0..10 {
        let mut rows = sqlx::query("select n from generate_series(1, 10000) n").fetch(pool);
        assert_eq!(rows.next().await.expect("a row")?.get::<i32, _>(0), 1);
    }
    let mut walk = pool.begin().await?;
    walk.execute("declare walk cursor for select n from generate_series(1, 10) n").await?;
    let part: Vec<i32> = sqlx::query_scalar("fetch 4 from walk").fetch_all(&mut *walk).await?;
    assert_eq!(part, [1, 2, 3, 4]);
    walk.rollback().await?;
    Ok(())
}

async fn copies(pool: &PgPool) -> Result {
    pool.execute("create table copied (n int, s text)").await?;
    let mut sink = pool.copy_in_raw("copy copied from stdin").await?;
    for n in 0..20 {
        let lines: String = (0..1000).map(|i| format!("{}\trow {i}\n", n * 1000 + i)).collect();
        sink.send(lines.as_bytes()).await?;
    }
    assert_eq!(sink.finish().await?, 20000);
    let sink = pool.copy_in_raw("copy copied from stdin").await?;
    sink.abort("mine").await?;
    let mut sink = pool.copy_in_raw("copy copied from stdin").await?;
    sink.send(&b"no number\tx\n"[..]).await?;
    assert_eq!(failure(sink.finish().await), "22P02");
    let mut out = pool.copy_out_raw("copy (select n from copied order by n) to stdout").await?;
    let mut lines = 0;
    while let Some(part) = out.try_next().await? {
        lines += part.iter().filter(|&&byte| byte == b'\n').count();
    }
    assert_eq!(lines, 20000);
    Ok(())
}

async fn listen(pool: &PgPool) -> Result {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen_all(["events", "others"]).await?;
    pool.execute("notify events, 'one'").await?;
    sqlx::query("select pg_notify('others', $1)").bind("two").execute(pool).await?;
    for wanted in [("events", "one"), ("others", "two")] {
        let heard = listener.recv().await?;
        assert_eq!((heard.channel(), heard.payload()), wanted);
    }
    listener.unlisten_all().await?;
    Ok(())
}

async fn at_once(pool: &PgPool) -> Result {
    let work = (0..60).map(|i| async move {
        let mut transaction = pool.begin().await?;
        sqlx::query("insert into items (name, n) values ($1, $2)")
            .bind(format!("pool {i}"))
            .bind(i)
            .execute(&mut *transaction)
            .await?;
        let count: i64 = sqlx::query_scalar("select count(*) from items where name = $1")
            .bind(format!("pool {i}"))
            .fetch_one(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok::<_, sqlx::Error>(count)
    });
    for count in join_all(work).await {
        assert_eq!(count?, 1);
    }
    Ok(())
}

/// A future that is dropped leaves its query running; the connection goes back to the pool, or is closed.
async fn abandoned(pool: &PgPool) -> Result {
    for _ in 0..5 {
        let query = sqlx::query("select pg_sleep(0.3)").execute(pool);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), query).await.is_err());
    }
    let alive: Vec<String> = join_all((0..8).map(|_| sqlx::query_scalar("select 'alive'").fetch_one(pool)))
        .await
        .into_iter()
        .collect::<sqlx::Result<_>>()?;
    assert_eq!(alive, ["alive"; 8]);
    Ok(())
}

/// It sends extra_float_digits, TimeZone, DateStyle and client_encoding at startup, and whatever it is told.
async fn settings() -> Result {
    let options = PgConnectOptions::new()
        .application_name("cards")
        .options([("work_mem", "5MB"), ("search_path", "pg_catalog,public")]);
    let mut cards = PgConnection::connect_with(&options).await?;
    let mut other = PgConnection::connect_with(&PgConnectOptions::new()).await?;
    for _ in 0..5 {
        for (setting, wanted) in [
            ("work_mem", "5MB"),
            ("application_name", "cards"),
            ("search_path", "pg_catalog,public"),
            ("timezone", "UTC"),
            ("extra_float_digits", "2"),
        ] {
            let found: String =
                sqlx::query_scalar("select current_setting($1)").bind(setting).fetch_one(&mut cards).await?;
            assert_eq!(found, wanted, "{setting}");
        }
        let found: String = sqlx::query_scalar("show work_mem").fetch_one(&mut other).await?;
        assert_ne!(found, "5MB");
    }
    cards.close().await?;
    other.close().await?;
    Ok(())
}

/// The SQLSTATE of what must have failed.
fn failure<T: std::fmt::Debug>(result: sqlx::Result<T>) -> String {
    match result {
        Err(sqlx::Error::Database(error)) => error.code().expect("an SQLSTATE").into_owned(),
        other => panic!("no failure of the database: {other:?}"),
    }
}
