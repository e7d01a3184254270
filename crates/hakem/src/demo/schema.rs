//! The game's tables and who owns them.
//!
//! Owns the names and the statements that make them. How a game is played is the player's business.

use anyhow::{Context, Result};
use cluster::Cluster;

use super::stage::Front;

/// Whom the game's clients log in as. He is no superuser: his password is printed, and known to all.
pub(crate) const USER: &str = "player";
pub(crate) const PASSWORD: &str = "hokm";
pub(crate) const DATABASE: &str = "hokm";

/// Makes the user, on the primary itself: only a superuser can, and through the proxy comes none.
pub(crate) async fn create_user(cluster: &Cluster) -> Result<()> {
    let script = format!(
        "CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}';
         ALTER DATABASE {DATABASE} OWNER TO {USER};"
    );
    cluster.sql(cluster.primary(), &script).await.map(drop)
}

/// Makes the tables and the first players, through the proxy.
pub(crate) async fn load(front: &Front) -> Result<()> {
    let (client, connection) =
        front.client().connect(tokio_postgres::NoTls).await.context("cannot connect to the proxy")?;
    let connection = tokio::spawn(connection);
    client.batch_execute(TABLES).await.context("cannot make the game's tables")?;
    drop(client);
    connection.await?.context("the proxy broke the connection")
}

const TABLES: &str = include_str!("schema.sql");
