//! A node that gets payloads for its processes: what one process lends, and copies of objects that several nodes have,
//! whole or only in part yet. Sources refuse, fail and die, and processes end.
//!
//! The witness knows what every range holds, and who has refused: it sees who is asked, what is written in a room, and that
//! nothing is written in it after its end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_logic::haul::{self, Bounds, HaulId, Input, Output, Sources, What};
use mobula_logic::{Hauls, Mutant, Violation};
use mobula_types::{NodeId, ObjectId, ProcessId, StateMachine, Time};

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;

/// Runs the node of `seed` until nothing is moved any more, with `mutant` planted in it.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

const HERE: NodeId = NodeId(1);
/// Nodes that may have something.
const SOURCES: u64 = 6;
const PROCESSES: u32 = 4;
/// Payloads of one run.
const HAULS: u64 = 12;
const BOUNDS: Bounds = Bounds { range_bytes: 10, haul_ranges_max: 2, ranges_max: 7, hauls_max: 8, failures_max: 2 };
/// A range takes at most so long, or fails by then.
const DELAY_MAX_MS: u64 = 40;

struct World {
    rng: Rng,
    agenda: Agenda<Event>,
    machine: Hauls,
    open: BTreeMap<HaulId, Open>,
    dead: BTreeSet<NodeId>,
    ended: BTreeSet<ProcessId>,
    begun: u64,
    coverage: Coverage,
    steps: Steps,
}

/// A payload as the world knows it.
struct Open {
    bytes: u64,
    sources: Sources,
    /// Who has it only in part, and gives nothing beyond that.
    has: BTreeMap<NodeId, u64>,
    refused: BTreeSet<NodeId>,
    /// Ranges on their way.
    in_flight: BTreeMap<u64, (u32, NodeId)>,
    written: BTreeMap<u64, u32>,
    is_stopped: bool,
}

#[derive(Debug)]
enum Event {
    Begin,
    Lands { haul: HaulId, offset: u64, how: How },
    Stop,
    ProcessEnds,
    NodeDies,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Comes,
    Fails,
    IsRefused,
}

