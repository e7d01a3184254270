//! The one owner of everything learned: takes the probers' reports, keeps the state, makes the snapshots.
//!
//! Pure: it has no socket and no clock; reports carry their moments. Who the writer is, `combine` decides; what it
//! adds is the proof of freshness. That proof has three conditions besides the LSN, each for a way to be wrong:
//!
//! - The replica follows the writer's timeline. Positions of different timelines cannot be compared: a replica that
//!   stayed on the old one may have replayed *more* than the new primary's LSN. So a new epoch voids all samples and
//!   all freshness.
//! - The proof was made on the connection that is still open. A standby that crashed restarts from its last
//!   restartpoint and may let readers in with less than it had shown before. All its connections are gone then, so
//!   the end of the probe's connection voids its freshness at once.
//! - It never showed more than the primary had written at a later moment. If it did, its timeline is another one that
//!   happens to have the same number (two servers promoted apart), and no LSN of it means anything.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::combine::{Identity, LossKind, Memory, Sight, Standing, combine};
use crate::dcs::{Announcement, Hearing, Word};
use crate::handover::{Handovers, Judgement};
use crate::history::History;
use crate::lsn::WalShape;
use crate::snapshot::{Epoch, Fence, Figures, Fork, NoPrimary, Node, NodeId, NodeState, Snapshot, Writer};
use crate::sources::SourceKind;

/// All that is known.
#[derive(Debug)]
pub(crate) struct Board {
    nodes: Box<[Entry]>,
    memory: Memory,
    /// The cluster managers, the most trustworthy first, and what each has said last.
    managers: Box<[(SourceKind, Hearing)]>,
    /// Our system identifier, if the configuration says it.
    stated: Option<u64>,
    /// What a manager has said last that it is. It stays while none answers.
    told: Option<u64>,
    handovers: Handovers,
    /// Who is handing over.
    handover: Option<NodeId>,
    /// The epoch that the samples and all freshness belong to. It stays while there is no writer, so that replicas
    /// keep what they have proven.
    epoch: Option<Epoch>,
    /// Samples of the epoch's primary.
    history: History,
    /// The newest sample, for the lag figures.
    inserted: Option<u64>,
    current: Arc<Snapshot>,
}

/// What a prober tells.
#[derive(Clone, Debug)]
pub(crate) enum Report {
    /// A probe was answered.
    Answered(Answer),
    /// A probe failed, the second attempt included.
    Lost(Lost),
    /// The connection ended between two probes; the next probe is on its way.
    HungUp,
}

/// A server's answer to a probe.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// The moment before the question was sent.
    pub(crate) asked: Instant,
    /// The moment after the answer was read.
    pub(crate) answered: Instant,
    /// It is the first answer of its connection.
    pub(crate) first: bool,
    pub(crate) system_identifier: u64,
    /// When it was started, in microseconds since 1970.
    pub(crate) started: u64,
    /// Where it is, if its host is a name.
    pub(crate) address: Option<IpAddr>,
    pub(crate) timeline: u32,
    pub(crate) role: Role,
}

/// What a server does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Primary { insert_lsn: u64, shape: WalShape, fork: Option<Fork> },
    Replica { replay_lsn: u64, receive_lsn: u64, streaming: bool },
}

/// A probe that failed.
#[derive(Clone, Debug)]
pub(crate) struct Lost {
    pub(crate) asked: Instant,
    pub(crate) at: Instant,
    pub(crate) kind: LossKind,
    pub(crate) reason: Arc<str>,
}

/// One node's part of the state.
#[derive(Debug)]
struct Entry {
    host: Arc<str>,
    port: u16,
    contact: Contact,
    /// The last answer, also of a node lost since.
    last: Option<Answer>,
    proof: Proof,
    figures: Figures,
}

#[derive(Debug)]
enum Contact {
    Never,
    Answering,
    Lost { since: Instant, last: Lost },
}

/// What has been proven of a replica in this epoch on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    Nothing,
    FreshAsOf {
        fresh: Instant,
        /// The answer by which it was first proven.
        since: Instant,
    },
    Diverged,
}

impl Board {
    /// Nothing is known of these servers yet, nor what these managers say.
    pub(crate) fn new(servers: &[(String, u16)], managers: &[SourceKind]) -> Board {
        let nodes: Box<[Entry]> = servers
            .iter()
            .map(|(host, port)| Entry {
                host: host.as_str().into(),
                port: *port,
                contact: Contact::Never,
                last: None,
                proof: Proof::Nothing,
                figures: Figures::default(),
            })
            .collect();
        let snapshot = Snapshot {
            nodes: (0..).zip(&nodes).map(|(index, entry)| entry.node(NodeId(index), Standing::Unknown)).collect(),
            writer: Writer::None(NoPrimary::NotFound { last: None }),
            version: 0,
        };
        Board {
            nodes,
            memory: Memory::default(),
            managers: managers.iter().map(|manager| (manager.clone(), Hearing::default())).collect(),
            stated: None,
            told: None,
            handovers: Handovers::default(),
            handover: None,
            epoch: None,
            history: History::default(),
            inserted: None,
            current: Arc::new(snapshot),
        }
    }

