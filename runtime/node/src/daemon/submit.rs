//! Programs that a node runs as drivers, because the command line asked for it (`mobula submit`).
//!
//! ```text
//! asked ──head: a job──▶ starting ──▶ running ──its program attaches──▶ its job has a driver ──its process ends──▶ ended
//! ```
//!
//! The job is made before the program runs, so that it has an id from its first line on. The first driver among the
//! program's processes gets it: it knows itself by the secret in its environment, so that a shell around it is no
//! hindrance. The job ends with the program's process, not with its session. This module keeps no output: that is in the
//! logs, as that of workers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use mobula_net::Line;
use mobula_types::state::{OutcomeCounters, SubmissionStatus};
use mobula_types::{Death, DeathCause, JobId, ProcessId};
use mobula_wire::cluster::{JobSetup, ToHead};
use mobula_wire::local::RequestId;

use super::arrivals::secret;
use super::input::DriverCame;
use super::luggage::Luggage;
use super::roster::{Kind, Resident};
use super::state::{Purpose, State};
use super::tool::{answer, json};
use super::workers::SpawnSpec;

/// Programs that have ended and are remembered, so that who follows one learns how; earlier ones are forgotten.
const ENDED_MAX: usize = 1_024;

/// What is to be run.
#[derive(Clone, Debug)]
pub(crate) struct Submit {
    /// How it was called.
    pub(crate) name: String,
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) working_dir: String,
    pub(crate) env: BTreeMap<String, String>,
    /// What was brought from another host for it.
    pub(crate) luggage: Option<Arc<Luggage>>,
}

/// A program that waits for its job.
pub(crate) struct Submitting {
    line: Line,
    request: RequestId,
    number: u32,
    submit: Submit,
}

impl Submitting {
    pub(crate) fn answer(&self, said: Result<String, String>) {
        answer(&self.line, self.request, said);
    }
}

/// The programs of this node. They are as many as there are workers at most; their keeper bounds those.
#[derive(Debug, Default)]
pub(crate) struct Submissions {
    running: BTreeMap<ProcessId, Submission>,
    ended: VecDeque<SubmissionStatus>,
}

#[derive(Debug)]
struct Submission {
    job: JobId,
    /// By which its driver shows that it is the one; taken by the first that does.
    token: Option<String>,
    has_started: bool,
    /// Kept until the program has ended.
    _luggage: Option<Arc<Luggage>>,
}

impl Submissions {
    pub(crate) fn is_running(&self, process: ProcessId) -> bool {
        self.running.contains_key(&process)
    }

    /// The program whose driver shows this secret for the first time.
    pub(crate) fn attach(&mut self, token: Option<&str>) -> Option<ProcessId> {
        let hash = blake3::hash(token?.as_bytes());
        // Compared by hash, in constant time: what differs where says nothing of the secret.
        let is_it = |known: &Option<String>| known.as_ref().is_some_and(|known| blake3::hash(known.as_bytes()) == hash);
        let (process, submission) = self.running.iter_mut().find(|(_, submission)| is_it(&submission.token))?;
        submission.token = None;
        Some(*process)
    }

    pub(crate) fn started(&mut self, process: ProcessId) {
        if let Some(submission) = self.running.get_mut(&process) {
            submission.has_started = true;
        }
    }

    pub(crate) fn ended(&mut self, death: &Death) {
        let Some(submission) = self.running.remove(&death.process) else { return };
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(SubmissionStatus {
            job_id: submission.job.to_string(),
            process_id: death.process.to_string(),
            state: "ended".to_owned(),
            exit_code: Some(exit_code(&death.cause)),
            cause: Some(death.cause.to_string()),
        });
    }

