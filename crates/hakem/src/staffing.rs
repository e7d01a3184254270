//! How many workers there is something to do for, and who of them hands clients on. Pure: shares in, moves out.
//!
//! One worker that is busy costs less than two that are half idle: it finds more to do each time it wakes, and sends more at a time. So
//! clients are dealt to the first worker alone until it is busy, then to two, and so on; and where one has more to do than another, a part
//! of its clients goes over. A worker that waits for a core is busy: on a machine that is full, more threads get more done.

/// How many workers are open, and for how long fewer would have done.
#[derive(Debug)]
pub(crate) struct Staffing {
    open: usize,
    calm: u32,
}

/// What a worker's thread did of late, as parts of the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Load {
    /// It computed.
    pub(crate) ran: f64,
    /// It would have, but for others on its core.
    pub(crate) waited: f64,
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

    /// The worker is closed.
    pub(crate) fn is_for_everybody(self) -> bool {
        self.share == u16::MAX
    }

    /// Where a client is to go.
    pub(crate) fn concerns(self, client: u64) -> Option<usize> {
        // SplitMix64's last steps: each bit of the number and the round decides.
        let mut lot = client ^ u64::from(self.round) << 32;
        lot = (lot ^ lot >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        lot = (lot ^ lot >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (self.is_for_everybody() || ((lot >> 48) as u16) < self.share).then_some(usize::from(self.to))
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

    /// What is to be done now that this is what each worker did since the last time. At least `least` are open.
    pub(crate) fn plan(&mut self, loads: &[Load], least: usize) -> Vec<Move> {
        self.resize(loads, least.clamp(1, loads.len()));
        let mut by_load: Vec<usize> = (0..self.open).collect();
        by_load.sort_by(|a, b| loads[*a].ran.total_cmp(&loads[*b].ran));
        // Whoever is still there when its worker is closed leaves as soon as it asks for something.
        let closed = (self.open..loads.len()).map(|from| Move { from, to: by_load[0], share: 1.0 });
        let pairs = by_load.iter().zip(by_load.iter().rev()).take(self.open / 2);
        // What clients cost is what was computed for them: how long that waited is chance.
        let evened = pairs.filter_map(|(&to, &from)| {
            let surplus = (loads[from].ran - loads[to].ran) / loads[from].ran;
            let hands_on = loads[from].busy() > AT_EASE && surplus > UNEVEN;
            hands_on.then_some(Move { from, to, share: surplus / 2.0 })
        });
        closed.chain(evened).collect()
    }

    fn resize(&mut self, loads: &[Load], least: usize) {
        let total: f64 = loads.iter().map(|load| load.busy()).sum();
        let needed = (1..loads.len()).find(|&open| total <= BUSY * open as f64).unwrap_or(loads.len()).max(least);
        let is_calm = needed < self.open && total < CALM * (self.open - 1) as f64;
        self.calm = if is_calm { self.calm + 1 } else { 0 };
        if needed > self.open || self.open > loads.len() {
            self.open = needed;
        } else if self.calm >= CALM_TICKS {
            (self.open, self.calm) = (self.open - 1, 0);
        }
    }
}

impl Load {
    fn busy(self) -> f64 {
        self.ran + self.waited
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

/// So much of its work is more than another's, and it hands half of that on.
const UNEVEN: f64 = 0.3;

#[cfg(test)]
mod tests {
    use super::*;

    fn ran(shares: &[f64]) -> Vec<Load> {
        shares.iter().map(|&ran| Load { ran, waited: 0.0 }).collect()
    }

    #[test]
    fn as_many_as_it_takes() {
        let mut staffing = Staffing::new(1);
        let mut open = |shares: &[f64]| {
            staffing.plan(&ran(shares), 1);
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
    fn who_waits_for_a_core_is_busy() {
        let mut staffing = Staffing::new(1);
        let load = |ran, waited| Load { ran, waited };
        assert_eq!(staffing.plan(&[load(0.3, 0.3), load(0.0, 0.0)], 1), [Move { from: 1, to: 0, share: 1.0 }]);
        assert_eq!(staffing.plan(&[load(0.3, 0.6), load(0.0, 0.0)], 1), [Move { from: 0, to: 1, share: 0.5 }]);
        // Waiting is nothing that could be handed on.
        assert_eq!(staffing.plan(&[load(0.2, 0.1), load(0.2, 0.7)], 1), []);
        assert_eq!(staffing.open(), 2);
    }

    #[test]
    fn fewer_when_that_has_been_enough_for_a_while() {
        let mut staffing = Staffing::new(3);
        let mut open = |total: f64, least| {
            staffing.plan(&ran(&[total, 0.0, 0.0]), least);
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
        let moves = staffing.plan(&ran(&[0.3, 0.2, 0.0, 0.1]), 2);
        let everybody = |from| Move { from, to: 1, share: 1.0 };
        assert_eq!(moves, [everybody(2), everybody(3)]);
    }

    #[test]
    fn who_has_most_to_do_hands_on() {
        let mut staffing = Staffing::new(4);
        let moves = staffing.plan(&ran(&[0.8, 0.3, 0.2, 0.7]), 4);
        assert_eq!(moves.len(), 2);
        assert_eq!((moves[0].from, moves[0].to, moves[1].from, moves[1].to), (0, 2, 3, 1));
        // What is left is as much as what has come.
        assert!((0.8 * (1.0 - moves[0].share) - (0.2 + 0.8 * moves[0].share)).abs() < 1e-9);
        assert_eq!(staffing.plan(&ran(&[0.5, 0.1, 0.1, 0.1]), 4), [], "nobody has too much");
        assert_eq!(staffing.plan(&ran(&[0.9, 0.7, 0.8, 0.7]), 4), [], "all have");
        assert_eq!(staffing.plan(&ran(&[0.0; 4]), 4), [], "nobody does anything");
        let mut alone = Staffing::new(1);
        assert_eq!(alone.plan(&ran(&[0.6]), 1), []);
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
}
