//! Authentication as values: stored secrets, SCRAM-SHA-256 towards clients, and logging in to servers.
//!
//! This crate owns what is sent and what is checked. It owns no socket, no clock and no random numbers (nonces and salts
//! arrive as arguments), frames no message, and knows no list of users.
//!
//! Reading order: what is stored ([`Secret`], [`Verifier`]), the proxy as the server of a client ([`ScramServer`]), the
//! proxy as the client of a server ([`ServerLogin`]), then the arithmetic and the grammar both need (`scram.rs`).
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod client;
mod credential;
mod error;
mod fault;
mod md5;
mod penalty;
mod prover;
mod scram;
mod secret;
mod server;
mod userlist;
mod verifier;

pub use client::{Account, InitialResponse, NONCE_BYTES, Proof, ScramFinal, ScramServer};
pub use credential::{Credential, ScramKeys};
pub use error::AuthError;
pub use fault::Fault;
pub use md5::md5_proves;
pub use penalty::{ADDRESSES_MAX, Penalties, PenaltyOptions};
pub use secret::{Secret, password_proves};
pub use server::{Cleartext, ServerLogin, Step};
pub use userlist::parse_userlist;
pub use verifier::{DEFAULT_ITERATIONS, MOCK_SECRET_BYTES, SALT_BYTES, Verifier, salt_for};
