//! What holds of a task after every input.
//!
//! | number | invariant |
//! |---|---|
//! | TASK-1 | an outcome is said once, and exactly when the task is done |
//! | TASK-2 | it runs again at most as often as was allowed for each cause |
//! | TASK-3 | the result that is taken is the newest attempt's |
//! | TASK-4 | a task that may run at most once has at most one attempt that may have begun |
//! | TASK-5 | every attempt but the first has exactly one cause; a bystander's is not counted as another |
//! | TASK-6 | the first retry is at once, every later one waits 100 ms to 5 s; a recall is no retry |
//! | TASK-7 | a task is done when its deadline passes |

use super::{BYSTANDER_MAX, State, Task, WAIT_MAX, WAIT_MIN};
use crate::invariant::{Violation, ensure};

/// Whether everything in the table above holds of `task`.
///
/// # Errors
/// The first one that does not.
pub fn check(task: &Task) -> Result<(), Violation> {
    let Task { spec, state, attempt, reruns, begun, seen, resolved, .. } = task;
    let is_done = matches!(state, State::Done { .. });
    ensure(*resolved == u32::from(is_done), "TASK-1", || format!("{resolved} outcomes were said, {state:?}"))?;

    let is_allowed = reruns.system <= spec.system_max
        && reruns.application <= spec.application_max
        && reruns.bystander <= BYSTANDER_MAX;
    ensure(is_allowed, "TASK-2", || format!("{reruns:?} where {spec:?}"))?;

    if let State::Done { by: Some(by), .. } = state {
        ensure(by == attempt, "TASK-3", || format!("the result of {by} was taken when {attempt} was the newest"))?;
    }
    ensure(!spec.at_most_once || *begun <= 1, "TASK-4", || format!("{begun} attempts may have begun"))?;

    // An attempt's cause is counted when its wait begins, which the task's end may cut short.
    let expect = match state {
        State::Waiting => 0..=0,
        State::InFlight => attempt.0 - 1..=attempt.0 - 1,
        State::Backoff { .. } => attempt.0..=attempt.0,
        State::Done { .. } => attempt.0.saturating_sub(1)..=attempt.0,
    };
    ensure(expect.contains(&reruns.total()), "TASK-5", || format!("{reruns:?} at {attempt}, {state:?}"))?;

    if let State::Backoff { since, until } = state {
        let (wait, nth) = (*until - *since, reruns.failures());
        let holds = if nth == 1 { wait.is_zero() } else { WAIT_MIN <= wait && wait <= WAIT_MAX };
        ensure(holds, "TASK-6", || format!("retry {nth} waits {wait:?}"))?;
    }
    ensure(is_done || !spec.deadline.has_passed(*seen), "TASK-7", || {
        format!("{state:?} at {seen:?}, the deadline was {:?}", spec.deadline)
    })
}
