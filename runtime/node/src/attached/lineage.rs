//! Values of tasks that stay on the node where they were made, and how they are made again when that node is gone
//! (design.md §6, G10).
//!
//! Where a task ran on another node, its long value is kept there, and its submitter's node is told where it is and how it
//! is made again. The task itself is kept here: its node says when it is to run once more, and when nobody asks for that any
//! more. So what is kept here is bounded by the node's bound for recipes, and ends with this process.

use std::sync::Arc;

use bytes::Bytes;
use mobula_actor::deliver::{Payload, Stored};
use mobula_actor::object::Pins;
use mobula_types::{Deadline, Digest, NodeId, ObjectId, ProcessId, TaskId};
use mobula_wire::INLINE_BYTES_MAX;
use mobula_wire::objects::{Kept, ObjectWord, Recipe};

use crate::encoded::{TaskFrame, TaskReply};
use crate::linked::Linked;
use crate::options::TaskOptions;
use crate::retry::Failed;

use super::process::Process;

/// What a task takes in memory beside its arguments.
const TASK_BYTES: u64 = 512;

/// A task that has made an object and may do so again, and where that is.
pub(super) struct Made {
    at: NodeId,
    bytes: u64,
    /// How it runs again.
    again: Again,
}

#[derive(Clone)]
struct Again {
    function: u64,
    schema: u64,
    options: Arc<TaskOptions>,
    is_sync: bool,
    args: Bytes,
    is_apart: bool,
    arguments: Vec<ObjectId>,
}

impl Process {
    /// The value of a task for a process of another node stays here, if it is long and there is room for it.
    pub(crate) fn stored(self: &Arc<Self>, by: ProcessId, object: Option<ObjectId>, value: Payload) -> Payload {
        let Some(object) = object.filter(|_| by.node() != self.me.node()) else { return value };
        let (bytes, pins) = match value {
            Payload::Value(bytes, pins) if bytes.len() > INLINE_BYTES_MAX => (bytes, pins),
            value => return value,
        };
        let Some(lying) = self.lying_here(&bytes) else { return Payload::Value(bytes, pins) };
        let (digest, length, inner) = (digest(&lying), lying.len() as u64, pins.ids());
        let kept = self.keep_object(object, lying, inner.clone());
        self.note_of_object(ObjectWord::Stored { object, kept, digest, inner });
        // Its node has it before anybody hears of it, should this process end now.
        self.say_of_objects();
        Payload::Stored(Stored { at: self.me.node(), bytes: length, digest, pins })
    }

    /// The same bytes in a segment of this process's own. `None` when there is no room.
    fn lying_here(&self, bytes: &Bytes) -> Option<Bytes> {
        let store = self.store.as_ref()?;
        if store.is_own(bytes) {
            return Some(bytes.clone());
        }
        let mut room = store.room(bytes.len()).ok()?;
        room.copy_from_slice(bytes);
        Some(Bytes::from_owner(room.seal()))
    }

    /// A task of this process's has left its value on another node: what the node is to be told of it, and what holds until
    /// then what that names.
    pub(super) fn made_elsewhere(
        &self,
        object: ObjectId,
        stored: Stored,
        task: TaskId,
        frame: TaskFrame,
    ) -> (ObjectWord, [Pins; 2]) {
        let Stored { at, bytes, digest, pins } = stored;
        let TaskFrame { function, schema, options, is_sync, args, is_apart, pins: given, .. } = frame;
        let arguments = given.ids();
        let recipe = (!options.at_most_once).then(|| Recipe {
            task,
            arguments: arguments.clone(),
            bytes: TASK_BYTES + args.len() as u64,
            runs_max: options.max_retries.saturating_add(1),
        });
        if recipe.is_some() {
            let again = Again { function, schema, options, is_sync, args, is_apart, arguments };
            self.objects.books.lock().lineage.insert(object, Made { at, bytes, again });
        }
        (ObjectWord::MadeAt { object, at, bytes, digest, inner: pins.ids(), recipe }, [pins, given])
    }

    /// The node on which most bytes of these arguments are, of those of which that is known.
    pub(super) fn most_bytes(&self, arguments: &Pins) -> Option<NodeId> {
        if arguments.is_empty() {
            return None;
        }
        let mut nodes: Vec<(u64, NodeId)> = Vec::new();
        let books = self.objects.books.lock();
        let place = |object: &ObjectId| match (books.kept.any(*object), books.lineage.get(object)) {
            (Some((bytes, _)), _) => Some((self.me.node(), bytes.len() as u64)),
            (None, Some(Made { at, bytes, .. })) => Some((*at, *bytes)),
            (None, None) => None,
        };
        for (at, bytes) in arguments.ids().iter().filter_map(place) {
            match nodes.iter_mut().find(|(_, node)| *node == at) {
                Some((sum, _)) => *sum += bytes,
                None => nodes.push((bytes, at)),
            }
        }
        nodes.into_iter().max().map(|(_, node)| node)
    }

    /// The task that made an object runs once more.
    pub(super) fn run_again(self: &Arc<Self>, object: ObjectId, run: u32) {
        let again = self.objects.books.lock().lineage.get(&object).map(|made| made.again.clone());
        let Some(Again { function, schema, options, is_sync, args, is_apart, arguments }) = again else {
            return self.note_of_object(ObjectWord::NotMade { object, run });
        };
        tracing::info!(%object, run, "its copies are lost: it is made again");
        let frame = TaskFrame {
            run: None,
            function,
            schema,
            options,
            is_sync,
            deadline: Deadline::NEVER,
            given: None,
            args,
            is_apart,
            // The node holds them while it runs.
            pins: Pins::named(&arguments),
            room: None,
        };
        let process = self.clone();
        let answer = move |answer: Result<Payload, Failed>| process.ran_again(object, run, answer);
        let max = self.system().map_or(0, |system| system.value_bytes_max());
        let reply = TaskReply {
            answer: Box::new(answer),
            call: Linked::to(None),
            value_bytes_max: max,
            object: Some(object),
            is_again: true,
        };
        self.submit_task(frame, reply, None);
    }

    fn ran_again(self: &Arc<Self>, object: ObjectId, run: u32, answer: Result<Payload, Failed>) {
        match answer {
            Ok(Payload::Stored(Stored { at, bytes, digest, pins })) => {
                let inner = pins.ids();
                if let Some(made) = self.objects.books.lock().lineage.get_mut(&object) {
                    made.at = at;
                }
                self.note_of_object(ObjectWord::MadeAgainAt { object, run, at, bytes, digest, inner });
            }
            Ok(Payload::Value(bytes, pins)) => {
                let (digest, inner) = (digest(&bytes), pins.ids());
                let kept = match self.lying_here(&bytes) {
                    _ if bytes.len() <= INLINE_BYTES_MAX => Kept::Inline(bytes),
                    lying => self.keep_object(object, lying.unwrap_or(bytes), inner.clone()),
                };
                self.note_of_object(ObjectWord::MadeAgain { object, run, kept, digest, inner });
            }
            Ok(Payload::Stream(_)) => self.note_of_object(ObjectWord::NotMade { object, run }),
            Err(failed) => {
                tracing::warn!(%object, run, error = %failed.error, "it is not made again");
                self.note_of_object(ObjectWord::NotMade { object, run });
            }
        }
    }
}

/// Which bytes these are. Nobody makes others on purpose: half of the hash is enough.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    let hash = blake3::hash(bytes);
    let (half, _) = hash.as_bytes().split_at(16);
    Digest(u128::from_le_bytes(half.try_into().unwrap_or_default()))
}
