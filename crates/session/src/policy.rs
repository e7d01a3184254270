//! What a session is allowed and promised, and the settings of the proxy's own that change it.
//!
//! Does not decide where a statement goes: that is the session's, by this.

use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use classifier::{Consistency, Hint, PinReason, Scope, duration};
use wire::backend::Failure;

use crate::durability::DurabilityRule;
use crate::session::Session;
use crate::terms::{Need, Role};
use crate::token::Token;

/// What a session is allowed and promised; some of it can be changed by `SET hakem.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether reads may go to replicas at all.
    pub split: bool,
    /// Where statements go whatever they are.
    pub route: Route,
    /// What a replica must have seen.
    pub consistency: Consistency,
    /// How old a replica's picture may be; `None` for no bound.
    pub max_lag: Option<Duration>,
    /// What keeps statements together.
    pub affinity: Affinity,
    /// Whether the server connection is kept from the first statement on.
    pub pin: bool,
    /// Whether what became of a commit is found out when its answer is lost.
    pub commit_resolution: bool,
    /// Whether a transaction is run again whose server is lost before a COMMIT was sent.
    pub transaction_replay: bool,
    /// The `synchronous_commit` of what is written; the first rule that fits counts.
    pub durability: Arc<[DurabilityRule]>,
    /// Whether the server connection is kept until the client leaves (session pooling).
    pub keeps_server: bool,
    /// Whether transaction blocks are refused (statement pooling).
    pub refuses_blocks: bool,
    /// A request of more bytes than this is passed on in parts, and is not run again elsewhere.
    pub request_max: usize,
    /// A transaction that sends its server more bytes than this is not run again elsewhere.
    pub transaction_max: usize,
    /// Bytes that the named statements of a session may take.
    pub statements_max: usize,
}

/// A policy as its sessions share it, with what `SET hakem.*` finds set at their beginning.
#[derive(Debug)]
pub struct Charter {
    policy: Policy,
    pub(crate) own: Arc<Own>,
}

/// Where statements go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// By their class.
    Auto,
    /// To the primary.
    Primary,
    /// To a replica, unless they are known to write.
    Replica,
}

/// What keeps a session's statements on one node, without keeping a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Affinity {
    /// Nothing: each goes where it may.
    #[default]
    None,
    /// Reads stay on one replica, for as long as it is fresh enough.
    Node,
    /// Everything is the primary's.
    Primary,
}

/// What `SET hakem.*` sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    pub(crate) route: Route,
    pub(crate) consistency: Consistency,
    pub(crate) max_lag: Option<Duration>,
    pub(crate) affinity: Affinity,
    pub(crate) pin: bool,
    pub(crate) commit_resolution: bool,
    pub(crate) transaction_replay: bool,
    pub(crate) token: Option<Token>,
}

impl Default for Own {
    fn default() -> Own {
        Own {
            route: Route::Auto,
            consistency: Consistency::Session,
            max_lag: None,
            affinity: Affinity::None,
            pin: false,
            commit_resolution: false,
            transaction_replay: false,
            token: None,
        }
    }
}

impl From<Policy> for Arc<Charter> {
    fn from(policy: Policy) -> Arc<Charter> {
        Arc::new(Charter { own: Arc::new(Own::of(&policy)), policy })
    }
}

impl Deref for Charter {
    type Target = Policy;

    fn deref(&self) -> &Policy {
        &self.policy
    }
}

impl Own {
    fn of(policy: &Policy) -> Own {
        let Policy { route, consistency, max_lag, affinity, pin, commit_resolution, transaction_replay, .. } = *policy;
        Own { route, consistency, max_lag, affinity, pin, commit_resolution, transaction_replay, token: None }
    }

    /// The setting of this name, as SHOW shows it.
    fn show(&self, name: &str) -> Option<String> {
        Some(match name {
            "route" => self.route.as_str().to_owned(),
            "consistency" => self.consistency.as_str().to_owned(),
            "max_lag" => self.max_lag.map_or("0".to_owned(), |lag| format!("{}ms", lag.as_millis())),
            "affinity" => self.affinity.as_str().to_owned(),
            "pin" => on_or_off(self.pin),
            "commit_resolution" => on_or_off(self.commit_resolution),
            "transaction_replay" => on_or_off(self.transaction_replay),
            _ => return None,
        })
    }

    /// Takes one setting from another.
    fn take(&mut self, name: &str, from: &Own) {
        match name {
            "route" => self.route = from.route,
            "consistency" => self.consistency = from.consistency,
            "max_lag" => self.max_lag = from.max_lag,
            "affinity" => self.affinity = from.affinity,
            "pin" => self.pin = from.pin,
            "commit_resolution" => self.commit_resolution = from.commit_resolution,
            "transaction_replay" => self.transaction_replay = from.transaction_replay,
            _ => self.token = from.token,
        }
    }
}

