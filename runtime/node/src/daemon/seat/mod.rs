//! The head's part of a node: one task that drives the machines of membership and directory.
//!
//! ```text
//! nodes, doors ──ToSeat──► batch ──► machines ──► changes ──► store ──► words ──► nodes, doors
//! ```
//!
//! What waits is taken as one batch, what it changes is written at once, and only then anything of it is said (G12): so
//! nothing that was heard is ever forgotten, and many requests share one write.
//!
//! | file | holds |
//! |---|---|
//! | `state` | the cluster as records for the command line |
//! | `keep` | where changes are written |

mod keep;
mod state;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mobula_logic::Calendar;
use mobula_logic::directory::{self, Claim, Directory};
use mobula_logic::membership::{self, Membership};
use mobula_logic::record::{Change, JobSpec, RecordKey, TokenId};
use mobula_net::authority::PublicKey;
use mobula_net::token::{SecretHash, Token};
use mobula_net::{Authority, Cause, Issued, Lane, Refusal};
use mobula_types::{
    BeatAnswer, DeathCause, HeadId, Held, JobId, MemberId, NodeId, ProcessId, Registration, Role, StateMachine,
    ViewChange,
};
use mobula_wire::FrameKind;
use mobula_wire::cluster::{Admission, AskId, ClusterTalk, FromHead, HeadAnswer, HeadQuestion, ToHead};
use tokio::sync::{mpsc, oneshot};

use super::input::Input;
use super::routes::Routes;
use super::state::Clock;

pub(crate) use keep::Keep;

/// What was said to the head and has not been acted on. Beyond it nodes wait, which is what QUIC's windows are for.
pub(crate) const SEAT_MAX: usize = 16_384;

/// Words acted on before their changes are written: enough that a write of some milliseconds serves them all.
const BATCH_MAX: usize = 1_024;

/// Requests that wait for a machine's answer; the next is not heard, and its asker says it again or gives up.
const ASKS_MAX: usize = 1 << 16;

/// What is said to the head.
#[derive(Debug)]
pub(crate) enum ToSeat {
    /// A node says something.
    Said { from: NodeId, said: ToHead },
    /// A node comes.
    Register { registration: Registration, reply: oneshot::Sender<Result<Admission, membership::Refusal>> },
    /// Somebody shows a token, to be given a certificate.
    Redeem {
        id: TokenId,
        hash: SecretHash,
        role: Role,
        key: PublicKey,
        reply: oneshot::Sender<Result<Issued, Refusal>>,
    },
    /// The mesh has not heard of a node.
    Silent { node: NodeId, silent: Duration, refused: bool },
}

/// Whose answer a machine's answer is.
enum Asked {
    Register {
        held: Vec<Held>,
        processes: Vec<ProcessId>,
        reply: oneshot::Sender<Result<Admission, membership::Refusal>>,
    },
    Node {
        node: NodeId,
        ask: AskId,
    },
    TokenCreate {
        node: NodeId,
        ask: AskId,
        token: Box<Token>,
    },
    Redeem {
        role: Role,
        key: PublicKey,
        reply: oneshot::Sender<Result<Issued, Refusal>>,
    },
}

/// What is said when the changes are written.
enum Word {
    To(NodeId, FromHead),
    All(FromHead),
    Admitted(oneshot::Sender<Result<Admission, membership::Refusal>>, Box<Result<Admission, membership::Refusal>>),
    Issued(oneshot::Sender<Result<Issued, Refusal>>, Result<Issued, Refusal>),
}

/// The head.
pub(crate) struct Seat {
    clock: Clock,
    head: HeadId,
    /// Whose certificate the head's own node has.
    member: MemberId,
    own: NodeId,
    authority: Arc<Authority>,
    membership: Membership,
    directory: Directory,
    keep: Keep,
    routes: Arc<Routes>,
    inputs: mpsc::Sender<Input>,
    asks: BTreeMap<u64, Asked>,
    asked: u64,
    words: Vec<Word>,
    changes: Vec<Change>,
}

