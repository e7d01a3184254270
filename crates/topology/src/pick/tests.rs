//! Where statements go, as tables: what the nodes are, what is asked, what is chosen.

use std::collections::BTreeSet;

use super::*;
use crate::snapshot::{Epoch, Fence, Figures};

/// A node at a glance: `P` primary, `U` unreachable, `?` unknown, `F` fenced, `R` a replica of unproven freshness,
/// and a number is a replica fresh as of that many ms after the start.
pub(crate) fn node(index: u16, letter: &str, start: Instant) -> Node {
    let replica = |fresh_as_of| NodeState::Replica {
        timeline: 1,
        system_identifier: 7,
        replay_lsn: 100,
        fresh_as_of,
        streaming: true,
    };
    let state = match letter {
        "P" => NodeState::Primary { timeline: 1, system_identifier: 7, insert_lsn: 100, fork: None },
        "U" => NodeState::Unreachable { since: start, reason: "refused".into(), rejects: false },
        "?" => NodeState::Unknown,
        "F" => NodeState::Fenced { claims_primary: false, timeline: 1, system_identifier: 7, cause: Fence::Diverged },
        "R" => replica(None),
        ms => replica(Some(start + Duration::from_millis(ms.parse().unwrap()))),
    };
    let serves_since = matches!(state, NodeState::Replica { fresh_as_of: Some(_), .. }).then_some(start);
    Node {
        id: NodeId(index),
        host: "host".into(),
        port: 5432,
        address: None,
        state,
        serves_since,
        figures: Figures::default(),
    }
}

fn snapshot(letters: &str, start: Instant) -> Snapshot {
    let nodes: Box<[Node]> = letters.split(' ').zip(0..).map(|(letter, index)| node(index, letter, start)).collect();
    let writer = match letters.split(' ').position(|letter| letter == "P") {
        Some(at) => {
            Writer::Known(Epoch { system_identifier: 7, timeline: 1, primary: NodeId(u16::try_from(at).unwrap()) })
        }
        None => Writer::None(NoPrimary::NotFound { last: None }),
    };
    Snapshot { nodes, writer, version: 1 }
}

/// Reads at 1000 ms with this bound and this last write; the nodes that are chosen by one chance or another.
fn check(letters: &str, max_lag: Option<u64>, not_before: Option<u64>, exclude: &[u16], expected: &str) {
    let start = Instant::now();
    let need = Need::Read(freshness(start, max_lag, not_before));
    let exclude: Vec<NodeId> = exclude.iter().map(|&index| NodeId(index)).collect();
    let ask = Ask { exclude: &exclude, ..Ask::of(need) };
    let chosen = choices(&snapshot(letters, start), &ask, &Plan::default());
    assert_eq!(chosen, expected, "{letters} max_lag {max_lag:?} not_before {not_before:?} {exclude:?}");
}

/// The same for a session without any bound that has read from a node up to a moment.
fn check_trail(letters: &str, node: u16, until: u64, expected: &str) {
    let start = Instant::now();
    let trail = Trail { node: NodeId(node), until: start + Duration::from_millis(until) };
    let ask = Ask { trail: Some(trail), ..Ask::of(Need::Read(freshness(start, None, None))) };
    let chosen = choices(&snapshot(letters, start), &ask, &Plan::default());
    assert_eq!(chosen, expected, "{letters} after {node} until {until}");
}

fn freshness(start: Instant, max_lag: Option<u64>, not_before: Option<u64>) -> Freshness {
    let ms = Duration::from_millis;
    Freshness { now: start + ms(1000), max_lag: max_lag.map(ms), not_before: not_before.map(|at| start + ms(at)) }
}

/// Every choice that is made by one of many chances, in the nodes' order.
fn choices(snapshot: &Snapshot, ask: &Ask<'_>, plan: &Plan) -> String {
    let shown = |chance| match snapshot.pick(&Ask { chance, ..*ask }, plan, |_| Load::default()) {
        Choice::Replica(id) => id.to_string(),
        Choice::Primary(id, why) => format!("{id}:{why:?}"),
        Choice::Nowhere(_) => "-".to_owned(),
    };
    let chosen: BTreeSet<String> = chances().take(200).map(shown).collect();
    chosen.into_iter().collect::<Vec<_>>().join(" ")
}

/// Numbers that look like chance, and are the same each time (SplitMix64).
pub(crate) fn chances() -> impl Iterator<Item = u64> {
    (1u64..).map(|round| {
        let mixed = round.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    })
}

#[test]
fn any_that_will_do() {
    check("P 900 950", None, None, &[], "1 2");
    check("900 P 950 990", None, None, &[], "0 2 3");
    check("P 900 U 950 F ?", None, None, &[], "1 3");
}

#[test]
fn lag_bound() {
    check("P 900 950", Some(100), None, &[], "1 2");
    check("P 899 950", Some(100), None, &[], "2");
    check("P 899 899", Some(100), None, &[], "0:Stale");
    // A sample taken after the caller read its clock is not behind.
    check("P 1005", Some(0), None, &[], "1");
    check("P 1000", Some(0), None, &[], "1");
    check("P 999", Some(0), None, &[], "0:Stale");
}

#[test]
fn read_your_writes() {
    check("P 900 950", None, Some(950), &[], "2");
    check("P 900 950", None, Some(951), &[], "0:Stale");
    check("P 900 950", Some(75), Some(900), &[], "2");
    check("P 900 950", Some(40), Some(900), &[], "0:Stale");
}

