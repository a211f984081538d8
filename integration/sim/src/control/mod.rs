//! A head and the nodes that register with it, on hosts that crash, stop and are cut off.
//!
//! Plays the hosts, the network and the disk; all decisions are the real machines': the head is
//! [`Head`](mobula_logic::Head), which a crash leaves with what its disk had, and each node has its
//! [`Lease`](mobula_logic::Lease) and its [`View`](mobula_logic::membership::View). Clocks of nodes run at rates of their
//! own. Actors with names move from node to node and claim their names again. A *copy* of an earlier head speaks now and
//! then. After a while the faults stop; then every node must belong to the cluster and no claim may wait.
//!
//! Some misfortunes need a run of their own, so some seeds have a `Course`.

mod chief;
mod node;
mod witness;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mobula_logic::directory::Claim;
use mobula_logic::membership::Refusal;
use mobula_logic::record::TokenId;
use mobula_logic::{Mutant, Violation};
use mobula_types::{
    ActorId, Beat, BeatAnswer, Death, Fencing, HeadId, NameKey, NodeId, Registration, Time, ViewChange,
};

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;
use chief::Chief;
use node::Node;
use witness::Witness;

/// Runs the head and the nodes of `seed` to their end, with `mutant` planted in every machine.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

const FAULTS_LAST: Duration = Duration::from_secs(40);

/// The longest wait after the last fault: a claim's 15 s, after a registration within a few.
const QUIET_LASTS: Duration = Duration::from_secs(25);

/// Between two looks of a host at its own time.
const TICK: Duration = Duration::from_millis(100);

/// An actor that does not stop when it is told to goes on for so long: longer than a claim waits for it.
const STUBBORN_FROM: Duration = Duration::from_secs(16);

const NAMES: u64 = 3;
const TOKENS: u64 = 4;

type Index = usize;

/// Whose clock runs far too slowly, where one does.
const SLOW: Index = 0;

/// What is likelier in a seed than in others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    /// Nothing.
    Plain,
    /// The head is away for longer than nodes wait for one.
    NoHead,
    /// Nodes are heard and do not hear, for longer than their leases run, and want names meanwhile.
    Deaf,
    /// Actors do not stop when they are told to. Other faults begin late: a dead node's names would be free too early.
    Stubborn,
    /// The head's disk takes seconds for a write, so what is asked is asked again.
    SlowDisk,
    /// Nodes leave.
    Leaving,
    /// The clock of one node runs far too slowly, and the head stops for so long that the node's lease has run out for the
    /// head alone. Nobody promises what that node does until it hears of it.
    SlowClock,
}

impl Course {
    const ALL: &[Self] = &[
        Self::Plain,
        Self::NoHead,
        Self::Deaf,
        Self::Stubborn,
        Self::SlowDisk,
        Self::SlowDisk,
        Self::Leaving,
        Self::SlowClock,
    ];

    fn faults_begin(self) -> Duration {
        Duration::from_secs(if self == Self::Stubborn { 25 } else { 2 })
    }
}

struct World {
    mutant: Option<Mutant>,
    rng: Rng,
    agenda: Agenda<Event>,
    coverage: Coverage,
    steps: Steps,
    fury: u64,
    course: Course,
    is_quiet: bool,
    chief: Chief,
    nodes: Vec<Node>,
    /// What is on its way, to the head and from it, of each node: order holds.
    up: Vec<VecDeque<Letter<ToHead>>>,
    down: Vec<VecDeque<Letter<FromHead>>>,
    /// When the last of each arrives.
    last_up: Vec<Time>,
    last_down: Vec<Time>,
    /// Which start of which node asked, and who is to have what was asked for.
    asks: BTreeMap<u64, (Index, u64)>,
    next_ask: u64,
    next_start: u64,
    /// Whose each name is wanted for, and which life of it.
    actors: Vec<(ActorId, u32)>,
    tokens_made: u64,
    witness: Witness,
}

/// A letter is lost with the process that it is for.
#[derive(Clone, Debug)]
struct Letter<T> {
    start: u64,
    said: T,
}

#[derive(Clone, Debug)]
enum ToHead {
    Register(u64, Registration),
    Beat(NodeId, Beat),
    Drained(NodeId),
    Claim(u64, NodeId, Claim),
    Release(NodeId, NameKey, ActorId),
    Stopped(NodeId, NameKey, Fencing),
    TokenUse(u64, TokenId, [u8; 32]),
}

#[derive(Clone, Debug)]
struct FromHead {
    head: HeadId,
    said: Said,
}

