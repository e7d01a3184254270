//! Several proxies behind one address: a cancel request that reaches the wrong one is passed on to the right one.

use std::sync::Mutex;

use cluster::Cluster;
use wire::backend::{self, tag};
use wire::frontend;
use wire::startup::{self, CancelKey};

use crate::cancel::is_not_in;
use crate::harness::{Proxy, Setup, until};
use crate::raw::{Raw, sqlstate, tags};
use crate::tap::Tap;

/// Two proxies in front of one server, each known to the other by a tap that counts cancel requests.
struct Pair {
    proxies: [Proxy; 2],
    taps: [Tap; 2],
    cluster: Cluster,
    /// In front of the server.
    _tap: Tap,
}

/// The secrets that servers give their clients, of which the proxies are some.
static OVERHEARD: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

fn overhear(kind: u8, message: &[u8]) -> Vec<u8> {
    if kind == tag::BACKEND_KEY_DATA {
        OVERHEARD.lock().unwrap().push(message[9..].into());
    }
    message.to_vec()
}

async fn pair(pool_size: &str) -> Pair {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("console", "admin_users", "[\"postgres\"]");
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    // A door for each, since a proxy's own port is known only when it has started.
    let taps = [Tap::open().await, Tap::open().await];
    let mut sections = String::new();
    for (number, tap) in (1..).zip(&taps) {
        let (host, port) = (tap.address.ip(), tap.address.port());
        sections += &format!("[peers.{number}]\nhost = \"{host}\"\nport = {port}\npool_size = {pool_size}\n");
    }
    let tap = Tap::to(&cluster).await;
    tap.change(Some(overhear));
    let setup =
        setup.and(&sections).with("log", "level", "\"trace\"").with("clusters.local", "servers", &tap.servers());
    let first = setup.clone().with("proxy", "peer_id", "1").proxy(&cluster).await.unwrap();
    let second = setup.with("proxy", "peer_id", "2").proxy(&cluster).await.unwrap();
    taps[0].lead_to(first.address);
    taps[1].lead_to(second.address);
    Pair { proxies: [first, second], taps, cluster, _tap: tap }
}

/// A session of this protocol version, with its key.
async fn keyed(proxy: &Proxy, minor: u8) -> (Raw, CancelKey) {
    let mut raw = Raw::open(proxy).await;
    let mut packet = Vec::new();
    startup::put_session(&mut packet, [("user", "postgres"), ("database", "postgres")]);
    packet[7] = minor;
    raw.say(&packet).await;
    let answer = raw.until_ready().await;
    let key = answer.iter().find(|message| message.tag == tag::BACKEND_KEY_DATA).unwrap();
    let key = backend::backend_key_data(&key.body).unwrap();
    (raw, key)
}

async fn send(proxy: &Proxy, key: &CancelKey) -> Raw {
    let mut raw = Raw::open(proxy).await;
    let mut packet = Vec::new();
    startup::put_cancel(&mut packet, key);
    raw.say(&packet).await;
    raw
}

async fn sleep(raw: &mut Raw, cluster: &Cluster, name: &str) {
    let mut out = Vec::new();
    let sql = format!("select pg_sleep(600) as {name}");
    frontend::put_query(&mut out, &sql);
    raw.say(&out).await;
    let count = format!("select count(*) from pg_stat_activity where query = '{sql}' and state = 'active'");
    until("it to sleep", async || cluster.sql(0, &count).await.unwrap() == "1").await.unwrap();
}

