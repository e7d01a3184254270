//! What all servers said → who the writer is, and each node's standing. The rules of the house, as one pure function.
//!
//! It compares claims; it does not probe, keep LSNs, or judge freshness. The rules:
//!
//! 1. **Ours** is the cluster whose system identifier is named, by the configuration or by the cluster manager; others are fenced. Where none
//!    is named, it is the one that was written to before, for as long as any node carries it, lost ones by what they last said; before
//!    that, the one that most nodes carry, and on a tie the one of the leader key's holder, or nobody's. The one written to may have been
//!    a stranger's that happened to be alone: so where more nodes carry another, and most of all did not carry ours while it was written
//!    to, nobody is the writer. Not one of two clusters is written to after the other.
//! 2. **Nobody is the writer before every node has been asked once**, so that a deposed primary that happens to answer
//!    first after our start gets no write.
//! 3. **The newest timeline** is the highest that any of our nodes ever showed, replicas included: a replica on
//!    timeline 3 proves that somebody was promoted. A primary of an older timeline is fenced, also while the newer
//!    one is out of reach. Timelines only grow, so this holds for as long as the program runs: a watcher that takes another's
//!    place takes over what that one knew.
//! 4. **A lost primary's claim** depends on how it was lost. *Refused* (nobody listens, or the postmaster says that it
//!    is starting or stopping) ends the claim: such a server writes nothing. *Silent* (no answer within the probe's
//!    timeout on the old connection and on a new one) means that it gets no writes, but it may be alive behind a
//!    broken network, so its claim still contends with another of the same timeline. *Rejected* (it answers, but will
//!    not have the probe: `too_many_connections`, a changed password) leaves the claim as it is: it is alive, and
//!    taking the writes away would turn a full server into an outage.
//! 5. **Two claims on the newest timeline are a split brain**: no writer until one is gone. A single claim that is not
//!    silent is the writer.
//!
//! 6. **The leader key**, where a cluster manager is asked and answers: a claim without it is fenced, and nobody is the writer while nobody
//!    holds it. With it a claim counts only as the others say, so the two must agree. A newer timeline that nobody shows any
//!    more, and that its leader does not follow, was a promotion that the cluster manager has taken back: it is forgotten, if the leader
//!    answers and claims to be a primary. A cluster manager that does not answer is as if there were none; but until it has answered or
//!    failed once, nobody is the writer: a deposed primary's own word may be all that has been heard so far.
//!
//! A single missed probe never gets here: the prober tries a second connection before it calls a server lost.

use crate::dcs::Word;
use crate::snapshot::{Epoch, Fence, NoPrimary, NodeId, Writer};

/// One node as seen by its last probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// Not asked yet; with what it said to the watcher before this one.
    Never(Option<Identity>),
    /// It answered.
    Answered(Identity),
    /// It did not; with what it last said, if it ever answered.
    Lost(LossKind, Option<Identity>),
}

/// What a node says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) system_identifier: u64,
    /// When it was started, in microseconds since 1970: no two servers of a cluster share that.
    pub(crate) started: u64,
    pub(crate) timeline: u32,
    pub(crate) claims_primary: bool,
}

/// How strong the evidence is that a node which did not answer is not writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LossKind {
    /// Nobody serves there.
    Refused,
    /// No answer; it may be alive.
    Silent,
    /// It answers, but does not let the probe in.
    Rejected,
}

/// What must outlive one round, and the watcher too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// Our system identifier and its newest timeline.
    ours: Option<(u64, u32)>,
    /// The system identifier that was written to.
    written: Option<Written>,
    /// The last epoch that was known.
    last: Option<Epoch>,
}

/// What was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    system: u64,
    /// It was named, or most of the nodes carried it.
    proven: bool,
}

/// Which cluster is ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Nobody has ever answered.
    Unknown,
    /// This one's.
    Ours(u64),
    /// It was this one's, and more nodes carry another.
    Doubtful { written: u64, other: u64 },
    /// As many nodes carry the one as the other.
    Tied([u64; 2]),
}

