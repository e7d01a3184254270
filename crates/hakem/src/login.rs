//! A client's first seconds: startup packet, authentication, and what it is told of the server.
//!
//! Owns everything before the first ReadyForQuery, but for the proof of who the client is (`authentication`). All of it is cold, and all of it is bounded: by the login timeout, and by the
//! length of what a stranger may send.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use config::ResolveError;
use pool::{Lease, Parameters, Peer, Stream};
use session::{Need, Reported, ServerMemory, Session, Settings};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::backend::{self, Failure, Report, Status, tag};
use wire::frame::Frames;
use wire::startup::{CancelKey, SessionStartup, Startup};
use wire::version::Version;

use crate::ask::ask_lent;
use crate::asked::{Asked, Replication};
use crate::authentication::{Claim, authenticate, hold_back};
use crate::buffers::Inbox;
use crate::cancel::Registered;
use crate::console;
use crate::deadline::Overdue;
use crate::lobby::{Seat, Served};
use crate::replication::Tunnel;
use crate::route::{self, Missed, Wanted};
use crate::service::Tenant;
use crate::tls::{Encryption, HANDSHAKE, How, Security, secure};
use crate::worker::{Presence, Worker};

/// Somebody at the door.
pub(crate) struct Caller {
    pub(crate) seat: Seat,
    /// Where the connection comes from, where that is known.
    pub(crate) address: Option<SocketAddr>,
    /// What it has said by now.
    pub(crate) said: Vec<u8>,
}

/// A client that has been let in.
pub(crate) struct Welcome {
    pub(crate) stream: Stream,
    pub(crate) peer: Peer,
    pub(crate) inbox: Inbox,
    pub(crate) tenant: Arc<Tenant>,
    pub(crate) session: Box<Session>,
    pub(crate) cancel: Registered,
    pub(crate) application_name: Arc<str>,
}

/// What a connection becomes.
pub(crate) enum Entrance {
    /// A session.
    Session(Welcome),
    /// A connection to the primary; what the client has sent for it already goes along.
    Replication(Box<Tunnel>, Stream, Vec<u8>),
    /// The console.
    Console(Box<console::Visitor>),
}

/// The same, before the client's socket is handed over.
enum Admitted {
    /// The name is the application's, as a server reports it.
    Session(Arc<Tenant>, Box<Session>, Registered, Arc<str>),
    Replication(Box<Tunnel>),
    Console(console::Role, Registered),
}

/// Why a connection does not become a session.
pub(crate) enum Refusal {
    /// It was a cancel request, or the client has gone: nothing to say.
    Silent,
    /// The client is told.
    Told(Failure),
    /// It could not prove who it is: it is told, and not at once.
    Denied(Failure),
    /// It took too long: it is told.
    Late(Overdue),
}

impl From<std::io::Error> for Refusal {
    fn from(_: std::io::Error) -> Refusal {
        Refusal::Silent
    }
}

