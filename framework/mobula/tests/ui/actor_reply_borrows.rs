//! A reply outlives what it was made of, and has one type.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn name(&self) -> &str {
        "name"
    }

    fn rows(&self) -> Vec<&[u8]> {
        Vec::new()
    }

    fn numbers(&self) -> impl Iterator<Item = u8> {
        std::iter::empty()
    }

    fn maybe(&self) -> Option<impl Clone> {
        Some(1)
    }
}

fn main() {}
