//! A thread's post: what its sockets are to send, sent together.
//!
//! On a thread that has opened a post, a small write becomes a letter. Letters go when the thread has nothing else to do, or when they are many:
//! all of them in one system call (io_uring), a lone one as ever. A send wakes whoever waits for it, and on a busy machine that one often
//! takes the processor at once; sent one by one, letters cost a system call each, and many of them two changes of task. Where letters have
//! been alone for a while, there is nothing to be gained by waiting: they go at once, and whoever waits for them need not wait for what
//! their task has still to do.
//!
//! Owns the letters and what became of them. Whose turn it is, and the order of one socket's bytes, is the socket's to see to. Waits for nothing.

use std::cell::RefCell;
use std::io;
use std::ops::Range;
use std::os::fd::RawFd;
use std::task::Waker;

#[cfg(target_os = "linux")]
use crate::ring::Ring;

/// What a socket keeps of its last letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What became of a letter.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It has not been sent yet.
    Waiting,
    /// The socket has taken it.
    Sent,
    /// The socket has not taken all of it.
    Left(Box<Left>),
}

/// What a socket has not taken.
#[derive(Debug)]
pub(crate) struct Left {
    /// The bytes still to be sent.
    pub(crate) bytes: Vec<u8>,
    /// Why they never will be: the operating system's number.
    pub(crate) errno: Option<i32>,
}

/// Gives the current thread a post. [`turn_over`] is told by whoever runs the thread's event loop.
///
/// # Errors
/// When the operating system has no io_uring for us. Nothing has changed then: each write is sent at once.
pub fn open() -> io::Result<()> {
    let post = Post::new()?;
    POST.with_borrow_mut(|place| *place = Some(post));
    Ok(())
}

/// The thread has nothing else to do: sends what there is.
pub fn turn_over() {
    with(|post| post.turn_over());
}

/// Sends what there is. Nothing, on a thread without a post.
pub(crate) fn deliver() {
    with(|post| post.deliver());
}

/// Takes a letter, unless it is to be sent at once: it is too large, or would be alone, or the thread has no post. `waker` is told if the
/// socket does not take all of it.
#[inline]
pub(crate) fn take(socket: RawFd, bytes: &[u8], waker: &Waker) -> Option<Ticket> {
    if bytes.len() > LETTER_MAX { None } else { with(|post| post.take(socket, bytes, waker)).flatten() }
}

/// What became of a letter. It is forgotten unless it still waits.
pub(crate) fn ask(ticket: Ticket) -> Fate {
    with(|post| post.ask(ticket)).unwrap_or(Fate::Sent)
}

/// Sends what there is if this letter is among it.
pub(crate) fn hurry(ticket: Ticket) {
    with(|post| {
        if post.is_waiting(ticket) {
            post.deliver();
        }
    });
}

/// `None` on a thread without a post, and on one that is about to end.
#[inline]
fn with<T>(work: impl FnOnce(&mut Post) -> T) -> Option<T> {
    POST.try_with(|place| place.borrow_mut().as_mut().map(work)).ok().flatten()
}

struct Post {
    #[cfg(target_os = "linux")]
    ring: Ring,
    /// What waits, oldest first.
    letters: Vec<Letter>,
    /// Their bytes.
    text: Vec<u8>,
    /// The number of the first letter that waits, or of the next one to come.
    first: u64,
    /// What was not taken, until it is asked for.
    left: Vec<(Ticket, Box<Left>)>,
    /// How many letters this turn has had so far, with those that were to be sent at once.
    had: usize,
    /// How many of the last turns that have had any have had no more than one.
    lone_turns: u32,
}

/// Bytes for one socket.
#[derive(Debug)]
pub(crate) struct Letter {
    pub(crate) socket: RawFd,
    /// Where in the text they are.
    pub(crate) place: Range<usize>,
    /// Who is told that the socket does not take all of it.
    pub(crate) waker: Waker,
}

