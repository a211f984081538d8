//! Bundles of placement groups: amounts that this node keeps apart for what is said to run in them.
//!
//! ```text
//!              enough is free                committed
//!  (nothing) ────────────────► prepared ─────────────────► kept ──returned──► (nothing)
//!                                  │                                              ▲
//!                                  └──── aborted, or PREPARED_MAX has passed ─────┘
//! ```
//!
//! What a bundle has was taken from what the node has, so nobody else gets it; what is asked for [`Within`] a group is
//! granted out of its bundles only. A bundle has a shared worker of its own, so its end ends nothing else, and CPUs that
//! wait in it are lent inside it.
//!
//! Where bundles go is decided by the head ([`crate::groups`]); what a node has committed is the truth.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mobula_types::resources::{Amount, CPUS, Request, Resources};
use mobula_types::{BundleLoad, GroupId, GroupSpec, JobId, LeaseId, NodeId, Time, Within};
use mobula_wire::groups::GroupOrder;

use super::devices::{Devices, Share};
use super::place::{Lack, add_to, amount_in, take_from};
use super::{At, Output, Peer, Refusal, RequestKey, Scheduler, Shape, StartId};
use crate::groups::PREPARED_MAX;
use crate::ledger::Ledger;
use crate::mutant::Mutant;

/// Bundles that one node keeps: what it tells of them with every change fits into a few frames' bytes. More are not
/// prepared, and the head asks another node.
pub const BUNDLES_OF_NODE_MAX: usize = 256;

/// Groups that are over whose names are kept: a request in one of them may still be on its way.
const ENDED_MAX: usize = 4096;

/// Names a bundle.
pub(super) type Key = (GroupId, u32);

/// Where something takes what it needs: of the node itself, or of a bundle.
pub(super) type Pool = Option<Key>;

#[derive(Debug, Default)]
pub(super) struct Bundles {
    all: BTreeMap<Key, Bundle>,
    /// Groups that are over, in no order of time: which name goes first does not matter much.
    ended: BTreeSet<GroupId>,
}

#[derive(Debug)]
pub(super) struct Bundle {
    job: JobId,
    spec: Arc<GroupSpec>,
    round: u64,
    /// Until when it is to be committed; none when it is.
    until: Option<Time>,
    /// What was taken of the node for it.
    pub(super) request: Request,
    pub(super) shares: Vec<Share>,
    pub(super) ledger: Ledger,
    pub(super) devices: Devices,
    /// CPUs that its leases add up to.
    pub(super) held_cpus: Amount,
}

/// What a node has of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which group.
    pub group: GroupId,
    /// Its job.
    pub job: JobId,
    /// What it asks for.
    pub spec: Arc<GroupSpec>,
    /// Which of its bundles are kept here.
    pub bundles: Vec<u32>,
}

