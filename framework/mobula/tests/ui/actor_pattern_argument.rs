//! An argument that travels has a name.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn point(&mut self, (x, y): (i32, i32)) {}

    fn first(&mut self, [first, ..]: [u8; 4]) {}
}

fn main() {}