/// The outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) writer: Writer,
    pub(crate) standings: Box<[Standing]>,
    pub(crate) memory: Memory,
}

/// What a node counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Unknown,
    Unreachable,
    Primary,
    Replica,
    Fenced(Fence),
}

impl Memory {
    /// The same where the nodes have other numbers; one that is gone has none.
    pub(crate) fn renumbered(self, number: impl Fn(NodeId) -> Option<NodeId>) -> Memory {
        let last = self.last.and_then(|epoch| Some(Epoch { primary: number(epoch.primary)?, ..epoch }));
        Memory { last, ..self }
    }
}

/// Applies the rules to what was seen of all nodes, in the configured order. `named`: our system identifier, where somebody says it.
pub(crate) fn combine(sights: &[Sight], word: Word, named: Option<u64>, memory: Memory) -> Verdict {
    let whose = whose(sights, word, named, memory);
    let ours = match whose {
        Whose::Ours(system) | Whose::Doubtful { written: system, .. } => Some(system),
        Whose::Unknown => memory.ours.map(|(system, _)| system),
        Whose::Tied(_) => None,
    };
    let ours = ours.map(|system| (system, newest(sights, word, system, memory)));
    let writer = match whose {
        Whose::Doubtful { written: one, other } | Whose::Tied([one, other]) if all_asked(sights) => {
            Writer::None(NoPrimary::Strangers { systems: [one, other] })
        }
        _ => writer(sights, word, ours, memory),
    };
    let (last, written) = match writer {
        Writer::Known(epoch) => {
            let system = epoch.system_identifier;
            let before = memory.written.is_some_and(|before| before.system == system && before.proven);
            let proven = before || named == Some(system) || 2 * votes(sights, system) > sights.len();
            (Some(epoch), Some(Written { system, proven }))
        }
        Writer::None(_) => (memory.last, memory.written),
    };
    let is_tied = matches!(whose, Whose::Tied(_));
    let standing = |(index, &sight)| match sight {
        Sight::Answered(_) if is_tied && all_asked(sights) => Standing::Fenced(Fence::AnySystem),
        Sight::Answered(_) if is_tied => Standing::Unknown,
        _ => standing(sight, word.denies(NodeId(index)), ours),
    };
    let standings = (0..).zip(sights).map(standing).collect();
    Verdict { writer, standings, memory: Memory { ours: ours.or(memory.ours), written, last } }
}

/// Rule 1.
fn whose(sights: &[Sight], word: Word, named: Option<u64>, memory: Memory) -> Whose {
    if let Some(system) = named {
        return Whose::Ours(system);
    }
    let mut known: Vec<u64> = sights.iter().filter_map(Sight::identity).map(|known| known.system_identifier).collect();
    let leader = word.leader().and_then(|leader| sights.get(leader.index())?.identity());
    let led = |system: u64| leader.is_some_and(|leader| leader.system_identifier == system);
    // In the configured order where nothing else tells.
    known.sort_by_key(|&system| std::cmp::Reverse((votes(sights, system), led(system))));
    let Some(&most) = known.first() else { return Whose::Unknown };
    let rival = known.iter().copied().find(|&system| system != most && votes(sights, system) == votes(sights, most));
    match memory.written.filter(|written| votes(sights, written.system) > 0) {
        Some(Written { system, proven: true }) => Whose::Ours(system),
        Some(Written { system, .. }) if votes(sights, system) == votes(sights, most) => Whose::Ours(system),
        Some(Written { system, .. }) => Whose::Doubtful { written: system, other: most },
        None if led(most) => Whose::Ours(most),
        None => rival.map_or(Whose::Ours(most), |rival| Whose::Tied([most, rival])),
    }
}

