//! What is wrong with a configuration file, and where.
//!
//! A problem never quotes a password: messages are made from key names, limits and values that are not secret.

use std::fmt;

/// One thing wrong with a configuration file.
///
/// Displayed as `proxy.toml:12: unknown key "max_lagg" in [routing]; did you mean "max_lag"?`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The name of the file, as the caller gave it.
    pub file: String,
    /// Where in the file; `None` when it is the file as a whole, such as a section that is missing.
    pub position: Option<Position>,
    /// What is wrong, as one sentence without its full stop.
    pub message: String,
    /// The valid word that comes nearest to what was written, if one comes near.
    pub nearest: Option<String>,
}

/// A place in a text: both numbers count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The character in the line.
    pub column: usize,
}

impl Position {
    /// The position of a byte offset; an offset past the end is the end.
    pub(crate) fn of(text: &str, offset: usize) -> Position {
        let before = &text.as_bytes()[..offset.min(text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
        // Every byte of a UTF-8 character but the first has the bits 10 in front.
        let is_first = |byte: &&u8| **byte & 0b1100_0000 != 0b1000_0000;
        Position {
            line: 1 + before.iter().filter(|byte| **byte == b'\n').count(),
            column: 1 + before[line_start..].iter().filter(is_first).count(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.position {
            Some(position) => write!(f, "{}:{}: {}", self.file, position.line, self.message)?,
            None => write!(f, "{}: {}", self.file, self.message)?,
        }
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean {nearest:?}?"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Problem {}

/// The candidate nearest to what was written, when it is near enough to be a likely slip of the pen.
pub(crate) fn nearest<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    let written = written.to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&written, candidate), candidate))
        // A third of the letters may be wrong: "max_lagg" is "max_lag", while "foo" is not "log".
        .filter(|(distance, candidate)| *distance <= (candidate.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        let check =
            |text: &str, offset, line, column| assert_eq!(Position::of(text, offset), Position { line, column });
        check("", 0, 1, 1);
        check("ab", 1, 1, 2);
        check("a\nbc", 2, 2, 1);
        check("a\nbc", 3, 2, 2);
        check("é\nüx", 5, 2, 2);
        check("a\n", 99, 2, 1);
    }

    #[test]
    fn nearest_words() {
        let check = |written, expected: Option<&str>| {
            assert_eq!(nearest(written, ["max_lag", "split", "log"]).as_deref(), expected);
        };
        check("max_lagg", Some("max_lag"));
        check("maxlag", Some("max_lag"));
        check("Split", Some("split"));
        check("lgo", Some("log"));
        check("foo", None);
        check("", None);
    }
}
