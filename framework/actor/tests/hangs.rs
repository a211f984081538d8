//! Handlers that keep their thread: who is reported, who is not.

mod counter;

use std::sync::mpsc;
use std::time::Duration;

use counter::{Counter, HoldBegun, with_system};
use mobula_actor::{Actor, Address, Context, Count, Handler, Hang, Message, Mode, Spawn, System};
use mobula_types::Error;
use tokio::sync::oneshot;

/// Longer than a busy machine keeps a thread that computes from its CPU: that too is a turn that takes long.
const LIMIT: Duration = Duration::from_millis(200);
/// A report that never comes shows as this.
const PATIENCE: Duration = Duration::from_secs(10);

/// Blocks its thread until told otherwise.
struct Blocker;

struct Block {
    protects: bool,
    began: mpsc::Sender<()>,
    until: mpsc::Receiver<()>,
}

impl Message for Block {
    type Reply = ();
}

impl Actor for Blocker {
    type Args = ();
    type Proxy = Address<Self>;

    async fn start((): (), _: &Context<Self>) -> Result<Self, Error> {
        Ok(Self)
    }
}

impl Handler<Block> for Blocker {
    const MODE: Mode = Mode::Sync;

    async fn handle(&mut self, message: Block, ctx: &Context<Self>) {
        self.handle_sync(message, ctx);
    }

    fn handle_sync(&mut self, message: Block, ctx: &Context<Self>) {
        let _mark = message.protects.then(|| ctx.protect());
        message.began.send(()).ok();
        message.until.recv_timeout(PATIENCE).ok();
    }
}

fn reports(system: &System) -> mpsc::Receiver<Hang> {
    let (reported, reports) = mpsc::channel();
    system.on_hang(LIMIT, move |hang| {
        reported.send(hang.clone()).ok();
    });
    reports
}

fn block(protects: bool) -> (Block, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let ((began, has_begun), (release, until)) = (mpsc::channel(), mpsc::channel());
    (Block { protects, began, until }, has_begun, release)
}

#[test]
fn a_handler_that_keeps_its_thread_is_reported_once() {
    with_system(async |system| {
        let reports = reports(system);
        let blocker = Spawn::<Blocker>::new(system.clone(), ()).spread().await.unwrap();
        let (message, _begun, release) = block(false);
        let call = blocker.ask(message).into_future();
        let hang = reports.recv_timeout(PATIENCE).expect("the hang is reported");
        assert_eq!((hang.actor, hang.type_name), (blocker.id(), std::any::type_name::<Blocker>()));
        assert!(hang.since >= LIMIT && hang.doing.starts_with("sleeping"), "{hang}");
        release.send(()).unwrap();
        assert_eq!(call.await, Ok(()));
        // The same actor again is another hang.
        let (message, _begun, release) = block(false);
        let call = blocker.ask(message).into_future();
        reports.recv_timeout(PATIENCE).expect("the second hang is reported");
        release.send(()).unwrap();
        assert_eq!(call.await, Ok(()));
        assert_eq!((system.counters().of(Count::Hangs), reports.try_recv().ok()), (2, None));
    });
}

#[test]
fn who_holds_a_mark_or_awaits_or_has_a_thread_of_its_own_is_not_reported() {
    with_system(async |system| {
        let reports = reports(system);
        let waiter = Spawn::<Counter>::new(system.clone(), 0).spread().await.unwrap();
        let ((began, has_begun), (gate, held)) = (oneshot::channel(), oneshot::channel());
        let waiting = waiter.ask(HoldBegun(began, held)).into_future();
        has_begun.await.unwrap();
        let alone = Spawn::<Blocker>::new(system.clone(), ()).dedicated().await.unwrap();
        let (message, begun, release_alone) = block(false);
        let blocked_alone = alone.ask(message).into_future();
        begun.recv_timeout(PATIENCE).unwrap();
        // Whichever of the two threads is taken first, the next actor gets the other.
        let marked = Spawn::<Blocker>::new(system.clone(), ()).spread().await.unwrap();
        let culprit = Spawn::<Blocker>::new(system.clone(), ()).spread().await.unwrap();
        let (message, begun, release_marked) = block(true);
        let protected = marked.ask(message).into_future();
        begun.recv_timeout(PATIENCE).unwrap();
        let (message, _begun, release) = block(false);
        let call = culprit.ask(message).into_future();
        // By the time of this report the watch has seen the others for at least as long.
        let hang = reports.recv_timeout(PATIENCE).expect("the culprit is reported");
        assert_eq!(hang.actor, culprit.id());
        for release in [release, release_marked, release_alone] {
            release.send(()).unwrap();
        }
        gate.send(()).unwrap();
        assert_eq!((call.await, protected.await, blocked_alone.await, waiting.await), (Ok(()), Ok(()), Ok(()), Ok(())));
        assert_eq!((system.counters().of(Count::Hangs), reports.try_recv().ok()), (1, None));
    });
}
