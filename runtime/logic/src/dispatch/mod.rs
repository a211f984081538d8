//! The tasks of one submitting process on their way to places that run them.
//!
//! ```text
//!            lease with room                  outcome
//!  queued ───────────────────► in flight ──────────────────► resolved
//!    ▲                             │ turned away, or its process died,
//!    └───────── retry due ─────────┘ with a retry left (see `task`)
//! ```
//!
//! Tasks that ask for the same place have one *shape* and stand in one queue: those of a higher priority first, and of one
//! priority first in, first out. What is more urgent does not stand behind what fills a place, either: see [`OVERTAKING_MAX`].
//! A *lease* is a place
//! that the process has been given for a shape; up to [`DEPTH`] tasks are in flight on one, so that a place never waits
//! for the next task. The machine asks for as many leases as it has tasks, a few at a time, and gives back what has been
//! idle for [`IDLE_MAX`].
//!
//! A task that was to blame for the death of its process runs the next time in a place of its own, if the driver has said
//! which shape that is ([`Dispatch::keep_apart`]).
//!
//! A place may be *recalled*, because its node is to leave or others have less: nothing more is sent there, what has not
//! begun there is asked back, and the lease is given back when the rest has ended.
//!
//! A process may be good for so many tasks of a shape only ([`Dispatch::retire_after`]): a place that has taken the last of
//! them is *spent*. It takes no more, and is given back when what was sent there has ended.
//!
//! What was sent to a place may stand behind long tasks there while another has less to do than it could. When that has
//! lasted for [`STEAL_AFTER`], half of what waits at the fullest place is *asked back*, each task once; what has not begun
//! there comes back and goes to where there is room, and of what has begun nothing is heard but its end.
//!
//! How often a task runs and how it ends is decided by [`Task`]; arguments, results and connections are the driver's.

mod invariants;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::Duration;

use mobula_types::{Attempt, LeaseId, Outcome, ProcessId, StateMachine, TaskId, Time};
use slab::Slab;

use crate::invariant::Pace;
use crate::mutant::{Mutant, Planted};
use crate::task::{self, End, Task, TaskSpec};

pub use invariants::check;

/// Tasks in flight on one lease: enough that a place which takes 10 µs a task does not wait for the next 32, which come
/// in one message.
pub const DEPTH: usize = 64;

/// Tasks on one lease beyond [`DEPTH`] that are more urgent than others there: the place runs them before those, so that what
/// was sent earlier holds up an urgent one no longer than what runs already. A few, since they come from a queue in which they
/// stand first anyway.
pub const OVERTAKING_MAX: usize = 16;

/// A lease that had nothing to do for so long is given back: others may want it.
pub const IDLE_MAX: Duration = Duration::from_millis(500);

/// A place that has had too little to do for so long takes what waits at another: far above the time that the next task takes
/// to come there, far below what a person would wait for.
pub const STEAL_AFTER: Duration = Duration::from_millis(10);

/// A shape whose request was refused for now asks again after so long: the node's queue is full, and to ask at once would
/// keep both busy with nothing else.
pub const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Leases asked for at once, per shape: a node answers in order, and what it gives says how much more it has.
const ASKED_MAX: usize = 4;

/// Leases held at once, per shape.
const LEASES_MAX: usize = 1024;

/// Names tasks that ask for the same place; the driver keeps what that is.
pub type Shape = usize;

/// Names a task inside the machine, from its submission to its outcome.
pub type Key = usize;

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The node gave a place that was asked for.
    Granted {
        /// Which request.
        request: u64,
        /// The lease.
        lease: LeaseId,
        /// Where.
        process: ProcessId,
    },
    /// The node says that there is no such place.
    NoPlace {
        /// Which request.
        request: u64,
        /// Whether there never will be one; else it is asked again.
        for_ever: bool,
    },
    /// A task ran to its end.
    Finished {
        /// Which.
        key: Key,
        /// Which run of it.
        attempt: Attempt,
        /// How.
        end: End,
    },
    /// A task was turned away before it began.
    TurnedAway {
        /// Which.
        key: Key,
        /// Which run of it.
        attempt: Attempt,
    },
    /// A place is wanted back: its node is to leave.
    Recalled {
        /// Which.
        lease: LeaseId,
    },
    /// A task had not begun when its process's places were recalled, and will not begin there.
    Withdrawn {
        /// Which.
        key: Key,
        /// Which run of it.
        attempt: Attempt,
    },
    /// A task that was asked back had not begun, and will not begin where it was.
    HandedBack {
        /// Which.
        key: Key,
        /// Which run of it.
        attempt: Attempt,
    },
    /// A process has ended, and with it what was in flight there.
    ProcessDied {
        /// Which; number 0 stands for all of its node.
        process: ProcessId,
        /// What was running there; `None` when nobody could tell, and then everything is under suspicion.
        culprits: Option<Vec<TaskId>>,
    },
    /// Nobody wants the outcome of a task any more.
    Cancel {
        /// Which.
        key: Key,
    },
    /// The same, and the place where it runs is given back at once: its process is to end with that.
    Force {
        /// Which.
        key: Key,
    },
    /// Nothing but time has passed.
    Tick,
}

