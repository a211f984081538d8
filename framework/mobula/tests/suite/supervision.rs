//! What keeps actors alive (G5), and what dies is counted and told.

use mobula::prelude::*;

use crate::apparatus::{Gate, Journal, NotedDrop, until, within};

/// An actor that notes how it lives.
struct Worker {
    journal: Journal,
    name: String,
    handled: usize,
}

#[actor(max_restarts = 3, restart = "transient")]
impl Worker {
    fn new(ctx: &Context<Self>, journal: Journal, name: String) -> Self {
        journal.note(format!("{name} starts {}", ctx.incarnation()));
        Worker { journal, name, handled: 0 }
    }

    fn work(&mut self) -> usize {
        self.handled += 1;
        self.handled
    }

    fn panic(&mut self) {
        panic!("{} breaks", self.name)
    }

    fn fail(&mut self, ctx: &Context<Self>, why: String) {
        ctx.fail(Error::msg(why));
    }

    fn finish(&mut self, ctx: &Context<Self>) {
        ctx.stop();
    }

    async fn wait_at(&mut self, gate: Gate) {
        self.journal.note(format!("{} waits", self.name));
        gate.passed().await;
    }

    async fn stopping(&mut self, _: &ExitReason) {
        self.journal.note(format!("{} stops", self.name));
    }
}

