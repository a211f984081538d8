//! What someone sees of a cluster who knows what was asked of it and what really happened, and trusts no machine.
//!
//! | number | from outside |
//! |---|---|
//! | SCHED-1 | no node has more in use than it has, less what waits |
//! | SCHED-2 | a place is given only in a process that its node has not seen end |
//! | SCHED-3, HOME-3, DISP-6 | in the end every lease is back: of the dead, of actors, of tasks |
//! | SCHED-4 | every request is answered once or taken back |
//! | SCHED-6 | no device is given more than once over |
//! | TASK-1 | every task of a driver that lives ends in one outcome |
//! | TASK-3 | the result that is taken is one that a run really had |
//! | TASK-4 | a task that may run at most once begins at most once |
//! | DISP-4 | a place has so many tasks at once, and no more |
//! | HOME-1 | no life of an actor is started twice |
//! | HOME-5 | an actor that was told to leave has left before its next life is started |
//! | HOME-2 | an actor ends by what its present life says |
//! | SES-1, SES-2 | what a node sends to another that lives arrives, once and in order |
//! | FIFO | an actor hears what one sender tells it once and in the order in which it was told |

use std::collections::{BTreeMap, BTreeSet};

use mobula_logic::Violation;
use mobula_logic::dispatch::DEPTH;
use mobula_logic::scheduler::{Input, RequestKey};
use mobula_logic::session::Lane;
use mobula_logic::task::{End, TaskSpec};
use mobula_types::resources::{Amount, CPUS, GPUS, Resources};
use mobula_types::{
    Attempt, GroupId, Incarnation, JobId, LeaseId, NodeId, Outcome, PlacementSpec, ProcessId, TaskId, Time,
};

use super::event::ActorKey;
use crate::failure::ensure;

#[derive(Debug, Default)]
pub(super) struct Witness {
    nodes: BTreeMap<NodeId, Books>,
    /// What was asked, and whether it was for an actor.
    asked: BTreeMap<RequestKey, (PlacementSpec, bool)>,
    tasks: BTreeMap<TaskId, TaskSeen>,
    actors: BTreeMap<ActorKey, ActorSeen>,
    lanes: BTreeMap<(NodeId, NodeId, Lane), (u64, u64)>,
    /// Tasks in flight on each lease.
    in_flight: BTreeMap<LeaseId, BTreeSet<TaskId>>,
}

/// What a node's leases add up to.
#[derive(Debug, Default)]
struct Books {
    total: Resources,
    leases: BTreeMap<LeaseId, Held>,
    /// The sum of what they hold, by name.
    in_use: BTreeMap<String, Amount>,
    /// CPUs that wait in each worker, as the scheduler was told.
    waiting: BTreeMap<ProcessId, Amount>,
    /// The most that has ever waited at once in no placement group and in each: a place may be decided on while so much is
    /// lent, and given after that.
    lent_max: BTreeMap<Option<GroupId>, Amount>,
    dead: BTreeSet<ProcessId>,
}

#[derive(Debug)]
struct Held {
    job: JobId,
    is_for_actor: bool,
    holder: ProcessId,
    process: ProcessId,
    spec: PlacementSpec,
    gpus: Vec<u32>,
}

#[derive(Debug)]
struct TaskSeen {
    spec: TaskSpec,
    /// Which runs began, and how they ended if they did.
    runs: BTreeMap<Attempt, Option<End>>,
    lease: Option<LeaseId>,
    newest: Attempt,
    outcome: Option<Outcome>,
}

#[derive(Debug, Default)]
struct ActorSeen {
    newest: Incarnation,
    spawned: BTreeSet<Incarnation>,
    heard: BTreeSet<u64>,
    last_heard: BTreeMap<Incarnation, u64>,
    has_ended: bool,
    /// It was told to leave its place, and has not said that it has.
    is_leaving: bool,
}

impl Books {
    fn end(&mut self, is_over: impl Fn(LeaseId, &Held) -> bool) {
        let over: Vec<LeaseId> =
            self.leases.iter().filter(|(id, held)| is_over(**id, held)).map(|(id, _)| *id).collect();
        for id in over {
            let Some(held) = self.leases.remove(&id) else { continue };
            for (name, amount) in held.spec.request.amounts() {
                if let Some(sum) = self.in_use.get_mut(name) {
                    *sum = sum.minus(amount);
                }
            }
        }
    }

