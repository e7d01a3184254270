//! Strangers: crowds of half-open logins, frames that are not the protocol, servers that lie. None of it costs anybody else anything.

use std::net::SocketAddr;

use cluster::Cluster;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use wire::backend::{Report, tag};
use wire::frontend;
use wire::startup;

use crate::harness::{Proxy, Setup, Stage, until};
use crate::raw::{Message, Raw, put_execute, sqlstate, tags, value};
use crate::tap::Tap;

/// How the strangers stop: before they say anything, within a packet, when they are asked for their password, within a handshake.
fn openings() -> [Vec<u8>; 4] {
    let mut packet = Vec::new();
    startup::put_session(&mut packet, [("user", "postgres"), ("database", "postgres"), ("x.y", &"x".repeat(9_900))]);
    let mut short = Vec::new();
    startup::put_session(&mut short, [("user", "postgres"), ("database", "postgres")]);
    let tls = [8_u32.to_be_bytes(), 80_877_103_u32.to_be_bytes()].concat();
    [Vec::new(), packet[..packet.len() - 1].to_vec(), short, tls]
}

#[tokio::test]
async fn five_thousand_half_open_logins_keep_nobody_out() {
    const STRANGERS: usize = 5000;
    const ROOM: f64 = 500.0;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
    let setup = Setup::replicas(0).with("proxy", "max_client_conn", "3").with("proxy", "logins_max", "500");
    let stage = setup.with("proxy", "client_login_timeout", "\"1h\"").start().await.unwrap();
    // Clients that have logged in are not touched.
    let old = stage.connect().await;
    assert_eq!(old.value("select 1").await.unwrap(), "1");
    let before = stage.proxy.memory_kb("VmRSS");
    let flood = async {
        let openings = openings();
        let mut strangers = Vec::new();
        for n in 0..STRANGERS {
            let mut stranger = TcpStream::connect(stage.proxy.address).await.unwrap();
            // It may have been shown out already.
            let _ = stranger.write_all(&openings[n % openings.len()]).await;
            strangers.push(stranger);
        }
        strangers
    };
    let meanwhile = async {
        // Who comes in the middle of it gets in, too.
        until("somebody to get in", async || stage.proxy.connect_with(|_| {}).await.is_ok()).await.unwrap();
    };
    let (strangers, ()) = tokio::join!(flood, meanwhile);
    let dropped = async || stage.proxy.metric("hakem_logins_dropped_total", &[]).await;
    until("the crowd to be thinned out", async || dropped().await >= STRANGERS as f64 - ROOM).await.unwrap();
    assert!(stage.proxy.metric("hakem_logins_open", &[]).await <= ROOM);
    for _ in 0..5 {
        assert_eq!(stage.psql("select 2").await, "2");
    }
    assert_eq!(old.value("select 3").await.unwrap(), "3");
    // 20 kB for each that is let wait, and something for the sockets' own.
    let grown = stage.proxy.memory_kb("VmHWM").saturating_sub(before);
    assert!(grown < 40 << 10, "{grown} kB more");
    drop(strangers);
    until("all to be gone", async || stage.proxy.metric("hakem_logins_open", &[]).await == 0.0).await.unwrap();
}

#[tokio::test]
async fn the_limit_of_descriptors_is_raised() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    // What the program inherits is for programs that have few.
    setrlimit(Resource::Nofile, Rlimit { current: Some(1024), maximum }).unwrap();
    let stage = Setup::replicas(0).start().await.unwrap();
    let limits = stage.proxy.process("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let figures: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(figures[3], figures[4], "{line}");
    assert_ne!(figures[3], "1024", "{line}: this machine's own limit is too low for the test");
}

#[tokio::test]
async fn a_full_house_can_be_cancelled() {
    let setup = Setup::replicas(0).with("proxy", "max_client_conn", "1");
    let stage = setup.start().await.unwrap();
    let client = stage.connect().await;
    let refused = stage.proxy.connect_with(|_| {}).await.err().unwrap();
    assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::TOO_MANY_CONNECTIONS));
    assert_eq!(refused.as_db_error().unwrap().message(), "no more connections allowed (max_client_conn)");
    // Nor is there room for who says that he wants the console and then does not.
    let psql = crate::harness::postgres_program("psql");
    let tunnel = ["-c", "IDENTIFY_SYSTEM", "dbname=hakem replication=true"];
    let output = stage.proxy.client_program(&psql, &tunnel, "").await;
    assert!(output.stderr.contains("no more connections allowed (max_client_conn)"), "{output:?}");
    let token = client.cancel_token();
    let cancel = async {
        let asleep = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
        until("it to sleep", async || stage.direct(0, asleep).await == "1").await.unwrap();
        token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (failure, ()) = tokio::join!(client.failure("select pg_sleep(600)"), cancel);
    assert_eq!(failure, Some(tokio_postgres::error::SqlState::QUERY_CANCELED));
}

