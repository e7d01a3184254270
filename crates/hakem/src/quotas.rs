//! The limits that pools share: the connections of one database, and of one user, on one server.
//!
//! Owns the map from names to them. They outlive the pools that are replaced when the configuration is reloaded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use pool::{Quota, Target};

/// The quotas by server and name.
#[derive(Default)]
pub(crate) struct Quotas {
    known: Mutex<HashMap<Place, Weak<Quota>>>,
}

/// A server's host and port, and what of it is limited under which name.
type Place = (String, u16, Kind, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Database,
    User,
}

impl Quotas {
    /// Those of a pool that serves this database and this user, as clients name them.
    pub(crate) fn of(&self, target: &Target, (database, user): &(String, String)) -> [Arc<Quota>; 2] {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, quota| quota.strong_count() > 0);
        [(Kind::Database, database), (Kind::User, user)].map(|(kind, name)| {
            let slot = known.entry((target.host.clone(), target.port, kind, name.clone())).or_default();
            slot.upgrade().unwrap_or_else(|| {
                let quota = Arc::default();
                *slot = Arc::downgrade(&quota);
                quota
            })
        })
    }
}