    /// The same where our system identifier is stated.
    pub(crate) fn of_system(self, stated: Option<u64>) -> Board {
        Board { stated, ..self }
    }

    /// The board of a watcher that takes this one's place, of these servers: each has to be asked anew, but what it has said last still counts
    /// if it does not answer, and what was proven of our cluster stays proven. What a manager has said counts until it says something else.
    pub(crate) fn heir(&self, servers: &[(String, u16)], managers: &[SourceKind]) -> Board {
        let mut heir = Board::new(servers, managers);
        heir.handovers = self.handovers;
        heir.told = self.told.filter(|_| !managers.is_empty());
        for (manager, said) in &mut heir.managers {
            let known = self.managers.iter().find(|(known, _)| known == manager);
            *said = known.map_or(Hearing::Pending, |(_, said)| said.clone());
        }
        for entry in &mut heir.nodes {
            let known = self.nodes.iter().find(|known| known.is_at(&entry.host, entry.port));
            entry.last = known.and_then(|known| known.last.clone());
        }
        let number = |node: NodeId| {
            let old = &self.nodes[node.index()];
            (0..).map(NodeId).zip(&heir.nodes).find(|(_, new)| new.is_at(&old.host, old.port)).map(|(id, _)| id)
        };
        heir.memory = self.memory.renumbered(number);
        heir.handover = self.handover.and_then(number);
        heir
    }

