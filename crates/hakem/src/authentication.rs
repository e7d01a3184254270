//! The proof that a client is who it says: between its startup packet and AuthenticationOk.
//!
//! Owns the choice of the method and the exchange of messages. What they must hold is the crate `auth`'s; where secrets come from is
//! `secrets`'; the startup packet, and what follows, are `login`'s.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use auth::{
    Account, AuthError, ClientCertificate, Credential, Exchange, InitialResponse, Method, NONCE_BYTES, Origin,
    ScramServer, Secret, Verifier, Visitor,
};
use nix::unistd::{Uid, User};
use pool::Peer;
use pool::certificate::Subject;
use tokio::io::AsyncReadExt;
use wire::backend::{self, Failure};
use wire::frame::{Frame, Header};
use wire::frontend;

use crate::login::{Guest, Refusal};
use crate::secrets::{Demand, Known, Secrets};
use crate::worker::Worker;

/// Who a client says it is, and what it wants.
pub(crate) struct Claim<'c> {
    pub(crate) user: &'c str,
    pub(crate) database: &'c str,
    /// It wants physical replication, which is of no database.
    pub(crate) replication: bool,
}

/// Why a login fails.
enum Denied {
    /// It is refused. The reason is for the log alone.
    Failed {
        failure: Failure,
        reason: String,
    },
    Other(Refusal),
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Denied {
        Denied::Other(refusal)
    }
}

impl From<std::io::Error> for Denied {
    fn from(error: std::io::Error) -> Denied {
        Denied::Other(error.into())
    }
}

/// Has the client prove its claim, up to AuthenticationOk. Returns what is known then for logging in to servers in its name.
pub(crate) async fn authenticate(guest: &mut Guest, worker: &Worker, claim: &Claim<'_>) -> Result<Credential, Refusal> {
    let secrets = worker.service.secrets();
    match prove(guest, worker, &secrets, claim).await {
        Ok(credential) => {
            backend::put_authentication_ok(&mut guest.unsent);
            Ok(credential)
        }
        Err(Denied::Failed { failure, reason }) => {
            worker.counters.authentication_failed();
            let peer = guest.peer;
            let Claim { user, database, .. } = claim;
            tracing::warn!(%peer, %user, %database, reason, "authentication failed");
            Err(Refusal::Denied(failure))
        }
        Err(Denied::Other(refusal)) => Err(refusal),
    }
}

/// Holds the answer to a failed login back, the longer the more have failed from its address; as long as the client waits for it. Returns
/// whether it has.
pub(crate) async fn hold_back(guest: &mut Guest, until: Instant) -> bool {
    let gone = async {
        let mut scratch = [0; 512];
        while guest.stream.read(&mut scratch).await.is_ok_and(|length| length > 0) {}
    };
    tokio::time::timeout_at(until.into(), gone).await.is_err()
}

async fn prove(guest: &mut Guest, worker: &Worker, secrets: &Secrets, claim: &Claim<'_>) -> Result<Credential, Denied> {
    let &Claim { user, database, replication } = claim;
    let origin = guest.origin();
    let (method, map) = match secrets.demand(&Visitor { origin, database, user, replication }) {
        Demand::Method(method) => (method, None),
        Demand::Rule(rule) => {
            let subject = guest.subject();
            let shown = match rule.client_certificate {
                ClientCertificate::NotAsked => true,
                ClientCertificate::Verified => subject.is_some(),
                ClientCertificate::VerifiedName => {
                    let name = subject.and_then(|subject| subject.common_name.as_deref());
                    name.is_some_and(|name| secrets.maps.allow(rule.map.as_deref(), name, user))
                }
            };
            if !shown {
                return Err(refused(
                    "connection requires a valid client certificate".into(),
                    format!("line {} asks for a certificate", rule.line),
                ));
            }
            (rule.method, rule.map.as_deref())
        }
        Demand::NoRule => {
            let what = if claim.replication { "replication connection from " } else { "" };
            let text = format!("no pg_hba.conf entry for {what}{}", described(origin, claim));
            return Err(refused(text, "no line fits".into()));
        }
    };
    match method {
        Method::Reject => {
            let what = if claim.replication { "replication connection" } else { "connection" };
            let text = format!("pg_hba.conf rejects {what} for {}", described(origin, claim));
            return Err(refused(text, "a line rejects it".into()));
        }
        Method::Cert => {
            let name = guest.subject().and_then(|subject| subject.common_name.as_deref());
            by_name("certificate", name, secrets, map, user)?;
        }
        Method::Peer => by_name("Peer", guest.system_user().as_deref(), secrets, map, user)?,
        Method::Trust | Method::Md5 | Method::Password | Method::ScramSha256 => {}
    }
    if method.exchange(None, secrets.usual()).is_some() {
        // What others from there have not waited for; not what they leave meanwhile, or they could keep everybody from there out.
        let owed = worker.service.debts.owed(guest.address(), Instant::now());
        if !owed.is_zero() {
            tokio::time::sleep(owed).await;
        }
    }
    // Who waits for a server may have to leave: strangers can make it as many lookups as they like.
    let known = find(worker, secrets, claim, method).await?;
    let secret = known.as_ref().map(|known| &known.secret);
    let Some(exchange) = method.exchange(secret, secrets.usual()) else {
        return Ok(secret.map_or(Credential::None, Secret::credential));
    };
    match exchange {
        Exchange::Scram => scram(guest, secrets, known.clone(), user).await,
        Exchange::Md5 => md5(guest, secrets, secret, user).await,
        Exchange::Password => cleartext(guest, secrets, known.clone(), user).await,
    }
}

