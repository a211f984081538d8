//! A node: its scheduler, its attached processes, and what it passes on between them and other nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use mobula_logic::Violation;
use mobula_logic::scheduler::{self, Input, Output, Refusal, RequestKey, Scheduler, StartId, Wanted, granting_node};
use mobula_types::program::{Glibc, Libc, Platform, Target};
use mobula_types::resources::Amount;
use mobula_types::{Death, DeathCause, JobId, NodeId, NodeLoad, ProcessId, StateMachine, Time};

use super::World;
use super::event::{Event, HostIndex, Parcel, Talk, View, Word};

/// A node that runs.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) host: HostIndex,
    pub(super) scheduler: Scheduler,
    wakes_at: Option<Time>,
    /// The head that it is registered with.
    head: NodeId,
    /// Other nodes that live, as the head says.
    pub(super) known: BTreeSet<NodeId>,
    pub(super) dead: BTreeSet<NodeId>,
    seen: BTreeMap<NodeId, NodeLoad>,
    pub(super) attached: BTreeSet<ProcessId>,
    next_number: u32,
    /// Jobs that have, or had, workers here.
    jobs: BTreeSet<JobId>,
    gpus: BTreeMap<StartId, Vec<u32>>,
}

/// What the head keeps; only `heard` is lost with its process.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) node: Option<NodeId>,
    /// The newest node's number.
    pub(super) last: u64,
    members: BTreeMap<NodeId, Member>,
    dead: Vec<NodeId>,
}

#[derive(Debug)]
struct Member {
    heard: Time,
    refusals: u32,
    load: NodeLoad,
}

/// A job is named after its driver.
pub(super) fn driver_of(job: JobId) -> ProcessId {
    ProcessId::from_u64(job.0)
}

impl World {
    /// A node starts on a host; without its head it tries again.
    pub(super) fn start_node(&mut self, host: HostIndex) -> Result<(), Violation> {
        if self.hosts[host].node.is_some() {
            return Ok(());
        }
        let is_head = host == HEAD_HOST;
        if !is_head && !self.reaches_head(host) {
            self.agenda.after(Duration::from_millis(200), Event::StartNode { host });
            return Ok(());
        }
        self.head.last += 1;
        let id = NodeId(self.head.last);
        let place = &self.hosts[host];
        let scheduler = Scheduler::new(id, &place.total, place.labels.clone()).on(platform());
        let scheduler = if self.is_narrow { scheduler.with_queue_max(NARROW_QUEUE) } else { scheduler };
        let scheduler = self.plant(scheduler, Scheduler::with_mutant);
        let load = scheduler.load();
        let node = Node {
            host,
            scheduler,
            wakes_at: None,
            head: if is_head { id } else { self.head.node.unwrap_or_default() },
            known: BTreeSet::new(),
            dead: BTreeSet::new(),
            seen: BTreeMap::new(),
            attached: BTreeSet::new(),
            next_number: 0,
            jobs: BTreeSet::new(),
            gpus: BTreeMap::new(),
        };
        self.hosts[host].node = Some(id);
        self.nodes.insert(id, node);
        self.witness.node_starts(id, &self.hosts[host].total);
        if is_head {
            if let Some(old) = self.head.node.replace(id) {
                self.saw("head starts again");
                self.head.members.remove(&old);
                self.head.dead.push(old);
            }
            // A head that starts takes all whom it knows as just heard.
            let now = self.local(id);
            self.head.members.values_mut().for_each(|member| (member.heard, member.refusals) = (now, 0));
        } else {
            self.saw("node joins");
        }
        let now = self.head.node.map_or(Time::ZERO, |head| self.local(head));
        self.head.members.insert(id, Member { heard: now, refusals: 0, load });
        let view = self.view();
        self.see_view(id, &view)?;
        self.spread()?;
        self.agenda.after(BEAT, Event::Beat { node: id });
        for _ in 0..self.hosts[host].drivers {
            let delay = self.rng.span(100);
            self.agenda.after(delay, Event::StartDriver { host });
        }
        Ok(())
    }

    fn reaches_head(&self, host: HostIndex) -> bool {
        let is_cut = self.cuts.contains_key(&(host, HEAD_HOST)) || self.cuts.contains_key(&(HEAD_HOST, host));
        self.head.node.is_some_and(|head| self.nodes.contains_key(&head)) && !is_cut && !self.is_paused(HEAD_HOST)
    }

    fn view(&self) -> Rc<View> {
        let loads = self.head.members.iter().map(|(node, member)| (*node, member.load.clone())).collect();
        Rc::new(View { loads, dead: self.head.dead.clone() })
    }

