//! What the watcher is told at its start: the servers, the probe's login, the pace.
//!
//! It does not read any configuration file and validates nothing: `config` did.

use std::fmt;
use std::time::Duration;

use rustls::ClientConfig;

use crate::sources::Source;

/// The servers to watch and how to watch them.
#[derive(Clone)]
pub struct Options {
    /// Host and port of each server. The index is its [`NodeId`](crate::NodeId). A host that begins with `/` is a
    /// directory of Unix sockets.
    pub servers: Vec<(String, u16)>,
    /// The cluster managers that are asked, the most trustworthy first: the first that answers counts.
    pub sources: Vec<Source>,
    /// The cluster's system identifier. Whoever has another is a stranger. Without it a cluster manager names it, or what most servers have counts.
    pub system_identifier: Option<u64>,
    /// The probe's login. It should be a member of `pg_monitor`: without that a standby hides its WAL receiver, and a
    /// promotion is believed by the replicas' control files only, minutes later.
    pub user: String,
    /// The probe's password, if the server asks for one.
    pub password: Option<String>,
    /// The database that probes connect to; any will do, since they ask about the whole server.
    pub database: String,
    /// How servers are connected to over TCP: what is believed of them. `None` for in the clear.
    pub tls: Option<ClientConfig>,
    /// Whether a server without TLS will do, too.
    pub tls_optional: bool,
    /// The `application_name` shown in the servers' `pg_stat_activity`.
    pub application_name: String,
    /// From one probe of a node to the next while nobody waits.
    pub probe_interval: Duration,
    /// From one probe of a node to the next while a [`Waiting`](crate::Waiting) exists.
    pub probe_interval_waiting: Duration,
    /// How long a server may be silent before it counts as unreachable. Half of it goes to the first attempt and
    /// half to a second one on a new connection, so one broken connection is never taken for a dead server.
    pub probe_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            servers: Vec::new(),
            sources: Vec::new(),
            system_identifier: None,
            user: "postgres".to_owned(),
            password: None,
            database: "postgres".to_owned(),
            tls: None,
            tls_optional: false,
            application_name: "hakem probe".to_owned(),
            probe_interval: Duration::from_millis(100),
            probe_interval_waiting: Duration::from_millis(10),
            probe_timeout: Duration::from_secs(1),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The password stays out of logs; everything else is what one wants to see there.
        f.debug_struct("Options")
            .field("servers", &self.servers)
            .field("sources", &self.sources)
            .field("system_identifier", &self.system_identifier)
            .field("user", &self.user)
            .field("database", &self.database)
            .field("application_name", &self.application_name)
            .field("probe_interval", &self.probe_interval)
            .field("probe_interval_waiting", &self.probe_interval_waiting)
            .field("probe_timeout", &self.probe_timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_is_not_shown() {
        let options = Options { password: Some("geheim".to_owned()), ..Options::default() };
        let shown = format!("{options:?}");
        assert!(shown.contains("probe_timeout: 1s") && !shown.contains("geheim"), "{shown}");
    }
}
