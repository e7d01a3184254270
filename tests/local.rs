//! Unix sockets on both sides: clients of the same machine, and servers of the same machine.

use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use wire::startup;

use crate::harness::{Proxy, Setup, until};

/// The socket that the program says it listens on.
fn socket(proxy: &Proxy) -> PathBuf {
    let log = proxy.log();
    let line = log.lines().find(|line| line.contains("accepting local connections")).unwrap();
    line.split_once("path=").unwrap().1.trim().into()
}

#[tokio::test]
async fn both_sides() {
    let directory = std::env::temp_dir().join(format!("hakem-local-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let setup = Setup::replicas(1).with("proxy", "unix_socket_dir", &format!("{directory:?}")).with(
        "proxy",
        "unix_socket_mode",
        "\"0700\"",
    );
    let cluster = cluster::Cluster::start(setup.cluster.clone()).await.unwrap();
    let home = cluster.directory().to_str().unwrap();
    let servers: Vec<String> = cluster.nodes().iter().map(|node| format!("\"{home}:{}\"", node.port())).collect();
    let setup = setup.with("clusters.local", "servers", &format!("[{}]", servers.join(", ")));
    let stage = crate::harness::Stage { proxy: setup.proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();
    let path = socket(&stage.proxy);
    assert!(path.starts_with(&directory) && path.exists());

    // psql finds the socket by its directory and its port, and logs in by its password.
    let (host, port) = (directory.to_str().unwrap(), stage.proxy.address.port().to_string());
    let output = stage.run("psql", &["-XAtq", "-h", host, "-p", &port, "-c", "select 1", "-c", "\\conninfo"], "").await;
    assert!(output.stdout.starts_with("1\n") && output.stdout.contains("via socket"), "{output:?}");
    // The servers are reached by theirs.
    let by_socket = "select client_addr is null from pg_stat_activity where pid = pg_backend_pid()";
    assert_eq!(stage.psql(by_socket).await, "t");
    assert_eq!(stage.psql("select count(*) from generate_series(1, 100000)").await, "100000");
    let output = stage.run("pgbench", &["-h", host, "-p", &port, "-i", "-q"], "").await;
    assert!(output.status.success(), "{output:?}");
    let output = stage
        .run("pgbench", &["-n", "-h", host, "-p", &port, "-c", "8", "-j", "2", "-t", "50", "-M", "prepared"], "")
        .await;
    assert!(output.status.success(), "{output:?}");

    // Nobody encrypts here, and a cancel request finds its way.
    let mut stream = UnixStream::connect(&path).await.unwrap();
    let mut request = Vec::new();
    startup::put_ssl_request(&mut request);
    stream.write_all(&request).await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'N');
    drop(stream);
    let sleeper = stage.connect().await;
    let cancel = sleeper.cancel_token();
    let (failure, ()) = tokio::join!(sleeper.failure("select pg_sleep(60) /* hakem: primary */"), async {
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
    });
    assert_eq!(failure.unwrap().code(), "57014");

    // The socket goes with the program; when that was killed, the next one takes its place.
    let address = stage.proxy.address;
    let again = setup.with("proxy", "listen", &format!("[\"{address}\"]"));
    let crate::harness::Stage { proxy, cluster } = stage;
    drop(sleeper);
    drop(proxy);
    assert!(path.exists(), "nobody was left to remove it");
    let mut proxy = again.proxy(&cluster).await.unwrap();
    assert_eq!(socket(&proxy), path);
    assert!(UnixStream::connect(&path).await.is_ok());
    proxy.signal("TERM");
    assert!(proxy.ended().await.unwrap().success());
    assert!(!path.exists());
    std::fs::remove_dir(&directory).unwrap();
}
