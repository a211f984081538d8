//! References that travel: how long the sender of a message holds what belongs to neither end (design.md §6).
//!
//! ```text
//! sender            receiver            owner of the object
//!   │── message ──────►│── Hold, receipt ──►│ counts the receiver
//!   │                  │◄───── Held ────────│
//!   │◄─ Acknowledge ───│  many at once
//!  lets go
//! ```
//!
//! The receiver asks each owner to count it as soon as the message has come, before anything of it is read. Only when all
//! of them have done so does it tell the sender, which lets go then: so at every moment somebody holds what is on its way.
//! A message that was not sent, or whose receiver has died, holds nothing.
//!
//! A process plays the sender for some messages and the receiver for others; owners only count and answer. What is held,
//! and how, is the driver's: here a message is a number.

mod invariants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mobula_types::{ObjectId, ProcessId, StateMachine, Time};

use crate::mutant::{Mutant, Planted};

pub use invariants::check;

/// Acknowledgements wait so long for others: a word for each message would be a third of what such messages cost. What
/// nobody else holds is freed that much later, of the second that there is (G9).
pub const ACKNOWLEDGE_AFTER: Duration = Duration::from_millis(20);

/// So many for one sender are said at once.
pub const ACKNOWLEDGED_MAX: usize = 256;

/// Messages whose references are held for others. Each is acknowledged within some round trips; who has so many on their
/// way sends no more.
pub const HELD_MAX: usize = 1 << 18;

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A message could not be sent after all.
    NotSent {
        /// Its number.
        number: u64,
    },
    /// The receiver of messages says that their references are counted for it.
    Acknowledged {
        /// Who says it.
        by: ProcessId,
        /// Which messages.
        numbers: Vec<u64>,
    },
    /// A message has come that names objects of third processes.
    Arrived {
        /// Who sent it.
        from: ProcessId,
        /// Its number there; without one nobody waits for an acknowledgement.
        number: Option<u64>,
        /// Those objects.
        objects: Vec<ObjectId>,
    },
    /// An owner has counted what it was asked to.
    Held {
        /// The owner.
        by: ProcessId,
        /// What it was asked with.
        receipt: u64,
    },
    /// A process has ended, or with the number 0 a whole node.
    Gone {
        /// Which.
        process: ProcessId,
    },
    /// Nothing but time has passed.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Drop what was held for a message.
    LetGo {
        /// The message.
        number: u64,
    },
    /// Ask an owner to count this process once more for each of these objects, and to say so.
    Hold {
        /// The owner.
        owner: ProcessId,
        /// What it is to say.
        receipt: u64,
        /// The objects.
        objects: Vec<ObjectId>,
    },
    /// Tell the sender of messages that their references are counted for this process.
    Acknowledge {
        /// The sender.
        to: ProcessId,
        /// Which messages.
        numbers: Vec<u64>,
    },
}

/// Messages with references of others, as one process sees them.
#[derive(Debug, Default)]
pub struct Handoff {
    last: u64,
    /// Messages that were sent and not acknowledged, and to whom.
    sent: BTreeMap<u64, ProcessId>,
    /// Owners that were asked: for which message.
    asked: BTreeMap<u64, Asked>,
    /// Messages that came, and how many owners have not answered.
    arrived: BTreeMap<(ProcessId, u64), usize>,
    /// What is to be acknowledged to whom.
    owed: BTreeMap<ProcessId, Vec<u64>>,
    /// When it is said at the latest.
    due: Option<Time>,
    outputs: VecDeque<Output>,
    planted: Planted,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    owner: ProcessId,
    from: ProcessId,
    number: u64,
}

