//! Names and the leases under which they are held; the diagram is the directory's.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mobula_types::{
    ActorId, Death, Epoch, Fencing, Held, Incarnation, Interface, JobId, NameKey, NameOwner, Namespace, NodeId,
    ProcessId, Time,
};

use super::detached::Restarting;
use super::{Bounds, Claim, Grant, Output};
use crate::lease::{GRANT_AFTER, LEASE};
use crate::mutant::{Mutant, Planted};
use crate::record::{Change, Detached, NameRecord, Record, RecordKey};

/// Names taken at once; beyond it [`NameRefusal::Full`]. Ten times what promises.md restarts within 3 s.
pub const NAMES_MAX: usize = 100_000;

/// Bytes of a name with its namespace.
pub const NAME_BYTES_MAX: usize = 1_024;

/// What is kept of what a named actor can be asked: some thousand messages.
pub const INTERFACE_BYTES_MAX: usize = 64 << 10;

/// What a detached actor may be started with: it travels in one control frame (promises.md).
pub const FRAME_BYTES_MAX: usize = 512 << 10;

/// What all detached actors may be started with: the head holds it in memory.
pub const DETACHED_BYTES_MAX: usize = 256 << 20;

/// Claims that wait for a name to be free; beyond it [`NameRefusal::Busy`].
pub const CLAIMS_WAITING_MAX: usize = 4_096;

/// A claim that has waited so long is refused: longer than a lease and what follows it, so somebody does not stop.
pub const CLAIM_WAIT_MAX: Duration = Duration::from_secs(15);

/// A node that has been told to stop a name and has not said that it did is told again.
pub const REVOKE_AGAIN: Duration = Duration::from_secs(1);

/// Why a name is not granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameRefusal {
    /// The node has no lease, so no name can be granted to it.
    #[error("{node} is not registered with this head: try again when it is")]
    NoLease {
        /// Which.
        node: NodeId,
    },
    /// It is too long, or what its actor is started with is.
    #[error("{bytes} bytes where a name may take {NAME_BYTES_MAX} and a detached actor's arguments {FRAME_BYTES_MAX}")]
    TooLarge {
        /// How many.
        bytes: usize,
    },
    /// There are as many as a head keeps.
    #[error("{max} names are taken already")]
    Full {
        /// How many.
        max: usize,
    },
    /// Too many claims wait.
    #[error("{max} claims wait already: try again later")]
    Busy {
        /// How many.
        max: usize,
    },
    /// A later life of the actor has the name.
    #[error("{newest} of the actor has the name already")]
    Superseded {
        /// Which.
        newest: Incarnation,
    },
    /// Where the name was before, the actor does not stop.
    #[error("{node} was told to stop the actor there and has not said that it did")]
    StillHeld {
        /// Which.
        node: NodeId,
    },
    /// The actor's home has ended, and with it the actor.
    #[error("the process that spawned the actor has ended")]
    HomeEnded,
    /// The name was granted and has ended before that could be said.
    #[error("the name has ended meanwhile: claim it again")]
    Ended,
    /// The job has ended.
    #[error("{job} has ended")]
    JobEnded {
        /// Which.
        job: JobId,
    },
}

#[derive(Debug)]
pub(super) struct Names {
    pub(super) epoch: Epoch,
    /// The start of this head.
    pub(super) started: Time,
    pub(super) entries: BTreeMap<NameKey, Entry>,
    pub(super) leases: BTreeMap<NodeId, NodeLease>,
    /// The names that are held or being stopped on a node.
    pub(super) on: BTreeMap<NodeId, BTreeSet<NameKey>>,
    /// When a name needs a look.
    due: BTreeSet<(Time, NameKey)>,
    waiting: usize,
    detached_bytes: usize,
    /// The names of detached actors, the jobs that host them with their number, and those that host none any more.
    pub(super) detached: BTreeMap<ActorId, NameKey>,
    pub(super) hosts: BTreeMap<JobId, usize>,
    pub(super) empty_jobs: Vec<JobId>,
    /// Those who ask where a detached actor is, in all.
    pub(super) locating: usize,
    /// Grants of this head, and terms of leases.
    granted: u64,
    terms: u64,
    pub(super) bounds: Bounds,
    pub(super) planted: Planted,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct NodeLease {
    pub(super) term: u64,
    pub(super) until: Time,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) actor: ActorId,
    pub(super) incarnation: Incarnation,
    pub(super) fencing: Fencing,
    /// Where it was granted to last.
    pub(super) node: NodeId,
    pub(super) job: Option<JobId>,
    pub(super) is_ending: bool,
    pub(super) hold: Hold,
    /// Where it acts.
    pub(super) process: ProcessId,
    interface: Interface,
    pub(super) detached: Option<Box<Restarting>>,
    waiting: Vec<Waiting>,
    /// The look that is in `due`.
    due: Option<Time>,
    /// How the newest grant followed the one before, for the invariants.
    pub(super) before: Option<Before>,
}

