//! Other nodes: what is said to them, and what they say.

use mobula_logic::scheduler::{self, RequestKey, Wanted};
use mobula_net::{Lane, Line};
use mobula_types::{JobId, NodeId, ProcessId, StateMachine};
use mobula_wire::cluster::ClusterTalk;
use mobula_wire::local::{FromNode, RequestId};

use super::detached::Start;
use super::gather::Want;
use super::state::State;

impl State {
    /// Says something to another node.
    pub(crate) fn tell_node(&self, node: NodeId, said: &ClusterTalk) {
        self.routes.tell_peer(node, lane(said), said);
    }

    /// Says something to all other nodes.
    pub(crate) fn tell_nodes(&self, said: &ClusterTalk) {
        self.others().into_iter().for_each(|node| self.tell_node(node, said));
    }

    /// The living nodes beside this one.
    pub(crate) fn others(&self) -> Vec<NodeId> {
        self.cluster.view.members().map(|member| member.node).filter(|node| *node != self.node).collect()
    }

    /// How many nodes there are.
    pub(crate) fn nodes(&self) -> u32 {
        u32::try_from(self.others().len()).unwrap_or(u32::MAX).saturating_add(1)
    }

    /// Tells another node what a job is, once.
    pub(crate) fn tell_job(&mut self, node: NodeId, job: JobId) {
        if !self.told_jobs.insert((node, job)) {
            return;
        }
        if let Some(setup) = self.roster.job(job).map(|job| job.setup.clone()) {
            self.tell_node(node, &ClusterTalk::Job { job, setup });
        }
    }

    /// Another node says something.
    pub(crate) fn talk(&mut self, from: ProcessId, talk: ClusterTalk) {
        let node = from.node();
        let now = self.clock.now();
        match talk {
            ClusterTalk::Job { job, setup } => self.open_job(job, setup, node),
            ClusterTalk::Lease { holder, number, job, spec, avoid, lives_on, waits } if holder.node() == node => {
                let request = RequestKey { holder, number };
                if self.roster.has_ended(job) {
                    let (load, why) = (self.scheduler.load(), format!("{job} has ended"));
                    let said = ClusterTalk::NoPlace { holder, number, load, why, worker_failed: false };
                    return self.tell_node(node, &said);
                }
                let wanted = Wanted { request, job, spec, avoid, lives_on, waits };
                self.scheduler.handle(now, scheduler::Input::Asked(wanted));
            }
            ClusterTalk::Granted { holder, number, lease, process } if holder.node() == self.node => {
                let request = RequestKey { holder, number };
                self.scheduler.handle(now, scheduler::Input::PeerGranted { node, request, lease, process });
            }
            ClusterTalk::NoPlace { holder, number, load, why, worker_failed } if holder.node() == self.node => {
                let (request, load) = (RequestKey { holder, number }, Some(load));
                let said = scheduler::Input::PeerRefused { node, request, load, why, worker_failed };
                self.scheduler.handle(now, said);
            }
            ClusterTalk::TakeBack { holder, number } if holder.node() == node => {
                let request = RequestKey { holder, number };
                self.scheduler.handle(now, scheduler::Input::TakenBack { request });
            }
            ClusterTalk::Return { lease } => self.scheduler.handle(now, scheduler::Input::Returned { lease }),
            ClusterTalk::Recalled { holder, lease }
                if holder.node() == self.node && scheduler::granting_node(lease) == node =>
            {
                self.routes.tell(holder, &FromNode::Recalled { lease });
            }
            ClusterTalk::Died { job, death } if death.process.node() == node => {
                self.routes.bury(&death);
                let process = death.process;
                self.scheduler.handle(now, scheduler::Input::Died { process });
                self.objects_process_died(&death);
                self.tell_of_death(job, &death);
            }
            said @ (ClusterTalk::Objects(_)
            | ClusterTalk::ObjectBytes { .. }
            | ClusterTalk::CopyAsked { .. }
            | ClusterTalk::CopyIs { .. }
            | ClusterTalk::ObjectsSent { .. }
            | ClusterTalk::ObjectsDropped { .. }) => self.node_said_of_objects(node, said),
            ClusterTalk::Undelivered { from, death } if from.node() == self.node => {
                self.routes.tell(from, &FromNode::Died(death));
            }
            ClusterTalk::ProgramAsk { program, offset } => self.program_asked(node, program, offset),
            ClusterTalk::ProgramPart { program, total_bytes, offset, bytes } => {
                self.program_part(from, program, total_bytes, offset, bytes);
            }
            ClusterTalk::RenewAsk(wish) => self.far_wants_renewal(from, wish),
            ClusterTalk::StartDetached { key, actor, incarnation, job, frame, isolated }
                if node == self.cluster.head_node =>
            {
                self.start_detached(Start { key, actor, incarnation, job, frame, isolated });
            }
            ClusterTalk::LeaveDetached { actor, incarnation } => self.leave_detached(actor, incarnation),
            ClusterTalk::ListAsk { ask, only, objects } => self.gather(Want::Node { node, ask, only, objects }),
            ClusterTalk::Listing { ask, items, has_more, counters } => {
                self.node_listed(node, ask, items, counters, has_more);
            }
            ClusterTalk::Output { job, process, is_stderr, lines } if process.node() == node => {
                if let Some(driver) = self.roster.job(job).map(|job| job.setup.driver) {
                    self.routes.tell(driver, &FromNode::Output { process, is_stderr, lines });
                }
            }
            ClusterTalk::LogsAsk { ask, id, offset } => self.logs_of_here(node, ask, id, offset),
            ClusterTalk::LogsAre { ask, answer } => {
                if let Some((line, request)) = self.logs_asked.remove(&ask) {
                    super::tool::answer(&line, request, answer);
                }
            }
            _ => tracing::debug!(%from, "another node said what this one does not act on"),
        }
    }

    /// Asks another node for what one of its processes wrote.
    pub(crate) fn ask_logs_of(&mut self, node: NodeId, line: Line, request: RequestId, id: String, offset: u64) {
        if self.cluster.view.member(node).is_none() {
            let why = format!("{node} is not alive: its logs are in its folder on its host");
            return super::tool::answer(&line, request, Err(why));
        }
        if self.logs_asked.len() >= LOGS_ASKED_MAX {
            self.logs_asked.pop_first();
        }
        self.logs_count += 1;
        let ask = self.logs_count;
        self.logs_asked.insert(ask, (line, request));
        self.tell_node(node, &ClusterTalk::LogsAsk { ask, id, offset });
    }

    fn logs_of_here(&self, node: NodeId, ask: u64, id: String, offset: u64) {
        let (logs, routes) = (self.workers.logs().clone(), self.routes.clone());
        tokio::task::spawn_blocking(move || {
            let answer = super::tool::read_log(&logs, &id, offset);
            routes.tell_peer(node, Lane::Control, &ClusterTalk::LogsAre { ask, answer });
        });
    }
}

/// Logs that were asked of other nodes and have not come: whoever asked gives up by itself.
const LOGS_ASKED_MAX: usize = 256;

/// Deaths go behind the last words of the dead, and so does what may be long; all else is never behind calls.
const fn lane(said: &ClusterTalk) -> Lane {
    match said {
        ClusterTalk::Died { .. }
        | ClusterTalk::Objects(_)
        | ClusterTalk::ObjectBytes { .. }
        | ClusterTalk::ObjectsSent { .. }
        | ClusterTalk::ObjectsDropped { .. } => Lane::Calls,
        _ => Lane::Control,
    }
}
