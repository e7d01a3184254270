//! Which transaction may run on a replica, and how one that has begun there gets to the primary.
//!
//! A transaction that is read-only and not serializable may. What comes of one on a replica and on a read-only primary differs
//! all the same: advisory locks, `pg_notify`, temporary tables, functions that nobody knows. Where its first statement is in doubt it
//! begins on the primary. Where a later one is, and nothing has come of it but results of reads at READ COMMITTED, of which each has a
//! snapshot of its own, it is ended on the replica and goes on at the primary: the client's next read sees what is at least as new.
//! (`now()` stands still in one half and in the other.) A transaction that has one snapshot, savepoints, cursors or settings stays
//! where it is: the replica refuses what it cannot do. What it would not refuse, and would not do right, is refused here.

use classifier::{Access, Class, Effect, Isolation, TransactionAccess, TransactionMode, Why};
use wire::backend::{Failure, Status};
use wire::frontend;

use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::reply::Verdict;
use crate::request::Request;
use crate::session::Session;
use crate::terms::{Role, Transaction};

/// What is known of the transaction block on the server of the lease.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Block {
    /// What it was begun with; `None` when the proxy does not know.
    mode: Option<TransactionMode>,
    /// Nothing has come of it but results of reads.
    plain: bool,
}

/// How a transaction leaves its replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// To the primary, if each of its statements has a snapshot of its own.
    IfReadCommitted,
    /// Nothing has happened in it yet: whatever comes first decides where it begins.
    Anew,
    /// It cannot: it is undone, and the client is told to run it again.
    Refused,
}

impl Block {
    /// One that begins with the next statement.
    pub(crate) fn new(mode: TransactionMode) -> Block {
        Block { mode: Some(mode), plain: true }
    }
}

impl Session {
    /// Whether a transaction of these modes may run on a replica. "cannot use serializable mode in a hot standby"
    /// (GetSerializableTransactionSnapshot).
    pub(crate) fn suits_replica(&self, mode: TransactionMode) -> bool {
        let read_only = match mode.access {
            Some(access) => access == TransactionAccess::ReadOnly,
            None => self.settings.value("default_transaction_read_only").is_some_and(|value| is_on(&value)),
        };
        let serializable = match mode.isolation {
            Some(isolation) => isolation == Isolation::Serializable,
            None => self.is_serializable_by_default(),
        };
        read_only && !serializable && !self.shuns_replicas
    }

    /// Whether the session's statements run in serializable transactions unless they say otherwise.
    pub(crate) fn is_serializable_by_default(&self) -> bool {
        let value = self.settings.value("default_transaction_isolation");
        value.is_some_and(|value| value.eq_ignore_ascii_case("serializable"))
    }

    /// SET TRANSACTION ahead of the first statement of a transaction that the proxy has begun by itself: what it will be begun with.
    /// `None` for modes that a server has to look at.
    pub(crate) fn with_modes(known: TransactionMode, more: TransactionMode) -> Option<TransactionMode> {
        (more != TransactionMode::default()).then(|| TransactionMode {
            access: more.access.or(known.access),
            isolation: more.isolation.or(known.isolation),
            deferrable: more.deferrable.or(known.deferrable),
        })
    }

    /// Whether the request that has just been gathered takes its transaction away from its server.
    #[must_use]
    pub fn moves(&self) -> bool {
        self.moving.is_some()
    }

    /// How the transaction leaves its replica for a request's sake; `None` when it stays.
    pub(crate) fn leaving(&self, request: &Request) -> Option<Move> {
        let open = self.transaction == Transaction::Open { failed: false };
        if self.lease.role != Some(Role::Replica) || !open || self.progress.part || !request.leaves_replica() {
            return None;
        }
        match self.block {
            Block { mode: Some(mode), plain: true }
                if !request.uses_bound && mode.isolation != Some(Isolation::RepeatableRead) =>
            {
                Some(Move::IfReadCommitted)
            }
            _ => request.ties.then_some(Move::Refused),
        }
    }

