//! A node that is to leave: it takes nothing new, lets what it runs finish or move, and ends (G19).
//!
//! The leases that it has given are recalled. A submitter sends nothing more to such a place and gives it back when what
//! runs there has ended; what has not begun goes back and runs elsewhere. The home of an actor moves it: first those who
//! send it mail settle what they have sent, then it handles that and leaves, then its next life begins on another node.
//! When the last lease is back, no worker still sends the items of a stream, and none is the home of an actor, nothing of
//! others is here any more. A driver keeps its node, for [`FINISH_MAX`], and so does an actor that was spawned by a task:
//! its home is the task's worker, which it cannot leave.

use std::time::Duration;

use mobula_logic::scheduler;
use mobula_types::{ProcessId, StateMachine};
use mobula_wire::cluster::ToHead;
use mobula_wire::local::FromNode;

use super::roster::{Kind, Resident};
use super::state::State;

/// What runs has so long to finish.
const FINISH_MAX: Duration = Duration::from_secs(30);

impl State {
    /// The head tells this node to leave.
    pub(crate) fn drain(&mut self) {
        if self.leaves_at.is_some() {
            return;
        }
        let now = self.clock.now();
        tracing::info!("drained: nothing new is taken");
        self.leaves_at = Some(now + FINISH_MAX);
        self.scheduler.handle(now, scheduler::Input::Drain);
        let workers = self.roster.all().filter(|(_, resident)| matches!(resident.kind, Kind::Worker { .. }));
        for (number, _) in workers {
            self.routes.tell(ProcessId::new(self.node, number), &FromNode::Draining);
        }
        self.tell_head(ToHead::Leaving);
        self.move_detached();
    }

    /// Ends when nothing is left, or when the time is up.
    pub(crate) fn leave_when_empty(&mut self) {
        let Some(at) = self.leaves_at else { return };
        let is_done = |(number, resident): (u32, &Resident)| match resident.kind {
            Kind::Driver => false,
            Kind::Worker { .. } => !resident.is_attached || self.quiet.contains(&ProcessId::new(self.node, number)),
        };
        let is_empty = self.scheduler.leases() == 0 && self.roster.all().all(is_done);
        if (is_empty || at <= self.clock.now()) && !self.is_ending {
            self.is_ending = true;
            self.end_soon();
        }
    }
}
