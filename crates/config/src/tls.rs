//! `[tls]`: who has to encrypt, and what is shown and believed for it, towards clients and towards servers.
//!
//! Names files and does not read them. The names of the keys and of the modes are PgBouncer's.

use std::path::PathBuf;

use toml::de::DeValue;

use crate::reader::Section;
use crate::value::{Keyword, Refusal, Value, refuse};

/// `[tls]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The keys that begin with `client_tls_`.
    pub client: ClientTls,
    /// The keys that begin with `server_tls_`, for clusters that do not state their own.
    pub server: ServerTls,
}

/// How clients connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Whether a client may encrypt, must, and must show a certificate.
    pub sslmode: SslMode,
    /// The certificate that clients are shown, with those that it was signed by. Always there unless the mode is
    /// [`SslMode::Disable`].
    pub cert_file: Option<PathBuf>,
    /// Its private key. Always there with `cert_file`.
    pub key_file: Option<PathBuf>,
    /// Who may sign clients' certificates. Always there in the modes that verify.
    pub ca_file: Option<PathBuf>,
    /// The versions of TLS.
    pub protocols: Protocols,
    /// What is encrypted with.
    pub ciphers: Ciphers,
}

/// How the servers of a cluster are connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerTls {
    /// Whether to encrypt, and what is believed of whom.
    pub sslmode: SslMode,
    /// Who may sign a server's certificate. Always there in the modes that verify.
    pub ca_file: Option<PathBuf>,
    /// The certificate that servers are shown when they ask for one.
    pub cert_file: Option<PathBuf>,
    /// Its private key. There when `cert_file` is.
    pub key_file: Option<PathBuf>,
    /// The versions of TLS.
    pub protocols: Protocols,
    /// What is encrypted with.
    pub ciphers: Ciphers,
}

/// libpq's modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SslMode {
    /// Never.
    Disable,
    /// As `Prefer`; PgBouncer makes no difference.
    Allow,
    /// Where the other side can; nobody proves anything.
    Prefer,
    /// Always; nobody proves anything.
    Require,
    /// Always, and the other side shows a certificate that is signed by one of ours.
    VerifyCa,
    /// A server's certificate must name the host that was connected to, too. For clients the same as `VerifyCa`.
    VerifyFull,
}

/// The versions of TLS that are spoken. Older ones than these are broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Protocols {
    /// 1.2 and 1.3.
    Secure,
    /// 1.2 only.
    Tls12,
    /// 1.3 only.
    Tls13,
}

/// Cipher suites by their IANA names, as rustls writes them; none for its default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ciphers(pub Vec<&'static str>);

impl Tls {
    pub(crate) fn read(section: &mut Section<'_, '_>) -> Tls {
        let client = ClientTls {
            sslmode: section.value("client_tls_sslmode", SslMode::Disable),
            cert_file: file(section.value("client_tls_cert_file", String::new())),
            key_file: file(section.value("client_tls_key_file", String::new())),
            ca_file: file(section.value("client_tls_ca_file", String::new())),
            protocols: section.value("client_tls_protocols", Protocols::Secure),
            ciphers: section.value("client_tls_ciphers", Ciphers::default()),
        };
        if client.sslmode != SslMode::Disable {
            needs(section, "client_tls_sslmode", "client_tls_cert_file", client.cert_file.is_some());
            needs(section, "client_tls_sslmode", "client_tls_key_file", client.key_file.is_some());
        }
        if client.sslmode >= SslMode::VerifyCa {
            needs(section, "client_tls_sslmode", "client_tls_ca_file", client.ca_file.is_some());
        }
        if client.protocols == Protocols::Secure {
            agree(section, "client_tls_ciphers", &client.ciphers);
        }
        let server = ServerTls {
            sslmode: section.value("server_tls_sslmode", SslMode::Prefer),
            ca_file: file(section.value("server_tls_ca_file", String::new())),
            cert_file: file(section.value("server_tls_cert_file", String::new())),
            key_file: file(section.value("server_tls_key_file", String::new())),
            protocols: section.value("server_tls_protocols", Protocols::Secure),
            ciphers: section.value("server_tls_ciphers", Ciphers::default()),
        };
        server.check(section);
        Tls { client, server }
    }
}

