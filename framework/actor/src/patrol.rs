//! Ends waits whose deadline has passed.
//!
//! Every `ask` has a deadline, 30 s unless set, and nearly every reply comes long before. A timer per ask would cost more
//! than the call itself (about 150 ns against 90), so a waiting ask leaves its waker here, in a slab by shard, and takes
//! it away when the reply comes: two uncontended locks. One thread looks at what is due; it sleeps until the earliest
//! deadline it has seen, so an idle process never wakes.
//!
//! Since all that wait for replies are here, it is known here, too, who waits for whom, for lists (`waits`). Code of tasks and
//! actors that waits for an object is entered for that alone, and never woken from here.
//!
//! The patrol only wakes: the woken future itself sees that its deadline has passed or that its caller gave up.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::thread::{self, Thread};

use mobula_types::Time;
use parking_lot::Mutex;
use slab::Slab;

use crate::clock;
use crate::slot::CallState;
use crate::waits::{Awaits, Wait as Awaiting};

/// Shards of the table: a handful keeps the threads of one host out of each other's way.
const SHARDS: usize = 16;

/// The process's patrol, started at first use.
pub fn patrol() -> &'static Patrol {
    static PATROL: OnceLock<Patrol> = OnceLock::new();
    static THREAD: OnceLock<Thread> = OnceLock::new();
    let patrol = PATROL.get_or_init(|| Patrol {
        shards: std::array::from_fn(|_| Mutex::new(Shard { earliest: Time::MAX, waits: Slab::new() })),
        nested: AtomicUsize::new(0),
        cancellations: AtomicU64::new(0),
        planned: AtomicU64::new(u64::MAX),
        thread: &THREAD,
    });
    THREAD.get_or_init(|| {
        let handle = thread::Builder::new()
            .name("mobula-patrol".into())
            .spawn(|| patrol.run())
            .expect("the system has a thread left for deadlines");
        handle.thread().clone()
    });
    patrol
}

/// Who waits until when, and the thread that ends those waits.
pub struct Patrol {
    shards: [Mutex<Shard>; SHARDS],
    /// Waits that happen inside a call.
    nested: AtomicUsize,
    /// How often a call was cancelled before its answer.
    cancellations: AtomicU64,
    /// When the thread wakes next, in nanoseconds; an earlier deadline unparks it.
    planned: AtomicU64,
    thread: &'static OnceLock<Thread>,
}

struct Shard {
    /// No wait of this shard is due before this. It may be stale and too early, never too late.
    earliest: Time,
    waits: Slab<Wait>,
}

struct Wait {
    due: Time,
    waker: Waker,
    /// The call inside which this wait happens, if any: when it is cancelled, so is the wait.
    parent: Option<Arc<dyn CallState>>,
    /// Who waits for whom, for lists.
    about: Option<Awaiting>,
}

/// A place in the patrol's table; given back with [`Patrol::leave`].
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    key: u32,
    shard: u8,
    nested: bool,
}

impl Patrol {
    /// `waker` is woken when `due` has come or `parent` is cancelled, once; then it sees for itself.
    pub fn enter(&self, due: Time, waker: Waker, parent: Option<Arc<dyn CallState>>) -> Ticket {
        self.enter_about(due, waker, parent, None)
    }

    /// The same for a wait of which it is known who waits for whom.
    pub(crate) fn enter_about(
        &self,
        due: Time,
        waker: Waker,
        parent: Option<Arc<dyn CallState>>,
        about: Option<Awaiting>,
    ) -> Ticket {
        let shard = shard_of_this_thread();
        let nested = parent.is_some();
        let key = {
            let mut shard = self.shards[shard].lock();
            shard.earliest = shard.earliest.min(due);
            shard.waits.insert(Wait { due, waker, parent, about })
        };
        if nested {
            self.nested.fetch_add(1, Ordering::AcqRel);
        }
        if due.as_nanos() < self.planned.load(Ordering::Acquire)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
        let shard = u8::try_from(shard).expect("SHARDS is below 256");
        Ticket { key: u32::try_from(key).expect("fewer than 4 billion calls wait at once"), shard, nested }
    }

    /// Another waker for the same wait.
    pub fn renew(&self, ticket: Ticket, waker: &Waker) {
        if let Some(wait) = self.shards[usize::from(ticket.shard)].lock().waits.get_mut(ticket.key as usize) {
            wait.waker.clone_from(waker);
        }
    }

    /// The wait is over.
    pub fn leave(&self, ticket: Ticket) {
        let wait = self.shards[usize::from(ticket.shard)].lock().waits.try_remove(ticket.key as usize);
        if ticket.nested {
            self.nested.fetch_sub(1, Ordering::AcqRel);
        }
        drop(wait);
    }

    /// Who has awaited whom since `before` or longer, at most `max` of them.
    pub fn awaited(&self, before: Time, max: usize) -> Vec<Awaits> {
        let mut awaited = Vec::new();
        for shard in &self.shards {
            let shard = shard.lock();
            let waits = shard.waits.iter().filter_map(|(_, wait)| wait.about.as_ref());
            let room = max - awaited.len();
            awaited.extend(waits.filter(|about| about.since <= before).filter_map(Awaiting::told).take(room));
        }
        awaited
    }

    /// A call was cancelled while its handler had not answered: what that handler waits for ends too.
    pub fn call_cancelled(&self) {
        self.cancellations.fetch_add(1, Ordering::Release);
        if self.nested.load(Ordering::Acquire) > 0
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }

    fn run(&self) {
        let mut cancellations = 0;
        loop {
            let seen = self.cancellations.load(Ordering::Acquire);
            let next = self.wake_due(clock::now(), seen != cancellations);
            cancellations = seen;
            self.planned.store(next.as_nanos(), Ordering::Release);
            // Whoever entered before `planned` was stored did not unpark us: look once more before sleeping.
            let missed = self.shards.iter().any(|shard| shard.lock().earliest < next);
            match next {
                _ if missed => {}
                Time::MAX => thread::park(),
                time => thread::park_timeout(time.since(clock::now())),
            }
        }
    }

    /// Wakes what is due at `now`; returns the earliest deadline left.
    fn wake_due(&self, now: Time, nested: bool) -> Time {
        let mut next = Time::MAX;
        let mut due = Vec::new();
        for shard in &self.shards {
            let mut shard = shard.lock();
            if shard.earliest > now && !nested {
                next = next.min(shard.earliest);
                continue;
            }
            let mut earliest = Time::MAX;
            for (_, wait) in &mut shard.waits {
                let given_up = nested && wait.parent.as_ref().is_some_and(|parent| parent.is_cancelled());
                if wait.due <= now || given_up {
                    due.push(wait.waker.clone());
                    // The woken future leaves by itself; until then it is not woken again.
                    wait.due = Time::MAX;
                    wait.parent = None;
                } else {
                    earliest = earliest.min(wait.due);
                }
            }
            shard.earliest = earliest;
            next = next.min(earliest);
        }
        due.into_iter().for_each(Waker::wake);
        next
    }
}

fn shard_of_this_thread() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
    SHARD.with(|shard| *shard)
}
