//! What a caller that goes away does to what it called.

use mobula::NotCancellable;
use mobula::prelude::*;

use crate::apparatus::{Gate, Journal, NotedDrop, heard, within};

struct Server {
    journal: Journal,
}

#[actor]
impl Server {
    fn new(journal: Journal) -> Self {
        Server { journal }
    }

    /// Runs on when its caller goes, and sees it.
    async fn see(&mut self, ctx: &Context<Self>) {
        self.journal.note("begun");
        ctx.cancelled().await;
        assert!(ctx.is_cancelled() && mobula::cancelled());
        self.journal.note("seen, and goes on");
    }

    #[handler(cancel = drop)]
    async fn give_up(&mut self) {
        let _dropped = NotedDrop(self.journal, "dropped");
        self.journal.note("begun");
        std::future::pending().await
    }

    async fn hold(&mut self, gate: Gate) {
        self.journal.note("holding");
        gate.passed().await;
    }

    fn note(&mut self, what: String) {
        self.journal.note(what);
    }

    /// Calls another, which this one's caller can cancel.
    async fn pass_on(&mut self, other: ActorRef<Server>) {
        self.journal.note("begun");
        let error = other.see().await.unwrap_err();
        self.journal.note(error.to_string());
    }

    /// A task of its own, which its caller can cancel.
    #[handler(cancel = drop)]
    async fn run_task(&mut self) {
        hold_task::remote(self.journal).await.unwrap_err();
    }
}

#[remote]
async fn hold_task(journal: Journal) {
    let _dropped = NotedDrop(journal, "dropped");
    journal.note("begun");
    std::future::pending().await
}

#[remote]
fn compute(journal: Journal) {
    journal.note("begun");
    while !mobula::cancelled() {
        std::thread::yield_now();
    }
    journal.note("seen");
}

/// Waits for a task of its own.
#[remote]
async fn wait_for_task(journal: Journal) {
    hold_task::remote(journal).await.unwrap_err();
}

#[remote]
async fn never(gate: Gate, journal: Journal, _after: ()) {
    gate.passed().await;
    journal.note("ran");
}

/// Polls `call` until `journal` says `begun`, then drops it.
async fn begin_and_drop<F: IntoFuture>(call: F, journal: Journal) {
    let mut call = Box::pin(call.into_future());
    let note = tokio::select! {
        _ = &mut call => panic!("the call ended"),
        note = journal.next() => note,
    };
    assert_eq!(note, "begun");
}

