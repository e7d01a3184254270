//! File descriptors: every connection is one, and the default limit is for programs that have few.

use config::Config;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to what the administrator allows, and says when that is less than the configuration needs.
pub(crate) fn raise(config: &Config) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, "could not raise the limit of file descriptors");
    }
    let reached = getrlimit(Resource::Nofile).current.or(current);
    // Servers come on top, but not all pools fill up at once.
    let needed = config.proxy.max_client_conn + config.proxy.logins_max;
    if let Some(limit) = reached.filter(|limit| *limit < needed as u64) {
        tracing::warn!(
            limit,
            needed,
            "too few file descriptors for max_client_conn and logins_max: raise the limit (ulimit -n)"
        );
    }
}
