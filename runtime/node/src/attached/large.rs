//! Payloads that do not fit into a message, both ways.
//!
//! ```text
//! out: message ─► shelf (kept) ─► Large …    Pull ─► one server per peer ─► parts
//! in:  Large ─► intake ─► room ─► Pull, parts, … ─► whole, in its order ─► acted on
//! ```
//!
//! What is sent is kept on the *shelf* until its receiver says that it has it, or has ended. To a process of this host it is
//! lent: it lies in memory that both have (`sharing`), nothing of it is pulled, and it is taken when it has been read. To one
//! of another host it is lent too if it lies there: the nodes move it (`rooms`), and what the node may still be reading of it
//! is kept until it says that it does not. What comes is decided by [`mobula_logic::intake`]; here its words are carried out.
//! As long as nothing large is on its way, messages pass by it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use mobula_actor::clock;
use mobula_logic::intake::{Announced, Exchange, Input, Intake, Line, Output, Road};
use mobula_net::Pace;
use mobula_types::{CallError, ErrorChain, ExitReason, NotStarted, ProcessId, StateMachine, Unknown};
use mobula_wire::bulk::PART_BYTES_MAX;
use mobula_wire::local::ToNode;
use mobula_wire::parcel::NotBegun;
use mobula_wire::{ExchangeId, INLINE_BYTES_MAX, Parcel, Part, Talk, TransferId};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::process::Process;
use super::rooms::Rooms;

/// Payloads that wait to be fetched by others, together: sixteen of the largest. They are memory of this process, which
/// their receivers take off it as fast as they can; one that cannot is not to fill it.
const SHELF_BYTES_MAX: u64 = 4 << 30;

/// Parts that one process has asked for and has not been sent. It asks for no more ahead than
/// [`ASKED_BYTES_MAX`](mobula_logic::intake::ASKED_BYTES_MAX), in parts of at least a quarter of a megabyte but for the
/// last of each payload; who asks for more gets no answer to the rest.
const PULLS_MAX: usize = 65_536;

/// What is on its way, to others and to here.
pub(crate) struct Large {
    shelf: Mutex<Shelf>,
    /// Wakes who waits for an empty shelf.
    emptied: Notify,
    intake: Mutex<Inflow>,
    pub(super) rooms: Rooms,
    /// Whether messages must pass through the intake. Only the reader of a peer's messages makes its lines busy, so it sees
    /// what it must.
    is_busy: AtomicBool,
}

#[derive(Default)]
struct Shelf {
    last: TransferId,
    kept: HashMap<TransferId, Kept>,
    /// What nobody asks for any more and the node may still be reading.
    ending: HashMap<TransferId, Bytes>,
    bytes: u64,
    /// What is asked for by whom; a task serves each of them as long as there is something.
    pulls: HashMap<ProcessId, VecDeque<Pull>>,
}

struct Kept {
    to: ProcessId,
    payload: Bytes,
    /// What of it is counted here.
    bytes: u64,
    /// The node reads it for another one.
    is_lent: bool,
}

/// Where a payload lies that is kept.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lies {
    /// In this process only.
    Here,
    /// In memory that is counted where it lies.
    Shared,
    /// There too, and the node reads it for another one.
    Lent,
}

struct Pull {
    transfer: TransferId,
    offset: u64,
    bytes: u32,
}

struct Inflow {
    machine: Intake<Held>,
    /// Somebody carries out what the machine says; others leave it to them, so that order holds.
    is_performed: bool,
}

/// A message in the intake.
#[derive(Debug)]
struct Held {
    parcel: Parcel,
    /// How long its payload is.
    bytes: u64,
}

impl Large {
    pub(crate) fn new(me: ProcessId) -> Self {
        Self {
            shelf: Mutex::default(),
            emptied: Notify::new(),
            intake: Mutex::new(Inflow { machine: Intake::new(me), is_performed: false }),
            rooms: Rooms::default(),
            is_busy: AtomicBool::new(false),
        }
    }

