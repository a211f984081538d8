//! Processes that end because they have run a function so often.

use std::sync::atomic::{AtomicU32, Ordering};

use mobula::Attempt;
use mobula::prelude::*;

use super::Test;

pub(crate) const TESTS: &[Test] = &[
    ("a process ends after so many calls", || Box::pin(so_many_calls())),
    ("what a process gives last arrives whole", || Box::pin(last_words())),
];

/// Where it runs, how often this process has run it, and which run of its task it is.
#[remote(max_calls = 2)]
fn count_calls() -> (u32, u32, Option<Attempt>) {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let calls = CALLS.fetch_add(1, Ordering::Relaxed) + 1;
    (std::process::id(), calls, mobula::task_run().map(|(_, attempt)| attempt))
}

#[remote(max_calls = 1)]
fn fill(bytes: usize) -> Vec<u8> {
    vec![7; bytes]
}

async fn so_many_calls() -> Result<()> {
    // Those that are sent one by one, and those that wait for places together.
    let first = *mobula::get(count_calls::remote()).await?;
    let second = *mobula::get(count_calls::remote()).await?;
    let third = *mobula::get(count_calls::remote()).await?;
    assert_eq!((first.0, first.1, second.1), (second.0, 1, 2), "one process for two calls");
    assert_eq!(third.1, 1, "and then another");
    let mut calls = vec![third];
    for call in mobula::get((0..7).map(|_| count_calls::remote()).collect::<Vec<_>>()).await? {
        calls.push(*call);
    }
    let is_first = |run: Option<Attempt>| run == Some(Attempt::FIRST);
    assert!(calls.iter().all(|(_, nth, run)| *nth <= 2 && is_first(*run)), "{calls:?}");
    calls.sort_unstable_by_key(|(process, nth, _)| (*process, *nth));
    calls.dedup_by_key(|(process, nth, _)| (*process, *nth));
    assert_eq!(calls.len(), 8, "nothing is lost or run twice");
    Ok(())
}

async fn last_words() -> Result<()> {
    for bytes in [10, 100_000, 3 << 20] {
        let filled = mobula::get(fill::remote(bytes)).await?;
        assert!(filled.len() == bytes && filled.iter().all(|byte| *byte == 7), "{bytes} bytes");
    }
    Ok(())
}
