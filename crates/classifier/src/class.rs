//! The answer: what a statement may do, where it may run, and why.
//!
//! Owns the vocabulary that the session and the router share with the classifier. It decides nothing: no rule lives here.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::hint::Hint;
use crate::targets::Target;

/// Everything that the proxy needs to know about one query string.
///
/// A string with effects is never replica-safe: `effects.is_empty()` or `access == Access::Write`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Class {
    /// Where the whole string may run: the strictest of its statements decides, since it is one implicit transaction.
    pub access: Access,
    /// What the statements do to the session or the transaction, in order; one entry at most per statement.
    pub effects: Box<[Effect]>,
    /// The reason for `access`, for the counters.
    pub why: Why,
    /// How many statements the string holds; 0 means that the server will answer EmptyQueryResponse.
    pub statements: usize,
    /// Whether it may change which functions, relations, types and operators there are, and what they are: CREATE, ALTER, DROP, DO. What a
    /// function or a procedure does inside is not seen.
    pub defines: bool,
    /// Whether it may run code that nobody here has seen, which may set anything: a procedure, a function that is not known to be harmless,
    /// a trigger, or who knows what. What is prepared and executed by name has a class of its own.
    pub unseen: bool,
    /// What comments of the form `/* hakem: primary */` asked for. It is reported, not obeyed: `access` does not depend on it.
    pub hint: Option<Hint>,
    /// What has come of it so far.
    pub lesson: Lesson,
    /// What the statements write to, as far as their words say; nothing for reads.
    pub targets: Box<[Target]>,
}

/// What experience has shown of a class, for all who share it: the caches, and whoever has prepared such a statement. It is forgotten
/// with the class.
#[derive(Debug, Default)]
pub struct Lesson(AtomicBool);

impl Lesson {
    /// A replica has refused it, and the primary has not: it is no read, whatever it looks like.
    pub fn learn(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether that has been learnt.
    pub fn is_learnt(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Clone for Lesson {
    fn clone(&self) -> Lesson {
        Lesson(AtomicBool::new(self.is_learnt()))
    }
}

/// Two classes are the same whatever has come of them.
impl PartialEq for Lesson {
    fn eq(&self, _: &Lesson) -> bool {
        true
    }
}

impl Eq for Lesson {}

impl Class {
    /// Where it may run and why, by what is known of it by now.
    pub fn place(&self) -> (Access, Why) {
        if self.lesson.is_learnt() { (Access::Write, Why::Misrouted) } else { (self.access, self.why) }
    }

    /// Whether a replica may run this string.
    pub fn is_read(&self) -> bool {
        self.access == Access::Read
    }

    /// A word for what the string does to its session: that of its strongest effect, `cursor` if it opens, reads or closes one in its
    /// transaction, or `none`.
    pub fn effect(&self) -> &'static str {
        let words = || self.effects.iter().map(Effect::as_str);
        Effect::WORDS
            .iter()
            .copied()
            .find(|word| words().any(|has| has == *word))
            .unwrap_or(if self.why == Why::Cursor { "cursor" } else { "none" })
    }
}

/// Whether a hot standby can run the statement and give the answer that the primary would have given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Replica-safe.
    Read,
    /// For the primary: it writes, or depends on the node or the session, or is in doubt.
    Write,
}

impl Access {
    /// `read` or `write`.
    pub fn as_str(self) -> &'static str {
        match self {
            Access::Read => "read",
            Access::Write => "write",
        }
    }
}

/// How long a SET lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// SET and SET SESSION: until the session ends, if the transaction commits.
    Session,
    /// SET LOCAL: until the transaction ends.
    Local,
}

/// READ ONLY or READ WRITE in a transaction's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransactionAccess {
    /// READ ONLY
    ReadOnly,
    /// READ WRITE
    ReadWrite,
}

/// ISOLATION LEVEL in a transaction's mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Isolation {
    /// READ UNCOMMITTED, which PostgreSQL runs as READ COMMITTED.
    ReadUncommitted,
    /// READ COMMITTED
    ReadCommitted,
    /// REPEATABLE READ
    RepeatableRead,
    /// SERIALIZABLE: a hot standby refuses it.
    Serializable,
}

/// The modes named by BEGIN, START TRANSACTION or SET TRANSACTION; `None` where the statement did not say.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct TransactionMode {
    /// READ ONLY or READ WRITE.
    pub access: Option<TransactionAccess>,
    /// ISOLATION LEVEL.
    pub isolation: Option<Isolation>,
    /// DEFERRABLE or NOT DEFERRABLE.
    pub deferrable: Option<bool>,
}

