//! The key of a cancel request, and what several proxies behind one address hide in it.
//!
//! Owns the layout that PgBouncer's peers use, so that both can be peers of each other. Of the eight bytes that every key has (the process
//! id and the first four of the secret), counted from 0: the sign bit of byte 0 is clear, bytes 1 and 2 are the number of the
//! proxy that made the key, low byte first, and the two lowest bits of byte 7 say how often it may still be passed on. What a
//! proxy without peers makes is random but for the sign.

use std::fmt;

/// What identifies a connection to CancelRequest: BackendKeyData's contents.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey {
    /// The process id; a proxy's is an invention.
    pub process: u32,
    /// The secret, 4 bytes in protocol 3.0, up to 256 in 3.2.
    pub secret: Box<[u8]>,
}

impl CancelKey {
    /// Bytes of a key's secret: "a minimum of 4 and a maximum of 256 bytes" (protocol-message-formats, BackendKeyData).
    pub const SECRET_BYTES: std::ops::RangeInclusive<usize> = 4..=256;

    /// A key of the proxy with the number `peer`, 0 for one without peers, from random bytes.
    ///
    /// # Panics
    /// When the secret has fewer than 4 bytes.
    #[must_use]
    pub fn mint(process: u32, secret: impl Into<Box<[u8]>>, peer: u16) -> CancelKey {
        // Process ids are positive numbers; pg_basebackup, for one, took others for an error.
        let process = process & 0x7fff_ffff;
        let mut key = CancelKey { process, secret: secret.into() };
        if peer > 0 {
            let [sign, _, _, rest] = process.to_be_bytes();
            let [low, high] = peer.to_le_bytes();
            key.process = u32::from_be_bytes([sign, low, high, rest]);
            key.secret[HOPS_BYTE] |= HOPS_MASK;
        }
        key
    }

    /// The number of the proxy that made the key, if that one has peers.
    #[must_use]
    pub fn peer(&self) -> u16 {
        let [_, low, high, _] = self.process.to_be_bytes();
        u16::from_le_bytes([low, high])
    }

    /// The key as its maker knows it, however often it has been passed on.
    #[must_use]
    pub fn at_home(mut self) -> CancelKey {
        self.secret[HOPS_BYTE] |= HOPS_MASK;
        self
    }

    /// The key to pass on to a peer; `None` when it has been passed on too often.
    #[must_use]
    pub fn passed_on(mut self) -> Option<CancelKey> {
        let last = &mut self.secret[HOPS_BYTE];
        if *last & HOPS_MASK == 0 {
            return None;
        }
        *last -= 1;
        Some(self)
    }
}

impl fmt::Debug for CancelKey {
    /// Without the secret: whoever has it can cancel.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CancelKey").field("process", &self.process).finish_non_exhaustive()
    }
}

/// The number of a peer, at most; PgBouncer's limit.
pub const PEER_MAX: u16 = 16_383;

/// The byte of the secret with the bits that count how often a key may be passed on.
const HOPS_BYTE: usize = 3;
const HOPS_MASK: u8 = 0x03;

#[cfg(test)]
mod tests {
    use super::*;

    /// The eight bytes that PgBouncer knows.
    fn bytes(key: &CancelKey) -> [u8; 8] {
        let mut bytes = [0; 8];
        bytes[..4].copy_from_slice(&key.process.to_be_bytes());
        bytes[4..].copy_from_slice(&key.secret[..4]);
        bytes
    }

    #[test]
    fn the_layout_is_pgbouncers() {
        let key = CancelKey::mint(0xffff_ffff, [0xa0; 4], 0x1234);
        assert_eq!(bytes(&key), [0x7f, 0x34, 0x12, 0xff, 0xa0, 0xa0, 0xa0, 0xa3]);
        assert_eq!(key.peer(), 0x1234);
        let long = CancelKey::mint(0x8000_0000, [0xff; 32], PEER_MAX);
        assert_eq!(bytes(&long), [0, 0xff, 0x3f, 0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(long.peer(), PEER_MAX);
    }

    #[test]
    fn without_peers_it_is_random_but_for_the_sign() {
        assert_eq!(
            bytes(&CancelKey::mint(0xffff_ffff, [0xfc; 4], 0)),
            [0x7f, 0xff, 0xff, 0xff, 0xfc, 0xfc, 0xfc, 0xfc]
        );
        assert_eq!(bytes(&CancelKey::mint(0, [0; 4], 0)), [0; 8]);
    }

    #[test]
    fn a_key_is_passed_on_three_times() {
        let key = CancelKey::mint(7, [0x10; 4], 2);
        let mut passed = key.clone();
        for hops in [0x12, 0x11, 0x10] {
            passed = passed.passed_on().expect("not yet exhausted");
            assert_eq!((passed.secret[3], passed.peer()), (hops, 2));
            assert_eq!(passed.clone().at_home(), key);
        }
        assert_eq!(passed.passed_on(), None);
    }

    #[test]
    fn secrets_are_not_shown() {
        assert_eq!(format!("{:?}", CancelKey::mint(7, *b"hush", 0)), "CancelKey { process: 7, .. }");
    }
}
