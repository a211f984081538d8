//! Who gets an object of whom, so that many readers form a tree: a copy is read by a few, further readers are sent to those
//! that get it just now, and those in turn to others.
//!
//! ```text
//! owner's copy ──► first ──► third        (each is read by READERS_MAX at most, as long as there is somebody else)
//!            └───► second ─► fourth, fifth
//! ```
//!
//! A reader also hears of whole copies that it is to leave alone unless its own sources fail.

use mobula_types::{NodeId, Time};

use super::{FETCH_MAX, SOURCES_MAX};
use crate::haul::Sources;

/// Nodes that read one copy at once: two, so that a tree of a hundred nodes is six deep and no node sends an object much
/// more than twice.
pub const READERS_MAX: usize = 2;

/// Copies of which one reader takes ranges at once: more do not fill its connection better.
pub const AT_ONCE_MAX: usize = 4;

/// The nodes that get one object, in the order in which they began.
#[derive(Debug, Default)]
pub(super) struct Pullers(Vec<Puller>);

#[derive(Debug)]
struct Puller {
    node: NodeId,
    of: Vec<NodeId>,
    since: Time,
}

impl Pullers {
    /// A node does not get it any more: it has it, does not want it, or is dead.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.0.retain(|puller| puller.node != node);
    }

    /// Of whom `to` is to get it, of which these nodes have `whole` copies.
    pub(super) fn sources(&mut self, whole: &[NodeId], to: NodeId, now: Time, reads_in_circles: bool) -> Sources {
        // Who began so long ago has told those who waited that it does not come.
        self.0.retain(|puller| puller.node != to && now.since(puller.since) < FETCH_MAX);
        let mut whole: Vec<NodeId> = whole.iter().copied().filter(|node| *node != to).collect();
        whole.sort_by_key(|node| self.readers(*node));
        let free: Vec<NodeId> = whole.iter().copied().filter(|node| self.is_free(*node)).take(AT_ONCE_MAX).collect();
        let at_once = match (free.is_empty(), whole.first()) {
            (false, _) => free,
            (true, None) => return Sources::default(),
            (true, Some(least)) => {
                // OWN-11: nobody is sent to who waits for it.
                let may = |node: NodeId| self.is_free(node) && (reads_in_circles || !self.waits_for(node, to));
                let getting = self.0.iter().map(|puller| puller.node).find(|node| !whole.contains(node) && may(*node));
                vec![getting.unwrap_or(*least)]
            }
        };
        let spare = whole.into_iter().filter(|node| !at_once.contains(node)).take(SOURCES_MAX - at_once.len());
        let sources = Sources { spare: spare.collect(), at_once };
        self.0.push(Puller { node: to, of: sources.at_once.clone(), since: now });
        sources
    }

    fn readers(&self, node: NodeId) -> usize {
        self.0.iter().filter(|puller| puller.of.contains(&node)).count()
    }

    fn is_free(&self, node: NodeId) -> bool {
        self.readers(node) < READERS_MAX
    }

    /// Whether what `node` gets comes of `of`, directly or by others.
    fn waits_for(&self, node: NodeId, of: NodeId) -> bool {
        let mut seen = vec![node];
        let mut next = 0;
        while let Some(node) = seen.get(next).copied() {
            next += 1;
            for source in self.0.iter().filter(|puller| puller.node == node).flat_map(|puller| &puller.of) {
                if *source == of {
                    return true;
                }
                if !seen.contains(source) {
                    seen.push(*source);
                }
            }
        }
        false
    }

    /// A node that waits for itself, if there is one.
    pub(super) fn circle(&self) -> Option<NodeId> {
        self.0.iter().map(|puller| puller.node).find(|node| self.waits_for(*node, *node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: NodeId = NodeId(1);

    fn at_once(nodes: &[u64]) -> Vec<NodeId> {
        nodes.iter().copied().map(NodeId).collect()
    }

    #[test]
    fn many_readers_form_a_tree() {
        let mut pullers = Pullers::default();
        let parents: Vec<u64> = (2..=8)
            .map(|node| {
                let Sources { at_once, spare } = pullers.sources(&[ORIGIN], NodeId(node), Time::ZERO, false);
                assert!(at_once == [ORIGIN] || spare == [ORIGIN], "the whole copy is there for whoever needs it");
                assert_eq!(at_once.len(), 1);
                at_once[0].0
            })
            .collect();
        assert_eq!(parents, [1, 1, 2, 2, 3, 3, 4]);
    }

    #[test]
    fn a_reader_takes_of_all_that_are_free() {
        let mut pullers = Pullers::default();
        let whole: Vec<NodeId> = at_once(&[1, 2, 3, 4, 5, 6]);
        let sources = pullers.sources(&whole, NodeId(9), Time::ZERO, false);
        assert_eq!((sources.at_once, sources.spare), (at_once(&[1, 2, 3, 4]), at_once(&[5, 6])));
        let sources = pullers.sources(&whole, NodeId(10), Time::ZERO, false);
        assert_eq!(sources.at_once, at_once(&[5, 6, 1, 2]), "those that nobody reads first");
    }

    #[test]
    fn who_asks_again_is_not_sent_to_who_waits_for_it() {
        let mut pullers = Pullers::default();
        for node in 2..=4 {
            pullers.sources(&[ORIGIN], NodeId(node), Time::ZERO, false);
        }
        // Node 4 reads of node 2, which begins again when others have taken its place at the origin.
        pullers.forget(NodeId(2));
        pullers.forget(NodeId(3));
        for node in 5..=6 {
            assert_eq!(pullers.sources(&[ORIGIN], NodeId(node), Time::ZERO, false).at_once, [ORIGIN]);
        }
        let again = pullers.sources(&[ORIGIN], NodeId(2), Time::ZERO, false);
        assert_eq!(again.at_once, at_once(&[5]));
        assert_eq!(pullers.circle(), None);
        let late = Time::ZERO + FETCH_MAX;
        assert_eq!(pullers.sources(&[ORIGIN], NodeId(6), late, false).at_once, [ORIGIN], "the others have given up");
    }
}
