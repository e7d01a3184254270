//! Authentication as values: stored secrets, who may come in and how, SCRAM-SHA-256 and md5 towards clients, and logging in to
//! servers.
//!
//! This crate owns what is sent and what is checked. It owns no socket, no clock, no file and no random numbers (nonces, salts
//! and texts arrive as arguments), and frames no message.
//!
//! Reading order: what is stored ([`Secret`], [`Verifier`]) and in which files ([`parse_userlist`], [`Hba`], [`UserMaps`]); what a
//! client is asked for ([`Method`]); the proxy as the server of a client ([`ScramServer`], [`md5_proves`], [`password_proves`]) and
//! what a failure costs ([`Penalties`]); the proxy as the client of a server ([`Credential`], [`ServerLogin`]); then the arithmetic
//! and the grammar that all need (`scram.rs`).
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test"))]

mod client;
mod credential;
mod error;
mod fault;
mod hba;
mod ident;
mod line;
mod md5;
mod method;
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
pub use hba::{ClientCertificate, Hba, Origin, Rule, Visitor};
pub use ident::UserMaps;
pub use md5::md5_proves;
pub use method::{Exchange, Method};
pub use penalty::{ADDRESSES_MAX, Penalties, PenaltyOptions};
pub use secret::{Secret, password_proves};
pub use server::{Cleartext, ServerLogin, Step};
pub use userlist::parse_userlist;
pub use verifier::{DEFAULT_ITERATIONS, MOCK_SECRET_BYTES, SALT_BYTES, Verifier, mock_secret, salt_for};
