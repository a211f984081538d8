//! A cluster: a head, nodes, workers and drivers, on hosts that crash, stop and are cut off.
//!
//! Plays the hosts, the network and the programs; all decisions are the real machines': each node has its
//! [`Scheduler`](mobula_logic::Scheduler) and a [`Session`](mobula_logic::Session) with every other, each driver its
//! [`Dispatch`](mobula_logic::Dispatch) with a [`Task`](mobula_logic::Task) for each submission and a
//! [`Home`](mobula_logic::Home) for each actor. Clocks of hosts run at rates of their own. After some seconds all is
//! healed and started again; ten seconds later nothing may be pending, and when the actors have been stopped every lease
//! must be back.

mod bundles;
mod event;
mod faults;
mod mesh;
mod node;
mod process;
mod witness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_logic::{Mutant, Violation};
use mobula_types::resources::Resources;
use mobula_types::{Death, GroupId, NodeId, ProcessId, Time};

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;
use event::{ConnectionId, Event, HostIndex, Talk};
use mesh::{Connection, End};
use node::{Head, Node};
use process::Process;
use witness::Witness;

/// Runs the cluster of `seed` to its end, with `mutant` planted in every machine.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

struct World {
    mutant: Option<Mutant>,
    rng: Rng,
    agenda: Agenda<Event>,
    coverage: Coverage,
    steps: Steps,
    /// How often something goes wrong, in percent of the chances.
    fury: u64,
    /// Tasks wait for others now and then, and their CPUs are lent meanwhile.
    lends: bool,
    /// Few requests may wait on a node.
    is_narrow: bool,
    /// Chance for what only some seeds have, so that it changes no other.
    forger: Rng,
    /// Nodes break the rules of sessions.
    is_forged: bool,
    /// Connections on which that has happened.
    forged: BTreeSet<ConnectionId>,
    /// Places retire after a few tasks, tasks are ended by force, and programs say what they were built for.
    is_picky: bool,
    /// Nodes keep bundles of placement groups.
    is_grouped: bool,
    groups: Vec<GroupId>,
    /// How large every frame is.
    frame_bytes: usize,
    phase: Phase,
    events: u64,
    hosts: Vec<Host>,
    head: Head,
    nodes: BTreeMap<NodeId, Node>,
    processes: BTreeMap<ProcessId, Process>,
    deaths: BTreeMap<ProcessId, Death>,
    ends: BTreeMap<(NodeId, NodeId), End>,
    connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    /// Ways that nothing gets through.
    cuts: BTreeMap<(HostIndex, HostIndex), ()>,
    /// When the last word between two processes of a host arrives.
    fifo: BTreeMap<(ProcessId, ProcessId), Time>,
    /// What nodes have heard and not yet handled.
    inbox: VecDeque<(NodeId, NodeId, Talk)>,
    /// Nodes that the head is about to declare dead.
    doomed: VecDeque<NodeId>,
    /// Nodes that take nothing new and end when the faults do.
    drained: Vec<NodeId>,
    witness: Witness,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Faults,
    Quiet,
    Stopping,
}

struct Host {
    /// How fast its clock runs, in thousandths.
    rate: u64,
    paused_until: Option<Time>,
    node: Option<NodeId>,
    total: Resources,
    labels: BTreeMap<String, String>,
    drivers: u64,
}

