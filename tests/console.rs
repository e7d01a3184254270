//! The admin console: who gets in, what it shows, what it does, and through which protocol.

use std::time::Duration;

use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;

use crate::harness::{Client, Proxy, Setup, code, driver, python, until};

/// The administrator is the default user; `watcher` may look, and `stranger` may do neither.
pub(crate) fn setup(replicas: usize) -> Setup {
    let users = "[[users]]\nname = \"watcher\"\npassword = \"w\"\nserver_user = \"postgres\"\n\
                 [[users]]\nname = \"stranger\"\npassword = \"s\"\nserver_user = \"postgres\"";
    let setup = Setup::replicas(replicas).and(users).with("console", "stats_users", "[\"watcher\"]");
    let admin = format!("[\"{}\"]", setup.cluster.user);
    setup.with("console", "admin_users", &admin)
}

pub(crate) async fn console(proxy: &Proxy) -> Client {
    let client = proxy.connect_with(|config| {
        config.dbname("pgbouncer");
    });
    client.await.unwrap()
}

pub(crate) async fn log_in(
    proxy: &Proxy,
    user: &str,
    password: &str,
    database: &str,
) -> Result<Client, tokio_postgres::Error> {
    let change = |config: &mut tokio_postgres::Config| {
        config.user(user).password(password).dbname(database);
    };
    proxy.connect_with(change).await
}

/// The rows of a simple query, by column name.
pub(crate) async fn rows(client: &Client, sql: &str) -> Vec<tokio_postgres::SimpleQueryRow> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    messages.into_iter().filter_map(row).collect()
}

/// The value of a column in the only row where another column has this value.
pub(crate) async fn cell(client: &Client, sql: &str, (key, is): (&str, &str), column: &str) -> String {
    let rows = rows(client, sql).await;
    let found: Vec<_> = rows.iter().filter(|row| row.get(key) == Some(is)).collect();
    assert_eq!(found.len(), 1, "{sql}: {key} = {is}: {rows:?}");
    found[0].get(column).unwrap_or("").to_owned()
}

pub(crate) async fn figure(client: &Client, sql: &str, row: (&str, &str), column: &str) -> u64 {
    cell(client, sql, row, column).await.parse().unwrap()
}

#[tokio::test]
async fn where_statements_go() {
    let stage = setup(1).with("routing", "max_lag", "\"1h\"").start().await.unwrap();
    let (client, admin) = (stage.connect().await, console(&stage.proxy).await);
    let route = "SHOW ROUTE FOR 'select 1'";
    assert_eq!(
        code(&admin.simple_query("SHOW ROUTE FOR 'select 1' IN hakem").await.unwrap_err()),
        SqlState::INVALID_CATALOG_NAME
    );
    let reads_go_to_the_replica = async || {
        stage.catalog_read().await;
        until("reads to go to the replica", async || rows(&admin, route).await[0].get("to") == Some("replica"))
            .await
            .unwrap();
    };
    reads_go_to_the_replica().await;
    client.batch_execute("select 1; select 2").await.unwrap();
    client.batch_execute("create table t (n int)").await.unwrap();
    for _ in 0..3 {
        client.batch_execute("insert into t values (1)").await.unwrap();
    }
    let counts: Vec<[String; 3]> = rows(&admin, "SHOW ROUTES")
        .await
        .iter()
        .map(|row| [0, 1, 2].map(|at| row.get(at).unwrap().to_owned()))
        .collect();
    for expected in [["replica", "select", "1"], ["primary", "utility", "1"], ["primary", "writes_rows", "3"]] {
        assert!(counts.iter().any(|row| *row == expected), "{expected:?} in {counts:?}");
    }
    let nodes: Vec<String> =
        stage.cluster.nodes().iter().map(|node| format!("{}:{}", node.host(), node.port())).collect();
    // What was defined just now has to be known there first.
    reads_go_to_the_replica().await;
    for (sql, access, why, to, node) in [
        ("select 1", "read", "select", "replica", Some(&nodes[1])),
        ("insert into t values (''x'')", "write", "writes_rows", "primary", Some(&nodes[0])),
        ("/* hakem: primary */ select 1", "read", "select", "primary", Some(&nodes[0])),
        ("select nextval(''s'')", "write", "volatile_function", "primary", Some(&nodes[0])),
        ("begin", "write", "transaction_control", "proxy", None),
    ] {
        let found = rows(&admin, &format!("SHOW ROUTE FOR '{sql}';")).await;
        let shown = ["access", "why", "to", "node"].map(|column| found[0].get(column));
        assert_eq!(shown, [Some(access), Some(why), Some(to), node.map(String::as_str)], "{sql}");
    }
    let because = rows(&admin, "SHOW ROUTE FOR 'select nextval(''s'')'").await;
    assert!(because[0].get("because").is_some_and(|text| text.contains("nextval")), "{because:?}");
    // By the extended protocol.
    let row = admin.query_one(route, &[]).await.unwrap();
    assert_eq!(row.get::<_, &str>("to"), "replica");
    client.batch_execute("set hakem.route = 'primary'").await.unwrap();
    assert_eq!(
        admin.query_one(route, &[]).await.unwrap().get::<_, &str>("to"),
        "replica",
        "other sessions' settings are theirs"
    );
}

