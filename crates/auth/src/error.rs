//! What can go wrong while somebody proves who he is, by whose fault it is.
//!
//! No message quotes a password, a proof or a key.

use thiserror::Error;

/// Why authentication failed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AuthError {
    /// The client's proof does not fit: a wrong password or an unknown user, which nobody outside can tell apart.
    #[error("password authentication failed")]
    WrongPassword,
    /// The client broke the protocol.
    #[error("malformed SCRAM message: {0}")]
    ClientMalformed(&'static str),
    /// The client asked for what RFC 5802 allows and this server does not offer.
    #[error("{0}")]
    ClientUnsupported(&'static str),
    /// The client did not bind its login to the TLS connection as it should. The texts are PostgreSQL's.
    #[error("{0}")]
    ClientUnbound(&'static str),
    /// The server broke the protocol.
    #[error("the server sent a malformed authentication message: {0}")]
    ServerMalformed(String),
    /// The server ended the exchange because the password or the user is wrong.
    #[error("the server refused the login: {0}")]
    ServerRefused(String),
    /// The server asked for a method that is not known here or not allowed.
    #[error("the server asked for {0}")]
    ServerUnsupported(String),
    /// The server asked for a password, and none is configured.
    #[error("the server asked for a password, and none is known for this user")]
    NoPassword,
    /// The server asked for what cannot be made of the secret that is known.
    #[error("the server asked for {asked}, and all that is known of this user's password is {known}")]
    Mismatched {
        /// The server's method.
        asked: &'static str,
        /// The kind of the [`Credential`](crate::Credential).
        known: &'static str,
    },
    /// The keys that a client's login has shown are of another verifier than the server's.
    #[error(
        "the server's verifier of this user is not the one that the client was checked against: salt or iteration count differ"
    )]
    OtherVerifier,
    /// The server could not prove that it knows the password: it may be somebody else's.
    #[error("the server could not prove its identity")]
    ServerUnproven,
    /// A stored verifier is not in PostgreSQL's form. The operator's fault.
    #[error("broken verifier: it must be \"SCRAM-SHA-256$ITERATIONS:SALT$STOREDKEY:SERVERKEY\"")]
    BrokenVerifier,
}

impl AuthError {
    /// The SQLSTATE to report to the client that is being served.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            AuthError::WrongPassword => "28P01",
            AuthError::ClientMalformed(_) => "08P01",
            AuthError::ClientUnsupported(_) => "0A000",
            AuthError::ClientUnbound(_) => "28000",
            // The client did nothing wrong: it cannot be connected.
            AuthError::ServerMalformed(_)
            | AuthError::ServerRefused(_)
            | AuthError::ServerUnsupported(_)
            | AuthError::NoPassword
            | AuthError::Mismatched { .. }
            | AuthError::OtherVerifier
            | AuthError::ServerUnproven => "08001",
            AuthError::BrokenVerifier => "F0000",
        }
    }
}