    /// Ends the transaction on the replica.
    pub(crate) fn leave_replica(&mut self, how: Move, out: &mut Vec<u8>) {
        let sql = if how == Move::IfReadCommitted { "SHOW transaction_isolation;ROLLBACK" } else { "ROLLBACK" };
        frontend::put_query(out, sql);
        self.lease.unnamed = false;
        self.owed.push_back(Owed::HiddenMove(how));
    }

    /// What the replica has answered to that: the isolation level of the transaction.
    pub(crate) fn learn_isolation(&mut self, level: Option<&[u8]>) {
        if let Some(Owed::HiddenMove(how @ Move::IfReadCommitted)) = self.owed.front_mut() {
            // PostgreSQL runs READ UNCOMMITTED as READ COMMITTED.
            let moves = matches!(level, Some(b"read committed" | b"read uncommitted"));
            *how = if moves { Move::Anew } else { Move::Refused };
        }
    }

    /// The transaction has been ended there.
    pub(crate) fn left_replica(&mut self, how: Move, memory: &mut ServerMemory) -> Verdict {
        let mode = std::mem::take(&mut self.block).mode.unwrap_or_default();
        self.portals.clear();
        self.transaction = Transaction::Deferred(mode);
        if how != Move::Anew {
            self.shuns_replicas = true;
            self.settings.rollback();
        }
        // A transaction ahead in the chain may have set some.
        memory.settings = Some(self.settings.current().clone());
        if how != Move::Anew {
            self.refuse(&bound_to_primary());
        }
        Verdict::HiddenReady { free: true }
    }

    /// What a request makes of the block that it ran in.
    pub(crate) fn note_block(&mut self, request: &Request, status: Status) {
        let plain = request.plain && !self.progress.suspended && !self.progress.failed;
        match status {
            Status::Idle | Status::Failed => self.block = Block::default(),
            Status::Open if request.chains && self.block.mode.is_some() => self.block.plain = true,
            Status::Open => match request.opens.filter(|_| self.transaction == Transaction::None) {
                Some(mode) => self.block = Block { mode: Some(mode), plain },
                None => self.block.plain &= plain,
            },
        }
    }

    /// The transaction that a COMMIT AND CHAIN on a replica has begun may run elsewhere: nothing has happened in it, and no lag bound
    /// would hold for a chain of transactions on one replica. `true` when it is on its way.
    pub(crate) fn unchain(&mut self, chained: bool) -> bool {
        let leaves = chained
            && self.flight.is_empty()
            && self.lease.role == Some(Role::Replica)
            && self.transaction == Transaction::Open { failed: false }
            && self.block.mode.is_some();
        if leaves {
            let mut out = std::mem::take(&mut self.to_server);
            self.leave_replica(Move::Anew, &mut out);
            self.to_server = out;
        }
        leaves
    }
}

/// Whether a statement of a read-only transaction has something to do, or to say, that only a primary does.
pub(crate) fn leaves_replica(class: &Class) -> bool {
    let writable = |effect: &Effect| {
        matches!(effect, Effect::SetTransaction(TransactionMode { access: Some(TransactionAccess::ReadWrite), .. }))
    };
    if class.access == Access::Read || class.effects.iter().any(writable) {
        return class.access == Access::Write;
    }
    if class.effects.iter().any(crate::flight::controls) {
        return false;
    }
    match class.why {
        // A read-only primary refuses these in the same words.
        Why::WritesRows | Why::SelectInto | Why::CopyFrom => false,
        Why::TransactionControl => false,
        Why::SessionState => class.effects.iter().any(|effect| matches!(effect, Effect::Pin(_))),
        _ => true,
    }
}

/// Whether it leaves something on its server that must be on the primary, and that a replica would not refuse.
pub(crate) fn ties(class: &Class) -> bool {
    class.effects.iter().any(|effect| matches!(effect, Effect::Pin(_)))
}

fn bound_to_primary() -> Failure {
    Failure::error(
        "40001",
        "the transaction has begun on a replica, and cannot go on with what is left in a session on the primary",
    )
    .hint("Run the transaction again: it will begin on the primary.")
}

fn is_on(value: &str) -> bool {
    matches!(value.to_ascii_lowercase().as_str(), "on" | "true" | "tru" | "tr" | "t" | "yes" | "ye" | "y" | "1")
}