    fn keep(&self, to: ProcessId, payload: Bytes, lies: Lies) -> Result<TransferId, NotStarted> {
        let mut shelf = self.shelf.lock();
        let bytes = if lies == Lies::Here { payload.len() as u64 } else { 0 };
        if shelf.bytes + bytes > SHELF_BYTES_MAX {
            return Err(NotStarted::MailboxFull { waiting: shelf.kept.len() });
        }
        shelf.bytes += bytes;
        shelf.last += 1;
        let transfer = shelf.last;
        shelf.kept.insert(transfer, Kept { to, payload, bytes, is_lent: lies == Lies::Lent });
        Ok(transfer)
    }

    /// The node does not read what was lent any more.
    pub(crate) fn lend_ended(&self, transfer: TransferId) {
        let ended = self.shelf.lock().ending.remove(&transfer);
        drop(ended);
    }

    /// What is not asked for any more leaves the shelf. What of it the node may still be reading, and is to be told of.
    #[must_use]
    fn forget(&self, is_over: impl Fn(ProcessId) -> bool) -> Vec<TransferId> {
        let gone: Vec<(TransferId, Kept)> = {
            let mut shelf = self.shelf.lock();
            let gone = shelf.kept.iter().filter(|(_, kept)| is_over(kept.to)).map(|(transfer, _)| *transfer);
            let gone: Vec<TransferId> = gone.collect();
            gone.iter().filter_map(|transfer| Some((*transfer, shelf.take(*transfer)?))).collect()
        };
        if !gone.is_empty() {
            self.emptied.notify_waiters();
        }
        gone.iter().filter(|(_, kept)| kept.is_lent).map(|(transfer, _)| *transfer).collect()
    }

    /// A payload that is for `by` leaves the shelf. Whether the node may still be reading it, and is to be told so.
    #[must_use]
    fn taken(&self, transfer: TransferId, by: ProcessId) -> bool {
        let taken = {
            let mut shelf = self.shelf.lock();
            // Another's is not its to forget.
            let is_its = shelf.kept.get(&transfer).is_some_and(|kept| kept.to == by);
            is_its.then(|| shelf.take(transfer)).flatten()
        };
        if taken.is_some() {
            self.emptied.notify_waiters();
        }
        taken.is_some_and(|kept| kept.is_lent)
    }

    /// Waits until all that was promised to others has been fetched, but not for long.
    pub(crate) async fn fetched(&self, within: Duration) {
        let empty = async {
            loop {
                let mut emptied = std::pin::pin!(self.emptied.notified());
                // Before the look: a change in between would wake nobody.
                emptied.as_mut().enable();
                if self.shelf.lock().kept.is_empty() {
                    return;
                }
                emptied.await;
            }
        };
        tokio::time::timeout(within, empty).await.ok();
    }
}

impl Shelf {
    fn take(&mut self, transfer: TransferId) -> Option<Kept> {
        let kept = self.kept.remove(&transfer)?;
        self.bytes -= kept.bytes;
        if kept.is_lent {
            self.ending.insert(transfer, kept.payload.clone());
        }
        Some(kept)
    }
}

impl Process {
    /// A question is lone while no other waits for its answer, an answer while no other is made.
    fn pace(&self, talk: &Talk) -> Pace {
        let is_lone = match talk {
            Talk::Call { wants_reply: true, .. } | Talk::Task { .. } => self.exchanges.is_lone(),
            Talk::Reply { .. } => self.serving.is_lone(),
            _ => false,
        };
        if is_lone { Pace::Lone } else { Pace::Burst }
    }

    /// Sends a parcel, whatever the size of its payload, behind all that were sent to the same actor or on the same stream.
    ///
    /// # Errors
    ///
    /// Why it was not taken.
    pub(crate) fn post_large(self: &Arc<Self>, parcel: Parcel) -> Result<(), NotStarted> {
        if parcel.payload.len() <= INLINE_BYTES_MAX {
            return self.roads.send(&parcel, self.pace(&parcel.talk));
        }
        let Parcel { to, from, talk, payload } = parcel;
        let bytes = payload.len() as u64;
        let (payload, at) = self.share(to, payload);
        let lies = match at {
            None => Lies::Here,
            Some(_) if to.node() == self.me.node() => Lies::Shared,
            Some(_) => Lies::Lent,
        };
        let transfer = self.large.keep(to, payload, lies)?;
        if let Some(at) = at.filter(|_| lies == Lies::Lent) {
            // Before the message, on the same way.
            self.link.tell(&ToNode::Lend { transfer, to, at, bytes });
        }
        let talk = Talk::Large { transfer, bytes, at, talk: Box::new(talk) };
        let sent = self.roads.send(&Parcel { to, from, talk, payload: Bytes::new() }, Pace::Burst);
        if sent.is_err() {
            self.taken(transfer, to);
        }
        sent
    }

