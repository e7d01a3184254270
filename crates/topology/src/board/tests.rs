//! The board's conclusions, as tables of reports and what the snapshot then shows.

use super::*;
use crate::dcs::Member;
use crate::pick::Freshness;

/// A report at a glance, as `moment node what`. The moment is in ms; an answer was asked for then and came 1 ms
/// later. What: `P1:500` a primary on timeline 1 that inserted up to 500, `R1:500` a replica that replayed that
/// far; a leading `+` is the first answer of a connection and a leading `x` another system identifier; `!`, `~`,
/// `%` the probe was refused, was not answered, was rejected; `hup` the connection ended.
fn report(text: &str, start: Instant) -> (NodeId, Report) {
    let words: Vec<&str> = text.split(' ').collect();
    let [moment, node, what] = *words else { panic!("three words: {text}") };
    let asked = start + Duration::from_millis(moment.parse().unwrap());
    let at = asked + Duration::from_millis(1);
    let lost = |kind| Report::Lost(Lost { asked, at, kind, reason: what.into() });
    let report = match what {
        "hup" => Report::HungUp,
        "!" => lost(LossKind::Refused),
        "~" => lost(LossKind::Silent),
        "%" => lost(LossKind::Rejected),
        answer => {
            let (claim, lsn) = answer.trim_start_matches(['+', 'x']).split_once(':').unwrap();
            let lsn = lsn.parse().unwrap();
            let shape = WalShape::new(8192, 16 << 20).unwrap();
            Report::Answered(Answer {
                asked,
                answered: at,
                first: answer.starts_with('+'),
                system_identifier: if answer.contains('x') { 8 } else { 7 },
                started: node.parse().unwrap(),
                address: None,
                timeline: claim[1..].parse().unwrap(),
                role: match &claim[..1] {
                    "P" => Role::Primary { insert_lsn: lsn, shape, fork: None },
                    _ => Role::Replica { replay_lsn: lsn, receive_lsn: lsn, streaming: true },
                },
            })
        }
    };
    (NodeId(node.parse().unwrap()), report)
}

/// `version writer: states`, where a replica shows the moment that it is fresh as of.
fn show(snapshot: &Snapshot, start: Instant) -> String {
    let writer = match &snapshot.writer {
        Writer::Known(epoch) => format!("{}@{}", epoch.primary, epoch.timeline),
        Writer::None(NoPrimary::Handover { from }) => format!("handover of {from}"),
        Writer::None(NoPrimary::NotFound { .. }) => "none".to_owned(),
        Writer::None(NoPrimary::SplitBrain { .. }) => "split".to_owned(),
        Writer::None(NoPrimary::Strangers { .. }) => "strangers".to_owned(),
    };
    let states = snapshot.nodes.iter().map(|node| match node.state {
        NodeState::Replica { fresh_as_of: Some(fresh), .. } => (fresh - start).as_millis().to_string(),
        NodeState::Replica { fresh_as_of: None, .. } => "R".to_owned(),
        NodeState::Fenced { cause: Fence::Diverged, .. } => "diverged".to_owned(),
        NodeState::Unknown => "?".to_owned(),
        NodeState::Unreachable { .. } => "-".to_owned(),
        NodeState::Primary { .. } => "P".to_owned(),
        NodeState::Fenced { .. } => "x".to_owned(),
    });
    format!("{} {writer}: {}", snapshot.version, states.collect::<Vec<_>>().join(" "))
}

/// Reports one after the other and what the snapshot then shows.
fn check(servers: usize, steps: &[(&str, &str)]) -> Arc<Snapshot> {
    let mut board = Board::new(&vec![("host".to_owned(), 5432); servers], &[]);
    tell(&mut board, Instant::now(), steps);
    board.current()
}

fn tell(board: &mut Board, start: Instant, steps: &[(&str, &str)]) {
    for (step, expected) in steps {
        let (id, report) = report(step, start);
        board.observe(id, report);
        assert_eq!(show(&board.current(), start), *expected, "after {step}");
    }
}

/// Watchers one after the other, each of these servers (a letter each), with its reports.
fn check_heirs(watchers: &[(&str, &[(&str, &str)])]) {
    let start = Instant::now();
    let mut board: Option<Board> = None;
    for (letters, steps) in watchers {
        let servers: Vec<(String, u16)> = letters.chars().map(|letter| (letter.to_string(), 5432)).collect();
        let mut heir = board.map_or_else(|| Board::new(&servers, &[]), |board| board.heir(&servers, &[]));
        assert!(show(&heir.current(), start).starts_with("0 none: ?"), "nothing is known before anybody is asked");
        tell(&mut heir, start, steps);
        board = Some(heir);
    }
}

