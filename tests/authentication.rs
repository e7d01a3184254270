//! Who is let in, by which method and with which secret; and what the proxy then logs in to servers with.
//!
//! One cluster takes md5 and SCRAM alike, each from who has it stored. Databases of several names lead to one on the servers, so that
//! a line of the HBA file can choose the method by the name.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster::{Authentication, Cluster};
use tokio_postgres::error::SqlState;
use wire::backend::tag;
use wire::{frontend, startup};

use crate::harness::{Client, Proxy, Setup, Stage, program, run, until};
use crate::raw::{Raw, sqlstate, tags};

/// How a login ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With an answer to a query.
    In,
    /// With the message that a wrong password gets.
    Denied,
    /// With a message about the server, which the proxy cannot log in to with what it knows.
    NoServer,
}

use End::{Denied, In, NoServer};

const METHODS: [&str; 4] = ["trust", "scram-sha-256", "md5", "password"];

/// What the server stores and what the user list has, and how a client with the right password fares by each of [`METHODS`].
const MATRIX: [(&str, &str, [End; 4]); 6] = [
    ("scram-sha-256", "plain", [In, In, In, In]),
    ("md5", "plain", [In, In, In, In]),
    // A hash is good for md5 only, in front and behind.
    ("scram-sha-256", "md5", [NoServer, Denied, NoServer, NoServer]),
    ("md5", "md5", [In, Denied, In, In]),
    // With a verifier, somebody has to have proved himself first; and the server must have the same.
    ("scram-sha-256", "scram", [NoServer, In, In, In]),
    ("md5", "scram", [NoServer, NoServer, NoServer, NoServer]),
];

#[tokio::test]
async fn methods_secrets_and_servers() {
    let scene = Scene::start("").await;
    let mut list = String::new();
    for (stored, listed, _) in MATRIX {
        let user = format!("{listed}_{stored}");
        let secret = scene.role(&user, "wonderland", stored).await;
        let listed = match listed {
            "plain" => "wonderland".to_owned(),
            // PostgreSQL computes the other form for us.
            "md5" | "scram" if secret.to_ascii_lowercase().starts_with(listed) => secret,
            other => {
                let form = if other == "md5" { "md5" } else { "scram-sha-256" };
                let other = scene.role(&user, "wonderland", form).await;
                scene.role(&user, "wonderland", stored).await;
                other
            }
        };
        list += &format!("\"{user}\" \"{listed}\"\n");
    }
    let stage = scene.open(&list, no_delay()).await;
    for (stored, listed, expected) in MATRIX {
        let user = format!("{listed}_{stored}");
        for (method, expected) in METHODS.into_iter().zip(expected) {
            let right = end(&stage, method, &user, "wonderland").await;
            assert_eq!(right, expected, "{user} by {method}\n{}", stage.proxy.log());
            if method != "trust" {
                assert_eq!(
                    end(&stage, method, &user, "Wonderland").await,
                    Denied,
                    "{user} by {method}, wrong password"
                );
                assert_eq!(end(&stage, method, &user, "").await, Denied, "{user} by {method}, empty password");
            }
        }
    }
    let log = stage.proxy.log();
    assert!(!log.contains("onderland") && !log.contains("SCRAM-SHA-256$") && !log.contains("hakem\""), "{log}");
}

