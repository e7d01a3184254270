//! Requests on their way: what a server has got and has not answered, and what each of them has changed of the client's statements.
//!
//! Owns the decision whether a request may follow others without waiting for their answers ([`Session::takes_more`]). What
//! cannot be told before they have been answered waits ([`Step::Later`](crate::Step::Later)); the bounds stand at the end.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use classifier::{Access, Class, Effect};

use crate::owed::Owed;
use crate::request::{End, Request};
use crate::session::Session;
use crate::shapes::Shapes;
use crate::statements::{Identity, Prepared, Statements};
use crate::terms::{Need, Role, Transaction};
use crate::trace::Wrap;

/// A request that a server has got, or is to get again.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) request: Request,
    /// Statements that its Parse messages define, in their order.
    pub(crate) parsed: Vec<Arc<Prepared>>,
    /// Where its changes end in the list of them.
    pub(crate) changes: usize,
    /// Whether it can be run again elsewhere, behind others, as long as nothing of its answer has been let go.
    pub(crate) holds: bool,
    /// Whether it, or one ahead of it, begins or ends a transaction.
    pub(crate) controls: bool,
    /// Whether it, or one ahead of it, changes which named statements its server has.
    pub(crate) prepares: bool,
}

impl Sent {
    /// Whether nothing may be sent behind it: what it leaves cannot be told before it has been answered.
    fn bars(&self) -> bool {
        let request = &self.request;
        request.end != End::Ready || request.copies || request.alters || request.mixed
    }
}

/// What requests have changed of the client's statements, in their order, until they are known to have succeeded.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    list: VecDeque<Change>,
    /// How many there have been before those of the list.
    forgotten: usize,
}

#[derive(Debug)]
struct Change {
    name: Box<[u8]>,
    before: Option<Arc<Prepared>>,
    undone: bool,
}

impl Changes {
    /// The position behind the last one.
    pub(crate) fn end(&self) -> usize {
        self.forgotten + self.list.len()
    }

    pub(crate) fn push(&mut self, name: &[u8], before: Option<Arc<Prepared>>) {
        self.list.push_back(Change { name: name.into(), before, undone: false });
    }

    /// Whether what a name stands for is not certain.
    pub(crate) fn concern(&self, name: &[u8]) -> bool {
        self.list.iter().any(|change| *change.name == *name)
    }

    /// Forgets those that come before a position: they have succeeded.
    pub(crate) fn forget(&mut self, position: usize) {
        while self.forgotten < position && self.list.pop_front().is_some() {
            self.forgotten += 1;
        }
    }

    /// Undoes some. Where a later one has changed the same name again, it is what that one goes back to that changes.
    pub(crate) fn undo(&mut self, range: Range<usize>, statements: &mut Statements) -> Unnamed {
        let mut unnamed = Unnamed::Untouched;
        let last = range.end.saturating_sub(self.forgotten).min(self.list.len());
        for at in (range.start.saturating_sub(self.forgotten)..last).rev() {
            if std::mem::replace(&mut self.list[at].undone, true) {
                continue;
            }
            let (name, before) = (std::mem::take(&mut self.list[at].name), self.list[at].before.take());
            if name.is_empty() {
                unnamed = Unnamed::Touched;
            }
            match self.list.range_mut(at + 1..).find(|later| !later.undone && later.name == name) {
                Some(later) => later.before = before,
                None => statements.restore(&name, before),
            }
            self.list[at].name = name;
        }
        unnamed
    }

    /// The changes up to a position leave nothing behind that name, unless a later one defines it.
    pub(crate) fn clear_before(&mut self, position: usize, name: &[u8], statements: &mut Statements) {
        let from = position.saturating_sub(self.forgotten).min(self.list.len());
        match self.list.range_mut(from..).find(|later| !later.undone && *later.name == *name) {
            Some(later) => later.before = None,
            None => drop(statements.remove(name)),
        }
    }
}

/// Whether changes of the unnamed statement were among those undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unnamed {
    Untouched,
    Touched,
}

