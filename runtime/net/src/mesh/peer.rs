//! One peer: its session, its connections, and the performing of what the session asks for.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mobula_logic::Session;
use mobula_logic::session::{CloseReason, ConnectionId, Counts, Input, Lane, Link, Offer, Output, Received};
use mobula_types::{MemberId, ProcessId, StateMachine, Time};
use mobula_wire::FrameKind;
use parking_lot::{Mutex, MutexGuard};
use quinn::VarInt;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, watch};

use super::{Event, Inner, SendError, dial, half, probe, ranges};
use crate::connection::{Closed, Connection, Frame, Incoming};
use crate::greeting::{self, Greeting};
use crate::refusal::{Cause, Refusal};

/// Codes of closing beside those of refusals (whose numbers are small).
pub(super) mod code {
    /// Another connection carries the link.
    pub(crate) const SUPERSEDED: u32 = 100;
    /// The session is over.
    pub(crate) const ENDED: u32 = 101;
    /// What came is against the rules.
    pub(crate) const VIOLATED: u32 = 102;
    /// Nothing has come for too long.
    pub(crate) const SILENT: u32 = 103;
}

/// Frames handed to a session under one lock.
const BATCH_FRAMES: usize = 256;

pub(super) struct Peer {
    id: ProcessId,
    state: Mutex<State>,
    /// Wakes the task that looks at the clock.
    wake: Notify,
    /// Wakes those that wait for room.
    room: Notify,
    /// Whether its lanes are not read now, but for the control lane.
    is_held: watch::Sender<bool>,
}

struct State {
    session: Session<Frame>,
    addr: Option<SocketAddr>,
    /// Where its last connection came from, by which is known whether a peer that takes no connections is gone.
    came_from: Option<SocketAddr>,
    member: Option<MemberId>,
    /// What this peer was told when it was admitted, for the case that it did not hear it.
    welcome: Bytes,
    wires: HashMap<ConnectionId, Wire>,
    connections: ConnectionId,
    /// Why the last connection was lost.
    why: String,
    /// When the clock task will look again.
    armed: Time,
    is_stopped: bool,
}

/// A connection and the lanes on it.
struct Wire {
    quic: quinn::Connection,
    lanes: [Option<Connection>; 3],
}

/// A connection whose other side is known, with its lanes' streams.
pub(super) struct Carrier {
    pub(super) quic: quinn::Connection,
    pub(super) lanes: Vec<(Lane, Connection, Incoming)>,
}

impl Peer {
    /// A peer with a session of its own, and the task that looks at the clock for it.
    pub(super) fn begin(
        inner: &Arc<Inner>,
        id: ProcessId,
        addr: Option<SocketAddr>,
        member: Option<MemberId>,
    ) -> Arc<Self> {
        Self::with_session(inner, id, addr, member, Session::new(inner.now(), half(), addr.is_some()))
    }

    pub(super) fn with_session(
        inner: &Arc<Inner>,
        id: ProcessId,
        addr: Option<SocketAddr>,
        member: Option<MemberId>,
        session: Session<Frame>,
    ) -> Arc<Self> {
        let state = State {
            session,
            addr,
            came_from: None,
            member,
            welcome: Bytes::new(),
            wires: HashMap::new(),
            connections: 0,
            why: String::new(),
            armed: Time::MAX,
            is_stopped: false,
        };
        let (wake, room, is_held) = (Notify::new(), Notify::new(), watch::Sender::new(false));
        let peer = Arc::new(Self { id, state: Mutex::new(state), wake, room, is_held });
        inner.runtime.spawn(keep_time(inner.clone(), peer.clone()));
        peer
    }

    pub(super) fn id(&self) -> ProcessId {
        self.id
    }

    pub(super) fn addr(&self) -> Option<SocketAddr> {
        self.state.lock().addr
    }

