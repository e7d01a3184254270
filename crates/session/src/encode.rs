//! The request as it is sent to one particular server.
//!
//! What the server lacks comes first, in the same write and without a round trip of its own: the session's settings, a BEGIN
//! that the proxy has answered already, statements that were prepared elsewhere. Names of prepared statements become the
//! servers' own. Each message that will be answered leaves an entry in the list of what is owed.

use std::fmt::Write as _;
use std::sync::Arc;

use classifier::{Isolation, TransactionAccess, TransactionMode, Why};
use wire::frame::{Frame, Frames};
use wire::frontend::{self, Bind, Frontend, Parse, Target};

use crate::memory::ServerMemory;
use crate::reply::Owed;
use crate::request::End;
use crate::session::{Progress, Session, Transaction};
use crate::settings::difference;
use crate::statements::Prepared;

impl Session {
    /// Writes the request for the attached server to the end of `out`, and expects its replies from now on.
    pub fn encode(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        let continues = self.progress.part;
        let ready = self.request.end == End::Ready;
        if !continues {
            self.progress = Progress::default();
        }
        self.progress.holding = ready && !continues && !matches!(self.transaction, Transaction::Open { .. });
        self.progress.part = !ready;
        if std::mem::take(&mut self.lease.fresh) {
            self.encode_prefix(memory, out);
        }
        let frames = std::mem::take(&mut self.request.frames);
        let mut parsed = 0;
        for frame in Frames::new(&frames) {
            self.encode_frame(frame, &mut parsed, memory, out);
        }
        self.request.frames = frames;
        if !ready {
            // It cannot be run again: what it was is of interest, its bytes are not.
            self.request.frames.clear();
            self.request.end = End::Open;
            self.parsed.clear();
        }
        self.settle_owed();
    }

    fn encode_prefix(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        if let Some(sql) = difference(memory.settings.as_ref(), self.settings.current()) {
            frontend::put_query(out, &sql);
            memory.settings = None;
            self.owed.push_back(Owed::HiddenSettings);
        }
        if let Transaction::Deferred(mode) = self.transaction {
            frontend::put_query(out, &begin(mode));
            self.owed.push_back(Owed::Hidden);
        }
    }

