//! Placement groups of a session without a cluster: its process is head and node in one, and runs the machines of both.
//!
//! ```text
//! a group:  Groups ─ prepare ─► the pool's line ─ amounts of all its bundles ─► Scheduler ─ prepared ─► Groups ─► ready
//! in it:    Scheduler ─ granted ─► runs with a [`Share`] ─ ended ─► Scheduler
//! ```
//!
//! What a group has is taken of the session's [`Pool`] in one piece, in its turn among the tasks that are in no group, and
//! given back when the group is no more and the last of what ran in it has ended: a function that is not async cannot be
//! ended, it runs on. Inside a bundle the node's scheduler decides as on a cluster, one lease for each task or actor; a
//! number stands for the worker process that a bundle would have there.
//!
//! Nothing is said or begun under the lock: it is put down as [`Todo`] and done after.

use std::collections::BTreeMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::BoxFuture;
use mobula_actor::{Control, Place, Places, System, arbiters, clock};
use mobula_logic::groups::{self, Groups, Slot};
use mobula_logic::scheduler::{self, RequestKey, Scheduler, Wanted};
use mobula_types::resources::{Amount, Request, Resources};
use mobula_types::{
    ActorId, Death, DeathCause, Epoch, ExitReason, GroupId, JobId, LeaseId, NodeId, NotStarted, PlacementSpec,
    ProcessId, StateMachine, Time, Unknown, Within,
};
use mobula_wire::groups::GroupOrder;
use parking_lot::Mutex;

use crate::compute::{Job, Permit, Pool, in_share};
use crate::groups::{GroupError, Registrar, Waiters, Wish, Word};

/// While a group waits it is looked at again so often, as on a cluster with every beat.
const BEAT: Duration = Duration::from_millis(200);

/// The session is one job; nobody sees its number.
const JOB: JobId = JobId(1);

/// The placement groups of one session.
pub(crate) struct Bundles {
    /// The process in which functions and actors run.
    process: ProcessId,
    pool: Arc<Pool>,
    waiters: Waiters,
    state: Mutex<State>,
}

struct State {
    groups: Groups,
    scheduler: Scheduler,
    /// What is free by the scheduler has changed since the groups saw it.
    has_changed: bool,
    /// What stands in the pool's line for a group.
    reserving: BTreeMap<GroupId, Arc<Reserving>>,
    /// What was taken of the pool for a group.
    reserved: BTreeMap<GroupId, Arc<Permit>>,
    /// Who wants a place, and what is taken there, by the number of the request.
    wanting: BTreeMap<u64, (Arc<dyn Job>, GroupId, Amount)>,
    requests: u64,
    /// Bundles in which anything ever was.
    bundles: u32,
    /// What is in each bundle, by the process that stands for it.
    inside: BTreeMap<ProcessId, Inside>,
    todo: Vec<Todo>,
    /// A task looks after what time decides.
    is_timed: bool,
    is_over: bool,
}

#[derive(Default)]
struct Inside {
    jobs: BTreeMap<LeaseId, Arc<dyn Job>>,
    /// CPUs of those that wait for something.
    waiting: Amount,
}

/// What is done when the lock is free again.
enum Todo {
    /// Takes its turn in the pool's line.
    Reserve(Arc<Reserving>, Request),
    /// Gives back what was taken of the pool.
    GiveBack(Arc<Permit>),
    Begin(Arc<dyn Job>, Share),
    Refuse(Arc<dyn Job>, NotStarted),
    End(Arc<dyn Job>, Death),
    Say(GroupId, Word),
    /// Dropping it may run a program's code.
    Drop(Arc<dyn Job>),
}

impl Bundles {
    pub(crate) fn new(process: ProcessId, pool: Arc<Pool>, resources: &Resources) -> Arc<Self> {
        let (now, node) = (clock::now(), process.node());
        let scheduler = Scheduler::new(node, resources, BTreeMap::new());
        let mut groups = Groups::new(now, Epoch(1));
        groups.handle(now, groups::Input::Seen { node, load: scheduler.load() });
        let state = State {
            groups,
            scheduler,
            has_changed: false,
            reserving: BTreeMap::new(),
            reserved: BTreeMap::new(),
            wanting: BTreeMap::new(),
            requests: 0,
            bundles: 0,
            inside: BTreeMap::new(),
            todo: Vec::new(),
            is_timed: false,
            is_over: false,
        };
        Arc::new(Self { process, pool, waiters: Waiters::default(), state: Mutex::new(state) })
    }

    /// Gives the actors of `system` their places from now on.
    pub(crate) fn serve(self: &Arc<Self>, system: &Arc<System>) {
        system.set_places(Arc::new(ActorPlaces { bundles: self.clone(), system: Arc::downgrade(system) }));
    }

