//! What waits for itself is found and named, and nothing else is.

use std::path::PathBuf;
use std::time::Instant;

use mobula::prelude::*;

use super::nodes::Nodes;
use super::scheduling::{LOOK_AGAIN, Notes};
use super::{HANGS, SETTLES};

/// Handles one message after another.
struct Link;

#[actor]
impl Link {
    fn new() -> Self {
        Link
    }

    /// Has the last of `others` do the same with the rest.
    async fn pass(&mut self, mut others: Vec<ActorRef<Link>>) -> usize {
        match others.pop() {
            Some(next) => next.pass(others).no_timeout().await.unwrap_or_default() + 1,
            None => 0,
        }
    }

    async fn run(&mut self, me: ActorRef<Link>) -> usize {
        call_back::remote(me).await.map_or(0, |count| *count)
    }

    async fn ask(&mut self, open: ActorRef<Open>, folder: String) {
        open.hold(folder).await.ok();
    }
}

/// Calls an actor from a thread that waits.
#[remote(num_cpus = 0)]
fn call_back(actor: ActorRef<Link>) -> usize {
    actor.pass(Vec::new()).submit().wait().map_or(0, |count| *count)
}

/// Handles several messages beside one another.
struct Open;

#[actor(concurrency = 8)]
impl Open {
    fn new() -> Self {
        Open
    }

    async fn meet(&self, me: ActorRef<Open>, other: ActorRef<Open>, folder: String) {
        other.meet_back(me, folder).await.ok();
    }

    async fn meet_back(&self, first: ActorRef<Open>, folder: String) {
        first.hold(folder).await.ok();
    }

    /// Ends when there is a note.
    async fn hold(&self, folder: String) {
        let folder = PathBuf::from(folder);
        let end = Instant::now() + HANGS / 2;
        while std::fs::read_dir(&folder).map_or(0, Iterator::count) == 0 && Instant::now() < end {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
}

/// Waits until `mobula why` says something of `id` that holds.
async fn said(nodes: &Nodes, id: impl std::fmt::Display, holds: impl Fn(&str) -> bool) -> String {
    let until = Instant::now() + SETTLES;
    loop {
        let why = nodes.why(&id).await;
        match why {
            Some(why) if holds(&why) => return why,
            why => assert!(Instant::now() < until, "of {id} is said: {why:?}"),
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

pub(crate) async fn what_waits_for_itself(nodes: &Nodes) -> Result<()> {
    let (here, there) = nodes.ids();
    let (a, b) = (Link::spawn().on_node(here).await?, Link::spawn().on_node(there).await?);
    let c = Link::spawn().on_node(here).await?;

    // Each of three asks the next, and the last the first; on two nodes.
    let (first, others) = (a.clone(), vec![a.clone(), c.clone(), b.clone()]);
    let round = tokio::spawn(async move { first.pass(others).no_timeout().await });
    let why = said(nodes, a.id(), |why| why.contains(" → ")).await;
    let ring = format!("it waits for itself: {} → {} → {} → {}, since ", a.id(), b.id(), c.id(), a.id());
    assert!(why.starts_with(&ring), "{why}");
    let listed = nodes.list("actors").await;
    for link in [&a, &b, &c] {
        let why = listed.iter().find(|item| item.id == link.id().to_string()).and_then(|item| item.why.clone());
        assert!(
            why.is_some_and(|why| why.starts_with(&format!("it waits for itself: {} → ", link.id()))),
            "{listed:?}"
        );
    }
    assert!(listed.iter().all(|item| item.kind != "wait"), "{listed:?}");
    round.abort();
    assert_eq!(a.pass(Vec::new()).await?, 0, "given up, it goes on");

    // An actor awaits a task that waits for the actor.
    let (first, me) = (a.clone(), a.clone());
    let round = tokio::spawn(async move { first.run(me).no_timeout().await });
    let why = said(nodes, a.id(), |why| why.contains(" → ")).await;
    let task = nodes.list("tasks").await.into_iter().find(|task| task.name.contains("call_back"));
    let task = task.expect("it runs").id;
    assert!(why.starts_with(&format!("it waits for itself: {} → {task} → {}, since ", a.id(), a.id())), "{why}");
    said(nodes, &task, |why| why.starts_with(&format!("it waits for itself: {task} → {} → {task}", a.id()))).await;
    round.abort();
    assert_eq!(a.pass(Vec::new()).await?, 0);

    // Two that each await the other, and could go on: they serve it beside what awaits.
    let notes = Notes::new("rings");
    let (x, y) = (Open::spawn().await?, Open::spawn().await?);
    let (first, me, other, folder) = (x.clone(), x.clone(), y.clone(), notes.path());
    let meet = tokio::spawn(async move { first.meet(me, other, folder).await });
    let (first, open, folder) = (a.clone(), x.clone(), notes.path());
    let ask = tokio::spawn(async move { first.ask(open, folder).await });
    let why = said(nodes, a.id(), |why| why.contains("awaits")).await;
    assert!(why.starts_with(&format!("it awaits {}, since ", x.id())), "{why}");
    assert_eq!((nodes.why(x.id()).await, nodes.why(y.id()).await), (None, None));
    std::fs::write(PathBuf::from(notes.path()).join("go"), [])?;
    meet.await??;
    ask.await??;
    Ok(())
}
