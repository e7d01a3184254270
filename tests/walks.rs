//! Random walks over everything that a session can set, through the program and beside it on a connection of their own: every answer,
//! every parameter that the client was told, and `SHOW ALL` must be the same.
//!
//! Eight clients share two connections per server. Each has a twin that is connected to the primary itself and does the same. What
//! the comparison leaves out stands in `comparable`, with its reason.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use wire::backend::{self, Report, tag};
use wire::frontend;

use crate::harness::{Setup, Stage};
use crate::raw::{Message, Raw};

#[tokio::test]
async fn on_a_primary_alone() {
    let stage = stage(Setup::replicas(0)).await;
    walk_all(&stage, 1).await;
}

#[tokio::test]
async fn with_reads_split() {
    let stage = stage(Setup::replicas(1)).await;
    walk_all(&stage, 2).await;
    assert!(stage.proxy.metric("hakem_statements_total", &[("to", "replica")]).await > 0.0, "nothing was split");
}

async fn stage(mut setup: Setup) -> Stage {
    setup.cluster.authentication = cluster::Authentication::Trust;
    let setup = setup.with("auth", "method", "\"trust\"").with("pool", "size", "2").server("log_statement", "none");
    let stage = setup.start().await.unwrap();
    let roles = "create role r1; create role r2; grant r1 to r2; create schema a; create schema \"C d\"";
    stage.direct(0, roles).await;
    // What RESET goes back to where the startup packet says nothing.
    stage.direct(0, "alter role postgres set work_mem = '3MB'").await;
    // Not DateStyle: a startup packet that names half of it gets the other half from before the database's own value.
    stage.direct(0, "alter database postgres set intervalstyle = 'sql_standard'").await;
    stage.direct(0, "alter role postgres in database postgres set my.setting = 'by the role'").await;
    // Connections that the program has from before know nothing of it.
    stage.direct(0, "select pg_terminate_backend(pid) from pg_stat_activity where pid <> pg_backend_pid() and backend_type = 'client backend'").await;
    stage.ready().await.unwrap();
    stage
}

/// As many walks as `HAKEM_WALKS` says, dealt to the clients as they come.
async fn walk_all(stage: &Stage, seed: u64) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let walks = number("HAKEM_WALKS").unwrap_or(WALKS);
    let seed = number("HAKEM_SEED").unwrap_or(seed as usize) as u64;
    let node = &stage.cluster.nodes()[stage.cluster.primary()];
    let primary: SocketAddr = format!("{}:{}", node.host(), node.port()).parse().unwrap();
    let (next, proxy, splits) = (Arc::new(AtomicUsize::new(0)), stage.proxy.address, stage.cluster.nodes().len() > 1);
    let all = Rc::new(RefCell::new(Vec::new()));
    let client = |number: usize| {
        let (next, all) = (next.clone(), all.clone());
        async move {
            let mut random = Random(seed.wrapping_mul(1000).wrapping_add(number as u64));
            let mut twins: Option<Twins> = None;
            while next.fetch_add(1, Ordering::Relaxed) < walks {
                if random.one_in(4) {
                    twins = None;
                }
                let mut pair = match twins.take() {
                    Some(pair) => pair,
                    None => Twins::connect(proxy, primary, splits, &mut random, (all.clone(), number)).await,
                };
                twins = pair.walk(&mut random).await.then_some(pair);
            }
        }
    };
    join_all((0..CLIENTS).map(client)).await;
    eprintln!("{walks} walks, seed {seed}");
}

/// A client of the program and one of the primary itself.
struct Twins {
    through: Raw,
    direct: Raw,
    /// What each was told of the server's parameters.
    told: [BTreeMap<String, String>; 2],
    history: String,
    /// What all clients have done, in its order, with their numbers.
    all: Rc<RefCell<Vec<String>>>,
    number: usize,
    primary: SocketAddr,
    /// There was something in the startup packet.
    has_startup: bool,
    /// Reads go to a replica.
    splits: bool,
    /// For an answer.
    waits: bool,
}

