//! The shapes of statements: what clients were told of parameters and columns, and what a server's statement has of them.
//!
//! PostgreSQL fixes a statement's shape when it prepares it, and refuses to execute it when its tables have changed since: "cached plan
//! must not change result type". Here one statement is prepared on many servers, at different times. So a session remembers what
//! its client was told, a server's memory what its statement is, and nothing is executed for a client that would take the columns
//! for others than they are. A client that describes what it executes in the same request is told anew, and is free to go on.
//!
//! What is not known is asked: the statement is prepared anew and described, in front of the request. A read goes along in the
//! same write, and is run again if nobody may see it; anything else waits for the server's word. Once a server's statement has been described,
//! all that is left of this is a comparison.

use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use classifier::{Access, Why};
use wire::backend::{Failure, tag};
use wire::frame::Frames;
use wire::frontend::{self, Bind, Frontend, Target};

use crate::encode::FLUSH;
use crate::errors::RetryReason;
use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::reply::Verdict;
use crate::session::Session;
use crate::statements::{Form, Prepared};
use crate::terms::{Role, Transaction};

/// What is known of a statement's parameters and columns: a hash of each. Nobody gains by a collision but who owns the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    parameters: u32,
    columns: u32,
}

impl Shape {
    /// Whether anything in it could be otherwise on another server.
    pub(crate) fn matters(self) -> bool {
        self.parameters > NONE || self.columns > NONE
    }

    /// Whether it is known to be what a client was told.
    fn is(self, told: Shape) -> bool {
        (told.parameters == UNKNOWN || told.parameters == self.parameters)
            && (told.columns == UNKNOWN || told.columns == self.columns)
    }

    /// The same with what has been learnt since.
    fn with(self, news: Shape) -> Shape {
        let newer = |before: u32, now: u32| if now == UNKNOWN { before } else { now };
        Shape { parameters: newer(self.parameters, news.parameters), columns: newer(self.columns, news.columns) }
    }

    pub(crate) fn learn(&mut self, news: Shape) {
        *self = self.with(news);
    }
}

/// The shape that a client was told. It belongs to the statement, whatever becomes of the client's name for it.
#[derive(Debug, Default)]
pub(crate) struct Told(AtomicU64);

impl Told {
    pub(crate) fn get(&self) -> Shape {
        let bits = self.0.load(Ordering::Relaxed);
        Shape { parameters: (bits >> 32) as u32, columns: bits as u32 }
    }

    /// For a statement that takes this one's place in all respects.
    pub(crate) fn copy(&self) -> Told {
        Told(AtomicU64::new(self.0.load(Ordering::Relaxed)))
    }

    fn set(&self, shape: Shape) {
        self.0.store(u64::from(shape.parameters) << 32 | u64::from(shape.columns), Ordering::Relaxed);
    }

    /// A statement of the same text takes its place, of which nothing was told yet.
    pub(crate) fn forget(&self) {
        self.set(Shape::default());
    }
}

/// How far the shapes of what the first request executes are settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Shapes {
    /// There is nothing to find out.
    #[default]
    Settled,
    /// The request is not sent before the server has described its statements.
    Awaited,
    /// It has been sent behind what describes them.
    Presumed,
    /// It has been sent, and has other columns than its client was told: nothing of its answer is for the client.
    Misfit(RetryReason),
}

impl Session {
    /// Sees to it that the server's statements are what the client was told of those that the next request executes. `false` when
    /// that request has to wait for the server's word.
    pub(crate) fn settle_shapes(&mut self, memory: &mut ServerMemory, out: &mut Vec<u8>) -> bool {
        let misfits = self.misfits(memory);
        if misfits.is_empty() {
            return true;
        }
        // None of them makes room for another, however little there is: they are needed together.
        let limit = memory.limit(usize::MAX);
        for (name, statement) in misfits {
            self.describe_anew(&name, statement, memory, out);
        }
        memory.limit(limit);
        self.flight[self.sent].changes = self.changes.end();
        let request = &self.flight[self.sent].request;
        let alone = self.flight.len() == 1 && self.transaction == Transaction::None;
        if alone && self.progress.holding && request.access == Access::Read && request.attempts == 0 {
            self.progress.shapes = Shapes::Presumed;
            return true;
        }
        out.extend_from_slice(&FLUSH);
        self.progress.shapes = Shapes::Awaited;
        self.progress.unflushed = false;
        false
    }

