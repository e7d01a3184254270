//! The players' table: a thread with an event loop of its own, so that their work does not hold up what they are there to watch.
//!
//! Owns their beginning and end. What a player does is in `player`.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::player::Player;
use super::spectator::Spectator;
use super::stage::Front;
use super::tally::{Account, Shared, Tally};

/// The players at work.
pub(crate) struct Load {
    tally: Shared,
    phase: watch::Sender<Phase>,
    thread: JoinHandle<()>,
}

/// What the players are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Play.
    Play,
    /// Finish what is begun.
    Finish,
    /// Leave.
    Leave,
}

impl Load {
    /// Has players connect and play, and spectators watch them.
    ///
    /// # Errors
    /// When the thread cannot be made.
    pub(crate) fn start(front: &Front, players: usize) -> Result<Load> {
        let tally = Shared::default();
        *tally.read() = Tally { accounts: vec![Account::default(); players], ..Tally::default() };
        let (phase, watched_phase) = watch::channel(Phase::Play);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (config, shared) = (front.client(), tally.clone());
        let thread = std::thread::Builder::new().name("players".to_owned()).spawn(move || {
            runtime.block_on(async {
                let mut table = JoinSet::new();
                for number in 0..players {
                    table.spawn(Player::new(number, config.clone(), shared.clone(), watched_phase.clone()).run());
                }
                for watched in (0..players).step_by(PLAYERS_PER_SPECTATOR) {
                    table.spawn(Spectator::new(watched, config.clone(), shared.clone(), watched_phase.clone()).run());
                }
                watch_over(table, watched_phase).await;
            });
        })?;
        Ok(Load { tally, phase, thread })
    }

    pub(crate) fn tally(&self) -> Shared {
        self.tally.clone()
    }

    /// Lets the players finish what they have begun, within limits or until `hurry` is ready.
    pub(crate) async fn stop(self, hurry: impl Future<Output = ()>) {
        self.tally.read().close(Instant::now());
        self.phase.send_replace(Phase::Finish);
        let joined = tokio::task::spawn_blocking(move || self.thread.join());
        let late = async {
            tokio::select! {
                () = tokio::time::sleep(FINISH_WAIT) => {}
                () = hurry => {}
            }
        };
        tokio::pin!(joined);
        tokio::select! {
            _ = &mut joined => {}
            () = late => {
                self.phase.send_replace(Phase::Leave);
                let _ = joined.await;
            }
        }
    }
}

async fn watch_over(mut table: JoinSet<()>, mut phase: watch::Receiver<Phase>) {
    tokio::select! {
        () = async { while table.join_next().await.is_some() {} } => {}
        _ = phase.wait_for(|phase| *phase == Phase::Leave) => {}
    }
}

/// One spectator comes to so many players.
const PLAYERS_PER_SPECTATOR: usize = 2;

/// How long a player's last statement may take; it may have to wait for a primary.
const FINISH_WAIT: Duration = Duration::from_secs(35);
