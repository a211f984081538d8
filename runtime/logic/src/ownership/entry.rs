//! What a node knows of one object: of its own everything, of others' what is held here.

use std::collections::{BTreeMap, BTreeSet};

use mobula_types::{Digest, Loss, NodeId, ObjectId, ProcessId, Time};

use super::io::{Place, Recipe};
use super::pullers::Pullers;

#[derive(Debug)]
pub(super) struct Entry {
    /// Processes of this node; of an object of this node other nodes too, with the number 0.
    pub(super) holders: BTreeSet<ProcessId>,
    /// Messages on their way, from here or to here, that name it.
    pub(super) pins: usize,
    /// Sealed objects of this node whose bytes name it.
    pub(super) containers: usize,
    /// Objects of this node that are being made of it.
    pub(super) users: BTreeSet<ObjectId>,
    /// Recipes that name it. They keep what is known of it, and of another node's object the claim; not its bytes.
    pub(super) recipes: usize,
    /// Who waits for its bytes.
    pub(super) wanted: BTreeSet<ProcessId>,
    /// The copy that is here.
    pub(super) copy: Option<Copy>,
    pub(super) fetch: Fetch,
    pub(super) role: Role,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Copy {
    pub(super) digest: Digest,
    pub(super) place: Place,
    /// It is not given up for room.
    pub(super) is_primary: bool,
    /// It is of the bytes that the owner knows: what was made here may be of a run that does not count (OWN-8).
    pub(super) is_confirmed: bool,
}

/// How its bytes come here, while somebody waits for them.
#[derive(Debug, Default)]
pub(super) struct Fetch {
    pub(super) is_pulling: bool,
    /// When the owner was asked, if it is another node.
    pub(super) asked_at: Time,
    /// When it is tried again.
    pub(super) again_at: Option<Time>,
    /// When those who wait are told that it does not come: set when its bytes are known to be somewhere, and put off
    /// while they come (G10).
    pub(super) until: Option<Time>,
}

impl Fetch {
    /// Its bytes are known to be somewhere, and are being pulled or will be soon.
    pub(super) fn is_tried(&self) -> bool {
        self.is_pulling || self.again_at.is_some()
    }
}

#[derive(Debug)]
pub(super) enum Role {
    Owned(Box<Owned>),
    Foreign(Foreign),
}

/// An object of this node.
#[derive(Debug)]
pub(super) struct Owned {
    pub(super) state: State,
    /// Of its bytes, once there were some: they do not change when they are made again.
    pub(super) sealed: Option<Sealed>,
    /// What its bytes name, as long as that is held for them.
    pub(super) inner: Vec<ObjectId>,
    /// Other nodes that say that they have a copy.
    pub(super) copies: BTreeMap<NodeId, Digest>,
    /// Where it was made, until that node says itself that it has it.
    pub(super) promised: Option<NodeId>,
    /// Whose copy is not given up.
    pub(super) primary: NodeId,
    pub(super) recipe: Option<KeptRecipe>,
    /// Its recipe was forgotten for others.
    pub(super) is_evicted: bool,
    /// How often its task has run; 0 when it was put.
    pub(super) runs: u32,
    /// Where in its process's code it was made, by that process's number; 0 is not known.
    pub(super) site: u32,
    /// Its process has not said anything of it yet, and is to until then.
    pub(super) unborn_until: Option<Time>,
    /// Nodes that get it, and of whom.
    pub(super) pullers: Pullers,
    /// Nodes that want to know where it is.
    pub(super) askers: BTreeSet<NodeId>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Sealed {
    pub(super) bytes: u64,
    pub(super) digest: Digest,
}

#[derive(Debug)]
pub(super) struct KeptRecipe {
    pub(super) recipe: Recipe,
    /// Counts the recipes of this node: the oldest is forgotten first.
    pub(super) order: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A task is to make it; `is_running` when it is on its way, else it waits for what it is made of.
    Pending { is_running: bool },
    /// There are bytes.
    Sealed { is_inline: bool },
    /// There are none, for this reason; they are made again when somebody wants them.
    Missing(Loss),
    /// There are none and will not be.
    Lost(Loss),
}

/// An object of another node.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// What its owner was told last: whether it is held here, and which copy is here.
    pub(super) said: (bool, Option<Digest>),
    /// The word since which its owner was told that it is held.
    pub(super) held_since: u64,
    /// Its owner has heard that it is held.
    pub(super) is_counted: bool,
    /// Messages that are counted when that is so.
    pub(super) arrivals: Vec<(NodeId, u64)>,
    /// Its owner was asked where it is.
    pub(super) is_asked: bool,
    /// Which bytes are the object, as its owner says.
    pub(super) expected: Option<Digest>,
    pub(super) end: Option<End>,
    /// Its owner had not heard that it is held when it said that it is gone: it may count that still.
    pub(super) has_crossed: bool,
}

impl Foreign {
    /// Its owner does not know it, and is to hear that it is not held here.
    pub(super) fn is_to_take_back(&self) -> bool {
        self.end == Some(End::Gone) && self.has_crossed && self.said.0
    }
}

/// Why its owner says nothing of it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// It does not know it.
    Gone,
    /// It is dead.
    OwnerDied,
}

