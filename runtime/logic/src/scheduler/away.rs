//! Requests that wait on other nodes.
//!
//! A node shares itself between the jobs that wait on it. A job is on all nodes with what its processes ask of one: where no
//! node has room, the youngest requests of a shape wait on others, at most [`AWAY_MAX`] on each, and fewer there than here.
//! There they stand in the queue like that node's own, what they lack is recalled of richer jobs, and they are granted in
//! the end, or refused when that node can serve them no more.
//!
//! When all that still wait do so elsewhere, and there is room here or on a third node, the oldest is called back and served;
//! a grant that crosses that is given back. What has waited in one place for a [`TURN`] in vain goes on to one where none of
//! its shape waits: actors may have all of the first, and they give nothing back.

use mobula_types::{NodeId, PlacementStrategy, Time};

use super::place::Lack;
use super::{At, Output, Peer, Refusal, RequestKey, Scheduler, Shape, TURN, Whose};

/// Requests of one shape that wait on one other node: what the next grants there may be for, while the answers travel.
pub(super) const AWAY_MAX: usize = 8;

/// When more of a shape wait here, as many wait on every other node as may: one more changes nothing.
pub(super) const ENOUGH_AWAY: usize = AWAY_MAX + 1;

impl Scheduler {
    /// Lets the youngest of a shape that waits here wait on other nodes, and those go on that have waited there for long.
    pub(super) fn send_away(&mut self, now: Time, id: usize) {
        self.fill_others(now, id);
        if let Some(request) = self.next_on(now, id) {
            self.call_back(request);
            self.fill_others(now, id);
        }
        let is_last = |shape: &&Shape| shape.whose == Whose::Own && shape.queue.len() == 1 && !self.peers.is_empty();
        let last = self.shapes.get(id).filter(is_last).and_then(Shape::first);
        let goes_at = last.and_then(|(_, request)| self.asks.get(&request)).map(|ask| ask.since + TURN);
        self.alarms.extend(goes_at.filter(|goes_at| *goes_at > now));
    }

    fn fill_others(&mut self, now: Time, id: usize) {
        while let Some((request, node)) = self.next_away(now, id) {
            self.ask_peer(request, node, true);
        }
    }

    /// Which request goes to wait where. More stay than wait on any other node, if any could be served here.
    fn next_away(&self, now: Time, id: usize) -> Option<(RequestKey, NodeId)> {
        let shape = self.shapes.get(id).filter(|shape| shape.whose == Whose::Own && shape.spec.within.is_none())?;
        let (_, request) = shape.queue.last_key_value()?;
        let ask = self.asks.get(request)?;
        let wait_here = shape.queue.len();
        let is_open_here = self.is_open_here(now, shape);
        let stays = usize::from(wait_here > 1 || ask.since + TURN > now);
        let may_go = |(node, _): &(&NodeId, &Peer)| {
            let away = shape.away_on(**node);
            away < AWAY_MAX
                && (!is_open_here || away + stays < wait_here)
                && !ask.avoid.contains(node)
                && self.may_wait_on(now, shape, **node)
        };
        let is_preferred = |node| shape.spec.strategy == PlacementStrategy::Prefer { node };
        let rank = |(node, peer): (&NodeId, &Peer)| {
            (shape.away_on(*node), shape.went.get(node), !is_preferred(*node), peer.served, *node)
        };
        let (.., node) = self.peers.iter().filter(may_go).map(rank).min()?;
        Some((*request, node))
    }

    /// The oldest that has waited for long on another node, if none of its shape waits in a place where it may, too.
    fn next_on(&self, now: Time, id: usize) -> Option<RequestKey> {
        let shape = self.shapes.get(id)?;
        let has_waited = |request: &&RequestKey| self.asks.get(*request).is_some_and(|ask| ask.since + TURN <= now);
        let oldest = shape.away.iter().filter(|(_, request)| has_waited(request));
        let ((from, _), request) = oldest.min_by_key(|((_, number), _)| *number)?;
        let avoid = &self.asks.get(request)?.avoid;
        let is_better = |node: &NodeId| {
            node != from && shape.away_on(*node) == 0 && !avoid.contains(node) && self.may_wait_on(now, shape, *node)
        };
        let is_here_better = || shape.queue.is_empty() && self.is_open_here(now, shape);
        (is_here_better() || self.peers.keys().any(is_better)).then_some(*request)
    }

    /// Whether another node could ever serve a request that may be there, as far as is known.
    fn may_wait_on(&self, now: Time, shape: &Shape, node: NodeId) -> bool {
        let is_meant = match shape.spec.strategy {
            PlacementStrategy::Node { node: meant } => meant == node,
            PlacementStrategy::NodeSoft { node: meant } => meant == node || !self.can_ever(shape, meant),
            _ => true,
        };
        is_meant && shape.refused.get(&node).is_none_or(|until| *until <= now) && self.can_ever(shape, node)
    }

    /// A request that waits on another node waits here again.
    pub(super) fn call_back(&mut self, request: RequestKey) {
        let Some(At::Away(node)) = self.asks.get(&request).map(|ask| ask.at) else { return };
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.asked.remove(&request);
        }
        self.enqueue(request);
        self.outputs.push_back(Output::TakeBackFromPeer { node, request });
    }

    /// Another node's request finds no room here.
    pub(super) fn refuse_other(&mut self, now: Time, request: RequestKey, lack: &Lack) {
        let Some(ask) = self.asks.get(&request) else { return };
        let missing = self.lack_text(now, &self.shapes[ask.shape], lack);
        self.forget(request);
        self.refuse(request, Refusal::NoRoom { node: self.node, missing });
    }
}

#[cfg(test)]
mod tests;