/// Frames that nobody may send.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    let framed = |tag: u8, body: &[u8]| {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[tag][..], &length.to_be_bytes(), body].concat()
    };
    let claimed = |tag: u8, length: u32| [&[tag][..], &length.to_be_bytes(), b"rest"].concat();
    vec![
        ("an unknown type", framed(b'?', b"")),
        ("a NUL for a type", framed(0, b"")),
        ("a length below its own", claimed(b'Q', 3)),
        ("no length", claimed(b'Q', 0)),
        ("a negative length", claimed(b'Q', 0xffff_ffff)),
        ("the smallest negative length", claimed(b'P', 0x8000_0000)),
        ("a query larger than allowed", claimed(b'Q', 1 << 20)),
        ("the largest length", claimed(b'B', 0x7fff_ffff)),
        ("a large Sync", claimed(b'S', 1 << 14)),
        ("an unterminated query", framed(b'Q', b"select 1")),
        ("a query with a NUL", framed(b'Q', b"select\x001\0")),
        ("half a Parse", framed(b'P', b"name\0select 1\0\0\x02\0\0")),
        ("half a Bind", framed(b'B', b"portal")),
        ("a Describe of nothing known", framed(b'D', b"Xname\0")),
        ("a Close without a name", framed(b'C', b"S")),
        ("a password", framed(b'p', b"secret\0")),
    ]
}

/// What a session is doing when it says it.
#[derive(Clone, Copy, Debug)]
enum Doing {
    Nothing,
    Transaction,
    FailedTransaction,
    CopyIn,
    Pipeline,
}

async fn start(doing: Doing, raw: &mut Raw) {
    let mut out = Vec::new();
    match doing {
        Doing::Nothing => {}
        Doing::Transaction => drop(raw.query("begin; insert into t values (1)").await),
        Doing::FailedTransaction => drop(raw.query("begin; insert into t values (1); select 1/0").await),
        Doing::CopyIn => {
            frontend::put_query(&mut out, "copy t from stdin");
            raw.say(&out).await;
            assert_eq!(raw.hear().await.unwrap().tag, tag::COPY_IN_RESPONSE);
            raw.say(b"d\0\0\0\x062\n").await;
        }
        Doing::Pipeline => {
            frontend::put_parse(&mut out, b"", b"insert into t values (3)", &[0, 0]);
            put_execute(&mut out, "");
            out.extend_from_slice(b"H\0\0\0\x04");
            raw.say(&out).await;
            while raw.hear().await.unwrap().tag != tag::COMMAND_COMPLETE {}
        }
    }
}

#[tokio::test]
async fn hostile_frames_cost_their_sender_only() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let stage = setup.with("proxy", "max_packet_size", "\"16kB\"").start().await.unwrap();
    stage.direct(0, "create table t (n int)").await;
    for doing in [Doing::Nothing, Doing::Transaction, Doing::FailedTransaction, Doing::CopyIn, Doing::Pipeline] {
        for (what, frame) in hostile() {
            let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
            start(doing, &mut raw).await;
            raw.say(&frame).await;
            let mut heard = Vec::new();
            while let Some(message) = raw.hear().await {
                heard.push(message);
            }
            let last = heard.last().unwrap_or_else(|| panic!("{doing:?}, {what}: not a word"));
            assert_eq!(sqlstate(std::slice::from_ref(last)).as_deref(), Some("08P01"), "{doing:?}, {what}: {heard:?}");
            assert!(Report::new(&last.body).is_fatal(), "{doing:?}, {what}");
            // The only server is free, clean, and holds nothing of it.
            let mut next = Raw::log_in(&stage.proxy, "postgres").await;
            let answer = next.query("select count(*) from t").await;
            assert_eq!(value(&answer).as_deref(), Some("0"), "{doing:?}, {what}: {answer:?}");
        }
    }
    let leased = async || stage.proxy.metric("hakem_server_connections", &[("state", "leased")]).await == 0.0;
    until("no server to be lent", leased).await.unwrap();
    until("nobody to be left", async || stage.proxy.metric("hakem_clients", &[]).await == 0.0).await.unwrap();
}

