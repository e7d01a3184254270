//! The functions that a statement calls, found by tokens alone.
//!
//! A call is a name in front of a parenthesis, wherever it stands: in FROM, ORDER BY, LIMIT, a window, a default. Tokens show them all, so
//! no position of a syntax tree can be forgotten. What looks like a call and is none (`IN (`, `AS t(a)`, `varchar(10)`) is known
//! here too. A call behind a dot is none of these: see `attributes`. What it cannot see, nobody can without a catalogue: functions
//! behind views, operators and casts, and a user's that is called as `row.function`.

use crate::keywords::KEYWORDS;
use crate::lexer::Kind;
use crate::tokens::Tokens;
use std::borrow::Cow;
use std::ops::Range;

/// `[schema.]name(`
#[derive(Debug, Clone)]
pub(crate) struct Call<'a> {
    pub(crate) schema: Option<Cow<'a, str>>,
    pub(crate) name: Cow<'a, str>,
    /// Where the opening parenthesis is.
    pub(crate) open: usize,
    /// `a.b.c(`: nothing that a catalogue could be asked for.
    pub(crate) overqualified: bool,
    /// ROLLUP or CUBE in GROUP BY: no function, unless a user's function has that name, which PostgreSQL allows.
    pub(crate) groups: bool,
}

impl Call<'_> {
    /// Where its name stands in the text.
    pub(crate) fn written(&self, statement: Tokens<'_>) -> Option<Range<usize>> {
        statement.range(self.open - if self.schema.is_some() { 3 } else { 1 }, self.open)
    }
}

/// Every call of the statement, in the order of the text.
pub(crate) fn calls<'a>(statement: Tokens<'a>) -> impl Iterator<Item = Call<'a>> {
    let mut grouped = false;
    (1..statement.len()).filter_map(move |open| {
        if statement.is_any_word(open, BEYOND_GROUP_BY) && !statement.is_word(open - 1, "BY") {
            grouped = false;
        }
        grouped |= statement.is_word(open, "BY") && statement.is_word(open - 1, "GROUP");
        if !statement.is_mark(open, "(") || !statement.is_identifier(open - 1) {
            return None;
        }
        let qualified = open >= 3 && statement.is_mark(open - 2, ".") && statement.is_identifier(open - 3);
        let overqualified = qualified && open >= 4 && statement.is_mark(open - 4, ".");
        if !qualified && is_no_call(statement, open - 1) {
            return None;
        }
        let first = if qualified { open - 3 } else { open - 1 };
        // AS and :: are followed by an alias or a type, with its columns or its modifier.
        if first > 0 && !overqualified && (statement.is_word(first - 1, "AS") || statement.is_mark(first - 1, "::")) {
            return None;
        }
        let schema = if qualified { statement.identifier(open - 3) } else { None };
        let groups = grouped && !qualified && statement.is_any_word(open - 1, &["ROLLUP", "CUBE"]);
        Some(Call { schema, name: statement.identifier(open - 1)?, open, overqualified, groups })
    })
}

/// Whether what looks like a call names a CTE or a table, and its columns: `WITH v(a) AS (SELECT`, `FROM f(x) v(a)`, `FROM t v(a)`.
///
/// It walks to the matching parenthesis, so ask only of text whose length is bounded.
pub(crate) fn names_columns(statement: Tokens<'_>, call: &Call<'_>) -> bool {
    call.schema.is_none()
        && (follows_table_expression(statement, call.open - 1)
            || follows_operand(statement, call.open - 1)
            || begins_cte(statement, call.open))
}

