//! [`Session`]: the state of the conversation with one client, and what each of the client's frames asks for.
//!
//! Owns the decision what a request needs ([`Intent`]) and the answers that need no server. How a request is written for a
//! server is in `encode`, what comes back in `reply`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::{Access, Class, Classifier, Effect, Hint, Isolation, PinReason, TransactionAccess, TransactionMode, Why};
use wire::Malformed;
use wire::backend::{self, Failure, Status};
use wire::frame::{Frame, Frames};
use wire::frontend::{Frontend, Target};

use crate::memory::ServerMemory;
use crate::reply::Owed;
use crate::request::{End, Request};
use crate::settings::Settings;
use crate::statements::{Prepared, Statements};

/// The conversation with one client.
#[derive(Debug)]
pub struct Session {
    pub(crate) policy: Policy,
    pub(crate) settings: Settings,
    pub(crate) statements: Statements,
    pub(crate) transaction: Transaction,
    pub(crate) pins: Vec<PinReason>,
    /// When its last write was acknowledged.
    pub(crate) last_write: Option<Instant>,
    /// Whether the current transaction sent anything but reads to the primary.
    pub(crate) wrote: bool,
    pub(crate) request: Request,
    /// Statements that Parse messages of the request define, in their order.
    pub(crate) parsed: Vec<Arc<Prepared>>,
    pub(crate) owed: VecDeque<Owed>,
    /// The statements that portals execute, for as long as the transaction lasts.
    pub(crate) portals: Vec<(Box<[u8]>, Option<Arc<Prepared>>)>,
    /// What statements were called before the request changed them, to be undone when it fails.
    pub(crate) undo: Vec<(Box<[u8]>, Option<Arc<Prepared>>)>,
    pub(crate) lease: Lease,
    pub(crate) progress: Progress,
    /// What the client sends is dropped until Sync, by the protocol's rule for errors; no server takes part in it.
    pub(crate) skips_until_sync: bool,
    /// What the proxy itself has to say to the client.
    pub(crate) output: Vec<u8>,
    /// What the server has to be sent because of a reply.
    pub(crate) to_server: Vec<u8>,
    /// What the next request is refused with: state was lost while the client was idle.
    pub(crate) refusal: Option<Failure>,
}

/// What a session is allowed and promised; each can be changed by `SET hakem.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether reads may go to replicas at all.
    pub split: bool,
    /// Where statements go whatever they are.
    pub route: Route,
    /// What a replica must have seen.
    pub consistency: Consistency,
    /// How old a replica's picture may be; `None` for no bound.
    pub max_lag: Option<Duration>,
    /// Whether the server connection is kept until the client leaves (session pooling).
    pub keeps_server: bool,
    /// Whether transaction blocks are refused (statement pooling).
    pub refuses_blocks: bool,
    /// A request of more bytes than this is passed on in parts, and is not run again elsewhere.
    pub request_max: usize,
}

/// Where statements go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// By their class.
    Auto,
    /// To the primary.
    Primary,
    /// To a replica, unless they are known to write.
    Replica,
}

/// What a replica must have seen before it may serve a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Nothing.
    Eventual,
    /// All but the last `max_lag`.
    Bounded,
    /// That and the session's own writes.
    Session,
    /// That and every write to the database through this proxy.
    Global,
}

/// The transaction, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// None: autocommit.
    None,
    /// BEGIN was answered by the proxy; it goes out with the first statement.
    Deferred(TransactionMode),
    /// A block on the server of the lease.
    Open {
        /// ReadyForQuery said `E`.
        failed: bool,
    },
    /// A block whose server was lost; nothing of it was committed.
    Lost {
        /// The client has been told so.
        told: bool,
    },
}

/// What kind of server a lease is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The primary.
    Primary,
    /// A replica.
    Replica,
}

/// The server that the session holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lease {
    /// Its role; `None` without one.
    pub(crate) role: Option<Role>,
    /// Nothing has been sent to it yet.
    pub(crate) fresh: bool,
    /// Its unnamed statement is this client's.
    pub(crate) unnamed: bool,
    /// What it has of settings cannot be told from what the session has seen.
    pub(crate) unclear: bool,
}