impl Seat {
    pub(crate) fn new(
        keep: Keep,
        clock: Clock,
        member: MemberId,
        authority: Arc<Authority>,
        routes: Arc<Routes>,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let head = keep.head();
        let now = clock.now();
        let unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let calendar = Calendar::new(now, u64::try_from(unix_ms).unwrap_or(u64::MAX));
        let (membership, directory) = keep.restore(calendar, now);
        Self {
            clock,
            head,
            member,
            own: NodeId(0),
            authority,
            membership,
            directory,
            keep,
            routes,
            inputs,
            asks: BTreeMap::new(),
            asked: 0,
            words: Vec::new(),
            changes: Vec::new(),
        }
    }

    pub(crate) async fn run(mut self, mut heard: mpsc::Receiver<ToSeat>) {
        loop {
            let due = [self.membership.next_timeout(), self.directory.next_timeout()].into_iter().flatten().min();
            let due = due.map(|at| self.clock.instant(at));
            tokio::select! {
                said = heard.recv() => match said {
                    Some(said) => self.handle(said),
                    None => return,
                },
                () = super::state::until(due) => self.tick(),
            }
            for _ in 1..BATCH_MAX {
                match heard.try_recv() {
                    Ok(said) => self.handle(said),
                    Err(_) => break,
                }
            }
            if !self.settle().await {
                return;
            }
        }
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        self.membership.handle(now, membership::Input::Tick);
        self.directory.handle(now, directory::Input::Tick);
    }

    /// Performs what the machines ask for: changes first, then words. False when the node has ended.
    async fn settle(&mut self) -> bool {
        loop {
            self.collect();
            let changes = std::mem::take(&mut self.changes);
            if changes.is_empty() {
                break;
            }
            let kept: Vec<(NodeId, bool)> = changes.iter().filter_map(kept).collect();
            if let Err(error) = self.keep.write(changes).await {
                // What is not written is not said: askers ask again. A full disk ends by itself, or by a person.
                tracing::error!(%error, "the control store cannot be written");
                self.words.clear();
                return true;
            }
            let now = self.clock.now();
            for (node, is_dead) in kept {
                self.membership.handle(now, membership::Input::Kept { node, is_dead });
            }
        }
        for word in std::mem::take(&mut self.words) {
            match word {
                Word::To(node, said) => {
                    if !self.say(node, said).await {
                        return false;
                    }
                }
                Word::All(said) => {
                    let nodes: Vec<NodeId> = self.living();
                    for node in nodes {
                        if !self.say(node, said.clone()).await {
                            return false;
                        }
                    }
                }
                // Who has gone meanwhile asks again.
                Word::Admitted(reply, result) => drop(reply.send(*result)),
                Word::Issued(reply, result) => drop(reply.send(result)),
            }
        }
        true
    }

    fn living(&self) -> Vec<NodeId> {
        self.membership.nodes().map(|known| known.node).filter(|node| self.membership.lives(*node)).collect()
    }

    async fn say(&self, node: NodeId, said: FromHead) -> bool {
        let head = self.head;
        if node == self.own {
            return self.inputs.send(Input::FromHead { head, said }).await.is_ok();
        }
        let talk = ClusterTalk::FromHead { head, said };
        if let (Some(mesh), Ok(body)) = (self.routes.mesh(), mobula_wire::encode(&talk)) {
            // A node that is gone registers again, and asks again.
            mesh.send(node.into(), Lane::Control, FrameKind::Cluster, body.into()).ok();
        }
        true
    }

    fn ask(&mut self, asked: Asked) -> Option<u64> {
        if self.asks.len() >= ASKS_MAX {
            return None;
        }
        self.asked += 1;
        self.asks.insert(self.asked, asked);
        Some(self.asked)
    }

    fn handle(&mut self, said: ToSeat) {
        let now = self.clock.now();
        match said {
            ToSeat::Said { from, said } => self.handle_said(from, said),
            ToSeat::Register { registration, reply } => {
                let (held, processes) = (registration.held.clone(), registration.processes.clone());
                if let Some(ask) = self.ask(Asked::Register { held, processes, reply }) {
                    self.membership.handle(now, membership::Input::Register { ask, registration });
                }
            }
            ToSeat::Redeem { id, hash, role, key, reply } => {
                if let Some(ask) = self.ask(Asked::Redeem { role, key, reply }) {
                    self.directory.handle(now, directory::Input::TokenUse { ask, id, hash: hash.0, by: key });
                }
            }
            ToSeat::Silent { node, silent, refused } => {
                self.membership.handle(now, membership::Input::Silent { node, silent, refused });
            }
        }
    }

