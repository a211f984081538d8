//! A node's side of its lease: until when its named actors may act (G7), and when it fences itself (G13).
//!
//! ```text
//!                 a beat is answered                         a new term is heard
//!          ┌──────────┐                               ┌────────────────────────────┐
//!          ▼          │   9 s after the last such     ▼                            │
//!   ─────► Held ──────┴──── beat was sent ─────────► Lost ───── a beat is answered ┘
//! registered │                                        │
//!            └───── told that it is fenced ─► Fenced ◄┘ 30 s after the last answered beat was sent
//! ```
//!
//! The lease counts from when the node *sent* what renewed it; the head counts from when it *heard* it, which is later.
//! So the node's end is before the head's, whatever the network did, and the two clocks need only run at about the same
//! speed: [`STOP_BEFORE`] and [`GRANT_AFTER`] leave 2 s in 10.
//!
//! What is named and how it is stopped is the driver's; who has which name, the head's
//! [`directory`](crate::directory).

mod heads;
mod invariants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use mobula_types::{HeadId, StateMachine, Time};

use crate::mutant::{Mutant, Planted};

pub use heads::{Heads, Stale};
pub use invariants::check;

/// How long a lease runs from its last renewal (G7).
pub const LEASE: Duration = Duration::from_secs(10);

/// So long before the end of its lease a node stops its named actors (G7).
pub const STOP_BEFORE: Duration = Duration::from_secs(1);

/// So long after the end of a lease the head grants its names again (G7).
pub const GRANT_AFTER: Duration = Duration::from_secs(1);

/// A node that has not heard of its head for so long stops all that it runs (G13).
pub const FENCE_AFTER: Duration = Duration::from_secs(30);

/// Between two beats: five must be lost before anybody is suspected, and fifty before a lease is.
pub const BEAT: Duration = Duration::from_millis(200);

/// Beats whose answers may still come: those of [`FENCE_AFTER`], and some. The oldest is given up beyond it.
pub const SENT_MAX: usize = 256;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// The head has admitted the node, as new or again.
    Registered {
        /// Which head.
        head: HeadId,
        /// The lease's term.
        term: u64,
        /// When the registration was sent that is answered so.
        sent: Time,
        /// Under a new id: nothing that ran before is left.
        is_new: bool,
    },
    /// A beat was sent.
    Sent {
        /// Which: they rise.
        number: u64,
    },
    /// A beat was answered.
    Answered {
        /// By which head.
        head: HeadId,
        /// Which beat.
        number: u64,
        /// The lease's term.
        term: u64,
    },
    /// The head says that the node was declared dead.
    Fenced {
        /// Which head.
        head: HeadId,
    },
    /// Nothing but time has passed.
    Tick,
}

/// What the machine asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Stop every named actor here, now.
    StopNamed,
    /// Stop all that runs here, then register as a new node.
    Fence {
        /// Why.
        why: Why,
    },
}

/// Why a node fences itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has not heard of its head for [`FENCE_AFTER`].
    NoHead,
    /// The head has declared it dead.
    DeclaredDead,
}

/// One node's lease.
///
/// ```
/// use std::time::Duration;
/// use mobula_logic::lease::{Input, Lease, Output};
/// use mobula_types::{HeadId, StateMachine, Time};
/// let (mut lease, head) = (Lease::default(), HeadId::default());
/// lease.handle(Time::ZERO, Input::Registered { head, term: 1, sent: Time::ZERO, is_new: true });
/// let late = Time::ZERO + Duration::from_secs(9);
/// assert!(lease.may_act(Time::ZERO) && !lease.may_act(late));
/// lease.handle(late, Input::Tick);
/// assert_eq!(lease.poll_output(), Some(Output::StopNamed));
/// ```
#[derive(Debug)]
pub struct Lease {
    /// [`FENCE_AFTER`], unless it was told otherwise.
    fence_after: Duration,
    state: State,
    heads: Heads,
    /// When which beat was sent, those that are not answered and the one that renewed the lease last.
    sent: BTreeMap<u64, Time>,
    /// What renewed the lease last; none before the first registration.
    renewal: Option<Renewal>,
    looked: Time,
    outputs: VecDeque<Output>,
    planted: Planted,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Does not belong to a cluster, or not any more.
    #[default]
    Fenced,
    /// Named actors may act.
    Held,
    /// Named actors have been stopped.
    Lost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Renewal {
    head: HeadId,
    term: u64,
    /// When it was sent.
    sent: Time,
    /// The beat; none for a registration.
    beat: Option<u64>,
}

impl Default for Lease {
    fn default() -> Self {
        Self {
            fence_after: FENCE_AFTER,
            state: State::default(),
            heads: Heads::default(),
            sent: BTreeMap::new(),
            renewal: None,
            looked: Time::ZERO,
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }
}

impl StateMachine for Lease {
    type Input = Input;
    type Output = Output;

