//! Resources that are reserved together, and what runs in them.

use std::time::Duration;

use futures_util::Stream;
use mobula::prelude::*;
use mobula::{BundleStrategy, CreateGroup, DeathCause, GroupError, PlacementGroup, Unknown};

use crate::apparatus::{Gate, Journal, within};

/// What cannot be is waited for so long.
const SHORT: Duration = Duration::from_millis(100);

#[remote]
fn double(n: u32) -> u32 {
    n * 2
}

/// Is there until the gate is open.
#[remote(num_cpus = 0.5, max_retries = 0)]
async fn stay(journal: Journal, gate: Gate) {
    journal.note("begun");
    gate.passed().await;
}

#[remote(num_cpus = 0.5)]
fn stream(journal: Journal, gate: Gate) -> impl Stream<Item = u32> + use<> {
    futures_util::stream::once(async move {
        journal.note("begun");
        gate.passed().await;
        1
    })
}

/// Waits for what needs the very CPU that it has.
#[remote]
fn blocks(group: PlacementGroup) -> u32 {
    *double::options().in_group(&group).remote(2u32).wait().unwrap() + 1
}

#[remote(num_cpus = 1)]
async fn awaits(group: PlacementGroup) -> u32 {
    *double::options().in_group(&group).remote(2u32).await.unwrap() + 1
}

#[remote]
async fn reserve() -> Result<PlacementGroup> {
    Ok(group(BundleStrategy::Pack, &[0.5]).await?)
}

/// Cannot be ended.
#[remote(max_retries = 0)]
fn block(journal: Journal, gate: Gate) {
    journal.note("begun");
    gate.pass();
}

struct Tenant {
    journal: Journal,
}

#[actor(max_restarts = 3)]
impl Tenant {
    fn new(journal: Journal) -> Self {
        Tenant { journal }
    }

    fn is_there(&self) {}

    fn crash(&self) {
        panic!("it was asked to");
    }

    async fn stay(&self) {
        self.journal.note("begun");
        std::future::pending().await
    }
}

fn group(strategy: BundleStrategy, bundles: &[f64]) -> CreateGroup {
    let begun = mobula::placement_group().strategy(strategy);
    bundles.iter().fold(begun, |group, cpus| group.bundle(|bundle| bundle.num_cpus(*cpus))).create()
}

/// Whether nothing comes of it while nothing else happens.
async fn waits<T: Send + Sync + 'static>(object: &ObjectRef<T>) -> Result<bool> {
    let (ready, _) = mobula::wait(std::slice::from_ref(object)).timeout(SHORT).await?;
    Ok(ready.is_empty())
}

