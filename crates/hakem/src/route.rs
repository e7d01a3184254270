//! From what a request needs to a lease on a server that has it.
//!
//! Owns the waiting: for a primary during a failover, and for another server when one turns out to be gone. Which node will do is
//! decided by a topology snapshot; which connection, by the node's pool.

use std::pin::pin;
use std::time::{Duration, Instant};

use pool::{CheckoutError, DialError, Lease};
use session::{Need, Role, ServerMemory};
use topology::{Ask, Choice, Freshness, Node, NodeId, NodeState, Snapshot, Trail, WhyPrimary};
use wire::backend::Failure;

use crate::check_query;
use crate::client::Client;
use crate::load::Burden;
use crate::outcome::Gone;
use crate::service::Tenant;

/// What is wanted of a server, after what has been tried.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) need: Need,
    /// Of the classifier that called it so.
    version: u64,
    avoided: Vec<NodeId>,
    /// The replica that is to serve it, if it can.
    near: Option<NodeId>,
    /// A server was lost under it: of those that have idled, it takes one that answers.
    doubts: bool,
    /// When it came: its place among those who wait.
    came: Instant,
    deadline: Instant,
}

/// The server that was found.
pub(crate) struct Taken {
    pub(crate) node: NodeId,
    pub(crate) role: Role,
    /// What is read there is part of the session's history: on a replica, or on the primary in place of one.
    pub(crate) leaves_trail: bool,
    /// It is counted there for as long as this is.
    pub(crate) burden: Burden,
}

/// Why none was found.
pub(crate) enum Missed {
    /// The client is to be told.
    Refused(Failure),
    /// The configuration was reloaded: to be asked of the tenant that has taken this one's place.
    Superseded,
}

impl From<Failure> for Missed {
    fn from(failure: Failure) -> Missed {
        Missed::Refused(failure)
    }
}

impl Wanted {
    pub(crate) fn new(need: Need, version: u64, came: Instant, deadline: Instant) -> Wanted {
        Wanted { need, version, avoided: Vec::new(), near: None, doubts: false, came, deadline }
    }

    /// Rather on this replica than on another.
    pub(crate) fn near(self, near: Option<NodeId>) -> Wanted {
        Wanted { near, ..self }
    }

    /// Not to be given up before that.
    pub(crate) fn wait_until(&mut self, deadline: Instant) {
        self.deadline = deadline;
    }

    /// The nodes are others now, and so may be what the database says.
    pub(crate) fn forget_nodes(&mut self, version: u64) {
        self.version = version;
        self.avoided.clear();
        self.near = None;
    }

    /// Not on this node again, unless it is the primary and nothing else will do.
    pub(crate) fn avoid(&mut self, node: NodeId) {
        self.avoided.push(node);
    }

    /// Until when it is waited for.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Not on a connection that may be as dead as the last one.
    pub(crate) fn doubt(&mut self) {
        self.doubts = true;
    }

