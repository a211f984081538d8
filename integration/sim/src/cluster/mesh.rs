//! The network between nodes: real sessions over connections that are slow, break and are cut.
//!
//! A connection is what QUIC gives: frames of a lane arrive in order, late when packets are lost, and not at all when it
//! breaks. What is lost with it, sent again or heard twice is the sessions' business.

use std::collections::VecDeque;
use std::time::Duration;

use mobula_logic::Violation;
use mobula_logic::session::{self, CloseReason, Input, Lane, Link, Output, Session};
use mobula_types::{NodeId, StateMachine, Time};

use super::event::{ConnectionId, Event, Frame, Refused, Talk};
use super::{Phase, World};

/// What a session carries: a talk, and which of its lane it is, for the witness.
pub(super) type Letter = (u64, Talk);

/// One node's end of a session with another.
#[derive(Debug)]
pub(super) struct End {
    pub(super) session: Session<Letter>,
    pub(super) wakes_at: Option<Time>,
    /// What its session has no room for yet, by lane.
    waiting: [VecDeque<Letter>; 3],
}

/// A connection as the network sees it.
#[derive(Debug)]
pub(super) struct Connection {
    /// Who dialed, and who was dialed.
    ends: [NodeId; 2],
    /// The answer has come: nothing that the dialed side says is heard before it.
    is_answered: bool,
    /// Which dial it is of the dialer's.
    dial: (Link, u64),
    /// What is on its way, by direction and lane; heartbeats have one of their own.
    queues: [[VecDeque<Frame>; LANES]; 2],
}

const LANES: usize = 4;
/// More frames than any session has had.
const FORGED: u64 = 1 << 40;

impl Connection {
    fn frames(&self) -> usize {
        self.queues.iter().flatten().map(VecDeque::len).sum()
    }
}

impl World {
    /// The node's end of its session with `peer`, made at first use.
    fn end(&mut self, node: NodeId, peer: NodeId) -> &mut End {
        let now = self.local(node);
        let may_dial = self.ends.contains_key(&(node, peer)) || !self.goes_wrong(10);
        if !may_dial {
            self.saw("where a node is is not known yet");
            let delay = self.rng.span(500);
            self.agenda.after(delay, Event::MayDial { node, peer });
        }
        let (rng, mutant) = (&mut self.rng, self.mutant);
        self.ends.entry((node, peer)).or_insert_with(|| {
            let half = rng.number();
            let session = match mutant {
                Some(mutant) => Session::with_mutant(now, half, may_dial, mutant),
                None => Session::new(now, half, may_dial),
            };
            End { session, wakes_at: None, waiting: Default::default() }
        })
    }

    /// Sends to another node; `false` when that is known to be dead.
    pub(super) fn send(&mut self, node: NodeId, peer: NodeId, talk: Talk) -> Result<bool, Violation> {
        if self.nodes.get(&node).is_none_or(|node| node.dead.contains(&peer)) {
            return Ok(false);
        }
        let lane = talk.lane();
        let number = self.witness.sent(node, peer, lane);
        self.end(node, peer).waiting[lane as usize].push_back((number, talk));
        if !self.send_waiting(node, peer, lane) {
            self.saw("a session is full");
        }
        self.drain_session(node, peer)?;
        Ok(true)
    }

    /// Sends what waits for room in a lane, in its order; `false` when there is none for some of it.
    fn send_waiting(&mut self, node: NodeId, peer: NodeId, lane: Lane) -> bool {
        let (now, bytes) = (self.local(node), self.frame_bytes);
        let Some(end) = self.ends.get_mut(&(node, peer)) else { return true };
        while let Some(letter) = end.waiting[lane as usize].pop_front() {
            if end.session.send(now, lane, letter.clone(), bytes).is_err() {
                end.waiting[lane as usize].push_front(letter);
                return false;
            }
        }
        true
    }

    pub(super) fn want_session(&mut self, node: NodeId, peer: NodeId) -> Result<(), Violation> {
        let now = self.local(node);
        self.end(node, peer).session.want(now);
        self.drain_session(node, peer)
    }

    fn tell_session(&mut self, node: NodeId, peer: NodeId, input: Input<Letter>) -> Result<(), Violation> {
        let now = self.local(node);
        let Some(end) = self.ends.get_mut(&(node, peer)) else { return Ok(()) };
        end.session.handle(now, input);
        if self.mutant.is_some() {
            session::check(&end.session)?;
        }
        self.drain_session(node, peer)
    }

