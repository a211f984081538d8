//! Supervision trees (G5) under thousands of seeds.

use mobula_sim::coverage::SEEN_MIN;
use mobula_sim::{campaign, tree};

#[test]
fn every_tree_heals_or_ends_as_its_rules_say() {
    campaign::run(tree::run, KEPT, 4_000, FLOORS);
}

/// Seeds that failed once, each with its reason; none has yet.
const KEPT: &[u64] = &[];

/// A quarter of what was seen when these were written, and a hundred at least: less proves nothing.
const FLOORS: &[(&str, u64)] = &[
    ("child is removed", 6_000),
    ("child joins later", 9_000),
    ("constructor gives up for a child", 100),
    ("earlier child fails while later ones stop", SEEN_MIN),
    ("ends before it is told to", 300),
    ("error", 3_000),
    ("escalates to its supervisor", 200),
    ("first start fails", 1_000),
    ("kill", 3_000),
    ("meddled with during a restart", 4_000),
    ("normal end", 1_000),
    ("number is taken", 1_000),
    ("once too often", 300),
    ("panic", 3_000),
    ("panics while it stops", 1_000),
    ("restart at once", 3_000),
    ("restart fails", 1_000),
    ("restart one_for_all", 2_000),
    ("restart one_for_one", 3_000),
    ("restart rest_for_one", 2_000),
    ("restart waits", 5_000),
    ("root escalates", SEEN_MIN),
    ("slow to stop", 3_000),
    ("started after it was told to stop", 100),
    ("stop while it fails", SEEN_MIN),
    ("stopped from outside", 1_000),
    ("temporary child is dropped with its group", 1_000),
    ("told to stop while it ends", 300),
    ("told to stop while it starts", 1_000),
    ("tree is whole again", 800),
];
