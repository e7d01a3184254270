//! What a client is told when the primary is lost, by what it was doing: each row for the simple protocol, the extended one, and the extended
//! one over TLS, beside each other. Towards the servers everything is encrypted. `loss` has the same in the clear, and more of it.

use cluster::Cluster;
use futures_util::future::join_all;
use tokio_postgres::Statement;
use tokio_postgres::error::SqlState;

use crate::encryption::{Files, connector};
use crate::harness::{Client, Setup, Stage, code, until};

/// A client and how it speaks.
struct Caller {
    client: Client,
    extended: bool,
}

/// Something to be said, prepared where the protocol does that.
struct Said {
    sql: String,
    statement: Option<Statement>,
}

impl Caller {
    async fn prepare(&self, sql: &str) -> Said {
        let statement = if self.extended { Some(self.client.prepare(sql).await.unwrap()) } else { None };
        Said { sql: sql.to_owned(), statement }
    }

    /// What it fails with.
    async fn say(&self, said: &Said) -> Option<SqlState> {
        match &said.statement {
            None => self.client.failure(&said.sql).await,
            Some(statement) => self.client.execute(statement, &[]).await.err().map(|error| code(&error)),
        }
    }

    async fn does(&self, sql: &str) -> Option<SqlState> {
        if !self.extended {
            return self.client.failure(sql).await;
        }
        self.client.execute(sql, &[]).await.err().map(|error| code(&error))
    }

    /// The same connection is good for whatever comes next.
    async fn works(&self) {
        for sql in ["insert into t values (100)", "begin", "insert into t values (100)", "commit", "select n from t"] {
            assert_eq!(self.does(sql).await, None, "{sql}, extended: {}", self.extended);
        }
    }
}

async fn stage() -> (Stage, Vec<Caller>) {
    let mut setup = Setup::replicas(1);
    // Writes are to go on when the replica is dead.
    setup.cluster.synchronous = false;
    let cluster = Cluster::start(setup.cluster.clone()).await.unwrap();
    let files = Files::new(&cluster);
    for node in 0..2 {
        for (name, file) in [("ssl_cert_file", &files.cert), ("ssl_key_file", &files.key)] {
            cluster.set(node, name, file.to_str().unwrap()).await.unwrap();
        }
        cluster.set(node, "ssl", "on").await.unwrap();
    }
    let setup = files.offered(&setup, "allow").with("tls", "server_tls_sslmode", "\"verify-full\"").with(
        "tls",
        "server_tls_ca_file",
        &format!("{:?}", files.root.to_str().unwrap()),
    );
    let proxy = setup.proxy(&cluster).await.unwrap();
    let stage = Stage { proxy, cluster };
    stage.ready().await.unwrap();
    stage
        .psql(
            "create table t (n int);
            create table slow (n int);
            create function sleep() returns trigger language plpgsql as $$ begin perform pg_sleep(600); return null; end $$;
            create constraint trigger sleeps after insert on slow deferrable initially deferred
                for each row execute function sleep();",
        )
        .await;
    stage.ready().await.unwrap();
    let tls = connector(&files, &[b"postgresql"]).config().as_ref().clone();
    let encrypted = stage.proxy.connect_encrypted(tls).await;
    let callers = vec![
        Caller { client: stage.connect().await, extended: false },
        Caller { client: stage.connect().await, extended: true },
        Caller { client: encrypted, extended: true },
    ];
    (stage, callers)
}

/// The data stay the same, the connections do not.
async fn restart(cluster: &mut Cluster, node: usize) {
    cluster.kill(node).await.unwrap();
    cluster.start_node(node).await.unwrap();
}

/// Restarts a server as soon as all callers are in the middle of this.
async fn restart_under(cluster: &mut Cluster, node: usize, query: &str, callers: usize) {
    let active = format!("select count(*) from pg_stat_activity where state = 'active' and query like '{query}%'");
    until("all to be at it", async || cluster.sql(node, &active).await.unwrap() == callers.to_string()).await.unwrap();
    restart(cluster, node).await;
}

async fn all(callers: &[Caller], sql: &str) -> Vec<Option<SqlState>> {
    join_all(callers.iter().map(|caller| caller.does(sql))).await
}

async fn all_work(callers: &[Caller]) {
    join_all(callers.iter().map(Caller::works)).await;
}

fn each(callers: &[Caller], failure: Option<SqlState>) -> Vec<Option<SqlState>> {
    vec![failure; callers.len()]
}

#[tokio::test]
async fn what_a_client_is_told() {
    let (mut stage, callers) = stage().await;
    let none = each(&callers, None);

    // Idle: nothing.
    all_work(&callers).await;
    restart(&mut stage.cluster, 0).await;
    all_work(&callers).await;

    // In a transaction, COMMIT not sent: told at the next statement, whichever that is.
    for next in ["insert into t values (2)", "commit"] {
        assert_eq!(all(&callers, "begin").await, none);
        assert_eq!(all(&callers, "insert into t values (1)").await, none);
        restart(&mut stage.cluster, 0).await;
        assert_eq!(all(&callers, next).await, each(&callers, Some(SqlState::T_R_SERIALIZATION_FAILURE)), "{next}");
        // A COMMIT has ended it, to no effect.
        let then = (next != "commit").then_some(SqlState::IN_FAILED_SQL_TRANSACTION);
        assert_eq!(all(&callers, "select 1").await, each(&callers, then));
        assert_eq!(all(&callers, "rollback").await, none);
        all_work(&callers).await;
    }

    // In an autocommit write, and in COMMIT: nobody knows.
    let unknown = each(&callers, Some(SqlState::TRANSACTION_RESOLUTION_UNKNOWN));
    let write = "insert into t select 3 from pg_sleep(600)";
    let under = restart_under(&mut stage.cluster, 0, write, callers.len());
    assert_eq!(tokio::join!(all(&callers, write), under).0, unknown);
    all_work(&callers).await;
    assert_eq!(all(&callers, "begin").await, none);
    assert_eq!(all(&callers, "insert into slow values (4)").await, none);
    let under = restart_under(&mut stage.cluster, 0, "commit", callers.len());
    assert_eq!(tokio::join!(all(&callers, "commit"), under).0, unknown);
    all_work(&callers).await;
    // None was done, and none was done again.
    assert_eq!(
        stage.direct(0, "select count(*) from (select n from t union all select n from slow) a where n < 100").await,
        "0"
    );

    // It stands still, and another takes over.
    stage.cluster.caught_up().await.unwrap();
    let said = join_all(callers.iter().map(|caller| caller.prepare("insert into t values (5)"))).await;
    assert_eq!(all(&callers, "begin").await, none);
    assert_eq!(all(&callers, "insert into t values (6)").await, none);
    assert_eq!(all(&callers, "rollback").await, none);
    stage.cluster.freeze(0).await.unwrap();
    let Stage { proxy, cluster } = &mut stage;
    let failover = async {
        until("it to be out of reach", async || {
            proxy.metric("hakem_node_state", &[("state", "unreachable")]).await == 1.0
        })
        .await
        .unwrap();
        cluster.promote_best().await.unwrap();
    };
    let writes = join_all(callers.iter().zip(&said).map(|(caller, said)| caller.say(said)));
    assert_eq!(tokio::join!(writes, failover).0, unknown);
    all_work(&callers).await;
    assert_eq!(stage.direct(1, "select count(*) from t where n = 5").await, "0");
    stage.cluster.thaw(0);
}
