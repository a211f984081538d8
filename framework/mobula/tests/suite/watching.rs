//! `watch` and `link`: who dies, who is told, who dies too.

use mobula::Down;
use mobula::prelude::*;

use crate::apparatus::{Journal, until, within};

struct Watched;

#[actor(max_restarts = 1)]
impl Watched {
    fn new() -> Self {
        Watched
    }

    fn ping(&self) {}

    fn panic(&mut self) {
        panic!("gone")
    }
}

struct Watcher {
    journal: Journal,
}

#[actor(restart = "temporary")]
impl Watcher {
    fn new(journal: Journal) -> Self {
        Watcher { journal }
    }

    fn watch(&mut self, other: ActorRef<Watched>, ctx: &Context<Self>) {
        ctx.watch(other.address());
    }

    fn unwatch(&mut self, other: ActorRef<Watched>, ctx: &Context<Self>) {
        ctx.unwatch(other.address());
    }

    fn link(&mut self, other: ActorRef<Watched>, ctx: &Context<Self>) {
        ctx.link(other.address());
    }

    async fn stopping(&mut self, reason: &ExitReason) {
        self.journal.note(format!("ends: {reason}"));
    }
}

impl Handler<Down> for Watcher {
    async fn handle(&mut self, down: Down, _: &Context<Self>) {
        let ended = if down.ended { "for good" } else { "once" };
        self.journal.note(format!("{} {ended}: {}", down.incarnation, down.reason.root()));
    }
}

#[mobula::test(plain, encoded, cluster)]
async fn a_watcher_is_told_of_every_death() -> Result<()> {
    let journal = Journal::new();
    let (watcher, watched) = (Watcher::spawn(journal).await?, Watched::spawn().await?);
    watcher.watch(watched.clone()).await?;
    within(watched.panic()).await.unwrap_err();
    let first = journal.next().await;
    assert!(first.starts_with("incarnation-1 once: ") && first.contains("gone"), "{first}");
    within(watched.panic()).await.unwrap_err();
    let second = journal.next().await;
    assert!(second.starts_with("incarnation-2 for good: ") && second.contains("gone"), "{second}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_watch_of_the_dead_says_so_at_once() -> Result<()> {
    let journal = Journal::new();
    let (watcher, watched) = (Watcher::spawn(journal).await?, Watched::spawn().await?);
    watched.stop();
    until(|| !watched.is_alive()).await;
    watcher.watch(watched.clone()).await?;
    assert!(journal.next().await.ends_with(&format!("for good: {}", ExitReason::Gone)));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn who_watches_no_more_is_not_told() -> Result<()> {
    let journal = Journal::new();
    let (watcher, watched) = (Watcher::spawn(journal).await?, Watched::spawn().await?);
    watcher.watch(watched.clone()).await?;
    watcher.unwatch(watched.clone()).await?;
    within(watched.panic()).await.unwrap_err();
    within(watched.ping()).await?;
    watcher.stop();
    // Had it been told, that would stand before its end.
    assert!(journal.next().await.starts_with("ends: "));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn linked_actors_die_together() -> Result<()> {
    let journal = Journal::new();
    let (watcher, watched) = (Watcher::spawn(journal).await?, Watched::spawn().await?);
    watcher.link(watched.clone()).await?;
    within(watched.panic()).await.unwrap_err();
    let end = journal.next().await;
    assert!(end.starts_with("ends: ") && end.contains("gone"), "{end}");
    until(|| !watcher.is_alive()).await;
    Ok(())
}
