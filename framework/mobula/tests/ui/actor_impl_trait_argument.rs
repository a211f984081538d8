//! A message has one type, written or not.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn add(&mut self, n: impl Into<usize>) {}
}

fn main() {}
