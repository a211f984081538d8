//! Processes that name their objects, and those of others, in messages, while any of them may die.
//!
//! Plays what a process does around [`Handoff`]: it counts who holds its objects, takes what messages name, lets go of it
//! again. The roads are those of the runtime: whole and in order for each pair, until one of the two dies; what a dead
//! process had written may be lost from some word on, and its death is told behind the rest.
//!
//! What a process held when it died may be lost on its way to others: nobody else had a claim to it. Such objects are left
//! out of what must not be freed, not of what must be in the end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_logic::handoff::{self, Handoff, Input, Output};
use mobula_logic::{Mutant, Violation};
use mobula_types::{NodeId, ObjectId, ProcessId, StateMachine, Time};

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;

/// Runs the processes of `seed` until all is let go, with `mutant` planted in each.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

/// For so long processes act and die.
const ACTIVE: Duration = Duration::from_secs(3);

/// What nobody holds is freed in this time (G9).
const FREED_MAX: Duration = Duration::from_secs(1);

/// A word takes at most so long, and so does the news of a death behind the last word.
const DELAY_MAX_MS: u64 = 60;

/// An object is named by a message at most so often.
const NAMED_MAX: u64 = 3;

type At = usize;

struct World {
    rng: Rng,
    agenda: Agenda<Event>,
    processes: Vec<Process>,
    /// When the last word of each pair arrives.
    roads: BTreeMap<(At, At), Time>,
    /// Objects that a process held when it died.
    orphaned: BTreeSet<ObjectId>,
    is_quiet: bool,
    coverage: Coverage,
    steps: Steps,
}

struct Process {
    id: ProcessId,
    is_alive: bool,
    machine: Handoff,
    wakes_at: Option<Time>,
    made: u64,
    /// What its code holds, its own and others'.
    held: Vec<ObjectId>,
    /// What it holds for messages that it sent.
    pins: BTreeMap<u64, Vec<ObjectId>>,
    /// Who holds its objects, how often.
    exports: BTreeMap<ObjectId, BTreeMap<ProcessId, usize>>,
}

#[derive(Clone, Debug)]
enum Word {
    Names { number: Option<u64>, objects: Vec<ObjectId> },
    Hold(ObjectId),
    Release(ObjectId),
    HoldFor { receipt: u64, objects: Vec<ObjectId> },
    Held { receipt: u64 },
    Counts { numbers: Vec<u64> },
    Died(ProcessId),
}

#[derive(Debug)]
enum Event {
    Arrive { from: At, to: At, word: Word },
    Act(At),
    Crash(At),
    Wake(At),
    Quiet,
    Judge,
}

impl Process {
    fn hold(&mut self, object: ObjectId, by: ProcessId) {
        if let Some(holders) = self.exports.get_mut(&object) {
            *holders.entry(by).or_default() += 1;
        }
    }

    fn release(&mut self, object: ObjectId, by: ProcessId) {
        let Some(holders) = self.exports.get_mut(&object) else { return };
        if let Some(count) = holders.get_mut(&by) {
            *count -= 1;
            if *count == 0 {
                holders.remove(&by);
            }
        }
        if holders.is_empty() {
            self.exports.remove(&object);
        }
    }
}

impl world::World for World {
    const NAME: &'static str = "refs";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        let mut rng = Rng::new(seed);
        let process = |number: u64| Process {
            id: ProcessId::new(NodeId(1 + number / 2), 1 + (number % 2) as u32),
            is_alive: true,
            machine: mutant.into_iter().fold(Handoff::default(), Handoff::with_mutant),
            wakes_at: None,
            made: 0,
            held: Vec::new(),
            pins: BTreeMap::new(),
            exports: BTreeMap::new(),
        };
        let processes = (0..3 + rng.below(4)).map(process).collect();
        Self {
            rng,
            agenda: Agenda::default(),
            processes,
            roads: BTreeMap::new(),
            orphaned: BTreeSet::new(),
            is_quiet: false,
            coverage: Coverage::default(),
            steps: Steps::new(records),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        let crashes = *self.rng.pick(&[0, 0, 1, 2]);
        for _ in 0..crashes {
            let (delay, at) = (self.rng.span(3_000), self.rng.below(self.processes.len() as u64) as At);
            self.agenda.after(delay, Event::Crash(at));
        }
        for at in 0..self.processes.len() {
            self.agenda.after(self.rng.span(20), Event::Act(at));
        }
        self.agenda.after(ACTIVE, Event::Quiet);
        while let Some(event) = self.agenda.step() {
            let now = self.agenda.now();
            self.steps.note(now, || format!("{event:?}"));
            self.happen(event)?;
            self.judge_held()?;
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
            Event::Arrive { from, to, word } => self.arrive(from, to, word),
            Event::Act(at) => self.act(at),
            Event::Crash(at) => self.crash(at),
            Event::Wake(at) => {
                self.processes[at].wakes_at = None;
                self.drive(at, Input::Tick)
            }
            Event::Quiet => {
                self.is_quiet = true;
                for at in 0..self.processes.len() {
                    self.drop_all(at);
                }
                // What arrives later is dropped as it comes.
                self.agenda.after(FREED_MAX, Event::Judge);
                Ok(())
            }
            Event::Judge => self.judge_end(),
        }
    }