#[tokio::test]
async fn figures_are_true() {
    let stage = setup(1).with("pool", "size", "2").start().await.unwrap();
    let admin = console(&stage.proxy).await;
    let name = |config: &mut tokio_postgres::Config| {
        config.application_name("figures");
    };
    let client = stage.proxy.connect_with(name).await.unwrap();
    client.batch_execute("create table t (n int)").await.unwrap();
    let row = ("database", "postgres");
    let stats = async |column: &str| figure(&admin, "show stats", row, column).await;
    let (queries, transactions) = (stats("total_query_count").await, stats("total_xact_count").await);
    client.batch_execute("begin").await.unwrap();
    client.batch_execute("insert into t values (1)").await.unwrap();
    client.batch_execute("insert into t values (2)").await.unwrap();
    // While it holds a server:
    let mine = ("application_name", "figures");
    let clients: Vec<_> = rows(&admin, "show clients").await;
    let mine_row = clients.iter().find(|row| row.get(mine.0) == Some(mine.1)).unwrap();
    assert_eq!((mine_row.get("state"), mine_row.get("type")), (Some("active"), Some("C")));
    let servers = rows(&admin, "show servers").await;
    let linked: Vec<_> = servers.iter().filter(|row| row.get("ptr") == mine_row.get("link")).collect();
    assert_eq!(linked.len(), 1, "{servers:?}");
    assert_eq!((linked[0].get("state"), linked[0].get("link")), (Some("active"), mine_row.get("ptr")));
    assert_eq!(linked[0].get("application_name"), Some("figures"));
    let pid = linked[0].get("remote_pid").unwrap();
    assert_eq!(client.value("select pg_backend_pid()").await.unwrap(), pid);
    assert_eq!(mine_row.get("addr"), Some("127.0.0.1"));
    assert_eq!(mine_row.get("local_port"), Some(stage.proxy.address.port().to_string().as_str()));
    assert_eq!(figure(&admin, "show pools", row, "sv_active").await, 1);
    client.batch_execute("commit").await.unwrap();
    assert_eq!(stats("total_query_count").await - queries, 4, "two inserts, a question and a commit");
    assert_eq!(stats("total_xact_count").await - transactions, 1);
    assert_eq!(figure(&admin, "show pools", row, "sv_active").await, 0);
    let clients: Vec<_> = rows(&admin, "show clients").await;
    assert_eq!(clients.iter().find(|row| row.get(mine.0) == Some(mine.1)).unwrap().get("state"), Some("idle"));
    // Prepared statements, bytes, times.
    let (parses, binds) = (stats("total_client_parse_count").await, stats("total_bind_count").await);
    let sent = stats("total_sent").await;
    let statement = client.prepare("select repeat('x', 100000) || $1::text").await.unwrap();
    for _ in 0..5 {
        client.query(&statement, &[&"y"]).await.unwrap();
    }
    assert_eq!(stats("total_client_parse_count").await - parses, 1);
    assert_eq!(stats("total_bind_count").await - binds, 5);
    assert!(stats("total_server_parse_count").await >= 1);
    assert!(stats("total_sent").await - sent >= 500_000);
    let slept = stats("total_query_time").await;
    client.batch_execute("select pg_sleep(0.2)").await.unwrap();
    assert!(stats("total_query_time").await - slept >= 200_000);
    assert_eq!(figure(&admin, "show lists", ("list", "used_clients"), "items").await, 2);
    // The name follows the session.
    client.batch_execute("set application_name = 'renamed'").await.unwrap();
    assert_eq!(cell(&admin, "show clients", ("application_name", "renamed"), "prepared_statements").await, "1");
    // The administrator is one of them.
    let own = cell(&admin, "show clients", ("database", "pgbouncer"), "user").await;
    assert_eq!(own, setup(0).cluster.user);
    // Who waits, and for how long.
    let holders = [stage.connect().await, stage.connect().await];
    for holder in &holders {
        holder.batch_execute("begin; select 1 from t for update skip locked").await.unwrap();
    }
    let waiting = stage.connect().await;
    let waited = tokio::spawn(async move {
        waiting.batch_execute("insert into t values (3)").await.unwrap();
        waiting
    });
    until("the client to wait", async || figure(&admin, "show pools", row, "cl_waiting").await == 1).await.unwrap();
    until("its wait to be seen", async || figure(&admin, "show pools", row, "maxwait_us").await > 0).await.unwrap();
    // In seconds, like the longest wait, which is asked for later.
    let wait = figure(&admin, "show clients", ("state", "waiting"), "wait").await;
    assert!(wait <= figure(&admin, "show pools", row, "maxwait").await, "{wait}");
    let before = stats("total_wait_time").await;
    for holder in &holders {
        holder.batch_execute("rollback").await.unwrap();
    }
    waited.await.unwrap();
    assert!(stats("total_wait_time").await > before);
    assert_eq!(figure(&admin, "show pools", row, "cl_waiting").await, 0);
    // Pins.
    assert!(rows(&admin, "show pins").await.is_empty());
    let pinned = stage.connect().await;
    pinned.batch_execute("create temp table kept ()").await.unwrap();
    let pins = rows(&admin, "show pins").await;
    assert_eq!(pins.len(), 1, "{pins:?}");
    assert_eq!((pins[0].get("reason"), pins[0].get("database")), (Some("temp_table"), Some("postgres")));
    assert_eq!(figure(&admin, "show pin_totals", ("reason", "temp_table"), "clients").await, 1);
    pinned.close().await;
    until("the pin to be gone", async || rows(&admin, "show pins").await.is_empty()).await.unwrap();
    assert_eq!(figure(&admin, "show pin_totals", ("reason", "temp_table"), "total").await, 1);
    // The cluster.
    let nodes = rows(&admin, "show topology").await;
    assert_eq!(nodes.iter().filter(|row| row.get("writes") == Some("yes")).count(), 1);
    assert_eq!(nodes.iter().filter(|row| row.get("state") == Some("replica")).count(), 1);
}

