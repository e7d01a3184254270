//! The Unix sockets that clients of this machine connect to.
//!
//! Owns their files: one socket for each port, named and locked as PostgreSQL's are, and removed at the end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use config::UnixSocket;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::network::Listener;

/// A socket that listens; its files go with it.
pub(crate) struct LocalSocket {
    listener: Listener<UnixListener>,
    files: Files,
}

/// The socket's file, and the one that is locked while the socket is ours.
struct Files {
    socket: PathBuf,
    lock: PathBuf,
    _locked: File,
}

impl LocalSocket {
    /// Opens the socket for a port.
    ///
    /// # Errors
    /// When somebody listens on it, or its files cannot be made.
    pub(crate) fn open(config: &UnixSocket, port: u16, backlog: i32) -> Result<LocalSocket> {
        let path = config.directory.join(format!(".s.PGSQL.{port}"));
        let files = Files::lock(&path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(&path)?)?;
        // Before anybody can connect: a socket that does not listen refuses.
        fs::set_permissions(&path, fs::Permissions::from_mode(config.mode))?;
        if let Some(group) = &config.group {
            let id = group_id(group)?.with_context(|| format!("there is no group {group:?}"))?;
            chown(&path, None, Some(id)).with_context(|| format!("cannot give the socket to the group {group:?}"))?;
        }
        socket.listen(backlog)?;
        Ok(LocalSocket { listener: Listener::new(socket.into()), files })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.files.socket
    }

    /// The next client.
    ///
    /// # Errors
    /// When there can be none at the moment.
    pub(crate) async fn accept(&mut self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0.into())
    }
}

impl Files {
    /// Takes the place of nobody: neither of ours, which hold the lock, nor of another program, which answers.
    fn lock(socket: &Path) -> Result<Files> {
        let mut lock = socket.as_os_str().to_owned();
        lock.push(".lock");
        let lock = PathBuf::from(lock);
        loop {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&lock)
                .with_context(|| format!("cannot open {}", lock.display()))?;
            if file.try_lock().is_err() {
                bail!("another program holds {}", lock.display());
            }
            // Whoever held it before may have removed it meanwhile; then this one is nobody's.
            if !fs::metadata(&lock).is_ok_and(|there| file.metadata().is_ok_and(|ours| there.ino() == ours.ino())) {
                continue;
            }
            if UnixStream::connect(socket).is_ok() {
                bail!("another program listens on {}", socket.display());
            }
            match fs::symlink_metadata(socket) {
                Ok(found) if found.file_type().is_socket() => fs::remove_file(socket)?,
                Ok(_) => bail!("{} is in the way and is no socket", socket.display()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
            // What PostgreSQL reads of such a file: whose it is.
            file.set_len(0)?;
            writeln!(file, "{}", std::process::id())?;
            return Ok(Files { socket: socket.to_owned(), lock, _locked: file });
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // Somebody may have tidied up already.
        let _ = fs::remove_file(&self.socket);
        let _ = fs::remove_file(&self.lock);
    }
}

/// A group by number, or by its name in `/etc/group`.
fn group_id(group: &str) -> Result<Option<u32>> {
    if let Ok(id) = group.parse() {
        return Ok(Some(id));
    }
    let groups = fs::read_to_string("/etc/group").context("cannot read /etc/group")?;
    let id = |line: &str| {
        let mut fields = line.split(':');
        (fields.next() == Some(group)).then(|| fields.nth(1)?.parse().ok())?
    };
    Ok(groups.lines().find_map(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("hakem-{name}-{}", std::process::id()));
            fs::create_dir(&path).expect("nobody else has our number");
            Directory(path)
        }

        fn config(&self) -> UnixSocket {
            UnixSocket { directory: self.0.clone(), mode: 0o640, group: None }
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("it is ours");
            let mut names: Vec<_> =
                entries.map_while(Result::ok).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn refusal(config: &UnixSocket) -> String {
        LocalSocket::open(config, 6432, 8).err().map_or_else(String::new, |error| format!("{error:#}"))
    }

    #[tokio::test]
    async fn files() {
        let directory = Directory::new("files");
        let config = directory.config();
        let mut socket = LocalSocket::open(&config, 6432, 8).expect("nobody is there");
        assert_eq!(directory.names(), [".s.PGSQL.6432", ".s.PGSQL.6432.lock"]);
        let mode = fs::metadata(socket.path()).expect("it is there").mode();
        assert_eq!(mode & 0o777, 0o640);
        let lock = fs::read_to_string(directory.0.join(".s.PGSQL.6432.lock")).expect("it is there");
        assert_eq!(lock.trim(), std::process::id().to_string());
        let path = socket.path().to_owned();
        let (connected, accepted) = tokio::join!(tokio::net::UnixStream::connect(path), socket.accept());
        assert!(connected.is_ok() && accepted.is_ok());
        assert!(refusal(&config).contains("another program holds"));
        drop(socket);
        assert!(directory.names().is_empty());
    }

    #[tokio::test]
    async fn what_is_in_the_way() {
        let directory = Directory::new("way");
        let (config, path) = (directory.config(), directory.0.join(".s.PGSQL.6432"));
        // A server that does not know our lock.
        let other = std::os::unix::net::UnixListener::bind(&path).expect("nobody is there");
        assert!(refusal(&config).contains("another program listens"));
        // One that was killed.
        drop(other);
        assert!(path.exists());
        drop(LocalSocket::open(&config, 6432, 8).expect("nobody listens"));
        // No socket at all.
        fs::write(&path, "precious").expect("it is ours");
        assert!(refusal(&config).contains("is no socket"));
        assert_eq!(fs::read_to_string(&path).expect("it is there"), "precious");
    }

    #[tokio::test]
    async fn groups() {
        assert_eq!(group_id("root").expect("the file can be read"), Some(0));
        assert_eq!(group_id("4711").expect("the file can be read"), Some(4711));
        let directory = Directory::new("groups");
        let config = UnixSocket { group: Some("no such group".into()), ..directory.config() };
        assert!(refusal(&config).contains("no such group"));
        assert!(directory.names().is_empty(), "nothing is left of it");
    }
}