/// An unknown user cannot be told from a wrong password: neither by what is asked, nor by what is said.
#[tokio::test]
async fn nobody_and_the_wrong_password() {
    let scene = Scene::start("").await;
    let secret = auth::Verifier::from_password(b"wonderland", &[7; auth::SALT_BYTES], 5000).to_string();
    // Most users have verifiers: so who has no secret at all seems to have one, too.
    let list = format!("\"alice\" \"{secret}\"\n\"bob\" \"{secret}\"\n\"nopassword\" \"\"\n");
    let setup = no_delay().with("auth", "mock_secret", "\"0123456789abcdef0123456789abcdef\"");
    let again = scene.setup(setup.clone());
    let stage = scene.open(&list, setup).await;
    // What is shown of a user does not change with a restart.
    let again = again.proxy(&stage.cluster).await.unwrap();
    for user in ["alice", "nobody"] {
        let [before, after] = [challenge(&stage.proxy, user).await, challenge(&again, user).await];
        assert!(before == after && before.ends_with(",i=5000"), "{user}: {before} {after}");
        assert_ne!(challenge(&again, "somebody").await, before);
    }
    for method in ["scram-sha-256", "md5", "password"] {
        let mut answers = Vec::new();
        for user in ["alice", "nobody", "nopassword"] {
            let outcome = connect(&stage, method, user, "wrong").await;
            let error = outcome.err().unwrap_or_else(|| panic!("{user} is in"));
            let error = error.as_db_error().unwrap_or_else(|| panic!("{error:?}")).clone();
            let mut raw = Raw::open(&stage.proxy).await;
            let mut packet = Vec::new();
            startup::put_session(&mut packet, [("user", user), ("database", method)]);
            raw.say(&packet).await;
            let asked = raw.hear().await.unwrap();
            assert_eq!(asked.tag, tag::AUTHENTICATION);
            // The salt of md5 differs each time.
            let asked = if asked.body.starts_with(&[0, 0, 0, 5]) { vec![5] } else { asked.body };
            let text = error.message().replace(user, "USER");
            assert_eq!(text, "password authentication failed for user \"USER\"");
            answers.push((
                asked,
                text,
                error.code().clone(),
                error.severity().to_owned(),
                error.detail().map(str::to_owned),
                error.hint().map(str::to_owned),
            ));
        }
        assert_eq!(answers[0].2, SqlState::INVALID_PASSWORD);
        assert!(answers.iter().all(|answer| *answer == answers[0]), "{method}: {answers:?}");
    }
}

/// With only the verifier stored, a client's own proof logs in to servers, again and again; until the password is another.
#[tokio::test]
async fn scram_is_passed_through() {
    let scene = Scene::start("").await;
    let secret = scene.role("alice", "wonderland", "scram-sha-256").await;
    let stage = scene.open(&format!("\"alice\" \"{secret}\"\n"), Setup::default()).await;
    let early = connect(&stage, "scram-sha-256", "alice", "wonderland").await.unwrap();
    assert_eq!(early.value("select current_user").await.unwrap(), "alice");
    // Another database of hers, another client: what is known of a user is known for all of them.
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'alice'";
    for _ in 0..3 {
        assert_ne!(stage.direct(0, kill).await, "0");
        gone(&stage).await;
        assert_eq!(early.value("select current_user").await.unwrap(), "alice");
    }

    // Another verifier on the server: what was learnt fits no more, and that is what is said.
    let secret = role(&stage.cluster, "alice", "looking glass", "scram-sha-256").await;
    stage.direct(0, kill).await;
    gone(&stage).await;
    let error = early.value("select 1").await.unwrap_err();
    assert!(error.to_string().contains("db error"), "{error}");
    let text = error.as_db_error().unwrap().message().to_owned();
    assert!(text.contains("not the one that the client was checked against"), "{text}");
    std::fs::write(list_path(&stage.cluster), format!("\"alice\" \"{secret}\"\n")).unwrap();
    stage.proxy.signal("HUP");
    until("the new password to be good", async || {
        connect(&stage, "scram-sha-256", "alice", "looking glass").await.is_ok()
    })
    .await
    .unwrap();
    assert_eq!(end(&stage, "scram-sha-256", "alice", "wonderland").await, Denied);
    // The new client has shown the new keys, which serve the old one as well.
    assert_eq!(early.value("select current_user").await.unwrap(), "alice");
}

