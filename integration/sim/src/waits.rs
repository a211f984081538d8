//! Who waits for whom, heard in any order and now and then twice.
//!
//! The witness looks for rings by walking from each to all that it reaches, which is slow and obvious.

use std::collections::{BTreeMap, BTreeSet};

use mobula_logic::waits::Waits;
use mobula_logic::{Mutant, Violation};
use mobula_types::Time;

use crate::coverage::Coverage;
use crate::failure::{Failure, Steps, ensure};
use crate::rng::Rng;
use crate::world;

/// Looks for rings among the waits of `seed`.
///
/// # Errors
/// The first promise that did not hold.
pub fn run(seed: u64, mutant: Option<Mutant>) -> Result<Coverage, Failure> {
    world::run::<World>(seed, mutant)
}

/// Who may wait.
const WAITING_MAX: u64 = 12;

struct World {
    rng: Rng,
    coverage: Coverage,
    steps: Steps,
}

impl world::World for World {
    const NAME: &'static str = "waits";

    fn new(seed: u64, _: Option<Mutant>, records: bool) -> Self {
        let rng = Rng::new(seed ^ 0x7761_6974);
        Self { rng, coverage: Coverage::default(), steps: Steps::new(records) }
    }

    fn play(&mut self) -> Result<(), Violation> {
        let all = 2 + self.rng.below(WAITING_MAX - 1);
        let mut waits = Waits::default();
        let mut on: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
        for _ in 0..self.rng.below(2 * all) {
            let (who, other) = (self.rng.below(all), self.rng.below(all));
            self.steps.note(Time::ZERO, || format!("{who} waits for {other}"));
            waits.add(who, other);
            if !on.entry(who).or_default().insert(other) {
                self.coverage.saw("a wait is heard twice");
            }
        }
        let rings = waits.rings();
        for who in 0..all {
            let ring = rings.get(&who);
            let lasts = reaches(&on, who).contains(&who);
            ensure(ring.is_some() == lasts, "WAIT-1", || format!("{who} waits for itself: {lasts}, found {ring:?}"))?;
            let Some(ring) = ring else { continue };
            self.coverage.saw(if ring.len() == 1 { "somebody waits for itself" } else { "somebody is in a ring" });
            let next = ring.iter().cycle().skip(1);
            let is_ring = ring.iter().zip(next).all(|(one, next)| on[one].contains(next));
            let is_once = ring.iter().collect::<BTreeSet<_>>().len() == ring.len();
            ensure(is_ring && is_once && ring[0] == who, "WAIT-2", || format!("{ring:?} is no ring from {who} on"))?;
        }
        if rings.is_empty() {
            self.coverage.saw("all go on by themselves");
        }
        Ok(())
    }

    fn end(self) -> (Time, Coverage, Steps) {
        (Time::ZERO, self.coverage, self.steps)
    }
}

/// All that `who` waits for, and what that waits for.
fn reaches(on: &BTreeMap<u64, BTreeSet<u64>>, who: u64) -> BTreeSet<u64> {
    let mut reached = BTreeSet::new();
    let mut open = vec![who];
    while let Some(at) = open.pop() {
        let others = on.get(&at).into_iter().flatten();
        open.extend(others.filter(|other| reached.insert(**other)).copied().collect::<Vec<_>>());
    }
    reached
}
