//! Certificates for tests: authorities made up on the spot, and what they sign.
//!
//! Also the tests of the crate `pool` use it.

use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType, date_time_ymd,
};

/// Somebody who signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate.
    pub(crate) pem: String,
}

/// A certificate and its key.
pub(crate) struct Pair {
    /// The certificate.
    pub(crate) chain: String,
    /// The private key.
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Authority {
        let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
        params.distinguished_name = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate of somebody with this common name, for these hosts.
    pub(crate) fn issue(&self, name: &str, hosts: &[&str]) -> Pair {
        self.sign(name, hosts, |_| {})
    }

    /// One whose time is over.
    pub(crate) fn issue_expired(&self, name: &str, hosts: &[&str]) -> Pair {
        self.sign(name, hosts, |params| params.not_after = date_time_ymd(2020, 1, 1))
    }

    fn sign(&self, name: &str, hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pair {
        let mut params = params(name, hosts);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Pair { chain: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

impl Pair {
    /// One that nobody has signed but itself, as PostgreSQL's manual makes it.
    pub(crate) fn of_its_own(name: &str, hosts: &[&str]) -> Pair {
        let (mut params, key) = (params(name, hosts), KeyPair::generate().unwrap());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Pair { chain: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    /// Writes both beside each other, for the owner of the directory only; their paths.
    pub(crate) fn write(&self, directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        (write(directory, &format!("{name}.crt"), &self.chain), write(directory, &format!("{name}.key"), &self.key))
    }
}

/// Writes a file for the owner of its directory only, in place of one that may be there.
pub(crate) fn write(directory: &Path, name: &str, text: &str) -> PathBuf {
    let (path, fresh) = (directory.join(name), directory.join(format!("{name}.new")));
    std::fs::write(&fresh, text).unwrap();
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).unwrap();
    let owner = std::fs::metadata(directory).unwrap();
    chown(&fresh, Some(owner.uid()), Some(owner.gid())).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    path
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    let host = |host: &&str| match host.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName((*host).try_into().unwrap()),
    };
    params.subject_alt_names = hosts.iter().map(host).collect();
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::OrganizationName, "Hakem");
    named.push(DnType::CommonName, name);
    named
}