/// The user's secret; not having it, for want of a server to ask, is only an error where it is needed.
async fn find(
    worker: &Worker,
    secrets: &Secrets,
    claim: &Claim<'_>,
    method: Method,
) -> Result<Option<Arc<Known>>, Denied> {
    let listed = secrets.listed(claim.user);
    // Where there is nothing to guess, nobody is asked about who is known.
    let is_open = method.exchange(None, Exchange::Scram).is_none();
    if is_open && listed.is_some() {
        return Ok(listed.cloned());
    }
    match secrets.find(|| worker.service.auth_place(claim.database), claim.user).await {
        Ok(known) => Ok(known),
        Err(error) => {
            tracing::error!(user = %claim.user, database = %claim.database, %error, "auth_query failed");
            match method.exchange(None, Exchange::Scram) {
                Some(_) => {
                    let failure = Failure::fatal("57P03", "the user cannot be looked up at the moment");
                    Err(Refusal::Told(failure.hint("Try again later.")).into())
                }
                None => Ok(None),
            }
        }
    }
}

/// Lets a user in whom the system has named. `kind` is how PostgreSQL calls the method in its message.
fn by_name(kind: &str, name: Option<&str>, secrets: &Secrets, map: Option<&str>, user: &str) -> Result<(), Denied> {
    if name.is_some_and(|name| secrets.maps.allow(map, name, user)) {
        return Ok(());
    }
    let reason = match name {
        Some(name) => format!("{name:?} may not log in as this user"),
        None => "the connection shows no name".to_owned(),
    };
    Err(refused(format!("{kind} authentication failed for user \"{user}\""), reason))
}

async fn scram(
    guest: &mut Guest,
    secrets: &Secrets,
    known: Option<Arc<Known>>,
    user: &str,
) -> Result<Credential, Denied> {
    let wrong = |error| failed(error, known.is_some(), user);
    let account = account(guest, secrets, known.clone(), user).await;
    let server = ScramServer::new(account, guest.end_point());
    backend::put_sasl(&mut guest.unsent, server.mechanisms());
    let payload = password(guest, user).await?;
    let initial = InitialResponse::parse(&payload).map_err(wrong)?;
    let later;
    let first = match initial.message {
        Some(message) => message,
        None => {
            backend::put_sasl_continue(&mut guest.unsent, b"");
            later = password(guest, user).await?;
            &later
        }
    };
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let (question, exchange) = server.on_client_first(initial.mechanism, first, &nonce).map_err(wrong)?;
    backend::put_sasl_continue(&mut guest.unsent, &question);
    let answer = password(guest, user).await?;
    let proof = exchange.on_client_final(&answer).map_err(wrong)?;
    backend::put_sasl_final(&mut guest.unsent, &proof.message);
    // The password itself is worth more than the keys.
    Ok(match known.as_ref().map(|known| known.secret.credential()) {
        Some(Credential::None) | None => Credential::Keys(Arc::new(proof.keys)),
        Some(credential) => credential,
    })
}

async fn md5(guest: &mut Guest, secrets: &Secrets, secret: Option<&Secret>, user: &str) -> Result<Credential, Denied> {
    let salt: [u8; 4] = rand::random();
    backend::put_authentication_md5_password(&mut guest.unsent, salt);
    let answer = password(guest, user).await?;
    let given = answer.strip_suffix(b"\0").unwrap_or(&answer);
    match auth::md5_proves(secret, &secrets.mock_secret, user, salt, given) {
        true => Ok(secret.map_or(Credential::None, Secret::credential)),
        false => Err(failed(AuthError::WrongPassword, secret.is_some(), user)),
    }
}

async fn cleartext(
    guest: &mut Guest,
    secrets: &Secrets,
    known: Option<Arc<Known>>,
    user: &str,
) -> Result<Credential, Denied> {
    backend::put_authentication_cleartext_password(&mut guest.unsent);
    let mut given = password(guest, user).await?;
    let is_known = known.is_some();
    // "...the password must be zero-terminated" (protocol-message-formats, PasswordMessage).
    if given.pop() != Some(0) || given.contains(&0) {
        return Err(failed(AuthError::ClientMalformed("invalid password packet size"), is_known, user));
    }
    let (mock_secret, name, iterations) = (secrets.mock_secret, user.to_owned(), secrets.usual_iterations());
    let _served = guest.serve();
    let checked = tokio::task::spawn_blocking(move || {
        let mock = Verifier::mock(&mock_secret, &name, iterations);
        auth::password_proves(known.as_ref().map(|known| &known.secret), &mock, &name, &given)
    });
    // Only a shutdown abandons it.
    checked.await.ok().flatten().ok_or_else(|| failed(AuthError::WrongPassword, is_known, user))
}

