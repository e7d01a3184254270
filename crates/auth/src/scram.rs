//! The arithmetic and the grammar of RFC 5802 with SHA-256 (RFC 7677), which both roles need.
//!
//! No state and no secrets are kept here.

use std::borrow::Cow;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// The output of SHA-256, and so each of SCRAM's keys, signatures and proofs.
pub(crate) type Key = [u8; 32];

/// One `a=value` of a SCRAM message.
pub(crate) struct Attribute<'m> {
    pub(crate) name: u8,
    pub(crate) value: &'m str,
}

/// `Normalize(password)`. PostgreSQL takes passwords that are not UTF-8, or that SASLprep (RFC 4013) prohibits, as they are.
pub(crate) fn normalize(password: &[u8]) -> Cow<'_, [u8]> {
    let prepared = std::str::from_utf8(password).ok().and_then(|password| stringprep::saslprep(password).ok());
    match prepared {
        Some(Cow::Borrowed(prepared)) => Cow::Borrowed(prepared.as_bytes()),
        Some(Cow::Owned(prepared)) => Cow::Owned(prepared.into_bytes()),
        None => Cow::Borrowed(password),
    }
}

/// `Hi(password, salt, iterations)`: PBKDF2 with one block of HMAC-SHA-256.
pub(crate) fn salted_password(password: &[u8], salt: &[u8], iterations: u32) -> Key {
    let password = normalize(password);
    let keyed = keyed(&password);
    let mut block: Key = finish(keyed.clone().chain_update(salt).chain_update(1_u32.to_be_bytes()));
    let mut result = block;
    for _ in 1..iterations {
        block = finish(keyed.clone().chain_update(block));
        result = xor(&result, &block);
    }
    result
}

/// `HMAC(key, text)`.
pub(crate) fn hmac(key: &[u8], text: &[u8]) -> Key {
    finish(keyed(key).chain_update(text))
}

/// `H(text)`.
pub(crate) fn hash(text: &[u8]) -> Key {
    Sha256::digest(text).into()
}

pub(crate) fn xor(left: &Key, right: &Key) -> Key {
    std::array::from_fn(|at| left[at] ^ right[at])
}

/// RFC 4648 with padding, as PostgreSQL writes it.
pub(crate) fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// As [`base64`], behind what is there.
pub(crate) fn put_base64(text: &mut String, bytes: &[u8]) {
    STANDARD.encode_string(bytes, text);
}

/// Strict: no white space, no missing padding, no stray bits. What was written has one spelling only.
pub(crate) fn base64_decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

/// A key in base64; `None` unless it has just the right length.
pub(crate) fn key_from_base64(text: &str) -> Option<Key> {
    // One more than it has: each four letters have room for three bytes, before the padding is seen.
    let mut decoded = [0; 33];
    let length = STANDARD.decode_slice(text, &mut decoded).ok()?;
    decoded[..length].try_into().ok()
}

/// Takes the attribute in front of `message` and returns what follows its comma; `None` for the rest at the end.
pub(crate) fn take_attribute(message: &str) -> Option<(Attribute<'_>, Option<&str>)> {
    let (attribute, rest) = match message.split_once(',') {
        Some((attribute, rest)) => (attribute, Some(rest)),
        None => (message, None),
    };
    match attribute.as_bytes() {
        [name, b'=', ..] if name.is_ascii_alphabetic() => {
            Some((Attribute { name: *name, value: &attribute[2..] }, rest))
        }
        _ => None,
    }
}

/// RFC 5802's `printable`, of which nonces are made: visible ASCII without the comma.
pub(crate) fn is_printable(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, 0x21..=0x2b | 0x2d..=0x7e))
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes keys of every length")
}

fn finish(mac: Hmac<Sha256>) -> Key {
    mac.finalize().into_bytes().into()
}
