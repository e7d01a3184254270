//! Owns changes of who is primary: promotion, re-pointing the replicas, taking an old primary back.
//! Decides nothing: when to fail over is the caller's to say.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::cluster::{Cluster, TOOL_WAIT};
use crate::lsn::Lsn;
use crate::programs::run;
use crate::wait::Wait;

impl Cluster {
    /// Promotes a replica and waits until it is out of recovery. The other replicas are re-pointed to it: running ones
    /// at once, dead ones for when they start. The old primary is left as it is, so that with it alive there are then
    /// two, on different timelines; stop, kill or [`Cluster::rejoin`] it.
    ///
    /// The new primary waits for synchronous replicas as the old one did: its commits hang until at least one replica
    /// follows. Where none will, `set(i, "synchronous_standby_names", "")` lets them go on. A replica that had received
    /// more than the promoted one cannot follow it and needs a [`Cluster::rejoin`]; [`Cluster::promote_best`] avoids that.
    pub async fn promote(&mut self, i: usize) -> Result<()> {
        let node = &self.nodes[i];
        ensure!(node.is_running() && !node.is_frozen(), "{} is dead or frozen", node.name());
        ensure!(node.is_standby(), "{} is a primary already", node.name());
        let script = format!("SELECT pg_promote(true, {})", PROMOTE_WAIT.as_secs());
        let promoted = self.sql_within(i, &script, PROMOTE_WAIT + ASK_WAIT).await?;
        ensure!(promoted == "t", "{} is still in recovery {PROMOTE_WAIT:?} after pg_promote", self.nodes[i].name());
        self.primary = i;
        for other in (0..self.nodes.len()).filter(|other| *other != i) {
            if self.nodes[other].is_standby() {
                self.point(other)?;
                self.nodes[other].reload();
            }
        }
        Ok(())
    }

    /// Promotes the live replica that has received most, when the primary is dead or frozen, as [`Cluster::promote`]
    /// does; PostgreSQL replays all that was received before it lets a promoted server write. Returns who it is.
    ///
    /// With synchronous replication no acknowledged write is lost as long as every replica that the primary waited for
    /// can be asked. So a frozen one is an error; a dead one is passed over, and what only that one had received is lost.
    pub async fn promote_best(&mut self) -> Result<usize> {
        let primary = &self.nodes[self.primary];
        ensure!(!primary.is_running() || primary.is_frozen(), "the primary {} is alive", primary.name());
        let mut best: Option<(Lsn, usize)> = None;
        for i in (0..self.nodes.len()).filter(|i| *i != self.primary) {
            let node = &self.nodes[i];
            if !node.is_standby() || !node.is_running() {
                tracing::warn!(node = node.name(), "not asked what it has received");
                continue;
            }
            ensure!(!node.is_frozen(), "{} is frozen and cannot say what it has received", node.name());
            let received = self.received_at_last(i).await?;
            if best.is_none_or(|(most, _)| received > most) {
                best = Some((received, i));
            }
        }
        let (_, best) = best.context("no replica is alive")?;
        self.promote(best).await?;
        Ok(best)
    }

    /// Brings a node back as a replica of the present primary, whatever it was and did: a replica is started or
    /// re-pointed; a former primary is killed, if it still runs, and rewound; where that does not help, the node gets a
    /// fresh base backup. Its own `ALTER SYSTEM` settings stay. Returns when it streams.
    pub async fn rejoin(&mut self, i: usize) -> Result<()> {
        ensure!(i != self.primary, "{} is the primary", self.nodes[i].name());
        // Without one to follow, the last resort below would throw away a node for nothing.
        let primary = &self.nodes[self.primary];
        ensure!(primary.is_running() && !primary.is_frozen(), "the primary {} is dead or frozen", primary.name());
        if self.nodes[i].is_frozen() {
            self.kill(i).await?;
        }
        let outcome = match self.nodes[i].is_standby() {
            true => self.follow(i).await,
            false => self.rewind_and_follow(i).await,
        };
        let Err(error) = outcome else { return Ok(()) };
        tracing::info!(node = self.nodes[i].name(), %error, "takes a fresh base backup");
        self.base_backup(i).await?;
        self.follow(i).await
    }

