//! What servers report of their settings, and what clients are told of them.
//!
//! A server tells of what it was told itself, and each setting once. Who has a server next may have been told otherwise: so what a
//! server has reported is kept with it, what a client was told with the client, and where they differ the client is told with
//! its next ReadyForQuery, as PostgreSQL does (`ReportChangedGUCOptions`).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use wire::backend::{self, Status};

use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::session::Session;
use crate::settings::difference;

/// A name and a value.
type Pair = (Box<[u8]>, Box<[u8]>);

/// Settings and their values, in the order in which they were reported.
#[derive(Clone, Debug, Default)]
pub struct Reported {
    pairs: Vec<Pair>,
    /// Of those that concern a client; equal in equal ones, whatever the order.
    digest: u64,
}

impl Reported {
    /// Takes note of one. More than a server can report is let go.
    pub fn note(&mut self, name: &[u8], value: &[u8]) {
        let full = self.pairs.len() >= REPORTED_MAX;
        match self.pairs.iter_mut().find(|(known, _)| **known == *name).map(|(_, known)| known) {
            Some(known) if **known == *value => {}
            Some(known) => {
                self.digest ^= digest(name, known) ^ digest(name, value);
                *known = value.into();
            }
            None if full => {}
            None => {
                self.digest ^= digest(name, value);
                self.pairs.push((name.into(), value.into()));
            }
        }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.pairs.iter().map(|(name, value)| (&**name, &**value))
    }

    /// The value of one.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// What is there that was not told.
    fn news<'a>(&'a self, told: &Reported) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
        self.iter().filter(|(name, value)| concerns_clients(name) && told.get(name) != Some(*value))
    }
}

impl<'a> FromIterator<(&'a [u8], &'a [u8])> for Reported {
    fn from_iter<T: IntoIterator<Item = (&'a [u8], &'a [u8])>>(pairs: T) -> Reported {
        let mut reported = Reported::default();
        pairs.into_iter().for_each(|(name, value)| reported.note(name, value));
        reported
    }
}

impl Session {
    /// The client has been told this at its login.
    pub fn greet(&mut self, told: Arc<Reported>) {
        self.told = told;
    }

    /// Whether the server has other settings than the client was told.
    #[must_use]
    pub fn has_news(&self, memory: &ServerMemory) -> bool {
        self.told.digest != memory.reported.digest && memory.reported.news(&self.told).next().is_some()
    }

    /// Tells the client what the server has, in front of the ReadyForQuery that comes next. Each is shown to `note`.
    pub fn tell_news(&mut self, memory: &ServerMemory, out: &mut Vec<u8>, mut note: impl FnMut(&[u8], &[u8])) {
        let news: Vec<_> = memory.reported.news(&self.told).collect();
        for (name, value) in news {
            backend::put_parameter_status(out, name, value);
            note(name, value);
            Arc::make_mut(&mut self.told).note(name, value);
        }
        self.lease.misled |= self.lease.obscured;
    }

    /// What unseen code has set will not be there for the session's next request: where it was reported, or has been told, it is wiped off
    /// before the client gets its ReadyForQuery, so that it is told what holds from then on. `true` when the server has to answer first.
    pub(crate) fn wipe(&mut self, status: Status, memory: &ServerMemory) -> bool {
        let misled = self.lease.misled || self.has_news(memory);
        let (true, 1, Some(sent)) = (misled, self.flight.len(), self.flight.front_mut()) else { return false };
        if !(self.lease.obscured || sent.request.obscure)
            || status != Status::Idle
            || self.progress.failed
            || !self.owed.is_empty()
            || self.settings.has_unread()
            || self.policy.keeps_server
            || !self.pins.is_empty()
        {
            return false;
        }
        (self.lease.obscured, self.lease.misled, sent.request.obscure) = (false, false, false);
        self.settings.commit();
        let sql = difference(None, &self.settings_there()).expect("what nobody knows differs");
        wire::frontend::put_query(&mut self.to_server, &sql);
        self.owed.push_back(Owed::HiddenRestore);
        self.lease.unnamed = false;
        true
    }
}

/// Whether a setting is one of sessions. Others are the node's, and whichever node has answered, a client talks to one database.
fn concerns_clients(name: &[u8]) -> bool {
    !NODES_OWN.contains(&name)
}

fn digest(name: &[u8], value: &[u8]) -> u64 {
    if !concerns_clients(name) {
        return 0;
    }
    let mut hasher = DefaultHasher::new();
    (name, value).hash(&mut hasher);
    hasher.finish()
}

const NODES_OWN: [&[u8]; 4] = [b"in_hot_standby", b"server_version", b"server_encoding", b"integer_datetimes"];

/// Settings that are kept: no more than a login takes note of.
const REPORTED_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn news() {
        let told: Reported = [(&b"a"[..], &b"1"[..]), (b"b", b"2"), (b"server_version", b"15.1")].into_iter().collect();
        let mut there: Reported =
            [(&b"b"[..], &b"2"[..]), (b"server_version", b"15.2"), (b"a", b"1")].into_iter().collect();
        assert_eq!(told.digest, there.digest, "the order does not matter, nor what is the node's");
        assert_eq!(there.news(&told).count(), 0);
        there.note(b"a", b"3");
        there.note(b"c", b"4");
        assert_ne!(told.digest, there.digest);
        assert_eq!(there.news(&told).collect::<Vec<_>>(), [(&b"a"[..], &b"3"[..]), (b"c", b"4")]);
        there.note(b"a", b"1");
        assert_eq!(there.news(&told).collect::<Vec<_>>(), [(&b"c"[..], &b"4"[..])]);
    }

    #[test]
    fn bounds() {
        let mut reported = Reported::default();
        (0..2 * REPORTED_MAX).for_each(|number| reported.note(number.to_string().as_bytes(), b""));
        assert_eq!(reported.iter().count(), REPORTED_MAX);
        reported.note(b"0", b"1");
        assert_eq!(reported.get(b"0"), Some(&b"1"[..]), "a known one may change");
    }
}
