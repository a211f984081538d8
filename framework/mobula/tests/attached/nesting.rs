//! Functions that call functions: they go wherever there is room, and one that waits keeps nobody from a place.

use std::collections::BTreeSet;
use std::time::Duration;

use mobula::prelude::*;

use super::Test;

pub(crate) const TESTS: &[Test] = &[
    ("nested calls deeper than there are CPUs end", || Box::pin(deeper_than_cpus())),
    ("nested calls fan out", || Box::pin(fan_out())),
    ("nested calls spread over nodes", || Box::pin(nested_calls_spread())),
    ("nested calls keep references", || Box::pin(references_travel())),
    ("nested calls are counted and cancelled", || Box::pin(cancelled_with_their_caller())),
];

/// Each takes a whole node while it runs, and there are two.
#[remote(num_cpus = 2)]
fn deep(levels: u32) -> Result<u32> {
    if levels == 0 {
        return Ok(0);
    }
    Ok(deep::remote(levels - 1).wait()?.into_owned() + 1)
}

/// The same with an await.
#[remote(num_cpus = 2)]
async fn deep_async(levels: u32) -> Result<u32> {
    if levels == 0 {
        return Ok(0);
    }
    Ok(deep_async::remote(levels - 1).await?.into_owned() + 1)
}

#[remote]
fn tree(levels: u32) -> Result<u64> {
    if levels == 0 {
        return Ok(1);
    }
    let branches: Vec<_> = (0..10).map(|_| tree::remote(levels - 1)).collect();
    let mut leaves = 0;
    for branch in branches {
        leaves += branch.wait()?.into_owned();
    }
    Ok(leaves)
}

/// Takes its time, and says on which node.
#[remote]
fn node_of_run() -> u64 {
    std::thread::sleep(Duration::from_millis(5));
    mobula_actor::current::system().map_or(0, |system| system.process().node().0)
}

#[remote]
fn nodes_of_runs(count: u32) -> Result<BTreeSet<u64>> {
    let runs: Vec<_> = (0..count).map(|_| node_of_run::remote()).collect();
    let mut nodes = BTreeSet::new();
    for run in runs {
        nodes.insert(run.wait()?.into_owned());
    }
    Ok(nodes)
}

#[remote]
fn sum(numbers: Vec<u64>) -> u64 {
    numbers.iter().sum()
}

/// Passes a reference on that it has made, and one that it was given inside of a value.
#[remote]
fn sum_of_sums(given: Vec<ObjectRef<u64>>) -> Result<u64> {
    let made = mobula::put(vec![1u64, 2, 3])?;
    let first = sum::remote(made);
    let mut total = 0;
    for number in given.into_iter().chain([first]) {
        total += number.wait()?.into_owned();
    }
    Ok(total)
}

/// Runs until it is cancelled, and says so.
#[remote]
async fn endless(key: String) {
    struct Ends(String);
    impl Drop for Ends {
        fn drop(&mut self) {
            let key = self.0.clone();
            tokio::spawn(async move { mobula::kv::put(&key, &true).await.ok() });
        }
    }
    let _ends = Ends(key.clone());
    mobula::kv::put(&format!("{key} runs"), &true).await.ok();
    std::future::pending::<()>().await;
}

#[remote]
async fn calls_endless(key: String) -> Result<()> {
    Ok(endless::remote(key).await.map(|_| ())?)
}

async fn deeper_than_cpus() -> Result<()> {
    assert_eq!(*mobula::get(deep::remote(50)).await?, 50);
    assert_eq!(*mobula::get(deep_async::remote(50)).await?, 50);
    Ok(())
}

async fn fan_out() -> Result<()> {
    assert_eq!(*mobula::get(tree::remote(3)).await?, 1000);
    Ok(())
}

async fn nested_calls_spread() -> Result<()> {
    // More than go to the places of one node at once, and for longer than it takes to see that another one is free.
    let nodes = mobula::get(nodes_of_runs::remote(1500)).await?;
    assert_eq!(nodes.len(), 2, "one node has two CPUs, and there are two: {nodes:?}");
    Ok(())
}

async fn references_travel() -> Result<()> {
    let given = vec![mobula::put(10u64)?, sum::remote(vec![20u64, 30])];
    assert_eq!(*mobula::get(sum_of_sums::remote(given)).await?, 66);
    Ok(())
}

async fn cancelled_with_their_caller() -> Result<()> {
    let call = calls_endless::remote("endless".to_owned());
    until("endless runs").await?;
    call.cancel();
    assert!(matches!(mobula::get(call).await, Err(CallError::Cancelled)));
    until("endless").await
}

/// Waits until a value of the job is there.
async fn until(key: &str) -> Result<()> {
    let end = tokio::time::Instant::now() + Duration::from_secs(10);
    while mobula::kv::get::<bool>(key).await?.is_none() {
        assert!(tokio::time::Instant::now() < end, "`{key}` does not come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
