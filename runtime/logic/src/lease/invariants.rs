//! What is always true of a node's lease.
//!
//! | number | invariant |
//! |---|---|
//! | LEASE-1 | named actors may act only until 1 s before 10 s have passed since the last renewal |
//! | LEASE-2 | a renewal counts from when it was sent |
//! | LEASE-3 | under one head, a new term stops the named actors of the one before |
//! | LEASE-4 | 30 s after the last renewal, or what the node was told, it is fenced |
//! | LEASE-5 | no head is heard that another one has replaced |
//! | LEASE-6 | beats whose answers may come are bounded |

use super::{LEASE, Lease, SENT_MAX, STOP_BEFORE, State};
use crate::invariant::{Violation, ensure};

/// Whether everything in the table above holds of `lease`, but LEASE-3, which is of what it has said.
///
/// # Errors
/// The first one that does not.
pub fn check(lease: &Lease) -> Result<(), Violation> {
    let Lease { state, heads, sent, renewal, looked, fence_after, .. } = lease;
    if let Some(renewal) = renewal {
        let age = looked.since(renewal.sent);
        let may_act = *state != State::Held || age < LEASE - STOP_BEFORE;
        ensure(may_act, "LEASE-1", || format!("names are held {age:?} after the renewal"))?;
        let counts = renewal.beat.is_none_or(|beat| sent.get(&beat).is_none_or(|sent| *sent == renewal.sent));
        ensure(counts, "LEASE-2", || format!("{renewal:?}, sent at {:?}", renewal.beat.and_then(|b| sent.get(&b))))?;
        ensure(age < *fence_after, "LEASE-4", || format!("not fenced {age:?} after the renewal"))?;
    }
    ensure(renewal.is_some() || *state == State::Fenced, "LEASE-1", || format!("{state:?} without a renewal"))?;
    let (known, newest) = (heads.known(), heads.newest);
    let is_newest = known.map(|head| head.epoch) == newest.map(|head| head.epoch);
    ensure(is_newest, "LEASE-5", || format!("{known:?} is heard after {newest:?}"))?;
    ensure(sent.len() <= SENT_MAX, "LEASE-6", || format!("{} beats are awaited", sent.len()))
}