    pub(super) fn end_session(&mut self, node: NodeId, peer: NodeId) -> Result<(), Violation> {
        self.tell_session(node, peer, Input::End)?;
        self.ends.remove(&(node, peer));
        Ok(())
    }

    fn drain_session(&mut self, node: NodeId, peer: NodeId) -> Result<(), Violation> {
        while let Some(output) = self.ends.get_mut(&(node, peer)).and_then(|end| end.session.poll_output()) {
            match output {
                Output::Dial { offer } => {
                    self.next_connection += 1;
                    let connection = self.next_connection;
                    let delay = self.transit();
                    self.agenda.after(delay, Event::Offered { connection, from: node, to: peer, offer });
                }
                Output::Answer { connection, offer } => {
                    let delay = self.transit();
                    self.agenda.after(delay, Event::Answered { connection, from: node, to: peer, offer });
                }
                Output::Close { connection, why } => {
                    self.saw(match why {
                        CloseReason::Superseded => "connection is superseded",
                        CloseReason::Ended => "connection of an ended session",
                        CloseReason::Violated => "connection breaks the rules",
                        CloseReason::Silent => "connection is silent",
                    });
                    if why == CloseReason::Violated && !self.forged.contains(&connection) {
                        return Err(Violation { invariant: "SES-3", seen: format!("{node} and {peer} disagree") });
                    }
                    self.close(connection);
                    let delay = self.transit();
                    self.agenda.after(delay, Event::Lost { node: peer, peer: node, connection });
                }
                Output::Begin { connection, lane, number } => {
                    self.carry(node, connection, lane as usize, Frame::Begin { lane, number });
                }
                Output::Transmit { connection, lane, frame } => {
                    self.carry(node, connection, lane as usize, Frame::Letter { lane, letter: frame });
                }
                Output::Heartbeat { connection, received } => {
                    self.carry(node, connection, LANES - 1, Frame::Heartbeat { received });
                }
                Output::Deliver { lane, frame } => {
                    let (number, frame) = frame;
                    self.witness.delivered(peer, node, lane, number)?;
                    if frame.may_repeat() && self.goes_wrong(4) {
                        self.saw("message comes twice");
                        self.inbox.push_back((node, peer, frame.clone()));
                    }
                    self.inbox.push_back((node, peer, frame));
                }
                Output::Up => self.saw("session is up"),
                Output::Down => self.saw("session is down"),
                Output::Probe => {
                    let delay = Duration::from_millis(50) + self.transit();
                    self.agenda.after(delay, Event::Probed { node, peer });
                }
                Output::Silent { silent, refused } => {
                    self.saw(if refused { "silence with a refusal" } else { "silence" });
                    self.head_hears_silence(node, peer, silent, refused)?;
                }
                Output::Ended { undelivered } => {
                    self.saw("session ends");
                    if !undelivered.is_empty() {
                        self.saw("session ends with frames");
                    }
                }
            }
        }
        for lane in Lane::ALL {
            let waits = self.ends.get(&(node, peer)).is_some_and(|end| !end.waiting[lane as usize].is_empty());
            if waits && self.send_waiting(node, peer, lane) {
                return self.drain_session(node, peer);
            }
        }
        let Some(end) = self.ends.get(&(node, peer)) else { return Ok(()) };
        let due = end.session.next_timeout().map(|at| self.real(node, at));
        let Some(end) = self.ends.get_mut(&(node, peer)) else { return Ok(()) };
        if let Some(at) = super::earlier(&mut end.wakes_at, due) {
            self.agenda.at(at, Event::SessionTick { node, peer });
        }
        Ok(())
    }

    pub(super) fn session_tick(&mut self, node: NodeId, peer: NodeId) -> Result<(), Violation> {
        let now = self.agenda.now();
        let Some(end) = self.ends.get_mut(&(node, peer)) else { return Ok(()) };
        if end.wakes_at.take_if(|at| *at <= now).is_none() {
            return Ok(());
        }
        self.tell_session(node, peer, Input::Tick)
    }

    pub(super) fn may_dial(&mut self, node: NodeId, peer: NodeId) -> Result<(), Violation> {
        self.tell_session(node, peer, Input::MayDial)
    }

