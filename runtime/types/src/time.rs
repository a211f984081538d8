//! Monotonic time as a number, so that a simulator can invent it (G18: the wall clock changes nothing).

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A moment of one process's (or one simulation's) monotonic clock, in nanoseconds since its start.
///
/// Times of two processes cannot be compared: deadlines travel as the time left.
///
/// ```
/// use std::time::Duration;
/// use mobula_types::Time;
/// let later = Time::ZERO + Duration::from_millis(3);
/// assert_eq!(later - Time::ZERO, Duration::from_millis(3));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(u64);

impl Time {
    /// The start of the clock.
    pub const ZERO: Self = Self(0);
    /// Later than every moment that comes: 584 years.
    pub const MAX: Self = Self(u64::MAX);

    /// The moment `nanos` nanoseconds after the start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// How long after `earlier` this is; zero when it is before it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Time {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// The moment after which a result is of no use any more, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Time);

impl Default for Deadline {
    fn default() -> Self {
        Self::NEVER
    }
}

impl Deadline {
    /// No deadline: the wait ends only by an outcome.
    pub const NEVER: Self = Self(Time::MAX);

    /// A deadline at `time`.
    pub const fn at(time: Time) -> Self {
        Self(time)
    }

    /// The moment it stands for; [`Time::MAX`] when there is none.
    pub const fn time(self) -> Time {
        self.0
    }

    /// Whether there is a deadline at all.
    pub fn is_set(self) -> bool {
        self != Self::NEVER
    }

    /// Whether it has passed at `now`.
    pub fn has_passed(self, now: Time) -> bool {
        self.is_set() && self.0 <= now
    }

    /// The time left at `now`, which is how a deadline travels; `None` when there is none.
    pub fn left(self, now: Time) -> Option<Duration> {
        self.is_set().then(|| self.0.since(now))
    }

    /// The earlier of two deadlines: what a call's calls inherit.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        self.min(other)
    }
}
