//! What a session keeps with its systems: the pool, the doors in front of its queues, and the system that runs things.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use mobula_actor::{Arg, System, current};
use mobula_types::{NotStarted, Unknown, Within};
use parking_lot::Mutex;

use crate::admission::{Admission, QueueBounds, Room};
use crate::attached::Process;
use crate::bundles::Bundles;
use crate::compute::{Job, Permit, Pool};
use crate::encoded::{TaskFrame, TaskReply};
use crate::logic::Request;
use crate::options::TaskOptions;
use crate::task;

/// What a task takes while it runs, and of what.
pub(crate) struct Plan {
    request: Request,
    /// Which of those that wait come first.
    priority: i32,
    /// Of a placement group of this session; on a cluster its lease says of what.
    within: Option<Within>,
}

pub(crate) struct Host {
    pool: Arc<Pool>,
    /// The door of what waits here.
    queue: Arc<Admission>,
    /// The door of what was submitted here and has no outcome, where the process is attached. Not the same: what a process has
    /// submitted must not keep out what is sent to it, which may be the very same tasks.
    submitted: Arc<Admission>,
    /// Where tasks go when they go through the codec.
    away: OnceLock<(Goes, Road)>,
    /// The process as its node knows it, where it is attached to one.
    pub(crate) seat: OnceLock<Arc<Process>>,
    /// Placement groups, where no head keeps them.
    pub(crate) bundles: OnceLock<Arc<Bundles>>,
    /// The job's values, where no head keeps them.
    pub(crate) values: Mutex<BTreeMap<String, Vec<u8>>>,
    /// Whether what comes has its place by a lease, so that only the node knows what can never be.
    by_lease: bool,
}

/// Whether a task with these options takes the road.
type Goes = fn(&TaskOptions) -> bool;

/// Takes encoded tasks to where they run.
pub(crate) type Road = Box<dyn Fn(TaskFrame, TaskReply) + Send + Sync>;

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
            queue: Admission::new(bounds),
            submitted: Admission::new(bounds),
            by_lease,
            away: OnceLock::new(),
            seat: OnceLock::new(),
            bundles: OnceLock::new(),
            values: Mutex::default(),
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
    pub(crate) fn plan(&self, options: &TaskOptions, is_sync: bool) -> Result<Plan, NotStarted> {
        let plan = Plan { request: options.request(is_sync)?, priority: options.priority, within: options.within };
        let is_plain = plan.request == Request::ONE_CPU || plan.request.is_nothing();
        if is_plain || self.by_lease || plan.within.is_some() {
            return Ok(plan);
        }
        match self.pool.never(&plan.request) {
            Some(missing) => Err(NotStarted::Unschedulable { missing }),
            None => Ok(plan),
        }
    }

    /// Waits for the arguments of what is to run here: they may be made by what needs the CPUs that were lent for it.
    pub(crate) async fn resolved<T: Send + 'static>(&self, plan: &Plan, args: Arg<T>) -> Result<T, NotStarted> {
        let is_here = matches!(args, Arg::Value(_));
        let _awaited = if is_here { None } else { self.pool.awaits_arguments(&plan.request) };
        task::resolved(args).await
    }

    /// Runs `job` as soon as there is what it takes.
    pub(crate) fn push(&self, job: Arc<dyn Job>, Plan { request, priority, within }: Plan) {
        match within.zip(self.bundles.get()) {
            None => self.pool.push(job, request, priority),
            Some((within, bundles)) => bundles.push(job, request, within),
        }
    }

    /// What async work takes, as soon as it is there. `end` is called when it is taken away with its bundle.
    pub(crate) async fn permit(
        &self,
        Plan { request, priority, within }: Plan,
        is_sent: bool,
        end: impl Fn(Unknown) + Send + Sync + 'static,
    ) -> Result<Permit, NotStarted> {
        match within.zip(self.bundles.get()) {
            None => self.pool.permit(request, priority, is_sent).await,
            Some((within, bundles)) => bundles.permit(request, within, Box::new(end)).await,
        }
    }

    /// Takes `bytes` of room for one task that comes from elsewhere, until the guard is dropped.
    pub(crate) fn admit(&self, bytes: usize) -> Result<Room, NotStarted> {
        self.queue.enter(bytes)
    }

    /// Where tasks take their room that are submitted here.
    pub(crate) fn door(&self) -> &Arc<Admission> {
        if self.seat.get().is_some() { &self.submitted } else { &self.queue }
    }
}
