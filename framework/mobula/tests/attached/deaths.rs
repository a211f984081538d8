//! What becomes of work whose process ends.

use std::time::Duration;

use mobula::prelude::*;
use mobula::{Attempt, Restart, RestartPolicy, TaskId, Unknown};

use super::Test;
use super::actors::Counter;

pub(crate) const TESTS: &[Test] = &[
    ("a task that kills its worker is tried again, then told", || Box::pin(a_task_that_kills())),
    ("a task that killed its worker runs alone", || Box::pin(a_culprit_runs_alone())),
    ("a task runs once where it may", || Box::pin(at_most_once())),
    ("an actor comes back", || Box::pin(an_actor_comes_back())),
    ("bystanders come back", || Box::pin(bystanders_come_back())),
    ("one for all", || Box::pin(one_for_all())),
    ("a death is told to those that watch", || Box::pin(watchers_are_told())),
    ("an end is told once", || Box::pin(an_end_is_told_once())),
];

/// Ends its process, and counts how often it did.
#[remote(max_retries = 2)]
async fn abort(key: String) -> Result<u32> {
    let runs = mobula::kv::get::<u32>(&key).await?.unwrap_or(0) + 1;
    mobula::kv::put(&key, &runs).await?;
    std::process::abort()
}

/// The same for a function that says so itself.
#[remote(at_most_once, max_retries = 2)]
async fn abort_at_most_once(key: String) -> Result<u32> {
    abort(key).await
}

type Run = Option<(TaskId, Attempt)>;

/// Ends its process the first time, and says where it runs the second time, and as which runs of which task.
#[remote]
async fn abort_once(key: String) -> Result<(u32, [Run; 2])> {
    match mobula::kv::get::<Run>(&key).await? {
        Some(first) => Ok((std::process::id(), [first, mobula::task_run()])),
        None => {
            mobula::kv::put(&key, &mobula::task_run()).await?;
            std::process::abort()
        }
    }
}

#[remote]
fn place_of_run() -> u32 {
    std::process::id()
}

pub(crate) struct Fragile {
    starts: u32,
}

#[actor(max_restarts = 3)]
impl Fragile {
    fn new() -> Self {
        Fragile { starts: 0 }
    }

    fn ping(&mut self) -> (u32, u32) {
        self.starts += 1;
        (std::process::id(), self.starts)
    }

    fn abort(&mut self) {
        std::process::abort()
    }
}

/// Asks until the actor has come back.
async fn ping_again(actor: &ActorRef<Fragile>) -> Result<(u32, u32)> {
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    loop {
        match actor.ping().await {
            Err(CallError::MayHaveRun(_)) if tokio::time::Instant::now() < end => {}
            answer => return Ok(answer?),
        }
    }
}

async fn a_task_that_kills() -> Result<()> {
    let error = mobula::get(abort::remote("runs")).await.err();
    let Some(CallError::MayHaveRun(Unknown::ProcessDied { death })) = error else { panic!("{error:?}") };
    assert!(death.to_string().contains("abort"), "{death}");
    assert_eq!(mobula::kv::get::<u32>("runs").await?, Some(3), "a first run and two more");
    Ok(())
}

async fn a_culprit_runs_alone() -> Result<()> {
    let (alone, runs) = *mobula::get(abort_once::remote("alone".to_owned())).await?;
    let [Some((first, one)), Some((second, two))] = runs else { panic!("{runs:?} are runs of a task") };
    assert_eq!((first, one.0, two.0), (second, 1, 2), "two runs of one task");
    assert_eq!(mobula::task_run(), None, "this is no task");
    let others: Vec<_> = (0..200).map(|_| place_of_run::remote()).collect();
    for other in mobula::get(others).await? {
        assert_ne!(*other, alone, "its second run was in a process of its own");
    }
    Ok(())
}

async fn at_most_once() -> Result<()> {
    // One after the other: what one takes down with it is not the other's run.
    for key in ["by option", "by key"] {
        let run = match key {
            "by key" => abort_at_most_once::remote(key),
            _ => abort::options().at_most_once().remote(key),
        };
        let error = mobula::get(run).await.err();
        assert!(matches!(error, Some(CallError::MayHaveRun(_))), "{error:?}");
        assert_eq!(mobula::kv::get::<u32>(key).await?, Some(1), "{key}");
    }
    Ok(())
}

async fn an_actor_comes_back() -> Result<()> {
    let actor = Fragile::spawn().await?;
    let (before, _) = actor.ping().await?;
    let error = actor.abort().await.err();
    assert!(matches!(error, Some(CallError::MayHaveRun(Unknown::ProcessDied { .. }))), "{error:?}");
    let (after, starts) = ping_again(&actor).await?;
    assert_ne!(before, after);
    assert_eq!(starts, 1, "its state is gone with its process");
    Ok(())
}

