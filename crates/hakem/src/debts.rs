//! What failed logins cost, and who owes it.
//!
//! Owns the table, which all workers share; how long anybody waits is the crate `auth`'s business.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use auth::{Penalties, PenaltyOptions};

/// The addresses that logins have failed from.
#[derive(Default)]
pub(crate) struct Debts {
    penalties: Mutex<Penalties>,
}

/// An answer that is held back. When it is dropped before it was waited for, the address owes the rest.
pub(crate) struct Held {
    debts: Arc<Debts>,
    address: IpAddr,
    pub(crate) until: Instant,
    waited: bool,
}

impl Debts {
    /// A login from this address has failed.
    pub(crate) fn failed(self: &Arc<Self>, address: IpAddr, auth: &config::Auth, now: Instant) -> Held {
        let options = PenaltyOptions {
            first: auth.failed_login_delay,
            max: auth.failed_login_delay_max,
            forget: auth.failed_login_forget,
        };
        let delay = self.lock().failed(address, &options, now);
        Held { debts: self.clone(), address, until: now + delay, waited: false }
    }

    /// How long whoever comes from this address waits before he may prove who he is.
    pub(crate) fn owed(&self, address: IpAddr, now: Instant) -> Duration {
        self.lock().owed(address, now)
    }

    fn lock(&self) -> MutexGuard<'_, Penalties> {
        self.penalties.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The client has waited.
    pub(crate) fn paid(mut self) {
        self.waited = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.debts.lock().over(self.address, self.until, self.waited);
    }
}
