//! [`Session`]: the state of the conversation with one client, and what each of the client's frames asks for.
//!
//! Owns the decision what a request needs ([`Intent`]) and the answers that need no server. How a request is written for a
//! server is in `encode`, what comes back in `reply`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use classifier::{Access, Class, Classifier, PinReason, Place, Why};
use wire::backend::{Failure, Status};
use wire::frame::Frame;
use wire::frontend::{Bind, Frontend, Parse, Target};

use crate::durability::Level;
use crate::flight::{Changes, Sent};
use crate::foreign::{classify, unknown};
use crate::memory::ServerMemory;
use crate::names::Names;
use crate::owed::Owed;
use crate::policy::{Affinity, Charter, Route};
use crate::replay::Tape;
use crate::reported::Reported;
use crate::request::{End, Request};
use crate::sequences::{Token, WroteOn};
use crate::settings::Settings;
use crate::shapes::{Shape, Shapes};
use crate::sql::Rewrite;
use crate::statements::{Identity, Named, Prepared, Statements};
use crate::terms::{Intent, Need, Role, Step, Transaction, Violation};
use crate::trace::{Tracing, Wrap};
use crate::transaction::{Block, Move};

/// The conversation with one client.
#[derive(Debug)]
pub struct Session {
    pub(crate) policy: Arc<Charter>,
    /// Where the last request went, and why.
    pub(crate) last_route: Option<(Role, Why)>,
    pub(crate) settings: Settings,
    pub(crate) statements: Statements,
    pub(crate) transaction: Transaction,
    /// What is known of the block on the server of the lease.
    pub(crate) block: Block,
    /// How it leaves that server for the sake of the request that has just been gathered.
    pub(crate) moving: Option<Move>,
    /// A read-only transaction turned out to need the primary, and had to be given up on a replica.
    pub(crate) shuns_replicas: bool,
    pub(crate) pins: Vec<PinReason>,
    /// A server would not have the session be who it is.
    pub(crate) disowned: bool,
    /// There is a reason to ask whether the pins still stand.
    pub(crate) rechecks: bool,
    /// What the client was told last of the settings that servers report.
    pub(crate) told: Arc<Reported>,
    /// Settings that have been reset to less than the startup packet asked for.
    pub(crate) restores: BTreeSet<String>,
    /// When its last write was acknowledged.
    pub(crate) last_write: Option<Instant>,
    /// Which session it is.
    pub(crate) token: Token,
    /// Where it has written.
    pub(crate) wrote_on: WroteOn,
    /// Whether the current transaction sent anything but reads to the primary.
    pub(crate) wrote: bool,
    /// Whether it may have changed the catalogue.
    pub(crate) defined: bool,
    /// How often a transaction was committed that may have.
    pub(crate) definitions: u64,
    /// The request that is being gathered.
    pub(crate) request: Request,
    /// Statements that Parse messages of the request define, in their order.
    pub(crate) parsed: Vec<Arc<Prepared>>,
    /// Requests that have not been answered, in their order.
    pub(crate) flight: VecDeque<Sent>,
    /// How many of them the server of the lease has got.
    pub(crate) sent: usize,
    /// How many bytes of them are kept.
    pub(crate) flight_bytes: usize,
    /// What the client has sent next has to wait for an answer.
    pub(crate) waits: bool,
    /// Buffers for requests.
    pub(crate) spares: Vec<Vec<u8>>,
    pub(crate) owed: VecDeque<Owed>,
    /// The statements that portals execute, for as long as the transaction lasts.
    pub(crate) portals: Vec<Named>,
    /// A statement of the request being sent that is not what the client was told.
    pub(crate) misfit: Option<Arc<Prepared>>,
    /// What requests that have not been answered have changed of the client's statements.
    pub(crate) changes: Changes,
    pub(crate) lease: Lease,
    pub(crate) progress: Progress,
    /// What the client sends is dropped until Sync, by the protocol's rule for errors; no server takes part in it.
    pub(crate) skips_until_sync: bool,
    /// What the proxy itself has to say to the client.
    pub(crate) output: Vec<u8>,
    /// What the server has to be sent because of a reply.
    pub(crate) to_server: Vec<u8>,
    /// What the next request is refused with: state was lost while the client was idle.
    pub(crate) refusal: Option<Box<Failure>>,
    /// What a replica has refused: if the primary does not, something was learnt.
    pub(crate) refused: Vec<Arc<Class>>,
    /// What is known of the transaction, should its COMMIT be lost; nothing for a session that has never asked.
    pub(crate) tracing: Option<Box<Tracing>>,
    /// Why a statement could not be prepared that the next one executes: what that one fails with.
    pub(crate) cause: Option<Vec<u8>>,
    /// The transaction, should it have to be run again.
    pub(crate) tape: Option<Box<Tape>>,
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
    /// What is known of that one's parameters and columns.
    pub(crate) unnamed_shape: Shape,
    /// What it has of settings cannot be told from what the session has seen.
    pub(crate) unclear: bool,
    /// Code has run there that may have set what nobody has seen. The session may go on with that; another must not.
    pub(crate) obscured: bool,
    /// The client was told of settings there that such code may have made.
    pub(crate) misled: bool,
    /// Something may have been drawn from a sequence there, by this session and for its own use.
    pub(crate) drew: bool,
    /// How many requests it has got.
    pub(crate) requests: usize,
    /// The `synchronous_commit` that a rule has given it, for as long as nothing else is asked for.
    pub(crate) level: Option<Level>,
}

