//! The head's part of a node: one task between those who speak with the head and [`mobula_head::Head`], which decides and
//! keeps.
//!
//! ```text
//! nodes, doors ──ToSeat──► Head ──what is durable──► nodes, doors
//!                           ▲ woken by its writer
//! ```
//!
//! Requests are numbered here, because those of two nodes may have one number.

mod groups;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mobula_head::{Config, Head};
use mobula_logic::directory::{self, Claim};
use mobula_logic::groups::{self as group_machine, Groups};
use mobula_logic::head::Output;
use mobula_logic::membership;
use mobula_logic::record::{JobSpec, TokenId};
use mobula_net::authority::PublicKey;
use mobula_net::token::{SecretHash, Token};
use mobula_net::{Authority, Cause, Issued, Lane, Refusal, Renewal};
use mobula_types::{
    DeathCause, Incarnation, JobId, MemberId, NameOwner, NodeId, Registration, Role, StateMachine, ViewChange,
};
use mobula_wire::cluster::{
    Admission, AskId, ClusterTalk, Detached, FromHead, HeadAnswer, HeadQuestion, RenewalWish, ToHead,
};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::losses::Loss;

use super::input::Input;
use super::routes::Routes;
use super::state::Clock;

/// What was said to the head and has not been acted on. Beyond it nodes wait, which is what QUIC's windows are for.
pub(crate) const SEAT_MAX: usize = 16_384;

/// Closing the store waits for a write that is under way, and not for a disk that hangs.
const CLOSE_MAX: Duration = Duration::from_secs(1);

/// Requests that wait for a machine's answer; the next is not heard, and its asker says it again or gives up.
const ASKS_MAX: usize = 1 << 16;

/// What is said to the head.
#[derive(Debug)]
pub(crate) enum ToSeat {
    /// A node says something.
    Said { from: NodeId, said: ToHead },
    /// A node comes.
    Register { registration: Registration, reply: oneshot::Sender<Result<Admission, NotAdmitted>> },
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
    /// The node has ended: give the records up, so that another head may have them.
    Close,
}

/// Why a node is not admitted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotAdmitted {
    /// The machine says so.
    #[error(transparent)]
    Refused(membership::Refusal),
    /// Nothing can be written.
    #[error("{0}")]
    ReadOnly(String),
}

/// Whose answer the head's answer is.
enum Asked {
    Register(MemberId, oneshot::Sender<Result<Admission, NotAdmitted>>),
    Node {
        node: NodeId,
        ask: AskId,
        kind: Kind,
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
    /// The token was shown to another node.
    RedeemFor {
        node: NodeId,
        ask: AskId,
        role: Role,
        key: PublicKey,
    },
}

/// In which words a request is answered when nothing can be done.
#[derive(Clone, Copy)]
enum Kind {
    Job,
    Name,
    LookUp,
    Locate,
    Value,
    Tool,
}

/// The head.
pub(crate) struct Seat {
    clock: Clock,
    head: Head,
    /// Soft: what nodes keep of them is the truth.
    groups: Groups,
    /// Whose certificate the head's own node has.
    member: MemberId,
    own: NodeId,
    authority: Arc<Authority>,
    routes: Arc<Routes>,
    inputs: mpsc::Sender<Input>,
    written: Arc<Notify>,
    asks: BTreeMap<u64, Asked>,
    asked: u64,
}

impl Seat {
    /// Opens the records in a folder. Blocks while they are read.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    pub(crate) fn open(
        folder: &Path,
        clock: Clock,
        member: MemberId,
        authority: Arc<Authority>,
        routes: Arc<Routes>,
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, mobula_head::OpenError> {
        let now = clock.now();
        let unix_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let unix_ms = u64::try_from(unix_ms).unwrap_or(u64::MAX);
        let config = Config { cluster: authority.cluster(), ca: authority.pin().0.to_vec(), now, unix_ms };
        let written = Arc::new(Notify::new());
        let wake = written.clone();
        let head = Head::open(folder, config, move || wake.notify_one())?;
        let (own, asks, asked) = (NodeId(0), BTreeMap::new(), 0);
        let groups = Groups::new(now, head.id().epoch);
        Ok(Self { clock, head, groups, member, own, authority, routes, inputs, written, asks, asked })
    }

