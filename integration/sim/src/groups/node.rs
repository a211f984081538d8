//! A node's host: its scheduler with the bundles that it keeps, what its program wants, and what it tells the head.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_logic::Violation;
use mobula_logic::groups::{self, Input, Output};
use mobula_logic::scheduler::{self, Held, Refusal, RequestKey, Scheduler, StartId, Wanted};
use mobula_types::resources::{Amount, Request, Resources};
use mobula_types::{
    Bundle, BundleStrategy, GroupId, GroupSpec, JobId, LeaseId, NodeId, NodeLoad, PlacementSpec, ProcessId,
    StateMachine, Time, Within,
};

use super::{Down, Event, Index, Letter, UP, Up, World};

/// A registration that is not answered is sent again.
const REGISTER_AGAIN: Duration = Duration::from_millis(500);
/// Groups that one program has at once.
const GROUPS_OF_ONE: usize = 4;
/// A resource with a name of its own, of which there is as much as of CPUs: whoever has room has enough of it.
const DISKS: &str = "disks";
/// Requests that wait on one node.
const WAITING_MAX: usize = 3;

/// A node that runs.
pub(super) struct Node {
    /// Of the process, and of what it is after it was fenced.
    pub(super) life: u64,
    pub(super) id: Option<NodeId>,
    pub(super) scheduler: Option<Scheduler>,
    /// On which connection it was admitted.
    admitted: Option<u64>,
    registered_at: Option<Time>,
    /// The newest head that it has heard.
    knows: u64,
    pub(super) job: Option<JobId>,
    /// Groups that its program has made and not removed, whether they are ready, and what is said of them again.
    pub(super) made: BTreeMap<GroupId, (bool, JobId, GroupSpec)>,
    /// Groups for whose end its program waits.
    pub(super) removing: BTreeSet<GroupId>,
    told: Option<NodeLoad>,
    is_draining: bool,
    numbers: u64,
}

impl World {
    pub(super) fn start_node(&mut self, index: Index) {
        if self.hosts[index].node.is_some() {
            return;
        }
        self.last_life += 1;
        let node = Node {
            life: self.last_life,
            id: None,
            scheduler: None,
            admitted: None,
            registered_at: None,
            knows: 0,
            job: None,
            made: BTreeMap::new(),
            removing: BTreeSet::new(),
            told: None,
            is_draining: false,
            numbers: 1,
        };
        self.hosts[index].node = Some(node);
        self.hosts[index].connection += 1;
    }

    pub(super) fn kill_node(&mut self, index: Index) {
        let host = &mut self.hosts[index];
        host.node = None;
        host.connection += 1;
        let delay = self.rng.span(6_000);
        self.agenda.after(delay, Event::NodeStarts(index));
    }

    /// The node, when it runs and belongs.
    fn runs(&mut self, index: Index) -> Option<&mut Node> {
        let now = self.agenda.now();
        let host = &mut self.hosts[index];
        host.node.as_mut().filter(|node| host.paused_until <= now && node.id.is_some())
    }

    fn tell_head(&mut self, index: Index, word: Up) {
        let letter = Letter { connection: self.hosts[index].connection, epoch: 0, word };
        let at = self.arrives(index, UP);
        if !matches!(letter.word, Up::Register { .. }) && self.goes_wrong(2) {
            self.coverage.saw("word comes twice");
            self.hosts[index].up.push_back(letter.clone());
            self.agenda.at(at, Event::Up(index));
        }
        self.hosts[index].up.push_back(letter);
        self.agenda.at(at, Event::Up(index));
    }

