//! The request as it is sent to one particular server.
//!
//! What the server lacks comes first, in the same write and without a round trip of its own: the session's settings, a BEGIN
//! that the proxy has answered already, statements that were prepared elsewhere. Names of prepared statements become the
//! servers' own. Each message that will be answered leaves an entry in the list of what is owed.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use classifier::{Class, Effect, Isolation, TransactionAccess, TransactionMode, Why};
use wire::backend;
use wire::frame::{Frame, Frames};
use wire::frontend::{self, Bind, Frontend, Parse, Target};

use crate::answer::aborted;
use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::request::End;
use crate::session::{Progress, Session};
use crate::settings::{Map, SESSION_AUTHORIZATION, difference, ended_by, says_who};
use crate::shapes::{Shape, Shapes, changed, told};
use crate::sql::{Rewrite, Said, taken, too_many};
use crate::statements::{Form, Prepared, UNKNOWN, is_ours};
use crate::terms::Transaction;
use crate::transaction::Block;

impl Session {
    /// Writes for the attached server what it has not got yet, to the end of `out`, and expects its replies from now on: requests
    /// that have to be run again, and the one that has just been gathered.
    pub fn encode(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        self.encode_tape(out);
        self.begin_to_record(out.len());
        self.encode_requests(memory, out);
        self.record(out);
    }

    fn encode_requests(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        if self.request.end != End::Open {
            self.launch();
        }
        if let Some(how) = self.moving.take() {
            self.tape = None;
            return self.leave_replica(how, out);
        }
        while self.sent < self.flight.len() && self.progress.shapes != Shapes::Awaited {
            if self.sent == 0 && !self.encode_first(memory, out) {
                return;
            }
            if self.sent > 0 {
                self.encode_forgetting(self.sent, memory, out);
            }
            self.encode_next(memory, out);
        }
        self.settle_owed();
    }

    /// The server has taken the session's settings: what has waited for that comes now.
    pub(crate) fn encode_settled(&mut self, memory: &mut ServerMemory) {
        let mut out = std::mem::take(&mut self.to_server);
        self.encode_begin(&mut out);
        self.encode_wrap(&mut out);
        self.encode_next(memory, &mut out);
        self.encode_requests(memory, &mut out);
        self.to_server = out;
    }

    fn encode_next(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        if !self.flight[self.sent].request.relies || self.settle_shapes(memory, out) {
            self.encode_sent(memory, out);
        }
    }

    /// Writes the next request, which nothing has to wait for any more.
    pub(crate) fn encode_sent(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        let at = self.sent;
        let whole = self.flight[at].request.is_whole();
        let owed_before = self.owed.len();
        if self.flight[at].request.commits {
            self.note_commit(out);
        }
        if !self.progress.discarding {
            self.encode_stale(memory, out);
        }
        let frames = std::mem::take(&mut self.flight[at].request.frames);
        let parsed = std::mem::take(&mut self.flight[at].parsed);
        let prepares = self.flight[at].request.end == End::Prepared;
        self.last_route = self.lease.role.map(|role| (role, self.flight[at].request.why()));
        let mut next_parsed = parsed.iter();
        for frame in Frames::new(&frames) {
            if prepares && frame.tag == frontend::tag::FLUSH {
                frontend::put_sync(out);
                self.owe(Owed::HiddenSync);
            } else {
                self.encode_frame(frame, &mut next_parsed, memory, out);
            }
        }
        let changes = self.changes.end();
        let prepares = self.owed.iter().skip(owed_before).any(|owed| owed.decides().is_some());
        let sent = &mut self.flight[at];
        sent.prepares |= prepares;
        sent.changes = changes;
        if at == 0 {
            self.progress.unflushed = !whole && !frames.ends_with(&FLUSH);
        }
        self.encode_trace(at, memory, out);
        let sent = &mut self.flight[at];
        // What ends a transaction may have to be answered without a server.
        if at == 0 || sent.holds || sent.request.controls {
            sent.request.frames = frames;
            sent.parsed = parsed;
        } else {
            self.recycle(frames);
            self.reuse(parsed);
        }
        if !whole {
            self.go_on();
        }
        self.sent += 1;
        self.lease.requests += 1;
    }