    /// The server has described what it was asked to describe, or has failed: what has waited for that comes now.
    pub(crate) fn encode_described(&mut self, memory: &mut ServerMemory) {
        let mut out = std::mem::take(&mut self.to_server);
        self.progress.shapes = Shapes::Settled;
        // It has just been prepared: nothing else can be done about it.
        self.misfit = self.misfits(memory).into_iter().next().map(|(_, statement)| statement);
        self.encode_sent(memory, &mut out);
        self.misfit = None;
        self.encode(memory, &mut out);
        self.to_server = out;
    }

    /// The server's word on parameters: the first half of a statement's description.
    pub(crate) fn on_parameters(&mut self, body: &[u8]) -> Verdict {
        match self.owed.front() {
            Some(Owed::Describe { tells: Some(_), .. }) => {
                self.progress.parameters = hash(body);
                Verdict::Forward
            }
            Some(Owed::HiddenDescribe(_)) => {
                self.progress.parameters = hash(body);
                Verdict::Swallow
            }
            _ => Verdict::Forward,
        }
    }

    /// The server's word on columns, RowDescription or NoData, which completes a description.
    pub(crate) fn on_description(&mut self, tag: u8, body: &[u8], memory: &mut ServerMemory) -> Verdict {
        let parameters = std::mem::take(&mut self.progress.parameters);
        let news = || Shape { parameters, columns: if tag == tag::NO_DATA { NONE } else { columns(body) } };
        let verdict = match self.owed.pop_front() {
            Some(Owed::Describe { tells: Some(statement), .. }) => {
                // A statement keeps its shape for as long as a server has it.
                let known = memory.shape(statement.id).filter(|known| known.columns != UNKNOWN);
                let shape = known.map_or_else(news, |known| Shape { parameters, ..known });
                self.learn(&statement, shape, memory);
                statement.told.set(statement.told.get().with(shape));
                Verdict::Forward
            }
            Some(Owed::HiddenDescribe(statement)) => {
                let shape = news();
                self.learn(&statement, shape, memory);
                match self.progress.shapes {
                    Shapes::Awaited if self.owed.is_empty() => self.encode_described(memory),
                    Shapes::Presumed if !shape.is(statement.told.get()) => {
                        let replica = self.lease.role == Some(Role::Replica);
                        let reason = if replica { RetryReason::NotReplayed } else { RetryReason::Outdated };
                        self.progress.shapes = Shapes::Misfit(reason);
                    }
                    _ => {}
                }
                Verdict::Swallow
            }
            _ => Verdict::Forward,
        };
        self.settle_owed();
        verdict
    }

