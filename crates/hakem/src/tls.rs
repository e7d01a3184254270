//! Encryption: what the configuration names, read from its files and put together, for clients and for servers.
//!
//! Owns [`Encryption`], what clients are offered at the moment, and the handshake with one of them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use config::{ClientTls, Config, Protocols, ServerTls, SslMode};
use pool::certificate::{self, Subject};
use pool::tls::{self, Tls, TlsOptions, Trust};
use pool::{Peer, Socket, Stream};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;

use crate::login::{Guest, Refusal};

/// What clients are offered. Exchanged as a whole when the configuration or the files have changed; connections that exist keep
/// what they have.
pub(crate) struct Encryption {
    offer: ArcSwap<Offer>,
    handshakes: AtomicU64,
    failures: AtomicU64,
}

/// What a client is offered when it comes.
struct Offer {
    mode: SslMode,
    /// `None` when nothing is offered.
    acceptor: Option<Acceptor>,
}

#[derive(Clone)]
struct Acceptor {
    config: Arc<ServerConfig>,
    end_point: Option<Arc<[u8]>>,
}

/// What is known of an encrypted connection with a client.
#[derive(Clone, Debug, Default)]
pub(crate) struct Security {
    /// `None` for a connection in the clear.
    pub(crate) tls: Option<TlsInfo>,
}

/// What a handshake has shown.
#[derive(Clone, Debug)]
pub(crate) struct TlsInfo {
    /// The channel binding `tls-server-end-point`; `None` where our certificate has none.
    pub(crate) end_point: Option<Arc<[u8]>>,
    /// Whose the client's certificate is, which was verified. `None` when it has shown none.
    pub(crate) subject: Option<Subject>,
}

/// How a client asks for encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// By SSLRequest.
    Politely,
    /// By beginning with the handshake.
    Directly,
}

/// All that a configuration needs of its files.
pub(crate) struct Files {
    offer: Offer,
    /// Towards servers, and towards those who manage them.
    clusters: BTreeMap<String, [Option<Tls>; 2]>,
}

impl Files {
    /// Reads them.
    ///
    /// # Errors
    /// When a file cannot be read, or does not hold what it should.
    pub(crate) fn read(config: &Config) -> Result<Files> {
        let offer = Offer::read(&config.tls.client)?;
        let cluster = |(name, cluster): (&String, &config::Cluster)| {
            Ok((name.clone(), [towards(&cluster.tls)?, towards(&cluster.managers.tls)?]))
        };
        Ok(Files { offer, clusters: config.clusters.iter().map(cluster).collect::<Result<_>>()? })
    }

    /// How a cluster's servers are connected to, and how those who manage it are; `None` for in the clear.
    pub(crate) fn cluster(&self, name: &str) -> [Option<Tls>; 2] {
        self.clusters.get(name).cloned().unwrap_or_default()
    }
}

impl Encryption {
    /// Offers what was read.
    pub(crate) fn new(files: Files) -> Encryption {
        let offer = ArcSwap::from_pointee(files.offer);
        Encryption { offer, handshakes: AtomicU64::new(0), failures: AtomicU64::new(0) }
    }

    /// Offers something else from now on.
    pub(crate) fn replace(&self, files: Files) {
        self.offer.store(Arc::new(files.offer));
    }

    /// Handshakes that succeeded, and that failed.
    pub(crate) fn handshakes(&self) -> [u64; 2] {
        [&self.handshakes, &self.failures].map(|counter| counter.load(Ordering::Relaxed))
    }

    /// Whether there is any for those who are not of this machine.
    pub(crate) fn is_offered(&self) -> bool {
        self.offer.load().acceptor.is_some()
    }

    /// Whether a client may encrypt. On a Unix socket there is nobody to hide from.
    pub(crate) fn offers(&self, peer: &Peer) -> bool {
        self.is_offered() && !matches!(peer, Peer::Unix { .. })
    }

    /// Whether a client must encrypt.
    pub(crate) fn requires(&self, peer: &Peer) -> bool {
        self.offer.load().mode >= SslMode::Require && !matches!(peer, Peer::Unix { .. })
    }

    /// Shakes hands with a client that is waiting for it; fails in words, which the client knows already.
    async fn accept(&self, socket: Socket, asked: How) -> Result<(Stream, TlsInfo), String> {
        let offer = self.offer.load_full();
        let Some(Acceptor { config, end_point }) = offer.acceptor.clone() else {
            return Err("encryption is not offered".to_owned());
        };
        let stream = TlsAcceptor::from(config).accept(socket).await.map_err(|error| error.to_string())?;
        // "...ALPN is mandatory for direct SSL connections" (protocol-flow): else another protocol's client could be led here.
        if asked == How::Directly && stream.get_ref().1.alpn_protocol() != Some(ALPN) {
            return Err("a direct TLS connection without ALPN".to_owned());
        }
        let stream = Stream::from(tokio_rustls::TlsStream::from(stream));
        let subject = stream.certificate().and_then(certificate::subject);
        Ok((stream, TlsInfo { end_point, subject }))
    }
}

