//! What objects there are, where their bytes lie, and what was said of them: from outside, knowing only inputs and outputs.

use std::collections::{BTreeMap, BTreeSet};

use mobula_logic::Violation;
use mobula_types::{Digest, Loss, NodeId, ObjectId, ProcessId};

use super::Object;
use crate::failure::ensure;

#[derive(Debug, Default)]
pub(super) struct Witness {
    /// Nodes have room for few objects: what one has made may have found none there.
    is_narrow: bool,
    objects: BTreeMap<ObjectId, Object>,
    copies: BTreeMap<(NodeId, ObjectId), Digest>,
    /// Objects whose bytes are with what their owners know.
    inline: BTreeSet<ObjectId>,
    wanted: BTreeSet<(ProcessId, ObjectId)>,
    /// Messages on their way.
    sent: BTreeMap<(NodeId, u64), (ProcessId, Vec<ObjectId>)>,
    /// Objects that a node held when it died, or was refused.
    orphans: BTreeSet<ObjectId>,
    runs: BTreeMap<ObjectId, u32>,
    evicted: BTreeSet<ObjectId>,
    not_made: BTreeSet<ObjectId>,
}

/// The bytes that a run of an object's task gives.
pub(super) fn digest(object: ObjectId, run: u32) -> Digest {
    let owner = u128::from(object.owner.as_u64());
    Digest(owner << 64 | u128::from(object.seq) << 8 | u128::from(run))
}

pub(super) fn name(loss: &Loss) -> &'static str {
    match loss {
        Loss::NodeDied { .. } => "lost: its node died",
        Loss::GivenUp { .. } => "lost: given up",
        Loss::OwnerNodeDied { .. } => "lost: its owner's node died",
        Loss::NotHeld => "lost: not held",
        Loss::LineageEvicted => "lost: its recipe is forgotten",
        Loss::RunsSpent { .. } => "lost: its runs are spent",
        Loss::ArgumentLost { .. } => "lost: an argument is lost",
        Loss::NonDeterministicReplay { .. } => "lost: other bytes",
        Loss::NotMade { .. } => "lost: not made",
        Loss::MakerDied { .. } => "lost: its maker died",
        _ => "lost: not reached",
    }
}

impl Witness {
    pub(super) fn new(is_narrow: bool) -> Self {
        Self { is_narrow, ..Self::default() }
    }

    pub(super) fn object(&self, object: ObjectId) -> &Object {
        &self.objects[&object]
    }

    pub(super) fn is_orphan(&self, object: ObjectId) -> bool {
        self.orphans.contains(&object)
    }

    pub(super) fn on_way(&self) -> impl Iterator<Item = (ProcessId, ObjectId)> {
        self.sent.values().flat_map(|(to, objects)| objects.iter().map(|object| (*to, *object)))
    }

    pub(super) fn copy(&self, node: NodeId, object: ObjectId) -> Option<Digest> {
        self.copies.get(&(node, object)).copied()
    }

    pub(super) fn copies_at(&self, node: NodeId) -> impl Iterator<Item = ObjectId> {
        self.copies.keys().filter(move |(at, _)| *at == node).map(|(_, object)| *object)
    }

    pub(super) fn see_new(&mut self, object: ObjectId, known: Object) {
        self.runs.insert(object, u32::from(!known.is_put));
        self.objects.insert(object, known);
    }

    pub(super) fn see_copy(&mut self, node: NodeId, object: ObjectId, bytes: Digest) {
        self.copies.insert((node, object), bytes);
    }

    pub(super) fn see_inline(&mut self, object: ObjectId) {
        self.inline.insert(object);
    }

    pub(super) fn see_freed(&mut self, node: NodeId, object: ObjectId) -> Result<(), Violation> {
        let is_inline = object.owner.node() == node && self.inline.remove(&object);
        let is_freed = self.copies.remove(&(node, object)).is_some() || is_inline;
        ensure(is_freed, "OWN-3", || format!("{node} frees {object}, which it has not"))
    }

    pub(super) fn see_sent(&mut self, from: NodeId, number: u64, to: ProcessId, objects: &[ObjectId]) {
        self.sent.insert((from, number), (to, objects.to_vec()));
    }

    pub(super) fn see_arrived(&mut self, from: NodeId, number: u64) {
        self.sent.remove(&(from, number));
    }

    /// Whether it did not wait for it yet.
    pub(super) fn see_wanted(&mut self, process: ProcessId, object: ObjectId) -> bool {
        self.wanted.insert((process, object))
    }

    pub(super) fn see_unwanted(&mut self, process: ProcessId, object: ObjectId) {
        self.wanted.remove(&(process, object));
    }

    pub(super) fn see_death_of(&mut self, process: ProcessId) {
        self.wanted.retain(|(by, _)| *by != process);
    }