impl Session {
    /// Whether more of what the client sends may be taken: it is its turn, or what it sends next may go out without waiting for
    /// the answers that are owed.
    #[must_use]
    pub fn takes_more(&self) -> bool {
        if self.is_replaying() {
            return false;
        }
        if self.is_quiet() || self.progress.copy_in {
            return true;
        }
        if self.progress.awaits_settings
            || self.progress.wrap != Wrap::None
            || self.progress.shapes != Shapes::Settled
            || matches!(self.owed.front(), Some(Owed::HiddenCheck(_) | Owed::HiddenMove(_)))
        {
            return false;
        }
        let Some(last) = self.flight.back() else { return true };
        !self.waits
            && !self.progress.part
            && self.progress.retrying.is_none()
            && !self.progress.hidden_failed
            && !last.bars()
            && self.flight.len() < FLIGHT_REQUESTS_MAX
            && self.flight_bytes < self.policy.request_max
            && self.lease.requests < LEASE_REQUESTS_MAX
    }

    /// What lost its server, and is to be run again as if it had just been said; `None` when there is nothing.
    #[must_use]
    pub fn backlog(&self) -> Option<crate::terms::Intent> {
        let first = self.flight.front().filter(|_| self.lease.role.is_none())?;
        let needs = self.flight.iter().map(|sent| self.need(&sent.request));
        let strictest = needs.reduce(Need::strictest);
        Some(crate::terms::Intent { need: strictest.unwrap_or(Need::Primary), why: first.request.why() })
    }

    /// Whether the client's frames come behind requests that have not been answered.
    pub(crate) fn is_behind(&self) -> bool {
        (!self.flight.is_empty() || self.awaits_trace()) && !self.progress.part && !self.progress.copy_in
    }

    /// Whether a request may be sent behind those that have not been answered: it goes to the same server whatever they do.
    pub(crate) fn follows(&self, request: &Request) -> bool {
        let Some(last) = self.flight.back() else { return false };
        if last.bars() || request.copies || request.mixed || !request.needs_server || request.local {
            return false;
        }
        if (request.begins && self.policy.refuses_blocks) || !self.suits_level(request) || self.wraps(request) {
            return false;
        }
        // It waits for what is to be known when its answer is lost; and what comes behind it would have to be told, too.
        if self.resolves_commits() && (last.request.commits || (request.commits && self.awaits_trace())) {
            return false;
        }
        let within = matches!(self.transaction, Transaction::Open { .. } | Transaction::Deferred(_)) && !last.controls;
        match self.lease.role {
            Some(Role::Primary) => true,
            Some(Role::Replica) if within => !request.leaves_replica(),
            // It was chosen for what is fresh enough for those ahead.
            Some(Role::Replica) => {
                !last.controls && request.wishes == last.request.wishes && self.need(request) != Need::Primary
            }
            None => false,
        }
    }

    /// Whether a name's meaning, or the fate of a statement that is to get it, depends on answers that have not come.
    pub(crate) fn is_uncertain(&self, name: &[u8], defines: bool) -> bool {
        if name.is_empty() {
            // One of the request's own comes before what others have left.
            let put_there = |owed: &Owed| matches!(owed, Owed::HiddenParse(None));
            return !defines
                && !self.request.parses_unnamed
                && (self.changes.concern(name) || self.owed.iter().any(put_there));
        }
        // In a transaction that has failed meanwhile a Parse is refused, and by other settings it is another statement.
        let unsettled =
            defines && (self.transaction != Transaction::None || self.flight.back().is_some_and(|last| last.controls));
        unsettled || self.changes.concern(name)
    }

    /// Whether the server may or may not have a statement, depending on answers that have not come.
    pub(crate) fn is_pending(&self, id: Identity) -> bool {
        let prepares = self.flight.back().is_some_and(|last| last.prepares);
        prepares && self.owed.iter().any(|owed| owed.decides() == Some(id))
    }

    /// What was gathered is on its way, or goes on with what is.
    pub(crate) fn launch(&mut self) {
        let spare = self.spares.pop().unwrap_or_default();
        let request = std::mem::replace(&mut self.request, Request::with(spare));
        let parsed = std::mem::take(&mut self.parsed);
        self.flight_bytes += request.frames.len();
        if self.progress.part
            && let Some(whole) = self.flight.back_mut()
        {
            let before = whole.request.merge(request);
            whole.parsed = parsed;
            self.sent = self.sent.saturating_sub(1);
            return self.recycle(before);
        }
        let controls = request.controls || self.flight.back().is_some_and(|last| last.controls);
        let behind = !self.flight.is_empty();
        let harmless = request.access == Access::Read || !request.executes || self.lease.role == Some(Role::Replica);
        let holds = behind && !controls && harmless && self.transaction == Transaction::None && self.pins.is_empty();
        let prepares = self.flight.back().is_some_and(|last| last.prepares);
        self.flight.push_back(Sent { request, parsed, changes: 0, holds, controls, prepares });
    }

