//! Who owns an object, who holds it, where its bytes are, and how they are made again (design.md §6; G9, G10).
//!
//! ```text
//!              Made                     last copy lost,
//!   Pending ──────────► Sealed ──────────────────────────► Missing
//!      ▲  │               ▲ │       or nobody reads it        │ │
//!      │  │ NotMade       │ └── last copy lost, no recipe ──┐ │ │
//!      │  └───────────► Lost ◄──────────────────────────────┘ │ │
//!      │                  ▲ no run left, an argument is lost, │ │
//!      │                  └ the recipe is forgotten ──────────┘ │
//!      └──────── wanted: its arguments first, then Run ─────────┘
//! ```
//!
//! One machine for each node. It owns the objects whose references its processes made, and outlives those: a dead worker
//! takes only its holds with it. For objects of other nodes it stands as *one* holder, whatever holds them here:
//!
//! | what holds an object | from | until |
//! |---|---|---|
//! | a process of this node | `Hold`, or `New` | `Release`, or it ends |
//! | another node | its claim is heard | it says otherwise, or is dead |
//! | a message that was sent | [`send`](Ownership::send) | the receiver's node is counted, it is dropped, or that node is dead |
//! | a message that has come | it has come | its receiver has taken it over, and this node is counted by all owners |
//! | bytes that name it | they are sealed | nobody holds the object that they are of |
//! | a task that makes another of it | it is to run | it has run |
//!
//! A recipe says how an object is made again. It keeps of its arguments what is known of them, and their recipes, but not
//! their bytes, which are made again too; an argument of another node is held. All recipes together are bounded, and the
//! oldest is forgotten first. An object that is missing is made again when somebody wants it, once for all who do.
//!
//! Between two nodes every word is heard once and in order (`lane.rs`), whatever road it takes; the words of a process are
//! numbered, and one that comes again is not heard. Who is dead is told by the driver; who is dead is not heard any more.
//!
//! What is read out of bytes is taken over like what comes in a message: the driver sends itself one that names the object
//! read ([`send`](Ownership::send) to its own node), and lets it arrive with what the bytes name.
//!
//! Moves no bytes. Knows nothing of how a task is run and retried: that is [`task`](crate::task)'s; here a run is what
//! comes to a value or to nothing in the end.

mod claims;
mod entry;
mod invariants;
mod io;
mod lane;
mod making;
mod messages;
mod pullers;
mod record;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_types::{Death, DeathCause, Digest, Loss, NodeId, ObjectId, ProcessId, StateMachine, Time};

use crate::haul::Sources;
use crate::invariant::Pace;
use crate::mutant::{Mutant, Planted};
use entry::{Copy, End, Entry, Fetch, Foreign, Owned, Role, State};
use lane::{Lane, Subject};
use messages::{Arrival, Sent};
use pullers::Pullers;
use table::Table;

pub use invariants::check;
pub use io::{Birth, HolderWord, Input, Output, Place, Recipe, Seal};
pub use pullers::{AT_ONCE_MAX, READERS_MAX};
pub use record::Record;

/// How much a node keeps (OWN-10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Objects that it knows of, its own and others'. A process that holds one more is refused it.
    pub objects_max: usize,
    /// Messages with references on their way, from it and to it: who has so many sends no more, and no more that come are
    /// counted.
    pub messages_max: usize,
    /// What recipes may take together (G10).
    pub lineage_bytes_max: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { objects_max: 1 << 22, messages_max: 1 << 18, lineage_bytes_max: 1 << 30 }
    }
}

/// Nobody waits longer for bytes that are somewhere, and of which none come (G10).
pub const FETCH_MAX: Duration = Duration::from_secs(60);

/// An owner that is asked for an object answers within this if there is a copy; else it is being made again.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// What could not be pulled is tried again after this: the owner has heard of most deaths by then.
pub const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// An object of a process that lives may be heard of before that process's own word of it: they come by different roads.
/// Who waits for a word that does not come in this time is told that nobody holds the object.
pub const UNBORN_MAX: Duration = Duration::from_secs(2);

