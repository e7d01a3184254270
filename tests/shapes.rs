//! Tables that change between the description of a statement and its execution, on another server connection.

use std::net::SocketAddr;

use wire::backend::{Report, tag};
use wire::frontend;

use crate::harness::{Setup, Stage};
use crate::raw::{Message, Raw, sqlstate, tags, value};

/// Parse, Describe and Sync.
async fn tell(raw: &mut Raw, name: &str, sql: &str) -> Vec<Message> {
    let mut out = Vec::new();
    frontend::put_parse(&mut out, name.as_bytes(), sql.as_bytes(), &[0, 0]);
    frontend::put_describe_statement(&mut out, name.as_bytes());
    frontend::put_sync(&mut out);
    raw.say(&out).await;
    raw.until_ready().await
}

/// A client that keeps one of the servers, which is the one that was used last.
async fn occupy(stage: &Stage) -> Raw {
    let mut raw = Raw::log_in(&stage.proxy, "postgres").await;
    raw.query("begin").await;
    assert_eq!(tags(&raw.query("create temp table if not exists busy () on commit drop").await), "CZ");
    raw
}

/// What drivers look at in an error.
fn error(messages: &[Message]) -> Option<[String; 4]> {
    let message = messages.iter().find(|message| message.tag == tag::ERROR_RESPONSE)?;
    let report = Report::new(&message.body);
    Some([b'S', b'C', b'M', b'R'].map(|field| String::from_utf8_lossy(report.field(field).unwrap_or_default()).into()))
}

#[tokio::test]
async fn a_client_gets_the_columns_that_it_was_told_or_an_error() {
    let setup = Setup::replicas(0).with("auth", "method", "\"trust\"").with("pool", "size", "2");
    let mut setup = setup.with("pool", "reserve_size", "0");
    setup.cluster.authentication = cluster::Authentication::Trust;
    let stage = setup.start().await.unwrap();
    let node = &stage.cluster.nodes()[stage.cluster.primary()];
    let primary: SocketAddr = format!("{}:{}", node.host(), node.port()).parse().unwrap();
    stage.psql("create table t (a int); insert into t values (1); create table w (a int)").await;
    let (mut through, mut direct) = (Raw::log_in(&stage.proxy, "postgres").await, Raw::session(primary).await);
    let statements = [
        ("read", "select * from t"),
        ("write", "insert into w values (7) returning *"),
        ("plain", "insert into w values (8)"),
    ];
    for raw in [&mut through, &mut direct] {
        for (name, sql) in statements {
            assert!(tags(&tell(raw, name, sql).await).starts_with("1t"), "{name}");
            assert!(tags(&raw.execute(name).await).starts_with('2'), "{name}");
        }
    }
    stage.direct(0, "alter table t add b int default 2; alter table w add b int").await;

    // Another server, outside of a transaction and inside.
    let mut busy = occupy(&stage).await;
    for name in ["read", "write"] {
        let (expected, found) = (direct.execute(name).await, through.execute(name).await);
        assert!(error(&expected).is_some_and(|error| error[1] == "0A000"), "{name}");
        assert_eq!(error(&found), error(&expected), "{name}");
        assert_eq!(tags(&found), "EZ", "{name}");
        assert_eq!(found.last(), expected.last(), "{name}");
    }
    assert_eq!(tags(&through.execute("plain").await), "2CZ");
    direct.execute("plain").await;
    for name in ["read", "write"] {
        for raw in [&mut through, &mut direct] {
            raw.query("begin").await;
            let failed = raw.execute(name).await;
            assert_eq!(
                (sqlstate(&failed).as_deref(), failed.last().unwrap().body.as_slice()),
                (Some("0A000"), &b"E"[..])
            );
            raw.query("rollback").await;
        }
    }
    // What was refused has written nothing.
    let count = value(&busy.query("select count(*) from w").await);
    assert_eq!(count.as_deref(), Some("6"), "two of the first, one and two behind the change, twice");

    // Preparing again helps, as it does on PostgreSQL.
    for raw in [&mut through, &mut direct] {
        for (name, sql) in &statements[..2] {
            let mut out = Vec::new();
            frontend::put_close_statement(&mut out, name.as_bytes());
            raw.say(&out).await;
            assert_eq!(tags(&tell(raw, name, sql).await), "31tTZ", "{name}");
            assert_eq!(tags(&raw.execute(name).await), "2DCZ", "{name}");
        }
    }
    // And it goes on on the server that had the old ones.
    busy.query("rollback").await;
    let mut other = occupy(&stage).await;
    assert_eq!(tags(&through.execute("read").await), "2DCZ");
    other.query("rollback").await;
    for _ in 0..4 {
        let mut other = occupy(&stage).await;
        assert_eq!(tags(&through.execute("read").await), "2DCZ");
        assert_eq!(tags(&through.execute("write").await), "2DCZ");
        other.query("commit").await;
    }
}
