//! Who holds how much of what: CPUs, GPUs and resources with a name of their own.
//!
//! Amounts are logical: nothing here keeps a function from using more than it asked for. What is in use may exceed the
//! total for a moment, when a task that gave its CPU back during a wait goes on.

use std::collections::BTreeMap;
use std::fmt;

/// An amount in steps of 0.0001, so that halves and tenths add up exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(u64);

impl Amount {
    const STEPS: u64 = 10_000;

    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// One whole.
    pub const ONE: Self = Self(Self::STEPS);

    /// So many wholes.
    pub const fn whole(count: u64) -> Self {
        Self(count.saturating_mul(Self::STEPS))
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
        let at = match name {
            CPUS => &mut self.cpus,
            GPUS => &mut self.gpus,
            other => match self.others.iter().position(|(name, _)| name == other) {
                Some(at) => &mut self.others[at].1,
                None => {
                    self.others.push((other.to_owned(), Amount::ZERO));
                    &mut self.others.last_mut().expect("one was pushed").1
                }
            },
        };
        at.0 = at.0.saturating_add(amount.0);
    }

    /// Whether it takes nothing at all.
    pub fn is_nothing(&self) -> bool {
        self.cpus == Amount::ZERO && self.gpus == Amount::ZERO && self.others.is_empty()
    }

    fn amounts(&self) -> impl Iterator<Item = (&str, Amount)> {
        let first = [(CPUS, self.cpus), (GPUS, self.gpus)];
        let others = self.others.iter().map(|(name, amount)| (name.as_str(), *amount));
        first.into_iter().chain(others).filter(|(_, amount)| *amount > Amount::ZERO)
    }
}

const CPUS: &str = "num_cpus";
const GPUS: &str = "num_gpus";

/// What a node has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPUs.
    pub cpus: Amount,
    /// GPUs.
    pub gpus: Amount,
    /// Resources with a name of their own.
    pub others: BTreeMap<String, Amount>,
}

/// Whether a request could be granted now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// All of it is free.
    Now,
    /// All but CPUs is free.
    LacksOnlyCpus,
    /// Something else is in use.
    Lacks,
}

/// What a node has and what of it is in use.
#[derive(Clone, Debug)]
pub struct Ledger {
    shelves: BTreeMap<String, Shelf>,
}

#[derive(Clone, Copy, Debug)]
struct Shelf {
    total: Amount,
    in_use: Amount,
}

impl Shelf {
    fn has(self, amount: Amount) -> bool {
        self.in_use.0.saturating_add(amount.0) <= self.total.0
    }
}

impl Ledger {
    /// All of `resources`, free.
    pub fn new(resources: &Resources) -> Self {
        let named = [(CPUS, resources.cpus), (GPUS, resources.gpus)].map(|(name, amount)| (name.to_owned(), amount));
        let others = resources.others.iter().map(|(name, amount)| (name.clone(), *amount));
        let shelves = others.into_iter().chain(named);
        Self { shelves: shelves.map(|(name, total)| (name, Shelf { total, in_use: Amount::ZERO })).collect() }
    }

    /// What of `request` can never be granted, in words; `None` when all of it can.
    pub fn never(&self, request: &Request) -> Option<String> {
        let missing =
            request.amounts().find(|(name, amount)| self.shelves.get(*name).is_none_or(|shelf| *amount > shelf.total));
        missing.map(|(name, amount)| {
            let total = self.shelves.get(name).map_or(Amount::ZERO, |shelf| shelf.total);
            format!("{name} = {amount}, the node has {total}")
        })
    }

    /// Whether `request` could be granted now.
    pub fn fit(&self, request: &Request) -> Fit {
        let lacks = |name: &str, amount| !self.shelves.get(name).is_some_and(|shelf| shelf.has(amount));
        if request.amounts().any(|(name, amount)| name != CPUS && lacks(name, amount)) {
            Fit::Lacks
        } else if request.cpus > Amount::ZERO && lacks(CPUS, request.cpus) {
            Fit::LacksOnlyCpus
        } else {
            Fit::Now
        }
    }

    /// Notes `request` as in use, whether or not it fits.
    pub fn take(&mut self, request: &Request) {
        for (name, amount) in request.amounts() {
            if let Some(shelf) = self.shelves.get_mut(name) {
                shelf.in_use.0 = shelf.in_use.0.saturating_add(amount.0);
            }
        }
    }

    /// Notes `request` as free again.
    pub fn give(&mut self, request: &Request) {
        for (name, amount) in request.amounts() {
            if let Some(shelf) = self.shelves.get_mut(name) {
                debug_assert!(shelf.in_use >= amount, "LED-1: only what was taken is given back");
                shelf.in_use.0 = shelf.in_use.0.saturating_sub(amount.0);
            }
        }
    }

    /// Whole CPUs that nobody uses.
    pub fn whole_cpus_free(&self) -> usize {
        let free = self.shelves.get(CPUS).map_or(0, |cpus| cpus.total.0.saturating_sub(cpus.in_use.0));
        usize::try_from(free / Amount::STEPS).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let others = BTreeMap::from([("tpu".to_owned(), Amount::ONE)]);
        Ledger::new(&Resources { cpus: Amount::whole(2), gpus: Amount::ZERO, others })
    }

    fn cpus(cpus: f64) -> Request {
        Request { cpus: Amount::new(cpus).unwrap(), ..Request::default() }
    }

    #[test]
    fn what_can_never_be_is_named() {
        let gpu = Request { gpus: Amount::ONE, ..Request::ONE_CPU };
        assert_eq!(ledger().never(&gpu).as_deref(), Some("num_gpus = 1, the node has 0"));
        assert_eq!(ledger().never(&cpus(2.5)).as_deref(), Some("num_cpus = 2.5, the node has 2"));
        let fpga = Request { others: vec![("fpga".into(), Amount::new(0.5).unwrap())], ..Request::default() };
        assert_eq!(ledger().never(&fpga).as_deref(), Some("fpga = 0.5, the node has 0"));
        assert_eq!(ledger().never(&cpus(2.0)), None);
    }

    #[test]
    fn tenths_add_up() {
        let mut ledger = ledger();
        for _ in 0..20 {
            assert_eq!(ledger.fit(&cpus(0.1)), Fit::Now);
            ledger.take(&cpus(0.1));
        }
        assert_eq!(ledger.fit(&cpus(0.0001)), Fit::LacksOnlyCpus);
        (0..20).for_each(|_| ledger.give(&cpus(0.1)));
        assert_eq!(ledger.whole_cpus_free(), 2);
    }

    #[test]
    fn other_resources_are_looked_at_before_cpus() {
        let mut ledger = ledger();
        let both = Request { others: vec![("tpu".into(), Amount::ONE)], ..cpus(2.0) };
        ledger.take(&both);
        assert_eq!(ledger.fit(&both), Fit::Lacks);
        assert_eq!(ledger.fit(&cpus(1.0)), Fit::LacksOnlyCpus);
        ledger.give(&both);
        assert_eq!(ledger.fit(&both), Fit::Now);
    }

    #[test]
    fn amounts_that_are_none_are_refused() {
        for value in [-1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(Amount::new(value), None, "{value}");
        }
        assert_eq!(Amount::new(0.5).unwrap().to_string(), "0.5");
    }
}