async fn bystanders_come_back() -> Result<()> {
    let culprit = Fragile::spawn().restart(RestartPolicy::temporary()).await?;
    let bystander = Counter::spawn().await?;
    bystander.add(1).await?;
    let error = culprit.abort().await.err();
    assert!(error.is_some());
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while bystander.add(1).await.is_err() {
        assert!(tokio::time::Instant::now() < end, "the bystander does not come back");
    }
    let error = culprit.ping().await.err();
    assert!(matches!(error, Some(CallError::NotStarted(NotStarted::ActorEnded { .. }))), "{error:?}");
    Ok(())
}

async fn one_for_all() -> Result<()> {
    let child = |id: &str| mobula::ChildSpec::with::<Fragile>(id, (), |spawn| spawn.isolated()).permanent();
    let group = Supervisor::new(Strategy::OneForAll).child(child("a")).child(child("b")).spawn().await?;
    let (a, b) = (group.child::<Fragile>("a").await?, group.child::<Fragile>("b").await?);
    let (first, second) = (a.ping().await?, b.ping().await?);
    assert_ne!(first.0, second.0);
    let error = a.abort().await.err();
    assert!(error.is_some());
    assert_ne!(ping_again(&a).await?.0, first.0);
    // Until it is stopped `b` counts on; started again it counts anew.
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut counted = second.1;
    loop {
        let now = ping_again(&b).await?.1;
        if now <= counted {
            return Ok(());
        }
        counted = now;
        assert!(tokio::time::Instant::now() < end, "the neighbour was not started again");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Watcher {
    downs: Vec<String>,
}

#[actor]
impl Watcher {
    async fn new(other: ActorRef<Fragile>, ctx: &Context<Self>) -> Self {
        ctx.watch(&other);
        Watcher { downs: Vec::new() }
    }

    fn downs(&mut self) -> Vec<String> {
        self.downs.clone()
    }
}

#[handler]
impl Handler<Down> for Watcher {
    async fn handle(&mut self, down: Down, _: &Context<Self>) {
        self.downs.push(down.reason.to_string());
    }
}

async fn watchers_are_told() -> Result<()> {
    let policy = RestartPolicy { restart: Restart::Temporary, ..RestartPolicy::temporary() };
    let fragile = Fragile::spawn().isolated().restart(policy).await?;
    let watcher = Watcher::spawn(fragile.clone()).await?;
    watcher.downs().await?;
    let error = fragile.abort().await.err();
    assert!(error.is_some());
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while watcher.downs().await?.is_empty() {
        assert!(tokio::time::Instant::now() < end, "nobody told of the death");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The home answers behind all that it has told of the end.
    let error = fragile.ping().await.err();
    assert!(matches!(error, Some(CallError::NotStarted(NotStarted::ActorEnded { .. }))), "{error:?}");
    let downs = watcher.downs().await?;
    assert!(downs.len() == 1 && downs[0].contains("abort"), "{downs:?}");
    Ok(())
}

/// Watches what it has spawned itself, in a process of its own: it is home and watcher at once.
struct Parent {
    downs: Vec<bool>,
    child: ActorRef<Fragile>,
}

#[actor]
impl Parent {
    async fn new(ctx: &Context<Self>) -> Result<Self> {
        let child = Fragile::spawn().isolated().restart(RestartPolicy::temporary()).await?;
        ctx.watch(&child);
        Ok(Parent { downs: Vec::new(), child })
    }

    /// Its child has answered: the watch is there, since it went before.
    async fn end_child(&mut self) -> Result<()> {
        self.child.ping().await?;
        self.child.stop();
        Ok(())
    }

    fn knows_of_the_end(&self) -> bool {
        !self.child.is_alive()
    }

    fn downs(&mut self) -> Vec<bool> {
        self.downs.clone()
    }
}

#[handler]
impl Handler<Down> for Parent {
    async fn handle(&mut self, down: Down, _: &Context<Self>) {
        self.downs.push(down.ended);
    }
}

async fn an_end_is_told_once() -> Result<()> {
    let parent = Parent::spawn().await?;
    parent.end_child().await?;
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while !parent.knows_of_the_end().await? || parent.downs().await?.is_empty() {
        assert!(tokio::time::Instant::now() < end, "nobody told of the end");
    }
    // What its home had to say would be there by now.
    assert_eq!(parent.downs().await?, [true]);
    Ok(())
}
