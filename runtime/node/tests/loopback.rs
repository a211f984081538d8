//! Actors through the codec: what is spawned lives on the other side, and calls, replies and references cross.

mod functions;

use functions::{in_session, two};
use mobula_actor::registry::{ActorEntry, HandlerEntry};
use mobula_actor::{
    Actor, ActorRef, Address, Context, Control, Down, Handler, Message, ObjectRef, Recipient, ReplyStream, Spawn,
    SpawnError, System, current,
};
use mobula_types::{CallError, Error, ExitReason, NotStarted};
use serde::{Deserialize, Serialize};

struct Counter {
    total: u64,
}

impl Actor for Counter {
    type Args = u64;
    type Proxy = Address<Self>;

    async fn start(total: u64, _: &Context<Self>) -> Result<Self, Error> {
        if total == 13 { Err(Error::msg("13 brings bad luck")) } else { Ok(Self { total }) }
    }
}

inventory::submit!(ActorEntry::of::<Counter>("loopback::Counter"));

#[derive(Serialize, Deserialize)]
struct Add(u64);

impl Message for Add {
    type Reply = u64;
}

impl Handler<Add> for Counter {
    async fn handle(&mut self, Add(n): Add, _: &Context<Self>) -> u64 {
        assert!(n < 1_000, "{n} is too much");
        self.total += n;
        self.total
    }
}

inventory::submit!(HandlerEntry::value::<Counter, Add>("loopback::Counter::Add"));

/// Adds what a reference inside the message refers to, and gives a reference back.
#[derive(Serialize, Deserialize)]
struct AddAll {
    numbers: Vec<ObjectRef<u64>>,
    tell: Recipient<Add>,
}

impl Message for AddAll {
    type Reply = ObjectRef<u64>;
}

impl Handler<AddAll> for Counter {
    async fn handle(&mut self, message: AddAll, ctx: &Context<Self>) -> ObjectRef<u64> {
        for number in message.numbers {
            self.total += *number.await.unwrap();
        }
        message.tell.send(Add(self.total)).await.unwrap();
        ObjectRef::ready(ctx.system(), self.total)
    }
}

inventory::submit!(HandlerEntry::value::<Counter, AddAll>("loopback::Counter::AddAll"));

#[derive(Serialize, Deserialize)]
struct CountTo(u64);

impl Message for CountTo {
    type Reply = ReplyStream<u64>;
}

impl Handler<CountTo> for Counter {
    async fn handle(&mut self, CountTo(n): CountTo, ctx: &Context<Self>) -> ReplyStream<u64> {
        ctx.stream(futures_util::stream::iter(1..=n))
    }
}

inventory::submit!(HandlerEntry::stream::<Counter, CountTo, u64>("loopback::Counter::CountTo"));

/// The actor as it knows itself, and the system it lives in.
static HERE: std::sync::Mutex<Option<(ActorRef<Counter>, std::sync::Arc<System>)>> = std::sync::Mutex::new(None);

#[derive(Serialize, Deserialize)]
struct Remember;

impl Message for Remember {
    type Reply = ();
}

impl Handler<Remember> for Counter {
    async fn handle(&mut self, _: Remember, ctx: &Context<Self>) {
        *HERE.lock().unwrap() = Some((ctx.me(), ctx.system().clone()));
    }
}

inventory::submit!(HandlerEntry::value::<Counter, Remember>("loopback::Counter::Remember"));

/// In no table.
struct Unregistered;

impl Message for Unregistered {
    type Reply = ();
}

impl Handler<Unregistered> for Counter {
    async fn handle(&mut self, _: Unregistered, _: &Context<Self>) {}
}

async fn counter(start: u64) -> ActorRef<Counter> {
    Spawn::<Counter>::here(start).await.unwrap()
}

#[test]
fn spawns_calls_and_failures_cross() {
    in_session(&two(), || async {
        let counter = counter(1).await;
        assert_eq!(counter.ask(Add(2)).await, Ok(3));
        assert!(
            matches!(counter.ask(Add(1_000)).await, Err(CallError::Panicked(panic)) if panic.message.contains("1000"))
        );
        assert_eq!(counter.ask(Add(1)).await, Ok(2), "it has started again");
        let failed = Spawn::<Counter>::here(13).await.unwrap_err();
        assert!(matches!(failed, SpawnError::StartFailed(ExitReason::Failed(_))), "{failed}");
        let later = counter.ask(Add(5)).submit();
        assert_eq!(*later.await.unwrap(), 7);
    });
}

