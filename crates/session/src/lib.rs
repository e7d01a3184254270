//! The conversation with one client: what is owed to it, what ties it to a server, what is replayed, what may be retried.
//!
//! Pure: no socket, no clock, no runtime. The crate's map, in the order of a request's way:
//! - `session`: [`Session`], the whole state; takes the client's frames and says what they need ([`Step`], [`Intent`]).
//! - `policy`: [`Policy`], what the session is allowed and promised, and `SET hakem.*`.
//! - `request`: the frames gathered so far, kept until the first byte of an answer has gone out.
//! - `answer`: the answers that need no server.
//! - `flight`: requests that are on their way, several at once, and when one may follow another.
//! - `encode`: the request as it is sent to one particular server: settings, BEGIN and statements that it lacks come first.
//! - `reply`: the server's messages against what is `owed` ([`Verdict`]); `errors` among them, and what is run again ([`RetryReason`]).
//! - `loss`: what a client is told when its server is gone ([`Loss`]).
//! - `fate`: what became of a COMMIT whose answer is lost, and `trace`: how that can be found out.
//! - `replay`: the tape of a transaction, and how it is run again on another server.
//! - `pins`: what ties a session to its server, and how it ends.
//! - `settings`: tracked SETs with PostgreSQL's transactional rules.
//! - `names`: [`Names`], what a session listens on, or has to ask for.
//! - `statements`: prepared statements, the client's names for them and the servers'.
//! - `sql`: SQL's own PREPARE, EXECUTE and DEALLOCATE.
//! - `durability`: `synchronous_commit` by what a transaction writes.
//! - `reported`: what servers report of their settings, and clients are told.
//! - `token`: what a session has seen, for another proxy.
//! - `transaction`: which transactions may run on a replica, and how one leaves it for the primary.
//! - `memory`: [`ServerMemory`], what a server connection still has of the sessions that used it.

mod answer;
mod durability;
mod encode;
mod errors;
mod fate;
mod flight;
mod foreign;
mod lessons;
mod loss;
mod memory;
mod names;
mod owed;
mod pins;
mod policy;
mod replay;
mod reply;
mod reported;
mod request;
mod reveal;
mod scratch;
mod sequences;
mod session;
mod settings;
mod shapes;
mod sql;
mod statements;
mod terms;
mod token;
mod trace;
mod transaction;
mod words;

pub use classifier::Consistency;
pub use durability::{DurabilityRule, Level};
pub use errors::RetryReason;
pub use fate::{Fate, Inquiry, Trace, XactStatus};
pub use flight::{FLIGHT_REQUESTS_MAX, LEASE_REQUESTS_MAX};
pub use loss::Loss;
pub use memory::ServerMemory;
pub use names::Names;
pub use pins::columns;
pub use policy::{Affinity, Charter, Policy, Route};
pub use reply::Verdict;
pub use reported::Reported;
pub use scratch::Scratch;
pub use session::Session;
pub use settings::{Settings, quoted_literal};
pub use terms::{Intent, Need, Role, Step, Transaction, Violation};
pub use token::Token;
