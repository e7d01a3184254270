//! Many sends in one system call, by io_uring.
//!
//! Owns the two queues that are shared with the kernel, and so the one thing here that the compiler cannot check: that what the kernel is
//! pointed to is there for as long as it looks.

use std::io;

use io_uring::types::Fd;
use io_uring::{IoUring, Probe, opcode};
use nix::libc::{EIO, MSG_DONTWAIT, MSG_NOSIGNAL};

use crate::post::{LETTERS_MAX, Letter, Taken, send};

pub(crate) struct Ring {
    /// None after it has failed.
    queues: Option<IoUring>,
}

impl Ring {
    /// # Errors
    /// When the kernel has no io_uring, or not for us.
    pub(crate) fn new() -> io::Result<Ring> {
        let entries = LETTERS_MAX as u32;
        // One thread submits, and does what it has submitted (io_uring_setup(2), Linux 6.1): cheaper where the kernel knows it.
        let modern = IoUring::builder().setup_single_issuer().setup_defer_taskrun().dontfork().build(entries);
        let queues = modern.or_else(|_| IoUring::builder().dontfork().build(entries))?;
        let mut probe = Probe::new();
        queues.submitter().register_probe(&mut probe)?;
        if !probe.is_supported(opcode::Send::CODE) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        Ok(Ring { queues: Some(queues) })
    }

    /// Sends these letters in their order, without waiting, and tells of each how much of it was taken.
    pub(crate) fn send(&mut self, letters: &[Letter], text: &[u8], mut tell: impl FnMut(usize, Taken)) {
        let mut answered = [false; LETTERS_MAX];
        let mut submitted = 0;
        if let Some(queues) = &mut self.queues {
            let is_sound = push(queues, letters, text) && submit(queues, letters.len());
            submitted = letters.len() - queues.submission().len();
            for entry in queues.completion() {
                let (place, result) = (entry.user_data() as usize, entry.result());
                answered[place] = true;
                tell(place, usize::try_from(result).map_err(|_| -result));
            }
            if !is_sound {
                // What it has not taken it must not take later: the text will be another.
                self.queues = None;
            }
        }
        for (place, letter) in letters.iter().enumerate().filter(|(place, _)| !answered[*place]) {
            tell(place, if place < submitted { Err(EIO) } else { send(letter, text) });
        }
    }
}

/// Queues a send for each letter; whether that went well.
fn push(queues: &mut IoUring, letters: &[Letter], text: &[u8]) -> bool {
    let mut submission = queues.submission();
    letters.iter().enumerate().all(|(place, letter)| {
        let bytes = &text[letter.place.clone()];
        let entry = opcode::Send::new(Fd(letter.socket), bytes.as_ptr(), bytes.len() as u32)
            .flags(MSG_DONTWAIT | MSG_NOSIGNAL)
            .build()
            .user_data(place as u64);
        #[expect(unsafe_code, reason = "the kernel is given a pointer")]
        // SAFETY: `text` outlives the call of `send`, which returns when each entry has been answered, or drops the queue that it is in.
        unsafe {
            submission.push(&entry).is_ok()
        }
    })
}

/// Has them sent; whether all were. One that must not wait is done when it has been submitted.
fn submit(queues: &mut IoUring, count: usize) -> bool {
    loop {
        match queues.submit_and_wait(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return false,
            Ok(_) if queues.submission().is_empty() && queues.completion().len() >= count => return true,
            Ok(0) => return false,
            Ok(_) => {}
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::task::Waker;

    use super::*;

    #[test]
    fn a_ring_that_fails_loses_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let sender = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut receiver, _) = listener.accept().unwrap();
        let letter = |place| Letter { socket: sender.as_raw_fd(), place, waker: Waker::noop().clone() };
        let letters = [letter(0..5), letter(5..6), letter(6..11)];
        let mut ring = Ring::new().unwrap();
        let mut taken = Vec::new();
        ring.send(&letters, b"sound ring.", |place, length| taken.push((place, length)));
        // Its number is another file's.
        let null = File::open("/dev/null").unwrap();
        let number = ring.queues.as_ref().unwrap().as_raw_fd();
        #[expect(unsafe_code, reason = "the number belongs to the ring")]
        // SAFETY: the ring goes on to own an open file, if not the one that it has made.
        let copied = unsafe { nix::libc::dup2(null.as_raw_fd(), number) };
        assert_eq!(copied, number);
        for _ in 0..2 {
            ring.send(&letters, b"sent anyhow", |place, length| taken.push((place, length)));
            assert!(ring.queues.is_none());
        }
        drop(sender);
        assert_eq!(taken, [(0, Ok(5)), (1, Ok(1)), (2, Ok(5))].repeat(3));
        let mut received = String::new();
        receiver.read_to_string(&mut received).unwrap();
        assert_eq!(received, "sound ring.sent anyhowsent anyhow");
    }
}
