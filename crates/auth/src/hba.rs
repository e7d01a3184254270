//! `pg_hba.conf`: which connections are let in, and by which method. The first rule that fits decides.
//!
//! PostgreSQL's syntax as far as PgBouncer takes it: what depends on roles of the server (`+group`, `samerole`), on host names or
//! on the machine's networks is refused when the file is read, not ignored. Owns the grammar and the decision; files that are
//! named in it are read by the caller. A map of user names is `ident.rs`'s.

use std::net::IpAddr;

use crate::fault::Fault;
use crate::line::{self, Field, Word};
use crate::method::Method;

/// The rules of a file, in its order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hba {
    rules: Vec<Rule>,
}

/// One line of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Where it stands.
    pub line: usize,
    /// How the client has to prove itself.
    pub method: Method,
    /// The map of user names, for methods that find out a name of their own.
    pub map: Option<String>,
    /// The certificate that a client must show besides.
    pub client_certificate: ClientCertificate,
    connection: Connection,
    databases: Vec<Name>,
    users: Vec<Name>,
    addresses: Addresses,
}

/// What a rule asks of the client's certificate (`clientcert`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Nothing.
    #[default]
    NotAsked,
    /// One that a trusted authority has signed.
    Verified,
    /// And that is in the user's name.
    VerifiedName,
}

/// A connection that wants to log in.
#[derive(Debug, Clone, Copy)]
pub struct Visitor<'v> {
    /// Where it comes from.
    pub origin: Origin,
    /// The database that it asks for.
    pub database: &'v str,
    /// The user that it says it is.
    pub user: &'v str,
    /// Whether it asks for physical replication, which is of no database.
    pub replication: bool,
}

/// Where a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A Unix socket.
    Local,
    /// A TCP address.
    Host {
        /// The address.
        address: IpAddr,
        /// Whether the connection is encrypted.
        encrypted: bool,
    },
}

/// The first field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    Local,
    Host,
    HostSsl,
    HostNoSsl,
}

/// One entry of a list of databases or users.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    All,
    SameUser,
    Replication,
    Is(String),
}

/// The fourth field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addresses {
    All,
    /// An address and a mask of the same family.
    Network(IpAddr, IpAddr),
}

impl Hba {
    /// Reads the text of a file; `file` is quoted in faults. `read` gives the text of a file that is named by `@`.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of its lines.
    pub fn parse(
        text: &str,
        file: &str,
        read: &mut dyn FnMut(&str) -> Result<String, String>,
    ) -> Result<Hba, Vec<Fault>> {
        let (mut rules, mut faults) = (Vec::new(), Vec::new());
        for (number, line) in line::join(text) {
            let rule = line::fields(&line, read)
                .and_then(|fields| if fields.is_empty() { Ok(None) } else { Rule::read(number, fields).map(Some) });
            match rule {
                Ok(rule) => rules.extend(rule),
                Err(message) => faults.push(Fault { file: file.to_owned(), line: number, message }),
            }
        }
        if faults.is_empty() { Ok(Hba { rules }) } else { Err(faults) }
    }

    /// The first rule that fits, if any does.
    pub fn find(&self, visitor: &Visitor<'_>) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fits(visitor))
    }

