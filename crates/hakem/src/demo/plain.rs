//! The demo as lines: one each second, and one for each event.
//!
//! Owns their wording. Where they are written is the caller's to say.

use std::fmt::Write as _;
use std::time::Duration;

use super::observer::Sample;
use crate::counters::Place;

/// Remembers what was said last.
#[derive(Debug)]
pub(crate) struct Lines {
    before: Sample,
}

impl Lines {
    pub(crate) fn new(first: Sample) -> Lines {
        Lines { before: Sample { events_total: 0, ..first } }
    }

    /// The events since the last time, and, if asked for, how things stand.
    pub(crate) fn next(&mut self, sample: Sample, standing: bool) -> String {
        let mut text = String::new();
        let fresh = (sample.events_total - self.before.events_total).min(sample.events.len());
        for (at, event) in sample.events.range(sample.events.len() - fresh..) {
            let _ = writeln!(text, "{:>5.1} s  * {event}", at.as_secs_f64());
        }
        if standing {
            let _ = writeln!(text, "{}", line(&self.before, &sample));
        }
        self.before = sample;
        text
    }
}

fn line(before: &Sample, sample: &Sample) -> String {
    let pace = sample.since(before);
    let mut text = format!(
        "{:>5.1} s  reads {:>5.0}/s p50 {} p99 {}  writes {:>5.0}/s p50 {} p99 {}  to",
        sample.elapsed.as_secs_f64(),
        pace.reads_per_second,
        millis(pace.read_latency.quantile(0.5)),
        millis(pace.read_latency.quantile(0.99)),
        pace.writes_per_second,
        millis(pace.write_latency.quantile(0.5)),
        millis(pace.write_latency.quantile(0.99)),
    );
    for (place, rate) in Place::ALL.iter().zip(pace.statements_per_second) {
        let _ = write!(text, " {} {rate:.0}/s", place.as_str());
    }
    for node in &sample.nodes {
        let _ = write!(text, "  {} {}", node.name, node.state);
        if let Some(lag) = node.lag {
            let _ = write!(text, " {} ms", lag.as_millis());
        }
    }
    let _ = write!(text, "  errors {} stale {}", sample.tally.errors_total(), sample.tally.stale_reads);
    let _ = write!(text, " broken {}", sample.tally.broken_connections);
    text
}

/// Milliseconds with as many digits as say something.
pub(crate) fn millis(duration: Option<Duration>) -> String {
    let Some(duration) = duration else { return "-".to_owned() };
    let millis = duration.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.1} ms") } else { format!("{millis:.0} ms") }
}

/// From one line to the next.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_told_once() {
        let mut lines = Lines::new(Sample::default());
        let mut sample = Sample::default();
        let mut check = |event: Option<&str>, told: &str| {
            if let Some(event) = event {
                sample.events.push_back((Duration::from_millis(1500), event.to_owned()));
                sample.events_total += 1;
            }
            assert_eq!(lines.next(sample.clone(), false), told);
        };
        check(None, "");
        check(Some("a"), "  1.5 s  * a\n");
        check(None, "");
        check(Some("b"), "  1.5 s  * b\n");
    }

    #[test]
    fn a_line_says_where_statements_went() {
        let mut lines = Lines::new(Sample::default());
        let sample = Sample { elapsed: Duration::from_secs(2), statements: [20, 40, 6], ..Sample::default() };
        let text = lines.next(sample, true);
        assert!(text.contains("to primary 10/s replica 20/s held 3/s  errors 0"), "{text}");
    }
}
