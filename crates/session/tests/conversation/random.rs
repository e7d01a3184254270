//! Random walks, and every walk of two steps.

use proptest::prelude::*;

use crate::walks::{REQUESTS, check, check_garbage};

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