    /// The question that is asked of a snapshot.
    fn ask<'a>(&self, tenant: &Tenant, need: topology::Need, trail: Option<Trail>, avoided: &'a [NodeId]) -> Ask<'a> {
        let share = tenant.resolved.primary_read_share.part();
        let (trail, primary_share) = match self.need {
            Need::Replica { steady, insists, .. } => (trail.filter(|_| steady), if insists { 0.0 } else { share }),
            Need::Primary => (None, 0.0),
        };
        Ask { need, exclude: avoided, trail, primary_share, chance: rand::random() }
    }

    /// Whether a node has everything that another session has handed on.
    fn has_seen(&self, node: &Node) -> bool {
        let Need::Replica { token: Some(token), .. } = self.need else { return true };
        match node.state {
            NodeState::Replica { timeline, system_identifier, replay_lsn, fresh_as_of, .. } => {
                let place = (system_identifier, timeline) == (token.system_identifier, token.timeline);
                (place && replay_lsn >= token.lsn) || token.since.is_some_and(|since| fresh_as_of >= Some(since))
            }
            _ => false,
        }
    }

    /// The replicas that have not.
    fn behind(&self, snapshot: &Snapshot) -> Vec<NodeId> {
        let is_behind = |node: &&Node| matches!(node.state, NodeState::Replica { .. }) && !self.has_seen(node);
        snapshot.nodes.iter().filter(is_behind).map(|node| node.id).collect()
    }

    /// The replica that the session keeps to, if that will do.
    fn kept(&self, snapshot: &Snapshot, tenant: &Tenant, ask: &Ask<'_>) -> Option<Choice> {
        let (Some(near), topology::Need::Read(freshness)) = (self.near, ask.need) else { return None };
        let node = snapshot.node(near).filter(|node| freshness.allows(node) && !ask.exclude.contains(&near))?;
        let may = ask.trail.is_none_or(|trail| trail.allows(node)) && tenant.plan.weight(near) > 0.0;
        may.then_some(Choice::Replica(near))
    }

    /// The choice, from the newest snapshot.
    fn choose(
        &self,
        tenant: &Tenant,
        need: topology::Need,
        trail: Option<Trail>,
        avoided: &[NodeId],
        now: Instant,
    ) -> Chosen {
        let snapshot = tenant.watcher.snapshot();
        let mut excluded = self.behind(&snapshot);
        let is_behind = !excluded.is_empty();
        excluded.extend_from_slice(avoided);
        let ask = self.ask(tenant, need, trail, &excluded);
        let kept = self.kept(&snapshot, tenant, &ask);
        let choice =
            kept.unwrap_or_else(|| snapshot.pick(&ask, &tenant.plan, |node| tenant.cluster.loads.of(node, now)));
        Chosen { choice, version: snapshot.version, trail: ask.trail, is_behind }
    }

    fn need(&self, tenant: &Tenant, now: Instant) -> topology::Need {
        match self.need {
            Need::Primary => topology::Need::Write,
            // What was taken for a read may be none any more.
            Need::Replica { .. } if !tenant.lore().is_current(self.version) => topology::Need::Write,
            Need::Replica { max_lag, not_before, global, .. } => {
                let written = if global { tenant.last_write() } else { None };
                // An older replica may still have what was no read.
                let not_before = not_before.max(written).max(tenant.lore().news());
                topology::Need::Read(Freshness { now, max_lag, not_before })
            }
        }
    }
}

/// A choice.
struct Chosen {
    choice: Choice,
    /// The version of the snapshot that it is from.
    version: u64,
    /// What of the session's history it depends on.
    trail: Option<Trail>,
    /// Whether a replica was left out for what it has not seen.
    is_behind: bool,
}

/// Where a request would go now that needs this.
pub(crate) fn preview(tenant: &Tenant, need: Need, version: u64, now: Instant) -> Choice {
    let wanted = Wanted::new(need, version, now, now);
    wanted.choose(tenant, wanted.need(tenant, now), None, &[], now).choice
}

/// Finds a server for a client's request, waiting for one up to the deadline. `now` is the present moment.
///
/// # Errors
/// That the client is gone. Else, inside: why there is none.
pub(crate) async fn acquire(
    client: &mut Client,
    wanted: &Wanted,
    now: Instant,
) -> Result<Result<(Lease<ServerMemory>, Taken), Missed>, Gone> {
    let trail = client.trail;
    let (tenant, presence) = client.split();
    let worker = presence.worker.id;
    // Pinned here: what is handed on is not copied.
    let search = pin!(find(tenant, worker, trail, wanted, now));
    presence.during(now, search).await
}

