//! The proxy as the client of a server: it answers the server's authentication requests until the server is satisfied, and
//! does not believe a server that skips its own part.
//!
//! The messages in front (startup) and behind (parameters, ReadyForQuery) are the caller's.

use std::fmt;

use crate::client::{NONCE_BYTES, SCRAM_SHA_256, SCRAM_SHA_256_PLUS};
use crate::credential::Credential;
use crate::error::AuthError;
use crate::md5;
use crate::prover::{Gs2, Proved, Prover};

/// A login to a server in progress.
pub struct ServerLogin {
    user: String,
    credential: Credential,
    cleartext: Cleartext,
    end_point: Option<Vec<u8>>,
    nonce: [u8; NONCE_BYTES],
    state: State,
}

/// Whether a server may ask for the password in plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleartext {
    /// It may not: whoever pretends to be the server would learn the password.
    Refused,
    /// It may: the connection is trusted, as with verified TLS.
    Allowed,
}

/// What to do after a message of the server.
#[derive(Clone, PartialEq, Eq)]
pub enum Step {
    /// Send a message of the type `p` with this payload, then wait for the next message.
    Send(Vec<u8>),
    /// Wait for the next message.
    Wait,
    /// The server has let us in.
    Done,
}

enum State {
    /// Nothing was asked yet.
    Start,
    /// A password was sent; the server says whether it is right.
    PasswordSent,
    /// The client-first-message was sent.
    ScramStarted(Prover),
    /// The proof was sent; the server owes its signature.
    ProofSent(Proved),
    /// The server's signature was right.
    Verified,
    /// Let in, or failed for good.
    Over,
}