    /// A payload need not be kept any more, as `by` says, if it is for it.
    fn taken(&self, transfer: TransferId, by: ProcessId) {
        if self.large.taken(transfer, by) {
            self.link.tell(&ToNode::EndLend { transfer });
        }
    }

    /// A parcel has come: it is acted on at once, or in its turn.
    pub(crate) fn received(self: &Arc<Self>, parcel: Parcel) {
        let Parcel { to, from, talk, mut payload } = parcel;
        if to != self.me {
            return tracing::warn!(%to, %from, "a parcel for another process came here");
        }
        let (mut large, at, talk) = match talk {
            Talk::Large { transfer, bytes, at, talk } => {
                (Some(Announced { transfer, bytes, is_lent: at.is_some() }), at, *talk)
            }
            talk => (None, None, talk),
        };
        let (number, talk) = match talk {
            Talk::Counted { number, talk } => (Some(number), *talk),
            talk => (None, talk),
        };
        self.refs_came(from, number, talk.refs());
        if let Some((Announced { transfer, bytes, .. }, at)) = large.zip(at)
            && let Some(lent) = self.borrow(from, transfer, at, bytes)
        {
            (large, payload) = (None, lent);
        }
        let parcel = Parcel { to, from, talk, payload };
        match (&parcel.talk, large) {
            (_, Some(large)) => {
                if self.is_answer_to_nobody(&parcel) {
                    self.say(from, Talk::Taken { transfer: large.transfer });
                    return self.act(parcel);
                }
                self.take_in(parcel, Some(large));
            }
            (&Talk::Pull { transfer, offset, bytes }, None) => {
                self.serve_pull(from, Pull { transfer, offset, bytes });
            }
            (&Talk::Taken { transfer }, None) => self.taken(transfer, from),
            (&Talk::Cancel { exchange }, None) => {
                if self.large.is_busy.load(Ordering::Acquire) {
                    self.drive_intake(Input::Unwanted { from, exchange: Exchange::Theirs(exchange) });
                }
                self.act(parcel);
            }
            _ if line(&parcel.talk).is_some() && self.large.is_busy.load(Ordering::Acquire) => {
                self.take_in(parcel, None);
            }
            _ => self.act(parcel),
        }
    }

    /// An answer that was given up: its payload need not come.
    fn is_answer_to_nobody(&self, parcel: &Parcel) -> bool {
        match &parcel.talk {
            Talk::Reply { exchange, .. } | Talk::Item { exchange, .. } => {
                !self.exchanges.is_open(*exchange, parcel.from)
            }
            _ => false,
        }
    }

    fn take_in(self: &Arc<Self>, parcel: Parcel, large: Option<Announced>) {
        let (line, exchange) = (line(&parcel.talk), exchange(&parcel.talk));
        let bytes = large.map_or(parcel.payload.len() as u64, |large| large.bytes);
        let from = parcel.from;
        let always_fits = always_fits(&parcel.talk);
        self.drive_intake(Input::Came { from, line, exchange, message: Held { parcel, bytes }, large, always_fits });
    }

    /// A part of a large payload has come.
    pub(crate) fn part_came(self: &Arc<Self>, body: &Bytes, by: Option<ProcessId>) {
        match Part::decode(body) {
            Ok(Part { to, from, transfer, offset, bytes }) if to == self.me && by.is_none_or(|by| by == from) => {
                self.drive_intake(Input::Part { from, transfer, offset, bytes });
            }
            Ok(Part { to, from, .. }) => tracing::warn!(%to, %from, "a part of a payload came to the wrong place"),
            Err(error) => tracing::warn!(%error, "a part of a payload cannot be read"),
        }
    }