    fn handle_said(&mut self, node: NodeId, said: ToHead) {
        use directory::Input;
        let now = self.clock.now();
        let ask_of = |seat: &mut Self, ask: AskId| seat.ask(Asked::Node { node, ask });
        let input = match said {
            ToHead::Beat(beat) => {
                // The lease first: the answer names its term.
                self.directory.handle(now, Input::Renew { node });
                return self.membership.handle(now, membership::Input::Heartbeat { node, beat });
            }
            ToHead::Leaving => return self.membership.handle(now, membership::Input::Leaving { node }),
            ToHead::Drained => {
                self.directory.handle(now, Input::NodeStopped { node });
                return self.membership.handle(now, membership::Input::Drained { node });
            }
            ToHead::JobStart { ask, setup } => {
                let Some(ask) = ask_of(self, ask) else { return };
                let (name, program, driver) = (setup.name.clone(), setup.program, setup.driver);
                let setup = mobula_wire::encode(&setup).unwrap_or_default();
                Input::JobStart { ask, spec: JobSpec { name, program, driver, setup } }
            }
            ToHead::JobEnd { job, cause } => Input::JobEnd { job, cause },
            ToHead::ProcessDied { process, cause } if process.node() == node => Input::ProcessDied { process, cause },
            ToHead::Claim { ask, key, actor, incarnation, job } => {
                let Some(ask) = ask_of(self, ask) else { return };
                Input::Claim { ask, node, claim: Claim { key, actor, incarnation, job, detached: None } }
            }
            ToHead::Release { key, actor } => Input::Release { key, actor },
            ToHead::Stopped { key, fencing } => Input::Stopped { node, key, fencing, culprit: false },
            ToHead::LookUp { ask, key } => {
                let Some(ask) = ask_of(self, ask) else { return };
                Input::LookUp { ask, key }
            }
            ToHead::Put { ask, job, key, value } => {
                let Some(ask) = ask_of(self, ask) else { return };
                Input::Put { ask, job, key, value }
            }
            ToHead::Get { ask, job, key } => {
                let Some(ask) = ask_of(self, ask) else { return };
                Input::Get { ask, job, key }
            }
            ToHead::Tool { ask, question } => return self.handle_tool(node, ask, question),
            ToHead::Renew { ask, key } => return self.renew(node, ask, &key),
            _ => return,
        };
        self.directory.handle(now, input);
    }

    fn handle_tool(&mut self, node: NodeId, ask: AskId, question: HeadQuestion) {
        let now = self.clock.now();
        let answer = match question {
            HeadQuestion::Status => {
                let status = self.status();
                return self.words.push(Word::To(node, FromHead::Status { ask, status }));
            }
            HeadQuestion::Jobs => Ok(HeadAnswer::Jobs(self.jobs())),
            HeadQuestion::TokenList => Ok(HeadAnswer::Tokens(self.tokens())),
            HeadQuestion::TokenCreate { ttl_s, role } => match Token::new(self.authority.pin()) {
                Ok(token) => {
                    let (id, hash) = (TokenId(token.id.0), token.secret.hash().0);
                    let Some(ask) = self.ask(Asked::TokenCreate { node, ask, token: Box::new(token) }) else { return };
                    let ttl = ttl_s.map(Duration::from_secs);
                    return self.directory.handle(now, directory::Input::TokenCreate { ask, id, hash, role, ttl });
                }
                Err(error) => Err(format!("the system gives no random numbers: {error}")),
            },
            HeadQuestion::TokenRevoke { id } => match id.parse::<mobula_net::token::TokenId>() {
                Ok(id) => {
                    let Some(ask) = self.ask(Asked::Node { node, ask }) else { return };
                    return self.directory.handle(now, directory::Input::TokenRevoke { ask, id: TokenId(id.0) });
                }
                Err(error) => Err(format!("{id} is no token's id: {error}")),
            },
            HeadQuestion::Drain { node: which } => {
                let Some(ask) = self.ask(Asked::Node { node, ask }) else { return };
                return self.membership.handle(now, membership::Input::Drain { ask, node: which });
            }
            HeadQuestion::StopJob { job } => match self.directory.job(job) {
                Some(record) if record.ended.is_none() => {
                    self.directory.handle(now, directory::Input::JobEnd { job, cause: DeathCause::JobStopped });
                    Ok(HeadAnswer::Done)
                }
                Some(_) => Err(format!("{job} has ended already")),
                None => Err(format!("there is no {job}: see `mobula list jobs`")),
            },
            _ => Err("this head does not know the question: run one version of mobula on all nodes".to_owned()),
        };
        self.words.push(Word::To(node, FromHead::Answer { ask, answer }));
    }

