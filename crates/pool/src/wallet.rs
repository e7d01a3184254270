//! [`Wallet`]: what a user's server connections log in with.
//!
//! It may be learnt while the pools exist: with only a verifier stored, it is a client's own login that shows SCRAM's keys. All
//! pools of a user share one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use auth::Credential;

/// A credential that may change; clones are the same wallet. `Debug` shows the credential's kind only.
#[derive(Clone, Debug, Default)]
pub struct Wallet(Arc<Mutex<Credential>>);

impl Wallet {
    /// A wallet with this in it.
    pub fn new(credential: Credential) -> Wallet {
        Wallet(Arc::new(Mutex::new(credential)))
    }

    /// What is in it.
    pub fn get(&self) -> Credential {
        self.lock().clone()
    }

    /// Puts something else in; `true` when it is something else.
    pub fn put(&self, credential: Credential) -> bool {
        let mut held = self.lock();
        let differs = *held != credential;
        *held = credential;
        differs
    }

    fn lock(&self) -> MutexGuard<'_, Credential> {
        // One assignment is whole or has not happened.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two wallets are alike while the same is in them.
impl PartialEq for Wallet {
    fn eq(&self, other: &Wallet) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.get() == other.get()
    }
}

impl Eq for Wallet {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clones_are_one_wallet() {
        let (wallet, password) = (Wallet::default(), Credential::Password("hunter2".into()));
        let other = wallet.clone();
        assert!(wallet.put(password.clone()));
        assert!(!wallet.put(password.clone()));
        assert_eq!(other.get(), password);
        assert!(wallet == other && wallet != Wallet::default() && wallet == Wallet::new(password));
        assert!(!format!("{other:?}").contains("hunter2"));
    }
}
