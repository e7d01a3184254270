//! What a client has yet to be told of notifications, bounded.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::task::{Context, Poll, Waker};

use super::lock;

/// What a client has yet to be told.
#[derive(Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
}

#[derive(Default)]
struct Mail {
    bytes: Vec<u8>,
    /// What came since the last fence for channels whose LISTEN may have been committed meanwhile: a channel and a message.
    unsettled: Vec<(String, Vec<u8>)>,
    unsettled_bytes: usize,
    overflowed: bool,
    waker: Option<Waker>,
}

/// The client does not read what it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overflowed;

impl Mailbox {
    /// A message for the client, as it came.
    pub(super) fn put(&self, message: &[u8]) {
        let mut mail = lock(&self.mail);
        if mail.bytes.len() + message.len() > MAIL_BYTES_MAX {
            mail.overflowed = true;
        } else {
            mail.bytes.extend_from_slice(message);
        }
        if let Some(waker) = mail.waker.take() {
            waker.wake();
        }
    }

    /// Keeps what may turn out to be the client's.
    pub(super) fn put_unsettled(&self, channel: &str, message: &[u8]) {
        let mut mail = lock(&self.mail);
        mail.unsettled_bytes += message.len();
        if mail.unsettled_bytes <= MAIL_BYTES_MAX {
            mail.unsettled.push((channel.to_owned(), message.to_vec()));
        }
    }

    /// The client's LISTEN has not been committed: what came up to now is not the client's.
    pub(super) fn fence(&self) {
        let mut mail = lock(&self.mail);
        mail.unsettled = Vec::new();
        mail.unsettled_bytes = 0;
    }

    /// The client listens on these channels since the last fence, or longer: what has come for them is the client's. How many messages
    /// that were.
    pub(super) fn settle(&self, channels: &BTreeSet<String>) -> u64 {
        let unsettled = {
            let mut mail = lock(&self.mail);
            mail.overflowed |= !channels.is_empty() && mail.unsettled_bytes > MAIL_BYTES_MAX;
            mail.unsettled_bytes = 0;
            std::mem::take(&mut mail.unsettled)
        };
        let heard = unsettled.iter().filter(|(channel, _)| channels.contains(channel));
        heard.map(|(_, message)| self.put(message)).count() as u64
    }

    /// Whether there is something to be told; else the task is woken when there is.
    pub(crate) fn poll_mail(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut mail = lock(&self.mail);
        if !mail.bytes.is_empty() || mail.overflowed {
            return Poll::Ready(());
        }
        mail.waker = Some(context.waker().clone());
        Poll::Pending
    }

    /// Moves what there is to be told to the end of `out`.
    pub(crate) fn take(&self, out: &mut Vec<u8>) -> Result<(), Overflowed> {
        let mut mail = lock(&self.mail);
        if mail.overflowed {
            return Err(Overflowed);
        }
        out.append(&mut mail.bytes);
        // An idle client costs about nothing.
        mail.bytes = Vec::new();
        Ok(())
    }

    /// Ready when the client has not read for too long.
    pub(crate) fn poll_overflow(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut mail = lock(&self.mail);
        if mail.overflowed {
            return Poll::Ready(());
        }
        mail.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

/// Bytes of notifications that wait for a client. One that lets more pile up is disconnected.
const MAIL_BYTES_MAX: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_is_bounded() {
        let mailbox = Mailbox::default();
        mailbox.put(&vec![0; MAIL_BYTES_MAX]);
        assert!(!lock(&mailbox.mail).overflowed);
        mailbox.put(&[0]);
        let mail = lock(&mailbox.mail);
        assert!(mail.overflowed && mail.bytes.len() == MAIL_BYTES_MAX);
    }

    #[test]
    fn what_may_be_the_clients_is_bounded() {
        let mailbox = Mailbox::default();
        mailbox.put_unsettled("a", &vec![0; MAIL_BYTES_MAX]);
        assert_eq!(mailbox.settle(&BTreeSet::from(["a".to_owned()])), 1);
        assert!(!lock(&mailbox.mail).overflowed);
        (0..2).for_each(|_| mailbox.put_unsettled("a", &vec![0; MAIL_BYTES_MAX]));
        assert_eq!(lock(&mailbox.mail).unsettled.len(), 1);
        mailbox.fence();
        assert_eq!(mailbox.settle(&BTreeSet::from(["a".to_owned()])), 0);
        assert!(!lock(&mailbox.mail).overflowed, "it was not the client's");
        (0..2).for_each(|_| mailbox.put_unsettled("a", &vec![0; MAIL_BYTES_MAX]));
        assert_eq!(mailbox.settle(&BTreeSet::new()), 0);
        assert!(!lock(&mailbox.mail).overflowed, "nor does it listen");
        (0..2).for_each(|_| mailbox.put_unsettled("a", &vec![0; MAIL_BYTES_MAX]));
        mailbox.settle(&BTreeSet::from(["a".to_owned()]));
        assert!(lock(&mailbox.mail).overflowed);
    }
}
