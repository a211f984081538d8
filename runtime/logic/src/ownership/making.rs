//! How objects come to their bytes, lose them, and are made again.

use mobula_types::{Digest, Loss, NodeId, ObjectId, ProcessId};

use super::entry::{Copy, Entry, KeptRecipe, Owned, Role, Sealed, State};
use super::io::{Birth, Place, Recipe, Seal};
use super::lane::Subject;
use super::{Output, Ownership};
use crate::mutant::Mutant;

impl Ownership {
    pub(super) fn create(&mut self, process: ProcessId, object: ObjectId, birth: Birth) {
        let is_full = self.is_full();
        // Others may have spoken of it first.
        let unborn = |entry: &mut Entry| entry.owned_mut().is_some_and(|owned| owned.unborn_until.take().is_some());
        let is_new = self.entries.get_mut(&object).map_or(!is_full, unborn);
        if object.owner != process || !is_new {
            self.outputs.push_back(Output::Refused { process, object });
            return self.refuse(process, object, birth);
        }
        let new = || Entry::new(Role::Owned(Box::new(Owned::new(object.owner.node()))));
        let entry = self.entries.entry(object, new);
        entry.holders.insert(process);
        match birth {
            Birth::Put(seal) => self.seal(object, seal),
            Birth::Later { site } => {
                if let Some(owned) = entry.owned_mut() {
                    (owned.runs, owned.site) = (1, site);
                }
            }
            Birth::Task(recipe) => {
                if let Some(owned) = self.entries.get_mut(&object).and_then(Entry::owned_mut) {
                    owned.runs = 1;
                }
                self.keep_recipe(object, recipe);
            }
        }
    }

    /// OWN-3: of an object that has no room nothing is kept.
    fn refuse(&mut self, process: ProcessId, object: ObjectId, birth: Birth) {
        if object.owner != process || self.entries.contains(&object) {
            return;
        }
        match birth {
            Birth::Put(seal) => self.drop_at(object, &seal),
            Birth::Task(_) => self.outputs.push_back(Output::Forgotten { object }),
            Birth::Later { .. } => {}
        }
    }

    pub(super) fn handle_recipe(&mut self, object: ObjectId, recipe: Recipe) {
        let is_its_makers = self.entries.get(&object).and_then(Entry::owned).is_some_and(Owned::is_its_makers);
        if is_its_makers {
            self.keep_recipe(object, recipe);
        } else {
            self.outputs.push_back(Output::Forgotten { object });
        }
    }

    /// Remembers how an object is made, if there is room or room can be made (OWN-6).
    fn keep_recipe(&mut self, object: ObjectId, mut recipe: Recipe) {
        let is_too_much = |bytes: u64, max: u64| bytes + recipe.bytes > max;
        while is_too_much(self.lineage.bytes, self.bounds.lineage_bytes_max) && !self.planted.is(Mutant::KeepAllRecipes)
        {
            let oldest = self.lineage.idle.first().map(|(_, oldest)| *oldest);
            // What is being made now cannot do without its own.
            let Some(oldest) = oldest.filter(|_| recipe.bytes <= self.bounds.lineage_bytes_max) else {
                self.outputs.push_back(Output::Forgotten { object });
                return self.evicted(object);
            };
            self.forget_recipe(oldest);
            self.evicted(oldest);
            if let Some(State::Missing(_)) = self.state(oldest) {
                self.lose(oldest, Loss::LineageEvicted);
            }
        }
        recipe.arguments.sort_unstable();
        recipe.arguments.dedup();
        recipe.arguments.retain(|argument| *argument != object && self.entries.contains(argument));
        for argument in &recipe.arguments {
            if let Some(entry) = self.entries.get_mut(argument) {
                entry.recipes += 1;
                entry.users.insert(object);
            }
            // OWN-3: it may have been here as a copy that nobody holds.
            self.claim(*argument);
        }
        self.lineage.last += 1;
        self.lineage.bytes += recipe.bytes;
        if let Some(owned) = self.entries.get_mut(&object).and_then(Entry::owned_mut) {
            owned.recipe = Some(KeptRecipe { recipe, order: self.lineage.last });
        }
    }

    fn evicted(&mut self, object: ObjectId) {
        self.counters.recipes_evicted += 1;
        self.outputs.push_back(Output::LineageEvicted { object });
        if let Some(owned) = self.entries.get_mut(&object).and_then(Entry::owned_mut) {
            owned.is_evicted = true;
        }
    }

