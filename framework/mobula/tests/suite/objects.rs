//! `put`, `get`, `wait`, and references as values.

use std::sync::Arc;

use mobula::prelude::*;
use mobula::{ErrorChain, WaitError};

use crate::apparatus::{Gate, Journal, NotedDrop, within};

#[remote]
async fn after(gate: Gate, n: usize) -> usize {
    gate.passed().await;
    n
}

#[remote]
fn fail(why: String) -> std::result::Result<usize, String> {
    Err(why)
}

#[remote]
fn length(values: Arc<Vec<f32>>) -> usize {
    values.len()
}

#[remote]
fn sum(values: Vec<usize>) -> usize {
    values.iter().sum()
}

#[mobula::test(plain, encoded, cluster)]
async fn what_is_put_is_got() -> Result<()> {
    let big = mobula::put(vec![0f32; 1 << 16])?;
    let value = mobula::get(&big).await?;
    assert_eq!(value.len(), 1 << 16);
    assert_eq!(mobula::get(big).await?.into_owned().len(), 1 << 16);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn readers_share_one_value() -> Result<()> {
    let object = mobula::put("shared".to_owned())?;
    let (one, two) = (object.get().await?, object.clone().get().await?);
    assert!(Arc::ptr_eq(&one.into_arc(), &two.into_arc()));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_value_is_freed_with_its_last_holder() -> Result<()> {
    let journal = Journal::new();
    let object = mobula::put(NotedDrop(journal, "freed"))?;
    let value = object.get().await?;
    drop(object);
    assert!(journal.is_read().await);
    drop(value);
    assert_eq!(journal.next().await, "freed");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn several_are_got_in_their_order() -> Result<()> {
    let refs: Vec<_> = (0..10).map(|n| sum::remote(vec![n, n])).collect();
    let values = mobula::get(&refs).await?;
    assert!(values.iter().zip(0..).all(|(value, n)| *value == 2 * n));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn wait_parts_those_that_are_ready_from_the_rest() -> Result<()> {
    let gates: Vec<_> = (0..3).map(|_| Gate::new()).collect();
    let refs: Vec<_> = gates.iter().zip(0..).map(|(gate, n)| after::remote(*gate, n)).collect();
    gates[1].open();
    let (ready, rest) = within(mobula::wait(&refs)).await?;
    assert_eq!((ready, rest.len()), (vec![refs[1].clone()], 2));
    gates[0].open();
    let (ready, rest) = within(mobula::wait(&refs).count(2).timeout(secs(10))).await?;
    assert_eq!((ready, rest), (refs[..2].to_vec(), refs[2..].to_vec()));
    gates[2].open();
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn wait_ends_with_its_time() -> Result<()> {
    let gate = Gate::new();
    let refs = [after::remote(gate, 1)];
    let (ready, rest) = within(mobula::wait(&refs).timeout(millis(5))).await?;
    assert_eq!((ready.len(), rest.len()), (0, 1));
    gate.open();
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn wait_for_more_than_there_are_says_so() {
    let none: [ObjectRef<usize>; 0] = [];
    assert_eq!(mobula::wait(&none).await.unwrap_err(), WaitError::TooFew { count: 1, given: 0 });
}

#[mobula::test(plain, encoded, cluster)]
async fn a_failure_is_ready_and_is_every_readers() -> Result<()> {
    let failed = fail::remote("no");
    let (ready, _) = within(mobula::wait(std::slice::from_ref(&failed))).await?;
    assert_eq!(ready, std::slice::from_ref(&failed));
    for _ in 0..2 {
        assert_eq!(failed.get().await.unwrap_err(), CallError::Returned(ErrorChain::message("no")));
    }
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn arguments_share_or_take_the_value() -> Result<()> {
    let big = mobula::put(vec![1f32; 100])?;
    assert_eq!(*length::remote(&big).await.or(length::remote(big).await)?, 100);
    let numbers = mobula::put(vec![1usize, 2, 3])?;
    assert_eq!(*sum::remote(&numbers).await?, 6);
    assert_eq!(*sum::remote(numbers).await?, 6);
    Ok(())
}
