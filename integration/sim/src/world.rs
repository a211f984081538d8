//! How a world is run: once, and a second time with its steps written down when a promise did not hold.

use std::panic::{AssertUnwindSafe, catch_unwind};

use mobula_logic::{Mutant, Violation};
use mobula_types::Time;

use crate::coverage::Coverage;
use crate::failure::{Failure, Steps};

/// What a seed makes.
pub(crate) trait World {
    /// The test that replays it.
    const NAME: &'static str;

    /// The world of `seed` before anything has happened, with `mutant` planted in every machine.
    fn new(seed: u64, mutant: Option<Mutant>, records: bool) -> Self;

    /// Lets everything happen.
    fn play(&mut self) -> Result<(), Violation>;

    /// How far it has come, and what was seen until then.
    fn end(self) -> (Time, Coverage, Steps);
}

/// Runs the world of `seed` to its end.
///
/// # Errors
/// The first promise that did not hold.
pub(crate) fn run<W: World>(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    // A seed that fails is run again with its steps written down.
    once::<W>(seed, mutant, false).or_else(|_| once::<W>(seed, mutant, true))
}

fn once<W: World>(seed: u64, mutant: Option<Mutant>, records: bool) -> Result<Coverage, Failure> {
    let mut world = W::new(seed, mutant, records);
    // A machine that finds its own invariant broken says so by a panic.
    let result = catch_unwind(AssertUnwindSafe(|| world.play())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let seen = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation { invariant: "PANIC", seen: seen.unwrap_or_default() })
    });
    let (at, coverage, steps) = world.end();
    match result {
        Ok(()) => Ok(coverage),
        Err(violation) => Err(Failure { world: W::NAME, seed, at, violation, steps: steps.text() }),
    }
}
