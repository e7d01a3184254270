//! The primary's recent samples: which WAL position was reached when.
//!
//! Pure and bounded. It does not know replicas or epochs: the board clears it when positions stop being comparable.

use std::time::Instant;

/// Samples in the order of their moments, which is also the order of their positions.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: Vec<Sample>,
}

/// Everything acknowledged before `taken` lies below `end`.
#[derive(Clone, Copy, Debug)]
struct Sample {
    end: u64,
    taken: Instant,
}

impl History {
    /// Adds a sample: the position `end` was asked for at `taken`, the moment *before* the question was sent.
    pub(crate) fn record(&mut self, end: u64, taken: Instant) {
        // An older sample of the same position says less than this one. So does one of a higher position: a primary
        // that crashed has lost what it had not flushed, and nothing beyond `end` exists any more.
        while self.samples.last().is_some_and(|last| last.end >= end) {
            self.samples.pop();
        }
        if self.samples.len() == SAMPLES_MAX {
            self.samples.remove(least_missed(&self.samples, taken));
        }
        self.samples.push(Sample { end, taken });
    }

    /// The youngest moment of which a server that replayed up to `replayed` has everything.
    pub(crate) fn covered_by(&self, replayed: u64) -> Option<Instant> {
        let covered = self.samples.partition_point(|sample| sample.end <= replayed);
        covered.checked_sub(1).map(|at| self.samples[at].taken)
    }

    pub(crate) fn clear(&mut self) {
        self.samples.clear();
    }
}

/// The sample that leaves the smallest gap, measured by its age. Leaving one out only makes freshness look older; so
/// the young ones stay dense, the old ones get sparse, and a replica hours behind still gets a fair figure.
fn least_missed(samples: &[Sample], now: Instant) -> usize {
    let cost =
        |three: &[Sample]| (three[2].taken - three[0].taken).as_secs_f64() / (now - three[1].taken).as_secs_f64();
    let costs = samples.windows(3).map(cost).enumerate();
    costs.min_by(|(_, one), (_, other)| one.total_cmp(other)).map_or(0, |(at, _)| at + 1)
}

/// How many samples are kept.
const SAMPLES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Records (position, ms) and compares the ms that is covered by a replayed position.
    fn check(samples: &[(u64, u64)], replayed: u64, expected: Option<u64>) {
        let start = Instant::now();
        let mut history = History::default();
        for &(end, ms) in samples {
            history.record(end, start + Duration::from_millis(ms));
        }
        let covered = history.covered_by(replayed).map(|at| u64::try_from((at - start).as_millis()).unwrap());
        assert_eq!(covered, expected, "replayed {replayed} of {samples:?}");
    }

    #[test]
    fn newest_covered() {
        let samples = [(100, 10), (200, 20), (300, 30)];
        check(&samples, 99, None);
        check(&samples, 100, Some(10));
        check(&samples, 299, Some(20));
        check(&samples, 300, Some(30));
        check(&samples, 999, Some(30));
        check(&[], 999, None);
    }

    #[test]
    fn idle_primary() {
        check(&[(100, 10), (100, 20), (100, 30)], 100, Some(30));
        check(&[(100, 10), (100, 20), (100, 30)], 99, None);
    }

    #[test]
    fn primary_that_lost_its_unflushed_end() {
        check(&[(100, 10), (300, 20), (200, 30)], 200, Some(30));
        check(&[(100, 10), (300, 20), (200, 30)], 199, Some(10));
        check(&[(100, 10), (300, 20), (200, 30)], 400, Some(30));
    }

    #[test]
    fn bounded_and_never_too_fresh() {
        let start = Instant::now();
        let mut history = History::default();
        for step in 1..20_000_u64 {
            history.record(step, start + Duration::from_millis(step));
            assert!(history.samples.len() <= SAMPLES_MAX);
        }
        for replayed in (1..20_000).step_by(97) {
            // Position n was reached at n ms: whoever replayed up to n must not pass for fresher than that.
            let covered = history.covered_by(replayed).unwrap();
            let exact = start + Duration::from_millis(replayed);
            assert!(covered <= exact);
            // Sparse with age, but in proportion to it.
            let age = Duration::from_millis(20_000 - replayed);
            assert!(
                exact - covered <= age / 8 + Duration::from_millis(1),
                "{replayed}: {:?} of {age:?}",
                exact - covered
            );
        }
    }
}