/// The grant before the newest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    pub(super) fencing: Fencing,
    /// From when on nobody acted under it.
    pub(super) over: Time,
    /// When the newest was made.
    pub(super) granted: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Its actor acts on the node under this term of its lease.
    Held { term: u64 },
    /// It may act still, and was told to stop.
    Stopping { term: u64, told: Time },
    /// Nobody acts from `at` on; `lease_end` is set when that is so because a lease ran out.
    Over { at: Time, lease_end: Option<Time> },
}

#[derive(Debug)]
struct Waiting {
    ask: u64,
    node: NodeId,
    claim: Claim,
    since: Time,
}

type Outputs = VecDeque<Output>;

impl Waiting {
    fn refuse(self, why: NameRefusal, outputs: &mut Outputs) {
        outputs.push_back(Output::Claimed { ask: self.ask, key: self.claim.key, result: Err(why) });
    }
}

impl Names {
    pub(super) fn new(epoch: Epoch, started: Time) -> Self {
        Self {
            epoch,
            started,
            entries: BTreeMap::new(),
            leases: BTreeMap::new(),
            on: BTreeMap::new(),
            due: BTreeSet::new(),
            waiting: 0,
            detached_bytes: 0,
            detached: BTreeMap::new(),
            hosts: BTreeMap::new(),
            empty_jobs: Vec::new(),
            locating: 0,
            granted: 0,
            terms: 0,
            bounds: Bounds::default(),
            planted: Planted::default(),
        }
    }

    /// DIR-5: whoever held a name may hold it still, for as long as a lease renewed now runs.
    pub(super) fn restore(&mut self, now: Time, record: NameRecord) {
        let NameRecord { key, actor, incarnation, fencing, node, job, process, interface, is_ending } = record;
        let hold = if self.planted.is(Mutant::ForgetLeases) {
            Hold::Over { at: now, lease_end: Some(now) }
        } else {
            let term = self.renew(now, node);
            self.on.entry(node).or_default().insert(key.clone());
            if is_ending { Hold::Stopping { term, told: now } } else { Hold::Held { term } }
        };
        let entry = Entry {
            actor,
            incarnation,
            fencing,
            node,
            job,
            is_ending,
            hold,
            process,
            interface,
            detached: None,
            waiting: Vec::new(),
            due: None,
            before: None,
        };
        self.entries.insert(key.clone(), entry);
        self.plan(&key);
    }

    pub(super) fn restore_detached(&mut self, key: &NameKey, detached: Detached) {
        self.detached_bytes += detached.frame.len();
        if let Some(entry) = self.entries.get_mut(key) {
            let actor = entry.actor;
            *self.hosts.entry(detached.job).or_default() += 1;
            entry.detached = Some(Box::new(Restarting::new(detached, None)));
            self.detached.insert(actor, key.clone());
        }
    }

    pub(super) fn term(&self, node: NodeId) -> Option<u64> {
        self.leases.get(&node).map(|lease| lease.term)
    }

    pub(super) fn look_up(&self, key: &NameKey) -> Option<Grant> {
        self.entries.get(key).filter(|entry| !entry.is_ending).map(Entry::grant)
    }

    pub(super) fn owner(&self, key: &NameKey) -> Option<NameOwner> {
        let entry = self.entries.get(key).filter(|entry| !entry.is_ending)?;
        Some(NameOwner { actor: entry.actor, interface: entry.interface.clone() })
    }