/// Copies that are named to a reader: more do not make it faster.
pub const SOURCES_MAX: usize = 8;

/// Dead nodes that are remembered so as not to hear them: the first to have joined are forgotten, as the network has
/// forgotten them long before.
pub const DEAD_MAX: usize = 4_096;

/// What has been noticed, and changes nothing (G21).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Words that had been heard before.
    pub repeats: u64,
    /// Words that came before one that is still to come.
    pub early: u64,
    /// Words of the dead.
    pub of_dead: u64,
    /// Words about objects that are not the speaker's to speak of.
    pub misdirected: u64,
    /// Results of runs that do not stand for their object.
    pub stale_results: u64,
    /// Recipes that were forgotten for others.
    pub recipes_evicted: u64,
}

/// The objects of one node, and what is held there of others'.
///
/// ```
/// use mobula_logic::ownership::{Birth, HolderWord, Input, Output, Ownership, Place, Seal};
/// use mobula_types::{Digest, NodeId, ObjectId, ProcessId, StateMachine, Time};
/// let (node, worker) = (NodeId(1), ProcessId::new(NodeId(1), 1));
/// let object = ObjectId { owner: worker, seq: 1 };
/// let mut ownership = Ownership::new(node);
/// ownership.handle(Time::ZERO, Input::Attached { process: worker });
/// let seal = Seal { at: node, place: Place::Arena, bytes: 1 << 20, digest: Digest(7), inner: vec![] };
/// let word = HolderWord::New { object, birth: Birth::Put(seal) };
/// ownership.handle(Time::ZERO, Input::Holds { process: worker, number: 1, word });
/// ownership.handle(Time::ZERO, Input::Holds { process: worker, number: 2, word: HolderWord::Release { object } });
/// assert_eq!(ownership.poll_output(), Some(Output::Free { object }));
/// ```
#[derive(Debug)]
pub struct Ownership {
    me: NodeId,
    bounds: Bounds,
    seen: Time,
    entries: Table,
    /// Processes of this node that live, and the last of their words that was heard.
    processes: BTreeMap<ProcessId, u64>,
    lanes: BTreeMap<NodeId, Lane>,
    dead: BTreeSet<NodeId>,
    messages: u64,
    sent: BTreeMap<u64, Sent>,
    arrived: BTreeMap<(NodeId, u64), Arrival>,
    lineage: Lineage,
    /// When something is to be done about an object.
    timers: BTreeSet<(Time, ObjectId)>,
    /// Objects that somebody holds no more.
    loose: Vec<ObjectId>,
    counters: Counters,
    outputs: VecDeque<Output>,
    planted: Planted,
    pace: Pace,
}

#[derive(Debug)]
struct Lineage {
    bytes: u64,
    last: u64,
    /// Recipes that are not in use, the oldest first.
    idle: BTreeSet<(u64, ObjectId)>,
}

impl StateMachine for Ownership {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.seen = now;
        match input {
            Input::Attached { process } => self.handle_attached(process),
            Input::Holds { process, number, word } => self.handle_holds(process, number, word),
            Input::Wanted { process, object } => self.handle_wanted(process, object),
            Input::Recipe { object, recipe } => self.handle_recipe(object, recipe),
            Input::Made { object, run, seal } => self.handle_made(object, run, seal),
            Input::NotMade { object, run } => self.handle_not_made(object, run),
            Input::Copied { object, digest, is_primary } => self.handle_copied(object, digest, is_primary),
            Input::Moved { object, to: Some(place) } => self.handle_moved(object, place),
            Input::Moved { object, to: None } => self.handle_vanished(object, Loss::GivenUp { node: self.me }),
            Input::Vanished { object, loss } => self.handle_vanished(object, loss),
            Input::Coming { object } => self.handle_coming(object),
            Input::NotPulled { object } => self.handle_not_pulled(object),
            Input::NoRoom { object, bytes } => self.handle_no_room(object, bytes),
            Input::Arrived { from, number, process, objects } => self.handle_arrived(from, number, process, objects),
            Input::Taken { from, number } => self.handle_taken(from, number),
            Input::Dropped { number } => self.let_go(number),
            Input::Said { from, letter } => self.handle_letter(from, letter),
            Input::Died { process } if process.number() == 0 => self.handle_node_died(process.node()),
            Input::Died { process } => self.handle_process_died(process),
            Input::Tick => {}
        }
        self.handle_time();
        self.settle();
        self.say();
        if self.pace.is_due(self.entries.len(), &self.planted) {
            check(self).expect("an ownership keeps its invariants");
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        let timer = self.timers.first().map(|(time, _)| *time);
        self.lanes.values().filter_map(Lane::next_timeout).chain(timer).min()
    }
}

