//! The state stays with the actor.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn finish(self) -> usize {
        1
    }

    fn boxed(self: Box<Self>) {}
}

fn main() {}
