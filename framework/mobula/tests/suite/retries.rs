//! Functions that run again after errors of their own.

use mobula::prelude::*;
use mobula::{Attempt, ErrorChain, TaskId};
use serde::{Deserialize, Serialize};

use crate::apparatus::{Gate, Journal, within};

#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
enum Trouble {
    #[error("busy, run {0}")]
    Busy(u32),
    #[error("broken")]
    Broken,
}

/// Which run this is, noted.
fn run(journal: Journal) -> (TaskId, Attempt) {
    let run = mobula::task_run().expect("it runs as a task that may run again");
    journal.note(run.1.0.to_string());
    run
}

/// Busy until that run, then gives its text back.
#[remote]
fn busy_until(journal: Journal, last: u32, text: String) -> Result<String, Trouble> {
    match run(journal).1.0 {
        attempt if attempt < last => Err(Trouble::Busy(attempt)),
        _ => Ok(text),
    }
}

#[remote]
async fn broken(journal: Journal) -> Result<(), Trouble> {
    run(journal);
    Err(Trouble::Broken)
}

/// Its error is text for its caller.
#[remote]
async fn no_file(journal: Journal) -> std::io::Result<()> {
    run(journal);
    Err(std::io::Error::other("no such file"))
}

#[remote(retry_errors = 1)]
async fn panics_once(journal: Journal) -> u32 {
    let (_, attempt) = run(journal);
    assert!(attempt.0 > 1, "the first run panics");
    attempt.0
}

#[remote(retry_errors = 1)]
async fn always_panics(journal: Journal) -> Result<(), Trouble> {
    run(journal);
    panic!("each run panics")
}

#[remote(retry_errors = 5, at_most_once)]
async fn once(journal: Journal) -> Result<(), Trouble> {
    run(journal);
    Err(Trouble::Broken)
}

/// Fails when the gate opens.
#[remote]
async fn fail_at(journal: Journal, gate: Gate) -> Result<(), Trouble> {
    run(journal);
    gate.passed().await;
    Err(Trouble::Broken)
}

/// The runs that were noted.
async fn runs(journal: Journal) -> Vec<String> {
    let mut runs = Vec::new();
    while !journal.is_read().await {
        runs.push(journal.next().await);
    }
    runs
}

#[mobula::test(plain, encoded, cluster)]
async fn a_function_runs_again_after_errors_that_its_caller_names() -> Result<()> {
    let journal = Journal::new();
    let patient = busy_until::options().retry_on(|error: &Trouble| matches!(error, Trouble::Busy(_)), 2);
    // Its arguments are there for each run, also those that were references.
    let text = mobula::put("done".to_owned())?;
    assert_eq!(*within(patient.remote(journal, 3u32, text)).await?, "done");
    assert_eq!(runs(journal).await, ["1", "2", "3"]);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn it_runs_no_more_often_than_was_said() {
    let journal = Journal::new();
    let error = within(busy_until::options().retry_errors(1).remote(journal, 9u32, "")).await.unwrap_err();
    assert_eq!(error, CallError::Returned(ErrorChain::message("busy, run 2")), "the last run's error");
    assert_eq!(runs(journal).await, ["1", "2"]);
}

#[mobula::test(plain, encoded, cluster)]
async fn other_errors_are_told_at_once() {
    let journal = Journal::new();
    let error = within(broken::options().retry_on(|error| matches!(error, Trouble::Busy(_)), 3).remote(journal)).await;
    assert_eq!(error.unwrap_err(), CallError::Returned(ErrorChain::message("broken")));
    assert_eq!(runs(journal).await, ["1"]);
}

#[mobula::test(plain, encoded, cluster)]
async fn a_test_sees_what_an_error_says_where_it_cannot_travel() {
    let journal = Journal::new();
    let test = |error: &ErrorChain| error.messages == ["no such file"];
    let error = within(no_file::options().retry_on(test, 1).remote(journal)).await;
    assert_eq!(error.unwrap_err(), CallError::Returned(ErrorChain::message("no such file")));
    assert_eq!(runs(journal).await, ["1", "2"]);
}

#[mobula::test(plain, encoded, cluster)]
async fn a_test_that_panics_has_not_said_yes() {
    let journal = Journal::new();
    let error = within(broken::options().retry_on(|_: &Trouble| panic!("in the test"), 3).remote(journal)).await;
    assert_eq!(error.unwrap_err(), CallError::Returned(ErrorChain::message("broken")));
    assert_eq!(runs(journal).await, ["1"]);
}

#[mobula::test(plain, encoded, cluster)]
async fn a_panic_is_retried_with_all_errors_and_without_a_test() -> Result<()> {
    let journal = Journal::new();
    assert_eq!(*within(panics_once::remote(journal)).await?, 2);
    assert_eq!(runs(journal).await, ["1", "2"]);
    let all = always_panics::remote(journal);
    assert!(matches!(within(all).await, Err(CallError::Panicked(_))));
    assert_eq!(runs(journal).await, ["1", "2"]);
    let some = always_panics::options().retry_on(|_: &Trouble| true, 1).remote(journal);
    assert!(matches!(within(some).await, Err(CallError::Panicked(_))));
    assert_eq!(runs(journal).await, ["1"]);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn at_most_once_is_once() {
    let journal = Journal::new();
    assert!(within(once::remote(journal)).await.is_err());
    assert_eq!(runs(journal).await, ["1"]);
}

#[mobula::test(plain, encoded, cluster)]
async fn what_waits_for_its_next_run_can_be_cancelled() {
    let (journal, gate) = (Journal::new(), Gate::new());
    let task = fail_at::options().retry_errors(1_000_000).remote(journal, gate);
    gate.open();
    // The second run follows at once, and then they wait.
    while journal.next().await != "3" {}
    task.cancel();
    assert_eq!(within(task).await.unwrap_err(), CallError::Cancelled);
}

#[mobula::test(plain, encoded, cluster)]
async fn a_deadline_is_for_all_runs_together() {
    let (journal, gate) = (Journal::new(), Gate::new());
    gate.open();
    let task = fail_at::options().retry_errors(1_000_000).timeout(millis(500)).remote(journal, gate);
    assert!(matches!(within(task).await, Err(CallError::DeadlineExceeded { .. })));
}