    /// What becomes of a message that belongs to an answer which the client must not see.
    pub(crate) fn conceal(&mut self, verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::Forward => {
                self.progress.holding = true;
                Verdict::Swallow
            }
            verdict => verdict,
        }
    }

    /// The statements that the next request executes and of which the server is not known to have what the client was told.
    fn misfits(&self, memory: &ServerMemory) -> Vec<(Box<[u8]>, Arc<Prepared>)> {
        let mut found: Vec<(Box<[u8]>, Arc<Prepared>)> = Vec::new();
        if self.progress.discarding || self.transaction == (Transaction::Open { failed: true }) {
            return found;
        }
        let frames = &self.flight[self.sent].request.frames;
        for (at, frame) in Frames::new(frames).enumerate() {
            if frame.tag != frontend::tag::BIND {
                continue;
            }
            let Ok(Frontend::Bind(bind)) = Frontend::read(frame) else { continue };
            let Some(statement) = self.statements.get(bind.statement) else { continue };
            let told = statement.told.get();
            if !told.matters() || self.shape_there(bind.statement, statement, memory).is(told) {
                continue;
            }
            let known = found.iter().any(|(_, known)| Arc::ptr_eq(known, statement));
            if !known && !is_described(frames, &bind) && !is_redefined(frames, at, bind.statement) {
                found.push((bind.statement.into(), statement.clone()));
            }
        }
        found
    }

    /// What is known of the server's statement.
    fn shape_there(&self, name: &[u8], statement: &Prepared, memory: &ServerMemory) -> Shape {
        if !name.is_empty() {
            return memory.shape(statement.id).unwrap_or_default();
        }
        if self.lease.unnamed { self.lease.unnamed_shape } else { Shape::default() }
    }

    fn learn(&mut self, statement: &Prepared, shape: Shape, memory: &mut ServerMemory) {
        if statement.is_unnamed() {
            self.lease.unnamed_shape.learn(shape);
        } else {
            memory.learn(statement.id, shape);
        }
    }

    /// Prepares a statement, again where the server has it: what it has may be older than what the client was told, and in a
    /// transaction there must be no error on the way.
    fn describe_anew(&mut self, name: &[u8], statement: Arc<Prepared>, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        if name.is_empty() {
            self.lease.unnamed = false;
            self.prepare(name, memory, out);
            frontend::put_describe_statement(out, b"");
        } else {
            memory.outdate(statement.id);
            self.encode_stale(memory, out);
            self.ensure(&statement, memory, out);
            frontend::put_describe_statement(out, &statement.id.name().0);
        }
        self.owe(Owed::HiddenDescribe(statement));
    }
}

/// The statement whose shape a description tells; `None` where shapes do not follow from the text: an EXECUTE is of another statement, a
/// FETCH of whatever cursor there is.
pub(crate) fn told(statement: &Arc<Prepared>) -> Option<Arc<Prepared>> {
    let fixed = matches!(statement.form, Form::Protocol | Form::Sql(_)) && statement.class.why != Why::Cursor;
    fixed.then(|| statement.clone())
}

/// As PostgreSQL words it; drivers that know how to go on know it by its SQLSTATE and routine.
pub(crate) fn changed() -> Failure {
    Failure::error(CHANGED, "cached plan must not change result type").routine("RevalidateCachedQuery")
}

/// Whether a request describes what it binds.
pub(crate) fn is_described(frames: &[u8], bind: &Bind<'_>) -> bool {
    Frames::new(frames).any(|frame| match Frontend::read(frame) {
        Ok(Frontend::Describe(Target::Portal(portal))) => portal == bind.portal,
        Ok(Frontend::Describe(Target::Statement(name))) => name == bind.statement,
        _ => false,
    })
}

/// Whether the first so many messages of a request give a name another meaning.
fn is_redefined(frames: &[u8], count: usize, name: &[u8]) -> bool {
    Frames::new(frames).take(count).any(|frame| match Frontend::read(frame) {
        Ok(Frontend::Parse(parse)) => parse.name == name,
        Ok(Frontend::Close(Target::Statement(closed))) => closed == name,
        _ => false,
    })
}

/// The columns of a RowDescription, by what PostgreSQL compares of them (`equalTupleDescs`): not the tables that they come from, nor
/// the formats, which are a portal's.
fn columns(body: &[u8]) -> u32 {
    let Some((count, fields)) = body.split_first_chunk() else { return hash(body) };
    let count = u16::from_be_bytes(*count);
    let (found, whole) = some_columns(count, fields);
    // Of one that is larger than a buffer no more than a beginning is sure to be at hand.
    if found == count { whole } else { some_columns(count, &fields[..fields.len().min(WIDE_BYTES)]).1 }
}

