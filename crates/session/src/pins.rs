//! What ties a session to its server beyond a transaction, and how that is found to be over.
//!
//! A pin is taken when a statement succeeds that may leave something behind. Whether it has, and whether it is still there, only the
//! server knows: it is asked in a query of the proxy's own, behind the answer, whenever there is a reason to. The same query reads
//! settings back whose new value the proxy has not seen.

use classifier::{Effect, PinReason};
use wire::frame::Frame;
use wire::frontend;

use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::session::Session;

/// What a column of the proxy's question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// Whether there is still a reason for this pin.
    Pin(PinReason),
    /// The value of this setting.
    Setting(String),
}

impl Session {
    /// What ties the session to its server beyond a transaction.
    #[must_use]
    pub fn pins(&self) -> &[PinReason] {
        &self.pins
    }

    pub(crate) fn pin(&mut self, reason: PinReason) {
        if !self.pins.contains(&reason) {
            self.pins.push(reason);
        }
        // A lock that was not to be had, a table that is dropped at commit: it may be over when the transaction is.
        self.rechecks |= question(reason).is_some();
    }

    pub(crate) fn unpin(&mut self, reason: PinReason) {
        self.pins.retain(|pin| *pin != reason);
    }

    /// A statement has completed that may have been the end of what a pin is about.
    pub(crate) fn note_completion(&mut self, command: &[u8]) {
        if !self.pins.is_empty() {
            self.rechecks |= command.starts_with(b"DROP ")
                || command.starts_with(b"CLOSE")
                || command == b"DISCARD TEMP"
                || command == b"DEALLOCATE";
        }
    }

    /// A statement has failed: what it may have left behind all the same. "...a lock acquired during a transaction that is later
    /// rolled back will still be held following the rollback" (Advisory Locks).
    pub(crate) fn pin_in_spite(&mut self) {
        let class = match self.owed.front() {
            Some(Owed::Execute { class, .. }) => class.clone(),
            Some(Owed::Query { .. }) => self.flight.front().and_then(|sent| sent.request.simple.clone()),
            _ => None,
        };
        for effect in class.iter().flat_map(|class| &class.effects) {
            if let Effect::Pin(reason @ (PinReason::AdvisoryLock | PinReason::Other)) = effect {
                self.pin(*reason);
            }
        }
    }

    /// The transaction is over: asks the server what is left of it, if there is a reason to. `true` when it does.
    pub(crate) fn ask_what_is_left(&mut self) -> bool {
        if !std::mem::take(&mut self.rechecks) && !self.settings.has_unread() {
            return false;
        }
        let pins = self.pins.iter().filter_map(|reason| Some((Check::Pin(*reason), question(*reason)?.to_owned())));
        let unread = self.settings.take_unread();
        let settings = unread.iter().cloned().map(|name| {
            let question = format!("pg_catalog.current_setting('{}', true)", name.replace('\'', "''"));
            (Check::Setting(name), question)
        });
        let (checks, questions): (Vec<Check>, Vec<String>) = pins.chain(settings).unzip();
        if checks.is_empty() {
            return false;
        }
        frontend::put_query(&mut self.to_server, &format!("SELECT {}", questions.join(", ")));
        self.owed.push_back(Owed::HiddenCheck(checks));
        true
    }

    /// The answer to that: a row of text.
    pub(crate) fn learn_what_is_left(&mut self, row: &[u8]) {
        let Some(Owed::HiddenCheck(checks)) = self.owed.front() else {
            return self.learn_isolation(columns(row).next().flatten());
        };
        for (check, value) in checks.clone().into_iter().zip(columns(row)) {
            match (check, value) {
                (Check::Pin(reason), Some(b"f")) => self.unpin(reason),
                (Check::Pin(_), _) => {}
                (Check::Setting(name), Some(value)) => match std::str::from_utf8(value) {
                    Ok(value) => self.set(&name, &crate::settings::assignment(&name, value)),
                    Err(_) => self.pin(PinReason::SetConfig),
                },
                // Not to be seen by this role, or not there after all.
                (Check::Setting(_), None) => self.pin(PinReason::SetConfig),
            }
        }
    }

    /// A SET has succeeded.
    pub(crate) fn set(&mut self, name: &str, statement: &str) {
        if makes_temporary(name, statement) {
            self.pin(PinReason::Other);
        }
        if self.settings.set(name, statement).is_err() {
            // It stays where the server remembers it.
            self.pin(PinReason::SetConfig);
        }
    }

