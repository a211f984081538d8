//! Objects of which another node has a copy, and somebody here wants one: the node gets it, into memory that one of those
//! who want it makes room in.
//!
//! ```text
//! asking ──a node has a copy──► making ──there is room──► filling ──whole──► keeping ──► copied
//!   │ nobody has one that        │ │ the store is full       │ not whole
//!   │ nodes can read             │ └────────► over: whoever   │
//!   │                            │ there is   waits hears     │
//!   │                            ▼ no store   StoreFull       ▼
//!   └──────────────────────► apart: the process fetches it itself ◄─┘  (or not pulled, when all are dead)
//! ```
//!
//! Several may be asked for the bytes ([`haul`](mobula_logic::haul)), also those that are getting them just now. A node that
//! asks for what is only being asked for here is answered as soon as its bytes begin to come.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Weak;
use std::time::Duration;

use mobula_logic::haul::Sources;
use mobula_logic::ownership::Input;
use mobula_types::{NodeId, ObjectId, ProcessId, Time};
use mobula_wire::cluster::ClusterTalk;
use mobula_wire::local::FromNode;
use mobula_wire::objects::{Copied, ObjectAnswer};
use mobula_wire::{Extent, INLINE_BYTES_MAX};

use super::copies::Shown;
use super::state::State;

/// A node says at once whether it has a copy, or when it has begun to get one. After this another is asked.
const ANSWERED_WITHIN: Duration = Duration::from_secs(5);

/// What is being got from other nodes.
#[derive(Default)]
pub(crate) struct Pulls {
    open: BTreeMap<ObjectId, Pull>,
    /// When an answer is late, the first in front.
    due: VecDeque<(Time, ObjectId, u64)>,
    /// Counts questions.
    asked: u64,
}

struct Pull {
    /// Who makes room for it, and keeps it then.
    by: ProcessId,
    sources: Sources,
    /// Who is asked when nodes cannot read it.
    first: NodeId,
    step: Step,
    /// Nodes that wait for it to begin to come.
    askers: BTreeSet<NodeId>,
}

enum Step {
    /// A node is asked whether it has a copy, by the question of this number.
    Asking { of: NodeId, number: u64, left: VecDeque<NodeId> },
    /// The process makes room.
    Making(Copied),
    /// The node fills it.
    Filling(Copied, Weak<Shown>),
    /// The process keeps it.
    Keeping(Copied, Weak<Shown>),
    /// The process fetches it.
    Apart,
}

impl Pulls {
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.due.front().map(|(time, ..)| *time)
    }

    /// What a process was to get.
    pub(crate) fn of(&self, process: ProcessId) -> Vec<ObjectId> {
        self.open.iter().filter(|(_, pull)| pull.by == process).map(|(object, _)| *object).collect()
    }

    /// What other nodes read already of what a process is to keep.
    pub(crate) fn shown_of(&self, object: ObjectId, process: ProcessId) -> Option<Weak<Shown>> {
        let pull = self.open.get(&object).filter(|pull| pull.by == process)?;
        match &pull.step {
            Step::Keeping(_, shown) => Some(shown.clone()),
            _ => None,
        }
    }

    /// Whether a process is to say now how it went.
    pub(crate) fn is_kept_by(&self, object: ObjectId, process: ProcessId) -> bool {
        let pull = self.open.get(&object).filter(|pull| pull.by == process);
        pull.is_some_and(|pull| matches!(pull.step, Step::Keeping(..) | Step::Apart))
    }
}

impl State {
    /// Gets an object for those who want it.
    pub(crate) fn have_pulled(&mut self, object: ObjectId, sources: Sources) {
        // Whoever wanted it first may have gone, and the machine has forgotten it with them: it comes all the same.
        if self.pulls.open.contains_key(&object) {
            return;
        }
        let can_map = |process: &ProcessId| self.roster.get(*process).is_some_and(|resident| resident.pid.is_some());
        let wanting = self.objects.wanting(object);
        let by = wanting.iter().copied().find(can_map);
        let is_far = by.is_none();
        let by = by.or_else(|| wanting.first().copied());
        let (Some(by), Some(first)) = (by, sources.at_once.first().copied()) else {
            return self.hear_of_object(Input::NotPulled { object });
        };
        let left = sources.all().collect();
        let step = if is_far { Step::Apart } else { Step::Asking { of: first, number: 0, left } };
        self.pulls.open.insert(object, Pull { by, sources, first, step, askers: BTreeSet::new() });
        if is_far { self.fetch_apart(object) } else { self.ask_next(object) }
    }