#[tokio::test]
async fn secrets_are_asked_of_the_primary() {
    let scene = Scene::start("").await;
    let cluster = &scene.cluster;
    scene.role("dora", "explorer", "scram-sha-256").await;
    scene.role("mark", "explorer", "md5").await;
    scene.role("expired", "explorer", "scram-sha-256").await;
    scene.role("nologin", "explorer", "scram-sha-256").await;
    scene.role("asker", "question", "scram-sha-256").await;
    for sql in [
        "alter role expired valid until '2000-01-01'",
        "alter role nologin nologin",
        "create role nopassword login",
        "grant pg_read_all_data to asker",
        "grant select on pg_authid to asker",
        // Things that a hostile search_path would find in place of the catalog's (CVE-2025-12819).
        "create schema evil",
        "create table evil.pg_authid as select 'ghost'::name as rolname, rolpassword, true as rolcanlogin,
            null::timestamptz as rolvaliduntil from pg_catalog.pg_authid where rolname = 'dora'",
        "create function evil.never(timestamptz, timestamptz) returns bool language sql as 'select false'",
        "create operator evil.< (leftarg = timestamptz, rightarg = timestamptz, function = evil.never)",
        "grant usage on schema evil to public",
        "grant select on evil.pg_authid to public",
        "alter role asker set search_path = evil, pg_catalog",
    ] {
        cluster.sql(0, sql).await.unwrap();
    }
    let setup = no_delay().with("auth", "auth_user", "\"asker\"").with("auth", "auth_password", "\"question\"");
    let stage = scene.open("", setup).await;
    for method in ["scram-sha-256", "md5", "password"] {
        assert_eq!(end(&stage, method, "dora", "explorer").await, In, "{method}\n{}", stage.proxy.log());
        for user in ["expired", "nologin", "nopassword", "nobody", "ghost"] {
            assert_eq!(end(&stage, method, user, "explorer").await, Denied, "{method} {user}");
        }
        // Nobody gets in as the one who asks without his password (CVE-2015-6817).
        for password in ["explorer", ""] {
            assert_eq!(end(&stage, method, "asker", password).await, Denied, "{method}");
        }
    }
    assert_eq!(end(&stage, "md5", "mark", "explorer").await, In);
    assert_eq!(end(&stage, "scram-sha-256", "asker", "question").await, In);

    // Nothing that a client says at its start reaches the connection that asks.
    let outcome = stage.proxy.connect_with(|config| {
        config.user("ghost").password("explorer").dbname("md5").options("-c search_path=evil,pg_catalog");
    });
    assert_eq!(outcome.await.err().unwrap().code(), Some(&SqlState::INVALID_PASSWORD));

    // A password that changes is noticed, and so is one that expires.
    role(&stage.cluster, "dora", "backpack", "scram-sha-256").await;
    until("the new password to be good", async || end(&stage, "scram-sha-256", "dora", "backpack").await == In)
        .await
        .unwrap();
    assert_eq!(end(&stage, "scram-sha-256", "dora", "explorer").await, Denied);
    stage.direct(0, "alter role dora valid until '2000-01-01'").await;
    until("the password to expire", async || end(&stage, "scram-sha-256", "dora", "backpack").await == Denied)
        .await
        .unwrap();
}

/// When nobody can be asked, nobody is told apart either, and those in the list get in.
#[tokio::test]
async fn an_auth_query_that_fails() {
    let scene = Scene::start("").await;
    scene.role("alice", "wonderland", "scram-sha-256").await;
    scene.role("asker", "question", "scram-sha-256").await;
    // May not read pg_authid.
    let setup = no_delay().with("auth", "auth_user", "\"asker\"").with("auth", "auth_password", "\"question\"");
    let stage = scene.open("\"alice\" \"wonderland\"\n", setup).await;
    assert_eq!(end(&stage, "md5", "alice", "wonderland").await, In);
    for user in ["bob", "nobody"] {
        let error = connect(&stage, "scram-sha-256", user, "x").await.err().unwrap();
        assert_eq!(error.code(), Some(&SqlState::CANNOT_CONNECT_NOW), "{error:?}");
        let text = error.as_db_error().unwrap().message().to_owned();
        assert_eq!(text, "the user cannot be looked up at the moment");
    }
    until("the reason to be logged", async || stage.proxy.log().contains("permission denied for table pg_authid"))
        .await
        .unwrap();
}

