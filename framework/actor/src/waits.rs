//! Who awaits whom: noted where a wait is entered anyway, and read when somebody asks for it.
//!
//! Only those are noted that do nothing else meanwhile: code of a task, and of an actor that handles one message after another.
//! Handlers that run beside one another, and what an actor has spawned, keep nobody waiting.

use std::fmt;
use std::sync::Arc;

use mobula_types::{ActorId, ObjectId, TaskId, Time};

use crate::object::Cancellable;

/// One that may await others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Party {
    /// An actor, in its handler.
    Actor(ActorId),
    /// A task.
    Task(TaskId),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Actor(actor) => actor.fmt(f),
            Self::Task(task) => task.fmt(f),
        }
    }
}

/// What is awaited.
#[derive(Clone)]
pub(crate) enum On {
    /// The reply of an actor.
    Actor(ActorId),
    /// An object that this makes.
    Made(Arc<dyn Cancellable>),
    /// An object of another process.
    Object(ObjectId),
}

/// A wait under way.
#[derive(Clone)]
pub(crate) struct Wait {
    pub(crate) by: Party,
    pub(crate) on: On,
    pub(crate) since: Time,
}

/// A wait, as a list tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Awaits {
    /// Who awaits.
    pub by: Party,
    /// The id of whom.
    pub on: String,
    /// Since when.
    pub since: Time,
}

impl Wait {
    /// As a list tells it; nothing of an object that nobody makes.
    pub(crate) fn told(&self) -> Option<Awaits> {
        let on = match &self.on {
            On::Actor(actor) => actor.to_string(),
            On::Made(maker) => maker.maker()?.to_string(),
            On::Object(object) => object.to_string(),
        };
        Some(Awaits { by: self.by, on, since: self.since })
    }
}
