//! | number | what holds |
//! |---|---|
//! | HAND-1 | an object that a living process names in a message on its way is not freed |
//! | HAND-2 | a message is acknowledged when every owner has counted its receiver or has died, and not before |
//! | HAND-3 | nothing is held for the dead: an object is freed within a second of its last holder |
//! | HAND-4 | a message is let go once, and only by its receiver's word or end |
//! | HAND-5 | what is owed is said in time |

use super::{ACKNOWLEDGED_MAX, HELD_MAX, Handoff};
use crate::invariant::{Violation, ensure};

/// Whether every invariant holds that can be seen from one process's state.
///
/// # Errors
///
/// The first that does not.
pub fn check(handoff: &Handoff) -> Result<(), Violation> {
    let Handoff { sent, asked, arrived, owed, due, .. } = handoff;
    for (message, awaited) in arrived {
        let open = asked.values().filter(|asked| (asked.from, asked.number) == *message).count();
        ensure(open == *awaited && open > 0, "HAND-2", || {
            format!("{message:?} waits for {awaited} owners, of {open}")
        })?;
    }
    for (receipt, asked) in asked {
        let is_known = arrived.contains_key(&(asked.from, asked.number));
        ensure(is_known, "HAND-2", || format!("receipt {receipt} is for a message that nobody waits for: {asked:?}"))?;
    }
    for (to, numbers) in owed {
        let is_batch = !numbers.is_empty() && numbers.len() < ACKNOWLEDGED_MAX;
        ensure(is_batch, "HAND-5", || format!("{} acknowledgements wait for {to}", numbers.len()))?;
    }
    ensure(due.is_some() != owed.is_empty(), "HAND-5", || format!("due {due:?} for {} senders", owed.len()))?;
    ensure(sent.len() <= HELD_MAX, "HAND-4", || format!("{} messages are held", sent.len()))
}
