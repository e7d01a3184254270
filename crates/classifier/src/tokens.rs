//! [`Tokens`]: what the rules ask of a statement's tokens. It owns no grammar: a word, a mark, a name, a value, and where they stand.

use crate::lexer::{Kind, Token};
use std::borrow::Cow;
use std::ops::Range;

/// A run of tokens, most often one statement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tokens<'a> {
    pub(crate) sql: &'a str,
    pub(crate) tokens: &'a [Token],
}

impl<'a> Tokens<'a> {
    pub(crate) fn len(self) -> usize {
        self.tokens.len()
    }

    pub(crate) fn kind(self, at: usize) -> Option<Kind> {
        self.tokens.get(at).map(|token| token.kind)
    }

    /// The token as written; empty beyond the end.
    pub(crate) fn text(self, at: usize) -> &'a str {
        self.tokens.get(at).map_or("", |token| &self.sql[token.start as usize..token.end as usize])
    }

    pub(crate) fn slice(self, start: usize, end: usize) -> Tokens<'a> {
        Tokens { sql: self.sql, tokens: &self.tokens[start.min(end)..end.min(self.tokens.len())] }
    }

    pub(crate) fn from(self, start: usize) -> Tokens<'a> {
        self.slice(start.min(self.len()), self.len())
    }

    /// Whether the token is this keyword, given in upper case. A quoted identifier is no keyword.
    pub(crate) fn is_word(self, at: usize, word: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| {
            token.kind == Kind::Word
                && (token.end - token.start) as usize == word.len()
                && token.first.eq_ignore_ascii_case(&word.as_bytes()[0])
                && self.text(at).eq_ignore_ascii_case(word)
        })
    }

    pub(crate) fn is_any_word(self, at: usize, words: &[&str]) -> bool {
        words.iter().any(|word| self.is_word(at, word))
    }

    /// Whether the token is this punctuation or operator.
    pub(crate) fn is_mark(self, at: usize, mark: &str) -> bool {
        self.tokens.get(at).is_some_and(|token| {
            token.first == mark.as_bytes()[0]
                && matches!(token.kind, Kind::Punct | Kind::Operator)
                && self.text(at) == mark
        })
    }

    pub(crate) fn is_identifier(self, at: usize) -> bool {
        matches!(self.kind(at), Some(Kind::Word | Kind::Quoted))
    }

    /// The identifier as PostgreSQL stores it: folded unless quoted, cut at [`IDENTIFIER_BYTES_MAX`].
    pub(crate) fn identifier(self, at: usize) -> Option<Cow<'a, str>> {
        let text = self.text(at);
        let name = match self.kind(at)? {
            Kind::Word if text.bytes().any(|byte| byte.is_ascii_uppercase()) => Cow::Owned(text.to_ascii_lowercase()),
            Kind::Word => Cow::Borrowed(text),
            Kind::Quoted => {
                let inner = &text[1..text.len() - 1];
                if inner.contains('"') { Cow::Owned(inner.replace("\"\"", "\"")) } else { Cow::Borrowed(inner) }
            }
            _ => return None,
        };
        Some(cut(name))
    }

    /// Where the parenthesis opened at `open` closes.
    pub(crate) fn closing(self, open: usize) -> Option<usize> {
        let mut depth = 0usize;
        for at in open..self.len() {
            if self.is_mark(at, "(") {
                depth += 1;
            } else if self.is_mark(at, ")") {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        None
    }

    /// The text from one token to before another, as written.
    pub(crate) fn written(self, start: usize, end: usize) -> &'a str {
        match (self.tokens.get(start), end.checked_sub(1).and_then(|last| self.tokens.get(last))) {
            (Some(first), Some(last)) if start < end => &self.sql[first.start as usize..last.end as usize],
            _ => "",
        }
    }

    /// Where in the whole text these tokens stand.
    pub(crate) fn range(self, start: usize, end: usize) -> Option<Range<usize>> {
        let (first, last) = (self.tokens.get(start)?, self.tokens.get(end.checked_sub(1)?)?);
        Some(first.start as usize..last.end as usize)
    }

    /// The tokens as written, joined by single spaces where SQL wants some.
    pub(crate) fn join(self) -> String {
        let mut out = String::new();
        for at in 0..self.len() {
            let tight = at == 0
                || self.is_mark(at, ",")
                || self.is_mark(at, ".")
                || self.is_mark(at - 1, ".")
                || (self.is_mark(at - 1, "-") && self.kind(at) == Some(Kind::Number));
            if !tight {
                out.push(' ');
            }
            out.push_str(self.text(at));
        }
        out
    }

    /// The value of a string constant, where it is plain enough to be read without PostgreSQL's escape rules.
    pub(crate) fn string_value(self, at: usize) -> Option<String> {
        if self.kind(at)? != Kind::Text {
            return None;
        }
        let text = self.text(at);
        if let Some(rest) = text.strip_prefix('$') {
            let tag = rest.find('$')? + 2;
            return Some(text[tag..text.len() - tag].to_owned());
        }
        let inner = match text.as_bytes() {
            [b'\'', ..] => &text[1..text.len() - 1],
            [b'e' | b'E', ..] if !text.contains('\\') => &text[2..text.len() - 1],
            _ => return None,
        };
        let value = inner.replace("''", "\u{0}");
        // A quote that is left belongs to a continuation on the next line.
        if value.contains('\'') { None } else { Some(value.replace('\u{0}', "'")) }
    }
}

/// NAMEDATALEN - 1.
const IDENTIFIER_BYTES_MAX: usize = 63;

fn cut(name: Cow<'_, str>) -> Cow<'_, str> {
    if name.len() <= IDENTIFIER_BYTES_MAX {
        return name;
    }
    let mut end = IDENTIFIER_BYTES_MAX;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Cow::Owned(name[..end].to_owned())
}
