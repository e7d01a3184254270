//! Routing comments: `/* hakem: replica consistency=eventual max_lag=200ms */`.
//!
//! Owns their language. They are reported, not obeyed: what a statement may do does not depend on what its writer wishes.

use std::fmt;
use std::time::Duration;

/// What the comments of a statement asked for. Of two wishes that differ, the stricter one counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Hint {
    /// `primary` or `replica`.
    pub place: Option<Place>,
    /// `consistency=eventual`, `bounded`, `session` or `global`.
    pub consistency: Option<Consistency>,
    /// `max_lag=200ms`.
    pub max_lag: Option<Duration>,
}

/// Where a statement is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// On a replica.
    Replica,
    /// On the primary.
    Primary,
}

/// What a replica must have seen before it may serve a session; the stricter the later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Consistency {
    /// Nothing.
    Eventual,
    /// All but the last `max_lag`.
    Bounded,
    /// That and the session's own writes.
    Session,
    /// That and every write to the database through this proxy.
    Global,
}

impl Hint {
    /// Only this place.
    #[must_use]
    pub fn place(place: Place) -> Hint {
        Hint { place: Some(place), ..Hint::default() }
    }

    /// Adds what a comment says, given without its marks; one that is not for us says nothing, nor does a word that is not known.
    pub(crate) fn note(hint: &mut Option<Hint>, comment: &[u8]) {
        let Some((b"hakem:", wishes)) = comment.trim_ascii().split_at_checked(6) else { return };
        let Ok(wishes) = std::str::from_utf8(wishes) else { return };
        for wish in wishes.split([' ', '\t', '\n', '\r', ',']) {
            let mut found = Hint::default();
            match wish.split_once('=') {
                None if wish == "primary" => found.place = Some(Place::Primary),
                None if wish == "replica" => found.place = Some(Place::Replica),
                Some(("consistency", name)) => found.consistency = Consistency::of(name),
                Some(("max_lag", text)) => found.max_lag = duration(text),
                _ => {}
            }
            if found != Hint::default() {
                *hint = Some(hint.unwrap_or_default().and(found));
            }
        }
    }

    fn and(self, other: Hint) -> Hint {
        let shorter = |one: Duration, other: Duration| one.min(other);
        Hint {
            place: self.place.max(other.place),
            consistency: self.consistency.max(other.consistency),
            max_lag: self.max_lag.map_or(other.max_lag, |lag| Some(other.max_lag.map_or(lag, |new| shorter(lag, new)))),
        }
    }
}

impl Consistency {
    /// The one of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Consistency> {
        match name {
            "eventual" => Some(Consistency::Eventual),
            "bounded" => Some(Consistency::Bounded),
            "session" => Some(Consistency::Session),
            "global" => Some(Consistency::Global),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Consistency::Eventual => "eventual",
            Consistency::Bounded => "bounded",
            Consistency::Session => "session",
            Consistency::Global => "global",
        }
    }
}

impl Place {
    /// The word that asks for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Place::Replica => "replica",
            Place::Primary => "primary",
        }
    }
}

/// As it would stand in a comment.
impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.place.map(|place| place.as_str().to_owned()),
            self.consistency.map(|consistency| format!("consistency={}", consistency.as_str())),
            self.max_lag.map(|lag| format!("max_lag={}us", lag.as_micros())),
        ];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join(" "))
    }
}

/// A duration in PostgreSQL's notation: an integer and `us`, `ms`, `s`, `min` or `h`; milliseconds without a unit.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "us" => Some(Duration::from_micros(number)),
        "ms" | "" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(comments: &[&str], expected: Option<Hint>) {
        let mut hint = None;
        comments.iter().for_each(|comment| Hint::note(&mut hint, comment.as_bytes()));
        assert_eq!(hint, expected, "{comments:?}");
    }

    #[test]
    fn wishes() {
        let eventual = Hint { consistency: Some(Consistency::Eventual), ..Hint::default() };
        let lag = |ms| Hint { max_lag: Some(Duration::from_millis(ms)), ..Hint::default() };
        check(&[" hakem: primary "], Some(Hint::place(Place::Primary)));
        check(&["hakem:replica"], Some(Hint::place(Place::Replica)));
        check(&[" hakem: consistency=eventual"], Some(eventual));
        check(&["hakem: max_lag=200ms"], Some(lag(200)));
        check(&["hakem: replica, consistency=eventual"], Some(Hint { place: Some(Place::Replica), ..eventual }));
        check(&["hakem: moon", "hakem: max_lag=soon consistency=none", "primary", "hakem", ""], None);
    }

    #[test]
    fn the_stricter_wish_counts() {
        let session = Hint { consistency: Some(Consistency::Session), ..Hint::default() };
        let lag = |ms| Hint { max_lag: Some(Duration::from_millis(ms)), ..Hint::default() };
        for turn in [
            ["hakem: consistency=session", "hakem: consistency=bounded"],
            ["hakem: consistency=eventual", "hakem: consistency=session"],
        ] {
            check(&turn, Some(session));
        }
        check(&["hakem: max_lag=2s", "hakem: max_lag=1s"], Some(lag(1000)));
        check(&["hakem: max_lag=1s", "hakem: max_lag=2s"], Some(lag(1000)));
        check(&["hakem: primary replica"], Some(Hint::place(Place::Primary)));
        check(&["hakem: replica primary"], Some(Hint::place(Place::Primary)));
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("5", Some(5_000)),
            ("5us", Some(5)),
            ("2s", Some(2_000_000)),
            ("1min", Some(60_000_000)),
            ("1h", Some(3_600_000_000)),
            ("", None),
            ("s", None),
            ("-1", None),
            ("1d", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_micros), "{text}");
        }
    }
}
