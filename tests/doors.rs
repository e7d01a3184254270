//! Doors that other poolers left open: every method in front, with every kind of secret, before every method behind (CVE-2025-46801),
//! and names of databases that are cut off (CVE-2012-4575).
//!
//! Whatever does not fit is refused. One server, whose pg_hba.conf chooses the method by the user; and one proxy, whose HBA file
//! chooses its own by the database.

use cluster::{Authentication, Cluster};

use crate::harness::{Proxy, Setup, Stage, until};
use crate::raw::Raw;

/// In front.
const METHODS: [&str; 6] = ["trust", "password", "md5", "scram-sha-256", "reject", "cert"];

/// What the proxy knows of a user, what the server asks him for, and how a client with the right password fares by each method:
/// `+` is in, `x` a wrong password to all appearances, `-` refused by rule, and `!` let in by the proxy but not by the server.
const MATRIX: [(&str, &str, &str); 24] = [
    ("plain", "trust", "++++--"),
    // Never in clear text to a server that nobody vouches for.
    ("plain", "password", "!!!!--"),
    ("plain", "md5", "++++--"),
    ("plain", "scram-sha-256", "++++--"),
    ("plain", "reject", "!!!!--"),
    // The server says of it what it says of a wrong password.
    ("plain", "expired", "xxxx--"),
    ("md5", "trust", "+++x--"),
    ("md5", "password", "!!!x--"),
    ("md5", "md5", "+++x--"),
    ("md5", "scram-sha-256", "!!!x--"),
    ("md5", "reject", "!!!x--"),
    ("md5", "expired", "xxxx--"),
    ("scram", "trust", "++++--"),
    ("scram", "password", "!!!!--"),
    ("scram", "md5", "!!!!--"),
    // Nobody has proved anything by trust, so there is nothing to pass through.
    ("scram", "scram-sha-256", "!+++--"),
    ("scram", "reject", "!!!!--"),
    ("scram", "expired", "!!!!--"),
    ("none", "trust", "+xxx--"),
    ("none", "password", "!xxx--"),
    ("none", "md5", "!xxx--"),
    ("none", "scram-sha-256", "!xxx--"),
    ("none", "reject", "!xxx--"),
    ("none", "expired", "!xxx--"),
];

#[tokio::test]
async fn methods_in_front_and_behind() {
    let options = cluster::Options { replicas: 0, authentication: Authentication::Md5, ..cluster::Options::default() };
    let cluster = Cluster::start(options.clone()).await.unwrap();
    let (mut known_as, mut kept_as, mut behind) = (String::new(), String::new(), "local all all trust\n".to_owned());
    let form = |is_md5| if is_md5 { "md5" } else { "scram-sha-256" };
    for (known, asked, _) in MATRIX {
        let user = format!("{known}_{asked}");
        // What the proxy knows is made by the server, and then the server gets what its method needs.
        let (knows, keeps) = (form(known == "md5"), form(asked == "md5" || (known, asked) == ("md5", "expired")));
        known_as +=
            &format!("set password_encryption = '{knows}'; create role \"{user}\" login password 'wonderland';");
        if knows != keeps {
            kept_as += &format!("set password_encryption = '{keeps}'; alter role \"{user}\" password 'wonderland';");
        }
        if asked == "expired" {
            kept_as += &format!("alter role \"{user}\" valid until '2000-01-01';");
        }
        // A password's age is looked at by whoever asks for one.
        let method = if asked == "expired" { keeps } else { asked };
        behind += &format!("host all \"{user}\" 127.0.0.1/32 {method}\n");
    }
    cluster.sql(0, &known_as).await.unwrap();
    let lines = "select string_agg(format('\"%s\" \"%s\"', rolname, case when rolname like 'plain%' then 'wonderland'
        else rolpassword end), e'\\n') from pg_authid where rolname ~ '^(plain|md5|scram)_'";
    let list = cluster.sql(0, lines).await.unwrap();
    cluster.sql(0, &kept_as).await.unwrap();
    behind += "host all all 127.0.0.1/32 md5\n";
    std::fs::write(cluster.nodes()[0].data_directory().join("pg_hba.conf"), behind).unwrap();
    cluster.sql(0, "select pg_reload_conf()").await.unwrap();
    let directory = cluster.directory();
    let (list_path, hba_path) = (directory.join("users.txt"), directory.join("hba.conf"));
    std::fs::write(&list_path, list).unwrap();
    let line = |method: &str| match method {
        "cert" => "hostssl cert all all cert\n".to_owned(),
        method => format!("host {method} all all {method}\n"),
    };
    std::fs::write(&hba_path, METHODS.map(line).concat() + "host postgres all all scram-sha-256\n").unwrap();
    let mut setup = Setup::default()
        .with("auth", "method", "\"hba\"")
        .with("auth", "failed_login_delay", "\"0s\"")
        .with("auth", "auth_file", &format!("{list_path:?}"))
        .with("auth", "auth_hba_file", &format!("{hba_path:?}"))
        .and(&METHODS.map(|method| format!("[databases.{method}]\ndbname = \"postgres\"\n")).concat());
    setup.cluster = options;
    let stage = Stage { proxy: setup.proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();

    let mut found = Vec::new();
    for (known, asked, _) in MATRIX {
        let user = format!("{known}_{asked}");
        let mut ends = String::new();
        for method in METHODS {
            ends.push(end(&stage, method, &user, "wonderland").await);
        }
        for method in ["password", "md5", "scram-sha-256"] {
            assert_eq!(end(&stage, method, &user, "Wonderland").await, 'x', "{user} by {method}, wrong password");
            // No password at all is for a server to like that asks for none.
            if asked == "trust" {
                assert_eq!(end(&stage, method, &user, "").await, 'x', "{user} by {method}, no password");
            }
        }
        found.push((known, asked, ends));
    }
    let found: Vec<_> = found.iter().map(|(known, asked, ends)| (*known, *asked, ends.as_str())).collect();
    assert_eq!(found, MATRIX);
    // What was let in once, by a connection that waits in the pool, opens no door to who proves less.
    assert_eq!(end(&stage, "scram-sha-256", "scram_scram-sha-256", "wonderland").await, '+');
    for (method, password) in [("md5", "x"), ("password", ""), ("scram-sha-256", "x"), ("reject", "wonderland")] {
        let end = end(&stage, method, "scram_scram-sha-256", password).await;
        assert!(end == 'x' || end == '-', "{method}: {end}");
    }
}

