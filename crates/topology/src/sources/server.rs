//! A server that a test answers for: each request comes out whole, on a connection of its own.

use hyper::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(super) struct Server {
    listener: TcpListener,
}

/// A request that waits for its answer.
pub(super) struct Request {
    pub(super) path: String,
    pub(super) body: String,
    pub(super) authorization: Option<String>,
    stream: TcpStream,
}

impl Server {
    pub(super) async fn start() -> Server {
        Server { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub(super) fn url(&self) -> Uri {
        format!("http://{}", self.listener.local_addr().unwrap()).parse().unwrap()
    }

    pub(super) async fn next(&mut self) -> Request {
        let (mut stream, _) = self.listener.accept().await.unwrap();
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let header = |name: &str| {
                    let fields = head.lines().filter_map(|line| line.split_once(": "));
                    fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned()).next()
                };
                if header("content-length").map_or(0, |length| length.parse().unwrap()) <= body.len() {
                    let path = head.split(' ').nth(1).unwrap().to_owned();
                    let (body, authorization) = (body.to_owned(), header("authorization"));
                    return Request { path, body, authorization, stream };
                }
            }
            assert_ne!(stream.read_buf(&mut bytes).await.unwrap(), 0, "{text}");
        }
    }
}

impl Request {
    pub(super) async fn answer(mut self, status: u16, body: &str) {
        let head = format!("HTTP/1.1 {status} So\r\nContent-Length: {}\r\n\r\n", body.len());
        // Whoever has asked may have given up.
        let _ = self.stream.write_all(format!("{head}{body}").as_bytes()).await;
    }

    /// Begins an answer that goes on for as long as the connection that is returned, to which it may be written.
    pub(super) async fn begin(mut self, body: &str) -> TcpStream {
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}");
        let _ = self.stream.write_all(answer.as_bytes()).await;
        self.stream
    }
}
