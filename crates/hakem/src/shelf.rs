//! [`Shelf`]: what a worker keeps of things that are used again.

use std::cell::RefCell;

/// Spare things of one kind, as many as are worth keeping.
#[derive(Debug)]
pub(crate) struct Shelf<T> {
    spare: RefCell<Vec<T>>,
}

impl<T> Default for Shelf<T> {
    fn default() -> Shelf<T> {
        Shelf { spare: RefCell::default() }
    }
}

impl<T> Shelf<T> {
    /// The one put back last, if there is any.
    pub(crate) fn take(&self) -> Option<T> {
        self.spare.borrow_mut().pop()
    }

    /// Keeps it, unless there are enough.
    pub(crate) fn put(&self, thing: T) {
        let mut spare = self.spare.borrow_mut();
        if spare.len() < SPARES_MAX {
            spare.push(thing);
        }
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.spare.borrow().len()
    }
}

/// What is spare beyond this number is not kept.
const SPARES_MAX: usize = 256;
