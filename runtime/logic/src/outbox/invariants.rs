//! What is always true of an outbox.

use super::{CRASHES_MAX, Outbox};
use crate::invariant::{Violation, ensure};

/// Checks all of them.
///
/// - OUT-1: what is not acknowledged is sent again after its receiver's place was lost: nothing counts as sent while the
///   actor cannot be reached.
/// - OUT-2: messages are sent in the order of their numbers: none waits that is older than one that was sent.
/// - OUT-3: a message that ended [`CRASHES_MAX`] processes is not sent again.
/// - OUT-4: a receiver takes each number of a sender once (see [`check_reception`](super::check_reception)).
/// - OUT-5: at most [so many](super::Bounds::messages_max) messages are unacknowledged.
/// - OUT-6: a receiver handles nothing whose sender has one [before](Outbox::before) it that has not come.
/// - OUT-7: what a receiver remembers is bounded.
///
/// # Errors
///
/// The first that is broken.
pub fn check(outbox: &Outbox) -> Result<(), Violation> {
    let sent = outbox.messages.values().filter(|message| message.is_sent).count();
    ensure(outbox.is_up || sent == 0, "OUT-1", || format!("{sent} count as sent to an actor that is not there"))?;
    let first_waiting = outbox.messages.values().position(|message| !message.is_sent);
    let last_sent = outbox.messages.values().rposition(|message| message.is_sent);
    let in_order = first_waiting.zip(last_sent).is_none_or(|(waiting, sent)| sent < waiting);
    ensure(in_order, "OUT-2", || format!("{first_waiting:?} waits behind {last_sent:?}"))?;
    let poison = outbox.messages.iter().find(|(_, message)| message.crashes >= CRASHES_MAX);
    ensure(poison.is_none(), "OUT-3", || format!("{poison:?} is still to be sent"))?;
    let count = outbox.messages.len();
    ensure(count <= outbox.bounds.messages_max, "OUT-5", || format!("{count} messages are unacknowledged"))
}