    /// Runs `job` as soon as there is room in the bundle that is asked for.
    pub(crate) fn push(self: &Arc<Self>, job: Arc<dyn Job>, request: Request, within: Within) {
        self.change(|state, now| {
            if state.is_over {
                return state.todo.push(Todo::Refuse(job, NotStarted::NoSession));
            }
            state.requests += 1;
            state.wanting.insert(state.requests, (job, within.group, request.cpus));
            let request_key = RequestKey { holder: self.process, number: state.requests };
            let spec = PlacementSpec { request, within: Some(within), ..PlacementSpec::default() };
            let wanted =
                Wanted { request: request_key, job: JOB, spec, avoid: Vec::new(), lives_on: false, waits: false };
            state.scheduler.handle(now, scheduler::Input::Asked(wanted));
        });
    }

    /// The session ends: nothing more begins.
    pub(crate) fn close(self: &Arc<Self>) {
        self.waiters.cut();
        self.change(|state, _| {
            state.is_over = true;
            let wanting = mem::take(&mut state.wanting).into_values();
            state.todo.extend(wanting.map(|(job, ..)| Todo::Refuse(job, NotStarted::NoSession)));
            state.reserving.values().for_each(|reserving| reserving.is_over.store(true, Ordering::Release));
        });
    }

    /// Changes the state, lets the machines settle, and does what they say.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State, Time)) {
        let (todo, times) = {
            let mut state = self.state.lock();
            let now = clock::now();
            change(&mut state, now);
            self.settle(&mut state, now);
            let times = state.awaits_time() && !mem::replace(&mut state.is_timed, true);
            (mem::take(&mut state.todo), times)
        };
        if times {
            arbiters::runtime().spawn(beat(Arc::downgrade(self)));
        }
        todo.into_iter().for_each(|todo| self.perform(todo));
    }

    fn settle(self: &Arc<Self>, state: &mut State, now: Time) {
        loop {
            if let Some(output) = state.scheduler.poll_output() {
                self.hear_scheduler(state, now, output);
            } else if let Some(output) = state.groups.poll_output() {
                self.hear_groups(state, now, output);
            } else if mem::take(&mut state.has_changed) {
                let load = state.scheduler.load();
                state.groups.handle(now, groups::Input::Seen { node: self.process.node(), load });
            } else {
                return;
            }
        }
    }

    fn hear_groups(self: &Arc<Self>, state: &mut State, now: Time, output: groups::Output) {
        let (_, order) = output.into_order();
        match &order {
            GroupOrder::Prepare { group, spec, bundles, .. } => {
                let mut sum = Request::default();
                for bundle in bundles.iter().filter_map(|at| spec.bundles.get(*at as usize)) {
                    bundle.request.amounts().for_each(|(name, amount)| sum.add(name, amount));
                }
                let reserving = Arc::new(Reserving {
                    bundles: Arc::downgrade(self),
                    group: *group,
                    order: Mutex::new(Some(order.clone())),
                    is_over: AtomicBool::new(state.is_over),
                });
                state.reserving.insert(*group, reserving.clone());
                return state.todo.push(Todo::Reserve(reserving, sum));
            }
            GroupOrder::Abort { group, .. } => state.give_up(*group),
            GroupOrder::Ready { group, nodes } => return state.todo.push(Todo::Say(*group, Ok(nodes.clone()))),
            GroupOrder::Ended { group, why } => {
                state.give_up(*group);
                state.todo.push(Todo::Say(*group, Err(why.clone())));
            }
            _ => {}
        }
        state.has_changed = true;
        state.scheduler.handle(now, scheduler::Input::Bundles(order));
    }

    fn hear_scheduler(self: &Arc<Self>, state: &mut State, now: Time, output: scheduler::Output) {
        use scheduler::Output;
        let node = self.process.node();
        match output {
            // The process of a bundle is this one: it begins at once.
            Output::StartWorker { start, .. } => {
                let process = state.next_process(node);
                state.inside.insert(process, Inside::default());
                state.scheduler.handle(now, scheduler::Input::WorkerStarted { start, process });
            }
            Output::EndInGroup { process, group, is_over } => {
                let cause = match is_over {
                    true => DeathCause::GroupEnded { group },
                    false => DeathCause::BundleMoved { group },
                };
                let jobs = state.inside.remove(&process).unwrap_or_default().jobs;
                let death = Death::of(self.process, cause);
                state.todo.extend(jobs.into_values().map(|job| Todo::End(job, death.clone())));
                state.scheduler.handle(now, scheduler::Input::Died { process });
            }
            Output::EndWorker { process } => {
                state.inside.remove(&process);
                state.scheduler.handle(now, scheduler::Input::Died { process });
            }
            Output::Prepared { group, round } => {
                state.groups.handle(now, groups::Input::Prepared { node, group, round });
            }
            Output::NotPrepared { group, round } => {
                state.give_up(group);
                let load = state.scheduler.load();
                state.groups.handle(now, groups::Input::Refused { node, group, round, load });
            }
            Output::Grant { request, lease, process } => self.grant(state, now, request.number, lease, process),
            Output::Refuse { request, why } => {
                if let Some((job, ..)) = state.wanting.remove(&request.number) {
                    let missing = why.to_string();
                    state.todo.push(Todo::Refuse(job, NotStarted::Unschedulable { missing }));
                }
            }
            // Each lease is of one task or actor, which takes no more than that; and there is no other node.
            Output::Capacity { .. }
            | Output::Recall { .. }
            | Output::AskPeer { .. }
            | Output::TakeBackFromPeer { .. }
            | Output::ReturnToPeer { .. } => {}
        }
    }

    fn grant(self: &Arc<Self>, state: &mut State, now: Time, request: u64, lease: LeaseId, process: ProcessId) {
        let wanting = state.wanting.remove(&request);
        let wanting = wanting.and_then(|(job, group, cpus)| Some((job, state.reserved.get(&group)?.clone(), cpus)));
        let Some((job, reserved, cpus)) = wanting else {
            return state.scheduler.handle(now, scheduler::Input::Returned { lease });
        };
        state.inside.entry(process).or_default().jobs.insert(lease, job.clone());
        let share = Share { bundles: self.clone(), lease, process, cpus, _reserved: reserved };
        state.todo.push(Todo::Begin(job, share));
    }

    fn perform(self: &Arc<Self>, todo: Todo) {
        match todo {
            Todo::Reserve(reserving, request) => self.pool.push(reserving, request, 0),
            Todo::GiveBack(permit) => drop(permit),
            Todo::Begin(job, share) if job.is_elsewhere() || job.is_over() => job.run(Permit::share(Arc::new(share))),
            Todo::Begin(job, share) => {
                let sharing = Sharing { job, share: Mutex::new(Some(Arc::new(share))) };
                // What it takes is taken already.
                self.pool.push(Arc::new(sharing), Request::default(), 0);
            }
            Todo::Refuse(job, cause) => job.refuse(cause),
            Todo::End(job, death) => job.abandon(Unknown::ProcessDied { death: Box::new(death) }),
            Todo::Drop(job) => drop(job),
            Todo::Say(group, word) => self.waiters.heard(group, &word),
        }
    }
}