impl Handoff {
    /// One with a fault that the simulator must find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Self { planted: Planted::new(mutant), ..self }
    }

    /// A message with references of others is about to be sent: its number. `None` when too many are on their way.
    pub fn send(&mut self, to: ProcessId) -> Option<u64> {
        if self.sent.len() >= HELD_MAX {
            return None;
        }
        self.last += 1;
        self.sent.insert(self.last, to);
        // HAND-1: what is on its way is held.
        if self.planted.is(Mutant::LetGoOnceSent) {
            self.let_go(self.last);
        }
        Some(self.last)
    }

    /// Messages whose references are held here, and messages of others that are not acknowledged.
    pub fn open(&self) -> (usize, usize) {
        (self.sent.len(), self.arrived.len() + self.owed.values().map(Vec::len).sum::<usize>())
    }

    fn let_go(&mut self, number: u64) {
        if self.sent.remove(&number).is_some() {
            self.outputs.push_back(Output::LetGo { number });
        }
    }

    fn arrived(&mut self, now: Time, from: ProcessId, number: Option<u64>, objects: Vec<ObjectId>) {
        let mut by_owner: BTreeMap<ProcessId, Vec<ObjectId>> = BTreeMap::new();
        for object in objects {
            by_owner.entry(object.owner).or_default().push(object);
        }
        let owners = by_owner.len();
        for (owner, objects) in by_owner {
            self.last += 1;
            let receipt = self.last;
            if let Some(number) = number {
                self.asked.insert(receipt, Asked { owner, from, number });
            }
            self.outputs.push_back(Output::Hold { owner, receipt, objects });
        }
        let Some(number) = number else { return };
        // HAND-2: nothing is acknowledged before every owner has counted it.
        if owners == 0 || self.planted.is(Mutant::AcknowledgeArrival) {
            self.asked.retain(|_, asked| (asked.from, asked.number) != (from, number));
            return self.owe(now, from, number);
        }
        self.arrived.insert((from, number), owners);
    }

    /// An owner has answered, or will not.
    fn answered(&mut self, now: Time, receipt: u64) {
        let Some(Asked { from, number, .. }) = self.asked.remove(&receipt) else { return };
        let Some(awaited) = self.arrived.get_mut(&(from, number)) else { return };
        *awaited -= 1;
        if *awaited == 0 {
            self.arrived.remove(&(from, number));
            self.owe(now, from, number);
        }
    }

    fn owe(&mut self, now: Time, to: ProcessId, number: u64) {
        let owed = self.owed.entry(to).or_default();
        owed.push(number);
        if owed.len() >= ACKNOWLEDGED_MAX {
            self.acknowledge(to);
        } else {
            self.due.get_or_insert(now + ACKNOWLEDGE_AFTER);
        }
    }

    fn acknowledge(&mut self, to: ProcessId) {
        if let Some(numbers) = self.owed.remove(&to) {
            self.outputs.push_back(Output::Acknowledge { to, numbers });
        }
        if self.owed.is_empty() {
            self.due = None;
        }
    }

    fn gone(&mut self, now: Time, process: ProcessId) {
        let is_gone = |other: ProcessId| other == process || process.number() == 0 && other.node() == process.node();
        self.owed.retain(|to, _| !is_gone(*to));
        if self.owed.is_empty() {
            self.due = None;
        }
        self.arrived.retain(|(from, _), _| !is_gone(*from));
        self.asked.retain(|_, asked| !is_gone(asked.from));
        // What a dead process owned is held by nobody, and need not be.
        let answered = self.asked.iter().filter(|(_, asked)| is_gone(asked.owner));
        for receipt in answered.map(|(receipt, _)| *receipt).collect::<Vec<_>>() {
            self.answered(now, receipt);
        }
        // HAND-3: for the dead nothing is held.
        if !self.planted.is(Mutant::HoldForTheDead) {
            let theirs = self.sent.iter().filter(|(_, to)| is_gone(**to));
            for number in theirs.map(|(number, _)| *number).collect::<Vec<_>>() {
                self.let_go(number);
            }
        }
    }
}

impl StateMachine for Handoff {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        match input {
            Input::NotSent { number } => self.let_go(number),
            Input::Acknowledged { by, numbers } => {
                for number in numbers {
                    // HAND-4: only who has it can say so.
                    if self.sent.get(&number) == Some(&by) {
                        self.let_go(number);
                    }
                }
            }
            Input::Arrived { from, number, objects } => self.arrived(now, from, number, objects),
            Input::Held { by, receipt } => {
                if self.asked.get(&receipt).is_some_and(|asked| asked.owner == by) {
                    self.answered(now, receipt);
                }
            }
            Input::Gone { process } => self.gone(now, process),
            Input::Tick => {}
        }
        if self.due.is_some_and(|due| due <= now) {
            for to in self.owed.keys().copied().collect::<Vec<_>>() {
                self.acknowledge(to);
            }
        }
        if !self.planted.is_any() {
            debug_assert_eq!(check(self), Ok(()));
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        self.due
    }
}
