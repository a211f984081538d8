//! The door in front of a queue of tasks, which is bounded in items and in bytes (G14), and what happens when it is full.
//!
//! ```text
//! submitted ── room ──────────────────────────────────────▶ in the queue ── it leaves, and its Room is dropped ──▶ out
//!     │ full, WhenFull::Refuse, or a thread that must not block ──▶ refused: NotStarted::QueueFull
//!     │ full, WhenFull::Wait ──▶ the submitting thread waits ── room ──▶ in the queue
//! ```
//!
//! Whoever comes while there is room takes two counters' worth of work and no lock. Those that wait stand in the line of a
//! [`Notify`]; whoever leaves looks whether somebody does. Who was woken and leaves room over wakes the next.

use std::fmt;
use std::pin::pin;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use mobula_actor::object::blocking;
use mobula_actor::{Count, System, arbiters, clock};
use mobula_types::{CallError, Deadline, NotStarted};
use tokio::sync::Notify;

use crate::host::Host;
use crate::linked::Linked;
use crate::task::Inherited;

/// G14 for one process: tasks that have no outcome, or wait. A task holds about a kilobyte while it waits, so they fit into
/// the next bound.
pub(crate) const TASKS_MAX: u64 = 1_000_000;

/// G14 for one process: what its tasks hold, so that a host's processes together leave most of its memory to values.
pub(crate) const BYTES_MAX: u64 = 1 << 30;

/// Tasks that may be in a queue, and what they may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueBounds {
    /// Where no cluster runs them, tasks that wait: for arguments, for resources, for a thread. On a cluster, tasks that one
    /// process has submitted and that have no outcome; and of one worker, those that were sent there and wait.
    pub tasks_max: u64,
    /// Bytes that those hold, as far as they are known: the tasks themselves and encoded arguments.
    pub bytes_max: u64,
}

impl Default for QueueBounds {
    /// What G14 gives a node: 1 M tasks, 1 GiB.
    fn default() -> Self {
        Self { tasks_max: TASKS_MAX, bytes_max: BYTES_MAX }
    }
}

/// As a process tells another.
impl fmt::Display for QueueBounds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{}", self.tasks_max, self.bytes_max)
    }
}

impl FromStr for QueueBounds {
    type Err = ();

    fn from_str(said: &str) -> Result<Self, ()> {
        let (tasks, bytes) = said.split_once(',').ok_or(())?;
        Ok(Self { tasks_max: tasks.parse().map_err(|_| ())?, bytes_max: bytes.parse().map_err(|_| ())? })
    }
}

/// What a submission does that finds the queue full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// Its thread waits for room, at most until the task's deadline: for backpressure without a word. Where a thread must not
    /// block, in actors, async functions and tasks of tokio, it is refused all the same, because a task that is held back
    /// somewhere else takes the memory that the bound is to save.
    #[default]
    Wait,
    /// It is refused at once: its reference fails with [`NotStarted::QueueFull`].
    Refuse,
}

/// Waits until the queue of the code that runs has room for a task: for code that must not block, before it submits one.
///
/// # Errors
///
/// There is no session.
pub async fn task_room() -> Result<(), CallError> {
    let (_, host) = Host::here().ok_or(CallError::NotStarted(NotStarted::NoSession))?;
    host.door().room().await;
    Ok(())
}

/// When a task is of no use any more, and how that was given.
type Due = (Deadline, Option<Duration>);

/// The door of one queue.
pub(crate) struct Admission {
    bounds: QueueBounds,
    came: CachePadded<Tally>,
    left: CachePadded<Tally>,
    /// Those that wait for room. It is read whenever a task leaves, and written only while the queue is full.
    waiters: CachePadded<AtomicUsize>,
    room_came: Notify,
}

#[derive(Default)]
struct Tally {
    tasks: AtomicU64,
    bytes: AtomicU64,
}

/// The room of one task; dropped, it is another's.
pub(crate) struct Room {
    door: Arc<Admission>,
    bytes: u64,
}

impl Admission {
    pub(crate) fn new(bounds: QueueBounds) -> Arc<Self> {
        let (came, left, waiters) = Default::default();
        Arc::new(Self { bounds, came, left, waiters, room_came: Notify::new() })
    }

