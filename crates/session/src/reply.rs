//! The server's messages against what is owed to the client.
//!
//! Owns the verdict on each message and the effects of what succeeded. The list is in `owed`, errors are in `errors`.

use std::sync::Arc;
use std::time::Instant;

use classifier::{Access, Class, Effect, PinReason};
use wire::backend::{self, Status, tag};

use crate::durability::SYNCHRONOUS_COMMIT;
use crate::errors::RetryReason;
use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::pins::makes_temporary;
use crate::session::{Progress, Session};
use crate::shapes::Shapes;
use crate::statements::Prepared;
use crate::terms::{Role, Transaction};
use crate::trace::Wrap;

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
    /// The server has not answered as the one before it did that was lost: the transaction cannot be run again on it.
    Diverged,
}

impl Session {
    /// Takes one message from the server: its tag, and its body or as much of it as is at hand. `now` is a moment after the
    /// message's arrival.
    pub fn on_server(&mut self, tag: u8, body: &[u8], memory: &mut ServerMemory, now: Instant) -> Verdict {
        if self.tape.is_some() {
            return self.on_taped_server(tag, body, memory, now);
        }
        self.judge_or_conceal(tag, body, memory, now)
    }

    pub(crate) fn judge_or_conceal(
        &mut self,
        tag: u8,
        body: &[u8],
        memory: &mut ServerMemory,
        now: Instant,
    ) -> Verdict {
        let verdict = self.judge(tag, body, memory, now);
        if let Shapes::Misfit(_) = self.progress.shapes { self.conceal(verdict) } else { verdict }
    }

