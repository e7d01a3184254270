//! The request being gathered or answered: the client's frames as they came, and what was found out about them.
//!
//! It is kept until the first byte of its answer has gone to the client, so that it can be run again elsewhere.

use classifier::{Access, Class, Effect, PinReason, TransactionMode, Why};
use std::sync::Arc;

use crate::durability::Level;
use crate::policy::Wishes;
use crate::sql::Rewrite;

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
    /// What a simple query is replaced by when it is sent.
    pub(crate) rewrite: Option<Rewrite>,
    /// Whether it may copy from the client.
    pub(crate) copies: bool,
    /// Whether it leaves anything in its session.
    pub(crate) leaves_something: bool,
    /// Whether a comment asked for a certain kind of server.
    pub(crate) place: Option<classifier::Place>,
    /// How fresh comments want a replica to be.
    pub(crate) wishes: Wishes,
    /// The modes of a BEGIN that is its first statement.
    pub(crate) opens: Option<TransactionMode>,
    /// The `synchronous_commit` that rules ask for; `None` when it writes nothing, or there are no rules.
    pub(crate) level: Option<Level>,
    /// Whether it is nothing but COMMIT AND CHAIN or ROLLBACK AND CHAIN.
    pub(crate) chains: bool,
    /// Whether nothing comes of it, in its transaction, but results.
    pub(crate) plain: bool,
    /// Whether it binds the unnamed portal, and whether it uses one that was bound before.
    pub(crate) binds_unnamed: bool,
    pub(crate) uses_bound: bool,
    /// Whether it is, in part, the primary's business even in a read-only transaction.
    pub(crate) leaves_replica: bool,
    /// Whether it leaves in its session what must be on the primary.
    pub(crate) ties: bool,
    /// Whether it asks for what the session has drawn from sequences.
    pub(crate) recalls: bool,
    /// Whether it may draw from one.
    pub(crate) draws: bool,
    /// Whether any of its frames has to reach a server.
    pub(crate) needs_server: bool,
    /// How it ends.
    pub(crate) end: End,
    /// Whether it may change the catalogue.
    pub(crate) defines: bool,
    /// Whether it begins a transaction block.
    pub(crate) begins: bool,
    /// Whether it ends a transaction: when its answer is lost, nobody knows what became of it.
    pub(crate) commits: bool,
    /// Whether it runs code that may change settings unseen.
    pub(crate) obscure: bool,
    /// The channels that have to be listened on before it is begun.
    pub(crate) channels: Vec<String>,
    /// Whether anything in it is executed: preparing a write writes nothing.
    pub(crate) executes: bool,
    /// Whether anything in it concerns a portal: its transaction must not end before the client says so.
    pub(crate) uses_portals: bool,
    /// Whether it executes statements that the client has been told about before.
    pub(crate) relies: bool,
    /// Whether a Parse of the unnamed statement is among its messages.
    pub(crate) parses_unnamed: bool,
    /// Whether it begins or ends a transaction, or a part of one.
    pub(crate) controls: bool,
    /// Whether it changes how later requests are read, or where they go.
    pub(crate) alters: bool,
    /// Whether the proxy may have to answer some of it itself.
    pub(crate) local: bool,
    /// Whether it ends with a Query behind other messages, which an error of theirs discards.
    pub(crate) mixed: bool,
    /// Whether it would do the same in a transaction block: it reads and writes rows and does nothing else.
    pub(crate) wrappable: bool,
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
    /// With a Flush, behind nothing but what prepares: the server gets a Sync in its place, and is free.
    Prepared,
    /// With a Flush, or because it was too large to be kept: more belongs to it, and it cannot be run again.
    Part,
}

impl Default for Request {
    fn default() -> Request {
        Request::with(Vec::new())
    }
}

