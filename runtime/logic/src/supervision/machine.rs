//! The machine: children by their place in the order, and what the group is doing.

use std::collections::btree_map::{BTreeMap, Entry};
use std::collections::{BTreeSet, VecDeque};
use std::ops::Range;

use mobula_types::{Backoff, ExitReason, Intensity, Restart, StateMachine, Strategy, Time};

use super::{ChildKey, Input, Output, check};
use crate::mutant::{Mutant, Planted};
use crate::restarts::{Recent, Series, restarts_after};

/// The children of one supervisor.
///
/// ```
/// use mobula_logic::supervision::{Input, Output, Supervision};
/// use mobula_types::{ExitReason, Restart, StateMachine, Strategy, Time};
/// let mut group = Supervision::new(Strategy::OneForOne, Default::default(), Default::default());
/// group.handle(Time::ZERO, Input::Add { child: 1, restart: Restart::Transient });
/// assert_eq!(group.poll_output(), Some(Output::Start { child: 1 }));
/// group.handle(Time::ZERO, Input::Started { child: 1 });
/// group.handle(Time::ZERO, Input::Exited { child: 1, reason: ExitReason::Killed });
/// assert_eq!(group.poll_output(), Some(Output::Start { child: 1 }));
/// ```
#[derive(Debug)]
pub struct Supervision {
    pub(super) strategy: Strategy,
    pub(super) intensity: Intensity,
    pub(super) backoff: Backoff,
    pub(super) phase: Phase,
    /// In the order in which they were added, which is the order in which they start.
    pub(super) children: BTreeMap<Place, Child>,
    pub(super) places: BTreeMap<ChildKey, Place>,
    /// The children that are down, by the time of their start; in a group strategy all are due, in their order.
    pub(super) down: BTreeSet<(Time, Place)>,
    pub(super) starting: usize,
    pub(super) recent: Recent,
    /// The group's own; in one_for_one each child has one.
    pub(super) series: Series,
    pub(super) next_place: Place,
    pub(super) ended: u64,
    pub(super) outputs: VecDeque<Output>,
    pub(super) planted: Planted,
}

/// A child's place in the order; never used twice.
pub(super) type Place = u64;

#[derive(Debug)]
pub(super) struct Child {
    pub(super) key: ChildKey,
    pub(super) restart: Restart,
    pub(super) state: State,
    /// It has been `Started` at least once: its adder knows that it lives.
    pub(super) has_started: bool,
    /// It was asked for by `Remove`: it is not started again whatever it says.
    pub(super) is_removed: bool,
    /// How often it was told to start; only an invariant reads it.
    pub(super) starts: u32,
    pub(super) series: Series,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// To be started at `at`, or when its turn comes; `last` is why it ended, if it ever ran.
    Down { at: Time, last: Option<Box<ExitReason>> },
    /// Told to start.
    Starting,
    /// Has started.
    Running,
    /// Told to stop.
    Stopping,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Whoever is down is on its way up.
    Up,
    /// The children from place `from` on are stopped; they start again at `until` or when all are down. Those from
    /// `below` on are down already: without it each step would look at all of them again.
    Stopping { from: Place, below: Place, until: Time },
    /// They are down and wait.
    Waiting { until: Time },
    /// All children are stopped; the failure that made it so, if it was not a `Stop`.
    Ending { failure: Option<(ChildKey, ExitReason)> },
    /// All is said.
    Over,
}

impl StateMachine for Supervision {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.handle_time(now);
        match input {
            Input::Add { child, restart } => self.handle_add(now, child, restart),
            Input::Started { child } => self.handle_started(child),
            Input::StartFailed { child, reason } => self.handle_exit(now, child, reason, true),
            Input::Exited { child, reason } => self.handle_exit(now, child, reason, false),
            Input::Remove { child } => self.handle_remove(child),
            Input::Stop => self.handle_stop(),
            Input::Tick => {}
        }
        self.proceed(now);
        // A full check looks at every child: beyond a few dozen that would make debug builds crawl.
        if cfg!(debug_assertions) && self.children.len() <= 32 && !self.planted.is_any() {
            check(self).expect("a group of children keeps its invariants");
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        match (&self.phase, self.strategy) {
            (Phase::Waiting { until }, _) => Some(*until),
            (Phase::Up, Strategy::OneForOne) => self.down.first().map(|&(at, _)| at),
            _ => None,
        }
    }
}

