//! What someone sees of a task who knows what was asked for, what it was told and asked for, and what really ran.
//!
//! | number | from outside |
//! |---|---|
//! | TASK-1 | a task ends in one outcome, and nothing of it happens after |
//! | TASK-2 | it runs again as often as was allowed, no more and no less |
//! | TASK-3 | attempts count up, and the result taken is the newest one's, which really ended so |
//! | TASK-4 | a task that may run at most once really began at most once; what is called not started never did |
//! | TASK-5 | another's crash uses up no retry |
//! | TASK-6 | the first retry comes at once, every later one after 100 ms to 5 s |
//! | TASK-7 | no deadline passes without an outcome |

use std::time::Duration;

use mobula_logic::Violation;
use mobula_logic::task::{End, Input, Output, TaskSpec};
use mobula_types::{Attempt, Outcome, Time};

use crate::failure::ensure;

/// What was seen of one task.
#[derive(Debug)]
pub(super) struct Witness {
    spec: TaskSpec,
    /// Attempts that really began, and how they ended if they did.
    began: Vec<(Attempt, Option<End>)>,
    newest: Attempt,
    is_in_flight: bool,
    failed_at: Time,
    /// Failures of the attempt in flight that count, and those that do not.
    system: u32,
    application: u32,
    bystander: u32,
    is_cancelled: bool,
    is_unrunnable: bool,
    /// An attempt ended so that its submitter wants no other.
    is_final: bool,
    outcome: Option<Outcome>,
}

impl Witness {
    pub(super) fn new(spec: TaskSpec) -> Self {
        Self {
            spec,
            began: Vec::new(),
            newest: Attempt(0),
            is_in_flight: false,
            failed_at: Time::ZERO,
            system: 0,
            application: 0,
            bystander: 0,
            is_cancelled: false,
            is_unrunnable: false,
            is_final: false,
            outcome: None,
        }
    }

    pub(super) fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// The attempt that was sent and of which nothing decisive was heard.
    pub(super) fn in_flight(&self) -> Option<Attempt> {
        (self.is_in_flight && self.outcome.is_none()).then_some(self.newest)
    }

    /// An attempt begins where it was sent.
    pub(super) fn see_begin(&mut self, attempt: Attempt) -> Result<(), Violation> {
        self.began.push((attempt, None));
        let began = &self.began;
        ensure(!self.spec.at_most_once || began.len() <= 1, "TASK-4", || format!("{began:?} of a task for one run"))
    }

    pub(super) fn see_end(&mut self, attempt: Attempt, end: End) {
        let run = self.began.iter_mut().find(|(began, ended)| *began == attempt && ended.is_none());
        if let Some((_, ended)) = run {
            *ended = Some(end);
        }
    }

    pub(super) fn see_input(&mut self, now: Time, input: Input) {
        let is_newest = |attempt| self.is_in_flight && self.newest == attempt && self.outcome.is_none();
        let count = match input {
            Input::SystemFailed { attempt, culprit: true } | Input::TurnedAway { attempt } if is_newest(attempt) => {
                &mut self.system
            }
            Input::SystemFailed { attempt, culprit: false } if is_newest(attempt) => &mut self.bystander,
            Input::Finished { attempt, end } if is_newest(attempt) && end != End::Ok => {
                self.is_final |= end == End::Final;
                &mut self.application
            }
            Input::Cancel => return self.is_cancelled = true,
            Input::Unrunnable => return self.is_unrunnable = true,
            _ => return,
        };
        // A deadline comes first, and then nothing is counted any more.
        if self.spec.deadline.has_passed(now) {
            return;
        }
        *count += 1;
        self.is_in_flight = false;
        self.failed_at = now;
    }

    /// Judges one thing that the task asks for.
    pub(super) fn see_output(&mut self, now: Time, output: Output) -> Result<(), Violation> {
        ensure(self.outcome.is_none(), "TASK-1", || format!("{output:?} after {:?}", self.outcome))?;
        match output {
            Output::Run { attempt } => self.see_run(now, attempt),
            Output::CancelAttempt { attempt } => {
                ensure(self.in_flight() == Some(attempt), "TASK-3", || format!("{attempt} is cancelled: {self:?}"))
            }
            Output::Resolve { outcome, attempt } => {
                self.outcome = Some(outcome);
                self.see_outcome(now, outcome, attempt)
            }
        }
    }

    fn see_run(&mut self, now: Time, attempt: Attempt) -> Result<(), Violation> {
        let is_next = !self.is_in_flight && attempt == self.newest.next();
        ensure(is_next, "TASK-3", || format!("{attempt} runs: {self:?}"))?;
        let is_allowed = self.system <= self.spec.system_max && self.application <= self.spec.application_max;
        // Whoever wanted no other run has none: one that said so was heard only while it was the newest.
        let is_allowed = is_allowed && !self.is_final;
        ensure(is_allowed, "TASK-2", || format!("{attempt} runs: {self:?}"))?;
        let wait = now - self.failed_at;
        let is_timely = match attempt.0 {
            1 => true,
            2 => wait.is_zero(),
            _ => (Duration::from_millis(100)..=Duration::from_secs(5)).contains(&wait),
        };
        ensure(is_timely, "TASK-6", || format!("{attempt} runs after {wait:?}"))?;
        self.newest = attempt;
        self.is_in_flight = true;
        Ok(())
    }

    fn see_outcome(&self, now: Time, outcome: Outcome, by: Option<Attempt>) -> Result<(), Violation> {
        let Self { spec, began, .. } = self;
        let (invariant, holds) = match outcome {
            Outcome::Ok => ("TASK-3", by == Some(self.newest) && began.contains(&(self.newest, Some(End::Ok)))),
            Outcome::Failed => {
                let failed = |&(attempt, end): &(Attempt, Option<End>)| {
                    attempt == self.newest && matches!(end, Some(End::ApplicationError | End::Panicked | End::Final))
                };
                let is_final = began.contains(&(self.newest, Some(End::Final)));
                let is_used_up = is_final || spec.at_most_once || self.application > spec.application_max;
                let is_true = by == Some(self.newest) && began.iter().any(failed);
                (if is_true { "TASK-2" } else { "TASK-3" }, is_true && is_used_up)
            }
            Outcome::NotStarted => {
                let is_used_up = self.is_unrunnable || self.system > spec.system_max;
                (if began.is_empty() { "TASK-2" } else { "TASK-4" }, began.is_empty() && is_used_up)
            }
            Outcome::MayHaveRun => {
                let is_used_up = self.system > spec.system_max || self.bystander > BYSTANDER_MAX;
                ("TASK-5", !self.is_in_flight && (is_used_up || spec.at_most_once))
            }
            Outcome::Cancelled => ("TASK-1", self.is_cancelled),
            Outcome::DeadlineExceeded => ("TASK-7", now == spec.deadline.time()),
        };
        ensure(holds, invariant, || format!("ends {outcome:?} by {by:?}: {self:?}"))
    }

    /// Judges that the task says no more at `now`.
    pub(super) fn see_silence(&self, now: Time) -> Result<(), Violation> {
        let is_late = self.outcome.is_none() && self.spec.deadline.has_passed(now);
        ensure(!is_late, "TASK-7", || format!("no outcome at {now:?}: {self:?}"))
    }
}

/// As `mobula_logic::task` bounds them.
const BYSTANDER_MAX: u32 = 16;
