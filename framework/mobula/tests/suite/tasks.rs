//! Remote functions: where they run, what they take and give, how they fail.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use mobula::prelude::*;
use mobula::{ErrorChain, Outcome};
use serde::{Deserialize, Serialize};

use crate::apparatus::{Gate, Journal, within};

/// Counts the words of a text.
#[remote(num_cpus = 1, max_retries = 3)]
fn count_words(text: String) -> usize {
    text.split_whitespace().count()
}

#[remote]
async fn concat(left: String, right: String, gate: Option<Gate>) -> String {
    if let Some(gate) = gate {
        gate.passed().await;
    }
    left + &right
}

#[remote]
fn checked_div(n: i32, by: i32) -> std::result::Result<i32, DivideError> {
    n.checked_div(by).ok_or(DivideError { n })
}

#[derive(Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{n} cannot be divided so")]
struct DivideError {
    n: i32,
}

#[remote]
async fn read_nothing() -> std::io::Result<u8> {
    Err(std::io::Error::other(DivideError { n: 1 }))
}

#[remote]
fn nothing() {}

#[remote]
fn panic_with(text: String) {
    panic!("{text}")
}

#[remote(num_gpus = 1)]
fn on_a_gpu() {}

#[remote]
fn where_am_i() -> (String, bool) {
    (std::thread::current().name().unwrap_or_default().to_owned(), mobula::cancelled())
}

#[remote]
fn shared(values: Arc<Vec<u8>>, mut more: Vec<u8>, _: u8) -> usize {
    more.extend(values.iter());
    more.len()
}

#[remote]
fn hold_thread(journal: Journal, gate: Gate) {
    journal.note("holding");
    gate.pass();
}

#[mobula::test(plain, encoded, cluster)]
async fn a_function_still_runs_here() {
    assert_eq!(count_words("one two".to_owned()), 2);
    assert_eq!(concat("a".to_owned(), "b".to_owned(), None).await, "ab");
}