impl Post {
    #[cfg(target_os = "linux")]
    fn new() -> io::Result<Post> {
        let (letters, text) = (Vec::with_capacity(LETTERS_MAX), Vec::with_capacity(TEXT_MAX));
        Ok(Post { ring: Ring::new()?, letters, text, first: 0, left: Vec::new(), had: 0, lone_turns: 0 })
    }

    #[cfg(not(target_os = "linux"))]
    fn new() -> io::Result<Post> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn take(&mut self, socket: RawFd, bytes: &[u8], waker: &Waker) -> Option<Ticket> {
        self.had += 1;
        if self.had == 1 && self.lone_turns >= LONE_TURNS {
            return None;
        }
        if self.letters.len() == LETTERS_MAX || self.text.len() + bytes.len() > TEXT_MAX {
            self.deliver();
        }
        let start = self.text.len();
        self.text.extend_from_slice(bytes);
        let ticket = Ticket(self.first + self.letters.len() as u64);
        self.letters.push(Letter { socket, place: start..self.text.len(), waker: waker.clone() });
        Some(ticket)
    }

    fn turn_over(&mut self) {
        self.deliver();
        match std::mem::take(&mut self.had) {
            0 => {}
            1 => self.lone_turns = self.lone_turns.saturating_add(1),
            _ => self.lone_turns = 0,
        }
    }

    fn is_waiting(&self, ticket: Ticket) -> bool {
        ticket.0 >= self.first
    }

    fn ask(&mut self, ticket: Ticket) -> Fate {
        if self.is_waiting(ticket) {
            return Fate::Waiting;
        }
        match self.left.iter().position(|(known, _)| *known == ticket) {
            None => Fate::Sent,
            Some(place) => Fate::Left(self.left.swap_remove(place).1),
        }
    }

    fn deliver(&mut self) {
        let Post { letters, text, first, left, .. } = self;
        if let [letter] = letters.as_slice() {
            note(*first, letter, send(letter, text), text, left);
        } else if !letters.is_empty() {
            #[cfg(target_os = "linux")]
            self.ring.send(letters, text, |place, taken| {
                note(*first + place as u64, &letters[place], taken, text, left);
            });
        }
        *first += letters.len() as u64;
        letters.clear();
        text.clear();
    }
}

/// Keeps what a socket has not taken, and tells its task.
fn note(number: u64, letter: &Letter, taken: Taken, text: &[u8], left: &mut Vec<(Ticket, Box<Left>)>) {
    let bytes = &text[letter.place.clone()];
    let (taken, errno) = match taken {
        Ok(length) => (length, None),
        Err(errno) if errno == nix::libc::EAGAIN => (0, None),
        Err(errno) => (0, Some(errno)),
    };
    if taken < bytes.len() {
        left.push((Ticket(number), Box::new(Left { bytes: bytes[taken..].to_vec(), errno })));
        letter.waker.wake_by_ref();
    }
}

/// How much of a letter the socket has taken, or the operating system's number for why it has taken nothing.
pub(crate) type Taken = Result<usize, i32>;

/// Sends one letter without waiting.
pub(crate) fn send(letter: &Letter, text: &[u8]) -> Taken {
    use nix::sys::socket::{MsgFlags, send};
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    loop {
        match send(letter.socket, &text[letter.place.clone()], flags) {
            Err(nix::Error::EINTR) => {}
            taken => return taken.map_err(|errno| errno as i32),
        }
    }
}

thread_local! {
    static POST: RefCell<Option<Post>> = const { RefCell::new(None) };
}

/// Letters of one delivery.
pub(crate) const LETTERS_MAX: usize = 64;

/// Bytes of one letter: what is larger is worth a system call of its own.
pub(crate) const LETTER_MAX: usize = 4096;

/// Turns with one letter each after which the next one is expected to be alone as well.
const LONE_TURNS: u32 = 4;

/// Bytes of one delivery.
const TEXT_MAX: usize = 64 * 1024;
