//! Which actor keeps its thread, and for how long: a slot per arbiter, and the watch over the slots.
//!
//! A handler that blocks its arbiter stops every neighbour. The thread itself cannot say so, so it writes a ticket
//! before and after each turn of an actor (odd: somebody runs), and the patrol's thread compares tickets: one that stays
//! odd and the same for the hang limit is reported, once, unless the handler holds a [`Protected`] mark.
//!
//! The watch looks four times per limit while actors run. When none has run for two looks it sleeps, and the next turn
//! wakes it: an idle process never wakes.
//!
//! A thread of its own ([`dedicated`](crate::Spawn::dedicated)) is for actors that block, and is not watched.
//!
//! The stack of another thread cannot be walked without unsafe code; what the kernel says of the thread is told instead.

use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Wake, Waker};
use std::time::Duration;

use mobula_types::{ActorId, MessageId, ProcessId, Time};
use parking_lot::Mutex;

use crate::clock;
use crate::counters::Count;
use crate::patrol::{Ticket, patrol};
use crate::system::System;

/// How long a turn may take before it is reported, unless [`System::on_hang`] says otherwise: fifty times what a
/// neighbour's answer may take.
pub(crate) const HANG_LIMIT: Duration = Duration::from_secs(1);

/// Looks of the watch in one hang limit: a report comes at most a quarter of the limit late.
const LOOKS: u32 = 4;

/// Looks come no closer than this, however short a limit is.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// A handler that keeps its thread, and with it every actor that lives there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hang {
    /// Whose handler it is.
    pub actor: ActorId,
    /// The actor's Rust type; empty when the actor cannot be asked any more.
    pub type_name: &'static str,
    /// For how long it has kept its thread so far.
    pub since: Duration,
    /// The thread's name.
    pub thread: String,
    /// What the kernel says that the thread does: `running`, or `sleeping in` the function where it waits.
    pub doing: String,
}

impl fmt::Display for Hang {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { actor, type_name, since, thread, doing } = self;
        write!(
            f,
            "{actor} ({type_name}) has kept its thread {thread} for {since:?}, {doing}: await what it waits for, spawn it \
             with .dedicated(), or hold ctx.protect() meanwhile"
        )
    }
}

/// What one arbiter runs now.
struct Slot {
    /// Odd while an actor has its turn; one more at each begin and end.
    ticket: AtomicU64,
    process: AtomicU64,
    /// The rest of the actor's id: its slot in the high half, its generation in the low one.
    rest: AtomicU64,
    /// Its turn was reported, and is not over.
    is_reported: AtomicBool,
    /// Marks that allow the thread to be kept.
    protections: AtomicUsize,
    system: Weak<System>,
    thread: String,
    /// The kernel's number of the thread, as text.
    tid: String,
    is_gone: AtomicBool,
}

thread_local! {
    static SLOT: OnceCell<Occupied> = const { OnceCell::new() };
}

/// The slot of a thread that lives.
struct Occupied(Arc<Slot>);

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.is_gone.store(true, Ordering::Release);
    }
}

/// This thread is an arbiter of `system` from now on.
pub(crate) fn take_slot(system: &Arc<System>) {
    SLOT.with(|own| {
        own.get_or_init(|| {
            let thread = std::thread::current();
            let slot = Arc::new(Slot {
                ticket: AtomicU64::new(0),
                process: AtomicU64::new(0),
                rest: AtomicU64::new(0),
                is_reported: AtomicBool::new(false),
                protections: AtomicUsize::new(0),
                system: Arc::downgrade(system),
                thread: thread.name().unwrap_or("without a name").to_owned(),
                tid: own_tid().unwrap_or_default(),
                is_gone: AtomicBool::new(false),
            });
            WATCH.slots.lock().push(Watched { slot: slot.clone(), ticket: 0, since: Time::ZERO, reported: false });
            Occupied(slot)
        });
    });
}

