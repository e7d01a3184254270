//! One logged-in server connection.
//!
//! Owns the socket and what the server said at login. Does not know who is using it.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tokio::io::{AsyncRead, ReadBuf};
use wire::backend::{self, tag};
use wire::frame::Frames;
use wire::startup::CancelKey;

use crate::dial::{PARAMETERS_MAX, Target};
use crate::roster::{Entry, Listed};
use crate::stream::Stream;

/// A server's ParameterStatus messages: names and values, in the order in which they came.
pub type Parameters = Vec<(Box<[u8]>, Box<[u8]>)>;

/// A server connection that has logged in.
#[derive(Debug)]
pub struct Connection<M> {
    /// What others see of it; set by the pool that it enters. Dropped before the socket is.
    pub(crate) entry: Option<Listed>,
    /// The socket, registered with the event loop of the connection's home.
    pub stream: Stream,
    /// What the connection remembers of the sessions that used it.
    pub memory: M,
    /// How what runs on it is cancelled, if the server told.
    pub cancel: Option<Arc<CancelAddress>>,
    /// What the server has reported, at login or while nobody was listening, and nobody has taken note of.
    pub parameters: Parameters,
    /// When it was made.
    pub since: Instant,
    /// When it was last given back; `None` while nobody has used it.
    pub given_back: Option<Instant>,
    /// The worker whose event loop it is registered with.
    pub(crate) home: usize,
    /// By chance: where in the last tenth of its lifetime it ends.
    pub(crate) luck: u8,
}

/// Where a CancelRequest for a connection goes, and the key that it names. The connection's own, so that whoever keeps it for the time of a
/// loan counts nothing that other connections' borrowers count, too: two cores that do so wait for each other.
pub struct CancelAddress {
    /// The server.
    pub target: Arc<Target>,
    /// The connection's key.
    pub key: CancelKey,
}

impl fmt::Debug for CancelAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CancelAddress").field("host", &self.target.host).finish_non_exhaustive()
    }
}

impl<M> Connection<M> {
    /// What others see of it.
    pub fn entry(&self) -> Option<&Arc<Entry>> {
        self.entry.as_ref().map(|listed| &listed.0)
    }

    /// Whether nothing says that the connection is dead. Costs no system call while nothing has arrived: the event loop has
    /// noticed what has.
    pub(crate) fn is_alive(&mut self) -> bool {
        if self.stream.is_silent() {
            return true;
        }
        let mut context = Context::from_waker(Waker::noop());
        match self.stream.poll_read_ready(&mut context) {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => false,
            Poll::Ready(Ok(())) => self.take_unasked(&mut context),
        }
    }

    /// Reads what an idle server has sent: a notice or a changed parameter is no harm; its farewell, or the end, is.
    fn take_unasked(&mut self, context: &mut Context<'_>) -> bool {
        let mut buffer = [0; UNASKED_MAX];
        let mut room = ReadBuf::new(&mut buffer);
        let read = Pin::new(&mut self.stream).poll_read(context, &mut room);
        let length = room.filled().len();
        match read {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => false,
            Poll::Ready(Ok(())) if length == 0 => false,
            Poll::Ready(Ok(())) => {
                let mut frames = Frames::new(&buffer[..length]);
                let harmless = frames.all(|frame| {
                    matches!(frame.tag, tag::NOTICE_RESPONSE | tag::PARAMETER_STATUS | tag::NOTIFICATION_RESPONSE)
                });
                let reported = Frames::new(&buffer[..length]).filter(|frame| frame.tag == tag::PARAMETER_STATUS);
                let reported = reported.filter_map(|frame| backend::parameter_status(frame.body()));
                self.parameters.extend(reported.map(|(name, value)| (name.into(), value.into())));
                // A message cut off by the buffer's end cannot be put back: such a connection is not worth keeping.
                harmless
                    && self.parameters.len() <= PARAMETERS_MAX
                    && length < UNASKED_MAX
                    && Frames::new(&buffer[..length]).map(|f| f.whole.len()).sum::<usize>() == length
            }
        }
    }

    /// Registers the connection with the event loop of the current worker.
    pub(crate) fn move_to(mut self, worker: usize) -> io::Result<Connection<M>> {
        self.stream = self.stream.move_here()?;
        self.home = worker;
        Ok(self)
    }
}

/// Bytes that an idle server may send at a time.
const UNASKED_MAX: usize = 4096;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};
    use wire::backend::{Failure, put_parameter_status};

    use super::*;

    #[tokio::test]
    async fn what_an_idle_server_reports_is_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        let mut idle = Connection {
            entry: None,
            stream: stream.into(),
            memory: (),
            cancel: None,
            parameters: Parameters::new(),
            since: Instant::now(),
            given_back: None,
            home: 0,
            luck: 0,
        };
        let mut said = Vec::new();
        put_parameter_status(&mut said, b"TimeZone", b"UTC");
        for times in 1..=PARAMETERS_MAX {
            server.write_all(&said).await.unwrap();
            poll_fn(|context| idle.stream.poll_read_ready(context)).await.unwrap();
            assert!(idle.is_alive());
            assert_eq!(idle.parameters.len(), times);
        }
        assert_eq!(idle.parameters[0], (b"TimeZone"[..].into(), b"UTC"[..].into()));
        // Nobody keeps what never ends.
        server.write_all(&said).await.unwrap();
        poll_fn(|context| idle.stream.poll_read_ready(context)).await.unwrap();
        assert!(!idle.is_alive());
        idle.parameters.clear();
        said.clear();
        Failure::fatal("57P01", "going").put(&mut said);
        server.write_all(&said).await.unwrap();
        poll_fn(|context| idle.stream.poll_read_ready(context)).await.unwrap();
        assert!(!idle.is_alive());
    }
}
