//! Asking cluster managers: Patroni's members over their REST interface, or the etcd that Patroni keeps its state in.
//!
//! - `http`: one JSON question and its answer, or a row of answers.
//! - `patroni`, `etcd`: what is asked, and when again.
//! - `server`: whom their tests ask.
//!
//! They report what they hear; what it means is `dcs`'s and `combine`'s to say.

mod etcd;
mod http;
mod patroni;
#[cfg(test)]
mod server;

use std::fmt;
use std::time::Duration;

use hyper::Uri;
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

pub use patroni::ask_switchover;

use crate::dcs::Announcement;
use crate::watcher::News;

/// A cluster manager to ask.
#[derive(Clone)]
pub struct Source {
    /// How it is spoken to.
    pub kind: SourceKind,
    /// What is believed of those with an `https` address.
    pub tls: Option<ClientConfig>,
    /// The longest that an answer may take.
    pub timeout: Duration,
    /// From one question to the next where nothing can be watched.
    pub interval: Duration,
}

/// How a cluster manager is spoken to.
#[derive(Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// Patroni's REST interface.
    Patroni {
        /// The members' addresses, e.g. `http://10.0.0.1:8008`. All are asked.
        urls: Vec<Uri>,
    },
    /// etcd's version 3, by its JSON gateway.
    Etcd {
        /// The members' addresses, e.g. `http://10.0.0.1:2379`. One that answers is enough: etcd's answers are its majority's.
        urls: Vec<Uri>,
        /// Where Patroni keeps the cluster's keys: `/service/` and the scope.
        prefix: String,
        /// Who asks, with his password, where etcd wants to know.
        login: Option<(String, String)>,
    },
}

impl SourceKind {
    /// A word for logs and the console.
    pub fn name(&self) -> &'static str {
        match self {
            SourceKind::Patroni { .. } => "patroni",
            SourceKind::Etcd { .. } => "etcd",
        }
    }
}

impl fmt::Debug for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Logins stay out of logs.
        f.write_str(self.name())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Source {
    /// Asks until nobody listens any more.
    pub(crate) async fn run(self, place: usize, news: mpsc::Sender<News>, waiting: watch::Receiver<usize>) {
        let mut teller = Teller { name: self.kind.name(), place, news, silent: None };
        match &self.kind {
            SourceKind::Patroni { urls } => patroni::run(&self, urls, waiting, &mut teller).await,
            SourceKind::Etcd { urls, prefix, login } => {
                etcd::run(&self, urls, prefix, login.as_ref(), &mut teller).await
            }
        }
    }
}

/// Passes on what is heard, and logs when it falls silent and speaks again.
struct Teller {
    name: &'static str,
    /// Its place among the sources.
    place: usize,
    news: mpsc::Sender<News>,
    silent: Option<bool>,
}

/// Nobody listens any more.
struct Unheard;

impl Teller {
    async fn tell(&mut self, heard: Result<Announcement, String>) -> Result<(), Unheard> {
        let silent = heard.is_err();
        if self.silent != Some(silent) {
            match &heard {
                Ok(announcement) => {
                    info!(source = self.name, members = announcement.members.len(), "the cluster manager answers")
                }
                Err(reason) => warn!(source = self.name, "the cluster manager does not answer: {reason}"),
            }
            self.silent = Some(silent);
        }
        self.news.send(News::Heard(self.place, heard.ok())).await.map_err(|_| Unheard)
    }
}
