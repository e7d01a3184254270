//! A transaction whose server is lost goes on at another: `SET hakem.transaction_replay = on`.
//!
//! Owns the tape of a transaction: what its server was sent, byte for byte, and what that has answered, as tags and a hash. When the
//! server is lost before a COMMIT was sent, another gets what stood before the BEGIN and then the tape; its answers are swallowed as
//! long as they are those that have been heard already, and from there on the session goes on as if nothing had happened: nothing of
//! its own state has to be taken back. An answer that differs ends the transaction, as its server's loss would have without a tape.
//!
//! What concerns the connection and not the transaction may differ ("asynchronous operations", protocol-flow): notices, notifications and
//! ParameterStatus. So may what the client does not see: the answers to what the proxy has asked for itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use sha2::{Digest, Sha256};
use wire::backend::{self, Report, SqlState, tag};
use wire::frontend;

use crate::encode::handed_on;
use crate::loss::Loss;
use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::reply::Verdict;
use crate::sequences::WroteOn;
use crate::session::Session;
use crate::settings::Map;
use crate::sql::preparing;
use crate::statements::{Identity, Prepared};
use crate::terms::{Role, Transaction};

/// A transaction, from its BEGIN to where it is now.
#[derive(Debug)]
pub(crate) struct Tape {
    /// What its server has been sent.
    sent: Vec<u8>,
    /// Where in what is being written that begins which has not been recorded yet.
    origin: usize,
    /// Where the COMMIT stands that has been sent, and how many answers had come before it.
    commit: Option<(usize, u64)>,
    /// It has become too long to be kept.
    overrun: bool,
    /// ReadyForQuery messages that have to come before its answers: to what was written in front of it.
    before: usize,
    heard: Heard,
    /// The settings that the server had before it.
    settings: Map,
    /// Statements that the server had before it, and that it uses.
    needs: Vec<Arc<Prepared>>,
    /// Those, and what it prepares itself.
    has: HashSet<Identity>,
    /// How far another server is in it.
    playing: Option<Playing>,
    /// Bytes that are still to come of the last message.
    rest: usize,
}

/// The answers that have come.
#[derive(Debug, Default)]
struct Heard {
    /// Their tags, in runs.
    runs: Vec<Run>,
    /// How many there are.
    count: u64,
    /// Of those that the client has been told.
    hash: Sha256,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    tag: u8,
    sort: Sort,
    count: u64,
}

/// Whom a message concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sort {
    Client,
    Proxy,
    /// Which transaction this is: see `trace`.
    Trace,
}

/// A server that is being sent the tape.
#[derive(Debug)]
struct Playing {
    /// What it is sent; empty once that is written.
    opening: Vec<u8>,
    /// ReadyForQuery messages that have to come before the tape's own answers.
    before: usize,
    /// The run that the next answer belongs to, and how much of it has come.
    at: (usize, u64),
    hash: Sha256,
    sort: Sort,
}

impl Tape {
    fn record(&mut self, written: &[u8], max: usize) {
        if self.sent.len() + written.len() > max {
            self.overrun = true;
            self.sent = Vec::new();
        }
        if !self.overrun {
            self.sent.extend_from_slice(written);
        }
    }

    /// The tape has not been played to its end.
    fn is_playing(&self) -> bool {
        self.playing.is_some()
    }
}

impl Heard {
    fn note(&mut self, tag: u8, sort: Sort, body: &[u8]) {
        self.count += 1;
        match self.runs.last_mut().filter(|run| (run.tag, run.sort) == (tag, sort)) {
            Some(run) => run.count += 1,
            None => self.runs.push(Run { tag, sort, count: 1 }),
        }
        if sort == Sort::Client {
            self.hash.update([tag]);
            self.hash.update(body);
        }
    }

    fn is_told(&self) -> bool {
        self.runs.last().is_some_and(|run| run.sort == Sort::Client)
    }
}

impl Session {
    /// A transaction begins with what is written next, on a server that was given to the session for it. Each of what has been written so
    /// far is a simple query of the proxy's own.
    pub(crate) fn begin_tape(&mut self, out: &[u8]) {
        if !self.own().transaction_replay || self.policy.keeps_server || !self.pins.is_empty() {
            return;
        }
        self.tape = Some(Box::new(Tape {
            sent: Vec::new(),
            origin: out.len(),
            commit: None,
            overrun: false,
            before: self.owed.len(),
            heard: Heard::default(),
            settings: self.settings_there(),
            needs: Vec::new(),
            has: HashSet::new(),
            playing: None,
            rest: 0,
        }));
    }

    /// What stands behind `start` is about to be written for the server.
    pub(crate) fn begin_to_record(&mut self, start: usize) {
        if let Some(tape) = &mut self.tape {
            tape.origin = start;
        }
    }

    /// A COMMIT is written next.
    pub(crate) fn note_commit(&mut self, out: &[u8]) {
        if let Some(tape) = &mut self.tape {
            tape.commit = Some((tape.sent.len() + out.len() - tape.origin, tape.heard.count));
        }
    }

