//! The keys of a method.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    #[handler(cancel = abort)]
    async fn wait(&mut self) {}

    #[handler(cancel = drop)]
    fn now(&mut self) {}

    #[handler(skipped)]
    fn helper(&mut self) {}
}

fn main() {}
