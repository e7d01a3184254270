//! SELECT, VALUES, TABLE and WITH: may a replica run the query?
//!
//! The tokens know every function, every system view and every dangerous word, in any position. Where no word could make a write, that is
//! the whole proof: see `plain`. A query with such a word, most often the name of a column, has to be read by sqlparser too: its tree tells
//! where locks, INTO and data-modifying CTEs are. The tree is built from the text with its literals blanked, so that the two cannot
//! disagree about where a string or a comment ends, and so that the verdict cannot depend on a literal, but for the few functions
//! whose arguments are read here.

use crate::blank::blank;
use crate::calls::{Call, calls, names_columns};
use crate::catalog::{Calling, Catalog, is_node_relation, is_session_setting};
use crate::class::{Access, Why};
use crate::lexer::Kind;
use crate::plain::is_plain;
use crate::tokens::Tokens;
use crate::verdict::{Because, Verdict};
use sqlparser::ast::{Query, Select, Statement, TableFactor, Visit, Visitor};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;
use std::ops::ControlFlow;

/// A longer query, its literals blanked, is not parsed.
pub(crate) const PARSED_BYTES_MAX: usize = 64 * 1024;
/// sqlparser builds left-deep trees for chains of operators, and drops them recursively: more links than this are not parsed.
const CHAIN_LINKS_MAX: usize = 2_000;
/// How deep parentheses and subqueries may nest.
const NESTING_MAX: usize = 50;

/// The verdict on a query; anything else is a write.
pub(crate) fn judge(query: Tokens<'_>, catalog: &Catalog) -> Verdict {
    let relations = judge_relations(query, catalog);
    if relations.access == Access::Write {
        return relations;
    }
    if let Some((why, at)) = dangerous_word(query) {
        return Verdict::write(why).at(query.range(at, at + 1));
    }
    if is_plain(query) && is_bounded(query) {
        return judge_functions(query, catalog);
    }
    match parse(query) {
        Ok(()) => judge_functions(query, catalog),
        Err(refusal) => write_or_worse(query, catalog, refusal),
    }
}

/// Whether the query, its literals blanked, is short enough to be looked at closely.
fn is_bounded(query: Tokens<'_>) -> bool {
    query.written(0, query.len()).len() <= PARSED_BYTES_MAX || blanked(query).len() <= PARSED_BYTES_MAX
}

fn blanked(query: Tokens<'_>) -> String {
    let mut text = String::with_capacity(query.len() * 6);
    blank(query, &mut text);
    text
}

/// The verdict on the identifiers alone: system views, and what the catalogue keeps on the primary.
pub(crate) fn judge_relations(query: Tokens<'_>, catalog: &Catalog) -> Verdict {
    for at in 0..query.len() {
        if query.kind(at) == Some(Kind::Unreadable) {
            return Verdict::write(Why::ParseFailure).at(query.range(at, at + 1));
        }
        if query.kind(at) == Some(Kind::Operator) && catalog.is_primary_operator(query.text(at)) {
            return Verdict::write(Why::UserFunction).at(query.range(at, at + 1));
        }
        let Some(name) = query.identifier(at) else { continue };
        if is_named_primary(query, at, &name, catalog) {
            return Verdict::write(Why::PrimaryRelation).at(query.range(at, at + 1));
        }
        if query.is_mark(at + 1, "(") {
            continue;
        }
        if is_node_relation(&name) || (name.ends_with("_seq") && is_read_from(query, at)) {
            return Verdict::write(Why::NodeDependent).at(query.range(at, at + 1));
        }
        if name.starts_with("pg_temp") {
            return Verdict::write(Why::PrimaryRelation).at(query.range(at, at + 1));
        }
    }
    if catalog.is_opaque() { Verdict::write(Why::UserFunction) } else { Verdict::read(Why::Select) }
}

/// Whether an identifier may stand for something that the catalogue keeps on the primary.
///
/// Behind a dot it is a relation, or a type, of the schema in front of the dot; or else a column, or a function of the row there. A
/// schema has no other name than its own, so that what is of another schema cannot be meant.
fn is_named_primary(query: Tokens<'_>, at: usize, name: &str, catalog: &Catalog) -> bool {
    if at == 0 || !query.is_mark(at - 1, ".") {
        return catalog.is_primary(None, name);
    }
    let schema = at.checked_sub(2).and_then(|before| query.identifier(before));
    schema.is_some_and(|schema| catalog.is_primary(Some(&schema), name)) || catalog.is_primary_method(name)
}

