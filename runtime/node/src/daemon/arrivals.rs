//! Drivers and workers come: who they are, and what they are told to begin.

use mobula_logic::scheduler;
use mobula_net::Line;
use mobula_types::program::Target;
use mobula_types::state::OutcomeCounters;
use mobula_types::{DeathCause, JobId, NodeId, ProcessId, StateMachine};
use mobula_wire::cluster::{JobSetup, ToHead};
use mobula_wire::local::{FromNode, Welcome};

use super::door::say_greeting;
use super::input::{DriverCame, Reply};
use super::roster::{Kind, Resident};
use super::state::{Purpose, State};

impl State {
    /// A driver wants to begin: the head gives its job a number.
    pub(crate) fn driver_came(&mut self, came: DriverCame) {
        if let Some(process) = self.submissions.attach(came.worker_token.as_deref()) {
            return self.submitted_came(process, came);
        }
        let Some(number) = came.number.or_else(|| self.roster.number()) else {
            return came.answer.refuse("this node has no process numbers left: start it again".to_owned());
        };
        let setup = JobSetup {
            name: came.name.clone(),
            program: came.program.hash().0,
            target: came.program.target(),
            driver: ProcessId::new(self.node, number),
            namespace: came.namespace.clone(),
            env: came.env.clone(),
            working_dir: came.working_dir.clone(),
            peer_secret: secret(),
        };
        self.ask(Purpose::Driver(Box::new(came), number), |ask| ToHead::JobStart { ask, setup });
    }

    /// The head has given a driver's job its number, or has not.
    pub(crate) fn job_started(
        &mut self,
        came: DriverCame,
        number: u32,
        setup: JobSetup,
        result: Result<JobId, String>,
    ) {
        let job = match result {
            Ok(job) => job,
            Err(why) => return came.answer.refuse(why),
        };
        let process = ProcessId::new(self.node, number);
        let now = self.clock.now();
        let (pid, since) = (came.pid, now);
        let counters = OutcomeCounters::default();
        self.roster.settle(number, Resident { kind: Kind::Driver, job, pid, is_attached: true, since, counters });
        self.open_job(job, setup, self.node);
        if let Some(job) = self.roster.job_mut(job) {
            job.program = Some(came.program);
        }
        self.welcome(process, job, &came.line);
        if self.is_far_gone(process, &came.line) || !came.answer.admit(process) {
            self.gone(process, "it ended while it began");
        }
    }

    /// A job is known from now on, and with it which nodes can run its program.
    pub(crate) fn open_job(&mut self, job: JobId, setup: JobSetup, told_by: NodeId) {
        self.note_target(job, setup.target.clone());
        self.roster.open_job(job, setup, told_by);
    }

    pub(crate) fn note_target(&mut self, job: JobId, target: Option<Target>) {
        if !self.roster.has_ended(job) {
            self.scheduler.handle(self.clock.now(), scheduler::Input::Program { job, target });
        }
    }

    /// A process says that it is a worker of this node's.
    pub(crate) fn worker_came(&mut self, token: &str, pid: u32, line: Line, reply: Reply) {
        let Some(number) = self.roster.by_token(token) else {
            reply.send(Err("this node started no such worker".to_owned())).ok();
            return;
        };
        let process = ProcessId::new(self.node, number);
        let Some(resident) = self.roster.get_mut(process) else { return };
        (resident.is_attached, resident.pid) = (true, Some(pid));
        let job = resident.job;
        let start = match &resident.kind {
            Kind::Worker { start, .. } => *start,
            Kind::Driver => return,
        };
        self.welcome(process, job, &line);
        if reply.send(Ok(process)).is_err() {
            return self.workers.kill(process, DeathCause::Disconnected);
        }
        if self.leaves_at.is_some() {
            self.routes.tell(process, &FromNode::Draining);
        }
        self.scheduler.handle(self.clock.now(), scheduler::Input::WorkerStarted { start, process });
    }

    pub(crate) fn welcome(&mut self, process: ProcessId, job: JobId, line: &Line) {
        // Who is on another host reaches nobody here directly, and nobody reaches it.
        let folder = match line {
            Line::Socket(_) => self.config.folder.display().to_string(),
            Line::Session { .. } => String::new(),
        };
        let setup = self.roster.job(job).map(|job| job.setup.clone()).unwrap_or_default();
        let (peer_secret, namespace) = (setup.peer_secret, setup.namespace);
        if matches!(line, Line::Socket(_)) {
            self.arena.admit(process, job, &peer_secret);
        }
        self.objects_attached(process);
        let welcome = Welcome {
            process,
            job,
            namespace,
            resources: self.config.resources.clone(),
            nodes: self.nodes(),
            folder,
            peer_secret,
        };
        say_greeting(line, &FromNode::Welcome(welcome));
        self.routes.connect(process, line.clone());
    }
}

/// 256 bits that nobody can guess, as text.
pub(crate) fn secret() -> String {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the system gives random numbers: the node's key was made of them");
    blake3::Hash::from_bytes(bytes).to_hex().to_string()
}
