//! Cluster managers that trust nobody: Patroni and etcd over TLS, with certificates of both sides, names and passwords.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::{Managed, ManagedOptions, Strict};
use pool::tls;
use tokio_postgres::error::SqlState;
use tokio_rustls::TlsConnector;

use crate::certificates::{Authority, write};
use crate::harness::{Proxy, Setup, until};
use crate::patroni::{by_etcd, by_patroni, options, put_leader, ready, writer};

const NOBODY: &str = "";

fn strict(authority: &Authority) -> Strict {
    let managers = authority.issue(NOBODY, &["127.0.0.1"]);
    let (chain, key) = (tls::certificates(managers.chain.as_bytes()), tls::private_key(managers.key.as_bytes()));
    let client = rustls::ClientConfig::builder_with_provider(tls::provider(&[]))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(tls::roots(authority.pem.as_bytes()).unwrap())
        .with_client_auth_cert(chain.unwrap(), key.unwrap())
        .unwrap();
    Strict {
        ca: authority.pem.clone(),
        chain: managers.chain,
        key: managers.key,
        connector: TlsConnector::from(Arc::new(client)),
        login: ["patroni", "hush"].map(str::to_owned),
        reader: ["hakem", "whisper"].map(str::to_owned),
        token_seconds: 1,
    }
}

fn quoted(path: &Path) -> String {
    format!("{:?}", path.display().to_string())
}

/// Shows the managers a certificate.
fn presented(setup: Setup, authority: &Authority, directory: &Path) -> Setup {
    let (chain, key) = authority.issue(NOBODY, &[]).write(directory, "hakem");
    setup
        .with("clusters.local", "manager_tls_ca_file", &quoted(&directory.join("ca.crt")))
        .with("clusters.local", "manager_tls_cert_file", &quoted(&chain))
        .with("clusters.local", "manager_tls_key_file", &quoted(&key))
}

fn named(setup: Setup, of: &str, login: [&str; 2]) -> Setup {
    let [user, password] = login.map(|word| format!("{word:?}"));
    setup.with("clusters.local", &format!("{of}_user"), &user).with(
        "clusters.local",
        &format!("{of}_password"),
        &password,
    )
}

async fn switchover(proxy: &Proxy, cluster: &Managed, to: usize) -> Result<(), tokio_postgres::Error> {
    let console = crate::console::console(proxy).await;
    let target = format!("127.0.0.1:{}", cluster.members()[to].port());
    console.batch_execute(&format!("SWITCHOVER TO \"{target}\"")).await
}

/// How many calls of this kind etcd has answered to the end.
async fn handled(cluster: &Managed, method: &str) -> u64 {
    let (metrics, method) = (cluster.etcd().metrics().await.unwrap(), format!("grpc_method=\"{method}\""));
    let lines = metrics.lines().filter(|line| line.starts_with("grpc_server_handled_total") && line.contains(&method));
    lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64).sum()
}

