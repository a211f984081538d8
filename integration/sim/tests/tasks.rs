//! Tasks and their attempts (G1, G2) under thousands of seeds.

use mobula_sim::coverage::SEEN_MIN;
use mobula_sim::{campaign, tasks};

#[test]
fn every_task_ends_in_one_outcome() {
    campaign::run(tasks::run, KEPT, 8_000, FLOORS);
}

/// Seeds that failed once, each with its reason; none has yet.
const KEPT: &[u64] = &[];

/// A quarter of what was seen when these were written, and a hundred at least: less proves nothing.
const FLOORS: &[(&str, u64)] = &[
    ("a run is stopped", 300),
    ("audit finds a loss", 100),
    ("bystander", 3_000),
    ("culprit", 2_000),
    ("message comes twice", 2_000),
    ("message is lost", 2_000),
    ("outcome cancelled", 500),
    ("outcome deadline_exceeded", 1_000),
    ("outcome failed", 4_000),
    ("outcome may_have_run", 1_000),
    ("outcome not_started", 700),
    ("outcome ok", 10_000),
    ("result after the end", 1_000),
    ("result of a lost attempt", SEEN_MIN),
    ("result of a superseded attempt", 300),
    ("runs again", 6_000),
    ("turned away", 1_000),
    ("worker crashes", 20_000),
    ("worker is cut off", 6_000),
];
