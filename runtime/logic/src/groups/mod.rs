//! Where the bundles of placement groups are reserved: the head's part, which sees all nodes.
//!
//! ```text
//!            room for all          all prepared
//!  waiting ──────────────► asking ─────────────► ready ──removed, or its job has ended──► gone
//!   ▲  ▲                     │                     │
//!   │  └─ refused, late, ────┘                     │
//!   │     or a node died: all is given back        │
//!   └──────── a node died: only what it had is placed again
//! ```
//!
//! Two phases make it all or nothing: every node is asked to *prepare* its bundles, which takes their amounts there; only
//! when all have is it told to *commit*. A node gives a prepared bundle back by itself after [`PREPARED_MAX`]: the head
//! that asked for it may be dead. What nodes have committed is the truth; this table is soft, and a restarted head learns
//! it anew from the nodes that register, for [`RECOVER_MAX`].
//!
//! Groups are looked at in the order in which they were made, and one that fits passes one that does not. Amounts inside
//! a bundle are its node's to give out. Nothing is sent or kept here.

mod invariants;
mod place;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mobula_types::resources::Resources;
use mobula_types::{BundleStrategy, Epoch, GroupId, GroupSpec, JobId, NodeId, NodeLoad, StateMachine, Time};
use mobula_wire::groups::GroupOrder;

use crate::invariant::Pace;
use crate::mutant::{Mutant, Planted};
use place::{Wish, place, take};

pub use invariants::check;
pub use mobula_types::GroupEnd as Ended;

/// Groups of one cluster; the next is refused with [`Ended::TooMany`].
pub const GROUPS_MAX: usize = 16_384;

/// Nodes have so long to prepare: a node that is silent longer is about to be declared dead.
pub const PREPARE_MAX: Duration = Duration::from_secs(2);

/// After so long a node gives a prepared bundle back that nobody has committed: five times what the head waits.
pub const PREPARED_MAX: Duration = Duration::from_secs(10);

/// A restarted head takes what is missing of a group for lost only after this: nodes register again within 2 s (G12).
pub const RECOVER_MAX: Duration = Duration::from_secs(5);

/// After a refusal a group is tried again so much later: a beat, with which the view is corrected.
const AGAIN: Duration = Duration::from_millis(200);

/// Groups looked at when something came free; the others have their turn with the next beat.
const LOOKS_MAX: usize = 64;

/// A head counts its rounds in so many bits; its epoch is above them. What a node has prepared for an earlier head, for as
/// long as [`PREPARED_MAX`], is never of a round of this one.
const ROUND_BITS: u32 = 32;

/// Removed groups whose names are kept: a node that could not be told may still report them. Not fewer than a node
/// remembers, which tells them all to a new head.
const REMOVED_MAX: usize = 4096;