/// What the machine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the node for a place.
    AskLease {
        /// The request, to be repeated in the answer.
        request: u64,
        /// For which tasks.
        shape: Shape,
    },
    /// Give a place back.
    ReturnLease {
        /// Which.
        lease: LeaseId,
    },
    /// Take back a request for a place that has not been answered: nothing has wanted it for [`IDLE_MAX`].
    TakeBack {
        /// The request.
        request: u64,
    },
    /// Send a task to a place.
    Send {
        /// Which.
        key: Key,
        /// Which run of it.
        attempt: Attempt,
        /// Whose place it takes.
        lease: LeaseId,
        /// Where.
        process: ProcessId,
    },
    /// Tell a place that a task's result is not wanted any more.
    CancelAttempt {
        /// Which.
        key: Key,
        /// Which run of it.
        attempt: Attempt,
        /// Where.
        process: ProcessId,
    },
    /// Ask a place to hand a task back if it has not begun; [`Input::HandedBack`] answers, or nothing before its end.
    AskBack {
        /// Which.
        key: Key,
        /// Which run of it.
        attempt: Attempt,
        /// Where.
        process: ProcessId,
    },
    /// A task has ended. Said once; its key may be given to another task after this.
    Resolve {
        /// Which.
        key: Key,
        /// How.
        outcome: Outcome,
        /// The run whose result it is, where the outcome is one's.
        attempt: Option<Attempt>,
    },
}

/// Where a task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It waits for a place.
    Waits {
        /// Which kind of place.
        shape: Shape,
        /// So many tasks wait before it for the same.
        before: usize,
    },
    /// It is at a place.
    Sent {
        /// Which.
        process: ProcessId,
        /// So many that were submitted earlier are there, too.
        before: usize,
    },
    /// Its last run came to nothing, and the next is due.
    Retry {
        /// When; or at its deadline, if that is sooner.
        again_at: Time,
    },
}

/// The tasks of one process.
#[derive(Debug, Default)]
pub struct Dispatch {
    tasks: Slab<Entry>,
    shapes: Vec<Queue>,
    leases: Slab<Lease>,
    /// Where each lease is: a process's leases are neighbours, and a node's processes too.
    by_process: BTreeSet<(ProcessId, usize)>,
    /// Leases with nothing to do, and since when.
    idle: BTreeSet<(Time, usize)>,
    /// Shapes with requests for places and nothing to do, and since when.
    unwanted: BTreeSet<(Time, Shape)>,
    /// When shapes have had a place with too little to do beside one with too much for long enough.
    steals: BTreeSet<(Time, Shape)>,
    /// When shapes that were refused ask again.
    refused: BTreeSet<(Time, Shape)>,
    requests: BTreeMap<u64, Shape>,
    next_request: u64,
    /// When tasks want to be looked at again; what is over is found out then.
    alarms: BinaryHeap<Reverse<(Time, Key, TaskId)>>,
    outputs: VecDeque<Output>,
    planted: Planted,
    pace: Pace,
}

#[derive(Debug)]
struct Entry {
    id: TaskId,
    priority: i32,
    shape: Shape,
    machine: Task,
    /// The lease on which it is in flight, and where among that lease's tasks it stands.
    at: Option<(usize, usize)>,
    is_queued: bool,
    /// The place where it is in flight has been asked to hand it back.
    is_asked_back: bool,
}

/// Its turn among tasks that wait for the same: the most urgent first, and of those the oldest.
type Turn = (Reverse<i32>, TaskId);

impl Entry {
    fn turn(&self) -> Turn {
        (Reverse(self.priority), self.id)
    }
}

