//! The attribute stands on the block of methods.
use mobula::prelude::*;

#[actor]
struct Counter;

#[actor]
impl Default for Counter {
    fn default() -> Self {
        Counter
    }
}

#[actor]
impl Handler<Add> for Counter {}

#[actor]
fn add() {}

fn main() {}
