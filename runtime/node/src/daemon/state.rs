//! The task that owns a node's state: inputs come in one by one, machines decide, outputs are performed at once.
//!
//! Nothing here waits for the network, the disk or a process: what takes time is begun, and its end comes as an input.
//!
//! | file | what it does with the state |
//! |---|---|
//! | `arrivals` | drivers and workers come |
//! | `talk` | what a process says to its node |
//! | `placing` | the scheduler's wishes: workers, grants, other nodes |
//! | `burial` | processes, jobs and nodes end |
//! | `tool` | the command line's questions |

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mobula_logic::scheduler::{self, Scheduler};
use mobula_net::Connection;
use mobula_types::state::OutcomeCounters;
use mobula_types::{DeathCause, HeadId, JobId, NodeId, ProcessId, StateMachine, Time};
use mobula_wire::cluster::{AskId, FromHead, ToHead};
use mobula_wire::local::{FromNode, RequestId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::config::NodeConfig;
use super::gather::Gathers;
use super::input::{DriverCame, Input};
use super::roster::Roster;
use super::routes::Routes;
use super::seat::ToSeat;
use super::workers::{WorkerEvent, WorkerEvents, Workers};

/// The head must answer a request in this time; it is said again after every new registration until then.
const ASK_MAX: Duration = Duration::from_secs(30);

/// Workers have this long to end by themselves when their job has ended, before they are killed (G9: 2 s in all).
pub(crate) const END_GRACE: Duration = Duration::from_secs(1);

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

/// A node's state.
pub(crate) struct State {
    pub(crate) clock: Clock,
    pub(crate) config: NodeConfig,
    pub(crate) node: NodeId,
    pub(crate) routes: Arc<Routes>,
    pub(crate) scheduler: Scheduler,
    pub(crate) workers: Workers,
    pub(crate) roster: Roster,
    pub(crate) seat: mpsc::Sender<ToSeat>,
    pub(crate) head: HeadId,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) gathers: Gathers,
    /// What processes that have ended had submitted.
    pub(crate) past_counters: OutcomeCounters,
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
    Name(ProcessId, RequestId),
    LookUp(ProcessId, RequestId),
    Value(ProcessId, RequestId),
    Tool(Connection, RequestId, super::tool::Kind),
}

impl State {
    pub(crate) fn new(
        config: NodeConfig,
        node: NodeId,
        head: HeadId,
        routes: Arc<Routes>,
        workers: Workers,
        seat: mpsc::Sender<ToSeat>,
        inputs: mpsc::Sender<Input>,
    ) -> Self {
        let scheduler = Scheduler::new(node, &config.resources, config.labels.clone());
        Self {
            clock: Clock::start(),
            config,
            node,
            routes,
            scheduler,
            workers,
            roster: Roster::default(),
            seat,
            head,
            inputs,
            gathers: Gathers::default(),
            past_counters: OutcomeCounters::default(),
            asks: BTreeMap::new(),
            asked: 0,
        }
    }

    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>, mut events: WorkerEvents) {
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
                () = until(due) => self.tick(),
            }
            self.perform();
        }
    }

    fn handle(&mut self, input: Input) {
        match input {
            Input::DriverCame(came) => self.driver_came(came),
            Input::WorkerCame { token, pid, connection, reply } => self.worker_came(&token, pid, connection, reply),
            Input::Said { process, said } => self.said(process, said),
            Input::Gone { process, why } => self.gone(process, &why),
            Input::Asked { connection, request, question } => self.tool_asked(connection, request, question),
            Input::FromHead { head, said } => self.head_said(head, said),
            Input::Stop { .. } => {}
        }
    }

    fn handle_worker(&mut self, event: WorkerEvent) {
        match event {
            WorkerEvent::Started { process, pid } => {
                if let Some(resident) = self.roster.get_mut(process) {
                    resident.pid = Some(pid);
                }
            }
            WorkerEvent::Output { process, job, is_stderr, lines } => self.output(process, job, is_stderr, lines),
            WorkerEvent::Died { job, death } => self.bury(job, death),
        }
    }

    fn next_timeout(&self) -> Option<Time> {
        let asks = self.asks.values().map(|ask| ask.until).min();
        let gathers = self.gathers.next_timeout();
        self.scheduler.next_timeout().into_iter().chain(asks).chain(gathers).min()
    }

    fn tick(&mut self) {
        let now = self.clock.now();
        self.scheduler.handle(now, scheduler::Input::Tick);
        self.tick_gathers(now);
        let late: Vec<AskId> = self.asks.iter().filter(|(_, ask)| ask.until <= now).map(|(id, _)| *id).collect();
        for ask in late {
            if let Some(ask) = self.asks.remove(&ask) {
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
        if self.seat.try_send(ToSeat { from: self.node, said }).is_err() {
            tracing::warn!("the head has more to do than it can take");
        }
    }

    fn head_said(&mut self, _head: HeadId, said: FromHead) {
        match said {
            FromHead::JobStarted { ask, result } => {
                if let Some(Ask { purpose: Purpose::Driver(came, number), said, .. }) = self.asks.remove(&ask) {
                    let ToHead::JobStart { setup, .. } = said else { return };
                    self.job_started(*came, number, setup, result);
                }
            }
            FromHead::Claimed { ask, result } => {
                if let Some(Ask { purpose: Purpose::Name(process, request), .. }) = self.asks.remove(&ask) {
                    let owner = result.map(|(actor, ..)| actor);
                    self.routes.tell(process, &FromNode::NameClaimed { request, owner });
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
            FromHead::Status { ask, status } => {
                if let Some(Ask { purpose: Purpose::Tool(connection, request, kind), .. }) = self.asks.remove(&ask) {
                    self.tool_status(&connection, request, &kind, status);
                }
            }
            FromHead::Answer { ask, answer } => {
                if let Some(Ask { purpose: Purpose::Tool(connection, request, kind), .. }) = self.asks.remove(&ask) {
                    self.tool_answer(&connection, request, &kind, answer);
                }
            }
            _ => {}
        }
    }

    fn unanswered(&mut self, purpose: Purpose, why: &str) {
        let why = why.to_owned();
        match purpose {
            Purpose::Driver(came, _) => {
                came.reply.send(Err(why)).ok();
            }
            Purpose::Name(process, request) => {
                self.routes.tell(process, &FromNode::NameClaimed { request, owner: Err(why) });
            }
            Purpose::LookUp(process, request) => {
                self.routes.tell(process, &FromNode::NameFound { request, owner: None });
            }
            Purpose::Value(process, request) => {
                self.routes.tell(process, &FromNode::KvValue { request, value: Err(why) });
            }
            Purpose::Tool(connection, request, _) => super::tool::answer(&connection, request, Err(why)),
        }
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
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