/// Takes a connection up to its first ReadyForQuery; `None` when it does not get there.
pub(crate) async fn log_in(
    stream: Stream,
    caller: Caller,
    worker: &Rc<Worker>,
    presence: &Presence,
) -> Option<Entrance> {
    let timeout = worker.service.config().proxy.client_login_timeout;
    let Caller { seat, address, said } = caller;
    let peer = address.map_or_else(|| stream.peer(), Peer::Tcp);
    if peer == Peer::Gone {
        return None;
    }
    let (id, call) = (presence.slot.id, seat.call());
    worker.time_login(&presence.slot, Instant::now() + timeout);
    let mut guest = Guest {
        stream,
        received: said,
        unsent: Vec::with_capacity(UNSENT_BYTES),
        peer,
        security: Security::default(),
        seat: Some(seat),
    };
    // On the heap: a client spends its life beside this future's memory otherwise.
    let admission = Box::pin(admit(&mut guest, worker, presence));
    let mut shown_out = false;
    let outcome = tokio::select! {
        biased;
        outcome = admission => outcome,
        overdue = poll_fn(|context| presence.slot.overdue(context).map_or(Poll::Pending, Poll::Ready)) => Err(Refusal::Late(overdue)),
        () = call.notified() => {
            shown_out = true;
            Err(too_many("too many connections are logging in (logins_max)"))
        }
    };
    presence.slot.alarm.clear();
    let failure = match outcome {
        Ok(admitted) => {
            worker.counters.login(true);
            let Guest { stream, peer, received, .. } = guest;
            // A client may send its first request without waiting to be let in.
            return Some(match admitted {
                Admitted::Replication(tunnel) => Entrance::Replication(tunnel, stream, received),
                Admitted::Console(role, cancel) => {
                    Entrance::Console(Box::new(console::Visitor { stream, received, role, cancel }))
                }
                Admitted::Session(tenant, session, cancel, application_name) => {
                    let inbox = Inbox::of(received);
                    Entrance::Session(Welcome { stream, peer, inbox, tenant, session, cancel, application_name })
                }
            });
        }
        Err(Refusal::Silent) => return None,
        Err(Refusal::Told(failure)) => {
            // A crowd is not to fill the log, too: it is counted.
            if !shown_out {
                tracing::info!(client = id, %peer, code = failure.code, message = %failure.message, "login refused");
            }
            failure
        }
        Err(Refusal::Denied(failure)) => {
            let held = worker.service.debts.failed(guest.address(), &worker.service.config().auth, Instant::now());
            // Not longer than there is room for those who wait to be told.
            let waited = tokio::select! {
                waited = hold_back(&mut guest, held.until) => waited,
                () = call.notified() => false,
            };
            if waited {
                held.paid();
            }
            failure
        }
        Err(Refusal::Late(overdue)) => {
            worker.counters.overdue(overdue);
            tracing::info!(client = id, %peer, "login took too long");
            overdue.failure()
        }
    };
    worker.counters.login(false);
    failure.put(&mut guest.unsent);
    // Whoever is shown out gets what its socket takes at once.
    let timeout = if shown_out { Duration::ZERO } else { timeout };
    let leave = async {
        guest.flush().await?;
        guest.stream.shutdown().await
    };
    tokio::select! {
        biased;
        _ = tokio::time::timeout(timeout, leave) => {}
        () = call.notified() => {}
    }
    None
}

async fn admit(guest: &mut Guest, worker: &Rc<Worker>, presence: &Presence) -> Result<Admitted, Refusal> {
    let id = presence.slot.id;
    let packet = guest.startup(worker).await?;
    let Ok(Some((Startup::Session(startup), _))) = Startup::take(&packet, packet.len()) else {
        return Err(Refusal::Silent);
    };
    let version = guest.negotiate(&startup)?;
    let asked = Asked::read(&startup).map_err(Refusal::Told)?;
    let Asked { user, database, replication, settings, .. } = &asked;
    if console::is_console(database) && console::is_owner(user, &guest.peer) {
        guest.seat = None;
        guest.stand(presence, (console::NAME.to_owned(), user.clone()), named(settings));
        return admit_owner(guest, worker, version).await;
    }
    let is_physical = matches!(replication, Some(Replication::Physical));
    let claim = Claim { user, database, replication: is_physical };
    let credential = authenticate(guest, worker, &claim).await?;
    let encrypted = guest.security.tls.is_some();
    tracing::debug!(client = id, %user, %database, encrypted, "authenticated");
    // Whoever has to see to a full house must get in.
    let administers = console::is_console(database) && replication.is_none();
    if !presence.count() && !administers {
        return Err(too_many("no more connections allowed (max_client_conn)"));
    }
    guest.seat = None;
    if administers {
        let admitted = admit_to_console(guest, worker, user, version).await?;
        guest.stand(presence, (console::NAME.to_owned(), user.clone()), named(settings));
        return Ok(admitted);
    }
    if worker.service.gates.of(database).is_disabled() {
        return Err(Refusal::Told(Failure::fatal("57P03", format!("database \"{database}\" is disabled"))));
    }
    let resolved = match replication {
        Some(Replication::Physical) => worker.service.any_tenant(database, user),
        Some(Replication::Logical) | None => worker.service.tenant(database, user),
    };
    let tenant = resolved.map_err(|error| Refusal::Told(unresolved(error, database, user)))?;
    worker.service.learn(&tenant, &credential);
    let membership = worker.service.census.admit(&tenant.key, &tenant.resolved).map_err(Refusal::Told)?;
    presence.keep(membership);
    let outcome = enter(guest, worker, presence, tenant, &asked, version).await;
    if let Err(Refusal::Told(Failure { code: "3D000", .. })) = outcome {
        presence.leave();
        worker.service.forget_missing(database);
    }
    outcome
}

