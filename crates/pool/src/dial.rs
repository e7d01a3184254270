//! Making a server connection: startup, authentication, up to the first ReadyForQuery.
//!
//! Owns the login. Does not retry: who asked decides what a failure means.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use auth::{AuthError, Cleartext, ServerLogin, Step};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::backend::{self, Report, SqlState, tag};
use wire::frame::{Frame, Header};
use wire::startup::CancelKey;
use wire::{frontend, startup};

use crate::certificate;
use crate::connection::{CancelAddress, Connection, Parameters};
use crate::reach::{is_optional, may_do_in_the_clear, reach_as};
use crate::stream::Stream;
use crate::tls::Tls;
use crate::wallet::Wallet;

/// Whom to connect to, and as whom.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// A host name or an IP address; or the directory of a Unix socket, which begins with `/`.
    pub host: String,
    /// Where a name leads. It is looked up at each connection where that is not said.
    pub whereabouts: Whereabouts,
    /// The TCP port.
    pub port: u16,
    /// The user to log in as.
    pub user: String,
    /// What to log in with.
    pub wallet: Wallet,
    /// The database.
    pub database: String,
    /// The longest that connecting and logging in may take.
    pub timeout: Duration,
    /// How a dead server is noticed on a silent connection; `None` for the operating system's default.
    pub keepalive: Option<Keepalive>,
    /// How the connection is encrypted; `None` for not at all.
    pub tls: Option<Tls>,
}

/// Where a name leads at the moment. Two are the same if they are kept by the same.
#[derive(Clone, Debug, Default)]
pub struct Whereabouts(pub Arc<Mutex<Option<IpAddr>>>);

impl Whereabouts {
    pub(crate) fn address(&self) -> Option<IpAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PartialEq for Whereabouts {
    fn eq(&self, other: &Whereabouts) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Whereabouts {}

/// TCP keepalive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// The silence before the first probe.
    pub idle: Duration,
    /// The time between probes.
    pub interval: Duration,
    /// Unanswered probes after which the peer is dead.
    pub count: u32,
    /// How long what was sent may stay without an acknowledgement before the peer is dead; `None` for the operating system's limit.
    pub user_timeout: Option<Duration>,
}

impl Keepalive {
    /// Sets it on a socket.
    ///
    /// # Errors
    /// When the operating system will not have it.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        let keepalive = TcpKeepalive::new().with_time(self.idle).with_interval(self.interval).with_retries(self.count);
        socket.set_tcp_keepalive(&keepalive)?;
        self.user_timeout.map_or(Ok(()), |timeout| socket.set_tcp_user_timeout(Some(timeout)))
    }
}

/// Why there is no connection.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DialError {
    /// The network said no.
    #[error("{0}")]
    Io(Arc<io::Error>),
    /// It took too long.
    #[error("the server did not answer in time")]
    Timeout,
    /// The server refused, with this SQLSTATE and message.
    #[error("{message}")]
    Refused {
        /// The SQLSTATE, where the server gave one.
        code: Option<SqlState>,
        /// The server's words.
        message: String,
    },
    /// Encryption failed, or the server could not prove who it is.
    #[error("TLS: {0}")]
    Tls(Arc<io::Error>),
    /// Encryption is demanded, and the server has none.
    #[error("the server does not support TLS, which is required")]
    Unencrypted,
    /// The login failed on our side, or the server could not prove who it is.
    #[error("{0}")]
    Auth(Arc<AuthError>),
    /// The server does not speak the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(&'static str),
}

impl From<AuthError> for DialError {
    fn from(error: AuthError) -> DialError {
        DialError::Auth(Arc::new(error))
    }
}

impl DialError {
    /// The SQLSTATE that the server has refused with.
    #[must_use]
    pub fn sqlstate(&self) -> Option<SqlState> {
        match self {
            DialError::Refused { code, .. } => *code,
            _ => None,
        }
    }

    /// Whether another attempt, or another server, may do better: the server is away rather than unwilling.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            DialError::Io(_) | DialError::Timeout => true,
            // 57P0x: shutting down or starting up; 53xxx: out of connections or memory; 08xxx: connection trouble.
            DialError::Refused { code: Some(code), .. } => {
                matches!(&code.0, b"57P01" | b"57P02" | b"57P03" | [b'5', b'3', ..] | [b'0', b'8', ..])
            }
            DialError::Refused { code: None, .. }
            | DialError::Tls(_)
            | DialError::Unencrypted
            | DialError::Auth(_)
            | DialError::Protocol(_) => false,
        }
    }
}

/// Connects and logs in. `worker` becomes the connection's home.
///
/// # Errors
/// [`DialError`], within the target's timeout.
pub async fn dial<M>(target: &Arc<Target>, memory: M, worker: usize) -> Result<Connection<M>, DialError> {
    dial_with(target, &[], memory, worker).await
}

/// The same with more startup parameters than the user and the database.
///
/// # Errors
/// [`DialError`], within the target's timeout.
pub async fn dial_with<M>(
    target: &Arc<Target>,
    more: &[(String, String)],
    memory: M,
    worker: usize,
) -> Result<Connection<M>, DialError> {
    let admitted =
        tokio::time::timeout(target.timeout, connect(target, more)).await.unwrap_or(Err(DialError::Timeout))?;
    let Admitted { stream, parameters, key } = admitted;
    let cancel = key.map(|key| Arc::new(CancelAddress { target: target.clone(), key }));
    let since = Instant::now();
    Ok(Connection {
        stream,
        memory,
        cancel,
        parameters,
        since,
        given_back: None,
        entry: None,
        home: worker,
        luck: rand::random(),
    })
}