    /// A new certificate for a node that has one.
    fn renew(&mut self, node: NodeId, ask: AskId, key: &PublicKey) {
        let Some(member) = self.membership.nodes().find(|known| known.node == node).map(|known| known.member) else {
            return;
        };
        let issued = self.authority.issue(member, Role::Node, key, SystemTime::now());
        let certificate = issued.map(|issued| issued.to_vec()).map_err(|error| error.to_string());
        self.words.push(Word::To(node, FromHead::Renewed { ask, certificate }));
    }

    /// Takes all that the machines ask for.
    fn collect(&mut self) {
        loop {
            let mut is_done = true;
            while let Some(output) = self.membership.poll_output() {
                is_done = false;
                self.member_says(output);
            }
            while let Some(output) = self.directory.poll_output() {
                is_done = false;
                self.directory_says(output);
            }
            if is_done {
                return;
            }
        }
    }

    fn member_says(&mut self, output: membership::Output) {
        use membership::Output;
        let now = self.clock.now();
        match output {
            Output::Keep(change) => self.changes.push(change),
            Output::Admit { ask, node, incarnation, stopped, view } => {
                let Some(Asked::Register { held, processes, reply }) = self.asks.remove(&ask) else { return };
                if self.membership.nodes().any(|known| known.node == node && known.member == self.member) {
                    self.own = node;
                }
                if let Some(stopped) = stopped {
                    self.directory.handle(now, directory::Input::NodeStopped { node: stopped });
                }
                self.directory.handle(now, directory::Input::NodeUp { node, held, processes });
                let admission = self.admission(node, incarnation, view);
                self.words.push(Word::Admitted(reply, Box::new(Ok(admission))));
            }
            Output::Refuse { ask, why } => {
                if let Some(Asked::Register { reply, .. }) = self.asks.remove(&ask) {
                    self.words.push(Word::Admitted(reply, Box::new(Err(why))));
                }
            }
            Output::Spread { node, beat, change } => {
                let term = self.directory.term(node).unwrap_or_default();
                let answer = BeatAnswer { number: beat, term, change };
                self.words.push(Word::To(node, FromHead::Beat(answer)));
            }
            Output::Fence { node } => self.words.push(Word::To(node, FromHead::Fenced)),
            Output::DeclareDead { death } => {
                let (node, cause) = (death.process.node(), death.cause.clone());
                self.directory.handle(now, directory::Input::NodeDied { node, cause });
                self.words.push(Word::All(FromHead::Died(death)));
            }
            Output::Drain { node } => self.words.push(Word::To(node, FromHead::Drain)),
            Output::DrainAnswered { ask, is_known } => {
                let done = is_known.then_some(HeadAnswer::Done);
                let done = done.ok_or_else(|| "no such node is alive: see `mobula status`".to_owned());
                self.answer(ask, |ask| FromHead::Answer { ask, answer: done });
            }
        }
    }

    fn admission(&self, node: NodeId, incarnation: mobula_types::Incarnation, view: ViewChange) -> Admission {
        let ended = self.directory.jobs().filter(|record| record.ended.is_some());
        let ended_jobs: Vec<JobId> = ended.map(|record| record.job).collect();
        let term = self.directory.term(node).unwrap_or_default();
        Admission { head: self.head, head_node: self.own, node, incarnation, term, view, ended_jobs }
    }