    /// The gate has let a member in as this peer; `addr` is where it is, if it takes connections there.
    pub(super) fn admitted(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        welcome: Bytes,
        member: MemberId,
        addr: Option<SocketAddr>,
    ) {
        let mut state = self.state.lock();
        (state.welcome, state.member) = (welcome, Some(member));
        if state.addr.is_none() && addr.is_some() {
            state.addr = addr;
            state.session.handle(inner.now(), Input::MayDial);
            self.perform(inner, state);
        }
    }

    /// Whether words of a member belong to this peer's session.
    pub(super) fn recognises(&self, offer: &Offer, member: MemberId) -> bool {
        let state = self.state.lock();
        state.member.is_none_or(|known| known == member) && state.session.recognises(offer)
    }

    /// Whether the session is with this half.
    pub(super) fn is_with(&self, half: u64) -> bool {
        self.state.lock().session.theirs() == Some(half)
    }

    /// The peer is at this address now.
    pub(super) fn moved(self: &Arc<Self>, inner: &Arc<Inner>, addr: SocketAddr, member: MemberId) {
        let mut state = self.state.lock();
        if (state.addr, state.member) != (Some(addr), Some(member)) {
            (state.addr, state.member) = (Some(addr), Some(member));
            state.session.handle(inner.now(), Input::MayDial);
            self.perform(inner, state);
        }
    }

    pub(super) fn send(self: &Arc<Self>, inner: &Arc<Inner>, lane: Lane, frame: Frame) -> Result<(), SendError> {
        let bytes = frame.body.len() + mobula_wire::frame::FRAME_HEAD_BYTES;
        let mut state = self.state.lock();
        if state.session.is_over() {
            return Err(SendError::Unknown { to: self.id });
        }
        let sent = state.session.send(inner.now(), lane, frame, bytes);
        self.perform(inner, state);
        sent.map_err(|full| SendError::Full { to: self.id, frames: full.frames, bytes: full.bytes })
    }

    pub(super) fn handle(self: &Arc<Self>, inner: &Arc<Inner>, input: Input<Frame>) {
        let mut state = self.state.lock();
        state.session.handle(inner.now(), input);
        self.perform(inner, state);
    }

    /// The other side's half of the session.
    pub(super) fn theirs(&self) -> Option<u64> {
        self.state.lock().session.theirs()
    }

    pub(super) fn is_up(&self) -> bool {
        self.state.lock().session.is_up(Link::Main)
    }

    pub(super) fn silent(&self, inner: &Inner) -> Duration {
        self.state.lock().session.silent(inner.now())
    }

    pub(super) fn counts(&self) -> Counts {
        self.state.lock().session.counts()
    }

