//! The head: [`Membership`] and [`Directory`] behind one door, whose words leave after the records that they rest on are
//! durable (G12).
//!
//! ```text
//!  inputs ──► membership, directory ──► outputs that rest on nothing unsynced ─────────────► said
//!                    │                        │                                      ▲
//!                    │ changes                └── the others ──► held ── synced ─────┘
//!                    ▼                                                     ▲
//!                 pending ── one batch at a time ──► Commit ──(driver)── Synced
//!                                                        └───────────── Failed: read-only until it is synced
//! ```
//!
//! Changes that come while a batch is written wait for the next one together: one sync for all of them. Of one record
//! only the newest change is written.
//!
//! While the store takes nothing (its disk is full, G16) the head is *read-only*: what would make something new is refused
//! with [`Output::ReadOnly`], look-ups, beats and leases go on, and deaths are told although they are not written yet: the
//! others must not wait for a disk, and the record follows when there is room again.
//!
//! How records become bytes and how they are synced is the driver's (`mobula-head`).

mod invariants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use mobula_types::{
    BeatAnswer, Death, DeathCause, HeadId, Held, Incarnation, NodeId, ProcessId, Registration, StateMachine, Time,
    ViewChange,
};

use crate::calendar::Calendar;
use crate::directory::{self, Directory, Rests};
use crate::invariant::Pace;
use crate::membership::{self, Membership, Refusal};
use crate::mutant::{Mutant, Planted};
use crate::record::{Change, Counters, Record, RecordKey};

use invariants::check_own;

pub use invariants::check;

/// Records that wait to be written; beyond it what would make more is refused with [`Output::ReadOnly`]. Ten times what
/// one batch of a busy cluster takes, and in bytes what the head's nodes can send in a second or two.
pub const PENDING_MAX: usize = 65_536;

/// How much the parts of a head keep; [`Default`] says what holds unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Records that wait to be written.
    pub pending_max: usize,
    /// The nodes' part.
    pub membership: membership::Bounds,
    /// The names' part.
    pub directory: directory::Bounds,
}

impl Default for Bounds {
    fn default() -> Self {
        let (membership, directory) = (membership::Bounds::default(), directory::Bounds::default());
        Self { pending_max: PENDING_MAX, membership, directory }
    }
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// To the nodes' part; what the two parts say to one another is not heard from outside.
    Membership(membership::Input),
    /// To the names' part, likewise.
    Directory(directory::Input),
    /// A batch is durable.
    Synced {
        /// Which.
        batch: u64,
    },
    /// A batch could not be written. The driver goes on trying the same one.
    Failed {
        /// Which.
        batch: u64,
        /// Why, for those who are refused.
        cause: String,
    },
    /// Nothing but time has passed.
    Tick,
}

impl From<membership::Input> for Input {
    fn from(input: membership::Input) -> Self {
        Self::Membership(input)
    }
}

impl From<directory::Input> for Input {
    fn from(input: directory::Input) -> Self {
        Self::Directory(input)
    }
}

/// What the head asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Write these, all or none, sync, and say [`Input::Synced`]. The next comes after that.
    Commit {
        /// Names the batch.
        batch: u64,
        /// What is in it.
        changes: Vec<Change>,
    },
    /// Tell a node that it belongs to the cluster.
    Admit {
        /// The request.
        ask: u64,
        /// Its id.
        node: NodeId,
        /// Which start of its member it is.
        incarnation: Incarnation,
        /// The term of its lease.
        term: u64,
        /// What it must know of the others.
        view: ViewChange,
    },
    /// Tell a node that it does not.
    Refuse {
        /// The request.
        ask: u64,
        /// Why.
        why: Refusal,
    },
    /// Tell a node the answer to its beat.
    Beat {
        /// Which node.
        node: NodeId,
        /// The answer.
        answer: BeatAnswer,
    },
    /// Tell whoever speaks under this id that it was declared dead.
    Fence {
        /// Which.
        node: NodeId,
    },
    /// Tell all nodes that one has died.
    Died {
        /// Its death.
        death: Death,
    },
    /// Tell a node to finish what it does and to leave.
    Drain {
        /// Which.
        node: NodeId,
    },
    /// Whether the node that was to leave is there.
    DrainAnswered {
        /// The request.
        ask: u64,
        /// It is, and has been told.
        is_known: bool,
    },
    /// What the names' part says; never [`directory::Output::Keep`].
    Directory(directory::Output),
    /// Nothing was done, because nothing can be written.
    ReadOnly {
        /// The request.
        ask: u64,
        /// Why.
        cause: String,
    },
}

