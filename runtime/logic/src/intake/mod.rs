//! What comes to a process: messages in order, and the payloads that are too large to come inside them.
//!
//! ```text
//!              admitted          there is room        all of it has come       nothing of its line is before it
//!  (announced) ───────► opening ─────────────► pulled ──────────────────► whole ───────────────────────► handed on
//!       │                  │                      │                         ▲
//!       └──────────────────┴──────────────────────┴── given up, sender died └── messages that came whole
//!                                                      ▼
//!                                                   dropped
//! ```
//!
//! A sender only announces a large payload and keeps it; this side asks for it, part by part, as far as it has room. So
//! nobody can fill a process's memory by announcing, and what is on its way is bounded for every road. Messages of one
//! *line* (one sender's to one actor, or the items of one stream) are handed on in the order in which they came; those of
//! other lines pass by.
//!
//! Its driver makes room for a payload when it is admitted, and so for no more than may be pulled at once; the bytes pass by
//! here on their way there. Where the nodes of both sides reach the payload and the room, they move it instead
//! ([`haul`](crate::haul)), and it is pulled only if they do not.

mod invariants;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use mobula_types::{ActorId, ProcessId, StateMachine, Time};
use mobula_wire::{ExchangeId, PAYLOAD_BYTES_MAX, TransferId};

use crate::mutant::{Mutant, Planted};

pub use invariants::check;

/// Bytes of one payload that are asked for and have not come: enough to keep a fast road busy for a round trip.
pub const AHEAD_BYTES_MAX: u64 = 8 << 20;

/// Bytes of all payloads that are asked for and have not come. They may all stand in one queue of the node's, which holds
/// 64 MiB for a process.
pub const ASKED_BYTES_MAX: u64 = 32 << 20;

/// The payload of an answer: what a host has room for is less.
pub const ANSWER_BYTES_MAX: u64 = 1 << 40;

/// Payloads of one peer that are being pulled, together; a larger one alone. One of the largest, so that no peer keeps
/// others from theirs.
pub const PEER_BYTES_MAX: u64 = PAYLOAD_BYTES_MAX as u64;

/// Payloads of all peers that are being pulled, together.
pub const OPEN_BYTES_MAX: u64 = 2 * PAYLOAD_BYTES_MAX as u64;

/// Messages of one peer that are held: what its credit for 64 busy actors lets it send. Mail that comes beyond is dropped.
pub const HELD_MAX: usize = 65_536;

/// A part from another node.
pub const FAR_PART_BYTES: u32 = 1 << 20;

/// A part from this host, whose small messages take the same socket: a quarter of a millisecond on a slow one.
pub const NEAR_PART_BYTES: u32 = 256 << 10;

/// How much may be on its way to a process and wait there; [`Default`] says what holds unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The largest payload of a message; a larger one is not taken.
    pub payload_bytes_max: u64,
    /// The largest payload of an answer to what this process asked for, such as an object's value.
    pub answer_bytes_max: u64,
    /// Bytes of one payload that are asked for and have not come.
    pub ahead_bytes_max: u64,
    /// Bytes of all payloads that are asked for and have not come.
    pub asked_bytes_max: u64,
    /// Payloads of one peer that are being pulled, together; a larger one alone.
    pub peer_bytes_max: u64,
    /// Payloads of all peers that are being pulled, together.
    pub open_bytes_max: u64,
    /// Messages of one peer that are held; mail that comes beyond is dropped.
    pub held_max: usize,
    /// A part from another node.
    pub far_part_bytes: u32,
    /// A part from this host.
    pub near_part_bytes: u32,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            payload_bytes_max: PAYLOAD_BYTES_MAX as u64,
            answer_bytes_max: ANSWER_BYTES_MAX,
            ahead_bytes_max: AHEAD_BYTES_MAX,
            asked_bytes_max: ASKED_BYTES_MAX,
            peer_bytes_max: PEER_BYTES_MAX,
            open_bytes_max: OPEN_BYTES_MAX,
            held_max: HELD_MAX,
            far_part_bytes: FAR_PART_BYTES,
            near_part_bytes: NEAR_PART_BYTES,
        }
    }
}

