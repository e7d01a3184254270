//! A stored secret in one of the forms that PostgreSQL's `pg_authid.rolpassword` has, and the check of a plain password
//! against it.

use std::fmt;

use postgres_protocol::password;
use subtle::ConstantTimeEq;

use crate::error::AuthError;
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

    /// The verifier to check a SCRAM client against. `salt` and `iterations` are for a plain password, for which the call
    /// takes milliseconds: make it once, not per login. `None` for an md5 hash, from which no verifier can be made.
    pub fn verifier(&self, salt: &[u8], iterations: u32) -> Option<Verifier> {
        match self {
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

/// Whether a password that was sent in plain text fits the secret of `user`. The time it takes does not depend on how much
/// of the password is right.
pub fn password_matches(secret: &Secret, user: &str, password: &[u8]) -> bool {
    match secret {
        // An empty password is no password: PostgreSQL lets nobody in with it.
        _ if password.is_empty() => false,
        // Hashed first, so that the length does not show in the time either.
        Secret::Plain(stored) => scram::hash(stored.as_bytes()).ct_eq(&scram::hash(password)).into(),
        Secret::Md5(stored) => password::md5(password, user).as_bytes().ct_eq(stored.as_bytes()).into(),
        Secret::Scram(stored) => {
            let offered = Verifier::from_password(password, &stored.salt, stored.iterations);
            offered.stored_key.ct_eq(&stored.stored_key).into()
        }
    }
}

/// `md5` and 32 hexadecimal digits in lower case.
fn is_md5(text: &str) -> bool {
    let hexadecimal = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    text.strip_prefix("md5").is_some_and(|hash| hash.len() == 32 && hash.bytes().all(hexadecimal))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `rolpassword` that PostgreSQL 15 stored, the role and its password.
    #[test]
    fn stored_by_postgresql() {
        let check = |stored: &str, user: &str, password: &str, wrong: &str| {
            let secret = Secret::parse(stored).unwrap();
            assert!(password_matches(&secret, user, password.as_bytes()), "{stored}: {password}");
            assert!(!password_matches(&secret, user, wrong.as_bytes()), "{stored}: {wrong}");
            assert!(!password_matches(&secret, user, b""), "{stored}");
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
        assert!(!password_matches(&secret, "M", b"pencil"));
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