#[mobula::test(plain, encoded, cluster)]
async fn bundles_are_reserved_where_the_strategy_allows() -> Result<()> {
    use BundleStrategy::{Pack, Spread, StrictPack, StrictSpread};
    let known: Vec<_> = mobula::nodes().await?.iter().map(|node| node.id).collect();
    for (strategy, count) in [(Pack, 2), (Spread, 2), (StrictPack, 2), (StrictSpread, 1)] {
        let group = within(group(strategy, &vec![0.5; count])).await?;
        assert!(group.nodes().len() == count && group.nodes().iter().all(|node| known.contains(node)), "{group:?}");
        for bundle in 0..count as u32 {
            let ran = double::options().num_cpus(0.5).in_bundle(&group, bundle).remote(bundle);
            assert_eq!(*within(mobula::get(ran)).await?, 2 * bundle, "{strategy:?}");
        }
        assert_eq!(*within(mobula::get(double::options().num_cpus(0.5).in_group(&group).remote(4u32))).await?, 8);
        group.remove().await?;
    }
    // One node has CPUs.
    let refused = group(StrictSpread, &[0.5, 0.5]).timeout(SHORT).await.unwrap_err();
    let GroupError::TimedOut { why, .. } = &refused else { panic!("{refused}") };
    assert!(why.starts_with("strict_spread: 2 bundles want a node each"), "{why}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn what_is_in_a_bundle_takes_of_it_and_of_nothing_else() -> Result<()> {
    let (journal, gate) = (Journal::new(), Gate::new());
    let group = within(group(BundleStrategy::Pack, &[1.0])).await?;
    let actor = within(Tenant::spawn(journal).num_cpus(1.0).in_bundle(&group, 0)).await?;
    let later = double::options().in_bundle(&group, 0).remote(2u32);
    assert!(waits(&later).await?, "an actor has all of its bundle");
    assert_eq!(*within(mobula::get(double::remote(1u32))).await?, 2, "what is in no group does not wait for it");
    actor.stop();
    assert_eq!(*within(mobula::get(later)).await?, 4);
    // Parts of it add up.
    let staying: Vec<_> = (0..2).map(|_| stay::options().in_group(&group).remote(journal, gate)).collect();
    assert_eq!([journal.next().await, journal.next().await], ["begun"; 2]);
    let third = stay::options().in_group(&group).remote(journal, gate);
    assert!(waits(&third).await? && journal.is_read().await, "two halves are a whole");
    gate.open();
    within(mobula::get(staying)).await?;
    within(mobula::get(third)).await?;
    group.remove().await?;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn in_a_group_any_bundle_with_room_will_do() -> Result<()> {
    let group = within(group(BundleStrategy::Pack, &[0.5, 0.5])).await?;
    let first = within(Tenant::spawn(Journal::new()).num_cpus(0.5).in_bundle(&group, 0)).await?;
    let somewhere = || double::options().num_cpus(0.5).in_group(&group);
    let ran: Vec<_> = (0..8).map(|n: u32| somewhere().remote(n)).collect();
    let ran: Vec<u32> = within(mobula::get(ran)).await?.iter().map(|n| **n).collect();
    assert_eq!(ran, [0, 2, 4, 6, 8, 10, 12, 14]);
    let second = within(Tenant::spawn(Journal::new()).num_cpus(0.5).in_group(&group)).await?;
    let later = somewhere().remote(1u32);
    assert!(waits(&later).await?, "both are taken");
    first.stop();
    assert_eq!(*within(mobula::get(later)).await?, 2);
    second.is_there().await?;
    group.remove().await?;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn removal_ends_what_is_in_a_group() -> Result<()> {
    let (journal, gate) = (Journal::new(), Gate::new());
    let group = within(group(BundleStrategy::Pack, &[1.0])).await?;
    let actor = within(Tenant::spawn(journal).in_group(&group)).await?;
    let asked = actor.clone();
    let called = tokio::spawn(async move { asked.stay().await });
    assert_eq!(journal.next().await, "begun");
    let task = stay::options().in_group(&group).remote(journal, gate);
    assert_eq!(journal.next().await, "begun");
    let mut items = stream::options().in_group(&group).remote(journal, gate);
    let item = tokio::spawn(async move { items.next().await });
    assert_eq!(journal.next().await, "begun");
    let later = double::options().in_group(&group).remote(1u32);
    within(group.remove()).await?;
    within(group.remove()).await?;
    let cause = DeathCause::GroupEnded { group: group.id() };
    let error = within(called).await.expect("nobody aborts it").unwrap_err();
    let CallError::MayHaveRun(Unknown::ProcessDied { death }) = &error else { panic!("{error:?}") };
    assert_eq!(death.cause, cause);
    let error = within(mobula::get(task)).await.unwrap_err();
    assert!(error.to_string().contains(&cause.to_string()), "{error}");
    let error = within(item).await.expect("nobody aborts it").expect("it says why").unwrap_err();
    assert!(error.to_string().contains(&cause.to_string()), "{error}");
    let error = within(mobula::get(later)).await.unwrap_err();
    assert!(error.to_string().contains("is no more"), "{error}");
    assert!(within(actor.is_there().into_future()).await.is_err(), "it does not come back");
    let error = within(mobula::get(double::options().in_group(&group).remote(1u32))).await.unwrap_err();
    assert!(error.to_string().contains("is no more"), "{error}");
    let Err(error) = within(Tenant::spawn(journal).in_group(&group)).await else { panic!("there is no such group") };
    assert!(error.to_string().contains("is no more"), "{error}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn what_waits_in_a_bundle_lends_its_cpu_there() -> Result<()> {
    let group = within(group(BundleStrategy::Pack, &[1.0])).await?;
    assert_eq!(*within(mobula::get(blocks::options().in_group(&group).remote(group.clone()))).await?, 5);
    assert_eq!(*within(mobula::get(awaits::options().in_group(&group).remote(group.clone()))).await?, 5);
    group.remove().await?;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_keeps_its_place_over_restarts() -> Result<()> {
    let group = within(group(BundleStrategy::Pack, &[0.5])).await?;
    let actor = within(Tenant::spawn(Journal::new()).num_cpus(0.5).in_bundle(&group, 0)).await?;
    let later = double::options().num_cpus(0.5).in_bundle(&group, 0).remote(1u32);
    assert!(matches!(within(actor.crash().into_future()).await, Err(CallError::Panicked(_))));
    within(actor.is_there().into_future()).await?;
    assert!(waits(&later).await?, "its next life is where the first was");
    actor.stop();
    assert_eq!(*within(mobula::get(later)).await?, 2);
    group.remove().await?;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn an_actor_without_a_place_can_be_stopped() -> Result<()> {
    let group = within(group(BundleStrategy::Pack, &[0.5])).await?;
    let first = within(Tenant::spawn(Journal::new()).num_cpus(0.5).in_bundle(&group, 0)).await?;
    let second = Tenant::spawn(Journal::new()).num_cpus(0.5).in_bundle(&group, 0).now()?;
    second.stop();
    assert!(within(second.is_there().into_future()).await.is_err(), "it never was");
    first.stop();
    assert_eq!(*within(mobula::get(double::options().num_cpus(0.5).in_group(&group).remote(1u32))).await?, 2);
    group.remove().await?;
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn a_group_outlives_the_task_that_made_it() -> Result<()> {
    let group = within(mobula::get(reserve::remote())).await?.into_owned();
    assert_eq!(*within(mobula::get(double::options().num_cpus(0.5).in_group(&group).remote(1u32))).await?, 2);
    // It ends with the session.
    Ok(())
}

#[mobula::test(plain, encoded, cluster)]
async fn what_can_never_be_reserved_is_said() -> Result<()> {
    let never = group(BundleStrategy::Pack, &[4096.0]).timeout(SHORT).await.unwrap_err().to_string();
    assert!(never.contains("no node of the cluster can ever hold bundle 0: num_cpus = 4096"), "{never}");
    let hollow = mobula::placement_group().create().await.unwrap_err().to_string();
    assert!(hollow.contains("a placement group of 0 bundles"), "{hollow}");
    let wrong = group(BundleStrategy::Pack, &[-1.0]).await.unwrap_err().to_string();
    assert!(wrong.contains("num_cpus = -1 is no amount"), "{wrong}");
    Ok(())
}

#[mobula::test(plain, encoded, cluster(ignore = "others use the same CPUs"))]
async fn what_is_reserved_is_nobody_elses() -> Result<()> {
    let cpus = mobula::nodes().await?[0].resources_total["num_cpus"];
    let (journal, gate) = (Journal::new(), Gate::new());
    let inside = within(group(BundleStrategy::Pack, &[cpus])).await?;
    let outside = double::remote(1u32);
    let half = stay::remote(journal, gate);
    let mut second = group(BundleStrategy::Pack, &[0.5]).into_future();
    assert!(waits(&outside).await? && waits(&half).await?, "all is reserved");
    assert!(tokio::time::timeout(SHORT, &mut second).await.is_err(), "there is nothing for a second group");
    inside.remove().await?;
    assert_eq!(*within(mobula::get(outside)).await?, 2);
    gate.open();
    within(mobula::get(half)).await?;
    within(second).await?.remove().await?;
    Ok(())
}

#[mobula::test(plain, encoded, cluster(ignore = "what is not async ends with its process"))]
async fn what_cannot_be_ended_keeps_its_group_s_cpus() -> Result<()> {
    let cpus = mobula::nodes().await?[0].resources_total["num_cpus"];
    let (journal, gate) = (Journal::new(), Gate::new());
    let group = within(group(BundleStrategy::Pack, &[cpus])).await?;
    let blocked = block::options().in_group(&group).remote(journal, gate);
    assert_eq!(journal.next().await, "begun");
    within(group.remove()).await?;
    assert!(matches!(within(mobula::get(blocked)).await, Err(CallError::MayHaveRun(Unknown::ProcessDied { .. }))));
    let outside = double::options().num_cpus(cpus).remote(1u32);
    assert!(waits(&outside).await?, "it runs on");
    gate.open();
    assert_eq!(*within(mobula::get(outside)).await?, 2);
    Ok(())
}
