//! The address of a PostgreSQL server as it is written in the configuration: `host:port`, or the directory of its Unix socket.
//!
//! A host name stays a name: looking it up is for the code that connects, at the moment when it connects.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Where a PostgreSQL server listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A host name in lower case, an IP address without brackets, or a directory of Unix sockets, which begins with `/`.
    pub host: String,
    /// The TCP port, which is in the name of the Unix socket, too; never 0.
    pub port: u16,
}

impl FromStr for Address {
    type Err = String;

    /// Reads `host`, `host:port`, `1.2.3.4:port`, `[::1]:port` or `/directory:port`; without a port it is PostgreSQL's, 5432.
    fn from_str(text: &str) -> Result<Address, String> {
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or_else(|| format!("{text:?} has no closing bracket"))?;
                let host: Ipv6Addr = host.parse().map_err(|_| format!("{host:?} is not an IPv6 address"))?;
                let port = match port {
                    "" => None,
                    port => Some(port.strip_prefix(':').ok_or_else(|| format!("{text:?} is not \"[host]:port\""))?),
                };
                (host.to_string(), port)
            }
            // A directory may have colons in its name; only what stands behind the last one can be a port.
            None if text.starts_with('/') => match text.rsplit_once(':') {
                Some((directory, port)) if !port.contains('/') => (directory_name(directory)?, Some(port)),
                Some(_) | None => (directory_name(text)?, None),
            },
            None if text.parse::<Ipv6Addr>().is_ok() => {
                return Err(format!("an IPv6 address needs brackets: \"[{text}]:{DEFAULT_PORT}\""));
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host_name(host)?, Some(port)),
                None => (host_name(text)?, None),
            },
        };
        let port = match port {
            None => DEFAULT_PORT,
            Some(port) => match port.parse::<u16>() {
                // Comparing the text refuses "+5432" and "05432", which `parse` takes.
                Ok(number) if number > 0 && number.to_string() == port => number,
                Ok(_) | Err(_) => return Err(format!("{port:?} is not a port: write a number from 1 to 65535")),
            },
        };
        Ok(Address { host, port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(host)) => write!(f, "[{host}]:{}", self.port),
            Ok(IpAddr::V4(_)) | Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// Checks what a socket's path can be made from.
fn directory_name(directory: &str) -> Result<String, String> {
    let name = directory.trim_end_matches('/');
    match name {
        _ if name.len() > DIRECTORY_BYTES_MAX => {
            Err(format!("the directory of a Unix socket has at most {DIRECTORY_BYTES_MAX} bytes"))
        }
        _ if name.chars().any(char::is_control) => Err(format!("{directory:?} is not a directory's name")),
        "" => Ok("/".to_owned()),
        name => Ok(name.to_owned()),
    }
}

/// Checks the letters of a host name; what only looks like an IPv4 address ("10.0.0.256") is not a name.
fn host_name(host: &str) -> Result<String, String> {
    let looks_numeric = host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match host {
        "" => Err("the host is missing: write \"host:port\"".into()),
        _ if host.len() > HOST_BYTES_MAX => Err(format!("a host name has at most {HOST_BYTES_MAX} letters")),
        _ if looks_numeric => match host.parse::<Ipv4Addr>() {
            Ok(host) => Ok(host.to_string()),
            Err(_) => Err(format!("{host:?} is not an IP address")),
        },
        _ if host.bytes().all(letters) => Ok(host.to_ascii_lowercase()),
        _ => Err(format!("{host:?} is not a host name")),
    }
}

const DEFAULT_PORT: u16 = 5432;
/// The longest name that DNS can express.
const HOST_BYTES_MAX: usize = 253;
/// A socket's path has 107 bytes at most: `sun_path` of unix(7), less its zero byte.
const DIRECTORY_BYTES_MAX: usize = 107 - "/.s.PGSQL.65535".len();

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads() {
        let check = |text: &str, host: &str, port, shown: &str| {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.host.as_str(), address.port), (host, port));
            assert_eq!(address.to_string(), shown);
            assert_eq!(shown.parse::<Address>().unwrap(), address);
        };
        check("127.0.0.1:5433", "127.0.0.1", 5433, "127.0.0.1:5433");
        check("db1", "db1", 5432, "db1:5432");
        check("DB-1.example.org:1", "db-1.example.org", 1, "db-1.example.org:1");
        check("[::1]:65535", "::1", 65535, "[::1]:65535");
        check("[fe80:0::1]", "fe80::1", 5432, "[fe80::1]:5432");
        check("/var/run/postgresql", "/var/run/postgresql", 5432, "/var/run/postgresql:5432");
        check("/var/run/postgresql/:5433", "/var/run/postgresql", 5433, "/var/run/postgresql:5433");
        check("/a:1/b", "/a:1/b", 5432, "/a:1/b:5432");
        check("/", "/", 5432, "/:5432");
    }

    #[test]
    fn refuses() {
        let check = |text: &str, reason: &str| {
            let problem = text.parse::<Address>().unwrap_err();
            assert!(problem.contains(reason), "{text}: {problem}");
        };
        check("", "host is missing");
        check(":5432", "host is missing");
        check("db1:", "is not a port");
        check("db1:0", "is not a port");
        check("db1:+5", "is not a port");
        check("db1:05432", "is not a port");
        check("db1:65536", "is not a port");
        check("db1:5432:1", "is not a port");
        check("::1", "needs brackets");
        check("[::1", "closing bracket");
        check("[::1]5432", "[host]:port");
        check("[db1]:5432", "not an IPv6 address");
        check("10.0.0.256:5432", "not an IP address");
        check("db 1:5432", "not a host name");
        check("postgres://db1", "is not a port");
        check("/var/run/postgresql:0", "is not a port");
        check(&format!("/{}", "a".repeat(92)), "at most 92 bytes");
        check(&"a".repeat(254), "at most 253");
    }
}
