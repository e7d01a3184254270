//! A client that waits for a server: it may vanish, run out of time, and is told when it takes long.
//!
//! Owns what happens to the client meanwhile. What is waited for is the caller's.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use pool::Stream;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use wire::backend;

use crate::buffers::Inbox;
use crate::deadline::Alarm;
use crate::outcome::Gone;
use crate::worker::{Slot, Worker};

/// What of a client is looked at while it waits.
pub(crate) struct Presence<'a> {
    pub(crate) stream: &'a mut Stream,
    pub(crate) inbox: &'a mut Inbox,
    pub(crate) slot: &'a Rc<Slot>,
    pub(crate) worker: &'a Rc<Worker>,
}

impl Presence<'_> {
    /// Waits for `work`, for as long as the client is there and has time. `now` is the present moment.
    pub(crate) async fn during<T>(self, now: Instant, work: impl Future<Output = T>) -> Result<T, Gone> {
        let mut work = pin!(work);
        // Mostly there is no wait, and then no timer and no look at the client's socket either.
        match poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            Poll::Ready(done) => Ok(done),
            Poll::Pending => self.beside(now, work).await,
        }
    }

    /// The same of work that has been polled once.
    async fn beside<T>(mut self, now: Instant, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Gone> {
        let patience = self.worker.service.config().pool.query_wait_notify;
        self.worker.set_notice(self.slot, patience.map(|patience| now + patience));
        let _silence = Silence(&self.slot.notice);
        let (mut polled, mut rest) = (true, Vec::new());
        let done = loop {
            let slot = self.slot;
            let mut poll = |context: &mut Context<'_>| {
                if !std::mem::take(&mut polled)
                    && let Poll::Ready(done) = work.as_mut().poll(context)
                {
                    return Poll::Ready(Ok(Event::Done(done)));
                }
                if let Some(overdue) = slot.overdue(context) {
                    return Poll::Ready(Err(Gone::Overdue(overdue)));
                }
                if slot.is_to_be_told() { Poll::Ready(Ok(Event::Notice)) } else { Poll::Pending }
            };
            let event = if self.inbox.is_full() {
                // What a client has said so far ahead is taken when its turn has come; that it has gone shows all the same.
                let mut closed = pin!(self.stream.closed());
                poll_fn(|context| match poll(context) {
                    Poll::Pending => closed.as_mut().poll(context).map(|()| Err(Gone::Vanished)),
                    event => event,
                })
                .await?
            } else {
                poll_fn(|context| match poll(context) {
                    Poll::Pending => self.poll_full(context),
                    event => event,
                })
                .await?
            };
            match event {
                Event::Done(done) => break done,
                Event::Notice => {
                    slot.notice.clear();
                    let told = poll_fn(|context| Poll::Ready(self.tell(context))).await;
                    rest = told.map_err(|_| Gone::Vanished)?;
                }
                Event::Full => {}
            }
        };
        if !rest.is_empty() {
            self.stream.write_all(&rest).await.map_err(|_| Gone::Vanished)?;
        }
        Ok(done)
    }

    /// Takes what the client says meanwhile; ready when there is no more room, or when it has gone.
    fn poll_full<T>(&mut self, context: &mut Context<'_>) -> Poll<Result<Event<T>, Gone>> {
        loop {
            if self.inbox.is_bare() {
                match self.stream.poll_read_ready(context) {
                    Poll::Ready(Ok(())) => *self.inbox = self.worker.spares.inbox(),
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Gone::Vanished)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            if self.inbox.is_full() {
                return Poll::Ready(Ok(Event::Full));
            }
            match self.inbox.poll_fill(self.stream, context) {
                Poll::Ready(Ok(length)) if length > 0 => {}
                Poll::Ready(_) => return Poll::Ready(Err(Gone::Vanished)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Tells the client that it waits, unless it does not read; what could not be written of that.
    fn tell(&mut self, context: &mut Context<'_>) -> std::io::Result<Vec<u8>> {
        let mut notice = Vec::new();
        backend::put_notice(&mut notice, "00000", QUEUED);
        match Pin::new(&mut *self.stream).poll_write(context, &notice) {
            Poll::Ready(written) => drop(notice.drain(..written?)),
            Poll::Pending => notice.clear(),
        }
        Ok(notice)
    }
}

/// What happens to a client that waits.
enum Event<T> {
    /// What it has waited for.
    Done(T),
    /// It is to be told that it waits.
    Notice,
    /// It has said more than there is room for.
    Full,
}

/// Whoever does not wait any more is not told that it does.
struct Silence<'a>(&'a Alarm<()>);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// PgBouncer's words.
const QUEUED: &str = "No server connection available in postgres backend, client being queued";