/// How much a head keeps of groups; [`Default`] says what holds unless it is told otherwise. Heads of one cluster have the
/// same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Groups that are there at once.
    pub groups_max: usize,
    /// Groups looked at when something came free.
    pub looks_max: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { groups_max: GROUPS_MAX, looks_max: LOOKS_MAX }
    }
}

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Input {
    /// A group is wanted; a second time is nothing.
    Create {
        /// Which.
        group: GroupId,
        /// With which it ends.
        job: JobId,
        /// What it asks for.
        spec: GroupSpec,
    },
    /// A group that was ready once, as the node of whoever made it says when it registers: all that had its bundles may be
    /// gone.
    Made {
        /// Which.
        group: GroupId,
        /// With which it ends.
        job: JobId,
        /// What it asks for.
        spec: GroupSpec,
    },
    /// A group is not wanted any more, and what runs in it is to end.
    Remove {
        /// Which.
        group: GroupId,
    },
    /// A job is over.
    JobEnded {
        /// Which.
        job: JobId,
    },
    /// What a living node has.
    Seen {
        /// Which.
        node: NodeId,
        /// What it has.
        load: NodeLoad,
    },
    /// A node is declared dead.
    NodeDied {
        /// Which.
        node: NodeId,
    },
    /// A node has taken what it was asked for.
    Prepared {
        /// Which node.
        node: NodeId,
        /// For which group.
        group: GroupId,
        /// In which round.
        round: u64,
    },
    /// A node has not: it had less than was seen, or gave it back before it was committed.
    Refused {
        /// Which node.
        node: NodeId,
        /// For which group.
        group: GroupId,
        /// In which round.
        round: u64,
        /// What it has.
        load: NodeLoad,
    },
    /// What a node has committed, as it says when it registers: one input for each group.
    Held {
        /// Which node.
        node: NodeId,
        /// The group.
        group: GroupId,
        /// Its job.
        job: JobId,
        /// What the group asks for.
        spec: GroupSpec,
        /// Which of its bundles.
        bundles: Vec<u32>,
    },
    /// Of which groups a node has committed anything, as it says when it registers, and before [`Input::Held`] says what.
    HoldsOnly {
        /// Which node.
        node: NodeId,
        /// The groups.
        groups: Vec<GroupId>,
        /// Groups of which it knows that they are no more: a head that was restarted does not.
        ended: Vec<GroupId>,
    },
    /// Nothing but time has passed.
    Tick,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Output {
    /// Take the amounts of some bundles; [`Input::Prepared`] or [`Input::Refused`] answers.
    Prepare {
        /// Which node.
        node: NodeId,
        /// For which group.
        group: GroupId,
        /// In which round.
        round: u64,
        /// The group's job.
        job: JobId,
        /// All of what the group asks for: the node keeps it for the next head.
        spec: Arc<GroupSpec>,
        /// Which of its bundles.
        bundles: Vec<u32>,
    },
    /// Keep what was prepared; what asks for a place in it may have it from now on.
    Commit {
        /// Which node.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// In which round it was prepared.
        round: u64,
    },
    /// Give back what was prepared in a round, if it was.
    Abort {
        /// Which node.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// In which round.
        round: u64,
    },
    /// Give back all that a group has, and end what runs in it.
    Return {
        /// Which node.
        node: NodeId,
        /// Which group.
        group: GroupId,
    },
    /// Give back some bundles, and end what runs in them: they are elsewhere too.
    ReturnSome {
        /// Which node.
        node: NodeId,
        /// Of which group.
        group: GroupId,
        /// Which.
        bundles: Vec<u32>,
    },
    /// Every bundle has its node.
    Ready {
        /// Which group.
        group: GroupId,
        /// The nodes of its bundles, in their order.
        nodes: Vec<NodeId>,
    },
    /// A group is no more.
    Ended {
        /// Which.
        group: GroupId,
        /// Why.
        why: Ended,
    },
}

impl Output {
    /// The same as it travels, and to which node; to all of them, if to none.
    pub fn into_order(self) -> (Option<NodeId>, GroupOrder) {
        match self {
            Self::Prepare { node, group, round, job, spec, bundles } => {
                (Some(node), GroupOrder::Prepare { group, round, job, spec: spec.as_ref().clone(), bundles })
            }
            Self::Commit { node, group, round } => (Some(node), GroupOrder::Commit { group, round }),
            Self::Abort { node, group, round } => (Some(node), GroupOrder::Abort { group, round }),
            Self::Return { node, group } => (Some(node), GroupOrder::End { group }),
            Self::ReturnSome { node, group, bundles } => (Some(node), GroupOrder::Return { group, bundles }),
            Self::Ready { group, nodes } => (Some(group.process.node()), GroupOrder::Ready { group, nodes }),
            Self::Ended { group, why } => (None, GroupOrder::Ended { group, why }),
        }
    }
}

/// Where a bundle is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// Nowhere.
    Unplaced,
    /// A node was asked to take it.
    Asked(NodeId),
    /// A node has taken it, for this round.
    Prepared(NodeId),
    /// A node keeps it.
    Reserved(NodeId),
}

impl Slot {
    /// The node that has it, or may have it.
    pub fn node(self) -> Option<NodeId> {
        match self {
            Self::Unplaced => None,
            Self::Asked(node) | Self::Prepared(node) | Self::Reserved(node) => Some(node),
        }
    }

    fn is_asking(self) -> bool {
        matches!(self, Self::Asked(_) | Self::Prepared(_))
    }
}

