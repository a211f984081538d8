//! | number | what holds |
//! |---|---|
//! | PRESS-1 | nothing is written or let go of that is being read when that begins: idle copies have no reader |
//! | PRESS-2 | what is written and read at once is bounded, and counted right |
//! | PRESS-3 | every copy in memory is in its segment's list, and nothing else is |
//! | PRESS-4 | what waits for room is in its file, and stands in the queue once |
//! | PRESS-5 | a copy that is not in memory is in a file |
//! | PRESS-6 | at most one copy is read beyond the budget, and only while the disk is full (seen by the simulator) |
//! | PRESS-7 | who wants what is in a file has it in time or hears that there is no room; nobody waits longer for having been tried (seen by the simulator) |
//! | PRESS-8 | a full disk is tried with one copy, and not again before its time (seen by the simulator) |

use super::{Place, Pressure, RESTORING_MAX, SPILLING_MAX};
use crate::invariant::{Violation, ensure};

/// Whether every invariant holds that can be seen from the state.
///
/// # Errors
///
/// The first that does not.
pub fn check(machine: &Pressure) -> Result<(), Violation> {
    let (mut spilling, mut bytes) = (0, 0);
    for (object, copy) in &machine.copies {
        let is_idle = machine.idle.contains(&(copy.cost(), copy.touched, *object));
        let is_read = machine.read.contains(&(copy.touched, *object));
        let is_here = matches!(copy.place, Place::Here { .. });
        let is_right = (is_idle == (is_here && copy.readers == 0)) && (is_read == (is_here && copy.readers > 0));
        ensure(is_right, "PRESS-1", || format!("{object} has {} readers and is {:?}", copy.readers, copy.place))?;
        if let Place::Spilling { .. } = copy.place {
            (spilling, bytes) = (spilling + 1, bytes + copy.bytes);
        }
        let is_reading = matches!(copy.place, Place::Restoring { .. });
        ensure(is_reading == machine.restoring.contains(object), "PRESS-2", || format!("{object}: {:?}", copy.place))?;
        if let Some(segment) = copy.segment() {
            let is_listed = machine.segments.get(&segment).is_some_and(|it| it.copies.contains(object));
            ensure(is_listed, "PRESS-3", || format!("{object} is not known to be in segment {segment}"))?;
        }
        let queued = machine.waiting.iter().filter(|waiting| *waiting == object).take(2).count();
        let is_waiting = matches!(copy.place, Place::Waiting { .. });
        ensure(queued == usize::from(is_waiting), "PRESS-4", || format!("{object} is queued {queued} times"))?;
        ensure(copy.segment().is_some() || copy.has_file, "PRESS-5", || format!("{object} is nowhere"))?;
    }
    let counted = spilling == machine.spilling && bytes == machine.spilling_bytes;
    let bounded = spilling <= SPILLING_MAX && machine.restoring.len() <= RESTORING_MAX;
    ensure(counted && bounded, "PRESS-2", || format!("{spilling} copies of {bytes} bytes are written"))?;
    let listed: usize = machine.segments.values().map(|segment| segment.copies.len()).sum();
    let here = machine.copies.values().filter(|copy| copy.segment().is_some()).count();
    ensure(listed == here, "PRESS-3", || format!("{listed} copies are listed, {here} are there"))
}