/// The decisions of a cluster's head.
///
/// ```
/// use mobula_logic::head::{Head, Input, Output};
/// use mobula_logic::{Calendar, membership};
/// use mobula_types::{HeadId, NodeId, Registration, StateMachine, Time};
/// let mut head = Head::restore(HeadId::default(), Calendar::default(), Time::ZERO, [], None);
/// let registration = Registration::default();
/// head.handle(Time::ZERO, membership::Input::Register { ask: 1, registration }.into());
/// let Some(Output::Commit { batch, .. }) = head.poll_output() else { panic!("it keeps what it is about to say") };
/// assert_eq!(head.poll_output(), None);
/// head.handle(Time::ZERO, Input::Synced { batch });
/// assert!(matches!(head.poll_output(), Some(Output::Admit { ask: 1, node: NodeId(1), .. })));
/// ```
#[derive(Debug)]
pub struct Head {
    id: HeadId,
    membership: Membership,
    directory: Directory,
    /// What a node said that it holds, until it is admitted.
    arrivals: BTreeMap<u64, Arrival>,
    counters: Counters,
    /// Changes that are in no batch yet.
    pending: BTreeMap<RecordKey, Option<Record>>,
    /// The batch that is being written: its keys, and for a node's record whether it says how the node ended.
    writing: Option<(u64, BTreeMap<RecordKey, bool>)>,
    batches: u64,
    /// What waits for a record, in the order in which it was to be said.
    held: VecDeque<(RecordKey, directory::Output)>,
    /// How many of `held` wait for which record.
    held_for: BTreeMap<RecordKey, usize>,
    ready: VecDeque<Output>,
    read_only: Option<String>,
    /// A record that something was said of before it was durable.
    said_early: Option<RecordKey>,
    pending_max: usize,
    planted: Planted,
    pace: Pace,
}

#[derive(Debug)]
struct Arrival {
    held: Vec<Held>,
    processes: Vec<ProcessId>,
}

impl StateMachine for Head {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::Membership(membership::Input::Kept { .. }) => {}
            Input::Directory(
                directory::Input::NodeUp { .. }
                | directory::Input::Renew { .. }
                | directory::Input::NodeStopped { .. }
                | directory::Input::NodeDied { .. },
            ) => {}
            Input::Membership(input) => self.handle_membership(now, input),
            Input::Directory(input) => self.handle_directory(now, input),
            Input::Synced { batch } => self.handle_synced(now, batch),
            Input::Failed { batch, cause } => self.handle_failed(now, batch, cause),
            Input::Tick => {}
        }
        // Both look at the time, whichever was meant.
        self.membership.handle(now, membership::Input::Tick);
        self.directory.handle(now, directory::Input::Tick);
        self.gather(now);
        if self.pace.is_due(self.held.len(), &self.planted) {
            check_own(self).expect("the head keeps its invariants");
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.ready.pop_front().or_else(|| self.commit())
    }

    fn next_timeout(&self) -> Option<Time> {
        self.membership.next_timeout().into_iter().chain(self.directory.next_timeout()).min()
    }
}

impl Head {
    /// What an earlier head has kept, nothing for a new cluster. `id` is durable already.
    ///
    /// `mutant` is a fault for the simulator to find; without the feature `mutants` none is planted.
    pub fn restore(
        id: HeadId,
        calendar: Calendar,
        now: Time,
        records: impl IntoIterator<Item = (RecordKey, Record)>,
        mutant: Option<Mutant>,
    ) -> Self {
        Self::bounded(id, calendar, now, records, mutant, Bounds::default())
    }