/// Has a guest's connection encrypted.
///
/// # Errors
/// When that fails, which is logged; the connection is closed then.
pub(crate) async fn secure(guest: &mut Guest, encryption: &Encryption, how: How) -> Result<(), Refusal> {
    let Stream::Plain(socket) = std::mem::replace(&mut guest.stream, Stream::Plain(Socket::away())) else {
        return Err(Refusal::Silent);
    };
    match encryption.accept(socket, how).await {
        Ok((stream, tls)) => {
            encryption.handshakes.fetch_add(1, Ordering::Relaxed);
            let (encryption, subject) = (stream.encryption(), tls.subject.as_ref().map(|subject| &subject.name));
            let binds = tls.end_point.is_some();
            tracing::debug!(peer = %guest.peer, encryption, subject, binds, "encrypted");
            (guest.stream, guest.security) = (stream, Security { tls: Some(tls) });
            Ok(())
        }
        Err(error) => {
            encryption.failures.fetch_add(1, Ordering::Relaxed);
            tracing::info!(peer = %guest.peer, %error, "TLS handshake failed");
            Err(Refusal::Silent)
        }
    }
}

impl Offer {
    fn read(config: &ClientTls) -> Result<Offer> {
        let (mode, ClientTls { cert_file, key_file, ca_file, .. }) = (config.sslmode, config);
        let (Some(cert_file), Some(key_file), true) = (cert_file, key_file, mode != SslMode::Disable) else {
            return Ok(Offer { mode, acceptor: None });
        };
        let chain = tls::certificates(&read(cert_file)?).with_context(|| named(cert_file))?;
        let key = tls::private_key(&read(key_file)?).with_context(|| named(key_file))?;
        let provider = tls::provider(&config.ciphers.0);
        let verifier = match ca_file {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(ca_file) => {
                let roots = Arc::new(tls::roots(&read(ca_file)?).with_context(|| named(ca_file))?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
                let optional = mode < SslMode::VerifyCa;
                if optional { verifier.allow_unauthenticated() } else { verifier }
                    .build()
                    .with_context(|| named(ca_file))?
            }
        };
        let end_point = chain.first().and_then(certificate::end_point).map(Arc::from);
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions(config.protocols))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .with_context(|| format!("{} and {}", cert_file.display(), key_file.display()))?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A session that was resumed would have been verified by what was believed before a reload. PostgreSQL resumes none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_fragment_size = Some(RECORD_BYTES_MAX);
        Ok(Offer { mode, acceptor: Some(Acceptor { config: Arc::new(config), end_point }) })
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Encryption").field("mode", &self.offer.load().mode).finish_non_exhaustive()
    }
}

/// How a cluster's servers are connected to; `None` for in the clear.
///
/// # Errors
/// When a file cannot be read, or does not hold what it should.
fn towards(config: &ServerTls) -> Result<Option<Tls>> {
    let trust = match config.sslmode {
        SslMode::Disable => return Ok(None),
        SslMode::Allow | SslMode::Prefer | SslMode::Require => Trust::Anybody,
        SslMode::VerifyCa => Trust::Signed,
        SslMode::VerifyFull => Trust::Host,
    };
    let read_if = |path: &Option<std::path::PathBuf>| path.as_deref().map(read).transpose();
    let roots = if trust == Trust::Anybody { None } else { read_if(&config.ca_file)? };
    let (chain, key) = (read_if(&config.cert_file)?, read_if(&config.key_file)?);
    let options = TlsOptions {
        optional: config.sslmode < SslMode::Require,
        trust,
        roots: roots.as_deref(),
        identity: chain.as_deref().zip(key.as_deref()),
        versions: versions(config.protocols),
        ciphers: &config.ciphers.0,
    };
    let files = [&config.ca_file, &config.cert_file, &config.key_file];
    let names = || files.into_iter().flatten().map(|path| named(path)).collect::<Vec<_>>().join(", ");
    Tls::new(&options).map(Some).with_context(names)
}

fn versions(protocols: Protocols) -> &'static [&'static SupportedProtocolVersion] {
    match protocols {
        Protocols::Secure => &SECURE,
        Protocols::Tls12 => &SECURE[1..],
        Protocols::Tls13 => &SECURE[..1],
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn named(path: &Path) -> String {
    path.display().to_string()
}

/// The versions that are not broken.
static SECURE: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// The first byte of a handshake.
pub(crate) const HANDSHAKE: u8 = 0x16;

/// The protocol's name in ALPN.
const ALPN: &[u8] = b"postgresql";

/// Bytes of a record. libpq reads at most 8 kB at a time, and an application that waits for the socket in between never learns of
/// the rest of a larger record; PostgreSQL writes none.
const RECORD_BYTES_MAX: usize = 8192;
