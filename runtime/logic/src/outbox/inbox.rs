//! The receiver's side: which messages are handled, and which are repeats.

use std::collections::BTreeMap;

use crate::invariant::{Violation, ensure};
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

    /// The last number taken of a sender, as far as it is remembered.
    fn last(&self, sender: S) -> Option<u64> {
        self.senders.get(&sender).map(|(last, _)| *last)
    }

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
    /// One before it was dropped on its way, and comes again: so is this one to, behind it.
    Later,
}

/// A check reads all that is open: beyond so much only those who ask for it check.
const CHECKED_MAX: usize = 256;

/// The messages of one actor, as long as it lives in one process: also over restarts there, because mail survives those.
///
/// Each message says which of its sender's is before it, so that a hole is seen: what came behind one that was dropped
/// would make a repeat of it, which is acknowledged and never handled.
///
/// ```
/// use mobula_logic::outbox::{Reception, Taking};
/// let mut reception = Reception::default();
/// let (sender, first, again) = (7u64, 100, 101);
/// assert_eq!(reception.take(sender, 1, 0, first), Taking::Handle);
/// assert_eq!(reception.take(sender, 1, 0, again), Taking::Wait);
/// assert_eq!(reception.finish(sender, 1, true), [again]);
/// assert_eq!(reception.take(sender, 1, 0, 102), Taking::Acknowledge);
/// assert_eq!(reception.take(sender, 3, 2, 103), Taking::Later);
/// ```
#[derive(Debug)]
pub struct Reception<S = u64> {
    inbox: Inbox<S>,
    /// Messages that are not answered, and who has asked for them again.
    open: BTreeMap<(S, u64), Vec<u64>>,
    failed: Failed<S>,
    planted: Planted,
}

impl<S> Default for Reception<S> {
    fn default() -> Self {
        Self { inbox: Inbox::default(), open: BTreeMap::new(), failed: Failed::default(), planted: Planted::default() }
    }
}

impl<S: Copy + Ord + std::fmt::Debug> Reception<S> {
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

    /// A message has come, sent [after](super::Outbox::before) another of its sender's; `asked` is what its answer is for.
    pub fn take(&mut self, sender: S, seq: u64, after: u64, asked: u64) -> Taking {
        if let Some(again) = self.open.get_mut(&(sender, seq)) {
            again.push(asked);
            return Taking::Wait;
        }
        let last = self.inbox.last(sender);
        // OUT-6: nothing is handled whose sender has one before it that has not come.
        let is_next = after == 0 || last.is_some_and(|last| after <= last) || self.open.contains_key(&(sender, after));
        if !is_next && !self.planted.is(Mutant::HandleAhead) {
            return Taking::Later;
        }
        let is_taken_before = !self.failed.remove(sender, seq) && !self.inbox.takes(sender, seq);
        if is_taken_before && !self.planted.is(Mutant::HandleRepeats) {
            return Taking::Acknowledge;
        }
        self.open.insert((sender, seq), Vec::new());
        self.check();
        Taking::Handle
    }

    /// A message has been answered; `is_done` unless its handling was broken off or never began. Who has asked for it again
    /// gets the same answer.
    pub fn finish(&mut self, sender: S, seq: u64, is_done: bool) -> Vec<u64> {
        let again = self.open.remove(&(sender, seq));
        if !is_done && again.is_some() {
            self.failed.insert(sender, seq);
        }
        self.check();
        again.unwrap_or_default()
    }

    fn check(&self) {
        if cfg!(debug_assertions) && !self.planted.is_any() && self.open.len() <= CHECKED_MAX {
            check_reception(self).expect("the reception keeps its invariants");
        }
    }
}

/// Messages whose handling was broken off: they may come again.
#[derive(Debug)]
struct Failed<S> {
    /// By the count of the message by which each was put here.
    ages: BTreeMap<(S, u64), u64>,
    by_age: BTreeMap<u64, (S, u64)>,
    count: u64,
}

impl<S> Default for Failed<S> {
    fn default() -> Self {
        Self { ages: BTreeMap::new(), by_age: BTreeMap::new(), count: 0 }
    }
}

impl<S: Copy + Ord> Failed<S> {
    fn insert(&mut self, sender: S, seq: u64) {
        self.count += 1;
        self.ages.insert((sender, seq), self.count);
        self.by_age.insert(self.count, (sender, seq));
        if self.ages.len() > FAILED_MAX
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.ages.remove(&oldest);
        }
    }

    fn remove(&mut self, sender: S, seq: u64) -> bool {
        let age = self.ages.remove(&(sender, seq));
        age.is_some_and(|age| self.by_age.remove(&age).is_some())
    }
}

/// Checks what is always true of a reception.
///
/// - OUT-4: a receiver takes each number of a sender once: what is being handled is not also to come again, and is not
///   above the last that was taken.
/// - OUT-7: what is remembered is bounded, and what has been so longest is forgotten first.
///
/// # Errors
///
/// The first that is broken.
pub fn check_reception<S: Copy + Ord + std::fmt::Debug>(reception: &Reception<S>) -> Result<(), Violation> {
    let Reception { inbox, open, failed, .. } = reception;
    for (sender, seq) in open.keys() {
        let is_both = failed.ages.contains_key(&(*sender, *seq));
        ensure(!is_both, "OUT-4", || format!("{seq} of {sender:?} is handled, and is to come again"))?;
        let is_taken = inbox.last(*sender).is_none_or(|last| *seq <= last);
        ensure(is_taken, "OUT-4", || format!("{seq} of {sender:?} is handled and was not taken"))?;
    }
    ensure(inbox.is_bounded(), "OUT-7", || format!("{} senders are remembered", inbox.senders.len()))?;
    let count = failed.ages.len();
    let is_same = count == failed.by_age.len();
    ensure(is_same && count <= FAILED_MAX, "OUT-7", || format!("{count} broken off messages are remembered"))
}