    /// Has a replica follow the present primary and waits until it streams.
    async fn follow(&mut self, i: usize) -> Result<()> {
        let log = self.nodes[i].log_length();
        self.point(i)?;
        match self.nodes[i].is_running() {
            true => self.nodes[i].reload(),
            false => self.start_node(i).await?,
        }
        self.renew_slots(i).await?;
        self.streams(i, log).await
    }

    async fn rewind_and_follow(&mut self, i: usize) -> Result<()> {
        self.kill(i).await?;
        // Until the first checkpoint after a promotion the control file still names the old timeline, and pg_rewind
        // before version 16 believes it: "no rewind required".
        self.sql(self.primary, "CHECKPOINT").await?;
        let own = self.own_settings(i);
        let mut rewind = self.programs.command("pg_rewind", self.home.path());
        rewind.arg("--target-pgdata").arg(self.nodes[i].data_directory()).arg("--no-sync");
        rewind.arg("--source-server").arg(self.socket_conninfo(self.primary, "postgres"));
        run(rewind, "", TOOL_WAIT).await?;
        self.become_standby(i, own)?;
        self.follow(i).await
    }

    async fn base_backup(&mut self, i: usize) -> Result<()> {
        self.kill(i).await?;
        let own = self.own_settings(i);
        let data = self.nodes[i].data_directory();
        if data.exists() {
            fs::remove_dir_all(data).with_context(|| format!("cannot remove {}", data.display()))?;
        }
        let mut backup = self.programs.command("pg_basebackup", self.home.path());
        backup.arg("-D").arg(data).args(["--checkpoint=fast", "--no-sync", "--wal-method=stream"]);
        backup.arg("-d").arg(self.socket_conninfo(self.primary, "postgres"));
        run(backup, "", TOOL_WAIT).await?;
        self.become_standby(i, own)
    }

    /// What `ALTER SYSTEM` wrote on this node, before the primary's takes its place; nothing, where an earlier base
    /// backup failed and left no node.
    fn own_settings(&self, i: usize) -> Vec<u8> {
        fs::read(self.nodes[i].data_directory().join(OWN_SETTINGS)).unwrap_or_default()
    }

    /// Puts a node's own files over those that came from the primary.
    fn become_standby(&self, i: usize, own_settings: Vec<u8>) -> Result<()> {
        self.configure(i)?;
        self.programs.write(&self.nodes[i].data_directory().join(OWN_SETTINGS), own_settings)?;
        self.programs.write(&self.nodes[i].standby_signal(), "")
    }

    /// What a replica has received, once no more will come from the primary, which is dead or frozen: what the kernel
    /// still held for the WAL receiver must have been read, or an acknowledged commit might be among it.
    async fn received_at_last(&self, i: usize) -> Result<Lsn> {
        let mut wait =
            Wait::new(format!("{} to receive the last of the old primary", self.nodes[i].name()), RECEIVE_WAIT);
        let primary_frozen = self.nodes[self.primary].is_frozen();
        let mut before = None;
        loop {
            let answer = self.sql_within(i, RECEIVED, ASK_WAIT).await?;
            let (streaming, received) = answer.split_once('\n').context("two answers were asked for")?;
            let received: Lsn = received.parse()?;
            match (streaming, primary_frozen) {
                ("f", _) => return Ok(received),
                // The connection to a frozen primary lives on; that nothing has come since the last look has to do.
                ("t", true) if before == Some(received) => return Ok(received),
                ("t", _) => before = Some(received),
                _ => bail!("`{streaming}` is not a boolean"),
            }
            wait.turn().await?;
        }
    }
}

const OWN_SETTINGS: &str = "postgresql.auto.conf";

/// Two statements, in this order: with the receiver gone at the first, the second's answer is the last word. After a
/// restart without a primary to stream from nothing counts as received; what was replayed must have been.
const RECEIVED: &str = "SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming');
    SELECT greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn());";

/// How long a replica may take to become a primary.
const PROMOTE_WAIT: Duration = Duration::from_secs(60);

/// How long one question to a live node may take.
const ASK_WAIT: Duration = Duration::from_secs(10);

/// How long a replica may take to read what the kernel holds for it.
const RECEIVE_WAIT: Duration = Duration::from_secs(20);
