//! How often a task runs, and in which one outcome it ends (G1, G2).
//!
//! ```text
//!          Ready        Run said                 Finished
//!  Waiting ─────► InFlight{attempt} ───────────────────────────────► Done{outcome}
//!     │              ▲        │ lost, turned away, or failed           ▲
//!     │              │ due    ▼ with a retry left                      │
//!     │              └───── Backoff                                    │
//!     └── Cancel, the deadline, or no retry left: from everywhere ─────┘
//! ```
//!
//! | what happens to the attempt in flight | what the task does |
//! |---|---|
//! | it gave a value | ends `Ok` |
//! | it returned an error or panicked | runs again if `application_max` and its submitter allow it, else ends `Failed` |
//! | its place was lost, and it may be to blame | runs again up to `system_max` times, else ends `MayHaveRun` |
//! | its place was lost by another's crash | runs again, and that does not count |
//! | it was turned away before it began | as if lost, but ends `NotStarted` when no attempt can have begun |
//! | its place was recalled before it began | runs again at once, and that does not count |
//!
//! A task that may run at most once is only run again when it certainly never began. What is said of an attempt that is
//! not in flight any more is refused: a newer one stands for the task.
//!
//! Knows nothing of values, queues or places; the pair of task id and attempt is the driver's idempotency key.

mod invariants;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use mobula_types::{Attempt, Deadline, Outcome, StateMachine, Time};

use crate::mutant::{Mutant, Planted};

pub use invariants::check;

/// What was asked for when a task was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TaskSpec {
    /// Runs again after system failures: its worker or node was lost, or turned it away.
    pub system_max: u32,
    /// Runs again after it returned an error or panicked.
    pub application_max: u32,
    /// It is never run again once it may have begun.
    pub at_most_once: bool,
    /// When its outcome is of no use any more.
    pub deadline: Deadline,
    /// Among tasks that wait for the same place, those with a higher one go first.
    pub priority: i32,
    /// Where the jitter of its waits comes from.
    pub seed: u64,
}

impl Default for TaskSpec {
    /// G2: 3 retries on system failures, none on application errors; no deadline, and no priority.
    fn default() -> Self {
        Self { system_max: 3, application_max: 0, at_most_once: false, deadline: Deadline::NEVER, priority: 0, seed: 0 }
    }
}

/// How an attempt that ran came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It gave a value.
    Ok,
    /// It returned an error of its own.
    ApplicationError,
    /// It panicked.
    Panicked,
    /// It returned an error or panicked in a way after which its submitter wants no other run.
    Final,
}

/// What can happen to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Its arguments are there, and it may run.
    Ready,
    /// It can never run: an argument came to nothing, or no place has what it asks for.
    Unrunnable,
    /// An attempt has begun.
    Started {
        /// Which.
        attempt: Attempt,
    },
    /// An attempt ran to its end.
    Finished {
        /// Which.
        attempt: Attempt,
        /// How.
        end: End,
    },
    /// An attempt was turned away, and certainly never began.
    TurnedAway {
        /// Which.
        attempt: Attempt,
    },
    /// The place of an attempt was wanted back before it began there: it certainly never began, and nothing has failed.
    Recalled {
        /// Which.
        attempt: Attempt,
    },
    /// The place that an attempt was given to is lost.
    SystemFailed {
        /// Which attempt.
        attempt: Attempt,
        /// It was being run when its place was lost, so it may be to blame; a bystander is not.
        culprit: bool,
    },
    /// Nobody wants its outcome any more.
    Cancel,
    /// Nothing but time has passed.
    Tick,
}

/// What a task can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Give this attempt to a place that can run it.
    Run {
        /// Which attempt.
        attempt: Attempt,
    },
    /// The result of this attempt is not wanted any more: stop it if that is possible.
    CancelAttempt {
        /// Which attempt.
        attempt: Attempt,
    },
    /// The task has ended; said once.
    Resolve {
        /// How.
        outcome: Outcome,
        /// The attempt whose result it is, where the outcome is one's.
        attempt: Option<Attempt>,
    },
}

