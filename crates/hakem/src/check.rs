//! `hakem check`: validates a configuration and tries each server, as the proxy would.
//!
//! Owns the report. It changes nothing anywhere.

use std::time::Duration;

use anyhow::{Result, bail};
use config::{Cluster, Config};
use tokio_postgres::NoTls;

/// Tries each server of each cluster and prints what it is.
///
/// # Errors
/// When a server cannot be used, or a cluster has no primary, or more than one.
pub(crate) async fn check(config: &Config) -> Result<()> {
    println!(
        "configuration: ok ({} cluster(s), {} database(s), {} user(s))",
        config.clusters.len(),
        config.databases.len(),
        config.users.len()
    );
    let mut problems = 0;
    for (name, cluster) in &config.clusters {
        let mut primaries = 0;
        for server in &cluster.servers {
            let tried = tokio::time::timeout(TRY_MAX, probe(cluster, &server.host, server.port)).await;
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

async fn probe(cluster: &Cluster, host: &str, port: u16) -> Result<Found> {
    let mut options = tokio_postgres::Config::new();
    options.host(host).port(port).user(&cluster.probe_user).dbname(&cluster.probe_database);
    options.application_name("hakem check");
    if let Some(password) = &cluster.probe_password {
        options.password(password.expose());
    }
    let (client, connection) = options.connect(NoTls).await?;
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
