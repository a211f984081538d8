//! What each thread of a worker runs now, written where its node can read it after the worker's death.
//!
//! In processes that nobody watches so, this does nothing.

use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mobula_store::Slots;
use mobula_store::slots::{KIND_ACTOR, KIND_LAST_RUN, KIND_TASK, Slot};
use mobula_types::{ActorId, MessageId, TaskId};
use rustix::time::{ClockId, clock_gettime};

static SLOTS: OnceLock<Slots> = OnceLock::new();

thread_local! {
    /// This thread's slot, taken when it first runs something; `None` inside when there are more threads than slots.
    static OWN: Cell<Option<Option<&'static Slot>>> = const { Cell::new(None) };
}

/// Writes into `slots` from now on what the threads of this process run.
pub(crate) fn write_to(slots: Slots) {
    if SLOTS.set(slots).is_ok() {
        mobula_actor::on_turn(actor, message);
    }
}

/// A run of a task, as its node is to know it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    pub(crate) task: TaskId,
    /// Whether it runs again if it is lost.
    pub(crate) may_run_again: bool,
}

/// Runs `run` as a part of a task.
pub(crate) fn task<T>(known: Option<Known>, run: impl FnOnce() -> T) -> T {
    let (Some(Known { task, may_run_again }), Some(slot)) = (known, own()) else { return run() };
    // A thread that waits runs other tasks on top of its own: that one is accused again afterwards.
    let before = slot.each_ref().map(|word| word.load(Ordering::Relaxed));
    let kind = if may_run_again { KIND_TASK } else { KIND_LAST_RUN };
    let since = u64::try_from(host_now().as_nanos()).unwrap_or(u64::MAX);
    begin(slot, [kind, task.process.as_u64(), task.seq, since, 0, 0, 0]);
    let ended = Ended { slot, before };
    let result = run();
    drop(ended);
    result
}

fn actor(turn: Option<ActorId>) {
    let Some(slot) = own() else { return };
    match turn {
        Some(ActorId { process, slot: place, generation }) => {
            begin(slot, [KIND_ACTOR, process.as_u64(), u64::from(place) << 32 | u64::from(generation), 0, 0, 0, 0]);
        }
        None => end(slot),
    }
}

/// In a turn of its actor.
fn message(handled: Option<MessageId>) {
    let Some([.., from, sender, seq]) = own() else { return };
    let words = handled.map_or([0; 3], |MessageId { from, sender, seq }| [from.as_u64(), sender, seq]);
    for (word, value) in [from, sender, seq].into_iter().zip(words) {
        word.store(value, Ordering::Release);
    }
}

fn own() -> Option<&'static Slot> {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let slots = SLOTS.get()?;
    OWN.get().unwrap_or_else(|| {
        let slot = slots.words(NEXT.fetch_add(1, Ordering::Relaxed));
        OWN.set(Some(slot));
        slot
    })
}

/// Only this thread writes its slot, so no read-modify-write is needed.
fn begin([ticket, words @ ..]: &Slot, values: [u64; 7]) {
    for (word, value) in words.iter().zip(values) {
        word.store(value, Ordering::Relaxed);
    }
    ticket.store(ticket.load(Ordering::Relaxed) | 1, Ordering::Release);
}

fn end([ticket, ..]: &Slot) {
    ticket.store((ticket.load(Ordering::Relaxed) | 1).wrapping_add(1), Ordering::Release);
}

/// Ends a part of a task, also when it unwinds.
struct Ended {
    slot: &'static Slot,
    before: [u64; 8],
}

impl Drop for Ended {
    fn drop(&mut self) {
        end(self.slot);
        let [ticket, before @ ..] = self.before;
        if !ticket.is_multiple_of(2) {
            begin(self.slot, before);
        }
    }
}

/// The host's monotonic clock, which its node reads too.
pub(crate) fn host_now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec.cast_unsigned(), now.tv_nsec as u32)
}
