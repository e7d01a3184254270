//! Owns the texts that PostgreSQL reads: `postgresql.conf`, `pg_hba.conf`, connection strings, SQL literals.
//! Pure: writes no file, and knows no server's state.

use std::fmt::Write;
use std::path::Path;

use crate::cluster::{Authentication, Options};

/// `postgresql.conf`, the same text on every node, so that a rewind may copy it from one to another.
pub(crate) fn postgresql(options: &Options, names: &[String], directory: &Path) -> String {
    let senders = names.len() + SPARE_SENDERS;
    let mut text = format!(
        "listen_addresses = '127.0.0.1'
unix_socket_directories = {directory}
unix_socket_permissions = 0700
max_connections = 200
shared_buffers = 32MB
# A killed process loses nothing that it had handed to the kernel: only a crash of the whole machine would, and a
# throw-away cluster does not outlive that.
fsync = off
# Files in the data directory, which go when that goes; POSIX segments of a killed server would stay.
dynamic_shared_memory_type = mmap
wal_level = replica
hot_standby = on
# pg_rewind needs it.
wal_log_hints = on
wal_keep_size = 64MB
max_slot_wal_keep_size = 256MB
max_wal_senders = {senders}
max_replication_slots = {senders}
wal_receiver_status_interval = 1s
wal_retrieve_retry_interval = 100ms
jit = off
log_checkpoints = off
log_line_prefix = '%m [%p] %q%u@%d '
password_encryption = {encryption}
",
        directory = setting(&directory.to_string_lossy()),
        encryption = match options.authentication {
            Authentication::Md5 => "md5",
            Authentication::Scram | Authentication::Trust => "'scram-sha-256'",
        },
    );
    if options.synchronous && options.replicas > 0 {
        // By name and not `*`, so that a passing pg_receivewal or pg_basebackup cannot stand in for a replica.
        let names: Vec<_> = names.iter().map(|name| format!("\"{name}\"")).collect();
        let _ = writeln!(text, "synchronous_commit = on");
        let _ = writeln!(text, "synchronous_standby_names = 'ANY 1 ({})'", names.join(", "));
    }
    for (name, value) in &options.settings {
        let _ = writeln!(text, "{name} = {}", setting(value));
    }
    text + "include 'node.conf'\n"
}

/// `node.conf`: what is one node's own; `upstream` is a connection string. A primary ignores the last two lines.
pub(crate) fn node(name: &str, port: u16, upstream: &str) -> String {
    format!(
        "cluster_name = {name}\nport = {port}\nprimary_slot_name = {name}\nprimary_conninfo = {upstream}\n",
        name = setting(name),
        upstream = setting(upstream),
    )
}

/// `pg_hba.conf`. The socket lies in a directory that only the servers' user may enter, so it may trust.
pub(crate) fn hba(authentication: Authentication) -> String {
    let method = match authentication {
        Authentication::Scram => "scram-sha-256",
        Authentication::Md5 => "md5",
        Authentication::Trust => "trust",
    };
    format!(
        "local all all trust
local replication all trust
host all all 127.0.0.1/32 {method}
host replication all 127.0.0.1/32 {method}
"
    )
}

/// A libpq connection string.
pub(crate) fn conninfo(pairs: &[(&str, &str)]) -> String {
    let quote = |value: &str| value.replace('\\', "\\\\").replace('\'', "\\'");
    let words: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}='{}'", quote(value))).collect();
    words.join(" ")
}

/// A connection URL.
pub(crate) fn url(user: &str, password: &str, host: &str, port: u16, database: &str) -> String {
    format!("postgres://{}:{}@{host}:{port}/{}", percent(user), percent(password), percent(database))
}

/// A value as `postgresql.conf` takes it.
pub(crate) fn setting(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''").replace('\n', "\\n"))
}

/// An SQL string constant of one line, which single-user mode asks for; right whatever `standard_conforming_strings` is.
pub(crate) fn literal(text: &str) -> String {
    let escape = if text.contains(['\\', '\n']) { "E" } else { "" };
    format!("{escape}{}", setting(text))
}

/// A quoted SQL identifier.
pub(crate) fn identifier(text: &str) -> String {
    format!("\"{}\"", text.replace('"', "\"\""))
}

/// Connections for replication beyond the replicas': base backups, and what a test may attach.
const SPARE_SENDERS: usize = 10;

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        let check = |given: &str, in_file: &str, in_sql: &str, in_conninfo: &str, in_url: &str| {
            assert_eq!(setting(given), in_file);
            assert_eq!(literal(given), in_sql);
            assert_eq!(conninfo(&[("password", given)]), format!("password={in_conninfo}"));
            assert_eq!(url("u", given, "h", 1, "d"), format!("postgres://u:{in_url}@h:1/d"));
        };
        check("plain-1", "'plain-1'", "'plain-1'", "'plain-1'", "plain-1");
        check("it's", "'it''s'", "'it''s'", r"'it\'s'", "it%27s");
        check(r"a\b", r"'a\\b'", r"E'a\\b'", r"'a\\b'", "a%5Cb");
        check("a\nb", r"'a\nb'", r"E'a\nb'", "'a\nb'", "a%0Ab");
        check("p@:/ é", "'p@:/ é'", "'p@:/ é'", "'p@:/ é'", "p%40%3A%2F%20%C3%A9");
    }

    #[test]
    fn synchronous_only_with_replicas() {
        let check = |replicas, synchronous, line: Option<&str>| {
            let options = Options { replicas, synchronous, ..Options::default() };
            let names: Vec<_> = (0..=replicas).map(|i| format!("node{i}")).collect();
            let text = postgresql(&options, &names, Path::new("/tmp/x"));
            assert_eq!(text.lines().find(|line| line.starts_with("synchronous_standby_names")), line);
        };
        check(1, true, Some("synchronous_standby_names = 'ANY 1 (\"node0\", \"node1\")'"));
        check(1, false, None);
        check(0, true, None);
    }
}