    pub(super) fn forget_recipe(&mut self, object: ObjectId) {
        let Some(owned) = self.entries.get_mut(&object).and_then(Entry::owned_mut) else { return };
        let Some(KeptRecipe { recipe, order }) = owned.recipe.take() else { return };
        self.outputs.push_back(Output::Forgotten { object });
        self.lineage.bytes -= recipe.bytes;
        self.lineage.idle.remove(&(order, object));
        for argument in recipe.arguments {
            if let Some(entry) = self.entries.get_mut(&argument) {
                entry.recipes -= 1;
                entry.users.remove(&object);
                self.loose.push(argument);
            }
        }
    }

    fn state(&self, object: ObjectId) -> Option<&State> {
        self.entries.get(&object).and_then(Entry::owned).map(|owned| &owned.state)
    }

    pub(super) fn handle_made(&mut self, object: ObjectId, run: u32, seal: Seal) {
        let is_awaited = self
            .entries
            .get(&object)
            .and_then(Entry::owned)
            .is_some_and(|owned| owned.runs == run && owned.state == State::Pending { is_running: true });
        if object.owner.node() != self.me || !is_awaited {
            self.counters.stale_results += 1;
            return self.drop_at(object, &seal);
        }
        let first = self.entries.get(&object).and_then(Entry::owned).and_then(|owned| owned.sealed);
        // OWN-8: whoever has read it must not find other bytes now.
        if let Some(first) = first.filter(|first| first.digest != seal.digest)
            && !self.planted.is(Mutant::TrustReplay)
        {
            self.drop_at(object, &seal);
            return self.lose(object, Loss::NonDeterministicReplay { first: first.digest, again: seal.digest });
        }
        self.seal(object, seal);
    }

    /// What nobody asked for is dropped where it was made.
    fn drop_at(&mut self, object: ObjectId, seal: &Seal) {
        let has_copy = self.entries.get(&object).is_some_and(|entry| entry.copy.is_some());
        if seal.at != self.me {
            let subject = match self.entries.contains(&object) {
                true => Subject::Drop(object),
                false => Subject::Gone(object),
            };
            self.note(seal.at, subject, false);
        } else if !has_copy && (seal.place != Place::Inline || !self.entries.contains(&object)) {
            self.outputs.push_back(Output::Free { object });
        }
    }

    /// There are bytes.
    fn seal(&mut self, object: ObjectId, seal: Seal) {
        let Seal { at, place, bytes, digest, inner } = seal;
        let me = self.me;
        let Some(entry) = self.entries.get_mut(&object) else { return };
        let is_inline = place == Place::Inline;
        if at == me && !is_inline && entry.copy.is_none() {
            entry.copy = Some(Copy { digest, place, is_primary: true, is_confirmed: true });
        }
        let Some(owned) = entry.owned_mut() else { return };
        owned.state = State::Sealed { is_inline };
        owned.sealed = Some(Sealed { bytes, digest });
        // Copies of other attempts, or of what is kept here anyway.
        let wrong = owned.copies.iter().filter(|(_, copy)| is_inline || **copy != digest);
        let wrong: Vec<NodeId> = wrong.map(|(node, _)| *node).collect();
        owned.copies.retain(|node, _| !wrong.contains(node));
        if at != me && !is_inline && !owned.copies.contains_key(&at) {
            owned.promised = Some(at);
        }
        owned.primary = at;
        // OWN-11: who has made it does not wait for others any more.
        owned.pullers.forget(at);
        let needs_inner = owned.inner.is_empty();
        wrong.into_iter().for_each(|node| self.note(node, Subject::Drop(object), false));
        if needs_inner {
            let inner = self.hold_inner(object, inner.into_iter().filter(|it| *it != object).collect());
            if let Some(owned) = self.entries.get_mut(&object).and_then(Entry::owned_mut) {
                owned.inner = inner;
            }
        }
        if self.dead.contains(&at) {
            // OWN-6: its run is over all the same.
            self.stop_using(object);
            self.copy_lost(object, at, Loss::NodeDied { node: at });
        }
        self.sealed(object);
    }

    /// An object has come to bytes, by a run or by a copy that was not known: all who waited for that go on.
    fn sealed(&mut self, object: ObjectId) {
        self.loose.push(object);
        if !matches!(self.state(object), Some(State::Sealed { .. })) {
            return;
        }
        self.stop_using(object);
        self.serve(object);
        self.answer_askers(object);
        let users = self.entries.get(&object).map(|entry| entry.users.iter().copied().collect::<Vec<_>>());
        users.unwrap_or_default().into_iter().for_each(|user| self.try_run(user));
    }

