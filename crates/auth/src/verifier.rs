//! What PostgreSQL stores instead of a password: RFC 5803's verifier, and a stand-in for users that do not exist.
//!
//! Checking a client's proof against a verifier is in `client.rs`.

use std::fmt;
use std::str::FromStr;

use crate::credential::ScramKeys;
use crate::error::AuthError;
use crate::scram::{self, Key};

/// A SCRAM-SHA-256 verifier. It checks a password and cannot be turned back into one, yet it is worth hiding: it lets its
/// holder guess at leisure, so `Debug` shows no key. [`fmt::Display`] writes it in full, as in `pg_authid.rolpassword`.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    pub(crate) iterations: u32,
    pub(crate) salt: Vec<u8>,
    pub(crate) stored_key: Key,
    pub(crate) server_key: Key,
}

impl Verifier {
    /// Makes the verifier of a password. It takes as long as `iterations` demand: milliseconds for the usual 4096.
    ///
    /// No iterations count as one, which RFC 5802's arithmetic cannot do without.
    pub fn from_password(password: &[u8], salt: &[u8], iterations: u32) -> Verifier {
        Verifier::of(&ScramKeys::from_password(password, salt, iterations.max(1)))
    }

    /// How much work a guess is.
    pub fn iterations(&self) -> u32 {
        self.iterations
    }

    /// The verifier that these keys are of.
    pub(crate) fn of(keys: &ScramKeys) -> Verifier {
        let ScramKeys { iterations, salt, server_key, .. } = keys;
        Verifier { iterations: *iterations, salt: salt.clone(), stored_key: keys.stored_key(), server_key: *server_key }
    }

    /// The stand-in for a user that does not exist. It is the same for the same name each time, as a real one would be, and
    /// no password fits it. PostgreSQL calls this mock authentication (`mock_scram_secret` in its auth-scram.c).
    pub fn mock(secret: &[u8; MOCK_SECRET_BYTES], user: &str, iterations: u32) -> Verifier {
        Verifier {
            iterations: iterations.max(1),
            salt: salt_for(secret, user).to_vec(),
            // Nobody is shown these, and nothing is known that has such a hash.
            stored_key: [0; 32],
            server_key: [0; 32],
        }
    }
}

impl FromStr for Verifier {
    type Err = AuthError;

    /// Reads PostgreSQL's form of RFC 5803: `SCRAM-SHA-256$4096:salt$stored:server`.
    fn from_str(text: &str) -> Result<Verifier, AuthError> {
        let parts = || {
            let (parameters, keys) = text.strip_prefix(PREFIX)?.split_once('$')?;
            let (iterations, salt) = parameters.split_once(':')?;
            let (stored_key, server_key) = keys.split_once(':')?;
            let verifier = Verifier {
                iterations: iterations.parse().ok()?,
                salt: scram::base64_decode(salt)?,
                stored_key: scram::key_from_base64(stored_key)?,
                server_key: scram::key_from_base64(server_key)?,
            };
            (verifier.iterations > 0 && !verifier.salt.is_empty()).then_some(verifier)
        };
        parts().ok_or(AuthError::BrokenVerifier)
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Verifier { iterations, salt, stored_key, server_key } = self;
        let [salt, stored_key, server_key] = [&salt[..], stored_key, server_key].map(scram::base64);
        write!(f, "{PREFIX}{iterations}:{salt}${stored_key}:{server_key}")
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}:***", self.iterations)
    }
}

/// The secret behind the verifiers of unknown users, from what only this machine or its administrator knows. As with PostgreSQL's
/// `mock_authentication_nonce`, it must be the same after a restart, since the salt of a user that exists is. What it is made of
/// should have as many random bits: strangers are shown what comes of it, and may try to guess.
pub fn mock_secret(source: &[u8]) -> [u8; MOCK_SECRET_BYTES] {
    scram::hmac(source, b"hakem mock authentication")
}

/// The salt for a user whose password is known in plain text. Made the same way as the salt of [`Verifier::mock`], so that
/// neither its length nor its constancy tells a user that exists from one that does not.
pub fn salt_for(secret: &[u8; MOCK_SECRET_BYTES], user: &str) -> [u8; SALT_BYTES] {
    let derived = scram::hmac(secret, &[b"salt\0", user.as_bytes()].concat());
    std::array::from_fn(|at| derived[at])
}