    pub(super) fn node_beats(&mut self, index: Index) {
        let now = self.agenda.now();
        let host = &mut self.hosts[index];
        let Some(node) = host.node.as_mut().filter(|_| host.paused_until <= now) else { return };
        if node.admitted != Some(host.connection) {
            if node.registered_at.is_none_or(|at| now.since(at) >= REGISTER_AGAIN) {
                node.registered_at = Some(now);
                let (node, life) = (node.id, node.life);
                self.tell_head(index, Up::Register { node, life });
            }
            return;
        }
        let Some(load) = node.scheduler.as_ref().map(Scheduler::load) else { return };
        let load = (node.told.as_ref() != Some(&load)).then_some(load);
        if let Some(load) = &load {
            node.told = Some(load.clone());
        }
        self.tell_head(index, Up::Beat { load });
    }

    pub(super) fn node_tick(&mut self, index: Index) -> Result<(), Violation> {
        let now = self.agenda.now();
        let due = self.runs(index).and_then(|node| node.scheduler.as_ref()?.next_timeout());
        if due.is_some_and(|due| due <= now) { self.schedule(index, scheduler::Input::Tick) } else { Ok(()) }
    }

    pub(super) fn node_wants(&mut self, index: Index) -> Result<(), Violation> {
        if self.is_quiet {
            return Ok(());
        }
        let (wish, pick) = (self.rng.below(100), self.rng.number());
        let Some(node) = self.runs(index).filter(|node| !node.is_draining) else { return Ok(()) };
        let (Some(id), Some(job), Some(scheduler)) = (node.id, node.job, &node.scheduler) else { return Ok(()) };
        let me = ProcessId::new(id, 1);
        match wish {
            0..40 if scheduler.waiting() < WAITING_MAX => {
                // Beside all groups, in one that is kept here, or in one of which nobody has told who asks that it is over.
                let held = scheduler.bundles_held();
                let group = match wish {
                    0..15 => held.iter().find(|held| held.job == job).map(|held| held.group),
                    15..18 => scheduler.groups_ended().last(),
                    _ => None,
                };
                let within = group.map(|group| Within { group, bundle: None });
                node.numbers += 1;
                let request = RequestKey { holder: me, number: node.numbers };
                let spec = PlacementSpec { within, ..PlacementSpec::default() }.needing("num_cpus", 1.0);
                let wanted = Wanted { request, job, spec, avoid: Vec::new(), lives_on: false, waits: false };
                self.coverage.saw(if within.is_some() { "a place in a bundle" } else { "a place beside the bundles" });
                self.schedule(index, scheduler::Input::Asked(wanted))
            }
            40..75 if node.made.len() < GROUPS_OF_ONE => {
                node.numbers += 1;
                let group = GroupId { process: me, number: node.numbers };
                let spec = self.wish();
                self.witness.made(group, job, spec.clone());
                self.create(index, group, job, spec);
                Ok(())
            }
            75..90 => {
                let all: Vec<GroupId> = node.made.keys().copied().collect();
                if let Some(group) = all.get(pick as usize % all.len().max(1)).copied() {
                    self.remove(index, group);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn wish(&mut self) -> GroupSpec {
        use BundleStrategy::{Pack, Spread, StrictPack, StrictSpread};
        let strategy = *self.rng.pick(&[Pack, Spread, StrictPack, StrictSpread]);
        let mut bundle = || {
            let mut request = Request { cpus: Amount::whole(1 + self.rng.below(2)), ..Request::default() };
            if self.rng.chance(20) {
                request.others.push((DISKS.to_owned(), Amount::ONE));
            }
            Bundle { request, ..Bundle::default() }
        };
        let (first, second, third) = (bundle(), bundle(), bundle());
        let mut bundles = vec![first, second, third];
        bundles.truncate(1 + self.rng.below(3) as usize);
        if self.is_narrow && self.rng.chance(5) {
            // None is as wrong as too many.
            bundles.clear();
        }
        GroupSpec { bundles, strategy }
    }

    fn create(&mut self, index: Index, group: GroupId, job: JobId, spec: GroupSpec) {
        self.coverage.saw("a group is made");
        if let Some(node) = self.runs(index) {
            node.made.insert(group, (false, job, spec.clone()));
        }
        self.tell_head(index, Up::Says(Input::Create { group, job, spec }));
    }

    fn remove(&mut self, index: Index, group: GroupId) {
        self.coverage.saw("a group is not wanted");
        self.witness.removed(group);
        if let Some(node) = self.runs(index) {
            node.made.remove(&group);
            node.removing.insert(group);
        }
        self.tell_head(index, Up::Says(Input::Remove { group }));
    }

    pub(super) fn end_own_job(&mut self, index: Index) {
        let Some(job) = self.runs(index).and_then(|node| node.job) else { return };
        self.tell_head(index, Up::JobEnds(job));
    }

    pub(super) fn order_drain(&mut self, index: Index) {
        let Some(id) = self.runs(index).and_then(|node| node.id) else { return };
        self.say(id, Down::Drain);
    }

    pub(super) fn node_leaves(&mut self, index: Index, life: u64) {
        if self.runs(index).is_none_or(|node| node.life != life) {
            return;
        }
        self.tell_head(index, Up::Drained);
        // Its process ends when that has been said.
        self.hosts[index].node = None;
        self.agenda.after(Duration::from_secs(2), Event::NodeStarts(index));
    }

    pub(super) fn worker_started(&mut self, index: Index, life: u64, start: StartId) -> Result<(), Violation> {
        let Some(node) = self.hosts[index].node.as_mut().filter(|node| node.life == life) else { return Ok(()) };
        let Some(id) = node.id else { return Ok(()) };
        node.numbers += 1;
        let process = ProcessId::new(id, node.numbers as u32 + 1);
        self.schedule(index, scheduler::Input::WorkerStarted { start, process })
    }

    pub(super) fn lease_returned(&mut self, index: Index, life: u64, lease: LeaseId) -> Result<(), Violation> {
        match &self.hosts[index].node {
            Some(node) if node.life == life => self.schedule(index, scheduler::Input::Returned { lease }),
            _ => Ok(()),
        }
    }

    pub(super) fn worker_ended(&mut self, index: Index, life: u64, process: ProcessId) -> Result<(), Violation> {
        match &self.hosts[index].node {
            Some(node) if node.life == life => self.schedule(index, scheduler::Input::Died { process }),
            _ => Ok(()),
        }
    }

    pub(super) fn schedule(&mut self, index: Index, input: scheduler::Input) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(node) = &mut self.hosts[index].node else { return Ok(()) };
        let (life, knows) = (node.life, node.knows);
        let (Some(id), Some(scheduler)) = (node.id, &mut node.scheduler) else { return Ok(()) };
        scheduler.handle(now, input);
        let outputs: Vec<scheduler::Output> = std::iter::from_fn(|| scheduler.poll_output()).collect();
        let kept = scheduler.bundles_held();
        self.witness.kept(id, &kept, self.hosts[index].cpus)?;
        for output in outputs {
            use scheduler::Output;
            self.steps.note(now, || format!("  host {index} says {output:?}"));
            match output {
                Output::StartWorker { start, .. } => {
                    self.agenda.after(self.rng.span(200), Event::Started { index, life, start });
                }
                Output::EndWorker { process } => {
                    self.agenda.after(self.rng.span(100), Event::Ended { index, life, process });
                }
                Output::EndInGroup { process, .. } => {
                    self.coverage.saw("what runs in a bundle is ended");
                    self.agenda.after(self.rng.span(100), Event::Ended { index, life, process });
                }
                Output::Grant { lease, .. } => {
                    self.agenda.after(self.rng.span(1_500), Event::Returned { index, life, lease });
                }
                Output::Recall { lease, .. } => {
                    self.agenda.after(self.rng.span(100), Event::Returned { index, life, lease });
                }
                Output::Refuse { why, .. } => self.coverage.saw(match why {
                    Refusal::GroupEnded { .. } => "a place is refused: its group has ended",
                    Refusal::JobEnded { .. } => "a place is refused: its job has ended",
                    _ => "a place is refused",
                }),
                Output::Prepared { group, round } => {
                    self.coverage.saw("bundles are prepared");
                    self.witness.prepared(knows, group, round, id);
                    self.tell_head(index, Up::Says(Input::Prepared { node: id, group, round }));
                    if self.may_cross(40) {
                        let delay = self.rng.span(8);
                        self.agenda.after(delay, Event::Breaks(index));
                    }
                }
                Output::NotPrepared { group, round } => {
                    self.coverage.saw("bundles are refused");
                    let Some(node) = &mut self.hosts[index].node else { continue };
                    let load = node.scheduler.as_ref().map(Scheduler::load).unwrap_or_default();
                    // As the head knows now, which the next beat may have to correct.
                    node.told = Some(load.clone());
                    self.tell_head(index, Up::Says(Input::Refused { node: id, group, round, load }));
                }
                _ => {}
            }
        }
        Ok(())
    }

    pub(super) fn arrive_down(&mut self, index: Index) -> Result<(), Violation> {
        let now = self.agenda.now();
        let host = &mut self.hosts[index];
        if host.cut_until.max(host.deaf_until) > now || host.paused_until > now && host.node.is_some() {
            self.agenda.after(Duration::from_millis(50), Event::Down(index));
            return Ok(());
        }
        let Some(Letter { connection, epoch, word }) = host.down.pop_front() else { return Ok(()) };
        let is_lost = connection != host.connection;
        let Some(node) = host.node.as_mut().filter(|_| !is_lost) else {
            self.coverage.saw("word is lost with its connection");
            return Ok(());
        };
        if epoch < node.knows {
            self.coverage.saw("word of an earlier head is not heard");
            return Ok(());
        }
        node.knows = epoch;
        self.steps.note(now, || format!("host {index} hears {word:?}"));
        match word {
            // What it was before it was fenced is not admitted any more.
            Down::Admitted { life, .. } if life != node.life => Ok(()),
            // Its first registration was answered, and it was declared dead before it heard of that.
            Down::Admitted { node: id, .. } if node.id.is_some_and(|own| own != id) => {
                self.fence(index);
                Ok(())
            }
            Down::Admitted { node: id, ended, .. } => self.admitted(index, id, connection, &ended),
            Down::Fenced => {
                self.fence(index);
                Ok(())
            }
            Down::Drain => {
                self.coverage.saw("node is drained");
                node.is_draining = true;
                let life = node.life;
                let delay = Duration::from_millis(500) + self.rng.span(3_000);
                self.agenda.after(delay, Event::Leaves { index, life });
                self.schedule(index, scheduler::Input::Drain)
            }
            Down::JobEnded(job) => self.job_ended(index, job),
            Down::Order(output) => self.ordered(index, output),
        }
    }

    fn fence(&mut self, index: Index) {
        self.last_life += 1;
        let life = self.last_life;
        let Some(node) = self.hosts[index].node.as_mut().filter(|node| node.id.is_some()) else { return };
        self.coverage.saw("node is fenced");
        (node.life, node.id, node.scheduler, node.job, node.told) = (life, None, None, None, None);
        (node.admitted, node.registered_at, node.is_draining) = (None, None, false);
        node.made.clear();
        node.removing.clear();
    }

    fn admitted(&mut self, index: Index, id: NodeId, connection: u64, ended: &[JobId]) -> Result<(), Violation> {
        let cpus = Amount::whole(self.hosts[index].cpus);
        let total = Resources { cpus, others: [(DISKS.to_owned(), cpus)].into(), ..Resources::default() };
        let mutant = self.mutant;
        let Some(node) = &mut self.hosts[index].node else { return Ok(()) };
        if node.id.is_none() {
            let scheduler = Scheduler::new(id, &total, BTreeMap::new());
            node.scheduler = Some(mutant.into_iter().fold(scheduler, Scheduler::with_mutant));
            node.id = Some(id);
        }
        (node.admitted, node.told, node.registered_at) = (Some(connection), None, None);
        ended.iter().try_for_each(|job| self.job_ended(index, *job))?;
        if self.may_cross(80) {
            self.hold_up(index, UP, 400);
        }
        self.tell_groups(index);
        let Some(node) = &mut self.hosts[index].node else { return Ok(()) };
        if node.job.is_none() {
            let job = JobId(self.jobs.len() as u64 + 1);
            node.job = Some(job);
            self.jobs.insert(job, id);
        }
        Ok(())
    }

    fn job_ended(&mut self, index: Index, job: JobId) -> Result<(), Violation> {
        let Some(node) = &mut self.hosts[index].node else { return Ok(()) };
        node.job = node.job.filter(|own| *own != job);
        node.made.retain(|_, (_, of, _)| *of != job);
        self.schedule(index, scheduler::Input::JobEnded { job })?;
        let Some(node) = &mut self.hosts[index].node else { return Ok(()) };
        if let (None, Some(id)) = (node.job, node.id) {
            let job = JobId(self.jobs.len() as u64 + 1);
            node.job = Some(job);
            self.jobs.insert(job, id);
        }
        Ok(())
    }

    /// Says all that a head must know of groups, which may be a new one.
    fn tell_groups(&mut self, index: Index) {
        let now = self.agenda.now();
        let Some((id, node)) = self.runs(index).and_then(|node| node.id.map(|id| (id, node))) else { return };
        let Some(scheduler) = &node.scheduler else { return };
        let held = scheduler.bundles_held();
        let groups = held.iter().map(|held| held.group).collect();
        let mut said = vec![Input::HoldsOnly { node: id, groups, ended: scheduler.groups_ended().collect() }];
        for Held { group, job, spec, bundles } in held {
            said.push(Input::Held { node: id, group, job, spec: spec.as_ref().clone(), bundles });
        }
        for (group, (is_ready, job, spec)) in &node.made {
            let (group, job, spec) = (*group, *job, spec.clone());
            said.push(match is_ready {
                true => Input::Made { group, job, spec },
                false => Input::Create { group, job, spec },
            });
        }
        if self.is_narrow && self.rng.chance(15) {
            // What no head has ever taken, and what none takes any more.
            self.coverage.saw("a group is said to be ready that cannot be");
            let is_late = self.head.as_ref().is_some_and(|head| head.recovers_until <= now);
            let bundles =
                if is_late { vec![Bundle { request: Request::ONE_CPU, ..Bundle::default() }] } else { vec![] };
            let number = if is_late { u64::MAX - 1 } else { u64::MAX };
            let (group, job) = (GroupId { process: ProcessId::new(id, 1), number }, JobId::default());
            said.push(Input::Made { group, job, spec: GroupSpec { bundles, ..GroupSpec::default() } });
        }
        let Some(node) = self.runs(index) else { return };
        said.extend(node.removing.iter().map(|group| Input::Remove { group: *group }));
        said.into_iter().for_each(|input| self.tell_head(index, Up::Says(input)));
    }

    fn ordered(&mut self, index: Index, output: Output) -> Result<(), Violation> {
        let Some(node) = &mut self.hosts[index].node else { return Ok(()) };
        match &output {
            Output::Ready { group, .. } => {
                if let Some((is_ready, ..)) = node.made.get_mut(group) {
                    *is_ready = true;
                }
            }
            Output::Ended { group, why } => {
                let was_made = node.made.remove(group).is_some();
                let is_refused = !matches!(why, groups::Ended::Removed { .. } | groups::Ended::JobEnded { .. });
                // That it was refused may reach others only, who tell the next head that it has ended.
                if was_made && (is_refused || self.is_narrow) {
                    self.witness.removed(*group);
                }
                node.removing.remove(group);
            }
            _ => {}
        }
        let (_, order) = output.into_order();
        self.schedule(index, scheduler::Input::Bundles(order))
    }
}
