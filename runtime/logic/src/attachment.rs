//! Whether the other end of an attachment over the network is still there: a node looks so at a driver on another host,
//! and the driver at its node.
//!
//! ```text
//!              connected               lost
//!   Expected ────────────► Connected ────────► Lost ── connected ─► Connected
//!      │                       │                 │
//!      └── BEGIN_MAX ──────────┴── refused, ended, or lost for as long as may be ──► Over
//! ```
//!
//! A lost connection may be resumed for a time ([`RESUME_MAX`] unless both were told otherwise): what was sent meanwhile
//! waits in the session, which this machine knows nothing of. A process whose host says that it is gone is not waited
//! for.
//!
//! | id | holds |
//! |---|---|
//! | ATT-1 | it is over once, and nothing changes it after that |
//! | ATT-2 | a connected end is never over by time alone |
//! | ATT-3 | an end that is lost is over, by the time it is looked at, when the bound has passed |

use std::collections::VecDeque;
use std::time::Duration;

use mobula_types::{StateMachine, Time};

use crate::invariant::{Violation, ensure};
use crate::mutant::{Mutant, Planted};

/// A lost connection may be resumed for so long (design.md §2).
pub const RESUME_MAX: Duration = Duration::from_secs(30);

/// Who was let in has so long to be there: the handshake has been made by then.
pub const BEGIN_MAX: Duration = Duration::from_secs(10);

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// There is a connection.
    Connected,
    /// The connection was lost.
    Lost,
    /// Its host says that there is no such process: said twice, in silence (design.md §8).
    Refused,
    /// It has ended the attachment itself.
    Ended,
    /// Nothing but time has passed.
    Tick,
}

/// What the machine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// It is there for the first time.
    Begun,
    /// It is gone for good.
    Over(End),
}

/// How an attachment ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The other end said so.
    Left,
    /// Its process is gone.
    Killed,
    /// It did not come back.
    Silent {
        /// For how long.
        lost: Duration,
    },
}

/// One attachment.
///
/// ```
/// use mobula_logic::attachment::{Attachment, End, Input, Output, RESUME_MAX};
/// use mobula_types::{StateMachine, Time};
/// let mut driver = Attachment::new(Time::ZERO, RESUME_MAX);
/// driver.handle(Time::ZERO, Input::Connected);
/// assert_eq!(driver.poll_output(), Some(Output::Begun));
/// driver.handle(Time::ZERO, Input::Lost);
/// driver.handle(Time::ZERO + RESUME_MAX, Input::Tick);
/// assert_eq!(driver.poll_output(), Some(Output::Over(End::Silent { lost: RESUME_MAX })));
/// ```
#[derive(Debug)]
pub struct Attachment {
    resume_max: Duration,
    state: State,
    looked: Time,
    outputs: VecDeque<Output>,
    planted: Planted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It was let in and is not there yet; the time is when it was let in.
    Expected(Time),
    Connected,
    /// Since when.
    Lost(Time),
    Over,
}

impl Attachment {
    /// One that was let in just now.
    pub fn new(now: Time, resume_max: Duration) -> Self {
        let (outputs, planted) = (VecDeque::new(), Planted::default());
        Self { resume_max, state: State::Expected(now), looked: now, outputs, planted }
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Self { planted: Planted::new(mutant), ..self }
    }

    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    fn end(&mut self, end: End) {
        self.state = State::Over;
        self.outputs.push_back(Output::Over(end));
    }

    fn look(&mut self, now: Time) {
        if self.planted.is(Mutant::WaitForEver) {
            return;
        }
        // ATT-3.
        let end = match self.state {
            State::Expected(since) if now.since(since) >= BEGIN_MAX => now.since(since),
            State::Lost(since) if now.since(since) >= self.resume_max => now.since(since),
            _ => return,
        };
        self.end(End::Silent { lost: end });
    }
}

