//! No secret is shown anywhere: not by the console, not by the pages, not in the log, not by `hakem check` (CVE-2023-22332).
//!
//! Each place where a secret can come from has one of its own, which stands nowhere else; and each place that is looked at is shown
//! to be looked at by something in it that is no secret.

use cluster::{Authentication, Cluster};
use tokio_postgres::error::SqlState;

use crate::console::console;
use crate::harness::{Setup, Stage, program, run};

const SUPERUSER: &str = "owner-hunter-11";
const INLINE: &str = "inline-hunter-22";
const BEHIND: &str = "behind-hunter-33";
const LISTED: &str = "listed-hunter-44";
const HASHED: &str = "hashed-hunter-55";
const VERIFIED: &str = "verified-hunter-66";
const ASKER: &str = "asker-hunter-77";
const LOOKED_UP: &str = "looked-up-hunter-88";
const MISTYPED: &str = "mistyped-hunter-99";
const SET: &str = "set-hunter-00";

/// Every topic, and what else the console answers with texts.
const QUESTIONS: [&str; 30] = [
    "show catalog",
    "show clients",
    "show config",
    "show databases",
    "show dns_hosts",
    "show dns_zones",
    "show help",
    "show lists",
    "show mem",
    "show peers",
    "show peer_pools",
    "show pins",
    "show pin_totals",
    "show pools",
    "show routes",
    "show servers",
    "show state",
    "show stats",
    "show stats_averages",
    "show stats_totals",
    "show topology",
    "show totals",
    "show users",
    "show version",
    "show route for 'select 1' in app",
    "reload",
    "set auth_password = 'set-hunter-00'",
    "set probe_password = 'set-hunter-00'",
    "set password = 'set-hunter-00'",
    "show auth_password",
];