/// The payload of the next message, which must be of the type `p`.
async fn password(guest: &mut Guest, user: &str) -> Result<Vec<u8>, Denied> {
    loop {
        if let Ok(Some(header)) = Header::peek(&guest.received)
            && (header.tag != frontend::tag::PASSWORD || header.length > PASSWORD_MAX)
        {
            return Err(failed(AuthError::ClientMalformed("expected a password message"), true, user));
        }
        match Frame::take(&guest.received) {
            Ok(Some(frame)) => {
                let (payload, length) = (frame.body().to_vec(), frame.whole.len());
                guest.received.drain(..length);
                return Ok(payload);
            }
            Ok(None) => guest.read().await?,
            Err(error) => {
                return Err(Denied::Other(Refusal::Told(Failure::fatal("08P01", error.to_string()))));
            }
        }
    }
}

/// The account to prove oneself for. Where a verifier may have to be made first it is computed away from the event loop, for everybody: whether
/// there is such a user does not show in the time.
async fn account(guest: &Guest, secrets: &Secrets, known: Option<Arc<Known>>, user: &str) -> Account {
    let (mock_secret, iterations, usual) = (secrets.mock_secret, secrets.iterations, secrets.usual_iterations());
    let is_at_hand = secrets.are_at_hand(known.as_deref());
    let account = move |name: &str| {
        let unknown = Account::unknown(&mock_secret, name, usual);
        let verifier = known.and_then(|known| known.verifier(name, &mock_secret, iterations).cloned());
        verifier.map_or(unknown, Account::Known)
    };
    if is_at_hand {
        return account(user);
    }
    let (_served, name) = (guest.serve(), user.to_owned());
    let computed = tokio::task::spawn_blocking(move || account(&name));
    // Only a shutdown abandons it.
    computed.await.unwrap_or_else(|_| Account::unknown(&mock_secret, user, usual))
}

/// A failure of the exchange. Whether the user is unknown or the password wrong is nobody's business but the log's.
fn failed(error: AuthError, is_known: bool, user: &str) -> Denied {
    match &error {
        AuthError::WrongPassword => Denied::Failed {
            failure: Failure::fatal("28P01", format!("password authentication failed for user \"{user}\"")),
            reason: if is_known { "wrong password" } else { "no such user, or no password" }.to_owned(),
        },
        _ => Denied::Failed { failure: Failure::fatal(error.sqlstate(), error.to_string()), reason: error.to_string() },
    }
}

fn refused(text: String, reason: String) -> Denied {
    Denied::Failed { failure: Failure::fatal("28000", text), reason }
}

/// A connection in the words of PostgreSQL's messages about pg_hba.conf.
fn described(origin: Origin, claim: &Claim<'_>) -> String {
    let (host, encryption) = match origin {
        Origin::Local => ("[local]".to_owned(), "no encryption"),
        Origin::Host { address, encrypted: true } => (canonical(address), "SSL encryption"),
        Origin::Host { address, encrypted: false } => (canonical(address), "no encryption"),
    };
    match claim.replication {
        true => format!("host \"{host}\", user \"{}\", {encryption}", claim.user),
        false => format!("host \"{host}\", user \"{}\", database \"{}\", {encryption}", claim.user, claim.database),
    }
}

fn canonical(address: IpAddr) -> String {
    address.to_canonical().to_string()
}

/// What the connection itself shows of the client.
impl Guest {
    fn origin(&self) -> Origin {
        match self.peer {
            Peer::Tcp(address) => Origin::Host { address: address.ip(), encrypted: self.security.tls.is_some() },
            Peer::Unix { .. } | Peer::Gone => Origin::Local,
        }
    }

    /// The address that failed logins count against. All of a machine's own users share one.
    pub(crate) fn address(&self) -> IpAddr {
        match self.peer {
            Peer::Tcp(address) => address.ip(),
            Peer::Unix { .. } | Peer::Gone => Ipv4Addr::UNSPECIFIED.into(),
        }
    }

    /// Whose certificate the client has shown; it has been verified.
    fn subject(&self) -> Option<&Subject> {
        self.security.tls.as_ref()?.subject.as_ref()
    }

    /// What the login can be bound to.
    fn end_point(&self) -> Option<Vec<u8>> {
        self.security.tls.as_ref()?.end_point.as_ref().map(|bytes| bytes.to_vec())
    }

    /// The operating system's name of who is at the other end of a Unix socket.
    fn system_user(&self) -> Option<String> {
        let Peer::Unix { uid, .. } = self.peer else { return None };
        User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
    }
}

/// Bytes of a password message: PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH` is 65,535, for GSSAPI's sake; SCRAM needs few.
const PASSWORD_MAX: usize = 10_000;
