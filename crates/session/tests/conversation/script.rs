//! Messages as words: `Q select 1`, `P s select $1`, `B s`, `E`, `S` from clients; `T D(1) C(SELECT 1) Z(I)` from servers.
//!
//! Owns the notation. Does not know what a message means.

use std::collections::HashMap;

use wire::backend::{Report, tag};
use wire::frame::{Frame, Frames};
use wire::frontend::{self, Frontend, Target};

/// The bytes of a client's messages, which are separated by ` | `. The unnamed statement and portal are `-`.
pub(crate) fn requests(line: &str) -> Vec<u8> {
    let mut out = Vec::new();
    line.split(" | ").for_each(|message| request(message, &mut out));
    out
}

fn request(message: &str, out: &mut Vec<u8>) {
    let (tag, rest) = message.split_once(' ').unwrap_or((message, ""));
    let words: Vec<&str> = rest.split(' ').collect();
    let name = |at: usize| words.get(at).filter(|word| **word != "-").map_or(&b""[..], |word| word.as_bytes());
    let string = |text: &[u8]| [text, b"\0"].concat();
    match tag {
        "Q" => frontend::put_query(out, rest),
        "P" => {
            let sql = rest.split_once(' ').map_or("", |(_, sql)| sql);
            frontend::put_parse(out, name(0), sql.as_bytes(), &[0, 0]);
        }
        "B" => frontend::put_bind(out, name(1), name(0), &[0; 6]),
        "E" => {
            let rows: u32 = words.get(1).map_or(0, |rows| rows.parse().unwrap());
            frame(out, b'E', &[&string(name(0))[..], &rows.to_be_bytes()].concat());
        }
        "D" | "C" => frame(out, tag.as_bytes()[0], &[words[0].to_uppercase().as_bytes(), &string(name(1))].concat()),
        "F" => {
            let function: u32 = rest.parse().unwrap_or(1);
            frame(out, b'F', &[&function.to_be_bytes()[..], &[0; 6]].concat());
        }
        "f" => frontend::put_copy_fail(out, rest),
        "d" | "c" | "S" | "H" | "X" | "p" => frame(out, tag.as_bytes()[0], rest.as_bytes()),
        other => panic!("no such message: {other}"),
    }
}

pub(crate) fn frame(out: &mut Vec<u8>, tag: u8, body: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend_from_slice(body);
}

/// What a server got, as words. Statements' names on servers are replaced by `#1`, `#2`... in the order of appearance.
#[derive(Default)]
pub(crate) struct Names(HashMap<Vec<u8>, usize>);

impl Names {
    pub(crate) fn show(&mut self, frame: Frame<'_>) -> String {
        match Frontend::read(frame).unwrap() {
            Frontend::Query(sql) => format!("Q({})", self.names(&text(sql))),
            Frontend::Parse(parse) => format!("P({} {})", self.name(parse.name), self.names(&text(parse.sql))),
            Frontend::Bind(bind) if bind.portal.is_empty() => format!("B({})", self.name(bind.statement)),
            Frontend::Bind(bind) => format!("B({} {})", self.name(bind.statement), text(bind.portal)),
            Frontend::Describe(Target::Statement(name)) => format!("D({})", self.name(name)),
            Frontend::Close(Target::Statement(name)) => format!("C({})", self.name(name)),
            _ => char::from(frame.tag).to_string(),
        }
    }

    /// A text with the names in it replaced.
    fn names(&mut self, sql: &str) -> String {
        let word = |word: &str| if word.len() == 38 { self.name(word.as_bytes()) } else { word.to_owned() };
        sql.split(' ').map(word).collect::<Vec<_>>().join(" ").replace("  ", " ")
    }

    fn name(&mut self, name: &[u8]) -> String {
        if name == b"hakem_unknown" {
            return "unknown".to_owned();
        }
        if !name.starts_with(b"hakem_") {
            return if name.is_empty() { "-".to_owned() } else { text(name) };
        }
        let next = self.0.len() + 1;
        format!("#{}", self.0.entry(name.to_vec()).or_insert(next))
    }
}

/// What a client got, as words.
pub(crate) fn replies(bytes: &[u8]) -> String {
    let mut words = Vec::new();
    let mut length = 0;
    for frame in Frames::new(bytes) {
        length += frame.whole.len();
        words.push(reply(frame));
    }
    if length < bytes.len() {
        words.push("...".to_owned());
    }
    words.join(" ")
}

pub(crate) fn reply(frame: Frame<'_>) -> String {
    let body = frame.body();
    match frame.tag {
        tag::COMMAND_COMPLETE => format!("C({})", text(&body[..body.len() - 1])),
        tag::READY_FOR_QUERY => format!("Z({})", text(body)),
        tag::ERROR_RESPONSE => format!("E({})", Report::new(body).sqlstate().unwrap().as_str()),
        tag::DATA_ROW => format!("D({})", text(&body[6..])),
        tag::PARAMETER_STATUS => {
            let (name, value) = wire::backend::parameter_status(body).unwrap();
            format!("S({}={})", text(name), text(value))
        }
        other => char::from(other).to_string(),
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
