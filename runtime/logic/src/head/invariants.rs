//! What is always true of a head, beside what is of its parts.
//!
//! | number | invariant |
//! |---|---|
//! | HEAD-1 | nothing is said that rests on a record which is not durable |
//! | HEAD-2 | while nothing can be written, no death waits for its record |
//! | HEAD-3 | what waits for a record waits for one that is being written or will be |

use super::Head;
use crate::invariant::{Violation, ensure};
use crate::{directory, membership};

/// Whether everything in the table above holds of `head`, and what must hold of its parts.
///
/// # Errors
/// The first one that does not.
pub fn check(head: &Head) -> Result<(), Violation> {
    check_own(head)?;
    membership::check(&head.membership)
}

/// Checks those that are not of a machine within it: these check themselves.
pub(super) fn check_own(head: &Head) -> Result<(), Violation> {
    let Head { membership, held, read_only, said_early, .. } = head;
    ensure(said_early.is_none(), "HEAD-1", || format!("something was said of {said_early:?}"))?;
    if let Some(cause) = read_only {
        let waits = membership.dying().next();
        ensure(waits.is_none(), "HEAD-2", || format!("the death of {waits:?} waits, while {cause}"))?;
    }
    let orphan =
        held.iter().find(|(key, output)| matches!(output.rests(), directory::Rests::On(_)) && !head.is_unsynced(key));
    ensure(orphan.is_none(), "HEAD-3", || format!("{orphan:?} waits for nothing"))
}