/// `) v(a, b)`: behind a parenthesis an expression cannot begin, but for those of DISTINCT ON and OPERATOR. OPERATOR itself may
/// follow one.
fn follows_table_expression(statement: Tokens<'_>, at: usize) -> bool {
    let Some(close) = at.checked_sub(1).filter(|before| statement.is_mark(*before, ")")) else { return false };
    if statement.is_word(at, "OPERATOR") {
        return false;
    }
    let mut depth = 0usize;
    for open in (0..=close).rev() {
        if statement.is_mark(open, ")") {
            depth += 1;
        } else if statement.is_mark(open, "(") {
            depth -= 1;
            if depth == 0 {
                return !(open >= 1 && statement.is_any_word(open - 1, &["ON", "OPERATOR"]));
            }
        }
    }
    false
}

/// `t v(a, b)`, the type in `AS t(a vector(3))`, `JSON_TABLE(a, '$' COLUMNS (...))`: behind a name that is no keyword, and behind a constant,
/// an expression cannot begin.
fn follows_operand(statement: Tokens<'_>, at: usize) -> bool {
    let Some(before) = at.checked_sub(1).filter(|_| !statement.is_word(at, "OPERATOR")) else { return false };
    match statement.kind(before) {
        Some(Kind::Word) => {
            !is_keyword(statement, before)
                || (statement.is_word(before, "ORDINALITY") && before > 0 && statement.is_word(before - 1, "WITH"))
        }
        Some(Kind::Quoted | Kind::Text | Kind::Number | Kind::Parameter) => true,
        _ => false,
    }
}

fn is_keyword(statement: Tokens<'_>, at: usize) -> bool {
    statement.kind(at) == Some(Kind::Word)
        && KEYWORDS.binary_search(&statement.text(at).to_ascii_uppercase().as_str()).is_ok()
}

/// `v(a, b) AS (SELECT`, where `f(1) AS (a int)` is a function with the types of its columns. VALUES may be such a column.
fn begins_cte(statement: Tokens<'_>, open: usize) -> bool {
    let Some(close) = statement.closing(open) else { return false };
    if !statement.is_word(close + 1, "AS") {
        return false;
    }
    let mut body = close + 2;
    while statement.is_any_word(body, &["NOT", "MATERIALIZED"]) {
        body += 1;
    }
    statement.is_mark(body, "(")
        && (statement.is_any_word(body + 1, &["SELECT", "WITH", "TABLE"])
            || statement.is_mark(body + 1, "(")
            || (statement.is_word(body + 1, "VALUES") && statement.is_mark(body + 2, "(")))
}

/// Whether the unqualified name at `at` is a keyword that takes a parenthesis for itself.
fn is_no_call(statement: Tokens<'_>, at: usize) -> bool {
    if statement.is_any_word(at, RESERVED) || statement.is_any_word(at, SPECIAL) {
        return true;
    }
    if statement.is_any_word(at, &["LIKE", "ILIKE", "JOIN", "OVERLAPS"]) {
        return is_infix(statement, at);
    }
    let Some(before) = at.checked_sub(1) else { return false };
    let follows = |word: &str, leaders: &[&str]| statement.is_word(at, word) && statement.is_any_word(before, leaders);
    follows("BY", &["GROUP", "ORDER", "PARTITION"])
        || follows("MATERIALIZED", &["AS", "NOT"])
        || follows("SETS", &["GROUPING"])
        || follows("VARYING", &["BIT", "CHAR", "CHARACTER", "NCHAR"])
        || follows("ZONE", &["TIME"])
        || follows("FIRST", &["FETCH"])
        || follows("NEXT", &["FETCH"])
        || follows("BERNOULLI", &["TABLESAMPLE"])
        || follows("SYSTEM", &["TABLESAMPLE"])
        || (statement.is_any_word(at, &["OVER", "FILTER", "REPEATABLE"]) && statement.is_mark(before, ")"))
        || (statement.is_word(at, "OPERATOR") && statement.is_word(at + 2, "pg_catalog"))
}

