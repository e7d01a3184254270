//! The judgement on a single statement, before the statements of a string are put together.

use crate::class::{Access, Effect, PinReason, Why};
use std::ops::Range;

/// Access, reason and effect of one statement. An effect is never replica-safe: the constructors see to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) access: Access,
    pub(crate) why: Why,
    pub(crate) effect: Option<Effect>,
    /// Whether it may change the catalogue.
    pub(crate) defines: bool,
    /// Whether it may run code that nobody here has seen.
    pub(crate) unseen: bool,
    /// Whether another value of a literal could have changed this verdict.
    pub(crate) depends_on_literals: bool,
    /// What decided, for whoever asks why.
    pub(crate) because: Option<Because>,
}

/// What decided a verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Because {
    /// These bytes of the text: a function, a relation, a word.
    Text(Range<usize>),
    /// The parser's complaint, about the text without its literals.
    Parser(String),
}

impl Verdict {
    pub(crate) fn read(why: Why) -> Self {
        Verdict::of(Access::Read, why)
    }

    pub(crate) fn write(why: Why) -> Self {
        Verdict::of(Access::Write, why)
    }

    fn of(access: Access, why: Why) -> Self {
        let (effect, because) = (None, None);
        Verdict { access, why, effect, defines: false, unseen: false, depends_on_literals: false, because }
    }

    /// Transaction control.
    pub(crate) fn control(effect: Effect) -> Self {
        Verdict { effect: Some(effect), ..Self::write(Why::TransactionControl) }
    }

    /// Session state.
    pub(crate) fn session(effect: Effect) -> Self {
        Verdict { effect: Some(effect), ..Self::write(Why::SessionState) }
    }

    pub(crate) fn pin(reason: PinReason) -> Self {
        Self::session(Effect::Pin(reason))
    }

    /// The same verdict, and the text that decided it.
    pub(crate) fn at(self, text: Option<Range<usize>>) -> Self {
        Verdict { because: text.map(Because::Text), ..self }
    }
}