    fn handle(&mut self, now: Time, input: Input) {
        self.looked = now;
        self.handle_time(now);
        match input {
            Input::Registered { head, term, sent, is_new } if self.hears(head) => {
                if is_new || self.state == State::Fenced {
                    (self.state, self.renewal) = (State::Lost, None);
                    self.sent.clear();
                }
                self.renew(now, Renewal { head, term, sent, beat: None });
            }
            Input::Sent { number } => {
                self.sent.insert(number, now);
                if self.sent.len() > SENT_MAX {
                    self.sent.pop_first();
                }
            }
            Input::Answered { head, number, term } if self.state != State::Fenced && self.hears(head) => {
                self.handle_answered(now, head, number, term);
            }
            Input::Fenced { head } if self.state != State::Fenced && self.hears(head) => self.fence(Why::DeclaredDead),
            _ => {}
        }
        // What was heard may be so old that it renews nothing.
        self.handle_time(now);
        if cfg!(debug_assertions) && !self.planted.is_any() {
            check(self).expect("a lease keeps its invariants");
        }
    }

    fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        let renewal = self.renewal?;
        match self.state {
            State::Held => Some(self.ends(renewal)),
            State::Lost => Some(renewal.sent + self.fence_after),
            State::Fenced => None,
        }
    }
}

impl Lease {
    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(mut self, mutant: Mutant) -> Self {
        self.planted = Planted::new(mutant);
        self
    }

    /// The same with another time than [`FENCE_AFTER`]; named actors stop then at the latest.
    #[must_use]
    pub fn fencing_after(mut self, fence_after: Duration) -> Self {
        self.fence_after = fence_after;
        self
    }

    /// When named actors stop.
    fn ends(&self, renewal: Renewal) -> Time {
        renewal.sent + (LEASE - STOP_BEFORE).min(self.fence_after)
    }

    /// Whether the named actors of this node may act at `now`.
    pub fn may_act(&self, now: Time) -> bool {
        self.state == State::Held && self.renewal.is_some_and(|renewal| now < self.ends(renewal))
    }

    /// Whether a name that was granted under `term` may be used: a grant of an earlier term came too late, and the head
    /// is told that its actor has stopped.
    pub fn accepts(&self, now: Time, term: u64) -> bool {
        self.may_act(now) && self.renewal.is_some_and(|renewal| renewal.term == term)
    }

    /// The head that the node knows.
    pub fn head(&self) -> Option<HeadId> {
        self.heads.known()
    }

    /// Whether `head` is the one that the node knows or a later one, which is known from now on (LEASE-5).
    ///
    /// # Errors
    ///
    /// What it says is of an earlier head, or of a copy: it must not be heard.
    pub fn hear(&mut self, head: HeadId) -> Result<(), Stale> {
        if self.planted.is(Mutant::HearOldHead) {
            self.heads.force(head);
            return Ok(());
        }
        self.heads.hear(head)
    }

    fn hears(&mut self, head: HeadId) -> bool {
        self.hear(head).is_ok()
    }

    fn handle_time(&mut self, now: Time) {
        let Some(renewal) = self.renewal else { return };
        // LEASE-1: nobody acts under a name after this.
        if self.state == State::Held && self.ends(renewal) <= now && !self.planted.is(Mutant::ForgetToStop) {
            self.lose();
        }
        // LEASE-4: the cluster has given up what runs here, or soon will.
        if self.state == State::Lost && renewal.sent + self.fence_after <= now && !self.planted.is(Mutant::NeverFence) {
            self.fence(Why::NoHead);
        }
    }

    fn handle_answered(&mut self, now: Time, head: HeadId, number: u64, term: u64) {
        let Some(sent) = self.sent.get(&number).copied() else { return };
        self.sent.retain(|other, _| *other >= number);
        // LEASE-2: it may have been heard long before its answer was.
        let sent = if self.planted.is(Mutant::CountFromHeard) { now } else { sent };
        self.renew(now, Renewal { head, term, sent, beat: Some(number) });
    }

    fn renew(&mut self, now: Time, mut renewal: Renewal) {
        let last = self.renewal.filter(|last| last.head == renewal.head);
        // LEASE-3: the head began a new lease because the one before had run out, and so have its names. Another head
        // counts anew, and is told at the registration which names are held.
        if self.state == State::Held && last.is_some_and(|last| last.term != renewal.term) {
            self.lose();
        }
        // A registration may be answered after beats that were sent later.
        if let Some(last) = last.filter(|last| last.term == renewal.term && last.sent > renewal.sent) {
            renewal = last;
        }
        self.renewal = Some(renewal);
        if self.state == State::Lost && now < self.ends(renewal) {
            self.state = State::Held;
        }
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        self.outputs.push_back(Output::StopNamed);
    }

    fn fence(&mut self, why: Why) {
        if self.state == State::Held {
            self.lose();
        }
        self.state = State::Fenced;
        self.renewal = None;
        self.sent.clear();
        self.outputs.push_back(Output::Fence { why });
    }
}
