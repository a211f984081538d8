//! What someone sees of a supervisor who knows its rules, what it was told and what it asked for, and nothing else.
//!
//! | number | from outside |
//! |---|---|
//! | SUP-1 | dependent children start one at a time, in the order in which they were added |
//! | SUP-2 | who is told to stop is the last one that lives of those that must, and the only one |
//! | SUP-3 | a failure is borne exactly as often as the intensity says |
//! | SUP-4 | a restart comes when the backoff says: the first at once, then after doubled waits |
//! | SUP-5 | a temporary child is started once |
//! | SUP-6 | the end is said when no child is left |
//! | SUP-7 | nothing that could go on waits |
//! | SUP-8 | a child ends when its rules say so, and never else |
//! | SUP-10 | nobody starts before all have stopped that a failure concerns |

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_logic::Violation;
use mobula_logic::supervision::{ChildKey, Input, Output};
use mobula_types::{Backoff, ExitReason, Intensity, Restart, Strategy, Time};

use super::plan::Group;
use crate::coverage::Coverage;
use crate::failure::ensure;

/// What was seen of one supervisor.
#[derive(Debug)]
pub(super) struct Witness {
    strategy: Strategy,
    intensity: Intensity,
    backoff: Backoff,
    /// Those that have not ended, in the order in which they were added.
    order: Vec<ChildKey>,
    children: BTreeMap<ChildKey, Seen>,
    /// Those that a failure concerns and that still live.
    must_stop: BTreeSet<ChildKey>,
    failures: Vec<Time>,
    series: Series,
    end: End,
}

#[derive(Debug)]
struct Seen {
    restart: Restart,
    state: State,
    has_started: bool,
    is_removed: bool,
    /// It has to be `Ended` before anything else happens.
    ends: bool,
    starts: u32,
    series: Series,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down,
    Starting,
    Running,
    Stopping,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    No,
    Failed(ChildKey),
    Stop,
    Said,
}

/// Failures in a row, and when the restart after the last one is due.
#[derive(Clone, Copy, Debug, Default)]
struct Series {
    len: u32,
    due: Time,
}

impl Series {
    fn fail(&mut self, now: Time, backoff: Backoff, period: Duration) {
        if self.len > 0 && now.since(self.due) > period {
            self.len = 0;
        }
        let mut wait = if self.len == 0 { Duration::ZERO } else { backoff.first.min(backoff.max) };
        for _ in 1..self.len {
            wait = (wait * 2).min(backoff.max);
        }
        self.len += 1;
        self.due = now + wait;
    }
}

impl Witness {
    pub(super) fn new(group: &Group) -> Self {
        Self {
            strategy: group.strategy,
            intensity: group.intensity,
            backoff: group.backoff,
            order: Vec::new(),
            children: BTreeMap::new(),
            must_stop: BTreeSet::new(),
            failures: Vec::new(),
            series: Series::default(),
            end: End::No,
        }
    }

    fn is_group(&self) -> bool {
        self.strategy != Strategy::OneForOne
    }

    /// Whether all that have not ended run.
    pub(super) fn is_at_rest(&self) -> bool {
        self.children.values().all(|child| child.state == State::Running)
    }

    /// Whether a restart of several children is under way.
    pub(super) fn is_restarting(&self) -> bool {
        self.is_group() && self.children.values().any(|child| child.state != State::Running)
    }

    /// Notes what the supervisor is going to be told.
    pub(super) fn see_input(&mut self, now: Time, input: &Input, coverage: &mut Coverage) {
        match input {
            Input::Add { child, restart } => self.see_add(*child, *restart),
            Input::Started { child } => {
                if let Some(seen) = self.children.get_mut(child) {
                    seen.has_started |= seen.state != State::Down;
                    match seen.state {
                        State::Starting => seen.state = State::Running,
                        State::Stopping => coverage.saw("started after it was told to stop"),
                        State::Down | State::Running => {}
                    }
                }
            }
            Input::StartFailed { child, reason } => self.see_exit(now, *child, reason, true, coverage),
            Input::Exited { child, reason } => self.see_exit(now, *child, reason, false, coverage),
            Input::Remove { child } => {
                if let Some(seen) = self.children.get_mut(child) {
                    seen.is_removed = true;
                    seen.ends |= seen.state == State::Down;
                }
            }
            Input::Stop => {
                if matches!(self.end, End::Failed(_)) {
                    coverage.saw("stop while it fails");
                }
                self.begin_end(End::Stop);
            }
            Input::Tick => {}
        }
    }

