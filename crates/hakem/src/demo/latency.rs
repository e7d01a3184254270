//! Durations in buckets that grow with them: eight to each power of two of microseconds, so that a quantile is right to an eighth.
//!
//! Owns the arithmetic. It does not measure.

use std::time::Duration;

/// How long things took.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    buckets: Box<[u64; BUCKETS]>,
    longest: Duration,
}

impl Latency {
    pub(crate) fn add(&mut self, duration: Duration) {
        self.buckets[bucket(micros(duration))] += 1;
        self.longest = self.longest.max(duration);
    }

    /// Below which a share of all durations lies, rounded up to a bucket's end; `None` when there are none.
    pub(crate) fn quantile(&self, share: f64) -> Option<Duration> {
        let total: u64 = self.buckets.iter().sum();
        let rank = ((total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (at, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(Duration::from_micros(bucket_end(at)).min(self.longest));
            }
        }
        None
    }

    pub(crate) fn longest(&self) -> Duration {
        self.longest
    }

    /// What came since an earlier state of the same. The longest one is not known of it, only that it was no longer.
    pub(crate) fn since(&self, earlier: &Latency) -> Latency {
        let mut buckets = self.buckets.clone();
        for (bucket, before) in buckets.iter_mut().zip(earlier.buckets.iter()) {
            *bucket -= before;
        }
        Latency { buckets, longest: self.longest }
    }
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { buckets: Box::new([0; BUCKETS]), longest: Duration::ZERO }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn bucket(micros: u64) -> usize {
    if micros < STEPS {
        return micros as usize;
    }
    let exponent = u64::from(micros.ilog2());
    let step = (micros >> (exponent - STEPS_LOG2)) & (STEPS - 1);
    (((exponent - STEPS_LOG2 + 1) * STEPS + step) as usize).min(BUCKETS - 1)
}

/// The largest number of microseconds in a bucket.
fn bucket_end(at: usize) -> u64 {
    let at = at as u64;
    if at < STEPS {
        return at;
    }
    let (power, step) = (at / STEPS - 1, at % STEPS);
    ((STEPS + step + 1) << power) - 1
}

const STEPS_LOG2: u64 = 3;
const STEPS: u64 = 1 << STEPS_LOG2;

/// Up to 2^36 µs, which is 19 hours; what takes longer counts as that.
const BUCKETS: usize = ((36 - STEPS_LOG2 + 1) * STEPS) as usize;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_touch_and_are_narrow() {
        for at in 1..BUCKETS {
            assert_eq!(bucket(bucket_end(at)), at);
            assert_eq!(bucket(bucket_end(at - 1) + 1), at);
        }
        for micros in [9, 100, 1_000, 123_456, 30_000_000] {
            let end = bucket_end(bucket(micros));
            assert!(end >= micros && end - micros <= micros / 8, "{micros} ends at {end}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles() {
        let mut latency = Latency::default();
        assert_eq!(latency.quantile(0.5), None);
        (1..=100).for_each(|millis| latency.add(Duration::from_millis(millis)));
        let earlier = latency.clone();
        let check = |latency: &Latency, share, low, high| {
            let found = latency.quantile(share).expect("durations were added").as_millis();
            assert!((low..=high).contains(&found), "{share}: {found} ms");
        };
        check(&latency, 0.5, 50, 57);
        check(&latency, 0.99, 99, 100);
        check(&latency, 1.0, 100, 100);
        latency.add(Duration::from_secs(1));
        check(&latency.since(&earlier), 0.5, 1000, 1000);
        assert_eq!(latency.longest(), Duration::from_secs(1));
    }
}
