//! A spectator: watches one player's tricks and the leaderboard, and writes nothing.
//!
//! Owns the check of the bound on lag: who has written nothing himself may be shown an old picture, but none that is older than
//! `max_lag`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::Config;

use super::load::Phase;
use super::player::{LEADERS, THINK, id};
use super::seat::Seat;
use super::tally::Shared;
use super::visitor::Visitor;

/// A spectator with what it knows.
pub(crate) struct Spectator {
    visitor: Visitor,
    /// Which player it watches.
    watched: usize,
    phase: watch::Receiver<Phase>,
    /// How many tricks that player had been told that it has taken, and when that was so.
    past: VecDeque<(Instant, u64)>,
}

impl Spectator {
    pub(crate) fn new(watched: usize, config: Config, tally: Shared, phase: watch::Receiver<Phase>) -> Spectator {
        let visitor = Visitor::new(format!("spectator {watched}"), config, tally);
        Spectator { visitor, watched, phase, past: VecDeque::new() }
    }

    /// Watches until told to finish.
    pub(crate) async fn run(mut self) {
        while *self.phase.borrow() == Phase::Play {
            self.watch_player().await;
            tokio::time::sleep(THINK).await;
            if let Some(rows) = self.visitor.read(Seat::leaderboard).await
                && rows != LEADERS
            {
                self.visitor.stale(&format!("the leaderboard has {rows} rows"), Instant::now());
            }
            tokio::time::sleep(THINK).await;
        }
    }

    async fn watch_player(&mut self) {
        let now = Instant::now();
        let tricks = self.visitor.tally().read().accounts[self.watched].tricks;
        self.past.push_back((now, tricks));
        let player = id(self.watched);
        let Some(found) = self.visitor.read(async |seat| seat.profile(player).await).await else { return };
        if let Some(least) = owed(&mut self.past, now)
            && u64::try_from(found).is_ok_and(|found| found < least)
        {
            let finding =
                format!("player {player} had taken {least} tricks {MAX_LAG:?} before, and {found} were found");
            self.visitor.stale(&finding, now);
        }
    }
}

/// What a read that begins now has to show at least: what was known `MAX_LAG` ago. Older knowledge is dropped.
fn owed(past: &mut VecDeque<(Instant, u64)>, now: Instant) -> Option<u64> {
    let is_old = |entry: &(Instant, u64)| now.saturating_duration_since(entry.0) >= MAX_LAG;
    while past.get(1).is_some_and(is_old) {
        past.pop_front();
    }
    past.front().filter(|entry| is_old(entry)).map(|(_, tricks)| *tricks)
}

/// How old an answer may be; the demo's configuration says the same.
pub(crate) const MAX_LAG: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_old_enough_is_owed() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut past = VecDeque::from([(at(0), 1), (at(500), 2), (at(900), 3)]);
        let mut check = |millis, wanted| assert_eq!(owed(&mut past, at(millis)), wanted, "at {millis}");
        check(999, None);
        check(1000, Some(1));
        check(1499, Some(1));
        check(1500, Some(2));
        check(5000, Some(3));
    }
}