#[test]
fn unproven_is_never_taken() {
    check("P R R", None, None, &[], "0:Stale");
    check("P U ? F", None, None, &[], "0:NoReplica");
    check("P", None, None, &[], "0:NoReplica");
}

#[test]
fn excluded() {
    check("P 900 950", None, None, &[1], "2");
    check("P 900 950", None, None, &[2, 1], "0:NoReplica");
    // The primary is never left out: there is no other.
    check("P 900", None, None, &[1, 0], "0:NoReplica");
    check("P 900", None, None, &[0], "1");
}

#[test]
fn without_a_primary() {
    // Replicas go on serving what they provably have; what they cannot serve has to wait.
    check("U 900", None, None, &[], "1");
    check("U 900", None, Some(950), &[], "-");
    let start = Instant::now();
    let ask = Ask::of(Need::Write);
    assert_eq!(choices(&snapshot("U 900", start), &ask, &Plan::default()), "-");
    assert_eq!(choices(&snapshot("U 900 P", start), &ask, &Plan::default()), "2:Write");
    assert_eq!(snapshot("U 900", start).pick_primary(), Choice::Nowhere(NoPrimary::NotFound { last: None }));
    assert_eq!(snapshot("U 900 P", start).pick_primary(), Choice::Primary(NodeId(2), WhyPrimary::Write));
}

#[test]
fn reads_do_not_go_back_in_time() {
    // It stays where it is, unless the others are provably past what it has seen.
    check_trail("P 900 950", 1, 999, "1");
    check_trail("P 900 950", 1, 950, "1 2");
    check_trail("P 900 950", 1, 951, "1");
    check_trail("P 900 950", 2, 900, "1 2");
    check_trail("P 900 950 960", 1, 955, "1 3");
    // Its node is gone: only the primary certainly shows all of it.
    check_trail("P U 950", 1, 999, "0:Stale");
    check_trail("P U 950", 1, 940, "2");
    check_trail("P R 950", 1, 999, "0:Stale");
    check_trail("U U 950", 1, 999, "-");
    // A node that was away may have gone back itself (a standby starts again from its last restartpoint).
    let start = Instant::now();
    let mut snapshot = snapshot("P 900 950", start);
    snapshot.nodes[1].serves_since = Some(start + Duration::from_millis(920));
    let after = |until| {
        let trail = Trail { node: NodeId(1), until: start + Duration::from_millis(until) };
        let ask = Ask { trail: Some(trail), ..Ask::of(Need::Read(freshness(start, None, None))) };
        choices(&snapshot, &ask, &Plan::default())
    };
    assert_eq!(after(900), "1 2");
    assert_eq!(after(901), "2");
    assert_eq!(after(920), "1 2");
    assert_eq!(after(951), "1");
}

#[test]
fn the_primary_takes_its_share() {
    let start = Instant::now();
    let read = Need::Read(freshness(start, None, None));
    let share = |letters: &str, primary_share, trail| {
        let (mut primary, rounds) = (0, 10_000);
        for chance in chances().take(rounds) {
            let ask = Ask { primary_share, chance, trail, ..Ask::of(read) };
            let choice = snapshot(letters, start).pick(&ask, &Plan::default(), |_| Load::default());
            primary += usize::from(choice == Choice::Primary(NodeId(0), WhyPrimary::Share));
        }
        primary as f64 / rounds as f64
    };
    let close = |found: f64, expected: f64| assert!((found - expected).abs() < 0.02, "{found} for {expected}");
    close(share("P 900 950", 0.3, None), 0.3);
    assert_eq!(share("P 900 950", 0.0, None), 0.0);
    assert_eq!(share("P 900 950", 1.0, None), 1.0);
    assert_eq!(share("U 900 950", 0.5, None), 0.0, "there is none");
    // A session that reads without a pause stays where it is, on the primary or on a replica: it could not go back.
    let trail = |node, until| Some(Trail { node: NodeId(node), until: start + Duration::from_millis(until) });
    assert_eq!(share("P 900 950", 0.3, trail(0, 999)), 1.0);
    assert_eq!(share("P 900 950", 0.3, trail(1, 999)), 0.0);
    close(share("P 900 950", 0.3, trail(0, 940)), 0.3);
    close(share("P 900 950", 0.3, trail(1, 940)), 0.3);
}

#[test]
fn shares_are_those_of_the_weights() {
    let start = Instant::now();
    let check = |letters: &str, weights: &[f32], near: &[bool], expected: &[f32]| {
        let plan = Plan { weights: weights.into(), near: near.into(), slow_start: Duration::ZERO };
        let found = snapshot(letters, start).shares(&freshness(start, Some(100), None), &plan, 0.2);
        let close = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.001);
        assert!(close, "{letters}: {found:?}");
    };
    check("P 950 950", &[], &[], &[0.2, 0.4, 0.4]);
    check("P 950 950", &[1.0, 3.0, 1.0], &[], &[0.2, 0.6, 0.2]);
    check("P 950 899", &[], &[], &[0.2, 0.8, 0.0]);
    check("P 950 950", &[], &[true, true], &[0.2, 0.8, 0.0]);
    check("P 950 950", &[1.0, 0.0, 1.0], &[true, true], &[0.2, 0.0, 0.8]);
    check("P U 899", &[], &[], &[1.0, 0.0, 0.0]);
    check("U 950 950", &[], &[], &[0.0, 0.5, 0.5]);
    check("U U R", &[], &[], &[0.0, 0.0, 0.0]);
}
