//! One connection: logged in by SCRAM, encrypted or not, and read by headers only, so that what is measured is not this program.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use auth::{Cleartext, Credential, ServerLogin, Step};
use clap::Args;
use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use wire::backend::{Report, tag};

/// Where to knock, and as whom.
#[derive(Args, Clone, Debug)]
pub(crate) struct Door {
    #[arg(long)]
    pub(crate) port: u16,
    #[arg(long)]
    user: String,
    #[arg(long)]
    password: String,
    #[arg(long)]
    database: String,
    /// Encrypt, and believe this certificate
    #[arg(long)]
    certificate: Option<PathBuf>,
}

/// Encrypted or not.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A session.
pub(crate) struct Client {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) frames: Reader,
}

/// Walks what a server says, across the borders of reads.
pub(crate) struct Reader {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Of the body of the last frame, what has not been read yet.
    rest: usize,
    /// Bytes read so far.
    pub(crate) total: u64,
}

impl Client {
    /// Logs in. `buffer_bytes` is how much is read at a time.
    pub(crate) async fn log_in(door: &Door, tls: Option<&TlsConnector>, buffer_bytes: usize) -> Result<Client> {
        let mut stream = TcpStream::connect(("127.0.0.1", door.port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(tls) => {
                let mut request = Vec::new();
                wire::startup::put_ssl_request(&mut request);
                stream.write_all(&request).await?;
                if stream.read_u8().await? != b'S' {
                    bail!("nobody encrypts on port {}", door.port);
                }
                Box::new(tls.connect(ServerName::try_from("localhost")?, stream).await?)
            }
        };
        let mut client = Client { stream, frames: Reader::new(buffer_bytes) };
        let mut out = Vec::new();
        wire::startup::put_session(&mut out, [("user", door.user.as_str()), ("database", door.database.as_str())]);
        client.say(&out).await?;
        let mut login = ServerLogin::new(
            &door.user,
            Credential::Password(door.password.clone()),
            Cleartext::Refused,
            rand::random(),
        );
        loop {
            match client.frames.next(&mut client.stream).await? {
                tag::READY_FOR_QUERY => return Ok(client),
                tag::AUTHENTICATION => {
                    let body = client.frames.body(&mut client.stream).await?;
                    if let Step::Send(answer) = login.on_message(body)? {
                        out.clear();
                        wire::frontend::put_password_message(&mut out, &answer);
                        client.say(&out).await?;
                    }
                }
                _ => {}
            }
        }
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads up to a message of this type; an error in between ends it.
    pub(crate) async fn until(&mut self, tag: u8) -> Result<()> {
        self.frames.until(tag, &mut self.stream).await
    }
}

impl Reader {
    fn new(bytes: usize) -> Reader {
        Reader { buffer: vec![0; bytes].into(), start: 0, end: 0, rest: 0, total: 0 }
    }

    /// Reads up to a message of this type; an error in between ends it.
    pub(crate) async fn until(&mut self, tag: u8, stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<()> {
        while self.next(stream).await? != tag {}
        Ok(())
    }

    /// The type of the next message; an error is ours.
    async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<u8> {
        while self.rest > self.end - self.start {
            self.rest -= self.end - self.start;
            self.start = self.end;
            self.fill(stream).await?;
        }
        self.start += std::mem::take(&mut self.rest);
        while self.end - self.start < HEADER_BYTES {
            self.fill(stream).await?;
        }
        let header = &self.buffer[self.start..self.start + HEADER_BYTES];
        let length = u32::from_be_bytes(*header[1..].first_chunk().context("a header is five bytes")?);
        let tag = header[0];
        self.start += HEADER_BYTES;
        self.rest = (length as usize).saturating_sub(4);
        if tag == tag::ERROR_RESPONSE {
            let body = self.body(stream).await?;
            bail!("the server says: {}", Report::new(body).message());
        }
        Ok(tag)
    }

    /// The body of the message, where it fits into the buffer.
    async fn body(&mut self, stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<&[u8]> {
        while self.end - self.start < self.rest {
            self.fill(stream).await?;
        }
        Ok(&self.buffer[self.start..self.start + self.rest])
    }

    async fn fill(&mut self, stream: &mut (impl AsyncRead + Unpin + ?Sized)) -> Result<()> {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= std::mem::take(&mut self.start);
        let read = stream.read(&mut self.buffer[self.end..]).await?;
        if read == 0 {
            bail!("the connection has ended, or a message is larger than it may be");
        }
        self.end += read;
        self.total += read as u64;
        Ok(())
    }
}

impl Door {
    /// What encrypts, where it is asked for.
    pub(crate) fn tls(&self) -> Result<Option<TlsConnector>> {
        let Some(path) = &self.certificate else { return Ok(None) };
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>()?);
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Some(TlsConnector::from(Arc::new(config))))
    }
}

const HEADER_BYTES: usize = 5;