/// What a statement does to the session or to the transaction, once it has succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// BEGIN, START TRANSACTION.
    Begin(TransactionMode),
    /// COMMIT, END.
    Commit {
        /// AND CHAIN: a new transaction begins at once.
        chain: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN: a new transaction begins at once.
        chain: bool,
    },
    /// SAVEPOINT name, folded as PostgreSQL folds identifiers.
    Savepoint(String),
    /// RELEASE name.
    Release(String),
    /// ROLLBACK TO name.
    RollbackTo(String),
    /// PREPARE TRANSACTION: the transaction leaves the session. COMMIT PREPARED and ROLLBACK PREPARED are plain writes.
    PrepareTransaction,
    /// SET TRANSACTION modes.
    SetTransaction(TransactionMode),
    /// SET, and a lone `SELECT set_config(...)` of constants.
    Set {
        /// The setting, in lower case.
        name: String,
        /// A statement that sets it again, e.g. `SET search_path TO a, b`.
        statement: String,
        /// How long it lasts.
        scope: Scope,
    },
    /// `set_config` of these settings to something that does not stand in the text, several settings in one statement: what they are
    /// now has to be asked.
    SetUnseen(Vec<String>),
    /// RESET name, SET name TO DEFAULT.
    Reset {
        /// The setting, in lower case.
        name: String,
    },
    /// RESET ALL.
    ResetAll,
    /// DISCARD ALL. DISCARD PLANS and SEQUENCES have no effect that the proxy must follow, DISCARD TEMP ends a pin.
    DiscardAll,
    /// DEALLOCATE ALL.
    DeallocateAll,
    /// PREPARE name (types) AS body. Texts that are to be sent again are bytes, since they may be in another encoding than UTF-8.
    Prepare {
        /// The name, folded.
        name: String,
        /// The types with their parentheses, as written; empty where there are none.
        types: Vec<u8>,
        /// The statement behind AS, as written.
        body: Vec<u8>,
    },
    /// EXECUTE, by itself or in EXPLAIN or CREATE TABLE AS.
    Execute(Box<Execution>),
    /// DEALLOCATE name.
    Deallocate(String),
    /// SET hakem.name, RESET hakem.name: handled by the proxy, never sent to a server.
    Hakem {
        /// What follows `hakem.`, in lower case.
        name: String,
        /// The new value as text; `None` resets it.
        value: Option<String>,
        /// How long it lasts.
        scope: Scope,
    },
    /// SHOW hakem.name: answered by the proxy.
    HakemShow {
        /// What follows `hakem.`, in lower case.
        name: String,
    },
    /// The session needs this very server connection from now on.
    Pin(PinReason),
    /// The reason for such a pin is gone: DISCARD TEMP, CLOSE ALL, `SELECT pg_advisory_unlock_all()`.
    Unpin(PinReason),
    /// LISTEN channel, folded and cut as PostgreSQL does it.
    Listen(String),
    /// UNLISTEN channel.
    Unlisten(String),
    /// UNLISTEN *.
    UnlistenAll,
    /// `pg_advisory_unlock` and its kin: the last advisory lock of the session may be gone.
    Unlocks,
}

impl Effect {
    /// Every word of [`Effect::as_str`], the strongest first: what pins weighs more than what can be followed.
    const WORDS: [&str; 12] = [
        "pin",
        "discard",
        "set",
        "prepare",
        "execute",
        "deallocate",
        "listen",
        "unlisten",
        "hakem",
        "unpin",
        "unlock",
        "transaction",
    ];

    /// A word for its kind.
    pub fn as_str(&self) -> &'static str {
        match self {
            Effect::Begin(_)
            | Effect::Commit { .. }
            | Effect::Rollback { .. }
            | Effect::Savepoint(_)
            | Effect::Release(_)
            | Effect::RollbackTo(_)
            | Effect::PrepareTransaction
            | Effect::SetTransaction(_) => "transaction",
            Effect::Set { .. } | Effect::SetUnseen(_) | Effect::Reset { .. } | Effect::ResetAll => "set",
            Effect::DiscardAll => "discard",
            Effect::DeallocateAll | Effect::Deallocate(_) => "deallocate",
            Effect::Prepare { .. } => "prepare",
            Effect::Execute(_) => "execute",
            Effect::Hakem { .. } | Effect::HakemShow { .. } => "hakem",
            Effect::Pin(_) => "pin",
            Effect::Unpin(_) => "unpin",
            Effect::Listen(_) => "listen",
            Effect::Unlisten(_) | Effect::UnlistenAll => "unlisten",
            Effect::Unlocks => "unlock",
        }
    }
}

/// The parts of a statement that executes a prepared one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// What stands before the name, as written.
    pub before: Vec<u8>,
    /// The name, folded.
    pub name: String,
    /// What stands behind the name, as written.
    pub after: Vec<u8>,
    /// Whether it does nothing but what the prepared statement does.
    pub plain: bool,
    /// What it leaves behind by its own words.
    pub pin: Option<PinReason>,
}

