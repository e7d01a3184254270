//! A player's connection: the statements of the game, each in one of the ways in which clients send statements.
//!
//! Owns the SQL and the reading of answers. What an error means for the game is the player's to say.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, Statement};

/// A connection with its prepared statements.
pub(crate) struct Seat {
    client: Client,
    connection: JoinHandle<()>,
    profile: Statement,
    find_game: Statement,
    find_move: Statement,
    begin_game: Statement,
    play: Statement,
    raise_session: Statement,
    raise_player: Statement,
}

/// A move of the game.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) token: i64,
    pub(crate) session: i64,
    pub(crate) player: i64,
    pub(crate) number: i32,
    pub(crate) card: &'static str,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server, or the proxy for it, says why.
    Refused { code: String, message: String },
    /// The connection is of no use any more.
    Broken(String),
}

impl Seat {
    /// Connects.
    pub(crate) async fn take(config: &Config) -> Result<Seat, Trouble> {
        let (client, connection) = within(config.connect(NoTls)).await?;
        let connection = tokio::spawn(async move {
            // How it ended, the next statement tells.
            let _ = connection.await;
        });
        within(async {
            Ok(Seat {
                profile: client.prepare(PROFILE).await?,
                find_game: client.prepare(FIND_GAME).await?,
                find_move: client.prepare(FIND_MOVE).await?,
                begin_game: client.prepare(BEGIN_GAME).await?,
                play: client.prepare(PLAY).await?,
                raise_session: client.prepare(RAISE_SESSION).await?,
                raise_player: client.prepare(RAISE_PLAYER).await?,
                client,
                connection,
            })
        })
        .await
    }

    /// A player's tricks, by a named prepared statement.
    pub(crate) async fn profile(&self, player: i64) -> Result<i64, Trouble> {
        let row = within(self.client.query_one(&self.profile, &[&player])).await?;
        Ok(row.get("tricks"))
    }

    /// The best players' names, by the simple protocol.
    pub(crate) async fn leaderboard(&self) -> Result<usize, Trouble> {
        let messages = within(self.client.simple_query(LEADERBOARD)).await?;
        Ok(messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count())
    }

    /// How many moves a game has, by the unnamed prepared statement.
    pub(crate) async fn moves(&self, session: i64) -> Result<i64, Trouble> {
        let rows = within(self.client.query_typed(MOVES, &[(&session, Type::INT8)])).await?;
        Ok(rows.first().map_or(0, |row| row.get(0)))
    }

    /// The game session with a token.
    pub(crate) async fn find_game(&self, token: i64) -> Result<Option<i64>, Trouble> {
        let rows = within(self.client.query(&self.find_game, &[&token])).await?;
        Ok(rows.first().map(|row| row.get(0)))
    }

    /// Whether there is a move with a token.
    pub(crate) async fn find_move(&self, token: i64) -> Result<bool, Trouble> {
        Ok(!within(self.client.query(&self.find_move, &[&token])).await?.is_empty())
    }

    /// Begins a game session, in autocommit.
    pub(crate) async fn begin_game(&self, token: i64, host: i64, trump: &str) -> Result<i64, Trouble> {
        let row = within(self.client.query_one(&self.begin_game, &[&token, &host, &trump])).await?;
        Ok(row.get(0))
    }

    /// Ends a game session, in autocommit. Doing it twice does no harm.
    pub(crate) async fn end_game(&self, session: i64) -> Result<(), Trouble> {
        let parameters: [(&(dyn ToSql + Sync), Type); 1] = [(&session, Type::INT8)];
        within(self.client.execute_typed(END_GAME, &parameters)).await.map(drop)
    }

    /// Makes a move, in autocommit.
    pub(crate) async fn play(&self, played: &Move) -> Result<(), Trouble> {
        self.insert(played, 0).await
    }

    /// Makes a move that takes a trick: three rows change together, or none.
    pub(crate) async fn take_trick(&self, played: &Move) -> Result<TrickSeen, Trouble> {
        let outcome = self.trick(played).await;
        if let Err(Trouble::Refused { .. }) = outcome {
            // What it says is no news; if the connection is broken, the next statement tells.
            let _ = within(self.client.batch_execute("ROLLBACK")).await;
        }
        outcome
    }

    async fn trick(&self, played: &Move) -> Result<TrickSeen, Trouble> {
        within(self.client.batch_execute("BEGIN")).await?;
        self.insert(played, 1).await?;
        let seen = self.find_move(played.token).await?;
        within(self.client.execute(&self.raise_session, &[&played.session])).await?;
        within(self.client.execute(&self.raise_player, &[&played.player])).await?;
        within(self.client.batch_execute("COMMIT")).await?;
        Ok(TrickSeen(seen))
    }

    async fn insert(&self, played: &Move, trick: i32) -> Result<(), Trouble> {
        let Move { token, session, player, number, card } = played;
        within(self.client.execute(&self.play, &[token, session, player, number, card, &trick])).await.map(drop)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// Whether the transaction saw its own move.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TrickSeen(pub(crate) bool);

impl Trouble {
    /// Whether what was asked for may have been done all the same.
    pub(crate) fn is_doubtful(&self) -> bool {
        match self {
            Trouble::Refused { code, .. } => code == OUTCOME_UNKNOWN,
            Trouble::Broken(_) => true,
        }
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(error: tokio_postgres::Error) -> Trouble {
        match error.as_db_error() {
            // A fatal error ends the connection, as the next statement finds out.
            Some(said) => Trouble::Refused { code: said.code().code().to_owned(), message: said.message().to_owned() },
            None => Trouble::Broken(format!("{:#}", anyhow::Error::from(error))),
        }
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Trouble> {
    match tokio::time::timeout(ANSWER_WAIT, answer).await {
        Ok(answer) => answer.map_err(Trouble::from),
        Err(_) => Err(Trouble::Broken(format!("no answer within {ANSWER_WAIT:?}"))),
    }
}

/// Says that a write may or may not have been done.
pub(crate) const OUTCOME_UNKNOWN: &str = "08007";

/// Longer than the proxy lets anybody wait for a primary.
const ANSWER_WAIT: Duration = Duration::from_secs(60);

const PROFILE: &str = "SELECT name, tricks FROM players WHERE id = $1";
const LEADERBOARD: &str = "SELECT name, tricks FROM players ORDER BY tricks DESC, id LIMIT 10";
const MOVES: &str = "SELECT count(*) FROM game_moves WHERE session_id = $1";
const FIND_GAME: &str = "SELECT id FROM game_sessions WHERE token = $1";
const FIND_MOVE: &str = "SELECT id FROM game_moves WHERE token = $1";
const BEGIN_GAME: &str = "INSERT INTO game_sessions (token, host, trump) VALUES ($1, $2, $3) RETURNING id";
const END_GAME: &str = "UPDATE game_sessions SET finished_at = clock_timestamp() WHERE id = $1 AND finished_at IS NULL";
const PLAY: &str =
    "INSERT INTO game_moves (token, session_id, player_id, number, card, trick) VALUES ($1, $2, $3, $4, $5, $6)";
const RAISE_SESSION: &str = "UPDATE game_sessions SET tricks = tricks + 1 WHERE id = $1";
const RAISE_PLAYER: &str = "UPDATE players SET tricks = tricks + 1 WHERE id = $1";
