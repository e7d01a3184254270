//! A statement's text without its literals: the key under which statements of one shape share a class, and the text that is parsed.
//!
//! It owns the shape's spelling. It must keep whatever a rule may look at, other than the values of literals.

use crate::lexer::Kind;
use crate::tokens::Tokens;

/// Appends the tokens joined by spaces: no comments, each string as `''`, each number as `0`, lists of literals and parameters cut to
/// their first.
pub(crate) fn blank(statement: Tokens<'_>, out: &mut String) {
    let mut at = 0;
    let mut after_dot = true;
    while at < statement.len() {
        let dot = statement.is_mark(at, ".");
        if !after_dot && !dot {
            out.push(' ');
        }
        after_dot = dot;
        match statement.kind(at) {
            Some(Kind::Text) => out.push_str("''"),
            Some(Kind::Number) => out.push('0'),
            _ => out.push_str(statement.text(at)),
        }
        // `IN (1, 2, 3)` is `IN (0)`: no rule counts arguments.
        while is_literal(statement, at)
            && statement.is_mark(at + 1, ",")
            && is_literal(statement, at + 2)
            && ends_item(statement, at + 3)
        {
            at += 2;
        }
        at += 1;
    }
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
    use crate::lexer::Lexed;

    fn check(sql: &str, expected: &str) {
        let lexed = Lexed::new(sql);
        let mut blanked = String::new();
        for statement in lexed.statements() {
            blank(statement, &mut blanked);
        }
        assert_eq!(blanked, expected, "{sql}");
    }

    #[test]
    fn literals_go() {
        check("select  a.b, 'x''y' -- c\n from t where n = 12.5", "select a.b , '' from t where n = 0");
        check("select 1 in (1, 2, 'c', $1)", "select 0 in ( 0 )");
        check("select 1, 2 + x, 3", "select 0 , 0 + x , 0");
        check("select E'\\'', $$a$$, b'1' from \"T\"", "select '' , '' from \"T\"");
    }
}