impl Worker {
    fn spec(journal: Journal, name: &str) -> ChildSpec {
        ChildSpec::new::<Worker>(name, (journal, name.to_owned()))
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn mail_behind_a_panic_survives_it_and_the_state_does_not() -> Result<()> {
    let journal = Journal::new();
    let worker = Worker::spawn(journal, "a".to_owned()).await?;
    assert_eq!(journal.next().await, "a starts incarnation-1");
    assert_eq!(worker.work().await?, 1);
    let gate = Gate::new();
    let held = worker.wait_at(gate).submit();
    assert_eq!(journal.next().await, "a waits");
    let (panicked, after) = (worker.panic().submit(), worker.work().submit());
    gate.open();
    within(held).await?;
    assert!(matches!(within(panicked).await, Err(CallError::Panicked(panic)) if panic.message == "a breaks"));
    assert_eq!(*within(after).await?, 1);
    assert_eq!(journal.next().await, "a starts incarnation-2");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_that_fails_itself_is_restarted_too() -> Result<()> {
    let journal = Journal::new();
    let worker = Worker::spawn(journal, "a".to_owned()).await?;
    assert_eq!(journal.next().await, "a starts incarnation-1");
    worker.fail("tired").await?;
    assert_eq!(journal.next().await, "a stops");
    assert_eq!(journal.next().await, "a starts incarnation-2");
    assert_eq!(worker.work().await?, 1);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_transient_actor_that_stops_stays_stopped() -> Result<()> {
    let journal = Journal::new();
    let worker = Worker::spawn(journal, "a".to_owned()).await?;
    worker.finish().await?;
    until(|| !worker.is_alive()).await;
    let late = worker.work().await.unwrap_err();
    let CallError::NotStarted(NotStarted::ActorEnded { reason, .. }) = late else { panic!("{late}") };
    assert!(matches!(reason, ExitReason::Normal | ExitReason::Gone), "{reason}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn beyond_its_intensity_an_actor_ends_for_good() -> Result<()> {
    let worker = Worker::spawn(Journal::new(), "a".to_owned())
        .restart(RestartPolicy {
            intensity: mobula::Intensity { restarts_max: 1, period: secs(10) },
            ..Default::default()
        })
        .await?;
    within(worker.panic()).await.unwrap_err();
    within(worker.panic()).await.unwrap_err();
    until(|| !worker.is_alive()).await;
    Ok(())
}

/// The group of a, b and c, started in this order.
async fn group(strategy: Strategy, journal: Journal) -> Result<ActorRef<Supervisor>> {
    let group = ["a", "b", "c"]
        .into_iter()
        .fold(Supervisor::new(strategy), |group, name| group.child(Worker::spec(journal, name)))
        .spawn()
        .await?;
    let mut started = [journal.next().await, journal.next().await, journal.next().await];
    // Children start one after another, but each on a thread of its own.
    started.sort();
    assert_eq!(started, ["a starts incarnation-1", "b starts incarnation-1", "c starts incarnation-1"]);
    Ok(group)
}

/// Lets b break, and reads what is noted until the last of `expected`.
async fn breaks(strategy: Strategy, expected: &[&str]) -> Result<()> {
    let journal = Journal::new();
    let group = group(strategy, journal).await?;
    let b = group.child::<Worker>("b").await?;
    within(b.panic()).await.unwrap_err();
    let mut noted = Vec::new();
    for _ in expected {
        noted.push(journal.next().await);
    }
    noted.sort();
    assert_eq!(noted, expected, "{strategy:?}");
    assert_eq!(b.work().await?, 1);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn one_for_one_restarts_the_one() -> Result<()> {
    breaks(Strategy::OneForOne, &["b starts incarnation-2"]).await
}

#[mobula::test(plain, encoded, cluster)]
async fn rest_for_one_restarts_those_behind_it_too() -> Result<()> {
    breaks(Strategy::RestForOne, &["b starts incarnation-2", "c starts incarnation-2", "c stops"]).await
}

#[mobula::test(plain, encoded, cluster)]
async fn one_for_all_restarts_all() -> Result<()> {
    breaks(
        Strategy::OneForAll,
        &["a starts incarnation-2", "a stops", "b starts incarnation-2", "c starts incarnation-2", "c stops"],
    )
    .await
}

#[mobula::test(plain, encoded, cluster)]
async fn children_stop_in_reverse_order() -> Result<()> {
    let journal = Journal::new();
    let group = group(Strategy::OneForOne, journal).await?;
    group.stop();
    for name in ["c", "b", "a"] {
        assert_eq!(journal.next().await, format!("{name} stops"));
    }
    until(|| !group.is_alive()).await;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_supervisor_that_cannot_keep_a_child_alive_fails_up_the_tree() -> Result<()> {
    let journal = Journal::new();
    let inner = Supervisor::new(Strategy::OneForOne).intensity(0, secs(10)).child(Worker::spec(journal, "leaf"));
    let outer =
        Supervisor::new(Strategy::OneForOne).child(ChildSpec::new::<Supervisor>("inner", inner)).spawn().await?;
    assert_eq!(journal.next().await, "leaf starts incarnation-1");
    let leaf = outer.child::<Supervisor>("inner").await?.child::<Worker>("leaf").await?;
    within(leaf.panic()).await.unwrap_err();
    // The inner supervisor ended with its child and was started again by the outer one, with a new child.
    assert_eq!(journal.next().await, "leaf starts incarnation-1");
    // Its end and that note come from two processes.
    until(|| !leaf.is_alive()).await;
    assert!(outer.is_alive());
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn children_come_and_go() -> Result<()> {
    let journal = Journal::new();
    let group = Supervisor::new(Strategy::OneForOne).spawn().await?;
    group.start_child(Worker::spec(journal, "late")).await?;
    assert_eq!(journal.next().await, "late starts incarnation-1");
    assert!(group.start_child(Worker::spec(journal, "late")).await.is_err());
    assert!(group.child::<Supervisor>("late").await.is_err());
    assert_eq!(group.children().await?.len(), 1);
    assert!(group.stop_child("late").await?);
    assert_eq!(journal.next().await, "late stops");
    // It is forgotten when it has ended.
    while within(group.stop_child("late")).await? {}
    Ok(())
}

/// A parent that makes its children itself.
struct Parent {
    child: ActorRef<Worker>,
    _dropped: NotedDrop,
}

#[actor]
impl Parent {
    async fn new(journal: Journal, ctx: &Context<Self>) -> Result<Self> {
        let child = ctx.spawn::<Worker>((journal, "child".to_owned())).await?;
        Ok(Parent { child, _dropped: NotedDrop(journal, "parent gone") })
    }

    fn child(&self) -> ActorRef<Worker> {
        self.child.clone()
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn a_child_ends_before_its_parent() -> Result<()> {
    let journal = Journal::new();
    let parent = Parent::spawn(journal).await?;
    assert_eq!(journal.next().await, "child starts incarnation-1");
    let child = parent.child().await?;
    assert_eq!(child.work().await?, 1);
    parent.stop();
    assert_eq!(journal.next().await, "child stops");
    assert_eq!(journal.next().await, "parent gone");
    until(|| !child.is_alive()).await;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_kill_drops_the_handler_where_it_waits() -> Result<()> {
    let journal = Journal::new();
    let worker = Worker::spawn(journal, "a".to_owned()).await?;
    assert_eq!(journal.next().await, "a starts incarnation-1");
    let held = worker.wait_at(Gate::new()).submit();
    assert_eq!(journal.next().await, "a waits");
    worker.kill();
    let error = within(held).await.unwrap_err();
    assert!(matches!(error, CallError::MayHaveRun(_)), "{error}");
    // Killed is no normal end, so it starts again; nobody said goodbye.
    assert_eq!(journal.next().await, "a starts incarnation-2");
    Ok(())
}

/// Panics wherever a type can.
struct Brittle;

#[actor(restart = "temporary")]
impl Brittle {
    fn new(at_start: bool) -> Self {
        assert!(!at_start, "breaks at the start");
        Brittle
    }

    fn stop(&mut self, ctx: &Context<Self>) {
        ctx.stop();
    }

    fn stopping(&mut self) {
        panic!("breaks while it stops")
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        panic!("breaks while it is dropped")
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn a_panic_anywhere_leaves_the_process_standing() -> Result<()> {
    let failed = Brittle::spawn(true).await.unwrap_err();
    assert!(failed.to_string().contains("breaks at the start"), "{failed}");
    let brittle = Brittle::spawn(false).await?;
    within(brittle.stop()).await?;
    until(|| !brittle.is_alive()).await;
    Ok(())
}
