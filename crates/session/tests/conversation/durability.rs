//! What rules say of `synchronous_commit`: in front of the statement, and gone with its transaction.

use std::sync::Arc;

use session::{DurabilityRule, Level, Policy};

use crate::proxy::{Line, Proxy, policy};

fn check(lines: &[Line]) {
    let rule = |table: &str, level| DurabilityRule { tables: [table.to_owned()].into(), verbs: [].into(), level };
    let rules = [rule("moves", Level::RemoteApply), rule("telemetry", Level::Off)];
    let mut proxy = Proxy::new(0);
    for _ in 0..2 {
        proxy.connect(Policy { durability: Arc::new(rules.clone()), ..policy() }, &[]);
    }
    proxy.check(lines);
}

const DONE: &str = "C(INSERT 0 1) Z(I)";
const OPEN: &str = "C(INSERT 0 1) Z(T)";
const BEGIN: Line = ("Q begin", "", "C(BEGIN) Z(T)");

#[test]
fn outside_of_a_block() {
    check(&[
        ("Q insert into moves", "p.Q(SET synchronous_commit TO remote_apply;) p.Q(insert into moves)", DONE),
        ("Q insert into moves", "p.Q(insert into moves)", DONE),
        ("Q insert into telemetry", "p.Q(SET synchronous_commit TO off;) p.Q(insert into telemetry)", DONE),
        // Nobody else has it, by whatever protocol.
        ("2: Q insert into t", "p.Q(RESET \"synchronous_commit\";) p.Q(insert into t)", DONE),
        (
            "P - insert into game.moves | B - | E | S",
            "p.Q(SET synchronous_commit TO remote_apply;) p.P(- insert into game.moves) p.B(-) p.E p.S",
            "1 2 C(INSERT 0 1) Z(I)",
        ),
        ("2: Q select 1", "r.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("2: Q insert into t", "p.Q(RESET \"synchronous_commit\";) p.Q(insert into t)", DONE),
        // What is only prepared commits nothing.
        ("P m insert into moves | S", "p.P(#1 insert into moves) p.S", "1 Z(I)"),
        ("B m | E | S", "p.Q(SET synchronous_commit TO remote_apply;) p.B(#1) p.E p.S", "2 C(INSERT 0 1) Z(I)"),
    ]);
}

#[test]
fn in_a_block() {
    check(&[
        BEGIN,
        (
            "Q insert into telemetry",
            "p.Q(BEGIN) p.Q(SET LOCAL synchronous_commit TO off) p.Q(insert into telemetry)",
            OPEN,
        ),
        ("Q insert into telemetry", "p.Q(insert into telemetry)", OPEN),
        ("Q select 1", "p.Q(select 1)", "T D(1) C(SELECT 1) Z(T)"),
        ("Q insert into moves", "p.Q(SET LOCAL synchronous_commit TO remote_apply) p.Q(insert into moves)", OPEN),
        ("Q insert into telemetry", "p.Q(insert into telemetry)", OPEN),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
        // Somebody who says nothing does not want less than the server's own.
        BEGIN,
        ("Q insert into t", "p.Q(BEGIN) p.Q(insert into t)", OPEN),
        ("Q insert into telemetry", "p.Q(insert into telemetry)", OPEN),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
        BEGIN,
        (
            "Q insert into telemetry",
            "p.Q(BEGIN) p.Q(SET LOCAL synchronous_commit TO off) p.Q(insert into telemetry)",
            OPEN,
        ),
        ("Q savepoint a", "p.Q(savepoint a)", "C(SAVEPOINT) Z(T)"),
        ("Q insert into t", "p.Q(SET LOCAL synchronous_commit TO DEFAULT) p.Q(insert into t)", OPEN),
        ("Q rollback to a", "p.Q(rollback to a)", "C(ROLLBACK) Z(T)"),
        ("Q insert into t", "p.Q(SET LOCAL synchronous_commit TO DEFAULT) p.Q(insert into t)", OPEN),
        ("Q rollback", "p.Q(rollback)", "C(ROLLBACK) Z(I)"),
    ]);
}

#[test]
fn a_client_knows_better() {
    check(&[
        ("Q set synchronous_commit to local", "p.Q(set synchronous_commit to local)", "C(SET) Z(I)"),
        ("Q insert into moves", "p.Q(insert into moves)", DONE),
        ("Q reset synchronous_commit", "p.Q(reset synchronous_commit)", "C(RESET) Z(I)"),
        BEGIN,
        ("Q set local synchronous_commit to off", "p.Q(BEGIN) p.Q(set local synchronous_commit to off)", "C(SET) Z(T)"),
        ("Q insert into moves", "p.Q(insert into moves)", OPEN),
        ("Q commit", "p.Q(commit)", "C(COMMIT) Z(I)"),
        ("Q insert into moves", "p.Q(SET synchronous_commit TO remote_apply;) p.Q(insert into moves)", DONE),
    ]);
}

#[test]
fn on_a_server_that_is_kept() {
    check(&[
        ("Q set hakem.pin = on", "", "C(SET) Z(I)"),
        ("Q insert into telemetry", "p.Q(SET synchronous_commit TO off;) p.Q(insert into telemetry)", DONE),
        ("Q select 1", "p.Q(RESET \"synchronous_commit\";) p.Q(select 1)", "T D(1) C(SELECT 1) Z(I)"),
        ("Q insert into moves", "p.Q(SET synchronous_commit TO remote_apply;) p.Q(insert into moves)", DONE),
        ("Q insert into telemetry", "p.Q(SET synchronous_commit TO off;) p.Q(insert into telemetry)", DONE),
        ("Q set hakem.pin = off", "", "C(SET) Z(I)"),
        ("2: Q insert into t", "p.Q(RESET \"synchronous_commit\";) p.Q(insert into t)", DONE),
    ]);
}

#[test]
fn one_behind_the_other() {
    let mut proxy = Proxy::new(0);
    let rule = DurabilityRule { tables: ["moves".to_owned()].into(), verbs: [].into(), level: Level::RemoteApply };
    proxy.connect(Policy { durability: Arc::new([rule]), ..policy() }, &[]);
    let lines = ["Q insert into moves", "Q insert into moves", "Q insert into t", "Q insert into moves"];
    let bytes: Vec<u8> = lines.iter().flat_map(|line| crate::script::requests(line)).collect();
    let shown = crate::script::replies(&proxy.exchange(0, &bytes));
    assert_eq!(shown, [DONE; 4].join(" "));
    // Each has had its own: the server's value is the last one's.
    let shown = crate::script::replies(
        &proxy.exchange(0, &crate::script::requests("Q insert into moves; show synchronous_commit")),
    );
    assert!(shown.contains("D(remote_apply)"), "{shown}");
}