/// Lets a client whom we know into a database.
async fn enter(
    guest: &mut Guest,
    worker: &Worker,
    presence: &Presence,
    mut tenant: Arc<Tenant>,
    asked: &Asked,
    version: Version,
) -> Result<Admitted, Refusal> {
    let Asked { user, database, replication, settings, hakem } = asked;
    let cancel = worker.service.cancels.register(version, worker.service.config().proxy.peer_id);
    if let &Some(kind) = replication {
        guest.stand(presence, (database.clone(), user.clone()), "");
        presence.slot.standing.replicate(kind);
        let opening = Tunnel::open(tenant, &worker.service.tunnels, kind, settings, cancel, worker.id);
        let tunnel = opening.await.map_err(Refusal::Told)?;
        guest.welcome(pairs(&tunnel.server.parameters), tunnel.key()).await?;
        return Ok(Admitted::Replication(Box::new(tunnel)));
    }
    let mut session = Box::new(Session::new(
        tenant.policy_of(named(settings)),
        Settings::new(settings.iter().map(|(n, v)| (n.as_str(), v.as_str()))),
    ));
    for (name, value) in hakem {
        session
            .configure(name, value)
            .map_err(|failure| Refusal::Told(Failure { severity: backend::Severity::Fatal, ..failure }))?;
    }
    let reported = loop {
        match greet(&tenant, worker.id, &session).await {
            Ok(reported) => break reported,
            Err(Missed::Refused(failure)) => return Err(Refusal::Told(failure)),
            Err(Missed::Superseded) => {
                let next = worker.service.successor(&tenant);
                session.adopt(next.policy_of(named(settings)));
                tenant = next;
            }
        }
    };
    guest.welcome(reported.iter(), &cancel.key).await?;
    let named = reported.get(b"application_name");
    let application_name = named.map_or_else(Arc::default, |value| String::from_utf8_lossy(value).into());
    session.greet(reported);
    Ok(Admitted::Session(tenant, session, cancel, application_name))
}

/// The name that an application gives itself.
fn named(settings: &[(String, String)]) -> &str {
    settings.iter().find(|(name, _)| name == "application_name").map_or("", |(_, value)| value)
}

/// Lets in who runs the program: the operating system says so, and that is enough.
async fn admit_owner(guest: &mut Guest, worker: &Worker, version: Version) -> Result<Admitted, Refusal> {
    let cancel = worker.service.cancels.register(version, worker.service.config().proxy.peer_id);
    backend::put_authentication_ok(&mut guest.unsent);
    guest.welcome(pairs(&console::parameters()), &cancel.key).await?;
    Ok(Admitted::Console(console::Role::Admin, cancel))
}

/// Lets an administrator in, whom the console alone concerns: no server takes part.
async fn admit_to_console(
    guest: &mut Guest,
    worker: &Worker,
    user: &str,
    version: Version,
) -> Result<Admitted, Refusal> {
    let config = worker.service.config();
    let role = console::role(&config, user);
    let role = role.ok_or_else(|| Refusal::Told(Failure::fatal("28000", "not allowed")))?;
    let cancel = worker.service.cancels.register(version, config.proxy.peer_id);
    guest.welcome(pairs(&console::parameters()), &cancel.key).await?;
    Ok(Admitted::Console(role, cancel))
}

/// What the packet is that a connection begins with.
enum Request {
    Encryption { granted: bool },
    Cancel(CancelKey),
    Session,
}

/// A connection that is not a client yet.
pub(crate) struct Guest {
    pub(crate) stream: Stream,
    /// What it has sent and nobody has taken.
    pub(crate) received: Vec<u8>,
    /// What it is told as soon as it is its turn: one message by itself would cost it, and us, as much as all of them.
    pub(crate) unsent: Vec<u8>,
    /// Who it is, as far as the operating system knows.
    pub(crate) peer: Peer,
    /// What is known of its encryption.
    pub(crate) security: Security,
    /// Its place among those who have not logged in.
    seat: Option<Seat>,
}