#[derive(Clone, Debug)]
enum Said {
    Admitted { ask: u64, node: NodeId, term: u64, view: ViewChange },
    Refused { ask: u64, why: Refusal },
    Beat(BeatAnswer),
    Fenced,
    Died(Death),
    Drain,
    Revoke(NameKey, Fencing),
    Claimed { ask: u64, key: NameKey, grant: Option<(ActorId, NodeId, Fencing, u64)> },
}

#[derive(Clone, Debug)]
enum Event {
    Tick(Index),
    HeadTick,
    Up(Index),
    Down(Index),
    /// A node hears what comes to it on a way of its own: a copy of an earlier head, or a late welcome.
    Aside(Index, FromHead),
    /// A process registers that has been followed by another.
    Twin(u64, Registration),
    Synced(u64, u64),
    Fault,
    /// The head crashes, and nobody starts it for longer than nodes wait for one.
    HeadGoes,
    Restart(Index),
    HeadRestart,
    Quiet,
    End,
}

impl world::World for World {
    const NAME: &'static str = "control";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        let mut rng = Rng::new(seed);
        let course = *rng.pick(Course::ALL);
        let fury = if course == Course::NoHead { 20 } else { *rng.pick(&[20, 60, 100]) };
        let count = 3 + rng.below(2) as usize;
        // The margins of a lease are 2 s in 10: clocks may differ by a tenth and more.
        let mut nodes: Vec<Node> = (0..count).map(|index| Node::new(index, 950 + rng.below(101), mutant)).collect();
        if course == Course::SlowClock {
            nodes[SLOW] = Node::new(SLOW, 700, mutant);
        }
        Self {
            rng,
            agenda: Agenda::default(),
            coverage: Coverage::default(),
            steps: Steps::new(records),
            fury,
            course,
            is_quiet: false,
            mutant,
            chief: Chief::new(mutant),
            nodes,
            up: vec![VecDeque::new(); count],
            down: vec![VecDeque::new(); count],
            last_up: vec![Time::ZERO; count],
            last_down: vec![Time::ZERO; count],
            asks: BTreeMap::new(),
            next_ask: 0,
            next_start: 0,
            actors: Vec::new(),
            tokens_made: 0,
            witness: Witness::default(),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        for index in 0..self.nodes.len() {
            self.next_start += 1;
            self.nodes[index].begin(self.next_start, Time::ZERO);
            let delay = self.rng.span(100);
            self.agenda.after(delay, Event::Tick(index));
        }
        self.agenda.after(TICK, Event::HeadTick);
        self.agenda.after(self.course.faults_begin(), Event::Fault);
        if self.course == Course::NoHead {
            self.agenda.after(Duration::from_secs(3), Event::HeadGoes);
        }
        self.agenda.after(FAULTS_LAST, Event::Quiet);
        self.agenda.after(FAULTS_LAST + QUIET_LASTS, Event::End);
        while let Some(event) = self.agenda.step() {
            let now = self.agenda.now();
            if matches!(event, Event::Synced(..) | Event::Restart(_) | Event::HeadRestart | Event::Quiet) {
                self.steps.note(now, || format!("{event:?}"));
            }
            if matches!(event, Event::End) {
                return self.end();
            }
            self.happen(event)?;
            self.check()?;
        }
        Ok(())
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Tick(index) => self.tick(index)?,
            Event::HeadTick => {
                self.agenda.after(TICK, Event::HeadTick);
                self.head_tick()?;
            }
            Event::Up(index) => self.arrive_up(index)?,
            Event::Down(index) => self.arrive_down(index)?,
            Event::Aside(index, letter) => {
                if self.nodes[index].runs_at(self.agenda.now()) {
                    self.hear_head(index, letter)?;
                }
            }
            Event::Twin(ask, registration) => self.twin_registers(ask, registration)?,
            Event::Synced(epoch, batch) => self.synced(epoch, batch)?,
            Event::Fault => self.fault(),
            Event::HeadGoes => self.head_goes(),
            Event::Restart(index) => self.restart(index),
            Event::HeadRestart => self.restart_head()?,
            Event::Quiet => self.quiet()?,
            Event::End => {}
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), Violation> {
        let now = self.agenda.now();
        let runs = || self.nodes.iter().filter(|node| node.runs_at(now));
        if self.mutant.is_some() {
            self.chief.check()?;
            runs().try_for_each(|node| mobula_logic::lease::check(&node.lease))?;
        }
        // G7: at one moment at most one acts under a name.
        let mut acting = BTreeMap::new();
        for node in runs().filter(|node| self.course != Course::SlowClock || node.index != SLOW) {
            for key in node.acts_under(now) {
                let before = acting.insert(key, node.index);
                ensure(before.is_none(), "G7", || format!("hosts {before:?} and {} act under {key}", node.index))?;
            }
        }
        Ok(())
    }

