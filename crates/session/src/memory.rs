//! What a server connection still has of the sessions that used it.
//!
//! Owns the record of settings and prepared statements of one server connection. It travels with the connection through the pool.

use std::collections::HashMap;
use std::sync::Arc;

use crate::reported::Reported;
use crate::sequences::Token;
use crate::settings::Map;
use crate::shapes::Shape;
use crate::statements::Identity;

/// A statement that the server has.
#[derive(Clone, Copy, Debug)]
struct Kept {
    /// When it was used last, by the count of uses.
    used: u64,
    /// What is known of its parameters and columns.
    shape: Shape,
}

/// One server connection's state, as far as the proxy has put it there.
#[derive(Debug)]
pub struct ServerMemory {
    /// The settings that it has; `None` when nobody knows.
    pub(crate) settings: Option<Map>,
    /// What it has reported last of its settings.
    pub(crate) reported: Reported,
    prepared: HashMap<Identity, Kept>,
    prepared_max: usize,
    /// How many statements have ever been prepared.
    prepares: u64,
    /// Statements whose plans do not fit their tables any more, and which are to be closed.
    stale: Vec<Identity>,
    /// The session that last wrote there.
    pub(crate) writer: Option<Token>,
    /// Which connection it is; another one when it has forgotten everything.
    pub(crate) token: Token,
    /// Counts uses: the statement with the smallest number was used longest ago.
    uses: u64,
}

impl ServerMemory {
    /// A fresh connection's. It will keep at most `prepared_max` statements.
    #[must_use]
    pub fn new(prepared_max: usize) -> ServerMemory {
        ServerMemory {
            settings: Some(Arc::default()),
            reported: Reported::default(),
            prepared: HashMap::new(),
            prepared_max: prepared_max.max(1),
            prepares: 0,
            stale: Vec::new(),
            writer: None,
            token: Token::default(),
            uses: 0,
        }
    }

    /// Forgets everything, as after DISCARD ALL.
    pub fn discard_all(&mut self) {
        let reported = std::mem::take(&mut self.reported);
        *self = ServerMemory { prepares: self.prepares, reported, ..ServerMemory::new(self.prepared_max) };
    }

    /// Forgets everything but what cannot be known: no statement is there any more, and the settings may be any.
    pub fn distrust(&mut self) {
        self.discard_all();
        self.settings = None;
    }

    /// Takes note of what the server has reported of a setting. Whatever it reports has to come here, whoever has asked it what.
    pub fn report(&mut self, name: &[u8], value: &[u8]) {
        self.reported.note(name, value);
    }

    /// What it has reported last of its settings.
    #[must_use]
    pub fn reported(&self) -> &Reported {
        &self.reported
    }

    /// How many statements are prepared there.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.prepared.len() + self.stale.len()
    }

    /// How many statements have ever been prepared there.
    #[must_use]
    pub fn prepares(&self) -> u64 {
        self.prepares
    }

    /// The same but for the statements.
    pub(crate) fn discard_all_but_statements(&mut self) {
        self.settings = Some(Arc::default());
    }

    /// Forgets all statements, for as long as it is not known whether they are gone.
    /// `mark`: where the changes of the client's begin that come with it.
    pub(crate) fn set_aside(&mut self, mark: usize) -> SetAside {
        SetAside { mark, prepared: std::mem::take(&mut self.prepared) }
    }

    /// They are not gone.
    pub(crate) fn bring_back(&mut self, aside: SetAside) {
        self.prepared.extend(aside.prepared);
    }

    pub(crate) fn deallocate_all(&mut self) {
        self.stale.clear();
        self.prepared.clear();
    }

    /// Marks a statement as used; `false` when it is not prepared there.
    pub(crate) fn touch(&mut self, id: Identity) -> bool {
        self.uses += 1;
        let uses = self.uses;
        self.prepared.get_mut(&id).map(|kept| kept.used = uses).is_some()
    }

    /// Forgets the statements that have to be closed before there is room for another: those used longest ago, the oldest first.
    pub(crate) fn evict(&mut self) -> Vec<Identity> {
        let over = (self.prepared.len() + 1).saturating_sub(self.prepared_max);
        if over == 0 {
            return Vec::new();
        }
        let mut kept: Vec<(u64, Identity)> = self.prepared.iter().map(|(id, kept)| (kept.used, *id)).collect();
        // Nearly always it is one: the others need not be put in order.
        kept.select_nth_unstable_by_key(over - 1, |(used, _)| *used);
        kept.truncate(over);
        kept.sort_unstable_by_key(|(used, _)| *used);
        kept.iter().for_each(|(_, id)| self.forget(*id));
        kept.into_iter().map(|(_, id)| id).collect()
    }

    /// From now on so many statements are kept at most; what is more than that goes when the next one is prepared. How many it was.
    pub(crate) fn limit(&mut self, prepared_max: usize) -> usize {
        std::mem::replace(&mut self.prepared_max, prepared_max)
    }

    /// Records a statement that is being prepared.
    pub(crate) fn insert(&mut self, id: Identity) {
        self.uses += 1;
        self.prepares += 1;
        self.prepared.insert(id, Kept { used: self.uses, shape: Shape::default() });
    }

    /// Records a statement that was to be closed and was not: it is there, whatever the limit.
    pub(crate) fn keep(&mut self, id: Identity) {
        self.uses += 1;
        self.prepared.insert(id, Kept { used: self.uses, shape: Shape::default() });
    }

    /// What is known of a statement's parameters and columns; `None` when it is not prepared there.
    pub(crate) fn shape(&self, id: Identity) -> Option<Shape> {
        self.prepared.get(&id).map(|kept| kept.shape)
    }

    /// Records what the server has said of a statement.
    pub(crate) fn learn(&mut self, id: Identity, shape: Shape) {
        if let Some(kept) = self.prepared.get_mut(&id) {
            kept.shape.learn(shape);
        }
    }

    /// Records that a statement is of no use any more: it has to be closed before it is prepared again.
    pub(crate) fn outdate(&mut self, id: Identity) {
        if self.prepared.remove(&id).is_some() {
            self.stale.push(id);
        }
    }

    /// A statement to close.
    pub(crate) fn take_stale(&mut self) -> Option<Identity> {
        self.stale.pop()
    }

    /// Records what a transaction leaves that was begun on another server, and is run again on this one. `has`: whether it uses a
    /// statement.
    pub(crate) fn become_like(&mut self, other: &ServerMemory, has: impl Fn(Identity) -> bool) {
        self.settings = other.settings.clone();
        self.stale.clear();
        self.prepared.clear();
        for (id, kept) in other.prepared.iter().filter(|(id, _)| has(**id)) {
            self.prepared.insert(*id, Kept { used: self.uses, ..*kept });
        }
        self.writer = other.writer.clone();
    }

    pub(crate) fn forget(&mut self, id: Identity) {
        self.prepared.remove(&id);
    }
}

/// Statements that a server may have lost.
#[derive(Clone, Debug)]
pub(crate) struct SetAside {
    pub(crate) mark: usize,
    prepared: HashMap<Identity, Kept>,
}

impl SetAside {
    /// The server has not got a statement, whether it discards all or not.
    pub(crate) fn forget(&mut self, id: Identity) {
        self.prepared.remove(&id);
    }

    /// Records a statement that was to be closed and was not.
    pub(crate) fn keep(&mut self, id: Identity) {
        self.prepared.insert(id, Kept { used: 0, shape: Shape::default() });
    }
}