    fn has(&self, name: &str) -> Amount {
        match name {
            CPUS => self.total.cpus,
            GPUS => self.total.gpus,
            other => self.total.others.get(other).copied().unwrap_or_default(),
        }
    }

    /// CPUs that are lent, by the placement group in which they are: no more than a worker's leases hold.
    fn lent(&self) -> BTreeMap<Option<GroupId>, Amount> {
        let mut lent = BTreeMap::<_, Amount>::new();
        for (process, cpus) in &self.waiting {
            let of_it = || self.leases.values().filter(|held| held.process == *process);
            let held = of_it().fold(Amount::ZERO, |sum, held| sum.plus(held.spec.request.cpus));
            let pool = of_it().find_map(|held| held.spec.within).map(|within| within.group);
            let sum = lent.entry(pool).or_default();
            *sum = sum.plus((*cpus).min(held));
        }
        lent
    }
}

fn is_of(process: ProcessId, dead: ProcessId) -> bool {
    process == dead || dead.number() == 0 && process.node() == dead.node()
}

impl Witness {
    pub(super) fn node_starts(&mut self, node: NodeId, total: &Resources) {
        self.nodes.insert(node, Books { total: total.clone(), ..Books::default() });
    }

    pub(super) fn node_died(&mut self, node: NodeId) {
        self.nodes.remove(&node);
        self.lanes.retain(|(from, to, _), _| *from != node && *to != node);
    }

    pub(super) fn scheduler_hears(&mut self, node: NodeId, input: &Input) {
        let Some(books) = self.nodes.get_mut(&node) else { return };
        match input {
            Input::Returned { lease } => books.end(|id, _| id == *lease),
            Input::Died { process } => {
                books.dead.insert(*process);
                books.waiting.remove(process);
                books.end(|_, held| is_of(held.holder, *process) || is_of(held.process, *process));
            }
            Input::NodeDied { node } => books.end(|_, held| held.holder.node() == *node),
            Input::JobEnded { job } => books.end(|_, held| held.job == *job),
            Input::Waiting { process, cpus } => {
                books.waiting.insert(*process, *cpus);
                for (pool, lent) in books.lent() {
                    let most = books.lent_max.entry(pool).or_default();
                    *most = lent.max(*most);
                }
            }
            _ => {}
        }
    }

    /// What a worker held ends with its bundle, before the worker has.
    pub(super) fn bundle_ends(&mut self, node: NodeId, process: ProcessId) {
        if let Some(books) = self.nodes.get_mut(&node) {
            books.end(|_, held| held.process == process);
        }
    }

    pub(super) fn asked(&mut self, request: RequestKey, spec: &PlacementSpec, is_for_actor: bool) {
        self.asked.insert(request, (spec.clone(), is_for_actor));
    }

    pub(super) fn granted(
        &mut self,
        node: NodeId,
        request: RequestKey,
        lease: LeaseId,
        process: ProcessId,
        job: JobId,
        gpus: &[u32],
    ) -> Result<(), Violation> {
        let (Some(books), Some((spec, is_for_actor))) = (self.nodes.get_mut(&node), self.asked.get(&request)) else {
            return Ok(());
        };
        ensure(!books.dead.contains(&process), "SCHED-2", || format!("{lease} is in {process}, which is dead"))?;
        let is_for_actor = *is_for_actor;
        let held = Held { job, is_for_actor, holder: request.holder, process, spec: spec.clone(), gpus: gpus.to_vec() };
        for (name, amount) in spec.request.amounts() {
            let sum = books.in_use.entry(name.to_owned()).or_default();
            *sum = sum.plus(amount);
        }
        let is_new = books.leases.insert(lease, held).is_none();
        ensure(is_new, "SCHED-3", || format!("{lease} is given twice"))?;
        for (name, _) in spec.request.amounts() {
            let (sum, has) = (books.in_use.get(name).copied().unwrap_or_default(), books.has(name));
            let lent = books.lent_max.values().filter(|_| name == CPUS);
            let lent = lent.fold(Amount::ZERO, |sum, lent| sum.plus(*lent));
            ensure(sum <= has.plus(lent), "SCHED-1", || format!("{node} has {has} {name}, and {sum} is in use"))?;
        }
        if spec.request.gpus > Amount::ZERO {
            // A device's leases together take no more than all of it.
            for device in gpus {
                let on_it = books.leases.values().filter(|held| held.gpus.contains(device));
                let sum = on_it.fold(Amount::ZERO, |sum, held| sum.plus(held.spec.request.gpus.min(Amount::ONE)));
                ensure(sum <= Amount::ONE, "SCHED-6", || format!("{sum} of device {device} of {node} is given"))?;
            }
        }
        Ok(())
    }