/// Somebody wants to know of turns longer than `limit`.
pub(crate) fn watch_for(limit: Duration) {
    let interval = (limit / LOOKS).max(INTERVAL_MIN);
    WATCH.interval_ns.fetch_min(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
}

/// Told of every turn of an actor on any thread, before (`Some`) and after it (`None`); it must be quick.
pub type TurnHook = fn(Option<ActorId>);

/// Told in a turn of each message that is sent again until it is handled, before (`Some`) and after (`None`) the part of
/// its handling that runs now; it must be quick.
pub type MessageHook = fn(Option<MessageId>);

static HOOKS: OnceLock<(TurnHook, MessageHook)> = OnceLock::new();

/// Tells of every turn from now on: for processes of which somebody outside must know what they ran when they died. The
/// first ones stay.
pub fn on_turn(turn: TurnHook, message: MessageHook) {
    HOOKS.set((turn, message)).ok();
}

/// Runs a part of the handling of a message that is sent again.
pub(crate) fn handling<T>(message: MessageId, run: impl FnOnce() -> T) -> T {
    let Some((_, hook)) = HOOKS.get() else { return run() };
    hook(Some(message));
    // What unwinds from here ends the turn, or is caught in `run`.
    let result = run();
    hook(None);
    result
}

/// Runs a turn of the actor `id` on this thread.
#[inline]
pub(crate) fn turn<T>(id: ActorId, run: impl FnOnce() -> T) -> T {
    match HOOKS.get() {
        None => watched(id, run),
        Some((hook, _)) => {
            hook(Some(id));
            let after = After(*hook);
            let result = watched(id, run);
            drop(after);
            result
        }
    }
}

/// Tells the hook that a turn is over, also when it unwinds.
struct After(TurnHook);

impl Drop for After {
    fn drop(&mut self) {
        (self.0)(None);
    }
}

fn watched<T>(id: ActorId, run: impl FnOnce() -> T) -> T {
    SLOT.with(|own| {
        let Some(Occupied(slot)) = own.get() else { return run() };
        slot.process.store(id.process.as_u64(), Ordering::Relaxed);
        slot.rest.store(u64::from(id.slot) << 32 | u64::from(id.generation), Ordering::Relaxed);
        // Only this thread writes its ticket: no read-modify-write is needed.
        let ticket = slot.ticket.load(Ordering::Relaxed) | 1;
        slot.is_reported.store(false, Ordering::Relaxed);
        slot.ticket.store(ticket, Ordering::Release);
        if WATCH.is_asleep.load(Ordering::Relaxed) {
            WATCH.wake();
        }
        let ended = Ended { slot, ticket };
        let result = run();
        drop(ended);
        result
    })
}

/// Ends a turn, also when it unwinds.
struct Ended<'a> {
    slot: &'a Slot,
    ticket: u64,
}

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.slot.ticket.store(self.ticket + 1, Ordering::Release);
    }
}

/// Whether this turn was reported: then it ends with the message that took so long, so that the next is looked at anew.
pub(crate) fn was_reported() -> bool {
    SLOT.with(|own| own.get().is_some_and(|Occupied(slot)| slot.is_reported.load(Ordering::Relaxed)))
}

/// A mark that the code which runs now may keep its thread; dropped, the hang limit counts again.
#[must_use = "the mark is gone as soon as this is dropped"]
pub struct Protected(Option<Arc<Slot>>);

/// Marks what runs on this thread; elsewhere than on an arbiter there is nothing to mark.
pub(crate) fn protect() -> Protected {
    let slot = SLOT.with(|own| own.get().map(|Occupied(slot)| slot.clone()));
    if let Some(slot) = &slot {
        slot.protections.fetch_add(1, Ordering::AcqRel);
    }
    Protected(slot)
}

