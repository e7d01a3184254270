//! How many clients there are of each database and each user, and how many there may be.
//!
//! Owns the count, which changes when a client has proved who it is and when it leaves. The clients of the program as a whole, logged
//! in or not, are counted by `service`.

use std::borrow::Borrow;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use config::Resolved;
use hashbrown::HashMap;
use wire::backend::Failure;

/// The clients by database and user.
#[derive(Default)]
pub(crate) struct Census {
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    databases: HashMap<String, usize>,
    users: HashMap<String, usize>,
    both: HashMap<Arc<(String, String)>, usize>,
}

/// A client's part in it, for as long as this lives.
pub(crate) struct Membership {
    census: Arc<Census>,
    key: Arc<(String, String)>,
}

impl Census {
    /// Counts a client in.
    ///
    /// # Errors
    /// When there are too many already: what it is told.
    pub(crate) fn admit(
        self: &Arc<Self>,
        key: &Arc<(String, String)>,
        resolved: &Resolved,
    ) -> Result<Membership, Failure> {
        let (database, user) = &**key;
        let mut counts = self.lock();
        let full = |count: Option<&usize>, max: Option<usize>| max.is_some_and(|max| count.is_some_and(|n| *n >= max));
        if full(counts.databases.get(database), resolved.max_db.clients) {
            return Err(Failure::fatal("53300", "client connections exceeded (max_db_client_connections)"));
        }
        if full(counts.users.get(user), resolved.max_user.clients) {
            return Err(Failure::fatal("53300", "client connections exceeded (max_user_client_connections)"));
        }
        enter(&mut counts.databases, database);
        enter(&mut counts.users, user);
        enter(&mut counts.both, key);
        Ok(Membership { census: self.clone(), key: key.clone() })
    }

    /// Whether a user has clients in a database.
    pub(crate) fn has(&self, key: &(String, String)) -> bool {
        self.lock().both.contains_key(key)
    }

    /// Whether a database has clients.
    pub(crate) fn has_any(&self, database: &str) -> bool {
        self.lock().databases.contains_key(database)
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut counts = self.census.lock();
        leave(&mut counts.databases, &self.key.0);
        leave(&mut counts.users, &self.key.1);
        leave(&mut counts.both, &self.key);
    }
}

/// Counts one in.
fn enter<K: Hash + Eq + Clone>(counts: &mut HashMap<K, usize>, name: &K) {
    match counts.get_mut(name) {
        Some(count) => *count += 1,
        None => drop(counts.insert(name.clone(), 1)),
    }
}

/// Counts one out; names that nobody has any more are forgotten.
fn leave<K: Hash + Eq + Borrow<Q>, Q: Hash + Eq + ?Sized>(counts: &mut HashMap<K, usize>, name: &Q) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}
