//! Every start calls the constructor.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn add(&mut self, n: usize) {}
}

fn main() {}
