//! Who gets how much, over many draws.

use super::*;
use crate::pick::tests::{chances, node};

const ROUNDS: usize = 20_000;

/// A replica at a glance: its weight, what it has to do, and its latency in ms (0 for none known).
type Replica = (f32, u32, u64);

/// The part that each replica gets when all choices are made in this situation.
fn shares(replicas: &[Replica]) -> Vec<f64> {
    shares_by(replicas, &[], Duration::ZERO, &[])
}

/// The same with zones, a slow start, and the ages of the replicas in ms.
fn shares_by(replicas: &[Replica], near: &[bool], slow_start: Duration, ages: &[u64]) -> Vec<f64> {
    let now = Instant::now();
    let plan = Plan { weights: replicas.iter().map(|replica| replica.0).collect(), near: near.into(), slow_start };
    let mut counts = vec![0; replicas.len()];
    for chance in chances().take(ROUNDS) {
        let mut candidates = Candidates::new();
        for (index, (_, outstanding, latency)) in (0u16..).zip(replicas) {
            let mut node = node(index, "0", now);
            node.serves_since = ages.get(usize::from(index)).map(|age| now - Duration::from_millis(*age));
            let latency = (*latency > 0).then(|| Duration::from_millis(*latency));
            candidates.add(&node, &plan, Load { outstanding: *outstanding, latency }, now);
        }
        counts[candidates.choose(chance).unwrap().index()] += 1;
    }
    counts.into_iter().map(|count| f64::from(count) / ROUNDS as f64).collect()
}

#[track_caller]
fn check(found: &[f64], expected: &[f64]) {
    let close = found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 0.02);
    assert!(close && found.len() == expected.len(), "{found:?} instead of {expected:?}");
}

#[test]
fn without_load_the_weights_decide() {
    check(&shares(&[(1.0, 0, 0)]), &[1.0]);
    check(&shares(&[(1.0, 0, 0), (1.0, 0, 0)]), &[0.5, 0.5]);
    check(&shares(&[(2.0, 0, 0), (1.0, 0, 0)]), &[0.667, 0.333]);
    check(&shares(&[(1.0, 0, 0), (3.0, 0, 0), (4.0, 0, 0)]), &[0.125, 0.375, 0.5]);
    check(&shares(&[(100.0, 0, 0), (1.0, 0, 0)]), &[0.99, 0.01]);
}

#[test]
fn of_two_the_one_with_less_to_do() {
    check(&shares(&[(1.0, 1, 0), (1.0, 0, 0)]), &[0.0, 1.0]);
    check(&shares(&[(1.0, 5, 0), (1.0, 5, 0)]), &[0.5, 0.5]);
    check(&shares(&[(1.0, 9, 0), (1.0, 5, 0)]), &[0.0, 1.0]);
    // As much for its weight.
    check(&shares(&[(2.0, 4, 0), (1.0, 2, 0)]), &[0.667, 0.333]);
    check(&shares(&[(2.0, 8, 0), (1.0, 2, 0)]), &[0.0, 1.0]);
    check(&shares(&[(2.0, 2, 0), (1.0, 2, 0)]), &[1.0, 0.0]);
    // The worst of three is never taken, whoever is drawn beside it.
    check(&shares(&[(1.0, 9, 0), (1.0, 0, 0), (1.0, 0, 0)]), &[0.0, 0.5, 0.5]);
}

#[test]
fn who_is_slow_gets_less() {
    // Small differences are those of the statements.
    check(&shares(&[(1.0, 0, 10), (1.0, 0, 19)]), &[0.5, 0.5]);
    check(&shares(&[(1.0, 0, 1), (1.0, 0, 4)]), &[0.5, 0.5]);
    check(&shares(&[(1.0, 0, 10), (1.0, 0, 40)]), &[0.667, 0.333]);
    check(&shares(&[(1.0, 0, 10), (1.0, 0, 100)]), &[0.8, 0.2]);
    // However slow it is: else nobody would find out that it has become fast again.
    check(&shares(&[(1.0, 0, 1), (1.0, 0, 60_000)]), &[0.8, 0.2]);
    // Nothing is known of one.
    check(&shares(&[(1.0, 0, 10), (1.0, 0, 0)]), &[0.5, 0.5]);
    // A slow one has its fill sooner.
    check(&shares(&[(1.0, 3, 10), (1.0, 2, 100)]), &[1.0, 0.0]);
}

