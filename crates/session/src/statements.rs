//! Prepared statements: the client's names for them, and the names that servers know them by.
//!
//! A named statement is known to every server by a name made from its content, so that clients which prepare the same text
//! share one. The unnamed statement is never given a name: PostgreSQL plans it differently.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use classifier::{Class, Classifier};
use sha2::{Digest, Sha256};

use crate::settings::Settings;
use crate::shapes::Told;

/// A prepared statement: all that is needed to prepare it again on another server.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The identity by content; that of the unnamed statement is of no use to anybody.
    pub(crate) id: Identity,
    /// The text, in the client's encoding.
    pub(crate) sql: Box<[u8]>,
    /// The parameter types as they stood in Parse.
    pub(crate) types: Box<[u8]>,
    /// What the text does.
    pub(crate) class: Arc<Class>,
    /// How it gets onto a server.
    pub(crate) form: Form,
    /// What the client was told of its parameters and columns.
    pub(crate) told: Told,
}

/// How a statement gets onto a server.
#[derive(Debug)]
pub(crate) enum Form {
    /// By a Parse message.
    Protocol,
    /// By PREPARE: `types` are the names of types, with their parentheses. This is the client's own text of it.
    Sql(Box<[u8]>),
    /// By a Parse message, of an EXECUTE of this one.
    Execute(Arc<Prepared>),
    /// Not at all: DEALLOCATE, SET and SHOW of the proxy's own settings, or PREPARE of this one, which the proxy executes itself.
    Own(Option<Arc<Prepared>>),
}

/// What makes two statements the same on a server: text, parameter types, and the settings by which the text was read, since
/// names and literals get their meaning when a statement is prepared. Half of a SHA-256: a collision would hand one client
/// another's statement, so a hash that can be made to collide will not do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Identity([u8; 16]);

impl Identity {
    /// The length of a server's name.
    pub(crate) const NAME_BYTES: usize = PREFIX.len() + 32;

    pub(crate) fn new(sql: &[u8], types: &[u8], settings: &Settings) -> Identity {
        let mut digest = Sha256::new();
        let mut add = |part: &[u8]| {
            digest.update(u64::to_be_bytes(part.len() as u64));
            digest.update(part);
        };
        add(sql);
        add(types);
        settings.meaningful().for_each(|statement| add(statement.as_bytes()));
        Identity(*digest.finalize().first_chunk().expect("SHA-256 has 32 bytes"))
    }

    /// The name on servers: a prefix of our own and 32 hexadecimal digits, under PostgreSQL's 63 bytes.
    pub(crate) fn name(self) -> ServerName {
        let mut name = ServerName([0; Identity::NAME_BYTES]);
        name.0[..PREFIX.len()].copy_from_slice(PREFIX);
        for (pair, byte) in name.0[PREFIX.len()..].chunks_exact_mut(2).zip(self.0) {
            pair[0] = HEX[usize::from(byte >> 4)];
            pair[1] = HEX[usize::from(byte & 15)];
        }
        name
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.name().0))
    }
}

/// A statement's name on servers.
pub(crate) struct ServerName(pub(crate) [u8; Identity::NAME_BYTES]);

impl Prepared {
    pub(crate) fn named(sql: &[u8], types: &[u8], class: Arc<Class>, settings: &Settings) -> Prepared {
        let id = Identity::new(sql, types, settings);
        Prepared { id, sql: sql.into(), types: types.into(), class, form: Form::Protocol, told: Told::default() }
    }

    /// What SQL's PREPARE defines.
    pub(crate) fn by_sql(source: &[u8], body: &[u8], types: &[u8], class: Arc<Class>, settings: &Settings) -> Prepared {
        // A Parse message's types begin with their count in two bytes, so that these can be no message's.
        let id = Identity::new(body, &[b"by name ", types].concat(), settings);
        Prepared {
            id,
            sql: body.into(),
            types: types.into(),
            class,
            form: Form::Sql(source.into()),
            told: Told::default(),
        }
    }

    pub(crate) fn unnamed(sql: &[u8], types: &[u8], class: Arc<Class>) -> Prepared {
        Prepared {
            id: UNNAMED,
            sql: sql.into(),
            types: types.into(),
            class,
            form: Form::Protocol,
            told: Told::default(),
        }
    }

    pub(crate) fn is_unnamed(&self) -> bool {
        self.id == UNNAMED
    }

    /// The PREPARE that it was made by, if it was; the client's own text.
    pub(crate) fn source(&self) -> &[u8] {
        match &self.form {
            Form::Sql(source) => source,
            _ => &[],
        }
    }

    /// Whether it was made by PREPARE.
    pub(crate) fn is_of_sql(&self) -> bool {
        matches!(self.form, Form::Sql(_))
    }

    /// The same by another classifier; itself, if that makes no difference.
    fn judged_by(self: &Arc<Self>, classifier: &Classifier) -> Arc<Prepared> {
        let (class, form) = match &self.form {
            Form::Protocol | Form::Sql(_) => (crate::foreign::classify(classifier, &self.sql), None),
            Form::Execute(target) => {
                let judged = target.judged_by(classifier);
                // What does more than its target was a write for that.
                let class = if self.class == target.class { judged.class.clone() } else { self.class.clone() };
                (class, (!Arc::ptr_eq(&judged, target)).then_some(Form::Execute(judged)))
            }
            Form::Own(None) => (self.class.clone(), None),
            Form::Own(Some(inner)) => {
                let judged = inner.judged_by(classifier);
                (self.class.clone(), (!Arc::ptr_eq(&judged, inner)).then_some(Form::Own(Some(judged))))
            }
        };
        let form = match form {
            None if class == self.class => return self.clone(),
            None => self.form.share(),
            Some(form) => form,
        };
        let (sql, types, told) = (self.sql.clone(), self.types.clone(), self.told.copy());
        Arc::new(Prepared { id: self.id, sql, types, class, form, told })
    }

