//! The constructor gives the state.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Option<Self> {
        Some(Counter)
    }
}

struct Other;

#[actor]
impl Other {
    fn new(&self) {}
}

fn main() {}