#[test]
fn a_watcher_that_takes_anothers_place_knows_who_was_deposed() {
    let promoted: &[_] = &[("10 0 +P1:500", "1 none: P ?"), ("20 1 +P2:600", "2 1@2: x P")];
    // The new primary dies, and the old one lives.
    check_heirs(&[("ab", promoted), ("ab", &[("30 0 +P1:500", "1 none: x ?"), ("40 1 !", "2 none: x -")])]);
    check_heirs(&[("ab", promoted), ("ab", &[("30 1 ~", "1 none: ? -"), ("40 0 +P1:500", "2 none: x -")])]);
    // Also where it is watched no more, under another number, and by a watcher that has heard of nobody.
    check_heirs(&[("ab", promoted), ("a", &[("30 0 +P1:500", "1 none: x")])]);
    check_heirs(&[("ab", promoted), ("ca", &[("30 0 !", "1 none: - ?"), ("40 1 +P1:500", "2 none: - x")])]);
    check_heirs(&[("ab", promoted), ("c", &[("30 0 !", "1 none: -")]), ("a", &[("40 0 +P1:500", "1 none: x")])]);
    check_heirs(&[("ab", promoted), ("ba", &[("30 1 +P1:500", "1 none: ? x"), ("40 0 +P2:700", "2 0@2: P x")])]);
}

#[test]
fn a_watcher_that_takes_anothers_place_knows_whose_the_cluster_is() {
    let known: &[_] =
        &[("10 0 +P1:500", "1 none: P ? ?"), ("20 1 +R1:500", "2 none: P R ?"), ("30 2 +xP1:9", "3 0@1: P R x")];
    // Whoever is lost votes on, and whoever has not been asked yet.
    let lost: &[_] = &[("40 2 +xP1:9", "1 none: ? ? x"), ("50 0 !", "2 none: - ? x"), ("60 1 !", "3 none: - - x")];
    check_heirs(&[("abc", known), ("abc", lost)]);
    // Another cluster altogether is believed.
    check_heirs(&[("abc", known), ("d", &[("40 0 +xP1:9", "1 0@1: P")])]);
}

#[test]
fn a_watcher_that_takes_anothers_place_proves_freshness_anew() {
    let known: &[_] =
        &[("10 0 +P1:500", "1 none: P ?"), ("20 1 +R1:500", "2 0@1: P R"), ("30 0 P1:500", "2 0@1: P 30")];
    let anew: &[_] = &[("40 0 +P1:500", "1 none: P ?"), ("50 1 +R1:400", "2 0@1: P R"), ("60 0 P1:500", "2 0@1: P R")];
    check_heirs(&[("ab", known), ("ab", anew)]);
}

/// Two servers `a` and `b`, and etcd before Patroni.
struct Hall {
    start: Instant,
    board: Board,
}

impl Hall {
    fn servers() -> [(String, u16); 2] {
        ["a", "b"].map(|host| (host.to_owned(), 5432))
    }

    fn managers(prefix: &str) -> [SourceKind; 2] {
        [
            SourceKind::Etcd { urls: Vec::new(), prefix: prefix.to_owned(), login: None },
            SourceKind::Patroni { urls: Vec::new() },
        ]
    }

    fn new() -> Hall {
        Hall { start: Instant::now(), board: Board::new(&Hall::servers(), &Hall::managers("/")) }
    }

    /// With etcd's keys below a prefix.
    fn heir(&self, prefix: &str) -> Hall {
        Hall { start: self.start, board: self.board.heir(&Hall::servers(), &Hall::managers(prefix)) }
    }

    fn tell(&mut self, steps: &[(&str, &str)]) {
        tell(&mut self.board, self.start, steps);
    }

    /// A manager names the leader, or does not answer (`-`).
    fn hear(&mut self, place: usize, leader: &str, expected: &str) {
        self.hear_of(None, place, leader, expected);
    }

    /// The same of a manager that says what our system identifier is.
    fn hear_of(&mut self, system_identifier: Option<u64>, place: usize, leader: &str, expected: &str) {
        let members = ["a", "b"].map(|name| Member {
            name: name.to_owned(),
            host: name.to_owned(),
            port: 5432,
            timeline: None,
            api_url: None,
            running: true,
        });
        let leader_at = members.iter().position(|member| member.name == leader);
        let said =
            Announcement { leader: leader_at, members: members.into(), system_identifier, ..Announcement::default() };
        self.board.hear(place, (leader != "-").then_some(said));
        assert_eq!(show(&self.board.current(), self.start), expected, "{leader} leads, says {place}");
    }
}