#[derive(Debug)]
struct Queue {
    /// Tasks that may be in flight on one lease.
    depth: usize,
    /// Where its tasks run after they were to blame for a death.
    alone: Option<Shape>,
    /// Tasks that one lease takes before it is spent.
    calls_max: Option<u32>,
    /// Tasks in flight on leases that are spent.
    on_spent: usize,
    /// Tasks that wait for a lease: what comes back stands before what was submitted later.
    waiting: BTreeMap<Turn, Key>,
    /// The lowest priority there has been since it had nothing to do: nothing overtakes while all are equal.
    priority_min: i32,
    in_flight: usize,
    /// Its places, by process: the leases of one process run what has come there first, whichever of them it is on.
    places: BTreeMap<ProcessId, Place>,
    /// The same, those with the least to do first.
    by_load: BTreeSet<(usize, ProcessId)>,
    /// How many leases they are.
    leases: usize,
    /// Requests without an answer.
    asked: BTreeSet<u64>,
    /// Since when it has requests and nothing to do.
    unwanted_since: Option<Time>,
    /// When a place of it takes from another.
    steals_at: Option<Time>,
    /// When it asks again, if it was refused.
    asks_at: Option<Time>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            depth: DEPTH,
            alone: None,
            calls_max: None,
            on_spent: 0,
            waiting: BTreeMap::new(),
            priority_min: i32::MAX,
            in_flight: 0,
            places: BTreeMap::new(),
            by_load: BTreeSet::new(),
            leases: 0,
            asked: BTreeSet::new(),
            unwanted_since: None,
            steals_at: None,
            asks_at: None,
        }
    }
}

/// The leases of a shape in one process, without those that are wanted back.
#[derive(Debug, Default)]
struct Place {
    /// Those with the fewest tasks first.
    leases: BTreeSet<(usize, usize)>,
    in_flight: usize,
}

impl Place {
    /// How much there is to do for what there is to do it with.
    fn load(&self) -> usize {
        self.in_flight * FULL / self.leases.len().max(1)
    }
}

/// The load of a place that has one task for each lease.
const FULL: usize = 1024;

impl Queue {
    fn put(&mut self, process: ProcessId, lease: (usize, usize)) {
        let place = self.places.entry(process).or_default();
        self.by_load.remove(&(place.load(), process));
        place.leases.insert(lease);
        place.in_flight += lease.0;
        self.by_load.insert((place.load(), process));
        self.leases += 1;
    }

    /// Whether it was there.
    fn take(&mut self, process: ProcessId, lease: (usize, usize)) -> bool {
        let Some(place) = self.places.get_mut(&process).filter(|place| place.leases.contains(&lease)) else {
            return false;
        };
        self.by_load.remove(&(place.load(), process));
        place.leases.remove(&lease);
        place.in_flight -= lease.0;
        self.leases -= 1;
        if place.leases.is_empty() {
            self.places.remove(&process);
        } else {
            self.by_load.insert((place.load(), process));
        }
        true
    }

    /// The lease with the fewest tasks, of the place with the least to do.
    fn least(&self) -> Option<(usize, usize)> {
        let (_, process) = self.by_load.first()?;
        self.places.get(process)?.leases.first().copied()
    }

    /// Whether a place has less to do than it could, while at another something waits.
    fn is_lopsided(&self) -> bool {
        self.by_load.first().is_some_and(|(load, _)| *load < FULL)
            && self.by_load.last().is_some_and(|(load, _)| *load > FULL)
    }
}

#[derive(Debug)]
struct Lease {
    id: LeaseId,
    shape: Shape,
    process: ProcessId,
    in_flight: Vec<Key>,
    /// Since when it has nothing to do.
    idle_since: Time,
    /// Tasks that were ever sent there.
    calls: u32,
    /// It is wanted back: it is not among its shape's any more, and goes when nothing is in flight on it.
    is_recalled: bool,
    /// It has taken all tasks that its process is good for: the same.
    is_spent: bool,
}

