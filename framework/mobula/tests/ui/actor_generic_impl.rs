//! An actor has one type.
use mobula::prelude::*;

struct Cache<K>(Vec<K>);

#[actor]
impl<K> Cache<K> {
    fn new() -> Self {
        Cache(Vec::new())
    }
}

fn main() {}
