//! `currval` and `lastval`: what a server remembers of the sequences that a session has drawn from.
//!
//! PostgreSQL keeps that in the server process, which a pooler lends to one session after the other. Drawing pins nothing, since it is
//! what every INSERT may do. So when a session asks, and it is not certain that what this server remembers is its own, the server is
//! made to forget: then the answer is PostgreSQL's own error (55000), and never what another session has drawn.
//! The question pins, so that from there on the session is answered as by a server of its own.

use std::sync::Arc;

use classifier::PinReason;
use wire::frontend;

use crate::memory::ServerMemory;
use crate::owed::Owed;
use crate::session::Session;
use crate::terms::Transaction;

/// Somebody, or something, that is only ever compared.
pub(crate) type Token = Arc<()>;

/// The server connections that a session has written on.
#[derive(Debug, Default)]
pub(crate) enum WroteOn {
    #[default]
    Nowhere,
    One(Token),
    /// What it drew last may be on another one than it wrote on last.
    Several,
}

impl Session {
    /// A request has been answered that may have drawn from a sequence.
    pub(crate) fn note_writer(&mut self, memory: &mut ServerMemory) {
        if !memory.writer.as_ref().is_some_and(|writer| Arc::ptr_eq(writer, &self.token)) {
            memory.writer = Some(self.token.clone());
        }
        match &self.wrote_on {
            WroteOn::One(server) if Arc::ptr_eq(server, &memory.token) => {}
            WroteOn::Nowhere => self.wrote_on = WroteOn::One(memory.token.clone()),
            WroteOn::One(_) => self.wrote_on = WroteOn::Several,
            WroteOn::Several => {}
        }
    }

    /// The request at this place of the flight comes next: has the server forget what is not known to be the session's own, if it
    /// asks for that.
    pub(crate) fn encode_forgetting(&mut self, at: usize, memory: &mut ServerMemory, out: &mut Vec<u8>) {
        let request = &self.flight[at].request;
        let asks = request.recalls && !request.draws;
        self.lease.drew |= request.draws;
        if !asks
            || self.lease.drew
            || self.pins.contains(&PinReason::SequenceState)
            || self.transaction == (Transaction::Open { failed: true })
            || self.owns_sequences(memory)
        {
            return;
        }
        frontend::put_query(out, "DISCARD SEQUENCES");
        self.owe(Owed::HiddenQuery);
        self.lease.unnamed = false;
        // What it remembers from now on is this session's.
        self.lease.drew = true;
        self.wrote_on = WroteOn::Nowhere;
        self.note_writer(memory);
    }

    /// Whether all that the session has ever drawn was drawn on this server, and nobody has drawn there since.
    fn owns_sequences(&self, memory: &ServerMemory) -> bool {
        memory.writer.as_ref().is_some_and(|writer| Arc::ptr_eq(writer, &self.token))
            && matches!(&self.wrote_on, WroteOn::One(server) if Arc::ptr_eq(server, &memory.token))
    }
}