/// What ties a session to its server connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PinReason {
    /// LISTEN on a connection of the session's own.
    Listen,
    /// A session-level advisory lock.
    AdvisoryLock,
    /// CREATE TEMP TABLE, SELECT INTO TEMP, a name in `pg_temp`.
    TempTable,
    /// DECLARE ... CURSOR WITH HOLD.
    HoldCursor,
    /// PREPARE of a name in SQL, in a string of several statements.
    SqlPrepare,
    /// `set_config` that could not be written as a SET.
    SetConfig,
    /// LOAD.
    Load,
    /// `currval`, `lastval`: what they read was left by an earlier `nextval` of the same connection. A `nextval` alone does not
    /// pin, else each INSERT that calls it by hand would. Inside the transaction of its `nextval` this pin is not needed.
    SequenceState,
    /// The client, or a rule, says so: `SET hakem.pin = on`.
    Explicit,
    /// Anything else that stays behind: `setseed`, `lo_open`, several settings in one statement, a DO block that sets one.
    Other,
}

impl PinReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [PinReason; 10] = [
        PinReason::Listen,
        PinReason::AdvisoryLock,
        PinReason::TempTable,
        PinReason::HoldCursor,
        PinReason::SqlPrepare,
        PinReason::SetConfig,
        PinReason::Load,
        PinReason::SequenceState,
        PinReason::Explicit,
        PinReason::Other,
    ];

    /// A word for counters and the console.
    pub fn as_str(self) -> &'static str {
        match self {
            PinReason::Listen => "listen",
            PinReason::AdvisoryLock => "advisory_lock",
            PinReason::TempTable => "temp_table",
            PinReason::HoldCursor => "hold_cursor",
            PinReason::SqlPrepare => "sql_prepare",
            PinReason::SetConfig => "set_config",
            PinReason::Load => "load",
            PinReason::SequenceState => "sequence_state",
            PinReason::Explicit => "explicit",
            PinReason::Other => "other",
        }
    }
}

/// Why a statement got its access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// SELECT, VALUES, TABLE, WITH without anything below.
    Select,
    /// SHOW of a setting that follows the session.
    Show,
    /// EXPLAIN that executes nothing, or executes a read.
    Explain,
    /// COPY ... TO STDOUT of a read.
    CopyTo,
    /// DECLARE, FETCH, MOVE, CLOSE.
    Cursor,
    /// Nothing but comments and semicolons.
    Empty,
    /// INSERT, UPDATE, DELETE, MERGE, at any depth.
    WritesRows,
    /// SELECT INTO.
    SelectInto,
    /// FOR UPDATE, FOR NO KEY UPDATE, FOR SHARE, FOR KEY SHARE, at any depth; LOCK.
    RowLock,
    /// A function that PostgreSQL calls volatile.
    VolatileFunction,
    /// A function that the catalogue does not know, or does not trust.
    UnknownFunction,
    /// A user's function that is not harmless, by the catalogue or by a rule, or what calls one: an operator, a cast.
    UserFunction,
    /// A function, view or setting whose answer depends on the node.
    NodeDependent,
    /// A relation that the catalogue sends to the primary: unlogged, foreign, temporary, a view over a volatile function.
    PrimaryRelation,
    /// sqlparser and PostgreSQL disagree, or the text is no SQL.
    ParseFailure,
    /// Too long or too deep to be examined.
    TooComplex,
    /// A statement that no rule knows.
    UnknownStatement,
    /// CREATE, ALTER, DROP, GRANT, VACUUM and their kin.
    Utility,
    /// CALL, DO: what they run cannot be seen.
    Procedure,
    /// SET, LISTEN, PREPARE, `set_config`, `currval` and what else lives in the session.
    SessionState,
    /// BEGIN, COMMIT, ROLLBACK, SAVEPOINT.
    TransactionControl,
    /// COPY ... FROM.
    CopyFrom,
    /// COPY to a file or a program of the server's.
    CopyFile,
    /// It looked like a read, and a replica has refused it.
    Misrouted,
    /// A string of several statements of which one is no read; the effects tell more.
    MultiStrictest,
}

impl Why {
    /// A word for counters and the console.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::Select => "select",
            Why::Show => "show",
            Why::Explain => "explain",
            Why::CopyTo => "copy_to",
            Why::Cursor => "cursor",
            Why::Empty => "empty",
            Why::WritesRows => "writes_rows",
            Why::SelectInto => "select_into",
            Why::RowLock => "row_lock",
            Why::VolatileFunction => "volatile_function",
            Why::UnknownFunction => "unknown_function",
            Why::UserFunction => "user_function",
            Why::NodeDependent => "node_dependent",
            Why::PrimaryRelation => "primary_relation",
            Why::ParseFailure => "parse_failure",
            Why::TooComplex => "too_complex",
            Why::UnknownStatement => "unknown_statement",
            Why::Utility => "utility",
            Why::Procedure => "procedure",
            Why::SessionState => "session_state",
            Why::TransactionControl => "transaction_control",
            Why::CopyFrom => "copy_from",
            Why::CopyFile => "copy_file",
            Why::Misrouted => "misrouted",
            Why::MultiStrictest => "multi_strictest",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
