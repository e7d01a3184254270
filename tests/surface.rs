//! The console's surface: the columns and rows of every topic, and who may say what. What the commands do is `console`'s.

use std::collections::HashMap;

use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, Type};

use crate::console::{console, log_in, rows, setup};
use crate::harness::{code, until};

/// A value in binary, as the text that the simple protocol has for it.
struct Shown(String);

impl<'a> FromSql<'a> for Shown {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Shown, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Shown(match *kind {
            Type::TEXT => String::from_utf8(raw.to_vec())?,
            Type::INT4 => i32::from_sql(kind, raw)?.to_string(),
            Type::INT8 => i64::from_sql(kind, raw)?.to_string(),
            // Digits to the base 10000 behind four words; ours have no fraction, and no digit is left out.
            Type::NUMERIC => {
                let digits = raw[8..].chunks(2).map(|digit| u128::from(u16::from_be_bytes([digit[0], digit[1]])));
                digits.fold(0, |number, digit| number * 10_000 + digit).to_string()
            }
            _ => return Err(format!("{kind} is no type of the console's").into()),
        }))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

const SOCKETS: &str = "type t user t database t replication t state t addr t port i local_addr t local_port i \
    connect_time t request_time t wait i wait_us i close_needed i ptr t link t remote_pid i tls t \
    application_name t prepared_statements i id i";

/// The topics of PgBouncer 1.25.2 in its columns, and our own.
const TABLE: [(&str, &str); 24] = [
    ("VERSION", "version t"),
    ("STATE", "key t value t"),
    ("CONFIG", "key t value t default t changeable t"),
    (
        "DATABASES",
        "name t host t port i database t force_user t pool_size i min_pool_size i reserve_pool_size i \
         server_lifetime i pool_mode t load_balance_hosts t max_connections i current_connections i \
         max_client_connections i current_client_connections i paused i disabled i",
    ),
    (
        "POOLS",
        "database t user t cl_active i cl_waiting i cl_active_cancel_req i cl_waiting_cancel_req i sv_active i \
         sv_active_cancel i sv_being_canceled i sv_idle i sv_used i sv_tested i sv_login i maxwait i maxwait_us i \
         pool_mode t load_balance_hosts t",
    ),
    ("PEERS", "peer_id i host t port i pool_size i"),
    ("PEER_POOLS", "peer_id i cl_active_cancel_req i cl_waiting_cancel_req i sv_active_cancel i sv_login i"),
    (
        "USERS",
        "name t pool_size t reserve_pool_size t pool_mode t max_user_connections i current_connections i \
         max_user_client_connections i current_client_connections i",
    ),
    ("CLIENTS", SOCKETS),
    ("SERVERS", SOCKETS),
    (
        "STATS",
        "database t total_server_assignment_count n total_xact_count n total_query_count n total_received n \
         total_sent n total_xact_time n total_query_time n total_wait_time n total_client_parse_count n \
         total_server_parse_count n total_bind_count n avg_server_assignment_count n \
         avg_xact_count n avg_query_count n avg_recv n avg_sent n avg_xact_time n avg_query_time n avg_wait_time n \
         avg_client_parse_count n avg_server_parse_count n avg_bind_count n",
    ),
    (
        "STATS_TOTALS",
        "database t server_assignment_count n xact_count n query_count n bytes_received n bytes_sent n xact_time n \
         query_time n wait_time n client_parse_count n server_parse_count n bind_count n",
    ),
    (
        "STATS_AVERAGES",
        "database t server_assignment_count n xact_count n query_count n bytes_received n bytes_sent n xact_time n \
         query_time n wait_time n avg_client_parse_count n avg_server_parse_count n avg_bind_count n",
    ),
    ("TOTALS", "name t value n"),
    ("LISTS", "list t items i"),
    ("MEM", "name t size i used i free i memtotal i"),
    ("DNS_HOSTS", "hostname t ttl q addrs t"),
    ("DNS_ZONES", "zonename t serial q count i"),
    (
        "TOPOLOGY",
        "cluster t node i host t port i state t writes t timeline i lag_us q replay_lag_bytes q receive_lag_bytes q \
         streaming t sv_active i sv_idle i sv_login i probes q failures q round_trip_us q problem t requests q \
         outstanding i latency_us q share i",
    ),
    ("PINS", "database t user t client_id q reason t since t held i held_us i"),
    ("PIN_TOTALS", "reason t clients i total q"),
    (
        "CATALOG",
        "cluster t database t state t version q functions q relations q primary_names q loaded_at t checked_at t \
         load_time_us q loads q failures q problem t",
    ),
    ("ROUTES", "to t why t count q"),
    ("ROUTE FOR 'select 1' IN app", "database t user t access t effect t why t because t to t node t reason t"),
];

