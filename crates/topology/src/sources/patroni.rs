//! Patroni's REST interface: `GET /cluster` of every member, again and again.
//!
//! Each member answers from what it last read in the store, so what one of them says may be old: what most of them say counts.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::future::join_all;
use hyper::{Method, Uri};
use rustls::ClientConfig;
use tokio::sync::watch;

use super::http::Question;
use super::{Source, Teller};
use crate::dcs::{Announcement, Member, agree};

pub(super) async fn run(source: &Source, urls: &[Uri], mut waiting: watch::Receiver<usize>, teller: &mut Teller) {
    loop {
        let answers = join_all(urls.iter().map(|url| ask(source, url))).await;
        let failure = answers.iter().find_map(|answer| answer.as_ref().err().cloned());
        let heard: Vec<Announcement> = answers.into_iter().filter_map(Result::ok).collect();
        let agreed = agree(&heard);
        let reason = || match heard.is_empty() {
            true => failure.unwrap_or_else(|| "there is nobody to ask".to_owned()),
            false => "its members contradict each other".to_owned(),
        };
        if teller.tell(agreed.ok_or_else(reason)).await.is_err() {
            return;
        }
        let awaited = async {
            // Its sender lives for as long as the watcher does.
            let _awaited = waiting.wait_for(|waiting| *waiting > 0).await.is_ok();
            tokio::time::sleep(source.interval / HURRY).await;
        };
        // While somebody waits for a primary it is asked more often.
        let _sooner = tokio::time::timeout(source.interval, awaited).await;
    }
}

async fn ask(source: &Source, url: &Uri) -> Result<Announcement, String> {
    let question = Question { method: Method::GET, url, path: "/cluster", body: String::new(), authorization: None };
    let answer = tokio::time::timeout(source.timeout, question.ask(source.tls.as_ref()));
    let answer = answer.await.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
    Announcement::from_patroni(&answer).ok_or_else(|| "the answer is not Patroni's".to_owned())
}

/// Asks the leader's Patroni to make another member the leader; returns when it has. `login`: user and password, where it wants to know who asks.
///
/// # Errors
/// What it says, or that it cannot be asked.
pub async fn ask_switchover(
    leader: &Member,
    candidate: &Member,
    login: Option<(&str, &str)>,
    tls: Option<&ClientConfig>,
) -> Result<(), String> {
    let url = leader.api_url.as_ref().and_then(|url| url.parse::<Uri>().ok());
    let url = url.ok_or_else(|| format!("{} does not say where its Patroni is asked", leader.name))?;
    let body = serde_json::json!({"leader": leader.name, "candidate": candidate.name}).to_string();
    let basic = login.map(|(user, password)| format!("Basic {}", BASE64.encode(format!("{user}:{password}"))));
    let authorization = basic.as_deref();
    let question = Question { method: Method::POST, url: &url, path: "/switchover", body, authorization };
    match tokio::time::timeout(SWITCHOVER_MAX, question.ask(tls)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(failure)) => Err(format!("Patroni will not switch over: {failure}")),
        Err(_) => Err("Patroni does not answer".to_owned()),
    }
}

/// How long a switchover may take: Patroni answers when it is done.
const SWITCHOVER_MAX: Duration = Duration::from_secs(60);

/// How many times as often it is asked while somebody waits.
const HURRY: u32 = 20;

#[cfg(test)]
mod tests {
    use super::super::server::Server;
    use super::*;

    /// Asks for a switchover with this login; returns the header that Patroni gets.
    async fn authorization(login: Option<(&str, &str)>) -> Option<String> {
        let mut patroni = Server::start().await;
        let member = |name: &str| Member {
            name: name.to_owned(),
            host: name.to_owned(),
            port: 1,
            timeline: None,
            api_url: Some(format!("{}patroni", patroni.url())),
            running: true,
        };
        let (leader, candidate) = (member("a"), member("b"));
        let answer = async {
            let request = patroni.next().await;
            let told = (request.path.clone(), request.body.clone(), request.authorization.clone());
            request.answer(200, "Successfully switched over").await;
            told
        };
        let (asked, (path, body, authorization)) =
            tokio::join!(ask_switchover(&leader, &candidate, login, None), answer);
        assert_eq!((asked, &*path), (Ok(()), "/switchover"));
        assert_eq!(body, r#"{"candidate":"b","leader":"a"}"#);
        authorization
    }

    #[tokio::test]
    async fn who_asks_for_a_switchover_may_have_to_say_who_he_is() {
        assert_eq!(authorization(None).await, None);
        // RFC 7617's example.
        let expected = "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==";
        assert_eq!(authorization(Some(("Aladdin", "open sesame"))).await.as_deref(), Some(expected));
    }
}
