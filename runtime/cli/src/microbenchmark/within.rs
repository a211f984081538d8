//! A session for the figures of one section, and the loops that several sections share.

use std::time::Instant;

use anyhow::{Context, Result};
use mobula::Session;

/// Runs `work` in a session of its own, with this thread as the driver.
pub(super) fn a_session<T>(work: impl AsyncFnOnce(&Session) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the driver")?;
    runtime.block_on(async {
        let config = mobula::Config::default().address("embedded");
        let session = mobula::init_with(config).await.context("begin a session")?;
        let result = work(&session).await;
        session.stop().await;
        result
    })
}

/// How often per second something happened that happened `count` times since `start`.
pub(super) fn per_second(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}

/// Microseconds since `start`.
pub(super) fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

/// Nanoseconds of CPU this thread has had. Figures in it do not see what else the machine does.
pub(super) fn thread_cpu_ns() -> Result<f64> {
    let time =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the thread's clock")?;
    Ok(time.tv_sec() as f64 * 1e9 + time.tv_nsec() as f64)
}

/// Memory of this process that is in RAM.
pub(super) fn resident_bytes() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status").context("read /proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS in /proc/self/status")?;
    let kib: usize = line.trim().trim_end_matches(" kB").parse().context("read VmRSS")?;
    Ok(kib * 1024)
}