impl Twins {
    async fn connect(
        proxy: SocketAddr,
        primary: SocketAddr,
        splits: bool,
        random: &mut Random,
        (all, number): (Rc<RefCell<Vec<String>>>, usize),
    ) -> Twins {
        let mut startup: Vec<(&str, &str)> = Vec::new();
        for choices in STARTUP {
            if random.one_in(4) {
                startup.push(*random.of(choices));
            }
        }
        let packet = || [("user", "postgres"), ("database", "postgres")].into_iter().chain(startup.iter().copied());
        let (through, told_through) = Raw::start(proxy, packet()).await;
        let (direct, told_direct) = Raw::start(primary, packet()).await;
        let mut twins = Twins {
            through,
            direct,
            told: Default::default(),
            history: format!("{startup:?}\n"),
            all,
            number,
            primary,
            has_startup: !startup.is_empty(),
            splits,
            waits: false,
        };
        twins.compare(&told_through, &told_direct);
        twins
    }

    /// `false` when the two have parted in a way that they may.
    async fn walk(&mut self, random: &mut Random) -> bool {
        let mut steps = 3 + random.below(12);
        while steps > 0 {
            steps -= 1;
            let mut statements: Vec<String> =
                (0..1 + random.below(4) / 3 * (1 + random.below(3))).map(|_| statement(random)).collect();
            // A server knows nothing of the startup packet: its RESET goes further back, and the program sets right what it has reset,
            // but only behind the whole request. What comes after a RESET in the same request sees too much of it.
            let is_reset =
                |sql: &String| ["reset", "default", "discard", "time zone local"].iter().any(|word| sql.contains(word));
            // And what SET LOCAL goes back to is the server's own.
            let is_local_reset = |sql: &String| sql.starts_with("set local") && is_reset(sql);
            // A transaction that has begun on a replica cannot become serializable any more.
            let turns_serializable = |sql: &String| {
                sql.contains("serializable")
                    && sql.contains("transaction")
                    && sql.starts_with("set")
                    && !sql.contains("default_")
            };
            // One that begins behind the end of another in the same request begins where that was.
            let begins = |sql: &String| ["begin", "start"].iter().any(|word| sql.starts_with(word));
            if self.has_startup && statements.iter().any(is_local_reset)
                || self.splits && statements.iter().skip(1).any(begins)
                // A replica has no words for it but its own, in a failed transaction, too.
                || self.splits && statements.iter().any(|sql| sql.starts_with("prepare"))
                || self.splits && statements.iter().any(turns_serializable)
            {
                continue;
            }
            if let Some(at) = statements.iter().position(is_reset).filter(|_| self.has_startup) {
                statements.truncate(at + 1);
            }
            let extended = random.one_in(2);
            if !self.step(&statements, extended).await {
                return false;
            }
        }
        self.step(&[random.of(&["commit", "rollback", "abort", "end"]).to_string()], false).await;
        for look in LOOKS {
            self.step(&[(*look).to_owned()], false).await;
        }
        true
    }

    /// The same on both: one string or one batch. `false` when the program asks for the transaction to be run again.
    async fn step(&mut self, statements: &[String], extended: bool) -> bool {
        let mut bytes = Vec::new();
        if extended {
            for sql in statements {
                frontend::put_parse(&mut bytes, b"", sql.as_bytes(), &[0, 0]);
                frontend::put_bind(&mut bytes, b"", b"", &[0, 0, 0, 0, 0, 0]);
                bytes.extend_from_slice(b"D\0\0\0\x06P\0E\0\0\0\x09\0\0\0\0\0");
            }
            frontend::put_sync(&mut bytes);
        } else {
            frontend::put_query(&mut bytes, &statements.join("; "));
        }
        let how = if extended { "extended" } else { "simple" };
        let _ = writeln!(self.history, "{how}: {}", statements.join("; "));
        self.all.borrow_mut().push(format!("{}: {how}: {}", self.number, statements.join("; ")));
        self.waits = true;
        // Through the program first: a twin whose transaction has begun would be one that READ ONLY DEFERRABLE ones wait for, on the two
        // connections that its client has yet to get one of.
        self.through.say(&bytes).await;
        let Ok(through) = tokio::time::timeout(ANSWER_MAX, self.through.until_ready()).await else {
            let (mut witness, _) = Raw::start(self.primary, [("user", "postgres")].into_iter()).await;
            let rows = witness.query(WITNESS).await;
            panic!(
                "no answer; the servers: {:#?}\n{}\nall clients, number {} being this one: {:#?}",
                comparable(&rows, &mut BTreeMap::new()),
                self.history,
                self.number,
                last(&self.all.borrow())
            );
        };
        self.direct.say(&bytes).await;
        let direct = self.direct.until_ready().await;
        self.waits = false;
        let error = through.iter().find(|message| message.tag == tag::ERROR_RESPONSE);
        if self.splits && error.is_some_and(|error| Report::new(&error.body).message().starts_with(BOUND)) {
            return false;
        }
        self.compare(&through, &direct);
        true
    }