impl Ownership {
    /// That of the node `me`, with nothing in it.
    pub fn new(me: NodeId) -> Self {
        Self::bounded(me, Bounds::default())
    }

    /// The same with other bounds.
    pub fn bounded(me: NodeId, bounds: Bounds) -> Self {
        Self {
            me,
            bounds,
            seen: Time::ZERO,
            entries: Table::default(),
            processes: BTreeMap::new(),
            lanes: BTreeMap::new(),
            dead: BTreeSet::new(),
            messages: 0,
            sent: BTreeMap::new(),
            arrived: BTreeMap::new(),
            lineage: Lineage { bytes: 0, last: 0, idle: BTreeSet::new() },
            timers: BTreeSet::new(),
            loose: Vec::new(),
            counters: Counters::default(),
            outputs: VecDeque::new(),
            planted: Planted::default(),
            pace: Pace::default(),
        }
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.planted = Planted::new(mutant);
        self
    }

    /// Objects that are known, messages that have not been counted, and bytes of recipes: all zero when nobody holds
    /// anything.
    pub fn open(&self) -> (usize, usize, u64) {
        (self.entries.len(), self.sent.len() + self.arrived.len(), self.lineage.bytes)
    }

    /// What has been noticed so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Whether this node's books say that somebody holds an object.
    pub fn is_held(&self, object: ObjectId) -> bool {
        self.entries.get(&object).is_some_and(Entry::is_held)
    }

    /// Whether the copy that is here may be given up for room: there is another that stays.
    pub fn may_give_up(&self, object: ObjectId) -> bool {
        self.entries.get(&object).and_then(|entry| entry.copy).is_some_and(|copy| !copy.is_primary)
    }

    fn handle_attached(&mut self, process: ProcessId) {
        if process.node() == self.me && process.number() != 0 {
            self.processes.entry(process).or_insert(0);
        }
    }

    fn handle_holds(&mut self, process: ProcessId, number: u64, word: HolderWord) {
        let Some(heard) = self.processes.get_mut(&process) else {
            self.counters.of_dead += 1;
            return;
        };
        // OWN-4: a word counts once.
        if number <= *heard {
            self.counters.repeats += 1;
            return;
        }
        *heard = number;
        match word {
            HolderWord::New { object, birth } => self.create(process, object, birth),
            HolderWord::Hold { object } => match self.known(object) {
                Some(entry) => {
                    entry.holders.insert(process);
                    self.claim(object);
                }
                None => self.outputs.push_back(Output::Refused { process, object }),
            },
            HolderWord::Release { object } => {
                if let Some(entry) = self.entries.get_mut(&object) {
                    entry.holders.remove(&process);
                    entry.wanted.remove(&process);
                    self.loose.push(object);
                }
            }
        }
    }