/// The placement groups of a cluster.
///
/// ```
/// use mobula_logic::groups::{Groups, Input, Output};
/// use mobula_types::resources::{Amount, Request, Resources};
/// use mobula_types::{Bundle, Epoch, GroupId, GroupSpec, JobId, NodeId, NodeLoad, ProcessId, StateMachine, Time};
/// let two = Resources { cpus: Amount::whole(2), ..Resources::default() };
/// let load = NodeLoad { total: two.clone(), free: two, ..NodeLoad::default() };
/// let mut groups = Groups::new(Time::ZERO, Epoch(1));
/// groups.handle(Time::ZERO, Input::Seen { node: NodeId(1), load });
/// let bundle = Bundle { request: Request::ONE_CPU, ..Bundle::default() };
/// let spec = GroupSpec { bundles: vec![bundle; 2], ..GroupSpec::default() };
/// let group = GroupId { process: ProcessId::new(NodeId(1), 1), number: 1 };
/// groups.handle(Time::ZERO, Input::Create { group, job: JobId(1), spec });
/// let Some(Output::Prepare { node, round, .. }) = groups.poll_output() else { panic!("there is room") };
/// groups.handle(Time::ZERO, Input::Prepared { node, group, round });
/// assert_eq!(groups.poll_output(), Some(Output::Commit { node, group, round }));
/// assert!(matches!(groups.poll_output(), Some(Output::Ready { .. })));
/// ```
#[derive(Debug)]
pub struct Groups {
    /// Until then a group that is not whole may be so because its nodes have not registered yet.
    recovers_until: Time,
    bounds: Bounds,
    groups: BTreeMap<GroupId, Group>,
    /// Groups that are not whole, the eldest first.
    waiting: BTreeSet<(u64, GroupId)>,
    /// Where in `waiting` the next look goes on.
    looked_until: u64,
    nodes: BTreeMap<NodeId, Node>,
    removed: VecDeque<GroupId>,
    made: u64,
    rounds: u64,
    outputs: VecDeque<Output>,
    planted: Planted,
    pace: Pace,
}

#[derive(Debug)]
struct Group {
    job: JobId,
    spec: Arc<GroupSpec>,
    /// Its age.
    number: u64,
    slots: Vec<Slot>,
    /// In which round each bundle was asked for: a node may refuse to keep what a round before this one has prepared.
    rounds: Vec<u64>,
    round: u64,
    /// Which bundles a node was told to give back and has not been asked for since: whatever it says of them crossed that.
    /// No more than it has bundles, for each living node.
    given_back: BTreeSet<(NodeId, u32)>,
    /// It was whole for a head before this one: nodes that have not registered yet may have its bundles.
    was_whole: bool,
    /// Since when it waits, or is whole.
    since: Time,
    /// When this round is given up; while none is under way, when the next may begin.
    until: Time,
}

#[derive(Debug)]
struct Node {
    load: NodeLoad,
    /// As it said last, less what it is asked for and has taken since.
    free: Resources,
}

impl Groups {
    /// Of the head of `epoch`, which begins at `now`.
    pub fn new(now: Time, epoch: Epoch) -> Self {
        Self {
            recovers_until: now + RECOVER_MAX,
            bounds: Bounds::default(),
            groups: BTreeMap::new(),
            waiting: BTreeSet::new(),
            looked_until: 0,
            nodes: BTreeMap::new(),
            removed: VecDeque::new(),
            made: 0,
            rounds: epoch.0 << ROUND_BITS,
            outputs: VecDeque::new(),
            planted: Planted::default(),
            pace: Pace::default(),
        }
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.planted = Planted::new(mutant);
        if mutant == Mutant::CountRoundsAnew {
            self.rounds = 0;
        }
        self
    }

    /// The same within other bounds, as it was for the heads before.
    #[must_use]
    pub fn bounded(self, bounds: Bounds) -> Self {
        Self { bounds, ..self }
    }

    /// What a group asks for, and since when it waits or is whole; `None` when it is not there.
    pub fn spec(&self, id: GroupId) -> Option<(&GroupSpec, Time)> {
        self.groups.get(&id).map(|group| (group.spec.as_ref(), group.since))
    }

    /// Every group, with its job and where its bundles are.
    pub fn all(&self) -> impl Iterator<Item = (GroupId, JobId, &[Slot])> {
        self.groups.iter().map(|(id, group)| (*id, group.job, &group.slots[..]))
    }