    /// Closes what is of no use any more.
    pub(crate) fn encode_stale(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        while let Some(stale) = memory.take_stale() {
            frontend::put_close_statement(out, &stale.name().0);
            self.owe(Owed::HiddenClose { id: stale, there: true });
        }
    }

    /// What stands in front of the first of the requests that a server gets; `false` when that has to be answered first.
    fn encode_first(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) -> bool {
        let whole = self.flight[0].request.is_whole();
        let continues = self.progress.part;
        if !continues {
            self.progress = Progress::default();
        }
        // What a session has left on its server is not on any other.
        self.progress.holding =
            whole && !continues && self.pins.is_empty() && !matches!(self.transaction, Transaction::Open { .. });
        self.progress.part = !whole;
        if !continues {
            self.encode_forgetting(0, memory, out);
        }
        let other_level = !continues && self.prepare_level();
        if std::mem::take(&mut self.lease.fresh) {
            if self.waits_for_settings(memory, out) {
                self.progress.awaits_settings = true;
                return false;
            }
            self.encode_begin(out);
        } else if self.lease.unclear && !continues && self.transaction != (Transaction::Open { failed: true }) {
            self.lease.unclear = false;
            memory.settings = None;
            if let Some(sql) = difference(None, &self.settings_there()) {
                self.put_settings(&sql, memory, out);
            }
        } else if other_level && let Some(sql) = difference(memory.settings.as_ref(), &self.settings_there()) {
            self.put_settings(&sql, memory, out);
        }
        if !continues && self.transaction == (Transaction::Open { failed: false }) {
            self.encode_level(false, out);
        }
        if !continues {
            self.encode_wrap(out);
        }
        true
    }

    /// Writes the settings for requests that have just got their server. `true` when they must not run unless the server takes them:
    /// a setting that a server has taken before is refused by another only if it says who the session is, and that may not be so
    /// any more.
    fn waits_for_settings(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) -> bool {
        let target = match self.ended_identity() {
            [] => self.settings_there(),
            names => {
                self.lease.unclear = true;
                self.settings.without(names)
            }
        };
        let Some(sql) = handed_on(memory.settings.as_ref(), &target) else { return false };
        self.put_settings(&sql, memory, out);
        says_who(&target) || self.flight[0].request.attempts > 0
    }

