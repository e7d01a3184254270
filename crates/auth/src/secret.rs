//! A stored secret in one of the forms that PostgreSQL's `pg_authid.rolpassword` has, and the check of a plain password
//! against it.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use crate::credential::{Credential, ScramKeys};
use crate::error::AuthError;
use crate::md5;
use crate::scram;
use crate::verifier::{PREFIX, Verifier};

/// What is known about a user's password. `Debug` shows its kind only.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself.
    Plain(String),
    /// `md5` and the hexadecimal hash of password and user name.
    Md5(String),
    /// A SCRAM-SHA-256 verifier.
    Scram(Verifier),
}

impl Secret {
    /// Tells the form as PostgreSQL's `get_password_type` does.
    ///
    /// # Errors
    /// When the text starts like a verifier and is none. PostgreSQL would take it for a plain password; here a damaged
    /// verifier must not become a password that fits.
    pub fn parse(text: &str) -> Result<Secret, AuthError> {
        if text.starts_with(PREFIX) {
            return text.parse().map(Secret::Scram);
        }
        Ok(if is_md5(text) { Secret::Md5(text.to_owned()) } else { Secret::Plain(text.to_owned()) })
    }

    /// What a server can be logged in to with, as far as the secret alone says: nothing where it is a verifier.
    pub fn credential(&self) -> Credential {
        match self {
            Secret::Plain(password) if password.is_empty() => Credential::None,
            Secret::Plain(password) => Credential::Password(password.clone()),
            Secret::Md5(hash) => Credential::Md5(hash.clone()),
            Secret::Scram(_) => Credential::None,
        }
    }

    /// The verifier to check a SCRAM client against. `salt` and `iterations` are for a plain password, for which the call
    /// takes milliseconds: make it once, not per login. `None` for an md5 hash, from which no verifier can be made.
    pub fn verifier(&self, salt: &[u8], iterations: u32) -> Option<Verifier> {
        match self {
            // PostgreSQL lets nobody in with an empty password.
            Secret::Plain(password) if password.is_empty() => None,
            Secret::Plain(password) => Some(Verifier::from_password(password.as_bytes(), salt, iterations)),
            Secret::Md5(_) => None,
            Secret::Scram(verifier) => Some(verifier.clone()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Secret::Plain(_) => "Plain(***)",
            Secret::Md5(_) => "Md5(***)",
            Secret::Scram(_) => "Scram(***)",
        })
    }
}

/// Checks a password that was sent in plain text; what is known then is returned. It takes the same milliseconds of computing
/// whether there is such a user, such a password, or neither; `mock` is the verifier that an unknown user would seem to have.
pub fn password_proves(secret: Option<&Secret>, mock: &Verifier, user: &str, password: &[u8]) -> Option<Credential> {
    let verifier = match secret {
        Some(Secret::Scram(verifier)) => verifier,
        Some(Secret::Plain(_) | Secret::Md5(_)) | None => mock,
    };
    let keys = ScramKeys::from_password(password, &verifier.salt, verifier.iterations);
    let (fits, credential) = match secret {
        // Hashed first, so that the length does not show in the time either.
        Some(Secret::Plain(stored)) => {
            let fits = scram::hash(stored.as_bytes()).ct_eq(&scram::hash(password));
            (bool::from(fits), Credential::Password(stored.clone()))
        }
        Some(Secret::Md5(stored)) => {
            let fits = md5::hash_of(password, user).as_bytes().ct_eq(stored.as_bytes());
            (bool::from(fits), Credential::Md5(stored.clone()))
        }
        Some(Secret::Scram(stored)) => (keys.fit(stored), Credential::Keys(Arc::new(keys))),
        None => (false, Credential::None),
    };
    // An empty password is no password: PostgreSQL lets nobody in with it.
    (fits && !password.is_empty()).then_some(credential)
}