    fn answer_askers(&mut self, object: ObjectId) {
        let askers = self.entries.get(&object).and_then(Entry::owned).map(|owned| owned.askers.clone());
        askers.unwrap_or_default().into_iter().for_each(|node| self.note(node, Subject::Answer(object), true));
    }

    /// What an object is made of is not needed for it now; its recipe may be forgotten.
    pub(super) fn stop_using(&mut self, object: ObjectId) {
        let Some(owned) = self.entries.get(&object).and_then(Entry::owned) else { return };
        if let Some(KeptRecipe { order, .. }) = owned.recipe {
            self.lineage.idle.insert((order, object));
        }
        for argument in owned.arguments() {
            if let Some(entry) = self.entries.get_mut(&argument) {
                entry.users.remove(&object);
                self.loose.push(argument);
            }
        }
    }

    /// The task of an object has come to nothing.
    pub(super) fn handle_not_made(&mut self, object: ObjectId, run: u32) {
        let Some(owned) = self.entries.get_mut(&object).and_then(Entry::owned_mut) else { return };
        if owned.runs != run || owned.state != (State::Pending { is_running: true }) {
            self.counters.stale_results += 1;
            return;
        }
        owned.state = State::Missing(Loss::NotMade { run });
        self.reseal(object);
        if let Some(State::Missing(loss)) = self.state(object) {
            let loss = loss.clone();
            self.lose(object, loss);
        }
    }

