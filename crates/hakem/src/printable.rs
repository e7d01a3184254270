//! What somebody else has said, on one line.
//!
//! Owns how that is shown; that the log shows all that way is `logging`'s.

use std::fmt::{self, Write};

/// Shows a text with its control characters escaped.
pub(crate) struct Printable<'a>(pub(crate) &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                // Some readers of logs take these for the end of a line, too.
                '\u{2028}' | '\u{2029}' => write!(formatter, "{}", character.escape_unicode())?,
                character if character.is_control() => write!(formatter, "{}", character.escape_default())?,
                character => formatter.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_begins_a_line() {
        for (text, shown) in [
            ("alice", "alice"),
            ("Zoë \"z\" \\", "Zoë \"z\" \\"),
            ("x\n2026 WARN authentication failed user=root", "x\\n2026 WARN authentication failed user=root"),
            ("a\r\x1b[2J\u{85}\u{2028}", "a\\r\\u{1b}[2J\\u{85}\\u{2028}"),
        ] {
            assert_eq!(Printable(text).to_string(), shown);
        }
    }
}