    /// The same where other bounds hold, as they did for the heads before it.
    pub fn bounded(
        id: HeadId,
        calendar: Calendar,
        now: Time,
        records: impl IntoIterator<Item = (RecordKey, Record)>,
        mutant: Option<Mutant>,
        bounds: Bounds,
    ) -> Self {
        let (mut nodes, mut others, mut counters) = (Vec::new(), Vec::new(), Counters::default());
        for (key, record) in records {
            match record {
                Record::Node(node) => nodes.push(node),
                other => {
                    if let Record::Counters(kept) = &other {
                        counters = *kept;
                    }
                    others.push((key, other));
                }
            }
        }
        let membership = Membership::restore(id, calendar, now, counters.node, nodes, bounds.membership);
        #[cfg(feature = "mutants")]
        let membership = match mutant {
            Some(mutant) => membership.with_mutant(mutant),
            None => membership,
        };
        let lives = |node| membership.lives(node);
        let directory = Directory::restore(id, calendar, now, others, lives, mutant, bounds.directory);
        let mut head = Self {
            id,
            membership,
            directory,
            arrivals: BTreeMap::new(),
            counters,
            pending: BTreeMap::new(),
            writing: None,
            batches: 0,
            held: VecDeque::new(),
            held_for: BTreeMap::new(),
            ready: VecDeque::new(),
            read_only: None,
            said_early: None,
            pending_max: bounds.pending_max,
            planted: Planted::default(),
            pace: Pace::default(),
        };
        #[cfg(feature = "mutants")]
        if let Some(mutant) = mutant {
            head.planted = Planted::new(mutant);
        }
        head.gather(now);
        head
    }

    /// Which head it is.
    pub fn id(&self) -> HeadId {
        self.id
    }

    /// The nodes, for `status`.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The names, jobs and tokens, for lists.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// Why nothing can be written, when that is so.
    pub fn read_only(&self) -> Option<&str> {
        self.read_only.as_deref()
    }

    fn handle_membership(&mut self, now: Time, input: membership::Input) {
        if let membership::Input::Register { ask, registration } = &input {
            // Who comes again needs no new record.
            if registration.node.is_none() && self.refuses(*ask) {
                return;
            }
            let Registration { held, processes, .. } = registration.clone();
            self.arrivals.insert(*ask, Arrival { held, processes });
        }
        self.membership.handle(now, input);
    }

    fn handle_directory(&mut self, now: Time, input: directory::Input) {
        use directory::Input;
        let ask = match &input {
            Input::Claim { ask, .. }
            | Input::JobStart { ask, .. }
            | Input::Put { ask, .. }
            | Input::TokenCreate { ask, .. }
            | Input::TokenUse { ask, .. }
            | Input::TokenRevoke { ask, .. } => Some(*ask),
            _ => None,
        };
        if !ask.is_some_and(|ask| self.refuses(ask)) {
            self.directory.handle(now, input);
        }
    }

    /// Whether what asks for a new record is refused, and says so.
    fn refuses(&mut self, ask: u64) -> bool {
        let cause = match &self.read_only {
            Some(cause) => cause.clone(),
            None if self.pending.len() >= self.pending_max => {
                format!("{} records wait to be written", self.pending_max)
            }
            None => return false,
        };
        self.ready.push_back(Output::ReadOnly { ask, cause });
        true
    }

    /// Takes what the two parts say, until they have nothing more to say to one another.
    fn gather(&mut self, now: Time) {
        loop {
            if let Some(output) = self.membership.poll_output() {
                self.hear_membership(now, output);
            } else if let Some(output) = self.directory.poll_output() {
                self.hear_directory(output);
            } else {
                break;
            }
        }
        let counters = Counters { node: self.membership.last_id(), job: self.directory.last_job() };
        if counters != self.counters {
            self.counters = counters;
            self.pending.insert(RecordKey::Counters, Some(Record::Counters(counters)));
        }
    }

    fn hear_membership(&mut self, now: Time, output: membership::Output) {
        use membership::Output as Said;
        match output {
            Said::Keep(change) => {
                let is_death = matches!(&change.record, Some(Record::Node(node)) if node.death.is_some());
                if let (true, RecordKey::Node(node), Some(_)) = (is_death, &change.key, &self.read_only) {
                    self.membership.handle(now, membership::Input::Kept { node: *node, is_dead: true });
                }
                self.keep(change);
            }
            Said::Admit { ask, node, incarnation, stopped, view } => {
                if let Some(node) = stopped {
                    self.directory.handle(now, directory::Input::NodeStopped { node });
                }
                let Arrival { held, processes } =
                    self.arrivals.remove(&ask).expect("it was noted when the node registered");
                self.directory.handle(now, directory::Input::NodeUp { node, held, processes });
                let term = self.directory.term(node).expect("a node that is up has a lease");
                self.ready.push_back(Output::Admit { ask, node, incarnation, term, view });
            }
            Said::Refuse { ask, why } => {
                self.arrivals.remove(&ask);
                self.ready.push_back(Output::Refuse { ask, why });
            }
            Said::Spread { node, beat, change } => {
                self.directory.handle(now, directory::Input::Renew { node });
                let term = self.directory.term(node).expect("it was just renewed");
                let answer = BeatAnswer { number: beat, term, change };
                self.ready.push_back(Output::Beat { node, answer });
            }
            Said::Fence { node } => self.ready.push_back(Output::Fence { node }),
            Said::DeclareDead { death } => {
                let (node, cause) = (death.process.node(), death.cause.clone());
                if cause == DeathCause::Drained {
                    self.directory.handle(now, directory::Input::NodeStopped { node });
                }
                self.directory.handle(now, directory::Input::NodeDied { node, cause });
                self.ready.push_back(Output::Died { death });
            }
            Said::Drain { node } => self.ready.push_back(Output::Drain { node }),
            Said::DrainAnswered { ask, is_known } => self.ready.push_back(Output::DrainAnswered { ask, is_known }),
        }
    }

