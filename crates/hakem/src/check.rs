//! `hakem check`: validates a configuration and tries each server, as the proxy would.
//!
//! Owns the report. It changes nothing anywhere.

use std::time::Duration;

use anyhow::{Result, bail};
use config::{Cluster, Config};
use pool::Tls;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{NoTls, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::tls::Files;

/// Tries each server of each cluster and prints what it is.
///
/// # Errors
/// When a file of certificates or keys is of no use, when a server cannot be used, or a cluster has no primary, or more than one.
pub(crate) async fn check(config: &Config) -> Result<()> {
    crate::run::load_secrets(config)?;
    let files = Files::read(config)?;
    println!(
        "configuration: ok ({} cluster(s), {} database(s), {} user(s))",
        config.clusters.len(),
        config.databases.len(),
        config.users.len()
    );
    let mut problems = 0;
    for (name, cluster) in &config.clusters {
        let (mut primaries, tls) = (0, files.cluster(name)[0].clone());
        for server in &cluster.servers {
            let tried = tokio::time::timeout(TRY_MAX, probe(cluster, tls.as_ref(), &server.host, server.port)).await;
            match tried.map_err(anyhow::Error::from).flatten() {
                Ok(found) => {
                    primaries += usize::from(!found.in_recovery);
                    let role = if found.in_recovery { "replica" } else { "primary" };
                    println!("{name} {server}: {role}, PostgreSQL {}, system {}", found.version, found.system);
                }
                Err(error) => {
                    problems += 1;
                    println!("{name} {server}: FAILED: {}", chain(&error));
                }
            }
        }
        if primaries != 1 {
            problems += 1;
            println!("{name}: FAILED: {primaries} primaries");
        }
    }
    if problems > 0 {
        bail!("{problems} problem(s)");
    }
    Ok(())
}

struct Found {
    in_recovery: bool,
    version: String,
    system: String,
}

async fn probe(cluster: &Cluster, tls: Option<&Tls>, host: &str, port: u16) -> Result<Found> {
    let mut options = tokio_postgres::Config::new();
    options.host(host).port(port).user(&cluster.probe_user).dbname(&cluster.probe_database);
    options.application_name("hakem check");
    if let Some(password) = &cluster.probe_password {
        options.password(password.expose());
    }
    match tls {
        None => ask(&options, NoTls).await,
        Some(tls) => {
            let encrypted = MakeRustlsConnect::new(tls.config().clone());
            options.ssl_mode(if tls.optional { SslMode::Prefer } else { SslMode::Require });
            match ask(&options, encrypted).await {
                // As the proxy does when the server can do without.
                Err(_) if tls.optional => ask(options.ssl_mode(SslMode::Disable), NoTls).await,
                found => found,
            }
        }
    }
}

async fn ask<T>(options: &tokio_postgres::Config, tls: T) -> Result<Found>
where
    T: MakeTlsConnect<Socket, Stream: Send + 'static>,
{
    let (client, connection) = options.connect(tls).await?;
    let connection = tokio::spawn(connection);
    let row = client.query_one(QUESTION, &[]).await?;
    let found = Found { in_recovery: row.get(0), version: row.get(1), system: row.get(2) };
    drop(client);
    connection.await??;
    Ok(found)
}

fn chain(error: &anyhow::Error) -> String {
    let causes: Vec<String> = error.chain().map(ToString::to_string).collect();
    causes.join(": ")
}

const QUESTION: &str = "select pg_is_in_recovery(), current_setting('server_version'), \
                        (select system_identifier::text from pg_control_system())";

/// The time that a server has to answer.
const TRY_MAX: Duration = Duration::from_secs(5);
