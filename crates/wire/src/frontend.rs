//! What clients send: borrowed views of the messages that a pooler has to understand, and the writing of those that it
//! sends to servers, with other names or of its own accord.
//!
//! Owns the form of these messages. Does not keep any state.

use crate::frame::{Cursor, Frame, Header, Malformed, put};

/// The tags of frontend messages, by PostgreSQL's names.
pub mod tag {
    #![expect(missing_docs, reason = "the names are the protocol's own")]
    pub const BIND: u8 = b'B';
    pub const CLOSE: u8 = b'C';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_FAIL: u8 = b'f';
    pub const DESCRIBE: u8 = b'D';
    pub const EXECUTE: u8 = b'E';
    pub const FLUSH: u8 = b'H';
    pub const FUNCTION_CALL: u8 = b'F';
    pub const PARSE: u8 = b'P';
    pub const PASSWORD: u8 = b'p';
    pub const QUERY: u8 = b'Q';
    pub const SYNC: u8 = b'S';
    pub const TERMINATE: u8 = b'X';
}

/// A message from a client. Names and texts are bytes in the client's encoding, without their NUL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "variants and fields are the protocol's own names")]
pub enum Frontend<'a> {
    Query(&'a [u8]),
    Parse(Parse<'a>),
    Bind(Bind<'a>),
    Describe(Target<'a>),
    Close(Target<'a>),
    Execute,
    Flush,
    Sync,
    FunctionCall,
    CopyData,
    CopyDone,
    CopyFail,
    Terminate,
    Password,
}

/// A Parse message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The prepared statement's name; empty for the unnamed one.
    pub name: &'a [u8],
    /// The statement's text.
    pub sql: &'a [u8],
    /// The parameter types as they stand in the message: a 16-bit count and as many OIDs.
    pub types: &'a [u8],
}

/// A Bind message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty for the unnamed one.
    pub portal: &'a [u8],
    /// The prepared statement's name; empty for the unnamed one.
    pub statement: &'a [u8],
    /// Formats and values as they stand in the message.
    pub values: &'a [u8],
}

/// What a Describe or Close message names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

/// Takes the header of a client's message; `None` when it has not arrived.
///
/// # Errors
/// [`Malformed::Length`] when the message has more than `length_max` bytes, or is of a type that has no use for more than a few: no
/// memory is to be kept for it.
#[inline]
pub fn peek(bytes: &[u8], length_max: usize) -> Result<Option<Header>, Malformed> {
    let Some(header) = Header::peek(bytes)? else { return Ok(None) };
    let length_max = match header.tag {
        tag::BIND | tag::COPY_DATA | tag::FUNCTION_CALL | tag::PARSE | tag::QUERY => length_max,
        _ => SMALL_MAX.min(length_max),
    };
    if header.length > length_max {
        return Err(header.refuse());
    }
    Ok(Some(header))
}

/// Takes the first complete message of what a client has sent; `None` when it has not arrived whole.
///
/// # Errors
/// As [`peek`].
#[inline]
pub fn take(bytes: &[u8], length_max: usize) -> Result<Option<Frame<'_>>, Malformed> {
    Ok(peek(bytes, length_max)?
        .and_then(|header| bytes.get(..header.length).map(|whole| Frame { tag: header.tag, whole })))
}

impl<'a> Frontend<'a> {
    /// Reads a complete frame from a client.
    ///
    /// # Errors
    /// [`Malformed::Body`] for an unknown type or a body that does not have its type's form.
    pub fn read(frame: Frame<'a>) -> Result<Frontend<'a>, Malformed> {
        let body = Cursor::new(frame.body());
        let malformed = |what| Malformed::Body { tag: frame.tag, what };
        match frame.tag {
            tag::QUERY => match frame.body().split_last() {
                Some((0, sql)) if memchr::memchr(0, sql).is_none() => Ok(Frontend::Query(sql)),
                _ => Err(malformed("query text is not one terminated string")),
            },
            tag::PARSE => parse(body).map(Frontend::Parse).ok_or(malformed("Parse")),
            tag::BIND => bind(body).map(Frontend::Bind).ok_or(malformed("Bind")),
            tag::DESCRIBE => target(body).map(Frontend::Describe).ok_or(malformed("Describe")),
            tag::CLOSE => target(body).map(Frontend::Close).ok_or(malformed("Close")),
            tag::EXECUTE => Ok(Frontend::Execute),
            tag::FLUSH => Ok(Frontend::Flush),
            tag::SYNC => Ok(Frontend::Sync),
            tag::FUNCTION_CALL => Ok(Frontend::FunctionCall),
            tag::COPY_DATA => Ok(Frontend::CopyData),
            tag::COPY_DONE => Ok(Frontend::CopyDone),
            tag::COPY_FAIL => Ok(Frontend::CopyFail),
            tag::TERMINATE => Ok(Frontend::Terminate),
            tag::PASSWORD => Ok(Frontend::Password),
            _ => Err(malformed("unknown message type")),
        }
    }
}

/// Writes a Query message.
pub fn put_query(out: &mut Vec<u8>, sql: &(impl AsRef<[u8]> + ?Sized)) {
    put(out, tag::QUERY, |out| put_string(out, sql.as_ref()));
}

/// Writes a Parse message.
pub fn put_parse(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u8]) {
    put(out, tag::PARSE, |out| {
        put_string(out, name);
        put_string(out, sql);
        out.extend_from_slice(types);
    });
}

/// Writes a Bind message.
pub fn put_bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], values: &[u8]) {
    put(out, tag::BIND, |out| {
        put_string(out, portal);
        put_string(out, statement);
        out.extend_from_slice(values);
    });
}