const TWO: &[(&str, &str)] = &[("10 0 +P1:500", "1 none: P ?"), ("20 1 +R1:500", "2 none: P R")];

#[test]
fn nobody_is_believed_before_the_managers_are_heard() {
    let mut hall = Hall::new();
    hall.tell(TWO);
    // The one that is trusted more may yet say something else, until it has failed.
    hall.hear(1, "a", "2 none: P R");
    hall.hear(0, "-", "3 0@1: P R");
    hall.hear(0, "b", "4 none: x R");
    hall.hear(0, "-", "5 0@1: P R");
    hall.hear(1, "-", "5 0@1: P R");
    let mut hall = Hall::new();
    hall.tell(TWO);
    hall.hear(0, "-", "2 none: P R");
    hall.hear(1, "-", "3 0@1: P R");
    let mut hall = Hall::new();
    hall.hear(0, "b", "0 none: ? ?");
    hall.tell(&[("10 0 +P1:500", "1 none: x ?"), ("20 1 +R1:500", "2 none: x R")]);
}

#[test]
fn a_manager_says_whose_servers_they_are() {
    let mut hall = Hall::new();
    hall.tell(TWO);
    hall.hear_of(Some(1), 0, "a", "3 none: x x");
    // What it has said counts when it is silent, and until somebody says another, also for whoever takes its place.
    hall.hear(0, "-", "3 none: x x");
    hall.hear(1, "a", "3 none: x x");
    hall.heir("/").tell(&[("30 0 +P1:500", "1 none: x ?"), ("40 1 +R1:500", "2 none: x x")]);
    hall.hear_of(Some(7), 0, "a", "4 0@1: P R");
    // The configuration knows better than anybody.
    let mut hall = Hall { board: hall.heir("/").board.of_system(Some(1)), ..hall };
    hall.tell(&[("30 0 +P1:500", "1 none: x ?"), ("40 1 +R1:500", "2 none: x x")]);
    hall.hear_of(Some(7), 0, "a", "2 none: x x");
}

#[test]
fn a_handover_outlives_its_watcher() {
    let mut hall = Hall::new();
    hall.tell(TWO);
    hall.hear(0, "a", "3 0@1: P R");
    hall.board.hand_over(true);
    // The old primary is not to be written to, and the new one is.
    let mut heir = hall.heir("/");
    assert!(heir.board.hands_over());
    heir.tell(&[("30 0 +P1:500", "1 none: P ?"), ("40 1 +R1:500", "2 handover of 0: P R")]);
    let mut heir = hall.heir("/");
    heir.hear(0, "b", "1 none: ? ?");
    heir.tell(&[("30 1 +P2:500", "2 none: ? P"), ("40 0 +R2:500", "3 1@2: R P")]);
    heir.board.hand_over(false);
    assert_eq!(show(&heir.board.current(), heir.start), "3 1@2: R P");
}

#[test]
fn a_watcher_that_takes_anothers_place_goes_by_what_its_managers_have_said() {
    let mut hall = Hall::new();
    hall.tell(TWO);
    hall.hear(0, "a", "3 0@1: P R");
    hall.heir("/").tell(&[("30 0 +P1:500", "1 none: P ?"), ("40 1 +R1:500", "2 0@1: P R")]);
    // Another etcd has not been asked yet.
    hall.heir("/other").tell(&[("30 0 +P1:500", "1 none: P ?"), ("40 1 +R1:500", "2 none: P R")]);
    hall.hear(0, "b", "4 none: x R");
    hall.heir("/").tell(&[("30 0 +P1:500", "1 none: x ?"), ("40 1 +R1:500", "2 none: x R")]);
    hall.hear(0, "-", "5 none: P R");
    hall.hear(1, "-", "6 0@1: P R");
    hall.heir("/").tell(&[("30 0 +P1:500", "1 none: P ?"), ("40 1 +R1:500", "2 0@1: P R")]);
}

#[test]
fn a_handover_that_begins_before_the_servers_are_asked() {
    let mut hall = Hall::new();
    hall.hear(0, "a", "0 none: ? ?");
    hall.board.hand_over(true);
    hall.tell(&[
        ("10 0 +P1:500", "1 none: P ?"),
        ("20 1 +R1:500", "2 handover of 0: P R"),
        ("30 1 P2:500", "3 none: x x"),
    ]);
    hall.hear(0, "b", "4 1@2: x P");
    hall.board.hand_over(false);
    assert_eq!(show(&hall.board.current(), hall.start), "4 1@2: x P");
}

