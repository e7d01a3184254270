//! Placeholder of the house's wall; the first commit of this crate's content follows.