    fn see_add(&mut self, key: ChildKey, restart: Restart) {
        if self.children.contains_key(&key) {
            return;
        }
        let ends = self.end != End::No;
        let series = Series::default();
        let seen = Seen { restart, state: State::Down, has_started: false, is_removed: false, ends, starts: 0, series };
        self.children.insert(key, seen);
        self.order.push(key);
    }

    fn see_exit(&mut self, now: Time, key: ChildKey, reason: &ExitReason, start_failed: bool, coverage: &mut Coverage) {
        let Some(seen) = self.children.get_mut(&key).filter(|seen| seen.state != State::Down) else { return };
        let before = std::mem::replace(&mut seen.state, State::Down);
        let is_concerned = self.must_stop.remove(&key);
        let was_asked = before == State::Stopping;
        let was_starting = before == State::Starting || was_asked && start_failed;
        let stays = match seen.restart {
            Restart::Permanent => false,
            Restart::Transient => reason.is_normal(),
            Restart::Temporary => true,
        };
        let never_lived = was_starting && !seen.has_started;
        let is_temporary = seen.restart == Restart::Temporary;
        seen.ends |=
            seen.is_removed || never_lived || !was_asked && !was_starting && stays || was_asked && is_temporary;
        seen.ends |= is_concerned && is_temporary || self.end != End::No;
        if never_lived {
            coverage.saw("first start fails");
        } else if was_starting {
            coverage.saw("restart fails");
        }
        if is_concerned && !was_asked {
            coverage.saw("ends before it is told to");
        }
        if was_asked && is_temporary && self.end == End::No {
            coverage.saw("temporary child is dropped with its group");
        }
        if !seen.ends && !is_concerned {
            self.see_failure(now, key, coverage);
        }
    }

    /// A failure that counts.
    fn see_failure(&mut self, now: Time, key: ChildKey, coverage: &mut Coverage) {
        let Intensity { restarts_max, period } = self.intensity;
        self.failures.retain(|&failure| now.since(failure) <= period);
        if self.failures.len() >= restarts_max as usize {
            coverage.saw("once too often");
            self.begin_end(End::Failed(key));
            return;
        }
        self.failures.push(now);
        let Some(seen) = self.children.get_mut(&key) else { return };
        let series = if self.strategy == Strategy::OneForOne { &mut seen.series } else { &mut self.series };
        let before = series.due;
        series.fail(now, self.backoff, period);
        if self.is_group() {
            // An earlier failure's wait is not cut short by a later one.
            self.series.due = self.series.due.max(before);
        }
        let is_at_once = if self.is_group() { self.series.due } else { self.children[&key].series.due } == now;
        coverage.saw(if is_at_once { "restart at once" } else { "restart waits" });
        let after = match self.strategy {
            Strategy::OneForOne => self.order.len(),
            Strategy::OneForAll => 0,
            Strategy::RestForOne => self.order.iter().position(|&other| other == key).unwrap_or(0),
        };
        if !self.must_stop.is_empty() {
            coverage.saw("earlier child fails while later ones stop");
        }
        let concerned = self.order[after..].iter().filter(|other| self.children[other].state != State::Down);
        self.must_stop.extend(concerned);
        coverage.saw(match self.strategy {
            Strategy::OneForOne => "restart one_for_one",
            Strategy::OneForAll => "restart one_for_all",
            Strategy::RestForOne => "restart rest_for_one",
        });
    }

    fn begin_end(&mut self, end: End) {
        if self.end != End::Said || end == End::Stop {
            self.end = end;
        }
        self.must_stop.clear();
        self.children.values_mut().filter(|seen| seen.state == State::Down).for_each(|seen| seen.ends = true);
    }

    /// Judges one thing that the supervisor asks for.
    pub(super) fn see_output(&mut self, now: Time, output: &Output) -> Result<(), Violation> {
        match output {
            Output::Start { child } => self.see_start(now, *child),
            Output::Stop { child } => self.see_stop(*child),
            Output::Ended { child, .. } => {
                let seen = self.children.remove(child);
                self.order.retain(|other| other != child);
                let ends = seen.as_ref().is_some_and(|seen| seen.state == State::Down && seen.ends);
                ensure(ends, "SUP-8", || format!("child {child} is ended: {seen:?}"))
            }
            Output::Escalate { child, .. } => {
                let end = std::mem::replace(&mut self.end, End::Said);
                let left = &self.order;
                ensure(left.is_empty(), "SUP-6", || format!("{left:?} are left behind"))?;
                ensure(end == End::Failed(*child), "SUP-3", || format!("escalates child {child}: {end:?}"))
            }
            Output::Stopped => {
                let end = std::mem::replace(&mut self.end, End::Said);
                let left = &self.order;
                ensure(left.is_empty(), "SUP-6", || format!("{left:?} are left behind"))?;
                ensure(end == End::Stop, "SUP-6", || format!("says that it has stopped: {end:?}"))
            }
        }
    }

