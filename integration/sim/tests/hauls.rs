//! Payloads that a node gets from several others, under thousands of seeds.

use mobula_sim::{campaign, hauls};

#[test]
fn all_of_a_payload_comes_as_long_as_somebody_has_it_and_nothing_after_its_end() {
    campaign::run(hauls::run, &[], 30_000, FLOORS);
}

/// A quarter of what was seen when these were written, and a hundred at least: less proves nothing.
const FLOORS: &[(&str, u64)] = &[
    ("a node dies", 1_000),
    ("a payload comes", 1_350),
    ("a payload comes without some of its sources", 1_300),
    ("a payload has no source left", 700),
    ("a payload is not wanted", 750),
    ("a payload that is not wanted ends", 1_100),
    ("a process ends", 1_000),
    ("a range comes", 20_500),
    ("a range fails", 4_300),
    ("a source refuses", 3_200),
    ("a spare source is asked", 1_400),
    ("ranges are given up", 2_000),
];
