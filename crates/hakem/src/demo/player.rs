//! A player: does what an application does, believes what it is told, and writes down where that was wrong.
//!
//! Owns the order of play and what follows from an error, which is what the SQLSTATE says: after 08007 it looks whether the write
//! took effect; after any other error of a server's nothing did, and it is done again.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_postgres::Config;

use super::load::Phase;
use super::seat::{Move, Seat, TrickSeen, Trouble};
use super::tally::{Account, Kind, Shared};
use super::visitor::Visitor;

/// A player with what it knows.
pub(crate) struct Player {
    number: usize,
    visitor: Visitor,
    phase: watch::Receiver<Phase>,
    account: Account,
    game: Option<Game>,
}

/// The game that it is playing.
#[derive(Clone, Copy, Debug)]
struct Game {
    session: i64,
    moves: i32,
}

/// A write, by what identifies it.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Begin { token: i64 },
    End { session: i64 },
    Play(Move),
    Trick(Move),
}

/// What has become of a deed.
#[derive(Clone, Copy, Debug)]
enum Done {
    /// A game session with this id exists.
    Begun(i64),
    /// It is done.
    Yes,
}

/// What a player does in turn.
#[derive(Clone, Copy, Debug)]
enum Step {
    Leaderboard,
    Profile,
    Board,
    Play,
    Trick,
}

impl Player {
    /// The player of this number, from 0; the players' ids begin at 1.
    pub(crate) fn new(number: usize, config: Config, tally: Shared, phase: watch::Receiver<Phase>) -> Player {
        let visitor = Visitor::new(format!("player {number}"), config, tally);
        Player { number, visitor, phase, account: Account::default(), game: None }
    }

    /// Plays until told to finish.
    pub(crate) async fn run(mut self) {
        // Each begins at another step, so that they do not all write at once.
        let mut steps = STEPS.iter().cycle().skip(self.number % STEPS.len());
        while self.plays() {
            let Some(game) = self.game else {
                self.begin_game().await;
                continue;
            };
            if game.moves >= MOVES_PER_GAME {
                if self.settle(Deed::End { session: game.session }).await.is_some() {
                    self.account.finished += 1;
                    self.publish();
                    self.game = None;
                }
                continue;
            }
            match steps.next() {
                Some(Step::Leaderboard) => self.read_leaderboard().await,
                Some(Step::Profile) => self.read_profile().await,
                Some(Step::Board) | None => self.read_board(game).await,
                Some(Step::Play) => self.make_move(game, Deed::Play).await,
                Some(Step::Trick) => self.make_move(game, Deed::Trick).await,
            }
            tokio::time::sleep(THINK).await;
        }
    }

    async fn begin_game(&mut self) {
        let token = self.token(self.account.games);
        if let Some(Done::Begun(session)) = self.settle(Deed::Begin { token }).await {
            self.account.games += 1;
            self.publish();
            self.game = Some(Game { session, moves: 0 });
            let written = Instant::now();
            if let Some(found) = self.visitor.read(async |seat| seat.find_game(token).await).await
                && found != Some(session)
            {
                self.visitor.stale(&format!("the game session {session} was begun, and {found:?} was found"), written);
            }
        }
    }

    async fn make_move(&mut self, game: Game, deed: fn(Move) -> Deed) {
        let played = Move {
            token: self.token(self.account.moves),
            session: game.session,
            player: id(self.number),
            number: game.moves + 1,
            card: CARDS[(self.account.moves as usize) % CARDS.len()],
        };
        let deed = deed(played);
        if self.settle(deed).await.is_none() {
            return;
        }
        self.account.moves += 1;
        self.account.tricks += u64::from(matches!(deed, Deed::Trick(_)));
        self.publish();
        self.game = Some(Game { moves: game.moves + 1, ..game });
        let written = Instant::now();
        if let Some(false) = self.visitor.read(async |seat| seat.find_move(played.token).await).await {
            self.visitor.stale(&format!("the move {} was made and not found", played.token), written);
        }
    }

    async fn read_leaderboard(&mut self) {
        if let Some(rows) = self.visitor.read(Seat::leaderboard).await
            && rows != LEADERS
        {
            self.visitor.stale(&format!("the leaderboard has {rows} rows"), Instant::now());
        }
    }

    async fn read_profile(&mut self) {
        let (id, known) = (id(self.number), self.account.tricks);
        let begun = Instant::now();
        if let Some(tricks) = self.visitor.read(async |seat| seat.profile(id).await).await
            && u64::try_from(tricks) != Ok(known)
        {
            self.visitor.stale(&format!("player {id} has taken {known} tricks, and {tricks} were found"), begun);
        }
    }