/// How many nodes carry this system identifier.
fn votes(sights: &[Sight], system: u64) -> usize {
    sights.iter().filter_map(Sight::identity).filter(|identity| identity.system_identifier == system).count()
}

/// Rule 3: the newest timeline of our system.
fn newest(sights: &[Sight], word: Word, system: u64, memory: Memory) -> u32 {
    let leads = |sight: &Sight| matches!(sight, Sight::Answered(identity) if identity.claims_primary && identity.system_identifier == system);
    let is_confirmed = matches!(word, Word::Leader(Some(leader)) if sights.get(leader.index()).is_some_and(leads));
    let remembered = memory.ours.filter(|&(before, _)| before == system && !is_confirmed).map(|(_, newest)| newest);
    let shown = |sight: &&Sight| !is_confirmed || matches!(sight, Sight::Answered(_));
    let newest = sights
        .iter()
        .filter(shown)
        .filter_map(|sight| sight.identity())
        .filter(|identity| identity.system_identifier == system)
        .map(|identity| identity.timeline)
        .chain(remembered)
        .max();
    newest.unwrap_or_default()
}

/// Rule 2.
fn all_asked(sights: &[Sight]) -> bool {
    !sights.iter().any(|sight| matches!(sight, Sight::Never(_)))
}

/// Rules 2, 4, 5 and 6.
fn writer(sights: &[Sight], word: Word, ours: Option<(u64, u32)>, memory: Memory) -> Writer {
    let not_found = Writer::None(NoPrimary::NotFound { last: memory.last });
    let Some((system_identifier, timeline)) = ours else { return not_found };
    if !all_asked(sights) {
        return not_found;
    }
    let claim = |sight: &Sight| match sight {
        Sight::Answered(identity) | Sight::Lost(LossKind::Silent | LossKind::Rejected, Some(identity)) => {
            identity.claims_primary && identity.system_identifier == system_identifier && identity.timeline == timeline
        }
        Sight::Never(_) | Sight::Lost(..) => false,
    };
    let claimants = (0..).zip(sights).filter(|(_, sight)| claim(sight)).map(|(index, _)| NodeId(index));
    let claimants = without_doubles(claimants.collect(), sights, word, memory);
    match *claimants {
        [] => not_found,
        [primary] if !word.admits(primary) => not_found,
        [primary] => match sights[primary.index()] {
            Sight::Lost(LossKind::Silent, _) => not_found,
            _ => Writer::Known(Epoch { system_identifier, timeline, primary }),
        },
        _ => Writer::None(NoPrimary::SplitBrain { timeline, claimants }),
    }
}

/// Leaves one of several names of the same server: the one that it had when it was known last, or one that may lead.
fn without_doubles(claimants: Vec<NodeId>, sights: &[Sight], word: Word, memory: Memory) -> Box<[NodeId]> {
    let started = |node: NodeId| sights[node.index()].identity().map(|identity| identity.started);
    let rank = |node: NodeId| {
        let before = memory.last.is_some_and(|epoch| epoch.primary == node);
        let answers = matches!(sights[node.index()], Sight::Answered(_));
        (!word.admits(node), !answers, !before, node)
    };
    let is_best = |node: NodeId| {
        claimants.iter().filter(|other| started(**other) == started(node)).all(|other| rank(node) <= rank(*other))
    };
    claimants.iter().copied().filter(|node| is_best(*node)).collect()
}

fn standing(sight: Sight, denied: bool, ours: Option<(u64, u32)>) -> Standing {
    let (identity, answered) = match sight {
        Sight::Never(_) => return Standing::Unknown,
        Sight::Answered(identity) => (identity, true),
        Sight::Lost(LossKind::Rejected, Some(identity)) if identity.claims_primary => (identity, false),
        Sight::Lost(..) => return Standing::Unreachable,
    };
    match ours {
        Some((ours, newest)) if identity.system_identifier == ours => {
            match (identity.claims_primary, identity.timeline < newest) {
                (true, false) if !denied || !answered => Standing::Primary,
                (true, false) => Standing::Fenced(Fence::NotLeader),
                (true, true) if answered => Standing::Fenced(Fence::OlderTimeline { newest }),
                (true, true) => Standing::Unreachable,
                (false, _) => Standing::Replica,
            }
        }
        Some((ours, _)) if answered => Standing::Fenced(Fence::OtherSystem { ours }),
        Some(_) | None => Standing::Unreachable,
    }
}

