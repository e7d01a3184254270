//! A query proved a read by its tokens alone: most are, and at a fifth of what a syntax tree costs.
//!
//! PostgreSQL's grammar leaves few ways in which a query writes, and each needs a word of its own:
//! - SELECT INTO and row locks, which `query` looks for in any query;
//! - INSERT, UPDATE, DELETE or MERGE, in a WITH clause or behind one. They cannot be spelled otherwise, so a query without these words
//!   has none of them. A column of such a name costs a trip to the primary.
//! - a function, which `calls` finds by the parenthesis behind its name, and which `query` judges as in any other query.
//!
//! What is no SQL at all passes too: every server refuses it, with the same error and before it runs. So that nothing is cut differently from
//! PostgreSQL's parser, there must be no semicolon (the lexer cuts at those outside of parentheses only) and nothing that the lexer could
//! not read.

use crate::lexer::Kind;
use crate::tokens::Tokens;

/// How deep parentheses may nest: what is asked of a call walks to a parenthesis' other end.
const NESTING_MAX: usize = 50;

/// Whether nothing but a function could make this query write. The caller has looked for INTO and FOR, and judges the functions.
pub(crate) fn is_plain(query: Tokens<'_>) -> bool {
    let first = (0..query.len()).find(|at| !query.is_mark(*at, "(")).unwrap_or(0);
    let mut nesting = 0_usize;
    query.is_any_word(first, &["SELECT", "WITH", "VALUES", "TABLE"])
        && (0..query.len()).all(|at| match query.kind(at) {
            Some(Kind::Unreadable) => false,
            Some(Kind::Punct) => {
                match query.text(at) {
                    "(" => nesting += 1,
                    ")" => nesting = nesting.saturating_sub(1),
                    _ => {}
                }
                nesting <= NESTING_MAX && !query.is_mark(at, ";")
            }
            Some(Kind::Word) => !query.is_any_word(at, &["INSERT", "UPDATE", "DELETE", "MERGE", "INTO"]),
            _ => true,
        })
}
