//! Which GPUs a lease gets: whole ones, or a share of one.
//!
//! Amounts alone would say that two halves make a whole; a device cannot be cut that way.

use mobula_types::resources::Amount;

/// What of each device of this host is free.
#[derive(Clone, Debug)]
pub(super) struct Devices {
    free: Vec<Amount>,
    whole: Vec<Amount>,
}

/// A device, by its number on this host, and how much of it.
pub(super) type Share = (u32, Amount);

impl Devices {
    /// `total` as devices: a last one may be there in part.
    pub(super) fn new(total: Amount) -> Self {
        let count = total.steps().div_ceil(Amount::STEPS).min(DEVICES_MAX);
        let part = |at: u64| Amount::of_steps((total.steps() - at * Amount::STEPS).min(Amount::STEPS));
        let whole: Vec<Amount> = (0..count).map(part).collect();
        Self { free: whole.clone(), whole }
    }

    /// Those of a host that were given to somebody who gives them on.
    pub(super) fn of(shares: &[Share]) -> Self {
        let count = shares.iter().map(|(at, _)| *at as usize + 1).max().unwrap_or(0);
        let mut whole = vec![Amount::ZERO; count];
        for (at, amount) in shares {
            whole[*at as usize] = *amount;
        }
        Self { free: whole.clone(), whole }
    }

    /// The devices for `amount`: whole ones first, and for what is left the fullest that has room; `None` when there are
    /// none.
    pub(super) fn find(&self, amount: Amount) -> Option<Vec<Share>> {
        let wholes = usize::try_from(amount.steps() / Amount::STEPS).ok()?;
        let part = Amount::of_steps(amount.steps() % Amount::STEPS);
        let numbered = || (0u32..).zip(self.free.iter().copied());
        let mut shares: Vec<Share> =
            numbered().filter(|(_, free)| *free >= Amount::ONE).take(wholes).map(|(at, _)| (at, Amount::ONE)).collect();
        if shares.len() < wholes {
            return None;
        }
        if part > Amount::ZERO {
            let is_taken = |at: u32| shares.iter().any(|(taken, _)| *taken == at);
            let room = numbered().filter(|(at, free)| *free >= part && !is_taken(*at)).min_by_key(|(_, free)| *free);
            shares.push((room?.0, part));
        }
        Some(shares)
    }

    pub(super) fn take(&mut self, shares: &[Share]) {
        for (at, amount) in shares {
            self.free[*at as usize] = self.free[*at as usize].minus(*amount);
        }
    }

    pub(super) fn give(&mut self, shares: &[Share]) {
        for (at, amount) in shares {
            self.free[*at as usize] = self.free[*at as usize].plus(*amount);
        }
    }

    /// Whether so much is free of each as is left when `taken` is in use.
    pub(super) fn is_left_by<'a>(&self, taken: impl Iterator<Item = &'a Share>) -> bool {
        let mut left = self.whole.clone();
        for (at, amount) in taken {
            let at = &mut left[*at as usize];
            if *at < *amount {
                return false;
            }
            *at = at.minus(*amount);
        }
        left == self.free
    }
}

/// More devices than any host has: a number from a command line does not decide how much memory is taken.
const DEVICES_MAX: u64 = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn amount(value: f64) -> Amount {
        Amount::new(value).unwrap()
    }

    #[test]
    fn shares_fill_a_device_before_they_open_another() {
        let mut devices = Devices::new(Amount::whole(2));
        let half = devices.find(amount(0.5)).unwrap();
        assert_eq!(half, [(0, amount(0.5))]);
        devices.take(&half);
        assert_eq!(devices.find(amount(0.4)).unwrap(), [(0, amount(0.4))]);
        assert_eq!(devices.find(amount(0.6)).unwrap(), [(1, amount(0.6))]);
        assert_eq!(devices.find(Amount::ONE).unwrap(), [(1, Amount::ONE)]);
        assert_eq!(devices.find(Amount::whole(2)), None, "a half and a whole are not two");
        assert_eq!(devices.find(amount(1.5)).unwrap(), [(1, Amount::ONE), (0, amount(0.5))]);
        devices.give(&half);
        assert_eq!(devices.find(Amount::whole(2)).unwrap(), [(0, Amount::ONE), (1, Amount::ONE)]);
        assert!(devices.is_left_by([].iter()));
    }

    #[test]
    fn a_device_that_is_there_in_part_is_never_given_whole() {
        let devices = Devices::new(amount(1.5));
        assert_eq!(devices.find(Amount::whole(2)), None);
        assert_eq!(devices.find(amount(0.3)).unwrap(), [(1, amount(0.3))]);
        assert_eq!(Devices::new(Amount::ZERO).find(amount(0.1)), None);
    }
}
