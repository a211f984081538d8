//! How often each misfortune and each transition happened: a simulation that never saw one says nothing about it.

use std::collections::BTreeMap;
use std::fmt;

/// What is seen less often than this in a whole campaign says nothing: no floor is lower.
pub const SEEN_MIN: u64 = 100;

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// One more of `what`.
    pub fn saw(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what).or_default() += count;
        }
    }

    /// What was seen less often than its floor, what was seen without having one, and floors below [`SEEN_MIN`].
    ///
    /// # Errors
    /// A line for each.
    pub fn at_least(&self, floors: &[(&'static str, u64)]) -> Result<(), String> {
        let mut lines = String::new();
        for &(what, floor) in floors {
            let count = self.counts.get(what).copied().unwrap_or(0);
            if floor < SEEN_MIN {
                lines += &format!("`{what}` has a floor of {floor}, expected at least {SEEN_MIN}\n");
            }
            if count < floor {
                lines += &format!("`{what}` was seen {count} times, expected at least {floor}\n");
            }
        }
        for what in self.counts.keys().filter(|what| !floors.iter().any(|(known, _)| known == *what)) {
            lines += &format!("`{what}` has no floor\n");
        }
        if lines.is_empty() { Ok(()) } else { Err(lines) }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(what, count)| writeln!(f, "{count:>9}  {what}"))
    }
}
