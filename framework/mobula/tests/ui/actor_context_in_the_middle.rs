//! The context is first or last.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn add(&mut self, n: usize, ctx: &Context<Self>, m: usize) {}
}

fn main() {}
