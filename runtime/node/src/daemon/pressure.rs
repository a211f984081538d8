//! What leaves this node's shared memory when that runs short, and what comes back: drives
//! [`mobula_logic::pressure`], with [files](super::spill) and the arena.
//!
//! A copy that leaves parts from its old place as one that is freed does: its keeper is told, and who still reads it there
//! goes on. The copy itself stays in the node's books, as one in a file.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;

use mobula_logic::ownership::{self, Place};
use mobula_logic::pressure::{Input, Output, Pressure, Written};
use mobula_store::arena::{SEGMENTS_MAX, Seen};
use mobula_types::{CallError, JobId, Loss, NodeId, NotStarted, ObjectId, ProcessId, StateMachine, Time};
use mobula_wire::Extent;
use mobula_wire::cluster::ClusterTalk;
use mobula_wire::local::FromNode;
use mobula_wire::objects::{Kept, ObjectAnswer};
use mobula_wire::plain::ALIGNMENT;
use mobula_wire::segments::{NoSegment, SegmentId};

use super::objects::Copy;
use super::spill::{Done, Slot, Spills};
use super::state::State;

/// A copy's part of this.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stay {
    /// Tells it from others of the same object.
    pub(crate) stamp: u64,
    /// Where it is in a file too.
    slot: Option<Slot>,
    /// Whose it is, and how far behind a multiple of [`ALIGNMENT`] it begins: known when it is written.
    home: Option<(JobId, u64)>,
}

impl Stay {
    fn new(stamp: u64) -> Self {
        Self { stamp, slot: None, home: None }
    }

    /// The job whose processes may read it.
    pub(crate) fn job(&self) -> Option<JobId> {
        self.home.map(|(job, _)| job)
    }
}

/// What is known of a node's memory and its files.
pub(crate) struct Pressing {
    machine: Pressure,
    spills: Spills,
    stamps: u64,
    /// Who waits for what is in a file.
    waiting: HashMap<ObjectId, Vec<ProcessId>>,
    /// Other nodes that do.
    askers: HashMap<ObjectId, BTreeSet<NodeId>>,
}

impl Pressing {
    pub(crate) fn new(budget: u64, spills: Spills) -> Self {
        let machine = Pressure::new(budget, SEGMENTS_MAX);
        Self { machine, spills, stamps: 0, waiting: HashMap::new(), askers: HashMap::new() }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.machine.next_timeout()
    }

    /// Bytes of values that are in files alone.
    pub(crate) fn spilled_bytes(&self) -> u64 {
        self.machine.spilled_bytes()
    }

    /// Whether the disk has no room for more.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.machine.is_disk_full()
    }

    /// A copy comes.
    pub(crate) fn stay(&mut self) -> Stay {
        self.stamps += 1;
        Stay::new(self.stamps)
    }
}

impl State {
    pub(crate) fn press(&mut self, input: Input) {
        self.pressing.machine.handle(self.clock.now(), input);
        while let Some(output) = self.pressing.machine.poll_output() {
            self.relieve(output);
        }
    }

    /// Segments have come or gone, or one was refused.
    pub(crate) fn arena_changed(&mut self) {
        let Seen { leased, segments, refused } = self.arena.look();
        self.press(Input::Arena { leased, segments });
        if let Some(bytes) = refused {
            self.press(Input::Refused { bytes });
        }
    }

    /// A process waits for a copy that is in a file.
    pub(crate) fn wait_for_file(&mut self, process: ProcessId, object: ObjectId) {
        self.pressing.waiting.entry(object).or_default().push(process);
        self.press(Input::Wanted { object });
    }

    /// A process has died: of what comes back it reads nothing, and so keeps nothing in memory.
    pub(crate) fn waits_no_more(&mut self, process: ProcessId) {
        self.pressing.waiting.retain(|_, waiting| {
            waiting.retain(|waits| *waits != process);
            !waiting.is_empty()
        });
    }

    /// Another node wants to read a copy: whether it is in a file, and that node is answered when it is back.
    pub(crate) fn waits_for_file(&mut self, node: NodeId, object: ObjectId) -> bool {
        let is_in_file = self.objects.copy(object).is_some_and(|copy| matches!(copy.kept, Kept::Spilled { .. }));
        if is_in_file {
            self.pressing.askers.entry(object).or_default().insert(node);
            self.press(Input::Wanted { object });
        }
        is_in_file
    }

    fn answer_nodes(&mut self, object: ObjectId) {
        for node in self.pressing.askers.remove(&object).into_iter().flatten() {
            let copy = self.objects.shown_copy(object);
            self.tell_node(node, &ClusterTalk::CopyIs { object, copy });
        }
    }