impl Route {
    const ALL: [(&str, Route); 3] = [("auto", Route::Auto), ("primary", Route::Primary), ("replica", Route::Replica)];

    fn as_str(self) -> &'static str {
        word(&Route::ALL, self)
    }
}

impl Affinity {
    const ALL: [(&str, Affinity); 3] =
        [("none", Affinity::None), ("node", Affinity::Node), ("primary", Affinity::Primary)];

    fn as_str(self) -> &'static str {
        word(&Affinity::ALL, self)
    }
}

fn on_or_off(value: bool) -> String {
    if value { "on" } else { "off" }.to_owned()
}

fn word<T: Copy + PartialEq>(words: &[(&'static str, T)], value: T) -> &'static str {
    words.iter().find(|(_, known)| *known == value).map_or("", |(word, _)| word)
}

fn value<T: Copy>(words: &[(&'static str, T)], text: &str) -> Option<T> {
    words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value)
}

/// How fresh a replica has to be by the comments in a request's statements. One without a wish has the session's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wishes {
    consistency: Option<Consistency>,
    max_lag: Option<Duration>,
    /// Some of its statements do not say which consistency.
    any_consistency: bool,
    /// Some of its statements do not say how much lag.
    any_lag: bool,
}

impl Wishes {
    pub(crate) fn add(&mut self, hint: Option<Hint>) {
        let Hint { consistency, max_lag, .. } = hint.unwrap_or_default();
        let (any_consistency, any_lag) = (consistency.is_none(), max_lag.is_none());
        self.merge(Wishes { consistency, max_lag, any_consistency, any_lag });
    }

    /// The stricter wish counts.
    pub(crate) fn merge(&mut self, more: Wishes) {
        self.consistency = self.consistency.max(more.consistency);
        self.max_lag = shorter(self.max_lag, more.max_lag);
        self.any_consistency |= more.any_consistency;
        self.any_lag |= more.any_lag;
    }

    fn consistency(&self, own: Consistency) -> Consistency {
        match self.consistency {
            Some(wish) if self.any_consistency => wish.max(own),
            wish => wish.unwrap_or(own),
        }
    }

    fn max_lag(&self, own: Option<Duration>) -> Option<Duration> {
        match self.max_lag {
            wish if self.any_lag => shorter(wish, own),
            wish => wish.or(own),
        }
    }
}

/// The stricter of two bounds; `None` is none.
pub(crate) fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.map_or(other, |one| Some(other.map_or(one, |other| one.min(other))))
}

impl Session {
    /// Changes a `hakem.*` setting, as named without its prefix, from the beginning of the session on.
    ///
    /// # Errors
    /// What the client is to be told: there is no such setting (42704), or the value will not do (22023).
    pub fn configure(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let changed = self.changed(name, Some(value))?;
        self.settings.begin_with(|own| own.take(name, &changed));
        self.settle_pin();
        Ok(())
    }

    /// Goes over to another configured policy, but for what the session has set itself.
    pub fn adopt(&mut self, new: Arc<Charter>) {
        let (old, now) = (*self.policy.own, *new.own);
        self.policy = new;
        self.settings.begin_with(|own| {
            for name in NAMES {
                if own.show(name) == old.show(name) {
                    own.take(name, &now);
                }
            }
        });
        self.settle_pin();
    }

    /// Whether the session's reads are to stay on one replica.
    #[must_use]
    pub fn keeps_node(&self) -> bool {
        self.own().affinity == Affinity::Node
    }

    /// `now` is behind everything that the client has said so far.
    pub fn date(&mut self, now: Instant) {
        if self.own().token.is_some_and(|token| token.since.is_none()) {
            self.settings.begin_with(|own| {
                if let Some(token) = &mut own.token {
                    token.since.get_or_insert(now);
                }
            });
        }
    }

    pub(crate) fn own(&self) -> &Own {
        self.settings.own()
    }

    /// The session keeps its server for no other reason than that it says so, or that it does not any more.
    pub(crate) fn settle_pin(&mut self) {
        match (self.own().pin, self.pins.contains(&PinReason::Explicit)) {
            (true, false) => self.pin(PinReason::Explicit),
            (false, true) => self.unpin(PinReason::Explicit),
            _ => {}
        }
    }

    /// What a read needs that wishes this. `insists`: a replica was asked for.
    pub(crate) fn freshness(&self, wishes: &Wishes, insists: bool) -> Need {
        let consistency = wishes.consistency(self.own().consistency);
        let own_lag = self.own().max_lag.filter(|_| consistency != Consistency::Eventual);
        Need::Replica {
            max_lag: wishes.max_lag(own_lag),
            not_before: self.last_write.filter(|_| consistency >= Consistency::Session),
            global: consistency == Consistency::Global,
            steady: consistency >= Consistency::Session,
            insists,
            token: self.own().token,
        }
    }

    /// SET, SET LOCAL or RESET of one of the proxy's settings; says what its completion is called.
    pub(crate) fn set_own(&mut self, name: &str, value: Option<&str>, scope: Scope) -> Result<&'static str, Failure> {
        let changed = self.changed(name, value)?;
        self.settings.set_own(scope, |own| own.take(name, &changed));
        Ok(if value.is_some() { "SET" } else { "RESET" })
    }

    pub(crate) fn show_own(&self, name: &str) -> Result<String, Failure> {
        if name == LAST_ROUTE {
            return Ok(self.last_route.map_or(String::new(), |(role, why)| match role {
                Role::Primary => format!("primary: {why}"),
                Role::Replica => format!("replica: {why}"),
            }));
        }
        self.own().show(name).ok_or_else(|| unrecognized(name))
    }

    /// The settings with one of them changed, or reset.
    fn changed(&self, name: &str, value: Option<&str>) -> Result<Own, Failure> {
        let mut own = self.settings.initial();
        if name == LAST_ROUTE {
            return Err(Failure::error("55P02", format!("parameter \"hakem.{name}\" cannot be changed")));
        }
        let Some(text) = value else {
            return if name == TOKEN || own.show(name).is_some() { Ok(own) } else { Err(unrecognized(name)) };
        };
        let invalid = || Failure::error("22023", format!("invalid value for parameter \"hakem.{name}\": \"{text}\""));
        match name {
            "route" => own.route = self::value(&Route::ALL, text).ok_or_else(invalid)?,
            "consistency" => own.consistency = Consistency::of(text).ok_or_else(invalid)?,
            "max_lag" => own.max_lag = Some(duration(text).ok_or_else(invalid)?),
            "affinity" => own.affinity = self::value(&Affinity::ALL, text).ok_or_else(invalid)?,
            "pin" => own.pin = self::value(&BOOLEANS, text).ok_or_else(invalid)?,
            "commit_resolution" => own.commit_resolution = self::value(&BOOLEANS, text).ok_or_else(invalid)?,
            "transaction_replay" => own.transaction_replay = self::value(&BOOLEANS, text).ok_or_else(invalid)?,
            TOKEN if text.is_empty() => own.token = None,
            TOKEN => own.token = Some(Token::read(text).ok_or_else(invalid)?),
            _ => return Err(unrecognized(name)),
        }
        Ok(own)
    }
}

fn unrecognized(name: &str) -> Failure {
    Failure::error("42704", format!("unrecognized configuration parameter \"hakem.{name}\"")).hint(
        "There are hakem.route, hakem.consistency, hakem.max_lag, hakem.affinity, hakem.pin, hakem.commit_resolution, \
         hakem.transaction_replay, hakem.token and hakem.last_route.",
    )
}

/// Those that are configured.
const NAMES: [&str; 7] =
    ["route", "consistency", "max_lag", "affinity", "pin", "commit_resolution", "transaction_replay"];

/// Another session's word for what this one must see.
pub(crate) const TOKEN: &str = "token";

/// Where the last request went, and why.
const LAST_ROUTE: &str = "last_route";

const BOOLEANS: [(&str, bool); 8] = [
    ("on", true),
    ("off", false),
    ("true", true),
    ("false", false),
    ("yes", true),
    ("no", false),
    ("1", true),
    ("0", false),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    /// What a read needs that wishes nothing, of a session that has written at `last_write`.
    fn need(consistency: Consistency, last_write: Option<Instant>) -> Need {
        let policy = Policy {
            split: true,
            route: Route::Auto,
            consistency,
            max_lag: Some(LAG),
            affinity: Affinity::None,
            commit_resolution: false,
            transaction_replay: false,
            pin: false,
            durability: Arc::new([]),
            keeps_server: false,
            refuses_blocks: false,
            request_max: 1,
            transaction_max: 1,
            statements_max: 1,
        };
        let mut session = Session::new(policy, Settings::new([]));
        session.last_write = last_write;
        session.freshness(&Wishes::default(), false)
    }

    const LAG: Duration = Duration::from_secs(1);

    #[test]
    fn what_each_consistency_needs() {
        let written = Some(Instant::now());
        for (consistency, max_lag, not_before, global, steady) in [
            (Consistency::Eventual, None, None, false, false),
            (Consistency::Bounded, Some(LAG), None, false, false),
            (Consistency::Session, Some(LAG), written, false, true),
            (Consistency::Global, Some(LAG), written, true, true),
        ] {
            let expected = Need::Replica { max_lag, not_before, global, steady, insists: false, token: None };
            assert_eq!(need(consistency, written), expected, "{consistency:?}");
        }
    }
}
