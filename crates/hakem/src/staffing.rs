//! How many workers there is something to do for, and who of them hands clients on. Pure: shares in, moves out.
//!
//! One worker that is busy costs less than two that are half idle: it finds more to do each time it wakes, and sends more at a time. So
//! clients are dealt to the first worker alone until it is busy, then to two, and so on; and where one has more to do than another, a part
//! of its clients goes over.

/// How many workers are open, and for how long fewer would have done.
#[derive(Debug)]
pub(crate) struct Staffing {
    open: usize,
    calm: u32,
}

/// A part of one worker's clients is to go over to another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Move {
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Of those who ask for something, from 0 to 1.
    pub(crate) share: f64,
}

/// An order to a worker, as it is left where all its clients see it: who asks for something next goes over to another, or a part of those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transfer {
    to: u16,
    /// In parts of [`u16::MAX`].
    share: u16,
    /// Another order, another choice of clients.
    round: u32,
}

impl Transfer {
    pub(crate) fn new(order: Move, round: u32) -> Transfer {
        let share = (order.share.clamp(0.0, 1.0) * f64::from(u16::MAX)).round() as u16;
        Transfer { to: u16::try_from(order.to).unwrap_or(u16::MAX), share, round }
    }

    /// As one word, which is 0 for no order.
    pub(crate) fn to_bits(order: Option<Transfer>) -> u64 {
        order.map_or(0, |order| u64::from(order.round) << 32 | u64::from(order.to) << 16 | u64::from(order.share))
    }

    pub(crate) fn from_bits(bits: u64) -> Option<Transfer> {
        let order = Transfer { to: (bits >> 16) as u16, share: bits as u16, round: (bits >> 32) as u32 };
        (order.share > 0).then_some(order)
    }

