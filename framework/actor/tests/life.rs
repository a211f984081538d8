//! Actors by hand: calls, panics, restarts, stops, families.

mod counter;

use std::sync::mpsc;
use std::time::Duration;

use counter::{Add, Boom, Counter, Hold, with_system};
use mobula_actor::{
    Actor, ActorRef, Address, Context, Count, Down, Handler, MailboxBounds, Message, Spawn, SpawnError,
};
use mobula_types::{ActorName, CallError, Error, ExitReason, NotStarted, Outcome, Unknown};

#[test]
fn an_ask_is_answered_and_a_tell_is_handled() {
    with_system(async |system| {
        let counter = Spawn::<Counter>::new(system.clone(), 1).await.unwrap();
        counter.try_send(Add(2)).unwrap();
        assert_eq!(counter.ask(Add(3)).await, Ok(6));
        assert_eq!(counter.ask(Add(0)).submit().get().await.map(|sum| *sum), Ok(6));
        assert_eq!(system.counters().outcomes(Outcome::Ok), 2);
    });
}

#[test]
fn a_panic_is_the_callers_and_the_actor_starts_again() {
    with_system(async |system| {
        let counter = Spawn::<Counter>::new(system.clone(), 10).await.unwrap();
        counter.ask(Add(5)).await.unwrap();
        let boom = counter.ask(Boom);
        let after = counter.ask(Add(1)).into_future();
        let (boom, after) = (boom.await, after.await);
        let Err(CallError::Panicked(panic)) = boom else { panic!("expected a panic, got {boom:?}") };
        assert_eq!(panic.message, "boom");
        assert!(panic.location.is_some_and(|place| place.contains("counter")));
        // The mail behind the panic survived the restart; the state did not.
        assert!(matches!(after, Ok(11 | 16)), "{after:?}");
        assert_eq!(counter.ask(Add(0)).await.map(|sum| sum <= 11), Ok(true));
        assert_eq!(system.counters().of(Count::Restarts), 1);
    });
}

#[test]
fn an_actor_that_dies_too_often_ends_for_good_and_says_why() {
    with_system(async |system| {
        let counter = Spawn::<Counter>::new(system.clone(), 0).await.unwrap();
        for _ in 0..4 {
            assert!(matches!(counter.ask(Boom).await, Err(CallError::Panicked(_))));
        }
        let late = counter.ask(Add(1)).await;
        let Err(CallError::NotStarted(NotStarted::ActorEnded { reason, .. })) = late else { panic!("{late:?}") };
        assert!(matches!(reason.root(), ExitReason::Panicked(panic) if panic.message == "boom"));
        assert!(counter.try_send(Add(1)).is_err_and(|error| error.message.0 == 1));
    });
}

#[test]
fn a_constructor_that_fails_is_the_spawners_error() {
    with_system(async |system| {
        let failed = Spawn::<Counter>::new(system.clone(), usize::MAX).await;
        let Err(SpawnError::StartFailed(ExitReason::Failed(chain))) = failed else { panic!("{failed:?}") };
        assert_eq!(chain.to_string(), "too large");
        assert_eq!(system.actors().len(), 0);
    });
}

#[test]
fn names_are_unique_while_their_actor_lives() {
    with_system(async |system| {
        let first = Spawn::<Counter>::new(system.clone(), 0).name("one").await.unwrap();
        let second = Spawn::<Counter>::new(system.clone(), 0).name("one").await;
        assert!(matches!(second, Err(SpawnError::NameTaken { by, .. }) if by == first.id()));
        first.stop();
        until(|| system.named(&ActorName::own("one")).is_none()).await;
        Spawn::<Counter>::new(system.clone(), 0).name("one").await.unwrap();
    });
}