impl world::World for World {
    const NAME: &'static str = "cluster";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        let mut rng = Rng::new(seed);
        let fury = *rng.pick(&[20, 50, 100]);
        let lends = rng.chance(30);
        let hosts = faults::hosts(&mut rng);
        Self {
            mutant,
            rng,
            agenda: Agenda::default(),
            coverage: Coverage::default(),
            steps: Steps::new(records),
            fury,
            lends,
            is_narrow: seed % 32 == 5,
            forger: Rng::new(seed ^ 0x666f_7267),
            is_forged: seed % 16 == 3,
            is_picky: seed % 16 == 9,
            is_grouped: matches!(seed % 16, 1 | 2 | 6 | 11 | 13 | 15),
            groups: Vec::new(),
            forged: BTreeSet::new(),
            frame_bytes: if seed % 16 == 7 { LARGE_FRAME_BYTES } else { 100 },
            phase: Phase::Faults,
            events: 0,
            hosts,
            head: Head::default(),
            nodes: BTreeMap::new(),
            processes: BTreeMap::new(),
            deaths: BTreeMap::new(),
            ends: BTreeMap::new(),
            connections: BTreeMap::new(),
            next_connection: 0,
            cuts: BTreeMap::new(),
            fifo: BTreeMap::new(),
            inbox: VecDeque::new(),
            doomed: VecDeque::new(),
            drained: Vec::new(),
            witness: Witness::default(),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        for host in 0..self.hosts.len() {
            self.agenda.after(Duration::from_millis(host as u64), Event::StartNode { host });
        }
        self.agenda.after(Duration::from_millis(500), Event::Fault);
        if self.is_grouped {
            self.agenda.after(Duration::from_millis(500), Event::Group);
        }
        self.agenda.after(FAULTS_LAST, Event::Quiet);
        self.agenda.after(FAULTS_LAST + QUIET, Event::Stop);
        self.agenda.after(FAULTS_LAST + QUIET + STOPPING, Event::Judge);
        while let Some(event) = self.agenda.step() {
            let now = self.agenda.now();
            if let Some(resumes) = self.resumes(&event) {
                self.agenda.at(resumes, event);
                continue;
            }
            self.events += 1;
            ensure(self.events < EVENTS_MAX, "TASK-1", || "it never comes to rest".into())?;
            self.steps.note(now, || format!("{event:?}"));
            if matches!(event, Event::Judge) {
                break;
            }
            self.happen(event)?;
            self.settle()?;
        }
        self.judge()
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    /// Handles what nodes have heard meanwhile.
    fn settle(&mut self) -> Result<(), Violation> {
        loop {
            if let Some((node, peer, talk)) = self.inbox.pop_front() {
                let now = self.agenda.now();
                self.steps.note(now, || format!("  {node} hears {peer}: {talk:?}"));
                self.hear(node, peer, talk)?;
            } else if let Some(node) = self.doomed.pop_front() {
                self.declare_dead(node)?;
            } else {
                return Ok(());
            }
        }
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Pump { connection, way, lane } => self.pump(connection, way, lane),
            Event::Offered { connection, from, to, offer } => self.offered(connection, from, to, offer),
            Event::Answered { connection, from, to, offer } => self.answered(connection, from, to, offer),
            Event::DialFails { node, peer, link, number, refused } => {
                self.dial_fails(node, peer, link, number, refused)
            }
            Event::Lost { node, peer, connection } => self.lost(node, peer, connection),
            Event::Probed { node, peer } => self.probed(node, peer),
            Event::SessionTick { node, peer } => self.session_tick(node, peer),
            Event::MayDial { node, peer } => self.may_dial(node, peer),
            Event::SchedulerTick { node } => self.scheduler_tick(node),
            Event::ProcessTick { process } => self.process_tick(process),
            Event::ActorTick { actor } => self.actor_tick(actor),
            Event::Word { from, to, word } => self.hear_word(from, to, word),
            Event::WorkerStarts { node, start, job } => self.worker_starts(node, start, job),
            Event::WorkerFails { node, start } => self.worker_fails(node, start),
            Event::Dies { process, cause } => self.dies(process, cause),
            Event::RunBegins { process, task, attempt } => self.run_begins(process, task, attempt),
            Event::RunEnds { process, task, attempt } => {
                self.run_ends(process, task, attempt);
                Ok(())
            }
            Event::ActorEnds { process, actor, incarnation } => {
                self.actor_ends(process, actor, incarnation);
                Ok(())
            }
            Event::Beat { node } => self.beat(node),
            Event::Act { process } => self.act(process),
            Event::Restart { actor } => self.tell_home(actor, mobula_logic::home::Input::Start),
            Event::StopActor { actor } => self.stop(actor),
            Event::StartNode { host } => self.start_node(host),
            Event::StartDriver { host } => {
                self.start_driver(host);
                Ok(())
            }
            Event::Fault => self.strike(),
            Event::Group => self.group(),
            Event::Quiet => {
                self.heal();
                self.end_groups()
            }
            Event::Stop => self.stop_all(),
            Event::Judge => Ok(()),
        }
    }

