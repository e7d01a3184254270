//! The proof that a client is who it says: between its startup packet and AuthenticationOk.
//!
//! Owns the exchange of messages. What they must hold is the crate `auth`'s; the startup packet, and what follows, are `login`'s.

use auth::{Account, AuthError, DEFAULT_ITERATIONS, InitialResponse, NONCE_BYTES, ScramServer};
use config::AuthMethod;
use tokio::io::AsyncWriteExt;
use wire::backend::{self, Failure};
use wire::frame::{Frame, Header};
use wire::frontend;

use crate::login::{Guest, Refusal};
use crate::worker::Worker;

/// Why a login by password fails.
enum Denied {
    Auth(AuthError),
    Other(Refusal),
}

impl From<AuthError> for Denied {
    fn from(error: AuthError) -> Denied {
        Denied::Auth(error)
    }
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

/// Has the client prove that it is `user`, up to AuthenticationOk.
pub(crate) async fn authenticate(guest: &mut Guest, worker: &Worker, user: &str) -> Result<(), Refusal> {
    let mut out = Vec::new();
    if worker.service.config().auth.method == AuthMethod::ScramSha256 {
        scram(guest, worker, user).await.map_err(|error| match error {
            Denied::Auth(error) => {
                let message = format!("password authentication failed for user \"{user}\"");
                // Whether the user is unknown or the password wrong is nobody's business.
                let text = if error.sqlstate() == "28P01" { message } else { error.to_string() };
                Refusal::Told(Failure::fatal(error.sqlstate(), text))
            }
            Denied::Other(refusal) => refusal,
        })?;
    }
    backend::put_authentication_ok(&mut out);
    Ok(guest.stream.write_all(&out).await?)
}

async fn scram(guest: &mut Guest, worker: &Worker, user: &str) -> Result<(), Denied> {
    let mut out = Vec::new();
    let served = guest.serve();
    let server = ScramServer::new(account(worker, user).await, None);
    drop(served);
    backend::put_sasl(&mut out, server.mechanisms());
    guest.stream.write_all(&out).await?;
    let payload = password(guest).await?;
    let initial = InitialResponse::parse(&payload)?;
    let first = match initial.message {
        Some(message) => message.to_vec(),
        None => {
            challenge(guest, b"").await?;
            password(guest).await?
        }
    };
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let (question, exchange) = server.on_client_first(initial.mechanism, &first, &nonce)?;
    challenge(guest, &question).await?;
    let last = exchange.on_client_final(&password(guest).await?)?.message;
    out.clear();
    backend::put_sasl_final(&mut out, &last);
    Ok(guest.stream.write_all(&out).await?)
}

async fn challenge(guest: &mut Guest, data: &[u8]) -> Result<(), Denied> {
    let mut out = Vec::new();
    backend::put_sasl_continue(&mut out, data);
    Ok(guest.stream.write_all(&out).await?)
}

/// The payload of the next message, which must be of the type `p`.
async fn password(guest: &mut Guest) -> Result<Vec<u8>, Denied> {
    loop {
        if let Ok(Some(header)) = Header::peek(&guest.received)
            && (header.tag != frontend::tag::PASSWORD || header.length > PASSWORD_MAX)
        {
            return Err(AuthError::ClientMalformed("expected a password message").into());
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

/// The account to prove oneself for. Computed away from the event loop; for an unknown user too, so that time tells nothing.
async fn account(worker: &Worker, user: &str) -> Account {
    let (service, user) = (worker.service.clone(), user.to_owned());
    let found = tokio::task::spawn_blocking(move || {
        let mock = Account::unknown(&service.mock_secret, &user, DEFAULT_ITERATIONS);
        service.verifier(&user).map_or(mock, Account::Known)
    });
    // Only a shutdown abandons it.
    found.await.unwrap_or_else(|_| Account::unknown(&worker.service.mock_secret, "", DEFAULT_ITERATIONS))
}

/// Bytes of a password message: PostgreSQL's `PG_MAX_AUTH_TOKEN_LENGTH` is 65,535, for GSSAPI's sake; SCRAM needs few.
const PASSWORD_MAX: usize = 10_000;
