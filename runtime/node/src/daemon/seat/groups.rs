//! The head's part in placement groups: drives [`Groups`](mobula_logic::groups::Groups), which decides where bundles are
//! reserved, by what nodes say and what has become of them.

use mobula_logic::groups::{Input, Output, Slot};
use mobula_types::state::Listed;
use mobula_types::{GroupEnd, NodeId, NodeLoad, StateMachine};
use mobula_wire::cluster::FromHead;
use mobula_wire::groups::{GroupAsk, GroupOrder};

use super::Seat;
use crate::losses::Loss;

impl Seat {
    /// A node has said that it lives; with its load if that has changed.
    pub(super) fn group_beat(&mut self, node: NodeId, load: Option<NodeLoad>) {
        let input = match load.filter(|_| self.head.machine().membership().lives(node)) {
            Some(load) => Input::Seen { node, load },
            // What waits is tried again with the beats.
            None => Input::Tick,
        };
        self.groups.handle(self.clock.now(), input);
    }

    pub(super) fn group_asked(&mut self, node: NodeId, ask: GroupAsk) {
        // What it says that it keeps would stay reserved on a node that is no more: its death has been heard.
        if !self.head.machine().membership().lives(node) {
            return self.routes.lose(Loss::NodeDead);
        }
        // The end of a job may have crossed what is said of its groups.
        if let GroupAsk::Create { group, job, .. }
        | GroupAsk::Made { group, job, .. }
        | GroupAsk::Held { group, job, .. } = &ask
            && !job.hosts_detached()
            && !self.head.machine().directory().runs(*job)
        {
            let (group, why) = (*group, GroupEnd::JobEnded { job: *job });
            return self.say_later(node, FromHead::Group(GroupOrder::Ended { group, why }));
        }
        let input = match ask {
            GroupAsk::Create { group, job, spec } => Input::Create { group, job, spec },
            GroupAsk::Made { group, job, spec } => Input::Made { group, job, spec },
            GroupAsk::Remove { group } => Input::Remove { group },
            GroupAsk::Prepared { group, round } => Input::Prepared { node, group, round },
            GroupAsk::NotPrepared { group, round, load } => Input::Refused { node, group, round, load },
            GroupAsk::HoldsOnly { groups, ended } => Input::HoldsOnly { node, groups, ended },
            GroupAsk::Held { group, job, spec, bundles } => Input::Held { node, group, job, spec, bundles },
            _ => return,
        };
        self.groups.handle(self.clock.now(), input);
    }

    pub(super) async fn group_says(&mut self, output: Output) -> bool {
        let (node, order) = output.into_order();
        let said = FromHead::Group(order);
        match node {
            Some(node) => self.say(node, said).await,
            None => self.all(said).await,
        }
    }

    /// Every group, as a list shows it.
    pub(super) fn list_groups(&self) -> Vec<Listed> {
        let now = self.clock.now();
        let line = |(id, job, slots): (mobula_types::GroupId, mobula_types::JobId, &[Slot])| {
            let (spec, since) = self.groups.spec(id)?;
            let why = self.groups.why(now, id);
            let nodes: Vec<String> =
                slots.iter().map(|slot| slot.node().map_or_else(|| "-".to_owned(), |node| node.to_string())).collect();
            let is_reserving = slots.iter().any(|slot| matches!(slot, Slot::Asked(_) | Slot::Prepared(_)));
            Some(Listed {
                id: id.to_string(),
                kind: "placement-group".to_owned(),
                name: format!("{} of {} bundles", spec.strategy.word(), spec.bundles.len()),
                job_id: Some(job.to_string()),
                node_id: Some(nodes.join(" ")),
                state: match (&why, is_reserving) {
                    (None, _) => "ready",
                    (Some(_), true) => "reserving",
                    (Some(_), false) => "waiting",
                }
                .to_owned(),
                since_s: now.since(since).as_secs_f64(),
                why,
                ..Listed::default()
            })
        };
        self.groups.all().filter_map(line).collect()
    }
}
