//! The proxy as the client of a server: it answers the server's authentication requests until the server is satisfied, and
//! does not believe a server that skips its own part.
//!
//! The messages in front (startup) and behind (parameters, ReadyForQuery) are the caller's.

use std::fmt;

use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};

use crate::error::AuthError;
use crate::scram;

/// A login to a server in progress.
pub struct ServerLogin {
    user: String,
    password: Option<String>,
    cleartext: Cleartext,
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
    ScramStarted(Box<ScramSha256>),
    /// The proof was sent; the server owes its signature.
    ProofSent(Box<ScramSha256>),
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
    /// Starts a login. Without a password it succeeds only with a server that asks for none.
    pub fn new(user: &str, password: Option<&str>, cleartext: Cleartext) -> ServerLogin {
        ServerLogin { user: user.to_owned(), password: password.map(str::to_owned), cleartext, state: State::Start }
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
            (State::Start, Request::CleartextPassword) => match self.cleartext {
                Cleartext::Refused => return Err(AuthError::ServerUnsupported("a password in plain text".into())),
                Cleartext::Allowed => (State::PasswordSent, Step::Send(zero_ended(self.password()?))),
            },
            (State::Start, Request::Md5Password(salt)) => {
                let hash = md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), salt);
                (State::PasswordSent, Step::Send(zero_ended(&hash)))
            }
            (State::Start, Request::Sasl(mechanisms)) => {
                if !mechanisms.contains(&SCRAM_SHA_256) {
                    return Err(AuthError::ServerUnsupported(format!("one of the SASL mechanisms {mechanisms:?}")));
                }
                let scram = Box::new(ScramSha256::new(self.password()?.as_bytes(), ChannelBinding::unsupported()));
                let step = Step::Send(initial_response(scram.message()));
                (State::ScramStarted(scram), step)
            }
            (State::ScramStarted(mut scram), Request::SaslContinue(message)) => {
                check_server_first(message)?;
                scram.update(message).map_err(|error| AuthError::ServerMalformed(error.to_string()))?;
                let step = Step::Send(scram.message().to_vec());
                (State::ProofSent(scram), step)
            }
            (State::ProofSent(mut scram), Request::SaslFinal(message)) => {
                check_server_final(message)?;
                scram.finish(message).map_err(|_| AuthError::ServerUnproven)?;
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

    fn password(&self) -> Result<&str, AuthError> {
        self.password.as_deref().ok_or(AuthError::NoPassword)
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
fn initial_response(message: &[u8]) -> Vec<u8> {
    let length = i32::try_from(message.len()).expect("our own first message has about thirty bytes");
    [SCRAM_SHA_256.as_bytes(), b"\0", &length.to_be_bytes(), message].concat()
}

fn zero_ended(text: &str) -> Vec<u8> {
    [text.as_bytes(), b"\0"].concat()
}

/// What the library does not check of `server-first-message = nonce "," salt "," iteration-count`.
fn check_server_first(message: &[u8]) -> Result<(), AuthError> {
    let malformed = |what: &str| Err(AuthError::ServerMalformed(what.into()));
    let text = std::str::from_utf8(message).unwrap_or_default();
    let nonce = scram::take_attribute(text).map_or("", |(attribute, _)| attribute.value);
    let (_, salt_and_count) = text.split_once(",s=").unwrap_or_default();
    let (salt, count) = salt_and_count.split_once(",i=").unwrap_or_default();
    match (nonce, salt, count) {
        (nonce, _, _) if nonce.len() > NONCE_BYTES_MAX => malformed("the nonce is too long"),
        (_, "", _) => malformed("the salt is missing"),
        // "posit-number = %x31-39 *DIGIT" (RFC 5802, 7).
        (_, _, count) if count.is_empty() || count.starts_with('0') => malformed("the iteration count is not positive"),
        _ => Ok(()),
    }
}

/// `server-final-message = (server-error / verifier) ["," extensions]`: the server may say what it dislikes.
fn check_server_final(message: &[u8]) -> Result<(), AuthError> {
    match message.strip_prefix(b"e=") {
        Some(error) => Err(AuthError::ServerRefused(String::from_utf8_lossy(error).into_owned())),
        None => Ok(()),
    }
}

/// The longest authentication request of a server, which needs a few hundred bytes.
const MESSAGE_BYTES_MAX: usize = 2048;

/// The longest nonce of a server, ours included. PostgreSQL's has 48 letters.
const NONCE_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests;