/// Whether LIKE, ILIKE, JOIN or OVERLAPS, in front of a parenthesis, stands between two operands. PostgreSQL lets functions bear these names
/// ("can be function or type"): where no operand has ended, it is one.
fn is_infix(statement: Tokens<'_>, at: usize) -> bool {
    let Some(before) = at.checked_sub(1) else { return false };
    if statement.is_word(before, "NOT") {
        // `a NOT LIKE ('b')`, but `WHERE NOT like('a', 'b')`.
        return statement.is_any_word(at, &["LIKE", "ILIKE"]) && ends_operand(statement, before);
    }
    let joins = &["CROSS", "FULL", "INNER", "LEFT", "NATURAL", "OUTER", "RIGHT"];
    ends_operand(statement, at) || (statement.is_word(at, "JOIN") && statement.is_any_word(before, joins))
}

/// Whether an operand has ended in front of the token.
fn ends_operand(statement: Tokens<'_>, at: usize) -> bool {
    let Some(last) = at.checked_sub(1) else { return false };
    match statement.kind(last) {
        Some(Kind::Word) if last > 0 && statement.is_mark(last - 1, ".") => true,
        Some(Kind::Word) if statement.is_any_word(last, LEADING) => {
            // `WHERE value LIKE (...)`, but `JSON_OBJECT('a' VALUE like(...))`.
            last > 0
                && statement.is_any_word(last - 1, &["AND", "HAVING", "NOT", "ON", "OR", "SELECT", "WHEN", "WHERE"])
        }
        Some(Kind::Word) => !statement.is_any_word(last, BEFORE_OPERAND),
        Some(Kind::Punct) => statement.is_mark(last, ")") || statement.is_mark(last, "]"),
        Some(kind) => kind != Kind::Operator,
        None => false,
    }
}

/// Words that may also be names, and behind which an expression may begin.
const LEADING: &[&str] =
    &["CONTENT", "DOCUMENT", "ESCAPE", "GROUPS", "PASSING", "RANGE", "ROWS", "VALUE", "VERSION", "ZONE"];

/// Words that are no names of columns or relations, and behind which an expression, or a function in FROM, may begin.
const BEFORE_OPERAND: &[&str] = &[
    "ALL",
    "AND",
    "AS",
    "ASYMMETRIC",
    "BETWEEN",
    "BOTH",
    "BY",
    "CASE",
    "DEFAULT",
    "DISTINCT",
    "ELSE",
    "FOR",
    "FROM",
    "HAVING",
    "ILIKE",
    "IN",
    "JOIN",
    "LATERAL",
    "LEADING",
    "LIKE",
    "LIMIT",
    "NOT",
    "OFFSET",
    "ON",
    "OR",
    "PLACING",
    "SELECT",
    "SYMMETRIC",
    "TABLESAMPLE",
    "THEN",
    "TO",
    "TRAILING",
    "USING",
    "VARIADIC",
    "WHEN",
    "WHERE",
    "FETCH",
    "FIRST",
    "NEXT",
    "UESCAPE",
    "RETURNING",
    "SIMILAR",
    "OVERLAPS",
    "COLLATE",
    "WITH",
];

/// What ends GROUP BY, or begins a query in it.
const BEYOND_GROUP_BY: &[&str] = &[
    "HAVING",
    "WINDOW",
    "ORDER",
    "LIMIT",
    "OFFSET",
    "FETCH",
    "FOR",
    "UNION",
    "INTERSECT",
    "EXCEPT",
    "SELECT",
    "FILTER",
    "DISTINCT",
];

/// Reserved words, which no function can be called by, as far as one may precede a parenthesis in a query.
const RESERVED: &[&str] = &[
    "ALL",
    "AND",
    "ANY",
    "ARRAY",
    "ASC",
    "ASYMMETRIC",
    "CASE",
    "CAST",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "DESC",
    "DISTINCT",
    "ELSE",
    "EXCEPT",
    "FOR",
    "FROM",
    "GROUP",
    "HAVING",
    "IN",
    "INTERSECT",
    "LATERAL",
    "LIMIT",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "NOT",
    "OFFSET",
    "ON",
    "ONLY",
    "OR",
    "SELECT",
    "SOME",
    "SYMMETRIC",
    "THEN",
    "TO",
    "UNION",
    "USING",
    "VARIADIC",
    "WHEN",
    "WHERE",
    "AS",
    "WITH",
];

