//! Placement groups as a node sees them: what its processes ask of the head, what the head has it keep apart, and what it
//! tells a head that may not know.

use std::collections::{BTreeMap, BTreeSet};

use mobula_logic::scheduler::{self, Held};
use mobula_types::{DeathCause, GroupEnd, GroupId, GroupSpec, JobId, ProcessId, StateMachine};
use mobula_wire::cluster::ToHead;
use mobula_wire::groups::{GroupAsk, GroupOrder};
use mobula_wire::local::FromNode;

use super::state::State;
use crate::losses::Loss;

/// Groups that processes of one node wait for; the next is refused.
const MAKING_MAX: usize = 4096;

/// Groups for whose end processes of one node wait: a head that is away answers none of them. Nobody waits for the next
/// one's, which the head is told all the same; whoever asked gives up by itself.
const REMOVING_MAX: usize = 4096;

/// What processes of this node wait to hear.
#[derive(Default)]
pub(crate) struct Grouped {
    /// Groups that are not ready, and what is said of them again to a head that was restarted.
    making: BTreeMap<GroupId, (JobId, GroupSpec)>,
    /// Groups that were made here and are ready, as many as a head keeps at most: said to a head that was restarted, in case
    /// no node is left that keeps anything of them.
    made: BTreeMap<GroupId, (JobId, GroupSpec)>,
    /// Who waits for the end of a group; as many groups as [`REMOVING_MAX`].
    removing: BTreeMap<GroupId, BTreeSet<ProcessId>>,
}

impl Grouped {
    /// Notes that a process waits for the end of a group, unless others wait for as many as may be.
    fn wait_for_end(&mut self, process: ProcessId, group: GroupId) -> bool {
        let has_room = self.removing.len() < REMOVING_MAX || self.removing.contains_key(&group);
        if has_room {
            self.removing.entry(group).or_default().insert(process);
        }
        has_room
    }
}

impl State {
    pub(crate) fn create_group(&mut self, group: GroupId, job: JobId, spec: GroupSpec) {
        if self.grouped.making.len() >= MAKING_MAX {
            let said = FromNode::GroupEnded { group, why: GroupEnd::TooMany { max: MAKING_MAX } };
            return self.routes.tell(group.process, &said);
        }
        self.grouped.making.insert(group, (job, spec.clone()));
        self.tell_head(ToHead::Group(GroupAsk::Create { group, job, spec }));
    }

    pub(crate) fn remove_group(&mut self, process: ProcessId, group: GroupId) {
        if !self.grouped.wait_for_end(process, group) {
            self.routes.lose(Loss::NodeBusy);
        }
        self.tell_head(ToHead::Group(GroupAsk::Remove { group }));
    }

    /// A process has ended: nobody can use the groups that it waited for.
    pub(crate) fn group_maker_died(&mut self, process: ProcessId) {
        let of_process = self.grouped.making.keys().filter(|group| group.process == process);
        for group in of_process.copied().collect::<Vec<_>>() {
            self.grouped.making.remove(&group);
            self.tell_head(ToHead::Group(GroupAsk::Remove { group }));
        }
        self.grouped.removing.retain(|_, waiting| {
            waiting.remove(&process);
            !waiting.is_empty()
        });
    }

    /// Says all that a head must know of groups, which may be a new one.
    pub(crate) fn tell_groups(&mut self) {
        let held = self.scheduler.bundles_held();
        let groups = held.iter().map(|held| held.group).collect();
        let ended = self.scheduler.groups_ended().collect();
        self.tell_head(ToHead::Group(GroupAsk::HoldsOnly { groups, ended }));
        for Held { group, job, spec, bundles } in held {
            self.tell_head(ToHead::Group(GroupAsk::Held { group, job, spec: spec.as_ref().clone(), bundles }));
        }
        for (group, (job, spec)) in self.grouped.made.clone() {
            self.tell_head(ToHead::Group(GroupAsk::Made { group, job, spec }));
        }
        for (group, (job, spec)) in self.grouped.making.clone() {
            self.tell_head(ToHead::Group(GroupAsk::Create { group, job, spec }));
        }
        for group in self.grouped.removing.keys().copied().collect::<Vec<_>>() {
            self.tell_head(ToHead::Group(GroupAsk::Remove { group }));
        }
    }

    pub(crate) fn group_ordered(&mut self, order: GroupOrder) {
        match &order {
            GroupOrder::Ready { group, nodes } => {
                if let Some(spec) = self.grouped.making.remove(group) {
                    self.grouped.made.insert(*group, spec);
                    self.routes.tell(group.process, &FromNode::GroupReady { group: *group, nodes: nodes.clone() });
                }
            }
            GroupOrder::Ended { group, why } => {
                let mut waiting = self.grouped.removing.remove(group).unwrap_or_default();
                self.grouped.made.remove(group);
                waiting.extend(self.grouped.making.remove(group).map(|_| group.process));
                for process in waiting {
                    self.routes.tell(process, &FromNode::GroupEnded { group: *group, why: why.clone() });
                }
            }
            _ => {}
        }
        self.scheduler.handle(self.clock.now(), scheduler::Input::Bundles(order));
    }

    /// A worker in a bundle ends, because the bundle is given back. It is not asked to: actors that end by themselves would
    /// say that they were shut down, and not why.
    pub(crate) fn end_in_group(&mut self, process: ProcessId, group: GroupId, is_over: bool) {
        let cause = if is_over { DeathCause::GroupEnded { group } } else { DeathCause::BundleMoved { group } };
        self.workers.kill(process, cause);
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::NodeId;

    use super::*;

    #[test]
    fn only_so_many_ends_of_groups_are_waited_for() {
        let mut grouped = Grouped::default();
        let process = |number| ProcessId::new(NodeId(1), number);
        let group = |number: usize| GroupId { process: process(1), number: number as u64 };
        assert!((0..REMOVING_MAX).all(|number| grouped.wait_for_end(process(1), group(number))));
        assert!(!grouped.wait_for_end(process(1), group(REMOVING_MAX)), "one more is not noted");
        assert!(grouped.wait_for_end(process(2), group(0)), "somebody waits for that one already");
        assert_eq!(grouped.removing.len(), REMOVING_MAX);
        grouped.removing.remove(&group(0));
        assert!(grouped.wait_for_end(process(1), group(REMOVING_MAX)), "there is room again");
    }
}
