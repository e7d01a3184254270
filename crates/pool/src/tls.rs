//! [`Tls`]: encryption towards servers, and what both sides of the proxy have in common about it.
//!
//! Owns what is believed of a server's certificate. Reads no file: everything comes as bytes in PEM format.

use std::io;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, IpAddr, Ipv4Addr, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedProtocolVersion,
};
use sha2::{Digest, Sha256};
use tokio_rustls::{TlsConnector, TlsStream};

use crate::certificate;
use crate::socket::Socket;

/// How the connections to a server are encrypted.
#[derive(Clone)]
pub struct Tls {
    /// Whether a connection that is not encrypted will do, too.
    pub optional: bool,
    trust: Trust,
    config: Arc<ClientConfig>,
    /// Of all that it was made from.
    digest: [u8; 32],
}

/// Whom a server has to prove to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Nobody.
    Anybody,
    /// Somebody with a certificate signed by one of ours.
    Signed,
    /// Somebody with such a certificate that names the host.
    Host,
}

/// What to make [`Tls`] from.
#[derive(Clone, Copy, Debug)]
pub struct TlsOptions<'a> {
    /// Whether a connection that is not encrypted will do, too.
    pub optional: bool,
    /// What is demanded of a server.
    pub trust: Trust,
    /// Who may sign a server's certificate, in PEM format.
    pub roots: Option<&'a [u8]>,
    /// What a server is shown that asks for a certificate: that, and its private key.
    pub identity: Option<(&'a [u8], &'a [u8])>,
    /// The versions of TLS.
    pub versions: &'a [&'static SupportedProtocolVersion],
    /// Names of cipher suites; none for all.
    pub ciphers: &'a [&'static str],
}

/// Why there can be no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A text in PEM format holds no certificates, or broken ones.
    #[error("the certificates cannot be read: {0}")]
    Certificates(String),
    /// A text in PEM format holds no private key, or a broken one.
    #[error("the private key cannot be read: {0}")]
    Key(String),
    /// What was read does not go together.
    #[error("{0}")]
    Setup(#[from] rustls::Error),
}

impl Tls {
    /// Puts everything together.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(options: &TlsOptions<'_>) -> Result<Tls, TlsError> {
        let provider = provider(options.ciphers);
        let roots = match options.roots {
            Some(pem) if options.trust != Trust::Anybody => Roots::read(pem)?,
            _ => Roots { store: RootCertStore::empty(), certificates: Vec::new() },
        };
        let verifier = Arc::new(Verifier { trust: options.trust, roots, provider: provider.clone() });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(options.versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match options.identity {
            Some((chain, key)) => builder.with_client_auth_cert(certificates(chain)?, private_key(key)?)?,
            None => builder.with_no_client_auth(),
        };
        // PostgreSQL resumes no session.
        config.resumption = Resumption::disabled();
        let digest = Sha256::digest(format!("{options:?}")).into();
        Ok(Tls { optional: options.optional, trust: options.trust, config: Arc::new(config), digest })
    }

    /// Whether a server proves to be one that may be told a password.
    pub fn verifies(&self) -> bool {
        self.trust != Trust::Anybody && !self.optional
    }

    /// The same for those who make their own connections.
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// Shakes hands with a server that is ready to.
    pub(crate) async fn connect(&self, host: &str, socket: Socket) -> io::Result<TlsStream<Socket>> {
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            Err(_) if self.trust == Trust::Host => {
                return Err(io::Error::other(rustls::Error::General(format!("{host:?} is not a host's name"))));
            }
            // An address is not sent along, and nothing else looks at it.
            Err(_) => ServerName::IpAddress(IpAddr::V4(Ipv4Addr::from([0; 4]))),
        };
        Ok(TlsConnector::from(self.config.clone()).connect(name, socket).await?.into())
    }
}

/// The same when it was made from the same.
impl PartialEq for Tls {
    fn eq(&self, other: &Tls) -> bool {
        self.digest == other.digest
    }
}

impl Eq for Tls {}

/// The cryptography: all of it, or with these cipher suites only, in this order.
pub fn provider(ciphers: &[&str]) -> Arc<CryptoProvider> {
    let mut provider = ring::default_provider();
    if !ciphers.is_empty() {
        let all = std::mem::take(&mut provider.cipher_suites);
        let named = |name: &&str| all.iter().find(|suite| suite.suite().as_str() == Some(*name)).copied();
        provider.cipher_suites = ciphers.iter().filter_map(named).collect();
    }
    Arc::new(provider)
}

/// The certificates in a text.
///
/// # Errors
/// When there are none, or broken ones.
pub fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsError::Certificates(error.to_string()))?;
    if found.is_empty() { Err(TlsError::Certificates("there are none".to_owned())) } else { Ok(found) }
}

/// The private key in a text.
///
/// # Errors
/// When there is none, or a broken one.
pub fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| TlsError::Key(error.to_string()))
}

/// Those who may sign.
///
/// # Errors
/// When there is nobody.
pub fn roots(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    Roots::read(pem).map(|roots| roots.store)
}

#[derive(Debug)]
struct Roots {
    store: RootCertStore,
    certificates: Vec<CertificateDer<'static>>,
}

impl Roots {
    fn read(pem: &[u8]) -> Result<Roots, TlsError> {
        let (mut store, certificates) = (RootCertStore::empty(), certificates(pem)?);
        // Whole systems' lists hold some that are too odd to be used, and too odd to matter.
        let (usable, _) = store.add_parsable_certificates(certificates.iter().cloned());
        if usable == 0 {
            return Err(TlsError::Certificates("none of them may sign".to_owned()));
        }
        Ok(Roots { store, certificates })
    }
}

/// Believes what it was told to, in the way that libpq's modes do.
#[derive(Debug)]
struct Verifier {
    trust: Trust,
    roots: Roots,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.trust == Trust::Anybody {
            return Ok(ServerCertVerified::assertion());
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        if self.roots.certificates.iter().any(|root| root == end_entity) {
            // A server's own certificate, signed by itself and given to us to be trusted: PostgreSQL's manual shows how to make one.
            if !certificate::is_valid_at(end_entity, now.as_secs()) {
                return Err(CertificateError::Expired.into());
            }
        } else {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots.store, intermediates, now, algorithms)?;
        }
        if self.trust == Trust::Host
            && let Err(error) = verify_server_name(&parsed, server_name)
            && !certificate::names_only(end_entity, &server_name.to_str())
        {
            return Err(error);
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