    fn compare(&mut self, through: &[Message], direct: &[Message]) {
        let [told_through, told_direct] = &mut self.told;
        let (mut through, mut direct) = (comparable(through, told_through), comparable(direct, told_direct));
        if self.splits {
            // A transaction that was begun READ ONLY may be on a replica, and what it is shown there of the node is the replica's.
            for answer in [&mut through, &mut direct] {
                answer.retain(|line| !is_of_the_node(line));
            }
        }
        let shown = |answer: &[String], other: &[String]| -> Vec<String> {
            answer.iter().filter(|line| answer.len() < LINES_SHOWN || !other.contains(line)).cloned().collect()
        };
        let told = |told: &BTreeMap<String, String>, other: &BTreeMap<String, String>| {
            format!("{:?}", told.iter().filter(|(name, value)| other.get(*name) != Some(value)).collect::<Vec<_>>())
        };
        assert!(
            through == direct && told_through == told_direct,
            "{}\nall clients, number {} being this one: {:#?}\nthrough the program: {:#?}\ndirectly: {:#?}\ntold through the program: {}\ntold directly: {}",
            self.history,
            self.number,
            last(&self.all.borrow()),
            shown(&through, &direct),
            shown(&direct, &through),
            told(told_through, told_direct),
            told(told_direct, told_through)
        );
    }
}

/// The end of what all clients have done.
fn last(all: &[String]) -> &[String] {
    &all[all.len().saturating_sub(STEPS_SHOWN)..]
}

/// Who waits for an answer when something goes wrong says what it has done.
impl Drop for Twins {
    fn drop(&mut self) {
        if std::thread::panicking() && self.waits {
            eprintln!("number {} was waiting after {}", self.number, self.history);
        }
    }
}

/// Whether a line is SHOW ALL's of a setting that each node has its own value of: its place, its port, what it follows.
fn is_of_the_node(line: &str) -> bool {
    let name = line.strip_prefix("D ").and_then(|row| row.get(6..)?.split('\0').next());
    name.is_some_and(|name| NODES_OWN.contains(&name))
}

/// An answer without what cannot be the same; what it tells of parameters goes into `told`.
fn comparable(messages: &[Message], told: &mut BTreeMap<String, String>) -> Vec<String> {
    let mut answer = Vec::new();
    for message in messages {
        let body = &message.body;
        let shown = match message.tag {
            // When they are told is the server's business; what is known in the end is compared.
            tag::PARAMETER_STATUS => {
                let (name, value) = backend::parameter_status(body).unwrap();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                told.insert(text(name), text(value));
                continue;
            }
            // Each connection has its own.
            tag::BACKEND_KEY_DATA => continue,
            // Not where in the text or in PostgreSQL's source it is.
            tag::ERROR_RESPONSE | tag::NOTICE_RESPONSE => {
                let report = Report::new(body);
                format!(
                    "{} {}",
                    report.sqlstate().map_or_else(String::new, |state| state.as_str().to_owned()),
                    report.message()
                )
            }
            _ => String::from_utf8_lossy(body).into_owned(),
        };
        answer.push(format!("{} {shown}", char::from(message.tag)));
    }
    answer
}

