//! SHOW TOPOLOGY: the servers of each cluster, what is known of them, and what they have to do.

use std::sync::Arc;
use std::time::Duration;

use pool::Figures;
use topology::{NodeState, Writer};

use super::rows::{Column, Kind, Row};
use super::show::{View, add};
use crate::service::Tenant;

use Kind::{Int4, Int8, Text};

impl View<'_> {
    /// SHOW TOPOLOGY.
    pub(crate) fn topology(&self) -> Vec<Row> {
        let tenants = self.service.tenants();
        let mut rows = Vec::new();
        for (name, cluster) in self.service.clusters().iter() {
            let snapshot = cluster.watcher.snapshot();
            let shares = cluster.shares(self.config, self.now);
            for node in &snapshot.nodes {
                let mut servers = Figures::default();
                let here = |tenant: &&Arc<Tenant>| Arc::ptr_eq(&tenant.cluster, cluster);
                for tenant in tenants.iter().filter(here) {
                    for (_, pool) in tenant.pools().filter(|(of, _)| *of == node.id) {
                        add(&mut servers, pool.figures());
                    }
                }
                let (timeline, streaming) = match &node.state {
                    NodeState::Primary { timeline, .. } | NodeState::Fenced { timeline, .. } => (Some(*timeline), None),
                    NodeState::Replica { timeline, streaming, .. } => {
                        (Some(*timeline), Some(if *streaming { "yes" } else { "no" }))
                    }
                    NodeState::Unknown | NodeState::Unreachable { .. } => (None, None),
                };
                let writes = matches!(&snapshot.writer, Writer::Known(epoch) if epoch.primary == node.id);
                let problem = match &node.state {
                    NodeState::Unreachable { reason, .. } => Some(reason.to_string()),
                    NodeState::Fenced { cause, .. } => Some(cause.to_string()),
                    _ => None,
                };
                let load = cluster.loads.figures(node.id, self.now);
                let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
                rows.push(vec![
                    name.clone().into(),
                    u32::from(node.id.0).into(),
                    node.host.to_string().into(),
                    node.port.into(),
                    node.state.name().into(),
                    if writes { "yes" } else { "no" }.into(),
                    timeline.into(),
                    node.lag(self.now).map(micros).into(),
                    node.figures.replay_lag_bytes.into(),
                    node.figures.receive_lag_bytes.into(),
                    streaming.into(),
                    servers.leased.into(),
                    servers.idle.into(),
                    servers.dialing.into(),
                    node.figures.probes.into(),
                    node.figures.failures.into(),
                    node.figures.round_trip.map(micros).into(),
                    problem.into(),
                    load.requests.into(),
                    load.outstanding.into(),
                    load.latency.map(micros).into(),
                    shares.get(node.id.index()).map(|share| (f64::from(*share) * 100.0).round() as u32).into(),
                ]);
            }
        }
        rows
    }
}

/// Of SHOW TOPOLOGY. `share` is in hundredths of the reads, by weights, zones and slow start.
pub(crate) const COLUMNS: [Column; 22] = [
    ("cluster", Text),
    ("node", Int4),
    ("host", Text),
    ("port", Int4),
    ("state", Text),
    ("writes", Text),
    ("timeline", Int4),
    ("lag_us", Int8),
    ("replay_lag_bytes", Int8),
    ("receive_lag_bytes", Int8),
    ("streaming", Text),
    ("sv_active", Int4),
    ("sv_idle", Int4),
    ("sv_login", Int4),
    ("probes", Int8),
    ("failures", Int8),
    ("round_trip_us", Int8),
    ("problem", Text),
    ("requests", Int8),
    ("outstanding", Int4),
    ("latency_us", Int8),
    ("share", Int4),
];
