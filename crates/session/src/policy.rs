//! What a session is allowed and promised, and the settings of the proxy's own that change it.
//!
//! Does not decide where a statement goes: that is the session's, by this.

use std::time::Duration;

use classifier::{Consistency, Hint, duration};
use wire::backend::Failure;

use crate::session::{Need, Session};

/// What a session is allowed and promised; each can be changed by `SET hakem.*`.
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
    /// Whether the server connection is kept until the client leaves (session pooling).
    pub keeps_server: bool,
    /// Whether transaction blocks are refused (statement pooling).
    pub refuses_blocks: bool,
    /// A request of more bytes than this is passed on in parts, and is not run again elsewhere.
    pub request_max: usize,
    /// Bytes that the named statements of a session may take.
    pub statements_max: usize,
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

/// How fresh a replica has to be by the comments in a request's statements. One without a wish has the session's.
#[derive(Clone, Copy, Debug, Default)]
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
fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.map_or(other, |one| Some(other.map_or(one, |other| one.min(other))))
}

impl Session {
    /// Changes a `hakem.*` setting, as named without its prefix.
    ///
    /// # Errors
    /// What the client is to be told: there is no such setting (42704), or the value will not do (22023).
    pub fn configure(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        self.set_policy(name, Some(value))?;
        self.initial = self.policy.clone();
        Ok(())
    }

    /// Goes over from the configured policy `old` to `new`, but for what the session has set itself.
    pub fn adopt(&mut self, old: &Policy, new: &Policy) {
        for own in [&mut self.policy, &mut self.initial] {
            own.split = new.split;
            own.keeps_server = new.keeps_server;
            own.refuses_blocks = new.refuses_blocks;
            own.request_max = new.request_max;
            own.statements_max = new.statements_max;
            if own.route == old.route {
                own.route = new.route;
            }
            if own.consistency == old.consistency {
                own.consistency = new.consistency;
            }
            if own.max_lag == old.max_lag {
                own.max_lag = new.max_lag;
            }
        }
    }

    /// What a read needs that wishes this. `insists`: a replica was asked for.
    pub(crate) fn freshness(&self, wishes: &Wishes, insists: bool) -> Need {
        let consistency = wishes.consistency(self.policy.consistency);
        let own_lag = self.policy.max_lag.filter(|_| consistency != Consistency::Eventual);
        Need::Replica {
            max_lag: wishes.max_lag(own_lag),
            not_before: self.last_write.filter(|_| consistency >= Consistency::Session),
            global: consistency == Consistency::Global,
            steady: consistency >= Consistency::Session,
            insists,
        }
    }

    pub(crate) fn set_policy(&mut self, name: &str, value: Option<&str>) -> Result<(), Failure> {
        let invalid = || {
            Failure::error(
                "22023",
                format!("invalid value for parameter \"hakem.{name}\": \"{}\"", value.unwrap_or_default()),
            )
        };
        match name {
            "route" => {
                self.policy.route = match value {
                    None => self.initial.route,
                    Some("auto") => Route::Auto,
                    Some("primary") => Route::Primary,
                    Some("replica") => Route::Replica,
                    Some(_) => return Err(invalid()),
                }
            }
            "consistency" => {
                self.policy.consistency = match value {
                    None => self.initial.consistency,
                    Some(name) => Consistency::of(name).ok_or_else(invalid)?,
                }
            }
            "max_lag" => {
                self.policy.max_lag = match value {
                    None => self.initial.max_lag,
                    Some(text) => Some(duration(text).ok_or_else(invalid)?),
                }
            }
            _ => return Err(unrecognized(name)),
        }
        Ok(())
    }

    pub(crate) fn show_policy(&self, name: &str) -> Option<String> {
        match name {
            "route" => Some(match self.policy.route {
                Route::Auto => "auto".to_owned(),
                Route::Primary => "primary".to_owned(),
                Route::Replica => "replica".to_owned(),
            }),
            "consistency" => Some(self.policy.consistency.as_str().to_owned()),
            "max_lag" => Some(self.policy.max_lag.map_or("0".to_owned(), |lag| format!("{}ms", lag.as_millis()))),
            _ => None,
        }
    }
}

pub(crate) fn unrecognized(name: &str) -> Failure {
    Failure::error("42704", format!("unrecognized configuration parameter \"hakem.{name}\""))
        .hint("There are hakem.route, hakem.consistency and hakem.max_lag.")
}