    /// Waits until the other side has said that something has arrived, or the session is over.
    pub(super) fn room(&self) -> Notified<'_> {
        self.room.notified()
    }

    /// Waits until all that was sent is known to have arrived, or the session is over.
    pub(super) async fn until_said(&self) {
        let is_said = |session: &Session<Frame>| Lane::ALL.into_iter().all(|lane| session.held(lane).0 == 0);
        self.until(|session| session.is_over() || is_said(session)).await;
    }

    /// Waits until the session is over.
    pub(super) async fn until_over(&self) {
        self.until(Session::is_over).await;
    }

    /// The connection for what is large, as soon as there is one; none when the session is over.
    pub(super) async fn bulk(&self) -> Option<quinn::Connection> {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Before the look: what changes in between would wake nobody.
            room.as_mut().enable();
            {
                let state = self.state.lock();
                // One that was cut is among them until its watcher has said so.
                let carries =
                    |wire: &&Wire| wire.lanes[Lane::Bulk as usize].is_some() && wire.quic.close_reason().is_none();
                match state.wires.values().find(carries) {
                    Some(wire) => return Some(wire.quic.clone()),
                    None if state.session.is_over() => return None,
                    None => {}
                }
            }
            room.await;
        }
    }

    async fn until(&self, is_so: impl Fn(&Session<Frame>) -> bool) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Before the look: what changes in between would wake nobody.
            room.as_mut().enable();
            if is_so(&self.state.lock().session) {
                return;
            }
            room.await;
        }
    }

    pub(super) fn hold_back(&self, is_held: bool) {
        self.is_held.send_replace(is_held);
    }

    /// Waits while the peer is held back. Its control lane never is: by that it lives.
    async fn until_read(&self, lane: Lane) {
        if lane != Lane::Control {
            let mut held = self.is_held.subscribe();
            // Its sender is this peer.
            held.wait_for(|is_held| !is_held).await.ok();
        }
    }

    /// Ends the session.
    pub(super) fn end(self: &Arc<Self>, inner: &Arc<Inner>) {
        self.handle(inner, Input::End);
        self.hold_back(false);
        self.stop();
        self.room.notify_waiters();
    }

    /// Closes its connections; their watchers tell the session.
    pub(super) fn reconnect(&self) {
        for wire in self.state.lock().wires.values() {
            wire.quic.close(VarInt::from_u32(code::SUPERSEDED), b"a new connection is to take its place");
        }
    }

    /// Ends the clock task.
    pub(super) fn stop(&self) {
        self.state.lock().is_stopped = true;
        self.wake.notify_one();
    }

    /// A connection has come or was made; `input` is what the session is to hear of it.
    pub(super) fn carry(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        carrier: Carrier,
        input: impl FnOnce(ConnectionId) -> Input<Frame>,
    ) {
        let Carrier { quic, lanes: streams } = carrier;
        let mut lanes = [const { None }; 3];
        let mut readers = Vec::new();
        for (lane, connection, incoming) in streams {
            lanes[lane as usize] = Some(connection);
            readers.push((lane, incoming));
        }
        let mut state = self.state.lock();
        state.came_from = Some(quic.remote_address());
        state.connections += 1;
        let connection = state.connections;
        state.wires.insert(connection, Wire { quic: quic.clone(), lanes });
        state.session.handle(inner.now(), input(connection));
        self.perform(inner, state);
        let is_bulk = readers.iter().any(|(lane, _)| *lane == Lane::Bulk);
        for (lane, incoming) in readers {
            tokio::spawn(read_lane(inner.clone(), self.clone(), connection, lane, incoming, quic.clone()));
        }
        if is_bulk {
            self.room.notify_waiters();
            tokio::spawn(ranges::serve(inner.clone(), self.id, quic.clone()));
        }
        tokio::spawn(watch(inner.clone(), self.clone(), connection, quic));
    }

    /// Does what the session asks for.
    fn perform(self: &Arc<Self>, inner: &Arc<Inner>, mut state: MutexGuard<'_, State>) {
        while let Some(output) = state.session.poll_output() {
            match output {
                Output::Transmit { connection, lane, frame } => state.write(connection, lane, frame.kind, frame.body),
                Output::Deliver { lane, frame: Frame { kind, body } } => {
                    inner.events.push(Event::Frame { from: self.id, lane, kind, body });
                }
                Output::Heartbeat { connection, received } => {
                    let body = received.map(u64::to_le_bytes).concat();
                    state.write(connection, Lane::Control, FrameKind::Heartbeat, body.into());
                }
                Output::Begin { connection, lane, number } => {
                    let body = number.to_le_bytes().to_vec();
                    state.write(connection, lane, FrameKind::Greeting, body.into());
                }
                Output::Answer { connection, offer } => state.answer(inner, connection, offer),
                Output::Dial { offer } => {
                    if let Some(addr) = state.addr {
                        inner.runtime.spawn(dial::dial(inner.clone(), self.clone(), addr, state.member, offer));
                    }
                }
                Output::Close { connection, why } => state.close(connection, why),
                Output::Up => inner.events.push(Event::Up { peer: self.id }),
                Output::Down => {
                    let why = std::mem::take(&mut state.why);
                    let why = if why.is_empty() { "nothing came for too long".into() } else { why };
                    inner.events.push(Event::Down { peer: self.id, why });
                }
                Output::Probe => {
                    let silent = state.session.silent(inner.now());
                    let at = match (state.addr, state.came_from) {
                        (Some(addr), _) => probe::At::Open(addr),
                        (None, Some(addr)) => probe::At::CameFrom(addr),
                        (None, None) => probe::At::Nowhere,
                    };
                    inner.runtime.spawn(probe::probe(inner.clone(), self.clone(), at, silent));
                }
                Output::Silent { silent, refused } => {
                    inner.events.push(Event::Silent { peer: self.id, silent, refused });
                }
                Output::Ended { undelivered } => {
                    let undelivered = undelivered.into_iter().map(|(_, frame)| (frame.kind, frame.body)).collect();
                    inner.events.push(Event::Ended { peer: self.id, undelivered });
                }
            }
        }
        let next = state.session.next_timeout().unwrap_or(Time::MAX);
        if next < state.armed {
            state.armed = next;
            drop(state);
            self.wake.notify_one();
        }
    }

    /// A connection is over.
    fn lost(self: &Arc<Self>, inner: &Arc<Inner>, connection: ConnectionId, error: &quinn::ConnectionError) {
        let mut state = self.state.lock();
        if state.wires.remove(&connection).is_none() {
            return;
        }
        state.why = error.to_string();
        if is_ended(error) {
            drop(state);
            return self.renew(inner, None);
        }
        state.session.handle(inner.now(), Input::Lost { connection });
        self.perform(inner, state);
    }

    /// The other side says that the session is over: a new one stands ready, for when there is something to say.
    pub(super) fn renew(self: &Arc<Self>, inner: &Arc<Inner>, refusal: Option<Refusal>) {
        let (addr, member) = {
            let state = self.state.lock();
            (state.addr, state.member)
        };
        if let Some(refusal) = refusal {
            inner.events.push(Event::Refused { peer: self.id, refusal });
        }
        // Nothing is said of the new session before the end of this one.
        let mut peers = inner.peers.write();
        self.end(inner);
        if peers.get(&self.id).is_some_and(|peer| Arc::ptr_eq(peer, self)) {
            peers.insert(self.id, Self::begin(inner, self.id, addr, member));
        }
    }
}