/// The same without a client, of which only is needed what it has read.
pub(crate) async fn find(
    tenant: &Tenant,
    worker: usize,
    trail: Option<Trail>,
    wanted: &Wanted,
    now: Instant,
) -> Result<(Lease<ServerMemory>, Taken), Missed> {
    let mut avoided = wanted.avoided.clone();
    let mut begun = Some(now);
    loop {
        if tenant.is_superseded() {
            return Err(Missed::Superseded);
        }
        let mut now = begun.take().unwrap_or_else(Instant::now);
        if tenant.gate.is_closed() {
            Box::pin(wait_for_gate(tenant, now)).await?;
            now = Instant::now();
        }
        let is_settled = tenant.lore().is_settled();
        let need = wanted.need(tenant, now);
        let Chosen { choice, version, trail, is_behind } = wanted.choose(tenant, need, trail, &avoided, now);
        let loads = &tenant.cluster.loads;
        let (node, role, leaves_trail) = match choice {
            Choice::Replica(node) => (node, Role::Replica, true),
            Choice::Primary(node, why) => {
                if why == WhyPrimary::Stale || is_behind {
                    tenant.cluster.staleness.note(now);
                }
                (node, Role::Primary, why == WhyPrimary::Share)
            }
            Choice::Nowhere(reason) => {
                if now >= wanted.deadline {
                    return Err(Failure::error("57P03", reason.to_string()).hint("Try again later.").into());
                }
                let news = async {
                    tokio::select! {
                        () = wait_for_news(tenant, version, wanted.deadline) => {}
                        // What had to be the primary's may be a replica's then.
                        () = tenant.lore().settled(), if !is_settled => {}
                    }
                };
                Box::pin(news).await;
                continue;
            }
        };
        let taken = Taken { node, role, leaves_trail, burden: loads.take(node, worker, now) };
        let pool = tenant.pool(taken.node);
        let mut checkout = pool.checkout_after(worker, wanted.came, now, || !tenant.gate.is_closed()).await;
        if let Ok(lease) = &mut checkout {
            for (name, value) in std::mem::take(&mut lease.parameters) {
                lease.memory.report(&name, &value);
            }
        }
        match checkout {
            Ok(lease) if check_query::is_due(tenant, &lease, wanted.doubts, now) => {
                match Box::pin(check_query::passed(tenant, lease)).await {
                    Some(lease) if still_holds(tenant, wanted, &taken, &need, trail) => return Ok((lease, taken)),
                    Some(lease) => lease.release(Instant::now()),
                    // It is closed; the next one, or another server, will do.
                    None => {}
                }
            }
            // While it waited for a connection, everything was paused.
            Ok(lease) if tenant.gate.is_closed() => lease.release(Instant::now()),
            Ok(lease) if still_holds(tenant, wanted, &taken, &need, trail) => return Ok((lease, taken)),
            // While it waited for a connection, the node has become something else.
            Ok(lease) => lease.release(Instant::now()),
            // What it was told may be a matter of the old configuration.
            Err(CheckoutError::Dial(_) | CheckoutError::Cached(_)) if tenant.is_superseded() => {}
            Err(missed @ (CheckoutError::Dial(_) | CheckoutError::Cached(_))) => match taken.role {
                // A replica that will not have us is no reason to fail while there is a primary.
                Role::Replica => {
                    if missed.is_transient() {
                        tenant.watcher.suspect(taken.node);
                    }
                    avoided.push(taken.node);
                }
                Role::Primary if missed.is_transient() => {
                    tenant.watcher.suspect(taken.node);
                    if Instant::now() >= wanted.deadline {
                        return Err(missed_for(&missed).into());
                    }
                    Box::pin(wait_for_news(tenant, version, (now + RETRY_PAUSE).min(wanted.deadline))).await;
                }
                Role::Primary => return Err(missed_for(&missed).into()),
            },
            // The snapshot that says so is there already, or the gate is closed.
            Err(CheckoutError::Severed | CheckoutError::Recalled) => {}
            Err(error @ CheckoutError::Timeout) => return Err(Failure::error("57014", error.to_string()).into()),
            Err(CheckoutError::Abandoned) => return Err(Missed::Superseded),
            Err(error @ CheckoutError::QueueFull) => return Err(Failure::error("53300", error.to_string()).into()),
        }
    }
}

