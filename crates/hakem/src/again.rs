//! What is run again: a request, or a transaction, whose server could not do it or was lost; and how often.
//!
//! Whether it may be is the session's to say. This is what becomes of the client meanwhile, and where it is tried next.

use std::time::Instant;

use pool::Lease;
use session::{Fate, Loss, Need, RetryReason, ServerMemory, Session};
use topology::{Epoch, NodeId};
use wire::backend::Failure;

use crate::client::Client;
use crate::counters::Replayed;
use crate::outcome::{Gone, Unresolved};
use crate::resolution;
use crate::route::Wanted;

impl Client {
    /// Whether a request that has to be run again is; if not, the client is told.
    pub(crate) fn runs_again(
        &self,
        session: &mut Session,
        tries: &mut Tries,
        reason: RetryReason,
        node: NodeId,
    ) -> bool {
        self.worker.counters.retried(reason);
        tries.retries += 1;
        tries.losses += u32::from(reason == RetryReason::ServerLost);
        if tries.retries <= RETRIES_MAX && tries.losses <= LOSSES_MAX {
            return true;
        }
        self.tenant.watcher.suspect(node);
        session.refuse(&Failure::error("08006", "the servers that ran this were lost, one after another"));
        false
    }

    /// Whether a transaction that has lost its server is run again; if not, the client is told.
    pub(crate) fn replays(&mut self, session: &mut Session, tries: &mut Tries, node: NodeId) -> bool {
        tracing::info!(client = self.id, %node, "lost a server in a transaction that can be run again");
        tries.losses += 1;
        let goes_on = tries.losses <= LOSSES_MAX;
        if !goes_on {
            self.give_up_replay(session);
        }
        goes_on
    }

    /// A transaction is not run again after all, and its client is told.
    pub(crate) fn give_up_replay(&mut self, session: &mut Session) {
        self.worker.counters.replayed(Replayed::GivenUp);
        session.give_up_replay(Instant::now());
        self.note_write(session);
        self.settle(session);
    }

    /// Finds out what became of a commit and tells the client, unless it is to be run again instead.
    pub(crate) async fn resolve(
        &mut self,
        session: &mut Session,
        lost: Unresolved,
        reign: Option<Epoch>,
    ) -> Result<Loss, Gone> {
        let held = self.unsent.split_off(lost.released);
        self.flush().await?;
        let deadline = self.tenant.failover_deadline(Instant::now());
        let (tenant, worker) = (self.tenant.clone(), self.worker.clone());
        let fate = match reign {
            Some(origin) => {
                let found = resolution::find(&worker, tenant, lost.trace, origin, deadline);
                self.split().1.during(Instant::now(), found).await?
            }
            None => Fate::Unknown,
        };
        worker.counters.resolved(fate);
        let loss = session.resolve(fate, lost.code, Instant::now());
        if loss == Loss::Retry {
            session.restart();
            return Ok(loss);
        }
        if loss == Loss::Replay || fate == Fate::Committed {
            self.unsent.extend_from_slice(&held);
        }
        if loss != Loss::Replay {
            self.note_write(session);
            self.settle(session);
        }
        Ok(loss)
    }

    /// What to want after a request could not be run where it was sent.
    pub(crate) async fn reconsider(&self, wanted: &mut Wanted, reason: RetryReason, node: NodeId) {
        match reason {
            RetryReason::Misrouted | RetryReason::NotReplayed => wanted.need = Need::Primary,
            // The same server will do: what does not fit is closed there first.
            RetryReason::Outdated => {}
            RetryReason::Conflict => wanted.avoid(node),
            RetryReason::ServerLost => {
                self.tenant.watcher.suspect(node);
                wanted.avoid(node);
                wanted.doubt();
            }
            // Another connection, and its word awaited this time.
            RetryReason::Settings => {}
            // What it is now must be known before anything is sent anywhere.
            RetryReason::Demoted => {
                wanted.need = Need::Primary;
                let probed = async {
                    tokio::select! {
                        () = self.tenant.watcher.reprobe(node) => {}
                        // Nobody may probe for this one any more.
                        () = self.tenant.until_superseded() => {}
                    }
                };
                // If that takes too long, so be it: who the primary is will be asked again.
                let _ = tokio::time::timeout_at(wanted.deadline().into(), Box::pin(probed)).await;
            }
        }
    }
}

/// Lets go of a server that is lost; what it had of the session.
pub(crate) fn leave(mut lease: Lease<ServerMemory>) -> ServerMemory {
    std::mem::replace(&mut lease.memory, ServerMemory::new(0))
}

/// How often a request has been run again, and how often for a server that was lost.
#[derive(Default)]
pub(crate) struct Tries {
    retries: u32,
    losses: u32,
}

/// How often a request is run again, whatever the reason.
const RETRIES_MAX: u32 = 10;

/// How often a request is run again after its server was lost: a request may be what kills servers, and is not to kill them all.
const LOSSES_MAX: u32 = 2;
