//! [`Passage`]: a client on its way from one worker to another, between two requests.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use classifier::Classifier;
use pool::Stream;
use session::Session;
use topology::{NodeId, Trail};

use super::{Client, Guest};
use crate::books::Books;
use crate::cancel::Registered;
use crate::crew::Crossing;
use crate::pins::Pins;
use crate::service::Tenant;
use crate::worker::{Belongings, Worker};

/// All that a client has that is no worker's.
pub(crate) struct Passage {
    stream: Stream,
    tenant: Arc<Tenant>,
    classifier: Arc<Classifier>,
    books: Books,
    last_write: Option<Instant>,
    trail: Option<Trail>,
    application_name: Arc<str>,
    node: Option<NodeId>,
    definitions: u64,
    session: Box<Session>,
    cancel: Registered,
    belongings: Belongings,
    /// Until it has arrived.
    crossing: Crossing,
}

impl Client {
    /// Leave to go to another worker, if it is to go there and has nothing to do and nothing of this one's.
    pub(super) fn sent_away(&self, session: &Session) -> Option<Crossing> {
        let to = self.worker.sends_away(&self.slot)?;
        let is_free = self.inbox.is_empty()
            && self.skip == 0
            && self.unsent.is_empty()
            && !self.stream.needs_flush()
            && self.ears.is_none()
            && self.pins == Pins::default()
            && session.is_bare()
            && session.hears();
        if is_free { self.worker.service.crew.cross(to) } else { None }
    }
}

impl Guest {
    /// Leaves this worker for another.
    pub(super) fn go_elsewhere(self, crossing: Crossing) {
        let Guest { client, session, cancel, presence } = self;
        let Client { mut stream, mut inbox, tenant, classifier, worker, books, .. } = client;
        worker.spares.give_inbox(&mut inbox);
        // What waits to be sent is this thread's.
        stream.settle();
        worker.service.crew.send_over(Box::new(Passage {
            stream,
            tenant,
            classifier,
            books,
            last_write: client.last_write,
            trail: client.trail,
            application_name: client.application_name,
            node: client.node,
            definitions: client.definitions,
            session,
            cancel,
            belongings: presence.depart(),
            crossing,
        }));
    }
}

impl Passage {
    /// The worker that it goes to.
    pub(crate) fn to(&self) -> usize {
        self.crossing.to
    }

    /// Goes on at this worker, on whose thread this is called.
    ///
    /// # Errors
    /// When the operating system refuses; the client is gone then.
    pub(crate) fn arrive(self, worker: &Rc<Worker>) -> io::Result<Box<Guest>> {
        let stream = self.stream.move_here()?;
        let presence = worker.enter_with(self.belongings);
        let client = Client {
            classifier: self.classifier,
            books: self.books,
            last_write: self.last_write,
            trail: self.trail,
            node: self.node,
            definitions: self.definitions,
            ..Client::new(stream, self.tenant, self.application_name, worker.clone(), presence.slot.clone())
        };
        Ok(Box::new(Guest { client, session: self.session, cancel: self.cancel, presence }))
    }
}
