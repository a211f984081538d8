//! When to dial, and which of two connections stays.

use std::time::Duration;

use mobula_types::Time;

/// The wait after the first dial that failed; each further one waits twice as long, up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// A peer that is there again is found within this.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Which side dialed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialer {
    /// This one.
    This,
    /// The other.
    Other,
}

/// What a dialer says of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    /// The count of its connections for this link, from 1 on.
    pub number: u64,
    /// The largest number of the other side's connections that it had adopted when it dialed.
    pub seen: u64,
}

/// Whether `new` takes the place of `current`. Both sides come to the same answer, whichever they saw first.
///
/// Of one dialer's connections the later is right. Of two dialers', the one that was dialed in knowledge of the other;
/// where neither was, both dialed at once, and the side with the larger half wins.
pub fn supersedes(new: (Dialer, Made), current: (Dialer, Made), this_wins: bool) -> bool {
    let ((new_dialer, new), (current_dialer, current)) = (new, current);
    if new_dialer == current_dialer {
        return new.number > current.number;
    }
    if new.seen >= current.number {
        return true;
    }
    if current.seen >= new.number {
        return false;
    }
    this_wins == (new_dialer == Dialer::This)
}

/// The dials of one link.
#[derive(Debug)]
pub(super) struct Dialing {
    may_dial: bool,
    /// Somebody wants the link.
    pub(super) is_wanted: bool,
    /// Dials so far.
    number: u64,
    /// The dial that is not answered yet.
    open: Option<Open>,
    /// The next dial is not before this.
    not_before: Time,
    backoff: Duration,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    /// What was seen of the other side's connections then.
    pub(super) seen: u64,
}

impl Dialing {
    pub(super) fn new(may_dial: bool) -> Self {
        Self { may_dial, is_wanted: false, number: 0, open: None, not_before: Time::ZERO, backoff: BACKOFF_MIN }
    }

    /// Wants the link from now on; whether it was not wanted before.
    pub(super) fn want(&mut self, now: Time) -> bool {
        let is_new = !std::mem::replace(&mut self.is_wanted, true);
        if is_new {
            self.not_before = now;
        }
        is_new
    }

    pub(super) fn may_dial(&mut self, now: Time) {
        self.may_dial = true;
        self.not_before = now;
        self.backoff = BACKOFF_MIN;
    }

    /// The number of a dial that is due now.
    pub(super) fn due(&mut self, now: Time, seen: u64) -> Option<u64> {
        if !self.is_wanted || !self.may_dial || self.open.is_some() || now < self.not_before {
            return None;
        }
        self.number += 1;
        self.open = Some(Open { seen });
        Some(self.number)
    }

    /// The open dial, if `number` is its number.
    pub(super) fn answered(&mut self, number: u64) -> Option<Open> {
        if number == self.number { self.open.take() } else { None }
    }

    pub(super) fn failed(&mut self, now: Time, number: u64) {
        if self.answered(number).is_some() {
            self.not_before = now + self.backoff;
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }

    pub(super) fn connected(&mut self) {
        self.backoff = BACKOFF_MIN;
    }

    /// The link's connection is over: dial at once, or a little later when the other side is to be first.
    pub(super) fn lost(&mut self, now: Time, yields: bool) {
        self.not_before = if yields { now + BACKOFF_MIN } else { now };
    }

    /// When a dial will be due.
    pub(super) fn next(&self) -> Option<Time> {
        (self.is_wanted && self.may_dial && self.open.is_none()).then_some(self.not_before)
    }
}