/// How far the first of the requests in flight is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    /// Nothing of the answer has been let go: the request can be run again.
    pub(crate) holding: bool,
    /// The reply runs into a retry: it is swallowed up to ReadyForQuery.
    pub(crate) retrying: Option<crate::errors::RetryReason>,
    /// An ErrorResponse has come.
    pub(crate) failed: bool,
    /// A hidden statement failed: what follows ran without it.
    pub(crate) hidden_failed: bool,
    /// What is known of the shapes of what is executed.
    pub(crate) shapes: Shapes,
    /// The parameters of the statement that is being described.
    pub(crate) parameters: u32,
    /// The request is not sent before the server has taken the session's settings.
    pub(crate) awaits_settings: bool,
    /// More belongs to the request: no Sync has been sent since.
    pub(crate) part: bool,
    /// The server may keep its answers to itself until it gets more.
    pub(crate) unflushed: bool,
    /// The server discards what it gets until Sync.
    pub(crate) discarding: bool,
    /// The server waits for CopyData.
    pub(crate) copy_in: bool,
    /// A Sync is kept back until it is known whether COPY would swallow it.
    pub(crate) withheld_sync: bool,
    /// A portal has more rows than were asked for.
    pub(crate) suspended: bool,
    /// How many effects of a simple query have been applied.
    pub(crate) effects: usize,
    /// The transaction block that the request has begun in is over.
    pub(crate) ended: bool,
    /// A statement is complete, in a transaction that is not committed yet: the client is told when it is. Servers keep such messages to
    /// themselves up to the end, too.
    pub(crate) withheld: bool,
    /// The transaction of the proxy's own that the request is in.
    pub(crate) wrap: Wrap,
}

impl Session {
    /// A session that has just logged in.
    #[must_use]
    pub fn new(policy: impl Into<Arc<Charter>>, settings: Settings) -> Session {
        let policy = policy.into();
        let settings = settings.beginning_with(&policy.own);
        let mut session = Session {
            last_route: None,
            policy,
            settings,
            statements: Statements::default(),
            transaction: Transaction::None,
            block: Block::default(),
            moving: None,
            shuns_replicas: false,
            pins: Vec::new(),
            disowned: false,
            rechecks: false,
            told: Arc::default(),
            restores: BTreeSet::new(),
            last_write: None,
            token: Token::default(),
            wrote_on: WroteOn::default(),
            wrote: false,
            defined: false,
            definitions: 0,
            request: Request::default(),
            parsed: Vec::new(),
            flight: VecDeque::new(),
            sent: 0,
            flight_bytes: 0,
            waits: false,
            spares: Vec::new(),
            owed: VecDeque::new(),
            portals: Vec::new(),
            misfit: None,
            changes: Changes::default(),
            lease: Lease::default(),
            progress: Progress::default(),
            skips_until_sync: false,
            output: Vec::new(),
            to_server: Vec::new(),
            refusal: None,
            refused: Vec::new(),
            tracing: None,
            cause: None,
            tape: None,
        };
        session.settle_pin();
        session
    }

