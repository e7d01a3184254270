//! Bytes of SQL to tokens, by PostgreSQL's own lexical rules (`scan.l`), and strings of statements to statements.
//!
//! Owns where literals, comments and identifiers begin and end. It knows no grammar, and it never fails: what it cannot read becomes
//! [`Kind::Unreadable`]. Each token is a span of the text, so lexing copies nothing.

use memchr::{memchr, memchr2, memmem};

use crate::hint::Hint;
use crate::tokens::Tokens;

/// A query string in tokens, without its comments and white space.
#[derive(Debug)]
pub(crate) struct Lexed<'a> {
    pub(crate) sql: &'a str,
    pub(crate) tokens: Vec<Token>,
    pub(crate) hint: Option<Hint>,
    /// Whether a string holds `\'`, which ends elsewhere under `standard_conforming_strings = off`.
    pub(crate) ambiguous: bool,
    /// Whether a backslash that escapes, or an operator, may be the second byte of a character: so it is in SJIS, BIG5, GBK and their kin.
    pub(crate) doubtful: bool,
}

/// What a backslash is in a string without a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backslash {
    /// A character: `standard_conforming_strings = on`.
    Plain,
    /// What it is in E'': `standard_conforming_strings = off`.
    Escapes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) kind: Kind,
    /// The first byte, since it alone tells most tokens apart.
    pub(crate) first: u8,
    pub(crate) start: u32,
    pub(crate) end: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword or an identifier without quotes.
    Word,
    /// `"identifier"`
    Quoted,
    /// Any string constant: '', E'', B'', X'', N'', U&'', $$ $$; with its continuations on following lines.
    Text,
    Number,
    /// `$1`
    Parameter,
    Operator,
    /// `( ) [ ] , ; .` alone, `:` `::` `:=` `..` whole.
    Punct,
    /// Unterminated, or a byte that starts nothing, or `U&"..."`, which nobody writes.
    Unreadable,
}

impl<'a> Lexed<'a> {
    /// Lexes a text shorter than 4 GiB; the caller's own limit is far below.
    pub(crate) fn new(sql: &'a str) -> Self {
        Self::reading(sql, Backslash::Plain)
    }

    /// The same, for either value of `standard_conforming_strings`.
    pub(crate) fn reading(sql: &'a str, backslash: Backslash) -> Self {
        let escapes = backslash == Backslash::Escapes;
        let mut scanner =
            Scanner { bytes: sql.as_bytes(), at: 0, hint: None, escapes, ambiguous: false, doubtful: false };
        let mut tokens = Vec::with_capacity(sql.len() / 3 + 4);
        while let Some(token) = scanner.next() {
            tokens.push(token);
        }
        Lexed { sql, tokens, hint: scanner.hint, ambiguous: scanner.ambiguous, doubtful: scanner.doubtful }
    }

    /// Whether a string or a comment has no end, which every server refuses before it runs anything of the text.
    pub(crate) fn is_open(&self) -> bool {
        self.tokens.last().is_some_and(|last| {
            // `U&"..."` is unreadable to us, and to nobody else.
            last.kind == Kind::Unreadable
                && last.end as usize == self.sql.len()
                && matches!(
                    last.first,
                    b'\'' | b'"' | b'/' | b'$' | b'e' | b'E' | b'b' | b'B' | b'x' | b'X' | b'n' | b'N'
                )
        })
    }

    /// The statements between semicolons, without the empty ones.
    ///
    /// As psql does it, semicolons in parentheses (CREATE RULE) and in a SQL-standard function body (BEGIN ATOMIC ... END) do not count.
    pub(crate) fn statements(&self) -> Vec<Tokens<'_>> {
        let all = Tokens { sql: self.sql, tokens: &self.tokens };
        let mut statements = Vec::with_capacity(1);
        let mut start = 0;
        let (mut parentheses, mut blocks) = (0usize, 0usize);
        for at in 0..=self.tokens.len() {
            let ends = match self.tokens.get(at).map(|token| (token.kind, token.first)) {
                None => true,
                Some((Kind::Word, b'b' | b'B' | b'c' | b'C')) => {
                    let opens = match blocks {
                        0 => {
                            all.is_word(at, "BEGIN")
                                && all.is_word(at + 1, "ATOMIC")
                                && creates_routine(all.slice(start, at))
                        }
                        _ => all.is_word(at, "CASE"),
                    };
                    blocks += usize::from(opens);
                    false
                }
                Some((Kind::Word, b'e' | b'E')) if blocks > 0 => {
                    blocks -= usize::from(all.is_word(at, "END"));
                    false
                }
                Some((Kind::Punct, b'(')) => {
                    parentheses += 1;
                    false
                }
                Some((Kind::Punct, b')')) => {
                    parentheses = parentheses.saturating_sub(1);
                    false
                }
                Some((Kind::Punct, b';')) => parentheses == 0 && blocks == 0,
                Some(_) => false,
            };
            if ends {
                if at > start {
                    statements.push(all.slice(start, at));
                }
                start = at + 1;
                blocks = 0;
            }
        }
        statements
    }
}

