//! LISTEN and NOTIFY in transaction pooling: heard by all who listen, in order, when PostgreSQL would tell them, and by nobody else.

use tokio_postgres::AsyncMessage;
use wire::backend::tag;
use wire::frontend;

use crate::harness::{Client, Setup, Stage, until};
use crate::raw::{Message, Raw, sqlstate, tags};

async fn stage(replicas: usize) -> Stage {
    let setup = Setup::replicas(replicas).with("auth", "method", "\"trust\"").with("pool", "size", "2");
    setup.start().await.unwrap()
}

/// Payload of the next notification; a gap's warning is passed over.
async fn heard(client: &mut Client) -> (String, String) {
    loop {
        match client.message().await {
            Some(AsyncMessage::Notification(found)) => return (found.channel().to_owned(), found.payload().to_owned()),
            Some(_) => {}
            None => panic!("the connection has ended"),
        }
    }
}

fn notification(message: &Message) -> (String, String) {
    assert_eq!(char::from(message.tag), 'A', "{message:?}");
    let mut parts = message.body[4..].split(|byte| *byte == 0).map(|part| String::from_utf8_lossy(part).into_owned());
    (parts.next().unwrap(), parts.next().unwrap())
}

fn pair(channel: &str, payload: &str) -> (String, String) {
    (channel.to_owned(), payload.to_owned())
}

#[tokio::test]
async fn two_listeners_hear_a_thousand_in_order() {
    let stage = stage(1).await;
    let (mut one, mut two, teller) = (stage.connect().await, stage.connect().await, stage.connect().await);
    one.batch_execute("listen a").await.unwrap();
    // By the extended protocol.
    two.execute("listen a", &[]).await.unwrap();
    two.batch_execute("listen \"B b\"; listen c; unlisten c").await.unwrap();
    for number in 0..1000 {
        teller.batch_execute(&format!("notify a, '{number}'")).await.unwrap();
        if number % 100 == 0 {
            teller.batch_execute("notify \"B b\"; notify c").await.unwrap();
        }
    }
    teller.batch_execute("begin; notify a, 'not'; rollback").await.unwrap();
    teller.execute("select pg_notify('a', 'end')", &[]).await.unwrap();
    for number in 0..1000 {
        assert_eq!(heard(&mut one).await, pair("a", &number.to_string()));
        assert_eq!(heard(&mut two).await, pair("a", &number.to_string()));
        if number % 100 == 0 {
            assert_eq!(heard(&mut two).await, pair("B b", ""));
        }
    }
    assert_eq!(heard(&mut one).await, pair("a", "end"));
    assert_eq!(heard(&mut two).await, pair("a", "end"));
    // Nobody has kept a server for it.
    assert_eq!(stage.proxy.metric("hakem_pins", &[]).await, 0.0);
    assert_eq!(stage.proxy.metric("hakem_listeners", &[]).await, 2.0);
    assert!(stage.proxy.metric("hakem_notifications_total", &[]).await >= 2012.0);
}

#[tokio::test]
async fn a_listen_is_transactional() {
    let stage = stage(0).await;
    let (mut one, teller) = (stage.connect().await, stage.connect().await);
    // What does not listen: undone, by ROLLBACK, ROLLBACK TO, a failure, UNLISTEN, DISCARD ALL.
    let undone = [
        "begin; listen a; rollback",
        "begin; select 1; listen a; rollback",
        "begin; savepoint s; listen a; rollback to s; commit",
        "listen a; unlisten a",
        "begin; listen a; unlisten *; commit",
        "listen a; discard all",
    ];
    for script in undone {
        for statement in script.split("; ") {
            one.batch_execute(statement).await.unwrap();
        }
        teller.batch_execute("notify a, 'unheard'").await.unwrap();
    }
    one.batch_execute("begin").await.unwrap();
    one.batch_execute("listen a").await.unwrap();
    assert!(one.batch_execute("select 1/0").await.is_err());
    assert_eq!(one.failure("listen b").await.unwrap().code(), "25P02");
    one.batch_execute("commit").await.unwrap();
    teller.batch_execute("notify a, 'unheard'; notify b").await.unwrap();
    for script in ["begin; listen a; commit", "begin; savepoint s; listen b; release s; select 1; commit"] {
        for statement in script.split("; ") {
            one.batch_execute(statement).await.unwrap();
        }
    }
    one.execute("listen c", &[]).await.unwrap();
    for channel in ["a", "b", "c"] {
        teller.batch_execute(&format!("notify {channel}, 'heard'")).await.unwrap();
        assert_eq!(heard(&mut one).await, pair(channel, "heard"));
    }
    // In a transaction nothing is heard before its end, and then in order.
    one.batch_execute("begin").await.unwrap();
    one.batch_execute("select 1").await.unwrap();
    teller.batch_execute("notify a, '1'").await.unwrap();
    teller.batch_execute("notify b, '2'").await.unwrap();
    until("both to have arrived", async || stage.proxy.metric("hakem_notifications_total", &[]).await >= 5.0)
        .await
        .unwrap();
    one.batch_execute("notify a, '3'").await.unwrap();
    one.batch_execute("commit").await.unwrap();
    for expected in [pair("a", "1"), pair("b", "2"), pair("a", "3")] {
        assert_eq!(heard(&mut one).await, expected);
    }
    // Gone with the client.
    one.close().await;
    until("the channels to be left", async || {
        stage.direct(0, "select count(*) from pg_stat_activity where query like 'LISTEN%'").await == "0"
    })
    .await
    .unwrap();
    assert_eq!(stage.proxy.metric("hakem_listeners", &[]).await, 0.0);
}

