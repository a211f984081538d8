//! A head that places groups, and the nodes that keep their bundles, while either dies, is cut off or starts again.
//!
//! Plays the membership, the sessions and the workers; all decisions are the real machines': the head's
//! [`Groups`](mobula_logic::groups::Groups), which a crash leaves with nothing, and each node's
//! [`Scheduler`](mobula_logic::Scheduler), which keeps bundles and gives other places out of the same amounts. Between a
//! node and its head words keep their order; they come late, twice, or are lost with their connection, after which the node
//! registers again and says what it keeps. After a while the faults stop; then every group that is wanted must lie where its
//! strategy says or wait with a true reason, and nothing else may be kept apart anywhere.

mod head;
mod node;
mod witness;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_logic::groups::{Input, Output};
use mobula_logic::scheduler::StartId;
use mobula_logic::{Mutant, Violation};
use mobula_types::{JobId, LeaseId, NodeId, NodeLoad, ProcessId, Time};

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;
use head::Chief;
use node::Node;
use witness::Witness;

/// Runs the head and the nodes of `seed` to their end, with `mutant` planted in every machine.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

/// Faults go on for so long.
const FAULTS_LAST: Duration = Duration::from_secs(20);
/// A node is declared dead, a head recovers, and what was prepared for a dead one is given back.
const QUIET: Duration = Duration::from_secs(20);
/// Between two looks of a machine's host at its time.
const TICK: Duration = Duration::from_millis(100);
/// More events than any run has had: a livelock.
const EVENTS_MAX: u64 = 100_000;

type Index = usize;

/// From a node to its head.
#[derive(Clone, Debug)]
enum Up {
    Register { node: Option<NodeId>, life: u64 },
    Beat { load: Option<NodeLoad> },
    Says(Input),
    JobEnds(JobId),
    Drained,
}

/// From the head to a node.
#[derive(Clone, Debug)]
enum Down {
    Admitted { node: NodeId, life: u64, ended: Vec<JobId> },
    Fenced,
    Order(Output),
    JobEnded(JobId),
    Drain,
}

/// A word is lost with the connection on which it was said.
#[derive(Clone, Debug)]
struct Letter<T> {
    connection: u64,
    epoch: u64,
    word: T,
}

#[derive(Debug)]
enum Event {
    Up(Index),
    Down(Index),
    Breaks(Index),
    HeadStarts,
    HeadFalls,
    HeadTick,
    NodeStarts(Index),
    NodeTick(Index),
    NodeBeats(Index),
    Wants(Index),
    Started { index: Index, life: u64, start: StartId },
    Returned { index: Index, life: u64, lease: LeaseId },
    Ended { index: Index, life: u64, process: ProcessId },
    Leaves { index: Index, life: u64 },
    Fault,
    Quiet,
    Judge,
}

struct Host {
    cpus: u64,
    node: Option<Node>,
    /// Which connection it has with its head.
    connection: u64,
    paused_until: Time,
    cut_until: Time,
    /// Until when it is heard and does not hear.
    deaf_until: Time,
    up: VecDeque<Letter<Up>>,
    down: VecDeque<Letter<Down>>,
    /// When the last word arrives, up and down.
    last: [Time; 2],
}

struct World {
    mutant: Option<Mutant>,
    rng: Rng,
    agenda: Agenda<Event>,
    coverage: Coverage,
    steps: Steps,
    fury: u64,
    /// Heads fall just when they have asked for bundles, and start again at once; connections break over what is to be kept.
    is_hasty: bool,
    /// The head takes few groups.
    is_narrow: bool,
    /// The head looks at few groups at once.
    is_hurried: bool,
    /// Nothing goes wrong but that nodes are heard and do not hear.
    is_deaf: bool,
    /// What nodes say when they register crosses what the head says of a round.
    is_crossed: bool,
    is_quiet: bool,
    events: u64,
    hosts: Vec<Host>,
    head: Option<Chief>,
    epoch: u64,
    /// The head's store: which nodes belong, with their host and its life, whose each job is, and which have ended.
    lives: BTreeMap<NodeId, (Index, u64)>,
    last_node: u64,
    jobs: BTreeMap<JobId, NodeId>,
    ended_jobs: BTreeSet<JobId>,
    last_life: u64,
    witness: Witness,
}

