//! The whole configuration: which sections there are, and how they must agree with each other.
//!
//! What a section holds is in `sections.rs`; what a client of one database and user gets is in `resolve.rs`.

use std::collections::BTreeMap;

use toml::de::DeTable;

use crate::auth::Auth;
use crate::limits::{CeilingOverrides, DATABASE_CEILINGS};
use crate::problem::{self, Problem};
use crate::reader::{Found, Reader, Section, Setting};
use crate::rules::Rule;
use crate::sections::{self, Cluster, Console, Database, Log, Overrides, Peer, Pool, Proxy, Routing, Topology, User};
use crate::tls::Tls;

/// A validated configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `[proxy]`.
    pub proxy: Proxy,
    /// `[console]`.
    pub console: Console,
    /// `[log]`.
    pub log: Log,
    /// `[auth]`.
    pub auth: Auth,
    /// `[tls]`.
    pub tls: Tls,
    /// `[pool]`.
    pub pool: Pool,
    /// `[routing]`.
    pub routing: Routing,
    /// `[topology]`.
    pub topology: Topology,
    /// `[[users]]` by name.
    pub users: BTreeMap<String, User>,
    /// `[clusters.NAME]` by name. Never empty.
    pub clusters: BTreeMap<String, Cluster>,
    /// `[databases.NAME]` by name. Never empty; `*` stands for the ones not named.
    pub databases: BTreeMap<String, Database>,
    /// `[[rules]]`, in the order of the file.
    pub rules: Vec<Rule>,
    /// `[peers.NUMBER]` by number: the other proxies behind the same address.
    pub peers: BTreeMap<u16, Peer>,
    /// Every key with its value and default, for `SHOW CONFIG`.
    pub settings: Vec<Setting>,
}

impl Config {
    /// Reads the text of a configuration file; `file_name` is only quoted in problems.
    ///
    /// # Errors
    /// Every problem that the text has, in the order of its lines. When it is not TOML, only those of its syntax, since
    /// what else it says is then a guess.
    pub fn parse(text: &str, file_name: &str) -> Result<Config, Vec<Problem>> {
        let mut reader = Reader::new(file_name, text);
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            for error in errors {
                reader.problem(error.span(), error.message(), None);
            }
            return Err(reader.finish().expect_err("the syntax errors were noted"));
        }
        let mut config = reader.root(table.get_ref(), Config::read);
        config.settings = reader.finish()?;
        Ok(config)
    }

    fn read(root: &mut Section<'_, '_>) -> Config {
        let auth = root.section("auth", Auth::read);
        let pool = root.section("pool", Pool::read);
        let tls = root.section("tls", Tls::read);
        let clusters = read_clusters(root, &tls);
        Config {
            proxy: root.section("proxy", Proxy::read),
            console: root.section("console", Console::read),
            log: root.section("log", Log::read),
            routing: root.section("routing", Routing::read),
            topology: root.section("topology", Topology::read),
            users: read_users(root, &auth, &pool),
            databases: read_databases(root, &clusters, &pool),
            rules: read_rules(root),
            peers: read_peers(root),
            auth,
            tls,
            pool,
            clusters,
            settings: Vec::new(),
        }
    }
}

fn read_clusters(root: &mut Section<'_, '_>, tls: &Tls) -> BTreeMap<String, Cluster> {
    let mut clusters = BTreeMap::new();
    let mut owners = BTreeMap::new();
    for found in root.named("clusters") {
        let name = found.name.clone();
        check_name(root, &found, "clusters");
        let cluster = root.open(header("clusters", &name), found, |section| {
            let cluster = Cluster::read(section, tls);
            for server in &cluster.servers {
                // Two clusters with one server would each take it for their primary.
                if let Some(owner) = owners.insert(server.clone(), name.clone()) {
                    let place = section.place_of("servers");
                    section.problem(
                        place,
                        format!("server \"{server}\" belongs to {} already", header("clusters", &owner)),
                    );
                }
            }
            cluster
        });
        clusters.insert(name, cluster);
    }
    if clusters.is_empty() {
        root.problem(None, "no cluster is stated: add [clusters.NAME] with its \"servers\"");
    }
    clusters
}

