//! The request being gathered or answered: the client's frames as they came, and what was found out about them.
//!
//! It is kept until the first byte of its answer has gone to the client, so that it can be run again elsewhere.

use classifier::{Access, Class, Effect, Why};
use std::sync::Arc;

/// The frames up to a Query, Sync, Flush or FunctionCall.
#[derive(Debug)]
pub(crate) struct Request {
    /// The client's frames.
    pub(crate) frames: Vec<u8>,
    /// The strictest access of its statements.
    pub(crate) access: Access,
    /// Why.
    pub(crate) why: Why,
    /// Whether it may change what others see. Less than `access`: BEGIN and SET need the primary and write nothing.
    pub(crate) writes: bool,
    /// The class of a simple query.
    pub(crate) simple: Option<Arc<Class>>,
    /// Whether it may copy from the client.
    pub(crate) copies: bool,
    /// Whether it leaves anything in its session.
    pub(crate) leaves_something: bool,
    /// Whether a comment asked for a certain kind of server.
    pub(crate) hint: Option<classifier::Hint>,
    /// Whether any of its frames has to reach a server.
    pub(crate) needs_server: bool,
    /// How it ends.
    pub(crate) end: End,
    /// Whether it begins a transaction block.
    pub(crate) begins: bool,
    /// Whether it ends a transaction: when its answer is lost, nobody knows what became of it.
    pub(crate) commits: bool,
    /// Whether anything in it is executed: preparing a write writes nothing.
    pub(crate) executes: bool,
    /// How often it has been sent to a server before.
    pub(crate) attempts: u32,
}

/// How a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It has not ended yet.
    Open,
    /// With a message that the server answers with ReadyForQuery.
    Ready,
    /// With a Flush, or because it was too large to be kept: more belongs to it, and it cannot be run again.
    Part,
}

impl Request {
    pub(crate) fn new() -> Request {
        Request {
            frames: Vec::new(),
            access: Access::Read,
            why: Why::Empty,
            writes: false,
            simple: None,
            copies: false,
            leaves_something: false,
            hint: None,
            needs_server: false,
            end: End::Open,
            begins: false,
            commits: false,
            executes: false,
            attempts: 0,
        }
    }

    /// Starts over with the same buffer, unless that has grown large.
    pub(crate) fn clear(&mut self) {
        let mut frames = std::mem::take(&mut self.frames);
        frames.clear();
        if frames.capacity() > CAPACITY_KEPT {
            frames = Vec::new();
        }
        *self = Request { frames, ..Request::new() };
    }

    /// What has been sent cannot be run again, and more belongs to it: what it was is of interest, its bytes are not.
    pub(crate) fn go_on(&mut self) {
        self.frames.clear();
        self.simple = None;
        self.end = End::Open;
    }

    /// Gives the buffer back: an idle client costs about nothing.
    pub(crate) fn shrink(&mut self) {
        if self.frames.is_empty() && self.frames.capacity() > CAPACITY_IDLE {
            self.frames = Vec::new();
        }
    }

    /// Adds a statement: the strictest decides.
    pub(crate) fn add(&mut self, class: &Class) {
        if class.access > self.access || self.why == Why::Empty {
            self.access = self.access.max(class.access);
            self.why = class.why;
        }
        self.writes |= class.access == Access::Write && !writes_nothing(class);
        self.copies |= class.why == Why::CopyFrom;
        self.leaves_something |= !class.effects.is_empty();
        self.hint = self.hint.or(class.hint);
        self.begins |= class.effects.iter().any(|effect| matches!(effect, Effect::Begin(_)));
        self.commits |=
            class.effects.iter().any(|effect| matches!(effect, Effect::Commit { .. } | Effect::PrepareTransaction));
    }
}

/// Whether a statement that is no replica's business leaves the data alone all the same.
fn writes_nothing(class: &Class) -> bool {
    let harmless = |effect: &Effect| {
        matches!(
            effect,
            Effect::Begin(_)
                | Effect::Commit { .. }
                | Effect::Rollback { .. }
                | Effect::Savepoint(_)
                | Effect::Release(_)
                | Effect::RollbackTo(_)
                | Effect::SetTransaction(_)
                | Effect::Set { .. }
                | Effect::Reset { .. }
                | Effect::ResetAll
        )
    };
    match &*class.effects {
        [] => class.why == Why::NodeDependent,
        [effect] => class.statements == 1 && harmless(effect),
        _ => false,
    }
}

/// Bytes of buffer that a session in use keeps between requests.
const CAPACITY_KEPT: usize = 16 * 1024;

/// Bytes of buffer that an idle session keeps.
const CAPACITY_IDLE: usize = 512;
