//! The server's messages against what is owed to the client.
//!
//! Owns the list of what is owed, the effects of what succeeded, and the decision to run a request again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use classifier::{Access, Class, Effect, PinReason, TransactionAccess, Why};
use wire::backend::{self, Failure, Report, SqlState, Status, tag};
use wire::frame::Frames;
use wire::frontend::{Bind, Frontend, Target};

use crate::flight::Sent;

use crate::memory::ServerMemory;
use crate::session::{Progress, Role, Session, Transaction};
use crate::sql::{Rewrite, Said};
use crate::statements::{Identity, Prepared};

/// What a server, or the proxy in its place, has yet to answer.
#[derive(Clone, Debug)]
pub(crate) enum Owed {
    /// A Query of the proxy's own: swallowed up to its ReadyForQuery.
    Hidden,
    /// The same, which gives the server the session's settings.
    HiddenSettings,
    /// A Parse of the proxy's own, for this statement; `None` for the unnamed one.
    HiddenParse(Option<Identity>),
    /// A Close of the proxy's own, of this statement, which the server has if what was sent ahead succeeds.
    HiddenClose { id: Identity, there: bool },
    /// ParseComplete, for this statement on the server.
    Parse { mark: usize, id: Identity },
    /// ParseComplete, for the unnamed statement.
    UnnamedParse { mark: usize },
    /// ErrorResponse: the name is taken, or the transaction has failed.
    RefusedParse { mark: usize },
    /// ParseComplete, said by the proxy: the server has the statement.
    SynthesizedParse { mark: usize },
    /// CloseComplete, said by the proxy: the server keeps the statement for others.
    SynthesizedClose { mark: usize },
    /// BindComplete, for this statement on the server.
    Bind { id: Option<Identity> },
    /// RowDescription or NoData.
    Describe,
    /// CommandComplete, EmptyQueryResponse or PortalSuspended; the class only if it has effects or may copy.
    /// `copied`: the end of the data has been sent already.
    Execute { class: Option<Arc<Class>>, copied: bool },
    /// CloseComplete.
    Close,
    /// ReadyForQuery.
    Sync,
    /// The same, which the client has not asked for.
    HiddenSync,
    /// A simple query's results and ReadyForQuery. `instead`: the error that its own is replaced by. `prepares`: the statement that
    /// it gives the server, and where the change begins that it makes of the client's names.
    Query { mark: usize, instead: Option<Box<Failure>>, prepares: Option<(Identity, usize)> },
    /// An error of the server's, which is replaced by this one.
    Doomed { mark: usize, instead: Option<Box<Failure>> },
    /// Something that the proxy says.
    Said { mark: usize, what: Said },
    /// A step of a PREPARE of the proxy's own.
    HiddenStep,
    /// The step that gives the server this statement.
    HiddenExecute(Identity),
    /// ReadyForQuery, which ends such a PREPARE ahead of a simple query.
    HiddenEnd,
    /// FunctionCallResponse and ReadyForQuery.
    Function,
}

impl Owed {
    /// Whether the proxy says it itself.
    pub(crate) fn is_synthesized(&self) -> bool {
        matches!(self, Owed::SynthesizedParse { .. } | Owed::SynthesizedClose { .. } | Owed::Said { .. })
    }

    /// Where the changes begin that it makes, or would make, of the client's statements.
    fn mark(&self) -> Option<usize> {
        match *self {
            Owed::Parse { mark, .. }
            | Owed::RefusedParse { mark }
            | Owed::UnnamedParse { mark }
            | Owed::Query { mark, .. }
            | Owed::Doomed { mark, .. }
            | Owed::Said { mark, .. }
            | Owed::SynthesizedParse { mark }
            | Owed::SynthesizedClose { mark } => Some(mark),
            _ => None,
        }
    }

    /// The named statement that the server has or has not, by what it answers.
    pub(crate) fn decides(&self) -> Option<Identity> {
        match *self {
            Owed::Parse { id, .. }
            | Owed::HiddenParse(Some(id))
            | Owed::HiddenExecute(id)
            | Owed::HiddenClose { id, .. } => Some(id),
            _ => None,
        }
    }

    /// Whether it is a ReadyForQuery, or ends with one.
    fn is_end(&self) -> bool {
        matches!(
            self,
            Owed::Sync
                | Owed::HiddenSync
                | Owed::HiddenEnd
                | Owed::Query { .. }
                | Owed::Function
                | Owed::Hidden
                | Owed::HiddenSettings
        )
    }