    pub(crate) async fn run(mut self, mut heard: mpsc::Receiver<ToSeat>) {
        loop {
            let due = self.head.next_timeout().into_iter().chain(self.groups.next_timeout()).min();
            let due = due.map(|at| self.clock.instant(at));
            tokio::select! {
                said = heard.recv() => match said {
                    Some(ToSeat::Close) | None => break,
                    Some(said) => self.handle(said),
                },
                () = self.written.notified() => self.head.turn(self.clock.now()),
                () = super::state::until(due) => {
                    self.head.turn(self.clock.now());
                    self.groups.handle(self.clock.now(), group_machine::Input::Tick);
                }
            }
            if let Some(why) = self.head.ended() {
                // Another head has the store, or nothing can ever be written: two heads never act (G13).
                tracing::error!(why, "this head ends, and its node with it");
                let (done, _) = oneshot::channel();
                self.inputs.send(Input::Stop { done }).await.ok();
                break;
            }
            if !self.perform().await {
                break;
            }
        }
        let head = self.head;
        tokio::task::spawn_blocking(move || head.close(CLOSE_MAX)).await.ok();
    }

    /// Says all that the head has to say. False when the node has ended.
    async fn perform(&mut self) -> bool {
        while let Some(output) = self.head.poll_output() {
            if !self.output(output).await {
                return false;
            }
        }
        while let Some(output) = self.groups.poll_output() {
            if !self.group_says(output).await {
                return false;
            }
        }
        true
    }

    async fn all(&mut self, said: FromHead) -> bool {
        let members = self.head.machine().membership();
        let nodes: Vec<NodeId> = members.nodes().map(|known| known.node).filter(|node| members.lives(*node)).collect();
        for node in nodes {
            if !self.say(node, said.clone()).await {
                return false;
            }
        }
        true
    }