    /// The head tells everyone its view.
    fn spread(&mut self) -> Result<(), Violation> {
        let Some(head) = self.head.node.filter(|head| self.nodes.contains_key(head)) else { return Ok(()) };
        let view = self.view();
        self.see_view(head, &view)?;
        let members: Vec<NodeId> = self.head.members.keys().copied().filter(|node| *node != head).collect();
        for node in members {
            self.send(head, node, Talk::View(view.clone()))?;
        }
        Ok(())
    }

    /// Between a node and its head, five times a second.
    pub(super) fn beat(&mut self, id: NodeId) -> Result<(), Violation> {
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        self.agenda.after(BEAT, Event::Beat { node: id });
        let (load, host, head) = (node.scheduler.load(), node.host, node.head);
        if Some(id) == self.head.node {
            let now = self.local(id);
            let silent = |member: &Member| member.heard + SILENT_MAX <= now;
            let silent: Vec<NodeId> = self
                .head
                .members
                .iter()
                .filter(|(node, member)| **node != id && silent(member))
                .map(|(node, _)| *node)
                .collect();
            if let Some(own) = self.head.members.get_mut(&id) {
                own.load = load;
            }
            for node in silent {
                self.saw("node is silent for too long");
                self.declare_dead(node)?;
            }
            return self.spread();
        }
        if self.head.node != Some(head) {
            // Its head has started again: it registers with the new one.
            if !self.reaches_head(host) {
                return Ok(());
            }
            if self.head.dead.contains(&id) {
                return self.fence(id);
            }
            self.saw("node registers again");
            let head = self.head.node.unwrap_or_default();
            let now = self.local(head);
            self.head.members.insert(id, Member { heard: now, refusals: 0, load });
            if let Some(node) = self.nodes.get_mut(&id) {
                node.head = head;
            }
            let view = self.view();
            return self.see_view(id, &view);
        }
        self.send(id, head, Talk::Beat(load)).map(drop)
    }

    pub(super) fn head_hears_silence(
        &mut self,
        node: NodeId,
        peer: NodeId,
        silent: Duration,
        refused: bool,
    ) -> Result<(), Violation> {
        if Some(node) != self.head.node || silent < Duration::from_millis(300) || !refused {
            return Ok(());
        }
        let Some(member) = self.head.members.get_mut(&peer) else { return Ok(()) };
        member.refusals += 1;
        if member.refusals >= 2 {
            self.saw("node was killed");
            self.doomed.push_back(peer);
        }
        Ok(())
    }

    /// The head says that a node is dead: nobody hears it any more.
    pub(super) fn declare_dead(&mut self, node: NodeId) -> Result<(), Violation> {
        if self.head.members.remove(&node).is_none() {
            return Ok(());
        }
        if self.nodes.contains_key(&node) {
            self.saw("living node is declared dead");
        }
        self.head.dead.push(node);
        self.spread()
    }

    fn see_view(&mut self, id: NodeId, view: &View) -> Result<(), Violation> {
        if view.dead.contains(&id) {
            return self.fence(id);
        }
        for peer in &view.dead {
            self.node_died(id, *peer)?;
        }
        for (peer, load) in &view.loads {
            let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
            if *peer == id || node.dead.contains(peer) || node.seen.get(peer) == Some(load) {
                continue;
            }
            node.seen.insert(*peer, load.clone());
            if node.known.insert(*peer) {
                self.want_session(id, *peer)?;
            }
            self.tell_scheduler(id, Input::Seen { node: *peer, load: load.clone() })?;
        }
        Ok(())
    }

