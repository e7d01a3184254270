//! Startup packets: what a client sends before frames have type bytes.
//!
//! Owns the reading of SSLRequest, GSSENCRequest, CancelRequest and StartupMessage, and the writing of the latter two towards
//! servers. Does not decide what a parameter means.

pub use crate::cancel_key::CancelKey;
use crate::frame::{Cursor, Malformed};
use crate::version::Version;

/// A packet without a type byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Startup<'a> {
    /// The client asks for TLS; the answer is one byte, `S` or `N`.
    SslRequest,
    /// The client asks for GSSAPI encryption; the answer is one byte, `G` or `N`.
    GssEncRequest,
    /// The client asks that the query of another connection be cancelled.
    Cancel(CancelKey),
    /// A session begins.
    Session(SessionStartup<'a>),
}

/// A StartupMessage's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionStartup<'a> {
    /// The requested protocol version.
    pub version: Version,
    /// Parameter names and values, in the order in which they came. Values are bytes in no known encoding.
    pub parameters: Vec<(&'a [u8], &'a [u8])>,
}

impl SessionStartup<'_> {
    /// The value of the last parameter of that name: as in PostgreSQL, a repeated one overrides.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.parameters.iter().rev().find(|(key, _)| *key == name.as_bytes()).map(|&(_, value)| value)
    }
}

impl<'a> Startup<'a> {
    /// Takes a startup packet from the start of `bytes`, with the packet's length; `None` when it has not arrived whole.
    ///
    /// # Errors
    /// [`Malformed`] when the length is outside of 8 to `length_max` bytes, or the parameters are not NUL-terminated pairs
    /// closed by an empty name.
    pub fn take(bytes: &'a [u8], length_max: usize) -> Result<Option<(Startup<'a>, usize)>, Malformed> {
        let Some(&claimed) = bytes.first_chunk::<4>() else { return Ok(None) };
        let claimed = u32::from_be_bytes(claimed);
        let length = claimed as usize;
        if !(LENGTH_MIN..=length_max).contains(&length) {
            return Err(Malformed::Length { tag: 0, claimed });
        }
        let Some(body) = bytes.get(4..length) else { return Ok(None) };
        let mut cursor = Cursor::new(body);
        let code = cursor.int().expect("the length was checked to be 8 or more").cast_unsigned();
        let packet = match code {
            SSL_REQUEST if cursor.is_empty() => Startup::SslRequest,
            GSSENC_REQUEST if cursor.is_empty() => Startup::GssEncRequest,
            CANCEL_REQUEST => Startup::Cancel(cancel_key(cursor).ok_or(body_error("cancel key"))?),
            SSL_REQUEST | GSSENC_REQUEST => return Err(body_error("an encryption request with a body")),
            // Whatever follows has a form of that version: 2.0 had fields of fixed lengths.
            version if Version(version).granted().is_none() => {
                Startup::Session(SessionStartup { version: Version(version), parameters: Vec::new() })
            }
            version => Startup::Session(SessionStartup {
                version: Version(version),
                parameters: parameters(cursor).ok_or(body_error("parameters are not terminated"))?,
            }),
        };
        Ok(Some((packet, length)))
    }
}

/// Writes a StartupMessage of protocol 3.0.
pub fn put_session<'a>(out: &mut Vec<u8>, parameters: impl IntoIterator<Item = (&'a str, &'a str)>) {
    put_packet(out, Version::V3_0.0, |out| {
        for text in parameters.into_iter().flat_map(|(name, value)| [name, value]) {
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
        out.push(0);
    });
}

/// Writes an SSLRequest.
pub fn put_ssl_request(out: &mut Vec<u8>) {
    put_packet(out, SSL_REQUEST, |_| {});
}

/// Writes a CancelRequest.
pub fn put_cancel(out: &mut Vec<u8>, key: &CancelKey) {
    put_packet(out, CANCEL_REQUEST, |out| {
        out.extend_from_slice(&key.process.to_be_bytes());
        out.extend_from_slice(&key.secret);
    });
}

fn put_packet(out: &mut Vec<u8>, code: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&code.to_be_bytes());
    body(out);
    let length = u32::try_from(out.len() - start).expect("a startup packet that we write is small");
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

fn cancel_key(mut cursor: Cursor<'_>) -> Option<CancelKey> {
    let process = cursor.int()?.cast_unsigned();
    let secret = cursor.rest();
    CancelKey::SECRET_BYTES.contains(&secret.len()).then(|| CancelKey { process, secret: secret.into() })
}

/// "...after the last name/value pair a zero byte is required as a terminator" (protocol-message-formats).
fn parameters(mut cursor: Cursor<'_>) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    loop {
        match cursor.string()? {
            [] => return cursor.is_empty().then_some(found),
            name => found.push((name, cursor.string()?)),
        }
    }
}

fn body_error(what: &'static str) -> Malformed {
    Malformed::Body { tag: 0, what }
}

const SSL_REQUEST: u32 = (1234 << 16) | 5679;
const GSSENC_REQUEST: u32 = (1234 << 16) | 5680;
const CANCEL_REQUEST: u32 = (1234 << 16) | 5678;

/// The length field and the code.
const LENGTH_MIN: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 10_000;

    fn packet(code: u32, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_packet(&mut out, code, |out| out.extend_from_slice(body));
        out
    }

    fn check(bytes: &[u8], expected: Result<Option<Startup<'_>>, ()>) {
        let found = Startup::take(bytes, MAX).map(|found| found.map(|(packet, _)| packet)).map_err(drop);
        assert_eq!(found, expected, "{bytes:?}");
    }

    #[test]
    fn requests() {
        check(&packet(SSL_REQUEST, b""), Ok(Some(Startup::SslRequest)));
        check(&packet(GSSENC_REQUEST, b""), Ok(Some(Startup::GssEncRequest)));
        check(&packet(SSL_REQUEST, b"x"), Err(()));
        let key = CancelKey { process: 7, secret: b"\x01\x02\x03\x04"[..].into() };
        let mut bytes = Vec::new();
        put_cancel(&mut bytes, &key);
        check(&bytes, Ok(Some(Startup::Cancel(key))));
        check(&packet(CANCEL_REQUEST, b"\0\0\0\x01\0"), Err(()));
    }

    #[test]
    fn sessions() {
        let mut bytes = Vec::new();
        put_session(&mut bytes, [("user", "u"), ("database", "d"), ("user", "v")]);
        let (packet, length) = Startup::take(&bytes, MAX).expect("well formed").expect("complete");
        assert_eq!(length, bytes.len());
        let Startup::Session(session) = packet else { panic!("{packet:?}") };
        assert_eq!((session.version, session.get("user")), (Version::V3_0, Some(&b"v"[..])));
        for cut in 0..bytes.len() {
            check(&bytes[..cut], Ok(None));
        }
    }

    #[test]
    fn malformed() {
        check(b"\0\0\0\x07....", Err(()));
        check(b"\0\0\x7f\xff....", Err(()));
        check(b"GET / HTTP/1.1\r\n", Err(()));
        check(&packet(Version::V3_0.0, b"user\0u\0"), Err(()));
        check(&packet(Version::V3_0.0, b"user"), Err(()));
        check(&packet(Version::V3_0.0, b"user\0u\0\0garbage"), Err(()));
        let version = Version::new(2, 0);
        let old = Startup::Session(SessionStartup { version, parameters: Vec::new() });
        check(&packet(version.0, b"no\0terminator"), Ok(Some(old)));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = Startup::take(&bytes, MAX);
        }
    }
}
