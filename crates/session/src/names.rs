//! [`Names`]: what a session listens on, or has to ask for.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Names in their order, each once. Shared until one changes, and without memory as long as there are none: nearly every session does
/// without.
#[derive(Clone, Debug, Default)]
pub struct Names(Option<Arc<BTreeSet<String>>>);

impl Names {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// The names, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &String> {
        self.0.iter().flat_map(|names| names.iter())
    }

    /// Whether nothing has changed since one was made of the other. Costs nothing.
    #[must_use]
    pub fn is(&self, other: &Names) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }

    pub(crate) fn add(&mut self, name: &str) {
        if !self.contains(name) {
            Arc::make_mut(self.0.get_or_insert_default()).insert(name.to_owned());
        }
    }

    pub(crate) fn remove(&mut self, name: &str) {
        if self.contains(name)
            && let Some(names) = &mut self.0
        {
            Arc::make_mut(names).remove(name);
            self.0.take_if(|names| names.is_empty());
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|names| names.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_change_remains_the_same() {
        let mut names = Names::default();
        assert!(names.is_empty() && names.is(&Names::default()));
        names.add("b");
        let before = names.clone();
        names.add("b");
        names.remove("c");
        assert!(names.is(&before) && !names.is(&Names::default()));
        names.add("a");
        assert!(!names.is(&before));
        assert_eq!(names.iter().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(before.iter().collect::<Vec<_>>(), ["b"]);
        names.remove("a");
        names.remove("b");
        assert!(names.is_empty() && names.is(&Names::default()));
    }

    #[test]
    fn one_more_costs_no_copy_of_all() {
        let mut names = Names::default();
        // Copied each time, they would be here tomorrow.
        (0..200_000).for_each(|n: u32| names.add(&n.to_string()));
        assert_eq!(names.iter().count(), 200_000);
        (0..200_000).for_each(|n: u32| names.remove(&n.to_string()));
        assert!(names.is_empty());
    }
}
