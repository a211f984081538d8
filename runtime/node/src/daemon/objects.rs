//! The objects of this node: drives [`mobula_logic::ownership`], and knows where each copy is kept.
//!
//! | a copy is kept | by | until |
//! |---|---|---|
//! | inline | this node, with what it knows of the object | nobody holds it |
//! | in a segment | the process that wrote it, which is told when that is over; when it has ended, this node | nobody holds it, and nobody reads it |
//! | in a file | this node, which reads it into a segment of its own when it is wanted (`pressure`) | nobody holds it |
//! | apart | a process in its own memory | the same, or that process ends |
//!
//! Moves no bytes but small ones: what another node has a copy of comes by `pulls`, and one of the processes that want it
//! keeps it for this node then.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Weak;

use mobula_logic::ownership::{Birth, HolderWord, Input, Output, Ownership, Place, Record, Seal};
use mobula_logic::pressure;
use mobula_types::state::Listed;
use mobula_types::{Death, DeathCause, Digest, Loss, NodeId, ObjectId, ProcessId, StateMachine, Time};
use mobula_wire::cluster::ClusterTalk;
use mobula_wire::local::FromNode;
use mobula_wire::objects::{Copied, Kept, Letter, ObjectAnswer, ObjectWord, SITES_MAX, Word};
use mobula_wire::segments::SegmentId;
use mobula_wire::{ExchangeId, Extent, Parcel, Talk};

use super::copies::Shown;
use super::gather::OBJECT;
use super::pressure::Stay;
use super::state::State;
use super::tool::name;

/// Messages of which the end was heard before the beginning: they come by different roads. Of one that is forgotten, what
/// it names is held as long as its receiver lives.
const EARLY_MAX: usize = 1 << 16;

/// What the name of a place in code may take.
const SITE_BYTES_MAX: usize = 256;

/// Objects of a node that are listed: the list of a cluster is bounded too.
const LISTED_MAX: usize = 10_000;

/// Small bytes that are on their way to one process: a quarter of what may wait for it in all. The rest follows when it has
/// taken some.
const READY_BYTES_MAX: u64 = 16 << 20;

/// What an answer takes beside the bytes in it.
const ANSWER_BYTES: u64 = 256;

/// Small bytes of other nodes' objects that came before the word that they are there: as many as one letter has words, for
/// each of two letters.
const STASHED_MAX: usize = 512;

/// The objects that this node owns, and its copies.
pub(crate) struct Objects {
    machine: Ownership,
    /// How many words were heard of each process.
    heard: HashMap<ProcessId, u64>,
    /// Where in its code each process makes objects, in the order of its numbers; of one that has ended, as long as there
    /// are objects of its.
    sites: HashMap<ProcessId, Vec<String>>,
    copies: HashMap<ObjectId, Copy>,
    /// Copies that are not counted on any more, and still read.
    parting: Vec<(ObjectId, Copy)>,
    /// Who waits for what.
    wanting: BTreeMap<ObjectId, BTreeSet<ProcessId>>,
    /// Messages to processes of this node, by who sent them and the number there.
    messages: HashMap<(ProcessId, u64), Message>,
    /// Those that were taken, and by whom, before this node heard of them.
    early: HashSet<(ProcessId, (ProcessId, u64))>,
    /// Answers that their processes have not taken, by their number as messages, and the small bytes in them.
    ready: HashMap<u64, (ProcessId, u64)>,
    readers: HashMap<ProcessId, Reader>,
    /// Small bytes of other nodes' objects.
    stash: HashMap<ObjectId, (Kept, Vec<ObjectId>)>,
}

/// A message as the machine knows it.
#[derive(Clone, Copy)]
struct Message {
    from: NodeId,
    number: u64,
    to: ProcessId,
}

/// A process to which small bytes are on their way.
#[derive(Default)]
struct Reader {
    bytes: u64,
    /// What it can read too, when it has taken some of them.
    late: VecDeque<ObjectId>,
}

impl Reader {
    /// What it is told of next, if there is room for any small value.
    fn next(&mut self) -> Option<ObjectId> {
        if self.bytes < READY_BYTES_MAX / 2 { self.late.pop_front() } else { None }
    }
}

