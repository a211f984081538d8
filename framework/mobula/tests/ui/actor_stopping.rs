//! The hook is told why, and answers nobody.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    async fn stopping(&mut self, reason: ExitReason) -> usize {
        1
    }
}

fn main() {}