    /// What is known of an object that is held from now on; `None` when it is this node's and cannot be one that is still to
    /// come, or the table is full.
    fn known(&mut self, object: ObjectId) -> Option<&mut Entry> {
        let owner = object.owner;
        let is_foreign = owner.node() != self.me;
        let may_come = is_foreign || self.processes.contains_key(&owner);
        if may_come && !self.entries.contains(&object) && !self.is_full() {
            let role = if is_foreign {
                let is_dead = self.dead.contains(&owner.node());
                Role::Foreign(Foreign { end: is_dead.then_some(End::OwnerDied), ..Foreign::default() })
            } else {
                let until = self.seen + UNBORN_MAX;
                self.timers.insert((until, object));
                Role::Owned(Box::new(Owned { unborn_until: Some(until), ..Owned::new(self.me) }))
            };
            return Some(self.entries.entry(object, || Entry::new(role)));
        }
        self.entries.get_mut(&object)
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.bounds.objects_max
    }

    fn handle_wanted(&mut self, process: ProcessId, object: ObjectId) {
        if !self.processes.contains_key(&process) {
            return;
        }
        match self.entries.get_mut(&object) {
            Some(entry) => {
                entry.wanted.insert(process);
                self.serve(object);
                // OWN-9: who was refused it may find it known and held by nobody: what is known of it is about to go.
                self.loose.push(object);
            }
            None => self.outputs.push_back(Output::Lost { process, object, loss: Loss::NotHeld }),
        }
    }