    /// Whether it may turn out to be a COPY that waits for its data.
    pub(crate) fn may_copy(&self) -> bool {
        matches!(self, Owed::Execute { class: Some(class), copied: false } if class.why == Why::CopyFrom)
    }
}

/// What is to be done with a server's message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to the client.
    Forward,
    /// It does not concern the client.
    Swallow,
    /// It goes to the client and ends the request.
    Ready {
        /// The server is not needed any more.
        free: bool,
    },
    /// It does not concern the client, and ends the request.
    HiddenReady {
        /// The server is not needed any more.
        free: bool,
    },
    /// The request is to be run elsewhere; nothing of it has reached the client.
    Retry {
        /// Why.
        reason: RetryReason,
        /// The server can be used by others.
        clean: bool,
    },
    /// The server says that it is leaving; it is lost.
    Leaving,
    /// A statement of the proxy's own failed: what came after it ran without it. Both connections have to be closed.
    Broken,
}

/// Why a request is run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RetryReason {
    /// The replica refused it: it was no read.
    Misrouted,
    /// The replica cancelled it for the sake of recovery.
    Conflict,
    /// The replica does not know a relation, column, type or function: their creation may not have been replayed yet.
    NotReplayed,
    /// The server is shutting down, starting up or gone.
    ServerLost,
    /// The server is no primary any more.
    Demoted,
    /// A prepared statement would return other columns than when it was prepared.
    Outdated,
}

impl RetryReason {
    /// A word for counters and logs.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            RetryReason::Misrouted => "misrouted",
            RetryReason::Conflict => "conflict",
            RetryReason::NotReplayed => "not_replayed",
            RetryReason::ServerLost => "server_lost",
            RetryReason::Demoted => "demoted",
            RetryReason::Outdated => "outdated",
        }
    }
}

impl Session {
    /// Takes one message from the server: its tag, and its body or as much of it as is at hand. `now` is a moment after the
    /// message's arrival.
    pub fn on_server(&mut self, tag: u8, body: &[u8], memory: &mut ServerMemory, now: Instant) -> Verdict {
        let hidden = matches!(self.owed.front(), Some(Owed::Hidden | Owed::HiddenSettings));
        match tag {
            tag::DATA_ROW | tag::COPY_DATA | tag::COPY_DONE => self.forward_unless(hidden),
            tag::READY_FOR_QUERY => self.on_ready(body, memory, now),
            tag::ERROR_RESPONSE => self.on_error(body, hidden, memory),
            tag::PARAMETER_STATUS => {
                // Replayed settings were told when they were first set. Whether the node is a standby is none of the client's
                // business: it talks to a primary, whichever replica has answered.
                let standby = backend::parameter_status(body).is_some_and(|(name, _)| name == b"in_hot_standby");
                if hidden || standby { Verdict::Swallow } else { Verdict::Forward }
            }
            tag::NOTICE_RESPONSE if hidden => Verdict::Swallow,
            tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => Verdict::Forward,
            _ if hidden => Verdict::Swallow,
            _ if self.progress.retrying.is_some() => Verdict::Swallow,
            tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED => {
                self.on_complete(tag, body, memory)
            }
            tag::PARSE_COMPLETE | tag::BIND_COMPLETE | tag::CLOSE_COMPLETE | tag::NO_DATA => self.on_step(),
            tag::ROW_DESCRIPTION => match self.owed.front() {
                Some(Owed::Describe) => self.on_step(),
                _ => Verdict::Forward,
            },
            tag::COPY_IN_RESPONSE => self.on_copy_in(),
            tag::COPY_OUT_RESPONSE | tag::COPY_BOTH_RESPONSE | tag::FUNCTION_CALL_RESPONSE => {
                self.progress.holding = false;
                Verdict::Forward
            }
            _ => Verdict::Forward,
        }
    }

    /// The client has sent CopyDone or CopyFail.
    pub fn end_copy_in(&mut self) {
        self.progress.copy_in = false;
        // In the extended protocol the server keeps its answer to itself until the Sync that the client has yet to send.
        self.progress.unflushed = self.progress.part;
    }

