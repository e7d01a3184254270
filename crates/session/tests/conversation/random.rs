//! Random walks, and every walk of two steps.

use proptest::prelude::*;

use crate::walks::{Event, REQUESTS, WHOLE, WRONG, check, check_garbage, check_losses, check_pipelined};

/// Several requests at once.
fn batch(lines: usize) -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..lines, 1..8)
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => batch(WHOLE.len()).prop_map(Event::Say),
        1 => Just(Event::Kill),
        2 => (0..WRONG.len()).prop_map(Event::Fault),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn one_client_sees_a_server_of_its_own(lines in prop::collection::vec((0..1usize, 0..REQUESTS.len()), 1..30)) {
        check(1, &lines, 100);
    }

    #[test]
    fn clients_see_servers_of_their_own(
        lines in prop::collection::vec((0..3usize, 0..REQUESTS.len()), 1..60), prepared_max in 1..4usize,
    ) {
        check(3, &lines, prepared_max);
    }

    #[test]
    fn a_pipeline_is_answered_as_by_a_server_of_its_own(
        batches in prop::collection::vec((0..1usize, batch(REQUESTS.len())), 1..8), order: u64,
    ) {
        check_pipelined(1, &batches, 100, order);
    }

    #[test]
    fn pipelines_of_several_clients(
        batches in prop::collection::vec((0..3usize, batch(REQUESTS.len())), 1..16), prepared_max in 1..4usize, order: u64,
    ) {
        check_pipelined(3, &batches, prepared_max, order);
    }

    #[test]
    fn each_request_is_answered_once_whatever_is_lost(
        events in prop::collection::vec(event(), 1..16), order: u64, replays: bool,
    ) {
        check_losses(&events, order, replays);
    }

    #[test]
    fn garbage_does_no_harm(
        client in prop::collection::vec((prop::sample::select(&b"QPBDCEHSFdcfXp~"[..]), prop::collection::vec(any::<u8>(), 0..20)), 0..20),
        server in prop::collection::vec((prop::sample::select(&b"123CDEGHINSTVWZdcnst"[..]), prop::collection::vec(any::<u8>(), 0..8)), 0..20),
    ) {
        check_garbage(&client, &server);
    }
}

#[test]
fn every_request_by_itself_and_after_every_other() {
    for first in 0..REQUESTS.len() {
        for second in 0..REQUESTS.len() {
            check(2, &[(0, first), (1, second), (0, second)], 2);
        }
    }
}

/// A statement that could not be prepared is not there when a DISCARD ALL behind it fails, too.
#[test]
fn what_is_set_aside_may_not_be_there() {
    let request = |text: &str| REQUESTS.iter().position(|known| *known == text).expect("such a request");
    let batches = [
        (0, vec![request("Q begin")]),
        (
            0,
            vec![
                request("P - discard all | B - | E | P s1 select 8 | B s1 | E | S"),
                request("C s s1 | P s1 select 2 | B s1 | E | S"),
                request("B - | E | S"),
            ],
        ),
    ];
    (0..200).for_each(|order| check_pipelined(1, &batches, 1, order));
}

/// A function call leaves the portals of a transaction alone, and so does not take it to the primary.
#[test]
fn a_function_call_between_portals() {
    let request = |text: &str| REQUESTS.iter().position(|known| *known == text).expect("such a request");
    let batches = [
        (0, vec![request("Q begin read only")]),
        (
            0,
            [
                "P s3 show work_mem | B s3 | E | S",
                "P - select 1 | B - | H | E | H | S",
                "F",
                "C s s3",
                "E",
                "Q nonsense",
            ]
            .map(request)
            .to_vec(),
        ),
    ];
    (0..200).for_each(|order| check_pipelined(1, &batches, 100, order));
}
