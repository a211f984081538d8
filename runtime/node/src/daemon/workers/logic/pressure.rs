//! Which worker ends when its host is short of memory (G15).
//!
//! The one with the newest task that may run again: least is lost with it. Where none runs such a task, the newest worker.
//! One at a time: what it had is free a moment after its end, and only then is it known whether that was enough.

use std::time::Duration;

use mobula_types::ProcessId;

/// How much of it may be used before workers end: what is left is what the kernel needs to go on without killing.
pub const THRESHOLD: f64 = 0.95;

/// So long after an order to end, the memory of whoever was to end is free.
const FREED_WITHIN: Duration = Duration::from_secs(1);

/// Memory in use, and how much there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) used_bytes: u64,
    pub(crate) total_bytes: u64,
}

impl Memory {
    /// The part in use, from 0 to 1.
    pub(crate) fn used(self) -> f64 {
        self.used_bytes as f64 / self.total_bytes.max(1) as f64
    }
}

/// A worker, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) process: ProcessId,
    /// When it was started.
    pub(crate) started: Duration,
    /// When the newest of its tasks that may run again began.
    pub(crate) newest_task: Option<Duration>,
}

/// Looks at memory, again and again.
#[derive(Debug)]
pub(crate) struct Pressure {
    threshold: f64,
    /// When somebody was ended last.
    ended: Option<Duration>,
}

impl Pressure {
    pub(crate) fn new(threshold: f64) -> Self {
        Self { threshold, ended: None }
    }

    /// Who is to end now. All times are of one clock.
    pub(crate) fn look(
        &mut self,
        now: Duration,
        memory: Memory,
        workers: impl IntoIterator<Item = Candidate>,
    ) -> Option<ProcessId> {
        let is_settling = self.ended.is_some_and(|ended| now < ended + FREED_WITHIN);
        if memory.used() <= self.threshold || is_settling {
            return None;
        }
        let last = workers.into_iter().max_by_key(|worker| (worker.newest_task, worker.started, worker.process))?;
        self.ended = Some(now);
        Some(last.process)
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::NodeId;

    use super::*;

    const LOW: Memory = Memory { used_bytes: 95, total_bytes: 100 };
    const HIGH: Memory = Memory { used_bytes: 96, total_bytes: 100 };

    fn process(number: u32) -> ProcessId {
        ProcessId::new(NodeId(1), number)
    }

    fn worker(number: u32, started: u64, newest_task: Option<u64>) -> Candidate {
        let (started, newest_task) = (Duration::from_secs(started), newest_task.map(Duration::from_secs));
        Candidate { process: process(number), started, newest_task }
    }

    #[test]
    fn nobody_ends_below_the_threshold() {
        let mut pressure = Pressure::new(THRESHOLD);
        let workers = [worker(1, 1, Some(2))];
        assert_eq!(pressure.look(Duration::from_secs(9), LOW, workers), None);
        assert_eq!(pressure.look(Duration::from_secs(9), HIGH, []), None, "there is nobody");
        assert_eq!(pressure.look(Duration::from_secs(9), HIGH, workers), Some(process(1)));
    }

    #[test]
    fn the_newest_task_that_may_run_again_goes_first() {
        let workers = [worker(1, 1, Some(5)), worker(2, 2, Some(7)), worker(3, 8, None), worker(4, 6, Some(6))];
        assert_eq!(Pressure::new(THRESHOLD).look(Duration::from_secs(9), HIGH, workers), Some(process(2)));
        let workers = [worker(3, 8, None), worker(1, 1, None)];
        assert_eq!(Pressure::new(THRESHOLD).look(Duration::from_secs(9), HIGH, workers), Some(process(3)));
    }

    #[test]
    fn one_at_a_time() {
        let mut pressure = Pressure::new(THRESHOLD);
        let workers = [worker(1, 1, Some(5)), worker(2, 2, Some(7))];
        let at = |ms| Duration::from_secs(9) + Duration::from_millis(ms);
        assert_eq!(pressure.look(at(0), HIGH, workers), Some(process(2)));
        assert_eq!(pressure.look(at(999), HIGH, workers), None, "its memory may not be free yet");
        assert_eq!(pressure.look(at(1000), HIGH, workers[..1].iter().copied()), Some(process(1)));
    }

    #[test]
    fn a_host_that_says_nothing_of_its_memory_ends_nobody() {
        let nothing = Memory { used_bytes: 0, total_bytes: 0 };
        assert_eq!(Pressure::new(THRESHOLD).look(Duration::ZERO, nothing, [worker(1, 1, None)]), None);
    }
}
