//! Large payloads that two nodes move between the memories of their hosts, for processes of theirs: which range is asked
//! for next, and when the room is the process's again.
//!
//! ```text
//!            its turn            all ranges came
//!  (begun) ──────────► moving ───────────────────────────────────────► whole
//!                        │                                               nothing is in flight
//!                        └── refused, failed too often, not wanted ──► ending ─────────────────► not whole
//! ```
//!
//! The machine is the reader's node's. A range has no answer but its bytes, and fails as a whole: asking for it again does
//! no harm, since it is written to the same place. What a process lends has one source, its node; a copy of an object has
//! as many as there are other copies. Ranges are spread over the sources, a source that refuses or fails too often is left,
//! and what it has not sent is asked of others. When none is left the payload is left to the process, which has a road of
//! its own ([`intake`](crate::intake)).
//!
//! Knows nothing of connections: a range that was asked for comes, or fails.

mod invariants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use mobula_types::{NodeId, ObjectId, ProcessId, StateMachine, Time};
use mobula_wire::TransferId;

use crate::mutant::{Mutant, Planted};

pub use invariants::check;

/// A range: long beside the round trip that asking for it takes, short beside what a broken connection may cost.
pub const RANGE_BYTES: u32 = 4 << 20;

/// Ranges of one payload in flight from one source: while one is written to its place the next are on their way.
pub const HAUL_RANGES_MAX: usize = 3;

/// Ranges in flight to one node: what a connection lets go unread, 64 MiB.
pub const RANGES_MAX: usize = 16;

/// Payloads that are moved to one node at once. A process admits two of the largest, or many small ones; what comes beyond
/// takes the road in parts.
pub const HAULS_MAX: usize = 1_024;

/// Ranges of one payload that may fail at one source before that is left: a connection that is cut fails all that are in
/// flight.
pub const FAILURES_MAX: usize = 3 * HAUL_RANGES_MAX;

/// How much may be under way; [`Default`] says what holds unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The length of a range.
    pub range_bytes: u32,
    /// Ranges of one payload in flight from one source.
    pub haul_ranges_max: usize,
    /// Ranges of all payloads in flight.
    pub ranges_max: usize,
    /// Payloads at once.
    pub hauls_max: usize,
    /// Ranges of one payload that may fail at one source.
    pub failures_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            range_bytes: RANGE_BYTES,
            haul_ranges_max: HAUL_RANGES_MAX,
            ranges_max: RANGES_MAX,
            hauls_max: HAULS_MAX,
            failures_max: FAILURES_MAX,
        }
    }
}

/// Names a payload that is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HaulId {
    /// The process in whose room it is written.
    pub to: ProcessId,
    /// What is written there.
    pub what: What,
}

/// What is moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// What a process lends: it ends with that.
    Lent {
        /// Who lends it.
        from: ProcessId,
        /// Its name there.
        transfer: TransferId,
    },
    /// A copy of an object, from whichever nodes have one.
    Copy {
        /// Which object.
        object: ObjectId,
    },
}

/// The nodes of which a payload is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// Those over which its ranges are spread.
    pub at_once: Vec<NodeId>,
    /// Those that are asked, one after the other, when all of these are left.
    pub spare: Vec<NodeId>,
}

impl Sources {
    /// A single one.
    pub fn one(node: NodeId) -> Self {
        Self { at_once: vec![node], spare: Vec::new() }
    }

    /// One that is asked nothing; when it was the last over which ranges are spread, the first spare one takes its place.
    pub fn leave(&mut self, node: NodeId) {
        self.at_once.retain(|it| *it != node);
        self.spare.retain(|it| *it != node);
        if self.at_once.is_empty() && !self.spare.is_empty() {
            self.at_once.push(self.spare.remove(0));
        }
    }

