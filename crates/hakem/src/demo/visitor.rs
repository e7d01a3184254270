//! A client of the proxy, whatever it comes for: keeps a seat, takes another when its own is broken, writes down what it meets.
//!
//! Owns the connection's life and the bookkeeping of reads and trouble. What is asked, and what an answer should be, is the
//! business of `player` and `spectator`.

use std::time::{Duration, Instant};

use tokio_postgres::Config;

use super::seat::{OUTCOME_UNKNOWN, Seat, Trouble};
use super::tally::{Kind, Shared};

/// A client of the proxy.
pub(crate) struct Visitor {
    name: String,
    config: Config,
    tally: Shared,
    seat: Option<Seat>,
}

impl Visitor {
    pub(crate) fn new(name: String, config: Config, tally: Shared) -> Visitor {
        Visitor { name, config, tally, seat: None }
    }

    pub(crate) fn tally(&self) -> &Shared {
        &self.tally
    }

    /// Its connection, or a new one.
    pub(crate) async fn seat(&mut self) -> Result<&Seat, Trouble> {
        let seat = match self.seat.take() {
            Some(seat) => seat,
            None => Seat::take(&self.config).await?,
        };
        Ok(self.seat.insert(seat))
    }

    /// Reads once; `None` when there was trouble instead of an answer.
    pub(crate) async fn read<T>(&mut self, ask: impl AsyncFnOnce(&Seat) -> Result<T, Trouble>) -> Option<T> {
        let begun = Instant::now();
        let outcome = match self.seat().await {
            Ok(seat) => ask(seat).await,
            Err(trouble) => Err(trouble),
        };
        match outcome {
            Ok(answer) => {
                self.tally.read().succeeded(Kind::Read, begun, Instant::now());
                Some(answer)
            }
            Err(trouble) => {
                self.meet(&trouble, "a read").await;
                None
            }
        }
    }

    /// Writes trouble down, and waits a moment.
    pub(crate) async fn meet(&mut self, trouble: &Trouble, doing: &str) {
        self.note(trouble, doing);
        if let Trouble::Broken(_) = trouble {
            self.seat = None;
        }
        tokio::time::sleep(TROUBLE_PAUSE).await;
    }

    /// An answer was older than it may be.
    pub(crate) fn stale(&self, finding: &str, since: Instant) {
        let mut tally = self.tally.read();
        tally.stale_reads += 1;
        tally.found(format!("{}: {finding}, {:?} later", self.name, since.elapsed()));
    }

    fn note(&self, trouble: &Trouble, doing: &str) {
        let mut tally = self.tally.read();
        match trouble {
            Trouble::Refused { code, message } => {
                tally.failed(code);
                if !EXPECTED.contains(&code.as_str()) {
                    tally.found(format!("{}, {doing}: {code} {message}", self.name));
                }
            }
            Trouble::Broken(reason) => {
                tally.broken_connections += 1;
                tally.found(format!("{}, {doing}: {reason}", self.name));
            }
        }
    }
}

/// What a failover may cause: no surprises.
const EXPECTED: [&str; 3] = [OUTCOME_UNKNOWN, "40001", "57P03"];

/// The time after an error before anything is tried again.
const TROUBLE_PAUSE: Duration = Duration::from_millis(20);
