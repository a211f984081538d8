//! Nothing is silent (G21): what is submitted, how it ends, and what is dropped, counted.
//!
//! Counters stand on a cache line per thread shard, because two threads that add to one line cost each other 20 ns.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;
use mobula_types::Outcome;

const SHARDS: usize = 8;

/// What is counted beside the outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// Asks and tasks handed over.
    Submitted,
    /// Tells that reached nobody.
    DeadLetters,
    /// Sends refused because a mailbox or queue was full.
    Refused,
    /// Submissions of tasks that waited because a queue was full.
    Waited,
    /// Actors that were started, restarts included.
    Starts,
    /// Actors started again after they died.
    Restarts,
    /// Panics caught.
    Panics,
    /// Handlers that kept their thread beyond the hang limit.
    Hangs,
    /// Runs of tasks that followed an error or panic of their own.
    ErrorRetries,
}

const COUNTS: usize = 9;
const CELLS: usize = COUNTS + Outcome::ALL.len();

/// The counters of one system.
#[derive(Debug, Default)]
pub struct Counters {
    shards: [CachePadded<[AtomicU64; CELLS]>; SHARDS],
}

impl Counters {
    /// Counts one more of `count`.
    pub fn add(&self, count: Count) {
        self.bump(count as usize);
    }

    /// Counts how a submitted call or task ended.
    pub fn add_outcome(&self, outcome: Outcome) {
        self.bump(COUNTS + outcome as usize);
    }

    /// Counts one submitted call or task; exactly one [`add_outcome`](Self::add_outcome) follows.
    pub fn add_submitted(&self) {
        self.add(Count::Submitted);
    }

    /// How often `count` happened.
    pub fn of(&self, count: Count) -> u64 {
        self.sum(count as usize)
    }

    /// How many calls and tasks ended as `outcome`.
    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.sum(COUNTS + outcome as usize)
    }

    /// Calls and tasks that have been submitted and have no outcome yet.
    pub fn pending(&self) -> u64 {
        let ended: u64 = Outcome::ALL.into_iter().map(|outcome| self.outcomes(outcome)).sum();
        self.of(Count::Submitted).saturating_sub(ended)
    }

    fn bump(&self, cell: usize) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local!(static SHARD: usize = NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        self.shards[SHARD.with(|shard| *shard)][cell].fetch_add(1, Ordering::Relaxed);
    }

    fn sum(&self, cell: usize) -> u64 {
        self.shards.iter().map(|shard| shard[cell].load(Ordering::Relaxed)).sum()
    }
}