    /// Another node says that it has a copy.
    pub(super) fn copy_found(&mut self, node: NodeId, object: ObjectId, digest: Digest) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        let is_held = entry.is_held();
        let Some(owned) = entry.owned_mut() else { return };
        // What is being made is wanted by somebody, or dropped when it is made.
        let is_of_use = is_held || matches!(owned.state, State::Pending { .. });
        if owned.promised == Some(node) {
            owned.promised = None;
        }
        if !is_of_use || !owned.takes(digest) {
            self.copy_lost(object, node, Loss::GivenUp { node });
            return self.note(node, Subject::Drop(object), false);
        }
        owned.copies.insert(node, digest);
        self.reseal(object);
    }

    /// An object that was missing, or waits to be made again, and of which there is a copy after all.
    pub(super) fn reseal(&mut self, object: ObjectId) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        let is_here = entry.copy.is_some();
        let Some(owned) = entry.owned_mut() else { return };
        let lacks = matches!(owned.state, State::Missing(_) | State::Pending { is_running: false });
        if lacks && owned.sealed.is_some() && (is_here || owned.sources().next().is_some()) {
            owned.state = State::Sealed { is_inline: false };
            self.promote(object);
            self.sealed(object);
        }
    }

    /// Another node, or this one, has no copy any more.
    pub(super) fn copy_lost(&mut self, object: ObjectId, node: NodeId, loss: Loss) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        let is_here = entry.copy.is_some();
        let Some(owned) = entry.owned_mut() else { return };
        // A node that was promised to have it, and has not said so yet, is asked for it all the same.
        let was_promised = owned.promised == Some(node) && matches!(loss, Loss::NodeDied { .. });
        if was_promised {
            owned.promised = None;
        }
        let was_copy = owned.copies.remove(&node).is_some() || was_promised || node == self.me;
        if !was_copy || owned.state != (State::Sealed { is_inline: false }) {
            return;
        }
        let is_left = is_here || owned.sources().next().is_some();
        // OWN-7: what has a copy is not made again.
        if is_left && !self.planted.is(Mutant::MakeWhileCopied) {
            return self.promote(object);
        }
        owned.state = State::Missing(loss.clone());
        if owned.recipe.is_none() {
            let loss = if owned.is_evicted { Loss::LineageEvicted } else { loss };
            return self.lose(object, loss);
        }
        let is_awaited = !entry.wanted.is_empty() && !entry.fetch.is_pulling;
        let owned = entry.owned();
        let is_needed = is_awaited || owned.is_some_and(|owned| !owned.askers.is_empty());
        let users: Vec<ObjectId> = entry.users.iter().copied().collect();
        let waits =
            users.iter().any(|user| self.entries.get(user).and_then(Entry::owned).is_some_and(Owned::is_waiting));
        if is_needed || waits {
            self.remake(object);
        }
    }

    /// One of the copies that are left is not given up from now on.
    fn promote(&mut self, object: ObjectId) {
        let me = self.me;
        let Some(entry) = self.entries.get_mut(&object) else { return };
        let Role::Owned(owned) = &mut entry.role else { return };
        let is_there = owned.sources().any(|node| node == owned.primary);
        match &mut entry.copy {
            _ if is_there => {}
            Some(copy) => {
                copy.is_primary = true;
                owned.primary = me;
            }
            None => {
                if let Some(node) = owned.copies.keys().next().copied() {
                    owned.primary = node;
                    self.note(node, Subject::Primary(object), true);
                }
            }
        }
    }

    /// An object that is missing and wanted is made again, after what it is made of.
    pub(super) fn remake(&mut self, object: ObjectId) {
        let (mut open, mut begun) = (vec![object], Vec::new());
        while let Some(object) = open.pop() {
            let Some(owned) = self.entries.get_mut(&object).and_then(Entry::owned_mut) else { continue };
            let State::Missing(loss) = owned.state.clone() else { continue };
            let runs_max = owned.recipe.as_ref().map(|kept| kept.recipe.runs_max);
            let spare = u32::from(self.planted.is(Mutant::RunOnceMore));
            let Some(KeptRecipe { order, .. }) = owned.recipe else {
                self.lose(object, loss);
                continue;
            };
            // OWN-6: only as often as retries allow.
            if runs_max.is_none_or(|max| owned.runs >= max.saturating_add(spare)) {
                let runs = owned.runs;
                self.lose(object, Loss::RunsSpent { runs });
                continue;
            }
            owned.state = State::Pending { is_running: false };
            let arguments = owned.arguments();
            self.lineage.idle.remove(&(order, object));
            for argument in arguments {
                if let Some(entry) = self.entries.get_mut(&argument) {
                    entry.users.insert(object);
                    open.push(argument);
                }
            }
            begun.push(object);
        }
        begun.into_iter().for_each(|object| self.try_run(object));
    }

    /// Runs a task that waits, as soon as all that it is given is there.
    fn try_run(&mut self, object: ObjectId) {
        let Some(owned) = self.entries.get(&object).and_then(Entry::owned).filter(|owned| owned.is_waiting()) else {
            return;
        };
        let mut is_ready = true;
        for argument in owned.arguments() {
            let Some(entry) = self.entries.get(&argument) else { continue };
            let is_lost = match &entry.role {
                Role::Owned(owned) => matches!(owned.state, State::Lost(_)),
                Role::Foreign(foreign) => foreign.end.is_some() && entry.copy.is_none(),
            };
            if is_lost {
                return self.lose(object, Loss::ArgumentLost { argument });
            }
            // What is missing was begun before what is made of it.
            is_ready &= !matches!(self.state(argument), Some(State::Missing(_) | State::Pending { .. }));
        }
        let Some(owned) = self.entries.get_mut(&object).and_then(Entry::owned_mut) else { return };
        if !is_ready || !owned.is_waiting() {
            return;
        }
        owned.state = State::Pending { is_running: true };
        owned.runs += 1;
        let (run, task) = (owned.runs, owned.recipe.as_ref().map(|kept| kept.recipe.task));
        if let Some(task) = task {
            self.outputs.push_back(Output::Run { object, task, run });
        }
    }

    /// There will be no bytes any more: of this object, and of all that wait to be made of it.
    pub(super) fn lose(&mut self, object: ObjectId, loss: Loss) {
        let mut open = vec![(object, loss)];
        while let Some((object, loss)) = open.pop() {
            let Some(entry) = self.entries.get_mut(&object) else { continue };
            let is_here = entry.copy.take().is_some();
            let Role::Owned(owned) = &mut entry.role else { continue };
            owned.state = State::Lost(loss.clone());
            // OWN-5: what the bytes named stays held while somebody holds the object. Who has just read it may be on the
            // way to claim that.
            let nodes: Vec<NodeId> = owned.sources().collect();
            owned.copies.clear();
            owned.promised = None;
            let users: Vec<ObjectId> = entry.users.iter().copied().collect();
            if is_here {
                self.outputs.push_back(Output::Free { object });
            }
            nodes.into_iter().for_each(|node| self.note(node, Subject::Drop(object), false));
            self.stop_using(object);
            self.forget_recipe(object);
            self.fail(object, &loss);
            self.answer_askers(object);
            let waits = |user: &ObjectId| self.entries.get(user).and_then(Entry::owned).is_some_and(Owned::is_waiting);
            let waiting = users.into_iter().filter(waits);
            open.extend(waiting.map(|user| (user, Loss::ArgumentLost { argument: object })));
            self.loose.push(object);
        }
    }
}