/// How far the request in flight is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Nothing of the answer has been let go: the request can be run again.
    pub(crate) holding: bool,
    /// The reply runs into a retry: it is swallowed up to ReadyForQuery.
    pub(crate) retrying: Option<crate::reply::RetryReason>,
    /// An ErrorResponse has come.
    pub(crate) failed: bool,
    /// A hidden statement failed: what follows ran without it.
    pub(crate) hidden_failed: bool,
    /// More belongs to the request: no Sync has been sent since.
    pub(crate) part: bool,
    /// The server discards what it gets until Sync.
    pub(crate) discarding: bool,
    /// The server waits for CopyData.
    pub(crate) copy_in: bool,
    /// A Sync is kept back until it is known whether COPY would swallow it.
    pub(crate) withheld_sync: bool,
    /// How many effects of a simple query have been applied.
    pub(crate) effects: usize,
}

/// What a frame from the client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet: more frames belong to the request.
    Gathering,
    /// The request needs a server.
    Request(Intent),
    /// The proxy answers itself: see [`Session::take_output`].
    Answered,
    /// CopyData, CopyDone or CopyFail for the server that waits for it: to be passed on as it is.
    Copy,
    /// The client leaves.
    Terminate,
}

/// What a request needs of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Which kind, how fresh.
    pub need: Need,
    /// Why, for the counters.
    pub why: Why,
}

/// Which server will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Only the primary.
    Primary,
    /// A replica, if one is fresh enough; else the primary.
    Replica {
        /// How old its picture may be.
        max_lag: Option<Duration>,
        /// What it must have seen: everything acknowledged before this moment.
        not_before: Option<Instant>,
        /// Every write to the database through this proxy, too.
        global: bool,
    },
}

/// What a client did against the protocol. The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message that cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A password where none was asked for.
    #[error("unexpected password message")]
    Password,
}

impl Session {
    /// A session that has just logged in.
    #[must_use]
    pub fn new(policy: Policy, settings: Settings) -> Session {
        Session {
            policy,
            settings,
            statements: Statements::default(),
            transaction: Transaction::None,
            pins: Vec::new(),
            last_write: None,
            wrote: false,
            request: Request::new(),
            parsed: Vec::new(),
            owed: VecDeque::new(),
            portals: Vec::new(),
            undo: Vec::new(),
            lease: Lease::default(),
            progress: Progress::default(),
            skips_until_sync: false,
            output: Vec::new(),
            to_server: Vec::new(),
            refusal: None,
        }
    }

    /// Takes one complete frame from the client.
    ///
    /// # Errors
    /// [`Violation`]: the connection has to be closed, with SQLSTATE 08P01.
    pub fn on_client(&mut self, frame: Frame<'_>, classifier: &Classifier) -> Result<Step, Violation> {
        let message = Frontend::read(frame)?;
        match message {
            Frontend::Terminate => return Ok(Step::Terminate),
            Frontend::Password => return Err(Violation::Password),
            Frontend::CopyData | Frontend::CopyDone | Frontend::CopyFail => {
                // "Accept but ignore these messages, per protocol spec; we probably got here because a frontend is still
                // sending after receipt of an error during COPY" (PostgresMain).
                return Ok(if self.progress.copy_in { Step::Copy } else { Step::Gathering });
            }
            Frontend::Sync if self.skips_until_sync => {
                self.skips_until_sync = false;
                return Ok(self.answer_ready());
            }
            // "...the backend [...] reads and discards messages until a Sync is reached" (protocol-flow): a simple Query too.
            _ if self.skips_until_sync => return Ok(Step::Gathering),
            _ => {}
        }
        match message {
            Frontend::Query(sql) => return Ok(self.query(frame, sql, classifier)),
            Frontend::Parse(parse) => {
                let statement = Prepared::new(parse.sql, parse.types, classify(classifier, parse.sql));
                self.request.add(&statement.class);
                self.parsed.push(Arc::new(statement));
                self.request.needs_server = true;
            }
            Frontend::Bind(bind) => self.uses(bind.statement),
            Frontend::Describe(Target::Statement(name)) => self.uses(name),
            Frontend::Close(Target::Statement(_)) => {}
            Frontend::Sync | Frontend::Flush => self.request.needs_server |= self.progress.part,
            Frontend::FunctionCall => {
                self.request.add(&unknown());
                self.request.needs_server = true;
            }
            _ => self.request.needs_server = true,
        }
        self.request.frames.extend_from_slice(frame.whole);
        match message {
            Frontend::Sync if !self.request.needs_server => {
                self.request.end = End::Ready;
                Ok(self.answer_without_server())
            }
            Frontend::Sync | Frontend::FunctionCall => Ok(self.ended(End::Ready)),
            Frontend::Flush if self.request.needs_server => Ok(self.ended(End::Part)),
            _ if self.request.frames.len() > self.policy.request_max => {
                self.request.needs_server = true;
                Ok(self.ended(End::Part))
            }
            _ => Ok(Step::Gathering),
        }
    }