    fn see_start(&mut self, now: Time, key: ChildKey) -> Result<(), Violation> {
        let is_temporary = self.children.get(&key).is_some_and(|seen| seen.restart == Restart::Temporary);
        let is_first = self.children.get(&key).is_none_or(|seen| seen.starts == 0);
        ensure(!is_temporary || is_first, "SUP-5", || format!("temporary child {key} starts again"))?;
        ensure(!matches!(self.end, End::Failed(_)), "SUP-3", || format!("child {key} starts once too often"))?;
        let must_stop = &self.must_stop;
        ensure(must_stop.is_empty(), "SUP-10", || format!("child {key} starts, {must_stop:?} still live"))?;
        let place = self.order.iter().position(|&other| other == key).unwrap_or(0);
        let others = |keys: &[ChildKey], state| keys.iter().any(|other| self.children[other].state == state);
        let is_in_turn = !others(&self.order, State::Starting) && !others(&self.order[..place], State::Down);
        ensure(!self.is_group() || is_in_turn, "SUP-1", || format!("child {key} starts out of turn: {self:?}"))?;
        let Some(seen) = self.children.get(&key).filter(|seen| seen.state == State::Down && !seen.ends) else {
            return ensure(false, "SUP-8", || format!("child {key} starts: {self:?}"));
        };
        let (is_due, due) = match self.strategy {
            Strategy::OneForOne => (seen.starts == 0 || now == seen.series.due, seen.series.due),
            _ => (now >= self.series.due, self.series.due),
        };
        ensure(is_due, "SUP-4", || format!("child {key} starts at {now:?}, due at {due:?}"))?;
        let seen = self.children.get_mut(&key).expect("looked up above");
        seen.starts += 1;
        seen.state = State::Starting;
        Ok(())
    }

    fn see_stop(&mut self, key: ChildKey) -> Result<(), Violation> {
        let is_ending = self.end != End::No;
        let lives = |other: &&ChildKey| !matches!(self.children[other].state, State::Down);
        let concerned = |other: &&ChildKey| is_ending || self.must_stop.contains(other);
        let last = self.order.iter().rfind(|other| lives(other) && concerned(other));
        let others_stop = self.order.iter().any(|other| {
            let seen = &self.children[other];
            *other != key && seen.state == State::Stopping && !seen.is_removed
        });
        let seen = self.children.get(&key);
        let is_removed = seen.is_some_and(|seen| seen.is_removed);
        let is_told_first = seen.is_some_and(|seen| matches!(seen.state, State::Starting | State::Running));
        let is_in_turn = is_removed || last == Some(&key) && !others_stop;
        ensure(is_told_first && is_in_turn, "SUP-2", || {
            format!("child {key} is told to stop, last is {last:?}: {seen:?}")
        })?;
        self.children.get_mut(&key).expect("it was told first").state = State::Stopping;
        Ok(())
    }

    /// Judges what the supervisor did not ask for, after it has said all.
    pub(super) fn see_silence(&self, now: Time) -> Result<(), Violation> {
        let is_borne = matches!(self.end, End::Failed(key) if self.children.contains_key(&key));
        ensure(!is_borne, "SUP-3", || format!("one failure too many is borne: {self:?}"))?;
        let forgotten = self.children.iter().find(|(_, seen)| seen.ends && seen.state == State::Down);
        ensure(forgotten.is_none(), "SUP-8", || format!("nobody was told that {forgotten:?} has ended"))?;
        let is = |state| self.children.values().any(|seen| seen.state == state);
        let waits_for_stop = is(State::Stopping);
        let must_stop = !self.must_stop.is_empty() || self.end != End::No && !self.order.is_empty();
        ensure(!must_stop || waits_for_stop, "SUP-7", || format!("nobody is told to stop: {self:?}"))?;
        let is_finished = matches!(self.end, End::No | End::Said) || !self.order.is_empty();
        ensure(is_finished, "SUP-7", || format!("the end is not said: {self:?}"))?;
        let may_start = match self.strategy {
            Strategy::OneForOne => {
                self.children.values().any(|seen| seen.state == State::Down && now > seen.series.due)
            }
            _ => !must_stop && is(State::Down) && !is(State::Starting) && now >= self.series.due,
        };
        ensure(!may_start, "SUP-7", || format!("nobody is told to start: {self:?}"))
    }
}
