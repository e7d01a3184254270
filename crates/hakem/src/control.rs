//! Orders to the program as a whole, from the console to the control loop (`run`), which also hears the signals.

use tokio::sync::oneshot;

/// What the control loop is told.
pub(crate) enum Order {
    /// Read the configuration again. The answer is what is wrong with it.
    Reload(oneshot::Sender<Result<(), String>>),
    /// Put one key of the configuration at another value, until the next reload.
    Set {
        /// The section and the key, as in the file.
        key: (&'static str, &'static str),
        /// The value in words.
        value: String,
        /// What is wrong with it.
        answer: oneshot::Sender<Result<(), String>>,
    },
    /// A cluster has other servers than the configuration states, beside those.
    Enlist {
        /// The cluster's name.
        cluster: String,
        /// The others.
        servers: Vec<config::Address>,
    },
    /// Let nothing new begin; a server is let go when it is free.
    Pause,
    /// Let everything go on.
    Resume,
    /// End.
    Shutdown(Shutdown),
}

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shutdown {
    /// When the last client has left by itself.
    WaitForClients,
    /// When what runs has ended: a client is dismissed as soon as it holds no server.
    WaitForServers,
    /// Now.
    Immediate,
}