/// Words with a syntax of their own, which no function can be called by without quotes or a schema.
const SPECIAL: &[&str] = &[
    "BETWEEN",
    "BIT",
    "CHAR",
    "CHARACTER",
    "COALESCE",
    "DEC",
    "DECIMAL",
    "EXISTS",
    "EXTRACT",
    "FLOAT",
    "GREATEST",
    "GROUPING",
    "INTERVAL",
    "LEAST",
    "NATIONAL",
    "NCHAR",
    "NULLIF",
    "NUMERIC",
    "POSITION",
    "PRECISION",
    "ROW",
    "TIME",
    "TIMESTAMP",
    "TRIM",
    "VALUES",
    "VARCHAR",
    "XMLATTRIBUTES",
    "XMLCONCAT",
    "XMLELEMENT",
    "XMLEXISTS",
    "XMLFOREST",
    "XMLNAMESPACES",
    "XMLPARSE",
    "XMLPI",
    "XMLROOT",
    "XMLSERIALIZE",
    "XMLTABLE",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::Lexed;

    fn check(sql: &str, expected: &[&str]) {
        let lexed = Lexed::new(sql);
        let statements = lexed.statements();
        let names: Vec<String> = statements
            .iter()
            .flat_map(|statement| calls(*statement))
            .map(|call| call.schema.map_or(String::new(), |schema| format!("{schema}.")) + &call.name)
            .collect();
        assert_eq!(names, expected, "{sql}");
    }

    #[test]
    fn found_anywhere() {
        check("select a(b(c)), \"D\"(1), S.e /* x */ (2)", &["a", "b", "D", "s.e"]);
        check("select 1 from f(1) join lateral g(2) on h(3) order by i(4) limit j(5)", &["f", "g", "h", "i", "j"]);
        check("select distinct on (a) f(1)", &["f"]);
        check(
            "select array[f(1)], row(g(2)), (h(3)).x, cast(i(4) as numeric(1,2)), k(5)::varchar(3)",
            &["f", "g", "h", "i", "k"],
        );
        check("select count(*) filter (where f(1)) over (partition by (g(2)))", &["count", "f", "g"]);
        check("select rollup(1)", &["rollup"]);
        check("select 1 group by rollup(a), cube(b)", &["rollup", "cube"]);
        check("select filter(1)", &["filter"]);
        check("select like(1), ilike(2), is(3) + join(4)", &["like", "ilike", "is", "join"]);
        check("select 1 from join(1), lateral overlaps(2) where not like(3)", &["join", "overlaps", "like"]);
        check("select a like like('b'), a and ilike(1)", &["like", "ilike"]);
        check("select json_object('a' value ilike(1))", &["json_object", "ilike"]);
        check("select OPERATOR(1), 1 operator(pg_catalog.+) 2, 1 operator(mine.+) 2", &["operator", "operator"]);
    }

    #[test]
    fn not_calls() {
        check(
            "with t as (select 1), u as materialized (select 2) select * from (values (1)) as v(a) where x in (1) and (y)",
            &[],
        );
        check("select a like ('b'), a.value not ilike ('c'), '' like ($1), $1 like (b) where value ilike ('d')", &[]);
        check("select (a, b) overlaps (c, d) from t join (u join v using (a)) on true left join (w) on true", &[]);
        check("select name ilike ('a') or type not like ('b') or a[1] like ('c') or null like ('d')", &[]);
        check("select x::geometry(point), cast(y as vector(3)), timestamp(3) '2020-01-01' at time zone ('utc')", &[]);
    }
}
