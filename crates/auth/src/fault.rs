//! What is wrong with one of the files that an operator writes: the user list, the HBA file, the map of user names.

use thiserror::Error;

/// One thing wrong, and where. It never quotes a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}:{line}: {message}")]
pub struct Fault {
    /// The name of the file.
    pub file: String,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong, as one sentence without its full stop.
    pub message: String,
}
