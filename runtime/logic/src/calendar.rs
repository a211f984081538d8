//! What o'clock a moment is, for records and people; nothing is decided by it (G18).
//!
//! The wall clock is read once, by the driver, at the start: a jump of it afterwards changes nothing. Records hold
//! moments in milliseconds since the Unix epoch, because monotonic time ends with its process.

use std::time::Duration;

use mobula_types::Time;

/// Where a process's monotonic clock stands in the world's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    unix_ms_at_zero: u64,
}

impl Calendar {
    /// At `now` it is `unix_ms` milliseconds since the Unix epoch.
    pub fn new(now: Time, unix_ms: u64) -> Self {
        Self { unix_ms_at_zero: unix_ms.saturating_sub(now.as_nanos() / NANOS_PER_MS) }
    }

    /// What o'clock `time` is.
    pub fn unix_ms(self, time: Time) -> u64 {
        self.unix_ms_at_zero.saturating_add(time.as_nanos() / NANOS_PER_MS)
    }

    /// How long after `now` the moment is that a record names; zero when it has passed, and at most `max`, whatever the
    /// wall clock did between the two processes.
    pub fn left(self, now: Time, unix_ms: u64, max: Duration) -> Duration {
        Duration::from_millis(unix_ms.saturating_sub(self.unix_ms(now))).min(max)
    }
}

const NANOS_PER_MS: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_an_earlier_process_is_found_again() {
        let (before, now) = (Calendar::new(Time::from_nanos(5_000_000), 1_000), Time::from_nanos(2_000_000));
        let ends = before.unix_ms(Time::from_nanos(9_000_000));
        assert_eq!(ends, 1_004);
        let after = Calendar::new(now, 1_001);
        assert_eq!(after.left(now, ends, Duration::from_secs(1)), Duration::from_millis(3));
        assert_eq!(after.left(now, ends, Duration::from_millis(2)), Duration::from_millis(2), "never more than it had");
        assert_eq!(after.left(now, 900, Duration::from_secs(1)), Duration::ZERO);
    }
}
