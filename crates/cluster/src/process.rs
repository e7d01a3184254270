//! Owns signals, shared memory that nobody uses any more, and the look into `/proc`: which processes belong to a directory, and what state one is in.
//! Does not know what PostgreSQL is.

use std::path::Path;
use std::{fs, io};

/// Sends a signal; that the process is already gone is no failure.
pub(crate) fn signal(pid: u32, signal: libc::c_int) {
    let pid = libc::pid_t::try_from(pid).expect("the kernel numbers processes with a pid_t");
    // SAFETY: kill(2) takes two integers and touches no memory of ours.
    #[expect(unsafe_code, reason = "the standard library can only send SIGKILL")]
    let result = unsafe { libc::kill(pid, signal) };
    if result != 0 {
        tracing::trace!(pid, signal, error = %io::Error::last_os_error(), "signal not sent");
    }
}

/// Removes a System V shared memory segment; that there is none is no failure.
pub(crate) fn remove_segment(identifier: i32) {
    // SAFETY: shmctl(2) reads nothing through its last argument when it removes.
    #[expect(unsafe_code, reason = "the standard library knows no shared memory")]
    unsafe {
        libc::shmctl(identifier, libc::IPC_RMID, std::ptr::null_mut());
    }
}

/// The processes whose working directory is this one. The postmaster changes into its data directory, and whatever it
/// forks inherits that, so this finds a node's processes even when the postmaster is dead and they are orphans. Those
/// that have exited and only wait to be reaped are not among them.
pub(crate) fn in_directory(directory: &Path) -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|place| place == directory))
        .collect()
}

/// What a process is doing, as far as this crate cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// It does not exist, or has exited and waits to be reaped.
    Gone,
    /// SIGSTOP has taken effect.
    Stopped,
    /// Anything else.
    Alive,
}

pub(crate) fn state(pid: u32) -> State {
    // "pid (comm) state ...": comm may hold spaces and brackets, so the state is looked for behind the last bracket.
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    match stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()) {
        None | Some('Z' | 'X') => State::Gone,
        Some('T' | 't') => State::Stopped,
        Some(_) => State::Alive,
    }
}

/// The user that this process acts as.
pub(crate) fn effective_user() -> u32 {
    // SAFETY: geteuid(2) has no arguments and always succeeds.
    #[expect(unsafe_code, reason = "the standard library does not tell the user")]
    unsafe {
        libc::geteuid()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_child_is_found_stopped_and_gone() {
        let place = std::env::temp_dir().join(format!("hakem-process-{}", std::process::id()));
        fs::create_dir(&place).unwrap();
        let place = place.canonicalize().unwrap();
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).current_dir(&place).spawn().unwrap();
        let pid = child.id();
        assert_eq!(in_directory(&place), [pid]);
        assert_eq!(state(pid), State::Alive);
        signal(pid, libc::SIGSTOP);
        while state(pid) == State::Alive {
            std::thread::yield_now();
        }
        assert_eq!(state(pid), State::Stopped);
        signal(pid, libc::SIGKILL);
        while state(pid) != State::Gone {
            std::thread::yield_now();
        }
        assert!(in_directory(&place).is_empty());
        child.wait().unwrap();
        fs::remove_dir(&place).unwrap();
    }
}
