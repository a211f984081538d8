//! Fair share between jobs: who has least comes first, and who has most gives back.
//!
//! A job's *share* is the part of this node that it uses, of what it uses most of (dominant resource fairness, Ghodsi and
//! others, NSDI 2011). Two rules follow:
//!
//! - What comes free goes to the poorer job: a request of a richer one waits while a poorer waits for the same and has
//!   enough with what is free or being given back.
//! - What a poorer job waits for is *recalled* of the richest, as much as it lacks: at once while the richer keeps as much
//!   as the poorer gets, and else in turn, when the richer has had what it has for [`TURN`]: places change hands where
//!   there are fewer than jobs.
//!
//! A recalled place is given back when what runs there has ended. One that has not come back for [`TURN`] is not counted
//! on any more, and another is recalled. What lives on, as an actor does, counts as used and is never recalled. What is in a
//! placement group is its job's own and counts for nothing here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mobula_types::resources::{Amount, CPUS, GPUS, Request, Resources};
use mobula_types::{JobId, LeaseId, PlacementStrategy, Time};

use super::place::{add_to, amount_in, amount_of, is_isolated, share_a_name, take_from};
use super::{LOOKS_MAX, Lease, Mutant, Output, STARTING_MAX, Scheduler, Shape, Whose};

/// Where there are fewer places than jobs, a job has what another waits for so long before it is to give it up.
pub const TURN: Duration = Duration::from_secs(1);

/// Waiting shapes that are compared, the oldest; those beyond have their turn when these are served.
const COMPARED_MAX: usize = LOOKS_MAX / 2;

/// Requests provided for at once: a bound for the work after one input, not for what is recalled in the end.
const PROVIDED_MAX: usize = 256;

/// What a job uses of this node.
#[derive(Clone, Debug, Default)]
pub(super) struct Holding {
    /// What its leases add up to.
    pub(super) held: Resources,
    /// CPUs of it that wait and that others may use.
    pub(super) waiting: Amount,
    /// The leases that it can be asked for: granted, not asked for yet, and not of what lives on.
    pub(super) recallable: BTreeSet<LeaseId>,
    /// How many leases it has that hold anything.
    leases: usize,
}

/// The turns of a job. Kept while the job lasts: who has nothing now may have had it a moment ago.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turns {
    /// When what it has became so much: when it was given something first after it had nothing, or after something was
    /// recalled of it or for it. What it gives back and is given again meanwhile makes no new turn.
    began_at: Time,
    /// What it is given next begins a turn.
    is_next: bool,
    gained_at: Time,
    lost_at: Time,
}

impl Turns {
    /// Its last turn: who had to give something up has had one, too.
    fn last(self) -> Time {
        self.gained_at.max(self.lost_at)
    }
}

impl Holding {
    fn used(&self) -> Resources {
        let mut used = self.held.clone();
        used.cpus = used.cpus.minus(self.waiting);
        used
    }
}

/// How poor a job is: the least comes first. Of two with as much, the one whose last turn is longer ago.
type Rank = (u64, Time, JobId);

/// What would be if all that is on its way were there.
#[derive(Clone, Debug)]
struct Prospect {
    /// Free, or being given back, and not promised.
    free: Resources,
    used: BTreeMap<JobId, Resources>,
    /// What is to be recalled, and for whom.
    recalled: BTreeMap<LeaseId, JobId>,
    /// Jobs that have been promised something: their turn has not begun.
    promised: BTreeSet<JobId>,
    /// Jobs of which something is to be recalled: their turn is over.
    lost: BTreeSet<JobId>,
}

/// Requests of one shape that wait and have not been provided for.
#[derive(Debug)]
struct Wanting {
    shape: usize,
    job: JobId,
    left: usize,
}

impl Scheduler {
    /// A lease here has begun.
    pub(super) fn count_lease(&mut self, job: JobId, request: &Request) {
        if request.is_nothing() {
            return;
        }
        let holding = self.holdings.entry(job).or_default();
        add_to(&mut holding.held, request);
        holding.leases += 1;
    }

