//! Owns the figures of a run, and the table of all of them.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::events::Event;
use crate::work::{Gap, Kind, Tally};

/// What one event was to one proxy.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) event: Event,
    pub(crate) through: &'static str,
    pub(crate) tally: Tally,
    /// The longest time without a direct write.
    pub(crate) direct: Gap,
    pub(crate) lost_before: usize,
    /// Acknowledged after the event had begun.
    pub(crate) lost_after: usize,
    /// How long after it had begun the last of them was: processes do not freeze at once.
    pub(crate) lost_last: Option<Duration>,
    pub(crate) duplicates: usize,
    /// Transactions of which one row is there.
    pub(crate) torn: usize,
    pub(crate) memory_kb: Option<u64>,
}

impl Figures {
    /// Compares what was acknowledged with the rows that are there.
    pub(crate) fn new(
        event: Event,
        through: &'static str,
        tally: Tally,
        direct: Gap,
        began: Instant,
        rows: &[i64],
    ) -> Figures {
        let there: HashSet<i64> = rows.iter().copied().collect();
        let lost: Vec<Instant> =
            tally.acknowledged.iter().filter(|(number, _)| !there.contains(number)).map(|(_, when)| *when).collect();
        let lost_after = lost.iter().filter(|when| **when > began).count();
        let lost_last = lost.iter().filter_map(|when| when.checked_duration_since(began)).max();
        let torn = there.iter().filter(|number| **number < 0 && !there.contains(&-**number)).count();
        let (lost_before, duplicates) = (lost.len() - lost_after, rows.len() - there.len());
        Figures { event, through, lost_before, lost_after, lost_last, duplicates, torn, tally, direct, memory_kb: None }
    }

    /// The first write through the proxy after the gap, less the first direct one, in milliseconds; where there was a gap at all.
    fn addition_ms(&self) -> Option<f64> {
        if self.direct.longest < GAP_MIN {
            return None;
        }
        let (proxy, direct) = (self.tally.writes.end, self.direct.end);
        let later = proxy.saturating_duration_since(direct).as_secs_f64();
        Some((later - direct.saturating_duration_since(proxy).as_secs_f64()) * 1e3)
    }

    pub(crate) fn line(&self) -> String {
        let Figures { event, through, tally, .. } = self;
        format!(
            "{event:?}: {through}: {} writes; gap {:.2} s (direct {:.2} s, addition {:?} ms), reads {:.2} s; errors {:?}; \
             broken {}; lost {} + {} (until {:?}); duplicates {}; torn {}; stale {}; memory {:?} kB",
            tally.acknowledged.len(),
            tally.writes.longest.as_secs_f64(),
            self.direct.longest.as_secs_f64(),
            self.addition_ms().map(f64::round),
            tally.reads.longest.as_secs_f64(),
            tally.errors,
            tally.broken,
            self.lost_before,
            self.lost_after,
            self.lost_last,
            self.duplicates,
            self.torn,
            tally.stale,
            self.memory_kb,
        )
    }

    /// What a proxy must never do to a cluster that loses nothing itself.
    pub(crate) fn violations(&self) -> usize {
        self.lost_before
            + self.lost_after
            + self.duplicates
            + self.torn
            + usize::try_from(self.tally.stale).unwrap_or(usize::MAX)
    }
}

/// Medians over the runs; counts are their sums.
pub(crate) fn table(all: &[Figures]) -> String {
    let mut text = "| event | through | runs | cluster alone | longest write gap | proxy's addition | longest read gap | failed: autocommit, \
                    transactions, reads, connects | by SQLSTATE | broken | lost before, after | duplicates | torn | stale |\n\
                    |---|---|---:|---:|---:|---:|---:|---:|---|---:|---:|---:|---:|---:|\n"
        .to_owned();
    let mut seen = Vec::new();
    for figures in all {
        let key = (figures.event, figures.through);
        if seen.contains(&key) {
            continue;
        }
        seen.push(key);
        let runs: Vec<&Figures> = all.iter().filter(|other| (other.event, other.through) == key).collect();
        let seconds = |of: &dyn Fn(&Figures) -> Duration| {
            median(runs.iter().map(|run| of(run).as_secs_f64()).collect())
                .map_or("–".to_owned(), |value| format!("{value:.2} s"))
        };
        let sum = |of: &dyn Fn(&Figures) -> u64| runs.iter().map(|run| of(run)).sum::<u64>();
        let count = |of: &dyn Fn(&Figures) -> usize| runs.iter().map(|run| of(run)).sum::<usize>();
        let mut states: BTreeMap<&str, u64> = BTreeMap::new();
        for ((_, code), number) in runs.iter().flat_map(|run| &run.tally.errors) {
            *states.entry(code).or_default() += number;
        }
        let states: Vec<String> = states.iter().map(|(code, number)| format!("{code}: {number}")).collect();
        let failed = [Kind::Autocommit, Kind::Transaction, Kind::Read, Kind::Connect]
            .map(|kind| sum(&|run| run.tally.errors_of(kind)).to_string())
            .join(", ");
        let addition = median(runs.iter().filter_map(|run| run.addition_ms()).collect());
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {failed} | {} | {} | {}, {} | {} | {} | {} |",
            figures.event.title(),
            figures.through,
            runs.len(),
            seconds(&|run| run.direct.longest),
            seconds(&|run| run.tally.writes.longest),
            addition.map_or("–".to_owned(), |value| format!("{value:.0} ms")),
            seconds(&|run| run.tally.reads.longest),
            states.join(", "),
            sum(&|run| run.tally.broken),
            count(&|run| run.lost_before),
            count(&|run| run.lost_after),
            count(&|run| run.duplicates),
            count(&|run| run.torn),
            sum(&|run| run.tally.stale),
        );
    }
    text
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// Below it, the machine was busy, and the cluster had a primary all the time.
const GAP_MIN: Duration = Duration::from_secs(1);
