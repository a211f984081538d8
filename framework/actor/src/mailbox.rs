//! What the outside of one local actor is: its id, its mail, and who is to be told of its deaths.
//!
//! Names that are easily confused: [`Mailbox`] is the actor as its senders see it; [`Lanes`](crate::lanes) are the two
//! queues inside; the cell is the loop that takes mail out and owns the state; an [`Address`](crate::Address) is what a
//! program holds, and leads to a mailbox here or to another process.

use std::any::Any;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use mobula_types::{ActorId, ActorName, ExitReason, Incarnation, Interface};
use parking_lot::Mutex;

use crate::Actor;
use crate::control::{ChildEvent, Control, Down};
use crate::lanes::{Lanes, Mail, MailboxBounds};
use crate::registry;
use crate::system::System;

/// An actor of this process as its senders see it.
pub(crate) struct Mailbox<A: Actor> {
    pub(crate) id: ActorId,
    pub(crate) parent: Option<ActorId>,
    pub(crate) name: Option<ActorName>,
    pub(crate) system: Arc<System>,
    /// Its home gave it its place here, and is told how it leaves it; its home may be this very process.
    pub(crate) is_guest: bool,
    pub(crate) lanes: Lanes<A>,
    pub(crate) hooks: Hooks<A>,
    incarnation: AtomicU32,
    state: AtomicU8,
    /// Made when somebody asks to be told.
    audience: Mutex<Option<Box<Audience>>>,
}

/// Turns control messages into mail for actors that handle them; set by what asks for them.
pub(crate) struct Hooks<A: Actor> {
    pub(crate) down: OnceLock<fn(Down) -> Mail<A>>,
    pub(crate) child: OnceLock<fn(ChildEvent) -> Mail<A>>,
}

/// Who is told of deaths.
#[derive(Default)]
struct Audience {
    watchers: Vec<ActorId>,
    links: Vec<ActorId>,
}

/// Where an actor is in its life.
///
/// ```text
///  Starting ──► Running ──► Stopping ──► Ended
///      ▲           │            │
///      └────── Restarting ◄─────┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ActorState {
    /// Its constructor runs, or waits for its turn.
    Starting,
    /// It takes mail.
    Running,
    /// It says goodbye; its children end.
    Stopping,
    /// It died and waits to be started again; its mail waits too.
    Restarting,
    /// It is gone for good.
    Ended,
}

impl ActorState {
    const ALL: [Self; 5] = [Self::Starting, Self::Running, Self::Stopping, Self::Restarting, Self::Ended];
}

impl<A: Actor> Mailbox<A> {
    pub(crate) fn new(
        id: ActorId,
        parent: Option<ActorId>,
        name: Option<ActorName>,
        bounds: MailboxBounds,
        system: Arc<System>,
        is_guest: bool,
    ) -> Self {
        Self {
            id,
            parent,
            name,
            system,
            is_guest,
            lanes: Lanes::new(bounds),
            hooks: Hooks { down: OnceLock::new(), child: OnceLock::new() },
            incarnation: AtomicU32::new(0),
            state: AtomicU8::new(ActorState::Starting as u8),
            audience: Mutex::default(),
        }
    }

    pub(crate) fn enter(&self, state: ActorState) {
        self.state.store(state as u8, Ordering::Release);
    }

    /// Its first life here is this one: it had others elsewhere.
    pub(crate) fn begin_as(&self, incarnation: Incarnation) {
        self.incarnation.store(incarnation.0.saturating_sub(1), Ordering::Release);
    }