    /// Makes ready to send what has not been answered to another server.
    pub fn restart(&mut self) {
        self.undo(0..self.changes.end());
        self.changes.forget(self.changes.end());
        self.owed.clear();
        self.output.clear();
        self.to_server.clear();
        self.progress = Progress::default();
        self.sent = 0;
        self.waits = false;
        self.cause = None;
        for sent in &mut self.flight {
            sent.request.attempts += 1;
        }
    }

    /// Writes the answers that the proxy gives itself, as far as their turn has come.
    pub(crate) fn settle_owed(&mut self) {
        loop {
            let tag = match self.owed.front() {
                Some(Owed::SynthesizedParse { .. }) => tag::PARSE_COMPLETE,
                Some(Owed::SynthesizedClose { .. }) => tag::CLOSE_COMPLETE,
                Some(Owed::Said { what, .. }) => {
                    what.put(&mut self.output);
                    self.owed.pop_front();
                    continue;
                }
                _ => return,
            };
            backend::put_bare(&mut self.output, tag);
            self.owed.pop_front();
        }
    }

    /// The statement that a portal executes, if the portal is of this request or transaction.
    pub(crate) fn bound(&self, portal: &[u8]) -> Option<&Arc<Prepared>> {
        self.portals.iter().rev().find(|(name, _)| **name == *portal).and_then(|(_, statement)| statement.as_ref())
    }

    pub(crate) fn bind(&mut self, portal: &[u8], statement: Option<&Arc<Prepared>>) {
        let statement = statement.cloned();
        match self.portals.iter_mut().find(|(name, _)| **name == *portal) {
            Some((_, bound)) => *bound = statement,
            None => self.portals.push((portal.into(), statement)),
        }
    }

    fn forward_unless(&mut self, hidden: bool) -> Verdict {
        if hidden || self.progress.retrying.is_some() {
            return Verdict::Swallow;
        }
        self.progress.holding = false;
        Verdict::Forward
    }

    /// A message that completes the first of what is owed and no statement.
    fn on_step(&mut self) -> Verdict {
        let verdict = match self.owed.pop_front() {
            Some(Owed::HiddenParse(_) | Owed::HiddenClose { .. } | Owed::HiddenStep) => Verdict::Swallow,
            _ => Verdict::Forward,
        };
        self.settle_owed();
        verdict
    }

    fn on_complete(&mut self, tag: u8, body: &[u8], memory: &mut ServerMemory) -> Verdict {
        if let Some(Owed::HiddenExecute(_)) = self.owed.front() {
            self.owed.pop_front();
            return Verdict::Swallow;
        }
        self.progress.holding = false;
        self.progress.copy_in = false;
        let command = body.strip_suffix(b"\0").unwrap_or(body);
        match self.owed.front() {
            Some(Owed::Execute { class, .. }) => {
                let class = class.clone();
                self.owed.pop_front();
                for effect in class.iter().flat_map(|class| &class.effects) {
                    // Part of a result is enough for what is left behind.
                    if tag == tag::COMMAND_COMPLETE || matches!(effect, Effect::Pin(_)) {
                        self.apply(effect, command, memory);
                    }
                }
                self.settle_owed();
                self.release_sync();
            }
            Some(Owed::Query { .. }) => {
                if let Some(class) = self.flight.front().and_then(|sent| sent.request.simple.clone())
                    && let Some(effect) = class.effects.get(self.progress.effects)
                    && (class.statements == 1 || is_tag_of(effect, command))
                {
                    self.progress.effects += 1;
                    self.apply(effect, command, memory);
                }
            }
            _ => {}
        }
        Verdict::Forward
    }

    fn on_copy_in(&mut self) -> Verdict {
        self.progress.holding = false;
        if let Some(Owed::Execute { class, .. }) = self.owed.front_mut() {
            // It has begun: a Sync that comes from now on is not swallowed, or not sent.
            *class = None;
            if !self.progress.withheld_sync && !self.progress.part {
                // All that the client had to say to this has been sent already.
                return Verdict::Forward;
            }
        }
        if self.owed.iter().skip(1).any(Owed::is_synthesized) {
            // Behind the COPY comes a message that the proxy would answer itself. The server fails at any such message
            // (CopyGetData), and so it has to see one.
            wire::frontend::put_close_statement(&mut self.to_server, b"");
            if std::mem::take(&mut self.progress.withheld_sync) {
                wire::frontend::put_sync(&mut self.to_server);
            }
            return Verdict::Forward;
        }
        self.progress.copy_in = true;
        if std::mem::take(&mut self.progress.withheld_sync) {
            // "Ignore Flush/Sync for the convenience of client libraries (such as libpq) that may send those without noticing
            // that the command they just sent was COPY" (CopyGetData): the client will send another.
            self.owed.retain(|owed| !matches!(owed, Owed::Sync));
            self.go_on();
        }
        Verdict::Forward
    }

