//! How the outcome of a COMMIT can be found out when its answer is lost: `SET hakem.commit_resolution = on`.
//!
//! Owns when a server is asked for a [`Trace`]: behind each request that writes in a transaction, in the same write, so that it is known when
//! COMMIT comes; a COMMIT that comes earlier waits for it. A write outside of a transaction is put into one of the proxy's own
//! ([`Wrap`]), whose COMMIT goes out when the trace is known. What follows from a trace is `fate`'s.
//!
//! The question is asked in the extended protocol by a portal of its own: a simple query would destroy the client's unnamed ones.

use std::sync::Arc;
use std::time::Instant;

use classifier::{Class, Effect};
use wire::backend::{self, SqlState, Status, tag};
use wire::frame::Frames;
use wire::frontend::{self, Frontend, Target};

use crate::fate::{Fate, QUESTION, Trace};
use crate::foreign::unknown;
use crate::loss::Loss;
use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::reply::Verdict;
use crate::request::{End, Request};
use crate::session::{Lease, Progress, Session};
use crate::settings::Settings;
use crate::sql::{put_close_portal, put_execute};
use crate::statements::Prepared;
use crate::terms::{Role, Transaction};

/// What is known of the transaction that is open.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tracing {
    /// The last answer.
    known: Option<Trace>,
    /// Something has been written that no answer covers.
    blind: bool,
    /// The question, as a statement that servers share.
    question: Option<Arc<Prepared>>,
    /// The completion of a statement in a transaction of the proxy's own, until that is committed.
    completion: Vec<u8>,
}

/// A transaction of the proxy's own around a request that is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Wrap {
    /// There is none.
    #[default]
    None,
    /// The request is in it.
    Running,
    /// It is being committed, or rolled back.
    Ending,
}

impl Session {
    /// Whether a request outside of a block is put into one: it writes rows and does nothing that a block would make different.
    pub(crate) fn wraps(&self, request: &Request) -> bool {
        self.resolves_commits()
            && self.transaction == Transaction::None
            && self.lease.role == Some(Role::Primary)
            && request.end == End::Ready
            && request.wrappable
            && request.writes
            && request.executes
            && !request.mixed
            && !self.progress.part
            && request.rewrite.is_none()
            && request.simple.as_ref().is_none_or(|class| class.statements == 1)
    }

    /// Whether the session wants to know what became of a commit whose answer is lost.
    #[must_use]
    pub fn resolves_commits(&self) -> bool {
        self.own().commit_resolution
    }

    /// Whether the client must not be told what has been answered unless it is committed.
    #[must_use]
    pub fn withholds(&self) -> bool {
        self.progress.withheld
    }

    /// Begins the transaction around the first request.
    pub(crate) fn encode_wrap(&mut self, out: &mut Vec<u8>) {
        if self.wraps(&self.flight[0].request) {
            frontend::put_query(out, "BEGIN");
            self.owe(Owed::Hidden);
            self.lease.unnamed = false;
            self.progress.wrap = Wrap::Running;
            self.forget_trace();
        }
    }

    /// Asks for a trace behind a request that has just been written, if it writes in a transaction.
    pub(crate) fn encode_trace(&mut self, at: usize, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        let request = &self.flight[at].request;
        if !self.resolves_commits()
            || self.lease.role != Some(Role::Primary)
            || !(request.writes && request.executes)
            || !(self.progress.wrap != Wrap::None || self.is_in_block(at))
        {
            return;
        }
        // A server that waits for CopyData takes no question, and one that discards what it gets up to a Sync must not get one of ours. What
        // concerns the transaction or its statements comes first, and so does the question's own fate. Such a request is asked behind when
        // it has been answered.
        let suits = request.wrappable && !request.copies && !request.mixed && request.is_whole();
        if suits && !self.progress.discarding && !self.is_question_pending() {
            self.ask_for_trace(memory, out);
        } else {
            self.tracing().blind = true;
        }
    }

    fn tracing(&mut self) -> &mut Tracing {
        self.tracing.get_or_insert_default()
    }

    /// Whether the server may or may not have the question, depending on answers that have not come.
    fn is_question_pending(&mut self) -> bool {
        let id = self.question().id;
        self.owed.iter().any(|owed| owed.decides() == Some(id))
    }

