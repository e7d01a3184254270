//! A client that says exactly what a test wants said, bytes and all.
//!
//! Owns one TCP connection. It logs in only where nobody asks for a password (`[auth] method = "trust"`).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use wire::backend::{Report, tag};
use wire::frame::Frame;
use wire::frontend;
use wire::startup;

use crate::harness::{Proxy, WAIT_MAX};

/// One connection.
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    received: Vec<u8>,
}

/// A message from the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

impl Raw {
    /// A connection on which nothing has been said.
    pub(crate) async fn open(proxy: &Proxy) -> Raw {
        Raw { stream: proxy.raw().await, received: Vec::new() }
    }

    /// The same to any address.
    pub(crate) async fn at(address: SocketAddr) -> Raw {
        Raw { stream: TcpStream::connect(address).await.unwrap(), received: Vec::new() }
    }

    /// The same from an address of this machine.
    pub(crate) async fn from(proxy: &Proxy, address: [u8; 4]) -> Raw {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((address, 0).into()).unwrap();
        Raw { stream: socket.connect(proxy.address).await.unwrap(), received: Vec::new() }
    }

    /// Asks to be let in.
    pub(crate) async fn knock(&mut self, user: &str, database: &str) {
        let mut packet = Vec::new();
        startup::put_session(&mut packet, [("user", user), ("database", database)]);
        self.say(&packet).await;
    }

    /// A session of this user, without a password.
    pub(crate) async fn log_in(proxy: &Proxy, user: &str) -> Raw {
        let mut raw = Raw::open(proxy).await;
        let mut packet = Vec::new();
        startup::put_session(&mut packet, [("user", user), ("database", "postgres")]);
        raw.say(&packet).await;
        let answer = raw.until_ready().await;
        assert!(answer.iter().all(|message| message.tag != tag::ERROR_RESPONSE), "{answer:?}");
        raw
    }

    /// A session of the superuser's at any address, without a password.
    pub(crate) async fn session(address: SocketAddr) -> Raw {
        let mut raw = Raw::at(address).await;
        let mut packet = Vec::new();
        startup::put_session(&mut packet, [("user", "postgres"), ("database", "postgres")]);
        raw.say(&packet).await;
        raw.until_ready().await;
        raw
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next message; `None` when the connection has ended.
    pub(crate) async fn hear(&mut self) -> Option<Message> {
        loop {
            if let Some(frame) = Frame::take(&self.received).unwrap() {
                let message = Message { tag: frame.tag, body: frame.body().to_vec() };
                let length = frame.whole.len();
                self.received.drain(..length);
                return Some(message);
            }
            let read = tokio::time::timeout(WAIT_MAX, self.stream.read_buf(&mut self.received)).await;
            // A reset is an end, too.
            if read.expect("the proxy says nothing").unwrap_or(0) == 0 {
                assert!(self.received.is_empty(), "the connection ended within a message: {:?}", self.received);
                return None;
            }
        }
    }

    /// The next message of a connection that may end within one.
    pub(crate) async fn hear_any(&mut self) -> Option<Message> {
        loop {
            if Frame::take(&self.received).unwrap().is_some() {
                return self.hear().await;
            }
            if self.stream.read_buf(&mut self.received).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// Waits until something of the next message is there.
    pub(crate) async fn begins(&mut self) {
        while self.received.is_empty() {
            self.stream.read_buf(&mut self.received).await.unwrap();
        }
    }

    /// What has come and is no whole message.
    pub(crate) fn unread(&self) -> &[u8] {
        &self.received
    }

    /// Everything up to ReadyForQuery.
    pub(crate) async fn until_ready(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let message = self.hear().await.unwrap_or_else(|| panic!("the connection ended after {messages:?}"));
            let ready = message.tag == tag::READY_FOR_QUERY;
            messages.push(message);
            if ready {
                return messages;
            }
        }
    }

    /// A simple query and all of its answer.
    pub(crate) async fn query(&mut self, sql: &str) -> Vec<Message> {
        let mut out = Vec::new();
        frontend::put_query(&mut out, sql);
        self.say(&out).await;
        self.until_ready().await
    }

    /// Runs a named statement without parameters; all of its answer.
    pub(crate) async fn execute(&mut self, name: &str) -> Vec<Message> {
        let mut out = Vec::new();
        put_execute(&mut out, name);
        frontend::put_sync(&mut out);
        self.say(&out).await;
        self.until_ready().await
    }

    /// Prepares a named statement; all of the answer.
    pub(crate) async fn prepare(&mut self, name: &str, sql: &str) -> Vec<Message> {
        let mut out = Vec::new();
        frontend::put_parse(&mut out, name.as_bytes(), sql.as_bytes(), &[0, 0]);
        frontend::put_sync(&mut out);
        self.say(&out).await;
        self.until_ready().await
    }
}

/// Bind without parameters and Execute, through the unnamed portal.
pub(crate) fn put_execute(out: &mut Vec<u8>, name: &str) {
    frontend::put_bind(out, b"", name.as_bytes(), &[0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(b"E\0\0\0\x09\0\0\0\0\0");
}

/// The tags of an answer, as a string.
pub(crate) fn tags(messages: &[Message]) -> String {
    messages.iter().map(|message| char::from(message.tag)).collect()
}

/// The first column of the first row.
pub(crate) fn value(messages: &[Message]) -> Option<String> {
    let row = messages.iter().find(|message| message.tag == tag::DATA_ROW)?;
    let length = u32::from_be_bytes(*row.body.get(2..)?.first_chunk()?);
    Some(String::from_utf8_lossy(row.body.get(6..6 + length as usize)?).into_owned())
}

/// The SQLSTATE of the first error.
pub(crate) fn sqlstate(messages: &[Message]) -> Option<String> {
    let error = messages.iter().find(|message| message.tag == tag::ERROR_RESPONSE)?;
    Some(Report::new(&error.body).sqlstate()?.as_str().to_owned())
}