    /// When the host of an event runs again, if it is stopped now.
    fn resumes(&self, event: &Event) -> Option<Time> {
        let node = match event {
            Event::Pump { .. } | Event::StartNode { .. } | Event::StartDriver { .. } => return None,
            Event::Offered { to: node, .. } | Event::Answered { to: node, .. } => *node,
            Event::DialFails { node, .. }
            | Event::Lost { node, .. }
            | Event::Probed { node, .. }
            | Event::SessionTick { node, .. }
            | Event::MayDial { node, .. }
            | Event::SchedulerTick { node }
            | Event::WorkerStarts { node, .. }
            | Event::WorkerFails { node, .. }
            | Event::Beat { node } => *node,
            Event::ProcessTick { process }
            | Event::Word { to: process, .. }
            | Event::Dies { process, .. }
            | Event::RunBegins { process, .. }
            | Event::RunEnds { process, .. }
            | Event::ActorEnds { process, .. }
            | Event::Act { process } => process.node(),
            Event::ActorTick { actor } | Event::Restart { actor } | Event::StopActor { actor } => actor.0.node(),
            Event::Fault | Event::Group | Event::Quiet | Event::Stop | Event::Judge => return None,
        };
        let host = self.nodes.get(&node)?.host;
        self.hosts[host].paused_until.filter(|until| *until > self.agenda.now())
    }

    /// In the end nothing is pending anywhere.
    fn judge(&mut self) -> Result<(), Violation> {
        let lives = self.hosts.iter().all(|host| host.node.is_some());
        ensure(lives, "MEMBER", || "a node did not come back".into())?;
        self.witness.judge_leases(|process| self.processes.contains_key(&process))?;
        for (id, node) in &self.nodes {
            let scheduler = &node.scheduler;
            ensure(scheduler.leases() == 0, "SCHED-3", || {
                format!("{id} has leases: {:?}", scheduler.held().collect::<Vec<_>>())
            })?;
            ensure(scheduler.waiting() == 0, "SCHED-4", || format!("{} requests wait on {id}", scheduler.waiting()))?;
            let load = scheduler.load();
            ensure(load.free == load.total, "SCHED-1", || format!("{id} has free {load:?}"))?;
        }
        for (process, life) in &self.processes {
            let places = life.dispatch.places();
            ensure(places == (0, 0), "DISP-6", || format!("{process} still has places: {places:?}"))?;
            ensure(life.requests.is_empty(), "SCHED-4", || format!("{process} still waits for {:?}", life.requests))?;
        }
        if self.events >= 2_000 {
            self.saw("2000 events and more");
        }
        Ok(())
    }

    fn saw(&mut self, what: &'static str) {
        self.coverage.saw(what);
    }

    fn goes_wrong(&mut self, percent: u64) -> bool {
        self.phase == Phase::Faults && self.rng.below(100 * 100) < percent * self.fury
    }

    fn plant<M>(&self, machine: M, with_mutant: fn(M, Mutant) -> M) -> M {
        self.mutant.into_iter().fold(machine, with_mutant)
    }

    /// What the clock of a node's host shows.
    fn local(&self, node: NodeId) -> Time {
        let rate = self.nodes.get(&node).map_or(1_000, |node| self.hosts[node.host].rate);
        Time::from_nanos(self.agenda.now().as_nanos() / 1_000 * rate)
    }

    /// When the clock of a node's host shows `local`.
    fn real(&self, node: NodeId, local: Time) -> Time {
        let rate = self.nodes.get(&node).map_or(1_000, |node| self.hosts[node.host].rate);
        Time::from_nanos(local.as_nanos().div_ceil(rate).saturating_mul(1_000))
    }
}

/// Notes that a machine wants to be woken at `due`; the time when an event for that is needed.
fn earlier(wakes_at: &mut Option<Time>, due: Option<Time>) -> Option<Time> {
    let due = due.filter(|due| wakes_at.is_none_or(|at| *due < at))?;
    *wakes_at = Some(due);
    Some(due)
}

/// With a few frames as large as this a session is full.
const LARGE_FRAME_BYTES: usize = 6 << 20;
/// Faults go on for so long.
const FAULTS_LAST: Duration = Duration::from_secs(6);
/// After the last fault nothing may be pending for longer.
const QUIET: Duration = Duration::from_secs(10);
/// Leases that are idle are given back after half a second, over a network that is slow.
const STOPPING: Duration = Duration::from_secs(2);
/// More events than any run has had: a livelock.
const EVENTS_MAX: u64 = 400_000;
