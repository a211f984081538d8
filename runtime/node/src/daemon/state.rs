//! The task that owns a node's state: inputs come in one by one, machines decide, outputs are performed at once.
//!
//! Nothing here waits for the network, the disk or a process: what takes time is begun, and its end comes as an input.
//!
//! | file | what it does with the state |
//! |---|---|
//! | `arrivals` | drivers and workers come |
//! | `talk` | what a process says to its node |
//! | `named` | names that actors of this node hold, and their end |
//! | `detached` | actors that outlive their job |
//! | `placing` | the scheduler's wishes: workers, grants, other nodes |
//! | `grouped` | placement groups: what processes ask for, what the head has this node keep apart |
//! | `burial` | processes, jobs and nodes end |
//! | `tool` | the command line's questions |
//! | `submit` | programs that the node runs as drivers |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mobula_logic::scheduler::{self, Scheduler};
use mobula_net::{Cause, Line, Refusal};
use mobula_store::Arena;
use mobula_types::state::OutcomeCounters;
use mobula_types::{ActorId, DeathCause, HeadId, JobId, NameKey, NodeId, ProcessId, StateMachine, Time};
use mobula_wire::cluster::{AskId, ClusterTalk, FromHead, ToHead};
use mobula_wire::local::{FromNode, RequestId};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use crate::losses::Loss;

use super::config::NodeConfig;
use super::detached::{DetachedActors, Start};
use super::far::{Far, Fars};
use super::fetch::Fetches;
use super::gather::Gathers;
use super::grouped::Grouped;
use super::hauls::Hauls;
use super::input::{DriverCame, Input, Redeem};
use super::luggage::Coming;
use super::membership::Membership;
use super::named::{Parted, Stopping};
use super::objects::Objects;
use super::pressure::Pressing;
use super::pulls::Pulls;
use super::renewal::Renewal;
use super::roster::Roster;
use super::routes::Routes;
use super::seat::ToSeat;
use super::spill::Spills;
use super::submit::{Submissions, Submitting};
use super::workers::{Programs, WorkerEvent, WorkerEvents, Workers};

/// The head must answer a request in this time; it is said again after every new registration until then.
const ASK_MAX: Duration = Duration::from_secs(30);

/// Workers have this long to end by themselves when their job has ended, before they are killed (G9: 2 s in all).
pub(crate) const END_GRACE: Duration = Duration::from_secs(1);

/// What is said at the very end needs a moment to leave.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// Real time as the machines count it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    begun: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { begun: Instant::now() }
    }

    pub(crate) fn now(self) -> Time {
        Time::from_nanos(u64::try_from(self.begun.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    pub(crate) fn instant(self, at: Time) -> Instant {
        self.begun + at.since(Time::ZERO)
    }
}

/// A scheduler for what the node has.
pub(crate) fn scheduler_of(node: NodeId, config: &NodeConfig) -> Scheduler {
    Scheduler::new(node, &config.resources, config.labels.clone()).on(config.platform.clone())
}

/// A node's state.
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) config: NodeConfig,
    pub(crate) node: NodeId,
    pub(crate) routes: Arc<Routes>,
    pub(crate) scheduler: Scheduler,
    pub(crate) workers: Workers,
    pub(crate) roster: Roster,
    /// The head's part, when it is this node's.
    pub(crate) seat: Option<mpsc::Sender<ToSeat>>,
    pub(crate) head: HeadId,
    pub(crate) cluster: Membership,
    pub(crate) programs: Programs,
    /// The memory that processes of this host share.
    pub(crate) arena: Arc<Arena>,
    pub(crate) objects: Objects,
    /// What leaves that memory when it is short, and comes back.
    pub(crate) pressing: Pressing,
    pub(crate) pulls: Pulls,
    pub(crate) hauls: Arc<Hauls>,
    pub(crate) fetches: Fetches,
    pub(crate) renewal: Renewal,
    /// Which jobs which nodes were told of.
    pub(crate) told_jobs: BTreeSet<(NodeId, JobId)>,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) gathers: Gathers,
    /// Who asked for logs of other nodes.
    pub(crate) logs_asked: BTreeMap<u64, (Line, RequestId)>,
    pub(crate) logs_count: u64,
    /// Until when what runs here may finish, when this node is to leave.
    pub(crate) leaves_at: Option<Time>,
    /// Workers in which no task runs any more, when this node is to leave.
    pub(crate) quiet: BTreeSet<ProcessId>,
    /// It has been told to end.
    pub(crate) is_ending: bool,
    /// What processes that have ended had submitted.
    pub(crate) past_counters: OutcomeCounters,
    /// Programs that this node runs as drivers.
    pub(crate) submissions: Submissions,
    /// Programs that are submitted from other hosts and are not all here.
    pub(crate) coming: Coming,
    /// Detached actors that this node hosts, or has to find a place for.
    pub(crate) detached: DetachedActors,
    /// Names whose actors were told to stop and have not said that they did.
    pub(crate) stopping: BTreeMap<NameKey, Stopping>,
    pub(crate) parted: Parted,
    /// Placement groups that processes of this node wait for.
    pub(crate) grouped: Grouped,
    /// Who is attached from other hosts.
    pub(crate) fars: Fars,
    asks: BTreeMap<AskId, Ask>,
    asked: AskId,
}