    /// A packet's way: short, and long now and then, so that lanes overtake each other.
    fn transit(&mut self) -> Duration {
        if self.goes_wrong(10) {
            self.saw("packet is lost and sent again");
            return Duration::from_millis(30) + self.rng.span(300);
        }
        Duration::from_micros(100 + self.rng.below(2_000))
    }

    /// Puts a frame on its way.
    fn carry(&mut self, node: NodeId, connection: ConnectionId, lane: usize, frame: Frame) {
        let Some(way) = self.connections.get(&connection).map(|known| usize::from(known.ends[0] != node)) else {
            return;
        };
        let Some(known) = self.connections.get_mut(&connection) else { return };
        let queue = &mut known.queues[way][lane];
        queue.push_back(frame);
        if queue.len() == 1 && (way == 0 || known.is_answered) {
            let delay = self.transit();
            self.agenda.after(delay, Event::Pump { connection, way, lane });
        }
    }

    /// The first frame of a queue arrives, unless it is cut off or nobody is there.
    pub(super) fn pump(&mut self, connection: ConnectionId, way: usize, lane: usize) -> Result<(), Violation> {
        let Some(known) = self.connections.get(&connection) else { return Ok(()) };
        let (from, to) = (known.ends[way], known.ends[1 - way]);
        if self.is_cut(from, to) {
            self.saw("packet runs into a cut");
            self.agenda.after(Duration::from_millis(100), Event::Pump { connection, way, lane });
            return Ok(());
        }
        let Some(known) = self.connections.get_mut(&connection) else { return Ok(()) };
        let queue = &mut known.queues[way][lane];
        if !self.nodes.contains_key(&to) {
            queue.clear();
            return Ok(());
        }
        let Some(frame) = queue.pop_front() else { return Ok(()) };
        if !queue.is_empty() {
            let delay = self.transit();
            self.agenda.after(delay, Event::Pump { connection, way, lane });
        }
        let bytes = self.frame_bytes;
        let Some(frame) = self.forge(connection, frame) else { return Ok(()) };
        let input = match frame {
            Frame::Begin { lane, number } => Input::Begin { connection, lane, number },
            Frame::Letter { lane, letter } => Input::Frame { connection, lane, frame: letter, bytes },
            Frame::Heartbeat { received } => Input::Heartbeat { connection, received },
        };
        self.tell_session(to, from, input)
    }

    /// A side that breaks the rules: it begins with a frame that it cannot have come to, does not say with which it begins,
    /// or has received what was not sent.
    fn forge(&mut self, connection: ConnectionId, mut frame: Frame) -> Option<Frame> {
        if matches!(frame, Frame::Letter { .. }) || !self.breaks_rules(2) {
            return Some(frame);
        }
        self.forged.insert(connection);
        match &mut frame {
            Frame::Begin { .. } if self.forger.chance(50) => return None,
            Frame::Begin { number, .. } => *number += FORGED,
            Frame::Heartbeat { received } => received[self.forger.below(3) as usize] += FORGED,
            Frame::Letter { .. } => {}
        }
        Some(frame)
    }

    /// Somebody else speaks on a new connection of a session that has begun.
    fn forge_half(&mut self, node: NodeId, peer: NodeId, offer: &mut session::Offer) {
        let mut forged = *offer;
        forged.half = self.forger.number();
        if self.breaks_rules(5) && !self.end(node, peer).session.recognises(&forged) {
            self.saw("another session speaks");
            *offer = forged;
        }
    }

    fn breaks_rules(&mut self, percent: u64) -> bool {
        self.is_forged && self.phase == Phase::Faults && self.forger.chance(percent)
    }

    fn close(&mut self, connection: ConnectionId) {
        let Some(known) = self.connections.remove(&connection) else { return };
        if known.frames() > 0 {
            self.saw("frames are lost with their connection");
        }
        if !known.is_answered {
            let ([node, peer], (link, number)) = (known.ends, known.dial);
            let delay = self.transit();
            self.agenda.after(delay, Event::DialFails { node, peer, link, number, refused: None });
        }
    }

