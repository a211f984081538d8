//! One lane of a session: what waits, what is in flight, and what has come.

use std::collections::VecDeque;

use super::Lane;
use crate::mutant::{Mutant, Planted};

/// Bytes in flight that are not acknowledged: 16 MiB over the three lanes (design.md §8).
const fn in_flight_bytes_max(lane: Lane) -> usize {
    match lane {
        Lane::Control => 2 << 20,
        Lane::Calls => 6 << 20,
        Lane::Bulk => 8 << 20,
    }
}

/// Frames in flight: 16 MiB of frames of 64 bytes, and what a process of millions of calls a second sends in 100 ms.
pub(super) const IN_FLIGHT_FRAMES_MAX: usize = 1 << 18;

/// Bytes that wait and are in flight, per lane; the last frame may go beyond, as large as it is.
pub(super) const HELD_BYTES_MAX: usize = 64 << 20;

/// Frames that wait and are in flight, per lane: credit bounds what one process sends to one actor, this all of it.
pub(super) const HELD_FRAMES_MAX: usize = 1 << 19;

/// The other side is told at the latest when so many parts of its window have come: it never waits for a word.
const WORDS_PER_WINDOW: usize = 8;

/// A lane takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full {
    /// Frames that it holds.
    pub frames: usize,
    /// Their bytes.
    pub bytes: usize,
}

#[derive(Debug)]
pub(super) struct LaneState<F> {
    in_flight_bytes_max: usize,
    /// Frames not known to have arrived; the first has number `acknowledged`.
    held: VecDeque<Held<F>>,
    held_bytes: usize,
    acknowledged: u64,
    /// Of those held, so many have been written to the link that is there now.
    in_flight: usize,
    in_flight_bytes: usize,
    /// What the connection before had taken of them.
    resends: u64,
    /// Frames that have come from the other side, in order and without a hole.
    received: u64,
    /// What came since the other side was told.
    untold_frames: usize,
    untold_bytes: usize,
}

#[derive(Debug)]
struct Held<F> {
    frame: F,
    bytes: usize,
}

impl<F: Clone> LaneState<F> {
    pub(super) fn new(lane: Lane) -> Self {
        Self {
            in_flight_bytes_max: in_flight_bytes_max(lane),
            held: VecDeque::new(),
            held_bytes: 0,
            acknowledged: 0,
            in_flight: 0,
            in_flight_bytes: 0,
            resends: 0,
            received: 0,
            untold_frames: 0,
            untold_bytes: 0,
        }
    }

    pub(super) fn held(&self) -> (usize, usize) {
        (self.held.len(), self.held_bytes)
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    pub(super) fn push(&mut self, frame: F, bytes: usize) -> Result<(), Full> {
        if self.held_bytes >= HELD_BYTES_MAX || self.held.len() >= HELD_FRAMES_MAX {
            return Err(Full { frames: self.held.len(), bytes: self.held_bytes });
        }
        self.held_bytes += bytes;
        self.held.push_back(Held { frame, bytes });
        Ok(())
    }

    /// The next frame that the window lets go.
    pub(super) fn transmit(&mut self) -> Option<F> {
        let next = self.held.get(self.in_flight)?;
        // SES-6: what is in flight is bounded; one frame alone always goes.
        let fits =
            self.in_flight_bytes + next.bytes <= self.in_flight_bytes_max && self.in_flight < IN_FLIGHT_FRAMES_MAX;
        if !fits && self.in_flight > 0 {
            return None;
        }
        self.in_flight += 1;
        self.in_flight_bytes += next.bytes;
        Some(next.frame.clone())
    }

    /// Whether the other side can have received so many: not more than was ever sent.
    pub(super) fn may_resume(&self, theirs: u64) -> bool {
        theirs <= self.acknowledged + self.held.len() as u64
    }

    /// A new connection is there and the other side has received so many, or more by now: what is not known to have
    /// arrived is sent again. The number of the first frame on the new connection.
    pub(super) fn resume(&mut self, theirs: u64, planted: Planted) -> u64 {
        self.forget(theirs);
        self.resends = self.in_flight as u64;
        // SES-1: nothing that did not arrive is left out.
        if !planted.is(Mutant::ForgetUnacknowledged) {
            (self.in_flight, self.in_flight_bytes) = (0, 0);
        }
        self.told();
        self.acknowledged
    }

    /// Frames that the last new connection takes for the second time.
    pub(super) fn resends(&self) -> u64 {
        self.resends
    }

    /// Whether the word of the other side can be true; what it has received is forgotten.
    pub(super) fn acknowledged(&mut self, theirs: u64) -> bool {
        if !self.may_resume(theirs) {
            return false;
        }
        // It may have received more over the connection before: that is written to this one all the same, because a
        // frame's number is its place.
        self.forget(theirs.min(self.acknowledged + self.in_flight as u64));
        true
    }

    fn forget(&mut self, theirs: u64) {
        while self.acknowledged < theirs {
            let Some(held) = self.held.pop_front() else { return };
            self.acknowledged += 1;
            self.held_bytes -= held.bytes;
            if self.in_flight > 0 {
                self.in_flight -= 1;
                self.in_flight_bytes -= held.bytes;
            }
        }
    }

    /// Whether the frame with this number is the next one.
    pub(super) fn take(&mut self, number: u64, bytes: usize, planted: Planted) -> bool {
        // SES-2: what has come before is not handed on again.
        if number < self.received && !planted.is(Mutant::DeliverRepeats) {
            return false;
        }
        self.received = self.received.max(number + 1);
        self.untold_frames += 1;
        self.untold_bytes += bytes;
        true
    }

    /// Whether the other side's window would soon be shut for want of a word.
    pub(super) fn owes_word(&self) -> bool {
        self.untold_bytes >= self.in_flight_bytes_max / WORDS_PER_WINDOW
            || self.untold_frames >= IN_FLIGHT_FRAMES_MAX / WORDS_PER_WINDOW
    }

    pub(super) fn told(&mut self) {
        (self.untold_frames, self.untold_bytes) = (0, 0);
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = F> {
        (self.held_bytes, self.in_flight, self.in_flight_bytes) = (0, 0, 0);
        std::mem::take(&mut self.held).into_iter().map(|held| held.frame)
    }

    /// Whether what is counted is what is there.
    pub(super) fn counts_hold(&self) -> bool {
        self.in_flight <= self.held.len()
            && (self.in_flight_bytes <= self.in_flight_bytes_max || self.in_flight == 1)
            && self.in_flight <= IN_FLIGHT_FRAMES_MAX
            && self.held.back().is_none_or(|last| self.held_bytes - last.bytes < HELD_BYTES_MAX)
            && self.held.len() <= HELD_FRAMES_MAX
    }
}