impl State {
    /// There are more numbers than bundles, and one that has ended is long forgotten when its number comes again.
    fn next_process(&mut self, node: NodeId) -> ProcessId {
        loop {
            self.bundles = self.bundles % (ProcessId::NUMBERS - 1) + 1;
            let process = ProcessId::new(node, self.bundles);
            if !self.inside.contains_key(&process) {
                return process;
            }
        }
    }

    /// Whether anything happens when nothing but time passes.
    fn awaits_time(&self) -> bool {
        let is_whole = |slots: &[Slot]| slots.iter().all(|slot| matches!(slot, Slot::Reserved(_)));
        !self.is_over && !self.groups.all().all(|(_, _, slots)| is_whole(slots))
    }

    /// Of a group nothing is wanted of the pool any more.
    fn give_up(&mut self, group: GroupId) {
        if let Some(reserving) = self.reserving.remove(&group) {
            reserving.is_over.store(true, Ordering::Release);
        }
        self.todo.extend(self.reserved.remove(&group).map(Todo::GiveBack));
    }
}

/// Has the machines see that time passes, while they wait for that.
async fn beat(bundles: Weak<Bundles>) {
    loop {
        tokio::time::sleep(BEAT).await;
        let Some(bundles) = bundles.upgrade() else { return };
        let is_over = {
            let mut state = bundles.state.lock();
            state.is_timed = state.awaits_time();
            !state.is_timed
        };
        if is_over {
            return;
        }
        bundles.change(|state, now| {
            state.scheduler.handle(now, scheduler::Input::Tick);
            state.groups.handle(now, groups::Input::Tick);
        });
    }
}

impl Registrar for Bundles {
    const GONE: GroupError = GroupError::NoSession;

    fn process(&self) -> ProcessId {
        self.process
    }

    fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    fn say(self: &Arc<Self>, wish: Wish) {
        self.change(|state, now| {
            let input = match wish {
                Wish::Create { group, spec } => groups::Input::Create { group, job: JOB, spec },
                Wish::Remove { group } => groups::Input::Remove { group },
            };
            state.groups.handle(now, input);
        });
    }
}

