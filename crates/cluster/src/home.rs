//! Owns the cluster's directory and the watchdog that removes it. Does not know which servers live in it.

use std::os::unix::fs::{DirBuilderExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::{env, fs, io};

use anyhow::{Context, Result};

use crate::process;
use crate::programs::Identity;

/// The directory of one cluster. Dropping it ends every process in it and removes it, and waits until that is done.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    /// Holds the read end of a pipe, of which this process holds the only write end: however this process ends, the
    /// kernel closes it. The standard library opens it close-on-exec, so that no server inherits it.
    watchdog: Child,
}

impl Home {
    /// Makes the directory, which must not exist yet, for the user that the servers run as.
    pub(crate) fn create(directory: Option<PathBuf>, owner: Option<Identity>) -> Result<Home> {
        let path = match directory {
            Some(path) => make(&path).map(|()| path.clone()).with_context(|| path.display().to_string()),
            None => fresh(),
        };
        // The kernel tells working directories without symbolic links, and we compare with them.
        let path = path.context("cannot make the cluster's directory")?.canonicalize()?;
        let watchdog = watch(&path).context("cannot start the watchdog `sh`")?;
        let home = Home { path, watchdog };
        if let Some(Identity { user, group }) = owner {
            chown(&home.path, Some(user), Some(group)).context("cannot give the directory to the servers' user")?;
        }
        Ok(home)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Waiting closes the pipe first, which is the watchdog's signal: the end in good order takes the same path as
        // the end by a crash, so that the latter is tested at every run.
        let outcome = self.watchdog.wait();
        if self.path.exists() {
            tracing::warn!(?outcome, directory = %self.path.display(), "the watchdog left something behind");
            let places = fs::read_dir(&self.path).into_iter().flatten().flatten().map(|entry| entry.path());
            for pid in places.chain([self.path.clone()]).flat_map(|place| process::in_directory(&place)) {
                process::signal(pid, libc::SIGKILL);
            }
            if let Err(error) = fs::remove_dir_all(&self.path) {
                tracing::error!(%error, directory = %self.path.display(), "cannot remove the cluster's directory");
            }
        }
    }
}

/// How many names for a fresh directory are tried before giving up.
const NAMES_MAX: u32 = 1000;

fn fresh() -> Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..NAMES_MAX {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("hakem-cluster-{}-{number}", std::process::id()));
        match make(&path) {
            Ok(()) => return Ok(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        }
    }
    anyhow::bail!("every name is taken in {}", env::temp_dir().display())
}

/// Private, since whoever may enter it may connect to the servers as superuser through their socket.
fn make(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(path)
}

fn watch(path: &Path) -> io::Result<Child> {
    // Without its comments, since all of it is seen in `ps`.
    let script: Vec<_> = include_str!("watchdog.sh").lines().filter(|line| !line.starts_with('#')).collect();
    Command::new("sh")
        .args(["-c", &script.join("\n"), "hakem-watchdog"])
        .arg(path)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}