#[tokio::test]
async fn what_was_sent_before_a_listen_is_not_heard() {
    let stage = stage(0).await;
    let (mut one, mut two, teller) = (stage.connect().await, stage.connect().await, stage.connect().await);
    one.batch_execute("listen a").await.unwrap();
    two.batch_execute("begin").await.unwrap();
    two.batch_execute("listen b").await.unwrap();
    // What they hear is under way for a while.
    let link = "select pid from pg_stat_activity where query like 'LISTEN%'";
    let link = stage.direct(0, link).await;
    let signal = |signal: &str| {
        let sent = std::process::Command::new("kill").args([signal, &*link]).status().unwrap();
        assert!(sent.success());
    };
    signal("-STOP");
    teller.batch_execute("notify a, 'early'; notify b, 'early'").await.unwrap();
    let mut late = stage.connect().await;
    let (_, _, ()) = tokio::join!(
        async { late.batch_execute("listen a").await.unwrap() },
        async { two.batch_execute("commit").await.unwrap() },
        async {
            until("all to be listening", async || stage.proxy.metric("hakem_listeners", &[]).await == 3.0)
                .await
                .unwrap();
            signal("-CONT");
        },
    );
    teller.batch_execute("notify a, 'late'; notify b, 'late'").await.unwrap();
    assert_eq!(heard(&mut late).await, pair("a", "late"));
    assert_eq!(heard(&mut two).await, pair("b", "late"));
    assert_eq!(heard(&mut one).await, pair("a", "early"));
}

#[tokio::test]
async fn what_is_sent_once_a_listen_shows_is_heard() {
    let stage = stage(0).await;
    stage.direct(0, "create table seen (i int)").await;
    for number in 0..100 {
        let mut one = stage.connect().await;
        // By who sees the row at once, before the proxy has seen that it is committed.
        let teller = async {
            let done =
                format!("do $$ begin while not exists (select from seen where i = {number}) loop end loop; end $$");
            stage.direct(0, &format!("{done}; notify a, '{number}'")).await;
        };
        let listener = async {
            one.batch_execute("begin").await.unwrap();
            one.batch_execute("listen a").await.unwrap();
            one.batch_execute(&format!("insert into seen values ({number})")).await.unwrap();
            one.batch_execute("commit").await.unwrap();
        };
        tokio::join!(listener, teller);
        assert_eq!(heard(&mut one).await, pair("a", &number.to_string()));
    }
}