/// One submitted task.
///
/// ```
/// use mobula_logic::task::{End, Input, Output, Task, TaskSpec};
/// use mobula_types::{Attempt, Outcome, StateMachine, Time};
/// let mut task = Task::new(TaskSpec::default());
/// task.handle(Time::ZERO, Input::Ready);
/// assert_eq!(task.poll_output(), Some(Output::Run { attempt: Attempt(1) }));
/// task.handle(Time::ZERO, Input::SystemFailed { attempt: Attempt(1), culprit: true });
/// assert_eq!(task.poll_output(), Some(Output::Run { attempt: Attempt(2) }));
/// task.handle(Time::ZERO, Input::Finished { attempt: Attempt(2), end: End::Ok });
/// assert_eq!(task.poll_output(), Some(Output::Resolve { outcome: Outcome::Ok, attempt: Some(Attempt(2)) }));
/// ```
#[derive(Debug)]
pub struct Task {
    spec: TaskSpec,
    state: State,
    /// The newest attempt; 0 before the first.
    attempt: Attempt,
    /// Why there was another attempt, by cause: together one less than the attempts.
    reruns: Reruns,
    /// Attempts that may have begun.
    begun: u32,
    /// When the task was last told of the time.
    seen: Time,
    /// How often an outcome was said.
    resolved: u32,
    outputs: VecDeque<Output>,
    planted: Planted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waiting,
    InFlight,
    /// The next attempt is due at `until`; the one before failed at `since`.
    Backoff {
        since: Time,
        until: Time,
    },
    /// `by` is the attempt whose result was taken.
    Done {
        outcome: Outcome,
        by: Option<Attempt>,
    },
}

#[derive(Clone, Copy, Debug, Default)]
struct Reruns {
    system: u32,
    application: u32,
    bystander: u32,
    recalled: u32,
}

impl Reruns {
    fn total(self) -> u32 {
        self.failures() + self.recalled
    }

    /// Those that follow something that went wrong.
    fn failures(self) -> u32 {
        self.system + self.application + self.bystander
    }
}

impl StateMachine for Task {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.seen = now;
        self.handle_time(now);
        match input {
            Input::Ready if self.state == State::Waiting => self.run(),
            Input::Unrunnable if self.state == State::Waiting => self.resolve(Outcome::NotStarted, None),
            Input::Finished { attempt, end } if self.accepts(attempt) => self.handle_finished(now, attempt, end),
            Input::TurnedAway { attempt } if self.is_in_flight(attempt) => self.handle_turned_away(now),
            Input::Recalled { attempt } if self.is_in_flight(attempt) => {
                self.begun -= 1;
                self.reruns.recalled += 1;
                self.run();
            }
            Input::SystemFailed { attempt, culprit } if self.is_in_flight(attempt) => self.handle_lost(now, culprit),
            Input::Cancel => self.give_up(Outcome::Cancelled),
            // Not in flight any more, or nothing to decide: that an attempt has begun was assumed when it was sent.
            _ => {}
        }
        if cfg!(debug_assertions) && !self.planted.is_any() {
            check(self).expect("a task keeps its invariants");
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        let deadline = self.spec.deadline;
        match self.state {
            State::Done { .. } => None,
            State::Backoff { until, .. } => Some(until.min(deadline.time())),
            State::Waiting | State::InFlight => deadline.is_set().then(|| deadline.time()),
        }
    }
}

