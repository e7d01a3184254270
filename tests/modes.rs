//! `server_tls_sslmode` word for word, and the authorities of clients exchanged under way. How a handshake goes is `encryption`'s.

use std::path::Path;

use cluster::Cluster;

use crate::certificates::{self, Authority};
use crate::harness::{Proxy, Setup, Stage, postgres_program, until};

const MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

/// What each mode makes of a server: `clear`, `tls`, or the reason that the log has for there being no connection.
#[tokio::test]
async fn towards_servers() {
    let setup = Setup::replicas(0);
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let root = certificates::write(cluster.directory(), "root.crt", &ours.pem);
    const NONE: &str = "server does not support TLS";
    const STRANGER: &str = "UnknownIssuer";
    const ELSEWHERE: &str = "not valid for";
    const REFUSED: &str = "no pg_hba.conf entry";
    let host = "host all all 127.0.0.1/32 scram-sha-256";
    // The certificate that the server shows, the lines of its pg_hba.conf, and what comes of it in each of the modes.
    let right = Some(ours.issue("server", &["127.0.0.1"]));
    let elsewhere = Some(ours.issue("server", &["db.example.org"]));
    let stranger = Some(theirs.issue("server", &["127.0.0.1"]));
    let table = [
        (&None, host, ["clear", "clear", "clear", NONE, NONE, NONE]),
        (&right, host, ["clear", "tls", "tls", "tls", "tls", "tls"]),
        (&right, "hostssl all all 127.0.0.1/32 scram-sha-256", [REFUSED, "tls", "tls", "tls", "tls", "tls"]),
        (
            &right,
            "hostnossl all all 127.0.0.1/32 scram-sha-256",
            ["clear", "clear", "clear", REFUSED, REFUSED, REFUSED],
        ),
        (&elsewhere, host, ["clear", "tls", "tls", "tls", "tls", ELSEWHERE]),
        (&stranger, host, ["clear", "tls", "tls", "tls", STRANGER, STRANGER]),
    ];
    let server = cluster.nodes()[0].data_directory();
    for (number, (shown, lines, expected)) in table.into_iter().enumerate() {
        if let Some(pair) = shown {
            let (cert, key) = pair.write(server, &format!("shown{number}"));
            cluster.set(0, "ssl_cert_file", cert.to_str().unwrap()).await.unwrap();
            cluster.set(0, "ssl_key_file", key.to_str().unwrap()).await.unwrap();
            cluster.set(0, "ssl", "on").await.unwrap();
        }
        certificates::write(server, "pg_hba.conf", &format!("local all all trust\n{lines}\n"));
        // The postmaster takes up new files in its own time, and whoever it starts knows when that was.
        let loaded = async || cluster.sql(0, "select pg_conf_load_time()").await.unwrap();
        let before = loaded().await;
        cluster.sql(0, "select pg_reload_conf()").await.unwrap();
        until("the server to be as it should", async || loaded().await != before).await.unwrap();
        let found = futures_util::future::join_all(MODES.iter().zip(expected).map(async |(mode, expected)| {
            let proxy = setup
                .clone()
                .with("tls", "server_tls_sslmode", &format!("{mode:?}"))
                .with("tls", "server_tls_ca_file", &format!("{root:?}"))
                .proxy(&cluster)
                .await
                .unwrap();
            let arrived = until("the mode's outcome", async || outcome(&proxy, expected).await).await;
            assert!(arrived.is_ok(), "{mode} at {number}: not {expected}: {}", proxy.log());
        }));
        found.await;
    }
}

/// Whether it has come to what is expected of it.
async fn outcome(proxy: &Proxy, expected: &str) -> bool {
    if !["clear", "tls"].contains(&expected) {
        assert_ne!(proxy.page("/ready").await.unwrap().0, 200, "it is connected, and should not: {expected}");
        return proxy.log().contains(expected);
    }
    if !proxy.page("/ready").await.is_ok_and(|(status, _)| status == 200) {
        return false;
    }
    // A connection of the probe's, and one of a client's.
    let encrypted = "select bool_and(ssl)::text from pg_stat_ssl where pid = pg_backend_pid()";
    let Ok(client) = proxy.connect_with(|_| {}).await else { return false };
    client.value(encrypted).await.is_ok_and(|ssl| ssl == if expected == "tls" { "true" } else { "false" })
}