    async fn read_board(&mut self, game: Game) {
        let begun = Instant::now();
        if let Some(moves) = self.visitor.read(async |seat| seat.moves(game.session).await).await
            && moves != i64::from(game.moves)
        {
            self.visitor
                .stale(&format!("game {} has {} moves, and {moves} were found", game.session, game.moves), begun);
        }
    }

    /// Does a deed until it is known to be done; `None` when the game ends before that.
    async fn settle(&mut self, deed: Deed) -> Option<Done> {
        let begun = Instant::now();
        let mut doubtful = false;
        while self.plays() {
            let outcome = if doubtful { self.look(deed).await } else { self.attempt(deed).await.map(Some) };
            match outcome {
                Ok(Some(done)) => {
                    self.visitor.tally().read().succeeded(deed.kind(), begun, Instant::now());
                    return Some(done);
                }
                // It did not happen, and will not: it is done again.
                Ok(None) => doubtful = false,
                Err(trouble) => {
                    // Trouble in looking leaves the doubt as it was.
                    doubtful |= trouble.is_doubtful();
                    self.visitor.meet(&trouble, deed.name()).await;
                }
            }
        }
        None
    }

    async fn attempt(&mut self, deed: Deed) -> Result<Done, Trouble> {
        let (id, number) = (id(self.number), self.account.games as usize);
        let seat = self.visitor.seat().await?;
        match deed {
            Deed::Begin { token } => seat.begin_game(token, id, TRUMPS[number % TRUMPS.len()]).await.map(Done::Begun),
            Deed::End { session } => seat.end_game(session).await.map(|()| Done::Yes),
            Deed::Play(played) => seat.play(&played).await.map(|()| Done::Yes),
            Deed::Trick(played) => {
                let TrickSeen(seen) = seat.take_trick(&played).await?;
                if !seen {
                    let finding = format!("the transaction that made move {} did not see it", played.token);
                    self.visitor.stale(&finding, Instant::now());
                }
                Ok(Done::Yes)
            }
        }
    }

    /// Looks whether a deed of unknown outcome was done.
    async fn look(&mut self, deed: Deed) -> Result<Option<Done>, Trouble> {
        let seat = self.visitor.seat().await?;
        match deed {
            Deed::Begin { token } => Ok(seat.find_game(token).await?.map(Done::Begun)),
            Deed::Play(played) | Deed::Trick(played) => Ok(seat.find_move(played.token).await?.then_some(Done::Yes)),
            // It can be done twice.
            Deed::End { .. } => Ok(None),
        }
    }

    fn publish(&self) {
        let mut tally = self.visitor.tally().read();
        if let Some(account) = tally.accounts.get_mut(self.number) {
            *account = self.account;
        }
    }

    fn plays(&self) -> bool {
        *self.phase.borrow() == Phase::Play
    }

    fn token(&self, count: u64) -> i64 {
        first_token(self.number) + count as i64
    }
}

/// A player in the table of players.
pub(crate) fn id(player: usize) -> i64 {
    player as i64 + 1
}

/// A player's tokens begin here, both for game sessions and for moves, and go up by one.
pub(crate) fn first_token(player: usize) -> i64 {
    (player as i64 + 1) << TOKEN_BITS
}

impl Deed {
    fn kind(self) -> Kind {
        if matches!(self, Deed::Trick(_)) { Kind::Transaction } else { Kind::Write }
    }

    fn name(self) -> &'static str {
        match self {
            Deed::Begin { .. } => "beginning a game",
            Deed::End { .. } => "ending a game",
            Deed::Play(_) => "a move",
            Deed::Trick(_) => "a trick",
        }
    }
}

/// Seven reads and three writes, of which one is a transaction; each write is followed by a read of its own.
const STEPS: [Step; 10] = [
    Step::Leaderboard,
    Step::Play,
    Step::Board,
    Step::Profile,
    Step::Play,
    Step::Board,
    Step::Leaderboard,
    Step::Trick,
    Step::Profile,
    Step::Board,
];

const MOVES_PER_GAME: i32 = 26;

/// The leaderboard's rows, of which there are always enough.
pub(crate) const LEADERS: usize = 10;

const TRUMPS: [&str; 4] = ["clubs", "diamonds", "hearts", "spades"];

const CARDS: [&str; 13] = ["2", "3", "4", "5", "6", "7", "8", "9", "10", "jack", "queen", "king", "ace"];

/// A player makes fewer moves than this many bits count.
const TOKEN_BITS: u32 = 40;

/// The time between two steps: it makes the load a steady one, below what the machine can do.
pub(crate) const THINK: Duration = Duration::from_millis(10);
