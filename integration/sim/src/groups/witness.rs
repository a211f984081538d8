//! What someone sees who hears every word between the head and its nodes, and in the end looks into each node.

use std::collections::{BTreeMap, BTreeSet};

use mobula_logic::groups::Slot;
use mobula_logic::scheduler::Held;
use mobula_logic::{Scheduler, Violation};
use mobula_types::resources::Amount;
use mobula_types::{BundleStrategy, GroupId, GroupSpec, JobId, NodeId};

use super::World;
use crate::failure::ensure;

/// What was seen of groups.
#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Every group that was made.
    made: BTreeMap<GroupId, Made>,
    /// Who was asked in each round of each head, and who has prepared.
    rounds: BTreeMap<(u64, GroupId, u64), Round>,
}

#[derive(Debug)]
struct Made {
    job: JobId,
    spec: GroupSpec,
    is_removed: bool,
}

#[derive(Debug, Default)]
struct Round {
    asked: BTreeSet<NodeId>,
    prepared: BTreeSet<NodeId>,
}

impl Witness {
    pub(super) fn made(&mut self, group: GroupId, job: JobId, spec: GroupSpec) {
        self.made.insert(group, Made { job, spec, is_removed: false });
    }

    pub(super) fn removed(&mut self, group: GroupId) {
        self.made.entry(group).and_modify(|made| made.is_removed = true);
    }

    pub(super) fn asked(&mut self, epoch: u64, group: GroupId, round: u64, node: NodeId) {
        self.rounds.entry((epoch, group, round)).or_default().asked.insert(node);
    }

    pub(super) fn prepared(&mut self, epoch: u64, group: GroupId, round: u64, node: NodeId) {
        self.rounds.entry((epoch, group, round)).or_default().prepared.insert(node);
    }

    /// GRP-3: a bundle is to be kept when every node of its round has prepared: all or none.
    pub(super) fn committed(&self, epoch: u64, group: GroupId, round: u64) -> Result<(), Violation> {
        let seen = self.rounds.get(&(epoch, group, round));
        let is_all = seen.is_some_and(|round| round.asked.is_subset(&round.prepared));
        ensure(is_all, "GRP-3", || format!("round {round} of {group} is to be kept: {seen:?}"))
    }

    /// GRP-5: where a group lies is as its strategy says.
    pub(super) fn ready(&self, group: GroupId, nodes: &[NodeId]) -> Result<(), Violation> {
        let Some(made) = self.made.get(&group) else { return Ok(()) };
        let distinct = nodes.iter().collect::<BTreeSet<_>>().len();
        let keeps_its_word = match made.spec.strategy {
            BundleStrategy::StrictPack => distinct == 1,
            BundleStrategy::StrictSpread => distinct == nodes.len(),
            _ => true,
        };
        let is_whole = nodes.len() == made.spec.bundles.len();
        ensure(keeps_its_word && is_whole, "GRP-5", || format!("{group}, {:?}, lies on {nodes:?}", made.spec))
    }

    /// GRP-7: no more is kept apart than there is.
    pub(super) fn kept(&self, node: NodeId, kept: &[Held], cpus: u64) -> Result<(), Violation> {
        let sum = sum(kept);
        ensure(sum <= Amount::whole(cpus), "GRP-7", || format!("{node} has {cpus} CPUs and keeps {sum}: {kept:?}"))
    }
}

fn sum(kept: &[Held]) -> Amount {
    let requests = kept.iter().flat_map(|held| held.bundles.iter().map(|at| &held.spec.bundles[*at as usize].request));
    requests.fold(Amount::ZERO, |sum, request| sum.plus(request.cpus))
}

/// A node at the end.
struct Seen {
    id: NodeId,
    is_draining: bool,
    free: Amount,
    kept: Vec<Held>,
}

