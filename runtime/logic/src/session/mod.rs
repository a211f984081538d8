//! A session of two processes: what one sends arrives at the other once and in order, over as many connections as it
//! takes.
//!
//! ```text
//!           send          window free, link up         acknowledged
//!  (caller) ────► waiting ────────────────────► in flight ─────────► forgotten
//!                    ▲                              │
//!                    └────── the link was lost ─────┘
//! ```
//!
//! Frames travel on three *lanes*, each in order of its own; lanes are carried by two *links*, so that bulk stands in
//! nobody's way. A link is a connection that both sides have chosen: each numbers the connections it dials, and when both
//! dial at once the same one stays on both sides ([`supersedes`]). At its start each side says how much it has received,
//! and then with which frame it begins; so a frame's number is its place on the connection, and none is written on it.
//!
//! The machine also decides when to dial, when the other side counts as silent, and when a heartbeat is due. Whether a
//! silent process is dead is not decided here. Half-numbers (`half`) name a side's end of the session: a process that has
//! begun anew has another one, and then this session is over.
//!
//! Knows nothing of QUIC: a connection is a number, and a frame whatever the driver keeps in it.

mod dial;
mod invariants;
mod lane;
mod liveness;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::Duration;

use mobula_types::{StateMachine, Time};

use crate::mutant::Planted;
use dial::Dialing;
use lane::LaneState;
use liveness::Liveness;

pub use dial::{Dialer, Made, supersedes};
pub use invariants::check;
pub use lane::Full;
pub use liveness::{HEARTBEAT, LINK_SILENCE_MAX, SILENCE_MIN, SILENCE_STEP};

/// Frames of one lane arrive in order; frames of two lanes may overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Few, small, and never behind anything else.
    Control,
    /// Calls, tasks and their answers.
    Calls,
    /// What is large.
    Bulk,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Control, Self::Calls, Self::Bulk];

    /// The link that carries it.
    pub const fn link(self) -> Link {
        match self {
            Self::Control | Self::Calls => Link::Main,
            Self::Bulk => Link::Bulk,
        }
    }
}

/// What carries lanes: a connection at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// Carries [`Lane::Control`], [`Lane::Calls`] and heartbeats.
    Main,
    /// Carries [`Lane::Bulk`]; made by the side that made the main one.
    Bulk,
}

impl Link {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Main, Self::Bulk];
}

/// How many frames of each lane a side has received, in the order of [`Lane::ALL`].
pub type Received = [u64; 3];

/// Names a connection between driver and machine.
pub type ConnectionId = u64;

/// What one side says of itself when a connection begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The half of the side that says it.
    pub half: u64,
    /// The other side's half, if it is known already.
    pub knows: Option<u64>,
    /// Which link the connection is to carry.
    pub link: Link,
    /// Which of the dialer's connections this is.
    pub made: Made,
    /// What the side has received so far; by the time it is heard it may be more.
    pub received: Received,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<F> {
    /// A connection that the other side dialed has come, and this is what it says.
    Accepted {
        /// The connection.
        connection: ConnectionId,
        /// The other side's words.
        offer: Offer,
    },
    /// A connection that was dialed here is answered.
    Answered {
        /// The connection.
        connection: ConnectionId,
        /// [`Made::number`] of [`Output::Dial`].
        number: u64,
        /// The other side's words.
        offer: Offer,
    },
    /// A connection that was dialed here did not come about.
    DialFailed {
        /// For which link.
        link: Link,
        /// [`Made::number`] of [`Output::Dial`].
        number: u64,
        /// Whether the other side lives: it has answered with a refusal.
        is_alive: bool,
    },
    /// A connection is over.
    Lost {
        /// Which.
        connection: ConnectionId,
    },
    /// The other side says which frame of a lane is its first on a connection.
    Begin {
        /// On which connection.
        connection: ConnectionId,
        /// Of which lane.
        lane: Lane,
        /// The number of its next frame.
        number: u64,
    },
    /// The next frame of a lane has come.
    Frame {
        /// On which connection.
        connection: ConnectionId,
        /// Of which lane.
        lane: Lane,
        /// The frame.
        frame: F,
        /// How large it is.
        bytes: usize,
    },
    /// The other side says that it lives and what it has received.
    Heartbeat {
        /// On which connection.
        connection: ConnectionId,
        /// What it has received.
        received: Received,
    },
    /// The probe that was asked for is over.
    Probed {
        /// Whether the other host says that there is no such process.
        refused: bool,
    },
    /// The other side may be dialed from now on, or at another address than before.
    MayDial,
    /// The other side was declared dead.
    End,
    /// Nothing but time has passed.
    Tick,
}

