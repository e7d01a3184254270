//! A password, wrapped so that no log line, error or debug print shows it by accident.
//!
//! Checking a password is the business of the crate `auth`; this type only keeps it from sight.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A password or verifier. Only [`Secret::expose`] shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a password.
    pub fn new(password: impl Into<String>) -> Secret {
        Secret(password.into())
    }

    /// The password itself, for the code that logs in with it or checks against it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Whether PostgreSQL would take this text for a stored hash instead of a password (`get_password_type` in its crypt.c).
pub(crate) fn is_hash(password: &str) -> bool {
    is_md5(password) || password.starts_with(SCRAM_PREFIX)
}

/// Why a text cannot be a user's password: it is a hash, but not one that SCRAM-SHA-256 can check against.
pub(crate) fn flaw(password: &str) -> Option<&'static str> {
    if is_md5(password) {
        return Some("is an md5 hash, against which SCRAM-SHA-256 cannot be checked: write the password or a verifier");
    }
    let verifier = password.strip_prefix(SCRAM_PREFIX)?;
    if is_verifier(verifier) {
        return None;
    }
    Some(
        "is a broken verifier: it must be \"SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY\", as in pg_authid.rolpassword",
    )
}

/// `md5` and 32 hexadecimal digits.
pub(crate) fn is_md5(password: &str) -> bool {
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    password.strip_prefix("md5").is_some_and(|hash| hash.len() == 32 && hash.bytes().all(hexadecimal))
}

/// What follows the prefix of RFC 5803's verifier, as PostgreSQL writes it: `ITERATIONS:SALT$STOREDKEY:SERVERKEY`.
fn is_verifier(rest: &str) -> bool {
    let parts = || {
        let (parameters, keys) = rest.split_once('$')?;
        let (iterations, salt) = parameters.split_once(':')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        let iterations: u32 = iterations.parse().ok()?;
        let salt = STANDARD.decode(salt).ok()?;
        let key_bytes = [STANDARD.decode(stored_key).ok()?.len(), STANDARD.decode(server_key).ok()?.len()];
        Some(iterations > 0 && !salt.is_empty() && key_bytes == [SHA256_BYTES; 2])
    };
    parts().unwrap_or(false)
}

const SCRAM_PREFIX: &str = "SCRAM-SHA-256$";
const SHA256_BYTES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    const VERIFIER: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
                            WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn hidden() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:#?}", Some(&secret)), "*** *** Some(\n    ***,\n)");
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn flaws() {
        let check = |password: &str, expected: Option<&str>| match (flaw(password), expected) {
            (None, None) => {}
            (Some(flaw), Some(expected)) => assert!(flaw.contains(expected), "{password}: {flaw}"),
            (found, _) => panic!("{password}: {found:?}"),
        };
        check("plain", None);
        check("md5sum is my password", None);
        check("md56d3a4e2b0f1c5d7e8f9a0b1c2d3e4f50", Some("md5 hash"));
        check("md56D3A4E2B0F1C5D7E8F9A0B1C2D3E4F50", None);
        check(VERIFIER, None);
        check(&VERIFIER.replace("4096", "0"), Some("broken"));
        check(&VERIFIER.replace("4096", "-1"), Some("broken"));
        check(&VERIFIER.replace("4096:", "4096"), Some("broken"));
        check(&VERIFIER.replace("W22Z", "W2*Z"), Some("broken"));
        check(&VERIFIER.replace("W22ZaJ0SNY7soEsUEjb6gQ==", ""), Some("broken"));
        check(&VERIFIER.replace("2dU=", "2dU"), Some("broken"));
        check(&VERIFIER.replace("wfPL", ""), Some("broken"));
        check(&format!("{VERIFIER}:x"), Some("broken"));
        check("SCRAM-SHA-256$", Some("broken"));
    }
}