    /// The first request is over.
    pub(crate) fn land(&mut self) -> Option<Sent> {
        let mut sent = self.flight.pop_front()?;
        self.sent = self.sent.saturating_sub(1);
        self.changes.forget(sent.changes);
        let frames = std::mem::take(&mut sent.request.frames);
        self.recycle(frames);
        self.reuse(std::mem::take(&mut sent.parsed));
        if self.flight.is_empty() {
            self.flight_bytes = 0;
        }
        self.waits = false;
        Some(sent)
    }

    /// The bytes of a request are of no use any more.
    pub(crate) fn recycle(&mut self, mut frames: Vec<u8>) {
        self.flight_bytes = self.flight_bytes.saturating_sub(frames.len());
        frames.clear();
        if self.request.frames.capacity() == 0 {
            if frames.capacity() <= crate::request::CAPACITY_KEPT {
                self.request.frames = frames;
            }
        } else if self.spares.len() < SPARES_MAX && (1..=SPARE_BYTES_MAX).contains(&frames.capacity()) {
            self.spares.push(frames);
        }
    }

    /// The list of statements of a request that is over is the next one's.
    pub(crate) fn reuse(&mut self, mut parsed: Vec<Arc<Prepared>>) {
        if self.parsed.capacity() == 0 {
            parsed.clear();
            self.parsed = parsed;
        }
    }

    /// Undoes what requests have changed of the client's statements.
    pub(crate) fn undo(&mut self, range: Range<usize>) {
        if self.changes.undo(range, &mut self.statements) == Unnamed::Touched {
            // Nobody knows which of its definitions the server has got to.
            self.lease.unnamed = false;
        }
    }
}

/// Whether an effect begins or ends a transaction, or a part of one.
pub(crate) fn controls(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Begin(_)
            | Effect::Commit { .. }
            | Effect::Rollback { .. }
            | Effect::PrepareTransaction
            | Effect::Savepoint(_)
            | Effect::Release(_)
            | Effect::RollbackTo(_)
            | Effect::SetTransaction(_)
    )
}

/// Whether a statement leaves in its session what decides how later requests are read, or where they go.
pub(crate) fn alters(class: &Class) -> bool {
    let kept = |effect: &Effect| matches!(effect, Effect::Pin(_) | Effect::Unpin(_) | Effect::UnlistenAll);
    class.effects.iter().any(|effect| !controls(effect) && !kept(effect))
}

/// Requests that may be on their way at once. Whoever sends more waits for the first one's answer.
pub const FLIGHT_REQUESTS_MAX: usize = 256;

/// Requests of autocommit that one lease may serve before the others who wait for a server get their turn.
pub const LEASE_REQUESTS_MAX: usize = 1024;

/// Buffers of requests that a session keeps while it holds a server, and their size.
const SPARES_MAX: usize = 16;
const SPARE_BYTES_MAX: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(sql: &str) -> Arc<Prepared> {
        let class = Class {
            defines: false,
            unseen: false,
            access: Access::Read,
            effects: Box::default(),
            why: classifier::Why::Select,
            statements: 1,
            hint: None,
            lesson: Default::default(),
            targets: Box::default(),
        };
        Arc::new(Prepared::unnamed(sql.as_bytes(), &[0, 0], Arc::new(class)))
    }

    #[test]
    fn what_is_undone_in_the_middle_is_what_a_later_change_goes_back_to() {
        let (mut changes, mut statements) = (Changes::default(), Statements::default());
        let define = |changes: &mut Changes, statements: &mut Statements, sql: &str| {
            changes.push(b"s", statements.remove(b"s"));
            statements.insert(b"s", prepared(sql));
        };
        define(&mut changes, &mut statements, "a");
        changes.forget(1);
        define(&mut changes, &mut statements, "b");
        define(&mut changes, &mut statements, "c");
        // The second request fails, the third one has not been answered.
        changes.undo(1..2, &mut statements);
        assert_eq!(*statements.get(b"s").expect("defined").sql, *b"c");
        changes.undo(2..3, &mut statements);
        assert_eq!(*statements.get(b"s").expect("defined").sql, *b"a");
        changes.forget(3);
        assert!(!changes.concern(b"s") && changes.end() == 3);
    }
}
