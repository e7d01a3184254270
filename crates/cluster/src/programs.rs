//! Owns where PostgreSQL's programs are, as whom they run, and running one to its end. Does not know what for.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, bail};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use crate::process;

/// A user and its group, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) user: u32,
    pub(crate) group: u32,
}

/// The programs of one installation of PostgreSQL.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    directory: PathBuf,
    /// Whom to become, where we are root, as whom PostgreSQL refuses to run.
    pub(crate) identity: Option<Identity>,
}

impl Programs {
    /// Looks at `HAKEM_PG_BIN`, then asks `pg_config`, then takes the newest of `/usr/lib/postgresql`.
    pub(crate) fn find() -> Result<Programs> {
        let directory = match env::var_os("HAKEM_PG_BIN") {
            Some(told) if is_complete(Path::new(&told)) => PathBuf::from(told),
            Some(told) => bail!("HAKEM_PG_BIN is {told:?}, but {MISSING}"),
            None => asked().or_else(newest).with_context(|| format!("PostgreSQL was not found: {MISSING}"))?,
        };
        let identity = match process::effective_user() {
            0 => Some(
                lookup("postgres")
                    .or_else(|| lookup("nobody"))
                    .context("neither postgres nor nobody is a user here")?,
            ),
            _ => None,
        };
        Ok(Programs { directory, identity })
    }

    /// Where they are.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A command for one of the programs: right user, English messages, no settings from our own environment, and its
    /// own process group, so that Ctrl-C in a terminal reaches us and not the servers.
    pub(crate) fn command(&self, program: &str, place: &Path) -> Command {
        let mut command = self.other(self.directory.join(program), place);
        for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        command
    }

    /// The same for a program that is not PostgreSQL's.
    pub(crate) fn other(&self, program: impl AsRef<Path>, place: &Path) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env("LC_ALL", "C").current_dir(place).process_group(0).stdin(Stdio::null());
        if let Some(Identity { user, group }) = self.identity {
            command.uid(user).gid(group);
        }
        command
    }

    /// Writes a file that the programs' user owns.
    pub(crate) fn write(&self, path: &Path, content: impl AsRef<[u8]>) -> Result<()> {
        fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
        if let Some(Identity { user, group }) = self.identity {
            chown(path, Some(user), Some(group)).with_context(|| format!("cannot give away {}", path.display()))?;
        }
        Ok(())
    }
}

/// Runs a command to its end, with this input, and returns what it wrote. Past the limit, or when the caller loses
/// interest, it is killed.
pub(crate) async fn run(mut command: Command, input: &str, limit: Duration) -> Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut child = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let mut stdin = child.stdin.take().expect("it was asked to be piped just now");
    let feed = async {
        // It may end without having read everything; its exit status then says what there is to say.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
    };
    let (_, output) = timeout(limit, async { tokio::join!(feed, child.wait_with_output()) })
        .await
        .with_context(|| format!("{name} did not end within {limit:?}"))?;
    let output = output.with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} failed ({}): {}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

const MISSING: &str = "no server programs there (`apt-get install postgresql`, or point HAKEM_PG_BIN at the directory that holds `initdb`)";

const NEEDED: [&str; 5] = ["initdb", "postgres", "psql", "pg_basebackup", "pg_rewind"];

fn is_complete(directory: &Path) -> bool {
    NEEDED.iter().all(|program| directory.join(program).is_file())
}

fn asked() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    // Where only the client library's headers are installed, it names a directory without a server.
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim_end())).filter(|directory| is_complete(directory))
}

fn newest() -> Option<PathBuf> {
    fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| Some((entry.as_ref().ok()?.file_name().to_str()?.parse::<u32>().ok()?, entry.ok()?.path())))
        .map(|(version, path)| (version, path.join("bin")))
        .filter(|(_, path)| is_complete(path))
        .max()
        .map(|(_, path)| path)
}

fn lookup(user: &str) -> Option<Identity> {
    let number = |which: &str| {
        let output = Command::new("id").args([which, user]).stderr(Stdio::null()).output().ok()?;
        String::from_utf8(output.stdout).ok()?.trim_end().parse().ok()
    };
    Some(Identity { user: number("-u")?, group: number("-g")? })
}
