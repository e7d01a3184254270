//! The ways in which a client may have to prove itself, and what each asks for, given what is stored of the user.

use crate::secret::Secret;

/// How a client has to prove who it is; `pg_hba.conf`'s names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// Not at all.
    Trust,
    /// It cannot.
    Reject,
    /// By a hash of its password, or by SCRAM where a verifier is stored.
    Md5,
    /// By its password in plain text.
    Password,
    /// By SCRAM-SHA-256.
    ScramSha256,
    /// By the name in its TLS certificate.
    Cert,
    /// By the name of the operating system's user that it runs as.
    Peer,
}

/// The exchange that a client is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchange {
    /// SCRAM-SHA-256.
    Scram,
    /// md5.
    Md5,
    /// The password itself.
    Password,
}

impl Method {
    /// The exchange that it takes, if it takes one. `usual` is the one of most users, which an unknown user is asked for where the
    /// method leaves the choice, so that asking does not tell who exists.
    pub fn exchange(self, secret: Option<&Secret>, usual: Exchange) -> Option<Exchange> {
        match (self, secret) {
            (Method::ScramSha256, _) => Some(Exchange::Scram),
            (Method::Password, _) => Some(Exchange::Password),
            // As in PostgreSQL, a server that has moved to verifiers need not change its pg_hba.conf.
            (Method::Md5, Some(Secret::Scram(_))) => Some(Exchange::Scram),
            (Method::Md5, Some(Secret::Plain(_) | Secret::Md5(_))) => Some(Exchange::Md5),
            (Method::Md5, None) => Some(usual),
            (Method::Trust | Method::Reject | Method::Cert | Method::Peer, _) => None,
        }
    }
}