/// Whether the identifier is the first relation of FROM, JOIN or TABLE. Where it is called as PostgreSQL calls the sequence of a serial
/// column, it is taken for one, since a database may be one whose catalogue nobody has read.
fn is_read_from(query: Tokens<'_>, at: usize) -> bool {
    let first = if at >= 2 && query.is_mark(at - 1, ".") { at - 2 } else { at };
    // COPY's relation stands by itself.
    first.checked_sub(1).is_none_or(|before| query.is_any_word(before, &["FROM", "JOIN", "TABLE", "ONLY"]))
}

/// The reason for a write, and a better one if a function gives it.
fn write_or_worse(query: Tokens<'_>, catalog: &Catalog, refusal: Refusal) -> Verdict {
    if refusal.why == Why::ParseFailure
        && let Some(call) =
            calls(query).find(|call| catalog.calling(call.schema.as_deref(), &call.name) >= Calling::Volatile)
    {
        let is_user = catalog.calling(call.schema.as_deref(), &call.name) == Calling::UserVolatile;
        let why = if is_user { Why::UserFunction } else { Why::VolatileFunction };
        return Verdict::write(why).at(call.written(query));
    }
    Verdict { because: refusal.complaint.map(Because::Parser), ..Verdict::write(refusal.why) }
}

fn judge_functions(query: Tokens<'_>, catalog: &Catalog) -> Verdict {
    let (mut worst, mut at) = (Calling::Harmless, None);
    let mut depends_on_literals = false;
    for call in calls(query) {
        let calling = match catalog.calling(call.schema.as_deref(), &call.name) {
            _ if call.overqualified => Calling::Unknown,
            Calling::ReadsSetting => {
                depends_on_literals = true;
                if reads_session_setting(query, &call) { Calling::Harmless } else { Calling::NodeDependent }
            }
            Calling::Unknown if call.groups => Calling::Harmless,
            Calling::Unknown if worst < Calling::Unknown && names_columns(query, &call) => Calling::Harmless,
            calling => calling,
        };
        if calling > worst {
            (worst, at) = (calling, call.written(query));
        }
    }
    let verdict = match worst {
        Calling::Harmless | Calling::ReadsSetting => Verdict::read(Why::Select),
        Calling::Unknown => Verdict::write(Why::UnknownFunction),
        Calling::NodeDependent => Verdict::write(Why::NodeDependent),
        Calling::Volatile => Verdict::write(Why::VolatileFunction),
        Calling::UserVolatile => Verdict::write(Why::UserFunction),
    };
    Verdict { depends_on_literals, ..verdict.at(at) }
}

/// `current_setting('name'[::text] [, true])` of a setting that follows the session.
fn reads_session_setting(query: Tokens<'_>, call: &Call<'_>) -> bool {
    let cast = query.is_mark(call.open + 2, "::") && query.is_word(call.open + 3, "TEXT");
    let end = call.open + if cast { 4 } else { 2 };
    let alone = query.is_mark(end, ")") || query.is_mark(end, ",");
    alone && query.string_value(call.open + 1).is_some_and(|name| is_session_setting(&name.to_ascii_lowercase()))
}

/// Whether every setting that an expression reads is one that follows the session.
pub(crate) fn reads_session_settings(expression: Tokens<'_>) -> bool {
    calls(expression).all(|call| call.name != "current_setting" || reads_session_setting(expression, &call))
}

/// Words that a read has no use for where they stand. The tree would say so too, of the clauses that sqlparser knows.
fn dangerous_word(query: Tokens<'_>) -> Option<(Why, usize)> {
    (0..query.len()).find_map(|at| {
        if query.kind(at) != Some(Kind::Word) {
            return None;
        }
        let opens = at == 0 || query.is_mark(at - 1, "(") || query.is_mark(at - 1, ")");
        if query.is_word(at, "INTO") {
            Some((Why::SelectInto, at))
        } else if query.is_word(at, "FOR") && is_lock_strength(query, at + 1) {
            Some((Why::RowLock, at))
        } else if opens
            && query.is_any_word(at, &["INSERT", "UPDATE", "DELETE", "MERGE"])
            && query.is_identifier(at + 1)
        {
            Some((Why::WritesRows, at))
        } else {
            None
        }
    })
}