    /// The question has been answered, or has failed, in which case everything stays as it was.
    pub(crate) fn end_check(&mut self, memory: &mut ServerMemory) {
        self.settings.commit();
        memory.settings = Some(self.settings_there());
    }
}

/// What the function of a FunctionCall message leaves in its session, or ends there: of PostgreSQL's own, whose numbers (`pg_proc.dat`)
/// never change. What a user's does cannot be seen.
pub(crate) fn of_function(call: Frame<'_>) -> Option<Effect> {
    let function = call.body().first_chunk().map(|oid| u32::from_be_bytes(*oid))?;
    match function {
        // pg_advisory_lock, pg_try_advisory_lock and those of shared locks, by one number and by two.
        2880..=2883 | 2886..=2889 => Some(Effect::Pin(PinReason::AdvisoryLock)),
        // pg_advisory_unlock, the same of a shared one, pg_advisory_unlock_all.
        2884 | 2885 | 2890..=2892 => Some(Effect::Unlocks),
        // currval, lastval.
        1575 | 2559 => Some(Effect::Pin(PinReason::SequenceState)),
        // setseed.
        1599 => Some(Effect::Pin(PinReason::Other)),
        _ => None,
    }
}

/// Whether what is created from then on is temporary though nobody says so: the temporary schema comes first in the path.
pub(crate) fn makes_temporary(name: &str, statement: &str) -> bool {
    let value = ["SET search_path TO ", "SET LOCAL search_path TO ", "SELECT pg_catalog.set_config('search_path', "];
    let value = value.iter().find_map(|before| statement.strip_prefix(before)).filter(|_| name == "search_path");
    let first = value.map(|value| value.trim_start_matches([' ', '\'', '"', 'E']));
    first.and_then(|first| first.get(..7)).is_some_and(|first| first.eq_ignore_ascii_case("pg_temp"))
}

/// The columns of a DataRow message; `None` is NULL.
pub fn columns(row: &[u8]) -> impl Iterator<Item = Option<&[u8]>> {
    let mut rest = row.get(2..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first_chunk::<4>()?;
        match i32::from_be_bytes(*length) {
            -1 => {
                rest = after;
                Some(None)
            }
            length => {
                let (value, after) = after.split_at_checked(usize::try_from(length).ok()?)?;
                rest = after;
                Some(Some(value))
            }
        }
    })
}

/// An expression that is false when the reason for a pin is gone; `None` where only DISCARD ALL ends it. Operators by their schema,
/// since the session may have a search path on which others come first.
fn question(reason: PinReason) -> Option<&'static str> {
    match reason {
        PinReason::AdvisoryLock => Some(
            "EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
             AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())",
        ),
        PinReason::TempTable => Some(
            // Whatever lies in a schema depends on it: a table, and a collation just as well. The number is that of `pg_namespace`.
            "EXISTS (SELECT FROM pg_catalog.pg_depend WHERE refclassid OPERATOR(pg_catalog.=) '2615' \
             AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())",
        ),
        // The shared ones have names of ours.
        PinReason::SqlPrepare => Some(
            "EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql \
             AND NOT pg_catalog.starts_with(name, 'hakem_'))",
        ),
        PinReason::HoldCursor => Some("EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable)"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_to_the_temporary_schema() {
        for (statement, expected) in [
            ("SET search_path TO pg_temp, public", true),
            ("SET LOCAL search_path TO 'pg_temp'", true),
            ("SET search_path TO \"pg_temp_3\"", true),
            ("SET search_path TO E'PG_TEMP'", true),
            ("SELECT pg_catalog.set_config('search_path', 'pg_temp, a', false)", true),
            ("SET search_path TO public, pg_temp", false),
            ("SET search_path TO ''", false),
        ] {
            assert_eq!(makes_temporary("search_path", statement), expected, "{statement}");
        }
    }

    #[test]
    fn rows() {
        let check = |row: &[u8], expected: &[Option<&[u8]>]| assert_eq!(columns(row).collect::<Vec<_>>(), expected);
        check(b"\0\x03\0\0\0\x01t\xff\xff\xff\xff\0\0\0\0", &[Some(b"t"), None, Some(b"")]);
        check(b"\0\x01\0\0\0\x05t", &[]);
        check(b"", &[]);
    }
}
