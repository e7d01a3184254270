//! The admin console: databases `hakem` and `pgbouncer`, by the simple and the extended protocol.
//!
//! Owns the conversation with one administrator. The language is `console/grammar`, what is shown is `console/show`, what is done
//! `console/act`, the settings `console/settings`, and the encoding of results `console/rows`. PgBouncer's console speaks the simple
//! protocol only; drivers prefer the other one.

mod act;
mod catalog;
mod clock;
mod grammar;
mod nodes;
mod routes;
mod rows;
pub(crate) mod settings;
mod show;
mod switchover;

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use config::Config;
use pool::{Parameters, Peer, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::backend::{self, Failure, Status, tag};
use wire::frame::{Frame, Header};
use wire::frontend::{Bind, Frontend, Parse, Target};

use self::act::{Done, act};
use self::grammar::{Command, Mistake, Topic};
use self::rows::{Column, Formats, Kind, Row, put, put_columns, put_row};
use crate::cancel::Registered;
use crate::ledger::Entry;
use crate::worker::Worker;

/// What an administrator may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Everything.
    Admin,
    /// Look.
    Stats,
}

/// An administrator who has proven who it is.
pub(crate) struct Visitor {
    pub(crate) stream: Stream,
    /// What it has sent and nobody has taken.
    pub(crate) received: Vec<u8>,
    pub(crate) role: Role,
    pub(crate) cancel: Registered,
}

/// Whether a database name leads here.
pub(crate) fn is_console(database: &str) -> bool {
    ["hakem", "pgbouncer"].contains(&database)
}

/// Whether a client of a Unix socket runs as the same user as this program: "the user name pgbouncer is allowed to log in without
/// password if the login comes via the Unix socket and the client has same Unix user UID as the running process".
pub(crate) fn is_owner(user: &str, peer: &Peer) -> bool {
    let Peer::Unix { uid, .. } = peer else { return false };
    // The directory belongs to the effective user.
    is_console(user) && std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == *uid)
}

/// What a user may do here; `None` when it may not come in.
pub(crate) fn role(config: &Config, user: &str) -> Option<Role> {
    let among = |users: &[String]| users.iter().any(|known| known == user);
    match () {
        () if among(&config.console.admin_users) => Some(Role::Admin),
        () if among(&config.console.stats_users) => Some(Role::Stats),
        () => None,
    }
}

/// What a client is told at its login, in PgBouncer's order.
pub(crate) fn parameters() -> Parameters {
    PARAMETERS.iter().map(|(name, value)| (name.as_bytes().into(), value.as_bytes().into())).collect()
}

/// Serves an administrator to the end.
pub(crate) async fn serve(visitor: Visitor, worker: &Rc<Worker>) {
    let _counted = worker.service.console_opens();
    let Visitor { stream, received, role, cancel } = visitor;
    let mut console = Console {
        stream,
        received,
        role,
        cancel,
        worker: worker.clone(),
        out: Vec::new(),
        in_block: false,
        skips_until_sync: false,
        statements: HashMap::new(),
        portals: HashMap::new(),
    };
    // Whoever has gone does not need to be told.
    let _ = console.converse().await;
}

struct Console {
    stream: Stream,
    received: Vec<u8>,
    role: Role,
    cancel: Registered,
    worker: Rc<Worker>,
    out: Vec<u8>,
    /// Some drivers begin transactions; nothing follows from it but what they are told of it.
    in_block: bool,
    skips_until_sync: bool,
    statements: HashMap<Vec<u8>, Command>,
    portals: HashMap<Vec<u8>, Portal>,
}

struct Portal {
    command: Command,
    formats: Formats,
    /// What has not been fetched; `None` before the first Execute.
    rest: Option<Answer>,
}

