//! What each thread of a worker runs now, in memory that its node reads after the worker has died.
//!
//! A thread owns a slot and writes into it when it begins and ends to run something:
//!
//! | word | says |
//! |---|---|
//! | 0 | the ticket: odd while something runs, one more at each begin and end |
//! | 1 | what kind: [`KIND_ACTOR`], [`KIND_TASK`], [`KIND_LAST_RUN`] |
//! | 2 | the process part of its id |
//! | 3 | the rest of its id: slot and generation of an actor, the count of a task |
//! | 4 | of a task: since when it runs, in nanoseconds of the host's monotonic clock |
//! | 5, 6, 7 | of an actor: the message it handles, when that is one that is sent again: process, sender, number (from 1) |
//!
//! A worker that dies leaves its tickets as they were; whatever was running then is a culprit (design.md §2). Nobody waits
//! for anybody here, and a slot that is read while it is written may show a bit of what ran before: who is accused is read
//! of the dead only, and of the living only who is to end when memory is short, which is no more than a good guess.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use mobula_types::{ActorId, Culprit, MessageId, ProcessId, TaskId};

use crate::sys::SharedWords;

pub use crate::sys::OpenError;

/// Word 1 of a slot whose thread handles a message of an actor.
pub const KIND_ACTOR: u64 = 1;
/// Word 1 of a slot whose thread runs a task.
pub const KIND_TASK: u64 = 2;
/// Word 1 of a slot whose thread runs a task that does not run again if it is lost.
pub const KIND_LAST_RUN: u64 = 3;

/// Words of a slot: a cache line, so that threads do not disturb one another.
pub type Slot = [AtomicU64; WORDS];

const WORDS: usize = 8;

/// A task that runs, as its thread says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunningTask {
    /// Which.
    pub task: TaskId,
    /// Since when, on the host's monotonic clock.
    pub since: Duration,
    /// Whether it runs again if it is lost.
    pub may_run_again: bool,
}

/// The slots of one worker.
///
/// ```
/// use std::sync::atomic::Ordering::Relaxed;
/// use mobula_store::slots::{KIND_TASK, Slots};
/// use mobula_types::{Culprit, NodeId, ProcessId, TaskId};
///
/// let (node, file) = Slots::create()?;
/// let worker = Slots::open(&file)?; // elsewhere, after the descriptor has been handed over
/// let driver = ProcessId::new(NodeId(1), 1);
/// for (word, value) in worker.words(0).unwrap().iter().zip([1, KIND_TASK, driver.as_u64(), 7]) {
///     word.store(value, Relaxed);
/// }
/// assert_eq!(node.running(), [Culprit::Task(TaskId { process: driver, seq: 7 })]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Slots {
    words: SharedWords,
}

impl Slots {
    /// Slots of one worker: one for each of its threads; threads beyond them are not accused.
    pub const COUNT: usize = 512;

    /// Slots in which nothing runs, and the descriptor by which the worker opens them. No child inherits it by itself.
    ///
    /// # Errors
    ///
    /// The system has no memory or descriptor left.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        let (words, file) = SharedWords::create("mobula-slots", Self::COUNT * WORDS)?;
        Ok((Self { words }, file))
    }

    /// The slots that another process created.
    ///
    /// # Errors
    ///
    /// The descriptor is no memory of the right length, or of a length that may change.
    pub fn open(file: impl AsFd) -> Result<Self, OpenError> {
        Ok(Self { words: SharedWords::open(file, Self::COUNT * WORDS)? })
    }

    /// The words of slot `index`; `None` from [`COUNT`](Self::COUNT) on.
    pub fn words(&self, index: usize) -> Option<&Slot> {
        let at = index.checked_mul(WORDS)?;
        self.words.words().get(at..at.checked_add(WORDS)?)?.try_into().ok()
    }

    /// What runs, or ran when the worker died; the same actor or task once.
    pub fn running(&self) -> Vec<Culprit> {
        let mut running = Vec::new();
        for slot in (0..Self::COUNT).filter_map(|index| self.words(index)) {
            let Some(Read { culprit, message, .. }) = read(slot) else { continue };
            for culprit in std::iter::once(culprit).chain(message) {
                if !running.contains(&culprit) {
                    running.push(culprit);
                }
            }
        }
        running
    }

    /// The tasks that run now.
    pub fn tasks(&self) -> impl Iterator<Item = RunningTask> {
        (0..Self::COUNT).filter_map(|index| read(self.words(index)?)?.task)
    }
}

