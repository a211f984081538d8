//! Messages from one sender to one actor that are sent again until they are acknowledged (G4, G8).
//!
//! ```text
//!         submit               the actor lives             acknowledged
//!  (none) ──────► waiting ─────────────────────► sent ───────────────────► confirmed
//!                    ▲                            │ its place is lost
//!                    └────────────────────────────┘ third time to blame, too old, or the actor is gone ─► dead letter
//! ```
//!
//! An actor handles the messages of one sender in their order, so of those that were sent and not acknowledged the first
//! is the one that was being handled when its process died. Only that one counts a crash, and only when the actor was to
//! blame. A panic is no crash of this kind: it consumes its message, whose sender is told so.
//!
//! What was sent twice is dropped by the receiver, by sender and sequence number: [`Inbox`] and [`Reception`]. Knows nothing of bytes: the
//! driver keeps a message until it is confirmed or dead.

mod inbox;
mod invariants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mobula_types::{StateMachine, Time};

use crate::invariant::Pace;
use crate::mutant::{Mutant, Planted};

pub use inbox::{FAILED_MAX, Inbox, Reception, SENDERS_MAX, Taking, check_reception};
pub use invariants::check;

/// Messages of one pair that are not acknowledged (G4).
pub const MESSAGES_MAX: usize = 65_536;

/// How long a message may stay without being acknowledged (G4).
pub const AGE_MAX: Duration = Duration::from_secs(600);

/// How much a pair may leave unacknowledged; [`Default`] says what holds unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Messages.
    pub messages_max: usize,
    /// How old one may become.
    pub age_max: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { messages_max: MESSAGES_MAX, age_max: AGE_MAX }
    }
}

/// The crash with which a message becomes a dead letter (G8).
pub const CRASHES_MAX: u8 = 3;

/// What can happen to a pair's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The actor can be reached now; what waits may be sent.
    Up,
    /// The receiver has handled the message, or was told that it panicked over it.
    Acknowledged {
        /// Which.
        seq: u64,
    },
    /// The place of the actor is lost; it may come back elsewhere.
    Lost {
        /// Which of these messages it was handling when its process ended, if it was one of these.
        handling: Option<u64>,
    },
    /// The actor has ended for good.
    Gone,
    /// Nothing but time has passed.
    Tick,
}

/// What the machine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this message.
    Send {
        /// Its number, by which the receiver knows a repeat.
        seq: u64,
        /// How many processes have ended over it.
        crashes: u8,
    },
    /// It is acknowledged; said once.
    Confirmed {
        /// Which.
        seq: u64,
    },
    /// It will not be sent again; said once.
    Dead {
        /// Which.
        seq: u64,
        /// Why.
        cause: DeadCause,
    },
}

/// Why a message is not sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadCause {
    /// Its handling ended [`CRASHES_MAX`] processes.
    Poison,
    /// It was not acknowledged within its [age](Bounds::age_max).
    TooOld,
    /// The actor has ended for good.
    ActorGone,
}

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many are unacknowledged as may be.
    #[error("{waiting} messages wait to be acknowledged")]
    Full {
        /// How many.
        waiting: usize,
    },
    /// The actor has ended for good.
    #[error("the actor has ended")]
    Gone,
}

/// The messages of one sender to one actor.
///
/// ```
/// use mobula_logic::outbox::{Input, Outbox, Output};
/// use mobula_types::{StateMachine, Time};
/// let mut outbox = Outbox::default();
/// let seq = outbox.submit(Time::ZERO).unwrap();
/// outbox.handle(Time::ZERO, Input::Up);
/// assert_eq!(outbox.poll_output(), Some(Output::Send { seq, crashes: 0 }));
/// outbox.handle(Time::ZERO, Input::Acknowledged { seq });
/// assert_eq!(outbox.poll_output(), Some(Output::Confirmed { seq }));
/// ```
#[derive(Debug, Default)]
pub struct Outbox {
    /// Unacknowledged messages by number: the order in which they are handled.
    messages: BTreeMap<u64, Message>,
    last_seq: u64,
    is_up: bool,
    is_gone: bool,
    bounds: Bounds,
    outputs: VecDeque<Output>,
    planted: Planted,
    pace: Pace,
}