    /// The session has got a server, of this role; the request comes next.
    pub fn attach(&mut self, role: Role) {
        self.lease = Lease { role: Some(role), fresh: true, ..Lease::default() };
    }

    /// The session has given its server back. What the server has of the session's settings is recorded.
    pub fn detach(&mut self, memory: &mut ServerMemory) {
        if self.lease.unclear {
            memory.settings = None;
        }
        self.lease = Lease::default();
        self.request.shrink();
    }

    /// Whether a server is held.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.lease.role.is_some()
    }

    /// Whether nothing is owed to the client: the server is idle, or idle in a transaction.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.owed.is_empty()
    }

    /// Whether the server waits for the client's CopyData.
    #[must_use]
    pub fn copies_in(&self) -> bool {
        self.progress.copy_in
    }

    /// Whether the server must be kept for the next request.
    #[must_use]
    pub fn keeps_server(&self) -> bool {
        self.policy.keeps_server
            || self.progress.part
            || !self.pins.is_empty()
            || matches!(self.transaction, Transaction::Open { .. })
    }

    /// What ties the session to its server beyond a transaction.
    #[must_use]
    pub fn pins(&self) -> &[PinReason] {
        &self.pins
    }

    /// Changes a `hakem.*` setting, as named without its prefix.
    ///
    /// # Errors
    /// What the client is to be told: there is no such setting (42704), or the value will not do (22023).
    pub fn configure(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        self.set_policy(name, Some(value))
    }

    /// When the session's last write was acknowledged.
    #[must_use]
    pub fn last_write(&self) -> Option<Instant> {
        self.last_write
    }

    /// The statements that give a fresh session's server the settings of the startup packet; `None` when there is nothing to set.
    #[must_use]
    pub fn opening(&self, memory: &ServerMemory) -> Option<String> {
        crate::settings::difference(memory.settings.as_ref(), self.settings.current())
    }

    /// Those statements have succeeded.
    pub fn opened(&self, memory: &mut ServerMemory) {
        memory.settings = Some(self.settings.current().clone());
    }

    /// The transaction as the client sees it.
    #[must_use]
    pub fn transaction(&self) -> Transaction {
        self.transaction
    }

    /// Whether what the server answered may be written to the client; else it is kept, since the request may yet be run again.
    #[must_use]
    pub fn may_flush(&self) -> bool {
        !self.progress.holding
    }

    /// Lets the answer go: too much of it has come to keep it.
    pub fn give_up_retry(&mut self) {
        self.progress.holding = false;
    }

    /// Whether the proxy itself has something to say to the client, at this point of the conversation.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Moves what the proxy has to say to the end of `out`.
    pub fn take_output(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.output);
    }

    /// Moves what a reply makes it necessary to send to the end of `out`.
    pub fn take_to_server(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.to_server);
    }

    /// Refuses the request: it could not be given a server. The connection goes on, and so does a transaction that has not
    /// begun on any server: it fails.
    pub fn refuse(&mut self, failure: &Failure) {
        failure.put(&mut self.output);
        if let Transaction::Deferred(_) = self.transaction {
            self.transaction = Transaction::Lost { told: true };
        }
        self.conclude_refusal();
    }

    /// After an ErrorResponse of the proxy's own: ReadyForQuery, now or when the Sync comes.
    pub(crate) fn conclude_refusal(&mut self) {
        let status = self.status();
        match self.request.end {
            End::Ready => backend::put_ready(&mut self.output, status),
            End::Open | End::Part => self.skips_until_sync = true,
        }
        self.progress = Progress::default();
        self.owed.clear();
        self.clear_request();
    }

    pub(crate) fn clear_request(&mut self) {
        self.request.clear();
        self.parsed.clear();
    }

    /// The status that ReadyForQuery tells.
    pub(crate) fn status(&self) -> Status {
        match self.transaction {
            Transaction::None => Status::Idle,
            Transaction::Deferred(_) | Transaction::Open { failed: false } => Status::Open,
            Transaction::Open { failed: true } | Transaction::Lost { .. } => Status::Failed,
        }
    }

    fn query(&mut self, frame: Frame<'_>, sql: &[u8], classifier: &Classifier) -> Step {
        let class = classify(classifier, sql);
        let alone = self.request.frames.is_empty() && !self.progress.part;
        self.request.frames.extend_from_slice(frame.whole);
        self.request.add(&class);
        self.request.end = End::Ready;
        if alone && let Some(step) = self.answer(sql, &class) {
            return step;
        }
        self.request.simple = Some(class);
        // "a simple Query message also destroys the unnamed statement" (protocol-flow).
        self.statements.remove(b"");
        self.ended(End::Ready)
    }

    fn uses(&mut self, name: &[u8]) {
        self.request.needs_server = true;
        match self.statements.get(name) {
            Some(statement) => {
                let statement = statement.clone();
                self.request.add(&statement.class);
            }
            // Defined by a Parse of the same request, whose class has been counted.
            None if !self.parsed.is_empty() => {}
            // Defined by an SQL-level PREPARE, or not at all.
            None => self.request.add(&unknown()),
        }
    }

    fn ended(&mut self, end: End) -> Step {
        self.request.end = end;
        match self.transaction {
            Transaction::Lost { .. } => self.answer_lost(),
            _ if self.refusal.is_some() => self.answer_refusal(),
            _ if self.request.begins && self.policy.refuses_blocks => {
                // As PgBouncer words it; its clients match on the text.
                let message = "transaction blocks not allowed in statement pooling mode";
                self.refusal = Some(Failure::error("0A000", message));
                self.answer_refusal()
            }
            _ => Step::Request(Intent { need: self.need(), why: self.request.why }),
        }
    }

    fn need(&self) -> Need {
        let policy = &self.policy;
        // What a Flush leaves open may go on with a write, in the same transaction.
        let known = self.request.end == End::Ready && !self.progress.part;
        let begun = match self.transaction {
            Transaction::None => true,
            Transaction::Deferred(mode) => {
                // "cannot use serializable mode in a hot standby" (GetSerializableTransactionSnapshot).
                mode.access == Some(TransactionAccess::ReadOnly) && mode.isolation != Some(Isolation::Serializable)
            }
            _ => false,
        };
        let insists = policy.route == Route::Replica || self.request.hint == Some(Hint::Replica);
        let refuses = policy.route == Route::Primary || self.request.hint == Some(Hint::Primary);
        let harmless = self.request.access == Access::Read || (insists && self.may_insist());
        if !policy.split || policy.keeps_server || refuses || !known || !begun || !harmless {
            return Need::Primary;
        }
        Need::Replica {
            max_lag: policy.max_lag.filter(|_| policy.consistency != Consistency::Eventual),
            not_before: self
                .last_write
                .filter(|_| matches!(policy.consistency, Consistency::Session | Consistency::Global)),
            global: policy.consistency == Consistency::Global,
        }
    }

    /// Whether a user who asks for a replica gets one for a statement in doubt: where it is the function or the syntax that is
    /// unknown, the user may know better. A known write stays one.
    fn may_insist(&self) -> bool {
        let no_effects = self.request.simple.as_ref().is_none_or(|class| class.effects.is_empty());
        no_effects
            && matches!(self.request.why, Why::UnknownFunction | Why::ParseFailure | Why::TooComplex | Why::NodeDependent)
    }

    /// Answers a simple query that concerns nobody but the proxy.
    fn answer(&mut self, sql: &[u8], class: &Class) -> Option<Step> {
        let [effect] = &*class.effects else { return None };
        if class.statements != 1 || self.refusal.is_some() {
            return None;
        }
        let lost = matches!(self.transaction, Transaction::Lost { .. });
        match (effect, self.transaction) {
            (Effect::Begin(mode), Transaction::None)
                if self.lease.role.is_none() && !self.policy.keeps_server && !self.policy.refuses_blocks =>
            {
                backend::put_command_complete(&mut self.output, begin_tag(sql)?);
                self.transaction = Transaction::Deferred(*mode);
            }
            (Effect::Commit { chain: false }, Transaction::Deferred(_)) => {
                backend::put_command_complete(&mut self.output, "COMMIT");
                self.transaction = Transaction::None;
            }
            (Effect::Rollback { chain: false }, Transaction::Deferred(_) | Transaction::Lost { .. })
            | (Effect::Commit { chain: false }, Transaction::Lost { .. }) => {
                backend::put_command_complete(&mut self.output, "ROLLBACK");
                self.end_lost();
            }
            (Effect::Hakem { name, value }, _) if !lost => match self.set_policy(name, value.as_deref()) {
                Ok(()) => {
                    let tag = if value.is_some() { "SET" } else { "RESET" };
                    backend::put_command_complete(&mut self.output, tag);
                }
                Err(failure) => failure.put(&mut self.output),
            },
            (Effect::HakemShow { name }, _) if !lost => match self.show_policy(name) {
                Some(value) => {
                    backend::put_text_columns(&mut self.output, &[&format!("hakem.{name}")]);
                    backend::put_text_row(&mut self.output, &[&value]);
                    backend::put_command_complete(&mut self.output, "SHOW");
                }
                None => unrecognized(name).put(&mut self.output),
            },
            _ => return None,
        }
        self.clear_request();
        Some(self.answer_ready())
    }

    fn answer_ready(&mut self) -> Step {
        let status = self.status();
        backend::put_ready(&mut self.output, status);
        self.clear_request();
        Step::Answered
    }

    /// A request of nothing but Close (of statements) and Sync.
    fn answer_without_server(&mut self) -> Step {
        let frames = std::mem::take(&mut self.request.frames);
        for frame in Frames::new(&frames) {
            if let Ok(Frontend::Close(Target::Statement(name))) = Frontend::read(frame) {
                self.statements.remove(name);
                backend::put_bare(&mut self.output, backend::tag::CLOSE_COMPLETE);
            }
        }
        self.answer_ready()
    }

    fn answer_refusal(&mut self) -> Step {
        if let Some(failure) = self.refusal.take() {
            failure.put(&mut self.output);
        }
        self.conclude_refusal();
        Step::Answered
    }

    /// A request in a transaction whose server is lost: only its end is understood.
    fn answer_lost(&mut self) -> Step {
        let ends = |class: &Class| {
            class.statements == 1
                && matches!(&*class.effects, [Effect::Commit { chain: false } | Effect::Rollback { chain: false }])
        };
        let extended = self.request.simple.is_none();
        let class = match &self.request.simple {
            Some(class) => Some(class.clone()),
            None => self.executed_alone(),
        };
        if class.is_some_and(|class| ends(&class)) {
            if extended {
                self.answer_extended("ROLLBACK");
            } else {
                backend::put_command_complete(&mut self.output, "ROLLBACK");
            }
            self.end_lost();
            if self.request.end == End::Ready {
                return self.answer_ready();
            }
            self.clear_request();
            return Step::Answered;
        }
        let told = matches!(self.transaction, Transaction::Lost { told: true });
        let failure = if told {
            Failure::error("25P02", "current transaction is aborted, commands ignored until end of transaction block")
        } else {
            crate::loss::lost_in_transaction()
        };
        self.transaction = Transaction::Lost { told: true };
        failure.put(&mut self.output);
        self.conclude_refusal();
        Step::Answered
    }

    /// The class of the one statement that an extended request executes.
    fn executed_alone(&self) -> Option<Arc<Class>> {
        let bound = Frames::new(&self.request.frames).find_map(|frame| match Frontend::read(frame) {
            Ok(Frontend::Bind(bind)) => Some(bind.statement.to_vec()),
            _ => None,
        })?;
        match (&*self.parsed, self.statements.get(&bound)) {
            ([parsed], _) => Some(parsed.class.clone()),
            ([], Some(statement)) => Some(statement.class.clone()),
            _ => None,
        }
    }

    /// The replies to an extended request whose one statement returns no rows.
    fn answer_extended(&mut self, command: &str) {
        let frames = std::mem::take(&mut self.request.frames);
        for frame in Frames::new(&frames) {
            use backend::tag;
            match Frontend::read(frame) {
                Ok(Frontend::Parse(_)) => backend::put_bare(&mut self.output, tag::PARSE_COMPLETE),
                Ok(Frontend::Bind(_)) => backend::put_bare(&mut self.output, tag::BIND_COMPLETE),
                Ok(Frontend::Close(_)) => backend::put_bare(&mut self.output, tag::CLOSE_COMPLETE),
                Ok(Frontend::Describe(Target::Portal(_))) => backend::put_bare(&mut self.output, tag::NO_DATA),
                Ok(Frontend::Describe(Target::Statement(_))) => {
                    backend::put_no_parameters(&mut self.output);
                    backend::put_bare(&mut self.output, tag::NO_DATA);
                }
                Ok(Frontend::Execute) => backend::put_command_complete(&mut self.output, command),
                _ => {}
            }
        }
    }

    fn end_lost(&mut self) {
        self.settings.rollback();
        self.wrote = false;
        self.transaction = Transaction::None;
    }

    pub(crate) fn set_policy(&mut self, name: &str, value: Option<&str>) -> Result<(), Failure> {
        let invalid = || {
            Failure::error("22023", format!("invalid value for parameter \"hakem.{name}\": \"{}\"", value.unwrap_or_default()))
        };
        match name {
            "route" => {
                self.policy.route = match value.unwrap_or("auto") {
                    "auto" => Route::Auto,
                    "primary" => Route::Primary,
                    "replica" => Route::Replica,
                    _ => return Err(invalid()),
                }
            }
            "consistency" => {
                self.policy.consistency = match value.unwrap_or("session") {
                    "eventual" => Consistency::Eventual,
                    "bounded" => Consistency::Bounded,
                    "session" => Consistency::Session,
                    "global" => Consistency::Global,
                    _ => return Err(invalid()),
                }
            }
            "max_lag" => self.policy.max_lag = Some(parse_duration(value.unwrap_or("1s")).ok_or_else(invalid)?),
            _ => return Err(unrecognized(name)),
        }
        Ok(())
    }

    fn show_policy(&self, name: &str) -> Option<String> {
        match name {
            "route" => Some(match self.policy.route {
                Route::Auto => "auto".to_owned(),
                Route::Primary => "primary".to_owned(),
                Route::Replica => "replica".to_owned(),
            }),
            "consistency" => Some(match self.policy.consistency {
                Consistency::Eventual => "eventual".to_owned(),
                Consistency::Bounded => "bounded".to_owned(),
                Consistency::Session => "session".to_owned(),
                Consistency::Global => "global".to_owned(),
            }),
            "max_lag" => Some(self.policy.max_lag.map_or("0".to_owned(), |lag| format!("{}ms", lag.as_millis()))),
            _ => None,
        }
    }
}

