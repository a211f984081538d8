//! The home of one actor that lives in another process: where it is, and where it is started again.
//!
//! ```text
//!            granted           started               its process died, and its policy
//!  Placing ──────────► Starting ───────► Running ─┬── restarts it ──────► Waiting ──(due)──► Placing
//!     │ no place           │ failed         │     └── leaves it to its supervisor ─► Parked ─(start)─► Placing
//!     ▼                    ▼                ▼ it ended there, or may not be restarted
//!   Ended ◄────────────────┴────────────────┘
//!
//!  Starting, Running ─(place recalled)─► Leaving ─(has left)─► Placing
//! ```
//!
//! The process that spawned an actor is its home. While the actor's own process lives, restarts after panics happen
//! there, by the actor's cell; the home decides only what follows the death of that process, and where the actor goes when
//! its place is wanted back: that is no death, and counts against nothing.
//!
//! HOME-1: an incarnation is started in one place only, and every start is a new one. HOME-2: what an earlier incarnation
//! says is not heard. HOME-3: a lease is given back when its place is left. HOME-4: an end is said once, and nothing
//! after it. HOME-5: an actor that leaves its place is started elsewhere when it has ended there, and not before.

use std::collections::VecDeque;

use mobula_types::{Death, DeathCause, ExitReason, Incarnation, LeaseId, ProcessId, RestartPolicy, StateMachine, Time};

use crate::mutant::{Mutant, Planted};
use crate::restarts::{Restarts, Verdict};

/// What can happen to an actor that lives elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// There is a place for it.
    Granted {
        /// The place's lease.
        lease: LeaseId,
        /// The place.
        process: ProcessId,
    },
    /// There is and will be no place.
    NoPlace {
        /// Why.
        reason: ExitReason,
    },
    /// Its constructor has returned.
    Started {
        /// Which life's.
        incarnation: Incarnation,
    },
    /// It has ended for good where it lived, or its constructor has failed.
    Ended {
        /// Which life.
        incarnation: Incarnation,
        /// Why.
        reason: ExitReason,
    },
    /// The process where it lived, or was to live, has ended.
    ProcessDied {
        /// How.
        death: Box<Death>,
        /// Whether the actor is to blame: only then it counts against its restarts.
        culprit: bool,
    },
    /// Its place is wanted back: the place's node is to leave.
    Recalled {
        /// The place's lease.
        lease: LeaseId,
    },
    /// Its supervisor says: start again.
    Start,
    /// It is to end; where it lives it is told so by the driver.
    Stop {
        /// Why.
        reason: ExitReason,
    },
    /// Nothing but time has passed.
    Tick,
}

/// What the machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the node for a place.
    AskPlace,
    /// Start it there; mail for it may follow at once.
    Spawn {
        /// The place's lease.
        lease: LeaseId,
        /// The place.
        process: ProcessId,
        /// Which life this is.
        incarnation: Incarnation,
    },
    /// The place that was asked for is not wanted any more.
    TakeBackPlace,
    /// Give a place back.
    ReturnLease {
        /// The place's lease.
        lease: LeaseId,
    },
    /// Mail for it waits from now on, and it is to end where it lives when it has handled what it has:
    /// [`Input::Ended`] with [`ExitReason::Moved`] says that it has.
    Leave {
        /// The place.
        process: ProcessId,
    },
    /// Mail for it waits from now on: it has died and may come back.
    Hold {
        /// Why it died.
        reason: ExitReason,
        /// Which life.
        incarnation: Incarnation,
        /// Its supervisor decides what follows.
        asks_supervisor: bool,
    },
    /// It has ended for good.
    End {
        /// Why.
        reason: ExitReason,
        /// It was restarted too often.
        gave_up: bool,
    },
}

/// Who decides what follows the death of its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decides {
    /// Its own policy.
    Policy(RestartPolicy),
    /// Its supervisor.
    Supervisor,
}

