//! Clients for whom somebody else vouches: an authority by a certificate, the operating system by a user's name; and logins that are
//! bound to the connection they are made on.

use std::path::Path;

use cluster::Cluster;

use crate::certificates::{self, Authority};
use crate::harness::{Proxy, Setup, Stage, postgres_program};

/// Runs psql with this connection string; what it says of its user, or why there is none.
async fn psql(proxy: &Proxy, target: &str) -> String {
    let output = proxy
        .client_program(&postgres_program("psql"), &["-XAtq", "-c", "select 'in as ' || current_user", target], "")
        .await;
    format!("{}{}", output.stdout, output.stderr)
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.to_str().unwrap())
}

/// A cluster with the roles alice and app, whose passwords are their names, and the configuration of a proxy with these rules.
async fn scene(hba: &str, ident: &str) -> (Cluster, Setup) {
    let setup = Setup::replicas(0);
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let directory = cluster.directory();
    for user in ["alice", "app"] {
        cluster.sql(0, &format!("create role {user} login password '{user}'")).await.unwrap();
    }
    for (name, text) in
        [("hba.conf", hba), ("ident.conf", ident), ("users.txt", "\"alice\" \"alice\"\n\"app\" \"app\"\n")]
    {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let mut setup = setup
        .with("auth", "method", "\"hba\"")
        .with("auth", "auth_hba_file", &quoted(&directory.join("hba.conf")))
        .with("auth", "auth_ident_file", &quoted(&directory.join("ident.conf")))
        .with("auth", "auth_file", &quoted(&directory.join("users.txt")))
        .with("auth", "failed_login_delay", "\"0s\"");
    for name in ["certified", "mapped", "bound", "both"] {
        setup = setup.and(&format!("[databases.{name}]\ndbname = \"postgres\""));
    }
    (cluster, setup)
}

#[tokio::test]
async fn certificates_and_bound_logins() {
    let hba = "hostssl certified all all cert
hostssl mapped all all cert map=m
hostssl bound all all scram-sha-256
hostssl both all all scram-sha-256 clientcert=verify-full
";
    let (cluster, setup) = scene(hba, "m alice app\n").await;
    let directory = cluster.directory().to_owned();
    let authority = Authority::new("authority");
    let root = certificates::write(&directory, "root.crt", &authority.pem);
    let (cert, key) = authority.issue("proxy", &["127.0.0.1"]).write(&directory, "proxy");
    let setup = setup
        .with("tls", "client_tls_sslmode", "\"allow\"")
        .with("tls", "client_tls_cert_file", &quoted(&cert))
        .with("tls", "client_tls_key_file", &quoted(&key))
        .with("tls", "client_tls_ca_file", &quoted(&root));
    let proxy = setup.proxy(&cluster).await.unwrap();
    let stage = Stage { proxy, cluster };
    stage.ready().await.unwrap();
    let own = |name: &str, signed_by: &Authority| {
        let (cert, key) = signed_by.issue(name, &[]).write(&directory, &format!("{name}-client"));
        format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display())
    };
    let (alices, apps) = (own("alice", &authority), own("app", &authority));
    let bare = "sslmode=require sslcert=/nonexistent";
    let no_entry = |database: &str| {
        format!("no pg_hba.conf entry for host \"127.0.0.1\", user \"alice\", database \"{database}\", no encryption")
    };
    let not = |user: &str| format!("certificate authentication failed for user \"{user}\"");
    let needs = "connection requires a valid client certificate".to_owned();
    let is = |user: &str| format!("in as {user}");
    let cases = [
        ("certified", "alice", alices.as_str(), is("alice")),
        ("certified", "app", &alices, not("app")),
        ("certified", "alice", &apps, not("alice")),
        ("certified", "alice", bare, not("alice")),
        ("certified", "alice", "sslmode=disable", no_entry("certified")),
        // A map replaces the rule that the names be the same.
        ("mapped", "app", &alices, is("app")),
        ("mapped", "alice", &alices, not("alice")),
        ("mapped", "app", &apps, not("app")),
        // libpq refuses to go on when the proxy does not prove that both see one connection.
        ("bound", "alice", "sslmode=require channel_binding=require password=alice", is("alice")),
        ("bound", "alice", "sslmode=require channel_binding=disable password=alice", is("alice")),
        (
            "bound",
            "alice",
            "sslmode=require channel_binding=require password=wrong",
            "password authentication failed".into(),
        ),
        ("bound", "alice", "sslmode=disable password=alice", no_entry("bound")),
        ("both", "alice", &format!("{alices} channel_binding=require password=alice"), is("alice")),
        ("both", "alice", &format!("{alices} password=wrong"), "password authentication failed".into()),
        ("both", "alice", &format!("{bare} password=alice"), needs.clone()),
        ("both", "alice", &format!("{apps} password=alice"), needs.clone()),
    ];
    for (database, user, how, expected) in cases {
        let said = psql(&stage.proxy, &format!("dbname={database} user={user} {how}")).await;
        assert!(said.contains(&expected), "{database} {user} {how}: {expected}: {said}\n{}", stage.proxy.log());
    }
}

#[tokio::test]
async fn the_operating_systems_user() {
    let id = std::process::Command::new("id").arg("-un").output().unwrap();
    let me = String::from_utf8(id.stdout).unwrap().trim().to_owned();
    let hba = "local mapped all peer map=m\nlocal all all peer\nhost all all all reject\n";
    let (cluster, setup) = scene(hba, &format!("m {me} app\n")).await;
    let directory = std::env::temp_dir().join(format!("hakem-peer-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let proxy = setup.with("proxy", "unix_socket_dir", &quoted(&directory)).proxy(&cluster).await.unwrap();
    let stage = Stage { proxy, cluster };
    stage.ready().await.unwrap();
    let socket = directory.display();
    let not = |user: &str| format!("Peer authentication failed for user \"{user}\"");
    let rejected =
        "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"app\", database \"mapped\", no encryption";
    for (target, expected) in [
        (format!("host={socket} dbname=mapped user=app"), "in as app".to_owned()),
        (format!("host={socket} dbname=mapped user=alice"), not("alice")),
        (format!("host={socket} dbname=both user=alice"), not("alice")),
        ("dbname=mapped user=app".to_owned(), rejected.to_owned()),
    ] {
        let said = psql(&stage.proxy, &target).await;
        assert!(said.contains(&expected), "{target}: {expected}: {said}\n{}", stage.proxy.log());
    }
    drop(stage);
    std::fs::remove_dir_all(&directory).unwrap();
}