    /// That has been written for the server. What comes next begins with its buffer, unless something else is said.
    pub(crate) fn record(&mut self, out: &[u8]) {
        let Some(tape) = &mut self.tape else { return };
        let origin = std::mem::take(&mut tape.origin);
        tape.record(&out[origin..], self.policy.transaction_max);
        if tape.overrun && !tape.is_playing() {
            self.tape = None;
        }
    }

    /// A named statement is used; `there`: the server has it.
    pub(crate) fn note_use(&mut self, statement: &Arc<Prepared>, there: bool) {
        if let Some(tape) = &mut self.tape
            && tape.has.insert(statement.id)
            && there
        {
            tape.needs.push(statement.clone());
        }
    }

    /// Nothing can be run again from here on, until the next transaction.
    pub fn end_tape(&mut self) {
        self.tape = None;
    }

    /// Whether bytes of the server's messages beyond those that [`Session::on_server`] gets are to be shown to
    /// [`Session::on_rest`].
    #[must_use]
    pub fn is_taped(&self) -> bool {
        self.tape.is_some()
    }

    /// Whether the server is being sent what another was lost in.
    #[must_use]
    pub fn is_replaying(&self) -> bool {
        self.tape.as_ref().is_some_and(|tape| tape.is_playing())
    }

    /// Of the message that [`Session::on_server`] gets next, that many bytes are not at hand.
    pub fn expect_rest(&mut self, length: usize) {
        if let Some(tape) = &mut self.tape {
            tape.rest = length;
        }
    }

    /// Takes a part of the rest of a large message. [`Verdict::Diverged`] as from [`Session::on_server`].
    pub fn on_rest(&mut self, bytes: &[u8]) -> Option<Verdict> {
        let tape = self.tape.as_mut()?;
        tape.rest = tape.rest.saturating_sub(bytes.len());
        match &mut tape.playing {
            Some(playing) if playing.sort == Sort::Client => playing.hash.update(bytes),
            None if tape.heard.is_told() => tape.heard.hash.update(bytes),
            _ => {}
        }
        self.end_replay()
    }

    /// [`Session::on_server`] in a transaction that may have to be run again, or just is.
    pub(crate) fn on_taped_server(&mut self, tag: u8, body: &[u8], memory: &mut ServerMemory, now: Instant) -> Verdict {
        if self.is_replaying() {
            return self.compare(tag, body, memory);
        }
        let is_trace = tag == tag::DATA_ROW && matches!(self.owed.front(), Some(Owed::HiddenTrace));
        let commits = self.flight.front().is_some_and(|sent| sent.request.commits);
        let verdict = self.judge_or_conceal(tag, body, memory, now);
        self.hear(tag, body, is_trace, verdict);
        let ready = matches!(verdict, Verdict::Ready { .. } | Verdict::HiddenReady { .. });
        if ready && (commits || self.transaction == Transaction::None) {
            self.end_tape();
        }
        verdict
    }

    /// An answer has come.
    fn hear(&mut self, tag: u8, body: &[u8], is_trace: bool, verdict: Verdict) {
        let Some(tape) = &mut self.tape else { return };
        match verdict {
            _ if is_asynchronous(tag) => {}
            _ if tape.before > 0 => tape.before -= usize::from(tag == tag::READY_FOR_QUERY),
            // The client has what the server does not ask for again.
            _ if matches!(tag, tag::COPY_IN_RESPONSE | tag::COPY_BOTH_RESPONSE) => self.tape = None,
            Verdict::Leaving => {}
            Verdict::Retry { .. } | Verdict::Broken | Verdict::Diverged => self.tape = None,
            Verdict::Forward | Verdict::Ready { .. } => tape.heard.note(tag, Sort::Client, body),
            Verdict::Swallow | Verdict::HiddenReady { .. } if is_trace => tape.heard.note(tag, Sort::Trace, body),
            Verdict::Swallow | Verdict::HiddenReady { .. } => tape.heard.note(tag, Sort::Proxy, body),
        }
    }

    /// Whether the transaction can be run again: the server was lost, and has been sent nothing by which it may have ended; or, if it has
    /// `aborted`, nothing of the answer to its COMMIT has come.
    pub(crate) fn may_replay(&self, code: Option<SqlState>, aborted: bool) -> bool {
        let lost =
            self.own().transaction_replay && code.is_none_or(|code| matches!(&code.0, b"57P01" | b"57P02" | b"57P03"));
        let ended = self.flight.iter().take(self.sent).any(|sent| sent.request.commits);
        let Some(tape) = self.tape.as_ref().filter(|tape| lost && !tape.overrun && !tape.sent.is_empty()) else {
            return false;
        };
        match (ended, tape.commit) {
            (false, _) => !self.rolls_back(),
            (true, Some((_, before))) => aborted && tape.heard.count == before,
            (true, None) => false,
        }
    }

