//! Whose turn it is: most scenarios have the machine for themselves, those that mostly wait share it.
//!
//! Those that share go first: they all wait at the same time then, and not one after the other between the rest.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// More clusters at once would not answer in time on two cores.
const SHARED_MAX: usize = 4;

static MACHINE: Mutex<Machine> = Mutex::new(Machine { sharing: 0, to_share: 0, is_taken: false });
static CHANGED: Condvar = Condvar::new();

struct Machine {
    /// Who shares it now.
    sharing: usize,
    /// Who waits to share it.
    to_share: usize,
    is_taken: bool,
}

/// A turn, until it is dropped.
pub(crate) struct Turn {
    is_alone: bool,
}

fn machine() -> MutexGuard<'static, Machine> {
    // A scenario that fails drops its turn in its panic.
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait(machine: MutexGuard<'static, Machine>, until: impl Fn(&Machine) -> bool) -> MutexGuard<'static, Machine> {
    CHANGED.wait_while(machine, |machine| !until(machine)).unwrap_or_else(PoisonError::into_inner)
}

impl Turn {
    /// Waits for the machine for one scenario.
    pub(crate) fn alone() -> Self {
        let mut machine = wait(machine(), |it| !it.is_taken && it.sharing == 0 && it.to_share == 0);
        machine.is_taken = true;
        Self { is_alone: true }
    }

    /// Waits for a place beside others that mostly wait.
    pub(crate) fn shared() -> Self {
        let mut machine = machine();
        machine.to_share += 1;
        let mut machine = wait(machine, |it| !it.is_taken && it.sharing < SHARED_MAX);
        machine.to_share -= 1;
        machine.sharing += 1;
        Self { is_alone: false }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut machine = machine();
        if self.is_alone {
            machine.is_taken = false;
        } else {
            machine.sharing -= 1;
        }
        drop(machine);
        CHANGED.notify_all();
    }
}