    pub(crate) fn next_incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.fetch_add(1, Ordering::AcqRel) + 1)
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        Incarnation(self.incarnation.load(Ordering::Acquire))
    }

    pub(crate) fn link(&self, peer: ActorId) {
        let mut audience = self.audience.lock();
        let audience = audience.get_or_insert_default();
        if !audience.links.contains(&peer) {
            audience.links.push(peer);
        }
    }

    /// Takes care of the control messages that concern only who is told; gives back the others.
    pub(crate) fn note_audience(&self, control: Control) -> Option<Control> {
        if !matches!(control, Control::Watch { .. } | Control::Unwatch { .. } | Control::Link { .. }) {
            return Some(control);
        }
        let mut audience = self.audience.lock();
        let audience = audience.get_or_insert_default();
        match control {
            Control::Watch { by } if !audience.watchers.contains(&by) => audience.watchers.push(by),
            Control::Watch { .. } => {}
            Control::Unwatch { by } => audience.watchers.retain(|watcher| *watcher != by),
            Control::Link { peer } if !audience.links.contains(&peer) => audience.links.push(peer),
            _ => {}
        }
        None
    }

    /// Tells watchers and links that this incarnation died.
    pub(crate) fn announce_death(&self, reason: &ExitReason, ended: bool) {
        let (watchers, links) = {
            let mut audience = self.audience.lock();
            let Some(audience) = &mut *audience else { return };
            let links = if ended || !reason.is_normal() { std::mem::take(&mut audience.links) } else { Vec::new() };
            (if ended { std::mem::take(&mut audience.watchers) } else { audience.watchers.clone() }, links)
        };
        let down = Down { actor: self.id, incarnation: self.incarnation(), reason: reason.clone(), ended };
        for watcher in watchers {
            self.system.control(watcher, Control::Down(down.clone()));
        }
        for peer in links {
            self.system.control(peer, Control::LinkDown(down.clone()));
        }
    }

    pub(crate) fn tell_parent(&self, what: crate::control::ChildState) {
        if let Some(parent) = self.parent {
            self.system.control(parent, Control::Child(ChildEvent { child: self.id, what }));
        }
    }
}

/// A mailbox whose actor type is forgotten: what the directory holds.
pub(crate) trait AnyMailbox: Send + Sync {
    fn id(&self) -> ActorId;
    fn parent(&self) -> Option<ActorId>;
    fn bounds(&self) -> MailboxBounds;
    /// Puts a control message; false when the actor has ended.
    fn control(&self, control: Control) -> bool;
    /// Whether its next life is elsewhere.
    fn has_moved(&self) -> bool;
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
    fn status(&self) -> ActorStatus;
    /// What it can be asked from outside.
    fn interface(&self) -> Interface;
}

/// One line of the list of actors.
#[derive(Clone, Debug)]
pub struct ActorStatus {
    /// Its id.
    pub id: ActorId,
    /// Its Rust type.
    pub type_name: &'static str,
    /// Its name, when it has one.
    pub name: Option<String>,
    /// Its parent, unless it is a root.
    pub parent: Option<ActorId>,
    /// Where in its life it is.
    pub state: ActorState,
    /// Which start of it this is.
    pub incarnation: Incarnation,
    /// Messages that wait.
    pub waiting: usize,
}

impl<A: Actor> AnyMailbox for Mailbox<A> {
    fn id(&self) -> ActorId {
        self.id
    }

    fn parent(&self) -> Option<ActorId> {
        self.parent
    }

    fn bounds(&self) -> MailboxBounds {
        self.lanes.bounds()
    }

    fn control(&self, control: Control) -> bool {
        self.lanes.push_control(control)
    }

    fn has_moved(&self) -> bool {
        self.lanes.ended() == Some(ExitReason::Moved)
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }

    fn interface(&self) -> Interface {
        registry::interface::<A>()
    }

    fn status(&self) -> ActorStatus {
        let state = usize::from(self.state.load(Ordering::Acquire));
        ActorStatus {
            id: self.id,
            type_name: std::any::type_name::<A>(),
            name: self.name.as_ref().map(ToString::to_string),
            parent: self.parent,
            state: ActorState::ALL[state],
            incarnation: self.incarnation(),
            waiting: self.lanes.waiting(),
        }
    }
}
