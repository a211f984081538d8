//! What is on its way between two processes: in order on each lane, late when a connection is lost, and lost with a death.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use mobula_logic::Violation;
use mobula_logic::intake::Announced;
use mobula_types::Time;

use super::{ActorIndex, At, Event, MailId, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Lane {
    Calls,
    Bulk,
}

/// What an answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Said {
    Handled,
    Panicked,
    /// There was no room.
    NotTaken,
    /// There is no such actor here.
    NoActor,
    /// It began, and the actor was started again meanwhile.
    BrokenOff,
}

/// How the receiver knows a message that is sent until it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Again {
    /// Of its outbox.
    pub(super) number: u64,
    /// Its own there.
    pub(super) seq: u64,
    /// The one before it that is not acknowledged.
    pub(super) after: u64,
}

#[derive(Clone, Debug)]
pub(super) enum Word {
    Mail {
        exchange: u64,
        mail: MailId,
        /// Of a message that is sent until it is acknowledged.
        again: Option<Again>,
        large: Option<Announced>,
    },
    Answer {
        exchange: u64,
        mail: MailId,
        said: Said,
        large: Option<Announced>,
    },
    Credit {
        actor: ActorIndex,
        calls: u32,
        bytes: u64,
    },
    Cancel {
        exchange: u64,
    },
    Pull {
        transfer: u64,
        offset: u64,
        bytes: u32,
    },
    Taken {
        transfer: u64,
    },
    Part {
        transfer: u64,
        offset: u64,
        bytes: Bytes,
    },
    /// Who said all that was before this is dead.
    Died,
}

impl Word {
    /// Without the bytes of a part.
    fn brief(&self) -> String {
        match self {
            Self::Part { transfer, offset, bytes } => format!("Part {transfer} at {offset}, {} bytes", bytes.len()),
            word => format!("{word:?}"),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Road {
    pub(super) words: VecDeque<Word>,
    is_pumped: bool,
}

impl World {
    /// Says something on the road between two processes.
    pub(super) fn say(&mut self, from: At, to: At, word: Word) {
        if self.processes[from].is_alive {
            self.put(from, to, word);
        }
    }

    pub(super) fn put(&mut self, from: At, to: At, word: Word) {
        let lane = if matches!(word, Word::Part { .. }) { Lane::Bulk } else { Lane::Calls };
        let may_repeat = match word {
            Word::Part { .. } | Word::Pull { .. } | Word::Taken { .. } | Word::Answer { .. } => true,
            // Its receiver knows it by its numbers. A payload is announced once.
            Word::Mail { again, large, .. } => again.is_some() && large.is_none(),
            _ => false,
        };
        let repeats = may_repeat && !self.is_quiet && self.rng.chance(3);
        let road = self.roads.entry((from, to, lane)).or_default();
        if repeats {
            self.coverage.saw("a word is said twice");
            road.words.push_back(word.clone());
        }
        road.words.push_back(word);
        if !std::mem::replace(&mut road.is_pumped, true) {
            let delay = self.transit();
            self.agenda.after(delay, Event::Pump { from, to, lane });
        }
    }

    fn transit(&mut self) -> Duration {
        if !self.is_quiet && self.rng.chance(2) {
            self.coverage.saw("a word is late");
            return Duration::from_millis(50) + self.rng.span(800);
        }
        Duration::from_micros(100 + self.rng.below(3_000))
    }

    /// Until when nothing gets from one process to another.
    fn blocked_until(&self, from: At, to: At) -> Option<Time> {
        let (here, there) = (self.processes[from].node, self.processes[to].node);
        let cuts = [here, there].into_iter().filter_map(|node| self.nodes[node].cut_until.filter(|_| here != there));
        let of = |at: &At| self.attachments.get(at).and_then(|attached| attached.down_until);
        cuts.chain([from, to].iter().filter_map(of)).max()
    }

    /// Whether one of the two was declared dead, and their sessions with it.
    fn is_severed(&self, from: At, to: At) -> bool {
        let (here, there) = (self.processes[from].node, self.processes[to].node);
        let is_dead = here != there && (self.nodes[here].is_dead || self.nodes[there].is_dead);
        let is_over = |at: &At| self.attachments.get(at).is_some_and(|attached| attached.ends[1].is_over());
        is_dead || [from, to].iter().any(is_over)
    }

    pub(super) fn pump(&mut self, from: At, to: At, lane: Lane) -> Result<(), Violation> {
        let now = self.agenda.now();
        if let Some(until) = self.blocked_until(from, to).filter(|until| *until > now) {
            self.coverage.saw("a word waits for a connection");
            self.agenda.at(until, Event::Pump { from, to, lane });
            return Ok(());
        }
        let Some(road) = self.roads.get_mut(&(from, to, lane)) else { return Ok(()) };
        let word = road.words.pop_front();
        road.is_pumped = !road.words.is_empty();
        if road.is_pumped {
            let delay = self.transit();
            self.agenda.after(delay, Event::Pump { from, to, lane });
        }
        let Some(word) = word else { return Ok(()) };
        self.steps.note(now, || format!("  {from} says to {to}: {}", word.brief()));
        if matches!(word, Word::Died) {
            return self.hears(to, from);
        }
        if self.is_severed(from, to) {
            self.coverage.saw("a word for a session that is over");
            return Ok(());
        }
        if !self.processes[to].is_alive {
            self.coverage.saw("a word to the dead");
            return Ok(());
        }
        if self.processes[to].dead.contains(&from) {
            return Ok(());
        }
        self.hear(from, to, word)
    }
}
