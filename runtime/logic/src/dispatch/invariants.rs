//! What is always true of a dispatch.

use std::collections::{BTreeMap, BTreeSet};

use mobula_types::StateMachine;

use super::{Dispatch, Key, Lease, OVERTAKING_MAX, Place};
use crate::invariant::{Violation, ensure};

/// Checks all of them.
///
/// - DISP-1: a task leaves the table with its one outcome; one in the table waits, is in flight, or waits for its retry.
/// - DISP-2: a task is in flight on at most one lease, and not in the queue meanwhile.
/// - DISP-3: every lease belongs to the shape that asked for it.
/// - DISP-4: no lease has more tasks in flight than its shape allows: [`DEPTH`](super::DEPTH), or one. Where they are not equally
///   urgent it may have [`OVERTAKING_MAX`] more of the former.
/// - DISP-5: what a queue counts is what is there.
/// - DISP-6: a lease with nothing to do is known as such, to be given back in time.
/// - DISP-7: a lease that is wanted back gets nothing more, and is kept only for what is in flight on it.
/// - DISP-8: a task that was to blame for the death of its process runs next in a place of its own.
/// - DISP-9: while a place has less to do than it could and something waits at another, it is known when that is asked back.
/// - DISP-10: a lease takes no more tasks than its process is good for, and is kept then only for what is in flight on it.
/// - DISP-11: a shape that was refused for now asks again in time.
///
/// # Errors
///
/// The first that is broken.
pub fn check(dispatch: &Dispatch) -> Result<(), Violation> {
    let mut counts: BTreeMap<usize, Count> = BTreeMap::new();
    for (key, entry) in &dispatch.tasks {
        let id = entry.id;
        let count = counts.entry(entry.shape).or_default();
        let is_in_line = entry.is_queued && dispatch.shapes[entry.shape].waiting.get(&entry.turn()) == Some(&key);
        count.waiting += usize::from(is_in_line);
        count.in_flight += usize::from(entry.at.is_some());
        ensure(entry.machine.outcome().is_none(), "DISP-1", || format!("{id} is over and still in the table"))?;
        ensure(entry.at.is_none() || !entry.is_queued, "DISP-2", || format!("{id} waits and is in flight"))?;
        let waits = entry.is_queued || entry.machine.next_timeout().is_some();
        ensure(entry.at.is_some() || waits, "DISP-1", || format!("{id} is nowhere"))?;
    }
    for (at, lease) in &dispatch.leases {
        let (id, count) = (lease.id, lease.in_flight.len());
        let is_known = dispatch.shapes[lease.shape]
            .places
            .get(&lease.process)
            .is_some_and(|place| place.leases.contains(&(count, at)));
        let has_left = lease.is_recalled || lease.is_spent;
        ensure(is_known || has_left, "DISP-3", || format!("{id} is not among its shape's"))?;
        let is_left_alone = !lease.is_recalled || !is_known && count > 0;
        ensure(is_left_alone, "DISP-7", || format!("{id} is wanted back, and takes tasks: {lease:?}"))?;
        let calls_max = dispatch.shapes[lease.shape].calls_max.unwrap_or(u32::MAX);
        let is_in_time = lease.calls <= calls_max && lease.is_spent == (lease.calls == calls_max);
        ensure(is_in_time && (!lease.is_spent || !is_known && count > 0), "DISP-10", || {
            format!("{id} takes {calls_max} tasks: {lease:?}")
        })?;
        let is_right = |(place, key): (usize, &usize)| {
            dispatch.tasks.get(*key).is_some_and(|entry| entry.at == Some((at, place)) && entry.shape == lease.shape)
        };
        ensure(lease.in_flight.iter().enumerate().all(is_right), "DISP-2", || format!("{id} holds {lease:?}"))?;
        ensure(count <= depth_max(dispatch, lease), "DISP-4", || format!("{id} has {count} tasks"))?;
        let is_idle = dispatch.idle.contains(&(lease.idle_since, at));
        ensure(is_idle == (count == 0 && !lease.is_recalled), "DISP-6", || {
            format!("{id} has {count} tasks, idle: {is_idle}")
        })?;
        counts.entry(lease.shape).or_default().on_spent += if lease.is_spent { count } else { 0 };
    }
    for (request, shape) in &dispatch.requests {
        counts.entry(*shape).or_default().asked.push(request);
    }
    let holds = dispatch.by_process.len() == dispatch.leases.len();
    ensure(holds, "DISP-3", || format!("{:?} are where", dispatch.by_process))?;
    for (shape, queue) in dispatch.shapes.iter().enumerate() {
        let Count { waiting: waits, in_flight, asked, on_spent } = counts.remove(&shape).unwrap_or_default();
        ensure(
            (waits, in_flight) == (queue.waiting.len(), queue.in_flight) && asked.into_iter().eq(&queue.asked),
            "DISP-5",
            || format!("shape {shape}: {waits} wait, {in_flight} in flight; counted {queue:?}"),
        )?;
        let is_planned = queue.steals_at.is_some_and(|at| dispatch.steals.contains(&(at, shape)));
        ensure(queue.is_lopsided() == is_planned, "DISP-9", || {
            format!("shape {shape}: {:?}, planned {:?}", queue.by_load, queue.steals_at)
        })?;
        let loads: BTreeSet<_> = queue.places.iter().map(|(process, place)| (place.load(), *process)).collect();
        let on_leases = |place: &Place| place.leases.iter().map(|(count, _)| count).sum::<usize>();
        let adds_up = queue.places.values().all(|place| place.in_flight == on_leases(place));
        ensure(loads == queue.by_load && adds_up, "DISP-5", || format!("shape {shape}: {:?}", queue.places))?;
        let leases: usize = queue.places.values().map(|place| place.leases.len()).sum();
        ensure(leases == queue.leases, "DISP-5", || format!("shape {shape}: {leases} leases, not {}", queue.leases))?;
        ensure(on_spent == queue.on_spent, "DISP-5", || {
            format!("shape {shape}: {on_spent} on spent leases, counted {queue:?}")
        })?;
        let asks_again = queue.asks_at.is_some_and(|at| dispatch.refused.contains(&(at, shape)));
        ensure(asks_again == queue.asks_at.is_some(), "DISP-11", || {
            format!("shape {shape} was refused, and asks at {:?}", queue.asks_at)
        })?;
        let has_place = waits == 0 || !queue.asked.is_empty() || queue.leases > 0 || asks_again;
        ensure(has_place, "DISP-1", || format!("shape {shape}: {waits} wait, and no place is asked for"))?;
    }
    Ok(())
}

/// What is there of a shape.
#[derive(Default)]
struct Count<'a> {
    waiting: usize,
    in_flight: usize,
    asked: Vec<&'a u64>,
    /// Tasks on leases that take no more.
    on_spent: usize,
}

fn depth_max(dispatch: &Dispatch, lease: &Lease) -> usize {
    let queue = &dispatch.shapes[lease.shape];
    let overtook = |key: &Key| dispatch.tasks.get(*key).is_some_and(|entry| entry.priority > queue.priority_min);
    let may_overtake = queue.depth > 1 && lease.in_flight.iter().any(overtook);
    queue.depth + if may_overtake { OVERTAKING_MAX } else { 0 }
}