/// A query of the operator's own, and answers about somebody else than was asked for.
#[tokio::test]
async fn an_auth_query_of_ones_own() {
    let scene = Scene::start("").await;
    let secret = scene.role("alice", "wonderland", "scram-sha-256").await;
    scene.role("asker", "question", "scram-sha-256").await;
    scene.cluster.sql(0, "create table logins (name text, secret text)").await.unwrap();
    scene.cluster.sql(0, "grant select on logins to asker").await.unwrap();
    scene
        .cluster
        .sql(0, &format!("insert into logins values ('alice', '{secret}'), ('broken', 'SCRAM-SHA-256$x')"))
        .await
        .unwrap();
    let noting = "create table asked (name text);
        create function secret_of(who text) returns setof logins language sql security definer as $$
          insert into asked values (who); select * from logins where name = who or who = 'anybody' $$";
    scene.cluster.sql(0, noting).await.unwrap();
    let setup = no_delay()
        .with("auth", "auth_user", "\"asker\"")
        .with("auth", "auth_password", "\"question\"")
        .with("auth", "auth_query_cache", "\"0s\"")
        .with("auth", "auth_query", "\"SELECT name, secret FROM secret_of($1)\"");
    let stage = scene.open("\"carol\" \"a list\"\n", setup).await;
    // It takes the same time who is in the list and who is nowhere.
    for user in ["carol", "nobody"] {
        assert_eq!(end(&stage, "scram-sha-256", user, "wonderland").await, Denied);
        let asked = format!("select count(*) from asked where name = '{user}'");
        assert_eq!(stage.direct(0, &asked).await, "1", "{user}");
    }
    assert_eq!(end(&stage, "scram-sha-256", "alice", "wonderland").await, In);
    assert_eq!(end(&stage, "scram-sha-256", "nobody", "wonderland").await, Denied);
    for user in ["anybody", "broken"] {
        let error = connect(&stage, "scram-sha-256", user, "wonderland").await.err().unwrap();
        assert_eq!(error.code(), Some(&SqlState::CANNOT_CONNECT_NOW), "{user}: {error:?}");
    }
}

/// A name that a server would cut off is another name (CVE-2012-4575), and what comes before the proof is no request.
#[tokio::test]
async fn names_that_are_too_long_and_words_that_are_too_early() {
    let scene = Scene::start("").await;
    let longest = "u".repeat(63);
    scene.role(&longest, "wonderland", "scram-sha-256").await;
    let stage = scene.open("", no_delay().with("auth", "auth_user", "\"postgres\"")).await;
    for method in ["scram-sha-256", "md5", "password"] {
        assert_eq!(end(&stage, method, &longest, "wonderland").await, In, "{method}\n{}", stage.proxy.log());
        assert_eq!(end(&stage, method, &format!("{longest}u"), "wonderland").await, Denied, "{method}");
    }
    assert!(connect(&stage, "trust", &format!("{longest}u"), "").await.is_err());
    let error = connect(&stage, &"d".repeat(64), "postgres", "hakem").await.err().unwrap();
    assert_eq!(error.code(), Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION), "{error:?}");

    for method in ["scram-sha-256", "md5", "password"] {
        let mut raw = Raw::open(&stage.proxy).await;
        let mut words = Vec::new();
        startup::put_session(&mut words, [("user", longest.as_str()), ("database", method)]);
        frontend::put_query(&mut words, "select 'too early'");
        raw.say(&words).await;
        let mut heard = Vec::new();
        while let Some(message) = raw.hear().await {
            heard.push(message);
        }
        assert_eq!(tags(&heard), "RE", "{heard:?}");
        assert_eq!(sqlstate(&heard).as_deref(), Some("08P01"));
    }
}