#[test]
fn a_deadline_ends_an_ask_and_stale_mail_is_not_handled() {
    with_system(async |system| {
        let counter = Spawn::<Counter>::new(system.clone(), 0).await.unwrap();
        let (open, gate) = tokio::sync::oneshot::channel();
        let holding = counter.ask(Hold(gate)).into_future();
        let late = counter.ask(Add(1)).timeout(Duration::from_millis(20)).await;
        assert!(matches!(late, Err(CallError::DeadlineExceeded { given: Some(_) })), "{late:?}");
        open.send(()).unwrap();
        holding.await.unwrap();
        assert_eq!(counter.ask(Add(0)).await, Ok(0));
    });
}

#[test]
fn a_dropped_ask_is_not_run() {
    with_system(async |system| {
        let counter = Spawn::<Counter>::new(system.clone(), 0).await.unwrap();
        let (open, gate) = tokio::sync::oneshot::channel();
        let holding = counter.ask(Hold(gate)).into_future();
        drop(counter.ask(Add(1)).into_future());
        open.send(()).unwrap();
        holding.await.unwrap();
        assert_eq!(counter.ask(Add(0)).await, Ok(0));
        assert_eq!(system.counters().outcomes(Outcome::Cancelled), 1);
    });
}

#[test]
fn a_full_mailbox_refuses_tells_and_lets_asks_wait_in_order() {
    with_system(async |system| {
        let bounds = MailboxBounds { items_max: 2, bytes_max: 1 << 20 };
        let counter = Spawn::<Counter>::new(system.clone(), 0).mailbox(bounds).await.unwrap();
        let (open, gate) = tokio::sync::oneshot::channel();
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let holding = counter.ask(counter::HoldBegun(began, gate)).into_future();
        has_begun.await.unwrap();
        counter.try_send(Add(1)).unwrap();
        counter.try_send(Add(1)).unwrap();
        let refused = counter.try_send(Add(1)).unwrap_err();
        assert!(matches!(refused.cause, NotStarted::MailboxFull { waiting: 2 }));
        let first = counter.ask(Add(10)).into_future();
        let second = counter.ask(Add(100)).into_future();
        open.send(()).unwrap();
        holding.await.unwrap();
        // Awaited in the other order: each has its place since it was made.
        let (second, first) = tokio::join!(second, first);
        assert_eq!((first, second), (Ok(12), Ok(112)));
    });
}

