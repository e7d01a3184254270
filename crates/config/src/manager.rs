//! Who manages a cluster: where Patroni's members and etcd's are asked who the leader is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::address::Address;
use crate::reader::Section;
use crate::secret::Secret;
use crate::sections::plain_password;
use crate::tls::{Ciphers, Protocols, ServerTls, SslMode};

/// The cluster managers of a cluster; none when both lists are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Managers {
    /// Patroni's REST interfaces.
    pub patroni: Vec<Url>,
    /// Who asks Patroni for a switchover, where it wants to know.
    pub patroni_login: Option<(String, Secret)>,
    /// The members of etcd.
    pub etcd: Vec<Url>,
    /// Where Patroni keeps the cluster's keys in etcd: namespace and scope, with a slash at the end.
    pub prefix: String,
    /// Who asks etcd, where it wants to know.
    pub login: Option<(String, Secret)>,
    /// What is believed of those with an `https` address.
    pub tls: ServerTls,
}

/// The address of an HTTP server, without a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Whether it begins with `https`.
    pub encrypted: bool,
    /// Host and port.
    pub address: Address,
}

impl Managers {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Managers {
        let patroni: Vec<Url> = section.optional("patroni").unwrap_or_default();
        let etcd: Vec<Url> = section.optional("etcd").unwrap_or_default();
        let scope: Option<String> = section.optional("patroni_scope");
        let namespace = section.value("patroni_namespace", "/service".to_owned());
        let patroni_login = login(section, "patroni_user", "patroni_password");
        let etcd_login = login(section, "etcd_user", "etcd_password");
        let file = |section: &mut Section<'_, '_>, key| section.optional::<String>(key).map(PathBuf::from);
        let ca_file = file(section, "manager_tls_ca_file");
        let cert_file = file(section, "manager_tls_cert_file");
        let key_file = file(section, "manager_tls_key_file");
        let mut needs = |key: &str, needed: &str| needs(section, key, needed);
        if !etcd.is_empty() && scope.is_none() {
            needs("etcd", "patroni_scope");
        }
        for (key, urls) in [("patroni", &patroni), ("etcd", &etcd)] {
            if urls.iter().any(|url| url.encrypted) && ca_file.is_none() {
                needs(key, "manager_tls_ca_file");
            }
        }
        match (&cert_file, &key_file) {
            (Some(_), None) => needs("manager_tls_cert_file", "manager_tls_key_file"),
            (None, Some(_)) => needs("manager_tls_key_file", "manager_tls_cert_file"),
            _ => {}
        }
        let tls = ServerTls {
            sslmode: if ca_file.is_some() { SslMode::VerifyFull } else { SslMode::Disable },
            ca_file,
            cert_file,
            key_file,
            protocols: Protocols::Secure,
            ciphers: Ciphers::default(),
        };
        let prefix = format!("/{}/{}/", namespace.trim_matches('/'), scope.unwrap_or_default().trim_matches('/'));
        Managers { patroni, patroni_login, etcd, prefix: prefix.replace("//", "/"), login: etcd_login, tls }
    }
}

/// A user and his password: neither without the other.
fn login(
    section: &mut Section<'_, '_>,
    user_key: &'static str,
    password_key: &'static str,
) -> Option<(String, Secret)> {
    let (user, password) = (section.optional::<String>(user_key), plain_password(section, password_key));
    match (&user, &password) {
        (Some(_), None) => needs(section, user_key, password_key),
        (None, Some(_)) => needs(section, password_key, user_key),
        _ => {}
    }
    user.zip(password)
}

fn needs(section: &mut Section<'_, '_>, key: &str, needed: &str) {
    let place = section.place_of(key);
    section.problem(place, format!("{key:?} needs {needed:?}"));
}

impl FromStr for Url {
    type Err = String;

    /// Reads `http://host:port` or `https://host:port`.
    fn from_str(text: &str) -> Result<Url, String> {
        let (encrypted, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => return Err(format!("{text:?} does not begin with \"http://\" or \"https://\"")),
        };
        let rest = rest.trim_end_matches('/');
        // The default of an address is PostgreSQL's port, which is nobody's here.
        if !rest.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(format!("{text:?} has no port"));
        }
        if rest.starts_with('/') {
            return Err(format!("{text:?} has no host"));
        }
        Ok(Url { encrypted, address: rest.parse()? })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.encrypted { "https" } else { "http" }, self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    const LEAST: &str =
        "[[users]]\nname = \"u\"\npassword = \"x\"\n[databases.\"*\"]\n[clusters.a]\nservers = [\"a\"]\n";

    #[test]
    fn logins() {
        for of in ["patroni", "etcd"] {
            for (stated, missing) in [("user", "password"), ("password", "user")] {
                let problems =
                    Config::parse(&format!("{LEAST}{of}_{stated} = \"hakem\""), "f").err().unwrap_or_default();
                let expected = format!("\"{of}_{stated}\" needs \"{of}_{missing}\"");
                assert!(problems.iter().any(|problem| problem.message.contains(&expected)), "{problems:?}");
            }
        }
        let text = format!("{LEAST}patroni_user = \"p\"\npatroni_password = \"secret\"");
        let managers = &Config::parse(&text, "f").unwrap().clusters["a"].managers;
        let login = managers.patroni_login.as_ref().map(|(user, password)| (&**user, password.expose()));
        assert_eq!((login, &managers.login), (Some(("p", "secret")), &None));
    }

    #[test]
    fn urls() {
        for (text, expected) in [
            ("http://10.0.0.1:8008", Ok("http://10.0.0.1:8008")),
            ("https://Etcd:2379/", Ok("https://etcd:2379")),
            ("http://[::1]:2379", Ok("http://[::1]:2379")),
            ("10.0.0.1:8008", Err("does not begin with")),
            ("http://10.0.0.1", Err("has no port")),
            ("http://a:1/path", Err("has no port")),
            ("http:///x:1", Err("has no host")),
        ] {
            match (text.parse::<Url>(), expected) {
                (Ok(url), Ok(expected)) => assert_eq!(url.to_string(), expected),
                (Err(reason), Err(expected)) => assert!(reason.contains(expected), "{text}: {reason}"),
                (found, _) => panic!("{text}: {found:?}"),
            }
        }
    }
}
