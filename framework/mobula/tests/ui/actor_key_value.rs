//! A key has a value of its kind.
use mobula::prelude::*;

struct Always;

#[actor(restart = "always")]
impl Always {
    fn new() -> Self {
        Always
    }
}

struct Nobody;

#[actor(concurrency = 0)]
impl Nobody {
    fn new() -> Self {
        Nobody
    }
}

struct Negative;

#[actor(max_restarts = -1)]
impl Negative {
    fn new() -> Self {
        Negative
    }
}

fn main() {}
