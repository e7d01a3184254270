//! The session between a client and servers that follow the protocol to the letter, all of it as values.
//!
//! - `script`: messages as words, both ways.
//! - `server`: a model of a correct PostgreSQL server. It sends nothing before PostgreSQL would, so that waiting for what will
//!   never come is seen.
//! - `proxy`: clients, sessions and servers, and the moving of bytes between them; `check` runs a script.
//! - The other files are scripts, by what they are about, but for `walks` and `random`, which compare the proxy with a server of one's own.

#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

/// What a server is told first on which code has run that may have set anything.
macro_rules! wiped {
    ($sent:literal) => {
        concat!("p.Q(SET statement_timeout TO 0;RESET ROLE;RESET SESSION AUTHORIZATION;RESET ALL;) ", $sent)
    };
}

mod catalog;
mod copy;
mod durability;
mod errors;
mod fates;
mod losses;
mod own;
mod proxy;
mod random;
mod replays;
mod requests;
mod retries;
mod script;
mod server;
mod settings;
mod shapes;
mod statements;
mod transactions;
mod walks;
