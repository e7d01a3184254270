//! The proxy as the server of a client that proves itself by SCRAM-SHA-256 (RFC 5802 with RFC 7677).
//!
//! Each step consumes the one before, so that no message can be taken twice or out of order. Channel binding is not
//! offered: it needs the certificate of a TLS connection, which would arrive as an argument of [`ScramServer::new`].

use std::fmt;

use subtle::ConstantTimeEq;

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
}

/// A login that waits for the client-final-message.
pub struct ScramFinal {
    account: Account,
    /// What the client must repeat in base64 as its channel binding.
    gs2_header: &'static str,
    /// The client's nonce and ours.
    nonce: String,
    /// `client-first-message-bare "," server-first-message ","`, the known part of RFC 5802's AuthMessage.
    auth_message: String,
}

/// What a SASLInitialResponse holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialResponse<'m> {
    /// The SASL mechanism that the client chose; to be compared with [`MECHANISMS`].
    pub mechanism: &'m str,
    /// The client-first-message, if the client sent it along.
    pub message: Option<&'m [u8]>,
}

impl Account {
    /// An unknown user with the verifier that he would seem to have.
    pub fn unknown(secret: &[u8; MOCK_SECRET_BYTES], user: &str) -> Account {
        Account::Unknown(Verifier::mock(secret, user))
    }

    fn verifier(&self) -> &Verifier {
        match self {
            Account::Known(verifier) | Account::Unknown(verifier) => verifier,
        }
    }
}

impl ScramServer {
    /// Starts a login.
    pub fn new(account: Account) -> ScramServer {
        ScramServer { account }
    }

    /// Takes the client-first-message and returns the server-first-message, the payload of an AuthenticationSASLContinue.
    /// `nonce` must be random and new.
    ///
    /// # Errors
    /// When the message is not RFC 5802's, or asks for channel binding or another identity.
    pub fn on_client_first(
        self,
        message: &[u8],
        nonce: &[u8; NONCE_BYTES],
    ) -> Result<(Vec<u8>, ScramFinal), AuthError> {
        self.challenge(message, &scram::base64(nonce))
    }

    fn challenge(self, message: &[u8], server_nonce: &str) -> Result<(Vec<u8>, ScramFinal), AuthError> {
        let message = text(message)?;
        let (gs2_header, bare) = take_gs2_header(message)?;
        let nonce = format!("{}{server_nonce}", client_nonce(bare)?);
        let Verifier { iterations, salt, .. } = self.account.verifier();
        let server_first = format!("r={nonce},s={},i={iterations}", scram::base64(salt));
        let auth_message = format!("{bare},{server_first},");
        let next = ScramFinal { account: self.account, gs2_header, nonce, auth_message };
        Ok((server_first.into_bytes(), next))
    }
}

impl ScramFinal {
    /// Takes the client-final-message and returns the server-final-message, the payload of an AuthenticationSASLFinal.
    ///
    /// # Errors
    /// [`AuthError::WrongPassword`] when the proof does not fit, and always when the user is unknown;
    /// [`AuthError::ClientMalformed`] when the message is not RFC 5802's or answers another challenge.
    pub fn on_client_final(self, message: &[u8]) -> Result<Vec<u8>, AuthError> {
        let message = text(message)?;
        // client-final-message = channel-binding "," nonce ["," extensions] "," proof
        let (without_proof, proof) =
            message.rsplit_once(",p=").ok_or(AuthError::ClientMalformed("the proof is missing"))?;
        let (binding, rest) = expect_attribute(without_proof, b'c', "the channel binding is missing")?;
        let (nonce, extensions) = expect_attribute(rest.unwrap_or_default(), b'r', "the nonce is missing")?;
        skip_extensions(extensions)?;
        // "[The server] MUST verify that it is the same as the GS2 header sent in the client-first-message" (RFC 5802, 5.1).
        if binding != scram::base64(self.gs2_header.as_bytes()) {
            return Err(AuthError::ClientMalformed("the channel binding differs from the first message"));
        }
        if !bool::from(nonce.as_bytes().ct_eq(self.nonce.as_bytes())) {
            return Err(AuthError::ClientMalformed("the nonce is not the one of this exchange"));
        }
        let proof =
            scram::key_from_base64(proof).ok_or(AuthError::ClientMalformed("the proof is not 32 bytes in base64"))?;

        let auth_message = self.auth_message + without_proof;
        let Verifier { stored_key, server_key, .. } = self.account.verifier();
        let client_signature = scram::hmac(stored_key, auth_message.as_bytes());
        let client_key = scram::xor(&proof, &client_signature);
        let fits = bool::from(scram::hash(&client_key).ct_eq(stored_key));
        let server_signature = scram::hmac(server_key, auth_message.as_bytes());
        match self.account {
            Account::Known(_) if fits => Ok(format!("v={}", scram::base64(&server_signature)).into_bytes()),
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

/// `gs2-header = gs2-cbind-flag "," [ authzid ] ","`, and the rest of the client-first-message.
fn take_gs2_header(message: &str) -> Result<(&'static str, &str), AuthError> {
    for header in ["n,,", "y,,"] {
        // "y" says that the client could bind and believes that the server cannot, which is so.
        if let Some(bare) = message.strip_prefix(header) {
            return Ok((header, bare));
        }
    }
    Err(match message.as_bytes() {
        [b'p', b'=', ..] => AuthError::ClientUnsupported("channel binding was not offered"),
        [b'n' | b'y', b',', b'a', b'=', ..] => {
            AuthError::ClientUnsupported("an authorization identity is not supported")
        }
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

/// The mechanisms to offer in an AuthenticationSASL, the best first.
pub const MECHANISMS: &[&str] = &["SCRAM-SHA-256"];

/// The random bytes in the server's nonce; PostgreSQL's SCRAM_RAW_NONCE_LEN.
pub const NONCE_BYTES: usize = 18;

/// The longest message of a client; PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH.
const MESSAGE_BYTES_MAX: usize = 1024;

/// The longest nonce of a client. libpq's has 24 letters.
const CLIENT_NONCE_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests;
