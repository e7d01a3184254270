//! The proxy as the server of a client that proves itself by SCRAM-SHA-256 (RFC 5802 with RFC 7677).
//!
//! Each step consumes the one before, so that no message can be taken twice or out of order. What a TLS connection can be bound
//! by (RFC 5929's tls-server-end-point) arrives as an argument.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use subtle::ConstantTimeEq;

use crate::credential::ScramKeys;
use crate::error::AuthError;
use crate::scram;
use crate::verifier::{MOCK_SECRET_BYTES, Verifier};

/// Who a client says he is.
#[derive(Debug, Clone)]
pub enum Account {
    /// A user with this verifier.
    Known(Verifier),
    /// Nobody. The exchange runs to its end as for anybody else, and fails there.
    Unknown(Verifier),
}

/// A login that waits for the client-first-message.
#[derive(Debug)]
pub struct ScramServer {
    account: Account,
    /// The tls-server-end-point of an encrypted connection.
    end_point: Option<Vec<u8>>,
}

/// A login that waits for the client-final-message.
pub struct ScramFinal {
    account: Account,
    /// What the client must state in base64 as its channel binding: the GS2 header again, and what it binds to.
    binding: Cow<'static, [u8]>,
    /// `client-first-message-bare "," server-first-message ","`, the known part of RFC 5802's AuthMessage.
    auth_message: String,
    /// Where in it the client's nonce and ours stand.
    nonce: Range<usize>,
}

/// A client that has proved itself.
#[derive(Debug, PartialEq, Eq)]
pub struct Proof {
    /// The server-final-message, the payload of an AuthenticationSASLFinal.
    pub message: Vec<u8>,
    /// What the client's proof has shown: enough to log in as that user elsewhere.
    pub keys: ScramKeys,
}

/// What a SASLInitialResponse holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialResponse<'m> {
    /// The SASL mechanism that the client chose.
    pub mechanism: &'m str,
    /// The client-first-message, if the client sent it along.
    pub message: Option<&'m [u8]>,
}

impl Account {
    /// An unknown user with the verifier that he would seem to have.
    pub fn unknown(secret: &[u8; MOCK_SECRET_BYTES], user: &str, iterations: u32) -> Account {
        Account::Unknown(Verifier::mock(secret, user, iterations))
    }

    fn verifier(&self) -> &Verifier {
        match self {
            Account::Known(verifier) | Account::Unknown(verifier) => verifier,
        }
    }
}

impl ScramServer {
    /// Starts a login; `end_point` is the tls-server-end-point of an encrypted connection.
    pub fn new(account: Account, end_point: Option<Vec<u8>>) -> ScramServer {
        ScramServer { account, end_point }
    }

    /// The mechanisms to offer in an AuthenticationSASL, the best first.
    pub fn mechanisms(&self) -> &'static [&'static str] {
        if self.end_point.is_some() { &[SCRAM_SHA_256_PLUS, SCRAM_SHA_256] } else { &[SCRAM_SHA_256] }
    }

    /// Takes the client-first-message and returns the server-first-message, the payload of an AuthenticationSASLContinue.
    /// `nonce` must be random and new.
    ///
    /// # Errors
    /// When the mechanism was not offered, or the message is not RFC 5802's, or asks for a binding that does not go with the
    /// mechanism or for another identity.
    pub fn on_client_first(
        self,
        mechanism: &str,
        message: &[u8],
        nonce: &[u8; NONCE_BYTES],
    ) -> Result<(Vec<u8>, ScramFinal), AuthError> {
        self.challenge(mechanism, message, &scram::base64(nonce))
    }

    fn challenge(
        self,
        mechanism: &str,
        message: &[u8],
        server_nonce: &str,
    ) -> Result<(Vec<u8>, ScramFinal), AuthError> {
        if !self.mechanisms().contains(&mechanism) {
            return Err(AuthError::ClientMalformed("a SASL mechanism that was not offered"));
        }
        let message = text(message)?;
        let (header, bare) = take_gs2_header(message)?;
        let binding = match (header, mechanism == SCRAM_SHA_256_PLUS, self.end_point) {
            (Gs2Header::Unsupported, false, _) => NOT_BOUND.as_bytes().into(),
            (Gs2Header::NotOffered, false, None) => NOT_OFFERED.as_bytes().into(),
            // Somebody in between has taken the offer away, or the client is broken. PostgreSQL's text.
            (Gs2Header::NotOffered, false, Some(_)) => {
                return Err(AuthError::ClientUnbound("SCRAM channel binding negotiation error"));
            }
            (Gs2Header::EndPoint, true, Some(data)) => [BOUND.as_bytes(), &data].concat().into(),
            (Gs2Header::EndPoint, ..) => {
                return Err(AuthError::ClientMalformed("channel binding data with a mechanism that has none"));
            }
            (Gs2Header::Unsupported | Gs2Header::NotOffered, true, _) => {
                return Err(AuthError::ClientMalformed("no channel binding data with SCRAM-SHA-256-PLUS"));
            }
        };
        let client_nonce = client_nonce(bare)?;
        let Verifier { iterations, salt, .. } = self.account.verifier();
        let mut auth_message = String::with_capacity(AUTH_MESSAGE_BYTES);
        auth_message.extend([bare, ",r=", client_nonce, server_nonce]);
        let nonce = auth_message.len() - client_nonce.len() - server_nonce.len()..auth_message.len();
        auth_message.push_str(",s=");
        scram::put_base64(&mut auth_message, salt);
        auth_message.extend([",i=", &iterations.to_string(), ","]);
        let server_first = auth_message.as_bytes()[bare.len() + 1..auth_message.len() - 1].to_vec();
        Ok((server_first, ScramFinal { account: self.account, binding, auth_message, nonce }))
    }
}