    /// Takes room for one task and `bytes`, or says how many others have it.
    pub(crate) fn enter(self: &Arc<Self>, bytes: usize) -> Result<Room, NotStarted> {
        let (tasks, held) = self.held();
        let bytes = bytes as u64;
        if tasks >= self.bounds.tasks_max || held.saturating_add(bytes) > self.bounds.bytes_max {
            return Err(full(tasks));
        }
        self.came.tasks.fetch_add(1, Ordering::Relaxed);
        self.came.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(Room { door: self.clone(), bytes })
    }

    /// The same for a task that is submitted now by code of `system`, which waits if it wants to and may.
    pub(crate) fn submit(
        self: &Arc<Self>,
        system: &System,
        when_full: WhenFull,
        inherited: &Inherited,
        bytes: usize,
    ) -> Result<Room, CallError> {
        let refused = match self.enter(bytes) {
            Ok(room) => return Ok(room),
            Err(cause) => cause,
        };
        if when_full == WhenFull::Refuse || bytes as u64 > self.bounds.bytes_max || !arbiters::may_block() {
            system.counters().add(Count::Refused);
            return Err(CallError::NotStarted(refused));
        }
        let (door, call) = (self.clone(), Linked::to(inherited.parent.clone()));
        let Inherited { deadline, given, .. } = *inherited;
        wait_for(system, refused, async move {
            tokio::select! {
                room = door.until(|| door.enter(bytes).ok()) => Ok(room),
                () = call.cancelled() => Err(CallError::Cancelled),
                () = passed(deadline) => Err(CallError::DeadlineExceeded { given }),
            }
        })
    }

    /// Waits until a task that comes then is not refused, unless others are quicker.
    pub(crate) async fn room(&self) {
        self.until(|| self.has_room().then_some(())).await;
    }

    fn has_room(&self) -> bool {
        let (tasks, held) = self.held();
        tasks < self.bounds.tasks_max && held < self.bounds.bytes_max
    }

    /// Tasks and bytes that are in the queue.
    fn held(&self) -> (u64, u64) {
        // In this order: what left had come. Ordered before the look of `Room::drop` at those that wait, or after it.
        let left = (self.left.tasks.load(Ordering::SeqCst), self.left.bytes.load(Ordering::Relaxed));
        let came = (self.came.tasks.load(Ordering::Relaxed), self.came.bytes.load(Ordering::Relaxed));
        (came.0.saturating_sub(left.0), came.1.saturating_sub(left.1))
    }

    /// Waits until `take` takes something.
    async fn until<T>(&self, mut take: impl FnMut() -> Option<T>) -> T {
        self.waiters.fetch_add(1, Ordering::SeqCst);
        let _waiter = Waiter(&self.waiters);
        loop {
            let mut room_came = pin!(self.room_came.notified());
            // Registered before the look: what leaves after it is told here.
            room_came.as_mut().enable();
            if let Some(taken) = take() {
                if self.has_room() {
                    self.room_came.notify_one();
                }
                return taken;
            }
            room_came.await;
        }
    }
}

/// Counted among those that wait; also when it is dropped while it does.
struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Room {
    /// Takes room for what the task holds beside, when that is known at last.
    fn grow(&mut self, bytes: u64) -> Result<(), NotStarted> {
        let (tasks, held) = self.door.held();
        if held.saturating_add(bytes) > self.door.bounds.bytes_max {
            return Err(full(tasks));
        }
        self.bytes += bytes;
        self.door.came.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// The same for a task that is submitted by the thread that runs, see [`Admission::submit`].
    pub(crate) fn fit(
        mut self,
        system: &System,
        when_full: WhenFull,
        due: Due,
        bytes: usize,
    ) -> Result<Self, CallError> {
        let Err(refused) = self.grow(bytes as u64) else { return Ok(self) };
        if !self.may_wait(when_full, bytes) || !arbiters::may_block() {
            system.counters().add(Count::Refused);
            return Err(CallError::NotStarted(refused));
        }
        wait_for(system, refused, self.grown(due, bytes))
    }

    /// The same where no thread is held up by it: the arguments have come after the submission.
    pub(crate) async fn fit_later(
        mut self,
        system: &System,
        when_full: WhenFull,
        due: Due,
        bytes: usize,
    ) -> Result<Self, CallError> {
        let Err(refused) = self.grow(bytes as u64) else { return Ok(self) };
        if !self.may_wait(when_full, bytes) {
            system.counters().add(Count::Refused);
            return Err(CallError::NotStarted(refused));
        }
        system.counters().add(Count::Waited);
        self.grown(due, bytes).await
    }

    /// Whether it waits, and not for what can never be.
    fn may_wait(&self, when_full: WhenFull, bytes: usize) -> bool {
        when_full == WhenFull::Wait && self.bytes.saturating_add(bytes as u64) <= self.door.bounds.bytes_max
    }

    async fn grown(mut self, (deadline, given): Due, bytes: usize) -> Result<Self, CallError> {
        let door = self.door.clone();
        tokio::select! {
            () = door.until(|| self.grow(bytes as u64).ok()) => {}
            () = passed(deadline) => return Err(CallError::DeadlineExceeded { given }),
        }
        Ok(self)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let Admission { left, waiters, room_came, .. } = &*self.door;
        left.bytes.fetch_add(self.bytes, Ordering::Relaxed);
        left.tasks.fetch_add(1, Ordering::SeqCst);
        if waiters.load(Ordering::SeqCst) > 0 {
            room_came.notify_one();
        }
    }
}

/// Waits on this thread, which may block, for what comes on another.
fn wait_for<T: Send + 'static>(
    system: &System,
    refused: NotStarted,
    room: impl Future<Output = Result<T, CallError>> + Send + 'static,
) -> Result<T, CallError> {
    system.counters().add(Count::Waited);
    let waiting = arbiters::runtime().spawn(room);
    let given_up = waiting.abort_handle();
    match blocking::wait(waiting) {
        Ok(Ok(result)) => result,
        // Functions wait on top of one another already, or the runtime is gone.
        Ok(Err(_)) | Err(_) => {
            given_up.abort();
            system.counters().add(Count::Refused);
            Err(CallError::NotStarted(refused))
        }
    }
}

