//! A remote function has no state.
use mobula::prelude::*;

#[remote]
fn add(&self, n: usize) -> usize {
    n
}

fn main() {}
