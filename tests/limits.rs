//! Strangers, crowds and clients that misbehave or vanish.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use wire::backend::{Report, tag};
use wire::startup::{self, CancelKey};

use crate::harness::{Setup, Stage, until};
use crate::raw::{Message, Raw, sqlstate, tags};

#[tokio::test]
async fn logins_that_fail_tell_nothing() {
    let stage = Setup::replicas(0).start().await.unwrap();
    let refused = async |user: &str, password: &str| {
        let outcome = stage.proxy.connect_with(|config| {
            config.user(user).password(password);
        });
        let error = outcome.await.err().unwrap_or_else(|| panic!("{user} was let in"));
        let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone();
        (
            error.severity().to_owned(),
            error.code().clone(),
            error.message().replace(user, "USER"),
            error.detail().map(str::to_owned),
        )
    };
    let wrong = refused("postgres", "wrong").await;
    assert_eq!(wrong.1, SqlState::INVALID_PASSWORD);
    assert_eq!(wrong, refused("nobody", "wrong").await);
    assert_eq!(wrong, refused("nobody", "hakem").await);
    assert_eq!(wrong, refused("postgres", "").await);
    assert_eq!(stage.proxy.metric("hakem_logins_total", &[("outcome", "failure")]).await, 4.0);

    let outcome = stage.proxy.connect_with(|config| {
        config.dbname("no such database");
    });
    assert_eq!(outcome.await.err().unwrap().code(), Some(&SqlState::UNDEFINED_DATABASE));
    stage.connect().await;
}

#[tokio::test]
async fn a_crowd_is_told_that_it_is_one() {
    let stage = Setup::replicas(0).with("proxy", "max_client_conn", "3").start().await.unwrap();
    let (one, two, three) = (stage.connect().await, stage.connect().await, stage.connect().await);
    let fourth = stage.proxy.connect_with(|_| {}).await.err().unwrap();
    assert_eq!(fourth.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "{fourth:?}");
    for client in [&one, &two, &three] {
        assert_eq!(client.value("select 1").await.unwrap(), "1");
    }
    one.close().await;
    until("a place to be free", async || stage.proxy.connect_with(|_| {}).await.is_ok()).await.unwrap();
}