impl Guest {
    /// The packet that begins a session, after any number of requests for encryption have been answered.
    async fn startup(&mut self, worker: &Worker) -> Result<Vec<u8>, Refusal> {
        let encryption = &worker.service.encryption;
        let packet_max = worker.service.config().proxy.max_startup_packet_size;
        // A handshake right away: no startup packet is as long as its first bytes would say.
        if self.first_byte(encryption).await? == Some(HANDSHAKE) {
            secure(self, encryption, How::Directly).await?;
        }
        for _ in 0..REQUESTS_MAX {
            let (request, length) = loop {
                match Startup::take(&self.received, packet_max) {
                    Ok(Some((Startup::SslRequest, _))) if self.stream.is_encrypted() => {
                        return Err(Refusal::Told(Failure::fatal("08P01", "SSL req inside SSL")));
                    }
                    Ok(Some((Startup::SslRequest, length))) => {
                        break (Request::Encryption { granted: encryption.offers(&self.peer) }, length);
                    }
                    Ok(Some((Startup::GssEncRequest, length))) => {
                        break (Request::Encryption { granted: false }, length);
                    }
                    Ok(Some((Startup::Cancel(key), length))) => break (Request::Cancel(key), length),
                    Ok(Some((Startup::Session(_), length))) => break (Request::Session, length),
                    Ok(None) => self.read().await?,
                    Err(error) => return Err(Refusal::Told(Failure::fatal("08P01", error.to_string()))),
                }
            };
            let packet: Vec<u8> = self.received.drain(..length).collect();
            match request {
                Request::Encryption { granted } => {
                    // What a client sends before it has the answer cannot be meant for an encrypted connection (CVE-2021-23214).
                    if !self.received.is_empty() {
                        return Err(Refusal::Told(Failure::fatal(
                            "08P01",
                            "received unencrypted data after an encryption request",
                        )));
                    }
                    self.stream.write_all(if granted { b"S" } else { b"N" }).await?;
                    if granted {
                        secure(self, encryption, How::Politely).await?;
                    }
                }
                Request::Cancel(key) => {
                    // Who cancels what is ours waits for us; who names a peer may be anybody.
                    let _served = worker.service.cancels.knows(&key).then(|| self.serve());
                    worker.service.cancels.cancel(key, &worker.service.config()).await;
                    return Err(Refusal::Silent);
                }
                Request::Session if encryption.requires(&self.peer) && !self.stream.is_encrypted() => {
                    return Err(Refusal::Told(Failure::fatal("08P01", "SSL required")));
                }
                Request::Session => return Ok(packet),
            }
        }
        Err(Refusal::Told(Failure::fatal("08P01", "too many encryption requests")))
    }

    /// What it says first, of which a handshake would begin with the connection; `None` where there cannot be any.
    async fn first_byte(&mut self, encryption: &Encryption) -> Result<Option<u8>, Refusal> {
        if self.received.is_empty() && encryption.offers(&self.peer) {
            return Ok(self.stream.first_byte().await?);
        }
        while self.received.is_empty() {
            self.read().await?;
        }
        Ok(self.received.first().copied().filter(|_| matches!(self.peer, Peer::Tcp(_))))
    }

    /// "...the server responds with NegotiateProtocolVersion" to a newer minor version or unknown options (protocol-flow): once, and
    /// with the version that is spoken from now on. Our own cancel keys are all that 3.2 changes, so that it does not matter which
    /// version the servers speak.
    fn negotiate(&mut self, startup: &SessionStartup<'_>) -> Result<Version, Refusal> {
        let granted = startup.version.granted();
        let granted = granted.ok_or_else(|| Refusal::Told(Failure::fatal("0A000", startup.version.refusal())))?;
        let unknown: Vec<&[u8]> =
            startup.parameters.iter().map(|(name, _)| *name).filter(|name| name.starts_with(b"_pq_.")).collect();
        if startup.version != granted || !unknown.is_empty() {
            backend::put_negotiate_protocol_version(&mut self.unsent, granted, &unknown);
        }
        Ok(granted)
    }

    /// The end of the login.
    async fn welcome(
        &mut self,
        parameters: impl Iterator<Item = (&[u8], &[u8])>,
        key: &CancelKey,
    ) -> Result<(), Refusal> {
        let out = &mut self.unsent;
        for (name, value) in parameters {
            backend::put_parameter_status(out, name, value);
        }
        backend::put_backend_key_data(out, key);
        backend::put_ready(out, Status::Idle);
        Ok(self.flush().await?)
    }