#[tokio::test]
async fn drivers() {
    let stage = setup(1).start().await.unwrap();
    let path = driver("console_client.py");
    let output = stage.proxy.client_program(&python(), &["-X", "faulthandler", path.to_str().unwrap()], "").await;
    assert!(output.status.success() && output.stdout.ends_with("done\n"), "{}\n{}", output.stdout, output.stderr);
    // psql, and what exporters built on lib/pq say at their start.
    let output = stage.run("psql", &["-XAt", "pgbouncer", "-c", "show help", "-c", "show version"], "").await;
    assert!(output.status.success() && output.stderr.contains("SHOW HELP|CONFIG"), "{output:?}");
    assert!(output.stdout.ends_with("PgBouncer 1.25.2\n"), "{output:?}");
    let exporter = stage.proxy.connect_with(|config| {
        config.dbname("pgbouncer").options("-c extra_float_digits=2 -c datestyle=ISO");
    });
    let exporter = exporter.await.unwrap();
    for said in ["SET extra_float_digits = 3", "set application_name to 'x'", ";", "select 1", "begin", "rollback"] {
        exporter.batch_execute(said).await.unwrap_or_else(|error| panic!("{said}: {error:?}"));
    }
    assert_eq!(exporter.value("show client_encoding").await.unwrap(), "UTF-8");
}

