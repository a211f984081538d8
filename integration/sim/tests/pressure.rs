//! A node whose memory and disk run short, under thousands of seeds.

use mobula_sim::{campaign, pressure};

#[test]
fn who_wants_an_object_has_it_or_is_told_and_nothing_leaves_that_is_read() {
    campaign::run(pressure::run, &[], 1_000, FLOORS);
}

/// A quarter of what was seen when these were written, and a hundred at least: less proves nothing.
const FLOORS: &[(&str, u64)] = &[
    ("a copy comes back", 14_000),
    ("a copy comes back beyond the budget", 200),
    ("a copy finds the disk full", 5_600),
    ("a copy in a file is freed", 9_900),
    ("a copy in memory and in a file is freed", 2_700),
    ("a copy in memory is freed", 20_000),
    ("a copy is evicted", 25_000),
    ("a copy is freed while it comes back", 240),
    ("a copy is freed while it is read", 4_800),
    ("a copy is freed while it is waited for", 630),
    ("a copy is freed while it is written", 290),
    ("a copy is given up", 4_500),
    ("a copy is read back that is gone", 240),
    ("a copy is read while it is written", 500),
    ("a copy is to be written", 21_000),
    ("a copy is written", 15_000),
    ("a copy is written that is gone", 290),
    ("a copy that is given up must stay", 790),
    ("a file cannot be read", 230),
    ("a full disk is tried", 2_600),
    ("a lease is refused", 32_000),
    ("a put is told that the store is full", 4_200),
    ("a reader dies", 5_800),
    ("a refused put finds room", 3_700),
    ("a segment outlives its process", 2_400),
    ("a value is put where others are", 1_700),
    ("all is read from a full disk", 300),
    ("all is read from the disk", 2_200),
    ("an object is wanted that is in a file", 20_000),
    ("as many are read as may be", 200),
    ("as many are written as may be", 170),
    ("one who waits dies", 500),
    ("one who waits is told that there is no room", 210),
    ("one who waits reads", 18_000),
    ("readers are asked to let go", 100_000),
    ("somebody else fills the disk", 690),
    ("somebody else leaves the disk", 1_000),
    ("the disk fails", 330),
    ("the disk has room", 1_800),
    ("the disk is full", 1_800),
    ("there is a copy again", 5_500),
    ("there is no room after all", 1_000),
];