impl Request {
    /// Nothing yet, with a buffer for its frames.
    pub(crate) fn with(frames: Vec<u8>) -> Request {
        Request {
            frames,
            access: Access::Read,
            why: Why::Empty,
            writes: false,
            simple: None,
            rewrite: None,
            copies: false,
            leaves_something: false,
            recalls: false,
            draws: false,
            place: None,
            wishes: Wishes::default(),
            opens: None,
            level: None,
            chains: false,
            plain: true,
            binds_unnamed: false,
            uses_bound: false,
            leaves_replica: false,
            ties: false,
            needs_server: false,
            end: End::Open,
            defines: false,
            begins: false,
            commits: false,
            obscure: false,
            channels: Vec::new(),
            executes: false,
            uses_portals: false,
            relies: false,
            parses_unnamed: false,
            controls: false,
            alters: false,
            local: false,
            mixed: false,
            wrappable: true,
            attempts: 0,
        }
    }

    /// A Query of this class by itself, without its frame.
    pub(crate) fn of(class: &Class) -> Request {
        let mut request = Request { needs_server: true, executes: true, end: End::Ready, ..Request::default() };
        request.add(class);
        request
    }

    /// Takes a frame. Where there is no buffer yet, as behind others in a pipeline, all of most requests fits into the first.
    pub(crate) fn keep(&mut self, frame: &[u8]) {
        if self.frames.capacity() == 0 {
            self.frames.reserve(frame.len().max(CAPACITY_FIRST));
        }
        self.frames.extend_from_slice(frame);
    }

    /// Starts over with the same buffer, unless that has grown large.
    pub(crate) fn clear(&mut self) {
        let mut frames = std::mem::take(&mut self.frames);
        frames.clear();
        if frames.capacity() > CAPACITY_KEPT {
            frames = Vec::new();
        }
        *self = Request::with(frames);
    }

    /// Whether it does anything that is the primary's business even in a read-only transaction.
    pub(crate) fn leaves_replica(&self) -> bool {
        self.leaves_replica && self.executes
    }

    /// Notes the use of a portal, which may be an earlier request's.
    pub(crate) fn use_portal(&mut self, portal: &[u8]) {
        self.uses_bound |= !portal.is_empty() || !self.binds_unnamed;
    }

    /// Why it goes where it goes.
    pub(crate) fn why(&self) -> Why {
        if self.opens.is_some() && self.why == Why::Empty { Why::TransactionControl } else { self.why }
    }

    /// Whether the server answers it whole, with a ReadyForQuery at the end.
    pub(crate) fn is_whole(&self) -> bool {
        matches!(self.end, End::Ready | End::Prepared)
    }

    /// Goes on with more of itself; returns the frames that it had.
    pub(crate) fn merge(&mut self, more: Request) -> Vec<u8> {
        if more.access > self.access || self.why == Why::Empty {
            self.access = self.access.max(more.access);
            self.why = more.why;
        }
        self.writes |= more.writes;
        self.copies |= more.copies;
        self.leaves_something |= more.leaves_something;
        self.recalls |= more.recalls;
        self.draws |= more.draws;
        self.place = self.place.max(more.place);
        self.wishes.merge(more.wishes);
        self.level = self.level.max(more.level);
        self.plain &= more.plain;
        self.leaves_replica |= more.leaves_replica;
        self.ties |= more.ties;
        self.defines |= more.defines;
        self.begins |= more.begins;
        self.commits |= more.commits;
        self.obscure |= more.obscure;
        self.executes |= more.executes;
        self.uses_portals |= more.uses_portals;
        self.relies |= more.relies;
        self.controls |= more.controls;
        self.alters |= more.alters;
        self.mixed |= more.mixed;
        self.wrappable &= more.wrappable;
        self.simple = more.simple;
        self.rewrite = more.rewrite;
        self.end = more.end;
        std::mem::replace(&mut self.frames, more.frames)
    }

    /// What has been sent cannot be run again, and more belongs to it: what it was is of interest, its bytes are not.
    pub(crate) fn go_on(&mut self) {
        self.frames.clear();
        self.simple = None;
        self.rewrite = None;
        self.end = End::Open;
    }

