//! What #[handler] stands on.
use mobula::prelude::*;

#[handler]
fn add() {}

struct Counter;

#[handler]
impl Counter {}

#[handler]
impl Default for Counter {
    fn default() -> Self {
        Counter
    }
}

fn main() {}
