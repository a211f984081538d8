//! A node that is to leave: it takes nothing new, lets what it runs finish, and ends (G19).

use std::time::Duration;

use mobula_logic::scheduler;
use mobula_types::StateMachine;
use mobula_wire::cluster::ToHead;

use super::roster::Kind;
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
        self.tell_head(ToHead::Leaving);
    }

    /// Ends when nothing is left, or when the time is up.
    pub(crate) fn leave_when_empty(&mut self) {
        let Some(at) = self.leaves_at else { return };
        let has_driver = self.roster.all().any(|(_, resident)| matches!(resident.kind, Kind::Driver));
        let is_empty = !has_driver && self.scheduler.leases() == 0;
        if (is_empty || at <= self.clock.now()) && !self.is_ending {
            self.is_ending = true;
            self.end_soon();
        }
    }
}