/// UPDATE, NO KEY UPDATE, SHARE, KEY SHARE
fn is_lock_strength(query: Tokens<'_>, at: usize) -> bool {
    query.is_any_word(at, &["UPDATE", "SHARE"])
        || (query.is_word(at, "NO") && query.is_word(at + 1, "KEY"))
        || (query.is_word(at, "KEY") && query.is_word(at + 1, "SHARE"))
}

/// Why there is no tree, or none of a read.
struct Refusal {
    why: Why,
    complaint: Option<String>,
}

impl From<Why> for Refusal {
    fn from(why: Why) -> Self {
        Refusal { why, complaint: None }
    }
}

impl From<ParserError> for Refusal {
    fn from(error: ParserError) -> Self {
        Refusal { why: Why::ParseFailure, complaint: Some(error.to_string()) }
    }
}

fn parse(query: Tokens<'_>) -> Result<(), Refusal> {
    let links = (0..query.len()).filter(|at| is_link(query, *at)).count();
    if links > CHAIN_LINKS_MAX {
        return Err(Why::TooComplex.into());
    }
    let text = blanked(query);
    if text.len() > PARSED_BYTES_MAX {
        return Err(Why::TooComplex.into());
    }
    let mut parser = Parser::new(&PostgreSqlDialect {}).with_recursion_limit(NESTING_MAX).try_with_sql(&text)?;
    let tree = parser.parse_query()?;
    let next = parser.peek_token_ref();
    if next.token != Token::EOF {
        return Err(Refusal {
            why: Why::ParseFailure,
            complaint: Some(format!("end of query expected, found {next}")),
        });
    }
    match tree.visit(&mut Inspector) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(why) => Err(why.into()),
    }
}

/// Whether the token makes a tree deeper on its left side: an operator, `::`, `[`, `.`, or a word that joins two expressions or queries.
fn is_link(query: Tokens<'_>, at: usize) -> bool {
    match query.kind(at) {
        Some(Kind::Operator) => true,
        Some(Kind::Punct) => matches!(query.text(at), "::" | "[" | ":"),
        Some(Kind::Word) => query.is_any_word(
            at,
            &[
                "AND",
                "OR",
                "NOT",
                "IS",
                "IN",
                "LIKE",
                "ILIKE",
                "BETWEEN",
                "COLLATE",
                "AT",
                "UNION",
                "EXCEPT",
                "INTERSECT",
                "ISNULL",
                "NOTNULL",
                "SIMILAR",
            ],
        ),
        _ => false,
    }
}

/// Walks the tree of a query and stops at the first thing that is no read.
struct Inspector;

impl Visitor for Inspector {
    type Break = Why;

    fn pre_visit_statement(&mut self, _statement: &Statement) -> ControlFlow<Why> {
        // Inside a query it can only be an INSERT, UPDATE, DELETE or MERGE.
        ControlFlow::Break(Why::WritesRows)
    }

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<Why> {
        if !query.locks.is_empty() {
            return ControlFlow::Break(Why::RowLock);
        }
        // Other dialects' clauses: sqlparser has read something that PostgreSQL would not.
        if query.for_clause.is_some()
            || query.settings.is_some()
            || query.format_clause.is_some()
            || !query.pipe_operators.is_empty()
        {
            return ControlFlow::Break(Why::ParseFailure);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<Why> {
        if select.into.is_some() { ControlFlow::Break(Why::SelectInto) } else { ControlFlow::Continue(()) }
    }

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Why> {
        match factor {
            TableFactor::OpenJsonTable { .. }
            | TableFactor::Pivot { .. }
            | TableFactor::Unpivot { .. }
            | TableFactor::UnpivotExpr { .. }
            | TableFactor::MatchRecognize { .. }
            | TableFactor::SemanticView { .. } => ControlFlow::Break(Why::ParseFailure),
            _ => ControlFlow::Continue(()),
        }
    }
}
