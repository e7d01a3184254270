//! `server_check_query`: whether a connection that has idled for long still has a server at its other end.
//!
//! A closed connection is noticed without asking. This is for networks that forget a silent connection without telling anybody, and for
//! the moment after a loss, when the others of that server may be about to end, too.

use std::time::Instant;

use pool::Lease;
use session::ServerMemory;
use wire::backend::tag;
use wire::frame::Frames;

use crate::ask::ask_lent;
use crate::tenant::Tenant;

/// Whether the server has to be asked before a client gets the connection. `doubts`: the client's request was lost with another one.
pub(crate) fn is_due(tenant: &Tenant, lease: &Lease<ServerMemory>, doubts: bool, now: Instant) -> bool {
    match (&tenant.check, lease.given_back) {
        (_, Some(_)) if doubts => true,
        (Some((_, delay)), Some(since)) => now.saturating_duration_since(since) >= *delay,
        // There is no check, or the server has just answered the login.
        _ => false,
    }
}

/// Asks the server; `None`, and the connection is closed, when it does not answer, or answers with an error. When it is silent, the
/// other idle connections are closed, too, rather than waited for one by one.
pub(crate) async fn passed(tenant: &Tenant, mut lease: Lease<ServerMemory>) -> Option<Lease<ServerMemory>> {
    // The empty query is answered, too, and costs nothing.
    let query = tenant.check.as_ref().map_or("", |(query, _)| query);
    let exchange = ask_lent(&mut lease, query, REPLY_MAX);
    let Ok(answer) = tokio::time::timeout(tenant.connect_timeout, exchange).await else {
        tracing::warn!(node = %lease.pool().target().host, "an idle server connection does not answer server_check_query");
        lease.pool().recycle();
        return None;
    };
    let failed = Frames::new(&answer.ok()?).any(|frame| frame.tag == tag::ERROR_RESPONSE);
    (!failed).then_some(lease)
}

/// Bytes of an answer.
const REPLY_MAX: usize = 64 * 1024;
