//! What a session is allowed and promised, and the settings of the proxy's own that change it.
//!
//! Does not decide where a statement goes: that is the session's, by this.

use std::time::Duration;

use wire::backend::Failure;

use crate::session::Session;

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

/// What a replica must have seen before it may serve a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Nothing.
    Eventual,
    /// All but the last `max_lag`.
    Bounded,
    /// That and the session's own writes.
    Session,
    /// That and every write to the database through this proxy.
    Global,
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
                    Some("eventual") => Consistency::Eventual,
                    Some("bounded") => Consistency::Bounded,
                    Some("session") => Consistency::Session,
                    Some("global") => Consistency::Global,
                    Some(_) => return Err(invalid()),
                }
            }
            "max_lag" => {
                self.policy.max_lag = match value {
                    None => self.initial.max_lag,
                    Some(text) => Some(parse_duration(text).ok_or_else(invalid)?),
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
            "consistency" => Some(match self.policy.consistency {
                Consistency::Eventual => "eventual".to_owned(),
                Consistency::Bounded => "bounded".to_owned(),
                Consistency::Session => "session".to_owned(),
                Consistency::Global => "global".to_owned(),
            }),
            "max_lag" => Some(self.policy.max_lag.map_or("0".to_owned(), |lag| format!("{}ms", lag.as_millis()))),
            _ => None,
        }
    }
}

pub(crate) fn unrecognized(name: &str) -> Failure {
    Failure::error("42704", format!("unrecognized configuration parameter \"hakem.{name}\""))
        .hint("There are hakem.route, hakem.consistency and hakem.max_lag.")
}

/// A duration in PostgreSQL's notation: an integer and `us`, `ms`, `s`, `min` or `h`; milliseconds without a unit.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    match text[digits..].trim() {
        "us" => Some(Duration::from_micros(number)),
        "ms" | "" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        "min" => Some(Duration::from_secs(number.checked_mul(60)?)),
        "h" => Some(Duration::from_secs(number.checked_mul(3600)?)),
        _ => None,
    }
}