#[test]
fn near_ones_come_first() {
    let three = [(1.0, 0, 0), (1.0, 0, 0), (1.0, 0, 0)];
    check(&shares_by(&three, &[false, true, true], Duration::ZERO, &[]), &[0.0, 0.5, 0.5]);
    check(&shares_by(&three, &[true, false, false], Duration::ZERO, &[]), &[1.0, 0.0, 0.0]);
    check(&shares_by(&three, &[false, false, true], Duration::ZERO, &[]), &[0.0, 0.0, 1.0]);
    // No zone is stated, or none of them is near.
    check(&shares_by(&three, &[false], Duration::ZERO, &[]), &[0.333, 0.333, 0.333]);
}

#[test]
fn who_comes_back_starts_slowly() {
    let shares = |age| shares_by(&[(1.0, 0, 0), (1.0, 0, 0)], &[], Duration::from_secs(10), &[60_000, age]);
    check(&shares(0), &[1.0 / 1.1, 0.1 / 1.1]);
    check(&shares(1_000), &[1.0 / 1.1, 0.1 / 1.1]);
    check(&shares(5_000), &[0.667, 0.333]);
    check(&shares(10_000), &[0.5, 0.5]);
    check(&shares(20_000), &[0.5, 0.5]);
    // At the start of the program all are new.
    check(&shares_by(&[(1.0, 0, 0), (1.0, 0, 0)], &[], Duration::from_secs(10), &[0, 0]), &[0.5, 0.5]);
}

#[test]
fn of_very_many_each_gets_its_turn() {
    let many = [(1.0, 0, 0); 2 * CANDIDATES_MAX];
    let now = Instant::now();
    let nodes: Vec<Node> = (0u16..).zip(&many).map(|(index, _)| node(index, "0", now)).collect();
    let mut counts = vec![0; many.len()];
    for chance in chances().take(ROUNDS) {
        let mut candidates = Candidates::new();
        for node in Candidates::order(&nodes, chance) {
            candidates.add(node, &Plan::default(), Load::default(), now);
        }
        counts[candidates.choose(chance).unwrap().index()] += 1;
    }
    let even = ROUNDS / many.len();
    assert!(counts.iter().all(|count| (even / 2..even * 2).contains(count)), "{counts:?}");
}

/// Clients that ask again as soon as they are answered, and replicas that take their time: what each then has to do.
#[test]
fn a_replica_ten_times_as_slow_gets_a_tenth() {
    const CLIENTS: usize = 20;
    let now = Instant::now();
    let nodes = [node(0, "0", now), node(1, "0", now)];
    let times = [1u64, 10];
    let (mut served, mut busy) = ([0u64; 2], [0u32; 2]);
    // The moments at which clients are answered, and by whom; a client with nobody asks at once.
    let mut until: Vec<(u64, Option<usize>)> = vec![(0, None); CLIENTS];
    let mut chances = chances();
    for _ in 0..ROUNDS {
        let (client, &(moment, by)) = until.iter().enumerate().min_by_key(|(_, (moment, _))| *moment).unwrap();
        by.into_iter().for_each(|by| busy[by] -= 1);
        let mut candidates = Candidates::new();
        for (node, outstanding) in nodes.iter().zip(busy) {
            candidates.add(node, &Plan::default(), Load { outstanding, latency: None }, now);
        }
        let chosen = candidates.choose(chances.next().unwrap()).unwrap().index();
        served[chosen] += 1;
        busy[chosen] += 1;
        // A server answers one after the other.
        until[client] = (moment + times[chosen] * u64::from(busy[chosen]), Some(chosen));
    }
    let share = served[1] as f64 / ROUNDS as f64;
    assert!((0.05..0.2).contains(&share), "{served:?}");
}