impl StateMachine for Attachment {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.looked = now;
        // ATT-1.
        if self.is_over() {
            return;
        }
        match (input, self.state) {
            (Input::Connected, State::Expected(_)) => {
                self.state = State::Connected;
                self.outputs.push_back(Output::Begun);
            }
            // ATT-2.
            (Input::Connected, _) if self.planted.is(Mutant::ForgetResumption) => {}
            (Input::Connected, _) => self.state = State::Connected,
            (Input::Lost, State::Connected) => self.state = State::Lost(now),
            (Input::Refused, _) => self.end(End::Killed),
            (Input::Ended, _) => self.end(End::Left),
            _ => {}
        }
        self.look(now);
        if !self.planted.is_any() {
            debug_assert_eq!(check(self), Ok(()));
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        match self.state {
            State::Expected(since) => Some(since + BEGIN_MAX),
            State::Lost(since) => Some(since + self.resume_max),
            State::Connected | State::Over => None,
        }
    }
}

/// Checks all invariants that the module names.
///
/// # Errors
///
/// The first that is broken.
pub fn check(attachment: &Attachment) -> Result<(), Violation> {
    let Attachment { state, resume_max, looked, outputs, .. } = attachment;
    let ends = outputs.iter().filter(|output| matches!(output, Output::Over(_))).count();
    ensure(ends <= 1, "ATT-1", || format!("it ended {ends} times"))?;
    let is_timed = attachment.next_timeout().is_some();
    ensure(*state != State::Connected || !is_timed, "ATT-2", || "a connected end has a time".to_owned())?;
    let is_late = matches!(state, State::Lost(since) if looked.since(*since) >= *resume_max);
    ensure(!is_late, "ATT-3", || format!("lost and waited for longer than {resume_max:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: Duration = Duration::from_secs(3);

    /// What is said to inputs at these milliseconds.
    #[track_caller]
    fn check_story(story: &[(u64, Input)], expect: &[Output]) {
        let mut attachment = Attachment::new(Time::ZERO, BOUND);
        let mut said = Vec::new();
        for (at_ms, input) in story {
            attachment.handle(Time::ZERO + Duration::from_millis(*at_ms), *input);
            said.extend(std::iter::from_fn(|| attachment.poll_output()));
        }
        assert_eq!(said, expect);
        assert_eq!(attachment.is_over(), matches!(expect.last(), Some(Output::Over(_))));
        assert!(!attachment.is_over() || attachment.next_timeout().is_none(), "nothing is due of what is over");
    }

    use Input::{Connected, Ended, Lost, Refused, Tick};
    use Output::{Begun, Over};

    #[test]
    fn a_lost_end_is_waited_for_until_the_bound() {
        let silent = |ms| Over(End::Silent { lost: Duration::from_millis(ms) });
        check_story(&[(0, Connected), (10, Lost), (3009, Tick)], &[Begun]);
        check_story(&[(0, Connected), (10, Lost), (3010, Tick)], &[Begun, silent(3000)]);
        check_story(&[(0, Connected), (10, Lost), (3009, Connected), (90_000, Tick)], &[Begun]);
        check_story(&[(0, Connected), (10, Lost), (2000, Lost), (3010, Tick)], &[Begun, silent(3000)]);
        check_story(&[(0, Connected), (10, Lost), (20, Connected), (2000, Lost), (4999, Tick)], &[Begun]);
        check_story(&[(0, Lost), (9_999, Tick)], &[]);
        check_story(&[(10_000, Tick)], &[silent(10_000)]);
    }

    #[test]
    fn an_end_that_is_known_is_not_waited_for() {
        for state in [&[][..], &[(0, Connected)], &[(0, Connected), (1, Lost)]] {
            let begun: &[Output] = if state.is_empty() { &[] } else { &[Begun] };
            for (input, end) in [(Refused, End::Killed), (Ended, End::Left)] {
                let story = [state, &[(5, input), (6, Connected), (7, input), (90_000, Tick)]].concat();
                check_story(&story, &[begun, &[Over(end)]].concat());
            }
        }
    }

    #[test]
    fn time_is_asked_for_only_where_it_decides() {
        let mut attachment = Attachment::new(Time::ZERO, BOUND);
        assert_eq!(attachment.next_timeout(), Some(Time::ZERO + BEGIN_MAX));
        attachment.handle(Time::ZERO, Connected);
        assert_eq!(attachment.next_timeout(), None);
        attachment.handle(Time::ZERO + BOUND, Lost);
        assert_eq!(attachment.next_timeout(), Some(Time::ZERO + BOUND + BOUND));
    }
}
