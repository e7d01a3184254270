//! What the console's commands do: PAUSE and its kin, by database or for all of them.
//!
//! The texts of failures are PgBouncer's; the SQLSTATEs are PostgreSQL's for the same kind of failure, since drivers take PgBouncer's
//! 08P01 for a broken connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use wire::backend::Failure;

use super::grammar::{Act, WAIT_FOR_CLIENTS, WAIT_FOR_SERVERS};
use super::show::{open, tenant_figures};
use super::switchover::switch_over;
use crate::control::{Order, Shutdown};
use crate::service::{Service, Tenant};

/// What a command leads to.
pub(crate) enum Done {
    /// It is complete.
    Complete,
    /// The program ends: nothing is answered, and the connection ends with it.
    Ending,
}

/// Does it. A command that waits undoes itself when this is dropped before its end.
///
/// # Errors
/// What the administrator is told.
pub(crate) async fn act(service: &Arc<Service>, act: Act, argument: &str) -> Result<Done, Failure> {
    tracing::info!("{} {argument} command issued", act.name().to_ascii_uppercase());
    match act {
        Act::Pause => pause(service, argument).await?,
        Act::Resume => resume(service, argument)?,
        Act::Disable | Act::Enable => {
            let verb = act.name();
            if argument.is_empty() {
                return Err(Failure::error("42601", "a database is required"));
            }
            let database = known(service, argument, &format!("cannot {verb} admin db: {argument}"))?;
            service.gates.of(database).disable(act == Act::Disable);
        }
        Act::Reconnect => {
            known_or_all(service, argument, "reconnect")?;
            service.each_pool(argument, |pool| pool.recycle());
        }
        Act::WaitClose => {
            known_or_all(service, argument, "wait in")?;
            while closing(service, argument) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Act::Kill => {
            unless_paused(service)?;
            known_or_all(service, argument, "kill")?;
            let databases: Vec<String> = match argument {
                "" => service.tenants().iter().map(|tenant| tenant.key.0.clone()).collect(),
                database => vec![database.to_owned()],
            };
            if argument.is_empty() {
                databases.iter().for_each(|database| service.gates.kill(database));
                service.each_pool("", |pool| pool.recall());
            } else {
                service.pause(argument);
            }
            service.crew.kill(move |client| databases.contains(&client.database)).await;
            service.each_pool(argument, |pool| pool.retire());
        }
        Act::KillClient => {
            let number = argument.parse::<u64>();
            let id = number.map_err(|_| Failure::error("22P02", "invalid client pointer supplied"))?;
            if service.crew.kill(move |client| client.id == id).await == 0 {
                return Err(Failure::error("42704", "client not found"));
            }
        }
        Act::Reload => {
            let (answer, answered) = oneshot::channel();
            service.order(Order::Reload(answer));
            if !matches!(answered.await, Ok(Ok(()))) {
                return Err(Failure::error("F0000", "RELOAD failed, see logs for additional details"));
            }
        }
        Act::Shutdown => {
            let shutdown = match argument.to_ascii_uppercase().as_str() {
                WAIT_FOR_CLIENTS => Shutdown::WaitForClients,
                WAIT_FOR_SERVERS => Shutdown::WaitForServers,
                _ => Shutdown::Immediate,
            };
            service.order(Order::Shutdown(shutdown));
            if shutdown == Shutdown::Immediate {
                return Ok(Done::Ending);
            }
        }
        Act::Switchover => switch_over(service, argument).await?,
        Act::Suspend => {
            return Err(
                Failure::error("0A000", "SUSPEND is not supported").hint("Use PAUSE, or SHUTDOWN WAIT_FOR_CLIENTS.")
            );
        }
    }
    Ok(Done::Complete)
}

/// Changes a setting until the next reload.
///
/// # Errors
/// What is wrong with it.
pub(crate) async fn set(service: &Service, key: &str, value: &str) -> Result<(), Failure> {
    let failed = |reason: String| Failure::error("22023", format!("SET failed: {reason}"));
    let Some(key) = super::settings::find(&service.config(), key) else {
        return Err(Failure::error("42704", format!("SET failed: unrecognized configuration parameter \"{key}\"")));
    };
    if super::settings::is_secret(&service.config(), key) {
        let text = format!("SET failed: \"{}\" is a secret, which only the configuration file tells", key.1);
        return Err(Failure::error("55P02", text));
    }
    if super::settings::takes_restart(key) {
        return Err(Failure::error("55P02", format!("SET failed: \"{}\" cannot be changed without a restart", key.1)));
    }
    let (answer, answered) = oneshot::channel();
    service.order(Order::Set { key, value: value.to_owned(), answer });
    answered.await.unwrap_or_else(|_| Err("the program is ending".to_owned())).map_err(failed)
}

async fn pause(service: &Arc<Service>, argument: &str) -> Result<(), Failure> {
    unless_paused(service)?;
    if !argument.is_empty() {
        known(service, argument, &format!("cannot pause admin db: {argument}"))?;
    }
    service.pause(argument);
    // An administrator who goes away, or thinks better of it, does not leave everybody waiting for ever.
    let mut undo = Undo { service, argument, armed: true };
    loop {
        let mut open_connections = 0;
        for tenant in service.tenants_of(argument) {
            for (_, pool) in tenant.pools() {
                if pool.figures().idle > 0 {
                    pool.recycle();
                }
            }
            open_connections += open(tenant_figures(&tenant));
        }
        if open_connections == 0 {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    undo.armed = false;
    Ok(())
}

/// Resumes what was to be paused.
struct Undo<'a> {
    service: &'a Arc<Service>,
    argument: &'a str,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            tracing::info!("PAUSE {} was not waited for: resumed", self.argument);
            match self.argument {
                "" => self.service.gates.pause(false),
                database => self.service.gates.of(database).pause(false),
            };
        }
    }
}

fn resume(service: &Service, argument: &str) -> Result<(), Failure> {
    if argument.is_empty() {
        let (paused, killed) = (service.gates.pause(false), service.gates.revive());
        return match paused || killed {
            true => Ok(()),
            false => Err(Failure::error("55000", "pooler is not paused/suspended")),
        };
    }
    let database = known(service, argument, &format!("database {argument} is not paused"))?;
    match service.gates.of(database).pause(false) {
        true => Ok(()),
        false => Err(Failure::error("55000", format!("database {argument} is not paused"))),
    }
}

fn unless_paused(service: &Service) -> Result<(), Failure> {
    match service.gates.is_paused() {
        true => Err(Failure::error("55000", "already suspended/paused")),
        false => Ok(()),
    }
}

/// The database of this name, unless it is the console, or none.
fn known<'n>(service: &Service, name: &'n str, console: &str) -> Result<&'n str, Failure> {
    if super::is_console(name) {
        return Err(Failure::error("42809", console));
    }
    match service.config().knows_database(name) || service.tenants().iter().any(|tenant| tenant.key.0 == name) {
        true => Ok(name),
        false => Err(Failure::error("3D000", format!("no such database: {name}"))),
    }
}

fn known_or_all(service: &Service, argument: &str, verb: &str) -> Result<(), Failure> {
    if !argument.is_empty() {
        known(service, argument, &format!("cannot {verb} admin db: {argument}"))?;
    }
    Ok(())
}

/// Whether connections are still to be closed when they come back.
fn closing(service: &Service, argument: &str) -> bool {
    let leaving =
        |tenant: Arc<Tenant>| tenant.pools().any(|(_, pool)| pool.roster().iter().any(|entry| entry.is_leaving()));
    service.tenants_of(argument).any(leaving)
}

/// The pause between two looks at what is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
