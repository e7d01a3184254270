//! What the demo has to say at the end, for people and for programs.
//!
//! Owns the names of the figures and the verdict.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use super::audit::Found;
use super::director::Failover;
use super::latency::Latency;
use super::plain::millis;
use super::tally::Tally;
use crate::counters::Place;

/// What was counted.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) scene: Scene,
    pub(crate) tally: Tally,
    pub(crate) found: Found,
    /// In the order of [`Place::ALL`].
    pub(crate) statements: [u64; 3],
    pub(crate) retries: u64,
}

/// What it was counted in.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    pub(crate) played: Duration,
    pub(crate) players: u16,
    pub(crate) replicas: u16,
    pub(crate) synchronous: bool,
    /// With when they began.
    pub(crate) failovers: VecDeque<(Duration, Failover)>,
}

impl Report {
    /// Whether the promises were kept that hold whatever happens.
    pub(crate) fn is_sound(&self) -> bool {
        let Found { lost, duplicates, torn, .. } = self.found;
        lost + duplicates + torn + self.tally.stale_reads == 0
    }

    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let Report { scene, tally, found, .. } = self;
        let statements: serde_json::Map<String, Value> = Place::ALL
            .iter()
            .zip(self.statements)
            .map(|(place, count)| (place.as_str().to_owned(), count.into()))
            .collect();
        let failover = |(at, failover): &(Duration, Failover)| {
            json!({
                "at_ms": whole(*at),
                "promoted_after_ms": whole(failover.promoted_after),
                "rejoined_after_ms": failover.rejoined_after.map(whole),
            })
        };
        json!({
            "sound": self.is_sound(),
            "seconds": (scene.played.as_secs_f64() * 10.0).round() / 10.0,
            "players": scene.players,
            "replicas": scene.replicas,
            "synchronous": scene.synchronous,
            "operations": {
                "reads": tally.reads.count,
                "writes": tally.writes.count,
                "transactions": tally.transactions.count,
            },
            "errors": tally.errors,
            "broken_connections": tally.broken_connections,
            "longest_gap_ms": {
                "reads": whole(tally.read_gap.longest_closed()),
                "writes": whole(tally.write_gap.longest_closed()),
            },
            "latency_ms": {
                "reads": latency(&tally.reads.latency),
                "writes": latency(&tally.writes.latency),
                "transactions": latency(&tally.transactions.latency),
            },
            "acknowledged_writes": found.acknowledged,
            "acknowledged_writes_lost": found.lost,
            "duplicates": found.duplicates,
            "torn_transactions": found.torn,
            "stale_reads": tally.stale_reads,
            "findings": tally.findings,
            "statements": statements,
            "retries": self.retries,
            "failovers": scene.failovers.iter().map(failover).collect::<Vec<_>>(),
            "versions": { "hakem": env!("CARGO_PKG_VERSION"), "postgresql": found.server_version },
        })
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let Report { scene, tally, found, .. } = self;
        let mut text = format!(
            "\n{} players for {:.0} s, {} replicas, {} replication\n",
            scene.players,
            scene.played.as_secs_f64(),
            scene.replicas,
            if scene.synchronous { "synchronous" } else { "asynchronous" },
        );
        let mut row = |name: &str, value: String| {
            let _ = writeln!(text, "  {name:<26}{value}");
        };
        for (name, series) in
            [("reads", &tally.reads), ("writes", &tally.writes), ("transactions", &tally.transactions)]
        {
            let (half, most) = (millis(series.latency.quantile(0.5)), millis(series.latency.quantile(0.99)));
            row(name, format!("{} (p50 {half}, p99 {most})", series.count));
        }
        for (place, count) in Place::ALL.iter().zip(self.statements) {
            row(&format!("statements to {}", place.as_str()), count.to_string());
        }
        row("run again by the proxy", self.retries.to_string());
        let codes: Vec<String> = tally.errors.iter().map(|(code, count)| format!("{code} {count}x")).collect();
        row("errors", if codes.is_empty() { "none".to_owned() } else { codes.join(", ") });
        row("longest gap of reads", millis(Some(tally.read_gap.longest_closed())));
        row("longest gap of writes", millis(Some(tally.write_gap.longest_closed())));
        row("failovers", scene.failovers.len().to_string());
        row("broken connections", tally.broken_connections.to_string());
        row("acknowledged writes", found.acknowledged.to_string());
        row("  of these lost", found.lost.to_string());
        row("duplicates", found.duplicates.to_string());
        row("torn transactions", found.torn.to_string());
        row("stale reads", tally.stale_reads.to_string());
        for finding in &tally.findings {
            row("!", finding.clone());
        }
        text
    }
}

fn latency(latency: &Latency) -> Value {
    let fine = |duration: Duration| (duration.as_secs_f64() * 1e5).round() / 100.0;
    json!({
        "p50": latency.quantile(0.5).map(fine),
        "p99": latency.quantile(0.99).map(fine),
        "max": fine(latency.longest()),
    })
}

fn whole(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_broken_promise_is_a_failure() {
        let check = |found: Found, stale_reads: u64, sound: bool| {
            let scene = Scene {
                played: Duration::from_secs(1),
                players: 1,
                replicas: 2,
                synchronous: true,
                failovers: VecDeque::new(),
            };
            let tally = Tally { stale_reads, ..Tally::default() };
            let report = Report { scene, tally, found, statements: [1, 2, 3], retries: 0 };
            assert_eq!(report.is_sound(), sound);
            assert_eq!(report.json()["sound"], sound);
            assert_eq!(report.json()["statements"]["replica"], 2);
        };
        check(Found { acknowledged: 5, ..Found::default() }, 0, true);
        check(Found { lost: 1, ..Found::default() }, 0, false);
        check(Found { duplicates: 1, ..Found::default() }, 0, false);
        check(Found { torn: 1, ..Found::default() }, 0, false);
        check(Found::default(), 1, false);
    }
}