/// What a slot says.
struct Read {
    culprit: Culprit,
    message: Option<Culprit>,
    task: Option<RunningTask>,
}

fn read(slot: &Slot) -> Option<Read> {
    let [ticket, kind, process, rest, since, from, sender, seq] =
        slot.each_ref().map(|word| word.load(Ordering::Acquire));
    if ticket.is_multiple_of(2) {
        return None;
    }
    let process = ProcessId::from_u64(process);
    match kind {
        KIND_ACTOR => {
            let (slot, generation) = ((rest >> 32) as u32, rest as u32);
            let actor = ActorId { process, slot, generation };
            let message = MessageId { from: ProcessId::from_u64(from), sender, seq };
            let message = (seq > 0).then_some(Culprit::Message(actor, message));
            Some(Read { culprit: Culprit::Actor(actor), message, task: None })
        }
        KIND_TASK | KIND_LAST_RUN => {
            let task = TaskId { process, seq: rest };
            let (since, may_run_again) = (Duration::from_nanos(since), kind == KIND_TASK);
            let task = RunningTask { task, since, may_run_again };
            Some(Read { culprit: Culprit::Task(task.task), message: None, task: Some(task) })
        }
        _ => None,
    }
}

impl std::fmt::Debug for Slots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slots").field("running", &self.running()).finish()
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::NodeId;
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;

    fn write<const N: usize>(slot: &Slot, words: [u64; N]) {
        slot.iter().zip(words).for_each(|(slot, word)| slot.store(word, Ordering::Release));
    }

    #[test]
    fn what_ran_at_the_end_is_accused_once() {
        let (slots, file) = Slots::create().unwrap();
        let worker = Slots::open(&file).unwrap();
        let home = ProcessId::new(NodeId(3), 2);
        let actor = ActorId { process: home, slot: 5, generation: 6 };
        let rest = 5 << 32 | 6;
        write(worker.words(0).unwrap(), [3, KIND_ACTOR, home.as_u64(), rest, 0, home.as_u64(), 7, 4]);
        write(worker.words(1).unwrap(), [4, KIND_TASK, home.as_u64(), 9, 3]);
        write(worker.words(2).unwrap(), [1, KIND_ACTOR, home.as_u64(), rest, 0]);
        write(worker.words(3).unwrap(), [1, KIND_LAST_RUN, home.as_u64(), 8, 4]);
        write(worker.words(Slots::COUNT - 1).unwrap(), [1, KIND_TASK, home.as_u64(), 9, 5]);
        drop(worker);
        let task = |seq| TaskId { process: home, seq };
        let message = Culprit::Message(actor, MessageId { from: home, sender: 7, seq: 4 });
        let tasks = [8, 9].map(|seq| Culprit::Task(task(seq)));
        assert_eq!(slots.running(), [Culprit::Actor(actor), message, tasks[0], tasks[1]]);
        let seen = |seq, since, may_run_again| {
            let since = Duration::from_nanos(since);
            RunningTask { task: task(seq), since, may_run_again }
        };
        assert!(slots.tasks().eq([seen(8, 4, false), seen(9, 5, true)]));
    }

    #[test]
    fn words_that_are_nothing_accuse_nobody() {
        let (slots, _file) = Slots::create().unwrap();
        write(slots.words(0).unwrap(), [1, 77, u64::MAX, u64::MAX, u64::MAX]);
        assert_eq!(slots.running(), []);
        assert_eq!(slots.tasks().next(), None);
        assert!(slots.words(Slots::COUNT).is_none() && slots.words(usize::MAX).is_none());
    }

    #[test]
    fn memory_that_could_shrink_is_refused() {
        let file = memfd_create("a-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, (Slots::COUNT * WORDS * 8) as u64).unwrap();
        assert!(matches!(Slots::open(&file), Err(OpenError::NotSealed { .. })), "it has no seals");
        let (_, sealed) = Slots::create().unwrap();
        assert!(ftruncate(&sealed, 0).is_err(), "the length is sealed");
        let short = memfd_create("a-test", MemfdFlags::ALLOW_SEALING).unwrap();
        assert!(Slots::open(&short).is_err(), "it is too short");
    }
}