impl ScramFinal {
    /// Takes the client-final-message.
    ///
    /// # Errors
    /// [`AuthError::WrongPassword`] when the proof does not fit, and always when the user is unknown;
    /// [`AuthError::ClientUnbound`] when it is bound to another connection; [`AuthError::ClientMalformed`] when the message is
    /// not RFC 5802's or answers another challenge.
    pub fn on_client_final(self, message: &[u8]) -> Result<Proof, AuthError> {
        let message = text(message)?;
        // client-final-message = channel-binding "," nonce ["," extensions] "," proof
        let (without_proof, proof) =
            message.rsplit_once(",p=").ok_or(AuthError::ClientMalformed("the proof is missing"))?;
        let (binding, rest) = expect_attribute(without_proof, b'c', "the channel binding is missing")?;
        let (nonce, extensions) = expect_attribute(rest.unwrap_or_default(), b'r', "the nonce is missing")?;
        skip_extensions(extensions)?;
        // "[The server] MUST verify that it is the same as the GS2 header sent in the client-first-message" (RFC 5802, 5.1).
        if binding != scram::base64(&self.binding) {
            return Err(match self.binding.starts_with(BOUND.as_bytes()) {
                // The client sees another certificate than ours: somebody is in between. PostgreSQL's text.
                true => AuthError::ClientUnbound("SCRAM channel binding check failed"),
                false => AuthError::ClientMalformed("the channel binding differs from the first message"),
            });
        }
        if !bool::from(nonce.as_bytes().ct_eq(self.auth_message[self.nonce].as_bytes())) {
            return Err(AuthError::ClientMalformed("the nonce is not the one of this exchange"));
        }
        let proof =
            scram::key_from_base64(proof).ok_or(AuthError::ClientMalformed("the proof is not 32 bytes in base64"))?;

        let mut auth_message = self.auth_message;
        auth_message.push_str(without_proof);
        let Verifier { stored_key, server_key, .. } = self.account.verifier();
        let client_signature = scram::hmac(stored_key, auth_message.as_bytes());
        let client_key = scram::xor(&proof, &client_signature);
        let fits = bool::from(scram::hash(&client_key).ct_eq(stored_key));
        let server_signature = scram::hmac(server_key, auth_message.as_bytes());
        match self.account {
            Account::Known(verifier) if fits => Ok(Proof {
                message: ["v=", &scram::base64(&server_signature)].concat().into_bytes(),
                keys: ScramKeys::proved(&verifier, client_key),
            }),
            Account::Known(_) | Account::Unknown(_) => Err(AuthError::WrongPassword),
        }
    }
}

impl<'m> InitialResponse<'m> {
    /// Reads the payload of a SASLInitialResponse: "String: name of the SASL authentication mechanism that the client
    /// selected. Int32: length of SASL mechanism specific Initial Client Response that follows, or -1 if there is none"
    /// (protocol-message-formats).
    ///
    /// # Errors
    /// When the payload is anything else, or has bytes left over.
    pub fn parse(payload: &'m [u8]) -> Result<InitialResponse<'m>, AuthError> {
        let malformed = AuthError::ClientMalformed("not a SASLInitialResponse");
        let parts = || {
            let end = payload.iter().position(|byte| *byte == 0)?;
            let mechanism = std::str::from_utf8(&payload[..end]).ok()?;
            let (length, message) = payload[end + 1..].split_first_chunk()?;
            match i32::from_be_bytes(*length) {
                -1 if message.is_empty() => Some(InitialResponse { mechanism, message: None }),
                length if usize::try_from(length) == Ok(message.len()) => {
                    Some(InitialResponse { mechanism, message: Some(message) })
                }
                _ => None,
            }
        };
        parts().ok_or(malformed)
    }
}

impl fmt::Debug for ScramFinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScramFinal").field("account", &self.account).finish_non_exhaustive()
    }
}