    pub(super) fn capacity(&self, process: ProcessId, resources: &Resources) -> Result<(), Violation> {
        let has = self.nodes.get(&process.node()).map(|books| &books.total);
        let fits = has.is_none_or(|has| resources.gpus <= has.gpus);
        ensure(fits, "SCHED-1", || format!("{process} is told that it has {resources:?}"))
    }

    pub(super) fn submitted(&mut self, task: TaskId, spec: TaskSpec) {
        let seen = TaskSeen { spec, runs: BTreeMap::new(), lease: None, newest: Attempt(0), outcome: None };
        self.tasks.insert(task, seen);
    }

    /// A run is sent on its way.
    pub(super) fn sent_run(&mut self, task: TaskId, attempt: Attempt, lease: LeaseId) -> Result<(), Violation> {
        let Some(seen) = self.tasks.get_mut(&task) else { return Ok(()) };
        // One that found no place before it was sent is left out.
        let is_next = attempt > seen.newest && seen.outcome.is_none();
        ensure(is_next, "TASK-3", || format!("{attempt} of {task} is sent: {seen:?}"))?;
        seen.newest = attempt;
        let old = seen.lease.replace(lease);
        if let Some(old) = old.and_then(|old| self.in_flight.get_mut(&old)) {
            old.remove(&task);
        }
        let on_it = self.in_flight.entry(lease).or_default();
        on_it.insert(task);
        let count = on_it.len();
        ensure(count <= DEPTH, "DISP-4", || format!("{count} tasks are in flight on {lease}"))
    }

    pub(super) fn begins(&mut self, task: TaskId, attempt: Attempt, process: ProcessId) -> Result<(), Violation> {
        let Some(seen) = self.tasks.get_mut(&task) else { return Ok(()) };
        let is_new = seen.runs.insert(attempt, None).is_none();
        ensure(is_new, "SES-2", || format!("{attempt} of {task} begins twice, now in {process}"))?;
        let runs = seen.runs.len();
        ensure(!seen.spec.at_most_once || runs <= 1, "TASK-4", || format!("{task} is for one run and has {runs}"))
    }

    /// The driver hears that a run is over: it takes no place any more.
    pub(super) fn leaves(&mut self, task: TaskId, attempt: Attempt) {
        if let Some(lease) = self.tasks.get(&task).filter(|seen| seen.newest == attempt).and_then(|seen| seen.lease)
            && let Some(on_it) = self.in_flight.get_mut(&lease)
        {
            on_it.remove(&task);
        }
    }

    pub(super) fn ends(&mut self, task: TaskId, attempt: Attempt, end: End) {
        if let Some(seen) = self.tasks.get_mut(&task) {
            seen.runs.insert(attempt, Some(end));
        }
    }

    pub(super) fn resolved(
        &mut self,
        now: Time,
        task: TaskId,
        outcome: Outcome,
        by: Option<Attempt>,
    ) -> Result<(), Violation> {
        let Some(seen) = self.tasks.get_mut(&task) else { return Ok(()) };
        ensure(seen.outcome.is_none(), "TASK-1", || format!("{task} ends {outcome:?} after {:?}", seen.outcome))?;
        seen.outcome = Some(outcome);
        if let Some(on_it) = seen.lease.and_then(|lease| self.in_flight.get_mut(&lease)) {
            on_it.remove(&task);
        }
        let end = by.and_then(|by| seen.runs.get(&by)).copied().flatten();
        let (invariant, holds) = match outcome {
            Outcome::Ok => ("TASK-3", by == Some(seen.newest) && end == Some(End::Ok)),
            Outcome::Failed => ("TASK-3", by == Some(seen.newest) && end.is_some_and(|end| end != End::Ok)),
            Outcome::NotStarted => ("TASK-4", seen.runs.is_empty()),
            Outcome::DeadlineExceeded => ("TASK-7", seen.spec.deadline.has_passed(now)),
            Outcome::MayHaveRun | Outcome::Cancelled => ("TASK-1", by.is_none()),
        };
        ensure(holds, invariant, || format!("{task} ends {outcome:?} by {by:?}: {seen:?}"))
    }