    /// Its holder hears of it: from now on it can be asked for it.
    pub(super) fn count_granted(&mut self, id: LeaseId) {
        let Some(Lease { job, spec, pool: None, lives_on, .. }) = self.leases.get(&id) else { return };
        let Some(holding) = self.holdings.get_mut(job).filter(|_| !spec.request.is_nothing()) else { return };
        let turns = self.turns.entry(*job).or_default();
        turns.gained_at = self.now;
        if std::mem::take(&mut turns.is_next) || holding.leases == 1 {
            turns.began_at = self.now;
        }
        if !lives_on {
            holding.recallable.insert(id);
        }
    }

    /// A lease here has ended.
    pub(super) fn count_release(&mut self, id: LeaseId, job: JobId, request: &Request) {
        self.recalled.remove(&id);
        let Some(holding) = self.holdings.get_mut(&job).filter(|_| !request.is_nothing()) else { return };
        holding.recallable.remove(&id);
        take_from(&mut holding.held, request);
        holding.leases -= 1;
        if holding.leases == 0 {
            self.holdings.remove(&job);
        }
    }

    /// So many CPUs of a job's leases wait, where as many did `before`.
    pub(super) fn count_waiting(&mut self, job: JobId, before: Amount, now: Amount) {
        if let Some(holding) = self.holdings.get_mut(&job) {
            holding.waiting = holding.waiting.plus(now).minus(before);
        }
    }

    /// A poorer job that goes before `shape`: it waits for some of the same, and has enough with what is free or on its
    /// way.
    pub(super) fn poorer_before(&self, now: Time, shape: &Shape) -> Option<JobId> {
        let has_others = self.compared().any(|id| self.shapes[id].job != shape.job);
        let is_apart = shape.spec.within.is_some() || shape.spec.request.is_nothing();
        if !has_others || is_apart || self.planted.is(Mutant::ForgetShare) {
            return None;
        }
        let (free, soon) = (self.ledger.free(), self.free_soon(now));
        let goes_first = |other: &&Shape| {
            let request = &other.spec.request;
            let is_free = fits_in(request, &free);
            other.job != shape.job
                && share_a_name(request, &shape.spec.request)
                && self.is_poorer(other.job, shape.job)
                && self.is_open_here(now, other)
                && if is_free { self.devices.find(request.gpus).is_some() } else { fits_in(request, &soon) }
        };
        self.compared().map(|id| &self.shapes[id]).find(goes_first).map(|other| other.job)
    }

    pub(super) fn is_poorer(&self, one: JobId, other: JobId) -> bool {
        one != other && self.rank(one) < self.rank(other)
    }

    fn rank(&self, job: JobId) -> Rank {
        (self.holdings.get(&job).map_or(0, |holding| self.part(&holding.used())), self.turns(job).last(), job)
    }

    fn turns(&self, job: JobId) -> Turns {
        self.turns.get(&job).copied().unwrap_or_default()
    }

    /// The part of this node that is `used`, of what is used most of.
    fn part(&self, used: &Resources) -> u64 {
        let others = used.others.iter().map(|(name, amount)| (name.as_str(), *amount));
        let amounts = others.chain([(CPUS, used.cpus), (GPUS, used.gpus)]);
        let parts = amounts.map(|(name, amount)| {
            let total = self.ledger.amount(name).0.steps().max(1);
            amount.steps().saturating_mul(WHOLE) / total
        });
        parts.max().unwrap_or(0)
    }

    /// The oldest shapes that wait. What takes its place in a group has it for itself.
    fn compared(&self) -> impl Iterator<Item = usize> {
        let oldest = self.order.iter().take(COMPARED_MAX).map(|(_, id)| *id);
        oldest.filter(|id| self.shapes[*id].spec.within.is_none())
    }