    /// The newest snapshot.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current)
    }

    /// Takes in a report and makes the next snapshot.
    pub(crate) fn observe(&mut self, id: NodeId, report: Report) {
        let answered = matches!(report, Report::Answered(_));
        self.nodes[id.index()].note(report);
        self.conclude(answered.then_some(id));
    }

    /// Takes in what the cluster manager of this place says, nothing when it does not answer, and makes the next snapshot.
    pub(crate) fn hear(&mut self, place: usize, said: Option<Announcement>) {
        self.managers[place].1 = said.map_or(Hearing::Silent, Hearing::Heard);
        self.told = self.heard().and_then(|heard| heard.system_identifier).or(self.told);
        self.conclude(None);
    }

    /// What counts of all that the managers have said.
    pub(crate) fn heard(&self) -> Option<&Announcement> {
        match self.hearing() {
            Hearing::Heard(announcement) => Some(announcement),
            Hearing::Pending | Hearing::Silent => None,
        }
    }

    /// Whether writes are to wait for a handover that is announced or planned, and when that has to be asked again at the latest.
    pub(crate) fn judge_handover(&mut self, now: Instant, wall: SystemTime) -> Judgement {
        let mut handovers = self.handovers;
        let judgement = handovers.judge(self.heard(), now, wall);
        self.handovers = handovers;
        judgement
    }

    /// The first manager that answers counts, or that may yet answer.
    fn hearing(&self) -> &Hearing {
        let mut hearings = self.managers.iter().map(|(_, said)| said);
        hearings.find(|said| **said != Hearing::Silent).unwrap_or(&Hearing::Silent)
    }

    fn word(&self) -> Word {
        match self.hearing() {
            Hearing::Pending => Word::Pending,
            Hearing::Silent => Word::Unheard,
            Hearing::Heard(announcement) => {
                announcement.word(self.nodes.iter().map(|entry| (&*entry.host, entry.port)))
            }
        }
    }

    /// Whether somebody is handing over.
    pub(crate) fn hands_over(&self) -> bool {
        self.handover.is_some()
    }

    /// A handover begins, or is over, whatever has come of it: meanwhile nothing is begun on the primary.
    pub(crate) fn hand_over(&mut self, begins: bool) {
        self.handover = match &self.current.writer {
            Writer::Known(epoch) if begins => Some(epoch.primary),
            // Whoever leads will be the primary, once the servers have been asked.
            _ => self.handover.or(self.word().leader()).filter(|_| begins),
        };
        self.conclude(None);
    }

    /// `answered`: who has just answered a probe.
    fn conclude(&mut self, answered: Option<NodeId>) {
        let sights: Vec<Sight> = self.nodes.iter().map(Entry::sight).collect();
        let verdict = combine(&sights, self.word(), self.stated.or(self.told), self.memory);
        self.memory = verdict.memory;
        if let Writer::Known(epoch) = verdict.writer
            && self.epoch != Some(epoch)
        {
            self.begin(epoch);
        }
        if let Some(id) = answered
            && !matches!(verdict.writer, Writer::None(NoPrimary::SplitBrain { .. } | NoPrimary::Strangers { .. }))
        {
            self.prove(id, matches!(verdict.writer, Writer::Known(_)));
        }
        let writer = match verdict.writer {
            Writer::Known(epoch) if self.handover == Some(epoch.primary) => {
                Writer::None(NoPrimary::Handover { from: epoch.primary })
            }
            writer => writer,
        };
        self.publish(&verdict.standings, writer);
    }

    /// Nothing proven in another epoch counts in this one.
    fn begin(&mut self, epoch: Epoch) {
        self.epoch = Some(epoch);
        self.history.clear();
        self.inserted = None;
        for entry in &mut self.nodes {
            entry.proof = Proof::Nothing;
        }
    }

    /// Draws the conclusions on freshness from the last answer of this node. Without a writer no samples are taken,
    /// since whoever was it may be deposed; but a replica may still come to what the old samples say. In a split brain
    /// nothing is concluded: nobody knows whose WAL a replica has.
    fn prove(&mut self, id: NodeId, writer_known: bool) {
        let Some(epoch) = self.epoch else { return };
        let Some(answer) = self.nodes[id.index()].last.clone() else { return };
        let same_wal = answer.system_identifier == epoch.system_identifier && answer.timeline == epoch.timeline;
        match answer.role {
            Role::Primary { insert_lsn, shape, .. } if writer_known && id == epoch.primary && same_wal => {
                let end = shape.end_of_inserted(insert_lsn);
                self.history.record(end, answer.asked);
                self.inserted = Some(end);
                for entry in &mut self.nodes {
                    // A replica's earlier answer counts against this sample too: what it had replayed it still has.
                    entry.prove(epoch, &self.history);
                    entry.refute(epoch, insert_lsn, answer.asked);
                }
            }
            Role::Primary { .. } => {}
            Role::Replica { .. } => self.nodes[id.index()].prove(epoch, &self.history),
        }
        for entry in &mut self.nodes {
            entry.measure(epoch, self.inserted);
        }
    }

    fn publish(&mut self, standings: &[Standing], writer: Writer) {
        let nodes: Box<[Node]> = (0..)
            .zip(self.nodes.iter().zip(standings))
            .map(|(index, (entry, standing))| entry.node(NodeId(index), *standing))
            .collect();
        let old = &self.current;
        let news = old.writer != writer || old.nodes.iter().zip(&nodes).any(|(old, new)| new.is_news(old));
        let version = old.version + u64::from(news);
        self.current = Arc::new(Snapshot { nodes, writer, version });
    }
}

impl Entry {
    fn is_at(&self, host: &str, port: u16) -> bool {
        &*self.host == host && self.port == port
    }

    fn note(&mut self, report: Report) {
        match report {
            Report::Answered(answer) => {
                if answer.first {
                    self.proof = Proof::Nothing;
                }
                self.contact = Contact::Answering;
                self.count(answer.asked, Some(answer.answered.saturating_duration_since(answer.asked)));
                self.last = Some(answer);
            }
            Report::Lost(lost) => {
                self.proof = Proof::Nothing;
                self.count(lost.asked, None);
                let since = match self.contact {
                    Contact::Lost { since, .. } => since,
                    Contact::Never | Contact::Answering => lost.at,
                };
                self.contact = Contact::Lost { since, last: lost };
            }
            Report::HungUp => self.proof = Proof::Nothing,
        }
    }

    fn count(&mut self, asked: Instant, round_trip: Option<Duration>) {
        self.figures.probes += 1;
        self.figures.failures += u64::from(round_trip.is_none());
        self.figures.round_trip = round_trip.or(self.figures.round_trip);
        self.figures.probed_at = Some(asked);
    }

    fn sight(&self) -> Sight {
        let identity = self.last.as_ref().map(|answer| Identity {
            system_identifier: answer.system_identifier,
            started: answer.started,
            timeline: answer.timeline,
            claims_primary: matches!(answer.role, Role::Primary { .. }),
        });
        match (&self.contact, identity) {
            (Contact::Lost { last, .. }, identity) => Sight::Lost(last.kind, identity),
            (Contact::Answering, Some(identity)) => Sight::Answered(identity),
            (Contact::Never, identity) => Sight::Never(identity),
            (Contact::Answering, None) => Sight::Never(None),
        }
    }