/// What is asked twice and has to be the same: nothing in them moves while nobody does anything.
const STILL: [&str; 8] = ["VERSION", "STATE", "CONFIG", "DATABASES", "POOLS", "USERS", "LISTS", "ROUTES"];

#[tokio::test]
async fn columns_and_rows_are_pgbouncers() {
    let sections = "[databases.app]\ndbname = \"postgres\"\npool_size = 7\nreserve_pool_size = 2\nserver_lifetime = \"90s\"\n\
        pool_mode = \"session\"\nmax_db_connections = 9\nmax_db_client_connections = 11\n\
        [[users]]\nname = \"limited\"\npassword = \"l\"\nserver_user = \"postgres\"\npool_size = 3\nreserve_pool_size = 1\n\
        pool_mode = \"statement\"\nmax_user_connections = 5\nmax_user_client_connections = 6";
    let stage = setup(1).and(sections).with("pool", "max_user_connections", "50").start().await.unwrap();
    let client = stage.proxy.connect_with(|config| {
        config.dbname("app").application_name("exact");
    });
    let client = client.await.unwrap();
    client.batch_execute("create table t ()").await.unwrap();
    let pid = client.value("select pg_backend_pid() /* hakem: primary */").await.unwrap();
    let admin = console(&stage.proxy).await;
    for (topic, expected) in TABLE {
        let statement = admin.prepare(&format!("SHOW {topic}")).await.unwrap();
        let letter = |kind: &Type| match *kind {
            Type::TEXT => "t",
            Type::INT4 => "i",
            Type::INT8 => "q",
            Type::NUMERIC => "n",
            _ => "?",
        };
        let found: Vec<String> =
            statement.columns().iter().map(|column| format!("{} {}", column.name(), letter(column.type_()))).collect();
        assert_eq!(found.join(" "), expected, "{topic}");
        // The simple protocol has the same columns, and binary and text agree.
        let simple = rows(&admin, &format!("SHOW {topic};")).await;
        let extended = admin.query(&statement, &[]).await.unwrap();
        let names: Vec<&str> = statement.columns().iter().map(tokio_postgres::Column::name).collect();
        for row in &simple {
            assert_eq!(row.columns().iter().map(|column| column.name()).collect::<Vec<_>>(), names, "{topic}");
        }
        assert_eq!(simple.len(), extended.len(), "{topic}");
        let same = |row: &&tokio_postgres::SimpleQueryRow| STILL.contains(&topic) || row.get(0) == Some("app");
        for (simple, extended) in simple.iter().zip(&extended).filter(|(row, _)| same(row)) {
            for (at, name) in names.iter().enumerate() {
                let value: Option<Shown> = extended.get(at);
                assert_eq!(simple.get(at), value.as_ref().map(|shown| shown.0.as_str()), "{topic}: {name}");
            }
        }
    }

    // SELECT is the same as SHOW.
    assert_eq!(rows(&admin, "SELECT VERSION").await[0].get(0), Some("PgBouncer 1.25.2"));
    // Whole rows: the values that are known, a dash for NULL and a star for what differs from run to run.
    let check = async |topic: &str, key: &str, expected: &str| {
        let rows = rows(&admin, &format!("show {topic}")).await;
        let row = rows.iter().find(|row| (0..row.len()).any(|at| row.get(at) == Some(key)));
        let row = row.unwrap_or_else(|| panic!("{topic}: no {key}: {rows:?}"));
        let found: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("-")).collect();
        let expected: Vec<&str> = expected.split('|').collect();
        let fits = found.len() == expected.len()
            && found.iter().zip(&expected).all(|(found, expected)| *expected == "*" || found == expected);
        assert!(fits, "{topic}: {found:?} is not {expected:?}");
    };
    let ports: Vec<u16> = stage.cluster.nodes().iter().map(cluster::Node::port).collect();
    let (own, primary) = (stage.proxy.address.port(), ports[0]);
    let app = format!("app|127.0.0.1,127.0.0.1|{primary}|postgres|-|7|0|2|90|session|-|9|1|11|1|0|0");
    check("databases", "app", &app).await;
    // The port is the one of the configuration, which leaves it to the kernel.
    check("databases", "pgbouncer", "pgbouncer|-|0|pgbouncer|pgbouncer|2|0|0|0|statement|-|0|0|0|1|0|0").await;
    check("pools", "app", "app|postgres|1|0|0|0|1|0|0|0|0|0|0|0|0|session|-").await;
    check("pools", "pgbouncer", "pgbouncer|pgbouncer|1|0|0|0|0|0|0|0|0|0|0|0|0|statement|-").await;
    check("users", "limited", "limited|        3|        1|statement|5|0|6|0").await;
    check("users", "postgres", "postgres|||-|50|1|0|2").await;
    check(
        "clients",
        "exact",
        &format!("C|postgres|app|none|active|127.0.0.1|*|127.0.0.1|{own}|*|*|0|0|0|*|*|0||exact|0|*"),
    )
    .await;
    check(
        "servers",
        &pid,
        &format!("S|postgres|app|none|active|127.0.0.1|{primary}|127.0.0.1|*|*|*|0|0|0|*|*|{pid}||exact|0|*"),
    )
    .await;
    check("config", "default_pool_size", "default_pool_size|20|20|yes").await;
    check("config", "query_wait_timeout", "query_wait_timeout|120|120|yes").await;
    check("state", "suspended", "suspended|no").await;
    check("topology", "primary", &format!("local|*|127.0.0.1|{primary}|primary|yes{}", "|*".repeat(16))).await;
    check("catalog", "postgres", &format!("local|postgres{}", "|*".repeat(11))).await;
    check("route for 'select 1' in app", "app", "app|postgres|read|*|select|*|*|*|*").await;
    check("routes", "utility", "primary|utility|1").await;
    // "YYYY-MM-DD HH:MM:SS TZ".
    let since = rows(&admin, "show clients").await[0].get("connect_time").unwrap().to_owned();
    let shape: String = since.chars().map(|letter| if letter.is_ascii_digit() { '0' } else { letter }).collect();
    assert_eq!(shape, "0000-00-00 00:00:00 UTC", "{since}");

    const TOTALS: &str = "server_assignment_count xact_count query_count client_bytes server_bytes xact_time query_time \
        wait_time ps_client_parse_count ps_server_parse_count ps_bind_count";
    let names = async |topic: &str| -> Vec<String> {
        rows(&admin, topic).await.iter().map(|row| row.get(0).unwrap().to_owned()).collect()
    };
    let expected = ["total", "avg"].map(|prefix| TOTALS.split(' ').map(move |name| format!("{prefix}_{name}")));
    assert_eq!(names("show totals").await, expected.into_iter().flatten().collect::<Vec<_>>());
    const LISTS: [(&str, &str); 14] = [
        ("databases", "2"),
        ("users", "4"),
        ("peers", "0"),
        ("pools", "2"),
        ("peer_pools", "0"),
        ("free_clients", "0"),
        ("used_clients", "2"),
        ("login_clients", "0"),
        ("free_servers", "0"),
        ("used_servers", "1"),
        ("dns_names", "0"),
        ("dns_zones", "0"),
        ("dns_queries", "0"),
        ("dns_pending", "0"),
    ];
    let lists = rows(&admin, "show lists").await;
    let lists: Vec<(&str, &str)> = lists.iter().map(|row| (row.get(0).unwrap(), row.get(1).unwrap())).collect();
    assert_eq!(lists, LISTS);
    for topic in ["show databases", "show pools", "show stats"] {
        assert!(names(topic).await.contains(&"pgbouncer".to_owned()), "{topic}");
    }
    client.batch_execute("create temp table kept ()").await.unwrap();
    check("pins", "temp_table", "app|postgres|*|temp_table|*|0|*").await;
    check("pin_totals", "temp_table", "temp_table|1|1").await;
}

