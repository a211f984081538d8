//! Nodes whose processes put objects, make them by tasks, name them to one another and read them, while letters are lost,
//! doubled and overtaken, copies are given up, and processes and nodes die.
//!
//! Plays the drivers around [`Ownership`]: it runs tasks, moves bytes, and gives messages to processes. A message comes
//! once or its receiver's node is dead; the letters of the machines have no such luck. What a dead node held may be freed
//! while it is on its way from there to others: nobody else had a claim to it, and such objects are left out of what must
//! not be freed, not of what must be in the end.

mod witness;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_logic::haul::Sources;
use mobula_logic::ownership::{
    self, Birth, Bounds, FETCH_MAX, HolderWord, Input, Output, Ownership, Place, Recipe, Seal,
};
use mobula_logic::{Mutant, Violation};
use mobula_types::{Loss, NodeId, ObjectId, ProcessId, StateMachine, TaskId, Time};
use mobula_wire::objects::Letter;

use crate::agenda::Agenda;
use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;
use witness::Witness;

/// Runs the nodes of `seed` until all is freed, with `mutant` planted in each.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

/// For so long things go wrong.
const ACTIVE: Duration = Duration::from_secs(3);
/// Whoever waits is answered so long after that: a recipe of a recipe takes its runs.
const ANSWERED_MAX: Duration = Duration::from_secs(6);
/// What nobody holds is freed in this time (G9).
const FREED_MAX: Duration = Duration::from_secs(1);
/// A letter or a message takes at most so long, and so does a copy or a run.
const DELAY_MAX_MS: u64 = 60;
/// Room for few recipes, or for most: each takes 100 bytes.
const LINEAGE_BYTES: &[u64] = &[600, 6_000];
const RECIPE_BYTES: u64 = 100;
/// No room is made for such a recipe.
const LONG_RECIPE_BYTES: u64 = 7_000;
/// Runs that did not count have bytes of numbers from here on.
const OTHER_RUN: u32 = 1_000;
/// What is held is looked at once in so many events.
const JUDGED_EVERY: u64 = 8;
/// The seeds in which all that is rare happens begin here.
const ROUGH_FROM: u64 = 1_000;
/// Room for few objects and messages.
const NARROW: Bounds = Bounds { objects_max: 14, messages_max: 2, lineage_bytes_max: 600 };

struct World {
    mutant: Option<Mutant>,
    rng: Rng,
    agenda: Agenda<Event>,
    nodes: BTreeMap<NodeId, Node>,
    processes: BTreeMap<ProcessId, Process>,
    witness: Witness,
    /// How often a letter is lost or doubled, in percent.
    fury: u64,
    /// Memory is short: copies are given up often, and much of what was made is made again.
    is_short: bool,
    /// A node that dies has just sent away what it held.
    parts: bool,
    /// Chance for what only some seeds have, so that it changes no other.
    whim: Rng,
    /// Nodes have room for few objects and messages.
    is_narrow: bool,
    /// There are many nodes, and now and then all of them get the same object.
    is_wide: bool,
    /// Now and then all who hold an object want it at once.
    rushes: bool,
    /// What happens seldom elsewhere happens often: words and letters of the dead, what is said too late, places that are
    /// lost, stores that are full, recipes too long to be kept.
    is_rough: bool,
    /// Who gets what just now.
    pulling: BTreeSet<(NodeId, ObjectId)>,
    /// Messages that are held by their senders until those let them go.
    uncounted: BTreeSet<(NodeId, u64)>,
    is_quiet: bool,
    events: u64,
    coverage: Coverage,
    steps: Steps,
}

struct Node {
    is_alive: bool,
    machine: Ownership,
    wakes_at: Option<Time>,
}

struct Process {
    is_alive: bool,
    made: u64,
    /// The number of its last word.
    said: u64,
    holds: BTreeSet<ObjectId>,
}

/// An object as the world knows it.
#[derive(Clone, Debug)]
struct Object {
    is_inline: bool,
    /// Each run of its task gives other bytes.
    is_fickle: bool,
    is_put: bool,
    /// Only the process that made its reference can give it bytes.
    is_its_makers: bool,
    runs_max: u32,
    inner: Vec<ObjectId>,
}