    /// Whether nothing but room keeps a request from a place here.
    pub(super) fn is_open_here(&self, now: Time, shape: &Shape) -> bool {
        let is_for_here = match shape.spec.strategy {
            PlacementStrategy::Node { node } => node == self.node,
            PlacementStrategy::NodeSoft { node } => node == self.node || !self.can_ever(shape, node),
            _ => true,
        };
        // Where another node's request may be that node has seen to.
        (is_for_here || shape.whose == Whose::Others)
            && self.can_ever(shape, self.node)
            && self.start_waits_until(now, shape).is_none()
            && (!is_isolated(&shape.spec) || self.starting < STARTING_MAX)
    }

    /// What is free, and what has been recalled and is counted on.
    fn free_soon(&self, now: Time) -> Resources {
        let mut soon = self.ledger.free();
        for lease in self.coming(now).filter_map(|id| self.leases.get(&id)) {
            add_to(&mut soon, &lease.spec.request);
        }
        soon
    }

    /// Recalled leases that are counted on: those that are late may be held by something that runs for long.
    fn coming(&self, now: Time) -> impl Iterator<Item = LeaseId> {
        self.recalled.iter().filter(move |(_, at)| **at + TURN > now).map(|(id, _)| *id)
    }

    /// Requests that were held back for a poorer job are looked at again when what waits has changed; then what poorer
    /// jobs lack is recalled of the richer (SCHED-10).
    pub(super) fn settle_shares(&mut self, now: Time) {
        while self.is_held_back && std::mem::take(&mut self.has_moved) {
            self.serve_all(now);
        }
        let has_any = self.holdings.values().any(|holding| !holding.recallable.is_empty());
        if self.is_draining || self.order.is_empty() || !has_any || self.planted.is(Mutant::ForgetShare) {
            return;
        }
        // What is on its way for one may be what another lacked the rest of.
        while self.recall_for_poorer(now) {}
    }

    /// Whether anything was recalled.
    fn recall_for_poorer(&mut self, now: Time) -> bool {
        let mut prospect = self.prospect(now);
        let mut wanting: Vec<Wanting> = self
            .compared()
            .map(|id| (id, &self.shapes[id]))
            .filter(|(_, shape)| !shape.queue.is_empty() && self.is_open_here(now, shape))
            .map(|(id, shape)| Wanting { shape: id, job: shape.job, left: shape.queue.len() })
            .collect();
        self.turn_at = None;
        for _ in 0..PROVIDED_MAX {
            let Some(poorest) = self.poorest(&wanting, &prospect) else { break };
            let shape = &self.shapes[wanting[poorest].shape];
            match self.provide(now, shape, &prospect) {
                Ok(provided) => {
                    prospect = provided;
                    wanting[poorest].left -= 1;
                    if wanting[poorest].left == 0 {
                        wanting.remove(poorest);
                    }
                }
                Err(turn_at) => {
                    self.turn_at = self.turn_at.into_iter().chain(turn_at).min();
                    wanting.remove(poorest);
                }
            }
        }
        for (id, job) in &prospect.recalled {
            self.recall(now, *id, *job);
        }
        !prospect.recalled.is_empty()
    }

    /// The poorest job of those that want something, and of its shapes the oldest.
    fn poorest(&self, wanting: &[Wanting], prospect: &Prospect) -> Option<usize> {
        let rank = |at: &usize| {
            let job = wanting[*at].job;
            (prospect.used.get(&job).map_or(0, |used| self.part(used)), self.turns(job).last(), job)
        };
        (0..wanting.len()).min_by_key(rank)
    }

    fn prospect(&self, now: Time) -> Prospect {
        let used = self.holdings.iter().map(|(job, holding)| (*job, holding.used()));
        let (recalled, promised) = (BTreeMap::new(), BTreeSet::new());
        let mut prospect =
            Prospect { free: self.ledger.free(), used: used.collect(), recalled, promised, lost: BTreeSet::new() };
        for lease in self.coming(now).filter_map(|id| self.leases.get(&id)) {
            prospect.give_up(lease);
        }
        prospect
    }

