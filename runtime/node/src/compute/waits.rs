//! CPUs of functions that wait for objects, told to whoever lends this process its CPUs: others may use them meanwhile.
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

/// Is told how many CPUs wait.
pub(crate) type Tell = Box<dyn Fn(Amount) + Send + Sync>;

/// The waits of one pool.
#[derive(Default)]
pub(super) struct Waits {
    tell: OnceLock<Tell>,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    open: Slab<Wait>,
    told: Amount,
    /// A task looks for waits that have become long.
    is_looking: bool,
}

struct Wait {
    since: Instant,
    cpus: Amount,
    is_told: bool,
}

impl Waits {
    /// Tells `tell` from now on.
    pub(super) fn tell_to(&self, tell: Tell) {
        self.tell.set(tell).ok();
    }

    /// A function that holds `cpus` waits until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>, cpus: Amount) -> Option<Guard> {
        if cpus == Amount::ZERO || self.tell.get().is_none() {
            return None;
        }
        let mut table = self.table.lock();
        let key = table.open.insert(Wait { since: Instant::now(), cpus, is_told: false });
        if !std::mem::replace(&mut table.is_looking, true) {
            let waits = self.clone();
            arbiters::runtime().spawn(async move {
                loop {
                    tokio::time::sleep(WAIT_MIN).await;
                    if !waits.look(Instant::now()) {
                        return;
                    }
                }
            });
        }
        Some(Guard { waits: self.clone(), key })
    }

    /// Tells of waits that have become long; false when there are none left to look after.
    fn look(&self, now: Instant) -> bool {
        let mut table = self.table.lock();
        let (mut told, mut is_any_left) = (table.told, false);
        for (_, wait) in table.open.iter_mut().filter(|(_, wait)| !wait.is_told) {
            if now.duration_since(wait.since) >= WAIT_MIN {
                wait.is_told = true;
                told = told.plus(wait.cpus);
            } else {
                is_any_left = true;
            }
        }
        table.is_looking = is_any_left;
        self.say(&mut table, told);
        is_any_left
    }

    fn end(&self, key: usize) {
        let mut table = self.table.lock();
        let wait = table.open.remove(key);
        if wait.is_told {
            let told = table.told.minus(wait.cpus);
            self.say(&mut table, told);
        }
    }

    /// Said under the lock: the newest counts, so the order must hold.
    fn say(&self, table: &mut Table, told: Amount) {
        if let Some(tell) = self.tell.get()
            && std::mem::replace(&mut table.told, told) != told
        {
            tell(told);
        }
    }
}

/// One wait.
pub(super) struct Guard {
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

    fn heard() -> (Arc<Waits>, Arc<Mutex<Vec<Amount>>>) {
        let (waits, heard) = (Arc::new(Waits::default()), Arc::new(Mutex::new(Vec::new())));
        let ears = heard.clone();
        waits.tell_to(Box::new(move |cpus| ears.lock().push(cpus)));
        (waits, heard)
    }

    #[test]
    fn short_waits_are_not_told() {
        let (waits, heard) = heard();
        // As if somebody looked already: the test does it itself.
        waits.table.lock().is_looking = true;
        let now = Instant::now();
        drop(waits.begin(Amount::ONE));
        let _still = waits.begin(Amount::ONE);
        assert!(waits.look(now), "it is young, and looked at again");
        assert!(waits.begin(Amount::ZERO).is_none(), "who holds nothing gives nothing");
        assert_eq!(*heard.lock(), []);
    }

    #[test]
    fn long_waits_are_told_as_a_sum_and_taken_back_at_once() {
        let (waits, heard) = heard();
        waits.table.lock().is_looking = true;
        let one = waits.begin(Amount::ONE);
        let two = waits.begin(Amount::whole(2));
        let later = Instant::now() + WAIT_MIN;
        assert!(!waits.look(later) && !waits.look(later), "nothing is left to look after");
        drop(one);
        drop(two);
        assert_eq!(*heard.lock(), [Amount::whole(3), Amount::whole(2), Amount::ZERO]);
    }
}
