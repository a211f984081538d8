//! What it means that a machine's promise does not hold.

use std::fmt;

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

/// `Ok` when `holds`, else the violation of `invariant` with what `seen` says.
pub(crate) fn ensure(holds: bool, invariant: &'static str, seen: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { invariant, seen: seen() }) }
}
