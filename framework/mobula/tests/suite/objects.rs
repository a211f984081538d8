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

#[remote]
async fn ready_and_sum(numbers: Vec<ObjectRef<usize>>) -> (usize, usize) {
    let ready = numbers.iter().filter(|number| number.is_ready()).count();
    (ready, mobula::get(numbers).await.unwrap().iter().map(|number| **number).sum())
}

#[remote]
async fn total(numbers: Vec<ObjectRef<usize>>) -> usize {
    mobula::get(numbers).await.unwrap().iter().map(|number| **number).sum()
}

#[remote]
async fn passed_on(numbers: Vec<ObjectRef<usize>>) -> usize {
    *mobula::get(total::remote(numbers)).await.unwrap()
}

#[remote]
async fn lengths(arrays: Vec<ObjectRef<Vec<f32>>>) -> usize {
    mobula::get(arrays).await.unwrap().iter().map(|array| array.len()).sum()
}

#[remote]
async fn sum_of_nested(lists: Vec<ObjectRef<Vec<ObjectRef<usize>>>>) -> usize {
    let lists = mobula::get(lists).await.unwrap();
    mobula::get(lists.iter().flat_map(|list| list.iter().cloned()).collect::<Vec<_>>())
        .await
        .unwrap()
        .iter()
        .map(|n| **n)
        .sum()
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
async fn small_values_come_with_their_references() -> Result<()> {
    let small: Vec<_> = (0..100usize).map(mobula::put).collect::<std::result::Result<_, _>>()?;
    assert_eq!(*mobula::get(ready_and_sum::remote(small.clone())).await?, (100, 4_950));
    // Those that came so are no less held: they go on to others, who have to ask for them.
    assert_eq!(*mobula::get(passed_on::remote(small)).await?, 4_950);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn values_that_do_not_come_with_their_references_are_asked_for() -> Result<()> {
    let large = mobula::put(vec![1f32; 1_000])?;
    let inner = mobula::put(7usize)?;
    assert_eq!(*mobula::get(lengths::remote(vec![large.clone(), large])).await?, 2_000);
    let nested = mobula::put(vec![inner.clone(), inner])?;
    assert_eq!(*mobula::get(sum_of_nested::remote(vec![nested])).await?, 14);
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

#[remote]
fn view_sum(values: View<Vec<f32>>, factor: f32) -> f32 {
    values.iter().sum::<f32>() * factor
}

#[remote]
fn numbers(count: usize) -> Vec<f32> {
    vec![0.5; count]
}

#[remote]
fn first_and_length(text: String, values: Vec<f32>) -> (String, usize) {
    (text, values.len())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_view_reads_what_was_put() -> Result<()> {
    let object = mobula::put(vec![0.25f32; 1 << 16])?;
    let view = mobula::get_view(&object).await?;
    assert_eq!((view.len(), view[7]), (1 << 16, 0.25));
    let value = object.get().await?;
    assert_eq!(view.as_ptr(), value.as_ptr(), "what is here is not copied");
    let text = mobula::put("seen".to_owned())?;
    assert_eq!(&*mobula::get_view(&text).await?, "seen");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_parameter_can_be_a_view() -> Result<()> {
    // Larger than a message, smaller, here, and yet to come.
    for count in [1 << 16, 10] {
        let object = mobula::put(vec![0.5f32; count])?;
        let made = numbers::remote(count);
        let sum = count as f32;
        assert_eq!(*view_sum::remote(&object, 2.0).await?, sum);
        assert_eq!(*view_sum::remote(&made, 2.0).await?, sum);
        assert_eq!(*view_sum::remote(View::of(vec![0.5f32; count]), 2.0).await?, sum);
        assert_eq!(mobula::get_view(&made).await?.len(), count);
        assert_eq!(*view_sum::remote(made, 2.0).await?, sum);
    }
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn references_stand_for_some_arguments_and_values_for_others() -> Result<()> {
    let large = mobula::put(vec![1f32; 1 << 16])?;
    let text = mobula::put("t".repeat(1 << 17))?;
    assert_eq!(*first_and_length::remote("small", &large).await?, ("small".to_owned(), 1 << 16));
    let (first, length) = first_and_length::remote(&text, vec![1f32; 3]).await?.into_owned();
    assert_eq!((first.len(), length), (1 << 17, 3));
    let (first, length) = first_and_length::remote(&text, &large).await?.into_owned();
    assert_eq!((first.len(), length), (1 << 17, 1 << 16));
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_view_of_what_failed_says_why() -> Result<()> {
    let failed = fail::remote("no bread");
    let text = mobula::get(&failed).await.unwrap_err();
    assert!(text.to_string().contains("no bread"), "{text}");
    let never: ObjectRef<Vec<f32>> = numbers::options().timeout(millis(0)).remote(3);
    assert!(matches!(mobula::get_view(&never).await, Err(CallError::DeadlineExceeded { .. })));
    let used = view_sum::remote(&never, 1.0).await.unwrap_err();
    assert!(matches!(used, CallError::NotStarted(NotStarted::Argument { .. })), "{used:?}");
    Ok(())
}

#[remote]
fn tripled(values: mobula::View<Vec<u64>>) -> Vec<u64> {
    values.iter().map(|value| value * 3).collect()
}

#[mobula::test(plain, encoded, cluster)]
async fn an_array_is_written_where_it_is_read() -> Result<()> {
    let count = 1 << 16;
    let mut writer = mobula::writer::<u64>(count).await?;
    writer.iter_mut().zip(0..).for_each(|(place, number)| *place = number);
    assert_eq!(writer[7], 7);
    let written = writer.put();
    let view = mobula::get_view(&written).await?;
    assert!(view.as_ptr().addr().is_multiple_of(align_of::<u64>()));
    assert_eq!((view.len(), view[count - 1]), (count, count as u64 - 1));
    // Others read it, and what they made of it is read in its turn.
    let tripled = tripled::remote(&written);
    let (ready, _) = mobula::wait(&[tripled]).await?;
    assert_eq!(mobula::get_view(&ready[0]).await?[5], 15);
    assert_eq!(mobula::get(&ready[0]).await?.last(), Some(&(3 * (count as u64 - 1))));
    assert_eq!(mobula::get(&written).await?.len(), count, "the value itself can be had too");
    let nothing = mobula::writer::<f32>(0).await?.put();
    assert!(mobula::get_view(&nothing).await?.is_empty());
    let beyond = mobula::writer::<f32>(usize::MAX).await.err();
    assert!(matches!(beyond, Some(CallError::NotStarted(mobula::NotStarted::TooLarge { .. }))), "{beyond:?}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_result_is_passed_on_as_it_came() -> Result<()> {
    let count = 1 << 16;
    let first = tripled::remote(mobula::put(vec![1; count])?);
    let second = tripled::remote(&first);
    let third = tripled::remote(&second);
    assert_eq!(mobula::get(&third).await?[count - 1], 27);
    assert_eq!(mobula::get(first).await?.into_owned()[0], 3);
    Ok(())
}