    /// Another server has been found for the transaction whose server was lost. `lost`: what that one had.
    /// [`Session::encode`] writes what it is sent.
    pub fn reattach(&mut self, role: Role, lost: &ServerMemory, memory: &mut ServerMemory) {
        let Some(tape) = &mut self.tape else { return };
        let (mut opening, mut before) = (Vec::new(), 0);
        let mut ask = |sql: &str| {
            frontend::put_query(&mut opening, sql);
            before += 1;
        };
        if memory.prepared() > 0 {
            ask("DEALLOCATE ALL");
        }
        if memory.writer.is_some() {
            ask("DISCARD SEQUENCES");
        }
        if let Some(sql) = handed_on(memory.settings.as_ref(), &tape.settings) {
            ask(&sql);
        }
        for statement in &tape.needs {
            if statement.is_of_sql() {
                frontend::put_query(&mut opening, &preparing(statement));
                before += 1;
            } else {
                frontend::put_parse(&mut opening, &statement.id.name().0, &statement.sql, &statement.types);
            }
        }
        frontend::put_sync(&mut opening);
        before += 1;
        // A COMMIT waits until all else has been answered as before.
        let end = tape.commit.map_or(tape.sent.len(), |(at, _)| at);
        opening.extend_from_slice(&tape.sent[..end]);
        // What stood in front of it has been said in other words.
        drop(self.owed.drain(..std::mem::take(&mut tape.before)));
        memory.become_like(lost, |id| tape.has.contains(&id));
        let hash = Sha256::new();
        tape.playing = Some(Playing { opening, before, at: (0, 0), hash, sort: Sort::Proxy });
        tape.rest = 0;
        if memory.writer.as_ref().is_some_and(|writer| Arc::ptr_eq(writer, &self.token)) {
            self.wrote_on = WroteOn::One(memory.token.clone());
        }
        self.lease.role = Some(role);
        // What has been let go of an answer cannot be taken back.
        self.progress.holding = false;
        self.to_server.clear();
    }

    /// Writes the tape for the server that [`Session::reattach`] was told of.
    pub(crate) fn encode_tape(&mut self, out: &mut Vec<u8>) {
        if let Some(playing) = self.tape.as_mut().and_then(|tape| tape.playing.as_mut()) {
            out.append(&mut playing.opening);
        }
    }

    /// Compares an answer with what was heard of the server before.
    fn compare(&mut self, tag: u8, body: &[u8], memory: &mut ServerMemory) -> Verdict {
        if let Some((name, value)) = backend::parameter_status(body).filter(|_| tag == tag::PARAMETER_STATUS) {
            memory.report(name, value);
        }
        let Some(tape) = &mut self.tape else { return Verdict::Broken };
        let Some(playing) = &mut tape.playing else { return Verdict::Broken };
        if tag == tag::ERROR_RESPONSE && Report::new(body).is_fatal() {
            return Verdict::Leaving;
        }
        if is_asynchronous(tag) {
            return Verdict::Swallow;
        }
        if playing.before > 0 {
            playing.before -= usize::from(tag == tag::READY_FOR_QUERY);
            if tag == tag::ERROR_RESPONSE {
                return Verdict::Diverged;
            }
        } else {
            let (run, count) = playing.at;
            let Some(expected) = tape.heard.runs.get(run).filter(|run| run.tag == tag) else {
                return Verdict::Diverged;
            };
            playing.at = if count + 1 == expected.count { (run + 1, 0) } else { (run, count + 1) };
            playing.sort = expected.sort;
            match expected.sort {
                Sort::Client => {
                    playing.hash.update([tag]);
                    playing.hash.update(body);
                }
                Sort::Trace => self.learn_trace(body),
                Sort::Proxy => {}
            }
        }
        self.end_replay().unwrap_or(Verdict::Swallow)
    }

    /// If all has come that was heard before, the session goes on from there; `Some` if it was something else.
    fn end_replay(&mut self) -> Option<Verdict> {
        let tape = self.tape.as_mut()?;
        let playing = tape.playing.as_ref()?;
        if playing.before > 0 || tape.rest > 0 || playing.at.0 < tape.heard.runs.len() {
            return None;
        }
        if playing.hash.clone().finalize() != tape.heard.hash.clone().finalize() {
            return Some(Verdict::Diverged);
        }
        tape.playing = None;
        if let Some((at, _)) = tape.commit {
            // It is recorded anew where it is taken.
            self.to_server.extend_from_slice(&tape.sent[at..]);
            tape.sent.truncate(at);
        }
        if tape.overrun {
            self.tape = None;
        }
        None
    }

    /// The transaction is not run again after all: its client is told as if that had not been tried. Its server, if there is one, is
    /// not to be used any more.
    pub fn give_up_replay(&mut self, now: Instant) -> Loss {
        // With its COMMIT it is run again only where that is known not to have taken effect.
        let aborted = self.flight.iter().take(self.sent).any(|sent| sent.request.commits);
        self.tape = None;
        self.mourn(None, aborted, now)
    }
}

/// Messages that come when the server likes, and concern no request.
fn is_asynchronous(tag: u8) -> bool {
    matches!(tag, tag::NOTICE_RESPONSE | tag::NOTIFICATION_RESPONSE | tag::PARAMETER_STATUS)
}
