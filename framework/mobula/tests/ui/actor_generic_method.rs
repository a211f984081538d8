//! A message has one type.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn add<T: Into<usize>>(&mut self, n: T) {}

    fn fill<const N: usize>(&mut self) {}
}

fn main() {}