    /// Nobody wants what is still to come of an exchange. Said from anywhere: what it lets go on is acted on later.
    pub(crate) fn not_wanted(self: &Arc<Self>, from: ProcessId, exchange: Exchange) {
        if self.large.is_busy.load(Ordering::Acquire) {
            let process = self.clone();
            let unwanted = async move { process.drive_intake(Input::Unwanted { from, exchange }) };
            mobula_actor::arbiters::runtime().spawn(unwanted);
        }
    }

    /// A process or a node has ended.
    pub(crate) fn large_died(self: &Arc<Self>, dead: ProcessId, is_gone: impl Fn(ProcessId) -> bool) {
        for transfer in self.large.forget(&is_gone) {
            self.link.tell(&ToNode::EndLend { transfer });
        }
        self.large.shelf.lock().pulls.retain(|by, _| !is_gone(*by));
        self.drive_intake(Input::Gone { process: dead });
    }

    /// There is room for a payload.
    pub(super) fn room_is_there(self: &Arc<Self>, from: ProcessId, transfer: TransferId, road: Road) {
        self.drive_intake(Input::Ready { from, transfer, road });
    }

    /// The nodes have filled a payload's room, or write in it no more.
    pub(super) fn room_is_left(self: &Arc<Self>, from: ProcessId, transfer: TransferId, is_whole: bool) {
        self.drive_intake(Input::Hauled { from, transfer, is_whole });
    }

    fn drive_intake(self: &Arc<Self>, input: Input<Held>) {
        let mut input = Some(input);
        loop {
            let output = {
                let mut intake = self.large.intake.lock();
                if let Some(input) = input.take() {
                    self.large.is_busy.store(true, Ordering::Release);
                    intake.machine.handle(clock::now(), input);
                    if intake.is_performed {
                        return;
                    }
                    intake.is_performed = true;
                }
                match intake.machine.poll_output() {
                    Some(output) => output,
                    None => {
                        intake.is_performed = false;
                        self.large.is_busy.store(!intake.machine.is_empty(), Ordering::Release);
                        return;
                    }
                }
            };
            self.perform_intake(output);
        }
    }

    fn perform_intake(self: &Arc<Self>, output: Output<Held>) {
        match output {
            Output::Pull { from, transfer, offset, bytes } => {
                self.say(from, Talk::Pull { transfer, offset, bytes });
            }
            Output::Taken { from, transfer } => self.say(from, Talk::Taken { transfer }),
            Output::Open { from, transfer, bytes, is_lent } => self.open_room(from, transfer, bytes, is_lent),
            Output::Haul { from, transfer } => self.haul(from, transfer),
            Output::Keep { from, transfer, offset, bytes } => self.large.rooms.keep(from, transfer, offset, &bytes),
            Output::Deliver { from, message: Held { mut parcel, .. }, payload, waited } => {
                // Its time ran while it waited.
                match &mut parcel.talk {
                    Talk::Call { header, .. } => header.left = header.left.map(|left| left.saturating_sub(waited)),
                    Talk::Task { left, .. } => *left = left.map(|left| left.saturating_sub(waited)),
                    _ => {}
                }
                if let Some(transfer) = payload {
                    parcel.payload = self.large.rooms.seal(from, transfer);
                }
                self.act(parcel);
            }
            Output::Dropped { from, message, payload } => {
                if let Some(transfer) = payload {
                    self.forget_room(from, transfer);
                }
                self.dropped(message);
            }
        }
    }