impl world::World for World {
    const NAME: &'static str = "hauls";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        Self {
            rng: Rng::new(seed ^ 0x6861_756c),
            agenda: Agenda::default(),
            machine: mutant.into_iter().fold(Hauls::bounded(BOUNDS), Hauls::with_mutant),
            open: BTreeMap::new(),
            dead: BTreeSet::new(),
            ended: BTreeSet::new(),
            begun: 0,
            coverage: Coverage::default(),
            steps: Steps::new(records),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        for number in 0..HAULS {
            let delay = self.rng.span(300);
            self.agenda.after(delay, Event::Begin);
            if number % 6 == 0 {
                for event in [Event::Stop, Event::ProcessEnds, Event::NodeDies] {
                    let delay = self.rng.span(300);
                    self.agenda.after(delay, event);
                }
            }
        }
        while let Some(event) = self.agenda.step() {
            let now = self.agenda.now();
            self.steps.note(now, || format!("{event:?}"));
            self.happen(event)?;
        }
        ensure(self.open.is_empty(), "HAUL-4", || format!("{:?} never end", self.open.keys()))
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Begin => self.begin(),
            Event::Lands { haul, offset, how } => self.lands(haul, offset, how),
            Event::Stop => {
                let open: Vec<HaulId> = self.open.keys().copied().collect();
                let Some(haul) = (!open.is_empty()).then(|| *self.rng.pick(&open)) else { return Ok(()) };
                self.coverage.saw("a payload is not wanted");
                self.stopped(|it| it == haul);
                self.drive(Input::Stop { haul })
            }
            Event::ProcessEnds => {
                let process = self.process();
                self.coverage.saw("a process ends");
                self.ended.insert(process);
                self.stopped(|it| it.to == process);
                self.drive(Input::Gone { process })
            }
            Event::NodeDies => {
                let node = NodeId(2 + self.rng.below(SOURCES));
                self.coverage.saw("a node dies");
                self.dead.insert(node);
                self.stopped(|it| matches!(it.what, What::Lent { from, .. } if from.node() == node));
                self.drive(Input::Gone { process: node.into() })
            }
        }
    }

    fn process(&mut self) -> ProcessId {
        ProcessId::new(HERE, 1 + self.rng.below(PROCESSES.into()) as u32)
    }

    fn stopped(&mut self, is_it: impl Fn(HaulId) -> bool) {
        self.open.iter_mut().filter(|(haul, _)| is_it(**haul)).for_each(|(_, open)| open.is_stopped = true);
    }

    fn begin(&mut self) -> Result<(), Violation> {
        self.begun += 1;
        let to = self.process();
        let alive: Vec<NodeId> = (2..2 + SOURCES).map(NodeId).filter(|node| !self.dead.contains(node)).collect();
        if self.ended.contains(&to) || alive.is_empty() {
            return Ok(());
        }
        let bytes = 1 + self.rng.below(120);
        let (what, sources) = if self.rng.chance(30) {
            let node = *self.rng.pick(&alive);
            (What::Lent { from: ProcessId::new(node, 1), transfer: self.begun }, Sources::one(node))
        } else {
            let mut sources = Sources::default();
            for node in alive {
                match self.rng.below(4) {
                    0 | 1 => sources.at_once.push(node),
                    2 => sources.spare.push(node),
                    _ => {}
                }
            }
            let owner = ProcessId::new(NodeId(9), 1);
            (What::Copy { object: ObjectId { owner, seq: self.begun } }, sources)
        };
        let mut has = BTreeMap::new();
        for node in sources.all() {
            if self.rng.chance(25) {
                has.insert(node, self.rng.below(bytes));
            }
        }
        let haul = HaulId { to, what };
        let (refused, in_flight, written) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        let open = Open { bytes, sources: sources.clone(), has, refused, in_flight, written, is_stopped: false };
        self.open.insert(haul, open);
        self.drive(Input::Begin { haul, bytes, sources })
    }

    fn lands(&mut self, haul: HaulId, offset: u64, how: How) -> Result<(), Violation> {
        // Who asked may have given it up.
        let Some(open) = self.open.get_mut(&haul) else { return Ok(()) };
        let Some((bytes, source)) = open.in_flight.remove(&offset) else { return Ok(()) };
        match how {
            How::Comes => {
                ensure(open.written.insert(offset, bytes).is_none(), "HAUL-3", || {
                    format!("the range of {haul:?} at {offset} is written twice")
                })?;
                self.coverage.saw("a range comes");
                self.drive(Input::Came { haul, offset })
            }
            How::Fails => {
                self.coverage.saw("a range fails");
                self.drive(Input::Failed { haul, offset, is_final: false })
            }
            How::IsRefused => {
                self.coverage.saw("a source refuses");
                open.refused.insert(source);
                self.drive(Input::Failed { haul, offset, is_final: true })
            }
        }
    }

    fn drive(&mut self, input: Input) -> Result<(), Violation> {
        self.machine.handle(self.agenda.now(), input);
        haul::check(&self.machine)?;
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Ask { haul, offset, bytes, source } => self.asked(haul, offset, bytes, source)?,
                Output::GiveUp { haul, source } => self.given_up(haul, source),
                Output::End { haul, is_whole, is_told, .. } => self.over(haul, is_whole, is_told)?,
            }
        }
        Ok(())
    }

    fn asked(&mut self, haul: HaulId, offset: u64, bytes: u32, source: NodeId) -> Result<(), Violation> {
        let open = self.open.get_mut(&haul);
        let open = open.ok_or_else(|| Violation { invariant: "HAUL-1", seen: format!("{haul:?} is over") })?;
        let is_left = open.refused.contains(&source) || self.dead.contains(&source);
        ensure(!is_left, "HAUL-5", || format!("{source} is asked for {haul:?}, which it has refused"))?;
        let is_new = open.in_flight.insert(offset, (bytes, source)).is_none() && !open.written.contains_key(&offset);
        let is_inside = offset + u64::from(bytes) <= open.bytes;
        ensure(is_new && is_inside, "HAUL-3", || format!("{bytes} bytes of {haul:?} at {offset} are asked for"))?;
        let count = open.in_flight.values().filter(|(_, of)| *of == source).count();
        let of_all: usize = self.open.values().map(|open| open.in_flight.len()).sum();
        let is_bounded = count <= BOUNDS.haul_ranges_max && of_all <= BOUNDS.ranges_max;
        ensure(is_bounded, "HAUL-2", || format!("{count} of {haul:?} and {of_all} of all are in flight"))?;
        let open = &self.open[&haul];
        if open.sources.spare.contains(&source) {
            self.coverage.saw("a spare source is asked");
        }
        let lacks = open.has.get(&source).is_some_and(|has| offset + u64::from(bytes) > *has);
        let how = match self.rng.below(20) {
            _ if lacks => How::IsRefused,
            0 => How::IsRefused,
            1 => How::Fails,
            _ => How::Comes,
        };
        let delay = self.rng.span(DELAY_MAX_MS);
        self.agenda.after(delay, Event::Lands { haul, offset, how });
        Ok(())
    }

    /// What is given up fails soon, but may have come before it is heard.
    fn given_up(&mut self, haul: HaulId, source: Option<NodeId>) {
        let Some(open) = self.open.get(&haul) else { return };
        self.coverage.saw("ranges are given up");
        let of_it = open.in_flight.iter().filter(|(_, (_, of))| source.is_none_or(|source| source == *of));
        for offset in of_it.map(|(offset, _)| *offset).collect::<Vec<_>>() {
            let delay = Duration::from_millis(self.rng.below(5));
            self.agenda.after(delay, Event::Lands { haul, offset, how: How::Fails });
        }
    }

    fn over(&mut self, haul: HaulId, is_whole: bool, is_told: bool) -> Result<(), Violation> {
        let open = self.open.remove(&haul);
        let open = open.ok_or_else(|| Violation { invariant: "HAUL-1", seen: format!("{haul:?} ends twice") })?;
        let is_still = open.in_flight.is_empty();
        ensure(is_still, "HAUL-1", || format!("{:?} of {haul:?} are written after its end", open.in_flight))?;
        let came: u64 = open.written.values().map(|bytes| u64::from(*bytes)).sum();
        ensure(is_whole == (came == open.bytes), "HAUL-3", || {
            format!("{came} of {} bytes of {haul:?} came, whole: {is_whole}", open.bytes)
        })?;
        let is_right = is_told != self.ended.contains(&haul.to);
        ensure(is_right, "HAUL-1", || format!("the process of {haul:?} is told: {is_told}"))?;
        let left = open.sources.all().filter(|node| !open.refused.contains(node) && !self.dead.contains(node)).count();
        self.coverage.saw(match (is_whole, left < open.sources.all().count()) {
            (true, false) => "a payload comes",
            (true, true) => "a payload comes without some of its sources",
            (false, _) if open.is_stopped => "a payload that is not wanted ends",
            (false, _) => "a payload has no source left",
        });
        Ok(())
    }
}
