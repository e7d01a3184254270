//! What a certificate says, for those who ask: whose it is, and what binds a login to it.
//!
//! Verifies nothing. Whoever asks for a subject has had the certificate verified.

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::asn1::{ContextSpecific, ObjectIdentifier, PrintableStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::CN;
use x509_cert::der::oid::db::rfc5912 as algorithm;
use x509_cert::der::{Decode, Encode, Reader, SliceReader, TagNumber};
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;
use x509_cert::spki::AlgorithmIdentifierOwned;

/// Whose a certificate is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The first common name, if there is any that is text.
    pub common_name: Option<String>,
    /// All of the name, as RFC 4514 writes it.
    pub name: String,
}

/// The subject of a certificate; `None` when it cannot be read.
pub fn subject(certificate: &CertificateDer<'_>) -> Option<Subject> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(Subject { common_name: common_name(&certificate), name: certificate.tbs_certificate.subject.to_string() })
}

/// The channel binding `tls-server-end-point` of a server's certificate; `None` when its signature has no hash to make it with.
///
/// "The hash of the TLS server's certificate as it appears, octet for octet [...] if the certificate's signatureAlgorithm uses a
/// single hash function, and that hash function is either MD5 or SHA-1, then use SHA-256" (RFC 5929).
pub fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let signature = &parsed.signature_algorithm;
    let hash = if signature.oid == algorithm::ID_RSASSA_PSS { pss_hash(signature)? } else { signature.oid };
    Some(match hash {
        algorithm::ID_MD_5
        | algorithm::ID_SHA_1
        | algorithm::ID_SHA_256
        | algorithm::MD_5_WITH_RSA_ENCRYPTION
        | algorithm::SHA_1_WITH_RSA_ENCRYPTION
        | algorithm::SHA_256_WITH_RSA_ENCRYPTION
        | algorithm::ECDSA_WITH_SHA_256 => Sha256::digest(certificate).to_vec(),
        algorithm::ID_SHA_384 | algorithm::SHA_384_WITH_RSA_ENCRYPTION | algorithm::ECDSA_WITH_SHA_384 => {
            Sha384::digest(certificate).to_vec()
        }
        algorithm::ID_SHA_512 | algorithm::SHA_512_WITH_RSA_ENCRYPTION | algorithm::ECDSA_WITH_SHA_512 => {
            Sha512::digest(certificate).to_vec()
        }
        _ => return None,
    })
}

/// Whether a certificate without any alternative name has this host for its common name, as libpq goes by it still.
pub(crate) fn names_only(certificate: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(certificate) = Certificate::from_der(certificate) else { return false };
    let Ok(alternatives) = certificate.tbs_certificate.get::<SubjectAltName>() else { return false };
    let is_host = |name: &GeneralName| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_));
    if alternatives.is_some_and(|(_, alternatives)| alternatives.0.iter().any(is_host)) {
        return false;
    }
    common_name(&certificate).is_some_and(|name| matches(&name, host))
}

/// Whether the present time, in seconds since 1970, lies within a certificate's validity.
pub(crate) fn is_valid_at(certificate: &CertificateDer<'_>, now: u64) -> bool {
    let Ok(certificate) = Certificate::from_der(certificate) else { return false };
    let validity = certificate.tbs_certificate.validity;
    (validity.not_before.to_unix_duration().as_secs()..=validity.not_after.to_unix_duration().as_secs()).contains(&now)
}

fn common_name(certificate: &Certificate) -> Option<String> {
    let parts = certificate.tbs_certificate.subject.0.iter().flat_map(|part| part.0.iter());
    let value = &parts.filter(|part| part.oid == CN).map(|part| &part.value).next()?;
    let bytes = value.to_der().ok()?;
    let name = Utf8StringRef::from_der(&bytes)
        .map(|text| text.as_str().to_owned())
        .or_else(|_| PrintableStringRef::from_der(&bytes).map(|text| text.as_str().to_owned()))
        .ok()?;
    // A zero byte would end the name for whoever compares it in C.
    (!name.contains('\0')).then_some(name)
}

/// `*.example.org` stands for one more label, as in libpq's `wildcard_certificate_match`.
fn matches(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => {
            host.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain))
        }
        None => pattern.eq_ignore_ascii_case(host),
    }
}

/// The hash that RSASSA-PSS was parametrized with; SHA-1 unless it says otherwise (RFC 4055).
fn pss_hash(signature: &AlgorithmIdentifierOwned) -> Option<ObjectIdentifier> {
    let Some(parameters) = &signature.parameters else { return Some(algorithm::ID_SHA_1) };
    let mut reader = SliceReader::new(parameters.value()).ok()?;
    if reader.is_finished() {
        return Some(algorithm::ID_SHA_1);
    }
    let hash = ContextSpecific::<AlgorithmIdentifierOwned>::decode_explicit(&mut reader, TagNumber::N0).ok()?;
    Some(hash.map_or(algorithm::ID_SHA_1, |hash| hash.value.oid))
}
