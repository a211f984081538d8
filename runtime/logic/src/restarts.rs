//! When and how often something that failed is started again (G5).
//!
//! ```text
//! ended ── the policy says it stays ended ─────────────────► End
//!   └───── it failed ── within the intensity ──────────────► Restart at once, then after 1, 2, 4 … × first, ≤ max
//!               └────── once too often in the period ──────► GiveUp
//! ```
//!
//! [`Restarts`] is for one actor that nobody but itself supervises; a group is [`Supervision`](crate::supervision), built
//! from the same two parts: how often in a period (an intensity), and how long to wait (a backoff).

use std::collections::VecDeque;
use std::time::Duration;

use mobula_types::{Backoff, ExitReason, Intensity, Restart, RestartPolicy, Time};

use crate::mutant::{Mutant, Planted};

/// Decides for one actor after each of its ends.
///
/// ```
/// use mobula_logic::{Restarts, Verdict};
/// use mobula_types::{ExitReason, RestartPolicy, Time};
/// let mut restarts = Restarts::new(RestartPolicy::default());
/// assert_eq!(restarts.decide(Time::ZERO, &ExitReason::Killed), Verdict::Restart { at: Time::ZERO });
/// assert_eq!(restarts.decide(Time::ZERO, &ExitReason::Normal), Verdict::End);
/// ```
#[derive(Debug)]
pub struct Restarts {
    policy: RestartPolicy,
    recent: Recent,
    series: Series,
}

/// What becomes of an actor that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Start it again then.
    Restart {
        /// Now, or later when it failed before.
        at: Time,
    },
    /// Its policy says that it stays ended.
    End,
    /// It failed more often than its intensity allows.
    GiveUp,
}

impl Restarts {
    /// No failures yet.
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, recent: Recent::default(), series: Series::default() }
    }

    /// Decides after an end for `reason` at `now`.
    pub fn decide(&mut self, now: Time, reason: &ExitReason) -> Verdict {
        if !restarts_after(self.policy.restart, reason) {
            return Verdict::End;
        }
        if !self.recent.admit(now, self.policy.intensity, Planted::default()) {
            return Verdict::GiveUp;
        }
        let RestartPolicy { intensity, backoff, .. } = self.policy;
        Verdict::Restart { at: self.series.next(now, backoff, intensity.period, Planted::default()) }
    }
}

/// Whether a child of this kind that ended for `reason` is to be started again.
pub(crate) fn restarts_after(restart: Restart, reason: &ExitReason) -> bool {
    match restart {
        Restart::Permanent => true,
        Restart::Transient => !reason.is_normal(),
        Restart::Temporary => false,
    }
}

/// The restarts of the last period: exact up to [`STAMPS_MAX`] of them, to a 64th of the period above.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent {
    stamps: VecDeque<Stamp>,
}

#[derive(Clone, Copy, Debug)]
struct Stamp {
    at: Time,
    restarts: u32,
}

impl Recent {
    /// Counts one more restart at `now`; `false` when that is one too many.
    pub(crate) fn admit(&mut self, now: Time, intensity: Intensity, planted: Planted) -> bool {
        while self.stamps.front().is_some_and(|oldest| now.since(oldest.at) > intensity.period) {
            self.stamps.pop_front();
        }
        let spare = u32::from(planted.is(Mutant::IntensityOffByOne));
        if self.count() >= intensity.restarts_max.saturating_add(spare) {
            return false;
        }
        let slot = intensity.period / STAMPS_MAX;
        match self.stamps.back_mut() {
            Some(last) if intensity.restarts_max > STAMPS_MAX && now.since(last.at) < slot => last.restarts += 1,
            _ => self.stamps.push_back(Stamp { at: now, restarts: 1 }),
        }
        true
    }

    /// The restarts in it, some of which may have become too old since the last one.
    pub(crate) fn count(&self) -> u32 {
        self.stamps.iter().map(|stamp| stamp.restarts).sum()
    }
}

/// Restarts in a row, which wait longer and longer until a whole period has been quiet.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Series {
    restarts: u32,
    failed_at: Time,
    due: Time,
}

impl Series {
    /// When the restart after a failure at `now` is due: the first at once.
    pub(crate) fn next(&mut self, now: Time, backoff: Backoff, quiet: Duration, planted: Planted) -> Time {
        if self.restarts > 0 && now.since(self.due) > quiet {
            self.restarts = 0;
        }
        // SUP-4: only the first restart in a row is at once.
        let wait = match self.restarts.checked_sub(1) {
            _ if planted.is(Mutant::ForgetBackoff) => Duration::ZERO,
            None => Duration::ZERO,
            Some(doublings) => backoff.first.saturating_mul(2u32.saturating_pow(doublings)).min(backoff.max),
        };
        self.restarts = self.restarts.saturating_add(1);
        self.failed_at = now;
        self.due = now + wait;
        self.due
    }

