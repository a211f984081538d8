//! Rings of waits, under thousands of seeds.

use mobula_sim::{campaign, waits};

#[test]
fn whoever_waits_for_itself_is_found_and_nobody_else() {
    campaign::run(waits::run, &[], 2_000, FLOORS);
}

/// A quarter of what was seen when these were written, and a hundred at least: less proves nothing.
const FLOORS: &[(&str, u64)] = &[
    ("a wait is heard twice", 100),
    ("all go on by themselves", 100),
    ("somebody is in a ring", 100),
    ("somebody waits for itself", 100),
];