impl Dispatch {
    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.planted = Planted::new(mutant);
        self
    }

    /// Takes a task whose arguments are there; its key stands for it until it is resolved.
    pub fn submit(&mut self, now: Time, id: TaskId, shape: Shape, spec: TaskSpec) -> Key {
        self.know(shape);
        let (priority, machine) = (spec.priority, Task::new(spec));
        #[cfg(feature = "mutants")]
        let machine = self.planted.mutant().into_iter().fold(machine, Task::with_mutant);
        let (at, is_queued, is_asked_back) = (None, false, false);
        let key = self.tasks.insert(Entry { id, priority, shape, machine, at, is_queued, is_asked_back });
        self.enqueue(key);
        self.plan(key);
        self.pump(now, shape);
        self.debug_check();
        key
    }

    /// Says that tasks of `shape` run in places of the shape `alone` once they were to blame for the death of a process: in
    /// those only one task is at a time, so that it takes nobody with it.
    pub fn keep_apart(&mut self, shape: Shape, alone: Shape) {
        self.know(shape.max(alone));
        self.shapes[shape].alone = Some(alone);
        self.shapes[alone].depth = 1;
    }

    /// Says that a place takes `calls` tasks of `shape`, and is then given back: its process is to end with it. Not one.
    pub fn retire_after(&mut self, shape: Shape, calls: u32) {
        self.know(shape);
        self.shapes[shape].calls_max = Some(calls.max(1));
    }

    fn know(&mut self, shape: Shape) {
        if self.shapes.len() <= shape {
            self.shapes.resize_with(shape + 1, Queue::default);
        }
    }

    /// Tasks that have no outcome yet.
    pub fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Whether every task has its outcome.
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Which task a key stands for.
    pub fn task(&self, key: Key) -> Option<TaskId> {
        self.tasks.get(key).map(|entry| entry.id)
    }

    /// Leases held, and requests for more that have no answer.
    pub fn places(&self) -> (usize, usize) {
        (self.leases.len(), self.requests.len())
    }

    /// Which run of a task is the newest; `None` before the first.
    pub fn attempt(&self, key: Key) -> Option<Attempt> {
        self.tasks.get(key).and_then(|entry| entry.machine.attempt())
    }

    /// Whether a task runs again if what it is sent to now is lost, and it is to blame.
    pub fn survives_loss(&self, key: Key) -> bool {
        self.tasks.get(key).is_some_and(|entry| entry.machine.survives_loss())
    }

    /// Where every task stands, those that wait for a place first, shape by shape and in order.
    pub fn standings(&self) -> impl Iterator<Item = (Key, Standing)> {
        let queued = self.shapes.iter().enumerate().flat_map(|(shape, queue)| {
            let in_order = queue.waiting.values().enumerate();
            in_order.map(move |(before, key)| (*key, Standing::Waits { shape, before }))
        });
        let sent = self.leases.iter().flat_map(|(_, lease)| {
            let mut there = lease.in_flight.clone();
            there.sort_unstable_by_key(|key| self.tasks[*key].id);
            let in_order = there.into_iter().enumerate();
            in_order.map(|(before, key)| (key, Standing::Sent { process: lease.process, before }))
        });
        let retries = self.tasks.iter().filter(|(_, entry)| entry.at.is_none() && !entry.is_queued);
        let retries = retries.filter_map(|(key, entry)| {
            entry.machine.next_timeout().map(|again_at| (key, Standing::Retry { again_at }))
        });
        queued.chain(sent).chain(retries)
    }

    /// The requests for places of a shape that have no answer: what its tasks wait for is what those wait for.
    pub fn asked(&self, shape: Shape) -> impl Iterator<Item = u64> {
        self.shapes.get(shape).into_iter().flat_map(|queue| queue.asked.iter().copied())
    }

    /// Gives a task's machine an input and does what it says, except that it runs: that is for the caller.
    fn drive(&mut self, now: Time, key: Key, input: task::Input) -> Option<Attempt> {
        let entry = self.tasks.get_mut(key)?;
        entry.machine.handle(now, input);
        let (mut resolved, mut run) = (None, None);
        while let Some(output) = entry.machine.poll_output() {
            match output {
                task::Output::Run { attempt } => run = Some(attempt),
                task::Output::CancelAttempt { attempt } => {
                    // DISP-2: only what was sent is cancelled there.
                    if let Some(lease) = entry.at.and_then(|(lease, _)| self.leases.get(lease)) {
                        self.outputs.push_back(Output::CancelAttempt { key, attempt, process: lease.process });
                    }
                }
                task::Output::Resolve { outcome, attempt } => resolved = Some((outcome, attempt)),
            }
        }
        if let Some((outcome, attempt)) = resolved {
            self.leave_queue(key);
            self.leave_lease(now, key);
            // DISP-1: a task leaves the table with its one outcome.
            self.tasks.remove(key);
            self.outputs.push_back(Output::Resolve { key, outcome, attempt });
            return None;
        }
        run
    }

    /// Like [`drive`](Self::drive), for what follows a run: one more run waits in the queue.
    fn settle(&mut self, now: Time, key: Key, input: task::Input) {
        let Some(shape) = self.tasks.get(key).map(|entry| entry.shape) else { return };
        if self.drive(now, key, input).is_some() {
            self.enqueue(key);
        }
        self.plan(key);
        self.pump(now, shape);
    }

    fn enqueue(&mut self, key: Key) {
        let entry = &mut self.tasks[key];
        entry.is_queued = true;
        let queue = &mut self.shapes[entry.shape];
        let has_others = queue.in_flight > 0 || !queue.waiting.is_empty();
        queue.priority_min = if has_others { queue.priority_min.min(entry.priority) } else { entry.priority };
        queue.waiting.insert(entry.turn(), key);
    }

    /// Notes when the task wants to be looked at again.
    fn plan(&mut self, key: Key) {
        let Some(entry) = self.tasks.get(key) else { return };
        let Some(at) = entry.machine.next_timeout() else { return };
        self.alarms.push(Reverse((at, key, entry.id)));
        if self.alarms.len() > ALARMS_SPARE + 4 * self.tasks.len() {
            // Most are of tasks that ended long before their deadlines.
            let tasks = &self.tasks;
            self.alarms.retain(|Reverse((_, key, id))| tasks.get(*key).is_some_and(|entry| entry.id == *id));
        }
    }

    fn leave_queue(&mut self, key: Key) {
        let entry = &mut self.tasks[key];
        if std::mem::take(&mut entry.is_queued) {
            self.shapes[entry.shape].waiting.remove(&entry.turn());
        }
    }

    fn leave_lease(&mut self, now: Time, key: Key) {
        let entry = &mut self.tasks[key];
        let Some((at, place)) = entry.at.take() else { return };
        let queue = &mut self.shapes[entry.shape];
        queue.in_flight -= 1;
        let Some(lease) = self.leases.get_mut(at) else { return };
        queue.on_spent -= usize::from(lease.is_spent);
        queue.take(lease.process, (lease.in_flight.len(), at));
        lease.in_flight.swap_remove(place);
        entry.is_asked_back = false;
        if let Some(moved) = lease.in_flight.get(place).copied() {
            self.tasks[moved].at = Some((at, place));
        }
        if lease.is_recalled || lease.is_spent {
            return self.give_recalled_back(at);
        }
        queue.put(lease.process, (lease.in_flight.len(), at));
        if lease.in_flight.is_empty() {
            lease.idle_since = now;
            self.idle.insert((now, at));
        }
    }

    fn join_lease(&mut self, key: Key, at: usize, attempt: Attempt) {
        let entry = &mut self.tasks[key];
        let (queue, lease) = (&mut self.shapes[entry.shape], &mut self.leases[at]);
        entry.at = Some((at, lease.in_flight.len()));
        queue.in_flight += 1;
        queue.take(lease.process, (lease.in_flight.len(), at));
        if lease.in_flight.is_empty() {
            self.idle.remove(&(lease.idle_since, at));
        }
        lease.in_flight.push(key);
        lease.calls = lease.calls.saturating_add(1);
        // DISP-10: it takes no more.
        lease.is_spent = queue.calls_max.is_some_and(|max| lease.calls >= max);
        if lease.is_spent {
            queue.on_spent += lease.in_flight.len();
        } else {
            queue.put(lease.process, (lease.in_flight.len(), at));
        }
        self.outputs.push_back(Output::Send { key, attempt, lease: lease.id, process: lease.process });
    }

    /// Takes a lease out of the books; what was in flight on it is the caller's.
    fn drop_lease(&mut self, at: usize) -> Lease {
        let lease = self.leases.remove(at);
        self.by_process.remove(&(lease.process, at));
        self.idle.remove(&(lease.idle_since, at));
        self.shapes[lease.shape].take(lease.process, (lease.in_flight.len(), at));
        lease
    }

    /// Sends what may be sent, and asks for more leases if there is more to do than those hold.
    fn pump(&mut self, now: Time, shape: Shape) {
        let depth = self.shapes[shape].depth + usize::from(self.planted.is(Mutant::DepthOffByOne));
        while let Some(((Reverse(priority), _), key)) = self.shapes[shape].waiting.first_key_value() {
            let (priority, key) = (*priority, *key);
            // DISP-4: the place with the least to do takes the next, if it has room at all.
            let Some((in_flight, at)) = self.shapes[shape].least() else { break };
            if in_flight >= depth && !self.overtakes(at, priority) {
                break;
            }
            self.leave_queue(key);
            let attempt = match self.tasks[key].machine.attempt() {
                // Its first run: until now it could still be told that no place will ever run it.
                None => self.drive(now, key, task::Input::Ready),
                again => again,
            };
            // Resolved instead: its deadline had passed.
            let Some(attempt) = attempt else { continue };
            self.join_lease(key, at, attempt);
        }
        let queue = &mut self.shapes[shape];
        // What runs where nothing else will is no reason for another place.
        let wanted = (queue.waiting.len() + queue.in_flight - queue.on_spent).min(LEASES_MAX);
        let asked_max = if queue.asks_at.is_some() { 0 } else { ASKED_MAX };
        while queue.asked.len() < asked_max && queue.leases + queue.asked.len() < wanted {
            self.next_request += 1;
            queue.asked.insert(self.next_request);
            self.requests.insert(self.next_request, shape);
            self.outputs.push_back(Output::AskLease { request: self.next_request, shape });
        }
        self.plan_to_steal(now, shape);
        let queue = &mut self.shapes[shape];
        let is_unwanted = wanted == 0 && !queue.asked.is_empty();
        if is_unwanted != queue.unwanted_since.is_some() {
            match queue.unwanted_since.take() {
                Some(since) => drop(self.unwanted.remove(&(since, shape))),
                None => {
                    queue.unwanted_since = Some(now);
                    self.unwanted.insert((now, shape));
                }
            }
        }
    }

    /// Whether a task of `priority` is sent to a lease that has as many as it takes, since it goes before some of them.
    fn overtakes(&self, at: usize, priority: i32) -> bool {
        let lease = &self.leases[at];
        let queue = &self.shapes[lease.shape];
        let has_room = queue.depth > 1 && lease.in_flight.len() < queue.depth + OVERTAKING_MAX;
        // The cheap question first: of most jobs, all tasks are equal.
        let differ = priority > queue.priority_min;
        has_room && differ && lease.in_flight.iter().any(|key| self.tasks[*key].priority < priority)
    }

    fn handle_granted(&mut self, now: Time, request: u64, id: LeaseId, process: ProcessId) {
        // DISP-3: what was not asked for is not kept.
        let Some(shape) = self.requests.remove(&request) else {
            self.outputs.push_back(Output::ReturnLease { lease: id });
            return;
        };
        let in_flight = Vec::new();
        let (is_recalled, is_spent) = (false, false);
        let lease = Lease { id, shape, process, in_flight, idle_since: now, calls: 0, is_recalled, is_spent };
        let at = self.leases.insert(lease);
        self.by_process.insert((process, at));
        self.idle.insert((now, at));
        let queue = &mut self.shapes[shape];
        queue.asked.remove(&request);
        queue.put(process, (0, at));
        self.pump(now, shape);
    }

    fn handle_no_place(&mut self, now: Time, request: u64, for_ever: bool) {
        let Some(shape) = self.requests.remove(&request) else { return };
        let queue = &mut self.shapes[shape];
        queue.asked.remove(&request);
        if for_ever {
            for key in std::mem::take(&mut queue.waiting).into_values() {
                let entry = &mut self.tasks[key];
                entry.is_queued = false;
                let refused = match entry.machine.attempt() {
                    None => task::Input::Unrunnable,
                    Some(attempt) => task::Input::TurnedAway { attempt },
                };
                self.settle(now, key, refused);
            }
        } else if queue.asks_at.is_none() {
            // DISP-11: what is refused for now waits before it is asked for again.
            let at = now + ASK_AGAIN;
            queue.asks_at = Some(at);
            self.refused.insert((at, shape));
        }
        self.pump(now, shape);
    }

    /// DISP-7: nothing more is sent to a place that is wanted back.
    fn recall(&mut self, now: Time, at: usize) {
        let lease = &mut self.leases[at];
        if std::mem::replace(&mut lease.is_recalled, true) {
            return;
        }
        let shape = lease.shape;
        self.idle.remove(&(lease.idle_since, at));
        if !self.planted.is(Mutant::SendToRecalled) {
            self.shapes[shape].take(lease.process, (lease.in_flight.len(), at));
        }
        // What has not begun there may come back.
        let keys = self.leases[at].in_flight.clone();
        self.ask_back(keys, usize::MAX);
        self.give_recalled_back(at);
        self.pump(now, shape);
    }

    /// Asks for those `count` of `keys` whose turn is last, without those that were asked for already. They come back in
    /// the order in which they are asked for, and the first may begin at once: so it is the one whose turn comes first.
    fn ask_back(&mut self, mut keys: Vec<Key>, count: usize) {
        keys.retain(|key| !self.tasks[*key].is_asked_back);
        keys.sort_unstable_by_key(|key| self.tasks[*key].turn());
        for key in keys.split_off(keys.len().saturating_sub(count)) {
            let entry = &mut self.tasks[key];
            let process = entry.at.and_then(|(at, _)| self.leases.get(at)).map(|lease| lease.process);
            let (Some(attempt), Some(process)) = (entry.machine.attempt(), process) else { continue };
            entry.is_asked_back = true;
            self.outputs.push_back(Output::AskBack { key, attempt, process });
        }
    }

    /// DISP-9: notes since when a place has less to do than it could while something waits at another.
    fn plan_to_steal(&mut self, now: Time, shape: Shape) {
        let queue = &mut self.shapes[shape];
        match queue.steals_at {
            Some(at) if !queue.is_lopsided() => {
                self.steals.remove(&(at, shape));
                queue.steals_at = None;
            }
            None if queue.is_lopsided() => {
                let at = now + STEAL_AFTER;
                self.steals.insert((at, shape));
                queue.steals_at = Some(at);
            }
            _ => {}
        }
    }

    /// Asks back half of what waits at the fullest place: as many as it has leases run there.
    fn steal(&mut self, shape: Shape) {
        let queue = &self.shapes[shape];
        let Some(place) = queue.by_load.last().and_then(|(_, process)| queue.places.get(process)) else { return };
        let keys: Vec<Key> =
            place.leases.iter().flat_map(|(_, at)| self.leases[*at].in_flight.iter().copied()).collect();
        let asked = keys.iter().filter(|key| self.tasks[**key].is_asked_back).count();
        let waits = keys.len().saturating_sub(place.leases.len() + asked);
        self.ask_back(keys, waits.div_ceil(2));
    }

    fn handle_handed_back(&mut self, now: Time, key: Key, attempt: Attempt) {
        if !self.is_current(key, attempt) {
            return;
        }
        self.leave_lease(now, key);
        if self.planted.is(Mutant::LoseHandedBack) {
            return;
        }
        self.settle(now, key, task::Input::Recalled { attempt });
    }

    fn give_recalled_back(&mut self, at: usize) {
        if self.leases[at].in_flight.is_empty() {
            let lease = self.drop_lease(at);
            self.outputs.push_back(Output::ReturnLease { lease: lease.id });
        }
    }

    /// The process has said that nothing begins there any more: that is true of all its places.
    fn handle_withdrawn(&mut self, now: Time, key: Key, attempt: Attempt) {
        if !self.is_current(key, attempt) {
            return;
        }
        let at = self.tasks[key].at.and_then(|(at, _)| self.leases.get(at)).map(|lease| lease.process);
        self.leave_lease(now, key);
        if let Some(process) = at {
            let there: Vec<usize> =
                self.by_process.range((process, 0)..=(process, usize::MAX)).map(|(_, at)| *at).collect();
            there.into_iter().for_each(|at| self.recall(now, at));
        }
        self.settle(now, key, task::Input::Recalled { attempt });
    }

    fn handle_died(&mut self, now: Time, process: ProcessId, culprits: Option<&[TaskId]>) {
        let last = match process.number() {
            0 => ProcessId::new(process.node(), ProcessId::NUMBERS - 1),
            _ => process,
        };
        let dead: Vec<usize> =
            self.by_process.range((process, 0)..=(last, usize::MAX)).map(|(_, lease)| *lease).collect();
        let mut shapes = BTreeSet::new();
        let mut lost = Vec::new();
        for at in dead {
            let lease = self.drop_lease(at);
            shapes.insert(lease.shape);
            let queue = &mut self.shapes[lease.shape];
            queue.in_flight -= lease.in_flight.len();
            queue.on_spent -= if lease.is_spent { lease.in_flight.len() } else { 0 };
            lost.extend(lease.in_flight);
        }
        // In the order in which they were submitted, whichever place they were in.
        lost.sort_unstable_by_key(|key| self.tasks[*key].id);
        for key in &lost {
            self.tasks[*key].at = None;
            self.tasks[*key].is_asked_back = false;
        }
        if self.planted.is(Mutant::ForgetLost) {
            return;
        }
        for key in lost {
            let entry = &mut self.tasks[key];
            let Some(attempt) = entry.machine.attempt() else { continue };
            let is_named = culprits.is_some_and(|culprits| culprits.contains(&entry.id));
            if let Some(alone) = self.shapes[entry.shape].alone.filter(|_| is_named) {
                // DISP-8: it is nowhere now, so it may change its queue.
                entry.shape = alone;
            }
            let culprit = culprits.is_none() || is_named;
            self.settle(now, key, task::Input::SystemFailed { attempt, culprit });
        }
        shapes.into_iter().for_each(|shape| self.pump(now, shape));
    }

    fn handle_tick(&mut self, now: Time) {
        while let Some(Reverse((at, key, id))) = self.alarms.peek().copied() {
            if at > now {
                break;
            }
            self.alarms.pop();
            if self.tasks.get(key).is_some_and(|entry| entry.id == id) {
                self.settle(now, key, task::Input::Tick);
            }
        }
        while let Some((at, shape)) = self.steals.first().copied().filter(|(at, _)| *at <= now) {
            self.steals.remove(&(at, shape));
            self.shapes[shape].steals_at = None;
            self.steal(shape);
            self.plan_to_steal(now, shape);
        }
        while let Some((at, shape)) = self.refused.first().copied().filter(|(at, _)| *at <= now) {
            self.refused.remove(&(at, shape));
            self.shapes[shape].asks_at = None;
            self.pump(now, shape);
        }
        while let Some((since, at)) = self.idle.first().copied().filter(|(since, _)| *since + IDLE_MAX <= now) {
            self.idle.remove(&(since, at));
            let lease = self.drop_lease(at);
            if !self.planted.is(Mutant::KeepIdle) {
                // DISP-6: a place that is left is given back.
                self.outputs.push_back(Output::ReturnLease { lease: lease.id });
            }
            self.plan_to_steal(now, lease.shape);
        }
        while let Some((since, shape)) = self.unwanted.first().copied().filter(|(since, _)| *since + IDLE_MAX <= now) {
            self.unwanted.remove(&(since, shape));
            let queue = &mut self.shapes[shape];
            queue.unwanted_since = None;
            for request in std::mem::take(&mut queue.asked) {
                self.requests.remove(&request);
                self.outputs.push_back(Output::TakeBack { request });
            }
        }
    }

    fn debug_check(&mut self) {
        if self.pace.is_due(self.tasks.len(), &self.planted) {
            check(self).expect("the dispatch keeps its invariants");
        }
    }
}

