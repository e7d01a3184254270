//! SELECT, VALUES, TABLE and WITH: may a replica run the query?
//!
//! The tokens know every function, every system view and every dangerous word, in any position. Where no word could make a write, that is
//! the whole proof: see `plain`. A query with such a word, most often the name of a column, has to be read by sqlparser too: its tree tells
//! where locks, INTO and data-modifying CTEs are. The tree is built from the text with its literals blanked, so that the two cannot
//! disagree about where a string or a comment ends, and so that the verdict cannot depend on a literal, but for the few functions
//! whose arguments are read here.

use crate::attributes::Values;
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
use std::cell::OnceCell;
use std::ops::ControlFlow;

/// A longer query, its literals blanked, is not parsed.
pub(crate) const PARSED_BYTES_MAX: usize = 64 * 1024;
/// sqlparser builds left-deep trees for chains of operators, and drops them recursively: more links than this are not parsed.
const CHAIN_LINKS_MAX: usize = 2_000;
/// How many names with dots between them are followed.
const CHAIN_NAMES_MAX: usize = 16;
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
    let values = OnceCell::new();
    let mut listed_sequence = None;
    for at in 0..query.len() {
        let refuse = |why: Why| Verdict::write(why).at(query.range(at, at + 1));
        if query.kind(at) == Some(Kind::Unreadable) {
            return refuse(Why::ParseFailure);
        }
        if query.kind(at) == Some(Kind::Operator) && catalog.is_primary_operator(query.text(at)) {
            return refuse(Why::UserFunction);
        }
        let Some(name) = query.identifier(at) else { continue };
        let called = query.is_mark(at + 1, "(");
        if let Some(why) = named_primary(query, at, &name, catalog, &values) {
            return refuse(why);
        }
        if called {
            continue;
        }
        if is_node_relation(&name) || (name.ends_with("_seq") && is_read_from(query, at)) {
            return refuse(Why::NodeDependent);
        }
        if listed_sequence.is_none() && name.ends_with("_seq") && is_listed(query, at) {
            listed_sequence = Some(at);
        }
        if name.starts_with("pg_temp") {
            return refuse(Why::PrimaryRelation);
        }
    }
    if let Some(at) = listed_sequence.and_then(|first| sequence_in_list(query, first)) {
        return Verdict::write(Why::NodeDependent).at(query.range(at, at + 1));
    }
    if catalog.is_opaque() { Verdict::write(Why::UserFunction) } else { Verdict::read(Why::Select) }
}

/// Why an identifier is the primary's, if it may stand for something that is.
///
/// Behind a dot it is a relation, or a type, of the schema in front of the dot; or else a column, or a function of what is there. A
/// schema has no other name than its own, so that what is of another schema cannot be meant.
fn named_primary<'a>(
    query: Tokens<'a>,
    at: usize,
    name: &str,
    catalog: &Catalog,
    values: &OnceCell<Values<'a>>,
) -> Option<Why> {
    if at == 0 || !query.is_mark(at - 1, ".") {
        return catalog.is_primary(None, name).then_some(Why::PrimaryRelation);
    }
    let owner = at.checked_sub(2).and_then(|before| query.identifier(before));
    if owner.as_ref().is_some_and(|schema| catalog.is_primary(Some(schema), name)) {
        return Some(Why::PrimaryRelation);
    }
    if query.is_mark(at + 1, "(") {
        return None;
    }
    let calling = catalog.attribute(name).or_else(|| match owner {
        Some(owner) if catalog.has_attributes() => {
            let calling = catalog.attribute_of_value(name)?;
            let is_value = values.get_or_init(|| Values::of(query)).named.contains(&owner) || ends_chain(query, at);
            is_value.then_some(calling)
        }
        Some(_) => None,
        None if at >= 2
            && query.is_mark(at - 2, ")")
            && values.get_or_init(|| Values::of(query)).constants.contains(&(at - 2)) =>
        {
            Some(catalog.calling(None, name)).filter(|calling| *calling > Calling::ReadsSetting)
        }
        None => catalog.attribute_of_value(name),
    })?;
    Some(why(calling))
}

/// Whether the identifier is the second or a later one behind a parenthesis, a subscript or a parameter: `(row).a.f` calls `f` with what the
/// column `a` holds. A chain that is too long to be followed may begin anyhow.
fn ends_chain(query: Tokens<'_>, mut at: usize) -> bool {
    for _ in 0..CHAIN_NAMES_MAX {
        let Some(before) = at.checked_sub(2).filter(|before| query.is_mark(before + 1, ".")) else { return false };
        if !query.is_identifier(before) {
            let is_parameter = query.kind(before) == Some(Kind::Parameter);
            return is_parameter || query.is_mark(before, ")") || query.is_mark(before, "]");
        }
        at = before;
    }
    true
}

/// Whether the identifier is the first relation of FROM, JOIN or TABLE. Where it is called as PostgreSQL calls the sequence of a serial
/// column, it is taken for one, since a database may be one whose catalogue nobody has read.
fn is_read_from(query: Tokens<'_>, at: usize) -> bool {
    let first = if at >= 2 && query.is_mark(at - 1, ".") { at - 2 } else { at };
    // COPY's relation stands by itself.
    first.checked_sub(1).is_none_or(|before| query.is_any_word(before, &["FROM", "JOIN", "TABLE", "ONLY"]))
}

/// Whether the identifier, or the schema in front of it, follows a comma.
fn is_listed(query: Tokens<'_>, at: usize) -> bool {
    let first = if at >= 2 && query.is_mark(at - 1, ".") { at - 2 } else { at };
    first.checked_sub(1).is_some_and(|before| query.is_mark(before, ","))
}

/// The first such relation, behind a comma in the list of a FROM; behind other commas it is a column.
fn sequence_in_list(query: Tokens<'_>, first: usize) -> Option<usize> {
    // Of each open parenthesis, and of all around them, whether a list of relations has begun there.
    let mut lists = vec![false];
    for at in 0..query.len() {
        let list = lists.last_mut()?;
        if query.is_mark(at, "(") {
            lists.push(false);
        } else if query.is_mark(at, ")") {
            if lists.len() > 1 {
                lists.pop();
            }
        } else if query.is_word(at, "FROM") {
            *list = at == 0 || !query.is_word(at - 1, "DISTINCT");
        } else if query.is_any_word(at, ENDS_FROM) {
            *list = false;
        } else if *list && at + 2 >= first && query.is_mark(at - 1, ",") {
            let name = if query.is_mark(at + 1, ".") { at + 2 } else { at };
            if !query.is_mark(name + 1, "(") && query.identifier(name).is_some_and(|name| name.ends_with("_seq")) {
                return Some(name);
            }
        }
    }
    None
}

/// What ends the list of a FROM, or begins another query.
const ENDS_FROM: &[&str] = &[
    "SELECT",
    "WHERE",
    "GROUP",
    "HAVING",
    "WINDOW",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "RETURNING",
];

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
        calling => Verdict::write(why(calling)),
    };
    Verdict { depends_on_literals, ..verdict.at(at) }
}

/// Why a call is a write.
fn why(calling: Calling) -> Why {
    match calling {
        Calling::Harmless | Calling::Unknown => Why::UnknownFunction,
        Calling::ReadsSetting | Calling::NodeDependent => Why::NodeDependent,
        Calling::Volatile => Why::VolatileFunction,
        Calling::UserVolatile => Why::UserFunction,
    }
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
