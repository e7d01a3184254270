//! The servers, and the proxy in front of them.
//!
//! Owns starting both and the proxy's configuration, which is written as a person would write it and read as any other.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use cluster::{Cluster, Options};
use config::Config;

use super::Arguments;
use super::director::Server;
use super::schema::{self, DATABASE, PASSWORD, USER};
use super::spectator::MAX_LAG;
use crate::run::{Proxy, until_ready};

/// Everything that was started.
pub(crate) struct Stage {
    pub(crate) proxy: Proxy,
    pub(crate) cluster: Cluster,
    pub(crate) front: Front,
}

/// Where the proxy is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Front {
    pub(crate) clients: SocketAddr,
    pub(crate) http: SocketAddr,
}

impl Stage {
    /// Starts the servers and the proxy, and makes the game's tables through it.
    ///
    /// # Errors
    /// When PostgreSQL is missing or will not start, or a port is taken.
    pub(crate) async fn build(arguments: &Arguments) -> Result<Stage> {
        // Found out before the servers are started: it is the mistake that is made most.
        TcpListener::bind((Ipv4Addr::LOCALHOST, arguments.port))
            .with_context(|| format!("port {} is taken; --port chooses another", arguments.port))?;
        arguments.say(&format!("Starting PostgreSQL: a primary and {} replicas.", arguments.replicas));
        let options = Options {
            replicas: usize::from(arguments.replicas),
            synchronous: !arguments.asynchronous,
            // The port of a superuser is on this machine's loopback interface, where everybody can try it.
            password: format!("{:032x}", rand::random::<u128>()),
            database: DATABASE.to_owned(),
            settings: vec![("max_connections".to_owned(), SERVER_CONNECTIONS.to_string())],
            ..Options::default()
        };
        let cluster = Cluster::start(options).await?;
        schema::create_user(&cluster).await?;
        let text = configuration(arguments, &cluster);
        let config = Config::parse(&text, "the demo's configuration").map_err(|problems| {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            anyhow::anyhow!(lines.join("\n"))
        })?;
        if arguments.verbose {
            crate::logging::start(&config.log);
        }
        let proxy = Proxy::start(Arc::new(config), None).await?;
        let front = Front {
            clients: *proxy.addresses.first().context("the proxy listens nowhere")?,
            http: proxy.http.context("the proxy serves no pages")?,
        };
        until_ready(&proxy.service, READY_WAIT).await?;
        schema::load(&front).await?;
        Ok(Stage { proxy, cluster, front })
    }
}

impl Front {
    /// How the game's clients connect.
    pub(crate) fn client(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(self.clients.ip().to_string()).port(self.clients.port());
        config.user(USER).password(PASSWORD).dbname(DATABASE);
        config
    }

    /// One line with the addresses.
    pub(crate) fn summary(&self) -> String {
        format!("{} · http://{}/metrics", self.psql(), self.http)
    }

    /// What a visitor is told.
    pub(crate) fn introduction(&self, servers: &[Server], load: bool) -> String {
        let mut text = format!("\nHakem is ready.\n\n    {}\n\n", self.psql());
        text += &format!("Metrics    http://{}/metrics (also /health and /ready)\n", self.http);
        for server in servers {
            text +=
                &format!("{:<10} 127.0.0.1:{}, process {}, {}\n", server.name, server.port, server.pid, server.role);
        }
        if !load {
            text += "\nTo try in psql:\n\n";
            text += "    SELECT name, tricks FROM players ORDER BY tricks DESC, id LIMIT 5;   -- a replica answers\n";
            text += "    INSERT INTO players (name) VALUES ('you');                           -- the primary\n";
            text +=
                "    SELECT name FROM players WHERE name = 'you';                         -- whoever has it already\n";
            text += &format!(
                "\nWhere statements went: curl -s http://{}/metrics | grep hakem_statements_total\n",
                self.http
            );
            if let [primary, _, ..] = servers {
                text += &format!("A failover:            kill -9 {} (psql's connection lives on)\n", primary.pid);
            }
            text += "A game, with counters: hakem demo --load\n";
        }
        text + "\nCtrl-C ends it and removes everything."
    }

    fn psql(&self) -> String {
        format!("PGPASSWORD={PASSWORD} psql -h {} -p {} -U {USER} {DATABASE}", self.clients.ip(), self.clients.port())
    }
}

fn configuration(arguments: &Arguments, cluster: &Cluster) -> String {
    let servers: Vec<String> =
        cluster.nodes().iter().map(|node| format!("\"{}:{}\"", node.host(), node.port())).collect();
    let Options { user, password, .. } = cluster.options();
    format!(
        r#"[proxy]
listen = ["127.0.0.1:{port}"]
http_listen = "127.0.0.1:{http}"
shutdown_timeout = "2s"

[[users]]
name = "{USER}"
password = "{PASSWORD}"

[routing]
max_lag = "{max_lag}ms"

[clusters.demo]
servers = [{servers}]
probe_user = "{user}"
probe_password = "{password}"

[databases.{DATABASE}]
cluster = "demo"
"#,
        max_lag = MAX_LAG.as_millis(),
        port = arguments.port,
        http = http_port(arguments.port),
        servers = servers.join(", "),
    )
}

/// The usual port for pages, or any where that is taken. Who wants any port for clients wants any for pages, too.
fn http_port(clients: u16) -> u16 {
    let usual = clients != 0 && TcpListener::bind((Ipv4Addr::LOCALHOST, HTTP_PORT)).is_ok();
    if usual { HTTP_PORT } else { 0 }
}

const HTTP_PORT: u16 = 6433;

/// Connections that each server allows: the pool's, the probes', the replicas' and some for visitors.
const SERVER_CONNECTIONS: u16 = 60;

/// How long the proxy may take to find the primary of servers that run already.
const READY_WAIT: Duration = Duration::from_secs(30);