#[tokio::test]
async fn memory_follows_what_has_come_not_what_was_announced() {
    let stage: Stage = Setup::replicas(0).with("auth", "method", "\"trust\"").start().await.unwrap();
    let mut clients = Vec::new();
    let before = stage.proxy.memory_kb("VmRSS");
    for _ in 0..100 {
        let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
        // Half a gigabyte, of which a little comes.
        raw.say(&[&b"Q\x20\0\0\0"[..], &[b'x'; 1000]].concat()).await;
        clients.push(raw);
    }
    // Whoever comes last is served after they have been.
    assert_eq!(value(&Raw::log_in(&stage.proxy, "postgres").await.query("select 1").await).as_deref(), Some("1"));
    let grown = stage.proxy.memory_kb("VmHWM").saturating_sub(before);
    assert!(grown < 20 << 10, "{grown} kB more");
}

/// A proxy whose server's words are changed by a tap.
async fn lied_to(change: crate::tap::Change) -> (Tap, Proxy, Cluster) {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let tap = Tap::to(&cluster).await;
    tap.change(Some(change));
    let proxy = setup.with("clusters.local", "servers", &tap.servers()).proxy(&cluster).await.unwrap();
    let ready = async || proxy.page("/ready").await.is_ok_and(|(status, _)| status == 200);
    until("the program to be ready", ready).await.unwrap();
    (tap, proxy, cluster)
}

#[tokio::test]
async fn servers_that_lie_about_lengths_cost_a_query() {
    let (_tap, proxy, _cluster) = lied_to(|tag, whole| {
        let mut whole = whole.to_vec();
        for (marker, length) in LIES {
            if tag == tag::DATA_ROW && whole.ends_with(marker.as_bytes()) {
                whole[1..5].copy_from_slice(&length.to_be_bytes());
            }
        }
        whole
    })
    .await;
    for (marker, _) in LIES {
        let mut raw = Raw::log_in(&proxy, "postgres").await;
        let mut out = Vec::new();
        frontend::put_query(&mut out, &format!("select '{marker}'"));
        raw.say(&out).await;
        // Whatever becomes of it, it is an end, and soon.
        let mut heard = Vec::new();
        while let Some(message) = raw.hear().await {
            let end = message.tag == tag::READY_FOR_QUERY;
            heard.push(message);
            if end {
                break;
            }
        }
        assert!(sqlstate(&heard).is_some() || heard.is_empty(), "{marker}: {heard:?}");
        let truth = Raw::log_in(&proxy, "postgres").await.query("select 'the truth'").await;
        assert_eq!(value(&truth).as_deref(), Some("the truth"), "{marker}");
    }
    assert!(proxy.memory_kb("VmHWM") < 200 << 10, "{} kB", proxy.memory_kb("VmHWM"));
}

/// The values of rows, and the lengths that are made of theirs.
const LIES: [(&str, u32); 4] =
    [("nothing", 0), ("too little", 3), ("negative", 0xffff_fff0), ("the smallest", 0x8000_0000)];

/// Lies during the login, told to users of these names.
#[tokio::test]
async fn servers_that_lie_at_the_login_are_not_used() {
    let mut setup =
        Setup::replicas(0).with("auth", "method", "\"trust\"").with("topology", "failover_timeout", "\"500ms\"");
    setup.cluster.authentication = cluster::Authentication::Trust;
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    for (user, _) in LIARS {
        cluster.sql(0, &format!("create role {user} login")).await.unwrap();
    }
    let tap = Tap::to(&cluster).await;
    tap.change(Some(|tag, whole| {
        let told = |user: &str| whole.ends_with(format!("session_authorization\0{user}\0").as_bytes());
        match LIARS.iter().find(|(user, _)| tag == tag::PARAMETER_STATUS && told(user)) {
            None => whole.to_vec(),
            Some((_, lie)) => lie.to_vec(),
        }
    }));
    let proxy = setup.with("clusters.local", "servers", &tap.servers()).proxy(&cluster).await.unwrap();
    let ready = async || proxy.page("/ready").await.is_ok_and(|(status, _)| status == 200);
    until("the program to be ready", ready).await.unwrap();
    for (user, _) in LIARS {
        let mut raw = Raw::open(&proxy).await;
        let mut packet = Vec::new();
        startup::put_session(&mut packet, [("user", *user), ("database", "postgres")]);
        raw.say(&packet).await;
        let mut heard = Vec::new();
        while let Some(message) = raw.hear().await {
            heard.push(message);
        }
        let last = heard.last().unwrap();
        assert!(last.tag == tag::ERROR_RESPONSE && Report::new(&last.body).is_fatal(), "{user}: {heard:?}");
        assert_eq!(sqlstate(&heard).as_deref(), Some("08006"), "{user}: {heard:?}");
    }
    assert_eq!(value(&Raw::log_in(&proxy, "postgres").await.query("select 1").await).as_deref(), Some("1"));
    assert!(proxy.memory_kb("VmHWM") < 200 << 10, "{} kB", proxy.memory_kb("VmHWM"));
}