    /// A node hears that another is dead.
    fn node_died(&mut self, id: NodeId, dead: NodeId) -> Result<(), Violation> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if !node.dead.insert(dead) {
            return Ok(());
        }
        node.known.remove(&dead);
        node.seen.remove(&dead);
        let jobs: Vec<JobId> = node.jobs.iter().copied().filter(|job| driver_of(*job).node() == dead).collect();
        self.saw("node hears of a node's death");
        self.end_session(id, dead)?;
        self.tell_scheduler(id, Input::NodeDied { node: dead })?;
        for job in jobs {
            self.tell_scheduler(id, Input::JobEnded { job })?;
        }
        let death = Death::of(ProcessId::from(dead), DeathCause::NodeSilent { silent_ms: 4_500 });
        self.tell_attached(id, &death);
        Ok(())
    }

    fn tell_attached(&mut self, id: NodeId, death: &Death) {
        let attached: Vec<ProcessId> =
            self.nodes.get(&id).into_iter().flat_map(|node| &node.attached).copied().collect();
        for process in attached {
            self.word(ProcessId::from(id), process, Word::Died(death.clone()));
        }
    }

    /// A node was declared dead and hears of it: it ends all it runs and starts again under another name.
    pub(super) fn fence(&mut self, id: NodeId) -> Result<(), Violation> {
        if let Some(host) = self.nodes.get(&id).map(|node| node.host) {
            self.saw("node fences itself");
            self.kill_node(id);
            self.agenda.after(Duration::from_millis(100), Event::StartNode { host });
        }
        Ok(())
    }

    /// A node's process ends, and all that is attached to it.
    pub(super) fn kill_node(&mut self, id: NodeId) {
        let Some(node) = self.nodes.remove(&id) else { return };
        self.hosts[node.host].node = None;
        for process in node.attached {
            self.witness.process_died(process);
            self.processes.remove(&process);
        }
        self.ends.retain(|(owner, _), _| *owner != id);
        self.witness.node_died(id);
    }

    /// Gives a new process of the node its number.
    pub(super) fn attach(&mut self, id: NodeId) -> Option<ProcessId> {
        let node = self.nodes.get_mut(&id)?;
        node.next_number += 1;
        let process = ProcessId::new(id, node.next_number);
        node.attached.insert(process);
        Some(process)
    }

    /// A process of this node has ended: the node tells everyone whom it may concern.
    pub(super) fn process_died(
        &mut self,
        process: ProcessId,
        death: &Death,
        job: Option<JobId>,
    ) -> Result<(), Violation> {
        let id = process.node();
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        node.attached.remove(&process);
        let peers: Vec<NodeId> = node.known.iter().copied().collect();
        self.tell_scheduler(id, Input::Died { process })?;
        self.tell_attached(id, death);
        for peer in &peers {
            self.send(id, *peer, Talk::Died(death.clone()))?;
        }
        if let Some(job) = job {
            self.saw("job ends");
            self.tell_scheduler(id, Input::JobEnded { job })?;
            for peer in peers {
                self.send(id, peer, Talk::JobEnded(job))?;
            }
        }
        Ok(())
    }

    /// A node hears another.
    pub(super) fn hear(&mut self, id: NodeId, peer: NodeId, talk: Talk) -> Result<(), Violation> {
        let Some(node) = self.nodes.get(&id) else { return Ok(()) };
        if node.dead.contains(&peer) {
            return Ok(());
        }
        match talk {
            Talk::Beat(load) => {
                let now = self.local(id);
                if Some(id) == self.head.node
                    && let Some(member) = self.head.members.get_mut(&peer)
                {
                    *member = Member { heard: now, refusals: 0, load };
                }
                Ok(())
            }
            Talk::View(view) => self.see_view(id, &view),
            Talk::Lease(wanted) => self.tell_scheduler(id, Input::Asked(wanted)),
            Talk::TakeBack(request) => {
                self.saw("request is taken back from another node");
                self.tell_scheduler(id, Input::TakenBack { request })
            }
            Talk::Granted { request, lease, process } => {
                self.saw("another node grants");
                self.tell_scheduler(id, Input::PeerGranted { node: peer, request, lease, process })
            }
            Talk::Refused { request, load, why, worker_failed } => {
                self.saw("another node refuses");
                let load = Some(load);
                self.tell_scheduler(id, Input::PeerRefused { node: peer, request, load, why, worker_failed })
            }
            Talk::Return(lease) => self.tell_scheduler(id, Input::Returned { lease }),
            Talk::Recalled { holder, lease } => {
                self.word(ProcessId::from(id), holder, Word::Recalled { lease });
                Ok(())
            }
            Talk::Died(death) => {
                self.tell_scheduler(id, Input::Died { process: death.process })?;
                self.tell_attached(id, &death);
                Ok(())
            }
            Talk::JobEnded(job) => self.tell_scheduler(id, Input::JobEnded { job }),
            Talk::Parcel(parcel) => {
                if self.processes.contains_key(&parcel.to) {
                    self.word(ProcessId::from(id), parcel.to, Word::Parcel(parcel));
                } else if let Some(death) = self.deaths.get(&parcel.to).cloned() {
                    self.saw("parcel for a dead process");
                    self.send(id, peer, Talk::Died(death))?;
                }
                Ok(())
            }
        }
    }

    /// A node hears one of its processes.
    pub(super) fn hear_attached(&mut self, id: NodeId, from: ProcessId, word: Word) -> Result<(), Violation> {
        let Some(job) = self.processes.get(&from).map(|process| process.job) else { return Ok(()) };
        match word {
            Word::Lease { number, spec, avoid, lives_on } => {
                let request = RequestKey { holder: from, number };
                if self.is_picky && number == 1 {
                    self.saw("program says what it was built for");
                    let target = Some(target()).filter(|_| from.number() % 2 == 1);
                    self.tell_scheduler(id, Input::Program { job, target })?;
                }
                let wanted = Wanted { request, job, spec, avoid, lives_on, waits: false };
                self.tell_scheduler(id, Input::Asked(wanted))
            }
            Word::TakeBack { number } => {
                self.tell_scheduler(id, Input::TakenBack { request: RequestKey { holder: from, number } })
            }
            Word::Return { lease } => {
                let node = granting_node(lease);
                if node != id {
                    return self.send(id, node, Talk::Return(lease)).map(drop);
                }
                if self.goes_wrong(5) {
                    self.saw("lease is returned twice");
                    self.tell_scheduler(id, Input::Returned { lease })?;
                }
                self.tell_scheduler(id, Input::Returned { lease })
            }
            Word::Waiting { halves } => {
                let cpus = Amount::of_steps(halves * Amount::STEPS / 2);
                self.tell_scheduler(id, Input::Waiting { process: from, cpus })
            }
            Word::Parcel(parcel) => self.route(id, parcel),
            Word::Granted { .. } | Word::NoPlace { .. } | Word::Recalled { .. } | Word::Died(_) => Ok(()),
        }
    }

    /// A parcel for a process of another node.
    fn route(&mut self, id: NodeId, parcel: Parcel) -> Result<(), Violation> {
        let (from, node) = (parcel.from, parcel.to.node());
        if !self.send(id, node, Talk::Parcel(parcel))? {
            self.saw("parcel for a dead node");
            let death = Death::of(ProcessId::from(node), DeathCause::NodeKilled);
            self.word(ProcessId::from(id), from, Word::Died(death));
        }
        Ok(())
    }

    pub(super) fn tell_scheduler(&mut self, id: NodeId, input: Input) -> Result<(), Violation> {
        let now = self.local(id);
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        self.witness.scheduler_hears(id, &input);
        let why_of = match &input {
            Input::Asked(wanted) => Some(wanted.request),
            _ => None,
        };
        node.scheduler.handle(now, input);
        if self.mutant.is_some() {
            scheduler::check(&node.scheduler)?;
        }
        let outputs: Vec<Output> = std::iter::from_fn(|| node.scheduler.poll_output()).collect();
        if let Some(request) = why_of.filter(|request| request.holder.node() == id) {
            let is_answered = |output: &Output| match output {
                Output::Grant { request: of, .. } | Output::Refuse { request: of, .. } => *of == request,
                _ => false,
            };
            if node.scheduler.why(now, request).is_none() && !outputs.iter().any(is_answered) {
                return Err(Violation { invariant: "SCHED-4", seen: format!("{request:?} waits without a reason") });
            }
        }
        let due = node.scheduler.next_timeout().map(|at| self.real(id, at));
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if let Some(at) = super::earlier(&mut node.wakes_at, due) {
            self.agenda.at(at, Event::SchedulerTick { node: id });
        }
        outputs.into_iter().try_for_each(|output| self.perform(id, output))
    }

    pub(super) fn scheduler_tick(&mut self, id: NodeId) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        if node.wakes_at.take_if(|at| *at <= now).is_none() {
            return Ok(());
        }
        self.tell_scheduler(id, Input::Tick)
    }

    fn perform(&mut self, id: NodeId, output: Output) -> Result<(), Violation> {
        let now = self.agenda.now();
        self.steps.note(now, || format!("  {id} asks {output:?}"));
        match output {
            Output::StartWorker { start, job, isolated, gpus } => {
                self.saw(if isolated { "isolated worker starts" } else { "shared worker starts" });
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.jobs.insert(job);
                    node.gpus.insert(start, gpus);
                }
                let delay = Duration::from_millis(5) + self.rng.span(60);
                let fails = self.goes_wrong(18);
                let event = match fails {
                    true => Event::WorkerFails { node: id, start },
                    false => Event::WorkerStarts { node: id, start, job },
                };
                self.agenda.after(delay, event);
                Ok(())
            }
            // Placement groups are the world of `groups`.
            Output::Prepared { .. } => {
                self.saw("bundle is kept");
                Ok(())
            }
            Output::NotPrepared { .. } => {
                self.saw("bundle is not kept");
                Ok(())
            }
            Output::EndInGroup { process, .. } => {
                self.saw("worker is ended with its bundle");
                self.witness.bundle_ends(id, process);
                let delay = self.rng.span(20);
                self.agenda.after(delay, Event::Dies { process, cause: DeathCause::JobStopped });
                Ok(())
            }
            Output::EndWorker { process } => {
                self.saw("worker is ended");
                let delay = self.rng.span(20);
                self.agenda.after(delay, Event::Dies { process, cause: DeathCause::JobStopped });
                Ok(())
            }
            Output::Capacity { process, resources } => self.witness.capacity(process, &resources),
            Output::Grant { request, lease, process } => {
                if granting_node(lease) == id {
                    let gpus = self.nodes.get(&id).and_then(|node| node.gpus.get(&self.start_of(process)));
                    let gpus = gpus.map_or(&[][..], Vec::as_slice);
                    let job = self.processes.get(&process).map_or(JobId(0), |life| life.job);
                    self.witness.granted(id, request, lease, process, job, gpus)?;
                }
                if request.holder.node() == id {
                    let granted = Word::Granted { number: request.number, lease, process };
                    self.word(ProcessId::from(id), request.holder, granted);
                    return Ok(());
                }
                self.send(id, request.holder.node(), Talk::Granted { request, lease, process }).map(drop)
            }
            Output::Recall { holder, lease } => {
                self.saw("place is recalled");
                if holder.node() == id {
                    self.word(ProcessId::from(id), holder, Word::Recalled { lease });
                    return Ok(());
                }
                self.send(id, holder.node(), Talk::Recalled { holder, lease }).map(drop)
            }
            Output::Refuse { request, why } => self.refuse(id, request, &why),
            Output::AskPeer { node, wanted } => {
                self.saw(if wanted.waits { "request goes to wait on another node" } else { "another node is asked" });
                self.send(id, node, Talk::Lease(wanted)).map(drop)
            }
            Output::TakeBackFromPeer { node, request } => {
                let holder = self.processes.get(&request.holder);
                if holder.is_some_and(|life| life.requests.contains_key(&request.number)) {
                    self.saw("request that waits on another node is called back");
                }
                self.send(id, node, Talk::TakeBack(request)).map(drop)
            }
            Output::ReturnToPeer { node, lease } => {
                self.saw("grant comes too late and goes back");
                self.send(id, node, Talk::Return(lease)).map(drop)
            }
        }
    }

    fn refuse(&mut self, id: NodeId, request: RequestKey, why: &Refusal) -> Result<(), Violation> {
        self.saw(match why {
            Refusal::NoRoom { .. } => "refused: no room",
            Refusal::NodeIsDead { .. } => "refused: its node is dead",
            Refusal::WorkerFailed { .. } => "refused: its worker fails",
            Refusal::JobEnded { .. } => "refused: its job has ended",
            Refusal::QueueFull { .. } => "refused: the queue is full",
            _ => "refused: its group is no more",
        });
        if request.holder.node() == id {
            let no_place = Word::NoPlace { number: request.number, for_ever: why.is_for_ever() };
            self.word(ProcessId::from(id), request.holder, no_place);
            return Ok(());
        }
        let Some(load) = self.nodes.get(&id).map(|node| node.scheduler.load()) else { return Ok(()) };
        let worker_failed = matches!(why, Refusal::WorkerFailed { .. });
        let talk = Talk::Refused { request, load, why: why.to_string(), worker_failed };
        self.send(id, request.holder.node(), talk).map(drop)
    }

    pub(super) fn worker_starts(&mut self, id: NodeId, start: StartId, job: JobId) -> Result<(), Violation> {
        let Some(process) = self.attach(id) else { return Ok(()) };
        self.add_process(process, job, Some(start));
        self.tell_scheduler(id, Input::WorkerStarted { start, process })
    }

    pub(super) fn worker_fails(&mut self, id: NodeId, start: StartId) -> Result<(), Violation> {
        if self.nodes.contains_key(&id) {
            self.saw("worker does not start");
        }
        self.tell_scheduler(id, Input::WorkerFailed { start, why: "no such file".into() })
    }
}

/// Where the head runs.
pub(super) const HEAD_HOST: HostIndex = 0;

/// Between two beats of a node, as `mobula_logic` has it.
const BEAT: Duration = Duration::from_millis(200);

/// G11: a node that is silent for so long is dead.
const SILENT_MAX: Duration = Duration::from_millis(4_500);

/// Requests that may wait on a node where few may.
const NARROW_QUEUE: usize = 3;

/// Every host runs every program.
fn platform() -> Platform {
    Platform { machine: MACHINE.to_owned(), glibc: Some(GLIBC), has_musl: false }
}

fn target() -> Target {
    Target { machine: MACHINE.to_owned(), library: Libc::Gnu(GLIBC) }
}

const MACHINE: &str = "x86_64";
const GLIBC: Glibc = Glibc { major: 2, minor: 36 };