    /// All rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

impl Rule {
    fn read(line: usize, fields: Vec<Field>) -> Result<Rule, String> {
        let mut fields = fields.into_iter();
        let connection = match only(fields.next(), "connection type")?.text.as_str() {
            "local" => Connection::Local,
            "host" | "hostnogssenc" => Connection::Host,
            "hostssl" => Connection::HostSsl,
            "hostnossl" => Connection::HostNoSsl,
            "hostgssenc" => return Err("hostgssenc records are not supported: GSSAPI encryption is not offered".into()),
            other => return Err(format!("invalid connection type \"{other}\"")),
        };
        let databases = fields.next().ok_or("end-of-line before database specification")?;
        let databases = databases.into_iter().map(database).collect::<Result<Vec<Name>, String>>()?;
        let users = fields.next().ok_or("end-of-line before role specification")?;
        let users = users.into_iter().map(user).collect::<Result<Vec<Name>, String>>()?;
        let addresses = match connection {
            Connection::Local => Addresses::All,
            Connection::Host | Connection::HostSsl | Connection::HostNoSsl => {
                let address = only(fields.next(), "IP address")?;
                match network(&address)? {
                    Network::Whole(addresses) => addresses,
                    Network::NeedsMask(address) => mask(address, &only(fields.next(), "IP mask")?)?,
                }
            }
        };
        let word = only(fields.next(), "authentication method")?.text;
        let method = match (word.as_str(), connection) {
            ("trust", _) => Method::Trust,
            ("reject", _) => Method::Reject,
            ("md5", _) => Method::Md5,
            ("password", _) => Method::Password,
            ("scram-sha-256", _) => Method::ScramSha256,
            // "When ident is specified for local connections, peer authentication will be used instead" (auth-ident).
            ("peer" | "ident", Connection::Local) => Method::Peer,
            ("peer", _) => return Err("peer authentication is only supported on local sockets".into()),
            ("cert", Connection::HostSsl) => Method::Cert,
            ("cert", _) => return Err("cert authentication is only supported on hostssl connections".into()),
            ("ident" | "gss" | "sspi" | "pam" | "bsd" | "ldap" | "radius" | "oauth", _) => {
                return Err(format!("authentication method \"{word}\" is not supported"));
            }
            _ => return Err(format!("invalid authentication method \"{word}\"")),
        };
        let (mut map, mut client_certificate) = (None, ClientCertificate::NotAsked);
        for option in fields.flatten() {
            let (name, value) = option
                .text
                .split_once('=')
                .ok_or_else(|| format!("authentication option not in name=value format: {}", option.text))?;
            match (name, value) {
                ("map", _) if !matches!(method, Method::Cert | Method::Peer) => {
                    return Err(
                        "authentication option \"map\" is only valid for authentication methods peer and cert".into()
                    );
                }
                ("map", value) => map = Some(value.to_owned()),
                ("clientcert", _) if connection != Connection::HostSsl => {
                    return Err("clientcert can only be configured for \"hostssl\" rows".into());
                }
                ("clientcert", "verify-full") => client_certificate = ClientCertificate::VerifiedName,
                ("clientcert", "verify-ca") if method == Method::Cert => {
                    return Err("clientcert only accepts \"verify-full\" when using \"cert\" authentication".into());
                }
                ("clientcert", "verify-ca") => client_certificate = ClientCertificate::Verified,
                ("clientcert", value) => return Err(format!("invalid value for clientcert: \"{value}\"")),
                ("clientname", "CN") if connection == Connection::HostSsl => {}
                ("clientname", _) => return Err("clientname can only be CN, in \"hostssl\" rows".into()),
                (name, _) => return Err(format!("unrecognized authentication option name: \"{name}\"")),
            }
        }
        Ok(Rule { line, method, map, client_certificate, connection, databases, users, addresses })
    }