/// The authentication requests of the protocol (protocol-message-formats, messages of the type `R`).
enum Request<'m> {
    Ok,
    CleartextPassword,
    Md5Password([u8; 4]),
    Sasl(Vec<&'m str>),
    SaslContinue(&'m [u8]),
    SaslFinal(&'m [u8]),
}

impl ServerLogin {
    /// Starts a login. Without a credential it succeeds only with a server that asks for none. `nonce` must be random and new.
    pub fn new(user: &str, credential: Credential, cleartext: Cleartext, nonce: [u8; NONCE_BYTES]) -> ServerLogin {
        ServerLogin { user: user.to_owned(), credential, cleartext, end_point: None, nonce, state: State::Start }
    }

    /// The connection is encrypted, and these bytes are what RFC 5929's tls-server-end-point makes of the server's certificate:
    /// the login is bound to them if the server can, so that nobody between us can pass it on.
    #[must_use]
    pub fn bound_to(mut self, tls_server_end_point: Vec<u8>) -> ServerLogin {
        self.end_point = Some(tls_server_end_point);
        self
    }

    /// Takes the payload of an authentication message: what follows the type `R` and the length.
    ///
    /// With SCRAM-SHA-256, the answer to the server's challenge takes milliseconds of computing.
    ///
    /// # Errors
    /// When the server breaks the protocol, asks for what is not allowed or not known, or cannot prove its identity. The
    /// login is over then, and so is the connection.
    pub fn on_message(&mut self, payload: &[u8]) -> Result<Step, AuthError> {
        // Until a step succeeds, the login is over.
        let state = std::mem::replace(&mut self.state, State::Over);
        let (next, step) = match (state, Request::parse(payload)?) {
            (State::Start | State::PasswordSent | State::Verified, Request::Ok) => (State::Over, Step::Done),
            (State::Start, Request::CleartextPassword) => match (self.cleartext, &self.credential) {
                (Cleartext::Refused, _) => return Err(AuthError::ServerUnsupported("a password in plain text".into())),
                (_, Credential::Password(password)) => (State::PasswordSent, Step::Send(zero_ended(password))),
                (_, other) => return Err(lacks("a password in plain text", other)),
            },
            (State::Start, Request::Md5Password(salt)) => {
                let hash = match &self.credential {
                    Credential::Password(password) => md5::hash_of(password.as_bytes(), &self.user),
                    Credential::Md5(hash) => hash.clone(),
                    other => return Err(lacks("md5", other)),
                };
                (State::PasswordSent, Step::Send(zero_ended(&md5::answer(&hash, salt))))
            }
            (State::Start, Request::Sasl(mechanisms)) => self.start_scram(&mechanisms)?,
            (State::ScramStarted(prover), Request::SaslContinue(message)) => {
                let (proved, reply) = prover.prove(message, &self.credential)?;
                (State::ProofSent(proved), Step::Send(reply))
            }
            (State::ProofSent(proved), Request::SaslFinal(message)) => {
                proved.check(message)?;
                (State::Verified, Step::Wait)
            }
            // A server that lets us in without its signature does not know the password: it may be anybody (RFC 5802, 3:
            // "the client authenticates the server").
            (State::ScramStarted(_) | State::ProofSent(_), Request::Ok) => return Err(AuthError::ServerUnproven),
            (_, request) => return Err(AuthError::ServerMalformed(format!("{} was not expected", request.name()))),
        };
        self.state = next;
        Ok(step)
    }

    fn start_scram(&self, mechanisms: &[&str]) -> Result<(State, Step), AuthError> {
        let (mechanism, binding) = match &self.end_point {
            Some(data) if mechanisms.contains(&SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, Gs2::EndPoint(data)),
            end_point if mechanisms.contains(&SCRAM_SHA_256) => {
                (SCRAM_SHA_256, if end_point.is_some() { Gs2::NotOffered } else { Gs2::Unsupported })
            }
            _ => return Err(AuthError::ServerUnsupported(format!("one of the SASL mechanisms {mechanisms:?}"))),
        };
        // Before a word is said that could not be followed by another.
        match &self.credential {
            Credential::Password(_) | Credential::Keys(_) => {}
            other => return Err(lacks(SCRAM_SHA_256, other)),
        }
        let (prover, message) = Prover::start(&binding, &self.nonce);
        Ok((State::ScramStarted(prover), Step::Send(initial_response(mechanism, &message))))
    }
}

impl<'m> Request<'m> {
    fn parse(payload: &'m [u8]) -> Result<Request<'m>, AuthError> {
        let malformed = || AuthError::ServerMalformed("an authentication request is cut off".into());
        let (code, body) = payload.split_first_chunk().ok_or_else(malformed)?;
        if body.len() > MESSAGE_BYTES_MAX {
            return Err(AuthError::ServerMalformed("an authentication request is too long".into()));
        }
        let unsupported = |what: &str| Err(AuthError::ServerUnsupported(what.into()));
        match (i32::from_be_bytes(*code), body) {
            (0, []) => Ok(Request::Ok),
            (3, []) => Ok(Request::CleartextPassword),
            (5, body) => body.try_into().map(Request::Md5Password).map_err(|_| malformed()),
            (10, body) => mechanisms(body).map(Request::Sasl).ok_or_else(malformed),
            (11, body) => Ok(Request::SaslContinue(body)),
            (12, body) => Ok(Request::SaslFinal(body)),
            (2, _) => unsupported("Kerberos"),
            (7 | 8, _) => unsupported("GSSAPI"),
            (9, _) => unsupported("SSPI"),
            (0 | 3, _) => Err(malformed()),
            (code, _) => Err(AuthError::ServerUnsupported(format!("the unknown authentication method {code}"))),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Request::Ok => "AuthenticationOk",
            Request::CleartextPassword => "AuthenticationCleartextPassword",
            Request::Md5Password(_) => "AuthenticationMD5Password",
            Request::Sasl(_) => "AuthenticationSASL",
            Request::SaslContinue(_) => "AuthenticationSASLContinue",
            Request::SaslFinal(_) => "AuthenticationSASLFinal",
        }
    }
}

impl fmt::Debug for ServerLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Step::Send(_) => "Send(***)",
            Step::Wait => "Wait",
            Step::Done => "Done",
        })
    }
}

/// "String: name of a SASL authentication mechanism", repeated; "a zero byte is required as terminator after the last one".
fn mechanisms(body: &[u8]) -> Option<Vec<&str>> {
    let list = std::str::from_utf8(body.strip_suffix(b"\0\0")?).ok()?;
    Some(list.split('\0').collect())
}

/// The payload of a SASLInitialResponse.
fn initial_response(mechanism: &str, message: &[u8]) -> Vec<u8> {
    let length = i32::try_from(message.len()).expect("our own first message has about fifty bytes");
    [mechanism.as_bytes(), b"\0", &length.to_be_bytes(), message].concat()
}

/// What is known does not answer what the server asks.
fn lacks(asked: &'static str, known: &Credential) -> AuthError {
    match known {
        Credential::None => AuthError::NoPassword,
        other => AuthError::Mismatched { asked, known: other.kind() },
    }
}

fn zero_ended(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// The longest authentication request of a server, which needs a few hundred bytes.
const MESSAGE_BYTES_MAX: usize = 2048;

#[cfg(test)]
mod tests;