    /// Answers those who want an object, or sees to it that they can be answered (OWN-9).
    fn serve(&mut self, object: ObjectId) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        if entry.wanted.is_empty() {
            return;
        }
        if entry.is_readable() {
            return self.ready(object);
        }
        let is_busy = entry.fetch.is_tried();
        match &mut entry.role {
            Role::Owned(owned) => match &owned.state {
                State::Sealed { is_inline: true } => self.ready(object),
                State::Sealed { .. } if !is_busy => {
                    let whole: Vec<NodeId> = owned.sources().collect();
                    let in_circles = self.planted.is(Mutant::ReadInCircles);
                    let sources = owned.pullers.sources(&whole, self.me, self.seen, in_circles);
                    let bytes = owned.sealed.map_or(0, |sealed| sealed.bytes);
                    self.pull(object, bytes, sources);
                }
                State::Missing(_) => self.remake(object),
                State::Lost(loss) => {
                    let loss = loss.clone();
                    self.fail(object, &loss);
                }
                State::Sealed { .. } | State::Pending { .. } => {}
            },
            Role::Foreign(_) if is_busy => {}
            Role::Foreign(foreign) => match foreign.end {
                Some(End::Gone) => self.fail(object, &Loss::NotHeld),
                Some(End::OwnerDied) => self.fail(object, &Loss::OwnerNodeDied { node: object.owner.node() }),
                None if foreign.is_asked => {}
                None => {
                    foreign.is_asked = true;
                    entry.fetch.asked_at = self.seen;
                    self.note(object.owner.node(), Subject::Ask(object), true);
                }
            },
        }
    }

    fn pull(&mut self, object: ObjectId, bytes: u64, sources: Sources) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        entry.fetch.is_pulling = true;
        if entry.fetch.until.is_none() {
            let until = self.seen + FETCH_MAX;
            entry.fetch.until = Some(until);
            self.timers.insert((until, object));
        }
        self.outputs.push_back(Output::Pull { object, bytes, sources });
    }

    fn ready(&mut self, object: ObjectId) {
        self.stop_waiting(object);
        let Some(entry) = self.entries.get_mut(&object) else { return };
        for process in std::mem::take(&mut entry.wanted) {
            self.outputs.push_back(Output::Ready { process, object });
        }
    }

    fn fail(&mut self, object: ObjectId, loss: &Loss) {
        self.stop_waiting(object);
        let Some(entry) = self.entries.get_mut(&object) else { return };
        for process in std::mem::take(&mut entry.wanted) {
            self.outputs.push_back(Output::Lost { process, object, loss: loss.clone() });
        }
    }

    fn stop_waiting(&mut self, object: ObjectId) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        let Fetch { again_at, until, .. } = &mut entry.fetch;
        for time in [again_at.take(), until.take()].into_iter().flatten() {
            self.timers.remove(&(time, object));
        }
    }

    fn handle_copied(&mut self, object: ObjectId, digest: Digest, is_primary: bool) {
        let me = self.me;
        let is_foreign = object.owner.node() != me;
        let is_known = self.entries.contains(&object);
        // A copy that comes when nobody holds the object any more is the owner's to end: it knows of all of them.
        let known = if is_known || is_foreign { self.known(object) } else { None };
        let Some(entry) = known else {
            self.outputs.push_back(Output::Free { object });
            return;
        };
        // OWN-8: meanwhile the node that had it may have lost it, and made it again with other bytes.
        let expected = entry.foreign().and_then(|foreign| foreign.expected).filter(|_| !is_primary);
        if expected.is_some_and(|expected| expected != digest) && entry.copy.is_none() {
            self.outputs.push_back(Output::Free { object });
            return self.handle_not_pulled(object);
        }
        entry.fetch.is_pulling = false;
        if let Some(owned) = entry.owned_mut() {
            owned.pullers.forget(me);
        }
        let is_right = entry.owned().is_none_or(|owned| owned.takes(digest)) && entry.is_held();
        let is_for_owner = entry.foreign().is_some_and(|foreign| foreign.end.is_none());
        if !is_right && !is_for_owner {
            if entry.copy.is_none() {
                self.outputs.push_back(Output::Free { object });
            }
            self.loose.push(object);
            return self.serve(object);
        }
        // What was made here for another node is read when its owner says that it is the object.
        let is_confirmed = !is_primary;
        if !entry.is_readable() {
            entry.copy = Some(Copy { digest, place: Place::Arena, is_primary, is_confirmed });
        }
        if entry.is_readable() {
            self.ready(object);
        }
        self.reseal(object);
        self.claim(object);
        // OWN-9: what was made here while it was being pulled is not read yet, and nothing else is on its way.
        self.serve(object);
        self.loose.push(object);
    }

    fn handle_moved(&mut self, object: ObjectId, to: Place) {
        if let Some(copy) = self.entries.get_mut(&object).and_then(|entry| entry.copy.as_mut()) {
            copy.place = to;
        }
    }

    fn handle_vanished(&mut self, object: ObjectId, loss: Loss) {
        let me = self.me;
        let Some(entry) = self.entries.get_mut(&object) else { return };
        if entry.copy.take().is_none() {
            return;
        }
        match entry.owned() {
            Some(_) => self.copy_lost(object, me, loss),
            None => self.claim(object),
        }
        self.loose.push(object);
    }

    fn handle_coming(&mut self, object: ObjectId) {
        let Some(entry) = self.entries.get_mut(&object).filter(|entry| entry.fetch.is_pulling) else { return };
        let Some(until) = &mut entry.fetch.until else { return };
        self.timers.remove(&(*until, object));
        *until = self.seen + FETCH_MAX;
        self.timers.insert((*until, object));
    }

    fn handle_not_pulled(&mut self, object: ObjectId) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        if !std::mem::take(&mut entry.fetch.is_pulling) || entry.wanted.is_empty() {
            return;
        }
        let again_at = self.seen + AGAIN_AFTER;
        entry.fetch.again_at = Some(again_at);
        self.timers.insert((again_at, object));
    }

    fn handle_no_room(&mut self, object: ObjectId, bytes: u64) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        if !std::mem::take(&mut entry.fetch.is_pulling) {
            return;
        }
        let waiting = std::mem::take(&mut entry.wanted);
        self.outputs.extend(waiting.into_iter().map(|process| Output::NoRoom { process, object, bytes }));
        self.stop_waiting(object);
        self.loose.push(object);
    }

    fn handle_time(&mut self) {
        while let Some(&(time, object)) = self.timers.first().filter(|(time, _)| *time <= self.seen) {
            self.timers.remove(&(time, object));
            let Some(entry) = self.entries.get_mut(&object) else { continue };
            let is_unanswered = !entry.fetch.is_tried() && self.seen >= entry.fetch.asked_at + ANSWERED_WITHIN;
            if entry.fetch.until == Some(time) && is_unanswered {
                // There is nothing to be reached: it is being made again.
                entry.fetch.until = None;
            } else if entry.fetch.until == Some(time) {
                self.fail(object, &Loss::Unreachable { seconds: FETCH_MAX.as_secs() });
            } else if entry.fetch.again_at == Some(time) {
                entry.fetch.again_at = None;
                self.serve(object);
            } else if let Some(owned) = entry.owned_mut().filter(|owned| owned.unborn_until == Some(time)) {
                owned.unborn_until = None;
                self.lose(object, Loss::NotHeld);
                self.forsake(object);
            }
        }
    }

    /// OWN-3: other nodes hold no more what was never born. One that was told so of it before, and whose claim had crossed
    /// that word, will not say that it holds it no longer.
    fn forsake(&mut self, object: ObjectId) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        let nodes: Vec<ProcessId> = entry.holders.iter().copied().filter(|holder| holder.number() == 0).collect();
        entry.holders.retain(|holder| holder.number() != 0);
        nodes.into_iter().for_each(|node| self.note(node.node(), Subject::Gone(object), true));
        self.loose.push(object);
    }

    fn handle_process_died(&mut self, process: ProcessId) {
        if self.processes.remove(&process).is_none() || self.planted.is(Mutant::KeepHoldsOfDead) {
            return;
        }
        for (object, entry) in self.entries.iter_mut() {
            entry.wanted.remove(&process);
            // OWN-3: the dead hold nothing. What they own stays: it is this node's.
            if entry.holders.remove(&process) {
                self.loose.push(object);
            }
        }
        // What it has not made, and was to, nobody will.
        let of_it = self.entries.iter_of(process);
        let unmade: Vec<ObjectId> = of_it
            .filter(|(_, entry)| entry.owned().is_some_and(Owned::is_its_makers))
            .map(|(object, _)| object)
            .collect();
        for object in unmade {
            let death = Box::new(Death::of(process, DeathCause::Disconnected));
            self.lose(object, Loss::MakerDied { death });
        }
        let of_it = self.arrived.iter().filter(|(_, arrival)| arrival.process == process);
        for (from, number) in of_it.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.handle_taken(from, number);
        }
    }

    fn handle_node_died(&mut self, node: NodeId) {
        if node == self.me || !self.dead.insert(node) {
            return;
        }
        if self.dead.len() > DEAD_MAX {
            self.dead.pop_first();
        }
        self.lanes.remove(&node);
        let to_it = self.sent.iter().filter(|(_, sent)| sent.to == node);
        for number in to_it.map(|(number, _)| *number).collect::<Vec<_>>() {
            self.let_go(number);
        }
        // Nobody waits there to hear that they are counted.
        for (key, arrival) in &mut self.arrived {
            arrival.is_counted |= key.0 == node;
        }
        let from_it = self.arrived.range((node, 0)..=(node, u64::MAX)).map(|(key, _)| *key);
        for (from, number) in from_it.collect::<Vec<_>>() {
            self.put_away(from, number);
        }
        for object in self.entries.iter().map(|(object, _)| object).collect::<Vec<_>>() {
            match object.owner.node() == node {
                true => self.orphan(object),
                false => self.forget_node(object, node),
            }
        }
    }

    /// A dead node holds nothing of ours, and has no copy.
    fn forget_node(&mut self, object: ObjectId, node: NodeId) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        if !self.planted.is(Mutant::KeepHoldsOfDead) && entry.holders.remove(&node.into()) {
            self.loose.push(object);
        }
        let Some(owned) = entry.owned_mut() else { return };
        owned.askers.remove(&node);
        owned.pullers.forget(node);
        self.copy_lost(object, node, Loss::NodeDied { node });
    }

    /// The owner of an object is dead: who has a copy goes on reading it.
    fn orphan(&mut self, object: ObjectId) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        let Some(foreign) = entry.foreign_mut() else { return };
        foreign.end = Some(End::OwnerDied);
        foreign.is_asked = false;
        let arrivals = std::mem::take(&mut foreign.arrivals);
        // Nobody can say any more whether it is the object.
        if entry.copy.take_if(|copy| !copy.is_confirmed).is_some() {
            self.outputs.push_back(Output::Free { object });
        }
        arrivals.into_iter().for_each(|(from, number)| self.claimed(from, number));
        self.loose.push(object);
        self.serve(object);
    }

    /// What nobody holds any more is freed, with all that hung on it (OWN-3).
    fn settle(&mut self) {
        while let Some(object) = self.loose.pop() {
            let Some(entry) = self.entries.get(&object) else { continue };
            let is_over = entry.foreign().is_some_and(|it| it.end.is_some() && !it.is_to_take_back());
            match &entry.role {
                _ if entry.is_held() => {}
                Role::Owned(_) if entry.recipes > 0 => self.drop_bytes(object),
                Role::Owned(_) => self.remove(object),
                Role::Foreign(_) if is_over => self.remove(object),
                Role::Foreign(_) => {
                    self.fail(object, &Loss::NotHeld);
                    self.claim(object);
                }
            }
        }
    }

    /// Nobody reads an object, but it may be needed to make another.
    fn drop_bytes(&mut self, object: ObjectId) {
        self.fail(object, &Loss::NotHeld);
        let Some(entry) = self.entries.get_mut(&object) else { return };
        if entry.is_inline() || entry.copy.take().is_some() {
            self.outputs.push_back(Output::Free { object });
        }
        let Some(owned) = entry.owned_mut() else { return };
        let nodes: BTreeSet<NodeId> = owned.sources().collect();
        owned.copies.clear();
        owned.pullers = Pullers::default();
        owned.promised = None;
        if matches!(owned.state, State::Sealed { .. }) {
            owned.state = match owned.recipe {
                Some(_) => State::Missing(Loss::NotHeld),
                None => State::Lost(Loss::NotHeld),
            };
        }
        let (askers, inner) = (std::mem::take(&mut owned.askers), std::mem::take(&mut owned.inner));
        askers.into_iter().for_each(|node| self.note(node, Subject::Gone(object), true));
        nodes.into_iter().for_each(|node| self.note(node, Subject::Drop(object), false));
        self.release_inner(inner);
    }

    fn remove(&mut self, object: ObjectId) {
        self.fail(object, &Loss::NotHeld);
        self.stop_using(object);
        self.forget_recipe(object);
        let Some(entry) = self.entries.remove(&object) else { return };
        if entry.copy.is_some() || entry.is_inline() {
            self.outputs.push_back(Output::Free { object });
        }
        if let Role::Owned(owned) = entry.role {
            let nodes: BTreeSet<NodeId> = owned.sources().chain(owned.askers.iter().copied()).collect();
            nodes.into_iter().for_each(|node| self.note(node, Subject::Gone(object), false));
            self.release_inner(owned.inner);
        }
    }

    fn release_inner(&mut self, inner: Vec<ObjectId>) {
        for object in inner {
            if let Some(entry) = self.entries.get_mut(&object) {
                entry.containers -= 1;
                self.loose.push(object);
            }
        }
    }

    /// What bytes name is held for them (OWN-1): what of it there is.
    fn hold_inner(&mut self, of: ObjectId, inner: Vec<ObjectId>) -> Vec<ObjectId> {
        // OWN-5: whoever reads these bytes finds what they name.
        if self.planted.is(Mutant::ForgetInner) {
            return Vec::new();
        }
        let mut held = Vec::new();
        for object in inner.into_iter().collect::<BTreeSet<_>>() {
            if let Some(entry) = self.known(object) {
                entry.containers += 1;
                held.push(object);
                self.claim(object);
            } else if self.is_full() {
                self.outputs.push_back(Output::Refused { process: of.owner, object });
            }
        }
        held
    }
}
