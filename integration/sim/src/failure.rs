//! What a failing seed prints: the promise, what was seen, the last steps, and the one command that replays it.

use std::collections::VecDeque;
use std::fmt;

use mobula_logic::Violation;
use mobula_types::Time;

/// A run in which a promise did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Which world: the test to replay.
    pub world: &'static str,
    /// Its seed.
    pub seed: u64,
    /// When.
    pub at: Time,
    /// Which promise, and what was seen instead.
    pub violation: Violation,
    /// The last steps before it.
    pub steps: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { world, seed, at, violation, steps } = self;
        for step in steps {
            writeln!(f, "{step}")?;
        }
        writeln!(f, "seed {seed} at {} ms: {violation}", at.as_nanos() / 1_000_000)?;
        write!(f, "replay it with: MOBULA_SIM_SEED={seed} cargo test -p mobula-sim --test {world}")
    }
}

/// The last steps of a run, written down only when it is run for that: a seed can be run again.
#[derive(Debug)]
pub(crate) struct Steps {
    /// How many are kept; none when 0.
    kept: usize,
    lines: VecDeque<(Time, String)>,
}

impl Steps {
    pub(crate) fn new(records: bool) -> Self {
        if !records {
            return Self { kept: 0, lines: VecDeque::new() };
        }
        let kept = std::env::var("MOBULA_SIM_STEPS").ok().and_then(|text| text.parse().ok()).unwrap_or(KEPT);
        Self { kept, lines: VecDeque::new() }
    }

    pub(crate) fn note(&mut self, at: Time, line: impl FnOnce() -> String) {
        if self.kept == 0 {
            return;
        }
        if self.lines.len() == self.kept {
            self.lines.pop_front();
        }
        self.lines.push_back((at, line()));
    }

    pub(crate) fn text(&self) -> Vec<String> {
        let line = |(at, line): &(Time, String)| format!("{:>9} ms  {line}", at.as_nanos() / 1_000_000);
        self.lines.iter().map(line).collect()
    }
}

/// A witness's own finding.
pub(crate) fn ensure(holds: bool, invariant: &'static str, seen: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { invariant, seen: seen() }) }
}

/// Steps shown unless `MOBULA_SIM_STEPS` says otherwise: about two screens.
const KEPT: usize = 80;
