//! A tree of additions: leaves make arrays, each further task adds two, until one is left.
//!
//! Look at `add::remote(left, right)`: references to results that do not exist yet are its arguments, so the whole tree is
//! submitted at once and each task begins when its two are there. Nothing here says what is to happen when a node is lost
//! meanwhile: what ran there runs again elsewhere (`max_retries`), and the sum is the same.
//!
//! Run with `cargo run --release --example tree_reduce`.

use mobula::View;
use mobula::prelude::*;

const LEAVES: u64 = 16;
const LENGTH: usize = 1 << 17;

/// An array in which each number is the leaf's own.
#[remote(max_retries = 10)]
fn leaf(number: u64) -> Vec<u64> {
    vec![number; LENGTH]
}

#[remote(max_retries = 10)]
fn add(left: View<Vec<u64>>, right: View<Vec<u64>>) -> Vec<u64> {
    left.iter().zip(right.iter()).map(|(left, right)| left + right).collect()
}

#[mobula::main]
async fn main() -> Result<()> {
    let _session = mobula::init().await?;
    let mut level: Vec<ObjectRef<Vec<u64>>> = (0..LEAVES).map(leaf::remote).collect();
    let mut height = 0;
    while level.len() > 1 {
        level = level.chunks(2).map(|pair| add::remote(&pair[0], &pair[1])).collect();
        height += 1;
    }
    let sum = mobula::get_view(&level[0]).await?;
    println!("{LEAVES} arrays of {LENGTH} numbers, a tree {height} high: each sum is {}", sum[0]);
    assert!(sum.iter().all(|number| *number == LEAVES * (LEAVES - 1) / 2));
    Ok(())
}
