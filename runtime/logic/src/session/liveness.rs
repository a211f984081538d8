//! Whether the other side is heard, and whether it hears this one.
//!
//! Silence counts only while this side is awake: a process that was stopped, or a host that slept, has not listened.

use std::time::Duration;

use mobula_types::Time;

/// So often a side says that it lives, when it says nothing else on the main link.
pub const HEARTBEAT: Duration = Duration::from_millis(100);

/// After so long a silence the other process is probed (design.md §8).
pub const SILENCE_MIN: Duration = Duration::from_millis(300);

/// A silence that lasts is reported again so often.
pub const SILENCE_STEP: Duration = Duration::from_secs(1);

/// The same when the port refuses: two reports mean that the process was killed, which is to be known in a second (G11).
pub(super) const REFUSED_STEP: Duration = Duration::from_millis(100);

/// A connection on which nothing has come for so long is given up for a new one. QUIC alone would wait as long again as a
/// cut has lasted before it tries, because its retries double their distance.
pub const LINK_SILENCE_MAX: Duration = Duration::from_secs(2);

/// A tick that comes later than this after its time was kept from coming: the process had not run.
const LATE_MAX: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Liveness {
    heard: Time,
    /// When the next report of a silence is due.
    probe_at: Time,
    /// A probe is under way.
    is_probing: bool,
    /// When this side said something last.
    said: Time,
    /// The last tick.
    ticked: Time,
}

impl Liveness {
    pub(super) fn new(now: Time) -> Self {
        Self { heard: now, probe_at: Time::MAX, is_probing: false, said: now, ticked: now }
    }

    /// From now on the other side is expected to be heard.
    pub(super) fn begin(&mut self, now: Time) {
        self.hear(now);
        self.ticked = now;
    }

    pub(super) fn hear(&mut self, now: Time) {
        self.heard = now;
        self.probe_at = now + SILENCE_MIN;
    }

    pub(super) fn silent(&self, now: Time) -> Duration {
        now.since((self.heard + self.slept(now)).min(now))
    }

    /// For how long this side has not run, when it has not looked since.
    fn slept(&self, now: Time) -> Duration {
        let late = now.since(self.ticked + HEARTBEAT);
        if late > LATE_MAX { late } else { Duration::ZERO }
    }

    pub(super) fn said(&mut self, now: Time) {
        self.said = now;
    }

    /// Looks at how long this side has slept.
    pub(super) fn wake(&mut self, now: Time) {
        // SES-7: time in which this side did not run is no silence of the other.
        let slept = self.slept(now);
        if !slept.is_zero() {
            self.heard = (self.heard + slept).min(now);
            if self.probe_at != Time::MAX {
                self.probe_at = (self.probe_at + slept).min(now + SILENCE_STEP);
            }
        }
        self.ticked = now;
    }

    pub(super) fn owes_heartbeat(&self, now: Time) -> bool {
        now >= self.said + HEARTBEAT
    }

    pub(super) fn is_link_dead(&self, now: Time) -> bool {
        now.since(self.heard) >= LINK_SILENCE_MAX
    }

    /// Whether a probe is due now.
    pub(super) fn probes(&mut self, now: Time) -> bool {
        let is_due = now >= self.probe_at && !self.is_probing;
        if is_due {
            self.is_probing = true;
        }
        is_due
    }

    /// A probe is over: how long the silence is, if it still is one.
    pub(super) fn probed(&mut self, now: Time, refused: bool) -> Option<Duration> {
        self.is_probing = false;
        let silent = now.since(self.heard);
        if silent < SILENCE_MIN {
            return None;
        }
        self.probe_at = now + if refused { REFUSED_STEP } else { SILENCE_STEP };
        Some(silent)
    }

    /// When this wants to be looked at. Every [`HEARTBEAT`] as long as anything is expected: a longer wait could not be
    /// told from sleep.
    pub(super) fn next(&self, is_up: bool) -> Option<Time> {
        (is_up || self.probe_at != Time::MAX).then(|| self.ticked + HEARTBEAT)
    }
}
