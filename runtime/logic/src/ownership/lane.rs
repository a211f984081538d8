//! The words of one node to another: each is heard once and in its order, whatever is lost, doubled or overtaken on the
//! way, until one of the two is dead.
//!
//! What is to be said waits as a subject, and becomes a word when there is room: so however often something changes
//! meanwhile, it waits once, and what waits is bounded by the tables of who says it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use mobula_types::{ObjectId, Time};
use mobula_wire::objects::{Letter, Word};

/// Words on their way to one node: those that it has not heard are kept and said again.
pub(super) const WINDOW: usize = 256;

/// Words that nobody waits for are said together: a letter for each would be most of what they cost. What nobody holds
/// any more is freed that much later, of the second that there is (G9).
pub(super) const LAZY_AFTER: Duration = Duration::from_millis(20);

/// What is not heard in this time is said again: some round trips of a busy network, and three times in G9's second.
pub(super) const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// Something to be said: what exactly is decided when it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Claim(ObjectId),
    Ask(ObjectId),
    Answer(ObjectId),
    Primary(ObjectId),
    Drop(ObjectId),
    Gone(ObjectId),
    Counted(u64),
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    /// What waits for room, each once.
    waiting: VecDeque<Subject>,
    known: BTreeSet<Subject>,
    /// Words that have not been heard; the first has the number after `acknowledged`.
    on_way: VecDeque<Word>,
    acknowledged: u64,
    /// The last word of the other side that was heard.
    heard: u64,
    /// When something is said at the latest: words that wait, or that others were heard.
    say_at: Option<Time>,
    /// When what is on its way is said again.
    again_at: Option<Time>,
}

impl Lane {
    /// Notes something to be said. `is_urgent` when somebody waits for it.
    pub(super) fn note(&mut self, now: Time, subject: Subject, is_urgent: bool) {
        if self.known.insert(subject) {
            self.waiting.push_back(subject);
        }
        self.say_by(if is_urgent { now } else { now + LAZY_AFTER });
    }

    fn say_by(&mut self, time: Time) {
        self.say_at = Some(self.say_at.map_or(time, |at| at.min(time)));
    }

    /// The next subject when it is time and there is room for its word.
    pub(super) fn next(&mut self, now: Time) -> Option<Subject> {
        if self.on_way.len() >= WINDOW || self.say_at.is_none_or(|at| at > now) {
            return None;
        }
        let subject = self.waiting.pop_front()?;
        self.known.remove(&subject);
        Some(subject)
    }

    /// A word leaves: its number.
    pub(super) fn push(&mut self, word: Word) -> u64 {
        self.on_way.push_back(word);
        self.acknowledged + self.on_way.len() as u64
    }

    /// What is said now: the last `fresh` words, or all that are on their way if it is time for that.
    pub(super) fn letter(&mut self, now: Time, fresh: usize) -> Option<Letter> {
        let is_again = self.again_at.is_some_and(|at| at <= now);
        let is_time = self.say_at.is_some_and(|at| at <= now);
        if !is_again && !is_time {
            return None;
        }
        let said = if is_again { self.on_way.len() } else { fresh };
        let before = self.on_way.len() - said;
        if said > 0 && (is_again || self.again_at.is_none()) {
            self.again_at = Some(now + AGAIN_AFTER);
        }
        // What waits for room is said when words have been heard.
        self.say_at = None;
        let words = self.on_way.iter().skip(before).cloned().collect();
        Some(Letter { first: self.acknowledged + 1 + before as u64, words, heard: self.heard })
    }

    /// Words up to `number` were heard: how many of them were not known to be.
    pub(super) fn acknowledge(&mut self, now: Time, number: u64) -> Vec<(u64, Word)> {
        let count = number.saturating_sub(self.acknowledged).min(self.on_way.len() as u64);
        let heard: Vec<Word> = self.on_way.drain(..count as usize).collect();
        let first = self.acknowledged + 1;
        self.acknowledged += count;
        if self.on_way.is_empty() {
            self.again_at = None;
        } else if count > 0 {
            self.again_at = Some(now + AGAIN_AFTER);
        }
        if !self.waiting.is_empty() {
            self.say_by(now);
        }
        (first..).zip(heard).collect()
    }

    /// Whether a word of the other side is to be heard: not when it has been, or when one before it has not.
    pub(super) fn hears(&mut self, number: u64) -> bool {
        let is_next = number == self.heard + 1;
        self.heard += u64::from(is_next);
        is_next
    }

    /// The last word of the other side that was heard.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// The other side is owed to know what was heard.
    pub(super) fn owe(&mut self, now: Time) {
        self.say_by(now + LAZY_AFTER);
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        [self.say_at, self.again_at].into_iter().flatten().min()
    }

    pub(super) fn on_way(&self) -> usize {
        self.on_way.len()
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = Subject> {
        self.waiting.iter().copied()
    }
}