/// What a login gives.
struct Admitted {
    stream: Stream,
    parameters: Parameters,
    key: Option<CancelKey>,
}

async fn connect(target: &Target, more: &[(String, String)]) -> Result<Admitted, DialError> {
    let mut encrypted = false;
    let first = async {
        let stream = reach_as(target, true).await?;
        encrypted = stream.is_encrypted();
        log_in(target, more, stream).await
    };
    match first.await {
        Err(error) if is_optional(target) && may_do_in_the_clear(&error, encrypted) => {
            log_in(target, more, reach_as(target, false).await?).await
        }
        admitted => admitted,
    }
}

async fn log_in(target: &Target, more: &[(String, String)], stream: Stream) -> Result<Admitted, DialError> {
    let mut peer = Server { stream, received: Vec::new() };
    let mut packet = Vec::new();
    let who = [("user", target.user.as_str()), ("database", target.database.as_str())];
    let more = more.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    startup::put_session(&mut packet, who.into_iter().chain(more));
    peer.stream.write_all(&packet).await?;
    // The password goes out in clear text only to a server that TLS vouches for.
    let vouched = peer.stream.is_encrypted() && target.tls.as_ref().is_some_and(Tls::verifies);
    let cleartext = if vouched { Cleartext::Allowed } else { Cleartext::Refused };
    let mut login = ServerLogin::new(&target.user, target.wallet.get(), cleartext, rand::random());
    // Whoever stands between us and the server has another certificate.
    if let Some(end_point) = peer.stream.certificate().and_then(certificate::end_point) {
        login = login.bound_to(end_point);
    }
    let mut login = Some(login);
    let (mut parameters, mut key, mut admitted, mut ready) = (Parameters::new(), None, false, false);
    // What a server says of itself may come behind ReadyForQuery at once ("Asynchronous Operations", protocol-flow): that it is ended, too.
    while !ready || !peer.received.is_empty() {
        let message = peer.receive().await?;
        let frame = Frame { tag: message[0], whole: &message };
        match frame.tag {
            tag::AUTHENTICATION if !admitted => {
                let step = answer(&mut login, frame.body()).await?;
                match step {
                    Step::Send(payload) => {
                        let mut reply = Vec::new();
                        frontend::put_password_message(&mut reply, &payload);
                        peer.stream.write_all(&reply).await?;
                    }
                    Step::Wait => {}
                    Step::Done => admitted = true,
                }
            }
            tag::ERROR_RESPONSE => {
                let report = Report::new(frame.body());
                return Err(DialError::Refused { code: report.sqlstate(), message: report.message() });
            }
            tag::NOTICE_RESPONSE => {}
            tag::PARAMETER_STATUS if admitted => {
                let (name, value) = backend::parameter_status(frame.body())
                    .ok_or(DialError::Protocol("a malformed ParameterStatus"))?;
                if parameters.len() == PARAMETERS_MAX {
                    return Err(DialError::Protocol("too many parameters"));
                }
                parameters.push((name.into(), value.into()));
            }
            tag::BACKEND_KEY_DATA if admitted && !ready => key = backend::backend_key_data(frame.body()),
            tag::READY_FOR_QUERY if admitted && !ready => ready = true,
            _ => return Err(DialError::Protocol("an unexpected message during login")),
        }
    }
    Ok(Admitted { stream: peer.stream, parameters, key })
}

/// Answers an authentication request away from the event loop: SCRAM's key derivation takes milliseconds of computing, during
/// which every other client of the worker would wait.
async fn answer(login: &mut Option<ServerLogin>, payload: &[u8]) -> Result<Step, DialError> {
    let mut taken = login.take().ok_or(DialError::Protocol("authentication after its failure"))?;
    let payload = payload.to_vec();
    let (taken, step) = tokio::task::spawn_blocking(move || {
        let step = taken.on_message(&payload);
        (taken, step)
    })
    .await
    .map_err(|_| DialError::Protocol("the login was abandoned"))?;
    *login = Some(taken);
    Ok(step?)
}

/// A server that is logging us in.
struct Server {
    stream: Stream,
    received: Vec<u8>,
}

impl Server {
    /// The next message, whole.
    async fn receive(&mut self) -> Result<Vec<u8>, DialError> {
        loop {
            if let Some(header) =
                Header::peek(&self.received).map_err(|_| DialError::Protocol("an impossible length"))?
            {
                // No allocation on a stranger's word: a login has no message near this size.
                if header.length > LOGIN_MESSAGE_MAX {
                    return Err(DialError::Protocol("a message too large for a login"));
                }
                if self.received.len() >= header.length {
                    return Ok(self.received.drain(..header.length).collect());
                }
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
        }
    }
}

/// Bytes of a message during login. PostgreSQL's own limit for those that are not errors is 2,000 (`PQ_SMALL_MESSAGE_LIMIT` is
/// 10,000); errors and notices can be longer.
const LOGIN_MESSAGE_MAX: usize = 64 * 1024;

/// Parameters that a server may report; PostgreSQL 18 reports fifteen, extensions may add theirs.
pub(crate) const PARAMETERS_MAX: usize = 256;