    /// Takes one complete frame from the client.
    ///
    /// # Errors
    /// [`Violation`]: the connection has to be closed, with SQLSTATE 08P01.
    pub fn on_client(&mut self, frame: Frame<'_>, classifier: &Classifier) -> Result<Step, Violation> {
        let message = Frontend::read(frame)?;
        if self.is_behind() && self.comes_too_early(frame, &message) {
            self.waits = true;
            return Ok(Step::Later);
        }
        match message {
            Frontend::Terminate => return Ok(Step::Terminate),
            Frontend::Password => return Err(Violation::Password),
            Frontend::CopyData | Frontend::CopyDone | Frontend::CopyFail => {
                // "Accept but ignore these messages, per protocol spec; we probably got here because a frontend is still
                // sending after receipt of an error during COPY" (PostgresMain).
                // But it may have sent them ahead of the answer, too, behind an Execute of COPY.
                if self.progress.copy_in {
                    return Ok(Step::Copy);
                }
                if !self.request.copies || self.request.frames.is_empty() {
                    return Ok(Step::Gathering);
                }
            }
            // "Ignore Flush/Sync for the convenience of client libraries", and fail at anything else (CopyGetData), which takes
            // that message's place.
            Frontend::Flush | Frontend::Sync if self.progress.copy_in => return Ok(Step::Gathering),
            _ if self.progress.copy_in => return Ok(Step::Copy),
            Frontend::Sync if self.skips_until_sync => {
                self.skips_until_sync = false;
                return Ok(self.answer_ready());
            }
            // "...the backend [...] reads and discards messages until a Sync is reached" (protocol-flow): a simple Query too.
            _ if self.skips_until_sync => return Ok(Step::Gathering),
            Frontend::Sync => {}
            _ if self.progress.discarding => return Ok(Step::Gathering),
            _ => {}
        }
        match message {
            Frontend::Query(sql) => return Ok(self.query(frame, sql, classifier)),
            Frontend::Parse(parse) => {
                let class = classify(classifier, parse.sql);
                if self.is_behind() && crate::sql::concerns_statements(&class) {
                    self.waits = true;
                    return Ok(Step::Later);
                }
                self.request.parses_unnamed |= parse.name.is_empty();
                let statement = self.prepared(parse, class, classifier);
                self.add(&statement.class);
                self.parsed.push(statement);
                self.request.needs_server = true;
            }
            Frontend::Bind(bind) => {
                self.request.uses_portals = true;
                // Another request may execute it.
                self.request.plain &= bind.portal.is_empty();
                self.request.binds_unnamed |= bind.portal.is_empty();
                self.request.relies |= self.uses(bind.statement).matters();
            }
            Frontend::Describe(Target::Statement(name)) => {
                self.uses(name);
            }
            Frontend::Close(Target::Statement(_)) => {}
            Frontend::Describe(Target::Portal(portal)) | Frontend::Close(Target::Portal(portal)) => {
                self.request.use_portal(portal);
                self.request.uses_portals = true;
                self.request.needs_server = true;
            }
            Frontend::Execute => {
                self.request.executes = true;
                self.request.use_portal(crate::encode::portal_name(frame));
                self.request.uses_portals = true;
                // Of a portal that an earlier request has bound, maybe.
                let bound = self.bound(crate::encode::portal_name(frame));
                let (copies, local) = bound.map_or((false, false), |statement| {
                    (statement.class.why == Why::CopyFrom, crate::sql::concerns_statements(&statement.class))
                });
                self.request.copies |= copies;
                self.request.local |= local;
                self.request.needs_server = true;
            }
            Frontend::Sync | Frontend::Flush => self.request.needs_server |= self.progress.part,
            Frontend::FunctionCall => {
                // Alone among what takes no part in the extended protocol it leaves portals as they are.
                self.request.uses_bound |= !self.portals.is_empty();
                self.add(&Class { effects: crate::pins::of_function(frame).into_iter().collect(), ..unknown() });
                self.request.executes = true;
                self.request.needs_server = true;
                self.request.mixed = !self.request.frames.is_empty();
            }
            _ => {
                self.request.uses_portals = true;
                self.request.needs_server = true;
            }
        }
        self.request.keep(frame.whole);
        match message {
            Frontend::Sync if !self.request.needs_server => {
                self.request.end = End::Ready;
                Ok(self.answer_without_server())
            }
            Frontend::Sync | Frontend::FunctionCall => Ok(self.ended(End::Ready)),
            Frontend::Flush if self.request.needs_server => {
                // What only prepares has no effect that a transaction could undo: it need not stay open for the sake of it, and hold
                // its server until the client thinks of a Sync, as asyncpg does.
                let prepares = !self.request.uses_portals && !self.progress.part;
                let end = if prepares && self.transaction == Transaction::None { End::Prepared } else { End::Part };
                Ok(self.ended(end))
            }
            Frontend::Flush => {
                self.close_statements();
                Ok(Step::Answered)
            }
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
        if self.lease.unclear || self.lease.obscured {
            memory.settings = None;
        }
        self.lease = Lease::default();
        self.spares = Vec::new();
    }

    /// Whether a server is held.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.lease.role.is_some()
    }

