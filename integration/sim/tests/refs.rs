//! References in messages (G9) under thousands of seeds.

use mobula_sim::{campaign, refs};

#[test]
fn what_is_on_its_way_is_held_and_what_nobody_holds_is_freed() {
    campaign::run(refs::run, KEPT, 2_000, FLOORS);
}

/// Seeds that failed once, each with its reason; none has yet.
const KEPT: &[u64] = &[];

/// A quarter of what was seen when these were written: less says that a misfortune has become rare.
const FLOORS: &[(&str, u64)] = &[
    ("a last word is lost", 400),
    ("a message is not sent", 900),
    ("a process dies", 300),
    ("a word to the dead", 20_000),
    ("all is let go", 500),
    ("an acknowledgement", 28_000),
    ("names what others own", 33_000),
];
