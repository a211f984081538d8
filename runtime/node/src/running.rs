//! What each thread of a worker runs now, written where its node can read it after the worker's death.
//!
//! In processes that nobody watches so, this does nothing.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use mobula_store::Slots;
use mobula_store::slots::{KIND_ACTOR, KIND_TASK};
use mobula_types::{ActorId, TaskId};

static SLOTS: OnceLock<Slots> = OnceLock::new();

thread_local! {
    /// This thread's slot, taken when it first runs something; `None` inside when there are more threads than slots.
    static OWN: Cell<Option<Option<&'static [AtomicU64; 4]>>> = const { Cell::new(None) };
}

/// Writes into `slots` from now on what the threads of this process run.
pub(crate) fn write_to(slots: Slots) {
    if SLOTS.set(slots).is_ok() {
        mobula_actor::on_turn(actor);
    }
}

/// Runs `run` as a part of the task `id`.
pub(crate) fn task<T>(id: Option<TaskId>, run: impl FnOnce() -> T) -> T {
    let (Some(id), Some(slot)) = (id, own()) else { return run() };
    // A thread that waits runs other tasks on top of its own: that one is accused again afterwards.
    let before = slot.each_ref().map(|word| word.load(Ordering::Relaxed));
    begin(slot, KIND_TASK, id.process.as_u64(), id.seq);
    let ended = Ended { slot, before };
    let result = run();
    drop(ended);
    result
}

fn actor(turn: Option<ActorId>) {
    let Some(slot) = own() else { return };
    match turn {
        Some(id) => begin(slot, KIND_ACTOR, id.process.as_u64(), u64::from(id.slot) << 32 | u64::from(id.generation)),
        None => end(slot),
    }
}

fn own() -> Option<&'static [AtomicU64; 4]> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let slots = SLOTS.get()?;
    OWN.get().unwrap_or_else(|| {
        let slot = slots.words(NEXT.fetch_add(1, Ordering::Relaxed));
        OWN.set(Some(slot));
        slot
    })
}

/// Only this thread writes its slot, so no read-modify-write is needed.
fn begin([ticket, words @ ..]: &[AtomicU64; 4], kind: u64, process: u64, rest: u64) {
    for (word, value) in words.iter().zip([kind, process, rest]) {
        word.store(value, Ordering::Relaxed);
    }
    ticket.store(ticket.load(Ordering::Relaxed) | 1, Ordering::Release);
}

fn end([ticket, ..]: &[AtomicU64; 4]) {
    ticket.store((ticket.load(Ordering::Relaxed) | 1).wrapping_add(1), Ordering::Release);
}

/// Ends a part of a task, also when it unwinds.
struct Ended {
    slot: &'static [AtomicU64; 4],
    before: [u64; 4],
}

impl Drop for Ended {
    fn drop(&mut self) {
        end(self.slot);
        let [ticket, kind, process, rest] = self.before;
        if !ticket.is_multiple_of(2) {
            begin(self.slot, kind, process, rest);
        }
    }
}
