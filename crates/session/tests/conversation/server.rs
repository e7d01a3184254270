//! A model of a correct PostgreSQL server: one backend, from the bytes that it is sent to the bytes that it sends.
//!
//! It knows the protocol (what is discarded after an error, what is flushed when), transactions with their settings, prepared
//! statements and portals. Of SQL it knows first words. It does not know any data.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use session::Role;
use wire::backend::{self, Failure, Status, tag};
use wire::frame::Frame;
use wire::frontend::{Frontend, Target};

use crate::script::{frame, text};

/// What is to go wrong, once, with the next statement that begins so.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) role: Role,
    pub(crate) what: What,
    pub(crate) sql: String,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// An error of this SQLSTATE.
    Error(&'static str),
    /// The same after a row.
    LateError(&'static str),
    /// The server says this and goes.
    Fatal(&'static str),
    /// The connection ends.
    Die,
    /// The connection ends after a row.
    LateDie,
    /// The connection ends in the middle of a row.
    TornDie,
}

/// What servers share: what is to go wrong, what they have written, and how often the table `shifting` was altered.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) faults: Vec<Fault>,
    pub(crate) inserted: Vec<String>,
    pub(crate) alterations: usize,
    /// Alterations that the replica has not replayed.
    pub(crate) lag: usize,
    /// What settings are that nobody has set.
    pub(crate) default: Option<String>,
}

pub(crate) type Faults = Rc<RefCell<World>>;

type Values = BTreeMap<String, String>;

pub(crate) struct Server {
    role: Role,
    faults: Faults,
    status: Status,
    /// The transaction was begun READ ONLY.
    read_only: bool,
    /// Its isolation level.
    isolation: &'static str,
    named: HashMap<Vec<u8>, Statement>,
    unnamed: Option<Statement>,
    portals: HashMap<Vec<u8>, Portal>,
    /// "...reads and discards messages until a Sync is reached."
    skipping: bool,
    copy: Option<Copy>,
    committed: Values,
    current: Values,
    savepoints: Vec<(String, Values)>,
    /// What the transaction has written.
    inserted: Vec<String>,
    reported: String,
    /// What other sessions must not find here.
    leftovers: Vec<String>,
    /// Written, not flushed.
    pending: Vec<u8>,
    /// Sent.
    pub(crate) sent: Vec<u8>,
    pub(crate) dead: bool,
}

#[derive(Clone)]
struct Statement {
    sql: String,
    /// Literals are read when a statement is parsed, by the settings of that moment.
    timezone: String,
    /// Which form of the table its shape is of.
    alterations: usize,
}

struct Portal {
    statement: Statement,
    rows_sent: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Copy {
    Simple,
    Extended,
}

/// A statement did not go well.
enum Trouble {
    Error(&'static str),
    Gone,
    CopyIn,
}

impl Server {
    pub(crate) fn new(role: Role, faults: Faults) -> Server {
        Server {
            role,
            faults,
            status: Status::Idle,
            read_only: false,
            isolation: READ_COMMITTED,
            named: HashMap::new(),
            unnamed: None,
            portals: HashMap::new(),
            skipping: false,
            copy: None,
            committed: Values::new(),
            current: Values::new(),
            savepoints: Vec::new(),
            reported: DEFAULT.to_owned(),
            inserted: Vec::new(),
            leftovers: Vec::new(),
            pending: Vec::new(),
            sent: Vec::new(),
            dead: false,
        }
    }

    /// Whether another session may have it, and what it would find.
    pub(crate) fn is_clean(&self) -> Result<(), String> {
        let checks = [
            (self.status == Status::Idle, "in a transaction"),
            (!self.skipping, "discarding until Sync"),
            (self.copy.is_none(), "in COPY"),
            (self.pending.is_empty() && self.sent.is_empty(), "has more to say"),
            (self.leftovers.is_empty(), "holds what a session has left"),
            (!self.dead, "is dead"),
        ];
        checks.iter().find(|(good, _)| !good).map_or(Ok(()), |(_, what)| Err(format!("{what} {:?}", self.leftovers)))
    }

    pub(crate) fn prepared(&self) -> usize {
        self.named.len()
    }

    pub(crate) fn receive(&mut self, frame: Frame<'_>) {
        if self.dead {
            return;
        }
        let message = Frontend::read(frame).expect("the proxy sends what can be read");
        match (self.copy, message) {
            (Some(_), Frontend::CopyData | Frontend::Flush | Frontend::Sync) => return,
            (Some(copy), Frontend::CopyDone) => return self.end_copy(copy, Ok(())),
            (Some(copy), _) => return self.end_copy(copy, Err("57014")),
            (None, Frontend::CopyData | Frontend::CopyDone | Frontend::CopyFail) => return,
            (None, Frontend::Sync) => return self.sync(),
            (None, _) if self.skipping => return,
            (None, _) => {}
        }
        let done = match message {
            Frontend::Query(sql) => return self.query(&text(sql)),
            Frontend::Parse(parse) => self.parse(parse.name, &text(parse.sql)),
            Frontend::Bind(bind) => self.bind(bind.portal, bind.statement),
            Frontend::Describe(Target::Statement(name)) => self.describe_statement(name),
            Frontend::Describe(Target::Portal(name)) => self.describe_portal(name),
            Frontend::Execute => self.execute(frame.body()),
            Frontend::Close(target) => {
                match target {
                    Target::Statement(b"") => drop(self.unnamed.take()),
                    Target::Statement(name) => drop(self.named.remove(name)),
                    Target::Portal(name) => drop(self.portals.remove(name)),
                }
                backend::put_bare(&mut self.pending, tag::CLOSE_COMPLETE);
                Ok(())
            }
            Frontend::Flush => {
                self.flush();
                Ok(())
            }
            Frontend::FunctionCall => {
                frame_of(&mut self.pending, tag::FUNCTION_CALL_RESPONSE);
                return self.ready();
            }
            other => panic!("unexpected {other:?}"),
        };
        match done {
            Ok(()) => {}
            Err(Trouble::Error(code)) => {
                self.fail(code);
                self.skipping = true;
            }
            Err(Trouble::CopyIn) => self.copy = Some(Copy::Extended),
            Err(Trouble::Gone) => {}
        }
    }

    fn flush(&mut self) {
        self.sent.append(&mut self.pending);
    }

    /// Errors are flushed at once.
    fn fail(&mut self, code: &'static str) {
        let failure = Failure::error(code, "failed");
        let failure = if code == "0A000" { failure.routine("RevalidateCachedQuery") } else { failure };
        failure.put(&mut self.pending);
        self.flush();
        if self.status == Status::Idle { self.roll_back() } else { self.status = Status::Failed }
    }

    fn sync(&mut self) {
        self.skipping = false;
        self.ready();
    }

    fn ready(&mut self) {
        if self.status == Status::Idle {
            self.commit();
        }
        let timezone = self.value("timezone");
        if timezone != self.reported {
            backend::put_parameter_status(&mut self.pending, b"TimeZone", timezone.as_bytes());
            self.reported = timezone;
        }
        backend::put_ready(&mut self.pending, self.status);
        self.flush();
    }

    fn commit(&mut self) {
        self.keep();
        self.committed = self.current.clone();
        self.end();
    }

    /// What has been written is there.
    fn keep(&mut self) {
        self.faults.borrow_mut().inserted.append(&mut self.inserted);
    }

    fn roll_back(&mut self) {
        self.inserted.clear();
        self.current = self.committed.clone();
        self.end();
    }

    fn end(&mut self) {
        self.savepoints.clear();
        self.portals.clear();
        (self.status, self.read_only) = (Status::Idle, false);
    }

    fn query(&mut self, sql: &str) {
        self.unnamed = None;
        let statements: Vec<&str> = sql.split(';').map(str::trim).filter(|part| !part.is_empty()).collect();
        if statements.is_empty() {
            backend::put_bare(&mut self.pending, tag::EMPTY_QUERY_RESPONSE);
        }
        for (at, statement) in statements.iter().enumerate() {
            let statement = self.analysed(statement);
            let statement = self.executed(&statement).unwrap_or(statement);
            if returns_rows(&statement.sql)
                && !matches!(self.status, Status::Failed)
                && self.allows(&statement.sql).is_ok()
            {
                backend::put_text_columns(&mut self.pending, &["column"]);
            }
            match self.run(&statement, 0, usize::MAX) {
                Ok(_) => {}
                Err(Trouble::Error(code)) => {
                    self.fail(code);
                    break;
                }
                Err(Trouble::CopyIn) => {
                    assert!(at + 1 == statements.len(), "COPY is the last in a string here");
                    self.copy = Some(Copy::Simple);
                    return;
                }
                Err(Trouble::Gone) => return,
            }
        }
        self.ready();
    }

    fn end_copy(&mut self, copy: Copy, end: Result<(), &'static str>) {
        self.copy = None;
        match end {
            Ok(()) => backend::put_command_complete(&mut self.pending, "COPY 1"),
            Err(code) => self.fail(code),
        }
        match copy {
            Copy::Simple => self.ready(),
            Copy::Extended => self.skipping = end.is_err(),
        }
    }

    fn parse(&mut self, name: &[u8], sql: &str) -> Result<(), Trouble> {
        if name.is_empty() {
            self.unnamed = None;
        }
        self.allows(sql)?;
        if sql.starts_with("wrong") {
            return Err(Trouble::Error("42601"));
        }
        let statement = self.analysed(sql);
        if name.is_empty() {
            self.unnamed = Some(statement);
        } else if self.named.contains_key(name) {
            return Err(Trouble::Error("42P05"));
        } else {
            self.named.insert(name.to_vec(), statement);
        }
        backend::put_bare(&mut self.pending, tag::PARSE_COMPLETE);
        Ok(())
    }

    /// A statement as it is when it is prepared now.
    fn analysed(&self, sql: &str) -> Statement {
        let alterations = if sql.contains("shifting") { self.alterations() } else { 0 };
        Statement { sql: sql.to_owned(), timezone: self.value("timezone"), alterations }
    }

    fn alterations(&self) -> usize {
        let world = self.faults.borrow();
        world.alterations - if self.role == Role::Replica { world.lag } else { 0 }
    }

    /// "cached plan must not change result type" (RevalidateCachedQuery).
    fn revalidate(&self, statement: &Statement) -> Result<(), Trouble> {
        if self.analysed(&statement.sql).alterations == statement.alterations {
            Ok(())
        } else {
            Err(Trouble::Error("0A000"))
        }
    }

    fn statement(&self, name: &[u8]) -> Result<Statement, Trouble> {
        let statement = if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) };
        statement.cloned().ok_or(Trouble::Error("26000"))
    }

    fn bind(&mut self, portal: &[u8], name: &[u8]) -> Result<(), Trouble> {
        let statement = self.statement(name)?;
        self.allows(&statement.sql)?;
        self.revalidate(&statement)?;
        self.portals.insert(portal.to_vec(), Portal { statement, rows_sent: 0 });
        backend::put_bare(&mut self.pending, tag::BIND_COMPLETE);
        Ok(())
    }

    fn describe_statement(&mut self, name: &[u8]) -> Result<(), Trouble> {
        let statement = self.statement(name)?;
        self.may_describe()?;
        self.revalidate(&statement)?;
        backend::put_no_parameters(&mut self.pending);
        self.describe(&statement.sql);
        Ok(())
    }

    fn describe_portal(&mut self, name: &[u8]) -> Result<(), Trouble> {
        let portal = self.portals.get(name).ok_or(Trouble::Error("34000"))?;
        let sql = portal.statement.sql.clone();
        self.may_describe()?;
        self.describe(&sql);
        Ok(())
    }

    /// "If we are in aborted transaction state, we can't run SendRowDescriptionMessage()" (exec_describe_statement_message).
    /// PostgreSQL describes statements without rows all the same; behind the proxy it may have to prepare them first, and does not.
    fn may_describe(&self) -> Result<(), Trouble> {
        if self.status == Status::Failed { Err(Trouble::Error("25P02")) } else { Ok(()) }
    }

    /// What EXECUTE executes; `None` for anything else, and where there is no such statement.
    fn executed(&self, statement: &Statement) -> Option<Statement> {
        let name = statement.sql.strip_prefix("execute ")?.trim();
        self.named.get(name.split('(').next()?.trim().as_bytes()).cloned()
    }

    fn describe(&mut self, sql: &str) {
        let statement = self.analysed(sql);
        let executed = self.executed(&statement).unwrap_or(statement);
        let sql = executed.sql.as_str();
        if returns_rows(sql) {
            let column = format!("column{}", executed.alterations);
            backend::put_text_columns(&mut self.pending, &[&column]);
        } else {
            backend::put_bare(&mut self.pending, tag::NO_DATA);
        }
    }

    fn execute(&mut self, body: &[u8]) -> Result<(), Trouble> {
        let (name, rows) = body.split_at(body.len() - 4);
        let name = &name[..name.len() - 1];
        let rows = u32::from_be_bytes(rows.try_into().unwrap()) as usize;
        let portal = self.portals.get(name).ok_or(Trouble::Error("34000"))?;
        let (statement, sent) = (portal.statement.clone(), portal.rows_sent);
        self.allows(&statement.sql)?;
        let statement = self.executed(&statement).unwrap_or(statement);
        let sent = self.run(&statement, sent, if rows == 0 { usize::MAX } else { rows })?;
        if let Some(portal) = self.portals.get_mut(name) {
            portal.rows_sent = sent;
        }
        Ok(())
    }

    /// "current transaction is aborted, commands ignored until end of transaction block"
    fn allows(&self, sql: &str) -> Result<(), Trouble> {
        let lower = sql.to_ascii_lowercase();
        let ends =
            ["commit", "rollback", "end", "abort", "prepare transaction"].iter().any(|word| lower.starts_with(word));
        if self.status == Status::Failed && !ends && !sql.is_empty() { Err(Trouble::Error("25P02")) } else { Ok(()) }
    }

    fn value(&self, name: &str) -> String {
        let default = || self.faults.borrow().default.clone().unwrap_or_else(|| DEFAULT.to_owned());
        self.current.get(name).cloned().unwrap_or_else(default)
    }

    fn row(&mut self, value: &str) {
        backend::put_text_row(&mut self.pending, &[value]);
    }

    /// Runs a statement; returns how many rows it has sent so far.
    fn run(&mut self, statement: &Statement, sent: usize, rows_max: usize) -> Result<usize, Trouble> {
        let sql = statement.sql.as_str();
        self.allows(sql)?;
        self.go_wrong(sql)?;
        let lower = sql.to_ascii_lowercase();
        let words: Vec<&str> = lower.split([' ', '(']).collect();
        let rest = sql.split_once(' ').map_or("", |(_, rest)| rest);
        let writes = ["insert", "update", "create", "listen", "copy"].contains(&words[0])
            || lower.starts_with("prepare transaction");
        if writes && (self.role == Role::Replica || self.read_only) {
            return Err(Trouble::Error("25006"));
        }
        let command = match words[0] {
            "" => {
                backend::put_bare(&mut self.pending, tag::EMPTY_QUERY_RESPONSE);
                return Ok(sent);
            }
            "select" if ["set_config", "meddle"].iter().any(|name| rest.to_ascii_lowercase().contains(name)) => {
                self.set_config(rest)
            }
            "select" | "show" => return self.rows(statement, sent, rows_max),
            "copy" => {
                frame(&mut self.pending, tag::COPY_IN_RESPONSE, &[0, 0, 1, 0, 0]);
                self.flush();
                return Err(Trouble::CopyIn);
            }
            "begin" | "start" => {
                if self.status == Status::Idle {
                    self.status = Status::Open;
                    self.read_only = lower.ends_with("read only");
                    self.isolation = if lower.contains("repeatable read") { "repeatable read" } else { READ_COMMITTED };
                } else {
                    backend::put_warning(&mut self.pending, "25001", "there is already a transaction in progress");
                }
                if words[0] == "begin" { "BEGIN" } else { "START TRANSACTION" }
            }
            "commit" | "rollback" if sql.ends_with("chain") && self.status == Status::Idle => {
                return Err(Trouble::Error("25P01"));
            }
            "commit" | "end" => self.end_transaction(sql, true),
            "prepare" if words[1] == "transaction" => {
                let outside = self.status == Status::Idle;
                match self.end_transaction(sql, true) {
                    // "report unsuccessful commit in completionTag" (standard_ProcessUtility), though there was nothing to undo.
                    "COMMIT" if outside => "ROLLBACK",
                    "COMMIT" => "PREPARE TRANSACTION",
                    other => other,
                }
            }
            "rollback" if words.get(1) == Some(&"to") => {
                let at = self.savepoint(words[2])?;
                self.savepoints.truncate(at + 1);
                self.current = self.savepoints[at].1.clone();
                self.status = Status::Open;
                "ROLLBACK"
            }
            "rollback" | "abort" => self.end_transaction(sql, false),
            "savepoint" if self.status == Status::Idle => return Err(Trouble::Error("25P01")),
            "savepoint" => {
                self.savepoints.push((words[1].to_owned(), self.current.clone()));
                "SAVEPOINT"
            }
            "release" => {
                let at = self.savepoint(words[1])?;
                self.savepoints.truncate(at);
                "RELEASE"
            }
            "set" => self.set(rest),
            "reset" => self.reset(words[1]),
            "discard" if self.status != Status::Idle => return Err(Trouble::Error("25001")),
            "discard" => {
                self.current.clear();
                self.named.clear();
                self.leftovers.clear();
                "DISCARD ALL"
            }
            "prepare" => {
                let (head, body) = rest.split_once(" as ").or_else(|| rest.split_once(" AS ")).unwrap();
                let name = head.split([' ', '(']).next().unwrap();
                if self.named.contains_key(name.as_bytes()) {
                    return Err(Trouble::Error("42P05"));
                }
                if body.starts_with("wrong") {
                    return Err(Trouble::Error("42601"));
                }
                let statement = self.analysed(body.trim());
                self.named.insert(name.as_bytes().to_vec(), statement);
                "PREPARE"
            }
            "execute" => return Err(Trouble::Error("26000")),
            "deallocate" if words[1] == "all" => {
                self.named.clear();
                "DEALLOCATE ALL"
            }
            "deallocate" => match self.named.remove(rest.trim().as_bytes()) {
                Some(_) => "DEALLOCATE",
                None => return Err(Trouble::Error("26000")),
            },
            "listen" => self.leave(sql, "LISTEN"),
            "unlisten" => {
                self.leftovers.clear();
                "UNLISTEN"
            }
            "create" if sql.contains("temp") => self.leave(sql, "CREATE TABLE"),
            "create" => "CREATE TABLE",
            "insert" => {
                self.inserted.push(sql.to_owned());
                if self.status == Status::Idle {
                    self.keep();
                }
                if returns_rows(sql) {
                    self.row("new");
                }
                "INSERT 0 1"
            }
            "update" => "UPDATE 1",
            _ => return Err(Trouble::Error("42601")),
        };
        backend::put_command_complete(&mut self.pending, command);
        Ok(sent)
    }

    fn leave(&mut self, sql: &str, command: &'static str) -> &'static str {
        self.leftovers.push(sql.to_owned());
        command
    }

    fn rows(&mut self, statement: &Statement, sent: usize, rows_max: usize) -> Result<usize, Trouble> {
        let (_, rest) = statement.sql.split_once(' ').unwrap();
        if rest.contains("pg_current_xact_id_if_assigned") {
            backend::put_text_row(&mut self.pending, &["700", "0/64", "0/A", "1"]);
            backend::put_command_complete(&mut self.pending, "SELECT 1");
            return Ok(1);
        }
        // What the proxy asks for itself.
        let check = ["EXISTS", "(EXISTS"].iter().any(|start| rest.starts_with(start));
        let (count, value) = match rest.strip_suffix(" rows").and_then(|text| text.rsplit(' ').next()?.parse().ok()) {
            Some(count) => (count, "row".to_owned()),
            _ if check => (1, if self.leftovers.is_empty() { "f" } else { "t" }.to_owned()),
            None if statement.sql == "SHOW transaction_isolation" => (1, self.isolation.to_owned()),
            None if statement.sql.starts_with("show") => (1, self.value(rest)),
            None if rest == "literal" => (1, statement.timezone.clone()),
            None => (1, rest.to_owned()),
        };
        if rest.starts_with("pg_advisory_lock") && sent == 0 {
            self.leftovers.push(rest.to_owned());
        }
        let more = rows_max.min(count - sent);
        (0..more).for_each(|_| self.row(&value));
        if sent + more < count {
            backend::put_bare(&mut self.pending, tag::PORTAL_SUSPENDED);
        } else if rest.ends_with("/0") {
            return Err(Trouble::Error("22012"));
        } else if statement.sql.starts_with("show") {
            backend::put_command_complete(&mut self.pending, "SHOW");
        } else {
            backend::put_command_complete(&mut self.pending, &format!("SELECT {more}"));
        }
        Ok(sent + more)
    }

    fn savepoint(&self, name: &str) -> Result<usize, Trouble> {
        let missing = if self.status == Status::Idle { "25P01" } else { "3B001" };
        self.savepoints.iter().rposition(|(known, _)| known == name).ok_or(Trouble::Error(missing))
    }

    fn end_transaction(&mut self, sql: &str, commits: bool) -> &'static str {
        let succeeds = commits && self.status != Status::Failed;
        if self.status == Status::Idle {
            backend::put_warning(&mut self.pending, "25P01", "there is no transaction in progress");
        }
        let (read_only, isolation) = (self.read_only, self.isolation);
        if succeeds {
            self.commit()
        } else {
            self.roll_back()
        }
        if sql.ends_with("and chain") {
            (self.status, self.read_only, self.isolation) = (Status::Open, read_only, isolation);
        }
        if succeeds { "COMMIT" } else { "ROLLBACK" }
    }

    fn set(&mut self, assignment: &str) -> &'static str {
        if let Some(user) = assignment.to_ascii_lowercase().strip_prefix("session authorization ") {
            // "SET SESSION AUTHORIZATION [...] resets the role" (SetSessionAuthorization).
            self.current.remove("role");
            self.current.insert("session_authorization".to_owned(), user.to_owned());
        } else if let Some((_, role)) = assignment.to_ascii_lowercase().split_once("role ") {
            self.current.insert("role".to_owned(), role.to_owned());
        } else if let Some((name, value)) = assignment.split_once(" TO ").or_else(|| assignment.split_once(" to ")) {
            self.current.insert(name.replace('"', ""), value.replace('\'', ""));
        }
        "SET"
    }

    fn set_config(&mut self, call: &str) -> &'static str {
        let quoted: Vec<&str> = call.split('\'').collect();
        self.current.insert(quoted[1].to_owned(), quoted[3].to_owned());
        "SELECT 1"
    }

    fn reset(&mut self, name: &str) -> &'static str {
        match name.to_ascii_lowercase().replace('"', "").as_str() {
            // Both are GUC_NO_RESET_ALL.
            "all" => self.current.retain(|name, _| name == "role" || name == "session_authorization"),
            "session" => {
                self.current.remove("role");
                self.current.remove("session_authorization");
            }
            name => drop(self.current.remove(name)),
        }
        "RESET"
    }

    fn go_wrong(&mut self, sql: &str) -> Result<(), Trouble> {
        let found =
            self.faults.borrow().faults.iter().position(|fault| fault.role == self.role && sql.starts_with(&fault.sql));
        let Some(at) = found else { return Ok(()) };
        let fault = self.faults.borrow_mut().faults.remove(at);
        match fault.what {
            What::Error(code) => return Err(Trouble::Error(code)),
            What::LateError(code) => {
                self.row("early");
                return Err(Trouble::Error(code));
            }
            What::Fatal(code) => Failure::fatal(code, "terminating connection").put(&mut self.pending),
            What::Die => self.pending.clear(),
            What::LateDie => self.row("early"),
            What::TornDie => {
                self.row("early");
                self.pending.truncate(self.pending.len() - 2);
            }
        }
        self.flush();
        self.dead = true;
        Err(Trouble::Gone)
    }
}

const READ_COMMITTED: &str = "read committed";

fn returns_rows(sql: &str) -> bool {
    sql.starts_with("select") || sql.starts_with("show") || sql.ends_with(" returning")
}

fn frame_of(out: &mut Vec<u8>, tag: u8) {
    frame(out, tag, &[0xff; 4]);
}

const DEFAULT: &str = "default";
