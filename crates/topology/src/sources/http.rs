//! JSON over HTTP/1.1: a question on a connection of its own, and the answer whole or line by line.
//!
//! Owns the connection; hyper speaks the protocol. Redirects are not followed.

use std::io;
use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A question: to whom, what, and with which permission.
pub(super) struct Question<'a> {
    pub(super) method: Method,
    /// The server's address.
    pub(super) url: &'a Uri,
    pub(super) path: &'a str,
    pub(super) body: String,
    /// The header of that name.
    pub(super) authorization: Option<&'a str>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0} is not an address")]
    Address(String),
    #[error("cannot connect: {0}")]
    Connect(#[from] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("cannot ask: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the answer is too long, or was cut off")]
    Body,
    #[error("{0}: {1}")]
    Status(hyper::StatusCode, String),
}

impl Question<'_> {
    /// Asks, and reads the whole answer.
    ///
    /// # Errors
    /// When there is none, or it is not a success, or too long.
    pub(super) async fn ask(self, tls: Option<&ClientConfig>) -> Result<Bytes, Failure> {
        let is_asked = self.method == Method::GET;
        let answer = self.begin(tls).await?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|_| Failure::Body)?;
        match status {
            hyper::StatusCode::OK => Ok(body.to_bytes()),
            // Patroni answers 503 with the truth when it holds no lock. When it was told to do something, that has failed.
            hyper::StatusCode::SERVICE_UNAVAILABLE if is_asked => Ok(body.to_bytes()),
            other => Err(Failure::Status(other, String::from_utf8_lossy(&body.to_bytes()).into_owned())),
        }
    }

    /// Asks, and returns an answer that is still going on.
    ///
    /// # Errors
    /// When there is none, or it is not a success.
    pub(super) async fn follow(self, tls: Option<&ClientConfig>) -> Result<Incoming, Failure> {
        let answer = self.begin(tls).await?;
        let status = answer.status();
        if status == hyper::StatusCode::OK {
            return Ok(answer.into_body());
        }
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(|_| Failure::Body)?;
        Err(Failure::Status(status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
    }

    /// Asks, and returns the answer as far as its headers.
    async fn begin(self, tls: Option<&ClientConfig>) -> Result<Response<Incoming>, Failure> {
        let bad = || Failure::Address(self.url.to_string());
        let host = self.url.host().ok_or_else(bad)?.trim_start_matches('[').trim_end_matches(']');
        let encrypted = self.url.scheme_str() == Some("https");
        let port = self.url.port_u16().unwrap_or(if encrypted { 443 } else { 80 });
        let authority = self.url.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.path)
            .header(header::HOST, authority)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(authorization) = self.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(self.body)))?;
        let stream = TcpStream::connect((host, port)).await?;
        if !encrypted {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Failure::Address(host.to_owned()))?;
        let config = tls.cloned().ok_or_else(|| Failure::Address(self.url.to_string()))?;
        exchange(TlsConnector::from(Arc::new(config)).connect(name, stream).await?, request).await
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the answer's last byte, or when nobody reads the answer any more.
    drop(tokio::spawn(async move { drop(connection.await) }));
    Ok(sender.send_request(request).await?)
}

/// Bytes of an answer, or of one line of it.
pub(super) const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Whether an answer of 503 is one.
    async fn takes_unavailable(method: Method) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url: Uri = format!("http://{}", listener.local_addr().expect("bound")).parse().expect("an address");
        let server = async {
            let (mut stream, _) = listener.accept().await.expect("somebody asks");
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 17\r\n\r\nSwitchover failed";
            stream.write_all(answer).await.expect("somebody listens");
        };
        let question = Question { method, url: &url, path: "/", body: String::new(), authorization: None };
        let (answer, ()) = tokio::join!(question.ask(None), server);
        if let Err(failure) = &answer {
            assert!(failure.to_string().contains("Switchover failed"), "{failure}");
        }
        answer.is_ok()
    }

    #[tokio::test]
    async fn what_could_not_be_done_is_no_answer() {
        assert!(takes_unavailable(Method::GET).await);
        assert!(!takes_unavailable(Method::POST).await);
    }
}