impl ServerTls {
    /// Reads what a cluster states of its own; what it does not is everybody's.
    pub(crate) fn read(section: &mut Section<'_, '_>, everybody: &ServerTls) -> ServerTls {
        let path = |section: &mut Section<'_, '_>, key, default: &Option<PathBuf>| {
            section.optional::<String>(key).map_or_else(|| default.clone(), file)
        };
        let server = ServerTls {
            sslmode: section.optional("server_tls_sslmode").unwrap_or(everybody.sslmode),
            ca_file: path(section, "server_tls_ca_file", &everybody.ca_file),
            cert_file: path(section, "server_tls_cert_file", &everybody.cert_file),
            key_file: path(section, "server_tls_key_file", &everybody.key_file),
            protocols: section.optional("server_tls_protocols").unwrap_or(everybody.protocols),
            ciphers: section.optional("server_tls_ciphers").unwrap_or_else(|| everybody.ciphers.clone()),
        };
        // What is wrong with everybody's has been said where that stands.
        if server != *everybody {
            server.check(section);
        }
        server
    }

    fn check(&self, section: &mut Section<'_, '_>) {
        if self.sslmode >= SslMode::VerifyCa {
            needs(section, "server_tls_sslmode", "server_tls_ca_file", self.ca_file.is_some());
        }
        if self.key_file.is_some() {
            needs(section, "server_tls_key_file", "server_tls_cert_file", self.cert_file.is_some());
        }
        if self.cert_file.is_some() {
            needs(section, "server_tls_cert_file", "server_tls_key_file", self.key_file.is_some());
        }
        if self.protocols == Protocols::Secure {
            agree(section, "server_tls_ciphers", &self.ciphers);
        }
    }
}

impl Keyword for SslMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}

impl Keyword for Protocols {
    const WORDS: &'static [(&'static str, Self)] =
        &[("secure", Self::Secure), ("tlsv1.2", Self::Tls12), ("tlsv1.3", Self::Tls13)];
}

/// OpenSSL's names, separated by colons, or "default".
impl Value for Ciphers {
    fn read(value: &DeValue<'_>) -> Result<Ciphers, Refusal> {
        let written = String::read(value)?;
        if written == DEFAULT {
            return Ok(Ciphers::default());
        }
        let mut suites = Vec::new();
        for name in written.split(':') {
            let Some((_, suite)) = CIPHERS.iter().find(|(openssl, _)| *openssl == name) else {
                return Err(Refusal {
                    nearest: crate::problem::nearest(name, CIPHERS.iter().map(|(openssl, _)| *openssl)),
                    ..refuse(format!(
                        "must be {DEFAULT:?} or ciphers separated by \":\", and {name:?} is none that we have"
                    ))
                });
            };
            if suites.contains(suite) {
                return Err(refuse(format!("states {name:?} twice")));
            }
            suites.push(suite);
        }
        Ok(Ciphers(suites))
    }

    fn show(&self) -> String {
        let openssl =
            |suite: &&str| CIPHERS.iter().find(|(_, known)| known == suite).map_or("", |(openssl, _)| openssl);
        let names: Vec<&str> = self.0.iter().map(openssl).collect();
        if names.is_empty() { format!("{DEFAULT:?}") } else { format!("{:?}", names.join(":")) }
    }
}

fn file(path: String) -> Option<PathBuf> {
    (!path.is_empty()).then(|| path.into())
}

/// Notes a problem when a key lacks another one.
fn needs(section: &mut Section<'_, '_>, key: &'static str, needed: &'static str, is_there: bool) {
    // A key that could not be read has been complained about.
    if !is_there && section.place_of(needed).is_none() {
        let place = section.place_of(key).or_else(|| section.place());
        section.problem(place, format!("this {key:?} needs {needed:?}"));
    } else if !is_there {
        let place = section.place_of(needed);
        section.problem(place, format!("{needed:?} must not be empty: {key:?} needs it"));
    }
}

/// A list of ciphers for two versions of TLS that leaves one of them without any would only fail in some client's handshake.
fn agree(section: &mut Section<'_, '_>, key: &'static str, ciphers: &Ciphers) {
    let newer = |suite: &&'static str| suite.starts_with(TLS13_PREFIX);
    if !ciphers.0.is_empty() && (ciphers.0.iter().all(newer) || !ciphers.0.iter().any(newer)) {
        let place = section.place_of(key).or_else(|| section.place());
        section.problem(
            place,
            format!("{key:?} must name ciphers of TLS 1.2 and of TLS 1.3, or the protocols only one of them"),
        );
    }
}

const DEFAULT: &str = "default";
const TLS13_PREFIX: &str = "TLS13_";

