//! Invented time: what is going to happen, in the order in which it will.

use std::collections::BTreeMap;
use std::time::Duration;

use mobula_types::Time;

/// Events to come. Those of one moment happen in the order in which they were noted.
#[derive(Debug)]
pub struct Agenda<E> {
    now: Time,
    noted: u64,
    events: BTreeMap<(Time, u64), E>,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { now: Time::ZERO, noted: 0, events: BTreeMap::new() }
    }
}

impl<E> Agenda<E> {
    /// The time of the last event.
    pub fn now(&self) -> Time {
        self.now
    }

    /// Notes that `event` happens in `delay`.
    pub fn after(&mut self, delay: Duration, event: E) {
        self.at(self.now + delay, event);
    }

    /// Notes that `event` happens at `time`, or now when that is past.
    pub fn at(&mut self, time: Time, event: E) {
        self.events.insert((time.max(self.now), self.noted), event);
        self.noted += 1;
    }

    /// Moves time to the next event; `None` when nothing is going to happen.
    pub fn step(&mut self) -> Option<E> {
        let ((time, _), event) = self.events.pop_first()?;
        self.now = time;
        Some(event)
    }
}
