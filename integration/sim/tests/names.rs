//! A head and its nodes under thousands of seeds.

use mobula_sim::{campaign, names};

#[test]
fn nobody_acts_twice_and_nothing_acknowledged_is_lost() {
    let seeds = std::env::var("MOBULA_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    campaign::run(names::run, KEPT, seeds, FLOORS);
}

const SEEDS: u64 = 2_000;

/// Seeds that failed once, each with its reason.
const KEPT: &[u64] = &[];

const FLOORS: &[(&str, u64)] = &[];