    /// One of the connections breaks, and both ends notice.
    pub(super) fn break_connection(&mut self) {
        let count = self.connections.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.rng.below(count) as usize;
        let Some((connection, ends)) = self.connections.iter().nth(at).map(|(id, known)| (*id, known.ends)) else {
            return;
        };
        self.saw("connection breaks");
        self.close(connection);
        for (node, peer) in [(ends[0], ends[1]), (ends[1], ends[0])] {
            let delay = self.rng.span(200);
            self.agenda.after(delay, Event::Lost { node, peer, connection });
        }
    }

    pub(super) fn offered(
        &mut self,
        connection: ConnectionId,
        from: NodeId,
        to: NodeId,
        mut offer: session::Offer,
    ) -> Result<(), Violation> {
        let (link, number) = (offer.link, offer.made.number);
        let fails = |refused| Event::DialFails { node: from, peer: to, link, number, refused };
        if self.is_cut(from, to) || self.is_cut(to, from) || !self.nodes.contains_key(&to) {
            self.saw("dial comes to nothing");
            let wait = Duration::from_millis(500) + self.rng.span(500);
            self.agenda.after(wait, fails(None));
            return Ok(());
        }
        let listener = &self.nodes[&to];
        let refused = match () {
            () if listener.dead.contains(&from) => Some(Refused::Dead),
            () if !listener.known.contains(&from) => Some(Refused::Unknown),
            () => None,
        };
        if refused.is_some() {
            self.saw("dial is refused");
            let delay = self.transit();
            self.agenda.after(delay, fails(refused));
            return Ok(());
        }
        if !self.end(to, from).session.recognises(&offer) {
            // The gate sees that these are not the words of the process it knows.
            self.saw("dial of another session");
            let delay = self.transit();
            self.agenda.after(delay, fails(Some(Refused::Unknown)));
            return Ok(());
        }
        self.connections.insert(
            connection,
            Connection { ends: [from, to], is_answered: false, dial: (link, number), queues: Default::default() },
        );
        if self.breaks_rules(5) {
            offer.received[self.forger.below(3) as usize] += FORGED;
            self.forged.insert(connection);
        }
        self.forge_half(to, from, &mut offer);
        self.tell_session(to, from, Input::Accepted { connection, offer })
    }

    pub(super) fn answered(
        &mut self,
        connection: ConnectionId,
        from: NodeId,
        to: NodeId,
        mut offer: session::Offer,
    ) -> Result<(), Violation> {
        if !self.connections.contains_key(&connection) {
            // It broke on the way.
            return Ok(());
        }
        if self.is_cut(from, to) {
            let event = Event::Answered { connection, from, to, offer };
            self.agenda.after(Duration::from_millis(100), event);
            return Ok(());
        }
        let (link, number) = (offer.link, offer.made.number);
        if self.goes_wrong(1) {
            self.saw("an answer comes after its dial was given up");
            self.tell_session(to, from, Input::DialFailed { link, number, is_alive: false })?;
        }
        self.forge_half(to, from, &mut offer);
        self.tell_session(to, from, Input::Answered { connection, number, offer })?;
        let Some(known) = self.connections.get_mut(&connection) else { return Ok(()) };
        known.is_answered = true;
        let wait: Vec<usize> = (0..LANES).filter(|lane| !known.queues[1][*lane].is_empty()).collect();
        for lane in wait {
            let delay = self.transit();
            self.agenda.after(delay, Event::Pump { connection, way: 1, lane });
        }
        Ok(())
    }

    pub(super) fn dial_fails(
        &mut self,
        node: NodeId,
        peer: NodeId,
        link: Link,
        number: u64,
        refused: Option<Refused>,
    ) -> Result<(), Violation> {
        if refused == Some(Refused::Dead) {
            return self.fence(node);
        }
        let is_alive = refused.is_some();
        self.tell_session(node, peer, Input::DialFailed { link, number, is_alive })
    }

    pub(super) fn lost(&mut self, node: NodeId, peer: NodeId, connection: ConnectionId) -> Result<(), Violation> {
        self.tell_session(node, peer, Input::Lost { connection })
    }

    /// A killed process's port refuses, if the packets come through.
    pub(super) fn probed(&mut self, node: NodeId, peer: NodeId) -> Result<(), Violation> {
        let refused = !self.nodes.contains_key(&peer) && !self.is_cut(node, peer) && !self.is_cut(peer, node);
        self.tell_session(node, peer, Input::Probed { refused })
    }
}
