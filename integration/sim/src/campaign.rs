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
    let coverage = all(world, kept, seeds).unwrap_or_else(|failure| panic!("{failure}"));
    println!("{seeds} seeds kept every promise\n{coverage}");
    coverage.at_least(floors).unwrap_or_else(|lines| panic!("the seeds do not say enough:\n{lines}"));
}

/// Runs every seed, on as many threads as there are CPUs; of those that fail, the first in the list.
fn all(world: World, kept: &[u64], seeds: u64) -> Result<Coverage, Box<Failure>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = |nth: usize| -> Result<Coverage, (usize, Box<Failure>)> {
        let mut coverage = Coverage::default();
        for (at, seed) in kept.iter().copied().chain(0..seeds).enumerate().skip(nth).step_by(threads) {
            coverage.add(&world(seed, None).map_err(|failure| (at, Box::new(failure)))?);
        }
        Ok(coverage)
    };
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|nth| scope.spawn(move || share(nth))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a world says its findings and does not panic")).collect()
    });
    let mut coverage = Coverage::default();
    let mut failures = Vec::new();
    for result in results {
        match result {
            Ok(seen) => coverage.add(&seen),
            Err(failure) => failures.push(failure),
        }
    }
    failures.sort_by_key(|(at, _)| *at);
    failures.into_iter().next().map_or(Ok(coverage), |(_, failure)| Err(failure))
}

/// Whether `world` notices `mutant` below `seeds`: the first failure that cites `invariant`.
pub fn find(world: World, mutant: Mutant, invariant: &str, seeds: u64) -> Option<Failure> {
    let failures = (0..seeds).filter_map(|seed| world(seed, Some(mutant)).err());
    failures.into_iter().find(|failure| failure.violation.invariant == invariant)
}
