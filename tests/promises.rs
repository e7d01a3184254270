//! Each consistency, wherever it is said, decides where a read goes: not more, not less.

use crate::harness::{Client, Setup, Stage, until};

/// Where a session, or a statement, is told what it may see. What is said there counts, whatever is said at those before.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Database,
    User,
    Session,
    Statement,
}

const PLACES: [Place; 4] = [Place::Database, Place::User, Place::Session, Place::Statement];
const LEVELS: [&str; 4] = ["eventual", "bounded", "session", "global"];

/// What would let a read go elsewhere.
fn opposite(level: &str) -> &'static str {
    if level == "eventual" || level == "bounded" { "global" } else { "eventual" }
}

/// A session of this consistency, which it has from there; and from where that is weaker, the opposite.
async fn client(stage: &Stage, place: Place, level: &str) -> Client {
    let other = opposite(level);
    let connect = stage.proxy.connect_with(|config| {
        match place {
            Place::Database => config.dbname(level),
            Place::User => config.dbname(other).user(level).password("p"),
            Place::Session | Place::Statement => config.user(other).password("p"),
        };
    });
    let client = connect.await.unwrap();
    if place == Place::Session {
        client.batch_execute(&format!("set hakem.consistency = '{level}'")).await.unwrap();
    }
    client
}

async fn read(client: &Client, place: Place, level: &str) -> String {
    let hint = if place == Place::Statement { format!("/* hakem: consistency={level} */ ") } else { String::new() };
    client.value(&format!("{hint}select n from counter")).await.unwrap()
}

#[tokio::test]
async fn of_a_database_a_user_a_session_and_a_statement() {
    let mut setup =
        Setup::replicas(1).with("routing", "max_lag", "\"1h\"").with("routing", "consistency", "\"bounded\"");
    setup.cluster.synchronous = false;
    for level in LEVELS {
        let section = format!(
            "[databases.{level}]\ncluster = \"local\"\ndbname = \"postgres\"\nconsistency = \"{level}\"\n\
             [[users]]\nname = \"{level}\"\npassword = \"p\"\nconsistency = \"{level}\""
        );
        setup = setup.and(&section);
    }
    let stage = setup.clone().start().await.unwrap();
    let roles = LEVELS.map(|level| format!("create role {level} login password 'p';")).concat();
    stage.psql(&format!("{roles} create table counter as select 0 as n; grant all on counter to public")).await;
    stage.cluster.caught_up().await.unwrap();
    let reader = client(&stage, Place::Session, "eventual").await;
    until("the replica to be as new as the catalog", async || {
        reader.value("/* hakem: replica */ select n from counter").await.unwrap();
        reader.value("show hakem.last_route").await.unwrap().starts_with("replica")
    })
    .await
    .unwrap();

    // The replica stays at 0.
    stage.cluster.pause_replay(1).await.unwrap();
    let mut n = 0;
    for place in PLACES {
        for level in LEVELS {
            let (writer, other) = (client(&stage, place, level).await, client(&stage, place, level).await);
            writer.batch_execute("update counter set n = n + 1").await.unwrap();
            n += 1;
            let found = (read(&writer, place, level).await, read(&other, place, level).await);
            let (new, old) = (n.to_string(), "0".to_owned());
            let expected = match level {
                "eventual" | "bounded" => (old.clone(), old),
                "session" => (new, old),
                _ => (new.clone(), new),
            };
            assert_eq!(found, expected, "{level} of a {place:?}");
        }
    }

    // It lags more than is allowed, whoever has written.
    setup.with("routing", "max_lag", "\"100ms\"").reload(&stage).await.unwrap();
    until("the replica to lag", async || stage.proxy.metric("hakem_replica_lag_seconds", &[]).await > 0.1)
        .await
        .unwrap();
    for place in PLACES {
        for level in LEVELS {
            let found = read(&client(&stage, place, level).await, place, level).await;
            let expected = if level == "eventual" { "0".to_owned() } else { n.to_string() };
            assert_eq!(found, expected, "{level} of a {place:?}");
        }
    }
    stage.cluster.resume_replay(1).await.unwrap();
}