impl Task {
    /// A task whose arguments are awaited.
    pub fn new(spec: TaskSpec) -> Self {
        Self {
            spec,
            state: State::Waiting,
            attempt: Attempt(0),
            reruns: Reruns::default(),
            begun: 0,
            seen: Time::ZERO,
            resolved: 0,
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.planted = Planted::new(mutant);
        self
    }

    /// The newest attempt; `None` before the first.
    pub fn attempt(&self) -> Option<Attempt> {
        (self.attempt != Attempt(0)).then_some(self.attempt)
    }

    /// How the task has ended, if it has.
    pub fn outcome(&self) -> Option<Outcome> {
        match self.state {
            State::Done { outcome, .. } => Some(outcome),
            _ => None,
        }
    }

    /// Whether it runs again if the place of its attempt is lost now, and it is to blame.
    pub fn survives_loss(&self) -> bool {
        self.reruns.system < self.spec.system_max && !self.spec.at_most_once
    }

    fn handle_time(&mut self, now: Time) {
        // TASK-7: no outcome comes after the deadline but this one.
        if self.spec.deadline.has_passed(now) && !self.planted.is(Mutant::ForgetDeadline) {
            self.give_up(Outcome::DeadlineExceeded);
        }
        if matches!(self.state, State::Backoff { until, .. } if until <= now) {
            self.run();
        }
    }

    fn is_in_flight(&self, attempt: Attempt) -> bool {
        self.state == State::InFlight && self.attempt == attempt
    }

    /// TASK-3: only the attempt in flight speaks for the task.
    fn accepts(&self, attempt: Attempt) -> bool {
        let is_done = matches!(self.state, State::Done { .. });
        self.is_in_flight(attempt)
            || self.planted.is(Mutant::AcceptSuperseded) && !is_done
            || self.planted.is(Mutant::ResolveTwice) && is_done
    }

    fn handle_finished(&mut self, now: Time, attempt: Attempt, end: End) {
        if end == End::Ok {
            self.resolve(Outcome::Ok, Some(attempt));
        } else if end != End::Final && self.reruns.application < self.spec.application_max && self.may_begin_again() {
            self.reruns.application += 1;
            self.run_later(now);
        } else {
            self.resolve(Outcome::Failed, Some(attempt));
        }
    }

    fn handle_turned_away(&mut self, now: Time) {
        self.begun -= 1;
        if self.reruns.system < self.spec.system_max && self.may_begin_again() {
            self.reruns.system += 1;
            self.run_later(now);
        } else {
            self.resolve(if self.begun == 0 { Outcome::NotStarted } else { Outcome::MayHaveRun }, None);
        }
    }

    fn handle_lost(&mut self, now: Time, culprit: bool) {
        // TASK-2: never more often than was allowed; TASK-5: another's crash is not held against it.
        let spare = u32::from(self.planted.is(Mutant::RetryOffByOne));
        let counts = culprit || self.planted.is(Mutant::CountBystander);
        let (used, max) = match culprit {
            true => (self.reruns.system, self.spec.system_max.saturating_add(spare)),
            false => (self.reruns.bystander, BYSTANDER_MAX),
        };
        if used >= max || !self.may_begin_again() {
            self.resolve(Outcome::MayHaveRun, None);
            return;
        }
        self.reruns.system += u32::from(counts);
        self.reruns.bystander += u32::from(!culprit);
        self.run_later(now);
    }

    /// TASK-4: a task that may run at most once does not begin when another attempt may have begun.
    fn may_begin_again(&self) -> bool {
        !self.spec.at_most_once || self.begun == 0 || self.planted.is(Mutant::RetryAtMostOnce)
    }

    /// The first time at once, then after a wait (TASK-6): many tasks that fell with one node must not come back as one.
    fn run_later(&mut self, now: Time) {
        let nth = self.reruns.failures();
        if nth <= 1 || self.planted.is(Mutant::ForgetRetryWait) {
            self.state = State::Backoff { since: now, until: now };
        } else {
            let ceiling = WAIT_MIN.saturating_mul(2u32.saturating_pow(nth - 1)).min(WAIT_MAX);
            let spread_ns = (ceiling - WAIT_MIN).as_nanos() as u64;
            let jitter = Duration::from_nanos(mix(mix(self.spec.seed) ^ u64::from(nth)) % (spread_ns + 1));
            self.state = State::Backoff { since: now, until: now + WAIT_MIN + jitter };
        }
        self.handle_time(now);
    }

    fn run(&mut self) {
        self.attempt = self.attempt.next();
        self.begun += 1;
        self.state = State::InFlight;
        self.outputs.push_back(Output::Run { attempt: self.attempt });
    }

    /// Ends the task without a result, and what of it is still going on.
    fn give_up(&mut self, outcome: Outcome) {
        match self.state {
            State::Done { .. } => return,
            State::InFlight => self.outputs.push_back(Output::CancelAttempt { attempt: self.attempt }),
            State::Waiting | State::Backoff { .. } => {}
        }
        self.resolve(outcome, None);
    }

    /// TASK-1: the one place that says an outcome.
    fn resolve(&mut self, outcome: Outcome, by: Option<Attempt>) {
        self.resolved += 1;
        self.state = State::Done { outcome, by };
        self.outputs.push_back(Output::Resolve { outcome, attempt: by });
    }
}

/// SplitMix64's output function (Steele and others, 2014): neighbouring numbers become unrelated ones.
fn mix(seed: u64) -> u64 {
    let mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// G2: the wait before the second retry and later ones is between these.
const WAIT_MIN: Duration = Duration::from_millis(100);
const WAIT_MAX: Duration = Duration::from_secs(5);
/// Runs again because of another's crash. A task that stands by so often is rather the one that does it.
const BYSTANDER_MAX: u32 = 16;
