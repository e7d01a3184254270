//! What one session has seen, another one sees on another proxy.

use crate::harness::{Setup, code, until};

/// Two proxies over one cluster, whose replica applies everything late. A session of the second that has written nothing itself may read
/// what is old, unless it has the first one's token.
#[tokio::test]
async fn what_a_player_has_written_another_sees_elsewhere() {
    let mut setup =
        Setup::replicas(1).with("routing", "max_lag", "\"10s\"").server("recovery_min_apply_delay", "300ms");
    setup.cluster.synchronous = false;
    let stage = setup.clone().start().await.unwrap();
    let other = setup.proxy(&stage.cluster).await.unwrap();
    stage.psql("create table moves (n int); insert into moves values (0)").await;
    stage.cluster.caught_up().await.unwrap();
    let (writer, reader) = (stage.connect().await, other.connect().await);
    let served = async || other.metric("hakem_statements_total", &[("to", "replica")]).await;
    until("the other proxy to read from the replica", async || {
        reader.batch_execute("select 1").await.unwrap();
        served().await > 0.0
    })
    .await
    .unwrap();

    let mut stale = 0;
    for n in 1..=40 {
        let sql = format!("update moves set n = {n}");
        // A commit that is not flushed is acknowledged all the same.
        let relaxed = format!("set synchronous_commit = {}", if n % 2 == 0 { "off" } else { "on" });
        writer.batch_execute(&relaxed).await.unwrap();
        writer.batch_execute(&sql).await.unwrap();
        stale += i32::from(reader.value("select n from moves").await.unwrap() != n.to_string());
        let token = match n % 3 {
            0 => writer.query_one("show hakem.token", &[]).await.unwrap().get(0),
            _ => writer.value("show hakem.token").await.unwrap(),
        };
        let set = format!("set hakem.token = '{token}'");
        match n % 4 {
            0 => drop(reader.execute(&set, &[]).await.unwrap()),
            _ => reader.batch_execute(&set).await.unwrap(),
        }
        assert_eq!(reader.value("select n from moves").await.unwrap(), n.to_string(), "with {token}");
        let by_startup = other.connect_with(|config| {
            config.options(format!("-c hakem.token={token}"));
        });
        let newcomer = by_startup.await.unwrap();
        assert_eq!(newcomer.value("select n from moves").await.unwrap(), n.to_string(), "with {token}");
        reader.batch_execute("reset hakem.token").await.unwrap();
    }
    assert!(stale > 0, "without the token it is not there");

    // It does not keep a session away from replicas for longer than it has to, wherever the WAL of an idle primary ends.
    stage.direct(0, "select pg_switch_wal()").await;
    let token = writer.value("show hakem.token").await.unwrap();
    reader.batch_execute(&format!("set hakem.token = '{token}'")).await.unwrap();
    let before = served().await;
    until("reads to go to the replica again", async || {
        assert_eq!(reader.value("select n from moves").await.unwrap(), "40");
        served().await > before
    })
    .await
    .unwrap();

    // Another cluster's, another timeline's, and none at all. What the others are is not to be known here.
    let before = served().await;
    let (system, rest) = token.split_once('-').unwrap();
    let fresh = other.connect().await;
    for strange in [format!("1-{rest}"), format!("{system}-00000009-0/1")] {
        fresh.batch_execute(&format!("set hakem.token = '{strange}'")).await.unwrap();
        fresh.batch_execute("select n from moves").await.unwrap();
    }
    assert_eq!(served().await, before, "the first read behind it goes to the primary");
    assert_eq!(fresh.failure("set hakem.token = 'moon'").await.unwrap().code(), "22023");
    let refused = other.connect_with(|config| {
        config.options("-c hakem.token=moon");
    });
    assert_eq!(code(&refused.await.err().unwrap()).code(), "22023");
}

/// Whoever may log in may ask: the functions behind it are everybody's. Within a transaction, too, wherever that is.
#[tokio::test]
async fn anybody_may_ask() {
    let users = "[[users]]\nname = \"player\"\npassword = \"x\"";
    let stage = Setup::replicas(1).with("auth", "method", "\"trust\"").and(users).start().await.unwrap();
    stage.psql("create user player password 'x'").await;
    stage.cluster.caught_up().await.unwrap();
    let client = stage.proxy.connect_with(|config| {
        config.user("player").password("x");
    });
    let client = client.await.unwrap();
    let token = client.value("show hakem.token").await.unwrap();
    assert_eq!(token.split('-').count(), 3, "{token}");
    client.batch_execute("begin read only; select 1").await.unwrap();
    assert!(client.value("show hakem.token").await.unwrap().starts_with(token.split('-').next().unwrap()));
    client.batch_execute("commit").await.unwrap();
    client.batch_execute("begin read only").await.unwrap();
    client.batch_execute("select 1").await.unwrap();
    assert!(client.value("show hakem.token").await.unwrap().starts_with(token.split('-').next().unwrap()));
    client.batch_execute("commit").await.unwrap();
}