pub(crate) struct Copy {
    pub(crate) kept: Kept,
    pub(crate) keeper: ProcessId,
    pub(crate) digest: Digest,
    pub(crate) inner: Vec<ObjectId>,
    /// By the numbers of the answers by which they were told where it is.
    pub(crate) readers: BTreeMap<u64, ProcessId>,
    /// When memory is short.
    pub(crate) stay: Stay,
    /// What other nodes may read of it.
    pub(crate) shown: Option<Weak<Shown>>,
}

impl Copy {
    pub(crate) fn segment(&self) -> Option<SegmentId> {
        self.place().map(|at| at.segment)
    }

    fn place(&self) -> Option<Extent> {
        match &self.kept {
            Kept::Lent { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// Whether somebody reads it, here or on another host.
    fn is_read(&self) -> bool {
        !self.readers.is_empty() || self.shown.as_ref().is_some_and(|shown| shown.strong_count() > 0)
    }

    /// Whether it is gone with its keeper.
    fn is_mortal(&self) -> bool {
        matches!(self.kept, Kept::Apart { .. } | Kept::Lent { is_own: false, .. })
    }
}

impl Objects {
    pub(crate) fn new(node: NodeId) -> Self {
        Self {
            machine: Ownership::new(node),
            heard: HashMap::new(),
            sites: HashMap::new(),
            copies: HashMap::new(),
            parting: Vec::new(),
            wanting: BTreeMap::new(),
            messages: HashMap::new(),
            early: HashSet::new(),
            ready: HashMap::new(),
            readers: HashMap::new(),
            stash: HashMap::new(),
        }
    }

    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.machine.next_timeout()
    }

    /// Objects of which the node knows.
    pub(crate) fn count(&self) -> u64 {
        self.machine.open().0 as u64
    }

    pub(crate) fn copies(&self) -> impl Iterator<Item = (&ObjectId, &Copy)> {
        self.copies.iter()
    }

    pub(crate) fn copy(&self, object: ObjectId) -> Option<&Copy> {
        self.copies.get(&object)
    }

    pub(crate) fn copy_mut(&mut self, object: ObjectId) -> Option<&mut Copy> {
        self.copies.get_mut(&object)
    }

    /// It is not this node's any more.
    pub(crate) fn take_copy(&mut self, object: ObjectId) -> Option<Copy> {
        self.copies.remove(&object)
    }

    /// Whether another copy stays if this node's is given up.
    pub(crate) fn may_give_up(&self, object: ObjectId) -> bool {
        self.machine.may_give_up(object)
    }

    /// Who waits for an object.
    pub(crate) fn wanting(&self, object: ObjectId) -> Vec<ProcessId> {
        self.wanting.get(&object).into_iter().flatten().copied().collect()
    }

    /// A copy that other nodes may read.
    pub(crate) fn shown_copy(&self, object: ObjectId) -> Option<Copied> {
        let Copy { kept, digest, inner, shown, .. } = self.copies.get(&object)?;
        shown.as_ref()?;
        Some(Copied { bytes: kept.bytes(), digest: *digest, inner: inner.clone() })
    }

    /// Whether it is `shown`.
    pub(crate) fn is_shown(&self, object: ObjectId, shown: &Weak<Shown>) -> bool {
        let copy = self.copies.get(&object).and_then(|copy| copy.shown.as_ref());
        copy.is_some_and(|copy| copy.ptr_eq(shown))
    }

    fn copies_of(&self, segment: SegmentId) -> bool {
        let parting = self.parting.iter().map(|(_, copy)| copy);
        self.copies.values().chain(parting).any(|copy| copy.segment() == Some(segment))
    }
}

impl State {
    /// The objects of this node, for lists.
    pub(crate) fn listed_objects(&self) -> Vec<Listed> {
        let node = |node: &NodeId| node.to_string();
        let holder = |holder: ProcessId| match holder.number() {
            0 => holder.node().to_string(),
            _ => name(holder),
        };
        let made_at = |object: ObjectId, site: u32| {
            let number = usize::try_from(site).ok()?.checked_sub(1)?;
            self.objects.sites.get(&object.owner)?.get(number).cloned()
        };
        let line = |Record { object, state, loss, bytes, copies, site, holders }: Record| {
            let place = self.objects.copies.get(&object).map(|copy| match copy.kept {
                Kept::Inline(_) => "with its node",
                Kept::Failed(_) => "it is an error",
                Kept::Lent { .. } => "in the store",
                Kept::Apart { .. } => "in its process",
                Kept::Spilled { .. } => "spilled",
            });
            Listed {
                id: object.to_string(),
                kind: OBJECT.to_owned(),
                name: place.unwrap_or_default().to_owned(),
                job_id: self.roster.get(object.owner).map(|resident| resident.job.to_string()),
                node_id: Some(self.node.to_string()),
                state: state.to_owned(),
                cause: loss.map(|loss| self.explained(loss).to_string()),
                bytes,
                made_at: made_at(object, site),
                copies: copies.iter().map(node).collect(),
                held_by: holders.into_iter().map(holder).collect(),
                ..Listed::default()
            }
        };
        self.objects.machine.records().take(LISTED_MAX).map(line).collect()
    }

    pub(crate) fn hear_of_object(&mut self, input: Input) {
        self.objects.machine.handle(self.clock.now(), input);
    }

    /// A process may hold objects from now on.
    pub(crate) fn objects_attached(&mut self, process: ProcessId) {
        self.hear_of_object(Input::Attached { process });
    }

    pub(crate) fn tick_objects(&mut self) {
        self.tick_pulls();
        self.hear_of_object(Input::Tick);
        self.perform_objects();
    }

    /// A process of this node says something of objects.
    pub(crate) fn said_of_objects(&mut self, process: ProcessId, words: Vec<ObjectWord>) {
        for word in words {
            self.hear_word(process, word);
            self.perform_objects();
        }
    }

    fn hear_word(&mut self, process: ProcessId, word: ObjectWord) {
        let word = match word {
            ObjectWord::Site { number, mut place } => {
                let sites = self.objects.sites.entry(process).or_default();
                if sites.len() < SITES_MAX && usize::try_from(number).is_ok_and(|number| number == sites.len() + 1) {
                    place.truncate(place.floor_char_boundary(SITE_BYTES_MAX));
                    sites.push(place);
                }
                return;
            }
            ObjectWord::New { object, site } => HolderWord::New { object, birth: Birth::Later { site } },
            ObjectWord::Hold { object } => HolderWord::Hold { object },
            ObjectWord::Release { object } => {
                self.read_no_more(process, object);
                self.wants_no_more(process, object);
                HolderWord::Release { object }
            }
            ObjectWord::Unread { object, number } => return self.read_once_less(process, object, number),
            ObjectWord::Sealed { object, kept, inner } if object.owner == process => {
                return self.made(process, object, 1, kept, Digest::default(), inner);
            }
            ObjectWord::Wanted { object } => {
                self.objects.wanting.entry(object).or_default().insert(process);
                return self.hear_of_object(Input::Wanted { process, object });
            }
            ObjectWord::Sends { number, to, objects } => return self.objects_leave(process, number, to, objects),
            ObjectWord::Dropped { number } => return self.objects_dropped(process, number),
            ObjectWord::Taken { from, number } => return self.objects_taken(process, from, number),
            ObjectWord::Room { object, at } => return self.room_made(process, object, at),
            ObjectWord::NoRoom { object, is_full } => return self.no_room(process, object, is_full),
            ObjectWord::Copied { object, kept, digest, inner } if self.pulls.is_kept_by(object, process) => {
                return self.copied(process, object, kept, digest, inner);
            }
            ObjectWord::MadeAt { object, at, bytes, digest, inner, recipe } if object.owner == process => {
                if let Some(recipe) = recipe {
                    self.hear_of_object(Input::Recipe { object, recipe });
                }
                let seal = Seal { at, place: Place::Arena, bytes, digest, inner };
                return self.hear_of_object(Input::Made { object, run: 1, seal });
            }
            ObjectWord::MadeAgainAt { object, run, at, bytes, digest, inner } if object.owner == process => {
                let seal = Seal { at, place: Place::Arena, bytes, digest, inner };
                return self.hear_of_object(Input::Made { object, run, seal });
            }
            ObjectWord::MadeAgain { object, run, kept, digest, inner } if object.owner == process => {
                return self.made(process, object, run, kept, digest, inner);
            }
            ObjectWord::NotMade { object, run } if object.owner == process => {
                return self.hear_of_object(Input::NotMade { object, run });
            }
            ObjectWord::Stored { object, kept, digest, inner } if object.owner.node() != self.node => {
                return self.stored(process, object, kept, digest, inner);
            }
            ObjectWord::NotPulled { object } if self.pulls.is_kept_by(object, process) => {
                return self.not_pulled(object);
            }
            _ => return tracing::debug!(%process, "it speaks of objects that are not its own"),
        };
        let heard = self.objects.heard.entry(process).or_default();
        *heard += 1;
        let number = *heard;
        self.hear_of_object(Input::Holds { process, number, word });
    }

    fn made(
        &mut self,
        process: ProcessId,
        object: ObjectId,
        run: u32,
        kept: Kept,
        digest: Digest,
        inner: Vec<ObjectId>,
    ) {
        let place = if kept.is_inline() { Place::Inline } else { Place::Arena };
        let seal = Seal { at: self.node, place, bytes: kept.bytes(), digest, inner: inner.clone() };
        self.keep(process, object, (kept, digest, inner), true);
        self.hear_of_object(Input::Made { object, run, seal });
    }

    /// A process has made an object for one of another node.
    fn stored(&mut self, process: ProcessId, object: ObjectId, kept: Kept, digest: Digest, inner: Vec<ObjectId>) {
        if self.keep(process, object, (kept, digest, inner), true) {
            self.hear_of_object(Input::Copied { object, digest, is_primary: true });
        }
    }

    /// A process keeps bytes for this node; false when there were some, and it need not.
    fn keep(
        &mut self,
        process: ProcessId,
        object: ObjectId,
        (kept, digest, inner): (Kept, Digest, Vec<ObjectId>),
        is_primary: bool,
    ) -> bool {
        // Only a node has files.
        if let Kept::Spilled { .. } = kept {
            self.routes.tell(process, &FromNode::Object(ObjectAnswer::Freed { object, at: None }));
            return false;
        }
        let is_new = !self.objects.copies.contains_key(&object);
        let shown = match is_new {
            true => self.shown(process, object, &kept, digest),
            false => self.pulls.shown_of(object, process),
        };
        let stay = self.pressing.stay();
        let copy = Copy { kept, keeper: process, digest, inner, readers: BTreeMap::new(), stay, shown };
        if is_new {
            self.objects.copies.insert(object, copy);
            self.note_kept(object, is_primary);
        } else {
            self.part_from(object, copy);
        }
        is_new
    }

    /// Lets other nodes read a copy where it lies, if it is its process's own: of others' segments nobody but the process
    /// that keeps them knows how long they stay.
    fn shown(&self, process: ProcessId, object: ObjectId, kept: &Kept, digest: Digest) -> Option<Weak<Shown>> {
        let &Kept::Lent { at, bytes, is_own: true } = kept else { return None };
        let job = self.roster.get(process).map(|resident| resident.job)?;
        (self.arena.job_of(at.segment) == Some(job)).then(|| self.hauls.copies.show(object, digest, at, bytes))
    }

    fn copied(&mut self, process: ProcessId, object: ObjectId, kept: Kept, digest: Digest, inner: Vec<ObjectId>) {
        if kept.is_inline() {
            return self.not_pulled(object);
        }
        let is_new = self.keep(process, object, (kept, digest, inner), false);
        self.pull_over(object);
        self.end_parted();
        if is_new {
            self.hear_of_object(Input::Copied { object, digest, is_primary: false });
        }
    }

    fn objects_leave(&mut self, process: ProcessId, number: u64, to: ProcessId, objects: Vec<ObjectId>) {
        let Some(message) = self.objects.machine.send(to.node(), &objects) else {
            tracing::debug!(%process, %to, "what a message names is not held for it");
            return;
        };
        if to.node() == self.node {
            self.objects_come((process, number), Message { from: self.node, number: message, to }, objects);
        } else {
            let said = ClusterTalk::ObjectsSent { by: process, number, message, to, objects };
            self.tell_node(to.node(), &said);
        }
    }

    /// A message is on its way to a process of this node, from another node or this one.
    fn objects_come(&mut self, key: (ProcessId, u64), message: Message, objects: Vec<ObjectId>) {
        let Message { from, number, to } = message;
        self.hear_of_object(Input::Arrived { from, number, process: to, objects });
        if self.objects.early.remove(&(to, key)) {
            self.hear_of_object(Input::Taken { from, number });
        } else if self.roster.get(to).is_some() {
            self.objects.messages.insert(key, message);
        }
    }

    fn objects_dropped(&mut self, process: ProcessId, number: u64) {
        if self.objects.messages.contains_key(&(process, number)) {
            return self.message_is_over((process, number));
        }
        // It was for a process of another node: that one says the rest.
        self.tell_nodes(&ClusterTalk::ObjectsDropped { by: process, number });
    }

    /// A process has taken a message of `by`: what it names is held by the process itself now. Only for whom a message is
    /// can say so, or another's would be freed on its way.
    fn objects_taken(&mut self, process: ProcessId, by: ProcessId, number: u64) {
        if by == ProcessId::from(self.node) {
            let is_its_own = self.objects.ready.get(&number).is_some_and(|(reader, _)| *reader == process);
            if is_its_own {
                self.hear_of_object(Input::Taken { from: self.node, number });
                self.answer_taken(number);
            }
            return;
        }
        match self.objects.messages.get(&(by, number)) {
            Some(message) if message.to == process => self.message_is_over((by, number)),
            Some(message) => tracing::debug!(%process, to = %message.to, "another's message is not its to take"),
            None if self.routes.death(by).is_none() && self.objects.early.len() < EARLY_MAX => {
                self.objects.early.insert((process, (by, number)));
            }
            None => {}
        }
    }

    /// A message has been taken, or never left: it holds nothing any more.
    fn message_is_over(&mut self, key: (ProcessId, u64)) {
        if let Some(Message { from, number, .. }) = self.objects.messages.remove(&key) {
            self.hear_of_object(Input::Taken { from, number });
        }
    }

    /// Another node says something of objects.
    pub(crate) fn node_said_of_objects(&mut self, from: NodeId, said: ClusterTalk) {
        match said {
            ClusterTalk::Objects(letter) => self.hear_of_object(Input::Said { from, letter }),
            ClusterTalk::ObjectBytes { object, kept, inner } if kept.is_inline() && object.owner.node() == from => {
                if self.objects.stash.len() < STASHED_MAX {
                    self.objects.stash.insert(object, (kept, inner));
                }
                return;
            }
            ClusterTalk::CopyAsked { object } => return self.copy_asked(from, object),
            ClusterTalk::CopyIs { object, copy } => self.copy_is(from, object, copy),
            ClusterTalk::ObjectsSent { by, number, message, to, objects } if by.node() == from => {
                self.objects_come((by, number), Message { from, number: message, to }, objects);
            }
            ClusterTalk::ObjectsDropped { by, number } if by.node() == from => self.message_is_over((by, number)),
            _ => {}
        }
        self.perform_objects();
        self.objects.stash.retain(|object, _| object.owner.node() != from);
    }

    /// A process of another node wants an object of which this one has a copy.
    pub(crate) fn keeper_asked(&self, by: ProcessId, exchange: ExchangeId, object: ObjectId) {
        let keeper = self.objects.copies.get(&object).and_then(|copy| Some((self.server_of(copy)?, copy.digest)));
        self.routes.send(&Parcel {
            to: by,
            from: self.node.into(),
            talk: Talk::KeptBy { exchange, keeper },
            payload: bytes::Bytes::new(),
        });
    }

    /// A process here that can send the bytes of a copy to another: who keeps it, or another of the same job, which can read
    /// them.
    fn server_of(&self, copy: &Copy) -> Option<ProcessId> {
        if self.roster.get(copy.keeper).is_some_and(|resident| resident.is_attached) {
            return Some(copy.keeper);
        }
        let job = copy.segment().and_then(|segment| self.arena.job_of(segment)).or(copy.stay.job())?;
        let able = self
            .roster
            .all()
            .find(|(_, resident)| resident.job == job && resident.is_attached && resident.pid.is_some());
        able.map(|(number, _)| ProcessId::new(self.node, number))
    }

    pub(crate) fn perform_objects(&mut self) {
        while let Some(output) = self.objects.machine.poll_output() {
            match output {
                Output::Say { to, letter } => self.say_of_objects(to, letter),
                Output::Ready { process, object } => self.object_is_ready(process, object),
                Output::Lost { process, object, loss } => {
                    self.wants_no_more(process, object);
                    let loss = self.explained(loss);
                    self.routes.tell(process, &FromNode::Object(ObjectAnswer::Lost { object, loss }));
                }
                Output::NoRoom { process, object, bytes } => {
                    self.wants_no_more(process, object);
                    self.tell_ready(process, object, (self.store_full(bytes), self.node.into(), Vec::new()));
                }
                Output::Pull { object, sources, .. } => self.have_pulled(object, sources),
                Output::Run { object, run, .. } => self.have_run(object, run),
                Output::Forgotten { object } => {
                    self.tell_maker(object, ObjectAnswer::Forgotten { object });
                }
                Output::Free { object } => self.part_with(object),
                Output::LineageEvicted { object } => {
                    tracing::debug!(%object, "how it is made is forgotten for others");
                }
                Output::Refused { process, object } => tracing::debug!(%process, %object, "it cannot be held"),
                Output::NotCounted { from, number } => tracing::debug!(%from, number, "a message is not counted"),
            }
        }
    }

    /// Has the process run a task again whose object is lost. Only it knows the task: with it, that is forgotten.
    fn have_run(&mut self, object: ObjectId, run: u32) {
        if !self.tell_maker(object, ObjectAnswer::Run { object, run }) {
            self.hear_of_object(Input::NotMade { object, run });
        }
    }

    fn tell_maker(&self, object: ObjectId, said: ObjectAnswer) -> bool {
        let is_here = self.roster.get(object.owner).is_some_and(|resident| resident.is_attached);
        if is_here {
            self.routes.tell(object.owner, &FromNode::Object(said));
        }
        is_here
    }

    fn say_of_objects(&self, to: NodeId, mut letter: Letter) {
        for word in &mut letter.words {
            match word {
                Word::At { object, is_inline: true, .. } => {
                    if let Some(Copy { kept, inner, .. }) = self.objects.copies.get(object) {
                        let (object, kept, inner) = (*object, kept.clone(), inner.clone());
                        self.tell_node(to, &ClusterTalk::ObjectBytes { object, kept, inner });
                    }
                }
                Word::Lost { loss, .. } => *loss = self.explained(loss.clone()),
                _ => {}
            }
        }
        self.tell_node(to, &ClusterTalk::Objects(letter));
    }

    pub(crate) fn object_is_ready(&mut self, process: ProcessId, object: ObjectId) {
        self.wants_no_more(process, object);
        let can_map = self.roster.get(process).is_some_and(|resident| resident.pid.is_some());
        let (kept, keeper, inner) = match self.objects.copies.get(&object) {
            Some(copy) => {
                let keeper = self.server_of(copy).unwrap_or(copy.keeper);
                let kept = match &copy.kept {
                    // It is on another host.
                    Kept::Lent { bytes, .. } if !can_map => Kept::Apart { bytes: *bytes },
                    kept => kept.clone(),
                };
                (kept, keeper, copy.inner.clone())
            }
            None => match self.objects.stash.get(&object) {
                Some((kept, inner)) => (kept.clone(), self.node.into(), inner.clone()),
                None if object.owner.node() == self.node => {
                    // Its keeper has not said that it has them, and is not there to say it.
                    let loss = Loss::NotHeld;
                    self.routes.tell(process, &FromNode::Object(ObjectAnswer::Lost { object, loss }));
                    return;
                }
                None => {
                    // The bytes did not come with the word, or there were too many: it is asked for again.
                    self.objects.wanting.entry(object).or_default().insert(process);
                    return self.hear_of_object(Input::Wanted { process, object });
                }
            },
        };
        if let Kept::Spilled { .. } = kept {
            return self.wait_for_file(process, object);
        }
        self.tell_ready(process, object, (kept, keeper, inner));
    }

    /// Tells a process where it reads an object.
    pub(crate) fn tell_ready(
        &mut self,
        process: ProcessId,
        object: ObjectId,
        (kept, keeper, inner): (Kept, ProcessId, Vec<ObjectId>),
    ) {
        let bytes = if kept.is_inline() { kept.bytes() + ANSWER_BYTES } else { 0 };
        if bytes > 0 {
            let reader = self.objects.readers.entry(process).or_default();
            if reader.bytes > 0 && reader.bytes + bytes > READY_BYTES_MAX {
                return reader.late.push_back(object);
            }
        }
        let names: Vec<ObjectId> = std::iter::once(object).chain(inner.iter().copied()).collect();
        let Some(number) = self.objects.machine.send(self.node, &names) else {
            // As many are on their way as may be: nobody waits for ever.
            let loss = Loss::Unreachable { seconds: 0 };
            return self.routes.tell(process, &FromNode::Object(ObjectAnswer::Lost { object, loss }));
        };
        if bytes > 0 {
            self.objects.readers.entry(process).or_default().bytes += bytes;
        }
        self.objects.ready.insert(number, (process, bytes));
        if let Some(copy) = self.objects.copies.get_mut(&object)
            && !kept.is_inline()
        {
            copy.readers.insert(number, process);
            self.press(pressure::Input::Read { object });
        }
        let from = self.node;
        self.hear_of_object(Input::Arrived { from, number, process, objects: names });
        self.routes.tell(process, &FromNode::Object(ObjectAnswer::Ready { object, number, kept, keeper, inner }));
    }

    /// A process has taken an answer: there is room for others.
    fn answer_taken(&mut self, number: u64) {
        let Some((process, bytes)) = self.objects.ready.remove(&number) else { return };
        let Some(reader) = self.objects.readers.get_mut(&process) else { return };
        reader.bytes -= bytes;
        if reader.bytes == 0 && reader.late.is_empty() {
            self.objects.readers.remove(&process);
        }
        while let Some(object) = self.objects.readers.get_mut(&process).and_then(Reader::next) {
            self.object_is_ready(process, object);
        }
    }

    fn wants_no_more(&mut self, process: ProcessId, object: ObjectId) {
        if let Some(wanting) = self.objects.wanting.get_mut(&object) {
            wanting.remove(&process);
            if wanting.is_empty() {
                self.objects.wanting.remove(&object);
            }
        }
    }

    /// Nothing counts on a copy any more: it is over when nobody reads it.
    fn part_with(&mut self, object: ObjectId) {
        let Some(copy) = self.objects.copies.remove(&object) else { return };
        let stay = copy.stay;
        self.part_from(object, copy);
        self.copy_is_over(object, stay);
    }

    /// Nothing counts any more on a copy where it was.
    pub(crate) fn part_from(&mut self, object: ObjectId, copy: Copy) {
        if let Some(shown) = &copy.shown {
            self.hauls.copies.hide(shown);
        }
        self.objects.parting.push((object, copy));
        self.end_parted();
    }

    /// Those of parted copies that nobody reads any more are over.
    pub(crate) fn end_parted(&mut self) {
        let over: Vec<(ObjectId, Copy)> = self.objects.parting.extract_if(.., |(_, copy)| !copy.is_read()).collect();
        for (object, copy) in over {
            if copy.kept.is_inline() {
                continue;
            }
            if self.roster.get(copy.keeper).is_some() {
                let freed = ObjectAnswer::Freed { object, at: copy.place() };
                self.routes.tell(copy.keeper, &FromNode::Object(freed));
            } else if let Some(segment) = copy.segment()
                && !self.objects.copies_of(segment)
            {
                self.arena.give_up(segment);
            }
        }
    }

    /// A process reads an object no more, however often it was told where.
    fn read_no_more(&mut self, process: ProcessId, object: ObjectId) {
        self.unread(object, |_, reader| *reader == process);
    }

    /// It has read what one answer told it.
    fn read_once_less(&mut self, process: ProcessId, object: ObjectId, number: u64) {
        self.unread(object, |answer, reader| *answer == number && *reader == process);
    }

    fn unread(&mut self, object: ObjectId, is_over: impl Fn(&u64, &ProcessId) -> bool) {
        if let Some(copy) = self.objects.copies.get_mut(&object) {
            let before = copy.readers.len();
            copy.readers.retain(|number, reader| !is_over(number, reader));
            for _ in copy.readers.len()..before {
                self.press(pressure::Input::Unread { object });
            }
        }
        let mut has_changed = false;
        for (_, copy) in self.objects.parting.iter_mut().filter(|(parted, _)| *parted == object) {
            copy.readers.retain(|number, reader| !is_over(number, reader));
            has_changed = true;
        }
        if has_changed {
            self.end_parted();
        }
    }

    /// A process has died, of this node or of another.
    pub(crate) fn objects_process_died(&mut self, death: &Death) {
        let process = death.process;
        self.objects.early.retain(|(reader, (by, _))| *reader != process && *by != process);
        if process.node() != self.node {
            return;
        }
        self.objects.messages.retain(|_, message| message.to != process);
        let gone: Vec<ObjectId> = self
            .objects
            .copies
            .iter()
            .filter(|(_, copy)| copy.keeper == process && copy.is_mortal())
            .map(|(object, _)| *object)
            .collect();
        for object in gone {
            if let Some(copy) = self.objects.copies.remove(&object) {
                self.copy_is_over(object, copy.stay);
            }
            self.hear_of_object(Input::Vanished { object, loss: Loss::MakerDied { death: Box::new(death.clone()) } });
        }
        self.objects.parting.retain(|(_, copy)| !(copy.keeper == process && copy.is_mortal()));
        for (_, copy) in &mut self.objects.parting {
            copy.readers.retain(|_, reader| *reader != process);
        }
        let reads = |copy: &Copy| copy.readers.values().any(|reader| *reader == process);
        let read: Vec<ObjectId> =
            self.objects.copies.iter().filter(|(_, copy)| reads(copy)).map(|(object, _)| *object).collect();
        read.into_iter().for_each(|object| self.read_no_more(process, object));
        for wanting in self.objects.wanting.values_mut() {
            wanting.remove(&process);
        }
        self.objects.wanting.retain(|_, wanting| !wanting.is_empty());
        self.waits_no_more(process);
        self.hear_of_object(Input::Died { process });
        for object in self.pulls.of(process) {
            self.not_pulled(object);
        }
        self.objects.heard.remove(&process);
        let Objects { machine, heard, sites, .. } = &mut self.objects;
        sites.retain(|process, _| heard.contains_key(process) || machine.has_of(*process));
        self.objects.readers.remove(&process);
        self.objects.ready.retain(|_, (reader, _)| *reader != process);
        self.perform_objects();
        let objects = &self.objects;
        self.arena.gone(process, |segment| objects.copies_of(segment));
        self.end_parted();
    }

    /// Another node has died.
    pub(crate) fn objects_node_died(&mut self, node: NodeId) {
        self.objects.early.retain(|(_, (by, _))| by.node() != node);
        self.hear_of_object(Input::Died { process: node.into() });
        self.pulls_without(node);
        self.perform_objects();
    }

    /// A loss with what is known of the death that it is of.
    fn explained(&self, loss: Loss) -> Loss {
        match loss {
            Loss::MakerDied { death } if death.cause == DeathCause::Disconnected => {
                let known = self.routes.death(death.process).map(Box::new);
                Loss::MakerDied { death: known.unwrap_or(death) }
            }
            loss => loss,
        }
    }
}