/// OpenSSL's names and rustls's for what rustls has.
const CIPHERS: &[(&str, &str)] = &[
    ("TLS_AES_256_GCM_SHA384", "TLS13_AES_256_GCM_SHA384"),
    ("TLS_AES_128_GCM_SHA256", "TLS13_AES_128_GCM_SHA256"),
    ("TLS_CHACHA20_POLY1305_SHA256", "TLS13_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"),
    ("ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
    ("ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"),
    ("ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    const LEAST: &str =
        "[[users]]\nname = \"app\"\npassword = \"x\"\n[databases.\"*\"]\n[clusters.main]\nservers = [\"db1\"]\n";

    fn check(cluster: &str, tls: &str, expected: &[&str]) {
        let text = format!("{LEAST}{cluster}\n[tls]\n{tls}\n");
        let problems = Config::parse(&text, "f").err().unwrap_or_default();
        let found: Vec<&str> = problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn what_needs_what() {
        check("", "", &[]);
        check(
            "",
            "client_tls_sslmode = \"require\"",
            &[
                "this \"client_tls_sslmode\" needs \"client_tls_cert_file\"",
                "this \"client_tls_sslmode\" needs \"client_tls_key_file\"",
            ],
        );
        let pair = "client_tls_cert_file = \"c\"\nclient_tls_key_file = \"k\"\n";
        check("", &format!("{pair}client_tls_sslmode = \"allow\""), &[]);
        check(
            "",
            &format!("{pair}client_tls_sslmode = \"verify-ca\"\nclient_tls_ca_file = \"\""),
            &["\"client_tls_ca_file\" must not be empty: \"client_tls_sslmode\" needs it"],
        );
        check(
            "",
            "server_tls_sslmode = \"verify-full\"",
            &["this \"server_tls_sslmode\" needs \"server_tls_ca_file\""],
        );
        check("", "server_tls_cert_file = \"c\"", &["this \"server_tls_cert_file\" needs \"server_tls_key_file\""]);
        check("server_tls_sslmode = \"verify-ca\"", "", &["this \"server_tls_sslmode\" needs \"server_tls_ca_file\""]);
        check("server_tls_sslmode = \"verify-ca\"", "server_tls_ca_file = \"ca\"", &[]);
        check(
            "",
            "client_tls_sslmode = \"requires\"",
            &[
                "\"client_tls_sslmode\" must be one of \"disable\", \"allow\", \"prefer\", \"require\", \"verify-ca\", \"verify-full\", not \"requires\"",
            ],
        );
    }

    #[test]
    fn ciphers() {
        let both = "TLS_AES_128_GCM_SHA256:ECDHE-RSA-AES256-GCM-SHA384";
        check("", &format!("server_tls_ciphers = \"{both}\""), &[]);
        check("", "server_tls_ciphers = \"default\"", &[]);
        check(
            "",
            "server_tls_ciphers = \"RC4-MD5\"",
            &[
                "\"server_tls_ciphers\" must be \"default\" or ciphers separated by \":\", and \"RC4-MD5\" is none that we have",
            ],
        );
        check(
            "",
            "client_tls_ciphers = \"TLS_AES_128_GCM_SHA256\"",
            &["\"client_tls_ciphers\" must name ciphers of TLS 1.2 and of TLS 1.3, or the protocols only one of them"],
        );
        check("", "client_tls_ciphers = \"TLS_AES_128_GCM_SHA256\"\nclient_tls_protocols = \"tlsv1.3\"", &[]);
        let config = Config::parse(&format!("{LEAST}[tls]\nserver_tls_ciphers = \"{both}\""), "f").unwrap();
        assert_eq!(
            config.clusters["main"].tls.ciphers.0,
            ["TLS13_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"]
        );
        let shown = config.settings.iter().find(|setting| setting.key == "server_tls_ciphers" && setting.stated);
        assert_eq!(shown.and_then(|setting| setting.value.clone()), Some(format!("{both:?}")));
    }

    #[test]
    fn a_cluster_has_its_own() {
        let text = format!(
            "{LEAST}server_tls_sslmode = \"disable\"\nserver_tls_ca_file = \"\"\n[tls]\nserver_tls_sslmode = \"verify-full\"\nserver_tls_ca_file = \"/ca\""
        );
        let config = Config::parse(&text, "f").unwrap();
        assert_eq!(
            (config.tls.server.sslmode, config.clusters["main"].tls.sslmode),
            (SslMode::VerifyFull, SslMode::Disable)
        );
        assert_eq!(config.clusters["main"].tls.ca_file, None);
    }
}