/// The home of one actor.
///
/// ```
/// use mobula_logic::home::{Decides, Home, Input, Output};
/// use mobula_types::{Incarnation, LeaseId, NodeId, ProcessId, RestartPolicy, StateMachine, Time};
/// let mut home = Home::new(Decides::Policy(RestartPolicy::default()));
/// assert_eq!(home.poll_output(), Some(Output::AskPlace));
/// let (lease, process) = (LeaseId(1), ProcessId::new(NodeId(1), 2));
/// home.handle(Time::ZERO, Input::Granted { lease, process });
/// assert_eq!(home.poll_output(), Some(Output::Spawn { lease, process, incarnation: Incarnation(1) }));
/// ```
#[derive(Debug)]
pub struct Home {
    state: State,
    incarnation: Incarnation,
    decides: Decides,
    restarts: Option<Restarts>,
    has_run: bool,
    /// It was told to end where it lives: if its process dies first, it has ended for this reason.
    stopping: Option<ExitReason>,
    outputs: VecDeque<Output>,
    planted: Planted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Placing,
    Starting {
        lease: LeaseId,
        process: ProcessId,
    },
    Running {
        lease: LeaseId,
        process: ProcessId,
    },
    /// Still there, and no mail goes there any more.
    Leaving {
        lease: LeaseId,
        process: ProcessId,
    },
    Waiting {
        until: Time,
    },
    Parked,
    Ended,
}