    /// What a group waits for; `None` when it waits for nothing, or is not there.
    pub fn why(&self, now: Time, id: GroupId) -> Option<String> {
        let group = self.groups.get(&id)?;
        let unplaced = || group.slots.iter().zip(&group.spec.bundles).filter(|(slot, _)| **slot == Slot::Unplaced);
        if group.slots.iter().any(|slot| slot.is_asking()) {
            let asked = group.slots.iter().find_map(|slot| match slot {
                Slot::Asked(node) => Some(*node),
                _ => None,
            })?;
            return Some(format!("{asked} has been asked to reserve its bundles"));
        }
        unplaced().next()?;
        let is_some_held = group.slots.iter().any(|slot| *slot != Slot::Unplaced);
        if now < self.recovers_until && (is_some_held || group.was_whole) {
            return Some("the head was restarted, and waits for the nodes that have its other bundles".to_owned());
        }
        for (at, bundle) in group.spec.bundles.iter().enumerate().filter(|(at, _)| group.slots[*at] == Slot::Unplaced) {
            let able = |node: &&Node| place::fits(bundle, &node.load, &node.load.total);
            if self.nodes.values().any(|node| able(&node)) {
                continue;
            }
            let wants: Vec<String> =
                bundle.request.amounts().map(|(name, amount)| format!("{name} = {amount}")).collect();
            let labels = if bundle.labels.is_empty() { String::new() } else { format!(" and {}", bundle.labels) };
            return Some(format!("no node of the cluster can ever hold bundle {at}: {}{labels}", wants.join(", ")));
        }
        let (count, nodes) = (unplaced().count(), self.nodes.len());
        Some(match group.spec.strategy {
            BundleStrategy::StrictSpread => {
                let there = if nodes == 1 { "1 node is there".to_owned() } else { format!("{nodes} nodes are there") };
                format!("strict_spread: {count} bundles want a node each, {there}, and not enough have room now")
            }
            BundleStrategy::StrictPack => {
                format!("strict_pack: no node has room for all its {count} bundles now: {}", self.most_free())
            }
            _ => format!("{count} bundles have no room now: {}", self.most_free()),
        })
    }

    fn most_free(&self) -> String {
        let most = self.nodes.iter().max_by_key(|(_, node)| (node.free.gpus, node.free.cpus));
        match most {
            Some((id, node)) => {
                format!("most is free on {id}, num_cpus {}, num_gpus {}", node.free.cpus, node.free.gpus)
            }
            None => "no node is there".to_owned(),
        }
    }

    fn handle_create(&mut self, now: Time, id: GroupId, job: JobId, spec: GroupSpec) {
        if self.groups.contains_key(&id) {
            return self.tell_if_ready(id);
        }
        let refused = match spec.check() {
            Err(message) => Some(Ended::Invalid { message }),
            Ok(()) if self.removed.contains(&id) => Some(Ended::Removed { waited: None }),
            Ok(()) if self.groups.len() >= self.bounds.groups_max => {
                Some(Ended::TooMany { max: self.bounds.groups_max })
            }
            Ok(()) => None,
        };
        match refused {
            Some(why) => {
                // GRP-8: said again on its way, it would find room, and be kept for nobody.
                self.note_removed(id);
                self.outputs.push_back(Output::Ended { group: id, why });
            }
            None => {
                self.admit(now, id, job, spec);
                self.try_place(now, id);
            }
        }
    }

    fn admit(&mut self, now: Time, id: GroupId, job: JobId, spec: GroupSpec) {
        self.made += 1;
        let slots = vec![Slot::Unplaced; spec.bundles.len()];
        self.waiting.insert((self.made, id));
        let rounds = vec![0; slots.len()];
        let (number, spec) = (self.made, Arc::new(spec));
        let group = Group {
            job,
            spec,
            number,
            slots,
            rounds,
            round: 0,
            given_back: BTreeSet::new(),
            was_whole: false,
            since: now,
            until: now,
        };
        self.groups.insert(id, group);
    }