    fn ask_next(&mut self, object: ObjectId) {
        let Some(pull) = self.pulls.open.get_mut(&object) else { return };
        let Step::Asking { of, number, left } = &mut pull.step else { return };
        let Some(next) = left.pop_front() else { return self.fetch_apart(object) };
        self.pulls.asked += 1;
        (*of, *number) = (next, self.pulls.asked);
        let due = (self.clock.now() + ANSWERED_WITHIN, object, self.pulls.asked);
        self.pulls.due.push_back(due);
        self.tell_node(next, &ClusterTalk::CopyAsked { object });
    }

    /// Has the process fetch it.
    fn fetch_apart(&mut self, object: ObjectId) {
        let Some(pull) = self.pulls.open.get_mut(&object) else { return };
        pull.step = Step::Apart;
        let (by, source) = (pull.by, pull.first.into());
        self.answer_askers(object, None);
        self.routes.tell(by, &FromNode::Object(ObjectAnswer::Pull { object, source }));
    }

    fn answer_askers(&mut self, object: ObjectId, copy: Option<&Copied>) {
        let askers = self.pulls.open.get_mut(&object).map(|pull| std::mem::take(&mut pull.askers));
        for node in askers.into_iter().flatten() {
            self.tell_node(node, &ClusterTalk::CopyIs { object, copy: copy.cloned() });
        }
    }

    pub(crate) fn tick_pulls(&mut self) {
        let now = self.clock.now();
        while let Some((_, object, late)) = self.pulls.due.pop_front_if(|(time, ..)| *time <= now) {
            let pull = self.pulls.open.get(&object);
            if let Some(Step::Asking { of, number, .. }) = pull.map(|pull| &pull.step)
                && *number == late
            {
                self.copy_is(*of, object, None);
            }
        }
    }

    /// Another node wants to read a copy.
    pub(crate) fn copy_asked(&mut self, by: NodeId, object: ObjectId) {
        if self.waits_for_file(by, object) {
            return;
        }
        let pull = self.pulls.open.get_mut(&object);
        let copy = match (self.objects.shown_copy(object), pull) {
            (Some(copy), _) => Some(copy),
            (None, Some(pull)) => match &pull.step {
                // Of two that ask each other one gives way.
                Step::Asking { of, .. } if *of == by => None,
                Step::Asking { .. } | Step::Making(_) => {
                    pull.askers.insert(by);
                    return;
                }
                Step::Filling(copy, _) | Step::Keeping(copy, _) => Some(copy.clone()),
                Step::Apart => None,
            },
            (None, None) => None,
        };
        self.tell_node(by, &ClusterTalk::CopyIs { object, copy });
    }

    /// Another node says whether it has a copy.
    pub(crate) fn copy_is(&mut self, from: NodeId, object: ObjectId, copy: Option<Copied>) {
        let Some(pull) = self.pulls.open.get_mut(&object) else { return };
        match &pull.step {
            Step::Asking { of, .. } if *of == from => {}
            _ => return,
        }
        match copy.filter(|copy| copy.bytes > INLINE_BYTES_MAX as u64) {
            Some(copy) => {
                let (by, bytes) = (pull.by, copy.bytes);
                pull.step = Step::Making(copy);
                self.routes.tell(by, &FromNode::Object(ObjectAnswer::Room { object, bytes }));
            }
            None => {
                pull.sources.leave(from);
                self.ask_next(object);
            }
        }
    }