    /// Where a client is to go.
    pub(crate) fn concerns(self, client: u64) -> Option<usize> {
        // SplitMix64's last steps: each bit of the number and the round decides.
        let mut lot = client ^ u64::from(self.round) << 32;
        lot = (lot ^ lot >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        lot = (lot ^ lot >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (self.share == u16::MAX || ((lot >> 48) as u16) < self.share).then_some(usize::from(self.to))
    }
}

impl Staffing {
    pub(crate) fn new(least: usize) -> Staffing {
        Staffing { open: least, calm: 0 }
    }

    /// How many workers clients are dealt to.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// What is to be done now that each worker has used this share of a core since the last time. At least `least` are open.
    pub(crate) fn plan(&mut self, busy: &[f64], least: usize) -> Vec<Move> {
        self.resize(busy, least.clamp(1, busy.len()));
        let mut by_load: Vec<usize> = (0..self.open).collect();
        by_load.sort_by(|a, b| busy[*a].total_cmp(&busy[*b]));
        // Whoever is still there when its worker is closed leaves as soon as it asks for something.
        let closed = (self.open..busy.len()).map(|from| Move { from, to: by_load[0], share: 1.0 });
        let pairs = by_load.iter().zip(by_load.iter().rev()).take(self.open / 2);
        let uneven = pairs.filter(|&(&idle, &hot)| busy[hot] > AT_EASE && busy[hot] - busy[idle] > UNEVEN);
        let evened = uneven.map(|(&to, &from)| Move { from, to, share: (busy[from] - busy[to]) / 2.0 / busy[from] });
        closed.chain(evened).collect()
    }

    fn resize(&mut self, busy: &[f64], least: usize) {
        let total: f64 = busy.iter().sum();
        let needed = (1..busy.len()).find(|&open| total <= BUSY * open as f64).unwrap_or(busy.len()).max(least);
        let is_calm = needed < self.open && total < CALM * (self.open - 1) as f64;
        self.calm = if is_calm { self.calm + 1 } else { 0 };
        if needed > self.open || self.open > busy.len() {
            self.open = needed;
        } else if self.calm >= CALM_TICKS {
            (self.open, self.calm) = (self.open - 1, 0);
        }
    }
}

/// Another worker is opened when the open ones would have more to do than this on average.
const BUSY: f64 = 0.7;

/// One is closed when the others would have less to do than this.
const CALM: f64 = 0.45;

/// But only when that has been so for so many plans.
const CALM_TICKS: u32 = 8;

/// A worker that has no more than this to do keeps its clients.
const AT_EASE: f64 = 0.5;

/// So much more than another has to do, and it hands some of them on.
const UNEVEN: f64 = 0.25;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_as_it_takes() {
        let mut staffing = Staffing::new(1);
        let mut open = |busy: &[f64]| {
            staffing.plan(busy, 1);
            staffing.open()
        };
        assert_eq!(open(&[0.6, 0.0, 0.0, 0.0]), 1);
        assert_eq!(open(&[0.8, 0.0, 0.0, 0.0]), 2);
        // All that there is to do is not known while nobody has time: more each time.
        assert_eq!(open(&[1.0, 1.0, 0.0, 0.0]), 3);
        assert_eq!(open(&[1.0, 1.0, 1.0, 0.0]), 4);
        assert_eq!(open(&[1.0, 1.0, 1.0, 1.0]), 4);
    }

    #[test]
    fn fewer_when_that_has_been_enough_for_a_while() {
        let mut staffing = Staffing::new(3);
        let mut open = |total: f64, least| {
            staffing.plan(&[total, 0.0, 0.0], least);
            staffing.open()
        };
        for _ in 0..CALM_TICKS {
            assert_eq!(open(0.95, 1), 3, "two would be nearly busy");
        }
        for _ in 1..CALM_TICKS {
            assert_eq!(open(0.8, 1), 3);
        }
        assert_eq!(open(1.0, 1), 3, "it begins again");
        for _ in 1..CALM_TICKS {
            assert_eq!(open(0.1, 1), 3);
        }
        assert_eq!(open(0.1, 1), 2);
        for _ in 0..3 * CALM_TICKS {
            assert_eq!(open(0.0, 2), 2, "as many as there must be");
        }
        assert_eq!(open(0.0, 9), 3, "as many as there are");
    }

    #[test]
    fn a_closed_worker_sends_everybody_over() {
        let mut staffing = Staffing::new(2);
        let moves = staffing.plan(&[0.3, 0.2, 0.0, 0.1], 2);
        let everybody = |from| Move { from, to: 1, share: 1.0 };
        assert_eq!(moves, [everybody(2), everybody(3)]);
    }

    #[test]
    fn an_order_concerns_its_share_of_the_clients() {
        let order = |share, round| Transfer::new(Move { from: 0, to: 7, share }, round);
        let gone = |order: Transfer, among: &[u64]| -> Vec<u64> {
            among.iter().copied().filter(|id| order.concerns(*id) == Some(7)).collect()
        };
        let clients: Vec<u64> = (1..=4000).collect();
        let first = gone(order(0.25, 1), &clients);
        assert!((900..1100).contains(&first.len()), "{}", first.len());
        let rest: Vec<u64> = clients.iter().copied().filter(|id| !first.contains(id)).collect();
        let second = gone(order(0.25, 2), &rest);
        assert!((650..850).contains(&second.len()), "another choice: {}", second.len());
        assert_eq!(gone(order(1.0, 3), &clients), clients);
        for order in [Some(order(0.25, u32::MAX)), Some(order(1.0, 0)), None] {
            assert_eq!(Transfer::from_bits(Transfer::to_bits(order)), order);
        }
        assert_eq!(Transfer::from_bits(Transfer::to_bits(Some(order(0.0, 5)))), None);
    }

    #[test]
    fn who_has_most_to_do_hands_on() {
        let mut staffing = Staffing::new(4);
        let moves = staffing.plan(&[0.8, 0.3, 0.2, 0.7], 4);
        assert_eq!(moves.len(), 2);
        assert_eq!((moves[0].from, moves[0].to, moves[1].from, moves[1].to), (0, 2, 3, 1));
        // What is left is as much as what has come.
        assert!((0.8 * (1.0 - moves[0].share) - (0.2 + 0.8 * moves[0].share)).abs() < 1e-9);
        assert_eq!(staffing.plan(&[0.5, 0.1, 0.1, 0.1], 4), [], "nobody has too much");
        assert_eq!(staffing.plan(&[0.9, 0.7, 0.8, 0.7], 4), [], "all have");
        let mut alone = Staffing::new(1);
        assert_eq!(alone.plan(&[0.6], 1), []);
    }
}