fn classify(classifier: &Classifier, sql: &[u8]) -> Arc<Class> {
    // Text in another encoding than UTF-8 cannot be examined; all that can is ASCII in every client encoding that matters.
    std::str::from_utf8(sql).map_or_else(|_| Arc::new(unknown()), |sql| classifier.classify(sql))
}

fn unknown() -> Class {
    Class {
        access: Access::Write,
        effects: Box::default(),
        why: Why::UnknownStatement,
        statements: 1,
        hint: None,
    }
}

/// The command tag of BEGIN; `None` when a comment stands in front of it and the server had better say.
fn begin_tag(sql: &[u8]) -> Option<&'static str> {
    let word = sql.trim_ascii_start();
    if word.get(..5)?.eq_ignore_ascii_case(b"begin") {
        Some("BEGIN")
    } else if word.get(..5)?.eq_ignore_ascii_case(b"start") {
        Some("START TRANSACTION")
    } else {
        None
    }
}

fn unrecognized(name: &str) -> Failure {
    Failure::error("42704", format!("unrecognized configuration parameter \"hakem.{name}\""))
        .hint("There are hakem.route, hakem.consistency and hakem.max_lag.")
}

/// A duration in PostgreSQL's notation: an integer and `us`, `ms`, `s`, `min` or `h`; milliseconds without a unit.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "us" => Some(Duration::from_micros(number)),
        "ms" | "" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}