    /// GRP-9: it is placed anew when nobody has named its bundles in the time of a restarted head.
    fn handle_made(&mut self, now: Time, id: GroupId, job: JobId, spec: GroupSpec) {
        if self.groups.contains_key(&id) {
            return;
        }
        let refused = match spec.check() {
            Err(message) => Some(Ended::Invalid { message }),
            Ok(()) if self.groups.len() >= self.bounds.groups_max => {
                Some(Ended::TooMany { max: self.bounds.groups_max })
            }
            // It has ended, and the word for that was lost.
            Ok(()) if self.removed.contains(&id) || now >= self.recovers_until => Some(Ended::Removed { waited: None }),
            Ok(()) => None,
        };
        match refused {
            Some(why) => {
                // All nodes hear that it is over.
                self.note_removed(id);
                self.outputs.push_back(Output::Ended { group: id, why });
            }
            None => self.admit_whole(now, id, job, spec),
        }
    }

    fn admit_whole(&mut self, now: Time, id: GroupId, job: JobId, spec: GroupSpec) {
        self.admit(now, id, job, spec);
        self.groups.entry(id).and_modify(|group| group.was_whole = true);
    }

    fn end(&mut self, id: GroupId, why: Ended) {
        let Some(group) = self.groups.remove(&id) else { return };
        self.waiting.remove(&(group.number, id));
        let nodes: BTreeSet<NodeId> = group.slots.iter().filter_map(|slot| slot.node()).collect();
        for node in nodes {
            self.outputs.push_back(Output::Return { node, group: id });
            self.count_free(node);
        }
        self.outputs.push_back(Output::Ended { group: id, why });
        self.note_removed(id);
    }

    fn note_removed(&mut self, id: GroupId) {
        if self.removed.contains(&id) {
            return;
        }
        if self.removed.len() >= REMOVED_MAX {
            self.removed.pop_front();
        }
        self.removed.push_back(id);
    }

    /// GRP-1: asks for all that has no place, or for nothing.
    fn try_place(&mut self, now: Time, id: GroupId) {
        let Some(group) = self.groups.get(&id) else { return };
        let is_some_held = group.slots.iter().any(|slot| *slot != Slot::Unplaced);
        if group.slots.iter().any(|slot| slot.is_asking())
            || group.until > now
            || (is_some_held || group.was_whole) && now < self.recovers_until
        {
            return;
        }
        let mut placed = BTreeMap::new();
        for node in group.slots.iter().filter_map(|slot| slot.node()) {
            *placed.entry(node).or_default() += 1;
        }
        let bundles = group.spec.bundles.iter().enumerate().filter(|(at, _)| group.slots[*at] == Slot::Unplaced);
        let wish = Wish { strategy: group.spec.strategy, bundles: bundles.collect(), placed };
        let nodes = self.nodes.iter().map(|(id, node)| (*id, (&node.load, node.free.clone()))).collect();
        let mut wish = wish;
        if self.planted.is(Mutant::SpreadLoosely) && wish.strategy == BundleStrategy::StrictSpread {
            wish.strategy = BundleStrategy::Pack;
        }
        let Some(places) = place(&wish, &nodes).filter(|places| !places.is_empty()) else { return };
        self.rounds += 1;
        let round = self.rounds;
        let mut by_node: BTreeMap<NodeId, Vec<u32>> = BTreeMap::new();
        let Some(group) = self.groups.get_mut(&id) else { return };
        (group.round, group.until) = (round, now + PREPARE_MAX);
        for (at, node) in places {
            (group.slots[at], group.rounds[at]) = (Slot::Asked(node), round);
            group.given_back.remove(&(node, at as u32));
            by_node.entry(node).or_default().push(at as u32);
            if let Some(seen) = self.nodes.get_mut(&node) {
                take(&mut seen.free, &group.spec.bundles[at].request);
            }
        }
        for (node, mut bundles) in by_node {
            bundles.sort_unstable();
            let (job, spec) = (group.job, group.spec.clone());
            self.outputs.push_back(Output::Prepare { node, group: id, round, job, spec, bundles });
        }
    }

    /// The eldest first; who does not fit lets others pass.
    fn try_all(&mut self, now: Time) {
        if self.planted.is(Mutant::LookOnce) {
            return;
        }
        let oldest = self.waiting.iter().take(self.bounds.looks_max / 2);
        let first = GroupId { process: mobula_types::ProcessId::default(), number: 0 };
        let further = self.waiting.range((self.looked_until, first)..).take(self.bounds.looks_max / 2);
        let mut looks: Vec<(u64, GroupId)> = oldest.chain(further).copied().collect();
        looks.sort_unstable();
        looks.dedup();
        self.looked_until = match (looks.last(), self.waiting.last()) {
            (Some((last, _)), Some((end, _))) if last < end => last + 1,
            _ => 0,
        };
        looks.into_iter().for_each(|(_, id)| self.try_place(now, id));
    }

