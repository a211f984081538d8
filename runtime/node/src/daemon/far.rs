//! Programs and command lines on other hosts that are attached to this node, over sessions of the mesh.
//!
//! ```text
//! gate: the role may ─► expected ─► connected ─► its program is fetched from it ─► a driver as any other
//!                                     ▲   │
//!                            resumed  │   ▼
//!                                     lost ── for too long, or its host says that it is gone ─► its job ends
//! ```
//!
//! Each has a process number of this node from the beginning, by which the mesh names it. What it says is read by a task
//! of its own, in the order in which it was said; while that task waits for another node that has no room, the program is
//! held back. What a role may ask from afar stands in [`may_ask`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mobula_logic::attachment::{self, Attachment, End};
use mobula_net::{Cause, Frame, Lane, Line, Mesh, Refusal};
use mobula_types::{Death, DeathCause, ProcessId, Role, StateMachine, Time};
use mobula_wire::FrameKind;
use mobula_wire::cluster::{ClusterTalk, RenewalWish, ToHead};
use mobula_wire::frame::{CONTROL_BYTES_MAX, FRAME_HEAD_BYTES};
use mobula_wire::local::{FromNode, RequestId, ToNode, ToolQuestion, Welcome};
use tokio::sync::{mpsc, oneshot};

use super::door::say_greeting;
use super::input::{Answer, DriverCame, Input};
use super::routes::{Forwarded, Routes};
use super::state::{Purpose, State};
use super::workers::programs::{PROGRAM_BYTES_MAX, ProgramHash, ProgramInUse};

/// Processes of other hosts that one node takes: a session holds 16 MiB in flight at most, so that is 4 GiB at worst.
const FARS_MAX: usize = 256;

/// Bytes that one of them has said and that were not acted on, from which on it is held back; from half of it on it may
/// go on. What it has in flight comes on top.
const SAID_BYTES_MAX: usize = 4 << 20;

/// Whether a role may ask this from another host; what is not named is refused. On the node's own host everybody who can
/// use its socket may ask everything.
///
/// | question | viewer | driver | admin |
/// |---|---|---|---|
/// | state, lists, reasons, logs | yes | yes | yes |
/// | run a program that is brought here, how it fares | | yes | yes |
/// | tokens, drain a node, stop a job or an actor | | | yes |
/// | stop this node, run a program of this host | | | |
pub(crate) const fn may_ask(role: Role, question: &ToolQuestion) -> bool {
    match question {
        ToolQuestion::Status | ToolQuestion::List { .. } | ToolQuestion::Why { .. } | ToolQuestion::Logs { .. } => {
            matches!(role, Role::Viewer | Role::Driver | Role::Admin)
        }
        ToolQuestion::SubmitFar { .. } | ToolQuestion::Submission { .. } => role.may_submit(),
        ToolQuestion::TokenCreate { .. }
        | ToolQuestion::TokenList
        | ToolQuestion::TokenRevoke { .. }
        | ToolQuestion::Drain { .. }
        | ToolQuestion::StopJob { .. }
        | ToolQuestion::StopActor { .. } => matches!(role, Role::Admin),
        _ => false,
    }
}

/// Somebody on another host wants to come in; its role may.
#[derive(Debug)]
pub(crate) struct FarCame {
    pub(crate) role: Role,
    pub(crate) visit: Visit,
    /// Its process, and for how long it may resume a lost connection.
    pub(crate) reply: oneshot::Sender<Result<(ProcessId, Duration), Refusal>>,
}

/// What it comes for.
#[derive(Debug)]
pub(crate) enum Visit {
    /// To run a job.
    Driver { name: String, env: BTreeMap<String, String>, namespace: Option<String>, program: ProgramHash },
    /// To ask.
    Tool,
}

/// Those that are attached or come.
pub(crate) type Fars = BTreeMap<ProcessId, Far>;

/// One of them.
pub(crate) struct Far {
    attachment: Attachment,
    role: Role,
    /// What it comes for, until that is begun.
    visit: Option<Visit>,
}

impl Far {
    pub(crate) fn next_timeout(&self) -> Option<Time> {
        self.attachment.next_timeout()
    }
}

impl State {
    /// Gives somebody a number under which it may come.
    pub(crate) fn far_came(&mut self, came: FarCame) {
        let FarCame { role, visit, reply } = came;
        let number = self.far_number();
        let admitted = number.map(|number| {
            let (process, resume_max) = (ProcessId::new(self.node, number), self.config.resume_max);
            let attachment = Attachment::new(self.clock.now(), resume_max);
            self.fars.insert(process, Far { attachment, role, visit: Some(visit) });
            self.routes.between(process);
            (process, resume_max)
        });
        // Who has gone meanwhile is expected in vain, for a while.
        reply.send(admitted).ok();
    }

