//! A question of the proxy's own to a server that nobody else is using: one simple query and all of its reply.
//!
//! Owns the exchange, which is cold: it happens at logins and when a session is wiped off its server. Does not read the reply.

use std::io;

use pool::{Lease, Stream};
use session::ServerMemory;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wire::backend::{self, tag};
use wire::frame::Frames;
use wire::frontend;

/// Sends `sql` and returns the server's messages up to ReadyForQuery.
///
/// # Errors
/// When the connection ends, or the reply has more than `reply_max` bytes.
pub(crate) async fn ask(stream: &mut Stream, sql: &str, reply_max: usize) -> io::Result<Vec<u8>> {
    let mut query = Vec::new();
    frontend::put_query(&mut query, sql);
    stream.write_all(&query).await?;
    let mut reply = Vec::new();
    while !Frames::new(&reply).any(|frame| frame.tag == tag::READY_FOR_QUERY) {
        if stream.read_buf(&mut reply).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if reply.len() > reply_max {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    Ok(reply)
}

/// The same of a server that clients have: what it reports of its settings is noted.
pub(crate) async fn ask_lent(lease: &mut Lease<ServerMemory>, sql: &str, reply_max: usize) -> io::Result<Vec<u8>> {
    let reply = ask(&mut lease.stream, sql, reply_max).await?;
    for frame in Frames::new(&reply).filter(|frame| frame.tag == tag::PARAMETER_STATUS) {
        if let Some((name, value)) = backend::parameter_status(frame.body()) {
            lease.memory.report(name, value);
        }
    }
    Ok(reply)
}