/// Whether the other side closed the connection because the session is over.
pub(super) fn is_ended(error: &quinn::ConnectionError) -> bool {
    matches!(error, quinn::ConnectionError::ApplicationClosed(closed)
        if closed.error_code == VarInt::from_u32(code::ENDED)
            || closed.error_code == VarInt::from_u32(Cause::DeclaredDead.code()))
}

impl State {
    /// Queues a frame; if the connection is over, its watcher says so.
    fn write(&self, connection: ConnectionId, lane: Lane, kind: FrameKind, body: Bytes) {
        let lane = self.wires.get(&connection).and_then(|wire| wire.lanes[lane as usize].as_ref());
        if let Some(lane) = lane
            && let Err(error) = lane.send(kind, body)
        {
            tracing::debug!(%error, "a frame waits for the next connection");
        }
    }

    fn answer(&self, inner: &Inner, connection: ConnectionId, offer: Offer) {
        let greeting = Greeting {
            cluster: inner.credentials.peer().cluster,
            features: 0,
            process: *inner.process.read(),
            session: offer.into(),
            body: self.welcome.to_vec(),
        };
        // The first lane's stream is the one that the connection began with.
        let lane = if offer.link == Link::Main { Lane::Control } else { Lane::Bulk };
        match greeting::encode_member(&greeting) {
            Ok(words) => {
                for body in greeting::frames(&words) {
                    self.write(connection, lane, greeting::MEMBER, Bytes::copy_from_slice(body));
                }
            }
            Err(refusal) => tracing::error!(%refusal, "the welcome does not fit"),
        }
    }

    fn close(&mut self, connection: ConnectionId, why: CloseReason) {
        let Some(wire) = self.wires.remove(&connection) else { return };
        let (code, reason) = match why {
            CloseReason::Superseded => (code::SUPERSEDED, "another connection takes its place"),
            CloseReason::Ended => (code::ENDED, "the session is over"),
            CloseReason::Violated => (code::VIOLATED, "what came is against the rules"),
            CloseReason::Silent => (code::SILENT, "nothing came for too long"),
        };
        self.why = reason.into();
        wire.quic.close(VarInt::from_u32(code), reason.as_bytes());
    }
}