/// What a command is answered with.
enum Answer {
    Rows { columns: Vec<Column>, rows: VecDeque<Row>, tag: &'static str },
    Notice { message: &'static str, detail: &'static str, tag: &'static str },
    Tag(String),
    Empty,
}

/// Why a conversation goes on no more.
struct Ended;

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Ended {
        Ended
    }
}

/// Why a command is not answered.
enum Unanswered {
    Failed(Failure),
    Ended,
}

impl From<Failure> for Unanswered {
    fn from(failure: Failure) -> Unanswered {
        Unanswered::Failed(failure)
    }
}

impl Console {
    async fn converse(&mut self) -> Result<(), Ended> {
        loop {
            while let Some(message) = self.take().await? {
                self.handle(&message).await?;
            }
            self.flush().await?;
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(Ended);
            }
        }
    }

    /// The next message, whole, if it is there.
    async fn take(&mut self) -> Result<Option<Vec<u8>>, Ended> {
        match Header::peek(&self.received) {
            Ok(Some(header)) if header.length > MESSAGE_MAX => self.leave("the message is too long").await,
            Ok(Some(header)) if self.received.len() >= header.length => {
                Ok(Some(self.received.drain(..header.length).collect()))
            }
            Ok(_) => Ok(None),
            Err(error) => self.leave(&error.to_string()).await,
        }
    }

    async fn handle(&mut self, message: &[u8]) -> Result<(), Ended> {
        let frame = Frame { tag: message[0], whole: message };
        let read = match Frontend::read(frame) {
            Ok(read) => read,
            Err(error) => return self.leave(&error.to_string()).await,
        };
        let page = self.worker.service.console_ledger.page(self.worker.id);
        page.add(Entry::Received, message.len() as u64);
        if self.skips_until_sync && !matches!(read, Frontend::Sync | Frontend::Terminate) {
            return Ok(());
        }
        let outcome = match read {
            Frontend::Query(sql) => {
                let started = Instant::now();
                self.statements.remove(&b""[..]);
                self.portals.clear();
                if let Err(unanswered) = self.query(sql).await {
                    self.refuse(unanswered)?;
                }
                self.ready(started);
                Ok(())
            }
            Frontend::Parse(parse) => self.parse(parse),
            Frontend::Bind(bind) => self.bind(bind),
            Frontend::Describe(target) => self.describe(target),
            Frontend::Execute => self.execute(frame.body()).await,
            Frontend::Close(target) => {
                match target {
                    Target::Statement(name) => drop(self.statements.remove(name)),
                    Target::Portal(name) => drop(self.portals.remove(name)),
                }
                backend::put_bare(&mut self.out, tag::CLOSE_COMPLETE);
                Ok(())
            }
            Frontend::Sync => {
                self.skips_until_sync = false;
                if !self.in_block {
                    self.portals.clear();
                }
                self.ready(Instant::now());
                Ok(())
            }
            Frontend::Flush => {
                self.flush().await?;
                Ok(())
            }
            Frontend::Terminate => return Err(Ended),
            Frontend::FunctionCall
            | Frontend::CopyData
            | Frontend::CopyDone
            | Frontend::CopyFail
            | Frontend::Password => {
                return self.leave(&format!("unsupported packet type for admin console: {}", frame.tag)).await;
            }
        };
        if let Err(unanswered) = outcome {
            self.refuse(unanswered)?;
            self.skips_until_sync = true;
        }
        Ok(())
    }

    /// A simple query.
    async fn query(&mut self, sql: &[u8]) -> Result<(), Unanswered> {
        let command = read(sql)?;
        let answer = self.run(&command).await?;
        if let Answer::Rows { columns, .. } = &answer {
            put_columns(&mut self.out, columns, &Formats::default());
        }
        self.put(answer, &Formats::default(), usize::MAX);
        Ok(())
    }

