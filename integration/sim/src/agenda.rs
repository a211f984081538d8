//! Invented time: what is going to happen, in the order in which it will.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use mobula_types::Time;
use slab::Slab;

/// Events to come. Those of one moment happen in the order in which they were noted.
#[derive(Debug)]
pub struct Agenda<E> {
    now: Time,
    noted: u64,
    order: BinaryHeap<Reverse<(Time, u64, usize)>>,
    /// They are large, and stay where they are while their order changes.
    events: Slab<E>,
}

impl<E> Default for Agenda<E> {
    fn default() -> Self {
        Self { now: Time::ZERO, noted: 0, order: BinaryHeap::new(), events: Slab::new() }
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
        let event = self.events.insert(event);
        self.order.push(Reverse((time.max(self.now), self.noted, event)));
        self.noted += 1;
    }

    /// Moves time to the next event; `None` when nothing is going to happen.
    pub fn step(&mut self) -> Option<E> {
        let Reverse((time, _, event)) = self.order.pop()?;
        self.now = time;
        Some(self.events.remove(event))
    }
}