/// Whoever knows the actor as one of its own process reaches its next life elsewhere, by whichever way it sends.
#[test]
fn what_is_sent_to_one_that_has_moved_leaves_the_process() {
    in_session(&two(), || async {
        let counter = counter(0).await;
        counter.ask(Remember).await.unwrap();
        let (me, system) = HERE.lock().unwrap().take().unwrap();
        system.control_local(me.id(), Control::Leave);
        let left = async {
            while system.hosts(me.id()) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), left).await.expect("it leaves");
        let is_of_here = |cause: &NotStarted| matches!(cause, NotStarted::ActorEnded { reason: ExitReason::Moved, .. });
        // Nobody starts it again in this test: the other side says that it is nowhere.
        for cause in [
            me.ask(Add(1)).tell().unwrap_err().cause,
            me.ask(Add(1)).send().await.unwrap_err().cause,
            me.ask(Add(1)).at_least_once().tell().unwrap_err().cause,
        ] {
            assert!(!is_of_here(&cause), "{cause}");
        }
    });
}

#[test]
fn references_inside_messages_cross() {
    in_session(&two(), || async {
        let (counter, other) = (counter(0).await, counter(100).await);
        let system = current::system().unwrap();
        let numbers = vec![ObjectRef::ready(&system, 3), ObjectRef::ready(&system, 4)];
        let total = counter.ask(AddAll { numbers, tell: other.recipient() }).await.unwrap();
        assert_eq!(*total.await.unwrap(), 7);
        assert_eq!(other.ask(Add(0)).await, Ok(107), "a recipient is resolved where it arrives");
    });
}

#[test]
fn streams_cross_and_names_are_found() {
    in_session(&two(), || async {
        let counter = Spawn::<Counter>::here(0).name("words").await.unwrap();
        let mut items = counter.ask(CountTo(300)).await.unwrap();
        for expect in 1..=300 {
            assert_eq!(items.next().await, Some(Ok(expect)));
        }
        assert_eq!(items.next().await, None);
        let taken = Spawn::<Counter>::here(0).name("words").await.unwrap_err();
        assert!(matches!(taken, SpawnError::NameTaken { by, .. } if by == counter.id()));
    });
}

#[test]
fn what_is_in_no_table_stays_in_its_process() {
    in_session(&two(), || async {
        let counter = counter(0).await;
        let is_here = current::system().unwrap().deliver().is_none();
        match counter.ask(Unregistered).await {
            Ok(()) => assert!(is_here),
            Err(CallError::NotStarted(NotStarted::LocalOnly { type_name })) => {
                assert!(!is_here && type_name.ends_with("Unregistered"));
            }
            Err(error) => panic!("{error}"),
        }
    });
}

/// Lives on the driver's side, since it is in no table, and watches an actor of the other.
struct Watcher(Option<tokio::sync::oneshot::Sender<Down>>);

type Told = std::sync::Arc<std::sync::Mutex<Option<tokio::sync::oneshot::Sender<Down>>>>;

impl Actor for Watcher {
    type Args = (Told, ActorRef<Counter>);
    type Proxy = Address<Self>;

    async fn start((told, whom): Self::Args, ctx: &Context<Self>) -> Result<Self, Error> {
        ctx.watch(whom.address());
        Ok(Self(told.lock().unwrap().take()))
    }
}

impl Handler<Down> for Watcher {
    async fn handle(&mut self, down: Down, _: &Context<Self>) {
        if let Some(told) = self.0.take() {
            told.send(down).ok();
        }
    }
}

#[test]
fn deaths_are_told_across() {
    in_session(&two(), || async {
        let counter = counter(0).await;
        let (told, down) = tokio::sync::oneshot::channel();
        let told = std::sync::Arc::new(std::sync::Mutex::new(Some(told)));
        let _watcher = Spawn::<Watcher>::here((told, counter.clone())).await.unwrap();
        counter.stop();
        let down = down.await.unwrap();
        assert_eq!((down.actor, down.reason, down.ended), (counter.id(), ExitReason::Shutdown, true));
        assert!(matches!(counter.ask(Add(1)).await, Err(CallError::NotStarted(NotStarted::ActorEnded { .. }))));
    });
}