/// How many columns there are whole, and the hash of those.
fn some_columns(count: u16, mut fields: &[u8]) -> (u16, u32) {
    let mut hasher = DefaultHasher::new();
    hasher.write_u16(count);
    let mut found = 0;
    while let Some(end) = fields.iter().position(|byte| *byte == 0) {
        let (name, rest) = fields.split_at(end + 1);
        // The table's OID and the column's number in it, the type's OID, its length and modifier, the format.
        let Some((field, rest)) = rest.split_first_chunk::<18>() else { break };
        hasher.write(name);
        hasher.write(&field[6..16]);
        (found, fields) = (found + 1, rest);
    }
    (found, known(&hasher))
}

fn hash(body: &[u8]) -> u32 {
    if body == [0, 0] {
        return NONE;
    }
    let mut hasher = DefaultHasher::new();
    hasher.write(body);
    known(&hasher)
}

fn known(hasher: &DefaultHasher) -> u32 {
    (hasher.finish() as u32).max(NONE + 1)
}

/// Nobody has said.
const UNKNOWN: u32 = 0;

/// There are no parameters, or NoData.
const NONE: u32 = 1;

/// Bytes by which columns are told apart whose description does not fit into a buffer.
const WIDE_BYTES: usize = 1000;

/// feature_not_supported
pub(crate) const CHANGED: &str = "0A000";

#[cfg(test)]
mod tests {
    use super::*;

    fn described(columns: &[(&str, u32, u32, u8)]) -> Vec<u8> {
        let mut body = u16::try_from(columns.len()).expect("few").to_be_bytes().to_vec();
        for (name, table, kind, format) in columns {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(&table.to_be_bytes());
            body.extend_from_slice(&[0, 1]);
            body.extend_from_slice(&kind.to_be_bytes());
            body.extend_from_slice(&[0, 4, 0xff, 0xff, 0xff, 0xff, 0, *format]);
        }
        body
    }

    #[test]
    fn columns_are_told_apart_by_names_and_types() {
        let base = columns(&described(&[("a", 1, 23, 0), ("b", 1, 25, 0)]));
        // Another table, another format.
        assert_eq!(base, columns(&described(&[("a", 9, 23, 1), ("b", 9, 25, 0)])));
        for other in [
            &[("a", 1, 23, 0)][..],
            &[("b", 1, 25, 0), ("a", 1, 23, 0)],
            &[("a", 1, 20, 0), ("b", 1, 25, 0)],
            &[("a", 1, 23, 0), ("c", 1, 25, 0)],
            &[("a", 1, 23, 0), ("b", 1, 25, 0), ("c", 1, 25, 0)],
            &[],
        ] {
            assert_ne!(base, columns(&described(other)), "{other:?}");
        }
    }

    #[test]
    fn what_is_too_wide_is_known_by_its_beginning_however_much_is_at_hand() {
        let names: Vec<String> = (0..1600).map(|at| format!("column_{at}")).collect();
        let wide: Vec<_> = names.iter().map(|name| (name.as_str(), 1, 23, 0)).collect();
        let body = described(&wide);
        let cut = columns(&body[..20_000]);
        for length in [WIDE_BYTES + 2, 1019, 5000, 32_763] {
            assert_eq!(cut, columns(&body[..length]), "{length}");
        }
        assert_ne!(cut, columns(&described(&wide[..1599])[..20_000]));
        assert_ne!(cut, columns(&body));
    }

    #[test]
    fn what_was_not_told_fits_anything() {
        let shape = |parameters, columns| Shape { parameters, columns };
        assert!(shape(5, 6).is(shape(UNKNOWN, 6)) && shape(5, 6).is(shape(5, 6)) && shape(5, 6).is(shape(5, UNKNOWN)));
        assert!(!shape(5, 6).is(shape(5, 7)) && !shape(5, 6).is(shape(4, 6)) && !shape(5, UNKNOWN).is(shape(5, 6)));
        assert!(!shape(NONE, NONE).matters() && !shape(UNKNOWN, NONE).matters() && shape(NONE, 2).matters());
        assert_eq!(shape(5, 6).with(shape(UNKNOWN, 7)), shape(5, 7));
    }
}
