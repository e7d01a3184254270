//! The client's part of SCRAM-SHA-256 (RFC 5802 with RFC 7677), for logging in to servers: with the password, or with the keys
//! that a client's own login has shown.
//!
//! Each step consumes the one before. What the messages are wrapped in is `server.rs`'s business.

use subtle::ConstantTimeEq;

use crate::client::NONCE_BYTES;
use crate::credential::{Credential, ScramKeys};
use crate::error::AuthError;
use crate::scram::{self, Key};

/// A login that has sent its client-first-message.
pub(crate) struct Prover {
    /// The GS2 header, and behind it what the TLS connection is bound by.
    binding: Vec<u8>,
    /// `client-first-message-bare`.
    bare: String,
    nonce: String,
}

/// A login that has sent its proof, and waits for the server's.
pub(crate) struct Proved {
    server_signature: Key,
}

impl Prover {
    /// Starts a login; the second value is the client-first-message. `nonce` must be random and new.
    pub(crate) fn start(binding: &Gs2<'_>, nonce: &[u8; NONCE_BYTES]) -> (Prover, Vec<u8>) {
        let nonce = scram::base64(nonce);
        // "[...] the server ignores the user name that is sent in the SCRAM messages" (PostgreSQL, sasl-authentication).
        let bare = format!("n=,r={nonce}");
        let header = binding.header();
        let message = format!("{header}{bare}").into_bytes();
        let binding = [header.as_bytes(), binding.data()].concat();
        (Prover { binding, bare, nonce }, message)
    }

    /// Takes the server-first-message and returns the client-final-message.
    pub(crate) fn prove(self, message: &[u8], credential: &Credential) -> Result<(Proved, Vec<u8>), AuthError> {
        let challenge = Challenge::read(message, &self.nonce)?;
        let derived;
        let keys: &ScramKeys = match credential {
            // Nobody starts with these.
            Credential::None | Credential::Md5(_) => return Err(AuthError::NoPassword),
            Credential::Password(password) => {
                derived = ScramKeys::from_password(password.as_bytes(), &challenge.salt, challenge.iterations);
                &derived
            }
            Credential::Keys(keys) if keys.is_salted_like(&challenge.salt, challenge.iterations) => keys,
            Credential::Keys(_) => return Err(AuthError::OtherVerifier),
        };
        let without_proof = format!("c={},r={}", scram::base64(&self.binding), challenge.nonce);
        let auth_message = format!("{},{},{without_proof}", self.bare, challenge.text);
        let signature = scram::hmac(&keys.stored_key(), auth_message.as_bytes());
        let proof = scram::xor(&keys.client_key, &signature);
        let proved = Proved { server_signature: scram::hmac(&keys.server_key, auth_message.as_bytes()) };
        Ok((proved, format!("{without_proof},p={}", scram::base64(&proof)).into_bytes()))
    }
}

impl Proved {
    /// Takes the server-final-message: `server-final-message = (server-error / verifier) ["," extensions]`.
    pub(crate) fn check(&self, message: &[u8]) -> Result<(), AuthError> {
        if let Some(error) = message.strip_prefix(b"e=") {
            return Err(AuthError::ServerRefused(String::from_utf8_lossy(error).into_owned()));
        }
        let signature = std::str::from_utf8(message).ok().and_then(|text| text.strip_prefix("v="));
        let signature = signature.and_then(scram::key_from_base64).ok_or(AuthError::ServerUnproven)?;
        if bool::from(signature.ct_eq(&self.server_signature)) { Ok(()) } else { Err(AuthError::ServerUnproven) }
    }
}

/// What a login says of channel binding: RFC 5802's `gs2-cbind-flag`.
pub(crate) enum Gs2<'b> {
    /// There is no TLS to bind to.
    Unsupported,
    /// There is, and the server has not offered to bind: should somebody have removed its offer, it will notice.
    NotOffered,
    /// Bound to the server's certificate by these bytes.
    EndPoint(&'b [u8]),
}

impl Gs2<'_> {
    fn header(&self) -> &'static str {
        match self {
            Gs2::Unsupported => "n,,",
            Gs2::NotOffered => "y,,",
            Gs2::EndPoint(_) => "p=tls-server-end-point,,",
        }
    }

    fn data(&self) -> &[u8] {
        match self {
            Gs2::Unsupported | Gs2::NotOffered => &[],
            Gs2::EndPoint(data) => data,
        }
    }
}

/// `server-first-message = nonce "," salt "," iteration-count`; PostgreSQL sends no extension, and libpq takes none.
struct Challenge<'m> {
    text: &'m str,
    nonce: &'m str,
    salt: Vec<u8>,
    iterations: u32,
}

impl<'m> Challenge<'m> {
    fn read(message: &'m [u8], own_nonce: &str) -> Result<Challenge<'m>, AuthError> {
        let malformed = |what: &str| AuthError::ServerMalformed(what.into());
        let text = std::str::from_utf8(message).map_err(|_| malformed("the challenge is not text"))?;
        let mut rest = Some(text);
        let mut take = |name: u8, missing| match rest.and_then(scram::take_attribute) {
            Some((attribute, following)) if attribute.name == name => {
                rest = following;
                Ok(attribute.value)
            }
            Some(_) | None => Err(malformed(missing)),
        };
        let nonce = take(b'r', "the nonce is missing")?;
        let salt = take(b's', "the salt is missing")?;
        let count = take(b'i', "the iteration count is missing")?;
        if rest.is_some() {
            return Err(malformed("something follows the iteration count"));
        }
        if nonce.len() > NONCE_BYTES_MAX {
            return Err(malformed("the nonce is too long"));
        }
        // A server that adds nothing to our nonce could repeat an exchange that it has overheard.
        if !scram::is_printable(nonce) || nonce.strip_prefix(own_nonce).is_none_or(str::is_empty) {
            return Err(malformed("the nonce is not ours with the server's behind it"));
        }
        let salt = scram::base64_decode(salt).filter(|salt| !salt.is_empty()).ok_or(malformed("the salt is broken"))?;
        // "posit-number = %x31-39 *DIGIT" (RFC 5802, 7).
        let is_positive = !count.starts_with('0') && count.bytes().all(|byte| byte.is_ascii_digit());
        let iterations = if is_positive { count.parse().ok() } else { None };
        let iterations: u32 = iterations.ok_or(malformed("the iteration count is not a positive number"))?;
        if iterations > ITERATIONS_MAX {
            return Err(malformed("the iteration count is too high"));
        }
        Ok(Challenge { text, nonce, salt, iterations })
    }
}

/// The longest nonce of a server, ours included. PostgreSQL's has 48 letters.
pub(crate) const NONCE_BYTES_MAX: usize = 512;

/// The most iterations that a server may have us compute: about a second's worth. PostgreSQL's default is 4096.
pub(crate) const ITERATIONS_MAX: u32 = 1_000_000;
