//! What the options and the smaller calls do, tried with real servers.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use cluster::{Authentication, Cluster, Options};

/// A client over TCP gets in with the right password, and with a wrong one only where nobody asks.
async fn check_authentication(authentication: Authentication, stored_as: &str) {
    let options = Options {
        replicas: 0,
        authentication,
        user: "the chief".to_owned(),
        password: r"it's a \ p@ss/word".to_owned(),
        database: "the 'base'".to_owned(),
        ..Options::default()
    };
    let cluster = Cluster::start(options).await.unwrap();
    let stored =
        cluster.sql(0, "SELECT left(rolpassword, 3) FROM pg_authid WHERE rolpassword IS NOT NULL").await.unwrap();
    assert_eq!(stored, stored_as);

    let mut config: tokio_postgres::Config = cluster.url(0).parse().unwrap();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let row = client.query_one("SELECT current_user::text, current_database()::text", &[]).await.unwrap();
    assert_eq!((row.get(0), row.get(1)), ("the chief", "the 'base'"));

    let admitted = config.password("wrong").connect(tokio_postgres::NoTls).await.is_ok();
    assert_eq!(admitted, authentication == Authentication::Trust);
    cluster.shutdown().await.unwrap();
}

#[tokio::test]
async fn authentication() {
    check_authentication(Authentication::Scram, "SCR").await;
    check_authentication(Authentication::Md5, "md5").await;
    check_authentication(Authentication::Trust, "SCR").await;
}

#[tokio::test]
async fn settings_scripts_and_replay() {
    let settings =
        vec![("max_connections".to_owned(), "37".to_owned()), ("app.motto".to_owned(), r"it's \ ok".to_owned())];
    // Started on another task, since callers may want that.
    let options = Options { replicas: 1, settings, ..Options::default() };
    let cluster = tokio::spawn(Cluster::start(options)).await.unwrap().unwrap();
    for i in [0, 1] {
        assert_eq!(cluster.sql(i, "SHOW max_connections; SHOW app.motto").await.unwrap(), "37\nit's \\ ok");
    }

    assert!(
        cluster
            .sql(0, "SELECT 1; SELECT 1 / 0; SELECT 2")
            .await
            .unwrap_err()
            .root_cause()
            .to_string()
            .contains("division by zero")
    );
    assert_eq!(cluster.sql(0, "CREATE DATABASE other;\n\\c other\nSELECT current_database()").await.unwrap(), "other");

    cluster.set(1, "work_mem", "77kB").await.unwrap();
    assert_eq!(cluster.sql(1, "SHOW work_mem").await.unwrap(), "77kB");
    cluster.reset(1, "work_mem").await.unwrap();
    assert_eq!(cluster.sql(1, "SHOW work_mem").await.unwrap(), "4MB");
    assert!(cluster.set(1, "no_such_setting", "1").await.is_err());

    // A commit waits for the flush at the replica, not for its replay.
    cluster.pause_replay(1).await.unwrap();
    cluster.sql(0, "CREATE TABLE t (id int)").await.unwrap();
    assert_eq!(cluster.sql(1, "SELECT to_regclass('t')").await.unwrap(), "");
    cluster.resume_replay(1).await.unwrap();
    cluster.caught_up().await.unwrap();
    assert_eq!(cluster.sql(1, "SELECT to_regclass('t')").await.unwrap(), "t");

    // Just past a segment's header, where the insert position is one that no replica reaches.
    cluster.sql(0, "SELECT pg_switch_wal()").await.unwrap();
    cluster.caught_up().await.unwrap();
    cluster.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_directory_that_exists_is_left_alone() {
    let directory = std::env::temp_dir().join(format!("hakem-existing-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let options = Options { directory: Some(directory.clone()), ..Options::default() };
    assert!(Cluster::start(options).await.is_err());
    std::fs::remove_dir(&directory).unwrap();
}

#[test]
fn a_missing_installation_is_explained() {
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    let output = again.args(["--exact", "authentication"]).env("HAKEM_PG_BIN", "/nowhere").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
    assert!(!output.status.success() && said.contains("apt-get install postgresql"), "{said}");
}
