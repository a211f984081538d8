//! How often each misfortune and each transition happened: a simulation that never saw one says nothing about it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// What is seen less often than this in a whole campaign says nothing: no floor is lower.
pub const SEEN_MIN: u64 = 100;

/// Begins a line of counts.
const SEEN: &str = "seen: ";

/// Stands between two of them.
const SEPARATOR: &str = "; ";

/// Counts by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<Cow<'static, str>, u64>,
}

impl Coverage {
    /// One more of `what`.
    pub fn saw(&mut self, what: &'static str) {
        *self.counts.entry(Cow::Borrowed(what)).or_default() += 1;
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            *self.counts.entry(what.clone()).or_default() += count;
        }
    }

    /// The counts as one line, for another process.
    pub(crate) fn encode(&self) -> String {
        let counts: Vec<String> = self.counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        format!("{SEEN}{}", counts.join(SEPARATOR))
    }

    /// The counts that another process has written as a line; `None` when it is another line.
    pub(crate) fn decode(line: &str) -> Option<Self> {
        // The test harness has begun the line.
        let (_, counts) = line.split_once(SEEN)?;
        let count = |text: &str| -> Option<(Cow<'static, str>, u64)> {
            let (count, what) = text.split_once(' ')?;
            Some((Cow::Owned(what.to_owned()), count.parse().ok()?))
        };
        Some(Self { counts: counts.split(SEPARATOR).map(count).collect::<Option<_>>()? })
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
        for what in self.counts.keys().filter(|what| !floors.iter().any(|(known, _)| known == what)) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_back_from_another_process() {
        let mut coverage = Coverage::default();
        (0..7).for_each(|_| coverage.saw("node dies"));
        coverage.saw("lost: not held");
        assert_eq!(Coverage::decode(&format!("test all ... {}", coverage.encode())).unwrap(), coverage);
        assert!(Coverage::decode("test all ... ok").is_none() && Coverage::decode("seen: many").is_none());
    }
}