    fn fault(&mut self) {
        if self.is_quiet {
            return;
        }
        let gap = Duration::from_millis(100 + self.rng.below(300_000 / (self.fury + 1)) / 2);
        self.agenda.after(gap, Event::Fault);
        let now = self.agenda.now();
        let index = self.rng.below(self.nodes.len() as u64) as usize;
        let span = Duration::from_millis(self.rng.below(14_000));
        match self.rng.below(12) {
            _ if self.course == Course::SlowClock && !self.chief.runs_at(now) => {}
            _ if self.course == Course::SlowClock => {
                self.coverage.saw("head stops for as long as a lease");
                self.chief.paused_until = Some(now + Duration::from_secs(10) + self.rng.span(2_000));
            }
            0 | 1 if self.may_crash_head() => {
                self.coverage.saw("head crashes");
                self.crash_head();
                let delay = self.rng.span(3_000);
                self.agenda.after(delay, Event::HeadRestart);
            }
            2 if self.chief.is_up() => {
                self.coverage.saw("head stops");
                self.chief.paused_until = Some(now + span);
            }
            3 | 4 if self.nodes[index].is_up() => {
                self.coverage.saw("node crashes");
                self.crash(index);
                // The one before may not be on the disk yet.
                let delay = self.rng.span(if self.course == Course::SlowDisk { 1_500 } else { 4_000 });
                self.agenda.after(delay, Event::Restart(index));
            }
            5 | 6 if self.nodes[index].is_up() => {
                self.coverage.saw("node stops");
                self.nodes[index].pause(now, now + span);
            }
            7..10 if self.course == Course::Deaf => self.deafen(index),
            7 | 8 => {
                self.coverage.saw("node is cut off");
                self.nodes[index].cut(now, now + span, true, true);
            }
            9 => {
                self.coverage.saw("node is cut off one way");
                let up = self.rng.chance(50);
                self.nodes[index].cut(now, now + span, up, !up);
            }
            10 if self.chief.is_up() => {
                self.coverage.saw("disk is full");
                self.chief.full_until = Some(now + Duration::from_millis(self.rng.below(5_000)));
            }
            _ if self.rng.chance(50) => self.register_as_twin(index),
            _ => self.speak_as_copy(index),
        }
    }

    /// What is told while the disk is full may be lost with the head: a death is not held back for a disk.
    fn may_crash_head(&self) -> bool {
        self.chief.is_up() && !self.chief.is_full() && self.chief.has_kept(self.witness.dead())
    }

    fn head_goes(&mut self) {
        if !self.may_crash_head() {
            self.agenda.after(Duration::from_millis(100), Event::HeadGoes);
            return;
        }
        self.coverage.saw("head is away for long");
        self.crash_head();
        let delay = Duration::from_secs(31) + self.rng.span(2_000);
        self.agenda.after(delay, Event::HeadRestart);
    }

    /// A node is heard and does not hear, until its lease is over; what it wants is granted to it.
    fn deafen(&mut self, index: Index) {
        self.coverage.saw("node is cut off one way");
        let now = self.agenda.now();
        let until = now + Duration::from_secs(9) + self.rng.span(5_000);
        self.nodes[index].cut(now, until, false, true);
        if let Some(id) = self.nodes[index].id.filter(|_| self.nodes[index].runs_at(now)) {
            (0..NAMES).for_each(|name| self.want(index, id, name));
        }
    }

    fn quiet(&mut self) -> Result<(), Violation> {
        self.is_quiet = true;
        let now = self.agenda.now();
        for node in &mut self.nodes {
            node.heal(now);
        }
        self.chief.paused_until = None;
        self.chief.full_until = None;
        for index in 0..self.nodes.len() {
            if !self.nodes[index].is_up() {
                self.restart(index);
            }
        }
        if !self.chief.is_up() {
            self.restart_head()?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Violation> {
        let now = self.agenda.now();
        self.chief.check()?;
        for node in &self.nodes {
            ensure(node.id.is_some(), "G12", || format!("host {} does not belong to the cluster", node.index))?;
            let waits = node.claims.iter().find(|(_, (since, _))| now.since(*since) > Duration::from_secs(20));
            ensure(waits.is_none(), "G7", || format!("host {} waits for {waits:?}", node.index))?;
        }
        ensure(self.chief.read_only().is_none(), "G16", || "the head is read-only".to_owned())
    }
}

fn key(name: u64) -> NameKey {
    NameKey::shared("default", format!("name-{name}"))
}