/// The first line that fits decides, and the messages are PostgreSQL's.
#[tokio::test]
async fn the_first_line_decides() {
    let lines = "host app alice 127.0.0.0/8 trust
host app alice all reject
host app bob 10.0.0.0/8 trust
hostssl app carol all trust
local all all trust
host app dave 127.0.0.1/32 reject
host app frank,@guests all trust
host replication all all reject
host app erin all cert-is-no-method-here\n"
        .replace("host app erin all cert-is-no-method-here\n", "hostssl app erin all cert\n");
    let scene = Scene::start(&lines).await;
    for user in ["alice", "grace", "heidi h", "ivan"] {
        scene.role(user, "wonderland", "scram-sha-256").await;
    }
    std::fs::write(scene.cluster.directory().join("guests"), "# those who may\ngrace, \"heidi h\"\n@more\n").unwrap();
    std::fs::write(scene.cluster.directory().join("more"), "ivan").unwrap();
    let list =
        "\"alice\" \"wonderland\"\n\"grace\" \"wonderland\"\n\"heidi h\" \"wonderland\"\n\"ivan\" \"wonderland\"\n";
    let stage = scene.open(list, no_delay().and("[databases.app]\ndbname = \"postgres\"\n")).await;
    for user in ["alice", "grace", "heidi h", "ivan"] {
        assert_eq!(end(&stage, "app", user, "not asked for").await, In, "{user}");
    }
    // The word is of replication that names no database, and of no database of that name.
    for (replication, database, expected) in
        [("true", "app", true), ("database", "app", false), ("false", "app", false)]
    {
        let mut raw = Raw::open(&stage.proxy).await;
        let mut packet = Vec::new();
        startup::put_session(&mut packet, [("user", "alice"), ("database", database), ("replication", replication)]);
        raw.say(&packet).await;
        let heard = raw.hear().await.unwrap();
        let text = wire::backend::Report::new(&heard.body).message();
        assert_eq!(heard.tag == tag::ERROR_RESPONSE, expected, "{replication}: {text}");
        let refused =
            "pg_hba.conf rejects replication connection for host \"127.0.0.1\", user \"alice\", no encryption";
        assert!(!expected || text == refused, "{text}");
    }
    for user in ["bob", "carol", "erin", "nobody"] {
        let error = connect(&stage, "app", user, "x").await.err().unwrap();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code(), &SqlState::INVALID_AUTHORIZATION_SPECIFICATION);
        let expected =
            format!("no pg_hba.conf entry for host \"127.0.0.1\", user \"{user}\", database \"app\", no encryption");
        assert_eq!(error.message(), expected);
    }
    let error = connect(&stage, "app", "dave", "x").await.err().unwrap();
    assert_eq!(
        error.as_db_error().unwrap().message(),
        "pg_hba.conf rejects connection for host \"127.0.0.1\", user \"dave\", database \"app\", no encryption"
    );
}

/// Failed logins are counted, logged with address and user but without secrets, and answered the later the more there are; who knows
/// the password is let in at once.
#[tokio::test]
async fn failures_are_counted_logged_and_slowed_down() {
    let setup = Setup::replicas(0).with("auth", "failed_login_delay", "\"400ms\"");
    let stage = setup.with("auth", "failed_login_delay_max", "\"800ms\"").start().await.unwrap();
    let fail = async |user: &str| {
        let asked = Instant::now();
        let outcome = stage.proxy.connect_with(|config| {
            config.user(user).password("hunter2");
        });
        assert_eq!(outcome.await.err().unwrap().code(), Some(&SqlState::INVALID_PASSWORD));
        asked.elapsed()
    };
    for (user, at_least) in [("postgres", 400), ("mallory", 800), ("postgres", 800)] {
        let taken = fail(user).await;
        assert!(taken >= Duration::from_millis(at_least), "{user}: {taken:?}");
    }
    assert_eq!(stage.proxy.metric("hakem_authentication_failures_total", &[]).await, 3.0);
    assert_eq!(stage.proxy.metric("hakem_logins_total", &[("outcome", "failure")]).await, 3.0);
    until("the failures to be logged", async || stage.proxy.log().matches("authentication failed").count() >= 3)
        .await
        .unwrap();
    let log = stage.proxy.log();
    for user in ["postgres", "mallory"] {
        let line =
            |line: &&str| line.contains("authentication failed") && line.contains(user) && line.contains("127.0.0.1:");
        assert!(log.lines().any(|text| line(&text)), "{log}");
    }
    assert!(!log.contains("hunter2"), "{log}");
    // While answers are held back, others are not.
    let (slow, quick) = tokio::join!(fail("postgres"), async {
        stage.connect().await.value("select 1").await.unwrap();
        Instant::now()
    });
    assert!(slow >= Duration::from_millis(800));
    let _ = quick;
}

