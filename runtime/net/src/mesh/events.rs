//! The queue from all readers to the one that acts.
//!
//! Readers of the network wait when it is full, and with them the peers, by QUIC's windows. What the mesh itself reports
//! is always taken: there is little of it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{Event, Lane};
use crate::connection::Pace;

/// Events that may wait before readers wait: a millisecond's work at a million a second is 1,000.
const EVENTS_MAX: usize = 32 << 10;
/// Bytes of frames that may wait before readers wait; one frame may go beyond.
const BYTES_MAX: usize = 64 << 20;

#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Notify,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<Event>,
    bytes: usize,
    is_closed: bool,
    receiver_sleeps: bool,
}

/// What happens in a mesh, in order.
#[derive(Debug)]
pub struct MeshEvents {
    queue: Arc<Queue>,
    taken: VecDeque<Event>,
}

pub(super) fn queue() -> (Arc<Queue>, MeshEvents) {
    let queue = Arc::<Queue>::default();
    (queue.clone(), MeshEvents { queue, taken: VecDeque::new() })
}

impl Queue {
    pub(super) fn push(&self, event: Event) {
        let mut waiting = self.waiting.lock();
        if waiting.is_closed {
            return;
        }
        if let Event::Frame { body, .. } = &event {
            waiting.bytes += body.len();
        }
        waiting.events.push_back(event);
        let wakes = std::mem::take(&mut waiting.receiver_sleeps);
        drop(waiting);
        if wakes {
            self.filled.notify_one();
        }
    }

    /// Waits until there is room. The control lane has twice as much as calls, so that heartbeats are still heard when
    /// these wait; and what is large has half, so that it never makes calls wait.
    pub(super) async fn room(&self, lane: Lane) {
        let (events_max, bytes_max) = match lane {
            Lane::Control => (2 * EVENTS_MAX, 2 * BYTES_MAX),
            Lane::Calls => (EVENTS_MAX, BYTES_MAX),
            Lane::Bulk => (EVENTS_MAX / 2, BYTES_MAX / 2),
        };
        loop {
            let emptied = self.emptied.notified();
            {
                let waiting = self.waiting.lock();
                let has_room = waiting.events.len() < events_max && waiting.bytes < bytes_max;
                if has_room || waiting.is_closed {
                    return;
                }
            }
            emptied.await;
        }
    }

    pub(super) fn close(&self) {
        self.waiting.lock().is_closed = true;
        self.filled.notify_one();
        self.emptied.notify_waiters();
    }
}

impl MeshEvents {
    /// The next event; `None` when the mesh was closed and all is said.
    ///
    /// # Cancel safety
    ///
    /// A wait that is dropped loses nothing.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.try_next() {
                return Some(event);
            }
            {
                let mut waiting = self.queue.waiting.lock();
                if waiting.events.is_empty() {
                    if waiting.is_closed {
                        return None;
                    }
                    waiting.receiver_sleeps = true;
                } else {
                    continue;
                }
            }
            self.queue.filled.notified().await;
        }
    }

    /// At what pace events come: a lone one has none behind it yet.
    pub fn pace(&self) -> Pace {
        if self.taken.is_empty() { Pace::Lone } else { Pace::Burst }
    }

    /// The next event that is there already: for those that take all before they act.
    pub fn try_next(&mut self) -> Option<Event> {
        if self.taken.is_empty() {
            let mut waiting = self.queue.waiting.lock();
            std::mem::swap(&mut self.taken, &mut waiting.events);
            waiting.bytes = 0;
            drop(waiting);
            if !self.taken.is_empty() {
                self.queue.emptied.notify_waiters();
            }
        }
        self.taken.pop_front()
    }
}

impl Drop for MeshEvents {
    fn drop(&mut self) {
        self.queue.close();
    }
}
