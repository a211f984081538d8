//! Placement groups: where bundles lie, what runs in them, and what becomes of it.

use std::future::IntoFuture;
use std::time::{Duration, Instant};

use mobula::prelude::*;
use mobula::{BundleStrategy, DeathCause, GroupError, NodeId, PlacementGroup, Unknown};

use super::actors::Counter;
use super::nodes::Nodes;
use super::{SETTLES, Test};

pub(crate) const TESTS: &[Test] = &[
    ("groups: bundles lie as their strategy says", || Box::pin(bundles_lie_as_they_should())),
    ("of two groups one is there and the other waits", || Box::pin(all_or_nothing())),
    ("a group has what it has reserved and nothing else", || Box::pin(nothing_else())),
    ("a group that is removed ends what is in it", || Box::pin(removal_ends_actors())),
    ("a group of a worker outlives the task that made it", || Box::pin(made_by_a_task())),
    ("groups: what cannot be reserved is told", || Box::pin(refusals())),
];

/// With nodes of their own.
pub(crate) const GPU_TESTS: &[Test] =
    &[("what runs in a bundle sees GPUs of the bundle", || Box::pin(gpus_of_a_bundle()))];

/// How long between two looks at what nodes have free.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// A group that could never be there is waited for so long.
const SHORT: Duration = Duration::from_millis(300);

/// On which node it runs.
#[remote]
fn here() -> NodeId {
    mobula_actor::current::system().map_or(NodeId(0), |system| system.process().node())
}

struct Sleeper;

#[actor(max_restarts = 3)]
impl Sleeper {
    fn new() -> Self {
        Sleeper
    }

    fn is_there(&self) {}

    async fn sleep(&self) {
        std::future::pending().await
    }
}

/// Makes a group and tells of it.
#[remote]
async fn reserve() -> Result<PlacementGroup> {
    Ok(mobula::placement_group().bundle(|bundle| bundle.num_cpus(1.0)).create().await?)
}

fn group(strategy: BundleStrategy, bundles: &[f64]) -> mobula::CreateGroup {
    let begun = mobula::placement_group().strategy(strategy);
    bundles.iter().fold(begun, |group, cpus| group.bundle(|bundle| bundle.num_cpus(*cpus))).create()
}