    /// A message is not acted on. Whoever waits for it is told so; mostly nobody does.
    fn dropped(self: &Arc<Self>, Held { parcel, bytes }: Held) {
        let Parcel { from, talk, .. } = parcel;
        drop(self.received_pins(talk.refs()));
        let not_taken = NotStarted::MailboxFull { waiting: mobula_logic::intake::HELD_MAX };
        let refused = || Err(CallError::NotStarted(not_taken.clone()));
        match talk {
            Talk::Call { exchange, wants_reply, wants_entered, header, .. } => {
                if wants_entered {
                    self.say(from, Talk::Entered { exchange, result: Err(not_taken.clone()) });
                }
                if wants_reply {
                    self.say(from, Talk::Reply { exchange, result: refused() });
                }
                if let Some(system) = self.system().filter(|_| !wants_entered && !wants_reply) {
                    // G21: nobody else knows.
                    let reason = ExitReason::Failed(ErrorChain::message(&not_taken));
                    system.dead_letter(header.target, "a message from another process", &reason);
                }
                self.credit(from, header.target, bytes);
            }
            Talk::Task { exchange, .. } => self.say(from, Talk::Reply { exchange, result: refused() }),
            Talk::Spawn { actor, incarnation, .. } => {
                let result = Err(NotBegun::Refused(not_taken));
                self.say(from, Talk::Started { actor, incarnation, result });
            }
            Talk::Reply { exchange, .. } => {
                self.replied(from, exchange, Err(CallError::MayHaveRun(Unknown::NoReply)), Bytes::new());
            }
            Talk::Item { exchange, .. } => self.stream_broke(from, exchange),
            _ => {}
        }
    }

    fn serve_pull(self: &Arc<Self>, by: ProcessId, pull: Pull) {
        let is_served = {
            let mut shelf = self.large.shelf.lock();
            let is_served = shelf.pulls.contains_key(&by);
            let pulls = shelf.pulls.entry(by).or_default();
            if pulls.len() >= PULLS_MAX {
                return;
            }
            pulls.push_back(pull);
            is_served
        };
        if !is_served {
            let process = self.clone();
            mobula_actor::arbiters::runtime().spawn(async move { process.serve_pulls(by).await });
        }
    }

    /// Sends one process the parts that it asks for, as fast as its road takes them.
    async fn serve_pulls(self: Arc<Self>, by: ProcessId) {
        loop {
            let part = {
                let mut shelf = self.large.shelf.lock();
                let Some(pulls) = shelf.pulls.get_mut(&by) else { return };
                let Some(Pull { transfer, offset, bytes }) = pulls.pop_front() else {
                    shelf.pulls.remove(&by);
                    return;
                };
                let kept = shelf.kept.get(&transfer).filter(|kept| kept.to == by);
                kept.and_then(|kept| {
                    let from = usize::try_from(offset).ok().filter(|from| *from < kept.payload.len())?;
                    let until = kept.payload.len().min(from + PART_BYTES_MAX.min(bytes as usize));
                    let bytes = kept.payload.slice(from..until);
                    Some(Part { to: by, from: self.me, transfer, offset, bytes })
                })
            };
            // Not wanted any more, and its receiver knows.
            let Some(part) = part else { continue };
            if let Err(error) = self.roads.send_part(by, part.encode().into()).await {
                // Its end is told by the node.
                tracing::debug!(%by, %error, "a part was not taken");
            }
        }
    }
}

/// What a message must not overtake.
fn line(talk: &Talk) -> Option<Line> {
    match talk {
        Talk::Call { header, .. } => Some(Line::Actor(header.target)),
        Talk::Control { to } => Some(Line::Actor(*to)),
        // It asks whether what was sent before it has come.
        Talk::Settle { actor } => Some(Line::Actor(*actor)),
        Talk::Item { exchange, .. } | Talk::StreamEnd { exchange, .. } => Some(Line::Stream(*exchange)),
        _ => None,
    }
}

/// What is no mail is not dropped for want of room: a kill that is lost, or an end, is waited for without end. There are few
/// such words: as many as links and watchers, streams, and moves.
fn always_fits(talk: &Talk) -> bool {
    matches!(talk, Talk::Control { .. } | Talk::Settle { .. } | Talk::StreamEnd { .. })
}

fn exchange(talk: &Talk) -> Option<Exchange> {
    match talk {
        Talk::Call { exchange, .. } | Talk::Task { exchange, .. } => Some(Exchange::Theirs(*exchange)),
        Talk::Reply { exchange, .. } | Talk::Item { exchange, .. } | Talk::StreamEnd { exchange, .. } => {
            Some(Exchange::Ours(*exchange))
        }
        _ => None,
    }
}

/// An exchange of this process's that nobody waits for any more.
pub(crate) fn ours(exchange: ExchangeId) -> Exchange {
    Exchange::Ours(exchange)
}
