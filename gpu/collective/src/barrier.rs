//! A barrier that can be aborted and has a deadline.
//!
//! A decoding step meets some sixty times in a few milliseconds, so who waits first spins, giving its core away between
//! looks, and parks only when it takes long. Knows nothing of values or groups.
//!
//! ```text
//! arrive ─ last one? ─ yes ─► next generation, wake the parked
//!             └ no ─► spin until the generation changes ─ 100 µs ─► park until it changes or the deadline
//! ```

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long to spin before parking. A parked thread takes some 50 µs to run again; shards of one model differ by tens of
/// microseconds per phase, so most waits end while they spin.
const SPIN: Duration = Duration::from_micros(100);
/// Looks with a pause of a few cycles before the first that gives the core away.
const PAUSES: u32 = 64;

/// Where `size` threads meet, again and again.
#[derive(Debug)]
pub(crate) struct Barrier {
    size: usize,
    arrived: AtomicUsize,
    /// How often all have met.
    generation: AtomicU64,
    /// Who aborted: the rank plus 1; 0 for nobody.
    aborted: AtomicU32,
    /// How many are parked; whoever changes what they wait for looks here first.
    parked: Mutex<usize>,
    parked_count: AtomicUsize,
    wake: Condvar,
}

/// Why the others will not come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    Aborted { rank: usize },
    DeadlineExceeded,
}

impl Barrier {
    pub(crate) fn new(size: usize) -> Self {
        Barrier {
            size,
            arrived: AtomicUsize::new(0),
            generation: AtomicU64::new(0),
            aborted: AtomicU32::new(0),
            parked: Mutex::new(0),
            parked_count: AtomicUsize::new(0),
            wake: Condvar::new(),
        }
    }

    /// Waits until all have come. Whoever gives up aborts the barrier, because it will be missing from then on.
    pub(crate) fn wait(&self, rank: usize, deadline: Instant) -> Result<(), Broken> {
        self.check()?;
        let generation = self.generation.load(SeqCst);
        if self.arrived.fetch_add(1, SeqCst) + 1 == self.size {
            // Nobody can arrive for the next generation before this one is announced.
            self.arrived.store(0, SeqCst);
            self.generation.store(generation + 1, SeqCst);
            self.wake_parked();
            return Ok(());
        }
        let done = || self.generation.load(SeqCst) != generation;
        if self.spin(&done) || self.park(&done, deadline) {
            return Ok(());
        }
        self.check()?;
        self.abort(rank);
        Err(Broken::DeadlineExceeded)
    }

    /// Ends all waits, now and from now on. The first to abort is the one that is named.
    pub(crate) fn abort(&self, rank: usize) {
        let _ = self.aborted.compare_exchange(0, rank as u32 + 1, SeqCst, SeqCst);
        self.wake_parked();
    }

    pub(crate) fn check(&self) -> Result<(), Broken> {
        match self.aborted.load(SeqCst) {
            0 => Ok(()),
            rank => Err(Broken::Aborted { rank: rank as usize - 1 }),
        }
    }

    /// True when it is done; false when it takes long or the barrier is aborted.
    fn spin(&self, done: &impl Fn() -> bool) -> bool {
        for _ in 0..PAUSES {
            if done() {
                return true;
            }
            std::hint::spin_loop();
        }
        let until = Instant::now() + SPIN;
        while Instant::now() < until {
            if done() {
                return true;
            }
            // There may be fewer cores than ranks, and other work on them.
            std::thread::yield_now();
        }
        false
    }

    /// True when it is done; false at the deadline or when the barrier is aborted.
    fn park(&self, done: &impl Fn() -> bool, deadline: Instant) -> bool {
        let mut parked = self.parked.lock();
        *parked += 1;
        // Announced before the look at `done`, and `wake_parked` looks here after the change: one sees the other.
        self.parked_count.store(*parked, SeqCst);
        let mut timed_out = false;
        while !done() && self.check().is_ok() && !timed_out {
            timed_out = self.wake.wait_until(&mut parked, deadline).timed_out();
        }
        *parked -= 1;
        self.parked_count.store(*parked, SeqCst);
        done()
    }

    fn wake_parked(&self) {
        if self.parked_count.load(SeqCst) > 0 {
            // With the lock held nobody is between its look and its sleep.
            let _parked = self.parked.lock();
            self.wake.notify_all();
        }
    }
}