    /// What has become of a program, as the command line gets it.
    pub(crate) fn status(&self, process: &str) -> Result<String, String> {
        let running = self.running.iter().find(|(id, _)| id.to_string() == process);
        let status = running.map(|(id, submission)| SubmissionStatus {
            job_id: submission.job.to_string(),
            process_id: id.to_string(),
            state: if submission.has_started { "running" } else { "starting" }.to_owned(),
            ..SubmissionStatus::default()
        });
        let ended = || self.ended.iter().rev().find(|status| status.process_id == process).cloned();
        status.or_else(ended).map(|status| json(&status)).ok_or_else(|| {
            format!(
                "no program was submitted to this node as {process}, or it ended long ago: see `mobula logs {process}`"
            )
        })
    }
}

/// As a shell would say it.
fn exit_code(cause: &DeathCause) -> i32 {
    /// What a shell says of a program that it could not start.
    const NOT_STARTED: i32 = 127;
    const OF_SIGNALS: i32 = 128;
    const SIGABRT: i32 = 6;
    const SIGKILL: i32 = 9;
    const SIGTERM: i32 = 15;
    match cause {
        DeathCause::Exited { code } => *code,
        DeathCause::Signal { signal } => OF_SIGNALS + signal,
        DeathCause::Aborted | DeathCause::StackOverflow => OF_SIGNALS + SIGABRT,
        DeathCause::OutOfMemory => OF_SIGNALS + SIGKILL,
        DeathCause::NotStarted { .. } => NOT_STARTED,
        DeathCause::JobStopped | DeathCause::Drained => OF_SIGNALS + SIGTERM,
        _ => 1,
    }
}

impl State {
    /// A program is to be run: the head gives its job a number first.
    pub(crate) fn submit(&mut self, line: Line, request: RequestId, submit: Submit) {
        if self.leaves_at.is_some() || self.is_ending {
            return answer(&line, request, Err("this node is leaving: submit to another".to_owned()));
        }
        let Some(number) = self.roster.number() else {
            let why = "this node has no process numbers left: start it again".to_owned();
            return answer(&line, request, Err(why));
        };
        let words = [&submit.name].into_iter().chain(&submit.args).map(String::as_str);
        let setup = JobSetup {
            name: words.collect::<Vec<_>>().join(" "),
            // Not known before its driver comes: the program may be a shell around it.
            program: [0; 32],
            target: None,
            driver: ProcessId::new(self.node, number),
            namespace: None,
            env: BTreeMap::new(),
            working_dir: Some(submit.working_dir.clone()),
            peer_secret: secret(),
        };
        let submitting = Submitting { line, request, number, submit };
        self.ask(Purpose::Submit(Box::new(submitting)), |ask| ToHead::JobStart { ask, setup });
    }

    /// The head has given the job its number, or has not.
    pub(crate) fn submit_started(&mut self, submitting: Submitting, setup: JobSetup, result: Result<JobId, String>) {
        let job = match result {
            Ok(job) => job,
            Err(why) => return submitting.answer(Err(why)),
        };
        let process = ProcessId::new(self.node, submitting.number);
        let token = secret();
        let Submit { program, args, working_dir, mut env, luggage, .. } = submitting.submit.clone();
        let folder = &self.config.folder;
        env.insert("MOBULA_ADDRESS".to_owned(), folder.display().to_string());
        if let Some(base) = folder.parent() {
            env.insert("MOBULA_DIR".to_owned(), base.display().to_string());
        }
        let spec = SpawnSpec {
            process,
            job,
            program: program.into(),
            args: args.into_iter().map(Into::into).collect(),
            env,
            working_dir: Some(working_dir.into()),
            token: token.clone(),
            is_driver: true,
            isolated: false,
            gpus: Vec::new(),
            memory_max: None,
        };
        if let Err(error) = self.workers.spawn(spec) {
            self.tell_head(ToHead::JobEnd { job, cause: DeathCause::NotStarted { message: error.to_string() } });
            return submitting.answer(Err(error.to_string()));
        }
        let (kind, since, counters) = (Kind::Driver, self.clock.now(), OutcomeCounters::default());
        let resident = Resident { kind, job, pid: None, is_attached: false, since, counters };
        self.roster.settle(submitting.number, resident);
        self.routes.between(process);
        self.open_job(job, setup, self.node);
        let submission = Submission { job, token: Some(token), has_started: false, _luggage: luggage };
        self.submissions.running.insert(process, submission);
        submitting.answer(self.submissions.status(&process.to_string()));
    }

