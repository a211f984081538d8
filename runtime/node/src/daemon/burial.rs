//! Processes, jobs and nodes end: who must know is told, and what they left is given to others.

use mobula_logic::scheduler;
use mobula_types::{Death, DeathCause, JobId, ProcessId, StateMachine};
use mobula_wire::cluster::{ClusterTalk, ToHead};
use mobula_wire::local::{FromNode, peer_socket};

use super::roster::Kind;
use super::state::{END_GRACE, State};

impl State {
    /// A process's connection is over. A driver's end is the end of its job; a worker that lives on is killed, and its
    /// keeper tells how it died.
    pub(crate) fn gone(&mut self, process: ProcessId, why: &str) {
        let Some(resident) = self.roster.get(process) else { return };
        let job = resident.job;
        tracing::debug!(%process, why, "its connection is over");
        match resident.kind {
            // The node runs it, and hears how it ends.
            Kind::Driver if self.submissions.is_running(process) => {
                self.routes.between(process);
                if let Some(resident) = self.roster.get_mut(process) {
                    resident.is_attached = false;
                }
            }
            // A session on this host is over when its program closes it or ends.
            Kind::Driver => self.bury(job, Death::of(process, DeathCause::JobStopped)),
            Kind::Worker { .. } => {
                self.routes.between(process);
                // It closes its socket when it exits, so it may be ending by itself.
                self.workers.expect_end(process, DeathCause::Disconnected, END_GRACE);
            }
        }
    }

    /// A process of this node has ended.
    pub(crate) fn bury(&mut self, job: JobId, death: Death) {
        let process = death.process;
        let Some(resident) = self.roster.leave(process) else { return };
        let now = self.clock.now();
        // One that was killed leaves the socket at which others reached it.
        std::fs::remove_file(self.config.folder.join(peer_socket(process))).ok();
        match &resident.kind {
            Kind::Worker { start, .. } if !resident.is_attached => {
                let why = death.to_string();
                self.scheduler.handle(now, scheduler::Input::WorkerFailed { start: *start, why });
            }
            _ => self.scheduler.handle(now, scheduler::Input::Died { process }),
        }
        self.routes.bury(&death);
        self.objects_process_died(&death);
        self.hauls.gone(process);
        self.past_counters.add(&resident.counters);
        self.gathers_without(process);
        self.group_maker_died(process);
        self.names_died(&death);
        self.tell_of_death(job, &death);
        self.tell_nodes(&ClusterTalk::Died { job, death: death.clone() });
        self.tell_head(ToHead::ProcessDied { process, cause: death.cause.clone() });
        if matches!(resident.kind, Kind::Driver) {
            let cause = match &death.cause {
                // It was on another host, and the job's records say what became of it.
                cause @ (DeathCause::Disconnected | DeathCause::Silent { .. }) => cause.clone(),
                _ => DeathCause::JobStopped,
            };
            self.end_job(job, &cause);
            self.tell_head(ToHead::JobEnd { job, cause });
        }
    }

    /// Tells the processes here that one has died: those of other jobs may have spoken with it too, but what it wrote is
    /// none of their business.
    pub(crate) fn tell_of_death(&self, job: JobId, death: &Death) {
        let said = FromNode::Died(death.clone());
        let to_others = FromNode::Died(Death { stderr: Vec::new(), ..death.clone() });
        for (number, resident) in self.roster.all().filter(|(_, resident)| resident.is_attached) {
            let said = if resident.job == job { &said } else { &to_others };
            self.routes.tell(ProcessId::new(self.node, number), said);
        }
    }

    /// A job is over: what runs of it here ends.
    pub(crate) fn end_job(&mut self, job: JobId, cause: &DeathCause) {
        if self.roster.has_ended(job) {
            return;
        }
        self.detached_job_ended(job);
        let of_job = self.roster.all().filter(|(_, resident)| resident.job == job);
        let here: Vec<ProcessId> = of_job.map(|(number, _)| ProcessId::new(self.node, number)).collect();
        self.roster.close_job(job);
        self.told_jobs.retain(|(_, told)| *told != job);
        for process in here {
            self.routes.tell(process, &FromNode::Stop { cause: cause.clone() });
        }
        self.workers.end_job(job, cause.clone(), END_GRACE);
        self.scheduler.handle(self.clock.now(), scheduler::Input::JobEnded { job });
    }
}