impl Drop for Protected {
    fn drop(&mut self) {
        if let Some(slot) = &self.0 {
            slot.protections.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

static WATCH: Watch = Watch {
    slots: Mutex::new(Vec::new()),
    interval_ns: AtomicU64::new(HANG_LIMIT.as_nanos() as u64 / LOOKS as u64),
    is_asleep: AtomicBool::new(true),
    place: Mutex::new(None),
};

/// Compares tickets from look to look.
struct Watch {
    slots: Mutex<Vec<Watched>>,
    /// From one look to the next; shortened by whoever sets a shorter limit.
    interval_ns: AtomicU64,
    /// Nobody has run since the last look: the next turn plans one.
    is_asleep: AtomicBool,
    /// The next look's place with the patrol, or the last one's.
    place: Mutex<Option<Ticket>>,
}

/// A slot, and what was seen there.
struct Watched {
    slot: Arc<Slot>,
    ticket: u64,
    /// When `ticket` was first seen.
    since: Time,
    reported: bool,
}

thread_local! {
    /// The patrol calls back on its own thread; hooks run there after the table's lock is free.
    static FOUND: RefCell<Vec<(Arc<System>, Hang)>> = const { RefCell::new(Vec::new()) };
}

impl Watch {
    fn wake(&self) {
        if self.is_asleep.swap(false, Ordering::AcqRel) {
            self.plan();
        }
    }

    fn plan(&self) {
        let interval = Duration::from_nanos(self.interval_ns.load(Ordering::Relaxed));
        // Held while entering: a look that came before its place was noted would plan the next one, and that one would
        // be taken for the last and given back, with nobody left to plan another.
        let mut place = self.place.lock();
        let next = patrol().enter(clock::now() + interval, Waker::from(Arc::new(Look)), None);
        if let Some(last) = place.replace(next) {
            patrol().leave(last);
        }
    }

    /// Looks at every slot; says whether anybody has run since the last look.
    fn look(&self, now: Time) -> bool {
        let mut watched = self.slots.lock();
        watched.retain(|watched| !watched.slot.is_gone.load(Ordering::Acquire));
        let mut has_run = false;
        for watched in &mut *watched {
            let Some(system) = watched.slot.system.upgrade() else { continue };
            let limit = system.hang_limit();
            let ticket = watched.slot.ticket.load(Ordering::Acquire);
            let runs = !ticket.is_multiple_of(2);
            if ticket != watched.ticket {
                (watched.ticket, watched.since, watched.reported) = (ticket, now, false);
            } else if !runs {
                continue;
            }
            has_run = true;
            let is_protected = watched.slot.protections.load(Ordering::Acquire) > 0;
            if is_protected {
                watched.since = now;
            }
            if runs && !watched.reported && !is_protected && now - watched.since >= limit {
                watched.reported = true;
                watched.slot.is_reported.store(true, Ordering::Relaxed);
                let hang = watched.slot.hang(&system, now - watched.since);
                FOUND.with_borrow_mut(|found| found.push((system, hang)));
            }
        }
        has_run
    }
}

/// One look, woken by the patrol.
struct Look;

impl Wake for Look {
    fn wake(self: Arc<Self>) {
        let has_run = WATCH.look(clock::now());
        for (system, hang) in FOUND.take() {
            tracing::warn!("{hang}");
            system.counters().add(Count::Hangs);
            system.tell_hang(&hang);
        }
        // A turn that began during a quiet look may not have seen that the watch falls asleep, nor the look its ticket:
        // processors delay stores. So it takes two quiet looks in a row.
        if has_run {
            WATCH.is_asleep.store(false, Ordering::Release);
            WATCH.plan();
        } else if !WATCH.is_asleep.swap(true, Ordering::AcqRel) {
            WATCH.plan();
        }
    }
}

impl Slot {
    fn hang(&self, system: &System, since: Duration) -> Hang {
        let rest = self.rest.load(Ordering::Relaxed);
        let actor = ActorId {
            process: ProcessId::from_u64(self.process.load(Ordering::Relaxed)),
            slot: (rest >> 32) as u32,
            generation: rest as u32,
        };
        let type_name = system.local(actor).map_or("", |mailbox| mailbox.status().type_name);
        Hang { actor, type_name, since, thread: self.thread.clone(), doing: doing(&self.tid) }
    }
}

/// The kernel's number of this thread, where the kernel tells: `/proc/thread-self` leads to `<process>/task/<thread>`.
fn own_tid() -> Option<String> {
    let path = std::fs::read_link("/proc/thread-self").ok()?;
    Some(path.file_name()?.to_str()?.to_owned())
}

/// What a thread of this process does, in the kernel's words.
fn doing(tid: &str) -> String {
    let read = |what: &str| std::fs::read_to_string(format!("/proc/self/task/{tid}/{what}")).ok();
    let stat = read("stat").unwrap_or_default();
    // The name before the state is in parentheses and may hold anything, even parentheses.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    let place = read("wchan").filter(|place| !place.is_empty() && place != "0");
    match (state, place) {
        (Some('R'), _) => "running".into(),
        (Some('S' | 'D'), Some(place)) => format!("sleeping in {place}"),
        (Some('S' | 'D'), None) => "sleeping".into(),
        (Some(state), _) => format!("in state {state}"),
        (None, _) => "doing what cannot be told".into(),
    }
}