/// Who is lied to, and what is said in place of a ParameterStatus.
const LIARS: &[(&str, &[u8])] = &[
    ("huge", b"S\x7f\xff\xff\xff"),
    ("large", b"S\0\x10\0\0"),
    ("negative", b"S\xff\xff\xff\xf0"),
    ("short", b"S\0\0\0\x03"),
    ("unterminated", b"S\0\0\0\x07a\0b"),
    ("surprising", b"D\0\0\0\x06\0\0"),
];

#[tokio::test]
async fn errors_without_their_fields_are_survived() {
    let (_tap, proxy, _cluster) = lied_to(|tag, whole| {
        let text = String::from_utf8_lossy(whole);
        match BARE.iter().find(|(marker, _)| tag == tag::ERROR_RESPONSE && text.contains(marker)) {
            None => whole.to_vec(),
            Some((_, body)) => {
                let length = u32::try_from(body.len() + 4).unwrap();
                [&[tag][..], &length.to_be_bytes(), body].concat()
            }
        }
    })
    .await;
    let mut raw = Raw::log_in(&proxy, "postgres").await;
    for (marker, body) in BARE {
        let answer: Vec<Message> = raw.query(&format!("select '{marker}'::int")).await;
        assert_eq!((tags(&answer).as_str(), answer[0].body.as_slice()), ("EZ", *body), "{marker}");
        // In a transaction, too.
        assert_eq!(tags(&raw.query("begin").await), "CZ");
        assert_eq!(tags(&raw.query(&format!("select '{marker}'::int")).await), "EZ", "{marker}");
        assert_eq!(sqlstate(&raw.query("select 1").await).as_deref(), Some("25P02"), "{marker}");
        raw.query("rollback").await;
        assert_eq!(value(&raw.query("select 1").await).as_deref(), Some("1"), "{marker}");
    }
}

/// Values that are no numbers, and what becomes of the errors that say so.
const BARE: &[(&str, &[u8])] = &[
    ("empty", b""),
    ("no fields", b"\0"),
    ("no code", b"SERROR\0Mno code\0\0"),
    ("short code", b"SERROR\0VERROR\0CXX\0Mshort code\0\0"),
    ("unterminated", b"SERROR\0C22012"),
];

/// A socket that says something and leaves at once, by reset.
async fn leave(address: SocketAddr, said: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_zero_linger().unwrap();
    let _ = stream.write_all(said).await;
}

#[tokio::test]
async fn resets_at_once_are_nothing() {
    let stage = Setup::replicas(0).start().await.unwrap();
    for _ in 0..50 {
        for opening in openings() {
            leave(stage.proxy.address, &opening).await;
        }
    }
    until("all to be gone", async || stage.proxy.metric("hakem_logins_open", &[]).await == 0.0).await.unwrap();
    assert_eq!(stage.psql("select 1").await, "1");
}

/// Who makes the proxy ask a slow server about a crowd of users keeps nobody else out.
#[tokio::test]
async fn who_waits_for_a_lookup_gives_way() {
    const ROOM: usize = 4;
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("auth", "auth_user", "\"postgres\"");
    let setup = setup.with("auth", "auth_query", "\"SELECT $1::text, NULL::text FROM pg_sleep(600)\"");
    let stage = setup.with("proxy", "logins_max", &ROOM.to_string()).start().await.unwrap();
    let mut crowd = Vec::new();
    for number in 0..ROOM {
        let mut stranger = Raw::open(&stage.proxy).await;
        stranger.knock(&format!("nobody_{number}"), "postgres").await;
        crowd.push(stranger);
    }
    let asks = "select count(*) from pg_stat_activity where query like '%pg_sleep(600)%' and state = 'active' and pid <> pg_backend_pid()";
    until("the server to be asked", async || stage.direct(0, asks).await == "2").await.unwrap();
    let mut friend = Raw::from(&stage.proxy, [127, 0, 0, 2]).await;
    friend.knock("postgres", "postgres").await;
    let heard = friend.until_ready().await;
    assert_eq!(sqlstate(&heard), None, "{heard:?}");
    let first = crowd.remove(0).hear().await.unwrap();
    assert_eq!(sqlstate(&[first]).as_deref(), Some("53300"));
}