    /// Whether it is the client's turn: nothing is owed to it, or nothing that the server would send before it gets more.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.owed.is_empty() || self.progress.unflushed
    }

    /// Whether the server has answered all that it was sent, up to a ReadyForQuery.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.owed.is_empty() && !self.progress.part
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

    /// Whether the server has nothing more to do for the session, which has said so without it.
    #[must_use]
    pub fn rests(&self) -> bool {
        self.flight.is_empty() && self.is_synced() && !self.keeps_server() && self.request.frames.is_empty()
    }

    /// The channels that have to be listened on before the request in hand is sent or answered.
    #[must_use]
    pub fn channels_wanted(&self) -> &[String] {
        // Mostly there are none, and what decides about them is not looked up.
        let channels = &*self.request.channels;
        if !channels.is_empty() && self.hosts_listen() { channels } else { &[] }
    }

    /// The channels that the session listens on through the proxy, as far as that is committed.
    #[must_use]
    pub fn channels(&self) -> &Names {
        self.settings.channels()
    }

    /// Whether the client may be told of notifications now: PostgreSQL tells of them between transactions.
    #[must_use]
    pub fn hears(&self) -> bool {
        self.transaction == Transaction::None
            && self.flight.is_empty()
            && self.owed.is_empty()
            && self.request.frames.is_empty()
            && !self.progress.part
    }

    /// How many prepared statements the client has.
    #[must_use]
    pub fn statements(&self) -> usize {
        self.statements.len()
    }

    /// When the session's last write was acknowledged.
    #[must_use]
    pub fn last_write(&self) -> Option<Instant> {
        self.last_write
    }

    /// How often the session may have changed the database's catalogue, to the knowledge of others: what statements are has to be asked
    /// anew when this has changed.
    #[must_use]
    pub fn definitions(&self) -> u64 {
        self.definitions
    }

    /// Whether nothing is kept that has a class: the client's next frame begins a request behind which none is. Only then may another
    /// classifier than the last one be handed to [`Session::on_client`].
    #[must_use]
    pub fn is_between(&self) -> bool {
        self.request.frames.is_empty() && self.flight.is_empty()
    }

    /// Goes over to another classifier, between two requests: what has been prepared is judged anew.
    pub fn reclassify(&mut self, classifier: &Classifier) {
        self.statements.reclassify(classifier);
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
        !self.progress.holding && !self.progress.withheld
    }

    /// Lets the answer go: too much of it has come to keep it.
    pub fn give_up_retry(&mut self) {
        self.progress.holding = false;
        self.progress.withheld = false;
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
        if self.tape.is_some() {
            let written = std::mem::take(&mut self.to_server);
            self.record(&written);
            self.to_server = written;
        }
        out.append(&mut self.to_server);
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
        let behind = self.is_behind();
        // What concerns prepared statements is answered, or rewritten, by what their names stand for.
        if behind && !(alone && self.follows(&self.request_of(&class))) {
            self.waits = true;
            return Step::Later;
        }
        self.request.keep(frame.whole);
        let class = match self.rewrite(sql, &class, classifier).filter(|_| alone) {
            Some((Rewrite::Prepare(name, statement), inner)) => {
                // What it would do is not done yet.
                let inner = Arc::new(Class { effects: Box::default(), ..Class::clone(&inner) });
                self.request.rewrite = Some(Rewrite::Prepare(name, statement));
                inner
            }
            Some((rewrite, inner)) => {
                self.request.rewrite = Some(rewrite);
                self.request.executes = true;
                inner
            }
            None => {
                self.request.executes = true;
                self.request.rewrite = self.reveals(sql, &class).filter(|_| alone);
                class
            }
        };
        self.add(&class);
        self.request.end = End::Ready;
        self.request.needs_server = true;
        self.request.mixed = !alone;
        if alone
            && !behind
            && let Some(step) = self.answer(sql, &class)
        {
            self.statements.remove(b"");
            return step;
        }
        if alone && !behind && self.answers_listen(&class) {
            self.statements.remove(b"");
            let waits = !self.request.channels.is_empty();
            self.request.simple = Some(class);
            return if waits { Step::Listen } else { self.listened() };
        }
        // Among other statements it is the server's affair.
        self.request.channels.clear();
        self.request.simple = Some(class);
        self.ended(End::Ready)
    }

    /// The statement that a Parse message asks for; the very same where the client does so again and again.
    fn prepared(&self, parse: Parse<'_>, class: Arc<Class>, classifier: &Classifier) -> Arc<Prepared> {
        if let Some(statement) = self.prepared_by_text(parse, &class, classifier) {
            return Arc::new(statement);
        }
        if !parse.name.is_empty() {
            return Arc::new(Prepared::named(parse.sql, parse.types, class, &self.settings));
        }
        match self.statements.get(b"") {
            Some(known) if known.is(parse.sql, parse.types, &class) => known.clone(),
            _ => Arc::new(Prepared::unnamed(parse.sql, parse.types, class)),
        }
    }

    /// A message uses the statement of that name; what the client was told of it.
    fn uses(&mut self, name: &[u8]) -> Shape {
        self.request.needs_server = true;
        if name.is_empty() && self.request.parses_unnamed {
            // Of the same request, whose class has been counted; not the one before.
            return Shape::default();
        }
        match self.statements.get(name) {
            Some(statement) => {
                let statement = statement.clone();
                self.add(&statement.class);
                return statement.told.get();
            }
            // Defined by a Parse of the same request, whose class has been counted.
            None if !self.parsed.is_empty() => {}
            // Defined by an SQL-level PREPARE, or not at all.
            None => self.request.add(&unknown()),
        }
        Shape::default()
    }

    fn ended(&mut self, end: End) -> Step {
        self.request.end = end;
        match self.transaction {
            Transaction::Lost { .. } => self.answer_lost(),
            _ if self.refusal.is_some() => self.answer_refusal(),
            _ if self.request.begins && self.policy.refuses_blocks => {
                // As PgBouncer words it; its clients match on the text.
                let message = "transaction blocks not allowed in statement pooling mode";
                self.refusal = Some(Box::new(Failure::error("0A000", message)));
                self.answer_refusal()
            }
            _ => {
                self.moving = self.leaving(&self.request);
                Step::Request(Intent { need: self.need(&self.request), why: self.request.why() })
            }
        }
    }

    /// Whether a frame cannot be taken before the requests ahead of it have been answered.
    fn comes_too_early(&self, frame: Frame<'_>, message: &Frontend<'_>) -> bool {
        match *message {
            Frontend::Password => false,
            _ if !self.takes_more() => true,
            _ if self.request.frames.len() + frame.whole.len() > self.policy.request_max => true,
            Frontend::Terminate | Frontend::Flush | Frontend::FunctionCall => true,
            Frontend::Parse(parse) => {
                let prepares = !parse.name.is_empty() && self.flight.back().is_some_and(|last| last.prepares);
                self.is_uncertain(parse.name, true)
                    || (prepares && self.is_pending(Identity::new(parse.sql, parse.types, &self.settings)))
            }
            Frontend::Bind(Bind { statement: name, .. }) | Frontend::Describe(Target::Statement(name)) => {
                self.is_uncertain(name, false)
                    || (!name.is_empty() && self.statements.get(name).is_some_and(|known| self.is_pending(known.id)))
            }
            Frontend::Sync => !self.follows(&self.request),
            _ => false,
        }
    }

    /// What a whole request needs of a server.
    pub(crate) fn need(&self, request: &Request) -> Need {
        let policy = &self.policy;
        // What a Flush leaves open may go on with a write, in the same transaction.
        let known = request.end != End::Part && !self.progress.part;
        let begun = match self.transaction {
            Transaction::None => match request.opens {
                // What comes first decides.
                Some(mode) => request.why != Why::Empty && self.suits_replica(mode),
                None => !self.is_serializable_by_default(),
            },
            Transaction::Deferred(mode) => self.suits_replica(mode),
            _ => false,
        };
        let own = self.own();
        let insists = own.route == Route::Replica || request.place == Some(Place::Replica);
        let bound = own.pin || own.affinity == Affinity::Primary || own.route == Route::Primary;
        let refuses = bound || request.place == Some(Place::Primary);
        let harmless = request.access == Access::Read || (insists && may_insist(request));
        if !policy.split || policy.keeps_server || refuses || !known || !begun || !harmless {
            return Need::Primary;
        }
        self.freshness(&request.wishes, insists)
    }
}

/// Whether a user who asks for a replica gets one for a statement in doubt: where it is the function or the syntax that is
/// unknown, the user may know better. A known write stays one.
fn may_insist(request: &Request) -> bool {
    !request.leaves_something
        && matches!(request.why, Why::UnknownFunction | Why::ParseFailure | Why::TooComplex | Why::NodeDependent)
}
