//! Many seeds through one world, or the one that `MOBULA_SIM_SEED` names.

use mobula_logic::Mutant;

use crate::coverage::Coverage;
use crate::failure::Failure;

/// A world: seed in, system out.
pub type World = fn(u64, Option<Mutant>) -> Result<Coverage, Failure>;

/// Runs the seeds that failed once, then those below `seeds`; every misfortune must reach its floor.
///
/// # Panics
/// When a promise did not hold, with the seed and the command that replays it; when a misfortune was too rare.
pub fn run(world: World, kept: &[u64], seeds: u64, floors: &[(&'static str, u64)]) {
    let named = std::env::var("MOBULA_SIM_SEED").ok();
    if let Some(text) = named {
        let seed = text.parse().unwrap_or_else(|_| panic!("MOBULA_SIM_SEED is a number, found `{text}`"));
        match world(seed, None) {
            Ok(coverage) => println!("seed {seed} keeps every promise\n{coverage}"),
            Err(failure) => panic!("{failure}"),
        }
        return;
    }
    let mut coverage = Coverage::default();
    for seed in kept.iter().copied().chain(0..seeds) {
        match world(seed, None) {
            Ok(seen) => coverage.add(&seen),
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{seeds} seeds kept every promise\n{coverage}");
    coverage.at_least(floors).unwrap_or_else(|lines| panic!("the seeds do not say enough:\n{lines}"));
}

/// Whether `world` notices `mutant` below `seeds`: the first failure that cites `invariant`.
pub fn find(world: World, mutant: Mutant, invariant: &str, seeds: u64) -> Option<Failure> {
    let failures = (0..seeds).filter_map(|seed| world(seed, Some(mutant)).err());
    failures.into_iter().find(|failure| failure.violation.invariant == invariant)
}
