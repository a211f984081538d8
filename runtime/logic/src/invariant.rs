//! What it means that a machine's promise does not hold.

use std::fmt;

use crate::mutant::Planted;

/// A numbered invariant that does not hold, and what was seen instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The invariant's number, such as `SUP-3`; the module `invariants` of its machine says it in words.
    pub invariant: &'static str,
    /// What was seen.
    pub seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} does not hold: {}", self.invariant, self.seen)
    }
}

impl std::error::Error for Violation {}

/// When a debug build looks whether a machine keeps its invariants: after every input while it holds little, and else so
/// rarely that each input costs the same.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    inputs: usize,
}

impl Pace {
    /// Whether it is time, after one more input, for a machine that holds `size` things.
    pub(crate) fn is_due(&mut self, size: usize, planted: &Planted) -> bool {
        if !cfg!(debug_assertions) || planted.is_any() || size > CHECKED_MAX {
            return false;
        }
        self.inputs += 1;
        let is_due = self.inputs * CHECKED_EACH >= size;
        if is_due {
            self.inputs = 0;
        }
        is_due
    }
}

/// An input bears the check of so many things.
const CHECKED_EACH: usize = 2;

/// A machine that holds more is not checked: what is wrong would have been so with less.
const CHECKED_MAX: usize = 512;

/// `Ok` when `holds`, else the violation of `invariant` with what `seen` says.
pub(crate) fn ensure(holds: bool, invariant: &'static str, seen: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { invariant, seen: seen() }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_small_is_checked_each_time_and_what_is_large_in_its_turn() {
        let looks = |size: usize| {
            let mut pace = Pace::default();
            (0..100).filter(|_| pace.is_due(size, &Planted::default())).count()
        };
        assert_eq!([0, 2, 3, 20, CHECKED_MAX + 1].map(looks), [100, 100, 50, 10, 0]);
    }
}