    /// What a dead node held, it may have been alone to hold; what it sent came from nobody.
    pub(super) fn see_death(&mut self, node: NodeId, holds: impl Fn(ObjectId) -> bool) {
        self.wanted.retain(|(by, _)| by.node() != node);
        self.copies.retain(|(at, _), _| *at != node);
        self.orphans.extend(self.objects.keys().copied().filter(|object| holds(*object)));
        self.orphans.extend(self.sent.iter().filter(|((from, _), _)| *from == node).flat_map(|(_, (_, it))| it));
        // What their bytes name goes with them.
        let mut open: Vec<ObjectId> = self.orphans.iter().copied().collect();
        while let Some(object) = open.pop() {
            let inner = self.objects.get(&object).map_or(&[][..], |known| &known.inner);
            open.extend(inner.iter().copied().filter(|inner| self.orphans.insert(*inner)));
        }
    }

    /// Nobody holds for who was refused it.
    pub(super) fn see_refused(&mut self, object: ObjectId) {
        self.orphans.insert(object);
    }

    pub(super) fn see_evicted(&mut self, object: ObjectId) {
        self.evicted.insert(object);
    }

    pub(super) fn see_not_made(&mut self, object: ObjectId) {
        self.not_made.insert(object);
    }

    /// OWN-6: a run is the next one, and allowed.
    pub(super) fn see_run(&mut self, object: ObjectId, run: u32) -> Result<(), Violation> {
        let before = self.runs.insert(object, run).unwrap_or(0);
        let max = self.objects[&object].runs_max;
        ensure(run == before + 1 && run <= max, "OWN-6", || format!("run {run} of {object} after {before}, of {max}"))
    }

    /// OWN-8: whoever reads an object reads the bytes that were made first; OWN-9: and is told so once.
    pub(super) fn see_ready(&mut self, process: ProcessId, object: ObjectId) -> Result<(), Violation> {
        let was_wanted = self.wanted.remove(&(process, object));
        ensure(was_wanted, "OWN-9", || format!("{process} is told of {object}, which it does not wait for"))?;
        if self.objects[&object].is_inline {
            return Ok(());
        }
        let (bytes, first) = (self.copy(process.node(), object), digest(object, 1));
        ensure(bytes.is_some(), "OWN-7", || format!("{process} is to read {object}, which is not there"))?;
        ensure(bytes == Some(first), "OWN-8", || format!("{process} reads {bytes:?} for {object}, which is {first}"))
    }

    /// OWN-9: who cannot have an object is told so once, with a cause that is true.
    pub(super) fn see_lost(
        &mut self,
        process: ProcessId,
        object: ObjectId,
        loss: &Loss,
        is_alive: impl Fn(NodeId) -> bool,
    ) -> Result<(), Violation> {
        let was_wanted = self.wanted.remove(&(process, object));
        ensure(was_wanted, "OWN-9", || format!("{process} is told of {object}, which it does not wait for"))?;
        let known = &self.objects[&object];
        let is_true = match loss {
            Loss::NodeDied { node } => {
                !is_alive(*node) && (known.is_put || known.is_its_makers || self.evicted.contains(&object))
            }
            Loss::GivenUp { node } => !self.copies.contains_key(&(*node, object)),
            Loss::OwnerNodeDied { node } => {
                !is_alive(*node) && object.owner.node() == *node && self.copy(process.node(), object).is_none()
            }
            Loss::NotHeld => self.is_orphan(object),
            Loss::LineageEvicted => self.evicted.contains(&object),
            Loss::RunsSpent { runs } => *runs == known.runs_max && self.runs[&object] == *runs,
            Loss::ArgumentLost { .. } => !known.is_put,
            Loss::NonDeterministicReplay { first, again } => known.is_fickle && first != again,
            Loss::NotMade { .. } => self.not_made.contains(&object),
            // Only that process knew how it is made, as of a task that found no room, or whose recipe did not.
            Loss::MakerDied { death } => {
                let is_its_makers = known.is_its_makers || self.evicted.contains(&object) || self.is_orphan(object);
                death.process == object.owner && is_its_makers
            }
            // Deaths are known long before.
            Loss::Unreachable { .. } => self.is_narrow,
            _ => false,
        };
        ensure(is_true, "OWN-9", || format!("{process} is told that {object} is lost: {loss:?}; {known:?}"))
    }

    /// OWN-9: who waits for what finds no room is told so once.
    pub(super) fn see_no_room(&mut self, process: ProcessId, object: ObjectId) -> Result<(), Violation> {
        let was_wanted = self.wanted.remove(&(process, object));
        ensure(was_wanted, "OWN-9", || format!("{process} is told of {object}, which it does not wait for"))
    }

    /// OWN-9: whoever waits is answered.
    pub(super) fn judge_answered(&self, is_alive: impl Fn(ProcessId) -> bool) -> Result<(), Violation> {
        let waits = self.wanted.iter().find(|(process, _)| is_alive(*process));
        ensure(waits.is_none(), "OWN-9", || format!("{waits:?} waits and is not answered"))
    }
}