fn read_users(root: &mut Section<'_, '_>, auth: &Auth, pool: &Pool) -> BTreeMap<String, User> {
    let mut users = BTreeMap::new();
    for found in root.listed("users") {
        let (name, place) = (found.name.clone(), found.place.clone());
        let user = root.open(format!("[[users]] {name:?}"), found, |section| {
            if section.required::<String>("name").is_some() {
                sections::check_name(section, "name", &name);
            }
            User::read(section, auth, pool)
        });
        if !name.is_empty() && users.contains_key(&name) {
            root.problem(place, format!("user {name:?} is stated twice"));
        }
        users.insert(name, user);
    }
    if users.is_empty() && !auth.admits_unlisted() {
        root.problem(None, "nobody could log in: add [[users]] with a \"name\" and a \"password\"");
    }
    users
}

fn read_rules(root: &mut Section<'_, '_>) -> Vec<Rule> {
    let found = root.listed("rules");
    let header = |at: usize| format!("[[rules]] {}", at + 1);
    found.into_iter().enumerate().map(|(at, found)| root.open(header(at), found, Rule::read)).collect()
}

fn read_databases(
    root: &mut Section<'_, '_>,
    clusters: &BTreeMap<String, Cluster>,
    pool: &Pool,
) -> BTreeMap<String, Database> {
    let mut databases = BTreeMap::new();
    for found in root.named("databases") {
        let name = found.name.clone();
        check_name(root, &found, "databases");
        if CONSOLES.contains(&name.as_str()) {
            root.problem(found.place.clone(), format!("the database name {name:?} is the admin console's"));
        }
        let database = root.open(header("databases", &name), found, |section| {
            let cluster = read_cluster_of(section, clusters);
            let dbname = sections::optional_name(section, "dbname");
            if name == ANY_DATABASE && dbname.is_some() {
                let place = section.place_of("dbname");
                section.problem(place, "\"dbname\" is not for [databases.\"*\"], whose databases keep their own names");
            }
            let ceilings = CeilingOverrides::read(section, DATABASE_CEILINGS);
            Database { cluster, dbname, overrides: Overrides::read(section, pool), ceilings }
        });
        databases.insert(name, database);
    }
    if databases.is_empty() {
        root.problem(
            None,
            "no database is stated: add [databases.NAME], or [databases.\"*\"] for all of the cluster's",
        );
    }
    databases
}

fn read_peers(root: &mut Section<'_, '_>) -> BTreeMap<u16, Peer> {
    let mut peers = BTreeMap::new();
    for found in root.named("peers") {
        let name = found.name.clone();
        let number = match name.parse() {
            Ok(number @ 1..=sections::PEER_ID_MAX) if name == u16::to_string(&number) => number,
            _ => {
                let text =
                    format!("{name:?} in [peers] is not a peer's \"peer_id\", from 1 to {}", sections::PEER_ID_MAX);
                root.problem(found.place.clone(), text);
                0
            }
        };
        peers.insert(number, root.open(header("peers", &name), found, Peer::read));
    }
    peers
}

/// The cluster that a database names; without a name, the only one that there is.
fn read_cluster_of(section: &mut Section<'_, '_>, clusters: &BTreeMap<String, Cluster>) -> String {
    let names = || clusters.keys().map(String::as_str);
    match section.optional::<String>("cluster") {
        Some(name) => {
            if !clusters.contains_key(&name) {
                let place = section.place_of("cluster");
                let nearest = problem::nearest(&name, names());
                section.problem_with_nearest(
                    place,
                    format!("\"cluster\" names {name:?}, which is not in [clusters]"),
                    nearest,
                );
            }
            name
        }
        None => {
            if clusters.len() > 1 && section.place_of("cluster").is_none() {
                let place = section.place();
                let names = names().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ");
                section.problem(
                    place,
                    format!("{} must state \"cluster\", since there are several: {names}", section.header()),
                );
            }
            clusters.keys().next().cloned().unwrap_or_default()
        }
    }
}

/// The header as it would stand in the file: a name that is not a bare key needs quotes.
fn header(section: &str, name: &str) -> String {
    let is_bare = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    match !name.is_empty() && name.chars().all(is_bare) {
        true => format!("[{section}.{name}]"),
        false => format!("[{section}.{name:?}]"),
    }
}

fn check_name(root: &mut Section<'_, '_>, found: &Found<'_>, section: &str) {
    if let Some(flaw) = sections::name_flaw(&found.name) {
        root.problem(found.place.clone(), format!("the name {:?} in [{section}] {flaw}", found.name));
    }
}

/// The name under which `[databases]` states what holds for every database that it does not name.
pub(crate) const ANY_DATABASE: &str = "*";

/// The database names that lead to the admin console.
pub(crate) const CONSOLES: [&str; 2] = ["hakem", "pgbouncer"];

#[cfg(test)]
mod tests;