    fn judge(&mut self, tag: u8, body: &[u8], memory: &mut ServerMemory, now: Instant) -> Verdict {
        let hidden = self.owed.front().is_some_and(Owed::is_hidden);
        match tag {
            tag::DATA_ROW if matches!(self.owed.front(), Some(Owed::HiddenTrace)) => {
                self.learn_trace(body);
                Verdict::Swallow
            }
            tag::DATA_ROW if hidden => {
                self.learn_what_is_left(body);
                Verdict::Swallow
            }
            tag::DATA_ROW | tag::COPY_DATA | tag::COPY_DONE => self.forward_unless(hidden),
            tag::READY_FOR_QUERY => self.on_ready(body, memory, now),
            tag::ERROR_RESPONSE => self.on_error(body, hidden, memory),
            // The client is told with its ReadyForQuery, if that is not what it knows.
            tag::PARAMETER_STATUS => {
                if let Some((name, value)) = backend::parameter_status(body) {
                    memory.report(name, value);
                }
                Verdict::Swallow
            }
            tag::NOTICE_RESPONSE if hidden || self.progress.retrying.is_some() => Verdict::Swallow,
            // "...so that the client has some clue" (send_message_to_frontend): it tells of a long work's progress, and what can be
            // run again after it is hardly worth keeping it back.
            tag::NOTICE_RESPONSE if self.lease.role == Some(Role::Primary) && self.progress.wrap == Wrap::None => {
                self.progress.holding = false;
                Verdict::Forward
            }
            tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE => Verdict::Forward,
            _ if hidden => Verdict::Swallow,
            _ if self.progress.retrying.is_some() => Verdict::Swallow,
            tag::COMMAND_COMPLETE | tag::EMPTY_QUERY_RESPONSE | tag::PORTAL_SUSPENDED => {
                self.on_complete(tag, body, memory)
            }
            tag::PARSE_COMPLETE | tag::BIND_COMPLETE | tag::CLOSE_COMPLETE => self.on_step(),
            tag::PARAMETER_DESCRIPTION => self.on_parameters(body),
            tag::NO_DATA => self.on_description(tag, body, memory),
            tag::ROW_DESCRIPTION => match self.owed.front() {
                Some(Owed::Describe { .. } | Owed::HiddenDescribe(_)) => self.on_description(tag, body, memory),
                _ => Verdict::Forward,
            },
            tag::COPY_IN_RESPONSE => self.on_copy_in(),
            tag::FUNCTION_CALL_RESPONSE => {
                self.progress.holding = false;
                if let Some(Owed::Function(Some(effect))) = self.owed.front() {
                    let effect = effect.clone();
                    self.apply(&effect, b"", memory);
                }
                Verdict::Forward
            }
            tag::COPY_OUT_RESPONSE | tag::COPY_BOTH_RESPONSE => {
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
            // The client may have been told meanwhile what it executes.
            sent.request.relies |= sent.request.simple.is_none();
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
                Some(Owed::SynthesizedExecute { class }) => {
                    let class = class.clone();
                    self.owed.pop_front();
                    self.listen_or_not(&class);
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
        // What is not committed can be run again until it is told.
        self.progress.holding &= self.progress.wrap != Wrap::None;
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
        match self.owed.front() {
            Some(Owed::HiddenExecute(_) | Owed::HiddenTrace) => {
                self.owed.pop_front();
                return Verdict::Swallow;
            }
            Some(Owed::WrapEnd) => {
                if !self.progress.failed {
                    self.tell_completion();
                }
                return Verdict::Swallow;
            }
            _ => {}
        }
        // A BEGIN in front of reads, by the extended protocol, can be run again with them.
        let begins = |class: &Arc<Class>| matches!(&*class.effects, [Effect::Begin(_)]);
        self.progress.holding &= self.progress.wrap != Wrap::None
            || matches!(self.owed.front(), Some(Owed::Execute { class: Some(class), .. }) if begins(class));
        self.progress.suspended |= tag == tag::PORTAL_SUSPENDED;
        self.progress.copy_in = false;
        let command = body.strip_suffix(b"\0").unwrap_or(body);
        self.note_completion(command);
        match self.owed.front() {
            Some(Owed::Execute { class, .. }) => {
                let class = class.clone();
                self.owed.pop_front();
                self.progress.withheld = self.progress.wrap == Wrap::Running;
                for effect in class.iter().flat_map(|class| &class.effects) {
                    // Part of a result is enough for what is left behind.
                    if tag == tag::COMMAND_COMPLETE || matches!(effect, Effect::Pin(_)) {
                        self.apply(effect, command, memory);
                    }
                }
                self.settle_owed();
                self.release_sync();
            }
            Some(Owed::Query { .. }) if self.progress.wrap == Wrap::Running => return self.put_aside(tag, body),
            Some(Owed::Query { .. }) => {
                // Cloned for the sake of its effects: all clients count on the one number.
                let class = self.flight.front().and_then(|sent| sent.request.simple.as_ref());
                if let Some(class) = class.filter(|class| !class.effects.is_empty()).cloned()
                    && let Some(effect) = class.effects.get(self.progress.effects)
                    && (class.statements == 1 || is_tag_of(effect, command))
                {
                    self.progress.effects += 1;
                    if *effect == Effect::DiscardAll {
                        // In the extended protocol that was done in advance.
                        memory.deallocate_all();
                        self.statements.clear();
                        self.changes.forget(self.changes.end());
                    }
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
    pub(crate) fn release_sync(&mut self) {
        if self.progress.withheld_sync && !self.owed.iter().any(Owed::may_copy) {
            self.progress.withheld_sync = false;
            wire::frontend::put_sync(&mut self.to_server);
        }
    }

    fn on_ready(&mut self, body: &[u8], memory: &mut ServerMemory, now: Instant) -> Verdict {
        let Some(status) = Status::read(body) else { return Verdict::Broken };
        let mut hidden = false;
        match self.owed.pop_front() {
            Some(first @ (Owed::Hidden | Owed::HiddenSettings)) => {
                if self.progress.hidden_failed {
                    return self.without_settings();
                }
                if matches!(first, Owed::HiddenSettings) {
                    memory.settings = Some(self.settings_there());
                }
                if std::mem::take(&mut self.progress.awaits_settings) {
                    self.encode_settled(memory);
                }
                self.settle_owed();
                return Verdict::Swallow;
            }
            Some(Owed::HiddenEnd | Owed::HiddenQuery) => return Verdict::Swallow,
            Some(Owed::HiddenTraced) => return self.traced(),
            Some(Owed::HiddenCheck(_)) => {
                self.end_check(memory);
                return if self.keeps_server() { Verdict::Swallow } else { Verdict::HiddenReady { free: true } };
            }
            Some(Owed::HiddenMove(how)) => return self.left_replica(how, memory),
            Some(Owed::HiddenRestore) => {}
            Some(Owed::HiddenSync) => hidden = true,
            Some(Owed::Sync | Owed::Query { .. } | Owed::Function(_) | Owed::WrapEnd) => {}
            // A ReadyForQuery that nothing was owed for: the conversation is out of step.
            _ => return Verdict::Broken,
        }
        let misfit = if let Shapes::Misfit(reason) = self.progress.shapes { Some(reason) } else { None };
        if let Some(reason) = self.progress.retrying.or(misfit) {
            // What those behind it are answered with is nobody's business: the connection is closed.
            let alone = self.flight.len() == 1;
            return Verdict::Retry { reason, clean: alone && status == Status::Idle && reason != RetryReason::Demoted };
        }
        if self.progress.wrap == Wrap::Running {
            return self.on_wrapped(status, memory);
        }
        if (!self.restores.is_empty() && self.restore(status)) || self.wipe(status, memory) {
            return Verdict::Swallow;
        }
        // What it would have got a ReadyForQuery for is dropped until it asks for one.
        self.skips_until_sync = hidden && self.progress.failed;
        let chained = self.flight.front().is_some_and(|sent| sent.request.chains);
        self.conclude(status, memory, now);
        self.trace_late(status, memory);
        self.settle_owed();
        self.unchain(chained);
        let rests = self.flight.is_empty() && status == Status::Idle && !self.policy.keeps_server;
        let asks = rests && self.ask_what_is_left();
        let free = self.flight.is_empty() && !asks && !self.awaits_trace() && !self.keeps_server();
        if hidden { Verdict::HiddenReady { free } } else { Verdict::Ready { free } }
    }

    /// What has been reset gets the startup packet's value, of which the server knows nothing; the request is over when it has it.
    /// `false` when there is nothing to do: a failure has undone it, or more is to come.
    fn restore(&mut self, status: Status) -> bool {
        let names = std::mem::take(&mut self.restores);
        if self.progress.failed || status == Status::Failed {
            return false;
        }
        if !self.owed.is_empty() {
            self.lease.unclear = true;
            return false;
        }
        let sql = self.settings.statements(&names);
        if sql.is_empty() {
            return false;
        }
        wire::frontend::put_query(&mut self.to_server, &sql);
        self.owed.push_back(Owed::HiddenRestore);
        self.lease.unnamed = false;
        if status == Status::Idle {
            self.settings.commit();
        }
        true
    }

    /// The server would not take the session's settings.
    fn without_settings(&mut self) -> Verdict {
        self.lease.unclear = true;
        if std::mem::take(&mut self.progress.awaits_settings) {
            self.disowned = crate::settings::says_who(self.settings.current());
            self.refuse_unsent();
            return Verdict::HiddenReady { free: true };
        }
        let first = self.flight.front().filter(|_| self.flight.len() == 1 && self.progress.holding);
        match self.progress.retrying {
            Some(reason) => Verdict::Retry { reason, clean: false },
            // It has run under other settings, but it is a read of which nobody has seen anything. The next time it waits.
            None if first.is_some_and(|sent| sent.request.access == Access::Read) => {
                Verdict::Retry { reason: RetryReason::Settings, clean: false }
            }
            None => Verdict::Broken,
        }
    }

    /// The server's refusal of the settings, which the client has been told, answers everything that has waited for them.
    fn refuse_unsent(&mut self) {
        if let Transaction::Deferred(_) = self.transaction {
            self.transaction = Transaction::Lost { told: true };
        }
        let gathered = (std::mem::take(&mut self.request), std::mem::take(&mut self.parsed));
        // There is one: nothing is taken from the client meanwhile, and what is run again waits by itself.
        let mut told = true;
        while let Some(sent) = self.flight.pop_front() {
            (self.request, self.parsed) = (sent.request, sent.parsed);
            if !std::mem::take(&mut told) {
                let failure = backend::Failure::error("25P02", "the server has refused the session's settings");
                failure.put(&mut self.output);
            }
            self.conclude_refusal();
        }
        (self.sent, self.flight_bytes) = (0, 0);
        if !self.skips_until_sync {
            (self.request, self.parsed) = gathered;
        }
    }

    /// Whether nothing is left of what the transaction defined, if it has ended with this request.
    fn is_undone(&self, request: &crate::request::Request, failed: bool) -> bool {
        let ends_alone = request.simple.as_ref().is_some_and(|class| class.statements == 1);
        let effects = request.simple.as_ref().map(|class| &*class.effects);
        let rolls_back = matches!(effects, Some([Effect::Rollback { .. }]));
        match self.transaction {
            // Whether by COMMIT or by ROLLBACK.
            Transaction::Open { failed: true } => ends_alone && !request.defines,
            Transaction::Open { failed: false } => ends_alone && rolls_back,
            _ => failed && !request.controls,
        }
    }

    /// The first request is over.
    fn conclude(&mut self, status: Status, memory: &mut ServerMemory, now: Instant) {
        let failed = self.progress.failed;
        let Some(sent) = self.land() else { return };
        self.conclude_lesson(&sent.request, failed);
        self.lease.obscured |= sent.request.obscure;
        self.disowned &= failed;
        if self.lease.role == Some(Role::Primary) && sent.request.writes {
            self.wrote = true;
            self.note_writer(memory);
        }
        self.note_block(&sent.request, status);
        let is_undone = self.is_undone(&sent.request, failed);
        self.defined |= self.lease.role == Some(Role::Primary) && sent.request.defines && sent.request.executes;
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
                self.definitions += u64::from(std::mem::take(&mut self.defined) && !is_undone);
                self.transaction = Transaction::None;
                self.forget_trace();
                if self.flight.is_empty() {
                    self.portals.clear();
                }
                if self.lease.level.is_some()
                    || memory.settings.as_ref().is_none_or(|known| !Arc::ptr_eq(known, self.settings.current()))
                {
                    memory.settings = Some(self.settings_there());
                }
            }
            Status::Open => self.transaction = Transaction::Open { failed: false },
            Status::Failed => self.transaction = Transaction::Open { failed: true },
        }
        self.settle_pin();
        let holding = self.flight.front().is_some_and(|next| next.holds);
        // The next one may be waiting for its statements to be described.
        let awaits = self.progress.shapes == Shapes::Awaited;
        self.progress = Progress {
            holding: holding && self.transaction == Transaction::None && self.pins.is_empty(),
            shapes: if awaits { Shapes::Awaited } else { Shapes::Settled },
            ..Progress::default()
        };
    }

    /// A statement with an effect has succeeded, with this command tag.
    fn apply(&mut self, effect: &Effect, command: &[u8], memory: &mut ServerMemory) {
        // In the block that the request has begun in.
        let in_failed = self.transaction == (Transaction::Open { failed: true }) && !self.progress.ended;
        self.progress.ended |=
            matches!(effect, Effect::Commit { .. } | Effect::Rollback { .. } | Effect::PrepareTransaction);
        match effect {
            // Outside of a block it says so too, and prepares nothing; nor does it undo anything. What the request has done so far is
            // committed (EndTransactionBlock), whatever comes behind it.
            Effect::PrepareTransaction if command == b"ROLLBACK" && !in_failed => self.settings.commit(),
            // COMMIT of a failed transaction rolls it back, and says so.
            Effect::Commit { .. } | Effect::PrepareTransaction if command == b"ROLLBACK" => self.settings.rollback(),
            Effect::Commit { .. } | Effect::PrepareTransaction => self.settings.commit(),
            Effect::Rollback { .. } => self.settings.rollback(),
            Effect::Savepoint(name) => {
                if self.settings.savepoint(name).is_err() {
                    self.pin(PinReason::Other);
                }
            }
            Effect::Release(name) => self.settings.release(name),
            Effect::RollbackTo(name) => self.settings.rollback_to(name),
            Effect::Set { name, statement, scope: classifier::Scope::Session } => self.set(name, statement),
            // What is created in this transaction outlives it.
            Effect::Set { name, statement, .. } if makes_temporary(name, statement) => {
                self.pin(PinReason::TempTable);
            }
            Effect::SetUnseen(names) => names.iter().for_each(|name| self.settings.set_unseen(name)),
            Effect::Reset { name } => {
                if self.settings.reset(name) {
                    self.restores.insert(name.clone());
                }
            }
            Effect::ResetAll => {
                self.settings.reset_all();
                self.restores.extend(self.settings.startup());
            }
            Effect::DiscardAll => {
                self.settings.discard_all();
                // It commits at once, whatever comes behind it in the same request.
                self.settings.commit();
                self.restores.extend(self.settings.startup());
                self.pins.clear();
                memory.discard_all_but_statements();
            }
            Effect::DeallocateAll => {
                self.statements.clear();
                self.changes.forget(self.changes.end());
                memory.deallocate_all();
                self.lease.unnamed = false;
                self.pins.retain(|pin| *pin != PinReason::SqlPrepare);
            }
            Effect::Pin(reason) => self.pin(*reason),
            Effect::Unpin(reason) => self.unpin(*reason),
            Effect::Unlocks => self.rechecks |= !self.pins.is_empty(),
            // On the session's own connection.
            Effect::Listen(_) => self.pin(PinReason::Listen),
            Effect::Unlisten(channel) => self.settings.unlisten(Some(channel)),
            Effect::UnlistenAll => {
                self.unpin(PinReason::Listen);
                self.settings.unlisten(None);
            }
            Effect::Hakem { name, value, scope } => {
                // One of several statements: the server has taken it as a setting of an extension, which nobody else must find there.
                self.lease.obscured = true;
                let _ = self.set_own(name, value.as_deref(), *scope);
            }
            Effect::Set { name, scope: classifier::Scope::Local, .. } if name == SYNCHRONOUS_COMMIT => {
                self.settings.commit_by_itself();
            }
            // One of several statements: its name is on this server alone.
            Effect::Prepare { .. } => self.pin(PinReason::SqlPrepare),
            Effect::Deallocate(name) => drop(self.statements.remove(name.as_bytes())),
            Effect::Execute(_) => {}
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
        Effect::Execute(_) | Effect::SetUnseen(_) | Effect::Unlocks => return true,
        Effect::Deallocate(_) => &[b"DEALLOCATE"],
        Effect::Listen(_) => &[b"LISTEN"],
        Effect::Unlisten(_) | Effect::UnlistenAll => &[b"UNLISTEN"],
        // Whatever takes a lock or makes a table: better a pin too early than none.
        Effect::Pin(_) => return true,
        Effect::Unpin(_) => &[b"DISCARD TEMP", b"CLOSE CURSOR ALL", b"SELECT 1"],
    };
    tags.contains(&command)
}
