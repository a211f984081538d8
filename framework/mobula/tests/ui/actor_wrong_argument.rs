//! A wrong argument does not compile where the call is made.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn add(&mut self, n: usize) -> usize {
        n
    }
}

async fn call(counter: ActorRef<Counter>, text: ObjectRef<String>) {
    counter.add("one").await.ok();
    counter.add(text).await.ok();
    counter.ad(1).await.ok();
}

fn main() {}