#[test]
fn a_kill_drops_the_handler_and_tells_its_caller() {
    with_system(async |system| {
        let counter = Spawn::<Counter>::new(system.clone(), 0).await.unwrap();
        let (_open, gate) = tokio::sync::oneshot::channel();
        let (began, has_begun) = tokio::sync::oneshot::channel();
        let holding = counter.ask(counter::HoldBegun(began, gate)).into_future();
        has_begun.await.unwrap();
        counter.kill();
        let killed = holding.await;
        let reason = match killed {
            Err(CallError::MayHaveRun(Unknown::ActorEnded { reason, .. })) => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(reason, ExitReason::Killed);
        assert_eq!(counter.ask(Add(1)).await, Ok(1));
    });
}

struct Parent {
    child: ActorRef<Counter>,
}

struct GiveChild;
impl Message for GiveChild {
    type Reply = ActorRef<Counter>;
}

impl Actor for Parent {
    type Args = ();
    type Proxy = Address<Self>;

    async fn start((): (), ctx: &Context<Self>) -> Result<Self, Error> {
        Ok(Self { child: ctx.spawn::<Counter>(0).await? })
    }
}

impl Handler<GiveChild> for Parent {
    async fn handle(&mut self, _: GiveChild, _: &Context<Self>) -> ActorRef<Counter> {
        self.child.clone()
    }
}

#[test]
fn children_end_with_their_parent() {
    with_system(async |system| {
        let parent = Spawn::<Parent>::new(system.clone(), ()).await.unwrap();
        let child = parent.ask(GiveChild).await.unwrap();
        assert_eq!(child.ask(Add(1)).await, Ok(1));
        parent.stop();
        until(|| system.actors().is_empty()).await;
        assert!(!child.is_alive());
    });
}

#[test]
fn a_child_that_gives_up_ends_its_parent_with_the_root_cause() {
    with_system(async |system| {
        let parent =
            Spawn::<Parent>::new(system.clone(), ()).restart(mobula_types::RestartPolicy::temporary()).await.unwrap();
        let child = parent.ask(GiveChild).await.unwrap();
        for _ in 0..4 {
            child.ask(Boom).await.unwrap_err();
        }
        until(|| system.actors().is_empty()).await;
        let late = parent.ask(GiveChild).await.unwrap_err();
        let CallError::NotStarted(NotStarted::ActorEnded { reason, .. }) = late else { panic!("{late:?}") };
        assert!(matches!(&reason, ExitReason::Escalated { child: id, .. } if *id == child.id()), "{reason:?}");
        assert!(matches!(reason.root(), ExitReason::Panicked(_)));
    });
}

struct Watcher {
    seen: mpsc::Sender<Down>,
    other: ActorRef<Counter>,
}

impl Actor for Watcher {
    type Args = (mpsc::SyncSender<Down>, ActorRef<Counter>);
    type Proxy = Address<Self>;

    async fn start((sender, other): Self::Args, ctx: &Context<Self>) -> Result<Self, Error> {
        ctx.watch(&other);
        let (seen, inbox) = mpsc::channel();
        std::thread::spawn(move || inbox.into_iter().try_for_each(|down| sender.send(down)));
        Ok(Self { seen, other })
    }
}

impl Handler<Down> for Watcher {
    async fn handle(&mut self, down: Down, _: &Context<Self>) {
        assert_eq!(down.actor, self.other.id());
        self.seen.send(down).unwrap();
    }
}

#[test]
fn a_watcher_is_told_of_every_death() {
    with_system(async |system| {
        let counter = Spawn::<Counter>::new(system.clone(), 0).await.unwrap();
        let (sender, seen) = mpsc::sync_channel(8);
        let _watcher = Spawn::<Watcher>::new(system.clone(), (sender.clone(), counter.clone())).await.unwrap();
        counter.ask(Boom).await.unwrap_err();
        let down = seen.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(!down.ended && matches!(down.reason, ExitReason::Panicked(_)));
        counter.stop();
        let down = seen.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(down.ended && down.reason == ExitReason::Shutdown);
        // Who watches the dead is told at once.
        let _late = Spawn::<Watcher>::new(system.clone(), (sender, counter.clone())).await.unwrap();
        let down = seen.recv_timeout(Duration::from_secs(5)).unwrap();
        assert!(down.ended && down.reason == ExitReason::Gone);
    });
}

#[test]
fn mail_waits_behind_mail_whose_argument_is_awaited() {
    with_system(async |system| {
        let counter = Spawn::<Counter>::new(system.clone(), 0).await.unwrap();
        let argument = mobula_actor::ObjectRef::<usize>::pending(system, None);
        let wait = argument.clone();
        let message = Box::pin(async move { Ok(Add(*wait.get().await?)) });
        let first = mobula_actor::Call::resolving(counter.address(), message, Ok::<usize, CallError>).into_future();
        let second = counter.ask(Add(1)).into_future();
        argument.fill(Ok(10));
        let (second, first) = tokio::join!(second, first);
        assert_eq!((first, second), (Ok(10), Ok(11)));
    });
}

async fn until(condition: impl Fn() -> bool) {
    let patience = tokio::time::Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(tokio::time::Instant::now() < patience, "it did not come to pass within 5 s");
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_reference_hashes_alike_with_and_without_a_session() {
    type Message = (u8, ActorRef<Counter>, mobula_actor::ObjectRef<u32>);
    let outside = mobula_wire::schema_hash::<Message>();
    with_system(async |system| {
        let counter = Spawn::<Counter>::new(system.clone(), 0).await.unwrap();
        let inside = counter.ask(counter::Hash(mobula_wire::schema_hash::<Message>)).await.unwrap();
        assert_eq!(inside, outside);
    });
}
