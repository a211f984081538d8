//! Who holds how much of what: CPUs, GPUs and resources with a name of their own.
//!
//! Amounts are logical: nothing here keeps a function from using more than it asked for. What is in use may exceed the
//! total for a moment, when a task that gave its CPU back during a wait goes on.

use std::collections::BTreeMap;

use mobula_types::resources::{Amount, CPUS, GPUS, Request, Resources};

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
        self.in_use.plus(amount) <= self.total
    }

    fn free(self) -> Amount {
        self.total.minus(self.in_use)
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

    /// There is so much from now on; what is in use stays in use.
    pub fn resize(&mut self, resources: &Resources) {
        let sized = Self::new(resources);
        for (name, shelf) in &mut self.shelves {
            shelf.total = sized.shelves.get(name).map_or(Amount::ZERO, |sized| sized.total);
        }
        for (name, shelf) in sized.shelves {
            self.shelves.entry(name).or_insert(shelf);
        }
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
                shelf.in_use = shelf.in_use.plus(amount);
            }
        }
    }

    /// Notes `request` as free again.
    pub fn give(&mut self, request: &Request) {
        for (name, amount) in request.amounts() {
            if let Some(shelf) = self.shelves.get_mut(name) {
                debug_assert!(shelf.in_use >= amount, "LED-1: only what was taken is given back");
                shelf.in_use = shelf.in_use.minus(amount);
            }
        }
    }

    /// The first of what `request` asks for that is not free: its name, what is free of it, and what there is.
    pub fn lacking<'a>(&self, request: &'a Request) -> Option<(&'a str, Amount, Amount)> {
        request.amounts().find_map(|(name, amount)| match self.shelves.get(name) {
            Some(shelf) if shelf.has(amount) => None,
            Some(shelf) => Some((name, shelf.free(), shelf.total)),
            None => Some((name, Amount::ZERO, Amount::ZERO)),
        })
    }

    /// What there is of `name`, and what of it is free.
    pub fn amount(&self, name: &str) -> (Amount, Amount) {
        self.shelves.get(name).map_or((Amount::ZERO, Amount::ZERO), |shelf| (shelf.total, shelf.free()))
    }

    /// All there is.
    pub fn total(&self) -> Resources {
        self.resources(|shelf| shelf.total)
    }

    /// What of it nobody uses.
    pub fn free(&self) -> Resources {
        self.resources(|shelf| shelf.free())
    }

    fn resources(&self, amount: impl Fn(&Shelf) -> Amount) -> Resources {
        let mut resources = Resources::default();
        for (name, shelf) in &self.shelves {
            match name.as_str() {
                CPUS => resources.cpus = amount(shelf),
                GPUS => resources.gpus = amount(shelf),
                _ => drop(resources.others.insert(name.clone(), amount(shelf))),
            }
        }
        resources
    }

    /// Whole CPUs that nobody uses.
    pub fn whole_cpus_free(&self) -> usize {
        let free = self.shelves.get(CPUS).map_or(0, |cpus| cpus.total.minus(cpus.in_use).steps());
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
}