    /// Who the session is, as far as the first request does away with it whatever it was: a role that is gone must not stand in its
    /// own way.
    fn ended_identity(&self) -> &'static [&'static str] {
        let (true, [sent]) = (self.disowned, self.flight.as_slices().0) else { return &[] };
        let class = match (&sent.request.simple, &*sent.parsed) {
            (Some(class), _) => Some(&**class),
            (None, [parsed]) => Some(&*parsed.class),
            _ => None,
        };
        match class.filter(|class| class.statements == 1).map(|class| &*class.effects) {
            Some([Effect::Set { name, .. } | Effect::Reset { name }]) if self.transaction == Transaction::None => {
                ended_by(name)
            }
            Some([Effect::DiscardAll]) => ended_by(SESSION_AUTHORIZATION),
            _ => &[],
        }
    }

    fn put_settings(&mut self, sql: &str, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        frontend::put_query(out, sql);
        memory.settings = None;
        self.owed.push_back(Owed::HiddenSettings);
        self.lease.unnamed = false;
    }

    fn encode_begin(&mut self, out: &mut Vec<u8>) {
        if matches!(self.transaction, Transaction::Deferred(_)) || self.flight[0].request.begins {
            self.begin_tape(out);
        }
        if let Transaction::Deferred(mode) = self.transaction {
            frontend::put_query(out, &*begin(mode));
            self.owed.push_back(Owed::Hidden);
            self.block = Block::new(mode);
            self.encode_level(true, out);
        }
    }

    fn encode_frame(
        &mut self,
        frame: Frame<'_>,
        parsed: &mut Parsed<'_>,
        memory: &mut ServerMemory,
        out: &mut Vec<u8>,
    ) {
        let message = match frame.tag {
            // Where its text ends has been looked up before, and is of no interest here.
            frontend::tag::QUERY => Frontend::Query(frame.body()),
            _ => Frontend::read(frame).expect("the frame was read when it was gathered"),
        };
        if self.progress.discarding && !matches!(message, Frontend::Sync) {
            // The server would drop it, and an error has been reported: nothing is owed.
            return;
        }
        match message {
            Frontend::Query(_) => {
                // "a simple Query message also destroys the unnamed statement" (protocol-flow).
                let mark = self.changes.end();
                if let Some(removed) = self.statements.remove(b"") {
                    self.changes.push(b"", Some(removed));
                }
                self.lease.unnamed = false;
                let request = &self.flight[self.sent].request;
                if request.simple.as_ref().is_some_and(|class| ends_transaction(class)) {
                    self.portals.clear();
                }
                match request.rewrite.clone() {
                    Some(Rewrite::Reveal(own)) => {
                        self.encode_reveal(&own, memory, out);
                        self.pass(frame, Owed::Query { mark, instead: None, prepares: None }, out);
                    }
                    Some(rewrite) => self.encode_rewritten(&rewrite, mark, memory, out),
                    None => self.pass(frame, Owed::Query { mark, instead: None, prepares: None }, out),
                }
            }
            Frontend::FunctionCall => self.pass(frame, Owed::Function(crate::pins::of_function(frame)), out),
            Frontend::Parse(parse) => {
                let statement = parsed.next().expect("gathered with its Parse").clone();
                self.encode_parse(frame, parse, statement, memory, out);
            }
            Frontend::Bind(bind) => self.encode_bind(frame, bind, memory, out),
            Frontend::Describe(Target::Statement(name)) => match self.prepare(name, memory, out) {
                Some(statement) if is_own(&statement) => {
                    self.say(Said::NoParameters, out);
                    self.say(Said::columns(&statement), out);
                }
                Some(statement) if !name.is_empty() => {
                    frontend::put_describe_statement(out, &statement.id.name().0);
                    self.owe(Owed::Describe { id: Some(statement.id), tells: told(&statement) });
                }
                Some(statement) => self.pass(frame, Owed::Describe { id: None, tells: told(&statement) }, out),
                None if is_anothers(name) => {
                    frontend::put_describe_statement(out, UNKNOWN);
                    self.owe(Owed::Describe { id: None, tells: None });
                }
                None => self.pass(frame, Owed::Describe { id: None, tells: None }, out),
            },
            Frontend::Describe(Target::Portal(portal)) if self.bound(portal).is_some_and(|known| is_own(known)) => {
                let columns =
                    self.bound(portal).map_or(Said::Bare(backend::tag::NO_DATA), |known| Said::columns(known));
                self.say(columns, out);
            }
            Frontend::Describe(Target::Portal(portal)) => {
                // Whoever describes portals of the unnamed statement prepares it each time.
                let tells = self.bound(portal).filter(|statement| !statement.is_unnamed()).and_then(told);
                self.pass(frame, Owed::Describe { id: None, tells }, out);
            }
            Frontend::Execute if self.bound(portal_name(frame)).is_some_and(|known| is_own(known)) => {
                if let Some(statement) = self.bound(portal_name(frame)).cloned() {
                    self.execute_own(&statement, memory, out);
                }
            }
            Frontend::Execute => {
                let class = self.bound(portal_name(frame)).map(|statement| &statement.class);
                let class = class.filter(|class| !class.effects.is_empty() || class.why == Why::CopyFrom).cloned();
                if let Some(class) = &class
                    && class.effects.len() == 1
                    && class.effects.iter().all(crate::answer::is_listen)
                    && self.hosts_listen()
                {
                    return self.owe(Owed::SynthesizedExecute { class: class.clone() });
                }
                if class.as_ref().is_some_and(|class| ends_transaction(class)) {
                    self.portals.clear();
                }
                let discards = class.as_ref().is_some_and(|class| class.effects.contains(&Effect::DiscardAll));
                let aside = discards.then(|| {
                    // What follows is defined, and prepared, behind it.
                    let mark = self.changes.end();
                    self.forget_names();
                    Box::new(memory.set_aside(mark))
                });
                self.pass(frame, Owed::Execute { class, copied: false, aside }, out);
            }
            Frontend::Close(Target::Statement(name)) => {
                let mark = self.changes.end();
                let removed = self.statements.remove(name);
                self.changes.push(name, removed);
                self.owe(Owed::SynthesizedClose { mark });
            }
            Frontend::Close(Target::Portal(name)) => {
                self.portals.retain(|(portal, _)| **portal != *name);
                self.pass(frame, Owed::Close, out);
            }
            Frontend::Sync => {
                self.progress.discarding = false;
                // Behind any other message the COPY fails at that, and the Sync ends it as usual.
                let last = self.owed.iter().rfind(|owed| !owed.is_synthesized());
                self.progress.withheld_sync =
                    last.is_some_and(Owed::may_copy) && self.owed.iter().filter(|owed| owed.may_copy()).count() == 1;
                self.owe(Owed::Sync);
                // A COPY that does not read from the client (FROM a file) would not tell of its end without being asked.
                out.extend_from_slice(if self.progress.withheld_sync { &FLUSH } else { frame.whole });
            }
            Frontend::Flush => out.extend_from_slice(frame.whole),
            // Sent before the server has asked for it.
            Frontend::CopyData => out.extend_from_slice(frame.whole),
            Frontend::CopyDone | Frontend::CopyFail => {
                if let Some(Owed::Execute { copied, .. }) = self.owed.back_mut() {
                    *copied = true;
                }
                out.extend_from_slice(frame.whole);
            }
            Frontend::Terminate | Frontend::Password => {
                debug_assert!(false, "such frames are not gathered");
            }
        }
    }

    fn encode_parse(
        &mut self,
        frame: Frame<'_>,
        parse: Parse<'_>,
        statement: Arc<Prepared>,
        memory: &mut ServerMemory,
        out: &mut Vec<u8>,
    ) {
        let mark = self.changes.end();
        let failed = self.transaction == (Transaction::Open { failed: true });
        if !parse.name.is_empty()
            && let Some(known) = self.statements.get(parse.name).cloned()
        {
            if !failed || is_own(&known) {
                let failure = if failed { aborted() } else { taken(parse.name) };
                return self.doom(failure, Owed::Bind { id: None }, out);
            }
            // The server has to refuse it, and for its own reason.
            self.ensure(&known, memory, out);
            frontend::put_parse(out, &known.id.name().0, parse.sql, parse.types);
            return self.owe(Owed::RefusedParse { mark });
        }
        let bytes_max = self.policy.statements_max;
        if !failed && !parse.name.is_empty() && self.statements.would_exceed(bytes_max, parse.name, &statement) {
            return self.doom(too_many(), Owed::Bind { id: None }, out);
        }
        if is_own(&statement) {
            if failed && !parse.name.is_empty() {
                return self.pass(frame, Owed::RefusedParse { mark }, out);
            }
            let before = self.statements.remove(parse.name);
            self.changes.push(parse.name, before);
            if failed {
                self.lease.unnamed = false;
                return self.pass(frame, Owed::UnnamedParse { mark }, out);
            }
            self.statements.insert(parse.name, statement);
            self.lease.unnamed &= !parse.name.is_empty();
            return self.owe(Owed::SynthesizedParse { mark });
        }
        if let Form::Execute(target) = &statement.form
            && !failed
        {
            self.ensure(target, memory, out);
        }
        if parse.name.is_empty() {
            let before = self.statements.remove(b"");
            self.changes.push(b"", before);
            self.lease.unnamed = true;
            self.lease.unnamed_shape = Shape::default();
            statement.told.forget();
            frontend::put_parse(out, b"", &statement.sql, parse.types);
            self.statements.insert(b"", statement);
            return self.owe(Owed::UnnamedParse { mark });
        }
        self.changes.push(parse.name, None);
        self.statements.insert(parse.name, statement.clone());
        if memory.touch(statement.id) {
            if failed && !survives_failure(&statement.class) {
                frontend::put_parse(out, &statement.id.name().0, &statement.sql, parse.types);
                return self.owe(Owed::RefusedParse { mark });
            }
            self.owe(Owed::SynthesizedParse { mark });
        } else {
            self.note_use(&statement, false);
            self.encode_eviction(&statement, memory, out);
            frontend::put_parse(out, &statement.id.name().0, &statement.sql, parse.types);
            self.owe(Owed::Parse { mark, id: statement.id });
        }
    }

    fn encode_bind(&mut self, frame: Frame<'_>, bind: Bind<'_>, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        let statement = self.prepare(bind.statement, memory, out);
        self.bind(bind.portal, statement.as_ref());
        match statement {
            Some(statement) if is_own(&statement) => {
                self.say(Said::Bare(backend::tag::BIND_COMPLETE), out);
            }
            Some(statement) if self.misfit.as_ref().is_some_and(|misfit| Arc::ptr_eq(misfit, &statement)) => {
                self.doom(changed(), Owed::Bind { id: None }, out);
            }
            Some(statement) if !bind.statement.is_empty() => {
                frontend::put_bind(out, bind.portal, &statement.id.name().0, bind.values);
                self.owe(Owed::Bind { id: Some(statement.id) });
            }
            None if is_anothers(bind.statement) => {
                frontend::put_bind(out, bind.portal, UNKNOWN, bind.values);
                self.owe(Owed::Bind { id: None });
            }
            _ => self.pass(frame, Owed::Bind { id: None }, out),
        }
    }

    /// Sees to it that the server has the client's statement of that name; `None` when the client has none.
    pub(crate) fn prepare(
        &mut self,
        name: &[u8],
        memory: &mut ServerMemory,
        out: &mut Vec<u8>,
    ) -> Option<Arc<Prepared>> {
        let statement = self.statements.get(name)?.clone();
        if is_own(&statement) {
            return Some(statement);
        }
        if !name.is_empty() {
            self.ensure(&statement, memory, out);
            return Some(statement);
        }
        if let Form::Execute(target) = &statement.form {
            self.ensure(target, memory, out);
        }
        if !std::mem::replace(&mut self.lease.unnamed, true) {
            self.lease.unnamed_shape = Shape::default();
            frontend::put_parse(out, b"", &statement.sql, &statement.types);
            self.owe(Owed::HiddenParse(None));
        }
        Some(statement)
    }

    /// Sees to it that the server has a named statement.
    pub(crate) fn ensure(&mut self, statement: &Arc<Prepared>, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        if let Form::Execute(target) = &statement.form {
            self.ensure(target, memory, out);
        }
        let there = memory.touch(statement.id);
        self.note_use(statement, there);
        if there {
            return;
        }
        self.encode_eviction(statement, memory, out);
        if statement.is_of_sql() {
            return self.encode_prepare(statement, out);
        }
        frontend::put_parse(out, &statement.id.name().0, &statement.sql, &statement.types);
        self.owe(Owed::HiddenParse(Some(statement.id)));
    }

    /// Makes room for a statement.
    pub(crate) fn encode_eviction(&mut self, statement: &Prepared, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        // More than one where evictions have been discarded with a request ahead, or a request has had more than there is room for.
        for evicted in memory.evict() {
            frontend::put_close_statement(out, &evicted.name().0);
            self.owe(Owed::HiddenClose { id: evicted, there: true });
        }
        memory.insert(statement.id);
    }

    /// Says something in its turn, unless the transaction has failed.
    fn say(&mut self, what: Said, out: &mut Vec<u8>) {
        if self.transaction == (Transaction::Open { failed: true }) {
            return self.doom(aborted(), Owed::Bind { id: None }, out);
        }
        let mark = self.changes.end();
        self.owe(Owed::Said { mark, what });
    }

    fn pass(&mut self, frame: Frame<'_>, owed: Owed, out: &mut Vec<u8>) {
        out.extend_from_slice(frame.whole);
        self.owe(owed);
    }

    pub(crate) fn owe(&mut self, owed: Owed) {
        self.owed.push_back(owed);
    }
}