impl world::World for World {
    const NAME: &'static str = "groups";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x6772_6f75);
        let fury = *rng.pick(&[20, 60, 100]);
        let is_deaf = seed % 8 == 1;
        let is_hasty = rng.chance(30) && !is_deaf;
        let host = |rng: &mut Rng| Host {
            cpus: 2 + rng.below(5),
            node: None,
            connection: 0,
            paused_until: Time::ZERO,
            cut_until: Time::ZERO,
            deaf_until: Time::ZERO,
            up: VecDeque::new(),
            down: VecDeque::new(),
            last: [Time::ZERO; 2],
        };
        let hosts = (0..3 + rng.below(3)).map(|_| host(&mut rng)).collect();
        Self {
            mutant,
            rng,
            agenda: Agenda::default(),
            coverage: Coverage::default(),
            steps: Steps::new(records),
            fury,
            is_hasty,
            is_narrow: seed % 8 == 5,
            is_hurried: seed % 8 == 2,
            is_deaf,
            is_crossed: seed.is_multiple_of(4),
            is_quiet: false,
            events: 0,
            hosts,
            head: None,
            epoch: 0,
            lives: BTreeMap::new(),
            last_node: 0,
            jobs: BTreeMap::new(),
            ended_jobs: BTreeSet::new(),
            last_life: 0,
            witness: Witness::default(),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        self.agenda.after(Duration::ZERO, Event::HeadStarts);
        self.agenda.after(TICK, Event::HeadTick);
        for index in 0..self.hosts.len() {
            self.agenda.after(self.rng.span(100), Event::NodeStarts(index));
            self.agenda.after(self.rng.span(100), Event::NodeTick(index));
            self.agenda.after(self.rng.span(200), Event::NodeBeats(index));
            self.agenda.after(self.rng.span(1_000), Event::Wants(index));
        }
        self.agenda.after(Duration::from_secs(2), Event::Fault);
        self.agenda.after(FAULTS_LAST, Event::Quiet);
        self.agenda.after(FAULTS_LAST + QUIET, Event::Judge);
        while let Some(event) = self.agenda.step() {
            self.events += 1;
            ensure(self.events < EVENTS_MAX, "GRP-9", || "it never comes to rest".into())?;
            match event {
                Event::Judge => break,
                event => self.happen(event)?,
            }
        }
        self.judge()
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Up(index) => self.arrive_up(index),
            Event::Down(index) => self.arrive_down(index),
            Event::HeadStarts => self.start_head(),
            Event::Breaks(index) => {
                self.break_connection(index);
                Ok(())
            }
            Event::HeadFalls => {
                self.head_falls();
                Ok(())
            }
            Event::HeadTick => {
                self.agenda.after(TICK, Event::HeadTick);
                self.head_tick()
            }
            Event::NodeStarts(index) => {
                self.start_node(index);
                Ok(())
            }
            Event::NodeTick(index) => {
                self.agenda.after(TICK, Event::NodeTick(index));
                self.node_tick(index)
            }
            Event::NodeBeats(index) => {
                self.agenda.after(Duration::from_millis(200), Event::NodeBeats(index));
                self.node_beats(index);
                Ok(())
            }
            Event::Wants(index) => {
                let delay = Duration::from_millis(50) + self.rng.span(400);
                self.agenda.after(delay, Event::Wants(index));
                self.node_wants(index)
            }
            Event::Started { index, life, start } => self.worker_started(index, life, start),
            Event::Returned { index, life, lease } => self.lease_returned(index, life, lease),
            Event::Ended { index, life, process } => self.worker_ended(index, life, process),
            Event::Leaves { index, life } => {
                self.node_leaves(index, life);
                Ok(())
            }
            Event::Fault => self.strike(),
            Event::Quiet => {
                self.is_quiet = true;
                let now = self.agenda.now();
                for host in &mut self.hosts {
                    (host.paused_until, host.cut_until, host.deaf_until) = (now, now, now);
                }
                Ok(())
            }
            Event::Judge => Ok(()),
        }
    }

    /// One misfortune, and when the next comes.
    fn strike(&mut self) -> Result<(), Violation> {
        if self.is_quiet || self.is_deaf {
            return Ok(());
        }
        let delay = Duration::from_millis(100) + self.rng.span(100_000 / (self.fury + 20));
        self.agenda.after(delay, Event::Fault);
        let now = self.agenda.now();
        let index = self.rng.below(self.hosts.len() as u64) as usize;
        let span = Duration::from_millis(200) + self.rng.span(6_000);
        match self.rng.below(12) {
            0..3 => self.break_connection(index),
            3 | 4 if self.head.is_some() => self.kill_head(),
            5 | 6 if self.hosts[index].node.is_some() => {
                self.coverage.saw("node is killed");
                self.kill_node(index);
            }
            7 | 8 => {
                self.coverage.saw("node is cut off");
                self.hosts[index].cut_until = now + span;
            }
            9 => {
                self.coverage.saw("node is stopped for a while");
                self.hosts[index].paused_until = now + span;
            }
            10 => self.order_drain(index),
            _ => self.end_own_job(index),
        }
        Ok(())
    }

    fn break_connection(&mut self, index: Index) {
        self.coverage.saw("connection breaks");
        self.hosts[index].connection += 1;
    }

    fn goes_wrong(&mut self, percent: u64) -> bool {
        !self.is_quiet && self.rng.below(100 * 100) < percent * self.fury
    }

    fn may_cross(&mut self, percent: u64) -> bool {
        self.is_crossed && !self.is_quiet && self.rng.chance(percent)
    }

    /// The next words on a way are late.
    fn hold_up(&mut self, index: Index, way: usize, max_ms: u64) {
        let until = self.agenda.now() + self.rng.span(max_ms);
        let last = &mut self.hosts[index].last[way];
        *last = until.max(*last);
    }

    /// When a word arrives: after the one before it, and late when packets are lost.
    fn arrives(&mut self, index: Index, way: usize) -> Time {
        let delay = match self.goes_wrong(5) {
            true => {
                self.coverage.saw("packet is lost and sent again");
                Duration::from_millis(50) + self.rng.span(600)
            }
            false => Duration::from_micros(100 + self.rng.below(5_000)),
        };
        let last = &mut self.hosts[index].last[way];
        *last = (*last).max(self.agenda.now() + delay);
        *last
    }
}

/// The two ways between a node and its head.
const DOWN: usize = 0;
const UP: usize = 1;
