//! How long a client may take over things, and how many connections a database or a user may have: PgBouncer's limits, under its
//! names.
//!
//! Each stands in `[pool]` for everybody, and may differ for a user or a database. What happens at a limit is not decided here.

use std::time::Duration;

use crate::reader::Section;
use crate::sections::{DURATION_MAX, TIMEOUT_MIN, seconds};

/// How long a client may take; nothing is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// The longest from a request to the end of its answer.
    pub query: Option<Duration>,
    /// The longest that a request waits for a connection.
    pub query_wait: Option<Duration>,
    /// The longest silence within a transaction.
    pub idle_transaction: Option<Duration>,
    /// The longest transaction.
    pub transaction: Option<Duration>,
    /// The longest silence of a client that holds no server.
    pub client_idle: Option<Duration>,
}

/// The timeouts that a user or a database has of its own. Zero is for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeoutOverrides {
    query: Option<Duration>,
    query_wait: Option<Duration>,
    idle_transaction: Option<Duration>,
    transaction: Option<Duration>,
    client_idle: Option<Duration>,
}

impl Timeouts {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Timeouts {
        let mut read = |key, default| limit(section.within(key, default, Duration::ZERO..=DURATION_MAX));
        Timeouts {
            query: read("query_timeout", Duration::ZERO),
            query_wait: read("query_wait_timeout", seconds(120)),
            idle_transaction: read("idle_transaction_timeout", Duration::ZERO),
            transaction: read("transaction_timeout", Duration::ZERO),
            client_idle: read("client_idle_timeout", Duration::ZERO),
        }
    }

    /// What holds where the first of the overrides counts for more than the second.
    pub(crate) fn with(self, first: &TimeoutOverrides, second: &TimeoutOverrides) -> Timeouts {
        let choose =
            |first: Option<Duration>, second: Option<Duration>, everybody| first.or(second).map_or(everybody, limit);
        Timeouts {
            query: choose(first.query, second.query, self.query),
            query_wait: choose(first.query_wait, second.query_wait, self.query_wait),
            idle_transaction: choose(first.idle_transaction, second.idle_transaction, self.idle_transaction),
            transaction: choose(first.transaction, second.transaction, self.transaction),
            client_idle: choose(first.client_idle, second.client_idle, self.client_idle),
        }
    }
}

impl TimeoutOverrides {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> TimeoutOverrides {
        let mut read = |key| section.optional_within(key, Duration::ZERO..=DURATION_MAX);
        TimeoutOverrides {
            query: read("query_timeout"),
            query_wait: read("query_wait_timeout"),
            idle_transaction: read("idle_transaction_timeout"),
            transaction: read("transaction_timeout"),
            client_idle: read("client_idle_timeout"),
        }
    }
}

/// How many connections a database or a user may have; nothing is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ceilings {
    /// The most connections to each server, over all pools.
    pub connections: Option<usize>,
    /// The most clients.
    pub clients: Option<usize>,
}

/// The ceilings that a database or a user has of its own. Zero is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CeilingOverrides {
    connections: Option<u32>,
    clients: Option<u32>,
}

impl Ceilings {
    /// Reads the two keys of `[pool]`.
    pub(crate) fn read(section: &mut Section<'_, '_>, keys: [&'static str; 2]) -> Ceilings {
        let [connections, clients] = keys.map(|key| ceiling(section.within(key, 0, 0..=CEILING_MAX)));
        Ceilings { connections, clients }
    }

    /// What holds with these overrides.
    #[must_use]
    pub fn with(self, own: &CeilingOverrides) -> Ceilings {
        Ceilings {
            connections: own.connections.map_or(self.connections, ceiling),
            clients: own.clients.map_or(self.clients, ceiling),
        }
    }
}

impl CeilingOverrides {
    pub(crate) fn read(section: &mut Section<'_, '_>, keys: [&'static str; 2]) -> CeilingOverrides {
        let [connections, clients] = keys.map(|key| section.optional_within(key, 0..=CEILING_MAX));
        CeilingOverrides { connections, clients }
    }
}

fn ceiling(number: u32) -> Option<usize> {
    (number > 0).then_some(number as usize)
}

/// The keys of a database's ceilings.
pub(crate) const DATABASE_CEILINGS: [&str; 2] = ["max_db_connections", "max_db_client_connections"];

/// The keys of a user's ceilings.
pub(crate) const USER_CEILINGS: [&str; 2] = ["max_user_connections", "max_user_client_connections"];

const CEILING_MAX: u32 = 1_000_000;

/// Nothing stands for no limit, and what is shorter than any clock here can tell for the shortest that it can.
pub(crate) fn limit(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then(|| duration.max(TIMEOUT_MIN))
}
