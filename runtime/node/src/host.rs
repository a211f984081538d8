//! What a session keeps with its systems: the pool, the door in front of its queue, and the system that runs things.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use crossbeam::utils::CachePadded;
use mobula_actor::{System, current};
use mobula_types::NotStarted;

use crate::compute::Pool;
use crate::logic::{Amount, Request};
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
    /// Where tasks run when they go through the codec.
    away: OnceLock<Weak<System>>,
    came: CachePadded<Tally>,
    left: CachePadded<Tally>,
}

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
        Arc::new(Self {
            pool,
            bounds,
            away: OnceLock::new(),
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

    /// The system that runs tasks, when they go there through the codec.
    pub(crate) fn away(&self) -> Option<Arc<System>> {
        self.away.get().and_then(Weak::upgrade)
    }

    pub(crate) fn run_tasks_in(&self, worker: &Arc<System>) {
        self.away.set(Arc::downgrade(worker)).ok();
    }

    /// What a task takes while it runs.
    pub(crate) fn plan(&self, options: &TaskOptions, is_sync: bool) -> Result<Request, NotStarted> {
        let plain = options.num_cpus.is_none() && options.num_gpus == 0.0 && options.resources.is_empty();
        if plain {
            return Ok(if is_sync { Request::ONE_CPU } else { Request::default() });
        }
        let amount = |name: &str, value: f64| {
            let missing = || format!("{name} = {value} is no amount: use a number from 0 on");
            Amount::new(value).ok_or_else(|| NotStarted::Unschedulable { missing: missing() })
        };
        let num_cpus = options.num_cpus.unwrap_or(if is_sync { 1.0 } else { 0.0 });
        let mut request = Request {
            cpus: amount("num_cpus", num_cpus)?,
            gpus: amount("num_gpus", options.num_gpus)?,
            others: Vec::new(),
        };
        for (name, value) in &options.resources {
            request.add(name, amount(name, *value)?);
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