/// Gives actors their places.
struct ActorPlaces {
    bundles: Arc<Bundles>,
    system: Weak<System>,
}

impl Places for ActorPlaces {
    fn place(&self, actor: ActorId, within: Within, request: Request) -> BoxFuture<'static, Result<Place, String>> {
        let (bundles, system) = (self.bundles.clone(), self.system.clone());
        let end = move |why: Unknown| {
            if let (Some(system), Unknown::ProcessDied { death }) = (system.upgrade(), why) {
                system.control(actor, Control::End { reason: ExitReason::ProcessDied(death) });
            }
        };
        Box::pin(async move {
            let permit = bundles.permit(request, within, Box::new(end)).await;
            permit.map(|permit| Box::new(permit) as Place).map_err(|cause| match cause {
                NotStarted::Unschedulable { missing } => missing,
                other => other.to_string(),
            })
        })
    }
}

/// What a group has, in the pool's line.
struct Reserving {
    bundles: Weak<Bundles>,
    group: GroupId,
    /// What the scheduler is told when it is taken.
    order: Mutex<Option<GroupOrder>>,
    is_over: AtomicBool,
}

impl Job for Reserving {
    fn run(self: Arc<Self>, permit: Permit) {
        let (Some(bundles), Some(order)) = (self.bundles.upgrade(), self.order.lock().take()) else { return };
        bundles.change(|state, now| {
            if state.reserving.get(&self.group).is_none_or(|wanted| !Arc::ptr_eq(wanted, &self)) {
                return state.todo.push(Todo::GiveBack(Arc::new(permit)));
            }
            state.reserving.remove(&self.group);
            state.reserved.insert(self.group, Arc::new(permit));
            state.has_changed = true;
            state.scheduler.handle(now, scheduler::Input::Bundles(order));
        });
    }

    fn is_elsewhere(&self) -> bool {
        true
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Acquire)
    }

    fn is_sent(&self) -> bool {
        false
    }

    fn refuse(self: Arc<Self>, _: NotStarted) {}

    fn abandon(&self, _: Unknown) {}

    fn name(&self) -> &str {
        "placement group"
    }
}

/// What one task or actor has of a bundle; dropped, it is free for the next.
pub(crate) struct Share {
    bundles: Arc<Bundles>,
    lease: LeaseId,
    process: ProcessId,
    cpus: Amount,
    /// As long as anything runs in it, nobody else has what the group took.
    _reserved: Arc<Permit>,
}

impl Share {
    /// Lets others in the bundle have the CPUs until the guard is dropped: its holder waits.
    pub(crate) fn lend(self: &Arc<Self>) -> Option<Lent> {
        (self.cpus > Amount::ZERO).then(|| {
            self.wait(|waiting| waiting.plus(self.cpus));
            Lent(self.clone())
        })
    }

    fn wait(&self, change: impl FnOnce(Amount) -> Amount) {
        self.bundles.change(|state, now| {
            // A bundle that is no more lends nothing.
            let Some(inside) = state.inside.get_mut(&self.process) else { return };
            inside.waiting = change(inside.waiting);
            let (process, cpus) = (self.process, inside.waiting);
            state.scheduler.handle(now, scheduler::Input::Waiting { process, cpus });
        });
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.bundles.change(|state, now| {
            let inside = state.inside.get_mut(&self.process);
            let job = inside.and_then(|inside| inside.jobs.remove(&self.lease));
            state.todo.extend(job.map(Todo::Drop));
            state.scheduler.handle(now, scheduler::Input::Returned { lease: self.lease });
        });
    }
}

/// CPUs of a share whose holder waits.
pub(crate) struct Lent(Arc<Share>);

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.wait(|waiting| waiting.minus(self.0.cpus));
    }
}

/// A job that has its share, and needs a thread.
struct Sharing {
    job: Arc<dyn Job>,
    share: Mutex<Option<Arc<Share>>>,
}

impl Job for Sharing {
    fn run(self: Arc<Self>, _: Permit) {
        let Some(share) = self.share.lock().take() else { return };
        let job = self.job.clone();
        in_share(share.clone(), || job.run(Permit::share(share)));
    }

    fn is_elsewhere(&self) -> bool {
        false
    }

    fn is_over(&self) -> bool {
        self.job.is_over()
    }

    fn is_sent(&self) -> bool {
        self.job.is_sent()
    }

    fn refuse(self: Arc<Self>, cause: NotStarted) {
        self.job.clone().refuse(cause);
    }

    fn abandon(&self, why: Unknown) {
        self.job.abandon(why);
    }

    fn name(&self) -> &str {
        self.job.name()
    }
}
