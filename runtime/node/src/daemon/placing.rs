//! What the scheduler asks for is done here: workers start and end, grants go out, other nodes are asked.

use mobula_logic::scheduler::{self, Output, RequestKey, StartId, Wanted};
use mobula_types::state::OutcomeCounters;
use mobula_types::{DeathCause, JobId, ProcessId, StateMachine};
use mobula_wire::cluster::{ClusterTalk, ToHead};
use mobula_wire::groups::GroupAsk;
use mobula_wire::local::FromNode;

use super::arrivals::secret;
use super::roster::{Kind, Resident, Start};
use super::state::{END_GRACE, State};
use super::workers::SpawnSpec;

impl State {
    /// Does all that the scheduler has asked for.
    pub(crate) fn perform(&mut self) {
        while let Some(output) = self.scheduler.poll_output() {
            match output {
                Output::StartWorker { start, job, isolated, gpus } => {
                    self.start_worker(job, Start { start, isolated, gpus });
                }
                Output::EndWorker { process } => {
                    self.routes.tell(process, &FromNode::Stop { cause: DeathCause::JobStopped });
                    self.workers.expect_end(process, DeathCause::JobStopped, END_GRACE);
                }
                Output::EndInGroup { process, group, is_over } => self.end_in_group(process, group, is_over),
                Output::Prepared { group, round } => {
                    self.tell_head(ToHead::Group(GroupAsk::Prepared { group, round }));
                }
                Output::NotPrepared { group, round } => {
                    let load = self.scheduler.load();
                    self.tell_head(ToHead::Group(GroupAsk::NotPrepared { group, round, load }));
                    self.load_was_told();
                }
                Output::Capacity { process, resources } => {
                    self.routes.tell(process, &FromNode::Capacity(resources));
                }
                Output::Grant { request: RequestKey { holder, number }, lease, process } => {
                    if holder == self.node.into() {
                        self.detached_granted(number, lease, process);
                    } else if holder.node() == self.node {
                        self.routes.tell(holder, &FromNode::Granted { request: number, lease, process });
                    } else {
                        self.tell_node(holder.node(), &ClusterTalk::Granted { holder, number, lease, process });
                    }
                }
                // Its detached actors leave by themselves.
                Output::Recall { holder, .. } if holder == self.node.into() => {}
                Output::Recall { holder, lease } if holder.node() == self.node => {
                    self.routes.tell(holder, &FromNode::Recalled { lease });
                }
                Output::Recall { holder, lease } => {
                    self.tell_node(holder.node(), &ClusterTalk::Recalled { holder, lease });
                }
                Output::Refuse { request: RequestKey { holder, number }, why } => {
                    if holder == self.node.into() {
                        tracing::warn!(%why, "a detached actor finds no place here");
                        self.detached_refused(number);
                    } else if holder.node() == self.node {
                        let for_ever = why.is_for_ever();
                        let said = FromNode::NoPlace { request: number, missing: why.to_string(), for_ever };
                        self.routes.tell(holder, &said);
                    } else {
                        let worker_failed = matches!(why, scheduler::Refusal::WorkerFailed { .. });
                        let (load, why) = (self.scheduler.load(), why.to_string());
                        let said = ClusterTalk::NoPlace { holder, number, load, why, worker_failed };
                        self.tell_node(holder.node(), &said);
                    }
                }
                Output::AskPeer { node, wanted } => {
                    let Wanted { request: RequestKey { holder, number }, job, spec, avoid, lives_on, waits } = wanted;
                    self.tell_job(node, job);
                    let said = ClusterTalk::Lease { holder, number, job, spec, avoid, lives_on, waits };
                    self.tell_node(node, &said);
                }
                Output::TakeBackFromPeer { node, request: RequestKey { holder, number } } => {
                    self.tell_node(node, &ClusterTalk::TakeBack { holder, number });
                }
                Output::ReturnToPeer { node, lease } => self.tell_node(node, &ClusterTalk::Return { lease }),
            }
        }
    }

    fn start_worker(&mut self, job: JobId, start: Start) {
        let Some(known) = self.roster.job_mut(job) else {
            return self.not_started(start.start, format!("{job} is not known here"));
        };
        if known.program.is_none() {
            known.starts.push(start);
            return self.fetch_program(job);
        }
        self.spawn(job, start);
    }

    /// Starts a worker whose program is here.
    pub(crate) fn spawn(&mut self, job: JobId, Start { start, isolated, gpus }: Start) {
        let Some(known) = self.roster.job(job) else { return };
        let Some(program) = &known.program else { return };
        let (program, env) = (program.path(), known.setup.env.clone());
        let working_dir = known.setup.working_dir.as_ref().map(Into::into);
        let Some(number) = self.roster.number() else {
            return self.not_started(start, "this node has no process numbers left: start it again".to_owned());
        };
        let process = ProcessId::new(self.node, number);
        let token = secret();
        let args = Vec::new();
        let spec = SpawnSpec {
            process,
            job,
            program,
            args,
            env,
            working_dir,
            token: token.clone(),
            is_driver: false,
            isolated,
            gpus,
            memory_max: None,
        };
        match self.workers.spawn(spec) {
            Ok(()) => {
                let kind = Kind::Worker { start, token };
                let (pid, is_attached, since) = (None, false, self.clock.now());
                let counters = OutcomeCounters::default();
                self.roster.settle(number, Resident { kind, job, pid, is_attached, since, counters });
                self.routes.between(process);
            }
            Err(error) => self.not_started(start, error.to_string()),
        }
    }

    pub(crate) fn not_started(&mut self, start: StartId, why: String) {
        self.scheduler.handle(self.clock.now(), scheduler::Input::WorkerFailed { start, why });
    }
}
