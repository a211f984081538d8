//! What travels can be written by serde; one that cannot is named at its type.
use mobula::prelude::*;

struct Opaque;


struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn take(&mut self, opaque: Opaque) {}
}

fn main() {}