    fn question(&mut self) -> Arc<Prepared> {
        let question = self.tracing().question.get_or_insert_with(|| {
            Arc::new(Prepared::named(QUESTION.as_bytes(), &[0, 0], Arc::new(unknown()), &Settings::default()))
        });
        question.clone()
    }

    fn is_in_block(&self, at: usize) -> bool {
        matches!(self.transaction, Transaction::Open { failed: false } | Transaction::Deferred(_))
            || self.flight.iter().take(at + 1).any(|sent| sent.request.begins)
    }

    fn ask_for_trace(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        let question = self.question();
        self.ensure(&question, memory, out);
        frontend::put_bind(out, PORTAL, &question.id.name().0, &[0; 6]);
        put_execute(out, PORTAL);
        put_close_portal(out, PORTAL);
        frontend::put_sync(out);
        self.owe(Owed::HiddenStep);
        self.owe(Owed::HiddenTrace);
        self.owe(Owed::HiddenStep);
        self.owe(Owed::HiddenTraced);
        self.tracing().blind = false;
    }

    /// Asks behind what has been answered.
    fn ask_late(&mut self, memory: &mut ServerMemory) {
        let mut out = std::mem::take(&mut self.to_server);
        self.ask_for_trace(memory, &mut out);
        self.to_server = out;
    }

    /// Whether an answer has not come.
    pub(crate) fn awaits_trace(&self) -> bool {
        // Without the setting none was asked for.
        self.resolves_commits() && self.owed.iter().any(|owed| matches!(owed, Owed::HiddenTraced))
    }

    pub(crate) fn learn_trace(&mut self, row: &[u8]) {
        self.tracing().known = Trace::read(row);
    }

    /// The server could not be asked: the transaction has failed.
    pub(crate) fn miss_trace(&mut self) {
        self.tracing().blind = true;
    }

    pub(crate) fn forget_trace(&mut self) {
        if let Some(tracing) = &mut self.tracing {
            tracing.known = None;
            tracing.blind = false;
            tracing.completion.clear();
        }
    }

    /// The question has been answered, as well as it could be.
    pub(crate) fn traced(&mut self) -> Verdict {
        self.waits = false;
        if self.progress.wrap == Wrap::Running {
            self.end_wrap("COMMIT");
        }
        self.settle_owed();
        if self.flight.is_empty() && self.owed.is_empty() && !self.keeps_server() {
            return Verdict::HiddenReady { free: true };
        }
        Verdict::Swallow
    }

    /// The request in a transaction of the proxy's own is over; that is not.
    pub(crate) fn on_wrapped(&mut self, status: Status, memory: &mut ServerMemory) -> Verdict {
        if status != Status::Open {
            self.end_wrap("ROLLBACK");
        } else if !self.awaits_trace() {
            self.ask_late(memory);
        }
        self.settle_owed();
        Verdict::Swallow
    }

    fn end_wrap(&mut self, command: &str) {
        frontend::put_query(&mut self.to_server, command);
        self.owe(Owed::WrapEnd);
        self.progress.wrap = Wrap::Ending;
    }

    /// A statement in a transaction of the proxy's own is complete: the client is told so when it is committed.
    pub(crate) fn put_aside(&mut self, tag: u8, body: &[u8]) -> Verdict {
        let completion = &mut self.tracing().completion;
        completion.push(tag);
        completion.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
        completion.extend_from_slice(body);
        Verdict::Swallow
    }

    /// It is committed.
    pub(crate) fn tell_completion(&mut self) {
        if let Some(tracing) = &mut self.tracing {
            self.output.append(&mut tracing.completion);
        }
    }

    /// A request is over that writes in a transaction, and behind which it could not be asked at once.
    pub(crate) fn trace_late(&mut self, status: Status, memory: &mut ServerMemory) {
        if self.tracing.as_ref().is_some_and(|tracing| tracing.blind)
            && !self.progress.discarding
            && status == Status::Open
            && self.resolves_commits()
            && self.owed.is_empty()
        {
            self.ask_late(memory);
        }
    }

