//! What the proxy logs in to servers with: a password, or as much of one as a client's login has shown.
//!
//! Owns these secrets' form. Where they are kept, and for how long, is the caller's business.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use crate::scram::{self, Key};
use crate::verifier::Verifier;

/// What is known of a user's password, for logging in as that user. `Debug` shows its kind only.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credential {
    /// Nothing: only a server that asks for nothing lets us in.
    #[default]
    None,
    /// The password, with which any method can be answered.
    Password(String),
    /// `md5` and the hash of password and user name: enough for servers that ask for md5.
    Md5(String),
    /// SCRAM's keys: enough for servers that store the verifier which a client has proved itself against.
    Keys(Arc<ScramKeys>),
}

/// What a successful SCRAM-SHA-256 exchange shows to whoever holds the verifier: enough to log in to another server that holds
/// the same one, with neither the password nor a way back to it. Wiped from memory when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramKeys {
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) client_key: Key,
    pub(crate) server_key: Key,
}

impl Credential {
    /// The kind, for people.
    pub fn kind(&self) -> &'static str {
        match self {
            Credential::None => "nothing",
            Credential::Password(_) => "a password",
            Credential::Md5(_) => "an md5 hash",
            Credential::Keys(_) => "SCRAM keys",
        }
    }
}

impl ScramKeys {
    /// The keys of a password; takes as long as `iterations` demand.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> ScramKeys {
        let mut salted_password = scram::salted_password(password, salt, iterations);
        let keys = ScramKeys {
            iterations,
            salt: salt.to_vec(),
            client_key: scram::hmac(&salted_password, b"Client Key"),
            server_key: scram::hmac(&salted_password, b"Server Key"),
        };
        salted_password.zeroize();
        keys
    }

    /// The keys that a client's proof has shown.
    pub(crate) fn proved(verifier: &Verifier, client_key: Key) -> ScramKeys {
        let Verifier { iterations, salt, server_key, .. } = verifier;
        ScramKeys { iterations: *iterations, salt: salt.clone(), client_key, server_key: *server_key }
    }

    /// Whether they are of this verifier.
    pub fn fit(&self, verifier: &Verifier) -> bool {
        self.is_salted_like(&verifier.salt, verifier.iterations)
            && bool::from(self.stored_key().ct_eq(&verifier.stored_key))
    }

    /// Whether a server with this salt and count may hold the verifier that they are of.
    pub(crate) fn is_salted_like(&self, salt: &[u8], iterations: u32) -> bool {
        self.salt == salt && self.iterations == iterations
    }

    pub(crate) fn stored_key(&self) -> Key {
        scram::hash(&self.client_key)
    }
}

impl Drop for ScramKeys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for ScramKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramKeys(***)")
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (***)", self.kind())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_verifiers() {
        let keys = ScramKeys::from_password(b"pencil", b"salt", 10);
        let check = |verifier: Verifier, fits| assert_eq!(keys.fit(&verifier), fits, "{verifier}");
        check(Verifier::from_password(b"pencil", b"salt", 10), true);
        check(Verifier::from_password(b"Pencil", b"salt", 10), false);
        check(Verifier::from_password(b"pencil", b"Salt", 10), false);
        check(Verifier::from_password(b"pencil", b"salt", 11), false);
    }

    #[test]
    fn debug_hides() {
        let keys = ScramKeys::from_password(b"pencil", b"salt", 1);
        let all = [Credential::Password("pencil".into()), Credential::Md5("md5".into()), Credential::Keys(keys.into())];
        assert_eq!(format!("{all:?}"), "[a password (***), an md5 hash (***), SCRAM keys (***)]");
    }
}
