//! What a cluster manager says of the cluster: who holds the leader key, and who the members are.
//!
//! Pure: Patroni's and etcd's answers come in as text. What follows for writes is `combine`'s to say.

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use crate::snapshot::NodeId;
use crate::timestamp;

/// What may be concluded for the servers that are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Word {
    /// No cluster manager is asked, or none answers: the servers' own words are all there is.
    #[default]
    Unheard,
    /// One that counts has neither answered nor failed yet: who holds the leader key will be known soon.
    Pending,
    /// Who holds the leader key; `None` when nobody does, or somebody who is not among the servers.
    Leader(Option<NodeId>),
}

impl Word {
    /// Whether the node may be the writer.
    pub(crate) fn admits(self, node: NodeId) -> bool {
        match self {
            Word::Unheard => true,
            Word::Pending => false,
            Word::Leader(leader) => leader == Some(node),
        }
    }

    /// Whether it is known that the node is not.
    pub(crate) fn denies(self, node: NodeId) -> bool {
        matches!(self, Word::Leader(leader) if leader != Some(node))
    }

    /// Who holds the leader key.
    pub(crate) fn leader(self) -> Option<NodeId> {
        match self {
            Word::Leader(leader) => leader,
            Word::Unheard | Word::Pending => None,
        }
    }
}

/// What a cluster manager has said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hearing {
    /// It has neither answered nor failed yet.
    #[default]
    Pending,
    /// It does not answer.
    Silent,
    /// This.
    Heard(Announcement),
}

/// One answer of a cluster manager.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announcement {
    /// The member that holds the leader key, by its place in `members`.
    pub leader: Option<usize>,
    /// Everyone who has announced himself.
    pub members: Vec<Member>,
    /// The name of the member to which the leadership is being handed over, empty for any. Only etcd tells.
    pub handover: Option<String>,
    /// A handover that is to come.
    pub planned: Option<Planned>,
    /// Whether the manager keeps its hands off the cluster: what is planned does not happen then.
    pub paused: bool,
    /// The cluster's system identifier. Only etcd tells.
    pub system_identifier: Option<u64>,
}

/// A handover that is planned for a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The moment, by the clocks on the wall.
    pub at: SystemTime,
    /// The leader's name then; `None` for whoever it is.
    pub from: Option<String>,
    /// The successor's name; `None` for any.
    pub to: Option<String>,
}

/// A server as its cluster manager knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its name there.
    pub name: String,
    /// Where it is reached.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The timeline that it has last reported.
    pub timeline: Option<u32>,
    /// Where its manager is asked.
    pub api_url: Option<String>,
    /// Whether it is of use to clients at all.
    pub running: bool,
}

impl Announcement {
    /// The same for the servers that are watched, whose indexes are their ids.
    pub(crate) fn word<'a>(&self, mut servers: impl Iterator<Item = (&'a str, u16)>) -> Word {
        let leader = self.leader.map(|at| &self.members[at]);
        let is_leader = |(host, port): (&str, u16)| {
            leader.is_some_and(|leader| leader.port == port && leader.host.eq_ignore_ascii_case(host))
        };
        Word::Leader(servers.position(is_leader).and_then(|at| u16::try_from(at).ok()).map(NodeId))
    }

    /// When the leader is to hand over, if that is going to happen: Patroni forgets a plan that names another leader, and what is planned
    /// while it is paused waits until that moment has passed.
    pub(crate) fn due(&self) -> Option<SystemTime> {
        let leader = &self.members[self.leader?].name;
        let planned = self.planned.as_ref().filter(|_| !self.paused)?;
        let happens = planned.from.as_ref().is_none_or(|from| from == leader) && planned.to.as_ref() != Some(leader);
        happens.then_some(planned.at)
    }

    /// Reads the answer to Patroni's `GET /cluster`; `None` when it is none.
    pub(crate) fn from_patroni(json: &[u8]) -> Option<Announcement> {
        let answer: PatroniCluster = serde_json::from_slice(json).ok()?;
        let leads = |member: &PatroniMember| matches!(member.role.as_deref(), Some("leader" | "master"));
        let known: Vec<PatroniMember> = answer.members.into_iter().filter(|member| member.host.is_some()).collect();
        let leader = known.iter().position(leads);
        let members = known.into_iter().map(|member| Member {
            name: member.name,
            host: member.host.unwrap_or_default(),
            port: member.port.unwrap_or(POSTGRES_PORT),
            timeline: member.timeline.and_then(|timeline| timeline.as_u64()).and_then(|it| u32::try_from(it).ok()),
            api_url: member.api_url,
            running: is_running(member.state.as_deref()),
        });
        let planned = answer.scheduled_switchover.and_then(|planned| {
            let at = timestamp::read(&planned.at)?;
            Some(Planned { at, from: planned.from, to: planned.to })
        });
        let members = members.collect();
        Some(Announcement { leader, members, planned, paused: answer.pause, ..Announcement::default() })
    }

    /// Reads etcd's answer to a range request for everything below `prefix`, and its revision; `None` when it is none.
    pub(crate) fn from_etcd(json: &[u8], prefix: &str) -> Option<(Announcement, u64)> {
        let answer: EtcdRange = serde_json::from_slice(json).ok()?;
        let revision = answer.header.revision.parse().ok()?;
        let (mut announcement, mut leader) = (Announcement::default(), None);
        for pair in answer.kvs {
            let (Some(key), Some(value)) = (text(&pair.key), text(&pair.value)) else { continue };
            match key.strip_prefix(prefix).map(|rest| rest.trim_start_matches('/')) {
                Some("leader") => leader = Some(value),
                Some("failover") => (announcement.handover, announcement.planned) = handover(&value),
                // Empty while the cluster is being made.
                Some("initialize") => announcement.system_identifier = value.parse().ok(),
                Some("config") => announcement.paused = is_paused(&value),
                Some(rest) => {
                    let member = rest.strip_prefix("members/").and_then(|name| member(name, &value));
                    announcement.members.extend(member);
                }
                None => {}
            }
        }
        announcement.leader = announcement.members.iter().position(|member| Some(&member.name) == leader.as_ref());
        Some((announcement, revision))
    }
}