#[test]
fn freshness_is_the_samples_moment() {
    check(
        2,
        &[
            ("10 0 +P1:500", "1 none: P ?"),
            ("12 1 +R1:500", "2 0@1: P R"),
            // The primary's first answer came before there was a writer to sample.
            ("20 0 P1:500", "2 0@1: P 20"),
            ("30 0 P1:600", "2 0@1: P 20"),
            ("32 1 R1:599", "2 0@1: P 20"),
            ("42 1 R1:600", "2 0@1: P 30"),
            // An idle primary: each sample counts for what the replica had shown before.
            ("50 0 P1:600", "2 0@1: P 50"),
            ("60 0 P1:700", "2 0@1: P 50"),
            ("62 1 R1:650", "2 0@1: P 50"),
        ],
    );
}

/// Where it is the primary that stands still, the replica has everything; where the replica does, its age tells.
#[test]
fn a_replica_that_receives_nothing_serves_nobody_who_minds() {
    let serves = |steps: &[(&str, &str)], ms: u64| {
        let (start, mut board) = (Instant::now(), Board::new(&Hall::servers(), &[]));
        tell(&mut board, start, steps);
        let max_lag = Some(Duration::from_millis(100));
        let freshness = Freshness { now: start + Duration::from_millis(ms), max_lag, not_before: None };
        freshness.allows(&board.current().nodes[1])
    };
    let known = [("10 1 +R1:500", "1 none: ? R"), ("20 0 +P1:500", "2 0@1: P 20")];
    let idle = [&known[..], &[("300 0 P1:500", "2 0@1: P 300"), ("310 1 R1:500", "2 0@1: P 300")]].concat();
    let behind = [&known[..], &[("300 0 P1:600", "2 0@1: P 20"), ("310 1 R1:500", "2 0@1: P 20")]].concat();
    assert!(serves(&known, 120) && !serves(&known, 121));
    assert!(serves(&idle, 320) && !serves(&behind, 320));
    // Nor where nobody can say how far the primary has got.
    let alone = [&known[..], &[("30 0 !", "3 none: - 20"), ("310 1 R1:500", "3 none: - 20")]].concat();
    assert!(!serves(&alone, 320));
}

#[test]
fn lag_figures() {
    let lags = |snapshot: &Snapshot| snapshot.nodes.iter().map(|node| node.figures.replay_lag_bytes).collect();
    let steps = [("1 1 +R1:500", "1 none: ? R"), ("2 0 +P1:700", "2 0@1: P R")];
    let bytes: Vec<_> = lags(&check(2, &steps));
    assert_eq!(bytes, [None, Some(200)]);
    // Behind nothing but a page's header.
    let steps = [("1 1 +R1:16384", "1 none: ? R"), ("2 0 +P1:16408", "2 0@1: P 2")];
    let bytes: Vec<_> = lags(&check(2, &steps));
    assert_eq!(bytes, [None, Some(0)]);
}

#[test]
fn a_connection_that_ends_voids_freshness_at_once() {
    check(
        2,
        &[
            ("10 1 +R1:500", "1 none: ? R"),
            ("20 0 +P1:500", "2 0@1: P 20"),
            ("30 1 hup", "2 0@1: P R"),
            // It has crashed and shows less than before: what the old samples say of it now counts.
            ("40 1 +R1:400", "2 0@1: P R"),
            ("50 0 P1:500", "2 0@1: P R"),
            ("60 1 R1:500", "2 0@1: P 50"),
            ("70 1 !", "3 0@1: P -"),
            ("80 1 ~", "3 0@1: P -"),
            ("90 1 +R1:500", "4 0@1: P 50"),
            // Even where the end of the old connection had gone unnoticed.
            ("92 1 +R1:400", "4 0@1: P R"),
        ],
    );
}

#[test]
fn a_primary_that_restarts() {
    check(
        2,
        &[
            ("10 1 +R1:500", "1 none: ? R"),
            ("20 0 +P1:500", "2 0@1: P 20"),
            ("30 0 P1:600", "2 0@1: P 20"),
            ("40 0 hup", "2 0@1: P 20"),
            ("41 0 !", "3 none: - 20"),
            // What it had written before it died still counts when it arrives.
            ("50 1 R1:600", "3 none: - 30"),
            // It lost its unflushed end and writes other records there.
            ("60 0 +P1:550", "4 0@1: P diverged"),
        ],
    );
    check(
        2,
        &[
            ("10 1 +R1:500", "1 none: ? R"),
            ("20 0 +P1:500", "2 0@1: P 20"),
            ("30 0 P1:600", "2 0@1: P 20"),
            ("40 0 +P1:520", "2 0@1: P 20"),
            ("50 1 R1:519", "2 0@1: P 20"),
            ("60 1 R1:520", "2 0@1: P 40"),
        ],
    );
}