/// Whoever hangs up rather than wait for the answer to a wrong password, and comes again, has to wait then; nobody else has to.
#[tokio::test]
async fn who_does_not_wait_for_the_answer_waits_the_next_time() {
    let delay = Duration::from_secs(2);
    let setup = Setup::replicas(0).with("auth", "failed_login_delay", "\"2s\"").with("auth", "method", "\"password\"");
    let stage = setup.start().await.unwrap();
    let asked_at = async |raw: &mut Raw| {
        raw.knock("postgres", "postgres").await;
        assert_eq!(raw.hear().await.unwrap().tag, tag::AUTHENTICATION);
        Instant::now()
    };
    let mut hasty = Raw::open(&stage.proxy).await;
    let began = asked_at(&mut hasty).await;
    let mut wrong = Vec::new();
    frontend::put_password_message(&mut wrong, b"hunter2\0");
    hasty.say(&wrong).await;
    let failures = async || stage.proxy.metric("hakem_authentication_failures_total", &[]).await;
    until("the password to be wrong", async || failures().await == 1.0).await.unwrap();
    drop(hasty);
    until("it to have gone", async || stage.proxy.metric("hakem_logins_open", &[]).await == 0.0).await.unwrap();
    let (mut next, mut other) = (Raw::open(&stage.proxy).await, Raw::from(&stage.proxy, [127, 0, 0, 2]).await);
    let (next, other) = tokio::join!(asked_at(&mut next), asked_at(&mut other));
    assert!(next >= began + delay, "{:?}", next - began);
    assert!(other < next, "{:?} {:?}", other - began, next - began);
    assert_eq!(stage.connect().await.value("select 1").await.unwrap(), "1");
}

/// The files are read again on reload; one that is broken leaves everything as it was.
#[tokio::test]
async fn files_are_read_again() {
    let scene = Scene::start("").await;
    scene.role("alice", "wonderland", "scram-sha-256").await;
    scene.role("bob", "builder", "scram-sha-256").await;
    let stage = scene.open("\"alice\" \"wonderland\"\n", no_delay()).await;
    assert_eq!(end(&stage, "scram-sha-256", "bob", "builder").await, Denied);
    let path = list_path(&stage.cluster);
    std::fs::write(&path, "\"bob\" \"builder\"\nbroken\n").unwrap();
    stage.proxy.signal("HUP");
    until("the fault to be reported", async || stage.proxy.log().contains("users.txt:2: broken line")).await.unwrap();
    assert_eq!(end(&stage, "scram-sha-256", "alice", "wonderland").await, In);
    assert_eq!(end(&stage, "scram-sha-256", "bob", "builder").await, Denied);
    // A password that changes is used for who is there already, too.
    let early = connect(&stage, "md5", "alice", "wonderland").await.unwrap();
    role(&stage.cluster, "alice", "looking glass", "scram-sha-256").await;
    std::fs::write(&path, "\"bob\" \"builder\"\n\"alice\" \"looking glass\"\n").unwrap();
    stage.proxy.signal("HUP");
    until("the new password to be good", async || end(&stage, "md5", "alice", "looking glass").await == In)
        .await
        .unwrap();
    stage.direct(0, "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'alice'").await;
    gone(&stage).await;
    assert_eq!(early.value("select current_user").await.unwrap(), "alice");

    std::fs::write(&path, "\"bob\" \"builder\"\n").unwrap();
    stage.proxy.signal("HUP");
    until("bob to be let in", async || end(&stage, "scram-sha-256", "bob", "builder").await == In).await.unwrap();
    until("alice to be refused", async || end(&stage, "md5", "alice", "looking glass").await == Denied).await.unwrap();
}