    fn parse(&mut self, parse: Parse<'_>) -> Result<(), Unanswered> {
        let command = read(parse.sql)?;
        if !parse.name.is_empty() && self.statements.contains_key(parse.name) {
            let name = String::from_utf8_lossy(parse.name);
            return Err(Failure::error("42P05", format!("prepared statement \"{name}\" already exists")).into());
        }
        if self.statements.len() >= STATEMENTS_MAX {
            return Err(Failure::error("54000", "too many prepared statements").into());
        }
        self.statements.insert(parse.name.to_vec(), command);
        backend::put_bare(&mut self.out, tag::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, bind: Bind<'_>) -> Result<(), Unanswered> {
        let command = self.statement(bind.statement)?.clone();
        let formats = formats(bind.values)?;
        if !formats.suit(columns(&command).map_or(0, |columns| columns.len())) {
            return Err(Failure::error("08P01", "bind message has too many or too few result formats").into());
        }
        if self.portals.len() >= STATEMENTS_MAX {
            return Err(Failure::error("54000", "too many portals").into());
        }
        self.portals.insert(bind.portal.to_vec(), Portal { command, formats, rest: None });
        backend::put_bare(&mut self.out, tag::BIND_COMPLETE);
        Ok(())
    }

    fn describe(&mut self, target: Target<'_>) -> Result<(), Unanswered> {
        let (columns, formats) = match target {
            Target::Statement(name) => {
                let columns = columns(self.statement(name)?);
                backend::put_no_parameters(&mut self.out);
                (columns, Formats::default())
            }
            Target::Portal(name) => {
                let portal = self.portals.get(name).ok_or_else(|| no_portal(name))?;
                (columns(&portal.command), portal.formats.clone())
            }
        };
        match columns {
            Some(columns) => put_columns(&mut self.out, &columns, &formats),
            None => backend::put_bare(&mut self.out, tag::NO_DATA),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> Result<(), Unanswered> {
        let malformed = || Failure::error("08P01", "invalid Execute message");
        let end = body.iter().position(|byte| *byte == 0).ok_or_else(malformed)?;
        let (name, rest) = (&body[..end], &body[end + 1..]);
        let limit = i32::from_be_bytes(*rest.first_chunk().filter(|_| rest.len() == 4).ok_or_else(malformed)?);
        let limit = usize::try_from(limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let Portal { command, formats, rest } = self.portals.remove(name).ok_or_else(|| no_portal(name))?;
        let answer = match rest {
            Some(rest) => rest,
            None => self.run(&command).await?,
        };
        let rest = self.put(answer, &formats, limit);
        // A portal that is at its end answers once more, with nothing.
        self.portals.insert(name.to_vec(), Portal { command, formats, rest: Some(rest) });
        Ok(())
    }

    fn statement(&self, name: &[u8]) -> Result<&Command, Failure> {
        let missing = || {
            let name = String::from_utf8_lossy(name);
            Failure::error("26000", format!("prepared statement \"{name}\" does not exist"))
        };
        self.statements.get(name).ok_or_else(missing)
    }

    /// Runs a command.
    async fn run(&mut self, command: &Command) -> Result<Answer, Unanswered> {
        if self.role != Role::Admin && !command.is_harmless() {
            return Err(Failure::error("42501", "admin access needed").into());
        }
        let tag = |tag: &str| Answer::Tag(tag.to_owned());
        Ok(match command {
            Command::Empty => Answer::Empty,
            Command::Show(Topic::Help) => Answer::Notice { message: "Console usage", detail: HELP, tag: "SHOW" },
            Command::ShowRoute(sql, database) => {
                let row = routes::route(&self.worker.service, sql, database.as_deref())?;
                Answer::Rows { columns: routes::ROUTE.to_vec(), rows: VecDeque::from([row]), tag: "SHOW" }
            }
            Command::Show(topic) => {
                let rows = self.view(*topic).await;
                Answer::Rows { columns: show::columns(*topic).to_vec(), rows, tag: "SHOW" }
            }
            Command::ShowSetting(_, value) => {
                let columns = columns(command).unwrap_or_default();
                Answer::Rows { columns, rows: VecDeque::from([vec![(*value).into()]]), tag: "SHOW" }
            }
            Command::One => {
                let columns = columns(command).unwrap_or_default();
                Answer::Rows { columns, rows: VecDeque::from([vec![1u32.into()]]), tag: "SELECT 1" }
            }
            Command::SetSetting => Answer::Notice { message: "SET ignored", detail: "", tag: "SET" },
            Command::Begin(name) => {
                self.in_block = true;
                tag(name)
            }
            Command::End(name) => {
                self.in_block = false;
                tag(name)
            }
            Command::Tidy(name) => {
                if name.starts_with("D") {
                    self.statements.clear();
                }
                tag(name)
            }
            Command::Set(key, value) => {
                act::set(&self.worker.service, key, value).await?;
                Answer::Tag(format!("SET {key}={value}"))
            }
            Command::Act(what, argument) => match self.attended(*what, argument).await? {
                Done::Complete => Answer::Tag(what.name().to_ascii_uppercase()),
                Done::Ending => {
                    // "By not running admin_ready the connection is kept open until the process is actually shut down."
                    std::future::pending::<()>().await;
                    Answer::Empty
                }
            },
        })
    }

    /// Does something for as long as the administrator is there, and does not cancel it.
    async fn attended(&mut self, what: grammar::Act, argument: &str) -> Result<Done, Unanswered> {
        let Console { stream, received, cancel, worker, .. } = self;
        let work = cancel.unless_cancelled(act(&worker.service, what, argument));
        let gone = async {
            while received.len() < MESSAGE_MAX {
                if !matches!(stream.read_buf(received).await, Ok(length) if length > 0) {
                    return;
                }
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            done = work => Ok(done.flatten()?),
            () = gone => Err(Unanswered::Ended),
        }
    }

    async fn view(&self, topic: Topic) -> VecDeque<Row> {
        let service = &self.worker.service;
        let (clients, pins) = service.crew.look().await;
        let view = show::View {
            service,
            config: &service.config(),
            clients,
            pins,
            now: Instant::now(),
            wall: SystemTime::now(),
        };
        view.rows(topic).into()
    }

    /// Writes up to `limit` rows of an answer, and how it ends; returns what is left.
    fn put(&mut self, answer: Answer, formats: &Formats, limit: usize) -> Answer {
        match answer {
            Answer::Rows { columns, mut rows, tag } => {
                let count = limit.min(rows.len());
                for row in rows.drain(..count) {
                    put_row(&mut self.out, &columns, formats, &row);
                }
                match count < limit {
                    true => backend::put_command_complete(&mut self.out, tag),
                    false => backend::put_bare(&mut self.out, tag::PORTAL_SUSPENDED),
                }
                Answer::Rows { columns, rows, tag }
            }
            Answer::Notice { message, detail, tag } => {
                put(&mut self.out, tag::NOTICE_RESPONSE, |out| {
                    let fields = [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', message), (b'D', detail)];
                    for (field, text) in fields.into_iter().filter(|(_, text)| !text.is_empty()) {
                        out.push(field);
                        out.extend(text.as_bytes());
                        out.push(0);
                    }
                    out.push(0);
                });
                backend::put_command_complete(&mut self.out, tag);
                Answer::Tag(tag.to_owned())
            }
            Answer::Tag(tag) => {
                backend::put_command_complete(&mut self.out, &tag);
                Answer::Tag(tag)
            }
            Answer::Empty => {
                backend::put_bare(&mut self.out, tag::EMPTY_QUERY_RESPONSE);
                Answer::Empty
            }
        }
    }

    fn refuse(&mut self, unanswered: Unanswered) -> Result<(), Ended> {
        match unanswered {
            Unanswered::Failed(failure) => failure.put(&mut self.out),
            Unanswered::Ended => return Err(Ended),
        }
        Ok(())
    }

    fn ready(&mut self, started: Instant) {
        let page = self.worker.service.console_ledger.page(self.worker.id);
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        for (entry, amount) in
            [(Entry::Query, 1), (Entry::Transaction, 1), (Entry::QueryTime, micros), (Entry::TransactionTime, micros)]
        {
            page.add(entry, amount);
        }
        backend::put_ready(&mut self.out, if self.in_block { Status::Open } else { Status::Idle });
    }

    async fn flush(&mut self) -> io::Result<()> {
        let page = self.worker.service.console_ledger.page(self.worker.id);
        page.add(Entry::Sent, self.out.len() as u64);
        self.stream.write_all(&self.out).await?;
        self.out.clear();
        self.stream.flush().await
    }

    /// Says why, and ends it.
    async fn leave<T>(&mut self, reason: &str) -> Result<T, Ended> {
        Failure::fatal("08P01", reason).put(&mut self.out);
        self.flush().await?;
        self.stream.shutdown().await?;
        Err(Ended)
    }
}

fn read(sql: &[u8]) -> Result<Command, Failure> {
    let text = String::from_utf8_lossy(sql);
    Command::read(&text).map_err(|mistake| match mistake {
        Mistake::Unknown => Failure::error("42601", format!("invalid command '{text}', use SHOW HELP;")),
        Mistake::TooLong => Failure::error("42601", "bad arguments"),
    })
}

fn columns(command: &Command) -> Option<Vec<Column>> {
    match command {
        Command::Show(topic) => Some(show::columns(*topic).to_vec()).filter(|columns| !columns.is_empty()),
        Command::ShowRoute(..) => Some(routes::ROUTE.to_vec()),
        Command::ShowSetting(name, _) => Some(vec![(name, Kind::Text)]),
        Command::One => Some(vec![("?column?", Kind::Int4)]),
        _ => None,
    }
}

fn no_portal(name: &[u8]) -> Failure {
    Failure::error("34000", format!("portal \"{}\" does not exist", String::from_utf8_lossy(name)))
}

/// The formats of the result in the rest of a Bind message; no statement of ours has parameters.
fn formats(values: &[u8]) -> Result<Formats, Failure> {
    let malformed = || Failure::error("08P01", "invalid message format");
    let mut rest = values;
    let mut next = || -> Option<u16> {
        let (bytes, after) = rest.split_first_chunk()?;
        rest = after;
        Some(u16::from_be_bytes(*bytes))
    };
    for _ in 0..next().ok_or_else(malformed)? {
        next().ok_or_else(malformed)?;
    }
    let parameters = next().ok_or_else(malformed)?;
    if parameters > 0 {
        let message = format!("bind message supplies {parameters} parameters, but prepared statement \"\" requires 0");
        return Err(Failure::error("08P01", message));
    }
    let mut formats = Vec::new();
    for _ in 0..next().ok_or_else(malformed)? {
        formats.push(match next().ok_or_else(malformed)? {
            0 => false,
            1 => true,
            code => return Err(Failure::error("22023", format!("unsupported format code: {code}"))),
        });
    }
    Ok(Formats(formats))
}

/// What the console is called in its own lists.
pub(crate) const NAME: &str = "pgbouncer";

/// PgBouncer's.
const PARAMETERS: [(&str, &str); 7] = [
    ("server_version", "1.25.2/bouncer"),
    ("client_encoding", "UTF8"),
    ("server_encoding", "UTF8"),
    ("DateStyle", "ISO"),
    ("TimeZone", "GMT"),
    ("standard_conforming_strings", "on"),
    ("is_superuser", "on"),
];

const HELP: &str = "
\tSHOW HELP|CONFIG|DATABASES|POOLS|CLIENTS|SERVERS|USERS|VERSION
\tSHOW PEERS|PEER_POOLS
\tSHOW LISTS|MEM|STATE
\tSHOW TOPOLOGY|CATALOG|PINS|PIN_TOTALS|ROUTES
\tSHOW ROUTE FOR '<sql>' [IN <db>]
\tSHOW DNS_HOSTS|DNS_ZONES
\tSHOW STATS|STATS_TOTALS|STATS_AVERAGES|TOTALS
\tSET key = arg
\tRELOAD
\tPAUSE [<db>]
\tRESUME [<db>]
\tDISABLE <db>
\tENABLE <db>
\tRECONNECT [<db>]
\tKILL [<db>]
\tKILL_CLIENT <client_id>
\tSHUTDOWN
\tSHUTDOWN WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS
\tSWITCHOVER TO <member>|\"<host:port>\"
\tWAIT_CLOSE [<db>]";

/// Bytes of a message from an administrator.
const MESSAGE_MAX: usize = 64 * 1024;

/// Prepared statements, and portals, of one administrator.
const STATEMENTS_MAX: usize = 1000;