    /// Sends what there is to be said. Whoever stops waiting may go on later where this was.
    async fn flush(&mut self) -> std::io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent).await? {
                0 => return Err(std::io::ErrorKind::WriteZero.into()),
                written => drop(self.unsent.drain(..written)),
            }
        }
        Ok(())
    }

    /// The console can tell from now on who it is.
    fn stand(&self, presence: &Presence, key: (String, String), application_name: &str) {
        presence.slot.standing.enter(key, application_name.into(), self.peer, &self.stream);
    }

    /// From now on the guest waits for us, and is not shown out, until the answer is dropped.
    pub(crate) fn serve(&self) -> Option<Served> {
        self.seat.as_ref().map(Seat::serve)
    }

    /// Waits for what it says next, after it has been told all.
    pub(crate) async fn read(&mut self) -> Result<(), Refusal> {
        self.flush().await?;
        if self.stream.read_buf(&mut self.received).await? == 0 { Err(Refusal::Silent) } else { Ok(()) }
    }
}

/// What a server reports to a client with this session's startup settings. A server is asked once in a while.
async fn greet(tenant: &Tenant, worker: usize, session: &Session) -> Result<Arc<Reported>, Missed> {
    let fatal = |missed| match missed {
        Missed::Refused(failure) => Missed::Refused(Failure { severity: backend::Severity::Fatal, ..failure }),
        Missed::Superseded => Missed::Superseded,
    };
    let settings = session.opening(&ServerMemory::new(1)).unwrap_or_default();
    if let Some(known) = tenant.greeting(&settings, Instant::now()) {
        return Ok(known);
    }
    let now = Instant::now();
    let wanted = Wanted::new(Need::Primary, 0, now, tenant.failover_deadline(now));
    let (mut lease, _) = route::find(tenant, worker, None, &wanted, now).await.map_err(fatal)?;
    // Asked for something in any case: of a default that an administrator has changed since it tells when it is asked next.
    let opening = session.opening(&lease.memory).unwrap_or_default();
    set_up(&mut lease, &opening).await?;
    session.opened(&mut lease.memory);
    let reported = Arc::new(lease.memory.reported().clone());
    tenant.learn_greeting(settings, reported.clone(), Instant::now());
    lease.release(Instant::now());
    Ok(reported)
}

/// Runs the statements.
async fn set_up(lease: &mut Lease<ServerMemory>, sql: &str) -> Result<(), Failure> {
    let lost = |_| Failure::fatal("08006", "the server was lost during the login");
    let reply = ask_lent(lease, sql, SET_UP_MAX).await.map_err(lost)?;
    let mut errors = Frames::new(&reply).filter(|frame| frame.tag == tag::ERROR_RESPONSE);
    let Some(error) = errors.next() else { return Ok(()) };
    let report = Report::new(error.body());
    // The server's own code where a startup packet's parameters can cause it.
    let found = report.sqlstate();
    let own = SET_UP_CODES.into_iter().find(|code| found.is_some_and(|found| code.as_bytes() == found.0));
    Err(Failure::fatal(own.unwrap_or("22023"), report.message()))
}

fn pairs(parameters: &Parameters) -> impl Iterator<Item = (&[u8], &[u8])> {
    parameters.iter().map(|(name, value)| (&**name, &**value))
}

fn too_many(message: &str) -> Refusal {
    Refusal::Told(Failure::fatal("53300", message))
}

fn unresolved(error: ResolveError, database: &str, user: &str) -> Failure {
    match error {
        ResolveError::UnknownDatabase => Failure::fatal("3D000", format!("database \"{database}\" does not exist")),
        ResolveError::UnknownUser => {
            Failure::fatal("28P01", format!("password authentication failed for user \"{user}\""))
        }
    }
}

/// SSLRequest, GSSENCRequest and the startup packet itself; PostgreSQL takes each request once.
const REQUESTS_MAX: usize = 3;

/// What a server refuses a setting with: unknown, not permitted, not now.
const SET_UP_CODES: [&str; 3] = ["42704", "42501", "55P02"];

/// Bytes that what a client says at a time mostly fits into.
pub(crate) const RECEIVED_BYTES: usize = 512;

/// Bytes that what it is told at a time mostly fits into, which at the end is what a server reports.
const UNSENT_BYTES: usize = 768;

/// Bytes of a server's answer to the session's settings.
const SET_UP_MAX: usize = 256 * 1024;