impl Supervision {
    /// A group without children.
    pub fn new(strategy: Strategy, intensity: Intensity, backoff: Backoff) -> Self {
        Self {
            strategy,
            intensity,
            backoff,
            phase: Phase::Up,
            children: BTreeMap::new(),
            places: BTreeMap::new(),
            down: BTreeSet::new(),
            starting: 0,
            recent: Recent::default(),
            series: Series::default(),
            next_place: 0,
            ended: 0,
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

    /// The children that have not ended, in the order in which they were added.
    pub fn children(&self) -> impl Iterator<Item = ChildKey> {
        self.children.values().map(|child| child.key)
    }

    /// Whether all is said: `Stopped` or `Escalate`.
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }

    fn handle_time(&mut self, now: Time) {
        if matches!(self.phase, Phase::Waiting { until } if until <= now) {
            self.phase = Phase::Up;
        }
    }

    fn handle_add(&mut self, now: Time, key: ChildKey, restart: Restart) {
        let Entry::Vacant(entry) = self.places.entry(key) else { return };
        if matches!(self.phase, Phase::Ending { .. } | Phase::Over) {
            self.outputs.push_back(Output::Ended { child: key, reason: ExitReason::Shutdown });
            return;
        }
        let place = self.next_place;
        self.next_place += 1;
        entry.insert(place);
        let state = State::Down { at: now, last: None };
        let series = Series::default();
        let mut child = Child { key, restart, state, has_started: false, is_removed: false, starts: 0, series };
        if self.strategy == Strategy::OneForOne {
            // Its turn is now. Going through `down` would double what a child costs, and some have 100,000.
            self.starting += 1;
            self.outputs.push_back(child.start());
        } else {
            self.down.insert((now, place));
        }
        self.children.insert(place, child);
    }

    fn handle_started(&mut self, key: ChildKey) {
        let Some(place) = self.places.get(&key) else { return };
        let Some(child) = self.children.get_mut(place) else { return };
        match child.state {
            State::Starting => {
                child.has_started = true;
                child.state = State::Running;
                self.starting -= 1;
            }
            // It was told to stop meanwhile, and will say when it has.
            State::Stopping => child.has_started = true,
            State::Down { .. } | State::Running => {}
        }
    }

    fn handle_exit(&mut self, now: Time, key: ChildKey, reason: ExitReason, start_failed: bool) {
        let Some(&place) = self.places.get(&key) else { return };
        let child = &self.children[&place];
        let (restart, has_started, is_removed) = (child.restart, child.has_started, child.is_removed);
        let (was_starting, was_asked) = match child.state {
            State::Down { .. } => return,
            State::Starting => (true, false),
            State::Running => (false, false),
            State::Stopping => (start_failed, true),
        };
        let is_own_end = !was_asked && !was_starting && !restarts_after(restart, &reason);
        let never_lived = was_starting && !has_started;
        let ends = is_removed || is_own_end || never_lived;
        match self.phase {
            Phase::Ending { .. } | Phase::Over => self.end(place, reason),
            // SUP-5: it may not come back with the others.
            _ if ends && !(is_own_end && self.planted.is(Mutant::RestartTemporary)) => self.end(place, reason),
            Phase::Stopping { from, .. } if place >= from && restart == Restart::Temporary => self.end(place, reason),
            Phase::Stopping { from, .. } if place >= from => {
                self.set(place, State::Down { at: now, last: Some(Box::new(reason)) });
            }
            _ => self.fail(now, place, reason),
        }
    }

    fn handle_remove(&mut self, key: ChildKey) {
        let Some(&place) = self.places.get(&key) else { return };
        let Some(child) = self.children.get_mut(&place) else { return };
        child.is_removed = true;
        match &child.state {
            State::Down { last, .. } => {
                let reason = last.as_deref().cloned().unwrap_or(ExitReason::Shutdown);
                self.end(place, reason);
            }
            State::Starting | State::Running => self.stop(place),
            State::Stopping => {}
        }
    }

    fn handle_stop(&mut self) {
        match &mut self.phase {
            Phase::Over => self.outputs.push_back(Output::Stopped),
            Phase::Ending { failure } => *failure = None,
            _ => self.begin_end(None),
        }
    }

    /// A child failed that was not told to stop.
    fn fail(&mut self, now: Time, place: Place, reason: ExitReason) {
        // SUP-3: one restart more than the intensity allows is the supervisor's own failure.
        if !self.recent.admit(now, self.intensity, self.planted) {
            let key = self.children[&place].key;
            self.end(place, reason.clone());
            self.begin_end(Some((key, reason)));
            return;
        }
        let series = match self.strategy {
            Strategy::OneForOne => &mut self.children.get_mut(&place).expect("a child that failed is known").series,
            _ => &mut self.series,
        };
        let at = series.next(now, self.backoff, self.intensity.period, self.planted);
        let from = match self.strategy {
            Strategy::OneForOne => {
                self.set(place, State::Down { at, last: Some(Box::new(reason)) });
                return;
            }
            Strategy::OneForAll => 0,
            Strategy::RestForOne => place,
        };
        self.set(place, State::Down { at: now, last: Some(Box::new(reason)) });
        let (from, below, until) = match self.phase {
            Phase::Stopping { from: before, below, until } => (before.min(from), below, until.max(at)),
            Phase::Waiting { until } => (from, self.next_place, until.max(at)),
            _ => (from, self.next_place, at),
        };
        self.phase = Phase::Stopping { from, below, until };
    }

    /// Does what the phase allows, until it must wait for an answer or for time.
    fn proceed(&mut self, now: Time) {
        if let Phase::Stopping { from, below, until } = self.phase {
            self.phase = match self.stop_next(from..below) {
                Some(last) => Phase::Stopping { from, below: last + 1, until },
                None if until <= now => Phase::Up,
                None => Phase::Waiting { until },
            };
        }
        if let Phase::Ending { .. } = self.phase {
            // SUP-6: it has not ended while a child lives.
            let may_end = self.stop_next(0..self.next_place).is_none() || self.planted.is(Mutant::EscalateAtOnce);
            if may_end {
                self.say_the_end();
            }
        }
        if matches!(self.phase, Phase::Up) {
            self.start_next(now);
        }
    }

    /// Starts whoever is due: independent children at once, dependent ones in order and one at a time (SUP-1).
    fn start_next(&mut self, now: Time) {
        if self.strategy == Strategy::OneForOne {
            while let Some(&(_, place)) = self.down.first().filter(|(at, _)| *at <= now) {
                self.start(place);
            }
            return;
        }
        if self.starting > 0 {
            return;
        }
        let places = self.down.iter().map(|&(_, place)| place);
        let next = if self.planted.is(Mutant::StartInReverseOrder) { places.max() } else { places.min() };
        if let Some(place) = next {
            self.start(place);
        }
    }

    /// Sees that the last of these children that lives has been told to stop (SUP-2); `None` when none lives.
    fn stop_next(&mut self, places: Range<Place>) -> Option<Place> {
        let mut alive = self.children.range(places).filter(|(_, child)| child.is_alive()).map(|(&place, _)| place);
        if self.planted.is(Mutant::StopAllAtOnce) {
            let alive: Vec<Place> = alive.collect();
            alive.iter().rev().for_each(|&place| self.stop(place));
            return alive.last().copied();
        }
        let next = if self.planted.is(Mutant::StopInStartOrder) { alive.next() } else { alive.next_back() };
        if let Some(place) = next {
            self.stop(place);
        }
        next
    }

    fn start(&mut self, place: Place) {
        self.unlist(place);
        self.starting += 1;
        let child = self.children.get_mut(&place).expect("only a known child is started");
        self.outputs.push_back(child.start());
    }

    fn stop(&mut self, place: Place) {
        let child = &self.children[&place];
        if child.state != State::Stopping {
            self.outputs.push_back(Output::Stop { child: child.key });
            self.set(place, State::Stopping);
        }
    }

    /// From here on children only stop; those that are down have ended already.
    fn begin_end(&mut self, failure: Option<(ChildKey, ExitReason)>) {
        self.phase = Phase::Ending { failure };
        let down: BTreeSet<_> = self.down.iter().map(|&(_, place)| place).collect();
        for place in down.into_iter().rev() {
            let State::Down { last, .. } = &self.children[&place].state else { continue };
            let reason = last.as_deref().cloned().unwrap_or(ExitReason::Shutdown);
            self.end(place, reason);
        }
    }

    fn say_the_end(&mut self) {
        let output = match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Ending { failure: Some((child, cause)) } => Output::Escalate { child, cause },
            _ => Output::Stopped,
        };
        self.outputs.push_back(output);
    }

    fn end(&mut self, place: Place, reason: ExitReason) {
        self.unlist(place);
        let child = self.children.remove(&place).expect("a child ends once");
        self.places.remove(&child.key);
        self.ended += 1;
        self.outputs.push_back(Output::Ended { child: child.key, reason });
    }

    fn set(&mut self, place: Place, state: State) {
        self.unlist(place);
        if let State::Down { at, .. } = state {
            self.down.insert((at, place));
        }
        self.starting += usize::from(state == State::Starting);
        self.children.get_mut(&place).expect("only a known child changes").state = state;
    }

    fn unlist(&mut self, place: Place) {
        let state = &self.children[&place].state;
        self.starting -= usize::from(*state == State::Starting);
        if let State::Down { at, .. } = state {
            self.down.remove(&(*at, place));
        }
    }
}

impl Child {
    fn start(&mut self) -> Output {
        self.starts += 1;
        self.state = State::Starting;
        Output::Start { child: self.key }
    }

    pub(super) fn is_alive(&self) -> bool {
        !matches!(self.state, State::Down { .. })
    }
}
