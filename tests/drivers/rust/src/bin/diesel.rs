//! What applications do with Diesel, which is built on libpq, through the proxy that libpq's environment variables point at.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};
use diesel::result::{DatabaseErrorKind, Error};
use diesel::upsert::excluded;
use diesel::{QueryResult, delete, insert_into, sql_query, update};

diesel::table! {
    players (id) {
        id -> Integer,
        name -> Text,
        tricks -> Integer,
        tags -> Array<Text>,
    }
}

diesel::table! {
    cards (id) {
        id -> Integer,
        player -> Integer,
        face -> Text,
    }
}

diesel::joinable!(cards -> players (player));
diesel::allow_tables_to_appear_in_same_query!(players, cards);

#[derive(Queryable, Selectable, Identifiable, AsChangeset, Debug, PartialEq)]
#[diesel(table_name = players)]
struct Player {
    id: i32,
    name: String,
    tricks: i32,
    tags: Vec<String>,
}

#[derive(Insertable)]
#[diesel(table_name = players)]
struct NewPlayer<'a> {
    name: &'a str,
    tricks: i32,
    tags: Vec<&'a str>,
}

#[derive(Queryable, Selectable, Identifiable, Associations, Debug)]
#[diesel(belongs_to(Player, foreign_key = player))]
#[diesel(table_name = cards)]
struct Card {
    id: i32,
    player: i32,
    face: String,
}

#[derive(Insertable, Queryable, Debug)]
#[diesel(table_name = players, treat_none_as_default_value = false)]
struct Copied {
    name: String,
    tricks: i32,
    tags: Vec<String>,
}

fn main() {
    let c = &mut connect("");
    diesel::connection::SimpleConnection::batch_execute(
        c,
        "create table players (id serial primary key, name text not null unique, tricks int not null, tags text[] not null);
         create table cards (id serial primary key, player int not null references players, face text not null);",
    )
    .unwrap();
    queries(c);
    println!("ok queries");
    prepared();
    println!("ok prepared");
    transactions(c);
    println!("ok transactions");
    rows_one_by_one(c);
    println!("ok rows_one_by_one");
    copies(c);
    println!("ok copies");
    threads();
    println!("ok threads");
    pooled();
    println!("ok pooled");
    listen();
    println!("ok listen");
    println!("done");
}

/// With further words of a connection string.
fn connect(options: &str) -> PgConnection {
    PgConnection::establish(options).unwrap()
}

fn queries(c: &mut PgConnection) {
    let ada: Player = insert_into(players::table)
        .values(NewPlayer { name: "ada", tricks: 1, tags: vec!["x", "y"] })
        .returning(Player::as_returning())
        .get_result(c)
        .unwrap();
    assert_eq!(ada.tags, ["x", "y"]);
    let names: Vec<String> = (0..1000).map(|n| format!("p{n}")).collect();
    let many: Vec<_> = names.iter().zip(0..).map(|(name, tricks)| NewPlayer { name, tricks, tags: vec![] }).collect();
    assert_eq!(insert_into(players::table).values(&many).execute(c).unwrap(), 1000);
    let faces: Vec<_> = ["king", "queen"].map(|face| (cards::player.eq(ada.id), cards::face.eq(face))).into();
    insert_into(cards::table).values(faces).execute(c).unwrap();
    let hand: Vec<Card> = Card::belonging_to(&ada).select(Card::as_select()).order(cards::face).load(c).unwrap();
    assert_eq!(hand.iter().map(|card| card.face.as_str()).collect::<Vec<_>>(), ["king", "queen"]);
    let joined: Vec<(String, String)> =
        cards::table.inner_join(players::table).select((players::name, cards::face)).order(cards::id).load(c).unwrap();
    assert_eq!(joined[1], ("ada".to_owned(), "queen".to_owned()));
    let upserted: i32 = insert_into(players::table)
        .values(NewPlayer { name: "ada", tricks: 9, tags: vec![] })
        .on_conflict(players::name)
        .do_update()
        .set(players::tricks.eq(excluded(players::tricks)))
        .returning(players::tricks)
        .get_result(c)
        .unwrap();
    assert_eq!(upserted, 9);
    update(players::table.filter(players::tricks.ge(990)))
        .set(players::tricks.eq(players::tricks + 1))
        .execute(c)
        .unwrap();
    let best: Option<i32> = players::table.select(diesel::dsl::max(players::tricks)).first(c).unwrap();
    assert_eq!(best, Some(1000));
    let chosen: Vec<Player> =
        players::table.filter(players::name.eq_any(["p1", "p2"])).select(Player::as_select()).load(c).unwrap();
    assert_eq!(chosen.len(), 2);
    let twice = insert_into(players::table).values(NewPlayer { name: "ada", tricks: 0, tags: vec![] }).execute(c);
    assert!(matches!(twice, Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))), "{twice:?}");
    assert!(sql_query("select 1/0").execute(c).is_err());
    assert_eq!(delete(cards::table).execute(c).unwrap(), 2);
}