#[tokio::test]
async fn between_messages_and_between_transactions() {
    let stage = stage(1).await;
    let (mut one, mut teller) =
        (Raw::log_in(&stage.proxy, "postgres").await, Raw::log_in(&stage.proxy, "postgres").await);
    assert_eq!(tags(&one.query("listen a; listen b").await), "CCZ");
    // All answers are what they would be without a server of the client's own.
    assert_eq!(tags(&one.query("begin").await), "CZ");
    assert_eq!(tags(&one.query("listen c").await), "CZ");
    let mut batch = Vec::new();
    frontend::put_parse(&mut batch, b"l", b"listen d", &[0, 0]);
    frontend::put_describe_statement(&mut batch, b"l");
    crate::raw::put_execute(&mut batch, "l");
    frontend::put_sync(&mut batch);
    one.say(&batch).await;
    assert_eq!(tags(&one.until_ready().await), "1tn2CZ");
    let mut other = stage.connect().await;
    other.batch_execute("listen d").await.unwrap();
    assert_eq!(teller.query("notify d, 'early'").await.len(), 2);
    assert_eq!(heard(&mut other).await, pair("d", "early"));
    // Not while the transaction is open.
    assert_eq!(tags(&one.query("select 1").await), "TDCZ");
    assert_eq!(tags(&one.query("commit").await), "CZ");
    assert_eq!(teller.query("notify d, 'late'").await.len(), 2);
    assert_eq!(notification(&one.hear().await.unwrap()), pair("d", "late"));
    // A session that is pinned hears, too.
    assert_eq!(tags(&one.query("create temp table t (n int)").await), "CZ");
    teller.query("notify a, 'pinned'").await;
    assert_eq!(notification(&one.hear().await.unwrap()), pair("a", "pinned"));
    assert_eq!(tags(&one.query("listen e").await), "CZ");
    teller.query("notify e, 'pinned'").await;
    assert_eq!(notification(&one.hear().await.unwrap()), pair("e", "pinned"));
    assert_eq!(tags(&one.query("discard all").await), "CZ");
    teller.query("notify e, 'nobody'").await;
    // The sender is the server's process; nothing of it is left in the answers.
    assert_eq!(tags(&one.query("select 2").await), "TDCZ");
    // Among other statements LISTEN keeps its server, until UNLISTEN.
    assert_eq!(tags(&one.query("listen f; select 1").await), "CTDCZ");
    assert_eq!(stage.proxy.metric("hakem_pins", &[("reason", "listen")]).await, 1.0);
    teller.query("notify f, 'own'").await;
    assert_eq!(notification(&one.hear().await.unwrap()), pair("f", "own"));
    assert_eq!(tags(&one.query("unlisten *").await), "CZ");
    assert_eq!(stage.proxy.metric("hakem_pins", &[("reason", "listen")]).await, 0.0);
    assert_eq!(tags(&one.query("begin").await), "CZ");
    assert_eq!(sqlstate(&one.query("selec").await).as_deref(), Some("42601"));
    assert_eq!(sqlstate(&one.query("listen a").await).as_deref(), Some("25P02"));
}

#[tokio::test]
async fn other_databases_hear_nothing() {
    let stage = stage(0).await;
    stage.direct(0, "create database other").await;
    let mut here = stage.connect().await;
    let mut there = stage
        .proxy
        .connect_with(|config| {
            config.dbname("other");
        })
        .await
        .unwrap();
    here.batch_execute("listen a").await.unwrap();
    there.batch_execute("listen a").await.unwrap();
    here.batch_execute("notify a, 'here'").await.unwrap();
    there.batch_execute("notify a, 'there'").await.unwrap();
    here.batch_execute("notify a, 'end'").await.unwrap();
    there.batch_execute("notify a, 'end'").await.unwrap();
    assert_eq!([heard(&mut here).await.1, heard(&mut here).await.1], ["here", "end"]);
    assert_eq!([heard(&mut there).await.1, heard(&mut there).await.1], ["there", "end"]);
}

#[tokio::test]
async fn a_channel_that_the_server_refuses_disturbs_nobody_else() {
    let stage = stage(0).await;
    let make = "create database jp template template0 encoding 'EUC_JP' lc_collate 'C' lc_ctype 'C'";
    stage.direct(0, make).await;
    let connect = async || {
        let client = stage.proxy.connect_with(|config| {
            config.dbname("jp");
        });
        client.await.unwrap()
    };
    let (mut one, two) = (connect().await, connect().await);
    one.batch_execute("listen a").await.unwrap();
    let links = "select string_agg(pid::text, ' ') from pg_stat_activity where query like 'LISTEN%'";
    let link = stage.direct(0, links).await;
    // No character of that encoding begins so.
    assert_eq!(two.failure("listen \"\u{1f600}\"").await.unwrap().code(), "22021");
    two.batch_execute("listen b").await.unwrap();
    assert_eq!(stage.direct(0, links).await, link, "the connection lives");
    one.batch_execute("notify a, 'x'").await.unwrap();
    assert_eq!(one.message().await.map(|message| matches!(message, AsyncMessage::Notification(_))), Some(true));
    assert_eq!(stage.proxy.log().matches("cannot listen").count(), 0);
}