    /// A process has made room.
    pub(crate) fn room_made(&mut self, process: ProcessId, object: ObjectId, at: Extent) {
        let Some(pull) = self.pulls.open.get_mut(&object).filter(|pull| pull.by == process) else { return };
        let Step::Making(copy) = &pull.step else { return };
        let copy = copy.clone();
        let sources = pull.sources.clone();
        match self.hauls.fetch(object, process, at, (copy.bytes, copy.digest), sources) {
            Ok(shown) => {
                pull.step = Step::Filling(copy.clone(), shown);
                self.answer_askers(object, Some(&copy));
            }
            Err(error) => {
                tracing::warn!(%process, %error, "it has no such room");
                self.tell_filled(process, object, None);
                self.fetch_apart(object);
            }
        }
    }

    /// A process has no room. Where the store `is_full` that is all: in memory of its own it would have no bound.
    pub(crate) fn no_room(&mut self, process: ProcessId, object: ObjectId, is_full: bool) {
        let pull = self.pulls.open.get(&object).filter(|pull| pull.by == process);
        let Some(Step::Making(Copied { bytes, .. })) = pull.map(|pull| &pull.step) else { return };
        let bytes = *bytes;
        if !is_full {
            return self.fetch_apart(object);
        }
        self.pull_over(object);
        self.hear_of_object(Input::NoRoom { object, bytes });
    }

    fn tell_filled(&self, process: ProcessId, object: ObjectId, copy: Option<Copied>) {
        let is_whole = copy.is_some();
        let Copied { digest, inner, .. } = copy.unwrap_or_default();
        self.routes.tell(process, &FromNode::Object(ObjectAnswer::Filled { object, is_whole, digest, inner }));
    }

    /// Some of it has come: who waits for it goes on waiting.
    pub(crate) fn copy_comes(&mut self, object: ObjectId) {
        self.hear_of_object(Input::Coming { object });
        self.perform_objects();
    }

    /// Nothing more is written in the room of an object, nor read of one that is given up.
    pub(crate) fn filled(&mut self, process: ProcessId, object: ObjectId, is_whole: bool) {
        let Some(pull) = self.pulls.open.get_mut(&object).filter(|pull| pull.by == process) else { return };
        let Step::Filling(copy, shown) = &pull.step else { return };
        let copy = copy.clone();
        if is_whole {
            pull.step = Step::Keeping(copy.clone(), shown.clone());
            return self.tell_filled(process, object, Some(copy));
        }
        // Whoever lives of them and cannot be read by this node may be by the process.
        let routes = &self.routes;
        let alive = pull.sources.all().find(|node| routes.death((*node).into()).is_none());
        pull.first = alive.unwrap_or(pull.first);
        self.tell_filled(process, object, None);
        match alive {
            Some(_) => self.fetch_apart(object),
            None => self.not_pulled(object),
        }
        self.perform_objects();
    }

    /// It has not come, and nobody here gets it any more.
    pub(crate) fn not_pulled(&mut self, object: ObjectId) {
        self.pull_over(object);
        self.hear_of_object(Input::NotPulled { object });
    }

    /// Nobody gets it any more: it is here, or has not come.
    pub(crate) fn pull_over(&mut self, object: ObjectId) {
        self.answer_askers(object, None);
        let over = self.pulls.open.remove(&object);
        if let Some(Step::Filling(_, shown) | Step::Keeping(_, shown)) = over.map(|pull| pull.step)
            && !self.objects.is_shown(object, &shown)
        {
            self.hauls.copies.hide(&shown);
        }
    }

    /// A node is dead, which answers nothing.
    pub(crate) fn pulls_without(&mut self, node: NodeId) {
        let mut silent = Vec::new();
        for (object, pull) in &mut self.pulls.open {
            pull.askers.remove(&node);
            match &mut pull.step {
                Step::Asking { of, left, .. } => {
                    left.retain(|it| *it != node);
                    if *of == node {
                        silent.push(*object);
                    }
                }
                Step::Making(_) => pull.sources.leave(node),
                Step::Filling(..) | Step::Keeping(..) | Step::Apart => {}
            }
        }
        silent.into_iter().for_each(|object| self.copy_is(node, object, None));
    }
}