    fn far_number(&mut self) -> Result<u32, Refusal> {
        if self.leaves_at.is_some() || self.is_ending || self.node.0 == 0 {
            return Err(Refusal::because(Cause::Failed, "this node is leaving: go to another one of the cluster"));
        }
        if self.fars.len() >= FARS_MAX {
            let message = format!("{FARS_MAX} programs of other hosts are attached to this node: go to another one");
            return Err(Refusal::because(Cause::Failed, message));
        }
        let none = || Refusal::because(Cause::Failed, "this node has no process numbers left: start it again");
        self.roster.number().ok_or_else(none)
    }

    /// Something was seen of the connection to one of them.
    pub(crate) fn far_seen(&mut self, process: ProcessId, seen: attachment::Input) {
        let now = self.clock.now();
        match self.fars.get_mut(&process) {
            Some(far) => far.attachment.handle(now, seen),
            // It was given up before it was there: it is told so.
            None if seen == attachment::Input::Connected => self.end_session(process),
            None => {}
        }
        self.perform_far(process);
    }

    pub(crate) fn tick_fars(&mut self, now: Time) {
        let due = self.fars.iter().filter(|(_, far)| far.next_timeout().is_some_and(|at| at <= now));
        for process in due.map(|(process, _)| *process).collect::<Vec<_>>() {
            self.far_seen(process, attachment::Input::Tick);
        }
    }

    fn perform_far(&mut self, process: ProcessId) {
        while let Some(output) = self.fars.get_mut(&process).and_then(|far| far.attachment.poll_output()) {
            match output {
                attachment::Output::Begun => self.far_begun(process),
                attachment::Output::Over(end) => self.far_over(process, end),
            }
        }
    }

    fn far_begun(&mut self, process: ProcessId) {
        match self.fars.get(&process).and_then(|far| far.visit.as_ref()) {
            Some(Visit::Driver { program, .. }) => self.fetch_from_far(*program, process),
            Some(Visit::Tool) => {
                if let Some(line) = self.far_line(process) {
                    let process = self.node.into();
                    say_greeting(&line, &FromNode::Welcome(Welcome { process, ..Welcome::default() }));
                }
            }
            None => {}
        }
    }

    /// The program of those that wait for it is here, or cannot be had from those that were asked.
    pub(crate) fn far_program_came(
        &mut self,
        program: ProgramHash,
        result: &Result<ProgramInUse, String>,
        asked: &[ProcessId],
    ) {
        let waits = |far: &Far| matches!(&far.visit, Some(Visit::Driver { program: of, .. }) if *of == program);
        let waiting: Vec<ProcessId> =
            self.fars.iter().filter(|(_, far)| waits(far)).map(|(process, _)| *process).collect();
        for process in waiting {
            let in_use = match result {
                Ok(_) => self.programs.use_program(program).map_err(|error| error.to_string()),
                Err(why) if asked.contains(&process) => Err(why.clone()),
                Err(_) => {
                    self.fetch_from_far(program, process);
                    continue;
                }
            };
            let (Some(line), Some(far)) = (self.far_line(process), self.fars.get_mut(&process)) else { continue };
            let Some(Visit::Driver { name, env, namespace, .. }) = far.visit.take() else { continue };
            let answer = Answer::OnLine(line.clone());
            match in_use {
                Ok(program) => self.driver_came(DriverCame {
                    name,
                    namespace,
                    env,
                    working_dir: None,
                    pid: None,
                    number: Some(process.number()),
                    worker_token: None,
                    program,
                    line,
                    answer,
                }),
                Err(why) => answer.refuse(why),
            }
        }
    }

    /// Whether a driver that was let in from another host is still expected to be there.
    pub(crate) fn is_far_gone(&self, process: ProcessId, line: &Line) -> bool {
        matches!(line, Line::Session { .. }) && !self.fars.contains_key(&process)
    }

    fn far_over(&mut self, process: ProcessId, end: End) {
        self.fars.remove(&process);
        self.end_session(process);
        self.give_up_fetch_from(process);
        self.luggage_without(process);
        tracing::debug!(%process, ?end, "a process of another host has gone");
        let cause = match end {
            End::Left => DeathCause::JobStopped,
            End::Killed => DeathCause::Disconnected,
            End::Silent { lost } => {
                DeathCause::Silent { silent_ms: u64::try_from(lost.as_millis()).unwrap_or(u64::MAX) }
            }
        };
        match self.roster.get(process).map(|resident| resident.job) {
            Some(job) => self.bury(job, Death::of(process, cause)),
            // It had no job yet.
            None => self.routes.forget(process),
        }
    }

