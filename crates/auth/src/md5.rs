//! PostgreSQL's md5 password authentication, in both roles: `md5(md5(password + user) + salt)`, in hexadecimal behind `md5`.
//!
//! It protects nothing but the password's letters from whoever listens; it is here because old clients and servers know nothing
//! better.

use postgres_protocol::password;
use subtle::ConstantTimeEq;

use crate::scram;
use crate::secret::Secret;
use crate::verifier::MOCK_SECRET_BYTES;

/// What PostgreSQL stores: `md5` and the hash of password and user name.
pub(crate) fn hash_of(password: &[u8], user: &str) -> String {
    password::md5(password, user)
}

/// What a client answers to `salt`, from what is stored.
pub(crate) fn answer(stored: &str, salt: [u8; 4]) -> String {
    let hash = stored.strip_prefix("md5").unwrap_or(stored);
    // Each stage is `md5` of two texts written together; the second may be empty, and the salt is no text.
    password::md5(&[hash.as_bytes(), &salt].concat(), "")
}

/// Whether a client's answer to `salt` proves that it knows the password of `user`. Takes the same time whether there is such a
/// user, such a password, or neither.
pub fn md5_proves(
    secret: Option<&Secret>,
    mock_secret: &[u8; MOCK_SECRET_BYTES],
    user: &str,
    salt: [u8; 4],
    given: &[u8],
) -> bool {
    let (stored, is_known) = match secret {
        // An empty password is no password: PostgreSQL lets nobody in with it.
        Some(Secret::Plain(password)) => (hash_of(password.as_bytes(), user), !password.is_empty()),
        Some(Secret::Md5(stored)) => (stored.clone(), true),
        // A verifier cannot be checked against, and nobody is nobody: both as if there were some hash.
        Some(Secret::Scram(_)) | None => (hash_of(&scram::hmac(mock_secret, user.as_bytes()), user), false),
    };
    let fits = bool::from(answer(&stored, salt).as_bytes().ct_eq(given));
    fits && is_known
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOCK: [u8; MOCK_SECRET_BYTES] = [7; MOCK_SECRET_BYTES];
    const SALT: [u8; 4] = [255, 0, 3, 4];

    /// The library computes a client's answer from the password in one go.
    fn given(user: &str, password: &str) -> String {
        postgres_protocol::authentication::md5_hash(user.as_bytes(), password.as_bytes(), SALT)
    }

    #[test]
    fn proofs() {
        let check = |secret: Option<Secret>, given: String, expected| {
            assert_eq!(
                md5_proves(secret.as_ref(), &MOCK, "user", SALT, given.as_bytes()),
                expected,
                "{secret:?} {given}"
            );
        };
        let plain = || Some(Secret::Plain("pencil".into()));
        let hashed = || Some(Secret::Md5(hash_of(b"pencil", "user")));
        check(plain(), given("user", "pencil"), true);
        check(hashed(), given("user", "pencil"), true);
        check(hashed(), given("User", "pencil"), false);
        check(plain(), given("user", "Pencil"), false);
        check(plain(), String::new(), false);
        check(plain(), given("user", "pencil") + "0", false);
        // What is stored is not the answer.
        check(hashed(), hash_of(b"pencil", "user"), false);
        check(Some(Secret::Plain(String::new())), given("user", ""), false);
        let verifier = crate::Verifier::from_password(b"pencil", b"salt", 1);
        check(Some(Secret::Scram(verifier)), given("user", "pencil"), false);
        check(None, given("user", "pencil"), false);
        check(None, given("user", ""), false);
    }

    /// Not even who knows what stands for an unknown user's hash gets in.
    #[test]
    fn nobody() {
        let stand_in = hash_of(&scram::hmac(&MOCK, b"user"), "user");
        assert!(!md5_proves(None, &MOCK, "user", SALT, answer(&stand_in, SALT).as_bytes()));
    }
}