impl Entry {
    pub(super) fn new(role: Role) -> Self {
        Self {
            holders: BTreeSet::new(),
            pins: 0,
            containers: 0,
            users: BTreeSet::new(),
            recipes: 0,
            wanted: BTreeSet::new(),
            copy: None,
            fetch: Fetch::default(),
            role,
        }
    }

    /// OWN-1: whether somebody may still read it: the process too that has not said yet that it made it. What another node owns is held for recipes too: it cannot be made again
    /// here.
    pub(super) fn is_held(&self) -> bool {
        let for_recipes = matches!(self.role, Role::Foreign(_)) && self.recipes > 0;
        let is_to_come = self.owned().is_some_and(|owned| owned.unborn_until.is_some());
        is_to_come
            || !self.holders.is_empty()
            || self.pins > 0
            || self.containers > 0
            || !self.users.is_empty()
            || for_recipes
    }

    pub(super) fn owned(&self) -> Option<&Owned> {
        match &self.role {
            Role::Owned(owned) => Some(owned),
            Role::Foreign(_) => None,
        }
    }

    pub(super) fn owned_mut(&mut self) -> Option<&mut Owned> {
        match &mut self.role {
            Role::Owned(owned) => Some(owned),
            Role::Foreign(_) => None,
        }
    }

    pub(super) fn foreign(&self) -> Option<&Foreign> {
        match &self.role {
            Role::Foreign(foreign) => Some(foreign),
            Role::Owned(_) => None,
        }
    }

    pub(super) fn foreign_mut(&mut self) -> Option<&mut Foreign> {
        match &mut self.role {
            Role::Foreign(foreign) => Some(foreign),
            Role::Owned(_) => None,
        }
    }

    /// Whether its bytes are with what is known of it.
    pub(super) fn is_inline(&self) -> bool {
        self.owned().is_some_and(|owned| owned.state == State::Sealed { is_inline: true })
    }

    /// Whether there is a copy here that may be read.
    pub(super) fn is_readable(&self) -> bool {
        self.copy.is_some_and(|copy| copy.is_confirmed)
    }

    pub(super) fn digest_here(&self) -> Option<Digest> {
        self.copy.map(|copy| copy.digest)
    }

    /// What its owner should know of it.
    pub(super) fn stance(&self) -> (bool, Option<Digest>) {
        match self.foreign() {
            Some(Foreign { end: None, .. }) => (self.is_held(), self.digest_here()),
            _ => (false, None),
        }
    }
}

impl Owned {
    pub(super) fn new(primary: NodeId) -> Self {
        Self {
            state: State::Pending { is_running: true },
            sealed: None,
            inner: Vec::new(),
            copies: BTreeMap::new(),
            promised: None,
            primary,
            recipe: None,
            is_evicted: false,
            runs: 0,
            site: 0,
            unborn_until: None,
            pullers: Pullers::default(),
            askers: BTreeSet::new(),
        }
    }

    /// Other nodes from which it can be read.
    pub(super) fn sources(&self) -> impl Iterator<Item = NodeId> {
        self.copies.keys().copied().chain(self.promised)
    }

    pub(super) fn arguments(&self) -> Vec<ObjectId> {
        self.recipe.as_ref().map(|kept| kept.recipe.arguments.clone()).unwrap_or_default()
    }

    /// Whether a copy with these bytes is one of it, and is of use (OWN-8).
    pub(super) fn takes(&self, digest: Digest) -> bool {
        let is_lost =
            matches!(self.state, State::Lost(_) | State::Missing(Loss::NotHeld) | State::Sealed { is_inline: true });
        !is_lost && self.sealed.is_none_or(|sealed| sealed.digest == digest)
    }

    /// Whether only the process that made its reference can give it bytes.
    pub(super) fn is_its_makers(&self) -> bool {
        self.recipe.is_none() && self.state == State::Pending { is_running: true }
    }

    /// Whether its task is to run, and has not begun.
    pub(super) fn is_waiting(&self) -> bool {
        self.state == State::Pending { is_running: false }
    }
}
