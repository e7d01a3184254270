//! Logging in to real servers under every mode of encryption, and to strangers who pretend to be one.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use cluster::{Cluster, Options};
use pool::tls::{Tls, TlsOptions, Trust};
use pool::{Connection, DialError, Target, Wallet, dial};
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

#[path = "../../../tests/certificates.rs"]
mod certificates;

#[path = "../../../tests/interloper.rs"]
mod interloper;

use certificates::{Authority, Pair};

/// A mode of libpq, with who may sign.
#[derive(Clone, Copy)]
struct Mode<'a> {
    optional: bool,
    trust: Trust,
    roots: Option<&'a str>,
    identity: Option<&'a Pair>,
}

const PREFER: Mode<'static> = Mode { optional: true, trust: Trust::Anybody, roots: None, identity: None };
const REQUIRE: Mode<'static> = Mode { optional: false, ..PREFER };

fn verify(trust: Trust, roots: &str) -> Mode<'_> {
    Mode { optional: false, trust, roots: Some(roots), identity: None }
}

fn target(port: u16, mode: Option<Mode<'_>>) -> Target {
    let tls = mode.map(|mode| {
        let options = TlsOptions {
            optional: mode.optional,
            trust: mode.trust,
            roots: mode.roots.map(str::as_bytes),
            identity: mode.identity.map(|pair| (pair.chain.as_bytes(), pair.key.as_bytes())),
            versions: &[&TLS13, &TLS12],
            ciphers: &[],
        };
        Tls::new(&options).unwrap()
    });
    Target {
        whereabouts: Default::default(),
        host: "127.0.0.1".to_owned(),
        port,
        user: "postgres".to_owned(),
        wallet: Wallet::new(auth::Credential::Password("hakem".into())),
        database: "postgres".to_owned(),
        timeout: Duration::from_secs(60),
        keepalive: None,
        tls,
    }
}

/// `tls`, `clear`, or why there is no connection.
async fn outcome(target: &Target) -> String {
    let made: Result<Connection<()>, DialError> = dial(&target.clone().into(), (), 0).await;
    match made {
        Ok(connection) if connection.stream.is_encrypted() => "tls".to_owned(),
        Ok(_) => "clear".to_owned(),
        Err(error) => error.to_string(),
    }
}

struct Stage {
    cluster: Cluster,
}

impl Stage {
    async fn start() -> Stage {
        Stage { cluster: Cluster::start(Options { replicas: 0, ..Options::default() }).await.unwrap() }
    }

    fn port(&self) -> u16 {
        self.cluster.nodes()[0].port()
    }

    /// Has the server show this certificate.
    async fn show(&self, pair: &Pair) {
        let (certificate, key) = pair.write(self.cluster.nodes()[0].data_directory(), "shown");
        self.cluster.set(0, "ssl_cert_file", certificate.to_str().unwrap()).await.unwrap();
        self.cluster.set(0, "ssl_key_file", key.to_str().unwrap()).await.unwrap();
        self.cluster.set(0, "ssl", "on").await.unwrap();
    }

    /// Has the server demand this of TCP connections: lines of pg_hba.conf.
    async fn admit(&self, lines: &str) {
        let directory = self.cluster.nodes()[0].data_directory();
        certificates::write(directory, "pg_hba.conf", &format!("local all all trust\n{lines}\n"));
        self.cluster.sql(0, "select pg_reload_conf()").await.unwrap();
    }

