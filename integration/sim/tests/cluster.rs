//! Whole clusters under ten thousand seeds.

use mobula_sim::{campaign, cluster};

#[test]
fn every_cluster_comes_to_rest() {
    let seeds = std::env::var("MOBULA_SIM_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS);
    campaign::run(cluster::run, KEPT, seeds, FLOORS);
}

const SEEDS: u64 = 10_000;

/// Seeds that failed once, each with its reason.
const KEPT: &[u64] = &[];

const FLOORS: &[(&str, u64)] = &[];