    /// All of them, those that are asked first in front.
    pub fn all(&self) -> impl Iterator<Item = NodeId> {
        self.at_once.iter().chain(&self.spare).copied()
    }
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A process of this node has room for a payload.
    Begin {
        /// Which.
        haul: HaulId,
        /// How long it is.
        bytes: u64,
        /// Who has it.
        sources: Sources,
    },
    /// A range is in its place.
    Came {
        /// Of which payload.
        haul: HaulId,
        /// Where it begins.
        offset: u64,
    },
    /// A range has not come, and nothing of it is written any more.
    Failed {
        /// Of which payload.
        haul: HaulId,
        /// Where it begins.
        offset: u64,
        /// It will not come if it is asked for there again.
        is_final: bool,
    },
    /// The process does not want it any more.
    Stop {
        /// Which.
        haul: HaulId,
    },
    /// A process has ended, or with the number 0 a whole node.
    Gone {
        /// Which.
        process: ProcessId,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask for a range, and say what becomes of it.
    Ask {
        /// Of which payload.
        haul: HaulId,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        bytes: u32,
        /// Of which node.
        source: NodeId,
    },
    /// Give up the ranges of a payload that are in flight, and say so of each.
    GiveUp {
        /// Of which payload.
        haul: HaulId,
        /// Those of this node only; `None` for all.
        source: Option<NodeId>,
    },
    /// Forget a payload: nothing of it is in flight, so nobody writes in the room any more.
    End {
        /// Which.
        haul: HaulId,
        /// Whether all of it came.
        is_whole: bool,
        /// How long it is.
        bytes: u64,
        /// Whether its process is there to be told.
        is_told: bool,
    },
}

/// What is being moved to the processes of a node.
#[derive(Debug, Default)]
pub struct Hauls {
    bounds: Bounds,
    open: BTreeMap<HaulId, Haul>,
    /// The first is the next to ask; those that end are not among them.
    turns: VecDeque<HaulId>,
    in_flight: usize,
    outputs: VecDeque<Output>,
    planted: Planted,
}

#[derive(Debug)]
struct Haul {
    bytes: u64,
    /// How far it was asked for.
    asked: u64,
    /// How much of it is in its place.
    came: u64,
    /// Ranges that were asked for, by where they begin.
    in_flight: BTreeMap<u64, Flight>,
    /// Ranges that have failed and are to be asked for again.
    again: Vec<(u64, u32)>,
    /// Those that are asked.
    sources: Vec<Source>,
    /// Those that are asked when none of these is left, the next one last.
    spare: Vec<NodeId>,
    is_ending: bool,
    is_told: bool,
}

#[derive(Clone, Copy, Debug)]
struct Flight {
    bytes: u32,
    source: NodeId,
}

#[derive(Debug)]
struct Source {
    node: NodeId,
    failures: usize,
}

impl Haul {
    fn in_flight_of(&self, node: NodeId) -> usize {
        self.in_flight.values().filter(|flight| flight.source == node).count()
    }

    fn next(&mut self, bounds: &Bounds) -> Option<(u64, Flight)> {
        let least = self.sources.iter().map(|source| (self.in_flight_of(source.node), source.node));
        // The first of several that have as few.
        let (count, source) = least.min_by_key(|(count, _)| *count)?;
        if count >= bounds.haul_ranges_max {
            return None;
        }
        let (offset, bytes) = self.again.pop().or_else(|| {
            let left = u32::try_from(self.bytes - self.asked).unwrap_or(u32::MAX);
            let range = (self.asked, left.min(bounds.range_bytes));
            self.asked += u64::from(range.1);
            (left > 0).then_some(range)
        })?;
        let flight = Flight { bytes, source };
        self.in_flight.insert(offset, flight);
        Some((offset, flight))
    }