    /// All of them belong to a life of this node that is over; what was said to them last still leaves.
    pub(crate) fn clear_fars(&mut self) {
        for process in std::mem::take(&mut self.fars).into_keys() {
            if let Some(line) = self.far_line(process) {
                line.close("this node was given up by its cluster");
            }
        }
    }

    /// One of them asks as the command line does.
    pub(crate) fn far_asked(&mut self, process: ProcessId, request: RequestId, question: ToolQuestion) {
        let (Some(line), Some(far)) = (self.far_line(process), self.fars.get(&process)) else { return };
        let role = far.role;
        if may_ask(role, &question) {
            return match question {
                ToolQuestion::SubmitFar { name, program, folder, args, env } => {
                    self.submit_far((process, line, request), name, (program, folder), args, env);
                }
                question => self.tool_asked(line, request, question),
            };
        }
        if let Some(mesh) = self.routes.mesh() {
            mesh.refusals().count(Cause::WrongRole);
        }
        let why = match question {
            ToolQuestion::SubmitFar { .. } | ToolQuestion::Submission { .. } => {
                format!("a {role} may not run programs: use a token of `mobula token create --role driver`")
            }
            ToolQuestion::Submit { .. } => "a program is named by its path on the node's own host only".to_owned(),
            ToolQuestion::Stop => "a node is stopped on its own host only: `mobula stop`".to_owned(),
            _ => format!("a {role} may not ask for that: use a token of `mobula token create --role admin`"),
        };
        tracing::warn!(%process, %role, "it asked for what its role may not");
        super::tool::answer(&line, request, Err(why));
    }

    /// One of them wants its next certificate: the head issues it.
    pub(crate) fn far_wants_renewal(&mut self, process: ProcessId, wish: RenewalWish) {
        if self.fars.contains_key(&process) {
            self.ask(Purpose::RenewFar(process, wish.key), |ask| ToHead::RenewFar { ask, wish });
        }
    }

    pub(crate) fn far_renewed(&self, process: ProcessId, key: [u8; 32], certificate: Result<Vec<u8>, String>) {
        // Who has gone meanwhile asks again when it comes back.
        self.routes.tell_peer(process, Lane::Control, &ClusterTalk::RenewIs { key, certificate });
    }

    pub(crate) fn far_line(&self, process: ProcessId) -> Option<Line> {
        self.routes.mesh().map(|mesh| Line::Session { mesh: mesh.clone(), peer: process })
    }

    fn end_session(&self, process: ProcessId) {
        if let Some(mesh) = self.routes.mesh() {
            mesh.end(process);
        }
    }
}

/// Reads what those on other hosts say, each in a task of its own.
pub(crate) struct Readers {
    routes: Arc<Routes>,
    inputs: mpsc::Sender<Input>,
    tasks: HashMap<ProcessId, Reader>,
}

struct Reader {
    said: mpsc::UnboundedSender<Frame>,
    /// What waits in `said`. Its bound is kept by holding the other side back.
    waiting: Arc<AtomicUsize>,
}

impl Readers {
    pub(crate) fn new(routes: Arc<Routes>, inputs: mpsc::Sender<Input>) -> Self {
        Self { routes, inputs, tasks: HashMap::new() }
    }

    /// One of them has said something.
    pub(crate) fn take(&mut self, from: ProcessId, frame: Frame) {
        let Some(mesh) = self.routes.mesh().cloned() else { return };
        let reader = self.tasks.entry(from).or_insert_with(|| {
            let (said, heard) = mpsc::unbounded_channel();
            let waiting = Arc::<AtomicUsize>::default();
            tokio::spawn(read(from, heard, waiting.clone(), self.routes.clone(), self.inputs.clone(), mesh.clone()));
            Reader { said, waiting }
        });
        // Before it is sent: its task takes it off again.
        let bytes = weight(&frame);
        let waiting = reader.waiting.fetch_add(bytes, Ordering::SeqCst) + bytes;
        // A task that has ended has turned its process away.
        if reader.said.send(frame).is_ok() && waiting > SAID_BYTES_MAX {
            mesh.hold_back(from, true);
            // It may have been read meanwhile, by a task that saw nobody held back.
            if reader.waiting.load(Ordering::SeqCst) <= SAID_BYTES_MAX / 2 {
                mesh.hold_back(from, false);
            }
        }
    }

    /// Nothing more comes of it.
    pub(crate) fn forget(&mut self, from: ProcessId) {
        self.tasks.remove(&from);
    }
}

