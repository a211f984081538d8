//! What holds of a scheduler after every input.
//!
//! | number | invariant |
//! |---|---|
//! | SCHED-1 | what is counted as in use is what the leases hold, less the CPUs that wait; nothing is granted beyond it |
//! | SCHED-2 | a lease is in a worker of its node that lives or is being started, and is granted only when that runs |
//! | SCHED-3 | a lease is in the books until it is returned once: its holder's, its worker's and the node's agree |
//! | SCHED-4 | a request is in one place: in its shape's queue, at a starting worker, or, if its holder is here, with a peer |
//! | SCHED-5 | only the node that a request is with can answer it |
//! | SCHED-6 | a device is never given more than once over; a worker with devices is its lease's own |
//! | SCHED-7 | a job has one shared worker on a node at most, and one in each bundle there |
//! | SCHED-8 | what is asked for in a placement group takes what it needs of a bundle of that group, and nothing else does |
//! | SCHED-9 | what a job is counted for is what its leases hold, less the CPUs that wait; only what is held is recalled |
//! | SCHED-10 | while the poorest job waits, nothing that would do is left to a richer one that can spare it |

use std::collections::BTreeSet;

use mobula_types::resources::{Amount, CPUS, GPUS, Resources};

use super::away::AWAY_MAX;
use super::bundles::Key;
use super::place::{add_to, amount_in, is_isolated};
use super::{Ask, At, Scheduler, State, Whose};
use crate::invariant::{Violation, ensure};

/// Whether everything in the table above holds of `scheduler`.
///
/// # Errors
/// The first one that does not.
pub fn check(scheduler: &Scheduler) -> Result<(), Violation> {
    check_books(scheduler)?;
    check_workers(scheduler)?;
    check_requests(scheduler)?;
    match scheduler.wrong_shares() {
        None => Ok(()),
        Some((invariant, seen)) => ensure(false, invariant, || seen),
    }
}

fn check_books(scheduler: &Scheduler) -> Result<(), Violation> {
    let mut held = Resources::default();
    let of_node = || scheduler.leases.values().filter(|lease| lease.pool.is_none());
    of_node().for_each(|lease| add_to(&mut held, &lease.spec.request));
    let workers = || scheduler.workers.values().filter(|worker| worker.pool.is_none());
    let waiting = workers().fold(Amount::ZERO, |sum, worker| sum.plus(worker.waiting));
    let (total, free) = (scheduler.ledger.total(), scheduler.ledger.free());
    let is_right = |name: &str, held: Amount| {
        let (total, free) = (amount_in(&total, name), amount_in(&free, name));
        // More may be in use than there is only when CPUs were lent.
        total.minus(held) == free
    };
    ensure(held.cpus == scheduler.held_cpus, "SCHED-1", || {
        format!("leases hold {held:?}, counted {}", scheduler.held_cpus)
    })?;
    scheduler.bundles.iter().for_each(|(_, bundle)| add_to(&mut held, &bundle.request));
    let lent = workers().fold(Amount::ZERO, |sum, worker| sum.plus(worker.lent));
    let over = held.cpus.minus(total.cpus);
    ensure(lent == waiting.min(over), "SCHED-1", || format!("{lent} of {waiting} waiting CPUs are lent, {over} are"))?;
    ensure(is_right(CPUS, held.cpus.minus(waiting)), "SCHED-1", || {
        format!("leases hold {held:?}, of which {waiting} CPUs wait; {free:?} of {total:?} is free")
    })?;
    let others = held.others.iter().map(|(name, held)| (name.as_str(), *held));
    for (name, held) in others.chain([(GPUS, held.gpus)]) {
        let has = amount_in(&total, name);
        ensure(is_right(name, held) && held <= has, "SCHED-1", || {
            format!("leases hold {held} {name}; {free:?} of {total:?} is free")
        })?;
    }
    let shares = of_node().flat_map(|lease| &lease.devices);
    let shares = shares.chain(scheduler.bundles.iter().flat_map(|(_, bundle)| &bundle.shares));
    ensure(scheduler.devices.is_left_by(shares), "SCHED-6", || format!("the devices are {:?}", scheduler.devices))?;
    scheduler.bundles.iter().try_for_each(|(key, _)| check_bundle(scheduler, key))
}

/// SCHED-1 and SCHED-6 inside a bundle.
fn check_bundle(scheduler: &Scheduler, key: Key) -> Result<(), Violation> {
    let Some(bundle) = scheduler.bundles.get(key) else { return Ok(()) };
    let leases = || scheduler.leases.values().filter(|lease| lease.pool == Some(key));
    let workers = scheduler.workers.values().filter(|worker| worker.pool == Some(key));
    let waiting = workers.fold(Amount::ZERO, |sum, worker| sum.plus(worker.waiting));
    let mut held = Resources::default();
    leases().for_each(|lease| add_to(&mut held, &lease.spec.request));
    let free = bundle.ledger.free();
    let is_right = bundle.request.amounts().all(|(name, total)| {
        let held = amount_in(&held, name);
        let held = if name == CPUS { held.minus(waiting) } else { held };
        total.minus(held) == amount_in(&free, name)
    });
    ensure(is_right && held.cpus == bundle.held_cpus, "SCHED-1", || {
        format!("leases in {key:?} hold {held:?}, of which {waiting} CPUs wait; {free:?} is free")
    })?;
    let shares = leases().flat_map(|lease| &lease.devices);
    ensure(bundle.devices.is_left_by(shares), "SCHED-6", || format!("the devices of {key:?} are {:?}", bundle.devices))
}

