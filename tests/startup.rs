//! The first packets: versions, options, limits, and whatever else may come before a session.

use std::time::Duration;

use wire::backend::{Report, tag};
use wire::frame::Frame;
use wire::startup;
use wire::version::Version;

use crate::harness::{Setup, Stage, driver, python, until};
use crate::raw::{Message, Raw, sqlstate, tags, value};

/// A startup packet of any version.
fn packet(version: Version, parameters: &[(&'static str, &str)]) -> Vec<u8> {
    let mut packet = Vec::new();
    startup::put_session(&mut packet, parameters.iter().copied());
    packet[4..8].copy_from_slice(&version.0.to_be_bytes());
    packet
}

const WHO: [(&str, &str); 2] = [("user", "postgres"), ("database", "postgres")];

async fn trusting() -> Stage {
    Setup::replicas(0).with("auth", "method", "\"trust\"").start().await.unwrap()
}

/// Everything up to the end of the connection.
async fn all(raw: &mut Raw) -> Vec<Message> {
    let mut heard = Vec::new();
    while let Some(message) = raw.hear().await {
        heard.push(message);
    }
    heard
}

#[tokio::test]
async fn versions_are_negotiated() {
    let stage = trusting().await;
    // What is asked for; the version and options that NegotiateProtocolVersion names, if it is sent; bytes of the secret.
    type Negotiated<'a> = Option<(Version, &'a [&'a str])>;
    let cases: [(Version, &[&'static str], Negotiated<'_>, usize); 7] = [
        (Version::V3_0, &[], None, 4),
        (Version::new(3, 1), &[], None, 4),
        (Version::V3_2, &[], None, 32),
        (Version::new(3, 3), &[], Some((Version::V3_2, &[])), 32),
        (
            Version::new(3, 9999),
            &["_pq_.test_protocol_negotiation"],
            Some((Version::V3_2, &["_pq_.test_protocol_negotiation"])),
            32,
        ),
        (Version::V3_0, &["_pq_.b", "_pq_.a"], Some((Version::V3_0, &["_pq_.b", "_pq_.a"])), 4),
        (Version::V3_2, &["_pq_."], Some((Version::V3_2, &["_pq_."])), 32),
    ];
    for (asked, options, negotiated, secret_bytes) in cases {
        let parameters: Vec<_> = WHO.into_iter().chain(options.iter().map(|name| (*name, "on"))).collect();
        let mut raw = Raw::open(&stage.proxy).await;
        raw.say(&packet(asked, &parameters)).await;
        let answer = raw.until_ready().await;
        let told: Vec<&Message> =
            answer.iter().filter(|message| message.tag == tag::NEGOTIATE_PROTOCOL_VERSION).collect();
        match negotiated {
            None => assert!(told.is_empty(), "{asked}: {told:?}"),
            Some((version, names)) => {
                let mut body = version.0.to_be_bytes().to_vec();
                body.extend(u32::try_from(names.len()).unwrap().to_be_bytes());
                body.extend(names.iter().flat_map(|name| [name.as_bytes(), b"\0"].concat()));
                assert_eq!(told.len(), 1, "{asked}: {told:?}");
                assert_eq!(told[0].body, body, "{asked}");
                assert_eq!(answer[0].tag, tag::NEGOTIATE_PROTOCOL_VERSION, "it comes first");
            }
        }
        let key = answer.iter().find(|message| message.tag == tag::BACKEND_KEY_DATA).unwrap();
        assert_eq!(key.body.len(), 4 + secret_bytes, "{asked}");
        assert_eq!(value(&raw.query("select 1").await).as_deref(), Some("1"), "{asked}");
    }
    for asked in [Version::new(2, 0), Version::new(4, 0), Version::new(0, 1)] {
        let mut raw = Raw::open(&stage.proxy).await;
        raw.say(&packet(asked, &WHO)).await;
        let heard = all(&mut raw).await;
        assert_eq!((sqlstate(&heard).as_deref(), tags(&heard).as_str()), (Some("0A000"), "E"), "{asked}");
        let text = format!("unsupported frontend protocol {asked}: server supports 3.0 to 3.2");
        assert_eq!(Report::new(&heard[0].body).message(), text);
    }
}

#[tokio::test]
async fn libpq_speaks_both_versions() {
    let stage = Setup::replicas(0).start().await.unwrap();
    let output = stage.proxy.client_program(&python(), &[driver("libpq_versions.py").to_str().unwrap()], "").await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, "3.0 30000 cancelled\n3.2 30002 cancelled\nlatest 30002 cancelled\n", "{output:?}");
}

#[tokio::test]
async fn a_login_may_come_byte_by_byte() {
    let stage = trusting().await;
    let mut raw = Raw::open(&stage.proxy).await;
    raw.stream.set_nodelay(true).unwrap();
    // More than any buffer starts with, so that it grows on the way.
    let name = "x".repeat(300);
    for byte in packet(Version::V3_0, &[WHO[0], WHO[1], ("application_name", &name)]) {
        raw.say(&[byte]).await;
        tokio::task::yield_now().await;
    }
    raw.until_ready().await;
    assert_eq!(value(&raw.query("select 1").await).as_deref(), Some("1"));
}

#[tokio::test]
async fn startup_packets_have_limits() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"");
    let stage = setup.clone().start().await.unwrap();
    // The longest that PostgreSQL takes, and one byte more.
    let of_length = |length: usize| {
        let bare = packet(Version::V3_0, &[WHO[0], WHO[1], ("hakem_test.x", "")]).len();
        packet(Version::V3_0, &[WHO[0], WHO[1], ("hakem_test.x", &"x".repeat(length - bare))])
    };
    let mut raw = Raw::open(&stage.proxy).await;
    raw.say(&of_length(10_000)).await;
    raw.until_ready().await;
    let long = of_length(10_001);
    let mut endless = packet(Version::V3_0, &WHO);
    endless.truncate(endless.len() - 1);
    let length = u32::try_from(endless.len()).unwrap();
    endless[..4].copy_from_slice(&length.to_be_bytes());
    let (mut huge, mut negative) = (packet(Version::V3_0, &WHO), packet(Version::V3_0, &WHO));
    huge[..4].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    negative[..4].copy_from_slice(&0xffff_fff0_u32.to_be_bytes());
    let name = "n".repeat(64);
    let cases: [(&[u8], &str); 10] = [
        (&long, "08P01"),
        (&endless, "08P01"),
        (&huge, "08P01"),
        (&negative, "08P01"),
        (b"\0\0\0\0", "08P01"),
        (b"\0\0\0\x07\0\x03\0", "08P01"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", "08P01"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "08P01"),
        // A name that a server would cut off to another one.
        (&packet(Version::V3_0, &[WHO[0], ("database", &name)]), "3D000"),
        (&packet(Version::V3_0, &[("user", &name), WHO[1]]), "28P01"),
    ];
    for (said, expected) in cases {
        let mut raw = Raw::open(&stage.proxy).await;
        raw.say(said).await;
        let heard = all(&mut raw).await;
        assert_eq!(sqlstate(&heard).as_deref(), Some(expected), "{:?}: {heard:?}", &said[..said.len().min(60)]);
        assert!(Report::new(&heard.last().unwrap().body).is_fatal());
    }
    assert_eq!(value(&raw.query("select 1").await).as_deref(), Some("1"));
    // Others than PostgreSQL's.
    setup.with("proxy", "max_startup_packet_size", "\"12kB\"").reload(&stage).await.unwrap();
    let mut raw = Raw::open(&stage.proxy).await;
    raw.say(&of_length(12 * 1024)).await;
    raw.until_ready().await;
    let mut raw = Raw::open(&stage.proxy).await;
    raw.say(&of_length(12 * 1024 + 1)).await;
    assert_eq!(sqlstate(&all(&mut raw).await).as_deref(), Some("08P01"));
}

#[tokio::test]
async fn nothing_is_done_for_who_has_not_logged_in() {
    let stage = Setup::replicas(0).start().await.unwrap();
    let query = b"Q\0\0\0\x1bcreate table smuggled ()\0";
    let sasl_ahead = [packet(Version::V3_0, &WHO), query.to_vec()].concat();
    for said in [&sasl_ahead[..], &query[..], b"X\0\0\0\x04", b"p\0\0\0\x04"] {
        let mut raw = Raw::open(&stage.proxy).await;
        raw.say(said).await;
        let heard = all(&mut raw).await;
        let last = heard.last().unwrap();
        assert_eq!(last.tag, tag::ERROR_RESPONSE, "{heard:?}");
        assert!(heard.iter().all(|message| message.tag != tag::READY_FOR_QUERY), "{heard:?}");
    }
    // In place of each answer of the password exchange.
    let mut raw = Raw::open(&stage.proxy).await;
    raw.say(&packet(Version::V3_0, &WHO)).await;
    assert_eq!(raw.hear().await.unwrap().tag, tag::AUTHENTICATION);
    raw.say(query).await;
    assert_eq!(tags(&all(&mut raw).await), "E");
    assert_eq!(stage.direct(0, "select count(*) from pg_class where relname = 'smuggled'").await, "0");
}

#[tokio::test]
async fn options_are_settings() {
    let stage = trusting().await;
    let shown = async |options: &'static str, name: &str| {
        let mut raw = Raw::open(&stage.proxy).await;
        raw.say(&packet(Version::V3_0, &[WHO[0], WHO[1], ("options", options)])).await;
        loop {
            let message = raw.hear().await.unwrap();
            match message.tag {
                tag::ERROR_RESPONSE => return Err(sqlstate(&[message]).unwrap()),
                tag::READY_FOR_QUERY => return Ok(value(&raw.query(&format!("show {name}")).await).unwrap()),
                _ => {}
            }
        }
    };
    let check = async |options: &'static str, name: &str, expected: &str| {
        assert_eq!(shown(options, name).await.as_deref(), Ok(expected), "{options:?}");
    };
    check("-c geqo=off", "geqo", "off").await;
    check("-cgeqo=off", "geqo", "off").await;
    check("--geqo=off", "geqo", "off").await;
    check("  --search-path=a,b\t-c  work_mem=5MB ", "search_path", "a,b").await;
    check(r"-c application_name=two\ words\\", "application_name", r"two words\").await;
    check("-c DateStyle=ISO,MDY", "datestyle", "ISO, MDY").await;
    check("-c application_name=a+b%20c", "application_name", "a+b%20c").await;
    check("-c application_name=a=b", "application_name", "a=b").await;
    // What is named by itself counts, wherever it stands.
    for names in [["application_name", "options"], ["options", "application_name"]] {
        let mut raw = Raw::open(&stage.proxy).await;
        let pairs = names.map(|name| (name, if name == "options" { "-c application_name=y" } else { "x" }));
        raw.say(&packet(Version::V3_0, &[WHO[0], WHO[1], pairs[0], pairs[1]])).await;
        raw.until_ready().await;
        assert_eq!(value(&raw.query("show application_name").await).as_deref(), Some("x"), "{names:?}");
    }
    for wrong in ["-c", "-x", "geqo=off", "--geqo", "-c geqo"] {
        assert_eq!(shown(wrong, "geqo").await, Err("42601".to_owned()), "{wrong:?}");
    }
    for (wrong, code) in [("-c no_such_setting=1", "42704"), ("-c geqo=perhaps", "22023"), ("-c port=1", "55P02")] {
        assert_eq!(shown(wrong, "geqo").await, Err(code.to_owned()), "{wrong:?}");
    }
}

#[tokio::test]
async fn who_logs_in_is_told_of_defaults_as_they_are_now() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "1");
    let stage = setup.start().await.unwrap();
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    raw.query("select 1").await;
    stage.direct(0, "alter system set timezone = 'Asia/Tokyo'").await;
    stage.direct(0, "select pg_reload_conf()").await;
    let told = crate::harness::until("the server to know", async || {
        value(&raw.query("show timezone").await).as_deref() == Some("Asia/Tokyo")
    });
    told.await.unwrap();
    // The connection is the one that logged in before.
    let mut other = Raw::open(&stage.proxy).await;
    other.say(&packet(Version::V3_0, &[WHO[0], WHO[1], ("options", "-c geqo=off")])).await;
    let greeting = other.until_ready().await;
    let zone = greeting.iter().find(|message| message.body.starts_with(b"TimeZone\0")).unwrap();
    assert_eq!(zone.body, b"TimeZone\0Asia/Tokyo\0");
}

