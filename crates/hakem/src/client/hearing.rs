//! What a client hears, and what it says before it does.

use session::Session;
use wire::backend::Failure;

use super::Client;
use crate::listen::Ears;
use crate::outcome::Gone;

impl Client {
    /// Takes what the client is to be told of notifications.
    pub(super) fn hear(&mut self) -> Result<(), Gone> {
        match &self.ears {
            Some(ears) => ears.mailbox.take(&mut self.unsent).map_err(|_| Gone::Overflowed),
            None => Ok(()),
        }
    }

    /// Sees to it that these channels are listened on before a LISTEN is answered.
    pub(crate) fn prepare_to_listen(
        &mut self,
        channels: &[String],
    ) -> impl Future<Output = Result<(), Failure>> + use<> {
        let ears = self.ears.get_or_insert_with(|| Box::new(Ears::new(self.id, self.tenant.clone())));
        ears.prepare(channels, &self.worker.service.control)
    }

    /// What is sent to a server next listens on something, or may commit a LISTEN.
    pub(crate) fn may_begin_to_listen(&self, session: &Session) -> bool {
        !session.channels_wanted().is_empty() || self.ears.as_ref().is_some_and(|ears| ears.are_unsettled())
    }
}
