//! What servers send, as far as a proxy reads it, and the replies that a proxy gives of its own.
//!
//! Owns the form of these messages. Does not decide which of them a client gets to see.

use bytes::BytesMut;
use pgwire::messages::Message;
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use pgwire::messages::response::{ErrorResponse, NoticeResponse};

use crate::cancel_key::CancelKey;
use crate::frame::{Cursor, put};
use crate::version::Version;

/// The tags of backend messages, by PostgreSQL's names.
pub mod tag {
    #![expect(missing_docs, reason = "the names are the protocol's own")]
    pub const AUTHENTICATION: u8 = b'R';
    pub const BACKEND_KEY_DATA: u8 = b'K';
    pub const BIND_COMPLETE: u8 = b'2';
    pub const CLOSE_COMPLETE: u8 = b'3';
    pub const COMMAND_COMPLETE: u8 = b'C';
    pub const COPY_BOTH_RESPONSE: u8 = b'W';
    pub const COPY_DATA: u8 = b'd';
    pub const COPY_DONE: u8 = b'c';
    pub const COPY_IN_RESPONSE: u8 = b'G';
    pub const COPY_OUT_RESPONSE: u8 = b'H';
    pub const DATA_ROW: u8 = b'D';
    pub const EMPTY_QUERY_RESPONSE: u8 = b'I';
    pub const ERROR_RESPONSE: u8 = b'E';
    pub const FUNCTION_CALL_RESPONSE: u8 = b'V';
    pub const NEGOTIATE_PROTOCOL_VERSION: u8 = b'v';
    pub const NO_DATA: u8 = b'n';
    pub const NOTICE_RESPONSE: u8 = b'N';
    pub const NOTIFICATION_RESPONSE: u8 = b'A';
    pub const PARAMETER_DESCRIPTION: u8 = b't';
    pub const PARAMETER_STATUS: u8 = b'S';
    pub const PARSE_COMPLETE: u8 = b'1';
    pub const PORTAL_SUSPENDED: u8 = b's';
    pub const READY_FOR_QUERY: u8 = b'Z';
    pub const ROW_DESCRIPTION: u8 = b'T';
}

/// ReadyForQuery's transaction status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `I`: not in a transaction block.
    Idle,
    /// `T`: in a transaction block.
    Open,
    /// `E`: in a failed transaction block.
    Failed,
}

impl Status {
    /// Reads the body of a ReadyForQuery.
    #[must_use]
    pub fn read(body: &[u8]) -> Option<Status> {
        match body {
            b"I" => Some(Status::Idle),
            b"T" => Some(Status::Open),
            b"E" => Some(Status::Failed),
            _ => None,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Status::Idle => b'I',
            Status::Open => b'T',
            Status::Failed => b'E',
        }
    }
}

/// A five-character SQLSTATE.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// The code as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("?????")
    }
}

impl std::fmt::Debug for SqlState {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// The fields of an ErrorResponse or NoticeResponse, borrowed. Fields may be missing: a server may send anything.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    body: &'a [u8],
}

impl<'a> Report<'a> {
    /// A view of an ErrorResponse's body, or of as much of it as is at hand.
    #[must_use]
    pub fn new(body: &'a [u8]) -> Report<'a> {
        Report { body }
    }

    /// The value of the field `code`, such as `b'M'` for the message.
    #[must_use]
    pub fn field(&self, code: u8) -> Option<&'a [u8]> {
        let mut cursor = Cursor::new(self.body);
        loop {
            match cursor.byte()? {
                0 => return None,
                found => {
                    let value = cursor.string()?;
                    if found == code {
                        return Some(value);
                    }
                }
            }
        }
    }

    /// The SQLSTATE, where there is a well-formed one.
    #[must_use]
    pub fn sqlstate(&self) -> Option<SqlState> {
        self.field(b'C')?.try_into().ok().map(SqlState)
    }

    /// Whether the server closes the connection after this: severity FATAL or PANIC, by the unlocalised field.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        matches!(self.field(b'V').or_else(|| self.field(b'S')), Some(b"FATAL" | b"PANIC"))
    }

    /// The message, with anything that is not UTF-8 replaced.
    #[must_use]
    pub fn message(&self) -> String {
        String::from_utf8_lossy(self.field(b'M').unwrap_or_default()).into_owned()
    }
}

/// How grave an error of the proxy's own is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed; the connection lives.
    Error,
    /// The connection is closed after it.
    Fatal,
}

/// An error of the proxy's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whether the connection survives it.
    pub severity: Severity,
    /// The SQLSTATE, five characters.
    pub code: &'static str,
    /// The primary message.
    pub message: String,
    /// What the user may do about it.
    pub hint: Option<&'static str>,
    /// The routine of PostgreSQL's that would have reported it, where drivers look for that.
    pub routine: Option<&'static str>,
}

impl Failure {
    /// A failed statement.
    #[must_use]
    pub fn error(code: &'static str, message: impl Into<String>) -> Failure {
        Failure { severity: Severity::Error, code, message: message.into(), hint: None, routine: None }
    }

