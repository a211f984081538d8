//! Logical amounts of what code runs on: CPUs, GPUs and resources with a name of their own (design.md §7).
//!
//! Nothing here keeps a function from using more than it asked for.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// An amount in steps of 0.0001, so that halves and tenths add up exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Amount(u64);

impl Amount {
    /// Steps of one whole.
    pub const STEPS: u64 = 10_000;

    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One whole.
    pub const ONE: Self = Self(Self::STEPS);

    /// So many wholes.
    pub const fn whole(count: u64) -> Self {
        Self(count.saturating_mul(Self::STEPS))
    }

    /// So many steps of 0.0001.
    pub const fn of_steps(steps: u64) -> Self {
        Self(steps)
    }

    /// How many steps of 0.0001 it is.
    pub const fn steps(self) -> u64 {
        self.0
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// What is left without `other`; nothing when that is more.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The nearest amount to `value`; `None` when it is negative or no number.
    pub fn new(value: f64) -> Option<Self> {
        let steps = (value * Self::STEPS as f64).round();
        (steps >= 0.0 && steps.is_finite()).then_some(Self(steps as u64))
    }
}

/// Prints like the number a user wrote: `1`, `0.5`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 as f64 / Self::STEPS as f64)
    }
}

/// What one task takes while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Request {
    /// CPUs.
    pub cpus: Amount,
    /// GPUs.
    pub gpus: Amount,
    /// Resources that the configuration names.
    pub others: Vec<(String, Amount)>,
}

impl Request {
    /// What a function that is not async takes unless it says otherwise.
    pub const ONE_CPU: Self = Self { cpus: Amount::ONE, gpus: Amount::ZERO, others: Vec::new() };

    /// Asks for `amount` more of `name`.
    pub fn add(&mut self, name: &str, amount: Amount) {
        let at = self.amount_mut(name);
        *at = at.plus(amount);
    }

    /// Asks for `amount` of `name`, whatever was asked for before.
    pub fn set(&mut self, name: &str, amount: Amount) {
        *self.amount_mut(name) = amount;
        self.others.retain(|(_, amount)| *amount > Amount::ZERO);
    }

    fn amount_mut(&mut self, name: &str) -> &mut Amount {
        match name {
            CPUS => &mut self.cpus,
            GPUS => &mut self.gpus,
            other => match self.others.iter().position(|(name, _)| name == other) {
                Some(at) => &mut self.others[at].1,
                None => {
                    self.others.push((other.to_owned(), Amount::ZERO));
                    &mut self.others.last_mut().expect("one was pushed").1
                }
            },
        }
    }

    /// Whether it takes nothing at all.
    pub fn is_nothing(&self) -> bool {
        self.cpus == Amount::ZERO && self.gpus == Amount::ZERO && self.others.is_empty()
    }

    /// What it asks for, by name, without what it asks nothing of.
    pub fn amounts(&self) -> impl Iterator<Item = (&str, Amount)> {
        let first = [(CPUS, self.cpus), (GPUS, self.gpus)];
        let others = self.others.iter().map(|(name, amount)| (name.as_str(), *amount));
        first.into_iter().chain(others).filter(|(_, amount)| *amount > Amount::ZERO)
    }
}

/// The name under which CPUs are asked for.
pub const CPUS: &str = "num_cpus";
/// The name under which GPUs are asked for.
pub const GPUS: &str = "num_gpus";

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// CPUs.
    pub cpus: Amount,
    /// GPUs.
    pub gpus: Amount,
    /// Resources with a name of their own.
    pub others: BTreeMap<String, Amount>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_asked_for_and_nothing_more() {
        let mut request = Request::default();
        for (name, amount) in [(CPUS, 2), (CPUS, 1), ("licence", 3), ("licence", 0)] {
            request.set(name, Amount::whole(amount));
        }
        assert_eq!(request, Request::ONE_CPU);
        request.add("licence", Amount::ONE);
        assert_eq!(request.amounts().collect::<Vec<_>>(), [(CPUS, Amount::ONE), ("licence", Amount::ONE)]);
    }

    #[test]
    fn amounts_that_are_none_are_refused() {
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Amount::new(value), None, "{value}");
        }
        assert_eq!(Amount::new(0.5).unwrap().to_string(), "0.5");
    }
}
