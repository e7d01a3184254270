//! How a lease ends, and why a client goes.

use session::{RetryReason, Trace};
use wire::backend::SqlState;

use crate::crew::Crossing;
use crate::deadline::Overdue;

/// How the lease ends.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The server is free.
    Free,
    /// The request has to be run elsewhere.
    Retry {
        /// Why.
        reason: RetryReason,
        /// The server can be given back.
        clean: bool,
    },
    /// The server is gone; the client knows, or will.
    Lost,
    /// The server is gone, and the transaction is to be run again elsewhere.
    Replay,
    /// The transaction cannot be run again here; the client knows, or will. The server is of no more use.
    Diverged,
    /// The server is gone, and a commit with it: what became of that can be found out.
    Unresolved(Unresolved),
    /// The client is gone, or must go.
    Gone(Gone),
}

/// A commit that was sent and not answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unresolved {
    pub(crate) trace: Trace,
    /// What the server said before it went, if anything.
    pub(crate) code: Option<SqlState>,
    /// How many bytes of `client.unsent` are final; the rest is for the case that it is committed.
    pub(crate) released: usize,
}

/// Why a client goes.
#[derive(Debug)]
pub(crate) enum Gone {
    /// It has said goodbye.
    Terminated,
    /// Its connection has ended.
    Vanished,
    /// It broke the protocol.
    Violation(session::Violation),
    /// What it was sent cannot be completed.
    Cut,
    /// An administrator has ended its session.
    Killed,
    /// It does not read what it listens for.
    Overflowed,
    /// It, or its server, has taken too long.
    Overdue(Overdue),
    /// Its server is out of step, or would not take the session's settings.
    Broken,
    /// It goes on with another worker.
    Elsewhere(Crossing),
}