    /// A copy is not this node's any more.
    pub(crate) fn copy_is_over(&mut self, object: ObjectId, stay: Stay) {
        if let Some(slot) = stay.slot {
            self.pressing.spills.free(slot);
        }
        self.press(Input::Freed { object });
        self.answer_nodes(object);
        // Whoever waited for it hears what there is now.
        for process in self.pressing.waiting.remove(&object).unwrap_or_default() {
            self.hear_of_object(ownership::Input::Wanted { process, object });
        }
    }

    /// The node begins anew, with nothing.
    pub(crate) fn nothing_is_kept(&mut self) {
        let slots: Vec<Slot> = self.objects.copies().filter_map(|(_, copy)| copy.stay.slot).collect();
        slots.into_iter().for_each(|slot| self.pressing.spills.free(slot));
        self.pressing.machine = Pressure::new(self.config.store_bytes, SEGMENTS_MAX);
        self.pressing.waiting.clear();
        self.pressing.askers.clear();
    }

    fn relieve(&mut self, output: Output) {
        match output {
            Output::GiveUp { object } => self.give_up(object),
            Output::Evict { object } => self.evict(object),
            Output::Spill { object } => self.spill(object),
            Output::LetGo { object } => self.have_let_go(object),
            Output::Restore { object, is_beyond } => self.bring_back(object, is_beyond),
            Output::NoRoom { object } => self.has_no_room(object),
            Output::Disk { is_full: true } => {
                tracing::warn!("OutOfDisk: nothing more is written to the spill folder, which has no room");
            }
            Output::Disk { is_full: false } => tracing::info!("the spill folder has room again"),
        }
    }

    fn give_up(&mut self, object: ObjectId) {
        if !self.objects.may_give_up(object) {
            // The owner has said meanwhile that this one must stay.
            return self.note_kept(object, true);
        }
        let Some(copy) = self.objects.take_copy(object) else { return };
        self.hear_of_object(ownership::Input::Moved { object, to: None });
        self.leave_memory(object, copy);
        self.perform_objects();
    }

    /// The machine knows a copy from now on, if it is in shared memory.
    pub(crate) fn note_kept(&mut self, object: ObjectId, is_primary: bool) {
        let Some(Copy { kept: Kept::Lent { at, bytes, .. }, .. }) = self.objects.copy(object) else { return };
        let (segment, bytes) = (at.segment, *bytes);
        self.press(Input::Kept { object, segment, bytes, is_primary });
    }

    fn evict(&mut self, object: ObjectId) {
        let node = self.node;
        let Some(copy) = self.objects.copy_mut(object) else { return };
        let spilled = Copy {
            kept: Kept::Spilled { bytes: copy.kept.bytes() },
            keeper: node.into(),
            digest: copy.digest,
            inner: copy.inner.clone(),
            readers: BTreeMap::new(),
            stay: copy.stay,
            shown: None,
        };
        let old = std::mem::replace(copy, spilled);
        self.hear_of_object(ownership::Input::Moved { object, to: Some(Place::Spilled) });
        self.leave_memory(object, old);
    }

    /// Its keeper is told, and gives back what is empty at once.
    fn leave_memory(&mut self, object: ObjectId, copy: Copy) {
        // Who keeps it may have it in a segment of another, which is that one's to give back.
        let writer = copy.segment().and_then(|segment| self.arena.writer_of(segment));
        let told = [Some(copy.keeper), writer.filter(|writer| *writer != copy.keeper)];
        self.part_from(object, copy);
        for process in told.into_iter().flatten().filter(|process| self.roster.get(*process).is_some()) {
            self.routes.tell(process, &FromNode::Object(ObjectAnswer::LetGo { object }));
        }
    }

    fn spill(&mut self, object: ObjectId) {
        let Some(copy) = self.objects.copy(object) else { return };
        let (stamp, place) = (copy.stay.stamp, copy.kept.clone());
        let Kept::Lent { at, bytes, .. } = place else { return };
        let seen = self.arena.kept(at, bytes).map(|view| (view, self.arena.job_of(at.segment)));
        match seen {
            Ok((view, Some(job))) => {
                if let Some(copy) = self.objects.copy_mut(object) {
                    copy.stay.home = Some((job, at.offset % ALIGNMENT as u64));
                }
                self.pressing.spills.write(object, stamp, view);
            }
            seen => {
                let error = seen.err();
                tracing::warn!(%object, ?error, "its bytes cannot be read where they are said to be");
                self.press(Input::Spilled { object, written: Written::DiskFull });
            }
        }
    }

    fn have_let_go(&self, object: ObjectId) {
        let Some(copy) = self.objects.copy(object) else { return };
        let mut told: Vec<ProcessId> = copy.readers.values().copied().collect();
        told.push(copy.keeper);
        told.sort_unstable();
        told.dedup();
        for process in told.into_iter().filter(|process| self.roster.get(*process).is_some()) {
            self.routes.tell(process, &FromNode::Object(ObjectAnswer::LetGo { object }));
        }
    }

