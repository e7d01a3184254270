//! Metrics: names, labels and the reading of what is counted elsewhere.
//!
//! Nothing is registered or formatted while statements flow: workers count in their own memory, and a scrape collects.

use std::sync::Arc;
use std::time::Instant;

use ::metrics::{Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusRecorder};
use topology::{NodeState, Writer};

use crate::counters::{Counters, FATES, PINS, Place, REFUSALS, REPLAYED, RETRIES, WHY_ALL};
use crate::deadline::Overdue;
use crate::service::Service;

/// The program's metrics.
pub(crate) struct Metrics {
    counters: Vec<Arc<Counters>>,
}

impl Metrics {
    /// Metrics over the workers' counters.
    pub(crate) fn new(counters: Vec<Arc<Counters>>) -> Metrics {
        Metrics { counters }
    }

    /// Every statement routed so far, by place.
    pub(crate) fn routed(&self, place: Place) -> u64 {
        let sum = |counters: &Arc<Counters>| WHY_ALL.iter().map(|why| counters.routed_total(place, *why)).sum::<u64>();
        self.counters.iter().map(sum).sum()
    }

    /// Every retry so far.
    pub(crate) fn retries(&self) -> u64 {
        self.counters.iter().map(|counters| (0..RETRIES.len()).map(|at| counters.retried_total(at)).sum::<u64>()).sum()
    }

    /// The metrics as Prometheus reads them.
    pub(crate) fn render(&self, service: &Service) -> String {
        // A fresh recorder each time: what is gone leaves no stale series behind.
        let recorder = PrometheusBuilder::new().build_recorder();
        describe(&recorder);
        let out = Out { recorder: &recorder };
        self.collect_workers(&out);
        for (outcome, handshakes) in ["success", "failure"].into_iter().zip(service.encryption.handshakes()) {
            out.counter("hakem_tls_handshakes_total", &[("outcome", outcome)], handshakes);
        }
        out.gauge("hakem_clients", &[], service.clients() as f64);
        out.gauge("hakem_workers_open", &[], service.crew.open() as f64);
        out.counter("hakem_client_transfers_total", &[], service.crew.moved());
        out.gauge("hakem_logins_open", &[], service.lobby.count() as f64);
        out.gauge("hakem_replication_connections", &[], service.tunnels.count() as f64);
        out.counter("hakem_logins_dropped_total", &[], service.lobby.shown_out());
        collect_pools(service, &out);
        collect_topology(service, &out);
        collect_catalogs(service, &out);
        recorder.handle().render()
    }

    fn collect_workers(&self, out: &Out<'_>) {
        for place in Place::ALL {
            for why in WHY_ALL {
                let total = self.counters.iter().map(|counters| counters.routed_total(place, why)).sum();
                // A series per possible pair would be mostly zeros.
                if total > 0 {
                    out.counter("hakem_statements_total", &[("to", place.as_str()), ("why", why.as_str())], total);
                }
            }
        }
        for (at, reason) in RETRIES.iter().enumerate() {
            let total = self.counters.iter().map(|counters| counters.retried_total(at)).sum();
            out.counter("hakem_retries_total", &[("reason", reason.as_str())], total);
        }
        for (at, fate) in FATES.into_iter().enumerate() {
            let total = self.counters.iter().map(|counters| counters.resolved_total(at)).sum();
            out.counter("hakem_commit_resolutions_total", &[("fate", fate)], total);
        }
        for (at, outcome) in REPLAYED.into_iter().enumerate() {
            let total = self.counters.iter().map(|counters| counters.replayed_total(at)).sum();
            out.counter("hakem_transaction_replays_total", &[("outcome", outcome)], total);
        }
        for (at, reason) in PINS.iter().enumerate() {
            let sum = |figures: fn(&Counters) -> [u64; PINS.len()]| {
                self.counters.iter().map(|counters| figures(counters)[at]).sum::<u64>()
            };
            let labels = [("reason", reason.as_str())];
            out.counter("hakem_pins_total", &labels, sum(Counters::pins));
            out.gauge("hakem_pins", &labels, sum(Counters::pins_standing) as f64);
        }
        for (at, (_, reason)) in REFUSALS.iter().enumerate() {
            let total = self.counters.iter().map(|counters| counters.refused_total(at)).sum();
            out.counter("hakem_refused_total", &[("reason", reason)], total);
        }
        for what in Overdue::ALL {
            let total = self.counters.iter().map(|counters| counters.overdue_total(what)).sum();
            out.counter("hakem_timeouts_total", &[("timeout", what.as_str())], total);
        }
        let mut sums = [0; 3];
        for counters in &self.counters {
            for (sum, value) in sums.iter_mut().zip(counters.others()) {
                *sum += value;
            }
        }
        let [lost, logins, failed] = sums;
        out.counter("hakem_servers_lost_total", &[], lost);
        out.counter("hakem_logins_total", &[("outcome", "success")], logins);
        out.counter("hakem_logins_total", &[("outcome", "failure")], failed);
        let denied = self.counters.iter().map(|counters| counters.denied_total()).sum();
        out.counter("hakem_authentication_failures_total", &[], denied);
    }
}