    /// The LSN replayed, if it may be compared with the positions of this epoch.
    fn replayed(&self, epoch: Epoch) -> Option<(&Answer, u64)> {
        let answer = self.last.as_ref()?;
        match (&self.contact, answer.role) {
            (Contact::Answering, Role::Replica { replay_lsn, .. })
                if answer.system_identifier == epoch.system_identifier && answer.timeline == epoch.timeline =>
            {
                Some((answer, replay_lsn))
            }
            _ => None,
        }
    }

    fn prove(&mut self, epoch: Epoch, history: &History) {
        let Some((answer, replay_lsn)) = self.replayed(epoch) else { return };
        let Some(covered) = history.covered_by(replay_lsn) else { return };
        self.proof = match self.proof {
            Proof::Nothing => Proof::FreshAsOf { fresh: covered, since: answer.answered },
            Proof::FreshAsOf { fresh, since } => Proof::FreshAsOf { fresh: fresh.max(covered), since },
            Proof::Diverged => Proof::Diverged,
        };
    }

    /// `insert_lsn` is where the primary stood when asked at `asked`, or later.
    fn refute(&mut self, epoch: Epoch, insert_lsn: u64, asked: Instant) {
        if let Some((answer, replay_lsn)) = self.replayed(epoch)
            && answer.answered <= asked
            && replay_lsn > insert_lsn
        {
            self.proof = Proof::Diverged;
        }
    }

    fn measure(&mut self, epoch: Epoch, inserted: Option<u64>) {
        let lag = match (self.replayed(epoch), inserted) {
            (Some((Answer { role: Role::Replica { replay_lsn, receive_lsn, .. }, .. }, _)), Some(inserted)) => {
                Some((inserted.saturating_sub(*replay_lsn), inserted.saturating_sub(*receive_lsn)))
            }
            _ => None,
        };
        self.figures.replay_lag_bytes = lag.map(|(replay, _)| replay);
        self.figures.receive_lag_bytes = lag.map(|(_, receive)| receive);
    }

    fn node(&self, id: NodeId, standing: Standing) -> Node {
        let state = match (&self.last, &self.contact) {
            (Some(answer), _) if !matches!(standing, Standing::Unknown | Standing::Unreachable) => {
                self.answering(answer, standing)
            }
            (_, Contact::Lost { since, last }) => {
                let (reason, rejects) = (Arc::clone(&last.reason), last.kind == LossKind::Rejected);
                NodeState::Unreachable { since: *since, reason, rejects }
            }
            (_, Contact::Never | Contact::Answering) => NodeState::Unknown,
        };
        let serves_since = match (&state, self.proof) {
            (NodeState::Replica { .. }, Proof::FreshAsOf { since, .. }) => Some(since),
            _ => None,
        };
        let address = self.last.as_ref().and_then(|answer| answer.address);
        let host = Arc::clone(&self.host);
        Node { id, host, port: self.port, address, state, serves_since, figures: self.figures }
    }

    fn answering(&self, answer: &Answer, standing: Standing) -> NodeState {
        let Answer { timeline, system_identifier, .. } = *answer;
        let fenced = |cause| NodeState::Fenced {
            claims_primary: matches!(answer.role, Role::Primary { .. }),
            timeline,
            system_identifier,
            cause,
        };
        match (standing, answer.role, self.proof) {
            (Standing::Fenced(cause), _, _) => fenced(cause),
            (_, Role::Primary { insert_lsn, fork, .. }, _) => {
                NodeState::Primary { timeline, system_identifier, insert_lsn, fork }
            }
            (_, Role::Replica { .. }, Proof::Diverged) => fenced(Fence::Diverged),
            (_, Role::Replica { replay_lsn, streaming, .. }, proof) => NodeState::Replica {
                timeline,
                system_identifier,
                replay_lsn,
                fresh_as_of: match proof {
                    Proof::FreshAsOf { fresh, .. } => Some(fresh),
                    Proof::Nothing | Proof::Diverged => None,
                },
                streaming,
            },
        }
    }
}

impl NodeState {
    /// Whether the change to `new` is one that somebody may wait for, not just another figure.
    pub(crate) fn is_news(&self, new: &NodeState) -> bool {
        let kind = |state: &NodeState| match *state {
            NodeState::Primary { timeline, system_identifier, .. }
            | NodeState::Replica { timeline, system_identifier, .. } => Some((timeline, system_identifier, None)),
            NodeState::Fenced { timeline, system_identifier, cause, .. } => {
                Some((timeline, system_identifier, Some(cause)))
            }
            NodeState::Unknown | NodeState::Unreachable { .. } => None,
        };
        self.name() != new.name() || kind(self) != kind(new)
    }
}

#[cfg(test)]
mod tests;
