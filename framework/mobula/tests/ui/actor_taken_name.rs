//! Names that a reference to an actor has already.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn clone(&self) {}

    fn spawn(&mut self) {}
}

fn main() {}