#[derive(Clone, Copy, Debug)]
struct Message {
    since: Time,
    crashes: u8,
    is_sent: bool,
}

impl Outbox {
    /// One that may leave less unacknowledged than others, or more.
    pub fn bounded(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Self { planted: Planted::new(mutant), ..self }
    }

    /// Takes a message and gives it its number.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing was taken.
    pub fn submit(&mut self, now: Time) -> Result<u64, Refused> {
        if self.is_gone {
            return Err(Refused::Gone);
        }
        // OUT-5.
        if self.messages.len() >= self.bounds.messages_max {
            return Err(Refused::Full { waiting: self.messages.len() });
        }
        self.last_seq += 1;
        self.messages.insert(self.last_seq, Message { since: now, crashes: 0, is_sent: false });
        self.send_waiting();
        Ok(self.last_seq)
    }

    /// Messages that are not acknowledged.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// The last message before this one that is not acknowledged, 0 when there is none. Said with a message as it is sent:
    /// its receiver sees by it that one before it was lost on the way (OUT-6).
    pub fn before(&self, seq: u64) -> u64 {
        self.messages.range(..seq).next_back().map_or(0, |(before, _)| *before)
    }

    /// Whether all are acknowledged.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// OUT-2: in the order of their numbers.
    fn send_waiting(&mut self) {
        if !self.is_up {
            return;
        }
        let waiting = self.messages.iter_mut().rev().take_while(|(_, message)| !message.is_sent);
        let mut first = None;
        for (seq, message) in waiting {
            message.is_sent = true;
            first = Some(*seq);
        }
        let Some(first) = first else { return };
        let sent =
            self.messages.range(first..).map(|(seq, message)| Output::Send { seq: *seq, crashes: message.crashes });
        self.outputs.extend(sent);
    }

    fn handle_lost(&mut self, handling: Option<u64>) {
        self.is_up = false;
        let first = self.messages.first_key_value().map(|(seq, _)| *seq);
        let handling = if self.planted.is(Mutant::BlameAnyDeath) { handling.or(first) } else { handling };
        let handled = handling.and_then(|seq| Some((seq, self.messages.get_mut(&seq)?)));
        if let Some((seq, message)) = handled.filter(|(_, message)| message.is_sent) {
            message.crashes += 1;
            // OUT-3: a message does not end a fourth process.
            if message.crashes >= CRASHES_MAX + u8::from(self.planted.is(Mutant::FourthCrash)) {
                self.bury(seq, DeadCause::Poison);
            }
        }
        // OUT-1: what is not acknowledged is sent again.
        if !self.planted.is(Mutant::ForgetSent) {
            self.messages.values_mut().for_each(|message| message.is_sent = false);
        }
    }

    fn bury(&mut self, seq: u64, cause: DeadCause) {
        if self.messages.remove(&seq).is_some() {
            self.outputs.push_back(Output::Dead { seq, cause });
        }
    }
}

impl StateMachine for Outbox {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        while let Some((seq, message)) = self.messages.first_key_value()
            && message.since + self.bounds.age_max <= now
        {
            self.bury(*seq, DeadCause::TooOld);
        }
        match input {
            Input::Up => {
                self.is_up = !self.is_gone;
                self.send_waiting();
            }
            Input::Acknowledged { seq } => {
                if self.messages.remove(&seq).is_some() {
                    self.outputs.push_back(Output::Confirmed { seq });
                }
            }
            Input::Lost { handling } => self.handle_lost(handling),
            Input::Gone => {
                self.is_up = false;
                self.is_gone = true;
                while let Some((seq, _)) = self.messages.first_key_value() {
                    self.bury(*seq, DeadCause::ActorGone);
                }
            }
            Input::Tick => {}
        }
        if self.pace.is_due(self.messages.len(), &self.planted) {
            check(self).expect("the outbox keeps its invariants");
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        self.messages.first_key_value().map(|(_, message)| message.since + self.bounds.age_max)
    }
}
