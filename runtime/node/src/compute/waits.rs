//! CPUs of functions that wait for objects, told to whoever lends this process its CPUs: others may use them meanwhile.
//!
//! | what waits | its CPUs |
//! |---|---|
//! | a function that runs | are its own, and given back |
//! | a function whose arguments are still to come | are as many of those that were lent to this process as nobody uses |
//!
//! A wait is told when it has lasted [`WAIT_MIN`]: most are shorter, and cost a lock. What is told is a sum, and the newest
//! one counts.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use mobula_actor::arbiters;
use parking_lot::Mutex;
use slab::Slab;

use crate::logic::Amount;

/// A wait that is shorter is nobody's business: to give a CPU to another and to take it back takes as long.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// While functions wait for arguments it is looked so often how many CPUs nobody uses.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Is told how many CPUs wait.
pub(crate) type Tell = Box<dyn Fn(Amount) + Send + Sync>;

/// The waits of one pool.
#[derive(Default)]
pub(super) struct Waits {
    tell: OnceLock<(Tell, Free)>,
    table: Mutex<Table>,
}

/// Says how many CPUs nobody uses, those of functions that wait included.
pub(super) type Free = Box<dyn Fn() -> Amount + Send + Sync>;

#[derive(Default)]
struct Table {
    open: Slab<Wait>,
    told: Amount,
    /// CPUs that nobody used when it was last looked.
    free: Amount,
    /// A task looks for waits that have become long.
    is_looking: bool,
}

struct Wait {
    since: Instant,
    cpus: Amount,
    is_told: bool,
    /// It has not begun.
    is_for_arguments: bool,
}

impl Table {
    /// What is to be told.
    fn sum(&self) -> Amount {
        let sum = |wanted: &dyn Fn(&Wait) -> bool| {
            let waits = self.open.iter().map(|(_, wait)| wait).filter(|wait| wanted(wait));
            waits.fold(Amount::ZERO, |sum, wait| sum.plus(wait.cpus))
        };
        let told = sum(&|wait| wait.is_told && !wait.is_for_arguments);
        // What a function gives back while it waits is free, and counted as its own.
        let given = sum(&|wait| !wait.is_for_arguments);
        told.plus(sum(&|wait| wait.is_told && wait.is_for_arguments).min(self.free.minus(given)))
    }
}

impl Waits {
    /// Tells `tell` from now on.
    pub(super) fn tell_to(&self, tell: Tell, free: Free) {
        self.tell.set((tell, free)).ok();
    }

    /// A function that holds `cpus`, or will when it has its arguments, waits until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>, cpus: Amount, is_for_arguments: bool) -> Option<Guard> {
        if cpus == Amount::ZERO || self.tell.get().is_none() {
            return None;
        }
        let mut table = self.table.lock();
        let key = table.open.insert(Wait { since: Instant::now(), cpus, is_told: false, is_for_arguments });
        if !std::mem::replace(&mut table.is_looking, true) {
            let waits = self.clone();
            arbiters::runtime().spawn(async move {
                let mut next = WAIT_MIN;
                loop {
                    tokio::time::sleep(next).await;
                    match waits.look(Instant::now()) {
                        Some(wait) => next = wait,
                        None => return,
                    }
                }
            });
        }
        Some(Guard { waits: self.clone(), key })
    }

    /// Tells of waits that have become long; when to look again, if there are any left to look after.
    fn look(&self, now: Instant) -> Option<Duration> {
        // Without the table: who asks for it may hold what this takes.
        let free = self.tell.get().map_or(Amount::ZERO, |(_, free)| free());
        let mut table = self.table.lock();
        let mut next = None;
        for (_, wait) in &mut table.open {
            wait.is_told |= now.duration_since(wait.since) >= WAIT_MIN;
            if !wait.is_told {
                next = Some(WAIT_MIN);
            } else if wait.is_for_arguments {
                next = next.or(Some(LOOK_EVERY));
            }
        }
        table.free = free;
        table.is_looking = next.is_some();
        self.say(&mut table);
        next
    }

    fn end(&self, key: usize) {
        let mut table = self.table.lock();
        if table.open.remove(key).is_told {
            self.say(&mut table);
        }
    }

    /// Said under the lock: the newest counts, so the order must hold.
    fn say(&self, table: &mut Table) {
        let told = table.sum();
        if let Some((tell, _)) = self.tell.get()
            && std::mem::replace(&mut table.told, told) != told
        {
            tell(told);
        }
    }
}

/// One wait.
pub(crate) struct Guard {
    waits: Arc<Waits>,
    key: usize,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.waits.end(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits of a pool in which so many CPUs are free, and what is told of them.
    fn heard(free: Amount) -> (Arc<Waits>, Arc<Mutex<Vec<Amount>>>) {
        let (waits, heard) = (Arc::new(Waits::default()), Arc::new(Mutex::new(Vec::new())));
        let ears = heard.clone();
        waits.tell_to(Box::new(move |cpus| ears.lock().push(cpus)), Box::new(move || free));
        // As if somebody looked already: the tests do it themselves.
        waits.table.lock().is_looking = true;
        (waits, heard)
    }

    #[test]
    fn short_waits_are_not_told() {
        let (waits, heard) = heard(Amount::ZERO);
        let now = Instant::now();
        drop(waits.begin(Amount::ONE, false));
        let _still = waits.begin(Amount::ONE, false);
        assert_eq!(waits.look(now), Some(WAIT_MIN), "it is young, and looked at again");
        assert!(waits.begin(Amount::ZERO, false).is_none(), "who holds nothing gives nothing");
        assert_eq!(*heard.lock(), []);
    }

    #[test]
    fn long_waits_are_told_as_a_sum_and_taken_back_at_once() {
        let (waits, heard) = heard(Amount::whole(3));
        let one = waits.begin(Amount::ONE, false);
        let two = waits.begin(Amount::whole(2), false);
        let later = Instant::now() + WAIT_MIN;
        assert_eq!((waits.look(later), waits.look(later)), (None, None), "nothing is left to look after");
        drop(one);
        drop(two);
        assert_eq!(*heard.lock(), [Amount::whole(3), Amount::whole(2), Amount::ZERO]);
    }

    #[test]
    fn what_waits_for_arguments_gives_what_nobody_uses() {
        // Of three CPUs one is in use; one is given back by a function that waits, and one is free.
        let (waits, heard) = heard(Amount::whole(2));
        let given = waits.begin(Amount::ONE, false);
        let many: Vec<_> = (0..9).map(|_| waits.begin(Amount::ONE, true)).collect();
        let later = Instant::now() + WAIT_MIN;
        assert_eq!(waits.look(later), Some(LOOK_EVERY), "what is free changes");
        assert_eq!(*heard.lock(), [Amount::whole(2)]);
        drop(many);
        drop(given);
        assert_eq!(heard.lock()[1..], [Amount::ONE, Amount::ZERO]);
    }
}
