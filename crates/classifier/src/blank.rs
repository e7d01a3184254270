//! A statement's text without its literals: the key under which statements of one shape share a class, and the text that is parsed.
//!
//! It owns the shape's spelling. It must keep whatever a rule may look at, other than the values of literals.

use crate::lexer::{Kind, Token};
use crate::tokens::Tokens;

/// Appends the tokens joined by spaces: no comments, each string as `''`, each number as `0`, lists of literals and parameters cut to
/// their first.
pub(crate) fn blank(statement: Tokens<'_>, out: &mut String) {
    let mut at = 0;
    let mut after_dot = true;
    while let Some(token) = statement.tokens.get(at) {
        let dot = is_single(token, b'.');
        if !after_dot && !dot {
            out.push(' ');
        }
        after_dot = dot;
        match token.kind {
            Kind::Text => out.push_str("''"),
            Kind::Number => out.push('0'),
            _ => out.push_str(statement.text(at)),
        }
        at = after_list(statement, at);
    }
}

/// Appends the text with the same things left out, but with its own blanks where one byte is all of them: what stands between two literals
/// is copied in one piece.
pub(crate) fn shape(statement: Tokens<'_>, out: &mut String) {
    let Some(begin) = statement.tokens.first().map(|token| token.start as usize) else { return };
    // Where the piece begins that is to be copied, and how far it has come.
    let (mut start, mut end) = (begin, begin);
    let text = statement.sql.as_bytes();
    let mut at = 0;
    while let Some(token) = statement.tokens.get(at) {
        let (first, last) = (token.start as usize, token.end as usize);
        // A single byte between tokens is white space; more may be a comment. A string goes on behind the end of a line.
        let ends_line = token.kind == Kind::Text && first > end && matches!(text[end], b'\n' | b'\r');
        if first - end > 1 || ends_line {
            out.push_str(&statement.sql[start..end]);
            out.push(' ');
            start = first;
        }
        end = last;
        if matches!(token.kind, Kind::Text | Kind::Number) {
            out.push_str(&statement.sql[start..first]);
            if first.checked_sub(1).is_some_and(|before| may_grow_into(token, text[before])) {
                out.push(' ');
            }
            out.push_str(if token.kind == Kind::Text { "''" } else { "0" });
            if text.get(last).is_some_and(|after| token.kind == Kind::Number && may_grow_into(token, *after)) {
                out.push(' ');
            }
            start = last;
        }
        let next = after_list(statement, at);
        if next > at + 1 {
            out.push_str(&statement.sql[start..end]);
            end = statement.tokens[next - 1].end as usize;
            start = end;
        }
        at = next;
    }
    out.push_str(&statement.sql[start..end]);
}

/// Whether what stands in the literal's place would be one token with a neighbour that the literal itself is not one with: `NOTIFY.3` is not
/// `NOTIFY0`, `1xa` is not `0xa`, `''b''` is not `''''`, and `U&$$a$$` is not `U&''`.
fn may_grow_into(literal: &Token, neighbour: u8) -> bool {
    match literal.kind {
        Kind::Number => {
            neighbour.is_ascii_alphanumeric() || matches!(neighbour, b'_' | b'$' | b'.') || !neighbour.is_ascii()
        }
        _ => neighbour == b'\'' || (literal.first == b'$' && neighbour == b'&'),
    }
}

/// Where the token after this one is; after the last of the list that a literal begins: `IN (1, 2, 3)` is `IN (0)`, since no rule counts
/// arguments.
fn after_list(statement: Tokens<'_>, mut at: usize) -> usize {
    if is_literal(statement, at) {
        while statement.tokens.get(at + 1).is_some_and(|token| is_single(token, b','))
            && is_literal(statement, at + 2)
            && ends_item(statement, at + 3)
        {
            at += 2;
        }
    }
    at + 1
}

/// Whether the token is this mark, of one byte.
fn is_single(token: &Token, mark: u8) -> bool {
    token.first == mark && token.kind == Kind::Punct && token.end - token.start == 1
}

fn is_literal(statement: Tokens<'_>, at: usize) -> bool {
    matches!(statement.kind(at), Some(Kind::Text | Kind::Number | Kind::Parameter))
}

/// Whether the literal before was all of its list's element: `1, 2 + x` is not cut.
fn ends_item(statement: Tokens<'_>, at: usize) -> bool {
    at >= statement.len() || statement.is_mark(at, ",") || statement.is_mark(at, ")") || statement.is_mark(at, "]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::glance::tests::piece;
    use crate::lexer::Lexed;
    use proptest::prelude::*;

    fn check(sql: &str, expected: &str) {
        let lexed = Lexed::new(sql);
        let mut blanked = String::new();
        for statement in lexed.statements() {
            blank(statement, &mut blanked);
        }
        assert_eq!(blanked, expected, "{sql}");
    }

    #[test]
    fn shapes_keep_blanks_and_lose_comments() {
        let check = |sql: &str, expected: &[&str]| {
            let lexed = Lexed::new(sql);
            let shapes = lexed.statements().into_iter().map(|statement| {
                let mut key = String::new();
                shape(statement, &mut key);
                key
            });
            assert_eq!(shapes.collect::<Vec<_>>(), expected, "{sql}");
        };
        check("select  a.b,'x''y' -- c\n from t where n=12.5", &["select a.b,'' from t where n=0"]);
        check("/*1*/select 1 in (1, 2,'c', $1) /* 2 */ ; ;select 2", &["select 0 in (0)", "select 0"]);
        check("select 1, 2 + x, 3, $1", &["select 0, 0 + x, 0"]);
        check(";select $1,$2, E'\\'',$$a$$ from \"T\";", &["select $1,'' from \"T\""]);
        check(" table t", &["table t"]);
        check("notify.3; select 1.5.5, .5", &["notify 0", "select 0  0"]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn a_shape_reads_like_its_text(pieces in prop::collection::vec(piece(), 1..12)) {
            let sql = pieces.concat();
            let lexed = Lexed::new(&sql);
            for statement in lexed.statements().into_iter().filter(|_| !lexed.ambiguous && !lexed.doubtful) {
                let (mut key, mut blanked, mut again) = (String::new(), String::new(), String::new());
                shape(statement, &mut key);
                blank(statement, &mut blanked);
                Lexed::new(&key).statements().into_iter().for_each(|statement| blank(statement, &mut again));
                prop_assert_eq!(again, blanked, "{}: {}", sql, key);
            }
        }
    }

    #[test]
    fn literals_go() {
        check("select  a.b, 'x''y' -- c\n from t where n = 12.5", "select a.b , '' from t where n = 0");
        check("select 1 in (1, 2, 'c', $1)", "select 0 in ( 0 )");
        check("select 1, 2 + x, 3", "select 0 , 0 + x , 0");
        check("select E'\\'', $$a$$, b'1' from \"T\"", "select '' , '' from \"T\"");
    }
}
