//! A tree of additions over gigabytes, whose nodes are killed meanwhile.

use mobula::View;
use mobula::prelude::*;
use mobula_cluster::report::READY;

use crate::until_told;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Arrays that are added.
    #[arg(long)]
    leaves: u64,
    /// Numbers of each.
    #[arg(long)]
    words: usize,
}

#[remote(max_retries = 10)]
fn leaf(number: u64, words: usize) -> Vec<u64> {
    vec![number; words]
}

#[remote(max_retries = 10)]
fn add(left: View<Vec<u64>>, right: View<Vec<u64>>) -> Vec<u64> {
    left.iter().zip(right.iter()).map(|(left, right)| left + right).collect()
}

/// Says when the first of all are there, then of each level of the tree when half of it is, then the sum.
pub(crate) async fn sum(Args { leaves, words }: Args) -> Result<()> {
    println!("{READY}{}", std::process::id());
    let mut level: Vec<_> = (0..leaves).map(|number| leaf::options().spread_nodes().remote(number, words)).collect();
    while level.len() > 1 {
        mobula::wait(&level).count(level.len().div_ceil(2)).await?;
        println!("half of {}", level.len());
        level = level
            .chunks(2)
            .map(|pair| pair[1..].iter().fold(pair[0].clone(), |sum, it| add::remote(&sum, it)))
            .collect();
    }
    let sum = mobula::get_view(&level[0]).await?;
    let is_right = sum.len() == words && sum.iter().all(|word| *word == leaves * (leaves - 1) / 2);
    println!("the sum is {}", if is_right { "right" } else { "wrong" });
    drop((sum, level));
    until_told().await?;
    Ok(())
}
