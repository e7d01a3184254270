//! What is owed to the client, or to the proxy: one entry for each message that a server, or the proxy in its place, has yet to answer.

use std::sync::Arc;

use classifier::{Class, Effect, Why};
use wire::backend::Failure;

use crate::memory::SetAside;
use crate::pins::Check;
use crate::sql::Said;
use crate::statements::{Identity, Prepared};
use crate::transaction::Move;

/// What a server, or the proxy in its place, has yet to answer.
#[derive(Clone, Debug)]
pub(crate) enum Owed {
    /// A Query of the proxy's own: swallowed up to its ReadyForQuery.
    Hidden,
    /// The same, which gives the server the session's settings.
    HiddenSettings,
    /// The same behind a RESET: the startup packet's values, which a server's RESET does not go back to. Its ReadyForQuery is the
    /// request's.
    HiddenRestore,
    /// The same, which asks what the session has left there.
    HiddenCheck(Vec<Check>),
    /// The same, which may fail.
    HiddenQuery,
    /// The same, which ends the transaction on this server.
    HiddenMove(Move),
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
    /// CommandComplete, said by the proxy: the statement is the proxy's own affair.
    SynthesizedExecute { class: Arc<Class> },
    /// BindComplete, for this statement on the server.
    Bind { id: Option<Identity> },
    /// RowDescription or NoData, of this statement on the server. `tells`: whose shape the client is told.
    Describe { id: Option<Identity>, tells: Option<Arc<Prepared>> },
    /// The same, for the proxy's own use.
    HiddenDescribe(Arc<Prepared>),
    /// CommandComplete, EmptyQueryResponse or PortalSuspended; the class only if it has effects or may copy.
    /// `copied`: the end of the data has been sent already.
    /// `aside`: what the server has, should it not discard it.
    Execute { class: Option<Arc<Class>>, copied: bool, aside: Option<Box<SetAside>> },
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
    /// A step of something of the proxy's own.
    HiddenStep,
    /// The step that tells of the transaction.
    HiddenTrace,
    /// ReadyForQuery, which ends that.
    HiddenTraced,
    /// The end of a transaction of the proxy's own around a request: its ReadyForQuery is the request's.
    WrapEnd,
    /// The step that gives the server this statement.
    HiddenExecute(Identity),
    /// ReadyForQuery, which ends such a PREPARE ahead of a simple query.
    HiddenEnd,
    /// FunctionCallResponse and ReadyForQuery, of a function with this effect.
    Function(Option<Effect>),
}

impl Owed {
    /// Whether the proxy says it itself.
    pub(crate) fn is_synthesized(&self) -> bool {
        matches!(
            self,
            Owed::SynthesizedParse { .. }
                | Owed::SynthesizedClose { .. }
                | Owed::SynthesizedExecute { .. }
                | Owed::Said { .. }
        )
    }

    /// Where the changes begin that it makes, or would make, of the client's statements.
    pub(crate) fn mark(&self) -> Option<usize> {
        match *self {
            Owed::Parse { mark, .. }
            | Owed::RefusedParse { mark }
            | Owed::UnnamedParse { mark }
            | Owed::Query { mark, .. }
            | Owed::Doomed { mark, .. }
            | Owed::Said { mark, .. }
            | Owed::SynthesizedParse { mark }
            | Owed::SynthesizedClose { mark } => Some(mark),
            Owed::Execute { aside: Some(ref aside), .. } => Some(aside.mark),
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
    pub(crate) fn is_end(&self) -> bool {
        matches!(
            self,
            Owed::Sync
                | Owed::HiddenSync
                | Owed::HiddenEnd
                | Owed::HiddenTraced
                | Owed::WrapEnd
                | Owed::Query { .. }
                | Owed::Function(_)
                | Owed::Hidden
                | Owed::HiddenSettings
                | Owed::HiddenRestore
                | Owed::HiddenCheck(_)
                | Owed::HiddenMove(_)
                | Owed::HiddenQuery
        )
    }

    /// Whether it is a Query of the proxy's own.
    pub(crate) fn is_hidden(&self) -> bool {
        matches!(
            self,
            Owed::Hidden
                | Owed::HiddenSettings
                | Owed::HiddenRestore
                | Owed::HiddenCheck(_)
                | Owed::HiddenMove(_)
                | Owed::HiddenQuery
        )
    }

    /// Whether it may turn out to be a COPY that waits for its data.
    pub(crate) fn may_copy(&self) -> bool {
        matches!(self, Owed::Execute { class: Some(class), copied: false, .. } if class.why == Why::CopyFrom)
    }
}
