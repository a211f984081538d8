//! Supervisors of several children, and neighbours on one thread.

mod counter;

use std::sync::Arc;
use std::time::{Duration, Instant};

use counter::{Add, Boom, Counter, with_system};
use mobula_actor::{
    Actor, ActorRef, Address, ChildSpec, Context, Handler, Message, Mode, Spawn, Supervisor, SupervisorSpec, System,
};
use mobula_types::{CallError, Error, ExitReason, NotStarted, Strategy};
use tokio::sync::{mpsc, oneshot};

async fn group(system: &Arc<System>, spec: SupervisorSpec) -> ActorRef<Supervisor> {
    Spawn::new(system.clone(), spec).await.unwrap()
}

/// Three counters whose state is 1, 2 and 3 after this, and 0 after a restart.
async fn three(system: &Arc<System>, strategy: Strategy) -> (ActorRef<Supervisor>, Vec<ActorRef<Counter>>) {
    let spec = ["a", "b", "c"]
        .into_iter()
        .fold(Supervisor::new(strategy), |spec, id| spec.child(ChildSpec::new::<Counter>(id, 0).permanent()));
    let group = group(system, spec).await;
    let mut counters = Vec::new();
    for (id, start) in [("a", 1), ("b", 2), ("c", 3)] {
        let counter = group.child::<Counter>(id).await.unwrap();
        counter.ask(Add(start)).await.unwrap();
        counters.push(counter);
    }
    (group, counters)
}

async fn sums(counters: &[ActorRef<Counter>]) -> Vec<usize> {
    let mut sums = Vec::new();
    for counter in counters {
        sums.push(counter.ask(Add(0)).await.unwrap());
    }
    sums
}

/// Boom in the middle one, then what is left of the others' state once all have been restarted that will be.
fn check(strategy: Strategy, restarts: u64, expected: [usize; 3]) {
    with_system(async |system| {
        let (_group, counters) = three(system, strategy).await;
        counters[1].ask(Boom).await.unwrap_err();
        let patience = Instant::now() + Duration::from_secs(5);
        while system.counters().of(mobula_actor::Count::Restarts) < restarts {
            assert!(Instant::now() < patience, "{restarts} restarts did not happen within 5 s");
            tokio::task::yield_now().await;
        }
        assert_eq!(sums(&counters).await, expected, "{strategy:?}");
    });
}

#[test]
fn one_for_one_restarts_the_one() {
    check(Strategy::OneForOne, 1, [1, 0, 3]);
}

#[test]
fn rest_for_one_restarts_the_one_and_those_after_it() {
    check(Strategy::RestForOne, 2, [1, 0, 0]);
}

#[test]
fn one_for_all_restarts_all() {
    check(Strategy::OneForAll, 3, [0, 0, 0]);
}

#[test]
fn beyond_its_intensity_the_supervisor_itself_fails_with_the_root_cause() {
    with_system(async |system| {
        let spec = Supervisor::new(Strategy::OneForOne)
            .intensity(0, Duration::from_secs(10))
            .child(ChildSpec::new::<Counter>("only", 0).permanent());
        let group = group(system, spec).await;
        let counter = group.child::<Counter>("only").await.unwrap();
        counter.ask(Boom).await.unwrap_err();
        let patience = Instant::now() + Duration::from_secs(5);
        let reason = loop {
            match group.children().await {
                Err(_) if group.is_alive() => {}
                Err(_) => match group.ask_anything().await {
                    Err(CallError::NotStarted(NotStarted::ActorEnded { reason, .. })) => break reason,
                    other => panic!("{other:?}"),
                },
                Ok(_) => {}
            }
            assert!(Instant::now() < patience, "the supervisor did not fail within 5 s");
        };
        assert!(matches!(&reason, ExitReason::Escalated { child, .. } if *child == counter.id()), "{reason:?}");
        assert!(matches!(reason.root(), ExitReason::Panicked(_)));
        assert!(!counter.is_alive());
    });
}

/// The supervisor as an actor that is asked something it does not need to know.
trait AskAnything {
    async fn ask_anything(&self) -> Result<(), CallError>;
}

impl AskAnything for ActorRef<Supervisor> {
    async fn ask_anything(&self) -> Result<(), CallError> {
        let event = mobula_actor::ChildEvent { child: self.id(), what: mobula_actor::ChildState::Started };
        self.ask(event).await
    }
}

#[test]
fn a_nested_supervisor_is_restarted_by_its_own() {
    with_system(async |system| {
        let inner = Supervisor::new(Strategy::OneForOne)
            .intensity(0, Duration::from_secs(10))
            .child(ChildSpec::new::<Counter>("leaf", 0).permanent());
        let outer =
            Supervisor::new(Strategy::OneForOne).child(ChildSpec::new::<Supervisor>("inner", inner).permanent());
        let outer = group(system, outer).await;
        let inner = outer.child::<Supervisor>("inner").await.unwrap();
        let first = inner.child::<Counter>("leaf").await.unwrap();
        first.ask(Boom).await.unwrap_err();
        let patience = Instant::now() + Duration::from_secs(5);
        let second = loop {
            match inner.child::<Counter>("leaf").await {
                Ok(leaf) if leaf != first => break leaf,
                _ => assert!(Instant::now() < patience, "the inner supervisor was not restarted within 5 s"),
            }
        };
        assert_eq!(second.ask(Add(7)).await, Ok(7));
        assert!(!first.is_alive());
    });
}

