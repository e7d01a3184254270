//! The audit: what the tables hold, compared with what the players were promised.
//!
//! Owns the questions. It reads as any client would, through the proxy, but from the primary.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use super::player::first_token;
use super::stage::Front;
use super::tally::Account;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Writes that the players were told are done.
    pub(crate) acknowledged: u64,
    /// Those of them that are not there.
    pub(crate) lost: u64,
    /// Rows that are there more than once.
    pub(crate) duplicates: u64,
    /// Sums that do not agree: a transaction was carried out in part.
    pub(crate) torn: u64,
    /// The servers' version.
    pub(crate) server_version: String,
}

/// Reads the tables. While the proxy has no primary, it is tried again.
///
/// # Errors
/// The last one, when the time is up.
pub(crate) async fn audit(front: &Front, accounts: &[Account]) -> Result<Found> {
    let deadline = Instant::now() + AUDIT_WAIT;
    loop {
        let outcome = tokio::time::timeout_at(deadline, attempt(front, accounts)).await;
        match outcome.context("the audit took too long") {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(error)) | Err(error) if Instant::now() >= deadline => return Err(error),
            _ => tokio::time::sleep(RETRY_PAUSE).await,
        }
    }
}

async fn attempt(front: &Front, accounts: &[Account]) -> Result<Found> {
    let mut config = front.client();
    config.options("-c hakem.route=primary");
    let (client, connection) = config.connect(NoTls).await.context("the audit cannot connect")?;
    let connection = tokio::spawn(connection);
    let found = read(&client, accounts).await.context("the audit failed");
    drop(client);
    let _ = connection.await;
    found
}

async fn read(client: &Client, accounts: &[Account]) -> Result<Found> {
    let mut found = Found::default();
    for (player, account) in accounts.iter().enumerate() {
        let Account { games, finished, moves, .. } = *account;
        let first = first_token(player);
        for (query, count) in [(GAMES, games), (MOVES, moves)] {
            let row = client.query_one(query, &[&first, &(first + count as i64)]).await?;
            found.lost += count.saturating_sub(number(row.get(0)));
        }
        let row = client.query_one(FINISHED, &[&(player as i64 + 1)]).await?;
        found.lost += finished.saturating_sub(number(row.get(0)));
        found.acknowledged += games + finished + moves;
    }
    for query in [GAMES_TWICE, MOVES_TWICE] {
        found.duplicates += number(client.query_one(query, &[]).await?.get(0));
    }
    for query in [PLAYERS_TORN, SESSIONS_TORN] {
        found.torn += number(client.query_one(query, &[]).await?.get(0));
    }
    found.server_version = client.query_one("SHOW server_version", &[]).await?.get(0);
    Ok(found)
}

/// A count is never negative.
fn number(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

/// A failover that is under way has to end first.
const AUDIT_WAIT: Duration = Duration::from_secs(90);
const RETRY_PAUSE: Duration = Duration::from_millis(200);

const GAMES: &str = "SELECT count(DISTINCT token) FROM game_sessions WHERE token >= $1 AND token < $2";
const MOVES: &str = "SELECT count(DISTINCT token) FROM game_moves WHERE token >= $1 AND token < $2";
const FINISHED: &str = "SELECT count(*) FROM game_sessions WHERE host = $1 AND finished_at IS NOT NULL";
const GAMES_TWICE: &str = "SELECT count(*) - count(DISTINCT token) FROM game_sessions";
const MOVES_TWICE: &str = "SELECT count(*) - count(DISTINCT token) FROM game_moves";
const PLAYERS_TORN: &str = "SELECT count(*) FROM players p
    LEFT JOIN (SELECT player_id, sum(trick) AS taken FROM game_moves GROUP BY player_id) m ON m.player_id = p.id
    WHERE p.tricks <> coalesce(m.taken, 0)";
const SESSIONS_TORN: &str = "SELECT count(*) FROM game_sessions s
    LEFT JOIN (SELECT session_id, sum(trick) AS taken FROM game_moves GROUP BY session_id) m ON m.session_id = s.id
    WHERE s.tricks <> coalesce(m.taken, 0)";
