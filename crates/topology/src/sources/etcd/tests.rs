//! An etcd that does as the test says.

use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::SourceKind;
use super::super::server::{Request, Server};
use super::*;
use crate::watcher::News;

/// The source that asks, and what it tells.
struct Asking {
    news: mpsc::Receiver<News>,
    task: JoinHandle<()>,
}

impl Asking {
    fn start(urls: Vec<Uri>, login: Option<(&str, &str)>) -> Asking {
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        let kind = SourceKind::Etcd { urls, prefix: "/".to_owned(), login };
        let source = Source { kind, tls: None, timeout: TIMEOUT, interval: INTERVAL };
        let (teller, news) = mpsc::channel(1);
        let waiting = tokio::sync::watch::Sender::new(0).subscribe();
        Asking { news, task: tokio::spawn(source.run(0, teller, waiting)) }
    }

    /// Whether it is told that etcd has answered.
    async fn answered(&mut self) -> bool {
        match self.news.recv().await {
            Some(News::Heard(0, heard)) => heard.is_some(),
            _ => panic!("a source tells of itself, for as long as it is heard"),
        }
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers each request by this; returns the paths that have been asked for.
fn serve(
    mut server: Server,
    mut answer: impl FnMut(&Request) -> (u16, String) + Send + 'static,
) -> Arc<Mutex<Vec<String>>> {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let paths = asked.clone();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let request = server.next().await;
            paths.lock().unwrap().push(request.path.clone());
            match answer(&request) {
                // Its end is the client's to make.
                (200, body) if request.path == WATCH => open.push(request.begin(&body).await),
                (status, body) => request.answer(status, &body).await,
            }
        }
    });
    asked
}

const NOTHING: &str = r#"{"header": {"revision": "7"}}"#;
const WATCH: &str = "/v3/watch";
const LOGIN: &str = "/v3/auth/authenticate";
const TIMEOUT: Duration = Duration::from_secs(20);
const INTERVAL: Duration = Duration::from_millis(50);

/// It is asked again at the source's pace, and counts as one that answers.
async fn check_refused_watch(status: u16, answer: &'static str) {
    let server = Server::start().await;
    let mut asking = Asking::start(vec![server.url()], None);
    let asked = serve(server, move |request| match &*request.path {
        WATCH => (status, answer.to_owned()),
        _ => (200, NOTHING.to_owned()),
    });
    let begun = Instant::now();
    for _ in 0..6 {
        assert!(asking.answered().await, "{answer}");
    }
    let watches = asked.lock().unwrap().iter().filter(|path| *path == WATCH).count();
    assert!(begun.elapsed() >= INTERVAL * 5, "{watches} watches in {:?}: {answer}", begun.elapsed());
    assert!(watches >= 5, "{answer}");
}

#[tokio::test]
async fn a_store_that_cannot_be_watched_is_asked_again_and_again() {
    check_refused_watch(200, r#"{"result": {"created": true, "canceled": true, "cancel_reason": "no permission"}}"#)
        .await;
    check_refused_watch(200, r#"{"error": {"grpc_code": 7, "message": "no permission"}}"#).await;
    check_refused_watch(403, r#"{"error": "no permission"}"#).await;
    check_refused_watch(503, "<html>").await;
    check_refused_watch(200, "<html>").await;
}

#[tokio::test]
async fn a_change_is_known_when_it_happens() {
    let server = Server::start().await;
    let mut asking = Asking::start(vec![server.url()], None);
    let (mut number, begun) = (0, Instant::now());
    serve(server, move |request| {
        number += 1;
        match &*request.path {
            WATCH => (200, "{\"result\": {\"created\": true}}\n{\"result\": {\"events\": [{}]}}\n".to_owned()),
            _ => (200, NOTHING.replace('7', &number.to_string())),
        }
    });
    assert!(asking.answered().await && asking.answered().await);
    assert!(begun.elapsed() < READ_INTERVAL, "it took {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_token_that_is_refused_is_replaced() {
    let server = Server::start().await;
    let mut asking = Asking::start(vec![server.url()], Some(("hakem", "secret")));
    // Each token is good for one read.
    let (mut token, mut read) = (0, false);
    let asked = serve(server, move |request| match &*request.path {
        LOGIN => {
            assert_eq!(request.authorization, None);
            assert_eq!(request.body, r#"{"name":"hakem","password":"secret"}"#);
            (token, read) = (token + 1, false);
            (200, format!(r#"{{"token": "{token}"}}"#))
        }
        WATCH => (401, r#"{"error": "etcdserver: invalid auth token", "code": 16}"#.to_owned()),
        _ if read => (401, r#"{"error": "etcdserver: invalid auth token", "code": 16}"#.to_owned()),
        _ => {
            assert_eq!(request.authorization, Some(token.to_string()));
            read = true;
            (200, NOTHING.to_owned())
        }
    });
    for _ in 0..4 {
        assert!(asking.answered().await, "{asked:?}");
    }
    // One that is refused for good does not answer.
    let server = Server::start().await;
    let mut asking = Asking::start(vec![server.url()], Some(("hakem", "secret")));
    serve(server, |request| match &*request.path {
        LOGIN => (200, r#"{"token": "t"}"#.to_owned()),
        _ => (403, r#"{"error": "etcdserver: permission denied", "code": 7}"#.to_owned()),
    });
    assert!(!asking.answered().await);
}

/// Members that say nothing cost no time while another one answers, and together no more than one of them.
#[tokio::test]
async fn dead_members() {
    let (mute, deaf, server) = (Server::start().await, Server::start().await, Server::start().await);
    let begun = Instant::now();
    let mut asking = Asking::start(vec![mute.url(), deaf.url(), server.url()], None);
    serve(server, |_| (200, NOTHING.to_owned()));
    assert!(asking.answered().await);
    assert!(begun.elapsed() < TIMEOUT, "it took {:?}", begun.elapsed());
}

fn check_news(parts: &[&str], expected: &[Option<Result<(), &str>>]) {
    let mut unread = Vec::new();
    let news: Vec<_> = parts
        .iter()
        .map(|part| {
            unread.extend_from_slice(part.as_bytes());
            take_news(&mut unread)
        })
        .collect();
    let expected: Vec<_> = expected.iter().map(|news| news.map(|news| news.map_err(str::to_owned))).collect();
    assert_eq!(news, expected, "{parts:?}");
}

#[test]
fn messages_come_in_pieces() {
    check_news(&["", "{\"result\": {\"created\": true}}\n"], &[None, None]);
    check_news(
        &["{\"result\": {\"eve", "nts\": [{\"type\": \"PUT\"}]}}", "\n{", "\"result\": {}}"],
        &[None, Some(Ok(())), None, None],
    );
    check_news(
        &["{\"result\": {\"events\": [1]}}{\"result\": {\"canceled\": true, \"cancel_reason\": \"compacted\"}}\n"],
        &[Some(Err("cancelled: compacted"))],
    );
    check_news(&["<html>"], &[Some(Err("the message is not etcd's"))]);
}