fn describe(recorder: &PrometheusRecorder) {
    for (name, text) in COUNTERS {
        recorder.describe_counter(name.into(), None::<Unit>, text.into());
    }
    for (name, text) in GAUGES {
        recorder.describe_gauge(name.into(), None::<Unit>, text.into());
    }
}

fn collect_pools(service: &Service, out: &Out<'_>) {
    for tenant in service.tenants() {
        let (database, user) = &*tenant.key;
        let (listeners, delivered) = tenant.hub.figures();
        if listeners > 0 || delivered > 0 {
            let labels = [("database", database.as_str()), ("user", user.as_str())];
            out.gauge("hakem_listeners", &labels, listeners as f64);
            out.counter("hakem_notifications_total", &labels, delivered);
        }
        for (_, pool) in tenant.pools() {
            let target = pool.target();
            let node = format!("{}:{}", target.host, target.port);
            let labels = [("database", database.as_str()), ("user", user.as_str()), ("node", node.as_str())];
            let figures = pool.figures();
            for (state, count) in [("idle", figures.idle), ("leased", figures.leased), ("dialing", figures.dialing)] {
                out.gauge("hakem_server_connections", &[&labels[..], &[("state", state)]].concat(), count as f64);
            }
            out.gauge("hakem_clients_waiting", &labels, figures.waiting as f64);
        }
    }
}

fn collect_topology(service: &Service, out: &Out<'_>) {
    let now = Instant::now();
    for (cluster, watched) in service.clusters().iter() {
        let snapshot = watched.watcher.snapshot();
        let known = matches!(snapshot.writer, Writer::Known(_));
        let split = matches!(snapshot.writer, Writer::None(topology::NoPrimary::SplitBrain { .. }));
        out.gauge("hakem_primary_known", &[("cluster", cluster)], f64::from(u8::from(known)));
        out.gauge("hakem_split_brain", &[("cluster", cluster)], f64::from(u8::from(split)));
        let shares = watched.shares(&service.config(), now);
        for (node, share) in snapshot.nodes.iter().zip(shares) {
            let name = format!("{}:{}", node.host, node.port);
            let labels = [("cluster", cluster.as_str()), ("node", name.as_str())];
            let load = watched.loads.figures(node.id, now);
            out.counter("hakem_node_requests_total", &labels, load.requests);
            out.gauge("hakem_node_outstanding", &labels, f64::from(load.outstanding));
            out.gauge("hakem_node_read_share", &labels, f64::from(share));
            if let Some(latency) = load.latency {
                out.gauge("hakem_node_latency_seconds", &labels, latency.as_secs_f64());
            }
            for state in ["unknown", "unreachable", "primary", "replica", "fenced"] {
                let is = f64::from(u8::from(node.state.name() == state));
                out.gauge("hakem_node_state", &[&labels[..], &[("state", state)]].concat(), is);
            }
            if let NodeState::Primary { timeline, .. } | NodeState::Replica { timeline, .. } = node.state {
                out.gauge("hakem_node_timeline", &labels, f64::from(timeline));
            }
            // A replica of unproven freshness is infinitely behind, as far as anybody can tell.
            if matches!(node.state, NodeState::Replica { .. }) {
                let lag = node.lag(now).map_or(f64::INFINITY, |lag| lag.as_secs_f64());
                out.gauge("hakem_replica_lag_seconds", &labels, lag);
                if let Some(bytes) = node.figures.replay_lag_bytes {
                    out.gauge("hakem_replica_lag_bytes", &labels, bytes as f64);
                }
            }
        }
    }
}

