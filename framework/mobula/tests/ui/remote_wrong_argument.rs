//! A wrong argument does not compile where the call is made.
use mobula::prelude::*;

#[remote]
fn double(n: usize) -> usize {
    2 * n
}

async fn call(text: ObjectRef<String>) {
    double::remote("one").await.ok();
    double::remote(text).await.ok();
    double::options().cpus(1.0).remote(1).await.ok();
}

fn main() {}
