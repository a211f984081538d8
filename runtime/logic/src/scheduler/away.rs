//! Requests that wait on other nodes.
//!
//! A node shares itself between the jobs that wait on it. A job is on all nodes with what its processes ask of one: where no
//! node has room, the youngest requests of a shape wait on others, at most [`AWAY_MAX`] on each, and no more there than
//! here. There they stand in the queue like that node's own, what they lack is recalled of richer jobs, and they are granted
//! in the end, or refused when that node can serve them no more. When all that still wait do so elsewhere, and there is
//! room here or on a third node, the oldest is called back and served; a grant that crosses that is given back.

use mobula_types::{NodeId, PlacementStrategy, Time};

use super::place::Lack;
use super::{At, Output, Peer, Refusal, RequestKey, Scheduler, Shape, Whose};

/// Requests of one shape that wait on one other node: what the next grants there may be for, while the answers travel.
pub(super) const AWAY_MAX: usize = 8;

impl Scheduler {
    /// Lets the youngest of a shape that waits here wait on other nodes.
    pub(super) fn send_away(&mut self, now: Time, id: usize) {
        while let Some((request, node)) = self.next_away(now, id) {
            self.ask_peer(request, node, true);
        }
    }

    /// Which request goes to wait where. As many stay as wait on any other node, if any could be served here.
    fn next_away(&self, now: Time, id: usize) -> Option<(RequestKey, NodeId)> {
        let shape = self.shapes.get(id)?;
        let stays = self.is_open_here(now, shape);
        let wait_here = shape.queue.len();
        if shape.whose == Whose::Others || shape.spec.within.is_some() || wait_here <= usize::from(stays) {
            return None;
        }
        let (_, request) = shape.queue.last_key_value()?;
        let avoid = &self.asks.get(request)?.avoid;
        let may_take = |(node, _): &(&NodeId, &Peer)| {
            let away = shape.away_on(**node);
            away < AWAY_MAX
                && (!stays || away + 1 < wait_here)
                && !avoid.contains(node)
                && shape.refused.get(node).is_none_or(|until| *until <= now)
                && self.may_wait_on(shape, **node)
        };
        let is_preferred = |node| shape.spec.strategy == PlacementStrategy::Prefer { node };
        let rank = |(node, peer): (&NodeId, &Peer)| (shape.away_on(*node), !is_preferred(*node), peer.served, *node);
        let (.., node) = self.peers.iter().filter(may_take).map(rank).min()?;
        Some((*request, node))
    }

    /// Whether another node could ever serve a request, and it may be there.
    fn may_wait_on(&self, shape: &Shape, node: NodeId) -> bool {
        let is_meant = match shape.spec.strategy {
            PlacementStrategy::Node { node: meant } => meant == node,
            PlacementStrategy::NodeSoft { node: meant } => meant == node || !self.can_ever(shape, meant),
            _ => true,
        };
        is_meant && self.can_ever(shape, node)
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