#[mobula::test(plain, encoded, cluster)]
async fn a_handler_sees_its_caller_go_and_goes_on() -> Result<()> {
    let journal = Journal::new();
    let server = Server::spawn(journal).await?;
    begin_and_drop(server.see(), journal).await;
    assert_eq!(journal.next().await, "seen, and goes on");
    server.note("next").await?;
    assert_eq!(journal.next().await, "next");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_handler_that_opted_in_is_dropped() -> Result<()> {
    let journal = Journal::new();
    let server = Server::spawn(journal).await?;
    begin_and_drop(server.give_up(), journal).await;
    assert_eq!(journal.next().await, "dropped");
    server.note("next").await?;
    assert_eq!(journal.next().await, "next");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_call_that_still_waits_is_never_handled() -> Result<()> {
    let journal = Journal::new();
    let server = Server::spawn(journal).await?;
    let gate = Gate::new();
    let holding = server.hold(gate).submit();
    assert_eq!(journal.next().await, "holding");
    let waiting = server.note("cancelled").into_future();
    drop(waiting);
    heard().await?;
    gate.open();
    within(holding).await?;
    server.note("next").await?;
    assert_eq!(journal.next().await, "next");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_submitted_call_is_cancelled_by_its_reference() -> Result<()> {
    let journal = Journal::new();
    let server = Server::spawn(journal).await?;
    let seen = server.see().submit();
    assert_eq!(journal.next().await, "begun");
    seen.cancel();
    assert_eq!(journal.next().await, "seen, and goes on");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn dropping_a_reference_cancels_nothing() -> Result<()> {
    let journal = Journal::new();
    let server = Server::spawn(journal).await?;
    drop(server.note("handled").submit());
    assert_eq!(journal.next().await, "handled");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn cancelling_reaches_what_the_call_has_called() -> Result<()> {
    let (journal, inner) = (Journal::new(), Journal::new());
    let (server, other) = (Server::spawn(journal).await?, Server::spawn(inner).await?);
    begin_and_drop(
        async {
            let call = server.pass_on(other.clone()).into_future();
            tokio::pin!(call);
            // Cancelled when both have begun.
            tokio::select! {
                _ = &mut call => panic!("the call ended"),
                note = inner.next() => assert_eq!(note, "begun"),
            }
            let _ = call.await;
        },
        journal,
    )
    .await;
    // Whether the inner call had begun when the outer one was dropped, it sees it.
    assert_eq!(journal.next().await, CallError::<mobula::NoError>::Cancelled.to_string());
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_async_task_is_dropped_where_it_waits() {
    let journal = Journal::new();
    let task = hold_task::remote(journal);
    assert_eq!(journal.next().await, "begun");
    task.cancel();
    assert_eq!(journal.next().await, "dropped");
    assert_eq!(within(task).await.unwrap_err(), CallError::Cancelled);
}

#[mobula::test(plain, encoded, cluster)]
async fn a_task_on_a_thread_sees_it_and_its_caller_does_not_wait() {
    let journal = Journal::new();
    let task = compute::remote(journal);
    assert_eq!(journal.next().await, "begun");
    task.cancel();
    assert_eq!(within(task).await.unwrap_err(), CallError::Cancelled);
    assert_eq!(journal.next().await, "seen");
}

#[mobula::test(plain, encoded, cluster)]
async fn a_task_that_has_not_begun_never_does() {
    let journal = Journal::new();
    let (gate, argument) = (Gate::new(), hold_task::remote(journal));
    assert_eq!(journal.next().await, "begun");
    let task = never::remote(gate, journal, argument.clone());
    task.cancel();
    gate.open();
    assert_eq!(within(task).await.unwrap_err(), CallError::Cancelled);
    argument.cancel();
    assert_eq!(journal.next().await, "dropped");
    assert!(journal.is_read().await);
}

#[mobula::test(plain, encoded, cluster)]
async fn a_task_ends_with_the_call_that_submitted_it() -> Result<()> {
    let journal = Journal::new();
    let server = Server::spawn(journal).await?;
    begin_and_drop(server.run_task(), journal).await;
    assert_eq!(journal.next().await, "dropped");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_task_ends_with_the_task_that_submitted_it() {
    let journal = Journal::new();
    let task = wait_for_task::remote(journal);
    assert_eq!(journal.next().await, "begun");
    task.cancel();
    assert_eq!(journal.next().await, "dropped");
    assert_eq!(within(task).await.unwrap_err(), CallError::Cancelled);
}

#[mobula::test(plain, encoded, cluster)]
async fn what_shares_its_process_is_not_ended_by_force() -> Result<()> {
    let journal = Journal::new();
    let task = hold_task::remote(journal);
    assert_eq!(journal.next().await, "begun");
    assert_eq!(task.cancel_forced(), Err(NotCancellable::NotIsolated));
    assert!(!task.is_ready(), "it is as if nothing was said");
    task.cancel();
    assert_eq!(journal.next().await, "dropped");
    assert_eq!(mobula::put(1)?.cancel_forced(), Err(NotCancellable::NoTask));
    let server = Server::spawn(journal).await?;
    assert_eq!(server.note("handled").submit().cancel_forced(), Err(NotCancellable::NoTask));
    assert_eq!(journal.next().await, "handled");
    Ok(())
}