/// Every connection calls its statements __diesel_stmt_0, __diesel_stmt_1, ...
fn prepared() {
    let mut connections: Vec<PgConnection> = (0..5).map(|_| connect("")).collect();
    for turn in 0..5 {
        for (i, c) in connections.iter_mut().enumerate() {
            let text: String = diesel::select(
                diesel::dsl::sql::<diesel::sql_types::Text>(&format!("'client {i}' || "))
                    .bind::<diesel::sql_types::Text, _>(turn.to_string()),
            )
            .get_result(c)
            .unwrap();
            assert_eq!(text, format!("client {i}{turn}"));
            let found: String =
                players::table.filter(players::tricks.eq(turn + i as i32)).select(players::name).first(c).unwrap();
            assert_eq!(found, format!("p{}", turn + i as i32));
        }
    }
    // Without a cache, each statement is unnamed.
    let c = &mut connections[0];
    c.set_prepared_statement_cache_size(diesel::connection::CacheSize::Disabled);
    for n in 20..30 {
        assert_eq!(players::table.filter(players::tricks.eq(n)).count().get_result::<i64>(c), Ok(1));
    }
}

fn transactions(c: &mut PgConnection) {
    c.transaction(|c| {
        delete(players::table.filter(players::name.eq("p0"))).execute(c)?;
        let inner: QueryResult<()> = c.transaction(|c| {
            delete(players::table).execute(c)?;
            Err(Error::RollbackTransaction)
        });
        assert_eq!(inner, Err(Error::RollbackTransaction));
        let failed = c.transaction(|c| sql_query("select 1/0").execute(c));
        assert!(failed.is_err());
        QueryResult::Ok(())
    })
    .unwrap();
    assert_eq!(players::table.count().get_result::<i64>(c), Ok(1000));
    let read_only = c.build_transaction().serializable().read_only().deferrable().run(|c| {
        assert_eq!(players::table.count().get_result::<i64>(c), Ok(1000));
        delete(players::table).execute(c)
    });
    assert!(matches!(read_only, Err(Error::DatabaseError(DatabaseErrorKind::ReadOnlyTransaction, _))), "{read_only:?}");
    // One that is never committed.
    c.test_transaction::<_, Error, _>(|c| delete(players::table).execute(c));
}

fn rows_one_by_one(_: &mut PgConnection) {
    let c = &mut connect("");
    let rows =
        players::table.select(Player::as_select()).load_iter::<Player, diesel::pg::PgRowByRowLoadingMode>(c).unwrap();
    assert_eq!(rows.map(|row| row.unwrap().tricks as i64).filter(|tricks| *tricks > 500).count(), 499);
    // Left early.
    let mut rows =
        players::table.select(Player::as_select()).load_iter::<Player, diesel::pg::PgRowByRowLoadingMode>(c).unwrap();
    assert!(rows.next().unwrap().is_ok());
    drop(rows);
    assert_eq!(players::table.count().get_result::<i64>(c), Ok(1000));
}