/// Alarms of tasks that have ended are cleared away when there are so many more than tasks.
const ALARMS_SPARE: usize = 1024;

impl StateMachine for Dispatch {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Granted { request, lease, process } => self.handle_granted(now, request, lease, process),
            Input::NoPlace { request, for_ever } => self.handle_no_place(now, request, for_ever),
            Input::Finished { key, attempt, end } => {
                if self.is_current(key, attempt) && end != End::Ok {
                    self.leave_lease(now, key);
                }
                self.settle(now, key, task::Input::Finished { attempt, end });
            }
            Input::TurnedAway { key, attempt } => {
                if self.is_current(key, attempt) {
                    self.leave_lease(now, key);
                }
                self.settle(now, key, task::Input::TurnedAway { attempt });
            }
            Input::Recalled { lease } => {
                // Rare: it is not worth a table of its own. One that is not here was given back meanwhile.
                let at = self.leases.iter().find(|(_, known)| known.id == lease).map(|(at, _)| at);
                at.into_iter().for_each(|at| self.recall(now, at));
            }
            Input::Withdrawn { key, attempt } => self.handle_withdrawn(now, key, attempt),
            Input::HandedBack { key, attempt } => self.handle_handed_back(now, key, attempt),
            Input::ProcessDied { process, culprits } => self.handle_died(now, process, culprits.as_deref()),
            Input::Cancel { key } => self.settle(now, key, task::Input::Cancel),
            Input::Force { key } => {
                if let Some((at, _)) = self.tasks.get(key).and_then(|entry| entry.at) {
                    self.recall(now, at);
                }
                self.settle(now, key, task::Input::Cancel);
            }
            Input::Tick => {}
        }
        self.handle_tick(now);
        self.debug_check();
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        let alarm = self.alarms.peek().map(|Reverse((at, ..))| *at);
        let idle = self.idle.first().map(|(since, _)| *since + IDLE_MAX);
        let unwanted = self.unwanted.first().map(|(since, _)| *since + IDLE_MAX);
        let steal = self.steals.first().map(|(at, _)| *at);
        let refused = self.refused.first().map(|(at, _)| *at);
        [alarm, steal, refused, idle, unwanted].into_iter().flatten().min()
    }
}

impl Dispatch {
    fn is_current(&self, key: Key, attempt: Attempt) -> bool {
        self.tasks.get(key).is_some_and(|entry| entry.machine.attempt() == Some(attempt))
    }
}
