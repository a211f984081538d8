//! A message outlives its sender, in whatever way it borrows.
use mobula::prelude::*;

use std::borrow::Cow;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn name<'a>(&mut self, name: Cow<'a, str>) {}

    fn keep(&'static mut self) {}

    fn elided(&mut self, name: Cow<'_, str>) {}
}

fn main() {}
