//! What this node says to others, and what it hears from them: to owners as one holder, to holders as the owner.

use mobula_types::{Digest, Loss, NodeId, ObjectId, ProcessId};
use mobula_wire::objects::{Letter, Word};

use super::entry::{Copy, End, Entry, Sealed, State};
use super::lane::Subject;
use super::{Output, Ownership, SOURCES_MAX};
use crate::haul::Sources;
use crate::mutant::Mutant;

impl Ownership {
    /// Notes something to be said to another node, unless it is dead.
    pub(super) fn note(&mut self, to: NodeId, subject: Subject, is_urgent: bool) {
        if to != self.me && !self.dead.contains(&to) {
            self.lanes.entry(to).or_default().note(self.seen, subject, is_urgent);
        }
    }

    /// Tells the owner of another node's object how it is held here, if that has changed.
    pub(super) fn claim(&mut self, object: ObjectId) {
        let Some(entry) = self.entries.get(&object) else { return };
        let Some(foreign) = entry.foreign() else { return };
        let stance = entry.stance();
        // OWN-3: of what is gone only a claim is taken back that has crossed that word.
        if foreign.end.is_some() && (stance.0 || !foreign.is_to_take_back()) {
            return;
        }
        if stance != foreign.said {
            // Others hold their messages until it is heard. That something is held no more can wait.
            self.note(object.owner.node(), Subject::Claim(object), stance.0);
        } else if stance == (false, None) {
            self.entries.remove(&object);
        }
    }

    /// Says what it is time for.
    pub(super) fn say(&mut self) {
        for to in self.lanes.keys().copied().collect::<Vec<_>>() {
            let mut fresh = 0;
            while let Some(subject) = self.lanes.get_mut(&to).and_then(|lane| lane.next(self.seen)) {
                let Some(word) = self.word(to, subject) else { continue };
                let Some(lane) = self.lanes.get_mut(&to) else { break };
                fresh += 1;
                let (number, word) = (lane.push(word.clone()), word);
                self.said(number, &word);
            }
            let letter = self.lanes.get_mut(&to).and_then(|lane| lane.letter(self.seen, fresh));
            self.outputs.extend(letter.map(|letter| Output::Say { to, letter }));
        }
    }

    /// What is to be said of a subject now; nothing when it has become pointless.
    fn word(&mut self, to: NodeId, subject: Subject) -> Option<Word> {
        match subject {
            Subject::Claim(object) => {
                let entry = self.entries.get(&object)?;
                let ((holds, copy), foreign) = (entry.stance(), entry.foreign()?);
                (foreign.said != (holds, copy)).then_some(Word::Claim { object, holds, copy })
            }
            Subject::Ask(object) => {
                let foreign = self.entries.get_mut(&object)?.foreign_mut()?;
                foreign.is_asked.then_some(Word::Ask { object })
            }
            Subject::Answer(object) => self.answer(to, object),
            Subject::Primary(object) => {
                let is_it = self.entries.get(&object)?.owned()?.primary == to;
                is_it.then_some(Word::Primary { object })
            }
            Subject::Drop(object) => {
                // It may have been freed since.
                let Some(entry) = self.entries.get(&object) else { return Some(Word::Gone { object }) };
                let is_wanted = entry.owned()?.copies.contains_key(&to);
                (!is_wanted).then_some(Word::Drop { object })
            }
            Subject::Gone(object) => Some(Word::Gone { object }),
            Subject::Counted(number) => Some(Word::Counted { number }),
        }
    }

