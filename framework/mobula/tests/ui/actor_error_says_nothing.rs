//! An error travels as it is, or as text; one that can do neither reaches nobody.
use mobula::prelude::*;

struct Opaque;


struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn fail(&mut self) -> std::result::Result<usize, Opaque> {
        Err(Opaque)
    }
}

fn main() {}