    /// GRP-2: a round that fails gives back all that it has asked for.
    fn abort(&mut self, id: GroupId, again: Time) {
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut asked = BTreeSet::new();
        for slot in &mut group.slots {
            if slot.is_asking() {
                asked.extend(slot.node());
                *slot = Slot::Unplaced;
            }
        }
        group.until = again;
        let round = group.round;
        if self.waiting.insert((group.number, id)) {
            group.since = again;
        }
        for node in asked.into_iter().filter(|node| self.nodes.contains_key(node)).collect::<Vec<_>>() {
            self.outputs.push_back(Output::Abort { node, group: id, round });
            self.count_free(node);
        }
    }

    /// GRP-3: commits when all is prepared, and not before.
    fn handle_prepared(&mut self, now: Time, node: NodeId, id: GroupId, round: u64) {
        let is_kept = |group: &Group| {
            let of_round = |(slot, asked): (&Slot, &u64)| *asked == round && *slot == Slot::Reserved(node);
            group.slots.iter().zip(&group.rounds).any(of_round)
        };
        if self.groups.get(&id).is_some_and(is_kept) {
            // Said twice: it was told to keep it, and that holds although a later round may be under way.
            return;
        }
        let Some(group) = self.groups.get_mut(&id).filter(|group| group.round == round) else {
            // Of a round that is over, or of a group that is gone: it was told so, or that was lost with its connection.
            return self.outputs.push_back(Output::Abort { node, group: id, round });
        };
        for slot in &mut group.slots {
            if *slot == Slot::Asked(node) {
                *slot = Slot::Prepared(node);
            }
        }
        let is_asking = group.slots.iter().any(|slot| slot.is_asking());
        let is_early = group.slots.iter().any(|slot| matches!(slot, Slot::Asked(_)));
        if !is_asking || is_early && !self.planted.is(Mutant::CommitEarly) {
            return;
        }
        let mut nodes = BTreeSet::new();
        for slot in &mut group.slots {
            if let Slot::Prepared(node) = *slot {
                *slot = Slot::Reserved(node);
                nodes.insert(node);
            }
        }
        group.since = now;
        self.waiting.remove(&(group.number, id));
        self.outputs.extend(nodes.into_iter().map(|node| Output::Commit { node, group: id, round }));
        self.tell_if_ready(id);
    }

    fn tell_if_ready(&mut self, id: GroupId) {
        let Some(group) = self.groups.get(&id) else { return };
        let reserved = group.slots.iter().map(|slot| match slot {
            Slot::Reserved(node) => Some(*node),
            _ => None,
        });
        if let Some(nodes) = reserved.collect::<Option<Vec<NodeId>>>() {
            self.outputs.push_back(Output::Ready { group: id, nodes });
        }
    }

    fn handle_refused(&mut self, now: Time, node: NodeId, id: GroupId, round: u64, load: NodeLoad) {
        if self.nodes.contains_key(&node) {
            self.see(node, load);
        }
        let Some(group) = self.groups.get(&id) else { return };
        let of_round = |(slot, asked): (&Slot, &u64)| *asked == round && slot.node() == Some(node);
        if !group.slots.iter().zip(&group.rounds).any(of_round) {
            return;
        }
        // What it was asked for it has not, or has given back before it heard that it is to keep it.
        self.lose(id, node, Some(round), now + AGAIN);
    }

    /// What a node had of a group, in a round or in all, is nowhere any more.
    fn lose(&mut self, id: GroupId, node: NodeId, round: Option<u64>, again: Time) {
        // GRP-1: a round that does not ask for it would leave it out.
        self.abort(id, again);
        let Some(group) = self.groups.get_mut(&id) else { return };
        for (slot, asked) in group.slots.iter_mut().zip(&group.rounds) {
            if *slot == Slot::Reserved(node) && round.is_none_or(|round| round == *asked) {
                *slot = Slot::Unplaced;
            }
        }
    }

