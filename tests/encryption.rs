//! TLS between clients and the program, and between the program and servers: who gets in encrypted, who does not, and what
//! strangers try. The modes towards servers have their own table in `crates/pool/tests/tls.rs`.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use cluster::Cluster;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wire::backend::{Report, tag};
use wire::frame::Frame;
use wire::startup;

use crate::certificates::{self, Authority, Pair};
use crate::harness::{Proxy, Setup, Stage, WAIT_MAX, driver, postgres_program, program, python, run, until};
use crate::interloper;

/// The files of an authority and of what it has signed.
pub(crate) struct Files {
    authority: Authority,
    pub(crate) root: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

impl Files {
    pub(crate) fn new(cluster: &Cluster) -> Files {
        let directory = cluster.directory();
        let authority = Authority::new("authority");
        let root = certificates::write(directory, "root.crt", &authority.pem);
        let (cert, key) = authority.issue("proxy", &["127.0.0.1", "localhost"]).write(directory, "proxy");
        Files { authority, root, cert, key }
    }

    /// A configuration in which clients may encrypt.
    pub(crate) fn offered(&self, setup: &Setup, mode: &str) -> Setup {
        let quoted = |path: &Path| format!("{:?}", path.to_str().unwrap());
        setup
            .clone()
            .with("tls", "client_tls_sslmode", &format!("{mode:?}"))
            .with("tls", "client_tls_cert_file", &quoted(&self.cert))
            .with("tls", "client_tls_key_file", &quoted(&self.key))
            .with("tls", "client_tls_ca_file", &quoted(&self.root))
    }
}

/// A cluster without replicas, and no program yet.
async fn cluster(setup: &Setup) -> Cluster {
    Cluster::start(setup.cluster.clone()).await.unwrap()
}

fn setup() -> Setup {
    Setup::replicas(0).with("auth", "method", "\"trust\"")
}

/// The program with clients encrypted in this mode.
async fn stage(mode: &str) -> (Stage, Files) {
    let setup = setup();
    let cluster = cluster(&setup).await;
    let files = Files::new(&cluster);
    let proxy = files.offered(&setup, mode).proxy(&cluster).await.unwrap();
    let stage = Stage { proxy, cluster };
    stage.ready().await.unwrap();
    (stage, files)
}

/// What a handshake of ours offers.
pub(crate) fn connector(files: &Files, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(pool::tls::certificates(files.authority.pem.as_bytes()).unwrap());
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

fn ssl_request() -> Vec<u8> {
    let mut packet = Vec::new();
    startup::put_ssl_request(&mut packet);
    packet
}

fn session() -> Vec<u8> {
    let mut packet = Vec::new();
    startup::put_session(&mut packet, [("user", "postgres"), ("database", "postgres")]);
    packet
}

/// A connection that has been encrypted after asking for it.
async fn encrypted(proxy: &Proxy, files: &Files) -> TlsStream<TcpStream> {
    let mut stream = proxy.raw().await;
    stream.write_all(&ssl_request()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    connector(files, &[b"postgresql"]).connect(name(), stream).await.unwrap()
}

/// All messages up to this one; panics with what came when the connection ends.
async fn until_message(stream: &mut (impl AsyncRead + Unpin), wanted: u8) -> Vec<(u8, Vec<u8>)> {
    let (mut received, mut messages) = (Vec::new(), Vec::new());
    loop {
        while let Some(frame) = Frame::take(&received).unwrap() {
            messages.push((frame.tag, frame.body().to_vec()));
            let length = frame.whole.len();
            received.drain(..length);
        }
        if messages.iter().any(|(tag, _)| *tag == wanted) {
            return messages;
        }
        let read = tokio::time::timeout(WAIT_MAX, stream.read_buf(&mut received)).await.expect("silence");
        assert!(read.unwrap_or(0) > 0, "the connection has ended: {messages:?} {received:?}");
    }
}

async fn error(stream: &mut (impl AsyncRead + Unpin)) -> (String, String) {
    let messages = until_message(stream, tag::ERROR_RESPONSE).await;
    let report = Report::new(&messages.last().unwrap().1);
    (report.sqlstate().unwrap().as_str().to_owned(), report.message())
}

async fn log_in(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    stream.write_all(&session()).await.unwrap();
    until_message(stream, tag::READY_FOR_QUERY).await;
}

/// Everything up to the end, which may be a reset.
async fn rest(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(WAIT_MAX, stream.read_to_end(&mut rest)).await.expect("the connection does not end");
    rest
}

/// Nobody is left whose connection we have closed.
async fn deserted(proxy: &Proxy) {
    until("everybody to be gone", async || {
        proxy.metric("hakem_clients", &[]).await + proxy.metric("hakem_logins_open", &[]).await == 0.0
    })
    .await
    .unwrap();
}

/// A certificate that nobody has signed but itself, given to clients to be trusted.
#[tokio::test]
async fn a_certificate_of_its_own() {
    let setup = setup();
    let cluster = cluster(&setup).await;
    let files = Files::new(&cluster);
    let (root, _) = Pair::of_its_own("proxy", &["127.0.0.1"]).write(cluster.directory(), "proxy");
    let stage = Stage { proxy: files.offered(&setup, "require").proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();
    let target = format!("sslmode=verify-full sslrootcert={}", root.display());
    let output = stage.run("psql", &["-XAtq", "-c", "select 1", &target], "").await;
    assert_eq!(output.stdout, "1\n", "{output:?}");
}

#[tokio::test]
async fn modes() {
    let setup = setup();
    let cluster = cluster(&setup).await;
    let files = Files::new(&cluster);
    let (cert, key) = files.authority.issue("postgres", &[]).write(cluster.directory(), "client");
    let (forged, forged_key) = Authority::new("forger").issue("postgres", &[]).write(cluster.directory(), "forged");
    let (late, late_key) = files.authority.issue_expired("postgres", &[]).write(cluster.directory(), "late");
    let late = format!("sslcert={} sslkey={}", late.display(), late_key.display());
    let shown = format!("sslcert={} sslkey={}", cert.display(), key.display());
    let forged = format!("sslcert={} sslkey={}", forged.display(), forged_key.display());
    const REQUIRED: &str = "FATAL:  SSL required";
    const NONE: &str = "server does not support SSL";
    const CERTIFICATE: &str = "certificate required";
    const CLEAR: &str = "clear";
    const TLS: &str = "SSL connection (protocol: TLSv1.3";
    // Ours; what it is for libpq's disable, allow, prefer, require and verify-full; the same with a certificate of the client's;
    // require with a forged one.
    type Row<'a> = (&'a str, [&'a str; 5], [&'a str; 5], &'a str);
    let table: &[Row<'_>] = &[
        ("disable", [CLEAR, CLEAR, CLEAR, NONE, NONE], [CLEAR, CLEAR, CLEAR, NONE, NONE], NONE),
        ("allow", [CLEAR, CLEAR, TLS, TLS, TLS], [CLEAR, CLEAR, TLS, TLS, TLS], "unknown ca"),
        ("prefer", [CLEAR, CLEAR, TLS, TLS, TLS], [CLEAR, CLEAR, TLS, TLS, TLS], "unknown ca"),
        ("require", [REQUIRED, TLS, TLS, TLS, TLS], [REQUIRED, TLS, TLS, TLS, TLS], "unknown ca"),
        (
            "verify-ca",
            [REQUIRED, CERTIFICATE, CERTIFICATE, CERTIFICATE, CERTIFICATE],
            [REQUIRED, TLS, TLS, TLS, TLS],
            "unknown ca",
        ),
        (
            "verify-full",
            [REQUIRED, CERTIFICATE, CERTIFICATE, CERTIFICATE, CERTIFICATE],
            [REQUIRED, TLS, TLS, TLS, TLS],
            "unknown ca",
        ),
    ];
    let psql = postgres_program("psql");
    for (mode, bare, certified, with_forged) in table {
        let proxy = files.offered(&setup, mode).proxy(&cluster).await.unwrap();
        until("the program to be ready", async || proxy.page("/ready").await.is_ok_and(|(status, _)| status == 200))
            .await
            .unwrap();
        let check = async |theirs: &str, certificate: &str, expected: &str| {
            let root = files.root.display();
            let target = format!("sslmode={theirs} sslrootcert={root} {certificate}");
            let output = proxy.client_program(&psql, &["-XAtq", "-c", "\\conninfo", &target], "").await;
            let said = format!("{}{}", output.stdout, output.stderr);
            let is_clear = output.status.success() && !said.contains("SSL connection");
            let as_expected = if expected == CLEAR { is_clear } else { said.contains(expected) };
            assert!(as_expected, "{mode} {theirs} {certificate}: {expected}: {said}");
        };
        let ways = ["disable", "allow", "prefer", "require", "verify-full"];
        for ((theirs, expected), with_certificate) in ways.iter().zip(bare).zip(certified) {
            check(theirs, "", expected).await;
            check(theirs, &shown, with_certificate).await;
        }
        check("require", &forged, with_forged).await;
        if mode.starts_with("verify") {
            check("require", &late, "certificate expired").await;
        }
    }
}

/// libpq 17 and later begin with the handshake at once, if they are told to; and everything that is large goes through.
#[tokio::test]
async fn libpq_with_much_to_say() {
    let (stage, files) = stage("require").await;
    let script = driver("psycopg_tls.py");
    let arguments = ["-X", "faulthandler", script.to_str().unwrap(), files.root.to_str().unwrap()];
    let output = stage.proxy.client_program(&python(), &arguments, "").await;
    assert!(output.status.success() && output.stdout.ends_with("done\n"), "{output:?}");
}

#[tokio::test]
async fn direct_handshakes() {
    let (stage, files) = stage("require").await;
    let stream = stage.proxy.raw().await;
    let mut stream = connector(&files, &[b"postgresql"]).connect(name(), stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]));
    log_in(&mut stream).await;
    drop(stream);

    // "...ALPN is mandatory": without it, and with another protocol, nobody gets in.
    if let Ok(mut stream) = connector(&files, &[]).connect(name(), stage.proxy.raw().await).await {
        let _ = stream.write_all(&session()).await;
        assert_eq!(rest(&mut stream).await, b"");
    }
    let refused = connector(&files, &[b"http/1.1"]).connect(name(), stage.proxy.raw().await).await;
    assert!(refused.is_err());

    // Who asked politely need not name the protocol; but not another one either.
    let mut stream = stage.proxy.raw().await;
    stream.write_all(&ssl_request()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    log_in(&mut connector(&files, &[]).connect(name(), stream).await.unwrap()).await;

    // SSLRequest inside of TLS, and TLS inside of TLS.
    let mut stream = encrypted(&stage.proxy, &files).await;
    stream.write_all(&ssl_request()).await.unwrap();
    assert_eq!(error(&mut stream).await, ("08P01".to_owned(), "SSL req inside SSL".to_owned()));
    assert_eq!(rest(&mut stream).await, b"");
    let stream = encrypted(&stage.proxy, &files).await;
    assert!(connector(&files, &[b"postgresql"]).connect(name(), stream).await.is_err());
    deserted(&stage.proxy).await;
}

/// CVE-2021-23214: what came in the clear must not be taken for what came encrypted.
#[tokio::test]
async fn nothing_is_smuggled_in() {
    let (stage, files) = stage("prefer").await;
    // In one packet with the request.
    let mut stream = stage.proxy.raw().await;
    stream.write_all(&[ssl_request(), session()].concat()).await.unwrap();
    assert_eq!(error(&mut stream).await.0, "08P01");
    assert_eq!(rest(&mut stream).await, b"");

    // Before the handshake; and in the middle of it.
    let mut stream = stage.proxy.raw().await;
    stream.write_all(&ssl_request()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    stream.write_all(&session()).await.unwrap();
    let answer = rest(&mut stream).await;
    assert!(answer.first().is_none_or(|first| *first == 0x15), "no alert: {answer:?}");

    // And a client that was let in must not be taken for another because of what stands behind.
    let mut stream = encrypted(&stage.proxy, &files).await;
    stream.write_all(&session()).await.unwrap();
    let socket = stream.get_mut().0;
    socket.write_all(b"Q\0\0\0\x0dselect 1\0").await.unwrap();
    let _ = rest(&mut stream).await;
    deserted(&stage.proxy).await;

    // GSSENCRequest first, as libpq does it, and each of them once more.
    let gss = b"\0\0\0\x08\x04\xd2\x16\x30";
    let mut stream = stage.proxy.raw().await;
    stream.write_all(gss).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'N');
    stream.write_all(&ssl_request()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    log_in(&mut connector(&files, &[]).connect(name(), stream).await.unwrap()).await;
    let mut stream = stage.proxy.raw().await;
    stream.write_all(&[&gss[..], &session()].concat()).await.unwrap();
    assert_eq!(error(&mut stream).await.0, "08P01");
}

#[tokio::test]
async fn an_end_is_announced() {
    let (stage, files) = stage("require").await;
    let mut stream = encrypted(&stage.proxy, &files).await;
    log_in(&mut stream).await;
    stream.write_all(b"X\0\0\0\x04").await.unwrap();
    // rustls fails with UnexpectedEof where there was no close_notify.
    assert_eq!(stream.read_to_end(&mut Vec::new()).await.unwrap(), 0);

    let mut stream = encrypted(&stage.proxy, &files).await;
    stream.write_all(b"\0\0\0\x09\0\x02\0\0\0").await.unwrap();
    let mut farewell = Vec::new();
    stream.read_to_end(&mut farewell).await.unwrap();
    assert_eq!(farewell.first(), Some(&tag::ERROR_RESPONSE));
}

#[tokio::test]
async fn certificates_are_exchanged_under_way() {
    let setup = setup();
    let cluster = cluster(&setup).await;
    let files = Files::new(&cluster);
    let setup = files.offered(&setup, "require");
    let mut stage = Stage { proxy: setup.proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();
    let mut old = encrypted(&stage.proxy, &files).await;
    log_in(&mut old).await;

    // The same paths, other contents; the configuration does not change.
    let fresh = Files::new(&stage.cluster);
    stage.proxy.signal("HUP");
    let takes = async |files: &Files| {
        let mut stream = stage.proxy.raw().await;
        stream.write_all(&ssl_request()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'S');
        connector(files, &[]).connect(name(), stream).await.is_ok()
    };
    until("the new certificate to be shown", async || takes(&fresh).await).await.unwrap();
    assert!(!takes(&files).await);
    let mut question = Vec::new();
    wire::frontend::put_query(&mut question, "select 1");
    old.write_all(&question).await.unwrap();
    until_message(&mut old, tag::READY_FOR_QUERY).await;

    // Files that are broken change nothing, and are complained about.
    certificates::write(stage.cluster.directory(), "proxy.key", "no key at all");
    stage.proxy.signal("HUP");
    until("the complaint", async || stage.proxy.log().contains("the configuration stays as it was")).await.unwrap();
    assert!(takes(&fresh).await);
    old.write_all(&question).await.unwrap();
    until_message(&mut old, tag::READY_FOR_QUERY).await;

    // And nothing starts with them.
    let path = setup.write(&stage.cluster).unwrap();
    let checked = run(program("check", &path).into(), "").await;
    assert!(!checked.status.success() && checked.stderr.contains("proxy.key"), "{checked:?}");
    stage.proxy.signal("INT");
    assert!(stage.proxy.ended().await.unwrap().success());
    let refused = setup.proxy(&stage.cluster).await.err().unwrap().to_string();
    assert!(refused.contains("proxy.key") && refused.contains("private key"), "{refused}");
}

#[tokio::test]
async fn versions_and_ciphers() {
    let setup = setup();
    let cluster = cluster(&setup).await;
    let files = Files::new(&cluster);
    let cases = [
        ("tlsv1.2", "default", "protocol: TLSv1.2, cipher: ECDHE-ECDSA-"),
        ("tlsv1.3", "default", "protocol: TLSv1.3, cipher: TLS_"),
        ("tlsv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", "cipher: ECDHE-ECDSA-AES128-GCM-SHA256"),
        ("tlsv1.3", "TLS_AES_128_GCM_SHA256", "cipher: TLS_AES_128_GCM_SHA256"),
        (
            "secure",
            "TLS_CHACHA20_POLY1305_SHA256:ECDHE-ECDSA-AES256-GCM-SHA384",
            "cipher: TLS_CHACHA20_POLY1305_SHA256",
        ),
    ];
    for (protocols, ciphers, expected) in cases {
        let setup = files.offered(&setup, "require");
        let setup = setup.with("tls", "client_tls_protocols", &format!("{protocols:?}"));
        let proxy = setup.with("tls", "client_tls_ciphers", &format!("{ciphers:?}")).proxy(&cluster).await.unwrap();
        let target = "sslmode=require";
        let output = proxy.client_program(&postgres_program("psql"), &["-XAtq", "-c", "\\conninfo", target], "").await;
        assert!(output.stdout.contains(expected), "{protocols} {ciphers}: {expected}: {output:?}");
    }

    // Who begins with a handshake where there is none to be had gets no answer.
    let proxy = setup.proxy(&cluster).await.unwrap();
    assert!(connector(&files, &[b"postgresql"]).connect(name(), proxy.raw().await).await.is_err());
    deserted(&proxy).await;
}

/// Whom we believe may change while connections are open: those go on, and new ones are judged anew.
#[tokio::test]
async fn authorities_are_exchanged_under_way() {
    let setup = setup();
    let cluster = cluster(&setup).await;
    let server = cluster.nodes()[0].data_directory().to_owned();
    let root = certificates::write(cluster.directory(), "root.crt", "");
    let appear = async |authority: &Authority| {
        let (cert, key) = authority.issue("server", &["127.0.0.1"]).write(&server, "server");
        cluster.set(0, "ssl_cert_file", cert.to_str().unwrap()).await.unwrap();
        cluster.set(0, "ssl_key_file", key.to_str().unwrap()).await.unwrap();
        cluster.set(0, "ssl", "on").await.unwrap();
    };
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    appear(&old).await;
    certificates::write(cluster.directory(), "root.crt", &old.pem);
    let setup = setup
        .with("tls", "server_tls_sslmode", "\"verify-full\"")
        .with("tls", "server_tls_ca_file", &format!("{:?}", root.to_str().unwrap()))
        .with("pool", "mode", "\"session\"");
    let proxy = setup.proxy(&cluster).await.unwrap();
    until("the server to be believed", async || proxy.page("/ready").await.is_ok_and(|(status, _)| status == 200))
        .await
        .unwrap();
    let settled = proxy.connect().await;
    let backend = settled.value("select pg_backend_pid()").await.unwrap();

    appear(&new).await;
    certificates::write(cluster.directory(), "root.crt", &new.pem);
    proxy.signal("HUP");
    let encrypted = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
    until("the new server to be believed", async || {
        let client = proxy.connect_with(|_| {}).await;
        match client {
            Ok(client) => client.value(encrypted).await.is_ok_and(|answer| answer == "t"),
            Err(_) => false,
        }
    })
    .await
    .unwrap();
    assert_eq!(settled.value("select pg_backend_pid()").await.unwrap(), backend);
}

/// What a login makes of the encryption: by which line of the HBA file, by whose certificate, and bound to which connection.
#[tokio::test]
async fn logins() {
    let setup = Setup::replicas(0);
    let cluster = cluster(&setup).await;
    let files = Files::new(&cluster);
    let directory = cluster.directory();
    let lines = "hostssl certs all all cert\nhostssl bound all all scram-sha-256\nhostnossl plain all all scram-sha-256\n\
                 hostssl both all all scram-sha-256 clientcert=verify-full\n";
    let hba = certificates::write(directory, "hba.conf", lines);
    let names = ["certs", "bound", "plain", "both"].map(|name| format!("[databases.{name}]\ndbname = \"postgres\"\n"));
    let setup = files
        .offered(&setup, "prefer")
        .with("auth", "method", "\"hba\"")
        .with("auth", "failed_login_delay", "\"0s\"")
        .with("auth", "auth_hba_file", &format!("{:?}", hba.to_str().unwrap()))
        .and(&names.concat());
    let stage = Stage { proxy: setup.proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();
    let directory = stage.cluster.directory();
    let shown = |name: &str| {
        let (cert, key) = files.authority.issue(name, &[]).write(directory, name);
        format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display())
    };
    let (right, wrong) = (shown("postgres"), shown("somebody"));
    let entry = "no pg_hba.conf entry for host \"127.0.0.1\", user \"postgres\", database";
    let (clear, encrypted) =
        (format!("{entry} \"bound\", no encryption"), format!("{entry} \"plain\", SSL encryption"));
    let cases = [
        ("certs", right.as_str(), "1"),
        ("certs", wrong.as_str(), "certificate authentication failed for user \"postgres\""),
        ("certs", "sslmode=require", "certificate authentication failed"),
        ("both", right.as_str(), "1"),
        ("both", wrong.as_str(), "certificate"),
        ("both", "sslmode=require", "certificate"),
        ("bound", "sslmode=require channel_binding=require", "1"),
        ("bound", "sslmode=require channel_binding=disable", "1"),
        ("bound", "sslmode=disable", clear.as_str()),
        ("plain", "sslmode=disable", "1"),
        ("plain", "sslmode=require", encrypted.as_str()),
    ];
    for (database, target, expected) in cases {
        let target = format!("dbname={database} {target}");
        let output = stage.run("psql", &["-XAtq", "-c", "select 1", &target], "").await;
        let said = format!("{}{}", output.stdout, output.stderr);
        assert!(said.contains(expected) && (expected == "1") == output.status.success(), "{target}: {said}");
    }

    // Somebody in between with another certificate gets nowhere, though the client asks for none in particular.
    let forged = Authority::new("forger").issue("proxy", &["127.0.0.1"]);
    let port = interloper::start(&forged, stage.proxy.address.port()).await;
    let target = format!("dbname=bound port={port} sslmode=require channel_binding");
    let psql = async |target: &str| stage.run("psql", &["-XAtq", "-c", "select 1", target], "").await;
    for binding in ["require", "prefer"] {
        let output = psql(&format!("{target}={binding}")).await;
        assert!(!output.status.success() && output.stderr.contains("channel binding"), "{binding}: {output:?}");
    }
    // It is the binding that stops it.
    assert_eq!(psql(&format!("{target}=disable")).await.stdout, "1\n");
}

/// Servers that take encrypted connections only: for probes, for clients' statements and for what cancels them.
#[tokio::test]
async fn servers_that_demand_it() {
    let setup = Setup::replicas(1).with("pool", "size", "2");
    let cluster = cluster(&setup).await;
    let authority = Authority::new("authority");
    let root = certificates::write(cluster.directory(), "root.crt", &authority.pem);
    for (number, node) in cluster.nodes().iter().enumerate() {
        let directory = node.data_directory();
        let (cert, key) = authority.issue("server", &["127.0.0.1"]).write(directory, "server");
        certificates::write(
            directory,
            "pg_hba.conf",
            "local all all trust\nlocal replication all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n\
             host replication all 127.0.0.1/32 scram-sha-256\n",
        );
        for (name, value) in [("ssl_cert_file", &cert), ("ssl_key_file", &key)] {
            cluster.set(number, name, value.to_str().unwrap()).await.unwrap();
        }
        cluster.set(number, "ssl", "on").await.unwrap();
    }
    let setup = setup.with("tls", "server_tls_sslmode", "\"verify-full\"").with(
        "tls",
        "server_tls_ca_file",
        &format!("{:?}", root.to_str().unwrap()),
    );
    let stage = Stage { proxy: setup.proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();
    let about = "select ssl and version = 'TLSv1.3' from pg_stat_ssl where pid = pg_backend_pid()";
    assert_eq!(stage.psql(about).await, "t");
    assert_eq!(stage.direct(0, "select bool_and(ssl) from pg_stat_ssl natural join pg_stat_activity where client_addr is not null and application_name <> 'node1'").await, "t");

    // A connection changes its worker, with its keys; and back again.
    let clients = futures_util::future::join_all((0..6).map(|_| stage.connect())).await;
    futures_util::future::join_all(clients.iter().map(async |client| {
        for n in 0..200 {
            assert_eq!(client.value(&format!("select {n} /* hakem: primary */")).await.unwrap(), n.to_string());
        }
        assert_eq!(client.value("select length(repeat('x', 5000000))").await.unwrap(), "5000000");
        assert_eq!(client.value("select repeat('x', 500000)").await.unwrap().len(), 500_000);
    }))
    .await;

    let cancel = clients[0].cancel_token();
    let sleeper = clients[0].failure("select pg_sleep(60) /* hakem: primary */");
    let canceller = async {
        until("the statement to run", async || {
            stage
                .direct(
                    0,
                    "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'",
                )
                .await
                == "1"
        })
        .await
        .unwrap();
        cancel.cancel_query(tokio_postgres::NoTls).await.unwrap();
    };
    let (failure, ()) = tokio::join!(sleeper, canceller);
    assert_eq!(failure.unwrap().code(), "57014");

    let path = setup.write(&stage.cluster).unwrap();
    let checked = run(program("check", &path).into(), "").await;
    assert!(checked.status.success() && checked.stdout.contains("replica"), "{checked:?}");

    // Without TLS such servers are out of reach, and that is what the log says.
    let plain = setup.with("tls", "server_tls_sslmode", "\"disable\"").proxy(&stage.cluster).await.unwrap();
    until("the refusal", async || plain.log().contains("no encryption")).await.unwrap();

    // Connections end as they should: PostgreSQL complains of an end without close_notify.
    drop(clients);
    let Stage { mut proxy, cluster } = stage;
    proxy.signal("INT");
    assert!(proxy.ended().await.unwrap().success());
    until("the last connection to be closed", async || {
        let encrypted =
            "select count(*) from pg_stat_ssl natural join pg_stat_activity where ssl and application_name <> 'node1'";
        cluster.sql(0, encrypted).await.unwrap() == "0"
    })
    .await
    .unwrap();
    let log = std::fs::read_to_string(cluster.nodes()[0].log()).unwrap();
    // The probe's own, and the catalog's, are cut off by the end of the program.
    assert!(log.matches("could not receive data from client").count() <= 2 && !log.contains("SSL error"), "{log}");
}

/// libpq reads 8 kB at a time, and what it leaves of a larger record wakes nobody who waits for the socket.
#[tokio::test]
async fn records_are_small() {
    let (stage, files) = stage("require").await;
    let mut stream = stage.proxy.raw().await;
    stream.write_all(&ssl_request()).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'S');
    let records = Records { stream, received: Vec::new(), largest: 0 };
    let mut stream = connector(&files, &[]).connect(name(), records).await.unwrap();
    log_in(&mut stream).await;
    let mut question = Vec::new();
    wire::frontend::put_query(&mut question, "select repeat('x', 1000000)");
    stream.write_all(&question).await.unwrap();
    until_message(&mut stream, tag::READY_FOR_QUERY).await;
    let largest = stream.get_ref().0.largest;
    // Encryption adds a tag of 16 bytes and a type.
    assert!((8_000..=8_192 + 17).contains(&largest), "{largest}");
}

/// A connection that measures the records which come.
struct Records {
    stream: TcpStream,
    received: Vec<u8>,
    /// Bytes of the payload of the largest.
    largest: usize,
}

impl AsyncRead for Records {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        self.received.extend_from_slice(&buffer.filled()[before..]);
        while let Some(header) = self.received.first_chunk::<5>() {
            let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
            if self.received.len() < 5 + length {
                break;
            }
            self.received.drain(..5 + length);
            self.largest = self.largest.max(length);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A client that reads late gets everything, and the program does not buffer it.
#[tokio::test]
async fn a_client_that_reads_slowly() {
    const BYTES: usize = 64 << 20;
    let (stage, files) = stage("require").await;
    let mut stream = encrypted(&stage.proxy, &files).await;
    log_in(&mut stream).await;
    let mut question = Vec::new();
    wire::frontend::put_query(
        &mut question,
        &format!("select repeat('x', 1048576) from generate_series(1, {})", BYTES >> 20),
    );
    stream.write_all(&question).await.unwrap();
    assert_eq!(stage.proxy.metric("hakem_tls_handshakes_total", &[("outcome", "success")]).await, 1.0);
    // Nobody reads until the server has to wait for it.
    until("the server to wait for the client", async || {
        stage.direct(0, "select count(*) from pg_stat_activity where wait_event = 'ClientWrite'").await == "1"
    })
    .await
    .unwrap();
    assert!(stage.proxy.memory_kb("VmHWM") < (BYTES >> 10) as u64, "it was buffered");
    let (mut length, mut tail, mut buffer) = (0, Vec::new(), vec![0; 65_536]);
    while !tail.ends_with(b"Z\0\0\0\x05I") {
        let read = tokio::time::timeout(WAIT_MAX, stream.read(&mut buffer)).await.expect("silence").unwrap();
        assert!(read > 0, "the connection has ended after {length} bytes");
        length += read;
        tail.extend_from_slice(&buffer[..read]);
        tail.drain(..tail.len().saturating_sub(16));
    }
    assert!(length > BYTES);
}

/// Both directions are full, and what TLS holds back is sent all the same when there is room again.
#[tokio::test]
async fn a_client_that_says_much_and_reads_late() {
    const QUESTIONS: usize = 3_000;
    let (stage, files) = stage("require").await;
    let mut stream = encrypted(&stage.proxy, &files).await;
    log_in(&mut stream).await;
    let (mut from, mut to) = tokio::io::split(stream);
    let writer = tokio::spawn(async move {
        let mut questions = Vec::new();
        for n in 0..QUESTIONS {
            // Questions that are long, too: else they would all lie in the sockets' buffers.
            let padding = " ".repeat(10_000);
            wire::frontend::put_query(&mut questions, &format!("select repeat('x', 20000)-- {padding}{n:04}"));
        }
        to.write_all(&questions).await.unwrap();
        to.flush().await.unwrap();
        to
    });
    // Nothing moves any more: the last question is the same for many looks.
    let (mut last, mut looks) = (String::new(), 0);
    until("everything to be full", async || {
        let now =
            stage.direct(0, "select right(query, 4) from pg_stat_activity where query like 'select repeat%'").await;
        looks = if !now.is_empty() && last == now { looks + 1 } else { 0 };
        last = now;
        looks > 20
    })
    .await
    .unwrap();
    assert!(!writer.is_finished(), "the questions fit into the buffers");
    let (mut ready, mut received, mut buffer) = (0, Vec::new(), vec![0; 65_536]);
    while ready < QUESTIONS {
        let length = tokio::time::timeout(WAIT_MAX, from.read(&mut buffer)).await.expect("silence").unwrap();
        assert!(length > 0, "the connection has ended after {ready} answers");
        received.extend_from_slice(&buffer[..length]);
        let mut done = 0;
        while let Some(frame) = Frame::take(&received[done..]).unwrap() {
            ready += usize::from(frame.tag == tag::READY_FOR_QUERY);
            done += frame.whole.len();
        }
        received.drain(..done);
    }
    drop(writer.await.unwrap());
}

/// What TLS keeps of a conversation is small while nobody says anything.
#[tokio::test]
async fn idle_clients_cost_little() {
    const CLIENTS: u64 = 200;
    const KB_MAX: u64 = 32;
    let (stage, files) = stage("require").await;
    let mut question = Vec::new();
    wire::frontend::put_query(&mut question, "select repeat('x', 200000)");
    let talkative = async || {
        let mut stream = encrypted(&stage.proxy, &files).await;
        log_in(&mut stream).await;
        stream.write_all(&question).await.unwrap();
        until_message(&mut stream, tag::READY_FOR_QUERY).await;
        stream
    };
    let mut clients = Vec::new();
    for _ in 0..50 {
        clients.push(talkative().await);
    }
    let before = stage.proxy.memory_kb("VmRSS");
    for _ in 0..CLIENTS {
        clients.push(talkative().await);
    }
    let each = stage.proxy.memory_kb("VmRSS").saturating_sub(before) / CLIENTS;
    assert!(each < KB_MAX, "{each} kB each");
}

/// Whatever a stranger begins with, and wherever it stops, costs nobody anything.
#[tokio::test]
async fn strangers() {
    let setup = setup().with("proxy", "client_login_timeout", "\"2s\"");
    let cluster = cluster(&setup).await;
    let files = Files::new(&cluster);
    let stage = Stage { proxy: files.offered(&setup, "prefer").proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();
    // A handshake that stops at each of some lengths: those who vanish, and those who stay and say nothing more.
    let hello = {
        let mut session =
            rustls::ClientConnection::new(connector(&files, &[b"postgresql"]).config().clone(), name()).unwrap();
        let mut hello = Vec::new();
        session.write_tls(&mut hello).unwrap();
        hello
    };
    let mut waiting = Vec::new();
    for cut in (1..hello.len()).step_by(11) {
        for prefix in [&ssl_request()[..], b""] {
            let mut stream = stage.proxy.raw().await;
            stream.write_all(prefix).await.unwrap();
            if !prefix.is_empty() {
                assert_eq!(stream.read_u8().await.unwrap(), b'S');
            }
            stream.write_all(&hello[..cut]).await.unwrap();
            if cut % 2 == 0 {
                waiting.push(stream);
            }
        }
    }
    // Noise, from every first byte.
    let mut noise = 0x2545_f491_4f6c_dd1d_u64;
    for first in 0..=u8::MAX {
        let mut bytes = vec![first];
        for _ in 0..200 {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            bytes.push(noise.to_be_bytes()[0]);
        }
        for prefix in [&ssl_request()[..], b""] {
            let mut stream = stage.proxy.raw().await;
            stream.write_all(prefix).await.unwrap();
            if !prefix.is_empty() {
                assert_eq!(stream.read_u8().await.unwrap(), b'S');
            }
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let answer = rest(&mut stream).await;
            assert!(!answer.contains(&tag::READY_FOR_QUERY) || answer.len() < 400, "{answer:?}");
        }
    }
    log_in(&mut encrypted(&stage.proxy, &files).await).await;
    assert!(stage.proxy.metric("hakem_tls_handshakes_total", &[("outcome", "failure")]).await >= 256.0);
    // The login timeout ends what would wait for ever.
    for mut stream in waiting {
        let _ = rest(&mut stream).await;
    }
    deserted(&stage.proxy).await;
}