/// Whether these first tokens begin CREATE [OR REPLACE] {FUNCTION | PROCEDURE}.
fn creates_routine(head: Tokens<'_>) -> bool {
    let at = if head.is_word(1, "OR") && head.is_word(2, "REPLACE") { 3 } else { 1 };
    head.is_word(0, "CREATE") && head.is_any_word(at, &["FUNCTION", "PROCEDURE"])
}

struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    hint: Option<Hint>,
    /// Whether a backslash escapes in strings without a prefix too.
    escapes: bool,
    ambiguous: bool,
    doubtful: bool,
}

impl Scanner<'_> {
    fn peek(&self, ahead: usize) -> u8 {
        self.bytes.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn next(&mut self) -> Option<Token> {
        self.skip_blanks()?;
        let start = self.at;
        let first = self.bytes[start];
        let kind = self.scan();
        Some(Token { kind, first, start: start as u32, end: self.at as u32 })
    }

    /// Moves over white space and comments; `None` at the end of the text.
    fn skip_blanks(&mut self) -> Option<()> {
        loop {
            match *self.bytes.get(self.at)? {
                byte if is_space(byte) => self.at += 1,
                b'-' if self.peek(1) == b'-' => {
                    let start = self.at + 2;
                    self.skip_line();
                    self.note_hint(start, self.at);
                }
                b'/' if self.peek(1) == b'*' => {
                    let start = self.at + 2;
                    if !self.skip_block_comment() {
                        return Some(());
                    }
                    self.note_hint(start, self.at - 2);
                }
                _ => return Some(()),
            }
        }
    }

    fn skip_line(&mut self) {
        while self.at < self.bytes.len() && !matches!(self.bytes[self.at], b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// Block comments nest. Stays where it is, and says no, if this one never ends.
    fn skip_block_comment(&mut self) -> bool {
        let start = self.at;
        let mut depth = 0usize;
        while self.at < self.bytes.len() {
            match (self.bytes[self.at], self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return true;
                    }
                }
                _ => self.at += 1,
            }
        }
        self.at = start;
        false
    }

    fn note_hint(&mut self, start: usize, end: usize) {
        Hint::note(&mut self.hint, &self.bytes[start..end]);
    }

    fn scan(&mut self) -> Kind {
        let first = self.bytes[self.at];
        match first {
            b'\'' => self.scan_text(self.escapes),
            b'"' => self.scan_quoted(),
            b'$' => self.scan_dollar(),
            b'0'..=b'9' => self.scan_number(),
            b'.' if self.peek(1).is_ascii_digit() => self.scan_number(),
            b'e' | b'E' | b'b' | b'B' | b'x' | b'X' | b'n' | b'N' if self.peek(1) == b'\'' => {
                self.at += 1;
                self.scan_text(matches!(first, b'e' | b'E') || (self.escapes && matches!(first, b'n' | b'N')))
            }
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'\'' => {
                self.at += 2;
                self.scan_text(false)
            }
            b'u' | b'U' if self.peek(1) == b'&' && self.peek(2) == b'"' => {
                self.at += 2;
                self.scan_quoted();
                Kind::Unreadable
            }
            _ if is_identifier_start(first) => {
                while self.at < self.bytes.len() && is_identifier_part(self.bytes[self.at]) {
                    self.at += 1;
                }
                // The second byte of a character in SJIS and its kin; the identifier would go on.
                self.doubtful |= self.bytes[self.at - 1] >= 0x80 && b"@[\\]^`{|}~".contains(&self.peek(0));
                Kind::Word
            }
            b'(' | b')' | b'[' | b']' | b',' | b';' => self.punct(1),
            b'.' => self.punct(if self.peek(1) == b'.' { 2 } else { 1 }),
            b':' => self.punct(if matches!(self.peek(1), b':' | b'=') { 2 } else { 1 }),
            b'/' if self.peek(1) == b'*' => {
                // A comment: skip_blanks has refused it.
                self.unterminated()
            }
            _ if is_operator(first) => self.scan_operator(),
            _ => {
                self.at += 1;
                Kind::Unreadable
            }
        }
    }

    fn punct(&mut self, length: usize) -> Kind {
        self.at += length;
        Kind::Punct
    }

    /// From the opening quote to beyond the last closing one, over `''`, and over `\` in E''.
    fn scan_text(&mut self, escapes: bool) -> Kind {
        self.at += 1;
        loop {
            let rest = &self.bytes[self.at..];
            // It may hold a picture, as nothing else of a text does.
            let Some(skipped) = (if escapes { memchr2(b'\'', b'\\', rest) } else { memchr(b'\'', rest) }) else {
                return self.unterminated();
            };
            self.at += skipped;
            if self.bytes[self.at] == b'\\' {
                self.doubtful |= self.bytes[self.at - 1] >= 0x80;
                self.at = (self.at + 2).min(self.bytes.len());
                continue;
            }
            self.ambiguous |= !escapes && self.bytes[self.at - 1] == b'\\';
            self.at += 1;
            if self.peek(0) == b'\'' {
                self.at += 1;
            } else if !self.continues() {
                return Kind::Text;
            }
        }
    }

    fn unterminated(&mut self) -> Kind {
        self.at = self.bytes.len();
        Kind::Unreadable
    }

    /// "...separated only by whitespace with at least one newline are concatenated": moves into the next piece if there is one.
    fn continues(&mut self) -> bool {
        let end = self.at;
        let mut newline = false;
        loop {
            match self.peek(0) {
                b'\n' | b'\r' => {
                    newline = true;
                    self.at += 1;
                }
                byte if is_space(byte) => self.at += 1,
                b'-' if self.peek(1) == b'-' => self.skip_line(),
                b'\'' if newline => {
                    self.at += 1;
                    return true;
                }
                _ => {
                    self.at = end;
                    return false;
                }
            }
        }
    }

    fn scan_quoted(&mut self) -> Kind {
        let start = self.at;
        self.at += 1;
        loop {
            match self.bytes.get(self.at) {
                None => return Kind::Unreadable,
                Some(b'"') if self.peek(1) == b'"' => self.at += 2,
                Some(b'"') => {
                    self.at += 1;
                    // An empty identifier is an error to PostgreSQL.
                    return if self.at - start == 2 { Kind::Unreadable } else { Kind::Quoted };
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// `$1` or `$tag$ ... $tag$`.
    fn scan_dollar(&mut self) -> Kind {
        let start = self.at;
        self.at += 1;
        if self.peek(0).is_ascii_digit() {
            while self.peek(0).is_ascii_digit() {
                self.at += 1;
            }
            return Kind::Parameter;
        }
        if is_identifier_start(self.peek(0)) {
            while is_identifier_part(self.peek(0)) && self.peek(0) != b'$' {
                self.at += 1;
            }
        }
        if self.peek(0) != b'$' {
            return Kind::Unreadable;
        }
        self.at += 1;
        let (tag, rest) = (&self.bytes[start..self.at], &self.bytes[self.at..]);
        let Some(skipped) = memmem::find(rest, tag) else {
            return self.unterminated();
        };
        self.at += skipped + tag.len();
        Kind::Text
    }

    /// Any number of any version: 15's decimal ones, 16's 0x1F and 1_000 too.
    fn scan_number(&mut self) -> Kind {
        // Before PostgreSQL 16 such a number ends behind its zero, and what follows is a word of its own: what cannot be its digits never is.
        let base = match self.peek(1) | 0x20 {
            b'x' => 16,
            b'o' => 8,
            b'b' => 2,
            _ => 0,
        };
        let is_digit = |byte: u8| base > 0 && char::from(byte).is_digit(base);
        let first = 2 + usize::from(self.peek(2) == b'_');
        if self.peek(0) == b'0' && is_digit(self.peek(first)) {
            self.at += first;
            while is_digit(self.peek(0)) || (self.peek(0) == b'_' && is_digit(self.peek(1))) {
                self.at += 1;
            }
            return Kind::Number;
        }
        self.skip_digits();
        // `1..10` is an array slice or a loop, not the number `1.`.
        if self.peek(0) == b'.' && self.peek(1) != b'.' {
            self.at += 1;
            self.skip_digits();
        }
        let sign = usize::from(matches!(self.peek(1), b'+' | b'-'));
        if self.peek(0) | 0x20 == b'e' && self.peek(1 + sign).is_ascii_digit() {
            self.at += 1 + sign;
            self.skip_digits();
        }
        Kind::Number
    }

    fn skip_digits(&mut self) {
        while self.peek(0).is_ascii_digit() || (self.peek(0) == b'_' && self.peek(1).is_ascii_digit()) {
            self.at += 1;
        }
    }

    /// "A multiple-character operator name cannot end in + or -, unless the name also contains at least one of ~ ! @ # % ^ & | ` ?".
    fn scan_operator(&mut self) -> Kind {
        let start = self.at;
        while self.at < self.bytes.len() && is_operator(self.bytes[self.at]) {
            let comment = matches!((self.bytes[self.at], self.peek(1)), (b'-', b'-') | (b'/', b'*'));
            if comment && self.at > start {
                break;
            }
            self.at += 1;
        }
        let special = self.bytes[start..self.at].iter().any(|byte| b"~!@#%^&|`?".contains(byte));
        while !special && self.at - start > 1 && matches!(self.bytes[self.at - 1], b'+' | b'-') {
            self.at -= 1;
        }
        Kind::Operator
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn is_identifier_start(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

fn is_identifier_part(byte: u8) -> bool {
    IDENTIFIER_PARTS[byte as usize]
}

/// Asked for most bytes of a text.
static IDENTIFIER_PARTS: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let this = byte as u8;
        table[byte] = this.is_ascii_alphanumeric() || matches!(this, b'_' | b'$' | 0x80..);
        byte += 1;
    }
    table
};

fn is_operator(byte: u8) -> bool {
    matches!(
        byte,
        b'~' | b'!'
            | b'@'
            | b'#'
            | b'^'
            | b'&'
            | b'|'
            | b'`'
            | b'?'
            | b'+'
            | b'-'
            | b'*'
            | b'/'
            | b'%'
            | b'<'
            | b'>'
            | b'='
    )
}

#[cfg(test)]
mod tests;
