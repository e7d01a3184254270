//! etcd's keys of a cluster, watched: a change is known when it happens.
//!
//! What is watched is only *that* something has changed; then all of it is read again, which is a few hundred bytes. It is also read
//! from time to time when nothing has, so that a store that is out of reach is not taken for one where nothing happens.
//! Reads are linearizable: a member of etcd that is cut off from the others gives no answer.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Uri};
use serde_json::{Value, json};

use super::http::{Failure, Question};
use super::{Source, Teller};
use crate::dcs::Announcement;

pub(super) async fn run(
    source: &Source,
    urls: &[Uri],
    prefix: &str,
    login: Option<&(String, String)>,
    teller: &mut Teller,
) {
    let mut reason = "there is nobody to ask".to_owned();
    loop {
        // The members in turn; the first that answers is kept for as long as it does.
        for url in urls {
            let mut store = Store { source, url, prefix, token: None };
            reason = match store.follow(login, teller).await {
                Ok(()) => return,
                Err(failure) => format!("{url}: {failure}"),
            };
        }
        if teller.tell(Err(reason.clone())).await.is_err() {
            return;
        }
        tokio::time::sleep(source.interval).await;
    }
}

/// One member of etcd.
struct Store<'a> {
    source: &'a Source,
    url: &'a Uri,
    prefix: &'a str,
    token: Option<String>,
}

/// Why it is left.
#[derive(Debug, thiserror::Error)]
enum Leave {
    #[error("no answer in time")]
    Silent,
    #[error("{0}")]
    Failed(#[from] Failure),
    #[error("the answer is not etcd's")]
    Nonsense,
}

impl Store<'_> {
    /// Reads and watches for as long as this member answers; `Ok` when nobody listens any more.
    async fn follow(&mut self, login: Option<&(String, String)>, teller: &mut Teller) -> Result<(), Leave> {
        if let Some((name, password)) = login {
            let answer = self.ask("/v3/auth/authenticate", &json!({"name": name, "password": password})).await?;
            let answer: Value = serde_json::from_slice(&answer).map_err(|_| Leave::Nonsense)?;
            self.token = Some(answer["token"].as_str().ok_or(Leave::Nonsense)?.to_owned());
        }
        let mut changes = None;
        loop {
            let (announcement, revision) = self.read().await?;
            if teller.tell(Ok(announcement)).await.is_err() {
                return Ok(());
            }
            let watched = match &mut changes {
                Some(watched) => watched,
                None => changes.insert(self.watch(revision + 1).await?),
            };
            // A watch that has ended is begun anew; whether the store is still there shows in the next read.
            if let Ok(false) = tokio::time::timeout(READ_INTERVAL, changed(watched)).await {
                changes = None;
            }
        }
    }

    async fn read(&self) -> Result<(Announcement, u64), Leave> {
        let answer = self.ask("/v3/kv/range", &self.range()).await?;
        Announcement::from_etcd(&answer, self.prefix).ok_or(Leave::Nonsense)
    }

    async fn watch(&self, revision: u64) -> Result<Incoming, Leave> {
        let mut request = self.range();
        request["start_revision"] = json!(revision);
        let question = self.question("/v3/watch", &json!({ "create_request": request }));
        let begun = tokio::time::timeout(self.source.timeout, question.begin(self.source.tls.as_ref()));
        Ok(begun.await.map_err(|_| Leave::Silent)??.into_body())
    }

    async fn ask(&self, path: &str, body: &Value) -> Result<hyper::body::Bytes, Leave> {
        let answer = self.question(path, body).ask(self.source.tls.as_ref());
        Ok(tokio::time::timeout(self.source.timeout, answer).await.map_err(|_| Leave::Silent)??)
    }

    fn question<'a>(&'a self, path: &'a str, body: &Value) -> Question<'a> {
        Question { method: Method::POST, url: self.url, path, body: body.to_string(), token: self.token.as_deref() }
    }

    /// Everything below the prefix.
    fn range(&self) -> Value {
        let mut end = self.prefix.as_bytes().to_vec();
        // The prefix ends with a slash, so there is a byte that follows it.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        json!({"key": BASE64.encode(self.prefix), "range_end": BASE64.encode(end)})
    }
}

/// Waits until something has changed; `false` when the watch has ended.
async fn changed(watched: &mut Incoming) -> bool {
    loop {
        match watched.frame().await {
            Some(Ok(frame)) => {
                // The first message says that the watch was made, others have events, but for signs of life.
                let data = frame.into_data().unwrap_or_default();
                if data.windows(EVENTS.len()).any(|part| part == EVENTS) {
                    return true;
                }
            }
            Some(Err(_)) | None => return false,
        }
    }
}

const EVENTS: &[u8] = b"\"events\"";

/// The time after which all is read again though nothing has changed.
const READ_INTERVAL: Duration = Duration::from_secs(1);
