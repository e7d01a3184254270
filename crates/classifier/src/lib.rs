//! SQL text to [`Class`]: may a replica run it, what does it do to the session, and why. Pure: no socket, no clock.
//!
//! - `class`: the answer's vocabulary.
//! - `cache`: [`Classifier`], the bounded caches in front of the rules.
//!
//! Doubt is an answer: whatever no rule proves to be a read is [`Access::Write`].

mod cache;
mod class;

pub use cache::{Classifier, Options};
pub use class::{Access, Class, Effect, Hint, Isolation, PinReason, Scope, TransactionAccess, TransactionMode, Why};