impl World {
    /// In the end every group that is wanted lies somewhere or waits for what is not there, and nothing else is kept apart.
    pub(super) fn judge(&mut self) -> Result<(), Violation> {
        let now = self.agenda.now();
        let mut nodes = Vec::new();
        for (index, host) in self.hosts.iter().enumerate() {
            let running = host.node.as_ref().and_then(|node| Some((node, node.id?, node.scheduler.as_ref()?)));
            let Some((node, id, scheduler)) = running.filter(|(_, id, _)| self.lives.contains_key(id)) else {
                return Err(Violation { invariant: "GRP-9", seen: format!("host {index} does not belong") });
            };
            let waits = node.removing.first();
            ensure(waits.is_none(), "GRP-11", || format!("host {index} waits for the end of {waits:?}"))?;
            nodes.push(judge_node(id, scheduler, host.cpus)?);
        }
        let Some(head) = &self.head else {
            return Err(Violation { invariant: "GRP-9", seen: "there is no head".into() });
        };
        let known: BTreeMap<GroupId, &[Slot]> = head.machine.all().map(|(group, _, slots)| (group, slots)).collect();
        let mut at: BTreeMap<(GroupId, u32), NodeId> = BTreeMap::new();
        for (node, held) in nodes.iter().flat_map(|node| node.kept.iter().map(|held| (node.id, held))) {
            for bundle in &held.bundles {
                let before = at.insert((held.group, *bundle), node);
                ensure(before.is_none(), "GRP-10", || {
                    format!("bundle {bundle} of {} is kept on {before:?} and on {node}", held.group)
                })?;
            }
        }
        for (group, made) in &self.witness.made {
            let kept: Vec<Option<NodeId>> =
                (0..made.spec.bundles.len() as u32).map(|bundle| at.get(&(*group, bundle)).copied()).collect();
            if made.is_removed || self.ended_jobs.contains(&made.job) {
                let is_gone = !known.contains_key(group) && kept.iter().all(Option::is_none);
                ensure(is_gone, "GRP-8", || format!("{group} is over and lies on {kept:?}: {:?}", known.get(group)))?;
                continue;
            }
            let Some(slots) = known.get(group) else {
                return Err(Violation {
                    invariant: "GRP-9",
                    seen: format!("the head knows nothing of {group}: {made:?}"),
                });
            };
            let reserved = slots.iter().map(|slot| match slot {
                Slot::Reserved(node) => Some(*node),
                _ => None,
            });
            let reserved: Vec<Option<NodeId>> = reserved.collect();
            let of_dead = reserved.iter().flatten().find(|node| !self.lives.contains_key(node));
            ensure(of_dead.is_none(), "GRP-4", || format!("{group} lies on {of_dead:?}, which is dead"))?;
            ensure(reserved == kept, "GRP-6", || format!("{group} is at {reserved:?} for the head, and at {kept:?}"))?;
            let is_whole = reserved.iter().all(Option::is_some);
            let is_told = self
                .hosts
                .iter()
                .flat_map(|host| &host.node)
                .any(|node| node.made.get(group).is_some_and(|(is_ready, ..)| *is_ready));
            ensure(!is_whole || is_told, "GRP-11", || format!("{group} is ready, and its maker does not know"))?;
            let why = head.machine.why(now, *group);
            ensure(is_whole != why.is_some(), "GRP-9", || format!("{group} is at {slots:?} because of {why:?}"))?;
            let room = room(made, &reserved, &nodes);
            ensure(room.is_none(), "GRP-9", || format!("{group} waits: {why:?}; there is room on {room:?}"))?;
            self.coverage.saw(if is_whole { "a group lies in the end" } else { "a group waits in the end" });
        }
        Ok(())
    }
}

/// What a node keeps is all that it does not give.
fn judge_node(id: NodeId, scheduler: &Scheduler, cpus: u64) -> Result<Seen, Violation> {
    let (kept, load) = (scheduler.bundles_held(), scheduler.load());
    let free = Amount::whole(cpus).minus(sum(&kept));
    ensure(scheduler.leases() > 0 || load.free.cpus == free, "GRP-8", || {
        format!("{id} has {cpus} CPUs of which {} are free, and keeps {kept:?}", load.free.cpus)
    })?;
    Ok(Seen { id, is_draining: load.is_draining, free: load.free.cpus, kept })
}

/// Nodes on which what is missing of a group plainly has room.
fn room(made: &Made, reserved: &[Option<NodeId>], nodes: &[Seen]) -> Option<Vec<NodeId>> {
    let missing = made.spec.bundles.iter().zip(reserved).filter(|(_, at)| at.is_none());
    let missing: Vec<Amount> = missing.map(|(bundle, _)| bundle.request.cpus).collect();
    let most = missing.iter().copied().max()?;
    let all = missing.iter().fold(Amount::ZERO, |sum, cpus| sum.plus(*cpus));
    let has = |node: &&Seen| reserved.contains(&Some(node.id));
    let open = || nodes.iter().filter(|node| !node.is_draining);
    let (enough, count): (Vec<&Seen>, usize) = match made.spec.strategy {
        BundleStrategy::StrictSpread => {
            (open().filter(|node| !has(node) && node.free >= most).collect(), missing.len())
        }
        BundleStrategy::StrictPack if nodes.iter().any(|node| has(&node)) => {
            (open().filter(|node| has(node) && node.free >= all).collect(), 1)
        }
        _ => (open().filter(|node| node.free >= all).collect(), 1),
    };
    (enough.len() >= count).then(|| enough.iter().map(|node| node.id).collect())
}
