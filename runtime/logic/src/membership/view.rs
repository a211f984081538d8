//! A node's copy of the head's view: applies what the head says has changed, and tells what that means.

use std::collections::{BTreeMap, BTreeSet};

use mobula_types::{Death, DeathCause, Member, NodeId, NodeLoad, ProcessId, ViewChange};

/// What one [`ViewChange`] may take: half of a control frame (promises.md), the rest comes with the next answer.
pub(super) const CHANGE_BYTES_MAX: usize = 512 << 10;

/// What the change in an admission may take: it travels in the first words, which are shorter (promises.md).
pub(super) const ADMISSION_BYTES_MAX: usize = 32 << 10;

/// More than the id of a node takes: all that live at once, [`NODES_MAX`](super::NODES_MAX), take half of an admission.
pub(super) const ID_BYTES: usize = 16;

/// More than a member's numbers take, with the lengths of its texts.
const MEMBER_BYTES: usize = 256;

/// More than the length and the amount of one text take.
const TEXT_BYTES: usize = 24;

/// A bundle's id and its amounts: five numbers of ten bytes at most.
const BUNDLE_BYTES: usize = 56;

/// More bytes than a member with these takes on the wire.
pub(super) fn bytes_of(addr: &str, load: &NodeLoad) -> usize {
    let labels = load.labels.iter().map(|(key, value)| key.len() + value.len() + TEXT_BYTES);
    let resources = load.total.others.keys().chain(load.free.others.keys()).map(|name| name.len() + TEXT_BYTES);
    let of_bundle = |bundle: &mobula_types::BundleLoad| {
        let names = bundle.free.others.keys().map(|name| name.len() + TEXT_BYTES);
        BUNDLE_BYTES + names.sum::<usize>()
    };
    let bundles = load.bundles.iter().map(of_bundle);
    MEMBER_BYTES + addr.len() + labels.sum::<usize>() + resources.sum::<usize>() + bundles.sum::<usize>()
}

/// The members of the cluster as one node knows them.
///
/// ```
/// use mobula_logic::membership::{Seen, View};
/// use mobula_types::{Member, NodeId, ViewChange};
/// let mut view = View::default();
/// let member = Member { node: NodeId(2), ..Member::default() };
/// let change = ViewChange { to: 5, is_full: true, alive: vec![member.clone()], ..ViewChange::default() };
/// assert_eq!(view.apply(change), [Seen::Came(member)]);
/// assert_eq!(view.version(), 5);
/// ```
#[derive(Clone, Debug, Default)]
pub struct View {
    version: u64,
    members: BTreeMap<NodeId, Member>,
    /// While a full view comes in parts: who was in none of them yet.
    unmentioned: Option<BTreeSet<NodeId>>,
}

/// What a change of the view means to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A node is new.
    Came(Member),
    /// A node has another load or address.
    Changed(Member),
    /// A node has died; said once.
    Died(Death),
}

impl View {
    /// The version to name in the next beat.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Who is alive.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    /// A node that is alive.
    pub fn member(&self, node: NodeId) -> Option<&Member> {
        self.members.get(&node)
    }

    /// Takes the head's change; what it means, in order. A change that does not continue what is known means nothing.
    pub fn apply(&mut self, change: ViewChange) -> Vec<Seen> {
        if change.is_full {
            self.unmentioned = Some(self.members.keys().copied().collect());
        } else if change.from != self.version {
            return Vec::new();
        }
        self.version = change.to;
        change.unheard.into_iter().for_each(|node| self.mention(node));
        let mut seen = Vec::new();
        for death in change.dead {
            self.mention(death.process.node());
            if self.members.remove(&death.process.node()).is_some() {
                seen.push(Seen::Died(death));
            }
        }
        for member in change.alive {
            self.mention(member.node);
            match self.members.insert(member.node, member.clone()) {
                None => seen.push(Seen::Came(member)),
                Some(before) if before != member => seen.push(Seen::Changed(member)),
                Some(_) => {}
            }
        }
        if !change.has_more {
            for node in self.unmentioned.take().unwrap_or_default() {
                self.members.remove(&node);
                // The head has forgotten how it ended, which it does only after an hour, or with an earlier head.
                seen.push(Seen::Died(Death::of(ProcessId::from(node), DeathCause::Disconnected)));
            }
        }
        seen
    }

    /// Takes a death that was told by itself, before the change with it has come; whether it is news.
    pub fn bury(&mut self, node: NodeId) -> bool {
        self.mention(node);
        self.members.remove(&node).is_some()
    }

    fn mention(&mut self, node: NodeId) {
        if let Some(unmentioned) = &mut self.unmentioned {
            unmentioned.remove(&node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(node: u64, addr: &str) -> Member {
        Member { node: NodeId(node), addr: addr.into(), ..Member::default() }
    }

    fn death(node: u64) -> Death {
        Death::of(ProcessId::from(NodeId(node)), DeathCause::NodeKilled)
    }

    fn full(to: u64, has_more: bool, alive: Vec<Member>) -> ViewChange {
        ViewChange { to, is_full: true, has_more, alive, ..ViewChange::default() }
    }

    #[test]
    fn who_is_in_no_part_of_a_full_view_has_died() {
        let mut view = View::default();
        let all = vec![member(1, "a"), member(2, "b"), member(3, "c")];
        assert_eq!(view.apply(full(3, false, all)).len(), 3);
        assert_eq!(view.apply(full(5, true, vec![member(1, "x")])), [Seen::Changed(member(1, "x"))]);
        let rest = ViewChange { from: 5, to: 7, dead: vec![death(2)], ..ViewChange::default() };
        let gone = Death::of(ProcessId::from(NodeId(3)), DeathCause::Disconnected);
        assert_eq!(view.apply(rest), [Seen::Died(death(2)), Seen::Died(gone)]);
        assert_eq!(view.members().map(|member| member.node).collect::<Vec<_>>(), [NodeId(1)]);
    }

    #[test]
    fn a_change_of_something_else_means_nothing_and_a_death_is_said_once() {
        let mut view = View::default();
        view.apply(full(3, false, vec![member(1, "a"), member(2, "b")]));
        let other = ViewChange { from: 9, to: 10, dead: vec![death(1)], ..ViewChange::default() };
        assert_eq!((view.apply(other), view.version()), (vec![], 3));
        assert!(view.bury(NodeId(2)) && !view.bury(NodeId(2)));
        let later = ViewChange { from: 3, to: 4, dead: vec![death(2)], ..ViewChange::default() };
        assert_eq!((view.apply(later), view.version()), (vec![], 4));
    }
}