    /// More belongs to the request, which is the only one.
    pub(crate) fn go_on(&mut self) {
        let Some(sent) = self.flight.back_mut() else { return };
        self.progress.part = true;
        let frames = std::mem::take(&mut sent.request.frames);
        sent.request.go_on();
        sent.parsed.clear();
        self.recycle(frames);
    }

    /// The Sync that was kept back is sent after all, when nothing that is owed can be a COPY any more.
    fn release_sync(&mut self) {
        if self.progress.withheld_sync && !self.owed.iter().any(Owed::may_copy) {
            self.progress.withheld_sync = false;
            wire::frontend::put_sync(&mut self.to_server);
        }
    }

    fn on_error(&mut self, body: &[u8], hidden: bool, memory: &mut ServerMemory) -> Verdict {
        let report = Report::new(body);
        if report.is_fatal() {
            return Verdict::Leaving;
        }
        if hidden {
            self.progress.hidden_failed = true;
            // BEGIN READ WRITE on a standby.
            let demoted = report.sqlstate() == Some(SqlState(*b"25006")) && self.lease.role == Some(Role::Primary);
            if demoted && self.progress.holding && self.is_first_attempt() {
                self.progress.retrying = Some(RetryReason::Demoted);
            }
            return Verdict::Swallow;
        }
        let retry = match self.outdated(&report) {
            Some(id) => {
                memory.outdate(id);
                self.may_replan(id).then_some(RetryReason::Outdated)
            }
            None => report.sqlstate().and_then(|code| self.retry_reason(code)).or(self.progress.retrying),
        };
        if let Some(Owed::HiddenEnd) = self.owed.iter().find(|owed| owed.is_end()) {
            // EXECUTE comes next, and will not find its statement. This is why.
            let mut cause = Vec::new();
            backend::put_report(&mut cause, body);
            self.cause = Some(cause);
            self.progress.retrying = retry;
            self.discard_until_sync(memory);
            return Verdict::Swallow;
        }
        self.progress.failed = true;
        self.progress.copy_in = false;
        let instead = self.cause.take().or_else(|| self.instead(&report));
        self.pin_in_spite();
        self.forget_prepared(memory);
        self.discard_until_sync(memory);
        self.release_sync();
        // Without a Sync there is no end to wait for.
        if retry.is_some() && !self.owed.is_empty() {
            self.progress.retrying = retry;
            return Verdict::Swallow;
        }
        self.progress.holding = false;
        match instead {
            Some(error) => {
                self.output.extend_from_slice(&error);
                Verdict::Swallow
            }
            None => Verdict::Forward,
        }
    }