    /// Whether a grant is the newest of its name, and somebody may act under it.
    pub(super) fn stands(&self, key: &NameKey, fencing: Fencing) -> bool {
        // A detached actor has its name before anybody acts under it.
        let is_to_begin = |entry: &Entry| entry.detached.is_some() && entry.incarnation == Incarnation(0);
        let may_act = |entry: &Entry| !matches!(entry.hold, Hold::Over { .. }) || is_to_begin(entry);
        let is_it = |entry: &Entry| entry.fencing == fencing && may_act(entry);
        self.entries.get(key).is_some_and(is_it)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&NameKey, Grant)> {
        self.entries.iter().filter(|(_, entry)| !entry.is_ending).map(|(key, entry)| (key, entry.grant()))
    }

    /// The homes of names that an earlier head granted.
    pub(super) fn homes_of_earlier(&self) -> impl Iterator<Item = ProcessId> + '_ {
        let epoch = self.epoch;
        let of_earlier = move |entry: &&Entry| entry.fencing.epoch() < epoch && entry.detached.is_none();
        self.entries.values().filter(of_earlier).map(|entry| entry.actor.process)
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        let leases = self.leases.values().map(|lease| lease.until).min();
        let due = self.due.first().map(|(at, _)| *at);
        leases.into_iter().chain(due).min()
    }

    pub(super) fn handle_time(&mut self, now: Time, outputs: &mut Outputs) {
        let over: Vec<NodeId> =
            self.leases.iter().filter(|(_, lease)| lease.until <= now).map(|(node, _)| *node).collect();
        for node in over {
            let until = self.leases.remove(&node).map_or(now, |lease| lease.until);
            if self.planted.is(Mutant::ReviveLease) {
                continue;
            }
            // DIR-3: the names of a lease end with it. DIR-2: clocks may differ, so they are granted a little later.
            let after = if self.planted.is(Mutant::GrantAtLeaseEnd) { Duration::ZERO } else { GRANT_AFTER };
            for key in self.on.get(&node).cloned().unwrap_or_default() {
                self.is_over(&key, until + after, Some(until), None);
            }
        }
        while let Some((at, key)) = self.due.first().cloned() {
            if at > now {
                break;
            }
            self.due.pop_first();
            self.entries.get_mut(&key).expect("what has no entry is not due").due = None;
            self.look(now, &key, outputs);
        }
    }

    /// A lease that runs is renewed; one that has run out is another one, with nothing under it.
    pub(super) fn renew(&mut self, now: Time, node: NodeId) -> u64 {
        let terms = &mut self.terms;
        let lease = self.leases.entry(node).or_insert_with(|| {
            *terms += 1;
            NodeLease { term: *terms, until: now }
        });
        lease.until = now + LEASE;
        lease.term
    }

    pub(super) fn handle_node_up(&mut self, now: Time, node: NodeId, held: &[Held], outputs: &mut Outputs) {
        self.renew(now, node);
        let grants: BTreeMap<&NameKey, (ActorId, Fencing)> =
            held.iter().map(|held| (&held.key, (held.actor, held.fencing))).collect();
        let is_held = |key: &NameKey, entry: &Entry| grants.get(key) == Some(&(entry.actor, entry.fencing));
        for key in self.on.get(&node).cloned().unwrap_or_default() {
            let entry = &self.entries[&key];
            // A grant may be on its way there, also one of an earlier head, which the node hears until it hears this one.
            // So a name that it does not hold is not free before it has said so.
            if matches!(entry.hold, Hold::Stopping { .. }) || !is_held(&key, entry) {
                self.revoke(now, &key, outputs);
            }
        }
        for held in held {
            let is_theirs = self.entries.get(&held.key).is_some_and(|entry| {
                (entry.node, entry.fencing) == (node, held.fencing) && !matches!(entry.hold, Hold::Over { .. })
            });
            if !is_theirs {
                let (key, fencing) = (held.key.clone(), held.fencing);
                outputs.push_back(Output::Revoke { node, key, fencing });
            }
        }
        self.settle(now, outputs);
    }

    pub(super) fn handle_node_stopped(&mut self, now: Time, node: NodeId, outputs: &mut Outputs) {
        self.leases.remove(&node);
        for key in self.on.get(&node).cloned().unwrap_or_default() {
            self.is_over(&key, now, None, None);
        }
        self.settle(now, outputs);
    }

    pub(super) fn handle_stopped(
        &mut self,
        now: Time,
        node: NodeId,
        key: &NameKey,
        fencing: Fencing,
        culprit: Option<Box<Death>>,
        outputs: &mut Outputs,
    ) {
        let is_held =
            |entry: &&Entry| (entry.node, entry.fencing) == (node, fencing) && !matches!(entry.hold, Hold::Over { .. });
        if self.entries.get(key).filter(is_held).is_some() {
            self.is_over(key, now, None, culprit);
            self.settle(now, outputs);
        }
    }

    pub(super) fn claim(&mut self, now: Time, ask: u64, node: NodeId, claim: Claim, outputs: &mut Outputs) {
        self.handle_claim(now, Waiting { ask, node, claim, since: now }, outputs);
    }

    fn handle_claim(&mut self, now: Time, waiting: Waiting, outputs: &mut Outputs) {
        let (ask, key) = (waiting.ask, waiting.claim.key.clone());
        if let Some(result) = self.decide(now, waiting, outputs) {
            outputs.push_back(Output::Claimed { ask, key, result });
        }
    }

    /// What a claim is answered; `None` when it waits.
    fn decide(&mut self, now: Time, waiting: Waiting, outputs: &mut Outputs) -> Option<Result<Grant, NameRefusal>> {
        let Waiting { node, ref claim, .. } = waiting;
        if !self.leases.contains_key(&node) {
            return Some(Err(NameRefusal::NoLease { node }));
        }
        let Some(entry) = self.entries.get(&claim.key) else {
            // A place claims for an actor whose name is there; it has ended meanwhile.
            let is_late = claim.actor.process == ProcessId::HEAD && claim.detached.is_none();
            return Some(if is_late { Err(NameRefusal::Ended) } else { self.take(now, node, waiting.claim, outputs) });
        };
        if entry.is_ending {
            return self.wait(waiting).err().map(Err);
        }
        if entry.actor != claim.actor {
            return Some(Ok(entry.grant()));
        }
        if claim.detached.is_some() && entry.detached.is_some() {
            // The head starts it: nothing is granted here.
            return Some(Ok(entry.grant()));
        }
        let is_held_there = matches!(entry.hold, Hold::Held { .. }) && entry.node == node;
        // DIR-9: the head chooses one place for each life of a detached actor.
        let is_lived = entry.detached.is_some() && claim.incarnation == entry.incarnation && !is_held_there;
        if claim.incarnation < entry.incarnation || is_lived {
            return Some(Err(NameRefusal::Superseded { newest: entry.incarnation }));
        }
        match entry.hold {
            // What is said twice is answered twice.
            Hold::Held { .. } if (entry.node, entry.incarnation) == (node, claim.incarnation) => {
                Some(Ok(entry.grant()))
            }
            Hold::Over { at, .. } if at <= now => Some(Ok(self.grant(now, node, claim, outputs))),
            Hold::Held { .. } if self.planted.is(Mutant::GrantWhileHeld) => {
                Some(Ok(self.grant(now, node, claim, outputs)))
            }
            // DIR-1: whoever has it stops first.
            hold => {
                let key = claim.key.clone();
                if let Err(refusal) = self.wait(waiting) {
                    return Some(Err(refusal));
                }
                if matches!(hold, Hold::Held { .. }) {
                    self.revoke(now, &key, outputs);
                }
                None
            }
        }
    }

    fn wait(&mut self, waiting: Waiting) -> Result<(), NameRefusal> {
        let max = self.bounds.claims_waiting_max;
        if self.waiting >= max {
            return Err(NameRefusal::Busy { max });
        }
        self.waiting += 1;
        let key = waiting.claim.key.clone();
        let entry = self.entries.get_mut(&key).expect("the caller has found it");
        entry.waiting.push(waiting);
        self.plan(&key);
        Ok(())
    }

    /// Takes a name that is free.
    fn take(&mut self, now: Time, node: NodeId, claim: Claim, outputs: &mut Outputs) -> Result<Grant, NameRefusal> {
        let Claim { key, actor, incarnation, job, detached, process, interface } = &claim;
        let name_bytes = key.name.len() + if let Namespace::Shared(space) = &key.space { space.len() } else { 0 };
        let frame_bytes = detached.as_ref().map_or(0, |detached| detached.frame.len());
        let Bounds { names_max, detached_bytes_max, .. } = self.bounds;
        let Bounds { name_bytes_max, frame_bytes_max, interface_bytes_max, .. } = self.bounds;
        let sizes =
            [(name_bytes, name_bytes_max), (frame_bytes, frame_bytes_max), (interface.bytes(), interface_bytes_max)];
        for (bytes, max) in sizes {
            if bytes > max {
                return Err(NameRefusal::TooLarge { bytes });
            }
        }
        if self.entries.len() >= names_max || self.detached_bytes + frame_bytes > detached_bytes_max {
            return Err(NameRefusal::Full { max: names_max });
        }
        if let Some(detached) = detached {
            let at = RecordKey::Detached(key.clone());
            outputs.push_back(Output::Keep(Record::Detached(detached.clone()).into_change(at)));
            self.detached_bytes += frame_bytes;
            self.detached.insert(*actor, key.clone());
            *self.hosts.entry(detached.job).or_default() += 1;
        }
        let restarting = detached.clone().map(|detached| Box::new(Restarting::new(detached, Some(now))));
        let entry = Entry {
            actor: *actor,
            incarnation: if detached.is_some() { Incarnation(0) } else { *incarnation },
            fencing: Fencing::default(),
            node,
            job: *job,
            is_ending: false,
            hold: Hold::Over { at: now, lease_end: None },
            process: *process,
            interface: interface.clone(),
            detached: restarting,
            waiting: Vec::new(),
            due: None,
            before: None,
        };
        let is_detached = detached.is_some();
        self.entries.insert(key.clone(), entry);
        if is_detached {
            return Ok(self.begin_detached(now, &claim.key, outputs));
        }
        Ok(self.grant(now, node, &claim, outputs))
    }

    /// DIR-4: greater than every grant before it, of this head and of all before it.
    pub(super) fn next_fencing(&mut self) -> Fencing {
        self.granted += u64::from(!self.planted.is(Mutant::ReuseFencing));
        Fencing::new(self.epoch, self.granted)
    }

    fn grant(&mut self, now: Time, node: NodeId, claim: &Claim, outputs: &mut Outputs) -> Grant {
        self.vacate(&claim.key);
        let term = self.leases[&node].term;
        let fencing = self.next_fencing();
        let entry = self.entries.get_mut(&claim.key).expect("the caller has found or made it");
        let over = match entry.hold {
            Hold::Over { at, .. } => at,
            Hold::Held { .. } | Hold::Stopping { .. } => Time::MAX,
        };
        let before = Before { fencing: entry.fencing, over, granted: now };
        entry.before = (entry.fencing != Fencing::default()).then_some(before);
        entry.fencing = fencing;
        entry.incarnation = claim.incarnation;
        entry.node = node;
        entry.process = claim.process;
        entry.hold = Hold::Held { term };
        if let Some(restarting) = &mut entry.detached {
            restarting.at = None;
            restarting.is_started = false;
        }
        let grant = entry.grant();
        self.on.entry(node).or_default().insert(claim.key.clone());
        self.keep(&claim.key, outputs);
        self.plan(&claim.key);
        grant
    }

    pub(super) fn release(&mut self, now: Time, node: NodeId, key: &NameKey, actor: ActorId, outputs: &mut Outputs) {
        let Some(entry) = self.entries.get(key).filter(|entry| entry.actor == actor) else { return };
        let (is_there, is_home) = (entry.node == node, actor.process.node() == node);
        match entry.hold {
            // DIR-1: a later life of it may act elsewhere.
            Hold::Held { .. } if !is_there && is_home => self.end(now, key, outputs),
            Hold::Stopping { .. } if !is_there && is_home && !entry.is_ending => self.end(now, key, outputs),
            Hold::Over { .. } if is_home => self.remove(now, key, outputs),
            _ if is_there => self.remove(now, key, outputs),
            _ => {}
        }
    }

    pub(super) fn end_of_job(&mut self, now: Time, job: JobId, outputs: &mut Outputs) {
        self.refuse_all(|claim| claim.job == Some(job), NameRefusal::JobEnded { job }, outputs);
        self.end_all(now, |entry| entry.job == Some(job), outputs);
    }

    /// A name of a home that has ended ends with it; a detached actor's home is the head.
    pub(super) fn end_of_homes(&mut self, now: Time, has_ended: impl Fn(ProcessId) -> bool, outputs: &mut Outputs) {
        let of_home = |claim: &Claim| claim.detached.is_none() && has_ended(claim.actor.process);
        self.refuse_all(of_home, NameRefusal::HomeEnded, outputs);
        self.end_all(now, |entry| entry.detached.is_none() && has_ended(entry.actor.process), outputs);
    }

    /// Refuses the claims that wait and whose claimers have ended.
    fn refuse_all(&mut self, ends: impl Fn(&Claim) -> bool, why: NameRefusal, outputs: &mut Outputs) {
        if self.waiting == 0 {
            return;
        }
        let waits = self.entries.iter().filter(|(_, entry)| {
            let is_restarted = entry.detached.is_some() && why == NameRefusal::HomeEnded;
            !is_restarted && entry.waiting.iter().any(|waiting| ends(&waiting.claim))
        });
        for key in waits.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            let entry = self.entries.get_mut(&key).expect("it was just found");
            let all = std::mem::take(&mut entry.waiting);
            let (ended, others): (Vec<_>, _) = all.into_iter().partition(|waiting| ends(&waiting.claim));
            entry.waiting = others;
            self.waiting -= ended.len();
            ended.into_iter().for_each(|waiting| waiting.refuse(why, outputs));
            self.plan(&key);
        }
    }

    fn end_all(&mut self, now: Time, ends: impl Fn(&Entry) -> bool, outputs: &mut Outputs) {
        let ending = self.entries.iter().filter(|(_, entry)| !entry.is_ending && ends(entry));
        for key in ending.map(|(key, _)| key.clone()).collect::<Vec<_>>() {
            self.end(now, &key, outputs);
        }
        self.settle(now, outputs);
    }

    /// Nobody may act under a name any more; it is free as soon as nobody can.
    pub(super) fn end(&mut self, now: Time, key: &NameKey, outputs: &mut Outputs) {
        let entry = self.entries.get_mut(key).expect("the caller has found it");
        entry.is_ending = true;
        let is_held = matches!(entry.hold, Hold::Held { .. });
        self.keep(key, outputs);
        if is_held {
            self.revoke(now, key, outputs);
        }
        self.plan(key);
    }

    fn revoke(&mut self, now: Time, key: &NameKey, outputs: &mut Outputs) {
        let entry = self.entries.get_mut(key).expect("the caller has found it");
        if let Hold::Held { term } | Hold::Stopping { term, .. } = entry.hold {
            entry.hold = Hold::Stopping { term, told: now };
            let (node, fencing) = (entry.node, entry.fencing);
            outputs.push_back(Output::Revoke { node, key: key.clone(), fencing });
            self.plan(key);
        }
    }

    /// Nobody acts under a name from `at` on. A detached actor is started again, unless its policy says no.
    fn is_over(&mut self, key: &NameKey, at: Time, lease_end: Option<Time>, culprit: Option<Box<Death>>) {
        self.vacate(key);
        let entry = self.entries.get_mut(key).expect("the caller has found it");
        entry.hold = Hold::Over { at, lease_end };
        if let Some(restarting) = &mut entry.detached
            && !restarting.decide(at, entry.incarnation, culprit)
        {
            entry.is_ending = true;
        }
        self.plan(key);
    }

    fn vacate(&mut self, key: &NameKey) {
        let node = self.entries[key].node;
        if let Some(keys) = self.on.get_mut(&node) {
            keys.remove(key);
            if keys.is_empty() {
                self.on.remove(&node);
            }
        }
    }

    /// Looks at once after what is due already.
    pub(super) fn settle(&mut self, now: Time, outputs: &mut Outputs) {
        self.handle_time(now, outputs);
    }

    /// What is due for one name.
    fn look(&mut self, now: Time, key: &NameKey, outputs: &mut Outputs) {
        let entry = self.entries.get_mut(key).expect("the caller has found it");
        match entry.hold {
            Hold::Over { at, .. } if at <= now && entry.is_ending => return self.remove(now, key, outputs),
            Hold::Over { at, .. } if at <= now && !entry.waiting.is_empty() => {
                // The latest life first: it makes the others' claims void.
                let mut waiting = std::mem::take(&mut entry.waiting);
                waiting.sort_by_key(|waiting| Reverse(waiting.claim.incarnation));
                self.waiting -= waiting.len();
                waiting.into_iter().for_each(|waiting| self.handle_claim(now, waiting, outputs));
            }
            Hold::Over { at, .. } if at <= now => self.restart(now, key, outputs),
            Hold::Stopping { told, .. } if told + REVOKE_AGAIN <= now => self.revoke(now, key, outputs),
            _ => {}
        }
        let Some(entry) = self.entries.get_mut(key) else { return };
        let node = entry.node;
        let (late, on_time) =
            std::mem::take(&mut entry.waiting).into_iter().partition(|waiting| waiting.since + CLAIM_WAIT_MAX <= now);
        entry.waiting = on_time;
        let late: Vec<Waiting> = late;
        self.waiting -= late.len();
        late.into_iter().for_each(|waiting| waiting.refuse(NameRefusal::StillHeld { node }, outputs));
        self.plan(key);
    }

    /// The name is free; who waits for it claims anew.
    pub(super) fn remove(&mut self, now: Time, key: &NameKey, outputs: &mut Outputs) {
        self.vacate(key);
        let Some(entry) = self.entries.remove(key) else { return };
        if let Some(due) = entry.due {
            self.due.remove(&(due, key.clone()));
        }
        outputs.push_back(Output::Keep(Change::gone(RecordKey::Name(key.clone()))));
        if let Some(restarting) = entry.detached {
            self.detached_bytes -= restarting.detached.frame.len();
            self.forget_detached(key, entry.actor, *restarting, outputs);
        }
        self.waiting -= entry.waiting.len();
        for waiting in entry.waiting {
            // An actor that has ended for good does not want its name any more.
            if waiting.claim.actor == entry.actor {
                waiting.refuse(NameRefusal::Superseded { newest: entry.incarnation }, outputs);
            } else {
                self.handle_claim(now, waiting, outputs);
            }
        }
    }

    pub(super) fn keep(&self, key: &NameKey, outputs: &mut Outputs) {
        let entry = &self.entries[key];
        let &Entry { actor, incarnation, fencing, node, job, process, is_ending, .. } = entry;
        let (key, interface) = (key.clone(), entry.interface.clone());
        let record = NameRecord { key, actor, incarnation, fencing, node, job, process, interface, is_ending };
        outputs.push_back(Output::Keep(Change::name(record)));
    }

    /// Notes when a name needs the next look.
    pub(super) fn plan(&mut self, key: &NameKey) {
        let entry = self.entries.get_mut(key).expect("the caller has found it");
        let by_hold = match entry.hold {
            Hold::Over { at, .. } if entry.is_ending || !entry.waiting.is_empty() => Some(at),
            Hold::Over { at, .. } => {
                entry.detached.as_ref().and_then(|restarting| restarting.at).map(|due| due.max(at))
            }
            Hold::Stopping { told, .. } => Some(told + REVOKE_AGAIN),
            Hold::Held { .. } => None,
        };
        let by_wait = entry.waiting.first().map(|waiting| waiting.since + CLAIM_WAIT_MAX);
        let due = by_hold.into_iter().chain(by_wait).min();
        if due != entry.due {
            if let Some(before) = entry.due {
                self.due.remove(&(before, key.clone()));
            }
            if let Some(due) = due {
                self.due.insert((due, key.clone()));
            }
            entry.due = due;
        }
    }

    pub(super) fn detached_bytes(&self) -> usize {
        self.detached_bytes
    }

    pub(super) fn waiting(&self) -> (usize, usize) {
        (self.waiting, self.entries.values().map(|entry| entry.waiting.len()).sum())
    }

    pub(super) fn last_fencing(&self) -> Fencing {
        Fencing::new(self.epoch, self.granted)
    }
}

impl Entry {
    pub(super) fn grant(&self) -> Grant {
        let term = match self.hold {
            Hold::Held { term } | Hold::Stopping { term, .. } => term,
            Hold::Over { .. } => 0,
        };
        Grant { owner: self.actor, node: self.node, fencing: self.fencing, term }
    }
}
