//! The shape of a plain text, at a glance: in one pass, without tokens and without memory of its own.
//!
//! Owns which texts are so plain that nothing but their literals has to be found: no comments, quoted identifiers, escapes or
//! parameters. Two texts of one glance have the same tokens but for the values of literals, and so the same [`crate::blank::shape`].

/// A longer text is not glanced at.
pub(crate) const GLANCE_BYTES_MAX: usize = 512;

/// The text with each number as `0` and each string as `''`; `None` for one without literals, and for one that takes more than a glance.
pub(crate) fn glance<'a>(sql: &str, room: &'a mut [u8; GLANCE_BYTES_MAX]) -> Option<&'a [u8]> {
    let text = sql.as_bytes();
    if text.len() > GLANCE_BYTES_MAX {
        return None;
    }
    let (mut at, mut literals) = (0, 0);
    // What lies between two literals is copied in one piece.
    let mut seen = Seen { room, length: 0, copied: 0 };
    // A string goes on in the next one behind white space.
    let mut after_string = false;
    while let Some(&byte) = text.get(at) {
        match KINDS[usize::from(byte)] {
            Kind::Letter => {
                at = end(text, at, is_of_word);
                if text.get(at).is_some_and(|next| matches!(next, b'\'' | b'$' | b'&') || !next.is_ascii()) {
                    return None;
                }
                after_string = false;
            }
            Kind::Digit => {
                let begin = at;
                at = end(text, at, |byte| byte.is_ascii_digit());
                if text.get(at).is_some_and(|next| is_of_word(*next) || matches!(next, b'.' | b'$') || !next.is_ascii())
                    || (begin > 0 && text[begin - 1] == b'.')
                {
                    return None;
                }
                seen.copy(&text[..begin], at);
                seen.put(b"0");
                (literals, after_string) = (literals + 1, false);
            }
            Kind::Quote => {
                let begin = at;
                at = end(text, at + 1, |byte| !matches!(byte, b'\'' | b'\\'));
                if after_string || text.get(at) != Some(&b'\'') || text.get(at + 1) == Some(&b'\'') {
                    return None;
                }
                at += 1;
                seen.copy(&text[..begin], at);
                seen.put(b"''");
                (literals, after_string) = (literals + 1, true);
            }
            Kind::Space => at += 1,
            Kind::Sign => {
                if matches!((byte, text.get(at + 1)), (b'-', Some(b'-')) | (b'/', Some(b'*'))) {
                    return None;
                }
                at += 1;
                after_string = false;
            }
            Kind::Other => return None,
        }
    }
    seen.copy(text, at);
    (literals > 0).then_some(&seen.room[..seen.length])
}

/// What has been seen, in a room that is as large as the text.
struct Seen<'a> {
    room: &'a mut [u8; GLANCE_BYTES_MAX],
    length: usize,
    /// How much of the text is in it, or is left out.
    copied: usize,
}

impl Seen<'_> {
    /// Copies what is there of the text behind what was copied before. What comes next is at `next`.
    fn copy(&mut self, text: &[u8], next: usize) {
        self.put(&text[self.copied..]);
        self.copied = next;
    }

    fn put(&mut self, bytes: &[u8]) {
        self.room[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }
}

/// Where the run of such bytes ends.
fn end(text: &[u8], at: usize, belongs: impl Fn(u8) -> bool) -> usize {
    text[at..].iter().position(|byte| !belongs(*byte)).map_or(text.len(), |length| at + length)
}

fn is_of_word(byte: u8) -> bool {
    matches!(KINDS[usize::from(byte)], Kind::Letter | Kind::Digit)
}

/// What a token may begin with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Digit,
    Quote,
    Space,
    Sign,
    Other,
}

/// The kind of each byte.
static KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Other; 256];
    let mut byte = 0;
    while byte < 256 {
        kinds[byte] = match byte as u8 {
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => Kind::Letter,
            b'0'..=b'9' => Kind::Digit,
            b'\'' => Kind::Quote,
            b' ' | b'\n' | b'\t' | b'\r' => Kind::Space,
            b'=' | b',' | b'(' | b')' | b'*' | b';' | b'<' | b'>' | b'+' | b'-' | b'/' | b'%' | b'.' | b':' | b'['
            | b']' => Kind::Sign,
            _ => Kind::Other,
        };
        byte += 1;
    }
    kinds
};

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::cache::shape_key;
    use crate::lexer::Lexed;
    use proptest::prelude::*;

    fn seen(sql: &str) -> Option<String> {
        glance(sql, &mut [0; GLANCE_BYTES_MAX]).map(|glance| String::from_utf8_lossy(glance).into_owned())
    }

    fn shape(sql: &str) -> Option<String> {
        let lexed = Lexed::new(sql);
        shape_key(&lexed, &lexed.statements())
    }

    #[test]
    fn literals_are_left_out() {
        let check = |sql, expected: &str| assert_eq!(seen(sql).as_deref(), Some(expected), "{sql}");
        check("select a1 from t where b = 12 and c='it'", "select a1 from t where b = 0 and c=''");
        check("select -1,'ü', ''; select(2)", "select -0,'', ''; select(0)");
    }

    #[test]
    fn what_takes_more_than_a_glance() {
        for sql in [
            "select a",
            "select 1.5",
            "select .5",
            "select 1e5",
            "select 1a",
            "select 0x1F",
            "select 1_000",
            "select 1$a",
            "select $1, 1",
            "select 1 -- a",
            "select 1 /* a */",
            "select E'a'",
            "select U&'a'",
            "select 'it''s'",
            "select 'a\\'",
            "select 'a'\n'b'",
            "select 'a",
            "select \"a\", 1",
            "select $$a$$, 1",
            "select ü, 1",
            "select 1ü",
        ] {
            assert_eq!(seen(sql), None, "{sql}");
        }
        assert_eq!(seen(&format!("select 1{}", " ".repeat(GLANCE_BYTES_MAX))), None);
    }

    /// What texts are made of, dense in what could be read in two ways.
    pub(crate) fn piece() -> impl Strategy<Value = String> {
        prop_oneof![
            "[a-zA-Z_][a-zA-Z0-9_]{0,3}",
            "[0-9]{1,3}",
            "'[a-z' \\\\-]{0,3}'",
            "[ \n]",
            "[-=,()*;<>+/%.:\\[\\]!&$\"#]",
            "[ -~]",
            Just("--".to_owned()),
            Just("select ".to_owned()),
            Just("ü".to_owned()),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn what_looks_alike_has_one_shape(pieces in prop::collection::vec(piece(), 1..12), number in "[0-9]{1,4}", string in "[a-zü -]{0,4}") {
            let sql = pieces.concat();
            if let Some(seen_first) = seen(&sql) {
                // The glance itself is a text of that glance, and so is any with other values.
                let again = seen_first.replace('0', "7");
                let other = replace_literals(&seen_first, &number, &string);
                for text in [&seen_first, &again, &other] {
                    if seen(text).as_ref() == Some(&seen_first) {
                        prop_assert_eq!(shape(text), shape(&sql), "{} and {}", text, sql);
                    }
                }
                prop_assert_eq!(seen(&seen_first), Some(seen_first.clone()), "{}", sql);
            }
        }
    }

    fn replace_literals(glance: &str, number: &str, string: &str) -> String {
        let string = format!("'{string}'");
        let mut out = String::new();
        let mut before = ' ';
        for part in glance.replace("''", "'").chars() {
            match part {
                '\'' => out.push_str(&string),
                '0' if !before.is_ascii_alphanumeric() && before != '_' => out.push_str(number),
                other => out.push(other),
            }
            before = part;
        }
        out
    }
}
