//! Every key is known, and said once.
use mobula::prelude::*;

struct Counter;

#[actor(max_restart = 3)]
impl Counter {
    fn new() -> Self {
        Counter
    }
}

struct Twice;

#[actor(max_restarts = 3, max_restarts = 4)]
impl Twice {
    fn new() -> Self {
        Twice
    }
}

fn main() {}