/// `hakem check` shows all that is wrong with the files, by file and line; and the program does not start with them.
#[tokio::test]
async fn faults_in_files_are_shown() {
    let scene = Scene::start(
        "host all all all nonsense\nhost all all all cert\nhost all +staff all md5\nhost all @nowhere all md5\n",
    )
    .await;
    std::fs::write(list_path(&scene.cluster), "\"alice\" \"SCRAM-SHA-256$hunter2\"\nnobody\n").unwrap();
    let path = scene.setup(Setup::default()).write(&scene.cluster).unwrap();
    for command in ["check", "run"] {
        let output = run(program(command, &path).into(), "").await;
        assert!(!output.status.success());
        for expected in [
            "users.txt:1: broken verifier",
            "users.txt:2: broken line",
            "hba.conf:1: invalid authentication method \"nonsense\"",
            "hba.conf:2: cert authentication is only supported on hostssl connections",
            // Whom a server counts among a role, the proxy does not know: a line that might mean nobody, or all, is refused.
            "hba.conf:3: \"+role\" is not supported",
            "hba.conf:4: cannot read \"@nowhere\"",
        ] {
            assert!(output.stderr.contains(expected), "{command}: {expected}: {}", output.stderr);
        }
        assert!(!output.stderr.contains("hunter2"), "{}", output.stderr);
    }
}

/// Two clusters may have different users of one name: what one's login shows is nothing to the other.
#[tokio::test]
async fn users_of_one_name_in_two_clusters() {
    let scene = Scene::start("host other all all scram-sha-256\n").await;
    let elsewhere = Scene::start("").await;
    scene.role("alice", "wonderland", "scram-sha-256").await;
    elsewhere.role("alice", "looking glass", "scram-sha-256").await;
    let port = elsewhere.cluster.nodes()[0].port();
    let cluster::Options { user, password, .. } = elsewhere.cluster.options().clone();
    let sections = format!(
        "[clusters.other]\nservers = [\"127.0.0.1:{port}\"]\nprobe_user = \"{user}\"\nprobe_password = \"{password}\"\n\
         [databases.other]\ncluster = \"other\"\ndbname = \"postgres\""
    );
    let stage = scene.open("", no_delay().with("auth", "auth_user", "\"postgres\"").and(&sections)).await;
    let early = connect(&stage, "scram-sha-256", "alice", "wonderland").await.unwrap();
    assert_eq!(end(&stage, "other", "alice", "looking glass").await, In, "{}", stage.proxy.log());
    stage.direct(0, "select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'alice'").await;
    gone(&stage).await;
    assert_eq!(early.value("select current_user").await.unwrap(), "alice");
}

/// A cluster whose roles are made before the proxy is started.
struct Scene {
    cluster: Cluster,
}

impl Scene {
    /// `lines` stand in front of those that choose the method by the database.
    async fn start(lines: &str) -> Scene {
        let options =
            cluster::Options { replicas: 0, authentication: Authentication::Md5, ..cluster::Options::default() };
        let cluster = Cluster::start(options).await.unwrap();
        let mut hba = lines.to_owned();
        for method in METHODS {
            hba += &format!("host {method} all all {method}\n");
        }
        hba += "host postgres all all scram-sha-256\n";
        std::fs::write(cluster.directory().join("hba.conf"), hba).unwrap();
        Scene { cluster }
    }