fn copies(c: &mut PgConnection) {
    let copied: Vec<Copied> = (0..5000)
        .map(|n| Copied { name: format!("copied {n}"), tricks: 1_000_000, tags: vec!["c".to_owned()] })
        .collect();
    let count = diesel::copy_from(players::table).from_insertable(&copied).execute(c).unwrap();
    assert_eq!(count, 5000);
    let failed = diesel::copy_from(players::table).from_insertable(&copied).execute(c);
    assert!(matches!(failed, Err(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _))), "{failed:?}");
    assert_eq!(players::table.filter(players::tricks.eq(1_000_000)).count().get_result::<i64>(c), Ok(5000));
}

fn threads() {
    let workers: Vec<_> = (0..6)
        .map(|i| {
            std::thread::spawn(move || {
                let c = &mut connect("");
                for n in 0..20 {
                    let name = format!("thread {i} {n}");
                    insert_into(players::table)
                        .values(NewPlayer { name: &name, tricks: n, tags: vec![] })
                        .execute(c)
                        .unwrap();
                    let count =
                        players::table.filter(players::name.like(format!("thread {i} %"))).count().get_result::<i64>(c);
                    // What was written is seen, wherever it is read.
                    assert_eq!(count, Ok(n as i64 + 1));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
}

/// What each of a pool's connections is made with.
#[derive(Debug)]
struct Customs;

impl CustomizeConnection<PgConnection, diesel::r2d2::Error> for Customs {
    fn on_acquire(&self, c: &mut PgConnection) -> Result<(), diesel::r2d2::Error> {
        sql_query("set work_mem = '9MB'").execute(c).map(drop).map_err(diesel::r2d2::Error::QueryError)
    }
}

/// r2d2 asks each connection for its health when it lends it, and lends none whose transaction is open.
fn pooled() {
    let manager = ConnectionManager::<PgConnection>::new("");
    let pool = Pool::builder().max_size(6).min_idle(Some(2)).test_on_check_out(true);
    let pool = pool.connection_customizer(Box::new(Customs)).build(manager).unwrap();
    let workers: Vec<_> = (0..12)
        .map(|i| {
            let pool = pool.clone();
            std::thread::spawn(move || {
                for n in 0..20 {
                    let c = &mut pool.get().unwrap();
                    let name = format!("pooled {i} {n}");
                    let inserted = c.transaction(|c| {
                        insert_into(players::table)
                            .values(NewPlayer { name: &name, tricks: n, tags: vec![] })
                            .execute(c)?;
                        if n % 2 == 0 { Ok(()) } else { Err(Error::RollbackTransaction) }
                    });
                    assert_eq!(inserted.is_ok(), n % 2 == 0);
                    let found = players::table.filter(players::name.eq(&name)).count().get_result::<i64>(c);
                    assert_eq!(found, Ok(i64::from(n % 2 == 0)));
                    let memory = diesel::select(diesel::dsl::sql::<diesel::sql_types::Text>(
                        "current_setting('work_mem')",
                    ));
                    assert_eq!(memory.get_result::<String>(c).unwrap(), "9MB");
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().unwrap();
    }
    // Left in a transaction that has failed.
    let c = &mut pool.get().unwrap();
    sql_query("begin").execute(c).unwrap();
    sql_query("select 1/0").execute(c).unwrap_err();
    sql_query("rollback").execute(c).unwrap();
    assert_eq!(diesel::select(1.into_sql::<diesel::sql_types::Integer>()).get_result(c), Ok(1));
}

fn listen() {
    let (listener, speaker) = (&mut connect(""), &mut connect("application_name=cards options='-c work_mem=5MB'"));
    sql_query("listen events").execute(listener).unwrap();
    sql_query("notify events, 'one'").execute(speaker).unwrap();
    sql_query("select pg_notify('events', 'two')").execute(speaker).unwrap();
    let mut heard = Vec::new();
    for _ in 0..1000 {
        sql_query("select 1").execute(listener).unwrap();
        heard.extend(listener.notifications_iter().map(|notification| notification.unwrap().payload));
        if heard.len() == 2 {
            break;
        }
    }
    assert_eq!(heard, ["one", "two"]);
    sql_query("unlisten *").execute(listener).unwrap();
    let shown: String = diesel::select(diesel::dsl::sql::<diesel::sql_types::Text>("current_setting('work_mem')"))
        .get_result(speaker)
        .unwrap();
    assert_eq!(shown, "5MB");
}
