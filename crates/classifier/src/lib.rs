//! SQL text to [`Class`]: may a replica run it, what does it do to the session, and why. Pure: no socket, no clock.
//!
//! - `class`: the answer's vocabulary.
//! - `cache`: [`Classifier`], the bounded caches in front of the rules.
//! - `explain`: the same answer for people, with what decided it.
//! - `lexer`: text to tokens and statements, by PostgreSQL's rules; `tokens` is what is asked of them.
//! - `statement`: one statement to its verdict (`verdict`), by its first words; `settings` for SET and its kin, `query` for what
//!   may be a read, with `calls`, `attributes`, `blank` and `keywords` as its tools, and `plain` for what sqlparser cannot read.
//! - `catalog`: which functions and relations are harmless; `builtin` and `operators` hold PostgreSQL's own. `facts` makes one of what was read of a database.
//! - `unseen`: what may run code that nobody here has seen.
//! - `targets`: what is written, as far as words say.
//! - `hint`: what routing comments ask for.
//!
//! Doubt is an answer: whatever no rule proves to be a read is [`Access::Write`].

mod attributes;
mod blank;
mod builtin;
mod cache;
mod calls;
mod catalog;
mod class;
mod explain;
mod facts;
mod glance;
mod hint;
mod keywords;
mod lexer;
mod operators;
mod plain;
mod prepared;
mod query;
mod settings;
mod statement;
mod targets;
mod tokens;
mod unseen;
mod verdict;

pub use cache::{Classifier, Options, TEXT_BYTES_MAX};
pub use catalog::{Catalog, Rules, Size, Volatility};
pub use class::{
    Access, Class, Effect, Execution, Isolation, Lesson, PinReason, Scope, TransactionAccess, TransactionMode, Why,
};
pub use explain::{Explained, Explanation};
pub use facts::{Argument, Facts, Function, Object};
pub use hint::{Consistency, Hint, Place, duration};
pub use targets::{Target, Verb};