    pub(super) fn home_spawns(&mut self, actor: ActorKey, incarnation: Incarnation) -> Result<(), Violation> {
        let seen = self.actors.entry(actor).or_default();
        let is_next = incarnation == seen.newest.next() && !seen.has_ended;
        ensure(is_next, "HOME-1", || format!("{incarnation} of {actor:?} is started: {seen:?}"))?;
        ensure(!seen.is_leaving, "HOME-5", || format!("{incarnation} of {actor:?} is started: {seen:?}"))?;
        seen.newest = incarnation;
        Ok(())
    }

    pub(super) fn is_to_leave(&mut self, actor: ActorKey) {
        self.actors.entry(actor).or_default().is_leaving = true;
    }

    /// The home hears that the life it counts is over where it was, by its own word or by the death of its process.
    pub(super) fn left(&mut self, actor: ActorKey, said: Option<Incarnation>) {
        let seen = self.actors.entry(actor).or_default();
        if said.is_none_or(|said| said >= seen.newest) {
            seen.is_leaving = false;
        }
    }

    pub(super) fn spawned(&mut self, actor: ActorKey, incarnation: Incarnation) -> Result<(), Violation> {
        let seen = self.actors.entry(actor).or_default();
        let is_new = seen.spawned.insert(incarnation);
        ensure(is_new, "HOME-1", || format!("{incarnation} of {actor:?} is started in two places"))
    }

    /// The home says that the actor has ended; `heard` is whose word made it say so.
    pub(super) fn home_ends(&mut self, actor: ActorKey, heard: Option<Incarnation>) -> Result<(), Violation> {
        let seen = self.actors.entry(actor).or_default();
        ensure(!seen.has_ended, "HOME-4", || format!("{actor:?} ends twice"))?;
        seen.has_ended = true;
        let is_now = heard.is_none_or(|heard| heard >= seen.newest);
        ensure(is_now, "HOME-2", || format!("{actor:?} ends by the word of {heard:?}: {seen:?}"))
    }

    pub(super) fn told(&mut self, actor: ActorKey, incarnation: Incarnation, number: u64) -> Result<(), Violation> {
        let seen = self.actors.entry(actor).or_default();
        let is_new = seen.heard.insert(number);
        ensure(is_new, "FIFO", || format!("{actor:?} hears message {number} twice"))?;
        let last = seen.last_heard.insert(incarnation, number).unwrap_or(0);
        ensure(last < number, "FIFO", || format!("{actor:?} hears message {number} after {last}"))
    }

    /// Numbers what a node sends on a lane to another.
    pub(super) fn sent(&mut self, from: NodeId, to: NodeId, lane: Lane) -> u64 {
        let (sent, _) = self.lanes.entry((from, to, lane)).or_default();
        *sent += 1;
        *sent
    }

    pub(super) fn delivered(&mut self, from: NodeId, to: NodeId, lane: Lane, number: u64) -> Result<(), Violation> {
        let Some((_, delivered)) = self.lanes.get_mut(&(from, to, lane)) else { return Ok(()) };
        let last = *delivered;
        ensure(number > last, "SES-2", || format!("{to} hears {number} of {from} on {lane:?} after {last}"))?;
        ensure(number == last + 1, "SES-1", || format!("{to} hears {number} of {from} on {lane:?} after {last}"))?;
        *delivered = number;
        Ok(())
    }

    pub(super) fn process_died(&mut self, process: ProcessId) {
        let is_its = |task: &TaskId| task.process == process;
        self.tasks.retain(|task, _| !is_its(task));
        self.actors.retain(|(home, _), _| *home != process);
    }

    /// In the end every task of a driver that lives has its outcome.
    pub(super) fn judge_tasks(&self) -> Result<(), Violation> {
        for (task, seen) in &self.tasks {
            ensure(seen.outcome.is_some(), "TASK-1", || format!("{task} has no outcome: {seen:?}"))?;
        }
        Ok(())
    }

    /// In the end every lease is back: the home of an actor and a process's dispatch give back what they leave, and what
    /// the dead held comes back by itself.
    pub(super) fn judge_leases(&self, lives: impl Fn(ProcessId) -> bool) -> Result<(), Violation> {
        for (node, books) in &self.nodes {
            let Some((lease, held)) = books.leases.first_key_value() else { continue };
            let invariant = match (lives(held.holder), held.is_for_actor) {
                (false, _) => "SCHED-3",
                (true, true) => "HOME-3",
                (true, false) => "DISP-6",
            };
            ensure(false, invariant, || format!("{node} does not have back {lease}: {held:?}"))?;
        }
        Ok(())
    }
}