/// Looks at the clock for a session.
async fn keep_time(inner: Arc<Inner>, peer: Arc<Peer>) {
    loop {
        let next = {
            let mut state = peer.state.lock();
            if state.is_stopped || inner.is_closed() {
                return;
            }
            state.armed = state.session.next_timeout().unwrap_or(Time::MAX);
            state.armed
        };
        if next == Time::MAX {
            peer.wake.notified().await;
        } else if tokio::time::timeout_at(inner.instant(next), peer.wake.notified()).await.is_err() {
            peer.handle(&inner, Input::Tick);
        }
    }
}

/// Waits for a connection's end.
async fn watch(inner: Arc<Inner>, peer: Arc<Peer>, connection: ConnectionId, quic: quinn::Connection) {
    let error = quic.closed().await;
    peer.lost(&inner, connection, &error);
}

/// Hands what comes on a lane to the session.
async fn read_lane(
    inner: Arc<Inner>,
    peer: Arc<Peer>,
    connection: ConnectionId,
    lane: Lane,
    mut incoming: Incoming,
    quic: quinn::Connection,
) {
    let closed = loop {
        let first = match incoming.next().await {
            Ok(frame) => frame,
            Err(closed) => break closed,
        };
        if let Err(closed) = peer.take(&inner, connection, lane, first, &mut incoming) {
            break closed;
        }
        inner.events.room(lane).await;
        peer.until_read(lane).await;
    };
    // A stream that ends or cannot be read ends its connection; where that is over already, nothing happens.
    tracing::debug!(peer = %peer.id, ?lane, %closed, "a lane's stream ended");
    quic.close(VarInt::from_u32(code::VIOLATED), closed.to_string().as_bytes());
}

impl Peer {
    /// Hands a frame to the session, and all that have been read behind it.
    fn take(
        self: &Arc<Self>,
        inner: &Arc<Inner>,
        connection: ConnectionId,
        lane: Lane,
        first: Frame,
        incoming: &mut Incoming,
    ) -> Result<(), Closed> {
        let mut state = self.state.lock();
        let now = inner.now();
        let mut next = Some(first);
        let mut result = Ok(());
        for _ in 0..BATCH_FRAMES {
            let Some(frame) = next.take() else { break };
            match input(connection, lane, frame) {
                Some(input) => state.session.handle(now, input),
                None => {
                    result = Err(Closed::Here { reason: "a frame that is none of a session".into() });
                    break;
                }
            }
            match incoming.try_next() {
                Ok(frame) => next = frame,
                Err(closed) => {
                    result = Err(closed);
                    break;
                }
            }
        }
        if let Some(frame) = next
            && let Some(input) = input(connection, lane, frame)
        {
            state.session.handle(now, input);
        }
        self.perform(inner, state);
        if lane == Lane::Control {
            // Heartbeats come here.
            self.room.notify_waiters();
        }
        result
    }
}

/// What a frame is to the session.
fn input(connection: ConnectionId, lane: Lane, frame: Frame) -> Option<Input<Frame>> {
    match frame.kind {
        FrameKind::Greeting => {
            let number = u64::from_le_bytes(frame.body[..].try_into().ok()?);
            Some(Input::Begin { connection, lane, number })
        }
        FrameKind::Heartbeat => Some(Input::Heartbeat { connection, received: received(&frame.body)? }),
        _ => {
            let bytes = frame.body.len() + mobula_wire::frame::FRAME_HEAD_BYTES;
            Some(Input::Frame { connection, lane, frame, bytes })
        }
    }
}

fn received(body: &[u8]) -> Option<Received> {
    let (numbers, rest) = body.as_chunks::<8>();
    let numbers: [[u8; 8]; 3] = numbers.try_into().ok()?;
    rest.is_empty().then(|| numbers.map(u64::from_le_bytes))
}