impl Sight {
    /// What the node said of itself, now or when it last answered.
    pub(crate) fn identity(&self) -> Option<Identity> {
        match *self {
            Sight::Answered(identity) => Some(identity),
            Sight::Never(identity) | Sight::Lost(_, identity) => identity,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    /// The next moment at which a server is started that is not named.
    static UNIQUE: AtomicU64 = AtomicU64::new(1000);

    /// A sight at a glance: `?` never asked; `P1` a primary on timeline 1, `R1` a replica; a suffix says how it was
    /// lost since (`!` refused, `~` silent, `%` rejected); `!`, `~`, `%` alone never answered; a leading `x` is
    /// another system identifier; `P1@5` was started at that moment, and without one at a moment of its own.
    fn sight(text: &str) -> Sight {
        let kind = match text.chars().last() {
            Some('!') => Some(LossKind::Refused),
            Some('~') => Some(LossKind::Silent),
            Some('%') => Some(LossKind::Rejected),
            _ => None,
        };
        if text == "?" {
            return Sight::Never(None);
        }
        let claim = text.trim_end_matches(['!', '~', '%']);
        let (system_identifier, claim) = match claim.strip_prefix('x') {
            Some(rest) => (8, rest),
            None => (7, claim),
        };
        let (claim, started) = match claim.split_once('@') {
            Some((claim, started)) => (claim, started.parse().unwrap()),
            None => (claim, UNIQUE.fetch_add(1, Ordering::Relaxed)),
        };
        let identity = (!claim.is_empty()).then(|| Identity {
            system_identifier,
            started,
            timeline: claim[1..].parse().unwrap(),
            claims_primary: claim.starts_with('P'),
        });
        match (kind, identity) {
            (Some(kind), identity) => Sight::Lost(kind, identity),
            (None, Some(identity)) => Sight::Answered(identity),
            (None, None) => unreachable!("a sight without a suffix has an identity"),
        }
    }

    fn show(verdict: &Verdict) -> String {
        let standings: Vec<String> = verdict
            .standings
            .iter()
            .map(|standing| match standing {
                Standing::Unknown => "?".to_owned(),
                Standing::Unreachable => "-".to_owned(),
                Standing::Primary => "P".to_owned(),
                Standing::Replica => "R".to_owned(),
                Standing::Fenced(Fence::OlderTimeline { newest }) => format!("<{newest}"),
                Standing::Fenced(Fence::OtherSystem { .. }) => "x".to_owned(),
                Standing::Fenced(Fence::NotLeader) => "k".to_owned(),
                Standing::Fenced(Fence::Diverged) => "d".to_owned(),
                Standing::Fenced(Fence::AnySystem) => "t".to_owned(),
            })
            .collect();
        let writer = match &verdict.writer {
            Writer::Known(epoch) => format!("{}@{}", epoch.primary, epoch.timeline),
            Writer::None(NoPrimary::NotFound { .. } | NoPrimary::Handover { .. }) => "none".to_owned(),
            Writer::None(NoPrimary::SplitBrain { claimants, .. }) => format!("split{}", claimants.len()),
            Writer::None(NoPrimary::Strangers { .. }) => "strangers".to_owned(),
        };
        format!("{writer}: {}", standings.join(" "))
    }

    /// Rounds, one after the other with the memory kept, and what each comes to. A `*` in front of a sight is the leader key, a round
    /// that begins with `@` is one in which a cluster manager answers, and with `@?` one in which none has yet. In one that begins with `=`
    /// our system identifier is named.
    fn check(rounds: &[(&str, &str)]) {
        let mut memory = Memory::default();
        for (round, (sights, expected)) in rounds.iter().enumerate() {
            let (named, sights) = match sights.strip_prefix("= ") {
                Some(sights) => (Some(7), sights),
                None => (None, *sights),
            };
            let (word, seen) = match sights.split_once(' ') {
                Some(("@?", seen)) => (Word::Pending, seen),
                Some(("@", seen)) => {
                    let leader = seen.split(' ').position(|sight| sight.starts_with('*'));
                    (Word::Leader(leader.map(|at| NodeId(at as u16))), seen)
                }
                _ => (Word::Unheard, sights),
            };
            let seen: Vec<Sight> = seen.split(' ').map(|text| sight(text.trim_start_matches('*'))).collect();
            let verdict = combine(&seen, word, named, memory);
            assert_eq!(show(&verdict), *expected, "round {round}: {sights}");
            memory = verdict.memory;
        }
    }

    #[test]
    fn quiet_days() {
        check(&[("P1 R1 R1", "0@1: P R R")]);
        check(&[("R4 P4", "1@4: R P")]);
        check(&[("P1", "0@1: P")]);
        check(&[("R1 R1", "none: R R")]);
        check(&[("! ~ %", "none: - - -")]);
    }

    #[test]
    fn a_cluster_manager_has_a_say() {
        check(&[("@ *P1 R1 R1", "0@1: P R R")]);
        // The key has expired, or somebody else has it: nothing is written, though the old primary knows of nothing.
        check(&[
            ("@ *P1 R1", "0@1: P R"),
            ("@ P1 R1", "none: k R"),
            ("@ P1 *R1", "none: k R"),
            ("@ P1 *P2", "1@2: <2 P"),
        ]);
        // The new one has been promoted and has no key yet, or has it and is not promoted.
        check(&[("@ *P1 P2", "none: <2 k"), ("@ P1 *P2", "1@2: <2 P")]);
        // Somebody was promoted by hand, and the cluster manager puts it back: then the leader's timeline is the newest.
        check(&[
            ("@ *P1 R1", "0@1: P R"),
            ("@ *P1 P2", "none: <2 k"),
            ("@ *P1 P2!", "0@1: P -"),
            ("@ *P1 R1", "0@1: P R"),
            ("P1 R1", "0@1: P R"),
        ]);
        // Two of one timeline are a split brain whoever has the key.
        check(&[("@ *P1 P1", "split2: P k")]);
        // Nobody answers any more: the servers' own words count.
        check(&[("@ *P1 R1", "0@1: P R"), ("P1 R1", "0@1: P R"), ("P1 P2", "1@2: <2 P")]);
        // A leader of another cluster, or one that is away, proves nothing.
        check(&[("@ *xP1 P1 R1", "none: x k R")]);
        check(&[("@ *P1~ R1", "none: - R"), ("@ *P1~ R2", "none: - R")]);
    }

    #[test]
    fn several_names_of_one_server() {
        check(&[("P1@5 P1@5 R1", "0@1: P P R")]);
        // Another is another, though it says the same in all else.
        check(&[("P1@5 P1@5 P1@6", "split2: P P P")]);
        // Where the manager names it, it is the leader's address that counts; and one that it had goes on.
        check(&[("@ P1@5 *P1@5 R1", "1@1: k P R"), ("P1@5 P1@5 R1", "1@1: P P R")]);
        // One of the names leads nowhere any more.
        check(&[("P1@5 P1@5", "0@1: P P"), ("P1@5~ P1@5", "1@1: - P"), ("P1@5! P1@5", "1@1: - P")]);
        check(&[("P1@5~ P1@5~", "none: - -")]);
        // It has been restarted and is reached by one of them so far.
        check(&[("P1@5 P1@5", "0@1: P P"), ("P1@5% P1@7", "split2: P P"), ("P1@7 P1@7", "0@1: P P")]);
    }

    #[test]
    fn a_cluster_manager_is_heard_first() {
        // It has been asked and may yet say that somebody else leads; whoever claims it is not fenced for that.
        check(&[("@? P1 R1", "none: P R"), ("@ P1 *R1", "none: k R")]);
        check(&[("@? P1 R1", "none: P R"), ("@ *P1 R1", "0@1: P R")]);
        check(&[("@? P1 P2", "none: <2 P"), ("@? P2 P2", "split2: P P")]);
        // It does not answer.
        check(&[("@? P1 R1", "none: P R"), ("P1 R1", "0@1: P R")]);
    }

    #[test]
    fn everyone_is_asked_first() {
        // The deposed primary answers first; the new one is still being asked.
        check(&[("P1 ? ?", "none: P ? ?"), ("P1 P2 ?", "none: <2 P ?"), ("P1 P2 !", "1@2: <2 P -")]);
        check(&[("? ?", "none: ? ?")]);
    }

    #[test]
    fn failover() {
        check(&[
            ("P1 R1 R1", "0@1: P R R"),
            ("P1! R1 R1", "none: - R R"),
            ("P1! P2 R1", "1@2: - P R"),
            ("P1 P2 R2", "1@2: <2 P R"),
            ("R2 P2 R2", "1@2: R P R"),
        ]);
    }

    #[test]
    fn promotion_beside_a_living_primary() {
        check(&[("P1 R1", "0@1: P R"), ("P1 P2", "1@2: <2 P")]);
        // A silent or full primary of an older timeline does not hold the new one up.
        check(&[("P1~ P2", "1@2: - P")]);
        check(&[("P1% P2", "1@2: - P")]);
        check(&[("~ P2", "1@2: - P")]);
    }

    #[test]
    fn a_lost_primary() {
        check(&[("P1 R1", "0@1: P R"), ("P1~ R1", "none: - R"), ("P1 R1", "0@1: P R")]);
        check(&[("P1! R1", "none: - R")]);
        check(&[("P1% R1", "0@1: P R")]);
        // Rejected from the start: nobody knows what it is.
        check(&[("% R1", "none: - R")]);
        // A replica that rejects the probe is no use for reads.
        check(&[("P1 R1%", "0@1: P -")]);
    }

    #[test]
    fn a_deposed_primary_while_the_new_one_is_away() {
        check(&[("P1 P2", "1@2: <2 P"), ("P1 P2~", "none: <2 -"), ("P1 P2!", "none: <2 -")]);
        // A replica's word is enough.
        check(&[("P1 R2", "none: <2 R")]);
        check(&[("P1 R2!", "none: <2 -")]);
        // The memory outlives the node's own: it is now seen as another role of the old timeline.
        check(&[("R1 P2", "1@2: R P"), ("P1 R1", "none: <2 R")]);
    }

    #[test]
    fn split_brain() {
        check(&[("P2 P2 R2", "split2: P P R"), ("P2 P2! R2", "0@2: P - R")]);
        check(&[("P2 P2", "split2: P P"), ("P2 P2~", "split2: P -"), ("P2 R2", "0@2: P R")]);
        check(&[("P2 P2%", "split2: P P")]);
        check(&[("P2 P2 P2 P1", "split3: P P P <2")]);
        check(&[("P2 P2", "split2: P P"), ("P2 P3", "1@3: <3 P")]);
        // The same timeline of different systems is no contest.
        check(&[("P2 R2 xP2", "0@2: P R x")]);
    }

    #[test]
    fn another_system() {
        check(&[("P1 R1 xR1", "0@1: P R x")]);
        check(&[("xP9 P1 R1", "1@1: x P R")]);
        // Lost nodes go on voting by what they last said: a stranger that alone is reachable gets nothing.
        check(&[("P1! R1! xP1", "none: - - x")]);
        // Whoever is written to stays it on a tie, and is the only one for as long as nobody else has answered.
        check(&[("! xP1", "1@1: - P"), ("P1 xP1", "1@1: x P")]);
        check(&[("xP5 ! !", "0@5: P - -"), ("xP5 P1 !", "0@5: P x -")]);
        // On a tie before that, whoever has the leader key is not the stranger; without one, nobody knows.
        check(&[("@ *P1 xP1", "0@1: P x")]);
        check(&[("@ *xP1 P1", "0@1: P x")]);
        check(&[("@ P1 xP1", "strangers: t t")]);
        check(&[("P1 xP1", "strangers: t t"), ("P1 xP1!", "strangers: t -"), ("P1 P1", "split2: P P")]);
        check(&[("P1 ?", "none: P ?"), ("P1 xR1", "strangers: t t"), ("P1 R1", "0@1: P R")]);
        // Who answers first is nobody's.
        check(&[("xP1 ? ?", "none: P ? ?"), ("xP1 P1 ?", "none: ? ? ?"), ("xP1 P1 R1", "1@1: x P R")]);
        check(&[("xP1 P1 ?", "none: ? ? ?"), ("xP1 P1 !", "strangers: t t -"), ("xP1 P1 R1", "1@1: x P R")]);
    }

    #[test]
    fn a_system_that_was_written_to() {
        // A stranger that was alone: the others have been another cluster all the time, or are another one now.
        check(&[
            ("xP5 ! !", "0@5: P - -"),
            ("xP5 P1 R1", "strangers: P x x"),
            ("xP5! P1 R1", "strangers: - x x"),
            ("xP5 P1 !", "0@5: P x -"),
            ("= xP5 P1 R1", "1@1: x P R"),
            ("xP5 P1 R1", "1@1: x P R"),
        ]);
        check(&[("xP5 ! !", "0@5: P - -"), ("xP5 P1 R1", "strangers: P x x"), ("P1 P2 R2", "1@2: <2 P R")]);
        // One that most of the nodes carried is not outvoted later.
        check(&[
            ("P1 R1 R1", "0@1: P R R"),
            ("P1 xP1 R1", "0@1: P x R"),
            ("P1 xP1 xR1", "0@1: P x x"),
            ("P1! xP1 xR1", "none: - x x"),
            ("P1 xP1 xR1", "0@1: P x x"),
        ]);
        check(&[("P1 R1 !", "0@1: P R -"), ("P1 xP1 xR1", "0@1: P x x")]);
        // When nobody carries it any more, it is no more.
        check(&[("P1 R1", "0@1: P R"), ("P1! xP1", "none: - x"), ("xR1 xP1", "1@1: R P")]);
        check(&[("P1", "0@1: P"), ("!", "none: -"), ("xP1", "0@1: P")]);
    }

    #[test]
    fn a_system_that_is_named() {
        check(&[("= P1 R1 xR1", "0@1: P R x")]);
        // Nothing else counts.
        check(&[("= xP5 ! !", "none: x - -"), ("= xP5 xR5 P1", "2@1: x x P")]);
        check(&[("= xP5 P1", "1@1: x P"), ("= xP5 P1!", "none: x -")]);
        check(&[("= xP1", "none: x")]);
        check(&[("= @ *xP1 P1", "none: x k"), ("= @ xP1 *P1", "1@1: x P")]);
        // What was written to before it was named is not, any more.
        check(&[("P1 R1", "0@1: P R"), ("= xP1 xR1", "none: x x")]);
        check(&[("xP1 xR1", "0@1: P R"), ("= xP1 P1", "1@1: x P"), ("xP1 P1", "1@1: x P")]);
        // The newest timeline of before counts, as ever.
        check(&[("= P1 P2", "1@2: <2 P"), ("= P1 xP9", "none: <2 x"), ("= P1 P2", "1@2: <2 P")]);
    }
}