/// `md5` and 32 hexadecimal digits in lower case.
fn is_md5(text: &str) -> bool {
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix("md5").is_some_and(|hash| hash.len() == 32 && hash.bytes().all(hexadecimal))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mock() -> Verifier {
        Verifier::mock(&[7; crate::MOCK_SECRET_BYTES], "u", 10)
    }

    /// The `rolpassword` that PostgreSQL 15 stored, the role and its password.
    #[test]
    fn stored_by_postgresql() {
        let check = |stored: &str, user: &str, password: &str, wrong: &str| {
            let secret = Secret::parse(stored).unwrap();
            let proves = |password: &str| password_proves(Some(&secret), &mock(), user, password.as_bytes());
            let expected = match &secret {
                Secret::Scram(verifier) => {
                    let Some(Credential::Keys(keys)) = proves(password) else { panic!("{stored}: {password}") };
                    assert!(keys.fit(verifier));
                    Credential::Keys(keys)
                }
                known => known.credential(),
            };
            assert_eq!(proves(password), Some(expected), "{stored}: {password}");
            assert_eq!(proves(wrong), None, "{stored}: {wrong}");
            assert_eq!(proves(""), None, "{stored}");
            assert!(!format!("{secret:?}").contains(&stored[14..]));
        };
        let pencil = "SCRAM-SHA-256$4096:Q8/xR659yt93ETET2427fQ==$\
                      2JQgDdzjtZeyd98SSQ4re/qOpkh5g8ri538ArY/zGyk=:zU/gw0xDF9W3DagC53Mwhe0Gzz7OoEhhxlAn0dAN+8k=";
        check(pencil, "s", "pencil", "Pencil");
        check(pencil, "another", "pencil", pencil);
        // SASLprep drops the soft hyphen and spells the Roman nine.
        let prepared = "SCRAM-SHA-256$4096:5pkI0vNU6ivqma7uM0VLtA==$\
                        qstEdCV0XUu4W6LURpFfTK3irwsjOEgJvySWJQI+jIg=:TqSswL/io2Y44bllYend2E3c0SQbWU3zC7qunobWF7g=";
        check(prepared, "u", "I\u{ad}X\u{2168}", "IX");
        check(prepared, "u", "IXIX", "ixix");
        check("md58bbf3f45673bf67d02e4214911f3417f", "m", "pencil", "md58bbf3f45673bf67d02e4214911f3417f");
        check("md5ae20ac54f1d28ba4dd9d7878a7c3bf4f", "Ünï", "pencil", "pencil ");
        check("a plain password", "p", "a plain password", "a plain passwor");
    }

    /// An md5 hash is of one user's name.
    #[test]
    fn md5_of_another_user() {
        let secret = Secret::parse("md58bbf3f45673bf67d02e4214911f3417f").unwrap();
        assert_eq!(password_proves(Some(&secret), &mock(), "M", b"pencil"), None);
    }

    #[test]
    fn nobody() {
        let check = |secret: Option<Secret>, password: &[u8]| {
            assert_eq!(password_proves(secret.as_ref(), &mock(), "u", password), None, "{secret:?}");
        };
        check(None, b"");
        check(None, b"pencil");
        check(Some(Secret::Plain(String::new())), b"");
        check(Some(Secret::Md5(md5::hash_of(b"", "u"))), b"");
        check(Some(Secret::Scram(Verifier::from_password(b"", b"salt", 1))), b"");
    }

    #[test]
    fn forms() {
        let check = |text: &str, expected: &str| {
            let found = Secret::parse(text).map_or_else(|error| format!("{error:?}"), |secret| format!("{secret:?}"));
            assert_eq!(found, expected, "{text}");
        };
        check("", "Plain(***)");
        check("pencil", "Plain(***)");
        check("md5", "Plain(***)");
        check("md58bbf3f45673bf67d02e4214911f3417f", "Md5(***)");
        check("md58bbf3f45673bf67d02e4214911f3417", "Plain(***)");
        check("md58BBF3F45673BF67D02E4214911F3417F", "Plain(***)");
        check("md58bbf3f45673bf67d02e4214911f3417g", "Plain(***)");
        check("SCRAM-SHA-256", "Plain(***)");
        check("SCRAM-SHA-256$", "BrokenVerifier");
        check("SCRAM-SHA-256$4096:salt", "BrokenVerifier");
    }

    #[test]
    fn verifiers() {
        let verifier = Verifier::from_password(b"pencil", b"salt", 5);
        let scram = Secret::Scram(verifier.clone());
        assert_eq!(scram.verifier(b"other", 9), Some(verifier.clone()));
        assert_eq!(Secret::Plain("pencil".into()).verifier(b"salt", 5), Some(verifier));
        assert_eq!(Secret::Md5("md58bbf3f45673bf67d02e4214911f3417f".into()).verifier(b"salt", 5), None);
    }
}
