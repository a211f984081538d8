//! Placement groups in a cluster: bundles that are kept on nodes come and go while tasks are sent into them.
//!
//! The world of `groups` has the head that places them; here the world itself says which node keeps what, so that nodes ask
//! one another for places in bundles.

use std::time::Duration;

use mobula_logic::Violation;
use mobula_logic::scheduler::Input;
use mobula_logic::task::TaskSpec;
use mobula_types::{Bundle, BundleStrategy, GroupId, GroupSpec, NodeId, PlacementSpec, ProcessId, Within};
use mobula_wire::groups::GroupOrder;

use super::event::Event;
use super::process::{cpus, gpus};
use super::{Phase, World};

/// A new group is made so often.
const EVERY: Duration = Duration::from_millis(700);
/// Tasks that are sent into a new group.
const TASKS: u64 = 8;

impl World {
    /// Each node keeps a bundle of a new group, or has no room; a driver sends tasks there. What older groups have may move.
    pub(super) fn group(&mut self) -> Result<(), Violation> {
        if self.phase != Phase::Faults {
            return Ok(());
        }
        self.agenda.after(EVERY, Event::Group);
        if self.nodes.is_empty() {
            return Ok(());
        }
        self.shuffle()?;
        let drivers: Vec<ProcessId> =
            self.processes.iter().filter(|(_, life)| life.start.is_none()).map(|(id, _)| *id).collect();
        if drivers.is_empty() {
            return Ok(());
        }
        let process = *self.forger.pick(&drivers);
        let group = GroupId { process, number: self.agenda.now().as_nanos() };
        self.groups.push(group);
        self.saw("group is made");
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        let request = if self.forger.chance(70) { gpus(1.0).request } else { cpus(1.0).request };
        let bundle = Bundle { request, labels: Default::default() };
        let spec = GroupSpec { bundles: vec![bundle; nodes.len()], strategy: BundleStrategy::Spread };
        let job = self.processes[&process].job;
        for (bundle, node) in (0..).zip(nodes) {
            let prepare = GroupOrder::Prepare { group, round: 1, job, spec: spec.clone(), bundles: vec![bundle] };
            self.order(node, prepare)?;
            // Now and then it is said twice, or of a round that never was.
            let round = if self.forger.chance(20) { 2 } else { 1 };
            self.order(node, GroupOrder::Commit { group, round })?;
        }
        let Some(life) = self.processes.get_mut(&process) else { return Ok(()) };
        let shape = life.shapes.len();
        let within = Some(Within { group, bundle: None });
        life.shapes.push(PlacementSpec { within, ..cpus(0.5) });
        (0..TASKS).try_for_each(|_| self.submit_shape(process, shape, TaskSpec::default()))
    }

    /// A bundle goes to another node, which has no room for it, and a group ends.
    fn shuffle(&mut self) -> Result<(), Violation> {
        if self.groups.is_empty() {
            return Ok(());
        }
        let group = *self.forger.pick(&self.groups);
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        if self.forger.chance(50) {
            self.saw("bundles go elsewhere");
            let node = *self.forger.pick(&nodes);
            return self.order(node, GroupOrder::Return { group, bundles: (0..nodes.len() as u32).collect() });
        }
        self.end_group(group)
    }

    /// Nothing of any group is left.
    pub(super) fn end_groups(&mut self) -> Result<(), Violation> {
        self.groups.clone().into_iter().try_for_each(|group| self.end_group(group))
    }

    fn end_group(&mut self, group: GroupId) -> Result<(), Violation> {
        let nodes: Vec<NodeId> = self.nodes.keys().copied().collect();
        nodes.into_iter().try_for_each(|node| self.order(node, GroupOrder::End { group }))
    }

    fn order(&mut self, node: NodeId, order: GroupOrder) -> Result<(), Violation> {
        self.tell_scheduler(node, Input::Bundles(order))
    }
}