/// What several who know it by hearsay come to: whom most of them name, or who has got furthest among those. `None` when they do
/// not agree, or nobody has answered.
///
/// A member that is cut off from the others goes on with what it knew, so one answer against another proves nothing; but a leader of a
/// newer timeline was made after the other.
pub(crate) fn agree(answers: &[Announcement]) -> Option<Announcement> {
    let named =
        |answer: &Announcement| answer.leader.map(|at| (answer.members[at].host.clone(), answer.members[at].port));
    let votes = |answer: &Announcement| answers.iter().filter(|other| named(other) == named(answer)).count();
    let rank = |answer: &Announcement| {
        (votes(answer), answer.leader.and_then(|at| answer.members[at].timeline).unwrap_or_default())
    };
    let best = answers.iter().max_by_key(|answer| rank(answer))?;
    let disputed = answers.iter().any(|other| rank(other) == rank(best) && named(other) != named(best));
    (!disputed).then(|| best.clone())
}

#[derive(Deserialize)]
struct PatroniCluster {
    members: Vec<PatroniMember>,
    scheduled_switchover: Option<PatroniPlan>,
    #[serde(default)]
    pause: bool,
}

#[derive(Deserialize)]
struct PatroniPlan {
    at: String,
    from: Option<String>,
    to: Option<String>,
}

#[derive(Deserialize)]
struct PatroniMember {
    name: String,
    role: Option<String>,
    state: Option<String>,
    api_url: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    /// A number, or a word where it is not known.
    timeline: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct EtcdRange {
    header: EtcdHeader,
    #[serde(default)]
    kvs: Vec<EtcdPair>,
}

#[derive(Deserialize)]
struct EtcdHeader {
    revision: String,
}

#[derive(Deserialize)]
struct EtcdPair {
    key: String,
    #[serde(default)]
    value: String,
}

/// What a Patroni member writes of itself into the store.
#[derive(Deserialize)]
struct StoredMember {
    conn_url: Option<String>,
    api_url: Option<String>,
    state: Option<String>,
    timeline: Option<u32>,
}

#[derive(Deserialize)]
struct StoredFailover {
    leader: Option<String>,
    #[serde(alias = "candidate")]
    member: Option<String>,
    scheduled_at: Option<String>,
}

/// What Patroni is configured with while it runs.
#[derive(Deserialize)]
struct StoredConfig {
    /// A boolean, in any of the ways in which PostgreSQL writes one.
    pause: Option<serde_json::Value>,
}

fn text(base64: &str) -> Option<String> {
    String::from_utf8(BASE64.decode(base64).ok()?).ok()
}

fn member(name: &str, value: &str) -> Option<Member> {
    let stored: StoredMember = serde_json::from_str(value).ok()?;
    // postgres://host:port/database
    let url: hyper::Uri = stored.conn_url?.parse().ok()?;
    let host = url.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Member {
        name: name.to_owned(),
        host,
        port: url.port_u16().unwrap_or(POSTGRES_PORT),
        timeline: stored.timeline,
        api_url: stored.api_url,
        running: is_running(stored.state.as_deref()),
    })
}