    fn directory_says(&mut self, output: directory::Output) {
        use directory::Output;
        match output {
            Output::Keep(change) => self.changes.push(change),
            Output::Claimed { ask, result, .. } => {
                let result = result.map(|grant| (grant.owner, grant.fencing, grant.term));
                let result = result.map_err(|why| why.to_string());
                self.answer(ask, |ask| FromHead::Claimed { ask, result });
            }
            Output::Found { ask, grant, .. } => {
                let owner = grant.map(|grant| grant.owner);
                self.answer(ask, |ask| FromHead::Found { ask, owner });
            }
            Output::Revoke { node, key, fencing } => {
                self.words.push(Word::To(node, FromHead::Revoke { key, fencing }));
            }
            Output::Restart { key, .. } => tracing::warn!(%key, "detached actors are not restarted by this version"),
            Output::JobStarted { ask, result } => {
                let result = result.map_err(|why| why.to_string());
                self.answer(ask, |ask| FromHead::JobStarted { ask, result });
            }
            Output::JobEnded { job, cause } => self.words.push(Word::All(FromHead::JobEnded { job, cause })),
            Output::Value { ask, result, .. } => {
                let result = result.map_err(|why| why.to_string());
                self.answer(ask, |ask| FromHead::Value { ask, result });
            }
            Output::Token { ask, result, .. } => self.token_says(ask, result),
        }
    }

    fn token_says(&mut self, ask: u64, result: Result<Role, directory::TokenRefusal>) {
        match self.asks.remove(&ask) {
            Some(Asked::TokenCreate { node, ask, token }) => {
                let answer = result.map(|_| HeadAnswer::Token(token.to_string())).map_err(|why| why.to_string());
                self.words.push(Word::To(node, FromHead::Answer { ask, answer }));
            }
            Some(Asked::Node { node, ask }) => {
                let answer = result.map(|_| HeadAnswer::Done).map_err(|why| why.to_string());
                self.words.push(Word::To(node, FromHead::Answer { ask, answer }));
            }
            Some(Asked::Redeem { role, key, reply }) => {
                let issued = result.map_err(|why| Refusal::new(token_cause(&why)));
                let issued = issued.and_then(|granted| self.issue(granted, role, &key));
                self.words.push(Word::Issued(reply, issued));
            }
            Some(Asked::Register { .. }) | None => {}
        }
    }

    /// A certificate for a new member.
    fn issue(&self, granted: Role, role: Role, key: &PublicKey) -> Result<Issued, Refusal> {
        if granted != role {
            let message = format!("the token is for a {granted}, not for a {role}: make one with --role {role}");
            return Err(Refusal::because(Cause::WrongRole, message));
        }
        let mut member = [0; 16];
        getrandom::fill(&mut member).map_err(|_| Refusal::new(Cause::Failed))?;
        let certificate = self.authority.issue(MemberId(member), role, key, SystemTime::now());
        let certificate = certificate.map_err(|error| Refusal::because(Cause::Failed, error.to_string()))?;
        Ok(Issued { certificate, authority: self.authority.certificate().clone() })
    }

    fn answer(&mut self, ask: u64, said: impl FnOnce(AskId) -> FromHead) {
        if let Some(Asked::Node { node, ask }) = self.asks.remove(&ask) {
            self.words.push(Word::To(node, said(ask)));
        }
    }
}

/// A node's record that is being written, and whether it says how the node ended.
fn kept(change: &Change) -> Option<(NodeId, bool)> {
    match (&change.key, &change.record) {
        (RecordKey::Node(node), Some(mobula_logic::record::Record::Node(record))) => {
            Some((*node, record.death.is_some()))
        }
        _ => None,
    }
}

fn token_cause(why: &directory::TokenRefusal) -> Cause {
    use directory::TokenRefusal;
    match why {
        TokenRefusal::Expired => Cause::TokenExpired,
        TokenRefusal::Used => Cause::TokenUsed,
        TokenRefusal::Burnt => Cause::TokenBurned,
        TokenRefusal::Full { .. } => Cause::Busy,
        _ => Cause::TokenUnknown,
    }
}
