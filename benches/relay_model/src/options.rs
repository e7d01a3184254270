//! The command line, as a value. It does not check that anything listens at the addresses.

use std::net::SocketAddr;

/// How clients, servers and threads belong together.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Model {
    Stealing,
    PerCore,
    PerCoreHandoff,
    StealingPooled,
    PerCorePooled,
}

/// When a server that belongs to one core is given to a client of another, in the model `per-core-pooled`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takeover {
    /// First come, first served, whatever the core: the upper bound of what takeovers cost.
    Strict,
    /// When it would otherwise be idle, or when the client of the other core is far older than those of its own.
    Eager,
    /// When, moreover, the other core has more waiters than servers. A server may then idle while a client of another core
    /// waits for one of that core's to come back, which a product would have to bound by a deadline.
    Reluctant,
}

impl Takeover {
    /// How many later-come clients of its own core a server is given to before an older one of another core.
    pub(crate) fn patience(self) -> u64 {
        match self {
            Takeover::Strict => 0,
            Takeover::Eager | Takeover::Reluctant => 64,
        }
    }
}

/// Everything that can be chosen for one run.
pub(crate) struct Options {
    pub(crate) model: Model,
    pub(crate) listen: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) workers: usize,
    pub(crate) pool: usize,
    pub(crate) takeover: Takeover,
    pub(crate) user: String,
    pub(crate) database: String,
}

impl Options {
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Options, String> {
        let mut next = |what: &str| arguments.next().ok_or(format!("{what} is missing"));
        let model = match next("MODEL")?.as_str() {
            "stealing" => Model::Stealing,
            "per-core" => Model::PerCore,
            "per-core-handoff" => Model::PerCoreHandoff,
            "stealing-pooled" => Model::StealingPooled,
            "per-core-pooled" => Model::PerCorePooled,
            other => return Err(format!("no such model: {other}")),
        };
        let mut options = Options {
            model,
            listen: number("LISTEN", &next("LISTEN")?)?,
            server: number("SERVER", &next("SERVER")?)?,
            workers: 2,
            pool: 16,
            takeover: Takeover::Eager,
            user: "bench".to_owned(),
            database: "bench".to_owned(),
        };
        while let Some(flag) = arguments.next() {
            let value = arguments.next().ok_or(format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--workers" => options.workers = number(&flag, &value)?,
                "--pool" => options.pool = number(&flag, &value)?,
                "--takeover" => {
                    options.takeover = match value.as_str() {
                        "strict" => Takeover::Strict,
                        "eager" => Takeover::Eager,
                        "reluctant" => Takeover::Reluctant,
                        _ => return Err(format!("no such takeover: {value}")),
                    }
                }
                "--user" => options.user = value,
                "--database" => options.database = value,
                _ => return Err(format!("no such option: {flag}")),
            }
        }
        if options.workers == 0 || options.pool == 0 {
            return Err("--workers and --pool must be at least 1".to_owned());
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name} cannot be {text}"))
}

pub(crate) const USAGE: &str = "\
usage: relay_model MODEL LISTEN SERVER [--workers 2] [--pool 16] [--takeover eager] [--user bench] [--database bench]

MODEL       stealing | per-core | per-core-handoff | stealing-pooled | per-core-pooled
LISTEN      address and port to listen on; SERVER: that of a PostgreSQL that trusts the user
--pool      server connections, in the pooled models
--takeover  strict | eager | reluctant: how readily a core takes another core's servers";
