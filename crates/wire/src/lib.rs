//! Bytes to messages and back: PostgreSQL's frontend/backend protocol, version 3, without a socket.
//!
//! The crate's map: [`frame`] walks 5-byte headers and is the hot path; [`startup`] reads the packets that come before
//! there are headers, with [`version`] and [`cancel_key`]; [`frontend`] gives borrowed views of what clients send and writes what is sent to servers;
//! [`backend`] reads the few server messages that matter to a proxy and writes the replies that the proxy gives itself.
//!
//! Hot messages are never decoded into owned values. Cold ones (errors, notices, row descriptions) are encoded
//! by `pgwire::messages`. They are not *decoded* by it, since it takes text for UTF-8 and mends malformed packets,
//! where a proxy has to pass bytes on as they are and refuse what is malformed.

pub mod backend;
pub mod cancel_key;
pub mod frame;
pub mod frontend;
pub mod startup;
pub mod version;

pub use frame::{Header, Malformed};