async fn passed(deadline: Deadline) {
    match deadline.left(clock::now()) {
        Some(left) => tokio::time::sleep(left).await,
        None => std::future::pending().await,
    }
}

fn full(tasks: u64) -> NotStarted {
    NotStarted::QueueFull { waiting: usize::try_from(tasks).unwrap_or(usize::MAX) }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn door(tasks_max: u64, bytes_max: u64) -> Arc<Admission> {
        Admission::new(QueueBounds { tasks_max, bytes_max })
    }

    #[test]
    fn it_is_bounded_in_tasks_and_in_bytes() {
        let door = door(2, 100);
        let one = door.enter(60).unwrap();
        assert_eq!(door.enter(41).err(), Some(NotStarted::QueueFull { waiting: 1 }));
        let mut two = door.enter(10).unwrap();
        assert_eq!(door.enter(0).err(), Some(NotStarted::QueueFull { waiting: 2 }));
        assert_eq!(two.grow(31), Err(NotStarted::QueueFull { waiting: 2 }));
        assert_eq!(two.grow(30), Ok(()));
        drop(one);
        assert_eq!(door.held(), (1, 40));
        drop(two);
        assert_eq!(door.held(), (0, 0));
    }

    #[test]
    fn bounds_are_read_as_they_are_told() {
        let bounds = QueueBounds { tasks_max: 7, bytes_max: 1 << 40 };
        assert_eq!(bounds.to_string().parse(), Ok(bounds));
        assert_eq!(["", "7", "7,", "x,1"].map(|said| said.parse::<QueueBounds>().is_err()), [true; 4]);
    }

    #[test]
    fn whoever_leaves_wakes_one_that_waits_and_that_one_the_next() {
        let door = door(1, 100);
        let first = door.enter(1).unwrap();
        let (mut looks, mut next) = (Box::pin(door.room()), Box::pin(door.until(|| door.enter(1).ok())));
        assert!((&mut looks).now_or_never().is_none() && (&mut next).now_or_never().is_none());
        drop(first);
        assert!((&mut next).now_or_never().is_none(), "the first in the line was woken");
        assert!((&mut looks).now_or_never().is_some(), "and takes nothing");
        let second = (&mut next).now_or_never().expect("it is told that there is room over");
        drop((looks, next));
        assert_eq!((door.held(), door.waiters.load(Ordering::SeqCst)), ((1, 1), 0));
        drop(second);
    }

    #[test]
    fn what_gives_up_waiting_passes_its_turn_on() {
        let door = door(1, 100);
        let first = door.enter(1).unwrap();
        let (mut gives_up, mut next) = (Box::pin(door.room()), Box::pin(door.room()));
        assert!((&mut gives_up).now_or_never().is_none() && (&mut next).now_or_never().is_none());
        drop(first);
        drop(gives_up);
        assert!((&mut next).now_or_never().is_some());
    }
}
