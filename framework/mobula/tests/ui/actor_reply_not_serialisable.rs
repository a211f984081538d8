//! So can a reply.
use mobula::prelude::*;

struct Opaque;


struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn give(&mut self) -> Opaque {
        Opaque
    }
}

fn main() {}
