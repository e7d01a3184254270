//! etcd's keys of a cluster, watched: a change is known when it happens.
//!
//! What is watched is only *that* something has changed; then all of it is read again, which is a few hundred bytes. It is also read
//! from time to time when nothing has, so that a store that is out of reach is not taken for one where nothing happens, and while it
//! cannot be watched. Reads are linearizable: a member of etcd that is cut off from the others gives no answer.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::select_ok;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::{Method, Uri};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tracing::warn;

use super::http::{ANSWER_BYTES_MAX, Failure, Question};
use super::{Source, Teller, Unheard};
use crate::dcs::Announcement;

pub(super) async fn run(
    source: &Source,
    urls: &[Uri],
    prefix: &str,
    login: Option<&(String, String)>,
    teller: &mut Teller,
) {
    loop {
        match open_any(source, urls, prefix, login).await {
            Ok((mut store, heard)) => match store.follow(heard, teller).await {
                Ok(Unheard) => return,
                // Whether anybody else answers is found out first.
                Err(_left) => tokio::time::sleep(PAUSE_MIN).await,
            },
            Err(reason) => {
                if teller.tell(Err(reason)).await.is_err() {
                    return;
                }
                tokio::time::sleep(source.interval).await;
            }
        }
    }
}

/// All members are asked at once; the first that answers is kept for as long as it does. The others cost no more time than one of them.
async fn open_any<'a>(
    source: &'a Source,
    urls: &'a [Uri],
    prefix: &'a str,
    login: Option<&'a (String, String)>,
) -> Result<(Store<'a>, Heard), String> {
    if urls.is_empty() {
        return Err("there is nobody to ask".to_owned());
    }
    let open = async |url| {
        let mut store = Store { source, url, prefix, login, token: None };
        let opened = tokio::time::timeout(source.timeout, store.open()).await.unwrap_or(Err(Leave::Silent));
        opened.map(|heard| (store, heard)).map_err(|reason| format!("{url}: {reason}"))
    };
    let (opened, _others) = select_ok(urls.iter().map(|url| Box::pin(open(url)))).await?;
    Ok(opened)
}

/// One member of etcd.
struct Store<'a> {
    source: &'a Source,
    url: &'a Uri,
    prefix: &'a str,
    login: Option<&'a (String, String)>,
    token: Option<String>,
}

/// What has been read, and its revision.
type Heard = (Announcement, u64);

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
    async fn open(&mut self) -> Result<Heard, Leave> {
        self.log_in().await?;
        self.read().await
    }

    async fn log_in(&mut self) -> Result<(), Leave> {
        let Some((name, password)) = self.login else { return Ok(()) };
        // A member that has forgotten a token refuses everything that comes with it.
        self.token = None;
        let answer = self.ask("/v3/auth/authenticate", &json!({"name": name, "password": password})).await?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|_| Leave::Nonsense)?;
        self.token = Some(answer["token"].as_str().ok_or(Leave::Nonsense)?.to_owned());
        Ok(())
    }

    /// Reads and watches for as long as this member answers, and is listened to.
    async fn follow(&mut self, heard: Heard, teller: &mut Teller) -> Result<Unheard, Leave> {
        let (mut heard, mut watch, mut warned) = (heard, None, false);
        loop {
            let (announcement, revision) = heard;
            if teller.tell(Ok(announcement)).await.is_err() {
                return Ok(Unheard);
            }
            let begun = Instant::now();
            let news = async {
                let watched = match &mut watch {
                    Some(watched) => watched,
                    None => watch.insert(self.watch(revision + 1).await.map_err(|refusal| refusal.to_string())?),
                };
                watched.changed().await
            };
            let ended = tokio::time::timeout(READ_INTERVAL, news).await.ok().and_then(Result::err);
            if ended.is_some() {
                watch = None;
                // One that has ended is begun anew, but not in a hurry.
                tokio::time::sleep_until((begun + self.source.interval.min(READ_INTERVAL)).into()).await;
            }
            heard = self.read().await?;
            // It is there, so it is not for want of a connection.
            if let Some(reason) = ended
                && !std::mem::replace(&mut warned, true)
            {
                warn!(url = %self.url, "etcd lets nobody watch its keys for long, and is asked again and again: {reason}");
            }
        }
    }

    async fn read(&mut self) -> Result<Heard, Leave> {
        let answer = match self.ask("/v3/kv/range", &self.range()).await {
            // Its token is too old, or the member has been restarted and knows of none.
            Err(Leave::Failed(Failure::Status(status, _))) if status.is_client_error() && self.token.is_some() => {
                self.log_in().await?;
                self.ask("/v3/kv/range", &self.range()).await?
            }
            answer => answer?,
        };
        Announcement::from_etcd(&answer, self.prefix).ok_or(Leave::Nonsense)
    }

    async fn watch(&self, revision: u64) -> Result<Watch, Leave> {
        let mut request = self.range();
        request["start_revision"] = json!(revision);
        let question = self.question("/v3/watch", &json!({ "create_request": request }));
        let begun = tokio::time::timeout(self.source.timeout, question.follow(self.source.tls.as_ref()));
        Ok(Watch { body: begun.await.map_err(|_| Leave::Silent)??, unread: Vec::new() })
    }

    async fn ask(&self, path: &str, body: &Value) -> Result<hyper::body::Bytes, Leave> {
        let answer = self.question(path, body).ask(self.source.tls.as_ref());
        Ok(tokio::time::timeout(self.source.timeout, answer).await.map_err(|_| Leave::Silent)??)
    }

    fn question<'a>(&'a self, path: &'a str, body: &Value) -> Question<'a> {
        let authorization = self.token.as_deref();
        Question { method: Method::POST, url: self.url, path, body: body.to_string(), authorization }
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

/// What etcd says of changes, message by message.
struct Watch {
    body: Incoming,
    unread: Vec<u8>,
}

#[derive(Deserialize)]
struct Message {
    result: Option<Told>,
    error: Option<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    events: Vec<IgnoredAny>,
    canceled: bool,
    cancel_reason: String,
}

impl Watch {
    /// Waits until something has changed.
    ///
    /// # Errors
    /// Why the watch has ended.
    async fn changed(&mut self) -> Result<(), String> {
        loop {
            if let Some(news) = take_news(&mut self.unread) {
                return news;
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.unread.extend(frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("it has ended the answer".to_owned()),
            }
            if self.unread.len() > ANSWER_BYTES_MAX {
                return Err("its message is too long".to_owned());
            }
        }
    }
}

/// Takes the messages that are there whole: the last of them that says that something has changed, or why the watch has ended.
/// The first message says that the watch was made, and there are signs of life.
fn take_news(unread: &mut Vec<u8>) -> Option<Result<(), String>> {
    let (mut messages, mut news) = (serde_json::Deserializer::from_slice(unread).into_iter::<Message>(), None);
    loop {
        match messages.next() {
            Some(Ok(Message { error: Some(error), .. })) => news = Some(Err(error.to_string())),
            Some(Ok(Message { result: Some(told), .. })) if told.canceled => {
                news = Some(Err(format!("cancelled: {}", told.cancel_reason)));
            }
            Some(Ok(Message { result: Some(told), .. })) if !told.events.is_empty() => news = Some(Ok(())),
            Some(Ok(_)) => {}
            Some(Err(error)) if !error.is_eof() => return Some(Err("the message is not etcd's".to_owned())),
            Some(Err(_)) | None => break,
        }
    }
    let taken = messages.byte_offset();
    unread.drain(..taken);
    news
}

/// The time after which all is read again though nothing has changed.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The least pause between two attempts to find a member that answers.
const PAUSE_MIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
