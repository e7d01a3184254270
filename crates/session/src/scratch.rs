//! [`Scratch`]: the room that a session takes up only while it has a request.

use std::collections::VecDeque;

use crate::flight::Sent;
use crate::owed::Owed;
use crate::session::Session;

/// Room for a request and what is owed for it. Sessions between two requests have none, so that many share what a few need at a time.
#[derive(Debug, Default)]
pub struct Scratch {
    frames: Vec<u8>,
    flight: VecDeque<Sent>,
    owed: VecDeque<Owed>,
}

impl Session {
    /// Takes room for the requests to come. Without, or where there is some, the session makes its own.
    pub fn move_in(&mut self, scratch: Scratch) {
        if self.request.frames.capacity() == 0 {
            self.request.frames = scratch.frames;
        }
        if self.flight.capacity() == 0 {
            self.flight = scratch.flight;
        }
        if self.owed.capacity() == 0 {
            self.owed = scratch.owed;
        }
    }

    /// Whether it has no room.
    #[must_use]
    pub fn is_bare(&self) -> bool {
        self.request.frames.capacity() == 0
    }

    /// Gives its room away; `None` while it has a request, or none to give. What has grown is freed.
    pub fn move_out(&mut self) -> Option<Scratch> {
        if self.is_bare() || !self.request.frames.is_empty() || !self.flight.is_empty() || !self.owed.is_empty() {
            return None;
        }
        let mut scratch = Scratch {
            frames: std::mem::take(&mut self.request.frames),
            flight: std::mem::take(&mut self.flight),
            owed: std::mem::take(&mut self.owed),
        };
        if scratch.frames.capacity() > FRAMES_KEPT {
            scratch.frames = Vec::new();
        }
        if scratch.flight.capacity() > FLIGHT_KEPT {
            scratch.flight = VecDeque::new();
        }
        if scratch.owed.capacity() > OWED_KEPT {
            scratch.owed = VecDeque::new();
        }
        Some(scratch)
    }
}

/// How many bytes, requests, and answers owed, there may be room for that is given away.
const FRAMES_KEPT: usize = 512;
const FLIGHT_KEPT: usize = 8;
const OWED_KEPT: usize = 64;