#[test]
fn children_come_and_go() {
    with_system(async |system| {
        let group = group(system, Supervisor::new(Strategy::OneForOne)).await;
        group.start_child(ChildSpec::new::<Counter>("late", 5)).await.unwrap();
        let taken = group.start_child(ChildSpec::new::<Counter>("late", 5)).await.unwrap_err();
        assert_eq!(taken.to_string(), "there is a child `late` already");
        let late = group.child::<Counter>("late").await.unwrap();
        assert_eq!(late.ask(Add(0)).await, Ok(5));
        assert!(group.child::<Supervisor>("late").await.is_err());
        assert!(group.stop_child("late").await.unwrap());
        let patience = Instant::now() + Duration::from_secs(5);
        while late.is_alive() {
            assert!(Instant::now() < patience, "the child was not stopped within 5 s");
            tokio::task::yield_now().await;
        }
        assert!(!group.stop_child("late").await.unwrap());
    });
}

/// Sends itself the next message with every message: its mailbox is never empty.
struct Busy;
struct Again;

impl Message for Again {
    type Reply = ();
}

impl Actor for Busy {
    type Args = ();
    type Proxy = Address<Self>;

    async fn start((): (), ctx: &Context<Self>) -> Result<Self, Error> {
        for _ in 0..64 {
            ctx.me().try_send(Again)?;
        }
        Ok(Self)
    }
}

impl Handler<Again> for Busy {
    const MODE: Mode = Mode::Sync;

    async fn handle(&mut self, message: Again, ctx: &Context<Self>) {
        self.handle_sync(message, ctx);
    }

    fn handle_sync(&mut self, _: Again, ctx: &Context<Self>) {
        std::hint::black_box((0..1_000_u64).sum::<u64>());
        ctx.me().try_send(Again).ok();
    }
}

/// A busy actor and a counter on the same thread.
struct Neighbours {
    counter: ActorRef<Counter>,
}

struct AskTheCounter;

impl Message for AskTheCounter {
    type Reply = Duration;
}

impl Actor for Neighbours {
    type Args = ();
    type Proxy = Address<Self>;

    async fn start((): (), ctx: &Context<Self>) -> Result<Self, Error> {
        ctx.spawn::<Busy>(()).await?;
        Ok(Self { counter: ctx.spawn::<Counter>(0).await? })
    }
}

impl Handler<AskTheCounter> for Neighbours {
    async fn handle(&mut self, _: AskTheCounter, _: &Context<Self>) -> Duration {
        let asked = Instant::now();
        self.counter.ask(Add(1)).await.unwrap();
        asked.elapsed()
    }
}

#[test]
fn a_neighbour_of_an_actor_that_always_has_mail_is_answered() {
    with_system(async |system| {
        let neighbours = Spawn::<Neighbours>::new(system.clone(), ()).await.unwrap();
        let mut waits = Vec::new();
        for _ in 0..20 {
            waits.push(neighbours.ask(AskTheCounter).await.unwrap());
        }
        waits.sort();
        // Promised within 20 ms; ten times that tells a hang from a slow machine.
        assert!(waits[10] < Duration::from_millis(200), "{waits:?}");
    });
}

/// Holds each caller until three are there.
struct Meeting {
    arrived: mpsc::UnboundedSender<oneshot::Sender<()>>,
}

struct Meet;

impl Message for Meet {
    type Reply = ();
}

impl Actor for Meeting {
    type Args = ();
    type Proxy = Address<Self>;
    const CONCURRENCY: usize = 3;

    async fn start((): (), _: &Context<Self>) -> Result<Self, Error> {
        let (arrived, mut inbox) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
        tokio::spawn(async move {
            let mut waiting = Vec::new();
            while let Some(next) = inbox.recv().await {
                waiting.push(next);
                if waiting.len() == 3 {
                    waiting.drain(..).for_each(|sender| sender.send(()).unwrap());
                }
            }
        });
        Ok(Self { arrived })
    }
}

impl Handler<Meet> for Meeting {
    const MODE: Mode = Mode::Shared;

    async fn handle(&mut self, message: Meet, ctx: &Context<Self>) {
        self.handle_shared(message, ctx).await;
    }

    async fn handle_shared(&self, _: Meet, _: &Context<Self>) {
        let (sender, met) = oneshot::channel();
        self.arrived.send(sender).unwrap();
        met.await.unwrap();
    }
}

#[test]
fn shared_handlers_run_beside_one_another() {
    with_system(async |system| {
        let meeting = Spawn::<Meeting>::new(system.clone(), ()).await.unwrap();
        let all = [meeting.ask(Meet), meeting.ask(Meet), meeting.ask(Meet)].map(IntoFuture::into_future);
        for met in all {
            met.await.unwrap();
        }
    });
}