/// What an administrator may do and nobody else, in a form that does nothing where it is allowed, with what he is told.
const ACTS: [(&str, Option<&str>); 18] = [
    ("PAUSE pgbouncer", Some("42809")),
    ("RESUME", Some("55000")),
    ("RESUME app", Some("55000")),
    ("DISABLE app", None),
    ("ENABLE app", None),
    ("RECONNECT", None),
    ("RECONNECT app", None),
    ("WAIT_CLOSE", None),
    ("WAIT_CLOSE app", None),
    ("KILL pgbouncer", Some("42809")),
    ("KILL_CLIENT 999999", Some("42704")),
    ("KILL_CLIENT x", Some("22P02")),
    ("RELOAD", None),
    ("SUSPEND", Some("0A000")),
    // There is nobody who could be asked for it.
    ("SWITCHOVER TO \"127.0.0.1:1\"", Some("55000")),
    ("SET max_client_conn = 50", None),
    ("SET nonsense = 1", Some("42704")),
    ("SET \"proxy.workers\" = 3", Some("55P02")),
];

/// What ends or stops everything, said by those who may not.
const GRAVE: [&str; 8] = [
    "SHUTDOWN",
    "SHUTDOWN WAIT_FOR_CLIENTS",
    "SHUTDOWN WAIT_FOR_SERVERS",
    "PAUSE",
    "PAUSE app",
    "KILL",
    "KILL app",
    "KILL_CLIENT 1",
];