/// What the machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<F> {
    /// Dial a connection and say this.
    Dial {
        /// The first words.
        offer: Offer,
    },
    /// Answer a connection that the other side dialed; it carries its link from now on.
    Answer {
        /// Which.
        connection: ConnectionId,
        /// The words.
        offer: Offer,
    },
    /// Close a connection.
    Close {
        /// Which.
        connection: ConnectionId,
        /// Why.
        why: CloseReason,
    },
    /// Say which frame of a lane comes next on a connection.
    Begin {
        /// On which connection.
        connection: ConnectionId,
        /// On which lane.
        lane: Lane,
        /// The number of its next frame.
        number: u64,
    },
    /// Write a frame, after all that were written to this lane of the connection before.
    Transmit {
        /// On which connection.
        connection: ConnectionId,
        /// On which lane.
        lane: Lane,
        /// The frame.
        frame: F,
    },
    /// Write a heartbeat.
    Heartbeat {
        /// On which connection.
        connection: ConnectionId,
        /// What was received here.
        received: Received,
    },
    /// Hand a frame on: it has come for the first time and in its turn.
    Deliver {
        /// Of which lane.
        lane: Lane,
        /// The frame.
        frame: F,
    },
    /// The main link is there.
    Up,
    /// The main link is lost; the session lives on.
    Down,
    /// Find out whether the other process is there, and say [`Input::Probed`].
    Probe,
    /// Nothing has been heard for so long.
    Silent {
        /// How long.
        silent: Duration,
        /// Whether the other host says that there is no such process.
        refused: bool,
    },
    /// The session is over; said once.
    Ended {
        /// Frames that are not known to have arrived.
        undelivered: Vec<(Lane, F)>,
    },
}

/// Why a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Both sides had dialed, or one had dialed again: another one carries the link.
    Superseded,
    /// It belongs to a session that is over.
    Ended,
    /// The other side has broken the rules of a session.
    Violated,
    /// Nothing has come for too long.
    Silent,
}

/// What has happened to a session (G21: nothing is silent).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections that have carried a link.
    pub connections: u64,
    /// Frames that were sent again.
    pub resent: u64,
    /// Frames that had come before and were dropped.
    pub repeats: u64,
}

/// One side's end of a session.
#[derive(Debug)]
pub struct Session<F> {
    half: u64,
    /// The other side's half, from its first words on.
    theirs: Option<u64>,
    lanes: [LaneState<F>; 3],
    links: [LinkState; 2],
    dialing: [Dialing; 2],
    liveness: Liveness,
    is_over: bool,
    counts: Counts,
    outputs: VecDeque<Output<F>>,
    pub(crate) planted: Planted,
}

#[derive(Debug, Default)]
struct LinkState {
    current: Option<Current>,
    /// The largest number of the other side's connections that this side has adopted.
    seen: u64,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    connection: ConnectionId,
    dialer: Dialer,
    made: Made,
    /// The number of the next frame of each lane on this connection, once the other side has said it.
    next: [Option<u64>; 3],
}

