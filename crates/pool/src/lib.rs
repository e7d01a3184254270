//! Server connections: dialled, logged in, leased, given back, waited for.
//!
//! The crate's map: `connection` is one logged-in connection and what it carries; `dial` makes one; `stream` is what it runs over, for clients
//! too, over a `socket`, which leaves what is small to the `post` of its thread; `pool` lends the connections of one server, database and user to many
//! clients, and `roster` shows them to the console. What a connection remembers of the sessions that used it is the caller's, as a type
//! parameter: the pool knows nothing of SQL.
//!
//! A pool is shared by all workers. A connection is registered with the event loop of one of them, its home; it moves only
//! when another worker has run dry.

pub mod certificate;
mod connection;
mod dial;
mod logins;
mod pool;
pub mod post;
mod quota;
mod reach;
#[cfg(target_os = "linux")]
mod ring;
mod roster;
mod socket;
mod stream;
pub mod tls;
mod wallet;

pub use connection::{CancelAddress, Connection, Parameters};
pub use dial::{DialError, Keepalive, Target, Whereabouts, dial, dial_with};
pub use logins::Logins;
pub use pool::{CheckoutError, Figures, Lease, Options, Pool};
pub use quota::Quota;
pub use reach::reach;
pub use roster::Entry;
pub use socket::{Detached, Peer, Socket};
pub use stream::Stream;
pub use tls::Tls;
pub use wallet::Wallet;