/// A handover that is going on, or one that is planned. Older versions write "leader:member" there, newer ones JSON.
fn handover(value: &str) -> (Option<String>, Option<Planned>) {
    match serde_json::from_str::<StoredFailover>(value) {
        Ok(StoredFailover { leader, member, scheduled_at: Some(at) }) => {
            (None, timestamp::read(&at).map(|at| Planned { at, from: leader, to: member }))
        }
        // Patroni leaves an empty one behind.
        Ok(StoredFailover { leader: None, member: None, .. }) => (None, None),
        Ok(stored) => (Some(stored.member.unwrap_or_default()), None),
        Err(_) => (value.split_once(':').map(|(_, member)| member.to_owned()), None),
    }
}

fn is_paused(config: &str) -> bool {
    let stored = serde_json::from_str::<StoredConfig>(config).ok().and_then(|stored| stored.pause);
    match stored {
        Some(serde_json::Value::Bool(paused)) => paused,
        Some(serde_json::Value::Number(paused)) => paused.as_i64() != Some(0),
        Some(serde_json::Value::String(paused)) => matches!(&*paused.to_ascii_lowercase(), "on" | "true" | "yes" | "1"),
        _ => false,
    }
}

fn is_running(state: Option<&str>) -> bool {
    matches!(state, Some("running" | "streaming" | "in archive recovery"))
}

const POSTGRES_PORT: u16 = 5432;

#[cfg(test)]
mod tests {
    use super::*;