impl<F: Clone> Session<F> {
    /// A session whose other side is not known yet. `half` is random: no two are the same.
    pub fn new(now: Time, half: u64, may_dial: bool) -> Self {
        Self {
            half,
            theirs: None,
            lanes: Lane::ALL.map(LaneState::new),
            links: Default::default(),
            dialing: [Dialing::new(may_dial), Dialing::new(may_dial)],
            liveness: Liveness::new(now),
            is_over: false,
            counts: Counts::default(),
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }

    /// A session that has one of the faults which the simulator must find.
    #[cfg(feature = "mutants")]
    pub fn with_mutant(now: Time, half: u64, may_dial: bool, mutant: crate::Mutant) -> Self {
        Self { planted: Planted::new(mutant), ..Self::new(now, half, may_dial) }
    }

    /// This side's half.
    pub fn half(&self) -> u64 {
        self.half
    }

    /// The other side's half, once it is known.
    pub fn theirs(&self) -> Option<u64> {
        self.theirs
    }

    /// Whether the session is over.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// What has happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether a link has a connection.
    pub fn is_up(&self, link: Link) -> bool {
        self.link(link).current.is_some()
    }

    /// How long nothing has been heard of the other side.
    pub fn silent(&self, now: Time) -> Duration {
        self.liveness.silent(now)
    }

    /// Frames and bytes of a lane that are not known to have arrived.
    pub fn held(&self, lane: Lane) -> (usize, usize) {
        self.lanes[lane as usize].held()
    }

    /// Whether words of the other side belong to this session: it is the side that was known, or the first.
    pub fn recognises(&self, offer: &Offer) -> bool {
        let is_theirs = self.theirs.is_none_or(|theirs| theirs == offer.half);
        !self.is_over && is_theirs && offer.knows.is_none_or(|knows| knows == self.half)
    }

    /// Takes a frame for the other side; dials when there is no connection yet.
    ///
    /// # Errors
    ///
    /// [`Full`] when too much waits; nothing was taken then. A session that is over takes nothing either.
    pub fn send(&mut self, now: Time, lane: Lane, frame: F, bytes: usize) -> Result<(), Full> {
        if self.is_over {
            return Err(Full { frames: 0, bytes: 0 });
        }
        self.lanes[lane as usize].push(frame, bytes)?;
        self.pump(lane);
        self.want(now);
        Ok(())
    }

    /// Wants a connection from now on, frames or not.
    pub fn want(&mut self, now: Time) {
        if self.links[Link::Main as usize].current.is_none() && !self.is_over {
            if self.dialing[Link::Main as usize].want(now) {
                self.liveness.begin(now);
            }
            self.dial(now);
        }
    }

    fn link(&self, link: Link) -> &LinkState {
        &self.links[link as usize]
    }

    fn received(&self) -> Received {
        Lane::ALL.map(|lane| self.lanes[lane as usize].received())
    }

    /// Dials what is due.
    fn dial(&mut self, now: Time) {
        for link in Link::ALL {
            if !self.lacks(link) {
                continue;
            }
            let seen = self.link(link).seen;
            if let Some(number) = self.dialing[link as usize].due(now, seen) {
                let made = Made { number, seen };
                let offer = Offer { half: self.half, knows: self.theirs, link, made, received: self.received() };
                self.outputs.push_back(Output::Dial { offer });
            }
        }
    }

    /// Whether a link has no connection and could have one: bulk comes after the main one.
    fn lacks(&self, link: Link) -> bool {
        !self.is_over && !self.is_up(link) && (link == Link::Main || self.is_up(Link::Main))
    }

    fn handle_accepted(&mut self, now: Time, connection: ConnectionId, offer: Offer) {
        if !self.recognises(&offer) {
            // SES-5: the words of another session change nothing in this one.
            return self.close(connection, CloseReason::Ended);
        }
        self.theirs = Some(offer.half);
        self.liveness.hear(now);
        let adopted = Current { connection, dialer: Dialer::Other, made: offer.made, next: [None; 3] };
        let Some(old) = self.choose(offer.link, adopted, &offer.received) else { return };
        let made = Made { number: offer.made.number, seen: self.link(offer.link).seen };
        let answer = Offer { half: self.half, knows: self.theirs, link: offer.link, made, received: self.received() };
        self.outputs.push_back(Output::Answer { connection, offer: answer });
        self.begin(now, offer.link, old, &offer.received);
    }

    fn handle_answered(&mut self, now: Time, connection: ConnectionId, number: u64, offer: Offer) {
        if !self.recognises(&offer) {
            return self.close(connection, CloseReason::Ended);
        }
        self.theirs = Some(offer.half);
        self.liveness.hear(now);
        let Some(open) = self.dialing[offer.link as usize].answered(number) else {
            return self.close(connection, CloseReason::Superseded);
        };
        let made = Made { number, seen: open.seen };
        let adopted = Current { connection, dialer: Dialer::This, made, next: [None; 3] };
        if let Some(old) = self.choose(offer.link, adopted, &offer.received) {
            self.begin(now, offer.link, old, &offer.received);
        }
    }

    /// Makes a connection the one that carries its link, and says which one did before; `None` when it may not.
    fn choose(&mut self, link: Link, new: Current, theirs: &Received) -> Option<Option<Current>> {
        if let Some(current) = self.link(link).current {
            let this_wins = self.theirs.is_some_and(|theirs| self.half > theirs);
            // SES-4: both sides choose the same of two connections.
            if !supersedes((new.dialer, new.made), (current.dialer, current.made), this_wins) {
                self.close(new.connection, CloseReason::Superseded);
                return None;
            }
        }
        if !lanes(link).all(|lane| self.lanes[lane as usize].may_resume(theirs[lane as usize])) {
            self.close(new.connection, CloseReason::Violated);
            return None;
        }
        let state = &mut self.links[link as usize];
        if new.dialer == Dialer::Other {
            state.seen = new.made.number.max(state.seen);
        }
        Some(state.current.replace(new))
    }

    /// What follows when a link has a connection: everything that waited for it.
    fn begin(&mut self, now: Time, link: Link, old: Option<Current>, theirs: &Received) {
        if let Some(old) = old {
            self.close(old.connection, CloseReason::Superseded);
        }
        self.dialing[link as usize].connected();
        let Some(Current { connection, dialer, .. }) = self.link(link).current else { return };
        self.counts.connections += 1;
        for lane in lanes(link) {
            let number = self.lanes[lane as usize].resume(theirs[lane as usize], self.planted);
            self.counts.resent += self.lanes[lane as usize].resends();
            self.outputs.push_back(Output::Begin { connection, lane, number });
        }
        if link == Link::Main {
            if old.is_none() {
                self.outputs.push_back(Output::Up);
            }
            self.dialing[Link::Main as usize].is_wanted = true;
            self.dialing[Link::Bulk as usize].is_wanted = dialer == Dialer::This;
            self.dial(now);
        }
        for lane in lanes(link) {
            self.pump(lane);
        }
    }

    /// Writes what the window allows.
    fn pump(&mut self, lane: Lane) {
        let Some(current) = self.link(lane.link()).current else { return };
        while let Some(frame) = self.lanes[lane as usize].transmit() {
            self.outputs.push_back(Output::Transmit { connection: current.connection, lane, frame });
        }
    }

    fn handle_lost(&mut self, now: Time, connection: ConnectionId) {
        for link in Link::ALL {
            if self.link(link).current.is_some_and(|current| current.connection == connection) {
                self.drop_link(now, link);
            }
        }
        self.dial(now);
    }

    fn drop_link(&mut self, now: Time, link: Link) {
        self.links[link as usize].current = None;
        // The side whose connection would not stay waits a little, so that not both dial.
        let yields = self.theirs.is_some_and(|theirs| self.half < theirs);
        self.dialing[link as usize].lost(now, yields);
        if link == Link::Main {
            self.outputs.push_back(Output::Down);
        }
    }

    fn handle_frame(&mut self, now: Time, connection: ConnectionId, lane: Lane, frame: F, bytes: usize) {
        let Some(current) = self.links[lane.link() as usize].current.as_mut() else { return };
        if current.connection != connection {
            // What a connection still brings after another has taken its place is sent again on that one.
            return;
        }
        let Some(number) = current.next[lane as usize] else { return self.violated(now, connection) };
        current.next[lane as usize] = Some(number + 1);
        self.liveness.hear(now);
        if self.lanes[lane as usize].take(number, bytes, self.planted) {
            self.outputs.push_back(Output::Deliver { lane, frame });
            if self.lanes[lane as usize].owes_word() {
                self.say_received(now);
            }
        } else {
            self.counts.repeats += 1;
        }
    }

    fn handle_begin(&mut self, now: Time, connection: ConnectionId, lane: Lane, number: u64) {
        let received = self.lanes[lane as usize].received();
        let Some(current) = self.links[lane.link() as usize].current.as_mut() else { return };
        if current.connection != connection {
            return;
        }
        // SES-3: a hole would never be filled.
        if number > received || current.next[lane as usize].is_some() {
            return self.violated(now, connection);
        }
        current.next[lane as usize] = Some(number);
    }

    /// The other side breaks the rules: the next connection begins from what is certain.
    fn violated(&mut self, now: Time, connection: ConnectionId) {
        self.close(connection, CloseReason::Violated);
        self.handle_lost(now, connection);
    }

    fn handle_heartbeat(&mut self, now: Time, connection: ConnectionId, received: Received) {
        let is_current = self.link(Link::Main).current.is_some_and(|current| current.connection == connection);
        if !is_current {
            return;
        }
        self.liveness.hear(now);
        for lane in Lane::ALL {
            if !self.lanes[lane as usize].acknowledged(received[lane as usize]) {
                return self.violated(now, connection);
            }
            self.pump(lane);
        }
    }

    /// Tells the other side what was received, which is also that this one lives.
    fn say_received(&mut self, now: Time) {
        let Some(current) = self.link(Link::Main).current else { return };
        let received = self.received();
        for lane in &mut self.lanes {
            lane.told();
        }
        self.liveness.said(now);
        self.outputs.push_back(Output::Heartbeat { connection: current.connection, received });
    }

    fn handle_tick(&mut self, now: Time) {
        self.liveness.wake(now);
        if self.is_over {
            return;
        }
        if self.is_up(Link::Main) {
            if self.liveness.is_link_dead(now) {
                for link in Link::ALL {
                    if let Some(current) = self.link(link).current {
                        self.close(current.connection, CloseReason::Silent);
                        self.drop_link(now, link);
                    }
                }
            } else if self.liveness.owes_heartbeat(now) {
                self.say_received(now);
            }
        }
        if self.liveness.probes(now) {
            self.outputs.push_back(Output::Probe);
        }
        self.dial(now);
    }

    fn handle_end(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        for link in Link::ALL {
            if let Some(current) = self.links[link as usize].current.take() {
                self.close(current.connection, CloseReason::Ended);
            }
        }
        let mut undelivered = Vec::new();
        for lane in Lane::ALL {
            undelivered.extend(self.lanes[lane as usize].drain().map(|frame| (lane, frame)));
        }
        self.outputs.push_back(Output::Ended { undelivered });
    }

    fn close(&mut self, connection: ConnectionId, why: CloseReason) {
        self.outputs.push_back(Output::Close { connection, why });
    }

    fn debug_check(&self) {
        if !self.planted.is_any() {
            debug_assert_eq!(check(self), Ok(()));
        }
    }
}

fn lanes(link: Link) -> impl Iterator<Item = Lane> {
    Lane::ALL.into_iter().filter(move |lane| lane.link() == link)
}

impl<F: Clone> StateMachine for Session<F> {
    type Input = Input<F>;
    type Output = Output<F>;