    /// The driver of a program that this node runs has come: its job is there already.
    pub(crate) fn submitted_came(&mut self, process: ProcessId, came: DriverCame) {
        let job = self.roster.get(process).map(|resident| resident.job);
        let Some((job, known)) = job.and_then(|job| Some((job, self.roster.job_mut(job)?))) else {
            return came.answer.refuse("its job was stopped before it began".to_owned());
        };
        known.setup.program = came.program.hash().0;
        known.setup.namespace = came.namespace;
        known.setup.env = came.env;
        known.setup.working_dir = came.working_dir;
        let target = came.program.target();
        known.setup.target.clone_from(&target);
        known.program = Some(came.program);
        self.note_target(job, target);
        if let Some(resident) = self.roster.get_mut(process) {
            resident.is_attached = true;
        }
        self.welcome(process, job, &came.line);
        if !came.answer.admit(process) {
            self.gone(process, "it ended while it began");
        }
    }
}

#[cfg(test)]
mod tests {
    use mobula_types::NodeId;

    use super::*;

    fn with_one() -> (Submissions, ProcessId) {
        let process = ProcessId::new(NodeId(1), 4);
        let mut submissions = Submissions::default();
        let submission =
            Submission { job: JobId(2), token: Some("secret".to_owned()), has_started: false, _luggage: None };
        submissions.running.insert(process, submission);
        (submissions, process)
    }

    fn status(submissions: &Submissions) -> SubmissionStatus {
        serde_json::from_str(&submissions.status("1:4").unwrap()).unwrap()
    }

    #[test]
    fn only_the_first_driver_with_the_secret_gets_the_job() {
        let (mut submissions, process) = with_one();
        assert_eq!(submissions.attach(None), None);
        assert_eq!(submissions.attach(Some("secret!")), None);
        assert_eq!(submissions.attach(Some("secret")), Some(process));
        assert_eq!(submissions.attach(Some("secret")), None, "a second session is a job of its own");
        assert!(submissions.is_running(process));
    }

    #[test]
    fn a_program_starts_runs_and_ends() {
        let (mut submissions, process) = with_one();
        assert_eq!(status(&submissions).state, "starting");
        submissions.started(process);
        assert_eq!(status(&submissions).state, "running");
        submissions.ended(&Death::of(process, DeathCause::Exited { code: 3 }));
        let ended = status(&submissions);
        assert_eq!((ended.state.as_str(), ended.exit_code), ("ended", Some(3)));
        assert_eq!((ended.job_id.as_str(), ended.cause.as_deref()), ("job-2", Some("exited with code 3")));
        assert!(!submissions.is_running(process));
        assert!(submissions.status("1:5").unwrap_err().contains("mobula logs 1:5"));
    }

    #[test]
    fn only_the_last_ends_are_remembered() {
        let mut submissions = Submissions::default();
        for number in 1..=u32::try_from(ENDED_MAX).unwrap() + 1 {
            let process = ProcessId::new(NodeId(1), number);
            submissions
                .running
                .insert(process, Submission { job: JobId(1), token: None, has_started: true, _luggage: None });
            submissions.ended(&Death::of(process, DeathCause::Aborted));
        }
        assert_eq!(submissions.ended.len(), ENDED_MAX);
        assert!(submissions.status("1:1").is_err() && submissions.status("1:2").is_ok());
    }

    #[test]
    fn ends_have_the_codes_of_a_shell() {
        for (cause, code) in [
            (DeathCause::Exited { code: 0 }, 0),
            (DeathCause::Signal { signal: 11 }, 139),
            (DeathCause::Aborted, 134),
            (DeathCause::OutOfMemory, 137),
            (DeathCause::JobStopped, 143),
            (DeathCause::NotStarted { message: "gone".to_owned() }, 127),
            (DeathCause::Disconnected, 1),
        ] {
            assert_eq!(exit_code(&cause), code, "{cause}");
        }
    }
}