#[tokio::test]
async fn roles() {
    let served = setup(0).and("[databases.app]\ndbname = \"postgres\"").with("auth", "failed_login_delay", "\"0s\"");
    let stage = served.start().await.unwrap();
    // The password is asked for before anything is said of roles; who has the right one and no role is told so.
    for database in ["hakem", "pgbouncer"] {
        let Err(refused) = log_in(&stage.proxy, "stranger", "s", database).await else { panic!("a stranger gets in") };
        let error = refused.as_db_error().unwrap();
        assert_eq!((error.code(), error.message()), (&SqlState::INVALID_AUTHORIZATION_SPECIFICATION, "not allowed"));
        for user in ["watcher", "stranger", "nobody", &setup(0).cluster.user] {
            let Err(refused) = log_in(&stage.proxy, user, "wrong", database).await else { panic!("{user} gets in") };
            assert_eq!(refused.code(), Some(&SqlState::INVALID_PASSWORD), "{user}");
        }
    }
    let watcher = log_in(&stage.proxy, "watcher", "w", "hakem").await.unwrap();
    let admin = console(&stage.proxy).await;
    for act in ACTS.iter().map(|(act, _)| *act).chain(GRAVE) {
        for error in [watcher.batch_execute(act).await.unwrap_err(), watcher.query(act, &[]).await.unwrap_err()] {
            let error = error.as_db_error().unwrap_or_else(|| panic!("{act}: {error:?}"));
            let expected = (&SqlState::INSUFFICIENT_PRIVILEGE, "admin access needed");
            assert_eq!((error.code(), error.message()), expected, "{act}");
        }
    }
    // Nothing was done: neither to the settings nor to who is there.
    let shown = |rows: Vec<tokio_postgres::SimpleQueryRow>| -> HashMap<String, String> {
        rows.iter().map(|row| (row.get(0).unwrap().to_owned(), row.get(1).unwrap_or("").to_owned())).collect()
    };
    assert_eq!(shown(rows(&watcher, "show config").await)["max_client_conn"], "10000");
    assert_eq!(shown(rows(&watcher, "show state").await)["paused"], "no");
    assert_eq!(stage.connect().await.value("select 1").await.unwrap(), "1");

    for (act, expected) in ACTS {
        let outcomes = [admin.batch_execute(act).await.err(), admin.query(act, &[]).await.err()];
        for outcome in outcomes {
            let found = outcome.map(|error| code(&error).code().to_owned());
            let as_expected = match (expected, &found) {
                (None, None) => true,
                (Some(expected), Some(found)) => expected.contains(found.as_str()),
                _ => false,
            };
            assert!(as_expected, "{act}: {found:?} for {expected:?}");
        }
    }
    // Whoever is there can see all there is to see.
    let topics = TABLE.iter().map(|(topic, _)| *topic).chain(["HELP", "client_encoding", "TimeZone"]);
    for topic in topics {
        for client in [&watcher, &admin] {
            client.batch_execute(&format!("SHOW {topic}")).await.unwrap();
            client.query(&format!("SHOW {topic}"), &[]).await.unwrap();
        }
    }
    // What it takes to act is a role, not a name: one that is taken away is gone with the next login.
    let bare = only_admins(&stage.cluster);
    std::fs::write(&stage.proxy.config, bare).unwrap();
    admin.batch_execute("reload").await.unwrap();
    until("the watcher to be nobody", async || log_in(&stage.proxy, "watcher", "w", "hakem").await.is_err())
        .await
        .unwrap();
}

fn only_admins(cluster: &cluster::Cluster) -> String {
    setup(0).with("console", "stats_users", "[]").and("[databases.app]\ndbname = \"postgres\"").text(cluster)
}