async fn end(stage: &Stage, database: &str, user: &str, password: &str) -> char {
    let client = stage.proxy.connect_with(|config| {
        config.user(user).password(password).dbname(database);
    });
    let outcome = match client.await {
        Ok(client) => client.value("select session_user").await,
        Err(error) => Err(error),
    };
    let error = match outcome {
        Ok(name) => {
            assert_eq!(name, user);
            return '+';
        }
        Err(error) => error,
    };
    let error = error.as_db_error().unwrap_or_else(|| panic!("{user} by {database}: {error:?}"));
    let denied = format!("password authentication failed for user \"{user}\"");
    let text = error.message();
    match error.code().code() {
        "28P01" if text == denied => 'x',
        "28000" if text.starts_with("pg_hba.conf rejects connection") && database == "reject" => '-',
        "28000" if text.starts_with("no pg_hba.conf entry") => '-',
        _ => '!',
    }
}

/// A database whose name a server would cut off is none, though anybody may ask for any; nor is it one that exists under what is left.
#[tokio::test]
async fn a_database_is_not_cut_off() {
    let stage = Setup::replicas(0).with("auth", "failed_login_delay", "\"0s\"").start().await.unwrap();
    let longest = "d".repeat(63);
    stage.direct(0, &format!("create database {longest}")).await;
    let connect = async |name: &str| {
        let client = stage.proxy.connect_with(|config| {
            config.dbname(name);
        });
        match client.await {
            Ok(client) => client.value("select current_database()").await.map_err(|error| format!("{error:?}")),
            Err(error) => {
                let error = error.as_db_error().unwrap_or_else(|| panic!("{} letters: {error:?}", name.len())).clone();
                Err(format!("{} {}", error.code().code(), error.message().replace(name, "NAME")))
            }
        }
    };
    assert_eq!(connect(&longest).await.as_deref(), Ok(longest.as_str()));
    // Also by what a letter of several bytes leaves, and far beyond any buffer; the password is asked for first.
    for name in ["d".repeat(64), longest.clone() + "é", "é".repeat(32), "d".repeat(255), "d".repeat(8000)] {
        let refusal = connect(&name).await.unwrap_err();
        assert_eq!(refusal, "3D000 database \"NAME\" does not exist", "{} bytes", name.len());
        let wrong = stage.proxy.connect_with(|config| {
            config.dbname(&name).password("wrong");
        });
        assert_eq!(wrong.await.err().unwrap().code().unwrap().code(), "28P01");
    }
    let pools = stage.proxy.series("hakem_pool_connections").await;
    assert!(
        pools.iter().all(|(labels, _)| !labels.contains("dddd") || labels.contains(&format!("\"{longest}\""))),
        "{pools:?}"
    );
}

/// Which databases there are is told to who has proved who he is, in PostgreSQL's words (`InitPostgres`), as PgBouncer tells it only then.
#[tokio::test]
async fn strangers_are_not_told_which_databases_there_are() {
    let stage = Setup::replicas(0).with("auth", "failed_login_delay", "\"0s\"").start().await.unwrap();
    let attempt = async |proxy: &Proxy, user: &str, password: &str, database: &str| {
        let client = proxy.connect_with(|config| {
            config.user(user).password(password).dbname(database);
        });
        let error = client.await.err()?;
        let error = error.as_db_error().unwrap_or_else(|| panic!("{user} by {database}: {error:?}"));
        assert_eq!((error.severity(), error.detail(), error.hint()), ("FATAL", None, None));
        Some(format!("{} {}", error.code().code(), error.message()))
    };
    let asked = async |proxy: &Proxy, user: &str, database: &str| {
        let mut raw = Raw::open(proxy).await;
        raw.knock(user, database).await;
        raw.hear().await.unwrap()
    };
    let Setup { cluster: cluster::Options { user, password, .. }, .. } = Setup::default();
    let proxy = &stage.proxy;
    for narrows in [false, true] {
        if narrows {
            // No name leads to a server any more but this one.
            let text =
                std::fs::read_to_string(&proxy.config).unwrap().replace("[databases.\"*\"]", "[databases.postgres]");
            std::fs::write(&proxy.config, text).unwrap();
            proxy.signal("HUP");
            until("it to be read", async || proxy.log().contains("the configuration was reloaded")).await.unwrap();
        }
        assert_eq!(attempt(proxy, &user, &password, "postgres").await, None);
        let refusal = attempt(proxy, &user, &password, "absent").await;
        assert_eq!(refusal.as_deref(), Some("3D000 database \"absent\" does not exist"));
        for (user, password) in [(user.as_str(), "wrong"), ("nobody", "wrong")] {
            let denied = format!("28P01 password authentication failed for user \"{user}\"");
            for database in ["postgres", "absent"] {
                assert_eq!(attempt(proxy, user, password, database).await.as_ref(), Some(&denied), "{database}");
            }
            assert_eq!(asked(proxy, user, "postgres").await, asked(proxy, user, "absent").await, "{user}");
        }
    }
}
