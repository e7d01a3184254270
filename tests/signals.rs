//! The program's signals and SHUTDOWN, which are PgBouncer's.

use tokio_postgres::error::SqlState;

use crate::harness::{Client, Setup, Stage, until};

async fn stage() -> (Stage, Client) {
    let setup = Setup::replicas(0);
    let admin = format!("[\"{}\"]", setup.cluster.user);
    let stage = setup.with("console", "admin_users", &admin).start().await.unwrap();
    let admin = stage.proxy.connect_with(|config| {
        config.dbname("hakem");
    });
    let admin = admin.await.unwrap();
    (stage, admin)
}

/// Whether new clients are refused.
async fn closed(stage: &Stage) -> bool {
    stage.proxy.connect_with(|_| {}).await.is_err()
}

#[tokio::test]
async fn sigterm_waits_for_clients_to_leave() {
    let (mut stage, _admin) = stage().await;
    let (idle, busy) = (stage.connect().await, stage.connect().await);
    busy.batch_execute("begin; create table t ()").await.unwrap();
    stage.proxy.signal("TERM");
    until("the door to be closed", async || closed(&stage).await).await.unwrap();
    assert_eq!(stage.proxy.page("/ready").await.unwrap().0, 503);
    // Whoever is there goes on, whatever it is doing.
    busy.batch_execute("commit").await.unwrap();
    for _ in 0..3 {
        assert_eq!(idle.value("select count(*) from t").await.unwrap(), "0");
    }
    busy.close().await;
    assert_eq!(idle.value("select count(*) from t").await.unwrap(), "0");
    idle.close().await;
    // The administrator, who is still there, is not waited for.
    assert!(stage.proxy.ended().await.unwrap().success());
}

#[tokio::test]
async fn the_wait_for_clients_has_an_end() {
    let setup = Setup::replicas(0).with("proxy", "shutdown_timeout", "\"300ms\"");
    let mut stage = setup.start().await.unwrap();
    let mut idle = stage.connect().await;
    stage.proxy.signal("TERM");
    assert!(idle.message().await.is_none());
    let error = idle.batch_execute("select 1").await.unwrap_err();
    assert!(error.is_closed() || error.code() == Some(&SqlState::ADMIN_SHUTDOWN), "{error:?}");
    assert!(stage.proxy.ended().await.unwrap().success());
    assert!(stage.proxy.log().contains("clients did not finish in time"), "{}", stage.proxy.log());
}

#[tokio::test]
async fn sigquit_waits_for_nobody() {
    let (mut stage, _admin) = stage().await;
    let busy = stage.connect().await;
    busy.batch_execute("begin; create table t ()").await.unwrap();
    stage.proxy.signal("QUIT");
    assert!(stage.proxy.ended().await.unwrap().success());
    assert!(busy.batch_execute("commit").await.is_err());
}

#[tokio::test]
async fn pausing_by_signals() {
    let (stage, admin) = stage().await;
    let client = stage.connect().await;
    client.batch_execute("create table t ()").await.unwrap();
    stage.proxy.signal("USR1");
    until("the servers to be let go", async || {
        admin
            .simple_query("show servers")
            .await
            .unwrap()
            .iter()
            .all(|message| !matches!(message, tokio_postgres::SimpleQueryMessage::Row(_)))
    })
    .await
    .unwrap();
    let waiting = tokio::spawn(async move { client.value("select count(*) from t").await.unwrap() });
    until("the client to wait", async || {
        format!("{:?}", admin.simple_query("show clients").await.unwrap()).contains("waiting")
    })
    .await
    .unwrap();
    stage.proxy.signal("USR2");
    assert_eq!(waiting.await.unwrap(), "0");
}

/// Every way of it, by either protocol.
#[tokio::test]
async fn shutdown_by_the_console() {
    let setup = Setup::replicas(0);
    let setup = setup.clone().with("console", "admin_users", &format!("[{:?}]", setup.cluster.user));
    let mut stage = setup.clone().start().await.unwrap();
    for (how, waits) in [("", false), ("wait_for_servers", true), ("wait_for_clients", true)] {
        for extended in [false, true] {
            let says = async |admin: &Client, what: &str| match extended {
                true => admin.query(what, &[]).await.map(drop),
                false => admin.batch_execute(what).await,
            };
            stage.proxy = setup.proxy(&stage.cluster).await.unwrap();
            stage.ready().await.unwrap();
            let admin = stage.proxy.connect_with(|config| {
                config.dbname("hakem");
            });
            let admin = admin.await.unwrap();
            let busy = stage.connect().await;
            busy.batch_execute("begin; create temp table t () on commit drop").await.unwrap();
            let told = says(&admin, &format!("shutdown {how}")).await;
            // Without a way of waiting the connection just ends, with everything else.
            assert_eq!(told.is_ok(), waits, "{how}");
            if waits {
                until("the door to be closed", async || closed(&stage).await).await.unwrap();
                let shown = says(&admin, "show state").await;
                assert!(shown.is_ok(), "{how}: {shown:?}");
                busy.batch_execute("commit").await.unwrap();
            }
            if how == "wait_for_clients" {
                // Whoever is there may go on for as long as it likes.
                for _ in 0..3 {
                    assert_eq!(busy.value("select 1").await.unwrap(), "1");
                }
                busy.close().await;
            }
            assert!(stage.proxy.ended().await.unwrap().success(), "{how}");
        }
    }
}

#[tokio::test]
async fn a_service_manager_is_told() {
    use std::os::unix::net::UnixDatagram;
    let directory = std::env::temp_dir().join(format!("hakem-notify-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("socket");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(crate::harness::WAIT_MAX)).unwrap();
    let socket = std::sync::Arc::new(socket);
    let hear = async || {
        let socket = socket.clone();
        let heard = tokio::task::spawn_blocking(move || {
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        });
        heard.await.unwrap()
    };
    let mut setup = Setup::replicas(0);
    setup.environment.push(("NOTIFY_SOCKET".to_owned(), path.display().to_string()));
    let mut stage = setup.start().await.unwrap();
    assert_eq!(hear().await, "READY=1\n");
    stage.proxy.signal("HUP");
    let reloading = hear().await;
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(hear().await, "READY=1\n");
    stage.proxy.signal("TERM");
    assert_eq!(hear().await, "STOPPING=1\n");
    assert!(stage.proxy.ended().await.unwrap().success());
    std::fs::remove_dir_all(&directory).unwrap();
}