    fn see(&mut self, node: NodeId, load: NodeLoad) {
        let mut free = load.free.clone();
        for group in self.groups.values() {
            let asked = group.slots.iter().zip(&group.spec.bundles).filter(|(slot, _)| **slot == Slot::Asked(node));
            asked.for_each(|(_, bundle)| take(&mut free, &bundle.request));
        }
        self.nodes.insert(node, Node { load, free });
    }

    /// Counts anew from what a node said last, when something of it is given back: if that makes its load what it was then,
    /// it does not say it again. What it has taken since is missing here, and it refuses what is too much.
    fn count_free(&mut self, node: NodeId) {
        if let Some(load) = self.nodes.get(&node).map(|node| node.load.clone()) {
            self.see(node, load);
        }
    }

    fn handle_node_died(&mut self, now: Time, node: NodeId) {
        self.nodes.remove(&node);
        self.groups.values_mut().for_each(|group| group.given_back.retain(|(of, _)| *of != node));
        let with: Vec<GroupId> = self.groups.iter().filter(|(_, group)| has(group, node)).map(|(id, _)| *id).collect();
        // GRP-4: what other nodes have stays where it is.
        if !self.planted.is(Mutant::KeepPlacesOfDead) {
            with.into_iter().for_each(|id| self.lose(id, node, None, now));
        }
        self.try_all(now);
    }

    /// Nodes are believed: what they have committed is the truth.
    fn handle_held(&mut self, now: Time, node: NodeId, held: (GroupId, JobId, GroupSpec), bundles: &[u32]) {
        let (id, job, spec) = held;
        let is_unknown = !self.groups.contains_key(&id);
        let may_be = now < self.recovers_until && !self.removed.contains(&id);
        if is_unknown && (!may_be || spec.check().is_err()) {
            return self.outputs.push_back(Output::Return { node, group: id });
        }
        if is_unknown && self.groups.len() >= self.bounds.groups_max {
            // GRP-9: this node would refuse for ever what it was told to end. So it ends for all, also for its maker.
            self.note_removed(id);
            self.outputs.push_back(Output::Return { node, group: id });
            return self
                .outputs
                .push_back(Output::Ended { group: id, why: Ended::TooMany { max: self.bounds.groups_max } });
        }
        if is_unknown {
            self.admit_whole(now, id, job, spec);
        }
        self.lose_unnamed(now, id, node, bundles);
        let crossed = self.give_up_crossed(now, id, node, bundles);
        let Some(group) = self.groups.get_mut(&id) else { return };
        let mut elsewhere = crossed.clone();
        for at in bundles.iter().filter(|at| !crossed.contains(at)) {
            let is_given_back = group.given_back.contains(&(node, *at)) && !self.planted.is(Mutant::BelieveCrossed);
            match group.slots.get_mut(*at as usize) {
                Some(slot @ Slot::Unplaced) if !is_given_back => *slot = Slot::Reserved(node),
                Some(Slot::Reserved(of)) if *of == node => {}
                // GRP-5: a bundle is on one node.
                _ => elsewhere.push(*at),
            }
        }
        let number = group.number;
        if group.slots.iter().all(|slot| matches!(slot, Slot::Reserved(_))) {
            self.waiting.remove(&(number, id));
        }
        if !elsewhere.is_empty() {
            self.give_back(id, node, elsewhere);
        }
        self.tell_if_ready(id);
    }

    /// GRP-6: a node names what it is just asked for. It had it once and was told to give it back, which may have crossed
    /// this word: so its bundles are given back whatever it has of them, and the round begins anew.
    fn give_up_crossed(&mut self, now: Time, id: GroupId, node: NodeId, named: &[u32]) -> Vec<u32> {
        let slots = self.groups.get(&id).map_or(&[][..], |group| &group.slots);
        let is_asked = |at: &&u32| {
            let slot = slots.get(**at as usize);
            slot.is_some_and(|slot| slot.is_asking() && slot.node() == Some(node))
        };
        let crossed: Vec<u32> = named.iter().filter(is_asked).copied().collect();
        if !crossed.is_empty() {
            self.abort(id, now);
        }
        crossed
    }