    /// The trace by which it can be found out what became of a commit that has been sent and not been answered.
    pub(crate) fn resolvable(&self) -> Option<Trace> {
        let tracing = self.tracing.as_ref().filter(|tracing| !tracing.blind)?;
        let trace = tracing.known.filter(|trace| trace.xid.is_some())?;
        let commits = match self.progress.wrap {
            Wrap::None => self.transaction == (Transaction::Open { failed: false }) && self.commits_alone(),
            Wrap::Running => false,
            Wrap::Ending => !self.progress.failed,
        };
        (commits && self.flight.len() == 1 && self.sent == 1).then_some(trace)
    }

    /// Whether the first request is nothing but a COMMIT.
    pub(crate) fn commits_alone(&self) -> bool {
        let Some(sent) = self.flight.front().filter(|sent| sent.request.end == End::Ready) else { return false };
        let is_commit =
            |class: &Class| class.statements == 1 && matches!(*class.effects, [Effect::Commit { chain: false }]);
        if let Some(class) = &sent.request.simple {
            return is_commit(class);
        }
        let (mut executed, mut others) = (0, 0);
        for frame in Frames::new(&sent.request.frames) {
            match Frontend::read(frame) {
                Ok(Frontend::Execute) => executed += 1,
                Ok(Frontend::Bind(bind)) => {
                    let known = self.statements.get(bind.statement);
                    others += usize::from(!known.is_some_and(|statement| is_commit(&statement.class)));
                }
                _ => {}
            }
        }
        executed == 1 && others == 0
    }

    /// What became of the commit is known, or will never be. What follows from it is as in [`Session::on_lost`].
    pub fn resolve(&mut self, fate: Fate, code: Option<SqlState>, now: Instant) -> Loss {
        match fate {
            Fate::Committed => {
                self.conclude_committed(now);
                Loss::Told
            }
            Fate::Aborted if self.may_replay(code, true) => Loss::Replay,
            Fate::Aborted => self.mourn(code, true, now),
            Fate::Unknown => self.mourn(code, false, now),
        }
    }

    /// The client gets what it would have got, as far as it has not got it.
    fn conclude_committed(&mut self, now: Instant) {
        let owed = std::mem::take(&mut self.owed);
        let Some(sent) = self.flight.front() else { return };
        // Whether those that are owed are of statements or portals.
        let described = Frames::new(&sent.request.frames).filter_map(|frame| match Frontend::read(frame) {
            Ok(Frontend::Describe(target)) => Some(matches!(target, Target::Statement(_))),
            _ => None,
        });
        let described: Vec<bool> = described.collect();
        let missing = owed.iter().filter(|owed| matches!(owed, Owed::Describe { .. })).count();
        let mut described = described.into_iter().rev().take(missing).collect::<Vec<_>>().into_iter().rev();
        for owed in owed {
            let out = &mut self.output;
            match owed {
                Owed::WrapEnd => {
                    self.tell_completion();
                    backend::put_ready(&mut self.output, Status::Idle);
                }
                Owed::Parse { .. } | Owed::UnnamedParse { .. } | Owed::SynthesizedParse { .. } => {
                    backend::put_bare(out, tag::PARSE_COMPLETE);
                }
                Owed::Bind { .. } => backend::put_bare(out, tag::BIND_COMPLETE),
                Owed::Close | Owed::SynthesizedClose { .. } => backend::put_bare(out, tag::CLOSE_COMPLETE),
                Owed::Describe { .. } => {
                    if described.next() == Some(true) {
                        backend::put_no_parameters(out);
                    }
                    backend::put_bare(out, tag::NO_DATA);
                }
                Owed::Execute { .. } => backend::put_command_complete(out, "COMMIT"),
                Owed::Query { .. } => {
                    if self.progress.effects == 0 {
                        backend::put_command_complete(out, "COMMIT");
                    }
                    backend::put_ready(out, Status::Idle);
                }
                Owed::Sync => backend::put_ready(out, Status::Idle),
                _ => {}
            }
        }
        self.land();
        self.lease = Lease::default();
        self.portals.clear();
        self.progress = Progress::default();
        self.settings.commit();
        self.transaction = Transaction::None;
        self.wrote = false;
        self.last_write = Some(now);
        self.definitions += u64::from(std::mem::take(&mut self.defined));
        self.forget_trace();
        self.end_tape();
        self.refusal = self.lose_pins();
    }
}

/// The portal of the question.
const PORTAL: &[u8] = b"hakem_trace";