impl Home {
    /// A new actor, which asks for a place.
    pub fn new(decides: Decides) -> Self {
        Self {
            state: State::Placing,
            incarnation: Incarnation::default(),
            decides,
            restarts: None,
            has_run: false,
            stopping: None,
            outputs: VecDeque::from([Output::AskPlace]),
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

    /// Where mail for it goes: where it lives or is being started, and which life it is in.
    pub fn place(&self) -> Option<(ProcessId, Incarnation)> {
        match self.state {
            State::Starting { process, .. } | State::Running { process, .. } => Some((process, self.incarnation)),
            _ => None,
        }
    }

    /// The place that it has, or is about to leave.
    pub fn host(&self) -> Option<(LeaseId, ProcessId)> {
        match self.state {
            State::Starting { lease, process }
            | State::Running { lease, process }
            | State::Leaving { lease, process } => Some((lease, process)),
            _ => None,
        }
    }

    /// Which life it is in, or was last.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether its constructor has returned where it is: mail that others send there finds it.
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Whether it waits for a verdict of its supervisor.
    pub fn is_parked(&self) -> bool {
        self.state == State::Parked
    }

    /// Whether it has ended for good.
    pub fn has_ended(&self) -> bool {
        self.state == State::Ended
    }

    fn handle_died(&mut self, now: Time, death: Box<Death>, culprit: bool) {
        let reason = ExitReason::ProcessDied(death);
        self.leave_place();
        if let Some(reason) = self.stopping.take() {
            return self.end(reason, false);
        }
        if !self.has_run {
            // What never ran is not restarted: its constructor may be what kills.
            return self.end(reason, false);
        }
        if matches!(&reason, ExitReason::ProcessDied(death) if matches!(death.cause, DeathCause::GroupEnded { .. })) {
            // Its place is gone for good: it would be refused in every other life.
            return self.end(reason, false);
        }
        let until = match self.decides {
            Decides::Supervisor => {
                self.state = State::Parked;
                return self.hold(reason, true);
            }
            // A bystander is started again as if it had never died.
            Decides::Policy(policy) if !culprit && policy.intensity.restarts_max > 0 => now,
            Decides::Policy(policy) => {
                match self.restarts.get_or_insert_with(|| Restarts::new(policy)).decide(now, &reason) {
                    Verdict::Restart { at } => at,
                    Verdict::End => return self.end(reason, false),
                    Verdict::GiveUp => return self.end(reason, true),
                }
            }
        };
        self.state = State::Waiting { until };
        self.hold(reason, false);
    }

    fn hold(&mut self, reason: ExitReason, asks_supervisor: bool) {
        self.outputs.push_back(Output::Hold { reason, incarnation: self.incarnation, asks_supervisor });
    }

    /// HOME-3: the lease of a place goes with it.
    fn leave_place(&mut self) {
        if let Some((lease, _)) = self.host()
            && !self.planted.is(Mutant::KeepPlace)
        {
            self.outputs.push_back(Output::ReturnLease { lease });
        }
    }

    /// HOME-4: the one place that says an end.
    fn end(&mut self, reason: ExitReason, gave_up: bool) {
        self.state = State::Ended;
        self.outputs.push_back(Output::End { reason, gave_up });
    }

    /// HOME-2: only the life that is lived now is heard.
    fn is_now(&self, incarnation: Incarnation) -> bool {
        incarnation >= self.incarnation || self.planted.is(Mutant::HearStaleLife)
    }

    fn ask(&mut self) {
        self.state = State::Placing;
        self.outputs.push_back(Output::AskPlace);
    }
}

impl StateMachine for Home {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        match (input, self.state) {
            (Input::Granted { lease, process }, State::Placing) => {
                // HOME-1: the number goes up at every start.
                if !self.planted.is(Mutant::SameLifeAgain) || self.incarnation == Incarnation(0) {
                    self.incarnation = self.incarnation.next();
                }
                self.state = State::Starting { lease, process };
                self.outputs.push_back(Output::Spawn { lease, process, incarnation: self.incarnation });
            }
            (Input::Granted { lease, .. }, _) => self.outputs.push_back(Output::ReturnLease { lease }),
            (Input::NoPlace { reason }, State::Placing) => self.end(reason, false),
            (Input::Started { incarnation }, State::Starting { lease, process }) if self.is_now(incarnation) => {
                self.has_run = true;
                self.state = State::Running { lease, process };
            }
            (Input::Started { incarnation }, State::Leaving { .. }) if self.is_now(incarnation) => self.has_run = true,
            (
                Input::Recalled { lease: recalled },
                State::Starting { lease, process } | State::Running { lease, process },
            ) if recalled == lease => {
                self.outputs.push_back(Output::Leave { process });
                self.state = State::Leaving { lease, process };
                if self.planted.is(Mutant::StartBeforeLeft) {
                    self.leave_place();
                    self.ask();
                }
            }
            // HOME-5: it has ended there.
            (Input::Ended { incarnation, reason: ExitReason::Moved }, State::Leaving { .. })
                if self.is_now(incarnation) =>
            {
                self.leave_place();
                // What it was told meanwhile it would have done there.
                match self.stopping.take() {
                    Some(reason) => self.end(reason, false),
                    None => self.ask(),
                }
            }
            // A cell restarts its actor by itself after panics: those lives count on from ours.
            (
                Input::Ended { incarnation, reason },
                State::Starting { .. } | State::Running { .. } | State::Leaving { .. },
            ) if self.is_now(incarnation) => {
                self.leave_place();
                self.end(reason, false);
            }
            (
                Input::ProcessDied { death, culprit },
                State::Starting { process, .. } | State::Running { process, .. } | State::Leaving { process, .. },
            ) if concerns(&death, process) => {
                self.handle_died(now, death, culprit);
            }
            (Input::Start, State::Parked) => self.ask(),
            (Input::Stop { reason }, State::Placing) => {
                self.outputs.push_back(Output::TakeBackPlace);
                self.end(reason, false);
            }
            (Input::Stop { reason }, State::Parked | State::Waiting { .. }) => self.end(reason, false),
            (Input::Stop { reason }, State::Starting { .. } | State::Running { .. } | State::Leaving { .. }) => {
                self.stopping = Some(reason);
            }
            _ => {}
        }
        if matches!(self.state, State::Waiting { until } if until <= now) {
            self.ask();
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        match self.state {
            State::Waiting { until } => Some(until),
            _ => None,
        }
    }
}

/// Whether a death is that of `process` or of its node.
pub fn concerns(death: &Death, process: ProcessId) -> bool {
    let dead = death.process;
    dead == process || dead.number() == 0 && dead.node() == process.node()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mobula_types::{DeathCause, Intensity, NodeId};

    use super::*;

    const LEASE: LeaseId = LeaseId(1);

    fn worker(number: u32) -> ProcessId {
        ProcessId::new(NodeId(1), number)
    }

    fn at(ms: u64) -> Time {
        Time::ZERO + Duration::from_millis(ms)
    }

    fn death(number: u32) -> Box<Death> {
        Box::new(Death::of(worker(number), DeathCause::Signal { signal: 9 }))
    }

    fn died(number: u32, culprit: bool) -> Input {
        Input::ProcessDied { death: death(number), culprit }
    }

    fn outputs(home: &mut Home) -> Vec<Output> {
        std::iter::from_fn(|| home.poll_output()).collect()
    }

    fn spawn(number: u32, incarnation: u32) -> Output {
        Output::Spawn { lease: LEASE, process: worker(number), incarnation: Incarnation(incarnation) }
    }

    fn hold(number: u32, incarnation: u32, asks_supervisor: bool) -> Output {
        let reason = ExitReason::ProcessDied(death(number));
        Output::Hold { reason, incarnation: Incarnation(incarnation), asks_supervisor }
    }

    fn running(decides: Decides) -> Home {
        let mut home = Home::new(decides);
        home.handle(at(0), Input::Granted { lease: LEASE, process: worker(2) });
        home.handle(at(0), Input::Started { incarnation: Incarnation(1) });
        assert_eq!(outputs(&mut home), [Output::AskPlace, spawn(2, 1)]);
        home
    }

    fn policy(restarts_max: u32) -> Decides {
        let intensity = Intensity { restarts_max, ..Intensity::default() };
        Decides::Policy(RestartPolicy { intensity, ..RestartPolicy::default() })
    }

    const RETURN: Output = Output::ReturnLease { lease: LEASE };

    #[test]
    fn a_death_starts_the_next_life_elsewhere() {
        let mut home = running(policy(3));
        home.handle(at(1), died(7, true));
        assert_eq!(outputs(&mut home), [], "another process is nothing to it");
        home.handle(at(1), died(2, true));
        assert_eq!(outputs(&mut home), [RETURN, hold(2, 1, false), Output::AskPlace]);
        home.handle(at(2), Input::Granted { lease: LEASE, process: worker(3) });
        assert_eq!(outputs(&mut home), [spawn(3, 2)]);
        assert_eq!(home.place(), Some((worker(3), Incarnation(2))));
        home.handle(at(3), Input::Ended { incarnation: Incarnation(1), reason: ExitReason::Normal });
        assert_eq!(outputs(&mut home), [], "HOME-2: the life before is not heard");
        home.handle(at(4), Input::Ended { incarnation: Incarnation(2), reason: ExitReason::Normal });
        assert_eq!(outputs(&mut home), [RETURN, Output::End { reason: ExitReason::Normal, gave_up: false }]);
        home.handle(at(5), died(3, true));
        assert!(outputs(&mut home).is_empty() && home.has_ended(), "HOME-4");
    }

    #[test]
    fn only_culprits_use_up_their_restarts() {
        for (culprit, ends) in [(true, true), (false, false)] {
            let mut home = running(policy(2));
            for death in 0..6 {
                let now = at(1 + death * 500);
                home.handle(now, died(2, culprit));
                home.handle(now + Duration::from_millis(400), Input::Tick);
                home.handle(now + Duration::from_millis(400), Input::Granted { lease: LEASE, process: worker(2) });
                home.handle(now + Duration::from_millis(400), Input::Started { incarnation: home.incarnation });
            }
            assert_eq!(home.has_ended(), ends, "culprit: {culprit}");
            let gave_up = outputs(&mut home).iter().any(|output| matches!(output, Output::End { gave_up: true, .. }));
            assert_eq!(gave_up, ends);
        }
    }

    #[test]
    fn a_supervisor_decides_for_its_child() {
        let mut home = running(Decides::Supervisor);
        home.handle(at(1), died(2, false));
        assert_eq!(outputs(&mut home), [RETURN, hold(2, 1, true)]);
        assert_eq!((home.next_timeout(), home.place()), (None, None));
        home.handle(at(9), Input::Start);
        assert_eq!(outputs(&mut home), [Output::AskPlace]);
        home.handle(at(9), Input::Stop { reason: ExitReason::Shutdown });
        let end = Output::End { reason: ExitReason::Shutdown, gave_up: false };
        assert_eq!(outputs(&mut home), [Output::TakeBackPlace, end]);
        home.handle(at(9), Input::Granted { lease: LEASE, process: worker(2) });
        assert_eq!(outputs(&mut home), [RETURN], "HOME-3: a place that comes too late goes back");
    }

    #[test]
    fn what_never_ran_or_is_temporary_is_not_started_again() {
        let mut home = Home::new(policy(3));
        home.handle(at(0), Input::Granted { lease: LEASE, process: worker(2) });
        home.handle(at(1), died(2, true));
        let end = Output::End { reason: ExitReason::ProcessDied(death(2)), gave_up: false };
        assert_eq!(outputs(&mut home), [Output::AskPlace, spawn(2, 1), RETURN, end.clone()]);
        let mut home = running(Decides::Policy(RestartPolicy::temporary()));
        home.handle(at(1), died(2, false));
        assert_eq!(outputs(&mut home), [RETURN, end]);
    }

    #[test]
    fn what_was_told_to_stop_is_not_started_again() {
        let mut home = running(policy(3));
        home.handle(at(1), Input::Stop { reason: ExitReason::Shutdown });
        assert_eq!(outputs(&mut home), [], "where it lives it ends by itself");
        home.handle(at(2), died(2, true));
        assert_eq!(outputs(&mut home), [RETURN, Output::End { reason: ExitReason::Shutdown, gave_up: false }]);
    }

    #[test]
    fn a_recalled_place_is_left_and_counts_against_nothing() {
        let mut home = running(Decides::Policy(RestartPolicy::temporary()));
        home.handle(at(1), Input::Recalled { lease: LeaseId(9) });
        assert_eq!(outputs(&mut home), [], "another place is nothing to it");
        for life in 1..20 {
            home.handle(at(1), Input::Recalled { lease: LEASE });
            home.handle(at(1), Input::Recalled { lease: LEASE });
            assert_eq!(outputs(&mut home), [Output::Leave { process: worker(2) }]);
            assert_eq!((home.place(), home.host()), (None, Some((LEASE, worker(2)))), "mail waits");
            let moved = Input::Ended { incarnation: Incarnation(life), reason: ExitReason::Moved };
            home.handle(at(1), moved.clone());
            assert_eq!(outputs(&mut home), [RETURN, Output::AskPlace], "HOME-5, at once, and not its supervisor's");
            home.handle(at(1), moved);
            home.handle(at(1), Input::Granted { lease: LEASE, process: worker(2) });
            assert_eq!(outputs(&mut home), [spawn(2, life + 1)]);
            home.handle(at(1), Input::Started { incarnation: Incarnation(life + 1) });
        }
    }

    #[test]
    fn what_leaves_may_start_die_end_or_be_stopped_first() {
        let leaving = |decides| {
            let mut home = running(decides);
            home.handle(at(1), Input::Recalled { lease: LEASE });
            assert_eq!(outputs(&mut home), [Output::Leave { process: worker(2) }]);
            home
        };
        let ended = |reason| Input::Ended { incarnation: Incarnation(1), reason };
        let end = |reason| [RETURN, Output::End { reason, gave_up: false }];
        let mut home = leaving(policy(3));
        home.handle(at(2), died(2, false));
        assert_eq!(outputs(&mut home), [RETURN, hold(2, 1, false), Output::AskPlace]);
        let mut home = leaving(policy(3));
        home.handle(at(2), ended(ExitReason::Normal));
        assert_eq!(outputs(&mut home), end(ExitReason::Normal));
        let mut home = leaving(policy(3));
        home.handle(at(2), Input::Stop { reason: ExitReason::Shutdown });
        home.handle(at(2), ended(ExitReason::Moved));
        assert_eq!(outputs(&mut home), end(ExitReason::Shutdown));
        let mut home = Home::new(policy(3));
        home.handle(at(0), Input::Granted { lease: LEASE, process: worker(2) });
        home.handle(at(0), Input::Recalled { lease: LEASE });
        home.handle(at(0), Input::Started { incarnation: Incarnation(1) });
        outputs(&mut home);
        home.handle(at(1), died(2, true));
        assert_eq!(outputs(&mut home), [RETURN, hold(2, 1, false), Output::AskPlace], "it had begun");
    }

    #[test]
    fn the_second_restart_waits() {
        let mut home = running(policy(3));
        home.handle(at(1), died(2, true));
        home.handle(at(1), Input::Granted { lease: LEASE, process: worker(2) });
        home.handle(at(1), Input::Started { incarnation: Incarnation(2) });
        home.handle(at(2), died(2, true));
        let due = home.next_timeout().expect("it waits");
        assert!(due >= at(100), "{due:?}");
        outputs(&mut home);
        home.handle(due, Input::Tick);
        assert_eq!(outputs(&mut home), [Output::AskPlace]);
    }
}