fn weight(frame: &Frame) -> usize {
    frame.body.len() + FRAME_HEAD_BYTES
}

async fn read(
    process: ProcessId,
    mut heard: mpsc::UnboundedReceiver<Frame>,
    waiting: Arc<AtomicUsize>,
    routes: Arc<Routes>,
    inputs: mpsc::Sender<Input>,
    mesh: Mesh,
) {
    while let Some(frame) = heard.recv().await {
        let bytes = weight(&frame);
        let acted = act(process, frame, &routes, &inputs).await;
        let before = waiting.fetch_sub(bytes, Ordering::SeqCst);
        if before > SAID_BYTES_MAX / 2 && before - bytes <= SAID_BYTES_MAX / 2 {
            mesh.hold_back(process, false);
        }
        if let Err(refusal) = acted {
            // What the state knows of it ends with its session.
            return mesh.turn_away(process, &refusal);
        }
    }
}

/// What a frame of one of them is for.
async fn act(process: ProcessId, frame: Frame, routes: &Routes, inputs: &mpsc::Sender<Input>) -> Result<(), Refusal> {
    let unreadable =
        |error| Refusal::because(Cause::Malformed, format!("what process {process} says cannot be read: {error}"));
    let Frame { kind, body } = frame;
    let input = match kind {
        FrameKind::Parcel | FrameKind::Part => match routes.forward_from(process, kind, body).await {
            Forwarded::Done => return Ok(()),
            Forwarded::Dead(death) => {
                routes.tell(process, &FromNode::Died(death));
                return Ok(());
            }
            Forwarded::Wrong => {
                return Err(Refusal::because(Cause::Another, format!("{process} spoke in the name of another")));
            }
        },
        FrameKind::Local => {
            let said = mobula_wire::decode_limited::<ToNode, CONTROL_BYTES_MAX>(&body).map_err(unreadable)?;
            Input::Said { process, said }
        }
        FrameKind::Cluster => {
            match mobula_wire::decode_limited::<ClusterTalk, CONTROL_BYTES_MAX>(&body).map_err(unreadable)? {
                talk @ (ClusterTalk::ProgramPart { .. } | ClusterTalk::RenewAsk(_)) => {
                    Input::Talk { from: process, talk: Box::new(talk) }
                }
                _ => return Err(only_nodes(process)),
            }
        }
        FrameKind::Greeting | FrameKind::Heartbeat => return Err(only_nodes(process)),
    };
    // The node ends when nobody takes it.
    inputs.send(input).await.ok();
    Ok(())
}

fn only_nodes(process: ProcessId) -> Refusal {
    Refusal::because(Cause::WrongRole, format!("process {process} says what only nodes say"))
}

/// Whether a program of this length may be brought here.
pub(crate) fn check_length(bytes: u64) -> Result<(), Refusal> {
    if bytes <= PROGRAM_BYTES_MAX {
        return Ok(());
    }
    let message = format!("the program has {bytes} bytes, at most {PROGRAM_BYTES_MAX} are taken: strip its symbols");
    Err(Refusal::because(Cause::Malformed, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_may_ask_what_its_row_says_and_nothing_else() {
        use ToolQuestion::*;
        let id = || "x".to_owned();
        let looks = [Status, List { kind: id() }, Why { id: id() }, Logs { id: id(), offset: 0 }];
        let changes = [
            TokenCreate { ttl_s: 1, role: id() },
            TokenList,
            TokenRevoke { id: id() },
            Drain { node: mobula_types::NodeId(1) },
            StopJob { job: mobula_types::JobId(1) },
            StopActor { name: mobula_types::ActorName { namespace: Some(id()), name: id() } },
        ];
        let (program, args, working_dir, env) = (id(), Vec::new(), id(), BTreeMap::new());
        let sent = mobula_wire::local::Sent { hash: [7; 32], bytes: 1 };
        let submits = [
            SubmitFar { name: id(), program: sent, folder: None, args: args.clone(), env: env.clone() },
            Submission { process: id() },
        ];
        let never = [Stop, Submit { program, args, working_dir, env }];
        for role in Role::ALL {
            let sees = looks.iter().all(|question| may_ask(role, question));
            assert_eq!(sees, role != Role::Node, "{role}");
            for question in &changes {
                assert_eq!(may_ask(role, question), role == Role::Admin, "{role} {question:?}");
            }
            for question in &submits {
                assert_eq!(may_ask(role, question), role.may_submit(), "{role} {question:?}");
            }
            assert!(never.iter().all(|question| !may_ask(role, question)), "{role}");
        }
    }
}