/// Writes a Describe message for a prepared statement.
pub fn put_describe_statement(out: &mut Vec<u8>, name: &[u8]) {
    put(out, tag::DESCRIBE, |out| {
        out.push(b'S');
        put_string(out, name);
    });
}

/// Writes a Close message for a prepared statement.
pub fn put_close_statement(out: &mut Vec<u8>, name: &[u8]) {
    put(out, tag::CLOSE, |out| {
        out.push(b'S');
        put_string(out, name);
    });
}

/// Writes a Sync message.
pub fn put_sync(out: &mut Vec<u8>) {
    put(out, tag::SYNC, |_| {});
}

/// Writes a CopyFail message with its reason.
pub fn put_copy_fail(out: &mut Vec<u8>, reason: &str) {
    put(out, tag::COPY_FAIL, |out| put_string(out, reason.as_bytes()));
}

/// Writes a Terminate message.
pub fn put_terminate(out: &mut Vec<u8>) {
    put(out, tag::TERMINATE, |_| {});
}

/// Writes a message that answers an authentication request: a PasswordMessage, SASLInitialResponse or SASLResponse.
pub fn put_password_message(out: &mut Vec<u8>, data: &[u8]) {
    put(out, tag::PASSWORD, |out| out.extend_from_slice(data));
}

fn parse(mut body: Cursor<'_>) -> Option<Parse<'_>> {
    let (name, sql) = (body.string()?, body.string()?);
    let types = body.rest();
    let count = usize::from(u16::from_be_bytes(*types.first_chunk()?));
    (types.len() == 2 + 4 * count).then_some(Parse { name, sql, types })
}

fn bind(mut body: Cursor<'_>) -> Option<Bind<'_>> {
    Some(Bind { portal: body.string()?, statement: body.string()?, values: body.rest() })
}

fn target(mut body: Cursor<'_>) -> Option<Target<'_>> {
    let (kind, name) = (body.byte()?, body.string()?);
    match (kind, body.is_empty()) {
        (b'S', true) => Some(Target::Statement(name)),
        (b'P', true) => Some(Target::Portal(name)),
        _ => None,
    }
}

fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

/// PostgreSQL's `PQ_SMALL_MESSAGE_LIMIT`, with the type byte: for messages that carry a name at most.
const SMALL_MAX: usize = 10_001;

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Option<Frontend<'_>>) {
        let frame = Frame::take(bytes).expect("a valid length").expect("a complete frame");
        assert_eq!(Frontend::read(frame).ok(), expected, "{bytes:?}");
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        out
    }

    #[test]
    fn what_is_written_is_read() {
        check(&written(|out| put_query(out, "select 1")), Some(Frontend::Query(b"select 1")));
        let parse = Parse { name: b"s", sql: b"select $1", types: b"\0\x01\0\0\0\x17" };
        check(&written(|out| put_parse(out, parse.name, parse.sql, parse.types)), Some(Frontend::Parse(parse)));
        let bind = Bind { portal: b"", statement: b"s", values: b"\0\0\0\0\0\0" };
        check(&written(|out| put_bind(out, bind.portal, bind.statement, bind.values)), Some(Frontend::Bind(bind)));
        check(&written(|out| put_describe_statement(out, b"s")), Some(Frontend::Describe(Target::Statement(b"s"))));
        check(&written(|out| put_close_statement(out, b"s")), Some(Frontend::Close(Target::Statement(b"s"))));
        check(&written(put_sync), Some(Frontend::Sync));
        check(&written(put_terminate), Some(Frontend::Terminate));
    }

    #[test]
    fn malformed_bodies_are_refused() {
        for body in [&b""[..], b"select 1", b"select\x001\0"] {
            check(&written(|out| put(out, tag::QUERY, |out| out.extend_from_slice(body))), None);
        }
        check(&written(|out| put(out, tag::PARSE, |out| out.extend_from_slice(b"s\0select\0\0\x02\0\0\0\x17"))), None);
        check(&written(|out| put(out, tag::PARSE, |out| out.extend_from_slice(b"s\0select"))), None);
        check(&written(|out| put(out, tag::DESCRIBE, |out| out.extend_from_slice(b"Xs\0"))), None);
        check(&written(|out| put(out, tag::CLOSE, |out| out.extend_from_slice(b"Ss\0x"))), None);
        check(&written(|out| put(out, b'~', |_| {})), None);
    }

    #[test]
    fn long_messages_are_refused_by_their_header() {
        let length = |tag: u8, claimed: u32| {
            let header = [&[tag][..], &claimed.to_be_bytes()].concat();
            peek(&header, 20_000).map(|header| header.map(|header| header.length)).map_err(drop)
        };
        assert_eq!(length(b'Q', 19_999), Ok(Some(20_000)));
        assert_eq!(length(b'Q', 20_000), Err(()));
        assert_eq!(length(b'd', 0x7fff_ffff), Err(()));
        for small in *b"SHXECDcfp?\0" {
            assert_eq!(length(small, 10_000), Ok(Some(10_001)), "{small}");
            assert_eq!(length(small, 10_001), Err(()), "{small}");
        }
        assert_eq!(peek(b"Q\0\0", 20_000), Ok(None));
    }

    proptest::proptest! {
        #[test]
        fn any_frame_is_read_without_panic(tag: u8, body: Vec<u8>) {
            let bytes = written(|out| put(out, tag, |out| out.extend_from_slice(&body)));
            let _ = Frontend::read(Frame::take(&bytes).expect("valid").expect("complete"));
        }
    }
}