    fn hear_directory(&mut self, output: directory::Output) {
        if let directory::Output::Keep(change) = output {
            return self.keep(change);
        }
        match output.rests() {
            Rests::On(key) | Rests::Behind(key) if self.must_wait(&key, &output) => self.hold(key, output),
            _ => self.say(output),
        }
    }

    /// HEAD-1: whether something must wait, for its record or behind what waits for it.
    fn must_wait(&self, key: &RecordKey, output: &directory::Output) -> bool {
        let rests_on_it = matches!(output.rests(), Rests::On(_));
        rests_on_it && self.is_unsynced(key) && !self.planted.is(Mutant::AnswerBeforeSync)
            || self.held_for.contains_key(key)
    }

    fn hold(&mut self, key: RecordKey, output: directory::Output) {
        *self.held_for.entry(key.clone()).or_default() += 1;
        self.held.push_back((key, output));
    }

    fn is_unsynced(&self, key: &RecordKey) -> bool {
        self.pending.contains_key(key) || self.writing.as_ref().is_some_and(|(_, keys)| keys.contains_key(key))
    }

    fn say(&mut self, output: directory::Output) {
        if let Rests::On(key) = output.rests()
            && self.is_unsynced(&key)
        {
            self.said_early = Some(key);
        }
        self.ready.push_back(Output::Directory(output));
    }

    fn keep(&mut self, change: Change) {
        self.pending.insert(change.key, change.record);
    }

    fn commit(&mut self) -> Option<Output> {
        if self.writing.is_some() || self.pending.is_empty() {
            return None;
        }
        self.batches += 1;
        let batch = self.batches;
        let is_death = |record: &Option<Record>| matches!(record, Some(Record::Node(node)) if node.death.is_some());
        let keys = self.pending.iter().map(|(key, record)| (key.clone(), is_death(record))).collect();
        self.writing = Some((batch, keys));
        let changes = std::mem::take(&mut self.pending).into_iter();
        Some(Output::Commit { batch, changes: changes.map(|(key, record)| Change { key, record }).collect() })
    }

    fn handle_synced(&mut self, now: Time, batch: u64) {
        let Some((_, keys)) = self.writing.take_if(|(writing, _)| *writing == batch) else { return };
        self.read_only = None;
        for (key, is_dead) in keys {
            if let RecordKey::Node(node) = key {
                self.membership.handle(now, membership::Input::Kept { node, is_dead });
            }
        }
        self.held_for.clear();
        for (key, output) in std::mem::take(&mut self.held) {
            match self.must_wait(&key, &output) {
                true => self.hold(key, output),
                false => {
                    let output = self.directory.as_it_stands(output);
                    self.say(output);
                }
            }
        }
    }

    fn handle_failed(&mut self, now: Time, batch: u64, cause: String) {
        let Some((_, keys)) = self.writing.as_ref().filter(|(writing, _)| *writing == batch) else { return };
        self.read_only = Some(cause);
        // HEAD-2: deaths are told although they are not written.
        let deaths_in = keys.iter().filter(|(_, is_dead)| **is_dead).map(|(key, _)| key);
        let is_death = |record: &Option<Record>| matches!(record, Some(Record::Node(node)) if node.death.is_some());
        let pending = self.pending.iter().filter(|(_, record)| is_death(record)).map(|(key, _)| key);
        for key in deaths_in.chain(pending).cloned().collect::<Vec<_>>() {
            if let RecordKey::Node(node) = key {
                self.membership.handle(now, membership::Input::Kept { node, is_dead: true });
            }
        }
    }
}
