//! What a session keeps with its systems: the pool, the door in front of its queue, and the system that runs things.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use crossbeam::utils::CachePadded;
use mobula_actor::{System, current};
use mobula_types::NotStarted;
use parking_lot::Mutex;

use crate::attached::Process;
use crate::compute::Pool;
use crate::encoded::{TaskFrame, TaskReply};
use crate::logic::Request;
use crate::options::TaskOptions;

/// Tasks that may wait, and what they may hold.
#[derive(Clone, Copy, Debug)]
pub struct QueueBounds {
    /// Tasks of one session that wait: for arguments, for resources, for a thread.
    pub tasks_max: u64,
    /// Bytes that those hold, as far as they are known: the tasks themselves and encoded arguments.
    pub bytes_max: u64,
}

impl Default for QueueBounds {
    /// What G14 gives a node: 1 M tasks, 1 GiB.
    fn default() -> Self {
        Self { tasks_max: 1_000_000, bytes_max: 1 << 30 }
    }
}

pub(crate) struct Host {
    pool: Arc<Pool>,
    bounds: QueueBounds,
    /// Where tasks go when they go through the codec.
    away: OnceLock<(Goes, Road)>,
    /// The process as its node knows it, where it is attached to one.
    pub(crate) seat: OnceLock<Arc<Process>>,
    /// The job's values, where no head keeps them.
    pub(crate) values: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Whether what comes has its place by a lease, so that only the node knows what can never be.
    by_lease: bool,
    came: CachePadded<Tally>,
    left: CachePadded<Tally>,
}

/// Whether a task with these options takes the road.
type Goes = fn(&TaskOptions) -> bool;

/// Takes encoded tasks to where they run.
pub(crate) type Road = Box<dyn Fn(TaskFrame, TaskReply) + Send + Sync>;

#[derive(Default)]
struct Tally {
    tasks: AtomicU64,
    bytes: AtomicU64,
}

impl Tally {
    fn add(&self, bytes: u64) {
        self.tasks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Host {
    pub(crate) fn new(pool: Arc<Pool>, bounds: QueueBounds) -> Arc<Self> {
        Self::with(pool, bounds, false)
    }

    /// The host of a worker: what it runs has its place by the leases on it.
    pub(crate) fn of_worker(pool: Arc<Pool>, bounds: QueueBounds) -> Arc<Self> {
        Self::with(pool, bounds, true)
    }

    fn with(pool: Arc<Pool>, bounds: QueueBounds, by_lease: bool) -> Arc<Self> {
        Arc::new(Self {
            pool,
            bounds,
            by_lease,
            away: OnceLock::new(),
            seat: OnceLock::new(),
            values: Mutex::default(),
            came: CachePadded::default(),
            left: CachePadded::default(),
        })
    }

    /// The system of the code that runs now, and its host.
    pub(crate) fn here() -> Option<(Arc<System>, Arc<Self>)> {
        let system = current::system()?;
        let host = Self::of(&system)?;
        Some((system, host))
    }

    /// The host of `system`, while its session lasts.
    pub(crate) fn of(system: &System) -> Option<Arc<Self>> {
        system.extension()?.downcast().ok().filter(|_| !system.is_ending())
    }

    pub(crate) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Whether a task with these options goes through the codec.
    pub(crate) fn goes_away(&self, options: &TaskOptions) -> bool {
        self.away.get().is_some_and(|(go, _)| go(options))
    }

    /// Sends tasks that way from now on.
    pub(crate) fn run_tasks_at(&self, road: Road) {
        self.run_some_at(|_| true, road);
    }

    /// Sends those tasks that way from now on whose options `go`.
    pub(crate) fn run_some_at(&self, go: Goes, road: Road) {
        self.away.set((go, road)).ok();
    }

    /// Sends a task on its way.
    pub(crate) fn send(&self, frame: TaskFrame, reply: TaskReply) {
        match self.away.get() {
            Some((_, road)) => road(frame, reply),
            None => reply.refuse(NotStarted::NoSession),
        }
    }

    /// What a task takes while it runs.
    pub(crate) fn plan(&self, options: &TaskOptions, is_sync: bool) -> Result<Request, NotStarted> {
        let request = options.request(is_sync)?;
        if request == Request::ONE_CPU || request.is_nothing() || self.by_lease {
            return Ok(request);
        }
        match self.pool.never(&request) {
            Some(missing) => Err(NotStarted::Unschedulable { missing }),
            None => Ok(request),
        }
    }

    /// Takes `bytes` of room for one task until the guard is dropped.
    pub(crate) fn admit(self: &Arc<Self>, bytes: usize) -> Result<Room, NotStarted> {
        let waiting = self.came.tasks.load(Ordering::Relaxed).saturating_sub(self.left.tasks.load(Ordering::Relaxed));
        let held = self.came.bytes.load(Ordering::Relaxed).saturating_sub(self.left.bytes.load(Ordering::Relaxed));
        let bytes = bytes as u64;
        if waiting >= self.bounds.tasks_max || held.saturating_add(bytes) > self.bounds.bytes_max {
            return Err(NotStarted::QueueFull { waiting: usize::try_from(waiting).unwrap_or(usize::MAX) });
        }
        self.came.add(bytes);
        Ok(Room { host: self.clone(), bytes })
    }
}

/// The room of one task that waits.
pub(crate) struct Room {
    host: Arc<Host>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.host.left.add(self.bytes);
    }
}