#[tokio::test]
async fn managers_that_want_to_know_who_asks() {
    let authority = Authority::new("Managers");
    let options = ManagedOptions { strict: Some(strict(&authority)), ..options(2) };
    let mut cluster = Managed::start(options).await.unwrap();
    let directory = cluster.directory().to_owned();
    let admin = Setup::default().cluster.user;
    let known = |setup: Setup| {
        let setup = setup.with("console", "admin_users", &format!("[{admin:?}]"));
        presented(setup, &authority, &directory)
    };
    let reader = |setup| named(setup, "etcd", ["hakem", "whisper"]);
    let teller = |setup| named(setup, "patroni", ["patroni", "hush"]);
    let by_etcd_known = reader(known(by_etcd(&cluster)));
    let asking = teller(by_etcd_known.clone()).proxy(&cluster).await.unwrap();
    let told = known(by_patroni(&cluster)).proxy(&cluster).await.unwrap();
    for proxy in [&asking, &told] {
        ready(proxy).await;
        until("the managers to be heard", async || proxy.log().contains("the cluster manager answers")).await.unwrap();
    }
    let leader = cluster.settled().await.unwrap();
    let clients = [asking.connect().await, told.connect().await];
    clients[0].batch_execute("create table kept (n int)").await.unwrap();

    // Nobody else asks etcd now. What is watched goes on being watched, whatever becomes of the token that it was begun with.
    (0..2).for_each(|number| cluster.freeze_manager(number, true));
    let (logins, watches) = (handled(&cluster, "Authenticate").await, handled(&cluster, "Watch").await);
    let logged_in = async |times| {
        let expected = logins + times;
        until("a new token", async || handled(&cluster, "Authenticate").await >= expected).await.unwrap();
    };
    // Tokens are of a state of etcd's users.
    assert!(cluster.etcd().control(&["role", "add", "another"]).output().unwrap().status.success());
    logged_in(1).await;
    // They are forgotten when nobody uses them for a second.
    asking.signal("STOP");
    cluster.sql(leader, "select pg_sleep(2.5)").await.unwrap();
    asking.signal("CONT");
    logged_in(2).await;
    assert_eq!(handled(&cluster, "Watch").await, watches);
    put_leader(&cluster, &cluster.members()[1 - leader].name);
    until("the change to be known", async || writer(&asking, &cluster).await.is_none()).await.unwrap();
    put_leader(&cluster, &cluster.members()[leader].name);
    until("the change to be known", async || writer(&asking, &cluster).await == Some(leader)).await.unwrap();
    // An etcd that has been started anew knows of no token at all.
    cluster.kill_etcd();
    until("the silence to be noticed", async || asking.log().contains("the cluster manager does not answer"))
        .await
        .unwrap();
    let heard = || asking.log().matches("the cluster manager answers").count();
    let before = heard();
    cluster.start_etcd().await.unwrap();
    until("it to be heard again", async || heard() > before).await.unwrap();
    assert!(!asking.log().contains("lets nobody watch"), "{}", asking.log());
    (0..2).for_each(|number| cluster.freeze_manager(number, false));
    cluster.settled().await.unwrap();

    until("Patroni to have found etcd again, too", async || {
        let refused = switchover(&asking, &cluster, 1 - leader).await.err();
        let reason = refused.as_ref().map(|error| error.as_db_error().unwrap().message());
        assert!(reason.is_none_or(|reason| reason.contains("503")), "{reason:?}");
        reason.is_none()
    })
    .await
    .unwrap();
    for (client, proxy) in clients.iter().zip([&asking, &told]) {
        client.batch_execute("insert into kept values (1)").await.unwrap();
        assert_eq!(writer(proxy, &cluster).await, Some(1 - leader));
    }
    assert_eq!(cluster.sql(1 - leader, "select count(*) from kept").await.unwrap(), "2");

    // Who may read may not have the leader changed.
    for setup in [by_etcd_known.clone(), named(by_etcd_known.clone(), "patroni", ["patroni", "shout"])] {
        let proxy = setup.proxy(&cluster).await.unwrap();
        ready(&proxy).await;
        let error = switchover(&proxy, &cluster, leader).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code(), &SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE);
        assert!(error.message().starts_with("Patroni will not switch over: 401"), "{error}");
        proxy.connect().await.batch_execute("insert into kept values (2)").await.unwrap();
    }
    // Who is not known, or does not know whom he asks, hears nothing, and says why.
    let stranger = Authority::new("Strangers");
    let theirs = write(&directory, "strangers.crt", &stranger.pem);
    let strange = stranger.issue(NOBODY, &[]).write(&directory, "stranger");
    // etcd's gateway will not have a user's login beside a certificate that names somebody, too.
    let called = authority.issue("hakem", &[]).write(&directory, "called");
    let showing = |setup: Setup, (chain, key): &(PathBuf, PathBuf)| {
        let setup = setup.with("clusters.local", "manager_tls_cert_file", &quoted(chain));
        setup.with("clusters.local", "manager_tls_key_file", &quoted(key))
    };
    let believing = |setup: Setup| setup.with("clusters.local", "manager_tls_ca_file", &quoted(&theirs));
    for (setup, reason) in [
        (named(by_etcd_known.clone(), "etcd", ["hakem", "shout"]), "authentication failed"),
        (known(by_etcd(&cluster)), "permission denied"),
        (showing(by_etcd_known.clone(), &strange), ""),
        (showing(by_etcd_known.clone(), &called), "CommonName"),
        (showing(known(by_patroni(&cluster)), &strange), ""),
        (believing(by_etcd_known.clone()), "UnknownIssuer"),
        (believing(known(by_patroni(&cluster))), "UnknownIssuer"),
    ] {
        let proxy = setup.proxy(&cluster).await.unwrap();
        ready(&proxy).await;
        let silence = "the cluster manager does not answer";
        until("the silence to be noticed", async || proxy.log().contains(silence)).await.unwrap();
        let log = proxy.log();
        let why = log.lines().find(|line| line.contains(silence));
        assert!(why.is_some_and(|why| why.contains(reason)), "{reason}: {log}");
    }
}