    fn encode_frame(&mut self, frame: Frame<'_>, parsed: &mut usize, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        let message = Frontend::read(frame).expect("the frame was read when it was gathered");
        if self.progress.discarding && !matches!(message, Frontend::Sync) {
            // The server would drop it, and an error has been reported: nothing is owed.
            return;
        }
        match message {
            Frontend::Query(_) => self.pass(frame, Owed::Query, out),
            Frontend::FunctionCall => self.pass(frame, Owed::Function, out),
            Frontend::Parse(parse) => {
                let statement = self.parsed[*parsed].clone();
                *parsed += 1;
                self.encode_parse(frame, parse, statement, memory, out);
            }
            Frontend::Bind(bind) => self.encode_bind(frame, bind, memory, out),
            Frontend::Describe(Target::Statement(name)) => match self.prepare(name, memory, out) {
                Some(statement) if !name.is_empty() => {
                    frontend::put_describe_statement(out, &statement.id.name().0);
                    self.owe(Owed::Describe);
                }
                _ => self.pass(frame, Owed::Describe, out),
            },
            Frontend::Describe(Target::Portal(_)) => self.pass(frame, Owed::Describe, out),
            Frontend::Execute => {
                let class = self.bound(portal_name(frame)).map(|statement| statement.class.clone());
                if class.as_ref().is_some_and(|class| class.why == Why::CopyFrom) {
                    self.progress.withheld_sync = true;
                }
                let class = class.filter(|class| !class.effects.is_empty());
                self.pass(frame, Owed::Execute(class), out);
            }
            Frontend::Close(Target::Statement(name)) => {
                let mark = self.undo.len();
                let removed = self.statements.remove(name);
                self.undo.push((name.into(), removed));
                self.owe(Owed::SynthesizedClose { mark });
            }
            Frontend::Close(Target::Portal(_)) => self.pass(frame, Owed::Close, out),
            Frontend::Sync => {
                self.progress.discarding = false;
                self.owe(Owed::Sync);
                if !self.progress.withheld_sync {
                    out.extend_from_slice(frame.whole);
                }
            }
            Frontend::Flush => out.extend_from_slice(frame.whole),
            Frontend::CopyData
            | Frontend::CopyDone
            | Frontend::CopyFail
            | Frontend::Terminate
            | Frontend::Password => {
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
        let mark = self.undo.len();
        if parse.name.is_empty() {
            let before = self.statements.remove(b"");
            self.undo.push((Box::default(), before));
            self.statements.insert(b"", statement);
            self.lease.unnamed = true;
            return self.pass(frame, Owed::Parse { mark, id: None }, out);
        }
        if let Some(known) = self.statements.get(parse.name).cloned() {
            // The server has to refuse it: "prepared statement already exists" (42P05). It does when it is made to see the
            // name of one that it has.
            self.ensure(&known, memory, out);
            frontend::put_parse(out, &known.id.name().0, parse.sql, parse.types);
            return self.owe(Owed::Parse { mark, id: None });
        }
        self.undo.push((parse.name.into(), None));
        self.statements.insert(parse.name, statement.clone());
        if memory.touch(statement.id) {
            self.owe(Owed::SynthesizedParse { mark });
        } else {
            self.encode_eviction(&statement, memory, out);
            frontend::put_parse(out, &statement.id.name().0, parse.sql, parse.types);
            self.owe(Owed::Parse { mark, id: Some(statement.id) });
        }
    }

    fn encode_bind(&mut self, frame: Frame<'_>, bind: Bind<'_>, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        let statement = self.prepare(bind.statement, memory, out);
        self.bind(bind.portal, statement.as_ref());
        match statement {
            Some(statement) if !bind.statement.is_empty() => {
                frontend::put_bind(out, bind.portal, &statement.id.name().0, bind.values);
                self.owe(Owed::Bind);
            }
            _ => self.pass(frame, Owed::Bind, out),
        }
    }

    /// Sees to it that the server has the client's statement of that name; `None` when the client has none.
    fn prepare(&mut self, name: &[u8], memory: &mut ServerMemory, out: &mut Vec<u8>) -> Option<Arc<Prepared>> {
        let statement = self.statements.get(name)?.clone();
        if !name.is_empty() {
            self.ensure(&statement, memory, out);
        } else if !std::mem::replace(&mut self.lease.unnamed, true) {
            frontend::put_parse(out, b"", &statement.sql, &statement.types);
            self.owe(Owed::HiddenParse(None));
        }
        Some(statement)
    }

    fn ensure(&mut self, statement: &Prepared, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        if !memory.touch(statement.id) {
            self.encode_eviction(statement, memory, out);
            frontend::put_parse(out, &statement.id.name().0, &statement.sql, &statement.types);
            self.owe(Owed::HiddenParse(Some(statement.id)));
        }
    }

    /// Makes room for a statement.
    fn encode_eviction(&mut self, statement: &Prepared, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        if let Some(evicted) = memory.insert(statement.id) {
            frontend::put_close_statement(out, &evicted.name().0);
            self.owe(Owed::HiddenClose(evicted));
        }
    }

    fn pass(&mut self, frame: Frame<'_>, owed: Owed, out: &mut Vec<u8>) {
        out.extend_from_slice(frame.whole);
        self.owe(owed);
    }

    fn owe(&mut self, owed: Owed) {
        self.owed.push_back(owed);
    }
}

fn portal_name(frame: Frame<'_>) -> &[u8] {
    frame.body().split(|&byte| byte == 0).next().unwrap_or_default()
}

/// BEGIN as the proxy writes it: from the modes it understood, so that it cannot fail for its syntax.
fn begin(mode: TransactionMode) -> String {
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
    sql
}