/// Whether a server that was taken for a request would do for the same request now.
pub(crate) fn still_serves(tenant: &Tenant, wanted: &Wanted, taken: &Taken) -> bool {
    // What a primary is wanted for makes no difference, and is not to be found out for each request of a pipeline.
    let need = match taken.role {
        Role::Primary => topology::Need::Write,
        Role::Replica => wanted.need(tenant, Instant::now()),
    };
    still_holds(tenant, wanted, taken, &need, None)
}

/// Whether a node is still what it was taken for: it may have taken a while to get a connection to it. A tenant that another has taken the
/// place of cannot tell: nobody tells it what becomes of its servers.
fn still_holds(tenant: &Tenant, wanted: &Wanted, taken: &Taken, need: &topology::Need, trail: Option<Trail>) -> bool {
    if tenant.is_superseded() {
        return false;
    }
    let snapshot = tenant.watcher.snapshot();
    match (taken.role, need) {
        (Role::Primary, _) => snapshot.primary().is_some_and(|node| node.id == taken.node),
        (Role::Replica, topology::Need::Read(freshness)) => {
            let allows =
                |node| freshness.allows(node) && wanted.has_seen(node) && trail.is_none_or(|trail| trail.allows(node));
            snapshot.node(taken.node).is_some_and(allows)
        }
        (Role::Replica, topology::Need::Write) => false,
    }
}

/// Waits until an administrator lets requests pass: for as long as a client waits for a server.
async fn wait_for_gate(tenant: &Tenant, now: Instant) -> Result<(), Missed> {
    let opened = async {
        tokio::select! {
            () = tenant.gate.opened() => {}
            () = tenant.until_superseded() => {}
        }
    };
    let timely = tokio::time::timeout_at((now + tenant.wait_timeout()).into(), opened).await;
    let timeout = CheckoutError::Timeout;
    timely.map_err(|_| Missed::Refused(Failure::error("57014", timeout.to_string())))?;
    if tenant.is_superseded() { Err(Missed::Superseded) } else { Ok(()) }
}

pub(crate) async fn wait_for_news(tenant: &Tenant, version: u64, until: Instant) {
    let _hurry = tenant.watcher.wait_guard();
    let news = async {
        tokio::select! {
            () = tenant.watcher.changed(version) => {}
            () = tenant.until_superseded() => {}
        }
    };
    // Whether there are news or the time is up, the caller looks again.
    let _ = tokio::time::timeout_at(until.into(), news).await;
}

/// What a client is told when a server will not have us: the server's own SQLSTATE where there is one.
pub(crate) fn refusal(error: &DialError) -> Failure {
    match error {
        DialError::Refused { code: Some(code), message } => {
            let known = KNOWN_CODES.iter().find(|known| known.as_bytes() == code.0);
            Failure::error(known.copied().unwrap_or("08006"), message.clone())
        }
        other => Failure::error("08006", format!("cannot connect to the server: {other}")),
    }
}

/// The same when it may have been a while ago.
fn missed_for(missed: &CheckoutError) -> Failure {
    match missed {
        CheckoutError::Cached(error) => {
            let failure = refusal(error);
            let cached =
                format!("server login has been failing, cached error: {} (server_login_retry)", failure.message);
            Failure { message: cached, ..failure }
        }
        CheckoutError::Dial(error) => refusal(error),
        other => Failure::error("08006", other.to_string()),
    }
}

/// The pause before the primary is tried again after a failed attempt to connect to it.
pub(crate) const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// What PostgreSQL refuses connections with.
const KNOWN_CODES: [&str; 10] =
    ["28000", "28P01", "3D000", "42501", "42704", "53300", "55000", "57P01", "57P03", "22023"];