    fn handle(&mut self, now: Time, input: Input<F>) {
        match input {
            Input::Accepted { connection, offer } => self.handle_accepted(now, connection, offer),
            Input::Answered { connection, number, offer } => self.handle_answered(now, connection, number, offer),
            Input::DialFailed { link, number, is_alive } => {
                if is_alive {
                    self.liveness.hear(now);
                }
                self.dialing[link as usize].failed(now, number);
            }
            Input::Lost { connection } => self.handle_lost(now, connection),
            Input::Begin { connection, lane, number } => self.handle_begin(now, connection, lane, number),
            Input::Frame { connection, lane, frame, bytes } => self.handle_frame(now, connection, lane, frame, bytes),
            Input::Heartbeat { connection, received } => self.handle_heartbeat(now, connection, received),
            Input::Probed { refused } => {
                if let Some(silent) = self.liveness.probed(now, refused).filter(|_| !self.is_over) {
                    self.outputs.push_back(Output::Silent { silent, refused });
                }
            }
            Input::MayDial => {
                for dialing in &mut self.dialing {
                    dialing.may_dial(now);
                }
                self.dial(now);
            }
            Input::End => self.handle_end(),
            Input::Tick => self.handle_tick(now),
        }
        self.debug_check();
    }

    fn poll_output(&mut self) -> Option<Output<F>> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        if self.is_over {
            return None;
        }
        let dials = Link::ALL.into_iter().filter(|link| self.lacks(*link));
        let dials = dials.filter_map(|link| self.dialing[link as usize].next());
        dials.chain(self.liveness.next(self.is_up(Link::Main))).min()
    }
}
