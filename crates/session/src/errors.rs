//! A server's errors: what they discard and undo, what the client is told, and whether the request is run again instead.

use std::collections::VecDeque;

use classifier::{Access, TransactionAccess};
use wire::backend::{self, Report, SqlState};
use wire::frame::Frames;
use wire::frontend::Frontend;

use crate::flight::Sent;
use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::reply::Verdict;
use crate::session::Session;
use crate::shapes::{CHANGED, Shapes, is_described};
use crate::sql::Rewrite;
use crate::statements::Identity;
use crate::terms::{Role, Transaction};

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
    /// The server would not take the session's settings.
    Settings,
}

impl RetryReason {
    /// Why a request is run again whose server has said goodbye with this.
    #[must_use]
    pub fn of_farewell(code: Option<SqlState>) -> RetryReason {
        match code.as_ref().map(|code| &code.0) {
            // "terminating connection due to conflict with recovery" (ProcessInterrupts), which for a database that has been dropped
            // has a code of its own: the server itself is well.
            Some(b"40001" | b"40P01" | b"57P04") => RetryReason::Conflict,
            _ => RetryReason::ServerLost,
        }
    }

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
            RetryReason::Settings => "settings",
        }
    }
}

impl Session {
    pub(crate) fn on_error(&mut self, body: &[u8], hidden: bool, memory: &mut ServerMemory) -> Verdict {
        let report = Report::new(body);
        if report.is_fatal() {
            return Verdict::Leaving;
        }
        if hidden {
            match self.owed.front() {
                Some(Owed::HiddenRestore) => {
                    self.lease.unclear = true;
                    return Verdict::Swallow;
                }
                Some(Owed::HiddenCheck(_) | Owed::HiddenMove(_) | Owed::HiddenQuery) => return Verdict::Swallow,
                _ => {}
            }
            self.progress.hidden_failed = true;
            if self.progress.awaits_settings {
                // Nothing of the request has been sent: the server's own words are its answer.
                self.progress.holding = false;
                return Verdict::Forward;
            }
            // BEGIN READ WRITE on a standby.
            let demoted = report.sqlstate() == Some(SqlState(*b"25006")) && self.lease.role == Some(Role::Primary);
            if demoted && self.progress.holding && self.is_first_attempt() {
                self.progress.retrying = Some(RetryReason::Demoted);
            }
            return Verdict::Swallow;
        }
        if let Some(Owed::HiddenTraced) = self.owed.iter().find(|owed| owed.is_end()) {
            self.miss_trace();
            self.discard_until_sync(memory);
            return Verdict::Swallow;
        }
        let retry = match self.outdated(&report) {
            Some(id) => {
                memory.outdate(id);
                self.may_replan(id).then_some(RetryReason::Outdated)
            }
            None => {
                let code = if self.has_changed() { Some(SqlState(*b"0A000")) } else { report.sqlstate() };
                code.and_then(|code| self.retry_reason(code, &report)).or(self.progress.retrying)
            }
        };
        if retry == Some(RetryReason::Misrouted) && !self.has_changed() {
            self.refused = self.culprits();
        }
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
        let instead = self.cause.take().or_else(|| self.instead(&report)).or_else(|| self.in_own_words(body));
        self.pin_in_spite();
        self.forget_prepared(memory);
        self.discard_until_sync(memory);
        self.release_sync();
        // Without a Sync there is no end to wait for.
        if retry.is_some() && !self.owed.is_empty() {
            self.progress.retrying = retry;
            return Verdict::Swallow;
        }
        self.give_up_retry();
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
            Owed::Bind { id } | Owed::Describe { id, .. } => *id,
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
        Frames::new(&request.frames).all(|frame| match Frontend::read(frame) {
            Ok(Frontend::Bind(bind)) => {
                let known = self.statements.get(bind.statement).is_some_and(|known| known.id == id);
                !known || is_described(&request.frames, &bind)
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

    /// Whether the server was made to fail because its statement is not what the client was told.
    fn has_changed(&self) -> bool {
        matches!(self.owed.front(), Some(Owed::Doomed { instead: Some(failure), .. }) if failure.code == CHANGED)
    }

    /// The server has not got a statement that was to be prepared; nor will it have one to close.
    fn not_there(&mut self, id: Identity, memory: &mut ServerMemory) {
        // What has been sent meanwhile may prepare it again. A DISCARD ALL has set aside what was there before it.
        let mut last = None;
        let mut aside = None;
        for owed in &mut self.owed {
            match owed {
                Owed::Parse { id: other, .. } | Owed::HiddenParse(Some(other)) | Owed::HiddenExecute(other) => {
                    last = (*other == id).then_some(true).or(last);
                }
                Owed::HiddenClose { id: other, .. } => last = (*other == id).then_some(false).or(last),
                Owed::Execute { aside: Some(before), .. } => {
                    aside = Some(before);
                    break;
                }
                _ => {}
            }
        }
        match aside {
            _ if last == Some(true) => {}
            Some(aside) => aside.forget(id),
            None => memory.forget(id),
        }
        for later in &mut self.owed {
            if let Owed::HiddenClose { id: closed, there } = later {
                *there &= *closed != id;
            }
        }
    }

    /// The server still has a statement that was to be closed, unless that has been asked for again meanwhile.
    fn still_there(&mut self, id: Identity, memory: &mut ServerMemory) {
        let later = self.owed.iter_mut().find_map(|owed| match owed {
            Owed::HiddenClose { id: closed, there } if *closed == id => Some(Ok(there)),
            Owed::Execute { aside: Some(aside), .. } => Some(Err(aside)),
            _ => None,
        });
        match later {
            Some(Ok(there)) => *there = true,
            Some(Err(aside)) => aside.keep(id),
            None => memory.keep(id),
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
            None | Some(Owed::Query { .. } | Owed::Function(_) | Owed::WrapEnd) => return,
            Some(owed) => matches!(owed, Owed::UnnamedParse { .. }),
        };
        let is_sync =
            |owed: &Owed| matches!(owed, Owed::Sync | Owed::HiddenSync | Owed::HiddenEnd | Owed::HiddenTraced);
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
                Owed::HiddenClose { id, there: true } => self.still_there(id, memory),
                Owed::Execute { aside: Some(aside), .. } => memory.bring_back(*aside),
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
            match self.progress.shapes {
                // A Sync is among what has not been sent.
                Shapes::Awaited => self.encode_described(memory),
                _ => self.go_on(),
            }
        }
    }

    /// Where that part of the list of changes begins that the client has not been told of.
    pub(crate) fn unacknowledged(&self) -> usize {
        self.owed.iter().find_map(Owed::mark).unwrap_or(self.changes.end())
    }

    fn is_first_attempt(&self) -> bool {
        self.flight.front().is_none_or(|sent| sent.request.attempts == 0)
    }

    /// Whether an error means that the request should be run elsewhere.
    fn retry_reason(&self, code: SqlState, report: &Report<'_>) -> Option<RetryReason> {
        // Those behind it would have to come along.
        if !self.progress.holding || self.flight.iter().skip(1).any(|sent| !sent.holds) {
            return None;
        }
        let first = &self.flight.front()?.request;
        match (self.lease.role?, &code.0) {
            (Role::Replica, b"25006" | b"55000" | b"0A000") => Some(RetryReason::Misrouted),
            (Role::Replica, b"40001" | b"40P01") => Some(RetryReason::Conflict),
            (Role::Replica, _) if depends_on_catalog(code, report) => Some(RetryReason::NotReplayed),
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
            _ => self.flight.front().and_then(|sent| sent.request.opens?.access),
        };
        mode == Some(TransactionAccess::ReadOnly)
            || self.settings.current().contains_key("default_transaction_read_only")
    }
}

/// Whether an error may be due to a definition or a right that has not been replayed yet: the class of syntax errors and access rule
/// violations, but for the syntax (names, types, operators and privileges are what the catalog says), schemas, and labels of enums.
fn depends_on_catalog(code: SqlState, report: &Report<'_>) -> bool {
    match &code.0 {
        b"42601" => false,
        b"3F000" => true,
        b"22P02" => report.field(b'R') == Some(b"enum_in"),
        [b'4', b'2', ..] => true,
        _ => false,
    }
}
