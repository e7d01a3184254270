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
    pub(crate) slot: &'a Slot,
    pub(crate) worker: &'a Rc<Worker>,
}

impl Presence<'_> {
    /// Waits for `work`, for as long as the client is there and has time.
    pub(crate) async fn during<T>(mut self, work: impl Future<Output = T>) -> Result<T, Gone> {
        let mut work = pin!(work);
        // Mostly there is no wait, and then no timer and no look at the client's socket either.
        if let Poll::Ready(done) = poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await {
            return Ok(done);
        }
        let patience = self.worker.service.config().pool.query_wait_notify;
        let notice = patience.map(|patience| (Instant::now() + patience, ()));
        self.worker.set_alarm(&self.slot.notice, notice);
        let _silence = Silence(&self.slot.notice);
        let (mut polled, mut rest) = (true, Vec::new());
        let done = poll_fn(|context| {
            if !std::mem::take(&mut polled)
                && let Poll::Ready(done) = work.as_mut().poll(context)
            {
                return Poll::Ready(Ok(done));
            }
            if let Some(overdue) = self.slot.alarm.poll(context) {
                return Poll::Ready(Err(Gone::Overdue(overdue)));
            }
            if self.slot.notice.poll(context).is_some() {
                self.slot.notice.clear();
                match self.tell(context) {
                    Ok(unwritten) => rest = unwritten,
                    Err(_) => return Poll::Ready(Err(Gone::Vanished)),
                }
            }
            self.poll_gone(context).map(Err)
        })
        .await?;
        if !rest.is_empty() {
            self.stream.write_all(&rest).await.map_err(|_| Gone::Vanished)?;
        }
        Ok(done)
    }

    /// Takes what the client says meanwhile, as far as there is room; ready when it has gone.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<Gone> {
        loop {
            if self.inbox.is_bare() {
                match self.stream.poll_read_ready(context) {
                    Poll::Ready(Ok(())) => *self.inbox = self.worker.spares.inbox(),
                    Poll::Ready(Err(_)) => return Poll::Ready(Gone::Vanished),
                    Poll::Pending => return Poll::Pending,
                }
            }
            // A client that has said so much ahead is looked at again when its turn has come.
            if self.inbox.is_full() {
                return Poll::Pending;
            }
            match self.inbox.poll_fill(self.stream, context) {
                Poll::Ready(Ok(length)) if length > 0 => {}
                Poll::Ready(_) => return Poll::Ready(Gone::Vanished),
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

/// Whoever does not wait any more is not told that it does.
struct Silence<'a>(&'a Alarm<()>);

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        self.0.clear();
    }
}

/// PgBouncer's words.
const QUEUED: &str = "No server connection available in postgres backend, client being queued";