    /// What would be with one more request of `shape` served, and with what has to be recalled for it; else when it may be
    /// had in turn, if time alone can help.
    fn provide(&self, now: Time, shape: &Shape, before: &Prospect) -> Result<Prospect, Option<Time>> {
        let request = &shape.spec.request;
        let mut prospect = before.clone();
        let mine = prospect.used.entry(shape.job).or_default();
        let part = self.part(mine);
        add_to(mine, request);
        let part_then = self.part(mine);
        let mut turn_at: Option<Time> = None;
        while let Some((name, _)) = request.amounts().find(|(name, amount)| *amount > amount_in(&prospect.free, name)) {
            // The richest first, of those the one whose turn began first; one lease that will do alone rather than several.
            let rank = |(job, used): (&JobId, &Resources)| (Reverse(self.part(used)), self.turns(*job).began_at, *job);
            let parts = prospect.used.iter().map(rank);
            let mut richer: Vec<_> = parts.filter(|(other, _, job)| other.0 > part && *job != shape.job).collect();
            richer.sort_unstable();
            let leases = richer
                .iter()
                .filter_map(|(.., job)| self.holdings.get(job))
                .flat_map(|holding| holding.recallable.iter().filter_map(|id| Some((*id, self.leases.get(id)?))));
            let mut first = None;
            let mut alone = None;
            for (id, lease) in leases {
                let is_any =
                    amount_of(&lease.spec.request, name) > Amount::ZERO && !prospect.recalled.contains_key(&id);
                if !is_any {
                    continue;
                }
                let mut left = prospect.used.get(&lease.job).cloned().unwrap_or_default();
                take_from(&mut left, &lease.spec.request);
                let keeps_enough = self.part(&left) >= part_then;
                if !keeps_enough && (prospect.promised.contains(&lease.job) || before.lost.contains(&shape.job)) {
                    continue;
                }
                // Who had to give something up waits for a turn, too: else it would take it back of the next at once.
                let may_have_it_at = self.turns(lease.job).began_at.max(self.turns(shape.job).lost_at) + TURN;
                if !keeps_enough && may_have_it_at > now {
                    turn_at = Some(turn_at.map_or(may_have_it_at, |turn_at| turn_at.min(may_have_it_at)));
                    continue;
                }
                first = first.or(Some((id, lease)));
                let mut free = prospect.free.clone();
                add_to(&mut free, &lease.spec.request);
                if fits_in(request, &free) {
                    alone = Some((id, lease));
                    break;
                }
            }
            let Some((id, lease)) = alone.or(first) else { return Err(turn_at) };
            prospect.give_up(lease);
            prospect.lost.insert(lease.job);
            prospect.recalled.insert(id, shape.job);
        }
        take_from(&mut prospect.free, request);
        prospect.promised.insert(shape.job);
        Ok(prospect)
    }

    fn recall(&mut self, now: Time, id: LeaseId, job: JobId) {
        let Some(lease) = self.leases.get(&id) else { return };
        if let Some(holding) = self.holdings.get_mut(&lease.job) {
            holding.recallable.remove(&id);
        }
        let turns = self.turns.entry(lease.job).or_default();
        (turns.lost_at, turns.is_next) = (now, true);
        self.turns.entry(job).or_default().is_next = true;
        self.recalled.insert(id, now);
        self.alarms.insert(now + TURN);
        self.outputs.push_back(Output::Recall { holder: lease.request.holder, lease: id });
    }