    fn act(&mut self, at: At) -> Result<(), Violation> {
        if self.is_quiet || !self.processes[at].is_alive {
            return Ok(());
        }
        let delay = self.rng.span(60);
        self.agenda.after(delay, Event::Act(at));
        match self.rng.below(10) {
            0..3 => self.make(at),
            3..7 => return self.send(at),
            _ => self.drop_one(at),
        }
        Ok(())
    }

    fn make(&mut self, at: At) {
        let process = &mut self.processes[at];
        process.made += 1;
        process.held.push(ObjectId { owner: process.id, seq: process.made });
    }

    /// Names some of what it holds to another.
    fn send(&mut self, from: At) -> Result<(), Violation> {
        let to = self.rng.below(self.processes.len() as u64) as At;
        let held = self.processes[from].held.clone();
        if to == from || held.is_empty() {
            return Ok(());
        }
        let objects: Vec<ObjectId> = (0..1 + self.rng.below(NAMED_MAX)).map(|_| *self.rng.pick(&held)).collect();
        let (me, receiver) = (self.processes[from].id, self.processes[to].id);
        let mut others = Vec::new();
        for object in &objects {
            if object.owner == me {
                let holders = self.processes[from].exports.entry(*object).or_default();
                *holders.entry(receiver).or_default() += 1;
            } else {
                self.say(from, object.owner, Word::Hold(*object));
                if object.owner != receiver {
                    others.push(*object);
                }
            }
        }
        let number = if others.is_empty() {
            None
        } else {
            self.coverage.saw("names what others own");
            let number = self.processes[from].machine.send(receiver).expect("few are on their way");
            self.processes[from].pins.insert(number, others);
            Some(number)
        };
        if number.is_some() && self.rng.chance(3) {
            // As when a queue is full: what was held for the receiver is taken back.
            self.coverage.saw("a message is not sent");
            for object in objects {
                if object.owner == me {
                    self.processes[from].release(object, receiver);
                } else if object.owner == receiver {
                    self.say(from, object.owner, Word::Release(object));
                }
            }
            return self.drive(from, Input::NotSent { number: number.unwrap_or_default() });
        }
        self.say(from, receiver, Word::Names { number, objects });
        self.perform(from)
    }

    fn drop_one(&mut self, at: At) {
        let count = self.processes[at].held.len() as u64;
        if count > 0 {
            let index = self.rng.below(count) as usize;
            let object = self.processes[at].held.swap_remove(index);
            self.let_go(at, object);
        }
    }

    fn drop_all(&mut self, at: At) {
        while self.processes[at].is_alive && !self.processes[at].held.is_empty() {
            self.drop_one(at);
        }
    }

    fn let_go(&mut self, at: At, object: ObjectId) {
        if object.owner != self.processes[at].id {
            self.say(at, object.owner, Word::Release(object));
        }
    }

    fn crash(&mut self, at: At) -> Result<(), Violation> {
        if self.is_quiet || !self.processes[at].is_alive {
            return Ok(());
        }
        self.coverage.saw("a process dies");
        let process = &mut self.processes[at];
        process.is_alive = false;
        let id = process.id;
        self.orphaned.extend(process.held.drain(..));
        self.orphaned.extend(std::mem::take(&mut process.pins).into_values().flatten());
        // What it named in messages that are lost, or whose owners hear of its death first.
        let named: Vec<ObjectId> = process.exports.keys().copied().collect();
        self.orphaned.extend(named);
        for other in 0..self.processes.len() {
            if other != at && self.processes[other].is_alive {
                self.tell_of_death(at, other, id);
            }
        }
        Ok(())
    }

    /// The news of a death comes behind the last words.
    fn tell_of_death(&mut self, dead: At, to: At, id: ProcessId) {
        let now = self.agenda.now();
        let last = self.roads.get(&(dead, to)).copied().filter(|last| *last != Time::MAX).unwrap_or(now);
        let behind = last.max(now) + self.rng.span(DELAY_MAX_MS);
        self.agenda.at(behind, Event::Arrive { from: dead, to, word: Word::Died(id) });
    }

    fn at(&self, process: ProcessId) -> At {
        self.processes.iter().position(|known| known.id == process).expect("every process is known")
    }

    /// Says something on the road between two processes.
    fn say(&mut self, from: At, to: ProcessId, word: Word) {
        let to = self.at(to);
        let delay = self.rng.span(DELAY_MAX_MS);
        let road = self.roads.entry((from, to)).or_insert(Time::ZERO);
        *road = (*road).max(self.agenda.now() + delay);
        self.agenda.at(*road, Event::Arrive { from, to, word });
    }