    /// Whether this is what a Parse message asks for.
    pub(crate) fn is(&self, sql: &[u8], types: &[u8], class: &Class) -> bool {
        *self.sql == *sql && *self.types == *types && *self.class == *class
    }
}

impl Form {
    fn share(&self) -> Form {
        match self {
            Form::Protocol => Form::Protocol,
            Form::Sql(source) => Form::Sql(source.clone()),
            Form::Execute(target) => Form::Execute(target.clone()),
            Form::Own(inner) => Form::Own(inner.clone()),
        }
    }
}

/// What goes by a name.
pub(crate) type Named = (Box<[u8]>, Option<Arc<Prepared>>);

/// One client's prepared statements.
#[derive(Debug, Default)]
pub(crate) struct Statements {
    named: HashMap<Box<[u8]>, Arc<Prepared>>,
    unnamed: Option<Arc<Prepared>>,
    /// What the named ones take.
    bytes: usize,
}

impl Statements {
    pub(crate) fn get(&self, name: &[u8]) -> Option<&Arc<Prepared>> {
        if name.is_empty() { self.unnamed.as_ref() } else { self.named.get(name) }
    }

    /// What the client calls the statement of this name on servers; looks at all of them.
    pub(crate) fn own_name(&self, server: &[u8]) -> Option<&[u8]> {
        let called = |statement: &Prepared| statement.id.name().0 == *server;
        self.named.iter().find(|(_, statement)| called(statement)).map(|(name, _)| &**name)
    }

    pub(crate) fn insert(&mut self, name: &[u8], statement: Arc<Prepared>) {
        if name.is_empty() {
            self.unnamed = Some(statement);
            return;
        }
        self.bytes += cost(name, &statement);
        if let Some(before) = self.named.insert(name.into(), statement) {
            self.bytes -= cost(name, &before);
        }
    }

    pub(crate) fn remove(&mut self, name: &[u8]) -> Option<Arc<Prepared>> {
        if name.is_empty() {
            return self.unnamed.take();
        }
        let removed = self.named.remove(name)?;
        self.bytes -= cost(name, &removed);
        Some(removed)
    }

    /// Judges all of them anew.
    pub(crate) fn reclassify(&mut self, classifier: &Classifier) {
        for statement in self.named.values_mut().chain(&mut self.unnamed) {
            *statement = statement.judged_by(classifier);
        }
    }

    /// Whether another named one would take more than so many bytes.
    pub(crate) fn would_exceed(&self, bytes_max: usize, name: &[u8], statement: &Prepared) -> bool {
        self.bytes + cost(name, statement) > bytes_max
    }

    /// Gives a name back what it stood for.
    pub(crate) fn restore(&mut self, name: &[u8], before: Option<Arc<Prepared>>) {
        match before {
            Some(statement) => self.insert(name, statement),
            None => drop(self.remove(name)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.named.len() + usize::from(self.unnamed.is_some())
    }

    /// Those that were made by PREPARE.
    pub(crate) fn of_sql(&self) -> impl Iterator<Item = &Arc<Prepared>> {
        self.named.values().filter(|statement| statement.is_of_sql())
    }

    /// Whether there is no named one.
    pub(crate) fn has_no_names(&self) -> bool {
        self.named.is_empty()
    }

    /// The names of all named ones.
    pub(crate) fn names(&self) -> Vec<Box<[u8]>> {
        self.named.keys().cloned().collect()
    }

    pub(crate) fn clear(&mut self) {
        *self = Statements::default();
    }
}

/// About what a named statement takes, with its places in maps and on the heap.
fn cost(name: &[u8], statement: &Prepared) -> usize {
    name.len() + statement.sql.len() + statement.types.len() + statement.source().len() + STATEMENT_BYTES
}

/// What a statement takes beside its texts.
const STATEMENT_BYTES: usize = 256;

/// A name that no server knows: for what a client calls by a name that is not its own. Whatever the server has under that name
/// is another's.
pub(crate) const UNKNOWN: &[u8] = b"hakem_unknown";

/// Whether a name could be a server's name for a statement of whatever client.
pub(crate) fn is_ours(name: &[u8]) -> bool {
    name.starts_with(PREFIX)
}

/// The identity of all unnamed statements.
const UNNAMED: Identity = Identity([0; 16]);

/// What servers' names begin with.
pub(crate) const PREFIX: &[u8] = b"hakem_";
const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_is_the_content() {
        let plain = Settings::default();
        let named = Settings::new([("application_name", "a"), ("extra_float_digits", "3")]);
        let elsewhere = Settings::new([("TimeZone", "UTC")]);
        let base = Identity::new(b"select 1", b"\0\0", &plain);
        assert_eq!(base, Identity::new(b"select 1", b"\0\0", &named));
        assert_ne!(base, Identity::new(b"select 1", b"\0\0", &elsewhere));
        for (sql, types) in
            [(&b"select 2"[..], &b"\0\0"[..]), (b"select 1", b"\0\x01\0\0\0\x17"), (b"select 1\0", b"\0")]
        {
            assert_ne!(base, Identity::new(sql, types, &plain), "{sql:?} {types:?}");
        }
    }

    #[test]
    fn names_are_plain() {
        let name = Identity::new(b"select 1", b"\0\0", &Settings::default()).name();
        let text = std::str::from_utf8(&name.0).expect("ASCII");
        assert!(text.starts_with("hakem_") && text.len() == 38, "{text}");
        assert!(text[6..].bytes().all(|byte| byte.is_ascii_hexdigit()), "{text}");
    }
}
