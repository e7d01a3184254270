//! [`Vacancies`]: databases that only `[databases."*"]` leads to, and that nobody uses.
//!
//! Owns how long that has been so. Clients choose the names: what is kept of such a database is kept for a while only.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

/// Since when nobody has used each.
#[derive(Default)]
pub(crate) struct Vacancies {
    since: HashMap<String, Instant>,
}

impl Vacancies {
    /// Looks at all of these databases, of which some are in use; returns those that have been vacant for `timeout`. Databases that it is
    /// not shown are forgotten.
    pub(crate) fn over(
        &mut self,
        databases: &HashMap<&str, bool>,
        timeout: Option<Duration>,
        now: Instant,
    ) -> HashSet<String> {
        self.since.retain(|name, _| databases.get(&**name) == Some(&false));
        for (name, _) in databases.iter().filter(|(_, in_use)| !**in_use) {
            self.since.entry((*name).to_owned()).or_insert(now);
        }
        let Some(timeout) = timeout else { return HashSet::new() };
        let is_over = |since: Instant| now.saturating_duration_since(since) >= timeout;
        self.since.iter().filter(|(_, since)| is_over(**since)).map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_is_vacant_for_a_while() {
        let (mut vacancies, start) = (Vacancies::default(), Instant::now());
        let mut over = |databases: &[(&'static str, bool)], timeout: Option<u64>, at: u64| {
            let databases = databases.iter().copied().collect();
            let now = start + Duration::from_secs(at);
            let mut over: Vec<_> =
                vacancies.over(&databases, timeout.map(Duration::from_secs), now).into_iter().collect();
            over.sort();
            (over.join(" "), vacancies.since.len())
        };
        assert_eq!(over(&[("a", false), ("b", true)], Some(10), 0), (String::new(), 1));
        assert_eq!(over(&[("a", false), ("b", false)], Some(10), 9), (String::new(), 2));
        assert_eq!(over(&[("a", false), ("b", false)], None, 10), (String::new(), 2));
        assert_eq!(over(&[("a", false), ("b", false)], Some(10), 10), ("a".to_owned(), 2));
        // Whoever comes back is in no hurry, and what is gone is nowhere.
        assert_eq!(over(&[("a", true), ("b", false)], Some(10), 18), (String::new(), 1));
        assert_eq!(over(&[("a", false), ("b", false)], Some(10), 20), ("b".to_owned(), 2));
        assert_eq!(over(&[], Some(10), 99), (String::new(), 0));
    }
}
