//! References inside messages: held by the sender's node until the receiver's is counted by every owner (OWN-2).

use std::collections::BTreeSet;

use mobula_types::{NodeId, ObjectId, ProcessId};

use super::Ownership;
use super::lane::Subject;
use crate::mutant::Mutant;
use crate::ownership::Output;

/// A message on its way from here.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) to: NodeId,
    pub(super) objects: Vec<ObjectId>,
}

/// A message that has come.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) process: ProcessId,
    pub(super) objects: Vec<ObjectId>,
    /// Owners that have not heard that this node holds what the message names, an object each.
    pub(super) unclaimed: usize,
    /// Its sender has been told, or need not be.
    pub(super) is_counted: bool,
    /// Its receiver holds what it wants to.
    pub(super) is_taken: bool,
}

impl Ownership {
    /// A message that names `objects` is about to be sent to a process of `to`: its number. `None` when that node is dead,
    /// or too many are on their way.
    pub fn send(&mut self, to: NodeId, objects: &[ObjectId]) -> Option<u64> {
        if self.sent.len() >= self.bounds.messages_max || self.dead.contains(&to) {
            return None;
        }
        self.messages += 1;
        let objects = self.pin(objects);
        // OWN-3: what was not held here may be there all the same, as a copy that was made here.
        objects.iter().for_each(|object| self.claim(*object));
        self.sent.insert(self.messages, Sent { to, objects });
        // OWN-1: what is on its way is held.
        if self.planted.is(Mutant::FreeOnItsWay) {
            let sent = self.sent.get_mut(&self.messages).map(|sent| std::mem::take(&mut sent.objects));
            self.unpin(&sent.unwrap_or_default());
        }
        Some(self.messages)
    }

    /// Holds what there is of `objects` for a message, each once.
    fn pin(&mut self, objects: &[ObjectId]) -> Vec<ObjectId> {
        let mut pinned = Vec::new();
        for object in objects.iter().copied().collect::<BTreeSet<_>>() {
            if let Some(entry) = self.entries.get_mut(&object) {
                entry.pins += 1;
                pinned.push(object);
            }
        }
        pinned
    }

    fn unpin(&mut self, objects: &[ObjectId]) {
        for object in objects {
            if let Some(entry) = self.entries.get_mut(object) {
                entry.pins -= 1;
                self.loose.push(*object);
            }
        }
    }

    pub(super) fn let_go(&mut self, number: u64) {
        if let Some(sent) = self.sent.remove(&number) {
            self.unpin(&sent.objects);
        }
    }

    /// The node `by` says that it holds what a message named.
    pub(super) fn handle_counted(&mut self, by: NodeId, number: u64) {
        if self.sent.get(&number).is_some_and(|sent| sent.to == by) {
            self.let_go(number);
        }
    }

    pub(super) fn handle_arrived(&mut self, from: NodeId, number: u64, process: ProcessId, objects: Vec<ObjectId>) {
        if self.dead.contains(&from) || self.arrived.contains_key(&(from, number)) {
            return;
        }
        if self.arrived.len() >= self.bounds.messages_max {
            self.outputs.push_back(Output::NotCounted { from, number });
            return;
        }
        for object in &objects {
            if self.known(*object).is_none() && object.owner.node() != self.me {
                self.outputs.push_back(Output::Refused { process, object: *object });
            }
        }
        let objects = self.pin(&objects);
        let mut unclaimed = 0;
        for object in &objects {
            let entry = self.entries.get_mut(object).and_then(|entry| entry.foreign_mut());
            if let Some(foreign) = entry.filter(|foreign| !foreign.is_counted && foreign.end.is_none()) {
                foreign.arrivals.push((from, number));
                unclaimed += 1;
            }
            self.claim(*object);
        }
        let is_taken = !self.processes.contains_key(&process);
        let arrival = Arrival { process, objects, unclaimed, is_counted: false, is_taken };
        self.arrived.insert((from, number), arrival);
        if unclaimed == 0 || self.planted.is(Mutant::CountBeforeHeld) {
            self.count(from, number);
        }
    }

    /// An owner has heard that one more of what a message names is held here, or never will.
    pub(super) fn claimed(&mut self, from: NodeId, number: u64) {
        let Some(arrival) = self.arrived.get_mut(&(from, number)) else { return };
        arrival.unclaimed -= 1;
        if arrival.unclaimed == 0 {
            self.count(from, number);
        }
    }

    /// The sender of a message is told that it need not hold what it named.
    fn count(&mut self, from: NodeId, number: u64) {
        let Some(arrival) = self.arrived.get_mut(&(from, number)) else { return };
        if std::mem::replace(&mut arrival.is_counted, true) {
            return self.put_away(from, number);
        }
        match from == self.me {
            true => self.let_go(number),
            false => self.note(from, Subject::Counted(number), false),
        }
        self.put_away(from, number);
    }

    pub(super) fn handle_taken(&mut self, from: NodeId, number: u64) {
        if let Some(arrival) = self.arrived.get_mut(&(from, number)) {
            arrival.is_taken = true;
            self.put_away(from, number);
        }
    }

    /// A message that its receiver has taken over, and that is counted, is held no more.
    pub(super) fn put_away(&mut self, from: NodeId, number: u64) {
        let is_over = |arrival: &Arrival| arrival.is_counted && arrival.is_taken && arrival.unclaimed == 0;
        if self.arrived.get(&(from, number)).is_some_and(is_over)
            && let Some(arrival) = self.arrived.remove(&(from, number))
        {
            self.unpin(&arrival.objects);
        }
    }
}