#[tokio::test]
async fn a_cancel_finds_its_session_wherever_it_arrives() {
    let Pair { proxies, taps, cluster, _tap } = pair("2").await;
    let mut secrets = Vec::new();
    for (at, to, minor) in [(0, 0, 0), (0, 1, 0), (1, 0, 0), (0, 1, 2), (1, 0, 2)] {
        let before = [taps[0].cancels(), taps[1].cancels()];
        let (mut raw, key) = keyed(&proxies[at], minor).await;
        // The layout that PgBouncer's peers read.
        let [sign, low, high, _] = key.process.to_be_bytes();
        assert_eq!((sign & 0x80, low, high, key.secret[3] & 3), (0, u8::try_from(at).unwrap() + 1, 0, 3));
        sleep(&mut raw, &cluster, &format!("from_{at}_to_{to}_{minor}")).await;
        assert_eq!(send(&proxies[to], &key).await.hear().await, None);
        assert_eq!(sqlstate(&raw.until_ready().await).as_deref(), Some("57014"), "{at} {to} {minor}");
        assert_eq!(tags(&raw.query("select 1").await), "TDCZ");
        let mut expected = before;
        expected[at] += usize::from(at != to);
        assert_eq!([taps[0].cancels(), taps[1].cancels()], expected, "who was asked");
        secrets.push(key.secret.clone());
    }
    // Neither theirs nor the servers' are shown.
    assert!(secrets.iter().any(|secret| secret.len() > 4), "long ones, too");
    let overheard = OVERHEARD.lock().unwrap();
    assert!(overheard.len() >= 2, "each proxy has a server");
    for log in proxies.each_ref().map(Proxy::log) {
        secrets.iter().for_each(|secret| is_not_in(&log, secret));
        overheard.iter().for_each(|secret| is_not_in(&log, secret));
    }
}

#[tokio::test]
async fn cancels_do_not_go_in_circles() {
    let Pair { proxies, taps, .. } = pair("4").await;
    // Whoever leads number 1 to number 2 has made a mistake, and each proxy passes the request on for the other.
    taps[0].lead_to(proxies[1].address);
    let key = CancelKey::mint(7, [7; 4], 1);
    assert_eq!(send(&proxies[1], &key).await.hear().await, None);
    // It went through the door three times, and was dropped behind it.
    assert_eq!((taps[0].cancels(), taps[1].cancels()), (3, 0));
    // Those that are exhausted, of nobody, or of a peer that is not known, go nowhere at all.
    let exhausted = CancelKey { process: key.process, secret: [4; 4].into() };
    for key in [exhausted, CancelKey::mint(7, [7; 4], 2), CancelKey::mint(7, [7; 4], 3)] {
        assert_eq!(send(&proxies[1], &key).await.hear().await, None);
    }
    assert_eq!((taps[0].cancels(), taps[1].cancels()), (3, 0));
}

#[tokio::test]
async fn cancels_on_their_way_to_a_peer_are_bounded() {
    let Pair { proxies, taps, cluster, _tap } = pair("1").await;
    let (mut raw, key) = keyed(&proxies[0], 0).await;
    sleep(&mut raw, &cluster, "bounded").await;
    taps[0].hold(true);
    let mut requests = Vec::new();
    for n in 1..10 {
        requests.push(send(&proxies[1], &CancelKey::mint(n, [9; 4], 1)).await);
    }
    requests.push(send(&proxies[1], &key).await);
    until("one to be on its way", async || taps[0].cancels() == 1).await.unwrap();
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), requests[9].hear()).await.is_err());
    assert_eq!(taps[0].cancels(), 1);
    // What the console shows of it.
    let show = async |what: &str| {
        let target = "dbname=pgbouncer";
        let psql = crate::harness::postgres_program("psql");
        let output = proxies[1].client_program(&psql, &["-XAtc", &format!("show {what}"), target], "").await;
        assert!(output.status.success(), "{output:?}");
        output.stdout
    };
    let addresses = taps.each_ref().map(|tap| format!("{}|{}", tap.address.ip(), tap.address.port()));
    assert_eq!(show("peers").await, format!("1|{}|1\n2|{}|1\n", addresses[0], addresses[1]));
    assert_eq!(show("peer_pools").await, "1|1|9|1|0\n2|0|0|0|0\n");
    assert!(show("lists").await.contains("\npeers|2\n"));
    // The others take their turn.
    taps[0].hold(false);
    for request in &mut requests {
        assert_eq!(request.hear().await, None);
    }
    assert_eq!(sqlstate(&raw.until_ready().await).as_deref(), Some("57014"));
    assert_eq!(taps[0].cancels(), 10);
    assert_eq!(show("peer_pools").await, "1|0|0|0|0\n2|0|0|0|0\n");
}