/// Statements that the Parse messages of a request define, in their order.
type Parsed<'a> = std::slice::Iter<'a, Arc<Prepared>>;

/// Whether a failed transaction may hold the statement: one that ends it, or nothing.
fn survives_failure(class: &Class) -> bool {
    use Effect::{Commit, PrepareTransaction, Rollback, RollbackTo};
    let ends = |effect: &_| matches!(effect, Commit { .. } | Rollback { .. } | RollbackTo(_) | PrepareTransaction);
    class.statements == 0 || class.effects.first().is_some_and(ends)
}

/// Whether no portal outlives it, though it may begin another transaction.
fn ends_transaction(class: &Class) -> bool {
    use classifier::Effect::{Commit, PrepareTransaction, Rollback};
    class.effects.iter().any(|effect| matches!(effect, Commit { .. } | Rollback { .. } | PrepareTransaction))
}

/// Whether the proxy executes it itself.
fn is_own(statement: &Prepared) -> bool {
    matches!(statement.form, Form::Own(_))
}

/// Whether a statement that this client does not have may be on the server all the same.
fn is_anothers(name: &[u8]) -> bool {
    name.is_empty() || is_ours(name)
}

/// The portal that an Execute message names.
pub(crate) fn portal_name(frame: Frame<'_>) -> &[u8] {
    frame.body().split(|&byte| byte == 0).next().unwrap_or_default()
}