    /// The statement of the server's that fails for its columns: "cached plan must not change result type".
    fn outdated(&self, report: &Report<'_>) -> Option<Identity> {
        if report.sqlstate() != Some(SqlState(*b"0A000")) || report.field(b'R') != Some(b"RevalidateCachedQuery") {
            return None;
        }
        match self.owed.front()? {
            Owed::Bind { id } => *id,
            Owed::Query { .. } => match &self.flight.front()?.request.rewrite {
                Some(Rewrite::Execute(target, _)) => Some(target.id),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether a request can be run again with a statement prepared anew: nothing has come of it, and the client is told the columns
    /// in the same breath, so that it will not take the new ones for the old ones.
    fn may_replan(&self, id: Identity) -> bool {
        let Some(Sent { request, .. }) = self.flight.front().filter(|_| self.flight.len() == 1) else { return false };
        if !self.progress.holding || request.attempts > 0 {
            return false;
        }
        let described = |bind: &Bind<'_>| {
            Frames::new(&request.frames).any(|frame| match Frontend::read(frame) {
                Ok(Frontend::Describe(Target::Portal(portal))) => portal == bind.portal,
                Ok(Frontend::Describe(Target::Statement(name))) => name == bind.statement,
                _ => false,
            })
        };
        Frames::new(&request.frames).all(|frame| match Frontend::read(frame) {
            Ok(Frontend::Bind(bind)) => {
                let known = self.statements.get(bind.statement).is_some_and(|known| known.id == id);
                !known || described(&bind)
            }
            _ => true,
        })
    }

    /// The error that the client is told in place of the server's.
    fn instead(&self, report: &Report<'_>) -> Option<Vec<u8>> {
        let (Owed::Query { instead, .. } | Owed::Doomed { instead, .. }) = self.owed.front()? else { return None };
        // In a transaction that has failed nothing else is true.
        let failure = instead.as_ref().filter(|_| report.sqlstate() != Some(SqlState(*b"25P02")))?;
        let mut error = Vec::new();
        failure.put(&mut error);
        Some(error)
    }

    /// The server has not got a statement that was to be prepared; nor will it have one to close.
    fn not_there(&mut self, id: Identity, memory: &mut ServerMemory) {
        memory.forget(id);
        for later in &mut self.owed {
            if let Owed::HiddenClose { id: closed, there } = later {
                *there &= *closed != id;
            }
        }
    }

    /// A PREPARE in a simple query has failed: neither server nor client has the statement.
    fn forget_prepared(&mut self, memory: &mut ServerMemory) {
        if let Some(Owed::Query { prepares: Some((id, mark)), .. }) = self.owed.front() {
            let (id, mark) = (*id, *mark);
            self.not_there(id, memory);
            let end = self.flight.front().map_or(mark, |sent| sent.changes);
            self.undo(mark..end);
        }
    }

    /// "...the backend issues ErrorResponse, then reads and discards messages until a Sync is reached" (protocol-flow): replies
    /// to what follows are not owed, and what it would have done is undone.
    fn discard_until_sync(&mut self, memory: &mut ServerMemory) {
        let unnamed_failed = match self.owed.front() {
            // Not the extended protocol: the server goes on with what comes next.
            None | Some(Owed::Query { .. } | Owed::Function) => return,
            Some(owed) => matches!(owed, Owed::UnnamedParse { .. }),
        };
        let is_sync = |owed: &Owed| matches!(owed, Owed::Sync | Owed::HiddenSync | Owed::HiddenEnd);
        let sync = self.owed.iter().position(is_sync).unwrap_or(self.owed.len());
        let end = self.flight.front().map_or(self.changes.end(), |sent| sent.changes);
        let mark = self.owed.iter().take(sync).find_map(Owed::mark).unwrap_or(end);
        // Backwards: a statement may be prepared and closed again in one request.
        let discarded: VecDeque<Owed> = self.owed.drain(..sync).collect();
        for owed in discarded.into_iter().rev() {
            match owed {
                Owed::Parse { id, .. } | Owed::HiddenParse(Some(id)) | Owed::HiddenExecute(id) => {
                    self.not_there(id, memory);
                }
                Owed::HiddenParse(None) => self.lease.unnamed = false,
                Owed::HiddenClose { id, there: true } => memory.keep(id),
                _ => {}
            }
        }
        self.undo(mark..end);
        if unnamed_failed {
            // "Unnamed prepared statement --- release any prior unnamed statement", before the new one is looked at
            // (exec_parse_message).
            self.changes.clear_before(end, b"", &mut self.statements);
        }
        if self.owed.is_empty() {
            self.progress.discarding = true;
            self.go_on();
        }
    }

    /// Where that part of the list of changes begins that the client has not been told of.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.owed.iter().find_map(Owed::mark).unwrap_or(self.changes.end())
    }

    fn is_first_attempt(&self) -> bool {
        self.flight.front().is_none_or(|sent| sent.request.attempts == 0)
    }

    /// A statement has failed: what it may have left behind all the same. "...a lock acquired during a transaction that is
    /// later rolled back will still be held following the rollback" (Advisory Locks).
    fn pin_in_spite(&mut self) {
        let class = match self.owed.front() {
            Some(Owed::Execute { class, .. }) => class.clone(),
            Some(Owed::Query { .. }) => self.flight.front().and_then(|sent| sent.request.simple.clone()),
            _ => None,
        };
        for effect in class.iter().flat_map(|class| &class.effects) {
            if let Effect::Pin(reason @ (PinReason::AdvisoryLock | PinReason::Other)) = effect {
                self.pin(*reason);
            }
        }
    }

    fn pin(&mut self, reason: PinReason) {
        if !self.pins.contains(&reason) {
            self.pins.push(reason);
        }
    }

    /// Whether an error means that the request should be run elsewhere.
    fn retry_reason(&self, code: SqlState) -> Option<RetryReason> {
        // Those behind it would have to come along.
        if !self.progress.holding || self.flight.iter().skip(1).any(|sent| !sent.holds) {
            return None;
        }
        let first = &self.flight.front()?.request;
        match (self.lease.role?, &code.0) {
            (Role::Replica, b"25006" | b"55000" | b"0A000") => Some(RetryReason::Misrouted),
            (Role::Replica, b"40001" | b"40P01") => Some(RetryReason::Conflict),
            (Role::Replica, b"42P01" | b"42703" | b"42883" | b"42704" | b"3F000" | b"42P02") => {
                Some(RetryReason::NotReplayed)
            }
            (Role::Replica, b"57P01" | b"57P02" | b"57P03") => Some(RetryReason::ServerLost),
            // Nothing was executed: a read-only transaction refuses before it does anything. But the client may have asked
            // for a read-only one itself, and a server that says so again after a probe means it.
            (Role::Primary, b"25006")
                if self.flight.len() == 1
                    && first.access == Access::Write
                    && first.attempts == 0
                    && !self.is_read_only() =>
            {
                Some(RetryReason::Demoted)
            }
            _ => None,
        }
    }

    fn is_read_only(&self) -> bool {
        let mode = match self.transaction {
            Transaction::Deferred(mode) => mode.access,
            _ => None,
        };
        mode == Some(TransactionAccess::ReadOnly)
            || self.settings.current().contains_key("default_transaction_read_only")
    }

    fn on_ready(&mut self, body: &[u8], memory: &mut ServerMemory, now: Instant) -> Verdict {
        let Some(status) = Status::read(body) else { return Verdict::Broken };
        let mut hidden = false;
        match self.owed.pop_front() {
            Some(first @ (Owed::Hidden | Owed::HiddenSettings)) => {
                if self.progress.hidden_failed {
                    return self
                        .progress
                        .retrying
                        .map_or(Verdict::Broken, |reason| Verdict::Retry { reason, clean: false });
                }
                if matches!(first, Owed::HiddenSettings) {
                    memory.settings = Some(self.settings.current().clone());
                }
                self.settle_owed();
                return Verdict::Swallow;
            }
            Some(Owed::HiddenEnd) => return Verdict::Swallow,
            Some(Owed::HiddenSync) => hidden = true,
            Some(Owed::Sync | Owed::Query { .. } | Owed::Function) => {}
            // A ReadyForQuery that nothing was owed for: the conversation is out of step.
            _ => return Verdict::Broken,
        }
        if let Some(reason) = self.progress.retrying {
            // What those behind it are answered with is nobody's business: the connection is closed.
            let alone = self.flight.len() == 1;
            return Verdict::Retry { reason, clean: alone && status == Status::Idle && reason != RetryReason::Demoted };
        }
        // What it would have got a ReadyForQuery for is dropped until it asks for one.
        self.skips_until_sync = hidden && self.progress.failed;
        self.conclude(status, memory, now);
        self.settle_owed();
        let free = self.flight.is_empty() && !self.keeps_server();
        if hidden { Verdict::HiddenReady { free } } else { Verdict::Ready { free } }
    }

    /// The first request is over.
    fn conclude(&mut self, status: Status, memory: &mut ServerMemory, now: Instant) {
        let failed = self.progress.failed;
        let Some(sent) = self.land() else { return };
        if self.lease.role == Some(Role::Primary) && sent.request.writes {
            self.wrote = true;
        }
        match status {
            Status::Idle => {
                if failed {
                    self.settings.rollback();
                } else {
                    self.settings.commit();
                }
                if std::mem::take(&mut self.wrote) {
                    self.last_write = Some(now);
                }
                self.transaction = Transaction::None;
                if self.flight.is_empty() {
                    self.portals.clear();
                }
                if memory.settings.as_ref().is_none_or(|known| !Arc::ptr_eq(known, self.settings.current())) {
                    memory.settings = Some(self.settings.current().clone());
                }
            }
            Status::Open => self.transaction = Transaction::Open { failed: false },
            Status::Failed => self.transaction = Transaction::Open { failed: true },
        }
        let holding = self.flight.front().is_some_and(|next| next.holds);
        self.progress = Progress {
            holding: holding && self.transaction == Transaction::None && self.pins.is_empty(),
            ..Progress::default()
        };
    }

    /// A statement with an effect has succeeded, with this command tag.
    fn apply(&mut self, effect: &Effect, command: &[u8], memory: &mut ServerMemory) {
        match effect {
            // COMMIT of a failed transaction rolls it back, and says so.
            Effect::Commit { .. } | Effect::PrepareTransaction if command == b"ROLLBACK" => self.settings.rollback(),
            Effect::Commit { .. } | Effect::PrepareTransaction => self.settings.commit(),
            Effect::Rollback { .. } => self.settings.rollback(),
            Effect::Savepoint(name) => self.settings.savepoint(name),
            Effect::Release(name) => self.settings.release(name),
            Effect::RollbackTo(name) => self.settings.rollback_to(name),
            Effect::Set { name, statement, scope: classifier::Scope::Session } => self.settings.set(name, statement),
            Effect::Reset { name } => self.lease.unclear |= self.settings.reset(name),
            Effect::ResetAll => {
                self.lease.unclear |= self.settings.reset_all();
                self.policy = self.initial.clone();
            }
            Effect::DiscardAll => {
                self.lease.unclear |= self.settings.discard_all();
                self.policy = self.initial.clone();
                self.statements.clear();
                self.changes.forget(self.changes.end());
                self.pins.clear();
                memory.discard_all();
            }
            Effect::DeallocateAll => {
                self.statements.clear();
                self.changes.forget(self.changes.end());
                memory.deallocate_all();
                self.lease.unnamed = false;
                self.pins.retain(|pin| *pin != PinReason::SqlPrepare);
            }
            Effect::Pin(reason) => self.pin(*reason),
            Effect::Unpin(reason) => self.pins.retain(|pin| pin != reason),
            Effect::UnlistenAll => self.pins.retain(|pin| *pin != PinReason::Listen),
            Effect::Hakem { name, value } => {
                // Sent in a way that the proxy could not answer itself; the server has taken it as a setting of an extension.
                let _ = self.set_policy(name, value.as_deref());
            }
            // One of several statements: its name is on this server alone.
            Effect::Prepare { .. } => self.pin(PinReason::SqlPrepare),
            Effect::Execute(_) | Effect::Deallocate(_) => {}
            Effect::Begin(_) | Effect::SetTransaction(_) | Effect::Set { .. } | Effect::HakemShow { .. } => {}
        }
    }
}

/// Whether an effect can belong to a statement that completed with this tag: in a string of several statements the ones
/// without effects are skipped so.
fn is_tag_of(effect: &Effect, command: &[u8]) -> bool {
    let tags: &[&[u8]] = match effect {
        Effect::Begin(_) => &[b"BEGIN", b"START TRANSACTION"],
        Effect::Commit { .. } => &[b"COMMIT", b"ROLLBACK"],
        Effect::Rollback { .. } | Effect::RollbackTo(_) => &[b"ROLLBACK"],
        Effect::Savepoint(_) => &[b"SAVEPOINT"],
        Effect::Release(_) => &[b"RELEASE"],
        Effect::PrepareTransaction => &[b"PREPARE TRANSACTION", b"ROLLBACK"],
        Effect::SetTransaction(_) => &[b"SET"],
        Effect::Set { .. } | Effect::Hakem { .. } => &[b"SET", b"RESET", b"SELECT 1"],
        Effect::Reset { .. } | Effect::ResetAll => &[b"RESET", b"SET"],
        Effect::HakemShow { .. } => &[b"SHOW"],
        Effect::DiscardAll => &[b"DISCARD ALL"],
        Effect::DeallocateAll => &[b"DEALLOCATE ALL"],
        Effect::Prepare { .. } => &[b"PREPARE"],
        Effect::Execute(_) => return true,
        Effect::Deallocate(_) => &[b"DEALLOCATE"],
        Effect::UnlistenAll => &[b"UNLISTEN"],
        // Whatever takes a lock or makes a table: better a pin too early than none.
        Effect::Pin(_) => return true,
        Effect::Unpin(_) => &[b"DISCARD TEMP", b"CLOSE CURSOR ALL", b"SELECT 1"],
    };
    tags.contains(&command)
}