/// A client that is gone after any byte of its login leaves nothing.
#[tokio::test]
async fn who_vanishes_during_the_login_leaves_nothing() {
    let stage = Setup::replicas(0).start().await.unwrap();
    let hello = packet(Version::V3_0, &WHO);
    let mut length = usize::MAX;
    let mut cut = 0;
    while cut < length {
        let mut raw = Raw::open(&stage.proxy).await;
        raw.stream.set_zero_linger().unwrap();
        let credential = auth::Credential::Password("hakem".to_owned());
        let mut login = auth::ServerLogin::new("postgres", credential, auth::Cleartext::Refused, [7; 18]);
        let (mut said, mut left) = (0, cut);
        let mut next = hello.clone();
        // Says no more than `cut` bytes in all, and leaves without a farewell.
        loop {
            let now = left.min(next.len());
            raw.say(&next[..now]).await;
            (said, left) = (said + next.len(), left - now);
            if left == 0 && now < next.len() {
                break;
            }
            let Some(message) = raw.hear().await else { panic!("refused after {said} bytes") };
            if message.tag != tag::AUTHENTICATION {
                length = said;
                break;
            }
            match login.on_message(&message.body).unwrap() {
                auth::Step::Send(payload) => {
                    next.clear();
                    wire::frontend::put_password_message(&mut next, &payload);
                }
                auth::Step::Wait | auth::Step::Done => next.clear(),
            }
        }
        cut += 1;
    }
    assert!(length < 1000, "the login has an end");
    let gone = async || stage.proxy.metric("hakem_clients", &[]).await == 0.0;
    until("all to be gone", gone).await.unwrap();
    let idle = async || stage.proxy.metric("hakem_server_connections", &[("state", "leased")]).await == 0.0;
    until("no server to be lent", idle).await.unwrap();
    assert_eq!(stage.psql("select 1").await, "1");
}

/// Several messages in one packet: the client need not wait for the answer to its login.
#[tokio::test]
async fn who_is_trusted_may_ask_at_once() {
    let stage = trusting().await;
    let mut out = packet(Version::V3_2, &WHO);
    wire::frontend::put_query(&mut out, "select 7");
    let mut raw = Raw::open(&stage.proxy).await;
    raw.say(&out).await;
    raw.until_ready().await;
    assert_eq!(value(&raw.until_ready().await).as_deref(), Some("7"));
    // What is left over of a frame is nobody's.
    assert!(tokio::time::timeout(Duration::from_millis(10), raw.hear()).await.is_err());
    assert!(Frame::take(&[]).unwrap().is_none());
}
