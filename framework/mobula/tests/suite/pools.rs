//! Actors that share the items of a list.

use futures_util::StreamExt;
use mobula::prelude::*;
use mobula::{ActorGroup, ActorPool};

use crate::apparatus::{Gate, Journal, heard, until, within};

struct Squarer {
    journal: Journal,
}

#[actor(max_restarts = 0)]
impl Squarer {
    fn new(journal: Journal) -> Self {
        Squarer { journal }
    }

    fn square(&mut self, n: u64) -> Result<u64> {
        assert!(n != 666, "the beast");
        if n == 13 { Err(Error::msg("13 has no square")) } else { Ok(n * n) }
    }

    async fn square_when(&mut self, n: u64, gate: Gate) -> u64 {
        self.journal.note(format!("begins {n}"));
        gate.passed().await;
        n * n
    }
}

async fn pool(count: usize) -> Result<(ActorPool<Squarer>, Journal)> {
    let journal = Journal::new();
    Ok((ActorPool::of(ActorGroup::spawn(count, |_| Squarer::spawn(journal).spread()).await?), journal))
}

#[mobula::test(plain, encoded, cluster)]
async fn results_come_in_the_order_of_the_items() -> Result<()> {
    let (pool, _) = pool(3).await?;
    let squares = pool.map(0..1000, |squarer, n| squarer.square(n % 10)).all().await?;
    assert_eq!(squares, (0..1000).map(|n| (n % 10) * (n % 10)).collect::<Vec<_>>());
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_empty_list_has_no_results() -> Result<()> {
    let (pool, _) = pool(2).await?;
    assert_eq!(pool.map([0u64; 0], |squarer, n| squarer.square(n)).next().await, None);
    assert_eq!(pool.map_unordered([0u64; 0], |squarer, n| squarer.square(n)).next().await, None);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn unordered_results_name_their_items() -> Result<()> {
    let (pool, _) = pool(3).await?;
    let results = pool.map_unordered(0..200, |squarer, n| squarer.square(n + 100));
    let mut places: Vec<usize> = results
        .map(|(place, square)| {
            assert_eq!(square, Ok((place as u64 + 100).pow(2)));
            place
        })
        .collect()
        .await;
    places.sort_unstable();
    assert_eq!(places, (0..200).collect::<Vec<_>>());
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_item_that_fails_is_one_error() -> Result<()> {
    let (pool, _) = pool(2).await?;
    let mut results = pool.map(12..15, |squarer, n| squarer.square(n));
    assert_eq!(results.next().await, Some(Ok(144)));
    assert!(matches!(results.next().await, Some(Err(CallError::Returned(_)))));
    assert_eq!(results.next().await, Some(Ok(196)));
    assert_eq!(results.next().await, None);
    let all = pool.map(12..15, |squarer, n| squarer.square(n)).all().await;
    assert!(matches!(all, Err(CallError::Returned(_))), "{all:?}");
    Ok(())
}

/// One item is held; the others may run ahead of it, and no further.
#[mobula::test(plain, encoded, cluster)]
async fn items_are_begun_within_bounds_only() -> Result<()> {
    let (pool, journal) = pool(2).await?;
    let pool = pool.per_actor(1);
    let (gate, open) = (Gate::new(), Gate::new());
    open.open();
    let begun = std::cell::Cell::new(0);
    let items = (0..100).inspect(|_| begun.set(begun.get() + 1));
    let mut results = pool.map(items, |squarer, n| squarer.square_when(n, if n == 0 { gate } else { open }));
    let mut first = Box::pin(results.next());
    // What is read while nothing can be given yet: two places, and four times as many ahead.
    until_begun(&mut first, || begun.get() == 8).await;
    assert!(futures_util::poll!(&mut first).is_pending());
    assert_eq!(begun.get(), 8);
    for _ in 0..8 {
        journal.next().await;
    }
    gate.open();
    assert_eq!(within(first).await, Some(Ok(0)));
    assert_eq!(within(results.all()).await?, (1..100).map(|n| n * n).collect::<Vec<_>>());
    Ok(())
}

async fn until_begun<F: Future + Unpin>(first: &mut F, begun: impl Fn() -> bool) {
    within(async {
        while !begun() {
            assert!(futures_util::poll!(&mut *first).is_pending());
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_that_has_ended_gets_no_items() -> Result<()> {
    let journal = Journal::new();
    let group = ActorGroup::spawn(3, |_| Squarer::spawn(journal).spread()).await?;
    let mortal = &group.members()[1];
    assert!(matches!(mortal.square(666).await, Err(CallError::Panicked(_))));
    until(|| !mortal.address().is_alive()).await;
    let squares = ActorPool::of(group.clone()).map(0..300, |squarer, n| squarer.square(n % 10)).all().await?;
    assert_eq!(squares.len(), 300);
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn where_all_have_ended_every_item_says_so() -> Result<()> {
    let group = ActorGroup::of([Squarer::spawn(Journal::new()).await?]);
    assert!(group.in_turn().square(666).await.is_err());
    until(|| !group.in_turn().address().is_alive()).await;
    let pool = ActorPool::of(group);
    let results: Vec<_> = within(pool.map(0..10, |squarer, n| squarer.square(n)).collect::<Vec<_>>()).await;
    assert_eq!(results.len(), 10);
    assert!(results.iter().all(|result| matches!(result, Err(CallError::NotStarted(_)))), "{results:?}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_reader_that_goes_gives_up_what_has_no_result() -> Result<()> {
    let (pool, journal) = pool(1).await?;
    let gate = Gate::new();
    let mut results = pool.clone().per_actor(3).map(0..100, |squarer, n| squarer.square_when(n, gate));
    assert!(futures_util::poll!(Box::pin(results.next())).is_pending());
    assert_eq!(journal.next().await, "begins 0");
    drop(results);
    heard().await?;
    gate.open();
    // Behind what was waiting, if anything still is.
    assert_eq!(within(pool.map([3], |squarer, n| squarer.square(n)).all()).await?, [9]);
    assert!(journal.is_read().await);
    Ok(())
}