struct Ask {
    said: ToHead,
    until: Time,
    purpose: Purpose,
}

/// What the head's answer is for.
pub(crate) enum Purpose {
    /// A driver that waits at the door.
    Driver(Box<DriverCame>, u32),
    /// A program that is to be run as one.
    Submit(Box<Submitting>),
    Name(ProcessId, RequestId),
    /// A process of this node spawns a detached actor.
    SpawnDetached(ProcessId, RequestId),
    /// This node is about to start one.
    ClaimDetached(ActorId),
    /// A process of this node asks where one is.
    Locate(ProcessId, ActorId),
    LookUp(ProcessId, RequestId),
    Value(ProcessId, RequestId),
    Tool(Line, RequestId, super::tool::Kind),
    /// A process of another host wants a certificate for a key.
    RenewFar(ProcessId, [u8; 32]),
    /// Somebody on another host has shown a token here.
    Redeem(Box<Redeem>),
}

impl State {
    pub(crate) fn new(
        config: NodeConfig,
        (cluster, renewal): (Membership, Renewal),
        clock: Clock,
        routes: Arc<Routes>,
        (workers, programs, spills): (Workers, Programs, Spills),
        seat: Option<mpsc::Sender<ToSeat>>,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let node = routes.node();
        let scheduler = scheduler_of(node, &config);
        let arena = Arc::new(Arena::new(config.store_bytes).with_ahead(config.store_ahead_bytes));
        let pressing = Pressing::new(config.store_bytes, spills);
        let hauls = Hauls::new(routes.clone(), arena.clone());
        Self {
            clock,
            config,
            node,
            routes,
            scheduler,
            workers,
            roster: Roster::default(),
            seat,
            head: HeadId::default(),
            cluster,
            programs,
            arena,
            objects: Objects::new(node),
            pressing,
            pulls: Pulls::default(),
            hauls,
            fetches: Fetches::default(),
            renewal,
            told_jobs: BTreeSet::new(),
            inputs,
            gathers: Gathers::default(),
            logs_asked: BTreeMap::new(),
            logs_count: 0,
            leaves_at: None,
            quiet: BTreeSet::new(),
            is_ending: false,
            past_counters: OutcomeCounters::default(),
            submissions: Submissions::default(),
            coming: Coming::default(),
            detached: DetachedActors::default(),
            stopping: BTreeMap::new(),
            parted: Parted::default(),
            grouped: Grouped::default(),
            fars: Fars::new(),
            asks: BTreeMap::new(),
            asked: 0,
        }
    }

    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut events: WorkerEvents) {
        let changed = Arc::new(Notify::new());
        let notify = changed.clone();
        self.arena.on_change(move || notify.notify_one());
        loop {
            let due = self.next_timeout().map(|at| self.clock.instant(at));
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(Input::Stop { done }) => {
                        self.stop().await;
                        done.send(()).ok();
                        return;
                    }
                    Some(input) => self.handle(input),
                    None => return self.stop().await,
                },
                Some(event) = events.next() => self.handle_worker(event),
                () = changed.notified() => self.arena_changed(),
                () = until(due) => self.tick(),
            }
            self.perform();
            self.leave_when_empty();
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::DriverCame(came) => self.driver_came(came),
            Input::WorkerCame { token, pid, line, reply } => self.worker_came(&token, pid, line, reply),
            Input::Said { process, said } => self.said(process, said),
            Input::Parcel { body } => self.parcel(&body),
            Input::Gone { process, why } => self.gone(process, &why),
            Input::Asked { line, request, question } => self.tool_asked(line, request, question),
            Input::FromHead { head, said } => self.head_said(head, said),
            Input::Talk { from, talk } => self.talk(from, *talk),
            Input::PeerLost { peer } => {
                if peer.node() == self.cluster.head_node {
                    self.head_lost();
                }
            }
            Input::Registered(registered) => self.registered(registered),
            Input::Program { program, result, asked } => self.program_came(program, &result, &asked),
            Input::FarCame(came) => self.far_came(came),
            Input::Far { process, seen } => self.far_seen(process, seen),
            Input::Redeem(redeem) => self.redeem(redeem),
            Input::Arrived(arrived) => self.arrived(arrived),
            Input::Spill(done) => self.spill_done(done),
            Input::Filled { process, object, is_whole } => self.filled(process, object, is_whole),
            Input::Coming { object } => self.copy_comes(object),
            Input::Unread { object } => {
                tracing::trace!(%object, "no other node reads it any more");
                self.end_parted();
            }
            Input::Stop { .. } => {}
        }
    }

    fn handle_worker(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Started { process, pid } => {
                if let Some(resident) = self.roster.get_mut(process) {
                    resident.pid = Some(pid);
                }
                self.submissions.started(process);
            }
            WorkerEvent::Output { process, job, is_stderr, lines } => self.output(process, job, is_stderr, lines),
            WorkerEvent::Died { job, death } => {
                self.submissions.ended(&death);
                self.bury(job, death);
            }
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        let asks = self.asks.values().map(|ask| ask.until).min();
        let gathers = self.gathers.next_timeout();
        let membership = self.cluster.next_timeout().into_iter().chain([self.renewal.next_timeout()]);
        self.scheduler
            .next_timeout()
            .into_iter()
            .chain(asks)
            .chain(gathers)
            .chain(membership)
            .chain(self.leaves_at)
            .chain(self.objects.next_timeout())
            .chain(self.pressing.next_timeout())
            .chain(self.pulls.next_timeout())
            .chain(self.stopping.values().map(|stopping| stopping.until))
            .chain(self.fars.values().filter_map(Far::next_timeout))
            .min()
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        self.scheduler.handle(now, scheduler::Input::Tick);
        self.tick_gathers(now);
        self.tick_objects();
        self.tick_pressure();
        self.tick_membership(now);
        self.tick_renewal(now);
        self.tick_names(now);
        self.tick_fars(now);
        let late: Vec<AskId> = self.asks.iter().filter(|(_, ask)| ask.until <= now).map(|(id, _)| *id).collect();
        for ask in late {
            if let Some(Ask { said, until, purpose: Purpose::Locate(..) }) = self.asks.get_mut(&ask) {
                // An actor that waits for a place may wait long.
                *until = now + ASK_MAX;
                let said = said.clone();
                self.tell_head(said);
            } else if let Some(ask) = self.asks.remove(&ask) {
                self.unanswered(ask.purpose, "the head does not answer: see `mobula status` on its host");
            }
        }
    }

    /// Asks the head something.
    pub(crate) fn ask(&mut self, purpose: Purpose, said: impl FnOnce(AskId) -> ToHead) {
        self.asked += 1;
        let said = said(self.asked);
        let until = self.clock.now() + ASK_MAX;
        self.asks.insert(self.asked, Ask { said: said.clone(), until, purpose });
        self.tell_head(said);
    }

    /// Says something to the head that needs no answer, or whose answer is awaited already.
    pub(crate) fn tell_head(&mut self, said: ToHead) {
        match &self.seat {
            Some(seat) => {
                if seat.try_send(ToSeat::Said { from: self.node, said }).is_err() {
                    tracing::warn!("the head has more to do than it can take");
                    self.routes.lose(Loss::HeadBusy);
                }
            }
            None => self.tell_node(self.cluster.head_node, &ClusterTalk::ToHead(said)),
        }
    }

    /// Says again what the head has not answered: it was lost, and is back.
    pub(crate) fn ask_again(&mut self) {
        let said: Vec<ToHead> = self.asks.values().map(|ask| ask.said.clone()).collect();
        said.into_iter().for_each(|said| self.tell_head(said));
    }

    fn head_said(&mut self, head: HeadId, said: FromHead) {
        if !self.hears(head) {
            return;
        }
        match said {
            FromHead::Beat(answer) => self.beat_answered(head, answer),
            FromHead::Died(death) => self.node_died(death),
            FromHead::Fenced => self.fence(),
            FromHead::Renewed { ask, certificate } => self.renewed(ask, certificate),
            FromHead::Drain => self.drain(),
            FromHead::Revoke { key, fencing } => self.revoked(key, fencing),
            FromHead::Restart { key, actor, incarnation, job, frame, avoid, isolated } => {
                self.place_detached(Start { key, actor, incarnation, job, frame, isolated }, avoid);
            }
            FromHead::Located { ask, at } => {
                if let Some(Ask { purpose: Purpose::Locate(process, actor), .. }) = self.asks.remove(&ask) {
                    self.detached_located(process, actor, at);
                }
            }
            FromHead::JobStarted { ask, result } => {
                let Some(Ask { purpose, said: ToHead::JobStart { setup, .. }, .. }) = self.asks.remove(&ask) else {
                    return;
                };
                match purpose {
                    Purpose::Driver(came, number) => self.job_started(*came, number, setup, result),
                    Purpose::Submit(submitting) => self.submit_started(*submitting, setup, result),
                    _ => {}
                }
            }
            FromHead::Claimed { ask, result } => {
                let Some(Ask { purpose, said, .. }) = self.asks.remove(&ask) else { return };
                match purpose {
                    Purpose::Name(process, request) => self.name_claimed(process, request, said, result),
                    Purpose::SpawnDetached(process, request) => {
                        let owner = result.map(|(owner, ..)| owner);
                        self.routes.tell(process, &FromNode::NameClaimed { request, owner });
                    }
                    Purpose::ClaimDetached(actor) => self.detached_claimed(actor, result),
                    _ => {}
                }
            }
            FromHead::Found { ask, owner } => {
                if let Some(Ask { purpose: Purpose::LookUp(process, request), .. }) = self.asks.remove(&ask) {
                    self.routes.tell(process, &FromNode::NameFound { request, owner });
                }
            }
            FromHead::Value { ask, result } => {
                if let Some(Ask { purpose: Purpose::Value(process, request), .. }) = self.asks.remove(&ask) {
                    self.routes.tell(process, &FromNode::KvValue { request, value: result });
                }
            }
            FromHead::JobEnded { job, cause } => self.end_job(job, &cause),
            FromHead::FarRenewed { ask, certificate } => {
                if let Some(Ask { purpose: Purpose::RenewFar(process, key), .. }) = self.asks.remove(&ask) {
                    self.far_renewed(process, key, certificate);
                }
            }
            FromHead::Redeemed { ask, result } => {
                if let Some(Ask { purpose: Purpose::Redeem(redeem), .. }) = self.asks.remove(&ask) {
                    super::gate::redeemed(*redeem, result);
                }
            }
            FromHead::Group(order) => self.group_ordered(order),
            FromHead::Status { ask, status } => {
                if let Some(Ask { purpose: Purpose::Tool(line, request, kind), .. }) = self.asks.remove(&ask) {
                    self.tool_status(&line, request, &kind, status);
                }
            }
            FromHead::Answer { ask, answer } => {
                if let Some(Ask { purpose: Purpose::Tool(line, request, kind), .. }) = self.asks.remove(&ask) {
                    self.tool_answer(&line, request, &kind, answer);
                }
            }
            _ => {}
        }
    }

    fn unanswered(&mut self, purpose: Purpose, why: &str) {
        let why = why.to_owned();
        match purpose {
            Purpose::Driver(came, _) => came.answer.refuse(why),
            Purpose::Submit(submitting) => submitting.answer(Err(why)),
            Purpose::Name(process, request) | Purpose::SpawnDetached(process, request) => {
                self.routes.tell(process, &FromNode::NameClaimed { request, owner: Err(why) });
            }
            Purpose::ClaimDetached(actor) => self.detached_claimed(actor, Err(why)),
            Purpose::Locate(..) => {}
            Purpose::LookUp(process, request) => {
                self.routes.tell(process, &FromNode::NameFound { request, owner: None });
            }
            Purpose::Value(process, request) => {
                self.routes.tell(process, &FromNode::KvValue { request, value: Err(why) });
            }
            Purpose::Tool(line, request, _) => super::tool::answer(&line, request, Err(why)),
            Purpose::RenewFar(process, key) => self.far_renewed(process, key, Err(why)),
            // Who showed it has given up long before.
            Purpose::Redeem(redeem) => drop(redeem.reply.send(Err(Refusal::because(Cause::Failed, why)))),
        }
    }

    /// Asks the head for what a token is good for that was shown to this node.
    fn redeem(&mut self, redeem: Redeem) {
        let Redeem { id, hash, role, key, .. } = redeem;
        self.ask(Purpose::Redeem(Box::new(redeem)), |ask| ToHead::Redeem { ask, id, hash, role, key });
    }

    async fn stop(&mut self) {
        let jobs: Vec<JobId> = self.roster.jobs().map(|(job, _)| job).collect();
        let drivers: Vec<ProcessId> = self.roster.all().map(|(number, _)| ProcessId::new(self.node, number)).collect();
        for process in drivers {
            self.routes.tell(process, &FromNode::Stop { cause: DeathCause::Drained });
        }
        for job in jobs {
            self.workers.end_job(job, DeathCause::Drained, END_GRACE);
        }
        self.workers.stop(DeathCause::Drained).await;
        // The others hear it at once, and not by silence.
        self.tell_head(ToHead::Drained);
        tokio::time::sleep(LAST_WORDS).await;
    }
}

pub(crate) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