fn collect_catalogs(service: &Service, out: &Out<'_>) {
    for lore in service.lores() {
        let figures = lore.figures();
        let labels = [("cluster", lore.cluster.as_str()), ("database", lore.dbname.as_str())];
        out.gauge("hakem_catalog_functions", &labels, figures.size.functions as f64);
        out.gauge("hakem_catalog_relations", &labels, figures.size.relations as f64);
        out.gauge("hakem_catalog_primary_names", &labels, figures.primary_names as f64);
        out.gauge("hakem_catalog_current", &labels, f64::from(u8::from(lore.state(&figures) == "loaded")));
        out.counter("hakem_catalog_loads_total", &labels, figures.loads);
        out.counter("hakem_catalog_failures_total", &labels, figures.failures);
        if let Some(checked) = figures.checked {
            out.gauge("hakem_catalog_age_seconds", &labels, checked.elapsed().as_secs_f64());
        }
    }
}

struct Out<'a> {
    recorder: &'a PrometheusRecorder,
}

impl Out<'_> {
    fn counter(&self, name: &'static str, labels: &[(&'static str, &str)], total: u64) {
        self.recorder.register_counter(&key(name, labels), &METADATA).absolute(total);
    }

    fn gauge(&self, name: &'static str, labels: &[(&'static str, &str)], value: f64) {
        self.recorder.register_gauge(&key(name, labels), &METADATA).set(value);
    }
}

fn key(name: &'static str, labels: &[(&'static str, &str)]) -> Key {
    let labels: Vec<Label> = labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect();
    Key::from_parts(name, labels)
}

const METADATA: Metadata<'static> = Metadata::new("hakem", Level::INFO, None);

const COUNTERS: [(&str, &str); 17] = [
    ("hakem_node_requests_total", "Requests that a node was chosen for."),
    ("hakem_statements_total", "Requests by where they went and why."),
    ("hakem_retries_total", "Requests run again elsewhere, by reason."),
    ("hakem_commit_resolutions_total", "Commits whose answer was lost, by what was found out to have become of them."),
    ("hakem_transaction_replays_total", "Transactions whose server was lost, by what came of running them again."),
    ("hakem_pins_total", "Pins of sessions to their server, by reason."),
    ("hakem_notifications_total", "Notifications delivered to clients that listen in transaction pooling."),
    ("hakem_refused_total", "Requests refused for want of a server, by reason."),
    ("hakem_timeouts_total", "Clients whose connection was ended because their time was up, by the timeout."),
    ("hakem_servers_lost_total", "Servers lost under a request or transaction that could not be retried."),
    ("hakem_logins_total", "Logins of clients, by outcome."),
    ("hakem_logins_dropped_total", "Connections dropped before their login to make room for others."),
    ("hakem_client_transfers_total", "Clients that have gone over from one worker to another."),
    ("hakem_tls_handshakes_total", "TLS handshakes with clients, by outcome."),
    ("hakem_authentication_failures_total", "Clients that could not prove who they are."),
    ("hakem_catalog_loads_total", "Times that a database's functions and relations were read."),
    ("hakem_catalog_failures_total", "Times that a database's functions and relations could not be read."),
];

const GAUGES: [(&str, &str); 22] = [
    ("hakem_node_outstanding", "Requests that a node was chosen for and has not finished."),
    ("hakem_node_latency_seconds", "How long a node has taken to answer lately."),
    ("hakem_node_read_share", "The part of the reads that a node gets, by weights, zones and slow start."),
    ("hakem_clients", "Clients that have logged in."),
    ("hakem_workers_open", "Workers that clients are dealt to; more when these are busy."),
    ("hakem_logins_open", "Connections that have not logged in yet."),
    ("hakem_replication_connections", "Clients with a server connection of their own for replication."),
    ("hakem_server_connections", "Server connections by state."),
    ("hakem_pins", "Pins that stand."),
    ("hakem_listeners", "Clients that listen in transaction pooling."),
    ("hakem_clients_waiting", "Clients that wait for a server connection."),
    ("hakem_node_state", "1 for the state that a node is in."),
    ("hakem_node_timeline", "The timeline that a node is on."),
    ("hakem_replica_lag_seconds", "How old a replica's picture is at most."),
    ("hakem_replica_lag_bytes", "WAL inserted on the primary and not replayed."),
    ("hakem_primary_known", "1 while writes have somewhere to go."),
    ("hakem_split_brain", "1 while two nodes claim to be the primary of one timeline."),
    ("hakem_catalog_functions", "Functions of users and extensions that a database has."),
    ("hakem_catalog_relations", "Tables, views and sequences that a database has."),
    ("hakem_catalog_primary_names", "Names of relations and types that are kept on the primary."),
    ("hakem_catalog_age_seconds", "The time since a database's catalog was last known to be what was read."),
    ("hakem_catalog_current", "1 when a database's catalog has been read, and no change of it is known of since."),
];
