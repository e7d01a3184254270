//! What a session asks for, and tells, in its callers' terms.

use std::time::{Duration, Instant};

use classifier::{TransactionMode, Why};
use wire::Malformed;

/// The transaction, as the client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transaction {
    /// None: autocommit.
    None,
    /// BEGIN was answered by the proxy; it goes out with the first statement.
    Deferred(TransactionMode),
    /// A block on the server of the lease.
    Open {
        /// ReadyForQuery said `E`.
        failed: bool,
    },
    /// A block whose server was lost; nothing of it was committed.
    Lost {
        /// The client has been told so.
        told: bool,
    },
}

/// What kind of server a lease is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The primary.
    Primary,
    /// A replica.
    Replica,
}

/// What a frame from the client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet: more frames belong to the request.
    Gathering,
    /// The request needs a server.
    Request(Intent),
    /// The request is answered by [`listened`](crate::Session::listened), once the channels wanted are listened on.
    Listen,
    /// The proxy answers itself: see [`take_output`](crate::Session::take_output).
    Answered,
    /// CopyData, CopyDone or CopyFail for the server that waits for it: to be passed on as it is.
    Copy,
    /// Nothing was done with it: it is to be shown again when [`takes_more`](crate::Session::takes_more).
    Later,
    /// The client leaves.
    Terminate,
}

/// What a request needs of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intent {
    /// Which kind, how fresh.
    pub need: Need,
    /// Why, for the counters.
    pub why: Why,
}

/// Which server will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Only the primary.
    Primary,
    /// A replica, if one is fresh enough; else the primary.
    Replica {
        /// How old its picture may be.
        max_lag: Option<Duration>,
        /// What it must have seen: everything acknowledged before this moment.
        not_before: Option<Instant>,
        /// Every write to the database through this proxy, too.
        global: bool,
        /// The session's reads do not go back in time from one replica to the next.
        steady: bool,
        /// The primary is not to take a share of such reads: a replica was asked for.
        insists: bool,
        /// And what another session has seen.
        token: Option<crate::token::Token>,
    },
}

impl Need {
    /// What satisfies both, of one session.
    pub(crate) fn strictest(self, other: Need) -> Need {
        match (self, other) {
            (
                Need::Replica { max_lag, not_before, global, steady, insists, token },
                Need::Replica {
                    max_lag: lag,
                    not_before: moment,
                    global: everybodys,
                    steady: goes_on,
                    insists: insisted,
                    ..
                },
            ) => Need::Replica {
                max_lag: crate::policy::shorter(max_lag, lag),
                not_before: not_before.max(moment),
                global: global || everybodys,
                steady: steady || goes_on,
                insists: insists && insisted,
                token,
            },
            _ => Need::Primary,
        }
    }
}

/// What a client did against the protocol. The connection cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A message that cannot be read.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// A password where none was asked for.
    #[error("unexpected password message")]
    Password,
}