/// RFC 5802's `gs2-cbind-flag`.
enum Gs2Header {
    /// The client cannot bind.
    Unsupported,
    /// It could, and believes that we cannot.
    NotOffered,
    /// It binds to the server's certificate.
    EndPoint,
}

/// `gs2-header = gs2-cbind-flag "," [ authzid ] ","`, and the rest of the client-first-message.
fn take_gs2_header(message: &str) -> Result<(Gs2Header, &str), AuthError> {
    let headers =
        [(NOT_BOUND, Gs2Header::Unsupported), (NOT_OFFERED, Gs2Header::NotOffered), (BOUND, Gs2Header::EndPoint)];
    for (text, header) in headers {
        if let Some(bare) = message.strip_prefix(text) {
            return Ok((header, bare));
        }
    }
    let (flag, rest) = message.split_once(',').unwrap_or_default();
    Err(match flag {
        "n" | "y" | "p=tls-server-end-point" if rest.starts_with("a=") => {
            AuthError::ClientUnsupported("an authorization identity is not supported")
        }
        _ if flag.starts_with("p=") => AuthError::ClientMalformed("unsupported channel-binding type"),
        _ => AuthError::ClientMalformed("no GS2 header"),
    })
}

/// The nonce in `client-first-message-bare = [reserved-mext ","] username "," nonce ["," extensions]`.
fn client_nonce(bare: &str) -> Result<&str, AuthError> {
    if bare.starts_with("m=") {
        // "[...] its presence in a client or a server message MUST cause authentication failure" (RFC 5802, 5.1).
        return Err(AuthError::ClientUnsupported("a mandatory extension is not supported"));
    }
    // The user is the one of the startup packet, as in PostgreSQL; what stands here is ignored, and libpq sends nothing.
    let (_, rest) = expect_attribute(bare, b'n', "the user name is missing")?;
    let (nonce, extensions) = expect_attribute(rest.unwrap_or_default(), b'r', "the nonce is missing")?;
    skip_extensions(extensions)?;
    match nonce {
        "" => Err(AuthError::ClientMalformed("the nonce is empty")),
        nonce if nonce.len() > CLIENT_NONCE_BYTES_MAX => Err(AuthError::ClientMalformed("the nonce is too long")),
        nonce if !scram::is_printable(nonce) => Err(AuthError::ClientMalformed("the nonce is not printable")),
        nonce => Ok(nonce),
    }
}

fn expect_attribute<'m>(
    message: &'m str,
    name: u8,
    missing: &'static str,
) -> Result<(&'m str, Option<&'m str>), AuthError> {
    match scram::take_attribute(message) {
        Some((attribute, rest)) if attribute.name == name => Ok((attribute.value, rest)),
        Some(_) | None => Err(AuthError::ClientMalformed(missing)),
    }
}

/// "[...] unknown optional extensions MUST be ignored" (RFC 5802, 5.1); they must still be attributes.
fn skip_extensions(mut extensions: Option<&str>) -> Result<(), AuthError> {
    while let Some(message) = extensions {
        let (_, rest) =
            scram::take_attribute(message).ok_or(AuthError::ClientMalformed("an extension is malformed"))?;
        extensions = rest;
    }
    Ok(())
}

/// RFC 5802's messages are UTF-8 without zero bytes.
fn text(message: &[u8]) -> Result<&str, AuthError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(AuthError::ClientMalformed("the message is too long"));
    }
    match std::str::from_utf8(message) {
        Ok(message) if !message.contains('\0') => Ok(message),
        Ok(_) | Err(_) => Err(AuthError::ClientMalformed("the message is not text")),
    }
}

pub(crate) const SCRAM_SHA_256: &str = "SCRAM-SHA-256";
pub(crate) const SCRAM_SHA_256_PLUS: &str = "SCRAM-SHA-256-PLUS";

const NOT_BOUND: &str = "n,,";
const NOT_OFFERED: &str = "y,,";
const BOUND: &str = "p=tls-server-end-point,,";

/// Room for an AuthMessage of a usual length; libpq's has 172 letters.
const AUTH_MESSAGE_BYTES: usize = 192;

/// The random bytes in the server's nonce; PostgreSQL's SCRAM_RAW_NONCE_LEN.
pub const NONCE_BYTES: usize = 18;

/// The longest message of a client; PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The longest nonce of a client. libpq's has 24 letters.
const CLIENT_NONCE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests;
