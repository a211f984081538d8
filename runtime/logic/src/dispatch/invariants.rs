//! What is always true of a dispatch.

use super::{DEPTH, Dispatch};
use crate::invariant::{Violation, ensure};

/// Checks all of them.
///
/// - DISP-1: a task leaves the table with its one outcome; one in the table waits, is in flight, or waits for its retry.
/// - DISP-2: a task is in flight on at most one lease, and not in the queue meanwhile.
/// - DISP-3: every lease belongs to the shape that asked for it.
/// - DISP-4: no lease has more than [`DEPTH`] tasks in flight.
/// - DISP-5: what a queue counts is what is there.
///
/// # Errors
///
/// The first that is broken.
pub fn check(dispatch: &Dispatch) -> Result<(), Violation> {
    for (_, entry) in &dispatch.tasks {
        let id = entry.id;
        ensure(entry.machine.outcome().is_none(), "DISP-1", || format!("{id} is over and still in the table"))?;
        ensure(entry.at.is_none() || !entry.is_queued, "DISP-2", || format!("{id} waits and is in flight"))?;
    }
    for (id, lease) in &dispatch.leases {
        let is_known = dispatch.shapes[lease.shape].leases.contains(id);
        ensure(is_known, "DISP-3", || format!("{id} is not among its shape's"))?;
        let in_flight = dispatch.tasks.iter().filter(|(_, entry)| entry.at == Some(*id)).count();
        let holds = in_flight == lease.in_flight && in_flight <= DEPTH;
        ensure(holds, "DISP-4", || format!("{id} has {in_flight} tasks and counts {}", lease.in_flight))?;
    }
    for (shape, queue) in dispatch.shapes.iter().enumerate() {
        let of_shape = || dispatch.tasks.iter().filter(|(_, entry)| entry.shape == shape);
        let waits = of_shape().filter(|(_, entry)| entry.is_queued).count();
        let in_flight = of_shape().filter(|(_, entry)| entry.at.is_some()).count();
        let asked = dispatch.requests.values().filter(|of| **of == shape).count();
        ensure((waits, in_flight, asked) == (queue.waits, queue.in_flight, queue.asked), "DISP-5", || {
            format!("shape {shape}: {waits} wait, {in_flight} in flight, {asked} asked; counted {queue:?}")
        })?;
    }
    Ok(())
}
