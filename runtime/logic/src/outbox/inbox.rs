//! The receiver's side: which messages are handled, and which are repeats.

use std::collections::{BTreeMap, BTreeSet};

use crate::mutant::{Mutant, Planted};

/// Senders whose last number one actor remembers; the one that has been silent longest is forgotten.
pub const SENDERS_MAX: usize = 4_096;

/// Messages whose handling was broken off and that have not come again; beyond it the oldest are forgotten, and taken for
/// repeats.
pub const FAILED_MAX: usize = 4_096;

/// What an actor has taken, by sender: repeats are dropped here.
#[derive(Debug)]
pub struct Inbox<S = u64> {
    /// The last number taken, and the count of the message by which it was.
    senders: BTreeMap<S, (u64, u64)>,
    by_age: BTreeMap<u64, S>,
    taken: u64,
}

impl<S> Default for Inbox<S> {
    fn default() -> Self {
        Self { senders: BTreeMap::new(), by_age: BTreeMap::new(), taken: 0 }
    }
}

impl<S: Copy + Ord> Inbox<S> {
    /// Whether a message is to be handled: false says that it was taken before and is only to be acknowledged.
    pub fn takes(&mut self, sender: S, seq: u64) -> bool {
        let last = self.senders.get(&sender).copied();
        // OUT-4: numbers of one sender go up, so what is not above the last is a repeat.
        if last.is_some_and(|(last, _)| seq <= last) {
            return false;
        }
        self.taken += 1;
        if let Some((_, age)) = last {
            self.by_age.remove(&age);
        }
        self.senders.insert(sender, (seq, self.taken));
        self.by_age.insert(self.taken, sender);
        if self.senders.len() > SENDERS_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.senders.remove(&oldest);
        }
        true
    }

    #[cfg(test)]
    pub(super) fn is_bounded(&self) -> bool {
        self.senders.len() <= SENDERS_MAX && self.by_age.len() == self.senders.len()
    }
}

/// What is done with a message that has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taking {
    /// It is handled.
    Handle,
    /// It is being handled, or waits for that: whoever asks again is answered with who asked first.
    Wait,
    /// It was handled: that is said again.
    Acknowledge,
}

/// The messages of one actor, as long as it lives in one process: also over restarts there, because mail survives those.
///
/// ```
/// use mobula_logic::outbox::{Reception, Taking};
/// let mut reception = Reception::default();
/// let (sender, first, again) = (7u64, 100, 101);
/// assert_eq!(reception.take(sender, 1, first), Taking::Handle);
/// assert_eq!(reception.take(sender, 1, again), Taking::Wait);
/// assert_eq!(reception.finish(sender, 1, true), [again]);
/// assert_eq!(reception.take(sender, 1, 102), Taking::Acknowledge);
/// ```
#[derive(Debug)]
pub struct Reception<S = u64> {
    inbox: Inbox<S>,
    /// Messages that are not answered, and who has asked for them again.
    open: BTreeMap<(S, u64), Vec<u64>>,
    /// Messages whose handling was broken off: they may come again.
    failed: BTreeSet<(S, u64)>,
    planted: Planted,
}

impl<S> Default for Reception<S> {
    fn default() -> Self {
        Self { inbox: Inbox::default(), open: BTreeMap::new(), failed: BTreeSet::new(), planted: Planted::default() }
    }
}

impl<S: Copy + Ord> Reception<S> {
    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Self { planted: Planted::new(mutant), ..self }
    }

    /// Whether every message that was taken has been answered.
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    /// A message has come; `asked` is what its answer is for.
    pub fn take(&mut self, sender: S, seq: u64, asked: u64) -> Taking {
        if let Some(again) = self.open.get_mut(&(sender, seq)) {
            again.push(asked);
            return Taking::Wait;
        }
        let is_taken_before = !self.failed.remove(&(sender, seq)) && !self.inbox.takes(sender, seq);
        if is_taken_before && !self.planted.is(Mutant::HandleRepeats) {
            return Taking::Acknowledge;
        }
        self.open.insert((sender, seq), Vec::new());
        Taking::Handle
    }

    /// A message has been answered; `is_done` unless its handling was broken off or never began. Who has asked for it again
    /// gets the same answer.
    pub fn finish(&mut self, sender: S, seq: u64, is_done: bool) -> Vec<u64> {
        let again = self.open.remove(&(sender, seq)).unwrap_or_default();
        if !is_done {
            self.failed.insert((sender, seq));
            if self.failed.len() > FAILED_MAX {
                self.failed.pop_first();
            }
        }
        again
    }
}
