//! A gang: ranks that are worth nothing one without the other, each beside what reads its data, get their CPUs together.
//!
//! Look at `create`: it is ready when both bundles are there, and until then holds neither. Then look at the other tasks:
//! they want every CPU there is, and the ranks do not wait for them, since what a bundle has is for what runs in it.
//!
//! Run with `cargo run --example placement_group`.

use mobula::BundleStrategy;
use mobula::prelude::*;

/// One part of the work: it needs the others after every step.
struct Rank {
    rank: usize,
    seen: u64,
}

#[actor(num_cpus = 0.25)]
impl Rank {
    fn new(rank: usize) -> Self {
        Rank { rank, seen: 0 }
    }

    fn step(&mut self, data: Vec<u64>) -> u64 {
        self.seen += data.iter().sum::<u64>();
        println!("rank {} has seen {}", self.rank, self.seen);
        self.seen
    }
}

/// Reads the data of one step, beside the rank that wants it.
#[remote(num_cpus = 0.25)]
fn read(rank: usize, step: usize) -> Vec<u64> {
    (0..1000).map(|n| (rank + step + n) as u64).collect()
}

/// What others do meanwhile.
#[remote]
fn other(n: u64) -> u64 {
    (0..1_000_000).fold(n, |sum, n| sum.wrapping_mul(31).wrapping_add(n))
}

const RANKS: usize = 2;
const STEPS: usize = 5;

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    // On two nodes if there are two, so that one that dies takes one rank along.
    let mut group = mobula::placement_group().strategy(BundleStrategy::Spread);
    for _ in 0..RANKS {
        group = group.bundle(|bundle| bundle.num_cpus(0.5));
    }
    let group = group.create().timeout(secs(30)).await?;
    println!("{} is on {:?}", group.id(), group.nodes());
    let mut ranks = Vec::new();
    for rank in 0..RANKS {
        ranks.push(Rank::spawn(rank).in_bundle(&group, rank as u32).await?);
    }
    let others: Vec<ObjectRef<u64>> = (0..200).map(other::remote).collect();

    let mut seen = 0;
    for step in 0..STEPS {
        let steps = ranks.iter().enumerate().map(|(rank, actor)| {
            let data = read::options().in_bundle(&group, rank as u32).remote(rank, step);
            actor.step(data).submit()
        });
        seen = mobula::get(steps.collect::<Vec<ObjectRef<u64>>>()).await?.iter().map(|seen| **seen).sum();
    }
    let (_, waiting) = mobula::wait(&others).timeout(millis(0)).await?;
    println!("all ranks have seen {seen}, and {} of the other tasks wait", waiting.len());
    let expected = (0..RANKS * STEPS).map(|at| (0..1000).map(|n| (at % RANKS + at / RANKS + n) as u64).sum::<u64>());
    assert_eq!(seen, expected.sum::<u64>());

    // What the group has is free again, and the ranks are no more: on other nodes that is heard a moment later.
    group.remove().await?;
    let gone = loop {
        if let Err(gone) = ranks[0].step(vec![]).await {
            break gone;
        }
    };
    println!("rank 0: {gone}");
    mobula::get(others).await?;
    Ok(())
}