fn statement(random: &mut Random) -> String {
    let (name, values) = *random.of(SETTINGS);
    let value = *random.of(values);
    let word = |random: &mut Random, words: &[&'static str]| *random.of(words);
    match random.below(34) {
        0..=5 => {
            let scope = word(random, &["", "", "session ", "local "]);
            let to = word(random, &[" to ", " = "]);
            format!("set {scope}{name}{to}{value}")
        }
        6 => format!("set local {name} to {value}"),
        7 => format!("reset {name}"),
        8 => format!("set {name} to default"),
        9 => word(random, &["reset all", "reset all", "discard all"]).to_owned(),
        10 | 11 => {
            let text = *random.of(TEXTS);
            // A millisecond is over by chance.
            let text = if name == "statement_timeout" { "'1h'" } else { text };
            let local = word(random, &["true", "false", "'off'", "'t'"]);
            let call = word(random, &["set_config", "pg_catalog.set_config"]);
            format!("select {call}('{name}', {text}, {local})")
        }
        12 => {
            let mode = *random.of(MODES);
            let what = word(random, &["transaction", "session characteristics as transaction"]);
            format!("set {what} {mode}")
        }
        13 | 14 => (*random.of(IDENTITY)).to_owned(),
        15 => (*random.of(SPELLED)).to_owned(),
        16..=19 => {
            let mode = *random.of(MODES);
            let begin = word(random, &["begin", "begin work", "start transaction"]);
            if random.one_in(3) { format!("{begin} {mode}") } else { begin.to_owned() }
        }
        20 | 21 => word(random, &["commit", "end", "commit and chain", "commit work"]).to_owned(),
        22 | 23 => word(random, &["rollback", "abort", "rollback and chain"]).to_owned(),
        24 => format!("savepoint {}", word(random, SAVEPOINTS)),
        25 => format!("release {}{}", word(random, &["", "savepoint "]), word(random, SAVEPOINTS)),
        26 | 27 => format!("rollback to {}{}", word(random, &["", "savepoint "]), word(random, SAVEPOINTS)),
        28 => word(random, &["select 1/0", "selec 1", "select * from nothing", "prepare transaction 'p'"]).to_owned(),
        // Of a custom setting SHOW would tell whether anybody has ever set it on this connection, and how it was first spelt.
        29 if !name.contains('.') => format!("show {name}"),
        29 => "select coalesce(current_setting('my.other', true), '')".to_owned(),
        30 => format!("select coalesce(current_setting('{name}', true), '')"),
        _ => (*random.of(LOOKS)).to_owned(),
    }
}

impl Raw {
    /// A session with this startup packet, and what it was told at the beginning.
    async fn start<'a>(
        address: SocketAddr,
        parameters: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> (Raw, Vec<Message>) {
        let mut raw = Raw::at(address).await;
        let mut packet = Vec::new();
        wire::startup::put_session(&mut packet, parameters);
        raw.say(&packet).await;
        let told = raw.until_ready().await;
        (raw, told)
    }
}

/// SplitMix64: what a walk does follows from its seed.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// Settings and what is assigned to them, right and wrong.
const SETTINGS: &[(&str, &[&str])] = &[
    ("work_mem", &["'7MB'", "8192", "'64kB'", "'many'", "-1"]),
    (
        "search_path",
        &[
            "a",
            "a, b",
            "'a, b'",
            "\"C d\", a",
            "\"a'b\", 'C d', ''",
            "\"$user\", public",
            "''",
            "pg_catalog",
            "A, \"A\"",
        ],
    ),
    ("DateStyle", &["ISO", "'German'", "'SQL, DMY'", "DMY", "MDY", "Postgres", "'ISO, YMD'", "iso, mdy", "'nothing'"]),
    ("intervalstyle", &["postgres", "'iso_8601'", "sql_standard", "bogus"]),
    ("timezone", &["'UTC'", "'Asia/Tehran'", "-3", "3.5", "'No/Where'", "\"Europe/London\"", "'<-03:30>+03:30'"]),
    ("extra_float_digits", &["0", "3", "-15", "4", "'2'"]),
    (
        "application_name",
        &["'a''b'", "''", "'\"C d\"'", "'two words'", "E'tab\\tand \\\\'", "word", "$$dollars ' \\$$"],
    ),
    ("client_encoding", &["'UTF8'", "latin1", "'nothing'", "SQL_ASCII"]),
    ("standard_conforming_strings", &["on", "off", "true"]),
    ("statement_timeout", &["'1h'", "0", "60000", "'10min'", "'long'"]),
    ("bytea_output", &["hex", "'escape'"]),
    ("default_transaction_isolation", &["'serializable'", "'repeatable read'", "'read committed'", "'none'"]),
    ("default_transaction_read_only", &["on", "off"]),
    ("default_transaction_deferrable", &["on", "off"]),
    ("lock_timeout", &["'1h'", "0"]),
    ("enable_seqscan", &["on", "off", "true", "0", "maybe"]),
    ("random_page_cost", &["1.5", "'2e0'", "-1"]),
    ("my.setting", &["'x'", "'a''b'", "''", "\"C d\"", "E'back\\\\slash'", "17", "'a\\b'", "one, 'two'"]),
    ("\"My\".other", &["'x'", "off", "'a;b'"]),
    ("client_min_messages", &["warning", "error", "notice"]),
    ("xmloption", &["document", "content"]),
    ("row_security", &["on", "off"]),
    ("timezone_abbreviations", &["'India'", "'Default'", "'None'"]),
    ("session_replication_role", &["replica", "origin"]),
    ("log_statement", &["'all'", "none"]),
    ("default_text_search_config", &["'pg_catalog.english'", "'pg_catalog.nothing'"]),
    ("nonexistent", &["1"]),
    ("server_version", &["'1'"]),
    ("is_superuser", &["off"]),
    ("transaction_isolation", &["'serializable'", "'read committed'"]),
    ("transaction_read_only", &["on", "off"]),
];

/// Values for set_config. Not NULL, which is a RESET that answers with the value.
const TEXTS: &[&str] = &["'1'", "'on'", "'a, \"C d\"'", "''", "'a''b'", "'8MB'", "'ISO'", "E'\\\\'", "'UTC'"];

const MODES: &[&str] = &[
    "isolation level serializable",
    "isolation level repeatable read",
    "isolation level read committed",
    "read only",
    "read write",
    "deferrable",
    "isolation level serializable, read only, deferrable",
    "read only isolation level repeatable read",
];

const IDENTITY: &[&str] = &[
    "set role r1",
    "set role r2",
    "set role none",
    "set role ghost",
    "set role = 'r1'",
    "set local role r2",
    "set session role r1",
    "reset role",
    "set session authorization r1",
    "set session authorization 'r2'",
    "set session session authorization r2",
    "set session authorization default",
    "set local session authorization r1",
    "reset session authorization",
    "select set_config('role', 'r1', false)",
];

/// Settings with a syntax of their own.
const SPELLED: &[&str] = &[
    "set time zone 'Asia/Tokyo'",
    "set time zone local",
    "set time zone default",
    "set local time zone local",
    "set time zone interval '-07:30' hour to minute",
    "set time zone -7",
    "reset time zone",
    "set names 'latin1'",
    "set names default",
    "set schema 'a'",
    "set xml option document",
    "set local xml option content",
    "set my.setting to default",
];

const SAVEPOINTS: &[&str] = &["s", "t", "\"S t\""];

/// What shows a session's whole state. A custom setting that was never set is NULL on one connection and empty on another where
/// somebody has set and reset it: PostgreSQL has no way to make it unknown again, hence `coalesce`.
const LOOKS: &[&str] = &[
    "show all",
    "select current_user, session_user",
    "select coalesce(current_setting('my.setting', true), ''), coalesce(current_setting('my.other', true), '')",
];

/// What startup packets may hold.
const STARTUP: &[&[(&str, &str)]] = &[
    &[("application_name", "cards"), ("application_name", "it's \"one\"")],
    &[("DateStyle", "ISO"), ("datestyle", "German, DMY")],
    &[("TimeZone", "Asia/Tehran"), ("TimeZone", "UTC")],
    &[("extra_float_digits", "2")],
    // Not the empty list: only a SELECT can set it, and in a transaction that takes a snapshot.
    &[("search_path", "a, \"C d\"")],
    &[("client_encoding", "LATIN1"), ("client_encoding", "UTF8")],
    &[
        ("options", "-c work_mem=5MB -c my.setting=two\\ words --enable-seqscan=off"),
        ("options", "-c default_transaction_isolation=repeatable\\ read -c statement_timeout=2h"),
        ("options", "-c IntervalStyle=iso_8601 -cxmloption=document"),
    ],
];

const CLIENTS: usize = 8;

/// Of a longer answer only what differs is shown.
const LINES_SHOWN: usize = 40;

/// How long an answer may take on a machine that has other things to do. Less than a connection's own limit.
const ANSWER_MAX: Duration = Duration::from_secs(45);

const WITNESS: &str = "select a.pid, a.usename, state, wait_event, xact_start, query, l.locktype, l.mode, l.granted \
    from pg_stat_activity a left join pg_locks l on l.pid = a.pid and not l.granted where backend_type = 'client backend'";

/// What a transaction is told that a replica has begun, and that has to go on at the primary.
const BOUND: &str = "the transaction has begun on a replica";

/// Of what the others have done only the end is shown.
const STEPS_SHOWN: usize = 400;

/// Walks of each test where nobody asks for more.
const WALKS: usize = 150;

const NODES_OWN: &[&str] = &[
    "cluster_name",
    "config_file",
    "data_directory",
    "hba_file",
    "ident_file",
    "in_hot_standby",
    "port",
    "primary_conninfo",
    "primary_slot_name",
];