#[tokio::test]
async fn no_secret_is_shown() {
    let options = cluster::Options {
        replicas: 0,
        authentication: Authentication::Md5,
        password: SUPERUSER.to_owned(),
        ..cluster::Options::default()
    };
    let cluster = Cluster::start(options.clone()).await.unwrap();
    let mut stored = Vec::new();
    for (user, password, form) in [
        ("listed", LISTED, "scram-sha-256"),
        ("hashed", HASHED, "md5"),
        ("verified", VERIFIED, "scram-sha-256"),
        ("asker", ASKER, "scram-sha-256"),
        ("looked_up", LOOKED_UP, "scram-sha-256"),
        ("inline", INLINE, "scram-sha-256"),
    ] {
        let sql = format!("set password_encryption = '{form}'; create role {user} login password '{password}'");
        cluster.sql(0, &sql).await.unwrap();
        let secret = format!("select rolpassword from pg_authid where rolname = '{user}'");
        stored.push(cluster.sql(0, &secret).await.unwrap());
    }
    cluster.sql(0, "grant pg_read_all_data to asker; grant select on pg_authid to asker").await.unwrap();
    let directory = cluster.directory();
    let list = format!("\"listed\" \"{LISTED}\"\n\"hashed\" \"{}\"\n\"verified\" \"{}\"\n", stored[1], stored[2]);
    let lines = "host all listed all password\nhost all hashed all md5\nhost all all all scram-sha-256\n";
    let (list_path, hba_path) = (directory.join("users.txt"), directory.join("hba.conf"));
    std::fs::write(&list_path, list).unwrap();
    std::fs::write(&hba_path, lines).unwrap();
    let users = format!(
        "[databases.app]\ndbname = \"postgres\"\n\
         [[users]]\nname = \"inline\"\npassword = \"{INLINE}\"\n\
         [[users]]\nname = \"behind\"\npassword = \"{INLINE}\"\nserver_user = \"postgres\"\nserver_password = \"{BEHIND}\""
    );
    let mut setup = Setup::default()
        .with("log", "level", "\"trace\"")
        .with("console", "admin_users", "[\"postgres\"]")
        .with("auth", "method", "\"hba\"")
        .with("auth", "failed_login_delay", "\"0s\"")
        .with("auth", "auth_file", &format!("{list_path:?}"))
        .with("auth", "auth_hba_file", &format!("{hba_path:?}"))
        .with("auth", "auth_user", "\"asker\"")
        .with("auth", "auth_password", &format!("{ASKER:?}"))
        .and(&users);
    setup.cluster = options;
    let stage = Stage { proxy: setup.proxy(&cluster).await.unwrap(), cluster };
    stage.ready().await.unwrap();

    let mut seen: Vec<(String, String)> = Vec::new();
    let log_in = async |user: &str, password: &str| {
        let client = stage.proxy.connect_with(|config| {
            config.user(user).password(password).dbname("app").application_name("openly shown");
        });
        client.await
    };
    let mut clients = Vec::new();
    for (user, password) in [
        ("listed", LISTED),
        ("hashed", HASHED),
        ("verified", VERIFIED),
        ("looked_up", LOOKED_UP),
        ("inline", INLINE),
        ("asker", ASKER),
    ] {
        let client = log_in(user, password).await.unwrap_or_else(|error| panic!("{user}: {error:?}"));
        assert_eq!(client.value("select current_user").await.unwrap(), user);
        clients.push(client);
        let Err(error) = log_in(user, MISTYPED).await else { panic!("{user} is in with a wrong password") };
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD));
        seen.push((format!("what {user} is told"), format!("{error:?}")));
    }
    // The server does not take this password: what the client is told, and what is logged, is of no password.
    let Err(error) = log_in("behind", INLINE).await else { panic!("the server takes a wrong password") };
    seen.push(("what behind is told".to_owned(), format!("{error:?}")));

    let admin = console(&stage.proxy).await;
    for question in QUESTIONS {
        let answer = admin.simple_query(question).await;
        seen.push((question.to_owned(), format!("{answer:?}")));
        let answer = admin.query(question, &[]).await;
        seen.push((format!("{question}, extended"), format!("{answer:?}")));
    }
    for path in ["/metrics", "/health", "/ready", "/"] {
        seen.push((path.to_owned(), stage.proxy.page(path).await.unwrap().1));
    }
    let checked = run(program("check", &stage.proxy.config).into(), "").await;
    seen.push(("check".to_owned(), format!("{}{}", checked.stdout, checked.stderr)));
    // A reload that fails says why, and not what stands there.
    std::fs::write(&list_path, format!("\"listed\" \"{LISTED}\" \"hashed\n\"verified\" \"{}x$\"\n", stored[2]))
        .unwrap();
    seen.push(("a broken list".to_owned(), format!("{:?}", admin.batch_execute("reload").await.unwrap_err())));
    let text = std::fs::read_to_string(&stage.proxy.config).unwrap();
    std::fs::write(&stage.proxy.config, text.replace("server_password = ", "server_passwort = ")).unwrap();
    seen.push(("a broken file".to_owned(), format!("{:?}", admin.batch_execute("reload").await.unwrap_err())));
    let checked = run(program("check", &stage.proxy.config).into(), "").await;
    seen.push(("check of a broken file".to_owned(), format!("{}{}", checked.stdout, checked.stderr)));
    drop(clients);
    seen.push(("the log".to_owned(), stage.proxy.log()));

    let secrets = secrets(&stored);
    for (place, text) in &seen {
        for secret in &secrets {
            let line = text.lines().find(|line| line.contains(secret.as_str()));
            assert_eq!(line, None, "{place} shows {secret:?}");
        }
    }
    // And where there is something to be seen, it is seen.
    for (place, shown) in [
        ("show clients", "openly shown"),
        ("show users", "behind"),
        ("show config", "users.txt"),
        ("show servers", "looked_up"),
        ("/metrics", "database=\"app\""),
        ("the log", "looked_up"),
        ("check of a broken file", "server_passwort"),
        ("check", "127.0.0.1"),
        ("what behind is told", "password authentication failed for user \\\"postgres\\\""),
    ] {
        let (_, text) = seen.iter().find(|(name, _)| name == place).unwrap();
        assert!(text.contains(shown), "{place} does not show {shown}: {text}");
    }
}

/// All that must not be seen, also as a debugger would write it.
fn secrets(stored: &[String]) -> Vec<String> {
    let passwords =
        [SUPERUSER, INLINE, BEHIND, LISTED, HASHED, VERIFIED, ASKER, LOOKED_UP, MISTYPED, SET].map(str::to_owned);
    // A verifier's parts: the salt, and both keys.
    let parts = stored.iter().flat_map(|secret| secret.split(['$', ':']).map(str::to_owned));
    let parts = parts.filter(|part| part.len() > 15 || part.starts_with("md5"));
    let plain: Vec<String> = passwords.into_iter().chain(parts).filter(|part| part != "SCRAM-SHA-256").collect();
    let bytes = plain.iter().map(|text| format!("{:?}", text.as_bytes()).trim_matches(['[', ']']).to_owned());
    plain.iter().cloned().chain(bytes.collect::<Vec<_>>()).collect()
}
