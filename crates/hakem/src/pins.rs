//! The pins of one client, as they have been counted.

use classifier::PinReason;

use crate::counters::Counters;

/// Which pins a client had when that was last looked at, by the numbers of their reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pins(u16);

impl Pins {
    /// Counts what has changed.
    pub(crate) fn note(&mut self, pins: &[PinReason], counters: &Counters) {
        let now = pins.iter().fold(0, |bits, reason| bits | 1 << *reason as u16);
        if now == self.0 {
            return;
        }
        for reason in PinReason::ALL {
            let bit = 1 << reason as u16;
            match (self.0 & bit != 0, now & bit != 0) {
                (false, true) => counters.pin(reason),
                (true, false) => counters.unpin(reason),
                _ => {}
            }
        }
        self.0 = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taken_and_ended() {
        let (mut pins, counters) = (Pins::default(), Counters::default());
        let check = |expected| {
            let at = PinReason::TempTable as usize;
            assert_eq!((counters.pins()[at], counters.pins_standing()[at]), expected);
        };
        pins.note(&[PinReason::TempTable], &counters);
        check((1, 1));
        pins.note(&[PinReason::TempTable, PinReason::Listen], &counters);
        check((1, 1));
        pins.note(&[PinReason::Listen], &counters);
        check((1, 0));
        pins.note(&[PinReason::TempTable], &counters);
        check((2, 1));
        assert_eq!(counters.pins_standing(), [0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
        for (at, reason) in PinReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at);
        }
    }
}