#[test]
fn a_new_epoch_begins_with_nothing_proven() {
    check(
        3,
        &[
            ("10 1 +R1:500", "1 none: ? R ?"),
            ("11 2 +R1:500", "2 none: ? R R"),
            ("20 0 +P1:500", "3 0@1: P 20 20"),
            ("30 0 !", "4 none: - 20 20"),
            ("40 1 P2:600", "5 1@2: - P R"),
            // Far beyond the new primary's position, but on the old timeline.
            ("50 2 R1:900", "5 1@2: - P R"),
            ("60 1 P2:700", "5 1@2: - P R"),
            // On the new timeline, but before its first sample; what the old epoch's samples say does not count.
            ("65 2 +R2:590", "6 1@2: - P R"),
            ("70 2 R2:650", "6 1@2: - P 40"),
            ("80 2 R2:700", "6 1@2: - P 60"),
            // The old one is back, as a primary and then as a replica.
            ("90 0 +P1:800", "7 1@2: x P 60"),
            ("95 0 +R1:800", "8 1@2: R P 60"),
            ("99 0 R2:700", "9 1@2: 60 P 60"),
        ],
    );
}

#[test]
fn a_deposed_primary_is_not_sampled() {
    check(
        3,
        &[
            ("10 1 +R1:500", "1 none: ? R ?"),
            ("11 2 +R1:500", "2 none: ? R R"),
            ("20 0 +P1:500", "3 0@1: P 20 20"),
            ("30 1 R2:500", "4 none: x 20 20"),
            ("40 0 P1:500", "4 none: x 20 20"),
            ("41 2 R1:500", "4 none: x 20 20"),
        ],
    );
}

#[test]
fn nothing_is_proven_in_a_split_brain() {
    check(
        3,
        &[
            ("10 1 +R2:500", "1 none: ? R ?"),
            ("11 2 +R2:500", "2 none: ? R R"),
            ("20 0 +P2:500", "3 0@2: P 20 20"),
            ("30 0 P2:600", "3 0@2: P 20 20"),
            ("40 1 +P2:600", "4 split: P P 20"),
            ("50 2 R2:600", "4 split: P P 20"),
            ("60 0 P2:600", "4 split: P P 20"),
        ],
    );
}

#[test]
fn a_replica_ahead_of_its_primary_has_another_history() {
    check(
        2,
        &[
            ("10 1 +R1:600", "1 none: ? R"),
            // It was asked before the primary, and yet has more.
            ("20 0 +P1:500", "2 0@1: P diverged"),
            ("30 0 P1:700", "2 0@1: P diverged"),
            ("40 1 R1:700", "2 0@1: P diverged"),
            // Rewound, on a new connection.
            ("50 1 +R1:650", "3 0@1: P 20"),
        ],
    );
    check(
        2,
        &[
            ("10 0 +P1:500", "1 none: P ?"),
            ("12 1 +R1:400", "2 0@1: P R"),
            ("20 0 P1:500", "2 0@1: P R"),
            // It was asked after the primary, which has gone on.
            ("30 1 R1:600", "2 0@1: P 20"),
            ("25 0 P1:550", "2 0@1: P 25"),
            ("40 0 P1:600", "2 0@1: P 40"),
        ],
    );
}

#[test]
fn strangers_prove_nothing() {
    check(
        3,
        &[
            ("10 1 +R1:500", "1 none: ? R ?"),
            ("11 2 +xR1:900", "2 none: ? ? ?"),
            ("20 0 +P1:500", "3 0@1: P 20 x"),
            ("30 2 xR1:900", "3 0@1: P 20 x"),
        ],
    );
}

#[test]
fn a_rejected_probe() {
    check(
        2,
        &[
            ("10 1 +R1:500", "1 none: ? R"),
            ("20 0 +P1:500", "2 0@1: P 20"),
            ("30 0 %", "2 0@1: P 20"),
            ("40 1 %", "3 0@1: P -"),
            ("50 0 +P1:500", "3 0@1: P -"),
        ],
    );
}