    async fn say(&mut self, node: NodeId, said: FromHead) -> bool {
        let head = self.head.id();
        if node == self.own {
            return self.inputs.send(Input::FromHead { head, said }).await.is_ok();
        }
        // A node that is gone registers again, and asks again.
        self.routes.tell_peer(node, Lane::Control, &ClusterTalk::FromHead { head, said });
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
                if let Some(ask) = self.ask(Asked::Register(registration.member, reply)) {
                    self.head.handle(now, membership::Input::Register { ask, registration });
                }
            }
            ToSeat::Redeem { id, hash, role, key, reply } => {
                if let Some(ask) = self.ask(Asked::Redeem { role, key, reply }) {
                    self.head.handle(now, directory::Input::TokenUse { ask, id, hash: hash.0, by: key });
                }
            }
            // Its task has ended by then.
            ToSeat::Close => {}
            ToSeat::Silent { node, silent, refused } => {
                // The mesh says `refused` after two refusals in a row, which are two for the machine.
                for _ in 0..if refused { membership::REFUSALS } else { 1 } {
                    self.head.handle(now, membership::Input::Silent { node, silent, refused });
                }
            }
        }
    }

    fn handle_said(&mut self, node: NodeId, said: ToHead) {
        use directory::Input;
        let now = self.clock.now();
        let ask_of = |seat: &mut Self, ask: AskId, kind: Kind| seat.ask(Asked::Node { node, ask, kind });
        let input = match said {
            ToHead::Beat(beat) => {
                let load = beat.load.clone();
                self.head.handle(now, membership::Input::Heartbeat { node, beat });
                return self.group_beat(node, load);
            }
            ToHead::Group(ask) => return self.group_asked(node, ask),
            ToHead::Leaving => return self.head.handle(now, membership::Input::Leaving { node }),
            ToHead::Drained => return self.head.handle(now, membership::Input::Drained { node }),
            ToHead::JobStart { ask, setup } => {
                let Some(ask) = ask_of(self, ask, Kind::Job) else { return };
                let (name, program, driver) = (setup.name.clone(), setup.program, setup.driver);
                let setup = mobula_wire::encode(&setup).unwrap_or_default();
                Input::JobStart { ask, spec: JobSpec { name, program, driver, setup } }
            }
            ToHead::JobEnd { job, cause } => Input::JobEnd { job, cause },
            ToHead::ProcessDied { process, cause } if process.node() == node => Input::ProcessDied { process, cause },
            ToHead::Claim { ask, key, actor, incarnation, job, process, interface, detached } => {
                let Some(ask) = ask_of(self, ask, Kind::Name) else { return };
                let detached = detached.map(|Detached { job, frame, policy }| mobula_logic::record::Detached {
                    job,
                    frame: frame.into(),
                    policy,
                });
                Input::Claim { ask, node, claim: Claim { key, actor, incarnation, job, detached, process, interface } }
            }
            ToHead::Release { key, actor } => Input::Release { node, key, actor },
            ToHead::Stopped { key, fencing, culprit } => Input::Stopped { node, key, fencing, culprit },
            ToHead::Started { key, fencing } => Input::Started { node, key, fencing },
            ToHead::Ended { key, actor, reason } => Input::Ended { node, key, actor, reason },
            ToHead::Locate { ask, actor } => {
                let Some(ask) = ask_of(self, ask, Kind::Locate) else { return };
                Input::Locate { ask, actor }
            }
            ToHead::LookUp { ask, key } => {
                let Some(ask) = ask_of(self, ask, Kind::LookUp) else { return };
                Input::LookUp { ask, key }
            }
            ToHead::Put { ask, job, key, value } => {
                let Some(ask) = ask_of(self, ask, Kind::Value) else { return };
                Input::Put { ask, job, key, value }
            }
            ToHead::Get { ask, job, key } => {
                let Some(ask) = ask_of(self, ask, Kind::Value) else { return };
                Input::Get { ask, job, key }
            }
            ToHead::Tool { ask, question } => return self.handle_tool(node, ask, question),
            ToHead::Renew { ask, key } => return self.renew(node, ask, &key),
            ToHead::RenewFar { ask, wish } => return self.renew_far(node, ask, wish),
            ToHead::Redeem { ask, id, hash, role, key } => {
                let Some(ask) = self.ask(Asked::RedeemFor { node, ask, role, key }) else { return };
                Input::TokenUse { ask, id: TokenId(id), hash, by: key }
            }
            _ => return,
        };
        self.head.handle(now, input);
    }

    fn handle_tool(&mut self, node: NodeId, ask: AskId, question: HeadQuestion) {
        let now = self.clock.now();
        let answer = match question {
            HeadQuestion::Status => {
                let status = self.head.status(now, self.own);
                return self.say_later(node, FromHead::Status { ask, status });
            }
            HeadQuestion::Jobs => Ok(HeadAnswer::Jobs(self.head.list_jobs(now))),
            HeadQuestion::Groups => Ok(HeadAnswer::Groups(self.list_groups())),
            HeadQuestion::TokenList => Ok(HeadAnswer::Tokens(self.head.list_tokens())),
            HeadQuestion::TokenCreate { ttl_s, role } => match Token::new(self.authority.pin()) {
                Ok(token) => {
                    let (id, hash) = (TokenId(token.id.0), token.secret.hash().0);
                    let Some(ask) = self.ask(Asked::TokenCreate { node, ask, token: Box::new(token) }) else { return };
                    let ttl = ttl_s.map(Duration::from_secs);
                    return self.head.handle(now, directory::Input::TokenCreate { ask, id, hash, role, ttl });
                }
                Err(error) => Err(format!("the system gives no random numbers: {error}")),
            },
            HeadQuestion::TokenRevoke { id } => match id.parse::<mobula_net::token::TokenId>() {
                Ok(id) => {
                    let Some(ask) = self.ask(Asked::Node { node, ask, kind: Kind::Tool }) else { return };
                    return self.head.handle(now, directory::Input::TokenRevoke { ask, id: TokenId(id.0) });
                }
                Err(error) => Err(format!("{id} is no token's id: {error}")),
            },
            HeadQuestion::Drain { node: which } => {
                let Some(ask) = self.ask(Asked::Node { node, ask, kind: Kind::Tool }) else { return };
                return self.head.handle(now, membership::Input::Drain { ask, node: which });
            }
            HeadQuestion::StopActor { key } => match self.head.machine().directory().owner(&key) {
                Some(_) => {
                    self.head.handle(now, directory::Input::End { key });
                    Ok(HeadAnswer::Done)
                }
                None => Err(format!("no actor is named {key}: see `mobula list actors`")),
            },
            HeadQuestion::StopJob { job } => match self.head.machine().directory().job(job) {
                _ if self.head.machine().directory().runs(job) => {
                    self.head.handle(now, directory::Input::JobEnd { job, cause: DeathCause::JobStopped });
                    Ok(HeadAnswer::Done)
                }
                Some(_) => Err(format!("{job} has ended already")),
                None => Err(format!("there is no {job}: see `mobula list jobs`")),
            },
            _ => Err("this head does not know the question: run one version of mobula on all nodes".to_owned()),
        };
        self.say_later(node, FromHead::Answer { ask, answer });
    }

    /// Says what rests on no record.
    fn say_later(&self, node: NodeId, said: FromHead) {
        let head = self.head.id();
        if node == self.own {
            // A full queue means that this node hangs; whoever asked gives up by itself.
            if self.inputs.try_send(Input::FromHead { head, said }).is_err() {
                self.routes.lose(Loss::NodeBusy);
            }
        } else {
            self.routes.tell_peer(node, Lane::Control, &ClusterTalk::FromHead { head, said });
        }
    }

    /// A new certificate for a node that has one.
    fn renew(&mut self, node: NodeId, ask: AskId, key: &PublicKey) {
        let members = self.head.machine().membership();
        let Some(member) = members.nodes().find(|known| known.node == node).map(|known| known.member) else { return };
        let issued = self.authority.issue(member, Role::Node, key, SystemTime::now());
        let certificate = issued.map(|issued| issued.to_vec()).map_err(|error| error.to_string());
        self.say_later(node, FromHead::Renewed { ask, certificate });
    }

    fn renew_far(&self, node: NodeId, ask: AskId, wish: RenewalWish) {
        let RenewalWish { certificate, key, signature } = wish;
        let renewed = self.authority.renew(&Renewal { certificate, key, signature }, SystemTime::now());
        if let (Err(refusal), Some(mesh)) = (&renewed, self.routes.mesh()) {
            tracing::warn!(%node, cause = refusal.cause.word(), "no certificate was renewed: {refusal}");
            mesh.refusals().count(refusal.cause);
        }
        let certificate = renewed.map(|issued| issued.to_vec()).map_err(|refusal| refusal.message);
        self.say_later(node, FromHead::FarRenewed { ask, certificate });
    }

    async fn output(&mut self, output: Output) -> bool {
        match output {
            // The head does it itself.
            Output::Commit { .. } => true,
            Output::Admit { ask, node, incarnation, term, view } => {
                if let Some(Asked::Register(member, reply)) = self.asks.remove(&ask) {
                    if member == self.member {
                        self.own = node;
                    }
                    // Who has gone meanwhile asks again.
                    reply.send(Ok(self.admission(node, incarnation, term, view))).ok();
                }
                true
            }
            Output::Refuse { ask, why } => {
                if let Some(Asked::Register(_, reply)) = self.asks.remove(&ask) {
                    reply.send(Err(NotAdmitted::Refused(why))).ok();
                }
                true
            }
            Output::Beat { node, answer } => self.say(node, FromHead::Beat(answer)).await,
            Output::Fence { node } => self.say(node, FromHead::Fenced).await,
            Output::Died { death } => {
                if death.process.number() == 0 {
                    let node = death.process.node();
                    self.groups.handle(self.clock.now(), group_machine::Input::NodeDied { node });
                }
                self.all(FromHead::Died(death)).await
            }
            Output::Drain { node } => self.say(node, FromHead::Drain).await,
            Output::DrainAnswered { ask, is_known } => {
                let done = is_known.then_some(HeadAnswer::Done);
                let answer = done.ok_or_else(|| "no such node is alive: see `mobula status`".to_owned());
                self.answer(ask, |ask| FromHead::Answer { ask, answer }).await
            }
            Output::Directory(output) => self.directory_says(output).await,
            Output::ReadOnly { ask, cause } => self.read_only(ask, cause).await,
        }
    }

    fn admission(&self, node: NodeId, incarnation: Incarnation, term: u64, view: ViewChange) -> Admission {
        let ended_jobs: Vec<JobId> = self.head.ended_jobs().collect();
        let detached_jobs = self.head.machine().directory().detached_jobs().map(|(job, _)| job).collect();
        let (head, head_node) = (self.head.id(), self.own);
        Admission { head, head_node, node, incarnation, term, view, ended_jobs, detached_jobs }
    }

    async fn directory_says(&mut self, output: directory::Output) -> bool {
        use directory::Output;
        match output {
            Output::Claimed { ask, key, result } => {
                let interface = self.head.machine().directory().owner(&key).map(|owner| owner.interface);
                let owner = |actor| NameOwner { actor, interface: interface.unwrap_or_default() };
                let result = result.map(|grant| (owner(grant.owner), grant.fencing, grant.term));
                let result = result.map_err(|why| why.to_string());
                self.answer(ask, |ask| FromHead::Claimed { ask, result }).await
            }
            Output::Found { ask, key, grant } => {
                let owner = self.head.machine().directory().owner(&key);
                let owner = owner.filter(|owner| grant.is_some_and(|grant| grant.owner == owner.actor));
                self.answer(ask, |ask| FromHead::Found { ask, owner }).await
            }
            Output::Revoke { node, key, fencing } => self.say(node, FromHead::Revoke { key, fencing }).await,
            Output::Restart { key, actor, incarnation, job, frame, avoid, isolated } => {
                let frame = frame.into();
                self.say(self.own, FromHead::Restart { key, actor, incarnation, job, frame, avoid, isolated }).await
            }
            Output::Located { ask, at, .. } => self.answer(ask, |ask| FromHead::Located { ask, at }).await,
            Output::JobStarted { ask, result } => {
                let result = result.map_err(|why| why.to_string());
                self.answer(ask, |ask| FromHead::JobStarted { ask, result }).await
            }
            Output::JobEnded { job, cause } => {
                self.groups.handle(self.clock.now(), group_machine::Input::JobEnded { job });
                self.all(FromHead::JobEnded { job, cause }).await
            }
            Output::Value { ask, result, .. } => {
                let result = result.map_err(|why| why.to_string());
                self.answer(ask, |ask| FromHead::Value { ask, result }).await
            }
            Output::Token { ask, result, .. } => self.token_says(ask, result).await,
            // The head's own part of it is done.
            Output::Keep(_) => true,
        }
    }

    async fn token_says(&mut self, ask: u64, result: Result<Role, directory::TokenRefusal>) -> bool {
        match self.asks.remove(&ask) {
            Some(Asked::TokenCreate { node, ask, token }) => {
                let answer = result.map(|_| HeadAnswer::Token(token.to_string())).map_err(|why| why.to_string());
                self.say(node, FromHead::Answer { ask, answer }).await
            }
            Some(Asked::Node { node, ask, .. }) => {
                let answer = result.map(|_| HeadAnswer::Done).map_err(|why| why.to_string());
                self.say(node, FromHead::Answer { ask, answer }).await
            }
            Some(Asked::Redeem { role, key, reply }) => {
                let issued = result.map_err(|why| Refusal::new(token_cause(&why)));
                reply.send(issued.and_then(|granted| self.issue(granted, role, &key))).ok();
                true
            }
            Some(Asked::RedeemFor { node, ask, role, key }) => {
                let granted = result.map_err(|why| Refusal::new(token_cause(&why)));
                let issued = granted.and_then(|granted| self.issue(granted, role, &key));
                let result = issued
                    .map(|issued| (issued.certificate.to_vec(), issued.authority.to_vec()))
                    .map_err(|refusal| (refusal.cause.code(), refusal.message));
                self.say(node, FromHead::Redeemed { ask, result }).await
            }
            Some(Asked::Register(..)) | None => true,
        }
    }

    /// Nothing can be written: whoever asked is told so.
    async fn read_only(&mut self, ask: u64, cause: String) -> bool {
        let why = format!("the head can write nothing now ({cause}): it goes on by itself when it can");
        match self.asks.remove(&ask) {
            Some(Asked::Register(_, reply)) => drop(reply.send(Err(NotAdmitted::ReadOnly(why)))),
            Some(Asked::Redeem { reply, .. }) => drop(reply.send(Err(Refusal::because(Cause::Failed, why)))),
            Some(Asked::RedeemFor { node, ask, .. }) => {
                return self.say(node, FromHead::Redeemed { ask, result: Err((Cause::Failed.code(), why)) }).await;
            }
            Some(Asked::TokenCreate { node, ask, .. }) => {
                return self.say(node, FromHead::Answer { ask, answer: Err(why) }).await;
            }
            Some(Asked::Node { node, ask, kind }) => {
                let said = match kind {
                    Kind::Job => FromHead::JobStarted { ask, result: Err(why) },
                    Kind::Name => FromHead::Claimed { ask, result: Err(why) },
                    Kind::LookUp => FromHead::Found { ask, owner: None },
                    // It waits, as for an actor that is nowhere: its asker says it again.
                    Kind::Locate => return true,
                    Kind::Value => FromHead::Value { ask, result: Err(why) },
                    Kind::Tool => FromHead::Answer { ask, answer: Err(why) },
                };
                return self.say(node, said).await;
            }
            None => {}
        }
        true
    }

    /// A certificate for a new member.
    fn issue(&self, granted: Role, role: Role, key: &PublicKey) -> Result<Issued, Refusal> {
        if granted != role {
            let message = format!(
                "the token is for a {granted}, not for a {role}: make one with `mobula token create --role {role}` on the \
                 head's host"
            );
            return Err(Refusal::because(Cause::WrongRole, message));
        }
        let mut member = [0; 16];
        getrandom::fill(&mut member).map_err(|_| Refusal::new(Cause::Failed))?;
        let certificate = self.authority.issue(MemberId(member), role, key, SystemTime::now());
        let certificate = certificate.map_err(|error| Refusal::because(Cause::Failed, error.to_string()))?;
        Ok(Issued { certificate, authority: self.authority.certificate().clone() })
    }

    async fn answer(&mut self, ask: u64, said: impl FnOnce(AskId) -> FromHead) -> bool {
        match self.asks.remove(&ask) {
            Some(Asked::Node { node, ask, .. }) => self.say(node, said(ask)).await,
            _ => true,
        }
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