#[tokio::test]
async fn a_lost_listener_is_replaced_and_its_clients_are_warned() {
    let stage = stage(1).await;
    let (mut one, teller) = (stage.connect().await, stage.connect().await);
    one.batch_execute("listen a").await.unwrap();
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity where query like '%LISTEN \"a\"%' and pid <> pg_backend_pid()";
    assert_eq!(stage.direct(0, kill).await, "1");
    match one.message().await {
        Some(AsyncMessage::Notice(notice)) => assert!(notice.message().contains("may have been lost"), "{notice}"),
        other => panic!("{other:?}"),
    }
    teller.batch_execute("notify a, 'again'").await.unwrap();
    assert_eq!(heard(&mut one).await, pair("a", "again"));
}

#[tokio::test]
async fn a_failover_is_survived() {
    let mut stage = stage(1).await;
    let (mut one, teller) = (stage.connect().await, stage.connect().await);
    one.batch_execute("listen a").await.unwrap();
    stage.cluster.kill(0).await.unwrap();
    stage.cluster.promote(1).await.unwrap();
    match one.message().await {
        Some(AsyncMessage::Notice(notice)) => assert!(notice.message().contains("may have been lost"), "{notice}"),
        other => panic!("{other:?}"),
    }
    teller.batch_execute("notify a, 'after'").await.unwrap();
    assert_eq!(heard(&mut one).await, pair("a", "after"));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go() {
    let stage = stage(0).await;
    let (mut deaf, mut good, teller) =
        (Raw::log_in(&stage.proxy, "postgres").await, stage.connect().await, stage.connect().await);
    assert_eq!(tags(&deaf.query("listen a").await), "CZ");
    good.batch_execute("listen a").await.unwrap();
    // More than the bound and all that the sockets hold.
    let flood = "select count(pg_notify('a', n || repeat('x', 7900))) from generate_series(1, 500) n";
    for _ in 0..6 {
        teller.batch_execute(flood).await.unwrap();
        for number in 1..=500 {
            assert!(heard(&mut good).await.1.starts_with(&format!("{number}x")));
        }
    }
    until("the deaf client to be let go", async || stage.proxy.metric("hakem_listeners", &[]).await == 1.0)
        .await
        .unwrap();
    teller.batch_execute("notify a, 'still'").await.unwrap();
    assert_eq!(heard(&mut good).await, pair("a", "still"));
    let mut last = None;
    while let Ok(Some(message)) = tokio::time::timeout(crate::harness::WAIT_MAX, deaf.hear_any()).await {
        last = Some(message);
    }
    // Where there was still room for it, it is told why.
    if let Some(message) = last.filter(|message| message.tag == tag::ERROR_RESPONSE) {
        assert_eq!(sqlstate(&[message]).as_deref(), Some("53400"));
    }
}

#[tokio::test]
async fn session_pooling_listens_on_the_clients_own_server() {
    let stage = Setup::replicas(0).with("pool", "mode", "\"session\"").start().await.unwrap();
    let (mut one, teller) = (stage.connect().await, stage.connect().await);
    one.batch_execute("listen a").await.unwrap();
    assert_eq!(one.value("select * from pg_listening_channels()").await.unwrap(), "a");
    teller.batch_execute("notify a, 'own'").await.unwrap();
    assert_eq!(heard(&mut one).await, pair("a", "own"));
    assert_eq!(stage.proxy.metric("hakem_listeners", &[]).await, 0.0);
}

#[tokio::test]
async fn the_channels_of_a_session() {
    let stage = stage(0).await;
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    let mut check = async |sql: &str, expected: &[&str]| {
        let answer = raw.query(sql).await;
        let rows: Vec<_> = answer.iter().filter(|message| message.tag == tag::DATA_ROW).collect();
        assert_eq!(
            rows.iter().map(|row| String::from_utf8_lossy(&row.body[6..])).collect::<Vec<_>>(),
            expected,
            "{sql}"
        );
        assert_eq!(answer.last().map(|message| message.tag), Some(tag::READY_FOR_QUERY));
    };
    let list = "SELECT pg_listening_channels();";
    check(list, &[]).await;
    check("listen a", &[]).await;
    check("listen \"B b\"", &[]).await;
    check("begin", &[]).await;
    check("unlisten a", &[]).await;
    // Not before it is committed.
    check("select pg_listening_channels()", &["B b", "a"]).await;
    check("commit", &[]).await;
    check(list, &["B b"]).await;
    check("unlisten *", &[]).await;
    check(list, &[]).await;
}
