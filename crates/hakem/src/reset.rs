//! Wiping what a session has left on its server off it: `server_reset_query`.
//!
//! Needed when a client leaves that has kept a server (session pooling, or a pin): what a transaction leaves is undone with the next
//! request's own settings. Does not decide what becomes of a server that cannot be wiped.

use std::time::Duration;

use pool::Lease;
use session::ServerMemory;
use wire::backend::{Status, tag};
use wire::frame::Frames;

use crate::ask::ask_lent;

/// Runs the reset query; `None` when there is none, or it has failed: then the connection must not be lent again.
pub(crate) async fn reset(lease: &mut Lease<ServerMemory>, query: &str) -> Option<()> {
    if query.is_empty() {
        return None;
    }
    // A server that has more to say to this than the limit, or takes longer, is not worth keeping.
    let exchange = ask_lent(lease, query, REPLY_MAX);
    let reply = tokio::time::timeout(RESET_MAX, exchange).await.ok()?.ok()?;
    if Frames::new(&reply).any(|frame| frame.tag == tag::ERROR_RESPONSE) {
        return None;
    }
    let ready = Frames::new(&reply).find(|frame| frame.tag == tag::READY_FOR_QUERY)?;
    if Status::read(ready.body()) != Some(Status::Idle) {
        return None;
    }
    if discards_all(query) {
        lease.memory.discard_all();
    } else {
        // What exactly it has wiped, nobody knows: statements and settings are begun anew.
        let swept = ask_lent(lease, "DEALLOCATE ALL", REPLY_MAX);
        let swept = tokio::time::timeout(RESET_MAX, swept).await.ok()?.ok()?;
        if Frames::new(&swept).any(|frame| frame.tag == tag::ERROR_RESPONSE) {
            return None;
        }
        lease.memory.distrust();
    }
    Some(())
}

/// Whether the query is DISCARD ALL and nothing else.
fn discards_all(query: &str) -> bool {
    let mut words =
        query.trim_end_matches(|letter: char| letter == ';' || letter.is_ascii_whitespace()).split_ascii_whitespace();
    let two = (words.next(), words.next(), words.next());
    matches!(two, (Some(discard), Some(all), None) if discard.eq_ignore_ascii_case("discard") && all.eq_ignore_ascii_case("all"))
}

/// Bytes of a server's answer.
const REPLY_MAX: usize = 64 * 1024;

/// The time that it may take.
const RESET_MAX: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_discards_all() {
        for query in ["DISCARD ALL", "discard  all ;", "\tDiscard\nAll"] {
            assert!(discards_all(query), "{query:?}");
        }
        for query in ["", "DISCARD PLANS", "DISCARD ALL; SET work_mem = '1MB'", "-- DISCARD ALL", "DEALLOCATE ALL"] {
            assert!(!discards_all(query), "{query:?}");
        }
    }
}