    /// When the last restart was due.
    pub(crate) fn due(&self) -> Time {
        self.due
    }

    /// Whether the last restart waits within the backoff's bounds: not at all when it is the first.
    pub(crate) fn waits_as(&self, backoff: Backoff) -> bool {
        let wait = self.due - self.failed_at;
        match self.restarts {
            0 | 1 => wait.is_zero(),
            _ => backoff.first.min(backoff.max) <= wait && wait <= backoff.max,
        }
    }
}

/// Stamps kept at most: an intensity that allows more restarts is counted in slots of a 64th of its period.
const STAMPS_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Time {
        Time::ZERO + Duration::from_millis(millis)
    }

    /// Each line: a failure at that time, and when it is restarted or `None` for giving up.
    fn check(policy: RestartPolicy, expect: &[(u64, Option<u64>)]) {
        let mut restarts = Restarts::new(policy);
        for &(now, at) in expect {
            let expect = at.map_or(Verdict::GiveUp, |at| Verdict::Restart { at: ms(at) });
            assert_eq!(restarts.decide(ms(now), &ExitReason::Killed), expect, "at {now} ms");
        }
    }

    fn at_most(restarts_max: u32, period_s: u64) -> RestartPolicy {
        let intensity = Intensity { restarts_max, period: Duration::from_secs(period_s) };
        RestartPolicy { intensity, ..RestartPolicy::default() }
    }

    #[test]
    fn the_default_is_the_promise() {
        check(RestartPolicy::default(), &[(0, Some(0)), (1, Some(101)), (200, Some(400)), (500, None)]);
    }

    #[test]
    fn restarts_leave_the_count_with_the_period() {
        check(at_most(1, 1), &[(0, Some(0)), (1000, None)]);
        check(at_most(1, 1), &[(0, Some(0)), (1001, Some(1001)), (1002, None)]);
        check(at_most(2, 1), &[(0, Some(0)), (900, Some(1000)), (1001, Some(1201)), (1002, None)]);
        check(at_most(0, 1), &[(0, None)]);
    }

    #[test]
    fn waits_double_up_to_the_bound() {
        let waits = [0, 100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000];
        let mut now = 0;
        let expect: Vec<_> = waits
            .iter()
            .map(|wait| {
                let failed = now;
                now += wait;
                (failed, Some(now))
            })
            .collect();
        check(at_most(1000, 10), &expect);
    }

    #[test]
    fn a_quiet_period_forgets_the_series_and_a_long_wait_is_not_quiet() {
        check(at_most(10, 1), &[(0, Some(0)), (0, Some(100)), (1100, Some(1300)), (2301, Some(2301))]);
        let backoff = Backoff { first: Duration::from_secs(5), max: Duration::from_secs(60) };
        let policy = RestartPolicy { backoff, ..at_most(10, 1) };
        check(policy, &[(0, Some(0)), (0, Some(5000)), (5001, Some(15_001))]);
    }

    #[test]
    fn the_kind_of_child_decides_what_is_a_failure() {
        use Restart::{Permanent, Temporary, Transient};
        let failed = ExitReason::Failed(mobula_types::ErrorChain::message("x"));
        let table = [
            (Permanent, [true, true, true, true]),
            (Transient, [false, false, true, true]),
            (Temporary, [false, false, false, false]),
        ];
        for (restart, expect) in table {
            let reasons = [&ExitReason::Normal, &ExitReason::Shutdown, &ExitReason::Killed, &failed];
            assert_eq!(reasons.map(|reason| restarts_after(restart, reason)), expect, "{restart:?}");
        }
    }

    #[test]
    fn memory_is_bounded_and_the_count_stays_close() {
        let intensity = Intensity { restarts_max: 1000, period: Duration::from_secs(10) };
        let mut recent = Recent::default();
        let admitted = (0..4000).filter(|&at| recent.admit(ms(at), intensity, Planted::default())).count();
        assert_eq!(admitted, 1000);
        assert!(recent.stamps.len() <= STAMPS_MAX as usize + 1, "{} stamps", recent.stamps.len());
        // At a rate that is allowed for ever it never gives up.
        let mut recent = Recent::default();
        assert!((0..10_000).all(|nth| recent.admit(ms(nth * 11), intensity, Planted::default())));
        assert!(recent.stamps.len() <= STAMPS_MAX as usize + 1, "{} stamps", recent.stamps.len());
    }
}
