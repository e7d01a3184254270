//! Owns what is done through a proxy, and what was seen of it: numbered rows, by autocommit and in transactions, and reads of them.
//! What happens to the cluster meanwhile it does not know.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

/// Where a workload's statements go: one address for all of them, or another one for reads.
#[derive(Clone, Debug)]
pub(crate) struct Doors {
    pub(crate) table: &'static str,
    pub(crate) writes: Config,
    pub(crate) reads: Option<Config>,
}

/// What the workers of one proxy have seen during one run.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// The numbers whose writing was acknowledged, and when.
    pub(crate) acknowledged: Vec<(i64, Instant)>,
    pub(crate) writes: Gap,
    pub(crate) reads: Gap,
    /// By what was done and how it failed.
    pub(crate) errors: BTreeMap<(Kind, String), u64>,
    pub(crate) broken: u64,
    /// Reads that lacked what their own session had written.
    pub(crate) stale: u64,
}

/// The longest time without a success.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Gap {
    last: Instant,
    pub(crate) longest: Duration,
    pub(crate) end: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Connect,
    Autocommit,
    Transaction,
    Read,
}

/// The workers of one proxy.
pub(crate) struct Crew {
    tally: Arc<Mutex<Tally>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// A connection that is made anew when it breaks.
struct Seat {
    config: Config,
    client: Option<Client>,
    tally: Arc<Mutex<Tally>>,
}

impl Gap {
    pub(crate) fn new(now: Instant) -> Gap {
        Gap { last: now, longest: Duration::ZERO, end: now }
    }

    pub(crate) fn success(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.last);
        if since > self.longest {
            (self.longest, self.end) = (since, now);
        }
        self.last = now;
    }

    pub(crate) fn last(&self) -> Instant {
        self.last
    }
}

impl Tally {
    fn new() -> Tally {
        let gap = Gap::new(Instant::now());
        let errors = BTreeMap::new();
        Tally { acknowledged: Vec::new(), writes: gap, reads: gap, errors, broken: 0, stale: 0 }
    }

    pub(crate) fn errors_of(&self, kind: Kind) -> u64 {
        self.errors.iter().filter(|((of, _), _)| *of == kind).map(|(_, count)| count).sum()
    }
}

impl Crew {
    pub(crate) fn start(doors: &Doors, workers: i64, think: Duration) -> Crew {
        let (tally, stop) = (Arc::new(Mutex::new(Tally::new())), Arc::new(AtomicBool::new(false)));
        let one = |worker| tokio::spawn(work(doors.clone(), worker, think, tally.clone(), stop.clone()));
        Crew { tasks: (0..workers).map(one).collect(), tally, stop }
    }

    /// Begins a run.
    pub(crate) fn reset(&self) {
        *lock(&self.tally) = Tally::new();
    }

    pub(crate) fn tally(&self) -> Tally {
        lock(&self.tally).clone()
    }

    pub(crate) fn last_write(&self) -> Instant {
        lock(&self.tally).writes.last()
    }

    pub(crate) async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            // A worker may wait for a server that never answers.
            if tokio::time::timeout(END_WAIT, task).await.is_err() {
                eprintln!("a worker still waits for an answer");
            }
        }
    }
}

impl Seat {
    /// Runs it; the last value of its answer, or the SQLSTATE of its failure, which is noted.
    async fn say(&mut self, kind: Kind, sql: &str) -> Result<Option<String>, String> {
        if self.client.is_none() {
            match self.config.connect(NoTls).await {
                Ok((client, connection)) => {
                    tokio::spawn(connection);
                    self.client = Some(client);
                }
                Err(error) => {
                    let code = self.note(Kind::Connect, &error);
                    tokio::time::sleep(CONNECT_PAUSE).await;
                    return Err(code);
                }
            }
        }
        let Some(client) = &self.client else { return Err(NO_CODE.to_owned()) };
        match client.simple_query(sql).await {
            Ok(messages) => Ok(messages.iter().rev().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
                _ => None,
            })),
            Err(error) => {
                let is_fatal = error.as_db_error().is_none_or(|error| error.severity() != "ERROR");
                let code = self.note(kind, &error);
                if is_fatal {
                    self.client = None;
                    lock(&self.tally).broken += 1;
                }
                Err(code)
            }
        }
    }

    fn note(&self, kind: Kind, error: &tokio_postgres::Error) -> String {
        let code = error.code().map_or(NO_CODE, |code| code.code()).to_owned();
        *lock(&self.tally).errors.entry((kind, code.clone())).or_default() += 1;
        code
    }
}

async fn work(doors: Doors, worker: i64, think: Duration, tally: Arc<Mutex<Tally>>, stop: Arc<AtomicBool>) {
    let seat = |config| Seat { config, client: None, tally: tally.clone() };
    let mut writes = seat(doors.writes.clone());
    let mut reads = doors.reads.clone().map(seat);
    let table = doors.table;
    let (mut number, mut own) = (worker * NUMBERS_EACH, 0);
    let mut turn = worker;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        match turn % 3 {
            0 => {
                number += 1;
                let sql = format!("insert into {table} values ({worker}, {number})");
                if writes.say(Kind::Autocommit, &sql).await.is_ok() {
                    own = acknowledge(&tally, number);
                }
            }
            1 => {
                number += 1;
                if transaction(&mut writes, table, worker, number).await.is_ok() {
                    own = acknowledge(&tally, number);
                }
            }
            _ => {
                let sql = format!("select coalesce(max(n), 0) from {table} where worker = {worker}");
                if let Ok(value) = reads.as_mut().unwrap_or(&mut writes).say(Kind::Read, &sql).await {
                    let seen = value.and_then(|value| value.parse().ok()).unwrap_or(0);
                    let mut tally = lock(&tally);
                    tally.reads.success(Instant::now());
                    if seen < own {
                        tally.stale += 1;
                        // What is lost is lost: the next read is compared with what there is.
                        own = seen;
                    }
                }
            }
        }
        tokio::time::sleep(think).await;
    }
}

/// Three statements in a block: both rows are there afterwards, or none. Begun again where the server says that nothing was done.
async fn transaction(seat: &mut Seat, table: &str, worker: i64, number: i64) -> Result<(), String> {
    let script = [
        "begin".to_owned(),
        format!("insert into {table} values ({worker}, {number})"),
        format!("select max(n) from {table} where worker = {worker}"),
        format!("insert into {table} values ({worker}, {})", -number),
        "commit".to_owned(),
    ];
    for _ in 0..RETRIES_MAX {
        let mut failure = None;
        for sql in &script {
            if let Err(code) = seat.say(Kind::Transaction, sql).await {
                failure = Some(code);
                break;
            }
        }
        let Some(code) = failure else { return Ok(()) };
        if seat.client.is_some() {
            // Its failure would be noted, too.
            let _ = seat.say(Kind::Transaction, "rollback").await;
        }
        if code != "40001" {
            return Err(code);
        }
    }
    Err("40001".to_owned())
}

fn acknowledge(tally: &Mutex<Tally>, number: i64) -> i64 {
    let (now, mut tally) = (Instant::now(), lock(tally));
    tally.acknowledged.push((number, now));
    tally.writes.success(now);
    number
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a failure is counted that no server gave a SQLSTATE.
const NO_CODE: &str = "closed";

const NUMBERS_EACH: i64 = 1_000_000_000;
const RETRIES_MAX: usize = 5;
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
const END_WAIT: Duration = Duration::from_secs(10);