    /// GRP-6: what a node does not name it does not have, whatever it was told to keep.
    fn lose_unnamed(&mut self, now: Time, id: GroupId, node: NodeId, named: &[u32]) {
        let Some(group) = self.groups.get(&id) else { return };
        let reserved = (0..).zip(&group.slots).filter(|(_, slot)| **slot == Slot::Reserved(node));
        let unnamed: Vec<u32> = reserved.map(|(at, _)| at).filter(|at| !named.contains(at)).collect();
        if unnamed.is_empty() {
            return;
        }
        self.abort(id, now);
        let Some(group) = self.groups.get_mut(&id) else { return };
        unnamed.iter().for_each(|at| group.slots[*at as usize] = Slot::Unplaced);
        self.waiting.insert((group.number, id));
        self.count_free(node);
        // A word to keep it may have crossed this one.
        self.give_back(id, node, unnamed);
    }

    fn give_back(&mut self, id: GroupId, node: NodeId, bundles: Vec<u32>) {
        if let Some(group) = self.groups.get_mut(&id) {
            let known = bundles.iter().filter(|at| (**at as usize) < group.slots.len());
            group.given_back.extend(known.map(|at| (node, *at)));
        }
        self.outputs.push_back(Output::ReturnSome { node, group: id, bundles });
    }

    fn handle_holds_only(&mut self, now: Time, node: NodeId, groups: &[GroupId], ended: Vec<GroupId>) {
        for id in ended {
            match self.groups.contains_key(&id) {
                true => self.end(id, Ended::Removed { waited: None }),
                false => self.note_removed(id),
            }
        }
        let with = self.groups.iter().filter(|(id, group)| has(group, node) && !groups.contains(id));
        for id in with.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.lose_unnamed(now, id, node, &[]);
        }
        self.try_all(now);
    }

    fn handle_time(&mut self, now: Time) {
        let is_late = |group: &Group| group.until <= now && group.slots.iter().any(|slot| slot.is_asking());
        let late = self.waiting.iter().filter(|(_, id)| self.groups.get(id).is_some_and(is_late));
        let late: Vec<GroupId> = late.map(|(_, id)| *id).collect();
        late.into_iter().for_each(|id| self.abort(id, now + AGAIN));
    }

    fn debug_check(&mut self) {
        if self.pace.is_due(self.groups.len(), &self.planted) {
            check(self).expect("placement groups keep their invariants");
        }
    }
}

fn has(group: &Group, node: NodeId) -> bool {
    group.slots.iter().any(|slot| slot.node() == Some(node))
}

impl StateMachine for Groups {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.handle_time(now);
        match input {
            Input::Create { group, job, spec } => self.handle_create(now, group, job, spec),
            Input::Made { group, job, spec } => self.handle_made(now, group, job, spec),
            Input::Remove { group } if !self.groups.contains_key(&group) => {
                // Said twice, or to a head that never heard of it: whoever said it waits for the answer.
                // GRP-8: a node that has not registered with a restarted head yet may keep something of it.
                if now < self.recovers_until {
                    self.note_removed(group);
                }
                self.outputs.push_back(Output::Ended { group, why: Ended::Removed { waited: None } });
            }
            Input::Remove { group } => {
                let waited = self.why(now, group);
                self.end(group, Ended::Removed { waited });
            }
            Input::JobEnded { job } => {
                let of_job = self.groups.iter().filter(|(_, group)| group.job == job);
                let of_job: Vec<GroupId> = of_job.map(|(id, _)| *id).collect();
                of_job.into_iter().for_each(|id| self.end(id, Ended::JobEnded { job }));
            }
            Input::Seen { node, load } => {
                self.see(node, load);
                self.try_all(now);
            }
            Input::NodeDied { node } => self.handle_node_died(now, node),
            Input::Prepared { node, group, round } => self.handle_prepared(now, node, group, round),
            Input::Refused { node, group, round, load } => self.handle_refused(now, node, group, round, load),
            Input::Held { node, group, job, spec, bundles } => {
                self.handle_held(now, node, (group, job, spec), &bundles);
            }
            Input::HoldsOnly { node, groups, ended } => self.handle_holds_only(now, node, &groups, ended),
            Input::Tick => self.try_all(now),
        }
        self.debug_check();
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What waits for room waits for a beat, which comes anyhow.
    fn next_timeout(&self) -> Option<Time> {
        let asking = |id: &GroupId| self.groups.get(id).filter(|group| group.slots.iter().any(|slot| slot.is_asking()));
        self.waiting.iter().filter_map(|(_, id)| asking(id)).map(|group| group.until).min()
    }
}