impl Bundles {
    pub(super) fn get(&self, key: Key) -> Option<&Bundle> {
        self.all.get(&key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Bundle> {
        self.all.get_mut(&key)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Bundle)> {
        self.all.iter().map(|(key, bundle)| (*key, bundle))
    }

    fn of(&self, group: GroupId) -> impl Iterator<Item = (Key, &Bundle)> {
        self.all.range((group, 0)..=(group, u32::MAX)).map(|(key, bundle)| (*key, bundle))
    }

    /// Those in which a place is asked for and may be given.
    fn within(&self, within: Within) -> impl Iterator<Item = (Key, &Bundle)> {
        let is_asked = move |bundle: u32| within.bundle.is_none_or(|asked| asked == bundle);
        self.of(within.group).filter(move |((_, at), bundle)| bundle.until.is_none() && is_asked(*at))
    }

    pub(super) fn has_ended(&self, group: GroupId) -> bool {
        self.ended.contains(&group)
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        self.all.values().filter_map(|bundle| bundle.until).min()
    }
}

impl Scheduler {
    /// The bundles that are kept here, one entry a group: told to a head that may not know them.
    pub fn bundles_held(&self) -> Vec<Held> {
        let mut held: Vec<Held> = Vec::new();
        for ((group, at), bundle) in self.bundles.iter().filter(|(_, bundle)| bundle.until.is_none()) {
            match held.last_mut().filter(|held| held.group == group) {
                Some(held) => held.bundles.push(at),
                None => {
                    held.push(Held { group, job: bundle.job, spec: bundle.spec.clone(), bundles: vec![at] });
                }
            }
        }
        held
    }

    /// Groups that are over, as far as this node remembers.
    pub fn groups_ended(&self) -> impl Iterator<Item = GroupId> {
        self.bundles.ended.iter().copied()
    }

    pub(super) fn bundle_loads(&self) -> Vec<BundleLoad> {
        let kept = self.bundles.iter().filter(|(_, bundle)| bundle.until.is_none());
        kept.map(|((group, bundle), kept)| BundleLoad { group, bundle, free: kept.ledger.free() }).collect()
    }

    pub(super) fn handle_bundles(&mut self, now: Time, order: GroupOrder) {
        match order {
            GroupOrder::Prepare { group, round, job, spec, bundles } => {
                self.prepare(now, (group, round, job), &Arc::new(spec), &bundles);
            }
            GroupOrder::Commit { group, round } => {
                let mut is_there = false;
                for bundle in self.bundles.all.range_mut((group, 0)..=(group, u32::MAX)).map(|(_, bundle)| bundle) {
                    if bundle.round == round {
                        (bundle.until, is_there) = (None, true);
                    }
                }
                if !is_there {
                    self.outputs.push_back(Output::NotPrepared { group, round });
                }
            }
            GroupOrder::Abort { group, round } => {
                let is_over = |bundle: &Bundle| bundle.round == round && bundle.until.is_some();
                let over = self.bundles.of(group).filter(|(_, bundle)| is_over(bundle));
                for key in over.map(|(key, _)| key).collect::<Vec<_>>() {
                    self.give_back(key);
                }
            }
            GroupOrder::Return { group, bundles } => bundles.into_iter().for_each(|at| self.return_bundle((group, at))),
            GroupOrder::End { group } | GroupOrder::Ended { group, .. } => self.end_group(group),
            // Of interest to its maker.
            _ => return,
        }
        self.serve_all(now);
    }

    /// All or nothing.
    fn prepare(
        &mut self,
        now: Time,
        (group, round, job): (GroupId, u64, JobId),
        spec: &Arc<GroupSpec>,
        bundles: &[u32],
    ) {
        // Of a round before this one, whose end was not heard here.
        let stale = self.bundles.of(group).filter(|((_, at), bundle)| bundle.until.is_some() && bundles.contains(at));
        for key in stale.map(|(key, _)| key).collect::<Vec<_>>() {
            self.give_back(key);
        }
        let mut taken = Vec::new();
        for at in bundles {
            let key = (group, *at);
            if self.take_bundle(now, key, (round, job), spec) {
                taken.push(key);
                continue;
            }
            taken.into_iter().for_each(|key| self.give_back(key));
            return self.outputs.push_back(Output::NotPrepared { group, round });
        }
        self.outputs.push_back(Output::Prepared { group, round });
    }

    fn take_bundle(&mut self, now: Time, key: Key, (round, job): (u64, JobId), spec: &Arc<GroupSpec>) -> bool {
        let is_over = self.ended.contains(&job) || self.bundles.has_ended(key.0);
        let Some(wanted) = spec.bundles.get(key.1 as usize).filter(|_| !self.is_draining && !is_over) else {
            return false;
        };
        let request = wanted.request.clone();
        // CPUs that are lent are in use again soon: what is kept apart must be there.
        let has_lent = self.ledger.total().cpus < self.held_cpus.plus(self.reserved(CPUS)).plus(request.cpus);
        // GRP-7: and there must be enough of it.
        let lacks = self.ledger.lacking(&request).is_some() || request.cpus > Amount::ZERO && has_lent;
        if self.bundles.all.contains_key(&key)
            || self.bundles.all.len() >= BUNDLES_OF_NODE_MAX
            || wanted.labels.broken_by(&self.labels).is_some()
            || lacks && !self.planted.is(Mutant::KeepBeyond)
        {
            return false;
        }
        let Some(shares) = self.devices.find(request.gpus) else { return false };
        self.ledger.take(&request);
        self.devices.take(&shares);
        let mut total = Resources::default();
        add_to(&mut total, &request);
        let (ledger, devices) = (Ledger::new(&total), Devices::of(&shares));
        let (spec, until, held_cpus) = (spec.clone(), Some(now + PREPARED_MAX), Amount::ZERO);
        self.bundles.all.insert(key, Bundle { job, spec, round, until, request, shares, ledger, devices, held_cpus });
        true
    }

    /// What of `name` is kept apart.
    pub(super) fn reserved(&self, name: &str) -> Amount {
        let of_bundle = |bundle: &Bundle| super::place::amount_of(&bundle.request, name);
        self.bundles.all.values().fold(Amount::ZERO, |sum, bundle| sum.plus(of_bundle(bundle)))
    }

    fn give_back(&mut self, key: Key) {
        let Some(bundle) = self.bundles.all.remove(&key) else { return };
        self.ledger.give(&bundle.request);
        self.devices.give(&bundle.shares);
    }

    fn return_bundle(&mut self, key: Key) {
        if self.bundles.get(key).is_none() {
            return;
        }
        let (group, is_over) = (key.0, self.bundles.has_ended(key.0));
        let in_it = self.workers.iter().filter(|(_, worker)| worker.pool == Some(key)).map(|(start, _)| *start);
        for start in in_it.collect::<Vec<StartId>>() {
            let Some(worker) = self.workers.get(&start) else { continue };
            let leases = worker.leases.clone();
            if let Some(process) = self.stop_worker(start) {
                self.outputs.push_back(Output::EndInGroup { process, group, is_over });
            }
            for lease in leases {
                let request = self.leases.get(&lease).map(|lease| lease.request);
                self.release(lease);
                self.unplace(request, lease);
            }
        }
        self.shared.retain(|(_, pool), _| *pool != Some(key));
        self.give_back(key);
    }

    /// A request whose lease is gone before it was granted waits again, or is refused to the node that waits.
    fn unplace(&mut self, request: Option<RequestKey>, lease: LeaseId) {
        let is_at = |ask: &super::Ask| ask.at == At::Here(lease);
        let Some(request) = request.filter(|request| self.asks.get(request).is_some_and(is_at)) else { return };
        if request.holder.node() == self.node {
            return self.enqueue(request);
        }
        if let Some(ask) = self.asks.get_mut(&request) {
            ask.at = At::Queue;
        }
        self.forget(request);
        let missing = "the bundle is kept on another node".to_owned();
        self.refuse(request, Refusal::NoRoom { node: self.node, missing });
    }

    fn end_group(&mut self, group: GroupId) {
        if self.bundles.ended.len() >= ENDED_MAX {
            self.bundles.ended.pop_first();
        }
        self.bundles.ended.insert(group);
        // GRP-8: nothing of it stays.
        let of_group = self.bundles.of(group).filter(|_| !self.planted.is(Mutant::KeepOver));
        for key in of_group.map(|(key, _)| key).collect::<Vec<_>>() {
            self.return_bundle(key);
        }
        let is_in_it = |shape: &Shape| shape.spec.within.is_some_and(|within| within.group == group);
        let asks = self.asks.iter().filter(|(_, ask)| is_in_it(&self.shapes[ask.shape]));
        for request in asks.map(|(request, _)| *request).collect::<Vec<_>>() {
            if let Some(node) = self.forget(request).and_then(|ask| ask.at.peer()) {
                self.outputs.push_back(Output::TakeBackFromPeer { node, request });
            }
            self.refuse(request, Refusal::GroupEnded { group });
        }
    }

    /// A job takes its groups along.
    pub(super) fn end_groups_of(&mut self, job: JobId) {
        let of_job = self.bundles.iter().filter(|(_, bundle)| bundle.job == job).map(|((group, _), _)| group);
        of_job.collect::<BTreeSet<_>>().into_iter().for_each(|group| self.end_group(group));
    }

    /// What nobody has committed in time: the head that asked for it may be dead.
    pub(super) fn drop_prepared(&mut self, now: Time) {
        let is_late = |bundle: &Bundle| bundle.until.is_some_and(|until| until <= now);
        let late = self.bundles.iter().filter(|(_, bundle)| is_late(bundle)).map(|(key, _)| key);
        let late: Vec<Key> = late.collect();
        if !late.is_empty() {
            late.into_iter().for_each(|key| self.give_back(key));
            self.serve_all(now);
        }
    }

    /// The bundle in which there is room now, and the devices in it.
    pub(super) fn fits_bundle(&self, within: Within, request: &Request) -> Result<(Key, Vec<Share>), Lack> {
        let mut lack = Lack::NoBundle { within };
        for (key, bundle) in self.bundles.within(within) {
            if let Some((name, free, total)) = bundle.ledger.lacking(request) {
                let amount = super::place::amount_of(request, name);
                lack = Lack::InBundle { key, name: name.to_owned(), amount, free, total };
            } else if let Some(devices) = bundle.devices.find(request.gpus) {
                return Ok((key, devices));
            } else {
                lack = Lack::Devices { amount: request.gpus };
            }
        }
        Err(lack)
    }

    /// Takes what a lease needs of the pool that it is in.
    pub(super) fn take_of(&mut self, pool: Pool, request: &Request) {
        match pool {
            None => {
                self.ledger.take(request);
                self.held_cpus = self.held_cpus.plus(request.cpus);
            }
            Some(key) => {
                let Some(bundle) = self.bundles.get_mut(key) else { return };
                bundle.ledger.take(request);
                bundle.held_cpus = bundle.held_cpus.plus(request.cpus);
            }
        }
    }

    pub(super) fn give_to(&mut self, pool: Pool, request: &Request) {
        match pool {
            None => {
                self.ledger.give(request);
                self.held_cpus = self.held_cpus.minus(request.cpus);
            }
            Some(key) => {
                let Some(bundle) = self.bundles.get_mut(key) else { return };
                bundle.ledger.give(request);
                bundle.held_cpus = bundle.held_cpus.minus(request.cpus);
            }
        }
    }

    pub(super) fn ledger_of(&mut self, pool: Pool) -> Option<&mut Ledger> {
        match pool {
            None => Some(&mut self.ledger),
            Some(key) => self.bundles.get_mut(key).map(|bundle| &mut bundle.ledger),
        }
    }

    pub(super) fn devices_of(&mut self, pool: Pool) -> Option<&mut Devices> {
        match pool {
            None => Some(&mut self.devices),
            Some(key) => self.bundles.get_mut(key).map(|bundle| &mut bundle.devices),
        }
    }

    /// CPUs by which the leases of each pool exceed what there is: some of them are lent.
    pub(super) fn over(&self) -> BTreeMap<Pool, Amount> {
        let node = self.held_cpus.plus(self.reserved(CPUS)).minus(self.ledger.total().cpus);
        let bundles = self.bundles.iter();
        let bundles = bundles.map(|(key, bundle)| (Some(key), bundle.held_cpus.minus(bundle.request.cpus)));
        bundles.chain([(None, node)]).collect()
    }

    /// Why something waits for room in a group.
    pub(super) fn why_within(&self, shape: &Shape, within: Within, here: &str) -> String {
        let there = self.peers.iter().flat_map(|(node, peer)| peer.load.bundles.iter().map(move |load| (*node, load)));
        let there: Vec<(NodeId, &BundleLoad)> = there.filter(|(_, load)| load.is_within(within)).collect();
        let is_here = self.bundles.within(within).next().is_some();
        match there.first() {
            None if is_here => here.to_owned(),
            None => format!("no living node has told that it keeps {within}: see `mobula why {}`", within.group),
            Some((node, load)) => {
                let lacks = shape.spec.request.amounts().find(|(name, amount)| *amount > amount_in(&load.free, name));
                let room = match lacks {
                    Some((name, amount)) => {
                        let free = amount_in(&load.free, name);
                        format!("{name} = {amount}, {free} is free in bundle {} on {node}", load.bundle)
                    }
                    None => format!("{node} has room for it in bundle {} and is about to be asked", load.bundle),
                };
                let more = there.len() + usize::from(is_here) - 1;
                let others =
                    if more > 0 { format!("; {more} others of its bundles are in use too") } else { String::new() };
                format!("it takes its place in {within}: {room}{others}")
            }
        }
    }
}

impl Peer {
    /// Whether the view shows room in a bundle there.
    pub(super) fn fits_bundle(&self, within: Within, request: &Request) -> bool {
        self.bundle_with_room(within, request).is_some()
    }

    fn bundle_with_room(&self, within: Within, request: &Request) -> Option<usize> {
        let has_room =
            |load: &BundleLoad| request.amounts().all(|(name, amount)| amount <= amount_in(&load.free, name));
        self.bundles.iter().position(|load| load.is_within(within) && has_room(load))
    }

    /// Counts as in use what it is asked for, or has granted.
    pub(super) fn count_taken(&mut self, within: Option<Within>, request: &Request) {
        let Some(within) = within else { return take_from(&mut self.free, request) };
        if let Some(at) = self.bundle_with_room(within, request) {
            take_from(&mut self.bundles[at].free, request);
        }
    }
}