#[mobula::test(plain, encoded, cluster)]
async fn a_function_runs_elsewhere() -> Result<()> {
    let counts: Vec<ObjectRef<usize>> = (0..10).map(|n| count_words::remote("word ".repeat(n))).collect();
    let counts = within(mobula::get(counts)).await?;
    assert!(counts.iter().zip(0..).all(|(count, n)| *count == n));
    let name = &within(where_am_i::remote()).await?.0;
    assert_ne!(Some(name.as_str()), std::thread::current().name());
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_async_function_runs_elsewhere() -> Result<()> {
    assert_eq!(*within(concat::remote("man", "ta", None)).await?, "manta");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn options_replace_those_of_the_attribute() -> Result<()> {
    let count = count_words::options().num_cpus(0.5).max_retries(0).timeout(secs(10)).name("half").remote("a b c");
    assert_eq!(*within(count).await?, 3);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn arguments_are_values_or_references() -> Result<()> {
    let left = concat::remote("a", "b", None);
    let right = mobula::put("c".to_owned())?;
    let both = concat::remote(left, &right, None);
    assert_eq!(*within(count_words::remote(&both)).await?, 1);
    assert_eq!(*within(both).await?, "abc");
    let bytes = mobula::put(vec![1u8; 4])?;
    assert_eq!(*within(shared::remote(bytes.clone(), bytes, 0)).await?, 8);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_task_waits_for_its_arguments() -> Result<()> {
    let gate = Gate::new();
    let late = concat::remote("late", " word", Some(gate));
    let count = count_words::remote(late);
    assert!(!count.is_ready());
    gate.open();
    assert_eq!(*within(count).await?, 2);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_returned_error_arrives_as_text_with_its_causes() -> Result<()> {
    assert_eq!(*within(checked_div::remote(6, 3)).await?, 2);
    let failed = within(checked_div::remote(6, 0)).await.unwrap_err();
    assert_eq!(failed, CallError::Returned(ErrorChain::message("6 cannot be divided so")));
    let failed = within(read_nothing::remote()).await.unwrap_err();
    assert_eq!(failed, CallError::Returned(ErrorChain::message("1 cannot be divided so")));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_panic_is_a_failure_with_its_place() {
    let failed = within(panic_with::remote("overboard")).await.unwrap_err();
    assert_eq!(failed.outcome(), Outcome::Failed);
    let CallError::Panicked(panic) = failed else { panic!("{failed}") };
    assert_eq!(panic.message, "overboard");
    assert!(panic.location.is_some_and(|place| place.contains("tasks.rs")));
}

#[mobula::test(plain, encoded, cluster)]
async fn a_failed_argument_is_the_cause() {
    let failed = within(checked_div::remote(1, checked_div::remote(6, 0))).await.unwrap_err();
    let CallError::NotStarted(NotStarted::Argument { cause }) = failed else { panic!("{failed}") };
    assert_eq!(*cause, CallError::Returned(ErrorChain::message("6 cannot be divided so")));
}

#[mobula::test(plain, encoded, cluster(ignore = "it waits: a node that has what is missing may join"))]
async fn what_can_never_run_says_what_is_missing() {
    let refused = within(on_a_gpu::remote()).await.unwrap_err();
    let CallError::NotStarted(NotStarted::Unschedulable { missing }) = refused else { panic!("{refused}") };
    assert!(missing.contains("num_gpus"), "{missing}");
}

#[mobula::test(plain, encoded, cluster)]
async fn tasks_run_beside_one_another() {
    let journal = Journal::new();
    let gate = Gate::new();
    let tasks: Vec<_> = (0..2).map(|_| hold_thread::options().num_cpus(0.1).remote(journal, gate)).collect();
    assert_eq!((journal.next().await, journal.next().await), ("holding".into(), "holding".into()));
    gate.open();
    assert!(within(mobula::get(tasks)).await.is_ok());
}

#[mobula::test(plain, encoded, cluster)]
async fn many_tasks_have_one_outcome_each() {
    let tasks = (0..1000).map(|_| nothing::remote());
    assert!(within(join_all(tasks.map(IntoFuture::into_future))).await.into_iter().all(|task| task.is_ok()));
}

/// Notes that it begins, and holds its CPU until it may go on.
#[remote]
fn take_turn(journal: Journal, name: String, gate: Gate) {
    journal.note(name);
    gate.pass();
}

#[remote(priority = 10)]
fn take_turn_now(journal: Journal, name: String, gate: Gate) {
    take_turn(journal, name, gate);
}

/// On a cluster some may begin while the urgent one is on its way, and each place has an order of its own: they take turns,
/// and the next is not exactly the next.
#[mobula::test(plain, encoded, cluster)]
async fn the_most_urgent_runs_next_and_the_least_urgent_last() -> Result<()> {
    const WAITING: usize = 100;
    let cpus = std::thread::available_parallelism().map_or(1, usize::from).max(8);
    let journal = Journal::new();
    let mut gates = HashMap::new();
    let mut gate = |name: &str| *gates.entry(name.to_owned()).or_insert_with(Gate::new);
    let low = || take_turn::options().priority(-1);
    let mut tasks = Vec::new();
    for name in (0..cpus).map(|n| n.to_string()) {
        tasks.push(take_turn::remote(journal, name.clone(), gate(&name)));
    }
    // The first has a CPU, so that nothing is decided before all are here.
    let mut began = vec![journal.next().await];
    for n in cpus..cpus + WAITING {
        // So many go before it in any case that it does not begin while the others are on their way.
        if n == cpus + WAITING / 2 {
            tasks.push(low().remote(journal, "low", gate("low")));
        }
        let name = n.to_string();
        tasks.push(take_turn::remote(journal, name.clone(), gate(&name)));
    }
    tasks.push(take_turn_now::remote(journal, "urgent", gate("urgent")));
    for turn in 0..tasks.len() {
        gates[&began[turn]].open();
        if began.len() < tasks.len() {
            began.push(journal.next().await);
        }
    }
    within(mobula::get(tasks)).await?;
    let turn = |name: &str| began.iter().position(|began| began == name).unwrap();
    // First in, first out they would be at the end and in the middle.
    assert!(turn("urgent") <= WAITING * 3 / 4, "{began:?}");
    assert!(turn("low") >= WAITING * 3 / 4, "{began:?}");
    Ok(())
}

#[remote(max_calls = 1)]
fn leaky(n: u32) -> u32 {
    n + 1
}

/// On a cluster each runs in a process of its own, elsewhere none can end.
#[mobula::test(plain, encoded, cluster)]
async fn a_function_whose_process_ends_after_it_gives_its_values() -> Result<()> {
    let tasks: Vec<_> = (0..3).map(leaky::remote).collect();
    let values: Vec<u32> = within(mobula::get(tasks)).await?.iter().map(|value| **value).collect();
    assert_eq!(values, [1, 2, 3]);
    Ok(())
}

/// A function inside a function, with a type of its own.
#[mobula::test(plain, encoded, cluster)]
async fn a_remote_function_may_stand_in_a_function() -> Result<()> {
    #[derive(Serialize, Deserialize)]
    struct Inside(u8);

    #[remote]
    fn inside(it: Inside) -> Inside {
        Inside(it.0 + 1)
    }

    assert_eq!(within(inside::remote(Inside(1))).await?.0, 2);
    Ok(())
}
