//! A server's error in the client's own words: its names for prepared statements in place of the server's, and the place of an
//! error in its own text where another was sent.
//!
//! Owns the translation. Does not decide which errors the client is told.

use std::borrow::Cow;

use wire::backend;
use wire::frame::Frames;
use wire::frontend::Frontend;

use crate::owed::Owed;
use crate::session::Session;
use crate::sql::Rewrite;
use crate::statements::{Identity, PREFIX};

/// The fields of an ErrorResponse: the place is a number of characters of the client's text, the others may be text.
const POSITION: u8 = b'P';
const SQLSTATE: u8 = b'C';

impl Session {
    /// The error that the client is told in place of this one; `None` where it is the same, or there is not all of it.
    pub(crate) fn in_own_words(&self, body: &[u8]) -> Option<Vec<u8>> {
        let retold = self.retold();
        let mut told = Vec::with_capacity(body.len());
        let mut differs = false;
        let mut rest = body;
        loop {
            let (&code, after) = rest.split_first()?;
            if code == 0 {
                break;
            }
            let end = after.iter().position(|byte| *byte == 0)?;
            let (value, after) = after.split_at(end);
            rest = after.get(1..)?;
            let own = match (code, &retold) {
                (POSITION, Some(retold)) => match retold.place(value) {
                    Some(place) => Cow::Owned(place.to_string().into_bytes()),
                    None => {
                        differs = true;
                        continue;
                    }
                },
                (POSITION | SQLSTATE, _) => Cow::Borrowed(value),
                _ => self.own_names(value),
            };
            differs |= *own != *value;
            told.push(code);
            told.extend_from_slice(&own);
            told.push(0);
        }
        told.push(0);
        let mut out = Vec::new();
        backend::put_report(&mut out, &told);
        differs.then_some(out)
    }

    /// A text with the client's names for its statements in place of the servers'.
    fn own_names<'a>(&self, text: &'a [u8]) -> Cow<'a, [u8]> {
        let mut told = Cow::Borrowed(text);
        let mut from = 0;
        while let Some(at) = find(&told, PREFIX, from) {
            from = at + PREFIX.len();
            let Some(name) = told.get(at..at + Identity::NAME_BYTES) else { break };
            if let Some(own) = self.statements.own_name(name) {
                let own = own.to_vec();
                from = at + own.len();
                told.to_mut().splice(at..at + Identity::NAME_BYTES, own);
            }
        }
        told
    }

    /// How the text that the server fails at comes from the client's, if it is not that.
    fn retold(&self) -> Option<Retold> {
        let Some(Owed::Query { .. }) = self.owed.front() else { return None };
        let request = &self.flight.front()?.request;
        let rewrite = request.rewrite.as_ref().filter(|rewrite| !matches!(rewrite, Rewrite::Reveal(_)))?;
        let own = Frames::new(&request.frames).find_map(|frame| match Frontend::read(frame) {
            Ok(Frontend::Query(sql)) => Some(String::from_utf8_lossy(sql).into_owned()),
            _ => None,
        });
        Some(Retold::new(&own.unwrap_or_default(), &rewrite.parts()))
    }
}

/// A part of what was sent: the client's own words, or not.
pub(crate) enum Part<'a> {
    Own(&'a str),
    Ours(usize),
}

const NOTHING: [Part<'static>; 4] = [const { Part::Ours(0) }; 4];

impl Rewrite {
    /// The text that is sent, in parts.
    fn parts(&self) -> [Part<'_>; 4] {
        let name = Identity::NAME_BYTES;
        match self {
            Rewrite::Prepare(_, statement) => {
                let text = std::str::from_utf8;
                match (text(&statement.types), text(&statement.sql)) {
                    (Ok(types), Ok(body)) => [
                        Part::Ours("PREPARE  ".len() + name),
                        Part::Own(types),
                        Part::Ours(" AS ".len()),
                        Part::Own(body),
                    ],
                    // Who can tell which characters these are.
                    _ => NOTHING,
                }
            }
            Rewrite::Token => [Part::Ours(0), Part::Ours(0), Part::Ours(0), Part::Ours(0)],
            Rewrite::Execute(_, class) => match crate::sql::lone_effect(class) {
                Some(classifier::Effect::Execute(execution)) => {
                    match [&execution.before, &execution.after].map(|text| std::str::from_utf8(text)) {
                        [Ok(before), Ok(after)] => {
                            [Part::Own(before), Part::Ours(" ".len() + name), Part::Ours(" ".len()), Part::Own(after)]
                        }
                        _ => NOTHING,
                    }
                }
                _ => NOTHING,
            },
            Rewrite::Reveal(_) => NOTHING,
        }
    }
}

/// Which characters of what was sent are which of the client's text.
struct Retold {
    /// First character sent, first character of the client's, how many.
    spans: Vec<(usize, usize, usize)>,
}

impl Retold {
    fn new(own: &str, parts: &[Part<'_>]) -> Retold {
        let (mut sent, mut from) = (0, 0);
        let mut spans = Vec::new();
        for part in parts {
            match *part {
                Part::Ours(length) => sent += length,
                Part::Own(text) => {
                    let length = text.chars().count();
                    if let Some(at) = own[from..].find(text).map(|at| from + at).filter(|_| length > 0) {
                        spans.push((sent, own[..at].chars().count(), length));
                        from = at + text.len();
                    }
                    sent += length;
                }
            }
        }
        Retold { spans }
    }

    /// The place in the client's text, counted from one; `None` where it has no such words.
    fn place(&self, place: &[u8]) -> Option<usize> {
        let place = std::str::from_utf8(place).ok()?.parse::<usize>().ok()?.checked_sub(1)?;
        // "syntax error at end of input" is behind the last one.
        let span = self.spans.iter().rev().find(|(sent, _, length)| (*sent..=sent + length).contains(&place));
        span.map(|(sent, own, _)| place - sent + own + 1)
    }
}

fn find(text: &[u8], word: &[u8], from: usize) -> Option<usize> {
    text.get(from..)?.windows(word.len()).position(|window| window == word).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let check = |own: &str, parts: &[Part<'_>], sent: &str, expected: Option<usize>| {
            assert_eq!(Retold::new(own, parts).place(sent.as_bytes()), expected, "{own:?} {sent}");
        };
        let execute = [Part::Own("execute"), Part::Ours(39), Part::Ours(1), Part::Own("('é', bad)")];
        check("execute q('é', bad)", &execute, "54", Some(16));
        check("/* ü */ execute \"q\" ('é', bad);", &execute, "54", Some(27));
        check("execute q('é', bad)", &execute, "1", Some(1));
        check("execute q('é', bad)", &execute, "20", None);
        check("execute q('é', bad)", &execute, "58", Some(20));
        check("execute q('é', bad)", &execute, "", None);
        check("execute q('é', bad)", &execute, "99999999999999999999999", None);
        let prepare = [Part::Ours(47), Part::Own("(nonsense)"), Part::Ours(4), Part::Own("select $1")];
        check("PREPARE q4(nonsense) AS  select $1 ;", &prepare, "49", Some(12));
        check("PREPARE q4(nonsense) AS  select $1 ;", &prepare, "62", Some(26));
        // What was sent is not at hand any more.
        check("", &prepare, "62", None);
    }
}