    /// What is wrong with the shares as they were after the last input: SCHED-9 the books, SCHED-10 the poorest.
    pub(super) fn wrong_shares(&self) -> Option<(&'static str, String)> {
        let mut held: BTreeMap<JobId, (Resources, Amount, usize)> = BTreeMap::new();
        let counted = |lease: &&Lease| lease.pool.is_none() && !lease.spec.request.is_nothing();
        for lease in self.leases.values().filter(counted) {
            let of_job = held.entry(lease.job).or_default();
            add_to(&mut of_job.0, &lease.spec.request);
            of_job.2 += 1;
        }
        for worker in self.workers.values().filter(|worker| worker.pool.is_none()) {
            if let Some(of_job) = held.get_mut(&worker.job) {
                of_job.1 = of_job.1.plus(worker.waiting);
            }
        }
        let has_all = |held: &Resources, counted: &Resources| {
            let others = counted.others.iter().filter(|(_, amount)| **amount > Amount::ZERO);
            (held.cpus, held.gpus) == (counted.cpus, counted.gpus) && held.others.iter().eq(others)
        };
        let is_right = self.holdings.len() == held.len()
            && self.holdings.iter().zip(&held).all(|((job, counted), (of, (resources, waiting, leases)))| {
                (job, counted.waiting, counted.leases) == (of, *waiting, *leases) && has_all(resources, &counted.held)
            });
        if !is_right {
            return Some(("SCHED-9", format!("jobs hold {held:?}, counted {:?}", self.holdings)));
        }
        if let Some(id) = self.recalled.keys().find(|id| !self.leases.contains_key(id)) {
            return Some(("SCHED-9", format!("{id} is wanted back and is not held")));
        }
        self.poorest_forgotten().map(|seen| ("SCHED-10", seen))
    }

    /// The poorest job waits for what one lease of a richer one would give, and nothing has been done about it.
    fn poorest_forgotten(&self) -> Option<String> {
        if self.is_draining {
            return None;
        }
        let now = self.now;
        let prospect = self.prospect(now);
        let waits = |id: &usize| !self.shapes[*id].queue.is_empty() && self.is_open_here(now, &self.shapes[*id]);
        let wanting = self.compared().filter(waits);
        let wanting: Vec<_> = wanting.map(|id| Wanting { shape: id, job: self.shapes[id].job, left: 1 }).collect();
        let shape = &self.shapes[wanting[self.poorest(&wanting, &prospect)?].shape];
        let (soon, request) = (&prospect.free, &shape.spec.request);
        if fits_in(request, soon) {
            return None;
        }
        let part = |job, less: Option<&Request>, more: Option<&Request>| {
            let mut used = prospect.used.get(&job).cloned().unwrap_or_default();
            more.into_iter().for_each(|request| add_to(&mut used, request));
            less.into_iter().for_each(|request| take_from(&mut used, request));
            self.part(&used)
        };
        let (mine, then) = (part(shape.job, None, None), part(shape.job, None, Some(request)));
        let mut recallable = self.holdings.iter().flat_map(|(job, holding)| {
            holding.recallable.iter().filter_map(|id| self.leases.get(id).map(|lease| (*job, *id, lease)))
        });
        let would_do = recallable.find(|(job, _, lease)| {
            let mut with = soon.clone();
            add_to(&mut with, &lease.spec.request);
            let is_richer = *job != shape.job && part(*job, None, None) > mine;
            is_richer && part(*job, Some(&lease.spec.request), None) >= then && fits_in(request, &with)
        });
        would_do.map(|(job, id, _)| format!("{} waits, and {job}, which has more, is left {id}", shape.job))
    }
}

impl Prospect {
    fn give_up(&mut self, lease: &Lease) {
        if let Some(used) = self.used.get_mut(&lease.job) {
            take_from(used, &lease.spec.request);
        }
        add_to(&mut self.free, &lease.spec.request);
    }
}

/// In millionths: a difference that is smaller is none.
const WHOLE: u64 = 1_000_000;

fn fits_in(request: &Request, free: &Resources) -> bool {
    request.amounts().all(|(name, amount)| amount <= amount_in(free, name))
}

#[cfg(test)]
mod tests;