#[tokio::test]
async fn who_runs_the_program_administers_it() {
    let directory = std::env::temp_dir().join(format!("hakem-console-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let setup = setup(0).with("proxy", "unix_socket_dir", &format!("{directory:?}"));
    let setup = setup.with("console", "admin_users", "[]").with("proxy", "peer_id", "3");
    let stage = setup.and("[peers.7]\nhost = \"peer\"\nport = 6439").start().await.unwrap();
    let (host, port) = (directory.to_str().unwrap(), stage.proxy.address.port().to_string());
    let say = async |host: &str, user: &str, database: &str, sql: &str| {
        stage.run("psql", &["-XAtqw", "-h", host, "-p", &port, "-U", user, "-d", database, "-c", sql], "").await
    };
    for user in ["pgbouncer", "hakem"] {
        let output = say(host, user, "pgbouncer", "reload").await;
        assert!(output.status.success(), "{user}: {output:?}");
    }
    let output = say(host, "pgbouncer", "pgbouncer", "show peers").await;
    assert_eq!(output.stdout, "7|peer|6439|20\n", "{output:?}");
    // Not over TCP, nor to another database, nor as anybody else.
    for (host, user, database) in
        [("127.0.0.1", "pgbouncer", "pgbouncer"), (host, "pgbouncer", "postgres"), (host, "nobody", "pgbouncer")]
    {
        let output = say(host, user, database, "select 1").await;
        assert!(
            !output.status.success() && output.stderr.contains("password authentication failed"),
            "{user}: {output:?}"
        );
    }
    drop(stage);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn mistakes() {
    let stage = setup(0).start().await.unwrap();
    let admin = console(&stage.proxy).await;
    let check = async |sql: &str, state: SqlState, text: &str| {
        let error = admin.batch_execute(sql).await.unwrap_err();
        let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
        assert_eq!((error.code(), error.message()), (&state, text), "{sql}");
    };
    check("show", SqlState::SYNTAX_ERROR, "invalid command 'show', use SHOW HELP;").await;
    check("drop table t", SqlState::SYNTAX_ERROR, "invalid command 'drop table t', use SHOW HELP;").await;
    check("RESUME", SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "pooler is not paused/suspended").await;
    check("pause pgbouncer", SqlState::WRONG_OBJECT_TYPE, "cannot pause admin db: pgbouncer").await;
    check("resume postgres", SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, "database postgres is not paused").await;
    check("disable", SqlState::SYNTAX_ERROR, "a database is required").await;
    check("kill_client x", SqlState::INVALID_TEXT_REPRESENTATION, "invalid client pointer supplied").await;
    check("kill_client 999999", SqlState::UNDEFINED_OBJECT, "client not found").await;
    check("suspend", SqlState::FEATURE_NOT_SUPPORTED, "SUSPEND is not supported").await;
    check(
        "set nonsense = 1",
        SqlState::UNDEFINED_OBJECT,
        "SET failed: unrecognized configuration parameter \"nonsense\"",
    )
    .await;
    // After an error in the extended protocol everything goes on.
    assert!(admin.query("nonsense", &[]).await.is_err());
    assert_eq!(admin.query("show state", &[]).await.unwrap().len(), 3);
    let only = setup(0).with("console", "stats_users", "[]");
    let database = "[databases.only]\ndbname = \"postgres\"";
    let text = only.text(&stage.cluster).replace("[databases.\"*\"]", database);
    std::fs::write(&stage.proxy.config, text).unwrap();
    admin.batch_execute("reload").await.unwrap();
    check("pause nothing", SqlState::UNDEFINED_DATABASE, "no such database: nothing").await;
    assert_eq!(admin.failure("pause only").await, None);
    std::fs::write(&stage.proxy.config, "nonsense").unwrap();
    check("reload", SqlState::CONFIG_FILE_ERROR, "RELOAD failed, see logs for additional details").await;
}

#[tokio::test]
async fn pause_under_load() {
    let stage = setup(1).with("pool", "size", "3").start().await.unwrap();
    let output = stage.run("pgbench", &["-i", "-q"], "").await;
    assert!(output.status.success(), "{output:?}");
    let admin = console(&stage.proxy).await;
    // A thread for each: one that waits to prepare a statement must not keep the server from a transaction of another.
    let work = stage.run("pgbench", &["-n", "-c", "6", "-j", "6", "-t", "150", "-M", "prepared"], "");
    let pauses = async {
        until("the load to begin", async || rows(&admin, "show servers").await.len() >= 3).await.unwrap();
        for round in 0..6 {
            let database = if round % 2 == 0 { "" } else { "postgres" };
            admin.batch_execute(&format!("pause {database}")).await.unwrap();
            assert_eq!(
                cell(&admin, "show state", ("key", "paused"), "value").await,
                if round % 2 == 0 { "yes" } else { "no" }
            );
            // Nothing of it is left on the servers.
            let sessions = "select count(*) from pg_stat_activity where backend_type = 'client backend' and \
                application_name not like 'hakem%' and pid <> pg_backend_pid()";
            until("the servers to be rid of us", async || stage.direct(0, sessions).await == "0").await.unwrap();
            assert!(rows(&admin, "show servers").await.is_empty());
            if round % 2 == 1 {
                assert_eq!(figure(&admin, "show databases", ("name", "postgres"), "paused").await, 1);
            }
            admin.batch_execute(&format!("resume {database}")).await.unwrap();
        }
    };
    let (output, ()) = tokio::join!(work, pauses);
    assert!(
        output.status.success() && output.stdout.contains("number of failed transactions: 0 (0.000%)"),
        "{output:?}"
    );
}

#[tokio::test]
async fn pause_waits_for_what_runs() {
    let stage = setup(0).start().await.unwrap();
    let admin = console(&stage.proxy).await;
    let client = stage.connect().await;
    client.batch_execute("begin; create table t ()").await.unwrap();
    let pausing = async { admin.batch_execute("pause").await };
    let mut pausing = std::pin::pin!(pausing);
    let other = console(&stage.proxy).await;
    tokio::select! {
        _ = &mut pausing => panic!("a transaction was not waited for"),
        paused = until("the pause to begin", async || cell(&other, "show state", ("key", "paused"), "value").await == "yes") => {
            paused.unwrap();
        }
    }
    // What runs goes on; what is new waits.
    client.batch_execute("create table u ()").await.unwrap();
    let new = stage.connect().await;
    let waiting = tokio::spawn(async move { new.value("select count(*) from t").await.unwrap() });
    until("the new one to wait", async || {
        figure(&other, "show pools", ("database", "postgres"), "cl_waiting").await == 1
    })
    .await
    .unwrap();
    client.batch_execute("commit").await.unwrap();
    pausing.await.unwrap();
    assert!(rows(&other, "show servers").await.is_empty());
    assert!(!waiting.is_finished());
    other.batch_execute("resume").await.unwrap();
    assert_eq!(waiting.await.unwrap(), "0");
    // An administrator who goes away while it waits takes the pause along.
    client.batch_execute("begin; select 1 from t").await.unwrap();
    let gone = console(&stage.proxy).await;
    let paused = async |is: &str| cell(&other, "show state", ("key", "paused"), "value").await == is;
    tokio::select! {
        _ = gone.batch_execute("pause") => panic!("a transaction was not waited for"),
        begun = until("the pause to begin", async || paused("yes").await) => begun.unwrap(),
    }
    gone.vanish().await;
    until("the pause to end", async || paused("no").await).await.unwrap();
    assert_eq!(stage.connect().await.value("select 1").await.unwrap(), "1");
    // So does one who cancels it.
    let cancels = console(&stage.proxy).await;
    let token = cancels.cancel_token();
    tokio::select! {
        _ = cancels.batch_execute("pause") => panic!("a transaction was not waited for"),
        begun = until("the pause to begin", async || paused("yes").await) => begun.unwrap(),
    }
    token.cancel_query(tokio_postgres::NoTls).await.unwrap();
    until("the pause to end", async || paused("no").await).await.unwrap();
    assert!(rows(&cancels, "show state").await.len() == 3, "its connection lives on");
}

#[tokio::test]
async fn reconnect_and_wait_close() {
    let stage = setup(0).start().await.unwrap();
    let admin = console(&stage.proxy).await;
    let (idle, busy) = (stage.connect().await, stage.connect().await);
    busy.batch_execute("begin; create table t ()").await.unwrap();
    idle.batch_execute("select 1").await.unwrap();
    let ids = async || -> Vec<String> {
        rows(&admin, "show servers").await.iter().map(|row| row.get("id").unwrap().to_owned()).collect()
    };
    let before = ids().await;
    assert_eq!(before.len(), 2);
    admin.batch_execute("reconnect postgres").await.unwrap();
    assert_eq!(cell(&admin, "show servers", ("state", "active"), "close_needed").await, "1");
    let waiter = console(&stage.proxy).await;
    let waiting = tokio::spawn(async move { waiter.batch_execute("wait_close postgres").await.unwrap() });
    busy.batch_execute("create table u ()").await.unwrap();
    assert!(!waiting.is_finished());
    busy.batch_execute("commit").await.unwrap();
    waiting.await.unwrap();
    busy.batch_execute("select 1").await.unwrap();
    assert!(ids().await.iter().all(|id| !before.contains(id)));
    assert_eq!(busy.value("select count(*) from u").await.unwrap(), "0");
}

#[tokio::test]
async fn killing() {
    let stage = setup(0).start().await.unwrap();
    let admin = console(&stage.proxy).await;
    let named = async |name: &str| {
        let name = name.to_owned();
        let client = stage.proxy.connect_with(move |config| {
            config.application_name(&name);
        });
        client.await.unwrap()
    };
    let (mut victim, working, other) = (named("victim").await, named("working").await, named("other").await);
    let id = async |name: &str| cell(&admin, "show clients", ("application_name", name), "id").await;
    admin.batch_execute(&format!("kill_client {}", id("victim").await)).await.unwrap();
    assert!(victim.message().await.is_none());
    let error = victim.batch_execute("select 1").await.unwrap_err();
    assert!(error.is_closed() || code(&error) == SqlState::ADMIN_SHUTDOWN, "{error:?}");
    // In the middle of a statement.
    let working_id = id("working").await;
    let work = tokio::spawn(async move { working.batch_execute("select pg_sleep(600)").await });
    until("it to work", async || cell(&admin, "show clients", ("id", &working_id), "state").await == "active")
        .await
        .unwrap();
    admin.batch_execute(&format!("kill_client {working_id}")).await.unwrap();
    assert!(work.await.unwrap().is_err());
    let left = "select count(*) from pg_stat_activity where query = 'select pg_sleep(600)' and state = 'active'";
    until("it to be over on the server, too", async || stage.direct(0, left).await == "0").await.unwrap();
    assert_eq!(other.value("select 1").await.unwrap(), "1");
    // All of a database, which is paused then.
    admin.batch_execute("kill postgres").await.unwrap();
    assert!(other.batch_execute("select 1").await.is_err());
    until("the servers to be let go", async || rows(&admin, "show servers").await.is_empty()).await.unwrap();
    assert_eq!(figure(&admin, "show databases", ("name", "postgres"), "paused").await, 1);
    admin.batch_execute("resume postgres").await.unwrap();
    let here = stage.connect().await;
    assert_eq!(here.value("select 1").await.unwrap(), "1");
    // All of all: each is paused by its name, as PgBouncer does it. RESUME resumes what KILL has paused, and nothing else.
    let there = stage.proxy.connect_with(|config| {
        config.dbname("template1");
    });
    let there = there.await.unwrap();
    assert_eq!(there.value("select 1").await.unwrap(), "1");
    admin.batch_execute("pause template1").await.unwrap();
    admin.batch_execute("kill").await.unwrap();
    for client in [here, there] {
        assert!(client.batch_execute("select 1").await.is_err());
    }
    let paused = async |name: &str| figure(&admin, "show databases", ("name", name), "paused").await;
    assert_eq!((paused("postgres").await, paused("template1").await), (1, 1));
    assert_eq!(cell(&admin, "show state", ("key", "paused"), "value").await, "no");
    admin.batch_execute("resume").await.unwrap();
    assert_eq!((paused("postgres").await, paused("template1").await), (0, 1));
    assert_eq!(stage.connect().await.value("select 1").await.unwrap(), "1");
    assert!(admin.batch_execute("resume").await.is_err());
}

#[tokio::test]
async fn disabled_databases_take_nobody_new() {
    let stage = setup(0).start().await.unwrap();
    let admin = console(&stage.proxy).await;
    let there = stage.connect().await;
    admin.batch_execute("disable postgres").await.unwrap();
    let Err(refused) = stage.proxy.connect_with(|_| {}).await else { panic!("a client gets in") };
    assert_eq!(refused.as_db_error().unwrap().message(), "database \"postgres\" is disabled");
    assert_eq!(there.value("select 1").await.unwrap(), "1");
    assert_eq!(figure(&admin, "show databases", ("name", "postgres"), "disabled").await, 1);
    admin.batch_execute("enable postgres").await.unwrap();
    stage.connect().await;
}

#[tokio::test]
async fn settings_are_set_until_a_reload() {
    let stage = setup(0).start().await.unwrap();
    let admin = console(&stage.proxy).await;
    let shown = async |key: &str| cell(&admin, "show config", ("key", key), "value").await;
    assert_eq!(shown("default_pool_size").await, "20");
    admin.batch_execute("set default_pool_size = 1").await.unwrap();
    admin.batch_execute("set query_wait_timeout to '0.2'").await.unwrap();
    assert_eq!(
        (shown("default_pool_size").await, shown("query_wait_timeout").await),
        ("1".to_owned(), "0.2".to_owned())
    );
    let (holder, waiting) = (stage.connect().await, stage.connect().await);
    holder.batch_execute("begin; create table t ()").await.unwrap();
    assert!(waiting.batch_execute("create table u ()").await.is_err());
    for (wrong, state) in [
        ("set default_pool_size = 0", SqlState::INVALID_PARAMETER_VALUE),
        ("set pool_mode = 'whole'", SqlState::INVALID_PARAMETER_VALUE),
        ("set \"proxy.workers\" = 3", SqlState::CANT_CHANGE_RUNTIME_PARAM),
    ] {
        assert_eq!(admin.failure(wrong).await, Some(state), "{wrong}");
    }
    admin.batch_execute("reload").await.unwrap();
    assert_eq!(shown("default_pool_size").await, "20");
    stage.connect().await.batch_execute("create table u ()").await.unwrap();
}

#[tokio::test]
async fn strange_messages_end_it() {
    let setup = setup(0).with("auth", "method", "\"trust\"");
    let stage = setup.start().await.unwrap();
    for message in [&b"F\0\0\0\x04"[..], b"Q\0\x01\0\x05", b"?\0\0\0\x04", b"Q\0\0\0\x01"] {
        use crate::raw::Raw;
        let mut raw = Raw::open(&stage.proxy).await;
        let mut packet = Vec::new();
        wire::startup::put_session(&mut packet, [("user", "postgres"), ("database", "pgbouncer")]);
        raw.say(&packet).await;
        raw.until_ready().await;
        raw.say(message).await;
        let error = raw.hear().await.unwrap();
        assert_eq!(crate::raw::sqlstate(&[error]).as_deref(), Some("08P01"), "{message:?}");
        assert_eq!(raw.hear().await, None);
    }
    // Under trust, whoever calls himself an administrator is one; nobody else, and what he says in one breath is not heard.
    for said in ["show state", "shutdown", "kill", "pause", "switchover to x", "set max_client_conn = 1"] {
        for database in ["pgbouncer", "hakem"] {
            let mut raw = crate::raw::Raw::open(&stage.proxy).await;
            let mut packet = Vec::new();
            wire::startup::put_session(&mut packet, [("user", "stranger"), ("database", database)]);
            wire::frontend::put_query(&mut packet, said);
            raw.say(&packet).await;
            let mut heard = Vec::new();
            while let Some(message) = raw.hear().await {
                heard.push(message);
            }
            // That nobody is asked for a password is all there is before.
            assert_eq!(crate::raw::tags(&heard), "RE", "{said}: {heard:?}");
            assert_eq!(crate::raw::sqlstate(&heard).as_deref(), Some("28000"), "{said}");
        }
    }
    assert!(log_in(&stage.proxy, "whoever", "", "hakem").await.is_err());
    tokio::time::timeout(Duration::from_secs(60), log_in(&stage.proxy, "watcher", "", "hakem")).await.unwrap().unwrap();
}