    /// Makes a role, or changes its password; returns what the server stores.
    async fn role(&self, user: &str, password: &str, form: &str) -> String {
        role(&self.cluster, user, password, form).await
    }

    /// The configuration of a proxy that reads the scene's files.
    fn setup(&self, setup: Setup) -> Setup {
        let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
        let mut setup = setup
            .with("auth", "method", "\"hba\"")
            .with("auth", "auth_hba_file", &quoted(self.cluster.directory().join("hba.conf")))
            .with("auth", "auth_file", &quoted(list_path(&self.cluster)));
        for method in METHODS {
            setup = setup.and(&format!("[databases.{method}]\ncluster = \"local\"\ndbname = \"postgres\""));
        }
        setup.cluster = self.cluster.options().clone();
        setup
    }

    /// Starts the proxy with this list of users.
    async fn open(self, list: &str, setup: Setup) -> Stage {
        std::fs::write(list_path(&self.cluster), list).unwrap();
        let proxy = self.setup(setup).proxy(&self.cluster).await.unwrap();
        let stage = Stage { proxy, cluster: self.cluster };
        stage.ready().await.unwrap();
        stage
    }
}

async fn role(cluster: &Cluster, user: &str, password: &str, form: &str) -> String {
    let exists = cluster.sql(0, &format!("select count(*) from pg_roles where rolname = '{user}'")).await.unwrap();
    let verb = if exists == "0" { "create" } else { "alter" };
    cluster
        .sql(0, &format!("set password_encryption = '{form}'; {verb} role \"{user}\" login password '{password}'"))
        .await
        .unwrap();
    cluster.sql(0, &format!("select rolpassword from pg_authid where rolname = '{user}'")).await.unwrap()
}

fn list_path(cluster: &Cluster) -> PathBuf {
    cluster.directory().join("users.txt")
}

/// The salt and the iterations of a user, as any stranger is told.
async fn challenge(proxy: &Proxy, user: &str) -> String {
    let mut raw = Raw::open(proxy).await;
    raw.knock(user, "scram-sha-256").await;
    assert_eq!(raw.hear().await.unwrap().tag, tag::AUTHENTICATION);
    let mut words = Vec::new();
    frontend::put_password_message(&mut words, b"SCRAM-SHA-256\0\0\0\0\x0dn,,n=,r=nonce");
    raw.say(&words).await;
    let answer = String::from_utf8(raw.hear().await.unwrap().body.split_off(4)).unwrap();
    answer.split_once(",s=").unwrap_or_else(|| panic!("{answer}")).1.to_owned()
}

/// Attempts that fail on purpose need not take long.
fn no_delay() -> Setup {
    Setup::default().with("auth", "failed_login_delay", "\"0s\"")
}

async fn connect(stage: &Stage, database: &str, user: &str, password: &str) -> Result<Client, tokio_postgres::Error> {
    stage
        .proxy
        .connect_with(|config| {
            config.user(user).password(password).dbname(database);
        })
        .await
}

async fn end(stage: &Stage, database: &str, user: &str, password: &str) -> End {
    let error = match connect(stage, database, user, password).await {
        Ok(client) => match client.value("select current_user").await {
            Ok(name) => {
                assert_eq!(name, user);
                return In;
            }
            Err(error) => error,
        },
        Err(error) => error,
    };
    let error = error.as_db_error().unwrap_or_else(|| panic!("{user} by {database}: {error:?}"));
    match error.code() {
        code if *code == SqlState::INVALID_PASSWORD => {
            assert_eq!(error.message(), format!("password authentication failed for user \"{user}\""));
            Denied
        }
        code => {
            let about_server = error.message().contains("the server");
            assert!(about_server && code.code().starts_with("08"), "{user} by {database}: {error:?}");
            NoServer
        }
    }
}

/// Waits until the server has none of alice's backends.
async fn gone(stage: &Stage) {
    let count = "select count(*) from pg_stat_activity where usename = 'alice'";
    until("the backends to end", async || stage.direct(0, count).await == "0").await.unwrap();
}