    fn fits(&self, visitor: &Visitor<'_>) -> bool {
        let origin = match (self.connection, visitor.origin) {
            (Connection::Local, Origin::Local) => true,
            (Connection::Local, Origin::Host { .. }) | (_, Origin::Local) => false,
            (kind, Origin::Host { address, encrypted }) => {
                let encryption = match kind {
                    Connection::HostSsl => encrypted,
                    Connection::HostNoSsl => !encrypted,
                    Connection::Host | Connection::Local => true,
                };
                encryption && self.addresses.hold(address.to_canonical())
            }
        };
        let database = |name: &Name| match (name, visitor.replication) {
            // "The value all [...] does not match [physical] replication connections" (auth-pg-hba-conf).
            (Name::Replication, replication) => replication,
            (_, true) => false,
            (Name::All, false) => true,
            (Name::SameUser, false) => visitor.database == visitor.user,
            (Name::Is(name), false) => name == visitor.database,
        };
        let user = |name: &Name| match name {
            Name::All => true,
            Name::Is(name) => name == visitor.user,
            Name::SameUser | Name::Replication => false,
        };
        origin && self.databases.iter().any(database) && self.users.iter().any(user)
    }
}

impl Addresses {
    fn hold(&self, address: IpAddr) -> bool {
        match (self, address) {
            (Addresses::All, _) => true,
            (Addresses::Network(IpAddr::V4(network), IpAddr::V4(mask)), IpAddr::V4(address)) => {
                address.to_bits() & mask.to_bits() == network.to_bits() & mask.to_bits()
            }
            (Addresses::Network(IpAddr::V6(network), IpAddr::V6(mask)), IpAddr::V6(address)) => {
                address.to_bits() & mask.to_bits() == network.to_bits() & mask.to_bits()
            }
            (Addresses::Network(..), _) => false,
        }
    }
}

/// The only word of a field that may have but one.
fn only(field: Option<Field>, what: &str) -> Result<Word, String> {
    let mut words = field.ok_or_else(|| format!("end-of-line before {what} specification"))?.into_iter();
    match (words.next(), words.next()) {
        (Some(word), None) => Ok(word),
        (None, _) => Err(format!("end-of-line before {what} specification")),
        (Some(_), Some(_)) => Err(format!("multiple values specified for {what}")),
    }
}

fn database(word: Word) -> Result<Name, String> {
    match word.keyword() {
        Some("all") => Ok(Name::All),
        Some("sameuser") => Ok(Name::SameUser),
        Some("replication") => Ok(Name::Replication),
        Some("samerole" | "samegroup") => {
            Err(format!("\"{}\" is not supported: who is a member of which role is the server's to know", word.text))
        }
        Some(text) if text.starts_with('/') => Err("regular expressions are not supported".into()),
        _ => Ok(Name::Is(word.text)),
    }
}

fn user(word: Word) -> Result<Name, String> {
    match word.keyword() {
        Some("all") => Ok(Name::All),
        Some(text) if text.starts_with('+') => {
            Err("\"+role\" is not supported: who is a member of which role is the server's to know".into())
        }
        Some(text) if text.starts_with('/') => Err("regular expressions are not supported".into()),
        _ => Ok(Name::Is(word.text)),
    }
}

/// What the fourth field says.
enum Network {
    Whole(Addresses),
    /// An address alone, whose mask is the next field.
    NeedsMask(IpAddr),
}

fn network(word: &Word) -> Result<Network, String> {
    match word.keyword() {
        Some("all") => return Ok(Network::Whole(Addresses::All)),
        Some(text @ ("samehost" | "samenet")) => {
            return Err(format!("\"{text}\" is not supported: write the addresses"));
        }
        _ => {}
    }
    let invalid = || format!("invalid IP address \"{}\": host names are not supported", word.text);
    let Some((address, length)) = word.text.split_once('/') else {
        return word.text.parse().map(Network::NeedsMask).map_err(|_| invalid());
    };
    let address: IpAddr = address.parse().map_err(|_| invalid())?;
    let bad = || format!("invalid CIDR mask in address \"{}\"", word.text);
    if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let length: u32 = length.parse().map_err(|_| bad())?;
    let mask = match address {
        IpAddr::V4(_) if length <= 32 => IpAddr::V4(u32::MAX.checked_shl(32 - length).unwrap_or(0).into()),
        IpAddr::V6(_) if length <= 128 => IpAddr::V6(u128::MAX.checked_shl(128 - length).unwrap_or(0).into()),
        IpAddr::V4(_) | IpAddr::V6(_) => return Err(bad()),
    };
    Ok(Network::Whole(Addresses::Network(address, mask)))
}

fn mask(address: IpAddr, word: &Word) -> Result<Addresses, String> {
    let mask: IpAddr = word.text.parse().map_err(|_| format!("invalid IP mask \"{}\"", word.text))?;
    if mask.is_ipv4() != address.is_ipv4() {
        return Err("IP address and mask do not match".into());
    }
    Ok(Addresses::Network(address, mask))
}

#[cfg(test)]
mod tests;