    fn bring_back(&mut self, object: ObjectId, is_beyond: bool) {
        let Some(Copy { stay: Stay { stamp, slot: Some(slot), home: Some((job, skew)) }, kept, .. }) =
            self.objects.copy(object)
        else {
            return self.press(Input::Restored { object, segment: None });
        };
        let (arena, node, job, skew) = (self.arena.clone(), ProcessId::from(self.node), *job, *skew);
        let bytes = kept.bytes();
        let room = move || arena.bring(node, job, bytes + skew, is_beyond);
        self.pressing.spills.read(object, *stamp, *slot, (Box::new(room), skew));
    }

    fn has_no_room(&mut self, object: ObjectId) {
        let Some(bytes) = self.objects.copy(object).map(|copy| copy.kept.bytes()) else { return };
        let kept = self.store_full(bytes);
        self.answer_nodes(object);
        for process in self.pressing.waiting.remove(&object).unwrap_or_default() {
            self.tell_ready(process, object, (kept.clone(), self.node.into(), Vec::new()));
        }
    }

    /// What those hear who wait for so many bytes, for which there is no room.
    pub(crate) fn store_full(&self, bytes: u64) -> Kept {
        let usage = self.arena.usage();
        let full = NotStarted::StoreFull { bytes, in_use: usage.leased, budget: usage.budget };
        Kept::Failed(Box::new(CallError::NotStarted(full)))
    }

    /// The files have done something.
    pub(crate) fn spill_done(&mut self, done: Done) {
        match done {
            Done::Written { object, stamp, result } => self.written(object, stamp, result),
            Done::Read { object, stamp, result } => self.read_back(object, stamp, result),
            Done::Freed => self.press(Input::FileFreed),
        }
        self.perform_objects();
    }

    fn written(&mut self, object: ObjectId, stamp: u64, result: io::Result<Slot>) {
        let copy = self.objects.copy_mut(object).filter(|copy| copy.stay.stamp == stamp);
        let written = match (copy, result) {
            (Some(copy), Ok(slot)) => {
                copy.stay.slot = Some(slot);
                Written::Whole
            }
            (None, Ok(slot)) => return self.pressing.spills.free(slot),
            (None, Err(_)) => return,
            (Some(_), Err(error)) => {
                if !self.pressing.is_disk_full() {
                    tracing::warn!(%object, %error, "it is not written to the spill folder");
                }
                Written::DiskFull
            }
        };
        self.press(Input::Spilled { object, written });
    }

    fn read_back(
        &mut self,
        object: ObjectId,
        stamp: u64,
        result: Result<Result<SegmentId, NoSegment>, (io::Error, SegmentId)>,
    ) {
        let node = self.node;
        let copy = self.objects.copy_mut(object).filter(|copy| copy.stay.stamp == stamp);
        match (copy, result) {
            (Some(copy), Ok(Ok(segment))) => {
                let skew = copy.stay.home.map_or(0, |(_, skew)| skew);
                let at = Extent { segment, offset: skew };
                (copy.kept, copy.keeper) = (Kept::Lent { at, bytes: copy.kept.bytes(), is_own: true }, node.into());
                let (bytes, digest) = (copy.kept.bytes(), copy.digest);
                copy.shown = Some(self.hauls.copies.show(object, digest, at, bytes));
                self.hear_of_object(ownership::Input::Moved { object, to: Some(Place::Arena) });
                self.answer_nodes(object);
                // They are readers before it may leave again.
                for process in self.pressing.waiting.remove(&object).unwrap_or_default() {
                    self.object_is_ready(process, object);
                }
                self.press(Input::Restored { object, segment: Some(segment) });
            }
            (None, Ok(Ok(segment))) => self.arena.give_up(segment),
            (Some(_), Ok(Err(no))) => {
                tracing::debug!(%object, %no, "there is no room yet to read it back");
                self.press(Input::Restored { object, segment: None });
            }
            (Some(_), Err((error, segment))) => {
                self.arena.give_up(segment);
                tracing::error!(%object, %error, "what was spilled cannot be read back");
                let Some(copy) = self.objects.take_copy(object) else { return };
                let loss = Loss::FileLost { node, why: error.to_string() };
                self.hear_of_object(ownership::Input::Vanished { object, loss });
                self.copy_is_over(object, copy.stay);
            }
            (None, Err((_, segment))) => self.arena.give_up(segment),
            (None, Ok(Err(_))) => {}
        }
    }

    pub(crate) fn tick_pressure(&mut self) {
        self.press(Input::Tick);
        self.perform_objects();
    }
}