    /// HAUL-5: of a node that was left nothing more is asked. Whether there is another.
    fn leave(&mut self, node: NodeId) -> bool {
        self.sources.retain(|source| source.node != node);
        self.spare.retain(|spare| *spare != node);
        if self.sources.is_empty() {
            self.sources.extend(self.spare.pop().map(|node| Source { node, failures: 0 }));
        }
        !self.sources.is_empty()
    }
}

impl Hauls {
    /// Those of a node that has less room than others, or more.
    pub fn bounded(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Payloads that are being moved.
    pub fn count(&self) -> usize {
        self.open.len()
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.planted = Planted::new(mutant);
        self
    }

    fn begin(&mut self, haul: HaulId, bytes: u64, sources: Sources) {
        if self.open.contains_key(&haul) {
            // It is told of the one that it began before.
            return;
        }
        let Sources { at_once, mut spare } = sources;
        if bytes == 0 || at_once.is_empty() || self.open.len() >= self.bounds.hauls_max {
            return self.outputs.push_back(Output::End { haul, is_whole: false, bytes, is_told: true });
        }
        spare.reverse();
        let begun = Haul {
            bytes,
            asked: 0,
            came: 0,
            in_flight: BTreeMap::new(),
            again: Vec::new(),
            sources: at_once.into_iter().map(|node| Source { node, failures: 0 }).collect(),
            spare,
            is_ending: false,
            is_told: true,
        };
        self.open.insert(haul, begun);
        self.turns.push_back(haul);
        self.ask();
    }

    /// Asks for ranges, of each payload in turn.
    fn ask(&mut self) {
        let mut idle = 0;
        while idle < self.turns.len() && self.in_flight < self.bounds.ranges_max {
            let Some(haul) = self.turns.pop_front() else { return };
            self.turns.push_back(haul);
            // HAUL-2: what is in flight is bounded, of each and of all.
            match self.open.get_mut(&haul).and_then(|open| open.next(&self.bounds)) {
                Some((offset, Flight { bytes, source })) => {
                    self.in_flight += 1;
                    self.outputs.push_back(Output::Ask { haul, offset, bytes, source });
                    idle = 0;
                }
                None => idle += 1,
            }
        }
    }

    /// A range is not in flight any more; what it was, if it was.
    fn land(&mut self, haul: HaulId, offset: u64) -> Option<Flight> {
        let flight = self.open.get_mut(&haul)?.in_flight.remove(&offset)?;
        self.in_flight -= 1;
        Some(flight)
    }

    fn came(&mut self, haul: HaulId, offset: u64) {
        let Some(Flight { bytes, .. }) = self.land(haul, offset) else { return };
        if let Some(open) = self.open.get_mut(&haul) {
            open.came += u64::from(bytes);
        }
        self.close(haul);
        self.ask();
    }

    fn failed(&mut self, haul: HaulId, offset: u64, is_final: bool) {
        let Some(Flight { bytes, source }) = self.land(haul, offset) else { return };
        let Some(open) = self.open.get_mut(&haul) else { return };
        open.again.push((offset, bytes));
        let failures_max = self.bounds.failures_max;
        let is_too_often = open.sources.iter_mut().find(|it| it.node == source).is_some_and(|it| {
            it.failures += 1;
            it.failures > failures_max
        });
        let is_left = (is_final && !self.planted.is(Mutant::AskAgainWhereRefused)) || is_too_often;
        if is_left && !open.leave(source) {
            self.end(haul);
        } else {
            self.close(haul);
        }
        self.ask();
    }

    /// Nothing more is asked of it.
    fn end(&mut self, haul: HaulId) {
        let Some(open) = self.open.get_mut(&haul) else { return };
        if !std::mem::replace(&mut open.is_ending, true) {
            self.turns.retain(|it| *it != haul);
            if !open.in_flight.is_empty() {
                self.outputs.push_back(Output::GiveUp { haul, source: None });
            }
        }
        self.close(haul);
    }

    /// HAUL-1: a payload is over when all of it is there, or it is ending and nothing of it is in flight.
    fn close(&mut self, haul: HaulId) {
        let Some(open) = self.open.get(&haul) else { return };
        let is_whole = open.came == open.bytes;
        let is_written = !open.in_flight.is_empty() && !self.planted.is(Mutant::EndWhileWritten);
        if is_written || !(is_whole || open.is_ending) {
            return;
        }
        let Haul { bytes, is_told, .. } = *open;
        self.in_flight -= open.in_flight.len();
        self.outputs.push_back(Output::End { haul, is_whole, bytes, is_told });
        self.open.remove(&haul);
        self.turns.retain(|it| *it != haul);
    }

    fn gone(&mut self, process: ProcessId) {
        let is_gone = |it: ProcessId| it == process || process.number() == 0 && it.node() == process.node();
        for haul in self.open.keys().copied().collect::<Vec<_>>() {
            let is_over = match haul.what {
                What::Lent { from, .. } => is_gone(haul.to) || is_gone(from),
                What::Copy { .. } => is_gone(haul.to),
            };
            let Some(open) = self.open.get_mut(&haul) else { continue };
            if is_gone(haul.to) {
                open.is_told = false;
            }
            if is_over {
                self.end(haul);
            } else if process.number() == 0 {
                self.gone_from(haul, process.node());
            }
        }
        self.ask();
    }

    /// A node is dead that may have been a source.
    fn gone_from(&mut self, haul: HaulId, node: NodeId) {
        let Some(open) = self.open.get_mut(&haul).filter(|open| !open.is_ending) else { return };
        if open.in_flight_of(node) > 0 {
            self.outputs.push_back(Output::GiveUp { haul, source: Some(node) });
        }
        if !open.leave(node) {
            self.end(haul);
        }
    }
}

impl StateMachine for Hauls {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, _: Time, input: Input) {
        match input {
            Input::Begin { haul, bytes, sources } => self.begin(haul, bytes, sources),
            Input::Came { haul, offset } => self.came(haul, offset),
            Input::Failed { haul, offset, is_final } => self.failed(haul, offset, is_final),
            Input::Stop { haul } => {
                self.end(haul);
                self.ask();
            }
            Input::Gone { process } => self.gone(process),
        }
        if !self.planted.is_any() {
            debug_assert_eq!(check(self), Ok(()));
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        // Whoever asks for a range has a deadline for it.
        None
    }
}