    fn answer(&mut self, to: NodeId, object: ObjectId) -> Option<Word> {
        let (me, now) = (self.me, self.seen);
        let in_circles = self.planted.is(Mutant::ReadInCircles);
        let Some(entry) = self.entries.get_mut(&object) else { return Some(Word::Gone { object }) };
        let here = entry.copy.map(|_| me);
        let owned = entry.owned_mut()?;
        if !owned.askers.contains(&to) {
            return None;
        }
        let word = match &owned.state {
            State::Sealed { is_inline } => {
                // That it has the object itself is news to who has just made it.
                let own = owned.sources().find(|node| *node == to);
                let whole: Vec<NodeId> = here.into_iter().chain(owned.sources()).collect();
                let sources = match own.is_none() && !is_inline {
                    true => owned.pullers.sources(&whole, to, now, in_circles),
                    false => Sources { at_once: whole.into_iter().filter(|node| *node != to).collect(), spare: vec![] },
                };
                let copies = own.into_iter().chain(sources.at_once).take(SOURCES_MAX).collect();
                let Sealed { bytes, digest } = owned.sealed?;
                Word::At { object, bytes, digest, is_inline: *is_inline, copies, spare: sources.spare }
            }
            State::Lost(loss) => Word::Lost { object, loss: loss.clone() },
            State::Pending { .. } | State::Missing(_) => return None,
        };
        owned.askers.remove(&to);
        Some(word)
    }

    /// A word is on its way.
    fn said(&mut self, number: u64, word: &Word) {
        let &Word::Claim { object, holds, copy } = word else { return };
        let Some(foreign) = self.entries.get_mut(&object).and_then(Entry::foreign_mut) else { return };
        if holds && !foreign.said.0 {
            foreign.held_since = number;
        }
        foreign.is_counted &= holds;
        foreign.said = (holds, copy);
        // What is neither held nor copied is known here no more. OWN-1: what its owner has given up may be held all the same.
        self.loose.push(object);
        if (holds, copy) == (false, None) && self.entries.get(&object).is_some_and(|entry| !entry.is_held()) {
            self.entries.remove(&object);
        }
    }

    pub(super) fn handle_letter(&mut self, from: NodeId, letter: Letter) {
        if self.dead.contains(&from) || from == self.me {
            self.counters.of_dead += letter.words.len() as u64;
            return;
        }
        let Letter { first, words, heard } = letter;
        let now = self.seen;
        let lane = self.lanes.entry(from).or_default();
        let acknowledged = lane.acknowledge(now, heard);
        if !words.is_empty() {
            lane.owe(now);
        }
        for (number, word) in acknowledged {
            if let Word::Claim { object, holds: true, .. } = word {
                self.claim_heard(number, object);
            }
        }
        for (number, word) in (first..=u64::MAX).zip(words) {
            let is_repeat = number <= self.heard(from);
            let hears = self.lanes.get_mut(&from).is_some_and(|lane| lane.hears(number));
            // OWN-4: every word is heard once and in its turn; the others come again.
            if hears || self.planted.is(Mutant::HearRepeats) && is_repeat {
                self.hear(from, word);
            } else if is_repeat {
                self.counters.repeats += 1;
            } else {
                self.counters.early += 1;
            }
        }
    }

    fn heard(&self, from: NodeId) -> u64 {
        self.lanes.get(&from).map_or(0, |lane| lane.heard())
    }

    /// The owner of an object has heard that it is held here.
    fn claim_heard(&mut self, number: u64, object: ObjectId) {
        let Some(foreign) = self.entries.get_mut(&object).and_then(Entry::foreign_mut) else { return };
        if !foreign.said.0 || number < foreign.held_since {
            return;
        }
        foreign.is_counted = true;
        for (from, number) in std::mem::take(&mut foreign.arrivals) {
            self.claimed(from, number);
        }
    }

    fn hear(&mut self, from: NodeId, word: Word) {
        let (object, to_owner) = match &word {
            Word::Counted { number } => return self.handle_counted(from, *number),
            Word::Claim { object, .. } | Word::Ask { object } => (*object, true),
            Word::At { object, .. }
            | Word::Lost { object, .. }
            | Word::Primary { object }
            | Word::Drop { object }
            | Word::Gone { object } => (*object, false),
        };
        if object.owner.node() != if to_owner { self.me } else { from } {
            self.counters.misdirected += 1;
            return;
        }
        match word {
            Word::Claim { holds, copy, .. } => self.hear_claim(from, object, holds, copy),
            Word::Ask { .. } => self.hear_ask(from, object),
            Word::At { bytes, digest, is_inline, copies, spare, .. } => {
                self.hear_at(object, Sealed { bytes, digest }, is_inline, Sources { at_once: copies, spare });
            }
            Word::Lost { loss, .. } => self.hear_lost(object, &loss),
            Word::Primary { .. } => {
                if let Some(copy) = self.entries.get_mut(&object).and_then(|entry| entry.copy.as_mut()) {
                    copy.is_primary = true;
                }
            }
            Word::Drop { .. } => self.hear_drop(object),
            Word::Gone { .. } => self.hear_gone(object),
            Word::Counted { .. } => {}
        }
    }