#[tokio::test]
async fn a_queue_has_an_end() {
    let setup = Setup::replicas(0).with("pool", "size", "1").with("pool", "queue_max", "1");
    let stage = setup.clone().start().await.unwrap();
    let (holder, waiter, third) = (stage.connect().await, stage.connect().await, stage.connect().await);
    holder.batch_execute("begin; select 1").await.unwrap();
    let late = async {
        until("one to wait", async || stage.proxy.metric("hakem_clients_waiting", &[]).await == 1.0).await.unwrap();
        assert_eq!(third.failure("select 1").await, Some(SqlState::TOO_MANY_CONNECTIONS));
        holder.batch_execute("commit").await.unwrap();
    };
    let (waited, ()) = tokio::join!(waiter.value("select 1"), late);
    assert_eq!(waited.unwrap(), "1");
    holder.batch_execute("begin; select 1").await.unwrap();
    setup.with("pool", "query_wait_timeout", "\"200ms\"").reload(&stage).await.unwrap();
    assert_eq!(waiter.failure("select 1").await, Some(SqlState::QUERY_CANCELED));
    for reason in ["query_wait_timeout", "too_many_connections"] {
        assert_eq!(stage.proxy.metric("hakem_refused_total", &[("reason", reason)]).await, 1.0, "{reason}");
    }
    holder.batch_execute("commit").await.unwrap();
    until("it to be served", async || waiter.failure("select 1").await.is_none()).await.unwrap();
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let stage = Setup::replicas(0).start().await.unwrap();
    let session = |parameters: &[(&'static str, &'static str)]| {
        let mut packet = Vec::new();
        startup::put_session(&mut packet, parameters.iter().copied());
        packet
    };
    let mut old = session(&[("user", "postgres")]);
    old[4..8].copy_from_slice(&(2_u32 << 16).to_be_bytes());
    // What is said first, and the SQLSTATE that it ends with; none where there is nothing to answer.
    let cases: [(&[u8], Option<&str>); 9] = [
        // A handshake, where no encryption is offered.
        (b"\x16\x03\x01\x02\0\x01\0\x01\xfc", None),
        (b"GET / HTTP/1.1\r\n\r\n", Some("08P01")),
        (b"\0\0\0\x04", Some("08P01")),
        (b"\0\0\0\x08\0\x03", Some("08P01")),
        (b"\xff\xff\xff\xff\0\x03\0\0", Some("08P01")),
        (&old, Some("0A000")),
        (&session(&[("database", "postgres")]), Some("28000")),
        (&session(&[("user", "postgres"), ("replication", "maybe")]), Some("22023")),
        (&cancel(7, 7), None),
    ];
    let check = async |said: &[u8], expected: Option<&str>| {
        let mut raw = Raw::open(&stage.proxy).await;
        raw.say(said).await;
        let mut heard = Vec::new();
        while let Some(message) = raw.hear().await {
            heard.push(message);
        }
        assert_eq!(sqlstate(&heard).as_deref(), expected, "{said:?}: {heard:?}");
        if let Some(Message { body, .. }) = heard.last() {
            assert!(Report::new(body).is_fatal(), "{said:?}");
        }
    };
    for (said, expected) in cases {
        check(said, expected).await;
    }

    // Encryption is declined by one byte, each kind once, and the login goes on.
    let mut raw = Raw::open(&stage.proxy).await;
    for code in [80_877_103_u32, 80_877_104] {
        raw.stream.write_all(&[&8_u32.to_be_bytes()[..], &code.to_be_bytes()].concat()).await.unwrap();
        assert_eq!(raw.stream.read_u8().await.unwrap(), b'N');
    }
    raw.say(&session(&[("user", "postgres"), ("database", "postgres")])).await;
    assert_eq!(raw.hear().await.unwrap().tag, tag::AUTHENTICATION);

    // Byte by byte.
    let mut raw = Raw::open(&stage.proxy).await;
    for byte in session(&[("user", "postgres"), ("database", "postgres")]) {
        raw.say(&[byte]).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(raw.hear().await.unwrap().tag, tag::AUTHENTICATION);

    // Silence, and half a login: the time for all of it is bounded, and the place is free again.
    Setup::replicas(0).with("proxy", "client_login_timeout", "\"300ms\"").reload(&stage).await.unwrap();
    check(b"", Some("08P01")).await;
    let mut raw = Raw::open(&stage.proxy).await;
    raw.say(&session(&[("user", "postgres"), ("database", "postgres")])).await;
    assert_eq!(raw.hear().await.unwrap().tag, tag::AUTHENTICATION);
    assert_eq!(sqlstate(&[raw.hear().await.unwrap()]).as_deref(), Some("08P01"));
    assert_eq!(raw.hear().await, None);
    let late = [("timeout", "client_login_timeout")];
    // With the one above that has never sent the rest of its packet.
    assert_eq!(stage.proxy.metric("hakem_timeouts_total", &late).await, 3.0);
    until("nobody to be counted", async || stage.proxy.metric("hakem_clients", &[]).await == 0.0).await.unwrap();
}

#[tokio::test]
async fn nonsense_after_the_login_costs_the_connection_only() {
    let stage = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1").start().await.unwrap();
    let cases: [&[u8]; 5] =
        [b"Q\0\0\0\x03", b"Q\xff\xff\xff\xff", b"\0\0\0\0\x04", b"p\0\0\0\x08abc\0", b"Q\0\0\0\x07abc"];
    for said in cases {
        let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
        raw.say(said).await;
        let mut heard = Vec::new();
        while let Some(message) = raw.hear().await {
            heard.push(message);
        }
        assert_eq!(sqlstate(&heard).as_deref(), Some("08P01"), "{said:?}: {heard:?}");
    }
    // What is out of place but well-formed is an error of the server's, or nothing.
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    raw.say(b"c\0\0\0\x04d\0\0\0\x05xf\0\0\0\x05\0").await;
    assert_eq!(tags(&raw.query("select 1").await), "TDCZ");
    assert_eq!(sqlstate(&raw.execute("nowhere").await).as_deref(), Some("26000"));
    assert_eq!(tags(&raw.query("").await), "IZ");
    assert_eq!(tags(&raw.query("select 1").await), "TDCZ");
}

#[tokio::test]
async fn who_vanishes_leaves_nothing() {
    let stage = Setup::replicas(0).with("pool", "size", "2").start().await.unwrap();
    stage.psql("create table t (n int primary key); insert into t values (1)").await;
    let other = stage.connect().await;
    let nothing_left =
        "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()
        and (state like 'idle in transaction%' or (state = 'active' and query like '%pg_sleep%'))";
    let leavings = [
        "begin; update t set n = 1",
        "begin; lock table t",
        "begin; select pg_advisory_xact_lock(1); select 1/0",
        "select pg_advisory_lock(1)",
    ];
    for leaving in leavings {
        let client = stage.connect().await;
        // Some of these end in an error, which is meant.
        let _ = client.batch_execute(leaving).await;
        client.vanish().await;
        until("its transaction to be gone", async || stage.direct(0, nothing_left).await == "0").await.unwrap();
        other.batch_execute("update t set n = 1").await.unwrap();
        until("its lock to be free", async || other.value("select pg_try_advisory_xact_lock(1)").await.unwrap() == "t")
            .await
            .unwrap();
    }
    // While a statement of its own runs.
    let client = stage.connect().await;
    let sleeping = async { client.batch_execute("begin; update t set n = 1; select pg_sleep(600)").await };
    let asleep = async {
        let active = "select count(*) from pg_stat_activity where query like '%pg_sleep(600)' and state = 'active'";
        until("it to sleep", async || stage.direct(0, active).await == "1").await.unwrap();
    };
    tokio::select! {
        _ = sleeping => panic!("it slept for ten minutes"),
        () = asleep => {}
    }
    client.vanish().await;
    let figures = async || stage.proxy.metric("hakem_server_connections", &[("state", "leased")]).await;
    until("its server to be let go", async || figures().await == 0.0).await.unwrap();
    assert_eq!(stage.proxy.metric("hakem_clients", &[]).await, 1.0);
}

#[tokio::test]
async fn cancel_requests_of_strangers_are_ignored() {
    let stage = Setup::replicas(0).start().await.unwrap();
    let client = stage.connect().await;
    let other = stage.connect().await;
    let token = other.cancel_token();
    let strangers = async {
        let active = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
        until("it to sleep", async || stage.direct(0, active).await == "1").await.unwrap();
        for n in 0..20 {
            let mut raw = Raw::open(&stage.proxy).await;
            raw.say(&cancel(n, n)).await;
            assert_eq!(raw.hear().await, None);
        }
        // A known one, of somebody who does nothing.
        token.cancel_query(NoTls).await.unwrap();
        assert_eq!(stage.direct(0, active).await, "1");
        client.cancel_token().cancel_query(NoTls).await.unwrap();
    };
    let (failure, ()) = tokio::join!(client.failure("select pg_sleep(600)"), strangers);
    assert_eq!(failure, Some(SqlState::QUERY_CANCELED));
}

#[tokio::test]
async fn every_way_into_a_server() {
    for authentication in [cluster::Authentication::Scram, cluster::Authentication::Md5, cluster::Authentication::Trust]
    {
        let mut setup = Setup::replicas(0).and("[[users]]\nname = \"someone\"\npassword = \"secret\"\nserver_user = \"postgres\"\nserver_password = \"hakem\"");
        setup.cluster.authentication = authentication;
        let stage: Stage = setup.start().await.unwrap();
        assert_eq!(stage.connect().await.value("select session_user").await.unwrap(), "postgres", "{authentication:?}");
        let someone = stage.proxy.connect_with(|config| {
            config.user("someone").password("secret");
        });
        assert_eq!(
            someone.await.unwrap().value("select session_user").await.unwrap(),
            "postgres",
            "{authentication:?}"
        );
        assert_eq!(stage.psql("select 'psql'").await, "psql", "{authentication:?}");
    }
}

fn cancel(process: u32, secret: u32) -> Vec<u8> {
    let mut packet = Vec::new();
    startup::put_cancel(&mut packet, &CancelKey { process, secret: secret.to_be_bytes().into() });
    packet
}

/// An idle connection whose server has gone without a word is found out, and another is made.
#[tokio::test]
async fn an_idle_server_is_asked_before_it_is_used() {
    let setup = Setup::replicas(0).with("pool", "size", "1").with("pool", "server_check_delay", "\"0s\"").with(
        "pool",
        "server_check_query",
        "\"select nextval('checks')\"",
    );
    let stage = setup.clone().start().await.unwrap();
    stage.direct(0, "create sequence checks").await;
    let client = stage.connect().await;
    let first = client.value("select pg_backend_pid()").await.unwrap();
    assert_eq!(client.value("select pg_backend_pid()").await.unwrap(), first);
    let asked: i64 = stage.direct(0, "select last_value from checks").await.trim().parse().unwrap();
    assert!(asked >= 1, "the second one was preceded by a check");

    // As long as a connection may take, so may the answer.
    setup.with("pool", "server_connect_timeout", "\"1s\"").reload(&stage).await.unwrap();
    let first = client.value("select pg_backend_pid()").await.unwrap();
    signal("-STOP", &first);
    let second = client.value("select pg_backend_pid()").await;
    signal("-CONT", &first);
    assert_ne!(second.unwrap(), first);

    // One that answers with an error is not used either, and neither is the one after it: the client is told why not.
    stage.direct(0, "drop sequence checks").await;
    let third = client.value("select pg_backend_pid()").await.unwrap();
    assert_ne!(client.value("select pg_backend_pid()").await.unwrap(), third);
}

fn signal(signal: &str, process: &str) {
    assert!(std::process::Command::new("kill").args([signal, process]).status().unwrap().success());
}