    /// What Patroni 4 says of a cluster of three.
    const CLUSTER: &str = r#"{"members": [
        {"name": "a", "role": "leader", "state": "running", "api_url": "http://127.0.0.1:8008/patroni", "host": "127.0.0.1", "port": 5432, "timeline": 3},
        {"name": "b", "role": "replica", "state": "streaming", "api_url": "http://127.0.0.1:8009/patroni", "host": "127.0.0.1", "port": 5433, "timeline": 3, "lag": 0},
        {"name": "c", "role": "sync_standby", "state": "starting", "host": "127.0.0.1", "port": 5434, "timeline": "unknown"}
        ], "scope": "batman", "scheduled_switchover": {"at": "2026-01-01T00:00:00+00:00", "from": "a", "to": "b"}}"#;

    fn word(heard: &Announcement) -> Word {
        heard.word([5433, 5432].map(|port| ("127.0.0.1", port)).into_iter())
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)
    }

    #[test]
    fn patroni_is_understood() {
        let heard = Announcement::from_patroni(CLUSTER.as_bytes()).unwrap();
        let members: Vec<_> = heard.members.iter().map(|it| (&*it.name, it.port, it.timeline, it.running)).collect();
        assert_eq!(members, [("a", 5432, Some(3), true), ("b", 5433, Some(3), true), ("c", 5434, None, false)]);
        assert_eq!(heard.leader, Some(0));
        assert_eq!(heard.members[0].api_url.as_deref(), Some("http://127.0.0.1:8008/patroni"));
        assert_eq!(word(&heard), Word::Leader(Some(NodeId(1))));
        let headless = CLUSTER.replace("\"leader\"", "\"replica\"");
        assert_eq!(word(&Announcement::from_patroni(headless.as_bytes()).unwrap()), Word::Leader(None));
        let planned = Planned { at: at(1_767_225_600), from: Some("a".to_owned()), to: Some("b".to_owned()) };
        assert_eq!((heard.planned, heard.paused), (Some(planned), false));
        let unplanned = CLUSTER.replace("scheduled_switchover", "pause\": true, \"other");
        let heard = Announcement::from_patroni(unplanned.as_bytes()).unwrap();
        assert_eq!((heard.planned, heard.paused), (None, true));
        for nonsense in ["", "{}", "[]", "{\"members\": 1}"] {
            assert_eq!(Announcement::from_patroni(nonsense.as_bytes()), None, "{nonsense}");
        }
    }

    fn range(pairs: &[(&str, &str)]) -> String {
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(key, value)| format!(r#"{{"key": "{}", "value": "{}"}}"#, BASE64.encode(key), BASE64.encode(value)))
            .collect();
        format!(r#"{{"header": {{"revision": "17"}}, "kvs": [{}]}}"#, pairs.join(","))
    }

    #[test]
    fn etcd_is_understood() {
        let stored = range(&[
            ("/service/main/config", "{}"),
            ("/service/main/initialize", "7401234567890123456"),
            ("/service/main/leader", "b"),
            (
                "/service/main/members/a",
                r#"{"conn_url": "postgres://127.0.0.1:5432/postgres", "state": "running", "role": "replica", "timeline": 2}"#,
            ),
            (
                "/service/main/members/b",
                r#"{"conn_url": "postgres://127.0.0.1:5433/postgres", "state": "running", "role": "primary", "timeline": 2}"#,
            ),
            ("/service/main/members/c", "nonsense"),
            ("/service/main/failover", r#"{"leader": "b", "member": "a"}"#),
            ("/service/mainland/leader", "a"),
        ]);
        let (heard, revision) = Announcement::from_etcd(stored.as_bytes(), "/service/main/").unwrap();
        assert_eq!((heard.members.len(), revision), (2, 17));
        assert_eq!(heard.handover.as_deref(), Some("a"));
        assert_eq!(heard.system_identifier, Some(7_401_234_567_890_123_456));
        assert_eq!(word(&heard), Word::Leader(Some(NodeId(0))));
        for (stored, expected) in [
            ("{}", None),
            ("", None),
            (r#"{"leader": "b", "member": "a", "scheduled_at": "2026-01-01T00:00:00+00:00"}"#, None),
            (r#"{"leader": "b"}"#, Some("")),
            ("b:a", Some("a")),
        ] {
            let (heard, _) = Announcement::from_etcd(range(&[("/m/failover", stored)]).as_bytes(), "/m/").unwrap();
            assert_eq!(heard.handover.as_deref(), expected, "{stored}");
            let plan = stored.contains("scheduled_at").then(|| Planned {
                at: at(1_767_225_600),
                from: Some("b".to_owned()),
                to: Some("a".to_owned()),
            });
            assert_eq!(heard.planned, plan, "{stored}");
        }
        for (config, paused) in [
            (r#"{"ttl": 30, "pause": true}"#, true),
            (r#"{"pause": "On"}"#, true),
            (r#"{"pause": 1}"#, true),
            (r#"{"pause": false}"#, false),
            (r#"{"pause": null}"#, false),
            ("{}", false),
            ("nonsense", false),
        ] {
            let (heard, _) = Announcement::from_etcd(range(&[("/m/config", config)]).as_bytes(), "/m/").unwrap();
            assert_eq!(heard.paused, paused, "{config}");
        }
        let (begun, _) = Announcement::from_etcd(range(&[("/m/initialize", "")]).as_bytes(), "/m/").unwrap();
        assert_eq!(begun.system_identifier, None);
        let (nobody, _) = Announcement::from_etcd(range(&[]).as_bytes(), "/service/main/").unwrap();
        assert_eq!(word(&nobody), Word::Leader(None));
        assert_eq!(Announcement::from_etcd(br#"{"error": "etcdserver: user name is empty", "code": 3}"#, "/"), None);
    }

    fn heard(leader: &str) -> Announcement {
        let members = ["a1", "a2", "b1", "b2"].map(|name| Member {
            name: name.to_owned(),
            host: name[..1].to_owned(),
            port: 1,
            timeline: name[1..].parse().ok(),
            api_url: None,
            running: true,
        });
        let leader = members.iter().position(|member| member.name == leader);
        Announcement { leader, members: members.into(), ..Announcement::default() }
    }

    fn check(answers: &[&str], expected: Option<&str>) {
        let answers: Vec<Announcement> = answers.iter().map(|leader| heard(leader)).collect();
        let agreed = agree(&answers);
        let leader = agreed
            .as_ref()
            .map(|agreed| agreed.leader.map_or("nobody", |at| &agreed.members[at].name))
            .map(str::to_owned);
        assert_eq!(leader.as_deref(), expected, "{answers:?}");
    }

    #[test]
    fn hearsay() {
        check(&[], None);
        check(&["a1"], Some("a1"));
        check(&["-"], Some("nobody"));
        check(&["a1", "a1", "b1"], Some("a1"));
        // Most of them count, whatever the timeline; the timeline decides between two.
        check(&["a1", "a1", "b2"], Some("a1"));
        check(&["a1", "b2"], Some("b2"));
        check(&["a1", "b1"], None);
        check(&["a1", "-"], Some("a1"));
        check(&["a1", "-", "-"], Some("nobody"));
    }
}
