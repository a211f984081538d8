//! A message outlives its sender.
use mobula::prelude::*;

use std::path::Path;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    fn name(&mut self, name: &str) {}

    fn load(&mut self, bytes: &[u8]) {}

    fn all(&mut self, names: Vec<&'static str>) {}

    fn path(&mut self, path: Option<&Path>) {}
}

fn main() {}