    /// Adds a statement: the strictest decides.
    pub(crate) fn add(&mut self, class: &Class) {
        let is_first = self.why == Why::Empty;
        // A BEGIN decides by its modes; and it may be named more than once, when it is bound and when it is described.
        let opens = match &*class.effects {
            [Effect::Begin(mode)]
                if class.statements == 1 && is_first && self.opens.is_none_or(|known| known == *mode) =>
            {
                self.opens = Some(*mode);
                true
            }
            _ => false,
        };
        let chains =
            |effect: &Effect| matches!(effect, Effect::Commit { chain: true } | Effect::Rollback { chain: true });
        self.chains = is_first && class.statements == 1 && class.effects.iter().any(chains);
        self.plain &= opens || (class.access == Access::Read && class.effects.is_empty() && class.why != Why::Cursor);
        self.leaves_replica |= crate::transaction::leaves_replica(class) || class.lesson.is_learnt();
        self.ties |= crate::transaction::ties(class);
        self.wrappable &= class.effects.is_empty() && (class.access == Access::Read || writes_rows(class));
        self.place = self.place.max(class.hint.and_then(|hint| hint.place));
        self.wishes.add(class.hint);
        let (access, why) = class.place();
        if !opens && (access > self.access || is_first) {
            self.access = self.access.max(access);
            self.why = why;
        }
        let writes = access == Access::Write && !writes_nothing(class);
        self.writes |= writes;
        let recalls = class.effects.contains(&Effect::Pin(PinReason::SequenceState));
        self.recalls |= recalls;
        // In a string of several the values may be those that it draws itself.
        self.draws |= writes && !(recalls && class.statements == 1);
        self.defines |= class.defines;
        self.copies |= class.why == Why::CopyFrom;
        self.leaves_something |= !class.effects.is_empty();
        self.controls |= class.effects.iter().any(crate::flight::controls);
        self.alters |= crate::flight::alters(class);
        let local = |effect: &Effect| {
            matches!(effect, Effect::Hakem { .. } | Effect::HakemShow { .. }) || crate::answer::is_listen(effect)
        };
        self.local |= class.effects.iter().any(local) || crate::sql::concerns_statements(class);
        // What is executed by name here is not known by it.
        self.obscure |= class.unseen || class.effects.iter().any(|effect| matches!(effect, Effect::Execute(_)));
        for effect in &class.effects {
            if let Effect::Listen(channel) = effect {
                self.channels.push(channel.clone());
            }
        }
        self.begins |= class.effects.iter().any(|effect| matches!(effect, Effect::Begin(_)));
        self.commits |=
            class.effects.iter().any(|effect| matches!(effect, Effect::Commit { .. } | Effect::PrepareTransaction));
    }
}

/// Whether a statement writes nothing but rows, as far as its words say: no command that must not be in a transaction block, and none
/// that commits by itself.
fn writes_rows(class: &Class) -> bool {
    use Why::{CopyFrom, PrimaryRelation, UnknownFunction, UserFunction, VolatileFunction, WritesRows};
    matches!(class.why, WritesRows | CopyFrom | VolatileFunction | UnknownFunction | UserFunction | PrimaryRelation)
}

/// Whether a statement that is no replica's business leaves the data alone all the same.
pub(crate) fn writes_nothing(class: &Class) -> bool {
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
                | Effect::Listen(_)
                | Effect::Unlisten(_)
                | Effect::UnlistenAll
        )
    };
    match &*class.effects {
        [] => class.why == Why::NodeDependent,
        [effect] => class.statements == 1 && harmless(effect),
        _ => false,
    }
}

/// Bytes of buffer that a request begins with.
const CAPACITY_FIRST: usize = 128;

/// Bytes of buffer that a session in use keeps between requests.
pub(crate) const CAPACITY_KEPT: usize = 16 * 1024;