/// Waits until the nodes have told that so many CPUs are free.
async fn are_free(cpus: f64) -> Result<()> {
    let until = Instant::now() + SETTLES;
    loop {
        let free: f64 = mobula::nodes().await?.iter().map(|node| node.resources_free["num_cpus"]).sum();
        if free == cpus {
            return Ok(());
        }
        assert!(Instant::now() < until, "{free} CPUs are free, expected {cpus}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn bundles_lie_as_they_should() -> Result<()> {
    use BundleStrategy::{Pack, Spread, StrictPack, StrictSpread};
    for (strategy, is_one_node) in [(Pack, true), (Spread, false), (StrictPack, true), (StrictSpread, false)] {
        are_free(4.0).await?;
        let group = group(strategy, &[1.0, 1.0]).await?;
        assert_eq!(group.nodes()[0] == group.nodes()[1], is_one_node, "{strategy:?} lies on {:?}", group.nodes());
        for (bundle, node) in (0..).zip(group.nodes()) {
            let ran = here::options().in_bundle(&group, bundle).remote();
            assert_eq!(*mobula::get(ran).await?, *node, "{strategy:?}, bundle {bundle}");
            let actor = Counter::spawn().num_cpus(0.5).in_bundle(&group, bundle).await?;
            assert_eq!(actor.place().await?.1, node.0, "{strategy:?}, bundle {bundle}");
        }
        group.remove().await?;
    }
    let labelled_node = *mobula::get(here::options().label("zone", "b").remote()).await?;
    let labelled = mobula::placement_group().bundle(|bundle| bundle.num_cpus(1.0).label("zone", "b"));
    let group = labelled.bundle(|bundle| bundle.num_cpus(1.0).label("zone", "b")).create().await?;
    assert_eq!(group.nodes(), [labelled_node; 2]);
    group.remove().await?;
    are_free(4.0).await
}

async fn all_or_nothing() -> Result<()> {
    let wanted = || group(BundleStrategy::StrictSpread, &[1.5, 1.5]);
    let (one, other) = (tokio::spawn(wanted().into_future()), tokio::spawn(wanted().into_future()));
    let (first, mut second) = match futures_util::future::select(one, other).await {
        futures_util::future::Either::Left((first, second)) => (first, second),
        futures_util::future::Either::Right((first, second)) => (first, second),
    };
    let first = first.expect("nobody aborts it")?;
    // Half a CPU of each node is left: of the other group nothing is reserved.
    are_free(1.0).await?;
    assert!(tokio::time::timeout(SHORT, &mut second).await.is_err(), "both do not fit");
    let refused = wanted().timeout(SHORT).await.unwrap_err();
    let GroupError::TimedOut { why, .. } = &refused else { panic!("{refused}") };
    assert!(why.starts_with("strict_spread: 2 bundles want a node each"), "{why}");
    are_free(1.0).await?;
    first.remove().await?;
    let second = tokio::time::timeout(SETTLES, second).await.expect("it comes").expect("nobody aborts it")?;
    second.remove().await?;
    are_free(4.0).await
}

async fn nothing_else() -> Result<()> {
    let group = group(BundleStrategy::Spread, &[2.0, 2.0]).await?;
    are_free(0.0).await?;
    let outside = here::remote();
    let inside: Vec<_> = (0..20).map(|_| here::options().in_group(&group).remote()).collect();
    let ran: std::collections::BTreeSet<NodeId> = mobula::get(inside).await?.iter().map(|node| **node).collect();
    assert!(ran.iter().all(|node| group.nodes().contains(node)), "{ran:?}");
    assert!(
        mobula::wait(std::slice::from_ref(&outside)).timeout(SHORT).await.map(|(ready, _)| ready.is_empty())?,
        "all is reserved"
    );
    // More than a bundle has is never there, whatever the node has.
    let actor = Counter::spawn().num_cpus(2.0).in_bundle(&group, 1).await?;
    let waits = here::options().in_bundle(&group, 1).remote();
    assert!(
        mobula::wait(std::slice::from_ref(&waits)).timeout(SHORT).await.map(|(ready, _)| ready.is_empty())?,
        "it is in use"
    );
    actor.stop();
    assert_eq!(*mobula::get(waits).await?, group.nodes()[1]);
    group.remove().await?;
    mobula::get(outside).await?;
    are_free(4.0).await
}

async fn removal_ends_actors() -> Result<()> {
    let group = group(BundleStrategy::Pack, &[1.0]).await?;
    let inside = Sleeper::spawn().in_group(&group).await?;
    let beside = Counter::spawn().await?;
    assert_eq!(beside.add(1).await?, 1);
    inside.is_there().await?;
    let asleep = inside.clone();
    let called = tokio::spawn(async move { asleep.sleep().await });
    let sleeps = sleep::options().in_group(&group).remote();
    group.remove().await?;
    group.remove().await?;
    let error = called.await.expect("nobody aborts it").unwrap_err();
    let death = match &error {
        CallError::MayHaveRun(Unknown::ProcessDied { death }) => death,
        // It had not begun.
        CallError::NotStarted(NotStarted::ProcessDied { death }) => death,
        other => panic!("{other:?}"),
    };
    assert_eq!(death.cause, DeathCause::GroupEnded { group: group.id() });
    assert!(mobula::get(sleeps).await.is_err(), "it ran in the group");
    assert!(inside.is_there().await.is_err(), "it does not come back");
    let refused = mobula::get(here::options().in_group(&group).remote()).await.unwrap_err();
    assert!(refused.to_string().contains("is no more"), "{refused}");
    assert_eq!(beside.add(1).await?, 2, "what is not in the group lives on");
    are_free(4.0).await
}

/// Runs until its process ends.
#[remote(max_retries = 0)]
async fn sleep() {
    std::future::pending().await
}

async fn made_by_a_task() -> Result<()> {
    let group = mobula::get(reserve::remote()).await?.into_owned();
    are_free(3.0).await?;
    assert_eq!(*mobula::get(here::options().in_group(&group).remote()).await?, group.nodes()[0]);
    // It ends with its job, and the next test begins with all CPUs.
    Ok(())
}

async fn refusals() -> Result<()> {
    are_free(4.0).await?;
    let never = group(BundleStrategy::StrictPack, &[1.0, 2.0]).timeout(SHORT).await.unwrap_err().to_string();
    assert!(never.contains("strict_pack: no node has room for all its 2 bundles"), "{never}");
    let never = group(BundleStrategy::Pack, &[64.0]).timeout(SHORT).await.unwrap_err().to_string();
    assert!(never.contains("no node of the cluster can ever hold bundle 0: num_cpus = 64"), "{never}");
    let hollow = mobula::placement_group().create().await.unwrap_err().to_string();
    assert!(hollow.contains("a placement group of 0 bundles"), "{hollow}");
    let wrong = group(BundleStrategy::Pack, &[-1.0]).await.unwrap_err().to_string();
    assert!(wrong.contains("num_cpus = -1 is no amount"), "{wrong}");
    are_free(4.0).await
}

/// The devices that CUDA would show.
#[remote(num_cpus = 0)]
fn visible() -> String {
    std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_else(|_| "all".to_owned())
}

struct Shard;

#[actor(num_gpus = 1)]
impl Shard {
    fn new() -> Self {
        Shard
    }

    fn visible(&self) -> String {
        visible()
    }
}

/// No device need be there: what a node says that it has is given out by number.
async fn gpus_of_a_bundle() -> Result<()> {
    let nodes = Nodes::start_with_gpus(1, 2, 3).await;
    let session = mobula::init_with(Config::default().address(nodes.address())).await?;
    let outside = Shard::spawn().await?;
    assert_eq!(outside.visible().await?, "0");
    let bundles = mobula::placement_group()
        .bundle(|bundle| bundle.num_gpus(1.5))
        .bundle(|bundle| bundle.num_gpus(0.5))
        .strategy(BundleStrategy::StrictPack);
    let group = bundles.create().await?;
    assert_eq!(group.nodes(), [nodes.ids().1; 2]);

    let seen = async |bundle, gpus| {
        let ran = visible::options().num_cpus(0.0).num_gpus(gpus).in_bundle(&group, bundle).remote();
        mobula::get(ran).await.map(|seen| seen.into_owned())
    };
    // The one that is in use is nobody else's; a whole one and the half of another are the first bundle, and the second is
    // the other half.
    assert_eq!([seen(0, 1.0).await?, seen(0, 1.5).await?, seen(0, 0.5).await?], ["1", "1,2", "2"]);
    assert_eq!([seen(1, 0.5).await?, seen(1, 0.25).await?], ["2", "2"]);
    assert_eq!([seen(0, 0.0).await?, seen(1, 0.0).await?], ["", ""], "who asks for none sees none");

    // Two quarters are there at once, and a third waits for one of them.
    let quarter = || Shard::spawn().num_gpus(0.25).in_bundle(&group, 1);
    let (one, two) = (quarter().await?, quarter().await?);
    assert_eq!([one.visible().await?, two.visible().await?], ["2", "2"]);
    let third = visible::options().num_cpus(0.0).num_gpus(0.25).in_bundle(&group, 1).remote();
    let (ready, _) = mobula::wait(std::slice::from_ref(&third)).timeout(SHORT).await?;
    assert!(ready.is_empty(), "the bundle is in use");
    one.stop();
    assert_eq!(*mobula::get(third).await?, "2");
    // A bundle is in one piece: what is left of one device and of another makes no whole one.
    let whole = Shard::spawn().in_bundle(&group, 0).await?;
    assert_eq!(whole.visible().await?, "1");
    let cannot = visible::options().num_cpus(0.0).num_gpus(1.0).in_group(&group).remote();
    let (ready, _) = mobula::wait(std::slice::from_ref(&cannot)).timeout(SHORT).await?;
    assert!(ready.is_empty(), "no device of the group is free");
    group.remove().await?;
    assert!(mobula::get(cannot).await.is_err());
    let free = visible::options().num_cpus(0.0).num_gpus(2.0).remote();
    assert_eq!(*mobula::get(free).await?, "1,2", "what the group had is free");
    session.stop().await;
    nodes.stop().await;
    Ok(())
}
