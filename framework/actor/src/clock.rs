//! The process's monotonic clock as [`Time`]: the one place where real time enters the actor model.

use std::sync::OnceLock;
use std::time::Instant;

use mobula_types::Time;

/// Nanoseconds since the process first asked.
pub fn now() -> Time {
    static START: OnceLock<Instant> = OnceLock::new();
    let start = START.get_or_init(Instant::now);
    Time::from_nanos(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
}
