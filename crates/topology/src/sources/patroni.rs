//! Patroni's REST interface: `GET /cluster` of every member, again and again.
//!
//! Each member answers from what it last read in the store, so what one of them says may be old: what most of them say counts.

use futures_util::future::join_all;
use hyper::{Method, Uri};
use tokio::sync::watch;

use super::http::Question;
use super::{Source, Teller};
use crate::dcs::{Announcement, agree};

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
    let question = Question { method: Method::GET, url, path: "/cluster", body: String::new(), token: None };
    let answer = tokio::time::timeout(source.timeout, question.ask(source.tls.as_ref()));
    let answer = answer.await.map_err(|_| "no answer in time".to_owned())?.map_err(|error| error.to_string())?;
    Announcement::from_patroni(&answer).ok_or_else(|| "the answer is not Patroni's".to_owned())
}

/// How many times as often it is asked while somebody waits.
const HURRY: u32 = 20;