    /// A failed connection.
    #[must_use]
    pub fn fatal(code: &'static str, message: impl Into<String>) -> Failure {
        Failure { severity: Severity::Fatal, code, message: message.into(), hint: None, routine: None }
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(self, hint: &'static str) -> Failure {
        Failure { hint: Some(hint), ..self }
    }

    /// The same from a routine of PostgreSQL's.
    #[must_use]
    pub fn routine(self, routine: &'static str) -> Failure {
        Failure { routine: Some(routine), ..self }
    }

    /// Writes it as an ErrorResponse.
    pub fn put(&self, out: &mut Vec<u8>) {
        let severity = match self.severity {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
        };
        let texts = [(b'S', severity), (b'V', severity), (b'C', self.code), (b'M', &self.message)];
        // A NUL would end the field early and garble the rest.
        let more = [self.hint.map(|hint| (b'H', hint)), self.routine.map(|routine| (b'R', routine))];
        let fields = texts.into_iter().chain(more.into_iter().flatten());
        let fields = fields.map(|(code, text)| (code, text.replace('\0', " "))).collect();
        put_cold(out, &ErrorResponse::new(fields));
    }
}

/// Writes an ErrorResponse that a server has sent, or as much of it as is at hand.
pub fn put_report(out: &mut Vec<u8>, body: &[u8]) {
    put(out, tag::ERROR_RESPONSE, |out| {
        let whole = body.ends_with(b"\0\0");
        out.extend_from_slice(body);
        if !whole {
            out.extend_from_slice(b"\0\0");
        }
    });
}

/// Writes a NoticeResponse of severity NOTICE.
pub fn put_notice(out: &mut Vec<u8>, code: &str, message: &str) {
    let fields = [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', code), (b'M', message)];
    put_cold(out, &NoticeResponse::new(fields.map(|(code, text)| (code, text.replace('\0', " "))).to_vec()));
}

/// A ParameterStatus's name and value.
#[must_use]
pub fn parameter_status(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut cursor = Cursor::new(body);
    Some((cursor.string()?, cursor.string()?))
}

/// A BackendKeyData's contents.
#[must_use]
pub fn backend_key_data(body: &[u8]) -> Option<CancelKey> {
    let mut cursor = Cursor::new(body);
    let process = cursor.int()?.cast_unsigned();
    CancelKey::SECRET_BYTES.contains(&cursor.rest().len()).then(|| CancelKey { process, secret: cursor.rest().into() })
}

/// Writes AuthenticationOk.
pub fn put_authentication_ok(out: &mut Vec<u8>) {
    put_authentication(out, 0, &[]);
}

/// Writes AuthenticationSASL with the mechanisms offered, best first.
pub fn put_sasl(out: &mut Vec<u8>, mechanisms: &[&str]) {
    put_authentication(out, 10, (mechanisms.join("\0") + "\0\0").as_bytes());
}

/// Writes AuthenticationCleartextPassword.
pub fn put_authentication_cleartext_password(out: &mut Vec<u8>) {
    put_authentication(out, 3, &[]);
}

/// Writes AuthenticationMD5Password.
pub fn put_authentication_md5_password(out: &mut Vec<u8>, salt: [u8; 4]) {
    put_authentication(out, 5, &salt);
}

/// Writes AuthenticationSASLContinue.
pub fn put_sasl_continue(out: &mut Vec<u8>, data: &[u8]) {
    put_authentication(out, 11, data);
}

/// Writes AuthenticationSASLFinal.
pub fn put_sasl_final(out: &mut Vec<u8>, data: &[u8]) {
    put_authentication(out, 12, data);
}

/// Each of these is an `R` with a number of four bytes and what goes with that (protocol-message-formats).
fn put_authentication(out: &mut Vec<u8>, kind: u32, data: &[u8]) {
    put(out, tag::AUTHENTICATION, |out| {
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Writes a ParameterStatus.
pub fn put_parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    put(out, tag::PARAMETER_STATUS, |out| {
        for text in [name, value] {
            out.extend_from_slice(text);
            out.push(0);
        }
    });
}

/// Writes BackendKeyData.
pub fn put_backend_key_data(out: &mut Vec<u8>, key: &CancelKey) {
    put(out, tag::BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&key.process.to_be_bytes());
        out.extend_from_slice(&key.secret);
    });
}

/// Writes NegotiateProtocolVersion: the version that is granted, and the `_pq_.` options that are unknown.
pub fn put_negotiate_protocol_version(out: &mut Vec<u8>, version: Version, unknown: &[&[u8]]) {
    put(out, tag::NEGOTIATE_PROTOCOL_VERSION, |out| {
        out.extend_from_slice(&version.0.to_be_bytes());
        out.extend_from_slice(&u32::try_from(unknown.len()).expect("bounded by the packet's length").to_be_bytes());
        for name in unknown {
            out.extend_from_slice(name);
            out.push(0);
        }
    });
}

/// Writes ReadyForQuery.
pub fn put_ready(out: &mut Vec<u8>, status: Status) {
    put(out, tag::READY_FOR_QUERY, |out| out.push(status.byte()));
}

/// Writes CommandComplete.
pub fn put_command_complete(out: &mut Vec<u8>, command: &str) {
    put(out, tag::COMMAND_COMPLETE, |out| {
        out.extend_from_slice(command.as_bytes());
        out.push(0);
    });
}

/// Writes a message that has no body: ParseComplete, BindComplete, CloseComplete, NoData, EmptyQueryResponse.
pub fn put_bare(out: &mut Vec<u8>, tag: u8) {
    put(out, tag, |_| {});
}

/// Writes ParameterDescription for a statement without parameters.
pub fn put_no_parameters(out: &mut Vec<u8>) {
    put(out, tag::PARAMETER_DESCRIPTION, |out| out.extend_from_slice(&[0, 0]));
}

/// Writes a NoticeResponse of severity WARNING.
pub fn put_warning(out: &mut Vec<u8>, code: &str, message: &str) {
    put(out, tag::NOTICE_RESPONSE, |out| {
        for (field, text) in [(b'S', "WARNING"), (b'V', "WARNING"), (b'C', code), (b'M', message)] {
            out.push(field);
            out.extend_from_slice(text.as_bytes());
            out.push(0);
        }
        out.push(0);
    });
}

/// Writes the RowDescription of a result of text columns.
pub fn put_text_columns(out: &mut Vec<u8>, names: &[&str]) {
    let field = |name: &&str| FieldDescription::new((*name).to_owned(), 0, 0, TEXT_OID, -1, -1, 0);
    put_cold(out, &RowDescription::new(names.iter().map(field).collect()));
}

/// Writes a DataRow of text columns.
pub fn put_text_row(out: &mut Vec<u8>, values: &[&str]) {
    let mut data = BytesMut::new();
    for value in values {
        data.extend_from_slice(&u32::try_from(value.len()).expect("a value of ours is small").to_be_bytes());
        data.extend_from_slice(value.as_bytes());
    }
    put_cold(out, &DataRow::new(data, i16::try_from(values.len()).expect("a row of ours has few columns")));
}

fn put_cold(out: &mut Vec<u8>, message: &impl Message) {
    let mut bytes = BytesMut::with_capacity(COLD_BYTES);
    message.encode(&mut bytes).expect("a message of ours is under the limits");
    out.extend_from_slice(&bytes);
}

/// Bytes that nearly all cold messages fit into.
const COLD_BYTES: usize = 256;

const TEXT_OID: u32 = 25;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Frames;

    #[test]
    fn failures_are_read_back() {
        let mut out = Vec::new();
        Failure::error("40001", "lost\0it").hint("run it again").routine("Lose").put(&mut out);
        let frame = Frames::new(&out).next().expect("complete");
        let report = Report::new(frame.body());
        assert_eq!(frame.tag, tag::ERROR_RESPONSE);
        assert_eq!(report.sqlstate(), Some(SqlState(*b"40001")));
        assert_eq!((report.message().as_str(), report.is_fatal()), ("lost it", false));
        assert_eq!(report.field(b'H'), Some(&b"run it again"[..]));
        assert_eq!(report.field(b'R'), Some(&b"Lose"[..]));
    }

    #[test]
    fn reports_may_lack_anything() {
        for body in [&b""[..], b"\0", b"C", b"C40001", b"CX\0\0", b"Mtext\0"] {
            let report = Report::new(body);
            assert_eq!((report.sqlstate(), report.is_fatal()), (None, false), "{body:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut out = Vec::new();
        put_parameter_status(&mut out, b"TimeZone", b"UTC");
        let key = CancelKey { process: 9, secret: [1, 2, 3, 4].into() };
        put_backend_key_data(&mut out, &key);
        put_ready(&mut out, Status::Failed);
        put_authentication_cleartext_password(&mut out);
        put_authentication_md5_password(&mut out, [1, 2, 3, 255]);
        put_sasl(&mut out, &["A", "B"]);
        put_text_columns(&mut out, &["a", "b"]);
        put_text_row(&mut out, &["x", ""]);
        let frames: Vec<_> = Frames::new(&out).collect();
        assert_eq!(frames.iter().map(|frame| frame.tag).collect::<Vec<_>>(), b"SKZRRRTD");
        assert_eq!(parameter_status(frames[0].body()), Some((&b"TimeZone"[..], &b"UTC"[..])));
        assert_eq!(backend_key_data(frames[1].body()), Some(key));
        assert_eq!(Status::read(frames[2].body()), Some(Status::Failed));
        assert_eq!((frames[3].body(), frames[4].body()), (&b"\0\0\0\x03"[..], &b"\0\0\0\x05\x01\x02\x03\xff"[..]));
        assert_eq!(frames[5].body(), b"\0\0\0\x0aA\0B\0\0");
        assert_eq!(frames[7].body(), b"\0\x02\0\0\0\x01x\0\0\0\0");
    }
}