    async fn check(&self, mode: Option<Mode<'_>>, expected: &str) {
        let target = target(self.port(), mode);
        // The postmaster reads its files again in its own time.
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        loop {
            let found = outcome(&target).await;
            if found.contains(expected) {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "{expected}: {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn modes() {
    let stage = Stage::start().await;
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let scram = "host all all 127.0.0.1/32 scram-sha-256";

    // A server without TLS.
    stage.check(None, "clear").await;
    stage.check(Some(PREFER), "clear").await;
    stage.check(Some(REQUIRE), "does not support TLS, which is required").await;
    stage.check(Some(verify(Trust::Host, &ours.pem)), "does not support TLS, which is required").await;

    // One whose certificate is right in every way.
    stage.show(&ours.issue("server", &["127.0.0.1", "localhost"])).await;
    stage.check(Some(PREFER), "tls").await;
    stage.check(None, "clear").await;
    stage.check(Some(REQUIRE), "tls").await;
    stage.check(Some(verify(Trust::Signed, &ours.pem)), "tls").await;
    stage.check(Some(verify(Trust::Host, &ours.pem)), "tls").await;
    stage.check(Some(verify(Trust::Signed, &theirs.pem)), "UnknownIssuer").await;
    stage.check(Some(verify(Trust::Host, &theirs.pem)), "UnknownIssuer").await;

    // pg_hba.conf decides, too.
    stage.admit("hostssl all all 127.0.0.1/32 scram-sha-256").await;
    stage.check(None, "no pg_hba.conf entry").await;
    stage.check(Some(PREFER), "tls").await;
    stage.admit("hostnossl all all 127.0.0.1/32 scram-sha-256").await;
    stage.check(Some(REQUIRE), "no pg_hba.conf entry").await;
    stage.check(Some(PREFER), "clear").await;
    stage.check(None, "clear").await;
    stage.admit(scram).await;

    // Another host's, without the name of ours anywhere.
    stage.show(&ours.issue("elsewhere", &["db.example.org"])).await;
    stage.check(Some(verify(Trust::Host, &ours.pem)), "not valid for").await;
    stage.check(Some(verify(Trust::Signed, &ours.pem)), "tls").await;
    // Nobody looks at the common name when there are alternatives.
    stage.show(&ours.issue("127.0.0.1", &["db.example.org"])).await;
    stage.check(Some(verify(Trust::Host, &ours.pem)), "not valid for").await;
    stage.show(&ours.issue("127.0.0.1", &[])).await;
    stage.check(Some(verify(Trust::Host, &ours.pem)), "tls").await;

    stage.show(&ours.issue_expired("server", &["127.0.0.1"])).await;
    stage.check(Some(verify(Trust::Signed, &ours.pem)), "expired").await;
    stage.check(Some(REQUIRE), "tls").await;

    // A server's own, given to us to be trusted.
    let own = Pair::of_its_own("server", &["127.0.0.1"]);
    stage.show(&own).await;
    stage.check(Some(verify(Trust::Host, &own.chain)), "tls").await;
    stage.check(Some(verify(Trust::Host, &ours.pem)), "CaUsedAsEndEntity").await;
}

#[tokio::test]
async fn servers_that_ask_who_we_are() {
    let stage = Stage::start().await;
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    stage.show(&ours.issue("server", &["127.0.0.1"])).await;
    let file = certificates::write(stage.cluster.nodes()[0].data_directory(), "ca.crt", &ours.pem);
    stage.cluster.set(0, "ssl_ca_file", file.to_str().unwrap()).await.unwrap();
    stage.check(Some(REQUIRE), "tls").await;

    // By certificate alone, without a password.
    stage.admit("hostssl all all 127.0.0.1/32 cert").await;
    let (right, wrong) = (ours.issue("postgres", &[]), ours.issue("somebody", &[]));
    stage.check(Some(Mode { identity: Some(&right), ..REQUIRE }), "tls").await;
    stage.check(Some(Mode { identity: Some(&wrong), ..REQUIRE }), "certificate authentication failed").await;
    stage.check(Some(REQUIRE), "connection requires a valid client certificate").await;
    let forged = theirs.issue("postgres", &[]);
    let found = outcome(&target(stage.port(), Some(Mode { identity: Some(&forged), ..REQUIRE }))).await;
    assert!(found != "tls" && found != "clear", "{found}");
}

/// The proof that lets us in to somebody in between is no good for the server behind.
#[tokio::test]
async fn an_interloper() {
    let stage = Stage::start().await;
    let ours = Authority::new("ours");
    let right = ours.issue("server", &["127.0.0.1"]);
    stage.show(&right).await;
    stage.check(Some(REQUIRE), "tls").await;
    // Who has the server's own certificate and key is the server, as far as anybody can tell.
    let twin = interloper::start(&right, stage.port()).await;
    assert_eq!(outcome(&target(twin, Some(REQUIRE))).await, "tls");
    let forged = Authority::new("theirs").issue("server", &["127.0.0.1"]);
    let port = interloper::start(&forged, stage.port()).await;
    let found = outcome(&target(port, Some(REQUIRE))).await;
    assert!(found.contains("channel binding"), "{found}");
    let found = outcome(&target(port, Some(verify(Trust::Signed, &ours.pem)))).await;
    assert!(found.contains("UnknownIssuer"), "{found}");
}

/// On a Unix socket there is nobody to hide from, whatever the mode.
#[tokio::test]
async fn unix_sockets() {
    let stage = Stage::start().await;
    let directory = stage.cluster.directory().to_str().unwrap().to_owned();
    for mode in [None, Some(PREFER), Some(REQUIRE)] {
        let target = Target { host: directory.clone(), ..target(stage.port(), mode) };
        assert_eq!(outcome(&target).await, "clear");
    }
    let nowhere = Target { host: directory, ..target(1, None) };
    assert!(outcome(&nowhere).await.contains("No such file"));
}

/// A server that dies in the middle of the handshake is away: whoever waits for it goes on waiting. One that shows a wrong
/// certificate will not do better the next time.
#[tokio::test]
async fn who_is_away() {
    let dies = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target_of_it = target(dies.local_addr().unwrap().port(), Some(REQUIRE));
    let server = tokio::spawn(async move {
        let (mut stream, _) = dies.accept().await.unwrap();
        stream.read_exact(&mut [0; 8]).await.unwrap();
        stream.write_all(b"S").await.unwrap();
        stream.read_u8().await.unwrap();
    });
    let made: Result<Connection<()>, DialError> = dial(&target_of_it.into(), (), 0).await;
    let error = made.err().unwrap();
    assert!(error.is_transient(), "{error:?}");
    server.await.unwrap();

    let authority = Authority::new("ours");
    let pair = Authority::new("theirs").issue("server", &["127.0.0.1"]);
    let port = interloper::start(&pair, 1).await;
    let target_of_it = target(port, Some(verify(Trust::Host, &authority.pem)));
    let made: Result<Connection<()>, DialError> = dial(&target_of_it.into(), (), 0).await;
    let error = made.err().unwrap();
    assert!(!error.is_transient() && matches!(error, DialError::Tls(_)), "{error:?}");
}

/// The password goes out in clear text to nobody but a server that TLS vouches for.
#[tokio::test]
async fn passwords_in_clear_text() {
    let stage = Stage::start().await;
    let ours = Authority::new("ours");
    stage.show(&ours.issue("server", &["127.0.0.1"])).await;
    stage.admit("host all all 127.0.0.1/32 password").await;
    stage.check(Some(verify(Trust::Host, &ours.pem)), "tls").await;
    stage.check(Some(verify(Trust::Signed, &ours.pem)), "tls").await;
    for mode in [None, Some(PREFER), Some(REQUIRE)] {
        stage.check(mode, "password").await;
    }
}

/// Whoever answers SSLRequest in any other way than by one byte `S` or `N` gets nothing from us, and nobody reads what it said.
#[tokio::test]
async fn strangers() {
    let refusal = b"E\0\0\0\x1aSFATAL\0C28000\0Mjoin me\0\0";
    let cases: &[(&[u8], Mode<'_>, &str)] = &[
        (refusal, PREFER, "neither S nor N"),
        (refusal, REQUIRE, "neither S nor N"),
        (b"X", PREFER, "neither S nor N"),
        // CVE-2021-23222: what follows would be taken for the encrypted connection's beginning.
        (b"SR\0\0\0\x08\0\0\0\0", PREFER, "unencrypted bytes after the answer"),
        (b"SR\0\0\0\x08\0\0\0\0", REQUIRE, "unencrypted bytes after the answer"),
        (b"N", REQUIRE, "does not support TLS"),
        (b"", PREFER, "early eof"),
    ];
    for (answer, mode, expected) in cases {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = target(listener.local_addr().unwrap().port(), Some(*mode));
        let answer = answer.to_vec();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 8];
            stream.read_exact(&mut request).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            // A reset is an end, too.
            let _ = stream.read_to_end(&mut rest).await;
            (request, rest)
        });
        let found = outcome(&target).await;
        assert!(found.contains(expected) && !found.contains("join me"), "{expected}: {found}");
        let (request, rest) = server.await.unwrap();
        assert_eq!(request, *b"\0\0\0\x08\x04\xd2\x16\x2f");
        assert!(rest.is_empty(), "{expected}: it was told {rest:?}");
    }
}
