//! Deadlines: who has one, who inherits it, and what happens at it (G3).

use std::time::Duration;

use mobula::prelude::*;

use crate::apparatus::{Gate, Journal, NotedDrop, heard, until_it_begins, within};

struct Server {
    journal: Journal,
}

#[actor(concurrency = 8)]
impl Server {
    fn new(journal: Journal) -> Self {
        Server { journal }
    }

    async fn hold(&mut self, gate: Gate) {
        self.journal.note("holding");
        gate.passed().await;
    }

    /// Notes what it is called with.
    fn note(&mut self, what: String) {
        self.journal.note(what);
    }

    async fn time_left(&self, ctx: &Context<Self>) -> Option<Duration> {
        ctx.time_left()
    }

    async fn ask_other(&self, other: ActorRef<Server>) -> Option<Duration> {
        other.time_left().await.unwrap()
    }

    async fn run_patient(&self, journal: Journal) {
        patient::remote(journal).await.unwrap_err();
    }
}

/// Ends when its caller's patience does.
#[remote]
async fn patient(journal: Journal) {
    let _dropped = NotedDrop(journal, "dropped");
    journal.note("begun");
    std::future::pending().await
}

#[remote(timeout_ms = 10)]
async fn too_long(journal: Journal) {
    let _dropped = NotedDrop(journal, "dropped");
    journal.note("begun");
    std::future::pending().await
}

#[mobula::test(plain, encoded, cluster)]
async fn an_ask_ends_with_its_deadline() -> Result<()> {
    let journal = Journal::new();
    let server = Server::spawn(journal).await?;
    let gate = Gate::new();
    let late = within(server.hold(gate).timeout(millis(10))).await;
    assert_eq!(late, Err(CallError::DeadlineExceeded { given: Some(millis(10)) }));
    gate.open();
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn mail_whose_deadline_has_passed_is_not_handled() -> Result<()> {
    let journal = Journal::new();
    let server = Server::spawn(journal).await?;
    let gate = Gate::new();
    let holding = server.hold(gate).submit();
    assert_eq!(journal.next().await, "holding");
    let late = within(server.note("stale").timeout(millis(5))).await;
    assert!(matches!(late, Err(CallError::DeadlineExceeded { .. })));
    heard().await?;
    gate.open();
    within(holding).await?;
    server.note("fresh").await?;
    assert_eq!(journal.next().await, "fresh");
    Ok(())
}

/// Whether this is what is left of `given`: some time has passed on the way, and less than another one has fewer.
fn is_left_of(left: Option<Duration>, given: u64) -> bool {
    left.is_some_and(|left| left <= secs(given) && left > secs(given) / 2)
}

#[mobula::test(plain, encoded, cluster)]
async fn only_an_ask_has_a_deadline_by_default() -> Result<()> {
    let server = Server::spawn(Journal::new()).await?;
    let left = server.time_left().await?;
    assert!(is_left_of(left, 30), "{left:?}");
    assert_eq!(server.time_left().no_timeout().await?, None);
    assert_eq!(*server.time_left().submit().await?, None);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn what_a_handler_asks_inherits_what_is_left() -> Result<()> {
    let server = Server::spawn(Journal::new()).await?;
    let other = Server::spawn(Journal::new()).await?;
    let left = server.ask_other(other.clone()).timeout(secs(14)).await?;
    assert!(is_left_of(left, 14), "{left:?}");
    let left = server.ask_other(other).timeout(secs(300)).await?;
    assert!(is_left_of(left, 30), "{left:?}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_task_ends_with_its_deadline_and_is_dropped() {
    let journal = Journal::new();
    let late = within(too_long::remote(journal)).await.unwrap_err();
    assert_eq!(late, CallError::DeadlineExceeded { given: Some(millis(10)) });
    until_it_begins(journal, async |deadline| {
        let late = too_long::options().timeout(deadline).remote(journal).await.unwrap_err();
        assert_eq!(late, CallError::DeadlineExceeded { given: Some(deadline) });
    })
    .await;
}

#[mobula::test(plain, encoded, cluster)]
async fn a_task_inherits_the_deadline_that_a_person_set() -> Result<()> {
    let journal = Journal::new();
    let server = Server::spawn(Journal::new()).await?;
    // The task and the call end at the same time: whichever is first, the task is dropped.
    until_it_begins(journal, async |deadline| {
        let _ = server.run_patient(journal).timeout(deadline).await;
    })
    .await;
    Ok(())
}