/// PostgreSQL's SCRAM_SHA_256_DEFAULT_ITERATIONS; RFC 7677 asks for at least as many.
pub const DEFAULT_ITERATIONS: u32 = 4096;

/// PostgreSQL's SCRAM_DEFAULT_SALT_LEN.
pub const SALT_BYTES: usize = 16;

/// The length of the secret behind the verifiers of unknown users; PostgreSQL's MOCK_AUTH_NONCE_LEN.
pub const MOCK_SECRET_BYTES: usize = 32;

pub(crate) const PREFIX: &str = "SCRAM-SHA-256$";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STORED: &str = "SCRAM-SHA-256$4096:Q8/xR659yt93ETET2427fQ==$\
                          2JQgDdzjtZeyd98SSQ4re/qOpkh5g8ri538ArY/zGyk=:zU/gw0xDF9W3DagC53Mwhe0Gzz7OoEhhxlAn0dAN+8k=";

    /// PostgreSQL 15 stored this for the password "pencil".
    #[test]
    fn as_postgresql() {
        let stored: Verifier = STORED.parse().unwrap();
        assert_eq!(stored.to_string(), STORED);
        assert_eq!(Verifier::from_password(b"pencil", &stored.salt, 4096), stored);
        assert_eq!(format!("{stored:?}"), "SCRAM-SHA-256$4096:***");
        // And the client library that drivers use.
        let theirs = postgres_protocol::password::scram_sha_256(b"pencil");
        let verifier: Verifier = theirs.parse().unwrap();
        assert_eq!(verifier.to_string(), theirs);
        assert_eq!(Verifier::from_password(b"pencil", &verifier.salt, verifier.iterations), verifier);
    }

    #[test]
    fn broken() {
        let check = |from: &str, to: &str| {
            assert!(STORED.contains(from), "{from}");
            let text = STORED.replacen(from, to, 1);
            assert_eq!(text.parse::<Verifier>(), Err(AuthError::BrokenVerifier), "{text}");
        };
        check("SCRAM", "scram");
        check("$4096", "$");
        check("$4096", "$0");
        check("$4096", "$-1");
        check("$4096", "$4294967296");
        check("$4096:", "$4096");
        check("Q8/xR659yt93ETET2427fQ==", "");
        check("fQ==$", "fQ=$");
        check("fQ==$", "fQ==:");
        // Bits that decode to nothing would give one salt two spellings.
        check("fQ==$", "fR==$");
        check("2JQg", "2JQgAAAA");
        check("2JQg", "");
        check("2JQg", " 2JQg");
        check("+8k=", "+8k");
        check("+8k=", "+8k=:");
        check("+8k=", "+8k=\n");
    }

    /// A restart changes neither who exists nor who does not; another machine is another.
    #[test]
    fn nobody_stays_nobody() {
        let mock = |source: &[u8]| Verifier::mock(&mock_secret(source), "nobody", 4096).to_string();
        assert_eq!(
            mock(b"a source"),
            "SCRAM-SHA-256$4096:7LOwyq+f00i13aM8GaLEhA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="
        );
        assert_ne!(mock(b"a source"), mock(b"another source"));
    }

    #[test]
    fn no_iterations() {
        assert_eq!(Verifier::from_password(b"x", b"salt", 0), Verifier::from_password(b"x", b"salt", 1));
    }

    proptest! {
        #[test]
        fn text_and_back(password in any::<Vec<u8>>(), salt in prop::collection::vec(any::<u8>(), 1..40), iterations in 1_u32..9) {
            let verifier = Verifier::from_password(&password, &salt, iterations);
            prop_assert_eq!(verifier.to_string().parse(), Ok(verifier));
        }

        #[test]
        fn random_text(text in any::<String>(), tail in "[0-9]{1,2}:[a-zA-Z0-9+/=]{0,9}[$][a-zA-Z0-9+/=]{0,9}:[a-zA-Z0-9+/=]{0,9}") {
            prop_assert!(text.parse::<Verifier>().is_err());
            let broken = format!("{PREFIX}{tail}");
            prop_assert!(broken.parse::<Verifier>().is_err());
        }
    }
}