/// The statements that give a server the settings of a session, behind whichever has used it before; `None` when it has them.
pub(crate) fn handed_on(from: Option<&Map>, to: &Map) -> Option<String> {
    let mut sql = difference(from, to)?;
    if sql.contains("SELECT") {
        // The last session's isolation level may be one that no replica has.
        sql.insert_str(0, "SET TRANSACTION ISOLATION LEVEL READ COMMITTED;");
    }
    Some(sql)
}

/// BEGIN as the proxy writes it: from the modes it understood, so that it cannot fail for its syntax.
fn begin(mode: TransactionMode) -> Cow<'static, str> {
    if mode == TransactionMode::default() {
        return Cow::Borrowed("BEGIN");
    }
    let mut sql = "BEGIN".to_owned();
    if let Some(isolation) = mode.isolation {
        let level = match isolation {
            Isolation::ReadUncommitted => "READ UNCOMMITTED",
            Isolation::ReadCommitted => "READ COMMITTED",
            Isolation::RepeatableRead => "REPEATABLE READ",
            Isolation::Serializable => "SERIALIZABLE",
        };
        let _ = write!(sql, " ISOLATION LEVEL {level}");
    }
    match mode.access {
        Some(TransactionAccess::ReadOnly) => sql += " READ ONLY",
        Some(TransactionAccess::ReadWrite) => sql += " READ WRITE",
        None => {}
    }
    match mode.deferrable {
        Some(true) => sql += " DEFERRABLE",
        Some(false) => sql += " NOT DEFERRABLE",
        None => {}
    }
    Cow::Owned(sql)
}

/// A Flush message.
pub(crate) const FLUSH: [u8; 5] = [frontend::tag::FLUSH, 0, 0, 0, 4];