    fn hear_claim(&mut self, from: NodeId, object: ObjectId, holds: bool, copy: Option<Digest>) {
        let holder = ProcessId::from(from);
        // What a task has made for a process of this node may be there before that process says so. Who holds it has heard
        // of it from here: what is held and not known has been freed.
        let known = if copy.is_some() && !holds { self.known(object) } else { self.entries.get_mut(&object) };
        let Some(entry) = known else {
            if holds || copy.is_some() {
                self.note(from, Subject::Gone(object), true);
            }
            return;
        };
        match holds {
            true => drop(entry.holders.insert(holder)),
            false => drop(entry.holders.remove(&holder)),
        }
        if let Some(owned) = entry.owned_mut().filter(|_| !holds || copy.is_some()) {
            owned.pullers.forget(from);
        }
        self.loose.push(object);
        match copy {
            Some(digest) => self.copy_found(from, object, digest),
            None => self.copy_lost(object, from, Loss::GivenUp { node: from }),
        }
    }

    fn hear_ask(&mut self, from: NodeId, object: ObjectId) {
        let Some(owned) = self.entries.get_mut(&object).and_then(Entry::owned_mut) else {
            return self.note(from, Subject::Gone(object), true);
        };
        owned.askers.insert(from);
        match owned.state {
            State::Sealed { .. } | State::Lost(_) => self.note(from, Subject::Answer(object), true),
            State::Missing(_) => self.remake(object),
            State::Pending { .. } => {}
        }
    }

    fn hear_at(&mut self, object: ObjectId, sealed: Sealed, is_inline: bool, mut sources: Sources) {
        let me = self.me;
        let Some(entry) = self.entries.get_mut(&object) else { return };
        let Some(foreign) = entry.foreign_mut() else { return };
        foreign.is_asked = false;
        foreign.expected = Some(sealed.digest);
        if entry.wanted.is_empty() {
            return;
        }
        if sources.at_once.contains(&me)
            && let Some(copy) = entry.copy.as_mut().filter(|copy| copy.digest == sealed.digest)
        {
            copy.is_confirmed = true;
        }
        if is_inline || entry.is_readable() {
            return self.ready(object);
        }
        let not_to_ask: Vec<NodeId> = sources.all().filter(|node| *node == me || self.dead.contains(node)).collect();
        not_to_ask.into_iter().for_each(|node| sources.leave(node));
        sources.at_once.truncate(SOURCES_MAX);
        sources.spare.truncate(SOURCES_MAX);
        self.pull(object, sealed.bytes, sources);
    }

    fn hear_lost(&mut self, object: ObjectId, loss: &Loss) {
        let Some(foreign) = self.entries.get_mut(&object).and_then(Entry::foreign_mut) else { return };
        foreign.is_asked = false;
        self.fail(object, loss);
    }

    fn hear_drop(&mut self, object: ObjectId) {
        if let Some(Copy { .. }) = self.entries.get_mut(&object).and_then(|entry| entry.copy.take()) {
            self.outputs.push_back(Output::Free { object });
            self.claim(object);
        }
    }

    fn hear_gone(&mut self, object: ObjectId) {
        let Some(entry) = self.entries.get_mut(&object) else { return };
        if entry.copy.take().is_some() {
            self.outputs.push_back(Output::Free { object });
        }
        let Some(foreign) = entry.foreign_mut() else { return };
        foreign.end = Some(End::Gone);
        foreign.has_crossed = foreign.said.0 && !foreign.is_counted;
        foreign.is_asked = false;
        for (from, number) in std::mem::take(&mut foreign.arrivals) {
            self.claimed(from, number);
        }
        self.fail(object, &Loss::NotHeld);
        self.loose.push(object);
    }
}