    fn arrive(&mut self, from: At, to: At, word: Word) -> Result<(), Violation> {
        let is_news = matches!(word, Word::Died(_));
        if !self.processes[to].is_alive {
            if self.processes[from].is_alive && !is_news {
                // Its node says so, each time.
                self.coverage.saw("a word to the dead");
                self.tell_of_death(to, from, self.processes[to].id);
            }
            return Ok(());
        }
        if !self.processes[from].is_alive && !is_news && self.is_lost(from, to) {
            self.coverage.saw("a last word is lost");
            return Ok(());
        }
        let (me, sender) = (self.processes[to].id, self.processes[from].id);
        let process = &mut self.processes[to];
        match word {
            Word::Hold(object) => process.hold(object, sender),
            Word::Release(object) => process.release(object, sender),
            Word::HoldFor { receipt, objects } => {
                objects.iter().for_each(|object| process.hold(*object, sender));
                self.say(to, sender, Word::Held { receipt });
            }
            Word::Held { receipt } => return self.drive(to, Input::Held { by: sender, receipt }),
            Word::Counts { numbers } => {
                self.coverage.saw("an acknowledgement");
                return self.drive(to, Input::Acknowledged { by: sender, numbers });
            }
            Word::Died(dead) => {
                process.exports.retain(|_, holders| {
                    holders.remove(&dead);
                    !holders.is_empty()
                });
                return self.drive(to, Input::Gone { process: dead });
            }
            Word::Names { number, objects } => {
                let third: Vec<ObjectId> =
                    objects.iter().filter(|object| object.owner != me && object.owner != sender).copied().collect();
                if number.is_some() {
                    self.drive(to, Input::Arrived { from: sender, number, objects: third })?;
                }
                // Its code takes each, and then the message itself is dropped.
                for object in &objects {
                    if object.owner != me {
                        self.say(to, object.owner, Word::Hold(*object));
                    }
                    self.processes[to].held.push(*object);
                }
                for object in objects {
                    match object.owner == me {
                        true => self.processes[to].release(object, sender),
                        false => self.say(to, object.owner, Word::Release(object)),
                    }
                }
                if self.is_quiet {
                    self.drop_all(to);
                }
            }
        }
        Ok(())
    }

    /// Whether what a dead process had written to another is lost from here on.
    fn is_lost(&mut self, from: At, to: At) -> bool {
        // Nothing follows what is lost: a road that has ended stays so.
        let is_over = self.roads.get(&(from, to)) == Some(&Time::MAX);
        let is_over = is_over || self.rng.chance(30);
        if is_over {
            self.roads.insert((from, to), Time::MAX);
        }
        is_over
    }

    fn drive(&mut self, at: At, input: Input) -> Result<(), Violation> {
        let now = self.agenda.now();
        self.processes[at].machine.handle(now, input);
        self.perform(at)
    }

    fn perform(&mut self, at: At) -> Result<(), Violation> {
        let now = self.agenda.now();
        while let Some(output) = self.processes[at].machine.poll_output() {
            self.steps.note(now, || format!("  {at} asks {output:?}"));
            match output {
                Output::LetGo { number } => {
                    let pins = self.processes[at].pins.remove(&number);
                    ensure(pins.is_some(), "HAND-4", || format!("message {number} is let go twice"))?;
                    for object in pins.unwrap_or_default() {
                        self.let_go(at, object);
                    }
                }
                Output::Hold { owner, receipt, objects } => self.say(at, owner, Word::HoldFor { receipt, objects }),
                Output::Acknowledge { to, numbers } => self.say(at, to, Word::Counts { numbers }),
            }
        }
        let process = &mut self.processes[at];
        handoff::check(&process.machine)?;
        if let Some(due) = process.machine.next_timeout()
            && process.wakes_at.is_none_or(|wakes| wakes > due)
        {
            process.wakes_at = Some(due);
            self.agenda.at(due, Event::Wake(at));
        }
        Ok(())
    }

    /// HAND-1: what a living process holds or has on its way is held at its owner.
    fn judge_held(&mut self) -> Result<(), Violation> {
        for process in self.processes.iter().filter(|process| process.is_alive) {
            let pinned = process.pins.values().flatten();
            for object in process.held.iter().chain(pinned).filter(|object| object.owner != process.id) {
                let owner = &self.processes[self.at(object.owner)];
                let is_there = owner.exports.contains_key(object);
                let is_excused = !owner.is_alive || self.orphaned.contains(object);
                ensure(is_there || is_excused, "HAND-1", || {
                    format!("{object} was freed while {} holds it", process.id)
                })?;
            }
        }
        Ok(())
    }

    /// HAND-3: in the end nobody holds anything.
    fn judge_end(&mut self) -> Result<(), Violation> {
        self.coverage.saw("all is let go");
        for process in self.processes.iter().filter(|process| process.is_alive) {
            let Process { id, exports, pins, machine, .. } = process;
            ensure(exports.is_empty(), "HAND-3", || format!("{id} keeps for others: {exports:?}"))?;
            ensure(pins.is_empty(), "HAND-3", || format!("{id} holds for messages: {pins:?}"))?;
            ensure(machine.open() == (0, 0), "HAND-3", || format!("{id} waits: {machine:?}"))?;
        }
        Ok(())
    }
}