fn check_workers(scheduler: &Scheduler) -> Result<(), Violation> {
    for (id, lease) in &scheduler.leases {
        let worker = scheduler.workers.get(&lease.worker);
        let lives = worker.is_some_and(|worker| !matches!(worker.state, State::Ending(_)));
        ensure(lives, "SCHED-2", || format!("{id} is in a worker that has ended"))?;
        let is_granted = !scheduler.asks.get(&lease.request).is_some_and(|ask| ask.at == At::Here(*id));
        let runs = worker.is_some_and(|worker| matches!(worker.state, State::Running(_)));
        ensure(is_granted == runs, "SCHED-2", || format!("{id} is granted: {is_granted}, its worker runs: {runs}"))?;
        let agrees = worker.is_some_and(|worker| worker.leases.contains(id))
            && scheduler.by_holder.contains(&(lease.request.holder, *id));
        ensure(agrees, "SCHED-3", || format!("{id} is not in the books of its worker and its holder"))?;
        let is_within = match (lease.pool, lease.spec.within) {
            (Some((group, bundle)), Some(within)) => {
                within.group == group && within.bundle.is_none_or(|asked| asked == bundle)
            }
            (pool, within) => pool.is_none() && within.is_none(),
        };
        let is_in_its = is_within && worker.is_some_and(|worker| worker.pool == lease.pool);
        ensure(is_in_its, "SCHED-8", || format!("{id} is in {:?} and asks for {:?}", lease.pool, lease.spec.within))?;
        let is_own = worker.is_some_and(|worker| worker.isolated == is_isolated(&lease.spec));
        ensure(is_own, "SCHED-6", || format!("{id} is in the wrong kind of worker"))?;
    }
    ensure(scheduler.by_holder.len() == scheduler.leases.len(), "SCHED-3", || {
        format!("{} leases are held and {} exist", scheduler.by_holder.len(), scheduler.leases.len())
    })?;
    let of_workers: usize = scheduler.workers.values().map(|worker| worker.leases.len()).sum();
    ensure(of_workers == scheduler.leases.len(), "SCHED-3", || {
        format!("{of_workers} leases are in workers and {} exist", scheduler.leases.len())
    })?;
    for (start, worker) in &scheduler.workers {
        let is_ending = matches!(worker.state, State::Ending(_));
        let is_known = worker.isolated || is_ending || scheduler.shared.get(&(worker.job, worker.pool)) == Some(start);
        ensure(is_known, "SCHED-7", || format!("{} has another shared worker than {start:?}", worker.job))?;
        let leases_max = if worker.isolated { 1 } else { usize::MAX };
        ensure(worker.leases.len() <= leases_max, "SCHED-6", || format!("{start:?} is of one lease and has more"))?;
    }
    Ok(())
}

fn check_requests(scheduler: &Scheduler) -> Result<(), Violation> {
    ensure(scheduler.asks.len() <= scheduler.queue_max, "SCHED-4", || {
        format!("{} requests wait", scheduler.asks.len())
    })?;
    let mut queued = 0;
    for (request, ask) in &scheduler.asks {
        let shape = &scheduler.shapes[ask.shape];
        let is_queued = shape.queue.get(&ask.number) == Some(request);
        queued += usize::from(is_queued);
        ensure(is_queued == (ask.at == At::Queue), "SCHED-4", || format!("{request:?} is {:?} and queued", ask.at))?;
        let is_there = match ask.at {
            At::Queue => true,
            At::Here(lease) => scheduler.leases.get(&lease).is_some_and(|lease| lease.request == *request),
            At::Peer(node) | At::Away(node) => {
                scheduler.peers.get(&node).is_some_and(|peer| peer.asked.contains(request))
            }
        };
        ensure(is_there, "SCHED-4", || format!("{request:?} is {:?}, and that does not know it", ask.at))?;
        let is_own = request.holder.node() == scheduler.node;
        let is_with_its = is_own || ask.at.peer().is_none() && shape.whose == Whose::Others;
        ensure(is_with_its, "SCHED-4", || format!("{request:?} of another node is {:?}", ask.at))?;
    }
    let asked: usize = scheduler.peers.values().map(|peer| peer.asked.len()).sum();
    let with_peers = scheduler.asks.values().filter(|ask| ask.at.peer().is_some()).count();
    ensure(asked == with_peers, "SCHED-5", || format!("{asked} are with other nodes, {with_peers} think so"))?;
    let in_queues: usize = scheduler.shapes.iter().map(|(_, shape)| shape.queue.len()).sum();
    ensure(in_queues == queued, "SCHED-4", || format!("{in_queues} stand in queues, {queued} think so"))?;
    for (_, shape) in &scheduler.shapes {
        for ((node, number), request) in &shape.away {
            let is_away = |ask: &Ask| (ask.at, ask.number) == (At::Away(*node), *number);
            let is_known = scheduler.asks.get(request).is_some_and(is_away);
            ensure(is_known, "SCHED-4", || format!("{request:?} waits on {node} and does not think so"))?;
            let away = shape.away_on(*node);
            ensure(away <= AWAY_MAX, "SCHED-4", || format!("{away} of one shape wait on {node}"))?;
        }
    }
    let away: usize = scheduler.shapes.iter().map(|(_, shape)| shape.away.len()).sum();
    let think_so = scheduler.asks.values().filter(|ask| matches!(ask.at, At::Away(_))).count();
    ensure(away == think_so, "SCHED-4", || format!("{away} wait on other nodes, {think_so} think so"))?;
    let firsts = scheduler.shapes.iter().filter_map(|(id, shape)| Some((shape.first()?.0, id)));
    let firsts: BTreeSet<(u64, usize)> = firsts.collect();
    ensure(firsts == scheduler.order, "SCHED-4", || format!("the order is {:?}", scheduler.order))
}
