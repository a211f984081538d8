//! A message is called by Mobula, at run time, with safe values.
use mobula::prelude::*;

struct Counter;

#[actor]
impl Counter {
    fn new() -> Self {
        Counter
    }

    unsafe fn poke(&mut self) {}

    extern "C" fn call(&mut self) {}

    const fn fixed(&self) {}
}

fn main() {}