#[derive(Debug)]
enum Event {
    Letter { from: NodeId, to: NodeId, letter: Letter },
    Message { from: NodeId, number: u64, to: ProcessId, objects: Vec<ObjectId> },
    Take { from: NodeId, number: u64, by: ProcessId, objects: Vec<ObjectId> },
    Ran { object: ObjectId, run: u32, at: NodeId },
    Made { object: ObjectId, run: u32, seal: Option<Seal> },
    Pulled { object: ObjectId, at: NodeId, sources: Sources },
    Act(ProcessId),
    AllWant(ObjectId),
    KillProcess(ProcessId),
    KillNode(NodeId),
    HearOfDeath { by: NodeId, process: ProcessId },
    Wake(NodeId),
    Quiet,
    LetGo,
    Judge,
}

impl world::World for World {
    const NAME: &'static str = "objects";

    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self {
        let mut rng = Rng::new(seed);
        let is_wide = seed % 16 == 4;
        let more = if is_wide {
            3
        } else if seed >= ROUGH_FROM {
            2
        } else {
            0
        };
        let ids = (1..=2 + rng.below(3) + more).map(NodeId).collect::<Vec<_>>();
        let lineage_bytes_max = *rng.pick(LINEAGE_BYTES);
        let is_narrow = matches!(seed % 8, 1 | 6 | 7);
        let bounds = if is_narrow { NARROW } else { Bounds { lineage_bytes_max, ..Bounds::default() } };
        let node = |id| {
            let machine = Ownership::bounded(id, bounds);
            Node { is_alive: true, machine: mutant.into_iter().fold(machine, Ownership::with_mutant), wakes_at: None }
        };
        let nodes: BTreeMap<NodeId, Node> = ids.into_iter().map(|id| (id, node(id))).collect();
        let process = || Process { is_alive: true, made: 0, said: 0, holds: BTreeSet::new() };
        let ids = nodes.keys().flat_map(|node| [1, 2].map(|number| ProcessId::new(*node, number)));
        let processes = ids.map(|id| (id, process())).collect();
        let fury = *rng.pick(&[0, 5, 20, 40]);
        let (is_short, parts) = (rng.chance(60), rng.chance(85));
        Self {
            mutant,
            rng,
            agenda: Agenda::default(),
            nodes,
            processes,
            witness: Witness::new(is_narrow),
            fury,
            is_short,
            parts,
            whim: Rng::new(seed ^ 0x7768_696d),
            is_narrow,
            is_wide,
            is_rough: seed >= ROUGH_FROM,
            rushes: matches!(seed % 8, 1 | 2 | 4 | 6 | 7),
            pulling: BTreeSet::new(),
            uncounted: BTreeSet::new(),
            is_quiet: false,
            events: 0,
            coverage: Coverage::default(),
            steps: Steps::new(records),
        }
    }

    fn play(&mut self) -> Result<(), Violation> {
        let (nodes, processes): (Vec<_>, Vec<_>) =
            (self.nodes.keys().copied().collect(), self.processes.keys().copied().collect());
        for process in &processes {
            self.drive(process.node(), Input::Attached { process: *process })?;
            self.agenda.after(self.rng.span(20), Event::Act(*process));
        }
        for _ in 0..*self.rng.pick(&[0, 1, 2]) {
            let (delay, process) = (self.rng.span(3_000), *self.rng.pick(&processes));
            self.agenda.after(delay, Event::KillProcess(process));
        }
        for _ in 0..*self.rng.pick(&[0, 1, 1, 2]) + if self.is_rough { 2 } else { 0 } {
            let (delay, node) = (self.rng.span(3_000), *self.rng.pick(&nodes));
            self.agenda.after(delay, Event::KillNode(node));
        }
        self.agenda.after(ACTIVE, Event::Quiet);
        while let Some(event) = self.agenda.step() {
            let now = self.agenda.now();
            self.steps.note(now, || format!("{event:?}"));
            self.happen(event)?;
            self.events += 1;
            // What is freed too early stays freed.
            if self.events.is_multiple_of(JUDGED_EVERY) {
                self.judge_held()?;
            }
        }
        self.judge_held()
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (self.agenda.now(), self.coverage, self.steps)
    }
}