/// Messages that keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Line {
    /// Those of one process to one actor.
    Actor(ActorId),
    /// The items of a stream, and its end.
    Stream(ExchangeId),
}

/// An exchange that may be given up, and who numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// The sender asked.
    Theirs(ExchangeId),
    /// This process asked.
    Ours(ExchangeId),
}

/// A payload that its sender keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announced {
    /// Its name there.
    pub transfer: TransferId,
    /// How long it is.
    pub bytes: u64,
    /// It lies where its sender's node reads it.
    pub is_lent: bool,
}

/// How a payload comes into its room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Road {
    /// This process asks for parts and keeps them.
    Parts,
    /// The nodes move it.
    Nodes,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<M> {
    /// A message has come.
    Came {
        /// Who sent it.
        from: ProcessId,
        /// Behind what it stays.
        line: Option<Line>,
        /// What it is part of.
        exchange: Option<Exchange>,
        /// The message.
        message: M,
        /// Its payload, if that did not come inside it.
        large: Option<Announced>,
        /// It is no mail, and is held also beyond [the bound](Bounds::held_max): its sender says few of its kind.
        always_fits: bool,
    },
    /// There is room for a payload, as [`Output::Open`] asked for.
    Ready {
        /// Who sends it.
        from: ProcessId,
        /// Which payload.
        transfer: TransferId,
        /// How it may come there.
        road: Road,
    },
    /// The nodes are done with a payload, as [`Output::Haul`] asked for.
    Hauled {
        /// Who sends it.
        from: ProcessId,
        /// Which payload.
        transfer: TransferId,
        /// Whether all of it is in its room.
        is_whole: bool,
    },
    /// A part of a payload has come.
    Part {
        /// Who sent it.
        from: ProcessId,
        /// Of which payload.
        transfer: TransferId,
        /// Where it begins.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Nobody wants what is held of an exchange.
    Unwanted {
        /// With whom.
        from: ProcessId,
        /// Which.
        exchange: Exchange,
    },
    /// A process has ended, or with the number 0 a whole node.
    Gone {
        /// Which.
        process: ProcessId,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<M> {
    /// Make room for a payload, and say when there is ([`Input::Ready`]).
    Open {
        /// Who sends it.
        from: ProcessId,
        /// Which payload.
        transfer: TransferId,
        /// How long it is.
        bytes: u64,
        /// It lies where its sender's node reads it.
        is_lent: bool,
    },
    /// Have the nodes move a payload into its room, and say when they have done ([`Input::Hauled`]).
    Haul {
        /// Who sends it.
        from: ProcessId,
        /// Which payload.
        transfer: TransferId,
    },
    /// Keep a part of a payload in its room.
    Keep {
        /// Who sent it.
        from: ProcessId,
        /// Of which payload.
        transfer: TransferId,
        /// Where it belongs.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Ask for a part.
    Pull {
        /// Of whom.
        from: ProcessId,
        /// Of which payload.
        transfer: TransferId,
        /// Where it begins.
        offset: u64,
        /// How long it is.
        bytes: u32,
    },
    /// Act on a message.
    Deliver {
        /// Who sent it.
        from: ProcessId,
        /// The message.
        message: M,
        /// Its payload, if that did not come inside it: it is whole in its room.
        payload: Option<TransferId>,
        /// How long it was held.
        waited: Duration,
    },
    /// A message is not acted on: it was given up, or cannot come whole.
    Dropped {
        /// Who sent it.
        from: ProcessId,
        /// The message.
        message: M,
        /// Its payload, for which no room is needed any more; if the nodes are moving it, they are to stop.
        payload: Option<TransferId>,
    },
    /// Say that no more is asked of a payload.
    Taken {
        /// Whom.
        from: ProcessId,
        /// Which payload.
        transfer: TransferId,
    },
}

/// What has come to a process and has not been handed on.
#[derive(Debug)]
pub struct Intake<M> {
    me: ProcessId,
    bounds: Bounds,
    peers: BTreeMap<ProcessId, Peer<M>>,
    /// Payloads that are not pulled yet, the oldest first.
    waiting: VecDeque<(ProcessId, TransferId)>,
    /// Those that are being pulled; the first is the next to ask.
    pulled: VecDeque<(ProcessId, TransferId)>,
    open_bytes: u64,
    asked_bytes: u64,
    outputs: VecDeque<Output<M>>,
    planted: Planted,
}

#[derive(Debug)]
struct Peer<M> {
    /// By the order in which they came.
    letters: BTreeMap<u64, Letter<M>>,
    /// The letters of each line, the first of which is not whole.
    lines: BTreeMap<Line, VecDeque<u64>>,
    /// Which letter a payload is of.
    transfers: BTreeMap<TransferId, u64>,
    last: u64,
    /// Of payloads that are pulled, or whole and behind one that is pulled.
    open_bytes: u64,
}

#[derive(Debug)]
struct Letter<M> {
    message: M,
    line: Option<Line>,
    exchange: Option<Exchange>,
    came: Time,
    payload: Option<Payload>,
}

#[derive(Debug)]
struct Payload {
    announced: Announced,
    /// It is admitted: there is room for it, or that is being made.
    is_open: bool,
    has_room: bool,
    /// The nodes are moving it: nothing of it is asked for here.
    is_hauled: bool,
    /// How far it was asked for.
    asked: u64,
    /// How much of it has come.
    came: u64,
}

impl Payload {
    fn of(announced: Announced) -> Self {
        Self { announced, is_open: false, has_room: false, is_hauled: false, asked: 0, came: 0 }
    }

    fn outstanding(&self) -> u64 {
        self.asked - self.came
    }

    fn is_whole(&self) -> bool {
        self.is_open && self.came == self.announced.bytes
    }
}

impl<M> Default for Peer<M> {
    fn default() -> Self {
        Self { letters: BTreeMap::new(), lines: BTreeMap::new(), transfers: BTreeMap::new(), last: 0, open_bytes: 0 }
    }
}

impl<M> Intake<M> {
    /// The intake of a process.
    pub fn new(me: ProcessId) -> Self {
        Self::bounded(me, Bounds::default())
    }

    /// The intake of a process that has less room than others, or more.
    pub fn bounded(me: ProcessId, bounds: Bounds) -> Self {
        Self {
            me,
            bounds,
            peers: BTreeMap::new(),
            waiting: VecDeque::new(),
            pulled: VecDeque::new(),
            open_bytes: 0,
            asked_bytes: 0,
            outputs: VecDeque::new(),
            planted: Planted::default(),
        }
    }

    /// The same with a fault in it, for the simulator to find.
    #[cfg(feature = "mutants")]
    #[must_use]
    pub fn with_mutant(self, mutant: Mutant) -> Self {
        Self { planted: Planted::new(mutant), ..self }
    }

    /// Whether nothing is held: then a message that came whole needs no place here.
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Messages that are held.
    pub fn held(&self) -> usize {
        self.peers.values().map(|peer| peer.letters.len()).sum()
    }

    /// Bytes that have come of payloads that are not whole.
    pub fn held_bytes(&self) -> u64 {
        let payloads = self.peers.values().flat_map(|peer| peer.letters.values()).filter_map(|it| it.payload.as_ref());
        payloads.map(|payload| payload.came).sum()
    }

    fn came(&mut self, now: Time, from: ProcessId, mut letter: Letter<M>, always_fits: bool) {
        let peer = self.peers.entry(from).or_default();
        let announced = letter.payload.as_ref().map(|payload| payload.announced);
        let waits = letter.line.is_some_and(|line| peer.lines.contains_key(&line));
        let waits = waits && !self.planted.is(Mutant::PassInLine);
        if announced.is_none() && !waits {
            self.outputs.push_back(Output::Deliver {
                from,
                message: letter.message,
                payload: None,
                waited: Duration::ZERO,
            });
            return self.tidy(from);
        }
        let is_sound = announced.is_none_or(|it| {
            let is_asked_for = matches!(letter.exchange, Some(Exchange::Ours(_)));
            let bound = if is_asked_for { self.bounds.answer_bytes_max } else { self.bounds.payload_bytes_max };
            it.bytes <= bound && it.bytes > 0 && !peer.transfers.contains_key(&it.transfer)
        });
        let has_room = always_fits || peer.letters.len() < self.bounds.held_max;
        if !is_sound || !has_room {
            // Nothing that keeps to its bounds and credit comes here.
            if let Some(Announced { transfer, .. }) = announced.filter(|_| is_sound) {
                self.outputs.push_back(Output::Taken { from, transfer });
            }
            self.outputs.push_back(Output::Dropped { from, message: letter.message, payload: None });
            return self.tidy(from);
        }
        letter.came = now;
        peer.last += 1;
        let number = peer.last;
        if let Some(Announced { transfer, .. }) = announced {
            peer.transfers.insert(transfer, number);
            self.waiting.push_back((from, transfer));
        }
        if let Some(line) = letter.line {
            peer.lines.entry(line).or_default().push_back(number);
        }
        peer.letters.insert(number, letter);
        self.open();
        self.ask();
    }

    /// Has room made for what may be pulled now.
    fn open(&mut self) {
        let mut at = 0;
        let mut full: Vec<ProcessId> = Vec::new();
        while let Some((from, transfer)) = self.waiting.get(at).copied() {
            // A later one of the same peer may belong behind this one: it would keep the room that this one needs.
            if full.contains(&from) {
                at += 1;
                continue;
            }
            let Some(peer) = self.peers.get_mut(&from) else { break };
            let Some(payload) = payload_of(peer, transfer) else { break };
            let Announced { bytes, is_lent, .. } = payload.announced;
            // INTAKE-2: what is pulled at once is bounded; one payload alone always goes.
            if self.open_bytes > 0 && self.open_bytes + bytes > self.bounds.open_bytes_max {
                // Nobody passes it by, or a large one would wait for ever.
                return;
            }
            let is_full = peer.open_bytes > 0 && peer.open_bytes + bytes > self.bounds.peer_bytes_max;
            if is_full && !self.planted.is(Mutant::PullAll) {
                full.push(from);
                continue;
            }
            peer.open_bytes += bytes;
            self.open_bytes += bytes;
            if let Some(payload) = payload_of(peer, transfer) {
                payload.is_open = true;
            }
            self.waiting.remove(at);
            self.outputs.push_back(Output::Open { from, transfer, bytes, is_lent });
        }
    }

    fn ready(&mut self, from: ProcessId, transfer: TransferId, road: Road) {
        let payload = self.peers.get_mut(&from).and_then(|peer| payload_of(peer, transfer));
        let Some(payload) = payload.filter(|payload| payload.is_open && !payload.has_room) else { return };
        payload.has_room = true;
        match road {
            Road::Parts => {
                self.pulled.push_back((from, transfer));
                self.ask();
            }
            Road::Nodes => {
                payload.is_hauled = true;
                self.outputs.push_back(Output::Haul { from, transfer });
            }
        }
    }

    fn hauled(&mut self, now: Time, from: ProcessId, transfer: TransferId, is_whole: bool) {
        let payload = self.peers.get_mut(&from).and_then(|peer| payload_of(peer, transfer));
        // It may have been given up meanwhile.
        let Some(payload) = payload.filter(|payload| payload.is_hauled) else { return };
        payload.is_hauled = false;
        if is_whole {
            let bytes = payload.announced.bytes;
            (payload.asked, payload.came) = (bytes, bytes);
            self.completed(now, from, transfer);
        } else {
            self.pulled.push_back((from, transfer));
        }
        self.ask();
    }

    /// Asks for parts, of each payload in turn.
    fn ask(&mut self) {
        let mut idle = 0;
        while idle < self.pulled.len() {
            let Some((from, transfer)) = self.pulled.pop_front() else { return };
            self.pulled.push_back((from, transfer));
            let Bounds { near_part_bytes, far_part_bytes, .. } = self.bounds;
            let part = if from.node() == self.me.node() { near_part_bytes } else { far_part_bytes };
            let payload = self.peers.get_mut(&from).and_then(|peer| payload_of(peer, transfer));
            let left = payload.as_ref().map_or(0, |payload| payload.announced.bytes - payload.asked);
            let bytes = part.min(u32::try_from(left).unwrap_or(u32::MAX));
            let ahead_max = self.bounds.ahead_bytes_max;
            let may_ask = |payload: &&mut Payload| bytes > 0 && payload.outstanding() + u64::from(bytes) <= ahead_max;
            let Some(payload) = payload.filter(may_ask) else {
                idle += 1;
                continue;
            };
            // INTAKE-3: what may be on its way to this process is bounded.
            if self.asked_bytes + u64::from(bytes) > self.bounds.asked_bytes_max {
                return;
            }
            let offset = payload.asked;
            payload.asked += u64::from(bytes);
            self.asked_bytes += u64::from(bytes);
            self.outputs.push_back(Output::Pull { from, transfer, offset, bytes });
            idle = 0;
        }
    }

    fn part(&mut self, now: Time, from: ProcessId, transfer: TransferId, offset: u64, bytes: Bytes) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(payload) = payload_of(peer, transfer) else { return };
        let count = bytes.len() as u64;
        // INTAKE-4: only what was asked for is taken, and in its turn.
        let is_in_turn = offset == payload.came || self.planted.is(Mutant::TakeRepeatedParts);
        if !is_in_turn || count == 0 || count > payload.outstanding() {
            return;
        }
        // INTAKE-5: no more than its room holds, since no more was asked for.
        let offset = payload.came;
        payload.came += count;
        let is_whole = payload.is_whole();
        self.asked_bytes -= count;
        self.outputs.push_back(Output::Keep { from, transfer, offset, bytes });
        if is_whole {
            self.completed(now, from, transfer);
        }
        self.ask();
    }

    /// All of a payload is in its room.
    fn completed(&mut self, now: Time, from: ProcessId, transfer: TransferId) {
        let peer = self.peers.get(&from);
        let number = peer.and_then(|peer| peer.transfers.get(&transfer)).copied();
        let letter = peer.zip(number).and_then(|(peer, number)| peer.letters.get(&number));
        let line = letter.and_then(|letter| letter.line);
        self.close(from, transfer);
        match (line, number) {
            (Some(line), _) => self.hand_on(now, from, line),
            (None, Some(number)) => self.deliver(now, from, number),
            (None, None) => {}
        }
        self.tidy(from);
        if !self.planted.is(Mutant::ForgetWaiting) {
            self.open();
        }
    }

    /// A payload is not pulled any more; its sender may forget it.
    fn close(&mut self, from: ProcessId, transfer: TransferId) {
        self.waiting.retain(|it| *it != (from, transfer));
        self.pulled.retain(|it| *it != (from, transfer));
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.transfers.remove(&transfer);
        }
        // INTAKE-7: what is whole or not wanted is not kept for this process.
        if !self.planted.is(Mutant::ForgetTaken) {
            self.outputs.push_back(Output::Taken { from, transfer });
        }
    }

    /// Takes a letter out, and gives its room back.
    fn take(&mut self, from: ProcessId, number: u64) -> Option<Letter<M>> {
        let peer = self.peers.get_mut(&from)?;
        let letter = peer.letters.remove(&number)?;
        if let Some(payload) = letter.payload.as_ref().filter(|payload| payload.is_open) {
            peer.open_bytes -= payload.announced.bytes;
            self.open_bytes -= payload.announced.bytes;
            self.asked_bytes -= payload.outstanding();
        }
        Some(letter)
    }

    /// Hands on what is whole at the front of a line.
    fn hand_on(&mut self, now: Time, from: ProcessId, line: Line) {
        loop {
            let Some(peer) = self.peers.get_mut(&from) else { return };
            let Some(numbers) = peer.lines.get_mut(&line) else { return };
            let Some(number) = numbers.front().copied() else {
                peer.lines.remove(&line);
                return;
            };
            let letter = peer.letters.get(&number);
            // INTAKE-1: nothing overtakes in its line.
            if letter.is_some_and(|letter| letter.payload.as_ref().is_some_and(|payload| !payload.is_whole())) {
                return;
            }
            numbers.pop_front();
            self.deliver(now, from, number);
        }
    }

    fn deliver(&mut self, now: Time, from: ProcessId, number: u64) {
        let Some(Letter { message, came, payload, .. }) = self.take(from, number) else { return };
        let payload = payload.map(|payload| payload.announced.transfer);
        self.outputs.push_back(Output::Deliver { from, message, payload, waited: now.since(came) });
    }

    fn unwanted(&mut self, now: Time, from: ProcessId, exchange: Exchange) {
        let Some(peer) = self.peers.get(&from) else { return };
        let is_of_it = |letter: &Letter<M>| letter.exchange == Some(exchange);
        let numbers: Vec<u64> = peer.letters.iter().filter(|(_, it)| is_of_it(it)).map(|(number, _)| *number).collect();
        for number in numbers {
            let Some(peer) = self.peers.get_mut(&from) else { return };
            let Some(letter) = peer.letters.get(&number) else { continue };
            let (line, payload) = (letter.line, letter.payload.as_ref());
            // One that is whole was closed when it became so.
            if let Some(transfer) = payload.filter(|it| !it.is_whole()).map(|payload| payload.announced.transfer) {
                self.close(from, transfer);
            }
            let Some(peer) = self.peers.get_mut(&from) else { return };
            if let Some(numbers) = line.and_then(|line| peer.lines.get_mut(&line)) {
                numbers.retain(|it| *it != number);
            }
            if let Some(letter) = self.take(from, number) {
                let payload = letter.payload.map(|payload| payload.announced.transfer);
                self.outputs.push_back(Output::Dropped { from, message: letter.message, payload });
            }
            if let Some(line) = line {
                self.hand_on(now, from, line);
            }
        }
        self.tidy(from);
        self.open();
        self.ask();
    }

    fn gone(&mut self, process: ProcessId) {
        let is_gone = |peer: ProcessId| peer == process || process.number() == 0 && peer.node() == process.node();
        self.waiting.retain(|(from, _)| !is_gone(*from));
        self.pulled.retain(|(from, _)| !is_gone(*from));
        let dead: Vec<ProcessId> = self.peers.keys().copied().filter(|peer| is_gone(*peer)).collect();
        for from in dead {
            let Some(peer) = self.peers.remove(&from) else { continue };
            self.open_bytes -= peer.open_bytes;
            // What came behind a payload that never comes is no better than it: its receiver would see a hole.
            for letter in peer.letters.into_values() {
                if let Some(payload) = letter.payload.as_ref().filter(|payload| payload.is_open) {
                    self.asked_bytes -= payload.outstanding();
                }
                let payload = letter.payload.map(|payload| payload.announced.transfer);
                self.outputs.push_back(Output::Dropped { from, message: letter.message, payload });
            }
        }
        self.open();
        self.ask();
    }

    fn tidy(&mut self, from: ProcessId) {
        if self.peers.get(&from).is_some_and(|peer| peer.letters.is_empty()) {
            self.peers.remove(&from);
        }
    }
}

fn payload_of<M>(peer: &mut Peer<M>, transfer: TransferId) -> Option<&mut Payload> {
    let number = peer.transfers.get(&transfer)?;
    peer.letters.get_mut(number)?.payload.as_mut()
}

impl<M> StateMachine for Intake<M> {
    type Input = Input<M>;
    type Output = Output<M>;

    fn handle(&mut self, now: Time, input: Input<M>) {
        match input {
            Input::Came { from, line, exchange, message, large, always_fits } => {
                let payload = large.map(Payload::of);
                self.came(now, from, Letter { message, line, exchange, came: now, payload }, always_fits);
            }
            Input::Part { from, transfer, offset, bytes } => self.part(now, from, transfer, offset, bytes),
            Input::Ready { from, transfer, road } => self.ready(from, transfer, road),
            Input::Hauled { from, transfer, is_whole } => self.hauled(now, from, transfer, is_whole),
            Input::Unwanted { from, exchange } => self.unwanted(now, from, exchange),
            Input::Gone { process } => self.gone(process),
        }
        if !self.planted.is_any() {
            debug_assert_eq!(check(self), Ok(()));
        }
    }

    fn poll_output(&mut self) -> Option<Output<M>> {
        self.outputs.pop_front()
    }

    fn next_timeout(&self) -> Option<Time> {
        // Whoever waits for a message has a deadline of its own.
        None
    }
}
