//! What holds for one database and one user: the user's own setting, else the database's, else everybody's.
//!
//! Whether the user is who he says was decided before; this only says what he gets.

use std::time::Duration;

use thiserror::Error;

use crate::config::{ANY_DATABASE, CONSOLES, Config};
use crate::limits::{Ceilings, Timeouts};
use crate::secret::{self, Secret};
use crate::sections::{Affinity, Consistency, Database, NAME_BYTES_MAX, PoolMode, Route, User};
use crate::sharing::Share;

/// Everything that depends on the database and the user of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The cluster; always one of [`Config::clusters`].
    pub cluster: String,
    /// The name of the database on the servers.
    pub dbname: String,
    /// The user name towards the servers.
    pub server_user: String,
    /// The password towards the servers; `None` when only a verifier or nothing is known.
    pub server_password: Option<Secret>,
    /// When a server connection goes back to the pool.
    pub pool_mode: PoolMode,
    /// The most connections per server. Never 0.
    pub pool_size: usize,
    /// The connections per server kept open when idle. Never more than `pool_size`.
    pub pool_min_size: usize,
    /// The connections per server beyond `pool_size`, for clients that wait long.
    pub reserve_pool_size: usize,
    /// The age at which a server connection is closed; zero is after its first use.
    pub server_lifetime: Duration,
    /// What all users of the database may have together.
    pub max_db: Ceilings,
    /// What the user may have in all databases together.
    pub max_user: Ceilings,
    /// How fresh a replica has to be.
    pub consistency: Consistency,
    /// The most that a replica may lag.
    pub max_lag: Duration,
    /// Where statements go.
    pub route: Route,
    /// The part of the reads that the primary takes though a replica would do.
    pub primary_read_share: Share,
    /// What keeps a session's statements on one node.
    pub affinity: Affinity,
    /// Whether what became of a commit is found out when its answer is lost.
    pub commit_resolution: bool,
    /// Whether a transaction that loses its server before its COMMIT is run again on another.
    pub transaction_replay: bool,
    /// How long a client may take.
    pub timeouts: Timeouts,
}

/// Why a client cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ResolveError {
    /// No `[databases]` entry names it, and there is none for any database (SQLSTATE 3D000).
    #[error("there is no such database")]
    UnknownDatabase,
    /// No `[[users]]` entry names it, and there is no other way in (SQLSTATE 28P01, as for a wrong password).
    #[error("there is no such user")]
    UnknownUser,
}

impl Config {
    /// What a client gets that asks for `database` as `user`.
    ///
    /// # Errors
    /// When the configuration does not know one of the two.
    pub fn resolve(&self, database: &str, user: &str) -> Result<Resolved, ResolveError> {
        let entry = self.database(database).ok_or(ResolveError::UnknownDatabase)?;
        let anybody = User::default();
        let known = match self.users.get(user) {
            Some(known) => known,
            // Whoever has been let in without being named has the settings of everybody.
            None if is_name(user) && self.auth.admits_unlisted() => &anybody,
            None => return Err(ResolveError::UnknownUser),
        };
        let (first, second) = (&known.overrides, &entry.overrides);
        let everybody = if self.routing.split { Route::Auto } else { Route::Primary };
        let pool_size = first.pool_size.or(second.pool_size).unwrap_or(self.pool.size);
        Ok(Resolved {
            cluster: entry.cluster.clone(),
            dbname: entry.dbname.clone().unwrap_or_else(|| database.to_owned()),
            server_user: known.server_user.clone().unwrap_or_else(|| user.to_owned()),
            server_password: known.server_password(),
            pool_mode: first.pool_mode.or(second.pool_mode).unwrap_or(self.pool.mode),
            pool_size,
            pool_min_size: first.min_pool_size.or(second.min_pool_size).unwrap_or(self.pool.min_size).min(pool_size),
            reserve_pool_size: first.reserve_pool_size.or(second.reserve_pool_size).unwrap_or(self.pool.reserve_size),
            server_lifetime: first.server_lifetime.or(second.server_lifetime).unwrap_or(self.pool.server_lifetime),
            max_db: self.pool.max_db.with(&entry.ceilings),
            max_user: self.pool.max_user.with(&known.ceilings),
            consistency: first.consistency.or(second.consistency).unwrap_or(self.routing.consistency),
            max_lag: first.max_lag.or(second.max_lag).unwrap_or(self.routing.max_lag),
            route: first.route.or(second.route).unwrap_or(everybody),
            primary_read_share: first
                .primary_read_share
                .or(second.primary_read_share)
                .unwrap_or(self.routing.primary_read_share),
            affinity: first.affinity.or(second.affinity).unwrap_or(self.routing.affinity),
            commit_resolution: first
                .commit_resolution
                .or(second.commit_resolution)
                .unwrap_or(self.routing.commit_resolution),
            transaction_replay: first
                .transaction_replay
                .or(second.transaction_replay)
                .unwrap_or(self.routing.transaction_replay),
            timeouts: self.pool.timeouts.with(&first.timeouts, &second.timeouts),
        })
    }

    /// Whether clients may ask for this database.
    #[must_use]
    pub fn knows_database(&self, name: &str) -> bool {
        self.database(name).is_some()
    }

    /// The cluster that a database is in, and its name there.
    pub fn home_of<'c>(&'c self, database: &'c str) -> Option<(&'c str, &'c str)> {
        let entry = self.database(database)?;
        Some((&entry.cluster, entry.dbname.as_deref().unwrap_or(database)))
    }

    /// The entry of a database, which may be the one for any database.
    fn database(&self, name: &str) -> Option<&Database> {
        match self.databases.get(name) {
            Some(database) if name != ANY_DATABASE => Some(database),
            // A client chose this name. One that is too long would be cut off by the server and mean another database.
            Some(_) | None if !is_name(name) || CONSOLES.contains(&name) => None,
            Some(_) | None => self.databases.get(ANY_DATABASE),
        }
    }
}

impl User {
    /// The password towards the servers: its own, else the client's, unless only the verifier of that is known.
    fn server_password(&self) -> Option<Secret> {
        let usable = |password: &&Secret| !secret::is_hash(password.expose());
        self.server_password.as_ref().or(self.password.as_ref().filter(usable)).cloned()
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_BYTES_MAX
}