impl World {
    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Letter { from, to, letter } => self.drive(to, Input::Said { from, letter }),
            Event::Message { from, number, to, objects } => self.message(from, number, to, objects),
            Event::Take { from, number, by, objects } => {
                for object in objects {
                    self.hold(by, object)?;
                    // What was sent by the dead is read at once: it may be freed before its holder is known.
                    if !self.nodes[&from].is_alive {
                        self.want_this(by, object)?;
                    }
                }
                self.drive(by.node(), Input::Taken { from, number })
            }
            Event::Ran { object, run, at } => self.ran(object, run, at),
            Event::Made { object, run, seal } => self.made(object, run, seal),
            Event::Pulled { object, at, sources } => self.pulled(object, at, &sources),
            Event::Act(process) => self.act(process),
            Event::AllWant(_) if self.is_quiet => Ok(()),
            Event::AllWant(object) => {
                self.coverage.saw("all want what all have heard of");
                self.all_want(|it| it == object)
            }
            Event::KillProcess(process) => self.kill_process(process),
            Event::KillNode(node) => self.kill_node(node),
            Event::HearOfDeath { by, process } => self.drive(by, Input::Died { process }),
            Event::Wake(node) => {
                let now = self.agenda.now();
                // An earlier one was planned since, and has come.
                let Some(woken) = self.nodes.get_mut(&node).filter(|it| it.wakes_at == Some(now)) else {
                    return Ok(());
                };
                woken.wakes_at = None;
                self.drive(node, Input::Tick)
            }
            Event::Quiet => {
                self.is_quiet = true;
                // What a node has no room for is looked for there as long as anything is.
                let answered_max = if self.is_narrow { FETCH_MAX + ANSWERED_MAX } else { ANSWERED_MAX };
                self.agenda.after(answered_max, Event::LetGo);
                Ok(())
            }
            Event::LetGo => {
                self.witness.judge_answered(|process| self.processes[&process].is_alive)?;
                for process in self.processes.keys().copied().collect::<Vec<_>>() {
                    for object in self.processes[&process].holds.clone() {
                        self.release(process, object)?;
                    }
                }
                for (from, number) in std::mem::take(&mut self.uncounted) {
                    self.drive(from, Input::Dropped { number })?;
                }
                self.agenda.after(FREED_MAX, Event::Judge);
                Ok(())
            }
            Event::Judge => self.judge_end(),
        }
    }

    fn act(&mut self, process: ProcessId) -> Result<(), Violation> {
        if self.is_quiet || !self.processes[&process].is_alive {
            return Ok(());
        }
        let delay = self.rng.span(60);
        self.agenda.after(delay, Event::Act(process));
        match self.rng.below(20) {
            0..6 if self.is_short && self.rng.chance(50) => self.give_up(process.node()),
            0..3 => self.make(process, true),
            3..6 => self.make(process, false),
            6..10 => self.send(process),
            10..14 => self.want(process),
            14..15 => self.give_up(process.node()),
            _ => {
                let held: Vec<ObjectId> = self.processes[&process].holds.iter().copied().collect();
                if held.is_empty() {
                    return Ok(());
                }
                let object = *self.rng.pick(&held);
                self.release(process, object)
            }
        }
    }

    /// Some of what a process holds.
    fn some(&mut self, process: ProcessId, max: u64) -> Vec<ObjectId> {
        let held: Vec<ObjectId> = self.processes[&process].holds.iter().copied().collect();
        let count = if held.is_empty() { 0 } else { self.rng.below(max + 1) };
        (0..count).map(|_| *self.rng.pick(&held)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn make(&mut self, process: ProcessId, is_put: bool) -> Result<(), Violation> {
        let parts = self.some(process, 2);
        let inner = if self.rng.chance(40) { parts.clone() } else { Vec::new() };
        let (is_inline, is_fickle) =
            (self.rng.chance(20), !is_put && self.rng.chance(if self.is_short { 50 } else { 25 }));
        let runs_max = 1 + self.rng.below(3) as u32;
        let maker = self.processes.get_mut(&process).expect("it acts");
        maker.made += 1;
        let object = ObjectId { owner: process, seq: maker.made };
        maker.holds.insert(object);
        let comes_later = self.rushes && !is_put && self.whim.chance(35);
        let is_long = self.is_rough && self.whim.chance(5);
        // Nobody holds for bytes that are still to come what they will name, but who makes them; nor for a task whose recipe
        // is not kept.
        let inner = if comes_later || is_long { Vec::new() } else { inner };
        let is_its_makers = comes_later && self.whim.chance(75);
        let known = Object { is_inline, is_fickle, is_put, is_its_makers, runs_max, inner };
        let task = TaskId { process, seq: object.seq };
        let bytes = if is_long { LONG_RECIPE_BYTES } else { RECIPE_BYTES };
        let recipe = Recipe { task, arguments: parts, bytes, runs_max };
        let birth = match is_put {
            _ if comes_later => {
                self.coverage.saw("object is to come");
                let delay = self.whim.span(2_000);
                self.agenda.after(delay, Event::Ran { object, run: 1, at: process.node() });
                self.witness.see_new(object, known);
                self.say(process, HolderWord::New { object, birth: Birth::Later { site: 0 } })?;
                // It becomes known how it is made while it is.
                return match is_its_makers {
                    true => Ok(()),
                    false => self.drive(process.node(), Input::Recipe { object, recipe }),
                };
            }
            true => {
                self.coverage.saw("object is put");
                Birth::Put(self.seal(object, &known, process.node(), 1))
            }
            false => {
                self.coverage.saw("task is submitted");
                let delay = self.rng.span(DELAY_MAX_MS);
                let at = self.place();
                self.agenda.after(delay, Event::Ran { object, run: 1, at });
                Birth::Task(recipe)
            }
        };
        self.witness.see_new(object, known);
        self.pass_on(process, object)?;
        self.say(process, HolderWord::New { object, birth })
    }

    /// Another process of the node speaks of an object before the one that has made it.
    fn pass_on(&mut self, process: ProcessId, object: ObjectId) -> Result<(), Violation> {
        if !self.is_rough || !self.whim.chance(20) {
            return Ok(());
        }
        let is_beside = |other: &ProcessId| other.node() == process.node() && *other != process;
        match self.processes.keys().copied().find(is_beside).filter(|other| self.processes[other].is_alive) {
            Some(other) => {
                self.coverage.saw("object is heard of before it is known");
                self.hold(other, object)
            }
            None => Ok(()),
        }
    }

    /// The bytes of an object are at a node now.
    fn seal(&mut self, object: ObjectId, known: &Object, at: NodeId, run: u32) -> Seal {
        let digest = witness::digest(object, if known.is_fickle { run } else { 1 });
        let place = if known.is_inline { Place::Inline } else { Place::Arena };
        if known.is_inline {
            self.witness.see_inline(object);
        } else {
            self.witness.see_copy(at, object, digest);
        }
        Seal { at, place, bytes: 1, digest, inner: known.inner.clone() }
    }

    fn place(&mut self) -> NodeId {
        let alive: Vec<NodeId> = self.nodes.iter().filter(|(_, it)| it.is_alive).map(|(node, _)| *node).collect();
        *self.rng.pick(&alive)
    }

    fn ran(&mut self, object: ObjectId, run: u32, at: NodeId) -> Result<(), Violation> {
        let owner = object.owner.node();
        let is_with_maker = self.witness.object(object).is_its_makers && !self.processes[&object.owner].is_alive;
        if !self.nodes[&owner].is_alive || is_with_maker {
            return Ok(());
        }
        if !self.nodes[&at].is_alive {
            self.coverage.saw("run is lost with its node");
            let delay = self.rng.span(DELAY_MAX_MS);
            let at = self.place();
            self.agenda.after(delay, Event::Ran { object, run, at });
            return Ok(());
        }
        if self.rng.chance(3) {
            self.coverage.saw("run comes to nothing");
            self.witness.see_not_made(object);
            return self.report(object, run, None);
        }
        // An earlier attempt's copy is there already.
        if self.witness.copy(at, object).is_some() {
            self.witness.see_not_made(object);
            return self.report(object, run, None);
        }
        let known = self.witness.object(object).clone();
        if self.is_rough && known.is_fickle && !known.is_inline && at != owner && self.whim.chance(10) {
            self.coverage.saw("a run's process dies when it has written");
            let digest = witness::digest(object, run + OTHER_RUN);
            self.witness.see_copy(at, object, digest);
            self.drive(at, Input::Copied { object, digest, is_primary: true })?;
            let (delay, at) = (self.rng.span(DELAY_MAX_MS), self.place());
            self.agenda.after(delay, Event::Ran { object, run, at });
            return Ok(());
        }
        let seal = self.seal(object, &known, at, run);
        if at != owner && !known.is_inline {
            self.drive(at, Input::Copied { object, digest: seal.digest, is_primary: true })?;
        }
        self.coverage.saw(if run == 1 { "object is made" } else { "object is made again" });
        self.report(object, run, Some(seal))
    }

    /// The owner hears how a run has ended; it may be late, so that the node where it ran is known to be dead.
    fn report(&mut self, object: ObjectId, run: u32, seal: Option<Seal>) -> Result<(), Violation> {
        // What its bytes name is held by nobody meanwhile.
        let names_none = seal.as_ref().is_none_or(|seal| seal.inner.is_empty());
        if self.is_rough && names_none && self.whim.chance(30) {
            self.coverage.saw("end of a run is told late");
            let delay = self.whim.span(5 * DELAY_MAX_MS);
            self.agenda.after(delay, Event::Made { object, run, seal });
            return Ok(());
        }
        self.made(object, run, seal)
    }

    fn made(&mut self, object: ObjectId, run: u32, seal: Option<Seal>) -> Result<(), Violation> {
        let end = match seal {
            Some(seal) => Input::Made { object, run, seal },
            None => Input::NotMade { object, run },
        };
        if self.is_rough && matches!(end, Input::NotMade { .. }) && self.whim.chance(50) {
            self.coverage.saw("failure of a run is told twice");
            self.drive(object.owner.node(), end.clone())?;
        }
        self.drive(object.owner.node(), end)
    }

    fn pulled(&mut self, object: ObjectId, at: NodeId, sources: &Sources) -> Result<(), Violation> {
        self.pulling.remove(&(at, object));
        if !self.nodes[&at].is_alive {
            return Ok(());
        }
        if self.is_rough && !self.is_quiet && self.whim.chance(10) {
            self.coverage.saw("there is no room for a copy");
            return self.drive(at, Input::NoRoom { object, bytes: 1 });
        }
        let alive: Vec<NodeId> = sources.all().filter(|node| self.nodes[node].is_alive).collect();
        let digest = alive.into_iter().find_map(|node| self.witness.copy(node, object));
        let Some(digest) = digest else {
            self.coverage.saw("no source has it");
            return self.drive(at, Input::NotPulled { object });
        };
        if self.is_rough && self.whim.chance(20) {
            self.coverage.saw("a part of a copy has come");
            self.drive(at, Input::Coming { object })?;
        }
        let mut digest = digest;
        if self.is_rough && self.witness.object(object).is_fickle && self.whim.chance(3) {
            self.coverage.saw("a source has made it again meanwhile");
            digest = witness::digest(object, OTHER_RUN);
        }
        self.coverage.saw("copy is pulled");
        self.witness.see_copy(at, object, digest);
        self.drive(at, Input::Copied { object, digest, is_primary: false })
    }

    fn send(&mut self, process: ProcessId) -> Result<(), Violation> {
        let objects = self.some(process, 3);
        self.send_these(process, objects)
    }

    fn send_these(&mut self, process: ProcessId, objects: Vec<ObjectId>) -> Result<(), Violation> {
        let others: Vec<ProcessId> = self.processes.keys().copied().filter(|other| *other != process).collect();
        let to = *self.rng.pick(&others);
        self.send_to(process, to, objects)
    }

    fn send_to(&mut self, process: ProcessId, to: ProcessId, objects: Vec<ObjectId>) -> Result<(), Violation> {
        let from = process.node();
        let machine = &mut self.nodes.get_mut(&from).expect("it is one of ours").machine;
        let Some(number) = machine.send(to.node(), &objects) else {
            self.coverage.saw("message to a dead node");
            return Ok(());
        };
        if self.rng.chance(3) {
            self.coverage.saw("message is dropped");
            return self.drive(from, Input::Dropped { number });
        }
        self.coverage.saw("message is sent");
        let delay = self.rng.span(DELAY_MAX_MS);
        self.witness.see_sent(from, number, to, &objects);
        self.agenda.after(delay, Event::Message { from, number, to, objects });
        self.perform(from)
    }

    fn message(&mut self, from: NodeId, number: u64, to: ProcessId, objects: Vec<ObjectId>) -> Result<(), Violation> {
        self.witness.see_arrived(from, number);
        self.take(from, number, to, objects)
    }

    /// What a message, or bytes that were read, name is taken over by a process.
    fn take(&mut self, from: NodeId, number: u64, to: ProcessId, objects: Vec<ObjectId>) -> Result<(), Violation> {
        // What comes from a node that is known to be dead is not for anybody.
        self.drive(to.node(), Input::Arrived { from, number, process: to, objects: objects.clone() })?;
        let delay = self.rng.span(DELAY_MAX_MS);
        self.agenda.after(delay, Event::Take { from, number, by: to, objects });
        Ok(())
    }

    fn hold(&mut self, process: ProcessId, object: ObjectId) -> Result<(), Violation> {
        let Some(holder) = self.processes.get_mut(&process).filter(|holder| holder.is_alive) else { return Ok(()) };
        holder.holds.insert(object);
        self.say(process, HolderWord::Hold { object })
    }

    fn release(&mut self, process: ProcessId, object: ObjectId) -> Result<(), Violation> {
        let Some(holder) = self.processes.get_mut(&process).filter(|holder| holder.is_alive) else { return Ok(()) };
        holder.holds.remove(&object);
        self.witness.see_unwanted(process, object);
        self.say(process, HolderWord::Release { object })
    }

    fn want(&mut self, process: ProcessId) -> Result<(), Violation> {
        let Some(object) = self.some(process, 1).first().copied() else { return Ok(()) };
        if self.is_wide && self.whim.chance(20) {
            return self.spread(process, object);
        }
        if self.rushes && self.whim.chance(30) {
            return self.rush(object);
        }
        self.want_this(process, object)
    }

    /// All get an object, and want it at once when they have heard of it.
    fn spread(&mut self, process: ProcessId, object: ObjectId) -> Result<(), Violation> {
        self.agenda.after(Duration::from_millis(3 * DELAY_MAX_MS), Event::AllWant(object));
        let others: Vec<ProcessId> = self.processes.keys().copied().filter(|other| *other != process).collect();
        others.into_iter().try_for_each(|to| self.send_to(process, to, vec![object]))
    }

    /// All who hold an object want it at once, or everybody wants all that it holds.
    fn rush(&mut self, object: ObjectId) -> Result<(), Violation> {
        let is_for_all = self.whim.chance(20);
        self.coverage.saw(if is_for_all { "everybody wants all at once" } else { "all holders want it at once" });
        self.all_want(|it| is_for_all || it == object)
    }

    fn all_want(&mut self, what: impl Fn(ObjectId) -> bool) -> Result<(), Violation> {
        let held = |(id, process): (&ProcessId, &Process)| -> Vec<(ProcessId, ObjectId)> {
            process.holds.iter().filter(|it| what(**it)).map(|it| (*id, *it)).collect()
        };
        let wanted: Vec<(ProcessId, ObjectId)> = self.processes.iter().flat_map(held).collect();
        wanted.into_iter().try_for_each(|(holder, object)| self.want_this(holder, object))
    }

    fn want_this(&mut self, process: ProcessId, object: ObjectId) -> Result<(), Violation> {
        if !self.processes[&process].is_alive {
            return Ok(());
        }
        if self.witness.see_wanted(process, object) {
            self.drive(process.node(), Input::Wanted { process, object })?;
        }
        Ok(())
    }

    fn give_up(&mut self, node: NodeId) -> Result<(), Violation> {
        let machine = &self.nodes[&node].machine;
        let is_put = |object: &ObjectId| self.witness.object(*object).is_put;
        let put = self.witness.copies_at(node).find(is_put).filter(|_| self.is_rough && self.whim.chance(4));
        if let Some(object) = put {
            self.coverage.saw("only copy is lost where it lies");
            self.witness.see_freed(node, object)?;
            return self.drive(node, Input::Vanished { object, loss: Loss::GivenUp { node } });
        }
        let Some(object) = self.witness.copies_at(node).find(|object| machine.may_give_up(*object)) else {
            return Ok(());
        };
        if self.rng.chance(30) {
            self.coverage.saw("copy is spilled");
            return self.drive(node, Input::Moved { object, to: Some(Place::Spilled) });
        }
        self.coverage.saw("copy is given up");
        self.witness.see_freed(node, object)?;
        let mut gone = Input::Moved { object, to: None };
        if self.is_rough && self.whim.chance(40) {
            self.coverage.saw("copy is lost where it lies");
            gone = Input::Vanished { object, loss: Loss::GivenUp { node } };
        }
        self.drive(node, gone)?;
        // Somebody wants what was just given up: it comes from elsewhere, or is made again.
        let holder = self.processes.iter().find(|(_, process)| process.is_alive && process.holds.contains(&object));
        match holder.map(|(id, _)| *id).filter(|_| self.is_short) {
            Some(holder) => self.want_this(holder, object),
            None => Ok(()),
        }
    }

    fn say(&mut self, process: ProcessId, word: HolderWord) -> Result<(), Violation> {
        let Some(speaker) = self.processes.get_mut(&process) else { return Ok(()) };
        speaker.said += 1;
        let number = speaker.said;
        let said = Input::Holds { process, number, word };
        if self.rng.chance(self.fury) {
            self.coverage.saw("word of a process comes twice");
            self.drive(process.node(), said.clone())?;
        }
        self.drive(process.node(), said)
    }

    fn kill_process(&mut self, process: ProcessId) -> Result<(), Violation> {
        if self.rushes && !self.is_quiet && self.processes[&process].is_alive {
            // Others wait for what it was to make.
            let is_its = |it: &&ObjectId| it.owner == process;
            let of_it = self.processes.values().flat_map(|other| other.holds.iter().filter(is_its)).copied();
            let of_it: BTreeSet<ObjectId> = of_it.collect();
            of_it.into_iter().try_for_each(|object| self.all_want(|it| it == object))?;
        }
        let Some(dead) = self.processes.get_mut(&process).filter(|it| it.is_alive && !self.is_quiet) else {
            return Ok(());
        };
        dead.is_alive = false;
        dead.holds.clear();
        self.coverage.saw("process dies");
        let last = Input::Holds {
            process,
            number: dead.said + 1,
            word: HolderWord::Release { object: ObjectId { owner: process, seq: 1 } },
        };
        self.witness.see_death_of(process);
        self.drive(process.node(), Input::Died { process })?;
        // What it said last may be read after its death is known.
        match self.is_rough {
            true => self.drive(process.node(), last),
            false => Ok(()),
        }
    }

    fn kill_node(&mut self, node: NodeId) -> Result<(), Violation> {
        let is_last = self.nodes.values().filter(|it| it.is_alive).count() == 1;
        if self.is_quiet || is_last || !self.nodes[&node].is_alive {
            return Ok(());
        }
        self.coverage.saw("node dies");
        if self.parts {
            self.part(node)?;
        }
        let machine = &self.nodes[&node].machine;
        self.witness.see_death(node, |object| machine.is_held(object));
        for (id, process) in &mut self.processes {
            if id.node() == node {
                process.is_alive = false;
                process.holds.clear();
            }
        }
        if let Some(dead) = self.nodes.get_mut(&node) {
            dead.is_alive = false;
        }
        for by in self.nodes.keys().copied().filter(|by| *by != node).collect::<Vec<_>>() {
            // Its last letters may come before.
            let delay = Duration::from_millis(DELAY_MAX_MS) + self.rng.span(DELAY_MAX_MS);
            self.agenda.after(delay, Event::HearOfDeath { by, process: node.into() });
        }
        Ok(())
    }

    /// The last words of a node: what it holds of others goes to others.
    fn part(&mut self, node: NodeId) -> Result<(), Violation> {
        let of_node = self.processes.iter().filter(|(id, process)| id.node() == node && process.is_alive);
        let held: Vec<(ProcessId, Vec<ObjectId>)> = of_node
            .map(|(id, process)| (*id, process.holds.iter().copied().filter(|it| it.owner.node() != node).collect()))
            .collect();
        for (process, objects) in held {
            for objects in objects.chunks(3) {
                self.send_these(process, objects.to_vec())?;
            }
        }
        Ok(())
    }

    fn drive(&mut self, node: NodeId, input: Input) -> Result<(), Violation> {
        let now = self.agenda.now();
        let driven = self.nodes.get_mut(&node).expect("it is one of ours");
        if !driven.is_alive {
            return Ok(());
        }
        driven.machine.handle(now, input);
        self.perform(node)
    }

    fn perform(&mut self, node: NodeId) -> Result<(), Violation> {
        let now = self.agenda.now();
        while let Some(output) = self.nodes.get_mut(&node).and_then(|it| it.machine.poll_output()) {
            self.steps.note(now, || format!("  {node} asks {output:?}"));
            self.act_on(node, output)?;
        }
        let driven = self.nodes.get_mut(&node).expect("it is one of ours");
        if self.mutant.is_some() {
            ownership::check(&driven.machine)?;
        }
        if let Some(due) = driven.machine.next_timeout()
            && driven.wakes_at.is_none_or(|wakes| wakes > due)
        {
            driven.wakes_at = Some(due);
            self.agenda.at(due, Event::Wake(node));
        }
        Ok(())
    }

    fn act_on(&mut self, node: NodeId, output: Output) -> Result<(), Violation> {
        match output {
            Output::Say { to, letter } => self.post(node, to, letter),
            Output::Ready { process, object } => return self.ready(process, object),
            Output::Lost { process, object, loss } => {
                self.coverage.saw(witness::name(&loss));
                self.witness.see_lost(process, object, &loss, |node| self.nodes[&node].is_alive)?;
            }
            Output::NoRoom { process, object, .. } => self.witness.see_no_room(process, object)?,
            Output::Pull { object, sources, .. } => {
                if sources.at_once.iter().any(|source| self.pulling.contains(&(*source, object))) {
                    self.coverage.saw("reader is sent to another reader");
                }
                self.pulling.insert((node, object));
                let delay = self.rng.span(DELAY_MAX_MS);
                self.agenda.after(delay, Event::Pulled { object, at: node, sources });
            }
            Output::Run { object, run, .. } => {
                self.coverage.saw("task runs again");
                self.witness.see_run(object, run)?;
                let (delay, at) = (self.rng.span(DELAY_MAX_MS), self.place());
                self.agenda.after(delay, Event::Ran { object, run, at });
            }
            Output::Free { object } => {
                self.coverage.saw("copy is freed");
                self.witness.see_freed(node, object)?;
            }
            Output::Forgotten { .. } => self.coverage.saw("nobody asks any more how it is made"),
            Output::LineageEvicted { object } => {
                self.coverage.saw("recipe is forgotten");
                self.witness.see_evicted(object);
            }
            Output::Refused { object, .. } => {
                self.coverage.saw("object is refused");
                if self.is_narrow {
                    self.witness.see_refused(object);
                }
                // Elsewhere only of an object whose last holder died before its claim came.
                ensure(self.witness.is_orphan(object), "OWN-1", || format!("{object} cannot be held at {node}"))?;
            }
            Output::NotCounted { from, number } => {
                self.coverage.saw("message is not counted");
                ensure(self.is_narrow, "OWN-10", || format!("{node} counts no more messages"))?;
                self.uncounted.insert((from, number));
            }
        }
        Ok(())
    }

    fn post(&mut self, from: NodeId, to: NodeId, letter: Letter) {
        let fury = if self.is_quiet { 0 } else { self.fury };
        if self.rng.chance(fury) {
            self.coverage.saw("letter is lost");
            return;
        }
        if self.rng.chance(fury) {
            self.coverage.saw("letter comes twice");
            let delay = self.rng.span(2 * DELAY_MAX_MS);
            self.agenda.after(delay, Event::Letter { from, to, letter: letter.clone() });
        }
        // A later one may overtake it.
        let mut delay = self.rng.span(DELAY_MAX_MS);
        if self.is_rough && !self.is_quiet && self.whim.chance(5) {
            self.coverage.saw("letter is late");
            delay += self.whim.span(5 * DELAY_MAX_MS);
        }
        self.agenda.after(delay, Event::Letter { from, to, letter });
    }

    /// A process reads an object, and takes over what its bytes name: they are held for it as those of a message are, and
    /// the object with them.
    fn ready(&mut self, process: ProcessId, object: ObjectId) -> Result<(), Violation> {
        self.coverage.saw("object is read");
        self.witness.see_ready(process, object)?;
        let inner = self.witness.object(object).inner.clone();
        if inner.is_empty() {
            return Ok(());
        }
        self.coverage.saw("references are read");
        for inner in &inner {
            let owner = &self.nodes[&inner.owner.node()];
            let is_held = owner.machine.is_held(*inner) || !owner.is_alive || self.witness.is_orphan(*inner);
            ensure(is_held, "OWN-5", || format!("{object} names {inner}, which was freed"))?;
        }
        let me = process.node();
        let machine = &mut self.nodes.get_mut(&me).expect("it is one of ours").machine;
        let Some(number) = machine.send(me, &[object]) else { return Ok(()) };
        self.take(me, number, process, inner)
    }

    /// OWN-1: what a living process holds, or has on its way to it, is held by its owner.
    fn judge_held(&self) -> Result<(), Violation> {
        let is_safe = |object: &ObjectId| {
            let owner = &self.nodes[&object.owner.node()];
            !owner.is_alive || owner.machine.is_held(*object) || self.witness.is_orphan(*object)
        };
        for (id, process) in self.processes.iter().filter(|(_, process)| process.is_alive) {
            let freed = process.holds.iter().find(|object| !is_safe(object));
            ensure(freed.is_none(), "OWN-1", || format!("{freed:?} was freed while {id} holds it"))?;
        }
        let freed = self.witness.on_way().find(|(to, object)| self.processes[to].is_alive && !is_safe(object));
        ensure(freed.is_none(), "OWN-1", || format!("{freed:?} was freed on its way"))
    }

    /// OWN-3: in the end nobody holds anything, and there is no copy of it.
    fn judge_end(&mut self) -> Result<(), Violation> {
        self.coverage.saw("all is freed");
        for (id, node) in self.nodes.iter().filter(|(_, node)| node.is_alive) {
            let open = node.machine.open();
            ensure(open == (0, 0, 0), "OWN-3", || format!("{id} keeps {open:?}: {:?}", node.machine))?;
            let copy = self.witness.copies_at(*id).next();
            ensure(copy.is_none(), "OWN-3", || format!("{id} has a copy of {copy:?}"))?;
        }
        Ok(())
    }
}
