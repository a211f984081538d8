//! The process's monotonic clock as [`Time`]: the one place where real time enters the actor model.

use mobula_types::Time;

/// The moment now, in nanoseconds of the host's monotonic clock.
pub fn now() -> Time {
    source::now()
}

/// The moment of the kernel's last timer tick: never after [`now`], and at most 10 ms before it.
///
/// Reading it costs 5 ns against 25, a tenth of an `ask`. For what may be late by a tick: the default of 30 s.
#[inline]
pub fn recent() -> Time {
    source::recent()
}

#[cfg(target_os = "linux")]
mod source {
    use mobula_types::Time;
    use nix::time::{ClockId, clock_gettime};

    pub(super) fn now() -> Time {
        read(ClockId::CLOCK_MONOTONIC)
    }

    pub(super) fn recent() -> Time {
        read(ClockId::CLOCK_MONOTONIC_COARSE)
    }

    #[inline]
    fn read(clock: ClockId) -> Time {
        let time = clock_gettime(clock).expect("every Linux since 2.6.32 has both monotonic clocks");
        let (seconds, nanos) = (time.tv_sec().unsigned_abs(), time.tv_nsec().unsigned_abs());
        Time::from_nanos(seconds * 1_000_000_000 + nanos)
    }
}

#[cfg(not(target_os = "linux"))]
mod source {
    use std::sync::OnceLock;
    use std::time::Instant;

    use mobula_types::Time;

    pub(super) fn now() -> Time {
        static START: OnceLock<Instant> = OnceLock::new();
        let start = START.get_or_init(Instant::now);
        Time::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// No coarser clock is known here.
    pub(super) fn recent() -> Time {
        now()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_recent_moment_is_at_most_a_tick_ago() {
        for _ in 0..1000 {
            let (before, recent, after) = (now(), recent(), now());
            assert!(recent <= after, "{recent:?} is after {after:?}");
            assert!(before - recent <= Duration::from_millis(11), "{recent:?} is long before {before:?}");
        }
    }
}