/// Whom of the clients' authorities we believe is read again with a reload: who is there stays, and whoever comes is judged anew.
#[tokio::test]
async fn authorities_of_clients_are_exchanged_under_way() {
    let setup = Setup::replicas(0).with("auth", "method", "\"cert\"");
    let cluster =
        Cluster::start(cluster::Options { authentication: cluster::Authentication::Trust, ..setup.cluster.clone() })
            .await
            .unwrap();
    let directory = cluster.directory();
    let (own, old, new) = (Authority::new("own"), Authority::new("old"), Authority::new("new"));
    let (cert, key) = own.issue("proxy", &["127.0.0.1"]).write(directory, "proxy");
    let roots = certificates::write(directory, "clients.crt", &old.pem);
    let quoted = |path: &Path| format!("{:?}", path.to_str().unwrap());
    let setup = setup
        .with("auth", "failed_login_delay", "\"0s\"")
        .with("tls", "client_tls_sslmode", "\"verify-full\"")
        .with("tls", "client_tls_cert_file", &quoted(&cert))
        .with("tls", "client_tls_key_file", &quoted(&key))
        .with("tls", "client_tls_ca_file", &quoted(&roots));
    let stage = Stage { proxy: setup.proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();
    let directory = stage.cluster.directory();
    let target = |authority: &Authority, name: &str| {
        let (cert, key) = authority.issue("postgres", &[]).write(directory, name);
        format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display())
    };
    let (olds, news) = (target(&old, "old"), target(&new, "new"));
    let psql = async |target: &str| stage.run("psql", &["-XAtq", "-c", "select session_user", target], "").await;
    assert_eq!(psql(&olds).await.stdout, "postgres\n");
    let output = psql(&news).await;
    assert!(!output.status.success() && output.stderr.contains("unknown ca"), "{output:?}");

    // One who is there stays, whoever has vouched for it: psql waits for a lock that is let go of after the exchange.
    let (lock, connection) = tokio_postgres::connect(&stage.cluster.url(0), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    lock.batch_execute("select pg_advisory_lock(7)").await.unwrap();
    let arguments = ["-XAtq", "-c", "select pg_advisory_xact_lock(7)", "-c", "select 'it lives'", &olds];
    let program = postgres_program("psql");
    let settled = stage.proxy.client_program(&program, &arguments, "");
    let exchange = async {
        until("it to wait", async || {
            stage.direct(0, "select count(*) from pg_locks where locktype = 'advisory' and not granted").await == "1"
        })
        .await
        .unwrap();
        certificates::write(directory, "clients.crt", &new.pem);
        stage.proxy.signal("HUP");
        until("the new authority to be believed", async || psql(&news).await.stdout == "postgres\n").await.unwrap();
        lock.batch_execute("select pg_advisory_unlock(7)").await.unwrap();
    };
    let (settled, ()) = tokio::join!(settled, exchange);
    assert!(settled.stdout.ends_with("it lives\n"), "{settled:?}");
    let output = psql(&olds).await;
    assert!(!output.status.success() && output.stderr.contains("unknown ca"), "{output:?}");
    // Both, as while certificates are being handed out; and a broken file changes nothing.
    certificates::write(directory, "clients.crt", &format!("{}{}", old.pem, new.pem));
    stage.proxy.signal("HUP");
    until("the old authority to be believed again", async || psql(&olds).await.stdout == "postgres\n").await.unwrap();
    assert_eq!(psql(&news).await.stdout, "postgres\n");
    certificates::write(directory, "clients.crt", "no certificate at all");
    stage.proxy.signal("HUP");
    until("the complaint", async || stage.proxy.log().contains("the configuration stays as it was")).await.unwrap();
    assert_eq!(psql(&olds).await.stdout, "postgres\n");
}
